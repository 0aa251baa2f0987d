"""Whole answers, whatever the door: a stream where none was asked for, and the reverse.

    a stream where one object was asked for --read_through--> Streamed, or what is wrong with it
    an Answer where a stream was asked for --relayed--> a relay after all of it, and its bytes

How a door judges its own objects is the door's.
"""

from decimal import Decimal
from typing import final

from arbstr.sansio.dialects.dialect import Asked, BadAnswer, ErrorAnswer, Reading, Stored
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.sse import Event, SSEReader
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Usage


@final
@dataclass(frozen=True, slots=True)
class Streamed:
    """A complete stream: the events that would have gone on, without what its reading keeps."""

    events: tuple[Event, ...]
    usage: Usage | None
    cost: Decimal | None
    stored: Stored | None = None


def read_through(
    reading: Reading, body: bytes, *, lacks: str
) -> Streamed | BadAnswer | ErrorAnswer:
    """What a stream that is all there says, judged as it would have been event by event.

    `lacks` names what a stream without any output is without.
    """
    relay = Relay(reading)
    events = SSEReader().feed(relay.feed(body) + relay.end_input())
    usage, cost = relay.usage, relay.provider_cost_msats
    if relay.error is not None and not relay.committed:
        return ErrorAnswer(relay.error, usage, cost, relay.tally.has_worked)
    if not relay.complete:
        return BadAnswer(f"answered with a stream {_what_is_wrong(relay, lacks)}", usage, cost)
    return Streamed(events, usage, cost, relay.stored)


def _what_is_wrong(relay: Relay, lacks: str) -> str:
    if relay.overflow:
        return "with an event that was too large"
    if relay.error is not None:
        return "that broke off with an error"
    if relay.missing:
        return "with an event that was not JSON"
    return "that ended before it was complete" if relay.committed else f"without {lacks}"


def relayed(answer_body: bytes, asked: Asked) -> tuple[Relay, bytes]:
    """The relay of a body that was judged an `Answer`, after all of it, and the stream's bytes."""
    relay = Relay(
        asked.dialect.reading(asked),
        # Our own events: one has all that the body had, and a little around it.
        max_event_bytes=2 * len(answer_body) + 64 * 1024,
    )
    return relay, relay.feed(asked.dialect.as_stream(answer_body))


def what_else(text: bytes, content_type: str) -> str:
    """Why a body without a JSON object is no answer: a sentence about the provider."""
    if text.startswith(b"<"):
        return "answered with HTML or XML, not JSON"
    if text.startswith(b"{"):
        return "answered with JSON that is cut short or broken"
    named = content_type.partition(";")[0].strip().lower()
    if named == "text/event-stream":
        return "answered with neither JSON nor a stream of events, though labelled as one"
    return "answered with something that is not a JSON object"

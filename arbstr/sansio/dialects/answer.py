"""A plain (not streamed) answer: judged, put together from a stream, or turned into one.

    judge(body)     -> Answer        JSON object with a non-empty array `choices`, each with a
                                     message; or a stream in spite of `stream: false`, put together
                       ErrorAnswer   an error in a 2xx (facts.py): nothing was answered
                       BadAnswer     anything else, with a sentence of our own that says what
    as_stream(body) -> bytes         an answer as the stream the client asked for

Bytes decide, the content type is only named in sentences. The rule is strict because a 200 with
a broken body is worse than an error: the OpenAI SDKs make objects with `choices=None` of it.

An answer that says something is an answer, whatever stands beside it: it was paid for. So is one
with `content: ""`, if no error stands beside it.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias, final

from arbstr.sansio.dialects.assembly import assembled
from arbstr.sansio.dialects.facts import read_event, read_object
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.sse import SSEReader
from arbstr.sansio.dialects.usage import parse_finite, parse_json
from arbstr.sansio.money import Usage

_BOM: Final = b"\xef\xbb\xbf"
_SSE_LINE: Final = re.compile(rb"(?:data|event|id|retry|error)?:")
"""How a stream begins: a field, or a comment."""
_STREAM: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*" + _SSE_LINE.pattern)
_EVENT_AFTER_WORDS: Final = re.compile(rb"[^{\[<].*?[\r\n]data:", re.DOTALL)
""""Connecting...", and then the stream."""
_DONE_AFTER_JSON: Final = re.compile(rb"\s+data: ?\[DONE\]\s*\Z")
"""Some gateways end every answer with it, JSON too."""

_Plain: TypeAlias = "dict[str, object]"


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is what the client gets: the object that was judged if nothing had to change."""

    body: bytes
    usage: Usage | None
    provider_cost_msats: Decimal | None


@final
@dataclass(frozen=True, slots=True)
class BadAnswer:
    """No answer, but probably paid for. `sentence` begins in lower case and has no full stop."""

    sentence: str
    usage: Usage | None = None
    provider_cost_msats: Decimal | None = None


@final
@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """`data` is the JSON of a provider's error, for `classify.from_error_body`.

    `counted`: tokens were counted beside it, so it may have been charged.
    """

    data: bytes
    usage: Usage | None = None
    provider_cost_msats: Decimal | None = None
    counted: bool = False


def judge(body: bytes, *, content_type: str, choices: int) -> Answer | BadAnswer | ErrorAnswer:
    """What the whole body of a 2xx answer is. `choices` is the request's `n`.

    `content_type` is the header's value, "" if there is none; it decides nothing.
    """
    text = body.removeprefix(_BOM).strip()
    if not text:
        return BadAnswer("answered with nothing at all")
    if _SSE_LINE.match(text) or _EVENT_AFTER_WORDS.match(text):
        return _put_together(body, choices)
    value = parse_json(text)
    if value is None and (tail := _DONE_AFTER_JSON.search(text)) is not None:
        body = text = text[: tail.start()]
        value = parse_json(body)
    if isinstance(value, list) and (listed_facts := read_event(text, output_seen=False)).error:
        return ErrorAnswer(text, *listed_facts.price)
    if not isinstance(value, dict):
        return BadAnswer(_what_else(text, content_type))
    facts = read_object(value)
    usage, cost, counted = facts.price
    if (facts.error or facts.prose) and not facts.said:
        return ErrorAnswer(text, usage, cost, counted)
    if facts.error:
        return BadAnswer("answered with a part, which ended with an error", usage, cost)
    listed = value.get("choices")
    if not isinstance(listed, list) or not listed:
        return BadAnswer("answered with JSON that has no choices", usage, cost)
    if not all(isinstance(one, dict) and _is_choice(one) for one in listed):
        return BadAnswer("answered with a choice that has no message", usage, cost)
    return Answer(body, usage, cost)


def begins_as_stream(body: bytes | bytearray) -> bool:
    """Whether `judge` would put this body together from events; its first bytes tell."""
    return _STREAM.match(body) is not None


def _is_choice(choice: _Plain) -> bool:
    """Whether there is anything that a client can take for an answer; empty it may be."""
    return isinstance(choice.get("message"), dict) or isinstance(choice.get("text"), str)


def as_stream(answer_body: bytes) -> bytes:
    """A body that was judged an `Answer`, as events for a fresh `Relay`.

    One chunk with everything, one with the usage if there is any, and `[DONE]`, because the whole
    answer is there even if a finish reason is not (the relay writes its own to the client).
    An `error` beside an answer that says something is left out: clients of streams stop at it.
    b"" for a body that is no JSON object.
    """
    value = parse_finite(answer_body.removeprefix(_BOM))
    if not isinstance(value, dict):
        return b""
    listed = value.get("choices")
    counted = isinstance(value.get("usage"), dict)
    usage_chunk = {**value, "object": "chat.completion.chunk", "choices": []}
    usage_chunk.pop("error", None)
    apart = ("usage", "cost", "error") if counted else ("usage", "error")
    chunk = {
        **{member: given for member, given in value.items() if member not in apart},
        "object": "chat.completion.chunk",
        "choices": [_as_delta(one) for one in listed if isinstance(one, dict)]
        if isinstance(listed, list)
        else [],
    }
    events = [chunk, usage_chunk] if counted else [chunk]
    try:
        texts = [json.dumps(event, separators=(",", ":")) for event in events]
    except RecursionError:
        return b""
    return b"".join(b"data: " + text.encode() + b"\n\n" for text in [*texts, "[DONE]"])


def relayed(answer_body: bytes, *, choices: int, asks_usage: bool) -> tuple[Relay, bytes]:
    """The relay of a body that was judged an `Answer`, after all of it, and the stream's bytes."""
    relay = Relay(
        choices=choices,
        asks_usage=asks_usage,
        # Our own events: one has all that the body had, and a little around it.
        max_event_bytes=2 * len(answer_body) + 64 * 1024,
    )
    return relay, relay.feed(as_stream(answer_body))


def _what_else(text: bytes, content_type: str) -> str:
    if text.startswith(b"<"):
        return "answered with HTML or XML, not JSON"
    if text.startswith(b"{"):
        return "answered with JSON that is cut short or broken"
    named = content_type.partition(";")[0].strip().lower()
    if named == "text/event-stream":
        return "answered with neither JSON nor a stream of events, though labelled as one"
    return "answered with something that is not a JSON object"


def _as_delta(choice: _Plain) -> _Plain:
    message = choice.get("message")
    delta: _Plain = {"role": "assistant"}
    if isinstance(message, dict):
        delta |= {member: given for member, given in message.items() if given is not None}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": position, **call} if isinstance(call, dict) else call
            for position, call in enumerate(calls)
        ]
    rest = {member: given for member, given in choice.items() if member != "message"}
    return {"index": 0, "delta": delta, "finish_reason": None, **rest}


def _put_together(body: bytes, choices: int) -> Answer | BadAnswer | ErrorAnswer:
    """The one object that a whole stream says, judged as the stream would have been."""
    relay = Relay(choices=choices, asks_usage=False)
    events = SSEReader().feed(relay.feed(body) + relay.end_input())
    usage, cost = relay.usage, relay.provider_cost_msats
    if relay.error is not None and not relay.committed:
        return ErrorAnswer(relay.error, usage, cost, relay.tally.counted)
    if not relay.complete:
        return BadAnswer(f"answered with a stream {_what_is_wrong(relay)}", usage, cost)
    whole = assembled((event.data for event in events if event.data), relay.usage_chunk)
    if whole is None:
        return BadAnswer("answered with a stream without choices", usage, cost)
    return Answer(whole, usage, cost)


def _what_is_wrong(relay: Relay) -> str:
    if relay.overflow:
        return "with an event that was too large"
    if relay.error is not None:
        return "that broke off with an error"
    if relay.missing:
        return "with an event that was not JSON"
    return "that ended before it was complete" if relay.committed else "without choices"

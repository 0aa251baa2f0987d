"""An upstream's stream of events -> the client's bytes. One relay per attempt, for any door.

What an event is, its door's `Reading` says in `Facts`; what becomes of it is decided here, by the
state the answer is in. Which states there are and how one follows another says `relay_states.py`.

What happens to an event:

    comment, id:, retry:, no data            dropped (an event with data only loses these lines)
    a ping, an empty object                  dropped
    data that is no JSON                     dropped, and the answer misses a part (`missing`): it
                                             cannot become complete. Before output, text for
                                             people is the error if no answer follows
    what the door's clients cannot read,     dropped: SDKs die on it; its usage is read all the
    an unknown field, lines without a field  same. Then a last event that does not prove itself
                                             proves nothing any more
    error                                    never forwarded; ends the attempt unless complete, and
                                             what follows is read for its usage and price alone
    what belongs to the end, the last event  kept back by the reading; `finish` writes them
    every other event                        forwarded

Drive it: `feed` what arrives and send what it returns; look at `error`, `overflow`, `not_sse` and
`done` after each; `end_input` at the upstream's end, `broke` if it was none; then `finish` if
`complete`, else `interrupt`. Those two raise LocalProtocolError in the wrong case; nothing else
raises.
"""

from typing import TYPE_CHECKING, Final, final

from arbstr.sansio.dialects.dialect import Facts, Reading
from arbstr.sansio.dialects.relay_states import FINISHED, TRANSITIONS, Happened, State
from arbstr.sansio.dialects.sse import MAX_EVENT_BYTES, Event, SSEReader, cleaned
from arbstr.sansio.dialects.usage import LIGHT_BYTES, Tally, is_heavy
from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.money import Usage
from arbstr.sansio.secrets import refund_tokens, without_refund_tokens

if TYPE_CHECKING:
    from decimal import Decimal

    from arbstr.sansio.dialects.dialect import Stored

MAX_HELD_BYTES: Final = MAX_EVENT_BYTES
"""Bytes kept before output: normally one chunk with the role. Picked, not measured."""
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""Bytes of an answer that is no stream: the default of `max_answer_mb`."""


@final
class Relay:
    """One attempt's stream, read by a fresh `reading`.

    Read-only for the driver:
    `state`: see `relay_states.py`. `finished`: the answer has come to its end.
    `committed`: output began, bytes have gone out.
    `complete`: it is finished, and nothing is missing.
    `done`: nothing is left to wait for: the last event came (or, after a complete answer, an event
    that is too large to be read).
    `events`: what was a sign of life so far: events that clients can read, errors and the last one.
    Timers count these, because comments and pings are none. `after_finish`: those that said
    something after the answer had finished.
    `error`: data of the upstream's error event. While not `committed`, fail over from it.
    `missing`: a part of the answer is lost, so it cannot become complete.
    `overflow`: an event, or what was held before output, or the body that is no stream passed its
    limit.
    `not_sse`: the first byte is one of JSON or HTML; `held` is the body so far.
    `tally`: the tokens counted so far. `provider_cost_msats`: the last that could be believed.
    `stored`: what the provider keeps of a complete answer. `refunds`: ecash that stood in the
    stream, and goes to nobody.
    """

    __slots__ = (
        "_doubt",
        "_fielded",
        "_held",
        "_max_body",
        "_prose",
        "_quick",
        "_reading",
        "_sse",
        "after_finish",
        "committed",
        "done",
        "error",
        "events",
        "finished",
        "missing",
        "overflow",
        "provider_cost_msats",
        "refunds",
        "state",
        "stored",
        "tally",
    )

    def __init__(
        self,
        reading: Reading,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self.state = State.HOLDING
        self.committed = False
        self.finished = False
        self.done = False
        self.error: bytes | None = None
        self.overflow = False
        self.missing = False
        self.events = 0
        self.after_finish = 0
        self.tally = Tally()
        self.provider_cost_msats: Decimal | None = None
        self.stored: Stored | None = None
        self.refunds: tuple[str, ...] = ()
        self._reading = reading
        self._sse = SSEReader(max_event_bytes)
        self._max_body = max_body_bytes
        self._held = bytearray()
        # FLOWING, and nothing counted yet: from there on it matters whether output follows.
        self._quick = False
        self._doubt = False
        self._fielded = False
        self._prose: bytes | None = None

    @property
    def complete(self) -> bool:
        """The answer is whole; only output after it can change that."""
        return self.finished and not self.missing

    @property
    def ending(self) -> bool:
        """Only the last word can follow. Some servers say `stop` when only the thinking is over."""
        return self.finished and (self._reading.spoke or not self.tally.said)

    @property
    def usage(self) -> Usage | None:
        """What the answer took by now; None if that is not known."""
        return self.tally.usage

    @property
    def not_sse(self) -> bool:
        """The answer is JSON or HTML: read it whole, then judge it."""
        return self._sse.not_sse

    @property
    def held(self) -> bytes:
        """What was kept back: the whole body so far if `not_sse`, else events without output."""
        return bytes(self._held)

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes; the same object if nothing had to change.

        b"" until output begins, after an error, and after the end.
        """
        if self.overflow:
            return b""
        block = self._sse.cut(data)
        if not block and not self._sse.overflow:
            return b""
        if b"refund_token" in block:
            block = self._without_refunds(block)
        if self._quick and len(block) <= MAX_EVENT_BYTES:
            count = self._reading.passes_whole(block)
            if count:
                self.events += count
                if not self.tally.said:
                    self.tally.note_output()
                if self._sse.overflow:
                    self._overflowed()
                return block
        if self._sse.not_sse:
            return self._keep_body(block)
        return self._relayed(self._sse.events(block), block)

    def is_heavy(self, data: bytes) -> bool:
        """Whether to be fed with this, or with b"" for the end, takes long (`usage.is_heavy`)."""
        return self._sse.held > LIGHT_BYTES and is_heavy(self._sse.may_complete(data))

    def become(self, other: "Relay") -> None:
        """Takes over all that another has come to: the same stream, further on."""
        for name in Relay.__slots__:
            setattr(self, name, getattr(other, name))

    def end_input(self) -> bytes:
        """The upstream's body has ended: a last event without its blank line, if it parses."""
        if self.overflow or self.not_sse:
            return b""
        rest = self._without_refunds(self._sse.rest())
        out = self._relayed(self._sse.events(rest), b"", last=True)
        self._take_prose()
        return out

    def broke(self) -> None:
        """The upstream's body did not end, it broke off. What had gone on is not whole."""
        self._take_prose()
        self._go(Happened.BROKE)

    def finish(self, arbstr: bytes) -> bytes:
        """The end of a complete answer, in one write.

        `arbstr` is the text of a JSON object, in one line, that stands in it.
        """
        if self.state is State.CLOSED or not self.complete:
            raise LocalProtocolError("finish() needs a complete answer that was not ended yet")
        self._go(Happened.FINISH)
        return self._reading.finish(arbstr)

    def rest(self) -> bytes:
        """What a complete answer has beyond what `feed` returned: fed to the relay of another
        client behind that, it makes the same answer there."""
        if not self.complete:
            raise LocalProtocolError("rest() needs a complete answer")
        return self._reading.rest()

    def interrupt(self, error: ErrorReply, request_id: str | None = None) -> bytes:
        """The end of an answer that is not complete: its error, and nothing after it.

        What was held back and an event that came in part are dropped. b"" if the answer was ended
        already. What is fed afterwards is only read for its usage and price.
        """
        if self.state in (State.CLOSED, State.CUT):
            return b""
        if self.complete:
            raise LocalProtocolError("a complete answer is not interrupted, it is finished")
        self._go(Happened.INTERRUPT)
        return self._reading.interrupt(error, request_id)

    def _go(self, happened: Happened) -> None:
        state = TRANSITIONS[self.state].get(happened, self.state)
        if state is self.state:
            return
        self.state = state
        self.finished = state in FINISHED
        self._quick = state is State.FLOWING and not self.tally.counted
        if state in (State.CLOSED, State.CUT):
            self._held.clear()

    def _without_refunds(self, block: bytes) -> bytes:
        """Takes the ecash out of whole events. A body that is no stream comes in pieces."""
        if self._sse.not_sse:
            return block
        self.refunds += tuple(refund_tokens(block))
        return without_refund_tokens(block)

    def _relayed(self, events: tuple[Event, ...], block: bytes, *, last: bool = False) -> bytes:
        if self.state is State.CLOSED or self.state is State.CUT:
            note = self._note_what_is_missing if self.finished else self._note
            for event in events:
                if event.stray:
                    note(self._reading.read_stray(event.stray))
                if event.data:
                    note(self._reading.read(event, output_seen=False))
            return b""
        pieces = [piece for event in events if (piece := self._passed(event, last=last))]
        if self._sse.overflow:
            self._overflowed()
        out = b"".join(pieces)
        # By identity: whoever counts copies, and the test with `is`, can rely on it.
        return block if out == block else out

    def _passed(self, event: Event, *, last: bool) -> bytes:
        """What goes out for this event, which may be what was held before it, too."""
        if self.overflow:
            return b""
        self._fielded = self._fielded or event.data is not None or not event.stray
        if event.stray and not self.done:
            facts = self._reading.read_stray(event.stray)
            self._note(facts)
            self._heed(facts, b"", last=last)
        if not event.data and event.name is None:
            return b""
        # Only parsing tells whether an event without its blank line is whole.
        facts = self._reading.read(event, output_seen=self._quick and not last)
        if self.done:
            self._note_what_is_missing(facts)
            return b""
        self._note(facts)
        if facts.last:
            return self._saw_last(facts)
        if not facts.error:
            if facts.kept:
                self.events += 1
                return b""
            if facts.passes:
                self.events += 1
                self._doubt = self._doubt or facts.doubt
                return b"" if self.state is State.SILENT else self._forwarded(event, facts)
        failed_before = self.state is State.SILENT or self.finished
        self._heed(facts, event.data or b"", last=last)
        # What fails now may have something to say first.
        output = facts.said and facts.output and not failed_before
        return self._forwarded(event, facts) if output else b""

    def _heed(self, facts: Facts, data: bytes, *, last: bool) -> None:
        """Takes what an error says, or something that no client can read."""
        settled = self.complete and self.state is not State.REOPENED
        if facts.error:
            self.events += 1
            if not settled and self.error is None:
                self.error = data if facts.told is None else facts.told
                self._go(Happened.ERROR)
            return
        # The end of the input may have cut the last one: then nothing was dropped. What is no JSON
        # after a reason to finish may have been more of the answer, which some servers send then.
        self.missing = self.missing or (facts.garbled and not last)
        if not settled:
            if facts.prose and self._prose is None:
                self._prose = data if facts.told is None else facts.told
            self._doubt = self._doubt or (facts.doubt and not last)

    def _forwarded(self, event: Event, facts: Facts) -> bytes:
        """What goes out for an event that clients can read."""
        if facts.said and self.finished:
            self.after_finish += 1
            self._go(Happened.MORE)
        if facts.whole and self.state is not State.SILENT:
            self._go(Happened.END)
        raw = cleaned(event)
        if self.committed:
            return raw
        self._held += raw
        if facts.output:
            return self._commit()
        if len(self._held) > MAX_HELD_BYTES:
            self._overflowed()
        return b""

    def _note(self, facts: Facts) -> None:
        if facts.said:
            self.tally.note_output()
        if facts.counts is not None:
            self.tally.note(facts.counts)
            self._quick = False
        if facts.provider_cost_msats is not None:
            self.provider_cost_msats = facts.provider_cost_msats

    def _note_what_is_missing(self, facts: Facts) -> None:
        if facts.counts is not None and self.usage is None:
            self.tally.note(facts.counts)
        if self.provider_cost_msats is None:
            self.provider_cost_msats = facts.provider_cost_msats

    def _saw_last(self, facts: Facts) -> bytes:
        self._take_prose()
        if not self._reading.began and self.error is None:
            return b""
        self.events += 1
        self.done = True
        self.stored = facts.stored
        # Where something was dropped, only proof says that it was no part of the answer.
        whole = facts.whole or not self._doubt
        self._go(Happened.LAST if whole else Happened.LAST_TOO_SOON)
        return b"" if self.committed or not self.complete else self._commit()

    def _take_prose(self) -> None:
        """No answer follows the text for people: then it was the error."""
        # A body of words alone is no stream, and a bad answer as it is to those who want none.
        if self._prose is not None and self._fielded and not self.committed and self.error is None:
            self.error = self._prose
            self._go(Happened.ERROR)

    def _commit(self) -> bytes:
        self.committed = True
        self._go(Happened.OUTPUT)
        out = bytes(self._held)
        self._held.clear()
        return out

    def _keep_body(self, block: bytes) -> bytes:
        self._held += block
        if len(self._held) > self._max_body:
            self._overflowed()
        return b""

    def _overflowed(self) -> None:
        self._held.clear()
        if self.complete:
            # A whole answer stays whole; what follows it can no longer be read.
            self.done = True
            self._go(Happened.LAST)
        else:
            self.overflow = True
            self._go(Happened.OVERFLOW)


def fed(relay: Relay, data: bytes) -> tuple[Relay, bytes]:
    """A relay after these bytes, or after the end that b"" is, and what the client gets for them:
    for a copy that does it elsewhere."""
    out = relay.feed(data) if data else relay.end_input()
    return relay, out

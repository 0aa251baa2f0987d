r"""An upstream's stream of chat chunks -> the client's bytes. One relay per attempt.

    HOLDING --output, or [DONE] after a choice--> FLOWING --finish()----> closed
       |                                             |
       +--error, overflow: failed <------------------+--interrupt(error)-> closed

HOLDING: nothing goes out, so another provider can still answer (`committed` is False); what came
is kept and goes out, in order, with the first output. FLOWING: events go out whole and unchanged,
by identity if the piece that was fed needs no change. `complete` says that the answer is whole;
from then on nothing the upstream does can change that. `failed` is no state of its own but the
attributes `error` and `overflow`: nothing more goes out until `interrupt`.

What happens to an event:

    comment, id:, retry:, no data            dropped (an event with data only loses these lines)
    a ping, an empty object                  dropped
    data that is no JSON                     dropped, and the answer misses a part (`missing`): it
                                             cannot become complete. Before output, text for
                                             people is the error if no answer follows
    data that is no chunk, an unknown field, dropped: SDKs die on it; its usage is read all the
    lines without a field                    same. Then `[DONE]` alone proves nothing any more
    error (see facts.py, or `event: error`)  never forwarded; ends the attempt unless complete, and
                                             what follows is read for its usage and price alone
    usage and no choice                      the usage chunk: kept back, `finish` sends it, if
                                             the client asked for it
    [DONE]                                   never forwarded; `finish` writes the only one
    every other chunk                        forwarded, also `choices: []` without usage (Azure's
                                             first one) and usage in a chunk with choices
    anything after [DONE]                    dropped; a usage or price that is missing is taken
    anything after the close                 dropped; its usage and price are read all the same

Complete is: `[DONE]` after at least one choice, or a finish reason for every index below the
request's `n`; and no error or missing part before. Usage is no evidence: Routstr nodes send it
after a cut, too. Output after that shows that it was not the end: it still is one if nothing more
comes, but not if the connection then breaks (`broke`) or an error follows.

Drive it: `feed` what arrives and send what it returns; look at `error`, `overflow`, `not_sse` and
`done` after each; `end_input` at the upstream's end, `broke` if it was none; then `finish` if
`complete`, else `interrupt`. Those two raise LocalProtocolError in the wrong case; nothing else
raises.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from arbstr.sansio.dialects.ending import Head, error_event, last_events
from arbstr.sansio.dialects.facts import AN_ERROR, Facts, is_ping, read_event, read_stray
from arbstr.sansio.dialects.glance import passes_whole, speaks
from arbstr.sansio.dialects.sse import MAX_EVENT_BYTES, Event, SSEReader, cleaned
from arbstr.sansio.dialects.usage import LIGHT_BYTES, Tally, is_heavy
from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.money import Usage

if TYPE_CHECKING:
    from decimal import Decimal


MAX_HELD_BYTES: Final = MAX_EVENT_BYTES
"""Bytes kept before output: normally one chunk with the role. Picked, not measured."""
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""Bytes of an answer that is no stream: the default of `max_answer_mb`."""


@final
class Relay:
    """One attempt's stream, for a client that asked for `choices` answers (`n`).

    `asks_usage`: the client itself set `stream_options.include_usage`.

    Read-only for the driver:
    `committed`: output began, bytes have gone out. `finished`: the answer has come to an end.
    `complete`: it is finished, and nothing is missing.
    `done`: nothing is left to wait for: `[DONE]` came after a choice or an error (or, after a
    complete answer, an event that is too large to be read).
    `events`: chunks, errors and `[DONE]` so far. Timers count these, because comments and pings
    are no sign of life. `after_finish`: those that said something after the answer had finished.
    `error`: data of the upstream's error event. While not `committed`, fail over from it.
    `missing`: a part of the answer is lost: an event was no JSON, so it cannot become complete.
    `overflow`: an event, or what was held before output, or the body that is no stream passed its
    limit.
    `not_sse`: the first byte is one of JSON or HTML; `held` is the body so far.
    `tally`: the tokens counted so far. `provider_cost_msats`: the last that could be believed.
    `usage_chunk`: the data of the usage chunk that was kept back.
    """

    __slots__ = (
        "_asks_usage",
        "_choice_seen",
        "_choices",
        "_doubt",
        "_fielded",
        "_finished",
        "_flowing",
        "_head",
        "_held",
        "_max_body",
        "_prose",
        "_reader",
        "_reopened",
        "_silent",
        "_spoke",
        "_usage_chunk_counts",
        "after_finish",
        "committed",
        "done",
        "error",
        "events",
        "finished",
        "missing",
        "overflow",
        "provider_cost_msats",
        "tally",
        "usage_chunk",
    )

    def __init__(
        self,
        *,
        choices: int,
        asks_usage: bool,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
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
        self.usage_chunk: bytes | None = None
        self._choices = max(1, choices)
        self._asks_usage = asks_usage
        self._max_body = max_body_bytes
        self._reader = SSEReader(max_event_bytes)
        self._held = bytearray()
        self._flowing = False
        self._silent = False
        self._spoke = False
        self._choice_seen = False
        self._doubt = False
        self._fielded = False
        self._prose: bytes | None = None
        self._reopened = False
        self._finished: set[int] = set()
        self._usage_chunk_counts = False
        self._head = Head()

    @property
    def complete(self) -> bool:
        """The answer is whole; only output after it can change that."""
        return self.finished and not self.missing

    @property
    def ending(self) -> bool:
        """Only the last word can follow. Some servers say `stop` when only the thinking is over."""
        return self.finished and (self._spoke or not self.tally.said)

    @property
    def usage(self) -> Usage | None:
        """What the answer took by now; None if that is not known."""
        return self.tally.usage

    @property
    def not_sse(self) -> bool:
        """The answer is JSON or HTML: read it whole, then `answer.judge` it."""
        return self._reader.not_sse

    @property
    def held(self) -> bytes:
        """What was kept back: the whole body so far if `not_sse`, else chunks without output."""
        return bytes(self._held)

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes; the same object if nothing had to change.

        b"" until output begins, after an error, and after the end.
        """
        if self.overflow:
            return b""
        block = self._reader.cut(data)
        if not block and not self._reader.overflow:
            return b""
        if self._flowing and len(block) <= MAX_EVENT_BYTES:
            count = passes_whole(block)
            if count:
                self.events += count
                self.tally.note_output()
                self._spoke = self._spoke or speaks(block)
                if self._reader.overflow:
                    self._overflowed()
                return block
        if self._reader.not_sse:
            return self._keep_body(block)
        return self._relayed(self._reader.events(block), block)

    def is_heavy(self, data: bytes) -> bool:
        """Whether to be fed with this, or with b"" for the end, takes long (`usage.is_heavy`)."""
        return self._reader.held > LIGHT_BYTES and is_heavy(self._reader.may_complete(data))

    def become(self, other: "Relay") -> None:
        """Takes over all that another has come to: the same stream, further on."""
        for name in Relay.__slots__:
            setattr(self, name, getattr(other, name))

    def end_input(self) -> bytes:
        """The upstream's body has ended: a last event without its blank line, if it parses."""
        if self.overflow or self.not_sse:
            return b""
        out = self._relayed(self._reader.finish(), b"", last=True)
        self._take_prose()
        return out

    def broke(self) -> None:
        """The upstream's body did not end, it broke off. What had gone on is not whole."""
        if self._reopened and not self.done:
            self.finished = False

    def finish(self, arbstr: bytes) -> bytes:
        """The end of a complete answer, in one write: usage chunk if asked, `[DONE]`, trailer.

        `arbstr` is the text of a JSON object, in one line. It goes into the usage chunk and into
        the trailer. The trailer is chunk-shaped and comes after `[DONE]` because that is what
        every client tolerates: most stop at `[DONE]`, the Vercel AI SDK validates what follows.
        """
        if self._silent or not self.complete:
            raise LocalProtocolError("finish() needs a complete answer that was not ended yet")
        self._close()
        return last_events(self._head, self.usage_chunk if self._asks_usage else None, arbstr)

    def interrupt(self, error: ErrorReply) -> bytes:
        """The end of an answer that is not complete: the error event, and nothing after it.

        What was held back and an event that came in part are dropped. b"" if the answer was ended
        already. What is fed afterwards is only read for its usage and price.
        """
        if self._silent:
            return b""
        if self.complete:
            raise LocalProtocolError("a complete answer is not interrupted, it is finished")
        self._close()
        return error_event(error)

    def _relayed(self, events: tuple[Event, ...], block: bytes, *, last: bool = False) -> bytes:
        if self._silent:
            note = self._note_what_is_missing if self.finished else self._note
            for event in events:
                if event.stray:
                    note(read_stray(event.stray)[0])
                if event.data:
                    note(read_event(event.data, output_seen=False))
            return b""
        pieces = [piece for event in events if (piece := self._passed(event, last=last))]
        if self._reader.overflow:
            self._overflowed()
        out = b"".join(pieces)
        # By identity: whoever counts copies, and the test with `is`, can rely on it.
        return block if out == block else out

    def _passed(self, event: Event, *, last: bool) -> bytes:
        """What goes out for this event, which may be what was held before it, too."""
        data = event.data
        if self.overflow:
            return b""
        self._fielded = self._fielded or data is not None or not event.stray
        if event.stray and not self.done:
            facts, told = read_stray(event.stray)
            self._note(facts)
            self._heed(facts, told, last=last)
        if not data:
            if event.name == b"error" and not self.done:
                self._heed(AN_ERROR, b"", last=last)
            return b""
        if self.done:
            self._note_what_is_missing(read_event(data, output_seen=False))
            return b""
        if data.lstrip().startswith(b"[DONE]"):
            return self._saw_done()
        # Only parsing tells whether an event without its blank line is whole.
        facts = read_event(data, output_seen=self._flowing and not last)
        if event.name == b"error":
            facts = replace(facts, error=True, said=False)
        self._note(facts)
        if facts.usage_only and not facts.error:
            self.events += 1
            self._keep_usage_chunk(data, facts)
            return b""
        if facts.is_chunk and not facts.error:
            self.events += 1
            self._doubt = self._doubt or facts.doubt
            return self._forwarded(event, facts) if self.error is None else b""
        failed_before = self.error is not None or self.finished
        if not is_ping(event.name):
            self._heed(facts, data, last=last)
        # What fails now may have something to say first.
        return self._forwarded(event, facts) if facts.said and not failed_before else b""

    def _heed(self, facts: Facts, data: bytes, *, last: bool) -> None:
        """Takes what an error says, or something that no client can read."""
        settled = self.complete and not self._reopened
        if facts.error:
            self.events += 1
            if not settled and self.error is None:
                self.error = data
                self.finished = False
                self._flowing = False
        elif not settled:
            if facts.prose and self._prose is None:
                self._prose = data
            # The end of the input may have cut the last one: then nothing was dropped.
            self._doubt = self._doubt or (facts.doubt and not last)
            self.missing = self.missing or (facts.garbled and not last)

    def _forwarded(self, event: Event, facts: Facts) -> bytes:
        """What goes out for a chunk."""
        self._choice_seen = self._choice_seen or bool(facts.indexes)
        if facts.said and self.finished:
            self.after_finish += 1
            self._reopened = True
        self._spoke = self._spoke or speaks(event.raw)
        if facts.finished:
            self._spoke = self._spoke or any(reason != "stop" for _, reason in facts.finished)
            self._finished.update(index for index, _ in facts.finished if index < self._choices)
            self._reopened = False
        if self.error is None and len(self._finished) >= self._choices:
            self.finished = True
            self._flowing = False
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
            # From here on it matters whether output follows.
            self._flowing = False
        if facts.provider_cost_msats is not None:
            self.provider_cost_msats = facts.provider_cost_msats
        self._head.note(facts)

    def _note_what_is_missing(self, facts: Facts) -> None:
        if facts.counts is not None and self.usage is None:
            self.tally.note(facts.counts)
        if self.provider_cost_msats is None:
            self.provider_cost_msats = facts.provider_cost_msats

    def _saw_done(self) -> bytes:
        self._take_prose()
        if not self._choice_seen and self.error is None:
            return b""
        self.events += 1
        self.done = True
        self._flowing = False
        if self.error is not None:
            return b""
        # Where something was dropped, only a finish reason says that it was no part of the answer.
        self.finished = bool(self._finished) or not self._doubt
        return b"" if self.committed or not self.complete else self._commit()

    def _take_prose(self) -> None:
        """No answer follows the text for people: then it was the error."""
        # A body of words alone is no stream, and a bad answer as it is to those who want none.
        if self._prose is not None and self._fielded and not self.committed and self.error is None:
            self.error = self._prose

    def _keep_usage_chunk(self, data: bytes, facts: Facts) -> None:
        # The last one, but never one of zeros for one with numbers.
        counts = facts.counts is not None and facts.counts.counted
        if counts or not self._usage_chunk_counts:
            self.usage_chunk = data
            self._usage_chunk_counts = counts

    def _commit(self) -> bytes:
        self.committed = True
        self._flowing = not (self.finished or self.tally.counted or self.error)
        out = bytes(self._held)
        self._held.clear()
        return out

    def _keep_body(self, block: bytes) -> bytes:
        self._held += block
        if len(self._held) > self._max_body:
            self._overflowed()
        return b""

    def _overflowed(self) -> None:
        # A whole answer stays whole; what follows it can no longer be read.
        self.done = self.complete
        self.overflow = not self.complete
        self._flowing = False
        self._held.clear()

    def _close(self) -> None:
        self._silent = True
        self._flowing = False
        self._held.clear()


def fed(relay: Relay, data: bytes) -> tuple[Relay, bytes]:
    """A relay after these bytes, or after the end that b"" is, and what the client gets for them:
    for a copy that does it elsewhere."""
    out = relay.feed(data) if data else relay.end_input()
    return relay, out

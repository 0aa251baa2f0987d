r"""An upstream's stream of chat chunks -> the client's bytes. One relay per attempt.

    HOLDING --output, or [DONE] after a choice--> FLOWING --finish()----> closed
       |                                             |
       +--error, garbage, overflow: failed <---------+--interrupt(error)-> closed

HOLDING: nothing goes out, so another provider can still answer (`committed` is False); what came
is kept and goes out, in order, with the first output. FLOWING: events go out whole and unchanged,
by identity if the piece that was fed needs no change. `complete` says that the answer is whole;
from then on nothing the upstream does can change that. `failed` is no state of its own but the
attributes `error`, `garbled` and `overflow`: nothing more goes out until `interrupt`.

What happens to an event:

    comment, id:, retry:, no data            dropped (an event with data only loses these lines)
    data that is no JSON, no array `choices` dropped: SDKs die on it (`data: ping`, `data: {}`,
                                             `{"choices":null}`); its usage is read all the same
    data that begins with { and is no JSON   dropped, and the answer is `garbled`
    error (see usage.Facts, or `event: error`) never forwarded; ends the attempt unless complete
    `choices: []` with usage                 the usage chunk: kept back, `finish` sends it, if
                                             the client asked for it
    [DONE]                                   never forwarded; `finish` writes the only one
    every other chunk                        forwarded, also `choices: []` without usage (Azure's
                                             first one) and usage in a chunk with choices
    anything after [DONE]                    dropped; a usage or price that is missing is taken
    anything after the close                 dropped; its usage and price are read all the same

Complete is: `[DONE]` after at least one choice, or a finish reason for every index below the
request's `n`; and no error before. Usage is no evidence: Routstr nodes send it after a cut, too.

Drive it: `feed` what arrives and send what it returns; look at `error`, `overflow`, `garbled`,
`not_sse` and `done` after each; `end_input` at the upstream's end; then `finish` if `complete`,
else `interrupt`. Those two raise LocalProtocolError in the wrong case; nothing else raises.
"""

import json
from typing import TYPE_CHECKING, Final, final

from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.sse import MAX_EVENT_BYTES, Event, SSEReader, cleaned
from arbstr.sansio.usage import Facts, has_choices, parse_json, read_event, says_nothing

if TYPE_CHECKING:
    from decimal import Decimal

    from arbstr.sansio.money import Usage

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""What the runtime sends in silence. Not `: ping`: Continue takes that for the end of a batch."""
DONE: Final = b"data: [DONE]\n\n"
MAX_HELD_BYTES: Final = MAX_EVENT_BYTES
"""Bytes kept before output: normally one chunk with the role. Picked, not measured."""
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""Bytes of an answer that is no stream: the default of `max_answer_mb`."""


def error_event(error: ErrorReply) -> bytes:
    """An error as the last event of a stream."""
    return b"data: " + error.body() + b"\n\n"


def _passes_whole(block: bytes) -> int:
    """How many events a block has, if all are one-line LF chunks that say nothing; else 0.

    The hot path: a few searches in C and no object per event. What it accepts, `read_event`
    would call unremarkable event by event, so how the bytes were cut changes nothing.
    """
    if block.startswith(b"data: {"):
        joint = b"}\n\ndata: {"
    elif block.startswith(b"data:{"):
        joint = b"}\n\ndata:{"
    else:
        return 0
    lines = block.count(b"\n")
    # A second `data:` in a line is text, or an event glued to one that was cut: let it be parsed.
    if block.count(b"data:") * 2 != lines:
        return 0
    if not block.endswith(b"}\n\n") or b"\r" in block or not says_nothing(block):
        return 0
    if lines == 2:
        return 1 if has_choices(block) else 0
    if block.count(joint) * 2 + 2 != lines or not all(map(has_choices, block.split(joint))):
        return 0
    return lines // 2


@final
class Relay:
    """One attempt's stream, for a client that asked for `choices` answers (`n`).

    `asks_usage`: the client itself set `stream_options.include_usage`.

    Read-only for the driver:
    `committed`: output began, bytes have gone out. `complete`: the answer is whole.
    `done`: nothing is left to wait for: `[DONE]` came after a choice (or, after a complete
    answer, an event that is too large to be read).
    `events`: chunks, errors and `[DONE]` so far. Timers count these, because comments and pings
    are no sign of life.
    `error`: data of the upstream's error event. While not `committed`, fail over from it.
    `garbled`: a whole event began like an object and was no JSON, so part of the answer is lost
    and it cannot become complete.
    `overflow`: an event, or what was held before output, or the body that is no stream passed its
    limit.
    `not_sse`: the first byte is one of JSON or HTML; `held` is the body so far.
    `usage`, `provider_cost_msats`: the last ones that could be believed, None for unknown.
    """

    __slots__ = (
        "_asks_usage",
        "_choice_seen",
        "_choices",
        "_created",
        "_finished",
        "_flowing",
        "_held",
        "_id",
        "_max_body",
        "_model",
        "_reader",
        "_silent",
        "_usage_chunk",
        "_usage_chunk_counts",
        "committed",
        "complete",
        "done",
        "error",
        "events",
        "garbled",
        "overflow",
        "provider_cost_msats",
        "usage",
    )

    def __init__(
        self, *, choices: int, asks_usage: bool, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self.committed = False
        self.complete = False
        self.done = False
        self.error: bytes | None = None
        self.overflow = False
        self.garbled = False
        self.events = 0
        self.usage: Usage | None = None
        self.provider_cost_msats: Decimal | None = None
        self._choices = max(1, choices)
        self._asks_usage = asks_usage
        self._max_body = max_body_bytes
        self._reader = SSEReader()
        self._held = bytearray()
        self._flowing = False
        self._silent = False
        self._choice_seen = False
        self._finished: set[int] = set()
        self._usage_chunk: bytes | None = None
        self._usage_chunk_counts = False
        self._id: str | None = None
        self._created: int | None = None
        self._model: str | None = None

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
            count = _passes_whole(block)
            if count:
                self.events += count
                if self._reader.overflow:
                    self._overflowed()
                return block
        if self._reader.not_sse:
            return self._keep_body(block)
        return self._relayed(self._reader.events(block), block)

    def end_input(self) -> bytes:
        """The upstream's body has ended: a last event without its blank line, if it parses."""
        if self.overflow or self.not_sse:
            return b""
        return self._relayed(self._reader.finish(), b"", last=True)

    def finish(self, arbstr: bytes) -> bytes:
        """The end of a complete answer, in one write: usage chunk if asked, `[DONE]`, trailer.

        `arbstr` is the text of a JSON object, in one line. It goes into the usage chunk and into
        the trailer. The trailer is chunk-shaped and comes after `[DONE]` because that is what
        every client tolerates: most stop at `[DONE]`, the Vercel AI SDK validates what follows.
        """
        if self._silent or not self.complete:
            raise LocalProtocolError("finish() needs a complete answer that was not ended yet")
        self._close()
        parts: list[bytes] = []
        if self._asks_usage and self._usage_chunk is not None:
            parts += (b"data: ", _with_member(self._usage_chunk, arbstr), b"\n\n")
        parts += (DONE, b"data: ", self._trailer(arbstr), b"\n\n")
        return b"".join(parts)

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
            for event in events:
                if event.data:
                    self._note(read_event(event.data, output_seen=False))
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
        if not data or self.overflow:
            return b""
        if self.done:
            self._note_what_is_missing(read_event(data, output_seen=False))
            return b""
        if data.lstrip().startswith(b"[DONE]"):
            return self._saw_done()
        # Only parsing tells whether an event without its blank line is whole.
        facts = read_event(data, output_seen=self.committed and not last)
        self._note(facts)
        if facts.error or event.name == b"error":
            self.events += 1
            if not self.complete and self.error is None:
                self.error = data
                self._flowing = False
            return b""
        if not facts.is_chunk:
            if facts.garbled and not last and not self.complete:
                self.garbled = True
                self._flowing = False
            return b""
        self.events += 1
        if facts.usage_only:
            self._keep_usage_chunk(data, facts)
            return b""
        if self.error is not None or self.garbled:
            return b""
        self._choice_seen = self._choice_seen or bool(facts.indexes)
        for index, _ in facts.finished:
            if index < self._choices:
                self._finished.add(index)
        self.complete = self.complete or len(self._finished) >= self._choices
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
        if facts.usage is not None:
            self.usage = facts.usage
        if facts.provider_cost_msats is not None:
            self.provider_cost_msats = facts.provider_cost_msats
        self._id = self._id or facts.id
        self._created = self._created or facts.created
        self._model = self._model or facts.model

    def _note_what_is_missing(self, facts: Facts) -> None:
        if self.usage is None:
            self.usage = facts.usage
        if self.provider_cost_msats is None:
            self.provider_cost_msats = facts.provider_cost_msats

    def _saw_done(self) -> bytes:
        if not self._choice_seen or self.error is not None or self.garbled:
            return b""
        self.events += 1
        self.done = True
        self.complete = True
        out = b"" if self.committed else self._commit()
        self._flowing = False
        return out

    def _keep_usage_chunk(self, data: bytes, facts: Facts) -> None:
        # The last one, but never one of zeros for one with numbers.
        if facts.usage is not None or not self._usage_chunk_counts:
            self._usage_chunk = data
            self._usage_chunk_counts = facts.usage is not None

    def _commit(self) -> bytes:
        self.committed = True
        self._flowing = True
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

    def _trailer(self, arbstr: bytes) -> bytes:
        """The chunk after `[DONE]`; what the stream did not tell is taken from `arbstr`."""
        told = parse_json(arbstr)
        if not isinstance(told, dict):
            raise LocalProtocolError("finish() needs the text of a JSON object")
        head: dict[str, object] = {
            "id": self._id or f"chatcmpl-{told.get('request_id') or 'arbstr'}",
            "object": "chat.completion.chunk",
            "created": self._created or 0,
            "model": self._model or told.get("model") or "",
            "choices": [],
        }
        return _with_member(json.dumps(head, separators=(",", ":")).encode(), arbstr)


def _with_member(chunk: bytes, arbstr: bytes) -> bytes:
    """A non-empty JSON object in one line, with the member `arbstr` added at its end.

    The object's other bytes are unchanged. Line feeds come from several `data:` lines; in JSON
    that parsed they can only be white space.
    """
    body = chunk.replace(b"\n", b" ").rstrip().removesuffix(b"}")
    return body + b',"arbstr":' + arbstr + b"}"

"""Bytes -> server-sent events, whatever the cutting.

    feed(bytes) ->  cut():    the bytes of all events that are complete by now, by identity if
                              that is just what came; the rest waits in one bytearray
                    events(): those bytes, taken apart
    finish()    ->  a last event that lacks its blank line; rest(): its bytes

The rules are those of the WHATWG HTML standard, section 9.2.6 (lines end with LF, CRLF or CR; one
byte order mark is dropped; a line that begins with a colon is a comment; several `data:` lines
are joined with LF; one space after the colon is dropped), with one kindness: a last event without
its blank line is returned, re-terminated, because several servers forget the line and the event
that carries the finish reason is the last one.

How an event ends, and why a lone CR waits:

    LF LF      LF CR LF      CR CR      at once
    LF CR      only when the next byte is there: it may be the LF of a CRLF, and whether that
               LF is forwarded must not depend on how the bytes were cut
    CR CR LF   ends at CR CR; line ends before an event are skipped

Nothing here knows JSON, chats or clients. Nothing raises, every byte is looked at a bounded
number of times, and at most `MAX_EVENT_BYTES` are kept.
"""

import json
import re
from collections.abc import Mapping
from typing import Final, final

from arbstr.sansio.frozen import dataclass

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of one event with its blank line. Picked, not measured: an inline image of 8 MB, in base64
and once more as much, fits; a line that never ends does not fill the memory."""

BOM: Final = b"\xef\xbb\xbf"
_LINE_ENDS: Final = b"\r\n"
_WHITESPACE: Final = b" \t\r\n"
_END: Final = re.compile(rb"\n(?:\n|\r\n|\r(?=[^\n]))|\r\r")
_BLANK: Final = re.compile(rb"[\r\n]*")
_IGNORED: Final = (b"", b"id", b"retry")
"""Fields that say nothing here; the first is a comment's."""
_FIELD: Final = re.compile(rb"(?:data|event|id|retry|error)?:")
"""How a stream begins: a field, or a comment."""
_STREAM: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*" + _FIELD.pattern)
_NOT_SSE: Final = (b"{", b"[", b"<")
"""What JSON and HTML begin with and no line of an event stream does."""


@final
@dataclass(frozen=True, slots=True)
class Event:
    """One event: `raw` is its bytes with the blank line, unchanged.

    `data` is what its `data:` lines say, None if there are none; `name` what `event:` says.
    `clean` is true if it has `data:` and `event:` lines only, so that it may be forwarded as it is.
    `stray` is the lines that no field of an event begins, b"" for none: the standard ignores them,
    providers write errors there.
    """

    raw: bytes
    data: bytes | None
    name: bytes | None
    clean: bool
    stray: bytes = b""


def is_stream(text: bytes) -> bool:
    """Whether a whole body, without byte order mark and white space, is one of events.

    Words may come before them: "Connecting...", and then the stream.
    """
    if _FIELD.match(text) is not None:
        return True
    return not text.startswith(_NOT_SSE) and (b"\ndata:" in text or b"\rdata:" in text)


def begins_as_stream(body: bytes) -> bool:
    """Whether the first bytes of a body are those of a stream."""
    return _STREAM.match(body) is not None


def cleaned(event: Event) -> bytes:
    """The bytes of an event without `id:`, `retry:`, unknown fields and comments.

    The other lines are unchanged, line ends included. `id:` and `retry:` are not harmless: the
    OpenAI Python SDK dispatches an event with empty data for them and dies parsing it as JSON.
    """
    if event.clean:
        return event.raw
    kept = bytearray()
    for line in event.raw.splitlines(keepends=True):
        if line in (b"\n", b"\r", b"\r\n"):
            # Behind a CR whose next line was left out, a LF would be no line of its own.
            kept += b"\n" + line if kept.endswith(b"\r") and line == b"\n" else line
        elif line.rstrip(_LINE_ENDS).partition(b":")[0] in (b"data", b"event"):
            kept += line
    return bytes(kept)


def _parsed(raw: bytes) -> Event:
    if raw.startswith(b"data:") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        # By far the most frequent kind: one data line, LF.
        return Event(raw, raw[6:-2] if raw[5:6] == b" " else raw[5:-2], None, clean=True)
    data: list[bytes] = []
    name: bytes | None = None
    clean = True
    stray: list[bytes] = []
    for line in raw.splitlines():  # of bytes: splits at LF, CRLF and CR only
        if not line:
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        else:
            clean = False
            if field not in _IGNORED:
                stray.append(line)
    return Event(raw, b"\n".join(data) if data else None, name, clean, b"\n".join(stray))


def _first_end(block: bytes, start: int) -> int:
    """Where the event that begins at `start` ends, in a block that ends where an event does."""
    match = _END.search(block, start)
    # No match: the blank line is a CR that had to see the byte after it.
    return len(block) if match is None else match.end()


def _last_end(buffer: bytes | bytearray, start: int) -> int:
    """Where the last complete event ends, looking from `start` on; 0 if none does."""
    if buffer.find(b"\r", start) < 0:
        at = buffer.rfind(b"\n\n", start)
        return at + 2 if at >= 0 else 0
    last = 0
    for match in _END.finditer(buffer, start):
        last = match.end()
    return last


@final
class SSEReader:
    """Reads one stream. Drive it with `feed` and `finish`, or with `cut` and `events`.

    `overflow`: an event passed `max_event_bytes`; what came before it was returned, nothing is
    returned any more. `not_sse`: the stream's first byte is one of JSON or HTML; then `cut` hands
    out the bytes as they come and there are no events.
    """

    __slots__ = ("_bom_seen", "_fresh", "_held", "_most", "not_sse", "overflow")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._most = max_event_bytes
        self.overflow = False
        self.not_sse = False
        self._held = bytearray()
        self._fresh = True
        self._bom_seen = False

    @property
    def held(self) -> int:
        """Bytes of the event that is not complete yet."""
        return len(self._held)

    def may_complete(self, chunk: bytes) -> bytes | bytearray:
        """The event that is not complete yet, if `chunk` may be its last piece; else b""."""
        ends = not chunk or b"\n" in chunk or b"\r" in chunk
        return self._held if ends and not self.not_sse else b""

    def feed(self, chunk: bytes) -> tuple[Event, ...]:
        """The events that are complete now."""
        block = self.cut(chunk)
        return () if self.not_sse else self.events(block)

    def finish(self) -> tuple[Event, ...]:
        """The input has ended: the last event, if it lacked its blank line.

        Whether it is whole only its reader can tell, by parsing it.
        """
        return self.events(self.rest())

    def rest(self) -> bytes:
        """The bytes of that event, with a blank line; b"" if there is none."""
        rest = bytes(self._held).rstrip(_LINE_ENDS)
        self._held.clear()
        return b"" if not rest or self._fresh else rest + b"\n\n"

    def cut(self, chunk: bytes) -> bytes:
        """What is held and `chunk`, up to the end of the last complete event.

        The same object if nothing was held and `chunk` ends where an event ends.
        """
        if self._fresh:
            chunk = self._opened(chunk)
        if self.overflow:
            return b""
        if self.not_sse:
            return chunk
        held = self._held
        if not held:
            if chunk.endswith(b"\n\n"):
                return chunk
            end = _last_end(chunk, 0)
            held += chunk[end:].lstrip(_LINE_ENDS)
            block = chunk[:end]
        else:
            # An end may have begun in the last two bytes: `LF CR` and what follows it.
            start = max(0, len(held) - 2)
            held += chunk
            end = _last_end(held, start)
            block = bytes(held[:end])
            if end:
                blank = _BLANK.match(held, end)
                assert blank is not None  # the pattern matches the empty string
                rest = blank.end()
                del blank  # it would forbid the bytearray to shrink
                del held[:rest]
        if len(held) > self._most:
            self._overflow()
        return block

    def events(self, block: bytes) -> tuple[Event, ...]:
        """The events of a block that `cut` returned."""
        found: list[Event] = []
        returns = b"\r" in block
        at = 0
        while True:
            blank = _BLANK.match(block, at)
            assert blank is not None  # the pattern matches the empty string
            at = blank.end()
            if at == len(block):
                return tuple(found)
            # The pattern is slower than the search by a factor that shows on large events.
            end = _first_end(block, at) if returns else block.find(b"\n\n", at) + 2
            if end - at > self._most:
                self._overflow()
                return tuple(found)
            found.append(_parsed(block[at:end]))
            at = end

    def _opened(self, chunk: bytes) -> bytes:
        """The stream's first bytes without byte order mark and leading white space."""
        if not self._bom_seen:
            chunk = bytes(self._held) + chunk
            self._held.clear()
            if len(chunk) < len(BOM) and BOM.startswith(chunk):
                self._held += chunk
                return b""
            self._bom_seen = True
            chunk = chunk.removeprefix(BOM)
        chunk = chunk.lstrip(_WHITESPACE)
        if chunk:
            self._fresh = False
            self.not_sse = chunk.startswith(_NOT_SSE)
        return chunk

    def _overflow(self) -> None:
        self.overflow = True
        self._held.clear()


def typed(event: Mapping[str, object]) -> bytes:
    """An event whose name is its `type`, as Responses and Messages write theirs.

    Raises `RecursionError` for what is nested too deeply to be written.
    """
    data = json.dumps(event, separators=(",", ":")).encode()
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), data)


def written(data: bytes, name: bytes | None = None) -> bytes:
    """An event's data, of whatever lines, as an event again."""
    lines = [b"data: " + line + b"\n" for line in data.split(b"\n")]
    return (b"" if name is None else b"event: " + name + b"\n") + b"".join(lines) + b"\n"

"""Event streams as ours read them, beside the rules of the standard taken line by line."""

import re
from random import Random
from typing import Final, TypeAlias

from arbstr.sansio.dialects.sse import SSEReader, cleaned
from tests.judged.dice import cuts, edited, edits, pieces_of

Said: TypeAlias = tuple[bytes | None, bytes | None]
"""Name and data of an event."""

BOM: Final = b"\xef\xbb\xbf"
CHUNK: Final = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
STREAMS: Final = (
    CHUNK * 3 + b"data: [DONE]\n\n",
    b"event: ping\ndata: {}\n\nevent: message_stop\ndata: 1\ndata:2\n\n",
    b"event: a\r\ndata: 1\r\n\r\n: hello\r\n\r\ndata: 2\r\n\r\n",
    BOM + b"data: 1\r\rid: 7\rretry: 5\rdata: 2\r\r",
    b"\n\n: comment\n\ndata\n\ndata: x",
    b'Connecting...\n\ndata: 1\n\n{"error":1}\n\n',
)
PIECES: Final = (
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"\n\r",
        b"\n\r\n",
        b"\r\n\n",
        b"\r\r\n",
    ),
    *(b"data: ", b"data:", b"data", b"event: ", b"event", b"id: 1", b"retry:", b":", b": ", b" "),
    *(BOM, BOM[:1], BOM[:2], b"{", b"[", b"<", b"\x00", b"\xff", b"\x0b", b"\x0c", b"\x85"),
    *("\u2028".encode(), b"data: a\n\n", b"data: b\r\n\r\n", b"error: x\n", b"\t"),
)


def read(pieces: list[bytes]) -> tuple[list[Said], bool, bytes]:
    """What ours find: events, whether it is no stream, and all events' own bytes."""
    reader = SSEReader()
    found = [event for piece in pieces for event in reader.feed(piece)]
    found += reader.finish()
    for event in found:
        check_cleaned(event.raw, event.name, event.data, cleaned(event))
    raw = b"".join(event.raw for event in found)
    return [(event.name, event.data) for event in found], reader.not_sse, raw


def check_cleaned(raw: bytes, name: bytes | None, data: bytes | None, clean: bytes) -> None:
    """What goes on of an event says the same, in lines of its own and in no others."""
    kept = [line for line in lines_of(clean) if line]
    assert all(field_of(line)[0] in (b"data", b"event") for line in kept)
    assert said_by(kept) == (name, data) == said_by(lines_of(raw))


def judge(data: bytes) -> tuple[list[Said], bool]:
    """What WHATWG HTML 9.2.6 finds, with the kindness that a last event needs no blank line."""
    if len(data) < len(BOM) and BOM.startswith(data):
        return [], False
    data = data.removeprefix(BOM).lstrip(b" \t\r\n")
    if data.startswith((b"{", b"[", b"<")):
        return [], True
    found: list[Said] = []
    event: list[bytes] = []
    for line in [*lines_of(data), b""]:
        if line:
            event.append(line)
        elif event:
            found.append(said_by(event))
            event = []
    return found, False


def lines_of(data: bytes) -> list[bytes]:
    """Lines end with CRLF, LF or CR."""
    return re.split(rb"\r\n|\n|\r", data)


def field_of(line: bytes) -> tuple[bytes, bytes]:
    """A field's name, and its value without the one space that may stand before it."""
    name, _, value = line.partition(b":")
    return name, value[1:] if value.startswith(b" ") else value


def said_by(lines: list[bytes]) -> Said:
    """The last name, and the data of all lines that have any."""
    fields = [field_of(line) for line in lines]
    data = [value for name, value in fields if name == b"data"]
    names = [value for name, value in fields if name == b"event"]
    return names[-1] if names else None, b"\n".join(data) if data else None


def check(data: bytes, places: list[int]) -> str:
    """Compares; returns what it was."""
    whole, cut = read([data]), read(pieces_of(data, places))
    assert whole == cut
    events, not_sse, raw = whole
    assert (events, not_sse) == judge(data)
    # What is handed out is the stream's own, but for blank lines between events, and a last one.
    assert b"".join(lines_of(raw)) == (b"" if not_sse else b"".join(judged_lines(data)))
    return "no streams" if not_sse else "without an event" if not events else "streams"


def judged_lines(data: bytes) -> list[bytes]:
    """The lines of all events."""
    if len(data) < len(BOM) and BOM.startswith(data):
        return []
    return lines_of(data.removeprefix(BOM).lstrip(b" \t\r\n"))


def compare(roll: Random) -> str:
    """One edited stream, cut somewhere. Returns what it was."""
    data = STREAMS[int(roll.random() * len(STREAMS))]
    data = edited(data, edits(roll, len(data), PIECES))
    return check(data, cuts(roll, 0, len(data)))

"""Answers in chunks as ours read them, beside h11."""

from random import Random
from typing import Final

import h11

from arbstr.trio_runtime.upstream.http11 import MAX_HEAD
from arbstr.trio_runtime.upstream.pipe import CLOSED, RESET
from arbstr.trio_runtime.upstream.readers import (
    AnswerBroken,
    H11Reader,
    Head,
    Reader,
    reader_of,
)
from tests.judged.dice import cuts, edited, edits

REQUEST: Final = h11.Request(method="POST", target="/", headers=[("host", "x")])
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
)
EVENTS: Final = (
    b'17\r\ndata: {"a":"hello"}\r\n\r\n\r\n7\r\ndata: 1\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n'
)
PIECES: Final = (
    *(b"\r\n", b"\n", b"\r", b" ", b";", b";x=y", b"0", b"00", b"5", b"A", b"f", b"0x", b"+", b"-"),
    *(b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\n A: b\r\n\r\n", b"0\r\nA: b\n\n", b"0\n\n"),
    *(
        b"5\r\nhello\r\n",
        b'5;q="z"\r\nhello\r\n',
        b"5\r\nhell",
        b"0000000000000000005\r\nhello\r\n",
    ),
    *(b"fffffffffffffffffffff\r\n", b"1" * 70_000, b"HTTP/1.1 200 OK\r\n\r\n", b"\x00", b"\xff"),
)

MORE: Final = (b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n")
ENDS: Final = (None, CLOSED, RESET)

Read = tuple[Head | None, bytes, str | None, bool, bool]


def read(reader: Reader, data: bytes, cuts: list[int], ended: str | None) -> Read:
    """What a connection would learn: head, body, what broke, whether it is whole and renewed."""
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    start, body, broke = 0, b"", None
    try:
        for end in ends:
            if end > start:
                reader.feed(data[start:end])
            start = end
            if reader.head() is not None:
                body += pulled(reader, None)
        if ended is not None and not reader.complete:
            if ended == CLOSED:
                reader.feed(b"")
            body += pulled(reader, ended)
            if not reader.complete:
                reader.pull(ended)
    except AnswerBroken as error:
        broke = error.sentence
    renewed = broke is None and reader.complete and reader.renew()
    return reader.head(), body, broke, reader.complete, renewed


def pulled(reader: Reader, ended: str | None) -> bytes:
    """As `Connection.receive_some` pulls: until it is whole, or only more can bring more."""
    body = b""
    while not reader.complete:
        data = reader.pull(ended)
        body += data
        if reader.dry or not data:
            break
    return body


def http() -> h11.Connection:
    return h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)


def check(data: bytes, cuts: list[int], ended: str | None) -> Read:
    first = data[: min(cuts, default=len(data))] or data
    ours = reader_of(http, REQUEST, first, plain=True)
    found = read(ours, data, cuts, ended)
    judged = read(H11Reader(http(), REQUEST), data, cuts, ended)
    assert found == judged
    return found


def compare(roll: Random) -> str:
    """One edited body, cut somewhere. Returns how far ours read it."""
    more = MORE[int(roll.random() * len(MORE))]
    body = edited(EVENTS, edits(roll, len(EVENTS), PIECES))
    start = HEAD + more + b"\r\n"
    places = cuts(roll, len(start), len(start) + len(body))
    ended = ENDS[int(roll.random() * len(ENDS))]
    _, _, broke, complete, _ = check(start + body, places, ended)
    return "complete" if complete else "broken" if broke is not None else "open"

"""h11 is the judge: an answer in chunks reads the same, however it is edited and cut."""

from typing import Final

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from arbstr.trio_runtime.upstream.http11 import MAX_HEAD
from arbstr.trio_runtime.upstream.pipe import CLOSED, RESET
from arbstr.trio_runtime.upstream.readers import (
    AnswerBroken,
    ChunksReader,
    H11Reader,
    Head,
    Reader,
    reader_of,
)

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
    ours = reader_of(http(), REQUEST, first, plain=True)
    found = read(ours, data, cuts, ended)
    judged = read(H11Reader(http(), REQUEST), data, cuts, ended)
    assert found == judged
    return found


def test_an_ordinary_stream_never_meets_h11() -> None:
    connection = http()
    reader = reader_of(connection, REQUEST, HEAD + b"\r\n", plain=True)
    assert isinstance(reader, ChunksReader)
    _, body, broke, complete, renewed = read(reader, HEAD + b"\r\n" + EVENTS, [], None)
    assert body == b'data: {"a":"hello"}\r\n\r\ndata: 1data: [DONE]\n\n'
    assert (broke, complete, renewed) == (None, True, True)
    assert connection.our_state is h11.IDLE


@given(
    st.sampled_from([b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"]),
    st.lists(
        st.tuples(
            st.integers(0, len(EVENTS) + 10),
            st.integers(0, 12),
            st.sampled_from(PIECES) | st.binary(max_size=3),
        ),
        max_size=4,
    ),
    st.lists(st.integers(len(HEAD) + 30, len(HEAD) + len(EVENTS) + 60), max_size=4),
    st.sampled_from([None, CLOSED, RESET]),
)
@example(b"", [(0, 0, b"5;x\r\nhello\r\n")], [], None)
@example(b"", [(len(EVENTS), 0, b"HTTP/1.1 200 OK\r\n\r\n")], [], None)
@example(b"", [(len(EVENTS) - 2, 2, b"A: b\r\n\r\n")], [], None)
@example(b"Connection: close\r\n", [(len(EVENTS) - 2, 2, b"A: b\r\n\r\n")], [], None)
@example(b"", [(len(EVENTS) - 2, 2, b"A: b\n\n")], [], None)
@example(b"", [(28, 2, b"xx")], [], CLOSED)
@example(b"", [(0, 0, b"1" * 70_000)], [], None)
def test_whatever_is_done_to_an_answer_it_reads_as_in_h11(
    more: bytes, edits: list[tuple[int, int, bytes]], cuts: list[int], ended: str | None
) -> None:
    """Each edit of the body is (place, bytes taken out, bytes put in)."""
    body = EVENTS
    for place, taken, put in edits:
        body = body[:place] + put + body[place + taken :]
    check(HEAD + more + b"\r\n" + body, cuts, ended)

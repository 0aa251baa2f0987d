"""h11 is the judge: an answer in chunks reads the same, however it is edited and cut."""

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from arbstr.trio_runtime.upstream.pipe import CLOSED
from arbstr.trio_runtime.upstream.readers import ChunksReader, reader_of
from tests.judged.chunks import ENDS, EVENTS, HEAD, MORE, PIECES, REQUEST, check, http, read


def test_an_ordinary_stream_never_meets_h11() -> None:
    connection = http()
    reader = reader_of(lambda: connection, REQUEST, HEAD + b"\r\n", plain=True)
    assert isinstance(reader, ChunksReader)
    _, body, broke, complete, renewed = read(reader, HEAD + b"\r\n" + EVENTS, [], None)
    assert body == b'data: {"a":"hello"}\r\n\r\ndata: 1data: [DONE]\n\n'
    assert (broke, complete, renewed) == (None, True, True)
    assert connection.our_state is h11.IDLE


@given(
    st.sampled_from(MORE),
    st.lists(
        st.tuples(
            st.integers(0, len(EVENTS) + 10),
            st.integers(0, 12),
            st.sampled_from(PIECES) | st.binary(max_size=3),
        ),
        max_size=4,
    ),
    st.lists(st.integers(len(HEAD) + 30, len(HEAD) + len(EVENTS) + 60), max_size=4),
    st.sampled_from(ENDS),
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

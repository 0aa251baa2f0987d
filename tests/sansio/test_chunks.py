"""Bodies in chunks: what is usual is read, however it is cut, and the rest is left where it is.

That it reads what h11 reads is tests/trio_runtime/upstream/test_readers.py's to show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.chunks import Chunks, Standing


def in_chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def read(data: bytes, *cuts: int) -> tuple[bytes, Standing, bytes]:
    chunks, ends = Chunks(), [*sorted(cuts), len(data)]
    starts = [0, *ends[:-1]]
    body = b"".join(chunks.feed(data[a:b]) for a, b in zip(starts, ends, strict=True))
    return body, chunks.standing, chunks.rest


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_the_body_is_the_same_however_it_is_cut(
    parts: list[bytes], behind: bytes, cuts: list[int]
) -> None:
    data = in_chunks(*parts) + behind
    cuts = [min(cut, len(data)) for cut in cuts]
    assert read(data, *cuts) == (b"".join(parts), Standing.ENDED, behind)


def test_a_chunk_that_comes_alone_is_one_object() -> None:
    part = b"x" * 1000
    assert Chunks().feed(b"3E8\r\n" + part + b"\r\n") == part


def test_a_body_that_is_not_whole_waits_for_more() -> None:
    data = in_chunks(b"hello", b"x" * 20)
    for cut in range(len(data)):
        assert read(data[:cut])[1] is Standing.OPEN


@pytest.mark.parametrize(
    "line",
    [
        b"5;a=b\r\n",
        b"5 \r\n",
        b"5\n",
        b"0x5\r\n",
        b"-5\r\n",
        b"\r\n",
        b"g\r\n",
        b"5\rx",
        b"0000000000000005\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
        b"0\r\n\n",
    ],
)
def test_what_is_unusual_is_left_to_h11_from_its_line_on(line: bytes) -> None:
    assert read(b"2\r\nab\r\n" + line) == (b"ab", Standing.STRANGE, line)
    chunks = Chunks()
    told = b"".join(chunks.feed(bytes([byte])) for byte in b"2\r\nab\r\n" + line)
    assert (told, chunks.standing) == (b"ab", Standing.STRANGE)
    assert line.startswith(chunks.rest[: len(line)])


@pytest.mark.parametrize("end", [b"x", b"\n\r", b"\rx", b"5\r\n"])
def test_a_chunk_that_does_not_end_where_it_said_is_broken(end: bytes) -> None:
    assert read(b"2\r\nab" + end)[:2] == (b"ab", Standing.BROKEN)


def test_what_comes_behind_the_end_is_kept() -> None:
    chunks = Chunks()
    assert chunks.feed(in_chunks(b"ab")) == b"ab"
    assert chunks.feed(b"HTTP/1.1") == b""
    assert (chunks.standing, chunks.rest) == (Standing.ENDED, b"HTTP/1.1")

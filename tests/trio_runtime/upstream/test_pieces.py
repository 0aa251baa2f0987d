"""A body in pieces: the same bytes however they come, and as few copies as can be."""

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.sse import begins_as_stream
from arbstr.trio_runtime.upstream.pieces import LARGE_BYTES, Pieces


def gathered(*pieces: bytes) -> Pieces:
    body = Pieces()
    for piece in pieces:
        body.add(piece)
    return body


PIECES = st.lists(
    st.binary(max_size=20)
    | st.sampled_from([b"", b" ", b"\n", b"\xef", b"\xbb\xbf", b"data", b": 1\n\n", b'{"a":1}'])
    | st.sampled_from([b"x" * LARGE_BYTES, b" " * LARGE_BYTES]),
    max_size=8,
)


@given(PIECES, st.data())
def test_the_body_is_what_came(pieces: list[bytes], data: st.DataObject) -> None:
    body, so_far = Pieces(), b""
    for piece in pieces:
        body.add(piece)
        so_far += piece
        assert body.size == len(so_far)
        assert bool(body) is bool(so_far)
        if data.draw(st.booleans()):
            assert body.whole() == so_far
        assert so_far.startswith(body.beginning())
        assert begins_as_stream(body.beginning()) is begins_as_stream(so_far)
    assert body.whole() == so_far
    assert body.whole() is body.whole()


@pytest.mark.parametrize("size", [1, LARGE_BYTES, 200_000])
def test_what_came_whole_is_not_copied(size: int) -> None:
    piece = b"x" * size
    body = gathered(b"", piece, b"")
    assert body.whole() is piece
    assert body.beginning() is piece


def test_a_large_body_is_copied_once() -> None:
    pieces = [b"x" * 65_536] * 32
    tracemalloc.start()
    try:
        body = gathered(*pieces)
        assert tracemalloc.get_traced_memory()[1] < 10_000
        whole = body.whole()
        assert tracemalloc.get_traced_memory()[1] < len(whole) + 10_000
    finally:
        tracemalloc.stop()


def test_a_body_that_comes_byte_by_byte_takes_no_more_than_a_large_one() -> None:
    body = Pieces()
    tracemalloc.start()
    try:
        for _ in range(200_000):
            body.add(b"x")
        assert tracemalloc.get_traced_memory()[1] < 500_000
        assert len(body.whole()) == 200_000
    finally:
        tracemalloc.stop()


def test_its_beginning_is_told_without_copying_the_rest() -> None:
    pieces = [b'\xef\xbb\xbf  {"choices": [' + b"x" * LARGE_BYTES, *[b"y" * LARGE_BYTES] * 30]
    body = gathered(*pieces)
    assert body.beginning() is pieces[0]
    assert re.match(rb"(?:data|event):", gathered(b"\r\n", b"da", b"ta: 1").beginning().strip())

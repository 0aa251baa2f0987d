"""A compression nobody asked for, undone."""

import gzip
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbstr.trio_runtime.content_coding import DECODE_STEP, Decoder
from arbstr.trio_runtime.transport import AnswerBroken
from tests.cuttings import byte_by_byte, cuttings

TEXT = b'{"choices": [{"message": {"content": "Hello there"}}]}' * 20
PACKED = gzip.compress(TEXT, mtime=0)


def undone(pieces: list[bytes], coding: str = "gzip") -> bytes:
    decoder = Decoder.of(coding)
    assert decoder is not None
    parts = []
    for piece in pieces:
        decoder.feed(piece)
        while data := decoder.read():
            parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_what_is_not_compressed_needs_no_decoder(coding: str) -> None:
    assert Decoder.of(coding) is None


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x"])
def test_what_is_not_understood_is_a_broken_answer(coding: str) -> None:
    with pytest.raises(AnswerBroken, match="nobody asked for"):
        Decoder.of(coding)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [("gzip", PACKED), ("X-GZIP", PACKED), ("deflate", zlib.compress(TEXT))],
)
def test_a_whole_answer(coding: str, packed: bytes) -> None:
    assert undone([packed], coding) == TEXT


def test_byte_by_byte() -> None:
    assert undone(byte_by_byte(PACKED)) == TEXT


@settings(deadline=None, max_examples=50)
@given(cuttings(PACKED))
def test_however_it_is_cut(pieces: list[bytes]) -> None:
    assert undone(pieces) == TEXT


def test_a_small_body_that_holds_a_lot_comes_out_in_steps() -> None:
    decoder = Decoder.of("gzip")
    assert decoder is not None
    decoder.feed(gzip.compress(bytes(50 * DECODE_STEP)))
    sizes = []
    while data := decoder.read():
        sizes.append(len(data))
    assert sum(sizes) == 50 * DECODE_STEP
    assert max(sizes) == DECODE_STEP


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=3, max_size=200))
def test_garbage_is_a_broken_answer_or_nothing(data: bytes) -> None:
    with suppress(AnswerBroken):
        assert len(undone([data])) < DECODE_STEP


def test_what_follows_the_end_is_dropped() -> None:
    assert undone([PACKED + b"more", b"and more"]) == TEXT

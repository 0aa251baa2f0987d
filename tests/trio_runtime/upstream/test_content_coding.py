"""A compression nobody asked for, undone."""

import gzip
import zlib
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.trio_runtime.upstream import content_coding
from arbstr.trio_runtime.upstream.content_coding import DECODE_STEP, Decoder
from arbstr.trio_runtime.upstream.transport import AnswerBroken
from tests.cuttings import byte_by_byte, cuttings
from tests.searching import examples

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


@pytest.mark.parametrize(
    "coding",
    ["", "identity", " Identity ", "none", "UTF-8", "binary", ",", "identity, identity,", "none,,"],
)
def test_what_is_not_compressed_needs_no_decoder(coding: str) -> None:
    assert Decoder.of(coding) is None


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


EVENTS = [b'data: {"choices": [%d]}\n\n' % n for n in range(50)]
SSE = b"".join(EVENTS)
MEMBERS = b"".join(gzip.compress(event, mtime=0) for event in EVENTS)
CODED = {
    "gzip": ("gzip", PACKED, TEXT),
    "gzip in capitals": ("X-GZIP", PACKED, TEXT),
    "zlib": ("deflate", zlib.compress(TEXT), TEXT),
    "zlib, hardly compressed": ("deflate", zlib.compress(TEXT, 0), TEXT),
    "raw deflate": ("deflate", raw_deflate(TEXT), TEXT),
    "raw deflate, short": ("deflate", raw_deflate(b"{}"), b"{}"),
    "raw deflate, events": ("deflate", raw_deflate(SSE), SSE),
    "gzip called deflate": ("deflate", PACKED, TEXT),
    "zlib called gzip": ("gzip", zlib.compress(TEXT), TEXT),
    "gzip called br": ("br", PACKED, TEXT),
    "members": ("gzip", MEMBERS, SSE),
    "members, some empty": ("gzip", gzip.compress(b"") * 3 + MEMBERS + gzip.compress(b""), SSE),
    "a list with identity": ("gzip, identity", PACKED, TEXT),
    "a list with nothing": ("identity, , gzip,", PACKED, TEXT),
    "twice": ("gzip, gzip", gzip.compress(PACKED, mtime=0), TEXT),
    "twice by name, once in truth": ("gzip, gzip", PACKED, TEXT),
    "two kinds": ("deflate, gzip", gzip.compress(raw_deflate(TEXT), mtime=0), TEXT),
    "the wrong way round": ("gzip, deflate", gzip.compress(zlib.compress(TEXT), mtime=0), TEXT),
    "already undone": ("gzip", TEXT, TEXT),
    "already undone, events": ("deflate", SSE, SSE),
    "already undone, a comment": ("deflate", b": hello\n\n" + SSE, b": hello\n\n" + SSE),
    "already undone, white space": (
        "gzip",
        b"\xef\xbb\xbf\r\n " + TEXT,
        b"\xef\xbb\xbf\r\n " + TEXT,
    ),
    "already undone, HTML": ("gzip", b"<html>", b"<html>"),
    "an unknown coding that is none": ("aws-chunked", TEXT, TEXT),
    "zlib's bytes and more": ("deflate", zlib.compress(TEXT) + b"more", TEXT),
    "gzip and padding": ("gzip", PACKED + bytes(700), TEXT),
    "gzip and half of its magic": ("gzip", PACKED + b"\x1f", TEXT),
    "gzip and other text": ("gzip", PACKED + TEXT + PACKED, TEXT),
}


@pytest.mark.parametrize(("coding", "packed", "text"), CODED.values(), ids=CODED)
def test_bytes_decide_and_not_the_label(coding: str, packed: bytes, text: bytes) -> None:
    assert undone([packed], coding) == text
    assert undone(byte_by_byte(packed), coding) == text
    assert undone([packed[:7], packed[7:]], coding) == text


@pytest.mark.parametrize(
    ("coding", "sentence"),
    [
        ("br", "nobody asked for"),
        ("x", "nobody asked for"),
        ("gzip", "compressed, and broken"),
        ("deflate", "compressed, and broken"),
        (", ".join(["gzip"] * 5), "more ways than anybody needs"),
    ],
)
def test_what_cannot_be_read_is_a_broken_answer(coding: str, sentence: str) -> None:
    with pytest.raises(AnswerBroken, match=sentence):
        undone([b"\x0f\x07\x80not at all"], coding)


def test_a_broken_second_member_is_a_broken_answer() -> None:
    decoder = Decoder.of("gzip")
    assert decoder is not None
    decoder.feed(PACKED + PACKED[:10] + b"\xff" * 50)
    assert decoder.read() == TEXT
    with pytest.raises(AnswerBroken, match="broken"):
        decoder.read()


@pytest.mark.parametrize("packed", [PACKED, MEMBERS, raw_deflate(SSE)], ids=["1", "many", "raw"])
@examples(25)
@given(data=st.data())
def test_however_it_is_cut(packed: bytes, data: st.DataObject) -> None:
    pieces = data.draw(cuttings(packed))
    coding = "gzip" if packed.startswith(b"\x1f") else "deflate"
    assert undone(pieces, coding) == (TEXT if packed is PACKED else SSE)


def test_each_member_comes_out_as_soon_as_it_is_there() -> None:
    decoder = Decoder.of("gzip")
    assert decoder is not None
    for event in EVENTS:
        decoder.feed(gzip.compress(event))
        assert decoder.read() == event
        assert decoder.read() == b""


def test_white_space_without_an_end_is_not_kept() -> None:
    assert undone([b" " * 3000] * 3, "gzip") == b" " * 9000


def test_a_body_of_tiny_members_is_read_in_a_moment() -> None:
    many = gzip.compress(b"{", mtime=0) + gzip.compress(b"", mtime=0) * 10_000
    assert undone([many]) == b"{"


@pytest.fixture
def zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(name)
    pytest.skip("no zstd here")


def test_zstd_is_read_where_there_is_a_library(zstd: Any) -> None:
    packed = zstd.compress(TEXT)
    for whole, text in ((packed, TEXT), (packed * 3, TEXT * 3), (packed + b"more", TEXT)):
        assert undone([whole], "zstd") == text
        assert undone(byte_by_byte(whole), "zstd") == text
    events = b"".join(map(zstd.compress, EVENTS))
    assert undone([events], "br, zstd") == SSE
    large = zstd.compress(bytes(5 * DECODE_STEP)) + zstd.compress(b"end")
    assert len(undone([large], "zstd")) == 5 * DECODE_STEP + 3
    with pytest.raises(AnswerBroken, match="broken"):
        undone([packed[:8] + b"no" * 90], "zstd")


def test_zstd_names_its_extra_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_coding, "_new_zstd", lambda: None)
    with pytest.raises(AnswerBroken, match=r"arbstr\[zstd\]"):
        undone([b"\x28\xb5\x2f\xfd\x00"], "zstd")


def test_a_small_body_that_holds_a_lot_comes_out_in_steps() -> None:
    decoder = Decoder.of("gzip")
    assert decoder is not None
    decoder.feed(gzip.compress(bytes(50 * DECODE_STEP)))
    sizes = []
    while data := decoder.read():
        sizes.append(len(data))
    assert sum(sizes) == 50 * DECODE_STEP
    assert max(sizes) == DECODE_STEP


@examples(50)
@given(st.binary(min_size=3, max_size=200))
def test_garbage_is_a_broken_answer_or_nothing(data: bytes) -> None:
    for coding in ("gzip", "deflate", "br", "gzip, deflate"):
        with suppress(AnswerBroken):
            assert len(undone([data], coding)) < DECODE_STEP


def test_what_follows_the_end_is_dropped() -> None:
    assert undone([PACKED + b"more", b"and more"]) == TEXT

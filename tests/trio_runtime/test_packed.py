"""What is kept of a stream: packed, and byte for byte what was added."""

import random
import tracemalloc
from itertools import accumulate
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.trio_runtime.packed import BLOCK_BYTES, FIRST_BYTES, LARGE_BYTES, READ_BYTES, Packed

EVENT: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,'
    b'"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" %d"},"finish_reason":null}]}\n\n'
)
NOISE: Final = random.Random(1).randbytes(LARGE_BYTES + BLOCK_BYTES)
SIZES: Final = (1, 200, FIRST_BYTES, BLOCK_BYTES, LARGE_BYTES - 1, LARGE_BYTES)

pieces_added = st.lists(
    st.one_of(
        st.integers(0, 1_000_000).map(EVENT.__mod__),
        st.integers(1, 30).map(lambda count: EVENT % 1 * count),
        st.sampled_from(SIZES).map(lambda size: NOISE[-size:]),
        st.binary(min_size=1, max_size=20),
    ),
    max_size=60,
)


@given(pieces_added, st.data())
def test_whoever_reads_gets_what_was_added_however_far_it_has_come(
    pieces: list[bytes], data: st.DataObject
) -> None:
    kept, read, ends = Packed(), [(0, b"")], {0, *accumulate(map(len, pieces))}
    for count, piece in enumerate(pieces, start=1):
        kept.add(piece)
        at, before = data.draw(st.sampled_from(read))
        more, end = kept.read(at)
        assert (end, end in ends) == (at + len(more), True)
        assert (more != b"") is (at < kept.size)
        read.append((end, before + more))
        assert kept.size == len(b"".join(pieces[:count]))
    whole = b"".join(pieces)
    assert kept.whole() == whole
    assert all(whole[:at] == before for at, before in read)


@pytest.mark.parametrize("piece", [EVENT % 1, NOISE, EVENT % 1 * 100])
def test_a_long_one_is_read_in_parts(piece: bytes) -> None:
    kept, count = Packed(), 10 * READ_BYTES // len(piece)
    for _ in range(count):
        kept.add(piece)
    at, parts = 0, []
    while at < kept.size:
        part, at = kept.read(at)
        parts.append(part)
        assert len(part) <= READ_BYTES + max(len(piece), BLOCK_BYTES + len(EVENT))
    assert b"".join(parts) == piece * count
    assert kept.read(at) == (b"", at)


def held_by(pieces: int, size: int, *, alike: bool) -> float:
    """Bytes of memory for each byte that is kept."""
    dice = random.Random(2)
    tracemalloc.start()
    try:
        kept = Packed()
        for n in range(pieces):
            kept.add(EVENT % n if alike else dice.randbytes(size))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return held / kept.size


def test_events_take_a_tenth_of_their_bytes() -> None:
    assert held_by(1000, 0, alike=True) < 0.1


@pytest.mark.parametrize("size", [50, BLOCK_BYTES, LARGE_BYTES])
def test_what_is_not_alike_takes_no_more_than_its_bytes(size: int) -> None:
    assert held_by(2_000_000 // size, size, alike=False) < 1.1

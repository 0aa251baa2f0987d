"""What the tests of several machines share: recorded bytes, and every way of cutting them."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"


def recorded(name: str) -> bytes:
    """A file of tests/corpus, whose README says where each is from."""
    return (CORPUS / name).read_bytes()


def byte_by_byte(data: bytes) -> list[bytes]:
    """The finest cutting."""
    return [data[at : at + 1] for at in range(len(data))]


def cut_in_two(data: bytes, *, step: int = 1) -> Iterator[list[bytes]]:
    """Every cutting in two pieces, or every `step`-th; the whole with an empty piece first."""
    for at in range(0, len(data), step):
        yield [data[:at], data[at:]]


def in_steps(data: bytes, step: int) -> list[bytes]:
    """Pieces of `step` bytes, as a socket would give them."""
    return [data[at : at + step] for at in range(0, len(data), step)]


@st.composite
def cuttings(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Any cutting into pieces, some of them empty."""
    points = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    edges = [0, *points, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]

"""What the tests of several machines share: recorded bytes, and every way of cutting them."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"

LASTS = ("finish", "usage", "done")
"""The event a stream may end with."""


def recorded(name: str) -> bytes:
    """A file of tests/corpus, whose README says where each is from."""
    return (CORPUS / name).read_bytes()


def byte_by_byte(data: bytes) -> list[bytes]:
    """The finest cutting."""
    return [data[at : at + 1] for at in range(len(data))]


def cut_in_two(data: bytes, *, start: int = 0, step: int = 1) -> Iterator[list[bytes]]:
    """Every cutting in two pieces, or every `step`-th; the whole with an empty piece first.

    `start`: where the first piece ends at the earliest.
    """
    for at in range(start, len(data), step):
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


GOLDEN_TEXT = 'Caf\u00e9 "usage":{} \U0001f680\u2028"error":1 data:'
"""What the model says in golden.sse."""

DRESSES = tuple(
    itertools.product(
        [b"\n", b"\r\n", b"\r"], [b"", b"\xef\xbb\xbf"], [b" ", b""], [True, False], LASTS
    )
)
"""Every way to write the golden stream: line end, BOM, space, its last event ended, last event."""


def dressed(line_end: bytes, mark: bytes, space: bytes, ended: bool, last: str) -> bytes:
    """The golden stream written in one of `DRESSES`."""
    events = recorded("golden.sse").split(b"\n\n")[:-1]
    events = events[: len(events) - 2 + LASTS.index(last)]
    lines = [event.replace(b"data: ", b"data:" + space, 1) for event in events]
    data = mark + b"".join(line + line_end * 2 for line in lines)
    return data if ended else data.removesuffix(line_end * 2)

"""The dice of one case, and what all of them are used for: edits and cuts."""

from collections.abc import Sequence
from random import Random
from typing import TypeAlias

Edit: TypeAlias = tuple[int, int, bytes]
"""Place, bytes taken out, bytes put in."""


def dice(seed: int, number: int) -> Random:
    """Those of one case."""
    return Random(seed << 40 | number)


def edits(roll: Random, size: int, pieces: Sequence[bytes], most: int = 4) -> list[Edit]:
    """Some edits of so many bytes: what is put in is one of `pieces`, or some bytes."""
    return [
        (
            int(roll.random() * (size + 1)),
            int(roll.random() * 13) if roll.random() < 0.6 else 0,
            pieces[int(roll.random() * len(pieces))]
            if roll.random() < 0.8
            else roll.randbytes(int(roll.random() * 4)),
        )
        for _ in range(int(roll.random() * (most + 1)))
    ]


def edited(data: bytes, changes: list[Edit]) -> bytes:
    """The bytes with these edits, one after another."""
    for place, taken, put in changes:
        data = data[:place] + put + data[place + taken :]
    return data


def cuts(roll: Random, start: int, end: int, most: int = 4) -> list[int]:
    """Some places between these two."""
    return sorted(roll.randint(start, end) for _ in range(int(roll.random() * (most + 1))))


def pieces_of(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes cut there."""
    ends = [*places, len(data)]
    return [data[a:b] for a, b in zip([0, *places], ends, strict=True)]

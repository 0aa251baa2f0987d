"""See the package."""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Final

from tests.judged import chunks, events, heads, objects
from tests.judged.dice import dice

KINDS: Final[Mapping[str, Callable[[Random], str]]] = MappingProxyType(
    {
        "heads": heads.compare,
        "chunks": chunks.compare,
        "events": events.compare,
        "objects": objects.compare,
    }
)
SLICE: Final = 50_000
"""Cases between two lines of what was compared so far."""


def compared(kind: str, seed: int, start: int, count: int) -> Counter[str]:
    """So many cases from that one on, by what they were. Raises `AssertionError` for the first that
    reads otherwise at its judge, and says which it is."""
    found: Counter[str] = Counter()
    for number in range(start, start + count):
        try:
            found[KINDS[kind](dice(seed, number))] += 1
        except Exception as error:
            raise AssertionError(f"{kind} {number} of seed {seed}") from error
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares what is asked for, and prints how many there were of each sort."""
    parser = argparse.ArgumentParser(prog="python -m tests.judged", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="the number of the first case")
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="COUNT")
    asked = vars(parser.parse_args(arguments))
    for kind in KINDS:
        found: Counter[str] = Counter()
        began = time.process_time()
        for start in range(asked["start"], asked["start"] + asked[kind], SLICE):
            count = min(SLICE, asked["start"] + asked[kind] - start)
            found += compared(kind, asked["seed"], start, count)
            told = ", ".join(f"{number:,} {name}" for name, number in sorted(found.items()))
            seconds = time.process_time() - began
            print(f"{kind} to {start + count:,}: {told} ({seconds:.0f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()

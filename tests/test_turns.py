"""Which file begins when: what takes long first, and those with a server together."""

import re
from pathlib import Path
from typing import Final

from tests.turns import LONG, POSTGRES, in_turn

ROOT: Final = Path(__file__).parents[1]

FILES: Final = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
}


def test_those_named_are_there_once() -> None:
    assert not {*LONG, *POSTGRES} - FILES.keys()
    assert len(set(LONG)) == len(LONG)


def test_whoever_asks_for_a_postgres_shares_one() -> None:
    """Another file that does would start a second server beside the first."""
    asks = re.compile(r"^from tests\.(engines|postgres) import", re.MULTILINE)
    assert {file for file, text in FILES.items() if asks.search(text)} == POSTGRES


def test_what_takes_long_begins_first_and_then_the_files_of_many_tests() -> None:
    few, many, long = "tests/test_a.py", "tests/test_z.py", LONG[1]
    tests = [f"{few}::test_1", f"{many}::test_1[x::y]", f"{many}::test_2", f"{long}::test_1"]
    assert in_turn(tests) == {long: 0, many: 1, few: 2}

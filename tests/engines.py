"""A ledger on each engine, for what must be the same on all.

from tests.engines import place  # noqa: F401

async def test_something(place: str) -> None:     runs once on a new ledger of each
    async with open_database(place) as database: ...
"""

from itertools import count
from pathlib import Path
from typing import Final

import pytest

ENGINES: Final = ("sqlite", "postgres")

_numbers = count()


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a new ledger is to be."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if request.param == "sqlite":
        return str(tmp_path / "arbstr.db")
    url: str = request.getfixturevalue("postgres").url(f"test_{next(_numbers)}")
    return url

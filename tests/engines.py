"""A ledger on each engine, for what must be the same on all.

from tests.engines import place, postgres  # noqa: F401

async def test_something(place: str) -> None:     runs once on a new ledger of each
    async with open_database(place) as database: ...
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.postgres import PostgresServer, running_postgres

ENGINES: Final = ("sqlite", "postgres")

_numbers = count()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server for the tests of a file."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a new ledger is to be."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if request.param == "sqlite":
        return str(tmp_path / "arbstr.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(f"test_{next(_numbers)}")

"""What everybody relies on who writes into a ledger or asks it, whatever keeps it."""

from functools import partial
from pathlib import Path

import pytest
import trio

from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble, named
from arbstr.trio_runtime.ledger.sqlite import open_sqlite
from tests.engines import place
from tests.ledgers import insert, request

__all__ = ["place"]

COUNT = "SELECT count(*) FROM requests"


async def fill(database: Database, *ids: str) -> None:
    await database.transaction(lambda session: insert(session, map(request, ids)))


async def test_what_is_read_is_one_state_however_long_it_takes(place: str) -> None:
    async with open_database(place) as database:
        await fill(database, "one")

        def twice(session: Session) -> list[int]:
            (before,) = session.execute(COUNT).fetchone()
            trio.from_thread.run(fill, database, "two")
            (after,) = session.execute(COUNT).fetchone()
            return [before, after]

        assert await database.read(twice) == [1, 1]
        assert await database.read(lambda session: session.execute(COUNT).fetchone()[0]) == 2


async def test_who_reads_cannot_write(place: str) -> None:
    async with open_database(place) as database:
        with pytest.raises(Trouble, match=r"read.?only"):
            await database.read(lambda session: insert(session, [request("one")]))


async def test_rows_have_the_names_of_their_columns(place: str) -> None:
    async with open_database(place) as database:
        await fill(database, "one", "two")

        def ask(session: Session, sql: str) -> list[dict[str, object]]:
            return named(session.execute(sql))

        sql = "SELECT correlation_id, cost_sats AS cost FROM requests ORDER BY 1"
        assert await database.read(partial(ask, sql=sql)) == [
            {"correlation_id": "one", "cost": 0.125},
            {"correlation_id": "two", "cost": 0.125},
        ]
        assert await database.read(partial(ask, sql=sql + " LIMIT 0")) == []


async def test_a_file_that_lost_what_was_written_is_in_trouble(tmp_path: Path) -> None:
    async with open_sqlite(str(tmp_path / "arbstr.db")) as database:
        with pytest.raises(Trouble, match="cannot be read back"):
            await database.transaction(
                lambda session: insert(session, [request("one")]), written=lambda: ["one", "two"]
            )


async def test_a_mistake_of_the_works_own_stays_one_and_nothing_is_written(place: str) -> None:
    def work(session: Session) -> None:
        insert(session, [request("one")])
        raise ZeroDivisionError

    async with open_database(place) as database:
        with pytest.raises(ZeroDivisionError):
            await database.transaction(work)
        assert await database.read(lambda session: session.execute(COUNT).fetchone()[0]) == 0

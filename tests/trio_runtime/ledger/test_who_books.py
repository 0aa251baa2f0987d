"""Who takes off the day what an attempt of another process cost less than it had counted."""

import time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from arbstr.sansio.ledger.reconcile import Account
from arbstr.sansio.routing.budget import Reservation, day_of
from arbstr.trio_runtime.lane_words import Parked, settle_told
from arbstr.trio_runtime.ledger.checkpoints import Reading, Taken, before_asking, take
from arbstr.trio_runtime.ledger.lease_rows import inherit
from arbstr.trio_runtime.ledger.port import Database, Session
from tests.engines import place  # noqa: F401
from tests.trio_runtime.ledger.test_leases import caps, note, process, reserve

HOUR_MS = 3_600_000


async def checkpoint(database: Database, spent: int, boot_id: str | None) -> Taken:
    before = await database.read(partial(before_asking, "alpha", "key"))
    moment = round(time.time() * 1000) + HOUR_MS
    reading = Reading("alpha", "key", Account(9000, 0, spent, 1), before, moment)
    found = await database.transaction(
        partial(take, reading, boot_id=boot_id, is_gone=database.is_gone)
    )
    assert isinstance(found, Taken), found
    return found


def taken_for_dead(session: Session) -> None:
    session.execute(
        "UPDATE attempts SET provider = 'alpha', key_id = 'key', money = 'unknown',"
        " failure = 'shutdown', duration_ms = 0"
    )
    session.execute("UPDATE requests SET status = 'abandoned'")


async def test_who_was_taken_for_dead_and_wakes_books_its_price_and_nobody_else_does(
    place: str,  # noqa: F811
) -> None:
    async with (
        process(place, "other") as (other, _, database),
        process(place, "sleeper") as (sleeper, leases, theirs),
    ):
        await checkpoint(database, 1000, "other")
        got = await reserve(sleeper, leases, Decimal(3))
        assert isinstance(got, Reservation)
        await note(theirs, "one", Decimal(3), cost=None)
        await database.transaction(taken_for_dead)
        found = await checkpoint(database, 2000, "other")
        assert len(found.settlement.prices) == 1, "its row has the price"
        for each in found.corrections:
            other.correct(each.moment / 1000, each.counted, each.costs)
        sleeper.settle(got, Decimal(1))
        day = day_of(time.time())
        assert sleeper.used(day) + other.used(day) == 1


@pytest.mark.parametrize(("books", "day_has"), [(None, 1000), ("asks", 3000)])
@pytest.mark.parametrize("by", ["lane", "checkpoint"])
async def test_the_lease_of_a_killed_one_becomes_what_it_spent_and_what_another_has_booked(
    by: str, books: str | None, day_has: int, tmp_path: Path
) -> None:
    """A process without a part of the day, as `arbstr reconcile`, books nothing."""
    file = str(tmp_path / "a.db")
    async with process(file, "asks") as (_, _, database):
        async with process(file, "killed") as (killed, leases, theirs):
            await checkpoint(database, 1000, books)
            assert isinstance(await reserve(killed, leases, Decimal(3)), Reservation)
            await note(theirs, "one", Decimal(3), cost=None)
        await database.transaction(taken_for_dead)
        if by == "lane":
            nobody: Any = None  # asks the lane here
            parked = Parked(nobody, "one", 1, round(time.time() * 1000), Decimal(3), 0.0)
            assert await database.transaction(partial(settle_told, parked, Decimal(1), books))
        else:
            found = await checkpoint(database, 2000, books)
            assert len(found.corrections) == 1
        day = day_of(time.time())
        assert await database.transaction(lambda session: inherit(session, day, {"killed"})) == 1
        assert (await caps(database))["killed"] == day_has

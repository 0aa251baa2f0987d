"""Rows that were dropped go into either ledger once, whole, and change nothing that is final."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from arbstr.sansio.errors import StartError
from arbstr.sansio.ledger.intents import abandoned
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.ledger import put_back as module
from arbstr.trio_runtime.ledger.budget import read_spent
from arbstr.trio_runtime.ledger.database import open_database, open_for_reading
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Trouble, named
from arbstr.trio_runtime.ledger.put_back import PutBack, put_back
from arbstr.trio_runtime.ledger.ratios import read_ratios
from tests.engines import place
from tests.records import ATTEMPT, INTENT, RECORD

__all__ = ["place"]

DAY: float = 1_770_120_245.0
"""Within the day of RECORD's attempt."""


def row(name: str, **more: Any) -> Record:
    return replace(RECORD, correlation_id=name, **more)


LOST = row(
    "lost",
    token_ratio=2.0,
    attempts=(
        replace(
            ATTEMPT,
            failure="no_answer",
            money="unknown",
            cost_sats=None,
            provider_cost_sats=None,
            set_aside_sats=Decimal(2),
        ),
        replace(ATTEMPT, n=2),
    ),
)


def kept(place: str) -> tuple[dict[str, str], int]:
    with open_for_reading(place) as session:
        rows = named(session.execute("SELECT correlation_id, status FROM requests"))
        (attempts,) = session.execute("SELECT count(*) FROM attempts").fetchone()
    return {each["correlation_id"]: each["status"] for each in rows}, attempts


async def test_what_is_missing_is_written_once_with_its_attempts(place: str) -> None:
    async with open_database(place) as database, open_log_writer(database) as log:
        log.offer(row("there"))
        log.offer(abandoned(INTENT))  # "one", of which nobody knew the end
        await log.caught_up()
    dear = row("there", cost_sats=Decimal(99))
    rows = [LOST, dear, row("one", policy="code"), LOST]
    assert await put_back(place, rows) == PutBack(written=2, there=1)
    assert kept(place) == ({"there": "ok", "one": "ok", "lost": "ok"}, 4)
    with open_for_reading(place) as session:
        # What is in memory nowhere counts for its day: 0.13 three times, and 2 for what is unknown.
        assert read_spent(session, DAY, but_by="") == Decimal("2.39")
    assert await put_back(place, rows) == PutBack(there=3)
    async with open_database(place) as database:
        learnt = await read_ratios(database)
    assert kept(place)[1] == 4
    assert [ratio.samples for ratio in learnt.values()] == [1]


async def test_a_running_arbstr_is_not_disturbed(place: str) -> None:
    async with open_database(place) as database, open_log_writer(database) as log:
        log.offer(row("its own"))
        assert await put_back(place, [LOST]) == PutBack(written=1)
        log.offer(LOST)  # which it had not given up after all
        await log.caught_up()
    assert kept(place) == ({"its own": "ok", "lost": "ok"}, 3)


async def test_more_than_a_batch(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    rows = [row(str(n)) for n in range(7)]
    assert await put_back(place, [*rows, *rows]) == PutBack(written=7, there=7)


async def test_what_the_database_refuses_holds_up_no_other(place: str) -> None:
    refused = row("wrong", latency_ms=10**40)
    done = await put_back(place, [row("a"), refused, row("b")])
    assert (done.written, [each.record for each in done.refused]) == (2, [refused])
    assert set(kept(place)[0]) == {"a", "b"}


@pytest.mark.parametrize("lasting", [False, True])
async def test_a_ledger_that_stays_locked_or_full_is_said_to_be(
    lasting: bool, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    class Stubborn:
        boot_id = "boot"

        async def transaction(self, work: partial[PutBack]) -> PutBack:
            nonlocal tries
            await trio.lowlevel.checkpoint()
            tries += 1
            raise Trouble("no room", is_lasting=lasting)

    @asynccontextmanager
    async def open_stubborn(place: str) -> AsyncIterator[Stubborn]:
        yield Stubborn()

    monkeypatch.setattr(module, "open_database", open_stubborn)
    with pytest.raises(StartError) as caught:
        await put_back("postgresql://me:password@host/name", [LOST])
    (said,) = caught.value.problems
    assert "cannot be written (no room); 0 rows are put back" in said
    assert "password" not in said
    assert (tries == 1) is lasting

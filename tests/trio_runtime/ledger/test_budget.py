"""What the log knows of today: the sum over its rows, read when it is first asked for."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from arbstr.sansio.routing.budget import Budget, LedgerUnread, Reservation
from arbstr.trio_runtime.ledger import budget as subject
from arbstr.trio_runtime.ledger.database import IN_MEMORY, open_database
from arbstr.trio_runtime.ledger.port import Database, Session
from arbstr.trio_runtime.ledger.sqlite import SqliteDatabase

YEAR: Final = timedelta(days=365)
NOW: Final = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
TODAY: Final = "2026-02-03T00:00:00.000Z"
YESTERDAY: Final = "2026-02-02T23:59:59.999Z"
TOMORROW: Final = "2026-02-04T00:00:00.000Z"
NEXT_YEAR: Final = "2027-02-03T01:00:00.000Z"
LONG_AGO: Final = "2025-02-03T01:00:00.000Z"

ROWS: Final = [
    # received, its process, begun, money, cost, the provider's word, estimate -> booked
    (TODAY, "other", TODAY, "spent", 1.5, 99.0, 99.0, "1.5"),
    (TODAY, "other", TODAY, "spent", None, 0.25, 99.0, "0.25"),
    (TODAY, "other", TODAY, "unknown", None, None, 0.1, "0.1"),
    (TODAY, "other", TODAY, "unknown", None, 0.0, 0.3, "0.3"),  # 0, and not in its last word
    (TODAY, "other", TODAY, "spent", 0.0, 0.0, 7.0, "0"),  # an answer for nothing
    (TODAY, "other", TODAY, None, None, None, 0.2, "0.2"),  # in flight, in another process
    (TODAY, "other", TODAY, "unknown", None, None, None, "0"),  # a provider without rates
    (TODAY, "other", TODAY, "free", 7.0, None, 7.0, "0"),
    (TODAY, "this", TODAY, "spent", 7.0, None, 7.0, "0"),  # in memory
    (TODAY, None, TODAY, "spent", 0.03, None, 7.0, "0.03"),
    (YESTERDAY, "other", TODAY, "spent", 0.004, None, 7.0, "0.004"),  # failed over at midnight
    (YESTERDAY, "other", YESTERDAY, "spent", 7.0, None, 7.0, "0"),
    # a clock that was ahead wrote these
    (TODAY, "other", TOMORROW, "spent", 7.0, None, 7.0, "0"),
    (NEXT_YEAR, "other", NEXT_YEAR, "spent", 7.0, None, 7.0, "0"),
    # one that was put right in the middle of a request wrote this one
    (NEXT_YEAR, "other", TODAY, "spent", 0.0005, None, 7.0, "0.0005"),
    (LONG_AGO, "other", LONG_AGO, "spent", 7.0, None, 7.0, "0"),
]


async def fill(database: Database) -> None:
    def work(connection: Session) -> None:
        for n, (received, boot, begun, money, cost, said, estimate, _) in enumerate(ROWS):
            connection.execute(
                "INSERT INTO requests (correlation_id, timestamp, model, latency_ms, success,"
                " boot_id) VALUES (?, ?, 'm', 1, 1, ?)",
                (str(n), received, boot),
            )
            connection.execute(
                "INSERT INTO attempts (correlation_id, n, started_at, money, cost_sats,"
                " provider_cost_sats, estimated_cost_sats) VALUES (?, 1, ?, ?, ?, ?, ?)",
                (str(n), begun, money, cost, said, estimate),
            )

    await database.transaction(work)


@pytest.fixture(autouse=True)
def _the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "time", SimpleNamespace(time=NOW.timestamp))


@pytest.mark.parametrize("where", ["file", "memory"])
async def test_what_was_spent_today_is_the_sum_of_what_each_attempt_took(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = IN_MEMORY if where == "memory" else str(tmp_path / "arbstr.db")
    budget = Budget(Decimal(10))
    async with open_database(path, boot_id="this") as database:
        await fill(database)
        assert await subject.Today(budget, database).read()
    account = budget.view(NOW.timestamp())
    assert account.spent == sum(Decimal(row[-1]) for row in ROWS) == Decimal("2.3845")
    assert caplog.messages[-1] == "budget: 2.384 of 10 sats of today (UTC) are spent"
    tomorrow = (NOW + timedelta(days=1)).timestamp()
    assert budget.view(tomorrow).spent == 0


async def test_it_is_read_without_a_budget_too_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    budget = Budget(None)
    async with open_database(str(tmp_path / "arbstr.db"), boot_id="this") as database:
        await fill(database)
        assert await subject.Today(budget, database).read()
    assert budget.view(NOW.timestamp()).spent == Decimal("2.3845")
    assert "budget" not in caplog.text


async def test_a_database_that_cannot_be_read_yet_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "AGAIN_SECONDS", 0.0)
    path = tmp_path / "arbstr.db"
    budget = Budget(Decimal(10))
    async with open_database(str(path), boot_id="this") as database:
        await fill(database)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("ALTER TABLE attempts RENAME TO elsewhere")
            today = subject.Today(budget, database)
            assert not await today.read()
            assert budget.is_unread(NOW.timestamp())
            assert isinstance(budget.reserve(Decimal(1), NOW.timestamp()), LedgerUnread)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(today.run)
                await trio.lowlevel.checkpoint()
                other.execute("ALTER TABLE elsewhere RENAME TO attempts")
                await today.wait()
                while budget.is_unread(NOW.timestamp()):
                    await today.wait()
                nursery.cancel_scope.cancel()
    assert budget.view(NOW.timestamp()).spent == Decimal("2.3845")
    warnings = [m for m in caplog.messages if m.startswith("what was spent today cannot be read")]
    assert len(warnings) == 1


async def test_a_day_is_read_when_the_clock_says_it_and_someone_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a day behind at the start, is put right, goes a year ahead, and comes back."""
    clock = SimpleNamespace(now=NOW.timestamp() - 86_400)
    monkeypatch.setattr(subject, "time", SimpleNamespace(time=lambda: clock.now))
    budget = Budget(Decimal(10))
    async with open_database(str(tmp_path / "arbstr.db"), boot_id="this") as database:
        await fill(database)
        today = subject.Today(budget, database)
        assert await today.read()
        assert budget.view(clock.now).spent == 7
        async with trio.open_nursery() as nursery:
            nursery.start_soon(today.run)
            for moment, spent in ((NOW, "2.3845"), (NOW + YEAR, "7"), (NOW, "2.3845")):
                clock.now = moment.timestamp()
                if isinstance(budget.reserve(Decimal(1), clock.now), LedgerUnread):
                    await today.wait()
                reserved = budget.reserve(Decimal(1), clock.now)
                assert isinstance(reserved, Reservation)
                budget.settle(reserved, Decimal(0))
                assert budget.view(clock.now).spent == Decimal(spent)
            nursery.cancel_scope.cancel()


async def test_a_ledger_that_lacks_what_a_killed_arbstr_noted_is_not_read_yet(
    tmp_path: Path,
) -> None:
    recovered = False
    budget = Budget(Decimal(10))
    async with open_database(str(tmp_path / "arbstr.db"), boot_id="this") as database:
        today = subject.Today(budget, database, lambda: recovered)
        assert not await today.read()
        recovered = True
        assert await today.read()
    assert not budget.is_unread(NOW.timestamp())


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_cannot_be_read_for_long_is_gone_on_without_only_if_that_was_allowed(
    is_open: bool, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(work: Callable[..., object], *args: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*args)

    # The clock would jump on while a real thread works.
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    budget = Budget(Decimal(10), is_open=is_open)
    database = SqliteDatabase(str(tmp_path / "nothing.db"), boot_id="this")
    today = subject.Today(budget, database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(today.run)
        await trio.sleep(subject.HOLD_SECONDS - 1)
        assert isinstance(budget.reserve(Decimal(1), NOW.timestamp()), LedgerUnread)
        await trio.sleep(2 * subject.AGAIN_SECONDS + 1)
        answer = budget.reserve(Decimal(1), NOW.timestamp())
        assert isinstance(answer, Reservation if is_open else LedgerUnread)
        assert isinstance(budget.reserve(Decimal(0), NOW.timestamp()), Reservation)
        nursery.cancel_scope.cancel()

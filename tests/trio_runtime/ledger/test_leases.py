"""A day's budget shared by several processes, on each engine."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from functools import partial

import pytest
import trio

from arbstr.sansio.moments import format_moment
from arbstr.sansio.routing.budget import Budget, LedgerUnread, OverBudget, Reservation, day_of
from arbstr.sansio.routing.lease import Ask
from arbstr.trio_runtime.ledger import leases as module
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.leases import BASE, Leases, exchange
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database, Trouble
from tests.engines import place
from tests.records import ATTEMPT, RECORD

__all__ = ["place"]

LIMIT = Decimal(10)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.05)


@asynccontextmanager
async def process(
    place: str, boot_id: str, *, limit: Decimal | None = LIMIT
) -> AsyncIterator[tuple[Budget, Leases, Database]]:
    """What a process has of its budget; ended without a word, unless `close` was called."""
    budget = Budget(limit)
    async with open_database(place, boot_id=boot_id) as database, trio.open_nursery() as nursery:
        leases = Leases(budget, database)
        await leases.read()
        nursery.start_soon(leases.run)
        yield budget, leases, database
        nursery.cancel_scope.cancel()


async def reserve(budget: Budget, leases: Leases, most: Decimal) -> object:
    """As an attempt does."""
    got = budget.reserve(most, time.time())
    if isinstance(got, LedgerUnread):
        await leases.wait(got.most)
        got = budget.reserve(most, time.time())
    return got


async def caps(database: Database) -> dict[str, int]:
    day = day_of(time.time())
    rows = await database.read(
        lambda session: session.execute(session.question("leases"), {"day": day}).fetchall()
    )
    return {name: cap for name, cap, _, _ in rows}


async def test_two_share_a_day_and_spend_all_of_it_and_no_more(place: str) -> None:
    spent = {"a": Decimal(0), "b": Decimal(0)}
    ready = {"a": trio.Event(), "b": trio.Event()}

    async def spend(name: str, most: Decimal) -> None:
        async with process(place, name) as (budget, leases, _):
            refused = 0
            while refused < 8:
                got = await reserve(budget, leases, most)
                if isinstance(got, Reservation):
                    charged = most / 2
                    budget.settle(got, charged)
                    spent[name] += charged
                    # A day is spent in milliseconds: who has no part yet would find nothing left.
                    ready[name].set()
                    for each in ready.values():
                        await each.wait()
                else:
                    assert isinstance(got, OverBudget)
                    assert got.limit == LIMIT
                    refused += 1
                    await trio.sleep(0.06)
            await leases.close()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spend, "a", Decimal("0.05"))
            nursery.start_soon(spend, "b", Decimal("0.07"))
    assert sum(spent.values()) <= LIMIT
    assert sum(spent.values()) >= LIMIT * Decimal("0.95")
    assert min(spent.values()) > 0
    async with open_database(place) as database:
        held = await caps(database)
    # What was not used was given back at the end.
    assert {name: held[name] for name in spent} == {
        name: int(amount * 1000) for name, amount in spent.items()
    }


async def test_what_fits_waits_for_nobody_and_asks_nobody(place: str) -> None:
    async with process(place, "a") as (budget, leases, _):
        got = await reserve(budget, leases, Decimal(1))
        assert isinstance(got, Reservation)
        budget.settle(got, Decimal(1))
        # Some of its size were asked for in advance, meanwhile.
        with trio.fail_after(10):
            while not budget.is_decided(Decimal(1), time.time()):  # noqa: ASYNC110  # a tick does
                await trio.sleep(0.01)
        more = budget.reserve(Decimal(1), time.time())
        assert isinstance(more, Reservation)
        budget.settle(more, Decimal(0))
        account = budget.view(time.time())
        assert account.limit == LIMIT
        assert account.spent == 1


async def test_exchanges_of_several_never_add_up_to_more_than_the_day(place: str) -> None:
    day, now = day_of(time.time()), time.time()

    async def grab(name: str) -> None:
        async with open_database(place, boot_id=name) as database:
            for seq in range(1, 16):
                ask = Ask(seq, want=seq * 100, least=0, used=0)
                work = partial(exchange, boot_id=name, day=day, ask=ask, limit=2000, now=now)
                await database.transaction(work)

    async with open_database(place) as database:
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(grab, name)
        held = await caps(database)
    assert sum(held.values()) <= 2000
    assert sum(held.values()) >= 1900


async def test_what_a_killed_process_held_stays_spent(place: str) -> None:
    async with process(place, "killed") as (budget, leases, _):
        assert isinstance(await reserve(budget, leases, Decimal(3)), Reservation)
    async with open_database(place) as database:
        held = (await caps(database))["killed"]
    assert 3000 <= held < 10_000
    async with process(place, "next") as (budget, leases, _):
        left = LIMIT - Decimal(held) / 1000
        assert isinstance(await reserve(budget, leases, left + Decimal("0.001")), OverBudget)
        await trio.sleep(0.06)
        assert isinstance(await reserve(budget, leases, left), Reservation)
        assert budget.view(time.time()).spent == LIMIT - left


async def test_what_was_spent_before_there_were_leases_counts(place: str) -> None:
    now = format_moment(int(time.time() * 1000))
    paid = replace(ATTEMPT, started_at=now, cost_sats=Decimal("7.0004"))
    async with open_database(place, boot_id="old") as database, open_log_writer(database) as log:
        log.offer(replace(RECORD, correlation_id="one", timestamp=now, attempts=(paid,)))
    async with process(place, "new") as (budget, leases, database):
        assert (await caps(database))[BASE] == 7001
        assert isinstance(await reserve(budget, leases, Decimal(3)), OverBudget)
        await trio.sleep(0.06)
        assert isinstance(await reserve(budget, leases, Decimal("2.999")), Reservation)


async def test_what_is_dearer_than_what_was_set_aside_is_told(place: str) -> None:
    async with process(place, "a") as (budget, leases, database):
        got = await reserve(budget, leases, Decimal(2))
        assert isinstance(got, Reservation)
        budget.settle(got, Decimal(14))
        with trio.fail_after(10):
            while (await caps(database))["a"] < 14_000:  # noqa: ASYNC110  # a tick tells it
                await trio.sleep(0.01)
        assert isinstance(await reserve(budget, leases, Decimal("0.1")), OverBudget)


async def test_without_the_ledger_what_is_in_hand_may_be_spent_and_no_more(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)
    async with process(place, "a") as (budget, leases, database):
        first = await reserve(budget, leases, Decimal(1))
        assert isinstance(first, Reservation)
        budget.settle(first, Decimal(0))

        async def gone(*_: object, **__: object) -> object:
            raise Trouble("it is away")

        monkeypatch.setattr(database, "transaction", gone)
        monkeypatch.setattr(database, "read", gone)
        assert isinstance(await reserve(budget, leases, Decimal(1)), Reservation)
        assert isinstance(await reserve(budget, leases, Decimal(9)), LedgerUnread)
        assert "the budget cannot be shared now (it is away)" in caplog.text
        monkeypatch.undo()


async def test_a_budget_that_is_taken_away_lets_everything_through(place: str) -> None:
    async with process(place, "a", limit=None) as (budget, leases, database):
        got = budget.reserve(Decimal(500), time.time())
        assert isinstance(got, Reservation)
        budget.settle(got, Decimal(500))
        with trio.fail_after(10):
            while (await caps(database)).get("a", 0) < 500_000:  # noqa: ASYNC110
                await trio.sleep(0.01)
        # Somebody sets one: what was spent without counts.
        budget.configure(LIMIT)
        assert isinstance(await reserve(budget, leases, Decimal(1)), OverBudget)


async def test_a_day_that_could_not_be_begun_is_begun_when_the_ledger_is_there(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(LIMIT)
    async with open_database(place) as database, trio.open_nursery() as nursery:

        async def gone(*_: object, **__: object) -> object:
            raise Trouble("it is away")

        with monkeypatch.context() as patch:
            patch.setattr(database, "transaction", gone)
            leases = Leases(budget, database)
            assert not await leases.read()
            assert isinstance(budget.reserve(Decimal(1), time.time()), LedgerUnread)
        nursery.start_soon(leases.run)
        with trio.fail_after(10):
            assert isinstance(await reserve(budget, leases, Decimal(1)), Reservation)
        nursery.cancel_scope.cancel()


async def test_another_day_has_a_slice_of_its_own(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(place, "a") as (budget, leases, database):
        first = await reserve(budget, leases, Decimal(9))
        assert isinstance(first, Reservation)
        today = day_of(time.time())
        later = time.time() + 86_400
        monkeypatch.setattr(time, "time", lambda: later)
        second = await reserve(budget, leases, Decimal(9))
        assert isinstance(second, Reservation)
        assert (first.day, second.day) == (today, today + 1)
        budget.settle(first, Decimal(9))
        assert budget.view(later).reserved == 9
        assert (await caps(database))["a"] >= 9000


async def test_eight_share_a_day_and_some_are_killed(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never overdrawn, nearly all of it spent, and nothing held that no lease holds."""
    # The day is spent in a second or two: what lies at hand for five is all of it.
    monkeypatch.setattr("arbstr.sansio.routing.lease.RATE_SECONDS", 0.0)
    limit, dice = Decimal(100), random.Random(8)
    charged: dict[str, Decimal] = {}
    held: dict[str, Decimal] = {}
    kills = 2

    async def spend(name: str) -> None:
        nonlocal kills
        async with process(place, name, limit=limit) as (budget, leases, _):
            charged[name], refused = Decimal(0), 0
            while refused < 4:
                most = Decimal(dice.randint(1, 400)) / 1000 if not refused else Decimal("0.001")
                got = await reserve(budget, leases, most)
                if not isinstance(got, Reservation):
                    refused += 1
                    await trio.sleep(0.06)
                    continue
                if kills and sum(charged.values()) > limit / (kills + 1):
                    kills -= 1
                    held[name] = got.most
                    return  # as kill -9 does it: with a request under way, and no word
                price = most * dice.randint(0, 10) / 10
                budget.settle(got, price)
                charged[name] += price
                refused = 0
            await leases.close()

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(spend, f"p{n}")
        # Whoever was still there gave the rest back: what is lost is what the killed ones held.
        await spend("last")
    assert kills == 0
    assert limit * Decimal("0.95") <= sum(charged.values()) + sum(held.values()) <= limit
    async with open_database(place) as database:
        rows = await caps(database)
    assert sum(rows.values()) <= limit * 1000
    for name, amount in charged.items():
        used = int(((amount + held.get(name, Decimal(0))) * 1000).to_integral_value(ROUND_CEILING))
        assert rows[name] >= used
        assert name in held or rows[name] == used

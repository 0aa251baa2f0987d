"""A day's budget shared by several processes, on each engine."""

import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.sansio.moments import format_moment
from arbstr.sansio.routing.budget import Budget, LedgerUnread, OverBudget, Reservation, day_of
from arbstr.sansio.routing.lease import Ask
from arbstr.trio_runtime.lane_words import Parked, settle_told
from arbstr.trio_runtime.ledger import leases as module
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.intents import Intents
from arbstr.trio_runtime.ledger.lease_rows import (
    BASE,
    corrected_elsewhere,
    exchange,
    inherit,
    is_wanted,
)
from arbstr.trio_runtime.ledger.leases import Leases
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble
from tests.engines import place
from tests.postgres import PostgresServer
from tests.records import ATTEMPT, INTENT, RECORD

__all__ = ["place"]

LIMIT = Decimal(10)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.05)
    monkeypatch.setattr(module, "GIVE_SECONDS", 0.1)
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)


@asynccontextmanager
async def process(
    place: str, boot_id: str, *, limit: Decimal | None = LIMIT, lone: bool = False
) -> AsyncIterator[tuple[Budget, Leases, Database]]:
    """What a process has of its budget; ended without a word, unless `close` was called."""
    budget = Budget(limit)
    async with open_database(place, boot_id=boot_id) as database, trio.open_nursery() as nursery:
        leases = Leases(budget, database, lone=lone)
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


async def note(database: Database, name: str, sats: Decimal, *, cost: Decimal | None) -> None:
    """The row of an attempt that is under way, or over if it has a cost."""
    now = format_moment(int(time.time() * 1000))

    def write(session: Session) -> None:
        session.execute(
            "INSERT INTO requests (correlation_id, timestamp, model, latency_ms, success, status,"
            " boot_id) VALUES (?, ?, 'm', 0, 0, ?, ?) ON CONFLICT (correlation_id) DO UPDATE SET"
            " status = excluded.status",
            (name, now, "in_flight" if cost is None else "ok", database.boot_id),
        )
        session.execute(
            "INSERT INTO attempts (correlation_id, n, started_at, set_aside_sats, cost_sats, money)"
            " VALUES (?, 1, ?, ?, ?, ?) ON CONFLICT (correlation_id, n) DO UPDATE SET"
            " cost_sats = excluded.cost_sats, money = excluded.money",
            (
                name,
                now,
                float(sats),
                None if cost is None else float(cost),
                None if cost is None else "spent",
            ),
        )

    while True:
        try:
            return await database.transaction(write)
        except Trouble as error:  # eight write at once: as the log writer, who tries again
            if error.is_lasting:
                raise
            await trio.sleep(0.01)


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
        async with process(place, name) as (budget, leases, database):
            refused = 0
            while refused < 8:
                got = await reserve(budget, leases, most)
                if isinstance(got, Reservation):
                    charged = most / 2
                    await note(database, f"{name}-{got.number}", most, cost=charged)
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


async def test_what_a_killed_process_held_stays_spent_unless_it_is_sure_what_it_spent(
    place: str,
) -> None:
    async with process(place, "killed") as (budget, leases, database):
        assert isinstance(await reserve(budget, leases, Decimal(3)), Reservation)
        await note(database, "one", Decimal(3), cost=None)
    async with process(place, "next") as (budget, leases, database):
        # Until it was killed it may have asked for more, in advance.
        held = (await caps(database))["killed"]
        if place.endswith(".db"):
            assert held == 3000  # it is gone, as its lock is, and had noted so much
        assert 3000 <= held < 10_000
        left = LIMIT - Decimal(held) / 1000
        assert isinstance(await reserve(budget, leases, left + Decimal("0.001")), OverBudget)
        await trio.sleep(0.06)
        assert isinstance(await reserve(budget, leases, left), Reservation)
        assert budget.view(time.time()).spent == LIMIT - left
        assert (await caps(database))["killed"] == held


async def test_who_is_alone_on_a_file_holds_the_day_and_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(str(tmp_path / "a.db"), "a", lone=True) as (budget, _, database):
        assert (await caps(database))["a"] == 10_000

        async def gone(*_: object, **__: object) -> object:
            raise Trouble("it is full")

        monkeypatch.setattr(database, "transaction", gone)
        for most in (Decimal(6), Decimal(3), Decimal(1)):
            assert isinstance(budget.reserve(most, time.time()), Reservation)
        # Nor for what does not fit.
        assert isinstance(budget.reserve(Decimal("0.001"), time.time()), OverBudget)
        # A limit that was lowered holds at once.
        budget.configure(Decimal(20))
        assert isinstance(budget.reserve(Decimal(11), time.time()), OverBudget)
        budget.configure(Decimal(5))
        assert isinstance(budget.reserve(Decimal("0.001"), time.time()), OverBudget)
        monkeypatch.undo()


async def test_a_higher_limit_is_asked_for_when_it_is_needed(tmp_path: Path) -> None:
    async with process(str(tmp_path / "a.db"), "a", lone=True) as (budget, leases, _):
        assert isinstance(await reserve(budget, leases, Decimal(10)), Reservation)
        budget.configure(Decimal(20))
        with trio.fail_after(20):
            assert isinstance(await reserve(budget, leases, Decimal(9)), Reservation)


async def test_who_was_alone_gives_back_what_is_idle_when_another_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    file = str(tmp_path / "a.db")
    async with process(file, "a", lone=True) as (first, asks, database):
        assert caplog.messages[-1] == "budget: 0 of 10 sats of today (UTC) are spent"
        assert isinstance(first.reserve(Decimal(4), time.time()), Reservation)
        async with process(file, "b", lone=True) as (second, others, _):
            # Not refused: who holds it all has a moment to give it back.
            with trio.fail_after(20):
                got = await reserve(second, others, Decimal(5))
            assert isinstance(got, Reservation)
            assert "they share the day's budget" in caplog.text
            assert isinstance(await reserve(second, others, Decimal("1.001")), OverBudget)
            assert isinstance(await reserve(first, asks, Decimal("1.001")), OverBudget)
            assert sum((await caps(database)).values()) <= 10_000
            second.settle(got, Decimal(2))
            await note(others._database, "two", Decimal(5), cost=Decimal(2))
            await others.close()
        with trio.fail_after(20):
            while not first.is_alone or (await caps(database))["a"] < 8000:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert isinstance(first.reserve(Decimal(4), time.time()), Reservation)
        assert isinstance(first.reserve(Decimal("0.001"), time.time()), OverBudget)


async def test_what_a_killed_one_had_noted_beside_the_ledger_counts_and_becomes_rows(
    tmp_path: Path,
) -> None:
    file = str(tmp_path / "a.db")
    now = format_moment(int(time.time() * 1000))
    aside = Decimal(3)
    sent = replace(INTENT.attempts[0], started_at=now, set_aside_sats=aside)
    begun = replace(INTENT, timestamp=now, attempts=(sent,))
    async with process(file, "living", lone=True) as (budget, _, database):
        async with process(file, "killed", lone=True) as (other, asks, _):
            with trio.fail_after(20):
                assert isinstance(await reserve(other, asks, aside), Reservation)
            intents = Intents(file, "killed")
            intents.begin(begun)
            assert intents._file is not None
            os.close(intents._file.descriptor)  # as the kernel does
        with trio.fail_after(20):
            while (await caps(database))["killed"] != int(aside * 1000):  # noqa: ASYNC110
                await trio.sleep(0.01)
            while not budget.is_decided(LIMIT - aside, time.time()):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert isinstance(budget.reserve(LIMIT - aside, time.time()), Reservation)
        rows = await database.read(
            lambda session: session.execute(
                "SELECT correlation_id, status, boot_id FROM requests"
            ).fetchall()
        )
    assert [tuple(row) for row in rows] == [(INTENT.correlation_id, "abandoned", "killed")]
    assert [name for name in os.listdir(tmp_path) if "intents" in name] == []


async def test_what_somebody_else_corrected_is_not_taken_off_twice(tmp_path: Path) -> None:
    """Who settles an attempt of another books that itself; the rows say it as well by then."""
    file = str(tmp_path / "a.db")
    async with process(file, "asks") as (_, _, database):
        async with process(file, "killed") as (other, asks, theirs):
            assert isinstance(await reserve(other, asks, Decimal(3)), Reservation)
            await note(theirs, "one", Decimal(3), cost=Decimal(1))
            await database.transaction(
                lambda session: corrected_elsewhere(session, time.time(), "killed", Decimal(2))
            )
            await database.transaction(
                lambda session: corrected_elsewhere(session, time.time(), "nobody", Decimal(2))
            )
        async with process(file, "next") as (_, _, database):
            assert (await caps(database))["killed"] == 3000


async def test_what_a_lane_tells_of_a_killed_ones_attempt_is_not_taken_off_twice(
    place: str,
) -> None:
    """It may tell before the killed one's lease becomes what the rows say."""
    async with process(place, "asks") as (_, _, database):
        async with process(place, "killed") as (other, asks, theirs):
            assert isinstance(await reserve(other, asks, Decimal(3)), Reservation)
            await note(theirs, "one", Decimal(3), cost=None)
        nobody: Any = None  # asks the lane here
        parked = Parked(nobody, "one", 1, round(time.time() * 1000), Decimal(3), 0.0)
        told = partial(settle_told, parked, Decimal(1), "asks")
        assert await database.transaction(told)
        assert not await database.transaction(told), "it is known"
        day = day_of(time.time())
        assert await database.transaction(lambda session: inherit(session, day, {"killed"})) == 1
        assert (await caps(database))["killed"] == 3000, "whoever was told has booked two less"


async def test_what_cannot_be_read_of_a_killed_one_leaves_its_lease_as_it_was(
    tmp_path: Path,
) -> None:
    file = str(tmp_path / "a.db")
    async with process(file, "killed") as (budget, leases, database):
        assert isinstance(await reserve(budget, leases, Decimal(3)), Reservation)
        held = (await caps(database))["killed"]
    intents = Intents(file, "killed")
    intents.begin(INTENT)  # whoever holds its lock just now
    async with process(file, "next") as (_, _, database):
        assert (await caps(database))["killed"] == held
    intents.close()
    async with process(file, "later") as (_, _, database):
        assert (await caps(database))["killed"] == 0


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


async def test_who_finds_no_room_is_heard_by_a_machine_whose_clock_is_ahead(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark that something is wanted lasts for three seconds: of the server's clock."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    day, now = day_of(time.time()), time.time()

    def ask(name: str, clock: float, want: int) -> Callable[[Session], object]:
        asked = Ask(1, want, want, 0)
        return partial(exchange, boot_id=name, day=day, ask=asked, limit=1000, now=clock)

    async with open_database(postgres.url("clocks")) as database:
        await database.transaction(ask("ahead", now + 600, 1000))
        assert not await database.read(partial(is_wanted, day, now - 600))
        await database.transaction(ask("behind", now - 600, 500))
        assert await database.read(partial(is_wanted, day, now + 600))


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
        async with process(place, name, limit=limit) as (budget, leases, database):
            charged[name], refused = Decimal(0), 0
            while refused < 4:
                most = Decimal(dice.randint(1, 400)) / 1000 if not refused else Decimal("0.001")
                got = await reserve(budget, leases, most)
                if not isinstance(got, Reservation):
                    refused += 1
                    await trio.sleep(0.06)
                    continue
                key = f"{name}-{got.number}"
                await note(database, key, got.most, cost=None)
                if kills and sum(charged.values()) > limit / (kills + 1):
                    kills -= 1
                    held[name] = got.most
                    return  # as kill -9 does it: with a request under way, and no word
                price = most * dice.randint(0, 10) / 10
                await note(database, key, got.most, cost=price)
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
        # On a file it is known what killed ones had spent, too.
        known = name not in held or place.endswith(".db")
        assert not known or rows[name] == used


async def test_who_is_stopped_and_wakes_has_what_it_held_and_nobody_spends_more(
    place: str,
) -> None:
    """As by SIGSTOP: no clock takes a slice from who says nothing, so none has to be fenced."""
    async with open_database(place, boot_id="stopped") as database:
        budget = Budget(LIMIT)
        leases = Leases(budget, database)
        await leases.read()
        async with trio.open_nursery() as awake:
            awake.start_soon(leases.run)
            held = await reserve(budget, leases, Decimal(6))
            assert isinstance(held, Reservation)
            awake.cancel_scope.cancel()
        async with process(place, "other") as (others, its, _):
            # It may have asked for more, in advance.
            free = LIMIT - Decimal((await caps(database))["stopped"]) / 1000
            for asked in (free + Decimal("0.001"), LIMIT):
                assert not isinstance(await reserve(others, its, asked), Reservation)
            await trio.sleep(0.06)
            assert isinstance(await reserve(others, its, free), Reservation)
            async with trio.open_nursery() as awake:
                awake.start_soon(leases.run)
                # All it had is its own still, and no more.
                got = await reserve(budget, leases, LIMIT - 6)
                assert not isinstance(got, Reservation)
                budget.settle(held, Decimal(2))
                await trio.sleep(0.1)
                got = await reserve(others, its, LIMIT - free - 2 + Decimal("0.001"))
                assert not isinstance(got, Reservation)
                assert sum((await caps(database)).values()) <= 10_000
                awake.cancel_scope.cancel()

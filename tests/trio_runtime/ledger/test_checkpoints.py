"""What a checkpoint may settle, by who else runs, what the clock says and whose counters."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from arbstr.sansio.ledger.lanes import LATE_SECONDS as LANE_LATE_SECONDS
from arbstr.sansio.ledger.reconcile import LATE_SECONDS, Account, Verdict
from arbstr.sansio.ledger.record import AttemptRow
from arbstr.sansio.moments import DAY_MS, parse_moment
from arbstr.trio_runtime.ledger.checkpoints import (
    TELLING_SECONDS,
    NotNow,
    Reading,
    Taken,
    before_asking,
    take,
)
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database, Session
from tests.engines import place  # noqa: F401
from tests.records import ATTEMPT, RECORD, RUNNING

LOST = replace(
    ATTEMPT, failure="no_answer", money="unknown", cost_sats=None, provider_cost_sats=None
)
ON_A_LANE = replace(LOST, lane="aa 500 3")
ENDED = (parse_moment(ATTEMPT.started_at) or 0) + ATTEMPT.duration_ms
STILL = NotNow("has lanes that are still to tell")
LONG = 10 * TELLING_SECONDS


async def checkpoint(
    database: Database,
    spent: int,
    *,
    later: float = LONG,
    beside: float | None = None,
    key: str = "key",
) -> Taken | NotNow:
    """At so many millisats, so many seconds after all attempts ended."""
    before = await database.read(partial(before_asking, "alpha", key))
    account = Account(9000, 0, spent, 1)
    reading = Reading("alpha", key, account, before, ENDED + round(later * 1000))
    return await database.transaction(partial(take, reading, beside=beside))


async def verdict(database: Database, spent: int, **how: Any) -> Verdict:
    found = await checkpoint(database, spent, **how)
    assert isinstance(found, Taken), found
    return found.settlement.verdict


async def offer(database: Database, *attempts: AttemptRow) -> None:
    """A request for each."""
    async with open_log_writer(database) as log:
        for one in attempts:
            log.offer(
                replace(
                    RECORD,
                    correlation_id=f"{one.lane}-{id(one)}",
                    status="failed",
                    success=False,
                    attempts=(one,),
                )
            )


TWO = (ON_A_LANE, replace(LOST, lane="bb 0 0"))


async def test_beside_others_nothing_is_shared_out_that_their_lanes_will_tell(
    place: str,  # noqa: F811
) -> None:
    async with open_database(place) as database:
        assert await verdict(database, 1000) is Verdict.FIRST
        await offer(database, *TWO)
        # The other may have started with this process, and then it asks its lanes as of now.
        assert await checkpoint(database, 1250, beside=0.0) == STILL
        soon = TELLING_SECONDS - 1
        assert await checkpoint(database, 1250, later=soon, beside=LONG) == STILL
        assert await verdict(database, 1250, beside=LONG) is Verdict.SHARED, "nobody told"


@pytest.mark.parametrize(
    ("open_ones", "spent", "beside", "settled"),
    [
        (TWO, 1250, None, Verdict.SHARED),  # nobody is there to tell
        ((LOST, replace(LOST)), 1250, 0.0, Verdict.SHARED),  # on no lane
        (TWO, 1000, 0.0, Verdict.SETTLED),  # all were free: no lane tells another thing
        ((ON_A_LANE,), 1250, 0.0, Verdict.SETTLED),
    ],
)
async def test_what_no_lane_would_tell_otherwise_waits_for_nobody(
    open_ones: Sequence[AttemptRow],
    spent: int,
    beside: float | None,
    settled: Verdict,
    place: str,  # noqa: F811
) -> None:
    async with open_database(place) as database:
        assert await verdict(database, 1000) is Verdict.FIRST
        await offer(database, *open_ones)
        assert await verdict(database, spent, later=LATE_SECONDS, beside=beside) is settled


async def test_a_clock_that_was_put_back_holds_no_checkpoint_up(place: str) -> None:  # noqa: F811
    async with open_database(place) as database:
        assert await verdict(database, 1000, later=-DAY_MS / 1000) is Verdict.FIRST
        await offer(database, LOST)
        found = await checkpoint(database, 1250, later=-DAY_MS / 1000)
        assert isinstance(found, Taken), found
        assert [sats for _, sats in found.settlement.prices] == [Decimal("0.25")]
        # Nor is what seems to begin tomorrow in each checkpoint until then.
        assert await verdict(database, 1250, later=-DAY_MS / 1000 + 1) is Verdict.EQUAL


async def test_the_counters_of_a_key_tell_nothing_of_what_was_sent_with_another(
    place: str,  # noqa: F811
) -> None:
    async with open_database(place) as database:
        assert await verdict(database, 1000) is Verdict.FIRST
        assert await verdict(database, 70, key="another") is Verdict.FIRST
        await offer(database, LOST)
        # The first key again, on which nothing happened: that makes nothing of the other free.
        assert await verdict(database, 1000) is Verdict.FIRST
        assert await verdict(database, 1000) is Verdict.EQUAL


MINE = replace(LOST, key_id="key")
THEIRS = replace(LOST, key_id="another", lane="cc 0 0")


async def test_each_key_of_a_provider_tells_of_what_was_sent_with_it(
    place: str,  # noqa: F811
) -> None:
    async with open_database(place) as database:
        assert await verdict(database, 1000) is Verdict.FIRST
        assert await verdict(database, 70, key="another") is Verdict.FIRST
        await offer(database, MINE, THEIRS)
        for key, spent, sats in (("key", 1250, "0.25"), ("another", 140, "0.07")):
            found = await checkpoint(database, spent, key=key)
            assert isinstance(found, Taken), found
            assert [cost for _, cost in found.settlement.prices] == [Decimal(sats)]
        assert await verdict(database, 1250) is Verdict.EQUAL
        assert await verdict(database, 140, key="another") is Verdict.EQUAL


async def test_nothing_is_free_because_another_key_was_charged_nothing(
    place: str,  # noqa: F811
) -> None:
    stated = replace(ATTEMPT, key_id="another")
    async with open_database(place) as database:
        assert await verdict(database, 1000) is Verdict.FIRST
        # The node still holds money back for it, so the other machine has not asked yet.
        await offer(database, THEIRS)
        assert await verdict(database, 1000) is Verdict.EQUAL
        await offer(database, stated)
        assert await verdict(database, 1000) is Verdict.EQUAL, "nor less than was stated"


async def test_what_runs_on_another_key_holds_no_checkpoint_up(place: str) -> None:  # noqa: F811
    runs = replace(RUNNING, key_id="another")
    async with open_database(place) as database:
        assert await verdict(database, 1000) is Verdict.FIRST
        async with open_log_writer(database) as log:
            log.offer(replace(RECORD, correlation_id="runs", status="in_flight", attempts=(runs,)))
        await offer(database, MINE)
        assert await verdict(database, 1250) is Verdict.SETTLED
        assert await checkpoint(database, 70, key="another") == NotNow("has requests in flight")


async def test_beside_others_nothing_is_compared_while_what_their_lanes_call_free_may_come(
    place: str,  # noqa: F811
) -> None:
    free = replace(ON_A_LANE, money="free", cost_sats=Decimal(0), settled="lane", key_id="key")
    late = LANE_LATE_SECONDS
    async with open_database(place) as database:
        assert await verdict(database, 1000) is Verdict.FIRST
        await offer(database, free, MINE)
        # What it cost would be the price of the other, and its own once its lane has told.
        assert await checkpoint(database, 1950, later=late - 1, beside=LONG) == STILL
        assert (
            await verdict(database, 70, key="another", later=late - 1, beside=LONG) is Verdict.FIRST
        )
        assert await verdict(database, 1250, later=late + 1, beside=LONG) is Verdict.SETTLED


@pytest.mark.parametrize(
    ("spent", "ends", "kept"),
    [
        (1250, LOST, ("spent", 0.25, "checkpoint", 0.25, 1)),
        (1000, LOST, ("free", 0, "checkpoint", 0, 0)),
        # A statement outranks what was measured.
        (
            1250,
            replace(
                LOST, money="spent", cost_sats=Decimal("0.13"), provider_cost_sats=Decimal("0.13")
            ),
            ("spent", 0.13, None, 0.13, 1),
        ),
    ],
)
async def test_who_was_taken_for_dead_and_wakes_undoes_no_price_that_was_learnt_meanwhile(
    spent: int,
    ends: AttemptRow,
    kept: tuple[object, ...],
    place: str,  # noqa: F811
) -> None:
    """Stopped for minutes, and then its own end of the request comes."""
    row = replace(RECORD, correlation_id="it", success=False, answered=False, possibly_spent=1)
    async with open_database(place) as database:
        assert await verdict(database, 1000) is Verdict.FIRST
        async with open_log_writer(database) as log:
            runs = replace(RUNNING, key_id="key")
            log.offer(replace(row, status="in_flight", cost_sats=None, attempts=(runs,)))
        await database.transaction(partial(abandon, database.boot_id))
        assert await verdict(database, spent) is Verdict.SETTLED
        async with open_log_writer(database) as log:
            ends = replace(ends, key_id="key")
            cost = ends.cost_sats
            log.offer(replace(row, status="failed", cost_sats=cost, attempts=(ends,)))
        assert await database.read(as_booked) == kept
        assert await verdict(database, spent) is Verdict.EQUAL


def abandon(boot_id: str, session: Session) -> None:
    for question in ("abandon_attempts", "abandon"):
        session.execute(session.question(question), {"boot_id": boot_id})


def as_booked(session: Session) -> tuple[object, ...]:
    return tuple(
        session.execute(
            "SELECT a.money, a.cost_sats, a.settled, r.cost_sats, r.possibly_spent"
            " FROM attempts AS a JOIN requests AS r ON r.correlation_id = a.correlation_id"
            " WHERE r.status = 'failed'"
        ).fetchone()
    )

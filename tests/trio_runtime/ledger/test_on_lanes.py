"""Which attempts a process that is gone left on lanes, in every engine."""

from dataclasses import replace
from decimal import Decimal
from functools import partial

from arbstr.sansio.ledger.record import Record
from arbstr.sansio.moments import parse_moment
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.on_lanes import leave_lane, read_on_lanes
from arbstr.trio_runtime.ledger.store import Store
from tests.engines import place  # noqa: F401
from tests.records import ATTEMPT, RECORD

UNKNOWN = replace(
    ATTEMPT,
    provider="node",
    failure="no_answer",
    money="unknown",
    cost_sats=None,
    provider_cost_sats=None,
    set_aside_sats=Decimal("0.75"),
)
TOLD_FREE = replace(UNKNOWN, money="free", cost_sats=Decimal(0), settled="lane")
BEGAN = parse_moment(ATTEMPT.started_at) or 0

ROWS = {
    "unknown": replace(UNKNOWN, lane="aa 500 3"),
    "still runs": replace(UNKNOWN, money=None, failure=None, lane="bb 0 0"),
    "told free": replace(TOLD_FREE, lane="cc 1 1"),
    "told its price": replace(TOLD_FREE, money="spent", cost_sats=Decimal(1), lane="dd 1 1"),
    "stated": replace(UNKNOWN, money="spent", provider_cost_sats=Decimal(1), lane="ee 1 1"),
    "free": replace(UNKNOWN, money="free", lane="ff 1 1"),
    "on no lane": UNKNOWN,
    "another's": replace(UNKNOWN, provider="other", lane="aa 500 3"),
    "no note": replace(UNKNOWN, lane="gg"),
    "earlier": replace(UNKNOWN, started_at="2026-02-03T04:05:05.790Z", lane="aa 100 2"),
    "told free earlier": replace(TOLD_FREE, started_at="2026-02-03T04:05:05.790Z", lane="aa 5 2"),
}


async def test_what_a_lane_may_still_tell_is_found_and_nothing_else(place: str) -> None:  # noqa: F811
    async with open_database(place) as database:
        await database.transaction(partial(Store("boot").together, _records()))
        found = await database.read(partial(read_on_lanes, "node", BEGAN + 1000))
        assert {one.correlation_id for one in found.values()} == {
            "unknown",
            "still runs",
            "told free",
        }
        one = found["aa"]
        assert (one.noted.spent, one.noted.requests, one.counted) == (500, 3, Decimal("0.75"))
        assert (one.began, one.ended) == (BEGAN, BEGAN + 12)
        assert [found[name].runs for name in ("aa", "bb", "cc")] == [False, True, False]
        assert [found[name].late for name in ("aa", "bb", "cc")] == [False, False, True]
        later = await database.read(partial(read_on_lanes, "node", BEGAN + 61_000))
        assert set(later) == {"aa", "bb"}, "it will not come any more"
        await database.transaction(partial(leave_lane, "unknown", 1))
        left = await database.read(partial(read_on_lanes, "node", BEGAN + 1000))
        assert left["aa"].correlation_id == "earlier"


def _records() -> list[Record]:
    return [
        replace(RECORD, correlation_id=name, attempts=(attempt,)) for name, attempt in ROWS.items()
    ]

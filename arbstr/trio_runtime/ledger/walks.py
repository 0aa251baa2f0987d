"""Rows in an order that lies in an index: walked to there, or the few in question sorted.

    filters --fewest--> how many rows must be looked at, by the best other index
        many: the index of the order is walked until a place is reached, reading nothing else
        few:  they are looked up by that other index, and sorted

Which way is taken shows in nothing but the time. A percentile is the nearest rank: the p-th of n
latencies in ascending order is the one at place ceil(p * n / 100); no value is made up between two
others. Latencies are those of requests that were sent to a provider and whose end was seen
(`sansio.ledger.reports.TIMED`).

Nothing here waits for more than the disk; call it in a thread. Raises what the session does.
"""

from collections.abc import Mapping
from typing import Final

from arbstr.sansio.ledger.reports import Filters
from arbstr.trio_runtime.ledger.port import Session
from arbstr.trio_runtime.ledger.sums import Where, ends

WALK_SHARE: Final = 16
"""An order is walked in its index if at least one in so many rows of the log would have to be
looked at otherwise. A step of the walk takes about 0.1 us and there are as many as rows in the log
at most; to look up and sort takes 1.1 us a row (measured, SQLite 3.40)."""

BY_TIME: Final = "requests_by_time"
INDEXES: Final[Mapping[str, str]] = {
    "model": "requests_by_model",
    "provider": "requests_by_provider",
    "policy": "requests_by_policy",
}
"""The index that has the rows of a filter in a span together; of an endpoint there is none."""

_DAY_WIDTH: Final = len("2026-02-03")


def fewest(session: Session, filters: Filters, matching: int) -> tuple[str, int]:
    """An index, and how many rows must be looked at by it. `matching` have all that is asked for,
    fewer than any index tells apart where several names are given."""
    given = filters.given
    if not given:
        return BY_TIME, matching
    names = [name for name in INDEXES if name in given]
    if len(given) == 1 and names:
        return INDEXES[names[0]], matching
    # A little more than there are: whole days.
    counts = ["coalesce(sum(requests), 0)"]
    counts += [f"coalesce(sum(requests) FILTER (WHERE {name} = :{name}), 0)" for name in names]
    sql = session.question("requests_of_days").format(counts=", ".join(counts))
    days = {name: moment[:_DAY_WIDTH] for name, moment in ends(filters.span).items()}
    found = session.execute(sql, {**{name: given[name] for name in names}, **days}).fetchone()
    indexes = (BY_TIME, *(INDEXES[name] for name in names))
    count, index = min((int(rows), index) for rows, index in zip(found, indexes, strict=True))
    return index, count


def is_walked(session: Session, rows: int) -> bool:
    """Whether an order is walked in its index rather than `rows` looked up and sorted."""
    (every,) = session.execute("SELECT max(id) FROM requests").fetchone()
    return rows * WALK_SHARE >= (every or 0)


def read_percentiles(
    session: Session, filters: Filters, timed: int
) -> tuple[int | None, int | None]:
    """The nearest ranks of 50 and 95 percent; `timed` is how many latencies there are."""
    if not timed:
        return None, None
    p50, p95 = ((percent * timed + 99) // 100 for percent in (50, 95))
    where = Where(filters)
    index, rows = fewest(session, filters, timed)
    if not is_walked(session, rows):
        sql = session.question("latency_sorted").format(
            filters=where.sql, index=f"INDEXED BY {index}"
        )
        found = dict(iter(session.execute(sql, {**where.values, "p50": p50, "p95": p95})))
        return found[p50], found[p95]

    def walked(order: str, skip: int) -> int:
        sql = session.question("latency_walked").format(filters=where.sql, order=order)
        (latency,) = session.execute(sql, {**where.values, "skip": skip}).fetchone()
        assert isinstance(latency, int)  # the column's type
        return latency

    # Each from the end that is nearer.
    return walked("ASC", p50 - 1), walked("DESC", timed - p95)

"""Attempts on lanes, on disk: which of them a process left that is gone, and may still be told of.

    a provider --read_on_lanes--> OnLane, by the lane's id
    what its lane can tell no more --leave_lane--> nobody asks it again after the next start
    a key --may_come_late--> whether something may be charged that its row calls free

An attempt is noted with its lane before its first byte goes out (`sansio.ledger.lanes.Noted`), in
the line and the row that there are anyway.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.lanes import LATE_SECONDS, Noted
from arbstr.sansio.moments import format_moment, parse_moment
from arbstr.trio_runtime.ledger.port import Session, named

LONGEST_MS: Final = 24 * 3600 * 1000
"""How long before its end an attempt may have begun; longer than any is waited for."""


@final
@dataclass(frozen=True, slots=True)
class OnLane:
    """An attempt whose lane may still tell. Moments are milliseconds since 1970; `counted` is what
    the day has for it, in sats. `runs`: its row is not final. `late`: it was told to have cost
    nothing, and may come after all."""

    correlation_id: str
    n: int
    noted: Noted
    began: int
    ended: int
    counted: Decimal
    runs: bool
    late: bool


def read_on_lanes(provider: str, now: int, session: Session) -> Mapping[str, OnLane]:
    """Of a provider, as of a moment in milliseconds since 1970."""
    late_since = now - round(LATE_SECONDS * 1000)
    parameters = {"provider": provider, "since": format_moment(late_since - LONGEST_MS)}
    found: dict[str, OnLane] = {}
    for row in named(session.execute(session.question("attempts_on_lanes"), parameters)):
        noted, began = Noted.read(row["lane"]), parse_moment(row["started_at"])
        if noted is None or began is None:
            continue
        ended, late = began + (row["duration_ms"] or 0), row["settled"] is not None
        if late and ended < late_since:
            continue
        counted = Decimal(repr(row["counted"]))
        one = OnLane(
            *(row["correlation_id"], row["n"], noted, began, ended, counted),
            runs=row["money"] is None,
            late=late,
        )
        other = found.get(noted.lane)
        # One at a time is on a lane, so only the last can still be told of.
        if other is None or (other.late, one.began) > (late, other.began):
            found[noted.lane] = one
    return found


def leave_lane(correlation_id: str, n: int, session: Session) -> None:
    """Its lane can tell no more of the attempt."""
    session.execute(session.question("leave_lane"), {"correlation_id": correlation_id, "n": n})


def may_come_late(provider: str, key_id: str, now: int, session: Session) -> bool:
    """Whether the lane of an attempt with that key told that it took nothing, so short a while ago
    that it may come after all. `now` as in `read_on_lanes`."""
    late_since = now - round(LATE_SECONDS * 1000)
    parameters = {
        "provider": provider,
        "key_id": key_id,
        "since": format_moment(late_since - LONGEST_MS),
        "now": format_moment(now),
    }
    rows = session.execute(session.question("late_on_lanes"), parameters)
    ends = ((parse_moment(str(began)) or 0) + int(ms or 0) for began, ms in rows)
    return any(late_since <= end for end in ends)

"""The leases of a day as rows of the ledger; a function is a transaction's work, or a part of it.

exchange             a process asks for more, or gives back: `sansio.routing.lease.exchanged`
inherit              one that is gone has spent what the ledger says
corrected_elsewhere  what one had booked was corrected by another, which has booked that
held, is_wanted      for who only looks
"""

from collections.abc import Callable, Collection
from decimal import ROUND_CEILING, Decimal
from typing import Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.routing.budget import day_of
from arbstr.sansio.routing.lease import ENDED, Ask, Row, exchanged
from arbstr.trio_runtime.ledger.budget import OF_ONE, WITHOUT_LEASE, sum_of_day
from arbstr.trio_runtime.ledger.port import Session

WANTED_SECONDS: Final = 3.0
"""How long others give back what is idle after somebody found no room."""

LIVING_SECONDS: Final = 30.0
"""Who has exchanged within so long shares what is left of the day."""

KEPT_DAYS: Final = 30
"""Days whose leases stay in the ledger, for who wonders."""

BASE: Final = "-"
"""The lease of what was spent without one."""

CORRECTED: Final = "~"
"""How a row begins that is no lease: so many millisats (its `seq`) less than it had booked did
attempts of the process take whose boot id follows, as another found, which has booked that."""


@final
@dataclass(frozen=True, slots=True)
class Exchanged:
    """What an exchange found: the row, or None for no room; the sum of all other caps; whether any
    other may hold something idle; and who is gone without a word, if that was looked for."""

    row: Row | None
    others: int
    wanted: bool
    held: bool = False
    gone: tuple[str, ...] = ()


def exchange(
    session: Session,
    *,
    boot_id: str,
    day: int,
    ask: Ask,
    limit: int | None,
    now: float,
    is_gone: Callable[[str], bool] = lambda boot_id: False,
) -> Exchanged:
    """One exchange, the transaction's whole work."""
    session.execute(session.question("lock_day"), {"day": day}).fetchall()
    now = _clock(session, now)
    rows = {
        name: (Row(int(cap), int(seq)), float(seen_at))
        for name, cap, seq, seen_at in session.execute(session.question("leases"), {"day": day})
        if not name.startswith(CORRECTED)
    }

    def put(name: str, row: Row, seen_at: float) -> None:
        session.execute(
            session.question("upsert_lease"),
            {"day": day, "boot_id": name, "cap": row.cap, "seq": row.seq, "seen_at": seen_at},
        )
        rows[name] = row, seen_at

    first = boot_id not in rows
    if first:
        # Who is here for the first time sees to it that what others spent without a lease counts.
        put(boot_id, Row(), now)
        spent = msats(sum_of_day(session, WITHOUT_LEASE, day, {"day": day}))
        before, until = rows.get(BASE, (Row(), 0.0))
        put(BASE, Row(max(before.cap, spent)), until)
        session.execute(session.question("forget_leases"), {"day": day - KEPT_DAYS})
    mine, _ = rows[boot_id]
    caps = sum(row.cap for row, _ in rows.values())
    living = sum(seen > now - LIVING_SECONDS for name, (_, seen) in rows.items() if name != BASE)
    after = exchanged(mine, ask, limit=limit, caps=caps, living=living)
    base, until = rows[BASE]
    if after is None:
        put(BASE, base, now + WANTED_SECONDS)
    else:
        put(boot_id, after, now)
    others = {name: row for name, (row, _) in rows.items() if name not in (BASE, boot_id)}
    open_ones = [name for name, row in others.items() if row.seq < ENDED]
    look = after is None or first or ask.alone
    gone = tuple(name for name in open_ones if is_gone(name)) if look else ()
    held = any(others[name].cap > 0 for name in open_ones if name not in gone)
    return Exchanged(after, caps - mine.cap, until > now, held, gone)


def held(day: int, boots: Collection[str], session: Session) -> Decimal:
    rows = session.execute(session.question("leases"), {"day": day})
    return Decimal(sum(int(cap) for name, cap, _, _ in rows if name not in boots)) / 1000


def is_wanted(day: int, now: float, session: Session) -> bool:
    now = _clock(session, now)
    rows = session.execute(session.question("leases"), {"day": day})
    return any(name == BASE and seen_at > now for name, _, _, seen_at in rows)


def _clock(session: Session, now: float) -> float:
    """What the clock says that all go by, which is `now` on one machine."""
    (told,) = session.execute(session.question("clock")).fetchone()
    return now if told is None else float(told)


def msats(sats: Decimal) -> int:
    """Whole millisats, rounded up."""
    return int((sats * 1000).to_integral_value(ROUND_CEILING))


def corrected_elsewhere(session: Session, at: float, boot_id: str, less: Decimal) -> None:
    """An attempt of that process, of the day of `at`, took so many sats less than it had booked,
    and somebody else books that. A process that has no lease was counted by its rows."""
    day, name = day_of(at), CORRECTED + boot_id
    rows = {row[0]: row for row in session.execute(session.question("leases"), {"day": day})}
    if boot_id in rows and rows[boot_id][2] < ENDED:
        before = int(rows[name][2]) if name in rows else 0
        seq = before + msats(less)
        told = {"day": day, "boot_id": name, "cap": 0, "seq": seq, "seen_at": 0.0}
        session.execute(session.question("upsert_lease"), told)


def may_still_book(
    session: Session, at: float, boot_id: str | None, is_gone: Callable[[str], bool]
) -> bool:
    """Whether a process has a lease of the day of `at` that has not ended, and is not surely gone:
    if it was only stopped it books itself what its attempts cost."""
    rows = session.execute(session.question("leases"), {"day": day_of(at)})
    return any(name == boot_id and seq < ENDED and not is_gone(name) for name, _, seq, _ in rows)


def inherit(session: Session, day: int, gone: Collection[str]) -> int:
    """Those are gone, and all they had noted is in the ledger: their leases become what it says
    that they spent. Returns how many did."""
    session.execute(session.question("lock_day"), {"day": day}).fetchall()
    rows = session.execute(session.question("leases"), {"day": day}).fetchall()
    elsewhere = {name: int(seq) for name, _, seq, _ in rows if name.startswith(CORRECTED)}
    settled = 0
    for name, _, seq, seen_at in rows:
        if name in gone and seq < ENDED:
            spent = msats(sum_of_day(session, OF_ONE, day, {"boot_id": name}))
            cap = spent + elsewhere.get(CORRECTED + name, 0)
            told = {"day": day, "boot_id": name, "cap": cap, "seq": ENDED, "seen_at": seen_at}
            session.execute(session.question("upsert_lease"), told)
            settled += 1
    return settled

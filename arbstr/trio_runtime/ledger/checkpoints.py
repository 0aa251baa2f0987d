"""Checkpoints on disk: what the ledger knows between two of them, and what they settled.

    Reading --take--> Taken, in one transaction: the verdict, the rows that changed, the checkpoint

What was stated and what is open between two checkpoints is read from the rows themselves, so that
the kills between them and the processes that shared the file are in it.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, final

from arbstr.sansio.failover.failure import Money
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.alarms import Sums
from arbstr.sansio.ledger.lanes import SWEPT_SECONDS
from arbstr.sansio.ledger.reconcile import (
    LATE_SECONDS,
    Account,
    Open,
    Settlement,
    Verdict,
    settle,
)
from arbstr.sansio.moments import format_moment, parse_moment
from arbstr.sansio.money import add_sats, sats_from_msats
from arbstr.trio_runtime.ledger.lease_rows import corrected_elsewhere, may_still_book
from arbstr.trio_runtime.ledger.on_lanes import may_come_late
from arbstr.trio_runtime.ledger.port import Session, named

TELLING_SECONDS: Final = SWEPT_SECONDS + 70.0
"""How long after its end, or the start of its process, a lane may still tell: by the sweep nothing
is reserved any more, the next question comes within a minute, and is answered in ten seconds."""

SETTLED_BY: Final = {Verdict.SETTLED: "checkpoint", Verdict.SHARED: "shared"}
"""What stands in the column `settled`."""

BOUGHT: Final = "bought"
"""What stands in the column `verdict` of what is no checkpoint, but moves the last one."""


@final
@dataclass(frozen=True, slots=True)
class Before:
    """What the ledger had when a node was about to be asked: the numbers of its last request, and
    of the last checkpoint of that key; 0 for none."""

    request: int
    checkpoint: int


NEVER: Final = "9999-12-31T23:59:59.999Z"
"""Since then nothing has begun."""


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """What a node said of a provider's key, after `before`. `moment`: milliseconds since 1970."""

    provider: str
    key_id: str
    account: Account
    before: Before
    moment: int


@final
@dataclass(frozen=True, slots=True)
class Correction:
    """An attempt counts for another amount than before, in sats, on the day of `moment`."""

    moment: int
    counted: Decimal
    costs: Decimal


@final
@dataclass(frozen=True, slots=True)
class Taken:
    """What a checkpoint told, and what changed by it. `stated` and `charged` are sats since the one
    before; what was stated is of so many attempts (`known`)."""

    settlement: Settlement
    stated: Decimal
    charged: Decimal
    corrections: tuple[Correction, ...]
    known: int = 0
    still_open: int = 0

    @property
    def compared(self) -> Sums | None:
        """What was charged for so many attempts, and what is known of each of them; `None` where
        the two are not of the same attempts."""
        if self.still_open or self.settlement.verdict in (Verdict.FIRST, Verdict.FELL):
            return None
        settled = self.settlement.prices
        right = add_sats(self.stated, *(sats for _, sats in settled))
        return Sums(self.known + len(settled), self.charged, right)


@final
@dataclass(frozen=True, slots=True)
class NotNow:
    """Why no checkpoint can be taken: a predicate about the provider."""

    why: str


@final
@dataclass(frozen=True, slots=True)
class Unknown:
    """Attempts that a provider stated no charge for; `sats` were set aside.

    A node's books have it. Of other kinds the formula tells, but for `unpriced` of them.
    """

    provider: str
    attempts: int
    since: str
    sats: float
    unpriced: int


def before_asking(provider: str, key_id: str, session: Session) -> Before:
    """As of now."""
    last = _last_checkpoint(session, provider, key_id)
    return Before(last_request(session), 0 if last is None else last[0])


def last_request(session: Session) -> int:
    """The number of the last request there is."""
    (number,) = session.execute(session.question("last_request")).fetchone()
    return int(number)


def _last_checkpoint(session: Session, provider: str, key_id: str) -> Sequence[Any] | None:
    parameters = {"provider": provider, "key_id": key_id}
    found: Sequence[Any] | None = session.execute(
        session.question("last_checkpoint"), parameters
    ).fetchone()
    return found


def unknown_attempts(session: Session) -> tuple[Unknown, ...]:
    """What is still open, by provider."""
    return tuple(Unknown(*row) for row in session.execute(session.question("unknown_attempts")))


def take(
    reading: Reading,
    session: Session,
    *,
    boot_id: str | None = None,
    beside: float | None = None,
    is_gone: Callable[[str], bool] = lambda boot_id: False,
) -> Taken | NotNow:
    """Takes a checkpoint, if the ledger says that nothing was in flight meanwhile.

    Nor may another have been taken: what the node said may be older than what that one is about.
    `boot_id` is of the process that books the corrections; None for one that books nothing. What
    was abandoned of one that is not surely gone (`is_gone`) is priced, and nobody books that: it
    would be taken off twice if that one wakes. `beside`: other processes run on the
    ledger, and have for so many seconds since this one looks. What their lanes will tell of each
    attempt is not shared out before; what nobody tells by then, is. Nor is anything compared while
    what they called free may still come: it would be another's price.
    """
    provider, key = reading.provider, reading.key_id
    account, until = reading.account, reading.before.request
    (in_flight,) = session.execute(
        session.question("provider_in_flight"), {"provider": provider, "key_id": key}
    ).fetchone()
    if in_flight:
        return NotNow("has requests in flight")
    now_last = last_request(session)
    now = format_moment(reading.moment)
    if _attempts(session, reading, until, now_last, NEVER):
        return NotNow("was asked meanwhile")
    if beside is not None and may_come_late(provider, key, reading.moment, session):
        return NotNow("has lanes that are still to tell")
    known = _last_checkpoint(session, provider, key)
    before, number, rows = None, 0, []
    if known is not None:
        number, spent, requests, balance, after, since, is_alone = known
        rows = _attempts(session, reading, after, until, since)
        if is_alone or all(row["key_id"] is not None for row in rows):
            before = Account(balance, 0, spent, requests)
        else:
            rows = []  # some of them were perhaps sent with the other key
    if number != reading.before.checkpoint:
        return NotNow("was compared by another arbstr meanwhile")
    open_rows = [row for row in rows if row["provider_cost_sats"] is None and not row["settled"]]
    if any(_ago(row, reading) < LATE_SECONDS for row in open_rows):
        return NotNow("may still get what was sent a moment ago")
    stated = add_sats(*(_exact(_known(row)) for row in rows if row not in open_rows))
    open_ones = [Open(row["correlation_id"], row["n"], _most(row)) for row in open_rows]
    settlement = settle(before, account, stated, open_ones)
    if beside is not None and settlement.verdict is Verdict.SHARED:
        on_lanes = (row for row in open_rows if row["lane"] is not None)
        if any(min(beside, _ago(row, reading)) < TELLING_SECONDS for row in on_lanes):
            return NotNow("has lanes that are still to tell")
    corrections = []
    for correction, row in zip(_write(session, settlement, open_rows), open_rows, strict=False):
        began, counted_by = correction.moment / 1000, row["boot_id"]
        if row["status"] == "abandoned" and may_still_book(session, began, counted_by, is_gone):
            continue
        corrections.append(correction)
        if boot_id is not None and counted_by not in (None, boot_id):
            less = add_sats(correction.counted, correction.costs.copy_negate())
            corrected_elsewhere(session, began, counted_by, less)
    charged = 0 if before is None else account.total_spent - before.total_spent
    charged_sats = sats_from_msats(Decimal(charged))
    session.execute(
        session.question("insert_checkpoint"),
        {
            "provider": provider,
            "key_id": key,
            "taken_at": now,
            "total_spent": account.total_spent,
            "total_requests": account.total_requests,
            "balance": account.balance,
            "after_request": until,
            "stated_sats": float(stated),
            "charged_sats": float(charged_sats),
            "open_attempts": len(open_rows),
            "verdict": settlement.verdict.value,
        },
    )
    still_open = 0 if settlement.prices else len(open_rows)
    known_rows = len(rows) - len(open_rows)
    return Taken(settlement, stated, charged_sats, tuple(corrections), known_rows, still_open)


def bought(provider: str, key_id: str, msats: int, moment: int, session: Session) -> None:
    """A key was charged so much for something else than a request: the next checkpoint is compared
    with what it was before and that."""
    known = _last_checkpoint(session, provider, key_id)
    if known is None:
        return  # nothing is compared yet
    _, spent, requests, balance, after, *_ = known
    sats = float(sats_from_msats(Decimal(msats)))
    session.execute(
        session.question("insert_checkpoint"),
        {
            "provider": provider,
            "key_id": key_id,
            "taken_at": format_moment(moment),
            "total_spent": spent + msats,
            "total_requests": requests,
            "balance": balance - msats,
            "after_request": after,
            "stated_sats": sats,
            "charged_sats": sats,
            "open_attempts": 0,
            "verdict": BOUGHT,
        },
    )


def write_price(
    session: Session,
    correlation_id: str,
    n: int,
    sats: Decimal,
    settled: str,
    *,
    late: bool = False,
) -> bool:
    """An attempt that ended without word turned out to have cost so much. False: its price was
    known before, and stays. `late`: it was settled before, at nothing.

    A share is no price of its own: who has the smallest is not known to have been free.
    """
    is_share = settled == SETTLED_BY[Verdict.SHARED]
    money = Money.SPENT if sats or is_share else Money.FREE
    price = {"correlation_id": correlation_id, "n": n, "cost": float(sats)}
    question = "settle_late_attempt" if late else "settle_attempt"
    written = session.execute(
        session.question(question), {**price, "money": money.value, "settled": settled}
    )
    if not written.rowcount:
        return False
    session.execute(session.question("settle_request"), price)
    return True


def _write(
    session: Session, settlement: Settlement, rows: Sequence[dict[str, Any]]
) -> tuple[Correction, ...]:
    if not settlement.prices:
        return ()
    corrections = []
    for (one, sats), row in zip(settlement.prices, rows, strict=True):
        write_price(session, one.correlation_id, one.n, sats, SETTLED_BY[settlement.verdict])
        counted = row["cost_sats"] if row["cost_sats"] is not None else row["set_aside_sats"]
        corrections.append(Correction(_started(row), _exact(counted), sats))
    return tuple(corrections)


def _attempts(
    session: Session, reading: Reading, after: int, until: int, since: str
) -> list[dict[str, Any]]:
    parameters = {
        "provider": reading.provider,
        "key_id": reading.key_id,
        "after": after,
        "until": until,
        "since": since,
        "now": format_moment(reading.moment),
    }
    return named(session.execute(session.question("attempts_since_checkpoint"), parameters))


def _known(row: dict[str, Any]) -> object:
    return row["cost_sats"] if row["settled"] else row["provider_cost_sats"]


def _exact(sats: object) -> Decimal:
    # The digits of the column, not the binary fraction behind them.
    return Decimal(0) if sats is None else Decimal(repr(sats))


def _most(row: dict[str, Any]) -> Decimal | None:
    return None if row["set_aside_sats"] is None else _exact(row["set_aside_sats"])


def _started(row: dict[str, Any]) -> int:
    return parse_moment(str(row["started_at"])) or 0


def _ago(row: dict[str, Any], reading: Reading) -> float:
    """How many seconds before the reading an attempt ended. One that ended long after it did so
    before the clock was put back, and is waited for no longer than others."""
    duration = row["duration_ms"]
    ended = _started(row) + (duration if isinstance(duration, int) else 0)
    return abs(reading.moment - ended) / 1000

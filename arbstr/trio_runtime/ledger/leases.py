"""A day's budget shared by all who share a ledger: `sansio.routing.lease`, and its exchanges.

    each second: what is at hand, what waits --Lease--> Ask --one transaction--> the row, or no room
    a request that does not fit waits for an exchange; what fits never does

While the ledger cannot be reached what is in hand may still be spent: it is counted there. What
does not fit is then refused with a 503, and with `[budget] open` let through after `HOLD_SECONDS`.
At a clean end what was not used is given back; of a process that was killed it is lost for the day.
"""

import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio.money import add_sats
from arbstr.sansio.routing.budget import Budget, day_of
from arbstr.sansio.routing.lease import Ask, Lease, Row, exchanged
from arbstr.trio_runtime.ledger.budget import HOLD_SECONDS, sum_of_day
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
"""How often a process looks what it has at hand, and who found no room."""

PATIENCE_SECONDS: Final = 2.5
"""How long a request waits for an exchange, which takes milliseconds; picked."""

LOOK_SECONDS: Final = 0.5
"""How long whoever only looks waits for the ledger; picked."""

WANTED_SECONDS: Final = 3.0
"""How long others give back what is idle after somebody found no room."""

REFUSED_SECONDS: Final = 1.0
"""How long as much and more is refused without asking again."""

LIVING_SECONDS: Final = 30.0
"""Who has exchanged within so long shares what is left of the day."""

KEPT_DAYS: Final = 30
"""Days whose leases stay in the ledger, for who wonders."""

BASE: Final = "-"
"""The row of what was spent without a lease."""


@final
@dataclass(frozen=True, slots=True)
class Exchanged:
    """What an exchange found: the row, or None for no room; the sum of all other caps."""

    row: Row | None
    others: int
    wanted: bool


@final
class Leases:
    """The budget's part of each day. Takes the place of `budget.Today`; `run` until cancelled."""

    def __init__(
        self, budget: Budget, database: Database, recovered: Callable[[], bool] = lambda: True
    ) -> None:
        self._budget = budget
        self._database = database
        self._recovered = recovered
        self._leases: dict[int, Lease] = {}
        self._waiting: list[int] = []
        self._wanted = trio.Event()
        self._tried = trio.Event()
        self._trouble_since: float | None = None
        self._one_at_a_time = trio.Lock()
        self._ended = False
        self._looked = trio.current_time()
        budget.is_leased = budget.has_ledger = True

    async def read(self) -> bool:
        """The first exchange of the day; `False` if that cannot be now."""
        return await self._exchange(time.time())

    async def run(self) -> None:
        """Exchanges once a second if need be, and at once when a request waits."""
        while True:
            with trio.move_on_after(TICK_SECONDS):
                await self._wanted.wait()
            self._wanted = trio.Event()
            await self._exchange(time.time())

    async def wait(self, most: Decimal | None = None) -> None:
        """Waits a moment until it is known whether `most` sats fit."""
        amount = _msats(most or Decimal(0))
        self._waiting.append(amount)
        try:
            with trio.move_on_after(PATIENCE_SECONDS):
                while True:
                    self._wanted.set()
                    await self._tried.wait()
                    if self._budget.is_decided(most, time.time()):
                        return
        finally:
            self._waiting.remove(amount)

    async def close(self) -> None:
        """The process ends: what is not used is given back, and nothing is asked for any more."""
        self._ended = True
        async with self._one_at_a_time:
            for day, lease in self._leases.items():
                try:
                    await self._ask(day, lease.ends(self._used(day)), time.time())
                except (Trouble, ArithmeticError) as error:
                    log.warning("what the budget has left cannot be given back (%s)", error)
                    return

    async def others(self, boots: Collection[str]) -> Decimal:
        """What the ledger holds of today for all processes but these, in sats: of those that are
        gone all they had. As last told, if it cannot be read at once."""
        now = time.time()
        with trio.move_on_after(LOOK_SECONDS), suppress(Trouble):
            return await self._database.read(partial(_held, day_of(now), frozenset(boots)))
        own = self._budget.own(now).spent
        return add_sats(self._budget.view(now).spent, own.copy_negate())

    async def _exchange(self, now: float) -> bool:
        """Whatever is to be asked now, of today and of what still runs since yesterday."""
        try:
            if not self._recovered():
                raise Trouble("what a killed arbstr had noted is not in it yet")
            async with self._one_at_a_time:
                for day in sorted({day_of(now), *self._leases}):
                    if not self._ended:
                        await self._exchange_of(day, now)
        except (Trouble, ArithmeticError) as error:
            self._endure(error, now)
            done = False
        else:
            self._trouble_since = None
            done = True
        for day in [day for day in self._leases if day < day_of(now) - 1]:
            del self._leases[day]
        tried, self._tried = self._tried, trio.Event()
        tried.set()
        return done

    async def _exchange_of(self, day: int, now: float) -> None:
        lease, is_today = self._leases.get(day), day == day_of(now)
        if lease is None:
            await self._begin(day, now)
            lease = self._leases[day]
        if is_today:
            began, self._looked = self._looked, trio.current_time()
            amount, requests = self._budget.take_demand(day)
            lease.seen(_msats(amount), requests, self._looked - began)
        wanted = is_today and lease.cap > self._used(day) and self._budget.limit is not None
        if wanted and not self._waiting:
            wanted = await self._database.read(partial(_is_wanted, day, now))
        # From here to what is sent nothing else happens, so that what is used stays so.
        used, waiting = self._used(day), tuple(self._waiting)
        ask: Ask | None
        if is_today and waiting and any(used + amount > lease.cap for amount in waiting):
            ask = lease.waits(used, tuple(one for one in waiting if used + one > lease.cap))
        elif self._budget.limit is None:
            # Nothing is held of a day without an end: a limit that is set finds what was used.
            ask, waiting = (lease.ends(used) if used > lease.cap else None), ()
        else:
            ask, waiting = lease.tick(used, wanted=wanted and not waiting), ()
        if ask is not None and not await self._ask(day, ask, now) and waiting:
            least = Decimal(min(waiting)) / 1000
            self._budget.refuse(day, least, now + REFUSED_SECONDS)

    async def _begin(self, day: int, now: float) -> None:
        """The first exchange of a day: only to be there, and to see who else is."""
        lease = self._leases[day] = Lease()
        begun = False
        try:
            await self._ask(day, lease.ends(self._used(day)), now)
            begun = True
        finally:
            if not begun:
                del self._leases[day]  # it is tried again

    async def _ask(self, day: int, ask: Ask, now: float) -> bool:
        """One exchange; whether there was room. What is in hand changes with its answer alone."""
        lease, limit = self._leases[day], self._budget.limit
        self._show(day)  # what is given back is gone before it is sent
        done = await self._database.transaction(
            partial(
                exchange,
                boot_id=self._database.boot_id,
                day=day,
                ask=ask,
                limit=None if limit is None else int(limit * 1000),
                now=now,
            )
        )
        if done.row is not None:
            lease.answered(done.row)
        self._show(day, done.others)
        return done.row is not None

    def _show(self, day: int, others: int | None = None) -> None:
        told = None if others is None else Decimal(others) / 1000
        self._budget.give(day, Decimal(self._leases[day].cap) / 1000, told)

    def _used(self, day: int) -> int:
        return _msats(self._budget.used(day))

    def _endure(self, trouble: Exception, now: float) -> None:
        if self._trouble_since is None:
            self._trouble_since = trio.current_time()
            log.warning(
                "the budget cannot be shared now (%s): what does not fit into what this process "
                "has in hand is refused",
                trouble,
            )
        if trio.current_time() - self._trouble_since >= HOLD_SECONDS:
            self._budget.presume(now)


def exchange(
    session: Session, *, boot_id: str, day: int, ask: Ask, limit: int | None, now: float
) -> Exchanged:
    """One exchange, the transaction's whole work."""
    session.execute(session.question("lock_day"), {"day": day}).fetchall()
    rows = {
        name: (Row(int(cap), int(seq)), float(seen_at))
        for name, cap, seq, seen_at in session.execute(session.question("leases"), {"day": day})
    }

    def put(name: str, row: Row, seen_at: float) -> None:
        session.execute(
            session.question("upsert_lease"),
            {"day": day, "boot_id": name, "cap": row.cap, "seq": row.seq, "seen_at": seen_at},
        )
        rows[name] = row, seen_at

    if boot_id not in rows:
        # Who is here for the first time sees to it that what others spent without a lease counts.
        put(boot_id, Row(), now)
        spent = _msats(sum_of_day(session, "spent_without_lease", day, {"day": day}))
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
    return Exchanged(after, caps - mine.cap, until > now)


def _held(day: int, boots: Collection[str], session: Session) -> Decimal:
    rows = session.execute(session.question("leases"), {"day": day})
    return Decimal(sum(int(cap) for name, cap, _, _ in rows if name not in boots)) / 1000


def _is_wanted(day: int, now: float, session: Session) -> bool:
    rows = session.execute(session.question("leases"), {"day": day})
    return any(name == BASE and seen_at > now for name, _, _, seen_at in rows)


def _msats(sats: Decimal) -> int:
    """Rounded up."""
    return int((sats * 1000).to_integral_value(ROUND_CEILING))

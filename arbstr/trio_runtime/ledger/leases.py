"""A day's budget shared by all who share a ledger: `sansio.routing.lease`, and its exchanges.

    each second: what is at hand, what waits --Lease--> Ask --one transaction--> the row, or no room
    a request that does not fit waits for an exchange; what fits never does

While the ledger cannot be reached what is in hand may still be spent: it is counted there. What
does not fit is then refused with a 503, and with `[budget] open` let through after `HOLD_SECONDS`.
At a clean end what was not used is given back. Of a process that was killed it is lost for the day,
unless the ledger is a file, whose processes hold locks: then it is sure who is gone, and what it
had noted becomes rows, and its lease what they say it spent (`_inherit`).

    arbstr alone on its file --all of the day--> nothing is asked for any more; once a second it
                                                 looks whether another is there
    another is there         --what is idle--> given back; from then on each has its slice
    all others are gone      --> what they had not used, and the rest
"""

import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio.money import add_sats
from arbstr.sansio.routing.budget import Budget, day_of
from arbstr.sansio.routing.lease import Ask, Lease
from arbstr.trio_runtime.ledger.budget import HOLD_SECONDS, UNREAD, say_spent
from arbstr.trio_runtime.ledger.intents import Leftovers
from arbstr.trio_runtime.ledger.lease_rows import (
    WANTED_SECONDS,
    Exchanged,
    exchange,
    held,
    inherit,
    is_wanted,
    msats,
)
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
"""How often a process looks what it has at hand, and who found no room."""

PATIENCE_SECONDS: Final = 2.5
"""How long a request waits for an exchange, which takes milliseconds; picked."""

LOOK_SECONDS: Final = 0.5
"""How long whoever only looks waits for the ledger; picked."""

REFUSED_SECONDS: Final = 1.0
"""How long as much and more is refused without asking again."""

GIVE_SECONDS: Final = 1.25
"""How long who finds no room asks again, while others may hold something idle: they look each
`TICK_SECONDS`. Picked."""

AGAIN_SECONDS: Final = 0.1
"""How long a request that waits lets pass between two exchanges; picked."""

UNLIMITED_SECONDS: Final = 5.0
"""How often a process without a limit, and without siblings, tells others what it spent; picked."""


@final
class Leases:
    """The budget's part of each day. Takes the place of `budget.Today`; `run` until cancelled.

    `lone`: it has no siblings that are started with it, so it may find itself alone.
    """

    def __init__(
        self,
        budget: Budget,
        database: Database,
        recovered: Callable[[], bool] = lambda: True,
        *,
        lone: bool = False,
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
        self._lone = lone
        self._was_alone: bool | None = None
        self._others: dict[int, int] = {}
        self._in_vain: tuple[float, float] | None = None
        self._looked = self._told = trio.current_time()
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

    def ask(self) -> None:
        """Exchanges at once, and does not wait for it."""
        self._wanted.set()

    async def wait(self, most: Decimal | None = None) -> None:
        """Waits a moment until it is known whether `most` sats fit."""
        amount = msats(most or Decimal(0))
        self._waiting.append(amount)
        try:
            with trio.move_on_after(PATIENCE_SECONDS):
                while True:
                    self._wanted.set()
                    await self._tried.wait()
                    if self._budget.is_decided(most, time.time()):
                        return
                    await trio.sleep(AGAIN_SECONDS)
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
            return await self._database.read(partial(held, day_of(now), frozenset(boots)))
        own = self._budget.own(now).spent
        return add_sats(self._budget.view(now).spent, own.copy_negate())

    async def _exchange(self, now: float) -> bool:
        """Whatever is to be asked now, of today and of what still runs since yesterday."""
        try:
            if not self._recovered():
                raise Trouble("what a killed arbstr had noted is not in it yet")
            await self._look_around()
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

    async def _look_around(self) -> None:
        """Whether there is anybody to share with; without a limit there is nothing to share."""
        if not self._lone or self._budget.limit is None:
            self._budget.is_alone = False
            return
        was, alone = self._was_alone, await self._database.is_alone()
        self._was_alone = self._budget.is_alone = alone
        if alone and not was:
            self._others.clear()  # those that are gone may have left something
        elif was is not False and not alone:
            log.info("another arbstr keeps its ledger here: they share the day's budget")

    async def _exchange_of(self, day: int, now: float) -> None:
        lease, is_today = self._leases.get(day), day == day_of(now)
        if lease is None:
            await self._begin(day, now)
            lease = self._leases[day]
        alone = is_today and self._budget.is_alone
        if is_today:
            began, self._looked = self._looked, trio.current_time()
            amount, requests = self._budget.take_demand(day)
            lease.seen(msats(amount), requests, self._looked - began)
        wanted = is_today and lease.cap > self._used(day) and self._budget.limit is not None
        if wanted and not alone and not self._waiting:
            wanted = await self._database.read(partial(is_wanted, day, now))
        # From here to what is sent nothing else happens, so that what is used stays so.
        used, waiting = self._used(day), tuple(self._waiting)
        ask: Ask | None
        if self._budget.limit is None:
            # Nothing is held of a day without an end: a limit that is set finds what was used.
            told = trio.current_time()
            late = not self._lone or told - self._told >= UNLIMITED_SECONDS
            ask, waiting = (lease.ends(used) if late and used > lease.cap else None), ()
            self._told = self._told if ask is None else told
        elif alone:
            ask, waiting = lease.tick(used, wanted=False, room=self._room(day)), ()
        elif is_today and waiting and any(used + amount > lease.cap for amount in waiting):
            ask = lease.waits(used, tuple(one for one in waiting if used + one > lease.cap))
        else:
            ask, waiting = lease.tick(used, wanted=wanted and not waiting), ()
        if ask is not None:
            done = await self._ask(day, ask, now)
            if waiting and self._is_in_vain(done):
                self._budget.refuse(day, Decimal(min(waiting)) / 1000, now + REFUSED_SECONDS)

    def _room(self, day: int) -> int:
        """What nobody holds of a day, as far as was told: something, if nobody was asked yet."""
        others, limit = self._others.get(day), self._budget.limit
        if others is None or limit is None:
            return 1
        return int(limit * 1000) - others - self._leases[day].cap

    def _is_in_vain(self, done: Exchanged) -> bool:
        """Whether who waits need not ask again: there was no room, and what others hold idle would
        have been given back by now."""
        now = trio.current_time()
        if done.row is not None:
            self._in_vain = None
            return False
        if self._in_vain is None or now - self._in_vain[1] > WANTED_SECONDS:
            self._in_vain = now, now
        self._in_vain = self._in_vain[0], now
        return not done.held or now - self._in_vain[0] >= GIVE_SECONDS

    async def _begin(self, day: int, now: float) -> None:
        """The first exchange of a day: to be there, and to see who else is."""
        lease = self._leases[day] = Lease()
        limit = self._budget.limit
        most = None if limit is None or not self._budget.is_alone else int(limit * 1000)
        begun = False
        try:
            await self._ask(day, lease.begins(self._used(day), most), now)
            begun = True
        finally:
            if not begun:
                del self._leases[day]  # it is tried again
        if self._budget.is_alone:
            say_spent(self._budget, now)

    async def _ask(self, day: int, ask: Ask, now: float) -> Exchanged:
        """One exchange. What is in hand changes with its answer alone; where there was no room for
        all that was wanted, and somebody is gone, there is a second one after what they left."""
        lease, limit = self._leases[day], self._budget.limit
        self._show(day)  # what is given back is gone before it is sent
        while True:
            done = await self._database.transaction(
                partial(
                    exchange,
                    boot_id=self._database.boot_id,
                    day=day,
                    ask=ask,
                    limit=None if limit is None else int(limit * 1000),
                    now=now,
                    is_gone=self._database.is_gone,
                )
            )
            if done.row is not None:
                lease.answered(done.row)
            self._others[day] = done.others
            self._show(day, done.others)
            if not done.gone or not await self._inherit(day, done.gone):
                return done
            ask = lease.once_more(ask, self._used(day))

    async def _inherit(self, day: int, gone: Collection[str]) -> bool:
        """Those are gone: what they had noted becomes rows, and their leases what they spent.

        Returns whether any did.
        """
        leftovers = Leftovers(self._database.beside)
        try:
            settled = await self._database.transaction(
                partial(_settle, day, gone, leftovers), written=leftovers.written
            )
            leftovers.remove()
        finally:
            leftovers.close()
        return settled > 0

    def _show(self, day: int, others: int | None = None) -> None:
        told = None if others is None else Decimal(others) / 1000
        self._budget.give(day, Decimal(self._leases[day].cap) / 1000, told)

    def _used(self, day: int) -> int:
        return msats(self._budget.used(day))

    def _endure(self, trouble: Exception, now: float) -> None:
        if self._trouble_since is None:
            self._trouble_since = trio.current_time()
            if day_of(now) in self._leases:
                log.warning(
                    "the budget cannot be shared now (%s): what does not fit into what this "
                    "process has in hand is refused",
                    trouble,
                )
            else:
                log.warning(UNREAD, trouble)
        if trio.current_time() - self._trouble_since >= HOLD_SECONDS:
            self._budget.presume(now)


def _settle(day: int, gone: Collection[str], leftovers: Leftovers, session: Session) -> int:
    """Those are gone: what they had noted, and their leases. How many of these are settled now."""
    for boot_id in gone:
        for question in ("abandon_attempts", "abandon"):
            session.execute(session.question(question), {"boot_id": boot_id})
    leftovers.write(session)
    return inherit(session, day, [name for name in gone if leftovers.told_all_of(name)])

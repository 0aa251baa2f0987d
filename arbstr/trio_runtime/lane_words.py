"""What lanes tell: asked while a client waits, and afterwards until they have told.

    settle       what the request on a lane cost, if it tells soon enough
    ask          one that is parked, until it tells: row and budget follow, and the lane is read
    refresh      its counters, at a moment when nothing runs on it
    begin        what ran on lanes when a process was killed, or had not told by its end

Where a lane has not counted a request, it is closed at its node before anybody believes that
(`_fence`; why: `sansio.ledger.lanes`). `closed` is told of each lane that is of no more use,
`booked` of each price that was written.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import field, replace
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar, final

import trio

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.alarms import Sums
from arbstr.sansio.ledger.attempt import BY_LANE
from arbstr.sansio.ledger.lanes import (
    LATE_SECONDS,
    AskAgain,
    Charged,
    Compared,
    Lane,
    Lost,
    Noted,
)
from arbstr.sansio.ledger.reconcile import Account
from arbstr.sansio.money import format_eyes, minus, sats_from_msats
from arbstr.sansio.routing.budget import Budget
from arbstr.sansio.routing.catalog import Provider
from arbstr.trio_runtime.accounts import Accounts, key_id
from arbstr.trio_runtime.ledger.checkpoints import TELLING_SECONDS, write_price
from arbstr.trio_runtime.ledger.lease_rows import corrected_elsewhere
from arbstr.trio_runtime.ledger.log_writer import LogWriter
from arbstr.trio_runtime.ledger.on_lanes import OnLane, leave_lane, read_on_lanes
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.upstream.node import balance, close_key
from arbstr.trio_runtime.upstream.target import Targets
from arbstr.trio_runtime.upstream.transport import Transport

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS: Final = 0.25
"""Between two questions to a lane while a client waits."""

AGAIN_SECONDS: Final = 1.0
"""Between two questions to a parked lane; doubled each time ..."""

LONGEST_SECONDS: Final = 60.0
"""... up to this."""

ASK_SECONDS: Final = 10.0
"""How long one answer may take."""


@final
@dataclass(slots=True, eq=False)
class Way:
    """A lane as attempts use it: the provider with its key, and its prepared requests. `parent`
    tells whose child it is. `missed`: its last request was not counted, and is taken for one that
    never arrived. `closing`: its node was asked to refuse it, and is to be seen doing so; it was
    first at `closed_at` (monotonic)."""

    lane: Lane
    parent: str
    provider: Provider = field(repr=False)
    targets: Targets = field(default_factory=Targets, repr=False)
    missed: bool = False
    closing: bool = False
    closed_at: float | None = None

    @property
    def noted(self) -> Noted:
        """What is noted of it before a request is sent on it."""
        return Noted(key_id(self.provider), self.lane.spent, self.lane.requests)


@final
@dataclass(frozen=True, slots=True)
class Parked:
    """An attempt that ended without word, and its lane. `counted`: sats the budget has for it.
    `late`: its row has that it cost nothing."""

    way: Way
    correlation_id: str
    n: int
    began: int
    counted: Decimal
    ended: float
    late: bool = False


@final
class Teller:
    """Asks the lanes of all keys."""

    def __init__(
        self,
        transport: Transport,
        database: Database,
        log_writer: LogWriter,
        budget: Budget,
        nursery: trio.Nursery,
        accounts: Accounts,
        *,
        closed: Callable[[Way], None],
        charged: Callable[[str, Sums], None] | None = None,
        booked: Callable[[Parked, Decimal], None] | None = None,
    ) -> None:
        self._closed = closed
        self._booked = booked
        self._transport = transport
        self._database = database
        self._log_writer = log_writer
        self._budget = budget
        self._nursery = nursery
        self._accounts = accounts
        self._charged = charged

    async def settle(
        self, way: Way, seconds: float, close: Callable[[], bool] = lambda: False
    ) -> Decimal | None:
        """What the request on a lane cost, in millisats, if the lane tells within the time.

        `close` ends the connection of what is not counted yet, and says whether there was one: as
        long as somebody reads, it may still arrive.
        """
        ended = trio.current_time()
        with trio.move_on_after(seconds):
            while True:
                told = await self._ask(way, ended)
                match told:
                    case AskAgain(counted=False) | Charged(sure=False) if close():
                        ended = trio.current_time()
                        await self._fence(way)
                    case AskAgain(counted=False):
                        await self._fence(way)
                    case Charged(msats, sure):
                        way.missed = not sure
                        return Decimal(msats)
                    case Lost():
                        return None
                    case AskAgain():
                        pass
                await trio.sleep(LOOK_SECONDS)
        return None

    async def _fence(self, way: Way) -> None:
        """Asks the node to refuse the lane from now on, unless it is seen to, or cannot."""
        if not way.lane.can_close or way.closed_at is not None:
            return
        way.closing = True
        with trio.move_on_after(ASK_SECONDS):
            if (does := await close_key(self._transport, way.provider)) is None:
                return  # perhaps it does, and perhaps it will
            account = await balance(self._transport, way.provider)
            if isinstance(account, str):
                return
            way.lane.can_close = way.closing = does and account.closed
            self._look(way, account)

    def _look(self, way: Way, account: Account) -> None:
        if account.closed and way.closed_at is None:
            way.closed_at = trio.current_time()

    # -- what nobody waits for

    def soon(self, work: Callable[..., Awaitable[None]], *its: object) -> None:
        """Does it in the background. A bug in it is said, and ends nothing else."""
        self._nursery.start_soon(self._safely, work, *its)

    async def _safely(self, work: Callable[..., Awaitable[None]], *its: object) -> None:
        try:
            await work(*its)
        except Exception as error:
            # A bug of ours must not end the nursery, and with it the process.
            log_bug(log, "a lane was given up", error)

    def ask(self, parked: Parked) -> None:
        """Asks a parked lane until it tells, books that, and reads it, in the background.

        From now on, and as long as what it never counted may still come, no checkpoint is taken:
        what comes then would be another's price.
        """
        telling = ExitStack()
        self._accounts.lane_opens(parked.way.provider.name)
        telling.callback(self._accounts.lane_ends, parked.way.provider.name)
        self.soon(self._until_told, parked, telling)

    async def _until_told(self, parked: Parked, telling: ExitStack) -> None:
        way = parked.way
        told: Charged | Lost = Charged(0, sure=False)
        with telling:
            if not parked.late:
                told = await self._answer(parked, telling)
                if isinstance(told, Charged):
                    await self.write(parked, sats_from_msats(Decimal(told.msats)))
                    if not told.sure:
                        parked = replace(parked, counted=Decimal(0), late=True)
                else:
                    row = parked.correlation_id, parked.n
                    await self.surely(partial(leave_lane, *row))
            if parked.late:
                await trio.sleep_until(parked.ended + LATE_SECONDS)
                told = await self._answer(parked, telling)
                if isinstance(told, Charged) and told.msats:
                    await self.write(parked, sats_from_msats(Decimal(told.msats)))
        is_told = isinstance(told, Charged)
        way.lane.settled(told.msats if isinstance(told, Charged) else 0, over=is_told)
        await self.refresh(way)

    async def _answer(self, parked: Parked, telling: ExitStack) -> Charged | Lost:
        """What the lane tells in the end. One that has said nothing for longer than any takes to
        say it holds checkpoints up no more: what such a one makes of the attempt stands."""
        pause = AGAIN_SECONDS
        while isinstance(told := await self._ask(parked.way, parked.ended), AskAgain):
            if trio.current_time() - parked.ended > TELLING_SECONDS:
                telling.close()
            if not told.counted:
                await self._fence(parked.way)
            await trio.sleep(pause)
            pause = min(LONGEST_SECONDS, pause * 2)
        return told

    async def write(self, parked: Parked, sats: Decimal) -> None:
        """The row and the budget follow, once the row is there, unless a checkpoint was first."""
        books = self._database.boot_id if self._budget.is_leased else None
        if not await self.surely(partial(settle_told, parked, sats, books)):
            return
        self._budget.correct(parked.began / 1000, parked.counted, sats)
        if self._booked is not None:
            self._booked(parked, sats)
        extra = {"request_id": parked.correlation_id}
        if parked.late:
            log.warning(
                "attempt %d, which was taken for one that never arrived, came after all and cost "
                "%s sats",
                *(parked.n, format_eyes(sats)),
                extra=extra,
            )
        else:
            what = "attempt %d, which ended without word, cost %s sats"
            log.info(what, parked.n, format_eyes(sats), extra=extra)

    async def surely(self, work: Callable[[Session], T]) -> T:
        """Once the rows that were offered are there, and however long the ledger is in trouble."""
        while True:
            await self._log_writer.caught_up()
            try:
                return await self._database.transaction(work)
            except Trouble:
                await trio.sleep(AGAIN_SECONDS)

    async def _ask(self, way: Way, ended: float) -> Charged | AskAgain | Lost:
        with trio.move_on_after(ASK_SECONDS):
            account = await balance(self._transport, way.provider)
            if not isinstance(account, str):
                self._look(way, account)
                now = trio.current_time()
                since = None if way.closed_at is None else now - way.closed_at
                return way.lane.judge(account, since_end=now - ended, since_closed=since)
        return AskAgain()

    async def refresh(self, way: Way) -> None:
        """Reads a lane's counters at a moment when nothing runs on it."""
        pause, began = AGAIN_SECONDS, trio.current_time()
        while True:
            with trio.move_on_after(ASK_SECONDS):
                account = await balance(self._transport, way.provider)
                since = trio.current_time() - began
                if isinstance(account, str):
                    pass
                elif way.closing and not account.closed:
                    # It may be refused at any time from now on, so it serves nobody any more.
                    await self._fence(way)
                elif way.lane.is_quiet(account, since_end=since):
                    self._compared(way, way.lane.read(account))
                    if account.closed:
                        self._closed(way)
                    return
            await trio.sleep(pause)
            pause = min(LONGEST_SECONDS, pause * 2)

    def _compared(self, way: Way, compared: Compared | None) -> None:
        if compared is not None and self._charged is not None:
            charged, known = (
                sats_from_msats(Decimal(each)) for each in (compared.charged, compared.known)
            )
            self._charged(way.provider.name, Sums(compared.answers, charged, known))

    async def begin(self, provider: str, ways: dict[str, Way], more: dict[str, Way]) -> None:
        """By their ids: a request may have been on them at the end of the last run."""
        try:
            while ways or more:
                now = time.time_ns() // 1_000_000
                left = await self.surely(partial(read_on_lanes, provider, now))
                for each in [*ways, *more]:
                    one = left.get(each)
                    if one is not None and one.runs:
                        continue  # it is for others to say that its process is gone
                    way = ways.pop(each, None)
                    if one is not None:
                        self._resume(way or more[each], one, now)
                    elif way is not None:
                        # What is sent is noted before: so nothing runs on it any more.
                        way.lane.over = True
                        self.soon(self.refresh, way)
                    more.pop(each, None)
                if ways or more:
                    await trio.sleep(AGAIN_SECONDS)
        finally:
            self._accounts.lane_ends(provider)

    def _resume(self, way: Way, one: OnLane, now: int) -> None:
        """Its lane is asked what the attempt cost: as if it had ended just now, because nobody
        knows when it did; but what may only have come late is watched for no longer than ever."""
        way.lane.resume(one.noted)
        past = min(LATE_SECONDS, max(0.0, (now - one.ended) / 1000)) if one.late else 0.0
        counted = Decimal(0) if one.late else one.counted
        ended = trio.current_time() - past
        row = one.correlation_id, one.n, one.began
        self.ask(Parked(way, *row, counted, ended, one.late))


def settle_told(parked: Parked, sats: Decimal, boot_id: str | None, session: Session) -> bool:
    """A lane told the price of an attempt; False if that was known before. The process of `boot_id`
    books what it took less than was counted (None: nobody does): where another had counted it, its
    lease is not to have that taken off a second time when it becomes what the rows say."""
    row = parked.correlation_id, parked.n
    if not write_price(session, *row, sats, BY_LANE, late=parked.late):
        return False
    if boot_id is None:
        return True
    asked = {"correlation_id": parked.correlation_id}
    (counted_by,) = session.execute(session.question("boot_of"), asked).fetchone()
    if counted_by not in (None, boot_id):
        less = minus(parked.counted, sats)
        corrected_elsewhere(session, parked.began / 1000, counted_by, less)
    return True

"""The lanes of the configured keys: made, kept in `<ledger>.lanes` (mode 0600), asked.

    at the start     the keys of the file, and new ones (`lane_keys`)
    an attempt       takes a free lane, or none
    its failure      `settle`: what the lane tells within the time a client waits
    its row          a stated price frees the lane; without word it is parked, and asked until it
                     tells; then row and budget follow; so they do if what "never arrived" did
    the next start   what ran on a lane when a process was killed, or had not told by its end: the
                     ledger has which, and what the lane had counted; it is parked again

The keys stand in that file (`lane_file`) and nowhere else: not in the log, the ledger or a repr.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar, final

import trio

from arbstr.sansio.failover.failure import Money
from arbstr.sansio.ledger import lanes
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
    State,
    take,
)
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.moments import parse_moment
from arbstr.sansio.money import format_eyes, sats_from_msats
from arbstr.sansio.routing.budget import Budget
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.accounts import Accounts, asked_for_balance, key_id
from arbstr.trio_runtime.lane_keys import LaneKeys
from arbstr.trio_runtime.ledger.checkpoints import write_price
from arbstr.trio_runtime.ledger.log_writer import LogWriter
from arbstr.trio_runtime.ledger.on_lanes import OnLane, leave_lane, read_on_lanes
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.node import balance
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
    never arrived."""

    lane: Lane
    parent: str
    provider: Provider = field(repr=False)
    targets: Targets = field(default_factory=Targets, repr=False)
    missed: bool = False

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
class Lanes:
    """Those of the configuration in use. `run` makes and asks them until it is cancelled.

    `part`: which of how many processes this is that share the configured number of lanes.
    """

    def __init__(
        self,
        transport: Transport,
        database: Database,
        log_writer: LogWriter,
        budget: Budget,
        nursery: trio.Nursery,
        *,
        accounts: Accounts,
        part: tuple[int, int] = (1, 1),
        charged: Callable[[str, Sums], None] | None = None,
    ) -> None:
        self._part, self._parts = part
        self._accounts = accounts
        self._charged = charged
        self._transport = transport
        self._database = database
        self._log_writer = log_writer
        self._budget = budget
        self._nursery = nursery
        self._keys = LaneKeys(transport, database, budget, nursery, accounts)
        self._opening = trio.Lock()
        self._ways: dict[str, list[Way]] = {}
        self._owners: dict[str, tuple[str, str]] = {}

    def changed(self, snapshot: Snapshot) -> None:
        """There is another configuration: lanes of keys that stayed are kept."""
        wanted = {each.name: each for each in snapshot.config.providers if self._share(each.lanes)}
        before, self._ways, self._owners = self._ways, {}, {}
        for provider in asked_for_balance(snapshot.catalog.providers):
            if provider.name not in wanted:
                continue
            same = [
                way
                for way in before.get(provider.name, [])
                if way.provider.url == provider.url and way.parent == key_id(provider)
            ]
            self._ways[provider.name] = same
            self._owners[provider.name] = provider.url, key_id(provider)
            config = wanted[provider.name]
            share, most = self._share(config.lanes), int(config.lane_sats * 1000)
            if len(same) < share:
                looking = ExitStack()
                if self._keys.exist():
                    # No checkpoint before it is known what the last run left on them.
                    self._accounts.lane_opens(provider.name)
                    looking.callback(self._accounts.lane_ends, provider.name)
                work = partial(self._open, looking=looking)
                self._nursery.start_soon(self._safely, work, provider, share, most)

    def _share(self, lanes: int) -> int:
        """Of this process: the first ones have the odd ones."""
        return lanes // self._parts + (self._part <= lanes % self._parts)

    # -- what attempts use

    def take(self, provider: Provider) -> Way | None:
        """A free lane of a provider's key, busy from now on."""
        ways = self._ways.get(provider.name)
        if not ways:
            return None
        lane = take(way.lane for way in ways)
        return next((way for way in ways if way.lane is lane), None)

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
                if not (isinstance(told, Lost) or told.counted) and close():
                    ended = trio.current_time()
                elif isinstance(told, Charged):
                    way.missed = not told.counted
                    return Decimal(told.msats)
                elif isinstance(told, Lost):
                    return None
                await trio.sleep(LOOK_SECONDS)
        return None

    def ended(self, record: Record, used: Mapping[int, Way]) -> None:
        """A request is over: its lanes (by the number of the attempt) are free, or parked."""
        for attempt in record.attempts:
            way = used.get(attempt.n)
            if way is None:
                continue
            stated, missed, way.missed = attempt.provider_cost_sats, way.missed, False
            told = attempt.cost_sats if attempt.settled is not None else stated
            msats = 0 if told is None else int(told * 1000)
            began = parse_moment(attempt.started_at) or 0
            counted = attempt.cost_sats or attempt.set_aside_sats or Decimal(0)
            now = trio.current_time()
            parked = Parked(way, record.correlation_id, attempt.n, began, counted, now)
            if attempt.failure is None and stated is not None:
                way.lane.answered(msats, seconds=attempt.duration_ms / 1000)
                if way.lane.state is State.STALE:
                    self._nursery.start_soon(self._safely, self._refresh, way)
            elif attempt.money == Money.FREE and missed:
                way.lane.parked()
                self._nursery.start_soon(self._safely, self._until_told, replace(parked, late=True))
            elif told is not None or attempt.money == Money.FREE:
                is_over = told is not None and attempt.money != Money.UNKNOWN
                way.lane.doubted(msats, over=is_over)
                self._nursery.start_soon(self._safely, self._refresh, way)
            else:
                way.lane.parked()
                self._nursery.start_soon(self._safely, self._until_told, parked)

    # -- what nobody waits for

    async def _ask(self, way: Way, ended: float) -> Charged | AskAgain | Lost:
        with trio.move_on_after(ASK_SECONDS):
            account = await balance(self._transport, way.provider)
            if not isinstance(account, str):
                return way.lane.judge(account, since_end=trio.current_time() - ended)
        return AskAgain()

    async def _refresh(self, way: Way) -> None:
        """Reads a lane's counters at a moment when nothing runs on it."""
        pause, began = AGAIN_SECONDS, trio.current_time()
        while way.lane.state is not State.FREE:
            with trio.move_on_after(ASK_SECONDS):
                account = await balance(self._transport, way.provider)
                since = trio.current_time() - began
                if not isinstance(account, str) and way.lane.is_quiet(account, since_end=since):
                    self._compared(way, way.lane.read(account))
                    return
            await trio.sleep(pause)
            pause = min(LONGEST_SECONDS, pause * 2)

    def _compared(self, way: Way, compared: Compared | None) -> None:
        if compared is not None and self._charged is not None:
            charged, known = (
                sats_from_msats(Decimal(each)) for each in (compared.charged, compared.known)
            )
            self._charged(way.provider.name, Sums(compared.answers, charged, known))

    async def _safely(self, work: Callable[..., Awaitable[None]], *its: object) -> None:
        try:
            await work(*its)
        except Exception as error:
            # A bug of ours must not end the nursery, and with it the process.
            log_bug(log, "a lane was given up", error)

    async def _until_told(self, parked: Parked) -> None:
        way = parked.way
        told: Charged | Lost = Charged(0, counted=False)
        if not parked.late:
            with self._telling(way):
                told = await self._answer(parked)
                if isinstance(told, Charged):
                    await self.write(parked, sats_from_msats(Decimal(told.msats)))
                    if not told.counted:
                        parked = replace(parked, counted=Decimal(0), late=True)
                else:
                    row = parked.correlation_id, parked.n
                    await self._surely(partial(leave_lane, *row))
        if parked.late:
            await trio.sleep_until(parked.ended + LATE_SECONDS)
            told = await self._answer(parked)
            if isinstance(told, Charged) and told.msats:
                await self.write(parked, sats_from_msats(Decimal(told.msats)))
        is_told = isinstance(told, Charged)
        way.lane.settled(told.msats if isinstance(told, Charged) else 0, over=is_told)
        await self._refresh(way)

    async def _answer(self, parked: Parked) -> Charged | Lost:
        pause = AGAIN_SECONDS
        while isinstance(told := await self._ask(parked.way, parked.ended), AskAgain):
            await trio.sleep(pause)
            pause = min(LONGEST_SECONDS, pause * 2)
        return told

    async def write(self, parked: Parked, sats: Decimal) -> None:
        """The row and the budget follow, once the row is there, unless a checkpoint was first."""
        if not await self._surely(partial(_settled, parked, sats)):
            return
        self._budget.correct(parked.began / 1000, parked.counted, sats)
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

    async def _surely(self, work: Callable[[Session], T]) -> T:
        """Once the rows that were offered are there, and however long the ledger is in trouble."""
        while True:
            await self._log_writer.caught_up()
            try:
                return await self._database.transaction(work)
            except Trouble:
                await trio.sleep(AGAIN_SECONDS)

    @contextmanager
    def _telling(self, way: Way) -> Iterator[None]:
        """No checkpoint shares out meanwhile what the lane will tell exactly."""
        self._accounts.lane_opens(way.provider.name)
        try:
            yield
        finally:
            self._accounts.lane_ends(way.provider.name)

    # -- making them

    async def _open(
        self, provider: Provider, wanted: int, most: int, *, looking: ExitStack
    ) -> None:
        """Lanes of the file, and new ones for at most so many millisats each. `looking` ends once
        the file is read."""
        with looking:
            try:
                async with self._opening:
                    kept = await self._keys.kept(key_id(provider))
                    self._begin_all(provider, wanted, kept)
                    looking.close()
                    missing = wanted - len(kept)
                    while missing > 0 and (made := await self._keys.make(provider, missing, most)):
                        self._put_up(provider, [Lane.new(Secret(key)) for key in made])
                        missing -= len(made)
            except OSError as error:
                log.warning('provider "%s" gets no lanes: %s', provider.name, error.strerror)

    def _begin_all(self, provider: Provider, wanted: int, kept: Sequence[str]) -> None:
        """Those of the last run; of more than are wanted now, only what was left on them."""
        every = [Lane(Secret(key)) for key in kept]
        ways = self._put_up(provider, every[:wanted])
        begun = {way.noted.lane: way for way in ways}
        more = {
            way.noted.lane: way for way in (self._way(provider, each) for each in every[wanted:])
        }
        if ways or more:
            self._accounts.lane_opens(provider.name)
            self._nursery.start_soon(self._safely, self._begin, provider.name, begun, more)

    def _put_up(self, provider: Provider, every: Sequence[Lane]) -> Sequence[Way]:
        if self._owners.get(provider.name) != (provider.url, key_id(provider)):
            return ()  # reloaded meanwhile
        ways = self._ways[provider.name]
        have = {way.lane.key.reveal() for way in ways}
        new = [self._way(provider, lane) for lane in every if lane.key.reveal() not in have]
        ways += new
        return new

    def _way(self, provider: Provider, lane: Lane) -> Way:
        authorization = Secret(f"Bearer {lane.key.reveal()}")
        own = replace(provider, key=lane.key, authorization=authorization)
        return Way(lane, key_id(provider), own)

    async def _begin(self, provider: str, ways: dict[str, Way], more: dict[str, Way]) -> None:
        """By their ids: a request may have been on them at the end of the last run."""
        try:
            while ways or more:
                now = time.time_ns() // 1_000_000
                left = await self._surely(partial(read_on_lanes, provider, now))
                for each in [*ways, *more]:
                    one = left.get(each)
                    if one is not None and one.runs:
                        continue  # it is for others to say that its process is gone
                    way = ways.pop(each, None)
                    if one is not None:
                        self._resume(way or more[each], one, now)
                    elif way is not None:
                        self._nursery.start_soon(self._safely, self._read_first, way)
                    more.pop(each, None)
                if ways or more:
                    await trio.sleep(AGAIN_SECONDS)
        finally:
            self._accounts.lane_ends(provider)

    async def _read_first(self, way: Way) -> None:
        await trio.sleep(lanes.FENCE_SECONDS)
        await self._refresh(way)

    def _resume(self, way: Way, one: OnLane, now: int) -> None:
        """Its lane is asked what the attempt cost: as if it had ended just now, because nobody
        knows when it did; but what may only have come late is watched for no longer than ever."""
        way.lane.resume(one.noted)
        past = min(LATE_SECONDS, max(0.0, (now - one.ended) / 1000)) if one.late else 0.0
        counted = Decimal(0) if one.late else one.counted
        ended = trio.current_time() - past
        row = one.correlation_id, one.n, one.began
        parked = Parked(way, *row, counted, ended, one.late)
        self._nursery.start_soon(self._safely, self._until_told, parked)


def _settled(parked: Parked, sats: Decimal, session: Session) -> bool:
    row = parked.correlation_id, parked.n
    return write_price(session, *row, sats, BY_LANE, late=parked.late)

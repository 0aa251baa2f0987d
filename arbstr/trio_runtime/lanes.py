"""The lanes of the configured keys: made, kept in `<ledger>.lanes` (mode 0600), asked.

    at the start     the keys of the file, and new ones (`lane_keys`)
    an attempt       takes a free lane, or none
    its failure      `settle`: what the lane tells within the time a client waits
    its row          a stated price frees the lane; without word it is parked, and asked until it
                     tells; then row and budget follow; so they do if what "never arrived" did
    not counted      its lane is closed at the node, so that it can come no more, and replaced
    the next start   what ran on a lane when a process was killed, or had not told by its end: the
                     ledger has which, and what the lane had counted; it is parked again

The keys stand in that file (`lane_file`) and nowhere else: not in the log, the ledger or a repr.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio.failover.failure import Money
from arbstr.sansio.ledger.alarms import Sums
from arbstr.sansio.ledger.lanes import Lane, State, take
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.moments import parse_moment
from arbstr.sansio.routing.budget import Budget
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.accounts import Accounts, asked_for_balance, key_id
from arbstr.trio_runtime.lane_keys import LaneKeys
from arbstr.trio_runtime.lane_words import Parked, Teller, Way
from arbstr.trio_runtime.ledger.log_writer import LogWriter
from arbstr.trio_runtime.ledger.port import Database
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.transport import Transport

log = logging.getLogger(__name__)

GATHER_SECONDS: Final = 5.0
"""How long after a lane was closed another is made: for several at once it is one question."""

AGAIN_SECONDS: Final = 1.0
"""After lanes could not be made, until that is tried again; doubled each time, for a node that was
down for a moment has them the next ..."""

LONGEST_SECONDS: Final = 3600.0
"""... up to this."""

MOST_KEYS: Final = 5000
"""Child keys of a key after which none is closed any more. Picked: a node tells all of them with
every balance of their parent, 230 bytes each, and at most 4 MB of that are read."""


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
        self.teller = Teller(
            *(transport, database, log_writer, budget, nursery, accounts),
            closed=self._gone,
            charged=charged,
        )
        self._keys = LaneKeys(transport, database, budget, nursery, accounts)
        self._opening = trio.Lock()
        self._ways: dict[str, list[Way]] = {}
        self._owners: dict[str, tuple[str, str]] = {}
        self._wanted: dict[str, tuple[Provider, int, int]] = {}
        self._trying: set[str] = set()
        self._unread: set[str] = set()

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
            self._wanted[provider.name] = provider, share, most
            if len(same) < share:
                looking = ExitStack()
                if self._keys.exist():
                    # No checkpoint before it is known what the last run left on them.
                    self._accounts.lane_opens(provider.name)
                    looking.callback(self._accounts.lane_ends, provider.name)
                self._unread.add(provider.name)
                work = partial(self._open, looking=looking)
                self.teller.soon(work, provider, share, most)

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
                    self.teller.soon(self.teller.refresh, way)
            elif attempt.money == Money.FREE and missed:
                way.lane.parked()
                self.teller.ask(replace(parked, late=True))
            elif told is not None or attempt.money == Money.FREE:
                is_over = told is not None and attempt.money != Money.UNKNOWN
                way.lane.doubted(msats, over=is_over)
                self.teller.soon(self.teller.refresh, way)
            else:
                way.lane.parked()
                self.teller.ask(parked)

    def _gone(self, way: Way) -> None:
        """Its node refuses it: another takes its place."""
        ways = self._ways.get(way.provider.name, [])
        if way in ways:
            ways.remove(way)
        self.teller.soon(self._replace, way)

    async def _replace(self, way: Way) -> None:
        name = way.provider.name
        try:
            await self._keys.leave(way.provider, way.lane.key.reveal(), way.parent)
        except OSError as error:
            # The next start sees what became of it in its account.
            log.warning("a closed lane stands in the file of lanes still: %s", error.strerror)
        await trio.sleep(GATHER_SECONDS)
        async with self._opening:
            if self._owners.get(name) == (way.provider.url, way.parent):
                await self._make_all(*self._wanted[name])

    # -- making them

    async def _open(
        self, provider: Provider, wanted: int, most: int, *, looking: ExitStack
    ) -> None:
        """Lanes of the file, and new ones for at most so many millisats each. `looking` ends once
        the file is read."""
        with looking:
            async with self._opening:
                await self._read(provider, wanted, most)
                looking.close()
                await self._make_all(provider, wanted, most)

    async def _read(self, provider: Provider, wanted: int, most: int) -> None:
        """The lanes of the file. One that cannot be read is tried again before others are made."""
        try:
            kept = await self._keys.kept(key_id(provider))
            can_close = await self._may_close(provider, most)
        except OSError as error:
            self._keys.say(provider, error.strerror)
        else:
            self._begin_all(provider, wanted, kept, can_close=can_close)
            self._unread.discard(provider.name)

    async def _may_close(self, provider: Provider, most: int) -> bool:
        """Whether lanes of a key may be used up: they cost nothing, and are not too many."""
        return not most and await self._keys.made(key_id(provider)) < MOST_KEYS

    async def _make_all(self, provider: Provider, wanted: int, most: int) -> None:
        """As many as are missing."""
        if self._owners.get(provider.name) != (provider.url, key_id(provider)):
            return  # reloaded meanwhile
        missing = wanted - len(self._ways[provider.name])
        is_read = provider.name not in self._unread
        try:
            while missing > 0 and is_read:
                made = await self._keys.make(provider, missing, most)
                if not made:
                    break
                can_close = await self._may_close(provider, most)
                new = [Lane.new(Secret(key), can_close=can_close) for key in made]
                self._put_up(provider, new)
                missing -= len(made)
        except OSError as error:
            self._keys.say(provider, error.strerror)
        if missing > 0:
            self._try_again(provider)
        else:
            self._keys.has_all(provider)

    def _try_again(self, provider: Provider) -> None:
        if provider.name not in self._trying:
            self._trying.add(provider.name)
            self.teller.soon(self._make_later, provider.name)

    async def _make_later(self, name: str) -> None:
        """What its node, or the disk, had not to give at the start it may have later."""
        pause = AGAIN_SECONDS
        try:
            while True:
                await trio.sleep(pause)
                pause = min(LONGEST_SECONDS, pause * 2)
                async with self._opening:
                    if name not in self._ways or len(self._ways[name]) >= self._wanted[name][1]:
                        return
                    if name in self._unread:
                        await self._read(*self._wanted[name])
                    await self._make_all(*self._wanted[name])
        finally:
            self._trying.discard(name)

    def _begin_all(
        self, provider: Provider, wanted: int, kept: Sequence[str], *, can_close: bool
    ) -> None:
        """Those of the last run; of more than are wanted now, only what was left on them."""
        every = [Lane(Secret(key), can_close=can_close) for key in kept]
        ways = self._put_up(provider, every[:wanted])
        begun = {way.noted.lane: way for way in ways}
        more = {way.noted.lane: way for way in (way_on(provider, each) for each in every[wanted:])}
        if ways or more:
            self._accounts.lane_opens(provider.name)
            self.teller.soon(self.teller.begin, provider.name, begun, more)

    def _put_up(self, provider: Provider, every: Sequence[Lane]) -> Sequence[Way]:
        if self._owners.get(provider.name) != (provider.url, key_id(provider)):
            return ()  # reloaded meanwhile
        ways = self._ways[provider.name]
        have = {way.lane.key.reveal() for way in ways}
        new = [way_on(provider, lane) for lane in every if lane.key.reveal() not in have]
        ways += new
        return new


def way_on(provider: Provider, lane: Lane) -> Way:
    """A child key of the provider's key as attempts use it."""
    authorization = Secret(f"Bearer {lane.key.reveal()}")
    own = replace(provider, key=lane.key, authorization=authorization)
    return Way(lane, key_id(provider), own)

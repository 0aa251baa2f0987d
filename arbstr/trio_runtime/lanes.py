"""The lanes of the configured keys: made, kept in `<ledger>.lanes` (mode 0600), asked.

    at the start     the file; GET /info (free child keys alone) --POST /balance/child-key--> lanes
    an attempt       takes a free lane, or none
    its failure      `settle`: what the lane tells within the time a client waits
    its row          a stated price frees the lane; without word it is parked, and asked until it
                     tells; then row and budget follow

The keys stand in that file and nowhere else: not in the log, the ledger or a repr.
"""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final, final

import trio

from arbstr.sansio.failover.failure import Money
from arbstr.sansio.ledger.lanes import AskAgain, Charged, Lane, Lost, State, take
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.moments import parse_moment
from arbstr.sansio.money import sats_from_msats
from arbstr.sansio.routing.budget import Budget
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.accounts import asked_for_balance, key_id
from arbstr.trio_runtime.ledger.checkpoints import write_price
from arbstr.trio_runtime.ledger.log_writer import LogWriter
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.node import balance, child_keys
from arbstr.trio_runtime.upstream.target import Targets
from arbstr.trio_runtime.upstream.transport import Transport

log = logging.getLogger(__name__)

EACH: Final = 50
"""Child keys that a node makes at once."""

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
    tells whose child it is."""

    lane: Lane
    parent: str
    provider: Provider = field(repr=False)
    targets: Targets = field(default_factory=Targets, repr=False)


@final
@dataclass(frozen=True, slots=True)
class Parked:
    """An attempt that ended without word, and its lane. `counted`: sats the budget has for it."""

    way: Way
    correlation_id: str
    n: int
    began: int
    counted: Decimal
    ended: float


@final
class Lanes:
    """Those of the configuration in use. `run` makes and asks them until it is cancelled.

    `part`: which of how many processes this is that share the file. A lane is one process's alone,
    because only one request at a time may be on it.
    """

    def __init__(
        self,
        transport: Transport,
        database: Database,
        log_writer: LogWriter,
        budget: Budget,
        nursery: trio.Nursery,
        part: tuple[int, int] = (1, 1),
    ) -> None:
        self._part, self._parts = part
        self._transport = transport
        self._database = database
        self._log_writer = log_writer
        self._budget = budget
        self._nursery = nursery
        self._path = None if database.beside is None else Path(f"{database.beside}.lanes")
        self._ways: dict[str, list[Way]] = {}

    def changed(self, snapshot: Snapshot) -> None:
        """There is another configuration: lanes of keys that stayed are kept."""
        shares = {each.name: self._share(each.lanes) for each in snapshot.config.providers}
        wanted = {name: count for name, count in shares.items() if count}
        before, self._ways = self._ways, {}
        for provider in asked_for_balance(snapshot.catalog.providers):
            if provider.name not in wanted:
                continue
            same = [
                way
                for way in before.get(provider.name, [])
                if way.provider.url == provider.url and way.parent == key_id(provider)
            ]
            self._ways[provider.name] = same
            if len(same) < wanted[provider.name]:
                self._nursery.start_soon(self._open, provider, wanted[provider.name])

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

    async def settle(self, way: Way, seconds: float) -> Decimal | None:
        """What the request on a lane cost, in millisats, if the lane tells within the time."""
        ended = trio.current_time()
        with trio.move_on_after(seconds):
            while True:
                told = await self._ask(way, ended)
                if isinstance(told, Charged):
                    return Decimal(told.msats)
                if isinstance(told, Lost):
                    return None
                await trio.sleep(LOOK_SECONDS)
        return None

    def ended(self, record: Record, used: Mapping[int, Way]) -> None:
        """A request is over: its lanes (by the number of the attempt) are free, or parked."""
        for attempt in record.attempts:
            way = used.get(attempt.n)
            if way is None:
                continue
            stated = attempt.provider_cost_sats
            if attempt.failure is None and stated is not None:
                way.lane.answered(int(stated * 1000))
            elif stated is not None or attempt.money == Money.FREE:
                way.lane.doubted()
                self._nursery.start_soon(self._refresh, way)
            else:
                way.lane.parked()
                counted = attempt.cost_sats or attempt.set_aside_sats or Decimal(0)
                began = parse_moment(attempt.started_at) or 0
                parked = Parked(
                    way, record.correlation_id, attempt.n, began, counted, trio.current_time()
                )
                self._nursery.start_soon(self._unpark, parked)

    # -- what nobody waits for

    async def _ask(self, way: Way, ended: float) -> Charged | AskAgain | Lost:
        with trio.move_on_after(ASK_SECONDS):
            account = await balance(self._transport, way.provider)
            if not isinstance(account, str):
                return way.lane.judge(account, since_end=trio.current_time() - ended)
        return AskAgain()

    async def _refresh(self, way: Way) -> None:
        """Reads a lane's counters at a moment when nothing runs on its key."""
        pause = AGAIN_SECONDS
        while way.lane.state is not State.FREE:
            with trio.move_on_after(ASK_SECONDS):
                account = await balance(self._transport, way.provider)
                if not isinstance(account, str) and not account.reserved:
                    way.lane.read(account)
                    return
            await trio.sleep(pause)
            pause = min(LONGEST_SECONDS, pause * 2)

    async def _unpark(self, parked: Parked) -> None:
        try:
            await self._until_told(parked)
        except Exception as error:
            # A bug of ours must not end the nursery, and with it the process.
            log_bug(log, "a lane was given up", error, request_id=parked.correlation_id)

    async def _until_told(self, parked: Parked) -> None:
        way, pause = parked.way, AGAIN_SECONDS
        while isinstance(told := await self._ask(way, parked.ended), AskAgain):
            await trio.sleep(pause)
            pause = min(LONGEST_SECONDS, pause * 2)
        if isinstance(told, Charged):
            sats = sats_from_msats(Decimal(told.msats))
            await self.write(parked, sats)
        way.lane.state = State.STALE
        await self._refresh(way)

    async def write(self, parked: Parked, sats: Decimal) -> None:
        """The row and the budget follow, once the row is there, unless a checkpoint was first."""
        first: bool | None = None
        while first is None:
            await self._log_writer.caught_up()
            try:
                first = await self._database.transaction(partial(_settled, parked, sats))
            except Trouble:
                await trio.sleep(AGAIN_SECONDS)
        if not first:
            return
        self._budget.correct(parked.began / 1000, parked.counted, sats)
        log.info(
            "attempt %d, which ended without word, cost %s sats",
            parked.n,
            sats,
            extra={"request_id": parked.correlation_id},
        )

    # -- making them

    async def _open(self, provider: Provider, wanted: int) -> None:
        """Lanes of the file, and new ones."""
        try:
            known = await trio.to_thread.run_sync(self._read, key_id(provider))
            missing = wanted - len(known)
            while missing > 0:
                made = await self._make(provider, min(EACH, missing))
                if not made:
                    break
                await trio.to_thread.run_sync(self._keep, provider, made)
                known += made
                missing -= len(made)
        except OSError as error:
            log.warning('provider "%s" gets no lanes: %s', provider.name, error.strerror)
            return
        ways = self._ways.get(provider.name)
        if ways is None:
            return  # reloaded meanwhile
        have = {way.lane.key.reveal() for way in ways}
        for key in known[:wanted]:
            if key not in have:
                own = replace(provider, key=Secret(key), authorization=Secret(f"Bearer {key}"))
                way = Way(Lane(Secret(key)), key_id(provider), own)
                ways.append(way)
                self._nursery.start_soon(self._refresh, way)

    async def _make(self, provider: Provider, count: int) -> list[str]:
        made: tuple[str, ...] | str = f"did not answer in {ASK_SECONDS:g} s"
        with trio.move_on_after(ASK_SECONDS):
            made = await child_keys(self._transport, provider, count)
        if isinstance(made, str):
            log.warning('provider "%s" gets no lanes: it %s', provider.name, made)
            return []
        return list(made)

    def _read(self, parent: str) -> list[str]:
        if self._path is None or not self._path.exists():
            return []
        found = []
        for line in self._path.read_text("utf-8").splitlines():
            with suppress(ValueError, TypeError):
                entry = json.loads(line)
                ours = entry.get("parent") == parent and entry.get("part", 1) == self._part
                if ours and isinstance(entry.get("key"), str):
                    found.append(entry["key"])
        return found

    def _keep(self, provider: Provider, keys: list[str]) -> None:
        """Before their first use, so that a crash loses none."""
        if self._path is None:
            return
        parent = key_id(provider)
        whose: dict[str, str | int] = {"provider": provider.name, "parent": parent}
        if self._part > 1:
            whose["part"] = self._part
        lines = [json.dumps({**whose, "key": key}) for key in keys]
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _settled(parked: Parked, sats: Decimal, session: Session) -> bool:
    return write_price(session, parked.correlation_id, parked.n, sats, "lane")

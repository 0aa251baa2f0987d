"""The child keys behind lanes: those that `<ledger>.lanes` has, and new ones.

    GET /info (no dear child keys) --POST /balance/child-key--> a line each in the file --> used

They are kept before their first use, so that a crash loses none; those that cannot be kept now are
the next to be, and no others are made meanwhile. What they cost is no request's: it is noted for
the next checkpoint, and the day pays it. Why there are none is said once, until it is another.
"""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio.money import format_eyes, sats_from_msats
from arbstr.sansio.routing.budget import Budget
from arbstr.sansio.routing.catalog import Provider
from arbstr.trio_runtime.accounts import Accounts, key_id
from arbstr.trio_runtime.lane_file import LaneFile, open_lane_file
from arbstr.trio_runtime.ledger.checkpoints import bought
from arbstr.trio_runtime.ledger.port import Database, Trouble
from arbstr.trio_runtime.upstream.node import Made, child_keys
from arbstr.trio_runtime.upstream.transport import Transport

log = logging.getLogger(__name__)

EACH: Final = 50
"""Child keys that a node makes at once."""

ASK_SECONDS: Final = 10.0
"""How long it may take to make them."""


@final
class LaneKeys:
    """Those of this process. The file is let go when the nursery is cancelled."""

    def __init__(
        self,
        transport: Transport,
        database: Database,
        budget: Budget,
        nursery: trio.Nursery,
        accounts: Accounts,
    ) -> None:
        self._transport = transport
        self._database = database
        self._budget = budget
        self._nursery = nursery
        self._accounts = accounts
        self._opened: LaneFile | None = None
        self._unkept: dict[str, Sequence[str]] = {}
        self._said: dict[str, str] = {}

    def exist(self) -> bool:
        """Whether a run before may have kept some, as far as names tell."""
        beside = self._database.beside
        return beside is not None and os.path.exists(f"{beside}.lanes")

    async def kept(self, parent: str) -> Sequence[str]:
        """Those of the file, of the key with that id. Raises `OSError`."""
        return (await self._file()).of(parent)

    async def made(self, parent: str) -> int:
        """How many of the key with that id there ever were. Raises `OSError`."""
        return (await self._file()).made(parent)

    async def leave(self, provider: Provider, key: str, parent: str) -> None:
        """One that its node refuses: it is used by nobody any more. Raises `OSError`."""
        file = await self._file()
        await trio.to_thread.run_sync(file.leave, provider.name, parent, key)

    async def make(self, provider: Provider, missing: int, most: int) -> Sequence[str]:
        """Some new ones, at most so many and for so many millisats each; none if there are to be
        none. Raises `OSError`."""
        file, parent = await self._file(), key_id(provider)
        if not (keys := self._unkept.get(parent, ())):
            keys = self._unkept[parent] = await self._make(provider, min(EACH, missing), most)
        await trio.to_thread.run_sync(file.keep, provider.name, parent, keys)
        del self._unkept[parent]
        return keys

    def say(self, provider: Provider, why: str | None) -> None:
        """Why it gets no lanes."""
        if self._said.get(provider.name) != why:
            self._said[provider.name] = str(why)
            log.warning('provider "%s" gets no lanes: %s', provider.name, why)

    def has_all(self, provider: Provider) -> None:
        """It has got all of them."""
        if self._said.pop(provider.name, None) is not None:
            log.info('provider "%s" has its lanes now', provider.name)

    async def _file(self) -> LaneFile:
        if self._opened is None:
            self._opened = await trio.to_thread.run_sync(open_lane_file, self._database.beside)
            self._nursery.start_soon(self._hold, self._opened)
        return self._opened

    async def _hold(self, file: LaneFile) -> None:
        with closing(file):
            await trio.sleep_forever()

    async def _make(self, provider: Provider, count: int, most: int) -> Sequence[str]:
        made: Made | str = f"did not answer in {ASK_SECONDS:g} s"
        async with self._accounts.undisturbed(provider.name):
            with trio.move_on_after(ASK_SECONDS):
                made = await child_keys(self._transport, provider, count, most=most)
            if isinstance(made, Made) and made.cost:
                await self._bought(provider, made.cost)
        if isinstance(made, str):
            self.say(provider, f"it {made}")
            return ()
        return made.keys

    async def _bought(self, provider: Provider, msats: int) -> None:
        """What lanes cost is no request's, and the key was charged it."""
        now, sats = time.time(), sats_from_msats(Decimal(msats))
        work = partial(bought, provider.name, key_id(provider), msats, round(now * 1000))
        try:
            await self._database.transaction(work)
        except Trouble as error:
            log.warning("what lanes cost cannot be noted in the ledger (%s)", error)
        self._budget.pay(sats, now)
        log.info('provider "%s": its lanes cost %s sats', provider.name, format_eyes(sats))

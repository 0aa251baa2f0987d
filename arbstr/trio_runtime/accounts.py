"""The accounts of the Routstr keys: what they hold, and checkpoints of what they were charged.

    at the start, 5 s after an attempt ended without word, and every 5 min of use
      nothing in flight on the key, all rows written --GET /balance/info--> nothing reserved
      --ledger.checkpoints.take--> prices of what was open; budget; a line in the log
    after a 402, after a request that it could not afford, and while requests are in flight
      --GET /balance/info--> what the key holds free: who wants more of it is not asked

A checkpoint that cannot be taken now is tried again, later each time. No request waits for any of
this.
"""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import field
from decimal import Decimal
from functools import partial
from math import inf
from typing import Final, TypeAlias, final

import trio

from arbstr.sansio.config.credentials import key_id_of, lists_prices
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.failover.failure import Money
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.alarms import Sums
from arbstr.sansio.ledger.reconcile import LATE_SECONDS, Account
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.ledger.reports import Filters
from arbstr.sansio.moments import Span
from arbstr.sansio.money import format_eyes, sats_from_msats
from arbstr.sansio.routing.budget import DAY_SECONDS, Budget
from arbstr.sansio.routing.catalog import Offer, Provider
from arbstr.sansio.routing.gauge import Purse, purse_line
from arbstr.sansio.routing.listing import TooLow, too_low
from arbstr.trio_runtime.ledger.charges import read_charges
from arbstr.trio_runtime.ledger.checkpoints import NotNow, Reading, Taken, before_asking, take
from arbstr.trio_runtime.ledger.log_writer import LogWriter
from arbstr.trio_runtime.ledger.port import Database, Trouble
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.node import balance
from arbstr.trio_runtime.upstream.transport import Transport

log = logging.getLogger(__name__)

IN_USE_SECONDS: Final = 300.0
"""Between two checkpoints of a key that is used, if nothing is open."""

AGAIN_SECONDS: Final = LATE_SECONDS + 1
"""After what is open could have arrived; doubled each time that no checkpoint could be taken ..."""

LONGEST_SECONDS: Final = 120.0
"""... up to this: a node gives back a lost reservation after five minutes."""

ASK_SECONDS: Final = 10.0
"""How long the answer about a key may take."""

BELIEVED_SECONDS: Final = 2 * IN_USE_SECONDS
"""How old an account may be for a request to be passed over by it."""

SOON_SECONDS: Final = 2.0
"""After a request that a key could not afford, until it is asked what it holds. Picked."""

WRITTEN_SECONDS: Final = 5.0
"""How long rows that are still to be written are waited for."""


Compared: TypeAlias = Callable[[str, Sums], None]
"""Takes what a provider charged for so many attempts, and what is known of them."""


@final
@dataclass(slots=True)
class _Key:
    """What is known of one provider's key. `asked` counts its attempts, `open` those that run;
    `used`: since the last checkpoint, or there is none. `account` is as of `seen`; at `ask_at` it
    is read again, at `due` compared (all monotonic). `waits`: for what its lanes tell."""

    provider: Provider
    due: float
    asked: int = 0
    open: int = 0
    unknown: bool = False
    used: bool = True
    busy: bool = False
    waits: bool = False
    pause: float = AGAIN_SECONDS
    ask_at: float = inf
    account: Account | None = None
    seen: float = 0.0
    turn: trio.Lock = field(default_factory=trio.Lock)
    purse: Purse = field(default_factory=Purse)


@final
class Accounts:
    """Those of the configuration in use; `run` watches them until it is cancelled.

    `others_seconds`: how long another arbstr may take to write what it sent. `charged` is told of
    each comparison.
    """

    def __init__(
        self,
        transport: Transport,
        database: Database,
        log_writer: LogWriter,
        budget: Budget,
        *,
        others_seconds: float = 0.0,
        charged: Compared | None = None,
    ) -> None:
        self._charged = charged
        self._others_seconds = others_seconds
        self._transport = transport
        self._database = database
        self._log_writer = log_writer
        self._budget = budget
        self._keys: dict[str, _Key] = {}
        self._lanes_open = Counter[str]()
        self._wake = trio.Event()
        self._began = trio.current_time()

    def changed(self, snapshot: Snapshot) -> None:
        """There is another configuration."""
        before, now = self._keys, trio.current_time()
        self._keys = {}
        for provider in asked_for_balance(snapshot.catalog.providers):
            known = before.get(provider.name)
            same = known is not None and known.provider.authorization == provider.authorization
            self._keys[provider.name] = known if known and same else _Key(provider, now)
            self._keys[provider.name].provider = provider
        self._wake.set()

    # -- what requests tell

    def began(self, provider: str) -> None:
        """An attempt at a provider is about to be sent."""
        key = self._keys.get(provider)
        if key is not None:
            key.asked += 1
            key.open += 1

    def ended(self, record: Record) -> None:
        """A request is over, and its row was offered: so are its attempts."""
        for attempt in record.attempts:
            key = self._keys.get(attempt.provider)
            if key is None:
                continue
            key.open = max(0, key.open - 1)
            key.used = True
            known = attempt.provider_cost_sats is not None or attempt.settled is not None
            if attempt.money != Money.FREE and not known:
                if not key.unknown:
                    key.due, key.pause = trio.current_time() + AGAIN_SECONDS, AGAIN_SECONDS
                    self._wake.set()
                key.unknown = True

    def account_of(self, provider: str) -> tuple[Account, float] | None:
        """What is on a provider's key, and when that was (monotonic)."""
        key = self._keys.get(provider)
        return None if key is None or key.account is None else (key.account, key.seen)

    def too_low(self, offer: Offer, request: Asked) -> TooLow | None:
        """Why the key is not to be used for the request, by what it held when last asked."""
        key = self._keys.get(offer.provider.name)
        if key is None or key.account is None or offer.price is None:
            return None
        if trio.current_time() - key.seen > BELIEVED_SECONDS:
            return None
        low = too_low(
            offer.price.listed, request.input_tokens, request.max_output, key.account.balance
        )
        if low is not None:
            self.ask_soon(offer.provider.name)
        return low

    def ask_soon(self, provider: str) -> None:
        """A request was refused for what a key holds, or would be."""
        key = self._keys.get(provider)
        if key is not None and key.ask_at == inf:
            key.ask_at = trio.current_time() + SOON_SECONDS
            self._wake.set()

    def lane_opens(self, provider: str) -> None:
        """A lane of the provider's key will tell what an attempt cost: no checkpoint is taken
        before `lane_ends`."""
        self._lanes_open[provider] += 1

    def lane_ends(self, provider: str) -> None:
        """It has told, or never will."""
        self._lanes_open[provider] -= 1
        key = self._keys.get(provider)
        if key is not None and key.waits and not self._lanes_open[provider]:
            key.waits, key.due, key.pause = False, trio.current_time(), AGAIN_SECONDS
            self._wake.set()

    def has_lanes_open(self, provider: str) -> bool:
        """Whether some are still to tell."""
        return self._lanes_open[provider] > 0

    @asynccontextmanager
    async def undisturbed(self, provider: str) -> AsyncIterator[None]:
        """No checkpoint of the provider's key is taken meanwhile."""
        key = self._keys.get(provider)
        async with trio.Lock() if key is None else key.turn:
            yield

    # -- the watch

    async def run(self) -> None:
        """Takes checkpoints when they are due; a node that is slow keeps no other waiting."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                for key in self._keys.values():
                    if min(key.due, key.ask_at) <= now and not key.busy:
                        key.busy = True
                        nursery.start_soon(self._look, key)
                every = (key for key in self._keys.values() if not key.busy)
                soon = min(
                    (min(key.due, key.ask_at) for key in every), default=now + IN_USE_SECONDS
                )
                with trio.move_on_at(soon):
                    await self._wake.wait()

    async def _look(self, key: _Key) -> None:
        # Now and not afterwards: who asks for it meanwhile wants what the key holds after that.
        key.ask_at = inf
        if key.due > trio.current_time():
            await self._read(key)
        elif key.used or key.unknown:
            await self._compare(key)
        else:
            key.due = trio.current_time() + IN_USE_SECONDS
        key.busy = False
        self._wake.set()

    async def _read(self, key: _Key) -> None:
        try:
            await self._ask(key)
        except Exception as error:
            # As in `_compare`.
            log_bug(log, "a balance was not read", error)

    async def _compare(self, key: _Key) -> None:
        try:
            found = await self.compare(key.provider)
        except Exception as error:
            # A bug of ours must not end the watch of all keys, and with it the process.
            log_bug(log, "a checkpoint failed", error)
            found = NotNow("cannot be compared")
        if isinstance(found, NotNow):
            key.due, key.pause = (
                trio.current_time() + key.pause,
                min(LONGEST_SECONDS, key.pause * 2),
            )
            return
        key.unknown = key.used = False
        key.due, key.pause = trio.current_time() + IN_USE_SECONDS, AGAIN_SECONDS

    async def compare(self, provider: Provider) -> Taken | NotNow:
        """As `check`, and says what is not as it should be."""
        found = await self.check(provider)
        key = self._keys.get(provider.name)
        if isinstance(found, Taken) and key is not None:
            self._tell(provider.name, found)
            await self._weigh(key)
        return found

    async def _weigh(self, key: _Key) -> None:
        """Says so if a key holds no more than a day costs there."""
        if key.account is None:
            return
        now = time.time()
        span = Span(round((now - DAY_SECONDS) * 1000), round(now * 1000) + 1)
        filters = Filters(span, provider=key.provider.name)
        try:
            found = await self._database.read(partial(read_charges, filters=filters))
        except Trouble:
            return  # the next checkpoint asks again
        day = sum((Decimal(repr(each.stated)) for each in found), Decimal(0))
        free = sats_from_msats(Decimal(key.account.balance))
        if key.purse.is_low(free, day, now):
            log.warning("%s", purse_line(key.provider.name, free, day))

    async def check(self, provider: Provider) -> Taken | NotNow:
        """Takes a checkpoint of a provider's key now, if that is possible."""
        key = self._keys.get(provider.name) or _Key(provider, 0.0)
        try:
            # One after the other: each is compared with the one before.
            async with key.turn:
                return await self._check(key)
        except Trouble as error:
            return NotNow(f"cannot be compared: the ledger cannot be used now ({error})")

    async def _check(self, key: _Key) -> Taken | NotNow:
        provider, asked = key.provider, key.asked
        if key.open:
            await self._ask(key)
            return NotNow("has requests in flight")
        if self._lanes_open[provider.name]:
            await self._ask(key)
        if self._lanes_open[provider.name]:
            key.waits = True
            return NotNow("has lanes that are still to tell")
        with trio.move_on_after(WRITTEN_SECONDS) as waiting:
            await self._log_writer.caught_up()
        if waiting.cancelled_caught:
            return NotNow("has rows that are not written yet")
        own = key_id(provider)
        before = await self._database.read(partial(before_asking, provider.name, own))
        account = await self._ask(key)
        if isinstance(account, str):
            return NotNow(account)
        if account.reserved:
            return NotNow("holds money back for requests that have not ended there")
        if any((key.asked != asked, key.open, self._lanes_open[provider.name])):
            return NotNow("was asked meanwhile")
        beside: float | None = None
        if self._others_seconds and await self._database.others():
            await trio.sleep(self._others_seconds)
            beside = trio.current_time() - self._began
        moment = time.time_ns() // 1_000_000
        reading = Reading(provider.name, own, account, before, moment)
        books = self._database.boot_id if self._budget.is_leased else None
        is_gone = self._database.is_gone
        taken = await self._database.transaction(
            partial(take, reading, boot_id=books, beside=beside, is_gone=is_gone)
        )
        if isinstance(taken, Taken):
            for correction in taken.corrections:
                self._budget.correct(correction.moment / 1000, correction.counted, correction.costs)
        return taken

    async def _ask(self, key: _Key) -> Account | str:
        """What is on the key now, or why that is not known."""
        account: Account | str = f"did not tell its balance in {ASK_SECONDS:g} s"
        with trio.move_on_after(ASK_SECONDS):
            account = await balance(self._transport, key.provider)
        if not isinstance(account, str):
            key.account, key.seen = account, trio.current_time()
        return account

    def _tell(self, name: str, taken: Taken) -> None:
        if self._charged is not None and taken.compared is not None:
            self._charged(name, taken.compared)
        warning = taken.settlement.sentence()
        if warning is not None:
            log.warning('provider "%s" %s', name, warning)
        elif taken.settlement.prices:
            log.info(
                'provider "%s": %d attempts that ended without word cost %s sats',
                name,
                len(taken.settlement.prices),
                format_eyes(taken.settlement.rest),
            )


def asked_for_balance(providers: Iterable[Provider]) -> Iterable[Provider]:
    """Those with a key on a node."""
    return (
        each for each in providers if each.authorization is not None and lists_prices(each.kind)
    )


def key_id(provider: Provider) -> str:
    """What tells a provider's key from another, and does not tell the key."""
    assert provider.authorization is not None  # it was asked for its balance
    return key_id_of(provider.authorization)

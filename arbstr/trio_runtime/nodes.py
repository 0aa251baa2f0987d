"""The prices of the Routstr nodes, kept up to date while arbstr runs.

    at start      what the ledger knows of the last run
    every 120 s   GET /models of each node --PriceBook--> ledger, and a new catalog (`adopt`);
                  of several processes that share a ledger one asks, and the others take that
    every hour    GET /info: which software asks these prices
    after a reload, the nodes that are new

A request takes the catalog there is. Only one that finds no price at all, because its node has not
answered once and the ledger knows nothing either, waits for the first answer, and not for long.
"""

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Rates
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.routing.prices import Age, NodePrices, Price, PriceBook, age_of, moved
from arbstr.trio_runtime.ledger.port import Database, Trouble
from arbstr.trio_runtime.ledger.prices import (
    Listing,
    keep_prices,
    read_before,
    read_listings,
    read_newer,
)
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.node import list_models, software
from arbstr.trio_runtime.upstream.transport import Transport

if TYPE_CHECKING:
    from arbstr.sansio.routing.listing import Listed

Adopt: TypeAlias = Callable[[Mapping[str, NodePrices], float], None]
"""Takes the prices of all nodes, by provider, as of a moment in seconds since 1970."""

log = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 120.0
"""Between two listings: a node reads the price of bitcoin as often."""

JITTER: Final = 0.1
"""The interval differs by so much of it, so that arbstrs that were started together drift apart."""

AGAIN_SECONDS: Final = 10.0
"""After a listing that did not come; doubled each time, up to the interval."""

PATIENCE_SECONDS: Final = 10.0
"""How long one listing may take."""

FIRST_PRICES_SECONDS: Final = 3.0
"""How long a request without any price waits for the first listing. Picked: a node that is there
answers in half a second, also through Tor, and a client shows that it waits."""

DAY_SECONDS: Final = 86_400.0

SOFTWARE_SECONDS: Final = 3600.0
"""Between two questions for a node's software. Picked: it is put up by hand, and only shown."""


@final
@dataclass(slots=True)
class _Node:
    """What is known of one provider's node. Times are monotonic but those of prices."""

    provider: Provider
    book: PriceBook
    due: float
    pause: float = AGAIN_SECONDS
    asking: bool = False
    trouble: str | None = None
    asked: trio.Event = field(default_factory=trio.Event)
    age: Age = Age.FRESH
    kept: dict[str, Rates] = field(default_factory=dict)
    used: dict[int, Price] = field(default_factory=dict)
    yesterday: Mapping[str, Rates] = field(default_factory=dict)
    version: str | None = None
    version_due: float = -inf

    @property
    def key(self) -> tuple[str, str]:
        return self.provider.name, self.provider.url


@final
class Nodes:
    """The nodes of the configuration that is in use; `run` keeps them up to date until cancelled.

    `adopt` is told whenever prices are others, or too old.
    """

    def __init__(self, transport: Transport, database: Database | None, adopt: Adopt) -> None:
        self._transport = transport
        self._database = database
        self._adopt_prices = adopt
        self._nodes: dict[tuple[str, str], _Node] = {}
        self._last: dict[tuple[str, str], Listing] = {}
        self._wake = trio.Event()

    async def restore(self, snapshot: Snapshot) -> None:
        """What the ledger knows of the last run; nothing if it cannot be read."""
        if self._database is not None and any(True for _ in _asked(snapshot)):
            try:
                listings = await self._database.read(read_listings)
                self._last = {(each.provider, each.url): each for each in listings}
            except Trouble as error:
                log.warning("the last prices of nodes cannot be read (%s)", error)
        self.changed(snapshot)

    def changed(self, snapshot: Snapshot) -> None:
        """There is another configuration: its nodes are asked, and the rest is forgotten."""
        now, before = trio.current_time(), self._nodes
        self._nodes = {}
        for provider in _asked(snapshot):
            key = provider.name, provider.url
            last = self._last.get((provider.name, provider.shown_url))
            self._nodes[key] = before.get(key) or _Node(
                *(provider, PriceBook(None if last is None else last.prices), now),
                version=None if last is None else last.version,
            )
            self._nodes[key].provider = provider
        self._adopt()
        self._wake.set()

    # -- what others ask

    @property
    def silent(self) -> Mapping[str, str | None]:
        """The nodes whose prices nobody knows, by name, and what went wrong when last asked."""
        every = self._nodes.values()
        return {each.provider.name: each.trouble for each in every if each.book.prices is None}

    async def wait_first(self) -> None:
        """Until each silent node has been asked once, or for a moment."""
        with trio.move_on_after(FIRST_PRICES_SECONDS):
            for node in list(self._nodes.values()):
                if node.book.prices is None:
                    await node.asked.wait()

    def use(self, price: Price, provider: Provider) -> None:
        """An attempt is routed by a price, which its row names: so it is kept."""
        node = self._nodes.get((provider.name, provider.url))
        if node is not None and price.id not in node.used:
            node.used[price.id] = price

    def asks(self, provider: Provider) -> bool:
        """Whether the prices of the provider are its node's."""
        return (provider.name, provider.url) in self._nodes

    def prices_of(self, provider: Provider) -> NodePrices | None:
        """What is known of the node of a provider."""
        node = self._nodes.get((provider.name, provider.url))
        return None if node is None else node.book.prices

    def yesterday_of(self, provider: Provider) -> Mapping[str, Rates]:
        """What its models cost a day ago, as far as that is known."""
        node = self._nodes.get((provider.name, provider.url))
        return {} if node is None else node.yesterday

    def trouble_of(self, provider: Provider) -> str | None:
        """Why the last listing did not come."""
        node = self._nodes.get((provider.name, provider.url))
        return None if node is None else node.trouble

    def version_of(self, provider: Provider) -> str | None:
        """The version of the node's software, if it says so."""
        node = self._nodes.get((provider.name, provider.url))
        return None if node is None else node.version

    # -- the watch

    async def run(self) -> None:
        """Asks each node when it is due."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                for node in self._nodes.values():
                    if node.due <= now and not node.asking:
                        node.asking = True
                        nursery.start_soon(self._ask, node)
                waiting = [node.due for node in self._nodes.values() if not node.asking]
                soon = min([*waiting, now + INTERVAL_SECONDS])
                with trio.move_on_at(soon):
                    await self._wake.wait()
                self._grow_old()

    def _grow_old(self) -> None:
        """A listing that is too old by now changes what offers are good for."""
        now = time.time()
        for node in self._nodes.values():
            prices = node.book.prices
            if prices is None or (age := age_of(prices.fetched, now)) is node.age:
                continue
            node.age = age
            if age is not Age.FRESH:
                log.warning(
                    'provider "%s": its prices are of %d minutes ago (it %s): %s',
                    node.provider.name,
                    (now - prices.fetched) // 60,
                    node.trouble or "was not asked since",
                    "caps and budgets count a tenth more"
                    if age is Age.AGED
                    else "it counts as unpriced",
                )
            self._adopt()

    async def _ask(self, node: _Node) -> None:
        pause = INTERVAL_SECONDS
        try:
            age = await self._learn(node)
            if age is None:
                await self._refresh(node)
        except Exception as error:
            # A bug of ours must not end the watch of all nodes, and with it the process.
            log_bug(log, "the prices of a node were not read", error)
            node.trouble = "could not be understood"
        else:
            pause = max(0.0, INTERVAL_SECONDS - (age or 0.0))
            if node.trouble is not None:
                pause = node.pause
            node.pause = min(INTERVAL_SECONDS, node.pause * 2) if node.trouble else AGAIN_SECONDS
        node.due = trio.current_time() + pause * random.uniform(1 - JITTER, 1 + JITTER)
        node.asking = False
        node.asked.set()
        self._wake.set()

    async def _learn(self, node: _Node) -> float | None:
        """How old in seconds is what another process was told since; None: the node is asked."""
        if self._database is None or not node.asked.is_set():
            return None  # at the start it was looked up a moment ago
        name, url, now = node.provider.name, node.provider.shown_url, time.time()
        known = node.book.prices
        since = max(now - INTERVAL_SECONDS, 0.0 if known is None else known.fetched)
        try:
            prices = await self._database.read(partial(read_newer, name, url, since))
        except Trouble:
            return None  # and what it lists cannot be kept, which is said
        if prices is None or prices.fetched > now:
            return None
        if node.trouble is not None or known is None:
            log.info('prices of provider "%s": another arbstr asked', name)
        node.book, node.trouble, node.age = PriceBook(prices), None, Age.FRESH
        self._adopt()
        return now - prices.fetched

    async def _refresh(self, node: _Node) -> None:
        name = node.provider.name
        listing: tuple[Listed, ...] | str = f"did not list its models in {PATIENCE_SECONDS:g} s"
        with trio.move_on_after(PATIENCE_SECONDS):
            listing = await list_models(self._transport, node.provider)
        if isinstance(listing, str):
            if node.trouble is None:
                log.warning('prices of provider "%s" are not read: it %s', name, listing)
            node.trouble = listing
            return
        before = {} if node.book.prices is None else dict(node.book.prices.prices)
        now = time.time()
        news = node.book.fetched(listing, now, _number(now))
        if node.trouble is not None or not before:
            log.info('prices of provider "%s": %d models', name, len(listing))
        node.trouble, node.age = None, Age.FRESH
        for held in news.held:
            log.warning('provider "%s" %s', name, held.sentence())
        self._adopt()
        node.asked.set()  # who waits for prices waits for nothing else
        await self._ask_software(node)
        await self._keep(node, news.new, tuple(before[model] for model in news.gone))

    async def _ask_software(self, node: _Node) -> None:
        """What is not said now was perhaps said before."""
        now = trio.current_time()
        if now < node.version_due:
            return
        node.version_due = now + SOFTWARE_SECONDS
        with trio.move_on_after(PATIENCE_SECONDS):
            node.version = await software(self._transport, node.provider) or node.version

    async def _keep(self, node: _Node, new: tuple[Price, ...], gone: tuple[Price, ...]) -> None:
        prices = node.book.prices
        if self._database is None or prices is None:
            return
        used, node.used = node.used, {}
        keep = dict(used)
        for price in new:
            last = node.kept.get(price.listed.model)
            if last is None or moved(last, price.rates):
                keep[price.id] = price
        name = node.provider.name
        listing = Listing(name, node.provider.shown_url, node.version, prices)
        try:
            await self._database.transaction(
                partial(keep_prices, listing, tuple(keep.values()), gone)
            )
            node.yesterday = await self._database.read(
                partial(read_before, name, time.time() - DAY_SECONDS)
            )
        except Trouble as error:
            node.used = {**used, **node.used}
            log.warning('prices of provider "%s" cannot be kept (%s)', name, error)
            return
        node.kept.update({price.listed.model: price.rates for price in keep.values()})

    async def keep_used(self) -> None:
        """What attempts were routed by since the last listing goes to the ledger."""
        for node in list(self._nodes.values()):
            if node.used:
                await self._keep(node, (), ())

    def _adopt(self) -> None:
        self._adopt_prices(
            {
                node.provider.name: node.book.prices
                for node in self._nodes.values()
                if node.book.prices is not None
            },
            time.time(),
        )


def _asked(snapshot: Snapshot) -> Iterable[Provider]:
    """The providers whose nodes are asked for their prices."""
    asked = {config.name for config in snapshot.config.providers if config.asks_node}
    return (each for each in snapshot.catalog.providers if each.name in asked)


def _number(now: float) -> int:
    """The first number of new prices: in the order of time, and hardly another process's."""
    return int(now * 1000) << 20 | random.getrandbits(8) << 12

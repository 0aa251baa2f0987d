"""What all requests share. Opened and closed by `main`, handed to every request."""

import logging
import os
import time
from collections.abc import Collection, Mapping
from decimal import Decimal
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import trio

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.dialects.dialect import Asked, Stored
from arbstr.sansio.failover.board import Board, Ticket
from arbstr.sansio.failover.breaker import Outcome
from arbstr.sansio.failover.failure import Failure, FailureKind, rest_reason, rest_seconds
from arbstr.sansio.failover.kinds import TRAITS
from arbstr.sansio.failover.rests import Reason
from arbstr.sansio.ledger.alarms import (
    AGAIN_SECONDS,
    Alarm,
    ChargeAlarms,
    PriceAlarm,
    PriceAlarms,
    Sums,
)
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.money import Usage
from arbstr.sansio.routing.affinity import KEY_BYTES, Affinity, Home, Key
from arbstr.sansio.routing.budget import Account, Budget, Reservation
from arbstr.sansio.routing.catalog import Offer, Provider
from arbstr.sansio.routing.gauge import Gauge, mark_line
from arbstr.sansio.routing.holds import Lengths
from arbstr.sansio.routing.latency import Latency
from arbstr.sansio.routing.origins import Origins
from arbstr.sansio.routing.paths import Paths
from arbstr.sansio.routing.plan import Learnt
from arbstr.sansio.routing.prices import NodePrices
from arbstr.sansio.routing.ratios import NO_POLICY, NOTHING_LEARNT, Ratio
from arbstr.trio_runtime.change import Change
from arbstr.trio_runtime.ledger.log_writer import LogWriter
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.repeats import KeptAnswers
from arbstr.trio_runtime.server.silences import Silences
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.transport import Transport

if TYPE_CHECKING:
    from arbstr.trio_runtime.accounts import Accounts
    from arbstr.trio_runtime.lanes import Lanes
    from arbstr.trio_runtime.ledger.budget import Today
    from arbstr.trio_runtime.ledger.leases import Leases
    from arbstr.trio_runtime.nodes import Nodes

log = logging.getLogger(__name__)

NO_RATIOS: Final[Mapping[str, Ratio]] = MappingProxyType({})


class Running(Protocol):
    """A request in flight, as far as the shutdown needs to know it."""

    def is_deserted(self) -> bool:
        """Whether nobody waits for its answer."""

    def stop(self) -> None:
        """Ends it now, with an honest answer."""


class Siblings(Protocol):
    """The other workers of the same arbstr: what all of them say, and what they are to know."""

    async def health(self) -> dict[str, Any]:
        """/health of all."""

    async def providers(self) -> dict[str, Any]:
        """/providers of all."""

    async def budget(self) -> dict[str, Any] | None:
        """The running day of all; `None` without a budget."""

    def booked(self, account: Account, now: float) -> None:
        """An attempt was paid; so stands the day as far as this process knows."""

    def showed_itself(self, provider: str, url: str) -> None:
        """A provider turned out to be a Routstr node."""

    def stored(self, kept: Stored, provider: str, model: str, usage: Usage | None) -> None:
        """A provider keeps this of its answer."""


@final
class Hub:
    """The long-lived things, and what was learnt about the providers since the start.

    `drains` is a nursery of `main`'s that ends at shutdown. Between two awaits the world is ours:
    everything here is read, decided and written in one synchronous stretch.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        transport: Transport,
        log_writer: LogWriter,
        change: Change,
        drains: trio.Nursery,
        ratios: Mapping[str, Ratio] = NO_RATIOS,
        lengths: Lengths | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.transport = transport
        self.log_writer = log_writer
        self.change = change
        self.drains = drains
        breaker = snapshot.config.breaker
        self.board = Board(
            failures=breaker.failures,
            open_seconds=breaker.open_seconds,
        )
        budget = snapshot.config.budget
        self.budget = Budget(budget.sats_per_day, is_open=budget.open)
        # Without it no day has a ledger that must be read before it.
        # `trio.current_time`, which asks three times whose time it is, and some twenty times a
        # request: 3 % of its CPU (measured).
        self.now: Final = trio.lowlevel.current_clock().current_time
        self.today: Today | Leases | None = None
        # Without it no node is asked for its prices.
        self.nodes: Nodes | None = None
        # Without it nobody takes checkpoints of what keys were charged.
        self.accounts: Accounts | None = None
        # Without it attempts use the providers' own keys.
        self.lanes: Lanes | None = None
        # Without it this is the only process that serves the address.
        self.siblings: Siblings | None = None
        self._gauge = Gauge()
        self.price_alarms = PriceAlarms()
        self.charge_alarms = ChargeAlarms()
        self.running: set[Running] = set()
        self.draining = 0
        self.closing = False
        self.stopping = False
        self.kept = KeptAnswers(snapshot.config.retry.repeat_guard)
        self.refuse_stream_options: set[str] = set()
        self.paths = Paths()
        self.silences = Silences()
        self.affinity = Affinity(os.urandom(KEY_BYTES))
        self._ratios = dict(ratios)
        self._latencies: dict[str, Latency] = {}
        self._lengths = lengths if lengths is not None else Lengths()
        self.origins = Origins()
        self.learnt = Learnt(self._ratios, self._latencies, self._lengths, self.paths, self.origins)
        self._routstr: set[tuple[str, str]] = set()
        self._verdict_given = trio.Event()

    def kind_of(self, provider: Provider) -> Kind:
        """How a provider counts its money: as configured, unless it showed itself a node.

        Without a key there is no balance to charge, whatever the provider is.
        """
        if provider.authorization is None:
            return Kind.OPENAI
        if self._routstr and (provider.name, provider.url) in self._routstr:
            return Kind.ROUTSTR
        return provider.kind

    def still_has(self, provider: Provider) -> bool:
        """Whether no reload took the provider away, or gave it another URL, key or proxy."""
        return any(
            (now.name, now.url, now.credentials, now.proxy)
            == (provider.name, provider.url, provider.credentials, provider.proxy)
            for now in self.snapshot.catalog.providers
        )

    def showed_itself(self, provider: Provider, request_id: str) -> None:
        """A provider that was taken for an ordinary one answered as a Routstr node does."""
        # Not by name alone: a reload may give the name to another provider.
        if (provider.name, provider.url) not in self._routstr:
            self.is_node(provider.name, provider.url)
            if self.siblings is not None:
                self.siblings.showed_itself(provider.name, provider.url)
            log.warning(
                'provider "%s" is a Routstr node: from now on its money counts as such; '
                'set kind = "routstr" in its configuration',
                provider.name,
                extra={"request_id": request_id},
            )

    def is_node(self, provider: str, url: str) -> None:
        """Somebody saw that it is a Routstr node."""
        self._routstr.add((provider, url))

    def adopt(self, snapshot: Snapshot, *, kept: Collection[str]) -> None:
        """Uses another configuration from the next request on, after a reload.

        The circuits of the providers in `kept` stay as they are.
        """
        config = snapshot.config
        self.snapshot = snapshot
        self.board.configure(
            failures=config.breaker.failures, open_seconds=config.breaker.open_seconds
        )
        self.board.retain(kept)
        self.kept.configure(config.retry.repeat_guard)
        self.budget.configure(config.budget.sats_per_day, is_open=config.budget.open)
        self.refuse_stream_options.clear()
        self.paths.retain(kept)
        self.origins.retain(kept)
        for name in self._latencies.keys() - frozenset(kept):
            del self._latencies[name]
        if self.nodes is not None:
            self.nodes.changed(snapshot)
        if self.accounts is not None:
            self.accounts.changed(snapshot)
        if self.lanes is not None:
            self.lanes.changed(snapshot)

    def reprice(self, prices: Mapping[str, NodePrices], now: float) -> None:
        """Uses what nodes ask now (seconds since 1970) from the next request on."""
        self.snapshot = self.snapshot.repriced(prices, now)

    def book(self, reservation: Reservation, charged: Decimal | None) -> None:
        """An attempt is over: settles what was set aside for it, and tells how the day stands."""
        self.budget.settle(reservation, charged)
        if self.budget.limit is None:
            return  # nothing of which so much could be used up
        now = time.time()
        account = self.budget.view(now)
        if self.siblings is not None:
            self.siblings.booked(account, now)
            return
        mark = self._gauge.news(account, now)
        if mark is not None:
            log.warning("%s", mark_line(mark, account))

    def spent_today(self) -> Decimal | None:
        """What is spent on the running day, of all that is known of; `None` until it was read."""
        spent = self.budget.spent(time.time())
        if spent is None and self.today is not None:
            self.today.ask()
        return spent

    def charged(self, provider: str, compared: Sums) -> None:
        """What a node charged a key for attempts of which something else may be known."""
        self._charged(provider, compared, alone=False)

    def charged_alone(self, provider: str, compared: Sums) -> None:
        """The same of lanes, which nobody else can have used."""
        self._charged(provider, compared, alone=True)

    def _charged(self, provider: str, compared: Sums, *, alone: bool) -> None:
        alarm = self.charge_alarms.note(provider, compared, self.now(), alone=alone)
        if alarm is not None:
            self.alarmed(alarm)

    def alarmed(self, alarm: Alarm, request_id: str | None = None) -> None:
        """Says what a provider charges that it should not, and does what is configured then."""
        extra = {} if request_id is None else {"request_id": request_id}
        log.warning("%s", alarm.sentence(), extra=extra)
        every = {each.name: each.overcharge for each in self.snapshot.config.providers}
        wanted = every.get(alarm.provider, "warn")
        if wanted == "warn" or not alarm.dearer:
            return
        ends = self.now() + AGAIN_SECONDS if wanted == "rest" else inf
        until = "for an hour" if wanted == "rest" else "until a reload"
        if isinstance(alarm, PriceAlarm):
            self.board.overcharged(alarm.provider, alarm.model, ends)
            self.price_alarms.forgive(alarm)
            what = f'model "{alarm.model}" of provider "{alarm.provider}"'
        else:
            self.board.overcharged(alarm.provider, None, ends)
            self.charge_alarms.forgive(alarm)
            what = f'provider "{alarm.provider}"'
        log.warning("%s is left alone %s (overcharge)", what, until, extra=extra)

    def learn_ratio(self, policy: str | None, sample: float | None) -> None:
        """One answer under a policy is over; `sample` is None if it taught nothing."""
        if sample is not None:
            key = policy or NO_POLICY
            self._ratios[key] = self._ratios.get(key, NOTHING_LEARNT).after(sample)

    def learn_of_others(self, ratios: Mapping[str, Ratio], lengths: Lengths) -> None:
        """What all who share the ledger learnt, this process too, takes the place of its own."""
        self._ratios.clear()
        self._ratios.update(ratios)
        self._lengths.become(lengths)

    def home_of(self, asked: Asked, now: float) -> tuple[Key | None, Home | None]:
        """What the request's conversation is known by, and who answered it last."""
        if asked.conversation is None or not self.snapshot.config.policies.affinity:
            return None, None
        key = self.affinity.key_of(asked.model, asked.conversation)
        return key, self.affinity.home(key, self.now())

    def learn_home(self, key: Key | None, record: Record, input_tokens: int) -> None:
        """A request of that conversation is over."""
        if key is not None and record.answered and record.provider is not None:
            home = Home(record.provider, record.model, input_tokens)
            self.affinity.answered(key, home, self.now())

    def learn_stored(
        self, stored: Stored | None, provider: str, model: str, usage: Usage | None
    ) -> None:
        """An answer came whole, of which its provider keeps this."""
        if stored is None:
            return
        self.origins.answered(stored, provider, model, usage)
        if self.siblings is not None:
            self.siblings.stored(stored, provider, model, usage)

    def learn_length(self, record: Record, choices: int) -> None:
        """A request is over; only whole answers teach how long answers are."""
        if record.success and record.output_tokens is not None:
            self._lengths.learn(record.policy, record.model, record.output_tokens, choices)

    def learn_latency(self, provider: str, seconds: float, *, stream: bool) -> None:
        """A provider answered, so long after it was asked."""
        before = self._latencies.get(provider)
        self._latencies[provider] = Latency.after(before, seconds, stream=stream)

    def settle(self, ticket: Ticket, outcome: Outcome, error: str | None) -> None:
        """Passes a verdict to the breaker and wakes those who wait for a probe's."""
        now = self.now()
        for turned in self.board.settle(ticket, outcome, now, error=error):
            circuit = f'circuit of provider "{turned.provider}"'
            if turned.model is not None:
                circuit += f' for model "{turned.model}"'
            if turned.until is None:
                log.info("%s closed: it answers again", circuit)
            else:
                log.warning(
                    "%s opened after %d failures in a row: left alone for %g s; the last: it %s",
                    circuit,
                    turned.failures,
                    turned.until - now,
                    error or "failed",
                )
        if ticket.probe:
            self._verdict_given.set()
            self._verdict_given = trio.Event()

    def rest(self, offer: Offer, failure: Failure, endpoint: str) -> None:
        """Leaves whoever failed so alone for a while, if that is what the failure asks for.

        Who only lacks the path of this `endpoint` is passed over there until a reload.
        """
        now, name = self.now(), offer.provider.name
        if failure.kind is FailureKind.NO_ENDPOINT:
            relays = TRAITS[self.kind_of(offer.provider)].relays
            known = self.paths.lacks(offer, endpoint)
            if known or self.paths.miss(offer, endpoint, for_the_model=relays):
                if not known:
                    log.warning(
                        'provider "%s" does not serve %s%s: passed over there until a reload',
                        name,
                        endpoint,
                        f' for model "{offer.model}"' if relays else "",
                    )
                return
        match rest_reason(failure):
            case None | Reason.OVERCHARGE:  # which no failure shows
                return
            case Reason.RATE_LIMIT as why:
                until = now + (rest_seconds(failure) or 0.0)
                self.board.rest(name, offer.model, until, now, why)
            case Reason.OVERLOAD as why:
                self.board.rest(name, None, now + (rest_seconds(failure) or 0.0), now, why)
            case Reason.BALANCE | Reason.KEY | Reason.PATH as why:
                self.board.doubt(name, now, why)
                if why is Reason.BALANCE and self.accounts is not None:
                    self.accounts.ask_soon(name)

    def answered(self, provider: Provider, endpoint: str) -> None:
        """A provider answered at the path of this endpoint, and took the key for it."""
        self.paths.serve(provider.name, endpoint)
        self.board.answered(provider.name)

    def keep_change(self, tokens: tuple[str, ...], provider: str, request_id: str) -> None:
        """Puts stray ecash on disk in a task of its own, for those who may not wait."""
        if tokens:
            self.drains.start_soon(self._keep_change, tokens, provider, request_id)

    async def _keep_change(self, tokens: tuple[str, ...], provider: str, request_id: str) -> None:
        try:
            await self.change.keep(tokens, provider)
        except Exception as error:
            # A bug of ours. It must not end the nursery, and with it the process.
            log_bug(log, "ecash that came back was not kept", error, request_id=request_id)

    async def wait_verdict(self) -> None:
        """Waits until some probe is over."""
        await self._verdict_given.wait()

    def close(self) -> None:
        """No new requests come. Those that nobody waits for are waited for as long as others."""
        self.closing = True
        self.end_if_deserted()

    def end_if_deserted(self) -> None:
        """Ends the answers nobody waits for, once no others are left to wait for."""
        if self.closing and all(run.is_deserted() for run in self.running):
            for run in list(self.running):
                run.stop()

    def stop_all(self) -> None:
        """Ends what still runs at the end of the shutdown's grace, each with an honest answer."""
        self.stopping = True
        for run in list(self.running):
            run.stop()

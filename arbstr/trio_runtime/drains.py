"""Answers nobody waits for any more, read on to learn what they cost.

A Routstr node finishes an answer and charges it, whoever is listening; and a stream can be whole
long before it says what it took. A drain is a call whose request has gone on without it: it owns
the call, and the attempt's reservation in the budget, until the body has ended, its time is up, or
the shutdown cancels it.
"""

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Final, final

import trio

from arbstr.sansio import life
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.failure import Money
from arbstr.sansio.failover.kinds import TRAITS
from arbstr.sansio.failover.repeats import Became, Fingerprint
from arbstr.sansio.failover.watch import READ_ON, Wait
from arbstr.sansio.routing.budget import Reservation
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.repeats import Broken, Source, Whole, head_of, whole_of
from arbstr.trio_runtime.upstream.call import UpstreamCall
from arbstr.trio_runtime.upstream.witness import Seen

log = logging.getLogger(__name__)

MAX_DRAINS: Final = 200
"""Answers read on at once; beyond it the connection is closed instead."""

LATE_SECONDS: Final = 5.0
"""How long the tokens of a delivered answer are waited for where only they are missing: its client
has waited 2 s for them already (relaying.AFTER_COMPLETE_SECONDS). Picked."""


def seconds_to_read_on(call: UpstreamCall, *, failed: bool) -> float:
    """How long the rest of the answer may still tell what was charged; 0: there is nothing to wait
    for. `failed`: the client does not have the answer, or not the whole of it.
    """
    if not (call.can_be_read_on if failed else call.price_is_open):
        return 0.0
    drain = call.provider.drain_seconds
    match READ_ON[failed, TRAITS[call.kind].finishes]:
        case Wait.NOT:
            return 0.0
        case Wait.LATE:
            return LATE_SECONDS
        case Wait.DRAIN:
            return drain
        case Wait.LATE_ONCE_DONE:
            # After the last event comes the end, if it comes at all.
            return min(LATE_SECONDS, drain) if call.relay.done else drain


def seconds_alone(call: UpstreamCall, linger: float) -> float:
    """How long an answer goes on whose client has left, in case the same is asked again; 0: there
    is nothing of it that costs, or nothing to come.

    A client may be back in a moment, so even who is no node is not left before `linger` seconds.
    """
    if not call.can_be_read_on:
        return 0.0
    return call.provider.drain_seconds if TRAITS[call.kind].finishes else linger


def has_room(hub: Hub) -> bool:
    """Whether another answer may be read on without its client."""
    return hub.draining < MAX_DRAINS and not hub.stopping


@final
class Drains:
    """Those of one request. `drained` is called whenever one of them has ended.

    What was given up before its output, and is read on, is kept as a source: whoever asks the same
    again may get it, once the request is over and its client has got no other answer.
    """

    __slots__ = (
        "_came",
        "_drained",
        "_exchange",
        "_hub",
        "_late",
        "_running",
        "_secrets",
        "_source",
        "guessed",
        "running",
    )

    def __init__(
        self,
        hub: Hub,
        exchange: Exchange,
        drained: Callable[[], None],
        secrets: tuple[Secret, ...],
    ) -> None:
        self._hub = hub
        self._exchange = exchange
        self._drained = drained
        self._secrets = secrets
        self.running = 0
        self._running: dict[int, trio.CancelScope] = {}
        # What the day has for attempts whose drain heard no price, in sats by their number.
        self.guessed = dict[int, Decimal]()
        self._source: Source | None = None
        self._came: tuple[Whole, str] | None = None
        self._late: tuple[UpstreamCall, trio.CancelScope] | None = None

    def start(
        self,
        call: UpstreamCall,
        n: int,
        seconds: float,
        reservation: Reservation | None,
        *,
        fresh: bool,
        keep: bool,
    ) -> bool:
        """Takes the call of attempt `n` and what was set aside for it, unless there are too many
        drains or the process is being stopped.

        `fresh`: nothing of it has gone to a client. `keep`: so it is kept; else it may be adopted.
        """
        hub = self._hub
        if not has_room(hub):
            return False
        limit = trio.CancelScope()
        self._late = (call, limit) if fresh else None
        if keep and hub.kept.is_on:
            self.adopt(Source(hub.kept, self._exchange.correlation_id, self._exchange.policy))
        self.running += 1
        self._running[n] = limit
        hub.draining += 1
        hub.drains.start_soon(self._drain, call, n, seconds, limit, reservation)
        return True

    def stop(self, n: int) -> bool:
        """Whether there was a drain of attempt `n` to end; its connection is closed at once."""
        limit = self._running.pop(n, None)
        if limit is not None:
            limit.cancel()
        return limit is not None

    def adopt(self, source: Source) -> bool:
        """Whether what comes of the answer given up last goes into this source from now on: that of
        a request which is over, or a new one."""
        late, self._late = self._late, None
        if late is None or self._source is not None:
            return False
        call, limit = late
        if not call.can_be_read_on or call.seen is Seen.OUTPUT:
            return False
        model, secrets = self._exchange.model, self._secrets

        def heard(data: bytes) -> None:
            if source.head is None:
                source.head = head_of(call, model, secrets)
            source.keep(data)

        self._source, call.heard = source, heard
        source.stop, source.wanted = limit.cancel, None
        return True

    @property
    def keeps_source(self) -> bool:
        """Whether there is an answer for who asks the same again, or may be."""
        return self._source is not None

    def leave_source(self, which: Fingerprint) -> None:
        """The request is over, and its client has no answer: others may get this one."""
        source, came = self._source, self._came
        if source is None:
            return
        if came is None:
            if source.which is None:
                self._hub.kept.left(source, which, self._exchange.saw)
            return
        self._source = self._came = None
        self._hub.kept.ended(source, which, Became.WHOLE, *came)

    def forget_source(self) -> None:
        """Nobody will ask for it: the client has got an answer, or is getting one."""
        source, self._source, self._came = self._source, None, None
        if source is not None:
            source.let_go()
            self._hub.kept.forget(source.id)

    def _end_source(self, call: UpstreamCall) -> None:
        """What became of it, for those who wait for it and those who will ask."""
        source, whole, call.heard = self._source, whole_of(call), None
        if source is None:
            return
        if whole is not None:
            source.head = head_of(call, self._exchange.model, self._secrets)
            name = call.provider.name
            saw = f'provider "{name}" answered it after it was given up, and that was not kept'
            self._came = whole, saw
            if source.which is not None:
                self.leave_source(source.which)
        elif source.which is None:
            self.forget_source()
        else:
            self._source, saw = None, self._exchange.saw
            became = Became.SPENT if self._exchange.possibly_spent else Became.FREE
            said = f"The answer did not come: {saw}."
            end = Broken(ErrorReply("possibly_spent", said, should_retry=False))
            self._hub.kept.ended(source, source.which, became, end, saw)

    async def _drain(
        self,
        call: UpstreamCall,
        n: int,
        seconds: float,
        limit: trio.CancelScope,
        reservation: Reservation | None,
    ) -> None:
        money: Money | None = None
        try:
            try:
                limit.deadline = trio.current_time() + seconds
                with limit:
                    call.limit(limit)
                    money = await call.learn_the_rest()
                    await call.finish()
            finally:
                # Also when the shutdown cancels this task.
                self._end(call, n, money, reservation)
        except Exception as error:
            # A bug of ours. It must not end the nursery, and with it the process.
            log_bug(log, "a drain broke off", error, request_id=self._exchange.correlation_id)

    def _end(
        self, call: UpstreamCall, n: int, money: Money | None, reservation: Reservation | None
    ) -> None:
        hub, exchange = self._hub, self._exchange
        try:
            asked, price = call.upstream_request_id, call.provider_cost_msats
            learnt = life.Drained(n, call.status, asked, call.usage, price, money)
            exchange.note(learnt, trio.current_time())
            if call.heard is not None:
                self._end_source(call)
            if reservation is not None:
                charged = exchange.charged(n)
                if charged is None:
                    self.guessed[n] = reservation.most
                hub.book(reservation, charged)
            hub.keep_change(call.stray_change(), call.provider.name, exchange.correlation_id)
        finally:
            hub.draining -= 1
            self.running -= 1
            self._running.pop(n, None)
            call.close()
            self._drained()

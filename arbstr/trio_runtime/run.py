"""A request's own way to an answer: whom it asks, the stream it relays, what became of it.

    run            route, find an answer, deliver it or say why there is none
      _work        find an answer (attempts.py), within `[timeouts] total` and until the shutdown
      _relay       a stream, event by event, until it is complete or broken (relaying.py)
      _deliver     the last bytes for the client (delivery.py)
    _last_word     arbstr ended the work: what its client reads then (cutting.py)
    client_left    it ends here, or goes on for a while as the source of whoever asks again
    end            whatever happened: exactly one record

A run outlives its client where its answer is paid for anyway, or where the client may be back in a
moment (drains.seconds_alone). It goes on in the same task and in the same way; only nobody is
written to, and without a client that has joined it makes no further attempt. What others may get of
it is in sharing.py.
"""

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from arbstr.sansio import life
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.cut_off import Why
from arbstr.sansio.failover.failure import FailureKind
from arbstr.sansio.failover.repeats import Fingerprint
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.routing.refusals import NoRoute
from arbstr.trio_runtime import books
from arbstr.trio_runtime.attempts import Attempts
from arbstr.trio_runtime.cutting import broken_off, cut_by_ourselves
from arbstr.trio_runtime.delivery import Delivery
from arbstr.trio_runtime.drains import Drains, has_room
from arbstr.trio_runtime.groups import is_cancellation
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.logs import log_request
from arbstr.trio_runtime.relaying import Relaying
from arbstr.trio_runtime.repeats import Head, head_of
from arbstr.trio_runtime.server.responder import Responder
from arbstr.trio_runtime.sharing import Shared
from arbstr.trio_runtime.upstream.call import UpstreamCall
from arbstr.trio_runtime.whom import retry_of, route_of, unserved_now

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from arbstr.sansio.routing.affinity import Key
    from arbstr.sansio.routing.plan import Candidate

log = logging.getLogger(__name__)

LAST_WORD_SECONDS: Final = 60.0
"""How long a client may take for the last word of a request that was ended; whoever takes nothing
is cut by then (server/connection.STALL_SECONDS)."""


@final
class Run:
    """One request whose model is known, and that gets an answer of its own.

    `policy` is whose name routes it, `consent` whether it may be paid twice, `affinity` whether its
    conversation is asked where it was answered before. `which` is its
    fingerprint, if that is made already; else it is made with `named`, the policy its caller named.
    `scope` is around it, and the run may end it or set its deadline: it is that of the requests
    before (server/http11.py), because another costs 10 us.
    """

    def __init__(
        self,
        hub: Hub,
        responder: Responder,
        request: Asked,
        exchange: Exchange,
        *,
        policy: str | None,
        named: str | None,
        consent: bool,
        affinity: bool,
        scope: trio.CancelScope,
        which: Fingerprint | None = None,
    ) -> None:
        self._hub = hub
        self._snapshot = hub.snapshot
        self._delivery = Delivery(responder, request, exchange)
        self._request = request
        self._exchange = exchange
        self._policy = policy
        self._consent = consent
        self._affinity = affinity
        self._shared = Shared(hub, request, exchange, named, which)
        self._attempts: Attempts | None = None
        self._candidates: tuple[Candidate, ...] = ()
        self._conversation: Key | None = None
        # It ends the run when the client leaves, and while the answer is looked for, that work.
        self._scope = scope
        self._working = False
        self._left_at: float | None = None
        self._alone = self._deserted = False
        self._stopped = False
        self._error: ErrorReply | None = None
        self._over = False
        self._ended = False
        self._relaying: Relaying | None = None
        self._last_bytes = b""
        self._whole: UpstreamCall | None = None

    async def run(self) -> None:
        """Finds an answer and delivers it, or says why there is none. Within its scope."""
        try:
            await self._answer()
        except BaseException as error:
            if is_cancellation(error):
                with trio.move_on_after(LAST_WORD_SECONDS, shield=True) as last:
                    await self._last_word(last)
            raise

    async def _answer(self) -> None:
        self._attempts = attempts = await self._route()
        if attempts is None:
            return
        await self._work(attempts)
        if self._scope.cancel_called:
            await trio.lowlevel.checkpoint()  # it was ended while nobody waited, and ends here
        await self._deliver(attempts)

    async def _last_word(self, scope: trio.CancelScope) -> None:
        """Its scope is over. If the shutdown or `[timeouts] total` ended it, the client is to hear
        of it, within this one."""
        attempts = self._attempts
        if not self._scope.cancel_called or self.is_deserted() or attempts is None:
            return
        if self._working:
            self._working = False
            self._error, self._last_bytes = cut_by_ourselves(
                attempts,
                self._exchange,
                self._why_cut,
                streamed=self._request.stream,
                total=self._snapshot.config.timeouts.total,
                now=self._hub.now(),
            )
            self._shared.hand_over(attempts.drains)
        self._scope = scope
        await self._deliver(attempts)

    async def _route(self) -> Attempts | None:
        """Who may be asked. `None`: nobody, and the client was told so."""
        hub, request = self._hub, self._request
        now, home = trio.current_time(), None
        if self._affinity:
            self._conversation, home = hub.home_of(request, now)
        self._snapshot, route = await route_of(hub, self._snapshot, request, self._policy, home)
        if isinstance(route, NoRoute):
            await self._delivery.error(route.error, asked=False, policy=route.policy)
            return None
        self._candidates = route.candidates
        self._exchange.note(
            life.Routed(route.policy, route.candidates[0], home and home.provider), now
        )
        self._delivery.retry = retry = retry_of(hub, self._snapshot, route, consent=self._consent)
        return Attempts(
            hub,
            self._snapshot,
            request,
            self._exchange,
            retry,
            self._drained,
            self.is_deserted,
        )

    async def _work(self, attempts: Attempts) -> None:
        """Finds an answer, and relays it if it is a stream. Without an `_error` it is whole."""
        config = self._snapshot.config
        self._working = True
        if self._stopped:
            self._scope.cancel()
        if config.timeouts.total:
            self._scope.deadline = self._exchange.received + config.timeouts.total
        if self._request.stream and config.stream.keepalive:
            silence = self._delivery.keep_alive(self._hub.silences, config.stream.keepalive)
            try:
                await self._find(attempts)
            finally:
                silence.end()
        else:
            await self._find(attempts)
        if self._scope.deadline != inf and not self._scope.cancel_called:
            self._scope.deadline = inf

    async def _find(self, attempts: Attempts) -> None:
        error = await attempts.find()
        if error is not None:
            self._shared.hand_over(attempts.drains)
            error = unserved_now(self._hub, self._request, self._candidates) or error
        elif self._request.stream:
            error = await self._relay(attempts)
        self._working, self._error = False, error

    async def _deliver(self, attempts: Attempts) -> None:
        if self._left_at is not None:
            await self._end_unattended(attempts)
        elif self._error is not None:
            await self._deliver_error(self._error)
        elif self._request.stream:
            await self._finish_stream(attempts)
        else:
            await self._deliver_plain(attempts)

    @property
    def _why_cut(self) -> Why:
        if self._stopped:
            return Why.SHUTDOWN
        return Why.LEFT if self._deserted else Why.TOTAL

    # -- streams -------------------------------------------------------------------------------

    async def _relay(self, attempts: Attempts) -> ErrorReply | None:
        """Relays from the first output on. `None`: the stream is complete."""
        call = attempts.call
        assert call is not None  # Deliver follows a successful attempt
        clock = self._hub.transport.deadlines
        self._relaying = relaying = Relaying(call, attempts.take_first_bytes(), clock)
        head = self._head(call)
        self._shared.begin(head, attempts.drains_begun)
        await self._delivery.start(head)
        failure = await relaying.run(self._pass_on, self._hub.change.keep)
        if failure is None:
            return None
        error, self._last_bytes = broken_off(attempts, self._exchange, failure)
        return error

    def _pass_on(self, data: bytes) -> "Awaitable[None]":
        source = self._shared.source
        if source is not None:
            source.keep(data)
        return self._delivery.write(data)

    async def _finish_stream(self, attempts: Attempts) -> None:
        call = attempts.call
        assert call is not None  # its stream is complete
        self._note(life.UsageSeen(call.usage, call.provider_cost_msats))
        self._note(life.Answered())
        self._came_whole(call)
        late = call.price_is_open
        if not late:
            attempts.permit.book()
        # Nothing is unsent unless the work was cancelled just then.
        unsent = self._relaying.unsent if self._relaying is not None else b""
        await self._delivery.end(unsent + call.relay.finish(self._delivery.summary()))
        if late:
            # The client has waited long enough; the ledger has not.
            attempts.leave_call()
        self._finish()
        if not late:
            await call.finish()

    async def _deliver_plain(self, attempts: Attempts) -> None:
        call = attempts.call
        assert call is not None  # Deliver follows a successful attempt
        assert call.answer is not None  # and a plain one has an answer
        now = trio.current_time()
        self._exchange.note(life.Answered(), now)
        head = self._head(call)
        self._came_whole(call)
        attempts.leave_call()
        await self._delivery.plain(call.answer.body, head, now)

    async def _deliver_error(self, error: ErrorReply) -> None:
        if self._exchange.output_began:
            await self._delivery.break_off(error, self._last_bytes)
        else:
            await self._delivery.error(error, asked=self._exchange.attempts_made > 0)

    def _came_whole(self, call: UpstreamCall) -> None:
        self._whole = call
        self._hub.learn_stored(call.stored, call.provider.name, self._exchange.model, call.usage)

    def _head(self, call: UpstreamCall) -> Head:
        return head_of(call, self._exchange.model, self._snapshot.catalog.secrets)

    # -- without its client --------------------------------------------------------------------

    def client_left(self) -> None:
        """Nobody waits for the answer any more, unless the same is asked again."""
        if self._left_at is not None:
            return
        self._left_at = self._hub.now()
        self._delivery.leave()
        if not (self._is_here() or self._goes_on()):
            self._scope.cancel()

    def is_deserted(self) -> bool:
        """Whether nobody waits for the answer, for now."""
        return self._left_at is not None and not self._shared.is_wanted

    def _is_here(self) -> bool:
        """Whether the answer is whole, and was just about to be delivered."""
        found = not self._working and self._error is None and self._hub.kept.is_on
        return found and self._exchange.phase is life.Phase.ATTEMPTING

    def _goes_on(self) -> bool:
        """Whether the answer is waited for all the same."""
        hub, attempts = self._hub, self._attempts
        if not (self._working and attempts is not None and hub.kept.is_on and has_room(hub)):
            return False
        seconds = attempts.alone_for(self._linger)
        if not seconds:
            return False
        self._alone = self._deserted = True
        hub.draining += 1
        self._shared.leave(attempts, self._wanted)
        self._scope.deadline = self._hub.now() + seconds
        hub.end_if_deserted()
        return True

    @property
    def _linger(self) -> float:
        # With consent nobody joins, who repeats it pays again; and what was let go nobody gets.
        nobody = self._consent or self._shared.is_lost
        return 0.0 if nobody else self._snapshot.config.retry.linger

    def _wanted(self) -> None:
        """Somebody may have joined, or the last who had be gone or get no more of it."""
        if not self._working or self._scope.cancel_called or self._attempts is None:
            return
        before, self._deserted = self._deserted, self.is_deserted()
        if self._deserted is before:
            return
        total = self._snapshot.config.timeouts.total
        if not self._deserted:
            self._attempts.accompanied()
            self._scope.deadline = self._exchange.received + total if total else inf
            return
        seconds = self._attempts.alone_for(self._linger)
        if seconds:
            self._scope.deadline = self._hub.now() + seconds
        else:
            self._scope.cancel()
        self._hub.end_if_deserted()

    async def _end_unattended(self, attempts: Attempts) -> None:
        """It has come to its end, and its own client did not get it."""
        call = attempts.call
        if self._error is None and call is not None:
            self._came_whole(call)
            attempts.answered_unattended()
            self._remember(attempts.drains_begun)
            if not call.price_is_open:
                await call.finish()

    def _remember(self, drains: Drains | None) -> None:
        secrets = self._snapshot.catalog.secrets
        self._shared.remember(drains, self._whole, self._error, secrets)

    # -- the end -------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends the request now, with an honest answer: the shutdown's grace is over."""
        self._stopped = True
        if self._working:
            self._scope.cancel()

    def broke(self) -> None:
        """A bug of ours ended the request; the client gets the 500 of every route."""
        error = ErrorReply("internal_error", "arbstr failed; its log says how.")
        if self._exchange.phase is life.Phase.ATTEMPTING and self._attempts is not None:
            failure = self._attempts.given_up(FailureKind.NO_ANSWER, "was given up: arbstr failed")
            self._note(life.AttemptFailed(failure))
        if self._exchange.phase is life.Phase.ROUTING:
            self._note(life.Refused(error))
        elif self._exchange.phase is not life.Phase.ENDED:
            self._note(life.Unanswered(error))

    def end(self) -> None:
        """Whatever happened: breaker, connection, record. Has no checkpoint to be cancelled at."""
        if self._alone:
            self._hub.draining -= 1  # before a drain may need the room
        try:
            if self._attempts is not None:
                self._attempts.end(self._left_at)
        finally:
            self._finish()
            self._ended = True
            self._remember(None if self._attempts is None else self._attempts.drains_begun)
            self._forget()

    def _forget(self) -> None:
        """The attempts refer to us: a cycle, which the collector would have to find."""
        if self._ended and not self._draining():
            self._attempts = None

    def _finish(self) -> None:
        """The client's part is over: the row, unless a drain goes on, and a line in the log."""
        if self._over:
            return
        self._over = True
        now, draining = self._hub.now(), self._draining()
        if self._exchange.phase not in (life.Phase.ATTEMPTING, life.Phase.ENDED):
            self._exchange.note(life.ClientLeft(), self._left_at or now)
        record = self._exchange.finished(now) if draining else self._exchange.close(now)
        if not draining:
            self._enter(record)
        day = self._hub.spent_today()
        members = partial(record.members, day)
        log_request(log, record.line(day), record.correlation_id, members)

    def _draining(self) -> bool:
        drains = None if self._attempts is None else self._attempts.drains_begun
        return drains is not None and drains.running > 0

    def _drained(self) -> None:
        """A drain has ended: the last one brings the row, if the client's part is over."""
        if self._over and not self._draining():
            self._enter(self._exchange.close(self._hub.now()))
            if not self._exchange.possibly_spent and self._whole is None:
                self._shared.was_free()
            self._forget()

    def _enter(self, record: Record) -> None:
        books.enter(self._hub, record, self._exchange)
        lanes, attempts = self._hub.lanes, self._attempts
        if lanes is not None and attempts is not None and attempts.ways:
            lanes.ended(record, attempts.ways)
        self._hub.learn_home(self._conversation, record, self._request.input_tokens)

    def _note(self, event: life.Event) -> None:
        self._exchange.note(event, self._hub.now())

"""One request from its bytes to its row. Read it top to bottom.

serve            parse, then a Run
Run.run          route, find an answer, deliver it or say why there is none, in a scope that ends
                 when the client leaves
  _work          find an answer (attempts.py), within `[timeouts] total` and until the shutdown
  _relay         a stream, event by event, until it is complete or broken
  _deliver_*     the last bytes for the client
  end            whatever happened: exactly one record
"""

import logging
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from arbstr.sansio import life
from arbstr.sansio.config.reader import AUTO
from arbstr.sansio.dialects.dialect import Asked, Dialect, Headers
from arbstr.sansio.dialects.usage import is_heavy
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.failure import Failure, FailureKind, Money
from arbstr.sansio.failover.last_word import LastWord
from arbstr.sansio.failover.retry import GiveUp, Retry, TryFailed
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.money import format_sats
from arbstr.sansio.routing.affinity import Home
from arbstr.sansio.routing.plan import (
    Candidate,
    NoRoute,
    RoutePlan,
    lacks_price,
    plan,
    unserved,
    without_prices,
)
from arbstr.sansio.routing.policy import POLICY_HEADER, parse_and_choose
from arbstr.trio_runtime.attempts import Attempts, utc_timestamp
from arbstr.trio_runtime.heavy import apart
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.logs import log_request
from arbstr.trio_runtime.server.responder import (
    Responder,
    header,
    passed_on,
    policy_header,
)
from arbstr.trio_runtime.upstream.call import UpstreamCall
from arbstr.trio_runtime.upstream.transport import AnswerBroken

if TYPE_CHECKING:
    from arbstr.sansio.routing.affinity import Key

log = logging.getLogger(__name__)

AFFINITY_HEADER: Final = "x-arbstr-affinity"
NO_AFFINITY: Final = "none"
"""The value that sends a request wherever it is cheapest, whoever answered its conversation."""

AFTER_COMPLETE_SECONDS: Final = 2.0
"""How long a stream that is complete is waited on for its usage and last event."""


async def serve(
    hub: Hub,
    responder: Responder,
    dialect: Dialect,
    *,
    request_id: str,
    headers: dict[str, str],
    query: bytes,
    body: bytes,
    received: float,
    on_disconnect: Callable[[Callable[[], None]], None],
) -> None:
    """Answers one request at a door. Returns when the client has its answer or is gone.

    `received` is the monotonic time its first byte was read at. `on_disconnect` takes the callback
    that is called when the client leaves.
    """
    if is_heavy(body):
        rules = hub.snapshot.config.policies.rules
        request, found = await apart(parse_and_choose, dialect, body, headers, query, rules)
        headers = headers if found is None else {**headers, POLICY_HEADER: found}
    else:
        request = dialect.parse(body, headers, query)
    if isinstance(request, ErrorReply):
        extra = {"request_id": request_id, "status": "rejected", "code": request.code}
        log.info("rejected: %s", request.code, extra=extra)
        await responder.error(request)
        return
    exchange = Exchange(
        request_id,
        utc_timestamp(),
        request.model,
        request.stream,
        received,
        request.choices,
        dialect.name,
    )
    run = Run(hub, responder, request, exchange, headers)
    hub.running.add(run)
    if hub.stopping:
        run.stop()  # its body came too late: an answer could not be waited for
    on_disconnect(run.client_left)
    try:
        await run.run()
    except Exception:
        run.broke()
        raise
    finally:
        hub.running.discard(run)
        run.end()


@final
class Run:
    """One request whose model is known."""

    def __init__(
        self,
        hub: Hub,
        responder: Responder,
        request: Asked,
        exchange: Exchange,
        headers: dict[str, str],
    ) -> None:
        self._hub = hub
        self._snapshot = hub.snapshot
        self._responder = responder
        self._request = request
        self._exchange = exchange
        self._headers = headers
        self._attempts: Attempts | None = None
        self._candidates: tuple[Candidate, ...] = ()
        self._conversation: Key | None = None
        # One scope, because each costs about 15 us: it ends the run when the client leaves, and
        # while the answer is looked for, that work alone.
        self._scope = trio.CancelScope()
        self._working = False
        self._left = False
        self._stopped = False
        self._error: ErrorReply | None = None
        self._over = False
        self._ended = False
        self._unsent = b""
        self._last_bytes = b""

    async def run(self) -> None:
        """Finds an answer and delivers it, or says why there is none."""
        with self._scope:
            self._attempts = attempts = await self._route()
            if attempts is None:
                return
            await self._work(attempts)
            if not self._scope.cancel_called:
                await self._deliver(attempts)
                return
        attempts = self._attempts
        if self._left or attempts is None:
            return
        # The shutdown or `[timeouts] total` ended the scope, and the client is to hear of it.
        if self._working:
            self._working = False
            self._error = self._cut_by_ourselves(attempts)
        with trio.CancelScope() as self._scope:
            await self._deliver(attempts)

    async def _route(self) -> Attempts | None:
        """Who may be asked. `None`: nobody, and the client was told so."""
        home: Home | None = None
        if self._headers.get(AFFINITY_HEADER, "").strip().lower() != NO_AFFINITY:
            self._conversation, home = self._hub.home_of(self._request)
        route = self._planned(home)
        nodes = self._hub.nodes
        if nodes is not None and nodes.silent and lacks_price(route):
            await nodes.wait_first()
            self._snapshot = self._hub.snapshot
            route = without_prices(self._planned(home), nodes.silent)
        if isinstance(route, NoRoute):
            self._note(life.Refused(route.error, route.policy))
            await self._responder.error(route.error, self._policy_header())
            return None
        self._candidates = route.candidates
        self._note(life.Routed(route.policy, route.candidates[0], home and home.provider))
        return Attempts(
            self._hub,
            self._snapshot,
            self._request,
            self._exchange,
            self._new_retry(route),
            self._drained,
        )

    def _planned(self, home: Home | None) -> RoutePlan | NoRoute:
        config = self._snapshot.config
        return plan(
            self._request,
            policy_header=self._headers.get(POLICY_HEADER),
            catalog=self._snapshot.catalog,
            policies=config.policies,
            hold=config.budget.hold,
            learnt=self._hub.learnt,
            home=home,
        )

    def _new_retry(self, route: RoutePlan) -> Retry:
        retry = self._snapshot.config.retry
        asked = self._headers.get("x-arbstr-respend", "").strip().lower()
        return Retry(
            route.candidates,
            max_retries=retry.max_retries,
            backoff=retry.backoff,
            patience=retry.patience,
            consent=asked == "allow" or retry.possibly_spent == "next",
            no_stream_options=frozenset(self._hub.refuse_stream_options),
            max_sats=route.max_sats,
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
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    self._responder.keep_alive, config.stream.keepalive, self._policy_header
                )
                await self._find(attempts)
                nursery.cancel_scope.cancel()
        else:
            await self._find(attempts)
        if config.timeouts.total and not self._scope.cancel_called:
            self._scope.deadline = inf

    async def _find(self, attempts: Attempts) -> None:
        error = await attempts.find()
        if error is not None:
            error = self._unserved() or error
        elif self._request.stream:
            error = await self._relay(attempts)
        self._working, self._error = False, error

    def _unserved(self) -> ErrorReply | None:
        """What is said if it turned out just now that nobody serves the door's path."""
        paths, door = self._hub.paths, self._request.dialect.name
        offers = [candidate.offer for candidate in self._candidates]
        lacking = all(paths.lacks(offer, door) for offer in offers)
        return unserved(self._request, offers) if lacking else None

    async def _deliver(self, attempts: Attempts) -> None:
        if self._error is not None:
            await self._deliver_error(self._error)
        elif self._request.stream:
            await self._finish_stream(attempts)
        else:
            await self._deliver_plain(attempts)

    def _cut_by_ourselves(self, attempts: Attempts) -> ErrorReply | None:
        """The work was cancelled: by the shutdown, or by `[timeouts] total`."""
        call = attempts.call
        if self._request.stream and call is not None:
            call.relay.broke()
            if call.relay.complete:
                return None  # it only waited for its usage
        if self._stopped:
            why = ErrorReply("shutting_down", "arbstr was shut down before there was an answer.")
            failure = call and call.given_up(
                FailureKind.SHUTDOWN, "was given up: arbstr was shut down"
            )
        else:
            limit = f"[timeouts] total = {self._snapshot.config.timeouts.total:g} s"
            why = ErrorReply(
                "upstream_error", f"There was no answer within {limit}.", should_retry=False
            )
            failure = call and call.cut_short(f"had not answered within {limit}")
        if failure is None or self._exchange.phase is not life.Phase.ATTEMPTING:
            return self._unless_spent(why)
        if self._exchange.output_began:
            return self._cut(attempts, failure, counts=False)
        attempts.failed(failure, counts=False)
        command = attempts.retry.handle(TryFailed(failure), trio.current_time())
        return command.error if isinstance(command, GiveUp) else self._unless_spent(why)

    def _unless_spent(self, why: ErrorReply) -> ErrorReply:
        """With consent, attempts before this one may have cost: that is the more useful word."""
        if not self._exchange.possibly_spent:
            return why
        message = f"{why.message} Attempts before may have been paid for; see x-arbstr-retries."
        return ErrorReply(LastWord.POSSIBLY_SPENT.value, message, should_retry=False)

    # -- streams -------------------------------------------------------------------------------

    async def _relay(self, attempts: Attempts) -> ErrorReply | None:
        """Relays from the first output on. `None`: the stream is complete."""
        call = attempts.call
        assert call is not None  # Deliver follows a successful attempt
        relay, self._unsent = call.relay, attempts.first_bytes
        idle = call.provider.timeouts.idle
        await self._responder.start(self._answer_headers(call))
        broke: Failure | None = None
        events, after, ending = relay.events, 0, False
        deadline = trio.current_time() + idle
        with trio.CancelScope() as silence:
            call.limit(silence)
            while True:
                if self._unsent:
                    # A client that is slow to take this is not the provider's silence.
                    began, silence.deadline = trio.current_time(), inf
                    await self._responder.write(self._unsent)
                    self._unsent = b""
                    deadline += trio.current_time() - began
                if (relay.done and call.has_said_all) or call.ended or relay.overflow:
                    break
                if (relay.finished and relay.ending) or relay.error is not None:
                    # Only its last word can follow; output shows that this was not the end.
                    if not ending or relay.after_finish != after:
                        ending, after = True, relay.after_finish
                        deadline = trio.current_time() + min(idle, AFTER_COMPLETE_SECONDS)
                elif relay.events != events:
                    events = relay.events
                    deadline = trio.current_time() + idle
                silence.deadline = deadline
                try:
                    self._unsent = await call.more()
                    deadline = silence.deadline  # moved on where arbstr itself took its time
                except AnswerBroken as error:
                    relay.broke()
                    broke = call.cut_short(f"broke off: {error.sentence}")
                    break
        if relay.complete:
            return None
        if silence.cancelled_caught and not ending:
            broke = call.cut_short(f"sent nothing for {idle:g} s")
        return self._cut(attempts, call.stream_failure() or broke or call.ended_early())

    def _cut(self, attempts: Attempts, failure: Failure, *, counts: bool = True) -> ErrorReply:
        call = attempts.call
        assert call is not None  # its stream broke
        charged = "" if failure.money is Money.FREE else " It may have been charged."
        error = ErrorReply(
            "stream_interrupted",
            f'The answer is not complete: provider "{call.provider.name}" {failure.sentence}.'
            f"{charged}",
        )
        self._last_bytes = call.relay.interrupt(error)
        attempts.failed(failure, counts=counts)
        return error

    async def _finish_stream(self, attempts: Attempts) -> None:
        call = attempts.call
        assert call is not None  # its stream is complete
        self._note(life.UsageSeen(call.usage, call.provider_cost_msats))
        self._note(life.Answered())
        late = call.price_is_open
        if not late:
            attempts.book()
        summary = self._exchange.summary(
            trio.current_time(), retries=attempts.retry.failures_header()
        )
        # Nothing is unsent unless the work was cancelled just then.
        await self._responder.end(self._unsent + call.relay.finish(summary))
        self._note(life.Delivered())
        if late:
            # The client has waited long enough; the ledger has not.
            attempts.leave_call()
        self._finish()
        if not late:
            await call.finish()

    # -- whole answers -------------------------------------------------------------------------

    async def _deliver_plain(self, attempts: Attempts) -> None:
        call = attempts.call
        assert call is not None  # Deliver follows a successful attempt
        assert call.answer is not None  # and a plain one has an answer
        self._note(life.Answered())
        headers = [
            header("content-type", _content_type(call)),
            *self._answer_headers(call),
            header("x-arbstr-latency-ms", str(self._exchange.latency_ms(trio.current_time()))),
        ]
        if self._exchange.cost is not None:
            headers.append(header("x-arbstr-cost-sats", format_sats(self._exchange.cost)))
        attempts.leave_call()
        await self._responder.plain(call.answer.body, tuple(headers))
        self._note(life.Delivered())

    async def _deliver_error(self, error: ErrorReply) -> None:
        if self._exchange.output_began:
            self._note(life.Interrupted(error))
            await self._responder.break_off(self._last_bytes)
            return
        attempted = self._exchange.attempts_made > 0
        self._note(life.Failed(error) if attempted else life.Refused(error))
        await self._responder.error(error, (*self._policy_header(), *self._retry_headers()))

    def _model_header(self) -> Headers:
        """Which model answered, if the client left that to arbstr."""
        if self._request.model != AUTO:
            return ()
        return (header("x-arbstr-model", self._exchange.model),)

    def _policy_header(self) -> Headers:
        return policy_header(self._exchange.policy)

    def _retry_headers(self) -> Headers:
        headers = []
        failures = self._attempts.retry.failures_header() if self._attempts is not None else ""
        if failures:
            headers.append(header("x-arbstr-retries", failures))
        if self._exchange.possibly_spent:
            headers.append(header("x-arbstr-possibly-spent", str(self._exchange.possibly_spent)))
        return tuple(headers)

    def _answer_headers(self, call: UpstreamCall) -> Headers:
        return (
            header("x-arbstr-provider", call.provider.name),
            *self._model_header(),
            *self._policy_header(),
            *self._retry_headers(),
            *passed_on(call.headers, self._snapshot.catalog.secrets),
        )

    # -- the end -------------------------------------------------------------------------------

    def client_left(self) -> None:
        """Nobody waits for the answer any more."""
        self._left = True
        self._scope.cancel()

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
            self._note(life.Failed(error))

    def end(self) -> None:
        """Whatever happened: breaker, connection, record. Has no checkpoint to be cancelled at."""
        try:
            if self._attempts is not None:
                self._attempts.end()
        finally:
            self._finish()
            self._ended = True
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
        if self._exchange.phase not in (life.Phase.ATTEMPTING, life.Phase.ENDED):
            self._note(life.ClientLeft())
        now, draining = trio.current_time(), self._draining()
        record = self._exchange.finished(now) if draining else self._exchange.close(now)
        if not draining:
            self._keep(record)
        log_request(log, record.line(), record.correlation_id, record.members)

    def _draining(self) -> bool:
        return self._attempts is not None and self._attempts.drains.running > 0

    def _drained(self) -> None:
        """A drain has ended: the last one brings the row, if the client's part is over."""
        if self._over and not self._draining():
            self._keep(self._exchange.close(trio.current_time()))
            self._forget()

    def _keep(self, record: Record) -> None:
        self._hub.log_writer.offer(record)
        if self._hub.accounts is not None:
            self._hub.accounts.ended(record)
        self._hub.learn_ratio(record.policy, record.token_ratio)
        self._hub.learn_length(record, self._request.choices)
        self._hub.learn_home(self._conversation, record, self._request.input_tokens)
        for sentence in self._exchange.disbelieved:
            log.warning("%s", sentence, extra=self._extra())
        for attempt in record.attempts:
            stated, expected = attempt.provider_cost_sats, attempt.expected_sats
            if stated is None or expected is None or not attempt.may_have_cost:
                continue
            provider, model, now = attempt.provider, attempt.model, trio.current_time()
            alarm = self._hub.price_alarms.note(provider, model, stated, expected, now)
            if alarm is not None:
                log.warning("%s", alarm.sentence(), extra=self._extra())

    def _note(self, event: life.Event) -> None:
        self._exchange.note(event, trio.current_time())

    def _extra(self) -> dict[str, str]:
        return {"request_id": self._exchange.correlation_id}


def _content_type(call: UpstreamCall) -> str:
    """The provider's own words for JSON; what a stream was put together to is plain JSON."""
    given = call.headers.get("content-type", "")
    return given if "json" in given.lower() else "application/json"

"""The attempts of one request: the retry loop, deadlines, what becomes of each call.

    Attempts.find      runs Retry's commands until something can be delivered or all is over
      _attempt, _try   one attempt: with its permit (permit.py), within its deadlines
      write_off        its books: exchange, breaker, rest, connection, budget
      end              whatever happened: verdict given, connection closed or left to a drain

At any moment at most one call is open. What it needs to be sent it has of its `Permit`.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from arbstr.sansio import life
from arbstr.sansio.config.reader import Kind
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.breaker import Outcome
from arbstr.sansio.failover.cut_off import LEFT
from arbstr.sansio.failover.failure import Failure, FailureKind, Money, seen, told
from arbstr.sansio.failover.kinds import TRAITS
from arbstr.sansio.failover.retry import (
    Answered,
    Attempt,
    AwaitProbe,
    Deliver,
    Elapsed,
    Event,
    GiveUp,
    ProbeSettled,
    Retry,
    Skipped,
    Sleep,
    TryFailed,
)
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.moments import format_moment
from arbstr.sansio.money import sats_from_msats
from arbstr.sansio.routing.budget import LedgerUnread
from arbstr.trio_runtime.drains import Drains, seconds_alone, seconds_to_read_on
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.permit import Permit
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.call import UpstreamCall
from arbstr.trio_runtime.upstream.transport import TooLate
from arbstr.trio_runtime.upstream.witness import Seen

if TYPE_CHECKING:
    from arbstr.sansio.routing.catalog import Offer
    from arbstr.trio_runtime.lane_words import Way

log = logging.getLogger(__name__)

NOBODY_WAITS: Final = ErrorReply("upstream_error", "Nobody waited for the answer any more.")
"""What nobody reads."""


def utc_timestamp() -> str:
    """Now, in the log's fixed-width format."""
    return format_moment(time.time_ns() // 1_000_000)


@final
class Attempts:
    """See the module. `drained` is called when a drain that outlived the request has ended;
    `deserted` tells whether nobody waits for the answer."""

    # As of the beginning; what most requests never set costs them nothing.
    call: UpstreamCall | None = None
    drains_begun: Drains | None = None
    _first_bytes = b""
    _offer: "Offer | None" = None
    _refused_options: str | None = None
    _alone_until: float | None = None

    def __init__(
        self,
        hub: Hub,
        snapshot: Snapshot,
        request: Asked,
        exchange: Exchange,
        retry: Retry,
        drained: Callable[[], None],
        deserted: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._snapshot = snapshot
        self._request = request
        self._exchange = exchange
        self.permit = Permit(hub, snapshot, request, exchange)
        self._deserted = deserted
        self.retry = retry
        self._drained = drained
        # The lanes that attempts were made on, by the attempt's number.
        self.ways: dict[int, Way] = {}

    @property
    def drains(self) -> Drains:
        """Made when one may begin: nearly all requests have none."""
        if self.drains_begun is None:
            secrets = self._snapshot.catalog.secrets
            self.drains_begun = Drains(self._hub, self._exchange, self._drained, secrets)
        return self.drains_begun

    def take_first_bytes(self) -> bytes:
        """What a stream whose output has begun brought with that; once, for it may be large."""
        data, self._first_bytes = self._first_bytes, b""
        return data

    async def find(self) -> ErrorReply | None:
        """Runs Retry's commands. `None` means that `call` has something to deliver."""
        command = self.retry.start()
        event: Event
        while True:
            if self._deserted() and not isinstance(command, Deliver | GiveUp):
                return NOBODY_WAITS  # whoever asks again begins anew: nothing was paid
            match command:
                case Attempt():
                    # What was stopped meanwhile begins none: its row would have one too many.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    event = await self._attempt(command)
                case Deliver():
                    return None
                case Sleep(at_least, at_most):
                    await trio.sleep(random.uniform(at_least, at_most))
                    event = Elapsed()
                case AwaitProbe(_, at_most):
                    event = Elapsed()
                    with trio.move_on_after(at_most):
                        await self._hub.wait_verdict()
                        event = ProbeSettled()
                case GiveUp(error):
                    return error
            command = self.retry.handle(event, self._hub.now())

    async def _attempt(self, command: Attempt) -> Event:
        hub, exchange, candidate = self._hub, self._exchange, command.candidate
        offer = candidate.offer
        refused = self.permit.take(candidate)
        if isinstance(refused, LedgerUnread) and hub.today is not None:
            await hub.today.wait(refused.most)
            await trio.lowlevel.checkpoint_if_cancelled()
            refused = self.permit.take(candidate)
        if refused is not None:
            return Skipped(refused)
        if offer.price is not None and hub.nodes is not None:
            hub.nodes.use(offer.price, offer.provider)
        if hub.accounts is not None:
            hub.accounts.began(offer.provider.name)
        # Before it is noted: the note says which, and the start after a kill asks it.
        way = None if hub.lanes is None else hub.lanes.take(offer.provider)
        lane = None if way is None else way.noted.text
        began = hub.now()
        exchange.note(life.AttemptStarted(candidate, utc_timestamp(), lane), began)
        if way is not None:
            self.ways[exchange.attempts_made] = way
        hub.log_writer.offer_in_flight(exchange.intent(began), self._in_flight)
        failure = await self._try(command, way)
        if failure is None:
            self._answered(offer, began)
            return Answered()
        probe = self.permit.is_probe
        self.write_off(failure)
        failure = await self._settled(failure)
        charged = exchange.charged(exchange.attempts_made)
        return TryFailed(failure, probe=probe, charged=charged)

    def _answered(self, offer: "Offer", began: float) -> None:
        """A plain answer is there, or a stream's output has begun."""
        hub, permit, request, provider = self._hub, self.permit, self._request, offer.provider
        now = hub.now()
        if permit.is_known(provider):
            hub.learn_latency(provider.name, now - began, stream=request.stream)
            hub.answered(provider, request.dialect.name)
            if self._refused_options == provider.name and permit.is_current():
                hub.refuse_stream_options.add(provider.name)
        permit.verdict = Outcome.SUCCESS
        permit.settle()
        if request.stream and hub.board.circuit(provider.name, offer.model, now).state == "closed":
            # The first output was a success. To break off later is a failure of its own, so it
            # takes a leave of its own, and with it a generation; but never the probe's, which a
            # stream would keep for as long as it runs.
            permit.admit(offer)

    async def _settled(self, failure: Failure) -> Failure:
        """The failure, with what its lane tells of the money, if it tells soon enough."""
        n = self._exchange.attempts_made
        way = self.ways.get(n)
        if way is None or self._hub.lanes is None or failure.money is not Money.UNKNOWN:
            return failure
        seconds = self._snapshot.config.retry.reconcile_seconds
        msats = await self._hub.lanes.teller.settle(way, seconds, partial(self.drains.stop, n))
        if msats is None:
            return failure
        money = Money.SPENT if msats else Money.FREE
        self._note(life.Drained(n, None, None, None, msats, money, by_lane=True))
        self.permit.correct(n, sats_from_msats(msats), guess=self.drains.guessed.pop(n, None))
        return replace(failure, money=money, settled=True)

    def _in_flight(self) -> Record:
        return self._exchange.in_flight(self._hub.now())

    async def _try(self, command: Attempt, way: "Way | None") -> Failure | None:
        """One attempt within its deadlines. `None`: there is something to deliver."""
        hub, snapshot, request = self._hub, self._snapshot, self._request
        self._offer = offer = command.candidate.offer
        provider, dialect, timeouts = offer.provider, request.dialect, offer.provider.timeouts
        kind = hub.kind_of(provider)
        self.call = call = UpstreamCall(
            provider if way is None else way.provider,
            snapshot.targets.of(provider, dialect.path)
            if way is None
            else way.targets.of(way.provider, dialect.path),
            kind=kind,
            asked=request,
            max_answer_bytes=snapshot.config.server.max_answer_bytes,
            added_stream_options=command.add_usage and request.adds_option,
            path_served=hub.paths.serves(provider.name, dialect.name),
            secrets=snapshot.catalog.secrets,
        )
        failure: Failure | None = None
        if not call.take_kept(hub.transport):
            with trio.move_on_after(timeouts.connect) as connecting:
                failure = await call.connect(hub.transport)
            if connecting.cancelled_caught:
                return call.connect_timed_out(timeouts.connect)
            if failure is not None:
                return failure
        body = dialect.outgoing(
            request,
            model=offer.upstream_model,
            ask_usage=command.add_usage,
            mirror_limit=TRAITS[kind].mirrors,
        )
        seconds = timeouts.first_output if request.stream else timeouts.answer
        deadline = call.within(seconds, hub.transport.deadlines)
        try:
            if request.stream:
                output = await call.stream(body)
                if isinstance(output, bytes):
                    self._first_bytes = output
                else:
                    failure = output
            elif isinstance(answer := await call.plain(body), Failure):
                failure = answer
        except TooLate:
            failure = call.cut_short(f"did not answer within {seconds:g} s")
        finally:
            deadline.end()
        if change := call.stray_change():
            await hub.change.keep(change, provider.name)
        if failure is None:
            self._note_answer(call)
            if request.stream:
                self._note(life.OutputBegan())
        return failure

    def write_off(self, failure: Failure, *, counts: bool = True) -> None:
        """The open call is over without an answer. With `counts` the breaker hears of it."""
        call = self.call
        assert call is not None  # somebody failed
        name = call.provider.name
        self._note_answer(call)
        if self._deserted():
            self._unattended(call, failure.money)
            self.leave_call()
            return
        self._note(life.AttemptFailed(failure))
        self.permit.verdict = Outcome.NEUTRAL
        if failure.trips and counts:
            reached = failure.kind is not FailureKind.NOT_SENT
            self.permit.verdict = Outcome.FAILURE if reached else Outcome.UNREACHED
        self.permit.last_error = failure.sentence
        if self._offer is not None and self.permit.is_known(self._offer.provider):
            self._hub.rest(self._offer, failure, self._request.dialect.name)
        if failure.kind is FailureKind.NO_STREAM_OPTIONS:
            # Believed once it has answered without: a refusal may only have repeated the request.
            self._refused_options = name
        log.warning(
            'attempt %d: provider "%s" %s (%s)',
            self._exchange.attempts_made,
            name,
            told(failure, name),
            failure.kind.value,
            extra={**self._extra(), "provider": name, "failure": failure.kind.value},
        )
        self.leave_call()

    def alone_for(self, linger: float) -> float:
        """The client has left: how many seconds its attempt goes on all the same, from now.

        Its verdict is given: who reads for nobody proves nothing in time.
        """
        if self.call is None or self._exchange.phase is not life.Phase.ATTEMPTING:
            return 0.0
        self.permit.verdict = Outcome.NEUTRAL
        self.permit.settle()
        seconds = seconds_alone(self.call, linger)
        finishes = TRAITS[self.call.kind].finishes
        self._alone_until = self._hub.now() + seconds if finishes else inf
        return seconds

    def accompanied(self) -> None:
        """Somebody has joined: its time is its own again."""
        self._alone_until = inf

    def answered_unattended(self) -> None:
        """The answer came whole, but not to its own client."""
        call = self.call
        assert call is not None  # it has answered
        self._note_answer(call)
        if self._deserted():
            self._unattended(call, call.money)
        else:
            self._note(life.Answered())

    def _unattended(self, call: UpstreamCall, money: Money) -> None:
        """The attempt has ended, and nobody got what it brought. `money` is what its end tells."""
        n, asked = self._exchange.attempts_made, call.upstream_request_id
        self._note(life.AttemptFailed(seen(FailureKind.CLIENT_LEFT, call.kind, LEFT)))
        price = call.provider_cost_msats
        self._note(life.Drained(n, call.status, asked, call.usage, price, money))

    def given_up(self, kind: FailureKind, sentence: str) -> Failure:
        """The running attempt is stopped for a reason that is not the provider's."""
        if self.call is None:
            # A bug of ours, before there was a call: then nothing was sent.
            return seen(FailureKind.NOT_SENT, Kind.OPENAI, sentence)
        return self.call.given_up(kind, sentence)

    def _note_answer(self, call: UpstreamCall) -> None:
        """What is known of the open call's answer, whole or not."""
        now = self._hub.now()
        if call.status is not None:
            self._exchange.note(life.HeadSeen(call.status, call.upstream_request_id), now)
        self._exchange.note(life.UsageSeen(call.usage, call.provider_cost_msats), now)
        if call.kind is not self._hub.kind_of(call.provider):
            self._hub.showed_itself(call.provider, self._exchange.correlation_id)

    def leave_call(self) -> None:
        """Closes the open call, or leaves it to a drain where its rest may tell what it cost."""
        call, self.call = self.call, None
        if call is None:
            return
        # By what the attempt came to, not by the phase: a bug of ours ends that of any.
        seconds = seconds_to_read_on(call, failed=not self._exchange.answered)
        if seconds > 0 and self._leave_to_drain(call, seconds):
            return
        try:
            if change := call.stray_change():
                self._hub.keep_change(change, call.provider.name, self._exchange.correlation_id)
        finally:
            call.close()
            self.permit.book()

    def _leave_to_drain(self, call: UpstreamCall, seconds: float) -> bool:
        """Whether it is read on; with it goes what was set aside."""
        if self._alone_until is not None:
            seconds = min(seconds, self._alone_until - self._hub.now())
        # What was given up before its output may still come to who asks the same again; once its
        # client has left, there is a source for it already.
        fresh = not self._exchange.answered and call.seen is not Seen.OUTPUT
        keep = fresh and self._alone_until is None
        n, reservation = self._exchange.attempts_made, self.permit.reservation
        if seconds <= 0 or not self.drains.start(
            call, n, seconds, reservation, fresh=fresh, keep=keep
        ):
            return False
        self.permit.reservation = None
        return True

    def end(self, left_at: float | None) -> None:
        """Whatever happened: gives back what is held. Has no checkpoint to be cancelled at.

        `left_at` is when the client left, if it did.
        """
        try:
            if self._exchange.phase is life.Phase.ATTEMPTING:
                # Nobody else ends an attempt that runs: the handler was cancelled, the client left.
                failure = self.given_up(FailureKind.CLIENT_LEFT, LEFT)
                if self.call is not None:
                    self._note_answer(self.call)
                self._exchange.note(life.AttemptFailed(failure), left_at or self._hub.now())
            if self._exchange.phase is life.Phase.READY:
                self.permit.verdict = (
                    Outcome.NEUTRAL
                )  # the client left, in an attempt or between two
        finally:
            self.permit.settle()
            self.leave_call()
            self.permit.book()

    def _note(self, event: life.Event) -> None:
        self._exchange.note(event, self._hub.now())

    def _extra(self) -> dict[str, str]:
        return {"request_id": self._exchange.correlation_id}

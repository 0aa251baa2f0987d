"""One request, from the moment its model is known to its row in the log.

Drive it with `note(event, now)` as things happen (`life.py` has the events and says which may come
when), and call `close(now)` once, when nothing more can be learnt; it returns the one `Record`. If
nobody said how the request ended, the client left: the handler was cancelled, and a cancelled
handler cannot be asked. `in_flight(now)` is the row as far as it is known so far.

No text of a prompt or an answer may enter this module, and no text a provider wrote: what is
stored is numbers, names from the configuration and arbstr's own sentences.
"""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, final

from arbstr.sansio.endpoints import CHAT
from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.failover.cut_off import LEFT
from arbstr.sansio.failover.failure import FailureKind, seen
from arbstr.sansio.ledger.attempt import AttemptState, milliseconds
from arbstr.sansio.ledger.intents import Intent
from arbstr.sansio.ledger.record import AttemptRow, Record
from arbstr.sansio.life import (
    TRANSITIONS,
    Answered,
    AttemptFailed,
    AttemptStarted,
    ClientLeft,
    Delivered,
    Drained,
    Event,
    HeadSeen,
    Interrupted,
    Joined,
    OutputBegan,
    Phase,
    Refused,
    Routed,
    Unanswered,
    UsageSeen,
)
from arbstr.sansio.money import format_sats
from arbstr.sansio.routing.plan import Candidate
from arbstr.sansio.routing.ratios import sample_of

_NOTHING: Final = Decimal(0)


@final
@dataclass(slots=True)
class Exchange:
    """The machine. See `life.py` for its phases, and the module's docstring for how to drive it.

    `received` is the monotonic time the request's first byte was read at; `timestamp` the same
    moment as UTC text in the log's format (`2026-02-03T04:05:06.789Z`). `choices` is the
    request's `n`.
    """

    correlation_id: str
    timestamp: str
    requested_model: str
    streaming: bool
    received: float
    choices: int = 1
    endpoint: str = CHAT
    phase: Phase = Phase.ROUTING
    policy: str | None = None
    _first: Candidate | None = None
    _home: str | None = None
    _joined: Joined | None = None
    _attempts: list[AttemptState] = field(default_factory=list)
    _output_began: float | None = None
    _ended: float | None = None
    _status: str | None = None
    _error: ErrorReply | None = None
    _closed: bool = False

    @property
    def answered(self) -> bool:
        """Whether the last attempt brought a whole answer."""
        return bool(self._attempts) and self._attempts[-1].answered

    @property
    def attempts_made(self) -> int:
        """How many attempts were started; the running one has this number."""
        return len(self._attempts)

    @property
    def output_began(self) -> bool:
        """Whether a stream's output has begun: from then on there is no other provider."""
        return self._output_began is not None

    @property
    def possibly_spent(self) -> int:
        """How many attempts may have cost without bringing an answer."""
        # As a list: a generator for one attempt is most of what this takes.
        return sum([attempt.paid_for_nothing for attempt in self._attempts])

    @property
    def delivered(self) -> bool:
        """Whether the client has the whole answer."""
        return self._status == "ok"

    @property
    def joined(self) -> str | None:
        """The id of the request whose answer it gets, if it gets that of another."""
        return None if self._joined is None else self._joined.first

    @property
    def saw(self) -> str:
        """A sentence, without a full stop, about the last attempt that may have cost and brought
        no answer."""
        for attempt in reversed(self._attempts):
            if attempt.paid_for_nothing and attempt.failure is not None:
                name = attempt.candidate.offer.provider.name
                return f'provider "{name}" {attempt.failure.sentence}'
        return "nothing was seen of an answer"

    @property
    def disbelieved(self) -> tuple[str, ...]:
        """What the log is told of attempts whose counts of tokens cannot be, a sentence each."""
        said = (attempt.disbelief() for attempt in self._attempts)
        return tuple(sentence for sentence in said if sentence is not None)

    @property
    def cost(self) -> Decimal | None:
        """What the last attempt cost, in sats; `None` is unknown, not zero."""
        if self._joined is not None:
            return _NOTHING
        return self._attempts[-1].cost if self._attempts else None

    def charged(self, n: int) -> Decimal | None:
        """What attempt `n` (1-based) took as far as is known now, in sats: nothing if it was free,
        `None` if nobody knows."""
        return self._attempts[n - 1].charged

    @property
    def model(self) -> str:
        """The model of the last attempt; before the first, what was asked for."""
        attempts, joined = self._attempts, self._joined
        if joined is not None:
            return joined.model or self.requested_model
        return attempts[-1].candidate.offer.model if attempts else self.requested_model

    def latency_ms(self, now: float) -> int:
        """Milliseconds since the request was received."""
        return milliseconds(now - self.received)

    def note(self, event: Event, now: float) -> None:
        """Takes one fact. Raises `LocalProtocolError` when it cannot happen in this phase."""
        if isinstance(event, Drained):
            if not 1 <= event.n <= len(self._attempts) or not self._attempts[event.n - 1].is_over:
                raise LocalProtocolError(f"attempt {event.n} is not over, so nobody drains it")
            self._attempts[event.n - 1].learn_from_drain(
                event.status,
                event.upstream_request_id,
                event.usage,
                event.provider_cost_msats,
                event.money,
                by_lane=event.by_lane,
            )
            return
        try:
            following = TRANSITIONS[self.phase][type(event)]
        except KeyError:
            raise LocalProtocolError(
                f"{type(event).__name__} cannot happen in phase {self.phase.name}"
            ) from None
        before, self.phase = self.phase, following
        match event:
            case Routed(policy, first, home):
                self.policy, self._first, self._home = policy, first, home
            case Joined(policy=policy):
                self.policy, self._joined = policy, event
            case AttemptStarted(candidate, started_at, lane):
                self._attempts.append(AttemptState(candidate, started_at, now, lane=lane))
            case HeadSeen(status, upstream_request_id):
                self._attempts[-1].status = status
                self._attempts[-1].upstream_request_id = upstream_request_id
            case UsageSeen(usage, provider_cost_msats):
                self._attempts[-1].learn(usage, provider_cost_msats)
            case Answered():
                self._attempts[-1].answered = True
                self._attempts[-1].ended = now
            case Delivered():
                self._end("ok", None, now)
            # So far what every request is told, in its order; a case is tried after another.
            case OutputBegan():
                self._output_began = now
            case AttemptFailed(failure):
                self._attempts[-1].failure = failure
                self._attempts[-1].ended = now
            case Refused(error, policy):
                self.policy = policy if policy is not None else self.policy
                self._end("failed" if self._attempts else "rejected", error, now)
            case Unanswered(error):
                self._end("failed", error, now)
            case Interrupted(error):
                self._end("stream_incomplete", error, now)
            case ClientLeft():
                if before is not Phase.ENDED:
                    self._end("client_disconnected", None, now)

    def _end(self, status: str, error: ErrorReply | None, now: float) -> None:
        self._status, self._error, self._ended = status, error, now

    def summary(self, now: float, *, retries: str) -> bytes:
        """The `arbstr` object of a finished stream, as JSON text; unknown is null.

        `retries` is the text of `x-arbstr-retries`, empty when no attempt failed.
        """
        joined, cost = self._joined, self.cost
        if joined is not None:
            provider, usage = joined.provider, joined.usage
        else:
            attempt = self._attempts[-1]
            provider, usage = attempt.candidate.offer.provider.name, attempt.usage
        head = json.dumps(
            {"request_id": self.correlation_id, "provider": provider, "model": self.model}
        )
        tail = json.dumps(
            {
                "latency_ms": self.latency_ms(now),
                "input_tokens": usage.input_tokens if usage is not None else None,
                "output_tokens": usage.output_tokens if usage is not None else None,
                "retries": retries or None,
                **({} if joined is None else {"joined": joined.first}),
            }
        )
        # The cost is written by hand: json has no exact decimals, and 0.1 must not become
        # 0.1000000000000000055.
        figure = format_sats(cost) if cost is not None else "null"
        return f'{head[:-1]}, "cost_sats": {figure}, {tail[1:]}'.encode()

    def in_flight(self, now: float) -> Record:
        """The row of a request that was dispatched, as it stands while nothing is final."""
        return self._record("in_flight", now)

    def intent(self, now: float) -> Intent:
        """What is to be on disk before the attempt that has just started sends a byte."""
        return Intent(
            self.correlation_id,
            self.timestamp,
            self.requested_model,
            self.policy,
            self.streaming,
            self._rows(now),
            self.endpoint,
        )

    def finished(self, now: float) -> Record:
        """The row as it stands when the client's part is over; a drain may still add to it."""
        if self.phase is not Phase.ENDED:
            if self.phase is Phase.ATTEMPTING:
                last = self._attempts[-1]
                kind = last.candidate.offer.provider.kind
                last.failure = seen(FailureKind.CLIENT_LEFT, kind, LEFT)
                last.ended = now
            self._end("client_disconnected", None, now)
            self.phase = Phase.ENDED
        assert self._status is not None  # every way into ENDED sets it
        return self._record(self._status, now)

    def close(self, now: float) -> Record:
        """The final row. Once; a second call raises `LocalProtocolError`."""
        if self._closed:
            raise LocalProtocolError("an exchange is closed once")
        self._closed = True
        return self.finished(now)

    def _rows(self, now: float) -> tuple[AttemptRow, ...]:
        return tuple([each.row(n, now) for n, each in enumerate(self._attempts, start=1)])

    def _moved(self) -> bool | None:
        """Whether another provider than before answered; None where nobody did, then or now."""
        if self._home is None or not self.answered:
            return None
        return self._attempts[-1].candidate.offer.provider.name != self._home

    def _record(self, status: str, now: float) -> Record:
        last = self._attempts[-1] if self._attempts else None
        joined = self._joined
        rows = self._rows(now)
        row = rows[-1] if rows else None
        candidate = last.candidate if last is not None else self._first
        usage = last.usage if last is not None else None
        ended = self._ended if self._ended is not None else now
        began, running = self._output_began, status == "in_flight"
        if began is not None and began > ended:
            began = None  # its client had left, and did not see it
        # A request whose answer is only drained is in flight, too; how it ended comes with its end.
        error = None if running else self._error
        return Record(
            correlation_id=self.correlation_id,
            timestamp=self.timestamp,
            model=candidate.offer.model if candidate is not None else self.model,
            requested_model=self.requested_model,
            provider=joined.provider if joined else row.provider if row is not None else None,
            policy=self.policy,
            streaming=self.streaming,
            input_tokens=usage.input_tokens if usage is not None else None,
            output_tokens=usage.output_tokens if usage is not None else None,
            cached_tokens=usage.cached_tokens if usage is not None else None,
            reasoning_tokens=usage.reasoning_tokens if usage is not None else None,
            cost_sats=_NOTHING if joined else row.cost_sats if row is not None else None,
            expected_sats=row.expected_sats if row is not None else None,
            estimated_cost_sats=candidate.estimated_cost if candidate is not None else None,
            provider_cost_sats=row.provider_cost_sats if row is not None else None,
            latency_ms=0 if running else milliseconds(ended - self.received),
            ttft_ms=milliseconds(began - self.received) if began is not None else None,
            stream_duration_ms=None if began is None or running else milliseconds(ended - began),
            success=status == "ok",
            answered=last is not None and last.answered,
            status=status,
            error_status=error.status if error is not None else None,
            error_message=None if error is None else error.logged or error.message,
            possibly_spent=self.possibly_spent,
            attempts=rows,
            # Only of whole answers: half of one would teach that answers are short.
            token_ratio=sample_of(usage, self.choices) if status == "ok" else None,
            endpoint=self.endpoint,
            moved=self._moved(),
            joined=joined.first if joined else None,
        )

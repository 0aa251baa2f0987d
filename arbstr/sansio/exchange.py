"""One request, from the moment its model is known to its row in the log.

Drive it with `note(event, now)` as things happen (`life.py` has the events and says which may come
when), and call `close(now)` once, when nothing more can be learnt; it returns the one `Record`. If
nobody said how the request ended, the client left: the handler was cancelled, and a cancelled
handler cannot be asked. `in_flight(now)` is the row as far as it is known so far.

No text of a prompt or an answer may enter this module, and no text a provider wrote: what is
stored is numbers, names from the configuration and arbstr's own sentences.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, final

from arbstr.sansio.endpoints import CHAT
from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.failover.cut_off import LEFT
from arbstr.sansio.failover.failure import FailureKind, seen
from arbstr.sansio.frozen import dataclass
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
from arbstr.sansio.money import Usage, format_sats
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
        said = [attempt.disbelief() for attempt in self._attempts]
        return tuple([sentence for sentence in said if sentence is not None])

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
        kind = type(event)
        following = TRANSITIONS[self.phase].get(kind)
        if following is not None:
            self.phase = following
        elif kind is not Drained:
            raise LocalProtocolError(f"{kind.__name__} cannot happen in phase {self.phase.name}")
        _TAKEN[kind](self, event, now)

    def _routed(self, event: Routed, now: float) -> None:
        self.policy, self._first, self._home = event.policy, event.first, event.home

    def _get_joined(self, event: Joined, now: float) -> None:
        self.policy, self._joined = event.policy, event

    def _started(self, event: AttemptStarted, now: float) -> None:
        attempt = AttemptState(event.candidate, event.started_at, now, lane=event.lane)
        self._attempts.append(attempt)

    def _head_seen(self, event: HeadSeen, now: float) -> None:
        attempt = self._attempts[-1]
        attempt.status = event.status
        attempt.upstream_request_id = event.upstream_request_id

    def _output_seen(self, event: OutputBegan, now: float) -> None:
        self._output_began = now

    def _usage_seen(self, event: UsageSeen, now: float) -> None:
        self._attempts[-1].learn(event.usage, event.provider_cost_msats)

    def _failed(self, event: AttemptFailed, now: float) -> None:
        self._attempts[-1].failure = event.failure
        self._attempts[-1].ended = now

    def _answered(self, event: Answered, now: float) -> None:
        self._attempts[-1].answered = True
        self._attempts[-1].ended = now

    def _delivered(self, event: Delivered, now: float) -> None:
        self._end("ok", None, now)

    def _refused(self, event: Refused, now: float) -> None:
        self.policy = event.policy if event.policy is not None else self.policy
        self._end("failed" if self._attempts else "rejected", event.error, now)

    def _unanswered(self, event: Unanswered, now: float) -> None:
        self._end("failed", event.error, now)

    def _interrupted(self, event: Interrupted, now: float) -> None:
        self._end("stream_incomplete", event.error, now)

    def _client_left(self, event: ClientLeft, now: float) -> None:
        if self._status is None:  # else it has ended already
            self._end("client_disconnected", None, now)

    def _drained(self, event: Drained, now: float) -> None:
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
        attempts, n = self._attempts, len(self._attempts)
        begun = attempts[-1].begun(n)
        return Intent(
            self.correlation_id,
            self.timestamp,
            self.requested_model,
            self.policy,
            self.streaming,
            (begun,) if n == 1 else (*_rows_of(attempts[:-1], now), begun),
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

    def _moved(self) -> bool | None:
        """Whether another provider than before answered; None where nobody did now."""
        if not self.answered:
            return None
        return self._attempts[-1].candidate.offer.provider.name != self._home

    def _record(self, status: str, now: float) -> Record:
        joined, candidate = self._joined, self._first
        last: AttemptState | None = None
        row: AttemptRow | None = None
        usage: Usage | None = None
        rows: tuple[AttemptRow, ...] = ()
        if self._attempts:
            last, rows = self._attempts[-1], _rows_of(self._attempts, now)
            row, candidate, usage = rows[-1], last.candidate, last.usage
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
            provider=joined.provider if joined else row and row.provider,
            policy=self.policy,
            streaming=self.streaming,
            input_tokens=usage and usage.input_tokens,
            output_tokens=usage and usage.output_tokens,
            cached_tokens=usage and usage.cached_tokens,
            reasoning_tokens=usage and usage.reasoning_tokens,
            cost_sats=_NOTHING if joined else row and row.cost_sats,
            expected_sats=row and row.expected_sats,
            estimated_cost_sats=candidate and candidate.estimated_cost,
            provider_cost_sats=row and row.provider_cost_sats,
            latency_ms=0 if running else milliseconds(ended - self.received),
            ttft_ms=milliseconds(began - self.received) if began is not None else None,
            stream_duration_ms=None if began is None or running else milliseconds(ended - began),
            success=status == "ok",
            answered=last is not None and last.answered,
            status=status,
            error_status=error and error.status,
            error_message=error and (error.logged or error.message),
            possibly_spent=self.possibly_spent if last is not None else 0,
            attempts=rows,
            # Only of whole answers: half of one would teach that answers are short.
            token_ratio=sample_of(usage, self.choices) if status == "ok" else None,
            endpoint=self.endpoint,
            moved=self._moved() if self._home is not None else None,
            joined=joined and joined.first,
        )


def _rows_of(attempts: Sequence[AttemptState], now: float) -> tuple[AttemptRow, ...]:
    if len(attempts) == 1:
        return (attempts[0].row(1, now),)
    return tuple([each.row(n, now) for n, each in enumerate(attempts, start=1)])


_TAKEN: Final[Mapping[type[Event], Callable[[Exchange, Any, float], None]]] = MappingProxyType(
    {
        Routed: Exchange._routed,
        Refused: Exchange._refused,
        Joined: Exchange._get_joined,
        AttemptStarted: Exchange._started,
        HeadSeen: Exchange._head_seen,
        OutputBegan: Exchange._output_seen,
        UsageSeen: Exchange._usage_seen,
        AttemptFailed: Exchange._failed,
        Answered: Exchange._answered,
        Delivered: Exchange._delivered,
        Unanswered: Exchange._unanswered,
        Interrupted: Exchange._interrupted,
        ClientLeft: Exchange._client_left,
        Drained: Exchange._drained,
    }
)
"""What each event changes. By its type: a `match` tries one case after another."""

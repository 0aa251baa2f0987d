"""One request's walk over its candidates, cheapest first.

What may follow a failed attempt is the table in `verdicts.py`; what the client reads when nothing
does is `last_word.py`. The state of `Retry` is the command it waits on:

    waiting on      told                              answers
    Attempt         Answered                          Deliver
                    TryFailed                     Attempt | Sleep | AwaitProbe | GiveUp
                    Skipped (no attempt was made)     Attempt | Sleep | AwaitProbe | GiveUp
    Sleep           Elapsed                           Attempt
    AwaitProbe      ProbeSettled | Elapsed            Attempt | Sleep | GiveUp
    Deliver, GiveUp nothing more

The driver: `command = retry.start()`, then do what it says and `command = retry.handle(event,
now)`, until `Deliver` or `GiveUp`. Before an `Attempt` it asks the `Budget` and the `Board`, and
answers `Skipped` if one of them refuses. Before `TryFailed` it rests the provider for
`rest_seconds(failure)`.

What it holds on to, whatever happens:
  - once an attempt may have cost (money spent or unknown), nothing follows without consent;
    with consent other providers do, until one further attempt may have cost, and never a
    provider that may already have been paid for this request, and only while the holds of all
    that may have cost and of the next one together stay within `max_sats`;
  - at most `max_retries` extra tries per provider, and one more without `stream_options`;
  - where the choice of the model is ours too, what is wrong with a provider and not with its
    model (`OF_THE_PROVIDER`) passes over its other models, and so do `MODELS_EACH` failures;
  - a probe of a half-open circuit is a single attempt;
  - somebody else's probe is waited for only if nothing else is left, `PROBE_WAIT` in all.

What may not live here: clocks, dice (a `Sleep` states a range and the runtime draws), the
judgement what a failure was and cost (`sansio.failover.failure`), and anything a provider wrote.
"""

from dataclasses import field
from decimal import Decimal
from functools import cached_property
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.failover.board import Refused
from arbstr.sansio.failover.breaker import Probing
from arbstr.sansio.failover.failure import Failure, FailureKind, Money, rest_seconds
from arbstr.sansio.failover.last_word import Standing, last_word
from arbstr.sansio.failover.verdicts import Verdict, verdict_of
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import add_sats
from arbstr.sansio.routing.budget import NotWithinBudget
from arbstr.sansio.routing.listing import TooLow
from arbstr.sansio.routing.plan import Candidate, OverRequest

JITTER: Final = 0.25
"""Fraction of a backoff by which it is shortened or lengthened, so that clients that failed
together do not come back together."""

DOUBLINGS: Final = 10
"""The backoff stops growing here: 0.5 s becomes 9 minutes. Also keeps 2**k a number."""

OF_THE_PROVIDER: Final = frozenset(
    {FailureKind.NOT_SENT, FailureKind.ACCOUNT, FailureKind.NO_ENDPOINT}
)
"""Failures that its other models would meet as well: the way there, the key, the path."""

MODELS_EACH: Final = 5
"""Models of one provider that may fail in one request: some have hundreds, and where five fail
in a row it is hardly the model. Picked, not measured."""

PROBE_WAIT: Final = 5.0
"""Seconds a request without alternative waits for the results of others' probes."""


@final
@dataclass(frozen=True, slots=True)
class Attempt:
    """Send the request to this candidate, if `Budget` and `Board` let it through.

    `add_usage`: ask for usage in a stream (`stream_options`). `n` counts attempts from 1.
    """

    candidate: Candidate
    add_usage: bool
    n: int


@final
@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait, any time between the two (seconds), then say `Elapsed`."""

    at_least: float
    at_most: float


@final
@dataclass(frozen=True, slots=True)
class AwaitProbe:
    """Wait until a probe of one of these providers is settled (`ProbeSettled`), at most so many
    seconds (`Elapsed`)."""

    providers: tuple[str, ...]
    at_most: float


@final
@dataclass(frozen=True, slots=True)
class Deliver:
    """The answer is there: hand it to the client."""


@final
@dataclass(frozen=True, slots=True)
class GiveUp:
    """There will be no answer: say this."""

    error: ErrorReply


Command: TypeAlias = Attempt | Sleep | AwaitProbe | Deliver | GiveUp


@final
@dataclass(frozen=True, slots=True)
class TryFailed:
    """The attempt was made and failed. `probe`: it was the probe of a half-open circuit.

    `charged` is what it took as far as that is known, in sats.
    """

    failure: Failure
    probe: bool = False
    charged: Decimal | None = None


@final
@dataclass(frozen=True, slots=True)
class Skipped:
    """The attempt was not made: the `Board` refused it, or the `Budget`, or the key is too low."""

    refused: Refused | NotWithinBudget | TooLow


@final
@dataclass(frozen=True, slots=True)
class Answered:
    """A plain answer was judged good, or a stream began its output."""


@final
@dataclass(frozen=True, slots=True)
class Elapsed:
    """The time of a `Sleep` or an `AwaitProbe` is over."""


@final
@dataclass(frozen=True, slots=True)
class ProbeSettled:
    """The probe of one of the awaited providers has a result."""


Event: TypeAlias = TryFailed | Skipped | Answered | Elapsed | ProbeSettled


@final
@dataclass(slots=True)
class _Past:
    """What the attempts of a request came to that did not bring its answer, by candidate or name.

    `left`: nothing more is asked there; `waited`: its short wait was waited out.
    """

    standings: dict[int, Standing] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)
    unreached: list[int] = field(default_factory=list)
    waited: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    probed: set[str] = field(default_factory=set)


class Retry:
    """One request's way through its candidates. See the module's docstring.

    `max_retries`, `backoff` and `patience` (seconds) are those of `[retry]`; `consent`: the client
    or the configuration allows that the request is paid twice; `no_stream_options` names the
    providers known to refuse `stream_options`; `max_sats` is the most all attempts that may cost
    may do so together, by their holds. Raises `LocalProtocolError` if driven out of order.
    """

    _turn = -1
    _waiting: Command | None = None
    _again_rounds = 0
    _risked = Decimal(0)
    _probe_deadline: float | None = None

    def __init__(
        self,
        candidates: tuple[Candidate, ...],
        *,
        max_retries: int,
        backoff: float,
        patience: float = 0.0,
        consent: bool,
        no_stream_options: frozenset[str],
        max_sats: Decimal | None = None,
    ) -> None:
        if not candidates:
            raise LocalProtocolError("a request without candidates has nothing to try")
        self._candidates = candidates
        self._max_retries = max_retries
        self._backoff = backoff
        self._patience = patience
        self._consent = consent
        self._without_stream_options = no_stream_options
        self._round = list(range(len(candidates)))
        self._failed: dict[str, int] = {}
        self._paid: list[str] = []
        self._max_sats = max_sats

    @cached_property
    def _past(self) -> _Past:
        """Made with the first failure: nearly all requests have none."""
        return _Past()

    def failures_header(self) -> str:
        """`x-arbstr-retries`: failed attempts per provider, in order of first failure."""
        if not self._failed:
            return ""
        return ", ".join(f"{count}/{name}" for name, count in self._failed.items())

    def start(self) -> Command:
        """The first command. Call once."""
        if self._waiting is not None:
            raise LocalProtocolError("started before")
        self._turn = self._round.pop(0)
        self._waiting = self._attempt()
        return self._waiting

    def handle(self, event: Event, now: float) -> Command:
        """The command that follows. `now` is in seconds of the clock of the `Board`."""
        match self._waiting, event:
            case Attempt(), Answered():
                self._waiting = Deliver()
            case Attempt(), TryFailed(failure, probe, charged):
                self._waiting = self._after_failure(failure, probe, charged, now)
            case Attempt(), Skipped(refused):
                self._past.standings[self._turn] = Standing(refused, now, self._failure_before())
                self._waiting = self._next(now)
            case Sleep(), Elapsed():
                self._waiting = self._attempt()
            case AwaitProbe(), ProbeSettled() | Elapsed():
                if isinstance(event, Elapsed):
                    self._probe_deadline = now
                self._round = self._probing()
                self._waiting = self._next(now)
            case _:
                raise LocalProtocolError(f"{event!r} does not answer {self._waiting!r}")
        return self._waiting

    def _name(self, index: int) -> str:
        return self._candidates[index].offer.provider.name

    def _attempt(self) -> Command:
        return Attempt(
            self._candidates[self._turn],
            add_usage=self._name(self._turn) not in self._without_stream_options,
            n=1 + sum(self._failed.values()) if self._failed else 1,
        )

    def _after_failure(
        self, failure: Failure, probe: bool, charged: Decimal | None, now: float
    ) -> Command:
        name = self._name(self._turn)
        self._past.standings[self._turn] = Standing(failure, now)
        self._failed[name] = self._failed.get(name, 0) + 1
        if failure.money is not Money.FREE:
            self._paid.append(name)
            # What was charged outranks what was set aside; of what nobody knows more may come.
            if charged is not None and failure.money is Money.SPENT:
                self._risked = add_sats(self._risked, charged)
            else:
                self._risked = self._with(self._turn)
        if probe:
            self._past.probed.add(name)
        if failure.kind in OF_THE_PROVIDER or self._models_failed(name) >= MODELS_EACH:
            self._past.left.add(name)
        match verdict_of(failure):
            case Verdict.DELIVER_ERROR | Verdict.END:
                return self._give_up(now)
            case Verdict.STOP_UNLESS_CONSENT:
                if self._consent and len(self._paid) < 2:
                    return self._next(now)
                return self._give_up(now)
            case Verdict.NEXT_THEN_AGAIN:
                if not probe:
                    self._past.unreached.append(self._turn)
                return self._next(now)
            case Verdict.AGAIN_THEN_NEXT if not probe:
                return self._again(name, failure) or self._patient(name, failure, now)
            case Verdict.NEXT if not probe:
                return self._patient(name, failure, now)
            case Verdict.WITHOUT_STREAM_OPTIONS:
                known = name in self._without_stream_options
                self._without_stream_options |= {name}
                return self._next(now) if probe or known else self._attempt()
            case Verdict.NEXT | Verdict.AGAIN_THEN_NEXT:
                return self._next(now)

    def _failure_before(self) -> Failure | None:
        """What the candidate whose turn it is had failed with, if this is another try."""
        standing = self._past.standings.get(self._turn)
        if standing is None:
            return None
        return standing.seen if isinstance(standing.seen, Failure) else standing.before

    def _again(self, name: str, failure: Failure) -> Command | None:
        """The same provider after a backoff, unless that is used up or it wants a longer one.

        Who does not rest for it (`rest_seconds`) is asked again all the same: after the wait it
        wants if that is short, unless it is worth a single one (`_patient`).
        """
        tried = self._past.retried.get(name, 0)
        wanted = failure.retry_after or 0.0
        longer = wanted > self._backoff * 2.0 ** min(tried, DOUBLINGS)
        if longer and rest_seconds(failure) is None:
            longer = wanted <= self._patience and self._next_is_dearer()
            wanted = wanted if wanted <= self._patience else 0.0
        if tried >= self._max_retries or longer:
            return None
        self._past.retried[name] = tried + 1
        return self._sleep(tried, wanted)

    def _sleep(self, tried: int, wanted: float = 0.0) -> Sleep:
        backoff = self._backoff * 2.0 ** min(tried, DOUBLINGS)
        return Sleep(max(wanted, backoff * (1 - JITTER)), max(wanted, backoff * (1 + JITTER)))

    def _patient(self, name: str, failure: Failure, now: float) -> Command:
        """The same provider after the short wait it asked for, once, where the next is dearer."""
        wait = failure.retry_after
        asked_for = failure.kind in (FailureKind.RATE_LIMITED, FailureKind.SERVER_ERROR)
        if wait is None or wait > self._patience or not asked_for or name in self._past.waited:
            return self._next(now)
        if not self._may_be_asked(self._turn) or not self._next_is_dearer():
            return self._next(now)
        self._past.waited.add(name)
        return Sleep(wait, wait)

    def _next_is_dearer(self) -> bool:
        mine = self._candidates[self._turn].estimated_cost
        others = (turn for turn in self._round if self._may_be_asked(turn))
        following = next((self._candidates[turn] for turn in others), None)
        if following is None or mine is None:
            return False
        return following.estimated_cost is None or following.estimated_cost > mine

    def _unreached_again(self) -> Command | None:
        """Those nobody could reach, again, once nobody else is left."""
        again, self._past.unreached = self._past.unreached, []
        again = [
            turn
            for turn in again
            if self._past.retried.get(self._name(turn), 0) < self._max_retries
        ]
        for name in {self._name(turn) for turn in again}:
            self._past.retried[name] = self._past.retried.get(name, 0) + 1
            self._past.left.discard(name)
        again = [turn for turn in again if self._may_be_asked(turn)]
        if not again:
            return None
        self._turn, *self._round = again
        self._again_rounds += 1
        return self._sleep(self._again_rounds - 1)

    def _next(self, now: float) -> Command:
        while self._round:
            turn = self._round.pop(0)
            if self._may_be_asked(turn):
                self._turn = turn
                return self._attempt()
            if self._is_over(turn) and self._name(turn) not in self._paid:
                self._past.standings[turn] = Standing(
                    OverRequest(self._with(turn), self._max_sats or Decimal(0)), now
                )
        if again := self._unreached_again():
            return again
        if probing := self._probing():
            if self._probe_deadline is None:
                self._probe_deadline = now + PROBE_WAIT
            if now < self._probe_deadline:
                names = tuple(dict.fromkeys(self._name(index) for index in probing))
                return AwaitProbe(names, self._probe_deadline - now)
        return self._give_up(now)

    def _probing(self) -> list[int]:
        """Candidates refused because of somebody else's probe that may still be asked."""
        return [
            index
            for index, standing in sorted(self._past.standings.items())
            if isinstance(standing.seen, Probing) and self._may_be_asked(index)
        ]

    def _may_be_asked(self, index: int) -> bool:
        name = self._name(index)
        # A probe is a single attempt, whatever else the provider offers.
        out = name in self._paid or name in self._past.left or name in self._past.probed
        return not out and not self._is_over(index)

    def _is_over(self, index: int) -> bool:
        """Whether the cap on the request forbids this candidate, after those that may have cost.

        The first of them is held to the cap by the plan.
        """
        return self._max_sats is not None and self._with(index) > self._max_sats

    def _with(self, index: int) -> Decimal:
        """What all that may have cost and this candidate could cost together."""
        return add_sats(self._risked, self._candidates[index].hold_cost or Decimal(0))

    def _models_failed(self, name: str) -> int:
        return sum(
            self._name(index) == name and isinstance(standing.seen, Failure)
            for index, standing in self._past.standings.items()
        )

    def _give_up(self, now: float) -> GiveUp:
        standings = [
            (self._name(index), found) for index, found in sorted(self._past.standings.items())
        ]
        return GiveUp(last_word(standings, consent=self._consent, now=now))

"""What follows a failed attempt, and what the client reads when nothing follows.

    FailureKind x Money --VERDICTS--> Verdict                     may anything follow, and where
    Failure or refusal  --word_of---> LastWord --LAST_WORDS--> Word             what is said then

`Retry` is one request's walk over its candidates, cheapest first. Its state is the command it
waits on:

    waiting on      told                              answers
    Attempt         Answered                          Deliver
                    AttemptFailed                     Attempt | Sleep | AwaitProbe | GiveUp
                    Skipped (no attempt was made)     Attempt | AwaitProbe | GiveUp
    Sleep           Elapsed                           Attempt
    AwaitProbe      ProbeSettled | Elapsed            Attempt
    Deliver, GiveUp nothing more

The driver: `command = retry.start()`, then do what it says and `command = retry.handle(event,
now)`, until `Deliver` or `GiveUp`. Before an `Attempt` it asks the `Board`, and answers `Skipped`
if that refuses. Before `AttemptFailed` it rests the provider for `rest_seconds(failure)`.

What it holds on to, whatever happens:
  - once an attempt may have cost (money spent or unknown), nothing follows without consent;
    with consent other providers do, until one further attempt may have cost, and never a
    provider that may already have been paid for this request;
  - at most `max_retries` extra tries per provider, and one more without `stream_options`;
  - a probe of a half-open circuit is a single attempt;
  - somebody else's probe is waited for only if nothing else is left, `PROBE_WAIT` in all.

What may not live here: clocks, dice (a `Sleep` states a range and the runtime draws), the
judgement what a failure was and cost (`sansio.failure`), and anything a provider wrote except
the error object it meant for the client, which passes through.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from math import ceil
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.breaker import CircuitOpen, Probing, Refused, Resting
from arbstr.sansio.config import Kind
from arbstr.sansio.errors import STATUS, ErrorReply, LocalProtocolError
from arbstr.sansio.failure import Failure, FailureKind, Money, money_of
from arbstr.sansio.routing import Candidate

JITTER: Final = 0.25
"""Fraction of a backoff by which it is shortened or lengthened, so that clients that failed
together do not come back together."""

DOUBLINGS: Final = 10
"""The backoff stops growing here: 0.5 s becomes 9 minutes. Also keeps 2**k a number."""

PROBE_WAIT: Final = 5.0
"""Seconds a request without alternative waits for the results of others' probes."""

PROBE_AGAIN: Final = 1.0
"""Seconds after which a client may ask again while a probe is under way: its end is unknown.
Picked, not measured."""

DEFAULT_REST: Final = 1.0
"""Seconds a provider rests after a 429 that does not say how long."""


class Verdict(Enum):
    """What may follow a failed attempt. The value is the wording of `verdict_table`."""

    AGAIN_THEN_NEXT = "the same provider after a backoff, up to `max_retries`; then the next"
    NEXT = "the next provider at once"
    WITHOUT_STREAM_OPTIONS = "the same provider once more without `stream_options`"
    DELIVER_ERROR = "nothing: the client gets the provider's error"
    STOP_UNLESS_CONSENT = (
        "nothing: `possibly_spent`; with consent other providers, "
        "until one further attempt may have cost"
    )
    END = "nothing"


def _row(free: Verdict, otherwise: Verdict) -> Mapping[Money, Verdict]:
    return MappingProxyType({m: free if m is Money.FREE else otherwise for m in Money})


_AGAIN: Final = _row(Verdict.AGAIN_THEN_NEXT, Verdict.STOP_UNLESS_CONSENT)
_NEXT: Final = _row(Verdict.NEXT, Verdict.STOP_UNLESS_CONSENT)
_END: Final = _row(Verdict.END, Verdict.END)

VERDICTS: Final[Mapping[FailureKind, Mapping[Money, Verdict]]] = MappingProxyType(
    {
        # These pass by themselves more often than not: a restart, a full queue.
        FailureKind.NOT_SENT: _AGAIN,
        FailureKind.SERVER_ERROR: _AGAIN,
        # These do not within seconds: the same request would meet the same answer.
        FailureKind.ACCOUNT: _NEXT,
        FailureKind.NO_MODEL: _NEXT,
        FailureKind.RATE_LIMITED: _NEXT,
        FailureKind.ERROR_ANSWER: _NEXT,
        FailureKind.BAD_STATUS: _NEXT,
        FailureKind.NO_ANSWER: _NEXT,
        FailureKind.BAD_ANSWER: _NEXT,
        FailureKind.STREAM_DIED: _NEXT,
        FailureKind.NO_STREAM_OPTIONS: _row(
            Verdict.WITHOUT_STREAM_OPTIONS, Verdict.STOP_UNLESS_CONSENT
        ),
        # The request itself is at fault: every provider would refuse it.
        FailureKind.CLIENT_ERROR: _row(Verdict.DELIVER_ERROR, Verdict.DELIVER_ERROR),
        # The client has part of an answer, or nobody is there to read one.
        FailureKind.STREAM_CUT: _END,
        FailureKind.CLIENT_LEFT: _END,
        FailureKind.SHUTDOWN: _END,
    }
)
"""What may follow, by what was seen and what it may have cost. Total, also where a kind never
has such money: a table without holes needs no judgement when `sansio.failure` changes."""


class LastWord(StrEnum):
    """Error codes of a request that ends without an answer, the most useful first.

    When several failures and refusals meet, the first of these is said: `circuit_open` stands
    before `rate_limited` because open and resting mixed is a 503.
    """

    STREAM_INTERRUPTED = "stream_interrupted"
    CLIENT_ERROR = "client_error"
    POSSIBLY_SPENT = "possibly_spent"
    SHUTTING_DOWN = "shutting_down"
    CIRCUIT_OPEN = "circuit_open"
    RATE_LIMITED = "rate_limited"
    INSUFFICIENT_BALANCE = "insufficient_balance"
    PROVIDER_AUTH = "provider_auth"
    MODEL_NOT_FOUND = "model_not_found"
    CONNECT_TIMEOUT = "connect_timeout"
    UPSTREAM_ERROR = "upstream_error"


@final
@dataclass(frozen=True, slots=True)
class Word:
    """How a last word is said; its status is that of `errors.STATUS`, else the provider's own.

    `should_retry` is unset where the client's own judgement (or `retry-after`) is right; `waits`:
    with a `retry-after`, the soonest of all that can be waited for.
    """

    says: str
    should_retry: bool | None = False
    waits: bool = False


LAST_WORDS: Final[Mapping[LastWord, Word]] = MappingProxyType(
    {
        LastWord.STREAM_INTERRUPTED: Word("The stream broke off"),
        LastWord.CLIENT_ERROR: Word("The request was refused"),
        # Never with `retry-after`: nobody may be led to pay twice.
        LastWord.POSSIBLY_SPENT: Word("This request may have been paid for, but was not answered"),
        LastWord.SHUTTING_DOWN: Word("arbstr is shutting down", None),
        LastWord.CIRCUIT_OPEN: Word("No provider can be asked right now", None, waits=True),
        LastWord.RATE_LIMITED: Word("Rate limits: ask again later", None, waits=True),
        LastWord.INSUFFICIENT_BALANCE: Word("No answer: the balance at a provider is too low"),
        LastWord.PROVIDER_AUTH: Word("No answer: a provider refused the key arbstr has for it"),
        LastWord.MODEL_NOT_FOUND: Word("No answer: the model is not known there", None),
        LastWord.CONNECT_TIMEOUT: Word("No answer: connecting took too long"),
        LastWord.UPSTREAM_ERROR: Word("No answer: every provider failed"),
    }
)
"""Every last word and what goes with it."""

_STOPPED: Final = (
    " It was not sent again, because that could pay twice. To send it again all the same, repeat "
    'it with the header `X-Arbstr-Respend: allow`, or set `possibly_spent = "next"` under '
    "`[retry]` in the configuration."
)
_STOPPED_WITH_CONSENT: Final = (
    " Other providers were allowed to be asked until one further attempt may have cost. Repeating "
    "the request with the header `X-Arbstr-Respend: allow` may pay once more."
)


@final
@dataclass(frozen=True, slots=True)
class Attempt:
    """Send the request to this candidate, if the `Board` lets it through.

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
class AttemptFailed:
    """The attempt was made and failed. `probe`: it was the probe of a half-open circuit."""

    failure: Failure
    probe: bool = False


@final
@dataclass(frozen=True, slots=True)
class Skipped:
    """The attempt was not made: the `Board` refused it."""

    refused: Refused


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


Event: TypeAlias = AttemptFailed | Skipped | Answered | Elapsed | ProbeSettled


def rest_seconds(failure: Failure) -> float | None:
    """How long the provider is to rest after this failure; `None`: not at all."""
    if failure.kind is FailureKind.RATE_LIMITED:
        return DEFAULT_REST if failure.retry_after is None else failure.retry_after
    if failure.kind is FailureKind.SERVER_ERROR and failure.status == 503:
        return failure.retry_after
    return None


def word_of(seen: Failure | Refused) -> LastWord:
    """What this failure or refusal alone would have the client told."""
    match seen:
        case Resting():
            return LastWord.RATE_LIMITED
        case CircuitOpen() | Probing():
            return LastWord.CIRCUIT_OPEN
        case Failure(kind=FailureKind.STREAM_CUT):
            return LastWord.STREAM_INTERRUPTED
        case Failure(kind=FailureKind.CLIENT_ERROR):
            return LastWord.CLIENT_ERROR
        case Failure(money=Money.SPENT | Money.UNKNOWN):
            return LastWord.POSSIBLY_SPENT
        case Failure(kind=FailureKind.SHUTDOWN):
            return LastWord.SHUTTING_DOWN
        case Failure(kind=FailureKind.ACCOUNT, status=402):
            return LastWord.INSUFFICIENT_BALANCE
        case Failure(kind=FailureKind.ACCOUNT):
            return LastWord.PROVIDER_AUTH
        case Failure(kind=FailureKind.NO_MODEL):
            return LastWord.MODEL_NOT_FOUND
        case Failure(timed_out_connecting=True):
            return LastWord.CONNECT_TIMEOUT
        case Failure():
            # It rests from now on, so the next request will be told the same.
            rests = rest_seconds(seen) is not None
            return LastWord.RATE_LIMITED if rests else LastWord.UPSTREAM_ERROR


@final
@dataclass(frozen=True, slots=True)
class _Standing:
    """What a candidate's last turn came to, and when."""

    seen: Failure | Refused
    at: float

    def free_at(self) -> float | None:
        """When this candidate may be asked again; `None` if waiting is not what it takes."""
        match self.seen:
            case Resting(until=until) | CircuitOpen(until=until):
                return until
            case Probing():
                return self.at + PROBE_AGAIN
            case Failure():
                rest = rest_seconds(self.seen)
                return None if rest is None else self.at + rest


class Retry:
    """One request's way through its candidates. See the module's docstring.

    `max_retries` and `backoff` (seconds) are those of `[retry]`; `consent`: the client or the
    configuration allows that the request is paid twice; `no_stream_options` names the providers
    known to refuse `stream_options`. Raises `LocalProtocolError` if driven out of order.
    """

    def __init__(
        self,
        candidates: tuple[Candidate, ...],
        *,
        max_retries: int,
        backoff: float,
        consent: bool,
        no_stream_options: frozenset[str],
    ) -> None:
        if not candidates:
            raise LocalProtocolError("a request without candidates has nothing to try")
        self._candidates = candidates
        self._max_retries = max_retries
        self._backoff = backoff
        self._consent = consent
        self._without_stream_options = set(no_stream_options)
        self._round = list(range(len(candidates)))
        self._turn = -1
        self._waiting: Command | None = None
        self._standings: dict[int, _Standing] = {}
        self._failed: dict[str, int] = {}
        self._retried: dict[str, int] = {}
        self._paid: list[str] = []
        self._probe_deadline: float | None = None

    @property
    def possibly_spent(self) -> int:
        """Attempts that may have cost and gave no answer."""
        return len(self._paid)

    def failures_header(self) -> str:
        """`x-arbstr-retries`: failed attempts per provider, in order of first failure."""
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
            case Attempt(), AttemptFailed(failure, probe):
                self._waiting = self._after_failure(failure, probe, now)
            case Attempt(), Skipped(refused):
                self._standings[self._turn] = _Standing(refused, now)
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
            n=1 + sum(self._failed.values()),
        )

    def _after_failure(self, failure: Failure, probe: bool, now: float) -> Command:
        name = self._name(self._turn)
        self._standings[self._turn] = _Standing(failure, now)
        self._failed[name] = self._failed.get(name, 0) + 1
        if failure.money is not Money.FREE:
            self._paid.append(name)
        match VERDICTS[failure.kind][failure.money]:
            case Verdict.DELIVER_ERROR | Verdict.END:
                return self._give_up(now)
            case Verdict.STOP_UNLESS_CONSENT:
                if self._consent and len(self._paid) < 2:
                    return self._next(now)
                return self._give_up(now)
            case Verdict.AGAIN_THEN_NEXT:
                return self._next(now) if probe else self._again(name, failure, now)
            case Verdict.WITHOUT_STREAM_OPTIONS:
                known = name in self._without_stream_options
                self._without_stream_options.add(name)
                return self._next(now) if probe or known else self._attempt()
            case Verdict.NEXT:
                return self._next(now)

    def _again(self, name: str, failure: Failure, now: float) -> Command:
        """The same provider after a backoff, unless that is used up or it wants a longer one."""
        tried = self._retried.get(name, 0)
        backoff = self._backoff * 2.0 ** min(tried, DOUBLINGS)
        wanted = failure.retry_after or 0.0
        if tried >= self._max_retries or wanted > backoff:
            return self._next(now)
        self._retried[name] = tried + 1
        return Sleep(max(wanted, backoff * (1 - JITTER)), max(wanted, backoff * (1 + JITTER)))

    def _next(self, now: float) -> Command:
        while self._round:
            turn = self._round.pop(0)
            if self._name(turn) not in self._paid:
                self._turn = turn
                return self._attempt()
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
            for index, standing in sorted(self._standings.items())
            if isinstance(standing.seen, Probing) and self._name(index) not in self._paid
        ]

    def _give_up(self, now: float) -> GiveUp:
        order = list(LastWord)
        standings = self._standings.values()
        decisive = min((s.seen for s in standings), key=lambda seen: order.index(word_of(seen)))
        said = word_of(decisive)
        word = LAST_WORDS[said]
        message = f"{word.says}. {'; '.join(self._reasons(now))}."
        if said is LastWord.POSSIBLY_SPENT:
            message += _STOPPED_WITH_CONSENT if self._consent else _STOPPED
        retry_after: float | None = None
        if word.waits:
            times = (standing.free_at() for standing in standings)
            retry_after = max(0.0, min(time for time in times if time is not None) - now)
        status, passthrough = 0, None
        if said is LastWord.CLIENT_ERROR and isinstance(decisive, Failure):
            status, passthrough = decisive.status or 400, decisive.error
        return GiveUp(
            ErrorReply(
                said.value,
                message,
                status=status,
                retry_after=retry_after,
                should_retry=word.should_retry,
                passthrough=passthrough,
            )
        )

    def _reasons(self, now: float) -> Iterator[str]:
        """Each provider and why it gave no answer, in the order of the candidates."""
        for index, standing in sorted(self._standings.items()):
            name, seen = self._name(index), standing.seen
            match seen:
                case Resting(until=until):
                    yield f"{name} rests for {max(0, ceil(until - now))} s more"
                case CircuitOpen(until=until):
                    wait = max(0, ceil(until - now))
                    yield f"{name} failed too often and is left alone for {wait} s more"
                case Probing():
                    yield f"{name} failed too often and another request is trying it out"
                case Failure(sentence=sentence, money=Money.FREE):
                    yield f"{name} {sentence}"
                case Failure(sentence=sentence):
                    yield f"{name} {sentence} (it may have been paid)"


def verdict_table() -> str:
    """`VERDICTS` as a Markdown table, one row a verdict, of what can occur."""
    rows: dict[Verdict, dict[Money, list[str]]] = {verdict: {} for verdict in Verdict}
    for kind, verdicts in VERDICTS.items():
        costs = {money_of(kind, key, signed=signed) for key in Kind for signed in (True, False)}
        for money, verdict in verdicts.items():
            if money in costs:
                rows[verdict].setdefault(money, []).append(f"`{kind}`")
    lines = ["| money and kind | what may follow |", "|---|---|"]
    for verdict, kinds in rows.items():
        seen = "; ".join(f"{', '.join(names)}, when {money}" for money, names in kinds.items())
        lines.append(f"| {seen} | {verdict.value} |")
    return "\n".join(lines) + "\n"


def last_word_table() -> str:
    """`LAST_WORDS` as a Markdown table, the most useful first."""
    lines = ["| last word | status | `retry-after` | `x-should-retry` |", "|---|---|---|---|"]
    for said, word in LAST_WORDS.items():
        status = STATUS.get(said.value, "the provider's")
        waits = "the soonest" if word.waits else ""
        should = "" if word.should_retry is None else str(word.should_retry).lower()
        lines.append(f"| `{said.value}` | {status} | {waits} | {should} |")
    return "\n".join(lines) + "\n"

"""What the client reads when a request ends without an answer.

    Failure or refusal --word_of--> LastWord --LAST_WORDS--> Word    what is said then
    every candidate's standing --last_word--> ErrorReply              said of all of them

What may follow an attempt is `verdicts.py`; here nothing follows any more. The message holds names
from the configuration and our own sentences; a provider's words pass in two places, the error
object of a failure that has one (`_passed_on`), and a line of an account or no_model (`told`),
which the message for the database lacks.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from math import ceil, isinf
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import STATUS, ErrorReply
from arbstr.sansio.failover.board import Refused, Resting
from arbstr.sansio.failover.breaker import CircuitOpen, Probing
from arbstr.sansio.failover.failure import Failure, FailureKind, Money, rest_seconds, told
from arbstr.sansio.failover.rests import UNTIMED, Reason
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import format_above, format_eyes, format_sats, sats_from_msats
from arbstr.sansio.routing.budget import LedgerUnread, NotWithinBudget, OverBudget, Unpriced
from arbstr.sansio.routing.gauge import day_ends
from arbstr.sansio.routing.listing import TooLow
from arbstr.sansio.routing.plan import OverRequest

Seen: TypeAlias = Failure | Refused | NotWithinBudget | OverRequest | TooLow
"""What a candidate's turn may come to without an answer."""

PROBE_AGAIN: Final = 1.0
"""Seconds after which a client may ask again while a probe is under way: its end is unknown.
Picked, not measured."""

LEDGER_AGAIN: Final = 2.0
"""Seconds after which a client may ask again while the ledger cannot be read: what locks it is
mostly gone by then. Picked."""

MOST_REASONS: Final = 50
"""Reasons one message gives: nobody has so many providers, but providers times models are more."""


class LastWord(StrEnum):
    """Error codes of a request that ends without an answer, the most useful first.

    When several failures and refusals meet, the first of these is said: `circuit_open` stands
    before `rate_limited` because open and resting mixed is a 503, and `budget_exceeded` after both
    because those pass sooner than a day, as does `budget_unavailable`.
    """

    STREAM_INTERRUPTED = "stream_interrupted"
    CLIENT_ERROR = "client_error"
    POSSIBLY_SPENT = "possibly_spent"
    SHUTTING_DOWN = "shutting_down"
    CIRCUIT_OPEN = "circuit_open"
    RATE_LIMITED = "rate_limited"
    BUDGET_UNAVAILABLE = "budget_unavailable"
    BUDGET_EXCEEDED = "budget_exceeded"
    NOT_CAPABLE = "not_capable"
    NO_PRICE_ALLOWED = "no_price_allowed"
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
        LastWord.BUDGET_UNAVAILABLE: Word(
            "What was spent today cannot be read from the ledger yet", None, waits=True
        ),
        LastWord.BUDGET_EXCEEDED: Word("[budget] sats_per_day does not allow it"),
        LastWord.NOT_CAPABLE: Word("No answer: no model asked can do this"),
        LastWord.NO_PRICE_ALLOWED: Word("Nobody else serves this, and its price is not allowed"),
        LastWord.INSUFFICIENT_BALANCE: Word("No answer: the balance at a provider is too low"),
        LastWord.PROVIDER_AUTH: Word("No answer: a provider refused the key, or needs one"),
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
_STOPPED_BY_US: Final = " arbstr was stopping. Sending the request again may pay twice."
_STOPPED_WITH_CONSENT: Final = (
    " Other providers were allowed to be asked until one further attempt may have cost. Repeating "
    "the request with the header `X-Arbstr-Respend: allow` may pay once more."
)


_OF_A_REST: Final[Mapping[Reason, LastWord]] = MappingProxyType(
    {
        Reason.RATE_LIMIT: LastWord.RATE_LIMITED,
        Reason.OVERLOAD: LastWord.CIRCUIT_OPEN,
        Reason.BALANCE: LastWord.INSUFFICIENT_BALANCE,
        Reason.KEY: LastWord.PROVIDER_AUTH,
        Reason.PATH: LastWord.MODEL_NOT_FOUND,
        Reason.OVERCHARGE: LastWord.NO_PRICE_ALLOWED,
    }
)
"""What rests is told as what it rests for."""

_RESTS: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.RATE_LIMIT: "rests for {wait} s more",
        Reason.OVERLOAD: "is overloaded and rests for {wait} s more",
        Reason.BALANCE: "had too low a balance (top up its key) and is asked again {again}",
        Reason.KEY: "refused the key (check it) and is asked again {again}",
        Reason.PATH: "had nothing at this path (check its url) and is asked again {again}",
        Reason.OVERCHARGE: "charged more than it said (see the log) and is asked again {again}",
    }
)
_AGAIN: Final = "in {wait} s, or after a reload (SIGHUP)"
_NEVER: Final = "after a reload (SIGHUP) alone"


def word_of(seen: Seen) -> LastWord:
    """What this failure or refusal alone would have the client told."""
    match seen:
        case OverRequest():
            return LastWord.POSSIBLY_SPENT  # or there would be nothing to add up
        case LedgerUnread():
            return LastWord.BUDGET_UNAVAILABLE
        case OverBudget() | Unpriced():
            return LastWord.BUDGET_EXCEEDED
        case TooLow():
            return LastWord.INSUFFICIENT_BALANCE
        case Resting(why=why):
            return _OF_A_REST[why]
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
        case Failure(kind=FailureKind.NOT_CAPABLE):
            return LastWord.NOT_CAPABLE
        case Failure(own_status=402):
            return LastWord.INSUFFICIENT_BALANCE
        case Failure(own_status=401 | 403):
            return LastWord.PROVIDER_AUTH
        case Failure(own_status=404):
            return LastWord.MODEL_NOT_FOUND
        case Failure(own_status=429):
            return LastWord.RATE_LIMITED
        case Failure(own_status=400 | 405 | 406 | 410 | 413 | 415 | 422 | 451):
            return LastWord.NOT_CAPABLE
        case Failure(kind=FailureKind.ACCOUNT, status=402):
            return LastWord.INSUFFICIENT_BALANCE
        case Failure(kind=FailureKind.ACCOUNT):
            return LastWord.PROVIDER_AUTH
        case Failure(kind=FailureKind.NO_MODEL):
            return LastWord.MODEL_NOT_FOUND
        case Failure(kind=FailureKind.NO_ENDPOINT):
            # It said "not here" of what it was asked for, whatever that was.
            return LastWord.MODEL_NOT_FOUND
        case Failure(timed_out_connecting=True):
            return LastWord.CONNECT_TIMEOUT
        case Failure() if rest_seconds(seen) is None:
            return LastWord.UPSTREAM_ERROR
        case Failure(status=503):
            # It rests from now on, so the next request will be told the same.
            return LastWord.CIRCUIT_OPEN
        case Failure():
            return LastWord.RATE_LIMITED


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """What a candidate's last turn came to, and when.

    `before` is the failure after which it was to be asked again, if a refusal came of that.
    """

    seen: Seen
    at: float
    before: Failure | None = None

    def free_at(self) -> float | None:
        """When this candidate may be asked again; `None` if waiting is not what it takes."""
        match self.seen:
            case Resting(why=why) if why in UNTIMED:
                return None
            case Resting(until=until) | CircuitOpen(until=until):
                return until
            case Probing():
                return self.at + PROBE_AGAIN
            case LedgerUnread():
                return self.at + LEDGER_AGAIN
            case OverBudget() | Unpriced() | OverRequest() | TooLow():
                return None
            case Failure():
                rest = rest_seconds(self.seen)
                return None if rest is None else self.at + rest


def last_word(
    standings: Sequence[tuple[str, Standing]], *, consent: bool, now: float
) -> ErrorReply:
    """The error a client gets after all attempts: from the most useful standing, naming every one.

    `standings` are (provider, what its last turn came to), at least one, in the order of the
    candidates. `consent`: paying twice was allowed. `now` is on the clock of the `Board`.
    """
    order = list(LastWord)
    decisive = min(
        (standing.seen for _, standing in standings), key=lambda seen: order.index(word_of(seen))
    )
    said = word_of(decisive)
    word = LAST_WORDS[said]
    more = ""
    if said is LastWord.BUDGET_EXCEEDED:
        more = _account_of([standing for _, standing in standings])
    if said is LastWord.POSSIBLY_SPENT:
        if isinstance(decisive, Failure) and decisive.kind is FailureKind.SHUTDOWN:
            more = _STOPPED_BY_US
        else:
            more = _STOPPED_WITH_CONSENT if consent else _STOPPED
    own, full = (_reasons(standings, now, words=words) for words in (False, True))
    retry_after: float | None = None
    if word.waits:
        times = (standing.free_at() for _, standing in standings)
        retry_after = max(0.0, min(time for time in times if time is not None) - now)
    status, passthrough = _passed_on(said, decisive)
    return ErrorReply(
        said.value,
        f"{word.says}. {full}.{more}",
        logged=f"{word.says}. {own}.{more}" if own != full else None,
        status=status,
        retry_after=retry_after,
        should_retry=word.should_retry,
        passthrough=passthrough,
    )


def _passed_on(said: LastWord, decisive: Seen) -> tuple[int, Mapping[str, object] | None]:
    """A provider's own error object where the client gets it, and its status (0: the code's)."""
    match said, decisive:
        case LastWord.CLIENT_ERROR, Failure(status=status, error=error):
            return status or 400, error
        case LastWord.NOT_CAPABLE, Failure(own_status=status, error=error):
            return status or 400, error
        case LastWord.INSUFFICIENT_BALANCE | LastWord.RATE_LIMITED, Failure(error=error):
            return 0, error
        case _:
            return 0, None


def _reasons(standings: Sequence[tuple[str, Standing]], now: float, *, words: bool) -> str:
    """Every provider and why it gave no answer, with or without the providers' `words`."""
    # One provider may stand here with many models, and be left alone for one reason.
    every = dict.fromkeys(_reason(name, standing, now, words) for name, standing in standings)
    reasons = "; ".join(tuple(every)[:MOST_REASONS])
    if len(every) > MOST_REASONS:
        reasons += f"; and {len(every) - MOST_REASONS} more"
    return reasons


def _reason(name: str, standing: Standing, now: float, words: bool) -> str:
    """One provider and why it gave no answer."""
    reason = _predicate(standing.seen, now)
    if words and isinstance(standing.seen, Failure) and standing.seen.money is Money.FREE:
        reason = told(standing.seen, name)
    if standing.before is None:
        return f"{name} {reason}"
    return f"{name} {standing.before.sentence}, and now it {reason}"


def _predicate(seen: Seen, now: float) -> str:
    match seen:
        case OverRequest(sats=sats, cap=cap):
            total = f"{format_above(sats, cap)} sats, over {format_sats(cap)} a request"
            return f"was not asked: all in all it could cost {total}"
        case Resting(until=until, why=why):
            if isinf(until):
                return _RESTS[why].format(again=_NEVER)
            wait = max(0, ceil(until - now))
            return _RESTS[why].format(wait=wait, again=_AGAIN.format(wait=wait))
        case CircuitOpen(until=until):
            wait = max(0, ceil(until - now))
            return f"failed too often and is left alone for {wait} s more"
        case Probing():
            return "failed too often and another request is trying it out"
        case OverBudget(most=most):
            return f"could cost {format_eyes(most)} sats, more than the budget has left"
        case LedgerUnread():
            return "was not asked: it costs, and there is a budget ([budget] open = true goes on)"
        case TooLow(free=free, wanted=wanted, limited=limited):
            holds, needs = (format_eyes(sats_from_msats(Decimal(each))) for each in (free, wanted))
            mend = "top up its key" if limited else "top up its key, or limit the output"
            return f"was not asked: its key holds {holds} sats, and it wants {needs} free ({mend})"
        case Unpriced():
            return "has no rates, so it cannot be held to the budget"
        case Failure(sentence=sentence, money=Money.FREE):
            return sentence
        case Failure(sentence=sentence):
            return f"{sentence} (it may have been paid)"


def _account_of(standings: Sequence[Standing]) -> str:
    """How the day stands, as the last of those over the budget found it, and what can be done."""
    over = [standing.seen for standing in standings if isinstance(standing.seen, OverBudget)]
    if not over:
        return ""
    account = over[-1]
    told = (
        f" Of the {format_sats(account.limit)} sats of today, {format_eyes(account.spent)} are "
        f"spent and {format_eyes(account.reserved)} reserved for requests in flight; the day ends "
        f"{day_ends(account.ends_in)}."
    )
    found = (each.candidate for each in over)
    mend = next((one.hold for one in found if one is not None and one.output_decides), None)
    return told if mend is None else f"{told} {mend.remedy('[budget] sats_per_day')}"


def last_word_table() -> str:
    """`LAST_WORDS` as a Markdown table, the most useful first."""
    lines = ["| last word | status | `retry-after` | `x-should-retry` |", "|---|---|---|---|"]
    for said, word in LAST_WORDS.items():
        status = STATUS.get(said.value, "the provider's")
        waits = "the soonest" if word.waits else ""
        should = "" if word.should_retry is None else str(word.should_retry).lower()
        lines.append(f"| `{said.value}` | {status} | {waits} | {should} |")
    return "\n".join(lines) + "\n"

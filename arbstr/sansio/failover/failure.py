"""What went wrong with an attempt, as seen on the wire, and what it may have cost.

A failure is named by what was seen, never by an exception's name, and its cost follows from the
name and the kind of key by the table `MONEY` (printed by `evidence`). The routstr column is
what live nodes did; the openai column is the common practice of charging for answers only. What a
provider said of itself outranks it (`as_stated`).

A failure is made by `classify`, from a provider's complete answer, or by `seen`, told by whoever
watched the wire. Here is also what follows of it: how long and why its provider rests, and what a
person is told.
"""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.failover.rests import Reason
from arbstr.sansio.frozen import dataclass


class FailureKind(StrEnum):
    """What was seen. The values are the names in log, database and manual."""

    NOT_SENT = "not_sent"
    CLIENT_ERROR = "client_error"
    ACCOUNT = "account"
    NO_MODEL = "no_model"
    NOT_CAPABLE = "not_capable"
    NO_ENDPOINT = "no_endpoint"
    RATE_LIMITED = "rate_limited"
    NO_STREAM_OPTIONS = "no_stream_options"
    SERVER_ERROR = "server_error"
    GAVE_UP = "gave_up"
    BAD_STATUS = "bad_status"
    NO_ANSWER = "no_answer"
    BAD_ANSWER = "bad_answer"
    ERROR_ANSWER = "error_answer"
    STREAM_DIED = "stream_died"
    STREAM_CUT = "stream_cut"
    CLIENT_LEFT = "client_left"
    SHUTDOWN = "shutdown"


class Money(StrEnum):
    """What a failed attempt cost: nothing, the price of an answer, or nobody knows yet."""

    FREE = "free"
    SPENT = "spent"
    UNKNOWN = "unknown"


@final
@dataclass(frozen=True, slots=True)
class BySignature:
    """Depends on the signature of its kind (`kinds`).

    An answer that bears it is the node's own, given after it had reverted the reservation.
    Without it something in front of the node gave up, and the node may still be working.
    """

    signed: Money
    unsigned: Money


Cost: TypeAlias = Money | BySignature


def _row(openai: Cost, routstr: Cost) -> Mapping[Kind, Cost]:
    return MappingProxyType({Kind.OPENAI: openai, Kind.ROUTSTR: routstr})


_FREE: Final = _row(Money.FREE, Money.FREE)
_SPENT: Final = _row(Money.SPENT, Money.SPENT)
_UNKNOWN: Final = _row(Money.UNKNOWN, Money.UNKNOWN)

MONEY: Final[Mapping[FailureKind, Mapping[Kind, Cost]]] = MappingProxyType(
    {
        FailureKind.NOT_SENT: _FREE,
        FailureKind.CLIENT_ERROR: _FREE,
        FailureKind.ACCOUNT: _FREE,
        FailureKind.NO_MODEL: _FREE,
        FailureKind.NOT_CAPABLE: _FREE,
        FailureKind.NO_ENDPOINT: _FREE,
        FailureKind.RATE_LIMITED: _FREE,
        FailureKind.NO_STREAM_OPTIONS: _FREE,
        FailureKind.SERVER_ERROR: _row(Money.FREE, BySignature(Money.FREE, Money.UNKNOWN)),
        # Something in front of the provider stopped waiting; the provider behind it may work on.
        FailureKind.GAVE_UP: _row(Money.UNKNOWN, BySignature(Money.FREE, Money.UNKNOWN)),
        # A node never redirects and never answers 204: whoever did stands in front of it.
        FailureKind.BAD_STATUS: _row(Money.FREE, Money.UNKNOWN),
        # A node runs the upstream request to its end and charges it, whoever is listening.
        FailureKind.NO_ANSWER: _UNKNOWN,
        FailureKind.BAD_ANSWER: _SPENT,
        FailureKind.ERROR_ANSWER: _FREE,
        FailureKind.STREAM_DIED: _UNKNOWN,
        # A node charges some of what it was cut off at and nothing for the rest, later.
        FailureKind.STREAM_CUT: _row(Money.SPENT, Money.UNKNOWN),
        FailureKind.CLIENT_LEFT: _UNKNOWN,
        FailureKind.SHUTDOWN: _UNKNOWN,
    }
)
"""What each failure costs, by kind of provider. A provider without a key counts as openai."""

SENTENCES: Final[Mapping[FailureKind, str]] = MappingProxyType(
    {
        FailureKind.CLIENT_ERROR: "refused the request with status {status}",
        FailureKind.ACCOUNT: "refused the key or its balance with status {status}",
        FailureKind.NO_MODEL: "does not know the model (status {status})",
        FailureKind.NOT_CAPABLE: "says that its model cannot do this (status {status})",
        FailureKind.NO_ENDPOINT: "has nothing at this path (status {status})",
        FailureKind.RATE_LIMITED: "is limiting our rate (status {status})",
        FailureKind.NO_STREAM_OPTIONS: "does not take stream_options (status {status})",
        FailureKind.SERVER_ERROR: "failed with status {status}",
        FailureKind.GAVE_UP: "stopped waiting (status {status}), or something in front of it did",
        FailureKind.BAD_STATUS: "answered status {status}, neither an answer nor an error",
        FailureKind.ERROR_ANSWER: "answered status {status}, but with an error object",
    }
)
"""What `from_status` and `from_error_body` say; the subject of each is the provider."""

WATCHED: Final = frozenset(
    {
        FailureKind.NOT_SENT,
        FailureKind.NO_ANSWER,
        FailureKind.BAD_ANSWER,
        FailureKind.STREAM_DIED,
        FailureKind.STREAM_CUT,
        FailureKind.CLIENT_LEFT,
        FailureKind.SHUTDOWN,
    }
)
"""The failures no status tells: only `seen` makes them."""

TRIPPING: Final = frozenset(
    {
        FailureKind.NOT_SENT,
        FailureKind.NO_ANSWER,
        FailureKind.BAD_ANSWER,
        FailureKind.STREAM_DIED,
        FailureKind.STREAM_CUT,
    }
)
"""Watched failures that the breaker counts; a server_error or error_answer counts when
its status or its error's code is 5xx."""

DEFAULT_REST: Final = 1.0
"""Seconds a provider rests after a 429 that does not say how long."""


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt.

    `sentence` is a predicate without a full stop whose subject is the provider, in our own words.
    `retry_after` is in seconds from now, above 0, at most MAX_REST_SECONDS; None unless a
    rate_limited or server_error said so in a way that makes sense. `own_status` is the 4xx that an
    error object under a 2xx gives itself. `error` is an OpenAI-shaped error object for the client:
    always there for a client_error, a not_capable, and with an `own_status`; otherwise None.
    `trips` is whether the breaker counts it. `words` are the provider's own, on one short line
    without secrets, of an account or no_model: for a person to read.
    `settled`: what it cost is known by the lane it was made on, afterwards.
    """

    kind: FailureKind
    money: Money
    sentence: str
    status: int | None = None
    retry_after: float | None = None
    error: Mapping[str, object] | None = None
    trips: bool = False
    timed_out_connecting: bool = False
    upstream_request_id: str | None = None
    own_status: int | None = None
    words: str | None = None
    settled: bool = False


def is_answer(status: int) -> bool:
    """Whether a status promises an answer, whose body then decides; all others are failures.

    204 and 205 promise that there is no body.
    """
    return 200 <= status <= 299 and status not in (204, 205)


def is_refusal(status: int) -> bool:
    """Whether a status says that the request was read, understood and not done, by a server that
    is well: its connection can serve the next one.

    Not 408 and 499, which gave up, nor 413, whose server may not have read all of the request.
    """
    return 400 <= status <= 499 and status not in (408, 413, 499)


def money_of(failure: FailureKind, kind: Kind, *, signed: bool) -> Money:
    """The row of MONEY, decided. `signed`: the answer bore its kind's signature."""
    match MONEY[failure][kind]:
        case BySignature() as cost:
            return cost.signed if signed else cost.unsigned
        case Money() as cost:
            return cost


def as_stated(
    failure: Failure,
    *,
    stated_msats: Decimal | None,
    counted: bool,
    last_word: bool,
    unheard: bool = False,
) -> Failure:
    """A statement outranks a class: what the provider itself says it took, in millisats.

    `last_word`: nothing more can come. An error under a 2xx is free, but for two cases. `counted`:
    it counted tokens for what is no answer, or said something; that may be paid for. `unheard`: it
    says last what it took, and the connection broke before that word.
    """
    money = failure.money
    if stated_msats is not None and (stated_msats > 0 or last_word):
        money = Money.SPENT if stated_msats > 0 else Money.FREE
    elif money is Money.FREE and is_answer(failure.status or 0):
        if counted:
            money = Money.SPENT
        elif unheard:
            money = Money.UNKNOWN
    return failure if money is failure.money else replace(failure, money=money)


def seen(
    failure: FailureKind,
    provider_kind: Kind,
    sentence: str,
    *,
    status: int | None = None,
    timed_out_connecting: bool = False,
    own_limit: bool = False,
    upstream_request_id: str | None = None,
) -> Failure:
    """A failure that no status tells (WATCHED); others raise LocalProtocolError.

    `own_limit`: a limit of ours ended it rather than the provider, so the breaker does not
    count it.
    """
    if failure not in WATCHED:
        raise LocalProtocolError(f"{failure} is told by an answer, not by watching the wire")
    return Failure(
        failure,
        money_of(failure, provider_kind, signed=False),
        sentence,
        status=status,
        trips=failure in TRIPPING and not own_limit,
        timed_out_connecting=timed_out_connecting,
        upstream_request_id=upstream_request_id,
    )


def rest_seconds(failure: Failure) -> float | None:
    """How long the provider is to rest after this failure; `None`: not at all."""
    if failure.kind is FailureKind.RATE_LIMITED or failure.own_status == 429:
        return DEFAULT_REST if failure.retry_after is None else failure.retry_after
    if failure.kind is FailureKind.SERVER_ERROR and failure.status == 503:
        return failure.retry_after
    return None


def rest_reason(failure: Failure) -> Reason | None:
    """Why the provider, or the model there, is to be left alone after this failure, if it is.

    An error under a 2xx that gives itself such a status means the same.
    """
    said = failure.own_status if failure.own_status is not None else failure.status
    match failure.kind:
        case FailureKind.RATE_LIMITED:
            return Reason.RATE_LIMIT
        case FailureKind.ERROR_ANSWER if failure.own_status == 429:
            return Reason.RATE_LIMIT
        case FailureKind.SERVER_ERROR if rest_seconds(failure) is not None:
            return Reason.OVERLOAD
        case FailureKind.NO_ENDPOINT:
            return Reason.PATH
        case FailureKind.ACCOUNT | FailureKind.ERROR_ANSWER if said == 402:
            return Reason.BALANCE
        case FailureKind.ACCOUNT:
            return Reason.KEY
        case FailureKind.ERROR_ANSWER if failure.own_status in (401, 403):
            return Reason.KEY
        case _:
            return None


NEXT_STEPS: Final[Mapping[FailureKind, str]] = MappingProxyType(
    {
        FailureKind.ACCOUNT: 'check the key of provider "{name}"',
        FailureKind.NO_MODEL: 'see which models provider "{name}" has, and `models` in its table',
    }
)
"""What a person can do about a failure; of a 402: top up."""


def told(failure: Failure, name: str) -> str:
    """The sentence of a failure, the provider's own words, and the next step."""
    step = NEXT_STEPS.get(failure.kind)
    if step is None:
        return failure.sentence
    if failure.kind is FailureKind.ACCOUNT and failure.status == 402:
        step = 'top up the key of provider "{name}"'
    words = "" if failure.words is None else f' and said "{failure.words}"'
    return f"{failure.sentence}{words}: {step.format(name=name)}"

"""The life of one request: its phases, and what may happen in which of them.

    phase        ROUTING --Routed--> READY --AttemptStarted--> ATTEMPTING --Answered--> ANSWERED
                    |                  ^ |                         |                        |
                 Refused               | Refused, Unanswered,  AttemptFailed           Delivered,
                    |                  | Interrupted               |                   Unanswered
                    v                  +-|-------------------------+                        v
                  ENDED <----------------+----------------------------------------------- ENDED

A request that gets the answer of an earlier one makes no attempt: ROUTING --Joined--> JOINED, and
from there `Delivered`, `Unanswered` or `Interrupted` to ENDED.

`ClientLeft` leads from every open phase but ATTEMPTING, whose attempt is ended first, to ENDED.
`HeadSeen`, `OutputBegan` and `UsageSeen` are facts about the running attempt; `Drained` adds what a
background drain learnt about an attempt that had already failed, and may come after the end.

`exchange.py` is the machine that takes these events.
"""

from collections.abc import Mapping
from decimal import Decimal
from enum import IntEnum, auto
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.failure import Failure, Money
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Usage
from arbstr.sansio.routing.plan import Candidate


class Phase(IntEnum):
    """Where a request stands. Its numbers mean nothing: to look one up in a table is what is
    quick."""

    ROUTING = auto()
    READY = auto()
    ATTEMPTING = auto()
    ANSWERED = auto()
    JOINED = auto()
    ENDED = auto()


@final
@dataclass(frozen=True, slots=True)
class Routed:
    """Candidates were found; `first` is the one that is to answer. `home` is the provider that
    answered the same conversation last, if that is known."""

    policy: str | None
    first: Candidate
    home: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was sent: no route, every circuit open, over a limit of ours."""

    error: ErrorReply
    policy: str | None = None


@final
@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """One request to one provider begins. `started_at` is UTC in the log's format; `lane` is the
    lane it runs on, and its counters before (`ledger.lanes.Noted`)."""

    candidate: Candidate
    started_at: str
    lane: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Joined:
    """It gets the answer of the request `first`, which pays for it; again when it is known who
    answers there, and what the answer took."""

    first: str
    provider: str | None = None
    model: str | None = None
    policy: str | None = None
    usage: Usage | None = None


@final
@dataclass(frozen=True, slots=True)
class OutputBegan:
    """The first output of a stream was seen."""


@final
@dataclass(frozen=True, slots=True)
class HeadSeen:
    """The running attempt was answered with a complete head."""

    status: int
    upstream_request_id: str | None


@final
@dataclass(frozen=True, slots=True)
class UsageSeen:
    """Tokens, and what the provider says it charged (millisats), of the running attempt."""

    usage: Usage | None
    provider_cost_msats: Decimal | None


@final
@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The running attempt is over without an answer."""

    failure: Failure


@final
@dataclass(frozen=True, slots=True)
class Answered:
    """The running attempt brought a complete answer."""


@final
@dataclass(frozen=True, slots=True)
class Delivered:
    """The last byte of the answer was handed to the client's connection."""


@final
@dataclass(frozen=True, slots=True)
class Unanswered:
    """All attempts are over, or a bug of ours kept the answer; the client gets `error`."""

    error: ErrorReply


@final
@dataclass(frozen=True, slots=True)
class Interrupted:
    """The stream broke after output; the client gets `error` as an event."""

    error: ErrorReply


@final
@dataclass(frozen=True, slots=True)
class ClientLeft:
    """The client closed its connection, or took nothing for too long."""


@final
@dataclass(frozen=True, slots=True)
class Drained:
    """A background drain of attempt `n` (1-based) ended, with what it learnt.

    `money` is what the end of the answer tells; `None` if it never came. `by_lane`: it is what the
    counters of the attempt's lane tell, and no provider has stated it.
    """

    n: int
    status: int | None
    upstream_request_id: str | None
    usage: Usage | None
    provider_cost_msats: Decimal | None
    money: Money | None
    by_lane: bool = False


Event: TypeAlias = (
    Routed
    | Refused
    | Joined
    | AttemptStarted
    | HeadSeen
    | OutputBegan
    | UsageSeen
    | AttemptFailed
    | Answered
    | Delivered
    | Unanswered
    | Interrupted
    | ClientLeft
    | Drained
)

TRANSITIONS: Final[Mapping[Phase, Mapping[type[Event], Phase]]] = MappingProxyType(
    {
        Phase.ROUTING: {
            Routed: Phase.READY,
            Refused: Phase.ENDED,
            Joined: Phase.JOINED,
            ClientLeft: Phase.ENDED,
        },
        Phase.READY: {
            AttemptStarted: Phase.ATTEMPTING,
            Refused: Phase.ENDED,
            Unanswered: Phase.ENDED,
            Interrupted: Phase.ENDED,
            ClientLeft: Phase.ENDED,
        },
        Phase.ATTEMPTING: {
            HeadSeen: Phase.ATTEMPTING,
            OutputBegan: Phase.ATTEMPTING,
            UsageSeen: Phase.ATTEMPTING,
            AttemptFailed: Phase.READY,
            Answered: Phase.ANSWERED,
        },
        # The whole answer is known but not yet in the client's hands.
        Phase.ANSWERED: {
            Delivered: Phase.ENDED,
            Unanswered: Phase.ENDED,
            ClientLeft: Phase.ENDED,
        },
        Phase.JOINED: {
            Joined: Phase.JOINED,
            OutputBegan: Phase.JOINED,
            Delivered: Phase.ENDED,
            Unanswered: Phase.ENDED,
            Interrupted: Phase.ENDED,
            ClientLeft: Phase.ENDED,
        },
        # The handler may learn only now that the client went; that changes nothing.
        Phase.ENDED: {ClientLeft: Phase.ENDED},
    }
)
"""Which event may come in which phase, and where it leads. `Drained` may come in all of them."""

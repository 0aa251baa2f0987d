"""What follows where arbstr itself ends the work for a request: why it does, and how far it was.

    Why --CUTS--> what is said to the client, and of the provider
    Standing --FOLLOWS--> which of it the client reads

Neither is the provider's fault, so no breaker counts it.
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.failure import FailureKind
from arbstr.sansio.frozen import dataclass

LEFT: Final = "was given up: the client left"
"""Of the provider whose answer nobody waited for; without a full stop."""


class Why(Enum):
    """What ended it."""

    SHUTDOWN = auto()
    TOTAL = auto()  # `[timeouts] total`
    LEFT = auto()  # nobody had waited for it for long enough; somebody has joined just then


class Standing(Enum):
    """How far it was."""

    WHOLE = auto()  # a stream that only waited for its usage
    BETWEEN = auto()  # no attempt was running
    RUNNING = auto()  # one was, and nothing of it had gone out
    OUTPUT = auto()  # a part of its answer had


class Follows(Enum):
    """What the client reads."""

    THE_ANSWER = auto()
    WHY = auto()
    WHAT_THE_ATTEMPT_CAME_TO = auto()  # as after any failure; why, if another would have followed
    THE_BREAK = auto()


FOLLOWS: Final[Mapping[Standing, Follows]] = MappingProxyType(
    {
        Standing.WHOLE: Follows.THE_ANSWER,
        Standing.BETWEEN: Follows.WHY,
        Standing.RUNNING: Follows.WHAT_THE_ATTEMPT_CAME_TO,
        Standing.OUTPUT: Follows.THE_BREAK,
    }
)


@final
@dataclass(frozen=True, slots=True)
class Cut:
    """What is said. In both sentences `{total}` is how many seconds all may take.

    `kind` is what the attempt is called that was running; None: it took too long, so how far it had
    come tells (`watch`). `sentence` is about its provider, without a full stop.
    """

    code: str
    message: str
    sentence: str
    kind: FailureKind | None
    should_retry: bool | None = None

    def reply(self, total: float) -> ErrorReply:
        """Why, for the client."""
        message = self.message.format(total=f"{total:g}")
        return ErrorReply(self.code, message, should_retry=self.should_retry)

    def said(self, total: float) -> str:
        """Of the provider."""
        return self.sentence.format(total=f"{total:g}")


CUTS: Final[Mapping[Why, Cut]] = MappingProxyType(
    {
        Why.SHUTDOWN: Cut(
            "shutting_down",
            "arbstr was shut down before there was an answer.",
            "was given up: arbstr was shut down",
            FailureKind.SHUTDOWN,
        ),
        Why.TOTAL: Cut(
            "upstream_error",
            "There was no answer within [timeouts] total = {total} s.",
            "had not answered within [timeouts] total = {total} s",
            None,
            should_retry=False,
        ),
        Why.LEFT: Cut(
            "upstream_error",
            "The answer was given up: the client that had asked for it had left.",
            LEFT,
            FailureKind.CLIENT_LEFT,
        ),
    }
)

"""What an attempt is called that ended on the wire: how far it had come, and how it ended.

    Stage x End --ENDINGS--> FailureKind, and with it the money
    left before its price was told --READ_ON--> Wait

The runtime watches and says what it saw; that it was a timeout of ours, a reset or an end decides
nothing. A complete head that is no answer stands, whatever becomes of its body: `classify` names
it.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from arbstr.sansio.failover.failure import FailureKind


class Stage(StrEnum):
    """How far an attempt had come; the value is how the manual says it."""

    UNWRITTEN = "DNS, connect or TLS failed, or not a byte of the request was written"
    WRITTEN = "the request was written, in part or whole, and no complete head came"
    REFUSED = "a complete head that is no answer"
    PLAIN = "2xx for a plain answer"
    SILENT = "2xx for a stream, and not a byte of it"
    STREAM = "2xx stream before any output"
    OUTPUT = "2xx stream after output began"


class End(StrEnum):
    """How it ended; the value is how the manual says it."""

    BROKE = "timeout, reset, garbage, over a limit"
    ENDED = "end"
    ERROR = "an error event"
    STOPPED = "arbstr stopped it"


def _row(
    broke: FailureKind,
    ended: FailureKind | None,
    error: FailureKind | None,
    *,
    stopped: FailureKind | None = None,
) -> Mapping[End, FailureKind | None]:
    return MappingProxyType(
        {End.BROKE: broke, End.ENDED: ended, End.ERROR: error, End.STOPPED: stopped}
    )


_ITS_STATUS: Final[Mapping[End, FailureKind | None]] = MappingProxyType(dict.fromkeys(End))

ENDINGS: Final[Mapping[Stage, Mapping[End, FailureKind | None]]] = MappingProxyType(
    {
        Stage.UNWRITTEN: _row(
            FailureKind.NOT_SENT,
            FailureKind.NOT_SENT,
            FailureKind.NOT_SENT,
            stopped=FailureKind.NOT_SENT,
        ),
        Stage.WRITTEN: _row(FailureKind.NO_ANSWER, FailureKind.NO_ANSWER, FailureKind.NO_ANSWER),
        Stage.REFUSED: _ITS_STATUS,
        Stage.PLAIN: _row(FailureKind.BAD_ANSWER, FailureKind.BAD_ANSWER, None),
        # Nothing at all is an answer of nobody's; a stream that was to come may still be paid for.
        Stage.SILENT: _row(FailureKind.STREAM_DIED, FailureKind.BAD_ANSWER, None),
        Stage.STREAM: _row(FailureKind.STREAM_DIED, FailureKind.STREAM_DIED, None),
        Stage.OUTPUT: _row(FailureKind.STREAM_CUT, FailureKind.STREAM_CUT, FailureKind.STREAM_CUT),
    }
)
"""None: something else tells. Of a stage REFUSED that is its status (`statuses.REFUSALS`), of an
error before output its words (`statuses.ERRORS`), of an attempt that arbstr stopped why it did."""


class Wait(StrEnum):
    """For how long what an attempt was left at is read on, for its price."""

    NOT = "not at all"
    LATE = "a moment"
    DRAIN = "as long as the provider may take"
    LATE_ONCE_DONE = (
        "as long as the provider may take, and a moment once it has said that all is there"
    )


READ_ON: Final[Mapping[tuple[bool, bool], Wait]] = MappingProxyType(
    {
        (True, True): Wait.DRAIN,
        (True, False): Wait.NOT,  # it stops working when it is left
        (False, True): Wait.LATE_ONCE_DONE,
        (False, False): Wait.LATE,
    }
)
"""By whether the attempt failed (its client does not have the answer, or not the whole of it), and
whether such a provider finishes an answer whoever is listening (`kinds.Traits.finishes`)."""

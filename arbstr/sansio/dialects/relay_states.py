"""The states of a relay, and how one follows another.

    HOLDING     nothing goes out, so another provider can still answer; what came is kept and goes
                out, in order, with the first output
    FLOWING     events go out whole and unchanged, by identity if the piece that was fed needs no
                change
    COMPLETE    the answer has come to its end: only its last word can follow. It goes on as FLOWING
    REOPENED    but output followed: that was not the end. It still is one if nothing more comes,
                but not if the connection then breaks or an error follows
    ENDED       the protocol's last event came: nothing more goes out, and a usage or price that is
                missing is taken
    SILENT      it failed, or ended without having come to its end: nothing more goes out, what
                follows is read for its usage and price alone
    CLOSED      `finish` was called. As ENDED
    CUT         `interrupt` was called. As SILENT

`TRANSITIONS` is how one follows another. From COMPLETE on the answer is whole (`complete`), unless
a part of it is lost (`missing`), and nothing the upstream does can change that.
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final


class State(Enum):
    """What a relay does with what comes, see the module."""

    HOLDING = auto()
    FLOWING = auto()
    COMPLETE = auto()
    REOPENED = auto()
    ENDED = auto()
    SILENT = auto()
    CLOSED = auto()
    CUT = auto()


class Happened(Enum):
    """What changes a relay's state."""

    OUTPUT = auto()  # the first bytes go out
    END = auto()  # the answer has come to its end: nothing of it is outstanding
    MORE = auto()  # something was said after that
    LAST = auto()  # the protocol's last event, of an answer that has come to its end
    LAST_TOO_SOON = auto()  # the same, of one that has not
    ERROR = auto()  # of an answer that is not whole
    OVERFLOW = auto()  # too much to be read, of an answer that is not whole
    BROKE = auto()  # the connection
    FINISH = auto()  # called
    INTERRUPT = auto()  # called


_UNTIL_CLOSED: Final = {Happened.INTERRUPT: State.CUT}
_UNTIL_ENDED: Final = {
    Happened.END: State.COMPLETE,
    Happened.LAST: State.ENDED,
    Happened.LAST_TOO_SOON: State.SILENT,
    Happened.ERROR: State.SILENT,
    Happened.OVERFLOW: State.SILENT,
    **_UNTIL_CLOSED,
}

TRANSITIONS: Final[Mapping[State, Mapping[Happened, State]]] = MappingProxyType(
    {
        State.HOLDING: {**_UNTIL_ENDED, Happened.OUTPUT: State.FLOWING},
        State.FLOWING: _UNTIL_ENDED,
        State.COMPLETE: {
            **_UNTIL_ENDED,
            Happened.MORE: State.REOPENED,
            Happened.FINISH: State.CLOSED,
        },
        State.REOPENED: {
            **_UNTIL_ENDED,
            Happened.BROKE: State.SILENT,
            Happened.FINISH: State.CLOSED,
        },
        State.ENDED: {**_UNTIL_CLOSED, Happened.FINISH: State.CLOSED},
        State.SILENT: _UNTIL_CLOSED,
        State.CLOSED: {},
        State.CUT: {},
    }
)
"""What is not in it changes nothing. An answer that came to its end with a part missing can be
interrupted."""

FINISHED: Final = frozenset({State.COMPLETE, State.REOPENED, State.ENDED, State.CLOSED})
"""The answer has come to its end."""

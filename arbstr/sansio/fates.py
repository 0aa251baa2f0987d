"""What follows where a worker ends, is silent, or a signal comes: the tables of `workers`."""

from collections.abc import Mapping
from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import Final

STEADY_SECONDS: Final = 10.0
"""Who served so long did not end for what it met at its start. Picked."""

FIRST_PAUSE_SECONDS: Final = 0.1
"""Before a worker is started again; four times as long after each further end in a row ..."""

LONGEST_PAUSE_SECONDS: Final = 30.0
"""... up to this. Picked: a machine that is short of memory has a moment to recover."""

MOST_ENDS: Final = 5
"""So often in a row a worker ends before arbstr is given up, if none serves: 9 s, and what it takes
to start. Picked."""

STOP_SECONDS: Final = 10.0
"""Past the grace of requests in flight, until workers that hang are killed: a worker's own watchdog
ends it after eight (`trio_runtime.stopping.WATCHDOG_SECONDS`)."""

HURRY_SECONDS: Final = 7.0
"""The same after a second signal; a worker's own comes after five."""

BEAT_SECONDS: Final = 1.0
"""How often a worker says that it lives."""

HANG_SECONDS: Final = 5.0
"""Who says nothing for so long hangs: nothing a worker does in one go takes a second. Picked."""

PATIENCE_SECONDS: Final = 30.0
"""Who hangs for so long is killed. Its requests are lost, but they were waiting as long; a machine
that is only busy has time to go on. Picked."""

ABSENT_SECONDS: Final = 2.0
"""A parent that is told so late what was due was not there itself."""


class Phase(Enum):
    """Where all of them together stand."""

    OPENING = auto()
    SERVING = auto()
    STOPPING = auto()
    HURRYING = auto()
    ENDED = auto()


class State(StrEnum):
    """Where one worker stands, as /health says it."""

    STARTING = "starting"
    SERVING = "serving"
    HUNG = "hung"
    RESTING = "to be started again"
    GONE = "gone"


class Word(StrEnum):
    """What workers are told."""

    STOP = "stop"
    HURRY = "hurry"
    RELOAD = "reload"


class Sign(Enum):
    """What the parent is told from outside, by signals."""

    STOP = auto()
    RELOAD = auto()


class Level(StrEnum):
    """How much a sentence for the log matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


SIGNALS: Final[Mapping[tuple[Phase, Sign], tuple[Phase, Word]]] = MappingProxyType(
    {
        (Phase.OPENING, Sign.STOP): (Phase.STOPPING, Word.STOP),
        (Phase.SERVING, Sign.STOP): (Phase.STOPPING, Word.STOP),
        (Phase.STOPPING, Sign.STOP): (Phase.HURRYING, Word.HURRY),
        (Phase.OPENING, Sign.RELOAD): (Phase.OPENING, Word.RELOAD),
        (Phase.SERVING, Sign.RELOAD): (Phase.SERVING, Word.RELOAD),
    }
)
"""What all workers are told at a signal, and the phase then. Any other changes nothing."""


class End(StrEnum):
    """How it stands when a worker has ended; the first that is so. Said as the README does."""

    UNWANTED = "all were told to stop"
    FIRST = "it was the first, and none has served yet"
    HOPELESS = f"none serves, and it ended {MOST_ENDS} times in a row, soon each time"
    OTHERWISE = "anything else"


class Fate(StrEnum):
    """What follows."""

    NOTHING = "nothing; after the last arbstr ends"
    END = "arbstr ends with its exit code, or 1"
    GIVE_UP = "arbstr ends, exit code 1"
    AGAIN = "it is started again, the sooner the longer it had served"


FATES: Final[Mapping[End, Fate]] = MappingProxyType(
    {
        End.UNWANTED: Fate.NOTHING,
        End.FIRST: Fate.END,
        End.HOPELESS: Fate.GIVE_UP,
        End.OTHERWISE: Fate.AGAIN,
    }
)


class Silence(StrEnum):
    """What a worker that was heard before does not say, or says again. Said as the README does."""

    HANGS = f"a worker that serves says nothing for {HANG_SECONDS:g} s"
    TOO_LONG = f"nor for {PATIENCE_SECONDS:g} s, or so long while it starts"
    OVER = "it says something again"
    OURS = "all are silent because arbstr itself was suspended"


class Answer(StrEnum):
    """What follows."""

    TELL = "`/health` says that it is `hung`, and so does the log; nobody asks it"
    KILL = "it is killed, and started again as after any end; the log says why"
    SERVES = "it serves, and the log says so"
    WAIT = "they have as long again"


SILENCES: Final[Mapping[Silence, Answer]] = MappingProxyType(
    {
        Silence.HANGS: Answer.TELL,
        Silence.TOO_LONG: Answer.KILL,
        Silence.OVER: Answer.SERVES,
        Silence.OURS: Answer.WAIT,
    }
)


def workers_table() -> str:
    """FATES as a Markdown table for the README."""
    lines = ["| a worker ended, and | what follows |", "|---|---|"]
    return "\n".join([*lines, *(f"| {end} | {fate} |" for end, fate in FATES.items())]) + "\n"


def silence_table() -> str:
    """SILENCES as one."""
    lines = ["| a worker is silent | what follows |", "|---|---|"]
    return "\n".join([*lines, *(f"| {one} | {then} |" for one, then in SILENCES.items())]) + "\n"


def pause(ends: int) -> float:
    """Seconds until a worker is started again that has ended so often in a row."""
    return float(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 4 ** min(ends - 1, 10)))

"""Several processes behind one address: when one is started, told and ended, and when all are.

    phase    OPENING --the first serves--> SERVING --stop--> STOPPING --stop--> HURRYING
                |                             |                  |                  |
         the first ends                   `GIVE_UP`        the last is gone         |
                v                             v                  v                  v
              ENDED <----------------------------------------------------------------

The parent owns the listening sockets and hears the signals; each worker is a whole arbstr that
accepts from the same sockets. One is started first: what is wrong with the ledger or the
configuration it says once, and arbstr ends with its exit code. Once it serves, the others start.

What follows the end of a worker is a row of `FATES`, what a signal does a row of `SIGNALS`
(`fates`). A
worker that ended is started again after `pause(ends in a row)`; who had served for `STEADY_SECONDS`
begins to count anew.

Each worker says something every `BEAT_SECONDS`. One that does not, whose loop is stuck or which is
suspended, accepts connections and answers none: what follows is a row of `SILENCES`. Until the
first word of a worker nothing is expected, nor once all were told to stop, which has a deadline of
its own. That a parent which was suspended itself heard nobody says nothing of them.

What may not live here: processes, signals, sockets, the clock (`now` is monotonic, in seconds).
"""

from collections.abc import Mapping
from math import inf
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.fates import (
    ABSENT_SECONDS,
    FATES,
    HANG_SECONDS,
    HURRY_SECONDS,
    MOST_ENDS,
    PATIENCE_SECONDS,
    SIGNALS,
    SILENCES,
    STEADY_SECONDS,
    STOP_SECONDS,
    Answer,
    End,
    Fate,
    Level,
    Phase,
    Sign,
    Silence,
    State,
    Word,
    pause,
)
from arbstr.sansio.frozen import dataclass

_LIVING: Final = frozenset({State.STARTING, State.SERVING, State.HUNG})

# -- what happens ----------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Ready:
    """A worker serves."""

    worker: int


@final
@dataclass(frozen=True, slots=True)
class Heard:
    """A worker has said something, whatever it was."""

    worker: int


@final
@dataclass(frozen=True, slots=True)
class Ended:
    """A worker is gone, with its exit code, or less than 0 if it could not say why: killed, or not
    even started. `how` is a predicate: "was killed by SIGKILL"."""

    worker: int
    code: int
    how: str


@final
@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal came; `name` is its own."""

    sign: Sign
    name: str


@final
@dataclass(frozen=True, slots=True)
class Elapsed:
    """What was due may be."""


Event: TypeAlias = Ready | Heard | Ended | Signalled | Elapsed


# -- what is to be done ----------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Start:
    """Start this worker."""

    worker: int


@final
@dataclass(frozen=True, slots=True)
class Tell:
    """Tell this to all workers that live."""

    word: Word
    why: str = ""


@final
@dataclass(frozen=True, slots=True)
class Kill:
    """End this worker at once, or all that live."""

    worker: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Announce:
    """Requests are being accepted: say where."""


@final
@dataclass(frozen=True, slots=True)
class Say:
    """A line for the log."""

    level: Level
    sentence: str


@final
@dataclass(frozen=True, slots=True)
class Leave:
    """No worker is left: end with this code."""

    code: int


Command: TypeAlias = Start | Tell | Kill | Announce | Say | Leave


@final
@dataclass(slots=True)
class _Worker:
    """One place. `ends` counts in a row; `due`: when it is started again; `heard`: when it said
    something last, if it has; `killed`: why it was."""

    state: State = State.GONE
    since: float = 0.0
    ends: int = 0
    due: float = inf
    heard: float = inf
    killed: str = ""

    @property
    def late(self) -> float:
        """When its silence has lasted too long, as it is now."""
        match self.state:
            case State.SERVING:
                return self.heard + HANG_SECONDS
            case State.HUNG | State.STARTING if not self.killed:
                return self.heard + PATIENCE_SECONDS
            case _:
                return inf


@final
class Workers:
    """The workers 1 to `count`. `grace` in seconds is how long a stop waits for answers."""

    def __init__(self, count: int, grace: float) -> None:
        self._workers = {number: _Worker() for number in range(1, count + 1)}
        self._grace = grace
        self._deadline = inf
        self._code = 0
        self.phase = Phase.OPENING

    @property
    def states(self) -> Mapping[int, State]:
        """Where each stands."""
        return {number: worker.state for number, worker in self._workers.items()}

    @property
    def due(self) -> float:
        """When `Elapsed` is to be told at the latest."""
        return min(self._deadline, self._silent, *(each.due for each in self._workers.values()))

    @property
    def _silent(self) -> float:
        if self.phase not in (Phase.OPENING, Phase.SERVING):
            return inf
        return min(worker.late for worker in self._workers.values())

    def start(self) -> tuple[Command, ...]:
        """The first of them."""
        return (self._start(1),)

    def handle(self, event: Event, now: float) -> tuple[Command, ...]:
        """What is to be done, in this order. Raises `LocalProtocolError` after the end."""
        if self.phase is Phase.ENDED:
            raise LocalProtocolError(f"{event} after the end")
        match event:
            case Ready(number):
                return self._ready(number, now)
            case Heard(number):
                return self._heard(number, now)
            case Ended(number, code, how):
                return self._ended(number, code, how, now)
            case Signalled(sign, name):
                return self._signalled(sign, name, now)
            case Elapsed():
                return self._elapsed(now)

    def _ready(self, number: int, now: float) -> tuple[Command, ...]:
        worker = self._workers[number]
        if worker.state is not State.STARTING:
            raise LocalProtocolError(f"worker {number} is {worker.state}, and cannot become ready")
        worker.state, worker.since = State.SERVING, now
        match self.phase:
            case Phase.OPENING:
                self.phase = Phase.SERVING
                others = tuple(self._start(other) for other in self._workers if other != number)
                return (Announce(), *others, *self._serves(number))
            case Phase.SERVING:
                return self._serves(number)
            case _:
                return ()

    def _heard(self, number: int, now: float) -> tuple[Command, ...]:
        worker = self._workers[number]
        seconds, worker.heard = now - worker.heard, now
        if worker.state is not State.HUNG or worker.killed:
            return ()
        worker.state = State.SERVING
        return (Say(Level.INFO, f"worker {number} serves again, after {seconds:.0f} s"),)

    def _serves(self, number: int) -> tuple[Command, ...]:
        said = Say(Level.INFO, f"worker {number} serves")
        if any(state is not State.SERVING for state in self.states.values()):
            return (said,)
        return (said, Say(Level.INFO, f"all {len(self._workers)} workers serve"))

    def _ended(self, number: int, code: int, how: str, now: float) -> tuple[Command, ...]:
        worker = self._workers[number]
        served = worker.state in (State.SERVING, State.HUNG)
        steady = served and now - worker.since >= STEADY_SECONDS
        worker.heard, why, worker.killed = inf, worker.killed, ""
        worker.state, worker.ends = State.GONE, 1 if steady else worker.ends + 1
        match FATES[self._end_of(worker)]:
            case Fate.NOTHING:
                if code and not self._code:
                    self._code = 1
                return self._unless_gone()
            case Fate.END:
                self._code = code if code >= 0 else 1
                said = Say(Level.ERROR, f"worker {number} {how} before it served")
                return (*((said,) if code < 0 else ()), *self._unless_gone())
            case Fate.GIVE_UP:
                self._code, self.phase = 1, Phase.STOPPING
                self._deadline = now + self._grace + STOP_SECONDS
                for each in self._workers.values():
                    each.due = inf
                said = Say(Level.ERROR, f"worker {number} {how}, as often before; giving up")
                return (said, Tell(Word.STOP, "giving up"), *self._unless_gone())
            case Fate.AGAIN:
                seconds = pause(worker.ends)
                worker.state, worker.due = State.RESTING, now + seconds
                again = f"it is started again in {seconds:g} s"
                return (Say(Level.WARNING, f"worker {number} {how}{why}: {again}"),)

    def _end_of(self, worker: _Worker) -> End:
        if self.phase in (Phase.STOPPING, Phase.HURRYING):
            return End.UNWANTED
        if self.phase is Phase.OPENING:
            return End.FIRST
        serves = any(state is State.SERVING for state in self.states.values())
        return End.HOPELESS if worker.ends >= MOST_ENDS and not serves else End.OTHERWISE

    def _signalled(self, sign: Sign, name: str, now: float) -> tuple[Command, ...]:
        row = SIGNALS.get((self.phase, sign))
        if row is None:
            return ()
        self.phase, word = row
        match word:
            case Word.STOP:
                self._deadline = now + self._grace + STOP_SECONDS
                for worker in self._workers.values():
                    worker.due = inf
            case Word.HURRY:
                self._deadline, self._code = now + HURRY_SECONDS, 130
            case Word.RELOAD:
                pass
        return (Tell(word, name), *self._unless_gone())

    def _elapsed(self, now: float) -> tuple[Command, ...]:
        if now >= self._deadline:
            self._deadline, self._code = inf, self._code or 1
            return (Say(Level.ERROR, "workers that do not stop are killed"), Kill())
        if now >= self._silent:
            return self._silence(now)
        due = [number for number, worker in self._workers.items() if worker.due <= now]
        return tuple(self._start(number) for number in due)

    def _silence(self, now: float) -> tuple[Command, ...]:
        if now - self._silent >= ABSENT_SECONDS:
            for worker in self._workers.values():
                worker.heard = max(worker.heard, now) if worker.heard < inf else inf
            return ()
        commands: list[Command] = []
        for number, worker in self._workers.items():
            if now < worker.late:
                continue
            silent = f"said nothing for {now - worker.heard:.0f} s"
            serves = worker.state is State.SERVING
            match SILENCES[Silence.HANGS if serves else Silence.TOO_LONG]:
                case Answer.TELL:
                    worker.state = State.HUNG
                    told = f"worker {number} has {silent}: it hangs"
                    commands.append(Say(Level.WARNING, told))
                case Answer.KILL:
                    worker.killed = f", because it had {silent}"
                    told = f"worker {number} has {silent}: it is killed"
                    commands += [Say(Level.ERROR, told), Kill(number)]
                case Answer.SERVES | Answer.WAIT:
                    raise LocalProtocolError("what follows the end of a silence, or none")
        return tuple(commands)

    def _start(self, number: int) -> Start:
        worker = self._workers[number]
        worker.state, worker.due = State.STARTING, inf
        return Start(number)

    def _unless_gone(self) -> tuple[Command, ...]:
        """The end, if there is nobody left to wait for."""
        if any(state in _LIVING for state in self.states.values()):
            return ()
        if self.phase in (Phase.OPENING, Phase.STOPPING, Phase.HURRYING):
            self.phase = Phase.ENDED
            return (Leave(self._code),)
        return ()

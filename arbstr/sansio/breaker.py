"""May this provider be asked now? One circuit breaker per provider, and resting beside it.

                 N failures in a row                  open_seconds later, on admission
    Closed ---------------------------->  Open  ---------------------------------->  HalfOpen
      ^  ^ success: count back to 0         ^                                        |   |  ^
      |  +-- neutral: unchanged             +------- the probe fails ----------------+   |  |
      +----------------- the probe succeeds ---------------------------------------------+  |
                              the probe is cancelled or neutral: its slot is free again ----+

A half-open circuit lets exactly one request through, the probe. Every change of state but the
giving back of the slot begins a new *generation*; a result that comes from an older one
(admitted before the circuit opened, ended after) changes nothing.

Resting is what a provider asked for itself (`Retry-After`, a 429). It says nothing about its
health, so it is no state of the circuit: a resting provider is not tried, and it takes no slot.

How to drive it: `admit` and `settle` are pure functions of one provider's state. `Board` keeps
the states of all providers, hands out tickets and takes each back exactly once:

    match board.admit(name, now):
        case Admitted(ticket): ...              # and in a `finally`: board.settle(ticket, ...)
        case Resting() | CircuitOpen() | Probing(): ...        # no attempt

What may not live here: clocks (times are seconds of one monotonic clock, always an argument),
waiting, and the judgement what counts as a failure (`sansio.failure`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal, TypeAlias, final

from arbstr.sansio.errors import LocalProtocolError

LONGEST_REST: Final = 600.0
"""Seconds. A provider may ask for a day (`Retry-After: 86400`) and recover in a minute."""


class Outcome(Enum):
    """What a request that leaves a provider says about that provider's health."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"


@final
@dataclass(frozen=True, slots=True)
class Closed:
    """Healthy, as far as known. `failures` counts those in a row."""

    failures: int
    generation: int


@final
@dataclass(frozen=True, slots=True)
class Open:
    """Not asked before `until` (seconds, monotonic)."""

    until: float
    failures: int
    generation: int


@final
@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One probe may find out. `probing`: it is under way."""

    probing: bool
    failures: int
    generation: int


State: TypeAlias = Closed | Open | HalfOpen


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """`failures` in a row open the circuit, for `open_seconds`."""

    failures: int
    open_seconds: float


@final
@dataclass(frozen=True, slots=True)
class Resting:
    """The provider asked to be left alone until then (seconds, monotonic)."""

    until: float


@final
@dataclass(frozen=True, slots=True)
class CircuitOpen:
    """The circuit is open until then (seconds, monotonic)."""

    until: float


@final
@dataclass(frozen=True, slots=True)
class Probing:
    """The circuit is half-open and its one probe is under way."""


Refused: TypeAlias = Resting | CircuitOpen | Probing


@final
@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to send one request to `provider`; given back with `Board.settle`.

    `probe`: this is the one request through a half-open circuit.
    """

    number: int
    provider: str
    generation: int
    probe: bool


@final
@dataclass(frozen=True, slots=True)
class Admitted:
    """Go ahead, and settle the ticket once, whatever happens."""

    ticket: Ticket


@final
@dataclass(frozen=True, slots=True)
class CircuitView:
    """One provider as `/health` and `/providers` show it, as of the moment asked about.

    `retry_at` is when an open circuit reads half_open; both times are seconds of the monotonic
    clock and `None` once they have passed. `last_error` is the sentence of the last failure
    since the last success.
    """

    state: Literal["closed", "open", "half_open"]
    failure_count: int
    retry_at: float | None
    resting_until: float | None
    last_error: str | None


def admit(state: State, now: float) -> tuple[State, CircuitOpen | Probing | None]:
    """Ask to send one request. Refused if the second value is not `None`.

    An admission that leaves the state `HalfOpen` is the probe.
    """
    match state:
        case Closed():
            return state, None
        case Open(until=until) if now < until:
            return state, CircuitOpen(until)
        case Open(failures=failures, generation=generation):
            return HalfOpen(True, failures, generation + 1), None
        case HalfOpen(probing=True):
            return state, Probing()
        case HalfOpen():
            return replace(state, probing=True), None


def settle(state: State, outcome: Outcome, now: float, *, generation: int, limits: Limits) -> State:
    """The state after a request admitted in `generation` has left the provider."""
    if generation != state.generation:
        return state
    match outcome:
        case Outcome.SUCCESS:
            return _succeeded(state)
        case Outcome.FAILURE:
            return _failed(state, now, limits)
        case Outcome.NEUTRAL:
            return replace(state, probing=False) if isinstance(state, HalfOpen) else state


def _succeeded(state: State) -> State:
    match state:
        case Closed():
            return replace(state, failures=0)
        case HalfOpen(generation=generation):
            return Closed(0, generation + 1)
        case Open():
            # Nobody is admitted in this generation, so nobody can come back to it.
            return state


def _failed(state: State, now: float, limits: Limits) -> State:
    failures = state.failures + 1
    match state:
        case Closed() if failures < limits.failures:
            return replace(state, failures=failures)
        case Closed() | HalfOpen():
            return Open(now + limits.open_seconds, failures, state.generation + 1)
        case Open():
            return state


class Board:
    """The circuits and rests of all providers, by name.

    Every method is one synchronous step: between admission and dispatch nothing else happens.
    A name never heard of is a healthy provider.
    """

    def __init__(self, names: Iterable[str], *, failures: int, open_seconds: float) -> None:
        self._limits = Limits(failures, open_seconds)
        self._first_generation = 0
        self._states: dict[str, State] = {name: Closed(0, 0) for name in names}
        self._rests: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        self._tickets = 0
        self._outstanding: set[int] = set()

    def _state(self, name: str) -> State:
        return self._states.get(name, Closed(0, self._first_generation))

    def admit(self, name: str, now: float) -> Admitted | Refused:
        """Ask to send one request to `name`; takes the probe's slot if that is what it gets."""
        resting = self._rests.get(name, now)
        state, refused = admit(self._state(name), now)
        match refused:
            case CircuitOpen(until=until):
                return CircuitOpen(max(until, resting))
            case _ if resting > now:
                return Resting(resting)
            case Probing():
                return refused
            case None:
                self._states[name] = state
                self._tickets += 1
                self._outstanding.add(self._tickets)
                probe = isinstance(state, HalfOpen)
                return Admitted(Ticket(self._tickets, name, state.generation, probe))

    def settle(
        self, ticket: Ticket, outcome: Outcome, now: float, *, error: str | None = None
    ) -> None:
        """Give the ticket back with what the request has shown.

        `error` is our own sentence about a failure. Raises `LocalProtocolError` if the ticket
        has been given back before.
        """
        if ticket.number not in self._outstanding:
            raise LocalProtocolError(f"ticket {ticket.number} was settled before")
        self._outstanding.remove(ticket.number)
        name = ticket.provider
        before = self._state(name)
        if before.generation != ticket.generation:
            return
        self._states[name] = settle(
            before, outcome, now, generation=ticket.generation, limits=self._limits
        )
        if outcome is Outcome.SUCCESS:
            self._errors.pop(name, None)
        elif outcome is Outcome.FAILURE and error is not None:
            self._errors[name] = error

    def rest(self, name: str, until: float, now: float) -> None:
        """Leave `name` alone until then: extended, never shortened, at most `LONGEST_REST`."""
        self._rests[name] = max(self._rests.get(name, now), min(until, now + LONGEST_REST))

    def view(self, name: str, now: float) -> CircuitView:
        """How `name` stands now; a circuit whose time is over reads half_open without traffic."""
        state = self._state(name)
        resting = self._rests.get(name, now)
        retry_at: float | None = None
        shown: Literal["closed", "open", "half_open"]
        match state:
            case Closed():
                shown = "closed"
            case Open(until=until) if now < until:
                shown, retry_at = "open", until
            case Open() | HalfOpen():
                shown = "half_open"
        return CircuitView(
            state=shown,
            failure_count=state.failures,
            retry_at=retry_at,
            resting_until=resting if resting > now else None,
            last_error=self._errors.get(name),
        )

    def configure(self, *, failures: int, open_seconds: float) -> None:
        """Use new limits from the next verdict on; a circuit that is open stays so as long as it
        was told to."""
        self._limits = Limits(failures, open_seconds)

    def retain(self, names: Iterable[str]) -> None:
        """Forget every provider but these: after a reload, those whose name, URL and key stayed.

        Tickets of forgotten providers may still be settled and change nothing, even if a
        provider of the same name is there again.
        """
        kept = frozenset(names)
        gone = [name for name in self._states if name not in kept]
        self._first_generation = 1 + max(
            (self._first_generation, *(self._states[name].generation for name in gone))
        )
        for name in gone:
            del self._states[name]
        for record in (self._rests, self._errors):
            for name in [name for name in record if name not in kept]:
                del record[name]

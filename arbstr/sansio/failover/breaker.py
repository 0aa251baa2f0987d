"""May this be asked now? The circuit breaker: the states of one circuit, and what changes them.

                 N failures in a row                  open_seconds later, on admission
    Closed ---------------------------->  Open  ---------------------------------->  HalfOpen
      ^  ^ success: count back to 0         ^                                        |   |  ^
      |  +-- neutral: unchanged             +------- the probe fails ----------------+   |  |
      +----------------- the probe succeeds ---------------------------------------------+  |
                              the probe is cancelled or neutral: its slot is free again ----+

A half-open circuit lets exactly one request through, the probe. Every change of state but the
giving back of the slot begins a new *generation*; a result that comes from an older one
(admitted before the circuit opened, ended after) changes nothing.

`admit` and `settle` are pure functions of a circuit's state. Whose circuits there are, and what a
request has to do with them, is `board.py`.

What may not live here: clocks (times are seconds of one monotonic clock, always an argument), and
the judgement what counts as a failure (`sansio.failover.failure`).
"""

from dataclasses import replace
from enum import Enum
from typing import TypeAlias, final

from arbstr.sansio.frozen import dataclass


class Outcome(Enum):
    """What a request that leaves a provider says about health there. Circuits are not told
    `unreached`, but what it shows of them (`board.SHOWS`)."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNREACHED = "unreached"
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
class CircuitOpen:
    """The circuit is open until then (seconds, monotonic)."""

    until: float


@final
@dataclass(frozen=True, slots=True)
class Probing:
    """The circuit is half-open and its one probe is under way."""


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
        case Outcome.NEUTRAL | Outcome.UNREACHED:
            return replace(state, probing=False) if isinstance(state, HalfOpen) else state


def _succeeded(state: State) -> State:
    match state:
        case Closed(failures=0):
            return state
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

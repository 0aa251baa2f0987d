"""May this provider be asked for this model now? The circuits and the rests of all of them.

There are two levels of circuits, and a request needs the leave of both: the provider's counts what
concerns all of it, a model's circuit at that provider everything else, so that one sick model does
not close its neighbours. What a request has shown of each is the table `SHOWS`:

    outcome      the provider  the model there
    success      success       success
    failure      success       failure           it was reached, and failed with this model
    unreached    failure       neutral           not a byte arrived
    neutral      neutral       neutral

Resting is what a provider asked for itself, or what its key or path earned it (`rests`): a resting
provider is not tried, and it takes no slot.

How to drive it: `Board` hands out tickets and takes each back exactly once:

    match board.admit(name, model, now):
        case Admitted(ticket): ...              # and in a `finally`: board.settle(ticket, ...)
        case Resting() | CircuitOpen() | Probing(): ...        # no attempt

What may not live here: clocks (times are seconds of one monotonic clock, always an argument),
waiting, loggers (`settle` returns what turned), and how a circuit changes (`breaker`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, final

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.failover.breaker import (
    CircuitOpen,
    Closed,
    HalfOpen,
    Limits,
    Open,
    Outcome,
    Probing,
    State,
    admit,
    settle,
)
from arbstr.sansio.failover.rests import Reason, Rests
from arbstr.sansio.frozen import dataclass

MOST_CIRCUITS: Final = 2000
"""Circuits kept. Clients may ask a provider of all models (`"*"`) for any name; healthy ones are
forgotten first. Picked, not measured."""

SHOWS: Final[Mapping[Outcome, tuple[Outcome, Outcome]]] = MappingProxyType(
    {
        Outcome.SUCCESS: (Outcome.SUCCESS, Outcome.SUCCESS),
        Outcome.FAILURE: (Outcome.SUCCESS, Outcome.FAILURE),
        Outcome.UNREACHED: (Outcome.FAILURE, Outcome.NEUTRAL),
        Outcome.NEUTRAL: (Outcome.NEUTRAL, Outcome.NEUTRAL),
    }
)
"""What a request shows of the provider, and of the model there."""


@final
@dataclass(frozen=True, slots=True)
class Resting:
    """To be left alone until then (seconds, monotonic), and why."""

    until: float
    why: Reason = Reason.RATE_LIMIT


Refused: TypeAlias = Resting | CircuitOpen | Probing


@final
@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to send one request for `model` to `provider`; given back with `Board.settle`.

    `generations` are those of the provider's circuit and the model's. `probe`: this is the one
    request through a half-open circuit.
    """

    number: int
    provider: str
    model: str
    generations: tuple[int, int]
    probe: bool


@final
@dataclass(frozen=True, slots=True)
class Admitted:
    """Go ahead, and settle the ticket once, whatever happens."""

    ticket: Ticket


@final
@dataclass(frozen=True, slots=True)
class Turned:
    """A circuit has opened until then (seconds, monotonic), or closed if that is `None`.

    `model` is `None` for the provider's own. `failures` in a row opened it.
    """

    provider: str
    model: str | None
    until: float | None
    failures: int


@final
@dataclass(frozen=True, slots=True)
class CircuitView:
    """A provider, or a model there, as `/health` and `/providers` show it, as of the moment asked
    about.

    `retry_at` is when an open circuit reads half_open; both times are seconds of the monotonic
    clock and `None` once they have passed. `last_error` is the sentence of the last failure
    since the last success. `why` it rests, if it does.
    """

    state: Literal["closed", "open", "half_open"]
    failure_count: int
    retry_at: float | None
    resting_until: float | None
    last_error: str | None
    why: Reason | None = None


_Key: TypeAlias = tuple[str, str | None]
"""A provider, and a model there or `None` for all of it."""


class Board:
    """The circuits and rests of all providers and their models, by name.

    Every method is one synchronous step: between admission and dispatch nothing else happens.
    A name never heard of is healthy.
    """

    def __init__(self, *, failures: int, open_seconds: float) -> None:
        self._limits = Limits(failures, open_seconds)
        self._first_generation = 0
        self._states: dict[_Key, State] = {}
        self._errors: dict[_Key, str] = {}
        self._rests = Rests()
        self._tickets = 0
        self._outstanding: set[int] = set()

    def _state(self, key: _Key) -> State:
        return self._states.get(key) or Closed(0, self._first_generation)

    def admit(self, name: str, model: str, now: float) -> Admitted | Refused:
        """Ask to send one request for `model` to `name`; takes the probe's slot, or both, if that
        is what it gets."""
        of_all, of_part = self._states.get((name, None)), self._states.get((name, model))
        rest, probe = self._rests.longest(name, model, now), False
        # Nearly always all is known and well, and nobody need be asked.
        if not (rest is None and isinstance(of_all, Closed) and isinstance(of_part, Closed)):
            asked = self._ask(name, model, rest, now)
            if not isinstance(asked, tuple):
                return asked
            of_all, of_part = asked
            probe = isinstance(of_all, HalfOpen) or isinstance(of_part, HalfOpen)
        self._tickets = number = self._tickets + 1
        self._outstanding.add(number)
        generations = (of_all.generation, of_part.generation)
        return Admitted(Ticket(number, name, model, generations, probe))

    def _ask(
        self, name: str, model: str, rest: tuple[float, Reason] | None, now: float
    ) -> tuple[State, State] | Refused:
        """The circuits of all of it and of the model there, which let the request through."""
        whole, part = (name, None), (name, model)
        of_all, refused_all = admit(self._state(whole), now)
        of_part, refused_part = admit(self._state(part), now)
        refused = _worst((refused_all, refused_part), rest, now)
        if refused is not None:
            return refused
        self._make_room()
        self._states[whole], self._states[part] = of_all, of_part
        return of_all, of_part

    def renew(self, ticket: Ticket, name: str, model: str, now: float) -> Admitted | Resting | None:
        """Ask to send again with a ticket that is still out.

        It serves all tries of the same model at the same provider as long as their circuits stay
        closed. None: it does not serve this one; give it back, and ask for another.
        """
        view = self.circuit(name, model, now)
        if (ticket.provider, ticket.model) != (name, model) or view.state != "closed":
            return None
        if view.resting_until is None or view.why is None:
            return Admitted(ticket)
        return Resting(view.resting_until, view.why)

    def _make_room(self) -> None:
        if len(self._states) >= MOST_CIRCUITS:
            healthy = (key for key, state in self._states.items() if state == Closed(0, 0))
            for key in list(healthy)[: MOST_CIRCUITS // 2]:
                del self._states[key]

    def settle(
        self, ticket: Ticket, outcome: Outcome, now: float, *, error: str | None = None
    ) -> tuple[Turned, ...]:
        """Give the ticket back with what the request has shown; returns the circuits that opened
        or closed by it.

        `error` is our own sentence about a failure. Raises `LocalProtocolError` if the ticket
        has been given back before.
        """
        if ticket.number not in self._outstanding:
            raise LocalProtocolError(f"ticket {ticket.number} was settled before")
        self._outstanding.remove(ticket.number)
        shown_all, shown_part = SHOWS[outcome]
        of_all, of_part = ticket.generations
        whole = self._settle((ticket.provider, None), shown_all, now, of_all, error)
        part = self._settle((ticket.provider, ticket.model), shown_part, now, of_part, error)
        if whole is None and part is None:
            return ()
        return tuple(turned for turned in (whole, part) if turned is not None)

    def _settle(
        self, key: _Key, outcome: Outcome, now: float, generation: int, error: str | None
    ) -> Turned | None:
        before = self._state(key)
        if before.generation != generation:
            return None
        if outcome is Outcome.SUCCESS:
            if self._errors:
                self._errors.pop(key, None)
            if isinstance(before, Closed) and not before.failures:
                return None  # as nearly always: what is well stays well
        after = settle(before, outcome, now, generation=generation, limits=self._limits)
        self._states[key] = after
        if outcome is Outcome.FAILURE and error is not None:
            self._errors.pop(key, None)  # the newest stands last
            self._errors[key] = error
        match after:
            case Open(until=until) if not isinstance(before, Open):
                return Turned(*key, until, after.failures)
            case Closed() if not isinstance(before, Closed):
                return Turned(*key, None, before.failures)
            case _:
                return None

    def rest(self, name: str, model: str | None, until: float, now: float, why: Reason) -> None:
        """Leave `model` at `name`, or all of it, alone until then (`Rests.rest`)."""
        self._rests.rest(name, model, until, now, why)

    def doubt(self, name: str, now: float, why: Reason) -> None:
        """The key or the path of `name` was refused (`Rests.doubt`)."""
        self._rests.doubt(name, now, why)

    def overcharged(self, name: str, model: str | None, until: float) -> None:
        """`model` at `name`, or all of it, costs more than it should (`Rests.overcharged`)."""
        self._rests.overcharged(name, model, until)

    def answered(self, name: str) -> None:
        """An answer came from `name`: its key and path are good."""
        self._rests.answered(name)

    def circuit(self, name: str, model: str, now: float) -> CircuitView:
        """What a request for `model` at `name` meets: the worse of the two circuits."""
        whole, part = ((name, None), (name, model))
        worse = max(self._view(whole, now), self._view(part, now), key=_badness)
        return self._with_rest(worse, name, model, now)

    def view(self, name: str, now: float) -> CircuitView:
        """How `name` stands now: as its own circuit and rest, or as the best of its models in use
        where that is worse. A circuit whose time is over reads half_open without traffic."""
        own = self._view((name, None), now)
        models = [self._view(key, now) for key in self._in_use(name)]
        if models:
            best = min(models, key=_badness)
            if _badness(best) > _badness(own):
                own = best
            errors = [error for (of, _), error in self._errors.items() if of == name]
            own = replace(
                own,
                failure_count=max(own.failure_count, *(each.failure_count for each in models)),
                last_error=errors[-1] if errors else None,
            )
        shown = self._with_rest(own, name, None, now)
        if shown.resting_until is None and models:
            rests = [self._rests.longest(name, model, now) for _, model in self._in_use(name)]
            met = [rest for rest in rests if rest is not None]
            if len(met) == len(rests):
                shown = replace(shown, resting_until=min(met)[0], why=min(met)[1])
        return shown

    def sick(self, name: str, now: float) -> dict[str, CircuitView]:
        """The models of `name` whose circuits are not closed."""
        views = {model: self._view((of, model), now) for of, model in self._in_use(name)}
        return {model: view for model, view in views.items() if model and view.state != "closed"}

    def _in_use(self, name: str) -> list[_Key]:
        return [key for key in self._states if key[0] == name and key[1] is not None]

    def _view(self, key: _Key, now: float) -> CircuitView:
        state = self._state(key)
        retry_at: float | None = None
        shown: Literal["closed", "open", "half_open"]
        match state:
            case Closed():
                shown = "closed"
            case Open(until=until) if now < until:
                shown, retry_at = "open", until
            case Open() | HalfOpen():
                shown = "half_open"
        return CircuitView(shown, state.failures, retry_at, None, self._errors.get(key))

    def _with_rest(
        self, view: CircuitView, name: str, model: str | None, now: float
    ) -> CircuitView:
        rest = self._rests.longest(name, model, now)
        return view if rest is None else replace(view, resting_until=rest[0], why=rest[1])

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
        gone = [key for key in self._states if key[0] not in kept]
        self._first_generation = 1 + max(
            (self._first_generation, *(self._states[key].generation for key in gone))
        )
        for key in gone:
            del self._states[key]
        for key in [key for key in self._errors if key[0] not in kept]:
            del self._errors[key]
        self._rests.retain(kept)


def _worst(
    refusals: tuple[CircuitOpen | Probing | None, ...],
    rest: tuple[float, Reason] | None,
    now: float,
) -> Refused | None:
    """What a request is told that both circuits and a rest may keep out."""
    if rest is not None and rest[1] is Reason.OVERCHARGE:
        return Resting(*rest)  # its circuit closes sooner
    opens = [refused.until for refused in refusals if isinstance(refused, CircuitOpen)]
    if opens:
        return CircuitOpen(max(*opens, now if rest is None else rest[0]))
    if rest is not None:
        return Resting(*rest)
    return next((refused for refused in refusals if refused is not None), None)


def _badness(view: CircuitView) -> tuple[int, float, int]:
    """Worse is more; of two that are open, the one that is open longer."""
    rank = ("closed", "half_open", "open").index(view.state)
    return rank, view.retry_at or 0.0, view.failure_count

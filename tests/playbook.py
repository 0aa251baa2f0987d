"""Conversations with a decision machine, written down as lists of (event, expected command).

    BOOKS = [
        Playbook(
            "a refused connection is tried again after a backoff",
            Attempt(...),
            [(AttemptFailed(not_sent), Sleep(0.375, 0.625)), (Elapsed(), Attempt(...))],
        ),
    ]

    @pytest.mark.parametrize("book", playbooks(BOOKS))
    def test_playbook(book): play(machine, book, show=...)

The first expectation, of `start()`, is `first`. An event may be a triple with a `now` before the
command; without one no time passes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pytest
from _pytest.mark import ParameterSet

E_contra = TypeVar("E_contra", contravariant=True)
C_co = TypeVar("C_co", covariant=True)


class Machine(Protocol[E_contra, C_co]):
    """One event in, one command out."""

    def start(self) -> C_co: ...
    def handle(self, event: E_contra, now: float) -> C_co: ...


@dataclass(frozen=True)
class Playbook:
    """One conversation; `setup` is what the machine is made with."""

    sentence: str
    first: object
    steps: Sequence[tuple[Any, object] | tuple[Any, float, object]]
    setup: dict[str, Any] = field(default_factory=dict)


def playbooks(books: Iterable[Playbook]) -> list[ParameterSet]:
    """The books as pytest parameters, each under its sentence."""
    return [pytest.param(book, id=book.sentence) for book in books]


def play(machine: Machine[Any, Any], book: Playbook, *, show: Callable[[Any], object]) -> None:
    """Run the conversation; `show` turns a command into what the book says."""
    now = 0.0
    assert show(machine.start()) == book.first, "start"
    for number, step in enumerate(book.steps, 1):
        if len(step) == 3:
            event, now, expected = step
        else:
            event, expected = step
        assert show(machine.handle(event, now)) == expected, f"step {number}: {event}"

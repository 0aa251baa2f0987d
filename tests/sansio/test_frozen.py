"""A value is equal by its fields, hashed by them, and mypy lets nobody change it.

That is checked by what mypy ignores here: under `warn_unused_ignores` a line that it would let pass
is an error of its own.
"""

import pickle
from dataclasses import field, fields, replace
from typing import final

import pytest

from arbstr.sansio.frozen import dataclass


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """A value."""

    left: int
    right: str = "r"
    secret: str = field(default="s", repr=False)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """One that is itself and no other."""

    name: str


@final
@dataclass(slots=True)
class State:
    """What may change."""

    count: int


def change(pair: Pair) -> None:
    """What mypy refuses."""
    pair.left = 2  # type: ignore[misc]


def test_values_are_equal_and_hashed_by_their_fields() -> None:
    assert Pair(1) == Pair(1, "r") != Pair(2)
    assert len({Pair(1), Pair(1), Pair(1, "x")}) == 2
    assert pickle.loads(pickle.dumps(Pair(1))) == Pair(1)
    assert repr(Pair(1)) == "Pair(left=1, right='r')"


def test_they_are_replaced_and_matched_as_any_dataclass() -> None:
    assert replace(Pair(1), right="x") == Pair(1, "x")
    assert [each.name for each in fields(Pair)] == ["left", "right", "secret"]
    match Pair(1, "x"):
        case Pair(left, right):
            assert (left, right) == (1, "x")


def test_they_take_no_other_name() -> None:
    with pytest.raises(AttributeError):
        Pair(1).middle = 3  # type: ignore[attr-defined]


def test_without_eq_each_is_itself() -> None:
    one, other = Thing("a"), Thing("a")
    assert one != other
    assert len({one, other}) == 2


def test_what_may_change_has_no_hash() -> None:
    with pytest.raises(TypeError):
        hash(State(1))

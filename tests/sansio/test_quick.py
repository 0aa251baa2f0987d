"""`quick` changes how long it takes to make a value, and nothing else of it."""

import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace
from typing import final

import pytest

from arbstr.sansio.quick import quick


@dataclass(frozen=True, slots=True)
class Usual:
    """As Python makes it."""

    name: str
    size: int
    secret: str = field(repr=False)
    kind: str = "plain"
    of: tuple[int, ...] = ()


@final
@quick
@dataclass(frozen=True, slots=True)
class Quick:
    """The same, made quickly."""

    name: str
    size: int
    secret: str = field(repr=False)
    kind: str = "plain"
    of: tuple[int, ...] = ()


@quick
@dataclass(frozen=True, slots=True)
class Base:
    """Of which there are more."""

    name: str
    size: int = 0


@final
@quick
@dataclass(frozen=True, slots=True)
class Derived(Base):
    """One of these."""

    kind: str = "derived"


def test_a_value_is_as_python_would_have_made_it() -> None:
    made, usual = Quick("a", 1, "s", of=(1, 2)), Usual("a", 1, "s", of=(1, 2))
    assert type(made) is Quick
    assert asdict(made) == asdict(usual)
    assert repr(made) == repr(usual).replace("Usual", "Quick")
    assert made == Quick("a", 1, "s", "plain", (1, 2)) != Quick("b", 1, "s")
    assert hash(made) == hash(usual)
    assert replace(made, size=2) == Quick("a", 2, "s", of=(1, 2))
    assert pickle.loads(pickle.dumps(made)) == made
    match made:
        case Quick(name, 1, kind=kind):
            assert (name, kind) == ("a", "plain")
        case _:
            pytest.fail("it does not match")
    assert not hasattr(made, "__dict__")


def test_it_is_frozen() -> None:
    made = Quick("a", 1, "s")
    with pytest.raises(FrozenInstanceError):
        made.size = 2  # type: ignore[misc]  # what is tried here
    with pytest.raises(FrozenInstanceError):
        del made.size
    assert made == Quick("a", 1, "s")


def test_its_parameters_are_those_it_had() -> None:
    assert inspect.signature(Quick) == inspect.signature(Usual)
    with pytest.raises(TypeError, match=r"Quick\.__init__\(\) missing 2 .* 'size' and 'secret'"):
        Quick("a")  # type: ignore[call-arg]  # what is tried here
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        Quick("a", 1, "s", colour="red")  # type: ignore[call-arg]  # what is tried here


def test_one_may_derive_from_another() -> None:
    made = Derived("a", 1)
    assert type(made) is Derived
    assert asdict(made) == {"name": "a", "size": 1, "kind": "derived"}
    assert isinstance(made, Base)
    assert type(Base("a")) is Base
    with pytest.raises(FrozenInstanceError):
        made.name = "b"  # type: ignore[misc]  # what is tried here


def test_what_takes_more_than_assignments_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Listing:
        of: list[int] = field(default_factory=list)

    @dataclass(frozen=True, slots=True)
    class Checked:
        size: int

        def __post_init__(self) -> None: ...

    for each in (Listing, Checked, int):
        with pytest.raises(TypeError):
            quick(each)

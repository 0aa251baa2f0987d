"""What pip is promised: that every Python we name gets libraries that work together.

Whether they do is shown by `.ci/run`, which installs the wheel on each of these Pythons that the
machine has. Here is held, from the metadata of what is installed, that there is a choice of
versions for each of them, and what keeps tomorrow's release of a library from breaking it.
"""

import runpy
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, final

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]
INTERPRETERS: Final = runpy.run_path(str(ROOT / ".ci" / "interpreters.py"))
OWN: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"

OURS: Final[dict[str, SpecifierSet]] = {
    canonicalize_name(each.name): each.specifier
    for each in map(Requirement, PROJECT["dependencies"])
}
EXACT: Final = sorted(name for name, bounds in OURS.items() if str(bounds).startswith("=="))


def needed_by(distribution: str) -> list[str]:
    """The distributions it requires on this Python, but for its extras."""
    every = map(Requirement, requires(distribution) or ())
    here = (each for each in every if each.marker is None or each.marker.evaluate({"extra": ""}))
    return [canonicalize_name(each.name) for each in here]


@pytest.mark.parametrize("exact", EXACT)
def test_what_an_exact_pin_depends_on_has_an_upper_bound_too(exact: str) -> None:
    needed = needed_by(exact)
    assert needed
    bounded = {
        name
        for name, bounds in OURS.items()
        if any(bound.operator in ("==", "<") for bound in bounds)
    }
    assert [name for name in needed if name not in bounded] == []


def test_the_server_is_pinned_exactly() -> None:
    assert set(EXACT) >= {"hypercorn", "quart", "quart-trio"}


@pytest.mark.parametrize("name", EXACT)
def test_what_is_installed_is_what_is_pinned(name: str) -> None:
    assert version(name) in OURS[name]


def test_the_classifiers_begin_where_requires_python_does() -> None:
    assert PROJECT["requires-python"] == f">={INTERPRETERS['promised']()[0]}"


@final
@dataclass(frozen=True, slots=True)
class Resolution:
    """What some requirements come to on a Python, if every version is the one installed here."""

    python: str
    names: frozenset[str]
    """Of the distributions, ours not among them."""
    absent: frozenset[str]
    """Those of them that are not installed here."""
    wrong: tuple[str, ...]
    """Why pip would refuse that: a bound that is not kept, a Python that is not taken."""


def resolve(python: str, requirements: Iterable[str]) -> Resolution:
    """Follows them through the metadata, with the markers of that Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    absent: set[str] = set()
    wrong: list[str] = []
    seen: set[tuple[str, str]] = set()
    open_ends = [("arbstr", "", requirement) for requirement in requirements]
    while open_ends:
        whose, extra, text = open_ends.pop()
        needed = Requirement(text)
        if needed.marker and not needed.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(needed.name)
        new = {(name, each) for each in ("", *needed.extras)} - seen
        seen |= new
        try:
            found = distribution(name)
        except PackageNotFoundError:
            absent.add(name)
            continue
        if not needed.specifier.contains(found.version, prereleases=True):
            wrong.append(f"{whose} needs {text}, and there is {found.version}")
        told = found.metadata
        # What is not there warns from Python 3.12 on, and the protocol of its type has no `get`.
        pythons = told["Requires-Python"] if "Requires-Python" in told else ""  # noqa: SIM401
        if not SpecifierSet(pythons).contains(f"{python}.0"):
            wrong.append(f"{name} {found.version} needs Python {pythons}")
        open_ends += [(name, of, each) for _, of in new for each in found.requires or ()]
    return Resolution(python, frozenset(name for name, _ in seen), frozenset(absent), tuple(wrong))


EVERYTHING: Final = (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])


@pytest.mark.parametrize("python", INTERPRETERS["promised"]())
@pytest.mark.parametrize(
    "requirements", [PROJECT["dependencies"], EVERYTHING], ids=["arbstr", "with dev"]
)
def test_there_is_a_choice_of_versions_for_every_python_we_promise(
    python: str, requirements: Sequence[str]
) -> None:
    there, here = resolve(python, requirements), resolve(OWN, requirements)
    assert there.wrong == ()
    assert {"hypercorn", "quart", "h11", "flask", "pydantic-core"} <= there.names
    # Nothing is known of what only that Python needs.
    assert there.absent <= there.names - here.names


def test_a_version_that_a_python_does_not_take_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was with Quart 0.23, which needs Python 3.13."""
    real = distribution

    def of_tomorrow(name: str) -> object:
        found = real(name)
        if name != "quart":
            return found
        metadata = {"Requires-Python": ">=3.13"}
        return SimpleNamespace(version="0.23.0", metadata=metadata, requires=found.requires)

    monkeypatch.setitem(globals(), "distribution", of_tomorrow)
    old, new = (resolve(python, PROJECT["dependencies"]) for python in ("3.12", "3.13"))
    pinned = {"arbstr needs quart==0.22.0, and there is 0.23.0"}
    assert set(new.wrong) >= pinned
    assert set(old.wrong) - set(new.wrong) == {"quart 0.23.0 needs Python >=3.13"}


# -- how .ci/run finds a Python --------------------------------------------------------------------


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)
    return path


def test_a_shim_that_fails_is_passed_over_for_the_version_behind_it(tmp_path: Path) -> None:
    script(tmp_path / "shims" / f"python{OWN}", "exit 127")
    other = script(tmp_path / "usr" / f"python{OWN}", "echo 2.7")
    real = script(tmp_path / ".pyenv" / "versions" / f"{OWN}.9" / "bin" / "python", f"echo {OWN}")
    environ = {"PATH": f"{tmp_path / 'shims'}:{other.parent}", "HOME": str(tmp_path)}
    assert INTERPRETERS["find"](OWN, environ) == real


def test_a_python_on_the_path_is_found_first_and_one_that_is_nowhere_is_none(
    tmp_path: Path,
) -> None:
    real = script(tmp_path / f"python{OWN}", f'exec "{sys.executable}" "$@"')
    environ = {"PATH": f"/nowhere:{tmp_path}", "HOME": str(tmp_path)}
    assert INTERPRETERS["find"](OWN, environ) == real
    assert INTERPRETERS["find"]("3.99", environ) is None

"""What pip is promised: that every Python we name gets libraries that work together.

Whether they do is shown by `.ci/run`, which installs the wheel on each of these Pythons that the
machine has; here is held what keeps tomorrow's release of a library from breaking it.
"""

import runpy
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]
INTERPRETERS: Final = runpy.run_path(str(ROOT / ".ci" / "interpreters.py"))


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


# -- how .ci/run finds a Python --------------------------------------------------------------------

OWN: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"


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

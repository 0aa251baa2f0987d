"""The Pythons that pyproject.toml promises, as far as this machine has them. For .ci/run.

Prints a line for each that is found, `3.13 /path/of/python`; says on standard error which are not.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

IS_IT: Final = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
"""What a Python has to manage; Debian's own may lack ensurepip, and then makes no environment."""


def promised() -> list[str]:
    """The versions that the classifiers name, oldest first: `3.11`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = (
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c)
        for c in project["classifiers"]
    )
    return [match[1] for match in found if match]


def candidates(version: str, environ: Mapping[str, str]) -> Iterator[Path]:
    """Where a Python of that version may be: on PATH, and where pyenv keeps them."""
    for folder in environ.get("PATH", "").split(os.pathsep):
        if folder:
            yield Path(folder, f"python{version}")
    pyenv = Path(environ.get("PYENV_ROOT") or Path(environ.get("HOME", "/"), ".pyenv"))
    for folder in sorted(pyenv.glob(f"versions/{version}.*")):
        yield folder / "bin" / "python"


def works(python: Path, version: str) -> bool:
    """Whether it is one. A shim of pyenv is there for versions that are not chosen, and fails."""
    try:
        done = subprocess.run(
            [python, "-c", IS_IT], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError:
        return False
    return (done.returncode, done.stdout.strip()) == (0, version)


def find(version: str, environ: Mapping[str, str]) -> Path | None:
    """The first that works."""
    return next((each for each in candidates(version, environ) if works(each, version)), None)


def main() -> None:
    """Prints those found, and names the others."""
    for version in promised():
        python = find(version, os.environ)
        if python is None:
            print(f"Python {version} is promised, and not on this machine", file=sys.stderr)
        else:
            print(version, python)


if __name__ == "__main__":
    main()

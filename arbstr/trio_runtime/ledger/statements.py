"""The SQL of `sql/`: found, and read."""

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path


def sql_directory(package: Traversable) -> Traversable:
    """Where the SQL lies: in the package (a wheel), or beside it (a source tree).

    Raises `FileNotFoundError` for a broken installation.
    """
    inside = package.joinpath("sql")
    if inside.is_dir():
        return inside
    if isinstance(package, Path) and (beside := package.parent / "sql").is_dir():
        return beside
    raise FileNotFoundError(f"arbstr's sql/ directory is neither in nor beside {package}")


@cache
def read_sql(name: str) -> str:
    """The text of `sql/<name>.sql`: one file a named query."""
    return sql_directory(files("arbstr")).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def numbered(directory: Traversable) -> dict[int, str]:
    """The scripts `NNNN_what.sql` there, by their numbers.

    Raises `ValueError` for a double: the number is what a database remembers.
    """
    names = sorted(
        entry.name for entry in directory.iterdir() if re.match(r"\d{4}_.*\.sql$", entry.name)
    )
    found = {int(name[:4]): directory.joinpath(name).read_text(encoding="utf-8") for name in names}
    if len(found) < len(names):
        raise ValueError(f"two migrations have the same number: {names}")
    return found


def read_migrations(directory: Traversable) -> tuple[str, ...]:
    """Those of SQLite in order; the first is number 1, and none is missing.

    Raises `ValueError` for a gap, too.
    """
    found = numbered(directory)
    if list(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations are not numbered 1, 2, 3: {list(found)}")
    return tuple(found.values())


@cache
def own_migrations() -> tuple[str, ...]:
    """Those of SQLite that this arbstr brings."""
    return read_migrations(sql_directory(files("arbstr")))

"""The SQL of `sql/`: found, read, and taken apart into statements."""

import re
import sqlite3
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


def read_sql(name: str) -> str:
    """The text of `sql/<name>.sql`: one file a named query."""
    return sql_directory(files("arbstr")).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def read_migrations(directory: Traversable) -> tuple[str, ...]:
    """The scripts `NNNN_what.sql` in order; the first is number 1, and none is missing.

    Raises `ValueError` for a gap or a double: the number is what a database remembers.
    """
    names = sorted(
        entry.name for entry in directory.iterdir() if re.match(r"\d{4}_.*\.sql$", entry.name)
    )
    if [int(name[:4]) for name in names] != list(range(1, len(names) + 1)):
        raise ValueError(f"the migrations are not numbered 1, 2, 3: {names}")
    return tuple(directory.joinpath(name).read_text(encoding="utf-8") for name in names)


def split_statements(script: str) -> tuple[str, ...]:
    """The statements of a script, because `executescript` would commit our transaction.

    What follows the last semicolon is a statement too; SQLite takes a lone comment for nothing.
    """
    found: list[str] = []
    statement = ""
    for piece in re.split(r"(?<=;)", script):
        statement += piece
        # A semicolon in a text, a comment or a trigger's body does not complete it.
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    if statement.strip():
        found.append(statement)
    return tuple(found)

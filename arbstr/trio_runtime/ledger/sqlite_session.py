"""A connection to SQLite as the ledger's work gets it: `port.Session`.

It is sqlite3's own connection with four methods more, so that `execute` costs nothing extra.
"""

import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain
from typing import Final, final

from arbstr.trio_runtime.ledger.port import Row
from arbstr.trio_runtime.ledger.statements import read_sql

SIZES: Final = (25, 5, 1)
"""Rows a statement, from the largest that fits the rest. 25 of 26 columns are 650 parameters, which
every SQLite takes (999 until 3.32); 80 rows saved 1 us a record against 40 (measured)."""

FREED_PAGES: Final = 200
"""Pages of 4 kB given back to the file system by one batch: more than its rows take, so that a
file that is full of free pages shrinks as well."""


if sys.version_info < (3, 13):
    # Until then sqlite3 looks in four places for who could adapt a None, and each says in words
    # that it cannot: 1.3 us, for a third of what a row has. Now the first knows, in 0.3.
    sqlite3.register_adapter(type(None), lambda none: none)


@final
class SqliteSession(sqlite3.Connection):
    """`sqlite3.connect(..., factory=SqliteSession)`."""

    def question(self, name: str, /) -> str:
        """As `port.Session`: `sql/` is in SQLite's words."""
        return read_sql(name)

    def insert(self, question: str, columns: Sequence[str], rows: Sequence[Row], /) -> int:
        """As `port.Session`. The question has `{columns}` and `{rows}`, perhaps `{updates}`."""
        names = tuple(columns)
        return sum(
            self.execute(_insert(question, names, len(some)), [*chain.from_iterable(some)]).rowcount
            for some in _portions(rows)
        )

    def is_trouble(self, error: Exception, /) -> bool:
        """As `port.Session`."""
        return isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error,
            sqlite3.DataError | sqlite3.IntegrityError | sqlite3.ProgrammingError,
        )

    def give_back(self) -> None:
        """As `port.Session`."""
        (free,) = self.execute("PRAGMA freelist_count").fetchone()
        for _ in range(min(free, FREED_PAGES)):
            # It says "a row" for each page, has no columns, and so is left after its first page
            # by Python (seen with 3.11), whatever number stands there.
            self.execute("PRAGMA incremental_vacuum(1)")


@contextmanager
def begun(session: sqlite3.Connection, begin: str) -> Iterator[None]:
    """One transaction: committed at the end, or as if it had never been."""
    session.execute(begin)
    try:
        yield
        session.execute("COMMIT")
    except BaseException:
        # SQLite has already rolled back after some errors (a full disk), and says so.
        if session.in_transaction:
            with suppress(sqlite3.Error):
                session.execute("ROLLBACK")
        raise


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


@cache
def _insert(question: str, columns: tuple[str, ...], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return read_sql(question).format(
        columns=", ".join(columns),
        rows=f"VALUES {', '.join([row] * rows)}",
        updates=", ".join(f"{name} = excluded.{name}" for name in columns),
    )


def _portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """All rows in their order, in portions of `SIZES`."""
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size

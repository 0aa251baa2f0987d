"""A connection to PostgreSQL as the ledger's work gets it: `port.Session`.

`sql/` is written for both engines; what must differ lies in `sql/postgres/`. Names and places are
called as psycopg calls them, once for each text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from typing import Any, Final, final

import psycopg

from arbstr.trio_runtime.ledger.port import Row, Rows
from arbstr.trio_runtime.ledger.statements import read_sql

FAULTS_OF_A_ROW: Final = ("22", "23")
"""Classes of SQLSTATE: a value that cannot be, a rule of the table that is broken. All others (no
connection, a lock, a full disk, a standby) pass, or are a bug of ours."""

_TOKENS: Final = re.compile(
    r"(?P<text>'(?:[^']|'')*')|(?P<comment>--[^\n]*)|(?P<cast>::)|:(?P<name>[a-z_][a-z0-9_]*)"
    r"|(?P<place>\?)|(?P<percent>%)"
)


@lru_cache(1024)
def translated(sql: str) -> str:
    """SQL with `:name` and `?` as psycopg takes it: `%(name)s` and `%s`, and no comments."""

    def put(found: re.Match[str]) -> str:
        match found.lastgroup:
            case "name":
                return f"%({found['name']})s"
            case "place":
                return "%s"
            case "percent":
                return "%%"
            case "comment":
                return ""
            case _:
                return found[0].replace("%", "%%")

    return _TOKENS.sub(put, sql)


@final
class PostgresSession:
    """Around a connection in autocommit, on which `begun` begins and ends transactions."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self.connection: Final = connection
        self._types: dict[str, Mapping[str, str]] = {}

    def execute(self, sql: str, parameters: Row | Mapping[str, object] = (), /) -> Rows:
        """As `port.Session`."""
        bound: Any
        if isinstance(parameters, Mapping):
            bound = {name: _adapted(value) for name, value in parameters.items()}
        else:
            bound = [_adapted(value) for value in parameters]
        rows: Rows = self.connection.execute(translated(sql), bound)
        return rows

    def question(self, name: str, /) -> str:
        """As `port.Session`: that of `sql/postgres/`, else the one both engines share."""
        return _question(name)

    def insert(self, question: str, columns: Sequence[str], rows: Sequence[Row], /) -> int:
        """As `port.Session`: all in one statement, a column an array."""
        if not rows:
            return 0
        text = self.question(question)
        table = re.search(r"INSERT INTO (\w+)", text)
        assert table is not None  # that is what such a question is
        types = self._types_of(table[1])
        places = ", ".join(f"?::{types[name]}[]" for name in columns)
        sql = text.format(
            columns=", ".join(columns),
            rows=f"SELECT * FROM unnest({places})",
            updates=", ".join(f"{name} = excluded.{name}" for name in columns),
        )
        is_float = [types[name] == "double precision" for name in columns]
        arrays = [
            [_number(value) if floats else _adapted(value) for value in column]
            for column, floats in zip(zip(*rows, strict=True), is_float, strict=True)
        ]
        written: int = self.connection.execute(translated(sql), arrays).rowcount
        return written

    def is_trouble(self, error: Exception, /) -> bool:
        """As `port.Session`."""
        if not isinstance(error, psycopg.Error):
            return False
        if error.sqlstate is None:  # psycopg's own, of binding or of the connection
            return not isinstance(error, psycopg.DataError | psycopg.ProgrammingError)
        return error.sqlstate[:2] not in FAULTS_OF_A_ROW

    def give_back(self) -> None:
        """As `port.Session`: autovacuum does that."""

    def _types_of(self, table: str) -> Mapping[str, str]:
        if table not in self._types:
            rows = self.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = to_regclass(?) AND attnum > 0",
                (table,),
            )
            self._types[table] = {str(name): str(kind) for name, kind in rows}
        return self._types[table]


@cache
def _question(name: str) -> str:
    try:
        return read_sql(f"postgres/{name}")
    except FileNotFoundError:
        return read_sql(name)


def _adapted(value: object) -> object:
    """A value as the columns take it: no booleans, and no text with a NUL."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and "\0" in value:
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return value


def _number(value: object) -> object:
    return float(value) if isinstance(value, int) else value


@contextmanager
def begun(session: PostgresSession, begin: str) -> Iterator[None]:
    """One transaction: committed at the end, or as if it had never been."""
    session.connection.execute(begin.encode())
    try:
        yield
        session.connection.execute("COMMIT")
    except BaseException:
        with suppress(psycopg.Error):
            session.connection.execute("ROLLBACK")
        raise

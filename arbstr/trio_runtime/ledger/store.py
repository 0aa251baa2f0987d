"""Records made into rows, inside a transaction of the caller's.

    batch --together--> a few statements of many rows each
      |
      `- NotTogether: the transaction is undone, and in a new one
    batch --one_by_one--> a savepoint for each record; what is wrong with one is its own affair

The first way is the usual one. It saves what SQLite does for each statement with triggers and for a
savepoint (copies of the pages they change), and what Python does, which gives the interpreter away
around each statement and must win it back. Measured for batches of 200 records with an attempt
each, in a new file: 32 us of CPU a record in this thread; a statement a row in a savepoint took 64.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from itertools import chain
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, TypeAlias, final

from arbstr.sansio.ledger.record import AttemptRow, Record
from arbstr.sansio.routing.ratios import NO_POLICY
from arbstr.trio_runtime.ledger.ratios import RatioTable
from arbstr.trio_runtime.ledger.statements import read_sql

Row: TypeAlias = Sequence[object]

SIZES: Final = (25, 5, 1)
"""Rows a statement, from the largest that fits the rest. 25 of 26 columns are 650 parameters, which
every SQLite takes (999 until 3.32); 80 rows saved 1 us a record against 40 (measured)."""


@final
class NotTogether(Exception):  # noqa: N818 - nothing has gone wrong with the database
    """A batch has a record that must be looked at alone."""


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """A record the database will never take, and why."""

    record: Record
    error: str


@final
class Store:
    """Writes batches of records, of which no two have the same id."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id
        self._requests = _Table(
            read_sql("upsert_request"), (*_REQUEST_COLUMNS, "attempts", "boot_id")
        )
        self._attempts = _Table(read_sql("insert_attempt"), ("correlation_id", *_ATTEMPT_COLUMNS))
        self._ratios = RatioTable()

    def together(self, batch: Sequence[Record], connection: sqlite3.Connection) -> None:
        """Writes a batch.

        Raises `NotTogether`, after which the transaction must be undone, and
        `sqlite3.DatabaseError` when it is the database that fails and not a record.
        """
        try:
            written = self._write_requests(batch, connection)
            if written == len(batch):
                self._write_rest(batch, connection)
                return
        except Exception as error:
            if _is_trouble(error):
                raise
            raise NotTogether from error
        # Some row is final already, and so are its attempts; which one, nobody has said.
        raise NotTogether

    def one_by_one(
        self, batch: Sequence[Record], connection: sqlite3.Connection
    ) -> tuple[Refused, ...]:
        """The same with a savepoint for each.

        Returns what was left out, because something is wrong with it. Raises
        `sqlite3.DatabaseError` as `together` does.
        """
        refused: list[Refused] = []
        for record in batch:
            connection.execute("SAVEPOINT record")
            try:
                if self._write_requests((record,), connection):
                    self._write_rest((record,), connection)
            # Anything at all may be wrong with a record; it must not hold up the others.
            except Exception as error:
                if _is_trouble(error):
                    raise
                connection.execute("ROLLBACK TO record")
                refused.append(Refused(record, f"{type(error).__name__}: {error}"))
            connection.execute("RELEASE record")
        return tuple(refused)

    def _write_requests(self, batch: Sequence[Record], connection: sqlite3.Connection) -> int:
        """Returns how many were written: a row that is final stays as it is."""
        return self._requests.insert(
            connection,
            [(*_adapted(_request(each)), len(each.attempts), self._boot_id) for each in batch],
        )

    def _write_rest(self, batch: Sequence[Record], connection: sqlite3.Connection) -> None:
        """What belongs to requests that were written: their attempts, and what they teach."""
        self._attempts.insert(
            connection,
            [
                (each.correlation_id, *_adapted(_attempt(attempt)))
                for each in batch
                for attempt in each.attempts
            ],
        )
        samples: dict[str, list[float]] = {}
        for record in batch:
            if record.token_ratio is not None:
                samples.setdefault(record.policy or NO_POLICY, []).append(record.token_ratio)
        for policy, learnt in samples.items():
            self._ratios.learn(connection, policy, learnt)


@final
class _Table:
    """An INSERT of some rows at once. `template` is SQL with `{columns}` and `{rows}`."""

    def __init__(self, template: str, columns: Sequence[str]) -> None:
        row = f"({', '.join('?' * len(columns))})"
        self._statements: Mapping[int, str] = MappingProxyType(
            {
                size: template.format(columns=", ".join(columns), rows=", ".join([row] * size))
                for size in SIZES
            }
        )

    def insert(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
        """Returns how many rows are new or changed."""
        return sum(
            connection.execute(self._statements[len(some)], [*chain.from_iterable(some)]).rowcount
            for some in _portions(rows)
        )


def _portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """All rows in their order, in portions of `SIZES`."""
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


_REQUEST_COLUMNS: Final = tuple(
    f.name for f in fields(Record) if f.name not in ("attempts", "token_ratio")
)
_ATTEMPT_COLUMNS: Final = tuple(f.name for f in fields(AttemptRow))
_request: Final[Callable[[Record], tuple[Any, ...]]] = attrgetter(*_REQUEST_COLUMNS)
_attempt: Final[Callable[[AttemptRow], tuple[Any, ...]]] = attrgetter(*_ATTEMPT_COLUMNS)


def _adapted(values: Row) -> list[object]:
    """The values as SQLite takes them."""
    return [
        float(value)
        if type(value) is Decimal
        # A client may name a model with half a surrogate pair, which no UTF-8 can hold.
        else value.encode("utf-8", "replace").decode()
        if type(value) is str and not value.isascii()
        else value
        for value in values
    ]


def _is_trouble(error: Exception) -> bool:
    """Whether the database failed (locked, full, broken), and not a record."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error,
        sqlite3.DataError | sqlite3.IntegrityError | sqlite3.ProgrammingError,
    )

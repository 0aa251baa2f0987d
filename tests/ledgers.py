"""Ledgers with rows of a test's own, for what is read from them.

    with memory_ledger([request("one", cost_sats=0.5, tries=[attempt(failure="no_answer")])]) as c:
        ...  c is a connection to a migrated database in memory
    write_ledger(path, [...])     the same as a file, such as an arbstr leaves it

Rows are what the columns hold, without the machines that would make them, so that a test can have
any combination.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

from arbstr.trio_runtime.ledger.port import Session
from arbstr.trio_runtime.ledger.sqlite import SqliteDatabase
from arbstr.trio_runtime.ledger.sqlite_readers import APPLICATION_ID
from arbstr.trio_runtime.ledger.sqlite_session import SqliteSession, split_statements
from arbstr.trio_runtime.ledger.statements import own_migrations

Row: TypeAlias = Mapping[str, Any]

TIMESTAMP: Final = "2026-02-03T04:05:06.789Z"

MIGRATIONS: Final = own_migrations()


def request(correlation_id: str, *, tries: Sequence[Row] = (), **columns: object) -> Row:
    """A row of `requests`: an answered one, unless the columns say otherwise, and its attempts."""
    row = {
        "correlation_id": correlation_id,
        "timestamp": TIMESTAMP,
        "model": "gpt-4o",
        "requested_model": columns.get("model", "gpt-4o"),
        "provider": "alpha",
        "policy": None,
        "endpoint": "chat",
        "moved": None,
        "joined": None,
        "streaming": 0,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": None,
        "reasoning_tokens": None,
        "cost_sats": 0.125,
        "expected_sats": 0.125,
        "estimated_cost_sats": 0.5,
        "provider_cost_sats": None,
        "latency_ms": 1200,
        "ttft_ms": None,
        "stream_duration_ms": None,
        "success": columns.get("status", "ok") == "ok",
        "answered": is_answered(tries[-1]) if tries else columns.get("status", "ok") == "ok",
        "status": "ok",
        "error_status": None,
        "error_message": None,
        "attempts": len(tries),
        "possibly_spent": sum(is_unanswered(one) for one in tries),
        "boot_id": "boot",
        **columns,
    }
    return {**row, "tries": tuple(tries)}


def attempt(**columns: object) -> Row:
    """A row of `attempts`: the answer, unless the columns say otherwise."""
    return {
        "provider": "alpha",
        "model": "gpt-4o",
        "started_at": TIMESTAMP,
        "duration_ms": 1100,
        "failure": None,
        "http_status": 200,
        "money": "spent",
        "input_tokens": None,
        "output_tokens": None,
        "cost_sats": None,
        "expected_sats": None,
        "estimated_cost_sats": 0.5,
        "provider_cost_sats": None,
        "upstream_request_id": None,
        **columns,
    }


def is_answered(row: Row) -> bool:
    """Whether an attempt brought an answer."""
    return row["failure"] is None and row["money"] is not None


def is_unanswered(row: Row) -> bool:
    """Whether an attempt may have cost without an answer."""
    return row["failure"] is not None and row["money"] != "free"


def insert(session: Session, rows: Iterable[Row]) -> None:
    """Adds requests and their attempts."""
    for row in rows:
        columns = {name: value for name, value in row.items() if name != "tries"}
        _insert(session, "requests", columns)
        insert_attempts(session, row)


def insert_attempts(session: Session, row: Row) -> None:
    """Adds the attempts of a request that is there."""
    for n, one in enumerate(row["tries"], start=1):
        place = {"correlation_id": row["correlation_id"], "n": n}
        _insert(session, "attempts", {**place, **one})


def _insert(session: Session, table: str, columns: Row) -> None:
    names = ", ".join(columns)
    places = ", ".join(f":{name}" for name in columns)
    session.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", columns)


def migrate(session: Session) -> None:
    """What a start does to a new file."""
    for script in MIGRATIONS:
        for statement in split_statements(script):
            session.execute(statement)
    session.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    session.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def connect(path: Path | str) -> SqliteSession:
    """A connection without a transaction, the caller's to close."""
    return sqlite3.connect(path, isolation_level=None, factory=SqliteSession)


@cache
def _in_memory() -> bytes:
    """A new database: to migrate one takes 14 ms, to copy it less than one."""
    with closing(connect(":memory:")) as session:
        migrate(session)
        return session.serialize()


@cache
def _in_file() -> bytes:
    """A new database as arbstr begins it."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "new.db")
        database = SqliteDatabase(str(path), "nobody")
        database._connect()
        database._disconnect()
        return path.read_bytes()


def lay_ledger(path: Path) -> None:
    """Has arbstr find a ledger that another began, without a row; one that is there stays."""
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(_in_file())


@contextmanager
def memory_ledger(rows: Iterable[Row] = ()) -> Iterator[SqliteSession]:
    """A connection to a new database in memory."""
    with closing(connect(":memory:")) as session:
        session.deserialize(_in_memory())
        insert(session, rows)
        yield session


def write_ledger(path: Path, rows: Iterable[Row] = ()) -> Path:
    """A new file, closed."""
    path.write_bytes(_in_memory())
    with closing(connect(path)) as session:
        session.execute("PRAGMA journal_mode = WAL")
        session.execute("BEGIN")
        insert(session, rows)
        session.execute("COMMIT")
    return path

"""A ledger in PostgreSQL for who only reads, and what who writes there needs as well.

    connect          a connection, whoever wants it
    read_postgres    a ledger of this arbstr, one state of it
    peek_postgres    whatever lies there

What is not ours is refused with a `StartError`; what may pass by itself is `Trouble`, in one line
of psycopg's words. `postgres`, which writes, looks at a ledger by the same rules.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

import psycopg

from arbstr.sansio.config.ledger_url import LedgerUrl
from arbstr.sansio.errors import StartError
from arbstr.trio_runtime.ledger.port import DOWNGRADED, FINISH, UNFINISHED, Trouble
from arbstr.trio_runtime.ledger.postgres_session import PostgresSession
from arbstr.trio_runtime.ledger.statements import numbered, sql_directory

T = TypeVar("T")

CONNECT_SECONDS: Final = 2
"""How long one address of the server is tried; libpq takes no less."""

OPTIONS: Final = (
    "-c search_path=arbstr -c timezone=UTC -c statement_timeout=3000 -c lock_timeout=1000 "
    "-c idle_in_transaction_session_timeout=10000"
)
"""Milliseconds; what ends a statement whose client is gone or too late."""

SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def connect(url: LedgerUrl) -> PostgresSession:
    """A new connection. Blocks. Raises `psycopg.Error`."""
    told: dict[str, Any] = {
        "host": url.host,
        "port": url.port,
        "dbname": url.name or None,
        "user": url.user or None,
        "password": None if url.password is None else url.password.reveal(),
        "connect_timeout": CONNECT_SECONDS,
        # For a thread that reads, which nobody cuts: a peer that is gone is noticed in a minute.
        "keepalives_idle": 20,
        "keepalives_interval": 10,
        "keepalives_count": 4,
        "application_name": "arbstr",
        "options": OPTIONS,
        **url.options,
    }
    return PostgresSession(
        psycopg.connect(
            **{name: value for name, value in told.items() if value is not None},
            autocommit=True,
            prepare_threshold=None,  # a pooler may give the next transaction another connection
        )
    )


def in_trouble(work: Callable[[], T]) -> T:
    """What psycopg raises is trouble; one line of it is told."""
    try:
        return work()
    except psycopg.Error as error:
        raise Trouble(
            _said(error), is_lasting=isinstance(error, psycopg.errors.DiskFull)
        ) from error


def _said(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@cache
def known_migrations() -> dict[int, str]:
    """Scripts by their numbers."""
    return numbered(sql_directory(files("arbstr")).joinpath("postgres"))


def version_of(session: PostgresSession) -> int:
    """The number of the last migration; 0 where there is no ledger."""
    # Not to_regclass, which goes on saying no where it has said so: another start may have made it
    # while this one waited for its lock.
    (there,) = session.execute(
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'arbstr' AND tablename = 'arbstr_schema'"
    ).fetchone()
    if not there:
        return 0
    (version,) = session.execute("SELECT max(version) FROM arbstr_schema").fetchone()
    return int(version or 0)


def is_older(session: PostgresSession, url: LedgerUrl) -> bool:
    """Whether the ledger, if there is one, is of an older arbstr. Raises `StartError` for one of a
    newer."""
    version, known = version_of(session), max(known_migrations())
    if version > known:
        newer = f"a newer arbstr wrote it (schema {version}, this one knows {known})"
        raise refused(url, newer, DOWNGRADED)
    return version < known


def check_whole(session: PostgresSession, url: LedgerUrl) -> None:
    """Raises `StartError` if another ledger is being moved into it."""
    (moving,) = session.execute(session.question("unfinished_move")).fetchone()
    if moving:
        raise refused(url, UNFINISHED, FINISH)


def refused(url: LedgerUrl, why: str, remedy: str) -> StartError:
    """Why a start with this ledger will not do, and what to do about it."""
    other = "choose another ledger with [database] url, [database] path or $DATABASE_URL"
    return StartError((f"database {url.shown}: {why}: {remedy}, or {other}",))


@contextmanager
def read_postgres(url: LedgerUrl) -> Iterator[PostgresSession]:
    """As `database.open_for_reading`."""
    try:
        session = connect(url)
        with session.connection:
            session.connection.execute(SNAPSHOT.encode())
            if is_older(session, url):
                older = "an older arbstr wrote it, or none yet"
                raise refused(url, older, "start `arbstr run` once, which prepares it")
            check_whole(session, url)
            yield session
            session.connection.execute("ROLLBACK")
    except psycopg.Error as error:
        raise Trouble(_said(error)) from error


@contextmanager
def peek_postgres(url: LedgerUrl) -> Iterator[PostgresSession | None]:
    """As `database.peek`."""
    try:
        session = connect(url)
        with session.connection:
            session.connection.execute(SNAPSHOT.encode())
            yield session if version_of(session) else None
            session.connection.execute("ROLLBACK")
    except psycopg.Error as error:
        raise Trouble(_said(error)) from error

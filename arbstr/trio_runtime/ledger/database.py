"""Which ledger: a place, and the engine that keeps one there.

$DATABASE_URL, [database] path --database_path--> a place --open_database--> port.Database
                                                          --open_for_reading--> port.Session
"""

import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final

from arbstr.sansio.config.ledger_url import is_ledger_url, parse_ledger_url
from arbstr.sansio.errors import ConfigError, StartError
from arbstr.trio_runtime.ledger.port import Database, Session
from arbstr.trio_runtime.ledger.sqlite import IN_MEMORY, open_sqlite
from arbstr.trio_runtime.ledger.sqlite_readers import peek_sqlite, read_sqlite

__all__ = [
    "IN_MEMORY",
    "beside",
    "database_path",
    "is_shared",
    "named_place",
    "open_database",
    "open_for_reading",
    "peek",
    "shown",
]


_NO_DRIVER: Final = "a ledger in PostgreSQL needs its driver: pip install 'arbstr[postgres]'"


def database_path(environ: Mapping[str, str], configured: str) -> str:
    """`$DATABASE_URL`, as `named_place` takes it, else `configured`.

    Raises `ConfigError` as that does.
    """
    url = environ.get("DATABASE_URL", "")
    return named_place(url, "DATABASE_URL") if url else _with_driver(configured)


def named_place(text: str, name: str) -> str:
    """Where a ledger is, said outside a configuration: a path, `sqlite:///path` or
    `postgresql://...`. `name` is of what said so.

    Raises `ConfigError` for every other URL, without its text: it may hold a password. Also for
    PostgreSQL without its driver.
    """
    if is_ledger_url(text):
        try:
            parse_ledger_url(text)
        except ValueError as error:
            raise ConfigError((f"{name}: {error}",)) from None
        return _with_driver(text)
    if text.startswith("sqlite:///") and len(text) > len("sqlite:///") and "?" not in text:
        return text.removeprefix("sqlite:///")
    # Two letters at least, so that C:\arbstr.db stays a path.
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)
    if scheme and (text.startswith("//", scheme.end()) or scheme[1].lower() in ("sqlite", "file")):
        raise ConfigError(
            (
                f"{name}: a {scheme[1]}: URL of this form cannot be used: "
                "give a path, sqlite:///path without parameters, or postgresql://...",
            )
        )
    return text


def shown(place: str) -> str:
    """A place for a person to read: without a password."""
    return parse_ledger_url(place).shown if is_ledger_url(place) else place


def is_shared(place: str) -> bool:
    """Whether several machines may keep their ledger there, and share the day's budget."""
    return is_ledger_url(place)


def beside(place: str) -> str | None:
    """How the names of files begin that belong to the ledger there; None: it keeps nothing."""
    if is_ledger_url(place):
        # What is elsewhere has files of this machine's in the user's state directory.
        url, state = parse_ledger_url(place), os.environ.get("XDG_STATE_HOME", "")
        base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
        name = sha256(f"{url.host}:{url.port}/{url.name or url.user}".encode()).hexdigest()[:12]
        return str(base / "arbstr" / f"ledger-{name}")
    return None if place == IN_MEMORY else place


def _with_driver(place: str) -> str:
    if is_ledger_url(place) and find_spec("psycopg") is None:
        raise ConfigError((_NO_DRIVER,))
    return place


def _postgres(part: str) -> ModuleType:
    """The engine, loaded by who needs it: 90 ms and 25 MB. Raises `ConfigError` without it."""
    try:
        return import_module(f"arbstr.trio_runtime.ledger.{part}")
    except ImportError:
        raise ConfigError((_NO_DRIVER,)) from None


@asynccontextmanager
async def open_database(
    place: str, *, boot_id: str | None = None, wait: bool = False, unfinished: bool = False
) -> AsyncIterator[Database]:
    """The ledger at `place` (`IN_MEMORY`: gone with this process).

    `boot_id` is drawn unless given. Raises `StartError` for one that cannot be used, also for a
    server that is not there, unless it is to `wait` for that, and for one into which another is
    being moved, unless it may be `unfinished`.
    """
    if is_ledger_url(place):
        async with _postgres("postgres").open_postgres(
            parse_ledger_url(place), beside(place), boot_id, wait=wait, unfinished=unfinished
        ) as database:
            yield database
    else:
        async with open_sqlite(place, boot_id, unfinished=unfinished) as database:
            yield database


@contextmanager
def open_for_reading(place: str) -> Iterator[Session]:
    """One state of a ledger that a running arbstr may be writing. Blocks.

    Raises `StartError` if there is nothing to read, `Trouble` if it cannot be read now.
    """
    if place == IN_MEMORY:
        raise StartError(
            ("the ledger is kept in memory: ask the arbstr that has it, by GET /v1/stats",)
        )
    with (
        _postgres("postgres_readers").read_postgres(parse_ledger_url(place))
        if is_ledger_url(place)
        else read_sqlite(place)
    ) as session:
        yield session


@contextmanager
def peek(place: str) -> Iterator[Session | None]:
    """A ledger as it is, whether this arbstr can use it or not; None if there is none. Blocks.

    Raises `Trouble` if it cannot be read.
    """
    with (
        _postgres("postgres_readers").peek_postgres(parse_ledger_url(place))
        if is_ledger_url(place)
        else peek_sqlite(place)
    ) as session:
        yield session

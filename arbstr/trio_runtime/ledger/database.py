"""Which ledger: a place, and the engine that keeps one there.

$DATABASE_URL, [database] path --database_path--> a place --open_database--> port.Database
                                                          --open_for_reading--> port.Session
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from arbstr.sansio.errors import ConfigError
from arbstr.trio_runtime.ledger.port import Database, Session
from arbstr.trio_runtime.ledger.sqlite import IN_MEMORY, open_sqlite, peek_sqlite, read_sqlite

__all__ = ["IN_MEMORY", "database_path", "open_database", "open_for_reading", "peek"]


def database_path(environ: Mapping[str, str], configured: str) -> str:
    """`$DATABASE_URL` (a path, or `sqlite:///path`), else `configured`.

    Raises `ConfigError` for every other URL, without its text: it may hold a password.
    """
    url = environ.get("DATABASE_URL", "")
    if not url:
        return configured
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///") and "?" not in url:
        return url.removeprefix("sqlite:///")
    # Two letters at least, so that C:\arbstr.db stays a path.
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", url)
    if scheme and (url.startswith("//", scheme.end()) or scheme[1].lower() in ("sqlite", "file")):
        raise ConfigError(
            (
                f"DATABASE_URL: a {scheme[1]}: URL of this form cannot be used: "
                "give a path or sqlite:///path, without parameters",
            )
        )
    return url


@asynccontextmanager
async def open_database(place: str, *, boot_id: str | None = None) -> AsyncIterator[Database]:
    """The ledger at `place` (`IN_MEMORY`: gone with this process).

    `boot_id` is drawn unless given. Raises `StartError` for one that cannot be used.
    """
    async with open_sqlite(place, boot_id) as database:
        yield database


@contextmanager
def open_for_reading(place: str) -> Iterator[Session]:
    """One state of a ledger that a running arbstr may be writing. Blocks.

    Raises `StartError` if there is nothing to read, `Trouble` if it cannot be read now.
    """
    with read_sqlite(place) as session:
        yield session


@contextmanager
def peek(place: str) -> Iterator[Session | None]:
    """A ledger as it is, whether this arbstr can use it or not; None if there is none. Blocks.

    Raises `Trouble` if it cannot be read.
    """
    with peek_sqlite(place) as session:
        yield session

"""The SQLite file for who only reads: a command beside a running arbstr, or without one.

    read_sqlite   a ledger of this arbstr, one state of it
    read_any      of an older one as well
    peek_sqlite   whatever lies there

What is not ours is refused with a `StartError`; what may pass by itself is `Trouble`. `sqlite`,
which writes, looks at a file by the same rules.
"""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from arbstr.sansio.errors import StartError
from arbstr.trio_runtime.ledger.port import DOWNGRADED, FINISH, UNFINISHED, Trouble
from arbstr.trio_runtime.ledger.sqlite_session import SqliteSession, begun
from arbstr.trio_runtime.ledger.sqlite_soundness import primary_code
from arbstr.trio_runtime.ledger.statements import own_migrations

APPLICATION_ID: Final = 0x61726273
"""`arbs` in ASCII, in the header of each of our files (https://sqlite.org/pragma.html)."""

READING_BUSY_SECONDS: Final = 5.0
"""The same for a command that only reads, with a person waiting; picked."""

READING_CACHE_KB: Final = 8 * 1024
"""The most of the file a reader keeps in memory: what a report looks up in no order, the failed
attempts of a million requests. With SQLite's default of 2 MB that takes half as long again
(measured)."""

HOPELESS: Final = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
    }
)
"""Primary result codes that waiting does not mend, so that a start with them is refused."""


IS_DIRECTORY: Final = "it is a directory"

MAY_READ: Final = "see who may read it, and the directories it lies in"


def refused(path: str, why: str, remedy: str = "") -> StartError:
    """Why a start with this file will not do, and what to do about it."""
    other = "choose another file with [database] path or $DATABASE_URL"
    return StartError((f"database {path}: {why}: {f'{remedy}, or ' if remedy else ''}{other}",))


def check_content(
    connection: SqliteSession, path: str, known: int, *, unfinished: bool = False
) -> None:
    """Refuse what is not ours, before anything in it changes; a ledger into which another is being
    moved only unless it may be `unfinished`."""
    # One read transaction: a process that starts beside us creates everything in one commit.
    with begun(connection, "BEGIN"):
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (moving,) = connection.execute(connection.question("unfinished_move")).fetchone()
    if application_id != APPLICATION_ID and (application_id or tables):
        raise refused(path, "it belongs to another program")
    if version > known:
        newer = f"a newer arbstr wrote it (schema {version}, this one knows {known})"
        raise refused(path, newer, DOWNGRADED)
    if moving and not unfinished:
        raise refused(path, UNFINISHED, FINISH)


def read_only(uri: str, busy_seconds: float) -> SqliteSession:
    """A new connection that writes nothing and reads nothing yet. Raises `sqlite3.Error`."""
    reader = sqlite3.connect(
        uri,
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
        factory=SqliteSession,
    )
    reader.execute("PRAGMA query_only = 1")
    return reader


@contextmanager
def snapshot(reader: SqliteSession) -> Iterator[None]:
    """One state of the database for several statements."""
    # Not where a reader is made: this reads the file, which may be damaged, and is then to be told.
    reader.execute(f"PRAGMA cache_size = -{READING_CACHE_KB}")
    reader.execute("BEGIN")
    try:
        yield
    finally:
        reader.execute("ROLLBACK")  # nothing was written


@contextmanager
def peek_sqlite(path: str) -> Iterator[SqliteSession | None]:
    """As `database.peek`: a file of whatever state, and None without one."""
    if not os.path.isfile(path):
        yield None
        return
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    try:
        with closing(read_only(uri, READING_BUSY_SECONDS)) as reader:
            yield reader
    except sqlite3.Error as error:
        raise Trouble(str(error)) from error


def requests_in_wal(path: str, requests: int) -> int | None:
    """How many of its `requests` a copy of the file alone would lack, because they are in the WAL
    beside it; None if that is empty. Blocks."""
    try:
        if not os.path.getsize(f"{path}-wal"):
            return None
        # Immutable, so that SQLite takes the file for all there is.
        uri = f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1"
        with closing(read_only(uri, READING_BUSY_SECONDS)) as reader:
            (lying,) = reader.execute("SELECT count(*) FROM requests").fetchone()
    except sqlite3.Error:
        return requests  # nothing was ever folded in, or it is being done at this moment
    except OSError:
        return None
    return max(0, requests - int(lying))


@contextmanager
def read_sqlite(path: str) -> Iterator[SqliteSession]:
    """As `database.open_for_reading`."""
    path = os.path.realpath(path)
    known = len(own_migrations())
    with read_any(path) as reader:
        (version,) = reader.execute("PRAGMA user_version").fetchone()
        if version < known:
            older = "an older arbstr wrote it, or none yet"
            raise refused(path, older, "start `arbstr run` once, which prepares it")
        yield reader


def _check_file(path: str) -> None:
    """What SQLite would call an error of the disk, whatever it is."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise refused(
            path,
            "there is no such file yet",
            "let `arbstr run` begin it (what `run --mock` was asked: arbstr stats --mock)",
        ) from None
    except OSError as error:
        raise refused(path, f"it cannot be looked at ({error.strerror})", MAY_READ) from None
    if stat.S_ISDIR(mode):
        raise refused(path, IS_DIRECTORY)
    if not stat.S_ISREG(mode):
        raise refused(path, "it is no regular file")
    if not os.access(path, os.R_OK):
        raise refused(path, "it cannot be read", MAY_READ)


@contextmanager
def read_any(path: str) -> Iterator[SqliteSession]:
    """One state of a ledger of this arbstr or an older one. Raises as `read_sqlite`."""
    path = os.path.realpath(path)
    _check_file(path)
    # A file nobody has open and whose directory we may not write in can only be read as one that
    # never changes: SQLite wants to put the index of the WAL beside it.
    alone = not os.path.exists(f"{path}-wal") and not os.access(os.path.dirname(path), os.W_OK)
    uri = f"{Path(path).as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    try:
        with closing(read_only(uri, READING_BUSY_SECONDS)) as reader:
            check_content(reader, path, len(own_migrations()))
            with snapshot(reader):
                yield reader
    except sqlite3.Error as error:
        if primary_code(error) in HOPELESS:
            raise refused(path, str(error)) from error
        raise Trouble(str(error)) from error

"""The SQLite file: found, checked, migrated, and written by one connection in one thread.

    path --checks--> connection --pragmas--> boot lock --one transaction--> migrated, abandoned
                                                          |
    transaction(work) <-- reopened if the file was moved away under us

Who owns a row: every process draws a boot id, writes it into its rows and holds a lock
(`flock` on `<database>.lock-<boot id>`) as long as it lives; the kernel lets go of it however the
process ends. Rows still `in_flight` whose lock nobody holds become `abandoned` at the next start.
Several processes may share a file: each has its own lock, and SQLite's own locks do the rest.

What raises at start is a `StartError`: a path that cannot work, a file that is not ours. What may
pass by itself (locked, full) does not: the connection is then opened by the first transaction
that succeeds. `transaction` and `read` raise `Trouble`; their callers try again.
"""

import logging
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Final, TypeVar, final
from uuid import uuid4

import trio

from arbstr.sansio.errors import StartError
from arbstr.trio_runtime.ledger.boot_lock import BootLock, identity
from arbstr.trio_runtime.ledger.port import Session, Trouble
from arbstr.trio_runtime.ledger.sqlite_readers import (
    APPLICATION_ID,
    HOPELESS,
    IS_DIRECTORY,
    check_content,
    read_only,
    refused,
    snapshot,
)
from arbstr.trio_runtime.ledger.sqlite_session import SqliteSession, begun, split_statements
from arbstr.trio_runtime.ledger.sqlite_soundness import (
    are_there,
    fault_in,
    primary_code,
    tells_of_damage,
)
from arbstr.trio_runtime.ledger.statements import own_migrations

T = TypeVar("T")

SQLITE_VERSION: Final = sqlite3.sqlite_version

IN_MEMORY: Final = ":memory:"
"""The path of a database that lives as long as the process (`run --mock`)."""

OPENING_BUSY_SECONDS: Final = 1.0
"""How long a start waits for the lock of another process that is starting too; picked."""

OPENING_PAUSE_SECONDS: Final = 0.01
"""How long it waits between two tries of what SQLite itself does not wait for; picked."""

BUSY_SECONDS: Final = 0.25
"""How long SQLite itself waits for a lock. Short, because the thread cannot be cancelled while it
waits and the log writer retries anyway; picked."""

WAL_PAGES: Final = 1000
"""Checkpoint after so many pages (4 MB): SQLite's default, stated because builds differ."""

WAL_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""The WAL is cut back to this after a checkpoint: twice what it normally grows to."""

OWNER_ONLY: Final = 0o600
"""The mode of every file of a ledger."""

CLOSE_SECONDS: Final = 2.0
"""How long closing may wait for the thread; the last checkpoint takes milliseconds."""

LASTING: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY})
"""Primary result codes of a disk that takes nothing."""

_log = logging.getLogger(__name__)


def _check_path(path: str) -> None:
    directory = os.path.dirname(path)
    uid = ""
    if sys.platform != "win32":
        uid = f" as uid {os.getuid()}"
    if not os.path.isdir(directory):
        raise refused(path, f"the directory {directory} does not exist", "create it")
    if os.path.isdir(path):
        raise refused(path, IS_DIRECTORY)
    if not os.access(directory, os.W_OK | os.X_OK):
        # SQLite keeps its journal beside the file.
        raise refused(path, f"cannot write in {directory}{uid}", "chown or chmod the directory")
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise refused(path, f"cannot read and write it{uid}", "chown or chmod the file")


def _begin_file(path: str) -> None:
    """Makes the file if there is none, for its owner alone whatever the umask: it tells what was
    asked, when and of whom. SQLite gives what it puts beside it the mode of the file.

    One that is there keeps its mode, for a group may be meant to read it; `run` and `doctor` tell
    of it.
    """
    # What keeps it from being made, SQLite says in its own words a moment later.
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, OWNER_ONLY))


def _migrate(connection: SqliteSession, migrations: tuple[str, ...]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == len(migrations):
        return
    for script in migrations[version:]:
        for statement in split_statements(script):
            connection.execute(statement)
    # Both lie in the header page and so belong to the transaction.
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _begin_wal(connection: SqliteSession) -> str:
    """The journal mode the file has then. Raises `sqlite3.Error`."""
    until = monotonic() + OPENING_BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            # It is refused at once, whatever the timeout, while another process that starts on the
            # new file writes to it.
            if primary_code(error) != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
            sleep(OPENING_PAUSE_SECONDS)
        else:
            return str(mode)


@final
class SqliteDatabase:
    """One SQLite file and its only writing connection: `port.Database`. Made by `open_sqlite`.

    path      the file's real path, or `IN_MEMORY`
    boot_id   what marks the rows of this process
    damaged   whether what is written to it could not be read again; nothing is, then
    """

    def __init__(self, path: str, boot_id: str, *, unfinished: bool = False) -> None:
        self.path: Final = path if path == IN_MEMORY else os.path.realpath(path)
        self.boot_id: Final = boot_id
        self._unfinished = unfinished
        self._migrations = own_migrations()
        self._lock = None if path == IN_MEMORY else BootLock(self.path, boot_id)
        self._connection: SqliteSession | None = None
        self._file: tuple[int, int] | None = None
        self._reader: SqliteSession | None = None
        self._suspected = False
        self.damaged = False
        # One sqlite3 connection may be used by any thread, but by one at a time.
        self._limiter = trio.CapacityLimiter(1)

    @property
    def beside(self) -> str | None:
        """As `port.Database`."""
        return None if self.path == IN_MEMORY else self.path

    @property
    def is_shared(self) -> bool:
        """As `port.Database`: where a lock shows who lives."""
        return self._lock is not None and self._lock.is_held

    def is_gone(self, boot_id: str) -> bool:
        """As `port.Database`."""
        return self._lock is not None and self._lock.is_held and not self._lock.is_held_by(boot_id)

    async def is_alone(self) -> bool:
        """As `port.Database`."""
        if self._lock is None:
            return True
        others = await trio.to_thread.run_sync(self._lock.others, abandon_on_cancel=True)
        return self._lock.is_held and not others

    async def transaction(
        self, work: Callable[[Session], T], *, written: Callable[[], Sequence[str]] | None = None
    ) -> T:
        """As `port.Database`, inside BEGIN IMMEDIATE ... COMMIT.

        What `written` gives is read back with another connection.
        """
        return await self._in_thread(partial(self._watched, work, written))

    async def read(
        self, work: Callable[[Session], T], *, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        """As `port.Database`. What may mean damage has the file looked through."""

        def read() -> T:
            # A new connection sees the file that lies there now, and a thread that is left alone
            # at the end of the process disturbs nobody.
            with closing(self.connect_reader()) as reader, snapshot(reader):
                return work(reader)

        try:
            return await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=limiter)
        except sqlite3.Error as error:
            failed = error
        self._suspected = self._suspected or self._is_damage(failed)
        if self._suspected:
            with suppress(sqlite3.Error):  # the next transaction raises it again
                await self._in_thread(self._examine)
        raise Trouble(str(failed)) from failed

    async def others(self) -> int:
        """As `port.Database`: who holds a lock."""
        return 0 if self._lock is None else await self._in_thread(self._lock.others)

    async def many_came(self) -> None:
        """As `port.Database`: SQLite's planner goes by what the questions say."""
        await trio.lowlevel.checkpoint()

    def connect_reader(self) -> SqliteSession:
        """A new read-only connection. Raises `sqlite3.OperationalError`."""
        uri = self._memory_uri if self.path == IN_MEMORY else f"{Path(self.path).as_uri()}?mode=ro"
        reader = read_only(uri, BUSY_SECONDS)
        if self.path == IN_MEMORY:
            # A shared cache locks whole tables; its readers would stop the writer.
            reader.execute("PRAGMA read_uncommitted = 1")
        return reader

    @property
    def _memory_uri(self) -> str:
        return f"file:arbstr-{self.boot_id}?mode=memory&cache=shared"

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=False, limiter=self._limiter)

    def _watched(
        self,
        work: Callable[[Session], T],
        written: Callable[[], Sequence[str]] | None,
    ) -> T:
        try:
            done = self._transact(work)
            if written is not None and self.path != IN_MEMORY:
                self._read_back(written())
        except sqlite3.Error as error:
            self._suspected = self._suspected or self._is_damage(error)
            lasting = primary_code(error) in LASTING
            raise Trouble(str(error), is_lasting=lasting) from error
        return done

    def _transact(self, work: Callable[[Session], T]) -> T:
        if self._connection is not None and self._file != identity(self.path):
            self._leave_moved(self._connection)
        if self._suspected:
            self._examine()
        if self._connection is None:
            try:
                self._connect()
            except StartError as error:
                raise sqlite3.OperationalError(str(error)) from error
        connection = self._connection
        assert connection is not None  # _connect sets it or raises
        with begun(connection, "BEGIN IMMEDIATE"):
            return work(connection)

    def _is_damage(self, error: sqlite3.Error) -> bool:
        """Of the file we know, and not of what somebody has just put in its place."""
        known = self.path != IN_MEMORY and self._file == identity(self.path)
        return known and tells_of_damage(error)

    def _read_back(self, ids: Sequence[str]) -> None:
        if self._reader is None:
            self._reader = self.connect_reader()
        if not are_there(ids, self._reader):
            self._suspected = True
            raise sqlite3.DatabaseError("what was written cannot be read back")

    def _examine(self) -> None:
        """Raises `sqlite3.Error` if the file is damaged, or that cannot be seen now."""
        with closing(self.connect_reader()) as reader:
            fault = fault_in(reader, len(self._migrations))
        if fault is None:
            self._suspected = False
            if self.damaged:
                # It was mended in place, and our connections remember how it was. We live on, and
                # our lock says so.
                self._disconnect()
            return
        if not self.damaged:
            _log.error(
                "database %s is damaged (%s): rows wait in memory and beside it, and it is left as "
                "it is. Move it away, and a new one is begun",
                self.path,
                fault,
            )
        self.damaged = True
        raise sqlite3.DatabaseError(f"it is damaged: {fault}")

    def _leave_moved(self, connection: SqliteSession) -> None:
        # SQLite would go on writing into a deleted file, and the rows would vanish with it.
        _log.warning("database %s was moved or deleted: starting a new one", self.path)
        # The journal stayed behind under its name, and SQLite would replay it into whatever file
        # lies there now. Emptied, its rows are in the file that was moved.
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._leave()

    def _connect(self) -> None:
        if self.path != IN_MEMORY:
            _check_path(self.path)
        if self._lock is not None:
            self._lock.acquire()  # before any row bears our boot id
            _begin_file(self.path)
        try:
            connection = sqlite3.connect(
                self._memory_uri if self.path == IN_MEMORY else self.path,
                uri=self.path == IN_MEMORY,
                timeout=OPENING_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                factory=SqliteSession,
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.DatabaseError as error:
            if primary_code(error) in HOPELESS:
                raise refused(self.path, str(error), "mend the file or its directory") from error
            raise
        self._connection = connection
        self._file = identity(self.path)

    def _prepare(self, connection: SqliteSession) -> None:
        check_content(connection, self.path, len(self._migrations), unfinished=self._unfinished)
        # Only before there are tables; what retention.py deletes can then shrink the file.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = _begin_wal(connection)
        if mode != "wal" and self.path != IN_MEMORY:
            _log.warning("database %s cannot use a WAL here, only %r: slower", self.path, mode)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        with begun(connection, "BEGIN IMMEDIATE"):
            _migrate(connection, self._migrations)
            abandoned = self._abandon(connection)
        if abandoned:
            _log.info(
                "requests left in flight by an arbstr that was killed, now abandoned: %d", abandoned
            )
        if self._lock is not None:
            self._lock.sweep()
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    def _abandon(self, connection: SqliteSession) -> int:
        # The boots are read before their locks are tried: a process takes its lock before it
        # writes, so one whose row is seen here and whose lock is free is gone.
        boots = [
            boot_id for (boot_id,) in connection.execute(connection.question("boots_in_flight"))
        ]
        abandoned = 0
        for boot_id in boots:
            if not boot_id or self._lock is None or not self._lock.is_held_by(boot_id):
                gone = {"boot_id": boot_id}
                connection.execute(connection.question("abandon_attempts"), gone)
                abandoned += connection.execute(connection.question("abandon"), gone).rowcount
        return abandoned

    def _leave(self) -> None:
        try:
            self._disconnect()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        reader, self._reader = self._reader, None
        self._suspected = self.damaged = False
        if reader is not None:
            reader.close()
        if connection is not None:
            connection.close()


@asynccontextmanager
async def open_sqlite(
    path: str, boot_id: str | None = None, *, unfinished: bool = False
) -> AsyncIterator[SqliteDatabase]:
    """As `database.open_database`."""
    database = SqliteDatabase(path, boot_id or uuid4().hex, unfinished=unfinished)
    try:
        try:
            await database._in_thread(database._connect)
        except sqlite3.Error as error:
            _log.warning("database %s cannot be opened yet (%s)", database.path, error)
        yield database
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await database._in_thread(database._leave)

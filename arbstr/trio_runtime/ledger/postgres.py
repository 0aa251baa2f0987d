"""A ledger in PostgreSQL, which several machines may share: `port.Database`.

    URL --connect, one transaction under a lock--> migrated
    transaction(work), in a thread <-- a new connection after whatever went wrong with the last
    read(work), in a thread of its own, on a connection that nobody uses

Who owns a row: every process draws a boot id, writes it into its rows, and says every few seconds
that it lives (`boots`, by the server's clock). Rows still `in_flight` of one that has said nothing
for `DEAD_SECONDS` become `abandoned`. To be wrong about that does no harm: the final row of a
request overwrites it. Locks of a session would be lost behind a pooler, and outlive a cut wire.

What the network swallows would hold a thread for ever, and with it the end of the process. So what
takes longer than `LATE_SECONDS` has its socket shut down, which ends the wait at once; the next
transaction begins with a new connection. A lost answer to a COMMIT is harmless: what was written
is final, and to write it again changes nothing.
"""

import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import Final, TypeVar, final
from uuid import uuid4

import psycopg
import trio

from arbstr.sansio.config.ledger_url import LedgerUrl
from arbstr.sansio.errors import StartError
from arbstr.trio_runtime.ledger.port import MOVER, Session, Trouble
from arbstr.trio_runtime.ledger.postgres_readers import (
    SNAPSHOT,
    check_whole,
    connect,
    in_trouble,
    is_older,
    known_migrations,
    refused,
    version_of,
)
from arbstr.trio_runtime.ledger.postgres_session import PostgresSession, begun

T = TypeVar("T")

LATE_SECONDS: Final = 4.0
"""How long a transaction may take from our side. With the log writer's 3 s it fits into what an end
of the process has (stopping.WATCHDOG_SECONDS); a batch takes milliseconds."""

LOOK_SECONDS: Final = 0.5
"""How often somebody looks whether one is late."""

BEAT_SECONDS: Final = 5.0
"""How often a process says that it lives ..."""

DEAD_SECONDS: Final = 60.0
"""... and how long it is believed to, without; twelve beats. Picked."""

GONE_SECONDS: Final = 86_400.0
"""How long after its last word a start forgets who was killed."""

CLOSE_SECONDS: Final = 2.0
"""How long closing may wait for the thread."""

LOCK: Final = 0x61726273
"""`arbs` in ASCII: the advisory lock under which a ledger is migrated."""

_NOW: Final = "extract(epoch FROM clock_timestamp())"

_log = logging.getLogger(__name__)


@final
class PostgresDatabase:
    """One ledger there, and the only connection of this process that writes. Made by
    `open_postgres`."""

    def __init__(
        self, url: LedgerUrl, boot_id: str, beside: str, *, unfinished: bool = False
    ) -> None:
        self.boot_id: Final = boot_id
        self.beside: Final = beside
        self.damaged: Final = False  # that is the server's own affair
        self._url = url
        self._unfinished = unfinished
        self._writer: PostgresSession | None = None
        self._readers: list[PostgresSession] = []
        self._left = False
        self._was_there = False
        self._limiter = trio.CapacityLimiter(1)
        self._since: float | None = None

    @property
    def is_shared(self) -> bool:
        """As `port.Database`."""
        return True

    def is_gone(self, boot_id: str) -> bool:
        """As `port.Database`: who says nothing may live behind a wire that was cut."""
        return False

    async def is_alone(self) -> bool:
        """As `port.Database`: nor is it sure who is there."""
        await trio.lowlevel.checkpoint()
        return False

    async def transaction(
        self, work: Callable[[Session], T], *, written: Callable[[], Sequence[str]] | None = None
    ) -> T:
        """As `port.Database`. What the server has committed is there, and is not read back."""
        return await self._in_thread(partial(self._transact, work))

    async def read(
        self, work: Callable[[Session], T], *, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        """As `port.Database`."""
        return await trio.to_thread.run_sync(
            partial(self._read, work), abandon_on_cancel=True, limiter=limiter
        )

    async def others(self) -> int:
        """As `port.Database`: who has said so within `DEAD_SECONDS`."""
        return await self.read(self._others)

    def _others(self, session: Session) -> int:
        # A move that was killed a moment ago is the first to come again.
        (living,) = session.execute(
            f"SELECT count(*) FROM boots WHERE seen_at > {_NOW} - :dead AND boot_id <> :boot_id"
            " AND left(boot_id, length(:mover)) <> :mover",
            {"dead": DEAD_SECONDS, "boot_id": self.boot_id, "mover": MOVER},
        ).fetchone()
        return int(living)

    async def many_came(self) -> None:
        """As `port.Database`. Until autovacuum has been there, in a minute or so, reports take ten
        times as long."""
        await trio.to_thread.run_sync(in_trouble, self._vacuum, abandon_on_cancel=True)

    def _vacuum(self) -> None:
        # Of its own: it takes as long as it takes, and goes with no transaction.
        with connect(self._url).connection as connection:
            connection.execute("SET statement_timeout = 0")
            sums = ("request_hours", "request_days", "request_totals")
            for table in ("requests", "attempts", *sums):
                connection.execute(f"VACUUM (ANALYZE) {table}".encode())

    async def keep(self) -> None:
        """Says that this process lives, looks for those that do not, and cuts what is late."""
        beaten = trio.current_time()
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(LOOK_SECONDS)
                now = trio.current_time()
                if self._since is not None and now - self._since > LATE_SECONDS:
                    self._cut()
                elif self._since is None and now - beaten >= BEAT_SECONDS:
                    beaten = now
                    nursery.start_soon(self._beat)

    async def open(self) -> None:
        """Connects and migrates. Raises `StartError`, or `Trouble` if it may go another time."""
        await self._in_thread(self._connect)

    async def close(self) -> None:
        """The process ends cleanly: nobody need wait to see that it is dead."""
        with suppress(Trouble):
            await self._in_thread(self._leave)

    async def _beat(self) -> None:
        with suppress(Trouble):  # the log writer says so, if it has something to write
            await self.transaction(self._live)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        async with self._limiter:
            self._since = trio.current_time()
            try:
                return await trio.to_thread.run_sync(in_trouble, work)
            finally:
                self._since = None

    def _cut(self) -> None:
        """Ends the wait of the thread: its socket is shut down under it."""
        writer = self._writer
        if writer is None or writer.connection.closed:
            return
        with suppress(OSError, psycopg.Error):
            descriptor = os.dup(writer.connection.fileno())
            with socket.socket(fileno=descriptor) as wire:
                wire.shutdown(socket.SHUT_RDWR)

    def _transact(self, work: Callable[[Session], T]) -> T:
        if self._writer is None or self._writer.connection.closed:
            try:
                self._connect()
            except StartError as error:
                raise Trouble(str(error)) from error
        writer = self._writer
        assert writer is not None  # _connect sets it or raises
        try:
            with begun(writer, "BEGIN"):
                return work(writer)
        except psycopg.Error as error:
            if writer.is_trouble(error):
                self._drop_writer()  # whatever state it is in
            raise

    def _read(self, work: Callable[[Session], T]) -> T:
        return in_trouble(partial(self._read_once, work))

    def _read_once(self, work: Callable[[Session], T]) -> T:
        kept = self._readers.pop() if self._readers else None
        if kept is not None:
            try:
                kept.connection.execute(SNAPSHOT.encode())
            except psycopg.Error:
                kept.connection.close()  # the server was there, and went
                kept = None
        is_new = kept is None
        kept = kept or connect(self._url)
        try:
            if is_new:
                kept.connection.execute(SNAPSHOT.encode())
            found = work(kept)
            kept.connection.execute("ROLLBACK")  # nothing was written
        except BaseException:
            kept.connection.close()
            raise
        self._readers.append(kept)
        if self._left:
            self._close_readers()  # who asked was cancelled, and the process ends
        return found

    def _connect(self) -> None:
        self._drop_writer()
        session = connect(self._url)
        self._writer = session  # from here on it can be cut
        try:
            with begun(session, "BEGIN"):
                if self._was_there and not version_of(session):
                    _log.warning(
                        "database %s holds no ledger any more: a new one is begun", self._url.shown
                    )
                if is_older(session, self._url):
                    self._since = inf  # that takes as long as it takes
                    _migrate(session, self._url)
                if not self._unfinished:
                    check_whole(session, self._url)
                abandoned = self._live(session)
                session.execute(f"DELETE FROM boots WHERE seen_at < {_NOW} - ?", (GONE_SECONDS,))
        except BaseException:
            self._drop_writer()
            raise
        self._was_there = True
        if abandoned:
            _log.info(
                "requests left in flight by an arbstr that was killed, now abandoned: %d", abandoned
            )

    def _live(self, session: Session) -> int:
        """This process lives, and rows of those that do not are abandoned: how many."""
        session.execute(
            f"INSERT INTO boots (boot_id, seen_at) VALUES (:boot_id, {_NOW})"
            " ON CONFLICT (boot_id) DO UPDATE SET seen_at = excluded.seen_at",
            {"boot_id": self.boot_id},
        )
        dead = session.execute(
            "SELECT DISTINCT coalesce(boot_id, '') FROM requests WHERE status = 'in_flight'"
            " AND NOT EXISTS (SELECT * FROM boots WHERE boots.boot_id = requests.boot_id"
            f" AND boots.seen_at > {_NOW} - :dead)",
            {"dead": DEAD_SECONDS},
        ).fetchall()
        abandoned = 0
        for (boot_id,) in dead:
            gone = {"boot_id": boot_id}
            session.execute(session.question("abandon_attempts"), gone)
            abandoned += session.execute(session.question("abandon"), gone).rowcount
        return abandoned

    def _leave(self) -> None:
        self._left = True
        writer = self._writer
        try:
            if writer is not None and not writer.connection.closed:
                writer.execute("DELETE FROM boots WHERE boot_id = ?", (self.boot_id,))
        finally:
            self._drop_writer()
            self._close_readers()

    def _close_readers(self) -> None:
        with suppress(IndexError):  # two threads may be here
            while True:
                self._readers.pop().connection.close()

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.connection.close()


def _migrate(session: PostgresSession, url: LedgerUrl) -> None:
    session.execute("SET LOCAL statement_timeout = 0")
    session.execute("SET LOCAL lock_timeout = 0")
    session.execute("SELECT pg_advisory_xact_lock(?)", (LOCK,))
    if not is_older(session, url):
        return  # another start was here first
    version = version_of(session)
    if not version:
        session.execute("CREATE SCHEMA IF NOT EXISTS arbstr")
        session.execute("CREATE TABLE arbstr_schema (version BIGINT NOT NULL PRIMARY KEY)")
    for number, script in sorted(known_migrations().items()):
        if number > version:
            session.connection.execute(script.encode())
            session.execute("INSERT INTO arbstr_schema (version) VALUES (?)", (number,))


@asynccontextmanager
async def open_postgres(
    url: LedgerUrl,
    beside: str,
    boot_id: str | None = None,
    *,
    wait: bool = False,
    unfinished: bool = False,
) -> AsyncIterator[PostgresDatabase]:
    """As `database.open_database`."""
    database = PostgresDatabase(url, boot_id or uuid4().hex, beside, unfinished=unfinished)
    directory = os.path.dirname(beside)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as error:
        _log.warning("%s cannot be made (%s)", directory, error.strerror)
    trouble: Trouble | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.keep)
        try:
            await database.open()
        except Trouble as error:
            trouble = error
        if trouble is not None and not wait:
            raise refused(url, str(trouble), "start the server, or set [database] wait = true")
        if trouble is not None:
            _log.warning("database %s cannot be opened yet (%s)", url.shown, trouble)
        try:
            yield database
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await database.close()
            nursery.cancel_scope.cancel()

"""The file that outlives kill -9: what was dispatched, and how it ended, before any row of it.

    an attempt starts --begin--> a line, before its first byte goes out
    a request is over --end----> a line
    rows are committed --settled--> what they say is in the database: the file is emptied
    the next start --Leftovers--> lines without a row become rows, and the file is removed

`<database>.intents-<boot id>-<number>`, mode 0600, one process's own: it holds a lock on the file
(`flock`) as long as it lives, so who gets the lock may take over what the dead one left. A line is
one `write` to a file opened with O_APPEND: what was written is there whatever becomes of the
process. It is not synced: a crash of the machine may lose what is younger than the system's own
write-back. Nothing here ever fails a request.

The file stays small: it is emptied whenever all it tells is committed. Under a load that leaves no
such moment, another file is begun at `FULL_BYTES`, and the old one goes when the last of what
waited at that moment is committed.
"""

import logging
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import field
from typing import Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.intents import (
    HEADER,
    Intent,
    Told,
    abandoned,
    end_line,
    intent_line,
    read_lines,
)
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.ledger.boot_lock import identity
from arbstr.trio_runtime.ledger.port import Session
from arbstr.trio_runtime.ledger.store import Store

if sys.platform != "win32":
    import fcntl

FULL_BYTES: Final = 1024 * 1024
"""Size at which another file is begun, about a thousand requests; picked."""

MOST_BYTES: Final = 64 * 1024 * 1024
"""What all files of a process may take together: at 1,000 requests a second without a database it
is a minute's, and what a start reads back in some seconds; picked."""

TRIES: Final = 3
"""To begin a file, each another; picked."""

_log = logging.getLogger(__name__)


@final
@dataclass(slots=True)
class _File:
    """One open file of ours. `waiting`: whose rows must be committed before it may go; `kept`: it
    tells of rows that are nowhere else, and stays for the next start."""

    path: str
    descriptor: int
    size: int = 0
    torn: bool = False
    kept: bool = False
    waiting: set[str] = field(default_factory=set)


@final
class Intents:
    """The file of this process, made when there is something to write. From trio's thread only.

    `beside` is where it lies, as `port.Database` says: None for no file at all.
    """

    def __init__(
        self,
        beside: str | None,
        boot_id: str,
        *,
        full_bytes: int = FULL_BYTES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._prefix = None if beside is None else f"{beside}.intents-{boot_id}-"
        self._full_bytes = full_bytes
        self._most_bytes = most_bytes
        self._number = 0
        self._file: _File | None = None
        self._older: list[_File] = []
        self._in_trouble = False

    def begin(self, intent: Intent) -> None:
        """An attempt is about to be sent. Microseconds; never raises."""
        if self._prefix is not None:
            self._append(intent_line(intent))

    def end(self, record: Record) -> None:
        """A request is over. Microseconds; never raises."""
        if self._prefix is not None:
            self._append(end_line(record))

    def settled(self, written: Iterable[str], pending: Collection[str]) -> None:
        """The rows with these ids were committed; the ids in `pending` still wait for that."""
        written = tuple(written)
        for older in self._older[:]:
            older.waiting.difference_update(written)
            if not older.waiting and not older.kept:
                self._older.remove(older)
                _remove(older)
        file = self._file
        if file is None:
            return
        if identity(file.path) != identity(file.descriptor):
            # It was moved or deleted, most likely with its database.
            os.close(file.descriptor)
            self._file = None
        elif file.size >= self._full_bytes and (file.kept or pending):
            file.waiting = set(pending)
            self._older.append(file)
            self._file = None
        elif not pending and not file.kept and file.size:
            self._empty(file)

    def keep(self) -> None:
        """A row is given up that may be told of here: the files stay for the next start."""
        for file in (*self._older, self._file):
            if file is not None:
                file.kept = True

    @property
    def kept(self) -> tuple[str, ...]:
        """The files that stay for the next start."""
        files = (*self._older, *([self._file] if self._file is not None else ()))
        return tuple(file.path for file in files if file.kept and file.size)

    def close(self) -> None:
        """The process ends: leaves the files that are kept, and no other."""
        for file in (*self._older, self._file):
            if file is not None and file.kept and file.size:
                os.close(file.descriptor)
            elif file is not None:
                _remove(file)
        self._older, self._file = [], None

    def _append(self, line: bytes) -> None:
        try:
            file = self._file or self._begin_file()
            size = file.size
            if self._older:
                size += sum(older.size for older in self._older)
            if size >= self._most_bytes:
                raise OSError(None, f"its files have reached {self._most_bytes >> 20} MB")
            data = b"\n" + line if file.torn else line
            written = os.write(file.descriptor, data)
            file.size += written
            file.torn = written < len(data)
            if file.torn:
                raise OSError(None, "the disk is full")
        except OSError as error:
            if not self._in_trouble:
                _log.warning(
                    "requests cannot be noted in %s... (%s): a kill -9 now would lose those whose "
                    "rows wait to be written",
                    self._prefix,
                    error.strerror,
                )
            self._in_trouble = True
        else:
            self._in_trouble = False

    def _begin_file(self) -> _File:
        path, descriptor = self._open_next()
        file = _File(path, descriptor)
        try:
            _write_header(descriptor)
        except OSError:
            _remove(file)
            raise
        self._file = file
        return file

    def _open_next(self) -> tuple[str, int]:
        """A file of ours that was not there before, and its path."""
        tries = TRIES
        while True:
            self._number += 1
            path = f"{self._prefix}{self._number}"
            try:
                return path, _open_locked(path)
            except (BlockingIOError, FileNotFoundError):
                # A start beside us saw it before it was locked, and took it for a dead one's. The
                # next it has not seen.
                tries -= 1
                if not tries:
                    raise

    def _empty(self, file: _File) -> None:
        try:
            os.ftruncate(file.descriptor, 0)
            file.size = 0
            _write_header(file.descriptor)
        except OSError:
            # Without its header it says nothing: the next line begins another.
            _remove(file)
            self._file = None


@final
@dataclass(frozen=True, slots=True)
class Recovered:
    """How many rows were made of what killed processes left: of requests that were over, and of
    those that were not."""

    ended: int
    abandoned: int


@final
class Leftovers:
    """The files of processes that are gone. All methods block: in a thread.

    `write` in a transaction, `remove` once that is committed, `close` in any case. Killed between
    any two of these, the next start finds the same files, and rows that are there stay as they are.
    """

    def __init__(self, beside: str | None) -> None:
        self._prefix = None if beside is None else f"{beside}.intents-"
        self._files: list[tuple[str, int]] = []
        self._written: list[str] = []

    def exist(self) -> bool:
        """Whether there is anything to write, as far as names tell."""
        return bool(self._paths())

    def write(self, session: Session) -> Recovered:
        """Makes the rows that are missing. Raises as `Store` does."""
        ended = unfinished = 0
        for path in self._paths():
            told = self._read(path)
            # Its own process's rows: what was spent before this one is read from the database.
            store = Store(self._boot_of(path))
            rows = [row for each in told.values() if (row := _missing(session, each))]
            refused = store.one_by_one(rows, session)
            for one in refused:
                _log.error("a row of a killed arbstr was refused (%s)", one.error)
            left_out = {one.record.correlation_id for one in refused}
            rows = [row for row in rows if row.correlation_id not in left_out]
            self._written += [row.correlation_id for row in rows]
            ended += sum(row.status != "abandoned" for row in rows)
            unfinished += sum(row.status == "abandoned" for row in rows)
        return Recovered(ended, unfinished)

    def told_all_of(self, boot_id: str) -> bool:
        """Whether `write` has read every file that this process left."""
        read = {path for path, _ in self._files}
        return all(path in read for path in self._paths() if self._boot_of(path) == boot_id)

    def _boot_of(self, path: str) -> str:
        return path.removeprefix(self._prefix or "").rpartition("-")[0]

    def written(self) -> Sequence[str]:
        """The ids of the rows that `write` wrote."""
        return self._written

    def remove(self) -> None:
        """The rows are committed: the files go."""
        for path, _ in self._files:
            with suppress(OSError):
                os.unlink(path)

    def close(self) -> None:
        """Lets go of the files."""
        while self._files:
            os.close(self._files.pop()[1])

    def _paths(self) -> list[str]:
        if self._prefix is None:
            return []
        directory, prefix = os.path.split(self._prefix)
        try:
            names = os.listdir(directory)
        except OSError:
            return []
        return sorted(os.path.join(directory, name) for name in names if name.startswith(prefix))

    def _read(self, path: str) -> dict[str, Told]:
        """What a file tells; nothing if its process lives, or it cannot be read."""
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            return {}
        try:
            _lock(descriptor)
            with open(descriptor, "rb", closefd=False) as file:
                told = read_lines(file)
        except OSError:
            os.close(descriptor)
            return {}
        self._files.append((path, descriptor))
        return told


def _missing(session: Session, told: Told) -> Record | None:
    """The row to write for a request, `None` if the database knows as much."""
    row = session.execute(
        "SELECT status, attempts FROM requests WHERE correlation_id = ?", (told.correlation_id,)
    ).fetchone()
    status, attempts = row or (None, 0)
    if status not in (None, "in_flight", "abandoned"):
        return None
    if isinstance(told, Record):
        return told
    # A row in flight was made later than the intent of its last attempt, and so knows more.
    known = status is not None and (attempts or 0) >= len(told.attempts)
    return None if known else abandoned(told)


def _write_header(descriptor: int) -> None:
    """Raises `OSError`, also if only a part of it can be written."""
    if os.write(descriptor, HEADER) < len(HEADER):
        raise OSError(None, "the disk is full")


def _remove(file: _File) -> None:
    # Unlinked first, while it is surely ours.
    with suppress(OSError):
        os.unlink(file.path)
    with suppress(OSError):
        os.close(file.descriptor)


def _open_locked(path: str) -> int:
    """A new file, ours. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        _lock(descriptor)
        # Another start may have removed it between the two lines above.
        if identity(path) != identity(descriptor):
            raise FileNotFoundError(None, "it was removed at once")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


if sys.platform != "win32":

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

else:
    # As in boot_lock.py: every other process counts as gone. Windows refuses to remove its files
    # while it lives, and what they tell is in the database twice no more than once.
    def _lock(descriptor: int) -> None:
        pass

"""A copy of a SQLite ledger that may be in use, complete and checked before it has its name.

    one state of the ledger --SQLite's online backup--> a file beside the target, mode 0600
        --its pages looked through, its rows counted, synced--> the target, synced

Who writes the ledger meanwhile is not held up: what is copied is the state at the beginning. Killed
at any moment, the target is not there or as it was; at most the unfinished file stays beside it.
"""

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Final, final

from arbstr.sansio.errors import StartError
from arbstr.sansio.frozen import dataclass
from arbstr.trio_runtime.ledger.port import Trouble
from arbstr.trio_runtime.ledger.sqlite_readers import read_any
from arbstr.trio_runtime.ledger.sqlite_session import SqliteSession
from arbstr.trio_runtime.ledger.sqlite_soundness import DAMAGE, primary_code

PAGES: Final = 1024
"""Copied at once, 4 MB, between two words about how far it is."""

Progress = Callable[[int, int], None]
"""Told of pages that are copied, and how many there are."""


@final
@dataclass(frozen=True, slots=True)
class Backup:
    """What was written: `rows` in each table, and the file's `size` in bytes."""

    rows: Mapping[str, int]
    size: int


def back_up(place: str, target: Path, *, replace: bool, progress: Progress) -> Backup:
    """Copies the ledger at `place` to `target`, which may be there if it is to be replaced. Blocks.

    Raises `StartError`, after which there is nothing new at `target`.
    """
    _check(place, target, replace=replace)
    try:
        descriptor, part = mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise _refused(target, f"cannot write in {target.parent}: {error.strerror}") from None
    try:
        try:
            rows = _copied(place, part, progress)
            os.fsync(descriptor)
            size = os.stat(part).st_size
            _name(part, target, replace=replace)
        finally:
            os.close(descriptor)
            for name in (part, f"{part}-journal", f"{part}-wal", f"{part}-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(name)
        _sync_directory(target.parent)
    except OSError as error:
        raise _refused(target, f"cannot be written: {error.strerror}") from None
    except (sqlite3.Error, Trouble) as error:
        raise _refused(target, f"the copy failed: {error}") from None
    return Backup(rows, size)


def _refused(target: Path, why: str) -> StartError:
    return StartError((f"{target}: {why}",))


def _check(place: str, target: Path, *, replace: bool) -> None:
    if target.is_dir():
        raise _refused(target, "it is a directory; name a file")
    if not target.parent.is_dir():
        raise _refused(target, f"the directory {target.parent} does not exist; create it")
    if not os.path.lexists(target):
        return
    if os.path.exists(place) and target.exists() and os.path.samefile(place, target):
        raise _refused(target, "it is the ledger itself; name another file")
    if not replace:
        raise _exists(target)


def _exists(target: Path) -> StartError:
    return _refused(target, "it is there already; name another file, or replace it with --force")


def _copied(place: str, part: str, progress: Progress) -> Mapping[str, int]:
    """The rows of each table. Raises `StartError`, `Trouble` or `sqlite3.Error`."""
    with read_any(place) as source:
        try:
            return _copied_from(source, part, progress)
        except sqlite3.DatabaseError as error:
            fault = str(error).replace("\n", " ")
            if primary_code(error) not in DAMAGE and not isinstance(error, _Damaged):
                raise
            raise StartError(
                (
                    f"{place}: it is damaged ({fault}), and no copy is made of that; what can be "
                    "read of it, the program sqlite3 tells with .recover",
                )
            ) from None


@final
class _Damaged(sqlite3.DatabaseError):
    """The copy is, and so is what was copied."""


def _copied_from(source: SqliteSession, part: str, progress: Progress) -> Mapping[str, int]:
    rows = _rows(source)  # with the first of these the state is that of this moment
    with closing(sqlite3.connect(part, isolation_level=None, factory=SqliteSession)) as copy:
        source.backup(
            copy, pages=PAGES, progress=lambda _, left, pages: progress(pages - left, pages)
        )
        # One file that needs none beside it; who opens it as a ledger has a WAL again.
        copy.execute("PRAGMA journal_mode = DELETE")
        (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise _Damaged(found)
        if _rows(copy) != rows:
            raise _Damaged("rows are missing in the copy")
    return rows


def _rows(session: SqliteSession) -> dict[str, int]:
    names = [
        name
        for (name,) in session.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            " ORDER BY name"
        ).fetchall()
    ]
    return {name: session.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


def _name(part: str, target: Path, *, replace: bool) -> None:
    if replace:
        os.replace(part, target)
        return
    try:
        os.link(part, target)  # which no file stands in the way of unseen
    except FileExistsError:
        raise _exists(target) from None
    except OSError:
        # A file system without links, as on many memory cards.
        if os.path.lexists(target):
            raise _exists(target) from None
        os.rename(part, target)


def _sync_directory(directory: Path) -> None:
    with suppress(OSError):  # Windows opens none, and some file systems sync none
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Whether a database still holds what was written: SQLite itself notices damage late, if at all.

A writing connection works from its own cache and appends to the WAL, so it goes on "succeeding"
while the file under it is overwritten or cut off. What tells is another connection: it reads back
what was committed, and where that fails, or any reading failed so, the whole file is looked
through.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""Primary result codes that say so; the others pass, or are a fault of the question."""

MOST_IDS: Final = 500
"""Values in one statement; SQLite until 3.32 takes 999."""


def tells_of_damage(error: sqlite3.Error) -> bool:
    """Whether an error of reading or writing is a reason to look through the file."""
    # A file that was cut off to nothing is a sound one, without tables.
    return primary_code(error) in DAMAGE or "no such table" in str(error)


def primary_code(error: sqlite3.Error) -> int:
    """Extended codes carry it in their low byte; Python's own errors have none: 0."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def are_there(ids: Sequence[str], reader: sqlite3.Connection) -> bool:
    """Whether the rows of these requests can be read back. Raises `sqlite3.Error`."""
    return all(_are_there(ids[n : n + MOST_IDS], reader) for n in range(0, len(ids), MOST_IDS))


def _are_there(ids: Sequence[str], reader: sqlite3.Connection) -> bool:
    # By a column that is in no index beside the id's, so that the rows themselves are read.
    query = (
        f"SELECT count(success) FROM requests WHERE correlation_id IN ({', '.join('?' * len(ids))})"
    )
    (found,) = reader.execute(query, ids).fetchone()
    return bool(found == len(ids))


def fault_in(reader: sqlite3.Connection, version: int) -> str | None:
    """What is wrong with the file, `None` if it is sound. Reads all of it.

    Raises `sqlite3.Error` for what does not say whether it is.
    """
    try:
        if reader.execute("PRAGMA user_version").fetchone() != (version,):
            return "it is not the file that was opened"
        (found,) = reader.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if primary_code(error) in DAMAGE:
            return str(error)
        raise
    return None if found == "ok" else str(found).replace("\n", " ")

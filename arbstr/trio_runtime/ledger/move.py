"""A ledger moved into another engine, or another file: every row, under its number.

    source --what killed ones left is written--> nobody lives on it --> one state of it
        --BATCH_ROWS in the order of their key, a transaction--> target
    both are added up, day by day, and agree --> the mark goes, and the target is a ledger

While the table `moving` is there the target is none: arbstr refuses it. It holds what the source
added up to at the beginning. Killed at any moment, the next move finds it and goes on behind the
greatest key of each table; if the source has been used since, all begins anew. A target that has
the very same already is done; one with other rows is refused.

The day's leases stay behind: who gets the first of another ledger counts what was spent without
one. What keeps itself (sums, who lives) is made there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import isclose
from typing import Any, Final, final
from uuid import uuid4

import trio

from arbstr.sansio.errors import StartError
from arbstr.sansio.frozen import dataclass
from arbstr.trio_runtime.ledger.database import open_database, open_for_reading, shown
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import MOVER, Database, Row, Session

BATCH_ROWS: Final = 1000
"""Rows a transaction: five of the log writer's batches, and far from what would be late."""

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "token_ratios": ("policy",),
    "node_prices": ("id",),
    "node_listings": ("provider",),
    "checkpoints": ("id",),
    "attempts": ("correlation_id", "n"),
    "requests": ("id",),
}
"""What is moved, and the primary key of each."""

Progress = Callable[[str, int, int], None]
"""Told after each batch: the table, its rows there now, and how many there are to be."""


@final
@dataclass(frozen=True, slots=True)
class Sums:
    """What a ledger adds up to: `rows` of each table, and figures of each day by what was added."""

    rows: Mapping[str, int]
    requests: Mapping[str, Sequence[float]]
    attempts: Mapping[str, Sequence[float]]
    days: Mapping[str, Sequence[float]]

    def differences(self, other: "Sums") -> list[str]:
        """Where they are not the same, for a person; amounts within what adding them up loses."""
        found = [
            f"{table}: {count} rows and {other.rows[table]}"
            for table, count in self.rows.items()
            if count != other.rows[table]
        ]
        for name in ("requests", "attempts", "days"):
            mine, theirs = getattr(self, name), getattr(other, name)
            found += [
                f"{name} of {day}: {mine.get(day)} and {theirs.get(day)}"
                for day in sorted(mine.keys() | theirs.keys())
                if not _same(mine.get(day, ()), theirs.get(day, ()))
            ]
        return found


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        isclose(a, b, rel_tol=1e-9, abs_tol=1e-6) for a, b in zip(one, other, strict=True)
    )


@final
@dataclass(frozen=True, slots=True)
class Moved:
    """What is there now. `already`: before this move, too; `anew`: one that was begun was undone,
    because the source had been used since."""

    sums: Sums
    already: bool
    anew: bool


async def move(source: str, target: str, progress: Progress) -> Moved:
    """Moves the ledger at one place to another.

    Raises `StartError` for what cannot be, and `Trouble`; moved again, it goes on.
    """
    boot_id = MOVER + uuid4().hex
    async with (
        open_database(source, boot_id=boot_id) as before,
        open_database(target, boot_id=boot_id, unfinished=True) as after,
    ):
        async with open_log_writer(before) as log_writer:
            if not log_writer.recovered:
                raise _refused(source, "what a killed arbstr had noted cannot be written into it")
        for place, database in ((source, before), (target, after)):
            await _check_alone(place, database)
        with open_for_reading(source) as session:
            sums = await trio.to_thread.run_sync(add_up, session)
            already, anew = await _begin(target, after, sums)
            if not already:
                await _copy(session, after, sums, progress)
        await _check_alone(source, before)
        if (await before.read(add_up)).differences(sums):
            raise _refused(source, "it was written to meanwhile; stop what does, and move it again")
        if not already:
            there = await after.read(add_up)
            if different := there.differences(sums):
                raise _refused(target, f"it is not the same as the other: {different[0]}")
            await after.many_came()
            await after.transaction(_end)
    return Moved(sums, already, anew)


def _refused(place: str, why: str) -> StartError:
    return StartError((f"{shown(place)}: {why}",))


async def _check_alone(place: str, database: Database) -> None:
    others = await database.others()
    if others:
        raise _refused(
            place,
            f"{others} other arbstr use it; stop them first (one in PostgreSQL that was killed "
            "counts for a minute)",
        )


def add_up(session: Session) -> Sums:
    """What a ledger adds up to. Blocks: a second for a million rows."""
    session.execute(session.question("take_time")).fetchall()

    def by_day(question: str) -> dict[str, Sequence[float]]:
        return {day: tuple(row) for day, *row in session.execute(session.question(question))}

    return Sums(
        {table: _count(session, table) for table in KEYS},
        by_day("sums_of_requests"),
        by_day("sums_of_attempts"),
        by_day("sums_of_days"),
    )


def _count(session: Session, table: str) -> int:
    (count,) = session.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


@final
@dataclass(frozen=True, slots=True)
class _Found:
    """What a target holds: what the source of a move that is not finished added up to, if there is
    such a mark; else whether there are rows, and what they add up to."""

    marked: str | None
    sums: Sums | None = None


def _look(session: Session) -> _Found:
    session.execute(session.question("take_time")).fetchall()
    (marked,) = session.execute(session.question("unfinished_move")).fetchone()
    if marked:
        (told,) = session.execute("SELECT source FROM moving").fetchone()
        return _Found(str(told))
    return _Found(None, add_up(session) if any(_count(session, each) for each in KEYS) else None)


async def _begin(place: str, target: Database, source: Sums) -> tuple[bool, bool]:
    """Marks the target, and removes what an older state of the source left there.

    Returns whether it is done already, and whether that had to be. Raises `StartError` for rows of
    others.
    """
    found = await target.read(_look)
    if found.sums is not None:
        if found.sums.differences(source):
            raise _refused(
                place,
                "it has rows of its own, which the other ledger has not: choose another one, or "
                "remove what is there",
            )
        return True, False
    if found.marked is not None and not Sums(**json.loads(found.marked)).differences(source):
        return False, False
    if found.marked is not None:
        for table, key in KEYS.items():
            while await target.transaction(partial(_remove, table=table, key=key)):
                pass
    await target.transaction(partial(_mark, source=source))
    return False, found.marked is not None


def _remove(session: Session, table: str, key: Sequence[str]) -> int:
    names = ", ".join(key)
    some = f"SELECT {names} FROM {table} ORDER BY {names} LIMIT {BATCH_ROWS}"
    return session.execute(f"DELETE FROM {table} WHERE ({names}) IN ({some})").rowcount


def _mark(session: Session, source: Sums) -> None:
    session.execute("CREATE TABLE IF NOT EXISTS moving (source TEXT NOT NULL)")
    session.execute("DELETE FROM moving")
    session.execute("INSERT INTO moving (source) VALUES (?)", (json.dumps(asdict(source)),))


def _end(session: Session) -> None:
    """The target is a ledger."""
    session.execute(session.question("moved_last")).fetchall()
    session.execute("DROP TABLE moving")


async def _copy(session: Session, target: Database, sums: Sums, progress: Progress) -> None:
    for table, key in KEYS.items():
        last = await target.read(partial(_last, table=table, key=key))
        there = await target.read(partial(_count, table=table))
        while True:
            names, rows = await trio.to_thread.run_sync(_next, session, table, key, last)
            if not rows:
                break
            await target.transaction(partial(_insert, table=table, names=names, rows=rows))
            there += len(rows)
            last = tuple(rows[-1][names.index(name)] for name in key)
            progress(table, there, sums.rows[table])


def _insert(session: Session, table: str, names: Sequence[str], rows: Sequence[Row]) -> None:
    session.insert(f"move_{table}", names, rows)


def _last(session: Session, table: str, key: Sequence[str]) -> tuple[Any, ...] | None:
    """The greatest key; None for an empty table."""
    order = ", ".join(f"{name} DESC" for name in key)
    row = session.execute(
        f"SELECT {', '.join(key)} FROM {table} ORDER BY {order} LIMIT 1"
    ).fetchone()
    return None if row is None else tuple(row)


def _next(
    session: Session, table: str, key: Sequence[str], last: Sequence[object] | None
) -> tuple[Sequence[str], Sequence[Row]]:
    """The names of the columns, and the rows behind the last one."""
    names = ", ".join(key)
    behind = f"WHERE ({names}) > ({', '.join('?' * len(key))})" if last is not None else ""
    found = session.execute(
        f"SELECT * FROM {table} {behind} ORDER BY {names} LIMIT {BATCH_ROWS}", last or ()
    )
    return [column[0] for column in found.description or ()], found.fetchall()

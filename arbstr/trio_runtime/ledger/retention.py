"""Old rows leave the log: `[database] retention_days`, in small batches.

    at start and every hour:  batch, pause, batch, pause, ... until nothing is older

A batch is one short transaction of the writing connection: rows that wait to be written wait a
few milliseconds for it, and what it adds to the WAL is checkpointed like the rest. The pages that
become free are given back to the file system by the same steps. A request in flight is never old.
Whether the clock is to be believed is decided by `sansio.ledger.retention`.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio.ledger import retention
from arbstr.sansio.moments import format_moment, parse_moment
from arbstr.trio_runtime.ledger.checkpoints import last_request
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble

BATCH_ROWS: Final = 250
"""Requests a transaction: about 40 ms in the thread (bench/million_rows.py)."""

PAUSE_SECONDS: Final = 0.1
"""Between two batches, for the log writer and the disk: a million rows leave in some minutes."""

INTERVAL_SECONDS: Final = 3600.0
"""How often old rows are looked for; a day's worth of them leaves in 24 portions. Picked."""

_log = logging.getLogger(__name__)


@final
class Retention:
    """Removes what is older than `days`."""

    def __init__(self, database: Database, days: int) -> None:
        self._database = database
        self._days = days
        self._clock = retention.Retention(days)
        self._doubts = False

    async def run(self) -> None:
        """Sweeps now and every hour; does not return."""
        while True:
            try:
                await self._look()
            except Trouble as error:
                _log.warning("old requests cannot be removed now (%s)", error)
            await trio.sleep(INTERVAL_SECONDS)

    async def _look(self) -> None:
        newest = None
        if self._clock.wants_newest:
            newest = await self._database.read(partial(_newest_row, self._database.boot_id))
        before = self._clock.before(time.time_ns() // 1_000_000, trio.current_time(), newest)
        if isinstance(before, retention.Doubted):
            if not self._doubts:
                _log.warning(
                    "no old requests are removed: the clock says %s, and by the newest row or the "
                    "clock until now it should be about %s; it is believed once it has run on for "
                    "a day",
                    format_moment(before.now),
                    format_moment(before.expected),
                )
            self._doubts = True
            return
        self._doubts = False
        removed = await self.sweep(before)
        if removed:
            _log.info("%d requests older than %d days removed", removed, self._days)

    async def sweep(self, before: int, *, pause: float = PAUSE_SECONDS) -> int:
        """Removes all that is older than the moment `before`; returns how many requests that were.

        Raises `Trouble`; what was removed until then stays removed.
        """
        removed = 0
        while True:
            batch = await self._database.transaction(partial(_remove, format_moment(before)))
            removed += batch
            if batch < BATCH_ROWS:
                return removed
            await trio.sleep(pause)


def _remove(before: str, session: Session) -> int:
    removed = 0
    for question in ("forget_attempts", "forget_requests"):
        removed = session.execute(
            session.question(question), {"before": before, "rows": BATCH_ROWS}
        ).rowcount  # of the last one, which is the requests
    session.execute(session.question("forget_checkpoints"), {"before": before})
    if removed:
        last = last_request(session)
        session.execute(session.question("renumber_checkpoints"), {"last": last})
    session.give_back()
    return removed


def _newest_row(boot_id: str, session: Session) -> int | None:
    """When the newest request of before this process was received."""
    rows = session.execute(session.question("newest_request"), {"boot_id": boot_id})
    row = rows.fetchone()
    return None if row is None else parse_moment(row[0])


@asynccontextmanager
async def open_retention(database: Database, days: int | None) -> AsyncIterator[None]:
    """Old rows are removed while the block runs; `None` keeps them all."""
    async with trio.open_nursery() as nursery:
        if days is not None:
            nursery.start_soon(Retention(database, days).run)
        yield
        nursery.cancel_scope.cancel()

"""What the log knows of the money spent today, read once, when arbstr starts.

Read also without a budget, because a reload may bring one. What this process spends itself is
counted in memory (`sansio.budget`), so several processes that share a log do not see one another.
"""

import logging
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import trio

from arbstr.sansio.budget import Budget
from arbstr.sansio.money import add_sats, format_sats
from arbstr.trio_runtime.database import Database, read_sql

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 1.0
"""How long to wait before a database that could not be read is tried again; picked."""

LONGEST_REQUEST: Final = timedelta(days=1)
"""How long before its attempt a request may have been received; minutes are usual."""


async def remember_today(budget: Budget, database: Database) -> bool:
    """Books what was spent today before this process; `False` if that cannot be read now.

    Then `remember_later` is to be started: a locked database does not keep arbstr from starting.
    """
    trouble = await _try(budget, database)
    if trouble is not None:
        log.warning(
            "what was spent today cannot be read yet (%s): until then the budget counts from 0",
            trouble,
        )
    return trouble is None


async def remember_later(budget: Budget, database: Database) -> None:
    """Tries again until it can be read."""
    while True:
        await trio.sleep(AGAIN_SECONDS)
        if await _try(budget, database) is None:
            return


async def _try(budget: Budget, database: Database) -> sqlite3.Error | None:
    now = time.time()
    try:
        sats = await trio.to_thread.run_sync(_spent_on_day_of, database, now)
    except sqlite3.Error as error:
        return error
    budget.remember(sats, now)
    account = budget.view(now)
    if account.limit is not None:
        log.info(
            "budget: %s of %s sats of today (UTC) are spent",
            format_sats(account.spent),
            format_sats(account.limit),
        )
    return None


def _spent_on_day_of(database: Database, now: float) -> Decimal:
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    parameters = {
        "asked_since": _logged(midnight - LONGEST_REQUEST),
        "since": _logged(midnight),
        "boot_id": database.boot_id,
    }
    with closing(database.connect_reader()) as reader:
        rows = reader.execute(read_sql("spent_since"), parameters)
        # The digits of the column, not the binary fraction behind them.
        return add_sats(*(Decimal(repr(sats)) for (sats,) in rows if sats is not None))


def _logged(moment: datetime) -> str:
    """In the log's format."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

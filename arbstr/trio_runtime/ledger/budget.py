"""What the log knows of the money spent today: read at the start, and whenever the day is another.

    the clock says a day that was not read --> its attempts, midnight to midnight --> the budget
    it cannot be read --> tried again each second; with a budget, requests that cost are refused,
                          and after `HOLD_SECONDS` let through only with `[budget] open`

The clock may have been wrong at the start, and may be put right, ahead or back, at any time: so it
is the day that is read, not the start. What this process spends itself is counted in memory
(`sansio.routing.budget`). Where several may share a ledger it is `leases` that does this.
"""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio.money import add_sats, format_eyes, format_sats
from arbstr.sansio.routing.budget import DAY_SECONDS, Budget, day_of
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 1.0
"""How long to wait before a database that could not be read is tried again; picked."""

HOLD_SECONDS: Final = 5.0
"""How long a database that cannot be read is waited for before `[budget] open` counts; picked."""

PATIENCE_SECONDS: Final = 1.0
"""How long a request waits for a day to be read, which takes milliseconds; picked."""

LONGEST_REQUEST: Final = timedelta(days=1)
"""How long before its attempt a request may have been received; minutes are usual."""


BUT_ONE: Final = "coalesce(requests.boot_id, '') <> :boot_id"
OF_ONE: Final = "requests.boot_id = :boot_id"
WITHOUT_LEASE: Final = (
    "coalesce(requests.boot_id, '') NOT IN (SELECT boot_id FROM budget_leases WHERE day = :day)"
)
"""Of which processes attempts are, for `sum_of_day`: of all but one, whose rows are in its memory;
of one; of those that have no lease of the day."""

UNREAD: Final = (
    "what was spent today cannot be read yet (%s): until then a budget lets nothing through that "
    "costs"
)
"""With why."""


@final
class Today:
    """Tells the budget what others spent on the day it is. `run` does so until cancelled.

    `recovered` says whether the database knows what an arbstr that was killed had noted.
    """

    def __init__(
        self, budget: Budget, database: Database, recovered: Callable[[], bool] = lambda: True
    ) -> None:
        self._budget = budget
        self._database = database
        self._recovered = recovered
        self._wanted = trio.Event()
        self._tried = trio.Event()
        self._trouble_since: float | None = None
        budget.has_ledger = True

    async def read(self) -> bool:
        """Books what was spent today before this process; `False` if that cannot be read now."""
        now = time.time()
        try:
            if not self._recovered():
                raise Trouble("what a killed arbstr had noted is not in it yet")
            sats = await self._database.read(
                partial(read_spent, now=now, but_by=self._database.boot_id)
            )
        except (Trouble, ArithmeticError) as error:
            # The latter for a column that holds no number: somebody wrote into the file.
            self._endure(error, now)
            known = False
        else:
            self._trouble_since = None
            self._budget.remember(sats, now)
            say_spent(self._budget, now)
            known = True
        tried, self._tried = self._tried, trio.Event()
        tried.set()
        return known

    async def run(self) -> None:
        """Reads each day once, when it is asked for."""
        while True:
            if not self._budget.is_unread(time.time()):
                self._wanted = trio.Event()
                await self._wanted.wait()
            elif not await self.read():
                await trio.sleep(AGAIN_SECONDS)

    def ask(self) -> None:
        """Has the day read, and does not wait for it."""
        self._wanted.set()

    async def wait(self, most: Decimal | None = None) -> None:
        """Asks for the day to be read, and waits a moment for that, whatever the amount."""
        self._wanted.set()
        with trio.move_on_after(PATIENCE_SECONDS):
            await self._tried.wait()

    async def close(self) -> None:
        """The process ends: there is nothing to give back."""
        await trio.lowlevel.checkpoint()

    def _endure(self, trouble: Exception, now: float) -> None:
        if self._trouble_since is None:
            self._trouble_since = trio.current_time()
            log.warning(UNREAD, trouble)
        if trio.current_time() - self._trouble_since >= HOLD_SECONDS:
            self._budget.presume(now)


def say_spent(budget: Budget, now: float) -> None:
    """What is spent of the day, if it has a limit: for the log of a start, or of a new day."""
    account = budget.view(now)
    if account.limit is not None:
        log.info(
            "budget: %s of %s sats of today (UTC) are spent",
            format_eyes(account.spent),
            format_sats(account.limit),
        )


def read_spent(session: Session, now: float, *, but_by: str) -> Decimal:
    """What the log has of the day of `now`, in sats, without the rows of the process `but_by`.

    Blocks; raises what the session does.
    """
    return sum_of_day(session, BUT_ONE, day_of(now), {"boot_id": but_by})


def sum_of_day(session: Session, whose: str, day: int, parameters: Mapping[str, object]) -> Decimal:
    """The sum, exact, of what attempts of a UTC day may have cost. `whose` is a condition from the
    constants here, and `parameters` what it binds. Blocks; raises as the session does."""
    midnight = datetime.fromtimestamp(day * DAY_SECONDS, UTC)
    ends = {
        "asked_since": _logged(midnight - LONGEST_REQUEST),
        "since": _logged(midnight),
        "until": _logged(midnight + timedelta(days=1)),
    }
    sql = session.question("spent_between").format(whose=whose)
    rows = session.execute(sql, {**ends, **parameters})
    # The digits of the column, not the binary fraction behind them.
    return add_sats(*(Decimal(repr(sats)) for (sats,) in rows if sats is not None))


def _logged(moment: datetime) -> str:
    """In the log's format."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""How a day's budget is shown, and when its owner is to be told: at four fifths, and at the end.

    limit, spent, set aside, now --budget_report--> JSON, in /health, /v1/stats and `arbstr stats`
    account, after each booking --Gauge.news--> `Mark`: the day has come so far, for the first time
        (of several workers, who each know but a part: --due--> the account of all --news--> `Mark`)
    what a key holds, and what a day costs there --Purse.is_low--> whether to tell its owner now

Each mark is told once a day for a limit: a reload that sets another begins anew. A purse is told of
when it has come down to a day's spending, and once a day from then on.
"""

from decimal import Decimal
from enum import Enum
from math import ceil
from typing import Any, Final, final

from arbstr.sansio.moments import format_moment
from arbstr.sansio.money import format_eyes, format_sats
from arbstr.sansio.routing.budget import DAY_SECONDS, Account, day_of


class Mark(Enum):
    """What part of a day's budget is spent. The value is the wording of the log."""

    MOST = "80 % of"
    ALL = "all of"


FOUR_FIFTHS: Final = Decimal("0.8")
"""Of the limit: enough is left to do something about it. Experience, not measured."""


@final
class Gauge:
    """Watches one account."""

    def __init__(self) -> None:
        self._day_and_limit: tuple[int, Decimal | None] = (-1, None)
        self._told: Mark | None = None

    def news(self, account: Account, now: float) -> Mark | None:
        """What is to be told of the account now; `None` if nothing is, or has been told before."""
        mark = self.due(account, now)
        if mark is not None:
            self._told = mark
        return mark

    def due(self, account: Account, now: float) -> Mark | None:
        """The same, for who does not tell it yet."""
        limit = account.limit
        # A limit of 0 is no budget that could be used up: it says that nothing may be spent.
        if not limit:
            return None
        if (day_of(now), limit) != self._day_and_limit:
            self._day_and_limit, self._told = (day_of(now), limit), None
        if account.spent >= limit:
            mark = Mark.ALL
        elif account.spent >= limit * FOUR_FIFTHS and self._told is None:
            mark = Mark.MOST
        else:
            return None
        return None if mark is self._told else mark


@final
class Purse:
    """Watches what a key of a provider's holds. Amounts are sats, `now` seconds since 1970."""

    def __init__(self) -> None:
        self._told: float | None = None

    def is_low(self, free: Decimal, day: Decimal, now: float) -> bool:
        """Whether it is to be told that a day's spending is left, or less."""
        if not day or free > day:
            self._told = None
            return False
        if self._told is not None and now - self._told < DAY_SECONDS:
            return False
        self._told = now
        return True


def purse_line(provider: str, free: Decimal, day: Decimal) -> str:
    """That a purse is low, as a line of the log."""
    return (
        f'provider "{provider}": its key holds {format_eyes(free)} sats, and was charged '
        f"{format_eyes(day)} in the last 24 hours: top it up"
    )


def day_ends(ends_in: float) -> str:
    """When a day is over that ends in so many seconds: the rest of a sentence."""
    minutes = ceil(ends_in / 60)
    return f"at 00:00 UTC, in {minutes // 60} h {minutes % 60} min"


def mark_line(mark: Mark, account: Account) -> str:
    """A mark as a line of the log. The account has a limit."""
    assert account.limit is not None  # or there would be nothing to mark
    over = "; what costs is refused until it ends" if mark is Mark.ALL else ""
    return (
        f"budget: {mark.value} the {format_sats(account.limit)} sats of today are spent "
        f"({format_eyes(account.spent)}){over}; the day ends {day_ends(account.ends_in)}"
    )


def budget_report(
    limit: Decimal | None, spent: Decimal, set_aside: Decimal | None, now: float
) -> dict[str, Any] | None:
    """How the day of `now` stands, as JSON; `None` without a limit, unknown is null."""
    if limit is None:
        return None
    return {
        "limit": float(limit),
        "spent": float(spent),
        "set_aside": None if set_aside is None else float(set_aside),
        "ends_at": format_moment((day_of(now) + 1) * DAY_SECONDS * 1000),
    }

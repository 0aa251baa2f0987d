"""Moments of UTC as text, and spans between two of them.

A moment is an `int`: milliseconds since 1970-01-01T00:00Z, without leap seconds. The log's text of
one has a fixed width (`2026-02-03T04:05:06.789Z`), so that the order of texts is that of moments.

    "2026-02-03"  "2026-02-03T04:05:06.789+01:00"  ...  --parse--> moment --format--> the log's text

The calendar is arithmetic here, because a machine imports no clock, and `datetime` is one.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, final

from arbstr.sansio.frozen import dataclass

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

LONGEST_TEXT: Final = 64
"""Characters of a moment as text; nobody needs more, and a regular expression need not see them."""

_MOMENT: Final = re.compile(
    r"""(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)
    (?:
        [Tt ]
        (?P<hour>\d\d):(?P<minute>\d\d)
        (?: :(?P<second>\d\d) (?: [.,](?P<fraction>\d+) )? )?
        (?P<zone> [Zz] | (?P<sign>[-+ ])(?P<zone_hour>\d\d) (?: :?(?P<zone_minute>\d\d) )? )?
    )?""",
    re.ASCII | re.VERBOSE,
)


def days_of(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a date of the Gregorian calendar.

    Counted from March, so that the leap day is the last of its year
    (https://howardhinnant.github.io/date_algorithms.html#days_from_civil).
    """
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return (
        era * 146_097
        + year_of_era * 365
        + year_of_era // 4
        - year_of_era // 100
        + day_of_year
        - 719_468
    )


def date_of(days: int) -> tuple[int, int, int]:
    """Year, month and day: the way back from `days_of`."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * from_march + 2) // 5 + 1
    month = from_march + 3 if from_march < 10 else from_march - 9
    return era * 400 + year_of_era + (month <= 2), month, day


EARLIEST: Final = days_of(1, 1, 1) * DAY_MS
"""The first moment whose text has four digits of a year that is not 0."""

LATEST: Final = days_of(10_000, 1, 1) * DAY_MS - 1
"""The last one."""


@final
@dataclass(frozen=True, slots=True)
class Zone:
    """Clocks by their name; `ahead` says by how much they are ahead of UTC at a moment, in ms."""

    name: str
    ahead: Callable[[int], int]


def _not_ahead(moment: int) -> int:
    return 0


UTC: Final = Zone("UTC", _not_ahead)

_AROUND: Final = 36 * HOUR_MS
"""Clocks are put forward or back once in so long at most, and by less (Samoa left out a day)."""


def first_at(local: int, zone: Zone) -> int:
    """The first moment at which its clocks show this time or a later one.

    `local` is the time shown, as if it were UTC's. One that is shown twice is the first; for one
    that is left out it is the moment at which clocks are put forward.
    """
    before, after = zone.ahead(local - _AROUND), zone.ahead(local + _AROUND)
    shown = [local - ahead for ahead in (before, after) if zone.ahead(local - ahead) == ahead]
    if shown:
        return min(shown)
    early, late = local - max(before, after), local - min(before, after)
    while late - early > 1:
        middle = (early + late) // 2
        early, late = (early, middle) if zone.ahead(middle) == after else (middle, late)
    return late


def parse_moment(text: str, zone: Zone = UTC) -> int | None:
    """A date or a time of ISO 8601 as a moment; `None` for anything else.

    A bare date is its midnight; without `Z` or an offset it is a time of the zone. A
    blank counts as the plus of an offset, for in a query string a plus means a blank. What is finer
    than a millisecond is rounded up: a row of the log, whose time was cut to milliseconds, is then
    on the same side of the moment as before.
    """
    found = _MOMENT.fullmatch(text) if len(text) <= LONGEST_TEXT else None
    if found is None:
        return None
    year, month, day = int(found["year"]), int(found["month"]), int(found["day"])
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    zone_hour, zone_minute = int(found["zone_hour"] or 0), int(found["zone_minute"] or 0)
    if not (1 <= month <= 12 and day >= 1 and hour < 24 and minute < 60 and second < 60):
        return None
    if (
        date_of(days_of(year, month, day)) != (year, month, day)
        or zone_hour >= 24
        or zone_minute >= 60
    ):
        return None
    fraction = (found["fraction"] or "").ljust(3, "0")
    ms = int(fraction[:3]) + (fraction[3:].strip("0") != "")
    offset = (zone_hour * 60 + zone_minute) * 60_000
    local = days_of(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + ms
    if found["zone"] is None:
        moment = first_at(local, zone)
    else:
        moment = local - (-offset if found["sign"] == "-" else offset)
    return moment if EARLIEST <= moment <= LATEST else None


def format_moment(moment: int) -> str:
    """The log's text of a moment. Moments that have none give the nearest that has."""
    second, ms = divmod(min(max(moment, EARLIEST), LATEST), 1000)
    return f"{_to_the_second(second)}.{ms:03}Z"


@lru_cache(maxsize=4)
def _to_the_second(second: int) -> str:
    """Cached, because each request has a few moments in the same second."""
    days, second = divmod(second, DAY_MS // 1000)
    year, month, day = date_of(days)
    minutes, second = divmod(second, 60)
    return f"{year:04}-{month:02}-{day:02}T{minutes // 60:02}:{minutes % 60:02}:{second:02}"


@final
@dataclass(frozen=True, slots=True)
class Span:
    """The moments from `since` on and before `until`; none if they are the same."""

    since: int
    until: int

    def split(self, unit: int) -> tuple["Span", "Span", "Span"]:
        """What comes before the first whole unit (in ms), the whole ones, what comes after."""
        first = min(-(-self.since // unit) * unit, self.until)
        last = max(self.until // unit * unit, first)
        return Span(self.since, first), Span(first, last), Span(last, self.until)

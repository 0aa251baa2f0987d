"""Hours, days, weeks and months of a zone: where they begin, and which a moment lies in.

    moment --label--> "2026-10-25T02:00:00.000+02:00", "2026-10-25", "2026-W43", "2026-10"
    moment --begin--> the first moment of the period so many before its own

Weeks are those of ISO 8601: they begin on Monday and count to the year of their Thursday.

A day of a zone goes from the first moment whose local date is that or a later one to the first of
the next: 23 to 25 hours where clocks are put forward and back, and none where a date is left out.
"""

from typing import Final

from arbstr.sansio.moments import DAY_MS, HOUR_MS, Zone, date_of, days_of, first_at, format_moment

HOUR: Final = "hour"
DAY: Final = "day"
WEEK: Final = "week"
MONTH: Final = "month"

_MONDAY: Final = 3
"""1970-01-01, day 0, was a Thursday: so many days after a Monday."""


def _day(moment: int, zone: Zone) -> int:
    """The day it lies in, counted from 1970-01-01."""
    day = (moment + zone.ahead(moment)) // DAY_MS
    # Put back over midnight, clocks say the old date once more; the new day has begun all the same.
    return day + 1 if moment >= first_at((day + 1) * DAY_MS, zone) else day


def _first_day(unit: str, day: int, back: int) -> int:
    """The first day of the period that lies `back` before the one with this day."""
    if unit == DAY:
        return day - back
    if unit == WEEK:
        return day - (day + _MONDAY) % 7 - 7 * back
    year, month, _ = date_of(day)
    months = year * 12 + month - 1 - back
    return days_of(months // 12, months % 12 + 1, 1)


def begin(unit: str, moment: int, zone: Zone, back: int = 0) -> int:
    """Of the day, week or month `back` before the one that the moment lies in; negative: after."""
    return first_at(_first_day(unit, _day(moment, zone), back) * DAY_MS, zone)


def label(unit: str, moment: int, zone: Zone) -> str:
    """What the period is called that the moment lies in."""
    if unit == HOUR:
        local = moment + zone.ahead(moment)
        return in_zone(moment - local % HOUR_MS, zone, zone.ahead(moment))
    day = _day(moment, zone)
    if unit == WEEK:
        thursday = _first_day(WEEK, day, 0) + 3  # whose year the week counts to
        year, _, _ = date_of(thursday)
        return f"{year:04}-W{(thursday - days_of(year, 1, 1)) // 7 + 1:02}"
    year, month, of_month = date_of(day)
    return f"{year:04}-{month:02}" if unit == MONTH else f"{year:04}-{month:02}-{of_month:02}"


def in_zone(moment: int, zone: Zone, ahead: int | None = None) -> str:
    """A moment as clocks of the zone show it, with how far they are ahead of UTC."""
    ahead = zone.ahead(moment) if ahead is None else ahead
    if zone.name == "UTC":
        return format_moment(moment)
    minutes = abs(ahead) // 60_000
    sign = "-" if ahead < 0 else "+"
    return f"{format_moment(moment + ahead)[:-1]}{sign}{minutes // 60:02}:{minutes % 60:02}"

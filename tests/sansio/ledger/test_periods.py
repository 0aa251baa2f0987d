"""Where days, weeks and months begin, whatever is done to clocks."""

from datetime import UTC as UTC_OF_DATETIME
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.ledger.periods import DAY, HOUR, MONTH, WEEK, begin, in_zone, label
from arbstr.sansio.moments import DAY_MS, HOUR_MS, UTC, Zone, first_at, format_moment, parse_moment
from tests.zones import zone_of

BERLIN_SPRING = zone_of(60, 120, at="2026-03-29T01:00")
BERLIN_AUTUMN = zone_of(120, 60, at="2026-10-25T01:00")
BEIRUT = zone_of(120, 180, at="2026-03-28T22:00")  # midnight itself is left out
NEWFOUNDLAND = zone_of(-150, -210, at="2009-11-01T02:31")  # at 00:01, back over midnight
SAMOA = zone_of(-600, 840, at="2011-12-30T10:00")  # a whole date is left out
LORD_HOWE = zone_of(660, 630, at="2026-04-04T15:00")  # half an hour
NEPAL = zone_of(345)

ZONES = (
    *(UTC, BERLIN_SPRING, BERLIN_AUTUMN, BEIRUT, NEWFOUNDLAND, SAMOA, LORD_HOWE, NEPAL),
    zone_of(-720),
)


def at(text: str) -> int:
    moment = parse_moment(text)
    assert moment is not None
    return moment


@pytest.mark.parametrize(
    ("zone", "day", "since", "hours"),
    [
        (UTC, "2026-03-29", "2026-03-29T00:00", 24),
        (BERLIN_SPRING, "2026-03-29", "2026-03-28T23:00", 23),
        (BERLIN_AUTUMN, "2026-10-25", "2026-10-24T22:00", 25),
        (BEIRUT, "2026-03-29", "2026-03-28T22:00", 23),
        (BEIRUT, "2026-03-28", "2026-03-27T22:00", 24),
        (NEWFOUNDLAND, "2009-11-01", "2009-11-01T02:30", 25),
        (SAMOA, "2011-12-29", "2011-12-29T10:00", 24),
        (SAMOA, "2011-12-30", "2011-12-30T10:00", 0),
        (SAMOA, "2011-12-31", "2011-12-30T10:00", 24),
        (LORD_HOWE, "2026-04-05", "2026-04-04T13:00", 24.5),
        (NEPAL, "2026-02-03", "2026-02-02T18:15", 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_say(zone: Zone, day: str, since: str, hours: float) -> None:
    first = parse_moment(day, zone)
    assert first == at(since)
    assert first_at(at(day) + DAY_MS, zone) - first == hours * HOUR_MS
    if hours:
        assert begin(DAY, first, zone) == first
        assert begin(DAY, first + int(hours * HOUR_MS) - 1, zone) == first
        assert label(DAY, first, zone) == label(DAY, first + HOUR_MS, zone) == day
        assert label(DAY, first - 1, zone) < day


def moments(year: int, until: int) -> st.SearchStrategy[int]:
    return st.integers(at(f"{year:04}-01-01"), at(f"{until}-01-01"))


@given(moments(1990, 2060), st.sampled_from([DAY, WEEK, MONTH]), st.sampled_from(ZONES))
def test_periods_follow_each_other_without_a_gap(moment: int, unit: str, zone: Zone) -> None:
    this, following = (begin(unit, moment, zone, back) for back in (0, -1))
    if zone is SAMOA and unit == DAY and following == this:
        return  # the day before the one that was left out
    assert this <= moment < following
    assert begin(unit, this, zone) == this
    assert begin(unit, following, zone) == following
    assert label(unit, this, zone) == label(unit, moment, zone) < label(unit, following, zone)
    assert begin(unit, following, zone, 1) <= following


@given(moments(1, 9999))
def test_weeks_and_months_are_those_of_the_calendar(moment: int) -> None:
    there = datetime.fromtimestamp(moment // 1000, UTC_OF_DATETIME)
    year, week, _ = there.isocalendar()
    assert label(WEEK, moment, UTC) == f"{year:04}-W{week:02}"
    assert label(MONTH, moment, UTC) == f"{there.year:04}-{there.month:02}"
    assert label(DAY, moment, UTC) == str(there.date())
    assert datetime.fromtimestamp(begin(WEEK, moment, UTC) // 1000, UTC_OF_DATETIME).weekday() == 0


@pytest.mark.parametrize(
    ("day", "week"),
    [
        ("2024-12-30", "2025-W01"),
        ("2026-01-04", "2026-W01"),
        ("2027-01-03", "2026-W53"),
        ("2027-01-04", "2027-W01"),
    ],
)
def test_a_week_belongs_to_the_year_of_its_thursday(day: str, week: str) -> None:
    assert label(WEEK, at(day), UTC) == week


def test_an_hour_that_comes_twice_has_two_names() -> None:
    one, two = at("2026-10-25T00:30"), at("2026-10-25T01:30")
    assert label(HOUR, one, BERLIN_AUTUMN) == "2026-10-25T02:00:00.000+02:00"
    assert label(HOUR, two, BERLIN_AUTUMN) == "2026-10-25T02:00:00.000+01:00"
    assert label(HOUR, one, UTC) == format_moment(at("2026-10-25T00:00"))
    assert in_zone(one, zone_of(-210)) == "2026-10-24T21:00:00.000-03:30"


def test_a_time_without_a_zone_is_the_zone_s_and_one_with_one_is_not() -> None:
    assert parse_moment("2026-03-29T03:30", BERLIN_SPRING) == at("2026-03-29T01:30")
    assert parse_moment("2026-03-29T02:30", BERLIN_SPRING) == at("2026-03-29T01:00")  # left out
    assert parse_moment("2026-10-25T02:30", BERLIN_AUTUMN) == at("2026-10-25T00:30")  # the first
    assert parse_moment("2026-03-29T02:30Z", BERLIN_SPRING) == at("2026-03-29T02:30")

"""Which rows are too old, by a clock that may be wrong."""

from typing import Final

import pytest

from arbstr.sansio.ledger.retention import DOUBT_SECONDS, Doubted, Retention
from arbstr.sansio.moments import DAY_MS

NOW: Final = 20_000 * DAY_MS
HOUR: Final = 3600.0
KEEP: Final = 30


def retention() -> Retention:
    return Retention(KEEP)


@pytest.mark.parametrize("newest", [None, NOW, NOW - 29 * DAY_MS, NOW + 365 * DAY_MS])
def test_a_clock_that_rows_bear_out_is_believed(newest: int | None) -> None:
    assert retention().before(NOW, 0.0, newest) == NOW - KEEP * DAY_MS


@pytest.mark.parametrize("days", [30, 40, 4000])
def test_a_first_sweep_that_would_take_everything_takes_nothing(days: int) -> None:
    doubting = retention()
    newest = NOW - days * DAY_MS
    for hour in range(24):
        assert doubting.wants_newest
        wall = NOW + round(hour * HOUR * 1000)
        assert doubting.before(wall, hour * HOUR, newest) == Doubted(wall, newest)
    assert doubting.before(NOW + DAY_MS, DOUBT_SECONDS, newest) == NOW + DAY_MS - KEEP * DAY_MS
    assert not doubting.wants_newest


def test_a_clock_that_is_put_right_is_believed_at_once() -> None:
    doubting = retention()
    true = NOW - 40 * DAY_MS
    assert isinstance(doubting.before(NOW, 0.0, true), Doubted)
    assert doubting.before(true, HOUR, true) == true - KEEP * DAY_MS


def test_a_clock_that_jumps_ahead_while_it_is_watched_is_doubted_for_a_day() -> None:
    watching = retention()
    watching.before(NOW, 0.0, NOW)
    ahead = NOW + 40 * DAY_MS
    expected = NOW + round(HOUR * 1000)
    assert watching.before(ahead, HOUR) == Doubted(ahead, expected)
    assert isinstance(watching.before(ahead + DAY_MS // 2, HOUR + DOUBT_SECONDS / 2), Doubted)
    later = ahead + DAY_MS
    assert watching.before(later, HOUR + DOUBT_SECONDS) == later - KEEP * DAY_MS


def test_it_comes_back_and_goes_on_as_before_and_is_doubted_anew() -> None:
    watching = retention()
    watching.before(NOW, 0.0, NOW)
    assert isinstance(watching.before(NOW + 40 * DAY_MS, HOUR), Doubted)
    assert watching.before(NOW, 2 * HOUR) == NOW - KEEP * DAY_MS
    # The doubt of before does not count towards this one.
    assert isinstance(watching.before(NOW + 40 * DAY_MS, DOUBT_SECONDS + HOUR), Doubted)


def test_less_than_a_day_ahead_is_no_reason_to_doubt() -> None:
    watching = retention()
    watching.before(NOW, 0.0, NOW)
    assert watching.before(NOW + DAY_MS, HOUR) == NOW + DAY_MS - KEEP * DAY_MS

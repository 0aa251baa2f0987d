"""Moments as text: read in every way people write them, written in one."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.moments import (
    DAY_MS,
    EARLIEST,
    HOUR_MS,
    LATEST,
    Span,
    format_moment,
    parse_moment,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)

moments = st.integers(EARLIEST, LATEST)


@given(moments)
def test_a_moment_is_written_as_the_log_writes_it_and_read_again(moment: int) -> None:
    by_the_library = (EPOCH + moment * MS).isoformat(timespec="milliseconds")
    assert format_moment(moment) == by_the_library.replace("+00:00", "Z")
    assert parse_moment(format_moment(moment)) == moment


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31)),
    st.timedeltas(min_value=timedelta(hours=-23, minutes=-59), max_value=timedelta(hours=23)),
)
def test_an_offset_is_taken_off(local: datetime, offset: timedelta) -> None:
    zone = timezone(timedelta(minutes=offset // timedelta(minutes=1)))
    moment = local.replace(microsecond=local.microsecond // 1000 * 1000, tzinfo=zone)
    assert parse_moment(moment.isoformat(timespec="milliseconds")) == (moment - EPOCH) // MS


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-03T04:05:06.789Z",
        "2026-02-03t04:05:06.789z",
        "2026-02-03 04:05:06.789",
        "2026-02-03T04:05:06,789Z",
        "2026-02-03T04:05:06.7890000Z",
        "2026-02-03T04:05:06.789+00:00",
        "2026-02-03T05:05:06.789+01:00",
        "2026-02-03T05:05:06.789+0100",
        "2026-02-03T05:05:06.789+01",
        "2026-02-03T05:05:06.789 01:00",  # what becomes of a plus in a query string
        "2026-02-02T22:35:06.789-05:30",
        "2026-02-03T04:05:06.7881Z",  # a row of .788 is before it, one of .789 is not
    ],
)
def test_every_way_to_write_one_moment_means_it(text: str) -> None:
    assert parse_moment(text) == parse_moment("2026-02-03T04:05:06.789Z") == 1770091506789


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("2026-02-03", "2026-02-03T00:00:00.000Z"),
        ("2026-02-03T04:05", "2026-02-03T04:05:00.000Z"),
        ("2026-02-03T04:05Z", "2026-02-03T04:05:00.000Z"),
        ("2026-02-03T04:05:06", "2026-02-03T04:05:06.000Z"),
        ("2026-02-03T04:05:06.7Z", "2026-02-03T04:05:06.700Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000Z"),
        ("2026-12-31T23:59:59.9991Z", "2027-01-01T00:00:00.000Z"),
        ("0001-01-01", "0001-01-01T00:00:00.000Z"),
    ],
)
def test_what_is_left_out_is_zero(short: str, long: str) -> None:
    assert parse_moment(short) == parse_moment(long)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "1770091506",
        "2026-2-3",
        "2026-02-30",
        "2023-02-29",
        "2026-00-01",
        "2026-13-01",
        "2026-01-00",
        "0000-01-01",
        "2026-02-03T",
        "2026-02-03Z",
        "2026-02-03T04",
        "2026-02-03T24:00Z",
        "2026-02-03T04:60Z",
        "2026-02-03T04:05:60Z",
        "2026-02-03T04:05:06.Z",
        "2026-02-03T04:05:06+24:00",
        "2026-02-03T04:05:06+01:60",
        "2026-02-03T04:05:06ZZ",
        "2026-02-03T04:05:06Z\n",
        " 2026-02-03",
        "٢٠٢٦-٠٢-٠٣",  # digits, but not these
        "0001-01-01T00:00+00:01",  # before the first year
        "9999-12-31T23:59-00:01",  # after the last one that has four digits
        "2026-02-03T04:05:06." + "1" * 5000,
        "2026-02-03'; DROP TABLE requests; --",
        "\ud800",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert parse_moment(text) is None


@given(st.text(max_size=80))
def test_no_text_raises(text: str) -> None:
    moment = parse_moment(text)
    assert moment is None or EARLIEST <= moment <= LATEST


def test_moments_without_a_text_are_written_as_the_nearest_that_has_one() -> None:
    assert format_moment(EARLIEST - 1) == "0001-01-01T00:00:00.000Z"
    assert format_moment(LATEST + 1) == "9999-12-31T23:59:59.999Z"


@given(
    st.integers(-3 * DAY_MS, 3 * DAY_MS),
    st.integers(0, 2 * DAY_MS),
    st.sampled_from((HOUR_MS, DAY_MS)),
)
def test_a_span_is_split_into_whole_units_and_less_than_one_at_each_end(
    since: int, length: int, unit: int
) -> None:
    before, whole, after = Span(since, since + length).split(unit)
    assert (before.since, before.until) == (since, whole.since)
    assert (after.since, after.until) == (whole.until, since + length)
    assert before.until - before.since < unit
    assert after.until - after.since < unit
    assert whole.since <= whole.until
    if whole.since < whole.until:
        assert whole.since % unit == whole.until % unit == 0

"""Query parameters: what they mean, and what is said to those that mean nothing."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.ledger.reports import (
    RANGES,
    REQUESTS_PARAMETERS,
    STATS_PARAMETERS,
    STATUSES,
    TIMED,
    Filters,
    Group,
    Names,
    RequestsQuery,
    Sort,
    StatsQuery,
    configured_names,
    parse_requests,
    parse_stats,
    unknown_name,
)
from arbstr.sansio.moments import (
    DAY_MS,
    EARLIEST,
    HOUR_MS,
    LATEST,
    UTC,
    Span,
    Zone,
    format_moment,
    parse_moment,
)
from arbstr.sansio.routing.catalog import build_catalog
from tests.zones import zone_of

NOW = 1_770_091_506_789
"""2026-02-03T04:05:06.789Z."""

MIDNIGHT = NOW - NOW % DAY_MS
WEEK = Span(NOW - 7 * DAY_MS, NOW)

Parse = Callable[..., StatsQuery | RequestsQuery | ErrorReply]


def span_of(*parameters: tuple[str, str], now: int = NOW) -> Span:
    query = parse_stats(parameters, now=now)
    assert isinstance(query, StatsQuery), query
    return query.filters.span


def refusal(parse: Parse, *parameters: tuple[str, str]) -> str:
    """The message of the 400."""
    found = parse(parameters, now=NOW)
    assert isinstance(found, ErrorReply), found
    assert (found.status, found.code) == (400, "invalid_parameter")
    return found.message


# -- what is asked


def test_without_parameters_all_of_the_last_seven_days_is_asked_for() -> None:
    assert parse_stats((), now=NOW) == StatsQuery(Filters(WEEK))
    assert parse_requests((), now=NOW) == RequestsQuery(Filters(WEEK))


def test_every_parameter_of_stats_is_heard() -> None:
    parameters = (
        ("range", "last_24h"),
        ("until", "2026-02-03"),
        ("model", "gpt-4o"),
        ("provider", "alpha"),
        ("policy", "code"),
        ("endpoint", "responses"),
        ("group_by", "day"),
    )
    assert parse_stats(parameters, now=NOW) == StatsQuery(
        Filters(Span(MIDNIGHT - DAY_MS, MIDNIGHT), "gpt-4o", "alpha", "code", "responses"),
        Group.DAY,
    )


def test_every_parameter_of_requests_is_heard() -> None:
    parameters = (
        ("since", "2026-02-03"),
        ("model", "gpt-4o"),
        ("provider", "alpha"),
        ("policy", "code"),
        ("endpoint", "embeddings"),
        ("success", "false"),
        ("streaming", "true"),
        ("status", "abandoned"),
        ("page", "0012"),
        ("per_page", "100"),
        ("sort", "cost_sats"),
        ("order", "asc"),
    )
    assert parse_requests(parameters, now=NOW) == RequestsQuery(
        Filters(Span(MIDNIGHT, NOW), "gpt-4o", "alpha", "code", "embeddings"),
        success=False,
        streaming=True,
        status="abandoned",
        page=12,
        per_page=100,
        sort=Sort.COST,
        descending=False,
    )


def test_the_statuses_with_a_latency_are_statuses() -> None:
    assert set(TIMED) < set(STATUSES)


# -- spans


@pytest.mark.parametrize(("name", "length"), RANGES.items())
def test_a_range_ends_now(name: str, length: int) -> None:
    assert span_of(("range", name)) == Span(NOW - length, NOW)


def test_a_range_makes_the_end_that_was_not_given() -> None:
    hour = ("range", "last_1h")
    assert span_of(hour, ("until", "2026-02-03")) == Span(MIDNIGHT - HOUR_MS, MIDNIGHT)
    assert span_of(hour, ("since", "2026-02-03")) == Span(MIDNIGHT, MIDNIGHT + HOUR_MS)


def test_without_a_range_since_goes_on_until_now_and_until_begins_a_week_before() -> None:
    assert span_of(("since", "2026-02-03")) == Span(MIDNIGHT, NOW)
    assert span_of(("until", "2026-02-03")) == Span(MIDNIGHT - 7 * DAY_MS, MIDNIGHT)


def test_since_in_the_future_is_an_empty_span() -> None:
    later = MIDNIGHT + DAY_MS
    assert span_of(("since", "2026-02-04")) == Span(later, later)


def test_a_span_may_be_empty_but_not_end_before_it_begins() -> None:
    assert span_of(("since", "2026-02-03"), ("until", "2026-02-03")) == Span(MIDNIGHT, MIDNIGHT)
    late = (("since", "2026-02-04"), ("until", "2026-02-03"))
    assert refusal(parse_stats, *late) == '"since" must not be after "until".'


def test_a_range_cannot_go_with_both_ends() -> None:
    both = (("since", "2026-02-02"), ("until", "2026-02-03"), ("range", "last_1h"))
    assert refusal(parse_stats, *both) == '"range" cannot go with both "since" and "until".'


def test_no_span_leaves_the_calendar() -> None:
    assert span_of(("until", "0001-01-01")) == Span(EARLIEST, EARLIEST)
    last = ("since", "9999-12-31T23:59:59.999Z")
    assert span_of(last, ("range", "last_7d")) == Span(LATEST, LATEST)


# -- what is refused


PARSERS: tuple[tuple[Parse, tuple[str, ...]], ...] = (
    (parse_stats, STATS_PARAMETERS),
    (parse_requests, REQUESTS_PARAMETERS),
)


@pytest.mark.parametrize(("parse", "known"), PARSERS)
def test_an_unknown_parameter_is_refused_with_the_known_ones(
    parse: Parse, known: tuple[str, ...]
) -> None:
    message = refusal(parse, ("modell", "gpt-4o"))
    assert message == f'"modell" is no parameter here; there are {", ".join(known)}.'


@pytest.mark.parametrize(("parse", "known"), PARSERS)
def test_an_empty_and_a_second_value_are_refused(parse: Parse, known: tuple[str, ...]) -> None:
    for name in known:
        assert refusal(parse, (name, "")).startswith(f'"{name}" is empty; give it a value')
    twice = (("model", "a"), ("model", "a"))
    assert refusal(parse, *twice) == '"model" is given more than once.'


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        (
            "range",
            "last_0h",
            "last_1h, last_24h, last_7d, last_30d, today, yesterday, this_week, last_week, "
            "this_month, last_month, or a number of hours, days or weeks like 12h, 90d, 2w",
        ),
        ("success", "yes", "true, false"),
        ("streaming", "True", "true, false"),
        ("status", "OK", ", ".join(STATUSES)),
        ("sort", "model", "timestamp, cost_sats, latency_ms"),
        ("sort", "cost_sats; DROP TABLE requests", "timestamp, cost_sats, latency_ms"),
        ("order", "asc, id", "asc, desc"),
    ],
)
def test_a_word_that_is_none_of_the_valid_ones_is_refused_with_them(
    name: str, value: str, valid: str
) -> None:
    assert refusal(parse_requests, (name, value)) == f'"{name}" must be one of {valid}.'


def test_a_group_that_is_none_is_refused_with_the_groups() -> None:
    valid = (
        "model, provider, policy, endpoint, day, hour, week, month, or two of them like day,model"
    )
    for value in ("year", "model, provider", "day,day", "1; DROP TABLE requests"):
        assert refusal(parse_stats, ("group_by", value)) == f'"group_by" must be one of {valid}.'
    for value in ("model,day", "day,week", "day,model,provider"):
        assert refusal(parse_stats, ("group_by", value)) == (
            '"group_by" may be two at most, and the second no time, as in day,model.'
        )


def test_an_endpoint_that_is_none_is_refused_with_the_endpoints() -> None:
    valid = "chat, responses, messages, embeddings, completions"
    for parse in (parse_stats, parse_requests):
        assert refusal(parse, ("endpoint", "audio")) == f'"endpoint" must be one of {valid}.'


@pytest.mark.parametrize("value", ["0", "-1", "+1", "1.0", "1e3", " 1", "x", "٣", "1" * 5000])
def test_a_number_that_is_none_is_refused_with_its_bounds(value: str) -> None:
    from_one = '"page" must be a whole number from 1 on.'
    assert refusal(parse_requests, ("page", value)) == from_one
    to_hundred = '"per_page" must be a whole number from 1 to 100.'
    assert refusal(parse_requests, ("per_page", value)) == to_hundred


def test_a_page_may_be_far_beyond_every_end_but_a_page_holds_a_hundred_rows() -> None:
    query = parse_requests((("page", str(10**30)),), now=NOW)
    assert isinstance(query, RequestsQuery)
    assert query.page == 10**30
    assert "from 1 to 100" in refusal(parse_requests, ("per_page", "101"))


def test_a_time_that_is_none_is_refused_with_examples() -> None:
    for name in ("since", "until"):
        message = refusal(parse_stats, (name, "the day before"))
        assert message.startswith(f'"{name}" must be a date or time of ISO 8601, like 2026-02-03,')


parameters = st.lists(
    st.tuples(
        st.sampled_from((*REQUESTS_PARAMETERS, "group_by")) | st.text(max_size=5),
        st.sampled_from((*RANGES, *STATUSES, *Sort, *Group, "true", "asc", "1", "2026-02-03"))
        | st.text(),
    ),
    max_size=4,
)


@given(parameters)
def test_no_parameters_raise_and_every_refusal_can_be_sent(
    given_ones: list[tuple[str, str]],
) -> None:
    for parse, _ in PARSERS:
        found = parse(given_ones, now=NOW)
        if isinstance(found, ErrorReply):
            assert json.loads(found.body())["error"]["code"] == "invalid_parameter"
        else:
            assert EARLIEST <= found.filters.span.since <= found.filters.span.until <= LATEST
            (found.filters.model or "").encode()  # what SQLite will do


# -- names


KNOWN = Names(frozenset({"m", "n"}), frozenset({"alpha"}), frozenset({"code"}))
FILTERS = Filters(WEEK)


def test_known_names_and_none_at_all_are_right() -> None:
    assert unknown_name(FILTERS, Names()) is None
    filters = replace(FILTERS, model="n", provider="alpha", policy="code")
    assert unknown_name(filters, KNOWN) is None


@pytest.mark.parametrize(
    ("filters", "status", "code", "message"),
    [
        (
            replace(FILTERS, model="M"),
            404,
            "model_not_found",
            'No model "M" is configured, and the log has none. Known are "m", "n".',
        ),
        (
            replace(FILTERS, provider="' OR 1=1 --"),
            404,
            "provider_not_found",
            'No provider "\' OR 1=1 --" is configured, and the log has none. Known are "alpha".',
        ),
        (
            replace(FILTERS, policy="m"),
            400,
            "unknown_policy",
            'No policy "m" is configured, and the log has none. Known are "code".',
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(
    filters: Filters, status: int, code: str, message: str
) -> None:
    found = unknown_name(filters, KNOWN)
    assert found is not None
    assert (found.status, found.code, found.message) == (status, code, message)


def test_where_no_name_is_known_the_refusal_says_so() -> None:
    found = unknown_name(replace(FILTERS, policy="code"), Names())
    assert found is not None
    assert found.message.endswith("None is known yet.")


def test_the_names_of_a_configuration_and_of_the_log_go_together() -> None:
    config = parse_config(
        '[[providers]]\nname = "alpha"\nurl = "https://h.example"\nmodels = ["m", "*"]\n'
        '[[policies.rules]]\nname = "code"\n',
        {},
    )
    names = configured_names(config, build_catalog(config))
    assert names == Names(frozenset({"m"}), frozenset({"alpha"}), frozenset({"code"}))
    assert names | Names(models=frozenset({"n"})) == KNOWN


def test_a_day_by_its_name_has_ends_of_its_own() -> None:
    """Those of UTC; the running one ends now."""
    midnight = 20_000 * DAY_MS
    now = midnight + 5
    assert span_of(("range", "today"), now=now) == Span(midnight, now)
    assert span_of(("range", "yesterday"), now=now) == Span(midnight - DAY_MS, midnight)
    assert span_of(("range", "today"), now=midnight) == Span(midnight, midnight)
    assert span_of(("range", "yesterday"), now=EARLIEST).since == EARLIEST
    for end in ("since", "until"):
        found = parse_stats((("range", "today"), (end, "2026-02-03")), now=now)
        assert isinstance(found, ErrorReply)
        assert 'goes with no "since" or "until"' in found.message


def both_spans(*parameters: tuple[str, str], now: str, zone: Zone = UTC) -> list[str]:
    """The ends of the span and of that before it, to the hour."""
    at = parse_moment(now)
    assert at is not None
    given = (*parameters, ("before", "true"), ("zone", zone.name))
    query = parse_stats(given, now=at, zones={zone.name: zone}.get)
    assert isinstance(query, StatsQuery), query
    assert query.before is not None
    spans = (query.filters.span, query.before)
    return [format_moment(end)[5:13] for span in spans for end in (span.since, span.until)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("today", ["03-31T00", "03-31T09", "03-30T00", "03-30T09"]),
        ("yesterday", ["03-30T00", "03-31T00", "03-29T00", "03-30T00"]),
        ("this_week", ["03-30T00", "03-31T09", "03-23T00", "03-24T09"]),
        ("last_week", ["03-23T00", "03-30T00", "03-16T00", "03-23T00"]),
        # As much of the month before as there is.
        ("this_month", ["03-01T00", "03-31T09", "02-01T00", "03-01T00"]),
        ("last_month", ["02-01T00", "03-01T00", "01-01T00", "02-01T00"]),
        ("2d", ["03-29T09", "03-31T09", "03-27T09", "03-29T09"]),
        ("12h", ["03-30T21", "03-31T09", "03-30T09", "03-30T21"]),
        ("last_1w", ["03-24T09", "03-31T09", "03-17T09", "03-24T09"]),
    ],
)
def test_a_range_is_compared_with_what_was_before_it(name: str, expected: list[str]) -> None:
    assert both_spans(("range", name), now="2026-03-31T09:00") == expected


def test_days_are_those_of_the_zone() -> None:
    spring = zone_of(60, 120, at="2026-03-29T01:00")
    now = "2026-03-29T20:00"
    # Twenty-one hours of today, and as many of yesterday.
    today = ["03-28T23", "03-29T20", "03-27T23", "03-28T20"]
    assert both_spans(("range", "today"), now=now, zone=spring) == today
    between = both_spans(("since", "yesterday"), ("until", "today"), now=now, zone=spring)
    assert between[:2] == ["03-27T23", "03-28T23"]
    dates = both_spans(("since", "2026-03-29"), ("until", "2026-03-30"), now=now, zone=spring)
    assert dates == ["03-28T23", "03-29T22", "03-28T00", "03-28T23"]


def test_a_zone_nobody_knows_is_refused() -> None:
    assert refusal(parse_stats, ("zone", "Nowhere/Town")).startswith('"zone" must be one that')


def test_a_group_may_be_split_once_more() -> None:
    query = parse_stats((("group_by", "day,model"),), now=NOW)
    assert isinstance(query, StatsQuery)
    assert (query.group, query.then) == (Group.DAY, Group.MODEL)

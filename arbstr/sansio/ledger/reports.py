"""What may be asked of the log: query parameters -> a query, or why not.

    ("range", "last_24h"), ("model", "gpt-4o"), ...
        --parse_stats, parse_requests--> StatsQuery | RequestsQuery | ErrorReply (400)
        --unknown_name(filters, names)--> nothing, or ErrorReply (404; 400 for a policy)

Strict, because an answer to another question than the one that was asked looks just like the right
one: an unknown parameter, an empty or a second value, or a name nobody has heard of is an error
that lists what would do. The words that may become part of an SQL statement are the members of
`Group` and `Sort`; every other value is bound to it. Reading is `trio_runtime/ledger/reports.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.config.faults import quoted, quoted_list
from arbstr.sansio.config.reader import Config
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.moments import DAY_MS, EARLIEST, HOUR_MS, LATEST, Span, parse_moment
from arbstr.sansio.routing.catalog import Catalog

RANGES: Final[Mapping[str, int]] = MappingProxyType(
    {"last_1h": HOUR_MS, "last_24h": DAY_MS, "last_7d": 7 * DAY_MS, "last_30d": 30 * DAY_MS}
)
"""The values of `range` that are a length, in ms."""

DAYS: Final[Mapping[str, int]] = MappingProxyType({"today": 0, "yesterday": 1})
"""The values of `range` that have ends of their own: how many days ago. Days are UTC's, as those of
a budget are."""

DEFAULT_RANGE: Final = "last_7d"

STATUSES: Final = (
    *("ok", "failed", "rejected", "client_disconnected"),
    *("stream_incomplete", "in_flight", "abandoned"),
)
"""Every status a row can have."""

TIMED: Final = ("ok", "failed", "client_disconnected", "stream_incomplete")
"""The statuses whose latency tells something of a provider: it was asked, and the end was seen."""

DEFAULT_PER_PAGE: Final = 20
MOST_PER_PAGE: Final = 100

MOST_DIGITS: Final = 40
"""Of a page's number: far more than there can be pages, and far less than hurts to multiply."""


class Group(StrEnum):
    """By what the figures of /v1/stats can be split."""

    MODEL = "model"
    PROVIDER = "provider"
    POLICY = "policy"
    ENDPOINT = "endpoint"
    DAY = "day"
    HOUR = "hour"


class Sort(StrEnum):
    """By what the rows of /v1/requests can be sorted."""

    TIMESTAMP = "timestamp"
    COST = "cost_sats"
    LATENCY = "latency_ms"


@final
@dataclass(frozen=True, slots=True)
class Filters:
    """Which requests a question is about; `None` is all."""

    span: Span
    model: str | None = None
    provider: str | None = None
    policy: str | None = None
    endpoint: str | None = None


@final
@dataclass(frozen=True, slots=True)
class StatsQuery:
    """What /v1/stats is asked."""

    filters: Filters
    group: Group | None = None


@final
@dataclass(frozen=True, slots=True)
class RequestsQuery:
    """What /v1/requests is asked. The first page is 1; rows that compare equal go by their id."""

    filters: Filters
    success: bool | None = None
    streaming: bool | None = None
    status: str | None = None
    page: int = 1
    per_page: int = DEFAULT_PER_PAGE
    sort: Sort = Sort.TIMESTAMP
    descending: bool = True


@final
@dataclass(frozen=True, slots=True)
class Names:
    """What a filter may name: what is configured, or what the log has rows of."""

    models: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    policies: frozenset[str] = frozenset()

    def __or__(self, other: "Names") -> "Names":
        """The names of both."""
        return Names(
            self.models | other.models,
            self.providers | other.providers,
            self.policies | other.policies,
        )


def configured_names(config: Config, catalog: Catalog) -> Names:
    """The names of a configuration; `catalog` is its own."""
    return Names(
        frozenset(catalog.models()),
        frozenset(provider.name for provider in config.providers),
        frozenset(rule.name for rule in config.policies.rules),
    )


def unknown_name(filters: Filters, known: Names) -> ErrorReply | None:
    """Why a filter cannot be meant as it is, or `None`."""
    checks = (
        ("model", "model_not_found", filters.model, known.models),
        ("provider", "provider_not_found", filters.provider, known.providers),
        ("policy", "unknown_policy", filters.policy, known.policies),
    )
    for what, code, name, names in checks:
        if name is not None and name not in names:
            there = f"Known are {quoted_list(sorted(names))}." if names else "None is known yet."
            return ErrorReply(
                code,
                f"No {what} {quoted(name)} is configured, and the log has none. {there}",
                param=what,
            )
    return None


class _BadParameterError(Exception):
    """Never leaves this module."""

    def __init__(self, name: str, sentence: str, *, known: bool = True) -> None:
        super().__init__(name)
        self.reply = ErrorReply(
            "invalid_parameter", f"{quoted(name)} {sentence}", param=name if known else None
        )


_SPAN: Final = ("range", "since", "until")
_FILTERS: Final = (*_SPAN, "model", "provider", "policy", "endpoint")
STATS_PARAMETERS: Final = (*_FILTERS, "group_by")
REQUESTS_PARAMETERS: Final = (
    *_FILTERS,
    *("success", "streaming", "status", "sort", "order", "page", "per_page"),
)


def parse_stats(parameters: Sequence[tuple[str, str]], *, now: int) -> StatsQuery | ErrorReply:
    """The query of /v1/stats. `now` is a moment: what began before it is in the last hour."""
    try:
        given = _Given(parameters, STATS_PARAMETERS)
        group = given.one_of("group_by", tuple(Group))
        return StatsQuery(given.filters(now), Group(group) if group is not None else None)
    except _BadParameterError as bad:
        return bad.reply


def parse_requests(
    parameters: Sequence[tuple[str, str]], *, now: int
) -> RequestsQuery | ErrorReply:
    """The query of /v1/requests. `now` as in `parse_stats`."""
    try:
        given = _Given(parameters, REQUESTS_PARAMETERS)
        return RequestsQuery(
            given.filters(now),
            success=given.truth("success"),
            streaming=given.truth("streaming"),
            status=given.one_of("status", STATUSES),
            page=given.number("page", 1),
            per_page=given.number("per_page", DEFAULT_PER_PAGE, most=MOST_PER_PAGE),
            sort=Sort(given.one_of("sort", tuple(Sort)) or Sort.TIMESTAMP),
            descending=given.one_of("order", ("asc", "desc")) != "asc",
        )
    except _BadParameterError as bad:
        return bad.reply


@final
class _Given:
    """The parameters of one question. Every method raises `_BadParameterError`."""

    def __init__(self, parameters: Sequence[tuple[str, str]], known: tuple[str, ...]) -> None:
        self._values: dict[str, str] = {}
        for name, value in parameters:
            if name not in known:
                sentence = f"is no parameter here; there are {', '.join(known)}."
                raise _BadParameterError(name, sentence, known=False)
            if name in self._values:
                raise _BadParameterError(name, "is given more than once.")
            if not value:
                raise _BadParameterError(name, "is empty; give it a value or leave it out.")
            self._values[name] = value

    def filters(self, now: int) -> Filters:
        return Filters(
            self._span(now),
            self._name("model"),
            self._name("provider"),
            self._name("policy"),
            self.one_of("endpoint", ENDPOINTS),
        )

    def one_of(self, name: str, choices: Sequence[str]) -> str | None:
        value = self._values.get(name)
        if value is not None and value not in choices:
            raise _BadParameterError(name, f"must be one of {', '.join(choices)}.")
        return value

    def truth(self, name: str) -> bool | None:
        value = self.one_of(name, ("true", "false"))
        return None if value is None else value == "true"

    def number(self, name: str, default: int, *, most: int | None = None) -> int:
        value = self._values.get(name)
        if value is None:
            return default
        number = int(value) if re.fullmatch(rf"[0-9]{{1,{MOST_DIGITS}}}", value) else 0
        if number < 1 or (most is not None and number > most):
            end = f"to {most}" if most is not None else "on"
            raise _BadParameterError(name, f"must be a whole number from 1 {end}.")
        return number

    def _name(self, name: str) -> str | None:
        value = self._values.get(name)
        # Half a surrogate pair, from a command line that is no UTF-8: the log cannot hold it.
        return value if value is None else value.encode("utf-8", "replace").decode()

    def _moment(self, name: str) -> int | None:
        text = self._values.get(name)
        if text is None:
            return None
        moment = parse_moment(text)
        if moment is None:
            raise _BadParameterError(
                name,
                "must be a date or time of ISO 8601, like 2026-02-03, 2026-02-03T04:05:06Z or "
                "2026-02-03T04:05:06.789+01:00.",
            )
        return moment

    def _span(self, now: int) -> Span:
        """The ends that were given; `range` or its default makes the one that was not."""
        wanted = self.one_of("range", (*RANGES, *DAYS))
        since, until = self._moment("since"), self._moment("until")
        if wanted is not None and wanted in DAYS:
            if since is not None or until is not None:
                raise _BadParameterError("range", f'"{wanted}" goes with no "since" or "until".')
            begin = now - now % DAY_MS - DAYS[wanted] * DAY_MS
            return Span(max(begin, EARLIEST), min(begin + DAY_MS, now))
        length = RANGES[wanted or DEFAULT_RANGE]
        if since is not None and until is not None:
            if wanted is not None:
                raise _BadParameterError("range", 'cannot go with both "since" and "until".')
            if since > until:
                raise _BadParameterError("since", 'must not be after "until".')
            return Span(since, until)
        if since is not None:
            end = since + length if wanted is not None else max(now, since)
            return Span(since, min(end, LATEST))
        end = now if until is None else until
        return Span(max(end - length, EARLIEST), end)

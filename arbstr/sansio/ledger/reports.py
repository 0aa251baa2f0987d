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
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.config.faults import quoted, quoted_list
from arbstr.sansio.config.reader import Config
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.periods import DAY, MONTH, WEEK, begin
from arbstr.sansio.moments import (
    DAY_MS,
    EARLIEST,
    HOUR_MS,
    LATEST,
    UTC,
    Span,
    Zone,
    parse_moment,
)
from arbstr.sansio.routing.catalog import Catalog

RANGES: Final[Mapping[str, int]] = MappingProxyType(
    {"last_1h": HOUR_MS, "last_24h": DAY_MS, "last_7d": 7 * DAY_MS, "last_30d": 30 * DAY_MS}
)
"""The values of `range` that are a length, in ms."""

PERIODS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "today": (DAY, 0),
        "yesterday": (DAY, 1),
        "this_week": (WEEK, 0),
        "last_week": (WEEK, 1),
        "this_month": (MONTH, 0),
        "last_month": (MONTH, 1),
    }
)
"""The values of `range` that have ends of their own: what it is, and how many of them ago. They are
the zone's, which is UTC unless another is asked for; days of a budget are always UTC's."""

_LENGTH: Final = re.compile(r"(?:last_)?([1-9][0-9]{0,3})([hdw])")
_UNITS: Final = MappingProxyType({"h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS})
A_LENGTH: Final = "a number of hours, days or weeks like 12h, 90d, 2w"

Zones: TypeAlias = Callable[[str], Zone | None]

UTC_ALONE: Final[Zones] = MappingProxyType({"UTC": UTC}).get
"""Finds a zone by its name, where no other is known."""

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
    WEEK = "week"
    MONTH = "month"


TIMES: Final = frozenset({Group.DAY, Group.HOUR, Group.WEEK, Group.MONTH})
"""The groups whose order is that of time."""


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
    zone: Zone = UTC

    @property
    def given(self) -> dict[str, str]:
        """What is asked for by name, by the fields here."""
        asked = {
            "model": self.model,
            "provider": self.provider,
            "policy": self.policy,
            "endpoint": self.endpoint,
        }
        return {name: value for name, value in asked.items() if value is not None}


@final
@dataclass(frozen=True, slots=True)
class StatsQuery:
    """What /v1/stats is asked.

    then    by what each group is split once more
    before  the span to compare with, if that is asked for
    """

    filters: Filters
    group: Group | None = None
    then: Group | None = None
    before: Span | None = None


@final
@dataclass(frozen=True, slots=True)
class RequestsQuery:
    """What /v1/requests is asked. The first page is 1; rows that compare equal go by their id."""

    filters: Filters
    success: bool | None = None
    streaming: bool | None = None
    status: str | None = None
    unknown_cost: bool | None = None
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


_SPAN: Final = ("range", "since", "until", "zone")
_FILTERS: Final = (*_SPAN, "model", "provider", "policy", "endpoint")
STATS_PARAMETERS: Final = (*_FILTERS, "group_by", "before")
REQUESTS_PARAMETERS: Final = (
    *_FILTERS,
    *("success", "streaming", "status", "unknown_cost", "sort", "order", "page", "per_page"),
)


def parse_stats(
    parameters: Sequence[tuple[str, str]], *, now: int, zones: Zones = UTC_ALONE
) -> StatsQuery | ErrorReply:
    """The query of /v1/stats. `now` is a moment: what began before it is in the last hour."""
    try:
        given = _Given(parameters, STATS_PARAMETERS, zones)
        group, then = given.groups()
        filters, before = given.filters(now)
        return StatsQuery(filters, group, then, before if given.truth("before") else None)
    except _BadParameterError as bad:
        return bad.reply


def parse_requests(
    parameters: Sequence[tuple[str, str]], *, now: int, zones: Zones = UTC_ALONE
) -> RequestsQuery | ErrorReply:
    """The query of /v1/requests. `now` as in `parse_stats`."""
    try:
        given = _Given(parameters, REQUESTS_PARAMETERS, zones)
        return RequestsQuery(
            given.filters(now)[0],
            success=given.truth("success"),
            streaming=given.truth("streaming"),
            status=given.one_of("status", STATUSES),
            unknown_cost=given.truth("unknown_cost"),
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

    def __init__(
        self, parameters: Sequence[tuple[str, str]], known: tuple[str, ...], zones: Zones
    ) -> None:
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

        self._zone = self._found(zones)

    def _found(self, zones: Zones) -> Zone:
        name = self._values.get("zone", UTC.name)
        zone = zones(name)
        if zone is None:
            raise _BadParameterError(
                "zone", 'must be one that this machine knows, like Europe/Berlin, UTC or "local".'
            )
        return zone

    def groups(self) -> tuple[Group | None, Group | None]:
        """By what figures are split, and by what once more."""
        value = self._values.get("group_by")
        if value is None:
            return None, None
        names = value.split(",")
        if any(name not in tuple(Group) for name in names) or len({*names}) != len(names):
            raise _BadParameterError(
                "group_by", f"must be one of {', '.join(Group)}, or two of them like day,model."
            )
        groups = tuple(map(Group, names))
        if len(groups) > 2 or (len(groups) == 2 and groups[1] in TIMES):
            raise _BadParameterError(
                "group_by", "may be two at most, and the second no time, as in day,model."
            )
        return groups[0], groups[1] if len(groups) == 2 else None

    def filters(self, now: int) -> tuple[Filters, Span]:
        """And the span before that."""
        span, before = self._span(now)
        filters = Filters(
            span,
            self._name("model"),
            self._name("provider"),
            self._name("policy"),
            self.one_of("endpoint", ENDPOINTS),
            self._zone,
        )
        return filters, before

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

    def _moment(self, name: str, now: int) -> int | None:
        text = self._values.get(name)
        if text is None:
            return None
        named = PERIODS.get(text)
        if named is not None and named[0] == DAY:
            return max(begin(DAY, now, self._zone, named[1]), EARLIEST)
        moment = parse_moment(text, self._zone)
        if moment is None:
            raise _BadParameterError(
                name,
                "must be a date or time of ISO 8601, like 2026-02-03, 2026-02-03T04:05:06Z or "
                "2026-02-03T04:05:06.789+01:00, or today or yesterday.",
            )
        return moment

    def _span(self, now: int) -> tuple[Span, Span]:
        """The ends that were given, and the span of the same kind before them."""
        wanted = self._values.get("range")
        since, until = self._moment("since", now), self._moment("until", now)
        if wanted is not None and wanted in PERIODS:
            if since is not None or until is not None:
                raise _BadParameterError("range", f'"{wanted}" goes with no "since" or "until".')
            return self._period(*PERIODS[wanted], now)
        span = self._ends(since, until, wanted, now)
        return span, Span(max(span.since - (span.until - span.since), EARLIEST), span.since)

    def _period(self, unit: str, back: int, now: int) -> tuple[Span, Span]:
        """And the one before: of a period that is not over yet, as much of it as of this one."""
        earlier, since, until = (
            max(begin(unit, now, self._zone, n), EARLIEST) for n in (back + 1, back, back - 1)
        )
        so_far = Span(since, min(until, max(now, since)))
        same = earlier + (so_far.until - since) if so_far.until < until else since
        return so_far, Span(earlier, min(same, since))

    def _ends(self, since: int | None, until: int | None, wanted: str | None, now: int) -> Span:
        """`range` or its default makes the end that was not given."""
        length = self._length(wanted or DEFAULT_RANGE)
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

    def _length(self, wanted: str) -> int:
        found = _LENGTH.fullmatch(wanted)
        if found is None:
            named = ", ".join((*RANGES, *PERIODS))
            raise _BadParameterError("range", f"must be one of {named}, or {A_LENGTH}.")
        return int(found[1]) * _UNITS[found[2]]

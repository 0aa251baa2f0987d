"""What /v1/stats adds up: the rows of the requests in a span of time, by group, as they are read.

    span --split--> whole days: the sums of `request_days` (`sql/0002_reports.sql`)
                    at its ends whole hours, `request_hours`, or where all are asked for
                    `request_totals`; beyond these, row by row
                    and whatever is in flight
    attempts that failed: row by row, in the order of time

SQL is filled in from the constants here and in `where`; what a person asked for is bound. Nothing
here waits for more than the disk; call it in a thread. Raises what the session does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.periods import label
from arbstr.sansio.ledger.reports import TIMES, Filters, Group
from arbstr.sansio.moments import DAY_MS, HOUR_MS, UTC, Span, Zone, format_moment, parse_moment
from arbstr.trio_runtime.ledger.port import Session

_DAY_WIDTH: Final = len("2026-02-03")
_HOUR_WIDTH: Final = len("2026-02-03T04")
_MINUTE_WIDTH: Final = len("2026-02-03T04:05")
"""Characters of the log's text of a moment that say the day, the hour, the minute."""

BETWEEN: Final = "\x1f"
"""Stands between the two parts of a key: no name has it, as arbstr takes none with controls."""

_ATTEMPT_COLUMNS: Final[Mapping[Group, str]] = MappingProxyType(
    {
        Group.MODEL: "coalesce(model, '')",
        Group.PROVIDER: "coalesce(provider, '')",
        Group.POLICY: "coalesce(asked_policy, '')",
        Group.ENDPOINT: "asked_endpoint",
    }
)
"""What attempts are grouped by, in `sql/failed_attempts.sql`."""

_OF_REQUEST: Final[Mapping[str, str]] = MappingProxyType(
    {"model": "model", "provider": "provider", "policy": "policy", "endpoint": "endpoint"}
)
_OF_ATTEMPT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model": "model",
        "provider": "provider",
        "policy": "asked_policy",
        "endpoint": "asked_endpoint",
    }
)
"""The columns that the fields of `Filters` are compared with."""

FIGURES: Final = (
    *("total", "success", "rejected", "client_disconnected", "in_flight", "streaming"),
    *("unknown_cost", "cost_nanosats", "input_tokens", "output_tokens"),
    *("timed", "latency_ms", "ttft_requests", "ttft_ms"),
)
"""The columns of `sql/stats.sql` after the key."""

Figures: TypeAlias = Mapping[str, int]
"""`FIGURES` of one group. Amounts are added up in whole nanosats: a sum is the same in whatever
order an engine adds up."""

Failures: TypeAlias = tuple[int, int, int]
"""Attempts that failed, those of them that may have cost, and how many nanosats."""

_NO_FAILURES: Final = (0, 0, 0)


@final
@dataclass(frozen=True, slots=True)
class Split:
    """How rows are grouped in SQL, and what their keys come to.

    Times are grouped there by the first `width` characters of their moment, and folded here into
    periods of the zone. Both parts of a key stand in one text, `BETWEEN` them.
    """

    group: Group | None
    then: Group | None = None
    zone: Zone = UTC
    width: int = 0

    @property
    def is_time(self) -> bool:
        """Whether its order is that of time."""
        return self.group in TIMES

    @property
    def is_by_name(self) -> bool:
        """Whether any part of it is a name, and no period."""
        return any(group not in TIMES for group in self._groups())

    def of_attempts(self) -> str:
        """The key in `sql/failed_attempts.sql`."""
        moment = f"substr(asked_at, 1, {self.width})"
        return self._joined(
            moment if group in TIMES else _ATTEMPT_COLUMNS[group] for group in self._groups()
        )

    def of(self, source: "_Source") -> str:
        """The key in `sql/stats.sql`: where it can be, a column in whose order its rows lie."""
        return self._joined(
            source.beginning(self.width) if group in TIMES else group.value
            for group in self._groups()
        )

    def _groups(self) -> Iterator[Group]:
        return (group for group in (self.group, self.then) if group is not None)

    def _joined(self, columns: Iterable[str]) -> str:
        parts = tuple(columns)
        if len(parts) < 2:
            return "".join(parts) or "NULL"
        return f" || '{BETWEEN}' || ".join(f"coalesce({part}, '')" for part in parts)

    def key(self, text: str) -> tuple[str, ...]:
        """What the groups are called whose key in SQL is this."""
        first, *more = text.split(BETWEEN, 1) if self.then is not None else (text,)
        if self.is_time:
            assert self.group is not None
            first = label(self.group.value, _moment(first), self.zone)
        return (first, *more)

    def is_too_coarse(self, text: str) -> bool:
        """Whether a period of the zone may begin within what has this key."""
        if not self.is_time or self.width != _HOUR_WIDTH or self.zone == UTC:
            return False
        since = _moment(text.partition(BETWEEN)[0])
        ahead = self.zone.ahead(since)
        return ahead % HOUR_MS != 0 or self.zone.ahead(since + HOUR_MS - 1) != ahead


def _moment(beginning: str) -> int:
    """The first one whose text begins so."""
    found = parse_moment(beginning if len(beginning) != _HOUR_WIDTH else f"{beginning}:00")
    assert found is not None, "the log's own text of a moment"
    return found


def _split_by(group: Group | None, then: Group | None, zone: Zone) -> Split:
    fine = _HOUR_WIDTH if group is Group.HOUR or zone != UTC else _DAY_WIDTH
    return Split(group, then, zone, fine)


@final
class Where:
    """Conditions of an SQL statement, and the values bound in them.

    `also` is text of the caller's own making, never of a person's.
    """

    def __init__(
        self, filters: Filters, columns: Mapping[str, str] = _OF_REQUEST, *, also: str = ""
    ) -> None:
        given = {name: value for name, value in filters.given.items() if name in columns}
        self.sql: Final = "".join(f" AND {columns[name]} = :{name}" for name in given) + also
        self.values: Final[Mapping[str, object]] = {**given, **ends(filters.span)}


def ends(span: Span) -> dict[str, str]:
    """Both ends as the log writes moments, by their names."""
    return {"since": format_moment(span.since), "until": format_moment(span.until)}


def read_all(
    session: Session, filters: Filters, group: Group | None, then: Group | None = None
) -> tuple[Split, dict[str, Figures], dict[str, Failures], dict[str, int]]:
    """How rows are grouped; figures, failures and repeats, each by its key in SQL."""
    split = _split_by(group, then, filters.zone)
    found = _read_split(session, filters, split)
    if any(split.is_too_coarse(key) for each in found for key in each):
        # A quarter of the world lives where hours do not begin with UTC's.
        split = replace(split, width=_MINUTE_WIDTH)
        found = _read_split(session, filters, split)
    return (split, *found)


def _read_split(
    session: Session, filters: Filters, split: Split
) -> tuple[dict[str, Figures], dict[str, Failures], dict[str, int]]:
    return (
        _read_figures(session, filters, split),
        _read_failures(session, filters, split),
        _read_joined(session, filters, split),
    )


def count_requests(
    session: Session,
    filters: Filters,
    *,
    also: str,
    values: Mapping[str, object],
    unknown_cost: bool | None = None,
) -> int:
    """How many requests there are, or how many with or without an unknown cost. `also` are further
    conditions on `request_measures`, in which `values` are bound."""
    figures = _read_figures(session, filters, _ALL, also=also, values=values)
    summed = sum_figures(figures.values())
    unknown = int(summed["unknown_cost"])
    return {None: int(summed["total"]), True: unknown, False: int(summed["total"]) - unknown}[
        unknown_cost
    ]


# -- parts of a span -------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class _Source:
    """Where figures are read from: a table, the column of its time, and how long its texts are.

    `those`: a question for the few ids in question, of `request_measures`.
    """

    table: str
    moment: str
    width: int
    those: str | None = None

    def part(self, session: Session) -> str:
        """What stands behind FROM."""
        if self.those is None:
            return self.table
        return session.question("measures_of").format(those=self.those)

    def beginning(self, width: int) -> str:
        """The first characters of its time."""
        return self.moment if width == self.width else f"substr({self.moment}, 1, {width})"


_ALL: Final = Split(None)
"""Not split at all."""

_DAYS: Final = _Source("request_days", "day", _DAY_WIDTH)
_HOURS: Final = _Source("request_hours", "hour", _HOUR_WIDTH)
_TOTALS: Final = _Source("request_totals", "hour", _HOUR_WIDTH)
"""Has no names: one row where the hours have one for each model at each provider, and so on."""
_ROWS: Final = _Source("request_measures", "timestamp", len("2026-02-03T04:05:06.789Z"))
_IN_FLIGHT: Final = replace(_ROWS, those="SELECT id FROM requests WHERE status = 'in_flight'")
"""What the sums do not have."""
_JOINED: Final = replace(_ROWS, those="SELECT id FROM requests WHERE joined IS NOT NULL")
"""Those that got the answer of another: so few that no sum keeps them apart."""


def _sources(filters: Filters, split: Split) -> Iterator[tuple[_Source, Span]]:
    """The parts of a span, each with the coarsest sums that have it."""
    span = filters.span
    hours = _HOURS if split.is_by_name or filters.given else _TOTALS
    if split.is_time and split.width == _MINUTE_WIDTH:
        yield _ROWS, span
        return
    if split.is_time and split.width == _HOUR_WIDTH:
        pieces: tuple[Span, ...] = (span,)
    else:
        before, days, after = span.split(DAY_MS)
        pieces = (before, after)
        if days.since < days.until:
            yield _DAYS, days
    for piece in pieces:
        for source, part in zip((_ROWS, hours, _ROWS), piece.split(HOUR_MS), strict=True):
            if part.since < part.until:
                yield source, part
    _, summed, _ = span.split(HOUR_MS)
    if summed.since < summed.until:
        yield _IN_FLIGHT, summed


# -- adding up -------------------------------------------------------------------------------------


NANOSATS: Final = 1_000_000_000
"""Of a sat. The engines add up whole numbers in doubles, exactly up to 9 million sats."""


def nanosats(session: Session, sats: str) -> str:
    """An amount in SQL, as what is added up. `sats` is a column, or made of columns."""
    return session.question("nanosats").format(sats=sats)


def sats_of(amount: int) -> float:
    """A sum of nanosats in sats: the double that is nearest, so that it shows no more digits."""
    return int(amount) / NANOSATS


def sum_figures(every: Iterable[Figures]) -> Figures:
    found = tuple(every)
    if len(found) == 1:
        return found[0]
    return {name: sum(figures[name] for figures in found) for name in FIGURES}


def sum_failures(every: Iterable[Failures]) -> Failures:
    failed, lost, nanosats = zip(_NO_FAILURES, *every, strict=True)
    return sum(failed), sum(lost), sum(nanosats)


def _read_figures(
    session: Session,
    filters: Filters,
    split: Split,
    *,
    also: str = "",
    values: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, Figures]:
    """By the key in SQL; nothing for a group without rows."""
    sources = _sources(filters, split)
    return _read_parts(session, filters, split, sources, also=also, values=values)


def _read_parts(
    session: Session,
    filters: Filters,
    split: Split,
    sources: Iterable[tuple[_Source, Span]],
    *,
    also: str = "",
    values: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, Figures]:
    where = Where(filters, also=also)
    parts: dict[str, list[Figures]] = {}
    for source, span in sources:
        sql = session.question("stats").format(
            key=split.of(source),
            part=source.part(session),
            moment=source.moment,
            filters=where.sql,
            group_by="GROUP BY 1" if split.group is not None else "",
        )
        its_ends = {name: text[: source.width] for name, text in ends(span).items()}
        for key, *row in session.execute(sql, {**where.values, **values, **its_ends}):
            figures = {name: int(value or 0) for name, value in zip(FIGURES, row, strict=True)}
            if figures["total"]:
                parts.setdefault(key or "", []).append(figures)
    return {key: sum_figures(found) for key, found in parts.items()}


def _read_failures(session: Session, filters: Filters, split: Split) -> dict[str, Failures]:
    """The attempts that brought no answer, by the key of the group."""
    where = Where(filters, _OF_ATTEMPT)
    sql = session.question("failed_attempts").format(
        key=split.of_attempts(),
        nanosats=nanosats(session, "coalesce(cost_sats, estimated_cost_sats)"),
        filters=where.sql,
        group_by="GROUP BY 1" if split.group is not None else "",
    )
    rows = session.execute(sql, where.values)
    return {key or "": (failed, lost, int(amount)) for key, failed, lost, amount in rows if failed}


def _read_joined(session: Session, filters: Filters, split: Split) -> dict[str, int]:
    """How many requests got the answer of another, by the key of the group."""
    found = _read_parts(session, filters, split, [(_JOINED, filters.span)])
    return {key: int(figures["total"]) for key, figures in found.items()}

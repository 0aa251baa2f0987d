"""Questions to the log: /v1/stats, /v1/requests, and the commands that ask the same.

    query --read_report, read_requests, read_request--> the body of the answer, or an ErrorReply

Each question is asked of one state of the log, so that the parts of its answer agree. `Reports`
asks in threads, for the server; the commands ask directly.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias, final

import trio

from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.ledger.reports import (
    Filters,
    Group,
    Names,
    RequestsQuery,
    Sort,
    StatsQuery,
    parse_requests,
    parse_stats,
    unknown_name,
)
from arbstr.trio_runtime.ledger.charges import read_charges
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble, named
from arbstr.trio_runtime.ledger.stats import read_stats
from arbstr.trio_runtime.ledger.sums import Where, count_requests, ends
from arbstr.trio_runtime.ledger.walks import fewest, is_walked
from arbstr.trio_runtime.ledger.zones import find_zone

Parameters: TypeAlias = Sequence[tuple[str, str]]
Report: TypeAlias = dict[str, Any]
"""A JSON object."""
Columns: TypeAlias = Mapping[str, Any]
"""A row, by the names of its columns."""

READERS: Final = 2
"""Questions answered at once. Each takes a thread and most of a core while it lasts; picked."""

RETRY_SECONDS: Final = 1.0
"""When to ask again after the database could not be read; picked."""

_log = logging.getLogger(__name__)

_WALKED: Final[Mapping[Sort, str]] = MappingProxyType(
    {Sort.COST: "requests_by_cost", Sort.LATENCY: "requests_by_latency"}
)
"""The index that has their order, and all columns of a filter. Unknown is neither dear nor
cheap."""

_UNTIMED: Final = frozenset({"in_flight", "abandoned"})
"""Nobody saw their end; the column says 0."""


def present_moment() -> int:
    """The first moment that is not past yet: a row of this very millisecond lies before it."""
    return time.time_ns() // 1_000_000 + 1


@final
class Reports:
    """What the server answers questions with. `configured` are the names of the configuration."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limiter = trio.CapacityLimiter(READERS)

    async def stats(self, parameters: Parameters, configured: Names) -> Report | ErrorReply:
        """The body of /v1/stats. `parameters` are those of the URL."""
        query = parse_stats(parameters, now=present_moment(), zones=find_zone)
        if isinstance(query, ErrorReply):
            return query
        return await self._read(partial(read_report, query=query, configured=configured))

    async def requests(self, parameters: Parameters, configured: Names) -> Report | ErrorReply:
        """The body of /v1/requests. `parameters` are those of the URL."""
        query = parse_requests(parameters, now=present_moment(), zones=find_zone)
        if isinstance(query, ErrorReply):
            return query
        return await self._read(partial(read_requests, query=query, configured=configured))

    async def request(self, correlation_id: str) -> Report | ErrorReply:
        """The body of /v1/requests/{id}."""
        return await self._read(partial(read_request, correlation_id=correlation_id))

    async def _read(self, work: Callable[[Session], Report | ErrorReply]) -> Report | ErrorReply:
        try:
            return await self._database.read(work, limiter=self._limiter)
        except Trouble as error:
            _log.warning("the request log cannot be read (%s)", error)
            return ErrorReply(
                "log_unavailable",
                f"The request log cannot be read now ({error}).",
                retry_after=RETRY_SECONDS,
            )


def _unknown(session: Session, filters: Filters, configured: Names) -> ErrorReply | None:
    if unknown_name(filters, configured) is None:
        return None
    names: dict[str, set[str]] = {"model": set(), "provider": set(), "policy": set()}
    for kind, name in session.execute(session.question("recorded_names")):
        names[kind].add(name)
    recorded = Names(*(frozenset(names[kind]) for kind in ("model", "provider", "policy")))
    return unknown_name(filters, configured | recorded)


def read_report(session: Session, query: StatsQuery, configured: Names) -> Report | ErrorReply:
    """The body of /v1/stats. Blocks. Raises what the session does."""
    return _unknown(session, query.filters, configured) or {
        **read_stats(session, query.filters, query.group, query.then),
        **_nodes(session, query.filters),
        **_before(session, query),
    }


def _before(session: Session, query: StatsQuery) -> Report:
    """The figures of the span to compare with, if there is one."""
    if query.before is None:
        return {}
    return {"before": read_stats(session, replace(query.filters, span=query.before), None)}


def read_overview(
    session: Session, query: StatsQuery, groups: Sequence[Group], configured: Names
) -> Mapping[Group, Report] | ErrorReply:
    """The same figures split in several ways, of one state of the log. As `read_report`."""
    filters = query.filters
    wrong = _unknown(session, filters, configured)
    if wrong is not None:
        return wrong
    same = _nodes(session, filters) | _before(session, query)
    return {group: {**read_stats(session, filters, group, query.then), **same} for group in groups}


def _nodes(session: Session, filters: Filters) -> Report:
    """What nodes charged, if there is anything to be compared."""
    nodes = [each.as_json() for each in read_charges(session, filters)]
    return {"nodes": nodes} if nodes else {}


# -- requests --------------------------------------------------------------------------------------


def read_requests(session: Session, query: RequestsQuery, configured: Names) -> Report | ErrorReply:
    """The body of /v1/requests. Blocks. Raises what the session does."""
    wrong = _unknown(session, query.filters, configured)
    if wrong is not None:
        return wrong
    rows, total = _read_page(session, query)
    return {
        "data": [_request(row) for row in rows],
        "page": query.page,
        "per_page": query.per_page,
        "total": total,
        "total_pages": -(-total // query.per_page),
        **ends(query.filters.span),
    }


_UNKNOWN: Final = (
    "(+cost_sats IS NULL AND coalesce(status, '') <> 'in_flight'"
    " AND (coalesce(answered, CASE WHEN status = 'ok' THEN 1 ELSE 0 END) <> 0"
    " OR coalesce(possibly_spent, 0) > 0))"
)
"""Those whose cost nobody knows, as /v1/stats counts them (`request_measures`). The plus sign keeps
SQLite from looking through all that cost nothing."""


def _read_page(session: Session, query: RequestsQuery) -> tuple[Sequence[Columns], int]:
    """The rows of the page, and how many there are on all pages."""
    counted, listed = "", ""
    if query.success is not None:
        counted += f" AND status {'=' if query.success else '<>'} 'ok'"
        listed += f" AND coalesce(status, '') {'=' if query.success else '<>'} 'ok'"
    if query.streaming is not None:
        counted += " AND streaming = :streaming"
        listed += " AND coalesce(streaming, 0) = :streaming"
    if query.status is not None:
        counted += " AND status = :status"
        # Said twice for SQLite, which then knows that requests_without_success has them all.
        listed += " AND status = :status" + (" AND status <> 'ok'" if query.status != "ok" else "")
    if query.unknown_cost is not None:
        listed += f" AND {_UNKNOWN}" if query.unknown_cost else f" AND NOT {_UNKNOWN}"
    values = {"status": query.status, "streaming": query.streaming}
    total = count_requests(
        session, query.filters, also=counted, values=values, unknown_cost=query.unknown_cost
    )
    offset = (query.page - 1) * query.per_page
    if offset >= total:
        return [], total  # and SQLite is spared a number that may be too large for it
    where = Where(query.filters, also=listed)
    page = {"limit": query.per_page, "offset": offset, "reach": offset + query.per_page}
    sql = _ordered(session, query, total, where.sql)
    return named(session.execute(sql, {**where.values, **values, **page})), total


def _ordered(session: Session, query: RequestsQuery, total: int, filters: str) -> str:
    """The question for a page of `total` rows in the order that is asked for."""
    order = "DESC" if query.descending else "ASC"
    if query.sort is Sort.TIMESTAMP:
        by = f"timestamp {order}, id {order}"
        return session.question("requests_page").format(filters=filters, order=by)
    is_rare = query.status not in (None, "ok")  # an index has those
    _, rows = fewest(session, query.filters, total)
    if is_walked(session, min(rows, total) if is_rare else rows):
        return session.question("requests_walked").format(
            filters=filters, column=query.sort, order=order, index=_WALKED[query.sort]
        )
    by = f"+{query.sort} {order} NULLS LAST, id {order}"
    return session.question("requests_page").format(filters=filters, order=by)


def read_request(session: Session, correlation_id: str) -> Report | ErrorReply:
    """The body of /v1/requests/{id}. Blocks. Raises what the session does."""
    asked = {"correlation_id": correlation_id}
    rows = named(session.execute(session.question("request"), asked))
    if not rows:
        return ErrorReply(
            "request_not_found",
            "The log has no request with this id. It is what x-arbstr-request-id said; a row "
            "is written a moment after the answer.",
        )
    return {**_request(rows[0]), "attempts": read_attempts(session, correlation_id)}


def complete_id(session: Session, part: str) -> tuple[str, ...]:
    """At most two ids that begin or end so. Blocks. Raises what the session does."""
    found: list[str] = []
    for question, fits in (
        ("requests_beginning", str.startswith),
        ("requests_ending", str.endswith),
    ):
        if len(found) < 2:
            ids = (
                str(row[0]) for row in session.execute(session.question(question), {"part": part})
            )
            found += [each for each in ids if fits(each, part) and each not in found]
    return tuple(found[:2])


def read_attempts(session: Session, correlation_id: str) -> list[Report]:
    """The attempts of a request, in order. Blocks. Raises what the session does."""
    rows = session.execute(session.question("attempts"), {"correlation_id": correlation_id})
    return [_attempt(row) for row in named(rows)]


def _request(row: Columns) -> Report:
    ended = row["status"] not in _UNTIMED
    shown = {
        "id": row["id"],
        "correlation_id": row["correlation_id"],
        "timestamp": row["timestamp"],
        "model": row["model"],
        "requested_model": row["requested_model"],
        "provider": row["provider"],
        "policy": row["policy"],
        "endpoint": row["endpoint"],
        "streaming": bool(row["streaming"]),
        "success": bool(row["success"]),
        "status": row["status"],
        "tokens": _columns(row, "input", "output", "cached", "reasoning", suffix="_tokens"),
        "cost": _columns(
            row, "cost", "expected", "estimated_cost", "provider_cost", suffix="_sats"
        ),
        "timing": {
            "latency_ms": row["latency_ms"] if ended else None,
            **_columns(row, "ttft", "stream_duration", suffix="_ms"),
        },
        "moved": None if row["moved"] is None else bool(row["moved"]),
        "joined": row["joined"],
        "attempts": row["attempts"],
        "possibly_spent": row["possibly_spent"],
    }
    if row["error_status"] is not None or row["error_message"] is not None:
        shown["error"] = {"status": row["error_status"], "message": row["error_message"]}
    return shown


def _attempt(row: Columns) -> Report:
    return {
        "n": row["n"],
        "provider": row["provider"],
        "model": row["model"],
        "started_at": row["started_at"],
        "duration_ms": row["duration_ms"],
        "failure": row["failure"],
        "http_status": row["http_status"],
        "money": row["money"],
        "tokens": _columns(row, "input", "output", suffix="_tokens"),
        "cost": _columns(
            row, "cost", "expected", "estimated_cost", "provider_cost", suffix="_sats"
        ),
        "upstream_request_id": row["upstream_request_id"],
        "said": row["said"],
    }


def _columns(row: Columns, *names: str, suffix: str) -> Report:
    return {name + suffix: row[name + suffix] for name in names}

"""`arbstr stats` and `arbstr requests`: questions to the log, without asking a running proxy.

They read the database file, which an arbstr may be writing meanwhile. Their options are the
parameters of /v1/stats and /v1/requests under the same names, checked by the same functions, and
`--json` prints what those routes answer.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from arbstr.cli.output import complain
from arbstr.cli.request_text import print_request, print_requests
from arbstr.cli.stats_csv import as_csv
from arbstr.cli.stats_text import print_stats
from arbstr.sansio.config.reader import Config
from arbstr.sansio.errors import ErrorReply, StartError
from arbstr.sansio.ledger.reports import (
    REQUESTS_PARAMETERS,
    STATS_PARAMETERS,
    Group,
    Names,
    StatsQuery,
    configured_names,
    parse_requests,
    parse_stats,
)
from arbstr.sansio.routing.catalog import build_catalog
from arbstr.sansio.routing.gauge import budget_report
from arbstr.trio_runtime.ledger.budget import read_spent
from arbstr.trio_runtime.ledger.database import open_for_reading, shown
from arbstr.trio_runtime.ledger.port import Session, Trouble
from arbstr.trio_runtime.ledger.ratios import select_ratios
from arbstr.trio_runtime.ledger.reports import (
    Report,
    complete_id,
    present_moment,
    read_attempts,
    read_overview,
    read_report,
    read_request,
    read_requests,
)
from arbstr.trio_runtime.ledger.zones import find_zone

T = TypeVar("T")

SHORTEST_ID: Final = 4
"""Characters of an id that a person has to type; fewer would find something by chance."""

PARAMETERS: Final = frozenset({*STATS_PARAMETERS, *REQUESTS_PARAMETERS})
"""Of the routes, each of which is an option here."""

OVERVIEW: Final = (Group.PROVIDER, Group.MODEL, Group.POLICY, Group.ENDPOINT, Group.DAY)
"""The tables of `arbstr stats`, unless one is asked for."""


def run_stats(options: argparse.Namespace, config: Config, database: str) -> int:
    """Prints what was spent; returns the exit code. Raises `StartError` without a database."""
    given = _given(options, STATS_PARAMETERS)
    if options.csv and options.json:
        options.complain("--csv and --json exclude each other")
    is_for_eyes = not (options.csv or options.json)
    if is_for_eyes and options.before is None:
        given = (*given, ("before", "true"))
    query = parse_stats(given, now=present_moment(), zones=find_zone)
    if isinstance(query, ErrorReply):
        complain(by_option(query.message))
        return 2
    names = _names(config)
    if options.csv:
        return _print_csv(query, _ask(database, lambda session: read_report(session, query, names)))
    if options.json:

        def read(session: Session) -> Report | ErrorReply:
            report = read_report(session, query, names)
            if not isinstance(report, ErrorReply):
                report |= _budget(session, config)
            return report

        return _print_json(_ask(database, read))
    groups = OVERVIEW if query.group is None else (query.group,)
    overview, ratios, budget = _ask(
        database,
        lambda session: (
            read_overview(session, query, groups, names),
            select_ratios(session),
            _budget(session, config),
        ),
    )
    if isinstance(overview, ErrorReply):
        return _refuse(overview)
    print_stats(overview, ratios, budget.get("budget"), query)
    return 0


def _print_csv(query: StatsQuery, report: Report | ErrorReply) -> int:
    if isinstance(report, ErrorReply):
        return _refuse(report)
    print(as_csv(report, query.group, query.then), end="")
    return 0


def _budget(session: Session, config: Config) -> Report:
    """How the running day stands by the log, under the name it has in /v1/stats; empty without a
    budget. What is set aside, only the process knows that did it."""
    limit, now = config.budget.sats_per_day, time.time()
    if limit is None:
        return {}
    spent = read_spent(session, now, but_by="")
    return {"budget": budget_report(limit, spent, None, now)}


def run_requests(options: argparse.Namespace, config: Config, database: str) -> int:
    """Prints the rows, or all about one; otherwise as `run_stats`."""
    given = _given(options, REQUESTS_PARAMETERS)
    if options.id is not None:
        if given:
            options.complain("an ID goes with no other option but --json")
        return _run_request(options, database)
    query = parse_requests(given, now=present_moment(), zones=find_zone)
    if isinstance(query, ErrorReply):
        complain(by_option(query.message))
        return 2
    names = _names(config)

    def read(session: Session) -> Report | ErrorReply:
        report = read_requests(session, query, names)
        if not isinstance(report, ErrorReply) and not options.json:
            # What failed on the way is worth a column, and is not in the rows.
            for row in report["data"]:
                row["attempts"] = read_attempts(session, row["correlation_id"])
        return report

    report = _ask(database, read)
    if options.json:
        return _print_json(report)
    if isinstance(report, ErrorReply):
        return _refuse(report)
    print_requests(report, query.filters.zone)
    return 0


def _run_request(options: argparse.Namespace, database: str) -> int:
    # A command line that is no UTF-8 arrives as half surrogate pairs, which SQLite refuses.
    part = options.id.encode("utf-8", "replace").decode()
    if len(part) < SHORTEST_ID:
        options.complain(f"an ID needs its first or last {SHORTEST_ID} characters at least")

    def read(session: Session) -> Report | ErrorReply:
        ids = complete_id(session, part)
        if len(ids) > 1 and part not in ids:
            return ErrorReply("request_not_found", "Several ids begin or end so; give more of it.")
        return read_request(session, part if part in ids or not ids else ids[0])

    report = _ask(database, read)
    if options.json:
        return _print_json(report)
    if isinstance(report, ErrorReply):
        return _refuse(report)
    print_request(report)
    return 0


def _given(options: argparse.Namespace, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    every = ((name, getattr(options, name)) for name in names)
    return tuple((name, value) for name, value in every if value is not None)


def _names(config: Config) -> Names:
    return configured_names(config, build_catalog(config))


def _ask(database: str, read: Callable[[Session], T]) -> T:
    try:
        with open_for_reading(database) as session:
            return read(session)
    except Trouble as error:
        raise StartError((f"database {shown(database)}: cannot be read now: {error}",)) from None


def by_option(message: str) -> str:
    """What is wrong with a parameter of the routes, by what is typed here: "per_page" is
    --per-page. Such a message repeats no value."""
    return re.sub(
        '"([a-z_]+)"',
        lambda found: f"--{found[1].replace('_', '-')}" if found[1] in PARAMETERS else found[0],
        message,
    )


def _refuse(error: ErrorReply) -> int:
    complain(error.message)
    return 1


def _print_json(report: Report | ErrorReply) -> int:
    if isinstance(report, ErrorReply):
        return _refuse(report)
    print(json.dumps(report, indent=2))
    return 0

"""Questions to the log: the figures against plain Python, the rows, the pages, the routes."""

import json
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.ledger.periods import label
from arbstr.sansio.ledger.reports import (
    STATUSES,
    TIMED,
    Filters,
    Group,
    Names,
    RequestsQuery,
    Sort,
    StatsQuery,
)
from arbstr.sansio.moments import HOUR_MS, Span, Zone, format_moment, parse_moment
from arbstr.trio_runtime.ledger import walks as module
from arbstr.trio_runtime.ledger.database import IN_MEMORY, open_database
from arbstr.trio_runtime.ledger.port import Session, named
from arbstr.trio_runtime.ledger.reports import (
    Report,
    Reports,
    complete_id,
    read_overview,
    read_report,
    read_request,
    read_requests,
)
from arbstr.trio_runtime.ledger.sqlite import SqliteDatabase
from arbstr.trio_runtime.ledger.sqlite_session import SqliteSession
from tests.ledgers import (
    Row,
    attempt,
    connect,
    insert,
    insert_attempts,
    is_answered,
    is_unanswered,
    memory_ledger,
    request,
)
from tests.searching import examples
from tests.zones import zone_of

MODELS = ("gpt-4o", "a/b", "m'); DROP TABLE requests; --", "😀")
PROVIDERS = ("alpha", "beta", "β")
POLICIES = ("code", "chat")

EVERYBODY = Names(frozenset(MODELS), frozenset(PROVIDERS), frozenset(POLICIES))
NOBODY = Names()


def moment(text: str) -> int:
    found = parse_moment(text)
    assert found is not None
    return found


WHOLE = Span(moment("2026-02-01"), moment("2026-02-10"))
"""Holds every row of this file."""

ALL = Filters(WHOLE)


def stats(connection: SqliteSession, filters: Filters = ALL, group: Group | None = None) -> Report:
    found = read_report(connection, StatsQuery(filters, group), EVERYBODY)
    assert not isinstance(found, ErrorReply), found
    json.dumps(found, allow_nan=False)
    return found


def listing(connection: SqliteSession, query: RequestsQuery) -> Report:
    found = read_requests(connection, query, EVERYBODY)
    assert not isinstance(found, ErrorReply), found
    return found


def ids(report: Report) -> list[str]:
    return [row["correlation_id"] for row in report["data"]]


# -- against plain Python


OUTCOMES = ("success", "error", "rejected", "client_disconnected", "in_flight")

BASES = (WHOLE.since, moment("2026-02-03T04:00"), moment("2026-02-04"))

Ledger: TypeAlias = tuple[list[Row], list[Row], list[Row]]


class Dice:
    """Rows of every kind, more of them within few hours than spread over days.

    Thrown from a seed, because drawing every column from Hypothesis takes a hundred times longer.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one_of(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def number(self) -> int:
        return int(self.one_of(0, 7, self._random.randrange(5000)))

    def amount(self) -> float | None:
        msats = self._random.randrange(10**9)
        sats: float | None = self.one_of(None, 0.0, 0.1, msats / 1000, self._random.uniform(0, 1e6))
        return sats

    def moment(self) -> int:
        more = self.one_of(0, HOUR_MS, self._random.randrange(3 * HOUR_MS))
        return int(self.one_of(*BASES) + more)

    def attempt(self, failure: str | None, *, running: bool = False) -> Row:
        money = self.one_of("free", "spent", "unknown") if failure else None if running else "spent"
        return attempt(
            provider=self.one_of(*PROVIDERS),
            model=self.one_of(*MODELS),
            failure=failure,
            money=money,
            cost_sats=None if money == "free" else self.amount(),
            estimated_cost_sats=self.amount(),
        )

    def tries(self, status: str) -> list[Row]:
        """Of a request with that status: all but the last have failed."""
        failures = ("no_answer", "server_error", "stream_cut")
        count = 0 if status == "rejected" else self.one_of(1, 1, 2, 3)
        tries = [self.attempt(self.one_of(*failures)) for _ in range(count)]
        if status in ("ok", *self.one_of((), ("failed", "client_disconnected", "in_flight"))):
            tries[-1] = self.attempt(None, running=status == "in_flight")
        return tries

    def request(self, n: int) -> Row:
        status = self.one_of("ok", *STATUSES)
        tries = self.tries(status)
        last = tries[-1] if tries else attempt(model=self.one_of(*MODELS), provider=None)
        return request(
            f"id-{n}",
            timestamp=format_moment(self.moment()),
            model=last["model"],
            provider=last["provider"],
            policy=self.one_of(None, *POLICIES),
            endpoint=self.one_of("chat", *ENDPOINTS),
            status=status,
            streaming=self.one_of(0, 1),
            joined=self.one_of(None, None, f"id-{n - 1}"),
            cost_sats=last["cost_sats"],
            input_tokens=self.one_of(None, self.number()),
            output_tokens=self.one_of(None, self.number()),
            latency_ms=self.number(),
            ttft_ms=self.one_of(None, self.number()),
            tries=tries,
        )

    def ledger(self, size: int) -> Ledger:
        """Rows as they come, what some of them become, and some that are removed."""
        first = [self.request(n) for n in range(size)]
        changed = [self.request(n) for n in range(0, size, 3)]
        return first, changed, first[:: self.one_of(2, 5, 100)]

    def filters(self) -> Filters:
        """Ends that fall on rows as often as not."""
        since, until = sorted((self.moment(), self.moment()))
        return Filters(
            self.one_of(WHOLE, Span(since, until)),
            self.one_of(None, None, *MODELS),
            self.one_of(None, None, *PROVIDERS),
            self.one_of(None, None, *POLICIES),
            self.one_of(None, None, *ENDPOINTS),
        )


seeds = st.integers(0, 2**64)
sizes = st.integers(0, 40)


def write(connection: Session, ledger: Ledger) -> None:
    """As a log writer and a retention would: inserted, finalised, removed."""
    first, changed, removed = ledger
    insert(connection, first)
    for row in changed:
        columns = {name: value for name, value in row.items() if name != "tries"}
        assignments = ", ".join(f"{name} = :{name}" for name in columns)
        connection.execute(
            f"UPDATE requests SET {assignments} WHERE correlation_id = :correlation_id", columns
        )
        connection.execute("DELETE FROM attempts WHERE correlation_id = :correlation_id", columns)
        insert_attempts(connection, row)
    for row in removed:
        for table in ("attempts", "requests"):
            connection.execute(f"DELETE FROM {table} WHERE correlation_id = :correlation_id", row)


def contents(connection: SqliteSession) -> list[dict[str, Any]]:
    """All rows with their attempts, as they lie there now."""
    connection.row_factory = sqlite3.Row
    every = [dict(row) for row in connection.execute("SELECT * FROM requests ORDER BY id")]
    of_request: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute("SELECT * FROM attempts ORDER BY n"):
        of_request.setdefault(row["correlation_id"], []).append(dict(row))
    return [row | {"tries": of_request.get(row["correlation_id"], [])} for row in every]


def recomputed(
    every: Sequence[dict[str, Any]], filters: Filters, group: Group | None = None, key: object = ""
) -> dict[str, Any]:
    """The figures by the words of the specification, without SQL."""
    within = [
        row
        for row in every
        if format_moment(filters.span.since) <= row["timestamp"] < format_moment(filters.span.until)
        and filters.policy in (None, row["policy"])
        and filters.endpoint in (None, row["endpoint"])
    ]

    def belongs(row: dict[str, Any], request: dict[str, Any]) -> bool:
        if filters.model not in (None, row["model"]):
            return False
        if filters.provider not in (None, row["provider"]):
            return False
        return group is None or key == key_of(group, row, request)

    chosen = [row for row in within if belongs(row, row)]
    failed = [
        one
        for row in within
        for one in row["tries"]
        if one["failure"] is not None and belongs(one, row)
    ]
    unanswered = [one for one in failed if is_unanswered(one)]
    answers = [one for row in chosen for one in row["tries"] if is_answered(one)]

    def count(*statuses: str) -> int:
        return sum(row["status"] in statuses for row in chosen)

    def known(column: str, among: Iterable[dict[str, Any]] = chosen) -> list[Any]:
        return [row[column] for row in among if row[column] is not None]

    latencies = sorted(known("latency_ms", [row for row in chosen if row["status"] in TIMED]))
    found: dict[str, Any] = {
        "counts": {
            "total": len(chosen),
            "success": count("ok"),
            "error": count("failed", "stream_incomplete", "abandoned"),
            "rejected": count("rejected"),
            "client_disconnected": count("client_disconnected"),
            "in_flight": count("in_flight"),
            "streaming": sum(row["streaming"] for row in chosen),
            "joined": sum(row["joined"] is not None for row in chosen),
            "unknown_cost": sum(
                row["cost_sats"] is None
                and row["status"] != "in_flight"
                and any(is_answered(one) or is_unanswered(one) for one in row["tries"])
                for row in chosen
            ),
            "possibly_spent_attempts": len(unanswered),
        },
        "costs": {
            "total_cost_sats": pytest.approx(fsum(known("cost_sats", answers)), rel=0, abs=1e-6),
            "possibly_spent_sats": pytest.approx(
                fsum(map(possibly_spent_sats, unanswered)), rel=0, abs=1e-6
            ),
            "total_input_tokens": sum(known("input_tokens")),
            "total_output_tokens": sum(known("output_tokens")),
        },
        "performance": {
            "avg_latency_ms": mean(latencies),
            "avg_ttft_ms": mean(known("ttft_ms")),
        },
    }
    if group is not None:
        found["counts"]["failed_attempts"] = len(failed)
    else:
        found["performance"] |= {
            "p50_latency_ms": nearest_rank(latencies, 50),
            "p95_latency_ms": nearest_rank(latencies, 95),
        }
    return found


def possibly_spent_sats(row: dict[str, Any]) -> float:
    known = (row["cost_sats"], row["estimated_cost_sats"])
    return next((sats for sats in known if sats is not None), 0.0)


def mean(numbers: Sequence[int]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def nearest_rank(ordered: Sequence[int], percent: int) -> int | None:
    """The smallest latency that so many percent of all are not above."""
    return next((x for n, x in enumerate(ordered, 1) if n * 100 >= percent * len(ordered)), None)


def key_of(group: Group, row: dict[str, Any], request: dict[str, Any]) -> object:
    """`row` is the request's own or one of its attempts."""
    match group:
        case Group.DAY:
            return request["timestamp"][:10]
        case Group.HOUR:
            return f"{request['timestamp'][:13]}:00:00.000Z"
        case Group.MONTH:
            return request["timestamp"][:7]
        case Group.WEEK:
            year, week, _ = date.fromisoformat(request["timestamp"][:10]).isocalendar()
            return f"{year:04}-W{week:02}"
        case Group.POLICY | Group.ENDPOINT:
            return request[group.value]
        case Group.MODEL | Group.PROVIDER:
            return row[group.value]


NIGHTS = (
    zone_of(120, 60, at="2026-02-03T04:00"),
    zone_of(-60, 0, at="2026-02-04T00:00"),
    zone_of(345),
)
"""Clocks put back, put forward, and 45 minutes from ours, in the days of this file's ledgers."""


@given(seeds, sizes, st.sampled_from(NIGHTS), st.sampled_from(["hour", "day", "week", "month"]))
@examples(15)
def test_periods_of_a_zone_have_the_rows_of_their_spans(
    seed: int, size: int, zone: Zone, unit: str
) -> None:
    dice = Dice(seed)
    asked = replace(dice.filters(), zone=zone)
    with memory_ledger() as connection:
        write(connection, dice.ledger(size))
        every = contents(connection)
        report = stats(connection, asked, Group(unit))
        query = StatsQuery(asked, Group(unit), Group.MODEL)
        twice = read_report(connection, query, EVERYBODY)
    assert not isinstance(twice, ErrorReply)
    assert report["zone"] == zone.name
    names = list(dict.fromkeys(label(unit, moment(row["timestamp"]), zone) for row in every))
    totals = dict.fromkeys(names, 0)
    found = {row[unit]: row for row in report["groups"]}
    assert len(found) == len(report["groups"])
    for name in names:
        rows = [row for row in every if label(unit, moment(row["timestamp"]), zone) == name]
        expected = recomputed(rows, asked)
        for percentile in ("p50_latency_ms", "p95_latency_ms"):
            del expected["performance"][percentile]
        row = found.pop(name, None)
        if row is None:
            assert expected["counts"]["total"] == 0
            continue
        assert row["counts"].pop("failed_attempts") >= row["counts"]["possibly_spent_attempts"]
        assert {part: row[part] for part in expected} == expected
        totals[name] = row["counts"]["total"]
    assert found == {}
    # Split once more, the parts of a period add up to it.
    for name in names:
        parts = [row for row in twice["groups"] if row[unit] == name]
        assert len({row["model"] for row in parts}) == len(parts)
        assert sum(row["counts"]["total"] for row in parts) == totals[name]


def test_a_night_with_an_hour_twice_keeps_its_order() -> None:
    rows = [request(f"r{n}", timestamp=f"2026-02-03T{n:02}:30:00.000Z") for n in (5, 4, 3, 2)]
    with memory_ledger(rows) as connection:
        report = stats(connection, replace(ALL, zone=NIGHTS[0]), Group.HOUR)
    assert [row["hour"][11:] for row in report["groups"]] == [
        "04:00:00.000+02:00",
        "05:00:00.000+02:00",
        "05:00:00.000+01:00",
        "06:00:00.000+01:00",
    ]


def test_the_span_before_is_told_beside_this_one() -> None:
    rows = [
        request("old", timestamp="2026-02-02T10:00:00.000Z", tries=[attempt()]),
        request("new", timestamp="2026-02-03T10:00:00.000Z", tries=[attempt()]),
    ]
    day = Span(moment("2026-02-03"), moment("2026-02-04"))
    query = StatsQuery(Filters(day), before=Span(moment("2026-02-02"), day.since))
    with memory_ledger(rows) as connection:
        report = read_report(connection, query, NOBODY)
    assert not isinstance(report, ErrorReply)
    assert report["before"]["until"] == report["since"]
    assert (report["counts"]["total"], report["before"]["counts"]["total"]) == (1, 1)
    assert "before" not in report["before"]


@pytest.mark.parametrize("share", [0, 10**9], ids=["by sorting", "by walking the index"])
@given(seeds, sizes)
@examples(10)
def test_the_figures_are_those_of_plain_python(share: int, seed: int, size: int) -> None:
    dice = Dice(seed)
    asked = dice.filters()
    with memory_ledger() as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WALK_SHARE", share)
        write(connection, dice.ledger(size))
        report = stats(connection, asked)
        expected = recomputed(contents(connection), asked)
    ends = {"since": format_moment(asked.span.since), "until": format_moment(asked.span.until)}
    assert report == {**ends, **expected}
    counts = report["counts"]
    assert counts["total"] == sum(counts[name] for name in OUTCOMES)


@given(seeds, sizes, st.sampled_from(Group))
@examples(20)
def test_the_groups_are_those_of_plain_python_and_add_up(
    seed: int, size: int, group: Group
) -> None:
    dice = Dice(seed)
    asked = dice.filters()
    with memory_ledger() as connection:
        write(connection, dice.ledger(size))
        every = contents(connection)
        report = stats(connection, asked, group)
    found = {row[group.value]: row for row in report["groups"]}
    assert len(found) == len(report["groups"])
    keys = {
        key_of(group, row, request) for request in every for row in (request, *request["tries"])
    }
    for key in keys:
        expected = recomputed(every, asked, group, key)
        counts = expected["counts"]
        if counts["total"] or counts["failed_attempts"]:
            assert found.pop(key) == {group.value: key, **expected}
    assert found == {}
    for part in ("counts", "costs"):
        for name, total in report[part].items():
            in_groups = fsum(row[part][name] for row in report["groups"])
            assert in_groups == pytest.approx(total, rel=0, abs=1e-6)
    shown = [row[group.value] or "" for row in report["groups"]]
    assert shown == sorted(shown)


@pytest.mark.parametrize("share", [0, 10**9], ids=["by sorting", "by walking the index"])
@given(seeds, sizes)
@examples(15)
def test_the_rows_of_a_page_are_those_of_plain_python(share: int, seed: int, size: int) -> None:
    dice = Dice(seed)
    asked = dice.filters()
    query = RequestsQuery(
        asked,
        success=dice.one_of(None, None, True, False),
        streaming=dice.one_of(None, None, True, False),
        status=dice.one_of(None, None, *STATUSES),
        page=dice.one_of(1, 2, 3),
        per_page=dice.one_of(1, 3, 10),
        sort=dice.one_of(*Sort),
        descending=dice.one_of(True, False),
    )
    since, until = format_moment(asked.span.since), format_moment(asked.span.until)
    with memory_ledger() as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WALK_SHARE", share)
        write(connection, dice.ledger(size))
        chosen = [
            row
            for row in contents(connection)
            if since <= row["timestamp"] < until
            and asked.model in (None, row["model"])
            and asked.provider in (None, row["provider"])
            and asked.policy in (None, row["policy"])
            and asked.endpoint in (None, row["endpoint"])
            and query.success in (None, row["status"] == "ok")
            and query.streaming in (None, row["streaming"] == 1)
            and query.status in (None, row["status"])
        ]
        report = listing(connection, query)
    column = query.sort.value
    chosen.sort(key=lambda row: row["id"], reverse=query.descending)
    chosen.sort(key=lambda row: row[column] or 0, reverse=query.descending)
    chosen.sort(key=lambda row: row[column] is None)
    start = (query.page - 1) * query.per_page
    assert ids(report) == [row["correlation_id"] for row in chosen][start : start + query.per_page]
    assert report["total"] == len(chosen)
    assert report["total_pages"] == -(-len(chosen) // query.per_page)
    assert (report["page"], report["per_page"]) == (query.page, query.per_page)


# -- sums


def test_sums_are_exact_to_a_millionth_of_a_satoshi_and_read_well() -> None:
    with memory_ledger(request(str(n), cost_sats=0.1) for n in range(1000)) as connection:
        assert stats(connection)["costs"]["total_cost_sats"] == 100.0
        connection.execute("UPDATE requests SET cost_sats = 0.2 WHERE id <= 500")
        connection.execute("DELETE FROM requests WHERE id > 750")
        assert stats(connection)["costs"]["total_cost_sats"] == 125.0


def test_four_quarters_of_a_millisat_are_not_lost() -> None:
    with memory_ledger(request(str(n), cost_sats=0.00025) for n in range(4)) as connection:
        assert stats(connection)["costs"]["total_cost_sats"] == 0.001


def test_unknown_is_not_zero_and_zero_is_not_unknown() -> None:
    ledger = [
        request("free", cost_sats=0.0),
        request("unknown", cost_sats=None),
        request(
            "cut",
            status="stream_incomplete",
            cost_sats=None,
            tries=[attempt(failure="stream_cut", money="unknown")],
        ),
        request(
            "cut, and its node says for nothing",
            status="stream_incomplete",
            cost_sats=None,
            tries=[attempt(failure="stream_cut", money="free")],
        ),
        request("left", status="client_disconnected", cost_sats=None, tries=[attempt()]),
        request(
            "left before it cost",
            status="client_disconnected",
            cost_sats=None,
            tries=[attempt(failure="client_left", money="free")],
        ),
        request("a bug", status="failed", cost_sats=None, tries=[attempt()]),
        request(
            "killed",
            status="abandoned",
            cost_sats=None,
            tries=[attempt(failure="shutdown", money="unknown")],
        ),
        request("never sent", status="rejected", cost_sats=None),
        request(
            "refused",
            status="failed",
            cost_sats=None,
            tries=[attempt(failure="account", money="free")],
        ),
        request(
            "lost",
            status="failed",
            cost_sats=None,
            tries=[attempt(failure="no_answer", money="unknown")],
        ),
        request("running", status="in_flight", cost_sats=None, tries=[attempt(money=None)]),
    ]
    with memory_ledger(ledger) as connection:
        report = stats(connection)
    assert report["counts"]["unknown_cost"] == 6  # unknown, cut, left, a bug, killed, lost
    assert report["counts"]["possibly_spent_attempts"] == 3
    assert report["costs"]["total_cost_sats"] == 0
    assert report["costs"]["possibly_spent_sats"] == 1.5


def test_each_attempt_that_was_not_free_is_in_one_sum_and_once() -> None:
    cut = {"failure": "stream_cut", "money": "spent", "cost_sats": 2.0}
    answered = {"cost_sats": 1.0}
    ledger = [
        request("answered", cost_sats=1.0, tries=[attempt(**answered)]),
        request("paid twice", cost_sats=1.0, tries=[attempt(**cut), attempt(**answered)]),
        request("cut", status="stream_incomplete", cost_sats=2.0, tries=[attempt(**cut)]),
        request(
            "left, and read on",
            status="client_disconnected",
            cost_sats=4.0,
            tries=[attempt(failure="client_left", money="spent", cost_sats=4.0)],
        ),
        request(
            "left after its answer",
            status="client_disconnected",
            cost_sats=8.0,
            tries=[attempt(cost_sats=8.0)],
        ),
        request(
            "charged for an error",
            status="failed",
            cost_sats=16.0,
            tries=[attempt(failure="error_answer", money="spent", cost_sats=16.0)],
        ),
        request(
            "killed",
            status="abandoned",
            cost_sats=None,
            tries=[
                attempt(failure="shutdown", money="unknown", estimated_cost_sats=32.0),
            ],
        ),
        request(
            "free",
            status="failed",
            cost_sats=None,
            tries=[attempt(failure="account", money="free", expected_sats=64.0)],
        ),
    ]
    with memory_ledger(ledger) as connection:
        report = stats(connection)
    assert report["costs"]["total_cost_sats"] == 1 + 1 + 8
    assert report["costs"]["possibly_spent_sats"] == 2 + 2 + 4 + 16 + 32
    assert report["counts"]["possibly_spent_attempts"] == 5


def test_a_provider_whose_attempts_all_failed_has_a_row() -> None:
    refused = attempt(provider="beta", model="b", failure="account", money="free")
    with memory_ledger([request("one", tries=[refused, refused, attempt()])]) as connection:
        for group, name in ((Group.PROVIDER, "beta"), (Group.MODEL, "b")):
            groups = {
                row[group.value]: row["counts"] for row in stats(connection, ALL, group)["groups"]
            }
            assert (groups[name]["total"], groups[name]["failed_attempts"]) == (0, 2)
            assert groups[name]["possibly_spent_attempts"] == 0
        asked = read_report(connection, StatsQuery(Filters(WHOLE, provider="beta")), NOBODY)
        assert not isinstance(asked, ErrorReply)  # its name is known


def test_no_rows_are_zeros_and_no_averages() -> None:
    with memory_ledger() as connection:
        report = stats(connection, group=Group.MODEL)
    assert set(report["counts"].values()) == {0}
    assert set(report["costs"].values()) == {0}
    assert set(report["performance"].values()) == {None}
    assert report["groups"] == []


def test_one_row_is_every_percentile() -> None:
    with memory_ledger([request("one", latency_ms=7)]) as connection:
        performance = stats(connection)["performance"]
    assert (performance["p50_latency_ms"], performance["p95_latency_ms"]) == (7, 7)


@pytest.mark.parametrize("share", [0, 10**9], ids=["by sorting", "by walking the index"])
def test_a_percentile_is_the_smallest_latency_so_many_do_not_exceed(
    share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WALK_SHARE", share)
    with memory_ledger() as connection:
        for count in range(1, 102):
            insert(connection, [request(str(count), latency_ms=count)])
            found = stats(connection)["performance"]
            expected = [nearest_rank(range(1, count + 1), percent) for percent in (50, 95)]
            assert [found["p50_latency_ms"], found["p95_latency_ms"]] == expected


def test_a_latency_nobody_saw_the_end_of_is_none() -> None:
    ledger = [
        request("answered", latency_ms=100),
        request("running", status="in_flight", latency_ms=0),
        request("dead", status="abandoned", latency_ms=0),
        request("refused", status="rejected", latency_ms=1),
    ]
    with memory_ledger(ledger) as connection:
        assert stats(connection)["performance"]["avg_latency_ms"] == 100
        shown = {
            row["correlation_id"]: row["timing"]["latency_ms"]
            for row in listing(connection, RequestsQuery(ALL))["data"]
        }
    assert shown == {"answered": 100, "running": None, "dead": None, "refused": 1}


def test_what_was_possibly_spent_counts_for_the_provider_it_was_spent_at() -> None:
    lost = attempt(provider="beta", failure="no_answer", money="unknown", estimated_cost_sats=3.0)
    with memory_ledger([request("one", tries=[lost, attempt()])]) as connection:
        groups = {row["provider"]: row for row in stats(connection, group=Group.PROVIDER)["groups"]}
        only = stats(connection, Filters(WHOLE, provider="beta"))
    for row in (groups["beta"], only):
        assert (row["counts"]["total"], row["counts"]["possibly_spent_attempts"]) == (0, 1)
        assert row["costs"]["possibly_spent_sats"] == 3.0
    assert groups["alpha"]["counts"]["possibly_spent_attempts"] == 0
    assert groups["alpha"]["costs"]["total_cost_sats"] == 0.125


def test_what_an_attempt_cost_goes_before_what_it_was_estimated_at() -> None:
    known = [
        {"cost_sats": 1.0, "expected_sats": 10.0, "estimated_cost_sats": 100.0},
        {"cost_sats": None, "expected_sats": None, "estimated_cost_sats": 300.0},
        {"cost_sats": None, "expected_sats": None, "estimated_cost_sats": None},
    ]
    tries = [attempt(failure="stream_cut", money="spent", **costs) for costs in known]  # type: ignore[arg-type]  # mypy takes the values for the keywords' own
    with memory_ledger([request("one", status="failed", tries=tries)]) as connection:
        report = stats(connection)
    assert report["counts"]["possibly_spent_attempts"] == 3
    assert report["costs"]["possibly_spent_sats"] == 301.0


# -- spans


@pytest.mark.parametrize(
    ("since", "until", "there"),
    [
        ("2026-02-03T04:05:06.789Z", "2026-02-03T04:05:06.790Z", True),
        ("2026-02-03T04:05:06.788Z", "2026-02-03T04:05:06.789Z", False),
        ("2026-02-03T04:05:06.790Z", "2026-02-04", False),
        ("2026-02-03T05:05:06.789+01:00", "2026-02-03T05:05:06.79+01:00", True),
        ("2026-02-03T04:05:06.7891Z", "2026-02-04", False),
        ("2026-02-03T04:05:06Z", "2026-02-03T04:05:07Z", True),
        ("2026-02-03T04:05", "2026-02-03T04:06", True),
        ("2026-02-03", "2026-02-04", True),
        ("2026-02-03T04:00", "2026-02-03T05:00", True),
        ("2026-02-03T05:00", "2026-02-03T06:00", False),
        ("2026-02-03T04:05:06.789Z", "2026-02-03T04:05:06.789Z", False),
        ("0001-01-01", "9999-12-31", True),
    ],
)
def test_a_row_is_in_a_span_from_its_beginning_on_and_before_its_end(
    since: str, until: str, there: bool
) -> None:
    span = Span(moment(since), moment(until))
    lost = attempt(failure="no_answer", money="unknown")
    with memory_ledger([request("one", tries=[lost])]) as connection:
        report = stats(connection, Filters(span))
        assert report["counts"]["total"] == report["counts"]["possibly_spent_attempts"] == there
        assert (report["performance"]["p50_latency_ms"] is not None) == there
        page = listing(connection, RequestsQuery(Filters(span)))
        assert (len(page["data"]), page["total"]) == (there, there)


@pytest.mark.parametrize("share", [0, 10**9], ids=["by sorting", "by walking the index"])
def test_a_row_at_the_end_of_a_span_is_on_no_page_of_it_and_in_no_percentile(
    share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WALK_SHARE", share)
    ledger = [
        request("within", timestamp="2026-02-03T04:00:00.000Z", latency_ms=20),
        # On either side of it, because each percentile is counted from the nearer end.
        request("fast", timestamp="2026-02-03T05:00:00.000Z", latency_ms=10),
        request("slow", timestamp="2026-02-03T05:00:00.000Z", latency_ms=30),
    ]
    hour = Filters(Span(moment("2026-02-03T04:00"), moment("2026-02-03T05:00")))
    with memory_ledger(ledger) as connection:
        assert ids(listing(connection, RequestsQuery(hour))) == ["within"]
        performance = stats(connection, hour)["performance"]
    assert (performance["p50_latency_ms"], performance["p95_latency_ms"]) == (20, 20)


# -- rows


def test_a_row_shows_its_columns_and_null_where_nothing_is_known() -> None:
    everything = request(
        "one",
        requested_model="auto",
        policy="code",
        streaming=1,
        endpoint="responses",
        moved=1,
        joined="first",
        cached_tokens=3,
        reasoning_tokens=2,
        cost_sats=0.13,
        provider_cost_sats=0.13,
        ttft_ms=300,
        stream_duration_ms=900,
        tries=[
            attempt(
                failure="server_error",
                money="free",
                http_status=503,
                upstream_request_id="u",
                said="no_funds: top up",
            ),
            attempt(
                input_tokens=10,
                output_tokens=5,
                cost_sats=0.13,
                expected_sats=0.125,
                provider_cost_sats=0.13,
            ),
        ],
    )
    with memory_ledger([everything]) as connection:
        found = read_request(connection, "one")
        (row,) = listing(connection, RequestsQuery(ALL))["data"]
    assert row == {
        "id": 1,
        "correlation_id": "one",
        "timestamp": "2026-02-03T04:05:06.789Z",
        "model": "gpt-4o",
        "requested_model": "auto",
        "provider": "alpha",
        "policy": "code",
        "endpoint": "responses",
        "streaming": True,
        "success": True,
        "status": "ok",
        "tokens": {
            "input_tokens": 10,
            "output_tokens": 5,
            "cached_tokens": 3,
            "reasoning_tokens": 2,
        },
        "cost": {
            "cost_sats": 0.13,
            "expected_sats": 0.125,
            "estimated_cost_sats": 0.5,
            "provider_cost_sats": 0.13,
        },
        "timing": {"latency_ms": 1200, "ttft_ms": 300, "stream_duration_ms": 900},
        "moved": True,
        "joined": "first",
        "attempts": 2,
        "possibly_spent": 0,
    }
    first = {
        "n": 1,
        "provider": "alpha",
        "model": "gpt-4o",
        "started_at": "2026-02-03T04:05:06.789Z",
        "duration_ms": 1100,
        "failure": "server_error",
        "http_status": 503,
        "money": "free",
        "tokens": {"input_tokens": None, "output_tokens": None},
        "cost": {
            "cost_sats": None,
            "expected_sats": None,
            "estimated_cost_sats": 0.5,
            "provider_cost_sats": None,
        },
        "upstream_request_id": "u",
        "said": "no_funds: top up",
    }
    second = first | {
        "n": 2,
        "failure": None,
        "http_status": 200,
        "money": "spent",
        "tokens": {"input_tokens": 10, "output_tokens": 5},
        "cost": {
            "cost_sats": 0.13,
            "expected_sats": 0.125,
            "estimated_cost_sats": 0.5,
            "provider_cost_sats": 0.13,
        },
        "upstream_request_id": None,
        "said": None,
    }
    assert found == row | {"attempts": [first, second]}


def test_a_failed_row_shows_its_error() -> None:
    failed = request("one", status="failed", error_status=502, error_message="It broke.")
    with memory_ledger([failed]) as connection:
        (row,) = listing(connection, RequestsQuery(ALL))["data"]
    assert (row["success"], row["status"]) == (False, "failed")
    assert row["error"] == {"status": 502, "message": "It broke."}


def test_a_request_nobody_made_is_not_found() -> None:
    with memory_ledger([request("one")]) as connection:
        for unknown in ("", "on", "two", "one' OR '1'='1"):
            found = read_request(connection, unknown)
            assert isinstance(found, ErrorReply)
            assert (found.status, found.code) == (404, "request_not_found")


def test_the_beginning_of_an_id_finds_it() -> None:
    with memory_ledger(map(request, ("abc1", "abc2", "abd", "b"))) as connection:
        assert complete_id(connection, "abd") == ("abd",)
        assert complete_id(connection, "abc") == ("abc1", "abc2")
        assert complete_id(connection, "ab") == ("abc1", "abc2")  # two are enough to say no
        assert complete_id(connection, "abc3") == ()
        assert complete_id(connection, "%") == ()


def test_a_page_beyond_the_end_is_empty_however_far() -> None:
    with memory_ledger(map(request, "abc")) as connection:
        for page in (2, 3, 2**63, 10**30):
            report = listing(connection, RequestsQuery(ALL, page=page, per_page=3))
            assert (report["data"], report["page"]) == ([], page)
            assert (report["total"], report["total_pages"]) == (3, 1)


def test_ties_go_by_the_id() -> None:
    with memory_ledger(map(request, "abcde")) as connection:
        for sort in Sort:
            for descending in (True, False):
                pages = [
                    listing(
                        connection,
                        RequestsQuery(ALL, page=n, per_page=2, sort=sort, descending=descending),
                    )
                    for n in (1, 2, 3)
                ]
                assert "".join("".join(ids(page)) for page in pages) == (
                    "edcba" if descending else "abcde"
                )


def test_an_unknown_cost_is_sorted_behind_all_others() -> None:
    ledger = [request("a", cost_sats=None), request("b", cost_sats=0.0), request("c", cost_sats=2)]
    with memory_ledger(ledger) as connection:
        for descending, order in ((True, ["c", "b", "a"]), (False, ["b", "c", "a"])):
            query = RequestsQuery(ALL, sort=Sort.COST, descending=descending)
            assert ids(listing(connection, query)) == order


# -- names


def test_a_name_of_the_log_is_known_though_nobody_configured_it() -> None:
    lost = attempt(provider="lost", model="l", failure="no_answer", money="unknown")
    ledger = [request("one", model="m", provider="gone", policy="old", tries=[lost])]
    with memory_ledger(ledger) as connection:
        for known in (
            Filters(WHOLE, "m", "gone", "old"),
            Filters(WHOLE, provider="lost"),
            Filters(WHOLE, model="l"),
        ):
            assert not isinstance(read_report(connection, StatsQuery(known), NOBODY), ErrorReply)
        for query, code in (
            (Filters(WHOLE, model="M"), "model_not_found"),
            (Filters(WHOLE, provider=""), "provider_not_found"),
            (Filters(WHOLE, policy=""), "unknown_policy"),
        ):
            asked = (
                read_report(connection, StatsQuery(query), NOBODY),
                read_requests(connection, RequestsQuery(query), NOBODY),
                read_overview(connection, StatsQuery(query), (Group.DAY,), NOBODY),
            )
            for found in asked:
                assert isinstance(found, ErrorReply)
                assert found.code == code
                assert '"lost"' in found.message or code != "provider_not_found"
        unknown = read_report(connection, StatsQuery(Filters(WHOLE, model="M")), NOBODY)
        assert isinstance(unknown, ErrorReply)
        assert unknown.message.endswith('Known are "l", "m".')


def test_an_overview_has_a_report_for_each_group() -> None:
    with memory_ledger([request("one")]) as connection:
        found = read_overview(connection, StatsQuery(ALL), (Group.MODEL, Group.DAY), EVERYBODY)
        assert not isinstance(found, ErrorReply)
        assert {group: report["groups"][0][group.value] for group, report in found.items()} == {
            Group.MODEL: "gpt-4o",
            Group.DAY: "2026-02-03",
        }


# -- how the database is read


def plan(connection: SqliteSession, ask: Callable[[], object]) -> list[str]:
    """How SQLite goes about the statements that `ask` executes."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    ask()
    connection.set_trace_callback(None)
    return [
        str(row["detail"])
        for sql in statements
        for row in named(connection.execute(f"EXPLAIN QUERY PLAN {sql}"))
    ]


@pytest.mark.parametrize("share", [0, 10**9], ids=["by sorting", "by walking the index"])
def test_no_question_scans_a_table(share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor an index, but for the one that is walked. bench/million_rows.py measures it."""
    monkeypatch.setattr(module, "WALK_SHARE", share)
    lost = attempt(failure="no_answer", money="unknown")
    with memory_ledger(request(str(n), tries=[lost]) for n in range(3)) as connection:

        def scans(ask: Callable[[], object]) -> set[str]:
            steps = plan(connection, ask)
            assert steps
            return {one for one in steps if one.startswith("SCAN")} - {
                "SCAN requests USING COVERING INDEX requests_by_latency",
                "SCAN requests USING INDEX requests_by_latency",  # no more rows than the page has
                "SCAN requests USING INDEX requests_by_cost",
                "SCAN requests USING INDEX requests_in_flight",  # a handful
                "SCAN (subquery-1)",  # what latency_sorted.sql has sorted
                "SCAN (subquery-3)",
            }

        for asked in (ALL, Filters(WHOLE, "gpt-4o", "alpha")):
            for group in (None, *Group):
                assert scans(partial(stats, connection, asked, group)) == set()
            for status in (None, "failed"):
                query = RequestsQuery(asked, status=status)
                assert scans(partial(listing, connection, query)) == set()


async def test_the_memory_database_answers_too() -> None:
    async with open_database(IN_MEMORY) as database:
        reports = Reports(database)
        await database.transaction(lambda connection: insert(connection, [request("one")]))
        since = [("since", "2026-02-01"), ("until", "2026-02-10")]
        found = await reports.stats(since, NOBODY)
        assert not isinstance(found, ErrorReply)
        assert found["counts"]["total"] == 1
        found = await reports.requests([*since, ("per_page", "1")], NOBODY)
        assert not isinstance(found, ErrorReply)
        assert ids(found) == ["one"]
        assert not isinstance(await reports.request("one"), ErrorReply)
        for ask in (reports.stats, reports.requests):
            refused = await ask([("since", "?")], NOBODY)
            assert isinstance(refused, ErrorReply)
            assert refused.code == "invalid_parameter"


async def test_a_request_of_this_very_millisecond_is_in_the_default_span() -> None:
    async with open_database(IN_MEMORY) as database:
        reports = Reports(database)
        for n in range(20):
            now = await reports.stats((), NOBODY)
            assert not isinstance(now, ErrorReply)
            just = format_moment(moment(now["until"]) - 1)
            await database.transaction(
                lambda c, n=n, t=just: insert(c, [request(str(n), timestamp=t)])  # type: ignore[misc]  # mypy infers no default
            )
            found = await reports.stats((), NOBODY)
            assert not isinstance(found, ErrorReply)
            assert found["counts"]["total"] == n + 1


async def test_a_writer_in_the_middle_of_a_transaction_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        with closing(connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            insert(other, [request("unborn")])
            found = await Reports(database).requests([("since", "2026-02-01")], NOBODY)
            assert not isinstance(found, ErrorReply)
            assert found["total"] == 0


async def test_a_database_that_cannot_be_read_is_an_error_with_a_time_to_come_back(
    tmp_path: Path,
) -> None:
    reports = Reports(SqliteDatabase(str(tmp_path / "gone.db"), "boot"))
    for found in (
        await reports.stats((), NOBODY),
        await reports.requests((), NOBODY),
        await reports.request("one"),
    ):
        assert isinstance(found, ErrorReply)
        assert (found.status, found.code, found.retry_after) == (503, "log_unavailable", 1.0)
        assert "unable to open database file" in found.message
    assert os.listdir(tmp_path) == []


async def test_a_file_that_took_the_place_of_another_is_read(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        reports = Reports(database)
        await database.transaction(lambda connection: insert(connection, [request("old")]))
        path.rename(tmp_path / "aside")
        await database.transaction(lambda connection: insert(connection, [request("new")]))
        assert isinstance(await reports.request("old"), ErrorReply)
        assert not isinstance(await reports.request("new"), ErrorReply)


async def test_a_question_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is left alone; it has a connection of its own."""
    release = threading.Event()
    async with open_database(IN_MEMORY) as database:
        reports = Reports(database)
        monkeypatch.setattr(database, "connect_reader", lambda: release.wait(10) and None)
        with trio.move_on_after(0.01) as scope:
            await reports.request("one")
        assert scope.cancelled_caught
        assert not release.is_set()
        release.set()

"""What a start makes of a ledger that an older arbstr wrote."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from arbstr.sansio.ledger.reports import Filters, Group
from arbstr.sansio.moments import Span, parse_moment
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.sqlite_readers import APPLICATION_ID
from arbstr.trio_runtime.ledger.sqlite_session import split_statements
from arbstr.trio_runtime.ledger.stats import read_stats
from tests.ledgers import MIGRATIONS, Row, attempt, connect, insert, request

FIRST_EDITION: Final = 2
"""The schema that knew no stated prices."""

NEW: Final = ("expected_sats", "answered", "endpoint", "moved", "joined")
"""Columns it did not have."""


def old(row: Row) -> Row:
    """A row as an arbstr of then wrote it."""
    kept = {name: value for name, value in row.items() if name not in NEW}
    return {
        **kept,
        "tries": [{k: v for k, v in one.items() if k not in NEW} for one in row["tries"]],
    }


def priced(cost: float | None, stated: float | None, **more: Any) -> dict[str, Any]:
    return {"cost_sats": cost, "provider_cost_sats": stated, **more}


SERVER_ERROR: Final = attempt(failure="server_error", money="free")
ROWS: Final = (
    request("stated", **priced(2.0, 20.0), tries=[attempt(**priced(2.0, 20.0))]),
    request("unstated", **priced(3.0, None), tries=[SERVER_ERROR, attempt(**priced(3.0, None))]),
    request("stated alone", **priced(None, 5.0), tries=[attempt(**priced(None, 5.0))]),
    request("for nothing", **priced(2.0, 0.0), tries=[attempt(**priced(2.0, 0.0))]),
    request("unpriced", **priced(None, None), tries=[attempt()]),
    request(
        "charged for an error",
        status="failed",
        **priced(0.5, 7.0),
        tries=[attempt(failure="error_answer", money="free", **priced(0.5, 7.0))],
    ),
    request(
        "charged for an error, then answered",
        **priced(1.0, None),
        tries=[
            attempt(failure="error_answer", money="free", provider="beta", **priced(None, 11.0)),
            attempt(**priced(1.0, None)),
        ],
    ),
    request(
        "an error that was free",
        status="failed",
        **priced(0.5, None),
        tries=[attempt(failure="error_answer", money="free", **priced(0.5, None))],
    ),
    request(
        "cut",
        status="stream_incomplete",
        **priced(1.5, 13.0),
        tries=[attempt(failure="stream_cut", money="spent", **priced(1.5, 13.0))],
    ),
    request(
        "left after its answer",
        status="client_disconnected",
        **priced(None, None),
        tries=[attempt()],
    ),
    request("rejected", status="rejected", provider=None, **priced(None, None)),
    request(
        "killed",
        status="abandoned",
        **priced(None, None),
        possibly_spent=1,
        tries=[attempt(failure="shutdown", money="unknown")],
    ),
    request(
        "running",
        status="in_flight",
        **priced(None, None),
        boot_id="x",
        tries=[attempt(money=None)],
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "arbstr.db"
    with closing(connect(path)) as connection:
        for script in MIGRATIONS[:FIRST_EDITION]:
            for statement in split_statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FIRST_EDITION}")
        insert(connection, map(old, ROWS))
    return path


async def migrated(path: Path) -> None:
    async with open_database(str(path)):
        pass


def read(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def whole_stats(path: Path, group: Group | None = None) -> dict[str, Any]:
    since, until = parse_moment("2026-02-01"), parse_moment("2026-02-10")
    assert since is not None
    assert until is not None
    with closing(connect(path)) as connection:
        return read_stats(connection, Filters(Span(since, until)), group)


async def test_old_rows_bear_what_was_stated_and_what_was_expected(path: Path) -> None:
    await migrated(path)
    found = read(path, "SELECT correlation_id, cost_sats, expected_sats, answered FROM requests")
    assert {id_: rest for id_, *rest in found} == {
        "stated": [20, 2, 1],
        "unstated": [3, 3, 1],
        "stated alone": [5, None, 1],
        "for nothing": [0, 2, 1],
        "unpriced": [None, None, 1],
        "charged for an error": [7, 0.5, 0],
        "charged for an error, then answered": [1, 1, 1],
        "an error that was free": [None, 0.5, 0],
        "cut": [13, 1.5, 0],
        "left after its answer": [None, None, 1],
        "rejected": [None, None, 0],
        "killed": [None, None, 0],
        "running": [None, None, 0],
    }
    attempts = read(
        path,
        "SELECT money, cost_sats, expected_sats FROM attempts WHERE failure = 'error_answer'"
        " ORDER BY correlation_id",
    )
    assert attempts == [("free", None, 0.5), ("spent", 7, 0.5), ("spent", 11, None)]
    spent = read(path, "SELECT correlation_id FROM requests WHERE possibly_spent > 0 ORDER BY 1")
    assert [id_ for (id_,) in spent] == [
        "charged for an error",
        "charged for an error, then answered",
        "cut",
        "killed",
        "running",  # nobody holds its boot's lock: abandoned
    ]


async def test_the_sums_of_old_rows_are_right(path: Path) -> None:
    await migrated(path)
    found = whole_stats(path)
    assert found["costs"]["total_cost_sats"] == 20 + 3 + 5 + 0 + 1
    assert found["costs"]["possibly_spent_sats"] == 7 + 11 + 13 + 0.5 + 0.5
    assert found["counts"]["unknown_cost"] == 4  # unpriced, left, killed, running
    beta = {row["provider"]: row for row in whole_stats(path, Group.PROVIDER)["groups"]}["beta"]
    assert (beta["counts"]["failed_attempts"], beta["costs"]["possibly_spent_sats"]) == (1, 11)


async def test_old_rows_are_chats(path: Path) -> None:
    await migrated(path)
    assert read(path, "SELECT DISTINCT endpoint, moved, joined FROM requests") == [
        ("chat", None, None)
    ]
    (chats,) = whole_stats(path, Group.ENDPOINT)["groups"]
    everything = whole_stats(path)
    assert chats["endpoint"] == "chat"
    assert chats["costs"] == everything["costs"]
    assert chats["counts"].items() >= everything["counts"].items()


async def test_the_sums_go_on_being_kept(path: Path) -> None:
    await migrated(path)
    with closing(connect(path)) as connection:
        tries = [attempt(cost_sats=100.0)]
        insert(connection, [request("new", cost_sats=100.0, endpoint="messages", tries=tries)])
        connection.execute("UPDATE requests SET cost_sats = 2.5 WHERE correlation_id = 'stated'")
        connection.execute("DELETE FROM requests WHERE correlation_id = 'stated alone'")
    assert whole_stats(path)["costs"]["total_cost_sats"] == 2.5 + 3 + 0 + 1 + 100
    by_endpoint = whole_stats(path, Group.ENDPOINT)["groups"]
    assert [(g["endpoint"], g["costs"]["total_cost_sats"]) for g in by_endpoint] == [
        ("chat", 2.5 + 3 + 0 + 1),
        ("messages", 100),
    ]
    sums = (
        "sum(requests), sum(unknown_cost), sum(cost_nanosats), sum(input_tokens), sum(latency_ms)"
    )
    (expected,) = read(path, f"SELECT {sums} FROM request_measures")
    assert read(path, f"SELECT {sums} FROM request_hours") == [expected]
    assert read(path, f"SELECT {sums} FROM request_days") == [expected]
    assert read(path, f"SELECT {sums} FROM request_totals") == [expected]

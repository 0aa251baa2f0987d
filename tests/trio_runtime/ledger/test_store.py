"""How records become rows: together where that is possible, one by one where one is special."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.ledger.sqlite_session import SIZES, SqliteSession
from arbstr.trio_runtime.ledger.store import NotTogether, Store
from tests.ledgers import memory_ledger
from tests.records import ATTEMPT, RECORD

ENDED: Final = replace(RECORD, policy="code", token_ratio=2.0)

RUNNING: Final = replace(
    ENDED,
    status="in_flight",
    success=False,
    cost_sats=None,
    attempts=(replace(ATTEMPT, money=None, cost_sats=None),),
    token_ratio=None,
)


def ended(correlation_id: str, *, attempts: int = 1) -> Record:
    tries = tuple(replace(ATTEMPT, n=n) for n in range(1, attempts + 1))
    return replace(ENDED, correlation_id=correlation_id, attempts=tries)


def running(correlation_id: str) -> Record:
    return replace(RUNNING, correlation_id=correlation_id)


WHOSE: Final = "requests WHERE correlation_id = 'left'"

POISON: Final = replace(ended("bad"), input_tokens=10**30)


@pytest.fixture
def ledger() -> Iterator[SqliteSession]:
    with memory_ledger() as connection:
        yield connection


@pytest.fixture
def store() -> Store:
    return Store("boot")


def rows(ledger: SqliteSession, columns: str, table: str = "requests") -> list[tuple[object, ...]]:
    return ledger.execute(f"SELECT {columns} FROM {table}").fetchall()


def sums_agree(ledger: SqliteSession) -> None:
    """What the triggers keep is what the finished rows add up to."""
    sums = "sum(requests), sum(unknown_cost), sum(cost_nanosats), sum(latency_ms)"
    (expected,) = rows(ledger, sums, "request_measures WHERE status <> 'in_flight'")
    assert rows(ledger, sums, "request_hours") == [expected]
    assert rows(ledger, sums, "request_days") == [expected]
    assert rows(ledger, sums, "request_totals") == [expected]


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 24, 25, 26, 57, 200])
def test_a_batch_of_any_size_is_written_in_its_order(
    ledger: SqliteSession, store: Store, count: int
) -> None:
    ids = [f"{n:03}" for n in range(count)]
    batch = [ended(each, attempts=n % 3) for n, each in enumerate(ids)]
    store.together(batch, ledger)
    assert rows(ledger, "id, correlation_id, attempts", "requests ORDER BY id") == [
        (n + 1, each, n % 3) for n, each in enumerate(ids)
    ]
    assert rows(ledger, "correlation_id, n", "attempts ORDER BY 1, 2") == [
        (record.correlation_id, attempt.n) for record in batch for attempt in record.attempts
    ]
    if count:
        sums_agree(ledger)
        assert rows(ledger, "*", "token_ratios") == [("code", 2.0, count)]


def test_the_usual_batch_takes_few_statements_and_no_savepoint(
    ledger: SqliteSession, store: Store
) -> None:
    store.together([running(str(n)) for n in range(8)], ledger)
    said: list[str] = []
    ledger.set_trace_callback(said.append)
    store.together([ended(str(n)) for n in range(200)], ledger)
    ledger.set_trace_callback(None)
    for table in ("requests", "attempts"):
        # A statement is told of again after each of its triggers.
        statements = {each for each in said if f"INTO {table} (" in each}
        assert len(statements) == 200 // SIZES[0]
    assert not any("SAVEPOINT" in each for each in said)
    assert rows(ledger, "status, count(*)", "requests GROUP BY 1") == [("ok", 200)]
    assert rows(ledger, "money, count(*)", "attempts GROUP BY 1") == [("spent", 200)]
    sums_agree(ledger)


def test_a_row_that_is_final_keeps_its_attempts_and_the_others_are_written(
    ledger: SqliteSession, store: Store
) -> None:
    store.together([ended("final"), running("running")], ledger)
    late = replace(ended("final", attempts=2), status="failed", token_ratio=9.0)
    batch = [ended("new"), late, ended("running")]
    ledger.execute("BEGIN")
    with pytest.raises(NotTogether):
        store.together(batch, ledger)
    ledger.execute("ROLLBACK")
    assert store.one_by_one(batch, ledger) == ()
    assert rows(ledger, "correlation_id, status", "requests ORDER BY id") == [
        ("final", "ok"),
        ("running", "ok"),
        ("new", "ok"),
    ]
    assert rows(ledger, "correlation_id, n, money", "attempts ORDER BY 1") == [
        ("final", 1, "spent"),
        ("new", 1, "spent"),
        ("running", 1, "spent"),
    ]
    assert rows(ledger, "avg_ratio, sample_count", "token_ratios") == [(2.0, 3)]
    sums_agree(ledger)


def test_what_cannot_be_stored_is_left_out_alone(ledger: SqliteSession, store: Store) -> None:
    numberless = replace(ended("numberless"), attempts=(replace(ATTEMPT, n=None),))  # type: ignore[arg-type]  # wrong on purpose
    batch = [ended("before"), POISON, numberless, ended("after")]
    ledger.execute("BEGIN")
    with pytest.raises(NotTogether):
        store.together(batch, ledger)
    ledger.execute("ROLLBACK")
    refused = store.one_by_one(batch, ledger)
    assert [each.record.correlation_id for each in refused] == ["bad", "numberless"]
    assert refused[0].error.startswith("OverflowError: ")
    assert refused[1].error.startswith("IntegrityError: ")
    assert rows(ledger, "correlation_id", "requests ORDER BY id") == [("before",), ("after",)]
    assert rows(ledger, "count(*)", "attempts") == [(2,)]
    sums_agree(ledger)


@pytest.mark.parametrize("way", ["together", "one_by_one"])
def test_a_database_that_fails_is_no_fault_of_a_record(
    ledger: SqliteSession, store: Store, way: str
) -> None:
    ledger.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        getattr(store, way)([ended("one"), ended("two")], ledger)


def test_no_statement_has_more_values_than_any_sqlite_takes(
    ledger: SqliteSession, store: Store
) -> None:
    ledger.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    store.together([ended(str(n)) for n in range(SIZES[0])], ledger)
    assert rows(ledger, "count(*)") == [(SIZES[0],)]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["left first", "got first"])
def test_an_answer_that_one_left_and_another_got_was_brought(
    ledger: SqliteSession, store: Store, order: tuple[int, int], *, together: bool
) -> None:
    cut = replace(ATTEMPT, failure="no_answer", money="unknown")
    last = replace(ATTEMPT, n=2, failure="client_left", money="spent")
    left = replace(
        ended("left"),
        status="client_disconnected",
        success=False,
        answered=False,
        possibly_spent=2,
        attempts=(cut, last),
    )
    got = replace(ended("got", attempts=0), joined="left")
    batch = [(left, got)[n] for n in order]
    for some in [batch] if together else [[each] for each in batch]:
        store.together(some, ledger)
    assert rows(ledger, "status, success, answered, possibly_spent", WHOSE) == [
        ("client_disconnected", 0, 1, 1)
    ]
    assert rows(ledger, "failure, money", "attempts ORDER BY n") == [
        ("no_answer", "unknown"),
        (None, "spent"),
    ]
    sums_agree(ledger)


@pytest.mark.parametrize(
    ("status", "money"),
    [("client_disconnected", "spent"), ("ok", "unknown"), ("ok", "free")],
    ids=["nobody got it whole", "it was cut", "nothing was sent"],
)
def test_what_was_left_and_not_got_stays_paid_for_nothing(
    ledger: SqliteSession, store: Store, status: str, money: str
) -> None:
    left = replace(
        ended("left"),
        status="client_disconnected",
        success=False,
        answered=False,
        possibly_spent=1,
        attempts=(replace(ATTEMPT, failure="client_left", money=money),),
    )
    got = replace(ended("got", attempts=0), joined="left", status=status, success=status == "ok")
    store.together([left, got], ledger)
    assert rows(ledger, "answered, possibly_spent", WHOSE) == [(0, 1)]
    assert rows(ledger, "failure, money", "attempts") == [("client_left", money)]

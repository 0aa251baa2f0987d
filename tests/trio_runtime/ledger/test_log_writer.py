"""The log writer against real SQLite files: batches, trouble, a full queue, the end."""

import json
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.ledger.database import IN_MEMORY, open_database
from arbstr.trio_runtime.ledger.log_writer import (
    BATCH_ROWS,
    CAPACITY,
    LogStatistics,
    LogWriter,
    Loss,
    loss_of,
    open_log_writer,
)
from arbstr.trio_runtime.ledger.port import Trouble
from arbstr.trio_runtime.ledger.sqlite import SqliteDatabase, open_sqlite
from tests.records import ATTEMPT, INTENT, RECORD
from tests.searching import examples
from tests.test_steps import COUNTED, counting

NEVER: Final = float("inf")


def record(correlation_id: str, status: str = "ok", *, cost: bool = True) -> Record:
    """A record as an exchange makes it. `cost`: whether an attempt of it may have cost."""
    attempt = ATTEMPT if cost else replace(ATTEMPT, money="free", failure="not_sent")
    return replace(
        RECORD,
        correlation_id=correlation_id,
        latency_ms=0 if status == "in_flight" else 15,
        success=status == "ok",
        status=status,
        attempts=() if status in ("in_flight", "rejected") else (attempt,),
    )


def rows(path: Path, columns: str, table: str = "requests") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()


async def until(log: LogWriter, reached: Callable[[LogStatistics], bool]) -> None:
    with trio.fail_after(10):
        while not reached(log.statistics()):  # noqa: ASYNC110  # it has no event for tests
            await trio.sleep(0.005)


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    with trio.fail_after(10):
        while text not in caplog.text:  # noqa: ASYNC110  # neither has logging
            await trio.sleep(0.005)


def warnings_and_above(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The ids of the rows that were printed whole."""
    lines = [m for m in warnings_and_above(caplog) if m.startswith("row dropped: ")]
    assert not any("\n" in line for line in lines)
    return [json.loads(line.removeprefix("row dropped: "))["correlation_id"] for line in lines]


# -- what is stored


async def test_every_column_of_a_record_and_its_attempts_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with (
        open_database(str(path), boot_id="boot") as database,
        open_log_writer(database) as log,
    ):
        log.offer(
            replace(
                record("one"),
                policy="code",
                cached_tokens=3,
                reasoning_tokens=4,
                ttft_ms=5,
                stream_duration_ms=6,
                streaming=True,
                error_status=502,
                error_message="a sentence",
                possibly_spent=1,
                endpoint="responses",
                moved=True,
                joined="first",
                attempts=(
                    replace(
                        replace(ATTEMPT, failure="account", money="free", lane="a 1 2"),
                        said="low: no",
                        key_id="its key",
                    ),
                ),
            )
        )
    # fmt: off
    assert rows(path, "*") == [
        (1, "one", "2026-02-03T04:05:06.789Z", "gpt-4o", "gpt-4o", "alpha", "code", 1,
         10, 20, 3, 4, 0.13, 0.5, 0.13, 15, 5, 6, 1, "ok", 502, "a sentence", 1, 1, "boot",
         0.125, 1, "responses", 1, "first")
    ]
    assert rows(path, "*", "attempts") == [
        ("one", 1, "alpha", "gpt-4o", "2026-02-03T04:05:06.790Z", 12, "account", 200, "free",
         10, 20, 0.13, 0.5, 0.13, "up-1", 0.125, None, None, None, "a 1 2", "low: no",
         "2026-02-03T04:05:06.789Z", "code", "responses", "its key")
    ]
    # fmt: on
    assert rows(path, "typeof(cost_sats)") == [("real",)]


async def test_unknown_is_null(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database, open_log_writer(database) as log:
        log.offer(replace(record("one"), cost_sats=None, input_tokens=None, provider=None))
    assert rows(path, "cost_sats, input_tokens, provider, policy") == [(None, None, None, None)]


async def test_both_halves_in_one_batch_are_one_insert(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        async with open_log_writer(database, linger=NEVER) as log:
            log.offer(record("one", "in_flight"))
            log.offer(record("two", "in_flight"))
            log.offer(record("one", "ok"))
            assert log.statistics() == LogStatistics(queued=2, written=0, dropped=0)
        assert log.statistics() == LogStatistics(queued=0, written=2, dropped=0)
    assert rows(path, "id, correlation_id, status") == [(1, "one", "ok"), (2, "two", "in_flight")]


async def test_a_final_record_completes_the_row_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database, open_log_writer(database, batch_rows=1) as log:
        log.offer(record("one", "in_flight"))
        await until(log, lambda s: s.written == 1)
        assert rows(path, "id, status, latency_ms") == [(1, "in_flight", 0)]
        log.offer(record("one", "client_disconnected"))
        await until(log, lambda s: s.written == 2)
    assert rows(path, "id, status, latency_ms") == [(1, "client_disconnected", 15)]
    assert rows(path, "correlation_id, n", "attempts") == [("one", 1)]


async def test_a_row_is_finalised_once(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database, open_log_writer(database, batch_rows=1) as log:
        for n, late in enumerate(
            (
                record("one", "ok"),
                record("one", "in_flight"),
                replace(record("one", "failed"), attempts=()),
            ),
            start=1,
        ):
            log.offer(late)
            await until(log, lambda s, n=n: s.written == n)  # type: ignore[misc]  # mypy infers no default
    assert rows(path, "status, latency_ms, attempts") == [("ok", 15, 1)]
    assert rows(path, "n", "attempts") == [(1,)]


async def test_a_late_final_record_overwrites_abandoned(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database, open_log_writer(database, batch_rows=1) as log:
        log.offer(replace(record("one", "in_flight"), attempts=(replace(ATTEMPT, money=None),)))
        await until(log, lambda s: s.written == 1)
        (tmp_path / f"arbstr.db.lock-{database.boot_id}").unlink()
        async with open_database(str(path)):
            assert rows(path, "status") == [("abandoned",)]
        log.offer(record("one", "ok"))
    assert rows(path, "status, error_message, possibly_spent") == [("ok", None, 0)]
    assert rows(path, "failure, money", "attempts") == [(None, "spent")]


async def test_order_is_kept_over_batches_and_the_rest_is_flushed_at_the_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "arbstr.db"
    ids = [f"{n:02}" for n in range(8)]
    async with open_database(str(path)) as database:
        async with open_log_writer(database, batch_rows=3, linger=NEVER) as log:
            for correlation_id in ids:
                log.offer(record(correlation_id))
            # Two whole batches go by themselves; the last two rows wait for a third.
            await until(log, lambda s: s == LogStatistics(queued=2, written=6, dropped=0))
        assert log.statistics() == LogStatistics(queued=0, written=8, dropped=0)
    assert rows(path, "id, correlation_id") == list(enumerate(ids, start=1))


async def test_the_memory_database_is_written_too() -> None:
    async with open_database(IN_MEMORY) as database:
        async with open_log_writer(database) as log:
            log.offer(record("one"))
        found = await database.read(
            lambda reader: reader.execute("SELECT correlation_id FROM requests").fetchall()
        )
        assert found == [("one",)]


# -- the row of a request in flight


async def test_the_row_of_a_request_that_is_over_before_it_is_written_is_never_made(
    tmp_path: Path,
) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database, open_log_writer(database) as log:
        log.offer_in_flight(INTENT, lambda: pytest.fail("nobody reads it"))
        log.offer(record("one"))
        assert log.statistics().queued == 1
    assert rows(path, "correlation_id, status") == [("one", "ok")]


async def test_the_row_of_a_request_in_flight_says_how_it_stands_when_it_is_written(
    tmp_path: Path,
) -> None:
    path, provider = tmp_path / "arbstr.db", "alpha"
    async with open_database(str(path)) as database, open_log_writer(database, linger=0) as log:
        log.offer_in_flight(INTENT, lambda: replace(record("one", "in_flight"), provider=provider))
        provider = "beta"
        await until(log, lambda now: now.written == 1)
        assert rows(path, "provider, status") == [("beta", "in_flight")]
        log.offer(record("one"))
    assert rows(path, "provider, status") == [("alpha", "ok")]


async def test_a_row_that_cannot_be_made_is_lost_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def bug() -> Record:
        raise RuntimeError

    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database, open_log_writer(database, linger=0) as log:
        log.offer_in_flight(INTENT, bug)
        await until(log, lambda now: now.dropped == 1)
        log.offer(record("two"))
    assert rows(path, "correlation_id") == [("two",)]
    assert log.statistics() == LogStatistics(queued=0, written=1, dropped=1)
    (line,) = warnings_and_above(caplog)
    assert line.startswith("the row of a request in flight was lost: RuntimeError at ")


# -- when


async def test_an_idle_writer_has_no_timer_and_a_lone_record_waits_for_company() -> None:
    def next_timer() -> float:
        return trio.lowlevel.current_statistics().seconds_to_next_deadline

    async with open_database(IN_MEMORY) as database, open_log_writer(database, linger=500) as log:
        await trio.testing.wait_all_tasks_blocked()
        assert next_timer() == NEVER
        log.offer(record("one"))
        await trio.testing.wait_all_tasks_blocked()
        assert 400 < next_timer() <= 500
        assert log.statistics().queued == 1


# -- trouble


async def test_a_locked_database_delays_the_rows_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            async with open_log_writer(
                database, linger=0, backoff=0.001, backoff_limit=0.002
            ) as log:
                log.offer(record("one", "in_flight"))
                log.offer(record("two"))
                await until_logged(caplog, "cannot be written (database is locked)")
                log.offer(record("three"))
                log.offer(record("one", "ok"))
                assert log.statistics().dropped == 0
                assert log.statistics().written == 0
                assert log.statistics().waits > 0
                other.execute("COMMIT")
                await until(log, lambda s: s.queued == 0)
                assert log.statistics().waits == 0
    assert rows(path, "id, correlation_id, status") == [
        (1, "one", "ok"),
        (2, "two", "ok"),
        (3, "three", "ok"),
    ]
    assert [entry.levelname for entry in caplog.records] == ["WARNING", "INFO"]
    assert "is written again; 0 rows dropped so far" in caplog.text


async def test_a_read_only_database_is_endured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        connection = database._connection
        assert connection is not None
        connection.execute("PRAGMA query_only = 1")
        async with open_log_writer(database, backoff=0.001, backoff_limit=0.002) as log:
            log.offer(record("one"))
            await until_logged(caplog, "attempt to write a readonly database")
            # query_only does not lock anybody out, so it may be lifted between two tries.
            await database._in_thread(lambda: connection.execute("PRAGMA query_only = 0"))
            await until(log, lambda s: s.written == 1)
    assert rows(path, "correlation_id") == [("one",)]


async def test_a_full_disk_is_endured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        connection = database._connection
        assert connection is not None
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        async with open_log_writer(
            database, batch_rows=100, linger=NEVER, backoff=0.001, backoff_limit=0.002
        ) as log:
            for n in range(100):
                log.offer(record(f"{n:03}"))
            await until_logged(caplog, "database or disk is full")
            assert log.statistics().written == 0
            await database._in_thread(
                lambda: connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
            )
            await until(log, lambda s: s.written == 100)
    assert rows(path, "count(*), count(DISTINCT correlation_id)") == [(100, 100)]
    assert rows(path, "count(*)", "attempts") == [(100,)]
    assert rows(path, "*", "pragma_integrity_check") == [("ok",)]


def checkpoint(path: Path) -> None:
    """All of the journal goes into the file."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def written_to_the_file(log: LogWriter, path: Path) -> None:
    """A first row is in the file itself."""
    log.offer(record("before"))
    await until(log, lambda now: now.written == 1)
    checkpoint(path)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))


def beheaded(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(4096))


def cut_off(path: Path) -> None:
    os.truncate(path, 3 * 4096)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [overwritten, beheaded, cut_off, emptied])
async def test_what_cannot_be_read_back_is_not_written_and_waits_for_another_file(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite's own writes go on succeeding: into the WAL, from its own cache."""
    path, aside = tmp_path / "arbstr.db", tmp_path / "aside.db"
    async with (
        open_database(str(path)) as database,
        open_log_writer(database, linger=0, backoff=0.001, backoff_limit=0.01) as log,
    ):
        for n in range(200):
            log.offer(record(f"before {n}"))
        await until(log, lambda now: now.written == 200)
        checkpoint(path)
        damage(path)
        for n in range(5):
            log.offer(record(f"after {n}"))
        await until_logged(caplog, f"database {path} is damaged (")
        assert log.statistics() == LogStatistics(queued=5, written=200, dropped=0, damaged=True)
        noted = tmp_path / f"arbstr.db.intents-{database.boot_id}-1"
        assert noted.read_bytes().count(b'"after ') == 5
        path.rename(aside)
        await until(log, lambda now: not now.queued)
        assert log.statistics() == LogStatistics(queued=0, written=205, dropped=0)
    assert rows(path, "correlation_id") == [(f"after {n}",) for n in range(5)]
    assert caplog.text.count("is damaged (") == 1


async def test_at_the_end_what_a_damaged_database_did_not_take_stays_for_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    async with (
        open_database(str(path)) as database,
        open_log_writer(database, linger=0, backoff=0.001, flush_seconds=0.1) as log,
    ):
        await written_to_the_file(log, path)
        overwritten(path)
        log.offer(record("after"))
        await until_logged(caplog, "is damaged (")
    assert printed(caplog) == ["after"]
    path.unlink()
    async with open_database(str(path)) as database, open_log_writer(database):
        pass
    assert rows(path, "correlation_id, status") == [("after", "ok")]


async def test_a_file_that_is_mended_in_place_is_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    async with (
        open_database(str(path)) as database,
        open_log_writer(database, linger=0, backoff=0.001, backoff_limit=0.01) as log,
    ):
        await written_to_the_file(log, path)
        backup = path.read_bytes()
        overwritten(path)
        with pytest.raises(Trouble):
            await database.read(lambda reader: reader.execute("SELECT * FROM requests").fetchall())
        assert log.statistics().damaged
        log.offer(record("after"))
        with path.open("r+b") as file:
            file.write(backup)
        await until(log, lambda now: now.written == 2)
        assert not log.statistics().damaged
    assert rows(path, "correlation_id") == [("after",), ("before",)]


async def test_a_directory_that_went_away_and_came_back_is_endured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "data" / "arbstr.db"
    path.parent.mkdir()
    async with (
        open_database(str(path)) as database,
        open_log_writer(database, batch_rows=1, backoff=0.001) as log,
    ):
        log.offer(record("gone"))
        await until(log, lambda s: s.written == 1)
        shutil.rmtree(path.parent)
        log.offer(record("kept"))
        await until_logged(caplog, "does not exist: create it")
        path.parent.mkdir()
        await until(log, lambda s: s.written == 2)
    assert rows(path, "correlation_id") == [("kept",)]


async def test_a_fault_of_our_own_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:

        def broken(work: object) -> None:
            monkeypatch.undo()
            raise RuntimeError("a bug")

        monkeypatch.setattr(database, "_transact", broken)
        async with open_log_writer(database, batch_rows=1, backoff=0.001) as log:
            log.offer(record("one"))
            await until(log, lambda s: s.written == 1)
    assert "cannot be written (a bug)" in caplog.text
    assert rows(path, "correlation_id") == [("one",)]


NUMBERLESS = replace(ATTEMPT, n=None)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("poison", "error"),
    [
        (replace(record("bad"), input_tokens=10**30), "OverflowError"),
        (replace(record("bad"), cost_sats=Decimal("sNaN")), "ValueError"),
        (replace(record("bad"), attempts=(NUMBERLESS,)), "IntegrityError"),
    ],
)
async def test_a_row_the_database_never_takes_does_not_hold_up_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, poison: Record, error: str
) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        async with open_log_writer(database, linger=NEVER) as log:
            for offered in (record("before"), poison, record("after")):
                log.offer(offered)
        assert log.statistics() == LogStatistics(queued=0, written=2, dropped=1)
    assert rows(path, "correlation_id") == [("after",), ("before",)]
    assert rows(path, "correlation_id", "attempts") == [("after",), ("before",)]
    assert f"a row was refused by the database ({error}" in caplog.text
    assert printed(caplog) == ["bad"]


async def test_a_refused_row_that_cost_nothing_is_not_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_database(str(tmp_path / "arbstr.db")) as database:
        async with open_log_writer(database) as log:
            log.offer(replace(record("bad", cost=False), input_tokens=10**30))
        assert log.statistics().dropped == 1
    assert len(warnings_and_above(caplog)) == 1


async def test_text_that_is_no_unicode_is_stored_with_question_marks(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database, open_log_writer(database) as log:
        log.offer(replace(record("one", "rejected"), model="g\ud800t", requested_model="größe\0"))
    assert rows(path, "model, requested_model") == [("g?t", "größe\0")]


# -- a full queue


async def test_what_is_missed_least_is_dropped_first(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        open_database(IN_MEMORY) as database,
        open_log_writer(database, capacity=5, linger=NEVER) as log,
    ):
        log.offer(record("paid 1"))
        log.offer(record("free 1", "failed", cost=False))
        log.offer(record("running 1", "in_flight"))
        log.offer(record("rejected 1", "rejected"))
        log.offer(record("rejected 2", "rejected"))
        gone = []
        for n in range(2, 7):
            log.offer(record(f"paid {n}"))
            gone.append(set(log._pending))
        assert log.statistics() == LogStatistics(queued=5, written=0, dropped=5)
        assert printed(caplog) == ["paid 1"]
    assert "rejected 1" not in gone[0]
    assert "rejected 2" in gone[0]
    assert "rejected 2" not in gone[1]
    assert "running 1" in gone[1]
    assert "running 1" not in gone[2]
    assert "free 1" in gone[2]
    assert "free 1" not in gone[3]
    assert gone[4] == {f"paid {n}" for n in range(2, 7)}
    assert warnings_and_above(caplog)[0].count("0.125") == 2  # the row, and its attempt


async def test_a_final_record_takes_the_place_of_its_in_flight_one_in_a_full_queue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        open_database(IN_MEMORY) as database,
        open_log_writer(database, capacity=2, linger=NEVER) as log,
    ):
        log.offer(record("one", "in_flight"))
        log.offer(record("two", "in_flight"))
        log.offer(record("one", "ok"))
        log.offer(record("three", "rejected"))
        log.offer(record("four", "ok"))
        assert list(log._pending) == ["one", "four"]
        assert log.statistics().dropped == 2
    assert printed(caplog) == []


def test_only_a_finished_record_that_may_have_cost_is_money() -> None:
    assert loss_of(record("a", "in_flight")) is Loss.IN_FLIGHT
    assert loss_of(record("a", "rejected")) is Loss.REJECTED
    assert loss_of(replace(record("a", "rejected"), attempts=(ATTEMPT,))) is Loss.MONEY
    assert loss_of(record("a", "failed", cost=False)) is Loss.FREE
    assert loss_of(record("a", "client_disconnected")) is Loss.MONEY


def waiting_writer(*, capacity: int = CAPACITY, batch_rows: int = BATCH_ROWS) -> LogWriter:
    """One that writes nothing."""
    database = SqliteDatabase(IN_MEMORY, "boot")
    return LogWriter(
        database,
        capacity=capacity,
        batch_rows=batch_rows,
        linger=0,
        backoff=1,
        backoff_limit=1,
    )


@examples(40)
@given(
    offers=st.lists(
        st.tuples(
            st.integers(0, 9), st.sampled_from(["in_flight", "ok", "rejected"]), st.booleans()
        ),
        max_size=60,
    ),
    capacity=st.integers(1, 6),
)
def test_every_record_is_queued_replaced_taken_or_counted(
    offers: list[tuple[int, str, bool]], capacity: int
) -> None:
    log = waiting_writer(capacity=capacity, batch_rows=2)
    accounted = 0
    for key, status, take in offers:
        accounted += str(key) not in log._pending
        before = dict(log._pending)
        log.offer(record(str(key), status))
        after = log.statistics()
        assert after.queued <= capacity
        assert after.queued + after.dropped == accounted
        assert sum(map(len, log._by_loss)) == after.queued
        for victim in (before.keys() | {str(key)}) - log._pending.keys():
            lost = loss_of(record(victim, status)) if victim == str(key) else before[victim][0]
            assert all(lost <= loss for loss, _ in log._pending.values())
        if take:
            # A batch that could not be written comes back to where it was.
            order = list(log._pending)
            by_loss = [set(keys) for keys in log._by_loss]
            log._put_back(log._take())
            assert list(log._pending) == order
            assert [set(keys) for keys in log._by_loss] == by_loss


def test_what_came_since_stays_behind_what_comes_back_and_a_newer_record_is_kept() -> None:
    log = waiting_writer()
    for offered in (record("a", "in_flight"), record("b")):
        log.offer(offered)
    taken = log._take()
    for offered in (record("c"), record("a")):
        log.offer(offered)
    log._put_back(taken)
    assert [(key, loss) for key, (loss, _) in log._pending.items()] == [
        ("a", Loss.MONEY),
        ("b", Loss.MONEY),
        ("c", Loss.MONEY),
    ]
    assert list(log._by_loss[Loss.MONEY]) == ["a", "b", "c"]
    assert not log._by_loss[Loss.IN_FLIGHT]


@COUNTED
def test_a_batch_comes_back_in_as_many_steps_however_much_waits() -> None:
    """While the ledger is away thousands wait, and each try of a batch is beside who is served."""

    def steps(waiting: int) -> int:
        log = waiting_writer()
        for n in range(waiting):
            log.offer(record(f"{n}"))
        taken = log._take()
        with counting() as counts:
            log._put_back(taken)
        return counts["steps"]

    assert steps(400) == steps(4000) > 0


# -- the end


async def test_an_end_that_cannot_write_prints_what_may_have_cost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            async with open_log_writer(
                database, batch_rows=3, linger=NEVER, backoff=0.001, flush_seconds=0.05
            ) as log:
                for offered in (
                    record("paid"),
                    record("no", "rejected"),
                    record("on", "in_flight"),
                ):
                    log.offer(offered)
            assert log.statistics() == LogStatistics(queued=0, written=0, dropped=3)
            log.offer(record("late"))
            assert log.statistics() == LogStatistics(queued=0, written=0, dropped=4)
            assert printed(caplog) == ["paid", "late"]
            assert "3 rows of the request log could not be written" in caplog.text
    assert rows(path, "count(*)") == [(0,)]


async def test_the_end_does_not_wait_out_a_long_backoff(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            async with open_log_writer(
                database, batch_rows=1, backoff=5000, backoff_limit=5000, flush_seconds=1000
            ) as log:
                log.offer(record("one"))
                await until_logged(caplog, "database is locked")
                await trio.testing.wait_all_tasks_blocked()
                other.execute("COMMIT")
    assert rows(path, "correlation_id") == [("one",)]


async def test_a_cancellation_in_the_middle_of_a_batch_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    in_the_middle, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def hold() -> int:
        token.run_sync_soon(in_the_middle.set)
        assert go_on.wait(10)
        return 0

    async with open_sqlite(str(path)) as database:
        connection = database._connection
        assert connection is not None
        connection.create_function("hold", 0, hold)
        connection.execute(
            "CREATE TEMP TRIGGER slow AFTER INSERT ON main.requests"
            " WHEN new.correlation_id = 'two' BEGIN SELECT hold(); END"
        )
        with trio.CancelScope() as scope:
            async with open_log_writer(database, batch_rows=3, linger=NEVER) as log:
                for correlation_id in ("one", "two", "three"):
                    log.offer(record(correlation_id))
                await in_the_middle.wait()
                log.offer(record("four", "in_flight"))
                scope.cancel()
                log.offer(record("four", "client_disconnected"))
                go_on.set()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert log.statistics() == LogStatistics(queued=0, written=4, dropped=0)
    assert rows(path, "id, correlation_id") == [(1, "one"), (2, "two"), (3, "three"), (4, "four")]


async def test_a_writer_cancelled_before_it_began_still_writes(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with open_log_writer(database) as log:
                log.offer(record("one"))
    assert rows(path, "correlation_id") == [("one",)]

"""Old rows leave the log: which ones, in what portions, and what stays behind."""

import logging
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio

from arbstr.sansio.moments import DAY_MS, format_moment, parse_moment
from arbstr.trio_runtime.ledger import retention as module
from arbstr.trio_runtime.ledger.database import IN_MEMORY, open_database
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database
from arbstr.trio_runtime.ledger.retention import BATCH_ROWS, Retention, open_retention
from tests.clock import DAY, Clock
from tests.fakes import fake_process
from tests.ledgers import TIMESTAMP, Row, attempt, connect, insert, request
from tests.process import arbstr_process, run_arbstr, wait_until


def days_after(timestamp: str, days: int) -> int:
    moment = parse_moment(timestamp)
    assert moment is not None
    return moment + days * DAY_MS


async def fill(database: Database, rows: list[Row]) -> None:
    await database.transaction(lambda connection: insert(connection, rows))


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    while text not in caplog.text:  # noqa: ASYNC110  # logging has no event for it
        await trio.sleep(0.005)


async def test_what_is_older_leaves_with_its_attempts_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    rows = [
        request(name, timestamp=timestamp, tries=[attempt(), attempt()], status=status)
        for name, timestamp, status in (
            ("older", "2026-02-03T04:05:06.788Z", "ok"),
            ("running", "2026-02-03T04:05:06.788Z", "in_flight"),
            ("dead", "2026-02-03T04:05:06.788Z", "abandoned"),
            ("as old", TIMESTAMP, "ok"),
            ("younger", "2026-02-03T04:05:06.790Z", "ok"),
        )
    ]
    async with open_database(str(path)) as database:
        await fill(database, rows)
        retention = Retention(database, 30)
        assert await retention.sweep(days_after(TIMESTAMP, 0)) == 2
        assert await retention.sweep(days_after(TIMESTAMP, 0)) == 0
    left = read(path, "SELECT correlation_id FROM requests ORDER BY id")
    assert left == [("running",), ("as old",), ("younger",)]
    kept = read(path, "SELECT DISTINCT correlation_id FROM attempts")
    assert sorted(kept) == [("as old",), ("running",), ("younger",)]
    assert read(path, "SELECT sum(requests) FROM request_hours") == [(2,)]  # none in flight


async def test_it_goes_in_batches_with_room_for_others_between_them(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    many = BATCH_ROWS * 2 + 1
    async with open_database(str(path)) as database:
        await fill(database, [request(str(n)) for n in range(many)])
        left: list[int] = []

        async def watch() -> None:
            while not left or left[-1]:
                (row,) = await database.transaction(
                    lambda c: c.execute("SELECT count(*) FROM requests").fetchall()
                )
                left.append(row[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await Retention(database, 1).sweep(days_after(TIMESTAMP, 1), pause=0.01)
        # One sees each state in between: the writer gets its turn after every batch.
        assert {many - BATCH_ROWS, many - 2 * BATCH_ROWS, 0} <= set(left) | {many}


async def test_the_file_shrinks_and_the_journal_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    many = BATCH_ROWS * 8
    async with open_database(str(path)) as database:
        for start in range(0, many, BATCH_ROWS):
            rows = [
                request(f"{n:036}", tries=[attempt()]) for n in range(start, start + BATCH_ROWS)
            ]
            await fill(database, rows)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        full = path.stat().st_size
        await Retention(database, 1).sweep(days_after(TIMESTAMP, 1), pause=0)
        assert (tmp_path / "arbstr.db-wal").stat().st_size <= 8 * 1024 * 1024
    assert path.stat().st_size < full / 4
    for table in ("requests", "attempts", "request_hours", "request_days", "request_totals"):
        assert read(path, f"SELECT count(*) FROM {table}") == [(0,)]
    assert read(path, "PRAGMA integrity_check") == [("ok",)]


async def test_a_hurry_of_new_rows_does_not_wait_for_old_ones_to_leave(tmp_path: Path) -> None:
    """A cancelled sweep stops between two batches, and what it did is kept."""
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database, open_log_writer(database):
        await fill(database, [request(str(n)) for n in range(BATCH_ROWS * 2)])
        with trio.move_on_after(0.2) as scope:
            await Retention(database, 1).sweep(days_after(TIMESTAMP, 1), pause=60)
        assert scope.cancelled_caught
    assert read(path, "SELECT count(*) FROM requests") == [(BATCH_ROWS,)]


async def test_without_days_nothing_is_ever_removed() -> None:
    async with open_database(IN_MEMORY) as database:
        await fill(database, [request("old")])
        async with open_retention(database, None):
            await trio.testing.wait_all_tasks_blocked()
        assert await database.transaction(
            lambda c: c.execute("SELECT count(*) FROM requests").fetchone()
        ) == (1,)


async def test_trouble_is_a_warning_and_the_next_hour_tries_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.01)
    path = tmp_path / "arbstr.db"
    caplog.set_level(logging.INFO)
    async with open_database(str(path)) as database:
        # A row of now, or the clock would not be believed.
        young = format_moment(time.time_ns() // 1_000_000)
        await fill(database, [request("old"), request("young", timestamp=young)])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with open_retention(database, 1):
                with trio.fail_after(10):
                    await until_logged(
                        caplog, "old requests cannot be removed now (database is locked)"
                    )
                    other.execute("ROLLBACK")
                    await until_logged(caplog, "1 requests older than 1 days removed")
    assert read(path, "SELECT correlation_id FROM requests") == [("young",)]


async def test_a_clock_that_may_be_ahead_removes_nothing_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.001)
    path = tmp_path / "arbstr.db"
    async with open_database(str(path), boot_id="this") as database:
        await fill(database, [request("one"), request("two", status="abandoned")])
        # This process's own rows bear the clock in question.
        young = format_moment(time.time_ns() // 1_000_000)
        await fill(database, [request("own", timestamp=young, boot_id="this")])
        async with open_retention(database, 1):
            with trio.fail_after(10):
                await until_logged(caplog, "no old requests are removed: the clock says ")
                await trio.sleep(0.05)
    assert read(path, "SELECT count(*) FROM requests") == [(3,)]
    assert len(caplog.messages) == 1


def test_a_clock_that_is_40_days_ahead_leaves_the_ledger_as_it_is(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    text = (
        "[database]\nretention_days = 30\n"
        '[[providers]]\nname = "alpha"\nurl = "{url}"\nmodels = ["*"]\n'
    )
    with fake_process() as fake:
        start = partial(
            arbstr_process,
            config_text=text.format(url=fake.url),
            directory=tmp_path,
            environ=clock.environ,
        )
        with start() as process:
            for _ in range(3):
                assert process.chat("fake-ok").status_code == 200
            assert process.stop() == 0
        clock.offset = 40 * DAY
        with start() as process:
            process.wait_stderr("no old requests are removed: the clock says ")
            assert process.chat("fake-ok").status_code == 200
            process.wait_rows(4)
            assert process.stop() == 0
        clock.offset = 0.0
        with start() as process:
            assert process.stop() == 0
    assert len(process.rows()) == 4


def test_a_running_arbstr_removes_what_its_configuration_says(tmp_path: Path) -> None:
    config = (
        "[database]\nretention_days = 7\n"
        '[[providers]]\nname = "alpha"\nurl = "http://127.0.0.1:9"\nmodels = ["m"]\n'
    )
    with arbstr_process(config_text=config, directory=tmp_path) as first:
        assert first.stop() == 0  # it made the file
    now = int(tmp_path.stat().st_mtime * 1000)
    ages = {"old": 8 * DAY_MS, "young": 6 * DAY_MS}
    with closing(connect(first.database)) as connection:
        insert(
            connection,
            [request(name, timestamp=format_moment(now - age)) for name, age in ages.items()],
        )
    with arbstr_process(config_text=config, directory=tmp_path) as second:
        wait_until(lambda: len(second.rows()) == 1, "the old row is gone")
        second.wait_stderr("1 requests older than 7 days removed")
        assert second.stop() == 0
    assert [row["correlation_id"] for row in second.rows()] == ["young"]
    assert run_arbstr("check", config_text=config).returncode == 0

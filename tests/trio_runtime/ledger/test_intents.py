"""The file that outlives kill -9, against real files: written, emptied, taken over."""

import fcntl
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from arbstr.sansio.ledger.intents import HEADER, end_line, intent_line, read_lines
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.intents import Intents, Leftovers, Recovered
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Session
from tests.proxy import rows
from tests.records import INTENT, RECORD, RUNNING

END: Final = replace(RECORD, correlation_id="one")


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("arbstr.db.intents*"))


def told(path: Path) -> list[str]:
    return list(read_lines(path.read_bytes().splitlines(keepends=True)))


@contextmanager
def intents(directory: Path, **limits: int) -> Iterator[Intents]:
    found = Intents(str(directory / "arbstr.db"), "boot", **limits)
    yield found
    found.close()


def left_behind(directory: Path, *lines: bytes, boot: str = "dead", number: int = 1) -> Path:
    """The file of a process that was killed."""
    path = directory / f"arbstr.db.intents-{boot}-{number}"
    path.write_bytes(HEADER + b"".join(lines))
    return path


# -- the file of a process that lives


def test_a_line_is_there_at_once_for_its_owner_alone(tmp_path: Path) -> None:
    with intents(tmp_path) as noted:
        noted.begin(INTENT)
        (path,) = files(tmp_path)
        assert path.read_bytes() == HEADER + intent_line(INTENT)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        noted.end(END)
        assert path.read_bytes() == HEADER + intent_line(INTENT) + end_line(END)


def test_one_write_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = os.write, list[bytes]()

    def seen(descriptor: int, data: bytes) -> int:
        calls.append(data)
        return write(descriptor, data)

    with intents(tmp_path) as noted:
        noted.begin(INTENT)
        monkeypatch.setattr(os, "write", seen)
        noted.begin(INTENT)
        noted.end(END)
    assert calls == [intent_line(INTENT), end_line(END)]


def test_nothing_is_noted_beside_a_database_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noted = Intents(None, "boot")
    noted.begin(INTENT)
    noted.end(END)
    noted.settled(["one"], ())
    noted.close()
    assert not Leftovers(None).exist()
    assert not list(tmp_path.iterdir())


def test_it_is_emptied_when_all_it_tells_is_committed(tmp_path: Path) -> None:
    with intents(tmp_path) as noted:
        noted.begin(INTENT)
        noted.begin(replace(INTENT, correlation_id="two"))
        noted.settled(["one"], {"two": None})
        (path,) = files(tmp_path)
        assert told(path) == ["one", "two"]
        noted.settled(["two"], {})
        assert path.read_bytes() == HEADER
        noted.end(END)
        assert told(path) == ["one"]
    assert not files(tmp_path)


def test_without_a_quiet_moment_another_file_is_begun_and_the_old_one_goes(tmp_path: Path) -> None:
    """A thousand requests a second, as it were: something waits at any moment."""
    most = 0
    with intents(tmp_path, full_bytes=10_000) as noted:
        for n in range(1000):
            noted.begin(replace(INTENT, correlation_id=str(n)))
            noted.settled([str(n - 1)], {str(n): None})
            most = max(most, sum(path.stat().st_size for path in files(tmp_path)))
            assert str(n) in {each for path in files(tmp_path) for each in told(path)}
    assert 10_000 < most < 30_000
    assert not files(tmp_path)


def test_an_old_file_stays_until_the_last_of_what_waited_is_committed(tmp_path: Path) -> None:
    with intents(tmp_path, full_bytes=1) as noted:
        noted.begin(INTENT)
        noted.settled([], {"one": None, "two": None})
        noted.begin(replace(INTENT, correlation_id="three"))
        noted.settled(["one"], {"two": None, "three": None})
        assert [told(path) for path in files(tmp_path)] == [["one"], ["three"]]
        noted.settled(["two"], {"three": None})
        assert [told(path) for path in files(tmp_path)] == [["three"]]


def test_what_is_given_up_is_kept_for_the_next_start(tmp_path: Path) -> None:
    with intents(tmp_path, full_bytes=400) as noted:
        noted.end(END)
        noted.keep()
        noted.settled([], {})
        noted.end(replace(END, correlation_id="two"))
        noted.settled(["two"], {})
        noted.begin(replace(INTENT, correlation_id="three"))
        noted.settled(["three"], {})
    (path,) = files(tmp_path)
    assert told(path) == ["one", "two"]


def test_a_disk_that_takes_only_a_part_costs_one_line_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, ids = os.write, ("one", "two", "three", "four")
    with intents(tmp_path) as noted:
        noted.begin(INTENT)
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
        noted.begin(replace(INTENT, correlation_id="two"))
        monkeypatch.setattr(os, "write", lambda fd, data: full())
        noted.begin(replace(INTENT, correlation_id="three"))
        monkeypatch.setattr(os, "write", write)
        noted.begin(replace(INTENT, correlation_id="four"))
        noted.end(END)
        (path,) = files(tmp_path)
        assert told(path) == [ids[0], ids[3]]
        (only,) = caplog.records
        assert only.levelno == logging.WARNING
        assert "requests cannot be noted in " in only.getMessage()


def full() -> int:
    raise OSError(28, "No space left on device")


def test_a_file_that_a_start_beside_it_took_for_a_dead_ones_is_left_to_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "arbstr.db.intents-boot-1"
    with intents(tmp_path) as noted, taken.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # between its making and its locking
        noted.begin(INTENT)
        assert [told(path) for path in files(tmp_path)] == [[], [INTENT.correlation_id]]
        noted.end(END)
        noted.settled([INTENT.correlation_id], {})
    assert files(tmp_path) == [taken]
    assert caplog.records == []


@pytest.mark.parametrize("obstacle", ["no directory", "no space"])
def test_a_file_that_cannot_be_begun_fails_nothing(
    obstacle: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = tmp_path / "away"
    if obstacle == "no space":
        directory.mkdir()
        monkeypatch.setattr(os, "write", lambda fd, data: full())
    with intents(directory) as noted:
        noted.begin(INTENT)
        noted.settled(["one"], {})
        noted.begin(INTENT)
        assert len(caplog.records) == 1
        monkeypatch.undo()
        directory.mkdir(exist_ok=True)
        noted.begin(INTENT)
        assert [told(path) for path in files(directory)] == [["one"]]


def test_it_takes_no_more_of_the_disk_than_its_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with intents(tmp_path, most_bytes=1000) as noted:
        for n in range(100):
            noted.begin(replace(INTENT, correlation_id=str(n)))
        (path,) = files(tmp_path)
        assert path.stat().st_size < 2000
        assert len(caplog.records) == 1
        noted.settled([], {})
        noted.end(END)
        assert told(path) == ["one"]


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    with intents(tmp_path) as noted:
        noted.begin(INTENT)
        files(tmp_path)[0].unlink()
        noted.settled([], {"one": None})
        noted.end(END)
        assert [told(path) for path in files(tmp_path)] == [["one"]]


# -- what a killed process left


async def recovered(path: Path) -> list[dict[str, Any]]:
    async with open_database(str(path), boot_id="new") as database, open_log_writer(database):
        assert not files(path.parent)
    return rows(path)


async def test_what_was_dispatched_becomes_an_abandoned_row(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    left_behind(tmp_path, intent_line(INTENT))
    (row,) = await recovered(path)
    assert (row["correlation_id"], row["status"], row["boot_id"]) == ("one", "abandoned", "dead")
    assert (row["attempts"], row["possibly_spent"], row["estimated_cost_sats"]) == (1, 1, 0.5)
    (attempt,) = rows(path, "attempts")
    assert (attempt["failure"], attempt["money"]) == ("shutdown", "unknown")
    assert (attempt["provider"], attempt["estimated_cost_sats"]) == ("alpha", 0.5)


async def test_what_was_over_becomes_its_row_and_teaches_its_ratio_once(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    end = replace(END, token_ratio=2.0)
    for _ in range(2):
        left_behind(tmp_path, intent_line(INTENT), end_line(end))
        (row,) = await recovered(path)
        assert (row["status"], row["cost_sats"], row["boot_id"]) == ("ok", 0.13, "dead")
        assert len(rows(path, "attempts")) == 1
        assert [row["sample_count"] for row in rows(path, "token_ratios")] == [1]


@pytest.mark.parametrize("in_database", [1, 2])
async def test_of_two_that_know_a_request_in_flight_the_one_with_more_attempts_counts(
    in_database: int, tmp_path: Path
) -> None:
    """The row is made later than the intent of the same attempt, and so knows more of it."""
    path = tmp_path / "arbstr.db"
    failed = replace(RUNNING, failure="server_error", money="free")
    second = replace(RUNNING, n=2, provider="beta")
    before = replace(
        END,
        status="in_flight",
        success=False,
        attempts=(failed, replace(second, failure="no_answer", money="spent"))[:in_database],
    )
    async with (
        open_database(str(path), boot_id="dead") as database,
        open_log_writer(database) as log,
    ):
        log.offer(before)
    left_behind(tmp_path, intent_line(replace(INTENT, attempts=(failed, second))))
    (row,) = await recovered(path)
    assert (row["status"], row["attempts"], row["possibly_spent"]) == ("abandoned", 2, 1)
    assert [(row["provider"], row["money"]) for row in rows(path, "attempts")] == [
        ("alpha", "free"),
        ("beta", "unknown" if in_database == 1 else "spent"),
    ]


async def test_a_row_that_is_final_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with (
        open_database(str(path), boot_id="dead") as database,
        open_log_writer(database) as log,
    ):
        log.offer(END)
    left_behind(tmp_path, intent_line(INTENT), end_line(replace(END, status="failed")))
    (row,) = await recovered(path)
    assert row["status"] == "ok"


async def test_a_late_end_overwrites_what_was_taken_for_abandoned(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    left_behind(tmp_path, intent_line(INTENT))
    async with open_database(str(path)) as database, open_log_writer(database) as log:
        assert [row["status"] for row in rows(path)] == ["abandoned"]
        log.offer(END)
    assert [row["status"] for row in rows(path)] == ["ok"]


async def test_the_file_of_a_process_that_lives_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    with intents(tmp_path) as noted:
        noted.begin(INTENT)
        async with open_database(str(path)) as database, open_log_writer(database) as log:
            assert log.recovered
        assert [told(path) for path in files(tmp_path)] == [["one"]]
    assert rows(path) == []


async def test_killed_in_the_middle_of_it_the_next_start_does_it_again(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    file = left_behind(tmp_path, intent_line(INTENT), end_line(replace(END, correlation_id="two")))
    async with open_database(str(path)) as database:
        for _ in range(2):  # committed, and killed before the file was removed
            leftovers = Leftovers(str(path))
            await database.transaction(leftovers.write)
            leftovers.close()
        with pytest.raises(ZeroDivisionError):
            await database.transaction(lambda connection: broken_off(path, connection))
    assert file.exists()
    found = await recovered(path)
    assert [(row["correlation_id"], row["status"]) for row in found] == [
        ("one", "abandoned"),
        ("two", "ok"),
    ]
    assert len(rows(path, "attempts")) == 2


def broken_off(path: Path, connection: Session) -> Recovered:
    with closing(Leftovers(str(path))) as leftovers:
        leftovers.write(connection)
        raise ZeroDivisionError


async def test_a_line_that_cannot_be_a_row_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    nobody: Any = None
    bad = replace(END, correlation_id="bad", model=nobody)
    left_behind(tmp_path, end_line(bad), b'["torn', number=1)
    left_behind(tmp_path, b"\x00" * 5000 + b"\n", end_line(END), number=2)
    left_behind(tmp_path, boot="empty").write_bytes(b"")
    (row,) = await recovered(path)
    assert row["correlation_id"] == "one"
    assert "a row of a killed arbstr was refused" in caplog.text


async def test_a_database_that_is_locked_at_the_start_takes_it_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    async with open_database(str(path)) as database:
        left_behind(tmp_path, intent_line(INTENT))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with open_log_writer(database, backoff=0.001, backoff_limit=0.001) as log:
                assert not log.recovered
                log.offer(replace(END, correlation_id="two"))
                other.execute("COMMIT")
    assert {row["correlation_id"] for row in rows(path)} == {"two"}
    (row,) = (row for row in await recovered(path) if row["status"] == "abandoned")
    assert row["correlation_id"] == "one"


def test_ends_and_intents_are_counted(tmp_path: Path) -> None:
    assert isinstance(END, Record)
    left_behind(tmp_path, intent_line(INTENT), end_line(replace(END, correlation_id="two")))
    assert Leftovers(str(tmp_path / "arbstr.db")).exist()

"""`arbstr backup`: what is copied, what is refused, and what a failure leaves."""

import os
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from arbstr.cli.commands import main
from arbstr.trio_runtime.ledger import sqlite_backup
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.store import Store
from tests.ledgers import attempt, connect, request, write_ledger
from tests.process import clean_environ
from tests.records import RECORD


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(clean_environ()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [
            name
            for (name,) in connection.execute("SELECT correlation_id FROM requests ORDER BY id")
        ]


def lying() -> list[str]:
    """The files here, without those SQLite has beside one."""
    return sorted(name for name in os.listdir() if not name.endswith(("-wal", "-shm")))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a backup that must fail; nothing new lies beside."""
    before = lying()
    assert main(["backup", *arguments]) == 1
    assert lying() == before
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


async def test_a_ledger_in_use_is_copied_as_it_is_at_that_moment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "arbstr.db.lanes").write_text("{}")
    async with open_database("arbstr.db") as database:
        async with open_log_writer(database) as log:
            log.offer(RECORD)
        assert main(["backup", "copy.db"]) == 0
    printed = capsys.readouterr().out
    copy = tmp_path / "copy.db"
    assert f"{copy}: {copy.stat().st_size:,} bytes, looked through and complete" in printed
    assert "requests  1 rows" in printed
    assert f"attempts  {len(RECORD.attempts)} rows" in printed
    assert f"not in it: {tmp_path / 'arbstr.db.lanes'}" in printed
    assert ids(copy) == [RECORD.correlation_id]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [name for name in os.listdir() if "copy" in name] == ["copy.db"]
    # And it is a ledger that goes on.
    async with open_database("copy.db") as database, open_log_writer(database):
        pass


def test_who_writes_meanwhile_is_not_held_up_and_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arbstr.db"
    write_ledger(path, [request(f"id-{n}") for n in range(200)])
    monkeypatch.setattr(sqlite_backup, "PAGES", 1)
    late = 0

    def progress(copied: int, pages: int) -> None:
        nonlocal late
        if copied < pages:
            late += 1
            with closing(sqlite3.connect(path, timeout=0)) as connection, connection:
                connection.execute(
                    "INSERT INTO requests (correlation_id, timestamp, model, latency_ms, success)"
                    " VALUES (?, '2026-02-03T04:05:06.789Z', 'm', 0, 1)",
                    (f"late-{late}",),
                )

    done = sqlite_backup.back_up(str(path), tmp_path / "copy.db", replace=False, progress=progress)
    assert late > 5
    assert done.rows["requests"] == 200
    assert ids(tmp_path / "copy.db") == [f"id-{n}" for n in range(200)]
    assert len(ids(path)) == 200 + late


def test_a_ledger_that_is_written_as_fast_as_it_can_be_is_copied_as_it_was_at_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arbstr.db"
    write_ledger(path, [request(f"old-{n}", tries=[attempt()]) for n in range(200)])
    monkeypatch.setattr(sqlite_backup, "PAGES", 4)
    store, begun, done = Store("boot"), threading.Event(), threading.Event()
    written = count()

    def write() -> None:
        with closing(connect(path)) as session:
            session.execute("PRAGMA busy_timeout = 10000")
            while not done.is_set():
                batch = [replace(RECORD, correlation_id=f"{next(written)}") for _ in range(20)]
                session.execute("BEGIN IMMEDIATE")
                store.together(batch, session)
                session.execute("COMMIT")
                begun.set()

    def progress(copied: int, pages: int) -> None:
        if copied < min(pages, 20):
            begun.clear()
            assert begun.wait(30)  # some more is there

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(30)
        copied = sqlite_backup.back_up(
            str(path), tmp_path / "copy.db", replace=False, progress=progress
        )
    finally:
        done.set()
        writer.join()
    # Whole batches, all up to one of them: a row, its attempt and its part of each sum.
    rows = copied.rows["requests"]
    assert 200 < rows <= 200 + next(written)
    assert rows % 20 == 0
    assert ids(tmp_path / "copy.db") == ids(path)[:rows]
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for table in ("attempts", "requests"):
            assert copy.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)
        for sums in ("request_hours", "request_days", "request_totals"):
            assert copy.execute(f"SELECT sum(requests) FROM {sums}").fetchone() == (rows,)


def test_what_is_there_is_replaced_if_that_is_said_and_not_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(tmp_path / "arbstr.db", [request("one")])
    (tmp_path / "copy.db").write_text("mine")
    assert "is there already" in refused(capsys, "copy.db")
    assert (tmp_path / "copy.db").read_text() == "mine"
    assert main(["backup", "copy.db", "--force"]) == 0
    assert ids(tmp_path / "copy.db") == ["one"]


def test_who_comes_first_meanwhile_keeps_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(tmp_path / "arbstr.db", [request("one")])
    copied = sqlite_backup._copied

    def and_somebody_comes(*arguments: Any) -> Any:
        (tmp_path / "copy.db").write_text("theirs")
        return copied(*arguments)

    monkeypatch.setattr(sqlite_backup, "_copied", and_somebody_comes)
    assert main(["backup", "copy.db"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert lying() == ["arbstr.db", "copy.db"]
    assert (tmp_path / "copy.db").read_text() == "theirs"


def test_a_file_system_without_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ledger(tmp_path / "arbstr.db", [request("one")])

    def none(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", none)
    assert main(["backup", "copy.db"]) == 0
    assert ids(tmp_path / "copy.db") == ["one"]


def test_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file yet" in refused(capsys, "copy.db")
    write_ledger(tmp_path / "arbstr.db", [request("one")])
    assert "it is the ledger itself" in refused(capsys, "arbstr.db", "--force")
    assert "is a directory" in refused(capsys, str(tmp_path))
    assert f"{tmp_path / 'nowhere'} does not exist" in refused(capsys, "nowhere/copy.db")
    monkeypatch.setenv("DATABASE_URL", ":memory:")
    assert "kept in memory" in refused(capsys, "copy.db")


def test_a_damaged_ledger_gives_no_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "arbstr.db"
    write_ledger(path, [request(f"id-{n}") for n in range(300)])
    content = bytearray(path.read_bytes())
    # The end of the last page, where the entries of its tree lie.
    content[-600:] = b"\xff" * 600
    path.write_bytes(content)
    assert "it is damaged" in refused(capsys, "copy.db")


def test_another_program_s_file_is_no_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(tmp_path / "arbstr.db")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    assert "belongs to another program" in refused(capsys, "copy.db")


def test_of_a_ledger_in_postgres_it_is_said_what_copies_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg", reason="pip install -e '.[dev]' brings it")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hidden@h.example:6543/books")
    said = refused(capsys, "copy.dump")
    assert "pg_dump --format=custom --schema=arbstr" in said
    assert "postgresql://me@h.example:6543/books" in said
    assert "hidden" not in said

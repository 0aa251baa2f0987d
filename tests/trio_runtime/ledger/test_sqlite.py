"""The SQLite file: what is accepted and refused at start, migrations, locks, what cancels."""

import logging
import os
import sqlite3
import stat
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trio

from arbstr.sansio.errors import ConfigError, StartError
from arbstr.trio_runtime.ledger import boot_lock
from arbstr.trio_runtime.ledger import sqlite as module
from arbstr.trio_runtime.ledger.boot_lock import BootLock
from arbstr.trio_runtime.ledger.database import database_path
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble
from arbstr.trio_runtime.ledger.sqlite import IN_MEMORY, SqliteDatabase, open_sqlite
from arbstr.trio_runtime.ledger.sqlite_readers import APPLICATION_ID
from arbstr.trio_runtime.ledger.sqlite_session import SqliteSession, split_statements
from arbstr.trio_runtime.ledger.statements import read_migrations, read_sql, sql_directory
from tests.ledgers import connect
from tests.records import INTENT, RECORD

if sys.platform != "win32":
    import fcntl

SQL = Path(__file__).parents[3] / "sql"
MIGRATIONS = read_migrations(SQL)

REQUESTS = (
    "id INTEGER, correlation_id TEXT!, timestamp TEXT!, model TEXT!, requested_model TEXT, "
    "provider TEXT, policy TEXT, streaming INTEGER, input_tokens INTEGER, output_tokens INTEGER, "
    "cached_tokens INTEGER, reasoning_tokens INTEGER, cost_sats REAL, estimated_cost_sats REAL, "
    "provider_cost_sats REAL, latency_ms INTEGER!, ttft_ms INTEGER, stream_duration_ms INTEGER, "
    "success INTEGER!, status TEXT, error_status INTEGER, error_message TEXT, attempts INTEGER, "
    "possibly_spent INTEGER, boot_id TEXT, expected_sats REAL, answered INTEGER, "
    "endpoint TEXT!, moved INTEGER, joined TEXT"
)
ATTEMPTS = (
    "correlation_id TEXT!, n INTEGER!, provider TEXT, model TEXT, started_at TEXT, "
    "duration_ms INTEGER, failure TEXT, http_status INTEGER, money TEXT, input_tokens INTEGER, "
    "output_tokens INTEGER, cost_sats REAL, estimated_cost_sats REAL, provider_cost_sats REAL, "
    "upstream_request_id TEXT, expected_sats REAL, set_aside_sats REAL, "
    "price_id BIGINT, settled TEXT, lane TEXT, said TEXT, "
    "asked_at TEXT, asked_policy TEXT, asked_endpoint TEXT, key_id TEXT"
)
TOKEN_RATIOS = "policy TEXT!, avg_ratio REAL!, sample_count INTEGER!"


def columns(connection: Session, table: str) -> str:
    found = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return ", ".join(f"{name} {kind}{'!' * notnull}" for _, name, kind, notnull, *_ in found)


def insert(connection: Session, correlation_id: str, boot_id: str, status: str) -> None:
    connection.execute(
        "INSERT INTO requests (correlation_id, timestamp, model, latency_ms, success, status,"
        " possibly_spent, boot_id) VALUES (?, '2026-02-03T04:05:06.789Z', 'm', 0, 0, ?, 0, ?)",
        (correlation_id, status, boot_id),
    )


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


async def insert_in(database: Database, correlation_id: str, status: str = "in_flight") -> None:
    await database.transaction(lambda c: insert(c, correlation_id, database.boot_id, status))


def listing(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def litter(directory: Path) -> list[str]:
    return [name for name in listing(directory) if ".lock-" in name]


async def test_a_new_database_has_the_tables_of_the_specification(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        assert len(database.boot_id) == 32
        with closing(connect(path)) as reader:
            assert columns(reader, "requests") == REQUESTS
            assert columns(reader, "attempts") == ATTEMPTS
            assert columns(reader, "token_ratios") == TOKEN_RATIOS
            assert reader.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
            assert reader.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
            assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.skipif(os.name != "posix", reason="a mode is POSIX's")
@pytest.mark.parametrize("mask", [0o000, 0o022])
async def test_what_is_begun_is_its_owner_s_alone_whatever_the_umask(
    mask: int, tmp_path: Path
) -> None:
    path, before = tmp_path / "arbstr.db", os.umask(mask)
    try:
        async with open_sqlite(str(path)) as database, open_log_writer(database) as log:
            log.offer_in_flight(INTENT, lambda: RECORD)
            log.offer(RECORD)
            await log.caught_up()
            with closing(database.connect_reader()):
                modes = {
                    name: stat.S_IMODE((tmp_path / name).stat().st_mode)
                    for name in listing(tmp_path)
                }
    finally:
        os.umask(before)
    assert len(modes) == 5, modes  # with its WAL, the index of that, the lock and the intents
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.skipif(os.name != "posix", reason="a mode is POSIX's")
async def test_one_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    for mode in (0o640, 0o660):
        path.touch()
        path.chmod(mode)
        async with open_sqlite(str(path)) as database:
            await insert_in(database, f"with {mode:o}")
            assert stat.S_IMODE((tmp_path / "arbstr.db-wal").stat().st_mode) == mode
        assert stat.S_IMODE(path.stat().st_mode) == mode


async def test_the_connection_is_set_up_for_one_writer_beside_readers(tmp_path: Path) -> None:
    def pragmas(connection: Session) -> dict[str, object]:
        names = ("synchronous", "busy_timeout", "journal_size_limit", "wal_autocheckpoint")
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    async with open_sqlite(str(tmp_path / "arbstr.db")) as database:
        assert await database.transaction(pragmas) == {
            "synchronous": 1,  # NORMAL
            "busy_timeout": 250,
            "journal_size_limit": 8 * 1024 * 1024,
            "wal_autocheckpoint": 1000,
        }


async def test_a_database_is_found_again_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        await insert_in(database, "one", "ok")
    async with open_sqlite(str(path)) as database:
        await insert_in(database, "two", "ok")
    assert read(path, "SELECT id, correlation_id FROM requests") == [(1, "one"), (2, "two")]


async def test_a_clean_exit_leaves_the_database_file_alone(tmp_path: Path) -> None:
    async with open_sqlite(str(tmp_path / "arbstr.db")) as database:
        await insert_in(database, "one")
        assert litter(tmp_path) == [f"arbstr.db.lock-{database.boot_id}"]
    assert listing(tmp_path) == ["arbstr.db"]


async def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def half(connection: Session) -> None:
        insert(connection, "half", "b", "ok")
        raise ArithmeticError

    async with open_sqlite(str(tmp_path / "arbstr.db")) as database:
        with pytest.raises(ArithmeticError):
            await database.transaction(half)
        assert database._connection is not None
        assert not database._connection.in_transaction
        assert (
            await database.transaction(lambda c: c.execute("SELECT * FROM requests").fetchall())
            == []
        )


async def test_a_cancelled_transaction_is_still_committed(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        in_the_middle, go_on = trio.Event(), threading.Event()
        token = trio.lowlevel.current_trio_token()

        def slow(connection: Session) -> None:
            insert(connection, "slow", "b", "ok")
            token.run_sync_soon(in_the_middle.set)
            assert go_on.wait(10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.transaction, slow)
            await in_the_middle.wait()
            nursery.cancel_scope.cancel()
            go_on.set()
        assert read(path, "SELECT correlation_id FROM requests") == [("slow",)]


# -- what is refused at start


async def refusal(path: Path | str) -> str:
    with pytest.raises(StartError) as caught:
        async with open_sqlite(str(path)):
            pass
    (problem,) = caught.value.problems
    return problem


async def test_a_database_of_another_program_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    assert await refusal(path) == (
        f"database {path}: it belongs to another program: "
        "choose another file with [database] path or $DATABASE_URL"
    )
    assert path.read_bytes() == before
    assert listing(tmp_path) == ["photos.db"]


async def test_an_empty_database_with_a_foreign_application_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA application_id = 0x47504B47")
    assert "another program" in await refusal(path)


@pytest.mark.parametrize("content", [b"hello\n", b"[server]\nlisten = 'x'\n" * 200])
async def test_a_file_that_is_not_sqlite_is_refused_and_unchanged(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    problem = await refusal(path)
    assert str(path) in problem
    assert "not a database" in problem
    assert path.read_bytes() == content


async def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    path.touch()
    async with open_sqlite(str(path)):
        pass
    assert read(path, "SELECT count(*) FROM requests") == [(0,)]


async def test_a_database_of_a_newer_arbstr_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        await database.transaction(lambda c: c.execute("PRAGMA user_version = 99"))
    newer = f"a newer arbstr wrote it (schema 99, this one knows {len(MIGRATIONS)}): upgrade"
    assert newer in await refusal(path)


async def test_a_missing_directory_is_refused_by_name(tmp_path: Path) -> None:
    problem = await refusal(tmp_path / "no" / "arbstr.db")
    assert f"the directory {tmp_path / 'no'} does not exist: create it" in problem


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "it is a directory" in await refusal(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no uids")
async def test_a_directory_that_cannot_be_written_is_refused_with_the_uid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The suite may run as root, whom no mode stops.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    problem = await refusal(tmp_path / "arbstr.db")
    assert f"cannot write in {tmp_path} as uid {os.getuid()}: chown or chmod" in problem


@pytest.mark.skipif(sys.platform == "win32", reason="no uids")
async def test_a_file_that_cannot_be_written_is_refused_with_the_uid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arbstr.db"
    path.touch()
    monkeypatch.setattr(os, "access", lambda asked, mode: asked != str(path))
    assert f"cannot read and write it as uid {os.getuid()}" in await refusal(path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a directory that takes no files")
async def test_a_path_that_sqlite_cannot_open_is_refused() -> None:
    assert "unable to open database file: mend" in await refusal("/proc/arbstr.db")


async def test_a_database_locked_at_start_is_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "OPENING_BUSY_SECONDS", 0.0)
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        async with open_sqlite(str(path)) as database:
            assert "cannot be opened yet (database is locked)" in caplog.text
            with pytest.raises(Trouble, match="locked"):
                await insert_in(database, "early")
            other.close()
            await insert_in(database, "late", "ok")
    assert read(path, "SELECT correlation_id FROM requests") == [("late",)]


# -- migrations


def test_the_sql_is_found_in_a_wheel_and_beside_a_source_tree(tmp_path: Path) -> None:
    package = tmp_path / "arbstr"
    package.mkdir()
    with pytest.raises(FileNotFoundError):
        sql_directory(package)
    (tmp_path / "sql").mkdir()
    assert sql_directory(package) == tmp_path / "sql"
    (package / "sql").mkdir()
    assert sql_directory(package) == package / "sql"


def test_every_named_statement_is_one_statement() -> None:
    every = [path.stem for path in SQL.glob("*.sql")]
    names = [name for name in every if not name[:4].isdigit()]
    assert "upsert_request" in names
    for name in names:
        assert len(split_statements(read_sql(name))) == 1


def test_migrations_are_read_in_order_and_without_gaps(tmp_path: Path) -> None:
    (tmp_path / "0002_b.sql").write_text("two")
    (tmp_path / "0001_a.sql").write_text("one")
    (tmp_path / "upsert.sql").write_text("not a migration")
    assert read_migrations(tmp_path) == ("one", "two")
    (tmp_path / "0004_d.sql").write_text("four")
    with pytest.raises(ValueError, match="4"):
        read_migrations(tmp_path)


def test_a_script_is_split_only_where_a_statement_ends() -> None:
    script = (
        "CREATE TABLE a (x TEXT DEFAULT ';'); -- one; and a half\n"
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM a; SELECT 1; END;\n"
        "/* a; comment */ INSERT INTO a VALUES ('it''s; fine')\n"
    )
    statements = split_statements(script)
    assert len(statements) == 3
    assert "".join(statements) == script
    assert statements[1].endswith("END;")


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    database = SqliteDatabase(str(path), "boot")
    database._migrations = ("CREATE TABLE a (x);", "CREATE TABLE b (x); CREATE TABLE broken (")
    with pytest.raises(sqlite3.OperationalError, match="incomplete"):
        database._connect()
    database._disconnect()
    assert read(path, "SELECT name FROM sqlite_master") == []
    assert read(path, "PRAGMA user_version") == [(0,)]


async def test_an_older_database_gets_only_the_later_migrations(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        await insert_in(database, "old", "ok")
    newer = SqliteDatabase(str(path), "boot")
    newer._migrations = (
        *newer._migrations,
        "ALTER TABLE requests ADD COLUMN later TEXT; -- and no more",
    )
    newer._connect()
    newer._disconnect()
    assert read(path, "SELECT correlation_id, later FROM requests") == [("old", None)]


# -- several processes on one file


async def test_two_processes_write_to_one_database(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as first, open_sqlite(str(path)) as second:
        await insert_in(first, "one")
        await insert_in(second, "two")
        await insert_in(first, "three")
    assert read(path, "SELECT count(*) FROM requests") == [(3,)]


async def test_processes_that_start_at_once_on_a_new_file_all_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine the last of them waits longer than a start usually does.
    monkeypatch.setattr("arbstr.trio_runtime.ledger.sqlite.OPENING_BUSY_SECONDS", 60.0)

    async def start(name: str) -> None:
        async with open_sqlite(str(tmp_path / "arbstr.db")) as database:
            await insert_in(database, name, "ok")

    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(start, str(n))
    assert read(tmp_path / "arbstr.db", "SELECT count(*) FROM requests") == [(8,)]
    assert litter(tmp_path) == []
    assert caplog.records == []


def test_a_start_waits_for_another_that_writes_to_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arbstr.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        closing(sqlite3.connect(path, isolation_level=None, factory=SqliteSession)) as ours,
    ):
        other.execute("BEGIN IMMEDIATE")
        pauses = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            other.execute("ROLLBACK")

        monkeypatch.setattr(module, "sleep", pause)
        assert module._begin_wal(ours) == "wal"
        assert pauses == [module.OPENING_PAUSE_SECONDS]


async def test_rows_of_a_living_process_stay_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as first:
        await insert_in(first, "running")
        async with open_sqlite(str(path)):
            assert read(path, "SELECT status FROM requests") == [("in_flight",)]
        assert litter(tmp_path) == [f"arbstr.db.lock-{first.boot_id}"]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
async def test_rows_in_flight_of_a_killed_process_become_abandoned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path), boot_id="dead") as database:
        await insert_in(database, "lost")
        await insert_in(database, "done", "ok")
        await database.transaction(
            lambda c: c.execute(
                "INSERT INTO attempts (correlation_id, n) VALUES ('lost', 3), ('done', 1)"
            )
        )
        # Two had failed when the row was written; one of them may have cost.
        await database.transaction(
            lambda c: c.execute(
                "INSERT INTO attempts (correlation_id, n, failure, money) "
                "VALUES ('lost', 1, 'not_sent', 'free'), ('lost', 2, 'no_answer', 'unknown')"
            )
        )
        # Streams that had begun, and stated what they cost.
        await database.transaction(
            lambda c: c.execute(
                "INSERT INTO attempts (correlation_id, n, provider_cost_sats) "
                "VALUES ('lost', 4, 0.2), ('lost', 5, 0.0)"
            )
        )
    # What kill -9 leaves: the lock's file, and nobody who holds it.
    (tmp_path / "arbstr.db.lock-dead").touch()
    async with open_sqlite(str(path)) as database:
        assert litter(tmp_path) == [f"arbstr.db.lock-{database.boot_id}"]
    assert read(
        path, "SELECT correlation_id, status, success, possibly_spent, error_message FROM requests"
    ) == [
        ("lost", "abandoned", 0, 4, "arbstr ended before this request did"),
        ("done", "ok", 0, 0, None),
    ]
    assert read(path, "SELECT correlation_id, failure, money FROM attempts ORDER BY 1, n") == [
        ("done", None, None),
        ("lost", "not_sent", "free"),
        ("lost", "no_answer", "unknown"),
        ("lost", "shutdown", "unknown"),
        ("lost", "shutdown", "spent"),
        ("lost", "shutdown", "unknown"),
    ]
    assert "by an arbstr that was killed, now abandoned: 1" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_lock_is_held_until_its_holder_is_gone_and_then_swept(tmp_path: Path) -> None:
    database = str(tmp_path / "arbstr.db")
    mine, other = BootLock(database, "mine"), BootLock(database, "other")
    mine.acquire()
    mine.acquire()
    assert other.is_held_by("mine")
    assert other.is_held_by("other")
    assert not mine.is_held_by("other")
    other.sweep()
    assert litter(tmp_path) == ["arbstr.db.lock-mine"]
    # Its holder gone without a word, the next sweep removes it.
    assert mine._descriptor is not None
    os.close(mine._descriptor)
    mine._descriptor = None
    assert not other.is_held_by("mine")
    other.sweep()
    assert litter(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_lock_whose_file_was_swept_before_it_was_held_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = BootLock(str(tmp_path / "arbstr.db"), "mine")
    real = fcntl.flock
    swept: list[bool] = []

    def flock(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(True)
            (tmp_path / "arbstr.db.lock-mine").unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock.acquire()
    assert BootLock(str(tmp_path / "arbstr.db"), "other").is_held_by("mine")
    lock.release()
    assert litter(tmp_path) == []


async def test_a_file_system_without_locks_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: str) -> int | None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(boot_lock, "_lock_file", refuse)
    async with open_sqlite(str(tmp_path / "arbstr.db")) as database:
        await insert_in(database, "one")
    assert "Operation not supported" in caplog.text


# -- a file that goes away, the database in memory, readers


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
async def test_a_deleted_file_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        await insert_in(database, "gone")
        for name in listing(tmp_path):
            (tmp_path / name).unlink()
        await insert_in(database, "kept")
        assert read(path, "SELECT correlation_id FROM requests") == [("kept",)]
    assert "was moved or deleted" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved there")
async def test_a_foreign_file_put_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    async with open_sqlite(str(path)) as database:
        await insert_in(database, "one", "ok")
        path.rename(tmp_path / "old.db")
        path.write_bytes(b"mine now\n")
        with pytest.raises(Trouble, match="not a database"):
            await insert_in(database, "two")
    assert path.read_bytes() == b"mine now\n"
    assert read(tmp_path / "old.db", "SELECT correlation_id FROM requests") == [("one",)]


async def test_the_memory_database_is_shared_with_its_readers_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_sqlite(IN_MEMORY) as one, open_sqlite(IN_MEMORY) as other:
        await insert_in(one, "mock")
        with closing(one.connect_reader()) as reader:
            assert reader.execute("SELECT status FROM requests").fetchall() == [("in_flight",)]
        with closing(other.connect_reader()) as reader:
            assert reader.execute("SELECT count(*) FROM requests").fetchone() == (0,)
    assert listing(tmp_path) == []


async def test_a_reader_of_the_memory_database_does_not_stop_the_writer() -> None:
    async with open_sqlite(IN_MEMORY) as database:
        with closing(database.connect_reader()) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM requests").fetchall()
            await insert_in(database, "one")
            assert reader.execute("SELECT count(*) FROM requests").fetchone() == (1,)


@pytest.mark.parametrize("name", ["arbstr.db", "50% of #1?.db"])
async def test_a_reader_reads_and_cannot_write(tmp_path: Path, name: str) -> None:
    async with open_sqlite(str(tmp_path / name)) as database:
        await insert_in(database, "one")
        with closing(database.connect_reader()) as reader:
            assert reader.execute("SELECT count(*) FROM requests").fetchone() == (1,)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                insert(reader, "two", "b", "ok")


# -- where it is


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("", "configured.db"),
        ("other.db", "other.db"),
        ("/data/other.db", "/data/other.db"),
        ("C:\\arbstr.db", "C:\\arbstr.db"),
        ("sqlite:///other.db", "other.db"),
        ("sqlite:////data/other.db", "/data/other.db"),
    ],
)
def test_the_environment_names_a_path_or_an_sqlite_url(url: str, path: str) -> None:
    assert database_path({"DATABASE_URL": url}, "configured.db") == path
    assert database_path({}, "configured.db") == "configured.db"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:hunter2@host/arbstr",
        "postgresql:/me:hunter2@host/arbstr",
        "sqlite://",
        "sqlite:///",
        "sqlite://hunter2/x.db",
        "sqlite:hunter2.db",
        "sqlite:///x.db?key=hunter2",
        "file:hunter2.db?mode=ro",
    ],
)
def test_every_other_url_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^DATABASE_URL: (a (mysql|sqlite|file): URL|must be postgresql://)"
    ) as caught:
        database_path({"DATABASE_URL": url}, "configured.db")
    assert "hunter2" not in str(caught.value)

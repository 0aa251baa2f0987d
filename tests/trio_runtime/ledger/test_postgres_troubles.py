"""A server that takes nothing: its disk is full, it only reads, it is empty, it has no place."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from arbstr.cli.commands import main
from arbstr.sansio.routing.budget import day_of
from arbstr.sansio.routing.lease import Lease
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.lease_rows import Exchanged, exchange
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database
from tests.postgres import PostgresServer
from tests.trio_runtime.ledger.test_postgres import _state, record, until

__all__ = ["_state"]

psycopg = pytest.importorskip("psycopg", reason="pip install -e '.[dev]' brings it")

FULL: Final = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: no space left on device' USING ERRCODE = '53100';
END $$;
CREATE TRIGGER no_room BEFORE INSERT ON requests FOR EACH STATEMENT EXECUTE FUNCTION no_room();
"""
"""As a server says it whose disk is full (PostgreSQL, appendix A: 53100 disk_full)."""


def end_sessions(server: PostgresServer, name: str) -> None:
    """The server's side of each connection ends, as where another takes its place."""
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )


@contextmanager
def full(server: PostgresServer, name: str) -> Iterator[None]:
    server.execute(FULL, name)
    yield
    server.execute("DROP FUNCTION no_room() CASCADE", name)


@contextmanager
def standby(server: PostgresServer, name: str) -> Iterator[None]:
    """All connections go to one that only reads; and back."""
    server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    end_sessions(server, name)
    yield
    server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    end_sessions(server, name)


@contextmanager
def crowded(server: PostgresServer, name: str) -> Iterator[None]:
    """No place for another connection, and ours are gone."""
    server.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    server.execute(f"ALTER ROLE arbstr_guest_{name} CONNECTION LIMIT 0")
    end_sessions(server, name)
    yield
    server.execute(f"ALTER ROLE arbstr_guest_{name} CONNECTION LIMIT -1")
    server.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")


TROUBLES: Final = {
    "full": (full, "no space left on device"),
    "standby": (standby, "read-only transaction"),
    "crowded": (crowded, "too many connections"),
}


def guest_url(server: PostgresServer, name: str) -> str:
    """For one who is no superuser, for whom limits hold."""
    url = server.url(name)
    server.execute(f"CREATE ROLE arbstr_guest_{name} LOGIN PASSWORD 'secret-of-a-test'")
    server.execute(f"GRANT ALL ON DATABASE {name} TO arbstr_guest_{name}")
    return url.replace("//arbstr:", f"//arbstr_guest_{name}:")


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_rows_wait_while_the_server_takes_nothing_and_each_is_there_once_afterwards(
    trouble: str, postgres: PostgresServer
) -> None:
    name = f"trouble_{trouble}"
    url = guest_url(postgres, name)
    suffers, words = TROUBLES[trouble]
    async with (
        open_database(url) as database,
        open_log_writer(database, linger=0, backoff=0.01, backoff_limit=0.05) as log,
    ):
        log.offer(record("before"))
        await until(log, 1)
        stack = ExitStack()
        await trio.to_thread.run_sync(stack.enter_context, suffers(postgres, name))
        for n in range(5):
            log.offer(record(f"while-{n}", "in_flight"))
            log.offer(record(f"while-{n}"))
        with trio.fail_after(30):
            while words not in (log.statistics().trouble or ""):  # noqa: ASYNC110  # no event
                await trio.sleep(0.01)
        assert log.statistics().written == 1
        assert log.statistics().dropped == 0
        await trio.to_thread.run_sync(stack.close)
        await until(log, 6)
    rows = postgres.execute("SELECT correlation_id, status FROM requests ORDER BY 1", name)
    assert rows == [("before", "ok"), *((f"while-{n}", "ok") for n in range(5))]
    assert postgres.execute("SELECT sum(requests) FROM request_totals", name) == [(6,)]
    assert postgres.execute("SELECT sum(sample_count) FROM token_ratios", name) == [(6,)]


async def test_a_standby_is_asked_and_is_no_place_to_start(
    postgres: PostgresServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url = postgres.url("only_reads")
    async with open_database(url) as database, open_log_writer(database) as log:
        log.offer(record("one"))
    with standby(postgres, "only_reads"):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setenv("DATABASE_URL", url)
            assert main(["stats", "--since", "2026-02-01", "--json"]) == 0
            assert '"total": 1' in capsys.readouterr().out
        with pytest.raises(BaseExceptionGroup) as caught:
            async with open_database(url):
                pass
        (refused,) = caught.value.exceptions
        assert "read-only transaction" in str(refused)


def ask(database: Database, lease: Lease, used: int, want: int) -> partial[Exchanged]:
    return partial(
        exchange,
        boot_id=database.boot_id,
        day=day_of(0),
        ask=lease._ask(used, want, used),
        limit=1000,
        now=0.0,
    )


async def test_another_empty_database_behind_the_same_url_becomes_a_ledger_and_knows_what_was_spent(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.url("emptied")
    lease = Lease()
    async with (
        open_database(url) as database,
        open_log_writer(database, linger=0, backoff=0.01, backoff_limit=0.05) as log,
    ):
        log.offer(record("before"))
        await until(log, 1)
        done = await database.transaction(ask(database, lease, 0, 700))
        assert done.row is not None
        lease.answered(done.row)

        def exchanged() -> None:
            end_sessions(postgres, "emptied")
            postgres.execute("ALTER DATABASE emptied RENAME TO emptied_before")
            postgres.execute("CREATE DATABASE emptied")

        await trio.to_thread.run_sync(exchanged)
        log.offer(record("after"))
        await until(log, 2)
        assert "a new one is begun" in caplog.text
        # What was used is told again; what was only in hand is asked for.
        done = await database.transaction(ask(database, lease, 600, 700))
        assert done.row is not None
        assert done.row.cap >= 600
    for name, row in (("emptied", "after"), ("emptied_before", "before")):
        assert postgres.execute("SELECT correlation_id FROM requests", name) == [(row,)]

"""A ledger in PostgreSQL: shared, cut off, gone and back. What both engines do: test_engines.py."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from arbstr.cli.commands import main
from arbstr.sansio.config.ledger_url import parse_ledger_url
from arbstr.sansio.errors import ConfigError, StartError
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.log_writer import LogWriter, open_log_writer
from arbstr.trio_runtime.ledger.port import Trouble
from tests.postgres import PostgresServer
from tests.process import arbstr_process, wait_until
from tests.records import ATTEMPT, RECORD, RUNNING
from tests.trio_runtime.raw_provider import Peer, provider

pytest.importorskip("psycopg", reason="pip install -e '.[dev]' brings it")

from arbstr.trio_runtime.ledger import postgres as module
from arbstr.trio_runtime.ledger.postgres_readers import connect as connect_there

PASSWORD: Final = "secret-of-a-test"  # of tests/postgres.py


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def record(correlation_id: str, status: str = "ok") -> Record:
    """With a sample, so that what is learnt is written, too."""
    found = replace(RECORD, correlation_id=correlation_id, status=status, token_ratio=1.0)
    if status == "in_flight":
        return replace(found, success=False, attempts=(RUNNING,), token_ratio=None)
    return found


async def until(log: LogWriter, written: int) -> None:
    with trio.fail_after(30):
        while log.statistics().written < written:  # noqa: ASYNC110  # it has no event for it
            await trio.sleep(0.01)


async def test_rows_wait_while_the_server_is_away_and_none_is_lost_or_doubled(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.url("away")
    async with (
        open_database(url) as database,
        open_log_writer(database, linger=0, backoff=0.01, backoff_limit=0.05) as log,
    ):
        log.offer(record("before"))
        await until(log, 1)
        await trio.to_thread.run_sync(postgres.stop)
        log.offer(record("while"))
        with trio.fail_after(30):
            while "cannot be written" not in caplog.text:  # noqa: ASYNC110  # nor has logging
                await trio.sleep(0.01)
        with pytest.raises(Trouble):
            await database.read(lambda session: session.execute("SELECT 1").fetchone())
        await trio.to_thread.run_sync(postgres.start)
        log.offer(record("after"))
        await until(log, 3)
        found = await database.read(lambda session: session.execute("SELECT 1").fetchone())
        assert found == (1,)
    assert postgres.execute("SELECT correlation_id FROM requests ORDER BY id", "away") == [
        ("before",),
        ("while",),
        ("after",),
    ]
    assert postgres.execute("SELECT sum(requests) FROM request_days", "away") == [(3,)]
    assert PASSWORD not in caplog.text


async def test_a_connection_that_is_killed_costs_no_row(postgres: PostgresServer) -> None:
    url = postgres.url("killed")
    killed = 0
    async with (
        open_database(url) as database,
        open_log_writer(database, linger=0, backoff=0.01, backoff_limit=0.05) as log,
    ):
        for n in range(60):
            log.offer(record(f"{n:02}", "in_flight"))
            log.offer(record(f"{n:02}"))
            if n % 10 == 5:
                ended = await trio.to_thread.run_sync(
                    postgres.execute,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'arbstr'",
                )
                killed += len(ended)
            await trio.sleep(0.002)
    assert killed
    assert postgres.execute("SELECT count(*), sum(attempts) FROM requests", "killed") == [(60, 60)]
    assert postgres.execute("SELECT sum(requests) FROM request_hours", "killed") == [(60,)]
    assert postgres.execute("SELECT sample_count FROM token_ratios", "killed") == [(60,)]


async def test_a_connection_whose_first_statement_fails_is_closed(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it may take longer than a statement may; the connection stayed open."""
    opened: list[Any] = []

    def connect(url: Any) -> Any:
        opened.append(real(url))
        return opened[-1]

    real = connect_there
    async with open_database(postgres.url("late")) as database:
        monkeypatch.setattr(module, "connect", connect)
        monkeypatch.setattr(module, "SNAPSHOT", "SELECT 1 / 0")
        with pytest.raises(Trouble):
            await database.read(lambda session: session.execute("SELECT 1").fetchone())
    assert [session.connection.closed for session in opened] == [True]


@asynccontextmanager
async def swallowing(
    port: int,
) -> AsyncIterator[tuple[int, Callable[[], None], Callable[[], None]]]:
    """A way to a port that can be told to swallow what is sent, and to pass it on again."""
    silent = False

    def swallow() -> None:
        nonlocal silent
        silent = True

    def pass_on() -> None:
        nonlocal silent
        silent = False

    async def one_way(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                if not silent:
                    await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def handler(peer: Peer) -> None:
        there = await trio.open_tcp_stream("127.0.0.1", port)
        assert isinstance(peer.stream, trio.SocketStream)
        async with there, trio.open_nursery() as nursery:
            nursery.start_soon(one_way, peer.stream, there)
            nursery.start_soon(one_way, there, peer.stream)

    async with provider(handler, seconds=60) as origin:
        yield origin.port, swallow, pass_on


async def test_what_the_network_swallows_is_cut_and_written_again(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url("swallowed")
    async with open_database(url):
        pass  # with all the time that a new ledger takes
    monkeypatch.setattr(module, "LATE_SECONDS", 0.3)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    async with swallowing(postgres.port) as (port, swallow, pass_on):
        by_way = url.replace(str(postgres.port), str(port))
        async with (
            open_database(by_way, wait=True) as database,
            open_log_writer(database, linger=0, backoff=0.01, backoff_limit=0.05) as log,
        ):
            log.offer(record("before"))
            await until(log, 1)
            swallow()
            with pytest.raises(Trouble):
                await database.transaction(lambda session: session.execute("SELECT 1"))
            log.offer(record("while"))
            pass_on()
            await until(log, 2)
    assert postgres.execute("SELECT count(*) FROM requests", "swallowed") == [(2,)]


async def test_rows_of_who_says_nothing_any_more_are_abandoned_and_of_who_lives_not(
    postgres: PostgresServer,
) -> None:
    url = postgres.url("boots")
    async with open_database(url, boot_id="living") as living, open_log_writer(living) as log:
        log.offer(record("living", "in_flight"))
        await until(log, 1)
        async with open_database(url, boot_id="dead") as dead:
            async with open_log_writer(dead) as other:
                other.offer(record("dead", "in_flight"))
            postgres.execute(
                "INSERT INTO attempts (correlation_id, n, provider_cost_sats) "
                "VALUES ('dead', 7, NULL), ('dead', 8, 0.2), ('dead', 9, 0)",
                "boots",
            )
            postgres.execute("UPDATE boots SET seen_at = seen_at - 61", "boots")
            postgres.execute("INSERT INTO boots VALUES ('long ago', 7)", "boots")
            await living.transaction(living._live)  # type: ignore[attr-defined]
            rows = postgres.execute(
                "SELECT correlation_id, status, possibly_spent FROM requests ORDER BY 1", "boots"
            )
            assert rows == [("dead", "abandoned", 4), ("living", "in_flight", 0)]
            assert postgres.execute(
                "SELECT failure, money FROM attempts WHERE n > 6 ORDER BY n", "boots"
            ) == [("shutdown", "unknown"), ("shutdown", "spent"), ("shutdown", "unknown")]
            # It was only cut off: its own end overwrites that.
            async with open_log_writer(dead) as other:
                other.offer(record("dead"))
        assert postgres.execute(
            "SELECT status FROM requests WHERE correlation_id = 'dead'", "boots"
        ) == [("ok",)]
    async with open_database(url, boot_id="next"):
        assert postgres.execute("SELECT boot_id FROM boots", "boots") == [("next",)]
    assert postgres.execute("SELECT * FROM boots", "boots") == []


async def test_several_write_at_once_and_the_sums_are_those_of_the_rows(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.url("several")

    async def one(name: str) -> None:
        async with (
            open_database(url) as database,
            open_log_writer(database, linger=0, batch_rows=10, backoff=0.01) as log,
        ):
            for n in range(100):
                model = f"m{n % 3}"
                log.offer(replace(record(f"{name}-{n}"), model=model, policy=f"p{n % 2}"))
                if n % 10 == 0:
                    await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(one, name)
    assert "cannot be written" not in caplog.text
    sums = "SELECT model, sum(requests), sum(cost_nanosats) FROM {} GROUP BY 1"
    (by_rows, by_sums) = (
        sorted(postgres.execute(sums.format(table), "several"))
        for table in ("request_measures", "request_days")
    )
    assert by_rows == by_sums
    assert sum(count for _, count, _ in by_rows) == 300
    assert postgres.execute("SELECT sum(sample_count) FROM token_ratios", "several") == [(300,)]


@pytest.mark.parametrize("wait", [False, True])
async def test_without_a_server_a_start_is_refused_unless_it_is_to_wait(
    wait: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def start() -> None:
        async with open_database(f"postgresql://me:{PASSWORD}@127.0.0.1:9/x", wait=wait):
            pass

    if wait:
        await start()
        assert "cannot be opened yet" in caplog.text
        assert PASSWORD not in caplog.text
        return
    with pytest.RaisesGroup(StartError) as caught:
        await start()
    message = str(caught.value.exceptions[0])
    assert "postgresql://me@127.0.0.1:9/x" in message
    assert "wait = true" in message
    assert PASSWORD not in message


async def test_a_ledger_of_a_newer_arbstr_is_left_alone(postgres: PostgresServer) -> None:
    url = postgres.url("newer")
    async with open_database(url):
        pass
    postgres.execute("INSERT INTO arbstr_schema VALUES (9999)", "newer")
    with pytest.RaisesGroup(StartError):
        async with open_database(url):
            pass


async def test_without_the_driver_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("arbstr.trio_runtime.ledger.po")]:
        if name.rpartition(".")[2].startswith("postgres"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"arbstr\[postgres\]"):
        async with open_database("postgresql://127.0.0.1/x"):
            pass


def test_commands_answer_from_it_and_show_no_password(
    postgres: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = postgres.url("commands")

    async def fill() -> None:
        async with open_database(url) as database, open_log_writer(database) as log:
            log.offer(replace(record("one"), attempts=(ATTEMPT,)))

    trio.run(fill)
    (tmp_path / "config.toml").write_text(
        f'[database]\nurl = "{url}"\n[[providers]]\nname = "alpha"\nurl = "https://h/v1"\n'
        'models = ["m"]\n'
    )
    (tmp_path / "config.toml").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for command in (
        ["stats", "--since", "2026-02-01", "--json"],
        ["requests", "--since", "2026-02-01"],
    ):
        main(command)
    assert main(["check"]) == 0
    told = capsys.readouterr()
    assert '"total": 1' in told.out
    assert f"postgresql://arbstr@127.0.0.1:{postgres.port}/commands" in told.out
    assert PASSWORD not in told.out + told.err


def test_a_url_whose_variable_is_not_set_is_not_asked_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As others are whose keys only a running proxy needs."""
    (tmp_path / "config.toml").write_text(
        '[database]\nurl = "postgresql://me:${NO_SUCH_PASSWORD}@127.0.0.1:9/x"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main(["stats"]) == 78
    assert "NO_SUCH_PASSWORD, which is not set" in capsys.readouterr().err


def test_a_running_arbstr_keeps_its_rows_there(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url("running")
    config = (
        '[[providers]]\nname = "alpha"\nurl = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n'
        "input_rate = 1\noutput_rate = 1\n[retry]\nmax_retries = 0\n"
        "[budget]\nsats_per_day = 100\n"
    )
    with arbstr_process(
        config_text=config,
        directory=tmp_path,
        environ={"DATABASE_URL": url, "XDG_STATE_HOME": str(tmp_path)},
    ) as process:
        assert process.chat(model="m").status_code >= 400
        wait_until(
            lambda: bool(postgres.execute("SELECT * FROM requests", "running")), "there is a row"
        )
        assert process.stop() == 0
        assert PASSWORD not in process.stderr()
    assert postgres.execute("SELECT status FROM requests", "running") != [("in_flight",)]
    assert postgres.execute("SELECT * FROM boots", "running") == []
    # It was asked for a slice of the day, and what was not used was given back.
    leases = "SELECT cap, seq > 2 FROM budget_leases WHERE boot_id <> '-'"
    assert postgres.execute(leases, "running") == [(0, True)]


async def test_a_reader_that_was_left_alone_leaves_no_connection(postgres: PostgresServer) -> None:
    """Its caller was cancelled, and the ledger is closed before it has read."""
    url = parse_ledger_url(postgres.url("lonely"))
    database = module.PostgresDatabase(url, "boot", "/nowhere/x")
    await database.open()
    assert await database.read(lambda session: 1) == 1
    assert len(database._readers) == 1
    await database.close()
    assert database._readers == []
    assert await database.read(lambda session: 2) == 2
    assert database._readers == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p@h/x", "postgresql://u@h:5432/x"),
        ("postgres://h", "postgresql://h:5432/"),
        ("postgresql://u%40x:p%2F@[::1]:6543/x?sslmode=require", "postgresql://u@x@[::1]:6543/x"),
    ],
)
def test_a_url_is_taken_apart(text: str, shown: str) -> None:
    assert parse_ledger_url(text).shown == shown


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql:/me:{PASSWORD}@h/x",
        f"postgresql://me:{PASSWORD}%@h/x",
        f"postgresql://me:{PASSWORD}@h:port/x",
        f"postgresql://me:p@h/x?password={PASSWORD}",
        f"postgresql://me:{PASSWORD}@h/x/y",
    ],
)
def test_a_url_that_is_none_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|has the parameter") as caught:
        parse_ledger_url(text)
    assert PASSWORD not in str(caught.value)

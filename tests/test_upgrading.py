"""A ledger of every arbstr there was is opened by this one, and goes along to another machine."""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from shutil import copyfile
from typing import Any, Final

import pytest
import trio

from arbstr.cli.commands import main
from arbstr.sansio.config.ledger_url import is_ledger_url, parse_ledger_url
from arbstr.sansio.errors import StartError
from arbstr.sansio.ledger.dropped import dropped_text
from arbstr.trio_runtime import groups
from arbstr.trio_runtime.ledger.budget import read_spent
from arbstr.trio_runtime.ledger.database import open_database, open_for_reading
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Session
from arbstr.trio_runtime.ledger.sqlite_readers import APPLICATION_ID
from arbstr.trio_runtime.ledger.sqlite_session import split_statements
from arbstr.trio_runtime.ledger.statements import numbered, sql_directory
from tests.engines import place
from tests.ledgers import MIGRATIONS, Row, attempt, connect, insert, request
from tests.node import Node
from tests.process import clean_environ
from tests.proxy import rows
from tests.records import RECORD
from tests.test_reconcile import checkpoint, serving

__all__ = ["place"]

SQL: Final = sql_directory(files("arbstr"))
IN_POSTGRES: Final = numbered(SQL / "postgres")

STATED: Final = 3
"""The schema from which on what was stated is what a request cost."""


def stated(number: int) -> dict[str, Any]:
    return {"cost_sats": 20.0 if number >= STATED else 2.0, "provider_cost_sats": 20.0}


def written_by(number: int) -> tuple[Row, ...]:
    """Rows, as the arbstr of that schema wrote them; columns it had not are left out later."""
    free = attempt(failure="server_error", money="free", provider="beta")
    return (
        request("answered", cost_sats=3.0, tries=[free, attempt(cost_sats=3.0)]),
        request("stated", **stated(number), tries=[attempt(**stated(number))]),
        request("rejected", status="rejected", provider=None, cost_sats=None),
        request(
            "killed",
            status="abandoned",
            cost_sats=None,
            tries=[attempt(failure="shutdown", money="unknown")],
        ),
    )


COUNTS: Final = {
    "total": 4,
    "success": 2,
    "error": 1,
    "rejected": 1,
    "possibly_spent_attempts": 1,
    "unknown_cost": 1,
    "in_flight": 0,
    "client_disconnected": 0,
}
COSTS: Final = {"total_cost_sats": 23.0, "possibly_spent_sats": 0.5}


def known(session: Session, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the table has."""
    columns = session.execute(f"SELECT * FROM {table} LIMIT 0").description or ()
    names = {column[0] for column in columns}
    return {name: value for name, value in row.items() if name in names}


def fill(session: Session, number: int) -> None:
    for row in written_by(number):
        tries = [known(session, "attempts", each) for each in row["tries"]]
        insert(session, [{**known(session, "requests", row), "tries": tries}])


def begin_sqlite(place: str, number: int) -> None:
    with closing(connect(place)) as session:
        for script in MIGRATIONS[:number]:
            for statement in split_statements(script):
                session.execute(statement)
        session.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        session.execute(f"PRAGMA user_version = {number}")
        fill(session, number)


def begin_postgres(place: str, number: int) -> None:
    from arbstr.trio_runtime.ledger.postgres_readers import connect

    session = connect(parse_ledger_url(place))
    with session.connection:
        session.execute("CREATE SCHEMA arbstr")
        session.execute("CREATE TABLE arbstr_schema (version BIGINT NOT NULL PRIMARY KEY)")
        for each, script in sorted(IN_POSTGRES.items()):
            if each <= number:
                session.connection.execute(script.encode())
                session.execute("INSERT INTO arbstr_schema (version) VALUES (?)", (each,))
        fill(session, number)


@pytest.fixture
def asked(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """What a command answers as JSON, or its exit code and lines."""
    monkeypatch.chdir(tmp_path)
    environ = {"DATABASE_URL": place, "XDG_STATE_HOME": str(tmp_path)}
    monkeypatch.setattr("os.environ", clean_environ(environ))

    def ask(*words: str) -> Any:
        capsys.readouterr()
        code = main(words)
        printed = capsys.readouterr()
        return json.loads(printed.out) if not code else (code, printed.out, printed.err)

    return ask


WEEK: Final = ("--since", "2026-02-02", "--until", "2026-02-09", "--json")


async def opened(place: str) -> None:
    async with open_database(place):
        pass


async def written(place: str) -> None:
    async with open_database(place) as database, open_log_writer(database) as log:
        log.offer(RECORD)
        await log.caught_up()


@pytest.mark.parametrize("number", range(1, len(MIGRATIONS)))
def test_a_ledger_of_any_older_arbstr_is_brought_up_and_answers(
    number: int, place: str, asked: Callable[..., Any]
) -> None:
    if not is_ledger_url(place):
        begin_sqlite(place, number)
    elif number in IN_POSTGRES:
        begin_postgres(place, number)
    else:
        pytest.skip("no arbstr of then kept its ledger there")
    code, out, err = asked("stats", *WEEK)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "an older arbstr wrote it, or none yet: start `arbstr run` once" in err
    for start in (1, 2):
        trio.run(written, place)  # the second time to no effect
        report = asked("stats", *WEEK, "--model", "gpt-4o")
        counts, costs = report["counts"], report["costs"]
        assert {name: counts[name] - (name in ("total", "success")) for name in COUNTS} == COUNTS
        assert {name: round(costs[name], 6) for name in COSTS} == {
            **COSTS,
            "total_cost_sats": 23.13,
        }
        ids = {row["correlation_id"] for row in asked("requests", *WEEK)["data"]}
        assert ids == {"answered", "stated", "rejected", "killed", RECORD.correlation_id}, start
        (first, second) = asked("requests", "answered", "--json")["attempts"]
        assert (first["provider"], first["failure"]) == ("beta", "server_error")
        assert (second["cost"]["cost_sats"], second["failure"]) == (3.0, None)


def test_an_upgrade_that_is_broken_off_leaves_the_ledger_as_it_was_and_the_next_start_does_it(
    place: str, asked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is one transaction, of which the last statement is the one that breaks."""
    number, broken = len(MIGRATIONS) - 1, "\nSELECT * FROM nowhere;"
    with monkeypatch.context() as patch:
        if is_ledger_url(place):
            begin_postgres(place, number)
            last = {**IN_POSTGRES, number + 1: IN_POSTGRES[number + 1] + broken}
            name = "arbstr.trio_runtime.ledger.postgres.known_migrations"
            patch.setattr(name, lambda: last)
        else:
            begin_sqlite(place, number)
            name = "arbstr.trio_runtime.ledger.sqlite.own_migrations"
            patch.setattr(name, lambda: (*MIGRATIONS[:-1], MIGRATIONS[-1] + broken))
        try:
            trio.run(opened, place)  # on SQLite arbstr begins all the same, and tries again
        except* StartError:
            assert is_ledger_url(place)
        assert "an older arbstr wrote it" in asked("stats", *WEEK)[2]
    trio.run(opened, place)
    counts = asked("stats", *WEEK, "--model", "gpt-4o")["counts"]
    assert {name: counts[name] for name in COUNTS} == COUNTS


def test_a_newer_one_s_ledger_is_refused_in_one_line_that_says_what_to_do(
    place: str, asked: Callable[..., Any]
) -> None:
    trio.run(opened, place)
    if is_ledger_url(place):
        from arbstr.trio_runtime.ledger.postgres_readers import connect as connect_there

        session = connect_there(parse_ledger_url(place))
        with session.connection:
            session.execute("INSERT INTO arbstr_schema (version) VALUES (999)")
    else:
        with closing(sqlite3.connect(place)) as connection:
            connection.execute("PRAGMA user_version = 999")
    Path("a.log").write_text(dropped_text(RECORD))
    with pytest.raises(StartError, match="a newer arbstr wrote it"):
        groups.run(opened, place, expected=(StartError,))  # as `arbstr run` does
    for words in (
        ("stats",),
        ("requests",),
        ("import", "a.log"),
    ):
        code, out, err = asked(*words)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert "a newer arbstr wrote it (schema 999, this one knows " in err
        assert ": upgrade arbstr, or put the copy from before the upgrade there, or choose " in err


BUDGET: Final = "[budget]\nsats_per_day = 100\n"


def of_today(place: Path) -> Decimal:
    with open_for_reading(str(place)) as session:
        return read_spent(session, time.time(), but_by="")


async def test_a_move_takes_the_day_along_and_settles_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page "operating" says it: a copy, the files beside it, and never both at once."""
    monkeypatch.setattr("arbstr.trio_runtime.ledger.checkpoints.LATE_SECONDS", 0.0)
    here, there = (tmp_path / name / "arbstr.db" for name in ("here", "there"))
    for each in (here, there):
        each.parent.mkdir()
    node = Node(only=("reset before the head",))
    async with serving(node, here, BUDGET) as (proxy, _):
        await proxy.chat(max_tokens=100)
        await checkpoint(proxy)
        await proxy.chat(max_tokens=100)  # of which nobody knows yet what it cost
        await proxy.wait_idle()
    monkeypatch.setattr("os.environ", clean_environ({"DATABASE_URL": str(here)}))
    monkeypatch.chdir(tmp_path)
    assert main(["backup", str(there)]) == 0
    for file in here.parent.iterdir():
        if file.suffix in (".lanes", ".change"):
            copyfile(file, there.parent / file.name)
    assert of_today(there) == of_today(here) > Decimal("0.5")  # the day goes on as it was
    settled = [row for row in rows(there, "attempts") if row["settled"]]
    assert [row["cost_sats"] for row in settled] == [0.5]
    async with serving(node, there, BUDGET) as (proxy, _):
        taken = await checkpoint(proxy)
        assert taken.settlement.prices == ()
    assert of_today(there) == 1
    every = rows(there, "attempts")
    assert [row["cost_sats"] for row in every] == [0.5, 0.5]
    assert {row["settled"] for row in every} == {"checkpoint"}
    assert sum(row["cost_sats"] for row in every) * 1000 == node.total_spent

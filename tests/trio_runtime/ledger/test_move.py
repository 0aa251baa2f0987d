"""A ledger that is moved: all of it, whatever kills the move, and never among other rows."""

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final, NoReturn

import pytest
import trio

from arbstr.cli.commands import main
from arbstr.sansio.errors import StartError
from arbstr.sansio.ledger.reports import Group, RequestsQuery, StatsQuery
from arbstr.trio_runtime.groups import run
from arbstr.trio_runtime.ledger import move as module
from arbstr.trio_runtime.ledger.database import beside, open_database, open_for_reading
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.move import KEYS, Moved, move
from arbstr.trio_runtime.ledger.port import Session, Trouble
from arbstr.trio_runtime.ledger.ratios import learn
from arbstr.trio_runtime.ledger.reports import read_report, read_requests
from tests.ledgers import memory_ledger
from tests.postgres import PostgresServer
from tests.records import RECORD
from tests.trio_runtime.ledger.test_reports import NOBODY, Dice, write

pytest.importorskip("psycopg", reason="pip install -e '.[dev]' brings it")

from arbstr.trio_runtime.ledger.postgres import PostgresDatabase

WAYS: Final = ("sqlite postgres", "postgres sqlite")

_numbers = count()


@pytest.fixture(params=WAYS, ids=[way.replace(" ", " to ") for way in WAYS])
def ways(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """From where, and to where."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "BATCH_ROWS", 7)
    server: PostgresServer = request.getfixturevalue("postgres")

    def place(engine: str) -> str:
        name = f"move_{next(_numbers)}"
        return server.url(name) if engine == "postgres" else str(tmp_path / f"{name}.db")

    first, second = request.param.split()
    return place(first), place(second)


class Killed(Exception):  # noqa: N818 - what kills a move
    """At that very place."""


def moved(source: str, target: str, told: Callable[[str, int, int], None]) -> Moved:
    return run(move, source, target, told, expected=(StartError, Trouble, Killed))


def quietly(*_: object) -> None:
    pass


def never(*_: object) -> None:
    pytest.fail("something was moved")


def fill(session: Session, rows: int = 12) -> None:
    """Something in every table; numbers with gaps, as removed rows leave them."""
    write(session, Dice(5).ledger(rows))
    session.execute("DELETE FROM attempts WHERE correlation_id = 'id-3'")
    session.execute("DELETE FROM requests WHERE correlation_id = 'id-3'")
    session.execute(
        "UPDATE requests SET status = 'failed', boot_id = NULL WHERE status = 'in_flight'"
    )
    learn(session, "", [0.5])
    learn(session, "code", [1 / 3, 2.0])
    for n in range(9):
        session.execute(
            "INSERT INTO node_prices (id, provider, model, input, fetched_at)"
            " VALUES (?, 'alpha', 'm', 0.1, '2026-02-03')",
            ((1 << 40) + n,),
        )
        session.execute(
            "INSERT INTO checkpoints (provider, key_id, taken_at, total_spent, total_requests,"
            " balance, after_request, verdict) VALUES ('é', 'k', ?, 1, 1, 1, ?, 'first')",
            (f"2026-02-0{n}", n),
        )
    session.execute(
        "INSERT INTO node_listings (provider, url, fetched_at, listing)"
        " VALUES ('alpha', 'u', 'now', '{}')"
    )


def made(place: str, work: Callable[[Session], None] = fill) -> None:
    async def make() -> None:
        async with open_database(place) as database:
            await database.transaction(work)

    trio.run(make)


def contents(place: str) -> dict[str, Any]:
    """All rows by the names of their columns, and what a client is answered."""
    found: dict[str, Any] = {}
    with open_for_reading(place) as session:
        for table in (*KEYS, "request_days", "request_hours", "request_totals"):
            rows = session.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in rows.description or ()]
            kept = [dict(zip(names, row, strict=True)) for row in rows]
            found[table] = sorted(json.dumps(row, sort_keys=True) for row in kept)
        filters = Dice(1).filters()
        answers = [read_report(session, StatsQuery(filters, each), NOBODY) for each in Group]
        answers.append(read_requests(session, RequestsQuery(filters, per_page=100), NOBODY))
        found["answers"] = json.dumps(answers, default=repr)
    return found


def test_all_of_a_ledger_is_there_afterwards_and_goes_on(ways: tuple[str, str]) -> None:
    source, target = ways
    made(source)
    before = contents(source)
    told: list[tuple[str, int, int]] = []
    done = moved(source, target, lambda *each: told.append(each))
    assert contents(target) == before == contents(source)
    assert (done.already, done.anew) == (False, False)
    assert {table: rows for table, rows, of in told if rows == of} == done.sums.rows

    # The next request has the next number, and nobody is in its way.
    async def go_on() -> int:
        async with open_database(target) as database:
            async with open_log_writer(database) as log:
                log.offer(RECORD)
            question = "SELECT max(id) FROM requests"
            rows = await database.read(lambda session: session.execute(question).fetchall())
            return int(rows[0][0])

    greatest = max(json.loads(row)["id"] for row in before["requests"])
    assert trio.run(go_on) == greatest + 1


def test_killed_at_any_batch_it_goes_on_where_it_ended(ways: tuple[str, str]) -> None:
    source, target = ways
    made(source)
    before = contents(source)
    batches: list[str] = []

    def kill(table: str, *_: int) -> None:
        batches.append(table)
        raise Killed

    kills, done = 0, None
    while True:
        with suppress(Killed):
            done = moved(source, target, kill)
            break
        kills += 1
        # Meanwhile it is no ledger to anybody.
        with pytest.raises(StartError, match="not all of it is there"):
            contents(target)
        with pytest.raises(StartError, match="not all of it is there"):
            run(opened, target, expected=(StartError,))
    assert kills == len(batches) > 8
    assert set(batches) == set(KEYS)
    assert contents(target) == before
    assert done is not None
    assert not done.anew


async def opened(place: str) -> None:
    async with open_database(place):
        pass


def test_killed_before_a_batch_is_committed_nothing_of_it_is_there(
    ways: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = ways
    made(source)
    insert, turns = module._insert, count()

    def and_fails(session: Session, *arguments: Any, **named: Any) -> None:
        insert(session, *arguments, **named)
        if next(turns) % 2:
            raise Trouble("the server went away")

    monkeypatch.setattr(module, "_insert", and_fails)
    tries = 0
    while True:
        tries += 1
        try:
            moved(source, target, quietly)
        except Trouble:
            continue
        break
    assert tries > 5
    assert contents(target) == contents(source)


@pytest.mark.skipif(sys.platform != "linux", reason="system libraries outlive no fork elsewhere")
@pytest.mark.parametrize("ways", WAYS[:1], ids=["sqlite to postgres"], indirect=True)
def test_killed_with_a_signal_before_and_after_each_commit_it_goes_on(
    ways: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other try gets one commit further, from the mark to its removal."""
    monkeypatch.setattr(module, "BATCH_ROWS", 100)  # a table each
    source, target = ways
    made(source)
    before = contents(source)
    tries = 0
    while os.WIFSIGNALED(status := _moved_apart(*ways, before_commit=tries % 2 == 0)):
        tries += 1
    assert os.waitstatus_to_exitcode(status) == 0
    assert tries == 2 * (1 + len(KEYS) + 1)
    assert contents(target) == before


def _moved_apart(source: str, target: str, *, before_commit: bool) -> int:
    """By a process of its own; how that ended."""
    child = os.fork()
    if not child:
        _move_and_die(source, target, before_commit=before_commit)
    return os.waitpid(child, 0)[1]


def _move_and_die(source: str, target: str, *, before_commit: bool) -> NoReturn:
    """Ends the process as kill -9 does at its first step of the move."""
    real = PostgresDatabase.transaction

    async def transact(database: Any, work: Any, **more: Any) -> Any:
        is_step = getattr(work, "func", work) in (module._mark, module._insert, module._end)

        def and_die(session: Session) -> Any:
            done = work(session)
            if is_step and before_commit:
                os.kill(os.getpid(), SIGKILL)
            return done

        done = await real(database, and_die, **more)
        if is_step:
            os.kill(os.getpid(), SIGKILL)
        return done

    try:
        PostgresDatabase.transaction = transact  # type: ignore[method-assign, assignment]  # this process's own
        moved(source, target, quietly)
        os._exit(0)
    finally:
        os._exit(1)


def test_moved_again_it_is_there_already(ways: tuple[str, str]) -> None:
    source, target = ways
    made(source)
    moved(source, target, quietly)
    assert moved(source, target, never).already
    assert contents(target) == contents(source)


def test_what_has_rows_of_its_own_is_refused_and_stays(ways: tuple[str, str]) -> None:
    source, target = ways
    made(source)
    made(target, partial(fill, rows=3))
    before = contents(target)
    with pytest.raises(StartError, match="rows of its own"):
        moved(source, target, quietly)
    assert contents(target) == before


def use(session: Session) -> None:
    session.execute("UPDATE attempts SET cost_sats = 77 WHERE n = 1")
    for table in ("requests", "attempts"):
        session.execute(f"UPDATE {table} SET correlation_id = 'a' || correlation_id")


def test_a_source_that_was_used_since_the_first_try_is_moved_anew(ways: tuple[str, str]) -> None:
    source, target = ways
    made(source)
    turns = count()

    def kill(*_: object) -> None:
        if next(turns) == 7:
            raise Trouble("enough")

    with pytest.raises(Trouble):
        moved(source, target, kill)
    # A price was learnt of a row that is there already, and keys lie before those that are.
    made(source, use)
    assert moved(source, target, quietly).anew
    assert contents(target) == contents(source)


def test_while_an_arbstr_uses_either_nothing_is_moved(ways: tuple[str, str]) -> None:
    source, target = ways
    made(source)

    async def beside_one(used: str) -> None:
        async with open_database(used):
            with pytest.raises(BaseExceptionGroup if "postgres" in source + target else StartError):
                await move(source, target, never)

    for used in ways:
        trio.run(beside_one, used)
    moved(source, target, quietly)


def test_who_writes_into_the_source_meanwhile_is_noticed(
    ways: tuple[str, str], postgres: PostgresServer
) -> None:
    source, target = ways
    made(source)
    written: list[int] = []

    def somebody(*_: object) -> None:
        sql = "UPDATE attempts SET cost_sats = 78 WHERE n = 1"
        if not written and source.startswith("postgresql"):
            postgres.execute(sql, source.rpartition("/")[2])
        elif not written:
            with closing(sqlite3.connect(source)) as connection, connection:
                connection.execute(sql)
        written.append(1)

    with pytest.raises(StartError, match="written to meanwhile"):
        moved(source, target, somebody)
    assert moved(source, target, quietly).anew
    assert contents(target) == contents(source)


def test_what_a_killed_process_noted_is_moved_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
) -> None:
    """Its intents lie beside the source, where nobody would look any more."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    source, target = str(tmp_path / "one.db"), postgres.url("noted")

    async def killed() -> None:
        async with open_database(source) as database, open_log_writer(database) as log:
            log._intents.end(RECORD)
            log._intents.keep()

    trio.run(killed)
    assert list(tmp_path.glob("one.db.intents-*"))
    done = moved(source, target, quietly)
    assert done.sums.rows["requests"] == 1
    assert not list(tmp_path.glob("one.db.intents-*"))


def test_every_table_is_moved_or_makes_itself_or_stays_behind() -> None:
    with memory_ledger() as session:
        tables = {
            name
            for (name,) in session.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        }
    assert tables == {*KEYS, "request_hours", "request_days", "request_totals", "budget_leases"}


# -- the command


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in ("DATABASE_URL", "ARBSTR_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_here")
def test_the_command_says_what_is_there_and_what_to_set(
    tmp_path: Path, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    made("arbstr.db")
    lanes = tmp_path / "arbstr.db.lanes"
    lanes.write_text('{"keys": 1}')
    url = postgres.url("by_command")
    assert main(["migrate", "--to", url]) == 0
    printed = capsys.readouterr().out
    rows = len(contents(url)["requests"])
    assert f"{rows:,} rows of" in printed
    assert "both ledgers add up to the same, day by day" in printed
    assert "secret-of-a-test" not in printed
    assert f'[database] url = "postgresql://arbstr@127.0.0.1:{postgres.port}/by_command"' in printed
    copied = Path(f"{beside(url)}.lanes")
    assert copied.read_text() == lanes.read_text()
    assert copied.stat().st_mode & 0o777 == 0o600
    assert main(["migrate", "--to", url]) == 0
    assert "has all of" in capsys.readouterr().out
    # And back.
    assert main(["migrate", "--from", url, "--to", "back.db"]) == 0
    assert f'[database] path = "{tmp_path / "back.db"}"' in capsys.readouterr().out
    assert contents("back.db") == contents("arbstr.db")
    # And from file to file.
    assert main(["migrate", "--from", "back.db", "--to", "sqlite:///again.db"]) == 0
    assert contents("again.db") == contents("arbstr.db")


@pytest.mark.usefixtures("_here")
def test_what_the_command_cannot_do_is_said_in_a_line(
    postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(code: int, *arguments: str) -> str:
        try:
            left: object = main(["migrate", *arguments])
        except SystemExit as error:
            left = error.code
        assert left == code
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err.splitlines()[-1]

    assert "there is no such ledger" in said(1, "--to", "other.db")
    made("arbstr.db")
    assert "it is there already" in said(1, "--to", "arbstr.db")
    assert "--to: a mysql: URL" in said(2, "--to", "mysql://user:hidden@h/name")
    assert "cannot be moved" in said(1, "--to", ":memory:")
    gone = said(1, "--to", "postgresql://arbstr:secret@127.0.0.1:1/nobody")
    assert "postgresql://arbstr@127.0.0.1:1/nobody" in gone
    assert "secret" not in gone
    with closing(sqlite3.connect("theirs.db")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    assert "belongs to another program" in said(1, "--to", "theirs.db")

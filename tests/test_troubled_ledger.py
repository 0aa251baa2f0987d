"""A ledger that cannot be written: every chat is answered all the same, and its row comes later."""

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from arbstr.cli.commands import main
from tests.fakes import fake_process
from tests.process import ArbstrProcess, arbstr_process, wait_until, write_config

CONFIG = """
[database]
path = "ledger/arbstr.db"
[[providers]]
name = "alpha"
url = "{url}"
models = ["fake-ok"]
input_rate = 0.1
output_rate = 12.5
base_fee = 0.0003
"""


@contextmanager
def locked(process: ArbstrProcess) -> Iterator[None]:
    """Another program writes, and takes its time."""
    with closing(sqlite3.connect(process.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def removed(process: ArbstrProcess) -> Iterator[None]:
    """The directory is deleted, and comes back empty."""
    shutil.rmtree(process.database.parent)
    yield
    process.database.parent.mkdir()


@contextmanager
def displaced(process: ArbstrProcess) -> Iterator[None]:
    """Something that is no file stands in its place."""
    aside = process.database.with_name("aside")
    process.database.rename(aside)
    process.database.mkdir()
    yield
    process.database.rmdir()
    aside.rename(process.database)


@contextmanager
def full(process: ArbstrProcess) -> Iterator[None]:
    """Not a byte more can be written to a file."""
    import resource

    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    yield
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArbstrProcess]:
    """A process whose ledger lies in a directory of its own. Who ends it takes `mortal`."""
    with running(tmp_path_factory.mktemp("troubled")) as process:
        yield process


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[ArbstrProcess]:
    """The same for one test."""
    with running(tmp_path) as process:
        yield process


@contextmanager
def running(directory: Path) -> Iterator[ArbstrProcess]:
    (directory / "ledger").mkdir()
    with (
        fake_process() as fake,
        arbstr_process(config_text=CONFIG.format(url=fake.url), directory=directory) as process,
    ):
        process.database = directory / "ledger" / "arbstr.db"
        yield process


Trouble = Callable[[ArbstrProcess], AbstractContextManager[None]]


@pytest.mark.parametrize(
    "trouble",
    [
        locked,
        pytest.param(
            full, marks=pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
        ),
        displaced,
        removed,
    ],
)
def test_a_chat_is_answered_while_the_database_is_in_trouble_and_its_row_comes_after(
    trouble: Trouble, troubled: ArbstrProcess
) -> None:
    # The rows of the test before are in the file, and perhaps not counted yet.
    written = settled(troubled)["written"]
    warned = troubled.stderr().count("the request log cannot be written")
    with trouble(troubled):
        plain, streamed = troubled.chat("fake-ok"), troubled.chat("fake-ok", stream=True)
        rejected = troubled.chat("nobody's")
        troubled.wait_stderr("the request log cannot be written", count=warned + 1)
        counters = log_counters(troubled)
    assert [plain.status_code, streamed.status_code, rejected.status_code] == [200, 200, 404]
    assert b"data: [DONE]" in streamed.content
    assert (counters["written"], counters["dropped"]) == (written, 0)
    assert counters["queued"] >= 3
    for reply, status in ((plain, "ok"), (streamed, "ok"), (rejected, "rejected")):
        assert troubled.wait_final(reply.headers["x-arbstr-request-id"])["status"] == status
    assert troubled.stderr().count("the request log cannot be written") == warned + 1


def log_counters(process: ArbstrProcess) -> Mapping[str, int]:
    counters: Mapping[str, int] = process.ask("GET", "/health").json()["log"]
    return counters


def settled(process: ArbstrProcess, *, queued: int = 0) -> Mapping[str, int]:
    """The counters, once so many rows wait."""
    found: list[Mapping[str, int]] = []

    def there() -> bool:
        found[:] = [log_counters(process)]
        return found[0]["queued"] == queued

    wait_until(there, f"{queued} rows in the queue")
    return found[0]


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_full_disk_is_told_of_while_it_lasts(
    troubled: ArbstrProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the route, and by every command that looks; 375 rows once waited behind an "ok"."""
    text = CONFIG.format(url="http://127.0.0.1:9")
    where = f'[server]\nlisten = "127.0.0.1:{troubled.port}"\n'
    path = str(write_config(tmp_path, where + text.replace("ledger/", "")))
    settled(troubled)
    warned = troubled.stderr().count("the request log cannot be written")
    with full(troubled):
        assert troubled.chat("fake-ok").status_code == 200
        troubled.wait_stderr("the request log cannot be written", count=warned + 1)
        # Of a request its first record may be in the writer's hand when the last one comes.
        settled(troubled, queued=1)
        health = troubled.ask("GET", "/health").json()
        assert health["status"] == "degraded"
        assert health["log"]["queued"] == 1
        assert health["log"]["waiting_seconds"] >= 0
        assert "disk" in health["log"]["trouble"]
        assert main(["status", "-c", path]) == 0
        assert " | 1 row waits to be written, for " in capsys.readouterr().out
        main(["doctor", "-c", path])
        told = capsys.readouterr().out
        assert "fault  arbstr: runs, and 1 row waits to be written, for " in told
        assert "-> free room on the ledger's disk" in told
    settled(troubled)
    health = troubled.ask("GET", "/health").json()
    assert health["status"] == "ok"
    assert not {"waiting_seconds", "trouble"} & set(health["log"])


def test_a_database_locked_to_the_end_does_not_hold_the_exit_and_money_is_printed(
    mortal: ArbstrProcess,
) -> None:
    with locked(mortal):
        reply = mortal.chat("fake-ok")
        rejected = mortal.chat("nobody's")
        assert mortal.stop() == 0
    request_id = reply.headers["x-arbstr-request-id"]
    (line,) = (line for line in mortal.stderr().splitlines() if "row dropped: " in line)
    row = json.loads(line.partition("row dropped: ")[2])
    assert (row["correlation_id"], row["cost_sats"]) == (request_id, "0.0638")
    assert row["attempts"][0]["money"] == "spent"
    assert rejected.headers["x-arbstr-request-id"] not in line


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
@pytest.mark.parametrize("room", [0, 16_384])
def test_a_disk_full_to_the_end_prints_what_cost_and_keeps_it_where_there_is_room(
    room: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No file may grow beyond `room`: nothing at all, or what a few lines take but no database.

    Standard error is a pipe, which has no such limit.
    """
    import resource

    (tmp_path / "ledger").mkdir()
    with fake_process() as fake:
        text = CONFIG.format(url=fake.url)
        with arbstr_process(config_text=text, directory=tmp_path) as process:
            limits = (room, resource.RLIM_INFINITY)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
            paid = [process.chat("fake-ok", stream=stream) for stream in (False, True) * 3]
            rejected = process.chat("nobody's")
            process.wait_stderr("the request log cannot be written")
            assert process.stop() == 0
        printed = [
            json.loads(line.partition("row dropped: ")[2])
            for line in process.stderr().splitlines()
            if "row dropped: " in line
        ]
        with arbstr_process(config_text=text, directory=tmp_path) as again:
            again.database = tmp_path / "ledger" / "arbstr.db"
            kept = {row["correlation_id"]: row["status"] for row in again.rows()}
            assert again.stop() == 0
    ids = {reply.headers["x-arbstr-request-id"] for reply in paid}
    assert [reply.status_code for reply in (*paid, rejected)] == [200] * 6 + [404]
    assert {row["correlation_id"] for row in printed} == ids
    assert {(row["status"], row["cost_sats"]) for row in printed} == {("ok", "0.0638")}
    assert process.stderr().count("requests cannot be noted in ") == (not room)
    assert process.stderr().count("the next start writes") == bool(room)
    if room:
        rejected_id = rejected.headers["x-arbstr-request-id"]
        assert kept == {**dict.fromkeys(ids, "ok"), rejected_id: "rejected"}
    else:
        assert not kept
    # What was printed is read back, each once.
    log = tmp_path / "arbstr.log"
    log.write_text(process.stderr())
    monkeypatch.chdir(tmp_path)
    for new in (0 if room else 6, 0):
        assert main(["import", str(log)]) == 0
        assert f"{new} rows put into " in capsys.readouterr().out
    with closing(sqlite3.connect(again.database)) as ledger:
        found = ledger.execute(
            "SELECT correlation_id, requests.cost_sats, n, money, attempts.cost_sats"
            " FROM requests JOIN attempts USING (correlation_id)"
        ).fetchall()
    assert sorted(found) == sorted((name, 0.0638, 1, "spent", 0.0638) for name in ids)

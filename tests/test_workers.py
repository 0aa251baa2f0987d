"""`arbstr run --workers 2`: whole processes behind one address, stopped, killed, reloaded.

A request is sent to one of them by stopping the other (SIGSTOP) until it has been taken.
"""

import ast
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM
from typing import Any, Final, final

import httpx
import pytest
import trio

from arbstr.cli.commands import main
from tests.fakes import (
    DONE,
    ROLE,
    STOP,
    USAGE,
    WORD,
    Play,
    answer,
    completion,
    fake_process,
    json_answer,
    open_fake_provider,
    stream,
)
from tests.postgres import PostgresServer
from tests.process import (
    PATIENCE,
    ArbstrProcess,
    arbstr_process,
    chat_body,
    is_stopped,
    run_arbstr,
    wait_until,
    write_config,
)
from tests.proxy import config, provider

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forks")

PACKAGE: Final = Path(__file__).parents[1] / "arbstr"
BOTH: Final = "all 2 workers serve"
ANY: Final = """
[[providers]]
name = "alpha"
url = "{url}"
models = ["*"]
input_rate = 0
output_rate = 0
base_fee = 1
"""
CALM: Final = "[retry]\nmax_retries = 0\nbackoff = 0.001\nlinger = 0\n"


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or nobody has waited for it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@final
class Two:
    """An arbstr of two workers. Every call blocks."""

    def __init__(self, process: ArbstrProcess) -> None:
        self.process = process
        self.pids: dict[int, int] = {}
        self.look()

    def look(self, *, starts: int = 1) -> None:
        """Until both serve, for that many times; and which processes they are."""
        self.process.wait_stderr(BOTH, count=starts)
        told = self.process.stderr().split("is started: pid ")
        for before, after in pairwise(told):
            self.pids[int(before.split()[-1])] = int(after.split()[0])

    @contextmanager
    def only(self, worker: int) -> Iterator[None]:
        """Nobody else accepts."""
        others = [pid for number, pid in self.pids.items() if number != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            for pid in others:
                wait_until(partial(is_stopped, pid), "it is stopped")
            yield
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)

    def chat(self, worker: int, model: str = "gpt-4o", **more: object) -> httpx.Response:
        """A chat that this worker answers."""
        with self.only(worker):
            return self.ask("POST", "/v1/chat/completions", json=chat_body(model, more=more))

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Any request, on a connection of its own."""
        with httpx.Client(trust_env=False, timeout=PATIENCE, verify=False) as client:
            return client.request(method, self.process.url + path, **more)

    def health(self) -> Any:
        return self.ask("GET", "/health").json()

    def wait_health(self, status: str) -> Any:
        """/health once all answer it, which a busy machine may not give them the time for."""
        found: list[Any] = []

        def is_whole() -> bool:
            found.append(self.health())
            mute = ("silent", "hung")
            return all(each["status"] not in mute for each in found[-1]["workers"])

        wait_until(is_whole, "all workers answer")
        assert found[-1]["status"] == status
        return found[-1]


@contextmanager
def two_workers(text: str, *, directory: Path | None = None) -> Iterator[Two]:
    with arbstr_process(
        config_text=text, arguments=("--workers", "2"), directory=directory
    ) as process:
        yield Two(process)


def begun(two: Two, worker: int) -> socket.socket:
    """A stream at that worker whose first bytes are there."""
    with two.only(worker):
        connection = two.process.send_chat(stream=True)
        connection.settimeout(PATIENCE)
        seen = b""
        while b"Hello" not in seen:
            seen += connection.recv(65536)
    return connection


def rest_of(connection: socket.socket) -> bytes:
    """What still comes; a reset ends it as well."""
    seen = b""
    with closing(connection):
        try:
            while chunk := connection.recv(65536):
                seen += chunk
                if seen.endswith(b"0\r\n\r\n"):
                    break
        except ConnectionResetError:
            pass
    return seen


async def test_a_worker_that_is_killed_takes_no_row_of_the_other_and_is_back(
    tmp_path: Path,
) -> None:
    gate = trio.Event()
    held = stream([ROLE, WORD, gate, STOP, USAGE, DONE])

    def walk() -> tuple[int, int]:
        done = [two.chat(worker).headers["x-arbstr-request-id"] for worker in (1, 2)]
        lost, kept = begun(two, 1), begun(two, 2)
        killed = two.pids[1]
        os.kill(killed, SIGKILL)
        two.process.wait_stderr(f"worker 1 (pid {killed}) was killed by SIGKILL: it is started")
        two.look(starts=2)
        assert b"[DONE]" not in rest_of(lost)
        # The new one has read what the dead one noted; the living one's request goes on.
        rows = two.process.wait_rows(status="abandoned")
        assert [two.process.wait_final(each)["status"] for each in done] == ["ok", "ok"]
        assert [row["status"] for row in rows if row["streaming"]].count("abandoned") == 1
        trio.from_thread.run_sync(gate.set)
        assert b"[DONE]" in rest_of(kept)
        assert two.chat(1).status_code == 200
        return two.process.stop(), killed

    good = json_answer(completion())
    async with open_fake_provider([good, good, held, held, good]) as fake:
        text = config(provider("alpha", fake.url), more=CALM)
        with two_workers(text, directory=tmp_path) as two:
            code, killed = await trio.to_thread.run_sync(walk)
    assert code == 0
    rows = two.process.rows()
    statuses = sorted(row["status"] for row in rows)
    assert statuses == ["abandoned", "ok", "ok", "ok", "ok"]
    assert len({row["boot_id"] for row in rows}) == 3
    assert killed not in two.pids.values()
    assert sorted(os.listdir(tmp_path)) == ["arbstr.db", "config.toml"]


@pytest.mark.parametrize("to_all", [False, True], ids=["the parent", "as a service manager"])
async def test_sigterm_ends_all_when_they_have_answered(to_all: bool) -> None:
    gate = trio.Event()
    held = stream([ROLE, WORD, gate, STOP, USAGE, DONE])

    def walk() -> int:
        open_ones = [begun(two, 1), begun(two, 2)]
        for pid in two.pids.values() if to_all else ():
            os.kill(pid, SIGTERM)
        two.process.send_signal(SIGTERM)
        two.process.wait_stderr("no new requests; waiting up to", count=2)
        trio.from_thread.run_sync(gate.set)
        assert [b"[DONE]" in rest_of(each) for each in open_ones] == [True, True]
        return two.process.wait()

    async with open_fake_provider(held) as fake:
        with two_workers(config(provider("alpha", fake.url), more=CALM)) as two:
            assert await trio.to_thread.run_sync(walk) == 0
    assert [row["status"] for row in two.process.rows()] == ["ok", "ok"]


def test_a_second_signal_hurries_all() -> None:
    with fake_process() as fake, two_workers(ANY.format(url=fake.url)) as two:
        with two.only(1):
            one = two.process.send_chat("fake-hang")
            fake.wait(requests=1)
        with two.only(2):
            other = two.process.send_chat("fake-hang")
            fake.wait(requests=2)
        two.process.send_signal(SIGINT)
        two.process.wait_stderr("no new requests; waiting up to", count=2)
        assert two.process.stop(SIGINT) == 130
        one.close()
        other.close()
    assert [row["status"] for row in two.process.rows()] == ["failed", "failed"]


async def test_sighup_reaches_all_and_a_fault_is_said_once() -> None:
    def walk() -> None:
        write_config(two.process.directory, "[[providers")
        two.process.send_signal(SIGHUP)
        two.process.wait_stderr("SIGHUP: the configuration stays as it was")
        write_config(two.process.directory, config(provider("beta", fake.url), more=CALM))
        two.process.send_signal(SIGHUP)
        two.process.wait_stderr("SIGHUP: the configuration was read again", count=2)
        for worker in (1, 2):
            assert two.chat(worker).headers["x-arbstr-provider"] == "beta"
        # One that is started later knows what the others know.
        os.kill(two.pids[2], SIGKILL)
        two.look(starts=2)
        assert two.chat(2).headers["x-arbstr-provider"] == "beta"
        assert two.process.stop() == 0

    async with open_fake_provider(json_answer(completion())) as fake:
        with two_workers(config(provider("alpha", fake.url), more=CALM)) as two:
            await trio.to_thread.run_sync(walk)
    said = two.process.stderr()
    assert said.count("stays as it was") == 1
    assert {line[-8:] for line in said.splitlines() if "was read again:" in line} == {
        "worker=1",
        "worker=2",
    }


async def test_a_day_is_shared_to_its_last_sat_and_never_overdrawn() -> None:
    day = '[budget]\nsats_per_day = 20\nhold = "most"\n'
    good = json_answer(completion())

    def walk() -> None:
        answered = [two.chat(1).status_code for _ in range(12)].count(200)
        # The first, which is stopped, still has some in hand: nobody may spend that.
        answered += [two.chat(2).status_code for _ in range(12)].count(200)
        assert 12 < answered <= 20

        def is_spent() -> bool:
            nonlocal answered
            answered += two.ask("POST", "/v1/chat/completions", json=chat_body()).is_success
            return answered == 20

        wait_until(is_spent, "the idle rest is given back, and spent")
        more = [two.ask("POST", "/v1/chat/completions", json=chat_body()) for _ in range(4)]
        assert not any(reply.is_success for reply in more)
        account = two.health()["budget"]
        assert (account["limit"], account["spent"], account["set_aside"]) == (20.0, 20.0, 0.0)
        assert two.ask("GET", "/v1/stats").json()["budget"]["spent"] == 20.0
        # Its owner is told once, and by the parent, whoever of the two paid the last of it.
        two.process.wait_stderr("budget: all of the 20 sats of today are spent (20)")
        assert two.process.stop() == 0
        (line,) = (each for each in two.process.stderr().splitlines() if "budget: all of" in each)
        assert " WARNING " in line
        assert "worker=" not in line
        assert two.process.stderr().count("budget: 80 % of") <= 1

    async with open_fake_provider(good) as fake:
        text = CALM + day + ANY.format(url=fake.url)
        with two_workers(text) as two:
            await trio.to_thread.run_sync(walk)
    assert sum(row["cost_sats"] or 0 for row in two.process.rows()) == 20.0


def test_two_on_a_ledger_in_postgres_share_a_day_and_a_kill_loses_no_row(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    day = '[budget]\nsats_per_day = 30\nhold = "most"\n'
    environ = {"DATABASE_URL": postgres.url("two_workers"), "XDG_STATE_HOME": str(tmp_path)}
    answered = 0

    def spend(most: int) -> None:
        """Until one is refused."""
        nonlocal answered
        for _ in range(most):
            reply = two.ask("POST", "/v1/chat/completions", json=chat_body("fake-ok"))
            if not reply.is_success:
                return
            answered += 1

    def rows() -> int:
        # Who had its answer just before the kill may not have got to say so.
        ((found,),) = postgres.execute(
            "SELECT count(*) FROM requests WHERE status IN ('ok', 'abandoned')", "two_workers"
        )
        return int(found)

    with (
        fake_process() as fake,
        arbstr_process(
            config_text=CALM + day + ANY.format(url=fake.url),
            arguments=("--workers", "2"),
            environ=environ,
        ) as process,
    ):
        two = Two(process)
        spend(8)
        assert answered == 8
        os.kill(two.pids[2], SIGKILL)
        two.look(starts=2)
        wait_until(lambda: rows() == 8, "what the killed one had answered is there")
        spend(40)
        # What the killed one had in hand is lost for the day: some requests of the usual size.
        assert 20 <= answered <= 30
        assert process.stop() == 0
    assert rows() == answered
    ((caps,),) = postgres.execute("SELECT sum(cap) FROM budget_leases", "two_workers")
    assert answered * 1000 <= caps <= 30_000


async def test_health_and_providers_answer_for_all() -> None:
    once = "[breaker]\nfailures = 1\nopen_seconds = 600\n"
    script: list[Play] = [answer(500), json_answer(completion())]

    def walk() -> None:
        two.wait_health("ok")
        assert two.chat(1).status_code == 502
        for _ in range(2):  # whoever is asked
            health = two.wait_health("degraded")
            model = health["providers"]["alpha"]
            assert (model["state"], model["workers"]) == ("open", {"1": "open", "2": "closed"})
            assert [(each["worker"], each["pid"]) for each in health["workers"]] == sorted(
                two.pids.items()
            )
        assert two.chat(2).status_code == 200  # a circuit is the process's own
        with two.only(2):
            health = two.health()
        assert health["workers"][0]["status"] in ("silent", "hung")  # by how long it takes here
        assert health["workers"][1]["status"] == "ok"
        assert health["status"] == "degraded"

        def is_open() -> bool:
            (alpha,) = two.ask("GET", "/providers").json()["providers"]
            return bool(alpha["circuit"] == "open")

        wait_until(is_open, "/providers answers for all")
        assert two.process.wait_rows(2)
        assert two.ask("GET", "/v1/stats").json()["counts"]["total"] == 2
        assert two.process.stop() == 0

    async with open_fake_provider(script) as fake:
        with two_workers(config(provider("alpha", fake.url), more=CALM + once)) as two:
            await trio.to_thread.run_sync(walk)


def test_when_the_parent_is_killed_its_workers_end() -> None:
    with fake_process() as fake, two_workers(ANY.format(url=fake.url)) as two:
        with two.only(2):
            connection = two.process.send_chat("fake-hang")
            fake.wait(requests=1)
        connection.close()  # so that nobody is waited for
        port = two.process.port
        two.process.stop(SIGKILL)
        for pid in two.pids.values():
            wait_until(partial(is_gone, pid), "the worker has ended")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    said = two.process.stderr()
    assert said.count("the parent process is gone") == 2


def test_what_is_wrong_at_the_start_is_said_once(tmp_path: Path) -> None:
    text = config(provider("alpha", "http://127.0.0.1:9/v1"))
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = run_arbstr("run", "--workers", "2", "-l", f"127.0.0.1:{port}", config_text=text)
    assert (done.returncode, done.stderr.count("cannot listen on")) == (1, 1)
    (tmp_path / "arbstr.db").write_bytes(b"this is no ledger, whatever it is" * 100)
    done = run_arbstr(
        "run", "--workers", "2", "-l", "127.0.0.1:0", config_text=text, directory=tmp_path
    )
    assert (done.returncode, done.stderr.count("arbstr.db")) == (1, 1), done.stderr
    assert "listens on" not in done.stdout


@pytest.mark.parametrize("count", ["0", "-1", "65", "two", "1_0", ""])
def test_a_number_that_will_not_do(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", "--workers", count])
    assert left.value.code == 2
    assert "--workers: must be a whole number from 1 to 64" in capsys.readouterr().err


def test_mocks_are_of_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", "--mock", "--workers", "2"])
    assert left.value.code == 2
    assert "--workers needs a ledger on disk" in capsys.readouterr().err


def test_a_ledger_in_memory_and_a_system_that_cannot_fork_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = '[database]\npath = ":memory:"\n[server]\nworkers = 2\n'
    path = write_config(tmp_path, memory + ANY.format(url="http://127.0.0.1:9/v1"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main(["run", "-c", str(path)]) == 78
    assert "a ledger in memory belongs to one process" in capsys.readouterr().err
    monkeypatch.delattr(os, "fork")
    assert main(["run", "-c", str(path)]) == 78
    assert "several workers need a system that forks" in capsys.readouterr().err


def test_one_worker_has_no_parent_and_loads_nothing_for_it() -> None:
    for module in ("cli/run_command", "trio_runtime/main"):
        body = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8")).body
        at_once = {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
        assert "arbstr.sansio.errors" in at_once
        assert not {name for name in at_once if name.endswith((".worker", ".workers", ".combined"))}
    with fake_process() as fake:
        text = "[server]\nworkers = 1\n" + ANY.format(url=fake.url)
        with arbstr_process(config_text=text) as process:
            assert "workers" not in process.ask("GET", "/health").json()
            assert process.stop() == 0
    assert "worker" not in process.stderr()

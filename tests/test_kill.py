"""kill -9 under load: what was finished stays, what was not is abandoned, the file is whole."""

import json
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import Final, final

import pytest

from tests.fakes import FakeProcess, fake_process
from tests.process import CHAT_HEAD, ArbstrProcess, arbstr_process, chat_body

CONFIG: Final = """
[[providers]]
name = "alpha"
url = "{url}"
models = ["fake-ok", "fake-503", "fake-hang", "fake-cut"]
input_rate = 1
output_rate = 2
[retry]
max_retries = 0
[breaker]
failures = 1000
"""

CLIENTS: Final = 6

SETTLED_SECONDS: Final = 1.0
"""What was finished so long before the kill must be in the ledger."""


@final
class Load:
    """Clients that ask one thing after another, each on a new connection, until nobody answers."""

    def __init__(self, arbstr: ArbstrProcess, seed: int) -> None:
        self._arbstr = arbstr
        self._seed = seed
        self._lock = threading.Lock()
        self.answered: dict[str, float] = {}
        """When each request was answered, by its id."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Until the block ends and the server is gone."""
        threads = [
            threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()

    def _ask(self, n: int) -> None:
        dice = random.Random(self._seed * 100 + n)
        with suppress(OSError):
            # One of them waits for an answer that never comes: there is always one in flight.
            models = ("fake-ok", "fake-ok", "fake-503", "fake-cut") if n else ("fake-hang",)
            while True:
                self._chat(dice.choice(models), stream=dice.random() < 0.5)

    def _chat(self, model: str, *, stream: bool) -> None:
        body = json.dumps(chat_body(model, more={"stream": stream})).encode()
        address = ("127.0.0.1", self._arbstr.port)
        with closing(socket.create_connection(address, timeout=30)) as connection:
            head = (CHAT_HEAD % len(body)).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            connection.sendall(head + body)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            if not answer:
                raise ConnectionError
        request_id = answer.partition(b"x-arbstr-request-id: ")[2].partition(b"\r\n")[0].decode()
        whole = b"\r\n\r\n" in answer and answer.rstrip().endswith((b"}", b"0"))
        if request_id and whole:
            with self._lock:
                self.answered[request_id] = time.monotonic()


def lives(directory: Path, fake: FakeProcess, seeds: Sequence[int]) -> None:
    """One process after another on one ledger, each killed; the last one only looks."""
    config = CONFIG.format(url=fake.url)
    left: dict[str, str] = {}
    for seed in seeds:
        with arbstr_process(config_text=config, directory=directory) as arbstr:
            look_back(arbstr, left)
            left = killed_under_load(arbstr, seed)
    with arbstr_process(config_text=config, directory=directory) as arbstr:
        look_back(arbstr, left)
        assert arbstr.stop() == 0
    sums_agree(arbstr.database)


def killed_under_load(arbstr: ArbstrProcess, seed: int) -> dict[str, str]:
    """Kills it at some moment; returns the status of each request it left."""
    seconds = random.Random(seed).uniform(SETTLED_SECONDS + 0.1, SETTLED_SECONDS + 0.6)
    load = Load(arbstr, seed)
    with load.running():
        time.sleep(seconds)
        assert arbstr.stop(SIGKILL) == -SIGKILL
        killed = time.monotonic()
    settled = {
        request_id
        for request_id, moment in load.answered.items()
        if moment < killed - SETTLED_SECONDS
    }
    assert settled, "nothing was answered in time to be looked for"
    with closing(sqlite3.connect(arbstr.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        left = dict(connection.execute("SELECT correlation_id, status FROM requests"))
    assert not {each for each in settled if left.get(each, "in_flight") == "in_flight"}
    assert "in_flight" in left.values()
    return left


def look_back(arbstr: ArbstrProcess, left: Mapping[str, str]) -> None:
    """What the process before left is there, and what it had not finished is abandoned."""
    rows = {row["correlation_id"]: row for row in arbstr.rows()}
    assert rows.keys() == left.keys()
    for request_id, status in left.items():
        row = rows[request_id]
        assert row["status"] == ("abandoned" if status == "in_flight" else status)
        assert row["success"] == (row["status"] == "ok")
        assert row["possibly_spent"] >= (status == "in_flight")


def sums_agree(path: Path) -> None:
    """The sums by the hour are those of the rows."""
    sums = "sum(requests), sum(unknown_cost), round(sum(cost_sats), 6), sum(latency_ms)"
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {sums} FROM request_measures").fetchone()
        hours = connection.execute(f"SELECT {sums} FROM request_hours").fetchone()
    assert rows == hours


def test_what_was_finished_survives_three_kills_under_load(tmp_path: Path) -> None:
    with fake_process() as fake:
        lives(tmp_path, fake, range(3))


@pytest.mark.soak
def test_what_was_finished_survives_twenty_kills_under_load(tmp_path: Path) -> None:
    with fake_process() as fake:
        lives(tmp_path, fake, range(100, 120))

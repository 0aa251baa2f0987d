"""kill -9 at any moment: what was answered has its final row, what a provider saw has an attempt.

A kill may come before the first byte of a request, in the middle of a second attempt, or between
the end of an answer and the batch that would write its row.
"""

import itertools
import json
import random
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, Signals
from typing import Final, final

import httpx
import pytest

from tests.fakes import FakeProcess, Request, fake_process
from tests.process import (
    CHAT_HEAD,
    ArbstrProcess,
    arbstr_process,
    chat_body,
    wait_until,
    write_config,
)

CONFIG: Final = """
[[providers]]
name = "alpha"
url = "{alpha}"
models = ["*"]
input_rate = 0
output_rate = 0
base_fee = 1
[[providers]]
name = "beta"
url = "{beta}"
models = ["*"]
input_rate = 0
output_rate = 0
base_fee = 100
[retry]
max_retries = 0
[breaker]
failures = 1000
"""
"""alpha refuses with a 503, which is free, and beta does what the model's name says."""

LEFT: Final = """
[budget]
sats_per_day = 150
[[providers]]
name = "alpha"
url = "{url}"
kind = "routstr"
api_key = "sk-test-0123456789abcdef"
models = ["*"]
input_rate = 0
output_rate = 0
base_fee = 1
"""
"""A node, whose answers are read on when their clients have left."""

BUDGET: Final = "[budget]\nsats_per_day = 150\n"

CLIENTS: Final = 6


@final
class Load:
    """Clients that ask one thing after another, each on a new connection, until nobody answers."""

    def __init__(self, arbstr: ArbstrProcess, seed: int) -> None:
        self._arbstr = arbstr
        self.seed = seed
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self.answered: set[str] = set()
        """The ids of requests whose answer came whole."""

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
        dice = random.Random(self.seed * 100 + n)
        with suppress(OSError):
            while True:
                # One of them waits for an answer that never comes: there is always one in flight.
                kind = dice.choice(("", "", "fake-503", "fake-cut")) if n else "fake-hang"
                # A model of its own, so that the request is known again at the provider.
                model = kind or f"model-{self.seed}-{next(self._numbers)}"
                self._chat(model, stream=dice.random() < 0.5)

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
        # Whoever is refused (the same again of a broken one) was dispatched nowhere: such a row may
        # be lost with what was still to be written.
        answered = answer.startswith(b"HTTP/1.1 200 ") and answer.rstrip().endswith((b"}", b"0"))
        if request_id and answered:
            with self._lock:
                self.answered.add(request_id)


def lives(directory: Path, fake: FakeProcess, seeds: Sequence[int]) -> None:
    """One process after another on one ledger, each killed; the last one only looks."""
    config = CONFIG.format(alpha=fake.url_of("fake-503"), beta=fake.url)
    left: dict[str, str] = {}
    answered: set[str] = set()
    kills = 0
    for seed in seeds:
        with arbstr_process(config_text=config, directory=directory) as arbstr:
            look_back(arbstr, fake, left, answered, kills)
            load = Load(arbstr, seed)
            left = killed_under_load(arbstr, load)
            answered |= load.answered
            kills += 1
    with arbstr_process(config_text=config, directory=directory) as arbstr:
        look_back(arbstr, fake, left, answered, kills)
        assert arbstr.stop() == 0
    assert answered
    assert not list(directory.glob("arbstr.db.intents*"))
    sums_agree(arbstr.database)


def killed_under_load(arbstr: ArbstrProcess, load: Load) -> dict[str, str]:
    """Kills it at some moment; returns the status of each request whose row it left."""
    with load.running():
        wait_until(lambda: bool(load.answered), "an answer")
        time.sleep(random.Random(load.seed).uniform(0, 0.5))
        assert arbstr.stop(SIGKILL) == -SIGKILL
    with closing(sqlite3.connect(arbstr.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(connection.execute("SELECT correlation_id, status FROM requests"))


def look_back(
    arbstr: ArbstrProcess,
    fake: FakeProcess,
    left: Mapping[str, str],
    answered: Set[str],
    kills: int,
) -> None:
    """Nothing that was finished is forgotten, and nothing a provider saw."""
    rows = {row["correlation_id"]: row["status"] for row in arbstr.rows()}
    assert answered <= rows.keys()
    # Between the last byte of an answer and its end there is a moment: one of each client's.
    assert sum(rows[each] == "abandoned" for each in answered) <= kills * CLIENTS
    assert "in_flight" not in rows.values()
    for request_id, status in left.items():
        assert rows[request_id] == status or status == "in_flight"
    recorded = Counter((row["provider"], row["model"]) for row in arbstr.attempts())
    seen = Counter((provider_of(each), each.json["model"]) for each in fake.requests())
    assert seen <= recorded
    spent = {row["correlation_id"] for row in arbstr.attempts() if row["money"] == "unknown"}
    abandoned = {row["correlation_id"]: row for row in arbstr.rows() if not row["success"]}
    for request_id in spent:
        assert abandoned[request_id]["possibly_spent"] == 1


def provider_of(request: Request) -> str:
    return "alpha" if request.path.startswith("/fake-503") else "beta"


def sums_agree(path: Path) -> None:
    """The sums by the hour are those of the rows."""
    sums = "sum(requests), sum(unknown_cost), sum(cost_nanosats), sum(latency_ms)"
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {sums} FROM request_measures").fetchone()
        hours = connection.execute(f"SELECT {sums} FROM request_hours").fetchone()
    assert rows == hours


def test_nothing_dispatched_is_forgotten_by_four_kills_under_load(tmp_path: Path) -> None:
    with fake_process() as fake:
        lives(tmp_path, fake, range(4))


@pytest.mark.soak
def test_nothing_dispatched_is_forgotten_by_a_hundred_kills_under_load(tmp_path: Path) -> None:
    with fake_process() as fake:
        lives(tmp_path, fake, range(100, 200))


def test_a_second_attempt_that_was_under_way_is_there_and_counts_in_the_budget(
    tmp_path: Path,
) -> None:
    with fake_process() as fake:
        config = BUDGET + CONFIG.format(alpha=fake.url_of("fake-503"), beta=fake.url)
        with (
            arbstr_process(config_text=config, directory=tmp_path) as arbstr,
            closing(arbstr.send_chat("fake-hang")),
        ):
            fake.wait(requests=2)
            assert arbstr.stop(SIGKILL) == -SIGKILL
        with arbstr_process(config_text=config, directory=tmp_path) as arbstr:
            refused, free = arbstr.chat("gpt-4o"), arbstr.ask("GET", "/health")
            assert arbstr.stop() == 0
    assert free.status_code == 200
    assert refused.status_code == 402
    assert "Of the 150 sats of today, 100 are spent" in refused.json()["error"]["message"]
    killed, _ = arbstr.rows()
    assert (killed["status"], killed["attempts"], killed["possibly_spent"]) == ("abandoned", 2, 1)
    assert (killed["provider"], killed["estimated_cost_sats"]) == ("beta", 100)
    first, second, *_ = arbstr.attempts()
    assert (first["provider"], first["failure"], first["money"]) == (
        "alpha",
        "server_error",
        "free",
    )
    assert (second["provider"], second["failure"], second["money"]) == (
        "beta",
        "shutdown",
        "unknown",
    )
    assert second["estimated_cost_sats"] == 100


def test_an_answer_that_was_delivered_just_before_the_kill_has_its_row(tmp_path: Path) -> None:
    with fake_process() as fake:
        config = CONFIG.format(alpha=fake.url_of("fake-503"), beta=fake.url)
        with arbstr_process(config_text=config, directory=tmp_path) as arbstr:
            reply = arbstr.chat("gpt-4o")
            wait_until(lambda: is_over(tmp_path), "its end")
            assert arbstr.stop(SIGKILL) == -SIGKILL
        with arbstr_process(config_text=config, directory=tmp_path) as arbstr:
            (row,) = arbstr.rows()
            assert arbstr.stop() == 0
    assert reply.status_code == 200
    assert row["correlation_id"] == reply.headers["x-arbstr-request-id"]
    assert (row["status"], row["cost_sats"], row["attempts"]) == ("ok", 100, 2)


def test_of_a_joined_answer_the_one_that_pays_is_abandoned_and_no_row_stays_in_flight(
    tmp_path: Path,
) -> None:
    with fake_process() as fake:
        config = LEFT.format(url=fake.url)
        with arbstr_process(config_text=config, directory=tmp_path) as arbstr:
            with arbstr.open_chat("fake-stall") as first:
                words(first)
            with arbstr.open_chat("fake-stall") as joined:
                # It has all that there is of the answer, and waits with it.
                assert joined.headers["x-arbstr-joined"] == first.headers["x-arbstr-request-id"]
                waiting = words(joined)
                # A reload that turns it off takes nothing from who has joined, and nobody joins.
                write_config(tmp_path, config + "[retry]\nrepeat_guard = 0\n")
                arbstr.send_signal(SIGHUP)
                arbstr.wait_stderr("SIGHUP: the configuration was read again")
                with arbstr.open_chat("fake-stall") as second:
                    waiting_too = words(second)
                    assert "x-arbstr-joined" not in second.headers
                    assert arbstr.stop(SIGKILL) == -SIGKILL
                    for rest in (waiting, waiting_too):
                        with pytest.raises(httpx.TransportError):
                            next(rest)
        with arbstr_process(config_text=config, directory=tmp_path) as arbstr:
            budget = arbstr.ask("GET", "/health").json()["budget"]
            assert arbstr.stop() == 0
        assert chats_of(fake) == 2
    paid = {each.headers["x-arbstr-request-id"] for each in (first, second)}
    rows = arbstr.rows()
    assert {row["correlation_id"] for row in rows} == paid
    assert [(row["status"], row["possibly_spent"]) for row in rows] == [("abandoned", 1)] * 2
    assert [row["money"] for row in arbstr.attempts()] == ["unknown"] * 2
    assert (budget["spent"], budget["set_aside"]) == (2, 0)


@pytest.mark.parametrize("signal", [SIGKILL, SIGTERM])
@pytest.mark.parametrize("model", ["fake-hang", "fake-stall", "fake-cut"])
def test_whenever_a_process_ends_while_somebody_asks_again_nothing_stays_in_flight(
    tmp_path: Path, model: str, signal: Signals
) -> None:
    """Before the head, in the middle, and after an answer broke, which is refused."""
    config = "[server]\nshutdown_seconds = 0.2\n"
    with fake_process() as fake:
        config += LEFT.format(url=fake.url)
        with arbstr_process(config_text=config, directory=tmp_path) as arbstr:
            with closing(arbstr.send_chat(model, stream=True)) as first:
                # Not any request: a node is asked what it is, too, and a chat that its client left
                # before it was on its way is an attempt, but nothing that the node read.
                wait_until(lambda: chats_of(fake) == 1, "the chat at the node")
                while model != "fake-hang" and b"Hello" not in first.recv(65536):
                    pass
                if model == "fake-cut":
                    while first.recv(65536):
                        pass
            # Answered after the first has left, so that is known: who asks before is no repeat, and
            # the end may come while the attempt of its own is on its way.
            assert arbstr.ask("GET", "/health").status_code == 200
            with closing(arbstr.send_chat(model, stream=True)) as again:
                if model != "fake-hang":
                    assert again.recv(65536)
                arbstr.stop(signal)
        with arbstr_process(config_text=config, directory=tmp_path) as arbstr:
            budget = arbstr.ask("GET", "/health").json()["budget"]
            assert arbstr.stop() == 0
        chats = chats_of(fake)
    assert "in_flight" not in {row["status"] for row in arbstr.rows()}
    # One for each that the node read, whatever it cost; and what may have cost is counted.
    assert len(arbstr.attempts()) == chats
    assert sum(row["possibly_spent"] for row in arbstr.rows()) == chats
    assert (budget["spent"], budget["set_aside"]) == (chats, 0)
    assert not list(tmp_path.glob("arbstr.db.intents*"))


def chats_of(fake: FakeProcess) -> int:
    """How many chats the node has read."""
    return sum(each.method == "POST" for each in fake.requests())


def words(response: httpx.Response) -> Iterator[bytes]:
    """Reads until the answer has begun; who lets go of the rest has left."""
    rest, text = response.iter_raw(), b""
    while b"Hello" not in text:
        text += next(rest)
    return rest


def is_over(directory: Path) -> bool:
    """Whether the end of a request is noted, or its row was written, which empties the file."""
    return all(
        b'["intent",' not in noted or b'["record",' in noted
        for noted in (path.read_bytes() for path in directory.glob("arbstr.db.intents*"))
    )


def test_of_two_on_one_ledger_the_killed_ones_requests_are_found_and_the_others_are_let_be(
    tmp_path: Path,
) -> None:
    with fake_process() as fake:
        config = CONFIG.format(alpha=fake.url_of("fake-503"), beta=fake.url)
        with arbstr_process(config_text=config, directory=tmp_path) as living:
            with closing(living.send_chat("fake-hang")):
                fake.wait(requests=2)
                living.wait_rows(status="in_flight")
                with (
                    arbstr_process(config_text=config, directory=tmp_path) as killed,
                    closing(killed.send_chat("fake-endless")),
                ):
                    fake.wait(requests=4)
                    assert killed.stop(SIGKILL) == -SIGKILL
                with arbstr_process(config_text=config, directory=tmp_path) as third:
                    statuses = {row["model"]: row["status"] for row in third.rows()}
                    assert statuses == {"fake-hang": "in_flight", "fake-endless": "abandoned"}
                    assert third.stop() == 0
            assert living.stop() == 0
    assert not list(tmp_path.glob("arbstr.db.intents*"))

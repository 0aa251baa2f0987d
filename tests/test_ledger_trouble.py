"""A ledger in trouble for long, under load; and one that has become read-only.

`test_troubled_ledger.py` has the short troubles. Here the soak tests have each for half a minute at
50 requests a second, and then more than the queue can hold.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from tests.fakes import fake_process, open_fake_provider
from tests.process import ArbstrProcess, arbstr_process, wait_until
from tests.proxy import PATIENCE, config, open_proxy, provider, rows
from tests.test_troubled_ledger import CONFIG, full, locked, log_counters, settled

TROUBLED: Final = "the request log cannot be written"
SECONDS: Final = 30
PER_SECOND: Final = 50
CAPACITY: Final = 10_000
"""Of the log writer's queue."""


@pytest.fixture
def arbstr(tmp_path: Path) -> Iterator[ArbstrProcess]:
    """A process whose ledger lies in a directory of its own."""
    (tmp_path / "ledger").mkdir()
    with fake_process() as fake:
        config = CONFIG.format(url=fake.url)
        quiet = ("--log-level", "warning")
        with arbstr_process(config_text=config, directory=tmp_path, arguments=quiet) as process:
            process.database = tmp_path / "ledger" / "arbstr.db"
            yield process


@contextmanager
def read_only(process: ArbstrProcess) -> Iterator[None]:
    """Nothing can be written where the ledger lies: not by root either, if we are root."""
    directory = process.database.parent
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    if os.geteuid() != 0:
        original = directory.with_name("original")
        directory.rename(original)
        copy.rename(directory)
        for path in (*directory.iterdir(), directory):
            path.chmod(0o555)
        yield
        directory.chmod(0o755)
        shutil.rmtree(directory)
        original.rename(directory)
        return
    # Read-only before it is put there, as what somebody writes just then could not become so.
    if subprocess.run(["mount", "--bind", copy, copy], check=False).returncode:
        pytest.skip("root may not mount here, and nothing else stops root from writing")
    with ExitStack() as mounted:
        mounted.callback(shutil.rmtree, copy)
        mounted.callback(unmount, copy)
        subprocess.run(["mount", "-o", "remount,bind,ro", copy], check=True)
        subprocess.run(["mount", "--bind", copy, directory], check=True)
        mounted.callback(unmount, directory)
        yield


def unmount(directory: Path) -> None:
    subprocess.run(["umount", "--lazy", directory], check=True)


def test_chats_are_answered_where_nothing_can_be_written_and_their_rows_come_after(
    arbstr: ArbstrProcess,
) -> None:
    first = arbstr.chat("fake-ok")
    arbstr.wait_final(first.headers["x-arbstr-request-id"])
    with read_only(arbstr):
        replies = [arbstr.chat("fake-ok", stream=stream) for stream in (False, True)]
        arbstr.wait_stderr(TROUBLED)
        # Of a request its first record may be in the writer's hand when the last one comes.
        counters = settled(arbstr, queued=2)
        # What was written before can still be asked for.
        stats = arbstr.ask("GET", "/v1/stats").json()
    assert [reply.status_code for reply in replies] == [200, 200]
    assert counters["dropped"] == 0
    assert stats["counts"]["total"] == 1
    for reply in replies:
        assert arbstr.wait_final(reply.headers["x-arbstr-request-id"])["status"] == "ok"
    assert arbstr.stderr().count(TROUBLED) == 1


async def test_a_full_queue_answers_chats_too_and_prints_what_they_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    capacity, asked = 50, 200
    small = partial(open_log_writer, capacity=capacity, backoff=0.01, backoff_limit=0.01)
    monkeypatch.setattr("tests.proxy.open_log_writer", small)
    path = tmp_path / "arbstr.db"
    paid: set[str] = set()

    async def ask() -> None:
        reply = await proxy.chat()
        assert reply.status == 200
        paid.add(reply.headers["x-arbstr-request-id"])

    async def counters() -> Mapping[str, int]:
        found: Mapping[str, int] = (await proxy.get("/health")).json["log"]
        return found

    async with (
        open_fake_provider() as fake,
        open_proxy(config(provider("alpha", fake.url)), database=path) as proxy,
    ):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                for _ in range(asked):
                    nursery.start_soon(ask)
            await proxy.wait_idle()
            locked_out = await counters()
        with trio.fail_after(PATIENCE):
            while (afterwards := await counters())["queued"]:  # noqa: ASYNC110
                await trio.sleep(0.001)
    assert locked_out["written"] == 0
    assert locked_out["queued"] <= capacity
    assert locked_out["dropped"] >= asked - capacity
    assert afterwards["dropped"] == locked_out["dropped"]
    # Less if the first record of a request was under way when its last one came.
    assert afterwards["written"] <= locked_out["queued"]
    stored = {row["correlation_id"] for row in rows(path) if row["status"] == "ok"}
    printed = {
        json.loads(message.removeprefix("row dropped: "))["correlation_id"]
        for message in caplog.messages
        if message.startswith("row dropped: ")
    }
    assert stored | printed == paid
    assert not stored & printed
    assert len(stored) <= afterwards["written"]
    assert len(paid) == asked


Trouble = Callable[[ArbstrProcess], AbstractContextManager[None]]


def ask_steadily(arbstr: ArbstrProcess, seconds: float) -> list[float]:
    """`PER_SECOND` chats a second; all are answered. Returns how long each took, in ms, sorted."""

    def ask(due: float) -> float:
        time.sleep(max(0.0, due - time.monotonic()))
        begin = time.monotonic()
        assert arbstr.chat("fake-ok").status_code == 200
        return (time.monotonic() - begin) * 1000

    start = time.monotonic()
    dues = [start + n / PER_SECOND for n in range(int(seconds * PER_SECOND))]
    with ThreadPoolExecutor(16) as pool:
        return sorted(pool.map(ask, dues))


def p99(ordered: list[float]) -> float:
    return ordered[len(ordered) * 99 // 100]


@pytest.mark.soak
@pytest.mark.parametrize("trouble", [locked, full, read_only])
def test_a_long_trouble_delays_no_chat_and_loses_no_row(
    trouble: Trouble, arbstr: ArbstrProcess
) -> None:
    untroubled = ask_steadily(arbstr, SECONDS)
    with trouble(arbstr):
        troubled = ask_steadily(arbstr, SECONDS)
    count = len(untroubled) + len(troubled)
    wait_until(lambda: len(arbstr.rows()) == count, "all rows")
    wait_until(lambda: log_counters(arbstr)["queued"] == 0, "an empty queue")
    counters = log_counters(arbstr)
    assert counters["dropped"] == 0
    # One record or two of each, depending on whether the first was still in the queue.
    assert count <= counters["written"] <= 2 * count
    print(f"p99 {p99(troubled):.1f} ms; without trouble {p99(untroubled):.1f} ms")
    assert p99(troubled) <= 3 * p99(untroubled) + 100
    assert {row["status"] for row in arbstr.rows()} == {"ok"}
    assert arbstr.stderr().count(TROUBLED) == 1


@pytest.mark.soak
def test_what_the_queue_cannot_hold_is_counted_and_what_was_paid_is_printed(
    arbstr: ArbstrProcess,
) -> None:
    asked = CAPACITY + 1000
    lock = threading.Lock()
    paid: set[str] = set()

    def ask(n: int) -> None:
        reply = arbstr.chat("fake-ok" if n % 20 else "nobody's")
        if reply.status_code == 200:
            with lock:
                paid.add(reply.headers["x-arbstr-request-id"])

    with locked(arbstr):
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(asked)))
        counters = log_counters(arbstr)
        assert counters["queued"] <= CAPACITY
        assert counters["dropped"] >= asked - CAPACITY
    wait_until(lambda: log_counters(arbstr)["queued"] == 0, "an empty queue")
    stored = {row["correlation_id"]: row["status"] for row in arbstr.rows()}
    printed: list[Any] = [
        json.loads(line.partition("row dropped: ")[2])
        for line in arbstr.stderr().splitlines()
        if "row dropped: " in line
    ]
    printed_ids = {row["correlation_id"] for row in printed}
    assert paid <= stored.keys() | printed_ids
    assert not printed_ids & stored.keys()
    lost = asked - len(stored)
    assert lost >= asked - CAPACITY
    assert log_counters(arbstr)["dropped"] >= lost  # rows in flight count as well
    # What cost nothing went first, and without a word.
    assert lost - asked // 20 <= len(printed) < lost
    assert {row["status"] for row in printed} == {"ok"}

"""`arbstr watch` and an arbstr that runs: what is asked and shown, and how the terminal is left.

The terminal is a pty, the arbstr is in this process; only how a process ends needs one of its own.
"""

import os
import pty
import select
import signal
import socket
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio

from arbstr.cli.cells import Line, plain
from arbstr.cli.routes import Routes
from arbstr.cli.watch.command import Watcher, after
from arbstr.cli.watch.model import Model
from arbstr.cli.watch.reader import Reader, Wanted
from arbstr.cli.watch.screen import screen
from arbstr.cli.watch.terminal import NoTerminal, Terminal
from arbstr.cli.watch.view import View
from arbstr.sansio.config.reader import Config, parse_config
from arbstr.trio_runtime.upstream.transport import Transport
from tests.fakes import completion, error_answer, json_answer, open_fake_provider
from tests.process import ONE, PATIENCE, clean_environ, ended, is_stopped, wait_until, write_config
from tests.process import begin as begin_process
from tests.proxy import ONE_TRY, Proxy, config, open_proxy, provider
from tests.zygote import Process, begin

GIVEN_BACK: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
"""Colours, wrapping, the cursor, the screen that was there."""


def looking_at(port: int, more: str = "") -> Config:
    text = f'[server]\nlisten = "127.0.0.1:{port}"\n{more}'
    return parse_config(config(provider("alpha", "http://127.0.0.1:9"), more=text), {})


class Heard:
    """The paths that were asked for."""

    def __init__(self, routes: Routes) -> None:
        self.paths: list[str] = []
        self.silent = False
        get = routes.get

        async def told(path: str) -> object:
            self.paths.append(path.partition("?")[0])
            return "is not there" if self.silent else await get(path)

        routes.get = told  # type: ignore[method-assign, assignment]  # Routes has no slots

    def taken(self) -> list[str]:
        paths, self.paths = self.paths, []
        return paths


# -- what is asked


async def test_an_arbstr_in_which_nothing_happens_is_asked_one_small_question(
    tmp_path: Path,
) -> None:
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url)), database=tmp_path / "a.db") as proxy,
        Transport() as transport,
    ):
        routes = Routes(transport, looking_at(proxy.port))
        heard, reader = Heard(routes), Reader(routes)
        model, wanted = Model(routes.where, 0), Wanted(10)
        now = moment()
        model = after(model, await reader.look(wanted, now), now)
        assert heard.taken() == ["/health", "/providers", "/stats", "/requests", "/stats"]
        assert (model.trouble, model.rows) == (None, ())
        model = after(model, await reader.look(wanted, now), now)
        assert heard.taken() == ["/health"]
        await proxy.chat()
        await written(proxy)
        model = after(model, await reader.look(wanted, now + 1000), now + 1000)
        assert heard.taken() == ["/health", "/stats", "/requests"]
        assert [(row.provider, row.status) for row in model.rows] == [("alpha", "ok")]
        assert model.day is not None
        assert model.day.requests == 1
        assert model.minute == model.day.spent > 0
        model = after(model, await reader.look(Wanted(10, failures=True), now), now)
        assert (model.rows, model.total) == ((), 0)
        assert Wanted(10, unknown=True).query().endswith("&unknown_cost=true")
        model = after(model, await reader.look(Wanted(10, unknown=True), now), now)
        assert (model.rows, model.total) == ((), 0)
        wanted = Wanted(10, provider="alpha", model="gpt-4o")
        model = after(model, await reader.look(wanted, now), now)
        assert len(model.rows) == 1
        wanted = replace(wanted, detail=model.rows[0].id)
        model = after(model, await reader.look(wanted, now), now)
        assert model.detail is not None
        assert [one["provider"] for one in model.detail["attempts"]] == ["alpha"]
        gone = await reader.look(Wanted(10, detail="no-such-request"), now)
        assert after(model, gone, now).trouble is None


async def test_one_that_runs_for_long_is_seen_though_many_came_after_it(tmp_path: Path) -> None:
    gate = trio.Event()
    slow = json_answer(completion(), before=[gate])
    async with (
        open_fake_provider([slow, json_answer(completion())]) as fake,
        open_proxy(config(provider("alpha", fake.url)), database=tmp_path / "a.db") as proxy,
        Transport() as transport,
        proxy.asking(),
    ):
        await fake.wait_requests(1)
        for _ in range(3):
            await proxy.chat()
        await written(proxy)
        routes = Routes(transport, looking_at(proxy.port))
        now = moment()
        seen = await Reader(routes).look(Wanted(1), now)
        model = after(Model(routes.where, 0), seen, now)
        assert [row.status for row in model.rows] == ["ok"]
        assert [row.status for row in model.running] == ["in_flight"]
        gate.set()


async def test_rests_circuits_and_what_was_settled_are_in_one_answer_from_memory() -> None:
    refused = error_answer(402, "Insufficient balance")
    async with (
        open_fake_provider(refused) as fake,
        open_proxy(config(provider("alpha", fake.url), more=ONE_TRY)) as proxy,
    ):
        await proxy.chat()
        health = (await proxy.get("/health")).json
        shown = health["providers"]["alpha"]
        assert (shown["state"], shown["resting_for"]) == ("closed", "balance")
        assert shown["resting_until"] > health["started_at"]
        assert health["settled"] == 0


@pytest.mark.parametrize("token", [None, "a-token-of-this-test"])
async def test_a_token_is_sent_and_its_lack_is_told(token: str | None, tmp_path: Path) -> None:
    server = '[server]\nauth_token = "a-token-of-this-test"\n'
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(
            config(provider("alpha", fake.url), more=server), database=tmp_path / "a.db"
        ) as proxy,
        Transport() as transport,
    ):
        more = "" if token is None else f'auth_token = "{token}"\n'
        seen = await Reader(Routes(transport, looking_at(proxy.port, more))).look(Wanted(1), 0)
    if token is None:
        assert seen == "wants [server] auth_token; set its variable here, too"
    else:
        assert not isinstance(seen, str)


async def test_after_a_silence_all_is_asked_again(tmp_path: Path) -> None:
    """Another may answer then, with another ledger."""
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url)), database=tmp_path / "a.db") as proxy,
        Transport() as transport,
    ):
        routes = Routes(transport, looking_at(proxy.port))
        heard, reader = Heard(routes), Reader(routes)
        await reader.look(Wanted(1), 0)
        heard.silent = True
        assert await reader.look(Wanted(1), 0) == "is not there"
        heard.silent = False
        heard.taken()
        await reader.look(Wanted(1), 0)
        assert heard.taken() == ["/health", "/providers", "/stats", "/requests", "/stats"]


async def test_without_its_ledger_it_is_seen_all_the_same() -> None:
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,  # which has none
        Transport() as transport,
    ):
        routes = Routes(transport, looking_at(proxy.port))
        seen = await Reader(routes).look(Wanted(1), 0)
        model = after(Model(routes.where, 0), seen, 0)
    assert [each.name for each in model.providers] == ["alpha"]
    text = plain(screen(model, View(), 80, 24))
    assert "its ledger cannot be asked: it answered status 503 at /stats" in text


async def test_one_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    async with Transport() as transport:
        silent = await Reader(Routes(transport, looking_at(port))).look(Wanted(1), 0)
    assert isinstance(silent, str)
    assert silent.startswith("could not be reached")


def moment() -> int:
    return int(time.time() * 1000) + 1


async def written(proxy: Proxy) -> None:
    with trio.fail_after(PATIENCE):
        await proxy.hub.log_writer.caught_up()


# -- the terminal


class Pty:
    """A terminal: what a program opens, and what somebody before it sees and types."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (24, 80))
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def look(self) -> bytes:
        """What was written since; waits for some of it."""
        ready, _, _ = select.select([self.master], [], [], PATIENCE)
        assert ready, self.seen
        self.seen += os.read(self.master, 65536)
        return self.seen

    def wait(self, text: bytes) -> None:
        """Until somebody reads this; blocks."""
        while text not in self.seen:
            self.look()

    async def wait_shown(self, text: bytes) -> None:
        """The same, while tasks of this process write."""
        with trio.fail_after(PATIENCE):
            while text not in self.seen:
                await trio.lowlevel.wait_readable(self.master)
                self.look()

    @property
    def is_given_back(self) -> bool:
        """Whether its modes are as before, and the screen that was there."""
        while select.select([self.master], [], [], 0)[0]:
            self.look()
        modes = termios.tcgetattr(self.slave)
        return modes == self.before and self.seen.endswith(GIVEN_BACK)

    @property
    def is_taken(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ECHO


@pytest.fixture
def terminal() -> Iterator[Pty]:
    found = Pty()
    yield found
    os.close(found.master)
    os.close(found.slave)


@contextmanager
def stdio(terminal: Pty, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard input and output are this terminal."""
    with (
        monkeypatch.context() as patch,
        open(terminal.slave, closefd=False) as reading,
        open(terminal.slave, "w", closefd=False) as writing,
    ):
        patch.setattr(sys, "stdin", reading)
        patch.setattr(sys, "stdout", writing)
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR", raising=False)
        yield


@asynccontextmanager
async def watching(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch, settled: Config
) -> AsyncIterator[trio.Event]:
    """`arbstr watch` in this process; the event is set when it has left."""
    left = trio.Event()

    async def watch() -> None:
        with Terminal.open() as taken:
            async with Transport() as transport:
                watcher = Watcher(Routes(transport, settled), taken)
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(watcher.keep_asking)
                    tasks.start_soon(watcher.keep_reading)
                    assert await watcher.wait_left() == 0
                    tasks.cancel_scope.cancel()
        left.set()

    with stdio(terminal, monkeypatch):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            yield left
            nursery.cancel_scope.cancel()


async def test_somebody_looks_filters_and_leaves(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with (
        open_fake_provider([json_answer(completion()), error_answer(400, "no \x1b[31m")]) as fake,
        open_proxy(config(provider("alpha", fake.url)), database=tmp_path / "a.db") as proxy,
    ):
        await proxy.chat()
        await proxy.chat()
        await written(proxy)
        ledger = (tmp_path / "a.db").read_bytes(), (tmp_path / "a.db-wal").read_bytes()
        async with watching(terminal, monkeypatch, looking_at(proxy.port)) as left:
            await terminal.wait_shown(b"2 requests")
            await terminal.wait_shown(b"failed: ")
            assert terminal.is_taken
            terminal.type(b"f")
            await terminal.wait_shown(b"only failures")
            terminal.type(b"\x1b[B\r")
            await terminal.wait_shown(b"attempt 1 ")
            terminal.type(b"\x1b")
            terminal.seen = b""
            await terminal.wait_shown(b"only failures")
            terminal.type(b"?")
            await terminal.wait_shown(b"these keys")
            terminal.type(b"q")
            with trio.fail_after(PATIENCE):
                await left.wait()
            assert terminal.is_given_back
            assert b'\x1b[31m"' not in terminal.seen
        # Nothing was written for it.
        assert ledger == ((tmp_path / "a.db").read_bytes(), (tmp_path / "a.db-wal").read_bytes())


async def test_a_terminal_that_changes_its_size_is_drawn_anew(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(terminal, monkeypatch, looking_at(9)):
        await terminal.wait_shown(b"\x1b[24;1H")
        termios.tcsetwinsize(terminal.slave, (30, 100))
        terminal.type(b"x")
        await terminal.wait_shown(b"\x1b[30;1H")


async def test_what_did_not_change_is_not_written_again(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stdio(terminal, monkeypatch), Terminal.open() as taken:
        lines: list[Line] = [(("one", "red"),), (("two", ""),), (("three", ""),)]
        await taken.show(lines)
        await terminal.wait_shown(b"three")
        assert b"\x1b[31mone\x1b[0m" in terminal.seen
        terminal.seen = b""
        await taken.show([lines[0], (("2", ""),)])
        await terminal.wait_shown(b"\x1b[3;1H\x1b[2K")
        assert terminal.seen == b"\x1b[2;1H\x1b[2K2\x1b[3;1H\x1b[2K"
        taken.redraw()
        terminal.seen = b""
        await taken.show(lines)
        await terminal.wait_shown(b"three")
        assert terminal.seen.startswith(b"\x1b[2J\x1b[1;1H")


def test_a_fault_of_ours_leaves_the_terminal_as_it_was(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with Terminal.open():
            assert terminal.is_taken
            raise RuntimeError

    with stdio(terminal, monkeypatch), pytest.raises(RuntimeError):
        fail()
    assert terminal.is_given_back


@pytest.mark.parametrize("term", ["dumb", ""])
def test_without_a_terminal_there_are_lines(
    term: str, terminal: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stdio(terminal, monkeypatch):
        monkeypatch.setenv("TERM", term)
        with pytest.raises(NoTerminal), Terminal.open():
            pass
    with pytest.raises(NoTerminal), Terminal.open():  # pytest's own standard input
        pass


async def test_no_color_is_heeded(terminal: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    with stdio(terminal, monkeypatch):
        monkeypatch.setenv("NO_COLOR", "1")
        with Terminal.open() as taken:
            await taken.show([(("one", "red"),)])
            await terminal.wait_shown(b"\x1b[2Kone")


# -- the process


CONFIG: Final = '[server]\nlisten = "127.0.0.1:9"\n' + ONE
"""Of an arbstr that is not there."""


def begin_watch(directory: Path, terminal: Pty) -> Process:
    write_config(directory, CONFIG)
    files = [terminal.slave] * 3
    environ = clean_environ({"TERM": "xterm"})
    return begin("arbstr", ["watch"], directory=directory, environ=environ, files=files)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back_and_is_the_exit_code(
    number: signal.Signals, terminal: Pty, tmp_path: Path
) -> None:
    process = begin_watch(tmp_path, terminal)
    terminal.wait(b"could not be reached")
    process.send_signal(number)
    assert ended(process) == 128 + number
    assert terminal.is_given_back


def test_stopped_and_continued_it_gives_the_terminal_back_and_takes_it_again(
    terminal: Pty, tmp_path: Path
) -> None:
    process = begin_watch(tmp_path, terminal)
    terminal.wait(b"could not be reached")
    process.send_signal(signal.SIGTSTP)
    terminal.wait(GIVEN_BACK)
    wait_until(lambda: termios.tcgetattr(terminal.slave) == terminal.before, "its modes")
    wait_until(lambda: is_stopped(process.pid), "its stop")
    terminal.seen = b""
    process.send_signal(signal.SIGCONT)
    terminal.wait(b"could not be reached")
    assert terminal.is_taken
    terminal.type(b"q")
    assert ended(process) == 0
    assert terminal.is_given_back


def test_in_a_pipe_it_prints_lines_until_nobody_reads_them(tmp_path: Path) -> None:
    write_config(tmp_path, CONFIG)
    reading, writing = os.pipe()
    process = begin_process(["watch"], tmp_path, stdout=writing, stderr=writing)
    os.close(writing)
    with open(reading, "rb") as lines:
        assert b"arbstr 127.0.0.1:9 could not be reached" in lines.readline()
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    process.kill()
    process.wait()

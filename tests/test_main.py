"""The whole process: mock mode, how it starts, and how it stops whatever is going on."""

import json
import os
import queue
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from arbstr.sansio.config.reader import Config, parse_config
from arbstr.sansio.failover import refusal, rests, retry
from arbstr.trio_runtime import main, relaying, stopping
from arbstr.trio_runtime.ledger.database import IN_MEMORY, open_database
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database
from arbstr.trio_runtime.mock.providers import MOCK_CONFIG
from arbstr.trio_runtime.server import connection
from arbstr.trio_runtime.server.server import Server
from tests.fakes import (
    SILENCE,
    Behaviour,
    FakeProvider,
    Request,
    Script,
    chunk,
    completion,
    endless,
    error_answer,
    hello,
    json_answer,
    open_fake_provider,
    sse,
    stream,
)
from tests.process import CHAT_HEAD, PATIENCE, ArbstrProcess, arbstr_process, chat_body, wait_until

ENDLESS = endless([sse(chunk("", role="assistant"))], sse(chunk(" tick")))


def config_of(fake: FakeProvider, server: str, retry: str, key: str) -> str:
    return f"""
[server]
{server}
[[providers]]
name = "alpha"
url = "{fake.url}"
api_key = "{key}"
models = ["gpt-4o"]
input_rate = 1
output_rate = 2
[retry]
{retry}
"""


@asynccontextmanager
async def proxy(
    script: Script, server: str = "", retry: str = "max_retries = 0", key: str = "sk-test"
) -> AsyncIterator[tuple[ArbstrProcess, FakeProvider, httpx.AsyncClient]]:
    """A process before a provider that does what the script says, and a client of it."""
    async with (
        open_fake_provider(script) as fake,
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client,
    ):
        with arbstr_process(config_text=config_of(fake, server, retry, key)) as process:
            yield process, fake, client


async def ended(process: ArbstrProcess) -> int:
    """Its exit code, while the fake provider goes on."""
    return await trio.to_thread.run_sync(process.wait)


async def signalled(process: ArbstrProcess, number: Signals, *, count: int = 1) -> None:
    """Signals it and waits until it has said so."""
    process.send_signal(number)
    said = f"{number.name}: no new requests"
    await trio.to_thread.run_sync(partial(process.wait_stderr, said, count=count))


def code_of(reply: httpx.Response) -> object:
    return reply.json()["error"]["code"]


def events(body: bytes) -> list[Any]:
    """The data of a stream's events, parsed; `[DONE]` as it is."""
    lines = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def broken_off(parts: AsyncIterator[bytes]) -> bytes:
    """The rest of a body, which ends with the connection and nothing else."""
    rest = b""
    try:
        async for part in parts:
            rest += part
    except httpx.RemoteProtocolError:
        return rest
    pytest.fail("the body ended as if it were whole")


# -- mock mode -----------------------------------------------------------------------------------


def test_mock_mode_needs_no_configuration_and_leaves_nothing_where_it_is_tried(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger.db"
    environ = {"DATABASE_URL": str(ledger)}
    with arbstr_process(arguments=["--mock"], environ=environ, directory=tmp_path) as process:
        assert "no network, no money. What it would have cost: " in process.stdout()
        plain = process.chat("gpt-4o-mini")
        streamed = process.chat("claude-3.5-sonnet", stream=True)
        models = [model["id"] for model in process.ask("GET", "/v1/models").json()["data"]]
        policy = process.chat(headers={"x-arbstr-policy": "code_generation"})
        assert process.stop() == 0
    assert (plain.status_code, plain.headers["x-arbstr-provider"]) == (200, "mock-cheap")
    assert events(streamed.content)[-1]["arbstr"]["provider"] == "mock-cheap"
    assert {"claude-3.5-sonnet", "gpt-4o", "gpt-4o-mini"} <= set(models)
    assert policy.headers["x-arbstr-policy"] == "code_generation"
    assert list(tmp_path.iterdir()) == []


def test_mock_mode_with_a_configuration_keeps_its_names_models_and_rates() -> None:
    config = """
[server]
auth_token = "let-me-in"
[[providers]]
name = "dear"
url = "https://far.example/v1"
api_key = "${A_KEY_THAT_IS_NOT_SET_HERE}"
proxy = "socks5://tor.example:9050"
models = ["one", "two"]
input_rate = 0.1
output_rate = 12.5
base_fee = 0.0003
[[providers]]
name = "broken"
url = "https://further.example/v1"
models = ["two"]
input_rate = 0
output_rate = 0
[retry]
max_retries = 1
backoff = 0
"""
    options = ["--mock", "-c", "config.toml", "--mock-fail", "broken", "--mock-delay", "0.2"]
    with arbstr_process(config_text=config, arguments=options) as process:
        token = {"authorization": "Bearer let-me-in"}
        assert process.chat("one").status_code == 401
        one = process.chat("one", headers=token, said="x" * 41)
        two = process.chat("two", headers=token)
    assert (one.status_code, one.headers["x-arbstr-provider"]) == (200, "dear")
    usage = one.json()["usage"]
    tokens = (usage["prompt_tokens"], usage["completion_tokens"])
    cost = tokens[0] * Decimal("0.1") / 1000 + tokens[1] * Decimal("12.5") / 1000
    assert Decimal(one.headers["x-arbstr-cost-sats"]) == cost + Decimal("0.0003")
    assert int(one.headers["x-arbstr-latency-ms"]) >= 200
    assert (two.status_code, two.headers["x-arbstr-provider"]) == (200, "dear")
    assert two.headers["x-arbstr-retries"] == "2/broken"
    assert process.rows() == []


# -- stopping ------------------------------------------------------------------------------------


async def test_sigterm_lets_a_stream_in_flight_finish_and_takes_nothing_new() -> None:
    gate = trio.Event()
    role, word, *rest = hello("Hello there")
    async with proxy(stream([role, word, gate, *rest])) as (process, _, client):
        url, body = f"{process.base_url}/chat/completions", chat_body(more={"stream": True})
        async with client.stream("POST", url, json=body) as reply:
            parts = reply.aiter_raw()
            received = [await anext(parts)]
            await signalled(process, SIGTERM)
            assert "for 1 in flight" in process.stderr()
            await trio.to_thread.run_sync(wait_until, partial(refuses, process.port), "refusal")
            gate.set()
            received += [part async for part in parts]
        assert await ended(process) == 0
    *_, usage_chunk, done, trailer = [None, *events(b"".join(received))]
    assert (done, trailer["choices"]) == ("[DONE]", [])
    assert usage_chunk["choices"][0]["finish_reason"] == "stop"
    (row,) = process.rows()
    assert (row["status"], row["success"], row["output_tokens"]) == ("ok", 1, 5)
    assert process.stderr().splitlines()[-1].endswith(" stopped")


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionError:
        return True
    return False


async def test_a_plain_request_that_waits_is_answered_after_ctrl_c() -> None:
    gate = trio.Event()
    async with (
        proxy(json_answer(completion("Hello"), before=[gate])) as (process, fake, client),
        trio.open_nursery() as nursery,
    ):
        replies: list[httpx.Response] = []

        async def ask() -> None:
            url = f"{process.base_url}/chat/completions"
            replies.append(await client.post(url, json=chat_body()))

        nursery.start_soon(ask)
        await fake.wait_requests()
        await signalled(process, SIGINT)
        gate.set()
        assert await ended(process) == 0
    (reply,) = replies
    assert (reply.status_code, reply.json()) == (200, completion("Hello"))
    assert [row["status"] for row in process.rows()] == ["ok"]


async def test_what_still_runs_after_shutdown_seconds_is_ended_honestly() -> None:
    def script(request: Request) -> Behaviour:
        if request.json.get("user") == "backoff":
            return error_answer(503)
        return ENDLESS if request.wants_stream else SILENCE

    replies: dict[str, httpx.Response] = {}
    streamed: list[bytes] = []
    async with (
        proxy(script, "shutdown_seconds = 0.1", "backoff = 1000") as (process, fake, client),
        trio.open_nursery() as nursery,
    ):

        async def ask(name: str, **more: object) -> None:
            url, body = (
                f"{process.base_url}/chat/completions",
                chat_body(more={"user": name, **more}),
            )
            async with client.stream("POST", url, json=body) as reply:
                replies[name] = reply
                if more:
                    streamed.append(await broken_off(reply.aiter_raw()))
                else:
                    await reply.aread()

        nursery.start_soon(partial(ask, "stream", stream=True))
        nursery.start_soon(ask, "plain")
        nursery.start_soon(ask, "backoff")
        await fake.wait_requests(3)
        await trio.to_thread.run_sync(process.wait_stderr, "(server_error)")
        process.send_signal(SIGTERM)
        assert await ended(process) == 0
    last = events(streamed[0])[-1]
    assert last["error"]["code"] == "stream_interrupted"
    assert "choices" not in last
    assert b"[DONE]" not in streamed[0]
    assert (replies["plain"].status_code, code_of(replies["plain"])) == (400, "possibly_spent")
    assert (replies["backoff"].status_code, code_of(replies["backoff"])) == (503, "shutting_down")
    rows = {row["correlation_id"]: row for row in process.rows()}
    row_of = {name: rows[reply.headers["x-arbstr-request-id"]] for name, reply in replies.items()}
    assert {name: (row["status"], row["error_status"]) for name, row in row_of.items()} == {
        "stream": ("stream_incomplete", 502),
        "plain": ("failed", 400),
        "backoff": ("failed", 503),
    }
    ends = {one["correlation_id"]: (one["failure"], one["money"]) for one in process.attempts()}
    assert {name: ends[row["correlation_id"]] for name, row in row_of.items()} == {
        "stream": ("shutdown", "unknown"),
        "plain": ("shutdown", "unknown"),
        "backoff": ("server_error", "free"),
    }


async def test_clients_that_neither_read_nor_write_do_not_hold_the_exit() -> None:
    # 40 MB: more than the sockets on the way can hold.
    pieces = [sse(chunk("x" * 1_000_000))] * 40
    async with proxy(stream([*pieces, *hello()]), "shutdown_seconds = 0.1") as (process, _, _):
        with ExitStack() as stack:
            reader = stack.enter_context(closing(process.send_chat(stream=True)))
            for sent in (CHAT_HEAD % 1000, CHAT_HEAD[:20], b""):
                stack.enter_context(closing(process.send(sent)))
            await trio.to_thread.run_sync(reader.recv, 1)  # its stream has begun
            process.send_signal(SIGTERM)
            assert await ended(process) == 0
    (row,) = process.rows()
    assert row["status"] == "client_disconnected"  # or took nothing, which is the same


async def test_idle_connections_are_closed_at_once() -> None:
    async with proxy(json_answer(completion()), "shutdown_seconds = 1000") as (process, _, client):
        reply = await client.post(f"{process.base_url}/chat/completions", json=chat_body())
        assert "connection" not in reply.headers  # the client keeps it
        process.send_signal(SIGTERM)
        assert await ended(process) == 0


async def test_a_connection_nobody_uses_is_closed_by_time() -> None:
    hasty = json_answer(completion(), headers=[("keep-alive", "timeout=2")])
    async with proxy(hasty, "") as (process, fake, client):
        await client.post(f"{process.base_url}/chat/completions", json=chat_body())
        await fake.wait_closed()
        assert fake.connections_open == 0


async def test_the_drain_of_a_departed_client_does_not_hold_the_exit() -> None:
    server = "shutdown_seconds = 1000"
    async with proxy(ENDLESS, server, key="cashuAdeposit") as (process, fake, _):
        with closing(process.send_chat(stream=True)) as client:
            await trio.to_thread.run_sync(client.recv, 1)
        assert fake.left == 0  # it is read on, because the node charges anyway
        process.send_signal(SIGTERM)
        assert await ended(process) == 0
        await fake.wait_left()
    assert [row["status"] for row in process.rows()] == ["client_disconnected"]


async def test_a_second_ctrl_c_ends_it_now_with_130_and_the_row_is_there() -> None:
    async with proxy(ENDLESS, "shutdown_seconds = 1000") as (process, _, client):
        url, body = f"{process.base_url}/chat/completions", chat_body(more={"stream": True})
        async with client.stream("POST", url, json=body) as reply:
            parts = reply.aiter_raw()
            await anext(parts)
            await signalled(process, SIGINT)
            process.send_signal(SIGINT)
            rest = events(await broken_off(parts))
        assert await ended(process) == 130
    assert rest[-1]["error"]["code"] == "stream_interrupted"
    assert [row["status"] for row in process.rows()] == ["stream_incomplete"]
    assert [one["failure"] for one in process.attempts()] == ["shutdown"]


# -- in this process -----------------------------------------------------------------------------


@pytest.fixture
def watchdogs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Seconds and exit code of each watchdog that was started; none of them bites."""
    started: list[tuple[float, int]] = []
    monkeypatch.setattr(stopping, "_start_watchdog", lambda *given: started.append(given))
    return started


def here() -> Config:
    config = parse_config(MOCK_CONFIG, {})
    server = replace(config.server, listen="127.0.0.1:0", shutdown_seconds=7.0)
    return replace(config, server=server)


@pytest.mark.parametrize(
    ("seconds", "promised"),
    [
        pytest.param(connection.STALL_SECONDS, 60, id="a client that takes nothing is cut"),
        pytest.param(stopping.WATCHDOG_SECONDS, 8, id="beyond shutdown_seconds the exit is forced"),
        pytest.param(relaying.AFTER_COMPLETE_SECONDS, 2, id="for usage and [DONE]"),
        pytest.param(retry.PROBE_WAIT, 5, id="for another request's probe"),
        pytest.param(rests.LONGEST_REST, 600, id="a provider rests"),
        pytest.param(refusal.MAX_REST_SECONDS, 600, id="Retry-After is believed"),
    ],
)
def test_waits_are_as_long_as_promised(seconds: float, promised: float) -> None:
    """Other tests take these from the code, so that they would follow a slip of the pen."""
    assert seconds == promised


def test_a_ctrl_c_while_the_database_opens_is_not_lost(
    watchdogs: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def interrupted(path: str, *, wait: bool) -> AsyncIterator[Database]:
        signal.raise_signal(SIGINT)
        async with open_database(path, wait=wait) as database:
            yield database

    monkeypatch.setattr(main, "open_database", interrupted)
    announced: list[str] = []
    assert main.run(here(), main.Options(IN_MEMORY), announced.append) == 0
    assert len(announced) == 1
    assert watchdogs == [(7.0 + stopping.WATCHDOG_SECONDS, 1)]


def test_each_signal_starts_a_watchdog_and_the_second_waits_for_nobody(
    watchdogs: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = main._serve

    async def never_finished(server: Server, _: trio.Event) -> None:
        await serve(server, trio.Event())

    def announce(_: str) -> None:
        signal.raise_signal(SIGINT)
        signal.raise_signal(SIGTERM)

    monkeypatch.setattr(main, "_serve", never_finished)
    assert main.run(here(), main.Options(IN_MEMORY), announce) == 130
    assert watchdogs == [(7.0 + stopping.WATCHDOG_SECONDS, 1), (stopping.HURRY_SECONDS, 130)]


def test_a_second_signal_counts_though_only_the_log_is_left_to_flush(
    watchdogs: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def interrupted(*given: Any) -> AsyncIterator[Any]:
        async with open_log_writer(*given) as log_writer:
            yield log_writer
            for number in (SIGINT, SIGTERM, SIGINT):
                signal.raise_signal(number)
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()

    monkeypatch.setattr(main, "open_log_writer", interrupted)
    ends = main.run(here(), main.Options(IN_MEMORY), lambda _: signal.raise_signal(SIGINT))
    assert ends == 130
    assert watchdogs == [(7.0 + stopping.WATCHDOG_SECONDS, 1), (stopping.HURRY_SECONDS, 130)]


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_a_signal_when_everything_is_closed_ends_the_process_with_130(
    number: Signals,
    watchdogs: list[tuple[float, int]],  # a real one would end the tests a while later
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    before = {each: signal.getsignal(each) for each in (SIGINT, SIGTERM)}
    try:
        stopping.leave_when_told_again()
        ends = main.run(here(), main.Options(IN_MEMORY), lambda _: signal.raise_signal(SIGINT))
        assert (ends, codes) == (0, [])
        signal.raise_signal(number)
        assert codes == [130]
        assert len(watchdogs) == 1
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_watchdog_ends_the_process_whatever_the_rest_of_it_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(os, "_exit", codes.put)
    stopping._start_watchdog(0.0, 5)
    assert codes.get(timeout=PATIENCE) == 5
    assert "giving up waiting" in caplog.text

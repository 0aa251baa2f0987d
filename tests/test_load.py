"""Many streams at once, clients that leave at any moment, and clients that stop reading.

What is counted is what must not depend on the moment: one final row for each request, nothing open
towards the providers, bounded memory. Who leaves when is drawn from a seed; the tests wait for
events and never for time. `pytest -m soak -o faulthandler_timeout=0` runs the
same with more of everything: some of it takes longer than a test that hangs is given.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, final

import pytest
import trio
import trio.lowlevel
import trio.testing

from arbstr.trio_runtime.server.client_socket import send_queue, unread_bytes
from arbstr.trio_runtime.server.connection import STALL_SECONDS
from tests.fakes import (
    DONE,
    ROLE,
    STOP,
    USAGE,
    Play,
    Request,
    Step,
    chunk,
    fake_process,
    hello,
    open_fake_provider,
    sse,
    stream,
)
from tests.process import arbstr_process
from tests.proxy import Client, Proxy, chat_body, config, open_proxy, provider, rows
from tests.waiting import until

CHAT: Final = "/v1/chat/completions"
MB: Final = 1024 * 1024
PATIENCE: Final = 300.0
"""Seconds a wait lasts before it fails the test; only a broken test ever comes near."""

WORDS: Final = [sse(chunk(f" word-{n}")) for n in range(12)]
END: Final = [STOP, USAGE, DONE]

TICK: Final = sse(chunk(" tick"))
"""What "fake-slow" says twenty times, a tenth of a second apart."""

NO_LIMITS: Final = """
[stream]
keepalive = 0
[retry]
max_retries = 0
[breaker]
failures = 1000
"""


# ---- clients that leave


@final
@dataclass(frozen=True)
class Visit:
    """One client: what its provider does, and after how many words it leaves (-1: while it still
    sends, None: never)."""

    model: str
    leaves_after: int | None
    number: int = 0

    @property
    def body(self) -> bytes:
        """What it asks; the same again from a client whose like has left would join that one."""
        said = [{"role": "user", "content": f"I am number {self.number}"}]
        return chat_body(model=self.model, stream=True, messages=said)


ENDINGS: Final = {"whole": "ok", "cut": "stream_incomplete", "reset": "stream_incomplete"}
"""Models of the provider, and what becomes of a request whose client stays."""


def visits(seed: int, count: int) -> list[Visit]:
    """`count` clients with a row, and a few that leave before they have sent their request."""
    draw = random.Random(seed)
    found = [
        Visit(draw.choice(list(ENDINGS)), draw.choice([None, draw.randrange(len(WORDS))]))
        for _ in range(count)
    ]
    found += [Visit("whole", -1)] * (count // 10)
    draw.shuffle(found)
    return [replace(one, number=number) for number, one in enumerate(found)]


async def visit(proxy: Proxy, one: Visit) -> bytes:
    """Returns what the client read."""
    body = one.body
    async with proxy.client() as client:
        if one.leaves_after == -1:
            await client._stream.send_all(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-length: %d\r\n\r\n" % len(body) + body[:-1]
            )
            return b""
        await client.send("POST", CHAT, body)
        if one.leaves_after is None:
            reply = await client.reply()
            assert (reply.status, reply.whole) == (200, one.model == "whole")
            return reply.body
        if one.leaves_after:
            assert (await client.head())[0] == 200
            return await client.until(WORDS[one.leaves_after - 1][:-3])
        return b""


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        (200, 1),
        (200, 2),
        pytest.param(500, 3, marks=pytest.mark.soak),
        pytest.param(2000, 4, marks=pytest.mark.soak),
    ],
)
async def test_every_request_has_one_final_row_whenever_its_client_leaves(
    count: int, seed: int, tmp_path: Path
) -> None:
    plan = visits(seed, count)
    stay = [one for one in plan if one.leaves_after is None]
    leave = [one for one in plan if one.leaves_after is not None and one.leaves_after >= 0]
    may_end = trio.Event()

    def play(request: Request) -> Play:
        events: list[Step] = [ROLE, *WORDS, may_end]
        match request.json["model"]:
            case "whole":
                return stream([*events, *END])
            case "cut":
                return stream(events, ending="fin")
            case _:
                return stream(events, ending="rst")

    database = tmp_path / "arbstr.db"
    models = '", "'.join(ENDINGS)
    read: dict[Visit, bytes] = {}
    async with open_fake_provider(play) as fake:
        async with open_proxy(
            config(provider("alpha", fake.url, models=models), more=NO_LIMITS), database=database
        ) as proxy:

            async def come(one: Visit) -> None:
                read[one] = await visit(proxy, one)

            async with trio.open_nursery() as nursery:
                for one in plan:
                    nursery.start_soon(come, one)
                await until(
                    lambda: len(proxy.hub.running) == len(stay) == len(fake.requests) - fake.left
                )
                # Some connections were given up before a request was sent on them; the provider may
                # see their end a little later.
                await fake.wait_open(len(stay))
                may_end.set()
            await proxy.wait_idle()
            idle = proxy.hub.transport.statistics().idle
            await fake.wait_open(idle)
            assert idle <= len(stay)
            await until(lambda: not proxy.server.connections)
        await fake.wait_open(0)
    for one in stay:
        assert (b"[DONE]" in read[one]) == (one.model == "whole")
        assert all(word in read[one] for word in WORDS)
    found = rows(database)
    expected = Counter(ENDINGS[one.model] for one in stay)
    expected["client_disconnected"] = len(leave)
    assert Counter(row["status"] for row in found) == expected
    assert len(found) == len({row["correlation_id"] for row in found}) == count
    attempts = rows(database, "attempts")
    assert {row["correlation_id"] for row in attempts} <= {row["correlation_id"] for row in found}
    assert all(row["duration_ms"] is not None for row in attempts)


@pytest.mark.parametrize("count", [200, pytest.param(500, marks=pytest.mark.soak)])
def test_the_same_with_a_whole_process(count: int) -> None:
    draw = random.Random(count)
    leave_after = [draw.choice([None, draw.randrange(10)]) for _ in range(count)]
    stay = leave_after.count(None)

    async def one(port: int, ticks: int | None) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
            client = Client(tcp, "localhost")
            await client.send("POST", CHAT, chat_body(model="fake-slow", stream=True))
            if ticks is None:
                assert (await client.reply()).body.count(b"[DONE]") == 1
            elif ticks:
                assert (await client.head())[0] == 200
                await client.until(TICK * ticks)

    async def crowd(port: int) -> None:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for ticks in leave_after:
                    nursery.start_soon(one, port, ticks)

    with (
        fake_process() as fake,
        arbstr_process(
            config_text=config(provider("alpha", fake.url, models="fake-slow"))
        ) as arbstr,
    ):
        trio.run(crowd, arbstr.port)
        arbstr.wait_rows(count - stay, status="client_disconnected")
        arbstr.wait_rows(stay, status="ok")
        assert arbstr.stop() == 0
        fake.wait(open=0)
        found = Counter(row["status"] for row in arbstr.rows())
    assert found == {"ok": stay, "client_disconnected": count - stay}


# ---- clients that stop reading


TORRENT_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
)


@final
class Torrent:
    """A provider that writes `total` bytes of events as fast as they are taken, to the model
    "torrent"; to any other it says hello."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.written = 0
        self.port = 0
        self.open = 0
        self.socket: trio.socket.SocketType | None = None
        self.event = sse(chunk("x" * 16_000))

    async def serve(self, tcp: trio.SocketStream) -> None:
        self.open += 1
        try:
            async with tcp:
                head = b""
                while b"\r\n\r\n" not in head or b'"messages"' not in head:
                    head += await tcp.receive_some(65_536)
                await tcp.send_all(TORRENT_HEAD)
                if b'"torrent"' in head:
                    self.socket = tcp.socket
                    await self._pour(tcp)
                for event in hello():
                    await tcp.send_all(event)
        except (OSError, trio.BrokenResourceError):
            pass  # the client has left
        finally:
            self.open -= 1

    async def _pour(self, tcp: trio.SocketStream) -> None:
        while self.written < self.total:
            view = memoryview(self.event * 4)
            while view:
                sent = await tcp.socket.send(view)
                self.written += sent
                view = view[sent:]


@asynccontextmanager
async def open_torrent(total: int) -> AsyncIterator[Torrent]:
    torrent = Torrent(total)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        torrent.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, torrent.serve, [listener])
        yield torrent
        nursery.cancel_scope.cancel()


def torrent_config(torrent: Torrent) -> str:
    url = f"http://127.0.0.1:{torrent.port}/v1"
    # A client that is cut off has left: what is still to come is not read on for it.
    return config(provider("alpha", url, models='torrent", "calm'), more="[retry]\nlinger = 0")


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(rate=1.0)


async def settled(torrent: Torrent) -> int:
    """What the provider could write before everything was full."""
    before = -1
    while before != torrent.written:
        before = torrent.written
        await trio.testing.wait_all_tasks_blocked(0.05)
    return before


def kernel_bytes(proxy: Proxy, torrent: Torrent) -> int:
    """What lies in the four socket buffers between provider and client."""
    (connection,) = proxy.server.writing
    assert torrent.socket is not None
    ours, theirs = connection.stream.socket, torrent.socket
    queued = [send_queue(ours), send_queue(theirs)]
    ports = {f"{end.getpeername()[1]:04X}" for end in (ours, theirs)}
    unread = [
        int(queues.partition(":")[2], 16)
        for (own, _), queues in unread_bytes().items()
        if own.rpartition(":")[2] in ports
    ]
    return sum(size or 0 for size in queued) + sum(unread)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel's part is not known")
async def test_a_client_that_stops_reading_holds_up_its_provider_and_nobody_else(
    clock: trio.testing.MockClock,
) -> None:
    async with open_torrent(40 * MB) as torrent, open_proxy(torrent_config(torrent)) as proxy:
        async with proxy.asking(model="torrent", stream=True) as client:
            assert (await client.head())[0] == 200
            written = await settled(torrent)
            assert written < torrent.total
            # What arbstr itself holds of a stream: one read from the provider, and its copy as
            # chunks for the client.
            assert written - kernel_bytes(proxy, torrent) < MB

            for _ in range(5):
                reply = await proxy.chat(model="calm", stream=True)
                assert reply.text == "Hello there"
            assert torrent.written == written

            while torrent.written == written:  # it reads a little, and so does arbstr
                assert await client._stream.receive_some(MB)
            assert await settled(torrent) < torrent.total

            for _ in range(60):
                clock.jump(STALL_SECONDS / 12)
                await trio.testing.wait_all_tasks_blocked(0.01)
                if not proxy.hub.running:
                    break
            await until(lambda: torrent.open == 0)
            assert torrent.written < torrent.total
        record = await proxy.record(6)
        assert record.status == "client_disconnected"


async def test_a_client_that_reads_gets_all_of_a_torrent() -> None:
    async with open_torrent(30 * MB) as torrent, open_proxy(torrent_config(torrent)) as proxy:
        reply = await proxy.chat(model="torrent", stream=True)
        assert reply.whole
        assert reply.body.count(b"[DONE]") == 1
        assert reply.body.count(b"x" * 16_000) == torrent.written // len(torrent.event)
        assert (await proxy.record()).status == "ok"


@pytest.mark.soak
def test_500_mb_for_a_client_that_stops_reading_cost_no_memory() -> None:
    """Resident memory of a whole process, beside a hundred calm streams."""

    async def calm(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
            client = Client(tcp, "localhost")
            await client.send("POST", CHAT, chat_body(model="calm", stream=True))
            assert (await client.reply()).text == "Hello there"

    async def crowd(port: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(calm, port)

    async def main() -> None:
        async with open_torrent(500 * MB) as torrent:
            with arbstr_process(config_text=torrent_config(torrent)) as arbstr:
                await crowd(arbstr.port)
                before = resident(arbstr.pid)
                async with await trio.open_tcp_stream("127.0.0.1", arbstr.port) as tcp:
                    client = Client(tcp, "localhost")
                    await client.send("POST", CHAT, chat_body(model="torrent", stream=True))
                    assert (await client.head())[0] == 200
                    assert await settled(torrent) < 50 * MB
                    await crowd(arbstr.port)
                    assert resident(arbstr.pid) - before < 20 * MB
                    while await tcp.receive_some(MB):  # all of it, and the end
                        assert resident(arbstr.pid) - before < 20 * MB
                        if torrent.open == 0:
                            break
                assert torrent.written >= torrent.total

    trio.run(main)


@pytest.mark.soak
async def test_a_line_of_100_mb_ends_the_stream_and_is_not_kept() -> None:
    """The most memory a whole process ever had, and how much of the line it took."""
    written = 0
    line = b'data: {"choices":[{"index":0,"delta":{"content":"'

    async def serve(tcp: trio.SocketStream) -> None:
        nonlocal written
        async with tcp:
            received = b""
            while b'"messages"' not in received:
                received += await tcp.receive_some(65_536)
            with suppress(trio.BrokenResourceError):  # arbstr leaves
                await tcp.send_all(TORRENT_HEAD + ROLE + WORDS[0] + line)
                for _ in range(100):
                    await tcp.send_all(b"x" * MB)
                    written += MB
                await tcp.send_all(b'"}}]}\n\n' + b"".join(END))

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1"
        with arbstr_process(config_text=config(provider("alpha", url))) as arbstr:
            before = resident(arbstr.pid)
            async with await trio.open_tcp_stream("127.0.0.1", arbstr.port) as tcp:
                client = Client(tcp, "localhost")
                await client.send("POST", CHAT, chat_body(stream=True))
                reply = await client.reply()
            await trio.to_thread.run_sync(partial(arbstr.wait_rows, status="stream_incomplete"))
            most = resident(arbstr.pid, "VmHWM")
        nursery.cancel_scope.cancel()
    # Broken, and so is its end: no client may take it for whole.
    assert (reply.status, reply.whole) == (200, False)
    assert reply.body.startswith(ROLE + WORDS[0] + b'data: {"error":')
    assert reply.error["code"] == "stream_interrupted"
    assert "an event of over 16 MiB" in reply.error["message"]
    assert most - before < 64 * MB
    assert written < 50 * MB


def resident(pid: int, which: str = "VmRSS") -> int:
    """Bytes of a process that are in memory; of "VmHWM": the most there ever were."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say")

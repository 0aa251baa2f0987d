"""What large bodies cost in memory, as multiples of their own size: how often they are copied.

Client and provider are sockets that read into buffers which are there, so what is allocated between
the first byte that is sent and the last that comes back is arbstr's. To read JSON takes its text
and its values beside the body itself: nothing else may be as large.
"""

import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.proxy import Proxy, config, open_proxy, provider

KB: Final = 1000

ASKED: Final = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


VALUES: Final = 3.1
"""Of a body: itself, its text, and its values with what Python's objects take beside them."""

SMALL: Final = 70 * KB
"""What a small request takes, a piece of a body as it comes from a socket, and some room."""

HEAD: Final = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def asking(size: int) -> bytes:
    """A long conversation, of about so many bytes. It begins as an agent's does: with much."""
    messages = [
        {"role": role, "content": "The quick brown fox. " * (length // 21)}
        for role, length in (("system", size // 4), ("user", size // 4))
    ]
    messages += [
        {"role": "user" if n % 2 else "assistant", "content": "The quick brown fox. " * 100}
        for n in range(size // (4 * KB))
    ]
    return json.dumps({"model": "gpt-4o", "messages": messages}).encode()


def answering(size: int) -> bytes:
    """A whole answer as HTTP, its body of about so many bytes."""
    message = {"role": "assistant", "content": "The quick brown fox. " * (size // 21)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    body = json.dumps({"id": "chatcmpl-1", "choices": choices, "usage": usage}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@final
class Ends:
    """The client's and the provider's side of a proxy, and what they read into."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.buffer = memoryview(bytearray(64 * KB))
        self.asked = 0
        self.waiting = 0
        self._before = 0

    async def provide(self, stream: trio.SocketStream) -> None:
        """Answers each request that has come whole."""
        sock = stream.socket
        while True:
            got = await sock.recv_into(self.buffer)
            if not got:
                return
            head = bytes(self.buffer[: min(got, KB)])
            start = head.index(b"\r\n\r\n") + 4
            at = head.lower().index(b"content-length:") + 15
            left = int(head[at : head.index(b"\r", at)]) - (got - start)
            while left:
                left -= await sock.recv_into(self.buffer)
            self.asked += 1
            await wait_all_tasks_blocked()
            self.waiting = tracemalloc.get_traced_memory()[0] - self._before
            await stream.send_all(self.answer)

    async def ask(self, stream: trio.SocketStream, request: bytes) -> int:
        """Asks, and reads the answer. Returns how many bytes of memory there were at most."""
        sock = stream.socket
        tracemalloc.reset_peak()
        self._before, _ = tracemalloc.get_traced_memory()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, request)
            got = await sock.recv_into(self.buffer)
            head = bytes(self.buffer[: min(got, 2 * KB)])
            assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
            start = head.index(b"\r\n\r\n") + 4
            at = head.index(b"content-length:") + 15
            left = int(head[at : head.index(b"\r", at)]) - (got - start)
            while left:
                left -= await sock.recv_into(self.buffer)
        _, peak = tracemalloc.get_traced_memory()
        return peak - self._before


@asynccontextmanager
async def open_ends(answer: bytes) -> AsyncIterator[tuple[Ends, Proxy]]:
    ends = Ends(answer)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, ends.provide, listeners)
        port = listeners[0].socket.getsockname()[1]
        async with open_proxy(config(provider("alpha", f"http://127.0.0.1:{port}/v1"))) as proxy:
            yield ends, proxy
        nursery.cancel_scope.cancel()


async def taken_by(body: bytes, answer: bytes) -> tuple[int, int]:
    """Bytes of memory that a request takes at most, and while it waits for its answer: the least of
    some."""
    async with (
        open_ends(answer) as (ends, proxy),
        await trio.open_tcp_stream("127.0.0.1", proxy.port) as stream,
    ):
        request = HEAD % len(body) + body
        await ends.ask(stream, request)
        tracemalloc.start()
        try:
            taken = [(await ends.ask(stream, request), ends.waiting) for _ in range(5)]
        finally:
            tracemalloc.stop()
        assert ends.asked == 6
    return min(most for most, _ in taken), min(waiting for _, waiting in taken)


@pytest.mark.parametrize("size", [100 * KB, KB * KB, 2 * KB * KB])
async def test_a_large_request_is_there_once_as_text_and_once_as_values(size: int) -> None:
    """And while its answer is waited for only as what it is. It was copied once more to be sent."""
    body = asking(size)
    most, waiting = await taken_by(body, answering(KB))
    assert most < len(body) * VALUES + SMALL
    assert waiting < len(body) + SMALL


@pytest.mark.parametrize("size", [200 * KB, 2 * KB * KB])
async def test_so_is_a_large_answer(size: int) -> None:
    """It was copied once more to be judged, and once more to be written."""
    answer = answering(size)
    most, _ = await taken_by(json.dumps(ASKED).encode(), answer)
    assert most < len(answer) * VALUES + SMALL

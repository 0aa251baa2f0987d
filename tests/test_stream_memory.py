"""What an open stream holds: Python's memory, counted, with client and provider outside of it."""

import gc
import json
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Final

import pytest
import trio

from tests.proxy import Proxy, config, open_proxy, provider

STREAMS: Final = 40

HELD: Final = 30_500
"""Bytes a stream holds beside the body of its request: tasks, scopes, sockets, both connections and
what the answer began with. 28,100 measured on CPython 3.11; the rest is room for other versions.
The kernel's buffers come on top of that, and what malloc does not give back."""

ASKED: Final = b"""\
POST /v1/chat/completions HTTP/1.1
Host: 127.0.0.1:8080
Accept-Encoding: gzip, deflate
Connection: keep-alive
Accept: application/json
Content-Type: application/json
User-Agent: OpenAI/Python 1.0.0
X-Stainless-Lang: python
X-Stainless-Package-Version: 1.0.0
X-Stainless-OS: Linux
X-Stainless-Arch: x64
X-Stainless-Runtime: CPython
X-Stainless-Runtime-Version: 3.11.7
Authorization: Bearer sk-anything
X-Stainless-Async: false
x-stainless-retry-count: 0
x-stainless-read-timeout: 600
Content-Length: %d

""".replace(b"\n", b"\r\n")
"""As an SDK writes it, on each of its connections."""
ANSWER: Final = b"""\
HTTP/1.1 200 OK
Date: Sat, 21 Nov 2026 13:00:00 GMT
Content-Type: text/event-stream; charset=utf-8
Transfer-Encoding: chunked
Connection: keep-alive
Server: uvicorn
openai-processing-ms: 412
openai-version: 2020-10-01
x-ratelimit-limit-requests: 10000
x-ratelimit-remaining-requests: 9999
x-ratelimit-reset-requests: 6ms
x-request-id: req_5f0c1f9f1c2f4d0e9a3b7c6d5e4f3a2b
strict-transport-security: max-age=31536000; includeSubDomains; preload
set-cookie: __cf_bm=0123456789abcdef0123456789abcdef; path=/; HttpOnly; Secure
x-content-type-options: nosniff
cf-cache-status: DYNAMIC
alt-svc: h3=":443"; ma=86400

""".replace(b"\n", b"\r\n")
EVENT: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,'
    b'"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}'
    b"\n\n"
)


@contextmanager
def open_silent_provider(asked: int) -> Iterator[int]:
    """Begins to answer each request of `asked` bytes of body, and says no more. Its port."""
    streams: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=2 * STREAMS)
    buffer = bytearray(65_536)

    def serve() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            streams.append(stream)
            left = asked
            while left > 0:
                left -= stream.recv_into(buffer)
            stream.sendall(ANSWER + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        for stream in streams:
            stream.close()


async def open_streams(
    proxy: Proxy, request: bytes, count: int, streams: list[socket.socket]
) -> None:
    """Clients that have the beginning of their answers."""

    def ask() -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
        stream.sendall(request)
        return stream

    for _ in range(count):
        stream = await trio.to_thread.run_sync(ask)
        streams.append(stream)
        await trio.lowlevel.wait_readable(stream)
        assert b" token" in stream.recv(65_536)


@pytest.mark.parametrize(("size", "last"), [(1000, 1), (200_000, 1), (1000, 200_000)])
async def test_a_stream_holds_its_request_once_and_little_else(size: int, last: int) -> None:
    beginning = [{"role": "system", "content": "s" * (size // 2)}, {"role": "user", "content": "u"}]
    said = {"role": "user", "content": "u" * last}
    later = [{"role": "assistant", "content": "a" * (size // 2)}, said]
    asked = {"model": "gpt-4o", "stream": True, "messages": beginning + later}
    body = json.dumps(asked).encode()
    request = ASKED % len(body) + body
    streams: list[socket.socket] = []
    with open_silent_provider(len(body)) as port:
        async with open_proxy(config(provider("alpha", f"http://127.0.0.1:{port}/v1"))) as proxy:
            try:
                await open_streams(proxy, request, 5, streams)
                gc.collect()
                tracemalloc.start()
                try:
                    await open_streams(proxy, request, STREAMS, streams)
                    gc.collect()
                    held, _ = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
            finally:
                for stream in streams:
                    stream.close()
    assert held / STREAMS < len(body) + HELD

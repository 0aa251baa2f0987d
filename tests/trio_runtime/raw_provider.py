"""A provider made of a socket: it reads requests and says exactly the bytes a test gives it."""

import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from arbstr.trio_runtime.upstream.transport import (
    AnswerBroken,
    Connection,
    Origin,
    RequestHead,
    Transport,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """The provider's side of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._unread = b""

    async def request(self) -> bytes | None:
        """The next whole request, None if the client has gone."""
        head = await self.head()
        if head is None:
            return None
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(self._unread) < length:
            if not await self._more():
                return None
        body, self._unread = self._unread[:length], self._unread[length:]
        return head + body

    async def head(self) -> bytes | None:
        """The next request's head with its empty line, None if the client has gone."""
        while b"\r\n\r\n" not in self._unread:
            if not await self._more():
                return None
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    async def _more(self) -> bool:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            return False
        self._unread += data
        return bool(data)

    async def gone(self) -> None:
        """Waits until the client has closed the connection."""
        while await self._more():
            pass

    async def say(self, data: bytes) -> None:
        """Sends bytes, or does not if the client has gone."""
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            return

    def reset(self) -> None:
        """Closes with an RST. Data that was sent before still arrives."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


Handler = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def provider(
    handler: Handler,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    seconds: float = 20,
) -> AsyncIterator[Origin]:
    """Serves until the block ends; the connection is closed when `handler` returns."""

    async def serve(stream: trio.abc.Stream) -> None:
        async with stream:
            await handler(Peer(stream))

    with trio.fail_after(seconds):
        listeners = await trio.open_tcp_listeners(0, host=host)
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            if tls is None:
                nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
                yield Origin("http", host, port)
            else:
                secure = [
                    trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners
                ]
                nursery.start_soon(partial(trio.serve_listeners, serve, secure))
                yield Origin("https", host, port)
            nursery.cancel_scope.cancel()


def answering(answer: bytes, *, then: str = "wait") -> Handler:
    """A handler that gives every request the same answer, and then waits, closes or resets."""

    async def handler(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.say(answer)
            if then == "reset":
                peer.reset()
            if then != "wait":
                return

    return handler


async def read_until_broken(connection: Connection) -> tuple[bytes, str]:
    """The bytes of a body that breaks off, and the sentence about how it did."""
    body = b""
    try:
        while not connection.complete:
            body += await connection.receive_some()
    except AnswerBroken as error:
        return body, error.sentence
    return body, "not broken"


def open_sockets() -> int | None:
    """How many sockets this process has open, None where the system does not tell."""
    directory = Path("/proc/self/fd")
    if not directory.is_dir():
        return None
    count = 0
    for entry in directory.iterdir():
        try:
            count += os.readlink(entry).startswith("socket:")
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return count


async def ask(
    transport: Transport, origin: Origin, head: RequestHead, body: bytes = b"{}"
) -> bytes:
    """A whole exchange; the connection is released at the end."""
    connection = await transport.connect(origin)
    try:
        await connection.send(head, body)
        await connection.receive_head()
        answer = connection.receive_nowait()
        while not connection.complete:
            answer += await connection.receive_some()
        return answer
    finally:
        connection.release()

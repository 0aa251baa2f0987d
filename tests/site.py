"""A server on a loopback port with an application of the test's own, and its clients.

`OURS` is arbstr's server, `STOCK` Hypercorn's own connection class in its place:

    async with OURS(hello) as site:
        peer = await site.ask(GET)                     # a client that has sent these bytes
        assert (await peer.answer()).body == b"Hello"
        assert len(site.writes) == 1                   # what the server wrote, a write an entry

At the end of the block every client leaves, and no connection of `OURS` may be left.
"""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias, final

import h11
import trio
import trio.testing
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import LifespanState
from hypercorn.utils import wrap_app

from arbstr.trio_runtime.server.asgi import DISCONNECT_KEY, as_asgi
from arbstr.trio_runtime.server.connection import hypercorn_config
from arbstr.trio_runtime.server.server import Server
from tests.waiting import until

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

PATIENCE: Final = 20.0
"""Seconds a wait lasts before it fails the test; only a broken test ever comes near."""

MORE_THAN_SOCKETS_HOLD: Final = 64 * 1024 * 1024
"""No pair of sockets takes so much of an answer nobody reads."""

GET: Final = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 4\r\n\r\nbody"
UPLOAD: Final = b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 4000000\r\n\r\n"


# ---- a server, and a client that says what it is told to


@final
class Counted(trio.abc.HalfCloseableStream):
    """A socket stream that keeps what was written, a write an entry."""

    def __init__(self, stream: trio.SocketStream, writes: list[bytes]) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._writes = writes

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._writes.append(bytes(data))
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def counted_write(
    writes: list[bytes],
    write_now: Callable[[trio.socket.SocketType, bytes, bytes], int],
    sock: trio.socket.SocketType,
    data: bytes,
    behind: bytes = b"",
) -> int:
    """A write that does not wait, kept if it wrote something."""
    taken = write_now(sock, data, behind)
    if taken:
        writes.append((data + behind)[:taken])
    return taken


@final
class Listening(trio.abc.Listener[Any]):
    """A listener whose connections are counted, and which can fail to accept."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self.writes: list[bytes] = []
        self.failures: list[OSError] = []

    async def accept(self) -> Any:
        stream = await self._listener.accept()
        if self.failures:
            await trio.aclose_forcefully(stream)
            raise self.failures.pop()
        return Counted(stream, self.writes)

    async def aclose(self) -> None:
        await self._listener.aclose()


@final
class Answer:
    """An answer as it came, parsed by h11. `whole`: it ended as HTTP says."""

    def __init__(self, response: h11.Response, body: bytes, *, whole: bool) -> None:
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        self.body = body
        self.whole = whole


@final
class Peer:
    """A client's end of a connection: bytes out, bytes or answers in."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = bytearray()

    async def send(self, data: bytes) -> None:
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(data)

    async def read(self) -> bytes:
        """Some bytes; none at the end, however the connection ended."""
        with trio.fail_after(PATIENCE):
            try:
                data = bytes(await self.stream.receive_some(65_536))
            except trio.BrokenResourceError:
                data = b""
        self.received += data
        return data

    async def until(self, text: bytes) -> bytes:
        """Everything so far, as soon as it contains `text`."""
        while text not in self.received:
            assert await self.read(), f"the end came after {bytes(self.received[-500:])!r}"
        return bytes(self.received)

    async def rest(self) -> bytes:
        """Everything, once the server has closed."""
        while await self.read():
            pass
        return bytes(self.received)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, interim ones skipped. What follows it stays in `received`."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        if self.received:
            parser.receive_data(bytes(self.received))
        response: h11.Response | None = None
        body = bytearray()
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError:
                break
            if event is h11.NEED_DATA:
                parser.receive_data(await self.read())
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
        assert response is not None, f"no answer in {bytes(self.received[:500])!r}"
        self.received = bytearray(parser.trailing_data[0])
        return Answer(response, bytes(body), whole=parser.their_state is not h11.ERROR)

    async def is_closed(self) -> bool:
        """Whether the server has closed, without anything more to say."""
        await quiet()
        return self.stream.socket.is_readable() and await self.read() == b""

    def reset(self) -> None:
        """Leaves with an RST."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


@final
class Site:
    """A server that runs. `open`: connections it has not done with. `server` is none for STOCK."""

    def __init__(self, listening: Listening, address: tuple[str, int], server: Any) -> None:
        self.listening = listening
        self.writes = listening.writes
        self.server = server
        self.open = 0
        self.ended = trio.Event()
        self.address = address
        self._peers: list[Peer] = []

    async def connect(self, *, receive_buffer: int | None = None) -> Peer:
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(self.address)
        peer = Peer(trio.SocketStream(sock))
        self._peers.append(peer)
        return peer

    async def ask(self, data: bytes) -> Peer:
        """A new connection on which these bytes were sent."""
        peer = await self.connect()
        await peer.send(data)
        return peer

    async def wait_open(self, count: int) -> None:
        await until(lambda: self.open == count)

    async def wait_closed(self) -> None:
        """Until no connection is left."""
        await self.wait_open(0)

    async def leave(self) -> None:
        for peer in self._peers:
            await trio.aclose_forcefully(peer.stream)


OpenSite: TypeAlias = Callable[..., AbstractAsyncContextManager[Site]]


async def quiet() -> None:
    """Until nobody has anything to do; long enough for loopback to deliver."""
    await trio.testing.wait_all_tasks_blocked(0.01)


async def quiet_now() -> None:
    """The same without the patience, where it only makes something likely."""
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_site(app: App, *, stock: bool = False, **options: float) -> AsyncIterator[Site]:
    """Serves an application until the block ends. At the end no connection may be left."""
    failure: Exception | None = None
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listening = Listening(listener)
    address = listener.socket.getsockname()[:2]
    server = None if stock else Server(as_asgi(app), [listening], **options)
    site = Site(listening, address, server)
    if server is not None:
        server.write_now = partial(counted_write, listening.writes, server.write_now)

    async def handle_stock(stream: Any) -> None:
        site.open += 1
        try:
            config = hypercorn_config()
            wrapped = wrap_app(app, 0, "asgi")
            await TCPServer(wrapped, config, WorkerContext(None), LifespanState({}), stream).run()
        finally:
            site.open -= 1

    async def serve() -> None:
        if server is None:
            await trio.serve_listeners(handle_stock, [listening])
        else:
            accept = server._accept

            async def handle(stream: Any) -> None:
                site.open += 1
                try:
                    await accept(stream)
                finally:
                    site.open -= 1

            server._accept = handle  # type: ignore[method-assign]  # to count what is open
            await server.serve()
            site.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            yield site
        except Exception as error:
            failure = error
        await site.leave()
        if server is not None and failure is None:
            await site.wait_closed()
            assert not server.connections
            assert not server.writing
        nursery.cancel_scope.cancel()
    if failure is not None:
        # Raised out here, a test's failure reads as if there were no nursery around it.
        raise failure


OURS: Final[OpenSite] = open_site


def STOCK(app: App) -> AbstractAsyncContextManager[Site]:  # noqa: N802 - it stands beside OURS
    return open_site(app, stock=True)


# ---- applications


NO_HEADERS: Final[Mapping[bytes, bytes]] = MappingProxyType({})


async def start(send: Any, status: int = 200, headers: Mapping[bytes, bytes] = NO_HEADERS) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})


async def say(send: Any, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def reply(send: Any, body: bytes, status: int = 200) -> None:
    await start(send, status, {b"content-length": b"%d" % len(body)})
    await say(send, body)


async def read_body(receive: Any) -> bytes | None:
    """The whole body; `None` if the client left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Reads the request, then answers."""
    if await read_body(receive) is not None:
        await reply(send, b"Hello")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path and the body."""
    body = await read_body(receive)
    if body is not None:
        await reply(send, scope["path"].encode() + b" " + body)


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answers without having read the request's body."""
    await reply(send, b"no", 413)


@final
class Waiting:
    """Answers once it is told to; notices by ASGI's message that its client left."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_answer = trio.Event()
        self.left = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        if await read_body(receive) is None:
            self.left.set()
            return

        async def watch() -> None:
            await receive()
            self.left.set()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await self.may_answer.wait()
            nursery.cancel_scope.cancel()
        if not self.left.is_set():
            await reply(send, b"Hello")


@final
class Told:
    """Does what a chat does: its work ends when the callback says that the client left."""

    def __init__(self, work: Callable[[Any], Awaitable[None]]) -> None:
        self.work = work
        self.delivered = False
        self.left = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if await read_body(receive) is None:
            return
        with trio.CancelScope() as scope_of_work:

            def leave() -> None:
                self.left.set()
                scope_of_work.cancel()

            scope["state"][DISCONNECT_KEY](leave)
            await self.work(send)
            self.delivered = True


async def silence(send: Any) -> None:
    """An answer that never begins."""
    await trio.sleep_forever()


async def flood(send: Any) -> None:
    """A stream no client's socket can hold."""
    await start(send)
    while True:
        await say(send, b"x" * 65_536, more=True)

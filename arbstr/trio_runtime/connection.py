"""What a client connection owns, and every workaround of the server beneath it.

Hypercorn's connection classes are subclassed here, against the exact version pyproject.toml pins.
Each difference is one of these, and each has a test of its own in test_connection.py:

    one write per message     Hypercorn 0.18 writes head, body and end of a plain answer apart.
    no idle task              It starts and cancels a task per request for the keep-alive timeout;
                              here that is a deadline on the connection's one cancel scope.
    a departed client         is told to the application by a callback, at once, and its socket is
                              closed, so that a write that waits for it ends too.
    a stalled client          `send_all` is shielded without a deadline there. A client that takes
                              nothing for `STALL_SECONDS` has its socket closed from our side.
    HTTP/1.1 only             no h2c upgrade, no HTTP/2 prior knowledge, no WebSocket: nothing here
                              speaks them, and cancelled HTTP/2 streams crash Hypercorn (its #352).
    shutdown                  idle connections are closed at once; the others when they have
                              answered, or when `close_all` says so.
"""

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, final

import h11
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr, suppress_body, wrap_app

if TYPE_CHECKING:
    from hypercorn.events import Event
    from hypercorn.protocol.events import Event as StreamEvent

STALL_SECONDS: Final = 60.0
"""A client that takes not one byte for so long is cut (nginx's send_timeout has the same value)."""

KEEP_ALIVE_SECONDS: Final = 75.0
"""Longer than any client keeps an idle connection for reuse (httpx 5 s, undici 4 s), so that it is
the client who closes first and no request meets a closing socket (nginx's default)."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Request heads. Hypercorn's 16 kB is little for cookies of a localhost shared by many tools."""

REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
"""Reason phrases: optional by RFC 9112 4, but people read them in `curl -i`."""

DISCONNECT_KEY: Final = "arbstr.on_disconnect"
"""Key in the ASGI scope's `state`: a function that takes a callback, which is called, without a
checkpoint in between, if the client leaves before the last byte was handed to its socket."""


def hypercorn_config() -> HypercornConfig:
    """Hypercorn's settings. Binding and shutdown are ours, so only the protocol's matter."""
    config = HypercornConfig()
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    return config


def send_queue(sock: trio.socket.SocketType) -> int | None:
    """Bytes the kernel still holds for the peer, or `None` where that cannot be known."""
    if not sys.platform.startswith("linux"):
        return None
    import fcntl
    import termios

    buffer = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, buffer)
    except (OSError, ValueError):  # the socket is closed
        return None
    return int.from_bytes(buffer, sys.byteorder)


@final
class RequestStream(HTTPStream):
    """One request and its answer, on one connection."""

    _protocol: "Http11"

    def __init__(self, protocol: "Http11") -> None:
        super().__init__(
            protocol.app,
            protocol.config,
            protocol.context,
            protocol.task_group,
            protocol.ssl,
            protocol.client,
            protocol.server,
            protocol.send,  # type: ignore[arg-type]  # bytes, not Hypercorn's stream events
            STREAM_ID,
        )
        self._protocol = protocol
        self._head = b""
        self._on_disconnect: Callable[[], None] | None = None

    def _register(self, callback: Callable[[], None]) -> None:
        self._on_disconnect = callback
        if self.closed:
            callback()

    async def handle(self, event: "StreamEvent") -> None:
        """Takes an event from the protocol."""
        if isinstance(event, StreamClosed):
            # Hypercorn waits here for room in the application's queue, which is never made once
            # the application has answered without reading the whole body.
            if not self.closed:
                self.closed = True
                queue: trio.MemorySendChannel[Any] = self.app_put.__self__  # type: ignore[attr-defined]  # a bound method of the channel
                with suppress(trio.WouldBlock):
                    queue.send_nowait({"type": "http.disconnect"})
            return
        if isinstance(event, Request):
            event.state[DISCONNECT_KEY] = self._register
        await super().handle(event)

    def client_left(self) -> None:
        """Tells the application, unless the answer was complete."""
        if self.state is not ASGIHTTPState.CLOSED and self._on_disconnect is not None:
            self._on_disconnect()

    async def app_send(self, message: Any) -> None:  # noqa: ANN401 - ASGI's messages are untyped
        """Takes an ASGI message. Head and first body, and last body and end, are one write."""
        if message is None:
            if self.state is not ASGIHTTPState.CLOSED:
                # The application ended without ending its answer: so does the connection, and
                # the missing terminator tells the client.
                self.state = ASGIHTTPState.CLOSED
                await self.send(Closed())  # type: ignore[arg-type]  # see __init__
        elif self.closed:
            return
        elif message["type"] == "http.response.start":
            self.response = message
            self._head = self._protocol.head(message["status"], message["headers"])
            self.state = ASGIHTTPState.RESPONSE
        elif message["type"] == "http.response.body":
            data, self._head = self._head, b""
            body = message.get("body", b"")
            last = not message.get("more_body", False)
            if body and not suppress_body(self.scope["method"], self.response["status"]):
                data += self._protocol.serialise(h11.Data(data=body))
            if last:
                data += self._protocol.serialise(h11.EndOfMessage())
                self.state = ASGIHTTPState.CLOSED
            if data:
                await self.send(RawData(data))  # type: ignore[arg-type]  # see __init__
            if last:
                await self._protocol.finish_stream()


@final
class Http11(H11Protocol):
    """HTTP/1.1 on one connection, one request at a time."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """No upgrades: `Upgrade` is ignored, as RFC 9110 7.8 allows."""

    async def _create_stream(self, request: h11.Request) -> None:
        self.stream = RequestStream(self)
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    def head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The bytes of a response head."""
        return self.serialise(
            h11.Response(
                status_code=status,
                reason=REASONS.get(status, b""),
                headers=[*headers, *self.config.response_headers("h11")],
            )
        )

    def serialise(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> bytes:
        """The bytes of one h11 event; none if the client broke the protocol meanwhile."""
        try:
            return self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return b""

    async def finish_stream(self) -> None:
        """The answer is out: makes the connection ready for the next request, or closes it."""
        await self._maybe_recycle()

    def client_left(self) -> None:
        """Tells the request in flight, if there is one, that nobody waits for its answer."""
        if isinstance(self.stream, RequestStream):
            self.stream.client_left()


@final
class ClientConnection(TCPServer):
    """One accepted socket, from accept to close."""

    def __init__(self, server: "Server", stream: trio.SocketStream) -> None:
        super().__init__(
            server.app,
            server.config,
            server.context,
            LifespanState({}),
            stream,  # type: ignore[arg-type]  # Hypercorn annotates the TLS case only
        )
        self._server = server
        self._http: Http11
        self._idle_scope = trio.CancelScope()
        self._idle = True
        self.stalled_since: float | None = None
        self._last_queue: int | None = None
        self._writes = 0
        self._last_writes = 0

    async def run(self) -> None:
        """Serves the connection until either side closes it."""
        server, stream = self._server, self.stream
        server.connections.add(self)
        try:
            sock = stream.socket
            client = parse_socket_addr(sock.family, sock.getpeername())
            address = parse_socket_addr(sock.family, sock.getsockname())
            async with TaskGroup() as task_group:
                self._task_group = task_group
                self._http = http = Http11(
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    ConnectionState({}),
                    False,
                    client,
                    address,
                    self.protocol_send,
                )
                self._set_idle(True)
                with self._idle_scope:
                    await self._read_data()
                self.close()
                http.client_left()
                with trio.CancelScope(shield=True):
                    await http.handle(Closed())
        except OSError:
            pass  # getpeername of a client that is already gone
        finally:
            server.connections.discard(self)
            self.close()

    async def _read_data(self) -> None:
        while True:
            try:
                data = await self.stream.receive_some(MAX_RECV)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return
            if data == b"":
                return  # also a half-close: such a client counts as gone
            await self._http.handle(RawData(bytes(data)))

    async def protocol_send(self, event: "Event") -> None:
        """Takes an event from the protocol: bytes for the socket, or what became of the stream."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self.close()
            self._idle_scope.cancel()  # the reader may wait for the application, not the socket
        elif isinstance(event, Updated):
            self._set_idle(event.idle)

    async def _write(self, data: bytes) -> None:
        if self.send_lock.locked():
            await self.send_lock.acquire()
        else:
            self.send_lock.acquire_nowait()
        self._writes += 1
        self._server.writing.add(self)
        try:
            # Half a chunk on the wire would garble everything after it, so nothing but the end
            # of the socket ends a write: the client leaving, or `close` (stall, shutdown).
            with trio.CancelScope(shield=True):
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._idle_scope.cancel()
            self._http.client_left()
        finally:
            self._server.writing.discard(self)
            self.stalled_since = None
            self.send_lock.release()

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        if not idle:
            self._idle_scope.deadline = float("inf")
        elif self._server.stopping:
            self._idle_scope.cancel()
        else:
            self._idle_scope.deadline = trio.current_time() + self._server.keep_alive_seconds

    def close_if_idle(self) -> None:
        """Ends a connection that waits for its next request."""
        if self._idle:
            self._idle_scope.cancel()

    def close(self) -> None:
        """Closes the socket; whoever reads or writes it is woken."""
        with suppress(OSError):
            # A FIN after what was written, and whoever waits on the socket gets ClosedResource.
            self.stream.socket.close()

    def stalled_for(self, now: float) -> float:
        """Seconds since a pending write last made progress. Asked every few seconds."""
        queue = send_queue(self.stream.socket)
        if (
            self.stalled_since is None
            or queue != self._last_queue
            or self._writes != (self._last_writes)
        ):
            self.stalled_since, self._last_queue, self._last_writes = now, queue, self._writes
        return now - self.stalled_since


@final
class Server:
    """Accepts connections and ends them.

    `async with trio.open_nursery() as nursery: nursery.start_soon(server.serve)`; `stop()` closes
    the listeners and idle connections, `close_all()` the rest. `serve` returns when the last
    connection is gone.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        listeners: Sequence[trio.SocketListener],
        *,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.config = hypercorn_config()
        self.app = wrap_app(app, self.config.wsgi_max_body_size, "asgi")
        self.context = WorkerContext(None)
        self._terminated: trio.Event = self.context.terminated._event  # type: ignore[attr-defined]  # see stop()
        self.keep_alive_seconds = keep_alive_seconds
        self.stall_seconds = stall_seconds
        self.stopping = False
        self.connections: set[ClientConnection] = set()
        self.writing: set[ClientConnection] = set()
        self._listeners = listeners
        self._accepting = trio.CancelScope()

    async def serve(self) -> None:
        """Accepts until `stop()`, then waits for the connections that are left."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_stalled, nursery.cancel_scope)
            async with trio.open_nursery() as connections:
                with self._accepting:
                    await trio.serve_listeners(
                        self._accept, list(self._listeners), handler_nursery=connections
                    )
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Stops accepting; connections end as soon as they have answered."""
        self.stopping = True
        # Hypercorn's protocol closes a connection instead of recycling it once this is set. Its
        # own `set` is a coroutine without a checkpoint; this must be done in one step.
        self._terminated.set()
        self._accepting.cancel()
        for connection in list(self.connections):
            connection.close_if_idle()

    def close_all(self) -> None:
        """Closes every socket that is left: clients that take nothing, answers cut short."""
        for connection in list(self.connections):
            connection.close()

    async def _accept(self, stream: trio.SocketStream) -> None:
        await ClientConnection(self, stream).run()

    async def _cut_stalled(self, _scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(self.stall_seconds / 12)
            now = trio.current_time()
            for connection in list(self.writing):
                if connection.stalled_for(now) >= self.stall_seconds:
                    connection.close()

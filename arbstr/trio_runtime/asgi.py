"""HTTP/1.1 as the server speaks it: the bytes of one connection to ASGI messages and back.

    Http11          which request is in flight on the connection, and what comes after it
      RequestStream   that request and its answer
        Inbox           what its application still has to receive

The socket below is `connection.py`'s, whose docstring says how all this differs from Hypercorn.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING, Any, Final, Protocol, final
from urllib.parse import unquote

import h11
import trio
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import ConnectionState
from hypercorn.utils import suppress_body

if TYPE_CHECKING:
    from hypercorn.config import Config as HypercornConfig
    from hypercorn.events import Event
    from hypercorn.protocol.events import Event as StreamEvent
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import AppWrapper

INBOX_MESSAGES: Final = 10
"""Pieces of a body (each at most `MAX_RECV`) that wait for the application (Hypercorn's value)."""

CLOSE_SECONDS: Final = 1.0
"""How long it may take to close the connection of an answer that was not ended: no time at all."""

STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}
"""With reason phrases: optional by RFC 9112 4, but people read them in `curl -i`."""

FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
"""Headers that say where an answer ends and what becomes of the connection."""

DISCONNECT_KEY: Final = "arbstr.on_disconnect"
"""Key in the ASGI scope's `state`: a function that takes a callback, which is called, without a
checkpoint in between, if the client leaves before the last byte was handed to its socket."""


@lru_cache(maxsize=2)
def date_line(epoch: int) -> bytes:
    """The `Date` header, which an origin server with a clock must send (RFC 9110 6.6.1)."""
    return b"date: %b\r\n" % formatdate(epoch, usegmt=True).encode()


@final
class Inbox:
    """What an application receives: pieces of the body, then that the client is gone."""

    def __init__(self) -> None:
        self._put, self._get = trio.open_memory_channel[Any](INBOX_MESSAGES)

    async def put(self, body: bytes, *, more: bool) -> None:
        """Adds a piece; waits for room. Nothing happens once the inbox is closed."""
        message = {"type": "http.request", "body": body, "more_body": more}
        with suppress(trio.ClosedResourceError):
            try:
                # Without a checkpoint, so that a request that comes in one piece is whole before
                # the application begins.
                self._put.send_nowait(message)
            except trio.WouldBlock:
                await self._put.send(message)

    def close(self) -> None:
        """Nothing more will come; whoever waits for room is woken."""
        self._put.close()

    async def receive(self) -> Any:  # noqa: ANN401 - ASGI's messages are untyped
        """The next message."""
        try:
            return await self._get.receive()
        except trio.EndOfChannel:
            return {"type": "http.disconnect"}


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
        self._inbox = Inbox()
        self._head = b""
        self._on_disconnect: Callable[[], None] | None = None

    def _register(self, callback: Callable[[], None]) -> None:
        self._on_disconnect = callback
        if self.closed:
            callback()

    async def handle(self, event: "StreamEvent") -> None:
        """Takes an event from the protocol."""
        if isinstance(event, Request):
            self._begin(event)
        elif isinstance(event, Body):
            await self._inbox.put(bytes(event.data), more=True)
        elif isinstance(event, EndBody):
            await self._inbox.put(b"", more=False)
        elif isinstance(event, StreamClosed):
            self.closed = True
            self._inbox.close()

    def _begin(self, event: Request) -> None:
        path, _, query = event.raw_path.partition(b"?")
        self.scope = {
            "type": "http",
            "http_version": event.http_version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": event.method,
            "scheme": self.scheme,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": event.headers,
            "client": self.client,
            "server": self.server,
            "state": ConnectionState({DISCONNECT_KEY: self._register}),
            "extensions": {},
        }
        self.task_group.spawn(self._run)

    async def _run(self) -> None:
        receive, in_thread = self._receive, (trio.to_thread.run_sync, trio.from_thread.run)
        try:
            await self.app(self.scope, receive, self.app_send, *in_thread)
        finally:
            if not self.closed:
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await self.app_send(None)

    async def _receive(self) -> Any:  # noqa: ANN401 - ASGI's messages are untyped
        await self._protocol.invite_body()
        return await self._inbox.receive()

    def client_left(self) -> None:
        """Tells the application."""
        if self._on_disconnect is not None:
            self._on_disconnect()

    async def app_send(self, message: Any) -> None:  # noqa: ANN401 - ASGI's messages are untyped
        """Takes an ASGI message. Head and first body, and last body and end, are one write."""
        if message is None:
            if not self.closed:
                # The application ended without ending its answer: so does the connection, and
                # the missing terminator tells the client.
                await self.send(Closed())  # type: ignore[arg-type]  # see __init__
        elif self.closed:
            # Whoever was told that the client left ends here, and does not take this for sent.
            await trio.lowlevel.checkpoint()
        elif message["type"] == "http.response.start":
            self._head = self._protocol.head(message["status"], message["headers"])
            self.response = message
        elif message["type"] == "http.response.body":
            data, self._head = self._head, b""
            body = message.get("body", b"")
            last = not message.get("more_body", False)
            if body and not suppress_body(self.scope["method"], self.response["status"]):
                data += self._protocol.serialise(h11.Data(data=body))
            if last:
                data += self._protocol.serialise(h11.EndOfMessage())
            if data:
                await self.send(RawData(data))  # type: ignore[arg-type]  # see __init__
            if last:
                await self._protocol.finish_stream()


class Owner(Protocol):
    """The connection: its settings, its socket, and whether the server is stopping."""

    app: "AppWrapper"
    config: "HypercornConfig"
    context: "WorkerContext"

    @property
    def stopping(self) -> bool:
        """Whether no further request will be answered."""

    async def protocol_send(self, event: "Event") -> None:
        """Takes bytes for the socket, or what became of the request."""

    async def read_ahead(self) -> None:
        """Reads the socket until cancelled."""

    def take_ahead(self) -> bytes:
        """What `read_ahead` has read."""


@final
class Http11(H11Protocol):
    """HTTP/1.1 on one connection, one request at a time."""

    connection: h11.Connection
    stream: RequestStream | None

    def __init__(
        self,
        owner: Owner,
        task_group: TaskGroup,
        client: tuple[str, int] | None,
        address: tuple[str, int] | None,
    ) -> None:
        super().__init__(
            owner.app,
            owner.config,
            owner.context,
            task_group,
            ConnectionState({}),
            False,
            client,
            address,
            owner.protocol_send,
        )
        self._owner = owner
        self._behind: trio.CancelScope | None = None

    async def handle(self, event: "Event") -> None:
        """Takes bytes of the client, or that it is gone."""
        if isinstance(event, Closed) or not self._has_said_all:
            await super().handle(event)

    @property
    def _has_said_all(self) -> bool:
        """Whether this was the last request; some clients send an empty line behind it."""
        return self.connection.their_state is h11.MUST_CLOSE

    async def _handle_events(self) -> None:
        """Takes what h11 finds in the bytes so far. `Upgrade` is ignored (RFC 9110 7.8)."""
        while not self._has_said_all:
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                return
            if isinstance(event, h11.Request):
                await self.send(Updated(idle=False))
                await self._create_stream(event)
            elif event is h11.PAUSED:
                await self._wait_for_turn()
            elif self.stream is None:
                return
            elif isinstance(event, h11.Data):
                await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=STREAM_ID))
            else:
                return  # h11 needs data, or the client has said that it is leaving

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

    async def _wait_for_turn(self) -> None:
        """More has come than the request that is being answered (or it asked for an upgrade)."""
        with trio.CancelScope() as self._behind:
            await self._owner.read_ahead()
        self._behind = None
        ahead = self._owner.take_ahead()
        if ahead:  # to h11 no bytes are the end of the connection
            self.connection.receive_data(ahead)

    async def _refuse(self, status: int) -> None:
        """What h11 cannot read has no route and no id; its answer is a bare status."""
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            data = self.head(status, [(b"content-length", b"0")])
            await self.send(RawData(data + self.serialise(h11.EndOfMessage())))
        self.client_left()
        await self._close_stream()
        await self.send(Closed())

    async def invite_body(self) -> None:
        """The application wants the body: says so to a client that waits to be asked."""
        if self.connection.they_are_waiting_for_100_continue:
            invitation = h11.InformationalResponse(status_code=100, headers=[])
            await self.send(RawData(self.connection.send(invitation) or b""))

    @property
    def uploading(self) -> bool:
        """Whether a body has begun and not ended, or was not HTTP."""
        return self.connection.their_state in {h11.SEND_BODY, h11.ERROR}

    def head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The bytes of a response head. Raises `ValueError` for a header with a line end in it.

        h11 is told what decides the framing, and says the rest of it; it would check and rewrite
        every other header twice. By the profile that is 30 us instead of 50 for each answer.
        """
        framing: list[tuple[bytes, bytes]] = []
        lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date_line(int(time()))]
        for name, value in headers:
            if name in FRAMING:
                framing.append((name, value))
            else:
                lines.append(b"%b: %b\r\n" % (name, value))
        if self._owner.stopping or self.uploading:
            framing.append((b"connection", b"close"))
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise ValueError("a response header holds a line end")
        told = self.serialise(h11.Response(status_code=status, headers=framing))
        return head + told[told.index(b"\r\n") + 2 :]

    def serialise(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> bytes:
        """The bytes of one h11 event. Raises `h11.LocalProtocolError` if it may not come now."""
        return self.connection.send(event) or b""

    async def finish_stream(self) -> None:
        """The answer is out: makes the connection ready for the next request, or closes it.

        Has no checkpoint: the task that sent the answer may be cancelled by now.
        """
        await self._close_stream()
        wire = self.connection
        if wire.our_state is not h11.DONE or wire.their_state is not h11.DONE:
            await self.send(Closed())
            return
        wire.start_next_cycle()
        await self.send(Updated(idle=True))
        if self._behind is not None:
            self._behind.cancel()

    def client_left(self) -> None:
        """Tells the request in flight, if there is one, that nobody waits for its answer."""
        if self.stream is not None:
            self.stream.client_left()

"""HTTP/1.1 as the server speaks it: the bytes of one connection to ASGI messages and back.

    Http11          which request is in flight on the connection, and what comes after it
      RequestStream   that request and its answer
        Inbox           what its application still has to receive

A request whose head `sansio/heads.py` can read never meets h11; every other one is h11's, from its
first byte to the end of its answer (framing.py).

The socket below is `connection.py`'s, whose docstring says how all this differs from Hypercorn.
"""

from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol, final
from urllib.parse import unquote

import h11
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import ConnectionState
from hypercorn.utils import suppress_body

from arbstr.sansio.heads import read_request
from arbstr.trio_runtime.server.framing import (
    Fields,
    Framing,
    H11Framing,
    LengthFraming,
    answer_head,
    is_ambiguous,
    read_strictly,
)

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

DISCONNECT_KEY: Final = "arbstr.on_disconnect"
"""Key in the ASGI scope's `state`: a function that takes a callback, which is called, without a
checkpoint in between, if the client leaves before the last byte was handed to its socket."""


@final
class Inbox:
    """What an application receives: pieces of the body, then that the client is gone."""

    def __init__(self) -> None:
        self._messages: deque[dict[str, Any]] = deque()
        self._closed = False
        self._changed: trio.Event | None = None  # somebody waits for it

    async def put(self, body: bytes, *, more: bool) -> None:
        """Adds a piece; waits for room, or until nobody takes any more.

        Where there is room it has no checkpoint, so that a request that comes in one piece is whole
        before the application begins.
        """
        while len(self._messages) >= INBOX_MESSAGES and not self._closed:
            await self._wait()
        self._messages.append({"type": "http.request", "body": body, "more_body": more})
        self._wake()

    def close(self) -> None:
        """Nothing more will come; whoever waits for room is woken."""
        self._closed = True
        self._wake()

    async def receive(self) -> dict[str, Any]:
        """The next message. Waits, and has a checkpoint, only if there is none."""
        while not self._messages:
            if self._closed:
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            await self._wait()
        message = self._messages.popleft()
        self._wake()
        return message

    async def _wait(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()


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
        """Takes an event from the protocol: that the exchange is over."""
        if isinstance(event, StreamClosed):
            self.closed = True
            self._inbox.close()

    async def take_body(self, body: bytes, *, more: bool) -> None:
        """Takes a piece of the request's body; waits for room."""
        await self._inbox.put(body, more=more)

    def begin(self, method: str, target: bytes, version: str, headers: Fields) -> None:
        """Hands the request to the application, in a task of its own."""
        path, _, query = target.partition(b"?")
        self.scope = {
            "type": "http",
            "http_version": version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": method,
            "scheme": self.scheme,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
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
            # What the application registered refers to it, and its scope to us: a cycle, which the
            # collector would have to find.
            self._on_disconnect = None
            self.scope["state"].clear()

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
                self._protocol.break_off()
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
            framing = self._protocol.framing
            if body and not suppress_body(self.scope["method"], self.response["status"]):
                data += framing.data(body)
            if last:
                data += framing.end()
            if data:
                await self._protocol.write(data)
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
        """Takes what Hypercorn's own code says: bytes for the socket, or that it is over."""

    async def write(self, data: bytes) -> None:
        """Takes bytes for the socket."""

    def set_idle(self, idle: bool) -> None:
        """Whether the connection waits for a request."""

    def break_off(self) -> None:
        """Ends the connection behind an answer that has no end."""

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
        self.write = owner.write
        self._behind: trio.CancelScope | None = None
        read_strictly(self.connection)
        self._h11_framing = H11Framing(self.connection)
        self.framing: Framing = self._h11_framing

    async def handle(self, event: "Event") -> None:
        """Takes bytes of the client, or that it is gone."""
        if isinstance(event, RawData):
            await self._take(event.data)
        else:
            await super().handle(event)

    async def _take(self, data: bytes) -> None:
        while data and not self.framing.has_said_all:
            if isinstance(self.framing, LengthFraming):
                data = await self._take_body(self.framing, data)
                continue
            head = None
            if self._is_between_requests:
                # Some clients send an empty line behind a body (RFC 9112 2.2).
                data = data.removeprefix(b"\r\n")
                if not data:
                    return
                head = read_request(data)
            if head is None:
                self.connection.receive_data(data)
                await self._handle_events()
                return
            self.framing = framing = LengthFraming(head)
            self._owner.set_idle(False)
            self._begin(b"POST", head.target, b"1.1", head.headers)
            data = await self._take_body(framing, data[head.size :], first=True)

    @property
    def _is_between_requests(self) -> bool:
        """Whether h11 has nothing: no request, and no byte of the next one."""
        return self.connection.their_state is h11.IDLE and not self.connection.trailing_data[0]

    async def _take_body(
        self, framing: LengthFraming, data: bytes, *, first: bool = False
    ) -> bytes:
        """Takes what belongs to the request in flight. Returns what is to be looked at next."""
        if self.stream is not None and (first or framing.uploading):
            body, data = framing.take(data)
            await self.stream.take_body(body, more=framing.uploading)
        # The answer may have ended while the last piece waited for room: then there is no turn to
        # wait for, and nobody to end the wait.
        if data and self.framing is framing and not framing.has_said_all:
            data += await self._wait_for_turn()
        return data

    async def _handle_events(self) -> None:
        """Takes what h11 finds in the bytes so far. `Upgrade` is ignored (RFC 9110 7.8)."""
        while not self.framing.has_said_all:
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                return
            if isinstance(event, h11.Request):
                if is_ambiguous(event):
                    await self._refuse(HTTPStatus.BAD_REQUEST)
                    return
                self._owner.set_idle(False)
                headers = list(event.headers)
                self._begin(event.method, event.target, event.http_version, headers)
            elif event is h11.PAUSED:
                ahead = await self._wait_for_turn()
                if ahead:  # to h11 no bytes are the end of the connection
                    self.connection.receive_data(ahead)
            elif self.stream is None:
                return
            elif isinstance(event, h11.Data):
                await self.stream.take_body(bytes(event.data), more=True)
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.take_body(b"", more=False)
            else:
                return  # h11 needs data, or the client has said that it is leaving

    def _begin(self, method: bytes, target: bytes, version: bytes, headers: Fields) -> None:
        self.stream = RequestStream(self)
        self.stream.begin(method.decode("ascii").upper(), target, version.decode(), headers)

    async def _wait_for_turn(self) -> bytes:
        """More has come than the request that is being answered (or it asked for an upgrade).

        Returns what has come meanwhile.
        """
        with trio.CancelScope() as self._behind:
            await self._owner.read_ahead()
        self._behind = None
        return self._owner.take_ahead()

    async def _refuse(self, status: int) -> None:
        """What cannot be read has no route and no id; its answer is a bare status."""
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            data = self.head(status, [(b"content-length", b"0")])
            await self.write(data + self.framing.end())
        self.client_left()
        await self._close_stream()
        await self.send(Closed())

    async def invite_body(self) -> None:
        """The application wants the body: says so to a client that waits to be asked."""
        if self.connection.they_are_waiting_for_100_continue:
            invitation = h11.InformationalResponse(status_code=100, headers=[])
            await self.write(self.connection.send(invitation) or b"")

    @property
    def uploading(self) -> bool:
        """Whether a body has begun and not ended, or was not HTTP."""
        return self.framing.uploading

    def head(self, status: int, headers: Fields) -> bytes:
        """The bytes of a response head. Raises `ValueError` for a header with a line end in it."""
        close = self._owner.stopping or self.uploading
        return answer_head(self.framing, status, headers, close=close)

    async def finish_stream(self) -> None:
        """The answer is out: makes the connection ready for the next request, or closes it.

        Has no checkpoint: the task that sent the answer may be cancelled by now.
        """
        await self._close_stream()
        if not self.framing.renew():
            await self.send(Closed())
            return
        self.framing = self._h11_framing
        self._owner.set_idle(True)
        if self._behind is not None:
            self._behind.cancel()

    def break_off(self) -> None:
        """The answer in flight stays without its end, and the connection takes no other request."""
        self._owner.break_off()

    def client_left(self) -> None:
        """Tells the request in flight, if there is one, that nobody waits for its answer."""
        if self.stream is not None:
            self.stream.client_left()

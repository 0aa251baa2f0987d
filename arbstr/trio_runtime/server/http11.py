"""HTTP/1.1 as the server speaks it: the bytes of one connection to requests, answers to bytes.

    Http11          which request is in flight on the connection, and what comes after it
      _serve          the task that serves one request after another

A request whose head `sansio/heads.py` can read never meets h11; every other one is h11's, from its
first byte to the end of its answer (framing.py). A client writes the same head again and again, on
all of its connections: what it says is found out once (request.Heading) and is there once.

The socket below is `connection.py`'s, whose docstring says how all this differs from Hypercorn.
"""

import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final
from weakref import WeakValueDictionary

import h11
import trio
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import MAX_RECV

from arbstr.sansio.heads import RequestHead, like, read_request
from arbstr.trio_runtime.server.framing import (
    NO_REQUEST,
    Fields,
    Framing,
    H11Framing,
    LengthFraming,
    answer_head,
    is_ambiguous,
    read_strictly,
)
from arbstr.trio_runtime.server.request import LENGTH, ClientRequest, Heading

if TYPE_CHECKING:
    from hypercorn.config import Config as HypercornConfig
    from hypercorn.trio.task_group import TaskGroup

Application: TypeAlias = Callable[[ClientRequest], Awaitable[None]]
"""Serves one request."""

AT_ONCE_BYTES: Final = 256 * 1024
"""Bytes of a body that are read with its head, if they are there: a long conversation is whole then
and needs no inbox, which takes 30 us (measured). Picked: as much as is read of an answer at once
(`upstream/pipe.py`)."""


@final
class Known:
    """A head, and what it says. It lasts as long as a connection on which it came."""

    __slots__ = ("__weakref__", "head", "heading")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.heading = Heading(b"POST", head.target, b"1.1", head.headers)


Heads: TypeAlias = WeakValueDictionary[tuple[bytes, bytes], Known]
"""By their bytes around the digits of the length. One takes 10 kB (measured: that of an SDK, read),
and a client with many streams writes the same on each of its connections."""


class Owner(Protocol):
    """The connection: its settings, its socket, and whether the server is stopping."""

    config: "HypercornConfig"

    @property
    def serve(self) -> Application:
        """What serves its requests."""

    @property
    def heads(self) -> "Heads":
        """Those of all connections that are open."""

    @property
    def stopping(self) -> bool:
        """Whether no further request will be answered."""

    async def write(self, data: bytes, behind: bytes = b"") -> None:
        """Takes bytes for the socket."""

    def set_idle(self, idle: bool) -> None:
        """Whether the connection waits for a request."""

    def end(self) -> None:
        """Ends the connection behind an answer."""

    def break_off(self) -> None:
        """Ends the connection behind an answer that has no end."""

    def take_now(self, most: int) -> bytes:
        """What the socket has already, up to `most` bytes."""

    async def read_ahead(self) -> None:
        """Reads the socket until cancelled."""

    def take_ahead(self) -> bytes:
        """What `read_ahead` has read."""


@final
class Http11(H11Protocol):
    """HTTP/1.1 on one connection, one request at a time."""

    client: tuple[str, int] | None
    server: tuple[str, int] | None

    def __init__(
        self,
        owner: Owner,
        task_group: "TaskGroup",
        client: tuple[str, int] | None,
        address: tuple[str, int] | None,
    ) -> None:
        # Not Hypercorn's: it makes events, states and h11's connection, 2 kB, which nearly no
        # connection needs.
        self.task_group = task_group
        self.client = client
        self.server = address
        self._owner = owner
        self.write = owner.write
        self._behind: trio.CancelScope | None = None
        self._h11: h11.Connection | None = None
        self._between: Framing = NO_REQUEST
        self.framing: Framing = NO_REQUEST
        self._request: ClientRequest | None = None
        self._known: Known | None = None
        self._over = False
        self._waiting: trio.lowlevel.Task | None = None
        self._next: ClientRequest | None = None

    async def take(self, data: bytes) -> None:
        """Takes bytes of the client."""
        while data and not self.framing.has_said_all:
            if isinstance(self.framing, LengthFraming):
                data = await self._take_body(self.framing, data)
                continue
            begun = None
            if self._is_between_requests:
                # Some clients send an empty line behind a body (RFC 9112 2.2).
                data = data.removeprefix(b"\r\n")
                if not data:
                    return
                begun = self._read_head(data)
            if begun is None:
                connection = self._meet_h11()
                connection.receive_data(data)
                await self._read_events(connection)
                return
            heading, closes, length, size = begun
            self.framing = framing = LengthFraming(length, closes=closes)
            body, data = framing.take(self._behind_head(data, size, length))
            self._begin(heading, length, None if framing.uploading else body)
            if framing.uploading and self._request is not None:
                await self._request.take_body(body, more=True)
            if data:
                data = await self._take_behind(framing, data)

    @property
    def _is_between_requests(self) -> bool:
        """Whether h11 has nothing: no request, and no byte of the next one."""
        met = self._h11
        if met is None:
            return True  # the usual case, and to ask h11 takes as long as to read a head
        return met.their_state is h11.IDLE and not met.trailing_data[0]

    def _meet_h11(self) -> h11.Connection:
        """What comes next is for h11 to read, and its answer for h11 to frame."""
        if self._h11 is None:
            most = self._owner.config.h11_max_incomplete_size
            self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=most)
            read_strictly(self._h11)
            self._between = H11Framing(self._h11)
        self.framing = self._between
        return self._h11

    def _read_head(self, data: bytes) -> tuple[Heading, bool, int, int] | None:
        """What the head says that `data` begins with, whether it is the last, the length of its
        body and its own; None if it is h11's to read."""
        known = self._known
        if known is not None and (found := like(known.head, data)) is not None:
            return known.heading, known.head.closes, *found
        head = read_request(data)
        if head is None:
            return None
        heads, bytes_of = self._owner.heads, (head.before, head.behind)
        known = heads.get(bytes_of)
        if known is None:
            known = heads[bytes_of] = Known(head)
        self._known = known
        return known.heading, head.closes, head.length, head.size

    def _behind_head(self, data: bytes, size: int, length: int) -> bytes:
        """What is behind a head of `size` bytes, and what of its body is there already behind a
        read that brought all it may."""
        missing = size + length - len(data)
        if missing <= 0 or len(data) < MAX_RECV:
            return data[size:]
        more = self._owner.take_now(min(missing, AT_ONCE_BYTES))
        return b"".join((memoryview(data)[size:], more))

    async def _take_body(self, framing: LengthFraming, data: bytes) -> bytes:
        """Takes what belongs to the request in flight. Returns what is to be looked at next."""
        if self._request is not None and framing.uploading:
            body, data = framing.take(data)
            await self._request.take_body(body, more=framing.uploading)
        return await self._take_behind(framing, data)

    async def _take_behind(self, framing: LengthFraming, data: bytes) -> bytes:
        """The same for what is behind the body."""
        # The answer may have ended while the last piece waited for room: then there is no turn to
        # wait for, and nobody to end the wait.
        if data and self.framing is framing and not framing.has_said_all:
            data += await self._wait_for_turn()
        return data

    async def _read_events(self, connection: h11.Connection) -> None:
        """Takes what h11 finds in the bytes so far. `Upgrade` is ignored (RFC 9110 7.8)."""
        while not self.framing.has_said_all:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(connection, error.error_status_hint)
                return
            if isinstance(event, h11.Request):
                if is_ambiguous(event):
                    await self._refuse(connection, HTTPStatus.BAD_REQUEST)
                    return
                fields = list(event.headers)
                lengths = [int(value) for name, value in fields if name == LENGTH]
                heading = Heading(event.method, event.target, event.http_version, fields)
                self._begin(heading, lengths[0] if lengths else None, None)
            elif event is h11.PAUSED:
                ahead = await self._wait_for_turn()
                if ahead:  # to h11 no bytes are the end of the connection
                    connection.receive_data(ahead)
            elif self._request is None:
                return
            elif isinstance(event, h11.Data):
                await self._request.take_body(bytes(event.data), more=True)
            elif isinstance(event, h11.EndOfMessage):
                await self._request.take_body(b"", more=False)
            else:
                return  # h11 needs data, or the client has said that it is leaving

    # -- who serves --------------------------------------------------------------------------

    def _begin(self, heading: Heading, length: int | None, whole: bytes | None) -> None:
        """Hands a request to the task that waits for one, or to a new one."""
        self._owner.set_idle(False)
        self._request = request = ClientRequest(self, heading, length, whole)
        if self._waiting is None:
            # The first; or the one before is answered, and not over yet.
            self.task_group.spawn(self._serve, request)
        else:
            self._next = request
            self._wake()

    async def _serve(self, request: ClientRequest) -> None:
        """Serves one request after another: a task costs 20 us and a scope 10, and the turn of a
        task that waits a fifth of that."""
        following: ClientRequest | None = request
        while following is not None:
            first, following = following, None
            with trio.CancelScope() as scope:
                following = await self._serve_within(scope, first)
            if scope.cancel_called:
                following = await self._another()

    async def _serve_within(
        self, scope: trio.CancelScope, request: ClientRequest
    ) -> ClientRequest | None:
        """The same until one ends the scope. None if none will come."""
        following: ClientRequest | None = request
        while following is not None:
            following.scope = scope
            try:
                await self._owner.serve(following)
            finally:
                following.application_ended()
            if scope.cancel_called:
                return None
            if scope.deadline != math.inf:
                scope.deadline = math.inf  # it was for this one
            following = await self._another()
        return None

    async def _another(self) -> ClientRequest | None:
        """The next request. None if none will come, or another task waits for it."""
        if self._over or self._waiting is not None:
            return None
        self._waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._give_up)
        following, self._next = self._next, None
        return following

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def over(self) -> None:
        """The client is gone, or the connection has ended: tells who answers, and takes no more."""
        self._over = True
        self.client_left()
        self._close_request()
        self._wake()

    # -- the request in flight ---------------------------------------------------------------

    def _close_request(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.close()

    async def _wait_for_turn(self) -> bytes:
        """More has come than the request that is being answered (or it asked for an upgrade).

        Returns what has come meanwhile.
        """
        with trio.CancelScope() as self._behind:
            await self._owner.read_ahead()
        self._behind = None
        return self._owner.take_ahead()

    async def _refuse(self, connection: h11.Connection, status: int) -> None:
        """What cannot be read has no route and no id; its answer is a bare status."""
        if connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            data = self.head(status, b"", [(LENGTH, b"0")])
            await self.write(data + self.framing.end())
        self.client_left()
        self._close_request()
        self._owner.end()

    async def invite_body(self) -> None:
        """The application wants the body: says so to a client that waits to be asked."""
        met = self._h11
        if met is not None and met.they_are_waiting_for_100_continue:
            invitation = h11.InformationalResponse(status_code=100, headers=[])
            await self.write(met.send(invitation) or b"")

    @property
    def uploading(self) -> bool:
        """Whether a body has begun and not ended, or was not HTTP."""
        return self.framing.uploading

    def head(self, status: int, lines: bytes, told: Fields) -> bytes:
        """The bytes of a response head: its `lines`, and what is `told` to the framing."""
        close = self._owner.stopping or self.uploading
        return answer_head(self.framing, status, lines, told, close=close)

    def finish_answer(self) -> None:
        """The answer is out: makes the connection ready for the next request, or closes it.

        Has no checkpoint: the task that sent the answer may be cancelled by now.
        """
        self._close_request()
        if not self.framing.renew():
            self._owner.end()
            return
        self.framing = self._between
        self._owner.set_idle(True)
        if self._behind is not None:
            self._behind.cancel()

    def break_off(self) -> None:
        """The answer in flight stays without its end, and the connection takes no other request."""
        self._owner.break_off()

    def client_left(self) -> None:
        """Tells the request in flight, if there is one, that nobody waits for its answer."""
        if self._request is not None:
            self._request.client_left()

"""What a client connection owns, and every workaround of the server beneath it.

Hypercorn's connection classes are subclassed here and, the protocol's half, in `http11.py`, against
the exact version pyproject.toml pins. Each difference from Hypercorn 0.18 is one of these. Each has
a test in test_connection.py or test_http11.py, which also shows what Hypercorn itself does:

    one write per message     It writes head, body and end of a plain answer apart. Here what the
                              kernel takes at once costs neither a lock nor a checkpoint.
    ordinary requests         It asks h11 about each. Here one whose head `sansio/heads.py` can read
                              never meets h11, and of any other h11 is told only those headers of
                              the answer that frame it (framing.py).
    no task per request       It starts one for each, and starts and cancels another for the
                              keep-alive timeout; here one task serves a connection's requests, and
                              one clock of the server's looks after all connections.
    no ASGI                   It makes a scope and messages of each request. Here an application is
                              handed the request itself (request.py), and ASGI is spoken with who
                              wants it (asgi.py).
    the end of an answer      It recycles a connection inside the application's last `send`, which
                              Quart-Trio cancels: `Connection: close` is not honoured then, and an
                              idle connection never expires. Here nothing waits after that write.
    a departed client         is told to the application by a callback, at once, also while a
                              request waits behind another one (it reads nothing then), and its
                              socket is closed, so that a write that waits for it ends too.
    a broken answer           It closes the connection at once. Here it does so a moment later: some
                              clients throw away what they had not looked at when a body breaks off.
    a stalled client          Its `send_all` is shielded, without a deadline. A client that takes
                              nothing for `STALL_SECONDS` is reset from our side.
    a refused upload          An application may answer without reading the body. It waits for ever
                              to tell that application something, and to close a socket with unread
                              bytes in it takes the answer along. Here the rest is read and dropped
                              for a while; and `100 Continue` waits until the body is wanted.
    HTTP/1.1 only             no h2c upgrade, no HTTP/2 prior knowledge, no WebSocket: nothing here
                              speaks them, and cancelled HTTP/2 streams crash Hypercorn (its #352).
"""

import math
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, final
from weakref import WeakValueDictionary

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.utils import parse_socket_addr

from arbstr.trio_runtime.server.client_socket import (
    proc_address,
    receive,
    receive_now,
    send_queue,
    write_now,
)
from arbstr.trio_runtime.server.http11 import Application, Heads, Http11

STALL_SECONDS: Final = 60.0
"""A client that takes not one byte of its answer, or sends less than `UPLOAD_BYTES` of its
half-sent body, for so long is cut (nginx's send_timeout and client_body_timeout are as long)."""

UPLOAD_BYTES: Final = 30_000
"""What is to come of a half-sent body in each `STALL_SECONDS`, so that a byte now and then does not
hold a connection and memory for ever: 500 bytes a second (Apache's mod_reqtimeout asks the same). A
slow circuit of Tor carries ten times that."""

KEEP_ALIVE_SECONDS: Final = 75.0
"""Longer than any client keeps an idle connection for reuse (httpx 5 s, undici 4 s), so that it is
the client who closes first and no request meets a closing socket (nginx's default). A head must
have come whole by then, too."""

LINGER_SECONDS: Final = 30.0
LINGER_IDLE_SECONDS: Final = 5.0
"""How long the rest of an upload that was refused is read and dropped, and how long a pause in it
may be (nginx's lingering_time and lingering_timeout). A sender that is cut off meanwhile does not
read its answer."""

BREAK_OFF_SECONDS: Final = 0.5
"""How long an answer without its end lies with the client before the connection closes. At once,
the OpenAI Node SDK lost the error event in 42 of 60 streams it read with 2 ms for each event, and
aiohttp in 21 of 60; with 0.2 s in none (measured)."""

LAST_CALL_SECONDS: Final = 0.2
"""How long a connection that waits for its next request still takes one when the server stops: it
may be in the socket already, or accepted and not looked at. Picked; a request over loopback needs
less than a millisecond, and this is what a stop waits for idle clients."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Request heads. Hypercorn's 16 kB is little for cookies of a localhost shared by many tools."""

READ_AHEAD_BYTES: Final = 64 * 1024
"""What is read of requests that wait behind another one, only to notice a departed client."""


def hypercorn_config() -> HypercornConfig:
    """Hypercorn's settings. Binding and shutdown are ours, so only the protocol's matter."""
    config = HypercornConfig()
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    return config


class Connections:
    """Those of one server, and what holds for all of them (server.py accepts and ends them).

    `writing` are those in a write that waits; `next_look` is when the first of them may be over.
    """

    def __init__(
        self,
        app: Application,
        *,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
        break_off_seconds: float = BREAK_OFF_SECONDS,
        last_call_seconds: float = LAST_CALL_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.config = hypercorn_config()
        self.serve_request = app
        self.keep_alive_seconds = keep_alive_seconds
        self.break_off_seconds = break_off_seconds
        self.last_call_seconds = last_call_seconds
        self.stall_seconds = stall_seconds
        self.stopping = False
        self.write_now = write_now
        self.heads: Heads = WeakValueDictionary()
        self.connections: set[ClientConnection] = set()
        self.writing: set[ClientConnection] = set()
        self.next_look = trio.CancelScope()


@final
class ClientConnection(TCPServer):
    """One accepted socket, from accept to close."""

    def __init__(self, server: Connections, stream: trio.SocketStream) -> None:
        # Not Hypercorn's, as in http11.py: its idle task, the lock of that, and ASGI's state.
        self.config = server.config
        self.send_lock = trio.Lock()
        self.stream = stream  # type: ignore[assignment]  # Hypercorn annotates the TLS case only
        self._server = server
        self._http: Http11
        self._scope = trio.CancelScope()
        self._idle = True
        self.expires = math.inf
        self._lingers_until: float | None = None
        self._upload_began: float | None = None
        self._uploaded = 0
        self._ahead = bytearray()
        self._writes = 0
        self._stalled_since: float | None = None
        self._last_progress: object = None

    @property
    def serve(self) -> Application:
        """What serves its requests."""
        return self._server.serve_request

    @property
    def heads(self) -> Heads:
        """Those of all connections that are open."""
        return self._server.heads

    @property
    def stopping(self) -> bool:
        """Whether no further request will be answered."""
        return self._server.stopping

    async def run(self) -> None:
        """Serves the connection until either side closes it."""
        self._server.connections.add(self)
        try:
            sock = self.stream.socket
            client = parse_socket_addr(sock.family, sock.getpeername())
            address = parse_socket_addr(sock.family, sock.getsockname())
            async with TaskGroup() as task_group:
                self._http = Http11(self, task_group, client, address)
                self._expire_at(trio.current_time() + self._server.keep_alive_seconds)
                if self.stopping:
                    self.close_if_idle()
                with self._scope:
                    await self._read_data()
                self.close()
                self._http.over()
        except OSError:
            pass  # getpeername of a client that is already gone
        finally:
            self._server.connections.discard(self)  # `trio.serve_listeners` closes the socket

    async def _read_data(self) -> None:
        is_full = False
        while True:
            data = await self._receive(at_once=is_full)
            is_full = False
            if not data:
                return
            if self._lingers_until is not None:
                now = trio.current_time()
                self._expire_at(min(self._lingers_until, now + LINGER_IDLE_SECONDS))
                continue
            size = len(data)
            await self._http.take(data)
            del data  # up to 64 kB, while what comes next may be long in coming
            is_full = size == MAX_RECV and self._http.uploading
            if self._idle or self._lingers_until is not None:
                continue  # its time is set
            if self._http.uploading:
                self._expect_more(size)
            else:
                self._upload_began = None
                self._expire_at(math.inf)

    def _expire_at(self, when: float) -> None:
        """The connection ends then, unless another time is set before.

        Each request sets two, none of which comes: to move a deadline of Trio's takes 7 us.
        """
        self.expires = when
        if when < self._server.next_look.deadline:
            self._server.next_look.deadline = when

    def expire(self) -> None:
        """Its time has come."""
        self.expires = math.inf
        self._scope.cancel()

    def _expect_more(self, size: int) -> None:
        """So many bytes of a body have come, and there are more to come."""
        self._uploaded += size
        if self._upload_began is None or self._uploaded >= UPLOAD_BYTES:
            self._upload_began, self._uploaded = trio.current_time(), 0
        self._expire_at(self._upload_began + self._server.stall_seconds)

    async def _receive(self, *, at_once: bool = False) -> bytes:
        """Bytes of the client; none once it is gone, which a half-closed connection is, too.

        `at_once`: more of a body is probably there, and a turn of Trio's costs as much as to copy
        all of it. Who takes it makes us wait (`Inbox`).
        """
        sock = self.stream.socket
        try:
            data = receive_now(sock, MAX_RECV) if at_once else None
            if data is None:
                data = await receive(sock)
        except (trio.ClosedResourceError, OSError):
            return b""
        # A request that comes in the same moment as the end of its connection is not begun.
        return b"" if self._scope.cancel_called else data

    def take_now(self, most: int) -> bytes:
        """What is there already, up to `most` bytes, without waiting."""
        # The end of the connection is told to the read that waits, too.
        return receive_now(self.stream.socket, most) or b""

    async def read_ahead(self) -> None:
        """Reads on while an answer is under way, until cancelled, to notice a departed client."""
        self._expire_at(math.inf)  # an answer may take as long as it takes
        while len(self._ahead) < READ_AHEAD_BYTES:
            data = await self._receive()
            if not data:
                self._scope.cancel()
                break
            self._ahead += data
        await trio.sleep_forever()

    def take_ahead(self) -> bytes:
        """What `read_ahead` has read."""
        data, self._ahead = bytes(self._ahead), bytearray()
        return data

    async def write(self, data: bytes, behind: bytes = b"") -> None:
        """Takes bytes for the socket."""
        self._writes += 1
        sent = 0
        if self.send_lock.locked():
            await self.send_lock.acquire()
        else:
            sent = self._server.write_now(self.stream.socket, data, behind)
            if sent == len(data) + len(behind):
                return  # the usual case: no scope, no lock, no checkpoint
            self.send_lock.acquire_nowait()
        self._server.writing.add(self)
        try:
            # Half a chunk on the wire would garble everything after it, so nothing but the end
            # of the socket ends a write: the client leaving, or `close` (stall, shutdown).
            with trio.CancelScope(shield=True):
                for part in (data, behind):
                    if sent < len(part):
                        await self.stream.send_all(memoryview(part)[sent:])
                    sent = max(0, sent - len(part))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            gone = True
        else:
            gone = False
        finally:
            self._server.writing.discard(self)
            self.send_lock.release()
        if gone:
            self._http.client_left()
            await trio.lowlevel.checkpoint()  # where an application that was told so ends

    def set_idle(self, idle: bool) -> None:
        """Whether it waits for a request."""
        self._idle = idle
        if idle and self.stopping:
            self._scope.cancel()
        elif idle:
            self._expire_at(trio.current_time() + self._server.keep_alive_seconds)

    def break_off(self) -> None:
        """No further request, and the answer has no end: closes the socket in a moment."""
        if self._http.uploading or self._lingers_until is not None:
            self.end()
        else:
            self._lingers_until = trio.current_time() + self._server.break_off_seconds
            self._expire_at(self._lingers_until)

    def end(self) -> None:
        """No further request: closes the socket, once a client that still sends has its answer."""
        if self._http.uploading and self._lingers_until is None:
            now = trio.current_time()
            self._lingers_until = now + LINGER_SECONDS
            self._expire_at(now + LINGER_IDLE_SECONDS)
            with suppress(OSError):
                self.stream.socket.shutdown(socket.SHUT_WR)
        else:
            self.close()
            self._scope.cancel()  # the reader may wait for the application, not the socket

    def close_if_idle(self) -> None:
        """Ends a connection that waits for its next request, unless that is on its way."""
        if self._idle:
            last_call = trio.current_time() + self._server.last_call_seconds
            self._expire_at(min(self.expires, last_call))

    def close(self) -> None:
        """Closes the socket; whoever reads or writes it is woken."""
        with suppress(OSError):
            # A FIN after what was written, and whoever waits on the socket gets ClosedResource.
            self.stream.socket.close()

    def cut_if_stalled(self, now: float, unread: Mapping[tuple[str, str], str]) -> None:
        """Resets the connection if the pending write has made no progress. Asked now and then."""
        sock = self.stream.socket
        with suppress(OSError):  # it is closed already
            ends = proc_address(sock.getpeername()), proc_address(sock.getsockname())
            progress = (self._writes, send_queue(sock), unread.get(ends))
            if self._stalled_since is None or progress != self._last_progress:
                self._stalled_since, self._last_progress = now, progress
            elif now - self._stalled_since >= self._server.stall_seconds:
                # A reset, for it frees what the kernel holds for this client.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close()

"""Connections to providers: kept per origin, handed out for one exchange each, never leaked.

The owner of a `Connection` is who called `connect`; this pool holds the idle ones only, so there
is no slot to lose and nobody ever waits for one. What must not happen (httpcore #1093: a request
cancelled while the pool is full blocks a slot for good) has no place to happen in.

`Transport` is an `httpx.AsyncBaseTransport`, too, for callers who want httpx's types.
"""

import math
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar, final

import httpx
import trio

from arbstr.trio_runtime.connect import ConnectFailed, Origin, open_pipe
from arbstr.trio_runtime.http11 import Connection, Link, RequestHead, SendFailed
from arbstr.trio_runtime.readers import AnswerBroken, Head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = [
    "AnswerBroken",
    "ConnectFailed",
    "Connection",
    "Head",
    "Origin",
    "RequestHead",
    "SendFailed",
    "Transport",
    "TransportStatistics",
]

_T = TypeVar("_T")


@final
@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """Sockets now: `open` counts all of them, `idle` those that wait for a next request."""

    open: int
    idle: int


@final
class Transport(httpx.AsyncBaseTransport):
    """One per process. `async with`, or `aclose`, closes the idle connections at the end.

    `idle_seconds` is how long an unused connection is kept: Routstr nodes close theirs after 5.0 s,
    and a request written to a connection that is just being closed may or may not have been read.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        idle_seconds: float = 4.0,
        max_idle_per_origin: int = 32,
    ) -> None:
        self._ssl_context = ssl_context
        self._idle_seconds = idle_seconds
        self._max_idle = max_idle_per_origin
        self._idle: dict[Origin, deque[Link]] = {}
        self._open = 0
        self._closed = False

    async def connect(self, origin: Origin) -> Connection:
        """The connection of that origin that was used last, if it is healthy, or a new one.

        Raises ConnectFailed, or `trio.ClosedResourceError` after `aclose`. The caller owns the
        result and must `release` it; a cancelled call leaves nothing behind.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        kept = self.kept(origin)
        if kept is not None:
            return kept
        link = Link(origin, await open_pipe(origin, self._ssl_context))
        self._open += 1
        return Connection(link, self._take_back, reused=False)

    def kept(self, origin: Origin) -> Connection | None:
        """A healthy idle connection of that origin, if there is one. As `connect`, but at once."""
        if self._closed:
            raise trio.ClosedResourceError("the transport was closed")
        self.close_expired()
        links = self._idle.get(origin)
        while links:
            link = links.pop()
            if link.pipe.quiet():
                return Connection(link, self._take_back, reused=True)
            self._close(link)
        return None

    def close_expired(self) -> None:
        """Closes what has been idle for too long. `connect` does so, an idle process may."""
        oldest = trio.current_time() - self._idle_seconds
        for links in self._idle.values():
            while links and links[0].idle_since <= oldest:
                self._close(links.popleft())

    def statistics(self) -> TransportStatistics:
        """How many sockets there are."""
        return TransportStatistics(self._open, sum(map(len, self._idle.values())))

    async def aclose(self) -> None:
        """Closes the idle connections. Those in use are closed when their owners release them."""
        self._closed = True
        for links in self._idle.values():
            while links:
                self._close(links.pop())
        await trio.lowlevel.checkpoint()

    def _take_back(self, link: Link, reusable: bool) -> None:
        if self._closed or not reusable:
            self._close(link)
            return
        link.idle_since = trio.current_time()
        links = self._idle.setdefault(link.origin, deque())
        links.append(link)
        if len(links) > self._max_idle:
            self._close(links.popleft())

    def _close(self, link: Link) -> None:
        self._open -= 1
        link.pipe.close()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The same as httpx's interface: its exceptions, and its four timeouts but `pool`."""
        try:
            origin = Origin.of(request.url)
        except ValueError as error:
            raise httpx.UnsupportedProtocol(str(error), request=request) from None
        body = await request.aread()
        framing = (b"content-length", b"transfer-encoding")
        head = RequestHead.prepare(
            request.method.encode("ascii"),
            request.url.raw_path,
            [pair for pair in request.headers.raw if pair[0].lower() not in framing],
        )
        while True:
            connect = partial(self.connect, origin)
            connection = await _as_httpx(request, httpx.ConnectTimeout, connect)
            try:
                send = partial(connection.send, head, body)
                await _as_httpx(request, httpx.WriteTimeout, send)
                answer = await _as_httpx(request, httpx.ReadTimeout, connection.receive_head)
            except httpx.WriteError:
                connection.release()
                if connection.reused:
                    continue  # not a byte was written
                raise
            except BaseException:
                connection.release()
                raise
            return httpx.Response(
                answer.status,
                headers=list(answer.headers),
                stream=_Body(connection, request),
                extensions={"http_version": b"HTTP/1.1", "reason_phrase": answer.reason},
            )


@final
class _Body(httpx.AsyncByteStream):
    """The body of an answer as httpx reads it."""

    def __init__(self, connection: Connection, request: httpx.Request) -> None:
        self._connection = connection
        self._request = request

    def __aiter__(self) -> "AsyncIterator[bytes]":
        return self

    async def __anext__(self) -> bytes:
        receive = self._connection.receive_some
        data = await _as_httpx(self._request, httpx.ReadTimeout, receive)
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        await self._connection.aclose()


_PHASES: Final[Mapping[type[httpx.TimeoutException], str]] = MappingProxyType(
    {httpx.ConnectTimeout: "connect", httpx.WriteTimeout: "write", httpx.ReadTimeout: "read"}
)
"""Which of the request's timeouts a timeout exception belongs to."""


async def _as_httpx(
    request: httpx.Request,
    too_slow: type[httpx.TimeoutException],
    call: "Callable[[], Awaitable[_T]]",
) -> _T:
    """Awaits `call` with httpx's deadline for that phase and httpx's exceptions."""
    phase = _PHASES[too_slow]
    seconds = request.extensions.get("timeout", {}).get(phase)
    try:
        with trio.fail_after(math.inf if seconds is None else seconds):
            return await call()
    except trio.TooSlowError:
        raise too_slow(f"{phase} timed out", request=request) from None
    except ConnectFailed as error:
        raise httpx.ConnectError(error.sentence, request=request) from error
    except SendFailed as error:
        raise httpx.WriteError(error.sentence, request=request) from error
    except AnswerBroken as error:
        raise httpx.RemoteProtocolError(error.sentence, request=request) from error

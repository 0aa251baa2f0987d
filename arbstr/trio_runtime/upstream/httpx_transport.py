"""The same transport for callers who speak httpx: `HttpxTransport(Transport())`.

arbstr itself does not: `call.py` asks the connections what was written and read, which httpx's
interface has no place for, and never loads httpx.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar, final

import httpx
import trio

from arbstr.trio_runtime.upstream.connect import Origin
from arbstr.trio_runtime.upstream.http11 import Connection, RequestHead, SendFailed
from arbstr.trio_runtime.upstream.pipe import ConnectFailed
from arbstr.trio_runtime.upstream.readers import AnswerBroken
from arbstr.trio_runtime.upstream.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_T = TypeVar("_T")


@final
class HttpxTransport(httpx.AsyncBaseTransport):
    """`connections` behind httpx's interface; closed with it."""

    def __init__(self, connections: Transport) -> None:
        self._connections = connections

    async def aclose(self) -> None:
        """Closes the idle connections."""
        await self._connections.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx's interface: its exceptions, and its four timeouts but `pool`."""
        try:
            origin = Origin.of(str(request.url))
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
            connect = partial(self._connections.connect, origin)
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
    call: Callable[[], Awaitable[_T]],
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

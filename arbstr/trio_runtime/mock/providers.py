"""The mock providers of `arbstr run --mock`: real HTTP servers on loopback, no network, no money.

    async with open_mock_providers(["mock-cheap", "mock-expensive"]) as urls:
        ...                     # urls["mock-cheap"] == "http://127.0.0.1:40123/v1"

Each provider listens on a port of its own and speaks HTTP/1.1 through h11, so everything between
arbstr and a provider (sockets, framing, keep-alive) is what it would be with a real one. The
answers are made of the request alone: the same request is answered with the same words and the
same usage, only the id counts up. A provider in `failing` answers every request with a 503.
What is said at which path, `answers.py` knows.

`delay` is how long a provider thinks before it answers; the events of a stream then follow at a
tenth of it. Without a delay a stream is written in one piece, which costs the least CPU.
"""

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from typing import Final, final

import h11
import trio

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Rates
from arbstr.trio_runtime.mock.answers import DOORS, answered
from arbstr.trio_runtime.mock.said import CREATED, JSON, dump

MOCK_RATES: Final = Rates(Decimal(10), Decimal(30))
"""Of a mock in the place of a node that is asked for its prices."""

MOCK_CONFIG: Final = """\
[server]
listen = "127.0.0.1:8080"

[[providers]]
name = "mock-cheap"
url = "http://127.0.0.1:1/v1"    # its port is known once it listens, and replaced then
models = ["gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet"]
kind = "openai"
input_rate = 1
output_rate = 3

[[providers]]
name = "mock-expensive"
url = "http://127.0.0.1:1/v1"
models = ["gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet"]
kind = "openai"
input_rate = 10
output_rate = 30
base_fee = 1

[[policies.rules]]
name = "code_generation"
allowed_models = ["claude-3.5-sonnet", "gpt-4o"]
strategy = "cheapest"
max_sats_per_1k_output = 50
keywords = ["code", "function", "implement"]
"""
"""What `run --mock` reads instead of a file, with the placeholder URLs replaced after parsing."""

_MODELS: Final = ("claude-3.5-sonnet", "gpt-4o", "gpt-4o-mini")
_PACE: Final = 0.1
"""The pause between two events of a stream, as a part of `delay` (picked)."""
_READ: Final = 65_536
"""Bytes taken from the socket at once; h11's and trio's own size."""


@final
@dataclass(frozen=True, slots=True)
class MockProvider:
    """One mock: its `name` is in every answer; `delay` is in seconds; `fail` answers with 503."""

    name: str
    fail: bool
    delay: float


@asynccontextmanager
async def open_mock_providers(
    names: Iterable[str], *, delay: float = 0.0, failing: frozenset[str] = frozenset()
) -> AsyncIterator[Mapping[str, str]]:
    """Serve one mock provider per name until the block ends; yields name -> base URL (".../v1").

    `delay` in seconds, see the module. OSError if no port can be had. Leaving the block cuts the
    answers that are still being written.
    """
    async with trio.open_nursery() as nursery:
        urls = {}
        for name in names:
            provider = MockProvider(name, name in failing, delay)
            handler = partial(_serve, provider=provider, ids=itertools.count(1))
            # serve_tcp owns the listener it opens; start() hands out its port.
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
            )
            urls[name] = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1"
        yield urls
        nursery.cancel_scope.cancel()


async def _serve(stream: trio.SocketStream, provider: MockProvider, ids: Iterator[int]) -> None:
    """One connection of a client, request after request, until one side ends it."""
    connection = h11.Connection(h11.SERVER)
    try:
        while (request := await _read_request(stream, connection)) is not None:
            await _answer(stream, connection, provider, ids, *request)
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except trio.BrokenResourceError:
        pass  # The client left in the middle: arbstr does so whenever its own client leaves.
    except h11.RemoteProtocolError as error:
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await _refuse(stream, connection, HTTPStatus(error.error_status_hint))


async def _read_request(
    stream: trio.SocketStream, connection: h11.Connection
) -> tuple[h11.Request, bytes] | None:
    """The next request with its whole body; None when the client has closed."""
    request = None
    body = bytearray()
    while True:
        event = connection.next_event()
        match event:
            case h11.Request():
                request = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                if request is not None:
                    return request, bytes(body)
            case h11.ConnectionClosed():
                return None
            case h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await stream.send_all(connection.send(go_on))
                connection.receive_data(await stream.receive_some(_READ))
            case _:
                return None  # PAUSED: an upgrade, which nobody offers here.


async def _answer(
    stream: trio.SocketStream,
    connection: h11.Connection,
    provider: MockProvider,
    ids: Iterator[int],
    request: h11.Request,
    body: bytes,
) -> None:
    path = request.target.split(b"?")[0]
    read = DOORS.get(path)
    if path == b"/v1/models" and request.method == b"GET":
        await _send_json(stream, connection, 200, _model_list(provider))
    elif read is None and path != b"/v1/models":
        await _refuse(stream, connection, HTTPStatus.NOT_FOUND, silent=request.method == b"HEAD")
    elif read is None or request.method != b"POST":
        status = HTTPStatus.METHOD_NOT_ALLOWED
        await _refuse(stream, connection, status, silent=request.method == b"HEAD")
    elif provider.fail:
        reason = f"{provider.name} was told to fail"
        await _refuse(stream, connection, HTTPStatus.SERVICE_UNAVAILABLE, reason)
    else:
        reply = answered(read, provider.name, body, ids)
        if isinstance(reply, str):
            await _refuse(stream, connection, HTTPStatus.BAD_REQUEST, reply)
            return
        await trio.sleep(provider.delay)
        if reply.stream:
            await _send_stream(stream, connection, reply.events(), provider.delay * _PACE)
        else:
            await _send_json(stream, connection, 200, reply.whole())


def _model_list(provider: MockProvider) -> JSON:
    models = [
        {"id": model, "object": "model", "created": CREATED, "owned_by": provider.name}
        for model in _MODELS
    ]
    return {"object": "list", "data": models}


async def _refuse(
    stream: trio.SocketStream,
    connection: h11.Connection,
    status: HTTPStatus,
    reason: str | None = None,
    *,
    silent: bool = False,
) -> None:
    """Send an error in OpenAI's shape; `silent` leaves the body out, for HEAD."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error = {"message": reason or status.phrase, "type": kind, "param": None, "code": "mock_error"}
    await _send_json(stream, connection, status.value, {"error": error}, silent=silent)


async def _send_json(
    stream: trio.SocketStream,
    connection: h11.Connection,
    status: int,
    value: JSON,
    *,
    silent: bool = False,
) -> None:
    body = dump(value)
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    pieces = [connection.send(h11.Response(status_code=status, headers=headers))]
    if not silent:
        pieces.append(connection.send(h11.Data(data=body)))
    pieces.append(connection.send(h11.EndOfMessage()))
    await stream.send_all(b"".join(piece for piece in pieces if piece))


async def _send_stream(
    stream: trio.SocketStream, connection: h11.Connection, events: Iterator[bytes], pause: float
) -> None:
    """Write the events, one at a time `pause` seconds apart, or all at once if it is 0."""
    headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")]
    head = connection.send(h11.Response(status_code=200, headers=headers)) or b""
    if pause > 0:
        await stream.send_all(head)
        head = b""
        for event in events:
            await stream.send_all(connection.send(h11.Data(data=event)) or b"")
            await trio.sleep(pause)
        body = b""
    else:
        body = connection.send(h11.Data(data=b"".join(events))) or b""
    await stream.send_all(head + body + (connection.send(h11.EndOfMessage()) or b""))

"""A conversation over a websocket: a text is said, and texts are heard until one is the last.

    trouble = await converse("wss://...", say, hear)      None, or a sentence about the server

`wsproto` has the protocol, and Hypercorn has it here already; the bytes go over a `Pipe`, like all
others to strangers. A client library would bring an event loop's worth of its own (trio-websocket
is written on the same `wsproto`), for what is a loop of thirty lines. Nothing is compressed, since
nothing is offered. How long it may take is the caller's scope.
"""

from collections.abc import Callable
from typing import Final

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from arbstr.sansio.config.addresses import Proxy
from arbstr.trio_runtime.upstream.ask import USER_AGENT
from arbstr.trio_runtime.upstream.connect import Origin, open_pipe, target_of
from arbstr.trio_runtime.upstream.pipe import ConnectFailed, Pipe

MOST_BYTES: Final = 8_000_000
"""Of a whole conversation; a thousand announcements take one."""

MOST_TEXT: Final = 256_000
"""Characters of one message: what relays themselves allow at most."""

_HTTP: Final = {"ws": "http", "wss": "https"}


def http_url(url: str) -> str:
    """The URL of a websocket's handshake. Raises ValueError for what is no websocket's URL."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme.lower() not in _HTTP:
        raise ValueError("must be a ws:// or wss:// URL")
    return f"{_HTTP[scheme.lower()]}://{rest}"


async def converse(
    url: str, say: str, hear: Callable[[str], str | None], *, proxy: Proxy | None = None
) -> str | None:
    """Says the first text, then gives every text that comes to `hear`, until that returns the last
    word, which is said before it is closed. Returns what went wrong: a predicate about the server.

    Raises ValueError for a URL that is none.
    """
    http = http_url(url)
    origin = Origin.of(http, proxy)
    try:
        pipe = await open_pipe(origin)
    except ConnectFailed as error:
        return f"could not be reached: {error.sentence}"
    try:
        return await _talk(pipe, origin.authority.decode(), target_of(http).decode(), say, hear)
    except OSError:
        return "broke off: the connection was reset"
    except (ProtocolError, ValueError):
        # wsproto's word for what is no websocket; ValueError: bytes that are no text.
        return "speaks no websocket"
    finally:
        pipe.close()


async def _talk(
    pipe: Pipe, host: str, target: str, say: str, hear: Callable[[str], str | None]
) -> str | None:
    machine = WSConnection(ConnectionType.CLIENT)
    headers = [(b"user-agent", USER_AGENT)]
    await _send(pipe, machine.send(Request(host=host, target=target, extra_headers=headers)))
    received, text = 0, ""
    while True:
        await pipe.wait_readable()
        data = pipe.receive_nowait()
        received += len(data)
        if received > MOST_BYTES:
            return f"sent more than {MOST_BYTES} bytes"
        if not data:
            if pipe.ended is None:
                continue  # TLS's own business
            return f"broke off: {pipe.ended}"
        machine.receive_data(data)
        for event in machine.events():
            match event:
                case AcceptConnection():
                    await _send(pipe, machine.send(TextMessage(say)))
                case RejectConnection(status_code=status):
                    return f"answered status {status} where a websocket was asked for"
                case TextMessage(data=part, message_finished=finished):
                    text += part
                    if len(text) > MOST_TEXT:
                        return f"sent a message of more than {MOST_TEXT} characters"
                    if finished:
                        last, text = hear(text), ""
                        if last is not None:
                            goodbye = machine.send(TextMessage(last))
                            await _send(pipe, goodbye + machine.send(CloseConnection(1000)))
                            return None
                case Ping():
                    await _send(pipe, machine.send(event.response()))
                case CloseConnection(code=code):
                    return f"ended the conversation (code {int(code)})"
                case _:
                    pass  # bytes and pongs nobody asked for


async def _send(pipe: Pipe, data: bytes) -> None:
    await pipe.send_raw(b"".join(pipe.protect(memoryview(data))))

"""The client's side of one chat request: its answer, as ASGI messages.

The head of a stream leaves with the first bytes of its body, in one write. The keep-alive task
may write while the main task looks for a provider, so writes are put in order here; between two
writes of the main task there is no lock to pay for.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, final

import trio

from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.relay import KEEP_ALIVE, error_event

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

STREAM_HEADERS: Final[Headers] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events
)


@final
class Responder:
    """Answers one client. `send` is the ASGI function, which knows the request's id headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._keep_alive_done: trio.Event | None = None
        self._writing = False
        self.head_sent = False
        self.last_write = trio.current_time()

    async def plain(self, body: bytes, headers: Headers, *, status: int = 200) -> None:
        """A whole answer, in one write."""
        self.head_sent = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": (*headers, (b"content-length", b"%d" % len(body))),
            }
        )
        await self._send({"type": "http.response.body", "body": body})

    async def error(self, error: ErrorReply, headers: Headers = ()) -> None:
        """An error, with its status if there is still a status to give, else as an event."""
        if self.head_sent:
            await self.end(error_event(error))
            return
        await self.plain(
            error.body(),
            ((b"content-type", b"application/json"), *error.headers(), *headers),
            status=error.status,
        )

    async def start(self, headers: Headers) -> None:
        """The head of a stream; nothing happens if a keep-alive had to send one already."""
        if self._keep_alive_done is not None:
            await self._keep_alive_done.wait()
        if not self.head_sent:
            await self._start(headers)

    async def _start(self, headers: Headers) -> None:
        self.head_sent = True
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": (*STREAM_HEADERS, *headers)}
        )

    async def write(self, data: bytes) -> None:
        """Some whole events of a stream. Waits as long as the client's socket is full."""
        await self._body(data, more=True)

    async def end(self, data: bytes) -> None:
        """The last bytes of a stream and its end, in one write."""
        await self._body(data, more=False)

    async def _body(self, data: bytes, *, more: bool) -> None:
        if self._keep_alive_done is not None:
            await self._keep_alive_done.wait()
        self._writing = True
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._writing = False
        self.last_write = trio.current_time()

    async def keep_alive(self, period: float, early_headers: Callable[[], Headers]) -> None:
        """Writes a comment after each `period` seconds of silence, until cancelled.

        The first may have to send the head too, with `early_headers`, while nobody knows yet who
        will answer.
        """
        while True:
            await trio.sleep_until(self.last_write + period)
            if self._writing:
                # The client does not take what it has; it needs no comment to stay awake.
                await trio.sleep(period)
                continue
            if trio.current_time() < self.last_write + period:
                continue
            self._keep_alive_done = done = trio.Event()
            try:
                if not self.head_sent:
                    await self._start(early_headers())
                await self._send(
                    {"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True}
                )
            finally:
                self.last_write = trio.current_time()
                self._keep_alive_done = None
                done.set()


def header(name: str, value: str) -> tuple[bytes, bytes]:
    """One header pair. Names from the configuration may hold any character: not latin-1 is `?`."""
    return name.encode("ascii"), value.encode("latin-1", "replace")


def passed_on(headers: Mapping[str, str]) -> Headers:
    """The headers of an upstream answer that the client may see (an allow-list)."""
    return tuple(
        header(name, value)
        for name, value in headers.items()
        if name.startswith(PASSED_PREFIXES) or name in PASSED_NAMES
    )


PASSED_PREFIXES: Final = ("openai-", "x-routstr-", "x-ratelimit-")
PASSED_NAMES: Final = frozenset({"retry-after"})

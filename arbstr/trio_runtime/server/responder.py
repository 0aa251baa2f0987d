"""The client's side of one request: its answer.

The head of a stream leaves with the first bytes of its body, in one write. A comment may be written
while the request's task looks for a provider, so writes are put in order here; between two writes
of that task there is no lock to pay for.
"""

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Final, final

import trio

from arbstr.sansio.dialects.dialect import Dialect, Headers
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.kinds import PREFIXES
from arbstr.sansio.routing.catalog import redact
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.server.framing import Fields, lines_of
from arbstr.trio_runtime.server.request import LENGTH, Answer

STREAM_HEADERS: Final[Headers] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events
)

NO_CONTENT: Final = 204
"""The one status of ours that must not state a length (RFC 9110 8.6)."""


@final
class Responder:
    """Answers one client. `common` are header lines of every answer.

    `door`: in whose shape errors are and what is said in a stream; None for a route of arbstr's own
    which streams nothing. `received`: since when the client waits, if not since `now()`, by Trio's
    clock.
    """

    def __init__(
        self,
        client: Answer,
        common: bytes = b"",
        *,
        request_id: str = "",
        door: Dialect | None = None,
        received: float | None = None,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._client = client
        self._common = common
        self._request_id = request_id
        self.door = door
        self._commented: trio.Event | None = None
        self.is_writing = False
        self._streaming = False
        self.ended = False
        self.head_sent = False
        self._now = now
        self.last_write = now() if received is None else received

    def leave(self) -> None:
        """The client is gone: what is still said goes nowhere."""
        self._client = NOBODY

    def head(self, status: int, lines: bytes, told: Fields = ()) -> None:
        """The head of an answer: its header `lines`, and those that are `told` to the framing.

        Raises `ValueError` if one of those holds a line end.
        """
        if self.door is not None and self.door.id_header is not None:
            lines += lines_of(((self.door.id_header, self._request_id.encode()),))
        self._client.head(status, lines + self._common, told)
        self.head_sent = True  # not if a header was refused: then there is still an error to give

    async def plain(
        self, body: bytes, headers: Headers = (), *, lines: bytes = b"", status: int = 200
    ) -> None:
        """A whole answer, in one write. `headers` and `lines` both say what its head has."""
        self.ended = True
        if headers:
            lines = lines_of(headers) + lines
        no_content = status == NO_CONTENT and not body
        self.head(status, lines, () if no_content else ((LENGTH, b"%d" % len(body)),))
        await self._client.write(body, more=False)

    async def error(self, error: ErrorReply, headers: Headers = ()) -> None:
        """An error, with its status if there is still a status to give, else as an event.

        Where neither is possible, because a plain answer has begun or a stream has ended, nothing
        is written: a missing rest tells the client.
        """
        door = self.door
        if self._streaming and not self.ended:
            assert door is not None  # others stream nothing
            await self.break_off(door.error_event(error, self._request_id))
        elif not self.head_sent:
            body = error.body() if door is None else door.error(error, self._request_id)
            await self.plain(
                body,
                ((b"content-type", b"application/json"), *error.headers(), *headers),
                status=error.status,
            )

    async def start(self, headers: Headers) -> None:
        """The head of a stream; nothing happens if a comment had to bring one already."""
        if self._commented is not None:
            await self._commented.wait()
        if not self.head_sent:
            self._start(headers)

    def _start(self, headers: Headers) -> None:
        self.head(200, lines_of((*STREAM_HEADERS, *headers)))
        self._streaming = True

    async def end(self, data: bytes) -> None:
        """The last bytes of a stream and its end, in one write."""
        await self.body(data, more=False)

    async def break_off(self, data: bytes) -> None:
        """The last bytes of a stream that is not whole: its error, and no end of the body, unless
        the door wants one.

        The connection closes instead, once the application returns. That is how a client that does
        not know the event learns of it.
        """
        self.ended = True
        await self.body(data, more=self.door is None or not self.door.ends_when_broken)

    async def body(self, body: bytes, *, more: bool) -> None:
        """Some of the body, or the rest. Waits as long as the client's socket is full."""
        if not more:
            self.ended = True
        if self._commented is not None:
            await self._commented.wait()
        self.is_writing = True
        await self._client.write(body, more=more)
        self.is_writing = False
        self.last_write = self._now()

    async def comment(self, early_headers: Callable[[], Headers]) -> None:
        """Says something in a stream, where nothing was said for long (silences.py). What else is
        written waits for it."""
        if self.ended:
            return  # what is written now would belong to the connection's next answer
        assert self.door is not None  # others stream nothing
        self._commented = done = trio.Event()
        try:
            if not self.head_sent:
                self._start(early_headers())
            await self._client.write(self.door.silence, more=True)
        finally:
            self.last_write = self._now()
            self._commented = None
            done.set()


@final
class _Nobody:
    """Takes what is said to a client that is gone."""

    def head(self, status: int, lines: bytes, told: Fields) -> None:
        """Nothing comes of it."""

    async def write(self, body: bytes, *, more: bool) -> None:
        """Nothing comes of it."""
        await trio.lowlevel.checkpoint()


NOBODY: Final = _Nobody()


def header(name: str, value: str) -> tuple[bytes, bytes]:
    """One header pair. Names from the configuration may hold any character: not latin-1 is `?`."""
    return name.encode("ascii"), value.encode("latin-1", "replace")


def policy_header(policy: str | None) -> Headers:
    """The name of the policy that was matched, if one was."""
    return (header("x-arbstr-policy", policy),) if policy is not None else ()


def passed_on(headers: Mapping[str, str], secrets: Collection[Secret]) -> Headers:
    """The headers of an upstream answer that the client may see (an allow-list), redacted."""
    passed = {name: value for name, value in headers.items() if _passes(name)}
    if not passed:
        return ()
    # All at once, because it costs as much as one; a header's value holds no line end.
    values = redact("\n".join(passed.values()), secrets).split("\n")
    return tuple(header(name, value) for name, value in zip(passed, values, strict=False))


@lru_cache(maxsize=500)
def _passes(name: str) -> bool:
    """Cached, because every answer has a dozen, and always the same."""
    return name.startswith(PASSED_PREFIXES) or name in PASSED_NAMES


PASSED_PREFIXES: Final = ("openai-", "x-ratelimit-", *PREFIXES)
PASSED_NAMES: Final = frozenset({"retry-after"})

"""One request of a client's, and its answer, on the connection it came on.

Answer          what an answer is told to
Heading         what a head says; one for all requests of a connection with the same head
ClientRequest   one request: its body, its answer, whether its client is still there
  Inbox           a body that did not come in one piece with its head
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, final
from urllib.parse import unquote

import trio

from arbstr.sansio.callers import fold_headers
from arbstr.trio_runtime.server.framing import Fields, Framing, bears_no_body

INBOX_MESSAGES: Final = 10
"""Pieces of a body that wait for the application (Hypercorn's value), each at most `MAX_RECV`, the
first `http11.AT_ONCE_BYTES` more."""

APART_BYTES: Final = 16 * 1024
"""Bytes of a body from which on it is not copied behind its head (`upstream/http11.py`)."""

LENGTH: Final = b"content-length"


@final
class Heading:
    """What a head says, but for the length of its body.

    `known` is the application's own: what it has made of this head, for the next with the same.
    """

    __slots__ = ("fields", "headers", "known", "method", "path", "query", "raw_path", "version")

    def __init__(self, method: bytes, target: bytes, version: bytes, fields: Fields) -> None:
        self.method = method.decode("ascii").upper()
        self.raw_path, _, self.query = target.partition(b"?")
        self.path = unquote(self.raw_path.decode("ascii"))
        self.version = version.decode()
        self.fields = [pair for pair in fields if pair[0] != LENGTH]
        self.headers = fold_headers(self.fields)
        self.known: object = None


class Answer(Protocol):
    """Who takes an answer."""

    def head(self, status: int, lines: bytes, told: Fields) -> None:
        """The head, which leaves with the first bytes of the body."""

    async def write(self, body: bytes, *, more: bool) -> None:
        """Some of the body, or the rest."""


class Channel(Protocol):
    """HTTP on the connection, for the request that is in flight on it."""

    client: tuple[str, int] | None
    server: tuple[str, int] | None

    @property
    def framing(self) -> Framing:
        """How its answer is delimited."""

    async def invite_body(self) -> None:
        """Says so to a client that waits to be asked for the body."""

    def head(self, status: int, lines: bytes, told: Fields) -> bytes:
        """The bytes of a response head. Raises `ValueError` for a header with a line end in it."""

    async def write(self, data: bytes, behind: bytes = b"") -> None:
        """Takes bytes for the socket."""

    def finish_answer(self) -> None:
        """The answer is out."""

    def break_off(self) -> None:
        """The answer stays without its end."""


@final
class Inbox:
    """Pieces of a body, then that the client is gone."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[bytes, bool]] = deque()
        self._closed = False
        self._changed: trio.Event | None = None  # somebody waits for it

    async def put(self, body: bytes, *, more: bool) -> None:
        """Adds a piece; waits for room, or until nobody takes any more."""
        while len(self._pieces) >= INBOX_MESSAGES and not self._closed:
            await self._wait()
        self._pieces.append((body, more))
        self._wake()

    def close(self) -> None:
        """Nothing more will come; whoever waits for room is woken."""
        self._closed = True
        self._wake()

    async def receive(self) -> tuple[bytes, bool] | None:
        """The next piece, and whether others follow; None once the client is gone, or has its
        answer. Waits, and has a checkpoint, only if there is no piece."""
        while not self._pieces:
            if self._closed:
                await trio.lowlevel.checkpoint()
                return None
            await self._wait()
        piece = self._pieces.popleft()
        self._wake()
        return piece

    async def _wait(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()


@final
class ClientRequest:
    """One request and its answer.

    `scope` is around whoever serves it, who may end it. `length` is that of its body, if it said
    one. `whole` is the body, if it came in one piece with
    the head; it is in the inbox else.
    """

    __slots__ = (
        "_bodiless",
        "_channel",
        "_head",
        "_inbox",
        "_on_disconnect",
        "closed",
        "heading",
        "length",
        "scope",
        "whole",
    )

    def __init__(
        self, channel: Channel, heading: Heading, length: int | None, whole: bytes | None
    ) -> None:
        self.scope: trio.CancelScope
        self.heading = heading
        self.length = length
        self.whole = whole
        self.closed = False
        self._channel = channel
        self._inbox: Inbox | None = None
        self._head = b""
        self._bodiless = False
        self._on_disconnect: Callable[[], None] | None = None

    @property
    def ends(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """The addresses of its client and of the server, as far as they are known."""
        return self._channel.client, self._channel.server

    # -- what its application asks and says --------------------------------------------------

    async def receive(self) -> tuple[bytes, bool] | None:
        """A piece of the body, and whether others follow; None if nothing will come."""
        if self.whole is not None:
            piece, self.whole = self.whole, None
            return piece, False
        await self._channel.invite_body()
        return await self._box().receive()

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """`callback` is called, without a checkpoint in between, if the client leaves before the
        last byte was handed to its socket."""
        self._on_disconnect = callback
        if self.closed:
            callback()

    def head(self, status: int, lines: bytes, told: Fields) -> None:
        """The head of the answer, which leaves with the first bytes of its body: its header
        `lines`, and those that are `told` to the framing (`framing.NAMES`).

        Raises `ValueError` for a header with a line end in it.
        """
        if self.closed:
            return
        self._head = self._channel.head(status, lines, told)
        self._bodiless = self.heading.method == "HEAD" or bears_no_body(status)

    async def write(self, body: bytes, *, more: bool) -> None:
        """Some of the answer's body, with the head, if that is still here, or with the end, in one
        write."""
        if self.closed:
            # Whoever was told that the client left ends here, and does not take this for sent.
            await trio.lowlevel.checkpoint()
            return
        channel = self._channel
        framing = channel.framing
        body = framing.data(body) if body and not self._bodiless else b""
        if not more:
            body += framing.end()
        head = self._head
        if head:
            self._head = b""
            if len(body) >= APART_BYTES:
                await channel.write(head, body)
            else:
                await channel.write(head + body)
        elif body:
            await channel.write(body)
        if not more:
            channel.finish_answer()

    # -- what its connection tells it --------------------------------------------------------

    async def take_body(self, body: bytes, *, more: bool) -> None:
        """Takes a piece of the body; waits for room."""
        await self._box().put(body, more=more)

    def client_left(self) -> None:
        """Tells the application."""
        if self._on_disconnect is not None:
            self._on_disconnect()

    def close(self) -> None:
        """It is over: answered, or without a client."""
        self.closed = True
        if self._inbox is not None:
            self._inbox.close()

    def application_ended(self) -> None:
        """Nothing more will be said: an answer without its end stays so, and the missing end tells
        the client."""
        if not self.closed:
            self._channel.break_off()
        # What the application registered refers to it, and it to us: a cycle, which the collector
        # would have to find.
        self._on_disconnect = None

    def _box(self) -> Inbox:
        if self._inbox is None:
            self._inbox = Inbox()
            if self.closed:
                self._inbox.close()
        return self._inbox

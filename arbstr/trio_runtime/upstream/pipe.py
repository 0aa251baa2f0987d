"""A connected socket, with or without TLS: bytes out, and all bytes that have arrived.

It is none of Trio's streams, but a socket that is waited for with `trio.lowlevel.wait_readable` and
read and written without blocking. Three things need that: `written` is exact, everything that has
already arrived is taken in one go (`trio.SSLStream` gives one 16 kB record per call, with a trip
through the scheduler for each), and a cancelled wait can lose nothing, because bytes are only ever
taken between two checkpoints.
"""

import select
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Wait: TypeAlias = Callable[[socket.socket], Awaitable[None]]

RECEIVE_SIZE: Final = 65_536
"""Bytes one `recv` asks for: as Trio does, and less than the 128 kB that make malloc map pages."""

DRAIN_SIZE: Final = 262_144
"""Bytes taken from the socket before the reader gets them (picked: four full reads)."""

RECORD_SIZE: Final = 16_384
"""Bytes of plain text in the largest TLS record (RFC 8446, 5.1)."""

_TAKES_PARTS: Final = hasattr(socket.socket, "sendmsg")  # not on Windows

CLOSED: Final = "the connection was closed"
RESET: Final = "the connection was reset"


class ConnectFailed(Exception):  # noqa: N818 - a fact about the wire, told in the past tense
    """No usable connection: name, TCP, proxy or TLS. Not a byte of a request was written.

    `sentence` is arbstr's own short wording. `own`: the cause is on this machine, so it says
    nothing about the provider. Deadlines are the caller's cancel scopes.
    """

    def __init__(self, sentence: str, *, own: bool = False) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.own = own


class TooLate(Exception):  # noqa: N818 - a fact about the time, told in the past tense
    """Whoever waited at a pipe was interrupted, because its time is over. Nothing is lost."""


class Pipe:
    """A connected socket. Only the `wait_*` methods block; a cancelled one has lost nothing.

    They raise `TooLate` while it `is_late`.
    """

    __slots__ = ("_news", "_socket", "ended", "is_late")

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        # The same question as a `recv` that only peeks, without an exception for the usual answer.
        self._news = select.poll() if hasattr(select, "poll") else None  # not on Windows
        if self._news is not None:
            self._news.register(connected, select.POLLIN)
        self.is_late = False
        self.ended: str | None = None
        """How the peer's half ended: `CLOSED`, or what broke; None while it may still send."""

    def protect(self, *parts: memoryview) -> tuple[memoryview, ...]:
        """What has to be written for these bytes: they themselves, or their encryption."""
        return parts

    def send_nowait(self, *parts: memoryview) -> int:
        """Hands bytes to the kernel and says how many. Raises BlockingIOError or OSError."""
        if len(parts) == 1 or not _TAKES_PARTS:
            return self._socket.send(parts[0])
        return self._socket.sendmsg(parts)

    async def send_raw(self, data: bytes) -> None:
        """Until the kernel has taken all of it, as it is. Raises OSError."""
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while left:
            try:
                left = left[self.send_nowait(left) :]
            except BlockingIOError:
                await self.wait_writable()

    def interrupt(self) -> None:
        """It is late: ends the waits."""
        self.is_late = True
        # Wakes who waits; the socket stays open, and may be waited for again.
        trio.lowlevel.notify_closing(self._socket)

    # Whoever waits resumes through every coroutine between here and the task: these two are none.

    def wait_writable(self) -> "Awaitable[None]":
        """Until the kernel takes more bytes."""
        return self._wait(trio.lowlevel.wait_writable)

    def wait_readable(self) -> "Awaitable[None]":
        """Until `receive_nowait` has something to give, or `ended` something to say."""
        return self._wait(trio.lowlevel.wait_readable if self.ended is None else _at_once)

    async def wait_either(self) -> None:
        """Until the kernel takes more bytes or has some."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._first, trio.lowlevel.wait_readable, nursery.cancel_scope)
            nursery.start_soon(self._first, trio.lowlevel.wait_writable, nursery.cancel_scope)
        if self.is_late:
            raise TooLate

    async def _first(self, wait: "Wait", others: trio.CancelScope) -> None:
        # Raised behind the nursery, which would make a group of it.
        with suppress(TooLate):
            await self._wait(wait)
        others.cancel()

    async def _wait(self, wait: "Wait") -> None:
        if self.is_late:
            raise TooLate
        try:
            await wait(self._socket)
        except trio.ClosedResourceError:
            if self.is_late:
                raise TooLate from None
            raise

    def receive_nowait(self, limit: int = DRAIN_SIZE) -> bytes:
        """All bytes that have arrived, up to about `limit`; b"" if none, then look at `ended`."""
        first = self._receive_once()
        if len(first) < RECEIVE_SIZE or limit <= RECEIVE_SIZE:
            return first
        parts = [first]
        size = len(first)
        # A short read has emptied the socket: asking again would only cost a system call.
        while size < limit and (part := self._receive_once()):
            parts.append(part)
            size += len(part)
            if len(part) < RECEIVE_SIZE:
                break
        return b"".join(parts)

    def _receive_once(self) -> bytes:
        # Told once and remembered: after a reset the kernel's next word is "end of file".
        if self.ended is not None:
            return b""
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return b""
        except OSError:
            self.ended = RESET
            return b""
        if not data:
            self.ended = CLOSED
        return data

    def quiet(self) -> bool:
        """True if the peer has neither sent nor closed anything since the last read."""
        if self.ended is not None:
            return False
        if self._news is not None:
            return not self._news.poll(0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Closes the socket at once; whoever waits on it gets `trio.ClosedResourceError`."""
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


async def _at_once(_: socket.socket) -> None:
    """For whoever has nothing to wait for."""
    await trio.lowlevel.checkpoint()


@final
class TlsPipe(Pipe):
    """The same with TLS. After `receive_nowait` every complete record has been decrypted."""

    __slots__ = ("_incoming", "_outgoing", "_tls")

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(connected)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def handshake(self) -> None:
        """Raises ConnectFailed, or OSError (ssl.SSLError included)."""
        while True:
            try:
                self._tls.do_handshake()
                finished = True
            except ssl.SSLWantReadError:
                finished = False
            await self.send_raw(self._outgoing.read())
            if finished:
                return
            await self.wait_readable()
            data = super().receive_nowait(RECEIVE_SIZE)
            if data:
                self._incoming.write(data)
            elif self.ended is not None:
                raise ConnectFailed(f"{self.ended} during the TLS handshake")

    def protect(self, *parts: memoryview) -> tuple[memoryview, ...]:
        """Their encryption, and before it whatever TLS itself had left to say."""
        for part in parts:
            while part:
                # Python lets OpenSSL stop after any record.
                part = part[self._tls.write(part) :]
        return (memoryview(self._outgoing.read()),)

    def receive_nowait(self, limit: int = DRAIN_SIZE) -> bytes:
        """As `Pipe.receive_nowait`, decrypted. A missing close_notify counts as a plain end."""
        data = super().receive_nowait(limit)
        if not data:
            return b""
        self._incoming.write(data)
        parts = []
        try:
            while part := self._tls.read(RECORD_SIZE):
                parts.append(part)
            self.ended = CLOSED
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.ended = CLOSED
        except ssl.SSLError as error:
            self.ended = f"TLS failed ({tls_reason(error)})"
        # An answer to a key update stays in `_outgoing` until the next write, as RFC 8446 allows.
        return b"".join(parts)


def tls_reason(error: ssl.SSLError) -> str:
    """What OpenSSL says went wrong, in lower case."""
    return (error.reason or "unknown error").replace("_", " ").lower()

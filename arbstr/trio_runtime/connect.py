"""From an origin to an open pipe: name lookup, TCP, a proxy's tunnel, TLS, and no request yet.

`trio.open_tcp_stream` connects (dual stack, RFC 6555), then the socket is taken out of Trio's
wrappers: a `Pipe` waits with `trio.lowlevel.wait_readable` and reads and writes without blocking.
Three things need that: `written` is exact, everything that has already arrived is taken in one go
(`trio.SSLStream` gives one 16 kB record per call, with a trip through the scheduler for each), and
a cancelled wait can lose nothing, because bytes are only ever taken between two checkpoints.
"""

import errno
import functools
import os
import re
import select
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, final

import trio

from arbstr.sansio.addresses import Proxy, is_onion
from arbstr.trio_runtime.tunnel import Handshake, handshake_with

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

RECEIVE_SIZE: Final = 65_536
"""Bytes one `recv` asks for: as Trio does, and less than the 128 kB that make malloc map pages."""

DRAIN_SIZE: Final = 262_144
"""Bytes taken from the socket before the reader gets them (picked: four full reads)."""

RECORD_SIZE: Final = 16_384
"""Bytes of plain text in the largest TLS record (RFC 8446, 5.1)."""

CLOSED: Final = "the connection was closed"
RESET: Final = "the connection was reset"

_WITH_PROXY: Final = "during the handshake with the proxy"

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_PLAIN_URL: Final = re.compile(
    r"(https?)://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([0-9]{1,5}))?"
    r"((?:/(?!\.)[A-Za-z0-9._~-]*)+(?:\?[A-Za-z0-9._~=&-]+)?)?"
)
"""A URL whose parts need no more than to be cut out."""

_CONNECT_SENTENCES: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: RESET,
    errno.ETIMEDOUT: "no answer from the host",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.EADDRNOTAVAIL: "address not available",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
}

_NOT_FOUND: Final = frozenset(
    number
    for number in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
    if number is not None
)


class ConnectFailed(Exception):  # noqa: N818 - a fact about the wire, told in the past tense
    """No usable connection: name, TCP, proxy or TLS. Not a byte of a request was written.

    `sentence` is arbstr's own short wording. Deadlines are the caller's cancel scopes.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """Whom to connect to, and through whom: connections are shared by what is equal in all of it.

    `host` is ASCII (IDNA), an IPv6 literal is without brackets.
    """

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None

    @classmethod
    def of(cls, url: str, proxy: Proxy | None = None) -> Self:
        """The origin of an absolute http or https URL. Raises ValueError for anything else."""
        scheme, host, port, _ = _taken_apart(url)
        return cls(scheme, host, port, proxy)

    @property
    def authority(self) -> bytes:
        """The value of the Host header: no default port, brackets around an IPv6 literal."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != _DEFAULT_PORTS[self.scheme]:
            host = f"{host}:{self.port}"
        return host.encode("ascii")


def target_of(url: str) -> bytes:
    """What a request for this URL names as its target: path and query. Raises as `Origin.of`."""
    return _taken_apart(url)[3]


def _taken_apart(url: str) -> tuple[str, str, int, bytes]:
    """Scheme, host, port and target."""
    plain = _PLAIN_URL.fullmatch(url)
    if plain is not None:
        scheme, host, port, target = plain.groups()
        number = int(port or 0) or _DEFAULT_PORTS[scheme]
        if number < 65_536:
            return scheme, host, number, (target or "/").encode()
    # Names in other scripts, IPv6, what must be quoted. Loaded here, for it takes 5 MB.
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise ValueError("not a URL") from None
    if parsed.scheme not in _DEFAULT_PORTS or not parsed.raw_host:
        raise ValueError("not an http or https URL")
    number = parsed.port or _DEFAULT_PORTS[parsed.scheme]
    return parsed.scheme, parsed.raw_host.decode("ascii"), number, parsed.raw_path


@functools.cache
def default_ssl_context() -> ssl.SSLContext:
    """The process's TLS settings: the system's certificates, or certifi's if there are none.

    Made at the first use and once, because it takes 20 ms and more.
    """
    context = ssl.create_default_context()
    directory = ssl.get_default_verify_paths().capath
    # Certificates in a directory are loaded when they are needed, so they are not counted.
    if not context.cert_store_stats()["x509_ca"] and not (directory and os.listdir(directory)):
        import httpx  # see _taken_apart

        context = httpx.create_ssl_context(trust_env=False)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


class Pipe:
    """A connected socket. Only the `wait_*` methods block; a cancelled one has lost nothing."""

    __slots__ = ("_news", "_socket", "ended")

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        # The same question as a `recv` that only peeks, without an exception for the usual answer.
        self._news = select.poll() if hasattr(select, "poll") else None  # not on Windows
        if self._news is not None:
            self._news.register(connected, select.POLLIN)
        self.ended: str | None = None
        """How the peer's half ended: `CLOSED`, or what broke; None while it may still send."""

    def protect(self, data: memoryview) -> memoryview:
        """What has to be written for `data`: itself, or its encryption."""
        return data

    def send_nowait(self, data: memoryview) -> int:
        """Hands bytes to the kernel and says how many. Raises BlockingIOError or OSError."""
        return self._socket.send(data)

    async def send_raw(self, data: bytes) -> None:
        """Until the kernel has taken all of it, as it is. Raises OSError."""
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while left:
            try:
                left = left[self.send_nowait(left) :]
            except BlockingIOError:
                await self.wait_writable()

    async def wait_writable(self) -> None:
        """Until the kernel takes more bytes."""
        await trio.lowlevel.wait_writable(self._socket)

    async def wait_readable(self) -> None:
        """Until `receive_nowait` has something to give, or `ended` something to say."""
        if self.ended is not None:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._socket)

    async def wait_either(self) -> None:
        """Until the kernel takes more bytes or has some."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._first, trio.lowlevel.wait_readable, nursery.cancel_scope)
            nursery.start_soon(self._first, trio.lowlevel.wait_writable, nursery.cancel_scope)

    async def _first(
        self, wait: "Callable[[socket.socket], Awaitable[None]]", others: trio.CancelScope
    ) -> None:
        await wait(self._socket)
        others.cancel()

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

    def protect(self, data: memoryview) -> memoryview:
        """The encryption of `data`, and before it whatever TLS itself had left to say."""
        while data:
            # Python lets OpenSSL stop after any record.
            data = data[self._tls.write(data) :]
        return memoryview(self._outgoing.read())

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
            self.ended = f"TLS failed ({_reason(error)})"
        # An answer to a key update stays in `_outgoing` until the next write, as RFC 8446 allows.
        return b"".join(parts)


async def open_pipe(origin: Origin, context: ssl.SSLContext | None = None) -> Pipe:
    """Connects, with TLS for https. Raises ConnectFailed; a cancelled call leaves nothing open.

    `context` decides who is trusted; without one it is `default_ssl_context()`. Behind a proxy the
    only name that is looked up here is the proxy's own.
    """
    way = ""
    if origin.proxy is not None:
        connected = await _tunnel(origin.proxy, origin.host, origin.port)
        way = "through the proxy: "
    elif is_onion(origin.host):
        # RFC 7686, 2: a lookup would find nothing, and tell the name server who is asked for.
        raise ConnectFailed("an onion service can be reached through Tor alone; set proxy")
    else:
        connected = await _connect(origin.host, origin.port)
    if origin.scheme == "http":
        return Pipe(connected)
    try:
        pipe = TlsPipe(connected, context or default_ssl_context(), origin.host)
        await pipe.handshake()
    except ConnectFailed as error:
        connected.close()
        raise ConnectFailed(way + error.sentence) from error
    except (OSError, ValueError) as error:
        connected.close()
        raise ConnectFailed(way + _tls_sentence(error)) from error
    except BaseException:
        connected.close()
        raise
    return pipe


async def _connect(host: str, port: int) -> socket.socket:
    try:
        stream = await trio.open_tcp_stream(host, port)
    except (OSError, UnicodeError) as error:
        raise ConnectFailed(_connect_sentence(error)) from error
    wrapped = stream.socket
    return socket.socket(wrapped.family, wrapped.type, wrapped.proto, wrapped.detach())


async def _tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """A socket whose other end is, by way of the proxy, the host's."""
    try:
        connected = await _connect(proxy.host, proxy.port)
    except ConnectFailed as error:
        raise ConnectFailed(f"no connection to the proxy ({error.sentence})") from error
    try:
        await _shake_hands(Pipe(connected), handshake_with(proxy, host, port))
    except BaseException:
        connected.close()
        raise
    return connected


async def _shake_hands(pipe: Pipe, handshake: Handshake) -> None:
    while True:
        try:
            await pipe.send_raw(handshake.data_to_send())
        except OSError as error:
            raise ConnectFailed(f"{RESET} {_WITH_PROXY}") from error
        if handshake.ready:
            return
        if handshake.refused is not None:
            raise ConnectFailed(handshake.refused)
        await pipe.wait_readable()
        data = pipe.receive_nowait(RECEIVE_SIZE)
        if data:
            handshake.feed(data)
        elif pipe.ended is not None:
            raise ConnectFailed(f"{pipe.ended} {_WITH_PROXY}")


def _connect_sentence(error: OSError | UnicodeError) -> str:
    # Trio tells the failures of the single addresses in a group, as the cause.
    if isinstance(error.__cause__, ExceptionGroup):
        causes = [cause for cause in error.__cause__.exceptions if isinstance(cause, OSError)]
        return ", ".join(dict.fromkeys(map(_connect_sentence, causes)))
    match error:
        case UnicodeError():
            return "name not found"
        case socket.gaierror():
            return "name not found" if error.errno in _NOT_FOUND else "name lookup failed"
        case _:
            number = error.errno or 0
            name = errno.errorcode.get(number, "unknown error")
            return _CONNECT_SENTENCES.get(number, f"connect failed ({name})")


def _tls_sentence(error: OSError | ValueError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"certificate verify failed: {error.verify_message}"
        case ssl.SSLError():
            return f"the TLS handshake failed ({_reason(error)})"
        case OSError():
            return f"{RESET} during the TLS handshake"
        case _:
            return "the host name cannot be used with TLS"


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "unknown error").replace("_", " ").lower()

"""From an origin to an open pipe: name lookup, TCP, a proxy's tunnel, TLS, and no request yet.

`trio.open_tcp_stream` connects (dual stack, RFC 6555), then the socket is taken out of Trio's
wrappers and becomes a `Pipe`, whose module says why.
"""

import errno
import functools
import os
import re
import socket
import ssl
from typing import Final, Self, final

import trio

from arbstr.sansio.config.addresses import Proxy, is_onion
from arbstr.sansio.frozen import dataclass
from arbstr.trio_runtime.upstream.pipe import (
    RECEIVE_SIZE,
    RESET,
    ConnectFailed,
    Pipe,
    TlsPipe,
    tls_reason,
)
from arbstr.trio_runtime.upstream.tunnel import Handshake, handshake_with

_WITH_PROXY: Final = "during the handshake with the proxy"

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_PLAIN_URL: Final = re.compile(
    r"(https?)://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([0-9]{1,5}))?"
    r"((?:/(?!\.)[A-Za-z0-9._~-]*)+(?:\?[A-Za-z0-9._~=&-]+)?)?"
)
"""A URL whose parts need no more than to be cut out."""

_THEIR_SENTENCES: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: RESET,
    errno.ECONNABORTED: RESET,
    errno.EPIPE: RESET,
    errno.ETIMEDOUT: "no answer from the host",
    errno.EHOSTUNREACH: "host unreachable",
    errno.EHOSTDOWN: "host unreachable",
}
"""What only the other side, or the way to it, can have done. Every other number is the word of
this machine's own kernel."""

_OWN_SENTENCES: Final = {
    errno.EMFILE: "arbstr itself has too many open files (raise ulimit -n)",
    errno.ENFILE: "arbstr's machine has too many open files",
    errno.ENOMEM: "arbstr's machine has no memory left for connections",
    errno.ENOBUFS: "arbstr's machine has no memory left for connections",
    errno.EADDRNOTAVAIL: "arbstr's machine has no address or port left for it",
    errno.EACCES: "arbstr's machine does not allow it (a firewall?)",
    errno.EPERM: "arbstr's machine does not allow it (a firewall?)",
    errno.ENETDOWN: "arbstr's machine has no network",
    # At once it is a route that is missing here. A router's word for it would take longer than
    # `[timeouts] connect`: Linux goes on trying until its own deadline.
    errno.ENETUNREACH: "arbstr's machine has no way to that network",
}

SET_PROXY: Final = "; set proxy"
"""What to do in a configuration; on a command line it is an option."""

_UNKNOWN_CA: Final = (
    "its certificate is self-signed or of an unknown CA; if that is right, set SSL_CERT_FILE to a "
    "file with the CA's certificate"
)

_CERTIFICATE_SENTENCES: Final = {
    2: _UNKNOWN_CA,  # unable to get issuer certificate
    18: _UNKNOWN_CA,  # self-signed certificate
    19: _UNKNOWN_CA,  # self-signed certificate in certificate chain
    20: _UNKNOWN_CA,  # unable to get local issuer certificate
    21: _UNKNOWN_CA,  # unable to verify the first certificate
    9: "its certificate is not valid yet, or this machine's clock is slow",
    10: "its certificate has expired, or this machine's clock is fast",
    23: "its certificate was revoked",
    62: "its certificate is for another host",
    64: "its certificate is for another address",
}
"""By OpenSSL's X509_V_ERR_*, which Python does not name."""

_NOT_FOUND: Final = frozenset(
    number
    for number in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
    if number is not None
)


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


def _own_ssl_context() -> ssl.SSLContext:
    """`default_ssl_context`; raises ConnectFailed if there is none, for whatever reason."""
    try:
        return default_ssl_context()
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConnectFailed(f"arbstr's own TLS settings cannot be made ({reason})", own=True) from (
            error
        )


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
        raise ConnectFailed(f"an onion service can be reached through Tor alone{SET_PROXY}")
    else:
        connected = await _connect(origin.host, origin.port)
    if origin.scheme == "http":
        return Pipe(connected)
    try:
        pipe = TlsPipe(connected, context or _own_ssl_context(), origin.host)
        await pipe.handshake()
    except ConnectFailed as error:
        connected.close()
        raise ConnectFailed(way + error.sentence, own=error.own) from error
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
        told = error
        if isinstance(error, socket.gaierror):
            # A lookup needs descriptors, too, and says no more than that it failed.
            told = _lack_of_descriptors() or error
        raise ConnectFailed(_connect_sentence(told), own=_is_own(told)) from error
    except RuntimeError as error:
        if "thread" not in str(error):
            raise
        raise ConnectFailed("arbstr's machine starts no more threads", own=True) from error
    wrapped = stream.socket
    return socket.socket(wrapped.family, wrapped.type, wrapped.proto, wrapped.detach())


async def _tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """A socket whose other end is, by way of the proxy, the host's."""
    try:
        connected = await _connect(proxy.host, proxy.port)
    except ConnectFailed as error:
        raise ConnectFailed(
            f"no connection to the proxy ({error.sentence})", own=error.own
        ) from error
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


def _lack_of_descriptors() -> OSError | None:
    try:
        socket.socket().close()
    except OSError as error:
        return error
    return None


def _causes(error: OSError | UnicodeError) -> list[OSError]:
    """Trio tells the failures of the single addresses in a group, as the cause."""
    if isinstance(error.__cause__, ExceptionGroup):
        return [cause for cause in error.__cause__.exceptions if isinstance(cause, OSError)]
    return []


def _is_own(error: OSError | UnicodeError) -> bool:
    """Whether it never got as far as the other side, at any of its addresses."""
    causes = _causes(error)
    if causes:
        return all(map(_is_own, causes))
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_MEMORY
    return isinstance(error, OSError) and (error.errno or 0) not in {0, *_THEIR_SENTENCES}


def _connect_sentence(error: OSError | UnicodeError) -> str:
    causes = _causes(error)
    if causes:
        return ", ".join(dict.fromkeys(map(_connect_sentence, causes)))
    match error:
        case UnicodeError():
            return "name not found"
        case socket.gaierror():
            return "name not found" if error.errno in _NOT_FOUND else "name lookup failed"
        case _:
            number = error.errno or 0
            name = errno.errorcode.get(number, "unknown error")
            said = _THEIR_SENTENCES.get(number) or _OWN_SENTENCES.get(number)
            who = "arbstr's machine failed to connect" if _is_own(error) else "connect failed"
            return said or f"{who} ({name})"


def _tls_sentence(error: OSError | ValueError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            verify_message = str(error.verify_message).rstrip(".")
            said = _CERTIFICATE_SENTENCES.get(error.verify_code)
            return said or f"its certificate was not accepted ({verify_message})"
        case ssl.SSLError():
            return f"the TLS handshake failed ({tls_reason(error)})"
        case OSError():
            return f"{RESET} during the TLS handshake"
        case _:
            return "the host name cannot be used with TLS"

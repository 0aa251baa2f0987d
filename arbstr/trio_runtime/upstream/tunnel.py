"""What is said to a proxy until it passes bytes on to a provider: SOCKS5 and CONNECT, without I/O.

    SOCKS5 (RFC 1928, 1929)        we: methods     it: one of them
                                   we: user, password    it: yes        only if both are configured
                                   we: host, port  it: yes
    CONNECT (RFC 9110, 9.3.6)      we: CONNECT host:port   it: 2xx

The host goes to the proxy as it is written, so a name is looked up there and never here: a lookup
would tell the local network who is asked, and nobody but Tor knows a name in .onion.

Not a byte of a request has been written by then, so whatever goes wrong was free. Nothing a proxy
sends may raise: it ends in `refused`, a sentence of our own.
"""

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, final

import h11
from socksio import (
    ProtocolError,
    SOCKS5AuthMethod,
    SOCKS5AuthMethodsRequest,
    SOCKS5Command,
    SOCKS5CommandRequest,
    SOCKS5Connection,
    SOCKS5UsernamePasswordRequest,
)
from socksio.socks5 import SOCKS5State

from arbstr.sansio.config.addresses import Proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_ANSWER: Final = 65_536
"""Bytes of a proxy's answer to CONNECT, interim ones included, that are looked at. Picked: as much
as of a provider's head. SOCKS5 says itself how long its answers are: at most 262 bytes."""

LONGEST_NAME: Final = 255
"""Bytes of a host name that SOCKS5 can carry (RFC 1928, 5)."""

TALKATIVE: Final = "the proxy said more than it was asked"

SOCKS_SENTENCES: "Final[Mapping[int, str]]" = MappingProxyType(
    {
        1: "through the proxy: general failure",
        2: "the proxy does not allow the connection",
        3: "through the proxy: network unreachable",
        4: "through the proxy: host unreachable",
        5: "through the proxy: connection refused",
        6: "through the proxy: no answer from the host",
        7: "the proxy does not connect for others",
        8: "the proxy does not know this kind of address",
        # Tor's own, with `SocksPort ... ExtendedErrors` (its proposal 304).
        0xF0: "through Tor: there is no such onion service now",
        0xF1: "through Tor: the onion service's descriptor is invalid",
        0xF2: "through Tor: the onion service cannot be introduced to",
        0xF3: "through Tor: no rendezvous with the onion service",
        0xF4: "through Tor: the onion service wants client authorization",
        0xF5: "through Tor: the onion service refused the client authorization",
        0xF6: "through Tor: the onion address is not valid",
        0xF7: "through Tor: the introduction to the onion service took too long",
    }
)
"""What the reply codes of RFC 1928, 6 say."""

CONNECT_SENTENCES: "Final[Mapping[int, str]]" = MappingProxyType(
    {
        403: "the proxy does not allow the connection",
        502: "through the proxy: host unreachable",
        503: "through the proxy: host unreachable",
        504: "through the proxy: no answer from the host",
    }
)
"""What proxies mean by their answers to CONNECT. What 407 means depends on what we said."""

_WANTS_LOGIN: Final = "the proxy wants a user and password"
_REFUSED_LOGIN: Final = "the proxy refused the user and password"


class Handshake(Protocol):
    """Write `data_to_send`, feed what comes, again until it is `ready` or was `refused`."""

    ready: bool
    """From now on the proxy passes bytes on."""
    refused: str | None
    """Why it never will."""

    def data_to_send(self) -> bytes:
        """What is to be written now, perhaps nothing. Each byte is given out once."""

    def feed(self, data: bytes) -> None:
        """Takes what the proxy sent, in any cutting."""


def handshake_with(proxy: Proxy, host: str, port: int) -> Handshake:
    """The beginning of a tunnel to that host; an IPv6 literal is without brackets."""
    if proxy.scheme == "http":
        return ConnectHandshake(proxy, host, port)
    return SocksHandshake(proxy, host, port)


@final
class SocksHandshake:
    """SOCKS5. socksio writes and reads whole messages; where they end is found here."""

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        self.ready = False
        self.refused: str | None = None
        self._login = proxy.login
        self._where = (host, port)
        self._received = b""
        self._socks = SOCKS5Connection()
        # One method, and no choice: a proxy that could do without the login would ignore it, and
        # Tor keeps streams with different logins on different circuits.
        self._method = (
            SOCKS5AuthMethod.NO_AUTH_REQUIRED
            if proxy.login is None
            else SOCKS5AuthMethod.USERNAME_PASSWORD
        )
        if len(host) > LONGEST_NAME:
            self.refused = f"the host name is longer than the {LONGEST_NAME} bytes SOCKS5 can carry"
            return
        self._socks.send(SOCKS5AuthMethodsRequest([self._method]))

    def data_to_send(self) -> bytes:
        """See `Handshake`."""
        return self._socks.data_to_send()

    def feed(self, data: bytes) -> None:
        """See `Handshake`."""
        if self.refused is not None:
            return
        self._received += data
        try:
            answered = self._took_answer()
        except ProtocolError:
            self.refused = "the proxy does not speak SOCKS5"
            return
        if answered and self._received and self.refused is None:
            # Providers speak when they are spoken to: this would be taken for their answer.
            self.ready, self.refused = False, TALKATIVE

    def _took_answer(self) -> bool:
        """Takes the answer that is due, if all of it is there. Raises ProtocolError."""
        logging_in = self._socks.state is SOCKS5State.SERVER_VERIFY_USERNAME_PASSWORD
        if not logging_in and self._received[:1] not in (b"", b"\x05"):
            raise ProtocolError("another version")
        if len(self._received) < 2:
            return False
        if logging_in:
            self._judged_login(self._take(2))
        elif self._socks.state is SOCKS5State.SERVER_AUTH_REPLY:
            self._chose_method(self._take(2))
        else:
            return self._connected(self._received[1])
        return True

    def _chose_method(self, message: bytes) -> None:
        self._socks.receive_data(message)
        chosen = message[1:]
        if chosen == SOCKS5AuthMethod.NO_ACCEPTABLE_METHODS:
            without = self._login is None
            self.refused = _WANTS_LOGIN if without else "the proxy takes no user and password"
        elif chosen != self._method:
            raise ProtocolError("a method that was not offered")
        elif self._login is None:
            self._say_where()
        else:
            user, password = (part.reveal().encode() for part in self._login)
            self._socks.send(SOCKS5UsernamePasswordRequest(user, password))

    def _judged_login(self, message: bytes) -> None:
        # There are proxies that say version 5 here; curl looks at the second byte alone, too.
        self._socks.receive_data(b"\x01" + message[1:])
        if self._socks.state is SOCKS5State.MUST_CLOSE:
            self.refused = _REFUSED_LOGIN
        else:
            self._say_where()

    def _say_where(self) -> None:
        self._socks.send(SOCKS5CommandRequest.from_address(SOCKS5Command.CONNECT, self._where))

    def _connected(self, code: int) -> bool:
        if code:
            # Decided by the code alone: some proxies leave out the rest of a refusal.
            self.refused = SOCKS_SENTENCES.get(code, f"through the proxy: SOCKS5 reply {code}")
            return True
        length = self._length_of_reply()
        if length is None or len(self._received) < length:
            return False
        self._socks.receive_data(self._take(length))
        self.ready = True
        return True

    def _length_of_reply(self) -> int | None:
        """Of the reply that is being received; `None` as long as it cannot be told."""
        if len(self._received) < 5:
            return None
        lengths = {1: 4, 3: 1 + self._received[4], 4: 16}
        kind = self._received[3]
        if kind not in lengths:
            raise ProtocolError("an address of no known type")
        return 4 + lengths[kind] + 2

    def _take(self, count: int) -> bytes:
        taken, self._received = self._received[:count], self._received[count:]
        return taken


@final
class ConnectHandshake:
    """CONNECT, for http:// providers as well.

    A proxy that is given the request itself may send it twice, and its 502 for a provider that
    broke off would look like the provider's own refusal, which is free.
    """

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        self.ready = False
        self.refused: str | None = None
        self._received = 0
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        headers = [("Host", authority)]
        self._logs_in = proxy.basic is not None
        if proxy.basic is not None:
            headers.append(("Proxy-Authorization", proxy.basic.reveal()))
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_ANSWER)
        request = h11.Request(method="CONNECT", target=authority, headers=headers)
        self._unsent = self._http.send(request) + self._http.send(h11.EndOfMessage())

    def data_to_send(self) -> bytes:
        """See `Handshake`."""
        data, self._unsent = self._unsent, b""
        return data

    def feed(self, data: bytes) -> None:
        """See `Handshake`."""
        if not data or self.refused is not None:
            return  # to h11, no bytes are the end
        self._received += len(data)
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._http.next_event()
        except h11.RemoteProtocolError:
            self.refused = "the proxy does not speak HTTP"
            return
        if isinstance(event, h11.Response):
            self._judge(event.status_code)
        elif self._received > LONGEST_ANSWER:
            self.refused = TALKATIVE

    def _judge(self, status: int) -> None:
        if status == 407:
            self.refused = _REFUSED_LOGIN if self._logs_in else _WANTS_LOGIN
        elif not 200 <= status < 300:
            sentence = CONNECT_SENTENCES.get(status, "the proxy refused to connect")
            self.refused = f"{sentence} ({status})"
        elif self._http.trailing_data[0]:
            self.refused = TALKATIVE  # see SocksHandshake.feed
        else:
            self.ready = True

"""Who may call: requests that could come from a web page, and the caller's token.

Any page a browser shows can send a form-like POST to a loopback port, and a name an attacker
controls can be made to resolve to 127.0.0.1 ("DNS rebinding"). Both reach arbstr with the user's
money behind it, so a `Host`, `Origin` or `Sec-Fetch-Site` that a local program would not send is
refused before anything else is looked at.
"""

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from arbstr.sansio.addresses import is_loopback
from arbstr.sansio.errors import ErrorReply

if TYPE_CHECKING:
    from arbstr.sansio.config import Secret

OPEN_PATHS = frozenset({"/livez", "/v1/livez"})
"""Answered without a token: a supervisor that only asks "do you live" holds no secret."""


def host_name(host_header: str) -> str:
    """The name in a `Host` header, without port and brackets, in lower case (RFC 9110 7.2)."""
    host = host_header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


@final
@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Decides who may call. `listen_host` is the configured one, not the resolved address."""

    listen_host: str
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    token: "Secret | None"

    def refuse(self, path: str, headers: Mapping[str, str]) -> ErrorReply | None:
        """Why this request must not be served, or `None`. Header names are in lower case."""
        host = headers.get("host", "")
        if host and not self._knows(host_name(host)):
            return ErrorReply(
                "forbidden_origin",
                "The Host header of this request is not a name of this server. Use the address "
                "arbstr listens on, or add the name to [server] allowed_hosts.",
            )
        origin = headers.get("origin")
        foreign = origin is not None and not self.allows_origin(origin)
        cross_site = origin is None and headers.get("sec-fetch-site") == "cross-site"
        if foreign or cross_site:
            return ErrorReply(
                "forbidden_origin",
                "Web pages of other origins may not use this server. To allow one, add its "
                "origin to [server] allowed_origins.",
            )
        if self.token is not None and path not in OPEN_PATHS:
            return self._check_token(headers.get("authorization", ""))
        return None

    def allows_origin(self, origin: str) -> bool:
        """Whether the configuration lets pages of this origin call."""
        return origin in self.allowed_origins

    def _knows(self, name: str) -> bool:
        if is_loopback(name) or name == self.listen_host.lower() or name in self.allowed_hosts:
            return True
        # Listening on every address: a literal address cannot be rebound, only a name can.
        listen = _address(self.listen_host)
        return listen is not None and listen.is_unspecified and _address(name) is not None

    def _check_token(self, authorization: str) -> ErrorReply | None:
        assert self.token is not None  # checked by the caller
        scheme, _, given = authorization.partition(" ")
        # Compared in constant time, as the bytes that came: compare_digest refuses other text.
        right = hmac.compare_digest(
            given.strip().encode("latin-1"), self.token.reveal().encode("utf-8", "surrogatepass")
        )
        if scheme.lower() == "bearer" and right:
            return None
        return ErrorReply(
            "invalid_token",
            "This server needs its token: send `Authorization: Bearer <token>` with the value of "
            "[server] auth_token (in an OpenAI SDK: api_key).",
        )


def fold_headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header pairs as a mapping with lower-case names; of a repeated header the last counts."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}

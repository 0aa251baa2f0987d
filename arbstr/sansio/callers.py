"""Who may call: requests that could come from a web page, and the caller's token.

Any page a browser shows can send a form-like POST to a loopback port, and a name an attacker
controls can be made to resolve to 127.0.0.1 ("DNS rebinding"). Both reach arbstr with the user's
money behind it, so a `Host`, `Origin` or `Sec-Fetch-Site` that a local program would not send is
refused before anything else is looked at.
"""

import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, final
from urllib.parse import urlsplit

from arbstr.sansio.config.addresses import is_loopback
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.frozen import dataclass

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Secret

OPEN_PATHS = frozenset({"/livez", "/v1/livez"})
"""Answered without a token: a supervisor that only asks "do you live" holds no secret."""
KEY_PREFIXES: Final = ("/v1/messages", "/messages")
"""Where the token may come as `x-api-key`; elsewhere only from who says he is Anthropic's."""


_LABEL: Final = r"[A-Za-z0-9_-]+"
_HOST: Final = re.compile(
    rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*)\.?|\[(?P<literal>[0-9A-Fa-f:.]+)(?:%[A-Za-z0-9._~-]*)?\])"
    r"(?::[0-9]*)?"
)
"""uri-host [":" port] (RFC 9110 7.2), in ASCII. A port may be empty (RFC 3986 3.2.3), a name may
end in the root's dot, and a zone (RFC 6874), which means something to its sender alone, is passed
over."""


def host_name(host_header: str) -> str | None:
    """The name in a `Host` header, without port and brackets, in lower case; None if it is none."""
    found = _HOST.fullmatch(host_header.strip())
    return _plain(found["literal"] or found["name"]) or None if found is not None else None


def _plain(name: str) -> str:
    """A configured name as `host_name` tells one."""
    return name.lower().removesuffix(".").partition("%")[0]


def split_target(target: str) -> tuple[str | None, str]:
    """A request's target, without its query -> the host it names, and its path as it was sent.

    A client that takes us for its proxy names both in one URL, and that host outranks the header
    (RFC 9112 3.2.2). What is neither a path nor such a URL has no path.
    """
    if target.startswith("/"):
        return None, target
    try:
        url = urlsplit(target)
    except ValueError:
        return None, ""
    is_ours = url.scheme in ("http", "https") and url.netloc
    return (url.netloc, url.path) if is_ours else (None, "")


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
        site = headers.get("sec-fetch-site", "").strip().lower()
        cross_site = origin is None and site == "cross-site"
        if foreign or cross_site:
            return ErrorReply(
                "forbidden_origin",
                "Web pages of other origins may not use this server. To allow one, add its "
                "origin to [server] allowed_origins.",
            )
        if self.token is not None and path not in OPEN_PATHS:
            return self._check_token(path, headers)
        return None

    def allows_origin(self, origin: str) -> bool:
        """Whether the configuration lets pages of this origin call."""
        return origin in self.allowed_origins

    def _knows(self, name: str | None) -> bool:
        if name is None:
            return False
        ours = (_plain(each) for each in (self.listen_host, *self.allowed_hosts))
        if is_loopback(name) or name in ours:
            return True
        # Listening on every address: a literal address cannot be rebound, only a name can.
        listen = _address(self.listen_host)
        return listen is not None and listen.is_unspecified and _address(name) is not None

    def _check_token(self, path: str, headers: Mapping[str, str]) -> ErrorReply | None:
        """As a bearer's; Anthropic's clients send theirs as a key. One of the two being right will
        do: some send both, and one of them is another service's."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = self._is_token(given) and scheme.lower() == "bearer"
        if "anthropic-version" in headers or path.startswith(KEY_PREFIXES):
            # Compared whether or not the other was right: how long it takes tells nothing.
            right = self._is_token(headers.get("x-api-key", "")) or right
        if right:
            return None
        return ErrorReply(
            "invalid_token",
            "This server needs its token: send `Authorization: Bearer <token>` with the value of "
            "[server] auth_token (in an OpenAI SDK: api_key), or `x-api-key: <token>` (in an "
            "Anthropic SDK: api_key).",
        )

    def _is_token(self, given: str) -> bool:
        assert self.token is not None  # checked by the caller
        # Compared in constant time, as the bytes that came: compare_digest refuses other text.
        return hmac.compare_digest(
            given.strip().encode("latin-1"), self.token.reveal().encode("utf-8", "surrogatepass")
        )


def fold_headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header pairs as a mapping with lower-case names; of a repeated header the last counts."""
    return {_name(name): value.decode("latin-1") for name, value in raw}


@lru_cache(maxsize=500)
def _name(name: bytes) -> str:
    """Cached, so that the same name is there once, however many streams keep their headers."""
    return name.decode("latin-1").lower()

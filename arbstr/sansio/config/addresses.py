"""Where arbstr listens, where providers are and through whom: texts, taken apart and put together.

Pure text; nothing is resolved. Every refusal is a `ValueError` whose message is the rest of a
sentence about the value ("must be ...") and never repeats the value, which may carry a password.
"""

import ipaddress
import re
from base64 import b64encode
from dataclasses import field
from functools import lru_cache
from typing import Final, final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from arbstr.sansio.endpoints import PATHS
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.secrets import Secret

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")

_LISTEN_RULE: Final = (
    "must be host:port, like 127.0.0.1:8080 or [::1]:8080, with a port from 0 to 65535"
)
_URL_RULE: Final = (
    "must be an http:// or https:// URL with a host, like https://api.example.com/v1, and a port "
    "from 1 to 65535 if any"
)
_PROXY_RULE: Final = (
    "must be socks5://host:port (Tor: socks5://127.0.0.1:9050) or http://host:port, perhaps with "
    "user:password@ before the host, and with %XX for what is no letter or digit in these"
)

PROXY_SCHEMES: Final = ("socks5", "socks5h", "http")
"""The first two are one: elsewhere the `h` asks that names be looked up by the proxy, which here is
always so."""

LONGEST_LOGIN: Final = 255
"""Bytes of the user and of the password that SOCKS5 can carry (RFC 1929, 2)."""

LONGEST_URL: Final = 4096
"""Characters; half of what servers commonly take as a request's first line."""

SHORTEST_QUERY_SECRET: Final = 8
"""Characters from which the value of a query parameter is taken for a key. Picked: shorter ones are
versions and flags, and redacting `v=1` by value would eat every 1."""

SHORTEST_PROXY_SECRET: Final = 4
"""The same for what a proxy is given to log in. Picked: Tor takes any user and password, to keep
circuits apart, so that people write `a:b`; a password that guards something is longer."""


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_name_or_ipv4(host: str) -> bool:
    # Digits and dots alone can only be meant as an IPv4 address: 127.0.0.300 is no name.
    digits_and_dots = not host.strip("0123456789.")
    return _is_ip(host) if digits_and_dots else _HOST_NAME.fullmatch(host) is not None


def parse_listen(text: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port` -> host without brackets, and port. Port 0 lets the system pick.

    Raises `ValueError` with the rule.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise ValueError(_LISTEN_RULE)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        good = ":" in host and _is_ip(host)
    else:
        good = _is_name_or_ipv4(host)
    if not good or int(port) > 65535:
        raise ValueError(_LISTEN_RULE)
    return host, int(port)


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host: 127.0.0.0/8, ::1, localhost and names below it.

    A name is loopback by RFC 6761 6.3, not by what a resolver says. Cached, because every request
    names one in its Host, and it is mostly the same.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")


def is_onion(host: str) -> bool:
    """Whether the host is an onion service, which Tor alone can reach (RFC 7686)."""
    return host.lower().rstrip(".").endswith(".onion")


def parse_host(text: str) -> str:
    """A name or address a Host header may carry, without port, in lower case, without brackets.

    Raises `ValueError` with the rule.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not _is_ip(bare) and _HOST_NAME.fullmatch(bare) is None:
        raise ValueError("must hold host names without scheme, port or *, like arbstr.lan")
    return bare.lower()


def parse_origin(text: str) -> str:
    """A web origin as a browser sends it in `Origin`, in lower case: scheme, host, perhaps a port.

    Raises `ValueError` with the rule.
    """
    lowered = text.lower()
    if _ORIGIN.fullmatch(lowered) is None or "*" in lowered:
        raise ValueError(
            "must hold web origins without path, slash or * at the end, like https://app.example"
        )
    return lowered


@final
@dataclass(frozen=True, slots=True)
class Endpoint:
    """A provider's address, taken apart.

    `url` is the base that the paths of doors are put behind (`url_of`), with the query and without
    userinfo; `shown_url` is the configured URL and `shown_base` the base, both without userinfo and
    query.
    `basic` is the Authorization header that the URL's userinfo stands for. `secrets` is what
    of the URL must be redacted by value.
    """

    url: str = field(repr=False)
    shown_url: str
    shown_base: str
    host: str
    basic: Secret | None = None
    secrets: tuple[Secret, ...] = ()


def parse_url(text: str) -> Endpoint:
    """A provider's base URL -> its `Endpoint`. Raises `ValueError` with the rule.

    No path means `/v1`; a path is taken as it is, and one that already ends in that of a door
    is not extended again.
    """
    parts, host, port = _split(text, _URL_RULE)
    if parts.scheme not in ("http", "https") or port == 0:
        raise ValueError(_URL_RULE)
    if parts.fragment or text.endswith("#"):
        raise ValueError('must not have a fragment; remove the "#" and what follows')
    path = parts.path.rstrip("/")
    door = next((door for door in PATHS.values() if path.endswith(door)), "")
    base = path.removesuffix(door) or "/v1"
    netloc = parts.netloc.rpartition("@")[2]
    return Endpoint(
        url=urlunsplit((parts.scheme, netloc, base, parts.query, "")),
        shown_url=urlunsplit((parts.scheme, netloc, parts.path, "", "")),
        shown_base=urlunsplit((parts.scheme, netloc, base, "", "")),
        host=host.rstrip("."),
        basic=None if parts.username is None else _basic(*_login(parts)),
        secrets=_url_secrets(parts),
    )


def url_of(base: str, path: str) -> str:
    """Where requests for a path below an `Endpoint.url` go."""
    before, mark, query = base.partition("?")
    return f"{before}{path}{mark}{query}"


def _split(text: str, rule: str) -> tuple[SplitResult, str, int | None]:
    """A URL with a host that can be one, its host and its port. Raises `ValueError`."""
    if not text.isascii() or re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError(
            "must be written in ASCII without blanks; use punycode for the host and %XX elsewhere"
        )
    if len(text) > LONGEST_URL:
        raise ValueError(f"must have at most {LONGEST_URL} characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(rule) from None
    bracketed = parts.netloc.rpartition("@")[2].startswith("[")
    if not host or not (_is_ip(host) if bracketed else _is_name_or_ipv4(host)):
        raise ValueError(rule)
    return parts, host, port


@final
@dataclass(frozen=True, slots=True)
class Proxy:
    """Through whom a provider is reached. `host` is in lower case, IPv6 without brackets.

    `login` is a user and a password, decoded. `secrets` is what must be redacted by value.
    """

    scheme: str
    host: str
    port: int
    login: tuple[Secret, Secret] | None = field(default=None, hash=False)
    secrets: tuple[Secret, ...] = field(default=(), repr=False, compare=False)

    @property
    def shown(self) -> str:
        """The URL without userinfo."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def basic(self) -> Secret | None:
        """The Proxy-Authorization header that `login` stands for."""
        return None if self.login is None else _basic(*(part.reveal() for part in self.login))


def parse_proxy(text: str) -> Proxy:
    """A proxy's URL -> its `Proxy`. Raises `ValueError` with the rule."""
    parts, host, port = _split(text, _PROXY_RULE)
    if parts.scheme == "https":
        raise ValueError(
            "must not be https://, for arbstr speaks no TLS with a proxy itself; use its http:// "
            "or socks5:// port (what an https:// provider gets is encrypted all the same)"
        )
    if parts.scheme not in PROXY_SCHEMES or not port:
        raise ValueError(_PROXY_RULE)
    if parts.path.strip("/") or "?" in text or "#" in text:
        raise ValueError("must end with the port; remove what follows it")
    if parts.username is None:
        return Proxy(parts.scheme, host, port)
    user, password = _login(parts)
    if parts.scheme != "http" and not all(
        0 < len(part.encode()) <= LONGEST_LOGIN for part in (user, password)
    ):
        raise ValueError(
            f"must have both a user and a password, of at most {LONGEST_LOGIN} bytes each; SOCKS5 "
            "knows no others"
        )
    basic = _basic(user, password).reveal().removeprefix("Basic ")
    written = parts.password or parts.username
    found = dict.fromkeys((written, unquote(written), basic))
    secrets = tuple(Secret(text) for text in found if len(text) >= SHORTEST_PROXY_SECRET)
    return Proxy(parts.scheme, host, port, (Secret(user), Secret(password)), secrets)


def _login(parts: SplitResult) -> tuple[str, str]:
    # RFC 7617 2: the pair is percent-decoded before it is encoded.
    return unquote(parts.username or ""), unquote(parts.password or "")


def _basic(user: str, password: str) -> Secret:
    """The header of RFC 7617."""
    return Secret("Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii"))


def _url_secrets(parts: SplitResult) -> tuple[Secret, ...]:
    """What a provider could echo of the URL: both as it was written and decoded."""
    written = [parts.password or parts.username or ""]
    written += [
        pair.partition("=")[2]
        for pair in parts.query.split("&")
        if len(pair.partition("=")[2]) >= SHORTEST_QUERY_SECRET
    ]
    decoded = [value for _, value in parse_qsl(parts.query) if len(value) >= SHORTEST_QUERY_SECRET]
    found = [*written, unquote(written[0]), *decoded]
    return tuple(Secret(text) for text in dict.fromkeys(found) if text)

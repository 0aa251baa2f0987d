"""Where arbstr listens and where providers are: `host:port` and URLs, taken apart and put together.

Pure text; nothing is resolved. Every refusal is a `ValueError` whose message is the rest of a
sentence about the value ("must be ...") and never repeats the value, which may carry a password.
"""

import ipaddress
import re
from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from arbstr.sansio.secrets import Secret

CHAT_PATH: Final = "/chat/completions"

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")

_LISTEN_RULE: Final = (
    "must be host:port, like 127.0.0.1:8080 or [::1]:8080, with a port from 0 to 65535"
)
_URL_RULE: Final = "must be an http:// or https:// URL with a host, like https://api.example.com/v1"

LONGEST_URL: Final = 4096
"""Characters; half of what servers commonly take as a request's first line."""

SHORTEST_QUERY_SECRET: Final = 8
"""Characters from which the value of a query parameter is taken for a key. Picked: shorter ones are
versions and flags, and redacting `v=1` by value would eat every 1."""


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

    `url` is where chat completions are posted, with the query and without userinfo; `shown_url` is
    the configured URL and `shown_endpoint` the posted one, both without userinfo and query.
    `basic` is the Authorization header that the URL's userinfo stands for. `secrets` is what
    of the URL must be redacted by value.
    """

    url: str = field(repr=False)
    shown_url: str
    shown_endpoint: str
    host: str
    basic: Secret | None = None
    secrets: tuple[Secret, ...] = ()


def parse_url(text: str) -> Endpoint:
    """A provider's base URL -> its `Endpoint`. Raises `ValueError` with the rule.

    No path means `/v1`; a path is taken as it is, and one that already ends in
    `/chat/completions` is not extended again.
    """
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
        raise ValueError(_URL_RULE) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError(_URL_RULE)
    bracketed = parts.netloc.rpartition("@")[2].startswith("[")
    if not (_is_ip(host) if bracketed else _is_name_or_ipv4(host)):
        raise ValueError(_URL_RULE)
    if parts.fragment or text.endswith("#"):
        raise ValueError('must not have a fragment; remove the "#" and what follows')
    base = parts.path.rstrip("/") or "/v1"
    path = base if base.endswith(CHAT_PATH) else base + CHAT_PATH
    netloc = parts.netloc.rpartition("@")[2]
    return Endpoint(
        url=urlunsplit((parts.scheme, netloc, path, parts.query, "")),
        shown_url=urlunsplit((parts.scheme, netloc, parts.path, "", "")),
        shown_endpoint=urlunsplit((parts.scheme, netloc, path, "", "")),
        host=host.rstrip("."),
        basic=_basic(parts),
        secrets=_url_secrets(parts),
    )


def _basic(parts: SplitResult) -> Secret | None:
    if parts.username is None:
        return None
    # RFC 7617 2: the pair is percent-decoded before it is encoded.
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Secret("Basic " + b64encode(pair.encode()).decode("ascii"))


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

"""What is right in a provider's configuration and yet unwise: warnings, not faults.

Each is a key of the provider's table ("" for the table) and a sentence that goes on from its path.
No value is repeated, for any of them may be a secret.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from arbstr.sansio.config.addresses import SHORTEST_QUERY_SECRET, is_loopback, is_onion
from arbstr.sansio.config.credentials import key_variable
from arbstr.sansio.config.faults import quoted_list
from arbstr.sansio.config.settings import ProviderConfig

_IN_THE_FILE: Final = "that is written into the file; write ${VARIABLE}"

_VARIABLE: Final = re.compile(r"\$\{[^}]*\}")


def cautions(provider: ProviderConfig, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What to say about a provider. `raw` is its table as written, before `${VARIABLE}` was filled
    in."""
    if provider.key_source == "config" and not provider.key_variables:
        yield (
            "api_key",
            "is written into the file; write ${VARIABLE}, "
            f"or leave it out and set {key_variable(provider.name)}",
        )
    if provider.api_key is not None and provider.endpoint.basic is not None:
        yield "url", "has a user and password that are not sent: api_key is"
    elif _has_literal_login(raw["url"]):
        yield "url", f"has a password {_IN_THE_FILE}"
    if _has_literal_query(raw["url"]):
        yield "url", f"has a value in its query, perhaps a key, {_IN_THE_FILE}"
    yield from _of_the_way(provider, raw)
    if provider.asks_node:
        return
    unpriced = [model for model in provider.models if provider.rates_for(model) is None]
    if unpriced:
        what = "" if unpriced == [*provider.models] else f" for {quoted_list(unpriced)}"
        yield (
            "",
            f"has no rates{what}: it comes after every priced one and is refused under any "
            "cap or budget",
        )


def _of_the_way(provider: ProviderConfig, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """About the proxy, and what goes through it."""
    host, proxy = provider.endpoint.host, provider.proxy
    if proxy is None:
        if is_onion(host):
            yield (
                "url",
                "is an onion service, which can be reached through Tor alone; add "
                'proxy = "socks5://127.0.0.1:9050"',
            )
        return
    if _has_literal_login(raw["proxy"]):
        yield "proxy", f"has a password {_IN_THE_FILE}"
    plain = provider.url.lower().startswith("http:")
    if plain and not is_onion(host) and not is_loopback(host):
        yield (
            "url",
            "is not encrypted, so whoever runs the proxy, or the exit of Tor, can read the key "
            "and every chat; use https://",
        )


def _has_literal_login(written: str) -> bool:
    """Whether the password of a URL, or its user if there is no password, is in the file itself."""
    authority = re.split("[/?#]", _VARIABLE.sub("", written).partition("://")[2], maxsplit=1)[0]
    user, colon, password = authority.rpartition("@")[0].partition(":")
    return bool(password if colon else user)


def _has_literal_query(written: str) -> bool:
    """Whether a value of a URL's query that is taken for a secret is in the file itself."""
    pairs = _VARIABLE.sub("", written).partition("#")[0].partition("?")[2].split("&")
    return any(len(pair.partition("=")[2]) >= SHORTEST_QUERY_SECRET for pair in pairs)

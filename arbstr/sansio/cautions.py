"""What is right in a provider's configuration and yet unwise: warnings, not faults.

Each is a key of the provider's table ("" for the table) and a sentence that goes on from its path.
No value is repeated, for any of them may be a secret.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from arbstr.sansio.addresses import is_loopback, is_onion
from arbstr.sansio.credentials import key_variable
from arbstr.sansio.faults import quoted_list
from arbstr.sansio.settings import ProviderConfig


def cautions(provider: ProviderConfig, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What to say about a provider. `raw` is its table as written, before `${VARIABLE}` was filled
    in."""
    if provider.key_source == "config" and "${" not in raw["api_key"]:
        yield (
            "api_key",
            "is written into the file; write ${VARIABLE}, "
            f"or leave it out and set {key_variable(provider.name)}",
        )
    if provider.api_key is not None and provider.endpoint.basic is not None:
        yield "url", "has a user and password that are not sent: api_key is"
    yield from _of_the_way(provider, raw)
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
    if proxy.login is not None and "${" not in raw["proxy"]:
        yield "proxy", "has a password that is written into the file; write ${VARIABLE}"
    plain = provider.url.lower().startswith("http:")
    if plain and not is_onion(host) and not is_loopback(host):
        yield (
            "url",
            "is not encrypted, so whoever runs the proxy, or the exit of Tor, can read the key "
            "and every chat; use https://",
        )

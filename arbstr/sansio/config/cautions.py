"""What is right in a provider's configuration and yet unwise: warnings, not faults.

Each is a key of the provider's table ("" for the table) and a sentence that goes on from its path.
No value is repeated, for any of them may be a secret.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any, Final

from arbstr.sansio.config.addresses import SHORTEST_QUERY_SECRET, is_loopback, is_onion
from arbstr.sansio.config.credentials import key_variable
from arbstr.sansio.config.faults import quoted_list
from arbstr.sansio.config.settings import ProviderConfig
from arbstr.sansio.money import Rates, format_sats

CHEAPEST_OUTPUT: Final = Decimal("0.05")
"""Sats per 1000 tokens of output. At 1,000 sats a dollar that is $0.05 per million; what is sold
for less is rare, and a common price typed per token is far below. Input may cost less, and that of
embeddings does."""

DEAREST_OUTPUT: Final = Decimal(1000)
DEAREST_INPUT: Final = Decimal(500)
"""The dearest models take $600 per million tokens of output and $150 of input: picked above."""

MANY_TIMES: Final = 500
"""The default: nobody waits so long, and who types the half of it in milliseconds is told, too."""

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
    if provider.api_key is not None and _is_in_quotes(provider.api_key.reveal()):
        yield "api_key", "has quotes around it, which are sent; take them away where it is set"
    if _has_literal_query(raw["url"]):
        yield "url", f"has a value in its query, perhaps a key, {_IN_THE_FILE}"
    yield from _of_the_way(provider, raw)
    yield from _of_the_rates(provider)
    yield from as_milliseconds(provider)
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


def as_milliseconds(table: object) -> Iterator[tuple[str, str]]:
    """About times of another unit than seconds, by how far a dataclass of settings is off its
    defaults; all of its floats are times."""
    for each in fields(table):  # type: ignore[arg-type]  # the type of a dataclass has no name
        if not isinstance(each.default, float):
            continue
        seconds = getattr(table, each.name)
        if 0 < MANY_TIMES * each.default <= seconds:
            yield each.name, f"is {seconds:,.0f}, as if it were milliseconds; times are in seconds"


def _is_in_quotes(key: str) -> bool:
    """As Docker leaves them in what `--env-file` reads."""
    return len(key) > 1 and key[0] == key[-1] and key[0] in "\"'"


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


def _of_the_rates(provider: ProviderConfig) -> Iterator[tuple[str, str]]:
    """About rates of another unit than satoshis per 1000 tokens, by how far off they are."""
    for model, rates in ((None, provider.rates), *_own(provider)):
        if rates is None:
            continue
        for key, rate, most in (
            ("output_rate", rates.output_rate, DEAREST_OUTPUT),
            ("input_rate", rates.input_rate, DEAREST_INPUT),
        ):
            if rate > most:
                unit = "a price per million tokens"
            elif key == "output_rate" and 0 < rate < CHEAPEST_OUTPUT:
                unit = "a price per token, or in dollars"
            else:
                continue
            said = (
                f"is {format_sats(rate)}, as if it were {unit}; rates are satoshis per 1000 tokens"
            )
            if model is None:
                yield key, said
            else:
                yield "model_rates", f"for {quoted_list([model])}: {key} {said}"
            break  # the other is of the same unit


def _own(provider: ProviderConfig) -> Iterator[tuple[str, Rates]]:
    """Rates of models, without those that are the provider's again."""
    shared = provider.rates
    for model, rates in provider.model_rates.items():
        if shared is None or (rates.input_rate, rates.output_rate) != (
            shared.input_rate,
            shared.output_rate,
        ):
            yield model, rates


def _has_literal_login(written: str) -> bool:
    """Whether the password of a URL, or its user if there is no password, is in the file itself."""
    authority = re.split("[/?#]", _VARIABLE.sub("", written).partition("://")[2], maxsplit=1)[0]
    user, colon, password = authority.rpartition("@")[0].partition(":")
    return bool(password if colon else user)


def _has_literal_query(written: str) -> bool:
    """Whether a value of a URL's query that is taken for a secret is in the file itself."""
    pairs = _VARIABLE.sub("", written).partition("#")[0].partition("?")[2].split("&")
    return any(len(pair.partition("=")[2]) >= SHORTEST_QUERY_SECRET for pair in pairs)

"""Who offers what at which price: an immutable snapshot of the providers, and what to redact.

A request keeps the catalog it started with; a reload builds another. Nothing here chooses: which
offers qualify and in what order is `plan.py`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.config.addresses import Proxy, url_of
from arbstr.sansio.config.reader import ANY_MODEL, Config, Kind, ProviderConfig, Secret, Timeouts
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.money import Rates, estimate_sats
from arbstr.sansio.secrets import REDACTED

_CASHU_TOKEN: Final = r"cashu[AB][A-Za-z0-9_=+/-]*"
"""Any ecash token, versions 3 and 4 (https://github.com/cashubtc/nuts/blob/main/00.md). Also ones
nobody configured: what a provider gives back as change is money too."""

_TYPICAL_TOKENS: Final = 1000
"""Input and output tokens of the request by which `cheapest_owner` compares. Picked: some number
has to stand for requests nobody has sent yet, and equal parts favour neither rate."""


@final
@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as requests need it.

    `url` is the base of what is posted, see `url_of`; it may carry a query and is not for showing.
    `shown_url` is the configured URL, `shown_endpoint` where chats are posted, both without
    userinfo and query. `authorization` is the value of that header, whole, or `None` to send none.
    `proxy` is through whom it is reached, `None` for directly.
    """

    name: str
    url: str = field(repr=False)
    shown_url: str
    shown_endpoint: str
    kind: Kind
    key: Secret | None
    authorization: Secret | None
    models: tuple[str, ...]
    timeouts: Timeouts
    drain_seconds: float
    proxy: Proxy | None = None
    endpoints: tuple[str, ...] = ENDPOINTS

    def url_of(self, path: str) -> str:
        """Where requests at the path of a door are posted."""
        return url_of(self.url, path)


@final
@dataclass(frozen=True, slots=True)
class Offer:
    """One model at one provider: `model` is the client's id, `upstream_model` the provider's.

    `rates` are `None` if unknown, which is not free. `endpoints` are the APIs it is served by.
    """

    provider: Provider
    model: str
    upstream_model: str
    rates: Rates | None
    endpoints: tuple[str, ...] = ENDPOINTS


@final
@dataclass(frozen=True, slots=True)
class Catalog:
    """All offers. Made by `build_catalog`.

    `secrets` is everything that must be redacted by value from text of other people.
    """

    providers: tuple[Provider, ...]
    secrets: tuple[Secret, ...]
    _listed: Mapping[str, tuple[Offer, ...]] = field(repr=False)
    _of_any_model: tuple[tuple[Provider, ProviderConfig], ...] = field(repr=False)

    def offers(self, model: str) -> tuple[Offer, ...]:
        """Who serves the model, in the file's order; empty if nobody does."""
        listed = self._listed.get(model)
        if listed is not None:
            return listed
        if model == ANY_MODEL:
            return ()
        return tuple(_offer(provider, config, model) for provider, config in self._of_any_model)

    def models(self) -> tuple[str, ...]:
        """The ids that are known to be served, sorted. Providers of any model may serve more."""
        return tuple(sorted(self._listed))

    def cheapest_owner(self, model: str) -> str:
        """The name of the provider that serves the model at the lowest price for a typical request.

        Raises `LocalProtocolError` for a model without offers.
        """
        offers = self.offers(model)
        if not offers:
            raise LocalProtocolError("asked who serves a model that nobody serves")
        return min(offers, key=_typical_cost).provider.name


def _typical_cost(offer: Offer) -> tuple[bool, Decimal, str]:
    cost = (
        Decimal(0)
        if offer.rates is None
        else estimate_sats(_TYPICAL_TOKENS, _TYPICAL_TOKENS, 1, offer.rates)
    )
    return offer.rates is None, cost, offer.provider.name


def build_catalog(config: Config) -> Catalog:
    """The snapshot of a configuration."""
    pairs = tuple((_provider(provider), provider) for provider in config.providers)
    of_any = [at for at, (_, provider) in enumerate(pairs) if ANY_MODEL in provider.models]
    named: dict[str, list[int]] = {}  # where in `pairs` those are that name the model
    for at, (_, provider) in enumerate(pairs):
        for model in _models_of(provider):
            named.setdefault(model, []).append(at)
    listed = {
        model: tuple(_offer(*pairs[at], model) for at in sorted({*found, *of_any}))
        for model, found in named.items()
    }
    return Catalog(
        tuple(provider for provider, _ in pairs),
        _secrets(config),
        MappingProxyType(listed),
        tuple(pairs[at] for at in of_any),
    )


def _models_of(provider: ProviderConfig) -> tuple[str, ...]:
    # A provider of any model is known to serve those that have an entry of their own.
    named = (provider.model_rates, provider.model_ids, provider.model_endpoints)
    every = (*provider.models, *(model for table in named for model in table))
    return tuple(model for model in every if model != ANY_MODEL)


def _offer(provider: Provider, config: ProviderConfig, model: str) -> Offer:
    upstream = config.model_ids.get(model, model)
    served = config.endpoints_for(model)
    return Offer(provider, model, upstream, config.rates_for(model), served)


def _provider(config: ProviderConfig) -> Provider:
    endpoint = config.endpoint
    key = config.api_key
    return Provider(
        name=config.name,
        url=endpoint.url,
        shown_url=endpoint.shown_url,
        shown_endpoint=endpoint.shown_endpoint,
        kind=config.kind,
        key=key,
        # A Cashu token is a bearer key as well: a Routstr node makes a balance of it.
        authorization=endpoint.basic if key is None else Secret("Bearer " + key.reveal()),
        models=config.models,
        timeouts=config.timeouts,
        drain_seconds=config.drain_seconds,
        proxy=config.proxy,
        endpoints=config.endpoints,
    )


def _secrets(config: Config) -> tuple[Secret, ...]:
    found = [] if config.server.auth_token is None else [config.server.auth_token]
    for provider in config.providers:
        endpoint = provider.endpoint
        found += endpoint.secrets
        if provider.api_key is not None:
            found.append(provider.api_key)
        if endpoint.basic is not None:
            found.append(Secret(endpoint.basic.reveal().removeprefix("Basic ")))
        if provider.proxy is not None:
            found += provider.proxy.secrets
    return tuple(found)


def redact(text: str, secrets: Iterable[Secret]) -> str:
    """The text with every known secret and every Cashu token replaced by `[REDACTED]`."""
    return redactor(secrets)(text)


def redactor(secrets: Iterable[Secret]) -> Callable[[str], str]:
    """`redact` for these secrets, for whoever has many texts."""
    return partial(_pattern(tuple(secret.reveal() for secret in secrets)).sub, REDACTED)


@lru_cache(maxsize=8)
def _pattern(values: tuple[str, ...]) -> re.Pattern[str]:
    """What to look for. Cached, because every line of the log is looked through.

    Longer secrets come first, so that one that contains another leaves nothing of itself behind.
    All in one pass: a second one would look for short secrets in the word REDACTED.
    """
    longest_first = sorted(set(values) - {""}, key=lambda value: (-len(value), value))
    return re.compile("|".join([*map(re.escape, longest_first), _CASHU_TOKEN]))

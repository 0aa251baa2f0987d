"""Who offers what at which price: an immutable snapshot of the providers, and what to redact.

A request keeps the catalog it started with; a reload builds another. Nothing here chooses: which
offers qualify and in what order is `plan.py`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, replace
from decimal import Decimal
from functools import cached_property, lru_cache, partial
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.config.addresses import Proxy, url_of
from arbstr.sansio.config.credentials import key_id_of, lists_prices
from arbstr.sansio.config.reader import ANY_MODEL, Config, Kind, ProviderConfig, Secret, Timeouts
from arbstr.sansio.config.settings import X_API_KEY
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Rates, estimate_sats
from arbstr.sansio.routing.prices import (
    AGED_TIMES,
    Age,
    Ambiguous,
    NodePrices,
    Price,
    age_of,
    over_ceiling,
    scaled,
)
from arbstr.sansio.secrets import REDACTED

_CASHU_TOKEN: Final = r"cashu[AB][A-Za-z0-9_=+/-]*"
"""Any ecash token, versions 3 and 4 (https://github.com/cashubtc/nuts/blob/main/00.md). Also ones
nobody configured: what a provider gives back as change is money too."""

_NODE_KEY: Final = r"sk-[0-9a-f]{64}"
"""A key of a Routstr node: also the child keys that it makes of a configured one."""

NO_PRICES: Final[Mapping[str, NodePrices]] = MappingProxyType({})

_TYPICAL_TOKENS: Final = 1000
"""Input and output tokens of the request by which `cheapest_owner` compares. Picked: some number
has to stand for requests nobody has sent yet, and equal parts favour neither rate."""


@final
@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as requests need it.

    `url` is the base of what is posted, see `url_of`; it may carry a query and is not for showing.
    `shown_url` is the configured URL without userinfo and query. `authorization` is what the header
    `key_header` says, whole, or `None` to send none.
    `proxy` is through whom it is reached, `None` for directly. `key_id` tells a node's key from
    others in its books, and not the key; other keys have no books.
    """

    name: str
    url: str = field(repr=False)
    shown_url: str
    kind: Kind
    key: Secret | None
    authorization: Secret | None
    models: tuple[str, ...]
    timeouts: Timeouts
    drain_seconds: float
    proxy: Proxy | None = None
    endpoints: tuple[str, ...] = ENDPOINTS
    key_header: bytes = b"authorization"
    key_id: str | None = None

    @property
    def credentials(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header with the key, if there is one."""
        if self.authorization is None:
            return ()
        return ((self.key_header, self.authorization.reveal().encode()),)

    def url_of(self, path: str) -> str:
        """Where requests at the path of a door are posted."""
        return url_of(self.url, path)


@final
@dataclass(frozen=True, slots=True)
class Offer:
    """One model at one provider: `model` is the client's id, `upstream_model` the provider's.

    `rates` are `None` if unknown, which is not free. `endpoints` are the APIs it is served by.
    `price` is where the rates come from, if a node listed them: with `aged` too long ago to be
    relied on for caps and budgets. `refused` is why the model is not to be asked for there: a
    predicate about the provider.
    """

    provider: Provider
    model: str
    upstream_model: str
    rates: Rates | None
    endpoints: tuple[str, ...] = ENDPOINTS
    price: Price | None = None
    aged: bool = False
    refused: str | None = None

    @property
    def context(self) -> int | None:
        """How many tokens a prompt and its answer may have together, where a node says it."""
        return None if self.price is None else self.price.listed.context

    @property
    def hold_rates(self) -> Rates | None:
        """What caps and budgets go by."""
        if self.rates is None or not self.aged:
            return self.rates
        return scaled(self.rates, AGED_TIMES)


@final
@dataclass(frozen=True, slots=True)
class _Seller:
    """A provider, and what is known of its models: by the configuration, or as its node lists."""

    provider: Provider
    config: ProviderConfig
    prices: NodePrices | None
    age: Age

    def models(self) -> Iterator[str]:
        """The ids it is known to serve. One of any model is known to serve those that have an entry
        of their own."""
        config = self.config
        yield from (model for model in config.named if model != ANY_MODEL)
        if self.prices is not None and ANY_MODEL in config.models:
            yield from self.prices.prices

    def offer(self, model: str) -> Offer | None:
        """The model there, `None` if it does not serve it."""
        config = self.config
        named = config.names(model)
        if not named and ANY_MODEL not in config.models:
            return None
        upstream, typed = config.model_ids.get(model, model), config.rates_for(model)
        bare = Offer(self.provider, model, upstream, None, config.endpoints_for(model))
        if not config.asks_node:
            return replace(bare, rates=typed)
        if self.prices is None:
            # Nobody knows what it lists, and what is not named it may not have.
            return bare if named else None
        match self.prices.find(upstream):
            case None:
                if not named:
                    return None
                return replace(bare, refused="does not list it")
            case Ambiguous(models):
                refused = f"lists several models of that name: {', '.join(models)}"
                return replace(bare, refused=refused)
            case Price() as price:
                return self._listed(bare, price, typed)

    def _listed(self, bare: Offer, price: Price, ceiling: Rates | None) -> Offer:
        rates = None if self.age is Age.OLD else price.rates
        refused = None if ceiling is None or rates is None else over_ceiling(rates, ceiling)
        return replace(
            bare,
            upstream_model=price.listed.model,
            rates=rates,
            price=price,
            aged=self.age is Age.AGED,
            refused=refused,
        )


@final
@dataclass(frozen=True, slots=True)
class Catalog:
    """All offers. Made by `build_catalog`.

    `secrets` is everything that must be redacted by value from text of other people.
    """

    providers: tuple[Provider, ...]
    secrets: tuple[Secret, ...]
    _named: frozenset[str] = field(repr=False)
    _sellers: tuple[_Seller, ...] = field(repr=False)
    # What is known to be served, once somebody has asked for it. A node lists hundreds of models
    # at new prices every two minutes, and most of them nobody asks for.
    _found: dict[str, tuple[Offer, ...]] = field(repr=False, compare=False)

    def offers(self, model: str) -> tuple[Offer, ...]:
        """Who serves the model, in the file's order; empty if nobody does."""
        found = self._found.get(model)
        if found is not None:
            return found
        if model == ANY_MODEL:
            return ()
        every = (seller.offer(model) for seller in self._sellers)
        offers = tuple(offer for offer in every if offer is not None)
        if model in self._named:
            self._found[model] = offers
        return offers

    def models(self) -> tuple[str, ...]:
        """The ids that are known to be served, sorted. Providers of any model may serve more."""
        return tuple(sorted(self._named))

    def offered_by(self, provider: Provider) -> tuple[Offer, ...]:
        """What one provider is known to serve: what is configured, `"*"` with it, or what its node
        lists."""
        (seller,) = (seller for seller in self._sellers if seller.provider is provider)
        models = seller.models() if seller.config.asks_node else seller.config.named
        every = (seller.offer(model) for model in dict.fromkeys(models))
        return tuple(offer for offer in every if offer is not None)

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


def build_catalog(
    config: Config, prices: Mapping[str, NodePrices] = NO_PRICES, now: float = 0.0
) -> Catalog:
    """The snapshot of a configuration.

    `prices` are those of the nodes that are asked for theirs, by the provider's name, as far as
    they are known; `now` is in seconds since 1970.
    """
    sellers = tuple(
        _Seller(_provider(provider), provider, *_priced(provider, prices, now))
        for provider in config.providers
    )
    return Catalog(
        tuple(seller.provider for seller in sellers),
        _secrets(config),
        frozenset(model for seller in sellers for model in seller.models()),
        sellers,
        {},
    )


def _priced(
    config: ProviderConfig, prices: Mapping[str, NodePrices], now: float
) -> tuple[NodePrices | None, Age]:
    found = prices.get(config.name) if config.asks_node else None
    return (None, Age.FRESH) if found is None else (found, age_of(found.fetched, now))


def _provider(config: ProviderConfig) -> Provider:
    endpoint = config.endpoint
    key = config.api_key
    # A Cashu token is a bearer key as well: a Routstr node makes a balance of it.
    shown = endpoint.basic if key is None else Secret("Bearer " + key.reveal())
    bare = key is not None and config.key_header == X_API_KEY
    authorization = key if bare else shown
    known = None
    if authorization is not None and lists_prices(config.kind):
        known = key_id_of(authorization)
    return Provider(
        name=config.name,
        url=endpoint.url,
        shown_url=endpoint.shown_url,
        kind=config.kind,
        key=key,
        authorization=authorization,
        models=config.models,
        timeouts=config.timeouts,
        drain_seconds=config.drain_seconds,
        proxy=config.proxy,
        endpoints=config.endpoints,
        key_header=X_API_KEY.encode() if bare else b"authorization",
        key_id=known,
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
    return Secrets(found)


@final
class Secrets(tuple[Secret, ...]):
    """Those of a configuration, and what takes them out of a text: each answer has some to look
    through."""

    @cached_property
    def take_out(self) -> Callable[[str], str]:
        """`redact` for these."""
        return _redactor(self)


def redact(text: str, secrets: Iterable[Secret]) -> str:
    """The text with every known secret, Cashu token and node key replaced by `[REDACTED]`."""
    return redactor(secrets)(text)


def redactor(secrets: Iterable[Secret]) -> Callable[[str], str]:
    """`redact` for these secrets, for whoever has many texts."""
    return secrets.take_out if isinstance(secrets, Secrets) else _redactor(secrets)


def _redactor(secrets: Iterable[Secret]) -> Callable[[str], str]:
    return partial(_pattern(tuple(secret.reveal() for secret in secrets)).sub, REDACTED)


@lru_cache(maxsize=8)
def _pattern(values: tuple[str, ...]) -> re.Pattern[str]:
    """What to look for. Cached, because every line of the log is looked through.

    Longer secrets come first, so that one that contains another leaves nothing of itself behind.
    All in one pass: a second one would look for short secrets in the word REDACTED.
    """
    longest_first = sorted(set(values) - {""}, key=lambda value: (-len(value), value))
    return re.compile("|".join([*map(re.escape, longest_first), _CASHU_TOKEN, _NODE_KEY]))

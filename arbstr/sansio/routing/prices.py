"""What a Routstr node asks: remembered from one listing to the next, and looked up by name.

    what is listed --PriceBook.fetched--> News
    PriceBook.prices --NodePrices.find(the client's id)--> Price, Ambiguous, or nothing
    NodePrices --kept--> a text for the ledger --restored--> NodePrices, after the next start

    told                                          what is asked from then on
    a price for the first time, or moved by       the new one
      at most `JUMP` times
    one that moved by more than that              the old one, and the new one waits
    the next listing still says about the same    the new one
    a model is not listed any more                it is gone

    age of the last listing     what it is good for
    up to 15 minutes            as it is
    up to 24 hours              marked; caps and budgets count a tenth more
    older                       nothing: unpriced, which no cap or budget lets through

An id is looked for as it is listed, then among aliases and slugs, then whatever its case, then
without the vendor before its slash; where a step finds several models, it is ambiguous.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Rates, format_above, format_eyes, format_sats, multiply_sats
from arbstr.sansio.routing.listing import Listed, Most

FRESH_SECONDS: Final = 15 * 60.0
AGED_SECONDS: Final = 24 * 3600.0
"""How old a listing may be to be used as it is, and to be used at all."""

AGED_TIMES: Final = Decimal("1.1")
"""What caps and budgets multiply an aged price by: the price of bitcoin moves so much in a day."""

MOVED: Final = 100
"""One part in so many is a change that is kept although nobody has paid it: the prices of all
models follow that of bitcoin, at every listing, and most of them nobody asks for."""

JUMP: Final = 3
"""A price that moves by more than so many times in one listing waits for a second one."""


@final
@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs at its node, from `since` on (seconds since 1970). `id` is its own."""

    id: int
    listed: Listed
    since: float

    @property
    def rates(self) -> Rates:
        """What the node asks for the model."""
        return self.listed.rates


class Age(Enum):
    """How far a listing can be relied on. See the module's second table."""

    FRESH = "fresh"
    AGED = "aged"
    OLD = "old"


def age_of(fetched: float, now: float) -> Age:
    """Of a listing that was read at `fetched`; both in seconds since 1970.

    One from the future is fresh: the clock was put back since.
    """
    seconds = now - fetched
    if seconds <= FRESH_SECONDS:
        return Age.FRESH
    return Age.AGED if seconds <= AGED_SECONDS else Age.OLD


@final
@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several models of the node could be meant."""

    models: tuple[str, ...]


Found: TypeAlias = Price | Ambiguous | None


@final
@dataclass(frozen=True)  # no slots: what names stand for is kept beside them
class NodePrices:
    """The prices of one node at one time, by its own ids. `fetched`: seconds since 1970 of the last
    listing that was read. Nobody changes it."""

    prices: Mapping[str, Price]
    fetched: float

    def find(self, name: str) -> Found:
        """The model a client means by `name`."""
        exact = self.prices.get(name)
        if exact is not None:
            return exact
        lowered = name.lower()
        vendor, _, bare = lowered.rpartition("/")
        written, lower, without = self._names
        models = written.get(name) or lower.get(lowered)
        if models is None:
            # What has a vendor of its own is meant by that one, or by none.
            models = lower.get(bare) if vendor else without.get(bare)
        if not models:
            return None
        return self.prices[models[0]] if len(models) == 1 else Ambiguous(models)

    @cached_property
    def _names(self) -> tuple[Mapping[str, tuple[str, ...]], ...]:
        """What each name stands for: as written, in lower case, and where either side has no
        vendor (`acme/a` and `other/a` are two models)."""
        written: dict[str, tuple[str, ...]] = {}
        lowered: dict[str, tuple[str, ...]] = {}
        bare: dict[str, tuple[str, ...]] = {}
        for model, price in self.prices.items():
            for name in price.listed.names:
                _add(written, name, model)
            for name in (model.lower(), *(name.lower() for name in price.listed.names)):
                _add(lowered, name, model)
                _add(bare, name.rpartition("/")[2], model)
        return written, lowered, bare


def _add(names: dict[str, tuple[str, ...]], name: str, model: str) -> None:
    found = names.get(name, ())
    if model not in found:
        names[name] = (*found, model)


@final
@dataclass(frozen=True, slots=True)
class Held:
    """A price that moved too far to be believed at once: it waits for the next listing."""

    model: str
    before: Rates
    said: Rates

    def sentence(self) -> str:
        """What the log says, a predicate whose subject is the node."""
        return (
            f"lists {self.model} at {_told(self.said)} where it was {_told(self.before)}: "
            "believed once the next listing says so, too"
        )


def _told(rates: Rates) -> str:
    return f"{format_eyes(rates.input_rate)} in, {format_eyes(rates.output_rate)} out"


@final
@dataclass(frozen=True, slots=True)
class News:
    """What a listing changed: prices that are new, models that are gone, prices that wait."""

    new: tuple[Price, ...]
    gone: tuple[str, ...]
    held: tuple[Held, ...]


@final
class PriceBook:
    """What one node asks. `prices` is `None` until a listing was read; `last` may come from the
    ledger, so that a start without network knows some."""

    def __init__(self, last: NodePrices | None = None) -> None:
        self.prices = last
        self._waiting: dict[str, Rates] = {}

    def fetched(self, listing: Iterable[Listed], now: float, first_id: int) -> News:
        """Takes what the node lists. `now` is seconds since 1970; new prices are numbered from
        `first_id` on."""
        before = {} if self.prices is None else dict(self.prices.prices)
        after: dict[str, Price] = {}
        waiting: dict[str, Rates] = {}
        new: list[Price] = []
        held: list[Held] = []
        for listed in listing:
            old = before.pop(listed.model, None)
            if old is not None and old.listed.rates == listed.rates:
                # The same price; what the node may reserve for it, or its names, may be others.
                after[listed.model] = old if old.listed == listed else replace(old, listed=listed)
                continue
            if old is not None and _jumps(old.rates, listed.rates):
                seen = self._waiting.get(listed.model)
                if seen is None or _jumps(seen, listed.rates):
                    waiting[listed.model] = listed.rates
                    held.append(Held(listed.model, old.rates, listed.rates))
                    after[listed.model] = old
                    continue
            price = Price(first_id + len(new), listed, now)
            new.append(price)
            after[listed.model] = price
        self._waiting = waiting
        self.prices = NodePrices(MappingProxyType(after), now)
        return News(tuple(new), tuple(before), tuple(held))


def _jumps(before: Rates, after: Rates) -> bool:
    pairs = zip(_each(before), _each(after), strict=True)
    return any(max(pair) > multiply_sats(min(pair), JUMP) for pair in pairs)


def _each(rates: Rates) -> tuple[Decimal, ...]:
    """What a thousand tokens cost of each sort: see `_SORTS`."""
    read, cached, stored = rates.input_rate, rates.cached_input_rate, rates.cache_write_rate
    return (
        *(read, rates.output_rate),
        read if cached is None else cached,
        read if stored is None else stored,
    )


_SORTS: Final = (
    *("input tokens", "output tokens"),
    *("tokens read from a cache", "tokens written to a cache"),
)


def scaled(rates: Rates, times: Decimal) -> Rates:
    """So many times the rates."""

    def more(rate: Decimal) -> Decimal:
        return rate * times

    cached, stored = rates.cached_input_rate, rates.cache_write_rate
    return replace(
        rates,
        input_rate=more(rates.input_rate),
        output_rate=more(rates.output_rate),
        cached_input_rate=None if cached is None else more(cached),
        base_fee=more(rates.base_fee),
        cache_write_rate=None if stored is None else more(stored),
    )


def over_ceiling(asked: Rates, ceiling: Rates) -> str | None:
    """Why a price is above what the configuration allows, or `None`: a predicate whose subject is
    the node. Each rate that is typed is a ceiling of its own, and no other is."""
    typed = (
        *(ceiling.input_rate, ceiling.output_rate),
        *(ceiling.cached_input_rate, ceiling.cache_write_rate),
    )
    for sort, price, allowed in zip(_SORTS, _each(asked), typed, strict=True):
        if allowed is not None and price > allowed:
            return (
                f"costs {format_above(price, allowed)} sats per 1000 {sort}, "
                f"you allowed {format_sats(allowed)}"
            )
    return None


def moved(before: Rates, after: Rates) -> bool:
    """Whether a price has changed by so much that its history should say so, if nobody paid it."""
    pairs = zip(_each(before), _each(after), strict=True)
    return any(abs(new - old) * MOVED >= old for old, new in pairs if old != new)


# -- kept for the next start ---------------------------------------------------------------------


def kept(prices: NodePrices) -> str:
    """The prices as one text; amounts are texts in it, to be read exactly."""
    return json.dumps(
        [
            [
                *(price.id, price.since, price.listed.model, price.listed.names),
                *(str(rate) for rate in (price.rates.input_rate, price.rates.output_rate)),
                [
                    _text(price.rates.cached_input_rate),
                    _text(price.rates.cache_write_rate),
                    price.listed.context,
                ],
                *_most_texts(price.listed.most),
            ]
            for price in prices.prices.values()
        ]
    )


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _most_texts(most: Most | None) -> tuple[str, ...]:
    return () if most is None else (str(most.cost), str(most.prompt), str(most.completion))


def restored(text: str, fetched: float) -> NodePrices | None:
    """What `kept` made; `None` for what it cannot have made."""
    try:
        found = {}
        for number, since, model, names, read, written, more, *most in json.loads(text):
            # What was kept before there were others is the price of cached input alone.
            cached, stored, context = more if isinstance(more, list) else (more, None, None)
            rates = Rates(
                Decimal(read),
                Decimal(written),
                None if cached is None else Decimal(cached),
                cache_write_rate=None if stored is None else Decimal(stored),
            )
            whole = Most(*map(Decimal, most)) if most else None
            listed = Listed(model, tuple(names), rates, whole, context)
            found[model] = Price(number, listed, since)
    except (ValueError, TypeError, InvalidOperation):
        return None
    return NodePrices(MappingProxyType(found), fetched)

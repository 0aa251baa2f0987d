"""What nodes ask, for a person: from the ledger, or asked just now (`check --network`).

known(ledger)       what was known when arbstr last ran
asked(config)       what each node says now
described(...)      a line a model: its price, how old that is, what changed since yesterday
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final, final

import trio

from arbstr.cli.figures import sats
from arbstr.sansio.config.credentials import lists_prices
from arbstr.sansio.config.reader import ANY_MODEL, Config
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.reports import Filters
from arbstr.sansio.moments import Span
from arbstr.sansio.money import Rates, format_eyes, sats_from_msats
from arbstr.sansio.routing.catalog import Catalog, Offer, Provider, build_catalog
from arbstr.sansio.routing.listing import reservation_msats
from arbstr.sansio.routing.prices import Age, NodePrices, PriceBook, age_of
from arbstr.trio_runtime.ledger.charges import Charges, read_balances, read_charges
from arbstr.trio_runtime.ledger.port import Session, Trouble
from arbstr.trio_runtime.ledger.prices import read_before, read_listings

if TYPE_CHECKING:
    from arbstr.sansio.routing.listing import Listed

DAY_SECONDS: Final = 86_400.0

ASK_SECONDS: Final = 10.0
"""How long a node may take to list its models."""


@final
@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the node of one provider.

    `trouble`: why nothing is, or nothing newer than `prices`, about the node. `held` is what its
    key holds free, in millisats, and `charges` what it charged in the last week.
    """

    prices: NodePrices | None = None
    yesterday: Mapping[str, Rates] = field(default_factory=dict)
    trouble: str | None = None
    held: int | None = None
    charges: Charges | None = None


NOTHING: Final = Known(trouble="has not been asked yet; `arbstr run` does, and `check --network`")


def known(place: str, config: Config) -> dict[str, Known]:
    """What the ledger at `place` knows of each provider that is asked for its prices. Blocks."""
    from arbstr.trio_runtime.ledger.database import peek

    found = {each.name: NOTHING for each in config.providers if lists_prices(each.kind)}
    if not found:
        return found
    try:
        with peek(place) as session:
            if session is not None:
                found |= _read(session, config)
    except Trouble:
        pass  # it is of no use here, and what is wrong with it `check` says
    return found


def _read(session: Session, config: Config) -> dict[str, Known]:
    urls = {(each.name, each.endpoint.shown_url) for each in config.providers if each.asks_node}
    now = time.time()
    held = read_balances(session)
    week = Span(round((now - 7 * DAY_SECONDS) * 1000), round(now * 1000) + 1)
    charges = {each.provider: each for each in read_charges(session, Filters(week))}
    found = {
        each.name: replace(
            NOTHING, held=held.get(each.name, (None, ""))[0], charges=charges.get(each.name)
        )
        for each in config.providers
        if lists_prices(each.kind)
    }
    for listing in read_listings(session):
        if (listing.provider, listing.url) in urls:
            found[listing.provider] = replace(
                found[listing.provider],
                prices=listing.prices,
                yesterday=read_before(listing.provider, now - DAY_SECONDS, session),
                trouble=None,
            )
    return found


def asked(config: Config, before: Mapping[str, Known]) -> dict[str, Known]:
    """What each node lists just now. Blocks for as long as the slowest takes."""
    return trio.run(_ask_all, config, before)


async def _ask_all(config: Config, before: Mapping[str, Known]) -> dict[str, Known]:
    from arbstr.trio_runtime.upstream.node import balance, list_models
    from arbstr.trio_runtime.upstream.transport import Transport

    found = dict(before)

    async def one(provider: Provider) -> None:
        known = before.get(provider.name, NOTHING)
        held = known.held
        if provider.authorization is not None:
            with trio.move_on_after(ASK_SECONDS):
                account = await balance(transport, provider)
                held = held if isinstance(account, str) else account.balance
        listing: tuple[Listed, ...] | str = f"did not list its models within {ASK_SECONDS:g} s"
        with trio.move_on_after(ASK_SECONDS):
            listing = await list_models(transport, provider)
        if isinstance(listing, str):
            found[provider.name] = replace(known, trouble=listing, held=held)
            return
        book = PriceBook()
        book.fetched(listing, time.time(), 1)
        found[provider.name] = replace(known, prices=book.prices, trouble=None, held=held)

    nodes = {provider.name for provider in config.providers if provider.asks_node}
    async with Transport() as transport, trio.open_nursery() as nursery:
        for provider in build_catalog(config).providers:
            if provider.name in nodes:
                nursery.start_soon(one, provider)
    return found


def described(config: Config, found: Mapping[str, Known], name: str, now: float) -> Iterator[str]:
    """The models of a provider as its node lists them, a line each."""
    knows = found.get(name, NOTHING)
    if knows.prices is None:
        yield f"prices: it {knows.trouble}"
        return
    age = age_of(knows.prices.fetched, now)
    grows = {Age.FRESH: "", Age.AGED: "; caps count a tenth more", Age.OLD: "; too old: unpriced"}
    since = "" if knows.trouble is None else f" (now it {knows.trouble})"
    yield f"prices of {_ago(now - knows.prices.fetched)}{since}{grows[age]}"
    for offer in offers_of(config, found, name, now):
        yield f"{_name(offer)}  {_price(offer, knows.yesterday)}{_needs(offer, knows.held)}"


def accounts_of(found: Mapping[str, Known], name: str) -> Iterator[str]:
    """What a provider's key holds, and what was charged for it, a line each."""
    knows = found.get(name, NOTHING)
    if knows.held is not None:
        yield f"key holds {format_eyes(sats_from_msats(Decimal(knows.held)))} sats free"
    charges = knows.charges
    if charges is not None:
        stated, expected = (sats(each) for each in (charges.stated, charges.expected))
        told = f"in 7 days {stated} sats stated, {expected} expected"
        if charges.charged is not None and charges.known is not None:
            charged, right = (sats(each) for each in (charges.charged, charges.known))
            told += f"; compared: {charged} charged, {right} known"
        yield told


def catalog_at(place: str, config: Config) -> Catalog:
    """What is served at the prices that the ledger at `place` knows. Blocks."""
    return _catalog(config, known(place, config), time.time())


def _catalog(config: Config, found: Mapping[str, Known], now: float) -> Catalog:
    prices = {each: one.prices for each, one in found.items() if one.prices is not None}
    return build_catalog(config, prices, now)


def offers_of(
    config: Config, found: Mapping[str, Known], name: str, now: float
) -> tuple[Offer, ...]:
    """What one provider serves at these prices."""
    catalog = _catalog(config, found, now)
    (provider,) = (each for each in catalog.providers if each.name == name)
    return catalog.offered_by(provider)


def problems(config: Config, found: Mapping[str, Known], now: float) -> Iterator[str]:
    """What keeps a configured model from being used, a sentence each."""
    for provider in config.providers:
        if not provider.asks_node:
            continue
        knows = found.get(provider.name, NOTHING)
        if knows.trouble is not None:
            yield f"provider {provider.name}: its prices cannot be read: it {knows.trouble}"
        if knows.prices is None:
            continue
        for offer in offers_of(config, found, provider.name, now):
            # What is not named is no fault: a node lists what it likes.
            if offer.refused is not None and (ANY_MODEL not in provider.models):
                yield f"provider {provider.name}: {offer.model}: it {offer.refused}"


def _name(offer: Offer) -> str:
    same = offer.model == offer.upstream_model
    return offer.model if same else f"{offer.model} (as {offer.upstream_model})"


def _price(offer: Offer, yesterday: Mapping[str, Rates]) -> str:
    if offer.refused is not None:
        return f"not asked: it {offer.refused}"
    if offer.price is None:
        return "no price"
    rates = offer.price.rates
    cached = rates.cached_input_rate
    parts = [f"in {format_eyes(rates.input_rate)}", f"out {format_eyes(rates.output_rate)}"]
    if cached is not None:
        parts.append(f"cached in {format_eyes(cached)}")
    text = f"{', '.join(parts)} sats per 1000 tokens"
    before = yesterday.get(offer.upstream_model)
    return text if before is None else f"{text}; {change(before, rates)}"


def _needs(offer: Offer, held: int | None) -> str:
    """What a key cannot pay that holds so many millisats."""
    if offer.price is None or offer.refused is not None or held is None:
        return ""
    needs = reservation_msats(offer.price.listed, 0, None)
    if needs is None or needs <= held:
        return ""
    wanted = format_eyes(sats_from_msats(Decimal(needs)))
    return f"; without max_tokens a request needs {wanted} sats free, more than the key holds"


def change(before: Rates, now: Rates) -> str:
    """What became of a price in a day."""
    if not before.output_rate or before == now:
        return "as yesterday" if before.output_rate == now.output_rate else "was free yesterday"
    percent = (now.output_rate / before.output_rate - 1) * 100
    return f"{percent:+.1f} % since yesterday"


def _ago(seconds: float) -> str:
    if seconds < 60:
        return "just now"
    minutes = int(seconds // 60)
    return f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"

"""What nodes asked, on disk: the history that attempts refer to, and the last listing of each.

a listing, and prices that are to be kept --keep_prices--> node_listings, node_prices
at start: node_listings --read_listings--> what was known before
before a node is asked: node_listings --read_newer--> what another process was told
node_prices --read_before--> what a price is compared with a day later
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.moments import format_moment, parse_moment
from arbstr.sansio.money import Rates
from arbstr.sansio.routing.prices import NodePrices, Price, kept, restored
from arbstr.trio_runtime.ledger.port import Rows, Session

ENDED: Final = 1 << 19
"""From the number of a price to that of the row which says that it is listed no more."""

_COLUMNS: Final = (
    *("id", "provider", "model", "input", "output", "cached", "max_cost"),
    *("fetched_at", "version"),
)


@final
@dataclass(frozen=True, slots=True)
class Listing:
    """The last listing of a provider's node. `url` is the provider's, as shown."""

    provider: str
    url: str
    version: str | None
    prices: NodePrices


def keep_prices(
    listing: Listing, prices: Sequence[Price], gone: Sequence[Price], session: Session
) -> None:
    """Writes the listing, and what its history has not yet: prices, and those that ended."""
    moment = _moment(listing.prices.fetched)
    session.execute(
        session.question("upsert_node_listing"),
        {
            "provider": listing.provider,
            "url": listing.url,
            "fetched_at": moment,
            "version": listing.version,
            "listing": kept(listing.prices),
        },
    )
    rows = [_row(listing, price) for price in prices]
    # Numbers of one listing follow each other; those that end it are far behind them.
    rows += [
        (
            price.id + ENDED,
            listing.provider,
            price.listed.model,
            *[None] * 4,
            moment,
            listing.version,
        )
        for price in gone
    ]
    session.insert("insert_node_price", _COLUMNS, rows)


def _row(listing: Listing, price: Price) -> tuple[object, ...]:
    rates, most = price.rates, price.listed.most
    cached = rates.cached_input_rate
    return (
        *(price.id, listing.provider, price.listed.model),
        *(float(rates.input_rate), float(rates.output_rate)),
        None if cached is None else float(cached),
        None if most is None else float(most.cost),
        _moment(price.since),
        listing.version,
    )


def _moment(seconds: float) -> str:
    return format_moment(round(seconds * 1000))


def read_listings(session: Session) -> tuple[Listing, ...]:
    """The last listing of each node; what cannot be read is left out."""
    return _listings(session.execute(session.question("node_listings")))


def read_newer(provider: str, url: str, since: float, session: Session) -> NodePrices | None:
    """What another process was told of a provider's node after a moment, in seconds since 1970."""
    rows = session.execute(
        session.question("newer_node_listing"),
        {"provider": provider, "url": url, "since": _moment(since)},
    )
    return next((each.prices for each in _listings(rows)), None)


def _listings(rows: Rows) -> tuple[Listing, ...]:
    found = []
    for provider, url, fetched_at, version, text in rows:
        moment = parse_moment(fetched_at)
        prices = None if moment is None else restored(text, moment / 1000)
        if prices is not None:
            found.append(Listing(provider, url, version, prices))
    return tuple(found)


def read_before(provider: str, before: float, session: Session) -> dict[str, Rates]:
    """The prices of a provider's models at a moment, in seconds since 1970."""
    rows = session.execute(
        session.question("node_prices_before"),
        {"provider": provider, "before": _moment(before)},
    )
    return {
        model: Rates(Decimal(repr(read)), Decimal(repr(written)))
        for model, read, written, _ in rows
        if read is not None and written is not None
    }

"""Providers and their offers as a machine gets them; nothing here is asked over a socket."""

from decimal import Decimal
from typing import Final

from arbstr.sansio.config.reader import Kind, Timeouts
from arbstr.sansio.money import Rates
from arbstr.sansio.routing.catalog import Offer, Provider
from arbstr.sansio.routing.holds import Hold
from arbstr.sansio.routing.plan import Candidate
from tests.chats import HOLD

A_SAT: Final = Decimal(1)


def candidate(
    name: str,
    model: str = "gpt-4o",
    *,
    kind: Kind = Kind.OPENAI,
    rates: Rates | None,
    cost: Decimal | None = A_SAT,
    output: int = 256,
    hold: Hold = HOLD,
) -> Candidate:
    """An offer of one model by a provider without a key, estimated at `cost` sats."""
    base = f"https://{name}.example/v1"
    provider = Provider(
        name=name,
        url=f"{base}/chat/completions",
        shown_url=base,
        kind=kind,
        key=None,
        authorization=None,
        models=(model,),
        timeouts=Timeouts(),
        drain_seconds=60.0,
    )
    return Candidate(Offer(provider, model, model, rates), cost, output, hold)

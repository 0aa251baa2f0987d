"""Which APIs providers turned out not to serve, whatever their configuration says.

    a 404, 405 or 501 that does not speak of the model --miss--> passed over there until a reload
    an answer --serve--> the path is there: no such status means that any more

A Routstr node passes a request on to the upstream of its model, and each upstream serves what it
serves: there the model lacks the path, elsewhere the provider does. A provider that has answered at
no path yet may only have a wrong URL, or be down behind a proxy that says 404: that is no matter of
the API, and rests (`failover/rests.py`).
"""

from collections.abc import Collection
from typing import final

from arbstr.sansio.endpoints import CHAT, ENDPOINTS
from arbstr.sansio.routing.catalog import Offer


@final
class Paths:
    """What was seen of the paths of all providers, by the names of these and of the APIs."""

    def __init__(self) -> None:
        self._served: set[tuple[str, str]] = set()
        self._missing: set[tuple[str, str | None, str]] = set()

    def serve(self, provider: str, endpoint: str) -> None:
        """An answer came."""
        self._served.add((provider, endpoint))

    def serves(self, provider: str, endpoint: str) -> bool:
        """Whether an answer has come, so that the path is known to be there."""
        return (provider, endpoint) in self._served

    def miss(self, offer: Offer, endpoint: str, *, for_the_model: bool) -> bool:
        """There is nothing at the path, for this model or for any. Whether that is remembered, else
        the provider rests."""
        name = offer.provider.name
        if endpoint == CHAT and not any(served == name for served, _ in self._served):
            return False
        model = offer.model if for_the_model else None
        self._missing.add((name, model, endpoint))
        return True

    def lacks(self, offer: Offer, endpoint: str) -> bool:
        """Whether it is not served there, by the configuration or by what was seen."""
        # What the configuration cannot name it does not exclude.
        if endpoint in ENDPOINTS and endpoint not in offer.endpoints:
            return True
        missing = self._missing
        if not missing:
            return False
        name = offer.provider.name
        return (name, None, endpoint) in missing or (name, offer.model, endpoint) in missing

    def missing(self, provider: str) -> dict[str, list[str] | None]:
        """The APIs that turned out to be missing, in order: for which models, None for all."""
        found: dict[str, list[str] | None] = {}
        for name, model, endpoint in sorted(self._missing, key=str):
            if name != provider:
                continue
            models = found.setdefault(endpoint, [])
            if model is None:
                found[endpoint] = None
            elif models is not None:
                models.append(model)
        return found

    def retain(self, names: Collection[str]) -> None:
        """After a reload: what was missing may be there now; the paths of others are forgotten."""
        self._missing.clear()
        self._served = {(name, endpoint) for name, endpoint in self._served if name in names}

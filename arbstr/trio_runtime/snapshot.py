"""A configuration made ready for use: what a request keeps from its first line to its last."""

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from arbstr.sansio.callers import Doorkeeper
from arbstr.sansio.config.reader import Config
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.routing.catalog import Catalog, build_catalog
from arbstr.sansio.routing.prices import NodePrices
from arbstr.trio_runtime.upstream.target import Targets


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that follows from the configuration. Swapped as a whole, never changed."""

    config: Config
    catalog: Catalog
    targets: Targets
    doorkeeper: Doorkeeper

    @classmethod
    def of(cls, config: Config) -> "Snapshot":
        """Builds the catalog. Each provider's requests are prepared when it is first asked."""
        catalog = build_catalog(config)
        server = config.server
        return cls(
            config=config,
            catalog=catalog,
            targets=Targets(),
            doorkeeper=Doorkeeper(
                server.listen_host, server.allowed_hosts, server.allowed_origins, server.auth_token
            ),
        )

    def repriced(self, prices: Mapping[str, NodePrices], now: float) -> "Snapshot":
        """The same configuration at what its nodes ask now (seconds since 1970)."""
        return replace(self, catalog=build_catalog(self.config, prices, now))

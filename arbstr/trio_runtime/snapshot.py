"""A configuration made ready for use: what a request keeps from its first line to its last."""

from dataclasses import dataclass
from typing import final

from arbstr.sansio.callers import Doorkeeper
from arbstr.sansio.config.reader import Config
from arbstr.sansio.routing.catalog import Catalog, build_catalog
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

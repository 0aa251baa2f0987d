"""What to ask the running arbstr, and when: as little as shows the truth of this second.

    every look       /health: answered from memory; what it says of the log tells whether the
                     ledger can have anything new
    if it can        /requests and /stats of today; of the latter once the last minute's
    every half       /providers, which for a node lists hundreds of prices
    minute

So an arbstr in which nothing happens answers one small question a second. Several processes may
write to one ledger, and each knows of its own rows alone: after some seconds it is asked anyway.
"""

from typing import Final, final
from urllib.parse import urlencode

import trio

from arbstr.cli.routes import LATE, PATIENCE_SECONDS, Report, Routes
from arbstr.cli.watch.model import MINUTE_MS, Seen
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.moments import format_moment

ANYWAY_SECONDS: Final = 5.0
"""How old an answer of the ledger may be though nobody here wrote to it."""

PROVIDERS_SECONDS: Final = 30.0
"""How old what providers charge may be: nodes are asked every two minutes."""

RANGE: Final = "last_24h"
"""Which requests are listed."""


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be on the screen: so many requests that are so; all about the one with this id."""

    rows: int
    failures: bool = False
    unknown: bool = False
    provider: str | None = None
    model: str | None = None
    detail: str | None = None

    def query(self) -> str:
        """Of /requests."""
        asked = {
            "range": RANGE,
            "per_page": str(self.rows),
            **({"success": "false"} if self.failures else {}),
            **({"unknown_cost": "true"} if self.unknown else {}),
            **({} if self.provider is None else {"provider": self.provider}),
            **({} if self.model is None else {"model": self.model}),
        }
        return urlencode(asked)


class _SilentError(Exception):
    """Never leaves this module. Why arbstr does not answer."""


@final
class Reader:
    """Asks, and remembers what it need not ask."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._log: Report | None = None
        self._wanted: Wanted | None = None
        self._ledger_asked = self._providers_asked = float("-inf")
        self._names: frozenset[str] = frozenset()

    async def look(self, wanted: Wanted, now_ms: int) -> Seen | str:
        """What arbstr says now, or why it does not: the rest of a sentence about it."""
        with trio.move_on_after(PATIENCE_SECONDS):
            try:
                return await self._look(wanted, now_ms)
            except _SilentError as silent:
                self._log = None  # another may answer next time, with another ledger
                return str(silent)
        self._log = None
        return LATE

    async def _look(self, wanted: Wanted, now_ms: int) -> Seen:
        health = await self._get("/health")
        now, first = trio.current_time(), self._log is None
        today = minute = page = running = detail = providers = None
        names = frozenset(health["providers"])
        if first or names != self._names or now - self._providers_asked >= PROVIDERS_SECONDS:
            providers = await self._get("/providers")
            self._providers_asked, self._names = now, names
        moved = health["log"] != self._log or wanted != self._wanted
        if not (moved or now - self._ledger_asked >= ANYWAY_SECONDS):
            return Seen(health, providers=providers)
        try:
            day = format_moment(now_ms)[:10]
            today = await self._get(f"/stats?since={day}")
            page = await self._get(f"/requests?{wanted.query()}")
            there = sum(row["status"] == "in_flight" for row in page["data"])
            if today["counts"]["in_flight"] > there:
                running = await self._get(f"/requests?status=in_flight&range={RANGE}&per_page=100")
            if wanted.detail is not None:
                detail = await self._detail(wanted.detail)
            if first:
                since = format_moment(now_ms - MINUTE_MS)
                minute = await self._get(f"/stats?since={since}")
        except _SilentError as silent:
            # It serves, and what it knows without its ledger is worth a look.
            return Seen(health, providers=providers, ledger=str(silent))
        self._ledger_asked = now
        self._log, self._wanted = health["log"], wanted
        return Seen(health, today, minute, page, running, providers, detail)

    async def _get(self, path: str) -> Report:
        found = await self._routes.get(path)
        if isinstance(found, str):
            raise _SilentError(found)
        return found

    async def _detail(self, request_id: str) -> Report | None:
        """`None`: it is gone; retention took it, or another ledger was begun."""
        found = await self._routes.get(f"/requests/{request_id}")
        return None if isinstance(found, str) else found

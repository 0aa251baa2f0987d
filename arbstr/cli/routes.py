"""The routes of the running arbstr, for commands that look at it.

    async with Transport() as transport:
        answer = await Routes(transport, config).get("/health")    # a JSON object, or why not

It is asked at the address and with the token of the configuration. None of these routes asks a
provider anything, so looking costs nobody a sat.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, final

from arbstr.cli.config_file import NOT_SET
from arbstr.cli.connect_command import base_url
from arbstr.sansio.config.reader import Config
from arbstr.trio_runtime.upstream.ask import Replied, ask
from arbstr.trio_runtime.upstream.transport import Transport

Report: TypeAlias = Mapping[str, Any]
"""A JSON object."""

PATIENCE_SECONDS: Final = 3.0
"""How long arbstr may take for all that a glance needs: a status bar asks every few seconds."""

MOST_BYTES: Final = 16_000_000
"""Of an answer: /providers lists every price of every node."""

PORT_IS_OPEN: Final = "[server] listen leaves the port open, so nobody knows where arbstr listens"

LATE: Final = f"did not answer within {PATIENCE_SECONDS:g} s"

_MEMBERS: Final[Mapping[str, frozenset[str]]] = {
    "/health": frozenset({"status", "providers", "log"}),
    "/stats": frozenset({"counts", "costs"}),
    "/providers": frozenset({"providers"}),
    "/requests": frozenset({"data", "total"}),
}
"""What stands in every answer of that route."""

_OF_ONE_REQUEST: Final = frozenset({"correlation_id", "attempts"})


def waiting_rows(log: Report) -> str | None:
    """What `log` of /health says of rows that cannot be written, for a person; None if they can."""
    seconds, trouble = log.get("waiting_seconds"), log.get("trouble")
    if seconds is None:
        return None
    rows = "1 row waits" if log["queued"] == 1 else f"{log['queued']:,} rows wait"
    why = "" if trouble is None else f" ({trouble})"
    return f"{rows} to be written, for {seconds:,.0f} s{why}"


@final
class Routes:
    """Those of the arbstr that runs by this configuration. `where` is how a person calls it."""

    def __init__(self, transport: Transport, config: Config) -> None:
        self._transport = transport
        self._url = base_url(config.server.listen)
        self.where: Final = self._url.removeprefix("http://")
        token = config.server.auth_token
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        if token is not None and token.fits_a_header() and NOT_SET not in token.reveal():
            self._headers = ((b"authorization", f"Bearer {token.reveal()}".encode()),)

    async def get(self, path: str) -> Report | str:
        """What the route says, or why nobody knows: the rest of a sentence about arbstr."""
        answer = await ask(
            self._transport, self._url + path, headers=self._headers, most_bytes=MOST_BYTES
        )
        if not isinstance(answer, Replied):
            return answer.sentence
        if answer.status == 401:
            return "wants [server] auth_token; set its variable here, too"
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError):
            found = None
        route = path.partition("?")[0]
        is_report = answer.status == 200
        if answer.status == 503 and route == "/health":
            is_report = isinstance(found, dict) and "error" not in found  # it is unhealthy
        if not is_report:
            return f"answered status {answer.status} at {route}"
        members = _MEMBERS.get(route, _OF_ONE_REQUEST)
        if not (isinstance(found, dict) and members <= found.keys()):
            return "is something else than arbstr"
        return found

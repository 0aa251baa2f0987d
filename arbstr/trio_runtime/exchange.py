"""One request from its bytes to its row: what it is, and whose answer it gets.

serve      parse; then the same as before, which is joined (joined.py) or refused, or a request
           of its own (run.py), whatever happens with one record
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from arbstr.sansio.dialects.dialect import Dialect
from arbstr.sansio.dialects.usage import is_heavy
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.routing.policy import POLICY_HEADER, parse_and_choose
from arbstr.trio_runtime.attempts import utc_timestamp
from arbstr.trio_runtime.heavy import apart
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.joined import Joined
from arbstr.trio_runtime.run import Run
from arbstr.trio_runtime.server.responder import Responder

log = logging.getLogger(__name__)

AFFINITY_HEADER: Final = "x-arbstr-affinity"
TEXT_BYTES: Final = 16 * 1024
"""A body of more has its rule chosen at once, so that the text in which keywords are looked for
does not lie beside it for as long as its answer takes; of a smaller one to let it go costs more."""
NO_AFFINITY: Final = "none"
"""The value that sends a request wherever it is cheapest, whoever answered its conversation."""
CONSENT_HEADER: Final = "x-arbstr-respend"
"""`allow` is the consent to pay again for what may have been paid for."""


async def serve(
    hub: Hub,
    responder: Responder,
    dialect: Dialect,
    *,
    request_id: str,
    headers: dict[str, str],
    query: bytes,
    body: bytes,
    received: float,
    on_disconnect: Callable[[Callable[[], None]], None],
    scope: trio.CancelScope,
) -> None:
    """Answers one request at a door. Returns when nobody waits for its answer any more, or is
    cancelled in `scope`, which is around it.

    `received` is the monotonic time its first byte was read at. `on_disconnect` takes the callback
    that is called when the client leaves.
    """
    named = policy = headers.get(POLICY_HEADER)
    rules = hub.snapshot.config.policies.rules
    if is_heavy(body):
        request, policy = await apart(parse_and_choose, dialect, body, headers, query, rules)
    elif len(body) > TEXT_BYTES:
        request, policy = parse_and_choose(dialect, body, headers, query, rules)
    else:
        request = dialect.parse(body, headers, query)
    if isinstance(request, ErrorReply):
        extra = {"request_id": request_id, "status": "rejected", "code": request.code}
        log.info("rejected: %s", request.code, extra=extra)
        await responder.error(request)
        return
    exchange = Exchange(
        request_id,
        utc_timestamp(),
        request.model,
        request.stream,
        received,
        request.choices,
        dialect.name,
    )
    consent = CONSENT_HEADER in headers and headers[CONSENT_HEADER].strip().lower() == "allow"
    affinity = headers.get(AFFINITY_HEADER)
    which = None
    if hub.kept.is_hashed_apart(request):
        which = await hub.kept.hashed_apart(request, named)
    run: Run | Joined
    found = None if consent else hub.kept.of(request, named, which)
    if found is None:
        run = Run(
            hub,
            responder,
            request,
            exchange,
            policy=policy,
            named=named,
            consent=consent,
            scope=scope,
            affinity=affinity is None or affinity.strip().lower() != NO_AFFINITY,
            which=which,
        )
    else:
        run = Joined(hub, responder, request, exchange, found, policy=named)
    hub.running.add(run)
    if hub.stopping:
        run.stop()  # its body came too late: an answer could not be waited for
    on_disconnect(run.client_left)
    try:
        await run.run()
    except Exception:
        run.broke()
        raise
    finally:
        hub.running.discard(run)
        run.end()
        hub.end_if_deserted()

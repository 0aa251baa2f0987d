"""A free question of a client's, which is passed on: what all of them have in common.

Nothing is set aside for one and it leaves no row, so whoever charges for it all the same is warned
of. It ends with its client, with `[timeouts] total`, and when the grace of a shutdown is over.
"""

import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal
from math import inf
from typing import Final, final

import trio

from arbstr.sansio.dialects.usage import parse_json, read_cost_header, read_stated_cost
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.kinds import stated_in
from arbstr.sansio.money import format_eyes, sats_from_msats
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.server.responder import Responder
from arbstr.trio_runtime.upstream.ask import Replied

log = logging.getLogger(__name__)

OnDisconnect = Callable[[Callable[[], None]], None]


@final
class _Question:
    """A `Running` of the hub's."""

    def __init__(self, hub: Hub) -> None:
        total = hub.snapshot.config.timeouts.total
        self.scope: Final = trio.CancelScope(deadline=trio.current_time() + total if total else inf)
        self.left = False
        self.stopped = hub.stopping
        if self.stopped:
            self.scope.cancel()

    def leave(self) -> None:
        """Its client is gone."""
        self.left = True
        self.scope.cancel()

    def is_deserted(self) -> bool:
        """Never: when its client leaves it ends."""
        return False

    def stop(self) -> None:
        """The shutdown's grace is over."""
        self.stopped = True
        self.scope.cancel()


async def answered(
    hub: Hub,
    responder: Responder,
    on_disconnect: OnDisconnect,
    answer: Callable[[], Awaitable[None]],
) -> None:
    """Runs `answer`, which asks and responds, for as long as there is somebody to answer."""
    question = _Question(hub)
    hub.running.add(question)
    on_disconnect(question.leave)
    try:
        with question.scope:
            await answer()
        if question.stopped:
            why = "arbstr was shut down before there was an answer."
            await responder.error(ErrorReply("shutting_down", why))
        elif question.scope.cancelled_caught and not question.left:
            total = hub.snapshot.config.timeouts.total
            why = f"No provider answered within {total:g} s ([timeouts] total)."
            await responder.error(ErrorReply("upstream_error", why, should_retry=False))
    finally:
        hub.running.discard(question)


def charged(reply: Replied) -> Decimal | None:
    """What a provider says it charged for an answer that should be free, in millisats."""
    value = parse_json(reply.body)
    stated = read_stated_cost(value) if isinstance(value, dict) else None
    return stated or read_cost_header(stated_in(reply.headers)) or None


def warn(provider: str, msats: Decimal, what: str, then: str, request_id: str) -> None:
    """That it did. `what` it charges for, and what follows."""
    log.warning(
        'provider "%s" charges for %s, %s sats just now, which are in no row: %s',
        provider,
        what,
        format_eyes(sats_from_msats(msats)),
        then,
        extra={"request_id": request_id, "provider": provider},
    )

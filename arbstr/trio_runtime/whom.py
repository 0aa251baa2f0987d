"""Whom a request may be asked of: its route, and how its candidates are tried in turn."""

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.retry import Retry
from arbstr.sansio.routing.affinity import Home
from arbstr.sansio.routing.plan import (
    Candidate,
    RoutePlan,
    lacks_price,
    plan,
    without_prices,
)
from arbstr.sansio.routing.refusals import NoRoute, unserved
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.snapshot import Snapshot


async def route_of(
    hub: Hub, snapshot: Snapshot, request: Asked, policy: str | None, home: Home | None
) -> tuple[Snapshot, RoutePlan | NoRoute]:
    """The route by this snapshot, or by the next, if prices had to be waited for."""
    route = _planned(hub, snapshot, request, policy, home)
    nodes = hub.nodes
    if nodes is not None and nodes.silent and lacks_price(route):
        await nodes.wait_first()
        snapshot = hub.snapshot
        route = without_prices(_planned(hub, snapshot, request, policy, home), nodes.silent)
    return snapshot, route


def _planned(
    hub: Hub, snapshot: Snapshot, request: Asked, policy: str | None, home: Home | None
) -> RoutePlan | NoRoute:
    config = snapshot.config
    return plan(
        request,
        policy_header=policy,
        catalog=snapshot.catalog,
        policies=config.policies,
        hold=config.budget.hold,
        learnt=hub.learnt,
        home=home,
    )


def retry_of(hub: Hub, snapshot: Snapshot, route: RoutePlan, *, consent: bool) -> Retry:
    """What to do after each attempt. `consent`: this request may be paid for twice."""
    retry = snapshot.config.retry
    return Retry(
        route.candidates,
        max_retries=retry.max_retries,
        backoff=retry.backoff,
        patience=retry.patience,
        consent=consent or retry.possibly_spent == "next",
        no_stream_options=frozenset(hub.refuse_stream_options or ()),
        max_sats=route.max_sats,
    )


def unserved_now(hub: Hub, request: Asked, candidates: tuple[Candidate, ...]) -> ErrorReply | None:
    """What is said if it turned out just now that nobody serves the door's path."""
    offers = [candidate.offer for candidate in candidates]
    lacking = all(hub.paths.lacks(offer, request.dialect.name) for offer in offers)
    return unserved(request, offers) if lacking else None

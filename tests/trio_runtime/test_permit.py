"""What an attempt needs to be sent, and gives back."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.board import Refused
from arbstr.sansio.failover.breaker import Outcome
from arbstr.sansio.life import AttemptStarted, Routed
from arbstr.sansio.routing.budget import NotWithinBudget
from arbstr.sansio.routing.plan import Candidate, RoutePlan
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.permit import Permit
from arbstr.trio_runtime.whom import route_of
from tests.proxy import chat_body, config, open_proxy, provider

NOW = "2026-02-03T04:05:06.789Z"


@asynccontextmanager
async def permitted(*, sats: int = 100) -> AsyncIterator[tuple[Hub, Exchange, Candidate, Permit]]:
    """A request that has a candidate and made no attempt yet."""
    more = f"[budget]\nsats_per_day = {sats}\n[breaker]\nfailures = 1\n"
    async with open_proxy(config(provider("alpha", "http://127.0.0.1:9"), more=more)) as proxy:
        hub, request = proxy.hub, CHAT.parse(chat_body(max_tokens=1000), {}, b"")
        assert isinstance(request, Asked)
        snapshot, route = await route_of(hub, hub.snapshot, request, None, None)
        assert isinstance(route, RoutePlan)
        candidate = route.candidates[0]
        exchange = Exchange("id", NOW, "gpt-4o", False, 0.0)
        exchange.note(Routed(None, candidate), 0.0)
        yield hub, exchange, candidate, Permit(hub, snapshot, request, exchange)


def set_aside(hub: Hub) -> Decimal:
    return hub.budget.view(time.time()).reserved


async def test_what_was_guessed_is_corrected_once_it_is_known() -> None:
    async with permitted() as (hub, exchange, candidate, permit):
        assert permit.take(candidate) is None
        assert set_aside(hub) == candidate.hold_cost
        assert set_aside(hub) > 0
        exchange.note(AttemptStarted(candidate, NOW), 0.0)
        permit.book()
        permit.settle()
        permit.book()  # once is enough
        assert set_aside(hub) == 0
        assert hub.budget.view(time.time()).spent == candidate.hold_cost
        permit.correct(1, Decimal("0.5"))
        permit.correct(1, Decimal("0.7"))
        assert hub.budget.view(time.time()).spent == Decimal("0.5")


async def test_what_the_breaker_refuses_sets_nothing_aside() -> None:
    async with permitted() as (hub, _, candidate, permit):
        assert permit.take(candidate) is None
        permit.verdict, permit.last_error = Outcome.FAILURE, "broke off"
        permit.settle()
        assert permit.reservation is not None
        hub.book(permit.reservation, Decimal(0))
        permit.reservation = None
        assert isinstance(permit.take(candidate), Refused)
        assert set_aside(hub) == 0
        assert permit.reservation is None
        assert not permit.is_probe


async def test_what_the_day_has_no_room_for_takes_no_leave() -> None:
    async with permitted(sats=0) as (hub, _, candidate, permit):
        assert isinstance(permit.take(candidate), NotWithinBudget)
        assert set_aside(hub) == 0
        assert not hub.board._outstanding

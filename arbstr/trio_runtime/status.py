"""What arbstr says of itself and its providers: bodies of /health, /providers, /models and /cost.

Read from memory only: asking costs no provider a request.
"""

import time
from datetime import UTC, datetime
from decimal import Decimal
from math import isinf
from typing import Any, Final

import trio

from arbstr.sansio.config.reader import AUTO
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.board import CircuitView
from arbstr.sansio.ledger.alarms import sums_of
from arbstr.sansio.moments import format_moment
from arbstr.sansio.money import Rates, sats_from_msats
from arbstr.sansio.routing.catalog import Offer, Provider
from arbstr.sansio.routing.gauge import budget_report
from arbstr.sansio.routing.listing import reservation_msats
from arbstr.sansio.routing.plan import plan, serves_auto
from arbstr.sansio.routing.prices import age_of
from arbstr.sansio.routing.quote import quote
from arbstr.sansio.routing.refusals import NoRoute
from arbstr.trio_runtime.hub import Hub

STARTED: Final = int(datetime.now(UTC).timestamp())
"""`created` of every model: clients want a number, and no provider's date means anything here."""


_STARTED_AT: Final = format_moment(STARTED * 1000)
"""The same for Anthropic's clients."""

NEVER: Final = "9999-12-31T23:59:59Z"
"""Until when rests what no time mends: a moment like any other, and after all of them."""

LATE_SECONDS: Final = 10.0
"""How long a row may wait to be written before that is worth a look: a backup that locks the
database is done by then, a full disk is not."""


def _wall(monotonic: float | None) -> str | None:
    """A monotonic moment as UTC text, as of now; what never comes is `NEVER`."""
    if monotonic is None:
        return None
    if isinf(monotonic):
        return NEVER
    epoch = datetime.now(UTC).timestamp() + monotonic - trio.current_time()
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _circuit(view: CircuitView) -> dict[str, Any]:
    shown: dict[str, Any] = {"state": view.state, "failure_count": view.failure_count}
    if view.retry_at is not None:
        shown["retry_at"] = _wall(view.retry_at)
    if view.last_error is not None:
        shown["last_error"] = view.last_error
    return shown


def _rest(view: CircuitView) -> dict[str, Any]:
    """Until when it is left alone, if it is, and why."""
    if view.resting_until is None:
        return {}
    why = None if view.why is None else view.why.value
    return {"resting_until": _wall(view.resting_until), "resting_for": why}


def health(hub: Hub) -> dict[str, Any]:
    """Circuits of each provider, of its models those that are not closed, and the log's counters;
    `status` sums them up. `settled` are attempts of the running day that ended without word, and
    whose price was learnt since."""
    now = trio.current_time()
    views = {p.name: hub.board.view(p.name, now) for p in hub.snapshot.catalog.providers}
    sick = {name: hub.board.sick(name, now) for name in views}
    states = [view.state for view in views.values()]
    if all(state == "closed" for state in states) and not any(sick.values()):
        status = "ok"
    elif all(state == "open" for state in states):
        status = "unhealthy"
    else:
        status = "degraded"
    found: dict[str, dict[str, Any]] = {}
    for name, view in views.items():
        found[name] = {**_circuit(view), **_rest(view), **_balance(hub, name)}
        if sick[name]:
            found[name]["models"] = {model: _circuit(seen) for model, seen in sick[name].items()}
    counters = hub.log_writer.statistics()
    late = counters.lasting or counters.waits > LATE_SECONDS
    if status == "ok" and (counters.damaged or late):
        status = "degraded"
    day = budget(hub)
    return {
        "status": status,
        "started_at": _STARTED_AT,
        "providers": found,
        "log": {
            "queued": counters.queued,
            "written": counters.written,
            "dropped": counters.dropped,
            **({"waiting_seconds": round(counters.waits, 1)} if counters.trouble or late else {}),
            **({"trouble": counters.trouble} if counters.trouble else {}),
            **({"damaged": True} if counters.damaged else {}),
        },
        "settled": hub.budget.view(time.time()).corrected,
        **({} if day is None else {"budget": day}),
    }


def budget(hub: Hub) -> dict[str, Any] | None:
    """How the running day stands; `None` without a budget."""
    now = time.time()
    account = hub.budget.view(now)
    return budget_report(account.limit, account.spent, account.reserved, now)


def _rates(rates: Rates | None) -> dict[str, float | None] | None:
    if rates is None:
        return None
    cached, written = rates.cached_input_rate, rates.cache_write_rate
    return {
        "input_rate": float(rates.input_rate),
        "output_rate": float(rates.output_rate),
        "cached_input_rate": float(cached) if cached is not None else None,
        "cache_write_rate": float(written) if written is not None else None,
        "base_fee": float(rates.base_fee),
    }


def _prices(hub: Hub, provider: Provider) -> dict[str, Any]:
    """Of a provider whose node is asked for them: from when, and what changed since yesterday."""
    nodes, snapshot = hub.nodes, hub.snapshot
    if nodes is None or not nodes.asks(provider):
        return {}
    known, trouble = nodes.prices_of(provider), nodes.trouble_of(provider)
    if known is None:
        return {"prices": {"fetched_at": None, "age": None, "trouble": trouble, "models": {}}}
    yesterday = nodes.yesterday_of(provider)
    return {
        "prices": {
            "fetched_at": format_moment(round(known.fetched * 1000)),
            "age": age_of(known.fetched, time.time()).value,
            "trouble": trouble,
            "version": nodes.version_of(provider),
            "models": {
                offer.model: _price(offer, yesterday.get(offer.upstream_model))
                for offer in snapshot.catalog.offered_by(provider)
            },
        }
    }


def _balance(hub: Hub, name: str) -> dict[str, Any]:
    """What a provider's key held when its node was last asked, in sats; `free_sats` is without what
    is reserved for requests in flight."""
    known = None if hub.accounts is None else hub.accounts.account_of(name)
    if known is None:
        return {}
    account, seen = known
    free, reserved = (
        float(sats_from_msats(Decimal(each))) for each in (account.balance, account.reserved)
    )
    return {"balance": {"free_sats": free, "reserved_sats": reserved, "asked_at": _wall(seen)}}


def _sums(hub: Hub, name: str) -> dict[str, Any]:
    """What a node stated since the start beside what its rates give, by model, and what it charged
    beside what is known of the same attempts, as far as that was compared."""
    stated = {
        model: {
            "requests": sums.requests,
            "stated_sats": float(sums.asked),
            "expected_sats": float(sums.right),
        }
        for model, sums in hub.price_alarms.of(name).items()
    }
    every = (hub.charge_alarms.of(name, alone=alone) for alone in (False, True))
    compared = sums_of([sums for sums in every if sums is not None])
    charged = {
        "requests": compared.requests,
        "charged_sats": float(compared.asked),
        "known_sats": float(compared.right),
    }
    return {
        **({"stated": stated} if stated else {}),
        **({"charged": charged} if compared.requests else {}),
    }


def _price(offer: Offer, before: Rates | None) -> dict[str, Any]:
    """`changed` is by which part its output is dearer than a day ago, 0.4 for 40 %; `needs_sats` is
    what a key must hold free for a request that does not limit its output."""
    price = offer.price
    found: dict[str, Any] = {
        "as": offer.upstream_model,
        "price_id": None if price is None else price.id,
        "since": None if price is None else format_moment(round(price.since * 1000)),
        "changed": None,
        "needs_sats": None,
    }
    needs = None if price is None else reservation_msats(price.listed, 0, None)
    if needs is not None:
        found["needs_sats"] = float(sats_from_msats(Decimal(needs)))
    if price is not None and before is not None and before.output_rate:
        found["changed"] = float(price.rates.output_rate / before.output_rate - 1)
    if offer.refused is not None:
        found["refused"] = offer.refused
    return found


def providers(hub: Hub) -> dict[str, Any]:
    """Each provider as configured, without its key, and how it stands right now.

    `proxy` is there if it is reached through one, `circuits` if some of its models' are not closed,
    `endpoints` if by the configuration it serves only some, `missing_endpoints` if some turned out
    not to be served: null, or for which models alone.
    """
    now, snapshot = trio.current_time(), hub.snapshot
    found = []
    for provider in snapshot.catalog.providers:
        view = hub.board.view(provider.name, now)
        sick = hub.board.sick(provider.name, now)
        served, gone = provider.endpoints, hub.paths.missing(provider.name)
        found.append(
            {
                "name": provider.name,
                "url": provider.shown_url,
                **({} if provider.proxy is None else {"proxy": provider.proxy.shown}),
                "kind": hub.kind_of(provider).value,
                "models": list(provider.models),
                **({} if served == ENDPOINTS else {"endpoints": list(served)}),
                **({"missing_endpoints": gone} if gone else {}),
                "rates": {
                    offer.model: _rates(offer.rates)
                    for offer in snapshot.catalog.offered_by(provider)
                },
                **_prices(hub, provider),
                **_balance(hub, provider.name),
                **_sums(hub, provider.name),
                "key": provider.key.masked() if provider.key is not None else None,
                "circuit": view.state,
                "resting_until": _wall(view.resting_until),
                "resting_for": None if view.why is None else view.why.value,
                **({"circuits": {m: _circuit(seen) for m, seen in sick.items()}} if sick else {}),
            }
        )
    return {"providers": found}


def _named(model_id: str, owner: str) -> dict[str, Any]:
    """A model with the members of OpenAI's lists, and those of Anthropic's."""
    return {
        "id": model_id,
        "object": "model",
        "created": STARTED,
        "owned_by": owner,
        "type": "model",
        "display_name": model_id,
        "created_at": _STARTED_AT,
    }


def _model(hub: Hub, model_id: str) -> dict[str, Any]:
    """With the rates of the cheapest, and the APIs by which somebody serves it.

    Of several contexts that nodes tell, the shortest: a client that keeps to it may be sent to any.
    """
    catalog, paths = hub.snapshot.catalog, hub.paths
    offers, owner = catalog.offers(model_id), catalog.cheapest_owner(model_id)
    rates = next((offer.rates for offer in offers if offer.provider.name == owner), None)
    known = [offer.context for offer in offers if offer.context is not None]
    served = [
        endpoint
        for endpoint in ENDPOINTS
        if not all(paths.lacks(offer, endpoint) for offer in offers)
    ]
    return {
        **_named(model_id, owner),
        "endpoints": served,
        **({} if rates is None else {"rates": _rates(rates)}),
        **({"context_length": min(known)} if known else {}),
    }


def models(hub: Hub) -> dict[str, Any]:
    """OpenAI's list of models, and Anthropic's: all of it on one page."""
    served = hub.snapshot.catalog.models()
    data = [_model(hub, model_id) for model_id in served]
    if serves_auto(hub.snapshot.catalog, hub.snapshot.config.policies):
        data.append(_auto())
    ends = [model["id"] for model in data]
    return {
        "object": "list",
        "data": data,
        "has_more": False,
        "first_id": ends[0] if ends else None,
        "last_id": ends[-1] if ends else None,
    }


def _auto() -> dict[str, Any]:
    """What a client may ask for besides models, where a policy can choose one of them."""
    return _named(AUTO, "arbstr")


def model(hub: Hub, model_id: str) -> dict[str, Any] | ErrorReply:
    """One model, or why not."""
    catalog = hub.snapshot.catalog
    if model_id == AUTO and serves_auto(catalog, hub.snapshot.config.policies):
        return _auto()
    if model_id != AUTO and catalog.offers(model_id):
        return _model(hub, model_id)
    known = ", ".join(catalog.models())
    return ErrorReply("model_not_found", f"No provider serves this model. Served are: {known}.")


def cost(hub: Hub, request: Asked, policy_header: str | None) -> dict[str, Any] | NoRoute:
    """How a request would be routed and what it would cost there, as things stand; or why not."""
    now, snapshot = trio.current_time(), hub.snapshot
    route = plan(
        request,
        policy_header=policy_header,
        catalog=snapshot.catalog,
        policies=snapshot.config.policies,
        hold=snapshot.config.budget.hold,
        learnt=hub.learnt,
    )
    if isinstance(route, NoRoute):
        return route
    quoted = quote(request, route, hub.learnt)
    for candidate in quoted["candidates"]:
        view = hub.board.circuit(candidate["provider"], candidate["model"], now)
        candidate["circuit"] = view.state
        candidate["resting_until"] = _wall(view.resting_until)
    return quoted

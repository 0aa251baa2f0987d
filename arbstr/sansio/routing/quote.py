"""What a request would cost, as JSON: the answer of POST /v1/cost and of `arbstr cost`.

It tells how the request would be routed and why: every candidate in the order in which they would
be asked, the estimate behind that order, what budget and caps would hold it to, and what was learnt
that both rest on. Asking costs nothing, sends nothing and leaves no row.
"""

from typing import Any

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.endpoints import CHAT
from arbstr.sansio.routing.plan import Candidate, Learnt, RoutePlan
from arbstr.sansio.routing.ratios import NO_POLICY, TRUSTED


def quote(request: Asked, route: RoutePlan, learnt: Learnt) -> dict[str, Any]:
    """The plan of a request, which must have been made with what was `learnt`.

    Tokens of all choices together, costs in satoshis, times in milliseconds; unknown is null.
    `endpoint` is there for requests that are no chat.
    """
    door = request.dialect.name
    ratio = learnt.ratios.get(NO_POLICY if route.policy is None else route.policy)
    return {
        "policy": route.policy,
        "model": request.model,
        **({} if door == CHAT else {"endpoint": door}),
        "strategy": route.strategy,
        "candidates": [_candidate(found, learnt) for found in route.candidates],
        "passed_over": [
            {"provider": one.provider, "model": one.model, "why": one.why}
            for one in route.passed_over
        ],
        "token_ratio": {
            "avg_ratio": None if ratio is None else ratio.average,
            "sample_count": 0 if ratio is None else ratio.samples,
            "used": ratio is not None and ratio.is_trusted,
            "used_from": TRUSTED,
        },
    }


def _candidate(found: Candidate, learnt: Learnt) -> dict[str, Any]:
    hold, held = found.hold, found.hold_cost
    cost, latency = found.estimated_cost, learnt.latencies.get(found.offer.provider.name)
    return {
        "provider": found.offer.provider.name,
        "model": found.offer.model,
        "estimated": {
            "input_tokens": hold.input_tokens,
            "output_tokens": found.estimated_output,
        },
        "estimated_cost_sats": None if cost is None else float(cost),
        "set_aside": {
            "output_tokens": hold.tokens * hold.choices,
            "cost_sats": None if held is None else float(held),
            "hold": hold.mode,
            "answers": hold.answers,
            "because": hold.reason,
        },
        "first_output_ms": None if latency is None else round(latency.seconds * 1000),
    }

"""Candidates, order: a request, its policy and the catalog -> `RoutePlan`, or why not.

    catalog --serves the model, its price allowed, rule allows it, within its caps--> candidates
    candidates --ascending estimated cost, unpriced last, ties by name--> plan

Each strategy is a row of `STRATEGIES`: by cost, or by the time to first output before that, where
who was never measured goes before all others. For the model `AUTO` the candidates are all pairs of
a provider and a model the rule allows; the same order picks among them.

Whether a provider is well just now is not asked here: the plan holds all that qualify, and the
breaker is asked before each attempt.
"""

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from decimal import Decimal
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias, final

from arbstr.sansio.config.reader import AUTO, Policies, Rule
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Rates, estimate_sats, format_above, format_sats
from arbstr.sansio.routing.affinity import Home
from arbstr.sansio.routing.catalog import Catalog, Offer
from arbstr.sansio.routing.holds import Hold, Known, Lengths, hold_tokens
from arbstr.sansio.routing.latency import Latency
from arbstr.sansio.routing.origins import Origins
from arbstr.sansio.routing.paths import Paths
from arbstr.sansio.routing.policy import choose_policy
from arbstr.sansio.routing.ratios import NO_POLICY, Ratio, expected_output
from arbstr.sansio.routing.refusals import (
    NoRoute,
    PassedOver,
    needs_policy,
    none_served,
    none_within,
    not_allowed,
    not_served,
    not_there,
    unserved,
)

SortKey: TypeAlias = tuple[Any, ...]

LISTING_SECONDS: Final = 10.0
"""When a client may ask again for what a node has not listed yet: it is asked again by then."""

ASSUMED_OUTPUT: Final = 256
"""Output tokens of a choice when nobody says: a few paragraphs. It only decides the order."""


@final
@dataclass(frozen=True)  # no slots: `hold_cost` is kept beside them
class Candidate:
    """An offer that qualifies.

    `estimated_output` counts the tokens of all choices together; `estimated_cost` is in satoshis,
    `None` if the offer has no rates. The order goes by it; budget and caps go by the `hold`.
    `cached`: the estimated tokens of input that are in a cache there, because the conversation was
    answered there last; None where it was not.
    """

    offer: Offer
    estimated_cost: Decimal | None
    estimated_output: int
    hold: Hold
    cached: int | None = None

    @cached_property
    def hold_cost(self) -> Decimal | None:
        """What is set aside for an attempt, in satoshis; `None` if the offer has no rates."""
        hold, rates = self.hold, self.offer.hold_rates
        if rates is None:
            return None
        return estimate_sats(hold.input_tokens, hold.tokens, hold.choices, rates)

    @property
    def remedy(self) -> str:
        """What helps where the cap on a request excludes it; empty if nothing does."""
        return self.hold.remedy("max_sats_per_request") if self.output_decides else ""

    @property
    def output_decides(self) -> bool:
        """Whether output is most of what is set aside, so that less of it would help."""
        cost, rates = self.hold_cost, self.offer.rates
        if not cost or rates is None:
            return False
        output = Rates(_NOTHING, rates.output_rate)
        return 2 * estimate_sats(0, self.hold.tokens, self.hold.choices, output) >= cost


@final
@dataclass(frozen=True, slots=True)
class RoutePlan:
    """The candidates in the order of the strategy, at least one.

    `policy` is the name of the rule that matched, `max_sats` its cap on what the whole request may
    be expected to cost, in satoshis.
    """

    policy: str | None
    strategy: str
    candidates: tuple[Candidate, ...]
    passed_over: tuple[PassedOver, ...]
    max_sats: Decimal | None


@final
@dataclass(frozen=True, slots=True)
class Learnt:
    """What earlier answers taught: ratios by policy (`NO_POLICY` for none), latencies by provider.

    `lengths` are those of answers, `paths` which APIs are not served where, `origins` who keeps
    what. All are read here and changed by who owns them.
    """

    ratios: Mapping[str, Ratio]
    latencies: Mapping[str, Latency]
    lengths: Lengths
    paths: Paths = field(default_factory=Paths)
    origins: Origins = field(default_factory=Origins)


NOTHING_LEARNT: Final = Learnt(MappingProxyType({}), MappingProxyType({}), Lengths())
"""As of the first start."""


@final
@dataclass(frozen=True, slots=True)
class OverRequest:
    """With a further attempt, after one that may have cost, the request could cost `sats`, which
    is over the rule's `cap`."""

    sats: Decimal
    cap: Decimal


def plan(
    request: Asked,
    *,
    policy_header: str | None,
    catalog: Catalog,
    policies: Policies,
    hold: str,
    learnt: Learnt = NOTHING_LEARNT,
    home: Home | None = None,
) -> RoutePlan | NoRoute:
    """Who may serve the request, in which order. `hold` is that of `[budget]`; `home` is who
    answered the conversation last."""
    rule = choose_policy(request, policy_header, policies.rules)
    if isinstance(rule, ErrorReply):
        return NoRoute(None, rule)
    policy = None if rule is None else rule.name
    offers = _offers(request.model, rule, catalog)
    if isinstance(offers, ErrorReply):
        return NoRoute(policy, offers)
    if request.refers:
        bound = learnt.origins.bound(request.refers, request.model, offers)
        if isinstance(bound, ErrorReply):
            return NoRoute(policy, bound)
        offers, tokens = bound
        request = replace(request, input_tokens=request.input_tokens + tokens)

    output = _output(request, learnt.ratios.get(NO_POLICY if policy is None else policy))
    paths, endpoint = learnt.paths, request.dialect.name
    holds: dict[str, Hold] = {}
    candidates: list[Candidate] = []
    passed_over: list[PassedOver] = []
    too_dear: Candidate | None = None
    for offer in offers:
        why = offer.refused
        if why is None and paths.lacks(offer, endpoint):
            why = not_there(request)
        if why is None and rule is not None:
            why = _over_rate(offer, rule)
        if why is None:
            held = holds.get(offer.model)
            if held is None:
                known = learnt.lengths.known(policy, offer.model)
                holds[offer.model] = held = _hold(request, known, hold)
            candidate = _candidate(request, offer, output, held, home)
            why = None if rule is None else _over_request(candidate, rule)
            if why is None:
                candidates.append(candidate)
                continue
            if too_dear is None or not too_dear.output_decides:
                too_dear = candidate
        passed_over.append(PassedOver(offer.provider.name, offer.model, why))
    if not candidates:
        if all(paths.lacks(offer, endpoint) for offer in offers):
            return NoRoute(policy, unserved(request, offers))
        remedy = None if too_dear is None else too_dear.remedy
        return NoRoute(policy, none_within(request.model, policy, passed_over, remedy))
    strategy = policies.strategy_of(rule)
    if len(candidates) > 1:
        candidates.sort(key=partial(STRATEGIES[strategy], learnt))
    max_sats = None if rule is None else rule.max_sats_per_request
    return RoutePlan(policy, strategy, tuple(candidates), tuple(passed_over), max_sats)


def lacks_price(route: RoutePlan | NoRoute) -> bool:
    """Whether prices that are not known yet could change where the request goes, or that it does:
    nobody is known to serve it, or nobody at a known price."""
    if isinstance(route, NoRoute):
        return route.error.code in ("model_not_found", "no_provider_within_policy")
    return route.candidates[0].estimated_cost is None


def without_prices(
    route: RoutePlan | NoRoute, silent: Mapping[str, str | None]
) -> RoutePlan | NoRoute:
    """What to say where nobody serves a request as far as is known, and `silent` nodes, by name,
    have not said what they list."""
    if not isinstance(route, NoRoute) or not silent or not lacks_price(route):
        return route
    why = "; ".join(f"{name} {trouble or 'has not answered'}" for name, trouble in silent.items())
    message = f"{route.error.message} The models and prices of some nodes are not known yet: {why}."
    error = ErrorReply("prices_unknown", message, retry_after=LISTING_SECONDS)
    return NoRoute(route.policy, error)


def _offers(model: str, rule: Rule | None, catalog: Catalog) -> tuple[Offer, ...] | ErrorReply:
    """Everybody who serves the model, or any of the rule's models if the choice is ours."""
    if model == AUTO:
        if rule is None:
            return needs_policy()
        models = rule.allowed_models or catalog.models()
        every = tuple(offer for each in models for offer in catalog.offers(each))
        return every or none_served(rule)
    offers = catalog.offers(model)
    if not offers:
        return not_served(model, catalog.models())
    if rule is not None and not rule.allows(model):
        return not_allowed(model, rule)
    return offers


def serves_auto(catalog: Catalog, policies: Policies) -> bool:
    """Whether any policy leaves somebody to ask for the model `AUTO`: a list of models that has it
    promises as much."""

    def is_left(offer: Offer, rule: Rule) -> bool:
        unpriced = rule.max_sats_per_request is not None and offer.hold_rates is None
        return offer.refused is None and not unpriced and _over_rate(offer, rule) is None

    for rule in policies.rules:
        offers = _offers(AUTO, rule, catalog)
        if not isinstance(offers, ErrorReply) and any(is_left(offer, rule) for offer in offers):
            return True
    return False


def _over_rate(offer: Offer, rule: Rule) -> str | None:
    """Why the rule's cap on the price of output excludes an offer, or `None`."""
    cap = rule.max_sats_per_1k_output
    if cap is None:
        return None
    rates = offer.hold_rates
    if rates is None:
        return _UNPRICED
    asked = rates.output_rate
    if asked > cap:
        return (
            f"asks {format_above(asked, cap)} sats per 1000 output tokens, over {format_sats(cap)}"
        )
    return None


def _over_request(candidate: Candidate, rule: Rule) -> str | None:
    """Why the rule's cap on one request excludes a candidate, or `None`."""
    cap = rule.max_sats_per_request
    if cap is None:
        return None
    cost = candidate.hold_cost
    if cost is None:
        return _UNPRICED
    if cost > cap:
        return f"could cost {format_above(cost, cap)} sats, over {format_sats(cap)} a request"
    return None


_NOTHING: Final = Decimal(0)
_UNPRICED: Final = "has no rates, so it cannot be held to a cap"


def _output(request: Asked, ratio: Ratio | None) -> int:
    """The output tokens one choice is expected to take, never more than the client allows."""
    expected, allowed = expected_output(ratio, request.input_tokens), request.max_output
    if expected is None:
        return ASSUMED_OUTPUT if allowed is None else allowed
    return expected if allowed is None else min(expected, allowed)


def _hold(request: Asked, known: Known, mode: str) -> Hold:
    allowed = request.max_output
    tokens = hold_tokens(allowed, known.likely, mode)
    member = request.dialect.limit_member or "limit of output"
    return Hold(request.input_tokens, tokens, request.choices, allowed, known.answers, mode, member)


def _candidate(
    request: Asked, offer: Offer, output: int, hold: Hold, home: Home | None
) -> Candidate:
    cached: int | None = None
    if home is not None and home.provider == offer.provider.name and home.model == offer.model:
        cached = min(home.input_tokens, request.input_tokens)
    cost = (
        None
        if offer.rates is None
        else estimate_sats(
            request.input_tokens, output, request.choices, offer.rates, cached_tokens=cached or 0
        )
    )
    return Candidate(offer, cost, output * request.choices, hold, cached)


def _by_cost(learnt: Learnt, candidate: Candidate) -> SortKey:
    """The unpriced last; of equals where the conversation is, then by name."""
    cost, offer = candidate.estimated_cost, candidate.offer
    away = candidate.cached is None
    return cost is None, cost or Decimal(0), away, offer.provider.name, offer.model


def _by_latency(learnt: Learnt, candidate: Candidate) -> SortKey:
    """The unmeasured first: who is never asked is never measured."""
    known = learnt.latencies.get(candidate.offer.provider.name)
    return -1.0 if known is None else known.seconds, *_by_cost(learnt, candidate)


STRATEGIES: Final[Mapping[str, Callable[[Learnt, Candidate], SortKey]]] = MappingProxyType(
    {
        "cheapest": _by_cost,
        "lowest_cost": _by_cost,
        "lowest_latency": _by_latency,
    }
)
"""Each strategy's sort key."""

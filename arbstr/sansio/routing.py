"""Policy, candidates, order: a request and the catalog -> `RoutePlan`, or why not.

    request --header, else keyword--> rule
    catalog --serves the model, rule allows it, price within the rule's cap--> candidates
    candidates --ascending estimated cost, unpriced last, ties by name--> plan

Whether a provider is well just now is not asked here: the plan holds all that qualify, and the
breaker is asked before each attempt.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final, final

from arbstr.sansio.catalog import Catalog, Offer
from arbstr.sansio.chat import ChatRequest
from arbstr.sansio.config import Policies, Rule
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.money import estimate_sats, format_sats

ASSUMED_OUTPUT: Final = 256
"""Output tokens of a choice when nobody says: a few paragraphs. It only decides the order."""

MOST_NAMES: Final = 20
"""Names an error message lists: more do not help a person, and OpenRouter alone has hundreds."""

LONGEST_NAME: Final = 100
"""Characters of a client's name for something that a message repeats and a search looks at."""


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer that qualifies.

    `estimated_output` counts the tokens of all choices together; `estimated_cost` is in satoshis,
    `None` if the offer has no rates.
    """

    offer: Offer
    estimated_cost: Decimal | None
    estimated_output: int


@final
@dataclass(frozen=True, slots=True)
class RoutePlan:
    """The candidates, cheapest first, at least one.

    `policy` is the name of the rule that matched. `passed_over` has the name of every provider
    that serves the model but does not qualify, and why.
    """

    policy: str | None
    candidates: tuple[Candidate, ...]
    passed_over: tuple[tuple[str, str], ...] = ()


@final
@dataclass(frozen=True, slots=True)
class NoRoute:
    """No provider qualifies, or the client asked for something that does not exist."""

    policy: str | None
    error: ErrorReply


def choose_policy(
    request: ChatRequest, header: str | None, rules: Sequence[Rule]
) -> Rule | ErrorReply | None:
    """The rule for a request; `None` if it has none, an error if it names one that is not there.

    `header` is the value of `X-Arbstr-Policy`; empty counts as absent. A rule found by
    keyword is passed over if it does not allow the model: it must not fail a request that
    did not ask for it.
    """
    wanted = (header or "").strip()
    if wanted:
        for rule in rules:
            if rule.name == wanted:
                return rule
        there = f"Policies: {listed(r.name for r in rules)}." if rules else "None is configured."
        return ErrorReply("unknown_policy", f"There is no policy {_shown(wanted)}. {there}")
    said = request.last_user_text.casefold()
    for rule in rules:
        if rule.allows(request.model) and any(
            _begins_word(k, said) for k in _folded(rule.keywords)
        ):
            return rule
    return None


@lru_cache(maxsize=256)
def _folded(keywords: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(keyword.strip().casefold() for keyword in keywords)


def _begins_word(keyword: str, said: str) -> bool:
    """Whether the keyword stands at the start of a word. Both are case-folded.

    By `str.find`, not a regular expression: the text may be megabytes, and nobody else is served
    meanwhile.
    """
    at = said.find(keyword)
    while at != -1:
        if at == 0 or not (said[at - 1].isalnum() or said[at - 1] == "_"):
            return True
        at = said.find(keyword, at + 1)
    return False


def plan(
    request: ChatRequest, *, policy_header: str | None, catalog: Catalog, policies: Policies
) -> RoutePlan | NoRoute:
    """Who may serve the request, in which order."""
    rule = choose_policy(request, policy_header, policies.rules)
    if isinstance(rule, ErrorReply):
        return NoRoute(None, rule)
    policy = None if rule is None else rule.name
    offers = catalog.offers(request.model)
    if not offers:
        return NoRoute(policy, _not_served(request.model, catalog.models()))
    if rule is not None and not rule.allows(request.model):
        return NoRoute(policy, _not_allowed(request.model, rule))

    candidates: list[Candidate] = []
    passed_over: list[tuple[str, str]] = []
    for offer in offers:
        reason = None if rule is None else _over_cap(offer, rule)
        if reason is None:
            candidates.append(_candidate(request, offer))
        else:
            passed_over.append((offer.provider.name, reason))
    if not candidates:
        return NoRoute(policy, _none_within(policy, passed_over))
    candidates.sort(key=_order)
    return RoutePlan(policy, tuple(candidates), tuple(passed_over))


def _over_cap(offer: Offer, rule: Rule) -> str | None:
    """Why the rule's cap excludes an offer, or `None`."""
    cap = rule.max_sats_per_1k_output
    if cap is None:
        return None
    if offer.rates is None:
        return "has no rates, so it cannot be held to a cap"
    asked = offer.rates.output_rate
    if asked > cap:
        return f"asks {format_sats(asked)} sats per 1000 output tokens, over {format_sats(cap)}"
    return None


def _candidate(request: ChatRequest, offer: Offer) -> Candidate:
    output = ASSUMED_OUTPUT if request.max_output is None else request.max_output
    cost = (
        None
        if offer.rates is None
        else estimate_sats(request.input_tokens, output, request.choices, offer.rates)
    )
    return Candidate(offer, cost, output * request.choices)


def _order(candidate: Candidate) -> tuple[bool, Decimal, str]:
    cost = candidate.estimated_cost
    return cost is None, cost or Decimal(0), candidate.offer.provider.name


def _not_served(model: str, served: tuple[str, ...]) -> ErrorReply:
    near = difflib.get_close_matches(model[:LONGEST_NAME], served, n=1)
    hint = f" Did you mean {_shown(near[0])}?" if near else ""
    there = f"Served models: {listed(served)}." if served else "No models are configured."
    message = f"No provider serves the model {_shown(model)}.{hint} {there}"
    return ErrorReply("model_not_found", message, param="model")


def _not_allowed(model: str, rule: Rule) -> ErrorReply:
    return ErrorReply(
        "model_not_allowed",
        f"The policy {_shown(rule.name)} does not allow the model {_shown(model)}. "
        f"It allows: {listed(rule.allowed_models)}.",
        param="model",
    )


def _none_within(policy: str | None, passed_over: Sequence[tuple[str, str]]) -> ErrorReply:
    reasons = "; ".join(f"{name} {reason}" for name, reason in passed_over)
    return ErrorReply(
        "no_provider_within_policy",
        f"No provider of this model is within the policy {_shown(policy or '')}: {reasons}.",
    )


def listed(names: Iterable[str]) -> str:
    """The first `MOST_NAMES` names, and how many more there are."""
    every = tuple(names)
    more = len(every) - MOST_NAMES
    shown = ", ".join(_shown(name) for name in every[:MOST_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown


def _shown(name: str) -> str:
    """A name in quotes, short, and such that it can be encoded: JSON may smuggle half a surrogate
    pair into a string."""
    short = name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "..."
    return '"' + short.encode("utf-8", "replace").decode() + '"'

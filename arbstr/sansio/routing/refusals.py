"""What is said where nobody qualifies for a request: each refusal of `plan`, with its reasons."""

import difflib
from collections.abc import Sequence
from typing import Final, final

from arbstr.sansio.config.reader import AUTO, Rule
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.routing.catalog import Offer
from arbstr.sansio.routing.policy import LONGEST_NAME, MOST_NAMES, listed, shown

NOBODY_SERVES: Final = "unsupported_endpoint"
"""The code where nobody of whom the model could be asked serves the path."""


@final
@dataclass(frozen=True, slots=True)
class PassedOver:
    """A provider that serves the model but does not qualify, and why: the rest of a sentence that
    begins with its name."""

    provider: str
    model: str
    why: str


@final
@dataclass(frozen=True, slots=True)
class NoRoute:
    """No provider qualifies, or the client asked for something that does not exist."""

    policy: str | None
    error: ErrorReply


def not_there(request: Asked) -> str:
    """Of a provider that does not serve the path of the request's door."""
    return f"does not serve /v1{request.dialect.path}"


def unserved(request: Asked, offers: Sequence[Offer]) -> ErrorReply:
    """What is said where nobody of whom the model could be asked serves the door's path."""
    why, model = not_there(request), request.model
    if model == AUTO:
        names = [f"{offer.provider.name} for {offer.model}" for offer in offers]
        what = "No provider and model that may be chosen are there"
    else:
        names = [offer.provider.name for offer in offers]
        what = f"No provider of {shown(model)} is there"
    more = len(names) - MOST_NAMES
    told = [f"{name} {why}" for name in names[:MOST_NAMES]] + [f"{more} more"] * (more > 0)
    return ErrorReply(
        NOBODY_SERVES,
        f"{what} to be asked: {'; '.join(told)}. Those that turned out not to serve it are asked "
        "again after a reload (SIGHUP).",
        should_retry=False,
    )


def not_served(model: str, served: tuple[str, ...]) -> ErrorReply:
    """Nobody offers the model; the nearest name, if one is near."""
    near = difflib.get_close_matches(model[:LONGEST_NAME], served, n=1)
    hint = f" Did you mean {shown(near[0])}?" if near else ""
    there = f"Served models: {listed(served)}." if served else "No models are configured."
    message = f"No provider serves the model {shown(model)}.{hint} {there}"
    return ErrorReply("model_not_found", message, param="model")


def not_allowed(model: str, rule: Rule) -> ErrorReply:
    """The rule does not allow the model that was named."""
    return ErrorReply(
        "model_not_allowed",
        f"The policy {shown(rule.name)} does not allow the model {shown(model)}. "
        f"It allows: {listed(rule.allowed_models)}.",
        param="model",
    )


def needs_policy() -> ErrorReply:
    """The choice is left to a rule, and none applies."""
    return ErrorReply(
        "auto_needs_policy",
        f"The model {shown(AUTO)} lets a policy choose, and none applies: name one in the header "
        "X-Arbstr-Policy, or ask for a model.",
        param="model",
    )


def none_served(rule: Rule) -> ErrorReply:
    """The choice is left to the rule, and nobody serves what it allows."""
    allowed = f": {listed(rule.allowed_models)}" if rule.allowed_models else ""
    return ErrorReply(
        "no_provider_within_policy",
        f"No provider serves a model that the policy {shown(rule.name)} allows{allowed}.",
        param="model",
    )


def none_within(
    model: str, policy: str | None, passed_over: Sequence[PassedOver], remedy: str | None
) -> ErrorReply:
    """All who serve the model were passed over. `remedy`: what helps one that the cap on the
    request alone excluded, empty if nothing does; `None` where there is no such one."""
    if model == AUTO:
        # Providers times models: the first ones tell enough.
        pairs = [f"{one.provider} for {one.model} {one.why}" for one in passed_over[:MOST_NAMES]]
        more = len(passed_over) - len(pairs)
        reasons = "; ".join(pairs) + (f"; and {more} more" if more else "")
        what = "No provider and model are"
    else:
        reasons = "; ".join(f"{one.provider} {one.why}" for one in passed_over)
        what = "No provider of this model is"
    within = "to be asked" if policy is None else f"within the policy {shown(policy)}"
    message = f"{what} {within}: {reasons}."
    if policy is None:
        return ErrorReply("no_price_allowed", message, should_retry=False)
    if remedy is None:
        return ErrorReply("no_provider_within_policy", message)
    return ErrorReply("over_request_budget", f"{message} {remedy}".rstrip())

"""What a Routstr node lists: its models, and what each of them costs and may be reserved.

    body of GET /models --parse_models--> Listed, for each model that has a price

`sats_pricing` is satoshis per token as binary floats; times 1000 their shortest digits are rates
(the node multiplies dollars by a price of bitcoin that it reads every two minutes, so they drift).
`request` is never charged. A model without a price, with a negative or absurd one, free in and out,
or disabled, is not listed.

    the most for the model, less 1 %
      - what a prompt shorter than the context saves: its characters / 3 are its tokens
      - what `max_tokens` saves
    = what the node wants free on the key before it serves a request (`reservation_msats`)

    what the key is known to hold free is less    TooLow: passed over, without a trip
"""

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, TypeGuard, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Rates
from arbstr.sansio.visible import first_unseen

DEAREST: Final = Decimal(1_000_000)
"""Sats per 1000 tokens from which a price is absurd: a thousand sats for each token."""

LONGEST_ID: Final = 256
"""Characters of a model's id; longer ones are no ids, and would be shown and stored."""

MOST_MODELS: Final = 5000
"""Models that are read of a listing; the largest nodes list some hundred."""

MOST_CONTEXT: Final = 2**31 - 1
"""Tokens of a context that are believed; the largest models have ten millions."""

CHARACTERS_A_TOKEN: Final = 3
"""By which a node estimates a prompt."""

LESS: Final = Decimal("0.99")
"""A node reserves one percent less than the most."""


@final
@dataclass(frozen=True, slots=True)
class Most:
    """In sats: what a node reserves for a request that limits nothing, and the parts of that which
    a prompt shorter than the context, and `max_tokens`, take off again."""

    cost: Decimal
    prompt: Decimal
    completion: Decimal


@final
@dataclass(frozen=True, slots=True)
class Listed:
    """A model as its node lists it. `names` are other ids it takes for it, `most` what it may
    reserve, `context` how many tokens a prompt and its answer may have together."""

    model: str
    names: tuple[str, ...]
    rates: Rates
    most: Most | None = None
    context: int | None = None


def parse_models(body: bytes) -> tuple[Listed, ...] | str:
    """The models of a node's listing, or what is wrong with it: a predicate about the node."""
    try:
        # The digits of a float as JSON has them are its shortest.
        value = json.loads(body, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return "answered no JSON where it lists its models"
    data = value.get("data") if isinstance(value, dict) else value
    if not isinstance(data, list):
        return "answered something else than a list of models"
    found = {listed.model: listed for listed in _each(data[:MOST_MODELS])}
    if data and not found:
        return "lists no model with a price in satoshis"
    return tuple(found.values())


def _no_number(text: str) -> Decimal:
    return Decimal("nan")


def _each(data: list[Any]) -> Iterator[Listed]:
    for item in data:
        listed = _listed(item) if isinstance(item, dict) else None
        if listed is not None:
            yield listed


def _listed(item: dict[str, Any]) -> Listed | None:
    model, pricing = item.get("id"), item.get("sats_pricing")
    if not _is_id(model) or not isinstance(pricing, dict) or item.get("enabled") is False:
        return None
    read, written = _rate(pricing.get("prompt")), _rate(pricing.get("completion"))
    if read is None or written is None or not (read or written):
        return None
    # 0 means that it is not priced apart.
    cached = _rate(pricing.get("input_cache_read")) or None
    stored = _rate(pricing.get("input_cache_write")) or None
    aliases = item.get("alias_ids")
    others = (*(aliases if isinstance(aliases, list) else ()), item.get("canonical_slug"))
    names = tuple(dict.fromkeys(name for name in others if _is_id(name) and name != model))
    rates = Rates(read, written, cached, cache_write_rate=stored)
    return Listed(model, names, rates, _most(item, pricing, read), _context(item))


def _context(item: dict[str, Any]) -> int | None:
    limits = item.get("top_provider")
    for holder in (limits if isinstance(limits, dict) else {}, item):
        tokens = holder.get("context_length")
        if type(tokens) is int and 0 < tokens <= MOST_CONTEXT:
            return tokens
    return None


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_ID and first_unseen(value) is None


def _rate(sats_per_token: object) -> Decimal | None:
    """Sats per 1000 tokens; `None` for what cannot be a price."""
    amount = _number(sats_per_token)
    if amount is None or not 0 <= amount <= DEAREST / 1000:
        return None
    return amount.scaleb(3).normalize() + 0


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    amount = Decimal(value)
    if not amount.is_finite() or (amount and abs(amount.adjusted()) > 30):
        return None
    return Decimal(repr(float(amount))) if len(amount.as_tuple().digits) > 20 else amount


def _most(item: dict[str, Any], pricing: dict[str, Any], read: Decimal) -> Most | None:
    cost, completion = _number(pricing.get("max_cost")), _number(pricing.get("max_completion_cost"))
    prompt = _number(pricing.get("max_prompt_cost"))
    if cost is None or completion is None or prompt is None:
        return None
    limits = item.get("top_provider")
    context, longest = (
        (limits.get("context_length"), limits.get("max_completion_tokens"))
        if isinstance(limits, dict)
        else (None, None)
    )
    tokens: int | None = None
    if isinstance(context, int) and isinstance(longest, int):
        tokens = max(0, context - longest)
    elif isinstance(context, int):
        tokens = context
    elif isinstance(longest, int):
        tokens = 0
    elif isinstance(item.get("context_length"), int) and not isinstance(limits, dict):
        tokens = item["context_length"]
    # What the prompt may take is reckoned from the context where the node tells it.
    return Most(cost, prompt if tokens is None else read * tokens / 1000, completion)


@final
@dataclass(frozen=True, slots=True)
class TooLow:
    """A key holds less free than its node would reserve for the request; both in millisats.
    `limited`: the request limits its output."""

    free: int
    wanted: int
    limited: bool


def too_low(listed: Listed, input_tokens: int, max_tokens: int | None, free: int) -> TooLow | None:
    """Whether a key that holds so much free (millisats) cannot serve a request, for certain: a
    token of input is at least one character."""
    wanted = reservation_msats(listed, input_tokens, max_tokens)
    if wanted is None or wanted <= free:
        return None
    return TooLow(free, wanted, max_tokens is not None)


def reservation_msats(listed: Listed, characters: int, max_tokens: int | None) -> int | None:
    """What the node will want free on the key for a request, in millisats; `None` if it does not
    say. `characters` are those of the prompt's text.

    As nodes reckon: the most for the model, less what a shorter prompt and a limit save.
    """
    most = listed.most
    if most is None:
        return None
    read = listed.rates.input_rate * (characters // CHARACTERS_A_TOKEN)
    wanted = math.floor(most.cost * 1000 * LESS)
    wanted -= max(0, math.floor(most.prompt * 1000 * LESS - read))
    if max_tokens is not None:
        written = listed.rates.output_rate * max_tokens
        wanted -= max(0, math.floor(most.completion * 1000 * LESS - written))
    return max(1, wanted)

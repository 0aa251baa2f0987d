"""One event of a chat stream -> what it says: usage, finish reasons, an error, output or not.

JSON is parsed only if a cheap test of the bytes says that it may matter, because this runs once
per event of every stream: a search for the keys `finish_reason`, `usage` and `error` with any
value but null, wherever they stand. What it finds in vain costs a parse. It misses nothing:
every white space of JSON is allowed for, inside a string a quote is escaped, so text about
`"usage"` does not hide or make a key, and nobody writes these keys with escapes.

Where providers put their token counts:

    place                  who
    usage                  OpenAI and nearly everybody; last chunk, finish chunk, or every chunk
                           with the sums so far, so the last one that can be read counts
    x_groq.usage           Groq, in the finish chunk
    choices[].usage        Moonshot, in the finish chunk
    usage.cost.total_msats, cost.total_msats
                           Routstr: what the node charged. A number in `usage.cost` is dollars
                           (OpenRouter): ignored

A number that is not a plain integer between 0 and `MAX_TOKENS` is refused, and with it the whole
usage if it is the prompt's or the completion's. So is 0 and 0: every prompt has tokens; Routstr
nodes send zeros when they were told nothing, and unknown is not zero.

Nothing here raises, whatever the bytes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NoReturn, final

from arbstr.sansio.money import Usage

MAX_TOKENS: Final = 10**9
"""Tokens of one answer. Picked, not measured: the longest contexts known are below 10**8."""
MAX_COST_MSATS: Final = Decimal(10**11)
"""Millisats of one answer: one bitcoin. Picked, not measured; above it, it is not a price."""

_SAYS_SOMETHING: Final = re.compile(rb'"(?:finish_reason|usage|error)"\s*+:\s*+[^n]')
"""A watched key with a value that is not null. Measured: 0.6 us for a chunk of 300 bytes, a fifth
of counting each key and each key with `null`; and it knows all white space."""
_CHOICES: Final = re.compile(rb'"choices"\s*+:\s*+\[')

CACHED: Final = (("prompt_tokens_details", "cached_tokens"), ("prompt_cache_hit_tokens",))
"""OpenAI; DeepSeek."""
REASONING: Final = (("completion_tokens_details", "reasoning_tokens"), ("reasoning_tokens",))
"""OpenAI; providers that do not nest."""
STATED_COST: Final = (("usage", "cost", "total_msats"), ("cost", "total_msats"))
"""Routstr, in the usage; Routstr, beside it."""

NOT_OUTPUT: Final = frozenset({"role", "name"})
"""Members of a delta that are not output. Everything else that is not empty is (content,
reasoning in its many names, refusal, audio, function and tool calls, images, ...): to take an
unknown kind of output for nothing would hold it back, the other mistake only commits early."""


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """What one event says.

    `is_chunk`: an object with an array `choices`, which is what clients can read. `output`: the
    commit point, an event with content or a finish reason; not looked for once output was seen.
    `indexes`: the choices it is about. `finished`: (choice, finish reason) for those that end; an
    empty string is no reason (some providers write it where OpenAI writes null). `error`: the
    event is an error: it has an `error` member, is `"object": "error"` (vLLM), or ends a choice
    with the reason `"error"` (OpenRouter). `usage_only`: `choices` is empty and there is usage.
    `garbled`: it begins like an object and is no JSON.
    `id`, `created`, `model` are the chunk's own, None if absent or empty.
    """

    is_chunk: bool
    output: bool = False
    indexes: tuple[int, ...] = ()
    finished: tuple[tuple[int, str], ...] = ()
    error: bool = False
    usage_only: bool = False
    garbled: bool = False
    usage: Usage | None = None
    provider_cost_msats: Decimal | None = None
    id: str | None = None
    created: int | None = None
    model: str | None = None


UNREMARKABLE: Final = Facts(is_chunk=True)
NO_CHUNK: Final = Facts(is_chunk=False)
GARBLED: Final = Facts(is_chunk=False, garbled=True)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_json(data: bytes) -> object:
    """The JSON value in `data`; None also if there is none (NaN and Infinity are not JSON).

    Bytes that are not UTF-8 are read as U+FFFD: what is forwarded are the bytes, not this.
    """
    try:
        value: object = _DECODER.decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):  # also an integer of more digits than Python reads
        return None
    return value


def says_nothing(data: bytes) -> bool:
    """Whether no watched key in these bytes has a value other than null."""
    return _SAYS_SOMETHING.search(data) is None


def has_choices(data: bytes) -> bool:
    """Whether these bytes look like a chunk of a chat, by its array of choices."""
    return _CHOICES.search(data) is not None


def read_event(data: bytes, *, output_seen: bool) -> Facts:
    """What an event with this data says. After output JSON is parsed only if it may matter."""
    if (
        output_seen
        and data.startswith(b"{")
        and data.endswith(b"}")
        # An event glued to one that was cut must not pass as one.
        and b"data:" not in data
        and b"\n" not in data
        and has_choices(data)
        and says_nothing(data)
    ):
        return UNREMARKABLE
    value = parse_json(data)
    if isinstance(value, dict):
        return read_object(value)
    return GARBLED if data.lstrip().startswith(b"{") else NO_CHUNK


def read_object(value: Mapping[str, object]) -> Facts:
    """What a parsed chunk says."""
    choices = value.get("choices")
    output = False
    indexes: list[int] = []
    finished: list[tuple[int, str]] = []
    listed = choices if isinstance(choices, list) else []
    for position, choice in enumerate(listed):
        if not isinstance(choice, dict):
            continue
        given = choice.get("index")
        index = given if type(given) is int and given >= 0 else position
        indexes.append(index)
        reason = choice.get("finish_reason")
        if reason:
            finished.append((index, reason if isinstance(reason, str) else "other"))
        output = output or bool(reason) or _has_output(choice)
    usage_found = _usages(value, listed)
    created = value.get("created")
    return Facts(
        is_chunk=isinstance(choices, list),
        output=output,
        indexes=tuple(indexes),
        finished=tuple(finished),
        error=bool(value.get("error"))
        or (value.get("object") == "error" and not isinstance(choices, list))
        or any(reason == "error" for _, reason in finished),
        usage_only=choices == [] and bool(usage_found),
        usage=_first_usage(usage_found),
        provider_cost_msats=read_stated_cost(value),
        id=_text(value.get("id")),
        created=created if type(created) is int and created > 0 else None,
        model=_text(value.get("model")),
    )


def read_price(value: Mapping[str, object]) -> tuple[Usage | None, Decimal | None]:
    """Tokens, and what the provider says it charged (millisats), of a plain answer."""
    choices = value.get("choices")
    found = _usages(value, choices if isinstance(choices, list) else [])
    return _first_usage(found), read_stated_cost(value)


def _first_usage(found: Sequence[Mapping[str, object]]) -> Usage | None:
    """The first one that can be believed."""
    for each in found:
        usage = read_usage(each)
        if usage is not None:
            return usage
    return None


def read_usage(usage: Mapping[str, object]) -> Usage | None:
    """Token counts of a usage object in OpenAI's shape; None if they cannot be believed.

    Reasoning tokens are part of the completion's unless the total says that they come on top.
    """
    prompt = _tokens(usage.get("prompt_tokens"))
    completion = _tokens(usage.get("completion_tokens"))
    if prompt is None or completion is None or prompt + completion == 0:
        return None
    cached = _first_tokens(usage, CACHED)
    reasoning = _first_tokens(usage, REASONING)
    total = _tokens(usage.get("total_tokens"))
    on_top = reasoning if reasoning and total == prompt + completion + reasoning else 0
    return Usage(
        input_tokens=prompt,
        output_tokens=completion + on_top,
        cached_tokens=cached if cached is not None and cached <= prompt else None,
        reasoning_tokens=reasoning,
    )


def read_stated_cost(value: Mapping[str, object]) -> Decimal | None:
    """What a Routstr node says it charged, in millisats, from a chunk or a plain answer."""
    for path in STATED_COST:
        found = _at(value, path)
        if isinstance(found, int | float) and not isinstance(found, bool):
            # repr: the shortest decimal that is this float, as the node wrote it.
            cost = Decimal(repr(found)) if isinstance(found, float) else Decimal(found)
            if cost.is_finite() and 0 <= cost <= MAX_COST_MSATS:
                return cost
    return None


_PLAIN_NUMBER: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")


def read_cost_header(text: str) -> Decimal | None:
    """The value of the header `x-routstr-cost-msats`, in millisats."""
    text = text.strip()
    if _PLAIN_NUMBER.fullmatch(text) is None:
        return None
    cost = Decimal(text)
    return cost if cost <= MAX_COST_MSATS else None


def _usages(value: Mapping[str, object], choices: list[object]) -> list[Mapping[str, object]]:
    """Every usage object, the most usual place first."""
    places = [value.get("usage"), _at(value, ("x_groq", "usage"))]
    places += [choice.get("usage") for choice in choices if isinstance(choice, dict)]
    return [place for place in places if isinstance(place, dict)]


def _has_output(choice: Mapping[str, object]) -> bool:
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        delta = choice.get("message")  # some providers call it so in streams as well
    if isinstance(delta, dict) and any(
        value and member not in NOT_OUTPUT for member, value in delta.items()
    ):
        return True
    return bool(choice.get("text"))


def _at(value: Mapping[str, object], path: tuple[str, ...]) -> object:
    found: object = value
    for member in path:
        if not isinstance(found, dict):
            return None
        found = found.get(member)
    return found


def _first_tokens(usage: Mapping[str, object], paths: tuple[tuple[str, ...], ...]) -> int | None:
    for path in paths:
        tokens = _tokens(_at(usage, path))
        if tokens is not None:
            return tokens
    return None


def _tokens(value: object) -> int | None:
    # `type`, not isinstance: true and false are integers to Python.
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None

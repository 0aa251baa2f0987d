"""What a provider counted and charged: token counts and stated prices of one answer.

Where providers put their token counts:

    place                  who
    usage                  OpenAI and nearly everybody; last chunk, finish chunk, or every chunk
                           with the sums so far
    x_groq.usage           Groq, in the finish chunk
    response.usage         events of Responses; its counts are called input and output
    choices[].usage        Moonshot, in the finish chunk
    usage.cost.total_msats, cost.total_msats
                           Routstr: what the node charged. A number in `usage.cost` is dollars
                           (OpenRouter): ignored
    all of these in an error
                           whoever failed says there what was used all the same

They come in pieces (`Tally`): gateways that translate another protocol give the prompt's count with
the first event and the completion's with the last, and 0 or nothing for the other one. So the last
count that is not 0 stands, each for itself. A count that output follows was not the last word, and
then the usage is unknown until another one comes: an interim count is no price.

A number that is not a plain integer between 0 and `MAX_TOKENS` is refused, and with it the whole
object if it is the prompt's or the completion's. Every prompt has tokens, and so has every answer
that says something; Routstr nodes send zeros when they were told nothing. Unknown is not zero.

Nothing here raises, whatever the bytes.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, final

from pydantic_core import from_json

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Usage

MAX_TOKENS: Final = 10**9
"""Tokens of one answer. Picked, not measured: the longest contexts known are below 10**8."""
MAX_COST_MSATS: Final = Decimal(10**11)
"""Millisats of one answer: one bitcoin. Picked, not measured; above it, it is not a price."""

CACHED: Final = (
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    ("cached_tokens",),
    ("prompt_cache_hit_tokens",),
    ("cache_read_input_tokens",),
)
"""Prompt tokens that came from a cache. OpenAI; its Responses; Moonshot; DeepSeek; Anthropic's name
for it, passed on by gateways. The first that is not more than the prompt."""
REASONING: Final = (
    ("completion_tokens_details", "reasoning_tokens"),
    ("output_tokens_details", "reasoning_tokens"),
    ("reasoning_tokens",),
)
"""OpenAI; its Responses; providers that do not nest."""
STATED_COST: Final = (
    ("usage", "cost", "total_msats"),
    ("cost", "total_msats"),
    ("metadata", "routstr", "cost", "total_msats"),
)
"""Routstr: in the usage; beside it; and where the usage has dollars."""

_HOLDERS: Final = ("response", "x_groq")
"""Members that hold one: the event of a Response, Groq's chunk."""
_TELLING: Final = frozenset({"usage", *(path[0] for path in STATED_COST)})
"""An object without any of these members tells nothing."""
_APART: Final = frozenset(path[0] for path in (*REASONING, *CACHED))
"""A usage object without any of these members counts nothing apart."""
_OF_ERRORS: Final = ("error", "detail")
PLACES_DEEP: Final = 4
"""How deep in an error they are looked for: `detail.error` and two more. Picked."""
MOST_PLACES: Final = 64
"""Objects they are looked for in: an error has a handful. Picked."""


@final
@dataclass(frozen=True, slots=True)
class Counts:
    """What one usage object says, in tokens; None where it does not say."""

    prompt: int | None
    completion: int | None
    cached: int | None = None
    reasoning: int | None = None
    written: int | None = None

    @property
    def counted(self) -> bool:
        """Whether it counts anything at all."""
        return bool(self.prompt or self.completion)


@final
class Tally:
    """The usage of one answer, put together from what its events say, in their order.

    `counted`: some tokens were counted, believable as a whole or not. `said`: it said something.
    """

    __slots__ = (
        *("_cached", "_completion", "_prompt", "_reasoning", "_stale", "_written"),
        *("counted", "said"),
    )

    def __init__(self) -> None:
        self.counted = False
        self._prompt: int | None = None
        self._completion: int | None = None
        self._cached: int | None = None
        self._reasoning: int | None = None
        self._written: int | None = None
        self.said = False
        self._stale = False

    def note_output(self) -> None:
        """The answer said something."""
        self.said = self._stale = True

    def note(self, counts: Counts) -> None:
        """An event had these counts, together with or after all output noted before."""
        self._prompt = counts.prompt or self._prompt
        self._completion = _later(self._completion, counts.completion)
        self._cached = _later(self._cached, counts.cached)
        self._reasoning = _later(self._reasoning, counts.reasoning)
        self._written = _later(self._written, counts.written)
        if counts.counted:
            self.counted = True
            self._stale = False

    @property
    def has_worked(self) -> bool:
        """Whether somebody worked for it, and may charge for that even if it failed."""
        return self.counted or self.said

    @property
    def usage(self) -> Usage | None:
        """What the answer took by now; None if that is not known."""
        if self._stale:
            return None
        counts = Counts(
            *(self._prompt, self._completion, self._cached, self._reasoning, self._written)
        )
        return _usage(counts, said=self.said)


def _usage(counts: Counts, *, said: bool) -> Usage | None:
    """What an answer took of which this was counted in all; None if that is not known."""
    prompt, completion, cached = counts.prompt, counts.completion, counts.cached
    if not prompt or completion is None or (said and not completion):
        return None
    if cached is not None and cached > prompt:
        cached = None
    return Usage(prompt, completion, cached, counts.reasoning, counts.written)


def _later(before: int | None, given: int | None) -> int | None:
    return before if given is None or (given == 0 and before is not None) else given


LIGHT_BYTES: Final = 256 * 1024
"""Up to this nobody asks how heavy a body is: it takes a few milliseconds, whatever is in it."""
HEAVY_BYTES: Final = 8 * 1024 * 1024
"""From here on a body is heavy, whatever is in it. Measured: 60 MB of one text take 0.4 s."""
HEAVY_COMMAS: Final = 20_000
"""Each parts two values. Measured: 47 MB with 2,500,000 of them take 7 s to judge, so this many
take 60 ms. In a text they make 2 MB heavy, which costs that one request 0.2 s."""


def is_heavy(data: bytes | bytearray) -> bool:
    """Whether to read this JSON takes so long that nobody should wait meanwhile (about 50 ms)."""
    size = len(data)
    return size > LIGHT_BYTES and (size >= HEAVY_BYTES or data.count(b",") >= HEAVY_COMMAS)


def parse_json(data: bytes) -> object:
    """The JSON value in `data`; None also if there is none.

    NaN and Infinity are read, as Python writes and the OpenAI SDK reads them. Bytes that are not
    UTF-8 are read as U+FFFD: what is forwarded are the bytes, not this.
    """
    value: object
    try:
        # 3 to 10 times as fast, and the same where it reads it (tests/judged, beside json).
        value = from_json(data, cache_strings="keys")
    except ValueError:
        # What it does not read is less than what is none: half a surrogate pair, other bytes than
        # UTF-8, 200 brackets deep, an integer beyond every float.
        try:
            value = json.loads(data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):  # also an integer of more digits than Python reads
            return None
    return value


def parse_finite(data: bytes) -> object:
    """As `parse_json`, for what is written again: numbers too large for a float are the largest.

    The constants stay, as their own words write them; 1e999 would become one of them.
    """
    try:
        value: object = _FINITE.decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value


def _finite(text: str) -> float:
    return max(-sys.float_info.max, min(sys.float_info.max, float(text)))


_FINITE: Final = json.JSONDecoder(parse_float=_finite)


def read_told(value: Mapping[str, object]) -> tuple[Counts | None, Decimal | None]:
    """`read_counts` and `read_stated_cost` of the same, which is looked through once."""
    places = _places(value)
    return (_counts_in(places), _cost_in(places)) if places else (None, None)


def read_counts(value: Mapping[str, object]) -> Counts | None:
    """Every count of a chunk or a plain answer, the most usual place first; None without any."""
    return _counts_in(_places(value))


def _counts_in(places: Sequence[Mapping[str, object]]) -> Counts | None:
    first: Counts | None = None
    for place in places:
        usage = place.get("usage")
        if isinstance(usage, dict) and (counts := read_usage(usage)) is not None:
            if counts.counted:
                return counts
            first = first or counts
    return first


def _places(value: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The objects in which a usage or a price stands, the most usual first."""
    near: list[object] = [value, *(value[name] for name in _HOLDERS if name in value)]
    choices = value.get("choices")
    if isinstance(choices, list):
        near += choices
    places: list[Mapping[str, object]] = [
        place for place in near if isinstance(place, dict) and not _TELLING.isdisjoint(place)
    ]
    for name in _OF_ERRORS:
        if name in value:
            _gather(value[name], places, PLACES_DEEP)
    return places


def _gather(value: object, places: list[Mapping[str, object]], deep: int) -> None:
    if isinstance(value, dict) and deep and len(places) < MOST_PLACES:
        places.append(value)
        for inner in value.values():
            _gather(inner, places, deep - 1)


def read_usage(usage: Mapping[str, object]) -> Counts | None:
    """Token counts of a usage object in OpenAI's shape; None if they cannot be believed.

    Reasoning tokens are part of the completion's unless the total says that they come on top.
    """
    into, out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if into is None and out is None:
        into, out = usage.get("input_tokens"), usage.get("output_tokens")  # Responses
    prompt, completion = _tokens(into), _tokens(out)
    if (prompt is None and into is not None) or (completion is None and out is not None):
        return None
    if prompt is None and completion is None:
        return None
    if _APART.isdisjoint(usage):
        return Counts(prompt, completion)
    reasoning = _first_tokens(usage, REASONING)
    total = _tokens(usage.get("total_tokens"))
    if reasoning and completion is not None and total == (prompt or 0) + completion + reasoning:
        completion += reasoning
    return Counts(prompt, completion, _first_tokens(usage, CACHED, prompt or MAX_TOKENS), reasoning)


def priced(
    counts: Counts | None, stated: Decimal | None, *, said: bool
) -> tuple[Usage | None, Decimal | None, bool]:
    """Tokens, what the provider says it charged (millisats), and whether it counted any tokens,
    of a plain body with these counts and this price. `said`: it has an answer that says
    something."""
    if counts is None:
        return None, stated, False
    return _usage(counts, said=said), stated, counts.counted


def read_stated_cost(value: Mapping[str, object]) -> Decimal | None:
    """What a Routstr node says it charged, in millisats, from a chunk or a plain answer."""
    return _cost_in(_places(value))


def _cost_in(places: Sequence[Mapping[str, object]]) -> Decimal | None:
    for place in places:
        for path in STATED_COST:
            if path[0] not in place:
                continue
            found = _at(place, path)
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


def _at(value: Mapping[str, object], path: tuple[str, ...]) -> object:
    found: object = value
    for member in path:
        if not isinstance(found, dict):
            return None
        found = found.get(member)
    return found


def _first_tokens(
    usage: Mapping[str, object], paths: tuple[tuple[str, ...], ...], most: int = MAX_TOKENS
) -> int | None:
    """The first that is not 0 and not above `most`, else 0 if one says so."""
    zero = None
    for path in paths:
        if path[0] not in usage:
            continue
        tokens = _tokens(_at(usage, path))
        if tokens is not None and tokens <= most:
            if tokens:
                return tokens
            zero = 0
    return zero


def _tokens(value: object) -> int | None:
    # `type`, not isinstance: true and false are integers to Python.
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None

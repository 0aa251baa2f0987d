"""Rates and usage -> cost, in satoshis, exactly.

Rates are satoshis per 1,000 tokens, which is the same number as millisatoshis per token; `base_fee`
is satoshis per request. Every amount is a `decimal.Decimal` made from the text it was written in:
a binary float has no place on the way, and nothing is rounded. What is shown to a person goes
through `format_sats`, which does not round either, or through `format_eyes`, which does.

    tokens = (input - cached) * input_rate + cached * cached_input_rate + output * output_rate
    cost   = tokens / 1000 + base_fee

Unknown is not zero: who has no `Usage` or no `Rates` has no cost, and must not call `cost_sats`.
"""

from decimal import Context, Decimal
from functools import lru_cache, reduce
from typing import Final, final

from arbstr.sansio.frozen import dataclass

_EXACT: Final = Context(prec=200)
"""Digits that are enough for every sum here to be exact: a rate has at most 45 (`config/reader.py`
sees to it), which leaves more than 100 for a token count."""

EYES: Final = 4
"""Significant digits of an amount in a sentence: more are noise to who reads it."""

_PER_TOKEN: Final = Decimal("0.001")
_ZERO: Final = Decimal(0)

_times: Final = _EXACT.multiply
_times_plus: Final = _EXACT.fma

plus: Final = _EXACT.add
"""The exact sum of two amounts; of many: `add_sats`."""
minus: Final = _EXACT.subtract
"""The exact difference of two amounts."""


@final
@dataclass(frozen=True, slots=True)
class Rates:
    """What a provider asks for one model. A rate of 0 is free.

    `base_fee` is satoshis per request, all others satoshis per 1,000 tokens. Without a
    `cached_input_rate`, tokens read from a cache cost `input_rate`; without a `cache_write_rate`,
    so do those written to one.
    """

    input_rate: Decimal
    output_rate: Decimal
    cached_input_rate: Decimal | None = None
    base_fee: Decimal = _ZERO
    cache_write_rate: Decimal | None = None


@final
@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens a provider counted for one answer.

    `input_tokens` includes `cached_tokens`, which were read from a cache, and `cache_write_tokens`,
    which were written to one (Anthropic's counts; elsewhere nobody says). `output_tokens` is what
    is billed: the completion tokens, and the reasoning tokens with them where a provider counts
    those apart.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None


def cost_sats(usage: Usage, rates: Rates) -> Decimal:
    """The exact cost in satoshis of what was used, never below zero.

    More cached tokens than input tokens count as all of them: a provider's arithmetic must not
    turn into a refund.
    """
    return _cost(
        usage.input_tokens,
        usage.cached_tokens or 0,
        usage.output_tokens,
        rates,
        written_tokens=usage.cache_write_tokens or 0,
    )


def _cost(
    input_tokens: int,
    cached_tokens: int,
    output_tokens: int,
    rates: Rates,
    *,
    written_tokens: int = 0,
) -> Decimal:
    # A context's own methods, so that none is entered; they take whole numbers as they are.
    tokens = _times(output_tokens, rates.output_rate)
    if cached_tokens or written_tokens:
        cached = max(0, min(cached_tokens, input_tokens))
        written = max(0, min(written_tokens, input_tokens - cached))
        input_tokens -= cached + written
        cached_rate, written_rate = rates.cached_input_rate, rates.cache_write_rate
        tokens = _times_plus(cached, _or(cached_rate, rates.input_rate), tokens)
        tokens = _times_plus(written, _or(written_rate, rates.input_rate), tokens)
    tokens = _times_plus(input_tokens, rates.input_rate, tokens)
    cost = _times_plus(tokens, _PER_TOKEN, rates.base_fee)
    return cost if cost > _ZERO else _ZERO


def _or(rate: Decimal | None, other: Decimal) -> Decimal:
    return other if rate is None else rate


def estimate_sats(
    input_tokens: int, output_tokens: int, n: int, rates: Rates, *, cached_tokens: int = 0
) -> Decimal:
    """What a request would cost in satoshis if each of its `n` choices took `output_tokens`.

    The input is read once and the base fee paid once, whatever `n`. `cached_tokens` of the input
    are expected to be in a cache.
    """
    return _cost(input_tokens, cached_tokens, output_tokens * n, rates)


def add_sats(*amounts: Decimal) -> Decimal:
    """The exact sum; an amount with a minus (`copy_negate`, which does not round) is taken away."""
    return reduce(plus, amounts, _ZERO)


def multiply_sats(amount: Decimal, times: int) -> Decimal:
    """So many times the amount, exactly."""
    return _times(amount, times)


def sats_from_msats(msats: Decimal) -> Decimal:
    """Millisatoshis as satoshis (1 sat = 1000 msat), exactly."""
    return _times(msats, _PER_TOKEN)


def format_eyes(amount: Decimal) -> str:
    """The amount for a sentence: four significant digits, but every digit of whole satoshis.

    What somebody wrote (a rate, a limit) is repeated as it was written: `format_sats`.
    """
    places = max(0, EYES - 1 - amount.adjusted()) if amount else 0
    return format_sats(_EXACT.quantize(amount, _unit(places)))


@lru_cache(maxsize=64)
def _unit(places: int) -> Decimal:
    """What such an amount is rounded to."""
    return Decimal(1).scaleb(-places)


def format_above(amount: Decimal, limit: Decimal) -> str:
    """An amount above a limit, for a sentence that says so: all its digits if four of them would be
    no more than the limit."""
    shown = format_eyes(amount)
    return shown if Decimal(shown) > limit else format_sats(amount)


def format_sats(amount: Decimal) -> str:
    """The amount as plain digits: no exponent, no trailing zeros, no minus before a zero."""
    if not amount:
        return "0"
    digits = format(amount, "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits

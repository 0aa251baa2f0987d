"""usage.py: what a provider counted and charged, from the pieces it comes in."""

import itertools
import json
import math
from decimal import Decimal
from typing import Any

import pytest

from arbstr.sansio.dialects.usage import (
    MAX_COST_MSATS,
    MAX_TOKENS,
    MOST_PLACES,
    Counts,
    Tally,
    parse_finite,
    parse_json,
    priced,
    read_cost_header,
    read_counts,
    read_stated_cost,
    read_usage,
)
from arbstr.sansio.money import Usage


def tallied(*pieces: dict[str, Any] | None) -> Usage | None:
    """The usage of an answer whose events have these usage objects; None is output."""
    tally = Tally()
    for piece in pieces:
        counts = None if piece is None else read_usage(piece)
        if piece is None:
            tally.note_output()
        elif counts is not None:
            tally.note(counts)
    return tally.usage


OPENAI = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}

DIALECTS = {
    "plain": (OPENAI, Usage(10, 4)),
    "OpenAI's details": (
        OPENAI
        | {
            "prompt_tokens_details": {"cached_tokens": 6},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        Usage(10, 4, 6, 3),
    ),
    "OpenAI's other details": (
        OPENAI | {"input_tokens_details": {"cached_tokens": 6}},
        Usage(10, 4, 6),
    ),
    "Moonshot's cache": (OPENAI | {"cached_tokens": 7}, Usage(10, 4, 7)),
    "Anthropic's cache": (OPENAI | {"cache_read_input_tokens": 9}, Usage(10, 4, 9)),
    "none cached in one place, some in another": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 7},
        Usage(10, 4, 7),
    ),
    "too many cached in one place": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": 70}, "cached_tokens": 7},
        Usage(10, 4, 7),
    ),
    "all cached": (OPENAI | {"cached_tokens": 10}, Usage(10, 4, 10)),
    "none cached": (OPENAI | {"cached_tokens": 0}, Usage(10, 4, 0)),
    "null details": (OPENAI | {"prompt_tokens_details": None}, Usage(10, 4)),
    "DeepSeek's cache": (OPENAI | {"prompt_cache_hit_tokens": 8}, Usage(10, 4, 8)),
    "reasoning on top, by the total": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "total_tokens": 20,
            "completion_tokens_details": {"reasoning_tokens": 6},
        },
        Usage(10, 10, None, 6),
    ),
    "reasoning beside the counts": (OPENAI | {"reasoning_tokens": 2}, Usage(10, 4, None, 2)),
    "no total": ({"prompt_tokens": 1, "completion_tokens": 0}, Usage(1, 0)),
    "more cached than asked": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": 11}},
        Usage(10, 4),
    ),
    "a cached count that is a string": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": "6"}},
        Usage(10, 4),
    ),
    "the largest counts": (
        {"prompt_tokens": MAX_TOKENS, "completion_tokens": MAX_TOKENS},
        Usage(MAX_TOKENS, MAX_TOKENS),
    ),
    "only a prompt": ({"prompt_tokens": 10}, None),
    "zeros, as Routstr sends for unknown": (
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        None,
    ),
    "no prompt": ({"prompt_tokens": 0, "completion_tokens": 5}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("case", DIALECTS.values(), ids=DIALECTS.keys())
def test_usage_is_read(case: tuple[dict[str, Any], Usage | None]) -> None:
    given, expected = case
    assert tallied(given) == expected


@pytest.mark.parametrize("bad", ["10", -1, True, 10.0, 10.5, MAX_TOKENS + 1, [], {}])
@pytest.mark.parametrize("member", ["prompt_tokens", "completion_tokens"])
def test_a_count_that_is_no_count_is_refused(member: str, bad: object) -> None:
    assert read_usage(OPENAI | {member: bad}) is None


def test_a_missing_count_is_not_refused_it_may_come_later() -> None:
    assert read_usage({"prompt_tokens": 10}) == Counts(10, None)
    assert read_usage({"prompt_tokens": None, "completion_tokens": 4}) == Counts(None, 4)
    assert read_usage({"cached_tokens": 4}) is None


OUTPUT = None
PROMPT = {"prompt_tokens": 1000, "completion_tokens": 0, "total_tokens": 1000}
COMPLETION = {"prompt_tokens": 0, "completion_tokens": 50, "total_tokens": 50}
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0}

PIECES: dict[str, tuple[list[dict[str, Any] | None], Usage | None]] = {
    "in two halves": ([PROMPT, OUTPUT, COMPLETION], Usage(1000, 50)),
    "halves without the other count": (
        [{"prompt_tokens": 1000}, OUTPUT, {"completion_tokens": 50}],
        Usage(1000, 50),
    ),
    "halves in the other order": ([OUTPUT, COMPLETION, PROMPT], Usage(1000, 50)),
    "zeros at the end": ([OUTPUT, OPENAI, ZEROS], Usage(10, 4)),
    "sums so far": (
        [OUTPUT, OPENAI, OUTPUT, OPENAI | {"completion_tokens": 7}],
        Usage(10, 7),
    ),
    "the prompt alone and then text": ([PROMPT, OUTPUT], None),
    "an interim sum and then text": ([OUTPUT, OPENAI, OUTPUT], None),
    "an interim sum, text, and zeros": ([OUTPUT, OPENAI, OUTPUT, ZEROS], None),
    "no completion beside text": ([OUTPUT, PROMPT], None),
    "no completion and no text": ([PROMPT], Usage(1000, 0)),
    "no prompt": ([OUTPUT, COMPLETION], None),
    "cached with the first half": (
        [PROMPT | {"cached_tokens": 800}, OUTPUT, COMPLETION | {"cached_tokens": 0}],
        Usage(1000, 50, 800),
    ),
    "cached with the last half": (
        [PROMPT, OUTPUT, COMPLETION | {"cached_tokens": 800}],
        Usage(1000, 50, 800),
    ),
    "more cached than the other half has": (
        [PROMPT, OUTPUT, COMPLETION | {"cached_tokens": 1001}],
        Usage(1000, 50),
    ),
    "reasoning with the first half": (
        [PROMPT | {"reasoning_tokens": 5}, OUTPUT, COMPLETION],
        Usage(1000, 50, None, 5),
    ),
}


@pytest.mark.parametrize("case", PIECES.values(), ids=PIECES.keys())
def test_usage_comes_in_pieces(case: tuple[list[dict[str, Any] | None], Usage | None]) -> None:
    pieces, expected = case
    assert tallied(*pieces) == expected


def test_what_was_counted_is_told_even_if_it_is_no_usage() -> None:
    tally = Tally()
    tally.note(Counts(0, 0))
    assert not tally.counted
    tally.note(Counts(0, 5))
    assert tally.counted
    assert tally.usage is None


@pytest.mark.parametrize("beside", list(itertools.permutations([OPENAI, ZEROS])))
def test_of_several_places_the_first_that_counts_is_read(beside: tuple[Any, Any]) -> None:
    value = {"usage": beside[0], "x_groq": {"usage": beside[1]}, "choices": []}
    assert read_counts(value) == Counts(10, 4)


def test_the_price_of_a_plain_body() -> None:
    half = read_usage(PROMPT)
    assert priced(read_usage(OPENAI), Decimal(5), said=True) == (Usage(10, 4), Decimal(5), True)
    assert priced(half, None, said=True) == (None, None, True)
    assert priced(half, None, said=False) == (Usage(1000, 0), None, True)
    assert priced(None, None, said=False) == (None, None, False)


COSTS = {
    "in the usage": ({"usage": {"cost": {"total_msats": 505}}}, Decimal(505)),
    "beside it": ({"cost": {"total_msats": 505}}, Decimal(505)),
    "zero": ({"usage": {"cost": {"total_msats": 0}}}, Decimal(0)),
    "a fraction": ({"usage": {"cost": {"total_msats": 0.1}}}, Decimal("0.1")),
    "dollars": ({"usage": {"cost": 0.0005}}, None),
    "negative": ({"usage": {"cost": {"total_msats": -1}}}, None),
    "a string": ({"usage": {"cost": {"total_msats": "505"}}}, None),
    "true": ({"usage": {"cost": {"total_msats": True}}}, None),
    "infinite": ({"usage": {"cost": {"total_msats": float("inf")}}}, None),
    "absurd": ({"usage": {"cost": {"total_msats": int(MAX_COST_MSATS) + 1}}}, None),
    "bad in the usage, good beside it": (
        {"usage": {"cost": {"total_msats": None}}, "cost": {"total_msats": 5}},
        Decimal(5),
    ),
    "no cost": ({"usage": {}}, None),
    "in an error": ({"error": {"cost": {"total_msats": 505}}}, Decimal(505)),
    "in an error's usage": ({"error": {"usage": {"cost": {"total_msats": 505}}}}, Decimal(505)),
    "in FastAPI's error": ({"detail": {"error": {"cost": {"total_msats": 505}}}}, Decimal(505)),
    "in an error's metadata": (
        {"error": {"metadata": {"usage": {"cost": {"total_msats": 505}}}}},
        Decimal(505),
    ),
    "beside an error before it": (
        {"cost": {"total_msats": 7}, "error": {"cost": {"total_msats": 505}}},
        Decimal(7),
    ),
    "in a choice": ({"choices": [{"usage": {"cost": {"total_msats": 505}}}]}, Decimal(505)),
    "what a prompt says is no cost": (
        {"choices": [{"message": {"cost": {"total_msats": 505}}}]},
        None,
    ),
    "too deep": (
        {"error": {"a": {"b": {"c": {"d": {"cost": {"total_msats": 505}}}}}}},
        None,
    ),
}


def test_an_error_of_many_objects_is_not_searched_without_end() -> None:
    many: dict[str, object] = {str(n): {} for n in range(MOST_PLACES)}
    last = {"cost": {"total_msats": 5}}
    assert read_stated_cost({"error": {**many, "last": last}}) is None
    assert read_stated_cost({"error": {**many, **last}}) == 5


@pytest.mark.parametrize("member", ["error", "detail"])
def test_tokens_are_read_in_an_error_too(member: str) -> None:
    assert read_counts({member: {"usage": OPENAI}}) == Counts(10, 4)
    assert read_counts({member: {"error": {"usage": OPENAI}}}) == Counts(10, 4)
    assert read_counts({member: "text", "usage": OPENAI}) == Counts(10, 4)


@pytest.mark.parametrize("case", COSTS.values(), ids=COSTS.keys())
def test_a_stated_cost_is_read(case: tuple[dict[str, Any], Decimal | None]) -> None:
    value, expected = case
    assert read_stated_cost(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("505", Decimal(505)),
        (" 0.5 ", Decimal("0.5")),
        ("0", Decimal(0)),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("1e9", None),
        ("١", None),  # noqa: RUF001  # a digit to int(), none to HTTP
        ("9" * 15, None),
        ("0" * 19 + "1", Decimal(1)),
        ("0" * 20 + "1", None),
        ("0." + "1" * 21, None),
    ],
)
def test_a_cost_header_is_read(text: str, expected: Decimal | None) -> None:
    assert read_cost_header(text) == expected


@pytest.mark.parametrize("value", [0, 1, MAX_TOKENS - 1, MAX_TOKENS])
def test_the_bounds_of_a_count(value: int) -> None:
    counts = read_usage({"prompt_tokens": value, "completion_tokens": value})
    assert counts == Counts(value, value)


@pytest.mark.parametrize("text", [str(int(MAX_COST_MSATS)), "0", "0." + "1" * 20])
def test_the_bounds_of_a_stated_cost(text: str) -> None:
    assert read_cost_header(text) == Decimal(text)
    assert read_stated_cost({"cost": {"total_msats": int(MAX_COST_MSATS)}}) == MAX_COST_MSATS
    assert read_cost_header(str(int(MAX_COST_MSATS) + 1)) is None


def test_a_thousand_million_tokens_are_believed_and_a_bitcoin_and_no_more() -> None:
    assert read_usage({"prompt_tokens": 1_000_000_000}) == Counts(1_000_000_000, None)
    assert read_usage({"prompt_tokens": 1_000_000_001}) is None
    assert read_cost_header("100000000000") == Decimal(100_000_000_000)
    assert read_cost_header("100000000001") is None


def test_the_constants_that_python_writes_are_read_and_written_again() -> None:
    text = b'{"a":[NaN,-Infinity,Infinity]}'
    value = parse_json(text)
    assert isinstance(value, dict)
    assert math.isnan(value["a"][0])
    assert json.dumps(parse_finite(text), separators=(",", ":")).encode() == text


def test_a_number_too_large_for_a_float_is_written_as_the_largest() -> None:
    assert json.dumps(parse_finite(b"[1e999,-1e999,0.5]")) == (
        "[1.7976931348623157e+308, -1.7976931348623157e+308, 0.5]"
    )
    assert parse_finite(b"{") is None


@pytest.mark.parametrize("said", [False, True])
def test_a_plain_body_has_the_usage_of_a_stream_that_says_all_at_its_end(said: bool) -> None:
    counted = (None, 0, 1, 10)
    for counts in itertools.starmap(Counts, itertools.product(counted, repeat=5)):
        tally = Tally()
        if said:
            tally.note_output()
        tally.note(counts)
        assert priced(counts, None, said=said) == (tally.usage, None, tally.counted), counts

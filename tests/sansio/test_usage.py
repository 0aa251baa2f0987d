"""usage.py: what an event says, and that the cheap test never hides it."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbstr.sansio.money import Usage
from arbstr.sansio.usage import (
    GARBLED,
    MAX_COST_MSATS,
    MAX_TOKENS,
    NO_CHUNK,
    UNREMARKABLE,
    Facts,
    parse_json,
    read_cost_header,
    read_event,
    read_stated_cost,
    read_usage,
)
from tests.cuttings import recorded


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"choices": list(choices), **more}).encode()


def choice(delta: Any = None, reason: Any = None, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta or {}, "finish_reason": reason, **more}


def facts(data: bytes) -> Facts:
    return read_event(data, output_seen=False)


OUTPUT = {
    "content": {"content": "a"},
    "reasoning": {"reasoning": "a"},
    "reasoning_content": {"content": None, "reasoning_content": "a"},
    "reasoning in details": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]},
    "refusal": {"refusal": "no"},
    "audio": {"audio": {"id": "a"}},
    "a function call": {"function_call": {"name": "f"}},
    "tool calls": {"tool_calls": [{"index": 0, "id": "c"}]},
    "content in parts": {"content": [{"type": "text", "text": "a"}]},
    "something new": {"holograms": ["x"]},
}


@pytest.mark.parametrize("delta", OUTPUT.values(), ids=OUTPUT.keys())
def test_output_is(delta: dict[str, Any]) -> None:
    assert facts(chunk(choice(delta))).output


NO_OUTPUT = {
    "the role": {"role": "assistant"},
    "the role with empty content": {"role": "assistant", "content": ""},
    "nulls": {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
    "empty lists and objects": {"tool_calls": [], "audio": {}, "content": []},
    "nothing": {},
}


@pytest.mark.parametrize("delta", NO_OUTPUT.values(), ids=NO_OUTPUT.keys())
def test_no_output_is(delta: dict[str, Any]) -> None:
    assert not facts(chunk(choice(delta))).output


def test_a_finish_reason_is_output() -> None:
    assert facts(chunk(choice({}, "stop"))).output


def test_a_message_in_place_of_a_delta_and_legacy_text_are_output() -> None:
    assert facts(chunk({"index": 0, "message": {"role": "assistant", "content": "a"}})).output
    assert facts(chunk({"index": 0, "text": "a"})).output


def test_finish_reasons_are_told_per_choice() -> None:
    seen = facts(chunk(choice({}, "stop"), {"index": 2, "delta": {}, "finish_reason": "length"}))
    assert seen.indexes == (0, 2)
    assert seen.finished == ((0, "stop"), (2, "length"))


@pytest.mark.parametrize("reason", [None, ""])
def test_an_empty_finish_reason_is_none(reason: str | None) -> None:
    seen = facts(chunk(choice({"content": ""}, reason)))
    assert seen.finished == ()
    assert not seen.output


def test_a_finish_reason_that_is_no_string_still_ends_the_choice() -> None:
    assert facts(chunk(choice({}, 7))).finished == ((0, "other"),)


@pytest.mark.parametrize("index", [None, "0", -1, 1.0, True])
def test_a_choice_without_a_usable_index_counts_by_its_place(index: object) -> None:
    assert facts(chunk({"delta": {}}, {"index": index, "delta": {}})).indexes == (0, 1)


ERRORS = {
    "an error object": {"error": {"message": "x"}},
    "an error string": {"error": "x"},
    "an error beside choices": {"error": {"message": "x"}, "choices": [choice()]},
    "vLLM's": {"object": "error", "message": "x", "code": 400},
    "a choice that ended with error": {"choices": [choice({"content": ""}, "error")]},
}


@pytest.mark.parametrize("event", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_is(event: dict[str, Any]) -> None:
    assert facts(json.dumps(event).encode()).error


def test_an_object_named_error_with_choices_is_a_chunk() -> None:
    assert not facts(chunk(choice({"content": "a"}), object="error")).error


@pytest.mark.parametrize("error", [None, "", {}, False])
def test_an_empty_error_is_none(error: object) -> None:
    assert not facts(chunk(choice({"content": "a"}), error=error)).error


NO_CHUNKS = [b"ping", b"[]", b"{}", b'{"choices":null}', b'{"choices":{}}', b"1", b'"a"', b"null"]


@pytest.mark.parametrize("data", NO_CHUNKS)
@pytest.mark.parametrize("output_seen", [False, True])
def test_what_clients_cannot_read_is_no_chunk(data: bytes, output_seen: bool) -> None:
    seen = read_event(data, output_seen=output_seen)
    assert not seen.is_chunk
    assert not seen.garbled


@pytest.mark.parametrize(
    "data", [b'{"choices":[', b"{", b' {"a":NaN}', b'{"a":' + b"9" * 5000 + b"}"]
)
def test_an_object_that_is_not_json_is_garbled(data: bytes) -> None:
    assert facts(data) == GARBLED


def test_what_nests_too_deep_is_garbled_and_raises_nothing() -> None:
    assert facts(b'{"a":' * 200_000) == GARBLED
    assert facts(b"[" * 200_000) == NO_CHUNK


def test_bytes_that_are_not_utf_8_are_read_all_the_same() -> None:
    data = b'{"choices":[{"index":0,"delta":{"content":"\xff"},"finish_reason":"stop"}]}'
    assert facts(data).finished == ((0, "stop"),)


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
    "nothing": ({}, None),
}


@pytest.mark.parametrize("case", DIALECTS.values(), ids=DIALECTS.keys())
def test_usage_is_read(case: tuple[dict[str, Any], Usage | None]) -> None:
    given, expected = case
    assert read_usage(given) == expected


@pytest.mark.parametrize("bad", ["10", -1, True, 10.0, 10.5, MAX_TOKENS + 1, None, [], {}])
@pytest.mark.parametrize("member", ["prompt_tokens", "completion_tokens"])
def test_a_count_that_is_no_count_is_refused(member: str, bad: object) -> None:
    assert read_usage(OPENAI | {member: bad}) is None


PLACES = {
    "OpenAI": chunk(usage=OPENAI),
    "Groq": chunk(choice({}, "stop"), x_groq={"id": "r", "usage": OPENAI}),
    "Moonshot": chunk(choice({}, "stop", usage=OPENAI)),
    "without choices": json.dumps({"usage": OPENAI}).encode(),
}


@pytest.mark.parametrize("data", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("output_seen", [False, True])
def test_usage_is_found_where_it_is(data: bytes, output_seen: bool) -> None:
    assert read_event(data, output_seen=output_seen).usage == Usage(10, 4)


def test_the_usage_chunk_is_the_one_without_choices() -> None:
    assert facts(chunk(usage=OPENAI)).usage_only
    assert facts(chunk(usage={"prompt_tokens": 0, "completion_tokens": 0})).usage_only
    assert not facts(chunk(usage=None)).usage_only
    assert not facts(chunk(prompt_filter_results=[])).usage_only
    assert not facts(chunk(choice({}, "stop"), usage=OPENAI)).usage_only


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
}


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
    ],
)
def test_a_cost_header_is_read(text: str, expected: Decimal | None) -> None:
    assert read_cost_header(text) == expected


def test_every_chunk_of_real_streams_that_says_nothing_is_not_parsed() -> None:
    for name in ["openai.sse", "openai-tools.sse", "azure.sse", "routstr-whole.sse"]:
        for event in recorded(name).split(b"\n\n"):
            data = event.removeprefix(b"data: ")
            if not data.startswith(b"{"):
                continue
            cheap, full = read_event(data, output_seen=True), facts(data)
            remarkable = bool(full.finished or full.usage_only or full.error)
            assert (cheap is not UNREMARKABLE) == remarkable, data


WHITESPACE = st.text(st.sampled_from(" \t\n\r"), max_size=3)
KEYS = st.sampled_from(
    [
        *("choices", "index", "delta", "finish_reason", "usage", "error", "content", "x_groq"),
        *("prompt_tokens", "completion_tokens", "cost", "total_msats", "object", "id", "model"),
    ]
) | st.text(max_size=3)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["stop", "error", "usage", "finish_reason", '"usage":{', "null"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
USAGE = st.just(OPENAI) | VALUES
CHOICE = st.fixed_dictionaries(
    {"index": st.integers(0, 2) | VALUES, "delta": VALUES},
    optional={
        "finish_reason": st.sampled_from(["stop", "error", None, ""]) | VALUES,
        "usage": USAGE,
    },
)
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE | VALUES, max_size=3)},
    optional={
        "usage": USAGE,
        "error": VALUES,
        "x_groq": st.fixed_dictionaries({"usage": USAGE}) | VALUES,
        "model": VALUES,
    },
)


@st.composite
def texts(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> bytes:
    """JSON of a value, with any white space JSON allows around `:` and `,`."""
    spaces = [draw(WHITESPACE) for _ in range(4)]
    separators = (spaces[0] + "," + spaces[1], spaces[2] + ":" + spaces[3])
    return json.dumps(draw(values), separators=separators, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


@settings(deadline=None, max_examples=500)
@given(texts(CHUNKS))
def test_the_cheap_test_never_hides_a_fact(data: bytes) -> None:
    full = facts(data)
    cheap = read_event(data, output_seen=True)
    assert cheap.finished == full.finished
    assert cheap.usage == full.usage
    assert cheap.usage_only == full.usage_only
    assert cheap.is_chunk == full.is_chunk
    assert cheap.error == full.error


@settings(deadline=None, max_examples=300)
@given(texts(VALUES) | st.binary(max_size=40), st.booleans())
def test_nothing_raises(data: bytes, output_seen: bool) -> None:
    read_event(data, output_seen=output_seen)
    parse_json(data)

"""facts.py: what an event says, and that the cheap test never hides it."""

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects import complaints
from arbstr.sansio.dialects.chat.facts import UNREMARKABLE, ChatFacts, read_event, read_object
from arbstr.sansio.dialects.dialect import Facts
from arbstr.sansio.dialects.usage import Counts, parse_json
from tests.cuttings import recorded
from tests.searching import examples


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"choices": list(choices), **more}).encode()


def of_chat(seen: Facts) -> ChatFacts:
    """The same with a chat's members: of what is no object there are none."""
    if isinstance(seen, ChatFacts):
        return seen
    return ChatFacts(**{member.name: getattr(seen, member.name) for member in fields(seen)})


AN_ERROR, DOUBTFUL, GARBLED, NOTHING, PROSE, QUOTED_PROSE = map(
    of_chat,
    (
        complaints.AN_ERROR,
        complaints.DOUBTFUL,
        complaints.GARBLED,
        complaints.NOTHING,
        complaints.PROSE,
        complaints.QUOTED_PROSE,
    ),
)


def choice(delta: Any = None, reason: Any = None, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta or {}, "finish_reason": reason, **more}


def facts(data: bytes, *, output_seen: bool = False) -> ChatFacts:
    return of_chat(read_event(data, output_seen=output_seen))


def read_stray(stray: bytes) -> ChatFacts:
    return of_chat(complaints.read_stray(stray, read_object))


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


def test_a_choice_counts_by_its_index_whatever_its_place() -> None:
    assert facts(chunk({"index": 1, "delta": {}}, {"index": 0, "delta": {}})).indexes == (1, 0)
    # true is an integer to Python, and no index.
    assert facts(chunk({"index": True, "delta": {}})).indexes == (0,)


ERRORS = {
    "an error object": {"error": {"message": "x"}},
    "an error string": {"error": "x"},
    "an error beside choices": {"error": {"message": "x"}, "choices": [choice()]},
    "vLLM's": {"object": "error", "message": "x", "code": 400},
    "Anthropic's": {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
    "one of that type": {"type": "error", "message": "x"},
    "one of that status": {"status": "error", "message": "x"},
    "Cloudflare's": {"success": False, "errors": [{"code": 7009, "message": "x"}]},
    "SGLang's finish reason": {"choices": [choice({}, {"type": "abort", "message": "x"})]},
    "a choice that ended with error": {"choices": [choice({"content": ""}, "error")]},
    "a choice with an error": {"choices": [choice({}, error={"message": "x"})]},
    "an empty choice and an error beside it": {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": None}}],
        "error": {"code": 429},
    },
    "FastAPI's": {"detail": {"error": {"message": "x"}}},
    **{
        f"the finish reason {reason}": {"choices": [choice({}, reason)]}
        for reason in (
            *("error", "abort", "aborted", "network_error", "insufficient_system_resource"),
            *("rate_limit", "rate_limited", "quota_exceeded", "upstream_disconnect", "killed"),
            *("cancelled", "timeout", "server_error", "failed", "ERROR"),
        )
    },
}


@pytest.mark.parametrize("event", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_is(event: dict[str, Any]) -> None:
    assert facts(json.dumps(event).encode()).error


def test_an_object_named_error_with_choices_is_a_chunk() -> None:
    for mark in ({"object": "error"}, {"type": "error"}, {"status": "error"}, {"errors": ["x"]}):
        assert not facts(chunk(choice({"content": "a"}), **mark)).error


@pytest.mark.parametrize(
    "reason",
    [
        *("stop", "length", "tool_calls", "function_call", "content_filter", "sensitive"),
        *("function_call_filter: MALFORMED_FUNCTION_CALL", "eos", "end_turn", "unknown"),
    ],
)
def test_what_the_model_or_a_filter_ended_is_an_end(reason: str) -> None:
    seen = facts(chunk(choice({}, reason)))
    assert seen.finished == ((0, reason),)
    assert not seen.error


def test_an_error_beside_a_choice_that_says_something_decides_nothing_but_leaves_a_doubt() -> None:
    inside = choice({"content": "a"}) | {"error": {"message": "x"}}
    for event in (
        chunk(choice({"content": "a"}), error={"message": "x"}),
        chunk(choice({"content": "a"}), detail={"error": {"message": "x"}}),
        chunk(inside),
        chunk(inside, usage=OPENAI),
    ):
        seen = facts(event)
        assert (seen.error, seen.output, seen.doubt) == (False, True, True)


def test_what_failed_in_its_own_choice_is_an_error_even_if_it_says_something() -> None:
    seen = facts(chunk(choice({"content": "a"}, "abort")))
    assert (seen.error, seen.said, seen.finished) == (True, True, ())


@pytest.mark.parametrize("data", [b'[{"error":{"message":"x"}}]', b'[1,{"object":"error"}]'])
def test_a_list_with_an_error_is_one(data: bytes) -> None:
    assert facts(data) == AN_ERROR


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"the model is not loaded", PROSE),
        (b"<html>", PROSE),
        (b'"out of memory"', QUOTED_PROSE),
        (b'{"detail":"x"}', QUOTED_PROSE),
        (b'{"detail":[{"msg":"x","loc":["body"]}]}', QUOTED_PROSE),
        (b'{"code":500,"message":"x"}', QUOTED_PROSE),
        (b'{"code":"InvalidApiKey","message":"x"}', QUOTED_PROSE),
        (b'{"code":1302,"msg":"x","success":false}', QUOTED_PROSE),
        (b'{"error_code":336501,"error_msg":"x"}', QUOTED_PROSE),
        (b'{"error_code":17,"error_msg":"x"}', QUOTED_PROSE),
        (b'{"errcode":"17","msg":"x"}', QUOTED_PROSE),
        (b'{"choices":null,"base_resp":{"status_code":1008,"status_msg":"x"}}', QUOTED_PROSE),
        (b'{"message":"x"}', DOUBTFUL),
        (b'{"code":200,"message":"x"}', DOUBTFUL),
        (b'{"code":"success","message":"x"}', DOUBTFUL),
        (b'{"type":"status","message":"queued"}', DOUBTFUL),
        (b'{"status":"processing","message":"x"}', DOUBTFUL),
        (b'{"code":500}', DOUBTFUL),
        (b'{"code":17,"msg":"x"}', DOUBTFUL),
        (b'{"error_code":0,"error_msg":"x"}', DOUBTFUL),
        (b"\x00\x01 is nothing to read", GARBLED),
        (b'{"detail":""}', NOTHING),
        (b'{"base_resp":{"status_code":0,"status_msg":"ok"}}', DOUBTFUL),
        (b"[1]", DOUBTFUL),
        (b"17", DOUBTFUL),
        (b"true", DOUBTFUL),
    ],
)
@pytest.mark.parametrize("output_seen", [False, True])
def test_what_is_no_chunk_may_have_been_part_of_an_answer(
    data: bytes, expected: Facts, output_seen: bool
) -> None:
    assert facts(data, output_seen=output_seen) == expected


@pytest.mark.parametrize(
    "data",
    [
        *(b"ping", b"PING", b": ping", b"keep-alive", b"keepalive", b"heartbeat", b"pong"),
        *(b"{}", b"[]", b"null", b'""', b'"ping"', b"  ", b'{"type":"ping"}', b'{"choices":null}'),
    ],
)
def test_a_ping_is_no_part_of_an_answer(data: bytes) -> None:
    assert facts(data) == NOTHING


def test_names_of_pings() -> None:
    names = (b"ping", b"Heartbeat ", b"error", b"", None)
    assert [name for name in names if complaints.is_ping(name)] == [b"ping", b"Heartbeat "]


STRAY_ERRORS = {
    "llama.cpp's field": (
        b'error: {"code":500,"message":"x"}',
        b'{"error":{"code":500,"message":"x"}}',
    ),
    "text in it": (b"error: out of memory", b"out of memory"),
    "a body in several lines": (b'{\n  "error": {\n    "code": 429\n  }\n}', None),
    "a list": (b'[{"error": {"code": 429}}]', None),
    "vLLM's": (b'{"object":"error","message":"x"}', None),
}


@pytest.mark.parametrize("case", STRAY_ERRORS.values(), ids=STRAY_ERRORS.keys())
def test_an_error_outside_of_events_is_one(case: tuple[bytes, bytes | None]) -> None:
    stray, told = case
    seen = read_stray(stray)
    assert seen.error
    assert seen.told == (told or stray)


@pytest.mark.parametrize(
    "stray", [b"error: null", b"error:", b"error: {}", b"dat", b"<p>", b'{"a":1}', b"[1]", b"7"]
)
def test_other_lines_outside_of_events_are_doubtful(stray: bytes) -> None:
    assert read_stray(stray) == DOUBTFUL


@pytest.mark.parametrize(
    "stray", [b"Internal Server Error", b"upstream timed out: 30 s", b'{"detail":"x"}']
)
def test_words_outside_of_events_are_the_error_if_no_answer_follows(stray: bytes) -> None:
    seen = read_stray(stray)
    assert (seen.prose, seen.garbled, seen.error) == (True, False, False)
    assert seen.told == stray


def test_bytes_that_nobody_can_read_are_no_words() -> None:
    assert read_stray(b"\x1f\x8b\x08 \x00") == DOUBTFUL
    assert read_stray(b"\x1b[31mred alert\x1b[0m").prose


def test_a_chunk_outside_of_events_is_a_missing_part_whose_price_is_read() -> None:
    seen = read_stray(chunk(choice({"content": "a"}), usage=OPENAI))
    assert seen.garbled
    assert seen.counts == Counts(10, 4)


@pytest.mark.parametrize("error", [None, "", {}, False, {"message": "", "code": None, "x": 0}])
def test_an_empty_error_is_none(error: object) -> None:
    assert not facts(chunk(choice({"content": "a"}), error=error)).error


NO_CHUNKS = [b"ping", b"[]", b"{}", b'{"choices":null}', b'{"choices":{}}', b"1", b'"a"', b"null"]


@pytest.mark.parametrize("data", NO_CHUNKS)
@pytest.mark.parametrize("output_seen", [False, True])
def test_what_clients_cannot_read_is_no_chunk(data: bytes, output_seen: bool) -> None:
    seen = facts(data, output_seen=output_seen)
    assert not seen.passes
    assert not seen.garbled


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[',
        b"{",
        b' {"a":nan}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"choices":[{"index":0,"delta":{"content":"x"}}',
        b'[{"choices"',
        b'"half a str',
    ],
)
@pytest.mark.parametrize("output_seen", [False, True])
def test_what_begins_like_json_and_is_none_is_garbled(data: bytes, output_seen: bool) -> None:
    assert facts(data, output_seen=output_seen) == GARBLED


def test_what_nests_too_deep_is_garbled_and_raises_nothing() -> None:
    assert facts(b'{"a":' * 200_000) == GARBLED
    assert facts(b"[" * 200_000) == GARBLED


def test_bytes_that_are_not_utf_8_are_read_all_the_same() -> None:
    data = b'{"choices":[{"index":0,"delta":{"content":"\xff"},"finish_reason":"stop"}]}'
    assert facts(data).finished == ((0, "stop"),)


OPENAI = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}

PLACES = {
    "OpenAI": chunk(usage=OPENAI),
    "Groq": chunk(choice({}, "stop"), x_groq={"id": "r", "usage": OPENAI}),
    "Moonshot": chunk(choice({}, "stop", usage=OPENAI)),
    "without choices": json.dumps({"usage": OPENAI}).encode(),
}


@pytest.mark.parametrize("data", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("output_seen", [False, True])
def test_usage_is_found_where_it_is(data: bytes, output_seen: bool) -> None:
    assert facts(data, output_seen=output_seen).counts == Counts(10, 4)


def test_the_usage_chunk_is_the_one_without_choices() -> None:
    assert facts(chunk(usage=OPENAI)).kept
    assert facts(chunk(usage={"prompt_tokens": 0, "completion_tokens": 0})).kept
    assert not facts(chunk(usage=None)).kept
    assert not facts(chunk(prompt_filter_results=[])).kept
    assert not facts(chunk(choice({}, "stop"), usage=OPENAI)).kept


def test_every_chunk_of_real_streams_that_says_nothing_is_not_parsed() -> None:
    for name in ["openai.sse", "openai-tools.sse", "azure.sse", "routstr-whole.sse"]:
        for event in recorded(name).split(b"\n\n"):
            data = event.removeprefix(b"data: ")
            if not data.startswith(b"{"):
                continue
            cheap, full = facts(data, output_seen=True), facts(data)
            remarkable = bool(full.finished or full.kept or full.error)
            odd = data.count(b"{") != data.count(b"}")  # a text with one brace of a pair
            assert (cheap is not UNREMARKABLE) == (remarkable or odd), data


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


@examples(125)
@given(texts(CHUNKS))
def test_the_cheap_test_never_hides_a_fact(data: bytes) -> None:
    full = facts(data)
    cheap = facts(data, output_seen=True)
    assert cheap.finished == full.finished
    assert cheap.counts == full.counts
    assert cheap.provider_cost_msats == full.provider_cost_msats
    assert cheap.kept == full.kept
    assert cheap.passes == full.passes
    assert cheap.error == full.error


@examples(75)
@given(texts(VALUES) | st.binary(max_size=40), st.booleans())
def test_nothing_raises(data: bytes, output_seen: bool) -> None:
    read_event(data, output_seen=output_seen)
    parse_json(data)

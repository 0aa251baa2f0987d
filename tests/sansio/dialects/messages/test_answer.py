"""Whole Messages: judged, put together from a stream, and turned into one."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.dialect import Answer, Asked, BadAnswer, ErrorAnswer, Verdict
from arbstr.sansio.dialects.messages.door import MESSAGES
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.whole import relayed
from arbstr.sansio.money import Usage
from tests.cuttings import recorded
from tests.searching import examples

USAGE = Usage(input_tokens=137, output_tokens=11, cached_tokens=12, cache_write_tokens=100)

BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Let me look.", "signature": "EqQBCgIYAhIM"},
    {
        "type": "text",
        "text": "I look it up.",
        "citations": [{"type": "char_location", "cited_text": "x", "document_index": 0}],
    },
    {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {"place": "Oran"}},
]
WHOLE: dict[str, Any] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-3.5-sonnet",
    "content": BLOCKS,
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 25,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 12,
        "output_tokens": 11,
    },
}


def asked() -> Asked:
    found = MESSAGES.parse(b'{"model":"m","messages":[],"stream":true}', {}, b"")
    assert isinstance(found, Asked)
    return found


def judge(value: object) -> Verdict:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return MESSAGES.judge(body, asked(), "application/json")


def streamed(value: object) -> Relay:
    relay, _ = relayed(json.dumps(value).encode(), asked())
    return relay


def test_an_answer_goes_on_as_it_came() -> None:
    body = json.dumps(WHOLE, indent=3).encode()
    verdict = judge(body)
    assert isinstance(verdict, Answer)
    assert verdict.body is body
    assert (verdict.usage, verdict.provider_cost_msats) == (USAGE, None)


def test_what_a_node_charged_is_read() -> None:
    verdict = judge({**WHOLE, "cost": {"total_msats": 107}})
    assert isinstance(verdict, Answer)
    assert verdict.provider_cost_msats == Decimal(107)


@pytest.mark.parametrize(
    "change",
    [
        {"content": []},
        {"stop_reason": None},
        {"stop_reason": "refusal"},
        {"stop_reason": "pause_turn"},
        {"content": [{"type": "of_next_year"}]},
        {"error": None},
    ],
)
def test_these_are_answers(change: dict[str, Any]) -> None:
    assert isinstance(judge({**WHOLE, **change}), Answer)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "answered with nothing at all"),
        (b"<html>", "answered with HTML or XML, not JSON"),
        (b'{"content":[', "answered with JSON that is cut short or broken"),
        ({}, "answered with JSON that has no content"),
        ({"choices": [{"message": {}}]}, "answered with JSON that has no content"),
        ({"content": "text"}, "answered with JSON that has no content"),
        ({"content": []}, "answered with a message without content"),
        ([], "answered with something that is not a JSON object"),
        (recorded("messages-cut.sse"), "answered with a stream that ended before it was complete"),
        (recorded("messages-error.sse"), "answered with a stream that broke off with an error"),
        (
            {"content": [{"type": "text", "text": "par"}], "stop_reason": "network_error"},
            "answered with a part, which ended with an error",
        ),
    ],
)
def test_these_are_none(body: object, sentence: str) -> None:
    verdict = judge(body)
    assert isinstance(verdict, BadAnswer)
    assert verdict.sentence == sentence


@pytest.mark.parametrize(
    "body",
    [
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        {"error": {"message": "no"}},
        [{"error": {"message": "no"}}],
        {"detail": "no"},
        {"content": [], "stop_reason": "error"},
        recorded("messages-error-at-once.sse"),
    ],
)
def test_these_are_errors_and_were_not_charged(body: object) -> None:
    verdict = judge(body)
    assert isinstance(verdict, ErrorAnswer)
    assert not verdict.counted


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no", "usage": {"input_tokens": 9, "output_tokens": 2}}},
        {"error": {"message": "no"}, "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
        {"error": {"message": "no", "usage": {"prompt_tokens": 9, "completion_tokens": 2}}},
        {"detail": {"error": {"usage": {"input_tokens": 9, "output_tokens": 2}}}},
    ],
)
def test_an_error_may_have_counted(body: object) -> None:
    verdict = judge(body)
    assert isinstance(verdict, ErrorAnswer)
    assert (verdict.counted, verdict.usage) == (True, Usage(input_tokens=9, output_tokens=2))


def test_a_stream_is_put_together() -> None:
    verdict = judge(recorded("messages-tools.sse"))
    assert isinstance(verdict, Answer)
    assert json.loads(verdict.body) == WHOLE
    assert verdict.usage == USAGE


def test_what_a_node_charged_behind_a_stream_is_read() -> None:
    verdict = judge(recorded("messages-routstr-whole.sse"))
    assert isinstance(verdict, Answer)
    assert verdict.provider_cost_msats == Decimal(107)


@pytest.mark.parametrize("change", [{}, {"content": []}, {"cost": {"total_msats": 107}}])
def test_an_answer_becomes_a_stream_and_that_the_answer(change: dict[str, Any]) -> None:
    whole = {**WHOLE, **change}
    if whole["content"]:  # a text's sources come in no delta of ours, they stand in its block
        assert b"citations_delta" not in MESSAGES.as_stream(json.dumps(whole).encode())
    relay = streamed(whole)
    assert relay.complete
    assert relay.usage == USAGE
    back = judge(MESSAGES.as_stream(json.dumps(whole).encode()))
    assert isinstance(back, Answer)
    assert {**json.loads(back.body), "cost": 0} == {**whole, "cost": 0}
    assert back.provider_cost_msats == (Decimal(107) if "cost" in change else None)


def test_a_block_comes_as_clients_put_it_together() -> None:
    events = [
        json.loads(part.partition(b"data: ")[2])
        for part in MESSAGES.as_stream(json.dumps(WHOLE).encode()).split(b"\n\n")[:-1]
    ]
    assert events[0]["message"]["usage"]["output_tokens"] == 0
    assert [e["content_block"] for e in events if e["type"] == "content_block_start"] == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {**BLOCKS[1], "text": ""},
        {**BLOCKS[2], "input": {}},
    ]
    assert [e["delta"] for e in events if e["type"] == "content_block_delta"] == [
        {"type": "thinking_delta", "thinking": "Let me look."},
        {"type": "signature_delta", "signature": "EqQBCgIYAhIM"},
        {"type": "text_delta", "text": "I look it up."},
        {"type": "input_json_delta", "partial_json": '{"place": "Oran"}'},
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "content", "usage", "text", "input", "stop_reason", "error"),
                    *("thinking", "signature", "output_tokens", "message", "cost"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
KINDS = st.sampled_from(["text", "thinking", "tool_use", "error", "message", 7])


@given(JSON, st.lists(JSON | st.fixed_dictionaries({"type": KINDS, "text": JSON, "input": JSON})))
@examples(40)
def test_nothing_makes_it_raise_and_what_is_judged_an_answer_streams(
    value: object, blocks: list[Any]
) -> None:
    judge(value)
    whole = {**(value if isinstance(value, dict) else {}), "content": blocks}
    verdict = judge(whole)
    if isinstance(verdict, Answer):
        assert streamed(whole).complete

"""Plain Responses: judged, put together from a stream, turned into one."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.dialect import Answer, Asked, BadAnswer, ErrorAnswer, Stored, Verdict
from arbstr.sansio.dialects.responses.door import RESPONSES
from arbstr.sansio.dialects.sse import SSEReader
from arbstr.sansio.dialects.whole import relayed
from arbstr.sansio.money import Usage
from tests.cuttings import recorded

MESSAGE: dict[str, Any] = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [
        {"type": "output_text", "text": "Hi!", "annotations": [{"type": "url_citation"}]},
        {"type": "refusal", "refusal": "No."},
    ],
}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Thought."}],
    "content": [{"type": "reasoning_text", "text": "Long."}],
    "encrypted_content": "gAAA",
}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c1",
    "name": "f",
    "arguments": '{"a":1}',
    "status": "completed",
}
CUSTOM = {"type": "custom_tool_call", "id": "ct_1", "call_id": "c2", "name": "g", "input": "ls"}
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}


def response(**members: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 7,
        "status": "completed",
        "error": None,
        "model": "m1",
        "output": [MESSAGE],
        "usage": USAGE,
        **members,
    }


def body(**members: Any) -> bytes:
    return json.dumps(response(**members)).encode()


def asked() -> Asked:
    found = RESPONSES.parse(b'{"model":"m","input":"x"}', {}, b"")
    assert isinstance(found, Asked)
    return found


def judge(raw: bytes) -> Verdict:
    return RESPONSES.judge(raw, asked(), "application/json")


# -- judged


def test_an_answer_is_its_own_bytes_and_its_counts() -> None:
    raw = body()
    found = judge(raw)
    assert isinstance(found, Answer)
    assert found.body is raw
    assert found.usage == Usage(10, 5, cached_tokens=4, reasoning_tokens=2)


def test_what_a_node_says_it_charged_is_read() -> None:
    found = judge(body(cost={"total_msats": 107}, usage={**USAGE, "cost": 0.1, "cost_sats": 0}))
    assert isinstance(found, Answer)
    assert found.provider_cost_msats == Decimal(107)


def test_what_is_kept_of_an_answer() -> None:
    raw = body(conversation={"id": "conv_1"}, output=[REASONING, MESSAGE, {"id": 7}, "x", {}])
    found = judge(raw)
    assert isinstance(found, Answer)
    assert found.stored == Stored(("resp_1", "conv_1"), ("rs_1", "msg_1"))
    relay, _ = relayed(raw, asked())
    assert relay.stored == found.stored


@pytest.mark.parametrize("members", [{"store": False}, {"id": None}, {"id": "x" * 257}])
def test_nothing_is_kept_of_what_has_no_id_or_is_not_to_be(members: dict[str, Any]) -> None:
    found = judge(body(**members))
    assert isinstance(found, Answer)
    assert found.stored is None


@pytest.mark.parametrize(
    "members",
    [
        {"status": "incomplete", "output": [], "incomplete_details": {"reason": "content_filter"}},
        {"status": "incomplete"},
        {"status": None},
    ],
)
def test_what_came_to_its_limit_is_whole(members: dict[str, Any]) -> None:
    assert isinstance(judge(body(**members)), Answer)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "nothing at all"),
        (b"<html>", "HTML"),
        (b'{"id": "resp_1", "out', "cut short"),
        (b'"text"', "not a JSON object"),
        (body(output=None), "has no output"),
        (b'{"choices":[{"message":{"content":"hi"}}]}', "has no output"),
        (body(output=[]), "without output"),
        (body(status="in_progress"), "not finished"),
        (body(status="queued", output=[]), "not finished"),
        (body(status="failed"), "a part"),
        (body(status="cancelled"), "a part"),
    ],
)
def test_what_is_no_answer_is_said(raw: bytes, sentence: str) -> None:
    found = judge(raw)
    assert isinstance(found, BadAnswer), found
    assert sentence in found.sentence


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (body(status="failed", output=[], error={"message": "boom", "code": "x"}), "boom"),
        (body(output=[], error={"message": "boom"}), "boom"),
        (b'{"error":{"message":"boom"}}', "boom"),
        (b'[{"error":{"message":"boom"}}]', "boom"),
        (b'{"detail":"boom"}', "boom"),
        (body(status="failed", output=[]), "failed"),
        (
            b'{"type":"response.failed","response":{"status":"failed","output":[],'
            b'"error":{"message":"boom"}}}',
            "boom",
        ),
    ],
)
def test_an_error_in_a_200_is_one(raw: bytes, message: str) -> None:
    found = judge(raw)
    assert isinstance(found, ErrorAnswer), found
    assert message in found.data.decode()


def test_an_answer_beside_which_an_error_stands_was_paid_for() -> None:
    assert isinstance(judge(body(error={"message": "boom"})), Answer)


@given(st.binary(max_size=50))
def test_nothing_raises(tail: bytes) -> None:
    judge(tail)
    judge(b'{"output":[' + tail)
    RESPONSES.as_stream(b'{"output":[' + tail)


# -- a stream in its place


def test_of_a_stream_its_last_event_is_the_answer() -> None:
    found = judge(recorded("responses-routstr-whole.sse"))
    assert isinstance(found, Answer)
    value = json.loads(found.body)
    assert (value["object"], value["status"]) == ("response", "completed")
    assert value["cost"]["total_msats"] == 107
    assert found.usage == Usage(37, 11, cached_tokens=12, reasoning_tokens=4)
    assert found.provider_cost_msats == Decimal(107)
    again = judge(found.body)
    assert isinstance(again, Answer)
    assert (again.usage, again.provider_cost_msats) == (found.usage, found.provider_cost_msats)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("failed-at-once", ErrorAnswer),
        ("error-nested", ErrorAnswer),
        ("failed", BadAnswer),
        ("cut", BadAnswer),
        ("routstr-fabricated", BadAnswer),
        ("routstr-fabricated-at-once", BadAnswer),
    ],
)
def test_a_stream_without_an_end_is_no_answer(name: str, kind: type[Verdict]) -> None:
    assert isinstance(judge(recorded(f"responses-{name}.sse")), kind)


def ended(items: list[dict[str, Any]], type_: str = "completed", **members: Any) -> bytes:
    """A stream whose last event lacks what was said before it."""
    whole = {"id": "resp_1", "status": type_, "usage": USAGE, **members}
    every: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
        *({"type": "response.output_text.delta", "delta": "Hi!"} for item in items),
        *(
            {"type": "response.output_item.done", "output_index": at, "item": item}
            for at, item in reversed([*enumerate(items)])
        ),
        {"type": f"response.{type_}", "response": whole},
    ]
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in every)


@pytest.mark.parametrize("type_", ["completed", "incomplete"])
@pytest.mark.parametrize("members", [{}, {"output": []}])
def test_what_the_last_event_lacks_is_the_items_that_came(
    members: dict[str, Any], type_: str
) -> None:
    found = judge(ended([REASONING, MESSAGE, CALL], type_, **members))
    assert isinstance(found, Answer)
    assert json.loads(found.body)["output"] == [REASONING, MESSAGE, CALL]


def test_what_was_said_and_is_in_no_item_is_not_left_out_in_silence() -> None:
    delta = b'data: {"type":"response.output_text.delta","delta":"Hi!"}\n\n'
    found = judge(delta + ended([], "incomplete"))
    assert isinstance(found, BadAnswer)
    assert found.sentence == "answered with a stream whose end lacks what was said"


def test_a_stream_that_said_nothing_is_an_answer_at_its_limit_alone() -> None:
    assert isinstance(judge(ended([], "incomplete")), Answer)
    assert isinstance(judge(ended([], "completed", output=[])), BadAnswer)


# -- turned into a stream


def streamed(**members: Any) -> list[dict[str, Any]]:
    relay, out = relayed(body(**members), asked())
    assert relay.complete
    out += relay.finish(b'{"x":1}')
    return [json.loads(event.data) for event in SSEReader().feed(out) if event.data]


def test_every_item_comes_with_its_parts_and_their_texts_whole() -> None:
    items = [REASONING, MESSAGE, CALL, CUSTOM, SEARCH]
    events = streamed(output=items)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = ("added", "delta", "done")
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress", "output_item.added"),
        "reasoning_summary_part.added",
        *(f"reasoning_summary_text.{end}" for end in text[1:]),
        *("reasoning_summary_part.done", "content_part.added"),
        *(f"reasoning_text.{end}" for end in text[1:]),
        *("content_part.done", "output_item.done", "output_item.added"),
        *("content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
        *("content_part.added", "refusal.delta", "refusal.done", "content_part.done"),
        *("output_item.done", "output_item.added"),
        *("function_call_arguments.delta", "function_call_arguments.done"),
        *("output_item.done", "output_item.added"),
        *("custom_tool_call_input.delta", "custom_tool_call_input.done"),
        *("output_item.done", "output_item.added", "output_item.done", "completed"),
    ]
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas == ["Thought.", "Long.", "Hi!", "No.", '{"a":1}', "ls"]
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert done == items
    begun = [e["item"] for e in events if e["type"] == "response.output_item.added"]
    assert [item["id"] for item in begun] == [item["id"] for item in items]
    assert begun[1] == {**MESSAGE, "status": "in_progress", "content": []}


def test_the_head_says_nothing_of_the_end_and_the_end_says_all() -> None:
    events = streamed(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    head, end = events[0]["response"], events[-1]
    assert (head["status"], head["output"], head["usage"]) == ("in_progress", [], None)
    assert "incomplete_details" not in head
    assert end["type"] == "response.incomplete"
    assert end["response"]["usage"] == USAGE
    assert end["response"]["arbstr"] == end["arbstr"] == {"x": 1}


def test_an_answer_without_a_status_has_one_in_the_end() -> None:
    assert streamed(status=None)[-1]["response"]["status"] == "completed"


def test_what_no_client_knows_is_no_reason_to_fail() -> None:
    assert RESPONSES.as_stream(b"[]") == b""
    relay, _ = relayed(body(output=["text", {"content": [7, {"text": 7}]}, {}]), asked())
    assert relay.complete


def test_half_a_stream_of_it_is_the_answer_again() -> None:
    raw = body(output=[REASONING, MESSAGE, CALL])
    again = judge(RESPONSES.as_stream(raw))
    assert isinstance(again, Answer)
    assert json.loads(again.body) == json.loads(raw)

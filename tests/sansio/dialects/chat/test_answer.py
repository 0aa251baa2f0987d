"""answer.py: what is an answer, whatever shape it comes in."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.chat.answer import as_stream, judge
from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.dialect import Answer, BadAnswer, ErrorAnswer
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.money import Usage
from tests.cuttings import recorded
from tests.searching import examples

COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def judged(
    body: bytes, choices: int = 1, content_type: str = ""
) -> Answer | BadAnswer | ErrorAnswer:
    return judge(body, content_type=content_type, choices=choices)


def answered(body: bytes, choices: int = 1) -> Any:
    """The object of an answer."""
    answer = judged(body, choices)
    assert isinstance(answer, Answer), answer
    return json.loads(answer.body)


def plain(*choices: dict[str, Any], **more: Any) -> bytes:
    head = {"id": "c1", "object": "chat.completion", "created": 7, "model": "m0"}
    return json.dumps({**head, "choices": list(choices), **more}).encode()


def said(content: Any = "hi", reason: Any = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"index": 0, "message": message, "finish_reason": reason}


def stream(*events: object, done: bool = True) -> bytes:
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return body + (b"data: [DONE]\n\n" if done else b"")


def piece(delta: dict[str, Any], reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


# JSON

ANSWERS = {
    "text": plain(said()),
    "empty content with a finish reason": plain(said("")),
    "an empty error beside": plain(said(""), error={"message": None}),
    "text, as completions have it": b'{"choices":[{"index":0,"text":"x"}]}',
    "NaN and Infinity": b'{"choices":[{"message":{},"logprobs":[NaN,-Infinity,Infinity]}]}',
    "tool calls only": plain(said(None, "tool_calls", tool_calls=[{"id": "a"}])),
    "no finish reason": plain(said("hi", None)),
    "an error beside choices, which were paid for": plain(said(), error={"message": "x"}),
    "a byte order mark": b"\xef\xbb\xbf" + plain(said()),
    "white space around": b"\n\n  " + plain(said()) + b"\n",
}


@pytest.mark.parametrize("body", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/html", ""])
def test_choices_are_an_answer_and_pass_by_identity(body: bytes, content_type: str) -> None:
    answer = judged(body, content_type=content_type)
    assert isinstance(answer, Answer)
    assert answer.body is body


def test_usage_and_cost_of_an_answer_are_read() -> None:
    body = plain(said(), usage={**COUNTS, "cost": {"total_msats": 505}})
    assert judged(body) == Answer(body, Usage(3, 2), Decimal(505))
    assert judged(plain(said())) == Answer(plain(said()), None, None)


def test_a_done_after_json_is_dropped() -> None:
    body = plain(said())
    assert judged(body + b"\n\ndata: [DONE]\n\n") == Answer(body, None, None)


ERRORS = {
    "OpenAI's": b'{"error":{"message":"x","code":"y"}}',
    "a string": b'{"error":"x"}',
    "with empty choices": b'{"choices":[],"error":{"message":"x"}}',
    "vLLM's": b'{"object":"error","message":"x"}',
    "Routstr's": b'{"detail":{"error":{"message":"x"}}}',
    "a list": b'[{"error":{"message":"x"}}]',
    "FastAPI's": b'{"detail":"x"}',
    "DashScope's": b'{"code":"Throttling","message":"x"}',
    "a code": b'{"choices":null,"code":500,"message":"x"}',
    "beside an empty choice": plain(said(None, None), error={"code": 429}),
    "beside an empty choice with a finish reason": plain(said(""), error={"code": 429}),
    "in a choice": plain({**said(None, None), "error": {"message": "x"}}),
    "the reason error": plain(said("", "error")),
    "the reason abort": plain(said(None, "abort")),
}


@pytest.mark.parametrize("body", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_object_is_an_error(body: bytes) -> None:
    assert judged(b" " + body + b"\n") == ErrorAnswer(body)


BAD = {
    "nothing": b"",
    "white space": b" \r\n",
    "a byte order mark": b"\xef\xbb\xbf",
    "HTML": b"<!doctype html><p>x</p>",
    "text": b"Bad gateway",
    "cut JSON": plain(said())[:-1],
    "JSON and more": plain(said()) + b"{}",
    "an array": b"[" + plain(said()) + b"]",
    "a string": b'"choices"',
    "null": b"null",
    "no choices": b'{"id":"x"}',
    "null choices": b'{"choices":null}',
    "empty choices": b'{"choices":[]}',
    "choices that are no objects": b'{"choices":[null]}',
    "an object of choices": b'{"choices":{"0":{}}}',
    "a null error": b'{"error":null}',
    "words without a mark of failure": b'{"message":"x"}',
    "a state": b'{"status":"queued","message":"x"}',
    "deep nesting": b'{"choices":' + b"[" * 200_000,
    "a comment only": b": hello\n\n",
    "a stream of nothing": b"data: [DONE]\n\n",
    "a stream of usage only": stream({"choices": [], "usage": COUNTS}),
    "a stream that was cut": stream(piece({"content": "a"}), done=False),
    "a stream whose last event was cut": stream(piece({"content": "a"}, "stop"), done=False)[:-5],
    "a stream with broken JSON": b'data: {"cho\n\n' + stream(piece({"content": "a"}, "stop")),
    "an error after output": stream(piece({"content": "a"}), {"error": {"message": "x"}}),
    "the reason error after output": stream(piece({"content": "a"}), piece({}, "error")),
    "a choice without a message": b'{"choices":[{"index":0,"finish_reason":"stop"}]}',
    "a null message": b'{"choices":[{"index":0,"message":null,"finish_reason":"stop"}]}',
    "a delta for a message": b'{"choices":[{"index":0,"delta":{"content":"x"}}]}',
    "one choice of two without a message": plain(said(), {"index": 1}),
    "a part, and the reason error": plain(said("half", "error")),
    "a part, and an abort": plain(said("half", "abort")),
    "a dropped error and [DONE] alone": stream(piece({"content": "a"}), {"detail": "x"}),
    "an event that is text": b"data: oops\n\n" + stream(piece({"content": "a"}, "stop")),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_anything_else_is_bad_and_says_why_in_our_words(body: bytes) -> None:
    for content_type in ("application/json", "text/event-stream; charset=utf-8", ""):
        verdict = judged(body, content_type=content_type)
        assert isinstance(verdict, BadAnswer)
        assert verdict.sentence.startswith("answered with ")


def test_a_stream_that_is_not_complete_for_every_choice_is_bad() -> None:
    body = stream(piece({"content": "a"}, "stop"), done=False)
    assert isinstance(judged(body, 1), Answer)
    assert isinstance(judged(body, 2), BadAnswer)


@pytest.mark.parametrize("event", [b'{"error":{"message":"x"}}', b'{"error":"x","choices":[]}'])
def test_an_error_event_before_output_is_an_error(event: bytes) -> None:
    body = stream(piece({"role": "assistant"}), done=False) + b"data: " + event + b"\n\n"
    assert judged(body) == ErrorAnswer(event)
    assert judged(b"event: error\ndata: overloaded\n\n") == ErrorAnswer(b"overloaded")


# Streams put together


def test_the_text_of_a_stream_is_put_together() -> None:
    value = answered(recorded("openai.sse"))
    assert list(value) == [
        *("id", "created", "model", "service_tier", "system_fingerprint", "obfuscation"),
        *("object", "choices", "usage"),
    ]
    assert value["object"] == "chat.completion"
    assert value["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": 'Caf\u00e9  "usage":{} \U0001f680\u2028 "finish_reason":"stop" done.',
                "refusal": None,
            },
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert value["usage"]["total_tokens"] == 31
    answer = judged(recorded("openai.sse"))
    assert isinstance(answer, Answer)
    assert answer.usage == Usage(19, 12, 8, 4)


def test_tool_calls_are_put_together_by_index() -> None:
    (choice,) = answered(recorded("openai-tools.sse"))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {
            "id": "call_a",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Łódź"}'},
        },
        {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]


def test_tool_calls_that_come_out_of_order_are_ordered() -> None:
    calls = [[{"index": 1, "id": "b"}], [{"index": 0, "id": "a"}]]
    body = stream(*(piece({"tool_calls": call}) for call in calls), piece({}, "tool_calls"))
    (choice,) = answered(body)["choices"]
    assert choice["message"]["tool_calls"] == [{"id": "a"}, {"id": "b"}]


def test_a_function_call_is_put_together() -> None:
    parts = [{"name": "f", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ":1}"}]
    body = stream(*(piece({"function_call": part}) for part in parts), piece({}, "function_call"))
    (choice,) = answered(body)["choices"]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}


def test_several_choices_and_their_logprobs_are_put_together() -> None:
    first, second = answered(recorded("openai-two-choices.sse"), 2)["choices"]
    assert [first["index"], second["index"]] == [0, 1]
    assert [first["message"]["content"], second["message"]["content"]] == ["red!", "blue"]
    assert [first["finish_reason"], second["finish_reason"]] == ["stop", "length"]
    assert [token["token"] for token in first["logprobs"]["content"]] == ["red", "!"]
    assert [token["token"] for token in second["logprobs"]["content"]] == ["error"]


def test_reasoning_and_refusal_are_put_together() -> None:
    (choice,) = answered(recorded("reasoning.sse"))["choices"]
    assert choice["message"]["reasoning_content"] == "Let me think"
    assert choice["message"]["content"] == "42"
    (choice,) = answered(
        stream(piece({"refusal": "I "}), piece({"refusal": "won't"}), piece({}, "stop"))
    )["choices"]
    assert choice["message"]["refusal"] == "I won't"


def test_usage_on_every_chunk_is_the_last_one() -> None:
    value = answered(recorded("usage-on-every-chunk.sse"))
    assert value["usage"]["completion_tokens"] == 3


def test_a_routstr_stream_keeps_its_cost_and_its_first_id() -> None:
    answer = judged(recorded("routstr-whole.sse"))
    assert isinstance(answer, Answer)
    assert answer.provider_cost_msats == Decimal(505)
    assert answer.usage == Usage(100, 50)
    value = json.loads(answer.body)
    assert value["id"] == "chatcmpl-mock1"
    assert value["cost"]["total_msats"] == 505


@pytest.mark.parametrize("name", ["routstr-cut", "routstr-cut-then-zero-usage", "openrouter-error"])
def test_a_recorded_stream_that_broke_off_is_bad(name: str) -> None:
    assert isinstance(judged(recorded(name + ".sse")), BadAnswer)


def test_a_stream_is_complete_without_done_and_with_junk_in_it() -> None:
    assert answered(recorded("routstr-no-done.sse"))["choices"][0]["finish_reason"] == "stop"
    value = answered(recorded("fields.sse"))
    assert value["choices"][0]["message"]["content"] == "Caf\u00e9 "


def test_an_empty_stream_that_is_done_is_an_answer() -> None:
    (choice,) = answered(stream(piece({"role": "assistant", "content": ""})))["choices"]
    assert choice["message"]["content"] == ""
    assert choice["finish_reason"] is None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'error: {"code":400}\n\ndata: [DONE]\n\n', b'{"error":{"code":400}}'),
        (b': hi\n\n{\n"error": {"code":1}\n}\n\n', b'{\n"error": {"code":1}\n}'),
        (b"data: overloaded\n\ndata: [DONE]\n\n", b"overloaded"),
        (b"event: error\ndata: overloaded\n\n", b"overloaded"),
        (b"event: error\n\ndata: [DONE]\n\n", b""),
        (b'data: {"code":500,"message":"x"}\n\n', b'{"code":500,"message":"x"}'),
        (b": hi\n\nInternal Server Error\n\n", b"Internal Server Error"),
    ],
)
def test_a_stream_that_is_an_error_is_the_same_error_plain(body: bytes, told: bytes) -> None:
    assert judged(body) == ErrorAnswer(told)


@pytest.mark.parametrize("words", [b"Internal Server Error", b"Busy\n\n", b"\x00\x01 \x02"])
def test_a_body_of_words_alone_is_no_stream_and_no_error_object(words: bytes) -> None:
    assert isinstance(judged(words), BadAnswer)
    relay = Relay(ChatReading(choices=1, asks_usage=False))
    assert relay.feed(words) + relay.end_input() == b""
    assert relay.error is None


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_that_words_come_before_is_put_together_all_the_same(end: bytes) -> None:
    body = b"Connecting...\n\n" + stream(piece({"content": "hi"}, reason="stop"))
    (choice,) = answered(body.replace(b"\n", end))["choices"]
    assert choice["message"]["content"] == "hi"


def test_what_was_counted_and_charged_for_no_answer_is_told() -> None:
    priced = {"usage": {**COUNTS, "cost": {"total_msats": 505}}}
    bad = judged(plain(**priced))
    assert isinstance(bad, BadAnswer)
    assert (bad.usage, bad.provider_cost_msats) == (Usage(3, 2), Decimal(505))
    error = {"error": {"message": "x"}, **priced}
    events = [piece({"role": "assistant"}), {"error": {"message": "x"}}, {"choices": [], **priced}]
    for body in (json.dumps(error).encode(), stream(*events)):
        verdict = judged(body)
        assert isinstance(verdict, ErrorAnswer)
        assert (verdict.usage, verdict.provider_cost_msats) == (Usage(3, 2), Decimal(505))
        assert verdict.counted
    for part in (plain(said(), {**said("", "error"), "index": 1}, **priced), plain({}, **priced)):
        bad = judged(part)
        assert isinstance(bad, BadAnswer)
        assert (bad.usage, bad.provider_cost_msats) == (Usage(3, 2), Decimal(505))
    cut = judged(stream(piece({"content": "a"}), {"choices": [], **priced}, done=False))
    assert isinstance(cut, BadAnswer)
    assert cut.provider_cost_msats == Decimal(505)


def test_no_tokens_for_an_answer_that_says_something_are_none_that_were_counted() -> None:
    counts = {**COUNTS, "completion_tokens": 0}
    for content, usage in (("hi", None), ("", Usage(3, 0))):
        answer = judged(plain(said(content), usage=counts))
        assert isinstance(answer, Answer)
        assert answer.usage == usage


# Answers as streams


def test_a_price_is_told_once_and_an_error_beside_it_nowhere() -> None:
    body = plain(said(), usage=COUNTS, cost={"total_msats": 505}, error={"message": "x"})
    chunk, usage, done = as_stream(body).split(b"\n\n")[:-1]
    assert b"cost" not in chunk
    assert b'"cost":{"total_msats":505}' in usage
    assert b"error" not in chunk + usage
    assert done == b"data: [DONE]"


def test_the_constants_that_python_writes_survive_both_ways() -> None:
    body = b'{"choices":[{"message":{"content":"x"},"logprobs":[NaN,-Infinity,Infinity]}]}'
    events = as_stream(body)
    assert b"[NaN,-Infinity,Infinity]" in events
    verdict = judged(events)
    assert isinstance(verdict, Answer)
    assert b"[NaN,-Infinity,Infinity]" in verdict.body


def test_a_number_too_large_for_a_float_stays_a_number() -> None:
    body = b'{"choices":[{"message":{"content":"x"},"x":1e999}]}'
    assert b"1.7976931348623157e+308" in as_stream(body)


def test_an_error_beside_an_answer_does_not_end_its_stream() -> None:
    (chunk,) = relayed(plain(said(), error={"message": "x"}))
    assert "error" not in chunk
    assert chunk["choices"][0]["delta"]["content"] == "hi"


def relayed(body: bytes, *, asks_usage: bool = False, choices: int = 1) -> list[Any]:
    """What a client reads when an answer goes through a relay as a stream."""
    relay = Relay(ChatReading(choices=choices, asks_usage=asks_usage))
    out = relay.feed(as_stream(body))
    assert relay.complete
    out += relay.finish(b'{"request_id":"r"}')
    events = [event.removeprefix(b"data: ") for event in out.split(b"\n\n") if event]
    return [json.loads(event) for event in events[: events.index(b"[DONE]")]]


def test_an_answer_becomes_one_chunk() -> None:
    (chunk,) = relayed(plain(said(), usage=COUNTS, system_fingerprint="f"))
    assert chunk == {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m0",
        "system_fingerprint": "f",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        ],
    }


def test_usage_becomes_a_chunk_of_its_own_for_a_client_that_asked() -> None:
    chunk, usage = relayed(plain(said(), usage=COUNTS), asks_usage=True)
    assert "usage" not in chunk
    assert usage["choices"] == []
    assert usage["usage"] == COUNTS
    assert usage["arbstr"] == {"request_id": "r"}


def test_tool_calls_get_an_index_and_nulls_go() -> None:
    calls = [{"id": "a", "type": "function"}, {"id": "b", "type": "function"}]
    (chunk,) = relayed(plain(said(None, "tool_calls", tool_calls=calls, refusal=None)))
    assert chunk["choices"][0]["delta"] == {
        "role": "assistant",
        "tool_calls": [{"index": 0, **calls[0]}, {"index": 1, **calls[1]}],
    }


def test_an_answer_is_whole_even_without_its_finish_reasons() -> None:
    (chunk,) = relayed(plain(said("hi", None)), choices=2)
    assert chunk["choices"][0]["finish_reason"] is None


def test_the_cost_of_an_answer_is_still_read_from_its_stream() -> None:
    for usage in (COUNTS, None):
        relay = Relay(ChatReading(choices=1, asks_usage=False))
        relay.feed(as_stream(plain(said(), usage=usage, cost={"total_msats": 5})))
        assert relay.provider_cost_msats == Decimal(5)


@pytest.mark.parametrize("body", [b"", b"[]", b"<p>"])
def test_what_is_no_answer_is_no_stream(body: bytes) -> None:
    assert as_stream(body) == b""


def test_an_answer_survives_both_ways() -> None:
    body = plain(said("h\u00e9 \U0001f680", tool_calls=[{"id": "a"}]), usage=COUNTS)
    assert answered(as_stream(body)) == json.loads(body)


# Anything at all

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "tool_calls", "index", "arguments", "usage", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
CHOICES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": VALUES,
            "delta": VALUES,
            "message": VALUES,
            "finish_reason": st.sampled_from(["stop", None]) | VALUES,
            "logprobs": VALUES,
        },
    )
    | VALUES,
    max_size=3,
)
OBJECTS = st.fixed_dictionaries(
    {"choices": CHOICES},
    optional={"id": VALUES, "usage": VALUES, "error": VALUES, "object": VALUES},
)


@examples(40)
@given(st.lists(OBJECTS, max_size=4), st.booleans(), st.integers(1, 3))
def test_no_stream_makes_the_judge_raise(events: list[Any], done: bool, choices: int) -> None:
    verdict = judged(stream(*events, done=done), choices)
    if isinstance(verdict, Answer):
        again = judged(verdict.body)
        assert isinstance(again, Answer)
        assert as_stream(verdict.body)


@examples(75)
@given(OBJECTS.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_no_body_makes_the_judge_raise(body: bytes) -> None:
    verdict = judged(body)
    if isinstance(verdict, Answer):
        relay = Relay(ChatReading(choices=1, asks_usage=True))
        relay.feed(as_stream(verdict.body))
        assert relay.complete or relay.error

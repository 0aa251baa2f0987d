"""relay.py: streams that do not lie."""

import itertools
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects import relay as relay_module
from arbstr.sansio.dialects.chat.ending import DONE, KEEP_ALIVE
from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.relay import MAX_HELD_BYTES, Relay
from arbstr.sansio.dialects.sse import MAX_EVENT_BYTES, SSEReader
from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.money import Usage
from tests.cuttings import (
    DRESSES,
    GOLDEN_TEXT,
    LASTS,
    byte_by_byte,
    cut_in_two,
    cuttings,
    dressed,
    in_steps,
    recorded,
)
from tests.searching import examples

ARBSTR = b'{"request_id":"r1","provider":"alpha","model":"m1","cost_sats":0.5}'
CUT = ErrorReply("stream_interrupted", "The provider alpha stopped in the middle.")
CUT_EVENT = (
    b'data: {"error":{"message":"The provider alpha stopped in the middle.",'
    b'"type":"upstream_error","param":null,"code":"stream_interrupted"}}\n\n'
)


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m0"}
    return event({**head, "choices": list(choices), **more})


def delta(content: str = "", reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": {"content": content}, "finish_reason": reason}


ROLE = chunk({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
HELLO = chunk(delta("hello"))
WORLD = chunk(delta(" world"))
STOP = chunk(delta(reason="stop"))
COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
USAGE = chunk(usage=COUNTS)
ERROR = event({"error": {"message": "boom", "code": 502}})
TRAILER = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":7,"model":"m0","choices":[],'
    b'"arbstr":' + ARBSTR + b"}\n\n"
)


def new(choices: int = 1, *, asks_usage: bool = False) -> Relay:
    return Relay(ChatReading(choices=choices, asks_usage=asks_usage))


def fed(relay: Relay, *pieces: bytes) -> bytes:
    return b"".join(relay.feed(piece) for piece in pieces)


def through(
    pieces: list[bytes], choices: int = 1, *, asks_usage: bool = False
) -> tuple[object, ...]:
    """A whole stream with its end: the client's bytes, and what the relay learnt."""
    relay = new(choices, asks_usage=asks_usage)
    out = fed(relay, *pieces) + relay.end_input()
    out += relay.finish(ARBSTR) if relay.complete else relay.interrupt(CUT)
    learnt = (relay.committed, relay.complete, relay.done, relay.error, relay.missing)
    return out, learnt, relay.events, relay.usage, relay.provider_cost_msats, relay.not_sse


def client_text(out: bytes) -> tuple[str, list[str]]:
    """What a client makes of the bytes: the text of choice 0, and the finish reasons."""
    text, reasons = "", []
    for seen in SSEReader().feed(out):
        if seen.data is None or seen.data == b"[DONE]":
            break
        for choice in json.loads(seen.data)["choices"]:
            text += choice["delta"].get("content") or ""
            reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, reasons


# The good case


def test_a_complete_answer_goes_out_with_one_done_and_the_trailer() -> None:
    relay = new()
    out = fed(relay, ROLE + HELLO + WORLD + STOP + USAGE + DONE)
    assert out == ROLE + HELLO + WORLD + STOP
    assert relay.complete
    assert relay.done
    assert relay.finish(ARBSTR) == DONE + TRAILER
    assert relay.usage == Usage(3, 2)


def test_a_client_that_asked_gets_the_usage_chunk_with_the_arbstr_object_in_it() -> None:
    relay = new(asks_usage=True)
    assert fed(relay, HELLO, STOP, USAGE, DONE) == HELLO + STOP
    with_arbstr = USAGE.removesuffix(b"}\n\n") + b',"arbstr":' + ARBSTR + b"}\n\n"
    assert relay.finish(ARBSTR) == with_arbstr + DONE + TRAILER


def test_a_client_that_asked_gets_no_invented_usage_chunk() -> None:
    relay = new(asks_usage=True)
    fed(relay, HELLO, STOP, DONE)
    assert relay.finish(ARBSTR) == DONE + TRAILER


def test_a_usage_chunk_in_several_lines_becomes_one_line() -> None:
    relay = new(asks_usage=True)
    counts = json.dumps(COUNTS).encode()
    several = b'data: {"choices":[],\r\ndata: "usage":' + counts + b"}\r\nid: 1\r\n\r\n"
    assert fed(relay, HELLO, STOP, several) == HELLO + STOP
    one = b'data: {"choices":[], "usage":' + counts + b',"arbstr":' + ARBSTR + b"}\n\n"
    assert relay.finish(ARBSTR) == one + DONE + TRAILER


def test_of_several_usage_chunks_the_last_that_counts_is_kept() -> None:
    relay = new(asks_usage=True)
    last = {**COUNTS, "completion_tokens": 9}
    zeros = {"prompt_tokens": 0, "completion_tokens": 0}
    fed(relay, HELLO, STOP, *(chunk(usage=usage) for usage in (zeros, COUNTS, last, zeros)), DONE)
    out = relay.finish(ARBSTR)
    assert out.count(b'"usage"') == 1
    assert b'"completion_tokens": 9' in out
    assert relay.usage == Usage(3, 9)


def test_the_trailer_has_defaults_for_a_stream_that_names_nothing() -> None:
    relay = new()
    fed(relay, event({"choices": [delta("a", "stop")]}))
    (_, trailer) = SSEReader().feed(relay.finish(ARBSTR))
    assert json.loads(trailer.data or b"") == {
        "id": "chatcmpl-r1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m1",
        "choices": [],
        "arbstr": json.loads(ARBSTR),
    }


def test_the_trailer_takes_the_first_id_model_and_time_that_are_not_empty() -> None:
    relay = new()
    fed(relay, recorded("azure.sse"))
    (_, trailer) = SSEReader().feed(relay.finish(ARBSTR))
    value = json.loads(trailer.data or b"")
    assert (value["id"], value["created"]) == ("chatcmpl-A1", 1764000000)
    assert value["model"] == "gpt-4o-2024-08-06"


# Identity


@pytest.mark.parametrize(
    "data",
    [
        HELLO,
        HELLO + WORLD,
        HELLO.replace(b": ", b":") + WORLD.replace(b": ", b":"),
        HELLO.replace(b"\n", b"\r\n"),
        HELLO.replace(b"\n", b"\r"),
        b"event: message\n" + HELLO,
        STOP,
        chunk(prompt_filter_results=[]),
        chunk(delta("a"), usage=COUNTS),
        HELLO.replace(b'"choices": [', b'"choices" :\t[') + WORLD,
    ],
)
def test_what_needs_no_change_is_the_same_object(data: bytes) -> None:
    relay = new()
    assert relay.feed(HELLO) is HELLO
    assert relay.feed(data) is data


def test_calm_chunks_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = new()
    relay.feed(HELLO)
    monkeypatch.setattr(SSEReader, "events", None)
    data = WORLD * 5
    assert relay.feed(data) is data
    assert relay.feed(data[:70]) == b""
    assert relay.feed(data[70:]) == data
    assert relay.events == 11


# The commit point


def test_nothing_goes_out_before_output_and_then_everything_in_order() -> None:
    relay = new()
    azure = chunk(prompt_filter_results=[])
    assert fed(relay, b": processing\n\n", azure, ROLE) == b""
    assert not relay.committed
    assert relay.feed(HELLO) == azure + ROLE + HELLO
    assert relay.committed


def test_a_finish_reason_is_output() -> None:
    relay = new()
    assert fed(relay, ROLE, STOP) == ROLE + STOP
    assert relay.complete


def test_done_after_a_choice_without_output_is_a_complete_and_empty_answer() -> None:
    relay = new()
    assert fed(relay, ROLE, DONE) == ROLE
    assert relay.committed
    assert relay.complete
    assert relay.finish(ARBSTR) == DONE + TRAILER


def test_an_error_is_a_sign_of_life_and_done_after_it_is_the_end() -> None:
    relay = new()
    assert fed(relay, ERROR) == b""
    assert (relay.events, relay.done) == (1, False)
    assert fed(relay, DONE) == b""
    assert (relay.events, relay.done, relay.complete) == (2, True, False)


def test_a_choice_that_failed_keeps_the_others_end_from_making_the_answer_whole() -> None:
    relay = new()
    failed = {"index": 1, "delta": {}, "finish_reason": "error"}
    both = chunk(delta("hello", "stop"), failed)
    assert fed(relay, both) == both
    assert relay.error is not None
    assert not relay.complete
    assert relay.interrupt(CUT) == CUT_EVENT


def test_a_choice_nobody_asked_for_ends_nothing() -> None:
    relay = new()
    fed(relay, HELLO, chunk(delta(reason="stop", index=1)))
    assert not relay.complete
    fed(relay, STOP)
    assert relay.complete


def test_a_part_that_is_lost_stays_lost() -> None:
    relay = new()
    fed(relay, HELLO, b"data: {broken\n\n", event({"note": "x"}), STOP, DONE)
    assert relay.missing
    assert not relay.complete


def test_an_event_that_the_end_cut_is_no_lost_part() -> None:
    relay = new()
    fed(relay, HELLO, WORLD[:40])
    relay.end_input()
    assert (relay.missing, relay.complete) == (False, False)


def test_a_count_beside_output_stands_if_only_empty_chunks_follow() -> None:
    relay = new()
    fed(relay, chunk(delta("hello"), usage=COUNTS), chunk(delta()), STOP, DONE)
    assert relay.usage == Usage(3, 2)


def test_what_is_counted_after_a_cut_replaces_what_was_counted_before() -> None:
    relay = new()
    fed(relay, HELLO, USAGE)
    relay.interrupt(CUT)
    fed(relay, WORLD, chunk(usage={**COUNTS, "completion_tokens": 9}))
    assert relay.usage == Usage(3, 9)


def test_what_is_held_before_output_is_bounded() -> None:
    relay = new()
    empty = chunk(delta(), padding="x" * 1_000_000)
    for _ in range(40):
        assert relay.feed(empty) == b""
        assert len(relay.held) <= MAX_HELD_BYTES + len(empty)
    assert relay.overflow
    assert not relay.held
    assert relay.interrupt(CUT) == CUT_EVENT


# What is dropped, and what is not


DROPPED = {
    "a comment": b": ping\n\n",
    "retry": b"retry: 3000\n\n",
    "id": b"id: 5\n\n",
    "a name": b"event: ping\n\n",
    "empty data": b"data:\n\n",
    "a ping": b"data: ping\n\n",
    "an empty object": b"data: {}\n\n",
    "a named object": b"event: ping\ndata: {}\n\n",
    "null choices": b'data: {"choices":null}\n\n',
    "the usage chunk": USAGE,
    "usage without choices": event({"usage": COUNTS}),
}


@pytest.mark.parametrize("data", DROPPED.values(), ids=DROPPED.keys())
def test_is_dropped(data: bytes) -> None:
    for before in (b"", HELLO):
        relay = new()
        assert fed(relay, before, data, WORLD) == before + WORLD


def test_an_event_loses_its_bad_lines_only() -> None:
    relay = new()
    event_line = b"event: message\r\n"
    assert relay.feed(b"id: 1\r\n" + event_line + HELLO[:-1] + b"retry: 1\r\n\n") == (
        event_line + HELLO
    )


def test_the_fields_of_a_stream_that_has_everything() -> None:
    out, learnt, events, usage, *_ = through([recorded("fields.sse")])
    kept = recorded("openai.sse").split(b"\n\n")
    expected = b"".join(kept[at] + b"\n\n" for at in (0, 1, 2, 7))
    assert isinstance(out, bytes)
    assert out.replace(b"event: message\n", b"").startswith(expected + DONE)
    assert learnt == (True, True, True, None, False)
    assert events == 6
    assert usage == Usage(19, 12, 8, 4)


def test_comments_and_pings_are_no_sign_of_life() -> None:
    relay = new()
    fed(relay, b": ping\n\n", b"data: ping\n\n", b"data: {}\n\n", b"id: 1\n\n")
    assert relay.events == 0
    fed(relay, ROLE, HELLO, WORLD, STOP, USAGE, DONE)
    assert relay.events == 6


def test_usage_in_the_finish_chunk_is_left_alone() -> None:
    data = recorded("usage-in-finish-chunk.sse")
    for asks in (False, True):
        relay = new(asks_usage=asks)
        assert relay.feed(data) == data.removesuffix(DONE)
        assert relay.usage == Usage(11, 3)
        assert b"usage" not in relay.finish(ARBSTR)


# Endings


@pytest.mark.parametrize(
    "end",
    [b"", b'data: {"choices":[{"index":0,"del', USAGE, ERROR, b"data: [DON"],
    ids=["nothing", "half an event", "usage", "an error event", "half of [DONE]"],
)
def test_a_cut_stream_ends_with_the_error_event(end: bytes) -> None:
    relay = new()
    assert fed(relay, HELLO, end) + relay.end_input() == HELLO
    assert not relay.complete
    assert relay.interrupt(CUT) == CUT_EVENT


def test_a_zero_usage_trailer_after_a_cut_proves_nothing() -> None:
    out, learnt, _, usage, cost, _ = through([recorded("routstr-cut-then-zero-usage.sse")])
    assert isinstance(out, bytes)
    assert out == recorded("routstr-cut.sse") + CUT_EVENT
    assert learnt == (True, False, False, None, False)
    assert usage is None
    assert cost == Decimal(0)


def test_an_error_event_in_the_middle_is_told_and_nothing_follows() -> None:
    relay = new()
    out = fed(relay, recorded("routstr-error-event.sse"), HELLO, STOP, DONE)
    assert out == recorded("routstr-cut.sse")
    assert json.loads(relay.error or b"")["error"]["message"] == "provider exploded"
    assert relay.provider_cost_msats == Decimal(0)
    assert not relay.complete
    assert relay.interrupt(CUT) == CUT_EVENT


@pytest.mark.parametrize(
    "error",
    [
        ERROR,
        b"event: error\ndata: overloaded\n\n",
        b"event: error\n" + HELLO,
        event({"object": "error", "message": "x"}),
        chunk(delta(reason="error")),
    ],
)
def test_an_error_before_output_is_an_answer_to_fail_over_from(error: bytes) -> None:
    relay = new()
    assert fed(relay, ROLE, error, HELLO, STOP, DONE) == b""
    assert not relay.committed
    assert not relay.complete
    assert relay.error is not None
    assert error.endswith(b"data: " + relay.error + b"\n\n")


def test_a_finish_reason_error_is_not_complete_even_with_done() -> None:
    relay = new()
    data = recorded("openrouter-error.sse")
    out = relay.feed(data)
    assert out.count(b"data:") == 1
    assert not relay.complete
    assert relay.done
    assert relay.error is not None


def test_no_done_is_no_failure_after_a_finish_reason() -> None:
    relay = new()
    fed(relay, HELLO, STOP)
    assert relay.complete
    assert not relay.done
    assert relay.finish(ARBSTR) == DONE + TRAILER


def test_done_before_any_choice_is_not_completion() -> None:
    relay = new()
    assert fed(relay, USAGE, chunk(prompt_filter_results=[]), DONE) + relay.end_input() == b""
    assert not relay.complete
    assert not relay.done


def test_every_choice_that_was_asked_for_must_finish() -> None:
    relay = new(choices=2)
    fed(relay, chunk(delta("a")), chunk(delta("b", index=1)), STOP)
    assert not relay.complete
    fed(relay, STOP, chunk(delta(reason="stop", index=7)))
    assert not relay.complete
    fed(relay, chunk(delta(reason="length", index=1)))
    assert relay.complete


def test_done_is_enough_for_choices_that_do_not_finish() -> None:
    relay = new(choices=2)
    fed(relay, HELLO, STOP, DONE)
    assert relay.complete


@pytest.mark.parametrize(
    "late",
    [
        ERROR,
        b"event: error\ndata: x\n\n",
        chunk(delta(reason="error")),
        b"data: {",
        b"data: [done]\n\n",
    ],
)
def test_nothing_matters_once_the_answer_is_complete(late: bytes) -> None:
    relay = new()
    fed(relay, HELLO, STOP)
    assert fed(relay, late) + relay.end_input() == b""
    assert relay.complete
    assert relay.error is None
    assert relay.finish(ARBSTR) == DONE + TRAILER


@pytest.mark.parametrize(
    "lost", [b'data: {"x\n\n', b'data: {"choices":[{]}\n\n', b"data: more\n\n"]
)
def test_what_is_no_json_after_a_finish_reason_may_have_been_more_of_the_answer(
    lost: bytes,
) -> None:
    relay = new()
    fed(relay, HELLO, STOP)
    assert fed(relay, lost) == b""
    assert not relay.complete
    assert fed(relay, USAGE, DONE) == b""
    assert relay.usage == Usage(3, 2)
    assert relay.finished


def test_what_is_no_json_after_the_last_event_changes_nothing() -> None:
    relay = new()
    fed(relay, HELLO, STOP, DONE, b'data: {"x\n\n')
    assert relay.complete


def test_usage_and_chunks_are_read_until_done_and_nothing_after() -> None:
    relay = new()
    assert fed(relay, HELLO, STOP, WORLD, USAGE) == HELLO + STOP + WORLD
    assert relay.usage == Usage(3, 2)
    late = chunk(usage={**COUNTS, "completion_tokens": 99})
    assert fed(relay, DONE + HELLO, HELLO, late, DONE) + relay.end_input() == b""
    assert relay.usage == Usage(3, 2)
    assert relay.provider_cost_msats is None


def test_what_is_missing_is_taken_after_done_and_after_the_close_too() -> None:
    priced = chunk(usage={**COUNTS, "cost": {"total_msats": 505}})
    for before in (HELLO + STOP + DONE, HELLO + STOP):
        relay = new()
        relay.feed(before)
        relay.finish(b'{"request_id":"r"}')
        assert fed(relay, priced, HELLO, DONE) + relay.end_input() == b""
        assert (relay.usage, relay.provider_cost_msats) == (Usage(3, 2), Decimal(505))
        with pytest.raises(LocalProtocolError):
            relay.finish(b"{}")


def test_an_event_glued_to_one_that_was_cut_does_not_go_out() -> None:
    for late in (WORLD, STOP, ERROR, DONE):
        relay = new()
        assert fed(relay, HELLO, WORLD[:150] + late) == HELLO
        assert relay.missing


def test_text_about_data_is_only_text() -> None:
    relay = new()
    about = chunk(delta("data: {x} }data: {"))
    assert fed(relay, HELLO) == HELLO
    assert relay.feed(about + WORLD) == about + WORLD
    assert relay.feed(about) is about


BROKEN = {
    "cut in a text": b'{"choices":[{"index":0,"delta":{"content":"lo',
    "cut behind a brace": b'{"choices":[{"index":0,"delta":{"content":"lo"}',
    "text": b"Internal Server Error",
    "a list": b'[{"choices":',
    "glued": b'{"id":"c1","cho{"choices":[{"index":0,"delta":{"content":"x"}}]}',
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_an_event_that_is_no_json_is_dropped_and_a_part_is_missing(broken: bytes) -> None:
    data = HELLO + b"data: " + broken + b"\n\n" + WORLD + STOP + USAGE + DONE
    for pieces in ([data], byte_by_byte(data), *cut_in_two(data, step=7)):
        relay = new()
        assert fed(relay, *pieces) == HELLO + WORLD + STOP
        assert relay.missing
        assert relay.finished
        assert relay.done
        assert not relay.complete
        assert relay.usage == Usage(3, 2)
        assert relay.interrupt(CUT) == CUT_EVENT


def test_an_event_that_is_no_json_before_output_is_dropped_as_well() -> None:
    relay = new()
    assert fed(relay, ROLE, b'data: {"choices":[\n\n', HELLO, STOP, DONE) == ROLE + HELLO + STOP
    assert relay.missing
    assert not relay.complete


STRAY_ERROR = {
    "a field": b'error: {"code":500,"message":"out of memory"}\n\n',
    "a body": b'{\n  "error": {\n    "code": 429\n  }\n}\n\n',
    "a body, CRLF": b'{\r\n  "error": {\r\n    "code": 429\r\n  }\r\n}\r\n\r\n',
    "FastAPI's": event({"detail": {"error": {"message": "x"}}}),
    "in a choice": chunk({"index": 0, "delta": {}, "error": {"message": "x"}}),
    "abort": chunk(delta(reason="abort")),
    "a list": event([{"error": {"message": "x"}}]),
}


@pytest.mark.parametrize("stray", STRAY_ERROR.values(), ids=STRAY_ERROR.keys())
def test_an_error_in_any_dialect_ends_the_attempt(stray: bytes) -> None:
    for before, out in ((b": hi\n\n" + ROLE, b""), (HELLO, HELLO)):
        data = before + stray + WORLD + USAGE + DONE
        told = set()
        for pieces in ([data], byte_by_byte(data), *cut_in_two(data, step=5)):
            relay = new()
            assert fed(relay, *pieces) == out
            assert relay.error is not None
            assert not relay.complete
            assert relay.done
            assert relay.usage == Usage(3, 2)
            told.add((relay.error, relay.events))
        assert len(told) == 1


def test_text_for_people_before_output_is_the_error_if_nothing_follows() -> None:
    said = b"data: the model is loading\n\n"
    for end in (DONE, b""):
        relay = new()
        assert fed(relay, ROLE, said, end) + relay.end_input() == b""
        assert relay.error == b"the model is loading"
        assert not relay.complete
    relay = new()
    assert fed(relay, ROLE, said) == b""
    relay.broke()
    assert relay.error == b"the model is loading"
    relay = new()
    assert fed(relay, said, HELLO, STOP, DONE) + relay.end_input() == HELLO + STOP
    assert relay.error is None
    assert relay.missing


@pytest.mark.parametrize("choices", [{}, {"choices": None}, {"choices": []}])
@pytest.mark.parametrize("words", [{"detail": "x"}, {"code": 500, "message": "x"}])
def test_words_of_a_failure_are_no_usage_chunk_whatever_they_count(
    choices: dict[str, Any], words: dict[str, Any]
) -> None:
    data = event({**choices, **words, "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    relay = new()
    assert fed(relay, HELLO, data, DONE) == HELLO
    assert (relay.complete, relay.usage) == (False, Usage(3, 2))
    relay = new()
    assert fed(relay, ROLE, data, DONE) == b""
    assert (relay.error is None, relay.complete) == (False, False)


DOUBTS = [
    event({"detail": "x"}),
    event({"code": 500, "message": "x"}),
    event({"code": 500, "message": "x", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}),
    event("out of memory"),
    b"oops\n\n",
    b"error: null\n\n",
    chunk(delta("x"), error={"message": "x"}),
]


@pytest.mark.parametrize("dropped", DOUBTS)
def test_done_alone_proves_nothing_once_something_was_dropped(dropped: bytes) -> None:
    data = HELLO + dropped + DONE
    for pieces in ([data], byte_by_byte(data)):
        relay = new()
        fed(relay, *pieces)
        assert relay.done
        assert not relay.complete
    relay = new()
    fed(relay, HELLO, dropped, STOP, DONE)
    assert relay.complete


@pytest.mark.parametrize(
    "dropped",
    [
        b": hi\n\n",
        b"id: 1\n\n",
        b"event: ping\ndata: {}\n\n",
        b"data: ping\n\n",
        USAGE,
        b'event: ping\ndata: {"time":1}\n\n',
        event({"usage": COUNTS}),
        b"event: cost\n" + event({"cost": {"total_msats": 5}}),
    ],
)
def test_done_is_enough_if_only_signs_of_life_and_prices_were_dropped(dropped: bytes) -> None:
    relay = new()
    fed(relay, HELLO, dropped, DONE)
    assert relay.complete


def test_a_price_after_output_is_read() -> None:
    for event_ in (
        chunk(cost={"total_msats": 7}),
        b"event: cost\n" + event({"cost": {"total_msats": 7}}),
        chunk(delta("x"), cost={"total_msats": 7}),
    ):
        relay = new()
        fed(relay, HELLO, event_, WORLD, STOP, DONE)
        assert relay.provider_cost_msats == Decimal(7)


@pytest.mark.parametrize("choices", [{"choices": None}, {}])
def test_a_usage_chunk_without_choices_reaches_a_client_that_asked(choices: dict[str, Any]) -> None:
    data = event({"id": "c1", **choices, "usage": COUNTS})
    relay = new(asks_usage=True)
    assert fed(relay, HELLO, STOP, data, DONE) == HELLO + STOP
    first, *rest = SSEReader().feed(relay.finish(ARBSTR))
    value = json.loads(first.data or b"")
    assert (value["choices"], value["usage"], value["id"]) == ([], COUNTS, "c1")
    assert (value["object"], value["arbstr"]) == ("chat.completion.chunk", json.loads(ARBSTR))
    assert b"usage" not in b"".join(event.data or b"" for event in rest)
    relay = new()
    assert b"usage" not in fed(relay, HELLO, STOP, data, DONE) + relay.finish(ARBSTR)


def test_output_after_the_finish_reason_is_relayed_and_counted() -> None:
    data = HELLO + STOP + WORLD + ROLE + WORLD
    for pieces in ([data], byte_by_byte(data)):
        relay = new()
        assert fed(relay, *pieces) == data
        assert relay.after_finish == 2
        assert relay.complete


def test_what_went_on_is_whole_if_it_ends_but_not_if_it_breaks() -> None:
    relay = new()
    fed(relay, HELLO, STOP, WORLD)
    assert relay.end_input() == b""
    assert relay.complete
    relay.broke()
    assert not relay.complete
    for more in (STOP, DONE):
        relay = new()
        fed(relay, HELLO, STOP, WORLD, more)
        relay.broke()
        assert relay.complete
    relay = new()
    fed(relay, HELLO, STOP, WORLD, ERROR)
    assert relay.error is not None
    assert not relay.complete


def test_a_finish_reason_after_thinking_alone_need_not_be_the_end() -> None:
    thought = chunk({"index": 0, "delta": {"reasoning_content": "hm"}})
    relay = new()
    fed(relay, thought, thought + thought, STOP)
    assert relay.complete
    assert not relay.ending
    fed(relay, WORLD)
    assert relay.ending
    for said in ((thought, HELLO, STOP), (ROLE, STOP), (thought, chunk(delta(reason="length")))):
        relay = new()
        fed(relay, *said)
        assert relay.ending


def test_interim_counts_are_no_usage_however_the_text_goes_on() -> None:
    early = chunk({"index": 0, "delta": {"role": "assistant"}}, usage=COUNTS)
    for data in (early + HELLO + WORLD + STOP, early + HELLO + WORLD * 3 + STOP + DONE):
        for pieces in ([data], byte_by_byte(data), *cut_in_two(data, step=9)):
            relay = new()
            fed(relay, *pieces)
            assert relay.complete
            assert relay.usage is None
            assert relay.tally.counted


def test_constants_that_python_writes_pass_wherever_they_stand() -> None:
    odd = chunk({**delta("x"), "logprobs": [float("-inf"), float("nan")]})
    for events in (
        [odd, WORLD, STOP],
        [HELLO, odd, STOP],
        [HELLO, odd.replace(b"null", b'"stop"')],
    ):
        relay = new()
        assert fed(relay, *events) == b"".join(events)
        assert relay.complete


@pytest.mark.parametrize("tail", [b"\n\n", b"\n", b""])
def test_a_last_event_without_its_blank_line_counts_if_it_parses(tail: bytes) -> None:
    relay = new()
    out = fed(relay, HELLO, STOP.rstrip(b"\n") + tail) + relay.end_input()
    assert out == HELLO + STOP
    assert relay.complete


def test_a_last_done_without_its_blank_line_counts() -> None:
    relay = new()
    assert fed(relay, HELLO, b"data: [DONE]") + relay.end_input() == HELLO
    assert relay.done


def test_a_calm_last_event_that_was_cut_does_not_go_out() -> None:
    relay = new()
    assert relay.feed(HELLO) is HELLO
    # Ends with a brace and has choices: only parsing shows that one brace is missing.
    assert relay.feed(b'data: {"choices":[],"x":{}') + relay.end_input() == b""


def test_the_error_event_survives_text_that_utf_8_cannot_carry() -> None:
    relay = new()
    reply = ErrorReply("client_error", "x", status=400, passthrough={"message": "\ud800 é"})
    assert relay.interrupt(reply) == b'data: {"error":{"message":"\\ud800 \\u00e9"}}\n\n'


# After the end, and wrong use


def test_after_the_end_nothing_goes_out() -> None:
    finished, cut = new(), new()
    fed(finished, HELLO, STOP)
    finished.finish(ARBSTR)
    fed(cut, HELLO)
    cut.interrupt(CUT)
    for relay in (finished, cut):
        assert fed(relay, HELLO, DONE) + relay.end_input() + relay.interrupt(CUT) == b""
        with pytest.raises(LocalProtocolError):
            relay.finish(ARBSTR)


def test_only_a_complete_answer_is_finished_and_only_another_is_interrupted() -> None:
    relay = new()
    fed(relay, HELLO)
    with pytest.raises(LocalProtocolError):
        relay.finish(ARBSTR)
    fed(relay, STOP)
    with pytest.raises(LocalProtocolError):
        relay.interrupt(CUT)
    with pytest.raises(LocalProtocolError):
        relay.finish(b"not an object")


# What is no stream, and what is too large


@pytest.mark.parametrize("body", [b'{"choices":[]}', b"\n <html>\n\n</html>", b"\xef\xbb\xbf[1]"])
def test_json_and_html_are_kept_to_be_judged(body: bytes) -> None:
    for pieces in [[body], byte_by_byte(body)]:
        relay = new()
        assert fed(relay, *pieces) + relay.end_input() == b""
        assert relay.not_sse
        assert relay.held == body.removeprefix(b"\xef\xbb\xbf").lstrip()
        assert not relay.complete


def test_a_body_that_is_no_stream_is_bounded() -> None:
    relay = Relay(ChatReading(choices=1, asks_usage=False), max_body_bytes=1000)
    fed(relay, b"{" + b"x" * 999)
    assert not relay.overflow
    relay.feed(b"x")
    assert relay.overflow
    assert relay.held == b""


@pytest.mark.parametrize("step", [1 << 16, 1 << 30])
def test_an_event_that_is_too_large_ends_the_stream(step: int) -> None:
    huge = chunk(delta("x" * MAX_EVENT_BYTES))
    relay = new()
    assert fed(relay, *in_steps(HELLO + huge + WORLD + STOP + DONE, step)) == HELLO
    assert relay.overflow
    assert not relay.complete
    assert not relay.done
    assert relay.interrupt(CUT) == CUT_EVENT


@pytest.mark.parametrize("step", [1 << 16, 1 << 30])
def test_an_event_that_is_too_large_after_a_complete_answer_ends_it_well(step: int) -> None:
    relay = new()
    stream = HELLO + STOP + chunk(delta("x" * MAX_EVENT_BYTES)) + WORLD
    assert fed(relay, *in_steps(stream, step)) == HELLO + STOP
    assert relay.done
    assert not relay.overflow
    assert relay.finish(ARBSTR) == DONE + TRAILER


def test_eight_megabytes_in_one_event_in_pieces_of_a_kilobyte_pass_unchanged() -> None:
    huge = chunk(delta("x" * 8_000_000))
    stream = HELLO + huge + STOP + USAGE + DONE
    relay = new()
    assert fed(relay, *in_steps(stream, 1000)) == HELLO + huge + STOP
    assert relay.usage == Usage(3, 2)


def test_many_events_in_one_piece_are_not_limited_by_the_size_of_one() -> None:
    data = chunk(delta("x" * 100_000)) * 200
    assert len(data) > MAX_EVENT_BYTES
    relay = new()
    assert fed(relay, HELLO) == HELLO
    assert relay.feed(data) is data


# The same answer for another client


@pytest.mark.parametrize(
    "usage", [USAGE, USAGE.replace(b', "choices": []', b',\ndata: "choices": []')]
)
def test_what_did_not_go_on_makes_the_answer_whole_for_whoever_asks_otherwise(usage: bytes) -> None:
    relay, other = new(), new(asks_usage=True)
    out = fed(relay, ROLE + HELLO, STOP + usage)
    assert fed(other, out, relay.rest()) == out
    ending = other.finish(ARBSTR)
    assert (other.done, other.usage) == (True, Usage(3, 2))
    assert (b"usage" in ending, b"usage" in relay.finish(ARBSTR)) == (True, False)
    assert fed(new(), out, relay.rest()) == out  # as often as it is asked for


# Every cutting


STREAMS = [
    *("routstr-whole", "routstr-cut", "routstr-cut-then-zero-usage", "routstr-error-event"),
    *("routstr-no-done", "routstr-no-usage", "routstr-usage-moved-to-trailer"),
    *("openai", "openai-tools", "openai-two-choices", "azure", "groq", "reasoning", "fields"),
    *("usage-on-every-chunk", "usage-in-finish-chunk", "openrouter-error"),
]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("asks_usage", [False, True])
def test_the_cutting_of_a_known_stream_never_matters(name: str, asks_usage: bool) -> None:
    data = recorded(name + ".sse")
    n = 2 if "two" in name else 1
    whole = through([data], n, asks_usage=asks_usage)
    assert through(byte_by_byte(data), n, asks_usage=asks_usage) == whole
    for pieces in cut_in_two(data, step=7):  # the golden stream below is cut at every byte
        assert through(pieces, n, asks_usage=asks_usage) == whole


LEARNT = {
    # name: (complete, done, usage, cost in msats)
    "routstr-whole": (True, True, Usage(100, 50), 505),
    "routstr-cut": (False, False, None, None),
    "routstr-cut-then-zero-usage": (False, False, None, 0),
    "routstr-error-event": (False, False, None, 0),
    "routstr-no-done": (True, False, Usage(100, 50), 505),
    "routstr-no-usage": (True, True, None, 0),
    "routstr-odd-chunks": (True, True, Usage(100, 50), 505),
    "routstr-usage-moved-to-trailer": (True, True, Usage(100, 50), 505),
    "openai": (True, True, Usage(19, 12, 8, 4), None),
    "openai-tools": (True, True, Usage(70, 30), None),
    "azure": (True, True, Usage(7, 1), None),
    "groq": (True, True, Usage(18, 5), None),
    "reasoning": (True, True, Usage(10, 10, 6, 6), None),
    "usage-on-every-chunk": (True, True, Usage(5, 3), None),
    "usage-in-finish-chunk": (True, True, Usage(11, 3), None),
    "openrouter-error": (False, True, None, None),
}


@pytest.mark.parametrize("name", LEARNT)
def test_what_is_learnt_from_known_streams(name: str) -> None:
    relay = new()
    fed(relay, recorded(name + ".sse"))
    relay.end_input()
    learnt = (relay.complete, relay.done, relay.usage, relay.provider_cost_msats)
    assert learnt == LEARNT[name]


@pytest.mark.parametrize(("line_end", "mark", "space", "ended", "last"), DRESSES)
def test_the_golden_stream_reads_the_same_in_every_dress(
    line_end: bytes, mark: bytes, space: bytes, ended: bool, last: str
) -> None:
    data = dressed(line_end, mark, space, ended, last)
    expected = through([data])
    out = expected[0]
    assert isinstance(out, bytes)
    assert client_text(out) == (GOLDEN_TEXT, ["stop"])
    assert out.count(b"[DONE]") == 1
    assert expected[3] == (None if last == "finish" else Usage(3, 2))
    assert through(byte_by_byte(data)) == expected
    # Up to the last event all that differ only in their end are alike, so the longest is cut there.
    alike = 0 if ended and last == LASTS[-1] else data.rstrip().rfind(b"data:")
    for pieces in cut_in_two(data, start=alike):
        assert through(pieces) == expected


# Anything at all


EVENTS = st.sampled_from(
    [
        *(ROLE, HELLO, WORLD, STOP, USAGE, DONE, ERROR, KEEP_ALIVE),
        *DROPPED.values(),
        HELLO.replace(b"\n", b"\r\n"),
        STOP.replace(b"\n", b"\r"),
        b"id: 1\n" + HELLO,
        b"event: error\ndata: x\n\n",
        b'data: {"choices":[{"index":0,"delta":\n\n',
        chunk(delta("b", "stop", 1)),
        chunk(delta(reason="error")),
        chunk(delta("a"), usage=COUNTS),
        event({"choices": [None, 5, {"index": "x", "delta": 3, "finish_reason": {}}]}),
        event({"choices": [], "usage": {"prompt_tokens": "1", "cost": []}}),
        HELLO[:-2],
        b"\n",
        b"\r",
        b"\xef\xbb\xbf",
    ]
)


def test_what_comes_behind_the_end_gives_the_answer_no_name() -> None:
    late = b'data: {"id":"late","choices":[{"index":0,"delta":{},"finish_reason":null}]}\n\n'
    relay = new(1, asks_usage=False)
    relay.feed(b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n' + DONE + late)
    assert b"late" not in relay.finish(ARBSTR)


def test_what_did_not_go_on_gives_the_answer_no_name() -> None:
    first = b'data: {"id":"one","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    last = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    said = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    check_honest([first + said + last + DONE], 1, False, 0)
    check_honest([said + last.replace(b"{", b'{"id":"two",', 1) + DONE], 1, False, 0)


def check_honest(pieces: list[bytes], choices: int, asks_usage: bool, early_end: int) -> None:
    relay = new(choices, asks_usage=asks_usage)
    sent: list[bytes] = []
    for number, piece in enumerate(pieces):
        out = relay.feed(piece)
        assert relay.committed or not out
        assert not relay.complete or relay.committed
        sent.append(out)
        if number == early_end and not relay.complete:
            sent.append(relay.interrupt(CUT))
            break
    sent.append(relay.end_input())
    complete = relay.complete
    if complete:
        # Whoever gets the same answer later gets the same bytes.
        went_on, again = b"".join(sent), new(choices, asks_usage=asks_usage)
        assert fed(again, went_on, relay.rest()) == went_on
        sent.append(relay.finish(ARBSTR))
        assert again.finish(ARBSTR) == sent[-1]
    else:
        with pytest.raises(LocalProtocolError):
            relay.rest()
        sent.append(relay.interrupt(CUT))
    end = b"".join(sent)
    assert relay.feed(b"".join(pieces)) + relay.end_input() + relay.interrupt(CUT) == b""
    events = [seen for seen in SSEReader().feed(end) if seen.data is not None]
    assert sum(seen.data == b"[DONE]" for seen in events) == complete
    errors = [seen for seen in events if b'"code":"stream_interrupted"' in (seen.data or b"")]
    assert len(errors) == (not complete)
    assert complete or end.endswith(CUT_EVENT)
    for seen in events:
        if seen.data != b"[DONE]" and seen not in errors:
            assert isinstance(json.loads(seen.data or b"")["choices"], list)


@examples(75)
@given(st.data())
def test_no_stream_makes_the_relay_lie(data: st.DataObject) -> None:
    stream = b"".join(data.draw(st.lists(EVENTS, max_size=10)))
    pieces = data.draw(cuttings(stream))
    choices, asks = data.draw(st.integers(1, 2)), data.draw(st.booleans())
    check_honest(pieces, choices, asks, data.draw(st.integers(0, 20)))
    assert through(pieces, choices, asks_usage=asks) == through([stream], choices, asks_usage=asks)
    assert through(byte_by_byte(stream), choices, asks_usage=asks) == through(
        [stream], choices, asks_usage=asks
    )


@examples(75)
@given(st.lists(st.binary(max_size=30) | EVENTS, max_size=8), st.booleans())
def test_no_bytes_make_the_relay_raise(pieces: list[bytes], asks_usage: bool) -> None:
    whole = through([b"".join(pieces)], asks_usage=asks_usage)
    assert through(pieces, asks_usage=asks_usage) == whole


@examples(50)
@given(st.lists(EVENTS, min_size=1, max_size=30))
def test_what_is_kept_is_bounded(events: list[bytes]) -> None:
    relay = new(asks_usage=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, "MAX_HELD_BYTES", 2000)
        for piece in itertools.islice(itertools.cycle(events), 60):
            relay.feed(piece)
            assert len(relay.held) <= 2000 or relay.not_sse

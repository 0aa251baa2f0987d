"""Streams of /v1/responses through a relay: what goes on, when they are whole, how they end."""

import itertools
import json
import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.responses.door import RESPONSES
from arbstr.sansio.dialects.responses.events import EVENTS, Kind, Reading, read_object
from arbstr.sansio.dialects.sse import SSEReader
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.money import Usage
from tests.cuttings import byte_by_byte, cut_in_two, cuttings, recorded
from tests.searching import examples

ARBSTR = b'{"request_id":"r1","provider":"alpha","model":"m1","cost_sats":0.5}'
CUT = ErrorReply("stream_interrupted", "The answer is not complete: alpha stopped.")
USAGE = Usage(input_tokens=37, output_tokens=11, cached_tokens=12, reasoning_tokens=4)

WHOLE = ("text", "tools", "incomplete", "routstr-whole", "type-last")
BROKEN = ("failed", "error-flat", "routstr-fabricated", "cut")
NEVER_BEGUN = ("failed-at-once", "error-nested", "routstr-fabricated-at-once")


def stream(name: str) -> bytes:
    return recorded(f"responses-{name}.sse")


def asked() -> Asked:
    found = RESPONSES.parse(b'{"model":"m","input":"x","stream":true}', {}, b"")
    assert isinstance(found, Asked)
    return found


def relay() -> Relay:
    return Relay(RESPONSES.reading(asked()))


def run(pieces: list[bytes]) -> tuple[Relay, bytes]:
    """A relay after all pieces and the end of the body, ended as a driver would end it."""
    made = relay()
    out = b"".join(made.feed(piece) for piece in pieces) + made.end_input()
    if made.complete:
        out += made.finish(ARBSTR)
    elif made.committed:
        out += made.interrupt(CUT)
    return made, out


def events(data: bytes) -> list[dict[str, Any]]:
    reader = SSEReader()
    every = (*reader.feed(data), *reader.finish())
    return [json.loads(each.data.decode("utf-8", "replace")) for each in every if each.data]


def event(type_: str, **members: Any) -> bytes:
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **members})}\n\n".encode()


def delta(text: str, number: int = 4) -> bytes:
    return event(
        "response.output_text.delta",
        sequence_number=number,
        item_id="msg_1",
        output_index=0,
        content_index=0,
        delta=text,
        logprobs=[],
    )


CREATED = event(
    "response.created",
    sequence_number=0,
    response={"id": "resp_1", "created_at": 7, "model": "m1", "status": "in_progress"},
)


def completed(**members: Any) -> bytes:
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    response = {"id": "resp_1", "status": "completed", "output": [{}], "usage": usage, **members}
    return event("response.completed", sequence_number=9, response=response)


# -- the table


def test_the_table_names_each_kind_but_output_which_is_all_the_rest() -> None:
    assert set(EVENTS.values()) == set(Kind) - {Kind.OUTPUT}
    assert all(name == "error" or name.startswith("response.") for name in EVENTS)


@pytest.mark.parametrize(
    "name",
    [
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.output_item.done",
        "response.web_search_call.searching",
        "response.of_next_year.delta",
    ],
)
def test_a_piece_of_the_answer_is_the_commit_point(name: str) -> None:
    facts = read_object({"type": name})
    assert (facts.passes, facts.output, facts.said) == (True, True, True)


@pytest.mark.parametrize(
    "name", [name for name, kind in EVENTS.items() if kind in (Kind.HEAD, Kind.STRUCTURE)]
)
def test_head_and_structure_wait_for_it(name: str) -> None:
    made = relay()
    assert made.feed(event(name)) == b""
    assert not made.committed
    assert made.feed(delta("x")) == event(name) + delta("x")


# -- whole streams


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_stream_goes_on_unchanged_but_for_its_last_event(name: str) -> None:
    made, out = run([stream(name)])
    assert made.complete
    assert made.done
    sent, came = events(out), events(stream(name).replace(b"data: [DONE]\n\n", b""))
    assert sent[:-1] == came[:-1]
    told = json.loads(ARBSTR)
    last = sent[-1]
    assert last.pop("arbstr") == told
    assert last["response"].pop("arbstr") == told
    assert last == came[-1]
    assert made.usage == USAGE


@pytest.mark.parametrize("name", WHOLE)
def test_its_last_event_bears_its_name(name: str) -> None:
    _, out = run([stream(name)])
    last = out.rstrip().rpartition(b"\n\n")[2]
    kind = "incomplete" if name == "incomplete" else "completed"
    assert last.startswith(f"event: response.{kind}\ndata: {{".encode())


@pytest.mark.parametrize("kind", ["completed", "incomplete"])
def test_its_name_may_stand_before_its_data_alone(kind: str) -> None:
    response = json.dumps({"response": {"id": "resp_1", "status": kind}}).encode()
    named = b"event: response.%b\ndata: %b\n\n" % (kind.encode(), response)
    made, out = run([delta("x") + named])
    assert made.complete
    assert out[len(delta("x")) :].startswith(named[: named.index(b"{")])
    assert made.rest() == named


def test_nothing_follows_the_last_event() -> None:
    made = relay()
    made.feed(CREATED + delta("x") + completed())
    assert made.done
    assert made.feed(b'event: cost\ndata: {"cost":{"total_msats":7}}\n\n' + delta("y")) == b""
    assert made.provider_cost_msats == Decimal(7)
    assert made.finish(ARBSTR).count(b"data: ") == 1


def test_an_answer_may_come_in_its_last_event_alone() -> None:
    made, out = run([completed()])
    assert made.committed
    assert [one["type"] for one in events(out)] == ["response.completed"]


@pytest.mark.parametrize(
    "response",
    [
        {"incomplete_details": {"reason": "content_filter"}},
        {"id": "resp_1", "incomplete_details": {"reason": "max_output_tokens"}},
        {"status": "incomplete"},
        {},
    ],
)
def test_an_answer_at_its_limit_needs_no_other_proof(response: dict[str, Any]) -> None:
    made, out = run([CREATED, delta("x"), event("response.incomplete", response=response)])
    assert made.complete
    last = events(out)[-1]
    assert (last["type"], last["arbstr"]) == ("response.incomplete", json.loads(ARBSTR))


def test_an_answer_at_its_limit_that_says_it_goes_on_is_none() -> None:
    going_on = event("response.incomplete", response={"id": "resp_1", "status": "in_progress"})
    made, _ = run([CREATED, delta("x"), going_on])
    assert not made.complete


def test_a_node_states_its_charge_in_millisats_and_not_in_dollars() -> None:
    made, _ = run([stream("routstr-whole")])
    assert made.provider_cost_msats == Decimal(107)


def test_where_json_has_nan_the_object_stands_at_the_top() -> None:
    made, out = run([delta("x") + completed(x=float("nan"))])
    assert made.complete
    last = events(out)[-1]
    assert last["arbstr"] == json.loads(ARBSTR)
    assert "arbstr" not in last["response"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("name", ["text", "tools"])
def test_line_ends_change_nothing(name: str, end: bytes) -> None:
    made, out = run([stream(name).replace(b"\n", end)])
    assert made.complete
    assert events(out) == events(run([stream(name)])[1])


def test_the_bytes_of_deltas_pass_by_identity() -> None:
    made = relay()
    made.feed(CREATED + delta("x"))
    block = delta("y", 5) + delta('{"a": "\\', 6)
    assert made.feed(block) is block
    assert made.events == 4


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"delta":"x","type":"response.output_text.delta"}\n\n',
        b'data:{"type": "response.refusal.delta", "delta": "\\u00e9 \\"type\\":\\"error\\""}\n\n',
        b'event: response.x.delta\ndata: {"type":"response.x.delta","n":-1.5e3,"a":[],"o":{}}\n\n',
    ],
)
def test_deltas_are_told_at_a_glance(event: bytes) -> None:
    assert Reading().passes_whole(event * 3) == 3


@pytest.mark.parametrize(
    "event",
    [
        delta("x")[:-4] + b"\n\n",  # cut short
        delta("x")[:-9] + delta("y"),  # glued
        delta("x").replace(b"delta", b"done"),
        completed(),
        CREATED,
        b"data: [DONE]\n\n",
        b": comment\n\n",
        b'id: 1\ndata: {"type":"response.x.delta"}\n\n',
        b'data: {"type":"response.failed","delta":"\\"type\\":\\"response.x.delta\\""}\n\n',
        delta("x").replace(b"\n", b"\r\n"),
    ],
)
def test_what_is_no_delta_is_looked_at(event: bytes) -> None:
    assert Reading().passes_whole(event) == 0
    assert Reading().passes_whole(delta("x") + event + delta("y")) == 0


@given(st.text(max_size=30), st.integers(0, 200))
def test_what_passes_at_a_glance_is_json_and_says_the_same_when_read(text: str, cut: int) -> None:
    whole = delta(text)
    assert Reading().passes_whole(whole) == 1
    broken = whole[:cut] + b"\n\n"
    if Reading().passes_whole(broken):
        json.loads(broken.partition(b"data: ")[2])


# -- streams that broke


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream_ends_with_both_events(name: str) -> None:
    made, out = run([stream(name)])
    assert not made.complete
    failed, error = events(out)[-2:]
    last = events(out)[-3]["sequence_number"]
    assert failed == {
        "type": "response.failed",
        "sequence_number": last + 1,
        "response": {
            "id": "resp_67ccd2bed1ec8190b14f964abc054267",
            "object": "response",
            "created_at": 1741476542,
            "status": "failed",
            "model": "gpt-4o-2024-08-06",
            "output": [],
            "usage": None,
            "error": {"code": "invalid_prompt", "message": CUT.message},
        },
    }
    told = {
        "type": "upstream_error",
        "code": "stream_interrupted",
        "message": CUT.message,
        "param": None,
    }
    assert error == {
        "type": "error",
        "sequence_number": last + 2,
        "code": "stream_interrupted",
        "message": CUT.message,
        "param": None,
        "error": told,
    }
    kinds = [one["type"] for one in events(out)[:-2]]
    assert not {"response.failed", "error", "response.completed"} & set(kinds)


def test_its_numbers_go_on_where_deltas_passed_at_a_glance() -> None:
    made = relay()
    made.feed(CREATED + delta("x"))
    made.feed(delta("y", 5) + delta('"sequence_number": 99', 6))
    failed, error = events(made.interrupt(CUT))
    assert (failed["sequence_number"], error["sequence_number"]) == (7, 8)


def test_nothing_is_known_of_a_stream_without_a_head() -> None:
    made = relay()
    made.feed(b'data: {"type":"response.output_text.delta","delta":"x"}\n\n')
    failed, _ = events(made.interrupt(CUT))
    assert failed["sequence_number"] == 0
    assert failed["response"]["id"]


@pytest.mark.parametrize("name", NEVER_BEGUN)
def test_before_output_there_is_another_provider(name: str) -> None:
    made, out = run([stream(name)])
    assert (made.committed, made.complete, out) == (False, False, b"")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("failed", "server_error"),
        ("failed-at-once", "rate_limit_exceeded"),
        ("error-flat", "server_error"),
        ("error-nested", "server_error"),
    ],
)
def test_an_error_is_told_in_one_shape(name: str, code: str) -> None:
    made, _ = run([stream(name)])
    assert made.error is not None
    assert json.loads(made.error)["error"]["code"] == code


@pytest.mark.parametrize(
    ("name", "msats"), [("routstr-fabricated", 41), ("routstr-fabricated-at-once", 0)]
)
def test_a_fabricated_end_is_none_and_its_charge_is_read(name: str, msats: int) -> None:
    made, _ = run([stream(name)])
    assert not made.complete
    assert made.error is None
    assert made.usage is None
    assert made.provider_cost_msats == Decimal(msats)


def test_what_a_node_makes_of_a_failure_does_not_mend_it() -> None:
    made, _ = run([stream("failed-at-once"), stream("routstr-fabricated").rpartition(b"data: ")[2]])
    assert not made.complete
    assert made.error is not None


@pytest.mark.parametrize(
    "response",
    [
        {"id": None},
        {"id": ""},
        {"status": None},
        {"status": "in_progress"},
    ],
)
def test_only_an_end_that_says_of_what_and_how_is_one(response: dict[str, Any]) -> None:
    made, _ = run([CREATED + delta("x") + completed(**response)])
    assert not made.complete


def test_an_end_that_says_it_failed_is_an_error() -> None:
    error = {"code": "server_error", "message": "boom"}
    made, _ = run([CREATED + completed(status="failed", output=[], error=error)])
    assert made.error is not None
    assert json.loads(made.error) == {"error": error}


def test_done_proves_nothing() -> None:
    made, _ = run([CREATED + delta("x") + b"data: [DONE]\n\n"])
    assert not made.complete


def test_a_part_that_is_lost_is_missed_at_the_end() -> None:
    made, out = run([CREATED + delta("x") + delta("y")[:-6] + b"\n\n" + completed()])
    assert not made.complete
    assert events(out)[-1]["type"] == "error"


@pytest.mark.parametrize(
    "stray",
    [
        b"event: ping\ndata: {}\n\n",
        b'event: keepalive\ndata: {"type":"keepalive","sequence_number":3}\n\n',
        b'data: {"type":"ping"}\n\n',
        b": comment\n\n",
        b'event: cost\ndata: {"cost":{"total_msats":7}}\n\n',
        b'data: {"object":"chat.completion.chunk","choices":[]}\n\n',
    ],
)
def test_what_clients_cannot_read_is_dropped(stray: bytes) -> None:
    made, out = run([CREATED + stray + delta("x") + stray + completed()])
    assert made.complete
    assert [one["type"] for one in events(out)] == [
        "response.created",
        "response.output_text.delta",
        "response.completed",
    ]


def test_a_type_may_stand_in_the_name_alone() -> None:
    made, _ = run([b'event: error\ndata: {"message":"boom","code":"x"}\n\n'])
    assert made.error is not None
    assert json.loads(made.error) == {"error": {"code": "x", "message": "boom"}}


def test_an_error_may_have_no_data() -> None:
    made, _ = run([CREATED + b"event: error\n\n"])
    assert made.error is not None


@pytest.mark.parametrize(
    "data",
    [
        b'{"error":{"message":"boom"}}',
        b'{"detail":{"error":{"message":"boom"}}}',
        b'[{"error":{"message":"boom"}}]',
    ],
)
def test_errors_of_other_protocols_are_errors(data: bytes) -> None:
    made, _ = run([CREATED + b"data: " + data + b"\n\n"])
    assert made.error is not None


def test_who_may_ask_again_for_nothing_is_not_told_to_stop() -> None:
    waits = ErrorReply("rate_limited", "Ask again.", retry_after=3)
    failed, error = events(RESPONSES.error_event(waits, "r1"))
    assert failed["response"]["error"]["code"] == "server_error"
    assert error["error"]["code"] == "rate_limited"
    stops = ErrorReply("upstream_error", "All failed.", should_retry=False)
    failed, _ = events(RESPONSES.error_event(stops, "r1"))
    assert failed["response"]["error"]["code"] == "invalid_prompt"


# -- however it is cut


ALL = (*WHOLE, *BROKEN, *NEVER_BEGUN)


def told(made: Relay) -> tuple[object, ...]:
    return made.complete, made.committed, made.error, made.usage, made.provider_cost_msats


@pytest.mark.parametrize("name", ALL)
def test_the_cutting_changes_nothing(name: str) -> None:
    data = stream(name)
    whole, out = run([data])
    for pieces in itertools.chain([byte_by_byte(data)], cut_in_two(data, step=7)):
        made, same = run(pieces)
        assert same == out
        assert told(made) == told(whole)


@given(st.data())
@examples(30)
def test_no_cutting_changes_anything(draw: st.DataObject) -> None:
    data = stream(draw.draw(st.sampled_from(ALL)))
    whole, out = run([data])
    made, same = run(draw.draw(cuttings(data)))
    assert same == out
    assert told(made) == told(whole)


@given(st.data())
@examples(50)
def test_whatever_comes_nothing_raises_and_a_cut_stream_is_never_whole(draw: st.DataObject) -> None:
    data = bytearray(stream(draw.draw(st.sampled_from(ALL))))
    for _ in range(draw.draw(st.integers(0, 4))):
        at = draw.draw(st.integers(0, len(data) - 1))
        data[at : at + draw.draw(st.integers(0, 9))] = draw.draw(st.binary(max_size=9))
    _, out = run([bytes(data)])
    ends = [e for e in events(out) if EVENTS.get(str(e.get("type"))) is Kind.END]
    assert len(ends) <= 1


def test_a_relay_can_go_on_elsewhere() -> None:
    data = stream("text")
    made = relay()
    out = made.feed(data[:2000])
    other = pickle.loads(pickle.dumps(made))
    out += other.feed(data[2000:])
    assert out + other.finish(ARBSTR) == run([data])[1]


# The same answer for another client


@pytest.mark.parametrize("name", WHOLE)
def test_what_did_not_go_on_makes_the_answer_whole_for_another_client(name: str) -> None:
    made, other = relay(), relay()
    data = stream(name)
    out = made.feed(data) + made.end_input()
    assert other.feed(out + made.rest()) == out
    assert other.complete
    assert other.usage == made.usage
    assert other.finish(ARBSTR) == made.finish(ARBSTR)

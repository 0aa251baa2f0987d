"""Streams of /v1/messages through a relay: what goes on, when they are whole, how they end."""

import itertools
import json
import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.dialects.messages.door import MESSAGES
from arbstr.sansio.dialects.messages.events import EVENTS, PING, Kind, MessagesReading
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.sse import SSEReader
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.money import Usage
from tests.cuttings import byte_by_byte, cut_in_two, cuttings, recorded
from tests.searching import examples

ARBSTR = b'{"request_id":"r1","provider":"alpha","model":"m1","cost_sats":0.5}'
CUT = ErrorReply("stream_interrupted", "The answer is not complete: alpha stopped.")
USAGE = Usage(input_tokens=137, output_tokens=11, cached_tokens=12, cache_write_tokens=100)

WHOLE = (
    "text",
    "tools",
    "restated",
    "at-its-limit",
    "nothing-to-add",
    "routstr-whole",
    "type-last",
)
BROKEN = ("error", "cut", "clean-end", "routstr-cut")
END = b'event: message_stop\ndata: {"type": "message_stop","arbstr":' + ARBSTR + b"}\n\n"
TYPE_LAST_END = b'event: message_stop\ndata: {"type":"message_stop","arbstr":' + ARBSTR + b"}\n\n"
BROKEN_END = (
    b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
    b'"message":"The answer is not complete: alpha stopped.","code":"stream_interrupted"}}\n\n'
)


def stream(name: str) -> bytes:
    return recorded(f"messages-{name}.sse")


def relay() -> Relay:
    asked = MESSAGES.parse(b'{"model":"m","messages":[],"stream":true}', {}, b"")
    assert isinstance(asked, Asked)
    return Relay(MESSAGES.reading(asked))


def run(pieces: list[bytes]) -> tuple[Relay, bytes]:
    """A relay after all pieces and the end of the body, ended as a driver would end it."""
    made = relay()
    out = b"".join(made.feed(piece) for piece in pieces) + made.end_input()
    if made.complete:
        out += made.finish(ARBSTR)
    elif made.committed:
        out += made.interrupt(CUT)
    return made, out


def types(data: bytes) -> list[str]:
    reader = SSEReader()
    every = (*reader.feed(data), *reader.finish())
    return [json.loads(each.data)["type"] for each in every if each.data]


def event(type_: str, **members: Any) -> bytes:
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **members})}\n\n".encode()


def delta(text: str, **more: Any) -> bytes:
    told = {"type": "text_delta", "text": text}
    return event("content_block_delta", index=0, delta=told, **more)


HEAD = event("message_start", message={"id": "m", "usage": {"input_tokens": 9, "output_tokens": 1}})
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
TURN = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5})
STOP = event("message_stop")


def forwarded(name: str) -> bytes:
    """What of a recorded stream goes on: all but pings, errors and what follows the last event."""
    events = stream(name).split(b"\n\n")
    if events[-1]:
        events[-1] = b""  # it came in part
    dropped = (b"event: ping", b"event: error", b"event: message_stop", b"event: cost")
    return b"".join(e + b"\n\n" for e in events if e and not e.startswith(dropped))


# -- whole and broken streams, however they come


def expected(name: str) -> bytes:
    if name in BROKEN:
        return forwarded(name) + BROKEN_END
    return forwarded(name) + (TYPE_LAST_END if name == "type-last" else END)


@pytest.mark.parametrize("name", WHOLE + BROKEN)
def test_every_ending_to_the_byte_whole_and_byte_by_byte(name: str) -> None:
    for pieces in ([stream(name)], byte_by_byte(stream(name))):
        made, out = run(pieces)
        assert out == expected(name)
        assert made.complete == (name in WHOLE)


@pytest.mark.parametrize("name", ["tools", "routstr-whole", "error", "cut"])
def test_every_cutting_in_two(name: str) -> None:
    for pieces in cut_in_two(stream(name), step=3):
        assert run(pieces)[1] == expected(name)


@given(st.data(), st.sampled_from(WHOLE + BROKEN))
@examples(30)
def test_any_cutting(data: st.DataObject, name: str) -> None:
    assert run(data.draw(cuttings(stream(name))))[1] == expected(name)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("name", ["text", "tools", "error"])
def test_line_ends_change_nothing(name: str, end: bytes) -> None:
    made, out = run([stream(name).replace(b"\n", end)])
    assert made.complete == (name in WHOLE)
    assert types(out) == types(run([stream(name)])[1])


def test_before_output_there_is_another_provider() -> None:
    made, out = run([stream("error-at-once")])
    assert (made.committed, made.complete, out) == (False, False, b"")
    assert made.error is not None
    assert json.loads(made.error)["error"]["type"] == "overloaded_error"
    assert not made.tally.counted, "the head's counts are no sums, and nobody pays for them"


def test_a_reading_is_handed_to_another_process_in_mid_stream() -> None:
    made = relay()
    first = made.feed(HEAD + BLOCK + delta("x"))
    again = pickle.loads(pickle.dumps(made))
    assert again.feed(TURN + STOP) == TURN
    assert first + TURN + again.finish(ARBSTR) == HEAD + BLOCK + delta("x") + TURN + END


# -- the table


def test_the_table_names_each_kind() -> None:
    assert set(EVENTS.values()) == set(Kind)


@pytest.mark.parametrize("first", [BLOCK, delta("x"), TURN])
def test_the_head_waits_for_the_first_block(first: bytes) -> None:
    made = relay()
    assert made.feed(HEAD) == b""
    assert not made.committed
    assert made.feed(first) == HEAD + first


@pytest.mark.parametrize("turn", [b"", event("message_delta", delta={"stop_reason": None})])
def test_an_end_of_nothing_is_none(turn: bytes) -> None:
    made, out = run([HEAD + turn + STOP])
    assert (made.complete, made.committed, out) == (False, False, b"")


def test_an_end_proves_itself_by_a_reason_to_stop() -> None:
    odd = b'data: {"object":"chat.completion.chunk"}\n\n'
    assert run([HEAD + BLOCK + odd + TURN + STOP])[0].complete
    assert run([HEAD + BLOCK + STOP])[0].complete
    assert not run([HEAD + BLOCK + odd + STOP])[0].complete


@pytest.mark.parametrize(
    "added",
    [event("content_block_of_next_year", index=0, x=[1]), event("message_note", text="hi")],
)
def test_types_of_next_year_go_on(added: bytes) -> None:
    made, out = run([HEAD + BLOCK + added + TURN + STOP])
    assert made.complete
    assert out == HEAD + BLOCK + added + TURN + END


@pytest.mark.parametrize(
    "stray",
    [
        PING,
        b'data: {"type":"ping"}\n\n',
        b": comment\n\n",
        b"data: [DONE]\n\n",
        b'event: cost\ndata: {"cost":{"total_msats":7}}\n\n',
        b"event: content_block_delta\n\n",
    ],
)
def test_what_clients_cannot_read_is_dropped(stray: bytes) -> None:
    made, out = run([stray + HEAD + stray + BLOCK + delta("x") + stray + TURN + stray + STOP])
    assert made.complete
    assert out == HEAD + BLOCK + delta("x") + TURN + END


def test_nothing_follows_the_last_event() -> None:
    made = relay()
    made.feed(HEAD + BLOCK + delta("x") + TURN + STOP)
    assert made.done
    cost = b'event: cost\ndata: {"cost":{"total_msats":7}}\n\n'
    assert made.feed(cost + delta("y") + event("error", error={"message": "late"})) == b""
    assert made.provider_cost_msats == Decimal(7)
    assert made.finish(ARBSTR) == END


@pytest.mark.parametrize(
    ("last", "ended"),
    [
        (b"event: message_stop\ndata: {}\n\n", b'{"type":"message_stop"'),
        (b'event: message_stop\ndata: {"a": {"type": 1}}\n\n', b'{"type":"message_stop"'),
        (b'data: {"type":"message_stop" }\n\n', b'{"type":"message_stop" '),
        (b'data: {"type":"message_stop",\ndata: "x":1}\n\n', b'{"type":"message_stop", "x":1'),
    ],
)
def test_the_last_event_bears_arbstrs_object_however_it_is_written(
    last: bytes, ended: bytes
) -> None:
    made, out = run([HEAD + BLOCK + TURN + last])
    assert made.complete
    wanted = b"event: message_stop\ndata: " + ended + b',"arbstr":' + ARBSTR + b"}\n\n"
    assert out.endswith(wanted)
    assert json.loads(wanted.partition(b"data: ")[2])["arbstr"] == json.loads(ARBSTR)


# -- tokens and prices


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "nothing-to-add"])
def test_sums_replace_those_of_the_head(name: str) -> None:
    assert run([stream(name)])[0].usage == USAGE


def test_a_node_says_what_it_charged_behind_the_end() -> None:
    assert run([stream("routstr-whole")])[0].provider_cost_msats == Decimal(107)
    assert run([stream("routstr-cut")])[0].provider_cost_msats == Decimal(41)


def turn(**usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"output_tokens": 5}, (9, 5)),
        ({"input_tokens": 12, "output_tokens": 5}, (12, 5)),
        ({"input_tokens": 0, "output_tokens": 5}, (9, 5)),
        ({"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 5}, (13, 5)),
        ({}, None),
        ({"output_tokens": "5"}, None),
        ({"output_tokens": True}, None),
        ({"output_tokens": 10**12}, None),
        ({"input_tokens": 9}, None),
        ({"prompt_tokens": 12, "completion_tokens": 5}, (12, 5)),
    ],
)
def test_counts_come_in_pieces(usage: dict[str, Any], tokens: tuple[int, int] | None) -> None:
    found = run([HEAD + BLOCK + delta("x") + turn(**usage) + STOP])[0].usage
    assert (found and (found.input_tokens, found.output_tokens)) == tokens


@pytest.mark.parametrize("inside", [False, True])
def test_an_error_counts_in_the_names_of_any_protocol(inside: bool) -> None:
    counts = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    told = {"error": {"message": "no", **counts}} if inside else {"error": {"x": 1}, **counts}
    made, _ = run([HEAD + event("error", **told)])
    assert made.error is not None
    assert made.usage == Usage(7, 3)


def test_the_interim_count_of_the_head_is_no_price() -> None:
    assert run([HEAD + BLOCK + delta("x")])[0].usage is None


# -- at a glance


def test_the_bytes_of_deltas_pass_by_identity() -> None:
    made = relay()
    made.feed(HEAD + BLOCK)
    block = delta("y") + delta('{"a": "\\')
    assert made.feed(block) is block
    assert made.events == 4


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"delta":{"text":"x","type":"text_delta"},"type":"content_block_delta"}\n\n',
        b'data:{"index": 0, "type": "content_block_delta", "delta": {"a":"\\"type\\":1"}}\n\n',
        b'event:content_block_delta\ndata: {"type":"content_block_delta","n":-1.5e3,"d":{}}\n\n',
    ],
)
def test_deltas_are_told_at_a_glance(event: bytes) -> None:
    assert MessagesReading().passes_whole(event * 3) == 3


@pytest.mark.parametrize(
    "event",
    [
        delta("x")[:-4] + b"\n\n",
        delta("x")[:-9] + delta("y"),
        *(HEAD, BLOCK, TURN, STOP, PING, b": comment\n\n"),
        b'id: 1\ndata: {"type":"content_block_delta"}\n\n',
        b'data: {"type":"error","delta":{"type":"content_block_delta"}}\n\n',
        b'data: {"type":"error","d":{"a":1, "type":"content_block_delta"}}\n\n',
        b'data: {"type":"error","a":"\\"type\\":\\"content_block_delta\\""}\n\n',
        delta("x").replace(b"\n", b"\r\n"),
    ],
)
def test_what_is_no_delta_is_looked_at(event: bytes) -> None:
    assert MessagesReading().passes_whole(event) == 0
    assert MessagesReading().passes_whole(delta("x") + event + delta("y")) == 0


@given(st.text(max_size=30), st.integers(0, 200))
def test_what_passes_at_a_glance_is_json(text: str, cut: int) -> None:
    whole = delta(text)
    assert MessagesReading().passes_whole(whole) == 1
    broken = whole[:cut] + b"\n\n"
    if MessagesReading().passes_whole(broken):
        json.loads(broken.partition(b"data: ")[2])


# -- errors


def test_a_part_that_is_lost_is_missed_at_the_end() -> None:
    made, out = run([HEAD + BLOCK + delta("x") + delta("y")[:-6] + b"\n\n" + TURN + STOP])
    assert not made.complete
    assert types(out)[-1] == "error"


@pytest.mark.parametrize(
    "data",
    [
        b'data: {"error":{"message":"boom"}}\n\n',
        b'data: {"detail":{"error":{"message":"boom"}}}\n\n',
        b'data: [{"error":{"message":"boom"}}]\n\n',
        b'event: error\ndata: {"message":"boom"}\n\n',
        b"event: error\n\n",
        b'data: {"type":"error","error":null}\n\n',
    ],
)
def test_errors_of_other_protocols_are_errors(data: bytes) -> None:
    made, _ = run([HEAD + data])
    assert made.error is not None
    assert not made.committed


def test_a_reason_to_stop_may_name_a_failure() -> None:
    failed = event("message_delta", delta={"stop_reason": "error"}, usage={"output_tokens": 2})
    made, out = run([HEAD + BLOCK + delta("x") + failed + STOP])
    assert not made.complete
    assert types(out)[-1] == "error"
    assert made.usage == Usage(9, 2)


def test_the_only_event_of_a_stream_may_be_an_error() -> None:
    told = MESSAGES.error_event(ErrorReply("rate_limited", "Ask again.", retry_after=3), "r1")
    assert told == (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"Ask again.",'
        b'"code":"rate_limited"},"request_id":"r1"}\n\n'
    )


PIECES = [
    *(HEAD, BLOCK, delta("x"), TURN, STOP, PING, b"data: [DONE]\n\n", b"error: boom\n\n"),
    *(b'data: {"type":"error"}\n\n', b"data: \xff\n\n", b'data: {"type":7,"usage":[]}\n\n'),
    *(b"event: message_stop\ndata: [1]\n\n", b'data: {"type":"message_delta","delta":3}\n\n'),
    *(b'data: {"type":"content_block_start","content_block":"x","index":{}}\n\n', b"{}\n\n"),
    *(b'data: {"type":"message_start","message":[]}\n\n', b"data: " + b"[" * 3000 + b"\n\n"),
]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=12))
@examples(75)
def test_nothing_makes_it_raise_and_what_went_out_ends_once(pieces: list[bytes]) -> None:
    made, out = run(pieces)
    assert not (made.complete and not made.committed)
    if out:
        ends = types(out).count("message_stop"), out.count(BROKEN_END)
        assert ends == ((1, 0) if made.complete else (0, 1))


def test_an_error_before_the_end_cannot_be_taken_back() -> None:
    for order in itertools.permutations((event("error", error={"message": "boom"}), TURN)):
        made, _ = run([HEAD + BLOCK, *order, STOP])
        assert not made.complete

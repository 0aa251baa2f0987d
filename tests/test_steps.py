"""What one request and one event cost, counted, not timed: steps of arbstr's own code.

A step is an instruction of Python's interpreter in a file of arbstr's; what Trio, h11 and json do
is not counted, but how often they are begun where that is dear. The numbers are the same on every
machine and in every run, however busy. A change that makes a request dearer than its line here has
to say so in this file, next to why it is worth it.
"""

import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import h11
import pytest
import trio

import arbstr
from arbstr.sansio.chunks import Chunks
from arbstr.sansio.dialects.chat.completions import COMPLETIONS
from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.dialect import Dialect, Reading
from arbstr.sansio.dialects.embeddings import EMBEDDINGS
from arbstr.sansio.dialects.messages.door import MESSAGES
from arbstr.sansio.dialects.messages.events import MessagesReading
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.responses.door import RESPONSES
from arbstr.sansio.dialects.responses.events import Reading as ResponsesReading
from arbstr.trio_runtime.upstream.readers import ChunksReader, reader_of
from tests.fakes import json_answer, open_fake_provider
from tests.proxy import chat_body, config, open_proxy, provider

OURS: Final = str(Path(arbstr.__file__).parent)

COUNTED: Final = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="what an instruction is differs between versions"
)

PLAIN_STEPS: Final = 10_770
"""Of a plain request on connections that are there, with the ledger on disk; 2 % above measured."""
EVENT_STEPS: Final = 333
"""Of an ordinary event that comes alone in its chunk; 5 % above measured."""
BURST_STEPS: Final = 56
"""Of each of twenty ordinary events that come at once; 5 % above measured."""

CHUNK_STEPS: Final = 61
"""Of each of twenty chunks that come at once; 5 % above measured."""

MESSAGE_STEPS: Final = 40
"""Of each further message of a plain request, of ordinary text; 5 % above measured."""

GUARD: Final = 1.03
"""What a request may take with `repeat_guard` on, as a multiple of one without."""
OTHER_DOORS: Final = 1.2
"""What a request or an event of another door may take, as a multiple of a chat's."""

SCOPES: Final = 0
"""Cancel scopes of a plain request, 10 us each: its connection has one for all of them."""
TASKS: Final = 0
"""Tasks of a plain request, 20 us each: its connection has one for all of them."""

STREAMED_STEPS: Final = 960
"""Of an event from the provider's socket to the client's, through all of arbstr; 3 % above
measured. 25 of them are for keeping it packed."""
AT_A_SOCKET: Final = {"recv", "recv_into", "read", "send", "sendmsg", "write", "writev", "poll"}
"""What the kernel is asked for at a socket, by Python's names."""


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Counts the `steps` of arbstr's code in this thread, the `scopes` and `tasks` it begins, how
    often a scope's deadline is `moved`, and the `clock` read, and what the `kernel` is asked for at
    a socket."""
    counts: Counter[str] = Counter()

    def step(frame: FrameType, event: str, _: Any) -> Any:
        counts["steps"] += event == "opcode"
        return step

    def call(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename.startswith(OURS):
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return step
        above = frame.f_back
        if above is not None and above.f_code.co_filename.startswith(OURS):
            counts["scopes"] += frame.f_code.co_qualname == "CancelScope.__enter__"
            counts["tasks"] += frame.f_code.co_name in ("start_soon", "spawn")
            counts["moved"] += frame.f_code.co_qualname == "CancelScope.deadline"
            counts["clock"] += frame.f_code.co_name == "current_time"
        return None

    def asked(frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and frame.f_code.co_filename.startswith(OURS):
            counts["kernel"] += what.__name__ in AT_A_SOCKET

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(call)
    sys.setprofile(asked)
    try:
        yield counts
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])


ANSWER: Final = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1760000000,
    "model": "gpt-4o",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
}
EVENT: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,'
    b'"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}'
    b"\n\n"
)
RESPONSE: Final = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1760000000,
    "status": "completed",
    "model": "gpt-4o",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14},
}
DELTA: Final = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":7,"item_id":"msg_1",'
    b'"output_index":0,"content_index":0,"delta":" token","logprobs":[]}\n\n'
)
MESSAGE: Final = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "gpt-4o",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 4},
}
BLOCK_DELTA: Final = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":" token"}}\n\n'
)
COMPLETION: Final = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1760000000,
    "model": "gpt-4o",
    "choices": [{"index": 0, "text": "Hello", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
}
VECTORS: Final = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.25] * 30}],
    "model": "gpt-4o",
    "usage": {"prompt_tokens": 10, "total_tokens": 10},
}
REQUEST: Final = h11.Request(method="POST", target="/", headers=[("host", "x")])
HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def least_of(
    path: Path, door: str, body: bytes, answer: object, more: str = ""
) -> Counter[str]:
    """What a plain request takes there, at the least of some."""
    taken: list[Counter[str]] = []
    async with (
        open_fake_provider(json_answer(answer)) as fake,
        open_proxy(config(provider("alpha", fake.url), more=more), database=path) as proxy,
        proxy.client() as client,
    ):
        for _ in range(12):
            with counting() as counts:
                await client.send("POST", door, body)
                assert (await client.reply()).status == 200
            taken.append(counts)
    # The first opens connections, and one or another meets the turn of a second, or of a batch.
    return min(taken, key=lambda counts: counts["steps"])


@COUNTED
async def test_to_look_out_for_the_same_again_takes_next_to_nothing(tmp_path: Path) -> None:
    """A body is hashed only where one of its size is remembered."""
    door, off = "/v1/chat/completions", "[retry]\nrepeat_guard = 0\n"
    without = await least_of(tmp_path / "a.db", door, chat_body(), ANSWER, off)
    least = await least_of(tmp_path / "b.db", door, chat_body(), ANSWER)
    assert least["steps"] <= without["steps"] * GUARD


@COUNTED
async def test_a_plain_request_takes_no_more_than_it_did(tmp_path: Path) -> None:
    least = await least_of(tmp_path / "a.db", "/v1/chat/completions", chat_body(), ANSWER)
    assert least["steps"] <= PLAIN_STEPS
    assert least["scopes"] <= SCOPES
    assert least["tasks"] <= TASKS


@COUNTED
async def test_a_long_conversation_takes_few_more_for_each_message(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "The quick brown fox. "}] * 200
    body = json.dumps({"model": "gpt-4o", "messages": said}).encode()
    least = await least_of(tmp_path / "a.db", "/v1/chat/completions", body, ANSWER)
    assert least["steps"] <= PLAIN_STEPS + MESSAGE_STEPS * len(said)


@COUNTED
@pytest.mark.parametrize(
    ("door", "answer"),
    [
        pytest.param(RESPONSES, RESPONSE, id="responses"),
        pytest.param(MESSAGES, MESSAGE, id="messages"),
        pytest.param(COMPLETIONS, COMPLETION, id="completions"),
        pytest.param(EMBEDDINGS, VECTORS, id="embeddings"),
    ],
)
async def test_a_request_of_another_door_takes_little_more_than_a_chat(
    tmp_path: Path, door: Dialect, answer: object
) -> None:
    body = json.dumps({"model": "gpt-4o", **door.saying("Hi")}).encode()
    least = await least_of(tmp_path / "a.db", f"/v1{door.path}", body, answer)
    assert least["steps"] <= PLAIN_STEPS * OTHER_DOORS
    assert least["scopes"] <= SCOPES
    assert least["tasks"] <= TASKS


def open_stream(reading: Reading, event: bytes) -> tuple[ChunksReader, Relay]:
    """A stream whose output has begun."""
    reader = reader_of(lambda: h11.Connection(h11.CLIENT), REQUEST, HEAD, plain=True)
    assert isinstance(reader, ChunksReader)
    relay = Relay(reading)
    reader.feed(HEAD)
    reader.feed(chunked(event))
    assert relay.feed(reader.pull(None)) == event
    return reader, relay


def chunked(*events: bytes) -> bytes:
    data = b"".join(events)
    return b"%x\r\n%b\r\n" % (len(data), data)


def steps_of(reading: Reading, event: bytes, events: int) -> int:
    """What so many events take that come at once."""
    reader, relay = open_stream(reading, event)
    piece, out = chunked(*(event,) * events), b""
    with counting() as counts:
        reader.feed(piece)
        out = relay.feed(reader.pull(None))
    assert out == event * events
    return counts["steps"]


@COUNTED
@pytest.mark.parametrize(("events", "most"), [(1, EVENT_STEPS), (20, BURST_STEPS)])
def test_an_event_takes_no_more_steps_than_it_did(events: int, most: int) -> None:
    chat = ChatReading(choices=1, asks_usage=False)
    assert steps_of(chat, EVENT, events) <= most * events
    assert steps_of(ResponsesReading(), DELTA, events) <= most * events * OTHER_DOORS
    assert steps_of(MessagesReading(), BLOCK_DELTA, events) <= most * events * OTHER_DOORS


@COUNTED
def test_a_chunk_takes_no_more_steps_than_it_did() -> None:
    """However many events share one: each has one of its own, as a rule, and some come at once."""
    chunks = Chunks()
    with counting() as counts:
        assert chunks.feed(chunked(EVENT) * 20) == EVENT * 20
    assert counts["steps"] <= CHUNK_STEPS * 20


@COUNTED
@pytest.mark.parametrize(
    ("door", "event"),
    [
        pytest.param(CHAT, EVENT, id="chat"),
        pytest.param(RESPONSES, DELTA, id="responses"),
        pytest.param(MESSAGES, BLOCK_DELTA, id="messages"),
    ],
)
async def test_an_event_takes_no_more_on_its_way_than_it_did(
    tmp_path: Path, door: Dialect, event: bytes
) -> None:
    """Nothing but what it needs: one read and one write, no deadline of Trio's that moves."""
    taken: list[Counter[str]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        async with (
            open_proxy(config(provider("alpha", url)), database=tmp_path / "a.db") as proxy,
            proxy.client() as client,
        ):
            body = json.dumps({"model": "gpt-4o", "stream": True, **door.saying("Hi")}).encode()
            await client.send("POST", f"/v1{door.path}", body)
            await trio.lowlevel.wait_readable(listener)
            peer, _ = listener.accept()
            with peer:
                await trio.lowlevel.wait_readable(peer)
                peer.sendall(HEAD + chunked(event))
                assert (await client.head())[0] == 200
                await client.until(event)
                for so_far in range(1, 13):
                    with counting() as counts:
                        peer.sendall(chunked(event))
                        await client.until(event * (so_far + 1))
                    taken.append(counts)
    least = min(taken, key=lambda counts: counts["steps"])
    assert least["steps"] <= STREAMED_STEPS
    assert least["kernel"] == 2
    assert least["moved"] == 0
    assert least["clock"] <= 3

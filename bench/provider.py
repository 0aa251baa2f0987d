"""The provider process: answers requests as they tell it to, at next to no cost of its own.

    python -m bench.provider

One thread, one selector, answers made once. It prints where it listens and ends when its standard
input does, so it cannot outlive who started it.
"""

import heapq
import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final, final

from bench.wire import HEAD_LIMIT, PATHS, Order, body_length, is_chunked

MAX_REQUEST: Final = 64 * 1024 * 1024
BACKLOG: Final = 4096
FULL: Final = 64 * 1024
"""Bytes waiting for a socket at which a stream without a pace waits, too."""

HEAD: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"date: Sat, 21 Nov 2026 13:00:00 GMT\r\n"
    b"server: uvicorn\r\n"
    b"openai-processing-ms: 412\r\n"
    b"openai-version: 2020-10-01\r\n"
    b"x-request-id: req_5f0c1f9f1c2f4d0e9a3b7c6d5e4f3a2b\r\n"
)
STREAM_HEAD: Final = HEAD + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END: Final = b"0\r\n\r\n"


MODEL: Final = "bench"


def _event(choices: str, more: str = "") -> bytes:
    return (
        'data: {"id":"chatcmpl-B0ZcVYbC8lDdE4bWGZkbench","object":"chat.completion.chunk",'
        '"created":1760000000,"model":"bench","service_tier":"default",'
        f'"system_fingerprint":null,"choices":{choices}{more}}}\n\n'
    ).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _delta(delta: str, finish: str = "null") -> str:
    return f'[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]'


def _named(kind: str, **members: object) -> bytes:
    data = json.dumps({"type": kind, **members}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _typed(kind: str, **members: object) -> bytes:
    return _named(kind, sequence_number=7, **members)


def _response(status: str, **members: object) -> dict[str, object]:
    head = {"id": "resp_bench", "object": "response", "created_at": 1760000000, "status": status}
    return {**head, "error": None, "model": MODEL, "output": [], "usage": None, **members}


_STAMP: Final = "@" + "0" * 19 + "@"
_TEXT: Final = "It costs what it costs. "


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """How a door's streams look: what they begin with, an event with a stamp, and their end.

    `end` and `usage` are told how many events there were; the latter is sent to who asks for it.
    """

    begin: bytes
    event: bytes
    end: Callable[[int], bytes]
    usage: Callable[[int], bytes]

    @property
    def around_the_stamp(self) -> tuple[bytes, bytes]:
        """One event as a chunk, without its stamp."""
        before, after = _chunk(self.event).split(b"0" * 19)
        return before, after


def _counts(events: int) -> str:
    return f'{{"prompt_tokens":20,"completion_tokens":{events},"total_tokens":{events + 20}}}'


@cache
def _usage_chunk(events: int) -> bytes:
    return _chunk(_event("[]", f',"usage":{_counts(events)}'))


def _nothing(_events: int) -> bytes:
    return b""


@cache
def _completed(events: int) -> bytes:
    usage = {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": events,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": events + 20,
    }
    part = {"type": "output_text", "text": _TEXT, "annotations": []}
    item = {"id": "msg_bench", "type": "message", "role": "assistant", "content": [part]}
    ended = _response("completed", output=[item], usage=usage)
    return _chunk(
        _typed("response.output_text.done", **_PLACE, text=_TEXT)
        + _typed("response.output_item.done", output_index=0, item=item)
        + _typed("response.completed", response=ended)
    )


def _message(content: list[object], reason: str | None, tokens: int) -> dict[str, object]:
    head = {"id": "msg_bench", "type": "message", "role": "assistant", "model": MODEL}
    ended = {"stop_reason": reason, "stop_sequence": None}
    usage = {
        "input_tokens": 20,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": tokens,
    }
    return {**head, "content": content, **ended, "usage": usage}


def _text_delta(text: str) -> bytes:
    return _named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


@cache
def _stopped(events: int) -> bytes:
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    return _chunk(
        _named("content_block_stop", index=0)
        + _named("message_delta", delta=ended, usage={"output_tokens": events})
        + _named("message_stop")
    )


_PLACE: Final = {"item_id": "msg_bench", "output_index": 0, "content_index": 0}
_ITEM: Final = {"id": "msg_bench", "type": "message", "role": "assistant", "content": []}
FINISH: Final = _chunk(_event(_delta("{}", '"stop"')))
DONE: Final = _chunk(b"data: [DONE]\n\n")


def _text(text: str, finish: str = "null") -> str:
    return f'[{{"index":0,"text":"{text}","logprobs":null,"finish_reason":{finish}}}]'


SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        PATHS["chat"]: Shape(
            _chunk(_event(_delta('{"role":"assistant","content":"","refusal":null}'))),
            _event(_delta(f'{{"content":" {_STAMP}"}}')),
            lambda _: FINISH,
            _usage_chunk,
        ),
        PATHS["completions"]: Shape(
            _chunk(_event(_text("Begin"))),
            _event(_text(f" {_STAMP}")),
            lambda _: _chunk(_event(_text("", '"stop"'))),
            _usage_chunk,
        ),
        PATHS["responses"]: Shape(
            _chunk(
                _typed("response.created", response=_response("in_progress"))
                + _typed("response.in_progress", response=_response("in_progress"))
                + _typed("response.output_item.added", output_index=0, item=_ITEM)
                + _typed("response.content_part.added", **_PLACE, part={"type": "output_text"})
                # Their output begins here: what is measured are events that flow.
                + _typed("response.output_text.delta", **_PLACE, delta="Begin", logprobs=[])
            ),
            _typed("response.output_text.delta", **_PLACE, delta=f" {_STAMP}", logprobs=[]),
            _completed,
            _nothing,
        ),
        PATHS["messages"]: Shape(
            _chunk(
                _named("message_start", message=_message([], None, 1))
                + _named("content_block_start", index=0, content_block={"type": "text", "text": ""})
                + _text_delta("Begin")
            ),
            _text_delta(f" {_STAMP}"),
            _stopped,
            _nothing,
        ),
    }
)
"""Path behind `/v1` -> how its streams look."""


@cache
def plain_answer(path: str, size: int) -> bytes:
    """A whole HTTP answer whose body has about `size` bytes."""
    tokens, text = size // 4, _TEXT * (max(0, size - 300) // len(_TEXT) + 3)
    usage = {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}
    answer: dict[str, object] = {
        "id": "chatcmpl-B0ZcVYbC8lDdE4bWGZkbench",
        "object": "chat.completion",
        "created": 1760000000,
        "model": MODEL,
    }
    match path:
        case "/responses":
            counts = {"input_tokens": 20, "output_tokens": tokens, "total_tokens": 20 + tokens}
            part = {"type": "output_text", "text": text, "annotations": []}
            answer = _response("completed", output=[{**_ITEM, "content": [part]}], usage=counts)
        case "/messages":
            answer = _message([{"type": "text", "text": text}], "end_turn", tokens)
        case "/embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": "A" * size}
            answer = {"object": "list", "data": [vector], "model": MODEL}
            answer["usage"] = {"prompt_tokens": 20, "total_tokens": 20}
        case "/completions":
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
            answer |= {"object": "text_completion", "choices": [choice], "usage": usage}
        case _:
            message = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            answer |= {"choices": [choice], "usage": usage}
    body = json.dumps(answer).encode()
    framing = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return HEAD + framing + body


@final
class Timers:
    """Calls at times of the monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Calls `call` at `when` or soon after."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, call))

    def wait(self) -> float | None:
        """Seconds to the next call; None if there is none."""
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

    def run(self) -> None:
        """Makes the calls that are due."""
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()


@final
class Peer:
    """One connection of a gateway."""

    def __init__(
        self, sock: socket.socket, selector: selectors.BaseSelector, timers: Timers
    ) -> None:
        self._sock = sock
        self._selector = selector
        self._timers = timers
        self._in = bytearray()
        self._out = b""
        self._waits = False
        self._next = 0.0
        self._left = 0
        self._order = Order()
        self._wants_usage = False
        self._shape = SHAPES[PATHS["chat"]]
        self._around = (b"", b"")
        selector.register(sock, selectors.EVENT_READ, self.ready)

    def ready(self, mask: int) -> None:
        """The selector's call."""
        if mask & selectors.EVENT_WRITE:
            self._flush()
        if mask & selectors.EVENT_READ:
            try:
                data = self._sock.recv(256 * 1024)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close()
                return
            self._in += data
            self._read()

    def _read(self) -> None:
        end = self._in.find(b"\r\n\r\n")
        if end < 0:
            if len(self._in) > HEAD_LIMIT:
                self._close()
            return
        head = bytes(self._in[:end])
        length = body_length(head)
        if length is None and is_chunked(head):
            if not self._in.endswith(END):
                return
        elif len(self._in) < end + 4 + (length or 0):
            if len(self._in) > MAX_REQUEST:
                self._close()
            return
        body = bytes(self._in[end + 4 :])
        self._in.clear()
        target = head.split(b" ", 2)[1].decode("latin-1")
        self._answer(target.removeprefix("/v1"), body)

    def _answer(self, path: str, body: bytes) -> None:
        order = Order.found_in(body)
        if order is None:
            self._write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 8\r\n\r\nno order")
        elif not order.events:
            self._write(plain_answer(path, order.answer))
        else:
            self._shape = SHAPES[path]
            self._around = self._shape.around_the_stamp
            self._order, self._left = order, order.events
            self._wants_usage = b'"include_usage"' in body
            self._next = time.monotonic()
            self._write(STREAM_HEAD + self._shape.begin)
            self._more()

    def _more(self) -> None:
        """The next write of a stream."""
        if self._sock.fileno() < 0:
            return
        order, pace = self._order, self._order.every_us / 1e6
        if not pace and len(self._out) > FULL:
            self._timers.at(time.monotonic() + 0.001, self._more)
            return
        count = min(order.burst, self._left)
        self._left -= count
        before, after = self._around
        self._write(b"".join((before, b"%019d" % time.monotonic_ns(), after)) * count)
        if self._left:
            self._next += pace
            self._timers.at(self._next, self._more)
            return
        shape = self._shape
        usage = shape.usage(order.events) if self._wants_usage else b""
        done = DONE if shape.usage is not _nothing else b""
        self._write(shape.end(order.events) + usage + done + END)

    def _write(self, data: bytes) -> None:
        if self._out:
            self._out += data
            return
        self._out = data
        self._flush()

    def _flush(self) -> None:
        try:
            self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        if self._waits != bool(self._out):
            self._waits = not self._waits
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._waits else 0)
            self._selector.modify(self._sock, wanted, self.ready)

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            self._selector.unregister(self._sock)
            self._sock.close()


def main() -> None:
    """Serves on loopback until standard input ends. An argument is the port."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    except OSError as error:
        sys.exit(f"cannot listen on port {port}: {error.strerror}")
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    timers = Timers()

    def accept(_mask: int) -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Peer(sock, selector, timers)

    def end(_mask: int) -> None:
        raise SystemExit(0)

    selector.register(listener, selectors.EVENT_READ, accept)
    selector.register(sys.stdin, selectors.EVENT_READ, end)
    print(f"provider listens on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        for key, mask in selector.select(timers.wait()):
            key.data(mask)
        timers.run()


if __name__ == "__main__":
    main()

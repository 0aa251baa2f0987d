"""The provider process: answers chats as they tell it to, at next to no cost of its own.

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
from collections.abc import Callable
from functools import cache
from typing import Final, final

from bench.wire import HEAD_LIMIT, Order, body_length, is_chunked

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


ROLE: Final = _chunk(_event(_delta('{"role":"assistant","content":"","refusal":null}')))
_STAMPED: Final = _event(_delta('{"content":" @%019d@"}')).replace(b"%019d", b"0" * 19)
_BEFORE, _AFTER = _chunk(_STAMPED).split(b"0" * 19)
FINISH: Final = _chunk(_event(_delta("{}", '"stop"')))
DONE: Final = _chunk(b"data: [DONE]\n\n")


@cache
def usage_chunk(events: int) -> bytes:
    """The chunk for those who ask for usage."""
    usage = f'{{"prompt_tokens":20,"completion_tokens":{events},"total_tokens":{events + 20}}}'
    return _chunk(_event("[]", f',"usage":{usage}'))


@cache
def plain_answer(size: int) -> bytes:
    """A whole HTTP answer whose body has about `size` bytes."""
    usage = {"prompt_tokens": 20, "completion_tokens": size // 4, "total_tokens": 20 + size // 4}
    message = {"role": "assistant", "content": "", "refusal": None}
    answer: dict[str, object] = {
        "id": "chatcmpl-B0ZcVYbC8lDdE4bWGZkbench",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "bench",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage,
    }
    message["content"] = "It costs what it costs. " * ((size - len(json.dumps(answer))) // 24 + 1)
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
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        order = Order.found_in(body)
        if order is None:
            self._write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 8\r\n\r\nno order")
        elif not order.events:
            self._write(plain_answer(order.answer))
        else:
            self._order, self._left = order, order.events
            self._wants_usage = b'"include_usage"' in body
            self._next = time.monotonic()
            self._write(STREAM_HEAD + ROLE)
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
        self._write(b"".join((_BEFORE, b"%019d" % time.monotonic_ns(), _AFTER)) * count)
        if self._left:
            self._next += pace
            self._timers.at(self._next, self._more)
            return
        usage = usage_chunk(order.events) if self._wants_usage else b""
        self._write(FINISH + usage + DONE + END)

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

"""What the load generator and the provider say to each other through a gateway.

A gateway must pass what is said unchanged, so the last text tells the provider how to
answer (`Order`), and every streamed event carries the time it was written at (`STAMP`). The
monotonic clock is the same for all processes of a machine, so its delay is one subtraction.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self, final

PATHS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "chat": "/chat/completions",
        "responses": "/responses",
        "messages": "/messages",
        "embeddings": "/embeddings",
        "completions": "/completions",
    }
)
"""Where each door is, behind a base URL."""

ENDS: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "chat": b"[DONE]",
        "completions": b"[DONE]",
        "responses": b'"response.completed"',
        "messages": b"event: message_stop\n",
    }
)
"""What stands in the end of a whole stream, and nowhere else."""

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of an answer's head; more is garbage."""

STAMP: Final = re.compile(rb"@(\d{19})@")
"""Nanoseconds of the monotonic clock at which an event was written."""

_ORDER: Final = re.compile(rb"\[\[answer=(\d+) events=(\d+) every_us=(\d+) burst=(\d+)\]\]")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSES: Final = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)

_WORDS: Final = "The quick brown fox jumps over the lazy dog and counts what every token costs. "
_MESSAGE_BYTES: Final = 2000
"""How long one message of a padded conversation is."""


@final
@dataclass(frozen=True, slots=True)
class Order:
    """How the provider is to answer: `answer` bytes at once, or `events` server-sent events.

    `burst` events go out in one write, one write each `every_us` microseconds, 0 for as fast as
    the socket takes them.
    """

    answer: int = 0
    events: int = 0
    every_us: int = 0
    burst: int = 1

    def __str__(self) -> str:
        return (
            f"[[answer={self.answer} events={self.events} "
            f"every_us={self.every_us} burst={self.burst}]]"
        )

    @classmethod
    def found_in(cls, body: bytes) -> Self | None:
        """The order in a request's body; None if it has none."""
        match = _ORDER.search(body, max(0, body.rfind(b"[[answer=")))
        return None if match is None else cls(*map(int, match.groups()))


def body_of(door: str, model: str, order: Order, size: int) -> bytes:
    """A request of about `size` bytes: a conversation, or its texts, the last of them the order."""
    padding = max(0, size - 200)
    messages = [{"role": "system", "content": "You are measured."}]
    for start in range(0, padding, _MESSAGE_BYTES):
        length = min(_MESSAGE_BYTES, padding - start)
        text = (_WORDS * (length // len(_WORDS) + 1))[:length]
        messages.append({"role": "assistant" if start else "user", "content": text})
    messages.append({"role": "user", "content": f"Answer as told: {order}"})
    texts = [message["content"] for message in messages]
    said: dict[str, object]
    match door:
        case "responses":
            said = {"input": messages}
        case "messages":
            said = {"max_tokens": 4096, "system": texts[0], "messages": messages[1:]}
        case "embeddings":
            said = {"input": texts}
        case "completions":
            said = {"prompt": "\n".join(texts)}
        case _:
            said = {"messages": messages}
    if order.events:
        said["stream"] = True
    return json.dumps({"model": model, **said}).encode()


SDK_HEADERS: Final = (
    ("Accept-Encoding", "gzip, deflate"),
    ("Connection", "keep-alive"),
    ("Accept", "application/json"),
    ("Content-Type", "application/json"),
    ("User-Agent", "OpenAI/Python 3.52.0"),
    ("X-Stainless-Lang", "python"),
    ("X-Stainless-Package-Version", "3.52.0"),
    ("X-Stainless-OS", "Linux"),
    ("X-Stainless-Arch", "x64"),
    ("X-Stainless-Runtime", "CPython"),
    ("X-Stainless-Runtime-Version", "3.11.7"),
    ("Authorization", "Bearer sk-bench"),
    ("X-Stainless-Async", "false"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-read-timeout", "600"),
)
"""What the OpenAI SDK for Python sends; parsing heads is a good part of what a relay does."""


def http_request(host: str, path: str, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
    """A whole HTTP/1.1 request as an SDK would send it; `headers` replace its own."""
    ours = {name.lower() for name, _ in headers}
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        *(f"{name}: {value}" for name, value in SDK_HEADERS if name.lower() not in ours),
        *(f"{name}: {value}" for name, value in headers),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def body_length(head: bytes) -> int | None:
    """Content-Length of a head; None if it has none."""
    match = _LENGTH.search(head)
    return None if match is None else int(match[1])


def is_chunked(head: bytes) -> bool:
    """Whether a head announces the chunked coding."""
    return _CHUNKED.search(head) is not None


class Garbled(Exception):  # noqa: N818 - a fact about what came
    """What came is not HTTP."""


@final
class AnswerReader:
    """Reads one HTTP answer. Cheap, and trusting: it reads gateways under test, not the world."""

    __slots__ = ("_buffer", "_chunked", "_left", "closes", "complete", "head", "status")

    def __init__(self) -> None:
        self._buffer = b""
        self._chunked = False
        self._left = 0
        self.head = b""
        self.status = 0
        self.closes = False
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """The body bytes in `data`. Raises Garbled."""
        if not self.status:
            data = self._read_head(data)
            if not self.status:
                return b""
        if self._chunked:
            return self._unchunk(data)
        if self._left:
            self._left -= len(data)
            self.complete = self._left <= 0
        return data

    def end(self) -> None:
        """The connection was closed, which ends a body without framing."""
        self.closes = True
        self.complete = self.status != 0 and not self._chunked and self._left <= 0

    def _read_head(self, data: bytes) -> bytes:
        self._buffer += data
        at = self._buffer.find(b"\r\n\r\n")
        if at < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise Garbled("a head without an end")
            return b""
        self.head, rest, self._buffer = self._buffer[:at], self._buffer[at + 4 :], b""
        if not self.head.startswith(b"HTTP/1.") or not self.head[9:12].isdigit():
            raise Garbled("an answer that is not HTTP/1.1")
        self.status = int(self.head[9:12])
        self.closes = _CLOSES.search(self.head) is not None
        self._chunked = is_chunked(self.head)
        length = body_length(self.head)
        self._left = length or 0
        self.complete = length == 0 and not self._chunked
        return rest

    def _unchunk(self, data: bytes) -> bytes:
        """`_left`: bytes until the end of the chunk's data, -2 and -1 are those of its CR LF."""
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        parts = []
        at = 0
        while at < len(data):
            if self._left > 0:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left == 0:
                    self._left = -2
                continue
            if self._left < 0:
                step = min(-self._left, len(data) - at)
                at += step
                self._left += step
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._buffer = data[at:]
                break
            try:
                size = int(data[at:end].partition(b";")[0], 16)
            except ValueError:
                raise Garbled("a chunk without a size") from None
            if size == 0:
                # Trailers are not used by anyone measured here.
                if len(data) < end + 4:
                    self._buffer = data[at:]
                else:
                    self.complete = True
                break
            self._left = size
            at = end + 2
        return b"".join(parts)

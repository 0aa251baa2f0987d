"""The mock providers of `arbstr run --mock`: real HTTP servers on loopback, no network, no money.

    async with open_mock_providers(["mock-cheap", "mock-expensive"]) as urls:
        ...                     # urls["mock-cheap"] == "http://127.0.0.1:40123/v1"

Each provider listens on a port of its own and speaks HTTP/1.1 through h11, so everything between
arbstr and a provider (sockets, framing, keep-alive) is what it would be with a real one. The
answers are made of the request alone: the same request is answered with the same words and the
same usage, only the id counts up. A provider in `failing` answers every chat with a 503.

`delay` is how long a provider thinks before it answers; the events of a stream then follow at a
tenth of it. Without a delay a stream is written in one piece, which costs the least CPU.
"""

import itertools
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, TypeAlias, final

import h11
import trio

JSON: TypeAlias = Mapping[str, object]

MOCK_CONFIG: Final = """\
[server]
listen = "127.0.0.1:8080"

[[providers]]
name = "mock-cheap"
url = "http://127.0.0.1:1/v1"    # its port is known once it listens, and replaced then
models = ["gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet"]
kind = "openai"
input_rate = 1
output_rate = 3

[[providers]]
name = "mock-expensive"
url = "http://127.0.0.1:1/v1"
models = ["gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet"]
kind = "openai"
input_rate = 10
output_rate = 30
base_fee = 1

[[policies.rules]]
name = "code_generation"
allowed_models = ["claude-3.5-sonnet", "gpt-4o"]
strategy = "cheapest"
max_sats_per_1k_output = 50
keywords = ["code", "function", "implement"]
"""
"""What `run --mock` reads instead of a file, with the placeholder URLs replaced after parsing."""

_MODELS: Final = ("claude-3.5-sonnet", "gpt-4o", "gpt-4o-mini")
_CREATED: Final = 1_767_225_600
"""Unix seconds, 2026-01-01: a fixed `created`, so that answers can be compared."""
_BYTES_A_TOKEN: Final = 4
"""What a token is taken for; English text in OpenAI's tokenizers comes near it."""
_QUOTED: Final = 400
"""Characters of the user's text that an answer repeats: enough to recognise it (picked)."""
_MAX_CHOICES: Final = 128
"""The largest `n` the OpenAI API takes."""
_PACE: Final = 0.1
"""The pause between two events of a stream, as a part of `delay` (picked)."""
_READ: Final = 65_536
"""Bytes taken from the socket at once; h11's and trio's own size."""


@final
@dataclass(frozen=True, slots=True)
class MockProvider:
    """One mock: its `name` is in every answer; `delay` is in seconds; `fail` answers with 503."""

    name: str
    fail: bool
    delay: float


@asynccontextmanager
async def open_mock_providers(
    names: Iterable[str], *, delay: float = 0.0, failing: frozenset[str] = frozenset()
) -> AsyncIterator[Mapping[str, str]]:
    """Serve one mock provider per name until the block ends; yields name -> base URL (".../v1").

    `delay` in seconds, see the module. OSError if no port can be had. Leaving the block cuts the
    answers that are still being written.
    """
    async with trio.open_nursery() as nursery:
        urls = {}
        for name in names:
            provider = MockProvider(name, name in failing, delay)
            handler = partial(_serve, provider=provider, ids=itertools.count(1))
            # serve_tcp owns the listener it opens; start() hands out its port.
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
            )
            urls[name] = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1"
        yield urls
        nursery.cancel_scope.cancel()


async def _serve(stream: trio.SocketStream, provider: MockProvider, ids: Iterator[int]) -> None:
    """One connection of a client, request after request, until one side ends it."""
    connection = h11.Connection(h11.SERVER)
    try:
        while (request := await _read_request(stream, connection)) is not None:
            await _answer(stream, connection, provider, ids, *request)
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except trio.BrokenResourceError:
        pass  # The client left in the middle: arbstr does so whenever its own client leaves.
    except h11.RemoteProtocolError as error:
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await _refuse(stream, connection, HTTPStatus(error.error_status_hint))


async def _read_request(
    stream: trio.SocketStream, connection: h11.Connection
) -> tuple[h11.Request, bytes] | None:
    """The next request with its whole body; None when the client has closed."""
    request = None
    body = bytearray()
    while True:
        event = connection.next_event()
        match event:
            case h11.Request():
                request = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                if request is not None:
                    return request, bytes(body)
            case h11.ConnectionClosed():
                return None
            case h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await stream.send_all(connection.send(go_on))
                connection.receive_data(await stream.receive_some(_READ))
            case _:
                return None  # PAUSED: an upgrade, which nobody offers here.


async def _answer(
    stream: trio.SocketStream,
    connection: h11.Connection,
    provider: MockProvider,
    ids: Iterator[int],
    request: h11.Request,
    body: bytes,
) -> None:
    path = request.target.split(b"?")[0]
    if path == b"/v1/models" and request.method == b"GET":
        await _send_json(stream, connection, 200, _model_list(provider))
    elif path not in (b"/v1/models", b"/v1/chat/completions"):
        await _refuse(stream, connection, HTTPStatus.NOT_FOUND, silent=request.method == b"HEAD")
    elif path == b"/v1/models" or request.method != b"POST":
        status = HTTPStatus.METHOD_NOT_ALLOWED
        await _refuse(stream, connection, status, silent=request.method == b"HEAD")
    elif provider.fail:
        reason = f"{provider.name} was told to fail"
        await _refuse(stream, connection, HTTPStatus.SERVICE_UNAVAILABLE, reason)
    else:
        chat = _read_chat(body)
        if isinstance(chat, str):
            await _refuse(stream, connection, HTTPStatus.BAD_REQUEST, chat)
            return
        await trio.sleep(provider.delay)
        reply = _Reply(f"chatcmpl-{provider.name}-{next(ids)}", chat, _parts(provider.name, chat))
        if chat.stream:
            await _send_stream(stream, connection, reply.events(), provider.delay * _PACE)
        else:
            await _send_json(stream, connection, 200, reply.completion())


@final
@dataclass(frozen=True, slots=True)
class _Chat:
    """What a mock reads of a request. `tool` is the call to make: a name and JSON arguments."""

    model: str
    stream: bool
    include_usage: bool
    choices: int
    max_tokens: int | None
    said: str
    prompt_tokens: int
    tool: tuple[str, str] | None


def _read_chat(body: bytes) -> _Chat | str:
    """The chat in a body, or what is wrong with it in a sentence."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return "the body is not JSON"
    if not isinstance(asked, dict):
        return "the body is not a JSON object"
    model, messages = asked.get("model"), asked.get("messages")
    if not isinstance(model, str):
        return "model must be a string"
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return "messages must be a list of objects"
    texts = [(message.get("role"), _text(message.get("content"))) for message in messages]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for _, text in texts)
    choices = 1 if asked.get("n") is None else asked["n"]
    if type(choices) is not int or not 1 <= choices <= _MAX_CHOICES:
        return f"n must be a whole number from 1 to {_MAX_CHOICES}"
    limits = (asked.get("max_completion_tokens"), asked.get("max_tokens"))
    limit = next((limit for limit in limits if limit is not None), None)
    if limit is not None and (type(limit) is not int or limit < 1):
        return "max_completion_tokens and max_tokens must be whole numbers above 0"
    tool = _tool_call(asked.get("tools"), asked.get("tool_choice"))
    if isinstance(tool, str):
        return tool
    options = asked.get("stream_options")
    return _Chat(
        model=model,
        stream=asked.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        choices=choices,
        max_tokens=limit,
        said=next((text for role, text in reversed(texts) if role == "user"), ""),
        prompt_tokens=max(1, -(-size // _BYTES_A_TOKEN)),
        tool=tool,
    )


def _text(content: object) -> str:
    """The text of a message: a string, or all its text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return " ".join(part for part in parts if isinstance(part, str))


def _tool_call(tools: object, choice: object) -> tuple[str, str] | str | None:
    """The call a `tool_choice` forces: the function it names, the first one if "required".

    None: no call is forced. A string: why the choice cannot be met.
    """
    wanted = None
    if isinstance(choice, dict):
        function = choice.get("function")
        wanted = function.get("name") if isinstance(function, dict) else None
    elif choice != "required":
        return None
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(function, dict) and isinstance(name, str) and wanted in (None, name):
            return name, _arguments(function.get("parameters"))
    return "tool_choice names no function of tools"


_SPECIMENS: Final[JSON] = {
    "string": "mock",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "array": (),
    "object": {},
}
"""JSON Schema type -> what a mock passes for an argument of it; null for any other."""


def _arguments(schema: object) -> str:
    """JSON arguments with a specimen for every property a function's schema requires."""
    if not isinstance(schema, dict):
        return "{}"
    properties, required = schema.get("properties"), schema.get("required")
    arguments: dict[str, object] = {}
    for name in required if isinstance(required, list) else ():
        rule = properties.get(name) if isinstance(properties, dict) and type(name) is str else None
        kind = rule.get("type") if isinstance(rule, dict) else None
        arguments[str(name)] = _SPECIMENS.get(kind) if isinstance(kind, str) else None
    return json.dumps(arguments, separators=(",", ":"))


def _parts(name: str, chat: _Chat) -> tuple[str, ...]:
    """What the model says, a word or a piece of JSON at a time: each counts as one token."""
    if chat.tool is not None:
        arguments = chat.tool[1]
        return tuple(arguments[i : i + 8] for i in range(0, len(arguments), 8))
    text = f"Hello from {name} ({chat.model}). You said: {chat.said[:_QUOTED]}"
    first, *rest = text.split(" ")
    return (first, *(f" {word}" for word in rest))


@final
class _Reply:
    """The answer to one chat, whole or as a stream, in OpenAI's shapes."""

    def __init__(self, ident: str, chat: _Chat, parts: tuple[str, ...]) -> None:
        self._ident = ident
        self._chat = chat
        # A limit cuts words, never a tool call: its arguments must remain JSON.
        cut = chat.tool is None and chat.max_tokens is not None and chat.max_tokens < len(parts)
        self._parts = parts[: chat.max_tokens] if cut else parts
        self._finish = "tool_calls" if chat.tool is not None else "length" if cut else "stop"

    def completion(self) -> JSON:
        """A `chat.completion` object."""
        text = "".join(self._parts)
        if self._chat.tool is None:
            message: JSON = {"role": "assistant", "content": text, "refusal": None}
        else:
            calls = [self._call(text)]
            message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": self._finish}
            for index in range(self._chat.choices)
        ]
        return {**self._envelope("chat.completion"), "choices": choices, "usage": self._usage()}

    def events(self) -> Iterator[bytes]:
        """The same as server-sent events: role, parts, finish reason, usage if asked, [DONE]."""
        yield self._step({"role": "assistant", "content": "" if self._chat.tool is None else None})
        if self._chat.tool is not None:
            yield self._step({"tool_calls": [{"index": 0, **self._call("")}]})
        for part in self._parts:
            if self._chat.tool is None:
                yield self._step({"content": part})
            else:
                yield self._step({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        yield self._step({}, self._finish)
        if self._chat.include_usage:
            yield self._event([], self._usage())
        yield b"data: [DONE]\n\n"

    def _step(self, delta: JSON, finish: str | None = None) -> bytes:
        """The same delta for every choice, an event each."""
        return b"".join(
            self._event(
                [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
            )
            for index in range(self._chat.choices)
        )

    def _event(self, choices: list[JSON], usage: JSON | None = None) -> bytes:
        chunk = {**self._envelope("chat.completion.chunk"), "choices": choices}
        if self._chat.include_usage:
            chunk["usage"] = usage  # null but in the last chunk, as OpenAI does when asked
        return b"data: %b\n\n" % _dump(chunk)

    def _envelope(self, kind: str) -> dict[str, object]:
        return {"id": self._ident, "object": kind, "created": _CREATED, "model": self._chat.model}

    def _call(self, arguments: str) -> JSON:
        name = self._chat.tool[0] if self._chat.tool is not None else ""
        function = {"name": name, "arguments": arguments}
        return {"id": f"call-{self._ident}", "type": "function", "function": function}

    def _usage(self) -> JSON:
        prompt, completion = self._chat.prompt_tokens, len(self._parts) * self._chat.choices
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def _model_list(provider: MockProvider) -> JSON:
    models = [
        {"id": model, "object": "model", "created": _CREATED, "owned_by": provider.name}
        for model in _MODELS
    ]
    return {"object": "list", "data": models}


def _dump(value: JSON) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


async def _refuse(
    stream: trio.SocketStream,
    connection: h11.Connection,
    status: HTTPStatus,
    reason: str | None = None,
    *,
    silent: bool = False,
) -> None:
    """Send an error in OpenAI's shape; `silent` leaves the body out, for HEAD."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error = {"message": reason or status.phrase, "type": kind, "param": None, "code": "mock_error"}
    await _send_json(stream, connection, status.value, {"error": error}, silent=silent)


async def _send_json(
    stream: trio.SocketStream,
    connection: h11.Connection,
    status: int,
    value: JSON,
    *,
    silent: bool = False,
) -> None:
    body = _dump(value)
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    pieces = [connection.send(h11.Response(status_code=status, headers=headers))]
    if not silent:
        pieces.append(connection.send(h11.Data(data=body)))
    pieces.append(connection.send(h11.EndOfMessage()))
    await stream.send_all(b"".join(piece for piece in pieces if piece))


async def _send_stream(
    stream: trio.SocketStream, connection: h11.Connection, events: Iterator[bytes], pause: float
) -> None:
    """Write the events, one at a time `pause` seconds apart, or all at once if it is 0."""
    headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")]
    head = connection.send(h11.Response(status_code=200, headers=headers)) or b""
    if pause > 0:
        await stream.send_all(head)
        head = b""
        for event in events:
            await stream.send_all(connection.send(h11.Data(data=event)) or b"")
            await trio.sleep(pause)
        body = b""
    else:
        body = connection.send(h11.Data(data=b"".join(events))) or b""
    await stream.send_all(head + body + (connection.send(h11.EndOfMessage()) or b""))

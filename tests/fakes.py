"""Fake providers: real servers on loopback that do what a script says, one script a way to hang.

In a test's own process, under trio:

    async with open_fake_provider([answer(503), stream(hello("Hi"))]) as fake:
        ...  point arbstr at fake.url
        assert fake.hits == 2 and fake.requests[0].body == ...
        await fake.wait_left()          # until arbstr has left a request behind

In a process of its own (`python -m tests.fakes`), for tests of the whole program; there the model
id or the first segment of the path names the behaviour (see `BEHAVIOURS`):

    with fake_process() as fake:
        ...  providers at fake.url, fake.url_of("fake-503"), or model ids like "fake-cut"
        fake.wait(requests=1)
        fake.requests(), fake.connections(), fake.behave("fake-503", "fake-ok"), fake.reset()

A script is one behaviour for every request, a function of the request, or a sequence of these
(the last one stays). A behaviour is a `Play`: steps (bytes to write, an Event to wait for, seconds
to sleep) and an ending; or an `Unread`, which strikes before the request is read. Requests are
parsed by h11, answers are written by hand, so that they can be wrong in every way.
"""

import argparse
import base64
import http.client
import itertools
import json
import os
import re
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, final
from urllib.parse import parse_qsl, urlsplit

import h11
import trio

from tests import zygote

Headers: TypeAlias = Iterable[tuple[str, str]]
Step: TypeAlias = bytes | trio.Event | float
Ending: TypeAlias = Literal["keep", "fin", "rst", "hang"]

PATIENCE: Final = 20.0
"""Seconds a `wait_*` waits before it fails the test; only a broken test ever comes near."""


@final
@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: headers in order and in their own case, the body's bytes."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    at: float  # trio.current_time() when its last byte was read

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first value of a header, whatever its case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    @property
    def wants_stream(self) -> bool:
        """Also for a body that Python's parser refuses (too deep): then its bytes tell."""
        try:
            return bool(self.json.get("stream"))
        except (ValueError, RecursionError, AttributeError):
            return re.search(rb'"stream"\s*:\s*true', self.body) is not None


@final
@dataclass(frozen=True, slots=True)
class Play:
    """What follows a request. `ending`: "keep" the connection for the next request (the answer
    was complete), close it ("fin"), reset it ("rst"), or "hang" until the other side closes."""

    steps: tuple[Step, ...] = ()
    ending: Ending = "keep"
    forever: bytes = b""  # written every `gap` seconds after the steps, until the client leaves
    gap: float = 0.01


@final
@dataclass(frozen=True, slots=True)
class Unread:
    """Read only `count` bytes of the connection, then close, reset, or hang without reading."""

    count: int = 0
    ending: Literal["fin", "rst", "hang"] = "fin"


Behaviour: TypeAlias = Play | Unread
Chooser: TypeAlias = Callable[[Request], Behaviour]
Script: TypeAlias = Behaviour | Chooser | Sequence[Behaviour | Chooser]

ACCEPT_AND_CLOSE: Final = Unread()
CLOSE_AFTER_REQUEST: Final = Play(ending="fin")
RESET_AFTER_REQUEST: Final = Play(ending="rst")
SILENCE: Final = Play(ending="hang")
DONE: Final = b"data: [DONE]\n\n"


_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def head(status: int, headers: Headers) -> bytes:
    """An HTTP/1.1 response head."""
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unnamed')}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(
    status: int = 200,
    body: bytes = b"",
    headers: Headers = (),
    *,
    content_type: str = "application/json",
    before: Sequence[trio.Event | float] = (),
) -> Play:
    """A complete answer with a content-length. `before`: what to wait for before the head."""
    framing = [("content-type", content_type), ("content-length", str(len(body)))]
    return Play((*before, head(status, [*framing, *headers]) + body))


def json_answer(
    value: object,
    status: int = 200,
    headers: Headers = (),
    *,
    before: Sequence[trio.Event | float] = (),
) -> Play:
    return answer(status, json.dumps(value).encode(), headers, before=before)


def error_answer(
    status: int,
    message: str = "the fake says no",
    headers: Headers = (),
    *,
    error_type: str = "fake_error",
    code: object = None,
) -> Play:
    """An OpenAI-shaped error; with status 200 an error where an answer was due."""
    return json_answer({"error": error_object(message, error_type, code)}, status, headers)


def error_object(message: str, error_type: str = "fake_error", code: object = None) -> object:
    return {"message": message, "type": error_type, "param": None, "code": code}


def stream(
    events: Iterable[Step],
    *,
    ending: Literal["clean", "fin", "rst", "hang"] = "clean",
    framing: Literal["chunked", "close"] = "chunked",
    headers: Headers = (),
    content_type: str = "text/event-stream",
    before: Sequence[trio.Event | float] = (),
) -> Play:
    """A streamed 200, every bytes step a chunk; gates and seconds may stand between them.

    "clean" ends the body as its framing does; "fin" closes without the chunked terminator.
    """
    chunked = framing == "chunked"
    how = ("transfer-encoding", "chunked") if chunked else ("connection", "close")
    steps: list[Step] = [*before, head(200, [("content-type", content_type), how, *headers])]
    steps += [
        _chunked(event) if chunked and isinstance(event, bytes) else event for event in events
    ]
    if ending != "clean":
        return Play(tuple(steps), ending)
    if chunked:
        steps.append(b"0\r\n\r\n")
    return Play(tuple(steps), "keep" if chunked else "fin")


def endless(events: Sequence[Step], forever: bytes, gap: float = 0.01) -> Play:
    """A stream that says `forever` again every `gap` seconds until the client leaves."""
    return Play(stream(events, ending="hang").steps, "hang", _chunked(forever), gap)


def half_answer(
    body: bytes,
    sent: int | None = None,
    *,
    ending: Literal["fin", "rst", "hang"] = "rst",
    content_type: str = "application/json",
    headers: Headers = (),
) -> Play:
    """The head promises the whole body, `sent` bytes of it come (half of it if not said)."""
    framing = [("content-type", content_type), ("content-length", str(len(body)))]
    part = body[: len(body) // 2 if sent is None else sent]
    return Play((head(200, [*framing, *headers]) + part,), ending)


def html200() -> Play:
    return answer(200, b"<!doctype html><title>Welcome</title>", content_type="text/html")


def truncated_json() -> Play:
    """A complete HTTP answer whose JSON stops in the middle."""
    return answer(200, json.dumps(completion("Hello there")).encode()[:60])


def raw(data: bytes, ending: Ending = "fin") -> Play:
    """These bytes, whatever they are; for instance a recorded answer."""
    return Play((data,), ending)


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ---- chats in OpenAI's shape


def usage(prompt: int = 10, completion: int = 5, **more: object) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {**counts, "total_tokens": prompt + completion, **more}


_COUNTS: Final[Mapping[str, Any]] = MappingProxyType(usage())


def completion(
    text: str | None = "Hello",
    *,
    usage: Mapping[str, Any] | None = _COUNTS,
    finish: str | None = "stop",
    model: str = "gpt-4o",
    message: Mapping[str, Any] = MappingProxyType({}),
    **more: object,
) -> dict[str, Any]:
    """A chat.completion; `message` and `more` are merged into the message and the object."""
    said = {"role": "assistant", "content": text, **message}
    whole: dict[str, Any] = {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [{"index": 0, "message": said, "finish_reason": finish}],
    }
    return {**whole, **({} if usage is None else {"usage": dict(usage)}), **more}


def chunk(
    content: str | None = None,
    *,
    role: str | None = None,
    finish: str | None = None,
    usage: Mapping[str, Any] | None = None,
    index: int = 0,
    model: str = "gpt-4o",
    delta: Mapping[str, Any] = MappingProxyType({}),
    **more: object,
) -> dict[str, Any]:
    """A chat.completion.chunk; with `usage` and nothing said it is a usage chunk (no choices)."""
    said = {**({"role": role} if role else {}), **delta}
    if content is not None:
        said["content"] = content
    choice = {"index": index, "delta": said, "finish_reason": finish}
    whole: dict[str, Any] = {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": model,
        "choices": [] if usage is not None and not said and finish is None else [choice],
    }
    return {**whole, **({} if usage is None else {"usage": dict(usage)}), **more}


def sse(value: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(value).encode()


ROLE: Final = sse(chunk("", role="assistant"))
WORD: Final = sse(chunk("Hello"))
STOP: Final = sse(chunk(finish="stop"))
USAGE: Final = sse(chunk(usage=usage()))
"""The events of a stream, in this order, before `DONE`; 10 and 5 tokens."""


def hello(
    text: str = "Hello there", *, usage: Mapping[str, Any] | None = _COUNTS, model: str = "gpt-4o"
) -> tuple[bytes, ...]:
    """The events of a good stream: role, a chunk a word, finish, usage (unless None), [DONE]."""
    words = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]
    return (
        sse(chunk("", role="assistant", model=model)),
        *(sse(chunk(word, model=model)) for word in words),
        sse(chunk(finish="stop", model=model)),
        *(() if usage is None else (sse(chunk(usage=usage, model=model)),)),
        DONE,
    )


# ---- behaviours by name


ROUTSTR_ID: Final = ("x-routstr-request-id", "4534d74c-a137-4c39-9a03-aae190b3b309")
ROUTSTR_USAGE: Final = usage(
    100,
    50,
    cost={"base_msats": 0, "input_msats": 202, "output_msats": 303, "total_msats": 505},
    cost_sats=0,
    remaining_balance_msats=999495,
)
"""As a Routstr node states it: 505 msat were charged for this answer."""


def routstr_error(status: int, error_type: str = "upstream_error", code: object = None) -> Play:
    """An error written by a Routstr node itself: its request id in the head and the body."""
    error = {"message": "the node says no", "type": error_type, "code": code or status}
    return json_answer({"error": error, "request_id": ROUTSTR_ID[1]}, status, [ROUTSTR_ID])


def _both(plain: Play, streamed: Play) -> Chooser:
    return lambda request: streamed if request.wants_stream else plain


_TEXT: Final = completion("Hello there")
_BODY: Final = json.dumps(_TEXT).encode()
_ERROR: Final = {"error": error_object("the fake broke", "server_error", 500)}
_TICKS: Final = [step for _ in range(20) for step in (0.1, sse(chunk(" tick")))]
_CALL: Final = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
}

BEHAVIOURS: Final[Mapping[str, Chooser]] = MappingProxyType(
    {
        "fake-ok": _both(json_answer(_TEXT), stream(hello())),
        "fake-no-usage": _both(
            json_answer(completion("Hello there", usage=None)), stream(hello(usage=None))
        ),
        "fake-tools": _both(
            json_answer(completion(None, finish="tool_calls", message={"tool_calls": [_CALL]})),
            stream(
                [
                    ROLE,
                    sse(chunk(delta={"tool_calls": [{"index": 0, **_CALL}]})),
                    sse(chunk(finish="tool_calls")),
                    USAGE,
                    DONE,
                ]
            ),
        ),
        "fake-routstr": _both(
            json_answer(
                completion("Hello there", usage=ROUTSTR_USAGE),
                headers=[ROUTSTR_ID, ("x-routstr-cost-msats", "505")],
            ),
            stream(hello(usage=ROUTSTR_USAGE), headers=[ROUTSTR_ID]),
        ),
        "fake-routstr-500": _both(routstr_error(500), routstr_error(500)),
        # reads the request, then closes, resets, or never answers
        "fake-close": _both(CLOSE_AFTER_REQUEST, CLOSE_AFTER_REQUEST),
        "fake-reset": _both(RESET_AFTER_REQUEST, RESET_AFTER_REQUEST),
        "fake-hang": _both(SILENCE, SILENCE),
        # an answer that goes wrong in the middle: one content chunk, or half of the body
        "fake-cut": _both(half_answer(_BODY, ending="fin"), stream([ROLE, WORD], ending="fin")),
        "fake-cut-reset": _both(half_answer(_BODY), stream([ROLE, WORD], ending="rst")),
        "fake-stall": _both(half_answer(_BODY, ending="hang"), stream([ROLE, WORD], ending="hang")),
        "fake-role": _both(half_answer(_BODY, 0), stream([ROLE], ending="fin")),
        # errors inside a 200, before and after output
        "fake-error-first": _both(json_answer(_ERROR), stream([sse(_ERROR)])),
        "fake-error-late": _both(json_answer(_ERROR), stream([ROLE, WORD, sse(_ERROR)])),
        "fake-html": _both(html200(), html200()),
        "fake-truncated": _both(truncated_json(), truncated_json()),
        # two seconds of ticks; ticks without an end
        "fake-slow": _both(
            json_answer(_TEXT, before=[2.0]),
            stream([ROLE, *_TICKS, STOP, USAGE, DONE]),
        ),
        # an answer that is begun after two seconds
        "fake-late": _both(json_answer(_TEXT, before=[2.0]), stream(hello(), before=[2.0])),
        "fake-endless": _both(SILENCE, endless([ROLE], sse(chunk(" tick")))),
    }
)
"""Beside these, `fake-<status>` is that status with an OpenAI-shaped error,
`fake-<status>-<seconds>` adds `retry-after`, and `fake-usage-<input>-<output>` is `fake-ok` with so
many tokens."""


def behaviour_named(name: str) -> Chooser | None:
    if match := re.fullmatch(r"fake-usage-(\d+)-(\d+)", name):
        counts = usage(int(match[1]), int(match[2]))
        told = json_answer(completion("Hello there", usage=counts))
        return _both(told, stream(hello(usage=counts)))
    match = re.fullmatch(r"fake-([2-5]\d\d)(?:-(\d+))?", name)
    if match is None:
        return BEHAVIOURS.get(name)
    after = [("retry-after", match[2])] if match[2] else []
    message = "the fake knows no such model" if match[1] == "404" else "the fake says no"
    play = error_answer(int(match[1]), message, headers=after)
    return lambda request: play


def by_name(request: Request) -> Behaviour:
    """The script of a provider in its own process: what the path or the model id names."""
    try:
        model = str(request.json["model"])
    except (ValueError, RecursionError, KeyError, TypeError):
        model = ""
    names = (*request.path.split("/")[1:2], model)
    chosen = next(filter(None, map(behaviour_named, names)), BEHAVIOURS["fake-ok"])
    return chosen(request)


# ---- the server


@final
class FakeProvider:
    """A provider that follows a script, and what it has seen.

    `hits` counts the requests read and the connections an `Unread` ended; `connections` those ever
    accepted, `connections_open` those not yet closed; `left` the requests whose client went away
    before the answer was over; `closed` the connections clients have closed, idle ones too, and
    `closed_at` the trio time of the last. Requests for paths that begin with `/_` are a test's
    questions (see `_control`); they and their connections are counted nowhere.
    """

    def __init__(self, script: Script, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        self.requests: list[Request] = []
        self.hits = self.connections = self.connections_open = self.left = self.closed = 0
        self.closed_at: float | None = None
        self._up = trio.CancelScope()
        self._gap = 0.0
        self._tls = tls
        self._ids = itertools.count(1)
        self._changed = trio.Event()
        self._first_script = script
        self._queue: list[Behaviour | Chooser] = []
        self.set_script(script)

    def set_script(self, script: Script) -> None:
        """Behave so from the next request on."""
        self._queue = list(script) if isinstance(script, Sequence) else [script]

    def reset(self) -> None:
        """Forget the requests and counts so far, and return to the first script."""
        self.requests.clear()
        self.hits = self.left = self.closed = 0
        self.connections = self.connections_open
        self.closed_at = None
        self.set_script(self._first_script)

    def go_down(self, seconds: float) -> None:
        """Ends every connection, and takes none for so long: as if killed and started again."""
        self._gap = seconds
        self._up.cancel()

    async def listen(self, listeners: list[trio.SocketListener]) -> None:
        """Serves until cancelled, at the same port after every `go_down`."""
        host, port = listeners[0].socket.getsockname()
        while True:
            with self._up:
                await trio.serve_listeners(self.serve, listeners)
            await trio.sleep(self._gap)
            self._up, listeners = trio.CancelScope(), await trio.open_tcp_listeners(port, host=host)

    async def wait_requests(self, count: int = 1) -> None:
        """Until `count` requests have been read."""
        await self._wait(lambda: len(self.requests) >= count)

    async def wait_hits(self, count: int = 1) -> None:
        """Until `count` entries of the script have been used."""
        await self._wait(lambda: self.hits >= count)

    async def wait_left(self, count: int = 1) -> None:
        """Until `count` requests were left by their client before the answer was over."""
        await self._wait(lambda: self.left >= count)

    async def wait_closed(self, count: int = 1) -> None:
        """Until clients have closed `count` connections."""
        await self._wait(lambda: self.closed >= count)

    async def wait_open(self, count: int = 0) -> None:
        """Until exactly `count` connections are open."""
        await self._wait(lambda: self.connections_open == count)

    async def _wait(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not holds():
                await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _take(self) -> Behaviour | Chooser:
        """The script's next entry; the last one stays."""
        self.hits += 1
        return self._queue.pop(0) if len(self._queue) > 1 else self._queue[0]

    async def serve(self, socket_stream: trio.SocketStream) -> None:
        """One connection, from accept to close."""
        self.connections += 1
        self.connections_open += 1
        wire = _Wire(socket_stream, self._tls, next(self._ids))
        try:
            if await self._converse(wire) and not wire.is_control:
                self.closed += 1
                self.closed_at = trio.current_time()
        finally:
            self.connections_open -= 0 if wire.is_control else 1
            self._change()
            await trio.aclose_forcefully(socket_stream)

    async def _converse(self, wire: "_Wire") -> bool:
        """Request after request. True if the client closed the connection, False if we did."""
        for kept in itertools.count():
            try:
                if isinstance(self._queue[0], Unread):
                    # A new connection is struck at once, a kept one when its next request begins.
                    if kept and not await wire.begun():
                        return True
                    unread = self._take()
                    assert isinstance(unread, Unread)
                    self._change()
                    return await wire.stop_reading(unread)
                request = await wire.read_request()
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                return True
            if request is None:
                return True
            if request.path.startswith("/_"):
                if not wire.is_control:
                    wire.is_control = True
                    self.connections -= 1
                    self.connections_open -= 1
                await wire.perform(await self._control(request))
                continue
            self.requests.append(request)
            entry = self._take()
            play = entry(request) if callable(entry) else entry
            assert isinstance(play, Play), "an Unread must stand in the script itself, in its turn"
            self._change()
            if await wire.perform(play):
                self.left += 1
                return True
            if play.ending != "keep" or wire.must_close:
                return False
        return False

    async def _control(self, request: Request) -> Play:
        """A test in another process asks: /_requests, /_connections, /_reset,
        /_behave/NAME,NAME... and /_wait?requests=N, left=N, closed=N or open=N."""
        where, _, names = request.path[2:].partition("/")
        match where:
            case "requests":
                return json_answer([_exported(request) for request in self.requests])
            case "connections":
                pass
            case "reset":
                self.reset()
            case "behave":
                entries = [behaviour_named(name) for name in names.split(",")]
                if None in entries:
                    return error_answer(404, f"one of these is no behaviour: {names}")
                self.set_script([entry for entry in entries if entry is not None])
            case "wait":
                waits = {
                    "requests": self.wait_requests,
                    "left": self.wait_left,
                    "closed": self.wait_closed,
                    "open": self.wait_open,
                }
                try:
                    for name, count in parse_qsl(urlsplit(request.target).query):
                        await waits[name](int(count))
                except trio.TooSlowError:
                    return error_answer(504, f"waited in vain for {request.target}")
            case _:
                return error_answer(404, f"no such question: {request.target}")
        return json_answer(
            {
                "open": self.connections_open,
                "total": self.connections,
                "closed": self.closed,
                "left": self.left,
                "hits": self.hits,
            }
        )


@final
class _Wire:
    """The bytes of one connection. Requests are read by h11, one machine each, because what we
    write by hand is not h11's business."""

    def __init__(self, plain: trio.SocketStream, tls: ssl.SSLContext | None, ident: int) -> None:
        self._plain = plain
        self._tcp: trio.abc.Stream = plain
        if tls is not None:
            self._tcp = trio.SSLStream(plain, tls, server_side=True, https_compatible=True)
        self._ident = ident
        self._rest = b""
        self.must_close = False
        self.is_control = False

    async def begun(self) -> bool:
        """Wait for the first bytes of the next request; False if the client closed instead."""
        if not self._rest:
            self._rest = bytes(await self._tcp.receive_some(65_536))
        return bool(self._rest)

    async def read_request(self) -> Request | None:
        """The next request with its whole body; None if the client closed."""
        machine = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        if self._rest:
            machine.receive_data(self._rest)
        found: h11.Request | None = None
        body = bytearray()
        while True:
            event = machine.next_event()
            if event is h11.NEED_DATA:
                if machine.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await self._tcp.send_all(machine.send(go_on))
                machine.receive_data(bytes(await self._tcp.receive_some(65_536)))
            elif isinstance(event, h11.Request):
                found = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and found is not None:
                self._rest = machine.trailing_data[0]
                self.must_close = machine.their_state is h11.MUST_CLOSE
                return Request(
                    method=found.method.decode(),
                    target=found.target.decode("latin-1"),
                    headers=tuple(
                        (name.decode("latin-1"), value.decode("latin-1"))
                        for name, value in found.headers.raw_items()
                    ),
                    body=bytes(body),
                    connection=self._ident,
                    at=trio.current_time(),
                )
            else:
                return None

    async def stop_reading(self, unread: Unread) -> bool:
        """Read `count` bytes of the socket and no more. True if the client closed first."""
        missing = unread.count - len(self._rest)
        while missing > 0:
            got = await self._plain.receive_some(missing)
            if not got:
                return True
            missing -= len(got)
        if unread.ending == "hang":
            await trio.sleep_forever()
        if unread.ending == "rst":
            self._reset_on_close()
        return False

    async def perform(self, play: Play) -> bool:
        """Write what the script says. True if the client left before it was over."""
        left = over = False

        async def watch() -> None:
            nonlocal left
            try:
                while data := await self._tcp.receive_some(65_536):
                    self._rest += data
            except trio.BrokenResourceError:
                pass
            # A client may read the last bytes and close before the task that sent them runs
            # again: it gets its turn here, and cancels us.
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            left = not over
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                for step in play.steps:
                    await self._do(step)
                while play.forever:
                    await self._do(play.forever)
                    await self._do(play.gap)
                if play.ending == "hang":
                    await trio.sleep_forever()
                over = True
            except trio.BrokenResourceError:
                left = True
            nursery.cancel_scope.cancel()
        if play.ending == "rst" and not left:
            self._reset_on_close()
        return left

    async def _do(self, step: Step) -> None:
        if isinstance(step, bytes):
            await self._tcp.send_all(step)
        elif isinstance(step, trio.Event):
            await step.wait()
        else:
            await trio.sleep(step)

    def _reset_on_close(self) -> None:
        """With a linger time of 0 close() sends RST and not FIN."""
        self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _exported(request: Request) -> dict[str, object]:
    return {
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "body": base64.b64encode(request.body).decode(),
        "connection": request.connection,
        "at": request.at,
    }


@asynccontextmanager
async def open_fake_provider(
    script: Script = by_name,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[FakeProvider]:
    """Serve a fake until the block ends; `fake.url` is its base URL (".../v1")."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host=host)
        scheme = "http" if tls is None else "https"
        number = listeners[0].socket.getsockname()[1]
        fake = FakeProvider(script, f"{scheme}://{host}:{number}/v1", tls)
        nursery.start_soon(fake.listen, listeners)
        try:
            yield fake
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        # Raised out here, a test's failure reads as if there were no nursery around it.
        raise failure


@contextmanager
def refused_url() -> Iterator[str]:
    """A base URL nobody listens at: its port is bound, so that nobody else gets it either."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@contextmanager
def silent_url() -> Iterator[str]:
    """A base URL where connecting takes for ever: a full backlog drops the SYNs (on Linux)."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


# ---- the same in its own process


@final
class FakeProcess:
    """A fake provider in another process, asked over its control paths. Every call blocks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.base = f"http://127.0.0.1:{port}"
        self.url = f"{self.base}/v1"

    def url_of(self, name: str) -> str:
        """A base URL at which this behaviour answers, whatever the model."""
        return f"{self.base}/{name}/v1"

    def requests(self) -> list[Request]:
        asked = self._ask("/_requests")
        return [
            Request(
                **{
                    **one,
                    "headers": tuple(map(tuple, one["headers"])),
                    "body": base64.b64decode(one["body"]),
                }
            )
            for one in asked
        ]

    def connections(self) -> Mapping[str, int]:
        """Counts: open, total, closed (by clients), left (requests), hits."""
        counts: Mapping[str, int] = self._ask("/_connections")
        return counts

    def wait(self, **counts: int) -> Mapping[str, int]:
        """Until there are so many `requests`, `left`, `closed`, or exactly so many `open`."""
        query = "&".join(f"{name}={count}" for name, count in counts.items())
        found: Mapping[str, int] = self._ask(f"/_wait?{query}")
        return found

    def behave(self, *names: str) -> None:
        """Do these in turn, whatever model and path say; the last one stays."""
        self._ask(f"/_behave/{','.join(names)}")

    def reset(self) -> None:
        """Forget what was seen, and choose by path and model again."""
        self._ask("/_reset")

    def _ask(self, path: str) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("GET", path)
            reply = connection.getresponse()
            text = reply.read()
            assert reply.status == 200, text
            return json.loads(text)


@contextmanager
def fake_process() -> Iterator[FakeProcess]:
    """Run `python -m tests.fakes` until the block ends; it also ends when this process dies."""
    (its_stdin, stdin), (stdout, its_stdout) = os.pipe(), os.pipe()
    process = zygote.begin(
        "tests.fakes",
        ["--until-eof"],
        directory=Path(__file__).parents[1],
        environ=os.environ,
        files=[its_stdin, its_stdout, 2],
    )
    os.close(its_stdin)
    os.close(its_stdout)
    try:
        with os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb") as said:
            yield FakeProcess(int(said.readline()))
        process.wait(10)
    finally:
        process.kill()
        process.wait()


async def _main(host: str, port: int, *, until_eof: bool) -> None:
    async with open_fake_provider(host=host, port=port) as fake:
        print(urlsplit(fake.url).port, flush=True)
        if not until_eof:
            await trio.sleep_forever()
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            while await stdin.receive_some(1024):
                pass


def main(arguments: Sequence[str]) -> int:
    """`python -m tests.fakes`."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--until-eof", action="store_true", help="end when stdin does")
    options = parser.parse_args(arguments)
    trio.run(partial(_main, options.host, options.port, until_eof=options.until_eof))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

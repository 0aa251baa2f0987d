"""Asking again at every door: what a joined client gets is what its door gives an undisturbed one.

`DOORS` has one answer of each, plain and as a stream that stops in the middle; what is asked of
them is written once.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from tests.again import proxied, settled
from tests.cuttings import recorded
from tests.fakes import (
    DONE,
    ROUTSTR_ID,
    FakeProvider,
    Play,
    chunk,
    completion,
    json_answer,
    sse,
    stream,
    usage,
)
from tests.proxy import Client, Proxy, Reply, pass_time


@dataclass(frozen=True)
class Door:
    """`first` events of `stream` come before its client leaves; it has read `seen` by then.
    `members` are those of a request, `error` is where an error's code stands."""

    name: str
    path: str
    members: dict[str, Any]
    stream: tuple[bytes, ...]
    first: int
    seen: bytes
    plain: dict[str, Any]
    silence: bytes = b": keep-alive\n\n"
    headers: tuple[tuple[str, str], ...] = ()
    ends_when_broken: bool = True

    def body(self, *, streaming: bool) -> bytes:
        """`stream` stands in the middle, and only where it is asked for, as clients write it."""
        how = {"stream": True} if streaming else {}
        return json.dumps({"model": "gpt-4o", **how, **self.members}).encode()

    def answer(self, gate: trio.Event, *, streaming: bool) -> Play:
        """The whole of it, half of it before the gate opens."""
        if not streaming:
            return json_answer(self.plain, before=[gate])
        return stream([*self.stream[: self.first], gate, *self.stream[self.first :]])

    @property
    def broken(self) -> Play:
        """Half a stream, and then the connection breaks."""
        return stream(self.stream[: self.first], ending="rst")

    @asynccontextmanager
    async def asking(self, proxy: Proxy, **how: Any) -> AsyncIterator[Client]:
        headers = {**dict(self.headers), **how.pop("headers", {})}
        async with proxy.asking(path=self.path, body=self.body(**how), headers=headers) as client:
            yield client

    async def ask(self, proxy: Proxy, **how: Any) -> Reply:
        async with self.asking(proxy, **how) as client:
            return await client.reply()


def events_of(name: str) -> tuple[bytes, ...]:
    """A recorded stream that is whole."""
    return tuple(piece + b"\n\n" for piece in recorded(name).split(b"\n\n")[:-1])


def completed(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "gpt-4o"}
    return {**head, "choices": [choice], **more}


SAID: Final = [{"role": "user", "content": "Hi"}]

CHAT: Final = Door(
    "chat",
    "/v1/chat/completions",
    {"messages": SAID},
    (
        sse(chunk("", role="assistant")),
        sse(chunk("Hel")),
        sse(chunk("lo")),
        sse(chunk(finish="stop")),
        sse(chunk(usage=usage())),
        DONE,
    ),
    2,
    b"Hel",
    completion("Hello", usage=usage()),
    ends_when_broken=False,
)
RESPONSES: Final = Door(
    "responses",
    "/v1/responses",
    {"input": "Hi"},
    events_of("responses-text.sse"),
    5,
    b'"delta":"Hi"',
    json.loads(events_of("responses-text.sse")[-1].partition(b"data: ")[2])["response"],
)
MESSAGES: Final = Door(
    "messages",
    "/v1/messages?beta=true",
    {"max_tokens": 100, "messages": SAID},
    events_of("messages-text.sse"),
    4,
    b"Caf",
    {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-3.5-sonnet",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": 11},
    },
    silence=b'event: ping\ndata: {"type": "ping"}\n\n',
    headers=(("anthropic-version", "2023-06-01"), ("anthropic-beta", "claude-code-20250219")),
)
COMPLETIONS: Final = Door(
    "completions",
    "/v1/completions",
    {"prompt": "Hi"},
    (
        sse(completed("Hel")),
        sse(completed("lo", "stop")),
        sse(completed("", choices=[], usage=usage())),
        DONE,
    ),
    1,
    b"Hel",
    completed("Hello", "stop", usage=usage()),
    ends_when_broken=False,
)
DOORS: Final = (CHAT, RESPONSES, MESSAGES, COMPLETIONS)

AT_EVERY_DOOR: Final = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
FORMS: Final = pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(a, b, id=f"{'streamed' if a else 'plain'}, {'streamed' if b else 'plain'}")
        for a in (True, False)
        for b in (True, False)
    ],
)
STREAMED_AGAIN: Final = pytest.mark.parametrize("again", [True, False], ids=["streamed", "plain"])


async def ask_and_leave(door: Door, proxy: Proxy, fake: FakeProvider, *, streaming: bool) -> None:
    """Leaves once it has read half of a stream, or once the provider has its request."""
    async with door.asking(proxy, streaming=streaming) as client:
        await fake.wait_requests(1)
        if streaming:
            await client.head()
            await client.until(door.seen)
        await settled()
    await settled()


def without_own(body: bytes) -> bytes:
    """What is not each client's own: arbstr's object, wherever it stands."""
    return re.sub(rb'"arbstr": ?\{[^{}]*\}', b"", body)


def own(reply: Reply) -> Any:
    """Arbstr's object in a stream."""
    found = re.search(rb'"arbstr": ?(\{[^{}]*\})', reply.body)
    assert found is not None, reply.body
    return json.loads(found[1])


@AT_EVERY_DOOR
@FORMS
@pytest.mark.parametrize("late", [False, True], ids=["on its way", "from memory"])
async def test_the_same_again_gets_what_an_undisturbed_client_gets(
    door: Door, first: bool, again: bool, late: bool
) -> None:
    gate = trio.Event()
    async with proxied(door.answer(gate, streaming=first)) as (fake, proxy):
        await ask_and_leave(door, proxy, fake, streaming=first)
        if late:
            gate.set()
            await proxy.record()
        async with door.asking(proxy, streaming=again) as client:
            await settled()
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
        assert fake.hits == 1
        allowed = {"x-arbstr-respend": "allow"}
        undisturbed = await door.ask(proxy, streaming=again, headers=allowed)
        assert fake.hits == 2
        await proxy.wait_idle()
        assert proxy.hub.kept.held == 0
    rows = {record.status: record for record in proxy.log.final[:2]}
    paid, joined = rows["client_disconnected"], rows["ok"]
    assert (reply.status, reply.whole) == (200, True)
    assert without_own(reply.body) == without_own(undisturbed.body)
    assert reply.headers["content-type"] == undisturbed.headers["content-type"]
    assert reply.headers["x-arbstr-joined"] == paid.correlation_id
    assert reply.headers["x-arbstr-provider"] == "alpha"
    assert reply.headers["x-arbstr-request-id"] == joined.correlation_id
    if again:
        assert (own(reply)["cost_sats"], own(reply)["joined"]) == (0, paid.correlation_id)
        assert own(reply)["output_tokens"] == own(undisturbed)["output_tokens"] > 0
    else:
        assert reply.headers["x-arbstr-cost-sats"] == "0"
    if door is MESSAGES:
        assert reply.headers["request-id"] == joined.correlation_id
    assert (joined.joined, joined.attempts) == (paid.correlation_id, ())
    assert joined.cost_sats == 0
    # Once it is in the ledger, the row that was written first learns that its answer was brought.
    assert (paid.joined, paid.possibly_spent) == (None, int(late))
    assert paid.cost_sats == proxy.log.final[2].cost_sats
    assert {row.endpoint for row in proxy.log.final} == {door.name}


def assert_refused(door: Door, reply: Reply, first: str) -> None:
    """As `possibly_spent`, in the shape of the door."""
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
    assert f"as {first}, and may have been paid for" in reply.error["message"]
    assert "X-Arbstr-Respend: allow" in reply.error["message"]
    assert reply.headers["x-should-retry"] == "false"
    assert "x-arbstr-joined" not in reply.headers
    if door is MESSAGES:
        assert (reply.json["type"], reply.error["type"]) == ("error", "invalid_request_error")
        assert reply.json["request_id"] == reply.headers["request-id"]
    else:
        assert reply.error["type"] != "error"
        assert reply.error.keys() >= {"message", "type", "param", "code"}


@AT_EVERY_DOOR
async def test_a_broken_stream_is_refused_in_the_doors_shape_in_either_form(door: Door) -> None:
    async with proxied([door.broken, door.broken]) as (fake, proxy):
        broken = await door.ask(proxy, streaming=True)
        assert b"stream_interrupted" in broken.body
        first = broken.headers["x-arbstr-request-id"]
        for streaming in (True, False, True):
            assert_refused(door, await door.ask(proxy, streaming=streaming), first)
        assert fake.hits == 1
        allowed = {"X-Arbstr-Respend": "Allow"}
        await door.ask(proxy, streaming=True, headers=allowed)
        assert fake.hits == 2
    refused = proxy.log.final[1:-1]
    assert [row.status for row in refused] == ["rejected"] * 3
    assert {(row.endpoint, row.error_status) for row in refused} == {(door.name, 400)}


@AT_EVERY_DOOR
@STREAMED_AGAIN
async def test_a_joined_client_reads_that_its_source_broke_as_its_door_says_so(
    door: Door, again: bool
) -> None:
    gate = trio.Event()
    half = stream([*door.stream[: door.first], gate], ending="rst")
    async with proxied([half, door.broken]) as (fake, proxy):
        await ask_and_leave(door, proxy, fake, streaming=True)
        async with door.asking(proxy, streaming=again) as client:
            await settled()
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
        allowed = {"x-arbstr-respend": "allow"}
        undisturbed = await door.ask(proxy, streaming=again, headers=allowed)
    first = next(row.correlation_id for row in proxy.log.final if row.joined is None)
    assert reply.headers["x-arbstr-joined"] == first
    if again:
        assert reply.whole is undisturbed.whole is door.ends_when_broken
        one, other = (
            each.body.replace(each.headers["x-request-id"].encode(), b"its own id")
            for each in (reply, undisturbed)
        )
        assert one == other
        assert door.seen in reply.body
    else:
        assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
        assert reply.headers["x-should-retry"] == "false"
        assert "The answer is not complete" in reply.error["message"]
        assert (reply.json.get("type") == "error") is (door is MESSAGES)


@AT_EVERY_DOOR
async def test_a_joined_client_whose_silence_has_begun_reads_the_error_as_an_event(
    door: Door, mock_clock: MockClock
) -> None:
    gate = trio.Event()
    nothing = stream([gate], ending="rst", headers=[ROUTSTR_ID])
    more = "[stream]\nkeepalive = 1\n[retry]\nmax_retries = 0"
    async with proxied(nothing, kind="routstr", more=more) as (fake, proxy):
        async with door.asking(proxy, streaming=True):
            await fake.wait_requests(1)
        await settled()
        async with door.asking(proxy, streaming=True) as client:
            clock, began = mock_clock, mock_clock.current_time()
            await pass_time(clock, 3, until=lambda: clock.current_time() > began + 2.5)
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
        assert fake.hits == 1
    assert reply.status == 200
    assert reply.body.startswith(door.silence * 2)
    told = json.loads(reply.body.rstrip().rpartition(b"data: ")[2])
    assert told["error"]["code"] == "possibly_spent"
    assert (told.get("type") == "error") is (door in (MESSAGES, RESPONSES))


async def test_claude_code_left_its_stream_and_asks_again_without_one() -> None:
    gate = trio.Event()
    async with proxied(MESSAGES.answer(gate, streaming=True)) as (fake, proxy):
        await ask_and_leave(MESSAGES, proxy, fake, streaming=True)
        async with MESSAGES.asking(proxy, streaming=False) as client:
            await settled()
            gate.set()
            reply = await client.reply()
        assert fake.hits == 1
    assert (reply.status, reply.json["type"], reply.json["stop_reason"]) == (
        200,
        "message",
        "end_turn",
    )
    assert [block["type"] for block in reply.json["content"]] == ["text"]
    assert reply.json["usage"]["output_tokens"] == 11
    assert "x-arbstr-joined" in reply.headers


async def test_another_query_or_version_is_another_request() -> None:
    async with proxied(MESSAGES.broken) as (fake, proxy):
        await MESSAGES.ask(proxy, streaming=True)
        await MESSAGES.ask(proxy, streaming=True, headers={"anthropic-beta": "other"})
        async with proxy.asking(
            path="/v1/messages", body=MESSAGES.body(streaming=True), headers=dict(MESSAGES.headers)
        ) as client:
            await client.reply()
        assert fake.hits == 3
        assert (await MESSAGES.ask(proxy, streaming=True)).status == 400


async def test_the_same_bytes_at_another_door_are_another_request() -> None:
    async with proxied(lambda request: CHAT.broken) as (fake, proxy):
        body = json.dumps({"model": "gpt-4o", "stream": True, "max_tokens": 9, "messages": SAID})
        for path in ("/v1/chat/completions", "/v1/messages"):
            async with proxy.asking(path=path, body=body.encode()) as client:
                await client.reply()
        assert fake.hits == 2
        # Without the prefix it is the same door.
        async with proxy.asking(path="/chat/completions", body=body.encode()) as client:
            assert (await client.reply()).status == 400


async def test_embeddings_join_too() -> None:
    gate = trio.Event()
    embedded = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": "AACAPwAAAEAAAEBA"}],
        "model": "gpt-4o",
        "usage": {"prompt_tokens": 80, "total_tokens": 80},
    }
    body = b'{"model":"gpt-4o","input":"Hi"}'
    async with proxied(json_answer(embedded, before=[gate])) as (fake, proxy):
        async with proxy.asking(path="/v1/embeddings", body=body):
            await fake.wait_requests(1)
            await settled()
        await settled()
        async with proxy.asking(path="/v1/embeddings", body=body) as client:
            await settled()
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
        assert fake.hits == 1
    assert (reply.json, reply.headers["x-arbstr-cost-sats"]) == (embedded, "0")
    assert "x-arbstr-joined" in reply.headers

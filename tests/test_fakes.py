"""The fake providers do on a real socket what their scripts say."""

import errno
import json
import select
import socket
import ssl
from urllib.parse import urlsplit

import httpx
import pytest
import trio
import trio.testing
import trustme

from tests import fakes
from tests.fakes import (
    ACCEPT_AND_CLOSE,
    BEHAVIOURS,
    CLOSE_AFTER_REQUEST,
    DONE,
    RESET_AFTER_REQUEST,
    SILENCE,
    Script,
    Unread,
    answer,
    chunk,
    completion,
    endless,
    fake_process,
    half_answer,
    hello,
    json_answer,
    open_fake_provider,
    raw,
    refused_url,
    silent_url,
    sse,
    stream,
    usage,
)

BODY = b'{"model":"gpt-4o","messages":[],"stream":true}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: fake\r\nX-Odd: One\r\nx-odd: two\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


async def connect(url: str) -> trio.SocketStream:
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    return await trio.open_tcp_stream(place.hostname, place.port)


async def ask(url: str) -> tuple[bytes, str]:
    """Send the request, read to the end: the bytes, and how the connection ended."""
    received = b""
    async with await connect(url) as wire:
        try:
            await wire.send_all(REQUEST)
            while data := await wire.receive_some(65_536):
                received += data
        except trio.BrokenResourceError:
            return received, "reset"
        return received, "closed"


async def read(wire: trio.SocketStream, until: bytes) -> bytes:
    received = b""
    while until not in received:
        data = await wire.receive_some(65_536)
        assert data, received
        received += data
    return received


async def test_a_request_is_recorded_as_it_came() -> None:
    async with (
        open_fake_provider(json_answer({"fine": True})) as fake,
        await connect(fake.url) as wire,
    ):
        await wire.send_all(REQUEST)
        assert (await read(wire, b'{"fine": true}')).startswith(b"HTTP/1.1 200 OK\r\n")
        await fake.wait_requests()
    [request] = fake.requests
    assert (request.method, request.path, request.body) == ("POST", "/v1/chat/completions", BODY)
    assert request.headers[:3] == (("Host", "fake"), ("X-Odd", "One"), ("x-odd", "two"))
    assert (request.header("x-ODD"), request.header("absent")) == ("One", None)
    assert request.wants_stream


async def test_a_sequence_is_followed_over_kept_connections_and_its_last_entry_stays() -> None:
    script: Script = [answer(503), lambda request: answer(404), stream(hello("Hi"))]
    async with open_fake_provider(script) as fake, httpx.AsyncClient(trust_env=False) as client:
        replies = [await client.post(fake.url, content=BODY) for _ in range(4)]
        assert [reply.status_code for reply in replies] == [503, 404, 200, 200]
        assert replies[3].content == b"".join(hello("Hi"))
        assert (fake.hits, fake.connections, fake.connections_open) == (4, 1, 1)
        fake.set_script(answer(418))
        assert (await client.post(fake.url)).status_code == 418
    assert len({request.connection for request in fake.requests}) == 1


@pytest.mark.parametrize(
    ("script", "body", "ends"),
    [
        (CLOSE_AFTER_REQUEST, b"", "closed"),
        (RESET_AFTER_REQUEST, b"", "reset"),
        (Unread(10, "rst"), b"", "reset"),
        (half_answer(b"0123456789", 3, ending="fin"), b"012", "closed"),
        (half_answer(b"0123456789"), b"01234", "reset"),
        (stream([b"one"], ending="fin"), b"3\r\none\r\n", "closed"),
        (stream([b"one"], ending="rst"), b"3\r\none\r\n", "reset"),
        (stream([b"one", b"two"], framing="close"), b"onetwo", "closed"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\nrecorded"), b"recorded", "closed"),
    ],
    ids=[
        "closes after the request",
        "resets after the request",
        "resets in the middle of the request",
        "half an answer, closed",
        "half an answer, reset",
        "a stream without its terminator",
        "a stream that is reset",
        "a stream that ends with the connection",
        "recorded bytes",
    ],
)
async def test_a_connection_ends_as_the_script_says(script: Script, body: bytes, ends: str) -> None:
    async with open_fake_provider(script) as fake:
        received, ended = await ask(fake.url)
        await fake.wait_open(0)
    assert (received.partition(b"\r\n\r\n")[2], ended) == (body, ends)
    assert (fake.hits, fake.left, fake.closed) == (1, 0, 0)


async def test_a_connection_can_be_closed_before_anything_is_read() -> None:
    async with open_fake_provider([ACCEPT_AND_CLOSE, answer(200)]) as fake:
        assert (await ask(fake.url))[0] == b""
        assert (fake.hits, fake.requests) == (1, [])
        async with await connect(fake.url) as wire:
            await wire.send_all(REQUEST)
            await read(wire, b"200 OK")
        assert (fake.hits, len(fake.requests)) == (2, 1)


async def test_a_kept_connection_is_closed_when_its_next_request_begins() -> None:
    async with open_fake_provider([answer(200), ACCEPT_AND_CLOSE, answer(200)]) as fake:
        async with await connect(fake.url) as wire:
            await wire.send_all(REQUEST)
            await read(wire, b"200 OK")
            assert fake.hits == 1
            await wire.send_all(REQUEST)
            assert await wire.receive_some(1) == b""
        assert (fake.hits, len(fake.requests), fake.connections) == (2, 1, 1)


async def test_a_gate_holds_a_stream_until_the_test_opens_it() -> None:
    gate = trio.Event()
    script = stream([b"one", gate, b"two"])
    async with open_fake_provider(script) as fake, await connect(fake.url) as wire:
        await wire.send_all(REQUEST)
        assert (await read(wire, b"one\r\n")).endswith(b"3\r\none\r\n")
        gate.set()
        assert await read(wire, b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "script",
    [
        SILENCE,
        stream([b"one", trio.Event()]),
        endless([b"one"], b"again"),
        half_answer(b"body", ending="hang"),
        answer(200, before=[trio.Event()]),
    ],
    ids=["silence", "a gate", "an endless stream", "half an answer", "a slow head"],
)
async def test_a_client_that_leaves_before_the_end_is_seen_to_leave(script: Script) -> None:
    async with open_fake_provider(script) as fake:
        async with await connect(fake.url) as wire:
            await wire.send_all(REQUEST)
            await fake.wait_requests()
            assert (fake.connections_open, fake.left, fake.closed_at) == (1, 0, None)
        await fake.wait_left()
        await fake.wait_closed()
        await fake.wait_open(0)
        assert fake.closed_at is not None


async def test_a_client_that_closes_after_the_answer_did_not_leave() -> None:
    async with open_fake_provider(answer(200)) as fake:
        for _ in range(20):
            async with await connect(fake.url) as wire:
                await wire.send_all(REQUEST)
                await read(wire, b"\r\n\r\n")
        await fake.wait_closed(20)
        assert (fake.hits, fake.left, fake.closed) == (20, 0, 20)


async def test_a_client_that_is_not_read_cannot_write_its_request(
    nursery: trio.Nursery,
) -> None:
    async with open_fake_provider(Unread(1000, "hang")) as fake, await connect(fake.url) as wire:
        nursery.start_soon(wire.send_all, REQUEST + b"x" * 50_000_000)
        await fake.wait_hits()
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks, "50 MB were taken"
        assert fake.requests == []
        nursery.cancel_scope.cancel()


async def test_a_fake_speaks_tls() -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with open_fake_provider(stream(hello()), tls=server) as fake:
        assert fake.url.startswith("https://127.0.0.1:")
        async with httpx.AsyncClient(verify=client, trust_env=False) as browser:
            reply = await browser.post(fake.url)
        assert reply.content == b"".join(hello())
        await fake.wait_closed()


async def test_a_test_that_fails_inside_a_fake_fails_with_its_own_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_fake_provider():
            raise ZeroDivisionError


async def test_nobody_listens_at_a_refused_url() -> None:
    with refused_url() as url, pytest.raises(OSError, match=r"attempts to connect .* failed"):
        await connect(url)


def test_connecting_to_a_silent_url_takes_for_ever() -> None:
    """On loopback a handshake is over, or refused, when connect() returns; this one is neither."""
    with silent_url() as url, socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(("127.0.0.1", urlsplit(url).port)) == errno.EINPROGRESS
        assert select.select([], [client], [], 0) == ([], [], [])


def test_the_shapes_are_those_of_openai() -> None:
    assert completion("x")["choices"][0]["message"] == {"role": "assistant", "content": "x"}
    assert completion("x")["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
    }
    assert chunk("x")["choices"] == [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]
    assert chunk(usage=usage(1, 2))["choices"] == []
    assert chunk(finish="stop", usage=usage(1, 2))["choices"][0]["finish_reason"] == "stop"
    assert sse({"a": 1}) == b'data: {"a": 1}\n\n'
    assert hello(usage=None)[-1] == DONE


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streaming"])
async def test_a_named_behaviour_answers_hangs_or_breaks(name: str, streaming: bool) -> None:
    """Every one does something on the wire, and none breaks the fake."""
    body = json.dumps({"model": name, "stream": streaming}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    async with open_fake_provider() as fake:
        async with await connect(fake.url) as wire:
            await wire.send_all(head % len(body) + body)
            if name in ("fake-hang", "fake-slow", "fake-endless"):
                await fake.wait_requests()
            else:
                try:
                    await wire.receive_some(100)
                except trio.BrokenResourceError:
                    assert "reset" in name or name == "fake-role"
        await fake.wait_open(0)
        assert fake.hits == 1


def test_a_fake_in_its_own_process_is_told_and_asked_over_http() -> None:
    with fake_process() as fake, httpx.Client(trust_env=False) as client:
        chats = f"{fake.url}/chat/completions"
        assert client.post(chats, json={"model": "fake-503"}).status_code == 503
        limited = client.post(f"{fake.url_of('fake-429-7')}/chat/completions", content=BODY)
        assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
        assert client.post(chats, content=BODY).content == b"".join(hello())
        told = fake.requests()
        assert [request.target for request in told] == [
            "/v1/chat/completions",
            "/fake-429-7/v1/chat/completions",
            "/v1/chat/completions",
        ]
        assert (told[2].body, told[2].header("host")) == (BODY, f"127.0.0.1:{fake.port}")
        counts = {"open": 1, "total": 1, "closed": 0, "left": 0, "hits": 3}
        assert fake.connections() == counts

        fake.behave("fake-500", "fake-ok")
        assert [client.post(chats).status_code for _ in range(3)] == [500, 200, 200]
        fake.reset()
        assert fake.requests() == []

        with client.stream("POST", fake.url_of("fake-endless"), content=BODY) as endless_reply:
            assert next(endless_reply.iter_raw())
        assert fake.wait(left=1)["left"] == 1
        client.close()
        assert fake.wait(open=0)["open"] == 0


async def test_a_wait_in_vain_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "PATIENCE", 0.0)
    async with open_fake_provider() as fake:
        await fake.wait_open(0)
        with pytest.raises(trio.TooSlowError):
            await fake.wait_requests()

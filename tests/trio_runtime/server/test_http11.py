"""HTTP/1.1 as the server speaks it, byte for byte on real sockets.

Where a test says `STOCK`, the same conversation is held with Hypercorn's own connection class: when
that half fails after an upgrade, a workaround has become needless.

Time is a mock clock that also runs by itself: a test jumps over 60 seconds, and a wait that would
never end still fails.
"""

import gc
import random
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import h11
import pytest
import trio
import trio.testing

from arbstr.sansio.errors import LocalProtocolError
from arbstr.trio_runtime.server import http11
from arbstr.trio_runtime.server.connection import (
    LINGER_IDLE_SECONDS,
    LINGER_SECONDS,
    MAX_HEAD_BYTES,
    READ_AHEAD_BYTES,
    STALL_SECONDS,
    UPLOAD_BYTES,
)
from arbstr.trio_runtime.server.request import INBOX_MESSAGES
from tests.site import (
    GET,
    OURS,
    PATIENCE,
    POST,
    STOCK,
    UPLOAD,
    App,
    OpenSite,
    Waiting,
    echo,
    hello,
    quiet,
    quiet_now,
    read_body,
    refuse,
    reply,
    say,
    start,
)
from tests.waiting import until


@pytest.fixture(autouse=True, params=["as it comes", "all by h11"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every conversation is held twice: what sansio/heads.py reads must go no other way by h11."""
    if request.param == "all by h11":
        monkeypatch.setattr(http11, "read_request", lambda data: None)
    return bool(request.param == "as it comes")


# ---- a refused upload


async def is_freed_after_a_refusal(open_it: OpenSite) -> bool:
    may_refuse = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_refuse.wait()
        await reply(send, b"no", 413)

    chunks = b"1\r\nx\r\n" * (10 * INBOX_MESSAGES)
    async with open_it(app) as site:
        peer = await site.ask(
            b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
        )
        await quiet()
        may_refuse.set()
        assert (await peer.answer("POST")).status == 413
        await peer.stream.aclose()
        await quiet()
        return site.open == 0


async def test_an_application_that_answers_without_reading_holds_nothing_up() -> None:
    assert await is_freed_after_a_refusal(OURS)
    assert not await is_freed_after_a_refusal(STOCK)


async def can_send_all_of_a_refused_upload(open_it: OpenSite) -> bool:
    async with open_it(refuse) as site:
        peer = await site.ask(UPLOAD)
        await until(lambda: len(site.writes) > 0)
        await quiet()
        try:
            for _ in range(40):
                await peer.send(b"x" * 100_000)
                await quiet_now()
        except trio.BrokenResourceError:
            return False
        answer = await peer.answer("POST")
        assert (answer.status, answer.body) == (413, b"no")
        return await peer.is_closed()


async def test_who_sends_a_refused_upload_to_its_end_gets_the_answer() -> None:
    assert await can_send_all_of_a_refused_upload(OURS)
    assert not await can_send_all_of_a_refused_upload(STOCK)


async def test_a_refusal_says_that_the_connection_ends() -> None:
    async with OURS(refuse) as site:
        peer = await site.ask(UPLOAD)
        answer = await peer.answer("POST")
        assert answer.headers["connection"] == "close"
        assert answer.whole
        assert await peer.read() == b""  # its half is closed at once


async def test_a_refusal_of_a_request_that_came_whole_keeps_the_connection() -> None:
    async with OURS(refuse) as site:
        peer = await site.connect()
        for _ in range(2):
            await peer.send(POST)
            answer = await peer.answer("POST")
            assert answer.status == 413
            assert "connection" not in answer.headers


async def test_a_refused_upload_is_read_for_a_while_and_no_longer(
    clock: trio.testing.MockClock,
) -> None:
    async with OURS(refuse) as site:
        slow = await site.ask(UPLOAD)
        await slow.answer("POST")
        await quiet()
        for _ in range(int(LINGER_SECONDS / LINGER_IDLE_SECONDS) - 1):
            clock.jump(LINGER_IDLE_SECONDS - 1)
            await quiet()
            assert site.open == 1
            await slow.send(b"x" * 1000)
            await quiet()
        clock.jump(LINGER_IDLE_SECONDS + 1)
        await quiet()
        assert site.open == 0

        endless = await site.ask(UPLOAD)
        await endless.answer("POST")
        with suppress(trio.BrokenResourceError):
            for _ in range(100):
                await endless.send(b"x" * 1000)
                await quiet()
                clock.jump(1)
        await quiet()
        assert site.open == 0


async def first_words(open_it: OpenSite, app: App) -> bytes:
    async with open_it(app) as site:
        peer = await site.ask(UPLOAD.replace(b"host", b"expect: 100-continue\r\nhost"))
        await peer.until(b"\r\n\r\n")
        return bytes(peer.received[:12])


async def test_nobody_is_invited_to_send_a_body_that_is_refused() -> None:
    assert await first_words(OURS, refuse) == b"HTTP/1.1 413"
    assert await first_words(OURS, hello) == b"HTTP/1.1 100"
    assert await first_words(STOCK, refuse) == b"HTTP/1.1 100"


async def test_a_client_that_waits_to_be_asked_is_asked_once() -> None:
    async with OURS(echo) as site:
        peer = await site.connect()
        for _ in range(2):
            await peer.send(
                b"POST /x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
            )
            assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
            peer.received.clear()
            await peer.send(b"body")
            assert (await peer.answer("POST")).body == b"/x body"


async def test_a_client_that_does_not_wait_to_be_asked_is_not() -> None:
    async with OURS(echo) as site:
        peer = await site.ask(POST.replace(b"host", b"expect: 100-continue\r\nhost"))
        await peer.until(b"body")
        assert bytes(peer.received).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("size", [0, 1, UPLOAD_BYTES // 60 - 1])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_that_stops_or_dribbles_is_cut(
    size: int, chunked: bool, clock: trio.testing.MockClock
) -> None:
    app = Waiting()
    fields = b"transfer-encoding: chunked" if chunked else b"content-length: 4000000"
    piece = b"%x\r\n%b\r\n" % (size // 2, b"x" * (size // 2)) if chunked else b"x" * size
    async with OURS(app) as site:
        peer = await site.ask(b"POST / HTTP/1.1\r\nhost: a\r\n" + fields + b"\r\n\r\n")
        for _ in range(62):
            await quiet_now()
            clock.jump(STALL_SECONDS / 60)
            if size > 1 or (size == 1 and not chunked):
                with suppress(trio.BrokenResourceError):
                    await peer.send(piece)
        await site.wait_closed()
        assert app.left.is_set()


async def test_an_upload_that_is_slow_is_not_cut(clock: trio.testing.MockClock) -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(UPLOAD)
        for _ in range(5):
            await quiet()
            clock.jump(STALL_SECONDS - 1)
            await quiet()
            assert site.open == 1
            await peer.send(b"x" * UPLOAD_BYTES)
        await quiet()
        clock.jump(STALL_SECONDS + 1)
        await site.wait_closed()
        assert app.left.is_set()


async def test_an_upload_that_was_slow_leaves_the_answer_all_its_time(
    clock: trio.testing.MockClock,
) -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(POST[:-1])
        await quiet()
        await peer.send(POST[-1:])
        await quiet()
        clock.jump(100 * STALL_SECONDS)
        await quiet()
        app.may_answer.set()
        assert (await peer.answer("POST")).body == b"Hello"


async def test_a_large_body_arrives_whole_however_it_is_cut() -> None:
    async def count(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"%d" % len(await read_body(receive) or b""))

    async with OURS(count) as site:
        peer = await site.ask(UPLOAD)
        await peer.send(b"x" * 4_000_000)
        assert (await peer.answer("POST")).body == b"4000000"
        await peer.send(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.send(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
        assert (await peer.answer("POST")).body == b"1000"


# ---- HTTP/1.1 only


H2C: Final = (
    b"GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
)
WEBSOCKET: Final = (
    b"GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PRIOR_KNOWLEDGE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


async def spoken(open_it: OpenSite, request: bytes) -> tuple[list[str], bytes]:
    """What kind of request the application saw, and the first bytes of the answer."""
    kinds = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kinds.append(f"{scope['type']} {scope['http_version']}")
        if scope["type"] == "http":
            await reply(send, b"Hello")
        else:
            await send({"type": "websocket.accept"})
            await receive()

    async with open_it(app) as site:
        peer = await site.ask(request)
        await peer.read()
        await quiet()
        return kinds, bytes(peer.received[:12])


async def test_an_upgrade_to_http2_is_passed_over() -> None:
    assert await spoken(OURS, H2C) == (["http 1.1"], b"HTTP/1.1 200")
    assert await spoken(STOCK, H2C) == (["http 2"], b"HTTP/1.1 101")


async def test_a_websocket_is_a_plain_request() -> None:
    assert await spoken(OURS, WEBSOCKET) == (["http 1.1"], b"HTTP/1.1 200")
    kinds, words = await spoken(STOCK, WEBSOCKET)
    assert (kinds, words) == (["websocket 1.1"], b"HTTP/1.1 101")


async def test_http2_with_prior_knowledge_gets_an_answer_of_http1() -> None:
    _, words = await spoken(OURS, PRIOR_KNOWLEDGE)
    assert words == b"HTTP/1.1 200"
    _, words = await spoken(STOCK, PRIOR_KNOWLEDGE)
    assert not words.startswith(b"HTTP/1.1")


async def test_a_connection_is_kept_after_an_upgrade_that_was_passed_over() -> None:
    async with OURS(echo) as site:
        peer = await site.connect()
        for request in (H2C, WEBSOCKET, POST):
            await peer.send(request)
            assert (await peer.answer()).status == 200


# ---- what clients send


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    requests = [
        b"POST /%d HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc" % n for n in range(50)
    ]
    async with OURS(echo) as site:
        peer = await site.ask(b"".join(requests))
        for n in range(50):
            assert (await peer.answer()).body == b"/%d abc" % n


@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_a_request_may_come_in_pieces_of_any_size(cut: int) -> None:
    sent = POST.replace(b" / ", b" /one ") + POST.replace(b" / ", b" /two ")
    async with OURS(echo) as site:
        peer = await site.connect()
        for at in range(0, len(sent), cut):
            await peer.send(sent[at : at + cut])
            await quiet_now()
        assert (await peer.answer()).body == b"/one body"
        assert (await peer.answer()).body == b"/two body"


def any_request(dice: random.Random, n: int) -> tuple[bytes, bytes]:
    """A request of one kind or another, and what `echo` answers."""
    body = dice.randbytes(dice.choice([0, 1, 5, 3000, 150_000]))
    path = b"/%d" % n
    host = b"host: h\r\n"
    length = b"content-length: %d\r\n" % len(body)
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)] + [b""]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    heads = [
        (b"POST ", host + length, body),
        (b"POST ", b"connection: keep-alive\r\n" + length + host, body),
        (b"PUT ", host + length, body),
        (b"POST ", host + b"transfer-encoding: chunked\r\n", chunks),
        (b"POST ", host + b"expect: 100-continue\r\n" + length, body),
        (b"GET ", host, b""),
    ]
    method, fields, sent = dice.choice(heads)
    said = b"" if method == b"GET " else body
    return method + path + b" HTTP/1.1\r\n" + fields + b"\r\n" + sent, path + b" " + said


@pytest.mark.parametrize("seed", range(8))
async def test_requests_of_all_kinds_behind_each_other_cut_anywhere(seed: int) -> None:
    dice = random.Random(seed)
    pairs = [any_request(dice, n) for n in range(20)]
    last = b"POST /last HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    sent = b"".join(request for request, _ in pairs) + last + b"\r\n"

    async def speak() -> None:
        at = 0
        while at < len(sent):
            size = dice.choice([1, 2, 50, 500, 20_000, 100_000])
            await peer.send(sent[at : at + size])
            at += size
            if dice.random() < 0.5:
                await quiet_now()

    async with OURS(echo) as site:
        peer = await site.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            for _, expected in pairs:
                assert (await peer.answer("POST")).body == expected
            final = await peer.answer("POST")
        assert (final.body, final.headers["connection"]) == (b"/last ok", "close")
        assert await peer.is_closed()


async def test_an_answer_that_ends_while_its_request_waits_for_room_holds_up_nobody() -> None:
    may_answer = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_answer.wait()
        await receive()
        await reply(send, scope["path"].encode())

    pieces = INBOX_MESSAGES  # behind the empty one that came with the head: the last must wait
    async with OURS(app) as site:
        peer = await site.ask(
            b"POST /one HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % pieces
        )
        for _ in range(pieces - 1):
            await quiet_now()
            await peer.send(b"x")
        await quiet_now()
        await peer.send(b"x" + POST.replace(b" / ", b" /two "))
        await quiet()
        may_answer.set()
        first = await peer.answer("POST")
        assert first.body == b"/one"
        if first.headers.get("connection") == "close":  # h11 has not seen the last piece
            assert await peer.is_closed()
        else:
            assert (await peer.answer("POST")).body == b"/two"


@pytest.mark.parametrize("reader", ["as it comes"], indirect=True)
@pytest.mark.parametrize("kept", [1, 3])
async def test_an_empty_line_behind_a_body_is_no_request(kept: int) -> None:
    # All by h11 the line is taken for a request, because it comes with the body before it.
    async with OURS(echo) as site:
        peer = await site.connect()
        for number in range(kept):
            path = b" /%d " % number
            await peer.send(POST.replace(b" / ", path) + b"\r\n")
            assert (await peer.answer("POST")).body == path.strip() + b" body"
        await quiet()
        assert not peer.stream.socket.is_readable()


async def test_a_flood_of_requests_behind_one_is_read_only_so_far() -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(POST)
        await until(lambda: app.begun == 1)
        sent = 0
        with trio.move_on_after(PATIENCE) as scope:
            async with trio.open_nursery() as nursery:

                async def send_on() -> None:
                    nonlocal sent
                    while True:
                        sent += await peer.stream.socket.send(GET * 10_000)

                nursery.start_soon(send_on)
                await quiet()
                held = sum(len(c._ahead) for c in site.server.connections)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert READ_AHEAD_BYTES <= held < READ_AHEAD_BYTES + 65_536
        app.may_answer.set()
        for _ in range(200):
            assert (await peer.answer()).body == b"Hello"
        assert sent > held


async def test_an_answer_that_is_slow_does_not_stop_who_pipelines() -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(POST)
        await until(lambda: app.begun == 1)
        await peer.send(POST)
        await quiet()
        assert app.begun == 1  # one at a time
        app.may_answer.set()
        for _ in range(2):
            assert (await peer.answer()).body == b"Hello"
        assert app.begun == 2


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_what_follows_the_last_request_is_dropped(version: bytes) -> None:
    app = Waiting()
    last = POST.replace(b"1.1", version).replace(b"host", b"connection: close\r\nhost")
    async with OURS(app) as site:
        peer = await site.ask(last + b"\r\n")
        await until(lambda: app.begun == 1)
        for _ in range(20):
            await peer.send(b"x" * MAX_HEAD_BYTES)
            await quiet_now()
        (connection,) = site.server.connections
        met = connection._http._h11
        assert met is None or len(met.trailing_data[0]) < 10
        assert not app.left.is_set()
        app.may_answer.set()
        assert (await peer.rest()).endswith(b"\r\n\r\nHello")


async def test_http_1_0_gets_its_answer_and_the_end_of_the_connection() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await say(send, b"one", more=True)
        await say(send, b"two")

    for app, body in ((hello, b"Hello"), (stream, b"onetwo")):
        async with OURS(app) as site:
            peer = await site.ask(b"GET / HTTP/1.0\r\n\r\n")
            text = await peer.rest()
            assert text.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"chunked" not in text
            assert text.endswith(b"\r\n\r\n" + body)


async def test_head_gets_the_head_alone_and_the_connection_is_kept() -> None:
    async with OURS(hello) as site:
        peer = await site.ask(b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n")
        answer = await peer.answer("HEAD")
        assert (answer.headers["content-length"], answer.body) == ("5", b"")
        await peer.send(GET)
        assert (await peer.answer()).body == b"Hello"
        assert len(site.writes) == 2


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_none(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, status)
        await say(send, b"not sent")

    async with OURS(app) as site:
        peer = await site.ask(GET)
        assert (await peer.answer()).body == b""
        await peer.send(GET)
        assert (await peer.answer()).status == status


async def test_a_head_up_to_64_kb_is_read() -> None:
    async with OURS(hello) as site:
        peer = await site.ask(GET[:-2] + b"cookie: ")
        for _ in range(MAX_HEAD_BYTES // 1000 - 1):
            await peer.send(b"x" * 1000)
            await quiet_now()
        await peer.send(b"\r\n\r\n")
        assert (await peer.answer()).body == b"Hello"


GARBAGE: Final = {
    "a head without end": (GET[:-2] + b"cookie: " + b"x" * (5 * MAX_HEAD_BYTES), 431),
    "a target without end": (b"GET /" + b"x" * (5 * MAX_HEAD_BYTES), 431),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
    "no HTTP": (b"hello there\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    "a header with a line in it": (b"GET / HTTP/1.1\r\nhost: a\r\nx y: b\r\n\r\n", 400),
    "two lengths": (POST.replace(b"host", b"content-length: 5\r\nhost"), 400),
    "an unknown coding": (
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: zip\r\n\r\n",
        501,
    ),
    "no chunk": (
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nhello there\r\n",
        400,
    ),
}


@pytest.mark.parametrize(("sent", "status"), GARBAGE.values(), ids=GARBAGE)
async def test_what_is_not_http_gets_a_bare_status_and_the_end(sent: bytes, status: int) -> None:
    async with OURS(hello) as site:
        peer = await site.ask(sent)
        answer = await peer.answer()
        assert (answer.status, answer.body, answer.whole) == (status, b"", True)
        assert answer.headers["connection"] == "close"
        assert await peer.read() == b""
        await peer.send(b"more of it" * 100_000)  # which is read, and dropped
        await peer.stream.aclose()
        await site.wait_closed()


CHUNKED: Final = b"transfer-encoding: chunked\r\n"
SMUGGLED: Final = b"POST /smuggled HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"content-length: 5\r\n" + CHUNKED,
        CHUNKED + b"content-length: 5\r\n",
        b"content-length: 0\r\n" + CHUNKED,
        CHUNKED + b"content-length: 5\r\nconnection: close\r\n",
        b"content-length: 5\r\ntransfer-encoding:\r\n chunked\r\n",
        b"content-length: 5\r\ntransfer-encoding: xchunked\r\n",
        b"content-length: 5\r\ntransfer-encoding: identity\r\n",
        b"content-length: 5\r\ntransfer-encoding : chunked\r\n",
        b"content-length: 5\r\n transfer-encoding: chunked\r\n",
        b"content-length: 5\r\ntransfer-encoding:\x0bchunked\r\n",
        b"content-length: 5\r\nx: y\ntransfer-encoding: chunked\r\n",
        b"content-length: 5\r\nx: y\rtransfer-encoding: chunked\r\n",
        b"content-length: 5\r\ncontent-length: 0\r\n",
        b"content-length: 5, 0\r\n",
        b"content-length: +5\r\n",
        b"content-length : 5\r\n",
        b"content-length: 5\n",
        b"content-length:\r\n 5\r\n",
        CHUNKED + CHUNKED,
        b"transfer-encoding: chunked, chunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: \xe2\x80\xa8chunked\r\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("cut", [False, True])
async def test_a_body_whose_end_a_front_could_see_elsewhere_is_refused(
    fields: bytes, cut: bool
) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\n" + fields + b"\r\n"
    async with OURS(echo) as site:
        peer = await site.connect()
        for piece in (head, b"0\r\n\r\n" + SMUGGLED) if cut else (head + b"0\r\n\r\n" + SMUGGLED,):
            await peer.send(piece)
            await quiet_now()
        answer = await peer.answer("POST")
        assert answer.status in (400, 501)
        assert answer.headers["connection"] == "close"
        assert await peer.read() == b""


@pytest.mark.parametrize("fields", [CHUNKED, CHUNKED + b"connection: keep-alive\r\n"])
async def test_a_coding_in_http_1_0_is_refused(fields: bytes) -> None:
    async with OURS(echo) as site:
        peer = await site.ask(b"POST / HTTP/1.0\r\n" + fields + b"\r\n0\r\n\r\n" + SMUGGLED)
        answer = await peer.answer("POST")
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await peer.read() == b""


@pytest.mark.parametrize(
    "end", [b"0\nx: y\r\n\r\n", b"0\r\nx: y\n\n", b"0\r\n\n", b"0\r\nx: y\r\n z\r\n\r\n"], ids=repr
)
async def test_the_end_of_chunks_is_read_in_one_way(end: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\n" + CHUNKED
    async with OURS(echo) as site:
        peer = await site.ask(head + b"\r\n1\r\nx\r\n" + end + SMUGGLED)
        answer = await peer.answer("POST")
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await peer.read() == b""


async def test_a_trailer_is_dropped_and_the_connection_kept() -> None:
    async with OURS(echo) as site:
        peer = await site.ask(
            b"POST /a HTTP/1.1\r\nhost: a\r\n" + CHUNKED + b"\r\n1;x=y\r\nb\r\n0\r\nz: c\r\n\r\n"
        )
        assert (await peer.answer("POST")).body == b"/a b"
        await peer.send(SMUGGLED)
        assert (await peer.answer("POST")).body == b"/smuggled "


async def test_garbage_behind_a_request_does_not_touch_its_answer() -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(POST + b"\0\0\0\r\n\r\n")
        await until(lambda: app.begun == 1)
        await quiet()
        assert not app.left.is_set()
        app.may_answer.set()
        assert (await peer.answer()).body == b"Hello"
        assert (await peer.answer()).status == 400


async def test_garbage_in_a_body_tells_the_application_that_the_client_is_gone() -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
        )
        await until(lambda: app.begun == 1)
        await peer.send(b"zzz\r\n")
        await quiet()
        assert app.left.is_set()
        assert (await peer.answer("POST")).status == 400


async def test_a_path_arrives_decoded_and_the_query_apart() -> None:
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await reply(send, b"")

    async with OURS(app) as site:
        peer = await site.ask(GET.replace(b" / ", b" /a%2Fb%20c%ff?x=%20&y ", 1))
        await peer.answer()
    (scope,) = scopes
    assert scope["path"] == "/a/b c\N{REPLACEMENT CHARACTER}"
    assert scope["raw_path"] == b"/a%2Fb%20c%ff"
    assert scope["query_string"] == b"x=%20&y"
    assert scope["method"] == "GET"
    assert scope["client"][0] == scope["server"][0] == "127.0.0.1"


async def test_a_head_is_there_once_however_many_connections_write_it(reader: bool) -> None:
    async with OURS(echo) as site:
        heads = site.server.heads
        here = [await site.ask(POST) for _ in range(3)]
        other = await site.ask(POST.replace(b"\r\n", b"\r\nauthorization: Bearer other\r\n", 1))
        for peer in (*here, other):
            assert (await peer.answer("POST")).status == 200
        assert len(heads) == (2 if reader else 0)  # what h11 has read is not kept
        for peer in here:
            await trio.aclose_forcefully(peer.stream)
        await site.wait_open(1)
        gc.collect()
        assert [before for before, _ in heads if b"other" not in before] == []
        await other.send(POST)  # another head than before, on a connection that is there
        assert (await other.answer("POST")).status == 200
        gc.collect()
        assert len(heads) == (1 if reader else 0)


async def test_each_request_has_the_length_and_the_body_that_it_said() -> None:
    """Its head may be the same as that of the one before, but for the length."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], dict(scope["headers"]), await read_body(receive)))
        await reply(send, b"")

    def request(body: bytes, more: bytes = b"", path: bytes = b"/") -> bytes:
        said = b"content-length: %d\r\n" % len(body)
        return b"POST %b HTTP/1.1\r\nhost: h\r\n%b%b\r\n%b" % (path, said, more, body)

    async with OURS(app) as site:
        peer = await site.connect()
        other = await site.connect()
        for sent in (
            *(request(b"four"), request(b""), request(b"eleven more"), request(b"x" * 70_000)),
            *(request(b"four", b"x-a: b\r\n"), request(b"five!", b"x-a: b\r\n")),
            *(request(b"four", path=b"/x"), request(b"four")),
        ):
            await peer.send(sent)
            assert (await peer.answer("POST")).status == 200
        await other.send(request(b"four", b"x-b: c\r\n"))
        assert (await other.answer("POST")).status == 200
    own = {b"host": b"h"}
    a, b = {**own, b"x-a": b"b"}, {**own, b"x-b": b"c"}
    assert [(path, len(body or b"")) for path, _, body in seen] == [
        *(("/", 4), ("/", 0), ("/", 11), ("/", 70_000)),
        *(("/", 4), ("/", 5), ("/x", 4), ("/", 4), ("/", 4)),
    ]
    for (_, headers, body), more in zip(seen, (own, own, own, own, a, a, own, own, b), strict=True):
        assert headers == {**more, b"content-length": b"%d" % len(body or b"")}


# ---- heads


@pytest.mark.parametrize("status", [200, 299, 418, 424, 599])
async def test_a_head_says_status_date_and_the_headers_in_their_order(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = {b"x-b": b"1", b"x-a": "größe".encode("latin-1"), b"content-length": b"2"}
        await start(send, status, headers)
        await say(send, b"{}")

    async with OURS(app) as site:
        peer = await site.ask(GET)
        lines = (await peer.until(b"\r\n\r\n{}")).split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 %d " % status)
    assert parsedate_to_datetime(lines[1].removeprefix(b"date: ").decode()).tzinfo is UTC
    assert lines[2:4] == [b"x-b: 1", b"x-a: gr\xf6\xdfe"]
    assert [line.lower() for line in lines[4:]] == [b"content-length: 2", b"", b"{}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"x-a", b"1\r\nset-cookie: a=b"), (b"x-a", b"1\n"), (b"x-a", b"\r"), (b"x\r\ny", b"1")],
)
async def test_a_header_with_a_line_end_is_refused_and_leaves_room_for_the_error(
    name: bytes, value: bytes
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await start(send, headers={name: value})
        except ValueError:
            await reply(send, b"refused", 500)

    async with OURS(app) as site:
        peer = await site.ask(GET)
        answer = await peer.answer()
        assert (answer.status, answer.body) == (500, b"refused")
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("lengths", [(b"2", b"3"), (b"x",), (b"-1",)])
async def test_a_framing_that_is_none_is_refused(lengths: tuple[bytes, ...]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", length) for length in lengths]
        with pytest.raises(h11.LocalProtocolError):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await reply(send, b"refused", 500)

    async with OURS(app) as site:
        peer = await site.ask(GET)
        assert (await peer.answer()).body == b"refused"


# ---- an application that breaks


async def test_an_application_that_breaks_before_its_answer_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a prompt nobody may read")

    async with OURS(app) as site:
        peer = await site.ask(POST)
        assert await peer.rest() == b""
        other = await site.ask(POST)
        assert await other.rest() == b""
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all("RuntimeError at " in line for line in lines)
    assert "prompt" not in caplog.text


async def test_an_application_that_breaks_in_its_answer_leaves_it_without_its_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await say(send, b"half", more=True)
        raise RuntimeError

    async with OURS(app) as site:
        peer = await site.ask(POST)
        answer = await peer.answer()
        assert (answer.body, answer.whole) == (b"half", False)
        assert await peer.is_closed()


async def test_an_application_that_just_stops_leaves_its_answer_without_its_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, headers={b"content-length": b"10"})
        await say(send, b"half", more=True)

    async with OURS(app) as site:
        peer = await site.ask(POST)
        answer = await peer.answer()
        assert (answer.body, answer.whole) == (b"half", False)


@pytest.mark.parametrize("body", [b"much more", b""], ids=["too much", "too little"])
async def test_an_application_that_breaks_http_is_told_so(body: bytes) -> None:
    caught: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await start(send, headers={b"content-length": b"1"})
            await say(send, body)
            await say(send, b"", more=False)
        except (h11.LocalProtocolError, LocalProtocolError) as error:
            caught.append(error)

    async with OURS(app) as site:
        peer = await site.ask(POST)
        assert await peer.rest() == b""
    assert caught

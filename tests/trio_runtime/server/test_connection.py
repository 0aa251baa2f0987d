"""What a client connection owns, on real sockets; and what Hypercorn itself does in the same place.

A test of a workaround runs the same conversation twice, on our server (`OURS`) and on Hypercorn's
own connection class (`STOCK`). When the second half fails after an upgrade, the workaround has
become needless. The workarounds of the protocol's half are in test_http11.py.

Time is a mock clock that also runs by itself: a test jumps over 60 seconds, and a wait that would
never end still fails.
"""

import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias, final

import pytest
import trio
import trio.testing
from quart_trio import QuartTrio

from arbstr.trio_runtime.server import client_socket, connection, http11, server
from arbstr.trio_runtime.server.asgi import DISCONNECT_KEY
from arbstr.trio_runtime.server.client_socket import (
    proc_address,
    receive,
    send_queue,
    unread_bytes,
    write_now,
)
from arbstr.trio_runtime.server.connection import (
    KEEP_ALIVE_SECONDS,
    READ_AHEAD_BYTES,
    STALL_SECONDS,
)
from arbstr.trio_runtime.server.request import APART_BYTES
from tests.site import (
    GET,
    MORE_THAN_SOCKETS_HOLD,
    OURS,
    POST,
    STOCK,
    UPLOAD,
    App,
    OpenSite,
    Peer,
    Site,
    Told,
    Waiting,
    flood,
    hello,
    quiet,
    quiet_now,
    read_body,
    reply,
    say,
    silence,
    start,
)
from tests.waiting import until


@asynccontextmanager
async def stuck(
    work: Callable[[Any], Awaitable[None]], request: bytes = GET
) -> AsyncIterator[tuple[Told, Site, Peer]]:
    """An application in the middle of a write to a client that reads nothing."""
    app = Told(work)
    async with OURS(app) as site:
        peer = await site.ask(request)
        await until(lambda: len(site.server.writing) == 1)
        yield app, site, peer


# ---- one write per message


async def writes_of(open_it: OpenSite, app: App, request: bytes) -> list[bytes]:
    async with open_it(app) as site:
        peer = await site.ask(request)
        assert (await peer.answer()).whole
        return list(site.writes)


async def test_a_plain_answer_is_one_write() -> None:
    (whole,) = await writes_of(OURS, hello, POST)
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert whole.endswith(b"\r\n\r\nHello")
    assert len(await writes_of(STOCK, hello, POST)) > 1


@pytest.mark.parametrize("size", [APART_BYTES - 1, APART_BYTES, APART_BYTES + 1])
async def test_so_is_a_plain_answer_of_any_size(size: int) -> None:
    body = bytes(range(250)) * (size // 250 + 1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, body[:size])

    (whole,) = await writes_of(OURS, app, POST)
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert whole.endswith(b"\r\n\r\n" + body[:size])


@pytest.mark.parametrize("taken", [0, 1, 100, APART_BYTES, 2 * APART_BYTES])
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_the_kernel_does_not_take_at_once_follows(taken: int, chunked: bool) -> None:
    body = bytes(range(250)) * (2 * APART_BYTES // 250)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if chunked:
            await start(send)
            await say(send, body, more=True)
            await say(send, body)
        else:
            await reply(send, body)

    def write_some(sock: trio.socket.SocketType, data: bytes, behind: bytes = b"") -> int:
        return write_now(sock, (data + behind)[:taken]) if taken else 0

    async with OURS(app) as site:
        site.server.write_now = write_some
        peer = await site.ask(POST)
        answer = await peer.answer()
        assert (answer.body, answer.whole) == (body * 2 if chunked else body, True)


async def test_head_and_first_event_are_one_write_and_so_are_last_event_and_end() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for text in (b"one", b"two"):
            await say(send, text, more=True)
        await say(send, b"three")

    first, second, last = await writes_of(OURS, stream, GET)
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert second == b"3\r\ntwo\r\n"
    assert last == b"5\r\nthree\r\n0\r\n\r\n"
    assert len(await writes_of(STOCK, stream, GET)) > 3


async def test_what_the_kernel_takes_at_once_is_written_without_a_checkpoint() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with trio.testing.assert_no_checkpoints():
            await start(send)
            for _ in range(3):
                await say(send, b"one", more=True)
            await say(send, b"two")

    async with OURS(app) as site:
        peer = await site.ask(GET)
        assert (await peer.answer()).body == b"oneoneonetwo"


# ---- one task per request


@final
class Spawned(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def tasks_of_a_request(open_it: OpenSite) -> int:
    async with open_it(hello) as site:
        peer = await site.ask(GET)
        await peer.answer()
        await quiet()
        spawned = Spawned()
        trio.lowlevel.add_instrument(spawned)
        await peer.send(GET)
        await peer.answer()
        await quiet()
        trio.lowlevel.remove_instrument(spawned)
        return spawned.count


async def test_a_request_on_a_kept_connection_costs_no_task() -> None:
    assert await tasks_of_a_request(OURS) == 0
    assert await tasks_of_a_request(STOCK) > 1


async def test_who_goes_on_after_an_answer_holds_up_no_other_request() -> None:
    over, served = trio.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["path"])
        await hello(scope, receive, send)
        if scope["path"] == "/first":
            await over.wait()

    async with OURS(app) as site:
        peer = await site.connect()
        for path in (b"/first", b"/second", b"/third"):
            await peer.send(GET.replace(b"GET /", b"GET " + path, 1))
            assert (await peer.answer()).body == b"Hello"
        over.set()
        await quiet()
        await peer.send(GET)
        assert (await peer.answer()).body == b"Hello"
        await quiet()
        assert site.open == 1
        await peer.stream.aclose()
    assert served == ["/first", "/second", "/third", "/"]


# ---- the end of an answer


async def test_what_is_there_of_a_body_is_read_without_waiting_for_each_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bodies: list[bytes] = []
    waits: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        bodies.append(body)
        await reply(send, b"Hello")

    async def counted(sock: trio.socket.SocketType) -> bytes:
        data = await receive(sock)
        waits.append(len(data))
        return data

    monkeypatch.setattr(connection, "receive", counted)
    for module in (connection, client_socket):
        monkeypatch.setattr(module, "MAX_RECV", 1024)
    body = bytes(range(250)) * 80
    async with OURS(app) as site:
        peer = await site.connect()
        for _ in range(2):
            head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            await peer.send(head % len(body) + body)
            assert (await peer.answer()).body == b"Hello"
    assert bodies == [body] * 2
    assert len(waits) <= 4


@pytest.mark.parametrize(("at_once", "most"), [(http11.AT_ONCE_BYTES, 1), (4096, 20)])
async def test_a_body_that_is_there_with_its_head_comes_in_one_piece(
    at_once: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So much of it as may, and nothing of the request behind it."""
    came: list[tuple[str, bytes, int]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, pieces, more = b"", 0, True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
            pieces += 1
        came.append((scope["path"], body, pieces))
        await reply(send, b"Hello")

    for module in (connection, client_socket, http11):
        monkeypatch.setattr(module, "MAX_RECV", 1024)
    monkeypatch.setattr(http11, "AT_ONCE_BYTES", at_once)
    head = b"POST /%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    bodies = [bytes(range(n, 250)) * 80 for n in range(3)]
    async with OURS(app) as site:
        peer = await site.connect()
        both = b"".join(head % (n, len(body)) + body for n, body in enumerate(bodies[:2]))
        await peer.send(both)
        for _ in range(2):
            assert (await peer.answer()).body == b"Hello"
        await peer.send(head % (2, len(bodies[2])) + bodies[2])
        assert (await peer.answer()).body == b"Hello"
    assert [path for path, _, _ in came] == ["/0", "/1", "/2"]
    assert [body for _, body, _ in came] == bodies
    assert all((pieces == 1) is (most == 1) and pieces <= most for _, _, pieces in came)


def quart_app() -> QuartTrio:
    quart = QuartTrio("test", static_folder=None)

    @quart.get("/")
    async def root() -> str:
        return "Hello"

    return quart


async def closes_when_asked_to(open_it: OpenSite) -> bool:
    async with open_it(quart_app()) as site:
        peer = await site.ask(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert (await peer.answer()).body == b"Hello"
        return await peer.is_closed()


async def test_connection_close_is_honoured_though_quart_trio_cancels_its_last_send() -> None:
    assert await closes_when_asked_to(OURS)
    assert not await closes_when_asked_to(STOCK)


async def closes_when_idle(open_it: OpenSite, clock: trio.testing.MockClock) -> bool:
    async with open_it(quart_app()) as site:
        peer = await site.ask(GET)
        await peer.answer()
        assert not await peer.is_closed()
        clock.jump(KEEP_ALIVE_SECONDS)
        return await peer.is_closed()


async def test_an_idle_connection_expires(clock: trio.testing.MockClock) -> None:
    assert await closes_when_idle(OURS, clock)
    assert not await closes_when_idle(STOCK, clock)


async def test_a_connection_expires_only_after_its_keep_alive_time(
    clock: trio.testing.MockClock,
) -> None:
    async with OURS(hello, keep_alive_seconds=100) as site:
        peer = await site.connect()
        for _ in range(3):  # each answer starts it anew
            await quiet()
            clock.jump(90)
            assert not await peer.is_closed()
            await peer.send(GET)
            assert (await peer.answer()).body == b"Hello"
        await quiet()
        clock.jump(101)
        assert await peer.is_closed()


async def test_a_head_that_never_ends_expires_too(clock: trio.testing.MockClock) -> None:
    async with OURS(hello, keep_alive_seconds=100) as site:
        peer = await site.ask(GET[:-2])
        await quiet()
        clock.jump(60)
        await peer.send(b"x-more: 1\r\n")
        await quiet()
        clock.jump(60)
        assert await peer.is_closed()


async def test_an_answer_that_takes_long_does_not_expire(clock: trio.testing.MockClock) -> None:
    app = Waiting()
    async with OURS(app, keep_alive_seconds=100) as site:
        peer = await site.ask(POST)
        await until(lambda: app.begun == 1)
        await quiet()
        clock.jump(10_000)
        await quiet()
        app.may_answer.set()
        assert (await peer.answer()).body == b"Hello"


# ---- a departed client


async def leave_by_close(peer: Peer) -> None:
    await peer.stream.aclose()


async def leave_by_half_close(peer: Peer) -> None:
    await peer.stream.send_eof()


async def leave_by_reset(peer: Peer) -> None:
    peer.reset()


LEAVE: Final = {
    "close": leave_by_close,
    "half-close": leave_by_half_close,
    "reset": leave_by_reset,
}
Leave: TypeAlias = Callable[[Peer], Awaitable[None]]


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
async def test_who_leaves_while_the_answer_is_being_found_is_noticed_at_once(leave: Leave) -> None:
    app = Told(silence)
    async with OURS(app) as site:
        peer = await site.ask(POST)
        await quiet()
        await leave(peer)
        await site.wait_closed()
        assert app.left.is_set()
        assert not app.delivered
        assert await peer.is_closed() if leave is leave_by_half_close else True


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
async def test_who_leaves_between_two_events_is_noticed_at_once(leave: Leave) -> None:
    async def work(send: Any) -> None:
        await start(send)
        await say(send, b"one", more=True)
        await trio.sleep_forever()

    app = Told(work)
    async with OURS(app) as site:
        peer = await site.ask(POST)
        await peer.until(b"one")
        await leave(peer)
        await site.wait_closed()
        assert app.left.is_set()


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
async def test_who_leaves_in_the_middle_of_an_upload_is_noticed_at_once(leave: Leave) -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(UPLOAD + b"x" * 100_000)
        await until(lambda: app.begun == 1)
        await leave(peer)
        await site.wait_closed()
        assert app.left.is_set()


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
@pytest.mark.parametrize("sent", [b"", GET[:10], POST[:-1]], ids=["nothing", "head", "body"])
async def test_who_leaves_before_the_request_is_whole_leaves_nothing(
    leave: Leave, sent: bytes
) -> None:
    async with OURS(hello) as site:
        peer = await site.ask(sent)
        await site.wait_open(1)
        await quiet()
        await leave(peer)
        await site.wait_closed()
        assert site.writes == []


async def is_freed_by_a_half_close(open_it: OpenSite) -> bool:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if await read_body(receive) is not None:
            await flood(send)

    async with open_it(app) as site:
        peer = await site.ask(GET)
        await until(lambda: len(site.writes) > 3)
        await quiet()  # the write waits by now
        await peer.stream.send_eof()
        await quiet()
        return site.open == 0


async def test_who_leaves_while_a_write_waits_ends_that_write() -> None:
    async with stuck(flood) as (app, site, peer):
        await quiet()
        await peer.stream.send_eof()
        await site.wait_closed()
        assert app.left.is_set()
    assert not await is_freed_by_a_half_close(STOCK)


BEHIND: Final = {
    "another request": POST + GET,
    "an empty line, as some old clients send": POST + b"\r\n",
    "an upgrade that is offered": POST.replace(
        b"content-length", b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length"
    ),
}


async def notices_a_departure(open_it: OpenSite, sent: bytes) -> bool:
    app = Waiting()
    async with open_it(app) as site:
        peer = await site.ask(sent)
        await until(lambda: app.begun == 1)
        await quiet()
        await peer.stream.send_eof()
        await quiet()
        noticed = app.left.is_set()
        app.may_answer.set()  # sets Hypercorn free
        await quiet()
        return noticed


@pytest.mark.parametrize("sent", BEHIND.values(), ids=BEHIND)
async def test_who_leaves_is_noticed_though_more_than_one_request_was_sent(sent: bytes) -> None:
    assert await notices_a_departure(OURS, sent)
    assert not await notices_a_departure(STOCK, sent)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(POST + GET, id="a request"),
        pytest.param(POST + POST, id="another chat"),
        pytest.param(POST + b"\r\n", id="an empty line"),
        pytest.param(
            POST.replace(
                b"content-length", b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length"
            ),
            id="an offer to upgrade",
        ),
    ],
)
async def test_what_is_behind_a_request_does_not_limit_its_answer(
    sent: bytes, clock: trio.testing.MockClock
) -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(sent)
        await until(lambda: app.begun == 1)
        await quiet()
        clock.jump(KEEP_ALIVE_SECONDS + 1)
        await quiet()
        assert not app.left.is_set()
        app.may_answer.set()
        assert (await peer.answer("POST")).body == b"Hello"


async def test_an_upload_with_a_request_behind_it_does_not_limit_its_answer(
    clock: trio.testing.MockClock,
) -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(POST[:-2])
        await until(lambda: app.begun == 1)
        await peer.send(POST[-2:] + POST)
        await quiet()
        clock.jump(STALL_SECONDS + 1)
        await quiet()
        assert not app.left.is_set()
        app.may_answer.set()
        for _ in range(2):
            assert (await peer.answer("POST")).body == b"Hello"


async def test_a_connection_that_was_closed_behind_a_flood_ends_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    may_answer = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await may_answer.wait()
        await reply(send, b"x")

    async with OURS(app) as site, trio.open_nursery() as nursery:
        peer = await site.ask(POST)
        await quiet()

        async def flood() -> None:
            with suppress(trio.BrokenResourceError):
                await peer.stream.send_all(POST * (20 * READ_AHEAD_BYTES // len(POST)))

        nursery.start_soon(flood)
        await quiet()
        site.server.close_all()
        await quiet()
        may_answer.set()
        await quiet()
        nursery.cancel_scope.cancel()
    assert not caplog.records


async def test_who_leaves_after_the_last_byte_was_written_did_not_leave() -> None:
    may_end = trio.Event()

    async def work(send: Any) -> None:
        await reply(send, b"Hello")
        await may_end.wait()

    app = Told(work)
    async with OURS(app) as site:
        peer = await site.ask(POST)
        assert (await peer.answer()).body == b"Hello"
        await peer.stream.aclose()
        await quiet()
        may_end.set()
        await site.wait_closed()
        assert app.delivered
        assert not app.left.is_set()


async def test_who_leaves_while_the_last_write_waits_has_not_got_the_answer() -> None:
    async with stuck(lambda send: reply(send, b"x" * MORE_THAN_SOCKETS_HOLD), POST) as (
        app,
        site,
        peer,
    ):
        await quiet()
        peer.reset()
        await site.wait_closed()
        assert app.left.is_set()
        assert not app.delivered


async def test_who_leaves_while_a_write_waits_is_noticed_though_nothing_is_read_of_it() -> None:
    async with stuck(flood, POST) as (app, site, peer):
        await peer.send(b"x" * 2 * READ_AHEAD_BYTES)
        await quiet()
        peer.reset()
        await site.wait_closed()
        assert app.left.is_set()


async def test_an_application_that_is_cancelled_in_a_write_garbles_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        with trio.CancelScope() as writing:

            async def cancel() -> None:
                await until(lambda: len(site.server.writing) == 1)
                await quiet()
                writing.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                await say(send, b"x" * MORE_THAN_SOCKETS_HOLD, more=True)
                await trio.sleep_forever()
        await say(send, b"end")

    async with OURS(app) as site:
        peer = await site.ask(GET)
        await until(lambda: len(site.server.writing) == 1)
        await quiet()
        await quiet()
        answer = await peer.answer()
        assert answer.whole
        assert len(answer.body) == MORE_THAN_SOCKETS_HOLD + len(b"end")


async def test_nothing_is_taken_for_sent_that_is_written_after_the_client_left() -> None:
    gone, written = trio.Event(), False

    async def work(send: Any) -> None:
        nonlocal written
        with trio.CancelScope(shield=True):
            await gone.wait()
        await reply(send, b"Hello")
        written = True

    app = Told(work)
    async with OURS(app) as site:
        peer = await site.ask(POST)
        await quiet()
        await peer.stream.aclose()
        await quiet()
        assert app.left.is_set()
        gone.set()
        await site.wait_closed()
        assert not written
        assert not app.delivered
        assert site.writes == []


async def test_a_callback_that_comes_too_late_is_called_at_once() -> None:
    registered = trio.Event()
    late = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await read_body(receive) is not None
        assert (await receive())["type"] == "http.disconnect"
        scope["state"][DISCONNECT_KEY](lambda: late.append("left"))
        registered.set()

    async with OURS(app) as site:
        peer = await site.ask(POST)
        await quiet()
        await peer.stream.aclose()
        await registered.wait()
        assert late == ["left"]


async def test_asgi_tells_of_a_departure_again_and_again() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([(await receive())["type"] for _ in range(3)])

    async with OURS(app) as site:
        peer = await site.ask(POST)
        await quiet()
        await peer.stream.aclose()
        await site.wait_closed()
    assert seen == ["http.request", "http.disconnect", "http.disconnect"]


async def test_a_connection_that_is_gone_before_it_is_looked_at_is_no_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with OURS(hello) as site:
        await quiet()
        # Without a checkpoint: the kernel completes the handshake, and the server comes later.
        with socket.create_connection(site.address) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer = await site.ask(GET)
        assert (await peer.answer()).body == b"Hello"
        await until(lambda: site.open == 1)
    assert not caplog.records


# ---- a stalled client


async def test_a_client_that_takes_nothing_is_cut_and_not_before(
    clock: trio.testing.MockClock,
) -> None:
    async with stuck(flood) as (app, site, peer):
        for _ in range(12):
            await quiet()
            assert site.open == 1
            clock.jump(STALL_SECONDS / 12)
        await jump_until_closed(site, clock)
        assert app.left.is_set()
        # A reset, and not a FIN behind what the kernel would have kept for it.
        with pytest.raises(trio.BrokenResourceError):
            await read_to_the_end(peer)


async def read_to_the_end(peer: Peer) -> None:
    while await peer.stream.receive_some(1_000_000):
        pass


async def jump_until_closed(site: Site, clock: trio.testing.MockClock) -> None:
    """The kernels move some more bytes, in their own time, until the last buffer is full."""
    for _ in range(60):
        clock.jump(STALL_SECONDS / 12)
        await quiet()
        if site.open == 0:
            return
    pytest.fail("it was never cut")


async def test_hypercorn_itself_never_cuts_one(clock: trio.testing.MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await flood(send)

    async with STOCK(app) as site:
        await site.ask(GET)
        await until(lambda: len(site.writes) > 3)
        for _ in range(20):
            await quiet()
            clock.jump(STALL_SECONDS / 12)
        await quiet()
        assert site.open == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only whole writes are seen")
async def test_a_client_that_reads_a_little_now_and_then_is_not_cut(
    clock: trio.testing.MockClock,
) -> None:
    async with stuck(flood) as (app, site, peer):
        for _ in range(5):
            for _ in range(11):
                await quiet()
                clock.jump(STALL_SECONDS / 12)
            assert len(await peer.stream.receive_some(1000)) == 1000
        await quiet()
        assert site.open == 1
        assert not app.left.is_set()
        await jump_until_closed(site, clock)


async def test_elsewhere_whole_writes_are_the_progress_that_is_seen(
    clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "send_queue", lambda sock: None)
    monkeypatch.setattr(server, "unread_bytes", dict)
    async with stuck(flood) as (app, site, peer):
        for _ in range(3):
            for _ in range(11):
                await quiet()
                clock.jump(STALL_SECONDS / 12)
            written = len(site.writes)
            while len(site.writes) < written + 2:
                await peer.stream.receive_some(1_000_000)
        assert not app.left.is_set()
        await jump_until_closed(site, clock)


async def test_a_client_that_reads_at_last_gets_everything(clock: trio.testing.MockClock) -> None:
    app = Told(lambda send: reply(send, b"x" * MORE_THAN_SOCKETS_HOLD))
    async with OURS(app) as site:
        peer = await site.ask(GET)
        for _ in range(3):
            await until(lambda: len(site.server.writing) == 1)
            for _ in range(11):
                await quiet()
                clock.jump(STALL_SECONDS / 12)
            await peer.read()
        assert len((await peer.answer()).body) == MORE_THAN_SOCKETS_HOLD
        assert app.delivered


async def test_a_pause_between_writes_is_no_stall(clock: trio.testing.MockClock) -> None:
    async def work(send: Any) -> None:
        await start(send)
        for _ in range(3):
            await say(send, b"event", more=True)
            await trio.sleep(10 * STALL_SECONDS)
        await say(send, b"end")

    async with OURS(Told(work)) as site:
        peer = await site.ask(GET)
        await peer.until(b"event")
        for _ in range(3 * 121):
            await quiet_now()
            clock.jump(STALL_SECONDS / 12)
        assert (await peer.answer()).whole


async def test_the_send_queue_of_a_closed_socket_is_unknown() -> None:
    sock = trio.socket.socket()
    assert send_queue(sock) in (0, None)
    sock.close()
    assert send_queue(sock) is None


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc/net/tcp")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_what_a_local_client_has_not_read_is_known(host: str) -> None:
    try:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
    except OSError:
        pytest.skip("this machine has no IPv6")
    address = listener.socket.getsockname()[:2]
    async with (
        listener,
        await trio.open_tcp_stream(*address) as here,
        await listener.accept() as there,
    ):
        ends = proc_address(here.socket.getsockname()), proc_address(address)
        await there.send_all(b"x" * 1000)
        assert unread_bytes()[ends].endswith(":000003E8")
        await here.receive_some(1000)
        assert unread_bytes()[ends].endswith(":00000000")

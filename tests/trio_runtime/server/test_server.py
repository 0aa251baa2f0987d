"""All client connections at once: what must not end them, and how they end."""

import errno
import gc
import logging
import socket
from typing import Any

import pytest
import trio
import trio.testing

from arbstr.trio_runtime.server import connection
from arbstr.trio_runtime.server.asgi import as_asgi
from arbstr.trio_runtime.server.client_socket import receive
from arbstr.trio_runtime.server.connection import READ_AHEAD_BYTES
from arbstr.trio_runtime.server.http11 import Http11
from arbstr.trio_runtime.server.listener import EagerListener
from arbstr.trio_runtime.server.request import ClientRequest
from arbstr.trio_runtime.server.server import Server
from tests.site import (
    GET,
    OURS,
    PATIENCE,
    POST,
    Peer,
    Told,
    Waiting,
    echo,
    flood,
    hello,
    quiet,
    say,
    silence,
    start,
)
from tests.waiting import until

# ---- what must not end the server


async def test_a_bug_in_one_connection_ends_that_one_and_not_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(self: object, *request: object) -> None:
        raise RuntimeError

    async with OURS(hello) as site:
        other = await site.ask(GET)
        assert (await other.answer()).body == b"Hello"
        with monkeypatch.context() as patch:
            patch.setattr(Http11, "_begin", bug)
            peer = await site.ask(GET)
            assert await peer.rest() == b""
        await other.send(GET)
        assert (await other.answer()).body == b"Hello"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "RuntimeError at " in record.getMessage()


async def test_a_server_out_of_file_descriptors_goes_on_accepting(
    caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    async with OURS(hello) as site:
        site.listening.failures.append(OSError(errno.EMFILE, "too many open files"))
        peer = await site.connect()
        assert await peer.rest() == b""
        await quiet()
        clock.jump(1)
        again = await site.ask(GET)
        assert (await again.answer()).body == b"Hello"
    assert "EMFILE" in caplog.text


# ---- shutdown


async def half_an_answer(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await say(send, b"half")


@pytest.mark.parametrize("behind", [b"", POST], ids=["alone", "with a request behind it"])
async def test_an_answer_without_its_end_lies_a_moment_with_the_client(
    behind: bytes, clock: trio.testing.MockClock
) -> None:
    async with OURS(half_an_answer, break_off_seconds=100) as site:
        peer = await site.ask(POST + behind)
        assert b"half" in await peer.read()
        assert not await peer.is_closed()
        await peer.send(POST)  # which nobody reads any more
        assert not await peer.is_closed()
        clock.jump(101)
        assert await peer.is_closed()


async def test_who_has_seen_that_an_answer_broke_off_may_leave_at_once() -> None:
    async with OURS(half_an_answer, break_off_seconds=100) as site:
        peer = await site.ask(POST)
        assert b"half" in await peer.read()
        await peer.stream.aclose()
        await site.wait_closed()


async def test_stop_closes_idle_connections_at_once() -> None:
    async with OURS(hello) as site:
        fresh, used = await site.connect(), await site.ask(GET)
        await used.answer()
        half = await site.ask(GET[:10])
        await site.wait_open(3)
        await quiet()
        site.server.stop()
        for peer in (fresh, used, half):
            assert await peer.rest() == b""
        with trio.fail_after(PATIENCE):
            await site.ended.wait()
        with socket.socket() as late:
            assert late.connect_ex(site.address) == errno.ECONNREFUSED


async def test_a_connection_that_was_accepted_just_before_stop_is_closed_too() -> None:
    server = Server(as_asgi(hello), [])
    server.stop()
    here, there = trio.socket.socketpair()
    with here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server._end_by_time)
            with trio.fail_after(PATIENCE):
                await server._accept(trio.SocketStream(there))
            nursery.cancel_scope.cancel()
        assert await here.recv(1) == b""


async def assert_last_answer(peer: Peer) -> None:
    answer = await peer.answer("POST")
    assert (answer.body, answer.headers["connection"]) == (b"Hello", "close")
    assert await peer.read() == b""


async def test_a_request_that_comes_in_the_moment_of_stop_is_answered_and_is_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with OURS(hello) as site:

        async def stop_meanwhile(sock: trio.socket.SocketType) -> bytes:
            data = await receive(sock)
            site.server.stop()
            return data

        monkeypatch.setattr(connection, "receive", stop_meanwhile)
        await assert_last_answer(await site.ask(POST))


async def test_a_request_that_is_in_its_socket_at_stop_is_answered_and_is_the_last() -> None:
    async with OURS(hello) as site:
        fresh, used = await site.connect(), await site.ask(GET)
        await used.answer()
        await site.wait_open(2)
        await quiet()
        for peer in (fresh, used):
            peer.stream.socket._sock.send(POST)  # type: ignore[attr-defined]  # nobody reads yet
        site.server.stop()
        for peer in (fresh, used):
            await assert_last_answer(peer)


async def test_a_request_on_its_way_at_stop_is_answered_and_a_later_one_is_not(
    clock: trio.testing.MockClock,
) -> None:
    async with OURS(hello, keep_alive_seconds=1000, last_call_seconds=100) as site:
        early, late = await site.connect(), await site.ask(POST[:10])
        await site.wait_open(2)
        await quiet()
        site.server.stop()
        await quiet()
        clock.jump(99)
        await early.send(POST)
        await assert_last_answer(early)
        clock.jump(2)
        assert await late.is_closed()


async def test_who_waits_at_the_door_at_stop_is_answered() -> None:
    (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(as_asgi(hello), [EagerListener(plain)])
    with socket.create_connection(plain.socket.getsockname()) as sock:
        sock.sendall(POST)
        server.stop()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve)
            peer = Peer(trio.SocketStream(trio.socket.from_stdlib_socket(sock.dup())))
            async with peer.stream:
                await assert_last_answer(peer)


async def test_stop_lets_an_answer_end_and_closes_after_it() -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(POST + POST)
        await until(lambda: app.begun == 1)
        site.server.stop()
        await quiet()
        assert not site.ended.is_set()
        app.may_answer.set()
        answer = await peer.answer()
        assert answer.body == b"Hello"
        assert answer.headers["connection"] == "close"
        assert await peer.rest() == b""  # the second request is not begun
        assert app.begun == 1
        with trio.fail_after(PATIENCE):
            await site.ended.wait()


async def test_stop_closes_after_an_answer_though_much_was_sent_behind_its_request() -> None:
    app = Waiting()
    async with OURS(app) as site:
        peer = await site.ask(POST)
        await until(lambda: app.begun == 1)
        await peer.send(GET * (2 * READ_AHEAD_BYTES // len(GET)))
        await quiet()
        site.server.stop()
        app.may_answer.set()
        await site.wait_closed()
        assert app.begun == 1


async def test_stop_in_the_middle_of_a_stream_begins_nothing_that_waits_behind_it() -> None:
    begun, may_end = 0, trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal begun
        begun += 1
        await start(send)
        await say(send, b"one", more=True)
        await may_end.wait()
        await say(send, b"two")

    async with OURS(app) as site:
        peer = await site.ask(POST + POST)
        await peer.until(b"one")
        await quiet()
        site.server.stop()
        may_end.set()
        assert (await peer.answer()).body == b"onetwo"
        assert await peer.rest() == b""
        assert begun == 1


async def test_stop_lets_an_upload_end_and_answers_it() -> None:
    async with OURS(echo) as site:
        peer = await site.ask(POST[:-2])
        await site.wait_open(1)
        await quiet()
        site.server.stop()
        await quiet()
        await peer.send(POST[-2:])
        assert (await peer.answer()).body == b"/ body"
        assert await peer.is_closed()


async def test_close_all_ends_whatever_is_left() -> None:
    stalled, waiting = Told(flood), Told(silence)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (stalled if scope["path"] == "/flood" else waiting)(scope, receive, send)

    async with OURS(app) as site:
        await site.ask(POST.replace(b" / ", b" /flood "))
        await site.ask(POST)
        await site.ask(POST[:-1])
        lingering = await site.ask(b"garbage\r\n\r\n")
        await lingering.until(b"400")
        await until(lambda: len(site.server.writing) == 1)
        await site.wait_open(4)
        await quiet()
        site.server.stop()
        await quiet()
        assert not site.ended.is_set()
        site.server.close_all()
        with trio.fail_after(PATIENCE):
            await site.ended.wait()
        assert stalled.left.is_set()
        assert waiting.left.is_set()


async def test_a_server_can_be_stopped_before_it_serves() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(as_asgi(hello), [listener])
    server.stop()
    with trio.fail_after(PATIENCE):
        await server.serve()
    assert listener.socket.fileno() == -1


async def test_a_cancelled_server_leaves_no_socket() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(as_asgi(Told(flood)), [listener])
    address = listener.socket.getsockname()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(GET)
        await until(lambda: len(server.writing) == 1)
        idle = await trio.open_tcp_stream(*address)
        await until(lambda: len(server.connections) == 2)
        # A write that waits is shielded; `main` closes all sockets before it cancels.
        server.close_all()
        nursery.cancel_scope.cancel()
    assert not server.connections
    assert not server.writing
    assert listener.socket.fileno() == -1
    await trio.aclose_forcefully(stream)
    await trio.aclose_forcefully(idle)
    gc.collect()


async def test_a_server_serves_on_several_listeners() -> None:
    listeners = [
        listener
        for _ in range(3)
        for listener in await trio.open_tcp_listeners(0, host="127.0.0.1")
    ]
    server = Server(as_asgi(hello), listeners)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        for listener in listeners:
            stream = await trio.open_tcp_stream(*listener.socket.getsockname())
            async with stream:
                await stream.send_all(GET)
                assert (await Peer(stream).answer()).body == b"Hello"
        server.stop()
    assert all(listener.socket.fileno() == -1 for listener in listeners)


async def test_a_connection_that_is_over_leaves_no_object() -> None:
    async with OURS(echo) as site:
        for _ in range(5):
            peer = await site.ask(POST + POST + POST)
            for _ in range(3):
                await peer.answer()
            await peer.stream.aclose()
        await site.wait_closed()
        await quiet()
        gc.collect()
        assert not [
            thing for thing in gc.get_objects() if isinstance(thing, Http11 | ClientRequest)
        ]

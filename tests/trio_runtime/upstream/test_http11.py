"""One exchange on a pipe: what is sent, what is read, what is said when it breaks."""

import random
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from arbstr.sansio.errors import LocalProtocolError
from arbstr.trio_runtime.upstream import pipe, readers
from arbstr.trio_runtime.upstream.connect import Origin
from arbstr.trio_runtime.upstream.http11 import (
    APART_SIZE,
    PIECE_SIZE,
    Connection,
    Link,
    RequestHead,
    SendFailed,
)
from arbstr.trio_runtime.upstream.pipe import Pipe
from arbstr.trio_runtime.upstream.readers import AnswerBroken
from tests.trio_runtime.raw_provider import read_until_broken

ORIGIN = Origin("http", "provider.test", 80)
HEAD = RequestHead.prepare(b"POST", b"/v1/chat/completions", [(b"Host", b"provider.test")])
SENT = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: provider.test\r\nContent-Length: 5\r\n\r\nhello"
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True, params=["as it comes", "all by h11"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is read twice: what sansio/heads.py reads must go no other way by h11."""
    if request.param == "all by h11":
        monkeypatch.setattr(readers, "read_answer", lambda data: None)


class Wire:
    """A connection over a socket pair: whatever the peer says has arrived at once."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(10)
        self.link = Link(ORIGIN, Pipe(ours))
        self.released: list[bool] = []

    def connection(self, *, reused: bool = False) -> Connection:
        return Connection(self.link, self._released, reused=reused)

    def _released(self, link: Link, reusable: bool) -> None:
        assert link is self.link
        self.released.append(reusable)

    async def asked(self) -> Connection:
        """A connection whose request has been sent and read."""
        connection = self.connection()
        await connection.send(HEAD, b"hello")
        assert self.peer.recv(65536) == SENT
        return connection


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    pair = Wire()
    yield pair
    pair.link.pipe.close()
    pair.peer.close()


async def read_all(connection: Connection) -> bytes:
    body = connection.receive_nowait()
    while not connection.complete:
        body += await connection.receive_some()
    assert await connection.receive_some() == b""
    return body


async def test_head_and_body_go_out_in_one_piece_and_are_counted(wire: Wire) -> None:
    connection = wire.connection()
    assert connection.written == 0
    await connection.send(HEAD, b"hello")
    assert wire.peer.recv(65536) == SENT
    assert connection.written == len(SENT)
    assert connection.bytes_received == 0


ANSWERS = [
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Y: z\r\n\r\nhello", b"hello", True, id="length"
    ),
    pytest.param(CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello", True, id="chunked"),
    pytest.param(
        CHUNKED + b"5;ext=1\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello", True, id="trailers"
    ),
    pytest.param(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", True, id="empty, no reason"),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", True, id="no content"),
    pytest.param(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
        True,
        id="1xx first",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
        True,
        id="two equal lengths",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
        False,
        id="connection close",
    ),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False, id="HTTP/1.0"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", b"ok", False, id="bytes after the end"
    ),
]


async def received(peer: socket.socket, size: int) -> bytes:
    """So many bytes, read in a thread: who writes may have to wait for it."""

    def read() -> bytes:
        parts = bytearray()
        while len(parts) < size:
            parts += peer.recv(size - len(parts))
        return bytes(parts)

    return await trio.to_thread.run_sync(read)


@pytest.mark.parametrize("takes_parts", [True, False])
@pytest.mark.parametrize("size", [0, 1, -1])
@pytest.mark.parametrize("near", [APART_SIZE, PIECE_SIZE, 2 * PIECE_SIZE])
async def test_a_body_of_any_size_arrives_behind_its_head(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, near: int, size: int, takes_parts: bool
) -> None:
    monkeypatch.setattr(pipe, "_TAKES_PARTS", takes_parts)
    body = random.Random(near + size).randbytes(near + size)
    connection, head = wire.connection(), HEAD.render(len(body))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, HEAD, body)
            assert await received(wire.peer, len(head) + len(body)) == head + body
    assert connection.written == len(head) + len(body)


@pytest.mark.parametrize("least", [1, 7, 70, 100_000])
async def test_a_body_arrives_however_little_of_it_the_kernel_takes(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    def send_nowait(own: Pipe, *parts: memoryview) -> int:
        size = sum(map(len, parts))
        return own._socket.send(b"".join(parts)[: least if size > 20_000 else size])

    monkeypatch.setattr(Pipe, "send_nowait", send_nowait)
    body = random.Random(least).randbytes(20_100 if least < 7 else 40_000)
    connection, head = wire.connection(), HEAD.render(len(body))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, HEAD, body)
            assert await received(wire.peer, len(head) + len(body)) == head + body


async def test_a_large_body_is_not_copied_on_its_way_out(wire: Wire) -> None:
    body, connection = b"x" * 900_000, wire.connection()
    buffer = bytearray(65_536)

    def take(size: int) -> None:
        while size:
            size -= wire.peer.recv_into(buffer)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                trio.to_thread.run_sync, take, len(HEAD.render(len(body))) + len(body)
            )
            tracemalloc.start()
            try:
                await connection.send(HEAD, body)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(("answer", "body", "reusable"), ANSWERS)
async def test_an_answer_is_the_same_however_it_is_cut(
    wire: Wire, answer: bytes, body: bytes, reusable: bool, size: int
) -> None:
    connection = await wire.asked()
    got: list[object] = []

    async def read() -> None:
        head = await connection.receive_head()
        got.append(head.status)
        got.append(await read_all(connection))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for start in range(0, len(answer), size):
            wire.peer.sendall(answer[start : start + size])
            await wait_all_tasks_blocked()
    assert got == [204 if b" 204 " in answer else 200, body]
    connection.release()
    # A byte behind the end that has not been read yet is `quiet`'s to find.
    assert (wire.released == [reusable]) or not wire.link.pipe.quiet()


async def test_a_body_without_framing_ends_with_the_connection(wire: Wire) -> None:
    connection = await wire.asked()
    wire.peer.sendall(b"HTTP/1.1 200 OK\r\nX-Odd:   a b  \r\n\r\nall of it")
    wire.peer.close()
    head = await connection.receive_head()
    assert head.headers == ((b"x-odd", b"a b"),)
    assert head.reason == b"OK"
    assert await read_all(connection) == b"all of it"
    connection.release()
    assert wire.released == [False]


async def test_an_answer_to_head_has_no_body(wire: Wire) -> None:
    connection = wire.connection()
    await connection.send(RequestHead.prepare(b"HEAD", b"/", [(b"Host", b"h")]), b"")
    assert wire.peer.recv(65536) == b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
    wire.peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    await connection.receive_head()
    assert await read_all(connection) == b""


async def test_a_request_that_closes_is_not_followed_by_another(wire: Wire) -> None:
    connection = wire.connection()
    closing = RequestHead.prepare(b"GET", b"/", [(b"Host", b"h"), (b"connection", b"close")])
    await connection.send(closing, b"")
    wire.peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await connection.receive_head()
    assert await read_all(connection) == b""
    connection.release()
    assert wire.released == [False]


NO_HEAD = [
    (b"", "the connection was closed before the answer began"),
    (b"HTTP/1.1 200 OK\r\nContent-", "the connection was closed within the head of the answer"),
    (b"HTTP/1.1 100 Continue\r\n\r\n", "the connection was closed within the head of the answer"),
    (b"hello\r\n\r\n", "the answer is not valid HTTP/1.1"),
    (b"\x15\x03\x01\x00\x02\x02", "the answer is not valid HTTP/1.1"),
    (b"SSH-2.0-OpenSSH_9\r\n\r\n", "the answer is not valid HTTP/1.1"),
    (b"HTTP/1.1 abc OK\r\n\r\n", "the answer is not valid HTTP/1.1"),
    (b"HTTP/1.1 099 Low\r\n\r\n", "the answer is not valid HTTP/1.1"),
    (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "the answer is not valid HTTP/1.1",
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "the answer is not valid HTTP/1.1",
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n", "the answer is not valid HTTP/1.1"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2e9\r\n\r\n", "the answer is not valid HTTP/1.1"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "the answer is not valid HTTP/1.1"),
    (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "the answer is not valid HTTP/1.1"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 140_000, "the head of the answer is over 64 kB"),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000, "the head of the answer is over 64 kB"),
]


@pytest.mark.parametrize(("said", "sentence"), NO_HEAD)
async def test_an_answer_without_a_head_is_broken_and_stays_so(
    wire: Wire, said: bytes, sentence: str
) -> None:
    connection = await wire.asked()
    wire.peer.settimeout(None)

    def say() -> None:
        with wire.peer, suppress(BrokenPipeError):  # nobody reads all of an oversized head
            wire.peer.sendall(said)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, say)
        for _ in range(2):
            with pytest.raises(AnswerBroken) as caught:
                await connection.receive_head()
            assert caught.value.sentence == sentence
        with pytest.raises(LocalProtocolError):
            connection.receive_nowait()  # no head was taken for one
        wire.link.pipe.close()
    assert (connection.bytes_received > 0) == bool(said)


CUT = "the connection was closed before the body was complete"
CUT_BODIES = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", b"hello", CUT),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"", CUT),
    (CHUNKED + b"5\r\nhello\r\n", b"hello", CUT),
    (CHUNKED + b"5\r\nhel", b"hel", CUT),
    (CHUNKED + b"5\r\nhello\r\n0\r\n", b"hello", CUT),
    (CHUNKED + b"5\r\nhello\r\nxyz\r\n", b"hello", "the body is not valid HTTP/1.1"),
    (CHUNKED + b"5\r\nhello!!\r\n0\r\n\r\n", b"hello", "the body is not valid HTTP/1.1"),
    (CHUNKED + b"-5\r\nhello\r\n", b"", "the body is not valid HTTP/1.1"),
    (CHUNKED + b"f" * 30 + b"\r\n", b"", "the body is not valid HTTP/1.1"),
]


@pytest.mark.parametrize(("said", "body", "sentence"), CUT_BODIES)
async def test_a_cut_body_is_given_out_first_and_told_then(
    wire: Wire, said: bytes, body: bytes, sentence: str
) -> None:
    connection = await wire.asked()
    wire.peer.sendall(said)
    wire.peer.close()
    await connection.receive_head()
    assert await read_until_broken(connection) == (body, sentence)
    with pytest.raises(AnswerBroken):
        await connection.receive_some()
    with pytest.raises(AnswerBroken):
        connection.receive_nowait()
    assert not connection.complete
    connection.release()
    assert wire.released == [False]


async def test_all_that_has_arrived_comes_in_one_object(wire: Wire) -> None:
    connection = await wire.asked()
    wire.peer.sendall(CHUNKED)
    await connection.receive_head()
    assert connection.receive_nowait() == b""
    for _ in range(50):
        wire.peer.sendall(b"6\r\ndata\n\n\r\n")
    data = await connection.receive_some()
    assert data == b"data\n\n" * 50
    assert type(data) is bytes
    assert not connection.complete


async def test_a_large_body_comes_in_bounded_pieces(wire: Wire) -> None:
    connection = await wire.asked()
    size = 3_000_000
    wire.peer.settimeout(None)

    def say() -> None:
        wire.peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        wire.peer.sendall(b"x" * size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, say)
        await connection.receive_head()
        pieces = []
        while not connection.complete:
            pieces.append(await connection.receive_some())
    assert sum(map(len, pieces)) == size
    assert max(map(len, pieces)) <= 262_144 + 65_536


async def test_a_cancelled_read_loses_nothing_and_another_task_reads_on(wire: Wire) -> None:
    connection = await wire.asked()
    for part in (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 10\r\n\r\n"):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.receive_head)
                await wait_all_tasks_blocked()
                scope.cancel()
        wire.peer.sendall(part)
    await connection.receive_head()
    wire.peer.sendall(b"hello")
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.receive_some()
    wire.peer.sendall(b"world")
    got = []

    async def drain() -> None:
        got.append(await read_all(connection))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
    assert got == [b"helloworld"]
    connection.release()
    assert wire.released == [True]


async def test_a_cancelled_send_ends_the_connection(wire: Wire) -> None:
    connection = wire.connection()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, HEAD, b"x" * 20_000_000)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert 0 < connection.written < 20_000_000
    connection.release()
    assert wire.released == [False]


async def test_a_send_cancelled_before_it_began_has_written_nothing(wire: Wire) -> None:
    connection = wire.connection()
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.send(HEAD, b"hello")
    assert connection.written == 0
    connection.release()
    assert wire.released == [False]


async def test_a_peer_that_was_gone_before_the_first_byte_is_told_as_such(wire: Wire) -> None:
    connection = wire.connection(reused=True)
    wire.peer.close()
    with pytest.raises(SendFailed) as caught:
        await connection.send(HEAD, b"hello")
    assert caught.value.sentence == "the connection was closed before anything was sent"
    assert connection.written == 0


async def send_to_a_peer_that_reads_little(wire: Wire, answer: bytes) -> Connection:
    """Blocks in the middle of a large body, then the peer says something."""
    connection = wire.connection()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, HEAD, b"x" * 20_000_000)
        await wait_all_tasks_blocked()
        wire.peer.sendall(answer)
    assert 0 < connection.written < 20_000_000
    return connection


REFUSED = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_an_early_refusal_stops_the_writing_and_is_read(wire: Wire, before: bytes) -> None:
    connection = await send_to_a_peer_that_reads_little(wire, before + REFUSED)
    assert (await connection.receive_head()).status == 413
    assert await read_all(connection) == b"big"
    connection.release()
    assert wire.released == [False]


async def test_garbage_during_the_writing_stops_it(wire: Wire) -> None:
    connection = await send_to_a_peer_that_reads_little(wire, b"no HTTP\r\n\r\n")
    with pytest.raises(AnswerBroken, match="not valid HTTP"):
        await connection.receive_head()


async def test_a_peer_that_closes_during_the_writing_leaves_its_answer(wire: Wire) -> None:
    connection = wire.connection()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, HEAD, b"x" * 20_000_000)
        await wait_all_tasks_blocked()
        wire.peer.close()
    assert connection.written > 0
    with pytest.raises(AnswerBroken) as caught:
        await connection.receive_head()
    assert caught.value.sentence.endswith("before the answer began")


async def test_an_early_200_does_not_stop_the_writing(wire: Wire) -> None:
    connection = wire.connection()
    size = 5_000_000

    def read() -> int:
        got = 0
        while got < size:
            got += len(wire.peer.recv(1_000_000))
        return got

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, HEAD, b"x" * size)
        await wait_all_tasks_blocked()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        wire.peer.sendall(answer[:17])
        await wait_all_tasks_blocked()
        wire.peer.sendall(answer[17:])
        await wait_all_tasks_blocked()
        assert connection.bytes_received == len(answer)
        assert await trio.to_thread.run_sync(read) >= size
    assert (await connection.receive_head()).status == 200
    assert await read_all(connection) == b"ok"
    connection.release()
    assert wire.released == [True]


async def test_an_answer_that_says_two_lengths_is_the_last_of_its_connection(wire: Wire) -> None:
    connection = await wire.asked()
    wire.peer.sendall(
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n") + b"2\r\nok\r\n0\r\n\r\n"
    )
    await connection.receive_head()
    assert await read_all(connection) == b"ok"
    connection.release()
    assert wire.released == [False]


async def test_release_takes_the_end_of_a_chunked_body_that_has_arrived(wire: Wire) -> None:
    connection = await wire.asked()
    wire.peer.sendall(CHUNKED + b"5\r\nhello\r\n")
    await connection.receive_head()
    assert connection.receive_nowait() == b"hello"
    wire.peer.sendall(b"0\r\n\r\n")
    connection.release()
    assert wire.released == [True]


async def test_release_before_the_end_gives_the_connection_up(wire: Wire) -> None:
    connection = await wire.asked()
    wire.peer.sendall(CHUNKED + b"5\r\nhello\r\n")
    await connection.receive_head()
    connection.release()
    assert wire.released == [False]


async def test_everything_after_release_says_closed(wire: Wire) -> None:
    connection = await wire.asked()
    connection.release()
    connection.release()
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.aclose()
    assert wire.released == [False]
    with pytest.raises(trio.ClosedResourceError):
        await connection.receive_head()
    with pytest.raises(trio.ClosedResourceError):
        await connection.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        connection.receive_nowait()
    with pytest.raises(trio.ClosedResourceError):
        await connection.send(HEAD, b"")


async def test_the_wrong_order_is_our_own_fault(wire: Wire) -> None:
    connection = await wire.asked()
    with pytest.raises(LocalProtocolError):
        connection.receive_nowait()
    with pytest.raises(LocalProtocolError):
        await connection.send(HEAD, b"again")
    wire.peer.send(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(LocalProtocolError):
        await wire.connection().receive_head()


def test_a_prepared_head_says_length_where_a_body_is_usual() -> None:
    assert HEAD.render(0).endswith(b"\r\nContent-Length: 0\r\n\r\n")
    get = RequestHead.prepare(b"GET", b"/a?b=c", [(b"Host", b"h"), (b"X-Y", b"z")])
    assert get.render(0) == b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nX-Y: z\r\n\r\n"
    assert get.render(3).endswith(b"\r\nContent-Length: 3\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/", [(b"authorization", b"sk-secret\r\nx: y"), (b"host", b"h")]),
        (b"/", [(b"authorization", b"sk-secret")]),
        (b"/sk-secret x", [(b"host", b"h")]),
        (b"/", [(b"host", b"h"), (b"host", b"h"), (b"x", b"sk-secret")]),
        (b"/", [(b"host", b"h"), (b"content-length", b"3"), (b"x", b"sk-secret")]),
        (b"/", [(b"host", b"h"), (b"Transfer-Encoding", b"chunked"), (b"x", b"sk-secret")]),
    ],
)
def test_a_head_that_cannot_be_sent_is_refused_without_repeating_it(
    target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(ValueError, match=r"valid|framing") as caught:
        RequestHead.prepare(b"POST", target, headers)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_prepared_head_does_not_show_the_key() -> None:
    head = RequestHead.prepare(b"POST", b"/", [(b"Host", b"h"), (b"Authorization", b"sk-secret")])
    assert "secret" not in repr(head)
    assert b"sk-secret" in head.render(0)

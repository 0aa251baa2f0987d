"""Connections that are kept, handed out, given up."""

import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.trio_runtime.upstream.transport import (
    AnswerBroken,
    Connection,
    Origin,
    RequestHead,
    Transport,
    TransportStatistics,
)
from tests.trio_runtime.raw_provider import (
    OK,
    Handler,
    Peer,
    answering,
    ask,
    open_sockets,
    provider,
    read_until_broken,
)

CHUNKED_OK = "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
HEAD = RequestHead.prepare(b"POST", b"/v1/chat/completions", [(b"Host", b"provider.test")])


async def ready(transport: Transport, origin: Origin) -> Connection:
    """A connection whose exchange is over, not released yet."""
    connection = await transport.connect(origin)
    await connection.send(HEAD, b"")
    await connection.receive_head()
    assert connection.receive_nowait() == b"ok"
    return connection


async def test_a_connection_serves_one_exchange_after_the_other() -> None:
    async with provider(answering(OK)) as origin, Transport() as transport:
        for turn in range(3):
            connection = await ready(transport, origin)
            assert connection.reused == (turn > 0)
            assert connection.written == len(HEAD.render(0))
            assert connection.bytes_received == len(OK)
            assert transport.statistics() == TransportStatistics(open=1, idle=0)
            await connection.aclose()
            assert transport.statistics() == TransportStatistics(open=1, idle=1)
    assert transport.statistics() == TransportStatistics(open=0, idle=0)


async def test_the_connection_used_last_is_used_next() -> None:
    async with provider(answering(OK)) as origin, Transport() as transport:
        first, second = await ready(transport, origin), await ready(transport, origin)
        sockets = [first._link, second._link]
        first.release()
        second.release()
        assert (await transport.connect(origin))._link is sockets[1]
        assert (await transport.connect(origin))._link is sockets[0]
        fresh = await transport.connect(origin)
        assert not fresh.reused
        fresh.release()
        for link in sockets:
            assert link is not None
            link.pipe.close()


async def test_origins_share_nothing() -> None:
    async with (
        provider(answering(OK)) as one,
        provider(answering(OK)) as other,
        Transport() as transport,
    ):
        (await ready(transport, one)).release()
        connection = await transport.connect(other)
        assert not connection.reused
        connection.release()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 408 Request Timeout\r\n\r\n",
    ],
)
async def test_some_answers_are_the_last_on_their_connection(answer: bytes) -> None:
    async with provider(answering(answer)) as origin, Transport() as transport:
        for _ in range(2):
            connection = await ready(transport, origin)
            assert not connection.reused
            connection.release()
            assert transport.statistics().open == 0


async def test_a_provider_that_closes_each_connection_is_served_anew() -> None:
    async with provider(answering(OK, then="close")) as origin, Transport() as transport:
        for _ in range(50):
            assert await ask(transport, origin, HEAD) == b"ok"
            await wait_all_tasks_blocked()
        assert transport.statistics().open <= 1


@pytest.mark.parametrize("how", ["closes", "resets", "speaks"])
async def test_an_idle_connection_that_is_not_quiet_is_not_used_again(how: str) -> None:
    used = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await used.wait()
        match how:
            case "closes":
                await peer.stream.aclose()
            case "resets":
                peer.reset()
            case _:
                await peer.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
                await peer.gone()

    async with provider(handler) as origin, Transport() as transport:
        connection = await ready(transport, origin)
        link = connection._link
        assert link is not None
        connection.release()
        used.set()
        await link.pipe.wait_readable()
        fresh = await transport.connect(origin)
        assert not fresh.reused
        assert transport.statistics() == TransportStatistics(open=1, idle=0)
        fresh.release()


async def test_an_idle_connection_lives_four_seconds(mock_clock: MockClock) -> None:
    async with provider(answering(OK), seconds=1000) as origin, Transport() as transport:
        (await ready(transport, origin)).release()
        mock_clock.jump(3.9)
        connection = await ready(transport, origin)
        assert connection.reused
        connection.release()
        mock_clock.jump(4.0)
        connection = await ready(transport, origin)
        assert not connection.reused
        connection.release()


async def test_idle_connections_are_closed_by_time_and_not_by_the_next_request(
    autojump_clock: MockClock,
) -> None:
    closed: list[float] = []

    def saying(head: bytes) -> Handler:
        async def handler(peer: Peer) -> None:
            while await peer.request() is not None:
                await peer.say(OK.replace(b"\r\n\r\n", head + b"\r\n\r\n"))
            closed.append(trio.current_time())

        return handler

    async with (
        provider(saying(b""), seconds=1000) as usual,
        provider(saying(b"\r\nKeep-Alive: max=9, Timeout = 3"), seconds=1000) as hasty,
        Transport() as transport,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(transport.close_by_time)
        start = trio.current_time()
        (await ready(transport, usual)).release()
        await trio.sleep(1)
        # Not the first to be idle, and the first to be closed.
        (await ready(transport, hasty)).release()
        (await ready(transport, usual)).release()
        await trio.sleep(1.9)
        (await ready(transport, hasty)).release()
        await trio.sleep(100)
        assert transport.statistics() == TransportStatistics(open=0, idle=0)
        assert [round(moment - start, 1) for moment in closed] == [4.9, 5.0]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("timeout=5", 4.0),
        ("timeout=60, max=100", 4.0),
        ("timeout=3", 2.0),
        ('max=5, TIMEOUT = "2"', 1.0),
        ("timeout=1", 0.0),
        ("timeout=0", 0.0),
        ("timeout=-1", 4.0),
        ("timeout=" + "9" * 5000, 4.0),
        ("max=1", 4.0),
        ("", 4.0),
    ],
)
@pytest.mark.parametrize("framing", ["Content-Length: 2\r\n\r\nok", CHUNKED_OK])
async def test_a_provider_says_how_long_it_keeps_a_connection(
    said: str, seconds: float, framing: str, mock_clock: MockClock
) -> None:
    answer = f"HTTP/1.1 200 OK\r\nKeep-Alive: {said}\r\n{framing}".encode()
    async with (
        provider(answering(answer), seconds=1000) as origin,
        Transport() as transport,
    ):
        for wait, kept in ((seconds - 0.1, seconds > 0), (seconds, False)):
            (await ready(transport, origin)).release()
            mock_clock.jump(max(0.0, wait))
            connection = await transport.connect(origin)
            assert connection.reused == kept
            connection.release()


async def test_of_too_many_idle_connections_the_oldest_is_closed() -> None:
    async with provider(answering(OK)) as origin, Transport(max_idle_per_origin=2) as transport:
        connections = [await ready(transport, origin) for _ in range(3)]
        for connection in connections:
            connection.release()
        assert transport.statistics() == TransportStatistics(open=2, idle=2)


async def test_what_is_released_after_the_end_is_closed() -> None:
    async with provider(answering(OK)) as origin:
        async with Transport() as transport:
            connection = await ready(transport, origin)
        assert transport.statistics() == TransportStatistics(open=1, idle=0)
        connection.release()
        assert transport.statistics() == TransportStatistics(open=0, idle=0)
        with pytest.raises(trio.ClosedResourceError):
            await transport.connect(origin)


async def test_a_reset_gives_out_what_came_before_it() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        peer.reset()

    async with provider(handler) as origin, Transport() as transport:
        connection = await transport.connect(origin)
        await connection.send(HEAD, b"{}")
        await connection.receive_head()
        assert await read_until_broken(connection) == (
            b"hello",
            "the connection was reset before the body was complete",
        )
        connection.release()


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("close", "the connection was closed before the answer began"),
        ("reset", "the connection was reset before the answer began"),
    ],
)
async def test_a_provider_that_reads_and_hangs_up_was_written_to(how: str, sentence: str) -> None:
    async with provider(answering(b"", then=how)) as origin, Transport() as transport:
        connection = await transport.connect(origin)
        await connection.send(HEAD, b"{}")
        assert connection.written == len(HEAD.render(2)) + 2
        with pytest.raises(AnswerBroken) as caught:
            await connection.receive_head()
        assert caught.value.sentence == sentence
        connection.release()
        assert transport.statistics().open == 0


async def test_a_refusal_is_read_although_the_provider_hung_up_while_we_wrote() -> None:
    async def handler(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")

    async with provider(handler) as origin, Transport() as transport:
        connection = await transport.connect(origin)
        await connection.send(HEAD, b"x" * 20_000_000)
        assert (await connection.receive_head()).status == 413
        connection.release()
        assert transport.statistics().open == 0


# Cancellation


async def test_a_storm_of_cancelled_requests_leaves_nothing_behind() -> None:
    dice = random.Random(1093)
    before = open_sockets()

    async def handler(peer: Peer) -> None:
        while await peer.request() is not None:
            await trio.sleep(dice.random() * 0.02)
            await peer.say(OK[:-1])
            await trio.sleep(dice.random() * 0.01)
            await peer.say(OK[-1:])

    async def work(transport: Transport, origin: Origin, patience: list[float]) -> None:
        while patience:
            with trio.move_on_after(patience.pop()):
                assert await ask(transport, origin, HEAD) == b"ok"

    patience = [dice.random() * 0.05 for _ in range(1000)] + [float("inf")] * 1000
    dice.shuffle(patience)
    async with provider(handler, seconds=60) as origin, Transport() as transport:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(work, transport, origin, patience)
        assert transport.statistics().open == transport.statistics().idle <= 32
        for _ in range(100):
            assert await ask(transport, origin, HEAD) == b"ok"
        assert transport.statistics().open == transport.statistics().idle <= 32
    assert transport.statistics() == TransportStatistics(open=0, idle=0)
    assert open_sockets() == before

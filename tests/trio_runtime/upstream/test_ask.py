"""A GET that costs nothing, whole or said to be none."""

import zlib
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from arbstr.sansio.config.addresses import parse_proxy
from arbstr.trio_runtime.upstream.ask import Replied, Unanswered, ask
from arbstr.trio_runtime.upstream.transport import Origin, Transport, TransportStatistics
from tests.trio_runtime.fake_proxies import Asked, open_fake_proxy
from tests.trio_runtime.raw_provider import OK, Peer, answering, provider


def url_of(origin: Origin, path: str = "/v1/models") -> str:
    return f"http://127.0.0.1:{origin.port}{path}"


async def test_it_is_a_get_with_the_headers_given_and_the_connection_is_kept() -> None:
    seen = []

    async def handler(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            seen.append(request)
            await peer.say(
                b"HTTP/1.1 402 Payment Required\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\n{}\r\n0\r\n\r\n"
            )

    async with provider(handler) as origin, Transport() as transport:
        for _ in range(2):
            answer = await ask(
                transport,
                url_of(origin, "/v1/balance/info?x=y"),
                headers=[(b"authorization", b"Bearer sk-1")],
                most_bytes=2,
            )
            assert isinstance(answer, Replied)
            assert (answer.status, answer.body) == (402, b"{}")
            assert answer.headers["x-a"] == "1"
            assert transport.statistics() == TransportStatistics(open=1, idle=1)
    assert seen[0] == seen[1]
    lines = seen[0].split(b"\r\n")
    assert lines[0] == b"GET /v1/balance/info?x=y HTTP/1.1"
    assert b"host: 127.0.0.1:%d" % origin.port in [line.lower() for line in lines]
    assert b"accept-encoding: identity" in [line.lower() for line in lines]
    assert b"Authorization: Bearer sk-1" in lines or b"authorization: Bearer sk-1" in lines
    assert b"content-length" not in seen[0].lower()


async def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    asked = 0

    async def once(peer: Peer) -> None:
        nonlocal asked
        await peer.request()
        asked += 1
        await peer.say(OK)
        # The next request is read, and never answered.
        if await peer.request() is not None:
            peer.reset()

    async with provider(once) as origin, Transport() as transport:
        for _ in range(2):
            assert isinstance(await ask(transport, url_of(origin), most_bytes=99), Replied)
    assert asked == 2


@pytest.mark.parametrize(
    ("said", "sentence", "own"),
    [
        pytest.param(b"", "broke off: the connection was closed before the answer began", False),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            "broke off: the connection was closed before the body was complete",
            False,
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100,
            "answered with more than 99 bytes",
            True,
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
            + zlib.compress(b"x" * 10_000_000, wbits=31),
            "answered with more than 99 bytes",
            True,
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n\x8b\x02\x80what is this",
            "broke off: the answer was compressed in a way nobody asked for",
            False,
        ),
    ],
)
async def test_what_is_no_whole_answer_is_told_and_closes_its_connection(
    said: bytes, sentence: str, own: bool
) -> None:
    async with provider(answering(said, then="close")) as origin, Transport() as transport:
        answer = await ask(transport, url_of(origin), most_bytes=99)
        assert answer == Unanswered(sentence, own=own)
        assert transport.statistics() == TransportStatistics(open=0, idle=0)


async def test_nobody_there() -> None:
    async with provider(answering(OK)) as origin:
        pass
    async with Transport() as transport:
        answer = await ask(transport, url_of(origin), most_bytes=99)
    assert answer == Unanswered("could not be reached: connection refused")


async def test_through_a_proxy_the_name_is_the_proxys_to_look_up() -> None:
    async with (
        provider(answering(OK)) as origin,
        open_fake_proxy("socks5", {"node.onion": origin.port}) as fake,
        Transport() as transport,
    ):
        proxy = parse_proxy(fake.url)
        answer = await ask(transport, "http://node.onion/v1/models", proxy=proxy, most_bytes=99)
        assert isinstance(answer, Replied)
        assert answer.body == b"ok"
    assert fake.asked == [Asked("node.onion", 80)]


async def test_the_callers_deadline_leaves_nothing_open() -> None:
    async with provider(answering(b"HTTP/1.1 200 OK\r\n\r\n")) as origin, Transport() as transport:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(ask, transport, url_of(origin), most_bytes=99))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert transport.statistics() == TransportStatistics(open=0, idle=0)


@pytest.mark.parametrize("url", ["ftp://h/", "no url", "http://"])
async def test_a_url_that_cannot_be_asked_is_the_callers_fault(url: str) -> None:
    async with Transport() as transport:
        with pytest.raises(ValueError, match="URL"):
            await ask(transport, url, most_bytes=99)

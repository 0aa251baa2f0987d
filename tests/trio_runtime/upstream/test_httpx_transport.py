"""httpx's own client over arbstr's connections."""

import httpx
import pytest
import trio

from arbstr.trio_runtime.upstream.httpx_transport import HttpxTransport
from arbstr.trio_runtime.upstream.pipe import ConnectFailed
from arbstr.trio_runtime.upstream.transport import Transport, TransportStatistics
from tests.trio_runtime.raw_provider import Peer, answering, provider


async def test_httpx_reads_plain_and_streamed_answers_and_reuses_the_connection() -> None:
    seen = []

    async def handler(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            seen.append(request)
            await peer.say(
                b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
                b"6\r\ndata:x\r\n2\r\n\n\n\r\n0\r\n\r\n"
            )

    async with provider(handler) as origin, Transport() as connections:
        url = f"http://127.0.0.1:{origin.port}"
        async with httpx.AsyncClient(transport=HttpxTransport(connections)) as client:
            answer = await client.post(f"{url}/v1/x?y=z", json={"a": 1})
            assert (answer.status_code, answer.reason_phrase) == (201, "Made")
            assert answer.headers.get_list("x-a") == ["1", "2"]
            assert answer.content == b"data:x\n\n"
            async with client.stream("GET", f"{url}/") as streamed:
                assert [part async for part in streamed.aiter_bytes()] == [b"data:x\n\n"]
            assert connections.statistics() == TransportStatistics(open=1, idle=1)
        assert connections.statistics() == TransportStatistics(open=0, idle=0)
    assert seen[0].startswith(b"POST /v1/x?y=z HTTP/1.1\r\n")
    assert seen[0].endswith(b'\r\nContent-Length: 7\r\n\r\n{"a":1}')
    assert seen[0].lower().count(b"content-length") == 1
    assert b"Host: 127.0.0.1:%d\r\n" % origin.port in seen[0]
    assert b"content-length" not in seen[1].lower()


async def test_httpx_gets_its_own_exceptions() -> None:
    async def say_nothing(peer: Peer) -> None:
        await peer.gone()

    async with httpx.AsyncClient(transport=HttpxTransport(Transport())) as client:
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://h/")
        async with provider(answering(b"", then="close")) as origin:
            url = f"http://127.0.0.1:{origin.port}/"
            with pytest.raises(httpx.RemoteProtocolError, match="before the answer began"):
                await client.get(url)
        with pytest.raises(httpx.ConnectError, match="connection refused") as caught:
            await client.get(url)
        assert isinstance(caught.value.__cause__, ConnectFailed)
        async with provider(say_nothing) as origin:
            url = f"http://127.0.0.1:{origin.port}/"
            with pytest.raises(httpx.ReadTimeout):
                await client.get(url, timeout=httpx.Timeout(20, read=0.01))
            with pytest.raises(httpx.WriteTimeout):
                await client.post(
                    url, content=b"x" * 20_000_000, timeout=httpx.Timeout(20, write=0.01)
                )
        async with provider(
            answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", then="close")
        ) as origin:
            with pytest.raises(httpx.RemoteProtocolError, match="before the body was complete"):
                await client.get(f"http://127.0.0.1:{origin.port}/")


async def test_httpx_leaving_a_stream_closes_its_connection() -> None:
    left = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await peer.gone()
        left.set()

    async with (
        provider(handler) as origin,
        httpx.AsyncClient(transport=HttpxTransport(Transport())) as client,
    ):
        async with client.stream("GET", f"http://127.0.0.1:{origin.port}/") as answer:
            assert answer.status_code == 200
        await left.wait()

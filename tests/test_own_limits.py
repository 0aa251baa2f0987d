"""What this machine lacks says nothing about a provider."""

import errno
import logging
from urllib.parse import urlsplit

import pytest
import trio

from tests.fakes import (
    FakeProvider,
    completion,
    error_answer,
    json_answer,
    open_fake_provider,
)
from tests.proxy import STREAMED, Proxy, config, open_proxy, provider

NO_RETRY = "[retry]\nmax_retries = 0"


class Shortage:
    """`trio.open_tcp_stream`, which fails for providers as long as there is a `number`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *fakes: FakeProvider) -> None:
        self.number: int | None = None
        self._ports = {urlsplit(fake.url).port for fake in fakes}
        self._open = trio.open_tcp_stream
        monkeypatch.setattr(trio, "open_tcp_stream", self)

    async def __call__(self, host: str, port: int) -> trio.SocketStream:
        if port not in self._ports or self.number is None:
            return await self._open(host, port)
        await trio.lowlevel.checkpoint()
        causes = [OSError(self.number, "from the test")]
        raise OSError("all failed") from ExceptionGroup("all", causes)


async def states(proxy: Proxy) -> tuple[int, set[str]]:
    reply = await proxy.get("/health")
    return reply.status, {told["state"] for told in reply.json["providers"].values()}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EPERM])
@STREAMED
async def test_our_own_shortage_is_free_opens_no_circuit_and_is_told_once(
    number: int,
    streaming: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        open_fake_provider(json_answer(completion("Hello there"))) as fake,
        open_proxy(config(provider("alpha", fake.url), more=NO_RETRY)) as proxy,
    ):
        shortage = Shortage(monkeypatch, fake)
        shortage.number = number
        for count in range(1, 6):
            reply = await proxy.chat(stream=streaming)
            assert (reply.status, reply.error["code"]) == (502, "upstream_error")
            assert "arbstr" in reply.error["message"]
            record = await proxy.record(count)
            [row] = record.attempts
            assert (row.failure, row.money, record.possibly_spent) == ("not_sent", "free", 0)
        assert await states(proxy) == (200, {"closed"})
        shortage.number = None
        assert (await proxy.chat(stream=streaming)).text == "Hello there"
        assert fake.hits == 1
        told = [r for r in caplog.records if "none is to blame" in r.getMessage()]
        assert [record.levelno for record in told] == [logging.WARNING]


async def test_what_the_other_side_says_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        open_fake_provider() as fake,
        open_proxy(config(provider("alpha", fake.url), more=NO_RETRY)) as proxy,
    ):
        shortage = Shortage(monkeypatch, fake)
        shortage.number = errno.ECONNREFUSED
        for _ in range(3):
            await proxy.chat()
        assert await states(proxy) == (503, {"open"})


async def test_the_next_provider_needs_no_descriptor_if_it_has_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = error_answer(503)  # whose connection is not kept
    async with (
        open_fake_provider(busy) as first,
        open_fake_provider(json_answer(completion("Hello there"))) as second,
        open_proxy(
            config(
                provider("first", first.url),
                provider("second", second.url, rate=2),
                more=NO_RETRY,
            )
        ) as proxy,
    ):
        assert (await proxy.chat()).headers["x-arbstr-provider"] == "second"
        Shortage(monkeypatch, first, second).number = errno.EMFILE
        reply = await proxy.chat()
        assert (reply.text, reply.headers["x-arbstr-retries"]) == ("Hello there", "1/first")
        assert (first.hits, second.hits, second.connections) == (1, 2, 1)

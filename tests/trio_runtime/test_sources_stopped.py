"""A reload, or the end of the process, while answers go on without their own clients."""

import pytest
import trio
from trio.testing import MockClock

from tests.again import MORE, REST, ROLE, WORD, ask_and_leave, paused, proxied, settled
from tests.fakes import ROUTSTR_ID, SILENCE, stream
from tests.proxy import STREAMED, pass_time


async def test_a_reload_that_turns_it_off_lets_all_go() -> None:
    gate = trio.Event()
    async with proxied(paused(False, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake)
        gate.set()
        await proxy.record()
        proxy.hub.kept.configure(0.0)
        assert (proxy.hub.kept.held, proxy.hub.kept._sources) == (0, {})
        assert ((await proxy.chat()).status, fake.hits) == (200, 2)


@STREAMED
@pytest.mark.parametrize("again", [False, True], ids=["plain again", "streamed again"])
async def test_a_reload_that_turns_it_off_takes_nothing_from_who_has_joined(
    streaming: bool, again: bool
) -> None:
    gate = trio.Event()
    long = stream([ROLE, WORD, gate, *[MORE] * 500, *REST])
    async with proxied(long if streaming else paused(False, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=streaming)
        async with proxy.asking(stream=again) as client:
            await settled()
            proxy.hub.kept.configure(0.0)
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
        assert (proxy.hub.kept.held, proxy.hub.kept._sources) == (0, {})
        assert fake.hits == 1
    assert (reply.status, reply.whole) == (200, True)
    assert reply.text == "Hello" + " there" * (501 if streaming else 1)
    assert sorted(row.status for row in proxy.log.final) == ["client_disconnected", "ok"]


async def test_a_reload_that_turns_it_off_leaves_nothing_to_a_client_that_comes_after() -> None:
    gate = trio.Event()
    async with proxied(lambda request: paused(True, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=True)
        async with proxy.asking(stream=True) as client:
            await settled()
            proxy.hub.kept.configure(0.0)
            async with proxy.asking(stream=True) as other:
                await fake.wait_requests(2)
                gate.set()
                replies = [await client.reply(), await other.reply()]
    assert [reply.text for reply in replies] == ["Hello there"] * 2
    assert ["x-arbstr-joined" in reply.headers for reply in replies] == [True, False]


@pytest.mark.parametrize("becomes", [5.0, 0.0])
async def test_a_reload_that_shortens_the_time_holds_for_what_is_kept_already(
    mock_clock: MockClock, becomes: float
) -> None:
    gate = trio.Event()
    async with proxied(paused(False, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake)
        gate.set()
        await proxy.record()
        kept = proxy.hub.kept
        assert kept.held > 0
        await settled()
        kept.configure(becomes)
        await pass_time(mock_clock, 6, until=lambda: kept.held == 0, step=1)
        assert kept._sources == {}


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_shutdown_ends_a_source_with_a_joined_client_honestly(streaming: bool) -> None:
    async with proxied(stream([ROLE, WORD, trio.Event()])) as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=True)
        async with proxy.asking(stream=streaming) as client:
            await settled()
            proxy.hub.close()
            await settled()
            assert proxy.log.final == []  # somebody waits
            proxy.hub.stop_all()
            reply = await client.reply()
        await proxy.log.wait(2)
    assert reply.error["code"] == ("stream_interrupted" if streaming else "possibly_spent")


async def test_the_shutdown_does_not_wait_for_what_nobody_waits_for() -> None:
    async with proxied(SILENCE, kind="routstr") as (fake, proxy):
        await ask_and_leave(proxy, fake)
        async with proxy.asking(user="other"):
            await fake.wait_requests(2)
            await settled()
            proxy.hub.close()
            await settled()
            assert len(proxy.hub.running) == 2
        await settled()
        assert proxy.hub.running == set()  # what is left are drains, which `main` ends
    assert [row.status for row in proxy.log.final] == ["client_disconnected"] * 2


@STREAMED
async def test_the_shutdown_ends_a_late_answer_with_a_joined_client_honestly(
    streaming: bool,
) -> None:
    """It is a drain's, which outlives the request it was of."""
    more = "[timeouts]\nanswer = 0.05\nfirst_output = 0.05"
    silent = stream([trio.Event()], headers=[ROUTSTR_ID])
    async with proxied(silent, kind="routstr", more=more) as (fake, proxy):
        late = await proxy.chat(stream=streaming)
        assert late.error["code"] == "possibly_spent"
        async with proxy.asking(stream=streaming) as client:
            await settled()
            proxy.hub.close()
            await settled()
            assert proxy.log.final == []  # somebody waits
            proxy.hub.stop_all()
            reply = await client.reply()
        await proxy.log.wait(2)
        assert (proxy.hub.draining, fake.hits) == (0, 1)
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
    assert reply.headers["x-should-retry"] == "false"
    assert "The answer did not come" in reply.error["message"]
    assert sorted((row.joined is None, row.status) for row in proxy.log.final) == [
        (False, "failed"),
        (True, "failed"),
    ]

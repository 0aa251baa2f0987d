"""What becomes of an answer whose client has left: who takes it, how long it is kept, its end."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from arbstr.trio_runtime import repeats as kept_answers
from tests.again import (
    BODY,
    BROKEN,
    ROLE,
    WHOLE,
    WORD,
    ask_and_leave,
    paused,
    proxied,
    settled,
)
from tests.fakes import (
    ROUTSTR_ID,
    ROUTSTR_USAGE,
    SILENCE,
    answer,
    chunk,
    completion,
    json_answer,
    open_fake_provider,
    sse,
    stream,
    usage,
)
from tests.proxy import config, open_proxy, pass_time, provider


async def test_another_provider_is_cut_when_the_client_is_not_back_in_time(
    mock_clock: MockClock,
) -> None:
    async with proxied(SILENCE) as (fake, proxy):
        await ask_and_leave(proxy, fake)
        await pass_time(mock_clock, 1.9, until=lambda: mock_clock.current_time() > 1.8)
        assert (fake.left, proxy.hub.draining) == (0, 1)
        # Whoever joins and leaves begins the time anew.
        async with proxy.asking():
            await pass_time(mock_clock, 5, until=lambda: mock_clock.current_time() > 4)
        await pass_time(mock_clock, 1.9, until=lambda: mock_clock.current_time() > 5.8)
        assert fake.left == 0
        await pass_time(mock_clock, 1, until=lambda: fake.left == 1)
        await proxy.log.wait(2)
        reply = await proxy.chat()
        assert (reply.error["code"], fake.hits) == ("possibly_spent", 1)
        assert 'provider "alpha" was given up: the client left' in reply.error["message"]


async def test_a_node_is_read_on_for_its_drain_seconds(mock_clock: MockClock) -> None:
    async with proxied(SILENCE, kind="routstr") as (fake, proxy):
        await ask_and_leave(proxy, fake)
        await pass_time(mock_clock, 59, until=lambda: mock_clock.current_time() > 58, step=1)
        assert (fake.left, proxy.log.final) == (0, [])
        await pass_time(mock_clock, 3, until=lambda: fake.left == 1)
        await proxy.log.wait(1)
    [row] = proxy.log.final[0].attempts
    assert (row.failure, row.money) == ("client_left", "unknown")


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_joined_client_whose_source_breaks_hears_of_it(streaming: bool) -> None:
    gate = trio.Event()
    async with proxied(stream([ROLE, WORD, gate], ending="rst")) as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=True)
        async with proxy.asking(stream=streaming) as client:
            await settled()
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
        again = await proxy.chat(stream=True)
        assert (again.status, again.error["code"], fake.hits) == (400, "possibly_spent", 1)
    if streaming:
        assert reply.body.startswith(ROLE + WORD)
        assert (reply.error["code"], reply.whole) == ("stream_interrupted", False)
    else:
        assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
        assert reply.headers["x-should-retry"] == "false"
    statuses = {record.joined is None: record.status for record in proxy.log.final[:2]}
    assert statuses == {
        True: "client_disconnected",
        False: "stream_incomplete" if streaming else "failed",
    }


async def test_a_source_with_a_joined_client_fails_over_as_for_its_own() -> None:
    gate = trio.Event()
    async with (
        open_fake_provider(answer(503, before=[gate])) as first,
        open_fake_provider(json_answer(WHOLE)) as second,
        open_proxy(
            config(
                provider("alpha", first.url),
                provider("beta", second.url, rate=2),
                more="[retry]\nmax_retries = 0",
            )
        ) as proxy,
    ):
        await ask_and_leave(proxy, first)
        async with proxy.asking() as client:
            await settled()
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
    assert (reply.status, reply.headers["x-arbstr-provider"]) == (200, "beta")
    assert (first.hits, second.hits) == (1, 1)


async def test_without_a_joined_client_a_source_makes_no_further_attempt() -> None:
    gate = trio.Event()
    async with proxied(answer(503, before=[gate])) as (fake, proxy):
        await ask_and_leave(proxy, fake)
        gate.set()
        record = await proxy.record()
        assert fake.hits == 1
        assert record.possibly_spent == 0
        assert proxy.hub.kept.held == 0


async def test_a_joined_client_is_kept_alive_while_nobody_answers(mock_clock: MockClock) -> None:
    gate = trio.Event()
    more = "[stream]\nkeepalive = 1"
    async with proxied(paused(False, gate), kind="routstr", more=more) as (fake, proxy):
        await ask_and_leave(proxy, fake)
        async with proxy.asking(stream=True) as client:
            await pass_time(mock_clock, 3, until=lambda: mock_clock.current_time() > 2.5)
            gate.set()
            reply = await client.reply()
    assert reply.body.startswith(b": keep-alive\n\n: keep-alive\n\n")
    assert reply.text == "Hello there"
    assert reply.headers["x-arbstr-joined"] == proxy.log.offered[0].correlation_id
    assert "x-arbstr-provider" not in reply.headers


async def test_what_is_kept_is_bounded_and_what_was_let_go_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = trio.Event()
    monkeypatch.setattr(kept_answers, "KEEP_STEP", 100)
    async with proxied(lambda request: paused(True, gate)) as (fake, proxy):
        proxy.hub.kept._repeats._limit = 3000
        await ask_and_leave(proxy, fake, stream=True, user="a")
        async with proxy.asking(stream=True, user="a") as joined:
            await joined.head()
            await joined.until(b"Hello")
            for count, user in enumerate("bcdefgh", start=2):
                await ask_and_leave(proxy, fake, count=count, stream=True, user=user)
                assert proxy.hub.kept.held <= 3000
            gate.set()
            assert (await joined.rest())[1]
        await proxy.log.wait(9)
        assert proxy.hub.kept.held <= 3000
        reply = await proxy.chat(stream=True, user="b")
        assert reply.error["code"] == "possibly_spent"
        assert "after its client had left, and that was not kept" in reply.error["message"]
        assert (await proxy.chat(stream=True, user="h")).text == "Hello there"
        assert fake.hits == 8
        await proxy.log.wait(11)
        # What was let go is remembered no longer than all else.
        proxy.hub.kept.configure(0.0)
        assert (proxy.hub.kept.held, proxy.hub.kept._sources) == (0, {})


async def test_a_source_nobody_can_get_any_more_is_not_read_on_for_a_client_that_takes_nothing(
    mock_clock: MockClock,
) -> None:
    gate, large = trio.Event(), sse(chunk("x" * 20_000))
    endless = stream([ROLE, WORD, gate, *[large] * 1000], ending="hang")
    async with proxied(endless) as (fake, proxy):
        proxy.hub.kept._repeats._limit = 10_000_000
        await ask_and_leave(proxy, fake, stream=True)
        async with proxy.asking(stream=True) as client:
            await client.head()
            gate.set()
            # Long before the server closes a client that takes nothing (STALL_SECONDS).
            await pass_time(mock_clock, 3, until=lambda: fake.left == 1)
            assert proxy.hub.draining == 0
            body, whole = await client.rest()
        await proxy.log.wait(2)
    assert not whole
    assert b"there was no room to keep all of it" in body
    assert {row.joined is None: row.status for row in proxy.log.final} == {
        True: "client_disconnected",
        False: "stream_incomplete",
    }


async def test_what_is_kept_is_gone_in_time(mock_clock: MockClock) -> None:
    gate = trio.Event()
    async with proxied(paused(False, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake)
        gate.set()
        await proxy.record()
        assert proxy.hub.kept.held > len(BODY) - 100
        kept = proxy.hub.kept
        await pass_time(mock_clock, 61, until=lambda: kept.held == 0, step=1)
        assert kept._sources == {}
        gate.set()
        assert ((await proxy.chat()).status, fake.hits) == (200, 2)


async def test_a_departure_before_anything_was_sent_costs_and_blocks_nothing() -> None:
    gate = trio.Event()
    async with proxied(json_answer(WHOLE)) as (fake, proxy):
        proxy.hub.transport.connect = _never(gate)  # type: ignore[method-assign]
        async with proxy.asking():
            await settled()
        record = await proxy.record()
        assert [row.money for row in record.attempts] == ["free"]
        del proxy.hub.transport.connect
        assert ((await proxy.chat()).status, fake.hits) == (200, 1)


def _never(gate: trio.Event) -> Any:
    async def connect(*_: object) -> None:
        await gate.wait()

    return connect


async def test_a_large_body_is_hashed_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "HASHED_AT_ONCE", 100)
    async with proxied([BROKEN, json_answer(WHOLE)]) as (_, proxy):
        await proxy.chat(stream=True, user="x" * 200)
        assert (await proxy.chat(user="x" * 200)).error["code"] == "possibly_spent"
        assert (await proxy.chat(user="y" * 200)).status == 200


async def test_a_client_that_leaves_as_its_answer_is_written_finds_it_again() -> None:
    large = completion("x" * 8_000_000, usage=usage())
    async with proxied(lambda request: json_answer(large)) as (fake, proxy):
        async with proxy.asking() as client:
            await client.head()
            await settled()
        await proxy.log.wait(1)
        reply = await proxy.chat()
        assert (len(reply.text), fake.hits) == (8_000_000, 1)
    assert [record.status for record in proxy.log.final] == ["client_disconnected", "ok"]
    assert proxy.log.final[0].possibly_spent == 0


async def test_no_text_reaches_rows_or_log(caplog: pytest.LogCaptureFixture) -> None:
    gate = trio.Event()
    caplog.set_level("INFO")
    said = [{"role": "user", "content": "a secret question"}]
    async with proxied(paused(True, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=True, messages=said)
        async with proxy.asking(stream=True, messages=said) as client:
            await settled()
            gate.set()
            await client.reply()
        await proxy.log.wait(2)
    told = caplog.text + repr(proxy.log.offered)
    assert "secret question" not in told
    assert "Hello" not in told
    assert any(
        f"joined={proxy.log.offered[0].correlation_id}" in r.getMessage() for r in caplog.records
    )


async def test_with_consent_nobody_joins_and_the_provider_is_left_at_once() -> None:
    allow = {"x-arbstr-respend": "allow"}
    async with proxied([SILENCE, json_answer(WHOLE)]) as (fake, proxy):
        await ask_and_leave(proxy, fake, headers=allow)
        await fake.wait_left(1)
        assert (await proxy.chat()).error["code"] == "possibly_spent"
        assert ((await proxy.chat(headers=allow)).status, fake.hits) == (200, 2)


async def test_a_node_that_says_it_took_nothing_blocks_nobody_in_the_end() -> None:
    gate = trio.Event()
    nothing = {**ROUTSTR_USAGE, "cost": {"total_msats": 0}}
    cut = stream([ROLE, WORD, gate, sse(chunk(usage=nothing))], headers=[ROUTSTR_ID])
    async with proxied([cut, json_answer(WHOLE)], kind="routstr") as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=True)
        gate.set()
        record = await proxy.record()
        assert record.possibly_spent == 0
        assert ((await proxy.chat()).status, fake.hits) == (200, 2)

"""What requests share: the breaker, the probe, what was learnt of a provider; over real sockets."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes import (
    CLOSE_AFTER_REQUEST,
    RESET_AFTER_REQUEST,
    ROUTSTR_ID,
    FakeProvider,
    Play,
    Request,
    Script,
    by_name,
    chunk,
    completion,
    error_answer,
    hello,
    html200,
    json_answer,
    open_fake_provider,
    sse,
    stream,
)
from tests.proxy import ONE_TRY, STREAMED, Proxy, Reply, chat_body, config, open_proxy, provider


def two(first: FakeProvider, second: FakeProvider, *, more: str = ONE_TRY) -> str:
    return config(provider("first", first.url), provider("second", second.url, rate=2), more=more)


def only(fake: FakeProvider, *, more: str = ONE_TRY) -> str:
    return config(provider("first", fake.url), more=more)


async def state(proxy: Proxy, name: str = "first") -> tuple[str, int]:
    """A circuit's state and how many failures it has counted, as /health shows them."""
    shown = (await proxy.get("/health")).json["providers"][name]
    return shown["state"], shown["failure_count"]


def abc(fake: FakeProvider) -> str:
    """One provider of three models."""
    return config(provider("first", fake.url, models='a", "b", "c'), more=ONE_TRY)


def asked_for(request: Request) -> object:
    return json.loads(request.body)["model"]


# --- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param(error_answer(500), id="500"),
        pytest.param(error_answer(503), id="503"),
        pytest.param(CLOSE_AFTER_REQUEST, id="no answer"),
        pytest.param(RESET_AFTER_REQUEST, id="reset"),
        pytest.param(html200(), id="HTML"),
        pytest.param(error_answer(200, code=502), id="an error object with a 5xx code"),
        pytest.param(error_answer(200, code="500"), id="the same as text"),
    ],
)
@STREAMED
async def test_three_requests_that_fail_open_the_circuit(failing: Script, streaming: bool) -> None:
    async with (
        open_fake_provider(failing) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second)) as proxy,
    ):
        headers = {"x-arbstr-respend": "allow"}
        for count in range(1, 4):
            assert (await proxy.chat(headers=headers, stream=streaming)).text == "Hello there"
            assert await state(proxy) == (("closed", count) if count < 3 else ("open", 3))
        reply = await proxy.chat(headers=headers, stream=streaming)
        assert (first.hits, second.hits) == (3, 4)
        # Passed over is no attempt: no header, no row.
        assert "x-arbstr-retries" not in reply.headers
        assert [row.provider for row in (await proxy.record(4)).attempts] == ["second"]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 413, 422, 424, 425, 429])
async def test_no_4xx_ever_opens_the_circuit(status: int, mock_clock: MockClock) -> None:
    async with (
        open_fake_provider(error_answer(status)) as first,
        open_proxy(only(first)) as proxy,
    ):
        for _ in range(5):
            await proxy.chat()
            mock_clock.jump(601)  # after a 429 it rests, and longer after a refused key or path
        assert await state(proxy) == ("closed", 0)
        assert first.hits == 5


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, (502, "provider_auth")),
        (402, (402, "insufficient_balance")),
        (403, (502, "provider_auth")),
        (404, (404, "model_not_found")),
        (405, (404, "model_not_found")),
    ],
)
async def test_a_refused_key_or_path_is_not_asked_first_by_every_request(
    status: int, told: tuple[int, str], mock_clock: MockClock
) -> None:
    async with (
        open_fake_provider(error_answer(status)) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second)) as proxy,
        open_proxy(only(first)) as alone,
    ):
        for _ in range(5):
            assert (await proxy.chat()).text == "Hello there"
        assert (first.hits, second.hits) == (1, 5)
        mock_clock.jump(59.9)
        await proxy.chat()
        assert first.hits == 1
        mock_clock.jump(0.2)
        await proxy.chat()
        assert first.hits == 2
        mock_clock.jump(119)  # twice as long
        await proxy.chat()
        assert first.hits == 2
        # Where nobody else is, the last word stays what it was.
        for _ in range(2):
            reply = await alone.chat()
            assert (reply.status, reply.error["code"]) == told
            assert "retry-after" not in reply.headers
        assert first.hits == 3


async def test_a_429_rests_the_model_and_two_at_once_the_provider() -> None:
    def by_model(request: Request) -> Play:
        limited = [("retry-after", "86400")]
        if asked_for(request) == "c":
            return json_answer(completion())
        return error_answer(429, headers=limited)

    async with open_fake_provider(by_model) as first, open_proxy(abc(first)) as proxy:
        for model, status in (("a", 429), ("c", 200), ("a", 429), ("b", 429), ("c", 429)):
            assert (await proxy.chat(model=model)).status == status, model
        assert first.hits == 3
        shown = (await proxy.get("/providers")).json["providers"][0]
    assert shown["resting_for"] == "rate_limit"


async def test_one_sick_model_leaves_its_neighbours_and_the_log_tells_it(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    sick = True

    def by_model(request: Request) -> Play:
        broken = sick and asked_for(request) == "a"
        return error_answer(500) if broken else json_answer(completion())

    caplog.set_level(logging.INFO)
    async with open_fake_provider(by_model) as first, open_proxy(abc(first)) as proxy:
        for _ in range(3):
            assert (await proxy.chat(model="a")).status == 502
            assert (await proxy.chat(model="b")).status == 200
        assert (await proxy.chat(model="a")).error["code"] == "circuit_open"
        assert (await proxy.chat(model="b")).status == 200
        health = (await proxy.get("/health")).json
        shown = health["providers"]["first"]
        assert (health["status"], shown["state"]) == ("degraded", "closed")
        assert shown["models"]["a"]["state"] == "open"
        assert (await proxy.get("/providers")).json["providers"][0]["circuits"].keys() == {"a"}
        sick = False
        mock_clock.jump(31)
        assert (await proxy.chat(model="a")).status == 200
        assert (await proxy.get("/health")).json["status"] == "ok"
    told = [(r.levelname, r.getMessage()) for r in caplog.records if "circuit" in r.getMessage()]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert 'circuit of provider "first" for model "a" opened after 3 failures' in told[0][1]
    assert 'circuit of provider "first" for model "a" closed' in told[1][1]


async def test_a_short_wait_of_the_cheapest_is_waited_out(autojump_clock: MockClock) -> None:
    wait = [("retry-after", "2")]
    async with (
        open_fake_provider([error_answer(429, headers=wait), by_name]) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second)) as proxy,
    ):
        reply = await proxy.chat()
    assert (first.hits, second.hits) == (2, 0)
    assert reply.headers["x-arbstr-retries"] == "1/first"


async def test_a_404_is_about_the_path_until_the_provider_has_answered_there(
    mock_clock: MockClock,
) -> None:
    script = [error_answer(404), json_answer(completion()), error_answer(404)]
    async with open_fake_provider(script) as first, open_proxy(only(first)) as proxy:
        seen = []
        for count in (1, 2, 3):
            await proxy.chat()
            seen.append((await proxy.record(count)).attempts[0].failure)
            mock_clock.jump(61)
        assert seen == ["no_endpoint", None, "no_model"]


async def test_424_of_a_routstr_node_counts() -> None:
    async with (
        open_fake_provider(error_answer(424, headers=[ROUTSTR_ID])) as first,
        open_proxy(config(provider("first", first.url, kind="routstr"), more=ONE_TRY)) as proxy,
    ):
        for _ in range(3):
            await proxy.chat()
        assert await state(proxy) == ("open", 3)


async def test_the_tries_of_one_request_count_once() -> None:
    async with (
        open_fake_provider(error_answer(500)) as first,
        open_proxy(only(first, more="[retry]\nbackoff = 0.001")) as proxy,
    ):
        await proxy.chat()
        assert first.hits == 3
        assert await state(proxy) == ("closed", 1)


async def test_another_model_of_the_same_provider_takes_a_leave_of_its_own() -> None:
    def by_model(request: Request) -> Play:
        sick = asked_for(request) == "a"
        return error_answer(500) if sick else json_answer(completion())

    rule = '[[policies.rules]]\nname = "any"\n'
    async with (
        open_fake_provider(by_model) as first,
        open_proxy(abc(first) + rule) as proxy,
    ):
        for _ in range(3):
            # Its conversation would stay with the model that answered.
            headers = {"x-arbstr-policy": "any", "x-arbstr-affinity": "none"}
            reply = await proxy.chat(model="auto", headers=headers)
            assert (reply.headers["x-arbstr-model"], reply.headers["x-arbstr-retries"]) == (
                "b",
                "1/first",
            )
        now = trio.current_time()
        circuits = {model: proxy.hub.board.circuit("first", model, now) for model in "ab"}
    assert {model: shown.state for model, shown in circuits.items()} == {"a": "open", "b": "closed"}
    assert circuits["b"].failure_count == 0


async def test_a_success_counts_back_to_zero() -> None:
    async with (
        open_fake_provider([error_answer(500), error_answer(500), by_name, error_answer(500)]) as f,
        open_proxy(only(f)) as proxy,
    ):
        for expected in (1, 2, 0, 1):
            await proxy.chat()
            assert await state(proxy) == ("closed", expected)


async def test_a_cut_after_output_is_a_new_failure_after_a_success() -> None:
    """So cuts alone never open a circuit: success is the first output."""
    cut = stream([sse(chunk("", role="assistant")), sse(chunk("Hello"))])
    async with (
        open_fake_provider([error_answer(500), error_answer(500), cut]) as first,
        open_proxy(only(first)) as proxy,
    ):
        for _ in range(3):
            await proxy.chat(stream=True)
        assert await state(proxy) == ("closed", 1)
        shown = (await proxy.get("/health")).json["providers"]["first"]
        assert shown["last_error"] == "ended its stream before the answer was complete"


@pytest.mark.parametrize("play", [Play(ending="hang"), error_answer(500)], ids=["attempt", "wait"])
async def test_a_client_that_leaves_gives_no_verdict(play: Play) -> None:
    more = "[breaker]\nfailures = 1\n[retry]\nbackoff = 1000"
    async with (
        open_fake_provider(play) as first,
        open_proxy(only(first, more=more)) as proxy,
    ):
        async with proxy.asking():
            await first.wait_requests(1)
            await wait_all_tasks_blocked(0.01)
        await proxy.record()
        await proxy.wait_idle()
        assert await state(proxy) == ("closed", 0)


async def test_when_all_circuits_are_open_the_answer_is_503_without_any_contact(
    mock_clock: MockClock,
) -> None:
    async with (
        open_fake_provider(error_answer(500)) as first,
        open_fake_provider(error_answer(500)) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        for _ in range(2):
            await proxy.chat()
        assert (await proxy.get("/health")).json["status"] == "ok"
        mock_clock.jump(1)
        await proxy.chat()
        assert (await proxy.get("/health")).json["status"] == "unhealthy"
        hits, connections = (first.hits, second.hits), (first.connections, second.connections)
        mock_clock.jump(9.5)
        for streaming in (False, True):
            reply = await proxy.chat(stream=streaming)
            assert (reply.status, reply.error["code"]) == (503, "circuit_open")
            assert reply.headers["retry-after"] == "21"
            assert "x-should-retry" not in reply.headers
            assert "x-arbstr-retries" not in reply.headers
        assert (first.hits, second.hits) == hits == (3, 3)
        assert (first.connections, second.connections) == connections

        health = await proxy.get("/health")
        assert (health.status, health.json["status"]) == (503, "unhealthy")
        for name in ("first", "second"):
            shown = health.json["providers"][name]
            assert (shown["state"], shown["failure_count"]) == ("open", 3)
            assert shown["last_error"] == "failed with status 500"
            assert shown["retry_at"].endswith("Z")
        circuits = (await proxy.get("/providers")).json["providers"]
        assert [one["circuit"] for one in circuits] == ["open", "open"]
        assert (await proxy.get("/livez")).status == 200

        # As of now, without any traffic.
        mock_clock.jump(20.6)
        health = await proxy.get("/health")
        assert (health.status, health.json["status"]) == (200, "degraded")
        assert await state(proxy) == ("half_open", 3)
        assert "retry_at" not in health.json["providers"]["first"]
        row = await proxy.record(5)
        assert (row.status, row.error_status, row.attempts) == ("rejected", 503, ())


async def test_open_and_resting_mixed_is_503_with_the_soonest_of_both(
    mock_clock: MockClock,
) -> None:
    limited = error_answer(429, headers=[("retry-after", "5")])
    async with (
        open_fake_provider(error_answer(500)) as first,
        open_fake_provider(limited) as second,
        open_proxy(two(first, second, more=ONE_TRY + "[breaker]\nfailures = 1")) as proxy,
    ):
        await proxy.chat()
        reply = await proxy.chat()
    assert (reply.status, reply.error["code"]) == (503, "circuit_open")
    assert reply.headers["retry-after"] == "5"
    assert (first.hits, second.hits) == (1, 1)
    assert trio.current_time() == proxy.opened_at
    assert mock_clock.rate == 0


# --- the probe --------------------------------------------------------------------------------


async def opened(proxy: Proxy, clock: MockClock) -> None:
    """Three requests fail at the first provider, and 30 s pass."""
    for _ in range(3):
        await proxy.chat()
    assert (await state(proxy))[0] == "open"
    clock.jump(30.1)
    assert (await state(proxy))[0] == "half_open"


async def ask_into(proxy: Proxy, replies: list[Reply], streaming: bool) -> None:
    replies.append(await proxy.chat(stream=streaming))


@asynccontextmanager
async def asked_by_50(
    proxy: Proxy, first: FakeProvider, *, streaming: bool = False
) -> AsyncIterator[list[Reply]]:
    """Fifty requests at once, one of which has come to the first provider; the replies come in."""
    replies: list[Reply] = []
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask_into, proxy, replies, streaming)
        await first.wait_hits(4)
        await wait_all_tasks_blocked(0.01)
        yield replies
    await proxy.log.wait(3 + 50)
    await proxy.wait_idle()


@STREAMED
async def test_50_requests_after_30_seconds_are_one_probe_and_49_answers_of_the_other_provider(
    streaming: bool, mock_clock: MockClock
) -> None:
    gate = trio.Event()
    probe = stream([gate, *hello()]) if streaming else json_answer(completion("Hi"), before=[gate])
    async with (
        open_fake_provider([error_answer(500)] * 3 + [probe]) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await opened(proxy, mock_clock)
        now = trio.current_time()
        async with asked_by_50(proxy, first, streaming=streaming) as replies:
            await proxy.log.wait(3 + 49)
            await wait_all_tasks_blocked(0.01)
            assert len(replies) == 49
            assert {reply.headers["x-arbstr-provider"] for reply in replies} == {"second"}
            assert trio.current_time() == now
            assert (first.hits, second.hits) == (4, 3 + 49)
            gate.set()
        assert await state(proxy) == ("closed", 0)
        assert (await proxy.chat(stream=streaming)).headers["x-arbstr-provider"] == "first"
    assert replies[-1].headers["x-arbstr-provider"] == "first"


async def test_without_another_provider_they_wait_for_the_probe_and_then_go(
    mock_clock: MockClock,
) -> None:
    gate = trio.Event()
    probe = json_answer(completion("Hello there"), before=[gate])
    async with (
        open_fake_provider([error_answer(500)] * 3 + [probe, by_name]) as first,
        open_proxy(only(first)) as proxy,
    ):
        await opened(proxy, mock_clock)
        async with asked_by_50(proxy, first) as replies:
            mock_clock.jump(4.9)
            await wait_all_tasks_blocked(0.01)
            assert (first.hits, replies) == (4, [])
            gate.set()
    assert first.hits == 3 + 50
    assert [reply.status for reply in replies] == [200] * 50
    assert not any("x-arbstr-retries" in reply.headers for reply in replies)


async def test_they_wait_at_most_5_seconds(mock_clock: MockClock) -> None:
    gate = trio.Event()
    probe = json_answer(completion("Hello there"), before=[gate])
    async with (
        open_fake_provider([error_answer(500)] * 3 + [probe]) as first,
        open_proxy(only(first)) as proxy,
    ):
        await opened(proxy, mock_clock)
        async with asked_by_50(proxy, first) as replies:
            mock_clock.jump(5.01)
            await proxy.log.wait(3 + 49)
            await wait_all_tasks_blocked(0.01)
            assert [reply.error["code"] for reply in replies] == ["circuit_open"] * 49
            assert {reply.headers["retry-after"] for reply in replies} == {"1"}
            assert first.hits == 4
            gate.set()
    assert replies[-1].status == 200


async def test_a_probe_that_fails_opens_for_another_30_seconds_and_is_a_single_attempt(
    mock_clock: MockClock,
) -> None:
    async with (
        open_fake_provider(error_answer(500)) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more="[retry]\nbackoff = 0")) as proxy,
    ):
        for _ in range(3):
            await proxy.chat()
        assert first.hits == 9
        mock_clock.jump(30.1)
        reply = await proxy.chat()
        assert reply.headers["x-arbstr-retries"] == "1/first"
        assert (first.hits, (await state(proxy))[0]) == (10, "open")
        mock_clock.jump(29.8)
        assert (await state(proxy))[0] == "open"
        await proxy.chat()
        assert first.hits == 10
        mock_clock.jump(0.3)
        assert (await state(proxy))[0] == "half_open"


@pytest.mark.parametrize("leaver", ["client", "4xx"])
async def test_a_probe_that_proves_nothing_gives_its_slot_back(
    leaver: str, mock_clock: MockClock
) -> None:
    proves_nothing = error_answer(422) if leaver == "4xx" else Play(ending="hang")
    async with (
        open_fake_provider([error_answer(500)] * 3 + [proves_nothing, by_name]) as first,
        open_proxy(only(first)) as proxy,
    ):
        await opened(proxy, mock_clock)
        async with proxy.asking() as client:
            await first.wait_requests(4)
            if leaver == "4xx":
                assert (await client.reply()).status == 422
        if leaver == "client":
            # Its slot is free at once, though its answer is waited for in case it asks again.
            await wait_all_tasks_blocked(0.01)
            assert proxy.hub.draining == 1
        assert await state(proxy) == ("half_open", 3)
        assert (await proxy.chat(user="another")).status == 200
        assert await state(proxy) == ("closed", 0)
        assert first.hits == 5


@asynccontextmanager
async def waiting_behind_a_probe_that_hangs(
    first: FakeProvider, requests: int, clock: MockClock
) -> AsyncIterator[tuple[Proxy, list[Reply]]]:
    """So many requests have waited for it, without a reply, until its client left."""
    replies: list[Reply] = []
    async with open_proxy(only(first)) as proxy, trio.open_nursery() as nursery:
        await opened(proxy, clock)
        async with proxy.asking():
            await first.wait_requests(4)
            for _ in range(requests):
                nursery.start_soon(ask_into, proxy, replies, False)
            await wait_all_tasks_blocked(0.01)
            assert replies == []
        yield proxy, replies


async def test_those_who_wait_go_on_when_the_probes_client_leaves(mock_clock: MockClock) -> None:
    async with (
        open_fake_provider([error_answer(500)] * 3 + [Play(ending="hang"), by_name]) as first,
        waiting_behind_a_probe_that_hangs(first, 1, mock_clock) as (proxy, replies),
    ):
        await proxy.log.wait(3 + 1)
    assert [reply.status for reply in replies] == [200]


async def test_who_waited_for_a_probe_that_proved_nothing_waits_for_the_next_one(
    mock_clock: MockClock,
) -> None:
    gate = trio.Event()
    probe = json_answer(completion("Hello there"), before=[gate])
    async with (
        open_fake_provider(
            [error_answer(500)] * 3 + [Play(ending="hang"), probe, by_name]
        ) as first,
        waiting_behind_a_probe_that_hangs(first, 2, mock_clock) as (proxy, replies),
    ):
        await first.wait_requests(5)
        await wait_all_tasks_blocked(0.01)
        assert (first.hits, replies) == (5, [])
        gate.set()
        await proxy.log.wait(3 + 2)
    assert [reply.status for reply in replies] == [200] * 2


async def test_a_late_result_of_an_older_generation_changes_nothing(
    mock_clock: MockClock,
) -> None:
    gate = trio.Event()
    late = json_answer(completion("Hello there"), before=[gate])
    async with (
        open_fake_provider([late] + [error_answer(500)] * 3) as first,
        open_proxy(only(first)) as proxy,
        proxy.asking() as client,
    ):
        await first.wait_requests(1)
        for _ in range(3):
            await proxy.chat()
        assert (await state(proxy))[0] == "open"
        gate.set()
        assert (await client.reply()).status == 200
        assert (await state(proxy))[0] == "open"
        assert mock_clock.rate == 0


async def test_a_late_cut_of_a_stream_from_before_the_circuit_opened_changes_nothing(
    mock_clock: MockClock,
) -> None:
    gate = trio.Event()
    cut = stream([sse(chunk("", role="assistant")), sse(chunk("Hello")), gate])
    async with (
        open_fake_provider([cut] + [error_answer(500)] * 3) as first,
        open_proxy(only(first)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await client.head()
        await client.until(b"Hello")
        await opened(proxy, mock_clock)
        gate.set()
        assert b"stream_interrupted" in (await client.rest())[0]
        await proxy.wait_idle()
        assert await state(proxy) == ("half_open", 3)


async def test_a_stream_from_before_the_circuit_opened_is_not_its_probe(
    mock_clock: MockClock,
) -> None:
    gate, never = trio.Event(), trio.Event()
    late = stream([gate, *hello()[:2], never])
    async with (
        open_fake_provider([late] + [error_answer(500)] * 3 + [by_name]) as first,
        open_proxy(only(first)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await first.wait_requests(1)
        await opened(proxy, mock_clock)
        gate.set()
        await client.head()
        await client.until(b"Hello")
        # It runs on, and the one probe is still to be had.
        assert (await proxy.chat()).status == 200
        assert await state(proxy) == ("closed", 0)


async def test_a_retry_that_comes_back_to_a_half_open_circuit_is_no_second_probe(
    mock_clock: MockClock,
) -> None:
    more = "[retry]\nmax_retries = 1\nbackoff = 100\n[breaker]\nfailures = 1"
    script = [error_answer(500), CLOSE_AFTER_REQUEST, Play(ending="hang")]
    async with (
        open_fake_provider(script) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=more)) as proxy,
        proxy.asking() as early,
    ):
        await first.wait_requests(1)
        await wait_all_tasks_blocked(0.01)
        assert (await proxy.chat()).status == 400
        assert await state(proxy) == ("open", 1)
        mock_clock.jump(31)
        async with proxy.asking(user="another"):
            await first.wait_requests(3)
            mock_clock.jump(100)
            assert (await early.reply()).headers["x-arbstr-provider"] == "second"
            assert first.hits == 3


# --- what a provider shows itself to be -------------------------------------------------------


async def test_an_answer_of_a_routstr_node_switches_the_kind_once_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unsigned = error_answer(502)
    script = [json_answer(completion(), headers=[ROUTSTR_ID])] * 2 + [unsigned]
    async with (
        open_fake_provider(script) as first,
        open_proxy(only(first)) as proxy,
    ):
        kinds = [(await proxy.get("/providers")).json["providers"][0]["kind"]]
        await proxy.chat(max_completion_tokens=7)
        await proxy.chat(max_completion_tokens=7)
        kinds.append((await proxy.get("/providers")).json["providers"][0]["kind"])
        reply = await proxy.chat()
    assert kinds == ["openai", "routstr"]
    warnings = [r for r in caplog.records if "is a Routstr node" in r.getMessage()]
    assert [warning.levelno for warning in warnings] == [logging.WARNING]
    assert warnings[0].__dict__["request_id"] == proxy.log.final[0].correlation_id
    # From then on it is asked and trusted as a node is.
    assert [request.json.get("max_tokens") for request in first.requests] == [None, 7, None]
    assert reply.error["code"] == "possibly_spent"


async def test_the_very_answer_that_shows_the_kind_counts_as_a_nodes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        open_fake_provider(error_answer(424, headers=[ROUTSTR_ID])) as first,
        open_proxy(only(first)) as proxy,
    ):
        await proxy.chat()
        record = await proxy.record()
    assert [row.failure for row in record.attempts] == ["server_error"]
    assert record.attempts[0].upstream_request_id == ROUTSTR_ID[1]
    assert "is a Routstr node" in caplog.text


async def test_without_a_key_there_is_no_balance_and_so_no_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        open_fake_provider(error_answer(424, headers=[ROUTSTR_ID])) as first,
        open_proxy(config(provider("first", first.url, key=None, kind="routstr"))) as proxy,
    ):
        assert (await proxy.get("/providers")).json["providers"][0]["kind"] == "openai"
        reply = await proxy.chat()
    assert (reply.status, first.hits) == (424, 1)
    assert reply.headers["x-should-retry"] == "false"
    assert "is a Routstr node" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "members", "sent"),
    [
        ("routstr", {"max_completion_tokens": 7}, 7),
        ("routstr", {"max_completion_tokens": 7, "max_tokens": 9}, 9),
        ("routstr", {}, None),
        ("openai", {"max_completion_tokens": 7}, None),
    ],
)
@STREAMED
async def test_max_tokens_is_mirrored_for_routstr_nodes_only(
    kind: str, members: Mapping[str, int], sent: int | None, streaming: bool
) -> None:
    async with (
        open_fake_provider() as fake,
        open_proxy(config(provider("first", fake.url, kind=kind))) as proxy,
    ):
        await proxy.chat(body=chat_body(stream=streaming, **members))
    asked = fake.requests[0].json
    assert (asked.get("max_tokens"), asked.get("max_completion_tokens")) == (
        sent,
        members.get("max_completion_tokens"),
    )

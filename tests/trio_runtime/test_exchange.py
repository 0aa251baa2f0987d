"""Delivery: what the client gets of an answer, when a stream is over, and what the row says."""

import gc
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.dialects.dialect import Answer
from arbstr.sansio.failover.failure import Failure
from arbstr.trio_runtime.drains import LATE_SECONDS
from arbstr.trio_runtime.relaying import AFTER_COMPLETE_SECONDS
from arbstr.trio_runtime.run import Run
from arbstr.trio_runtime.server.responder import Responder
from arbstr.trio_runtime.upstream.call import UpstreamCall
from tests.fakes import (
    DONE,
    ROLE,
    ROUTSTR_ID,
    ROUTSTR_USAGE,
    SILENCE,
    STOP,
    USAGE,
    WORD,
    FakeProvider,
    Play,
    Script,
    Step,
    answer,
    by_name,
    chunk,
    completion,
    endless,
    error_answer,
    hello,
    json_answer,
    open_fake_provider,
    sse,
    stream,
    usage,
)
from tests.proxy import (
    STREAMED,
    Client,
    Proxy,
    chat_body,
    config,
    open_proxy,
    pass_time,
    provider,
    rows,
)

ASKED: Final[Mapping[str, Any]] = {"stream_options": {"include_usage": True}}


def only(url: str, more: str = "[retry]\nbackoff = 0.001\n") -> str:
    return config(provider("first", url), more=more)


@asynccontextmanager
async def finished(play: Play) -> AsyncIterator[tuple[FakeProvider, Proxy, Client]]:
    """A stream whose finish reason the client has read, when nobody has more to do at once."""
    async with (
        open_fake_provider(play) as fake,
        open_proxy(only(fake.url)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await client.head()
        await client.until(b'"stop"')
        await wait_all_tasks_blocked(0.01)
        yield fake, proxy, client


# --- what the client gets ---------------------------------------------------------------------


async def test_a_plain_answer_arrives_byte_for_byte_with_its_price() -> None:
    body = b' {"choices" :[{"message":{"content":"Hi"}, "x": 1e-7}],"usage":' + (
        b'{"prompt_tokens":1000,"completion_tokens":125}} \n'
    )
    said = [
        ("openai-processing-ms", "17"),
        ("x-ratelimit-remaining-tokens", "9"),
        ("x-routstr-request-id", ROUTSTR_ID[1]),
        ("retry-after", "3"),
        ("set-cookie", "a=b"),
        ("server", "nginx"),
        ("x-request-id", "theirs"),
        ("x-arbstr-provider", "mallory"),
    ]
    play = answer(200, body, said, content_type="application/json; charset=utf-8")
    async with open_fake_provider(play) as fake, open_proxy(only(fake.url)) as proxy:
        reply = await proxy.chat()
        record = await proxy.record()
    assert (reply.status, reply.body) == (200, body)
    headers = dict(reply.headers)
    assert headers.pop("x-arbstr-request-id") == headers.pop("x-request-id")
    assert headers.pop("date")
    assert 0 <= int(headers.pop("x-arbstr-latency-ms")) <= record.latency_ms
    assert headers == {
        "content-type": "application/json; charset=utf-8",
        "content-length": str(len(body)),
        "x-arbstr-provider": "first",
        "x-arbstr-cost-sats": "1.125",
        "openai-processing-ms": "17",
        "x-ratelimit-remaining-tokens": "9",
        "x-routstr-request-id": ROUTSTR_ID[1],
        "retry-after": "3",
    }
    assert (record.cost_sats, record.correlation_id) == (
        Decimal("1.125"),
        reply.headers["x-request-id"],
    )


async def test_a_streams_events_arrive_unchanged_and_then_the_trailer() -> None:
    async with open_fake_provider(by_name) as fake, open_proxy(only(fake.url)) as proxy:
        reply = await proxy.chat(stream=True)
        record = await proxy.record()
    head, _, tail = reply.body.partition(DONE)
    assert head == b"".join(hello(usage=None)[:-1])
    assert tail.startswith(b"data: {")
    assert reply.trailer == {
        "request_id": record.correlation_id,
        "provider": "first",
        "model": "gpt-4o",
        "cost_sats": 0.015,
        "latency_ms": reply.trailer["latency_ms"],
        "input_tokens": 10,
        "output_tokens": 5,
        "retries": None,
    }
    assert reply.whole
    assert 0 <= reply.trailer["latency_ms"] <= record.latency_ms
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["x-arbstr-provider"] == "first"
    assert "x-arbstr-latency-ms" not in reply.headers
    assert (record.status, record.cost_sats) == ("ok", Decimal("0.015"))
    assert record.ttft_ms is not None
    assert record.stream_duration_ms is not None


async def test_without_usage_the_price_is_unknown_and_not_zero() -> None:
    script = [json_answer(completion(usage=None)), stream(hello(usage=None))]
    async with open_fake_provider(script) as fake, open_proxy(only(fake.url)) as proxy:
        plain = await proxy.chat()
        streamed = await proxy.chat(stream=True)
    costs = [record.cost_sats for record in proxy.log.final]
    assert "x-arbstr-cost-sats" not in plain.headers
    assert streamed.trailer["cost_sats"] is None
    assert costs == [None, None]


@pytest.mark.parametrize("asked", [False, True], ids=["not asked", "asked"])
async def test_the_usage_chunk_is_for_clients_that_asked(asked: bool) -> None:
    async with open_fake_provider(by_name) as fake, open_proxy(only(fake.url)) as proxy:
        reply = await proxy.chat(stream=True, **(ASKED if asked else {}))
    chunks = [event for event in reply.events if event != "[DONE]" and "usage" in event]
    assert len(chunks) == int(asked)
    for one in chunks:
        assert one["usage"] == usage()
        assert one["arbstr"] == reply.trailer
    assert fake.requests[0].json["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("told", [usage(), None], ids=["usage", "no usage"])
@pytest.mark.parametrize("asked", [False, True], ids=["not asked", "asked"])
async def test_json_for_a_stream_becomes_a_stream(told: dict[str, Any] | None, asked: bool) -> None:
    play = json_answer(completion("Hello there", usage=told))
    async with open_fake_provider(play) as fake, open_proxy(only(fake.url)) as proxy:
        reply = await proxy.chat(stream=True, **(ASKED if asked else {}))
        record = await proxy.record()
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.text == "Hello there"
    assert reply.trailer["output_tokens"] == (5 if told else None)
    assert (b'"usage"' in reply.body) == (asked and told is not None)
    assert (record.status, record.output_tokens) == ("ok", 5 if told else None)


async def test_a_stream_for_a_plain_request_is_put_together() -> None:
    async with (
        open_fake_provider(stream(hello("Hello there"))) as fake,
        open_proxy(only(fake.url)) as proxy,
    ):
        reply = await proxy.chat()
        record = await proxy.record()
    assert reply.headers["content-type"] == "application/json"
    assert (reply.json["object"], reply.text) == ("chat.completion", "Hello there")
    assert reply.json["choices"][0]["finish_reason"] == "stop"
    assert reply.headers["x-arbstr-cost-sats"] == "0.015"
    assert (record.status, record.output_tokens) == ("ok", 5)


@STREAMED
async def test_the_policy_is_named_on_answers_and_on_errors(streaming: bool) -> None:
    policy = '[[policies.rules]]\nname = "mine"\nallowed_models = ["gpt-4o"]\n'
    async with (
        open_fake_provider([by_name, error_answer(400)]) as fake,
        open_proxy(only(fake.url, policy)) as proxy,
    ):
        headers = {"x-arbstr-policy": "mine"}
        replies = [await proxy.chat(headers=headers, stream=streaming) for _ in range(2)]
        replies.append(await proxy.chat(headers=headers, model="other"))
    policies = [record.policy for record in proxy.log.final]
    assert [reply.status for reply in replies] == [200, 400, 404]
    assert [reply.headers["x-arbstr-policy"] for reply in replies] == ["mine"] * 3
    assert policies == ["mine"] * 3


# --- when a stream is complete ----------------------------------------------------------------


async def test_after_the_finish_reason_2_seconds_are_waited_for_usage_and_done(
    mock_clock: MockClock,
) -> None:
    async with finished(stream([ROLE, WORD, STOP], ending="hang")) as (fake, proxy, client):
        mock_clock.jump(AFTER_COMPLETE_SECONDS - 0.01)
        await wait_all_tasks_blocked(0.01)
        assert proxy.log.final == []
        mock_clock.jump(0.02)
        body, whole = await client.rest()
        assert whole
        assert body.count(DONE) == 1
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(LATE_SECONDS)
        assert (await proxy.record()).status == "ok"
        mock_clock.jump(0.1)
        await fake.wait_left()


async def test_only_output_after_the_finish_reason_lengthens_the_wait(
    mock_clock: MockClock,
) -> None:
    empty = sse(chunk("", role="assistant"))
    async with finished(endless([ROLE, WORD, STOP], empty, gap=0.5)) as (fake, proxy, client):
        for _ in range(5):
            await wait_all_tasks_blocked(0.01)
            mock_clock.jump(0.5)
        assert (await client.rest())[0].count(DONE) == 1
        await pass_time(mock_clock, LATE_SECONDS + 1, until=lambda: bool(proxy.log.final))
        mock_clock.jump(0.5)
        await fake.wait_left()


LATE: Final[list[Step]] = [ROLE, WORD, STOP, 1.5, WORD, 1.5, WORD, 1.5, WORD]


async def test_output_after_the_finish_reason_begins_the_wait_anew(mock_clock: MockClock) -> None:
    replies = []
    async with (
        open_fake_provider(stream(LATE, ending="hang")) as fake,
        open_proxy(only(fake.url)) as proxy,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            replies.append(await proxy.chat(stream=True))

        nursery.start_soon(ask)
        await pass_time(mock_clock, 10, until=lambda: bool(replies))
        took = trio.current_time() - proxy.opened_at
        assert 6.5 <= took < 7
        assert replies[0].text == "Hello" * 4
        assert replies[0].trailer["provider"] == "first"
        await pass_time(mock_clock, LATE_SECONDS + 1, until=lambda: bool(proxy.log.final))
        assert (await proxy.record()).status == "ok"
        mock_clock.jump(0.1)
        await fake.wait_left()


@pytest.mark.parametrize(
    ("events", "ending"),
    [
        ([ROLE, WORD, STOP, WORD], "rst"),
        ([ROLE, WORD, STOP, WORD], "fin"),
        ([ROLE, WORD, STOP, WORD, sse({"error": {"message": "x"}})], "clean"),
    ],
)
async def test_what_breaks_off_after_it_went_on_is_not_whole(
    events: list[Step], ending: str
) -> None:
    play = stream(events, ending=ending)  # type: ignore[arg-type]  # parametrised
    async with open_fake_provider(play) as fake, open_proxy(only(fake.url)) as proxy:
        reply = await proxy.chat(stream=True)
        record = await proxy.record()
    assert reply.text == "Hello" * 2
    assert reply.error["code"] == "stream_interrupted"
    assert (record.status, record.attempts[0].failure) == ("stream_incomplete", "stream_cut")


async def test_what_went_on_and_then_ended_well_is_whole() -> None:
    play = stream([ROLE, WORD, STOP, WORD])
    async with open_fake_provider(play) as fake, open_proxy(only(fake.url)) as proxy:
        reply = await proxy.chat(stream=True)
        record = await proxy.record()
    assert (reply.text, record.status) == ("Hello" * 2, "ok")


async def test_usage_that_comes_after_the_finish_reason_is_in_row_and_trailer() -> None:
    gate = trio.Event()
    async with finished(stream([ROLE, WORD, STOP, gate, USAGE, DONE])) as (_, proxy, client):
        gate.set()
        assert b'"output_tokens": 5' in (await client.rest())[0]
        assert (await proxy.record()).cost_sats == Decimal("0.015")


@pytest.mark.parametrize("ending", ["fin", "rst", "clean"])
@pytest.mark.parametrize("late", [b"", sse({"error": {"message": "x"}}), b"data: {half"])
async def test_nothing_after_the_finish_reason_changes_that_it_is_whole(
    ending: str, late: bytes
) -> None:
    events = [ROLE, WORD, STOP, USAGE, *([late] if late else [])]
    play = stream(events, ending=ending)  # type: ignore[arg-type]  # parametrised
    async with open_fake_provider(play) as fake, open_proxy(only(fake.url)) as proxy:
        reply = await proxy.chat(stream=True)
        record = await proxy.record()
    assert reply.trailer["output_tokens"] == 5
    assert b"error" not in reply.body
    assert (record.status, record.possibly_spent) == ("ok", 0)


async def test_after_done_the_body_ends_at_once_even_if_the_provider_lingers(
    mock_clock: MockClock,
) -> None:
    async with (
        open_fake_provider(stream(hello(), ending="hang")) as fake,
        open_proxy(only(fake.url)) as proxy,
    ):
        reply = await proxy.chat(stream=True)
        assert trio.current_time() == proxy.opened_at
        assert reply.trailer["provider"] == "first"
        assert (await proxy.record()).status == "ok"
        mock_clock.jump(0.1)
        await fake.wait_left()


async def test_a_connection_whose_stream_ended_well_serves_the_next_request() -> None:
    async with open_fake_provider(by_name) as fake, open_proxy(only(fake.url)) as proxy:
        for streaming in (True, False, True):
            await proxy.chat(stream=streaming)
            await proxy.wait_idle()
    assert (fake.hits, fake.connections) == (3, 1)


async def test_every_index_below_n_must_finish() -> None:
    both = [sse(chunk("a")), sse(chunk("b", index=1)), STOP]
    last = sse(chunk(finish="stop", index=1))
    async with (
        open_fake_provider([stream(both), stream([*both, last])]) as fake,
        open_proxy(only(fake.url)) as proxy,
    ):
        cut = await proxy.chat(stream=True, n=2)
        whole = await proxy.chat(stream=True, n=2, user="another")
    assert cut.error["code"] == "stream_interrupted"
    assert whole.trailer["provider"] == "first"


async def test_a_broken_stream_ends_with_whole_events_and_then_the_error() -> None:
    async with (
        open_fake_provider(stream([ROLE, WORD, b'data: {"choices":[{"del'], ending="rst")) as fake,
        open_proxy(only(fake.url)) as proxy,
    ):
        reply = await proxy.chat(stream=True)
        record = await proxy.record()
    assert reply.body.startswith(ROLE + WORD + b'data: {"error":')
    assert not reply.whole  # a client that knows no error event learns it from the end of the body
    assert reply.events[-1] == {
        "error": {
            "message": 'The answer is not complete: provider "first" broke off: the connection was '
            "reset before the body was complete. It may have been charged.",
            "type": "upstream_error",
            "param": None,
            "code": "stream_interrupted",
        }
    }
    assert record.error_message == reply.error["message"]


# --- the early head ---------------------------------------------------------------------------

TICKING: Final = "[retry]\nbackoff = 0.001\n[stream]\nkeepalive = 0.02\n"


def two(first: str, second: str, more: str = TICKING) -> str:
    return config(provider("first", first), provider("second", second, rate=2), more=more)


async def test_silence_sends_the_head_and_comments_and_failing_over_still_works() -> None:
    gate = trio.Event()
    policy = '[[policies.rules]]\nname = "mine"\nallowed_models = ["gpt-4o"]\n'
    async with (
        open_fake_provider(answer(503, before=[gate])) as first,
        open_fake_provider() as second,
        open_proxy(two(first.url, second.url, TICKING + policy)) as proxy,
        proxy.asking(headers={"x-arbstr-policy": "mine"}, stream=True, **ASKED) as client,
    ):
        status, headers = await client.head()
        await client.until(b": keep-alive\n\n: keep-alive\n\n")
        gate.set()
        body, whole = await client.rest()
        record = await proxy.record()
    assert (status, whole) == (200, True)
    assert headers["content-type"] == "text/event-stream"
    assert headers["x-arbstr-policy"] == "mine"
    assert headers["x-arbstr-request-id"] == record.correlation_id
    assert not {"x-arbstr-provider", "x-arbstr-retries"} & headers.keys()
    assert first.hits == 3
    comments, _, rest = body.partition(ROLE)
    assert set(comments.split(b"\n\n")) == {b": keep-alive", b""}
    trailer = json.loads(rest.split(b"\n\n")[-2].removeprefix(b"data: "))["arbstr"]
    assert (trailer["provider"], trailer["retries"]) == ("second", "3/first")
    assert rest.count(b'"arbstr"') == 2
    assert (record.status, record.provider) == ("ok", "second")


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param(error_answer(422), id="client_error"),
        pytest.param(error_answer(402), id="insufficient_balance"),
        pytest.param(error_answer(500), id="upstream_error"),
        pytest.param(Play(ending="fin"), id="possibly_spent"),
        pytest.param(error_answer(429, headers=[("retry-after", "7")]), id="rate_limited"),
    ],
)
async def test_a_total_failure_after_the_early_head_is_the_same_error_as_an_event(
    failing: Play,
) -> None:
    gate = trio.Event()
    late = Play((gate, *failing.steps), failing.ending)
    async with (
        open_fake_provider(late) as first,
        open_proxy(only(first.url, TICKING)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await client.head()
        await client.until(b": keep-alive\n\n")
        gate.set()
        body, whole = await client.rest()
        record = await proxy.record()
    async with (
        open_fake_provider(failing) as first,
        open_proxy(only(first.url)) as other,
    ):
        expected = await other.chat(stream=True)
    event = body.replace(b": keep-alive\n\n", b"")
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: ")) == expected.json
    assert not whole
    assert (record.status, record.error_status) == ("failed", expected.status)


async def test_keepalive_0_writes_not_a_byte_before_the_answer(mock_clock: MockClock) -> None:
    gate = trio.Event()
    async with (
        open_fake_provider(stream([gate, *hello()])) as fake,
        open_proxy(only(fake.url, "[stream]\nkeepalive = 0")) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await fake.wait_requests()
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(59)
        await wait_all_tasks_blocked(0.01)
        assert client.has_nothing_to_read()
        gate.set()
        assert (await client.reply()).headers["x-arbstr-provider"] == "first"


async def test_a_plain_request_is_never_kept_alive(mock_clock: MockClock) -> None:
    gate = trio.Event()
    async with (
        open_fake_provider(json_answer(completion(), before=[gate])) as fake,
        open_proxy(only(fake.url)) as proxy,
        proxy.asking() as client,
    ):
        await fake.wait_requests()
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(599)
        await wait_all_tasks_blocked(0.01)
        assert client.has_nothing_to_read()
        gate.set()
        assert (await client.reply()).status == 200


async def test_comments_come_between_events_and_count_silence_only(mock_clock: MockClock) -> None:
    gates = [trio.Event() for _ in range(3)]
    events: list[Step] = [ROLE, WORD, gates[0], WORD, gates[1], STOP, USAGE, DONE]
    async with (
        open_fake_provider(stream(events)) as fake,
        open_proxy(only(fake.url)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await client.head()
        await client.until(WORD)
        for _ in range(2):
            await wait_all_tasks_blocked(0.01)
            mock_clock.jump(14)
            await wait_all_tasks_blocked(0.01)
        gates[0].set()
        await client.until(b": keep-alive\n\n" + WORD)
        # An event has begun the silence anew.
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(14)
        await wait_all_tasks_blocked(0.01)
        gates[1].set()
        body, _ = await client.rest()
        assert body.count(b": keep-alive\n\n") == 1


async def test_comments_garble_nothing_however_often_they_come() -> None:
    words: list[Step] = [step for _ in range(30) for step in (0.001, WORD)]
    events: list[Step] = [0.005, ROLE, *words, STOP, USAGE, DONE]
    async with (
        open_fake_provider(stream(events, ending="hang")) as fake,
        open_proxy(only(fake.url, "[stream]\nkeepalive = 0.0005")) as proxy,
        proxy.client() as client,
    ):
        for count in (1, 2):
            body = b'{"model":"gpt-4o","messages":[],"stream":true}'
            await client.send("POST", "/v1/chat/completions", body)
            reply = await client.reply()
            assert reply.trailer["output_tokens"] == 5
            assert reply.text == "Hello" * 30
            assert reply.body.count(b": keep-alive\n\n") > 3
            # Nothing is written behind the end, where the connection's next answer begins.
            await proxy.log.wait(count)
            await proxy.wait_idle()
            assert client.has_nothing_to_read()


async def test_a_client_may_leave_while_it_is_kept_alive() -> None:
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(only(fake.url, TICKING)) as proxy,
    ):
        async with proxy.asking(stream=True) as client:
            await client.head()
            await client.until(b": keep-alive\n\n")
            await fake.wait_requests()
        await fake.wait_left()
        assert (await proxy.record()).status == "client_disconnected"


# --- the shutdown -----------------------------------------------------------------------------


async def test_the_shutdown_ends_a_stream_with_the_error_event() -> None:
    async with (
        open_fake_provider(stream([ROLE, WORD], ending="hang")) as fake,
        open_proxy(only(fake.url)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await client.head()
        await client.until(WORD)
        await wait_all_tasks_blocked(0.01)
        proxy.hub.stop_all()
        body, whole = await client.rest()
        record = await proxy.record()
        await fake.wait_left()
        state = proxy.hub.board.view("first", trio.current_time())
    assert not whole
    assert b"stream_interrupted" in body
    assert b"[DONE]" not in body
    assert record.status == "stream_incomplete"
    assert [(row.failure, row.money) for row in record.attempts] == [("shutdown", "unknown")]
    assert state.failure_count == 0


@STREAMED
async def test_the_shutdown_ends_an_attempt_that_may_have_cost_with_400(streaming: bool) -> None:
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(only(fake.url)) as proxy,
        proxy.asking(stream=streaming) as client,
    ):
        await fake.wait_requests()
        await wait_all_tasks_blocked(0.01)
        proxy.hub.stop_all()
        reply = await client.reply()
        record = await proxy.record()
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
    assert "arbstr was shut down" in reply.error["message"]
    assert [(row.failure, row.money) for row in record.attempts] == [("shutdown", "unknown")]


async def test_the_shutdown_ends_a_wait_that_has_cost_nothing_with_503() -> None:
    async with (
        open_fake_provider(error_answer(500)) as fake,
        open_proxy(only(fake.url, "[retry]\nbackoff = 1000")) as proxy,
        proxy.asking() as client,
    ):
        await fake.wait_requests()
        await wait_all_tasks_blocked(0.01)
        proxy.hub.stop_all()
        reply = await client.reply()
        record = await proxy.record()
    assert (reply.status, reply.error["code"]) == (503, "shutting_down")
    assert (record.status, record.possibly_spent) == ("failed", 0)


@STREAMED
async def test_a_request_that_begins_after_the_shutdowns_grace_is_not_sent(streaming: bool) -> None:
    async with open_fake_provider() as fake, open_proxy(only(fake.url)) as proxy:
        proxy.hub.stop_all()
        reply = await proxy.chat(stream=streaming)
        record = await proxy.record()
    assert (reply.status, reply.error["code"]) == (503, "shutting_down")
    assert (record.status, record.possibly_spent, fake.hits) == ("rejected", 0, 0)
    assert record.attempts == (), "none was begun"


@STREAMED
async def test_after_the_shutdowns_grace_none_is_sent_over_a_kept_connection_either(
    streaming: bool,
) -> None:
    async with open_fake_provider() as fake, open_proxy(only(fake.url)) as proxy:
        assert (await proxy.chat()).status == 200
        await proxy.wait_idle()
        proxy.hub.stop_all()
        reply = await proxy.chat(stream=streaming)
        record = await proxy.record(2)
    assert (reply.status, reply.error["code"]) == (503, "shutting_down")
    assert (record.attempts, fake.hits) == ((), 1)


async def test_the_shutdown_of_a_stream_that_only_waits_for_its_usage_is_a_success() -> None:
    async with finished(stream([ROLE, WORD, STOP], ending="hang")) as (_, proxy, client):
        proxy.hub.stop_all()
        assert (await client.rest())[0].count(DONE) == 1
        assert (await proxy.record()).status == "ok"


async def test_the_shutdown_loses_no_event_that_was_about_to_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Responder.body

    async def held_up(self: Responder, data: bytes, *, more: bool) -> None:
        if STOP in data and more:
            await trio.sleep_forever()  # as it waits for a keep-alive that is being written
        await write(self, data, more=more)

    monkeypatch.setattr(Responder, "body", held_up)
    gate = trio.Event()
    async with (
        open_fake_provider(stream([ROLE, WORD, gate, WORD + STOP])) as fake,
        open_proxy(only(fake.url)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await client.head()
        await client.until(WORD)
        gate.set()
        await wait_all_tasks_blocked(0.01)
        proxy.hub.stop_all()
        body, whole = await client.rest()
    assert whole
    assert body.startswith(ROLE + WORD + WORD + STOP + DONE)


async def test_the_shutdown_after_the_early_head_is_told_as_an_event() -> None:
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(only(fake.url, TICKING)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await client.head()
        await client.until(b": keep-alive\n\n")
        await fake.wait_requests()
        proxy.hub.stop_all()
        body, whole = await client.rest()
    assert not whole
    assert b'"code": "possibly_spent"' in body or b'"code":"possibly_spent"' in body


# --- rows -------------------------------------------------------------------------------------


async def test_rows_say_what_headers_and_answers_said(tmp_path: Path) -> None:
    database = tmp_path / "arbstr.db"
    first_script: Script = [
        error_answer(503),
        Play(ending="fin"),
        by_name,
        error_answer(422),
        by_name,
    ]
    more = "[retry]\nmax_retries = 0\n"
    async with (
        open_fake_provider(first_script) as first,
        open_fake_provider() as second,
        open_proxy(two(first.url, second.url, more), database=database) as proxy,
    ):
        replies = [
            await proxy.chat(),
            await proxy.chat(headers={"x-arbstr-respend": "allow"}),
            await proxy.chat(stream=True),
            await proxy.chat(),
            await proxy.chat(model="nobody"),
        ]
    requests = {row["correlation_id"]: row for row in rows(database)}
    attempts = rows(database, "attempts")
    assert len(requests) == 5
    for reply in replies:
        row = requests[reply.headers["x-request-id"]]
        its = [a for a in attempts if a["correlation_id"] == row["correlation_id"]]
        failed = [a for a in its if a["failure"] is not None]
        counts: dict[str, int] = {}
        for one in failed:
            counts[one["provider"]] = counts.get(one["provider"], 0) + 1
        told = ", ".join(f"{count}/{name}" for name, count in counts.items())
        assert reply.headers.get("x-arbstr-retries", "") == told
        assert row["attempts"] == len(its)
        assert [one["n"] for one in its] == list(range(1, len(its) + 1))
        assert row["possibly_spent"] == sum(one["money"] != "free" for one in failed)
        assert int(reply.headers.get("x-arbstr-possibly-spent", 0)) == row["possibly_spent"]
        assert row["success"] == (reply.status == 200)
        assert row["cost_sats"] == (its[-1]["cost_sats"] if its else None)
        assert "Say hello" not in repr(row)
    assert [requests[r.headers["x-request-id"]]["status"] for r in replies] == [
        "ok",
        "ok",
        "ok",
        "failed",
        "rejected",
    ]


async def test_a_row_is_in_flight_while_the_request_is(tmp_path: Path) -> None:
    database = tmp_path / "arbstr.db"
    gate = trio.Event()
    async with (
        open_fake_provider(json_answer(completion(), before=[gate])) as fake,
        open_proxy(only(fake.url), database=database) as proxy,
        proxy.asking() as client,
    ):
        await fake.wait_requests()
        await until_written(proxy)
        assert [row["status"] for row in rows(database)] == ["in_flight"]
        assert [row["money"] for row in rows(database, "attempts")] == [None]
        gate.set()
        await client.reply()
    [row] = rows(database)
    assert (row["status"], row["success"], row["output_tokens"]) == ("ok", 1, 5)


async def until_written(proxy: Proxy) -> None:
    with trio.fail_after(10):
        while not proxy.hub.log_writer.statistics().written:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.005)


async def test_charges_that_differ_from_the_price_list_are_one_warning_for_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    charged = {**ROUTSTR_USAGE, "cost": {"total_msats": 5000}}
    async with (
        open_fake_provider(json_answer(completion(usage=charged))) as fake,
        open_proxy(only(fake.url)) as proxy,
    ):
        replies = [await proxy.chat(stream=bool(n % 2)) for n in range(25)]
        await proxy.log.wait(25)
        record = proxy.log.final[19]
    reply = replies[0]
    assert reply.headers["x-arbstr-cost-sats"] == "5"
    assert (record.cost_sats, record.expected_sats) == (Decimal(5), Decimal("0.15"))
    assert record.provider_cost_sats == 5
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert ["100 sats for the last 20" in r.getMessage() for r in warnings] == [True]
    assert warnings[0].__dict__["request_id"] == record.correlation_id


async def test_one_line_of_the_log_tells_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with (
        open_fake_provider([by_name, error_answer(400)]) as fake,
        open_proxy(only(fake.url)) as proxy,
    ):
        await proxy.chat()
        await proxy.chat(stream=True)
    ids = [record.correlation_id for record in proxy.log.final]
    lines = [r for r in caplog.records if r.levelno == logging.INFO and "status=" in r.getMessage()]
    assert [line.__dict__["request_id"] for line in lines] == ids
    assert "model=gpt-4o provider=first status=ok" in lines[0].getMessage()
    assert "sats=0.015" in lines[0].getMessage()
    assert "status=failed http=400" in lines[1].getMessage()


async def test_what_a_client_wrote_is_in_no_row_and_no_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the launch code is 0000"
    async with (
        open_fake_provider([error_answer(500, secret), by_name]) as fake,
        open_proxy(only(fake.url)) as proxy,
    ):
        await proxy.chat(messages=[{"role": "user", "content": secret}])
        assert secret not in repr(await proxy.record())
    assert secret not in caplog.text


# --- bugs of ours -----------------------------------------------------------------------------


@STREAMED
async def test_a_bug_while_asking_is_a_500_and_a_row(
    streaming: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: UpstreamCall, body: bytes) -> Answer | Failure:
        await UpstreamCall._send(self, body, streams=streaming)
        raise ValueError("a bug")

    monkeypatch.setattr(UpstreamCall, "stream" if streaming else "plain", broken)
    async with open_fake_provider() as fake, open_proxy(only(fake.url)) as proxy:
        reply = await proxy.chat(stream=streaming)
        record = await proxy.record()
        assert (await proxy.get("/livez")).status == 200
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert (record.status, record.error_status) == ("failed", 500)
    assert [(row.failure, row.money) for row in record.attempts] == [("no_answer", "unknown")]
    assert [r.levelno for r in caplog.records if "internal error" in r.getMessage()] == [
        logging.ERROR
    ]


async def test_a_bug_after_the_head_ends_the_stream_with_an_error_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(self: UpstreamCall) -> bytes:
        raise ValueError("a bug")

    monkeypatch.setattr(UpstreamCall, "more", broken)
    async with (
        open_fake_provider(stream([ROLE, WORD, 0.01, STOP, DONE])) as fake,
        open_proxy(only(fake.url)) as proxy,
    ):
        reply = await proxy.chat(stream=True)
        record = await proxy.record()
    assert reply.error["code"] == "internal_error"
    assert b"[DONE]" not in reply.body
    assert not record.success
    assert record.possibly_spent == 1


# --- what is left behind ----------------------------------------------------------------------


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    """Whatever only the collector could find, while the test runs."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@STREAMED
@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failed over"])
async def test_a_request_leaves_nothing_for_the_collector(
    streaming: bool, fails: bool, garbage: list[object]
) -> None:
    good = stream(hello()) if streaming else json_answer(completion())
    plays = [error_answer(503), good] if fails else [good]
    async with (
        open_fake_provider(plays * 3) as fake,
        open_proxy(only(fake.url)) as proxy,
        proxy.client() as client,
    ):
        for turn in range(3):
            await client.send("POST", "/v1/chat/completions", chat_body(stream=streaming))
            assert (await client.reply()).status == 200
            await proxy.record(turn + 1)
        await wait_all_tasks_blocked()
        gc.collect()
        ours = {type(thing) for thing in garbage if type(thing).__module__.startswith("arbstr.")}
    assert not ours


async def test_a_drained_request_leaves_nothing_for_the_collector(garbage: list[object]) -> None:
    gate = trio.Event()
    play = stream([ROLE, WORD, gate, STOP, USAGE, DONE])
    async with (
        open_fake_provider(play) as fake,
        open_proxy(config(provider("first", fake.url, kind="routstr"))) as proxy,
    ):
        async with proxy.asking(stream=True) as client:
            await client.head()
            await client.until(b"Hello")
        await wait_all_tasks_blocked(0.01)
        assert proxy.hub.draining == 1
        gate.set()
        await proxy.record()
        await wait_all_tasks_blocked()
        gc.collect()
        # The client's connection is gone as well, and is one; requests are not.
        assert not [thing for thing in garbage if isinstance(thing, Run)]

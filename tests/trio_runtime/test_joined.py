"""Asking again, through the whole proxy: the answer that was paid for, a refusal, or a request."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.trio_runtime import repeats as kept_answers
from tests.fakes import (
    DONE,
    ROUTSTR_ID,
    ROUTSTR_USAGE,
    SILENCE,
    FakeProvider,
    Play,
    answer,
    chunk,
    completion,
    json_answer,
    open_fake_provider,
    sse,
    stream,
    usage,
)
from tests.proxy import Proxy, Reply, chat_body, config, open_proxy, pass_time, provider

ROLE: Final = sse(chunk("", role="assistant"))
WORD: Final = sse(chunk("Hello"))
MORE: Final = sse(chunk(" there"))
STOP: Final = sse(chunk(finish="stop"))
COUNTED: Final = sse(chunk(usage=usage()))
REST: Final = (MORE, STOP, COUNTED, DONE)
WHOLE: Final = completion("Hello there", usage=usage())
BODY: Final = json.dumps(WHOLE).encode()

FORMS: Final = pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(*({"stream": a} for a in pair), id=f"{pair}")
        for pair in ((False, False), (False, True), (True, False), (True, True))
    ],
)


def paused(streaming: bool, gate: trio.Event) -> Play:
    """A whole answer that stops in the middle until the gate opens."""
    if streaming:
        return stream([ROLE, WORD, gate, *REST])
    return json_answer(WHOLE, before=[gate])


async def settled() -> None:
    """Until everybody has taken in all that is in their sockets."""
    await wait_all_tasks_blocked(0.01)


async def ask_and_leave(
    proxy: Proxy, fake: FakeProvider, *, count: int = 1, headers: Any = None, **members: Any
) -> None:
    """A client that leaves as soon as the provider has its request, and its first output."""
    async with proxy.asking(headers=headers, **members) as client:
        await fake.wait_requests(count)
        if members.get("stream"):
            await client.head()
            await client.until(b"Hello")
        await settled()
    await settled()


def without_ids(reply: Reply) -> bytes:
    """The body but for what is each client's own: arbstr's object at the end of a stream."""
    return reply.body.partition(b'"arbstr":')[0]


@asynccontextmanager
async def proxied(
    script: Any, *, kind: str = "openai", more: str = "", **settings: Any
) -> AsyncIterator[tuple[FakeProvider, Proxy]]:
    async with (
        open_fake_provider(script) as fake,
        open_proxy(config(provider("alpha", fake.url, kind=kind), more=more), **settings) as proxy,
    ):
        yield fake, proxy


@FORMS
async def test_whoever_asks_again_gets_the_answer_that_is_on_its_way(
    first: dict[str, Any], again: dict[str, Any]
) -> None:
    gate = trio.Event()
    async with proxied(paused(first["stream"], gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake, **first)
        async with proxy.asking(**again) as client:
            await settled()
            assert proxy.log.final == []
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
        assert fake.hits == 1
        # What an undisturbed client would have got.
        undisturbed = await proxy.chat(headers={"x-arbstr-respend": "allow"}, **again)
        assert fake.hits == 2
    by_status = {record.status: record for record in proxy.log.final[:2]}
    paid, joined = by_status["client_disconnected"], by_status["ok"]
    assert reply.status == 200
    assert reply.headers["x-arbstr-joined"] == paid.correlation_id
    assert reply.headers["x-arbstr-request-id"] == joined.correlation_id
    assert reply.headers["x-arbstr-provider"] == "alpha"
    if again["stream"]:
        assert reply.text == "Hello there"
        assert (reply.trailer["cost_sats"], reply.trailer["joined"]) == (0, paid.correlation_id)
        assert (reply.trailer["input_tokens"], reply.trailer["output_tokens"]) == (10, 5)
    else:
        assert reply.headers["x-arbstr-cost-sats"] == "0"
        assert reply.text == "Hello there"
        assert reply.json["usage"] == usage()
    if first["stream"] == again["stream"]:
        assert without_ids(reply) == without_ids(undisturbed)
    assert (joined.joined, joined.attempts) == (paid.correlation_id, ())
    assert joined.cost_sats == 0
    assert (joined.provider, joined.model, joined.input_tokens) == ("alpha", "gpt-4o", None)
    assert (paid.joined, str(paid.cost_sats), paid.possibly_spent) == (None, "0.015", 0)
    [row] = paid.attempts
    assert (row.failure, row.money) == (None, "spent")


@FORMS
async def test_an_answer_that_came_whole_is_given_once_from_memory(
    first: dict[str, Any], again: dict[str, Any]
) -> None:
    gate = trio.Event()
    async with proxied(paused(first["stream"], gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake, **first)
        gate.set()
        paid = await proxy.record()
        reply = await proxy.chat(**again)
        assert (reply.status, reply.text, fake.hits) == (200, "Hello there", 1)
        assert reply.headers["x-arbstr-joined"] == paid.correlation_id
        await proxy.log.wait(2)
        assert proxy.hub.kept.held == 0
        # It is no cache.
        reply = await proxy.chat(**again)
        assert (reply.status, fake.hits) == (200, 2)
        assert "x-arbstr-joined" not in reply.headers
    assert str(paid.cost_sats) == "0.015"


async def test_a_client_that_asks_for_usage_gets_it_though_the_first_did_not() -> None:
    gate = trio.Event()
    async with proxied(paused(True, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=True)
        gate.set()
        await proxy.record()
        reply = await proxy.chat(stream=True, stream_options={"include_usage": True})
        assert fake.hits == 1
    assert [event["usage"] for event in reply.events if event != "[DONE]" and "usage" in event] == [
        usage()
    ]


async def test_several_join_each_at_its_own_speed() -> None:
    gate = trio.Event()
    async with proxied(stream([ROLE, WORD, *[MORE] * 50, gate, *REST])) as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=True)
        async with proxy.asking(stream=True) as slow:
            await slow.head()
            await slow.until(b"Hello")
            async with proxy.asking(stream=True) as quick, proxy.asking(stream=True) as leaving:
                await leaving.head()
                await leaving.until(b"there")
                await leaving.leave()
                gate.set()
                reply = await quick.reply()
            assert reply.text == "Hello" + " there" * 51
            await settled()
            body, whole = await slow.rest()
            assert (body.count(b" there"), whole) == (51, True)
        await proxy.log.wait(4)
        assert (fake.hits, proxy.hub.kept.held) == (1, 0)
    assert sorted(record.status for record in proxy.log.final) == [
        "client_disconnected",
        "client_disconnected",
        "ok",
        "ok",
    ]
    assert len({record.joined for record in proxy.log.final}) == 2


async def test_each_of_several_answers_goes_to_one_repeat() -> None:
    gate = trio.Event()

    def numbered(request: Any) -> Play:
        text = f"answer {fake.hits}"
        return json_answer(completion(text, usage=usage()), before=[gate])

    async with proxied(numbered) as (fake, proxy):
        async with proxy.asking(), proxy.asking(), proxy.asking():
            await fake.wait_requests(3)
            await settled()
        await settled()
        replies: list[Reply] = []

        async def again() -> None:
            replies.append(await proxy.chat())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(again)
            await settled()
            gate.set()
        assert fake.hits == 3
    assert {reply.text for reply in replies} == {"answer 1", "answer 2", "answer 3"}


async def test_twenty_at_once_of_three_bodies_are_paid_once_each_however_often_they_repeat() -> (
    None
):
    gate = trio.Event()
    async with proxied(lambda request: json_answer(WHOLE, before=[gate])) as (fake, proxy):

        async def impatient(which: int, *, last: bool) -> None:
            async with proxy.asking(user=str(which % 3), stream=which % 2 == 0) as client:
                if last:
                    assert (await client.reply()).status == 200
                else:
                    await settled()

        for last in (False, False, True):
            async with trio.open_nursery() as nursery:
                for which in range(20):
                    nursery.start_soon(lambda n, at_last: impatient(n, last=at_last), which, last)
                if last:
                    await settled()
                    gate.set()
            await settled()
        assert fake.hits == 20
        await proxy.log.wait(60)
    paid = [record for record in proxy.log.final if record.joined is None]
    assert [str(record.cost_sats) for record in paid] == ["0.015"] * 20
    assert [r.cost_sats for r in proxy.log.final if r.joined is not None] == [0] * 40


BROKEN: Final = stream([ROLE, WORD], ending="rst")


@pytest.mark.parametrize("times", [8, 6], ids=["as aider", "as Copilot"])
async def test_a_broken_stream_is_not_paid_again_without_a_word(times: int) -> None:
    async with proxied([BROKEN, json_answer(WHOLE)]) as (fake, proxy):
        body = chat_body(stream=True)
        broken = await proxy.chat(body=body)
        assert broken.error["code"] == "stream_interrupted"
        first = broken.headers["x-arbstr-request-id"]
        for _ in range(times):
            reply = await proxy.chat(body=body)
            assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
            assert reply.headers["x-should-retry"] == "false"
            assert "retry-after" not in reply.headers
            assert f"as {first}, and may have been paid for" in reply.error["message"]
            assert 'provider "alpha" broke off: the connection was reset' in reply.error["message"]
            assert "60 s more" in reply.error["message"]
        assert fake.hits == 1
        # Claude Code asks once more, without a stream.
        assert (await proxy.chat()).error["code"] == "possibly_spent"
        reply = await proxy.chat(body=chat_body(), headers={"X-Arbstr-Respend": "allow"})
        assert (reply.status, fake.hits) == (200, 2)
    assert [record.status for record in proxy.log.final[1:-1]] == ["rejected"] * (times + 1)


async def test_after_its_time_it_goes_out(autojump_clock: MockClock) -> None:
    async with proxied([BROKEN, json_answer(WHOLE)]) as (fake, proxy):
        await proxy.chat(stream=True)
        assert (await proxy.chat(stream=True)).status == 400
        await trio.sleep(59)
        assert (await proxy.chat(stream=True)).status == 400
        await trio.sleep(1)
        assert ((await proxy.chat(stream=True)).status, fake.hits) == (200, 2)


@pytest.mark.parametrize(
    "free",
    [
        answer(503),
        answer(429),
        json_answer({"error": {"message": "no"}}, status=400),
        stream([sse({"error": {"message": "x"}})]),
    ],
    ids=["a 503", "a 429", "the client's own error", "an error event before output"],
)
async def test_what_was_free_never_blocks(free: Play) -> None:
    more = "[retry]\nmax_retries = 0"
    async with proxied([free, json_answer(WHOLE)], more=more) as (fake, proxy):
        assert (await proxy.chat()).status >= 400
        proxy.hub.board.retain(())  # a 429 rests it, which is another matter
        assert ((await proxy.chat()).status, fake.hits) == (200, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"user": "other"},
        {"headers": {"x-arbstr-policy": "code"}},
        {"temperature": 0.5},
    ],
    ids=["another member", "another policy", "another value"],
)
async def test_another_request_is_another(other: Any) -> None:
    policy = "[[policies.rules]]\nname = 'code'\nallowed_models = ['gpt-4o']"
    async with proxied([BROKEN, json_answer(WHOLE)], more=policy) as (fake, proxy):
        await proxy.chat(stream=True)
        assert ((await proxy.chat(**other)).status, fake.hits) == (200, 2)


async def test_guard_0_turns_it_off(autojump_clock: MockClock) -> None:
    more = "[retry]\nrepeat_guard = 0"
    async with proxied([BROKEN, SILENCE, json_answer(WHOLE)], more=more) as (fake, proxy):
        await proxy.chat(stream=True)
        async with proxy.asking(stream=True):
            await fake.wait_requests(2)
        await fake.wait_left(1)  # it was cut at once
        assert ((await proxy.chat(stream=True)).status, fake.hits) == (200, 3)


# --- what becomes of a source -----------------------------------------------------------------


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
        await pass_time(mock_clock, 59, until=lambda: mock_clock.current_time() > 58)
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


async def test_a_reload_that_turns_it_off_lets_all_go() -> None:
    gate = trio.Event()
    async with proxied(paused(False, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake)
        gate.set()
        await proxy.record()
        proxy.hub.kept.configure(0.0)
        assert (proxy.hub.kept.held, proxy.hub.kept._sources) == (0, {})
        assert ((await proxy.chat()).status, fake.hits) == (200, 2)


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


@pytest.mark.parametrize("again", [False, True], ids=["plain again", "streamed again"])
@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streamed"])
async def test_what_a_node_writes_after_our_own_timeout_is_for_whoever_asks_again(
    streaming: bool, again: bool
) -> None:
    gate = trio.Event()
    limit = {False: "answer", True: "first_output"}[streaming]
    more = f"[timeouts]\n{limit} = 0.05"
    answers = {
        False: json_answer(WHOLE, before=[gate], headers=[ROUTSTR_ID]),
        True: stream([ROLE, gate, WORD, *REST], headers=[ROUTSTR_ID]),
    }
    async with proxied(answers[streaming], kind="routstr", more=more) as (fake, proxy):
        late = await proxy.chat(stream=streaming)
        assert late.error["code"] == "possibly_spent"
        async with proxy.asking(stream=again) as client:
            await settled()
            gate.set()
            reply = await client.reply()
        assert (reply.status, reply.text, fake.hits) == (200, "Hello there", 1)
        assert reply.headers["x-arbstr-joined"] == late.headers["x-arbstr-request-id"]
        await proxy.log.wait(2)
        await proxy.wait_idle()
        assert proxy.hub.kept.held == 0


async def test_what_a_node_wrote_after_our_own_timeout_is_given_from_memory() -> None:
    gate = trio.Event()
    play = stream([ROLE, gate, WORD, *REST], headers=[ROUTSTR_ID])
    more = "[timeouts]\nfirst_output = 0.05"
    async with proxied([play, json_answer(WHOLE)], kind="routstr", more=more) as (fake, proxy):
        assert (await proxy.chat(stream=True)).error["code"] == "possibly_spent"
        gate.set()
        await proxy.record()
        reply = await proxy.chat(stream=True)
        assert (reply.text, fake.hits) == ("Hello there", 1)
        assert (await proxy.chat()).text == "Hello there"
        assert fake.hits == 2


async def test_a_client_that_got_its_answer_elsewhere_leaves_nothing_of_the_late_one() -> None:
    gate = trio.Event()
    more = "[timeouts]\nfirst_output = 0.05\n[retry]\npossibly_spent = 'next'"
    async with (
        open_fake_provider(stream([ROLE, gate, WORD, *REST], headers=[ROUTSTR_ID])) as late,
        open_fake_provider(stream([ROLE, WORD, *REST])) as prompt,
        open_proxy(
            config(
                provider("alpha", late.url, kind="routstr"),
                provider("beta", prompt.url, rate=2),
                more=more,
            )
        ) as proxy,
    ):
        assert (await proxy.chat(stream=True)).text == "Hello there"
        gate.set()
        await proxy.record()
        assert (proxy.hub.kept.held, proxy.hub.kept._sources) == (0, {})
        assert (await proxy.chat(stream=True)).text == "Hello there"
        assert "x-arbstr-joined" not in (await proxy.chat(stream=True)).headers


@pytest.mark.parametrize("ending", ["fin", "rst"], ids=["came whole", "broke"])
async def test_an_answer_is_kept_whatever_a_late_one_before_it_comes_to(ending: Any) -> None:
    late_gate, gate = trio.Event(), trio.Event()
    more = "[timeouts]\nanswer = 0.05\n[retry]\npossibly_spent = 'next'"
    patient = "timeouts = { answer = 20 }"
    async with (
        open_fake_provider(
            stream([late_gate, WORD, *(REST if ending == "fin" else ())], ending=ending)
        ) as late,
        open_fake_provider(json_answer(WHOLE, before=[gate])) as prompt,
        open_proxy(
            config(
                provider("alpha", late.url, kind="routstr"),
                provider("beta", prompt.url, rate=2, more=patient),
                more=more,
            )
        ) as proxy,
    ):
        await ask_and_leave(proxy, prompt)
        gate.set()
        await settled()
        late_gate.set()
        first = await proxy.record()
        reply = await proxy.chat(stream=True)
        assert (reply.text, reply.headers["x-arbstr-provider"]) == ("Hello there", "beta")
        assert reply.headers["x-arbstr-joined"] == first.correlation_id
        assert (late.hits, prompt.hits) == (1, 1)

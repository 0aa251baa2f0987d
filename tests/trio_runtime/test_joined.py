"""Asking again, through the whole proxy: the answer that was paid for, a refusal, or a request."""

from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from arbstr.trio_runtime.packed import Packed
from tests.again import (
    BROKEN,
    MORE,
    REST,
    ROLE,
    WHOLE,
    WORD,
    ask_and_leave,
    paused,
    proxied,
    settled,
)
from tests.fakes import SILENCE, Play, answer, completion, json_answer, sse, stream, usage
from tests.passes import Passes
from tests.proxy import Reply, chat_body

FORMS: Final = pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(*({"stream": a} for a in pair), id=f"{pair}")
        for pair in ((False, False), (False, True), (True, False), (True, True))
    ],
)


def without_ids(reply: Reply) -> bytes:
    """The body but for what is each client's own: arbstr's object at the end of a stream."""
    return reply.body.partition(b'"arbstr":')[0]


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


async def test_an_answer_that_is_here_already_leaves_others_their_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever joins reads it in parts, and between two of them comes whatever else there is."""
    taken, passes = list[int](), Passes()

    def read(kept: Packed, at: int) -> tuple[bytes, int]:
        taken.append(passes.count)
        return whole(kept, at)

    whole = Packed.read
    monkeypatch.setattr(Packed, "read", read)
    monkeypatch.setattr("arbstr.trio_runtime.packed.READ_BYTES", 1)
    gate = trio.Event()
    async with proxied(paused(True, gate)) as (fake, proxy):
        await ask_and_leave(proxy, fake, stream=True)
        gate.set()
        await proxy.record()
        reply = await proxy.chat(stream=True)
        assert (reply.status, fake.hits) == (200, 1)
    assert len(taken) > 1
    assert len(set(taken)) == len(taken)


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

"""Answers that come late: after arbstr gave them up, for whoever asks the same again."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.again import REST, ROLE, WHOLE, WORD, ask_and_leave, proxied, settled
from tests.fakes import ROUTSTR_ID, Play, json_answer, open_fake_provider, stream
from tests.proxy import STREAMED, config, open_proxy, pass_time, provider


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


@pytest.mark.parametrize("joins", [False, True], ids=["asked again later", "joined before"])
@STREAMED
async def test_a_node_whose_client_left_before_our_own_timeout_is_read_on_for_the_same_again(
    streaming: bool, joins: bool, mock_clock: MockClock
) -> None:
    gate = trio.Event()
    play = stream([ROLE, gate, WORD, *REST], headers=[ROUTSTR_ID])
    more = "[timeouts]\nfirst_output = 20\nanswer = 20"
    async with proxied(play, kind="routstr", more=more) as (fake, proxy):

        async def timed_out() -> None:
            clock = mock_clock
            await pass_time(clock, 30, until=lambda: clock.current_time() > 25, step=1)
            assert (fake.left, proxy.hub.draining) == (0, 1)

        async with proxy.asking(stream=streaming):
            await fake.wait_requests(1)
            await settled()
        await settled()
        if not joins:
            await timed_out()
        async with proxy.asking(stream=True) as client:
            await settled()
            if joins:
                await timed_out()
            gate.set()
            reply = await client.reply()
        await proxy.log.wait(2)
        assert (reply.text, reply.whole, fake.hits) == ("Hello there", True, 1)
        assert (proxy.hub.kept.held, proxy.hub.kept._sources) == (0, {})
    assert sorted((row.joined is None, row.status) for row in proxy.log.final) == [
        (False, "ok"),
        (True, "client_disconnected"),
    ]


@pytest.mark.parametrize("answers", [False, True], ids=["which breaks", "which answers"])
async def test_what_comes_late_while_another_is_asked_is_kept_until_that_is_known(
    answers: bool,
) -> None:
    late_gate, gate = trio.Event(), trio.Event()
    more = "[timeouts]\nanswer = 0.05\n[retry]\nmax_retries = 0\npossibly_spent = 'next'"
    other = json_answer(WHOLE, before=[gate])
    async with (
        open_fake_provider(json_answer(WHOLE, before=[late_gate], headers=[ROUTSTR_ID])) as late,
        open_fake_provider(other if answers else Play((gate,), "rst")) as prompt,
        open_proxy(
            config(
                provider("alpha", late.url, kind="routstr"),
                provider("beta", prompt.url, rate=2, more="timeouts = { answer = 20 }"),
                more=more,
            )
        ) as proxy,
    ):
        async with proxy.asking() as client:
            await prompt.wait_requests(1)
            late_gate.set()
            await settled()
            gate.set()
            first = await client.reply()
        assert first.status == (200 if answers else 400)
        await proxy.log.wait(1)
        assert (proxy.hub.kept.held > 0) is not answers
        if not answers:
            again = await proxy.chat(stream=True)
            assert (again.text, again.headers["x-arbstr-provider"]) == ("Hello there", "alpha")
            assert again.headers["x-arbstr-joined"] == first.headers["x-arbstr-request-id"]
            await proxy.log.wait(2)
        assert (late.hits, prompt.hits) == (1, 1)
        assert (proxy.hub.kept.held, proxy.hub.kept._sources) == (0, {})

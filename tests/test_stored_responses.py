"""What a provider keeps of its answers, through the whole proxy: asked for again of it alone."""

import json
from decimal import Decimal
from typing import Any, Final

import openai
import pytest
import trio
from trio.testing import MockClock

from arbstr.sansio.dialects.responses.door import RESPONSES
from tests.fakes import (
    SILENCE,
    FakeProvider,
    Play,
    Request,
    error_answer,
    json_answer,
    open_fake_provider,
    raw,
)
from tests.fakes import stream as events_of
from tests.proxy import KEY, ONE_TRY, STREAMED, Proxy, Reply, config, open_proxy, provider

USAGE: Final = {"input_tokens": 1000, "output_tokens": 200, "total_tokens": 1200}


def keeps(name: str) -> Any:
    """A provider whose n-th answer is `resp_<name>_n`, with one item."""
    count = 0

    def play(request: Request) -> Play:
        nonlocal count
        count += 1
        part = {"type": "output_text", "text": f"{name} {count}", "annotations": []}
        item = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
        body = {
            "id": f"resp_{name}_{count}",
            "object": "response",
            "created_at": 7,
            "status": "completed",
            "model": request.json["model"] if request.body else "gpt-4o",
            "output": [{"id": f"msg_{name}_{count}", **item}],
            "usage": USAGE,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        if request.body and "store" in request.json:
            body["store"] = request.json["store"]
        if request.wants_stream:
            return events_of([RESPONSES.as_stream(json.dumps(body).encode())])
        return json_answer(body)

    return play


def two(first: FakeProvider, second: FakeProvider, *, more: str = "") -> str:
    tables = (provider("alpha", first.url, rate=1), provider("beta", second.url, rate=2))
    return config(*tables, more=ONE_TRY + more)


async def ask(proxy: Proxy, path: str = "/v1/responses", **members: Any) -> Reply:
    body = {"model": "gpt-4o", "input": "Hi", **members}
    async with proxy.client() as client:
        await client.send("POST", path, json.dumps(body).encode())
        return await client.reply()


async def begun_at_beta(proxy: Proxy, first: FakeProvider, *, stream: bool = False) -> None:
    """A first answer of the dearer provider, because the other failed."""
    first.set_script(error_answer(503))
    reply = await ask(proxy, stream=stream)
    first.set_script(keeps("alpha"))
    assert reply.headers["x-arbstr-provider"] == "beta" or stream


def refused(reply: Reply, param: str) -> str:
    assert (reply.status, reply.error["param"]) == (400, param)
    assert reply.error["code"] == "unsupported_parameter"
    assert reply.headers["x-should-retry"] == "false"
    assert "Send the whole conversation in `input` instead." in reply.error["message"]
    told: str = reply.error["message"]
    return told


@STREAMED
async def test_an_answer_is_continued_where_it_is_kept(streaming: bool) -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await begun_at_beta(proxy, first, stream=streaming)
        await ask(proxy)
        asked_before = first.hits
        reply = await ask(proxy, previous_response_id="resp_beta_1", stream=streaming)
        record = await proxy.record(3)
        assert first.hits == asked_before
    assert reply.status == 200
    assert record.provider == "beta"
    # What it continues is paid again: 1200 tokens, 1 for "Hi", and 256 that are expected.
    assert record.estimated_cost_sats == Decimal("2.914")
    assert second.requests[-1].json["previous_response_id"] == "resp_beta_1"


async def test_an_item_is_named_where_it_is_kept() -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await begun_at_beta(proxy, first)
        await ask(proxy)
        mine = [{"type": "item_reference", "id": "msg_beta_1"}, {"role": "user", "content": "?"}]
        other = {"type": "item_reference", "id": "msg_alpha_1"}
        reply = await ask(proxy, input=mine)
        both = await ask(proxy, input=[*mine, other])
    assert reply.headers["x-arbstr-provider"] == "beta"
    assert "different providers" in refused(both, "input")


async def test_what_nobody_is_known_to_keep_is_asked_of_nobody() -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await ask(proxy, store=False)
        for members in (
            {"previous_response_id": "resp_alpha_1"},
            {"previous_response_id": "resp_9"},
            {"conversation": "conv_1"},
            {"input": [{"type": "item_reference", "id": "rs_9"}]},
        ):
            reply = await ask(proxy, **members)
            assert "does not know which" in refused(reply, next(iter(members)))
        record = await proxy.record(5)
        cost = await ask(proxy, path="/v1/cost", previous_response_id="resp_9")
    assert (record.status, record.attempts) == ("rejected", ())
    assert cost.status == 400
    assert first.hits == 1
    assert second.hits == 0


async def test_who_keeps_it_and_fails_is_followed_by_nobody() -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await ask(proxy)
        first.set_script(error_answer(503))
        reply = await ask(proxy, previous_response_id="resp_alpha_1")
    assert reply.status == 502
    assert reply.headers["x-arbstr-retries"] == "1/alpha"
    assert second.hits == 0


async def test_the_day_must_have_room_for_what_is_continued() -> None:
    more = "[budget]\nsats_per_day = 2.9\n"
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second, more=more)) as proxy,
    ):
        assert (await ask(proxy, max_output_tokens=256)).status == 200  # 1.2 sats
        reply = await ask(proxy, max_output_tokens=600, previous_response_id="resp_alpha_1")
    assert (reply.status, reply.error["code"]) == (402, "budget_exceeded")


async def test_a_provider_that_a_reload_took_away_keeps_nothing() -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await ask(proxy)
        proxy.hub.adopt(proxy.hub.snapshot, kept={"beta"})
        refused(await ask(proxy, previous_response_id="resp_alpha_1"), "previous_response_id")


# -- looked up, and deleted


async def look(proxy: Proxy, path: str, method: str = "GET") -> Reply:
    async with proxy.client() as client:
        await client.send(method, path)
        return await client.reply()


@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_what_is_kept_is_looked_up_where_it_is(prefix: str) -> None:
    stored = {"id": "resp_beta_1", "object": "response", "status": "completed"}
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await begun_at_beta(proxy, first)
        asked_before = first.hits
        second.set_script(json_answer(stored))
        reply = await look(proxy, f"{prefix}/responses/resp_beta_1?include=a&include=b")
        items = await look(proxy, f"{prefix}/responses/resp_beta_1/input_items")
        gone = await look(proxy, f"{prefix}/responses/resp_beta_1", "DELETE")
        assert first.hits == asked_before
        assert len(proxy.log.final) == 1  # that of the answer itself
    assert [reply.json, items.json, gone.json] == [stored] * 3
    assert (reply.headers["x-arbstr-provider"], reply.status) == ("beta", 200)
    one, two_, three = second.requests[-3:]
    assert [(each.method, each.target) for each in (one, two_, three)] == [
        ("GET", "/v1/responses/resp_beta_1?include=a&include=b"),
        ("GET", "/v1/responses/resp_beta_1/input_items"),
        ("DELETE", "/v1/responses/resp_beta_1"),
    ]
    assert one.header("authorization") == f"Bearer {KEY}"
    assert one.body == b""


async def test_what_nobody_is_known_to_keep_is_looked_up_nowhere() -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await ask(proxy)
        unknown = await look(proxy, "/v1/responses/resp_9")
        asks_a_model = await look(proxy, "/v1/responses/resp_alpha_1/compact", "POST")
        proxy.hub.adopt(proxy.hub.snapshot, kept={"beta"})
        taken_away = await look(proxy, "/v1/responses/resp_alpha_1", "DELETE")
    assert (first.hits, second.hits) == (1, 0)
    for reply in (unknown, taken_away):
        assert (reply.status, reply.error["code"]) == (400, "unsupported_endpoint")
        assert reply.json["type"] == "error"  # in both shapes
        assert reply.headers["x-should-retry"] == "false"
        assert "arbstr does not know which" in reply.error["message"]
    assert (asks_a_model.status, asks_a_model.error["code"]) == (400, "unsupported_endpoint")


@pytest.mark.parametrize(
    ("play", "status", "code"),
    [
        (error_answer(404, "no such response", code="not_found"), 404, "not_found"),
        (error_answer(401), 502, "provider_auth"),
        (error_answer(402), 402, "insufficient_balance"),
        (error_answer(429, headers=[("retry-after", "7")]), 429, "rate_limited"),
        (error_answer(500), 502, "upstream_error"),
        (raw(b""), 502, "upstream_error"),
    ],
)
async def test_a_look_up_that_fails_says_so(play: Play, status: int, code: str) -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await ask(proxy)
        first.set_script(play)
        reply = await look(proxy, "/v1/responses/resp_alpha_1")
    assert (reply.status, reply.error["code"]) == (status, code)
    assert reply.headers["x-arbstr-provider"] == "alpha"
    assert reply.headers.get("retry-after") == ("7" if status == 429 else None)
    assert second.hits == 0


async def test_a_look_up_is_over_with_the_total_and_who_leaves_waits_for_nobody(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second, more="[timeouts]\ntotal = 7\n")) as proxy,
    ):
        await ask(proxy)
        first.set_script(SILENCE)
        async with proxy.client() as client:
            await client.send("GET", "/v1/responses/resp_alpha_1")
            with trio.fail_after(20):
                reply = await client.reply()
        async with proxy.client() as client:
            await client.send("GET", "/v1/responses/resp_alpha_1")
            await first.wait_hits(3)
        await first.wait_left(2)
    assert (reply.status, reply.error["code"]) == (502, "upstream_error")
    assert "within 7 s" in reply.error["message"]


async def test_who_charges_for_a_look_up_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        await ask(proxy)
        first.set_script(json_answer({}, headers=[("x-routstr-cost-msats", "1500")]))
        await look(proxy, "/v1/responses/resp_alpha_1")
    [said] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert 'provider "alpha" charges for GET /responses/..., 1.5 sats' in said.getMessage()


async def test_the_sdk_continues_a_response() -> None:
    async with (
        open_fake_provider(keeps("alpha")) as first,
        open_fake_provider(keeps("beta")) as second,
        open_proxy(two(first, second)) as proxy,
    ):

        def talk() -> list[str]:
            with openai.OpenAI(base_url=proxy.url, api_key="client-canary") as client:
                one = client.responses.create(model="gpt-4o", input="Hi")
                two = client.responses.create(
                    model="gpt-4o", input="And?", previous_response_id=one.id
                )
                with client.responses.stream(
                    model="gpt-4o", input="And?", previous_response_id=two.id
                ) as events:
                    three = events.get_final_response()
                again = client.responses.retrieve(two.id)
                return [each.output_text for each in (one, two, three, again)]

        assert await trio.to_thread.run_sync(talk) == [
            *("alpha 1", "alpha 2", "alpha 3", "alpha 4")
        ]
    assert second.hits == 0

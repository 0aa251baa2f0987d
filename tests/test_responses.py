"""/v1/responses through the whole proxy: bytes, rows, and what the OpenAI SDK makes of it.

The SDK is the real one, in this process, once as a loop over events and once as its helper.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeAlias

import openai
import pytest
import trio

from arbstr.sansio.ledger.record import Record
from tests.cuttings import recorded
from tests.fakes import (
    FakeProvider,
    Play,
    error_answer,
    json_answer,
    open_fake_provider,
    refused_url,
    stream,
)
from tests.proxy import ONE_TRY, Proxy, Reply, config, open_proxy, provider

RATES: Final = "cached_input_rate = 0.5"
"""Beside 1 sat for 1000 tokens of any kind."""

COST: Final = Decimal("0.042")
"""Of 25 tokens of input, 12 cached ones and 11 of output."""


def pieces(name: str) -> list[bytes]:
    """The events of a stream of the corpus, the last of them perhaps in part."""
    found = recorded(f"responses-{name}.sse").split(b"\n\n")
    return [piece + b"\n\n" for piece in found[:-1]] + [found[-1]] * bool(found[-1])


def streamed(name: str) -> Play:
    return stream(pieces(name))


def plain(name: str = "text", **more: Any) -> dict[str, Any]:
    """The response of a stream's last event."""
    data = pieces(name)[-1].partition(b"data: ")[2]
    response: dict[str, Any] = json.loads(data)["response"]
    return {**response, **more}


def one(fake: FakeProvider, **settings: Any) -> str:
    return config(provider("alpha", fake.url, **{"more": RATES, **settings}), more=ONE_TRY)


async def ask(proxy: Proxy, **members: Any) -> Reply:
    body = {"model": "gpt-4o", "input": "Hi", **members}
    headers = body.pop("headers", None)
    async with proxy.client() as client:
        await client.send("POST", "/v1/responses", json.dumps(body).encode(), headers)
        return await client.reply()


# -- answers


async def test_a_plain_answer_and_its_row() -> None:
    async with (
        open_fake_provider(json_answer(plain())) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        reply = await ask(proxy)
        record = await proxy.record()
    assert reply.status == 200
    assert json.loads(reply.body) == plain()
    assert reply.headers["x-arbstr-cost-sats"] == str(COST)
    assert (record.endpoint, record.status, record.cost_sats) == ("responses", "ok", COST)
    assert (record.input_tokens, record.cached_tokens) == (37, 12)
    assert (record.output_tokens, record.reasoning_tokens) == (11, 4)
    assert fake.requests[0].path == "/v1/responses"
    assert fake.requests[0].body == b'{"model": "gpt-4o", "input": "Hi"}'


async def test_a_stream_and_its_row() -> None:
    async with (
        open_fake_provider(streamed("text")) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        reply = await ask(proxy, stream=True)
        record = await proxy.record()
    came = b"".join(pieces("text")[:-1])
    assert reply.body.startswith(came)
    last = json.loads(reply.body[len(came) :].partition(b"data: ")[2])
    arbstr = last["arbstr"]
    assert last["response"]["arbstr"] == arbstr
    assert (arbstr["provider"], arbstr["cost_sats"]) == ("alpha", float(COST))
    assert (arbstr["input_tokens"], arbstr["output_tokens"]) == (37, 11)
    assert (record.endpoint, record.status, record.cost_sats) == ("responses", "ok", COST)
    assert json.loads(fake.requests[0].body) == {"model": "gpt-4o", "input": "Hi", "stream": True}


async def test_what_a_node_charged_is_the_cost() -> None:
    async with (
        open_fake_provider(streamed("routstr-whole")) as fake,
        open_proxy(one(fake, kind="routstr")) as proxy,
    ):
        reply = await ask(proxy, stream=True)
        record = await proxy.record()
    assert json.loads(reply.body.rpartition(b"data: ")[2])["arbstr"]["cost_sats"] == 0.107
    assert (record.cost_sats, record.expected_sats) == (Decimal("0.107"), COST)


async def test_an_answer_at_its_limit_is_an_answer() -> None:
    async with (
        open_fake_provider(streamed("incomplete")) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        reply = await ask(proxy, stream=True)
        record = await proxy.record()
    assert b"event: response.incomplete\n" in reply.body
    assert b"response.failed" not in reply.body
    assert (record.status, record.cost_sats) == ("ok", COST)


async def test_json_for_a_stream_becomes_one_and_a_stream_for_json_the_answer() -> None:
    script = [json_answer(plain()), streamed("text")]
    async with open_fake_provider(script) as fake, open_proxy(one(fake)) as proxy:
        events = await ask(proxy, stream=True)
        whole = await ask(proxy)
        record = await proxy.record(2)
    assert events.headers["content-type"].startswith("text/event-stream")
    assert b"event: response.output_text.delta\n" in events.body
    assert json.loads(events.body.rpartition(b"data: ")[2])["type"] == "response.completed"
    assert json.loads(whole.body) == plain()
    assert record.cost_sats == COST


async def test_a_refusal_has_openais_shape_and_no_row_where_it_is_malformed() -> None:
    async with open_fake_provider() as fake, open_proxy(one(fake)) as proxy:
        later = await ask(proxy, background=True)
        unknown = await ask(proxy, model="nonesuch")
        record = await proxy.record()
    assert (later.status, later.error["code"]) == (400, "unsupported_parameter")
    assert later.error["param"] == "background"
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert (record.status, record.endpoint) == ("rejected", "responses")
    assert fake.hits == 0


async def test_32_thousand_tokens_fit_the_budget_of_a_day() -> None:
    async with (
        open_fake_provider(json_answer(plain())) as fake,
        open_proxy(
            config(
                provider("alpha", fake.url, rate=30),
                more="[budget]\nsats_per_day = 1000\n" + ONE_TRY,
            )
        ) as proxy,
    ):
        reply = await ask(proxy, max_output_tokens=32000)
    assert reply.status == 200


# -- failing over, and not


def two(first: FakeProvider, second: FakeProvider, **settings: Any) -> str:
    return config(
        provider("alpha", first.url, rate=1, **settings),
        provider("beta", second.url, rate=2, **settings),
        more=ONE_TRY,
    )


async def streamed_by_two(name: str, **settings: Any) -> tuple[Reply, Record, int]:
    """What came of a stream asked of alpha, which sends this, and how often a good beta was."""
    async with (
        open_fake_provider(streamed(name)) as first,
        open_fake_provider(streamed("text")) as second,
        open_proxy(two(first, second, **settings)) as proxy,
    ):
        return await ask(proxy, stream=True), await proxy.record(), second.hits


@pytest.mark.parametrize("name", ["failed-at-once", "error-nested"])
async def test_before_output_another_provider_answers(name: str) -> None:
    reply, record, _ = await streamed_by_two(name)
    assert b"response.failed" not in reply.body
    assert reply.headers["x-arbstr-retries"] == "1/alpha"
    assert (record.status, record.provider, record.possibly_spent) == ("ok", "beta", 0)


@pytest.mark.parametrize("as_stream", [True, False], ids=["streamed", "asked plain"])
async def test_a_failure_that_has_all_its_output_in_it_may_have_been_charged(
    as_stream: bool,
) -> None:
    said = {**plain(), "status": "failed", "error": {"code": "server_error", "message": "boom"}}
    del said["usage"]
    event = json.dumps({"type": "response.failed", "response": said}).encode()
    async with (
        open_fake_provider(stream([b"data: " + event + b"\n\n"])) as first,
        open_fake_provider(streamed("text")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        reply = await ask(proxy, stream=as_stream)
        record = await proxy.record()
    assert reply.status == 400
    assert (second.hits, record.possibly_spent, record.attempts[0].money) == (0, 1, "spent")


async def test_a_fabricated_end_whose_charge_is_nothing_is_free() -> None:
    reply, record, _ = await streamed_by_two("routstr-fabricated-at-once", kind="routstr")
    assert b"response.completed" in reply.body
    assert (record.status, record.provider) == ("ok", "beta")
    assert record.attempts[0].money == "free"


BROKEN: Final = ("failed", "error-flat", "cut", "routstr-fabricated")


@pytest.mark.parametrize("name", BROKEN)
async def test_after_output_it_ends_with_both_events_and_nobody_else_is_asked(name: str) -> None:
    reply, record, asked = await streamed_by_two(name)
    assert reply.whole
    failed, error = (json.loads(part.partition(b"data: ")[2]) for part in ends(reply.body))
    assert (failed["type"], error["type"]) == ("response.failed", "error")
    assert failed["response"]["error"]["code"] == "invalid_prompt"
    assert failed["response"]["error"]["message"] == error["message"]
    assert error["message"].startswith('The answer is not complete: provider "alpha"')
    assert error["code"] == error["error"]["code"] == "stream_interrupted"
    assert error["sequence_number"] == failed["sequence_number"] + 1
    assert record.status == "stream_incomplete"
    assert asked == 0


def ends(body: bytes) -> list[bytes]:
    return body.removesuffix(b"\n\n").split(b"\n\n")[-2:]


async def test_the_charge_of_a_fabricated_end_is_in_the_row() -> None:
    async with (
        open_fake_provider(streamed("routstr-fabricated")) as fake,
        open_proxy(one(fake, kind="routstr")) as proxy,
    ):
        await ask(proxy, stream=True)
        record = await proxy.record()
    assert (record.status, record.cost_sats) == ("stream_incomplete", Decimal("0.041"))


# -- who serves the path


NO_PATH: Final = error_answer(404)


async def test_who_does_not_serve_it_by_the_configuration_is_not_asked() -> None:
    with refused_url() as nobody:
        text = config(
            provider("alpha", nobody, rate=1, more='endpoints = ["chat"]'),
            provider(
                "beta", nobody, rate=2, more='[providers.model_endpoints]\n"gpt-4o" = ["chat"]'
            ),
        )
        async with open_proxy(text) as proxy:
            reply = await ask(proxy)
            record = await proxy.record()
    assert (reply.status, reply.error["code"]) == (400, "unsupported_endpoint")
    for name in ("alpha", "beta"):
        assert f"{name} does not serve /v1/responses" in reply.error["message"]
    assert reply.headers["x-should-retry"] == "false"
    assert record.attempts == ()


async def test_who_turned_out_not_to_serve_it_is_passed_over_until_a_reload() -> None:
    def by_path(request: Any) -> Play:
        return NO_PATH if request.path.endswith("/responses") else json_answer({})

    async with (
        open_fake_provider(by_path) as first,
        open_fake_provider(json_answer(plain())) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        replies = [await ask(proxy) for _ in range(3)]
        shown = {p["name"]: p for p in (await proxy.get("/providers")).json["providers"]}
        proxy.hub.adopt(proxy.hub.snapshot, kept={"alpha", "beta"})
        await ask(proxy)
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert [reply.headers.get("x-arbstr-retries") for reply in replies] == ["1/alpha", None, None]
    assert shown["alpha"]["missing_endpoints"] == {"responses": None}
    assert "missing_endpoints" not in shown["beta"]
    assert shown["alpha"]["resting_until"] is None
    assert first.hits == 2


async def test_that_its_only_provider_lacks_the_path_is_told_at_once_and_again() -> None:
    async with open_fake_provider(NO_PATH) as fake, open_proxy(one(fake)) as proxy:
        replies = [await ask(proxy) for _ in range(2)]
    assert fake.hits == 1
    for reply in replies:
        assert (reply.status, reply.error["code"]) == (400, "unsupported_endpoint")
        assert "alpha does not serve /v1/responses" in reply.error["message"]


async def test_a_node_lacks_a_path_for_one_model_alone() -> None:
    script = [NO_PATH, json_answer(plain())]
    async with (
        open_fake_provider(script) as fake,
        open_proxy(one(fake, kind="routstr", models='gpt-4o", "gpt-5')) as proxy,
    ):
        first = await ask(proxy)
        other = await ask(proxy, model="gpt-5")
        shown = (await proxy.get("/providers")).json["providers"][0]
    assert (first.status, other.status) == (400, 200)
    assert shown["missing_endpoints"] == {"responses": ["gpt-4o"]}


async def test_a_404_that_speaks_of_the_model_is_no_matter_of_the_path() -> None:
    refusal = error_answer(404, "The model `gpt-4o` does not exist", code="model_not_found")
    async with open_fake_provider(refusal) as fake, open_proxy(one(fake)) as proxy:
        reply = await ask(proxy)
        await ask(proxy)
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert fake.hits == 2


# -- the OpenAI SDK


Read: TypeAlias = Callable[[openai.OpenAI], list[Any]]


def loop(client: openai.OpenAI) -> list[Any]:
    """As most programs read it."""
    return list(client.responses.create(model="gpt-4o", input="Hi", stream=True))


def helper(client: openai.OpenAI) -> list[Any]:
    """As the SDK's own helper does, which puts the whole together."""
    with client.responses.stream(model="gpt-4o", input="Hi") as events:
        found = list(events)
        if found[-1].type == "response.completed":  # of others it says that there is none
            events.get_final_response()
        return found


BOTH: Final = pytest.mark.parametrize("read", [loop, helper])


async def sdk(proxy: Proxy, read: Read) -> list[Any]:
    """In a thread, as the SDK has no way to be asked by Trio that leaves nothing behind."""

    def work() -> list[Any]:
        with openai.OpenAI(base_url=proxy.url, api_key="client-canary") as client:
            return read(client)

    return await trio.to_thread.run_sync(work)


def message_of(name: str) -> str:
    content = plain(name)["output"][0]["content"]
    text: str = content[0]["text"]
    return text


@BOTH
@pytest.mark.parametrize("name", ["text", "routstr-whole", "type-last"])
async def test_the_sdk_reads_a_stream(read: Read, name: str) -> None:
    async with (
        open_fake_provider(streamed(name)) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        events = await sdk(proxy, read)
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == message_of("text")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text
    assert last.response.arbstr["provider"] == "alpha"
    assert last.response.usage.output_tokens_details.reasoning_tokens == 4


@BOTH
async def test_the_sdk_reads_tools_and_a_limit(read: Read) -> None:
    script = [streamed("tools"), streamed("incomplete")]
    async with (
        open_fake_provider(script) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        tools, limit = await sdk(proxy, read), await sdk(proxy, read)
    call = tools[-1].response.output[-1]
    assert (call.type, json.loads(call.arguments)) == ("function_call", {"path": "a.txt"})
    assert limit[-1].type == "response.incomplete"


@BOTH
async def test_the_sdk_reads_json_that_became_a_stream(read: Read) -> None:
    async with (
        open_fake_provider([json_answer(plain("tools")), json_answer(plain())]) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        tools, text = await sdk(proxy, read), await sdk(proxy, read)
    assert tools[-1].response.output[-1].name == "read_file"
    assert text[-1].response.output_text == message_of("text")


@BOTH
@pytest.mark.parametrize("name", BROKEN)
async def test_the_sdk_says_that_a_stream_broke_and_asks_once(read: Read, name: str) -> None:
    async with (
        open_fake_provider(streamed(name)) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        with pytest.raises(openai.APIError, match="The answer is not complete"):
            await sdk(proxy, read)
    assert fake.hits == 1


@BOTH
async def test_the_sdk_never_notices_who_broke_before_output(read: Read) -> None:
    async with (
        open_fake_provider(streamed("failed-at-once")) as first,
        open_fake_provider(streamed("text")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        events = await sdk(proxy, read)
    assert events[-1].response.output_text == message_of("text")


async def test_the_sdk_reads_a_plain_answer_and_a_refusal() -> None:
    async with (
        open_fake_provider([json_answer(plain()), NO_PATH]) as fake,
        open_proxy(one(fake)) as proxy,
    ):

        def read(client: openai.OpenAI) -> list[Any]:
            answer = client.responses.create(model="gpt-4o", input="Hi")
            with pytest.raises(openai.BadRequestError, match="one provider keeps"):
                client.responses.create(model="gpt-4o", input="Hi", previous_response_id="r")
            return [answer]

        (answer,) = await sdk(proxy, read)
    assert answer.output_text == message_of("text")
    assert fake.hits == 1

"""/v1/embeddings and /v1/completions through the whole proxy, and the OpenAI SDK on them."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import openai
import pytest
import trio

from tests.fakes import DONE, error_answer, json_answer, open_fake_provider, sse, stream
from tests.proxy import Proxy, Reply, config, open_proxy, provider

EMBEDDED: Final[dict[str, Any]] = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": "AACAPwAAAEAAAEBA"}],
    "model": "gpt-4o",
    "usage": {"prompt_tokens": 80, "total_tokens": 80},
}
COUNTS: Final = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
HEAD: Final = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "gpt-4o"}


def said(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    return {**HEAD, "choices": [choice]}


COMPLETED: Final = {**said("Hello", "stop"), "usage": COUNTS}
STREAMED: Final = (
    sse(said("Hel")),
    sse(said("lo", "stop")),
    sse({**HEAD, "choices": [], "usage": COUNTS}),
    DONE,
)


async def ask(proxy: Proxy, path: str, **members: Any) -> Reply:
    async with proxy.client() as client:
        body = json.dumps({"model": "gpt-4o", **members}).encode()
        await client.send("POST", path, body)
        return await client.reply()


async def in_thread(proxy: Proxy, work: Callable[[openai.OpenAI], Any]) -> Any:
    def run() -> Any:
        with openai.OpenAI(base_url=proxy.url, api_key="client-canary") as client:
            return work(client)

    return await trio.to_thread.run_sync(run)


async def test_an_embedding_costs_its_input_alone() -> None:
    async with (
        open_fake_provider(json_answer(EMBEDDED)) as fake,
        open_proxy(config(provider("alpha", fake.url, rate=10))) as proxy,
    ):
        reply = await ask(proxy, "/v1/embeddings", input="Hi")
        record = await proxy.record()
    assert reply.json == EMBEDDED
    assert reply.headers["x-arbstr-cost-sats"] == "0.8"
    assert (record.endpoint, record.status, record.cost_sats) == (
        "embeddings",
        "ok",
        Decimal("0.8"),
    )
    assert (record.input_tokens, record.output_tokens) == (80, 0)
    assert record.token_ratio is None
    assert fake.requests[0].path == "/v1/embeddings"


async def test_what_is_set_aside_for_embeddings_is_their_input() -> None:
    budget = "[budget]\nsats_per_day = 2\n"
    async with (
        open_fake_provider(json_answer(EMBEDDED)) as fake,
        open_proxy(config(provider("alpha", fake.url, rate=10), more=budget)) as proxy,
    ):
        fits = await ask(proxy, "/embeddings", input="x" * 380)
        large = await ask(proxy, "/embeddings", input="x" * 4000)
    assert fits.status == 200
    assert (large.status, large.error["code"]) == (402, "budget_exceeded")


async def test_another_provider_embeds_where_one_cannot() -> None:
    async with (
        open_fake_provider(error_answer(404)) as first,
        open_fake_provider(json_answer(EMBEDDED)) as second,
        open_proxy(
            config(provider("alpha", first.url, rate=1), provider("beta", second.url, rate=2))
        ) as proxy,
    ):
        replies = [await ask(proxy, "/v1/embeddings", input=["Hi", "Ho"]) for _ in range(2)]
    assert [reply.headers["x-arbstr-provider"] for reply in replies] == ["beta", "beta"]
    assert first.hits == 1


async def test_the_sdk_embeds() -> None:
    async with (
        open_fake_provider(json_answer(EMBEDDED)) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        answer = await in_thread(
            proxy, lambda client: client.embeddings.create(model="gpt-4o", input=["Hi"])
        )
    assert answer.data[0].embedding == [1.0, 2.0, 3.0]
    assert fake.requests[0].json["encoding_format"] == "base64"


async def test_a_completion_and_its_row() -> None:
    async with (
        open_fake_provider([json_answer(COMPLETED), stream(STREAMED)]) as fake,
        open_proxy(config(provider("alpha", fake.url, rate=10))) as proxy,
    ):
        plain = await ask(proxy, "/v1/completions", prompt="Hi")
        streamed = await ask(proxy, "/v1/completions", prompt="Hi", stream=True)
        record = await proxy.record(2)
    assert plain.json == COMPLETED
    assert plain.headers["x-arbstr-cost-sats"] == "0.5"
    *chunks, done, trailer = streamed.events
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello"
    assert done == "[DONE]"
    assert (trailer["object"], trailer["arbstr"]["cost_sats"]) == ("text_completion", 0.5)
    assert (record.endpoint, record.cost_sats) == ("completions", Decimal("0.5"))
    assert fake.requests[1].json["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_sdk_completes_and_reads_a_break(streaming: bool) -> None:
    async with (
        open_fake_provider([stream(STREAMED), stream(STREAMED[:1])]) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):

        def work(client: openai.OpenAI) -> list[str]:
            answer = client.completions.create(model="gpt-4o", prompt="Hi", stream=streaming)
            if not isinstance(answer, openai.Stream):
                return [answer.choices[0].text]
            with pytest.raises(openai.APIError, match="The answer is not complete"):
                list(client.completions.create(model="gpt-4o", prompt="Hi", stream=True))
            return [chunk.choices[0].text for chunk in answer if chunk.choices]

        texts = await in_thread(proxy, work)
    assert "".join(texts) == "Hello"

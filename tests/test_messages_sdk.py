"""What Anthropic's Python SDK makes of /v1/messages: the real one, as a loop and as its helper.

The SDK is in this process, in a thread; arbstr and its providers are under trio. For the programs
that are larger see tests/clients/README.md.
"""

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import trio

from tests.fakes import FakeProvider, json_answer, open_fake_provider
from tests.proxy import open_proxy
from tests.test_messages import BODY, PLAIN, one, streamed, two

anthropic = pytest.importorskip("anthropic", reason="it is in the extra `clients`")

Uses: TypeAlias = Callable[[Any], Any]

TEXT = 'Café "type":"error" \U0001f680'


def loop(client: Any) -> Any:
    """All events, one by one: the text, and arbstr's object of the last."""
    said, last = "", None
    for event in client.messages.create(**BODY, stream=True):
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            said += event.delta.text
        last = event
    assert last is not None
    return said, last.model_dump()["arbstr"]["provider"]


def helper(client: Any) -> Any:
    """The helper that puts the message together."""
    with client.messages.stream(**BODY) as stream:
        message = stream.get_final_message()
    return message.content[0].text, message.stop_reason


async def used(url: str, use: Uses) -> Any:
    """What the SDK returns or raises."""
    client = anthropic.Anthropic(api_key="x", base_url=url.removesuffix("/v1"), max_retries=2)

    def run() -> Any:
        try:
            return use(client)
        except anthropic.APIError as error:
            return error
        finally:
            client.close()

    return await trio.to_thread.run_sync(run)


@pytest.mark.parametrize(("use", "beside"), [(loop, "alpha"), (helper, "end_turn")])
async def test_a_stream(use: Uses, beside: str) -> None:
    async with open_fake_provider(streamed("text")) as fake, open_proxy(one(fake)) as proxy:
        assert await used(proxy.url, use) == (TEXT, beside)
        record = await proxy.record()
    assert record.status == "ok"


async def test_a_call_of_a_tool() -> None:
    def tool(client: Any) -> Any:
        with client.messages.stream(**BODY) as stream:
            return [block.to_dict() for block in stream.get_final_message().content]

    async with open_fake_provider(streamed("tools")) as fake, open_proxy(one(fake)) as proxy:
        thought, _, call = await used(proxy.url, tool)
    assert (thought["thinking"], thought["signature"]) == ("Let me look.", "EqQBCgIYAhIM")
    assert (call["name"], call["input"]) == ("weather", {"place": "Oran"})


@pytest.mark.parametrize("name", ["error", "cut", "clean-end", "routstr-cut"])
@pytest.mark.parametrize("use", [loop, helper])
async def test_a_broken_stream_raises_and_is_asked_once(use: Uses, name: str) -> None:
    async with open_fake_provider(streamed(name)) as fake, open_proxy(one(fake)) as proxy:
        error = await used(proxy.url, use)
        hits = fake.hits
    assert isinstance(error, anthropic.APIError)
    assert "The answer is not complete" in str(error)
    assert hits == 1


@pytest.mark.parametrize("use", [loop, helper])
async def test_a_provider_that_breaks_before_output_is_never_noticed(use: Uses) -> None:
    async def both(first: FakeProvider, second: FakeProvider) -> None:
        async with open_proxy(two(first, second)) as proxy:
            assert (await used(proxy.url, use))[0] == TEXT

    async with (
        open_fake_provider(streamed("error-at-once")) as first,
        open_fake_provider(streamed("text")) as second,
    ):
        await both(first, second)


async def test_a_plain_answer_its_id_and_a_count() -> None:
    def plain(client: Any) -> Any:
        message = client.messages.create(**BODY)
        counted = client.messages.count_tokens(model="gpt-4o", messages=BODY["messages"])
        return message.content[0].text, message._request_id, counted.input_tokens

    def by_path(request: Any) -> Any:
        counts = request.path.endswith("/count_tokens")
        return json_answer({"input_tokens": 9} if counts else PLAIN)

    async with open_fake_provider(by_path) as fake, open_proxy(one(fake)) as proxy:
        text, request_id, tokens = await used(proxy.url, plain)
        record = await proxy.record()
    assert (text, request_id, tokens) == ("Hello", record.correlation_id, 9)


async def test_a_refusal_is_the_exception_of_its_type() -> None:
    async with open_fake_provider(json_answer({})) as fake, open_proxy(one(fake)) as proxy:
        missing = await used(proxy.url, lambda c: c.messages.create(**{**BODY, "model": "x"}))
        spent = await used(proxy.url, loop)
        hits = fake.hits
    assert isinstance(missing, anthropic.NotFoundError)
    assert missing.body["error"]["code"] == "model_not_found"
    assert isinstance(spent, anthropic.BadRequestError)
    assert json.loads(spent.response.content)["error"]["code"] == "possibly_spent"
    assert hits == 1

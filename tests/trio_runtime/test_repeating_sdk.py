"""The OpenAI Python SDK, whose own timeouts make it ask again while the first answer is written."""

import asyncio
from typing import Any, Final

import httpx
import openai
import pytest
import trio

from tests.fakes import DONE, chunk, completion, json_answer, open_fake_provider, sse, stream, usage
from tests.proxy import Proxy, config, open_proxy, provider

TIMEOUT: Final = 0.5
"""Seconds the SDK waits for the first and the second of its three tries."""
LAST_TIMEOUT: Final = 30.0
"""For the third, which is answered: on a busy machine that takes a while."""

EVENTS: Final = (
    sse(chunk("Hello there")),
    sse(chunk(finish="stop")),
    sse(chunk(usage=usage())),
    DONE,
)


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


async def ask(client: openai.AsyncOpenAI, which: int, *, streaming: bool) -> tuple[str, str]:
    """What was said, and whose answer it was."""
    said: list[Any] = [{"role": "user", "content": f"Say hello, {which}"}]
    create = client.chat.completions.with_raw_response.create
    raw: Any = await create(model="gpt-4o", messages=said, stream=streaming)
    found = raw.parse()
    text = ""
    if streaming:
        async for piece in found:
            text += piece.choices[0].delta.content or "" if piece.choices else ""
    else:
        text = found.choices[0].message.content or ""
    return text, raw.headers.get("x-arbstr-joined", "")


async def be_patient_at_last(request: httpx.Request) -> None:
    """As if the answer were there just in time."""
    if request.headers.get("x-stainless-retry-count") == "2":
        request.extensions["timeout"] = httpx.Timeout(LAST_TIMEOUT).as_dict()


def ask_all(url: str, whiches: list[int], *, streaming: bool) -> list[tuple[str, str]]:
    async def all_of_them() -> list[tuple[str, str]]:
        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [be_patient_at_last]})
        async with openai.AsyncOpenAI(
            base_url=url, api_key="unused", timeout=TIMEOUT, max_retries=2, http_client=http
        ) as client:
            return await asyncio.gather(*(ask(client, n, streaming=streaming) for n in whiches))

    return asyncio.run(all_of_them())


async def open_when_all_have_given_up_twice(proxy: Proxy, count: int, gate: trio.Event) -> None:
    """Of each, the first request goes on without its client, and the first repeat is over."""
    await proxy.log.wait(count)
    gate.set()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "whiches", [[1], [n % 3 for n in range(20)]], ids=["one", "20 at once of 3"]
)
async def test_an_answer_that_takes_longer_than_the_sdk_waits_is_paid_once(
    whiches: list[int], streaming: bool
) -> None:
    gate = trio.Event()
    whole = json_answer(completion("Hello there", usage=usage()), before=[gate])
    play = stream(EVENTS, before=[gate]) if streaming else whole
    async with (
        open_fake_provider(play) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_when_all_have_given_up_twice, proxy, len(whiches), gate)
            replies = await trio.to_thread.run_sync(
                lambda: ask_all(proxy.url, whiches, streaming=streaming)
            )
        await proxy.log.wait(3 * len(whiches))
        assert fake.hits == len(whiches)
    assert [text for text, _ in replies] == ["Hello there"] * len(whiches)
    paid = [record for record in proxy.log.final if record.joined is None]
    joined = [record for record in proxy.log.final if record.joined is not None]
    assert [str(record.cost_sats) for record in paid] == ["0.015"] * len(whiches)
    assert {record.correlation_id for record in paid} == {first for _, first in replies}
    assert {record.cost_sats for record in joined} == {0}
    assert sorted(record.status for record in joined) == sorted(
        ["client_disconnected", "ok"] * len(whiches)
    )

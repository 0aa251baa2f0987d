"""The OpenAI Python SDK as tests use it: one way to ask, sync and async, one kind of reply.

    reply = ask_sync(process.base_url, chat("gpt-4o", "Hi", stream=True))
    assert reply.text == "Hello there" and reply.cost == Decimal("0.25")

`provider` writes a provider's table for a configuration.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeAlias, final

import openai

from tests.process import chat_body

PROVIDER: Final = """
[[providers]]
name = "{name}"
url = "{url}"
models = {models}
input_rate = {input_rate}
output_rate = {output_rate}
base_fee = {base_fee}
"""


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """What an SDK made of an answer: a `ChatCompletion`, or the chunks of a stream."""

    headers: Mapping[str, str]
    answer: Any  # not typed: that most members may be None is the SDK's business
    chunks: tuple[Any, ...]

    @property
    def request_id(self) -> str:
        return self.headers["x-arbstr-request-id"]

    @property
    def text(self) -> str:
        """As an ordinary client collects it: the loop that an unasked usage chunk breaks."""
        return "".join(chunk.choices[0].delta.content or "" for chunk in self.chunks)

    @property
    def cost(self) -> Decimal:
        return Decimal(self.headers["x-arbstr-cost-sats"])


def ask_sync(base_url: str, request: Mapping[str, Any]) -> Reply:
    with openai.OpenAI(base_url=base_url, api_key="client-canary") as client:
        raw = client.chat.completions.with_raw_response.create(**request)
        found: Any = raw.parse()
        headers = {name.lower(): value for name, value in raw.headers.items()}
        if request.get("stream"):
            return Reply(headers, None, tuple(found))
        return Reply(headers, found, ())


def ask_async(base_url: str, request: Mapping[str, Any]) -> Reply:
    async def ask() -> Reply:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="client-canary") as client:
            raw = await client.chat.completions.with_raw_response.create(**request)
            found: Any = raw.parse()
            headers = {name.lower(): value for name, value in raw.headers.items()}
            if request.get("stream"):
                return Reply(headers, None, tuple([chunk async for chunk in found]))
            return Reply(headers, found, ())

    return asyncio.run(ask())


Ask: TypeAlias = Callable[[str, Mapping[str, Any]], Reply]

ASK: Final[Mapping[str, Ask]] = MappingProxyType({"sync": ask_sync, "async": ask_async})
"""Both ways to ask; a test that uses them is parametrised with these."""


def chat(model: str, said: str = "Hi", **more: object) -> dict[str, Any]:
    """A request with one message of the user; `more` are members and the SDK's options."""
    return chat_body(model, said, more)


def provider(
    name: str, url: str, *models: str, rates: Sequence[object] = (10, 30), base_fee: object = 0
) -> str:
    """A provider's table; a provider of its own keeps what a test does to it from the others."""
    input_rate, output_rate = rates
    return PROVIDER.format(
        name=name,
        url=url,
        models=list(models),
        input_rate=input_rate,
        output_rate=output_rate,
        base_fee=base_fee,
    )

"""Clients that leave and ask again, and a chat that stops in the middle, for the tests of both."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from trio.testing import wait_all_tasks_blocked

from tests.fakes import (
    DONE,
    FakeProvider,
    Play,
    chunk,
    completion,
    json_answer,
    open_fake_provider,
    sse,
    stream,
    usage,
)
from tests.proxy import Proxy, config, open_proxy, provider

ROLE: Final = sse(chunk("", role="assistant"))
WORD: Final = sse(chunk("Hello"))
MORE: Final = sse(chunk(" there"))
STOP: Final = sse(chunk(finish="stop"))
COUNTED: Final = sse(chunk(usage=usage()))
REST: Final = (MORE, STOP, COUNTED, DONE)
WHOLE: Final = completion("Hello there", usage=usage())
BODY: Final = json.dumps(WHOLE).encode()
BROKEN: Final = stream([ROLE, WORD], ending="rst")


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


@asynccontextmanager
async def proxied(
    script: Any, *, kind: str = "openai", more: str = "", **settings: Any
) -> AsyncIterator[tuple[FakeProvider, Proxy]]:
    async with (
        open_fake_provider(script) as fake,
        open_proxy(config(provider("alpha", fake.url, kind=kind), more=more), **settings) as proxy,
    ):
        yield fake, proxy

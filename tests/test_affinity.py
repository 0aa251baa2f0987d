"""A conversation stays where its cache is: two providers with caches, and what it costs."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Final, final

import pytest

from tests.fakes import Play, Request, completion, error_answer, json_answer, open_fake_provider
from tests.proxy import ONE_TRY, Proxy, Reply, config, open_proxy, provider

TURNS: Final = 20
SYSTEM: Final = "You are an agent. " * 400
"""As long as an agent's: what makes a cache worth more than a few per cent."""


@final
class Cached:
    """A provider that keeps what it has read: a prompt's beginning that it knows is cached."""

    def __init__(self) -> None:
        self._seen: list[str] = []
        self.fails = False

    def __call__(self, request: Request) -> Play:
        if self.fails:
            return error_answer(503)
        prompt = json.dumps(request.json["messages"])[:-1]
        cached = max((len(old) for old in self._seen if prompt.startswith(old)), default=0)
        self._seen.append(prompt)
        usage = {
            "prompt_tokens": len(prompt) // 4,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": cached // 4},
        }
        return json_answer(completion("Done.", usage=usage))


def priced(name: str, url: str, input_rate: str, output_rate: str) -> str:
    table = provider(name, url, rate=0).replace("input_rate = 0", f"input_rate = {input_rate}")
    table = table.replace("output_rate = 0", f"output_rate = {output_rate}")
    cached = Decimal(input_rate) / 10
    return table + f"cached_input_rate = {cached}\n"


ALPHA: Final = ("10", "84")
BETA: Final = ("10.5", "80")
"""5 % apart, each cheaper in something: the one for long prompts, the other for long answers."""


async def converse(
    tables: list[str], *, headers: Mapping[str, str] | None = None, more: str = ""
) -> tuple[Decimal, list[str], list[bool | None]]:
    """What a conversation of `TURNS` turns costs, who answered, and whether that was a move."""
    cost, asked = Decimal(0), []
    moved: list[bool | None] = []
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Begin."}]
    async with open_proxy(config(*tables, more="[retry]\nmax_retries = 0\n" + more)) as proxy:
        for turn in range(1, TURNS + 1):
            # Answers are allowed to be short and long by turns, so the cheapest changes.
            limit = 50 if turn % 2 else 4000
            await turn_of(proxy, messages, limit, headers)
            record = await proxy.record(turn)
            assert record.cost_sats is not None
            assert record.provider is not None
            cost += record.cost_sats
            asked.append(record.provider)
            moved.append(record.moved)
            messages += [
                {"role": "assistant", "content": "Done."},
                {"role": "user", "content": f"Go on with step {turn}."},
            ]
    return cost, asked, moved


async def turn_of(
    proxy: Proxy, messages: Any, limit: int, headers: Mapping[str, str] | None
) -> Reply:
    reply = await proxy.chat(messages=messages, max_tokens=limit, headers=headers)
    assert reply.status == 200, reply.body
    return reply


async def test_a_conversation_costs_no_more_than_staying_with_either() -> None:
    async with open_fake_provider(Cached()) as one, open_fake_provider(Cached()) as other:
        both = [priced("alpha", one.url, *ALPHA), priced("beta", other.url, *BETA)]
        with_affinity, asked, moved = await converse(both)
        one.set_script(Cached())
        other.set_script(Cached())
        without, scattered, unknown = await converse(both, headers={"x-arbstr-affinity": "none"})
        one.set_script(Cached())
        other.set_script(Cached())
        alone = [(await converse([table]))[0] for table in both]
    assert asked == ["alpha"] * TURNS
    assert with_affinity <= min(alone)
    assert moved == [None] + [False] * (TURNS - 1)
    # What it is worth: without, each of them reads what the other has in its cache.
    assert len(set(scattered)) == 2
    assert without > with_affinity * Decimal("1.2")
    assert unknown == [None] * TURNS


async def test_the_configuration_turns_it_off() -> None:
    async with open_fake_provider(Cached()) as one, open_fake_provider(Cached()) as other:
        both = [priced("alpha", one.url, *ALPHA), priced("beta", other.url, *BETA)]
        _, asked, moved = await converse(both, more="[policies]\naffinity = false\n")
    assert len(set(asked)) == 2
    assert set(moved) == {None}


@asynccontextmanager
async def beside_another(*, rate: int = 11, more: str = "") -> AsyncIterator[tuple[Cached, Proxy]]:
    """alpha, at a rate of 10, which a test may let fail, beside beta at this rate."""
    first = Cached()
    async with (
        open_fake_provider(first) as alpha,
        open_fake_provider(Cached()) as beta,
        open_proxy(
            config(
                provider("alpha", alpha.url, rate=10, more=more),
                provider("beta", beta.url, rate=rate, more=more),
                more=ONE_TRY,
            )
        ) as proxy,
    ):
        yield first, proxy


HI: Final = ({"role": "user", "content": "hi"},)


async def test_who_took_over_keeps_it_and_the_move_is_in_the_row() -> None:
    async with beside_another(more="cached_input_rate = 0.1") as (first, proxy):
        messages: list[Any] = [{"role": "user", "content": "hello " * 200}]
        seen = []
        for count, fails in enumerate((False, True, False, False), start=1):
            first.fails = fails
            await turn_of(proxy, messages, 10, None)
            record = await proxy.record(count)
            seen.append((record.provider, record.moved))
            messages += [{"role": "assistant", "content": "ok"}, *HI]
        other_one = await turn_of(proxy, HI, 10, None)
        row = await proxy.record(5)
    assert seen == [("alpha", None), ("beta", True), ("beta", False), ("beta", False)]
    assert other_one.headers["x-arbstr-provider"] == "alpha"
    assert row.moved is None


async def test_a_cache_at_the_price_of_everything_else_keeps_nobody() -> None:
    async with beside_another() as (first, proxy):
        first.fails = True
        await turn_of(proxy, HI, 10, None)
        first.fails = False
        reply = await turn_of(proxy, HI, 10, None)
        record = await proxy.record(2)
    assert reply.headers["x-arbstr-provider"] == "alpha"
    assert record.moved is True


async def test_of_equals_the_one_that_answered_is_asked_first() -> None:
    async with beside_another(rate=10) as (first, proxy):
        first.fails = True
        await turn_of(proxy, HI, 10, None)
        first.fails = False
        reply = await turn_of(proxy, HI, 10, None)
    assert reply.headers["x-arbstr-provider"] == "beta"


@pytest.mark.parametrize("same", ["prompt_cache_key", "beginning"])
async def test_a_conversation_is_told_by_its_key_or_its_beginning(same: str) -> None:
    async with beside_another(more="cached_input_rate = 0.1") as (first, proxy):
        keys: dict[str, Any] = {"prompt_cache_key": "k"} if same == "prompt_cache_key" else {}
        text = {"role": "user", "content": "x" * 2000}
        other_text = {"role": "user", "content": "y" * 2000} if keys else text
        first.fails = True
        await proxy.chat(messages=[text], max_tokens=5, **keys)
        first.fails = False
        reply = await proxy.chat(messages=[other_text, *HI], max_tokens=5, **keys)
        stranger = await proxy.chat(messages=[{"role": "user", "content": "z"}], max_tokens=5)
    assert reply.headers["x-arbstr-provider"] == "beta"
    assert stranger.headers["x-arbstr-provider"] == "alpha"

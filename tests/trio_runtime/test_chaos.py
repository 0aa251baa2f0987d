"""Everything at once: providers that fail in every way, clients that leave at any moment.

What must hold whatever happens: one final row for each request, nothing left behind (`open_proxy`
checks requests, drains, tickets and sockets at its end), and headers, answers and rows that agree.
"""

import random
from typing import Final

import pytest
import trio

from tests.fakes import (
    BEHAVIOURS,
    ROUTSTR_ID,
    Behaviour,
    Chooser,
    FakeProvider,
    Headers,
    Request,
    error_answer,
    open_fake_provider,
)
from tests.proxy import Proxy, Reply, config, open_proxy, provider

REQUESTS: Final = 100
AT_ONCE: Final = 15
NAMES: Final = sorted(set(BEHAVIOURS) - {"fake-slow", "fake-endless"})
STATUSES: Final = (400, 401, 402, 404, 408, 424, 429, 500, 503)
MORE: Final = """
[retry]
backoff = 0.001
[breaker]
open_seconds = 0.02
[timeouts]
answer = 0.05
first_output = 0.05
idle = 0.05
[stream]
keepalive = 0.005
"""


def erratic(dice: random.Random, headers: Headers) -> Chooser:
    """Behaves differently for each request, and well for two of five."""

    def choose(request: Request) -> Behaviour:
        status = dice.choice([200, 200, 0, 0, dice.choice(STATUSES)])
        if not status:
            return BEHAVIOURS[dice.choice(NAMES)](request)
        after = [("retry-after", "0.01")] if status in (429, 503) else []
        failing = error_answer(status, headers=[*headers, *after])
        return BEHAVIOURS["fake-ok"](request) if status == 200 else failing

    return choose


async def one(proxy: Proxy, dice: random.Random, replies: list[Reply]) -> None:
    headers = {"x-arbstr-respend": "allow"} if dice.random() < 0.5 else {}
    streaming, leaves = dice.random() < 0.6, dice.random() < 0.4
    patience = dice.choice([0.0, 0.001, 0.005, 0.02])
    async with proxy.asking(headers=headers, stream=streaming) as client:
        if not leaves:
            replies.append(await client.reply())
            return
        with trio.move_on_after(patience):
            await client.reply()


def table(name: str, url: str, *, rate: int = 1, kind: str = "openai") -> str:
    """A provider with a key of its own."""
    more = "drain_seconds = 0.1"
    return provider(name, url, rate=rate, kind=kind, key=f"sk-test-of-{name}", more=more)


def keys_seen(fake: FakeProvider) -> set[str | None]:
    return {request.header("authorization") for request in fake.requests}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_every_request_has_one_truthful_row(seed: int) -> None:
    dice = random.Random(seed)
    limiter = trio.CapacityLimiter(AT_ONCE)
    replies: list[Reply] = []

    async def limited(proxy: Proxy) -> None:
        async with limiter:
            await one(proxy, dice, replies)

    fakes: list[FakeProvider] = []
    async with (
        open_fake_provider(erratic(dice, [])) as first,
        open_fake_provider(erratic(dice, [ROUTSTR_ID])) as second,
        open_fake_provider(erratic(dice, [])) as third,
        open_proxy(
            config(
                table("first", first.url),
                table("second", second.url, rate=2, kind="routstr"),
                table("third", third.url, rate=3, kind="routstr"),
                more=MORE,
            )
        ) as proxy,
    ):
        fakes += [first, second, third]
        async with trio.open_nursery() as nursery:
            for _ in range(REQUESTS):
                nursery.start_soon(limited, proxy)
        asked = REQUESTS
        # On a slow machine the clients who leave may have done so before the third was asked.
        while not all(fake.requests for fake in fakes) and asked < 10 * REQUESTS:
            await limited(proxy)
            asked += 1
        await proxy.wait_idle()
        health = (await proxy.get("/health")).json
        assert set(health["providers"]) == {"first", "second", "third"}
    rows = {row.correlation_id: row for row in proxy.log.final}
    hits = sum(fake.hits for fake in fakes)
    attempts = [attempt for row in rows.values() for attempt in row.attempts]
    # A client may be gone before its request has been read: then there is no row at all.
    assert len(replies) <= len(rows) == len(proxy.log.final) <= asked
    assert hits <= len(attempts)
    for name, fake in zip(("first", "second", "third"), fakes, strict=True):
        assert keys_seen(fake) == {f"Bearer sk-test-of-{name}"}
    assert all(attempt.money is not None for attempt in attempts)
    for row in rows.values():
        failed = [attempt for attempt in row.attempts if attempt.failure is not None]
        paid = [attempt.provider for attempt in failed if attempt.money != "free"]
        assert row.possibly_spent == len(paid) == len(set(paid)) <= 2
        assert row.success == (row.status == "ok")
        assert len(failed) >= len(row.attempts) - 1
    for reply in replies:
        row = rows[reply.headers["x-arbstr-request-id"]]
        assert reply.whole == (row.status == "ok" or reply.status != 200)
        assert row.status in ("ok", "failed", "rejected", "stream_incomplete")
        if reply.headers["content-type"] == "text/event-stream":
            assert (row.status == "ok") == (b"[DONE]" in reply.body)
            if row.status == "ok":
                assert reply.trailer["provider"] == row.provider
                continue
            assert (reply.body.count(b'"error"'), len(reply.error)) == (1, 4)
        else:
            assert (row.status == "ok") == (reply.status == 200)

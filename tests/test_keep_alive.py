"""A model that thinks for long: the client hears comments, steadily, and nothing else."""

from typing import Final

import pytest
import trio
from trio.testing import MockClock

from arbstr.sansio.dialects.chat.ending import KEEP_ALIVE
from tests.fakes import DONE, Play, hello, open_fake_provider, stream
from tests.process import arbstr_process
from tests.proxy import config, open_proxy, pass_time, provider

PERIOD: Final = 0.1
THINKS: Final = 1.25
"""Seconds before the first token: several periods."""

TICKING: Final = f"[stream]\nkeepalive = {PERIOD}\n"
SILENT: Final = "[stream]\nkeepalive = 0\n"
ROLE, *REST = hello()

THINKING: Final = {
    "before the head": stream(hello(), before=[THINKS]),
    "before the first event": stream([THINKS, *hello()]),
    "after the role": stream([ROLE, THINKS, *REST]),
    "with comments of its own": stream(
        [step for _ in range(5) for step in (b": busy\n\n", THINKS / 5)] + [*hello()]
    ),
}
thinking = pytest.mark.parametrize("play", THINKING.values(), ids=THINKING)


def answered(body: bytes) -> tuple[int, bytes]:
    """How many comments stand before the first event, and the provider's events behind them."""
    events = body.partition(DONE)[0]
    count = events.count(KEEP_ALIVE)
    assert events.startswith(KEEP_ALIVE * count)
    return count, events.removeprefix(KEEP_ALIVE * count)


EVENTS: Final = b"".join(hello(usage=None)[:-1])


@thinking
async def test_until_the_first_token_comments_come_at_every_period(
    play: Play, mock_clock: MockClock
) -> None:
    came: list[float] = []
    bodies: list[bytes] = []
    async with (
        open_fake_provider(play) as fake,
        open_proxy(config(provider("alpha", fake.url), more=TICKING)) as proxy,
        proxy.asking(stream=True) as client,
        trio.open_nursery() as nursery,
    ):
        began = trio.current_time()

        async def read() -> None:
            await client.head()
            for count in range(1, 12):
                await client.until(KEEP_ALIVE * count)
                came.append(trio.current_time())
            bodies.append((await client.rest())[0])

        nursery.start_soon(read)
        await pass_time(mock_clock, 4 * THINKS, until=lambda: bool(bodies), step=PERIOD / 4)
        took = trio.current_time() - began
    count, events = answered(bodies[0])
    assert events == EVENTS
    assert len(came) <= count <= took / PERIOD
    gaps = [after - before for before, after in zip([began, *came], came, strict=False)]
    assert max(gaps) < 4 * PERIOD


@thinking
async def test_without_keep_alive_not_a_byte_comes_before_the_first_token(
    play: Play, mock_clock: MockClock
) -> None:
    heard: list[bool] = []
    async with (
        open_fake_provider(play) as fake,
        open_proxy(config(provider("alpha", fake.url), more=SILENT)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        began = trio.current_time()

        def first_token() -> bool:
            early = trio.current_time() < began + THINKS - 2 * PERIOD
            heard.append(early and not client.has_nothing_to_read())
            return not early

        await pass_time(mock_clock, 2 * THINKS, until=first_token, step=PERIOD)
        assert len(heard) > THINKS / PERIOD - 4
        assert not any(heard)
        await pass_time(mock_clock, THINKS, until=lambda: not client.has_nothing_to_read())
        body = (await client.reply()).body
    assert answered(body) == (0, EVENTS)


@pytest.mark.parametrize(("more", "least"), [(TICKING, 3), (SILENT, 0)], ids=["0.1", "0"])
async def test_the_same_in_a_whole_process(more: str, least: int) -> None:
    async with open_fake_provider(THINKING["after the role"]) as fake:
        text = config(provider("alpha", fake.url), more=more)
        with arbstr_process(config_text=text) as process:
            reply = await trio.to_thread.run_sync(lambda: process.chat(stream=True))
    count, events = answered(reply.content)
    assert events == EVENTS
    assert count >= least
    assert least or not count

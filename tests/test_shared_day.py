"""A day's budget shared by eight whole processes, some of which are killed: minutes, so opt-in.

pytest -m soak -n 0 -s tests/test_shared_day.py
"""

import os
import random
import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Final

import httpx
import pytest
import trio

from tests.engines import place
from tests.fakes import Play, Request, completion, json_answer, open_fake_provider, usage
from tests.process import ArbstrProcess, arbstr_process
from tests.proxy import chat_body

__all__ = ["place"]

pytestmark = [
    pytest.mark.soak,
    # httpx's, where the process it talks to is killed.
    pytest.mark.filterwarnings("ignore:.*ByteStream.__aiter__"),
]

LIMIT: Final = 1000
PROCESSES: Final = 8
KILLS: Final = 3
TOKEN_SATS: Final = 0.1
PAUSE_SECONDS: Final = 0.2
"""Between two requests of a client, of which there are as many as processes."""

CONFIG: Final = """
[budget]
sats_per_day = 1000
hold = "most"
[retry]
max_retries = 0
linger = 0
repeat_guard = 0
[[providers]]
name = "alpha"
url = "{url}"
models = ["*"]
input_rate = 0
output_rate = 100
"""


@pytest.mark.parametrize("how", ["of their own", "workers"])
async def test_eight_processes_spend_a_day_and_no_more(
    how: str, place: str, tmp_path: Path
) -> None:
    if how == "workers" and not place.endswith(".db"):
        pytest.skip("workers are processes as any other there")
    dice, charged = random.Random(15), 0

    def serve(request: Request) -> Play:
        nonlocal charged
        (most,) = re.findall(rb'"max_tokens": ?(\d+)', request.body)
        tokens = dice.randint(1, int(most))
        charged += tokens  # as a provider: whatever becomes of the answer
        return json_answer(completion(usage=usage(1, tokens)), before=(0.02,))

    async with open_fake_provider(serve) as fake:
        text = CONFIG.format(url=fake.url)
        with ExitStack() as stack:
            run = _workers if how == "workers" else _several
            urls, kill = await trio.to_thread.run_sync(run, stack, text, place, tmp_path)
            async with trio.open_nursery() as nursery:
                for n in range(PROCESSES):
                    nursery.start_soon(_spend, n, urls)
                for n in range(1, KILLS + 1):
                    while charged * TOKEN_SATS < LIMIT * n / (KILLS + 1):  # noqa: ASYNC110
                        await trio.sleep(0.05)
                    await trio.to_thread.run_sync(kill)
            await trio.sleep(1)
            async with httpx.AsyncClient() as client:
                health = await client.get(urls[-1].replace("/v1", "/health"))
            told = health.json()["budget"]
    spent = charged * TOKEN_SATS
    print(f"\n{place.partition(':')[0]}, {how}: {spent:.1f} of {LIMIT} sats charged, told {told}")
    assert spent <= LIMIT
    assert spent >= 0.95 * LIMIT
    assert told["set_aside"] == 0


async def _spend(n: int, urls: list[str]) -> None:
    """Asks for answers of random length until even the shortest finds no room for some seconds."""
    dice, refused = random.Random(n), 0
    async with httpx.AsyncClient(timeout=60) as client:
        while refused < 12:
            body = chat_body(max_tokens=dice.randint(1, 10) if not refused else 1)
            try:
                reply = await client.post(f"{urls[n % len(urls)]}/chat/completions", content=body)
            except httpx.TransportError:
                await trio.sleep(PAUSE_SECONDS)  # it was killed
                continue
            refused = refused + 1 if reply.status_code == 402 else 0
            assert reply.status_code in (200, 402, 503), reply.text
            await trio.sleep(PAUSE_SECONDS if not refused else 0.5)


def _workers(
    stack: ExitStack, text: str, place: str, directory: Path
) -> tuple[list[str], Callable[[], None]]:
    """One arbstr of so many workers, on a file."""
    process = stack.enter_context(
        arbstr_process(
            config_text=text,
            arguments=("--workers", str(PROCESSES)),
            environ={"DATABASE_URL": place},
            directory=directory,
        )
    )
    process.wait_stderr(f"all {PROCESSES} workers serve")

    def kill() -> None:
        pids = re.findall(r"is started: pid (\d+)", process.stderr())
        os.kill(int(pids[-1]), SIGKILL)

    return [process.base_url], kill


def _several(
    stack: ExitStack, text: str, place: str, directory: Path
) -> tuple[list[str], Callable[[], None]]:
    """So many of their own, on one ledger; who is killed is started again."""
    environ = {"DATABASE_URL": place, "XDG_STATE_HOME": str(directory)}

    def begin() -> ArbstrProcess:
        return stack.enter_context(arbstr_process(config_text=text, environ=environ))

    running = [begin() for _ in range(PROCESSES)]
    urls = [each.base_url for each in running]
    turns = iter(range(PROCESSES))

    def kill() -> None:
        n = next(turns)
        os.kill(running[n].pid, SIGKILL)
        running[n] = begin()
        urls[n] = running[n].base_url

    return urls, partial(kill)

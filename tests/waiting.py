"""Waiting for what has no event of its own and can only be looked at, in trio.

await until(lambda: proxy.hub.draining == 1)
"""

from collections.abc import Callable
from typing import Final

import trio
from trio.testing import MockClock

PATIENCE: Final = 120.0
"""Seconds until the test fails; only a broken one ever comes near."""

LOOK_SECONDS: Final = 0.001
"""Between two looks: who looks at every turn of the scheduler takes the processor from those that
the wait is for, in this process and in others."""


async def until(holds: Callable[[], object]) -> None:
    """Looks until it holds. On a mock clock, which may stand still, at every turn."""
    mocked = isinstance(trio.lowlevel.current_clock(), MockClock)
    with trio.fail_after(PATIENCE):
        while not holds():
            if mocked:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(LOOK_SECONDS)

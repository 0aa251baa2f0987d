"""How the process ends, whatever it is doing when it is told to.

signal 1   stop accepting; wait for what is in flight, at most [server] shutdown_seconds;
           then end each stream with the error event, close who takes nothing, flush, exit 0
signal 2   the same without waiting for answers or for who takes nothing; exit 130, also if it
           comes when all is answered and only the log is left to flush
watchdog   a thread that ends the process if all of this hangs
"""

import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, final

import trio

from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.logs import flush_logging
from arbstr.trio_runtime.server.server import Server

log = logging.getLogger("arbstr")

LAST_WORDS_SECONDS: Final = 2.0
"""How long the streams that are ended at shutdown have to say so to their clients."""

HURRIED_WORDS_SECONDS: Final = 0.25
"""The same after a second signal: a client that reads has them in milliseconds. Picked."""

WATCHDOG_SECONDS: Final = 8.0
"""Past `shutdown_seconds` the process ends, whatever happens: two seconds for last words, three
for flushing the log (log_writer.FLUSH_SECONDS), two for closing the database."""

FAREWELL_SECONDS: Final = 0.2
"""How long a forced exit waits for the line that says so; a pipe that is read takes it at once."""

HURRY_SECONDS: Final = 5.0
"""The same after a second signal, which waits for nobody: the log is flushed, and no more."""


@final
class Stopping:
    """The signals that end the process, whatever it is doing when they come.

    `asked`: the first came, and `name` is its own; `grace` in seconds is how long it waits for
    answers. `hurried`: a second one. Later ones change nothing.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.name = ""
        self.asked = trio.Event()
        self.hurried = trio.Event()

    async def watch(self, signals: AsyncIterator[int]) -> None:
        """Until cancelled."""
        async for number in signals:
            self.told(signal.Signals(number).name)

    def told(self, name: str) -> None:
        """A signal came, or a word that is as good as one."""
        if not self.asked.is_set():
            self.name = name
            _start_watchdog(self.grace + WATCHDOG_SECONDS, 1)
            self.asked.set()
        elif not self.hurried.is_set():
            _start_watchdog(HURRY_SECONDS, 130)
            self.hurried.set()


def leave_when_told_again() -> None:
    """From now on a signal that nobody watches for ends the process, without a traceback.

    Nobody does before `run` has begun and once it has closed everything.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def _leave(number: int, frame: object) -> None:
    with suppress(RuntimeError):  # the interpreter is ending, and starts no thread any more
        words = threading.Thread(target=flush_logging, daemon=True)
        words.start()
        words.join(FAREWELL_SECONDS)
    os._exit(130)


async def until_stopped(stopping: Stopping, server: Server, hub: Hub, finished: trio.Event) -> None:
    """Waits for the first signal, then for the end, which a second signal hurries."""
    await stopping.asked.wait()
    server.stop()
    hub.close()
    log.info(
        "%s: no new requests; waiting up to %g s for %d in flight (send it again to stop now)",
        stopping.name,
        stopping.grace,
        len(hub.running),
    )
    waiting = trio.CancelScope(deadline=trio.current_time() + stopping.grace)
    ending = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def hurry() -> None:
            await stopping.hurried.wait()
            waiting.cancel()
            ending.deadline = trio.current_time() + HURRIED_WORDS_SECONDS

        nursery.start_soon(hurry)
        with waiting:
            await finished.wait()
        if not finished.is_set():
            log.warning("ending the requests that are still in flight: %d", len(hub.running))
            hub.stop_all()
            ending.deadline = min(ending.deadline, trio.current_time() + LAST_WORDS_SECONDS)
            with ending:
                await finished.wait()
        nursery.cancel_scope.cancel()
    hub.stopping = True
    server.close_all()


def _start_watchdog(seconds: float, code: int) -> None:
    """Ends the process after `seconds`, from a thread, whatever the rest of it is doing."""

    def say_so() -> None:
        log.error("still not stopped; giving up waiting")
        flush_logging()

    def strike() -> None:
        # What hangs may hold a lock of the log's, or be standard error.
        words = threading.Thread(target=say_so, daemon=True)
        words.start()
        words.join(FAREWELL_SECONDS)
        os._exit(code)

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()

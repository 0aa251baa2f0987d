"""SIGHUP: the configuration is read again and, if it will do, used from the next request on.

    SIGHUP --read, parse, check--> Reading --sansio.config.reload--> Change --one step--> hub

A file with a fault changes nothing; each of its faults is a line in the log. Requests in flight
keep the `Snapshot` they started with.
"""

import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, final

import trio

from arbstr.sansio.config.reader import Config
from arbstr.sansio.config.reload import Change, change
from arbstr.sansio.errors import ConfigError
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.logs import configure_logging, log_bug, reopen_log
from arbstr.trio_runtime.snapshot import Snapshot

log = logging.getLogger("arbstr")


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """The configuration as it was read, the level of the log, and what deserves a warning."""

    config: Config
    level: str
    warnings: tuple[str, ...]


Reader: TypeAlias = Callable[[], Reading]
"""Reads the configuration as at the start. Called in a thread; raises `ConfigError`."""


@contextmanager
def open_hangups() -> Iterator[AsyncIterator[int] | None]:
    """The SIGHUPs as they come; `None` on a system that has none (Windows)."""
    number = getattr(signal, "SIGHUP", None)
    if number is None:
        yield None
        return
    # trio gives one that nobody took to whoever had the signal before: that would end the process.
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with trio.open_signal_receiver(number) as hangups:
            yield hangups
    finally:
        signal.signal(number, before)


@final
class Reloader:
    """Reloads into `hub` what `read` reads; `None`: there is nothing to read."""

    def __init__(self, hub: Hub, read: Reader | None) -> None:
        self._hub = hub
        self._read = read
        self._secrets: tuple[Secret, ...] = hub.snapshot.catalog.secrets

    async def run(self, hangups: AsyncIterator[int]) -> None:
        """Reloads each time, until cancelled."""
        async for _ in hangups:
            reopen_log()
            if self._read is None:
                log.warning("SIGHUP: run --mock is not reloaded; restart it")
            else:
                await self._reload(self._read)

    async def _reload(self, read: Reader) -> None:
        # It only reads, so at shutdown a file that hangs is left to its thread.
        found = await trio.to_thread.run_sync(
            read_again, read, self._hub.snapshot.config, abandon_on_cancel=True
        )
        if found is None:
            return
        reading, changes, snapshot = found
        # What is in flight may still meet an old secret.
        self._secrets = _once((*self._secrets, *snapshot.catalog.secrets))
        configure_logging(reading.level, changes.config.logging.format, self._secrets)
        self._hub.adopt(snapshot, kept=changes.kept)
        _tell(changes)
        for warning in reading.warnings:
            log.warning("%s", warning)


def read_again(read: Reader, old: Config) -> tuple[Reading, Change, Snapshot] | None:
    """What is to be used in the place of `old`; `None` if it will not do, and the log says why.

    Blocks.
    """
    try:
        reading = read()
        changes = change(old, reading.config)
        return reading, changes, Snapshot.of(changes.config)
    except ConfigError as error:
        for problem in error.problems:
            log.error("SIGHUP: %s", problem)
        log.error("SIGHUP: the configuration stays as it was")
    except Exception as error:
        # A bug of ours, or a file that went away while it was read: no reason to stop serving.
        log_bug(log, "SIGHUP: the configuration stays as it was", error)
    return None


def _once(secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
    return tuple({secret.reveal(): secret for secret in secrets}.values())


def _tell(changes: Change) -> None:
    named = ("new", changes.new), ("gone", changes.gone), ("changed", changes.changed)
    told = [f"{word}: {', '.join(names)}" for word, names in named if names]
    log.info(
        "SIGHUP: the configuration was read again: providers %d (%s), rules %d",
        len(changes.config.providers),
        "; ".join(told) or "as before",
        len(changes.config.policies.rules),
    )
    for key in changes.waiting:
        log.warning("SIGHUP: %s has changed, which needs a restart; the old value stays", key)

"""`arbstr watch`: the running arbstr, once a second, until `q`.

    routes --reader--> Seen --model--> Model --screen--> lines --terminal--> what changed of them
                                keys --view--> View --^

Two tasks: one asks each second, one waits for keys; each draws when it has something new. Without a
terminal (a pipe, a file, TERM=dumb, Windows) one task asks and prints a line for what happened.

Why neither textual nor rich. Textual is eight packages and 0.7 MB that everybody would install and
few would start. Rich, which the tables of `stats` use, knows no keys, takes 2 MB and 60 to 100 ms
more to start, and renders each frame anew, where most of a second's frame is as it was. What is
needed of either is 60 lines (`terminal`, `cells`), and a screen that is a value can be kept as a
text and compared. bench/watch.py measures what it costs.
"""

import argparse
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, final

import trio

from arbstr.cli.output import complain
from arbstr.cli.routes import PORT_IS_OPEN, Routes
from arbstr.cli.watch.keys import REDRAW, Keys
from arbstr.cli.watch.lines import told
from arbstr.cli.watch.model import UNSEEN, Model, Seen
from arbstr.cli.watch.reader import Reader, Wanted
from arbstr.cli.watch.screen import request_room, screen
from arbstr.cli.watch.terminal import NoTerminal, Terminal
from arbstr.cli.watch.view import MOST_ROWS, View, press, shown_rows
from arbstr.sansio.config.reader import Config
from arbstr.trio_runtime.upstream.transport import Transport

EVERY_SECONDS: Final = 1.0

ESCAPE_SECONDS: Final = 0.05
"""How long the rest of an arrow key may take after its first byte. A slow ssh takes less."""

REMEMBERED: Final = 10 * MOST_ROWS
"""Ids of requests whose line is printed."""

SIGNALS: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGTSTP", "SIGCONT", "SIGWINCH")
    if hasattr(signal, name)
)


def run(options: argparse.Namespace, config: Config) -> int:
    """Shows it; returns the exit code, after a signal 128 and its number."""
    if config.server.listen_port == 0:
        complain(PORT_IS_OPEN)
        return 1
    try:
        with Terminal.open() as terminal:
            return trio.run(_watch, config, terminal)
    except NoTerminal:
        return trio.run(_print, config)


async def _watch(config: Config, terminal: Terminal) -> int:
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with Transport() as transport, trio.open_nursery() as nursery:
            watcher = Watcher(Routes(transport, config), terminal)
            nursery.start_soon(watcher.keep_asking)
            nursery.start_soon(watcher.keep_reading)
            nursery.start_soon(watcher.heed, signals)
            code = await watcher.wait_left()
            nursery.cancel_scope.cancel()
    return code


@final
class Watcher:
    """What is known and what was chosen, and the tasks that change them."""

    def __init__(self, routes: Routes, terminal: Terminal) -> None:
        self._reader = Reader(routes)
        self._terminal = terminal
        self._model = Model(routes.where, _now())
        self._view = View()
        self._left = trio.Event()
        self._code = 0
        self._asked: Wanted | None = None
        self._drawing = trio.Lock()
        self._hurry = trio.Event()

    async def wait_left(self) -> int:
        """Until somebody leaves; the exit code."""
        await self._left.wait()
        return self._code

    async def keep_asking(self) -> None:
        """Each second, and at once for what somebody chose."""
        while True:
            self._hurry = trio.Event()
            self._asked = wanted = self._wanted()
            seen = await self._reader.look(wanted, _now())
            self._model = after(self._model, seen, _now())
            await self._draw()
            with trio.move_on_after(EVERY_SECONDS):
                await self._hurry.wait()

    async def keep_reading(self) -> None:
        """Keys, until the terminal is gone."""
        keys = Keys()
        while True:
            data = b""
            with trio.move_on_after(ESCAPE_SECONDS if keys.waits else float("inf")) as scope:
                data = await self._terminal.read()
            if not data and not scope.cancelled_caught:
                self._leave(0)
                return
            for key in keys.feed(data) if data else keys.finish():
                if key == REDRAW:
                    self._terminal.redraw()
                    continue
                view = press(self._view, key, shown_rows(self._model, self._view))
                if view is None:
                    self._leave(0)
                    return
                self._view = view
            if self._wanted() != self._asked:
                self._hurry.set()
            await self._draw()

    async def heed(self, signals: AsyncIterator[int]) -> None:
        """Signals: the terminal is given back before any of them has its way."""
        async for number in signals:
            if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._leave(128 + number)
                return
            if number == signal.SIGTSTP:
                self._terminal.leave()
                os.kill(os.getpid(), signal.SIGSTOP)  # goes on here, when it is continued
            if number in (signal.SIGTSTP, signal.SIGCONT):
                self._terminal.take_again()
            await self._draw()

    def _wanted(self) -> Wanted:
        view = self._view
        _, height = self._terminal.size()
        return Wanted(
            rows=view.wanted_rows(request_room(self._model, height)),
            failures=view.failures,
            unknown=view.unknown,
            provider=view.provider,
            model=view.model,
            detail=view.detail,
        )

    async def _draw(self) -> None:
        async with self._drawing:
            width, height = self._terminal.size()
            lines = screen(self._model, self._view, width, height)
            try:
                await self._terminal.show(lines)
            except OSError:
                self._leave(1)  # it is gone

    def _leave(self, code: int) -> None:
        if not self._left.is_set():
            self._code = code
        self._left.set()


async def _print(config: Config) -> int:
    """Lines, until a signal or nobody reads them any more."""
    async with Transport() as transport:
        routes = Routes(transport, config)
        reader, model = Reader(routes), Model(routes.where, _now())
        printed: deque[str] = deque(maxlen=REMEMBERED)
        while True:
            first = model.trouble == UNSEEN
            seen = await reader.look(Wanted(rows=MOST_ROWS), _now())
            before, model = model, after(model, seen, _now())
            if first:  # what ended before anybody looked is no news
                printed += _ended(model)
            for line in told(before, model, frozenset(printed)):
                print(line)
            sys.stdout.flush()
            printed += [one for one in _ended(model) if one not in printed]
            await trio.sleep(EVERY_SECONDS)


def _ended(model: Model) -> list[str]:
    return [row.id for row in reversed(model.rows) if row.status != "in_flight"]


def after(model: Model, seen: Seen | str, now: int) -> Model:
    """The model after a look. What no arbstr says is no answer."""
    if isinstance(seen, str):
        return model.missed(seen, now)
    try:
        return model.told(seen, now)
    except (LookupError, TypeError, ValueError, AttributeError):
        return model.missed("answers as no arbstr of this version does", now)


def _now() -> int:
    return int(time.time() * 1000)

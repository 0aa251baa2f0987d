"""The terminal of `arbstr watch`: taken for a screen, and given back as it was, whatever happens.

    with Terminal.open() as terminal:          # raises NoTerminal if there is none to use
        terminal.show(lines)                   # what changed since the last time
        data = await terminal.read()           # what somebody typed; b"" at its end

Taken means: keys one by one and without an echo, the other screen (what was there before comes back
at the end), no cursor, lines that do not wrap. Ctrl-C and Ctrl-Z stay signals. `leave` and `enter`
stand beside each other, so that a stopped process leaves no screen behind.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, final

import trio

from arbstr.cli.cells import Line, painted

if sys.platform != "win32":  # which has none, and gets lines
    import termios

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
"""DEC's private modes: 1049 the other screen, 25 the cursor, 7 wrapping."""

_MOST_AT_ONCE: Final = 1024
"""Bytes of one write. A terminal that was stopped (Ctrl-S) takes none, and must not hold up more
than the screen."""

_MOST_READ: Final = 1024


class NoTerminal(Exception):  # noqa: N818 - nothing failed: there are lines instead
    """Nobody types here, or no screen can be shown."""


@final
class Terminal:
    """Standard input and output, which are one."""

    def __init__(self, reading: int, writing: int, *, colour: bool, encoding: str) -> None:
        self._reading, self._writing = reading, writing
        self._colour = colour
        self._encoding = encoding
        self._before: list[Any] | None = None
        self._shown: tuple[str, ...] | None = None
        self._size = (0, 0)

    @classmethod
    @contextmanager
    def open(cls) -> Iterator["Terminal"]:
        """Until the end of the block. Raises `NoTerminal`."""
        stdin, stdout = sys.stdin, sys.stdout
        usable = (
            sys.platform != "win32"
            and os.environ.get("TERM", "dumb") not in ("dumb", "")
            and stdin is not None
            and stdin.isatty()
            and stdout is not None
            and stdout.isatty()
        )
        if not usable:
            raise NoTerminal
        terminal = cls(
            stdin.fileno(),
            stdout.fileno(),
            colour=not os.environ.get("NO_COLOR"),
            encoding=stdout.encoding or "ascii",
        )
        terminal.enter()
        try:
            yield terminal
        finally:
            terminal.leave()

    def enter(self) -> None:
        """Takes it. What is there is drawn anew at the next `show`."""
        if self._before is None:
            with suppress(termios.error):
                self._before = termios.tcgetattr(self._reading)
        self._take()

    def take_again(self) -> None:
        """After the process was stopped: a shell has had the terminal meanwhile."""
        self._take()

    def _take(self) -> None:
        if self._before is not None:
            mode = [*self._before]
            mode[3] = int(mode[3]) & ~(termios.ICANON | termios.ECHO)
            mode[6] = [*mode[6]]
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            with suppress(termios.error):
                termios.tcsetattr(self._reading, termios.TCSADRAIN, mode)
        self._write_now(_ENTER)
        self._shown = None

    def leave(self) -> None:
        """Gives it back. Nothing of this can fail: at a hang-up there is nothing to give back."""
        self._write_now(_LEAVE)
        if self._before is not None:
            with suppress(termios.error, OSError):
                termios.tcsetattr(self._reading, termios.TCSADRAIN, self._before)

    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        try:
            columns, lines = os.get_terminal_size(self._writing)
        except OSError:
            return 80, 24
        return columns or 80, lines or 24  # a serial line has neither

    def redraw(self) -> None:
        """All of it at the next `show`: something else wrote to the terminal."""
        self._shown = None

    async def show(self, lines: Sequence[Line]) -> None:
        """Writes what is not there yet. Raises `OSError` when the terminal is gone."""
        texts = tuple(painted(line, colour=self._colour) for line in lines)
        size = self.size()
        anew = self._shown is None or size != self._size
        before = () if anew else self._shown or ()
        out = ["\x1b[2J"] if anew else []
        for at, text in enumerate(texts):
            if at >= len(before) or before[at] != text:
                # Erased first: after a text that reaches the edge it would take the last cell.
                out.append(f"\x1b[{at + 1};1H\x1b[2K{text}")
        out += [f"\x1b[{at + 1};1H\x1b[2K" for at in range(len(texts), len(before))]
        self._shown, self._size = texts, size
        await self._write("".join(out))

    async def read(self) -> bytes:
        """What was typed. Empty when the terminal is gone."""
        await trio.lowlevel.wait_readable(self._reading)
        try:
            return os.read(self._reading, _MOST_READ)
        except OSError:
            return b""

    async def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        for at in range(0, len(data), _MOST_AT_ONCE):
            piece = data[at : at + _MOST_AT_ONCE]
            while piece:
                await trio.lowlevel.wait_writable(self._writing)
                piece = piece[os.write(self._writing, piece) :]

    def _write_now(self, text: str) -> None:
        with suppress(OSError):
            os.write(self._writing, text.encode("ascii"))

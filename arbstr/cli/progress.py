"""How far a command is that takes long, on standard error: standard output has what it did."""

import sys
import time
from typing import Final, final

LINE_SECONDS: Final = 5.0
"""Between two lines of a log; a terminal has one line, written over."""


@final
class Progress:
    """`show` as often as there is news, `end` once."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._next = time.monotonic() + LINE_SECONDS
        self._width = 0

    def show(self, text: str) -> None:
        """That far it is now."""
        if self._is_terminal:
            self._write(f"\r{text:<{self._width}}")
            self._width = len(text)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self._write(f"{text}\n")

    def end(self) -> None:
        """What was shown makes room."""
        if self._width:
            self._write(f"\r{'':<{self._width}}\r")
            self._width = 0

    def _write(self, text: str) -> None:
        if sys.stderr is not None:
            print(text, end="", file=sys.stderr, flush=True)

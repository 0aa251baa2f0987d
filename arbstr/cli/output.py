"""Standard output and error, which may be closed, full, a pipe whose reader went away, or unable to
show a name.

    print --text--> what cannot be shown is escaped --bytes--> file   OutputError if it takes none

So that no command dies of a model's name, and "cannot print" is said of nothing else.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, final

from arbstr.sansio.visible import escaped

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CLOSED: Final = "standard output is closed"


@final
class OutputError(Exception):
    """Standard output does not take what was printed. No `OSError`: argparse would swallow it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.errno = error.errno
        self.strerror = error.strerror

    @property
    def is_left(self) -> bool:
        """Whether its reader went away (`arbstr providers | head -1`), which is nothing wrong."""
        return self.errno == errno.EPIPE


@final
class _Raw(io.RawIOBase):
    """What is below standard output, with its errors called by their name. `None`: it is closed."""

    def __init__(self, below: io.RawIOBase | None) -> None:
        self._below = below
        self._has_failed = False

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes some. After an error it swallows all: Python would try again when it ends."""
        size = memoryview(data).nbytes
        if self._has_failed:
            return size
        try:
            return self._write(data)
        except OSError as error:
            self._has_failed = True
            raise OutputError(error) from None

    def _write(self, data: "ReadableBuffer") -> int:
        if self._below is None:
            raise OSError(errno.EBADF, CLOSED)
        while (written := self._below.write(data)) is None:
            select.select((), (self._below,), ())  # somebody who shares it made it non-blocking
        return written

    def writable(self) -> bool:
        """That it is there to be written to."""
        return True

    def fileno(self) -> int:
        """Of what is below, for whoever asks how wide the terminal is."""
        return super().fileno() if self._below is None else self._below.fileno()

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self._below is not None and self._below.isatty()


@contextmanager
def open_output() -> Iterator[None]:
    """`sys.stdout`, as this module wants it, until the end of the block; flushed there.

    Raises `OutputError` for what was not taken. What is no file, a test's for example, stays.
    """
    before = sys.stdout
    if before is None:
        below, encoding, at_once = None, "utf-8", False
    elif isinstance(before, io.TextIOWrapper):
        below = getattr(before.buffer, "raw", before.buffer)
        encoding, at_once = before.encoding, before.line_buffering or before.write_through
    else:
        yield
        return
    # An escape tells names apart where a question mark would not.
    ours = io.TextIOWrapper(
        io.BufferedWriter(_Raw(below)),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=at_once,
    )
    sys.stdout = ours
    try:
        yield
    finally:
        sys.stdout = before
        try:
            ours.flush()  # here, where its failing can still be answered
        finally:
            ours.detach().detach()


def no_such(what: str, word: str, near: Sequence[str], names: Iterable[str]) -> str:
    """That there is none of that name, which one was meant (the first of `near`), and which there
    are."""
    meant = f"did you mean {near[0]}? There" if near else "there"
    return f"there is no {what} {escaped(word)}; {meant} are: {', '.join(names)}"


def complain(sentence: str) -> None:
    """A line on standard error, if there is one that takes it."""
    if sys.stderr is not None:  # print would take standard output in its place
        with suppress(OSError):
            print(f"{_priority()}arbstr: {sentence}", file=sys.stderr)


def _priority() -> str:
    """What makes a line an error to the journal, if that reads standard error (`logs`)."""
    from arbstr.trio_runtime.lines import is_journal

    with suppress(OSError, ValueError):
        return "<3>" if is_journal(sys.stderr.fileno(), os.environ) else ""
    return ""

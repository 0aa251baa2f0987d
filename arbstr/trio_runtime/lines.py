"""Lines on their way to standard error, which may take nothing for hours and must hold up nobody.

    offer(level, line) --it takes some now--> write(2), at once
                      `--it does not say so, or lines wait--> queue, by level --a thread--> write(2)
                                                                |
                            full: the oldest of the lowest level is dropped; what is written next
                            begins with how many

A pipe whose reader sleeps and a terminal after Ctrl-S stop the thread alone; what is broken (a pipe
without a reader, a full disk) loses lines and no more. The thread is a plain one, because lines
come from every thread, and before and after Trio runs; it begins with the first line that waits.

Why not all by the thread, in batches: to wake 20 times a second takes the interpreter from a thread
that is busy, which costs that more than its write(2) for each line: 30 us a plain request, of 950
(measured on a busy machine at 1000 a second, from nothing to 40 by run).
"""

import errno
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, count
from typing import Final, final

CAPACITY: Final = 10_000
"""Lines kept while nothing can be written: 10 s at 1000 a second, in about 3 MB; picked."""


@final
class LineWriter:
    """The queue, and the thread once there is one. `descriptor` belongs to it from now on.

    `lost` makes the line that says how many were dropped or could not be written.
    """

    def __init__(
        self, descriptor: int, lost: Callable[[int], str], *, capacity: int = CAPACITY
    ) -> None:
        self._descriptor = descriptor
        self._lost = lost
        self._capacity = capacity
        self._takes = _readiness(descriptor)
        # Each line with its number, by level, so that a full queue finds its victim at once.
        self._queue: dict[int, deque[tuple[int, bytes]]] = {}
        self._numbers = count()
        self._queued = 0
        self._dropped = 0
        self._half = False  # the first line in the queue is the rest of one
        self._torn = False  # the last thing written is the beginning of one, whose rest is lost
        self._clear = True  # nothing waits, is being written, is to be told of, or is closed
        self._writing = False  # the thread is
        self._stuck = False
        self._closed = False
        self._begin_alone()

    def _begin_alone(self) -> None:
        self._thread: threading.Thread | None = None
        # Reentrant: the collector may run a finalizer that logs while one of us holds it.
        self._lock = threading.RLock()
        self._wanted = threading.Condition(self._lock)  # the thread waits for it
        self._settled = threading.Condition(self._lock)  # whoever flushes waits for it

    def forked(self) -> None:
        """In a child, before it offers anything: what waits is its parent's to write, and so is the
        thread, which may have held the lock."""
        self._begin_alone()
        self._queue.clear()
        self._queued = self._dropped = 0
        self._half = self._torn = self._writing = self._stuck = False
        self._clear = not self._closed

    def offer(self, level: int, line: str) -> None:
        """Write a line, which ends in a newline, or queue it. Does not wait; never raises."""
        data = line.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._clear and self._takes(len(data)):
                try:
                    written = os.write(self._descriptor, data)
                except OSError:
                    written = 0  # what comes of it is the thread's affair
                if written == len(data):
                    return
                self._half, data = written > 0, data[written:]
            if not self._closed:
                self._enqueue(level, data)

    def flush(self, seconds: float) -> bool:
        """Waits at most so long until all is written, or lost; returns whether it is.

        Once that was in vain it waits no more until something is written again, so that an end
        which flushes in several places waits once.
        """
        with self._lock:
            settled = self._settled.wait_for(self._is_settled, 0 if self._stuck else seconds)
            self._stuck = not settled
            return settled

    def close(self, seconds: float) -> bool:
        """The same, and the end: what is offered from now on is lost."""
        with self._lock:
            settled = self.flush(seconds)
            if not self._closed:
                self._closed, self._clear = True, False
                if self._thread is None:
                    os.close(self._descriptor)
                self._wanted.notify()
            return settled

    def _is_settled(self) -> bool:
        return not (self._queued or self._writing)

    def _enqueue(self, level: int, data: bytes) -> None:
        self._clear = False
        self._queue.setdefault(level, deque()).append((next(self._numbers), data))
        self._queued += 1
        if self._queued > self._capacity:
            lowest = min(level for level, lines in self._queue.items() if lines)
            self._queue[lowest].popleft()
            self._queued -= 1
            self._dropped += 1
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="arbstr log", daemon=True)
            # There may be no thread to be had, or no more. The next line tries again.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread
        self._wanted.notify()

    def _run(self) -> None:
        try:
            while lines := self._take():
                self._write(lines)
        finally:
            os.close(self._descriptor)

    def _take(self) -> Sequence[bytes]:
        """Waits for lines and takes them all, in their order. None: it is time to end."""
        with self._lock:
            self._writing = False
            if not self._queued:
                self._clear = not (self._dropped or self._torn or self._closed)
                self._settled.notify_all()
            self._wanted.wait_for(lambda: self._queued or self._closed)
            lines = [data for _, data in sorted(chain.from_iterable(self._queue.values()))]
            self._queue.clear()
            self._queued = 0
            self._writing = bool(lines)
            return lines

    def _write(self, lines: Sequence[bytes]) -> None:
        """Writes them with one write(2), if all are taken at once."""
        dropped = self._dropped  # grows meanwhile, and that is told of the next time
        # What was dropped was older; and half a line is to end before the next begins.
        head = self._lost(dropped).encode() if dropped else b""
        data = b"".join((b"\n" if self._torn else b"", head, *lines))
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except OSError:
            self._torn = self._torn or self._half or len(rest) < len(data)
            dropped = -len(lines)
        else:
            self._torn = False
        with self._lock:
            self._dropped -= dropped
            self._half = self._stuck = False

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Somebody who shares it with us has made it so.
            select.select((), (self._descriptor,), ())
            return 0


@final
class LogFile:
    """The file that a descriptor appends to, and what it is called, so that another of that name
    can take its place once somebody has moved it: logrotate, without copytruncate.

    Linux alone says what a descriptor's file is called.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.path: str | None = None
        with suppress(OSError, ImportError, AttributeError):
            import fcntl

            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and flags & os.O_APPEND:
                self.path = os.readlink(f"/proc/self/fd/{descriptor}")

    def reopen(self) -> bool:
        """Whether it was moved, and the descriptor, as well as standard output and error if they
        were that file, append to one of its name now. Raises OSError if that cannot be opened."""
        if self.path is None:
            return False
        before = os.fstat(self._descriptor)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self.path), before):
                return False
        # Whoever may write there could have put a link in its place to a file of ours.
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        opened = os.open(self.path, how, stat.S_IMODE(before.st_mode))
        try:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            for number in (1, 2):
                with suppress(OSError):  # it is closed
                    if os.path.samestat(os.fstat(number), before):
                        os.dup2(opened, number)
            os.dup2(opened, self._descriptor, inheritable=False)
        finally:
            os.close(opened)
        return True


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether systemd's journal reads this, which takes `<6>` at the beginning of a line for its
    priority (sd-daemon(3)). The variable alone says nothing: who starts us may have redirected."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _readiness(descriptor: int) -> Callable[[int], bool]:
    """What says whether so many bytes can be written without waiting."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return lambda size: True
    if sys.platform == "win32" or os.isatty(descriptor):
        # A terminal says that it takes some, and may then not take a whole line: one whose
        # network went away, for example, with its buffer nearly full.
        return lambda size: False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    # A pipe that is ready takes so much (POSIX), unless another process fills it in that moment; a
    # socket takes more.
    return lambda size: size <= select.PIPE_BUF and bool(poll.poll(0))

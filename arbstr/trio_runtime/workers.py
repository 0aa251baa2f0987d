"""`run --workers N`: one parent that starts, tells and ends N processes, each a whole arbstr.

    signals --a pair of sockets--> _Parent --Event--> sansio.workers --Command--> fork, a line, kill
    the posts of the workers ----/     `--what siblings say to each other goes through--> posts

The parent binds once, and its workers, which are forks of it, accept from what it bound: so nobody
else can share the port in silence, and who waits to be accepted when a worker dies is accepted by
another. It runs no Trio and starts no thread but the log's, for a process with threads cannot be
forked whole; it serves nobody, opens no ledger, and reads the configuration again at a SIGHUP, so
that a file with a fault is said once and changes no worker, and one that is started later knows
what the others know.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from math import inf
from typing import Any, Final, final

from arbstr.sansio import workers
from arbstr.sansio.config.reader import Config
from arbstr.sansio.fates import Level, Phase, Sign, State, Word
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.routing.gauge import Mark
from arbstr.trio_runtime import main
from arbstr.trio_runtime.logs import configure_logging, log_as_worker, reopen_log
from arbstr.trio_runtime.reload import read_again
from arbstr.trio_runtime.server.listener import bind
from arbstr.trio_runtime.worker import READ_BYTES, Lines, Worker, line_of

log = logging.getLogger("arbstr")

MOST_WAITING: Final = 16_000_000
"""Bytes that may wait for a worker that reads nothing; of what siblings say more is dropped."""

HEARD: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
"""By the parent."""

LEVELS: Final = {
    Level.INFO: logging.INFO,
    Level.WARNING: logging.WARNING,
    Level.ERROR: logging.ERROR,
}


def run(config: Config, options: main.Options, announce: Callable[[str], None]) -> int:
    """Runs `[server] workers` processes until a signal ends them; returns the exit code, in each.

    As `main.run` otherwise. Forks: nothing else may run in this process.
    """
    host, port = config.server.listen_host, config.server.listen_port
    try:
        listening = bind(host, port)
    except OSError as error:
        raise main.cannot_listen(host, port, error) from None
    parent = _Parent(config, options, announce, listening)
    done = parent.run()
    if isinstance(done, int):
        return done
    # Ctrl-C reaches every process of a terminal, and is the parent's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is watched for
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
    return main.run(parent.config, replace(options, worker=done), lambda url: done.ready())


@final
@dataclass(slots=True, eq=False)
class _Seat:
    """A worker that lives: its process, and our end of its post."""

    worker: int
    pid: int
    post: socket.socket
    lines: Lines = field(default_factory=Lines)
    waiting: bytearray = field(default_factory=bytearray)


@final
class _Parent:
    """Owns the sockets, hears the signals, and does what `sansio.workers` says."""

    def __init__(
        self,
        config: Config,
        options: main.Options,
        announce: Callable[[str], None],
        listening: list[socket.socket],
    ) -> None:
        self.config = config
        self._read = options.read
        self._announce = announce
        self._listening = listening
        self._workers = workers.Workers(config.server.workers, config.server.shutdown_seconds)
        self._served = False
        self._seats: dict[int, _Seat] = {}
        self._nodes: list[tuple[str, str]] = []
        self._marks: set[tuple[int, str, Mark]] = set()
        self._selector = selectors.DefaultSelector()
        self._todo: deque[workers.Command] = deque()

    def run(self) -> int | Worker:
        """Until all is over: the exit code. In a worker that was forked: that worker."""
        gc.collect()
        gc.freeze()  # or the first collection of each worker copies all that they could share
        with self._heard() as heard:
            self._todo += self._workers.start()
            while True:
                while self._todo:
                    done = self._do(self._todo.popleft())
                    if done is not None:
                        return done
                self._wait(heard)

    # -- what happens

    @contextmanager
    def _heard(self) -> Iterator[socket.socket]:
        """Signals as bytes to be read, in their order; as they were handled before at the end, in a
        worker too."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ)
        before = {number: signal.signal(number, _to_be_read) for number in HEARD}
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            ours.close()
            theirs.close()

    def _wait(self, heard: socket.socket) -> None:
        """For whatever comes next."""
        due = self._workers.due
        seconds = None if due == inf else max(0.0, due - time.monotonic())
        for key, events in self._selector.select(seconds):
            if key.fileobj is heard:
                with suppress(BlockingIOError):
                    for number in heard.recv(READ_BYTES):
                        self._signalled(signal.Signals(number))
            else:
                seat: _Seat = key.data
                if events & selectors.EVENT_WRITE:
                    self._write(seat)
                if events & selectors.EVENT_READ:
                    self._read_post(seat)
        if time.monotonic() >= self._workers.due:
            self._happened(workers.Elapsed())

    def _happened(self, event: workers.Event) -> None:
        if self._workers.phase is not Phase.ENDED:
            self._todo += self._workers.handle(event, time.monotonic())

    def _signalled(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGCHLD:
                for seat in list(self._seats.values()):
                    pid, status = os.waitpid(seat.pid, os.WNOHANG)
                    if pid:
                        self._ended(seat, os.waitstatus_to_exitcode(status))
            case signal.SIGHUP:
                self._happened(workers.Signalled(Sign.RELOAD, number.name))
            case _:
                self._happened(workers.Signalled(Sign.STOP, number.name))

    def _ended(self, seat: _Seat, code: int) -> None:
        del self._seats[seat.worker]
        self._leave(seat)
        self._happened(workers.Ended(seat.worker, code, f"(pid {seat.pid}) {_how(code)}"))

    def _read_post(self, seat: _Seat) -> None:
        try:
            data = seat.post.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave(seat)  # it ends; SIGCHLD says how
            return
        self._happened(workers.Heard(seat.worker))
        for message in seat.lines.feed(data):
            self._carry(seat, message)

    def _carry(self, seat: _Seat, message: dict[str, Any]) -> None:
        """What a worker says, to whom it is for."""
        match message:
            case {"beat": _}:
                pass  # to be heard is all
            case {"ready": _}:
                self._happened(workers.Ready(seat.worker))
            case {"ask": number, "what": what}:
                states = self._workers.states
                for other in self._seats.values():
                    if other is not seat and states[other.worker] is State.SERVING:
                        self._send(other, {"ask": number, "from": seat.worker, "what": what})
                self._send(seat, {"who": number, "workers": self._who()})
            case {"told": _, "to": sibling}:
                if sibling in self._seats:
                    self._send(self._seats[sibling], message)
            case {"node": [name, url]}:
                if (name, url) not in self._nodes:
                    self._nodes.append((name, url))
                self._send_siblings(seat, message)
            case {"mark": [day, limit, mark], "line": line}:
                self._mark(day, limit, Mark[mark], line)
            case {"stored": _}:
                self._send_siblings(seat, message)
            case _:
                log.error("worker %d says what nobody understands", seat.worker)

    def _mark(self, day: int, limit: str, mark: Mark, line: str) -> None:
        """How far the day of all has come: said once, and not that it is nearly over once it is."""
        known = {told for *of, told in self._marks if of == [day, limit]}
        if mark not in known and Mark.ALL not in known:
            log.warning("%s", line)
        self._marks = {each for each in self._marks if each[0] == day} | {(day, limit, mark)}

    def _who(self) -> list[dict[str, Any]]:
        found = []
        for worker, state in self._workers.states.items():
            seat = self._seats.get(worker)
            found.append({"worker": worker, "pid": seat and seat.pid, "state": state.value})
        return found

    # -- what is done

    def _do(self, command: workers.Command) -> int | Worker | None:
        match command:
            case workers.Start(number):
                return self._start(number)
            case workers.Tell(word, why):
                self._tell(word, why)
            case workers.Kill(worker):
                for seat in self._seats.values():
                    if worker in (None, seat.worker):
                        os.kill(seat.pid, signal.SIGKILL)
            case workers.Announce():
                self._served = True
                self._announce(main.base_url(self._listening[0].getsockname()))
            case workers.Say(level, sentence):
                log.log(LEVELS[level], "%s", sentence)
            case workers.Leave(code):
                if self._served:
                    log.info("stopped")
                return code
        return None

    def _start(self, number: int) -> Worker | None:
        """Forks. In the child: the worker it is."""
        sys.stdout.flush()  # or what waits there is printed twice
        ours, theirs = socket.socketpair()
        # A signal between fork and the child's own handlers would be taken for one of ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
            ours.close()
            theirs.close()
            self._happened(workers.Ended(number, -1, f"cannot be started ({error.strerror})"))
            return None
        if pid == 0:
            return self._become(number, ours, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        theirs.close()
        ours.setblocking(False)
        seat = self._seats[number] = _Seat(number, pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, seat)
        log.info("worker %d is started: pid %d", number, pid)
        return None

    def _become(self, number: int, ours: socket.socket, theirs: socket.socket) -> Worker:
        """In a child: lets go of all that is the parent's."""
        log_as_worker(number)
        ours.close()
        for seat in self._seats.values():
            seat.post.close()
        self._selector.close()
        return Worker(number, self._listening, theirs, self._nodes)

    def _tell(self, word: Word, why: str) -> None:
        match word:
            case Word.STOP:
                for each in self._listening:
                    each.close()  # or who connects now waits until the last worker is gone
                log.info("%s: the workers are told to stop", why)
            case Word.RELOAD:
                reopen_log()
                found = None if self._read is None else read_again(self._read, self.config)
                if found is None:
                    return
                reading, changes, snapshot = found
                self.config = changes.config
                configure_logging(
                    reading.level, self.config.logging.format, snapshot.catalog.secrets
                )
            case Word.HURRY:
                pass
        for seat in self._seats.values():
            self._send(seat, {"word": word.value, "why": why}, always=True)

    # -- the posts

    def _send(self, seat: _Seat, message: dict[str, Any], *, always: bool = False) -> None:
        data = line_of(message)
        if always or len(seat.waiting) + len(data) <= MOST_WAITING:
            seat.waiting += data
            self._write(seat)

    def _send_siblings(self, seat: _Seat, message: dict[str, Any]) -> None:
        for other in self._seats.values():
            if other is not seat:
                self._send(other, message)

    def _write(self, seat: _Seat) -> None:
        if seat.post.fileno() < 0:
            return  # it has closed its end
        try:
            sent = seat.post.send(seat.waiting)
        except BlockingIOError:
            sent = 0
        except OSError:
            seat.waiting.clear()
            return  # it ends; SIGCHLD says how
        del seat.waiting[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if seat.waiting else 0)
        self._selector.modify(seat.post, events, seat)

    def _leave(self, seat: _Seat) -> None:
        if seat.post.fileno() >= 0:
            self._selector.unregister(seat.post)
            seat.post.close()


def _how(code: int) -> str:
    """A process ended, as a predicate; `code` is less than 0 by a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"  # one of the many without a name


def _to_be_read(number: int, frame: object) -> None:
    """The number goes to the wakeup descriptor."""

"""`python -m MODULE` without its imports: forked from a process that has made them already.

    tests --arguments, directory, environment, files--> zygote --fork--> keeper --fork--> child
      ^--------- its process id, and the code it ended with ---------------/

Importing takes an `arbstr run` half a second of processor, which is most of what many a test costs.
A child of the zygote is a process like any other (its own id, signals, files, memory, end), but the
interpreter was not started for it. What is about that start (most of `PYTHON...`, a standard stream
that is closed, a limit set before) is tested with a real one: `begin` tells them apart.

The keeper waits for the child, whose parent the tests are not, and lets its process id be taken
again when nobody means it any more.
"""

import atexit
import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias, final

REQUEST_BYTES: Final = 128 * 1024
"""The most of arguments and environment; a packet of this size passes through any socket pair."""

WORD_BYTES: Final = 32
"""More than a number that a keeper tells."""

HEEDED: Final = ("PYTHON", "LC_", "LANG")
"""How names of variables begin that are read when an interpreter starts."""

DONE_HERE: Final = frozenset(
    {"PYTHONFAULTHANDLER", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONPATH"}
)
"""Those of them that a child of the zygote heeds as well, the last for a `sitecustomize` there."""


MAINS: Final = {"arbstr": "arbstr.cli.commands", "tests.fakes": "tests.fakes"}
"""The modules there are, and where the `main` of each is."""


def _is_possible(environ: Mapping[str, str]) -> bool:
    """Whether a child with this environment is what a fresh interpreter would be."""

    def heeded(environ: Mapping[str, str]) -> dict[str, str]:
        named = ((name, value) for name, value in environ.items() if name.startswith(HEEDED))
        return {name: value for name, value in named if value and name not in DONE_HERE}

    # Elsewhere than on Linux there is no fork, or one that system libraries do not outlive.
    return sys.platform == "linux" and heeded(environ) == heeded(os.environ)


@final
class Child:
    """What the tests see of a child; its methods are those of `subprocess.Popen`."""

    def __init__(self, keeper: socket.socket) -> None:
        self._keeper = keeper
        self.returncode: int | None = None
        self.pid: Final = int(keeper.recv(WORD_BYTES))

    def poll(self) -> int | None:
        """The code it ended with; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; the code, or minus the signal. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self._keeper.settimeout(timeout)
            try:
                said = self._keeper.recv(WORD_BYTES)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("arbstr", timeout or 0) from None
            assert said, "the keeper was killed"
            self.returncode = int(said)
            self._keeper.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """If it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once."""
        self.send_signal(signal.SIGKILL)


Process: TypeAlias = subprocess.Popen[bytes] | Child


def begin(
    module: str,
    arguments: Sequence[str],
    *,
    directory: Path,
    environ: Mapping[str, str],
    files: Sequence[int],
    prefix: Sequence[str] = (),
) -> Process:
    """`python -m MODULE ARGUMENTS` with these three open files, which stay open here.

    `prefix` is a command that executes the words after it; that takes an interpreter.
    """
    if prefix or not _is_possible(environ):
        command = [*prefix, sys.executable, "-m", module, *arguments]
        stdin, stdout, stderr = files
        return subprocess.Popen(
            command, cwd=directory, env=environ, stdin=stdin, stdout=stdout, stderr=stderr
        )
    request = json.dumps([MAINS[module], list(arguments), str(directory), dict(environ)]).encode()
    assert len(request) <= REQUEST_BYTES
    keeper, its_end = _packets()
    with its_end:
        socket.send_fds(_zygote(), [request], [*files, its_end.fileno()])
    return Child(keeper)


def _packets() -> tuple[socket.socket, socket.socket]:
    """Two ends; what is sent at once is received at once."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@cache
def _zygote() -> socket.socket:
    """The zygote's socket; it is begun when it is first needed, and ends with this process."""
    ours, its_end = _packets()
    with its_end:
        number = its_end.fileno()
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.zygote", str(number)],
            cwd=Path(__file__).parents[1],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # no terminal, so that a child's own is buffered as a file
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# -- in the zygote -------------------------------------------------------------------------------


def _main(channel: socket.socket) -> int:
    """In the zygote: until the tests are over. In a child: what its `main` returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the tests, and this without a word
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    import arbstr

    modules = (module.name for module in pkgutil.walk_packages(arbstr.__path__, "arbstr."))
    for name in ("tests.fakes", *modules):
        if name != "arbstr.__main__":
            with suppress(ModuleNotFoundError):  # of an extra that is not installed
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection of every child would copy all of it
    while True:
        request, files, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 4)
        if not request:
            return 0
        if os.fork() == 0:
            channel.close()
            *streams, report = files
            _keep(socket.socket(fileno=report), streams)
            name, arguments, directory, environ = json.loads(request)
            _become(directory, environ, streams)
            sys.argv[1:] = arguments
            code: int = importlib.import_module(name).main(arguments)
            return code
        for number in files:
            os.close(number)


def _keep(report: socket.socket, streams: Sequence[int]) -> None:
    """Forks once more, and returns in the child alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        report.close()
        return
    for number in streams:
        os.close(number)
    report.sendall(b"%d" % child)
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    killed = ended.si_code != os.CLD_EXITED
    try:
        report.sendall(b"%d" % (-ended.si_status if killed else ended.si_status))
        report.recv(1)
    finally:
        os.waitpid(child, 0)
        os._exit(0)


def _become(directory: str, environ: Mapping[str, str], streams: Sequence[int]) -> None:
    """What the system and Python do before a module begins."""
    for target, number in enumerate(streams):
        os.dup2(number, target)
        os.close(number)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    sys.stdout = _standard_output(environ)
    if path := environ.get("PYTHONPATH"):
        sys.path[1:1] = path.split(os.pathsep)
        sys.modules.pop("sitecustomize", None)
        with suppress(ModuleNotFoundError):
            importlib.import_module("sitecustomize")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _standard_output(environ: Mapping[str, str]) -> io.TextIOWrapper:
    """As Python makes it of what these two variables say."""
    encoding, _, errors = environ.get("PYTHONIOENCODING", "").partition(":")
    if not encoding:
        encoding, errors = sys.stdout.encoding, sys.stdout.errors or ""
    unbuffered = bool(environ.get("PYTHONUNBUFFERED"))
    below = os.fdopen(1, "wb", 0 if unbuffered else -1, closefd=False)
    return io.TextIOWrapper(below, encoding, errors or "strict", write_through=unbuffered)


if __name__ == "__main__":
    sys.exit(_main(socket.socket(fileno=int(sys.argv[1]))))

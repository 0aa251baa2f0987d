"""The processes of a measurement: started, waited for, fed, and always ended."""

import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final, Self, final

from bench.load import GRACE_SECONDS, Plan, Result

ROOT: Final = Path(__file__).resolve().parent.parent
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 5.0
LAST_LINES: Final = 8
"""How much of the log of a process that ended is shown."""
_READY: Final = re.compile(r"listens on (\S+)")
_PR_SET_PDEATHSIG: Final = 1

CONFIG: Final = """\
[server]
listen = "127.0.0.1:0"
[database]
path = "{folder}/bench.db"
[[providers]]
name = "bench-cheap"
url = "{provider}/v1"
api_key = "sk-bench-cheap"
models = ["{model}", "another-model"]
input_rate = 1
output_rate = 3
base_fee = 1
[[providers]]
name = "bench-dear"
url = "{provider}/v1"
api_key = "sk-bench-dear"
models = ["*"]
input_rate = 10
output_rate = 30
[[policies.rules]]
name = "code"
allowed_models = ["{model}"]
strategy = "cheapest"
max_sats_per_1k_output = 50
keywords = ["code", "function", "implement"]
"""
"""Two providers and a rule, so that there is something to decide. The request log is always on."""


class Broken(Exception):  # noqa: N818 - what a person reads
    """A process did not start, or ended, or does not answer. The text says which and why."""


def _end_with_parent() -> None:
    """Runs in the child: whoever started it was killed, so it ends too (prctl(2), Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@final
class Process:
    """A child process that prints where it listens. What it says on stderr goes to a file."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        try:
            with self._log.open("wb") as log:
                self._popen = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=ROOT,
                    env=dict(environ),
                    start_new_session=True,  # Ctrl-C is ours to handle
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
        except OSError as error:
            raise Broken(f"{name} cannot be started: {command[0]}: {error.strerror}") from None
        self._held = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        popen = self._popen
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        popen.terminate()
        try:
            popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()

    def wait_ready(self) -> str:
        """Where it listens. Raises Broken."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            match = _READY.search(self.read_line(deadline))
            if match is not None:
                return match[1]

    def read_line(self, deadline: float) -> str:
        """The next line of its output. Raises Broken."""
        out = _open(self._popen.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self._held:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise Broken(f"{self.name} did not answer in time{self._last_words()}")
                data = os.read(out.fileno(), 1024 * 1024)
                if not data:
                    raise Broken(f"{self.name} ended{self._last_words()}")
                self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line.decode("utf-8", "replace")

    def write_line(self, line: str) -> None:
        """Raises Broken."""
        pipe = _open(self._popen.stdin)
        try:
            pipe.write(line.encode() + b"\n")
            pipe.flush()
        except OSError:
            raise Broken(f"{self.name} ended{self._last_words()}") from None

    def check(self) -> None:
        """Raises Broken if it has ended."""
        if self._popen.poll() is not None:
            code = self._popen.returncode
            raise Broken(f"{self.name} ended with code {code}{self._last_words()}")

    def _last_words(self) -> str:
        try:
            text = self._log.read_text("utf-8", "replace").strip()
        except OSError:
            text = ""
        text = "\n".join(text.splitlines()[-LAST_LINES:])
        return f"; the end of its log:\n{text}" if text else ""


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # Popen made both
    return pipe


def clean_environment() -> dict[str, str]:
    """Ours without what would change a measurement."""
    unwanted = ("ARBSTR_", "DATABASE_URL", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE")
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(unwanted) and not name.lower().endswith("_proxy")
    }
    environ["PYTHONUNBUFFERED"] = "1"
    return environ


def start_provider(folder: Path, port: int) -> Process:
    """The provider, on that port or, with 0, on any."""
    command = [sys.executable, "-m", "bench.provider", str(port)]
    return Process("provider", command, folder, clean_environment())


def start_floor(folder: Path, provider: str) -> Process:
    """The bare relay."""
    command = [sys.executable, "-m", "bench.floor", provider]
    return Process("floor", command, folder, clean_environment())


def start_arbstr(
    folder: Path, provider: str, model: str, command: Sequence[str], more: Sequence[str] = ()
) -> Process:
    """`arbstr run` with a request log. `command` is what comes before `run`, `more` behind it."""
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder, provider=provider, model=model))
    config.chmod(0o600)
    run = [*command, "run", "-c", str(config), *more]
    return Process("arbstr", run, folder, clean_environment())


@final
class Load:
    """The load generator."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def run(self, plan: Plan) -> Result:
        """Carries out one plan. Raises Broken."""
        self._process.write_line(json.dumps(asdict(plan)))
        # Warm-up, the planned time and the end have each their own limit in there.
        planned = plan.seconds + (plan.ramp or 0.0)
        line = self._process.read_line(time.monotonic() + planned + 3 * GRACE_SECONDS)
        return Result(**json.loads(line))


def start_load(folder: Path) -> Process:
    """The load generator's process."""
    return Process("load", [sys.executable, "-m", "bench.load"], folder, clean_environment())

"""Real `arbstr` processes, for tests of what only a whole process shows. Every call blocks.

A command that ends by itself:

    done = run_arbstr("check", config_text='...', environ={"KEY": "..."})
    assert (done.returncode, done.stderr) == (0, "")

A proxy, in a directory of its own, on a port of its own:

    with arbstr_process(config_text=CONFIG) as process:
        ...  point a client at process.base_url ("http://127.0.0.1:PORT/v1")
        assert process.chat("gpt-4o").status_code == 200
        assert process.stop() == 0          # SIGTERM, and the exit code
    assert [row["status"] for row in process.rows()] == ["ok"]

The child inherits neither the configuration nor the keys nor the proxies of whoever runs the
tests. Every wait fails after `PATIENCE` seconds; leaving the block kills what still runs, and
fails the test if a traceback was printed.
"""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from signal import SIGTERM, Signals
from tempfile import TemporaryDirectory, TemporaryFile
from types import MappingProxyType
from typing import IO, Any, Final, final

import httpx

from tests import zygote
from tests.zygote import Process

PATIENCE: Final = 30.0
"""Seconds a wait lasts before it fails the test; only a broken test ever comes near."""

ONE: Final = """
[[providers]]
name = "alpha"
url = "http://127.0.0.1:9/v1"
models = ["m"]
input_rate = 1
output_rate = 2
"""
"""A configuration whose provider nobody can reach."""

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def clean_environ(more: Mapping[str, str] = NOTHING) -> dict[str, str]:
    """Our environment without anything arbstr or a client library would heed, and `more`."""

    def heeded(name: str) -> bool:
        name = name.upper()
        return name.startswith(("ARBSTR", "OPENAI", "XDG_CONFIG")) or name.endswith(
            ("_PROXY", "DATABASE_URL")
        )

    inherited = {name: value for name, value in os.environ.items() if not heeded(name)}
    nobody = {"XDG_CONFIG_HOME": "/nowhere"}  # not the configuration of whoever runs the tests
    return {**inherited, **nobody, "PYTHONFAULTHANDLER": "1", **more}


def is_stopped(pid: int) -> bool:
    """Whether a process has heeded SIGSTOP; one that has not yet misses the SIGCONT behind it."""
    if sys.platform != "linux":
        return True
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "T"


def run_arbstr(
    *arguments: str,
    config_text: str | None = None,
    environ: Mapping[str, str] = NOTHING,
    directory: Path | None = None,
    patience: float = PATIENCE,
) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, in a directory that is empty but for `config.toml`, or in yours.

    Returns its `returncode`, `stdout` and `stderr`.
    """
    with TemporaryDirectory() as temporary:
        place = directory or Path(temporary)
        if config_text is not None:
            write_config(place, config_text)
        with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
            process = begin(arguments, place, environ, stdout=stdout, stderr=stderr)
            code = ended(process, patience)
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def ended(process: Process, patience: float = PATIENCE) -> int:
    """The exit code of a command that ends by itself."""
    try:
        return process.wait(patience)
    finally:
        process.kill()
        process.wait()


def begin(
    arguments: Sequence[str],
    directory: Path,
    environ: Mapping[str, str] = NOTHING,
    *,
    stdout: int | IO[Any],
    stderr: int | IO[Any],
    prefix: Sequence[str] = (),
) -> Process:
    """`python -m arbstr ARGUMENTS` with these open files, and nothing to read.

    `prefix` is a command that executes the words after it.
    """
    with open(os.devnull) as nothing:
        files = [it if isinstance(it, int) else it.fileno() for it in (nothing, stdout, stderr)]
        return zygote.begin(
            "arbstr",
            arguments,
            directory=directory,
            environ=clean_environ(environ),
            files=files,
            prefix=prefix,
        )


def write_config(directory: Path, text: str) -> Path:
    """`config.toml` as arbstr wants it: readable by its owner alone."""
    path = directory / "config.toml"
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
    return path


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """For what can only be looked at, like a file: looks until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


CHAT_HEAD: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
)
"""The head of a chat request, before the length of its body is filled in."""

_ROWS: Final = "SELECT * FROM requests ORDER BY id"
_ATTEMPTS: Final = (
    "SELECT attempts.* FROM attempts JOIN requests USING (correlation_id) ORDER BY requests.id, n"
)


@final
class _Output:
    """What a child prints, read by a thread, so that its pipe is never full."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._text = ""
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                self._text += line
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def text(self) -> str:
        with self._changed:
            return self._text

    def wait(self, holds: Callable[[str], bool]) -> bool:
        """Until the text is so; False if the child closed its end, or nothing came for long."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or holds(self._text), PATIENCE)
            return holds(self._text)

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._pipe.close()


@final
class ArbstrProcess:
    """A running `arbstr run`. `url` is where it listens, `base_url` what a client is given."""

    def __init__(
        self,
        arguments: Sequence[str],
        directory: Path,
        environ: Mapping[str, str] = NOTHING,
        *,
        prefix: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.database = directory / "arbstr.db"  # set it if the configuration names another
        self.url = ""
        self._left: dict[str, list[dict[str, Any]]] | None = None  # by query, once it is closed
        # Nothing here speaks TLS, and to load whom it trusts takes 40 ms.
        self._client = httpx.Client(trust_env=False, timeout=PATIENCE, verify=False)
        (reading, stdout), (reading_too, stderr) = os.pipe(), os.pipe()
        self._stdout, self._stderr = _Output(os.fdopen(reading)), _Output(os.fdopen(reading_too))
        try:
            self._process = begin(
                arguments, directory, environ, stdout=stdout, stderr=stderr, prefix=prefix
            )
        finally:
            os.close(stdout)
            os.close(stderr)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait_announced(self) -> None:
        """Until it listens. Fails with what it printed if it ends instead."""
        listens = self._stdout.wait(lambda text: "OPENAI_BASE_URL=" in text)
        assert listens, f"arbstr did not start:\n{self.stderr()}"
        self.url = self.stdout().split("listens on ")[1].split()[0]

    # -- asking it ---------------------------------------------------------------------------------

    def chat(
        self,
        model: str = "gpt-4o",
        *,
        headers: Mapping[str, str] = NOTHING,
        said: str = "Hi",
        **more: object,
    ) -> httpx.Response:
        """One chat, read to its end; `more` are members of its body, like `stream=True`."""
        # json.dumps, because httpx refuses half a surrogate pair, and a client may send one.
        body = json.dumps(chat_body(model, said, more)).encode()
        return self.ask("POST", "/v1/chat/completions", headers=headers, content=body)

    @contextmanager
    def open_chat(
        self,
        model: str = "gpt-4o",
        *,
        headers: Mapping[str, str] = NOTHING,
        said: str = "Hi",
        **more: object,
    ) -> Iterator[httpx.Response]:
        """A stream whose head is there and whose body is yours to read; closed by the block."""
        body = chat_body(model, said, {"stream": True, **more})
        with self._client.stream(
            "POST", f"{self.base_url}/chat/completions", headers=headers, json=body
        ) as response:
            yield response

    def send(self, data: bytes) -> socket.socket:
        """A new connection on which these bytes are out; what becomes of it is yours."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(data)
        return connection

    def send_chat(self, model: str = "gpt-4o", **more: object) -> socket.socket:
        """A chat on a connection of its own, for clients that leave or do not read."""
        body = json.dumps(chat_body(model, more=more)).encode()
        return self.send(CHAT_HEAD % len(body) + body)

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] = NOTHING,
        content: bytes | None = None,
    ) -> httpx.Response:
        """Any request of any route. Of a stream that broke off, what came of it."""
        whole = bytearray()
        with self._client.stream(
            method, self.url + path, headers=headers, content=content
        ) as response:
            # After its error event a broken stream has no last chunk.
            with suppress(httpx.RemoteProtocolError):
                for data in response.iter_raw():
                    whole += data
            return httpx.Response(
                response.status_code, headers=response.headers, content=bytes(whole)
            )

    # -- its end -----------------------------------------------------------------------------------

    def send_signal(self, number: Signals) -> None:
        self._process.send_signal(number)

    def stop(self, number: Signals = SIGTERM) -> int:
        """Signals it and waits for its end; returns the exit code (minus the signal, if killed)."""
        self.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Waits for its end; returns the exit code."""
        code = self._process.wait(PATIENCE)
        self._stdout.close()
        self._stderr.close()
        return code

    def close(self) -> None:
        """Kills what still runs, and keeps what the ledger says for `rows` and `attempts`."""
        self._client.close()
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        self._left = {query: self._select(query) for query in (_ROWS, _ATTEMPTS)}

    # -- what it left ------------------------------------------------------------------------------

    def stdout(self) -> str:
        return self._stdout.text()

    def stderr(self) -> str:
        """Everything it has logged so far; after `stop`, everything it ever did."""
        return self._stderr.text()

    def wait_stderr(self, text: str, *, count: int = 1) -> None:
        """Until it has logged this text so many times."""
        found = self._stderr.wait(lambda logged: logged.count(text) >= count)
        assert found, f"{text!r} was not logged {count} times:\n{self.stderr()}"

    def rows(self) -> list[dict[str, Any]]:
        """The table `requests`, oldest first."""
        return self._select(_ROWS)

    def attempts(self) -> list[dict[str, Any]]:
        """The table `attempts`, those of one request together and in order."""
        return self._select(_ATTEMPTS)

    def wait_rows(self, count: int = 1, *, status: str | None = None) -> list[dict[str, Any]]:
        """Until so many requests are over (or have this status); returns all rows.

        A row may be there before its request is over: if that took longer than a batch of rows.
        """

        def counts(found: object) -> bool:
            return found != "in_flight" if status is None else found == status

        def there() -> bool:
            return sum(counts(row["status"]) for row in self.rows()) >= count

        wait_until(there, f"{count} rows of status {status or 'any but in_flight'}")
        return self.rows()

    def wait_final(self, request_id: str) -> dict[str, Any]:
        """The row of a request, once it has its final status."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = (row for row in self.rows() if row["correlation_id"] == request_id)
            return bool(found) and found[0]["status"] != "in_flight"

        wait_until(there, f"the final row of {request_id}")
        return found[0]

    def _select(self, query: str) -> list[dict[str, Any]]:
        """What the ledger has; nothing while there is no file, or no table in it."""
        if self._left is not None:
            return self._left[query]
        if not self.database.is_file():
            return []
        with closing(sqlite3.connect(self.database, timeout=PATIENCE)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                return [dict(row) for row in connection.execute(query)]
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise


def chat_body(
    model: str = "gpt-4o", said: str = "Hi", more: Mapping[str, object] = NOTHING
) -> dict[str, object]:
    """A chat with one message of the user."""
    return {"model": model, "messages": [{"role": "user", "content": said}], **more}


@contextmanager
def arbstr_process(
    *,
    config_text: str | None = None,
    arguments: Sequence[str] = (),
    environ: Mapping[str, str] = NOTHING,
    directory: Path | None = None,
    listen: str = "127.0.0.1:0",
) -> Iterator[ArbstrProcess]:
    """`arbstr run` in a temporary directory (or yours), from announced to ended.

    `config_text` becomes its `./config.toml`; without it pass `--mock`. What the ledger holds at
    the end of the block can be read after it.
    """
    with TemporaryDirectory() as temporary:
        place = directory or Path(temporary)
        if config_text is not None:
            write_config(place, config_text)
        process = ArbstrProcess(["run", "-l", listen, *arguments], place, environ)
        try:
            process.wait_announced()
            yield process
        finally:
            process.close()
        assert "Traceback" not in process.stderr(), process.stderr()

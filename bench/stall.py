"""How much longer a request takes that meets a batch of the log writer's, and what makes it so.

    python bench/stall.py                           # some seconds
    python bench/stall.py --rounds 80 --rows 200    # full batches

The log writer's thread works in Python between its system calls, and whoever else wants the
interpreter waits until it lets go, at most a "turn" (`sys.setswitchinterval`). So a request waits
a turn whenever it has waited for a socket. Measured is a task that is one: it waits 0.3 ms, twice,
as for its client and for its provider, with 0.2 ms of Python behind each, while a thread

    nothing     does nothing at all
    reads       is in system calls (of memory, not of a disk), without the interpreter
    0.5 ms      writes a batch, and keeps the interpreter for `main.TURN_SECONDS`
    5 ms        the same with Python's own interval

one after another in each round, in an order that changes. Shown is what a request waited beyond
its own CPU time and its own time in the machine's queue (Linux tells both of a thread). What the
writer waits in that queue while it has the interpreter is in it: other work makes it longer, and
one run says little.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Final

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arbstr.sansio.ids import RANDOM_BITS, RequestIds
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.moments import format_moment
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.port import Database
from arbstr.trio_runtime.ledger.store import Store
from arbstr.trio_runtime.main import TURN_SECONDS
from tests.records import ATTEMPT, RECORD

WAITS: Final = 2
"""Of a request: for its client, and for its provider."""
WAIT_SECONDS: Final = 0.0003
PYTHON_SECONDS: Final = 0.0002
"""Behind each: a plain request takes about 0.5 ms in all."""
PYTHONS_SECONDS: Final = 0.005
QUIET_SECONDS: Final = 0.02
"""How long the two without a batch are looked at: as long as a batch takes."""


def rows(count: int, ids: RequestIds) -> tuple[Record, ...]:
    """Finished requests with an attempt each."""
    now = format_moment(time.time_ns() // 1_000_000)
    record = replace(RECORD, timestamp=now, attempts=(replace(ATTEMPT, started_at=now),))
    return tuple(
        replace(
            record,
            correlation_id=ids.following(time.time_ns(), random.getrandbits(RANDOM_BITS)),
            latency_ms=random.randrange(2000),
        )
        for _ in range(count)
    )


def busy_seconds(schedstat: int) -> float:
    """What a thread has run, and waited for a processor (proc_pid_schedstat(5))."""
    ran, waited, _ = os.pread(schedstat, 100, 0).split()
    return (int(ran) + int(waited)) / 1e9


def request(schedstat: int) -> float:
    """One; how long it waited that it need not have, in seconds."""
    busy, began = busy_seconds(schedstat), time.perf_counter()
    for _ in range(WAITS):
        time.sleep(WAIT_SECONDS)  # lets go of the interpreter, as epoll does
        until = time.thread_time() + PYTHON_SECONDS
        while time.thread_time() < until:
            pass
    took = time.perf_counter() - began - WAITS * WAIT_SECONDS
    return max(0.0, took - (busy_seconds(schedstat) - busy))


async def requests(waited: list[float]) -> None:
    """One after another, until cancelled; adds what each waited."""
    schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    try:
        while True:
            waited.append(request(schedstat))
            await trio.lowlevel.checkpoint()
    finally:
        os.close(schedstat)


async def beside(what: Callable[[], Awaitable[object]]) -> list[float]:
    """What the requests wait that end while this is done."""
    waited: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(requests, waited)
        await what()
        nursery.cancel_scope.cancel()
    return waited


def read_on(seconds: float) -> None:
    """System calls without any Python to speak of."""
    until = time.monotonic() + seconds
    with open("/dev/zero", "rb", buffering=0) as zeros:
        while time.monotonic() < until:
            zeros.read(16 * 1024 * 1024)


async def measure(database: Database, rounds: int, count: int) -> dict[str, list[float]]:
    """Seconds of waiting, by what was done beside."""
    store, ids = Store(database.boot_id), RequestIds()

    async def write() -> None:
        batch = rows(count, ids)
        written = [row.correlation_id for row in batch]
        await database.transaction(
            lambda session: store.together(batch, session), written=lambda: written
        )

    async def nothing() -> None:
        await trio.sleep(QUIET_SECONDS)

    async def reads() -> None:
        await trio.to_thread.run_sync(read_on, QUIET_SECONDS)

    ways = {
        "nothing": (nothing, TURN_SECONDS),
        "reads": (reads, TURN_SECONDS),
        f"{TURN_SECONDS * 1000:g} ms": (write, TURN_SECONDS),
        f"{PYTHONS_SECONDS * 1000:g} ms": (write, PYTHONS_SECONDS),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    before = sys.getswitchinterval()
    try:
        for _ in range(rounds):
            for name in random.sample(list(ways), len(ways)):
                what, turn = ways[name]
                sys.setswitchinterval(turn)
                found[name] += await beside(what)
    finally:
        sys.setswitchinterval(before)
    return found


async def main(rounds: int, count: int) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory(prefix="arbstr-bench-") as folder:
        async with open_database(os.path.join(folder, "bench.db")) as database:
            found = await measure(database, rounds, count)
    print(f"{'beside':<10}{'requests':>10}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    for name, waited in found.items():
        cuts = quantiles(waited, n=100, method="inclusive")
        shown = (cuts[49], cuts[89], cuts[98], max(waited))
        print(f"{name:<10}{len(waited):>10}" + "".join(f"{each * 1000:>10.2f}" for each in shown))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--rows", type=int, default=50, help="rows of a batch")
    options = parser.parse_args()
    trio.run(main, options.rounds, options.rows)

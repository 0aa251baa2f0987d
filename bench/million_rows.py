"""How long questions to a ledger of a million rows take, and what old rows cost to remove.

    python bench/million_rows.py [--rows N] [--days N] [--rounds N] [--directory PATH]
    python bench/million_rows.py --postgres [URL]

Makes the rows in a temporary directory (about 650 MB for a million of them and their attempts),
spread evenly over 30 days, and asks as commands do: each time over a new read-only connection.
Prints the median and the longest of the rounds in ms, and the CPU time, which other work on the
machine does not change; the exit code is 1 if a median is over `LIMIT_MS`.

With `--postgres` the ledger is then moved there, to an empty database or one of a server that the
tests' means start (tests/postgres.py), asked the same, and its answers are compared byte for byte,
with those to `MORE` questions thrown by dice. Its CPU time is the server's own affair.
"""

import argparse
import json
import os
import platform
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arbstr.sansio.ledger.reports import Filters, Group, Names, RequestsQuery, Sort, StatsQuery
from arbstr.sansio.moments import DAY_MS, HOUR_MS, Span, format_moment
from arbstr.trio_runtime.ledger.database import open_for_reading
from arbstr.trio_runtime.ledger.move import move
from arbstr.trio_runtime.ledger.port import Session
from arbstr.trio_runtime.ledger.reports import read_report, read_requests
from arbstr.trio_runtime.ledger.retention import BATCH_ROWS, Retention
from arbstr.trio_runtime.ledger.sqlite import SqliteDatabase, open_sqlite

LIMIT_MS: Final = 300.0
"""What a question about 30 days of a million rows may take."""

POSTGRES_BUFFERS: Final = "128MB"
"""What PostgreSQL comes with."""

NOW: Final = 1_770_091_506_789
MODELS: Final = ("gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet", "deepseek-r1", "llama-3.3-70b")
PROVIDERS: Final = ("alpha", "beta", "gamma")
POLICIES: Final = (None, "code_generation", "chat")
STATUSES: Final = ("ok", "failed", "rejected", "client_disconnected", "stream_incomplete")
OFTEN: Final = (90, 3, 2, 3, 2)
"""Percent of the statuses."""
FAILURES: Final = {
    "failed": ("server_error", "free"),
    "client_disconnected": ("client_left", "unknown"),
    "stream_incomplete": ("stream_cut", "spent"),
}
"""What became of the attempt, and of its money, where it brought no answer."""

REQUEST: Final = """INSERT INTO requests (
    correlation_id, timestamp, model, requested_model, provider, policy, streaming, input_tokens,
    output_tokens, cost_sats, estimated_cost_sats, latency_ms, ttft_ms, stream_duration_ms, success,
    status, answered, attempts, possibly_spent, boot_id
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'bench')"""

ATTEMPT: Final = """INSERT INTO attempts (
    correlation_id, n, provider, model, started_at, duration_ms, failure, http_status, money,
    input_tokens, output_tokens, cost_sats, estimated_cost_sats
) VALUES (?, 1, ?, ?, ?, ?, ?, 200, ?, ?, ?, ?, ?)"""


def make_rows(count: int, days: int) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Requests in the order of their time, each with its attempt. Always the same."""
    dice = random.Random(count)
    for n in range(count):
        timestamp = format_moment(NOW - days * DAY_MS + days * DAY_MS * n // count)
        model, provider = dice.choice(MODELS), dice.choice(PROVIDERS)
        status = dice.choices(STATUSES, OFTEN)[0]
        stream = dice.random() < 0.5
        tokens = (dice.randint(10, 5000), dice.randint(1, 2000)) if status == "ok" else (None, None)
        cost = dice.random() * 10 if status == "ok" else None
        failure, money = FAILURES.get(status, (None, "spent"))
        answered, lost = status == "ok", failure is not None and money != "free"
        latency = int(dice.lognormvariate(7.5, 0.9))
        first = latency // 4 if stream else None
        correlation_id = f"{dice.getrandbits(128):032x}"
        estimate = dice.random() * 10
        yield (
            (
                *(correlation_id, timestamp, model, model, provider, dice.choice(POLICIES), stream),
                *(*tokens, cost, estimate, latency, first, first, answered, status, answered),
                *(status != "rejected", lost),
            ),
            (
                *(correlation_id, provider, model, timestamp, latency),
                *(failure, money, *tokens, cost, estimate),
            ),
        )


def fill(connection: Session, count: int, days: int) -> None:
    """All rows, in batches as large as a log writer never has them."""
    batch: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []

    def write() -> None:
        for request, attempt in batch:
            connection.execute(REQUEST, request)
            connection.execute(ATTEMPT, attempt)
        batch.clear()

    for row in make_rows(count, days):
        batch.append(row)
        if len(batch) == 10_000:
            write()
    write()


def questions() -> dict[str, Callable[[Session], object]]:
    """What is asked, by how it is shown."""
    names = Names(frozenset(MODELS), frozenset(PROVIDERS), frozenset(filter(None, POLICIES)))

    def last(
        ms: int, model: str | None = None, provider: str | None = None, policy: str | None = None
    ) -> Filters:
        return Filters(Span(NOW - ms - 1234, NOW - 1234), model, provider, policy)

    month = last(30 * DAY_MS)

    def stats(filters: Filters, group: Group | None = None) -> Callable[[Session], Any]:
        return partial(read_report, query=StatsQuery(filters, group), configured=names)

    def page(query: RequestsQuery) -> Callable[[Session], Any]:
        return partial(read_requests, query=query, configured=names)

    return {
        "stats, 30 days": stats(month),
        **{f"stats, 30 days, by {group}": stats(month, group) for group in Group},
        "stats, 30 days, one model": stats(last(30 * DAY_MS, model="gpt-4o")),
        "stats, 30 days, one of everything": stats(
            last(30 * DAY_MS, model="gpt-4o", provider="beta", policy="chat")
        ),
        "stats, 7 days": stats(last(7 * DAY_MS)),
        "stats, 24 hours": stats(last(DAY_MS)),
        "stats, 1 hour": stats(last(HOUR_MS)),
        "requests, the last": page(RequestsQuery(month)),
        "requests, the dearest": page(RequestsQuery(month, sort=Sort.COST)),
        "requests, the slowest": page(RequestsQuery(month, sort=Sort.LATENCY)),
        "requests, those that failed": page(RequestsQuery(month, status="failed")),
        "requests, one provider's": page(RequestsQuery(last(30 * DAY_MS, provider="beta"))),
        "requests, page 5000": page(RequestsQuery(month, page=5000)),
    }


def measure(place: str, rounds: int) -> bool:
    """Asks everything; returns whether all was in time."""
    in_time = True
    print(f"\n{'question':40} {'median':>8} {'longest':>8} {'CPU':>8} ms")
    for what, ask in questions().items():
        took, cpu = [], []
        for _ in range(rounds):
            begin, began = time.perf_counter(), time.process_time()
            with open_for_reading(place) as session:
                ask(session)
            took.append((time.perf_counter() - begin) * 1000)
            cpu.append((time.process_time() - began) * 1000)
        late = median(took) > LIMIT_MS
        in_time &= not late
        mark = f"  over {LIMIT_MS:.0f}" if late else ""
        print(
            f"{what:40} {median(took):8.1f} {max(took):8.1f} {median(cpu):8.1f}{mark}", flush=True
        )
    return in_time


MORE: Final = 300
"""Questions thrown by dice, for the comparison."""


def thrown(number: int) -> Callable[[Session], object]:
    """One of them: a span, some filters, and a group or a page."""
    dice = random.Random(number)
    ends = sorted(NOW - dice.randrange(31 * DAY_MS) for _ in range(2))
    filters = Filters(
        Span(ends[0], ends[1] + 1),
        model=dice.choice((None, *MODELS)),
        provider=dice.choice((None, *PROVIDERS)),
        policy=dice.choice(POLICIES),
    )
    names = Names(frozenset(MODELS), frozenset(PROVIDERS), frozenset(filter(None, POLICIES)))
    if dice.random() < 0.5:
        query = StatsQuery(filters, dice.choice((None, *Group)))
        return partial(read_report, query=query, configured=names)
    page = RequestsQuery(
        filters,
        success=dice.choice((None, True, False)),
        streaming=dice.choice((None, True, False)),
        status=dice.choice((None, *STATUSES)),
        page=dice.choice((1, 2, 50)),
        per_page=dice.choice((1, 20, 100)),
        sort=dice.choice(tuple(Sort)),
        descending=dice.random() < 0.5,
    )
    return partial(read_requests, query=page, configured=names)


def compare(one: str, other: str) -> bool:
    """Whether two ledgers answer everything with the same bytes; says where they do not."""
    asked = {**questions(), **{f"thrown {n}": thrown(n) for n in range(MORE)}}
    differ = 0
    with open_for_reading(one) as first, open_for_reading(other) as second:
        for what, ask in asked.items():
            if json.dumps(ask(first), default=repr) != json.dumps(ask(second), default=repr):
                print(f"not the same: {what}")
                differ += 1
    print(f"\n{len(asked) - differ} of {len(asked)} answers are the same, byte for byte")
    return not differ


async def move_and_measure(path: str, url: str, rounds: int) -> bool:
    """The same in PostgreSQL."""
    begin = time.perf_counter()
    moved = await move(path, url, lambda *_: None)
    took = time.perf_counter() - begin
    rows = moved.sums.rows["requests"] + moved.sums.rows["attempts"]
    print(f"\nmoved to PostgreSQL: {rows:,} rows in {took:.0f} s")
    in_time = measure(url, rounds)
    return compare(path, url) and in_time


async def remove(database: SqliteDatabase, count: int, days: int) -> None:
    """Times the batches of a retention, beside nothing else."""
    retention = Retention(database, days)
    took = []
    for n in range(1, min(10, count // BATCH_ROWS) + 1):
        oldest = NOW - days * DAY_MS + days * DAY_MS * n * BATCH_ROWS // count
        begin = time.perf_counter()
        removed = await retention.sweep(oldest, pause=0)
        took.append((time.perf_counter() - begin) * 1000)
        assert removed == BATCH_ROWS
    print(
        f"\na batch of {BATCH_ROWS} old rows leaves in {median(took):.0f} ms"
        f" (median of {len(took)})"
    )


async def run(options: argparse.Namespace, directory: Path) -> bool:
    """Makes, asks, removes."""
    path = str(directory / "arbstr.db")
    async with open_sqlite(path) as database:
        begin = time.perf_counter()
        await database.transaction(partial(fill, count=options.rows, days=options.days))
        took = time.perf_counter() - begin
        print(_described(options, took, database.path))
        in_time = measure(database.path, options.rounds)
    if options.postgres is not None:
        with ExitStack() as stack:
            url = options.postgres
            os.environ["XDG_STATE_HOME"] = str(directory)
            if not url:
                from tests.postgres import running_postgres

                server = stack.enter_context(running_postgres(POSTGRES_BUFFERS))
                url = server.url("million")
            in_time &= await move_and_measure(path, url, options.rounds)
    async with open_sqlite(path) as database:
        await remove(database, options.rows, options.days)
    return in_time


def _described(options: argparse.Namespace, took: float, path: str) -> str:
    each, size = took / options.rows * 1e6, os.path.getsize(path) / 1e6
    return (
        f"{options.rows:,} requests over {options.days} days, written in {each:.0f} us each, "
        f"{size:.0f} MB; SQLite {sqlite3.sqlite_version}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores"
    )


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Times questions to a large ledger.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--directory", type=Path, help="where to make it (default: a temporary one)"
    )
    parser.add_argument(
        "--postgres", nargs="?", const="", metavar="URL", help="the same there, and compare"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        return 0 if trio.run(run, options, Path(directory)) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What more processes are good for: `arbstr run --workers N` beside one process, interleaved.

    python bench/workers.py [--workers N] [--rounds N] [--seconds S] [--connections N ...]

All of them run at once, on ledgers of their own, and are idle when they are not measured. In every
round each is measured once, right after another. Load generator and provider need CPU as well, so a
machine with no more cores than workers shows little gain in requests a second; CPU a request, of
all processes together, is what a worker costs anywhere. Printed are the best rounds and the median.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clock import listeners, megabytes
from bench.load import Plan, Result
from bench.processes import Broken, Load, start_arbstr, start_load, start_provider
from bench.wire import PATHS, Order

MODEL: Final = "bench"
START_SECONDS: Final = 0.5
"""After the first worker serves, until the others do."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python bench/workers.py",
        description="Measures arbstr with several workers beside arbstr with one.",
    )
    out.add_argument("--workers", type=int, nargs="+", default=[2], metavar="N")
    out.add_argument("--rounds", type=int, default=8, metavar="N")
    out.add_argument("--seconds", type=float, default=2.0, metavar="S")
    out.add_argument("--connections", type=int, nargs="+", default=[8, 64], metavar="N")
    return out


def run(options: argparse.Namespace) -> int:
    """Measures and prints. Raises Broken; 1 if an answer was not as ordered."""
    counts: Sequence[int] = [1, *options.workers]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arbstr-bench-")))
        provider = stack.enter_context(start_provider(folder, 0))
        url = provider.wait_ready()
        generator = stack.enter_context(start_load(folder))
        generator.wait_ready()
        load, plans = Load(generator), {}
        for count in counts:
            place = folder / str(count)
            place.mkdir()
            more = ("--workers", str(count))
            arbstr = stack.enter_context(
                start_arbstr(place, url, MODEL, (sys.executable, "-m", "arbstr"), more)
            )
            parts = urlsplit(arbstr.wait_ready())
            pids = wait_workers(arbstr.pid, parts.port or 80, count)
            plans[count] = Plan(
                parts.hostname or "127.0.0.1",
                parts.port or 80,
                "/v1" + PATHS["chat"],
                (),
                MODEL,
                connections=1,
                request_bytes=1000,
                order=Order(answer=1000),
                seconds=options.seconds,
                pids=pids,
            )
        print(
            "| connections | workers | requests/s, best | median | CPU us/request, best | median |"
        )
        print("|---|---|---|---|---|---|")
        wrong = 0
        for connections in options.connections:
            results: dict[int, list[Result]] = {count: [] for count in counts}
            for number in range(options.rounds):
                for at in range(len(counts)):
                    count = counts[(number + at) % len(counts)]
                    result = load.run(replace(plans[count], connections=connections))
                    results[count].append(result)
                    wrong += result.errors
            for count in counts:
                print(line(connections, count, results[count]), flush=True)
        for count in counts:
            print(
                f"memory of {count}: {megabytes(plans[count].pids, 'VmRSS') or 0:.0f} MB resident"
            )
    return 1 if wrong else 0


def wait_workers(parent: int, port: int, count: int) -> tuple[int, ...]:
    """The processes that listen, the parent among them. Raises Broken."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pids = tuple(sorted({parent, *listeners(port)}))
        if len(pids) == (count + 1 if count > 1 else 1):
            time.sleep(START_SECONDS)
            return pids
        time.sleep(0.05)
    raise Broken(f"{count} workers did not start")


def line(connections: int, count: int, results: Sequence[Result]) -> str:
    """A row of the table."""
    rates = [result.count / result.seconds for result in results]
    costs = [result.cpu * 1e6 / result.count for result in results if result.cpu and result.count]
    return (
        f"| {connections} | {count} | {max(rates):.0f} | {median(rates):.0f} "
        f"| {min(costs, default=0):.0f} | {median(costs or [0]):.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        return run(parser().parse_args(arguments))
    except Broken as error:
        print(f"workers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

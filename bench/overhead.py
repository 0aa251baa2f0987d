"""What arbstr costs, beside a bare relay and beside other gateways. See README.md.

python bench/overhead.py             everything, about ten minutes
python bench/overhead.py --quick     a first idea, about two minutes
python bench/overhead.py plain-1k    the scenarios whose names begin so
"""

import argparse
import ipaddress
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clock import listeners, megabytes
from bench.load import SETTLE_SECONDS, Plan
from bench.measure import DIRECT, FLOOR, Measured, Target, run_rounds
from bench.processes import (
    Broken,
    Load,
    Process,
    start_arbstr,
    start_floor,
    start_load,
    start_provider,
)
from bench.report import Progress, as_json, plot, table
from bench.scenarios import LASTS, SCENARIOS, Scenario, chosen, shortened
from bench.wire import PATHS, Order

ARBSTR: Final = "arbstr"
QUICK_ROUNDS: Final = 2
QUICK_SECONDS: Final = 0.3
SOAK_STEPS: Final = 20
SOAK_SECONDS: Final = 600.0
"""The longest one step of a soak may take."""


@final
@dataclass(frozen=True, slots=True)
class Peer:
    """Another gateway, running already."""

    name: str
    url: str
    headers: tuple[tuple[str, str], ...]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python bench/overhead.py",
        description="Measures what arbstr adds to a request, next to a bare relay (the floor).",
        epilog="Scenarios: " + ", ".join(scenario.name for scenario in SCENARIOS),
    )
    out.add_argument("scenario", nargs="*", help="names, or beginnings of names (default: all)")
    out.add_argument("--quick", action="store_true", help="few short rounds, at most 64 at once")
    out.add_argument("--rounds", type=_count(1000), metavar="N", help="rounds of each scenario")
    out.add_argument("--seconds", type=_seconds, metavar="S", help="what is counted in a round")
    out.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    out.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="measure another gateway on loopback; the URL is what an SDK takes as base URL",
    )
    out.add_argument(
        "--peer-header",
        action="append",
        default=[],
        metavar="NAME=HEADER: VALUE",
        help="send it a header; {provider} in the value is the provider's base URL",
    )
    out.add_argument(
        "--provider-port", type=_count(65535), default=0, help="for peers configured beforehand"
    )
    out.add_argument("--model", default="bench", help="the model that is asked for")
    out.add_argument(
        "--arbstr",
        default=f"{shlex.quote(sys.executable)} -m arbstr",
        metavar="COMMAND",
        help="which arbstr is measured (default: this one)",
    )
    out.add_argument(
        "--soak",
        type=_count(10_000_000),
        metavar="N",
        help="instead of scenarios: N plain requests, and how memory grows",
    )
    return out


def _count(most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        number = int(text)
        if not 1 <= number <= most:
            raise ValueError  # argparse names the option and the text
        return number

    count.__name__ = f"number from 1 to {most}"  # what argparse calls it in its error
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.01 <= seconds <= 60:
        raise ValueError
    return seconds


_seconds.__name__ = "number of seconds from 0.01 to 60"


def parse_peers(peers: Sequence[str], headers: Sequence[str]) -> tuple[Peer, ...]:
    """Raises ValueError with a sentence for a person."""
    found: dict[str, Peer] = {}
    for text in peers:
        name, _, url = text.partition("=")
        parts = urlsplit(url)
        if not name or parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"--peer {text}: write NAME=http://127.0.0.1:PORT/v1")
        if not _is_loopback(parts.hostname):
            raise ValueError(f"--peer {text}: only loopback is measured")
        if name in (DIRECT, FLOOR, ARBSTR) or name in found:
            raise ValueError(f"--peer {text}: the name is taken")
        found[name] = Peer(name, url.rstrip("/"), ())
    for text in headers:
        name, _, header = text.partition("=")
        key, colon, value = header.partition(":")
        if name not in found or not colon:
            raise ValueError(f"--peer-header {text}: write NAME=HEADER: VALUE for a --peer NAME")
        peer = found[name]
        found[name] = replace(peer, headers=(*peer.headers, (key.strip(), value.strip())))
    return tuple(found.values())


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def target(
    name: str, url: str, pids: tuple[int, ...], headers: tuple[tuple[str, str], ...] = ()
) -> Target:
    """A target from the base URL an SDK would take."""
    parts = urlsplit(url)
    return Target(name, parts.hostname or "127.0.0.1", parts.port or 80, parts.path, pids, headers)


@final
class Bench:
    """Everything that runs, and its targets. Use it in a `with`; the processes end with it."""

    def __init__(self, options: argparse.Namespace, peers: tuple[Peer, ...]) -> None:
        self._options = options
        self._peers = peers
        self._stack = ExitStack()
        self.targets: list[Target] = []
        self.idle_mb: float | None = None
        self.load: Load
        self.provider: Process
        self.arbstr: Process

    def __enter__(self) -> "Bench":
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        options = self._options
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arbstr-bench-")))
        self.provider = stack.enter_context(start_provider(folder, options.provider_port))
        provider = self.provider.wait_ready()
        floor = stack.enter_context(start_floor(folder, provider))
        self.arbstr = stack.enter_context(
            start_arbstr(folder, provider, options.model, shlex.split(options.arbstr))
        )
        load = stack.enter_context(start_load(folder))
        load.wait_ready()
        self.load = Load(load)
        arbstr = self.arbstr.wait_ready()
        self.idle_mb = megabytes([self.arbstr.pid], "VmRSS")
        self.targets = [
            target(DIRECT, provider + "/v1", ()),
            target(FLOOR, floor.wait_ready() + "/v1", (floor.pid,)),
            target(ARBSTR, arbstr + "/v1", (self.arbstr.pid,)),
        ]
        for peer in self._peers:
            headers = tuple(
                (name, value.replace("{provider}", provider + "/v1"))
                for name, value in peer.headers
            )
            pids = listeners(urlsplit(peer.url).port or 80)
            self.targets.append(target(peer.name, peer.url, pids, headers))

    def measure(self, scenarios: Sequence[Scenario]) -> list[tuple[Scenario, list[Measured]]]:
        """Measures and prints the tables. Raises Broken."""
        total = sum(_planned(s) * s.rounds * len(self.targets) for s in scenarios)
        progress, done = Progress(total), 0.0
        results = []
        for scenario in scenarios:

            def step(text: str, scenario: Scenario = scenario) -> None:
                nonlocal done
                progress.show(done, text)
                done += _planned(scenario)

            measured = run_rounds(
                scenario,
                self.targets,
                self.load,
                model=self._options.model,
                provider_pid=self.provider.pid,
                progress=step,
            )
            results.append((scenario, measured))
            progress.clear()
            print(table(scenario, measured), flush=True)
            self.arbstr.check()
        return results

    def soak(self, requests: int) -> list[tuple[int, float | None]]:
        """Many plain requests through arbstr: its memory (MB) after each part. Raises Broken."""
        mine = next(t for t in self.targets if t.name == ARBSTR)
        progress, grown = Progress(float(requests)), [(0, self.idle_mb)]
        plan = Plan(
            mine.host,
            mine.port,
            mine.path + PATHS["chat"],
            (),
            self._options.model,
            connections=8,
            request_bytes=1000,
            order=Order(answer=1000),
            seconds=SOAK_SECONDS,
            pids=mine.pids,
        )
        done = 0
        while done < requests:
            progress.show(float(done), f"soak: {done} requests")
            part = min(requests - done, -(-requests // SOAK_STEPS), plan.limit)
            result = self.load.run(replace(plan, limit=part))
            self.arbstr.check()
            if result.errors or not result.count:
                raise Broken(f"after {done} requests: {result.error or 'nothing was answered'}")
            done += result.count
            grown.append((done, megabytes(mine.pids, "VmRSS")))
            progress.clear()
            print(f"  {done:>9} requests  {grown[-1][1] or 0:6.1f} MB", flush=True)
        return grown


def _planned(scenario: Scenario) -> float:
    extra = 0.3 if scenario.ramp is None else LASTS * (scenario.ramp + 1.0)
    return scenario.seconds + extra + 2 * SETTLE_SECONDS


def run(options: argparse.Namespace, peers: tuple[Peer, ...]) -> int:
    """Measures as told. Raises Broken, and ValueError for a wrong name."""
    scenarios = list(chosen(options.scenario))
    if options.quick:
        if not options.scenario:
            scenarios = [scenario for scenario in scenarios if scenario.connections <= 64]
        scenarios = [shortened(s, QUICK_ROUNDS, QUICK_SECONDS) for s in scenarios]
    scenarios = [
        shortened(s, options.rounds or s.rounds, options.seconds or s.seconds) for s in scenarios
    ]
    with Bench(options, peers) as bench:
        if options.soak:
            report: dict[str, object] = {"soak": bench.soak(options.soak)}
            wrong = False
        else:
            results = bench.measure(scenarios)
            print(plot(results))
            print(f"arbstr after its start: {bench.idle_mb or 0:.0f} MB")
            report = as_json(results, idle_mb=bench.idle_mb)
            wrong = any(
                m.errors() for _, measured in results for m in measured if m.target == ARBSTR
            )
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if wrong else 0


def _terminated(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if something broke, 2 for a wrong command, 130 after Ctrl-C."""
    command = parser()
    options = command.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _terminated)  # so that processes are ended then, too
    try:
        return run(options, parse_peers(options.peer, options.peer_header))
    except ValueError as error:
        command.error(str(error))
    except Broken as error:
        print(f"\noverhead: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())

"""Rounds, and what comes out of them.

In each round every target is measured once, right after another, so that what else the machine
does hits all alike; who is first changes from round to round. Ratios are taken within a round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, final

from bench.clock import cpu_seconds, forget_peak, megabytes
from bench.load import Plan, Result
from bench.processes import Load
from bench.scenarios import Scenario
from bench.wire import PATHS

PERCENTILES: Final = (50, 90, 99)
DIRECT: Final = "direct"
FLOOR: Final = "floor"


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Somewhere chats can be sent. `pids` are the processes whose CPU time is counted."""

    name: str
    host: str
    port: int
    path: str
    pids: tuple[int, ...]
    headers: tuple[tuple[str, str], ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """Values of the rounds: their median, lowest and highest."""

    mid: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None if there are no values."""
        return cls(median(values), min(values), max(values)) if values else None


@final
@dataclass(slots=True)
class Measured:
    """All rounds of one target in one scenario."""

    target: str
    rounds: list[Result] = field(default_factory=list)
    peak_mb: float | None = None
    provider_busy: float = 0.0

    def cpu_us(self) -> Spread | None:
        """Microseconds of CPU per request or event."""
        return Spread.of(self.costs())

    def costs(self) -> list[float]:
        """Microseconds of CPU per request or event, of each round that counted something."""
        return [
            result.cpu * 1e6 / result.count
            for result in self.rounds
            if result.cpu is not None and result.count
        ]

    def per_second(self) -> Spread | None:
        """Requests or events per second."""
        return Spread.of([r.count / r.seconds for r in self.rounds if r.seconds])

    def latency_ms(self) -> dict[int, float]:
        """Percentiles over all rounds: of whole answers, or of streams' first events."""
        return percentiles([us for result in self.rounds for us in result.latency])

    def delay_ms(self) -> dict[int, float]:
        """Percentiles of how long single events were under way."""
        return percentiles([us for result in self.rounds for us in result.delay])

    def errors(self) -> int:
        """Answers that were not as ordered."""
        return sum(result.errors for result in self.rounds)

    def error(self) -> str:
        """The first of them in words."""
        return next((result.error for result in self.rounds if result.errors), "")

    def load_busy(self) -> float:
        """The load generator's own share of a core: near 1, it is what was measured."""
        shares = [r.own_cpu / r.seconds for r in self.rounds if r.count]
        return max(shares, default=0.0)


def percentiles(samples: Sequence[int]) -> dict[int, float]:
    """Of microseconds, in milliseconds; empty for no samples."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {p: ordered[round(last * p / 100)] / 1000 for p in PERCENTILES} if ordered else {}


def ratio(measured: Measured, floor: Measured) -> Spread | None:
    """CPU per request or event as a multiple of the floor's, round by round."""
    pairs = zip(measured.rounds, floor.rounds, strict=True)
    return Spread.of(
        [
            (mine.cpu / mine.count) / (bare.cpu / bare.count)
            for mine, bare in pairs
            if mine.cpu and mine.count and bare.cpu and bare.count
        ]
    )


def run_rounds(
    scenario: Scenario,
    targets: Sequence[Target],
    load: Load,
    *,
    model: str,
    provider_pid: int,
    progress: Callable[[str], None],
) -> list[Measured]:
    """Measures one scenario. Raises Broken if a process of ours does."""
    measured = [Measured(target.name) for target in targets]
    for target in targets:
        forget_peak(target.pids)
    for number in range(scenario.rounds):
        order = [(number + i) % len(targets) for i in range(len(targets))]
        for i in order:
            target = targets[i]
            progress(f"{scenario.name} {target.name}")
            before = cpu_seconds([provider_pid])
            result = load.run(_plan(scenario, target, model))
            after = cpu_seconds([provider_pid])
            measured[i].rounds.append(result)
            if before is not None and after is not None and result.seconds:
                # Settling and warming up count as well: this is a lower limit.
                share = (after - before) / (result.seconds + (scenario.ramp or 0.0) + 1.0)
                measured[i].provider_busy = max(measured[i].provider_busy, share)
    for target, result_of in zip(targets, measured, strict=True):
        result_of.peak_mb = megabytes(target.pids)
    return measured


def _plan(scenario: Scenario, target: Target, model: str) -> Plan:
    return Plan(
        host=target.host,
        port=target.port,
        path=target.path + PATHS[scenario.door],
        door=scenario.door,
        headers=target.headers,
        model=model,
        connections=scenario.connections,
        request_bytes=scenario.request_bytes,
        order=scenario.order,
        seconds=scenario.seconds,
        ramp=scenario.ramp,
        rate=scenario.rate,
        pids=target.pids,
    )

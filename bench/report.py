"""What a person reads: progress, a table for each scenario, a plot; and the same as JSON."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final, final

from bench.measure import DIRECT, FLOOR, Measured, Spread, ratio
from bench.scenarios import Scenario

BUSY: Final = 0.8
"""Share of a core from which on the load generator or the provider is what was measured."""

ENOUGH: Final = 0.95
"""Share of the events asked for from which on a target carried the load it was given."""

PLOT_WIDTH: Final = 48


@final
class Progress:
    """One line on a terminal's stderr, rewritten; nothing anywhere else. `total` in seconds."""

    def __init__(self, total: float) -> None:
        self._total = max(total, 0.001)
        self._start = time.monotonic()
        self._shown = sys.stderr.isatty()

    def show(self, done: float, text: str) -> None:
        """`done` of `total` is over."""
        if not self._shown:
            return
        share = min(1.0, done / self._total)
        elapsed = time.monotonic() - self._start
        left = elapsed / share - elapsed if share > 0.02 else self._total - elapsed
        bar = "#" * round(share * 30)
        minutes, seconds = divmod(max(0, round(left)), 60)
        line = f"[{bar:<30}] {share:4.0%}  {minutes}:{seconds:02d} left  {text}"
        print(f"\r{line[:110]:<110}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Makes room for other output."""
        if self._shown:
            print("\r" + " " * 110 + "\r", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """Where the numbers are from."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "trio": version("trio"),
        "h11": version("h11"),
        "load_average": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _added(mine: dict[int, float], direct: dict[int, float], percentile: int) -> str:
    if percentile not in mine:
        return "-"
    return f"{mine[percentile] - direct.get(percentile, 0.0):.2f}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.mid:.2f}  ({spread.low:.2f} to {spread.high:.2f})"


def table(scenario: Scenario, measured: Sequence[Measured]) -> str:
    """One scenario. Times are what a target adds; those of direct are as they are."""
    direct = next(m for m in measured if m.target == DIRECT)
    floor = next(m for m in measured if m.target == FLOOR)
    streams = scenario.ramp is not None
    header = ["", "p50 ms", "p90 ms", "p99 ms"]
    if streams:
        header += ["first p50", "first p99"]
    header += [f"CPU us/{scenario.unit}", f"{scenario.unit}s/s", "peak MB", "x floor"]
    rows = [header]
    for m in measured:
        is_direct = m is direct
        nothing: dict[int, float] = {}
        own = m.delay_ms() if streams else m.latency_ms()
        base = direct.delay_ms() if streams else direct.latency_ms()
        row = [m.target]
        row += [_added(own, nothing if is_direct else base, p) for p in (50, 90, 99)]
        if streams:
            first, base = m.latency_ms(), nothing if is_direct else direct.latency_ms()
            row += [_added(first, base, 50), _added(first, base, 99)]
        cpu, speed = m.cpu_us(), m.per_second()
        row += [
            _number(cpu and cpu.mid, 1 if streams else 0),
            _number(speed and speed.mid, 0),
            _number(m.peak_mb, 0),
            "-" if is_direct else _spread(ratio(m, floor)),
        ]
        rows.append(row)
    what = "events: added delay" if streams else "added latency"
    rounds = "1 round" if scenario.rounds == 1 else f"{scenario.rounds} rounds"
    lines = [
        f"{scenario.name}: {scenario.about}",
        f"  {what}; {rounds} of {scenario.seconds:g} s; direct is absolute",
        *_aligned(rows),
        *_warnings(scenario, measured),
    ]
    return "\n".join(lines) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        cells.append(row[-1])
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _warnings(scenario: Scenario, measured: Sequence[Measured]) -> list[str]:
    order, lines = scenario.order, []
    asked = scenario.connections * order.burst / order.every_us * 1e6 if scenario.ramp else 0.0
    for m in measured:
        if m.errors():
            lines.append(f"  ! {m.target}: {m.errors()} answers were wrong, first: {m.error()}")
        speed = m.per_second()
        if speed is not None and speed.mid < ENOUGH * asked:
            # Late streams: the first had ended before the last began, or events queue up.
            lines.append(
                f"  ! {m.target}: {speed.mid:.0f} of {asked:.0f} events/s came through, "
                "so its x floor is not for the same load"
            )
        if m.target == DIRECT:
            continue
        if m.load_busy() > BUSY:
            lines.append(f"  ! {m.target}: the load generator was at its limit")
        if m.provider_busy > BUSY:
            lines.append(f"  ! {m.target}: the provider was at its limit")
    return lines


def plot(results: Sequence[tuple[Scenario, Sequence[Measured]]]) -> str:
    """CPU as a multiple of the floor: a bar up to the lowest round, its spread behind it."""
    full, part, mark = ("█", "▒", "│") if _has_blocks() else ("#", "-", "|")
    bars = []
    for scenario, measured in results:
        floor = next(m for m in measured if m.target == FLOOR)
        for m in measured:
            spread = ratio(m, floor)
            if m is not floor and spread is not None:
                bars.append((scenario.name, m.target, spread))
    if not bars:
        return ""
    most = max(spread.high for _, _, spread in bars)
    names = max(len(name) for name, _, _ in bars), max(len(target) for _, target, _ in bars)
    one = round(PLOT_WIDTH / most)
    lines = [f"CPU per request or event, as a multiple of the floor ({mark} is 1 x the floor)"]
    for name, target, spread in bars:
        low, high = (round(value / most * PLOT_WIDTH) for value in (spread.low, spread.high))
        bar = list((full * low + part * (high - low)).ljust(PLOT_WIDTH))
        if one < PLOT_WIDTH:
            bar[one] = mark
        lines.append(
            f"  {name:<{names[0]}}  {target:<{names[1]}}  {''.join(bar)}  {spread.mid:.2f}"
        )
    return "\n".join(lines) + "\n"


def _has_blocks() -> bool:
    try:
        "█▒│".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def as_json(
    results: Sequence[tuple[Scenario, Sequence[Measured]]], *, idle_mb: float | None
) -> dict[str, object]:
    """Everything the tables say, and each round's CPU time. Milliseconds, microseconds, MB."""
    return {
        "machine": machine(),
        "arbstr_idle_mb": idle_mb,
        "scenarios": [_scenario_json(scenario, measured) for scenario, measured in results],
    }


def _scenario_json(scenario: Scenario, measured: Sequence[Measured]) -> dict[str, object]:
    floor = next(m for m in measured if m.target == FLOOR)
    targets: dict[str, object] = {}
    for m in measured:
        cpu, speed, times_floor = m.cpu_us(), m.per_second(), ratio(m, floor)
        targets[m.target] = {
            "latency_ms": {f"p{p}": value for p, value in m.latency_ms().items()},
            "event_delay_ms": {f"p{p}": value for p, value in m.delay_ms().items()},
            "cpu_us": cpu and asdict(cpu),
            "cpu_us_rounds": m.costs(),
            "per_second": speed and asdict(speed),
            "ratio_to_floor": times_floor and asdict(times_floor),
            "peak_mb": m.peak_mb,
            "errors": m.errors(),
        }
    return {
        "name": scenario.name,
        "about": scenario.about,
        "unit": scenario.unit,
        "connections": scenario.connections,
        "rounds": scenario.rounds,
        "seconds": scenario.seconds,
        "targets": targets,
    }

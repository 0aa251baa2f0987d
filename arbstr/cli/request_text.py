"""What `arbstr requests` prints: a line a request, or all about one of them.

The reports of `trio_runtime/ledger/reports.py` go in.
"""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from arbstr.cli.figures import (
    BAD,
    DIM,
    DOUBTFUL,
    SHOWN_ID,
    STYLES,
    aligned_sats,
    counted,
    duration,
    facts,
    grouped,
    in_sats,
    may_have_cost,
    maybe_lost,
    spelled,
    time_in,
    unlike_stated,
)
from arbstr.cli.tables import Justify, console, line, table, text
from arbstr.sansio.moments import Zone
from arbstr.trio_runtime.ledger.reports import Report


def print_requests(report: Report, zone: Zone) -> None:
    """One line a request. The `attempts` of each are the list of them."""
    out = console()
    rows = report["data"]
    if rows:
        out.print(_requests(rows, zone))
        out.print()
    pages = f", page {report['page']} of {report['total_pages']}" if report["total"] else ""
    out.print(line(f"{counted(report['total'], 'request')}{pages}", spelled(report, zone)))


def print_request(row: Report) -> None:
    """Everything about one request, and its attempts."""
    out = console()
    grid = Table.grid(padding=(0, 2))
    for name, value in facts(row).items():
        style = STYLES.get(value, "") if name == "status" else ""
        grid.add_row(text(name, DIM), text(value, style))
    out.print(grid)
    if row["attempts"]:
        out.print()
        out.print(_attempts(row["attempts"]))


def _requests(rows: Sequence[Report], zone: Zone) -> Table:
    doors = len({row["endpoint"] for row in rows}) > 1
    endpoint: list[tuple[str, Justify]] = [("endpoint", "left")] if doors else []
    shown = table(
        (f"time ({zone.name})", "left"),
        ("id", "left"),
        ("status", "left"),
        ("model", "left"),
        ("provider", "left"),
        ("policy", "left"),
        *endpoint,
        ("tokens", "right"),
        ("sats", "right"),
        ("took", "right"),
        ("failed attempts", "left"),
    )
    costs = aligned_sats([row["cost"]["cost_sats"] for row in rows])
    for row, sats in zip(rows, costs, strict=True):
        tokens = row["tokens"]
        if row["cost"]["cost_sats"] is None and not any(map(may_have_cost, row["attempts"])):
            sats = "-"  # nothing was sent, or all of it was free
        shown.add_row(
            text(time_in(zone, row["timestamp"])[5:]),  # the year is in the last line
            text(row["correlation_id"][-SHOWN_ID:]),
            text(row["status"], STYLES.get(row["status"], "")),
            text(row["model"]),
            text(row["provider"] or "-"),
            text(row["policy"] or "-"),
            *([text(row["endpoint"])] if doors else []),
            text("/".join(grouped(tokens[f"{way}_tokens"]) or "-" for way in ("input", "output"))),
            text(sats),
            text(duration(row["timing"]["latency_ms"]) or "-"),
            text(f"joined {row['joined'][-SHOWN_ID:]}")
            if row["joined"] is not None
            else _failures(row["attempts"]),
        )
    return shown


def _failures(attempts: Sequence[Report]) -> Text:
    """Who failed how; what may have cost stands out."""
    failures: dict[tuple[str, str], int] = {}
    for attempt in attempts:
        if attempt["failure"] is not None:
            doubtful = may_have_cost(attempt)
            lost = f" (maybe {maybe_lost(attempt)} sats)" if doubtful else ""
            what = f"{attempt['provider']} {attempt['failure']}{lost}", DOUBTFUL * doubtful
            failures[what] = failures.get(what, 0) + 1
    return Text("; ").join(
        text(what if times == 1 else f"{what} x{times}", style)
        for (what, style), times in failures.items()
    )


def _attempts(attempts: Sequence[Report]) -> Table:
    unlike = [unlike_stated(attempt["cost"]) for attempt in attempts]
    expected: list[tuple[str, Justify]] = [("expected", "right")] if any(unlike) else []
    shown = table(
        ("attempt", "right"),
        ("provider", "left"),
        ("model", "left"),
        ("failure", "left"),
        ("HTTP", "right"),
        ("money", "left"),
        ("sats", "right"),
        *expected,
        ("estimated", "right"),
        ("time", "right"),
        ("the provider's id", "left"),
    )
    for attempt, other in zip(attempts, unlike, strict=True):
        failure, money = attempt["failure"], attempt["money"]
        doubtful = failure is not None and may_have_cost(attempt)
        cost = attempt["cost"]
        shown.add_row(
            text(str(attempt["n"])),
            text(attempt["provider"]),
            text(attempt["model"]),
            text(failure or "-", BAD),
            text(grouped(attempt["http_status"]) or "-"),
            text(money or "-", DOUBTFUL if doubtful else ""),
            text(in_sats(cost["cost_sats"]) or ("unknown" if may_have_cost(attempt) else "-")),
            *([text(other or "-")] if expected else []),
            text(in_sats(cost["estimated_cost_sats"]) or "unknown"),
            text(duration(attempt["duration_ms"])),
            text(attempt["upstream_request_id"] or "-"),
        )
    return shown

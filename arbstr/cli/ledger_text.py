"""What `arbstr stats` and `arbstr requests` print: tables, and a bar for the spending of each day.

The reports of `trio_runtime/ledger/reports.py` go in. Colours are rich's affair: none of them
unless a terminal reads. Names come from clients and providers, so nothing of them but printable
characters goes out, and none of it is taken for markup.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arbstr.cli.figures import (
    BAD,
    DIM,
    DOUBTFUL,
    GOOD,
    SHOWN_ID,
    STYLES,
    aligned_sats,
    counted,
    duration,
    facts,
    grouped,
    in_sats,
    listed,
    may_have_cost,
    maybe_lost,
    readable_time,
    unlike_stated,
)
from arbstr.sansio.ledger.reports import Group
from arbstr.sansio.routing.ratios import Ratio
from arbstr.trio_runtime.ledger.reports import Report

WIDTH: Final = 120
"""Columns that are used at least. In less a number would lose digits; a narrow terminal breaks the
line instead, and a pipe has no width."""

BAR_WIDTH: Final = 40
MOST_BARS: Final = 62
"""Days of the chart: two months fit a screen, and more tell nothing at a glance."""

_TITLES: Final[Mapping[Group, str]] = {
    Group.MODEL: "model",
    Group.PROVIDER: "provider",
    Group.POLICY: "policy",
    Group.ENDPOINT: "endpoint",
    Group.DAY: "day (UTC)",
    Group.HOUR: "hour (UTC)",
}

Justify = Literal["left", "right"]


def print_stats(
    overview: Mapping[Group, Report], ratios: Mapping[str, Ratio], budget: Report | None
) -> None:
    """The totals, today's budget, a table for each group, a chart of the days, what was learnt.

    A single group is asked for by name: then days are a table as well.
    """
    console = _console()
    totals = next(iter(overview.values()))
    _print_totals(console, totals)
    if budget is not None:
        spent, limit = in_sats(budget["spent"]), in_sats(budget["limit"])
        style = DOUBTFUL if budget["spent"] >= budget["limit"] else ""
        counts = totals["counts"]
        # Or the two sums would contradict each other.
        unpriced = counts["unknown_cost"] or counts["possibly_spent_attempts"]
        how = "; what has no known price counts as what was set aside for it" if unpriced else ""
        console.print(_text(f"{spent} of {limit} sats of today's budget are spent{how}", style))
    for group, report in overview.items():
        rows = report["groups"]
        # Who only chats need not be told so.
        if not rows or (group is Group.ENDPOINT and len(overview) > 1 and len(rows) == 1):
            continue
        console.print()
        if group is Group.DAY and len(overview) > 1:
            console.print(_days(rows))
        else:
            console.print(_groups(group, rows))
    if totals.get("nodes"):
        console.print()
        console.print(_nodes(totals["nodes"]))
    if ratios and len(overview) > 1:
        console.print()
        console.print(_ratios(ratios))


def print_requests(report: Report) -> None:
    """One line a request. The `attempts` of each are the list of them."""
    console = _console()
    rows = report["data"]
    if rows:
        console.print(_requests(rows))
        console.print()
    pages = f", page {report['page']} of {report['total_pages']}" if report["total"] else ""
    console.print(_line(f"{counted(report['total'], 'request')}{pages}", _span(report)))


def print_request(row: Report) -> None:
    """Everything about one request, and its attempts."""
    console = _console()
    grid = Table.grid(padding=(0, 2))
    for name, value in facts(row).items():
        style = STYLES.get(value, "") if name == "status" else ""
        grid.add_row(_text(name, DIM), _text(value, style))
    console.print(grid)
    if row["attempts"]:
        console.print()
        console.print(_attempts(row["attempts"]))


# -- tables ----------------------------------------------------------------------------------------


def _print_totals(console: Console, report: Report) -> None:
    counts, costs, performance = report["counts"], report["costs"], report["performance"]
    outcomes = listed(
        *(
            (str(counts[name]) if counts[name] else "", what)
            for name, what in (
                ("success", "answered"),
                ("error", "failed"),
                ("rejected", "rejected"),
                ("client_disconnected", "left by the client"),
                ("in_flight", "in flight"),
            )
        )
    )
    total = counted(counts["total"], "request")
    console.print(_line(f"{total}: {outcomes}" if outcomes else total, _span(report)))
    if counts["total"]:
        unknown = counts["unknown_cost"]
        more = f"; {counted(unknown, 'request')} of unknown cost" if unknown else ""
        tokens = (
            f"{costs['total_input_tokens']:,} tokens in and {costs['total_output_tokens']:,} out"
        )
        console.print(
            _text(f"{in_sats(costs['total_cost_sats'])} sats", "bold")
            + _text(f" for {tokens}{more}")
        )
    joined = counts["joined"]
    if joined:
        console.print(_text(f"{counted(joined, 'repeat')} got an answer that was paid for before"))
    lost = counts["possibly_spent_attempts"]
    if lost:
        sats = in_sats(costs["possibly_spent_sats"])
        sentence = f"{counted(lost, 'attempt')} without an answer may have cost {sats} sats"
        console.print(_text(sentence, DOUBTFUL))
    if performance["avg_latency_ms"] is not None:
        first = performance["avg_ttft_ms"]
        console.print(
            _text(
                f"{duration(performance['avg_latency_ms'])} on average, "
                f"half within {duration(performance['p50_latency_ms'])}, "
                f"95 % within {duration(performance['p95_latency_ms'])}"
                + (f"; streams begin after {duration(first)}" if first is not None else "")
            )
        )


def _groups(group: Group, rows: Sequence[Report]) -> Table:
    """The dearest first, but times in their order."""
    if group not in (Group.DAY, Group.HOUR):
        rows = sorted(rows, key=lambda row: -float(row["costs"]["total_cost_sats"]))
    columns: list[tuple[str, list[str]]] = [
        ("requests", [f"{row['counts']['total']:,}" for row in rows]),
        ("answered", [f"{row['counts']['success']:,}" for row in rows]),
        ("failed", [f"{row['counts']['error']:,}" for row in rows]),
        ("failed tries", [f"{row['counts']['failed_attempts']:,}" for row in rows]),
        ("sats", aligned_sats([row["costs"]["total_cost_sats"] for row in rows])),
        ("unknown", [f"{row['counts']['unknown_cost']:,}" for row in rows]),
        ("maybe lost", aligned_sats([row["costs"]["possibly_spent_sats"] for row in rows])),
        ("tokens in", [f"{row['costs']['total_input_tokens']:,}" for row in rows]),
        ("tokens out", [f"{row['costs']['total_output_tokens']:,}" for row in rows]),
        ("time", [duration(row["performance"]["avg_latency_ms"]) for row in rows]),
    ]
    # What did not happen needs no column.
    columns = [
        (name, cells)
        for name, cells in columns
        if name not in ("failed tries", "unknown", "maybe lost") or set(cells) != {"0"}
    ]
    table = _table((_TITLES[group], "left"), *((name, "right") for name, _ in columns))
    for at, row in enumerate(rows):
        name = row[group.value]
        if group is Group.HOUR:
            name = readable_time(name)[:16]
        table.add_row(_text(name or "-"), *(_text(cells[at]) for _, cells in columns))
    return table


def _nodes(nodes: Sequence[Report]) -> Table:
    """What nodes stated beside what their rates give, and what they charged beside what is known of
    it: of other attempts, those of before the last comparison."""
    pairs = ("expected", "stated"), ("known", "charged")
    amounts = [
        (name, aligned_sats([node[f"{name}_sats"] for node in nodes]))
        for pair in pairs
        for name in pair
    ]
    table = _table(
        ("sats by nodes", "left"),
        ("attempts", "right"),
        *((name, "right") for name, _ in amounts),
        ("compared until (UTC)", "left"),
    )
    for at, node in enumerate(nodes):
        until = node["compared_until"]
        table.add_row(
            _text(node["provider"]),
            _text(f"{node['attempts']:,}"),
            *(_text(cells[at]) for _, cells in amounts),
            _text("never" if until is None else readable_time(until)),
        )
    return table


def _days(rows: Sequence[Report]) -> Table:
    """The satoshis of each day, those between without requests too."""
    spent = {row["day"]: float(row["costs"]["total_cost_sats"]) for row in rows}
    first, last = (date.fromisoformat(end(spent)) for end in (min, max))
    first = max(first, last - timedelta(days=MOST_BARS - 1))
    days = [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]
    amounts = [spent.get(day, 0.0) for day in days]
    most = max(amounts)
    table = _table(("day (UTC)", "left"), ("sats", "right"), ("", "left"))
    for day, amount, shown in zip(days, amounts, aligned_sats(amounts), strict=True):
        # A day that cost something is never without a bar.
        length = max(round(BAR_WIDTH * amount / most), 1) if amount > 0 else 0
        table.add_row(_text(day), _text(shown), _text(_bar_character() * length, GOOD))
    return table


def _ratios(ratios: Mapping[str, Ratio]) -> Table:
    table = _table(
        ("learnt of policy", "left"),
        ("tokens out by in", "right"),
        ("answers", "right"),
        ("", "left"),
    )
    for policy, ratio in sorted(ratios.items()):
        use = "" if ratio.is_trusted else "too few to go by"
        average = f"{ratio.average:,.3g}"
        table.add_row(
            _text(policy or "-"), _text(average), _text(f"{ratio.samples:,}"), _text(use, DIM)
        )
    return table


def _requests(rows: Sequence[Report]) -> Table:
    doors = len({row["endpoint"] for row in rows}) > 1
    endpoint: list[tuple[str, Justify]] = [("endpoint", "left")] if doors else []
    table = _table(
        ("time (UTC)", "left"),
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
        table.add_row(
            _text(readable_time(row["timestamp"])[5:]),  # the year is in the last line
            _text(row["correlation_id"][-SHOWN_ID:]),
            _text(row["status"], STYLES.get(row["status"], "")),
            _text(row["model"]),
            _text(row["provider"] or "-"),
            _text(row["policy"] or "-"),
            *([_text(row["endpoint"])] if doors else []),
            _text("/".join(grouped(tokens[f"{way}_tokens"]) or "-" for way in ("input", "output"))),
            _text(sats),
            _text(duration(row["timing"]["latency_ms"]) or "-"),
            _text(f"joined {row['joined'][-SHOWN_ID:]}")
            if row["joined"] is not None
            else _failures(row["attempts"]),
        )
    return table


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
        _text(what if times == 1 else f"{what} x{times}", style)
        for (what, style), times in failures.items()
    )


def _attempts(attempts: Sequence[Report]) -> Table:
    unlike = [unlike_stated(attempt["cost"]) for attempt in attempts]
    expected: list[tuple[str, Justify]] = [("expected", "right")] if any(unlike) else []
    table = _table(
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
        table.add_row(
            _text(str(attempt["n"])),
            _text(attempt["provider"]),
            _text(attempt["model"]),
            _text(failure or "-", BAD),
            _text(grouped(attempt["http_status"]) or "-"),
            _text(money or "-", DOUBTFUL if doubtful else ""),
            _text(in_sats(cost["cost_sats"]) or ("unknown" if may_have_cost(attempt) else "-")),
            *([_text(other or "-")] if expected else []),
            _text(in_sats(cost["estimated_cost_sats"]) or "unknown"),
            _text(duration(attempt["duration_ms"])),
            _text(attempt["upstream_request_id"] or "-"),
        )
    return table


# -- pieces ----------------------------------------------------------------------------------------


def _console() -> Console:
    width = max(Console().width, WIDTH)
    return Console(width=width, highlight=False, emoji=False, markup=False, soft_wrap=True)


def _table(*columns: tuple[str, Justify]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for name, justify in columns:
        # Numbers are never folded; names may be long.
        whole = justify == "right" or name in ("time (UTC)", "id", "status")
        table.add_column(name, justify=justify, overflow="fold", no_wrap=whole)
    return table


def _text(text: str, style: str = "") -> Text:
    """What the terminal can show of it."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return Text(printable.encode(encoding, "replace").decode(encoding), style=style)


def _line(text: str, dim: str) -> Text:
    return _text(text, "bold") + _text(f"  {dim}", DIM)


def _span(report: Report) -> str:
    return f"from {readable_time(report['since'])} to {readable_time(report['until'])} UTC"


def _bar_character() -> str:
    return "\N{FULL BLOCK}" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"

"""What `arbstr stats` prints: tables, and a bar for the spending of each day.

The reports of `trio_runtime/ledger/reports.py` go in.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final

from rich.console import Console
from rich.table import Table

from arbstr.cli.figures import (
    DIM,
    DOUBTFUL,
    GOOD,
    aligned_sats,
    counted,
    duration,
    in_sats,
    listed,
    readable_time,
    spelled,
)
from arbstr.cli.tables import bar_character, console, line, table, text
from arbstr.sansio.ledger.reports import TIMES, Group, StatsQuery
from arbstr.sansio.moments import UTC, Zone
from arbstr.sansio.routing.ratios import Ratio
from arbstr.trio_runtime.ledger.reports import Report

BAR_WIDTH: Final = 40
MOST_BARS: Final = 62
"""Days of the chart: two months fit a screen, and more tell nothing at a glance."""


def print_stats(
    overview: Mapping[Group, Report],
    ratios: Mapping[str, Ratio],
    budget: Report | None,
    query: StatsQuery,
) -> None:
    """The totals, what the span before had, today's budget, a table for each group, a chart of the
    days, what was learnt.

    A single group is asked for by name: then days are a table as well.
    """
    out = console()
    totals = next(iter(overview.values()))
    zone = query.filters.zone
    _print_totals(out, totals, zone)
    if "before" in totals:
        _print_before(out, totals, totals["before"], zone)
    if budget is not None:
        spent, limit = in_sats(budget["spent"]), in_sats(budget["limit"])
        style = DOUBTFUL if budget["spent"] >= budget["limit"] else ""
        counts = totals["counts"]
        # Or the two sums would contradict each other.
        unpriced = counts["unknown_cost"] or counts["possibly_spent_attempts"]
        days = "" if zone == UTC else ", whose day is UTC's"
        how = "; what has no known price counts as what was set aside for it" if unpriced else ""
        out.print(text(f"{spent} of {limit} sats of today's budget are spent{days}{how}", style))
    for group, report in overview.items():
        rows = report["groups"]
        # Who only chats need not be told so.
        if not rows or (group is Group.ENDPOINT and len(overview) > 1 and len(rows) == 1):
            continue
        out.print()
        if group is Group.DAY and len(overview) > 1:
            out.print(_days(rows, zone))
        else:
            out.print(_groups(group, query, rows))
    if totals.get("nodes"):
        out.print()
        out.print(_nodes(totals["nodes"]))
    if ratios and len(overview) > 1:
        out.print()
        out.print(_ratios(ratios))


def _print_totals(out: Console, report: Report, zone: Zone) -> None:
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
    out.print(line(f"{total}: {outcomes}" if outcomes else total, spelled(report, zone)))
    if counts["total"]:
        unknown = counts["unknown_cost"]
        more = f"; {counted(unknown, 'request')} of unknown cost" if unknown else ""
        tokens = (
            f"{costs['total_input_tokens']:,} tokens in and {costs['total_output_tokens']:,} out"
        )
        out.print(
            text(f"{in_sats(costs['total_cost_sats'])} sats", "bold") + text(f" for {tokens}{more}")
        )
    joined = counts["joined"]
    if joined:
        out.print(text(f"{counted(joined, 'repeat')} got an answer that was paid for before"))
    lost = counts["possibly_spent_attempts"]
    if lost:
        sats = in_sats(costs["possibly_spent_sats"])
        sentence = f"{counted(lost, 'attempt')} without an answer may have cost {sats} sats"
        out.print(text(sentence, DOUBTFUL))
    if performance["avg_latency_ms"] is not None:
        first = performance["avg_ttft_ms"]
        out.print(
            text(
                f"{duration(performance['avg_latency_ms'])} on average, "
                f"half within {duration(performance['p50_latency_ms'])}, "
                f"95 % within {duration(performance['p95_latency_ms'])}"
                + (f"; streams begin after {duration(first)}" if first is not None else "")
            )
        )


def _print_before(out: Console, report: Report, before: Report, zone: Zone) -> None:
    """What the span before had, if anything, and by how much this one's costs differ."""
    if not before["counts"]["total"]:
        return
    now, then = (each["costs"]["total_cost_sats"] for each in (report, before))
    change = f" ({100 * (now - then) / then:+,.0f} %)" if then else ""
    sums = f"before: {in_sats(then)} sats for {counted(before['counts']['total'], 'request')}"
    out.print(text(f"{sums}{change}") + text(f"  {spelled(before, zone)}", DIM))


def _title(group: Group, zone: Zone) -> str:
    return f"{group.value} ({zone.name})" if group in TIMES else group.value


def _groups(group: Group, query: StatsQuery, rows: Sequence[Report]) -> Table:
    """The dearest first, but times in their order."""
    if group not in TIMES:
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
    groups = (group,) if query.then is None else (group, query.then)
    shown = table(
        *((_title(each, query.filters.zone), "left") for each in groups),
        *((name, "right") for name, _ in columns),
    )
    for at, row in enumerate(rows):
        names = [row[each.value] for each in groups]
        if group is Group.HOUR:
            names[0] = f"{readable_time(names[0])[:16]} {names[0][23:].rstrip('Z')}".strip()
        shown.add_row(
            *(text(name or "-") for name in names), *(text(cells[at]) for _, cells in columns)
        )
    return shown


def _nodes(nodes: Sequence[Report]) -> Table:
    """What nodes stated beside what their rates give, and what they charged beside what is known of
    it: of other attempts, those of before the last comparison."""
    pairs = ("expected", "stated"), ("known", "charged")
    amounts = [
        (name, aligned_sats([node[f"{name}_sats"] for node in nodes]))
        for pair in pairs
        for name in pair
    ]
    whole = table(
        ("sats by nodes", "left"),
        ("attempts", "right"),
        *((name, "right") for name, _ in amounts),
        ("compared until (UTC)", "left"),
    )
    for at, node in enumerate(nodes):
        until = node["compared_until"]
        whole.add_row(
            text(node["provider"]),
            text(f"{node['attempts']:,}"),
            *(text(cells[at]) for _, cells in amounts),
            text("never" if until is None else readable_time(until)),
        )
    return whole


def _days(rows: Sequence[Report], zone: Zone) -> Table:
    """The satoshis of each day, those between without requests too."""
    spent = {row["day"]: float(row["costs"]["total_cost_sats"]) for row in rows}
    first, last = (date.fromisoformat(end(spent)) for end in (min, max))
    first = max(first, last - timedelta(days=MOST_BARS - 1))
    days = [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]
    amounts = [spent.get(day, 0.0) for day in days]
    most = max(amounts)
    shown = table((_title(Group.DAY, zone), "left"), ("sats", "right"), ("", "left"))
    for day, amount, sats in zip(days, amounts, aligned_sats(amounts), strict=True):
        # A day that cost something is never without a bar.
        length = max(round(BAR_WIDTH * amount / most), 1) if amount > 0 else 0
        shown.add_row(text(day), text(sats), text(bar_character() * length, GOOD))
    return shown


def _ratios(ratios: Mapping[str, Ratio]) -> Table:
    shown = table(
        ("learnt of policy", "left"),
        ("tokens out by in", "right"),
        ("answers", "right"),
        ("", "left"),
    )
    for policy, ratio in sorted(ratios.items()):
        use = "" if ratio.is_trusted else "too few to go by"
        average = f"{ratio.average:,.3g}"
        shown.add_row(
            text(policy or "-"), text(average), text(f"{ratio.samples:,}"), text(use, DIM)
        )
    return shown

"""What `arbstr stats` prints: tables, and a bar for the spending of each day.

The reports of `trio_runtime/ledger/reports.py` go in.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final

from rich.console import Console

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
from arbstr.cli.tables import (
    GAP,
    Column,
    bar_character,
    console,
    print_left_out,
    print_table,
    say,
    text,
    texts,
)
from arbstr.sansio.ledger.reports import TIMES, Group, StatsQuery
from arbstr.sansio.moments import UTC, Zone
from arbstr.sansio.routing.ratios import Ratio
from arbstr.trio_runtime.ledger.reports import Report

BAR_WIDTH: Final = 40
SELDOM: Final = frozenset(
    {"rejected", "left", "in flight", "failed tries", "unknown", "maybe lost"}
)
"""Columns that are there only if there is anything in them."""

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
        say(out, text(f"{spent} of {limit} sats of today's budget are spent{days}{how}", style))
    left_out: list[str] = []
    for group, report in overview.items():
        rows = report["groups"]
        # Who only chats need not be told so.
        if not rows or (group is Group.ENDPOINT and len(overview) > 1 and len(rows) == 1):
            continue
        out.print()
        if group is Group.DAY and len(overview) > 1:
            left_out += print_table(out, _days(rows, zone, out.width))
        else:
            left_out += print_table(out, _groups(group, query, rows))
    if totals.get("nodes"):
        out.print()
        left_out += print_table(out, _nodes(totals["nodes"]))
    if ratios and len(overview) > 1:
        out.print()
        left_out += print_table(out, _ratios(ratios))
    print_left_out(out, left_out, "a wider terminal has it, and --json")


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
    said = f"{total}: {outcomes}" if outcomes else total
    say(out, text(said, "bold"), spelled(report, zone))
    if counts["total"]:
        unknown = counts["unknown_cost"]
        more = f"; {counted(unknown, 'request')} of unknown cost" if unknown else ""
        tokens = (
            f"{costs['total_input_tokens']:,} tokens in and {costs['total_output_tokens']:,} out"
        )
        spent = text(f"{in_sats(costs['total_cost_sats'])} sats", "bold")
        say(out, spent + text(f" for {tokens}{more}"))
    joined = counts["joined"]
    if joined:
        say(out, text(f"{counted(joined, 'repeat')} got an answer that was paid for before"))
    lost = counts["possibly_spent_attempts"]
    if lost:
        sats = in_sats(costs["possibly_spent_sats"])
        sentence = f"{counted(lost, 'attempt')} without an answer may have cost {sats} sats"
        say(out, text(sentence, DOUBTFUL))
    if performance["avg_latency_ms"] is not None:
        first = performance["avg_ttft_ms"]
        say(
            out,
            text(
                f"{duration(performance['avg_latency_ms'])} on average, "
                f"half within {duration(performance['p50_latency_ms'])}, "
                f"95 % within {duration(performance['p95_latency_ms'])}"
                + (f"; streams begin after {duration(first)}" if first is not None else "")
            ),
        )


def _print_before(out: Console, report: Report, before: Report, zone: Zone) -> None:
    """What the span before had, if anything, and by how much this one's costs differ."""
    if not before["counts"]["total"]:
        return
    now, then = (each["costs"]["total_cost_sats"] for each in (report, before))
    change = f" ({100 * (now - then) / then:+,.0f} %)" if then else ""
    sums = f"before: {in_sats(then)} sats for {counted(before['counts']['total'], 'request')}"
    say(out, text(f"{sums}{change}"), spelled(before, zone))


def _title(group: Group, zone: Zone) -> str:
    return f"{group.value} ({zone.name})" if group in TIMES else group.value


def _groups(group: Group, query: StatsQuery, rows: Sequence[Report]) -> list[Column]:
    """The dearest first, but times in their order."""
    if group not in TIMES:
        rows = sorted(rows, key=lambda row: -float(row["costs"]["total_cost_sats"]))
    counts = [row["counts"] for row in rows]
    tokens = [
        "/".join(f"{row['costs'][f'total_{way}put_tokens']:,}" for way in ("in", "out"))
        for row in rows
    ]

    def numbers(name: str, count: str, *, short: str = "", spare: int = 0) -> Column:
        return _numbers(name, [f"{each[count]:,}" for each in counts], short=short, spare=spare)

    columns = [
        numbers("requests", "total"),
        numbers("answered", "success", spare=1),
        numbers("failed", "error"),
        numbers("rejected", "rejected", spare=2),
        numbers("left", "client_disconnected", spare=2),
        numbers("in flight", "in_flight", spare=2),
        numbers("failed tries", "failed_attempts", short="tries", spare=3),
        _sats("sats", [row["costs"]["total_cost_sats"] for row in rows]),
        numbers("unknown", "unknown_cost"),
        _sats("maybe lost", [row["costs"]["possibly_spent_sats"] for row in rows]),
        _numbers("tokens in/out", tokens, spare=4),
        _numbers("time", [duration(row["performance"]["avg_latency_ms"]) for row in rows], spare=5),
    ]
    groups = (group,) if query.then is None else (group, query.then)
    names = [[row[each.value] for row in rows] for each in groups]
    if group is Group.HOUR:
        names[0] = [
            f"{readable_time(name)[:16]} {name[23:].rstrip('Z')}".strip() for name in names[0]
        ]
    return [
        *(
            Column(
                _title(each, query.filters.zone),
                [text(name or "-") for name in its],
                short=each.value,
                whole=each in TIMES,
            )
            for each, its in zip(groups, names, strict=True)
        ),
        # What did not happen needs no column.
        *(
            column
            for column in columns
            if column.name not in SELDOM or any(cell.plain != "0" for cell in column.cells)
        ),
    ]


def _numbers(name: str, cells: Sequence[str], *, short: str = "", spare: int = 0) -> Column:
    return Column(name, texts(cells), short=short, right=True, spare=spare)


def _sats(name: str, amounts: Sequence[float | None]) -> Column:
    brief = texts([in_sats(amount) or "unknown" for amount in amounts])
    return Column(name, texts(aligned_sats(amounts)), brief=brief, right=True)


def _nodes(nodes: Sequence[Report]) -> list[Column]:
    """What nodes stated beside what their rates give, and what they charged beside what is known of
    it: of other attempts, those of before the last comparison."""
    pairs = ("expected", "stated"), ("known", "charged")
    until = [node["compared_until"] for node in nodes]
    return [
        Column("sats by nodes", [text(node["provider"]) for node in nodes], short="sats by"),
        _numbers("attempts", [f"{node['attempts']:,}" for node in nodes], spare=1),
        *(_sats(name, [node[f"{name}_sats"] for node in nodes]) for pair in pairs for name in pair),
        Column(
            "compared until (UTC)",
            texts(["never" if each is None else readable_time(each) for each in until]),
            short="compared (UTC)",
            whole=True,
            spare=2,
        ),
    ]


def _days(rows: Sequence[Report], zone: Zone, width: int) -> list[Column]:
    """The satoshis of each day, those between without requests too."""
    spent = {row["day"]: float(row["costs"]["total_cost_sats"]) for row in rows}
    first, last = (date.fromisoformat(end(spent)) for end in (min, max))
    first = max(first, last - timedelta(days=MOST_BARS - 1))
    days = [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]
    amounts = [spent.get(day, 0.0) for day in days]
    most = max(amounts)
    columns = [
        Column(_title(Group.DAY, zone), texts(days), whole=True),
        _sats("sats", amounts),
    ]
    taken = sum(each.width for each in columns) + len(columns) * GAP
    longest = max(1, min(BAR_WIDTH, width - taken))
    # A day that cost something is never without a bar.
    lengths = [max(round(longest * amount / most), 1) if amount > 0 else 0 for amount in amounts]
    bars = texts([bar_character() * length for length in lengths], GOOD)
    return [*columns, Column("", bars, whole=True)]


def _ratios(ratios: Mapping[str, Ratio]) -> list[Column]:
    known = sorted(ratios.items())
    use = ["" if ratio.is_trusted else "too few to go by" for _, ratio in known]
    return [
        Column("learnt of policy", [text(policy or "-") for policy, _ in known], short="learnt of"),
        _numbers(
            "tokens out by in", [f"{ratio.average:,.3g}" for _, ratio in known], short="out by in"
        ),
        _numbers("answers", [f"{ratio.samples:,}" for _, ratio in known]),
        Column("", texts(use, DIM), spare=1),
    ]

"""What `arbstr requests` prints: a line a request, or all about one of them.

The reports of `trio_runtime/ledger/reports.py` go in.
"""

from collections.abc import Sequence

from rich.text import Text

from arbstr.cli.figures import (
    BAD,
    DOUBTFUL,
    SHOWN_ID,
    STYLES,
    aligned_sats,
    counted,
    duration,
    facts,
    grouped,
    in_brief,
    in_sats,
    may_have_cost,
    maybe_lost,
    spelled,
    time_in,
    unlike_stated,
)
from arbstr.cli.tables import (
    Column,
    console,
    print_facts,
    print_left_out,
    print_table,
    say,
    text,
    texts,
)
from arbstr.sansio.moments import Zone
from arbstr.trio_runtime.ledger.reports import Report


def print_requests(report: Report, zone: Zone) -> None:
    """One line a request. The `attempts` of each are the list of them."""
    out = console()
    rows = report["data"]
    left_out: tuple[str, ...] = ()
    if rows:
        left_out = print_table(out, _requests(rows, zone))
        out.print()
    pages = f", page {report['page']} of {report['total_pages']}" if report["total"] else ""
    say(out, text(f"{counted(report['total'], 'request')}{pages}", "bold"), spelled(report, zone))
    print_left_out(out, left_out, "a wider terminal has it, and arbstr requests ID")


def print_request(row: Report) -> None:
    """Everything about one request, and its attempts."""
    out = console()
    styles = {"status": STYLES.get(row["status"], "")}
    told = [(name, text(value, styles.get(name, ""))) for name, value in facts(row).items()]
    print_facts(out, told)
    if row["attempts"]:
        out.print()
        left_out = print_table(out, _attempts(row["attempts"]))
        print_left_out(out, left_out, "a wider terminal has it, and --json")


def _requests(rows: Sequence[Report], zone: Zone) -> list[Column]:
    doors = len({row["endpoint"] for row in rows}) > 1
    sats = aligned_sats([row["cost"]["cost_sats"] for row in rows])
    for at, row in enumerate(rows):
        if row["cost"]["cost_sats"] is None and not any(map(may_have_cost, row["attempts"])):
            sats[at] = "-"  # nothing was sent, or all of it was free
    # The year is in the last line.
    times = [time_in(zone, row["timestamp"])[5:] for row in rows]
    minutes = texts([each[:-3] for each in times])
    tokens = [
        "/".join(grouped(row["tokens"][f"{way}_tokens"]) or "-" for way in ("input", "output"))
        for row in rows
    ]
    styles = [STYLES.get(row["status"], "") for row in rows]
    statuses = [text(row["status"], style) for row, style in zip(rows, styles, strict=True)]
    brief = [text(in_brief(row["status"]), style) for row, style in zip(rows, styles, strict=True)]
    took = [duration(row["timing"]["latency_ms"]) or "-" for row in rows]
    endpoints = texts([row["endpoint"] for row in rows])
    return [
        Column(f"time ({zone.name})", texts(times), brief=minutes, whole=True),
        Column("id", [text(row["correlation_id"][-SHOWN_ID:]) for row in rows], whole=True),
        Column("status", statuses, brief=brief, whole=True),
        Column("model", texts([row["model"] for row in rows])),
        Column("provider", texts([row["provider"] or "-" for row in rows])),
        Column("policy", texts([row["policy"] or "-" for row in rows]), spare=4),
        *([Column("endpoint", endpoints, whole=True, spare=3)] if doors else []),
        Column("tokens", texts(tokens), right=True, spare=1),
        Column("sats", texts(sats), brief=texts([each.strip() for each in sats]), right=True),
        Column("took", texts(took), right=True, spare=2),
        Column("failed attempts", [_tries(row) for row in rows], below=True),
    ]


def _tries(row: Report) -> Text:
    if row["joined"] is not None:
        return text(f"joined {row['joined'][-SHOWN_ID:]}")
    return _failures(row["attempts"])


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


def _attempts(attempts: Sequence[Report]) -> list[Column]:
    doubtful = [each["failure"] is not None and may_have_cost(each) for each in attempts]
    money = [
        text(each["money"] or "-", DOUBTFUL if doubt else "")
        for each, doubt in zip(attempts, doubtful, strict=True)
    ]
    sats = [
        in_sats(each["cost"]["cost_sats"]) or ("unknown" if may_have_cost(each) else "-")
        for each in attempts
    ]
    unlike = [unlike_stated(each["cost"]) for each in attempts]
    expected = [other or "-" for other in unlike]
    estimated = [in_sats(each["cost"]["estimated_cost_sats"]) or "unknown" for each in attempts]
    ids = [each["upstream_request_id"] or "" for each in attempts]
    said = [each["said"] or "" for each in attempts]
    statuses = [grouped(each["http_status"]) or "-" for each in attempts]
    return [
        Column("attempt", texts([str(each["n"]) for each in attempts]), short="#", right=True),
        Column("provider", texts([each["provider"] for each in attempts])),
        Column("model", texts([each["model"] for each in attempts])),
        Column("failure", texts([each["failure"] or "-" for each in attempts], BAD), whole=True),
        Column("HTTP", texts(statuses), right=True),
        Column("money", money, whole=True),
        Column("sats", texts(sats), right=True),
        *([Column("expected", texts(expected), right=True)] if any(unlike) else []),
        Column("estimated", texts(estimated), right=True, spare=2),
        Column("time", texts([duration(each["duration_ms"]) for each in attempts]), right=True),
        Column("the provider's id", texts(ids), below=True),
        *([Column("it said", texts(said), below=True)] if any(said) else []),
    ]

"""Figures of the ledger as words: what `stats`, `requests` and `watch` say in the same way.

Texts go out as they are: who prints them makes harmless what a client or a provider wrote.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

from arbstr.sansio.ledger.periods import in_zone
from arbstr.sansio.moments import UTC, Zone, parse_moment
from arbstr.sansio.money import format_eyes

Report: TypeAlias = Mapping[str, Any]
"""A JSON object, as the routes answer."""

SHOWN_ID: Final = 8
"""Characters of an id in the list, the last ones: the first tell the time, and are the same for all
of a minute. `arbstr requests` finds the request by them."""

LEAST_SATS: Final = Decimal("0.000001")
"""What sums are exact to. Less is shown as less than that."""

GOOD: Final = "green"
BAD: Final = "red"
DOUBTFUL: Final = "yellow"
DIM: Final = "dim"

STYLES: Final[Mapping[str, str]] = {
    "ok": GOOD,
    "failed": BAD,
    "stream_incomplete": BAD,
    "abandoned": BAD,
    "rejected": DOUBTFUL,
    "client_disconnected": DOUBTFUL,
    "in_flight": DIM,
}
"""Of each status a row can have."""


_BRIEF: Final = {"client_disconnected": "left", "stream_incomplete": "cut off"}
"""Statuses that are too long for a narrow column."""


def in_brief(status: str) -> str:
    """What a status is called where there is little room."""
    return _BRIEF.get(status, status.replace("_", " "))


def facts(row: Report) -> dict[str, str]:
    """Everything about one request but its attempts, by name; without what is unknown."""
    tokens, cost, timing = row["tokens"], row["cost"], row["timing"]
    error = row.get("error")
    other = row["requested_model"] if row["requested_model"] != row["model"] else None
    found = {
        "request": row["correlation_id"],
        "received": f"{readable_time(row['timestamp'])} UTC",
        "status": row["status"],
        "model": row["model"] if other is None else f"{row['model']} (asked for: {other})",
        "provider": row["provider"],
        "policy": row["policy"],
        "endpoint": row["endpoint"],
        "kind": "stream" if row["streaming"] else "plain answer",
        "tokens": listed(
            (grouped(tokens["input_tokens"]), "in"),
            (grouped(tokens["cached_tokens"]), "of them cached"),
            (grouped(tokens["output_tokens"]), "out"),
            (grouped(tokens["reasoning_tokens"]), "of them reasoning"),
        ),
        "sats": listed(
            (
                in_sats(cost["cost_sats"]),
                "by our rates" if cost["provider_cost_sats"] is None else "stated by the provider",
            ),
            (unlike_stated(cost), "expected by our rates"),
            (in_sats(cost["estimated_cost_sats"]), "estimated"),
        ),
        "time": listed(
            (duration(timing["latency_ms"]), "in all"),
            (duration(timing["ttft_ms"]), "to the first output"),
        ),
        "moved": row["moved"] and "the conversation was answered elsewhere before",
        "joined": row["joined"] and f"the answer of {row['joined']}, which has the cost",
        "error": error and " ".join(str(part) for part in error.values() if part is not None),
    }
    return {name: value for name, value in found.items() if value}


def maybe_lost(attempt: Report) -> str:
    """What an attempt without an answer may have cost, as stats counts it."""
    cost = attempt["cost"]
    known = (cost["cost_sats"], cost["estimated_cost_sats"])
    return next((in_sats(amount) for amount in known if amount is not None), "unknown")


def may_have_cost(attempt: Report) -> bool:
    """Whether money may have left for an attempt."""
    return bool(attempt["money"] != "free")


def unlike_stated(cost: Report) -> str:
    """What our rates give for what was used, where something else was stated."""
    stated, expected = cost["provider_cost_sats"], cost["expected_sats"]
    return "" if stated is None or stated == expected else in_sats(expected)


def readable_time(timestamp: str) -> str:
    """A moment of the log to the second, without its zone (UTC)."""
    return timestamp[:19].replace("T", " ")


def listed(*parts: tuple[str, str]) -> str:
    """The parts that have a value, each before what it is."""
    return ", ".join(f"{value} {what}" for value, what in parts if value)


def counted(count: int, what: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def grouped(number: int | None) -> str:
    """With commas at the thousands; empty if unknown."""
    return "" if number is None else f"{number:,}"


def duration(ms: float | None) -> str:
    """Milliseconds, or seconds; empty if unknown."""
    if ms is None:
        return ""
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:,.1f} s"


def sats(amount: float | Decimal) -> str:
    """An amount for a line that is full of figures."""
    return format_eyes(Decimal(str(amount)))


def in_sats(amount: float | Decimal | None) -> str:
    """Four digits, as everywhere for eyes, with commas at the thousands; empty if unknown."""
    if amount is None:
        return ""
    if amount and abs(Decimal(str(amount))) < LEAST_SATS:
        return f"<{LEAST_SATS}"
    return f"{Decimal(sats(amount)):,f}"


def aligned_sats(amounts: Sequence[float | None]) -> list[str]:
    """Amounts of one column that is set to the right: their decimal points are below each other."""
    shown = ["unknown" if amount is None else in_sats(amount) for amount in amounts]
    places = [0 if text == "unknown" else len(text.partition(".")[2]) for text in shown]
    widest = max(places, default=0)
    return [
        text if text == "unknown" else text + " " * (widest - here + (widest > 0 and not here))
        for text, here in zip(shown, places, strict=True)
    ]


def time_in(zone: Zone, timestamp: str) -> str:
    """A moment of the log to the second, as clocks of the zone show it, without its name."""
    return readable_time(in_zone(parse_moment(timestamp) or 0, zone))


def spelled(report: Report, zone: Zone = UTC) -> str:
    """The span of a report, with its zone."""
    since, until = (_with_zone(zone, report[end]) for end in ("since", "until"))
    return f"from {since} to {until}" + (" UTC" if zone == UTC else "")


def _with_zone(zone: Zone, timestamp: str) -> str:
    if zone == UTC:
        return readable_time(timestamp)
    shown = in_zone(parse_moment(timestamp) or 0, zone)
    return f"{readable_time(shown)} {shown[23:]}"

"""Figures of the ledger as words: what `stats`, `requests` and `watch` say in the same way.

Texts go out as they are: who prints them makes harmless what a client or a provider wrote.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from arbstr.sansio.ledger.periods import in_zone
from arbstr.sansio.moments import UTC, Zone, parse_moment

Report: TypeAlias = Mapping[str, Any]
"""A JSON object, as the routes answer."""

SHOWN_ID: Final = 8
"""Characters of an id in the list, the last ones: the first tell the time, and are the same for all
of a minute. `arbstr requests` finds the request by them."""

SATS_PLACES: Final = 6
"""Decimal places of an amount: what sums are exact to. Less is shown as `<0.000001`."""

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


def in_sats(amount: float | None) -> str:
    """To the last place that sums are exact to; empty if unknown."""
    if amount is None:
        return ""
    digits = f"{amount:,.{SATS_PLACES}f}".rstrip("0").rstrip(".")
    return "<0.000001" if amount and digits == "0" else digits


def aligned_sats(amounts: Sequence[float | None]) -> list[str]:
    """Amounts of one column, all with as many decimal places as the longest needs."""
    shown = [in_sats(amount) for amount in amounts]
    places = max((len(digits.partition(".")[2]) for digits in shown), default=0)
    return [
        "unknown" if amount is None else digits if "<" in digits else f"{amount:,.{places}f}"
        for amount, digits in zip(amounts, shown, strict=True)
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

"""A ledger of some days, for what the pages show of `arbstr stats` and `arbstr requests`."""

from collections.abc import Iterator
from typing import Any

from arbstr.sansio.ids import RequestIds
from arbstr.sansio.moments import HOUR_MS, format_moment, parse_moment
from tests.ledgers import Row, attempt, request


def a_week() -> Iterator[Row]:
    """Some days of a person who writes code with two providers."""
    begin = parse_moment("2026-02-02T08:00")
    assert begin is not None
    for n in range(60):
        moment = begin + n * HOUR_MS * 5 // 2 + n * n % 7 * 600_000 + n * 7919 % 60_000
        timestamp = format_moment(moment)
        if timestamp[:10] == "2026-02-07":
            continue  # a day off
        yield one_of_a_week(n, timestamp)


def one_of_a_week(n: int, timestamp: str) -> Row:
    model = "claude-3.5-sonnet" if n % 4 == 1 else "gpt-4o"
    provider = "beta" if n % 3 == 0 else "alpha"
    tokens_in, tokens_out = 400 + n * 37 % 900, 100 + n * 53 % 700
    cost = round((tokens_in * 5 + tokens_out * 15) / 1000 + 1, 6)
    common: dict[str, Any] = {
        "timestamp": timestamp,
        "model": model,
        "provider": provider,
        "policy": "code_generation" if n % 2 else None,
        "streaming": n % 5 > 0,
        "latency_ms": 900 + n * n * 13 % 5000,
        "ttft_ms": 300 + n * 11 % 400 if n % 5 else None,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "cost_sats": cost,
        "estimated_cost_sats": cost + 1,
    }
    unknown: dict[str, Any] = dict.fromkeys(
        ("input_tokens", "output_tokens", "cost_sats", "ttft_ms")
    )
    correlation_id = RequestIds().following(
        (parse_moment(timestamp) or 0) * 1_000_000,
        n * 0x9E3779B97F4A7C15 % 2**30 << 32 | n * 2654435761 % 2**32,
    )
    answer = attempt(
        provider=provider,
        model=model,
        started_at=timestamp,
        duration_ms=common["latency_ms"] - 4,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost_sats=cost,
        estimated_cost_sats=cost + 1,
    )
    lost = {
        **answer,
        **dict.fromkeys(("input_tokens", "output_tokens", "cost_sats", "http_status")),
    }
    lost |= {"provider": "alpha", "failure": "no_answer", "money": "unknown"}
    down = lost | {"failure": "server_error", "http_status": 503, "money": "free"}
    match n:
        case 56:
            error = {"error_status": 400, "error_message": "The request may have been paid for."}
            return request(
                correlation_id, status="failed", tries=[lost], **common | unknown | error
            )
        case 57:
            return request(correlation_id, tries=[down, down, answer], **common)
        case 33:
            return request(correlation_id, tries=[lost, answer], **common)
        case 21:
            return request(
                correlation_id,
                status="rejected",
                **common | unknown | {"provider": None, "latency_ms": 1},
            )
        case 40:
            return request(correlation_id, tries=[answer], **common | unknown)
        case _:
            return request(correlation_id, tries=[answer], **common)

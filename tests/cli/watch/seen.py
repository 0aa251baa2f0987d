"""Answers of a running arbstr, as its routes give them, for tests of the screen."""

from typing import Any, Final

from arbstr.cli.watch.model import Model, Seen
from arbstr.sansio.moments import format_moment, parse_moment

WHERE: Final = "127.0.0.1:8080"


def moment(text: str) -> int:
    found = parse_moment(text)
    assert found is not None
    return found


NOW: Final = moment("2026-02-03T12:04:05Z")


def health(**more: object) -> dict[str, Any]:
    """Of an arbstr with one healthy provider, in use since three hours."""
    return {
        "status": "ok",
        "started_at": "2026-02-03T08:52:00.000Z",
        "providers": {"alpha": {"state": "closed", "failure_count": 0}},
        "log": {"queued": 0, "written": 412, "dropped": 0},
        "settled": 0,
        **more,
    }


def stats(spent: float = 12.3125, lost: float = 0.25, **counts: int) -> dict[str, Any]:
    return {
        "counts": {
            "total": 412,
            "error": 3,
            "rejected": 2,
            "in_flight": 0,
            "unknown_cost": 0,
            **counts,
        },
        "costs": {"total_cost_sats": spent, "possibly_spent_sats": lost},
    }


def row(n: int, **more: Any) -> dict[str, Any]:
    """The n-th last request: one each two seconds, answered."""
    status = more.pop("status", "ok")
    error = more.pop("error", None)
    columns = {
        "correlation_id": f"01a222c1-d41e-77bd-92f9-3d1382390{n:03x}",
        "timestamp": format_moment(NOW - 2000 * n - 900),
        "model": "gpt-4o",
        "requested_model": "gpt-4o",
        "provider": "alpha",
        "policy": None,
        "endpoint": "chat",
        "streaming": True,
        "success": status == "ok",
        "status": status,
        "tokens": {
            "input_tokens": 1204,
            "output_tokens": 380,
            "cached_tokens": None,
            "reasoning_tokens": None,
        },
        "cost": {
            "cost_sats": 0.5213,
            "expected_sats": 0.5213,
            "estimated_cost_sats": 2.1,
            "provider_cost_sats": None,
        },
        "timing": {"latency_ms": 2140, "ttft_ms": 310, "stream_duration_ms": 1800},
        "moved": None,
        "joined": None,
        "attempts": 1,
        "possibly_spent": 0,
        **more,
    }
    return columns if error is None else {**columns, "error": error}


NO_TOKENS: Final = {
    "input_tokens": None,
    "output_tokens": None,
    "cached_tokens": None,
    "reasoning_tokens": None,
}
NO_COST: Final = {
    "cost_sats": None,
    "expected_sats": None,
    "estimated_cost_sats": 2.1,
    "provider_cost_sats": None,
}


def running(n: int, **more: Any) -> dict[str, Any]:
    """One that has not ended."""
    timing = {"latency_ms": None, "ttft_ms": None, "stream_duration_ms": None}
    return row(n, status="in_flight", tokens=NO_TOKENS, cost=NO_COST, timing=timing, **more)


def page(*rows: dict[str, Any], total: int | None = None) -> dict[str, Any]:
    return {"data": list(rows), "total": len(rows) if total is None else total}


def rates(into: float, out: float) -> dict[str, float | None]:
    return {"input_rate": into, "output_rate": out, "base_fee": 0, "cached_input_rate": None}


def told(seen: Seen, now: int = NOW) -> Model:
    """The first look."""
    return Model(WHERE, now).told(seen, now)


def busy() -> Model:
    """A day on which everything happened."""
    providers = {
        "alpha": {"state": "closed", "failure_count": 0},
        "node-b": {
            "state": "open",
            "failure_count": 3,
            "retry_at": "2026-02-03T12:04:17Z",
            "last_error": "did not answer within 60 s",
            "balance": {"free_sats": 1204.5, "reserved_sats": 3, "asked_at": None},
        },
        "node-c": {
            "state": "closed",
            "failure_count": 0,
            "resting_until": "2026-02-03T12:13:05Z",
            "resting_for": "balance",
            "balance": {"free_sats": 0.8, "reserved_sats": 0, "asked_at": None},
        },
        "delta.with-a-long-name": {
            "state": "closed",
            "failure_count": 0,
            "models": {"gpt-4o-mini": {"state": "open"}, "o3": {"state": "half_open"}},
        },
    }
    listed = [
        {"name": "alpha", "rates": {"gpt-4o": rates(10, 30), "claude-3.5-sonnet": rates(10, 30)}},
        {
            "name": "node-b",
            "rates": {"gpt-4o": rates(2.3458, 9.1), "o3": rates(0.31, 40)},
            "prices": {"models": {"gpt-4o": {"changed": 0.043}, "o3": {"changed": -0.3}}},
        },
        {"name": "node-c", "rates": {"gpt-4o": None}, "prices": {"models": {}}},
    ]
    rows = (
        running(0),
        running(1, model="claude-3.5-sonnet", provider="node-b"),
        row(2, provider="node-b"),
        row(3, joined="01a222c1-d41e-77bd-92f9-3d1382390002", cost={**NO_COST, "cost_sats": 0.0}),
        row(
            4,
            status="failed",
            provider="node-b",
            tokens=NO_TOKENS,
            cost=NO_COST,
            possibly_spent=1,
            attempts=2,
            error={"status": 400, "message": "It may have been paid for, and nobody knows."},
        ),
        row(
            5,
            status="rejected",
            provider=None,
            tokens=NO_TOKENS,
            cost=NO_COST,
            attempts=0,
            error={"status": 402, "message": "The budget of today is spent."},
        ),
        row(6, status="client_disconnected", attempts=2),
        row(7, status="stream_incomplete"),
        row(8, model="模型-七", attempts=3, cost={**NO_COST, "cost_sats": 1234.5678}),
        row(9, model="evil\x1b[2J\u202emodel\n", provider="alpha"),
        *(row(n) for n in range(10, 40)),
    )
    budget = {"limit": 100, "spent": 12.5625, "set_aside": 0.5, "ends_at": None}
    return told(
        Seen(
            health=health(status="degraded", providers=providers, budget=budget, settled=2),
            today=stats(in_flight=2, unknown_cost=1),
            minute=stats(3.0, 0.0),
            page=page(*rows, total=412),
            providers={"providers": listed},
        )
    )


def detail_of(n: int = 4) -> dict[str, Any]:
    """All about a request that may have been paid for."""
    attempt = {
        "n": 1,
        "provider": "alpha",
        "model": "gpt-4o",
        "started_at": "2026-02-03T12:03:56.100Z",
        "duration_ms": 12,
        "failure": "rate_limited",
        "http_status": 429,
        "money": "free",
        "tokens": NO_TOKENS,
        "cost": NO_COST,
        "upstream_request_id": None,
        "said": None,
    }
    message = "It may have been paid for, and nobody knows. " * 3
    return {
        **row(
            n,
            status="failed",
            provider="node-b",
            tokens=NO_TOKENS,
            cost=NO_COST,
            possibly_spent=1,
            error={"status": 400, "message": message.strip()},
        ),
        "attempts": [
            attempt,
            {
                **attempt,
                "n": 2,
                "provider": "node-b",
                "duration_ms": 60_012,
                "failure": "no_answer",
                "http_status": None,
                "money": "unknown",
                "upstream_request_id": "req-\x1b]0;title\x07-7",
            },
        ],
    }

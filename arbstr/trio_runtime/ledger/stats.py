"""The figures of /v1/stats: counts, costs and latencies of the requests in a span of time.

    filters, groups --sums--> figures, failures, repeats, by their key in SQL --> a report

Money is that of attempts, each that was not free once: `total_cost_sats` of those that brought an
answer, `possibly_spent_sats` of those that failed. Attempts that failed count for the provider and
the model they were made at, which need not be those of their request: another provider may have
answered in the end. All else counts for the request.

Waits for the disk; call it in a thread. Raises what the session does.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from arbstr.sansio.ledger.reports import Filters, Group
from arbstr.sansio.moments import UTC
from arbstr.trio_runtime.ledger.port import Session
from arbstr.trio_runtime.ledger.sums import (
    BETWEEN,
    FIGURES,
    Failures,
    Figures,
    Split,
    ends,
    read_all,
    sats_of,
    sum_failures,
    sum_figures,
)
from arbstr.trio_runtime.ledger.walks import read_percentiles


def read_stats(
    session: Session, filters: Filters, group: Group | None, then: Group | None = None
) -> dict[str, Any]:
    """The body of /v1/stats: of all, and of each group, split once more if `then` is given."""
    split, figures, failures, joined = read_all(session, filters, group, then)
    everything = sum_figures(figures.values())
    p50, p95 = read_percentiles(session, filters, int(everything["timed"]))
    zone = {} if filters.zone == UTC else {"zone": filters.zone.name}
    report = {
        **ends(filters.span),
        **zone,
        **_shown(
            everything,
            sum_failures(failures.values()),
            sum(joined.values()),
            {"p50_latency_ms": p50, "p95_latency_ms": p95},
        ),
    }
    if group is not None:
        keys: dict[tuple[str, ...], list[str]] = {}
        for text in sorted({*figures, *failures}):
            keys.setdefault(split.key(text), []).append(text)
        report["groups"] = [
            _shown_group(
                split,
                key,
                sum_figures(figures[text] for text in texts if text in figures),
                sum_failures(failures[text] for text in texts if text in failures),
                sum(joined.get(text, 0) for text in texts),
            )
            for key, texts in sorted(keys.items(), key=lambda item: _place(split, *item))
        ]
    return report


def _place(split: Split, key: tuple[str, ...], texts: Sequence[str]) -> tuple[str, ...]:
    """Where a group stands: periods as they followed each other, also in a night that has an hour
    twice, and names in theirs."""
    first = _moment_key(texts) if split.is_time else key[0]
    return (first, *key[1:])


def _moment_key(texts: Sequence[str]) -> str:
    return min(texts).partition(BETWEEN)[0]


def _shown_group(
    split: Split,
    key: tuple[str, ...],
    figures: Figures,
    failures: Failures,
    joined: int,
) -> dict[str, Any]:
    shown = _shown(figures, failures, joined)
    # Of a provider that never answered this is all there is to see.
    shown["counts"]["failed_attempts"] = failures[0]
    names = (group.value for group in (split.group, split.then) if group is not None)
    return {**{name: part or None for name, part in zip(names, key, strict=True)}, **shown}


def _shown(
    figures: Figures,
    failures: Failures,
    joined: int,
    percentiles: Mapping[str, int | None] = MappingProxyType({}),
) -> dict[str, Any]:
    total, success, rejected, gone, in_flight = (int(figures[name]) for name in FIGURES[:5])
    _, possibly_spent_attempts, possibly_spent_nanosats = failures
    return {
        "counts": {
            "total": total,
            "success": success,
            # failed, stream_incomplete, abandoned: whatever is none of the others.
            "error": total - success - rejected - gone - in_flight,
            "rejected": rejected,
            "client_disconnected": gone,
            "in_flight": in_flight,
            "streaming": int(figures["streaming"]),
            "joined": joined,
            "unknown_cost": int(figures["unknown_cost"]),
            "possibly_spent_attempts": possibly_spent_attempts,
        },
        "costs": {
            "total_cost_sats": sats_of(figures["cost_nanosats"]),
            "possibly_spent_sats": sats_of(possibly_spent_nanosats),
            "total_input_tokens": int(figures["input_tokens"]),
            "total_output_tokens": int(figures["output_tokens"]),
        },
        "performance": {
            "avg_latency_ms": _average(figures, "latency_ms", "timed"),
            **percentiles,
            "avg_ttft_ms": _average(figures, "ttft_ms", "ttft_requests"),
        },
    }


def _average(figures: Figures, total: str, count: str) -> float | None:
    return figures[total] / figures[count] if figures[count] else None

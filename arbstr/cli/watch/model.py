"""What is known of a running arbstr: what its routes say -> one value that a screen can show.

    Model --told(Seen)--> Model      it answered: what it said, and what it need not be asked again
    Model --missed(why)--> Model     it did not: everything as it was, and since when

Pure: times are milliseconds since 1970, always an argument. The texts in it are as they came;
whoever shows them makes them harmless.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias, final

from arbstr.cli.routes import waiting_rows
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.moments import DAY_MS, parse_moment

Report: TypeAlias = Mapping[str, Any]
"""A JSON object, as a route answers it."""

SECOND_MS: Final = 1000
MINUTE_MS: Final = 60_000

UNSEEN: Final = "has not been asked yet"


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """What arbstr answered. `None`: it was not asked, because nothing there can have changed.

    today    /stats of the running day (UTC)
    minute   /stats of the last minute, once at the beginning
    page     /requests, the newest first; `running` those in flight, where the page lacks some
    detail   /requests/{id} of the request that is looked at
    ledger   why none of these could be answered: the rest of a sentence about arbstr
    """

    health: Report
    today: Report | None = None
    minute: Report | None = None
    page: Report | None = None
    running: Report | None = None
    providers: Report | None = None
    detail: Report | None = None
    ledger: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A request. `at` is when it came; times in ms. `unknown`: nobody knows what it cost."""

    id: str
    at: int
    model: str
    provider: str | None
    endpoint: str
    status: str
    tokens_in: int | None
    tokens_out: int | None
    sats: float | None
    unknown: bool
    took: int | None
    attempts: int
    error: str | None
    joined: str | None


@final
@dataclass(frozen=True, slots=True)
class Provider:
    """How one stands. `until` is the end of its rest, or when its open circuit lets one try.

    `state` is "ok", "open", "half open", "rests", "sick" (some of its models are) or "prices" (its
    node's cannot be read); `why` belongs to it. `rates` are (in, out) of each model, `changed` by
    which part the outputs are dearer than yesterday, of each model that was listed then.
    """

    name: str
    state: str
    until: int | None
    why: str | None
    rates: Mapping[str, tuple[float, float]]
    changed: Mapping[str, float]
    balance: float | None


@final
@dataclass(frozen=True, slots=True)
class Day:
    """The running day (UTC). Without a budget `limit` and `set_aside` are `None`."""

    spent: float
    limit: float | None
    set_aside: float | None
    requests: int
    failed: int
    rejected: int
    in_flight: int
    unknown: int
    settled: int


@final
@dataclass(frozen=True, slots=True)
class Model:
    """All of it, as of `now`.

    It answered last when `answered`; `trouble` is why it does not any more, since `since`;
    `ledger`, why its ledger does not; `waiting`, which rows cannot be written. `total` counts the
    requests that were asked for, `rows` are the newest of them. `spendings` are (moment, sats of
    the day until then) of the last minute, the first from before it.
    """

    where: str
    now: int
    answered: int = 0
    status: str = ""
    trouble: str | None = UNSEEN
    since: int | None = None
    restarted: int | None = None
    started: int | None = None
    queued: int = 0
    waiting: str | None = None
    day: Day | None = None
    spendings: tuple[tuple[int, float], ...] = ()
    providers: tuple[Provider, ...] = ()
    rows: tuple[Row, ...] = ()
    running: tuple[Row, ...] = ()
    total: int = 0
    detail: Report | None = None
    ledger: str | None = None
    stats: Report | None = None
    listed: Report | None = None

    @property
    def minute(self) -> float:
        """Sats of the last minute."""
        return max(self.spendings[-1][1] - self.spendings[0][1], 0.0) if self.spendings else 0.0

    def told(self, seen: Seen, now: int) -> "Model":
        """After an answer. Raises `LookupError`, `TypeError` or `ValueError` for what no arbstr
        says."""
        health = seen.health
        stats = self.stats if seen.today is None else seen.today
        listed = self.listed if seen.providers is None else seen.providers
        day = None if stats is None else _day(health, stats)
        started = _moment(health.get("started_at"))
        # Of several workers the oldest may have been replaced: that was long before we last looked.
        again = (
            self.started is not None
            and started is not None
            and started != self.started
            and started + SECOND_MS > self.answered
        )
        rows = self.rows if seen.page is None else tuple(map(row_of, seen.page["data"]))
        running = tuple(row for row in rows if row.status == "in_flight")
        if seen.running is not None:
            running = tuple(map(row_of, seen.running["data"]))
        elif seen.page is None:
            running = self.running
        return replace(
            self,
            now=now,
            answered=now,
            status=str(health["status"]),
            trouble=None,
            since=None,
            restarted=now if again else self.restarted,
            started=started,
            queued=int(health["log"]["queued"]),
            waiting=waiting_rows(health["log"]),
            day=day,
            spendings=self._spendings(day, seen.minute, now),
            providers=tuple(_providers(health, listed)),
            rows=rows,
            running=running,
            total=self.total if seen.page is None else int(seen.page["total"]),
            detail=self.detail if seen.detail is None else seen.detail,
            ledger=seen.ledger,
            stats=stats,
            listed=listed,
        )

    def missed(self, why: str, now: int) -> "Model":
        """After none. What was known stays, and is as old as that."""
        since = now if self.trouble is None or self.since is None else self.since
        return replace(self, now=now, trouble=why, since=since)

    def _spendings(
        self, day: Day | None, minute: Report | None, now: int
    ) -> tuple[tuple[int, float], ...]:
        if day is None:
            return ()
        known = self.spendings
        if minute is not None:
            known = ((now - MINUTE_MS, max(day.spent - _spent(minute), 0.0)),)
        if known and known[-1][0] // DAY_MS != now // DAY_MS:
            known = ((now - now % DAY_MS, 0.0),)  # a new day begins at nothing
        older = [at for at, (moment, _) in enumerate(known) if moment <= now - MINUTE_MS]
        return (*known[older[-1] if older else 0 :], (now, day.spent))


def row_of(report: Report) -> Row:
    """A row of /requests."""
    cost, tokens, status = report["cost"], report["tokens"], str(report["status"])
    error, sats = report.get("error"), _number(cost["cost_sats"])
    ended = status in ("ok", "stream_incomplete")
    lost = status != "in_flight" and bool(report["possibly_spent"])
    return Row(
        id=str(report["correlation_id"]),
        at=_moment(report["timestamp"]) or 0,
        model=str(report["model"]),
        provider=_text(report["provider"]),
        endpoint=str(report["endpoint"]),
        status=status,
        tokens_in=_count(tokens["input_tokens"]),
        tokens_out=_count(tokens["output_tokens"]),
        sats=sats,
        unknown=sats is None and (ended or lost),
        took=_count(report["timing"]["latency_ms"]),
        attempts=int(report["attempts"] or 0),
        error=None
        if error is None
        else " ".join(str(part) for part in error.values() if part is not None),
        joined=_text(report["joined"]),
    )


def _day(health: Report, stats: Report) -> Day:
    counts, budget = stats["counts"], health.get("budget") or {}
    return Day(
        spent=float(budget.get("spent", _spent(stats))),
        limit=_number(budget.get("limit")),
        set_aside=_number(budget.get("set_aside")),
        requests=int(counts["total"]),
        failed=int(counts["error"]),
        rejected=int(counts["rejected"]),
        in_flight=int(counts["in_flight"]),
        unknown=int(counts["unknown_cost"]),
        settled=int(health.get("settled", 0)),
    )


def _spent(stats: Report) -> float:
    costs = stats["costs"]
    return float(costs["total_cost_sats"] or 0) + float(costs["possibly_spent_sats"] or 0)


def _providers(health: Report, listed: Report | None) -> Iterator[Provider]:
    """Those of now, by /health; what they charge, /providers said when it was last asked."""
    known = {} if listed is None else {each["name"]: each for each in listed["providers"]}
    for name, seen in health["providers"].items():
        said = known.get(name, {})
        rates = {
            model: (float(each["input_rate"]), float(each["output_rate"]))
            for model, each in (said.get("rates") or {}).items()
            if each is not None
        }
        prices = said.get("prices") or {}
        changed = {
            model: float(each["changed"])
            for model, each in (prices.get("models") or {}).items()
            if each.get("changed") is not None
        }
        state, until, why = _state(seen, prices)
        balance = (seen.get("balance") or {}).get("free_sats")
        yield Provider(str(name), state, until, why, rates, changed, _number(balance))


def _state(seen: Report, prices: Report) -> tuple[str, int | None, str | None]:
    match seen["state"]:
        case "open":
            return "open", _moment(seen.get("retry_at")), _text(seen.get("last_error"))
        case "half_open":
            return "half open", None, _text(seen.get("last_error"))
        case _:
            pass
    if seen.get("resting_until") is not None:
        return "rests", _moment(seen["resting_until"]), _text(seen.get("resting_for"))
    if sick := seen.get("models"):
        return "sick", None, ", ".join(sorted(sick))
    if prices.get("trouble") is not None:
        return "prices", None, str(prices["trouble"])
    return "ok", None, None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float | None:  # noqa: ANN401 - of a JSON text
    return None if value is None else float(value)


def _count(value: Any) -> int | None:  # noqa: ANN401
    return None if value is None else int(value)


def _moment(value: object) -> int | None:
    return parse_moment(value) if isinstance(value, str) else None

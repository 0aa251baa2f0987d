"""What several workers say of themselves, as one answer: /health and /providers.

    the report of each worker, None of one that said nothing --> one report of the same shape

    status             ok: all serve, and each is ok; unhealthy: each that answers is; else degraded
    a circuit          the worst of any worker: open, half_open, closed; of equals the later one.
                       Where they differ, `workers` says how each has it
    log                the sums; the longest wait, and any trouble; damaged if it is for any
    a rest             the longest
    started_at         of the one that serves longest
    settled            the sum
    a path not served  by any worker's word
    prices, balance    the newest
    workers            each of them, with its process and its status: a worker's own, or starting,
                       to be started again, silent

A provider is another one after a reload: the worker that answers says which there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, final

from arbstr.sansio.config.credentials import Kind
from arbstr.sansio.failover.kinds import TRAITS
from arbstr.sansio.fates import State
from arbstr.sansio.frozen import dataclass

Report: TypeAlias = Mapping[str, Any]

SILENT: Final = "silent"
"""A worker that serves and did not answer its sibling in time."""

RANKS: Final = ("closed", "half_open", "open")
"""States of a circuit, the worst last."""


@final
@dataclass(frozen=True, slots=True)
class Said:
    """What one worker said; `report` is None if it said nothing. `pid` is None if it has none."""

    worker: int
    pid: int | None
    state: State
    report: Report | None = None


def combined_health(own: Report, said: Sequence[Said]) -> dict[str, Any]:
    """`own` is the report of the worker that answers, and is among `said`."""
    workers = [_told_of(each) for each in said]
    reports = {each.worker: each.report for each in said if each.report is not None}
    logs = [report["log"] for report in reports.values()]
    statuses = {worker["status"] for worker in workers}
    if statuses == {"ok"}:
        status = "ok"
    elif all(report["status"] == "unhealthy" for report in reports.values()):
        status = "unhealthy"
    else:
        status = "degraded"
    since = [report["started_at"] for report in reports.values() if "started_at" in report]
    return {
        "status": status,
        **({"started_at": min(since)} if since else {}),
        "settled": sum(report.get("settled", 0) for report in reports.values()),
        "providers": {
            name: _circuits_of(
                {
                    worker: report["providers"][name]
                    for worker, report in reports.items()
                    if name in report["providers"]
                }
            )
            for name in own["providers"]
        },
        "log": _log_of(logs),
        "workers": workers,
    }


def combined_providers(own: Report, said: Sequence[Said]) -> dict[str, Any]:
    """The same for the list of providers."""
    by_name: dict[str, list[Report]] = {}
    for each in said:
        for provider in () if each.report is None else each.report["providers"]:
            by_name.setdefault(provider["name"], []).append(provider)
    return {
        "providers": [
            _provider(one, [other for other in by_name[one["name"]] if other["url"] == one["url"]])
            for one in own["providers"]
        ],
        "workers": [_told_of(each) for each in said],
    }


def _log_of(logs: Sequence[Report]) -> dict[str, Any]:
    waits = [log["waiting_seconds"] for log in logs if "waiting_seconds" in log]
    troubles = [log["trouble"] for log in logs if "trouble" in log]
    return {
        **{count: sum(log[count] for log in logs) for count in ("queued", "written", "dropped")},
        **({"waiting_seconds": max(waits)} if waits else {}),
        **({"trouble": troubles[0]} if troubles else {}),
        **({"damaged": True} if any(log.get("damaged") for log in logs) else {}),
    }


def _told_of(said: Said) -> dict[str, Any]:
    if said.report is None:
        status = SILENT if said.state is State.SERVING else said.state.value
    else:
        status = said.report.get("status", State.SERVING.value)
    return {"worker": said.worker, "pid": said.pid, "status": status}


def _circuits_of(views: Mapping[int, Report]) -> dict[str, Any]:
    """One provider's, of each worker that has it."""
    found = _worst(views.values())
    models = {model for view in views.values() for model in view.get("models", ())}
    if models:
        found["models"] = {
            model: _worst(view["models"][model] for view in views.values() if _has(view, model))
            for model in sorted(models)
        }
    resting = [view for view in views.values() if "resting_until" in view]
    if resting:
        found.update(_longest_rest(resting))
    balances = [view["balance"] for view in views.values() if "balance" in view]
    if balances:
        found["balance"] = max(balances, key=partial(_moment, "asked_at"))
    if len({view["state"] for view in views.values()}) > 1:
        found["workers"] = {str(worker): view["state"] for worker, view in views.items()}
    return found


def _longest_rest(views: Sequence[Report]) -> dict[str, Any]:
    longest = max(views, key=lambda view: str(view["resting_until"]))
    return {member: longest[member] for member in ("resting_until", "resting_for")}


def _has(view: Report, model: str) -> bool:
    return model in view.get("models", ())


def _worst(views: Iterable[Report]) -> dict[str, Any]:
    """The worst circuit, with the most failures there are."""
    every = list(views)
    worst = max(every, key=lambda view: (RANKS.index(view["state"]), view.get("retry_at", "")))
    return {**worst, "failure_count": max(view["failure_count"] for view in every)}


def _provider(own: Report, every: Sequence[Report]) -> dict[str, Any]:
    found = dict(own)
    found["circuit"] = max((view["circuit"] for view in every), key=RANKS.index)
    resting = [view for view in every if view["resting_until"] is not None]
    if resting:
        found.update(_longest_rest(resting))
    sick = {model for view in every for model in view.get("circuits", ())}
    if sick:
        found["circuits"] = {
            model: _worst(
                view["circuits"][model] for view in every if model in view.get("circuits", ())
            )
            for model in sorted(sick)
        }
    missing = _missing([view["missing_endpoints"] for view in every if "missing_endpoints" in view])
    if missing:
        found["missing_endpoints"] = missing
    for view in every:
        # One of them saw its signature; the others are told, and may not have read it yet.
        if TRAITS[Kind(view["kind"])].signature is not None:
            found["kind"] = view["kind"]
    for member in ("stated", "charged"):
        sums = [view[member] for view in every if member in view]
        if sums:
            found[member] = _added_up(sums)
    for member, moment in (("prices", "fetched_at"), ("balance", "asked_at")):
        known = [view[member] for view in every if member in view]
        if known:
            found[member] = max(known, key=partial(_moment, moment))
    return found


def _moment(name: str, report: Report) -> str:
    """In UTC, so that the text is in the order of time; none is the oldest."""
    return report[name] or ""


def _added_up(every: Sequence[Report]) -> Report:
    """Numbers, also those in the objects of an object."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for report in every for name in report):
        values = [report[name] for report in every if name in report]
        found[name] = _added_up(values) if isinstance(values[0], Mapping) else sum(values)
    return found


def _missing(every: Sequence[Mapping[str, Sequence[str] | None]]) -> dict[str, Any]:
    """By endpoint the models for which it is not served; None is for all."""
    found: dict[str, Any] = {}
    for endpoint in dict.fromkeys(name for missing in every for name in missing):
        lists = [missing[endpoint] for missing in every if endpoint in missing]
        found[endpoint] = (
            None
            if None in lists
            else sorted({model for models in lists if models is not None for model in models})
        )
    return found

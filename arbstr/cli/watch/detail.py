"""All about one request, in lines of a screen: what `arbstr requests ID` says, and live.

Pure, as `screen` is.
"""

from collections.abc import Iterator
from typing import Final

from arbstr.cli.cells import BOLD, Line, wrapped
from arbstr.cli.figures import BAD, DIM, DOUBTFUL, STYLES, duration, facts, in_sats, may_have_cost
from arbstr.cli.watch.model import Model, Report

_NAME: Final = 12
"""Cells of the names at the left."""


def detail_lines(model: Model, wanted: str, width: int) -> list[Line]:
    """Those of the request that is looked at, if it has been asked for yet."""
    detail = model.detail
    if detail is None or detail["correlation_id"] != wanted:
        return [((f"  {wanted}: asked for it", DIM),)]
    return list(_lines(detail, max(width - _NAME - 1, 10)))


def _lines(detail: Report, room: int) -> Iterator[Line]:
    for name, value in facts(detail).items():
        style = STYLES.get(value, "") if name == "status" else ""
        yield from _fact(name, value, style, room)
    for attempt in detail["attempts"]:
        yield ()
        failure, doubtful = attempt["failure"], may_have_cost(attempt)
        yield (
            (f"{'attempt ' + str(attempt['n']):<{_NAME}} ", DIM),
            (f"{attempt['provider']}  {attempt['model']}", BOLD),
        )
        status = attempt["http_status"]
        ended = failure or ("answered" if attempt["duration_ms"] is not None else "running")
        how = [ended, *([] if status is None else [f"HTTP {status}"])]
        how.append(duration(attempt["duration_ms"]))
        yield from _fact("", ", ".join(filter(None, how)), BAD if failure else "", room)
        cost = attempt["cost"]
        paid = in_sats(cost["cost_sats"]) or ("unknown" if doubtful else "")
        estimated = in_sats(cost["estimated_cost_sats"])
        money = [
            *([f"{attempt['money']}"] if attempt["money"] else []),
            *([f"{paid} sats" if paid != "unknown" else "cost unknown"] if paid else []),
            *([f"{estimated} estimated"] if estimated else []),
        ]
        style = DOUBTFUL if failure and doubtful else ""
        yield from _fact("", ", ".join(money), style, room)
        if attempt["upstream_request_id"] is not None:
            yield from _fact("", f"its id: {attempt['upstream_request_id']}", "", room)
        if attempt["said"] is not None:
            yield from _fact("", f"it said: {attempt['said']}", "", room)


def _fact(name: str, value: str, style: str, room: int) -> Iterator[Line]:
    if not value:
        return
    for at, line in enumerate(wrapped(str(value), room)):
        yield ((f"{name if at == 0 else '':<{_NAME}} ", DIM), (line, style))

"""What `arbstr watch` prints where there is no screen: a line for each thing that happened.

    told(before, after, printed) -> lines, and the ids that are printed now

Requests once they have ended, circuits and rests that turned, arbstr that went and came back.
Pure. A line is made harmless here, and is never cut: who reads it is a file, or grep.
"""

from collections.abc import Collection, Iterator

from arbstr.cli.figures import duration, sats
from arbstr.cli.watch.model import Model, Row
from arbstr.cli.watch.screen import clock, cost_of, state_of, tokens_of
from arbstr.sansio.visible import escaped


def told(before: Model, after: Model, printed: Collection[str]) -> Iterator[str]:
    """What is new since `before`; `printed` are the ids of requests that are no news."""
    at = clock(after.now)
    if after.trouble is not None:
        if before.trouble is None or before.day is None:
            yield f"{at} arbstr {after.where} {escaped(after.trouble)}"
        return
    if before.trouble is not None or before.status != after.status:
        yield f"{at} arbstr {after.where} {after.status}: {_today(after)}"
    if after.waiting is not None and before.waiting is None:
        yield f"{at} arbstr {after.where} {escaped(after.waiting)}"
    known = {each.name: each for each in before.providers}
    for provider in after.providers:
        past = known.get(provider.name)
        if (past.state if past is not None else "ok") != provider.state:
            state = state_of(provider, after.now)
            yield f"{at} provider {escaped(provider.name)}: {escaped(state)}"
    for row in reversed(after.rows):
        if row.status != "in_flight" and row.id not in printed:
            yield _ended(row)


def _today(model: Model) -> str:
    day = model.day
    if day is None:
        return "nothing is known of today"
    of = "" if day.limit is None else f" of {sats(day.limit)}"
    unknown = f", {day.unknown} of unknown cost" if day.unknown else ""
    return (
        f"{day.in_flight} in flight, {sats(day.spent)}{of} sats today "
        f"for {day.requests} requests{unknown}"
    )


def _ended(row: Row) -> str:
    why = "" if row.error is None else f": {row.error}"
    parts = [
        clock(row.at),
        row.status,
        row.id,
        row.model,
        row.provider or "-",
        f"{tokens_of(row)} tokens",
        f"{cost_of(row)} sats",
        (duration(row.took) or "-") + why,
    ]
    return " ".join(escaped(part) for part in parts)

"""What `arbstr watch` prints where there is no screen: a line for each thing that happened.

    told(before, after, printed) -> lines, and the ids that are printed now

Requests once they have ended, circuits and rests that turned, arbstr that went and came back, and,
once a minute, that it is still away: a silent log would say that all is well.
Pure. A line is made harmless here, and is never cut: who reads it is a file, or grep.
"""

from collections.abc import Collection, Iterator

from arbstr.cli.figures import duration, sats
from arbstr.cli.watch.model import MINUTE_MS, Model, Row
from arbstr.cli.watch.screen import clock, cost_of, state_of, tokens_of
from arbstr.sansio.visible import escaped


def told(before: Model, after: Model, printed: Collection[str]) -> Iterator[str]:
    """What is new since `before`; `printed` are the ids of requests that are no news."""
    at = clock(after.now)
    if after.trouble is not None:
        if after.trouble != before.trouble:
            yield f"{at} arbstr {after.where} {escaped(after.trouble)}"
        elif _minutes_away(after) > _minutes_away(before):
            away = f"{_minutes_away(after)} min"
            yield f"{at} arbstr {after.where} {escaped(after.trouble)}, for {away} now"
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


def _minutes_away(model: Model) -> int:
    return 0 if model.since is None else (model.now - model.since) // MINUTE_MS


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

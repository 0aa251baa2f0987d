"""What somebody chose to see, and what a key makes of that.

    press(view, key, rows) -> View | None       None: leave

    q leave     f failures only      enter  all about the request      ? the keys
                u unknown cost only  arrows, page up, page down: move
                p only the provider of this request, m only its model, a everything

Pure. A request is chosen by its id, so it stays chosen while others come in above it; nobody is
chosen until somebody moves.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, final

from arbstr.cli.watch.keys import (
    DOWN,
    END,
    ENTER,
    ESCAPE,
    HOME,
    LEAVE,
    PAGE_DOWN,
    PAGE_UP,
    UP,
    Key,
)
from arbstr.cli.watch.model import Model, Row
from arbstr.sansio.frozen import dataclass

MOST_ROWS: Final = 100
"""What /requests gives on one page."""

PAGE: Final = 10
"""Rows that a page key moves by."""

_MOVES: Final = {
    UP: -1,
    "k": -1,
    DOWN: 1,
    "j": 1,
    PAGE_UP: -PAGE,
    PAGE_DOWN: PAGE,
    HOME: -MOST_ROWS,
    "g": -MOST_ROWS,
    END: MOST_ROWS,
    "G": MOST_ROWS,
}


@final
@dataclass(frozen=True, slots=True)
class View:
    """`chosen` and `detail` are ids; `skipped` are lines of the detail, or the help, above the
    screen."""

    chosen: str | None = None
    failures: bool = False
    unknown: bool = False
    provider: str | None = None
    model: str | None = None
    detail: str | None = None
    help: bool = False
    skipped: int = 0

    @property
    def is_filtered(self) -> bool:
        """Whether not every request is shown."""
        return self.failures or self.unknown or not (self.provider is None and self.model is None)

    def wanted_rows(self, height: int) -> int:
        """How many requests to ask for, if so many fit: more once somebody looks for one."""
        if self.chosen is not None or self.unknown:
            return MOST_ROWS
        return max(1, min(height, MOST_ROWS))


def shown_rows(model: Model, view: View) -> tuple[Row, ...]:
    """Those in flight, the newest first as all of them, and the others."""
    there = {row.id for row in model.rows}
    running = [row for row in model.running if row.id not in there and _fits(row, view)]
    rows = (*running, *model.rows)
    if view.unknown:
        rows = tuple(row for row in rows if row.unknown)
    return tuple(sorted(rows, key=lambda row: row.status != "in_flight"))


def _fits(row: Row, view: View) -> bool:
    return view.provider in (None, row.provider) and view.model in (None, row.model)


def press(view: View, key: Key, rows: Sequence[Row]) -> View | None:
    """The view after a key; `rows` are those that are shown."""
    if key in ("q", "Q", LEAVE):
        return None
    if view.help or view.detail is not None:
        return _press_aside(view, key)
    at = next((at for at, row in enumerate(rows) if row.id == view.chosen), None)
    chosen = rows[at or 0] if rows else None
    match key:
        case "?" | "h":
            return replace(view, help=True, skipped=0)
        case "f":
            return replace(view, failures=not view.failures, chosen=None)
        case "u":
            return replace(view, unknown=not view.unknown, chosen=None)
        case "p" if view.provider is not None:
            return replace(view, provider=None, chosen=None)
        case "p" if chosen is not None:
            return replace(view, provider=chosen.provider, chosen=None)
        case "m" if view.model is not None:
            return replace(view, model=None, chosen=None)
        case "m" if chosen is not None:
            return replace(view, model=chosen.model, chosen=None)
        case "a":
            return View()
        case _ if key == ENTER and chosen is not None:
            return replace(view, chosen=chosen.id, detail=chosen.id, skipped=0)
        case _ if key == ESCAPE:
            return View() if view.chosen is None else replace(view, chosen=None)
        case _ if key in _MOVES and rows:
            # The first press shows where one is.
            to = 0 if at is None and _MOVES[key] == 1 else (at or 0) + _MOVES[key]
            return replace(view, chosen=rows[max(0, min(to, len(rows) - 1))].id)
        case _:
            return view


def _press_aside(view: View, key: Key) -> View:
    """In the help, or looking at one request: move, or back."""
    if key in _MOVES:
        return replace(view, skipped=max(0, view.skipped + _MOVES[key]))
    if key in (ESCAPE, ENTER, "?", "h", "a"):
        return replace(view, help=False, detail=None, skipped=0)
    return view

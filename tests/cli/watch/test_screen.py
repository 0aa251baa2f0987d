"""Screens of `arbstr watch` as they are kept beside this file, and what holds for all of them.

To renew them after a change: `ARBSTR_WRITE_SCREENS=1 python -m pytest tests/cli/watch`, and read
what git says of them.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from arbstr.cli.cells import painted, width_of
from arbstr.cli.watch.model import Model, Provider, Seen
from arbstr.cli.watch.screen import KEYS, MAIN_KEYS, request_room, screen, state_of
from arbstr.cli.watch.view import View, shown_rows
from arbstr.sansio.moments import parse_moment
from tests.cli.watch.seen import (
    NOW,
    WHERE,
    busy,
    detail_of,
    health,
    page,
    row,
    running,
    stats,
    told,
)

SCREENS: Final = Path(__file__).parent / "screens"
WRITE: Final = "ARBSTR_WRITE_SCREENS" in os.environ

CHOSEN: Final = row(4)["correlation_id"]


def empty() -> Model:
    return told(Seen(health(), stats(0, 0, total=0, error=0, rejected=0), stats(0, 0), page()))


def full() -> Model:
    """Its ledger's disk is."""
    log = {"queued": 375, "waiting_seconds": 42.4, "trouble": "database or disk is full\n"}
    seen = Seen(health(status="degraded", log=log), stats(), stats(0, 0), page())
    return told(seen)


SHOWN: Final[dict[str, tuple[Callable[[], Model], View]]] = {
    "busy": (busy, View()),
    "chosen": (busy, View(chosen=CHOSEN)),
    "gone": (lambda: busy().missed("could not be reached: connection refused", NOW), View()),
    "detail": (lambda: replace(busy(), detail=detail_of()), View(detail=CHOSEN)),
    "filtered": (busy, View(unknown=True, model="gpt-4o", provider="node-b")),
    "full": (full, View()),
    "help": (busy, View(help=True)),
    "empty": (empty, View()),
}
SIZES: Final = ((80, 24), (120, 40))


def as_text(model: Model, view: View, width: int, height: int, *, colour: bool) -> str:
    """As it is kept: ESC is written ^[, so that a reader's terminal stays calm."""
    lines = screen(model, view, width, height)
    return "".join(f"{painted(each, colour=colour)}\n" for each in lines).replace("\x1b", "^[")


@pytest.mark.parametrize("colour", [False, True], ids=["plain", "colour"])
@pytest.mark.parametrize(("width", "height"), SIZES, ids=lambda n: str(n))
@pytest.mark.parametrize("name", SHOWN)
def test_a_screen_is_as_it_is_kept(name: str, width: int, height: int, colour: bool) -> None:
    make, view = SHOWN[name]
    text = as_text(make(), view, width, height, colour=colour)
    path = SCREENS / f"{name}-{width}x{height}{'-colour' if colour else ''}.txt"
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_no_screen_is_kept_that_nobody_compares() -> None:
    kept = {path.name for path in SCREENS.iterdir()}
    assert kept == {
        f"{name}-{width}x{height}{colour}.txt"
        for name in SHOWN
        for width, height in SIZES
        for colour in ("", "-colour")
    }


@pytest.mark.parametrize("name", SHOWN)
def test_whatever_the_size_it_fits_and_no_text_moves_the_cursor(name: str) -> None:
    make, view = SHOWN[name]
    model = make()
    for width in (*range(1, 30), 40, 60, 79, 80, 99, 100, 200):
        for height in (*range(1, 14), 24, 60):
            lines = screen(model, view, width, height)
            assert len(lines) == height
            for line in lines:
                text = painted(line, colour=False)
                assert width_of(text) <= width, (width, height, text)
                assert text.isprintable()


def test_colours_say_nothing_that_words_do_not() -> None:
    """Without the styles, the texts of both are the same."""
    for make, view in SHOWN.values():
        for line in screen(make(), view, 80, 24):
            coloured = painted(line, colour=True)
            for code in ("0", "1", "2", "7", "31", "32", "33"):
                coloured = coloured.replace(f"\x1b[{code}m", "")
            assert coloured.rstrip() == painted(line, colour=False)


def test_who_is_in_trouble_is_never_hidden_below_the_edge() -> None:
    many = {f"p{n:02}": {"state": "closed", "failure_count": 0} for n in range(40)}
    many["p39"] = {"state": "open", "failure_count": 3, "last_error": "is ill"}
    model = told(Seen(health(providers=many), stats(), page=page()))
    lines = [painted(line, colour=False) for line in screen(model, View(), 80, 24)]
    assert "  p39           open: is ill" in "\n".join(lines)
    assert any("34 more hidden" in line for line in lines)


def test_the_chosen_request_stays_on_the_screen_wherever_it_is() -> None:
    model = told(Seen(health(), stats(), page=page(*(row(n) for n in range(100)))))
    for each in shown_rows(model, View()):
        lines = screen(model, View(chosen=each.id), 80, 24)
        assert sum(line[0][0].startswith("> ") for line in lines if line) == 1


def test_so_many_requests_are_asked_for_as_are_shown() -> None:
    model = told(Seen(health(), stats(), page=page(*(row(n) for n in range(100)))))
    for height in range(14, 60):
        lines = [painted(line, colour=False) for line in screen(model, View(), 80, height)]
        assert sum(" gpt-4o " in line for line in lines) == request_room(model, height)


def test_with_a_model_the_prices_are_those_of_that_model() -> None:
    text = as_text(busy(), View(model="gpt-4o"), 80, 24, colour=False)
    assert "2.346, 9.1      +4 %" in text
    assert "0.31" not in text


def test_a_restart_is_told_for_a_while_and_a_fault_of_arbstr_as_what_it_is() -> None:
    new = Seen(health(started_at="2026-02-03T12:04:07.000Z"))
    again = busy().missed("is gone", NOW + 1000).told(new, NOW + 3000)
    assert "started again at 12:04:08" in as_text(again, View(), 80, 24, colour=False)
    later = again.told(new, NOW + 64_000)
    assert "up 62 s" in as_text(later, View(), 80, 24, colour=False)
    nobody = Model(WHERE, NOW).missed("wants [server] auth_token", NOW)
    assert "127.0.0.1:8080 wants [server] auth_token" in as_text(
        nobody, View(), 80, 24, colour=False
    )


def test_one_that_runs_is_as_old_as_now() -> None:
    model = told(Seen(health(), stats(), page=page(running(0))))
    assert " 900 ms in flight" in as_text(model, View(), 80, 24, colour=False)
    later = model.told(Seen(health()), NOW + 10_000)
    assert "10.9 s in flight" in as_text(later, View(), 80, 24, colour=False)


def test_the_last_line_fits_and_names_keys_of_the_help() -> None:
    assert len(MAIN_KEYS) <= 80
    assert {key for key, _ in KEYS} >= {"q", "enter", "f", "u", "p", "m", "?"}


@pytest.mark.parametrize(
    ("until", "shown"),
    [
        ("2026-02-03T05:00:00Z", "rests 55 min: overcharge"),
        ("9999-12-31T23:59:59Z", "rests until a reload: overcharge"),
    ],
)
def test_a_rest_without_end_is_told_as_one(until: str, shown: str) -> None:
    now, ends = parse_moment("2026-02-03T04:05:00Z"), parse_moment(until)
    assert now is not None
    provider = Provider("alpha", "rests", ends, "overcharge", {}, {}, None)
    assert state_of(provider, now) == shown

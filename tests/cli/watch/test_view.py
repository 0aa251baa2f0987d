"""What keys do: from one view to the next, and from bytes to keys."""

from functools import reduce
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.cli.watch.keys import (
    DOWN,
    END,
    ENTER,
    ESCAPE,
    HOME,
    LEAVE,
    PAGE_DOWN,
    PAGE_UP,
    REDRAW,
    UP,
    Keys,
)
from arbstr.cli.watch.model import Row, Seen
from arbstr.cli.watch.view import MOST_ROWS, View, press, shown_rows
from tests.cli.watch.seen import NO_COST, NO_TOKENS, health, page, row, running, stats, told

ROWS = told(Seen(health(), stats(), page=page(*(row(n) for n in range(30))))).rows
IDS = [each.id for each in ROWS]


def pressed(*keys: str, view: View = View(), rows: tuple[Row, ...] = ROWS) -> View:  # noqa: B008
    for key in keys:
        found = press(view, key, rows)
        assert found is not None
        view = found
    return view


@pytest.mark.parametrize("key", ["q", "Q", LEAVE])
@pytest.mark.parametrize("view", [View(), View(help=True), View(detail="x")], ids=str)
def test_one_can_leave_from_everywhere(key: str, view: View) -> None:
    assert press(view, key, ROWS) is None


def test_the_first_step_shows_where_one_is_and_both_ends_hold() -> None:
    assert pressed(DOWN).chosen == IDS[0]
    assert pressed(DOWN, DOWN, "j").chosen == IDS[2]
    assert pressed(DOWN, DOWN, UP, UP, "k").chosen == IDS[0]
    assert pressed(END).chosen == pressed("G").chosen == IDS[-1]
    assert pressed(END, DOWN, HOME, UP).chosen == pressed(END, "g").chosen == IDS[0]
    assert pressed(PAGE_DOWN, PAGE_DOWN, PAGE_UP).chosen == IDS[10]


def test_who_is_chosen_stays_so_while_others_come() -> None:
    view = pressed(DOWN, DOWN)
    newer = told(Seen(health(), stats(), page=page(*(row(n) for n in range(-3, 30))))).rows
    assert pressed(DOWN, view=view, rows=newer).chosen == IDS[2]


def test_enter_opens_and_closes_and_arrows_move_in_it() -> None:
    view = pressed(DOWN, ENTER)
    assert (view.detail, view.skipped) == (IDS[0], 0)
    assert pressed(ENTER).detail == IDS[0]
    assert pressed(DOWN, DOWN, UP, view=view).skipped == 1
    assert pressed(UP, HOME, view=view).skipped == 0
    for key in (ENTER, ESCAPE):
        assert pressed(key, view=view) == View(chosen=IDS[0])
    assert pressed("?", "f", "x").help
    assert pressed("?", "?") == pressed("h", ESCAPE) == View()


def test_filters_go_by_the_chosen_request_and_together() -> None:
    assert pressed("f").failures
    assert pressed("f", "f") == pressed("u", "u") == View()
    assert pressed("p").provider == "alpha"
    assert pressed("m", "p", "f") == View(failures=True, provider="alpha", model="gpt-4o")
    assert pressed("m", "m") == pressed("p", "p") == View()
    assert pressed("m", "p", "f", "a") == pressed("m", ESCAPE) == View()
    assert pressed("m", DOWN, ESCAPE) == View(model="gpt-4o")


def test_without_a_request_nothing_is_chosen() -> None:
    for key in (DOWN, UP, END, ENTER, "p", "m", ESCAPE, "\x00", "ä", ""):
        assert pressed(key, rows=()) == View()


def test_more_is_asked_for_once_somebody_looks_for_one() -> None:
    assert View().wanted_rows(12) == 12
    assert View().wanted_rows(-1) == 1
    assert View().wanted_rows(1000) == MOST_ROWS
    assert View(chosen="x").wanted_rows(12) == View(unknown=True).wanted_rows(12) == MOST_ROWS


def test_those_in_flight_go_first_and_filters_hold_for_them() -> None:
    old = running(500, provider="beta")
    rows = page(row(1), running(2), row(3))
    model = told(Seen(health(), stats(), page=rows, running=page(running(2), old)))
    ids = [each.id for each in shown_rows(model, View())]
    assert ids == [
        each["correlation_id"] for each in (old, rows["data"][1], rows["data"][0], rows["data"][2])
    ]
    shown = shown_rows(model, View(provider="alpha"))
    assert old["correlation_id"] not in {each.id for each in shown}


def test_unknown_are_those_of_unknown_cost() -> None:
    lost = row(1, status="failed", cost=NO_COST, tokens=NO_TOKENS, possibly_spent=1)
    model = told(Seen(health(), stats(), page=page(lost, row(2))))
    assert [each.id for each in shown_rows(model, View(unknown=True))] == [lost["correlation_id"]]


# -- bytes


TYPED = {
    b"\x1b[A": UP,
    b"\x1bOB": DOWN,
    b"\x1b[5~": PAGE_UP,
    b"\x1b[6~": PAGE_DOWN,
    b"\x1b[H": HOME,
    b"\x1b[4~": END,
    b"\r": ENTER,
    b"\n": ENTER,
    b"\x0c": REDRAW,
    b"\x03": LEAVE,
    b"q": "q",
    b"?": "?",
}


@given(st.lists(st.sampled_from(sorted(TYPED)), max_size=8), st.data())
def test_however_the_bytes_are_cut_the_keys_are_the_same(
    typed: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(typed)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))) | {0, len(whole)})
    keys = Keys()
    found = reduce(
        lambda known, cut: (*known, *keys.feed(whole[slice(*cut)])), pairwise(cuts), tuple[str]()
    )
    assert list(found) == [TYPED[each] for each in typed]
    assert not keys.waits


@given(st.binary(max_size=60))
def test_no_bytes_raise_or_are_held_for_ever(data: bytes) -> None:
    keys = Keys()
    keys.feed(data)
    keys.finish()
    assert not keys.waits
    assert keys.feed(b"q")[-1:] == ("q",)


def test_escape_is_a_key_when_nothing_follows() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == ()
    assert keys.waits
    assert keys.finish() == (ESCAPE,)
    assert keys.feed(b"\x1bq") == (ESCAPE, "q")
    assert keys.feed(b"\x1b[200;7u") == ()  # a sequence that means nothing here
    assert keys.finish() == ()

"""When the owner of a budget is told how the day stands, and what is said."""

from decimal import Decimal
from typing import Final

import pytest

from arbstr.sansio.routing.budget import DAY_SECONDS, Account
from arbstr.sansio.routing.gauge import Gauge, Mark, Purse, budget_report, mark_line, purse_line

NOON: Final = 20_000.5 * DAY_SECONDS


def account(spent: str, limit: str | None = "10", reserved: str = "0") -> Account:
    sats = None if limit is None else Decimal(limit)
    return Account(sats, Decimal(spent), Decimal(reserved), DAY_SECONDS / 2 - 30)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([("7.999", None), ("8", Mark.MOST), ("9", None)], id="at four fifths, once"),
        pytest.param(
            [("8", Mark.MOST), ("9.999", None), ("10", Mark.ALL), ("11", None)], id="and at the end"
        ),
        pytest.param([("12", Mark.ALL), ("13", None)], id="at the end alone, if that comes first"),
        pytest.param(
            [("10", Mark.ALL), ("9", None), ("10", None)], id="not again after a way back"
        ),
    ],
)
def test_each_mark_is_told_once(told: list[tuple[str, Mark | None]]) -> None:
    gauge = Gauge()
    assert [gauge.news(account(spent), NOON) for spent, _ in told] == [mark for _, mark in told]


def test_who_only_looks_tells_nothing() -> None:
    gauge = Gauge()
    assert [gauge.due(account(spent), NOON) for spent in ("7", "8", "8")] == [
        *(None, Mark.MOST, Mark.MOST),
    ]
    assert gauge.news(account("8"), NOON) is Mark.MOST
    assert gauge.due(account("9"), NOON) is None


def test_what_is_set_aside_is_not_spent() -> None:
    assert Gauge().news(account("1", reserved="9"), NOON) is None


def test_another_day_and_another_limit_begin_anew() -> None:
    gauge = Gauge()
    assert gauge.news(account("10"), NOON) is Mark.ALL
    assert gauge.news(account("8"), NOON + DAY_SECONDS) is Mark.MOST
    assert gauge.news(account("8"), NOON + DAY_SECONDS) is None
    assert gauge.news(account("8", "9"), NOON + DAY_SECONDS) is Mark.MOST
    assert gauge.news(account("8", "100"), NOON + DAY_SECONDS) is None
    assert gauge.news(account("8", "8"), NOON + DAY_SECONDS) is Mark.ALL


@pytest.mark.parametrize("limit", [None, "0"])
def test_without_a_budget_there_is_nothing_to_tell(limit: str | None) -> None:
    assert Gauge().news(account("0", limit), NOON) is None


def test_the_lines_say_how_the_day_stands() -> None:
    assert mark_line(Mark.MOST, account("8.123456")) == (
        "budget: 80 % of the 10 sats of today are spent (8.123); the day ends at 00:00 UTC, in "
        "12 h 0 min"
    )
    assert mark_line(Mark.ALL, account("10.5")) == (
        "budget: all of the 10 sats of today are spent (10.5); what costs is refused until it "
        "ends; the day ends at 00:00 UTC, in 12 h 0 min"
    )


def test_the_day_as_json_has_all_digits() -> None:
    assert budget_report(Decimal(10), Decimal("1.23456789"), Decimal("0.5"), NOON) == {
        "limit": 10.0,
        "spent": 1.23456789,
        "set_aside": 0.5,
        "ends_at": "2024-10-05T00:00:00.000Z",
    }
    found = budget_report(Decimal(10), Decimal(1), None, NOON)
    assert found is not None
    assert found["set_aside"] is None
    assert budget_report(None, Decimal(1), Decimal(0), NOON) is None


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([("11", "10", 0, False), ("10", "10", 0, True)], id="a day is left"),
        pytest.param([("3", "10", 0, True), ("2", "10", 0.9, False)], id="once"),
        pytest.param([("3", "10", 0, True), ("2", "10", 1, True)], id="and a day later"),
        pytest.param(
            [("3", "10", 0, True), ("30", "10", 0.1, False), ("3", "10", 0.2, True)],
            id="and after it was topped up",
        ),
        pytest.param([("0", "0", 0, False)], id="a key that is not used"),
    ],
)
def test_a_purse_with_a_days_spending_left_is_told(
    told: list[tuple[str, str, float, bool]],
) -> None:
    purse = Purse()
    for free, day, days, expected in told:
        now = NOON + days * DAY_SECONDS
        assert purse.is_low(Decimal(free), Decimal(day), now) is expected


def test_a_low_purse_says_what_to_do() -> None:
    assert purse_line("alpha", Decimal("7.5"), Decimal(12)) == (
        'provider "alpha": its key holds 7.5 sats, and was charged 12 in the last 24 hours: '
        "top it up"
    )

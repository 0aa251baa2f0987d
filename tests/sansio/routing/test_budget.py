"""What a day may cost: the account as conversations, and what no order of events can exceed."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.money import Rates, add_sats, format_sats
from arbstr.sansio.routing.budget import (
    DAY_SECONDS,
    Account,
    Budget,
    LedgerUnread,
    OverBudget,
    Reservation,
    Unpriced,
    day_of,
)
from tests.searching import examples

MIDNIGHT: Final = 20_000.0 * DAY_SECONDS
"""The begin of a day in 2024."""
NOON: Final = MIDNIGHT + DAY_SECONDS / 2
TOMORROW: Final = MIDNIGHT + DAY_SECONDS


@dataclass(frozen=True)
class Ask:
    """Reserve so many sats; `None` is a provider without rates."""

    most: str | None
    now: float = NOON


@dataclass(frozen=True)
class End:
    """Settle the n-th reservation at this price."""

    n: int
    charged: str | None


@dataclass(frozen=True)
class Remember:
    amount: str
    at: float = NOON


@dataclass(frozen=True)
class Limit:
    sats: str | None


GO, STOP, UNPRICED = "go", "stop", "unpriced"

BOOKS: Final[dict[str, list[tuple[object, object]]]] = {
    "what is reserved counts like what is spent": [
        (Ask("6"), GO),
        (Ask("5"), STOP),
        (Ask("4"), GO),
        (Ask("0.000000001"), STOP),
    ],
    "the limit itself may be spent, to the last digit": [
        (Ask("9.99999999999999999999999999999"), GO),
        (Ask("0.00000000000000000000000000002"), STOP),
        (Ask("0.00000000000000000000000000001"), GO),
    ],
    "a price below the most gives the rest back": [
        (Ask("6"), GO),
        (End(0, "1.5"), ("1.5", "0")),
        (Ask("8.5"), GO),
        (Ask("0.1"), STOP),
    ],
    "a price above the most is spent as well": [
        (Ask("6"), GO),
        (End(0, "12"), ("12", "0")),
        (Ask("0.1"), STOP),
    ],
    "a failure that was free gives everything back": [
        (Ask("10"), GO),
        (End(0, "0"), ("0", "0")),
        (Ask("10"), GO),
    ],
    "a price nobody knows counts as what was reserved": [
        (Ask("6"), GO),
        (End(0, None), ("6", "0")),
        (Ask("5"), STOP),
    ],
    "what costs nothing is let through even when everything is spent": [
        (Remember("11"), ("11", "0")),
        (Ask("0"), GO),
        (Ask("0.1"), STOP),
    ],
    "at midnight a new day begins": [
        (Ask("6", TOMORROW - 0.001), GO),
        (Ask("6", TOMORROW - 0.001), STOP),
        (Ask("6", TOMORROW), GO),
        (Ask("6", TOMORROW), STOP),
    ],
    "what was reserved yesterday is yesterday's when it is settled today": [
        (Ask("6", TOMORROW - 1), GO),
        (Ask("5", TOMORROW), GO),
        (End(0, "7"), ("0", "5")),
        (End(1, None), ("5", "0")),
    ],
    "a clock that was ahead and came back leaves nothing on the day it is": [
        (Ask("6", NOON), GO),
        (Ask("6", TOMORROW), GO),
        (Ask("4.5", NOON), STOP),
        (End(1, None), ("0", "6")),
        (End(0, "3"), ("3", "0")),
        (Ask("7", NOON), GO),
        (Ask("4.5", TOMORROW), STOP),
    ],
    "what the log knows of today is spent, of another day it is not": [
        (Ask("3"), GO),
        (Remember("6"), ("6", "3")),
        (Remember("100", NOON - DAY_SECONDS), ("6", "3")),
        (Ask("2"), STOP),
        (Ask("1"), GO),
        (Remember("5"), ("5", "4")),
    ],
    "without rates nothing is sent under a budget, not even at its begin": [
        (Ask(None), UNPRICED),
        (Limit(None), ("0", "0")),
        (Ask(None), GO),
        (End(0, None), ("0", "0")),
    ],
    "without a limit everything is let through, and counts once there is one": [
        (Limit(None), ("0", "0")),
        (Ask("1000"), GO),
        (End(0, "7"), ("7", "0")),
        (Ask("2"), GO),
        (Limit("10"), ("7", "2")),
        (Ask("2"), STOP),
        (Ask("1"), GO),
    ],
    "a lower limit takes nothing away from what is under way": [
        (Ask("8"), GO),
        (Limit("5"), ("0", "8")),
        (Ask("1"), STOP),
        (End(0, "4"), ("4", "0")),
        (Ask("1"), GO),
    ],
    "a budget of 0 lets only through what is free": [
        (Limit("0"), ("0", "0")),
        (Ask("0.000001"), STOP),
        (Ask("0"), GO),
    ],
}


@pytest.mark.parametrize("book", BOOKS.values(), ids=BOOKS)
def test_playbook(book: list[tuple[object, object]]) -> None:
    budget, now = Budget(Decimal(10)), NOON
    held: list[Reservation] = []
    for event, expected in book:
        match event:
            case Ask(most, now):
                answer = budget.reserve(None if most is None else Decimal(most), now)
                if isinstance(answer, Reservation):
                    held.append(answer)
                shown: object = {Reservation: GO, OverBudget: STOP, Unpriced: UNPRICED}[
                    type(answer)
                ]
            case End(n, charged):
                budget.settle(held[n], None if charged is None else Decimal(charged))
                shown = how_it_stands(budget, now)
            case Remember(amount, at):
                budget.remember(Decimal(amount), at)
                shown = how_it_stands(budget, now)
            case Limit(sats):
                budget.configure(None if sats is None else Decimal(sats))
                shown = how_it_stands(budget, now)
            case _:
                raise AssertionError(event)
        assert shown == expected, event


def how_it_stands(budget: Budget, now: float) -> tuple[str, str]:
    account = budget.view(now)
    return format_sats(account.spent), format_sats(account.reserved)


def test_with_a_ledger_nothing_that_costs_is_sent_before_the_day_was_read() -> None:
    budget = Budget(Decimal(10))
    budget.has_ledger = True
    assert isinstance(budget.reserve(Decimal(1), NOON), LedgerUnread)
    assert isinstance(budget.reserve(None, NOON), Unpriced)
    assert isinstance(budget.reserve(Decimal(0), NOON), Reservation)
    assert budget.is_unread(NOON)
    budget.remember(Decimal(9), NOON)
    assert not budget.is_unread(NOON)
    assert isinstance(budget.reserve(Decimal(1), NOON), Reservation)
    assert isinstance(budget.reserve(Decimal(1), NOON), OverBudget)
    # Each day has its own.
    assert isinstance(budget.reserve(Decimal(1), TOMORROW), LedgerUnread)
    assert isinstance(budget.reserve(Decimal(1), NOON), OverBudget)


def test_without_a_ledger_there_is_none_to_be_read() -> None:
    budget = Budget(Decimal(10))
    assert not budget.is_unread(NOON)
    assert isinstance(budget.reserve(Decimal(10), NOON), Reservation)


@pytest.mark.parametrize("now", [-1.0, 0.0, 0.5, DAY_SECONDS - 0.5, DAY_SECONDS, NOON])
def test_every_moment_lies_in_its_day(now: float) -> None:
    assert 0 <= now - day_of(now) * DAY_SECONDS < DAY_SECONDS


def test_without_a_limit_no_ledger_is_waited_for_until_there_is_one() -> None:
    budget = Budget(None)
    budget.has_ledger = True
    assert isinstance(budget.reserve(Decimal(1), NOON), Reservation)
    budget.configure(Decimal(10))
    assert isinstance(budget.reserve(Decimal(1), NOON), LedgerUnread)


def test_a_day_that_is_presumed_begins_at_0_only_if_that_is_allowed() -> None:
    budget = Budget(Decimal(10))
    budget.has_ledger = True
    budget.presume(NOON)
    assert isinstance(budget.reserve(Decimal(1), NOON), LedgerUnread)
    budget.configure(Decimal(10), is_open=True)
    assert isinstance(budget.reserve(Decimal(1), NOON), Reservation)
    assert isinstance(budget.reserve(Decimal(1), TOMORROW), LedgerUnread)
    assert budget.is_unread(NOON)
    budget.remember(Decimal(9), NOON)
    assert isinstance(budget.reserve(Decimal(1), NOON), OverBudget)


def test_a_refusal_says_how_the_day_stands() -> None:
    budget = Budget(Decimal(10))
    assert isinstance(budget.reserve(Decimal(2), NOON), Reservation)
    budget.remember(Decimal(3), NOON)
    refused = budget.reserve(Decimal(6), NOON)
    assert refused == OverBudget(Decimal(6), Decimal(10), Decimal(3), Decimal(2), DAY_SECONDS / 2)


def test_looking_at_the_account_does_not_turn_the_day() -> None:
    budget = Budget(Decimal(10))
    reservation = budget.reserve(Decimal(6), NOON)
    assert isinstance(reservation, Reservation)
    assert budget.view(TOMORROW) == Account(Decimal(10), Decimal(0), Decimal(0), DAY_SECONDS)
    budget.settle(reservation, Decimal(5))
    assert budget.view(NOON) == Account(Decimal(10), Decimal(5), Decimal(0), DAY_SECONDS / 2)


def test_a_reservation_is_settled_once_also_on_the_day_after() -> None:
    budget = Budget(Decimal(10))
    reservation = budget.reserve(Decimal(1), NOON)
    assert isinstance(reservation, Reservation)
    budget.reserve(Decimal(1), TOMORROW)
    budget.settle(reservation, None)
    with pytest.raises(LocalProtocolError):
        budget.settle(reservation, None)


def test_amounts_are_added_exactly() -> None:
    tiny = Decimal("1e-30")
    assert add_sats(Decimal(10**14), tiny) == Decimal(
        "100000000000000.000000000000000000000000000001"
    )
    assert add_sats(Decimal(10**14), tiny, Decimal(10**14).copy_negate()) == tiny
    assert Rates(tiny, tiny).base_fee == add_sats()


# -- whatever the order --------------------------------------------------------------------------

sats = st.decimals(min_value=0, max_value=8, places=3)


def test_what_was_paid_for_something_else_is_spent_and_corrects_no_attempt() -> None:
    budget = Budget(Decimal(10))
    budget.pay(Decimal("0.02"), NOON)
    budget.correct(NOON, Decimal(3), Decimal(4))
    account = budget.view(NOON)
    assert (account.spent, account.corrected) == (Decimal("1.02"), 1)


class AnyOrder(RuleBasedStateMachine):
    """A day's requests as they come, end, fail and are lost, beside an account kept by hand."""

    LIMIT = Decimal(20)

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(self.LIMIT)
        self.now = NOON
        self.open: list[Reservation] = []
        self.spent = Decimal(0)
        self.overcharged = Decimal(0)

    @rule(most=sats)
    def asks(self, most: Decimal) -> None:
        reserved = sum(r.most for r in self.open if r.day == day_of(self.now))
        answer = self.budget.reserve(most, self.now)
        fits = not most or self.spent + reserved + most <= self.LIMIT
        assert isinstance(answer, Reservation) == fits
        if isinstance(answer, Reservation):
            assert answer.most == most
            self.open.append(answer)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), charged=st.none() | sats)
    def ends(self, data: st.DataObject, charged: Decimal | None) -> None:
        one = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.budget.settle(one, charged)
        if one.day == day_of(self.now):
            price = one.most if charged is None else charged
            self.spent += price
            self.overcharged += max(Decimal(0), price - one.most)
        with pytest.raises(LocalProtocolError):
            self.budget.settle(one, charged)

    @rule()
    def a_day_ends(self) -> None:
        self.now += DAY_SECONDS
        self.budget.reserve(Decimal(0), self.now)
        self.spent = self.overcharged = Decimal(0)

    @invariant()
    def the_books_agree(self) -> None:
        account = self.budget.view(self.now)
        reserved = sum((r.most for r in self.open if r.day == day_of(self.now)), Decimal(0))
        assert (account.spent, account.reserved) == (self.spent, reserved)

    @invariant()
    def only_what_was_overcharged_goes_over_the_limit(self) -> None:
        account = self.budget.view(self.now)
        assert account.spent + account.reserved <= self.LIMIT + self.overcharged


AnyOrder.TestCase.settings = examples(20, stateful_step_count=30)
TestAnyOrder = AnyOrder.TestCase

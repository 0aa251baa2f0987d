"""Counts of tokens that cannot be are as if there were none; a stated charge stands."""

from decimal import Decimal
from typing import Final

import pytest

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.config.settings import LIKELY
from arbstr.sansio.failover.failure import Failure, FailureKind, Money, seen
from arbstr.sansio.ledger.attempt import UNSEEN_INPUT, AttemptState, milliseconds
from arbstr.sansio.money import Rates, Usage
from arbstr.sansio.routing.holds import Hold
from tests.candidates import candidate

RATES: Final = Rates(input_rate=Decimal(10), output_rate=Decimal(30))
DEAR: Final = Rates(input_rate=Decimal(10), output_rate=Decimal(40))


def attempt(
    *, allowed: int | None = None, tokens: int = 100, choices: int = 1, rates: Rates | None = RATES
) -> AttemptState:
    """Held to 100 tokens of input and of output: (100 * 10 + 100 * 30) / 1000 = 4 sats."""
    hold = Hold(100, tokens, choices, allowed, 0, LIKELY)
    offer = candidate("alpha", "m", kind=Kind.ROUTSTR, rates=rates, output=100, hold=hold)
    return AttemptState(offer, "", 0.0)


def answered(state: AttemptState, usage: Usage, stated: int | None = None) -> AttemptState:
    state.learn(usage, None if stated is None else Decimal(stated))
    state.answered = True
    return state


@pytest.mark.parametrize(
    ("state", "usage", "believed"),
    [
        pytest.param(attempt(allowed=5), Usage(10, 5), True, id="all that is allowed"),
        pytest.param(attempt(allowed=5), Usage(10, 6), False, id="more than is allowed"),
        pytest.param(attempt(allowed=5), Usage(10, 10**6), False, id="a million for five"),
        pytest.param(attempt(allowed=5, choices=3), Usage(10, 15), True, id="in each choice"),
        pytest.param(attempt(allowed=5, choices=3), Usage(10, 16), False, id="and one more"),
        pytest.param(attempt(), Usage(0, 1333), True, id="ten times what was set aside"),
        pytest.param(attempt(), Usage(0, 1334), False, id="more than ten times"),
        pytest.param(attempt(), Usage(4000 + UNSEEN_INPUT, 0), True, id="of input, with a file"),
        pytest.param(attempt(), Usage(4001 + UNSEEN_INPUT, 0), False, id="more than a file can be"),
        pytest.param(attempt(), Usage(UNSEEN_INPUT, 1333), True, id="of output, beside a file"),
        pytest.param(attempt(), Usage(UNSEEN_INPUT, 1334), False, id="more output, beside a file"),
        pytest.param(attempt(rates=DEAR), Usage(10, 1250), True, id="ten times to the digit"),
        pytest.param(attempt(choices=2), Usage(0, 2333), True, id="of both choices"),
        pytest.param(attempt(choices=2), Usage(0, 2334), False, id="more than of both"),
        pytest.param(attempt(allowed=10**6), Usage(10, 2000), False, id="dear, though allowed"),
        pytest.param(attempt(rates=None), Usage(10**9, 10**9), True, id="without rates"),
        pytest.param(attempt(rates=None, allowed=5), Usage(9, 6), False, id="not allowed at all"),
        pytest.param(
            attempt(rates=None, allowed=5), Usage(9, 99, None, 94), True, id="thinking aside"
        ),
        pytest.param(
            attempt(rates=None, allowed=5), Usage(9, 99, None, 93), False, id="and more than that"
        ),
        pytest.param(
            attempt(rates=Rates(Decimal(0), Decimal(0))), Usage(10**9, 10**9), True, id="for free"
        ),
    ],
)
def test_what_cannot_be_is_not_believed(state: AttemptState, usage: Usage, believed: bool) -> None:
    answered(state, usage)
    row = state.row(1, 1.0)
    assert (row.output_tokens is not None) == (row.input_tokens is not None) == believed
    assert (state.doubt is None) == (state.disbelief() is None) == believed
    if not believed:
        assert (row.cost_sats, row.expected_sats, state.charged) == (None, None, None)


def test_the_log_is_told_the_figures() -> None:
    assert answered(attempt(allowed=5, tokens=5, choices=2), Usage(10, 10**6)).disbelief() == (
        'provider "alpha" counted 1000000 tokens of output where the request allows 5 in each of 2 '
        "choices (model m): not believed, what was set aside is booked, 1.3 sats"
    )
    assert answered(attempt(allowed=5, tokens=5), Usage(10, 6)).disbelief() == (
        'provider "alpha" counted 6 tokens of output where the request allows 5 (model m): not '
        "believed, what was set aside is booked, 1.15 sats"
    )
    assert answered(attempt(), Usage(10, 10**6)).disbelief() == (
        'provider "alpha" counted 10 tokens of input and 1000000 of output, 30000 sats by its '
        "rates where 4 were set aside (model m): not believed, what was set aside is booked, 4 sats"
    )


def test_without_rates_nothing_was_set_aside() -> None:
    said = answered(attempt(rates=None, allowed=5), Usage(10, 6)).disbelief()
    assert said is not None
    assert said.endswith("not believed, what was set aside is booked, 0 sats")


def test_a_stated_charge_stands_whatever_was_counted() -> None:
    state = answered(attempt(allowed=5), Usage(10, 10**6), stated=123_456)
    row = state.row(1, 1.0)
    assert (row.cost_sats, row.expected_sats) == (Decimal("123.456"), None)
    assert state.charged == Decimal("123.456")
    assert (state.disbelief() or "").endswith(
        "not believed, 123.5 sats are booked, which it states"
    )


def test_a_later_count_that_can_be_is_believed() -> None:
    state = attempt(allowed=5)
    state.learn(Usage(10, 10**6), None)
    answered(state, Usage(10, 5))
    assert (state.disbelief(), state.charged) == (None, Decimal("0.25"))
    # The same told again changes nothing, and none says nothing new.
    before = state.usage
    state.learn(before, None)
    state.learn(None, None)
    assert state.usage is before


def test_the_row_tells_what_was_set_aside_and_not_what_was_estimated() -> None:
    row = attempt().row(1, 1.0)
    assert (row.set_aside_sats, row.estimated_cost_sats) == (Decimal(4), Decimal(1))


def test_a_span_is_never_below_zero() -> None:
    spans = (-1.0, 0.0, 0.0004, 0.0006, 1.2345)
    assert [milliseconds(span) for span in spans] == [0, 0, 0, 1, 1234]


@pytest.mark.parametrize(
    ("failed", "drained", "stated", "money"),
    [
        (Money.FREE, None, None, "free"),
        (Money.FREE, Money.UNKNOWN, None, "free"),
        (Money.SPENT, None, None, "spent"),
        (Money.SPENT, Money.UNKNOWN, None, "spent"),
        (Money.UNKNOWN, None, None, "unknown"),
        (Money.UNKNOWN, None, 0, "unknown"),
        (Money.UNKNOWN, Money.UNKNOWN, None, "unknown"),
        (Money.UNKNOWN, Money.SPENT, None, "spent"),
        (Money.UNKNOWN, Money.FREE, None, "free"),
        (Money.UNKNOWN, Money.UNKNOWN, 505, "spent"),
        (Money.SPENT, Money.FREE, 0, "free"),
        (Money.FREE, None, 505, "spent"),
    ],
)
def test_what_a_failure_cost_is_its_class_unless_a_drain_or_a_price_tells(
    failed: Money, drained: Money | None, stated: int | None, money: str
) -> None:
    state = attempt()
    state.failure = Failure(FailureKind.NO_ANSWER, failed, "broke off")
    state.drained = drained
    state.learn(None, None if stated is None else Decimal(stated))
    assert state.row(1, 1.0).money == money


def test_what_a_lane_told_stays_when_the_drain_hears_nothing() -> None:
    state = attempt()
    state.failure = seen(FailureKind.NO_ANSWER, Kind.ROUTSTR, "broke off")
    state.learn_from_drain(None, None, None, Decimal(0), Money.FREE, by_lane=True)
    state.learn_from_drain(None, None, None, None, None)
    row = state.row(1, 1.0)
    assert (row.money, row.cost_sats, row.settled) == ("free", Decimal(0), "lane")
    state.learn_from_drain(None, None, None, Decimal(505), Money.SPENT)
    row = state.row(1, 1.0)
    assert (row.money, row.cost_sats, row.settled) == ("spent", Decimal("0.505"), None)


def test_a_nothing_that_was_no_last_word_is_no_price_in_the_row() -> None:
    """Whoever believed it would never ask what the attempt cost."""
    state = attempt()
    state.learn(None, Decimal(0))
    running = state.row(1, 1.0)
    assert (running.money, running.provider_cost_sats) == (None, None)
    state.failure = seen(FailureKind.STREAM_CUT, Kind.ROUTSTR, "broke off")
    cut = state.row(1, 1.0)
    assert (cut.money, cut.cost_sats, cut.provider_cost_sats) == ("unknown", None, None)
    state.learn_from_drain(200, None, None, None, Money.FREE)
    free = state.row(1, 1.0)
    assert (free.money, free.cost_sats, free.provider_cost_sats) == ("free", Decimal(0), Decimal(0))

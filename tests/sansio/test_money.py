"""Rates and usage -> cost: against exact fractions, and the awkward numbers by name."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.money import (
    Rates,
    Usage,
    cost_sats,
    estimate_sats,
    format_eyes,
    format_sats,
    multiply_sats,
    sats_from_msats,
)
from tests.searching import examples

TOKENS = st.integers(0, 10**18)
RATES = st.decimals(
    min_value=0, max_value=10**15, places=30, allow_nan=False, allow_infinity=False
) | st.sampled_from([Decimal("0.1"), Decimal("0.0003"), Decimal("12.5"), Decimal("1e-30")])


def rates(inp: str, out: str, cached: str | None = None, fee: str = "0") -> Rates:
    return Rates(
        Decimal(inp), Decimal(out), None if cached is None else Decimal(cached), Decimal(fee)
    )


@given(
    TOKENS,
    TOKENS,
    st.none() | TOKENS,
    st.none() | TOKENS,
    st.builds(Rates, RATES, RATES, st.none() | RATES, RATES, st.none() | RATES),
)
@examples(100)
def test_cost_equals_the_formula_over_fractions(
    inp: int, out: int, cached: int | None, written: int | None, price: Rates
) -> None:
    c = min(cached or 0, inp)
    w = min(written or 0, inp - c)
    cached_rate = price.input_rate if price.cached_input_rate is None else price.cached_input_rate
    written_rate = price.input_rate if price.cache_write_rate is None else price.cache_write_rate
    expected = (
        (inp - c - w) * Fraction(price.input_rate)
        + c * Fraction(cached_rate)
        + w * Fraction(written_rate)
        + out * Fraction(price.output_rate)
    ) / 1000 + Fraction(price.base_fee)
    used = Usage(inp, out, cached, cache_write_tokens=written)
    assert Fraction(cost_sats(used, price)) == expected


@pytest.mark.parametrize(
    ("usage", "price", "cost"),
    [
        pytest.param(
            Usage(100, 200), rates("10", "30", fee="1"), "8", id="the example of the spec"
        ),
        pytest.param(
            Usage(1, 1), rates("0.1", "0.0003"), "0.0001003", id="no binary float between"
        ),
        pytest.param(Usage(3, 7), rates("12.5", "0.1"), "0.0382", id="a rate of 12.5"),
        pytest.param(
            Usage(1000, 100, 800), rates("10", "30", "2.5"), "7", id="cached tokens at their rate"
        ),
        pytest.param(
            Usage(1000, 100, 800), rates("10", "30"), "13", id="cached tokens without their rate"
        ),
        pytest.param(
            Usage(10, 0, 5000), rates("10", "30", "0"), "0", id="more cached than there were"
        ),
        pytest.param(
            Usage(1000, 100, 800, cache_write_tokens=100),
            Rates(Decimal(10), Decimal(30), Decimal("2.5"), cache_write_rate=Decimal("12.5")),
            "7.25",
            id="three prices of input",
        ),
        pytest.param(
            Usage(10, 0, 8, cache_write_tokens=8),
            Rates(Decimal(10), Decimal(30), Decimal(0), cache_write_rate=Decimal(100)),
            "0.2",
            id="more in caches than there were",
        ),
        pytest.param(Usage(10, 0, -5), rates("10", "30", "0"), "0.1", id="negative cached"),
        pytest.param(Usage(-10_000, 0), rates("10", "30", fee="1"), "0", id="never below zero"),
        pytest.param(Usage(9, 9), rates("0", "0"), "0", id="free is free"),
        pytest.param(Usage(0, 0), rates("10", "30", fee="0.5"), "0.5", id="the fee alone"),
    ],
)
def test_cost_of_known_examples(usage: Usage, price: Rates, cost: str) -> None:
    assert cost_sats(usage, price) == Decimal(cost)


def test_cost_does_not_depend_on_the_precision_of_the_caller() -> None:
    from decimal import localcontext

    price = rates("0.123456789012345678901234567890", "999999999999.5")
    with localcontext() as context:
        context.prec = 3
        cost = cost_sats(Usage(7, 3), price)
    assert (
        Fraction(cost) == (7 * Fraction(price.input_rate) + 3 * Fraction(price.output_rate)) / 1000
    )


def test_an_estimate_multiplies_the_output_alone() -> None:
    price = rates("10", "30", fee="1")
    assert estimate_sats(100, 200, 1, price) == Decimal("8")
    assert estimate_sats(100, 200, 3, price) == Decimal("20")


def test_an_estimate_reckons_with_no_cached_token() -> None:
    price = rates("10", "30", "0", fee="1")
    assert estimate_sats(100, 200, 1, price) == Decimal("8")


def test_many_times_an_amount_is_exact() -> None:
    amount = Decimal("0." + "123456789" * 5)
    assert Fraction(multiply_sats(amount, 10**20 + 1)) == Fraction(amount) * (10**20 + 1)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0.125", "0.125"),
        ("8", "8"),
        ("0.00042", "0.00042"),
        ("8.000", "8"),
        ("8E+3", "8000"),
        ("100", "100"),
        ("1E-9", "0.000000001"),
        ("0", "0"),
        ("0.000", "0"),
        ("0E+9", "0"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("1.10", "1.1"),
    ],
)
def test_an_amount_is_shown_in_plain_digits(amount: str, text: str) -> None:
    assert format_sats(Decimal(amount)) == text


@given(RATES)
@examples(75)
def test_what_is_shown_is_exactly_the_amount(amount: Decimal) -> None:
    text = format_sats(amount)
    assert Decimal(text) == amount
    assert "E" not in text
    assert not (("." in text) and text.endswith(("0", ".")))


def test_a_sat_is_a_thousand_msats() -> None:
    assert sats_from_msats(Decimal("1234567890123456789012345678901")) == Decimal(
        "1234567890123456789012345678.901"
    )


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0"),
        ("960.01234", "960"),
        ("960.06", "960.1"),
        ("31.4372", "31.44"),
        ("5.22", "5.22"),
        ("0.603", "0.603"),
        ("0.000420067", "0.0004201"),
        ("1e-30", "0.000000000000000000000000000001"),
        ("99.999", "100"),
        ("123456.789", "123457"),
        ("1e9", "1000000000"),
        ("-1.00004", "-1"),
    ],
)
def test_a_sentence_has_four_digits_and_every_whole_satoshi(amount: str, text: str) -> None:
    assert format_eyes(Decimal(amount)) == text

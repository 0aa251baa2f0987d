"""What a key's counters tell of attempts that ended without word: a playbook."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.ledger.reconcile import (
    Account,
    Open,
    Settlement,
    Verdict,
    parse_account,
    settle,
)
from tests.sansio.routing.test_listing import recorded


def account(spent: int) -> Account:
    return Account(balance=1_000_000 - spent, reserved=0, total_spent=spent, total_requests=0)


def opened(n: int, most: str | None = "1") -> Open:
    return Open(f"r{n}", 1, None if most is None else Decimal(most))


def prices(settlement: Settlement) -> list[Decimal]:
    return [sats for _, sats in settlement.prices]


def at(spent: int, stated: str, *open_ones: Open) -> Settlement:
    """From 1,000 msat spent before."""
    return settle(account(1000), account(spent), Decimal(stated), open_ones)


def test_the_first_look_tells_nothing() -> None:
    found = settle(None, account(7), Decimal(0), [opened(1)])
    assert (found.verdict, found.prices) == (Verdict.FIRST, ())


def test_books_that_agree_are_equal() -> None:
    assert at(1505, "0.505").verdict is Verdict.EQUAL


def test_what_is_charged_beside_what_was_stated_is_the_price_of_the_one_that_is_open() -> None:
    found = at(2010, "0.505", opened(1))
    assert (found.verdict, prices(found)) == (Verdict.SETTLED, [Decimal("0.505")])


def test_where_nothing_more_was_charged_all_were_free() -> None:
    found = at(1505, "0.505", opened(1), opened(2, None))
    assert (found.verdict, prices(found)) == (Verdict.SETTLED, [Decimal(0)] * 2)


def test_several_share_their_sum_by_what_was_set_aside_for_each() -> None:
    found = at(2000, "0", opened(1, "3"), opened(2, "1"))
    assert found.verdict is Verdict.SHARED
    assert prices(found) == [Decimal("0.75"), Decimal("0.25")]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (at(999, "0", opened(1)), Verdict.FELL),
        (at(1500, "0.505", opened(1)), Verdict.LESS),
        (at(1500, "0.4"), Verdict.FOREIGN),
        (at(12_000, "0", opened(1, "1")), Verdict.FOREIGN),
        (at(3_000_000, "0", opened(1, None)), Verdict.FOREIGN),
    ],
)
def test_a_difference_that_cannot_be_ours_settles_nothing_and_is_said(
    found: Settlement, verdict: Verdict
) -> None:
    assert (found.verdict, found.prices) == (verdict, ())
    assert found.sentence()


@given(
    rest=st.integers(1, 10_000),
    most=st.lists(st.integers(0, 5_000), min_size=2, max_size=8),
)
def test_what_is_shared_is_the_sum_in_whole_millisats(rest: int, most: list[int]) -> None:
    open_ones = [opened(n, str(each)) for n, each in enumerate(most)]
    found = at(1000 + rest, "0", *open_ones)
    if found.verdict is Verdict.SHARED:
        assert sum(prices(found)) == Decimal(rest) / 1000
        assert all(each >= 0 and each * 1000 == int(each * 1000) for each in prices(found))


def test_the_recorded_node_tells_its_accounts() -> None:
    assert parse_account(recorded("04-balance-info")) == Account(1_000_000, 0, 0, 0)
    assert parse_account(recorded("D2-child-info-after")) == Account(387_721, 0, 505, 1)
    assert parse_account(recorded("D4-parent-info")) == Account(387_216, 0, 612_784, 18)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b"{}",
        b'{"balance":1,"reserved":0,"total_spent":0}',
        b'{"balance":true,"reserved":0,"total_spent":0,"total_requests":0}',
        b'{"balance":1.5,"reserved":0,"total_spent":0,"total_requests":0}',
        b'{"balance":99999999999999999999,"reserved":0,"total_spent":0,"total_requests":0}',
        b'{"balance":1,"reserved":0,"total_spent":-1,"total_requests":0}',
        b'{"balance":1,"reserved":0,"total_spent":0,"total_requests":-1}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_anything_else_is_said_to_be_no_account(body: bytes) -> None:
    assert isinstance(parse_account(body), str)


@pytest.mark.parametrize(
    ("until", "closed"),
    [
        pytest.param("null", False, id="for-ever"),
        pytest.param("1", True, id="long-ago"),
        pytest.param("1.0", True, id="in-a-float"),
        pytest.param("0", False, id="nothing"),
        pytest.param("-1", False, id="less"),
        pytest.param("-Infinity", False, id="least"),
        pytest.param("1795864800", False, id="some-day"),
        pytest.param("true", False, id="no-number"),
        pytest.param('"1"', False, id="a-text"),
        pytest.param("NaN", False, id="nan"),
        pytest.param("[]", False, id="a-list"),
    ],
)
def test_a_key_is_closed_whose_time_ended_long_ago(until: str, closed: bool) -> None:
    body = (
        '{"balance": 1, "reserved": 2, "total_spent": 3, "total_requests": 4, "validity_date": %s}'
    )
    assert parse_account((body % until).encode()) == Account(1, 2, 3, 4, closed)

"""Every failure by what was seen, and what it may have cost."""

from dataclasses import replace
from decimal import Decimal

import pytest

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.failover.failure import (
    MONEY,
    SENTENCES,
    WATCHED,
    Failure,
    FailureKind,
    Money,
    as_stated,
    is_answer,
    is_refusal,
    money_of,
    rest_reason,
    rest_seconds,
    seen,
)
from arbstr.sansio.failover.rests import Reason

BOTH = pytest.mark.parametrize("kind", list(Kind))


def test_every_failure_has_a_row_for_every_kind_of_provider() -> None:
    assert list(MONEY) == list(FailureKind)
    assert all(set(row) == set(Kind) for row in MONEY.values())


def test_every_failure_is_made_in_exactly_one_way() -> None:
    assert set(SENTENCES) | WATCHED == set(FailureKind)
    assert not set(SENTENCES) & WATCHED


EXPECTED = """\
not_sent free free
client_error free free
account free free
no_model free free
not_capable free free
no_endpoint free free
rate_limited free free
no_stream_options free free
server_error free free/unknown
gave_up unknown free/unknown
bad_status free unknown
no_answer unknown unknown
bad_answer spent spent
error_answer free free
stream_died unknown unknown
stream_cut spent unknown
client_left unknown unknown
shutdown unknown unknown
"""


def test_the_money_is_what_was_agreed() -> None:
    lines = []
    for kind in FailureKind:
        cells = []
        for provider in (Kind.OPENAI, Kind.ROUTSTR):
            signed = money_of(kind, provider, signed=True)
            unsigned = money_of(kind, provider, signed=False)
            cells.append(signed if signed is unsigned else f"{signed}/{unsigned}")
        lines.append(" ".join([kind, *cells]) + "\n")
    assert "".join(lines) == EXPECTED


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
def test_a_2xx_with_a_body_is_an_answer(status: int) -> None:
    assert is_answer(status)


@pytest.mark.parametrize("status", [100, 101, 199, 204, 205, 300, 301, 304, 400, 500, 600])
def test_anything_else_is_none(status: int) -> None:
    assert not is_answer(status)


@BOTH
@pytest.mark.parametrize("watched", sorted(WATCHED))
def test_what_was_watched_costs_what_the_table_says(watched: FailureKind, kind: Kind) -> None:
    failure = seen(watched, kind, "hung up", status=200, upstream_request_id="r")
    assert failure.money is money_of(watched, kind, signed=False)
    assert failure.sentence == "hung up"
    neutral = (FailureKind.CLIENT_LEFT, FailureKind.SHUTDOWN)
    assert failure.trips is (watched not in neutral)
    assert seen(watched, kind, "hung up", own_limit=True).trips is False


def test_a_connect_timeout_is_remembered() -> None:
    failure = seen(FailureKind.NOT_SENT, Kind.OPENAI, "timed out", timed_out_connecting=True)
    assert failure.timed_out_connecting is True


@pytest.mark.parametrize("kind", sorted(set(FailureKind) - WATCHED))
def test_a_failure_that_an_answer_tells_cannot_be_watched(kind: FailureKind) -> None:
    with pytest.raises(LocalProtocolError):
        seen(kind, Kind.OPENAI, "x")


def test_only_a_rate_limit_and_a_503_say_how_long_to_rest() -> None:
    waits = Failure(FailureKind.SERVER_ERROR, Money.FREE, "failed", status=503, retry_after=7.0)
    assert rest_seconds(waits) == 7.0
    assert rest_reason(waits) is Reason.OVERLOAD
    assert rest_reason(replace(waits, retry_after=None)) is None
    assert rest_seconds(replace(waits, status=502)) is None
    assert rest_seconds(replace(waits, kind=FailureKind.GAVE_UP)) is None


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        *((status, True) for status in (400, 404, 412, 414, 429, 498)),
        *((status, False) for status in (399, 408, 413, 499, 500)),
    ],
)
def test_a_refusal_is_of_a_server_that_is_well(status: int, refused: bool) -> None:
    assert is_refusal(status) is refused


# --- what outranks a class --------------------------------------------------------------------


@pytest.mark.parametrize("money", list(Money))
@pytest.mark.parametrize("stated", ["0.001", "1", "30000"])
@pytest.mark.parametrize("last_word", [True, False])
def test_a_charge_is_spent_whatever_the_class(money: Money, stated: str, last_word: bool) -> None:
    failure = Failure(FailureKind.SERVER_ERROR, money, "failed", status=500)
    charged = as_stated(failure, stated_msats=Decimal(stated), counted=False, last_word=last_word)
    assert charged == replace(failure, money=Money.SPENT)


@pytest.mark.parametrize("money", list(Money))
def test_a_stated_0_is_free_only_if_nothing_more_can_come(money: Money) -> None:
    failure = Failure(FailureKind.STREAM_CUT, money, "broke off", status=200)

    def stated(*, last_word: bool) -> Money:
        found = as_stated(failure, stated_msats=Decimal(0), counted=False, last_word=last_word)
        return found.money

    assert stated(last_word=True) is Money.FREE
    assert stated(last_word=False) is money


def test_an_error_before_whose_charge_the_connection_broke_may_have_cost() -> None:
    failure = Failure(FailureKind.ERROR_ANSWER, Money.FREE, "answered", status=200)

    def found(failure: Failure, stated: str | None = None, *, counted: bool = False) -> Money:
        price = None if stated is None else Decimal(stated)
        return as_stated(
            failure, stated_msats=price, counted=counted, last_word=False, unheard=True
        ).money

    assert found(failure) is Money.UNKNOWN
    assert found(failure, "0") is Money.UNKNOWN
    assert found(failure, "505") is Money.SPENT
    assert found(failure, counted=True) is Money.SPENT
    assert found(replace(failure, status=502)) is Money.FREE


@pytest.mark.parametrize(
    ("status", "money", "expected"),
    [
        (200, Money.FREE, Money.SPENT),
        (200, Money.UNKNOWN, Money.UNKNOWN),
        (500, Money.FREE, Money.FREE),
        (None, Money.FREE, Money.FREE),
    ],
)
def test_counted_tokens_make_what_is_free_under_a_2xx_possibly_paid(
    status: int | None, money: Money, expected: Money
) -> None:
    failure = Failure(FailureKind.ERROR_ANSWER, money, "answered", status=status)

    def found(*, counted: bool, stated: Decimal | None = None) -> Money:
        told = as_stated(failure, stated_msats=stated, counted=counted, last_word=True)
        return told.money

    assert found(counted=True) is expected
    assert found(counted=False) is money
    assert found(counted=True, stated=Decimal(0)) is Money.FREE

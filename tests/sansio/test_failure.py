"""Every failure by what was seen, and what it may have cost."""

import pytest

from arbstr.sansio.config import Kind
from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.failure import (
    MONEY,
    SEEN,
    SENTENCES,
    WATCHED,
    FailureKind,
    failure_table,
    is_answer,
    money_of,
    seen,
)

BOTH = pytest.mark.parametrize("kind", list(Kind))


def test_every_failure_has_a_row_for_every_kind_of_provider() -> None:
    assert list(MONEY) == list(FailureKind)
    assert list(SEEN) == list(FailureKind)
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


def test_the_table_prints_as_markdown() -> None:
    lines = failure_table().splitlines()
    assert lines[0] == "| failure | seen | openai key | routstr key |"
    assert len(lines) == 2 + len(FailureKind)
    assert all(line.count(" | ") == 3 for line in lines if not line.startswith("|---"))
    assert (
        "| server_error | complete 408, 409, 425, 5xx but the next row; for routstr also 424 |"
        " free | free with `x-routstr-request-id`, else unknown |"
    ) in lines


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
def test_a_2xx_with_a_body_is_an_answer(status: int) -> None:
    assert is_answer(status)


@pytest.mark.parametrize("status", [100, 101, 204, 205, 301, 304, 400, 500, 600])
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

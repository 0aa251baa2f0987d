"""The lines that outlive a kill: what is written is read, and what is broken is passed over."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from decimal import Decimal
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.ledger.intents import (
    HEADER,
    Begun,
    Intent,
    _encoder,
    abandoned,
    end_line,
    intent_line,
    read_lines,
)
from arbstr.sansio.ledger.record import AttemptRow, Record
from tests.records import INTENT, RECORD, RUNNING

FAILED: Final = replace(RUNNING, failure="server_error", http_status=503, money="free")
END: Final = replace(RECORD, correlation_id="one", token_ratio=2.0)


def without_c() -> Callable[[object], str]:
    """What a Python has whose json is not in C."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json.encoder, "c_make_encoder", None)
        return _encoder()


def read(*lines: bytes) -> list[Intent | Record]:
    return list(read_lines([HEADER, *lines]).values())


def test_what_is_written_is_read() -> None:
    other = replace(INTENT, correlation_id="two", requested_model="caf\u00e9 \ud800\n")
    assert read(intent_line(INTENT), intent_line(other)) == [INTENT, other]
    assert read(end_line(END)) == [END]


def test_a_line_is_one_line_of_ascii() -> None:
    line = intent_line(replace(INTENT, requested_model="a\nb\u2028\r"))
    assert line.isascii()
    assert line.splitlines() == [line[:-1]]


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_amounts_are_exact(sats: Decimal) -> None:
    (told,) = read(end_line(replace(END, cost_sats=sats)))
    assert isinstance(told, Record)
    assert told.cost_sats == sats


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.just(Decimal("0.1")),
        lambda inner: (
            st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner)
        ),
    )
)
@pytest.mark.parametrize("encode", [_encoder(), without_c()])
def test_an_encoder_that_is_made_once_writes_what_json_writes(
    encode: Callable[[object], str], value: object
) -> None:
    assert encode(value) == json.dumps(value, default=str, separators=(",", ":"))


def test_the_last_word_on_a_request_counts_and_an_end_is_the_last() -> None:
    second = replace(INTENT, attempts=(FAILED, replace(RUNNING, n=2, provider="beta")))
    assert read(intent_line(INTENT), intent_line(second)) == [second]
    assert read(intent_line(INTENT), end_line(END)) == [END]
    assert read(end_line(END), intent_line(INTENT)) == [END]


@pytest.mark.parametrize(
    "broken",
    [
        *(intent_line(INTENT)[:length] + b"\n" for length in (0, 1, 20, 100, -2)),
        b"\xff\xfe\n",
        b"null\n",
        b"[]\n",
        b'["intent",[],[]]\n',
        b'["intent",["a"],[]]\n',
        b'["other",[],[]]\n',
        b'["intent",[1,2,3,4,5],[]]\n',
        b'["intent",["a","b","c","d","e"],[[1]]]\n',
        b"[" * 100_000 + b"\n",
        end_line(END).replace(b'"0.125"', b'"much"'),
    ],
)
def test_what_is_no_whole_line_is_passed_over(broken: bytes) -> None:
    two = replace(INTENT, correlation_id="two")
    assert read(broken, intent_line(two)) == [two]
    assert read(intent_line(two), broken) == [two]


@pytest.mark.parametrize("header", [b"", b"{}\n", b'{"intent":7,"attempt":null}\n'])
def test_lines_without_their_names_say_nothing(header: bytes) -> None:
    assert read_lines([header, intent_line(INTENT), end_line(END)]) == {}


def test_a_file_of_an_older_arbstr_leaves_unknown_what_it_had_no_name_for() -> None:
    names = {"intent": ["correlation_id", "timestamp"], "attempt": ["n", "provider"]}
    line = json.dumps(["intent", ["one", "then"], [[1, "alpha"]]])
    told = read_lines([json.dumps(names).encode(), line.encode()])["one"]
    assert isinstance(told, Intent)
    assert (told.timestamp, told.policy) == ("then", None)
    assert abandoned(told).endpoint == "chat"  # which was all there was
    (attempt,) = told.attempts
    assert (attempt.n, attempt.provider, attempt.estimated_cost_sats) == (1, "alpha", None)


def test_a_file_of_a_newer_arbstr_has_names_that_are_left_out() -> None:
    names = json.loads(HEADER)
    names["record"].append("colour")
    which, values, attempts = json.loads(end_line(END))
    line = json.dumps([which, [*values, "red"], attempts])
    assert read_lines([json.dumps(names).encode(), line.encode()]) == {"one": END}


def test_every_field_is_in_a_line() -> None:
    names = json.loads(HEADER)
    for kind, name in ((Intent, "intent"), (Record, "record"), (AttemptRow, "attempt")):
        assert names[name] == [each.name for each in fields(kind) if each.name != "attempts"]


def test_an_attempt_that_has_begun_has_the_line_of_its_row() -> None:
    row = replace(
        RUNNING,
        expected_sats=None,
        set_aside_sats=Decimal("2.5"),
        price_id=7,
        lane="l-1",
        key_id="k-1",
    )
    begun = Begun(
        row.n,
        row.provider,
        row.model,
        row.started_at,
        row.estimated_cost_sats,
        row.set_aside_sats,
        row.price_id,
        row.lane,
        row.key_id,
    )
    assert all(getattr(begun, each.name) == getattr(row, each.name) for each in fields(row))
    line = intent_line(replace(INTENT, attempts=(FAILED, begun)))
    assert line == intent_line(replace(INTENT, attempts=(FAILED, row)))
    assert read(line) == [replace(INTENT, attempts=(FAILED, row))]


# -- the row of who was killed


def test_an_attempt_that_ran_may_have_cost_its_estimate() -> None:
    row = abandoned(INTENT)
    assert (row.status, row.success, row.possibly_spent) == ("abandoned", False, 1)
    assert (row.correlation_id, row.timestamp, row.requested_model) == (
        "one",
        "2026-02-03T04:05:06.789Z",
        "gpt-4o",
    )
    assert (row.model, row.provider, row.policy, row.streaming) == ("gpt-4o", "alpha", "code", True)
    assert row.estimated_cost_sats == Decimal("0.5")
    assert row.cost_sats is None
    assert row.answered is False
    assert row.error_message == "arbstr ended before this request did"
    assert row.attempts == (replace(RUNNING, failure="shutdown", money="unknown"),)


@pytest.mark.parametrize(("money", "may_have_cost"), [("free", 1), ("spent", 2), ("unknown", 2)])
def test_what_attempts_before_it_cost_is_kept(money: str, may_have_cost: int) -> None:
    before = replace(FAILED, money=money)
    now = replace(RUNNING, n=2, provider="beta", estimated_cost_sats=Decimal(100))
    row = abandoned(replace(INTENT, attempts=(before, now)))
    assert row.attempts == (before, replace(now, failure="shutdown", money="unknown"))
    assert (row.provider, row.estimated_cost_sats) == ("beta", Decimal(100))
    assert row.possibly_spent == may_have_cost


@pytest.mark.parametrize(
    ("stated", "money", "cost"),
    [(Decimal("0.7"), "spent", Decimal("0.7")), (Decimal(0), "unknown", None)],
)
def test_what_had_stated_a_price_before_the_kill_is_spent(
    stated: Decimal, money: str, cost: Decimal | None
) -> None:
    """As `sql/abandon_attempts.sql` has it. No line of this arbstr says so of what still runs."""
    runs = replace(RUNNING, provider_cost_sats=stated, cost_sats=cost)
    row = abandoned(replace(INTENT, attempts=(runs,)))
    assert row.attempts == (replace(runs, failure="shutdown", money=money),)
    assert (row.cost_sats, row.provider_cost_sats) == (cost, cost)
    assert row.possibly_spent == 1


def test_a_killed_request_came_in_by_its_own_door() -> None:
    assert abandoned(replace(INTENT, endpoint="responses")).endpoint == "responses"


def test_an_intent_without_an_attempt_is_no_reason_to_fail() -> None:
    row = abandoned(replace(INTENT, attempts=()))
    assert (row.model, row.provider, row.possibly_spent) == ("gpt-4o", None, 0)

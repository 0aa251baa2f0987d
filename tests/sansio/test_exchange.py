"""The life of one request: which event may come when, and what the log is told in the end."""

import json
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.failure import Failure, FailureKind, Money, seen
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.life import (
    TRANSITIONS,
    Answered,
    AttemptFailed,
    AttemptStarted,
    ClientLeft,
    Delivered,
    Drained,
    Event,
    HeadSeen,
    Interrupted,
    Joined,
    OutputBegan,
    Phase,
    Refused,
    Routed,
    Unanswered,
    UsageSeen,
)
from arbstr.sansio.money import Rates, Usage
from tests import candidates
from tests.searching import examples

RATES: Final = Rates(input_rate=Decimal("0.1"), output_rate=Decimal("0.2"))
UNKNOWN: Final = seen(FailureKind.NO_ANSWER, Kind.ROUTSTR, "broke off")
FREE: Final = Failure(FailureKind.SERVER_ERROR, Money.FREE, "failed with status 503", status=503)
SPENT: Final = seen(FailureKind.STREAM_CUT, Kind.OPENAI, "broke off")
USAGE: Final = Usage(10, 5, cached_tokens=3, reasoning_tokens=2)
ERROR: Final = ErrorReply("upstream_error", "No answer: alpha failed.")


candidate: Final = partial(candidates.candidate, kind=Kind.ROUTSTR, rates=RATES)
ALPHA: Final = candidate("alpha")
BETA: Final = candidate("beta")
STARTED: Final = AttemptStarted(ALPHA, "2026-02-03T04:05:06.790Z")

EVENTS: Final[dict[type[Any], Event]] = {
    Routed: Routed("cheap", ALPHA),
    Refused: Refused(ERROR, "cheap"),
    AttemptStarted: STARTED,
    HeadSeen: HeadSeen(200, "req-1"),
    OutputBegan: OutputBegan(),
    UsageSeen: UsageSeen(USAGE, Decimal(505)),
    AttemptFailed: AttemptFailed(UNKNOWN),
    Answered: Answered(),
    Delivered: Delivered(),
    Unanswered: Unanswered(ERROR),
    Interrupted: Interrupted(ERROR),
    ClientLeft: ClientLeft(),
    Joined: Joined("first"),
}

ROUTING: Final[list[Event]] = []
READY: Final[list[Event]] = [EVENTS[Routed]]
ATTEMPTING: Final = [*READY, STARTED]
ANSWERED: Final = [*ATTEMPTING, Answered()]
ENDED: Final = [*ANSWERED, Delivered()]
JOINED: Final = [EVENTS[Joined]]
WAYS: Final = {
    Phase.ROUTING: ROUTING,
    Phase.READY: READY,
    Phase.ATTEMPTING: ATTEMPTING,
    Phase.ANSWERED: ANSWERED,
    Phase.ENDED: ENDED,
    Phase.JOINED: JOINED,
}


def told(*events: Event, streaming: bool = False) -> Exchange:
    """An exchange received at 100 s that was told these, one a second."""
    exchange = Exchange("id-1", "2026-02-03T04:05:06.789Z", "gpt-4o", streaming, 100.0)
    for second, event in enumerate(events, 101):
        exchange.note(event, float(second))
    return exchange


def closed(*events: Event, now: float = 200.0, streaming: bool = False) -> Record:
    return told(*events, streaming=streaming).close(now)


# --- the table --------------------------------------------------------------------------------


def test_the_table_is_total() -> None:
    assert set(TRANSITIONS) == set(Phase) == set(WAYS)
    assert {*EVENTS, Drained} == set(get_args(Event))
    assert {event for row in TRANSITIONS.values() for event in row} == set(EVENTS)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: type(event).__name__)
def test_an_event_leads_where_the_table_says_or_is_our_bug(phase: Phase, event: Event) -> None:
    exchange = told(*WAYS[phase])
    assert exchange.phase is phase
    following = TRANSITIONS[phase].get(type(event))
    if following is None:
        before = exchange.in_flight(150.0)
        with pytest.raises(LocalProtocolError, match=phase.name):
            exchange.note(event, 150.0)
        assert (exchange.phase, exchange.in_flight(150.0)) == (phase, before)
    else:
        exchange.note(event, 150.0)
        assert exchange.phase is following


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_can_be_closed_and_once_only(phase: Phase) -> None:
    exchange = told(*WAYS[phase])
    record = exchange.close(150.0)
    assert exchange.phase is Phase.ENDED
    assert record.status == ("ok" if phase is Phase.ENDED else "client_disconnected")
    with pytest.raises(LocalProtocolError, match="once"):
        exchange.close(151.0)


# --- how it can end ---------------------------------------------------------------------------


def test_whoever_got_the_answer_of_another_paid_nothing_for_it() -> None:
    known = Joined("first", "alpha", "gpt-4o-mini", "code", USAGE)
    exchange = told(*JOINED, known, OutputBegan(), streaming=True)
    assert exchange.in_flight(110.0).status == "in_flight"
    summary = json.loads(exchange.summary(104.5, retries=""))
    exchange.note(Delivered(), 105.0)
    record = exchange.close(110.0)
    assert (record.joined, record.status) == ("first", "ok")
    assert record.cost_sats == 0
    assert (record.provider, record.model, record.policy) == ("alpha", "gpt-4o-mini", "code")
    assert (record.attempts, record.input_tokens, record.token_ratio) == ((), None, None)
    assert (record.latency_ms, record.ttft_ms) == (5000, 3000)
    assert summary == {
        "request_id": "id-1",
        "provider": "alpha",
        "model": "gpt-4o-mini",
        "cost_sats": 0,
        "latency_ms": 4500,
        "input_tokens": 10,
        "output_tokens": 5,
        "retries": None,
        "joined": "first",
    }


def test_what_a_departed_client_did_not_see_is_not_in_its_times() -> None:
    exchange = told(*ATTEMPTING, OutputBegan(), Answered(), streaming=True)  # 103, 104
    exchange.note(ClientLeft(), 102.5)
    record = exchange.close(110.0)
    assert (record.latency_ms, record.ttft_ms, record.stream_duration_ms) == (2500, None, None)


def test_an_answer_that_was_delivered_is_ok() -> None:
    record = closed(
        *ATTEMPTING,
        HeadSeen(200, "req-1"),
        OutputBegan(),
        UsageSeen(USAGE, Decimal(1505)),
        Answered(),
        Delivered(),
        streaming=True,
    )
    assert record == Record(
        correlation_id="id-1",
        timestamp="2026-02-03T04:05:06.789Z",
        model="gpt-4o",
        requested_model="gpt-4o",
        provider="alpha",
        policy="cheap",
        streaming=True,
        input_tokens=10,
        output_tokens=5,
        cached_tokens=3,
        reasoning_tokens=2,
        cost_sats=Decimal("1.505"),
        expected_sats=Decimal("0.002"),
        estimated_cost_sats=Decimal(1),
        provider_cost_sats=Decimal("1.505"),
        latency_ms=7000,
        ttft_ms=4000,
        stream_duration_ms=3000,
        success=True,
        answered=True,
        status="ok",
        error_status=None,
        error_message=None,
        possibly_spent=0,
        attempts=record.attempts,
        token_ratio=0.5,
    )
    [row] = record.attempts
    assert (row.n, row.provider, row.model) == (1, "alpha", "gpt-4o")
    assert (row.started_at, row.duration_ms) == ("2026-02-03T04:05:06.790Z", 4000)
    assert (row.failure, row.money, row.http_status) == (None, "spent", 200)
    assert (row.input_tokens, row.output_tokens) == (10, 5)
    assert (row.cost_sats, row.expected_sats) == (Decimal("1.505"), Decimal("0.002"))
    assert row.provider_cost_sats == Decimal("1.505")
    assert row.upstream_request_id == "req-1"


def test_a_request_refused_before_any_attempt_is_rejected() -> None:
    for record in (closed(Refused(ERROR, "cheap")), closed(*READY, Refused(ERROR))):
        assert (record.status, record.success, record.policy) == ("rejected", False, "cheap")
        assert (record.error_status, record.error_message) == (502, ERROR.message)
        assert (record.attempts, record.may_have_cost) == ((), False)
        assert record.model == "gpt-4o"


def test_a_request_refused_after_an_attempt_is_failed() -> None:
    assert closed(*ATTEMPTING, AttemptFailed(FREE), Refused(ERROR)).status == "failed"


def test_a_failed_request_names_the_last_provider_and_why() -> None:
    record = closed(
        *ATTEMPTING,
        AttemptFailed(FREE),
        AttemptStarted(BETA, "2026-02-03T04:05:07.790Z"),
        AttemptFailed(UNKNOWN),
        Unanswered(ERROR),
    )
    assert (record.status, record.provider, record.possibly_spent) == ("failed", "beta", 1)
    assert [(row.n, row.provider, row.failure, row.money) for row in record.attempts] == [
        (1, "alpha", "server_error", "free"),
        (2, "beta", "no_answer", "unknown"),
    ]
    assert record.may_have_cost


def test_free_failures_have_cost_nothing() -> None:
    record = closed(*ATTEMPTING, AttemptFailed(FREE), Unanswered(ERROR))
    assert (record.possibly_spent, record.may_have_cost) == (0, False)


def test_a_broken_stream_is_incomplete() -> None:
    record = closed(
        *ATTEMPTING, OutputBegan(), AttemptFailed(SPENT), Interrupted(ERROR), streaming=True
    )
    assert (record.status, record.success) == ("stream_incomplete", False)
    assert (record.ttft_ms, record.stream_duration_ms) == (3000, 2000)
    assert [(row.failure, row.money) for row in record.attempts] == [("stream_cut", "spent")]


def test_a_client_that_left_is_disconnected_and_what_was_seen_stays() -> None:
    record = closed(*ATTEMPTING, HeadSeen(200, None), AttemptFailed(UNKNOWN), ClientLeft())
    assert (record.status, record.error_status, record.attempts[0].http_status) == (
        "client_disconnected",
        None,
        200,
    )


def test_a_client_that_leaves_after_the_last_byte_changes_nothing() -> None:
    assert closed(*ENDED, ClientLeft()) == closed(*ENDED)


def test_an_attempt_nobody_ended_was_given_up_because_the_client_left() -> None:
    record = closed(*ATTEMPTING, now=110.0)
    [row] = record.attempts
    assert (row.failure, row.money, row.duration_ms) == ("client_left", "unknown", 8000)
    assert record.possibly_spent == 1


def test_it_lasted_until_then_although_a_drain_goes_on() -> None:
    exchange = told(*ATTEMPTING)
    before = exchange.finished(110.0)
    exchange.note(Drained(1, 200, "req-1", USAGE, None, Money.SPENT), 150.0)
    after = exchange.close(150.0)
    assert [record.attempts[0].duration_ms for record in (before, after)] == [8000, 8000]
    assert (before.latency_ms, after.latency_ms) == (10_000, 10_000)


def test_the_row_is_of_the_attempt_that_answered_and_before_any_of_the_one_to_be_made() -> None:
    mini = candidate("beta", model="mini")
    mini = replace(mini, estimated_cost=Decimal(7))
    again = AttemptStarted(mini, "2026-02-03T04:05:07.790Z")
    answered = closed(*ATTEMPTING, AttemptFailed(FREE), again, Answered(), Delivered())
    assert (answered.model, answered.provider) == ("mini", "beta")
    assert answered.estimated_cost_sats == 7
    routed = closed(Routed(None, mini), Refused(ERROR))
    assert (routed.model, routed.provider) == ("mini", None)
    assert routed.estimated_cost_sats == 7
    assert closed(Refused(ERROR)).model == "gpt-4o"


def test_the_row_says_what_may_be_kept_of_an_error() -> None:
    words = ErrorReply("provider_auth", "No: it said top secret.", logged="No.")
    assert closed(*READY, Refused(words)).error_message == "No."
    assert closed(*READY, Refused(ERROR)).error_message == ERROR.message


def test_half_an_answer_teaches_nothing_about_how_long_they_are() -> None:
    counted = [*ATTEMPTING, OutputBegan(), UsageSeen(USAGE, None)]
    half = closed(*counted, AttemptFailed(SPENT), Interrupted(ERROR), streaming=True)
    whole = closed(*counted, Answered(), Delivered(), streaming=True)
    assert (half.token_ratio, half.output_tokens) == (None, 5)
    assert whole.token_ratio is not None


def test_the_intent_has_every_attempt_so_far_by_its_number() -> None:
    running = AttemptStarted(BETA, "2026-02-03T04:05:07.790Z")
    intent = told(*ATTEMPTING, AttemptFailed(FREE), running).intent(105.0)
    assert (intent.correlation_id, intent.policy) == ("id-1", "cheap")
    assert [(row.n, row.provider, row.failure) for row in intent.attempts] == [
        (1, "alpha", "server_error"),
        (2, "beta", None),
    ]


def test_what_has_happened_so_far() -> None:
    exchange = told(*READY)
    assert not exchange.answered
    assert not told(*ATTEMPTING).answered
    assert told(*ANSWERED).answered
    again = AttemptStarted(BETA, "")
    assert told(*ATTEMPTING, AttemptFailed(FREE), again, Answered()).answered
    assert (exchange.attempts_made, exchange.model, exchange.output_began) == (0, "gpt-4o", False)
    exchange.note(AttemptStarted(candidate("alpha", model="mini"), ""), 150.0)
    assert (exchange.attempts_made, exchange.model, exchange.output_began) == (1, "mini", False)
    exchange.note(OutputBegan(), 151.0)
    assert exchange.output_began


def test_whole_answers_have_no_stream_times() -> None:
    record = closed(*ENDED)
    assert (record.ttft_ms, record.stream_duration_ms) == (None, None)


def test_a_row_in_flight_is_known_as_far_as_it_is() -> None:
    record = told(*ATTEMPTING).in_flight(110.0)
    assert (record.status, record.success, record.latency_ms) == ("in_flight", False, 0)
    assert (record.provider, record.estimated_cost_sats) == ("alpha", Decimal(1))
    assert [row.money for row in record.attempts] == [None]
    assert not record.may_have_cost


def test_a_row_in_flight_has_every_attempt_and_the_one_that_runs() -> None:
    running = AttemptStarted(BETA, "2026-02-03T04:05:07.790Z")
    record = told(*ATTEMPTING, AttemptFailed(FREE), running).in_flight(110.0)
    assert [(row.n, row.provider, row.failure, row.money) for row in record.attempts] == [
        (1, "alpha", "server_error", "free"),
        (2, "beta", None, None),
    ]
    assert (record.provider, record.possibly_spent) == ("beta", 0)
    assert [row.duration_ms for row in record.attempts] == [1000, 6000]


def test_a_row_in_flight_says_nothing_of_an_end_that_is_still_to_come() -> None:
    streaming = told(*ATTEMPTING, OutputBegan(), streaming=True).in_flight(110.0)
    assert (streaming.ttft_ms is not None, streaming.stream_duration_ms) == (True, None)
    # Its client has its error, and a drain goes on.
    drained = told(*ATTEMPTING, AttemptFailed(UNKNOWN), Unanswered(ERROR)).in_flight(110.0)
    assert (drained.status, drained.error_status, drained.error_message) == (
        "in_flight",
        None,
        None,
    )
    assert drained.possibly_spent == 1


# --- money ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "stated", "expected"),
    [
        pytest.param(FREE, None, "free", id="free"),
        pytest.param(FREE, Decimal(505), "spent", id="a charge outranks the class"),
        pytest.param(FREE, Decimal(0), "free", id="free and it says so"),
        pytest.param(SPENT, None, "spent", id="spent"),
        pytest.param(SPENT, Decimal(505), "spent", id="spent and it says so"),
        pytest.param(SPENT, Decimal(0), "spent", id="0 before the end frees nothing"),
        pytest.param(UNKNOWN, None, "unknown", id="unknown"),
        pytest.param(UNKNOWN, Decimal(505), "spent", id="it says it charged"),
        pytest.param(UNKNOWN, Decimal(0), "unknown", id="0 before the end proves nothing"),
    ],
)
def test_money_of_an_attempt_without_a_drain(
    failure: Failure, stated: Decimal | None, expected: str
) -> None:
    events = [*ATTEMPTING, UsageSeen(None, stated), AttemptFailed(failure)]
    exchange = told(*events)
    assert exchange.possibly_spent == int(expected != "free")
    record = exchange.close(200.0)
    assert record.attempts[0].money == expected
    assert record.possibly_spent == int(expected != "free")


@pytest.mark.parametrize(
    ("failure", "stated", "money", "expected"),
    [
        (UNKNOWN, None, None, "unknown"),
        (UNKNOWN, None, Money.UNKNOWN, "unknown"),
        (UNKNOWN, None, Money.FREE, "free"),
        (UNKNOWN, None, Money.SPENT, "spent"),
        (UNKNOWN, Decimal(0), None, "unknown"),
        (UNKNOWN, Decimal(0), Money.FREE, "free"),
        # It broke off before its last word: what was told at once stands.
        (UNKNOWN, Decimal(0), Money.UNKNOWN, "unknown"),
        (SPENT, Decimal(0), Money.SPENT, "spent"),
        (UNKNOWN, Decimal(505), None, "spent"),
        (UNKNOWN, Decimal(505), Money.UNKNOWN, "spent"),
        (UNKNOWN, Decimal(505), Money.FREE, "spent"),
        (SPENT, None, Money.FREE, "spent"),
        (SPENT, Decimal(0), Money.FREE, "free"),
        (SPENT, Decimal(0), None, "spent"),
        (FREE, None, Money.SPENT, "free"),
        (FREE, Decimal(505), Money.SPENT, "spent"),
    ],
)
def test_what_a_drain_learns_outranks_the_class_where_it_is_a_statement(
    failure: Failure, stated: Decimal | None, money: Money | None, expected: str
) -> None:
    exchange = told(*ATTEMPTING, AttemptFailed(failure), ClientLeft())
    exchange.note(Drained(1, 200, "req-9", USAGE, stated, money), 150.0)
    record = exchange.close(160.0)
    [row] = record.attempts
    assert (row.money, row.http_status, row.upstream_request_id) == (expected, 200, "req-9")
    assert (row.input_tokens, row.expected_sats) == (10, Decimal("0.002"))
    nothing = stated if expected == "free" else None
    known = Decimal("0.505") if stated else Decimal("0.002")
    assert row.cost_sats == (nothing if expected == "free" else known)
    assert (record.input_tokens, record.cost_sats) == (10, row.cost_sats)
    # The client's part ended when it left.
    assert (record.latency_ms, row.duration_ms) == (4000, 1000)


@pytest.mark.parametrize("phase", Phase)
def test_a_drain_of_an_earlier_attempt_may_end_in_any_phase_after_it(phase: Phase) -> None:
    if phase in (Phase.ROUTING, Phase.JOINED):
        return
    ways: dict[Phase, list[Event]] = {
        Phase.READY: [],
        Phase.ATTEMPTING: [STARTED],
        Phase.ANSWERED: [STARTED, Answered()],
        Phase.ENDED: [STARTED, Answered(), Delivered()],
    }
    exchange = told(*ATTEMPTING, AttemptFailed(UNKNOWN), *ways[phase])
    assert exchange.phase is phase
    exchange.note(Drained(1, None, None, None, None, Money.FREE), 150.0)
    assert exchange.phase is phase
    assert exchange.possibly_spent == 0
    # What was seen before stays if the drain saw nothing.
    exchange.note(Drained(1, None, None, None, None, Money.UNKNOWN), 150.0)
    assert exchange.possibly_spent == 1


@pytest.mark.parametrize("n", [-1, 0, 1, 2])
def test_only_a_failed_attempt_is_drained(n: int) -> None:
    with pytest.raises(LocalProtocolError, match="drain"):
        told(*ATTEMPTING).note(Drained(n, None, None, None, None, Money.FREE), 150.0)


def test_what_an_attempt_was_charged_as_far_as_is_known() -> None:
    def charged(end: Event, usage: Usage | None = None, stated: int | None = None) -> object:
        price = None if stated is None else Decimal(stated)
        return told(*ATTEMPTING, UsageSeen(usage, price), end).charged(1)

    free, unknown, spent = map(AttemptFailed, (FREE, UNKNOWN, SPENT))
    formula, statement = Decimal("0.002"), Decimal("0.505")
    assert charged(free, USAGE) == charged(free, USAGE, 0) == 0
    assert charged(free, USAGE, 505) == statement
    assert charged(unknown) is charged(unknown, None, 0) is None
    assert charged(unknown, USAGE) == charged(unknown, USAGE, 0) == formula
    assert charged(unknown, USAGE, 505) == charged(spent, None, 505) == statement
    assert charged(Answered()) is None
    assert charged(Answered(), USAGE) == formula
    assert charged(Answered(), USAGE, 505) == charged(Answered(), None, 505) == statement
    assert charged(Answered(), USAGE, 0) == 0
    assert charged(HeadSeen(200, None), USAGE, 0) == formula  # more may come


def test_each_attempt_was_charged_for_itself() -> None:
    exchange = told(
        *ATTEMPTING,
        UsageSeen(None, Decimal(505)),
        AttemptFailed(SPENT),
        AttemptStarted(BETA, ""),
        UsageSeen(None, Decimal(700)),
        AttemptFailed(UNKNOWN),
    )
    assert (exchange.charged(1), exchange.charged(2)) == (Decimal("0.505"), Decimal("0.7"))
    assert exchange.cost == Decimal("0.7")


def test_counts_that_cannot_be_are_told_for_each_attempt_that_made_them() -> None:
    absurd = UsageSeen(Usage(1, 10**12), None)
    exchange = told(
        *ATTEMPTING, absurd, AttemptFailed(SPENT), AttemptStarted(BETA, ""), absurd, Answered()
    )
    assert [said.split('"')[1] for said in exchange.disbelieved] == ["alpha", "beta"]
    assert told(*ATTEMPTING, UsageSeen(USAGE, None), Answered()).disbelieved == ()
    record = exchange.finished(200.0)
    assert (record.output_tokens, record.cost_sats, record.token_ratio) == (None, None, None)


def test_an_attempt_that_was_free_has_no_cost_but_what_it_would_have_been() -> None:
    record = closed(*ATTEMPTING, UsageSeen(USAGE, None), AttemptFailed(FREE), Unanswered(ERROR))
    [row] = record.attempts
    assert (record.cost_sats, record.expected_sats) == (None, Decimal("0.002"))
    assert (row.cost_sats, row.expected_sats) == (None, Decimal("0.002"))


def test_an_answer_stays_answered_whatever_becomes_of_the_request() -> None:
    assert closed(*ENDED).answered
    assert closed(*ANSWERED, ClientLeft()).answered
    assert closed(*ANSWERED, Unanswered(ERROR)).answered
    assert not told(*ATTEMPTING).in_flight(110.0).answered
    assert not closed(*ATTEMPTING, AttemptFailed(SPENT), Unanswered(ERROR)).answered
    assert not closed(Refused(ERROR)).answered


def test_without_rates_or_usage_the_cost_is_unknown_and_not_zero() -> None:
    bare = AttemptStarted(candidate("bare", rates=None), "")
    assert closed(*READY, bare, UsageSeen(USAGE, None), Answered(), Delivered()).cost_sats is None
    assert closed(*ENDED).cost_sats is None
    assert told(*READY).cost is None


# --- the summary ------------------------------------------------------------------------------


def test_the_summary_is_exact_and_says_what_it_knows() -> None:
    exchange = told(*ATTEMPTING, UsageSeen(Usage(1, 7), Decimal("200000.3")), Answered())
    text = exchange.summary(105.5, retries="2/beta")
    assert json.loads(text, parse_float=Decimal) == {
        "request_id": "id-1",
        "provider": "alpha",
        "model": "gpt-4o",
        "cost_sats": Decimal("200.0003"),
        "latency_ms": 5500,
        "input_tokens": 1,
        "output_tokens": 7,
        "retries": "2/beta",
    }
    assert b'"cost_sats": 200.0003' in text
    assert b"\n" not in text


def test_what_the_summary_does_not_know_is_null() -> None:
    told_ = json.loads(told(*ATTEMPTING, Answered()).summary(105.0, retries=""))
    unknown = {name for name, value in told_.items() if value is None}
    assert unknown == {"cost_sats", "input_tokens", "output_tokens", "retries"}


def test_the_summary_survives_half_a_surrogate_pair_and_quotes() -> None:
    odd = candidate('a"b', model="\ud800\n")
    exchange = told(*READY, AttemptStarted(odd, ""), Answered())
    summary = json.loads(exchange.summary(105.0, retries=""))
    assert (summary["provider"], summary["model"]) == ('a"b', "\ud800\n")


# --- any life ---------------------------------------------------------------------------------

FAILURES: Final = st.sampled_from([FREE, SPENT, UNKNOWN])
ANY_EVENT: Final[st.SearchStrategy[Event]] = st.one_of(
    st.sampled_from([*EVENTS.values(), AttemptStarted(BETA, "")]),
    st.builds(AttemptFailed, FAILURES),
    st.builds(
        UsageSeen,
        st.sampled_from([None, USAGE]),
        st.sampled_from([None, Decimal(0), Decimal(505)]),
    ),
    st.builds(
        Drained,
        st.integers(1, 4),
        st.none(),
        st.none(),
        st.none(),
        st.sampled_from([None, Decimal(0), Decimal(505)]),
        st.sampled_from([None, *Money]),
    ),
)


@examples(75)
@given(st.lists(ANY_EVENT, max_size=40))
def test_whatever_happens_there_is_one_truthful_record(events: list[Event]) -> None:
    exchange = told()
    taken: list[Event] = []
    for now, event in enumerate(events, 101):
        try:
            exchange.note(event, float(now))
        except LocalProtocolError:
            continue
        taken.append(event)
    record = exchange.close(200.0)
    started = sum(isinstance(event, AttemptStarted) for event in taken)
    failed = [row for row in record.attempts if row.failure is not None]
    assert len(record.attempts) == started == exchange.attempts_made
    assert [row.n for row in record.attempts] == list(range(1, started + 1))
    assert all(row.money is not None for row in record.attempts)
    # Every attempt but perhaps the last has failed, and the last one answered or failed.
    assert len(failed) == started - sum(isinstance(event, Answered) for event in taken)
    assert record.possibly_spent == sum(row.money != "free" for row in failed)
    assert record.possibly_spent == exchange.possibly_spent
    assert (
        record.success
        == (record.status == "ok")
        == any(isinstance(event, Delivered) for event in taken)
    )
    assert record.answered == any(isinstance(event, Answered) for event in taken)
    assert all(row.money == "spent" for row in record.attempts if row.provider_cost_sats)
    assert record.may_have_cost == any(row.money != "free" for row in record.attempts)
    assert record.latency_ms >= 0
    assert all(row.duration_ms >= 0 for row in record.attempts)
    assert (record.status == "rejected") <= (started == 0)

"""The board of all circuits and rests: what it lets through, and that no order of events confuses
it."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.failover.board import (
    MOST_CIRCUITS,
    SHOWS,
    Admitted,
    Board,
    Resting,
    Ticket,
    Turned,
)
from arbstr.sansio.failover.breaker import CircuitOpen, Outcome, Probing
from arbstr.sansio.failover.rests import DOUBTED, LONGEST_REST, Reason
from tests.searching import examples

MODEL = "m"
LIMIT = Reason.RATE_LIMIT
OF_MODELS = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.NEUTRAL)


def make_board() -> Board:
    return Board(failures=3, open_seconds=30.0)


def ticket(board: Board, name: str, now: float) -> Ticket:
    admitted = board.admit(name, MODEL, now)
    assert isinstance(admitted, Admitted)
    return admitted.ticket


def fail(board: Board, name: str, now: float, times: int = 1) -> None:
    for _ in range(times):
        board.settle(ticket(board, name, now), Outcome.FAILURE, now, error="failed")


def test_three_failures_open_the_circuit_of_that_provider_alone() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 2)
    assert board.view("alpha", 0.0).state == "closed"
    fail(board, "alpha", 1.0)
    view = board.view("alpha", 2.0)
    assert (view.state, view.failure_count, view.retry_at) == ("open", 3, 31.0)
    assert view.last_error == "failed"
    assert board.admit("alpha", MODEL, 2.0) == CircuitOpen(31.0)
    assert board.view("beta", 2.0).state == "closed"


def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 2)
    board.settle(ticket(board, "alpha", 0.0), Outcome.SUCCESS, 0.0)
    assert board.view("alpha", 0.0).last_error is None
    fail(board, "alpha", 0.0, 2)
    assert board.view("alpha", 0.0).state == "closed"


def test_it_reads_half_open_when_its_time_is_over_without_any_traffic() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 3)
    assert board.view("alpha", 29.9).state == "open"
    view = board.view("alpha", 30.0)
    assert (view.state, view.retry_at) == ("half_open", None)
    assert board.view("alpha", 30.0) == view, "looking changes nothing"


def test_of_fifty_requests_one_is_the_probe_and_a_success_lets_all_through() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 3)
    answers = [board.admit("alpha", MODEL, 30.0) for _ in range(50)]
    probes = [answer.ticket for answer in answers if isinstance(answer, Admitted)]
    assert len(probes) == 1
    assert probes[0].probe
    assert answers.count(Probing()) == 49
    board.settle(probes[0], Outcome.SUCCESS, 31.0)
    assert board.view("alpha", 31.0).state == "closed"
    assert not ticket(board, "alpha", 31.0).probe


def test_a_failed_probe_opens_for_a_fresh_time() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 3)
    fail(board, "alpha", 40.0)
    assert board.admit("alpha", MODEL, 69.9) == CircuitOpen(70.0)
    assert ticket(board, "alpha", 70.0).probe


def test_a_probe_that_was_cancelled_gives_its_slot_back() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 3)
    board.settle(ticket(board, "alpha", 30.0), Outcome.NEUTRAL, 31.0)
    assert board.view("alpha", 31.0).state == "half_open"
    assert ticket(board, "alpha", 31.0).probe


def test_results_from_before_the_circuit_opened_change_nothing() -> None:
    board = make_board()
    late = [ticket(board, "alpha", 0.0) for _ in OF_MODELS]
    fail(board, "alpha", 0.0, 3)
    probe = ticket(board, "alpha", 30.0)
    for each, outcome in zip(late, OF_MODELS, strict=True):
        before = board.view("alpha", 30.0)
        board.settle(each, outcome, 30.0, error="late")
        assert board.view("alpha", 30.0) == before
    assert board.admit("alpha", MODEL, 30.0) == Probing()
    board.settle(probe, Outcome.SUCCESS, 30.0)


def test_a_ticket_is_settled_once() -> None:
    board = make_board()
    mine = ticket(board, "alpha", 0.0)
    board.settle(mine, Outcome.SUCCESS, 0.0)
    with pytest.raises(LocalProtocolError, match="settled before"):
        board.settle(mine, Outcome.SUCCESS, 0.0)
    with pytest.raises(LocalProtocolError):
        board.settle(replace(mine, number=99), Outcome.SUCCESS, 0.0)


def test_a_resting_provider_is_refused_until_it_is_rested() -> None:
    board = make_board()
    board.rest("alpha", None, 7.0, 0.0, LIMIT)
    assert board.admit("alpha", MODEL, 6.9) == Resting(7.0)
    assert board.view("alpha", 6.9).resting_until == 7.0
    assert board.view("alpha", 6.9).state == "closed"
    assert board.view("alpha", 7.0).resting_until is None
    assert isinstance(board.admit("alpha", MODEL, 7.0), Admitted)


def test_a_rest_is_extended_never_shortened_and_at_most_ten_minutes() -> None:
    board = make_board()
    board.rest("alpha", None, 10.0, 0.0, LIMIT)
    board.rest("alpha", None, 5.0, 0.0, LIMIT)
    assert board.admit("alpha", MODEL, 0.0) == Resting(10.0)
    board.rest("alpha", None, 20.0, 0.0, LIMIT)
    assert board.admit("alpha", MODEL, 0.0) == Resting(20.0)
    board.rest("alpha", None, 86400.0, 1.0, LIMIT)
    assert board.admit("alpha", MODEL, 1.0) == Resting(1.0 + LONGEST_REST)
    board.rest("beta", None, -50.0, 1.0, LIMIT)
    assert isinstance(board.admit("beta", MODEL, 1.0), Admitted)


def test_a_resting_provider_keeps_its_probe_for_later() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 3)
    board.rest("alpha", None, 50.0, 0.0, LIMIT)
    assert board.admit("alpha", MODEL, 10.0) == CircuitOpen(50.0), (
        "open, and not to be asked before 50"
    )
    assert board.admit("alpha", MODEL, 40.0) == Resting(50.0)
    assert ticket(board, "alpha", 50.0).probe
    board.rest("alpha", None, 60.0, 50.0, LIMIT)
    assert board.admit("alpha", MODEL, 51.0) == Resting(60.0)


def test_reloading_forgets_providers_that_changed_and_ignores_their_late_results() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 2)
    fail(board, "beta", 0.0, 2)
    board.rest("alpha", None, 50.0, 0.0, LIMIT)
    late = ticket(board, "beta", 0.0)
    gone = board.admit("beta", MODEL, 0.0)
    assert isinstance(gone, Admitted)
    board.retain(["alpha"])
    assert board.view("alpha", 0.0).failure_count == 2
    assert board.view("alpha", 0.0).resting_until == 50.0
    fresh = board.view("beta", 0.0)
    assert (fresh.failure_count, fresh.last_error) == (0, None)
    board.settle(late, Outcome.FAILURE, 0.0, error="late")
    fail(board, "beta", 0.0)
    board.settle(gone.ticket, Outcome.SUCCESS, 0.0)
    assert board.view("beta", 0.0).failure_count == 1


def test_new_limits_hold_from_the_next_verdict_on() -> None:
    board = make_board()
    fail(board, "alpha", 0.0, 3)
    board.configure(failures=1, open_seconds=5.0)
    assert board.admit("alpha", MODEL, 29.0) == CircuitOpen(30.0)
    fail(board, "beta", 0.0)
    assert board.admit("beta", MODEL, 4.9) == CircuitOpen(5.0)


def settle_as(board: Board, outcome: Outcome, model: str, now: float, times: int = 1) -> list[Any]:
    turns: list[Any] = []
    for _ in range(times):
        admitted = board.admit("alpha", model, now)
        assert isinstance(admitted, Admitted)
        turns += board.settle(admitted.ticket, outcome, now, error=f"{outcome.value} {model}")
    return turns


def test_every_outcome_shows_something_of_both() -> None:
    assert set(SHOWS) == set(Outcome)
    for shown in SHOWS.values():
        assert Outcome.UNREACHED not in shown


def test_a_sick_model_does_not_close_its_neighbours() -> None:
    board = make_board()
    settle_as(board, Outcome.SUCCESS, "well", 0.0)
    turns = settle_as(board, Outcome.FAILURE, "sick", 0.0, 3)
    assert turns == [Turned("alpha", "sick", 30.0, 3)]
    assert board.admit("alpha", "sick", 1.0) == CircuitOpen(30.0)
    settle_as(board, Outcome.SUCCESS, "well", 1.0)
    view = board.view("alpha", 1.0)
    assert (view.state, view.failure_count, view.last_error) == ("closed", 3, "failure sick")
    sick = {model: seen.state for model, seen in board.sick("alpha", 1.0).items()}
    assert sick == {"sick": "open"}
    assert board.circuit("alpha", "sick", 1.0).state == "open"
    assert board.circuit("alpha", "well", 1.0).state == "closed"
    assert settle_as(board, Outcome.SUCCESS, "sick", 31.0) == [Turned("alpha", "sick", None, 3)]
    assert board.sick("alpha", 31.0) == {}


def test_a_provider_whose_models_are_all_open_is_shown_open_until_the_first_may_be_asked() -> None:
    board = make_board()
    settle_as(board, Outcome.FAILURE, "a", 0.0, 3)
    settle_as(board, Outcome.FAILURE, "b", 5.0, 3)
    view = board.view("alpha", 6.0)
    assert (view.state, view.retry_at, view.last_error) == ("open", 30.0, "failure b")
    assert board.view("alpha", 31.0).state == "half_open"
    assert isinstance(board.admit("alpha", "c", 6.0), Admitted)


def test_a_provider_that_cannot_be_reached_closes_all_its_models() -> None:
    board = make_board()
    turns = settle_as(board, Outcome.UNREACHED, "a", 0.0, 2)
    turns += settle_as(board, Outcome.UNREACHED, "b", 0.0)
    assert turns == [Turned("alpha", None, 30.0, 3)]
    for model in ("a", "b", "c"):
        assert board.admit("alpha", model, 1.0) == CircuitOpen(30.0)
    assert board.sick("alpha", 1.0) == {}
    assert board.view("alpha", 1.0).state == "open"
    # Reached again, whatever its model says: the provider's circuit closes, the model's counts.
    assert settle_as(board, Outcome.FAILURE, "a", 31.0) == [Turned("alpha", None, None, 3)]
    assert board.circuit("alpha", "a", 31.0).failure_count == 1


def test_being_reached_and_not_are_counted_apart() -> None:
    board = make_board()
    for _ in range(3):
        assert settle_as(board, Outcome.UNREACHED, "a", 0.0, 2) == []
        assert settle_as(board, Outcome.SUCCESS, "a", 0.0) == []
    settle_as(board, Outcome.FAILURE, "a", 0.0, 2)
    settle_as(board, Outcome.UNREACHED, "a", 0.0, 2)
    assert board.view("alpha", 0.0).state == "closed"


def test_a_probe_of_both_circuits_gives_both_slots_back() -> None:
    board = make_board()
    settle_as(board, Outcome.FAILURE, "a", 0.0, 3)
    settle_as(board, Outcome.UNREACHED, "b", 0.0, 3)
    mine = board.admit("alpha", "a", 40.0)
    assert isinstance(mine, Admitted)
    assert mine.ticket.probe
    assert board.admit("alpha", "a", 40.0) == board.admit("alpha", "b", 40.0) == Probing()
    assert board.settle(mine.ticket, Outcome.NEUTRAL, 40.0) == ()
    turns = settle_as(board, Outcome.SUCCESS, "a", 41.0)
    assert turns == [Turned("alpha", None, None, 3), Turned("alpha", "a", None, 3)]


def test_names_that_clients_make_up_do_not_fill_the_board() -> None:
    board = make_board()
    settle_as(board, Outcome.FAILURE, "sick", 0.0, 3)
    for number in range(2 * MOST_CIRCUITS):
        settle_as(board, Outcome.SUCCESS, f"m{number}", 0.0)
    assert len(board._states) <= MOST_CIRCUITS + 1
    assert board.circuit("alpha", "sick", 1.0).state == "open"


def test_a_rest_is_of_one_model_or_of_all() -> None:
    board = make_board()
    settle_as(board, Outcome.NEUTRAL, "a", 0.0)
    settle_as(board, Outcome.NEUTRAL, "b", 0.0)
    board.rest("alpha", "a", 9.0, 0.0, LIMIT)
    assert board.admit("alpha", "a", 1.0) == Resting(9.0, LIMIT)
    assert isinstance(board.admit("alpha", "b", 1.0), Admitted)
    assert board.view("alpha", 1.0).resting_until is None
    assert board.circuit("alpha", "a", 1.0).resting_until == 9.0
    board.rest("alpha", "b", 5.0, 1.0, LIMIT)
    assert board.admit("alpha", "c", 1.0) == Resting(5.0, LIMIT), "two at once: the provider"
    assert board.admit("alpha", "a", 6.0) == Resting(9.0, LIMIT)
    assert isinstance(board.admit("alpha", "b", 6.0), Admitted)


def test_one_model_that_rests_beside_a_refused_key_is_no_rest_of_all() -> None:
    board = make_board()
    board.doubt("alpha", 0.0, Reason.KEY)
    board.rest("alpha", "a", 9.0, 0.0, LIMIT)
    assert board.admit("alpha", "b", 1.0) == Resting(60.0, Reason.KEY)
    board.answered("alpha")
    assert board.admit("alpha", "a", 1.0) == Resting(9.0, LIMIT)
    assert isinstance(board.admit("alpha", "b", 1.0), Admitted)


def test_a_provider_whose_only_model_rests_is_shown_resting() -> None:
    board = make_board()
    settle_as(board, Outcome.NEUTRAL, "a", 0.0)
    board.rest("alpha", "a", 9.0, 0.0, LIMIT)
    view = board.view("alpha", 1.0)
    assert (view.resting_until, view.why) == (9.0, LIMIT)


@pytest.mark.parametrize("why", sorted(DOUBTED))
def test_a_refused_key_or_path_rests_ever_longer_until_an_answer(why: Reason) -> None:
    board, now = make_board(), 0.0
    for seconds in (60.0, 120.0, 240.0, 480.0, 600.0, 600.0):
        board.doubt("alpha", now, why)
        board.doubt("alpha", now + 1.0, why)  # asked at the same time
        assert board.admit("alpha", MODEL, now + 1.0) == Resting(now + seconds, why)
        now += seconds
        assert isinstance(board.admit("alpha", MODEL, now), Admitted)
    board.answered("alpha")
    board.doubt("alpha", now, why)
    assert board.admit("alpha", MODEL, now) == Resting(now + 60.0, why)
    board.rest("alpha", MODEL, now + 5.0, now, LIMIT)
    board.answered("alpha")
    assert board.admit("alpha", MODEL, now) == Resting(now + 5.0, LIMIT), "the limit stays"


def test_a_reload_forgets_refused_keys_and_paths_and_keeps_limits() -> None:
    board = make_board()
    board.doubt("alpha", 0.0, Reason.KEY)
    board.rest("alpha", None, 5.0, 0.0, LIMIT)
    board.retain(["alpha"])
    assert board.admit("alpha", MODEL, 0.0) == Resting(5.0, LIMIT)
    board.doubt("alpha", 10.0, Reason.KEY)
    assert board.admit("alpha", MODEL, 10.0) == Resting(70.0, Reason.KEY)


class BoardMachine(RuleBasedStateMachine):
    """Requests come, end and overtake each other in any order; the clock only goes forward."""

    tickets: Bundle[Ticket] = Bundle("tickets")
    NAMES = ("alpha", "beta")

    @initialize(failures=st.integers(1, 3))
    def begin(self, failures: int) -> None:
        self.now = 0.0
        self.board = Board(failures=failures, open_seconds=30.0)
        self.out: dict[str, list[Ticket]] = {name: [] for name in self.NAMES}
        # The newest generation seen on a ticket; older tickets are late for sure.
        self.newest = dict.fromkeys(self.NAMES, 0)
        self.rested = dict.fromkeys(self.NAMES, 0.0)

    @rule(seconds=st.sampled_from([0.5, 7.0, 29.5, 30.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=tickets, name=st.sampled_from(NAMES))
    def a_request_comes(self, name: str) -> Ticket | MultipleResults[Ticket]:
        before = self.board.view(name, self.now)
        answer = self.board.admit(name, MODEL, self.now)
        probing = any(
            each.probe and sum(each.generations) == self.newest[name] for each in self.out[name]
        )
        match answer:
            case Admitted(ticket=mine):
                assert before.state != "open"
                assert before.resting_until is None
                assert mine.probe == (before.state == "half_open")
                self.out[name].append(mine)
                self.newest[name] = max(self.newest[name], sum(mine.generations))
                return mine
            case Resting(until=until):
                assert until == before.resting_until
            case CircuitOpen(until=until):
                assert before.state == "open"
                assert until == max(before.retry_at or 0.0, before.resting_until or 0.0)
            case Probing():
                assert probing, "refused because of a probe that is not there"
        assert self.board.view(name, self.now) == before, "a refusal changes nothing"
        return multiple()

    @rule(mine=consumes(tickets), outcome=st.sampled_from(OF_MODELS))
    def a_request_ends(self, mine: Ticket, outcome: Outcome) -> None:
        name = mine.provider
        before = self.board.view(name, self.now)
        self.board.settle(mine, outcome, self.now, error=f"ticket {mine.number}")
        self.out[name].remove(mine)
        after = self.board.view(name, self.now)
        if sum(mine.generations) < self.newest[name] or before.state == "open":
            assert after == before, "a late result changed something"
        if mine.probe:
            expected = {
                Outcome.SUCCESS: "closed",
                Outcome.FAILURE: "open",
                Outcome.NEUTRAL: "half_open",
            }[outcome]
            assert after.state == expected
        if outcome is Outcome.NEUTRAL:
            assert after == before

    @rule(target=tickets, name=st.sampled_from(NAMES), late_outcome=st.sampled_from(OF_MODELS))
    def a_circuit_opens_and_its_time_passes(
        self, name: str, late_outcome: Outcome
    ) -> MultipleResults[Ticket]:
        """By chance alone the machine seldom comes that far. One request outlasts all of it, and
        ends while the probe is under way."""
        late: list[Ticket] = []
        while isinstance(answer := self.board.admit(name, MODEL, self.now), Admitted):
            self.newest[name] = max(self.newest[name], sum(answer.ticket.generations))
            if late or answer.ticket.probe:
                self.board.settle(answer.ticket, Outcome.FAILURE, self.now)
            else:
                late.append(answer.ticket)
        self.out[name] += late
        self.now += 30.0
        if not late or not isinstance(answer := self.board.admit(name, MODEL, self.now), Admitted):
            return multiple(*late)
        self.newest[name] = max(self.newest[name], sum(answer.ticket.generations))
        self.out[name].append(answer.ticket)
        self.out[name].remove(late[0])
        self.board.settle(late[0], late_outcome, self.now)
        return multiple(answer.ticket)

    @rule(name=st.sampled_from(NAMES), seconds=st.sampled_from([-1.0, 0.0, 7.0, 90.0, 86400.0]))
    def a_provider_wants_to_rest(self, name: str, seconds: float) -> None:
        before = self.board.view(name, self.now).resting_until
        self.board.rest(name, None, self.now + seconds, self.now, LIMIT)
        after = self.board.view(name, self.now).resting_until
        assert (after or 0.0) >= (before or 0.0)
        assert after is None or after <= max(self.now + LONGEST_REST, before or 0.0)

    @precondition(lambda self: all(not tickets for tickets in self.out.values()))
    @rule(name=st.sampled_from(NAMES))
    def with_nobody_under_way_a_provider_can_be_reached_again(self, name: str) -> None:
        self.now += LONGEST_REST
        answer = self.board.admit(name, MODEL, self.now)
        assert isinstance(answer, Admitted), "a slot was lost"
        self.board.settle(answer.ticket, Outcome.NEUTRAL, self.now)
        self.newest[name] = max(self.newest[name], sum(answer.ticket.generations))

    @invariant()
    def there_is_at_most_one_probe(self) -> None:
        for name, tickets in self.out.items():
            probes = [each for each in tickets if each.probe]
            assert len(probes) <= 1, name
            if probes:
                assert not isinstance(self.board.admit(name, MODEL, self.now), Admitted), (
                    "a second probe"
                )


BoardMachine.TestCase.settings = examples(40, stateful_step_count=40)
TestBoardMachine = BoardMachine.TestCase


def test_a_ticket_serves_the_same_again_while_all_is_well_there() -> None:
    board = Board(failures=1, open_seconds=30)
    admitted = board.admit("alpha", "m", 0)
    assert isinstance(admitted, Admitted)
    ticket = admitted.ticket
    assert board.renew(ticket, "alpha", "m", 1) == Admitted(ticket)
    assert board.renew(ticket, "alpha", "other", 1) is None
    assert board.renew(ticket, "beta", "m", 1) is None
    board.rest("alpha", "m", until=5, now=1, why=Reason.RATE_LIMIT)
    assert board.renew(ticket, "alpha", "m", 2) == Resting(5, Reason.RATE_LIMIT)
    assert board.renew(ticket, "alpha", "m", 6) == Admitted(ticket)
    other = board.admit("alpha", "m", 6)
    assert isinstance(other, Admitted)
    board.settle(other.ticket, Outcome.FAILURE, 7)
    assert board.renew(ticket, "alpha", "m", 8) is None


def test_what_charges_too_much_is_left_alone_as_long_as_it_says_or_until_a_reload() -> None:
    board = make_board()
    board.overcharged("alpha", "a", 3600.0)
    board.overcharged("beta", None, inf)
    assert board.admit("alpha", "a", 3599.0) == Resting(3600.0, Reason.OVERCHARGE)
    assert isinstance(board.admit("alpha", "b", 1.0), Admitted), "its other models are asked"
    assert isinstance(board.admit("alpha", "a", 3600.0), Admitted)
    board.answered("beta")
    assert board.admit("beta", "a", 1e9) == Resting(inf, Reason.OVERCHARGE)
    assert board.view("beta", 0.0).why is Reason.OVERCHARGE
    board.retain({"alpha", "beta"})
    assert isinstance(board.admit("beta", "a", 1.0), Admitted)


def test_whoever_charges_too_much_is_told_so_though_its_circuit_is_open() -> None:
    board = make_board()
    for _ in range(3):
        settle_as(board, Outcome.FAILURE, MODEL, 0.0)
    assert isinstance(board.admit("alpha", MODEL, 1.0), CircuitOpen)
    board.overcharged("alpha", None, inf)
    assert board.admit("alpha", MODEL, 1.0) == Resting(inf, Reason.OVERCHARGE)

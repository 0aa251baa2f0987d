"""One circuit: what opens, tries and closes it, and that no late result does."""

import pytest

from arbstr.sansio.failover.breaker import (
    CircuitOpen,
    Closed,
    HalfOpen,
    Limits,
    Open,
    Outcome,
    Probing,
    State,
    admit,
    settle,
)

LIMITS = Limits(failures=3, open_seconds=30.0)

SETTLED = [
    ("a success sets the count back", Closed(2, 0), Outcome.SUCCESS, Closed(0, 0)),
    ("a neutral result leaves the count", Closed(2, 0), Outcome.NEUTRAL, Closed(2, 0)),
    ("a failure is counted", Closed(1, 0), Outcome.FAILURE, Closed(2, 0)),
    ("the third failure opens", Closed(2, 0), Outcome.FAILURE, Open(130.0, 3, 1)),
    ("a probe's success closes", HalfOpen(True, 3, 2), Outcome.SUCCESS, Closed(0, 3)),
    ("a probe's failure opens afresh", HalfOpen(True, 3, 2), Outcome.FAILURE, Open(130.0, 4, 3)),
    (
        "a neutral probe frees the slot and proves nothing",
        HalfOpen(True, 3, 2),
        Outcome.NEUTRAL,
        HalfOpen(False, 3, 2),
    ),
]


@pytest.mark.parametrize(
    ("before", "outcome", "after"), [pytest.param(*row[1:], id=row[0]) for row in SETTLED]
)
def test_a_verdict_changes_the_state(before: State, outcome: Outcome, after: State) -> None:
    assert settle(before, outcome, 100.0, generation=before.generation, limits=LIMITS) == after


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize(
    "state", [Closed(1, 4), Open(50.0, 3, 4), HalfOpen(True, 3, 4), HalfOpen(False, 3, 4)]
)
def test_a_result_of_another_generation_changes_nothing(state: State, outcome: Outcome) -> None:
    for generation in (0, 3, 5):
        assert settle(state, outcome, 100.0, generation=generation, limits=LIMITS) is state


@pytest.mark.parametrize("outcome", Outcome)
def test_settling_is_total_and_an_open_circuit_stays_as_it_is(outcome: Outcome) -> None:
    state = Open(50.0, 3, 4)
    assert settle(state, outcome, 100.0, generation=4, limits=LIMITS) == state


def test_an_open_circuit_refuses_until_its_time_and_then_admits_one_probe() -> None:
    state: State = Open(30.0, 3, 1)
    assert admit(state, 29.9) == (state, CircuitOpen(30.0))
    state, refused = admit(state, 30.0)
    assert (state, refused) == (HalfOpen(True, 3, 2), None)
    assert admit(state, 31.0) == (state, Probing())
    assert admit(HalfOpen(False, 3, 2), 31.0) == (HalfOpen(True, 3, 2), None)

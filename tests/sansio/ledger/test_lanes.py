"""What a lane tells of the request on it: each race, and a node's money as a property."""

import json
import random
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.ledger.lanes import (
    FENCE_SECONDS,
    MOST_ANSWERS,
    SLOW_SECONDS,
    SWEPT_SECONDS,
    AskAgain,
    Charged,
    Compared,
    Lane,
    Lost,
    Noted,
    State,
    take,
)
from arbstr.sansio.ledger.reconcile import CLOSED_DATE, Account, parse_account
from arbstr.sansio.secrets import Secret
from tests.bank import Bank, Reservation
from tests.searching import examples

KEY = "sk-" + "a" * 64


def lane(spent: int = 500, requests: int = 3) -> Lane:
    return Lane(Secret(KEY), spent, requests, State.BUSY)


def told(spent: int, requests: int, reserved: int = 0) -> Account:
    return Account(10**6, reserved, spent, requests)


def shut(spent: int, requests: int, reserved: int = 0) -> Account:
    return replace(told(spent, requests, reserved), closed=True)


@pytest.mark.parametrize(
    ("account", "since", "verdict"),
    [
        pytest.param(told(1005, 4), 0.0, Charged(505), id="charged-is-told-at-once"),
        pytest.param(told(1005, 4, 300), 0.0, Charged(505), id="whatever-others-have-reserved"),
        pytest.param(told(500, 3), 0.0, AskAgain(counted=False), id="not-counted-may-be-not-yet"),
        pytest.param(
            *(told(500, 3), FENCE_SECONDS, Charged(0, sure=False)),
            id="not-counted-and-nobody-can-close-it",
        ),
        pytest.param(told(500, 4, 300), 300.0, AskAgain(), id="counted-and-reserved-may-run"),
        pytest.param(
            *(told(500, 4, 300), SWEPT_SECONDS, Charged(0)), id="or-others-hold-it-after-the-sweep"
        ),
        pytest.param(told(505, 4, 300), 400.0, Charged(5), id="part-of-a-cut-stream-is-billed"),
        pytest.param(told(500, 4), 0.0, Charged(0), id="counted-and-released"),
        pytest.param(told(1505, 5), 0.0, Lost(), id="somebody-else-was-on-it"),
        pytest.param(told(500, 5), 400.0, Lost(), id="somebody-else-was-free"),
        pytest.param(told(0, 4), 9.0, Lost(), id="a-counter-that-falls"),
        pytest.param(told(500, 2), 9.0, Lost(), id="requests-that-are-taken-back"),
    ],
)
def test_what_became_of_a_request(account: Account, since: float, verdict: object) -> None:
    assert lane().judge(account, since_end=since) == verdict


@pytest.mark.parametrize(
    ("account", "since_end", "since_closed", "verdict"),
    [
        pytest.param(
            *(told(500, 3), 900.0, None, AskAgain(counted=False)), id="not-before-it-is-closed"
        ),
        pytest.param(
            *(shut(500, 3), 900.0, None, AskAgain(counted=False)), id="nor-as-it-is-seen-to-be"
        ),
        pytest.param(
            *(shut(500, 3), 9.0, FENCE_SECONDS - 0.1, AskAgain(counted=False)),
            id="nor-while-what-it-had-begun-to-look-at-is-counted",
        ),
        pytest.param(shut(500, 3), 9.0, FENCE_SECONDS, Charged(0), id="then-it-never-will-be"),
        pytest.param(
            *(told(500, 3), 900.0, 900.0, AskAgain(counted=False)), id="open-again-is-not-closed"
        ),
        pytest.param(shut(1005, 4), 0.0, 0.0, Charged(505), id="it-came-before"),
        pytest.param(shut(500, 4, 300), 9.0, 9.0, AskAgain(), id="and-runs-on-behind-the-fence"),
        pytest.param(shut(500, 4), 9.0, 9.0, Charged(0), id="or-was-released"),
    ],
)
def test_what_became_of_a_request_on_a_lane_that_can_be_closed(
    account: Account, since_end: float, since_closed: float | None, verdict: object
) -> None:
    used = lane()
    used.can_close = True
    assert used.judge(account, since_end=since_end, since_closed=since_closed) == verdict


def test_a_closed_lane_serves_nobody() -> None:
    used = lane()
    used.doubted(over=True)
    used.read(shut(500, 3))
    assert used.state is State.CLOSED
    assert take([used]) is None


def test_a_lane_serves_one_request_at_a_time() -> None:
    lanes = [Lane(Secret(KEY), state=State.FREE), Lane(Secret(KEY), state=State.PARKED)]
    assert take(lanes) is lanes[0]
    assert take(lanes) is None
    lanes[0].answered(505)
    assert (lanes[0].spent, lanes[0].requests) == (505, 1)
    assert take(lanes) is lanes[0]


@pytest.mark.parametrize(
    ("answers", "seconds", "state"),
    [
        pytest.param(MOST_ANSWERS - 1, 0.0, State.FREE, id="few-quick-ones"),
        pytest.param(MOST_ANSWERS, 0.0, State.STALE, id="many"),
        pytest.param(1, SLOW_SECONDS, State.STALE, id="one-that-may-have-been-swept-away"),
    ],
)
def test_what_was_stated_is_compared_with_the_counters(
    answers: int, seconds: float, state: State
) -> None:
    lane = Lane(Secret(KEY))
    assert lane.read(told(700, 2)) is None, "the first look tells nothing"
    for _ in range(answers):
        assert take([lane]) is lane
        lane.answered(5, seconds=seconds)
    assert lane.state is state
    charged = 5 * answers - 5
    assert lane.read(told(700 + charged, 2 + answers)) == Compared(answers, charged, 5 * answers)
    assert take([lane]) is lane, "whatever was found"
    assert lane.judge(told(700 + charged + 9, 3 + answers), since_end=0.0) == Charged(9)


def test_a_parked_lane_is_read_before_it_serves_again() -> None:
    lane = Lane(Secret(KEY))
    lane.read(told(100, 1))
    take([lane])
    lane.parked()
    assert take([lane]) is None
    lane.settled(505)
    assert take([lane]) is None
    assert lane.read(told(605, 2)) == Compared(1, 505, 505)
    assert take([lane]) is lane


def test_a_failure_that_was_charged_is_known_to_be() -> None:
    lane = Lane(Secret(KEY))
    lane.read(told(100, 1))
    take([lane])
    lane.doubted(505)
    assert lane.read(told(605, 2)) == Compared(1, 505, 505)


def test_counters_that_were_put_back_are_compared_with_nothing() -> None:
    lane = Lane(Secret(KEY))
    lane.read(told(100, 1))
    assert lane.read(told(0, 0)) is None
    assert lane.read(told(7, 1)) == Compared(0, 7, 0)


@pytest.mark.parametrize(
    ("account", "since", "quiet"),
    [
        pytest.param(told(500, 3, 300), 0.0, True, id="as-known-whoever-has-reserved"),
        pytest.param(told(500, 4, 300), 0.0, False, id="counted-may-run"),
        pytest.param(told(500, 4), 0.0, True, id="nobody-has-reserved"),
        pytest.param(told(500, 4, 300), SWEPT_SECONDS, True, id="swept"),
    ],
)
def test_when_nothing_runs_on_a_lane(account: Account, since: float, quiet: bool) -> None:
    known = Lane(Secret(KEY))
    known.read(told(500, 3))
    assert known.is_quiet(account, since_end=since) is quiet
    unread = Lane(Secret(KEY), 500, 3)
    assert unread.is_quiet(told(500, 3, 300), since_end=0.0) is False, "one of the last run's"


def test_a_request_that_is_known_to_be_over_needs_no_quiet_moment() -> None:
    busy_key = told(505, 1, 300)
    for end in (
        lambda lane: lane.doubted(505, over=True),
        lambda lane: (lane.parked(), lane.settled(505, over=True)),
        lambda lane: lane.answered(505, seconds=SLOW_SECONDS),
    ):
        lane = Lane.new(Secret(KEY))
        assert take([lane]) is lane, "nothing ever ran on a new one"
        end(lane)
        assert lane.state is State.STALE
        assert lane.is_quiet(busy_key, since_end=0.0)
        assert lane.read(busy_key) == Compared(1, 505, 505)
        assert take([lane]) is lane
        lane.doubted()
        assert not lane.is_quiet(told(505, 2, 300), since_end=0.0), "the next one may run"


def test_what_is_not_busy_has_no_request_to_end() -> None:
    free = Lane(Secret(KEY), state=State.FREE)
    for end in (free.parked, free.doubted, lambda: free.answered(1), lambda: free.settled(1)):
        with pytest.raises(LocalProtocolError):
            end()


def test_the_counters_of_a_lane_that_is_used_are_no_beginning() -> None:
    with pytest.raises(LocalProtocolError):
        lane().read(told(1, 1))


def test_a_lane_goes_on_from_what_was_noted_of_it() -> None:
    left = Lane(Secret(KEY))
    noted = Noted("0123456789abcdef", 500, 3)
    assert noted.text == "0123456789abcdef 500 3"
    left.resume(noted)
    assert (left.state, left.spent, left.requests) == (State.PARKED, 500, 3)
    assert left.judge(told(1005, 4), since_end=0.0) == Charged(505)
    left.settled(505, over=True)
    assert left.read(told(1005, 4)) is None, "nobody knows what it had counted at first"
    assert left.state is State.FREE
    with pytest.raises(LocalProtocolError):
        left.resume(noted)


@given(st.text("0123456789abcdef", min_size=1), st.integers(0, 2**53), st.integers(0, 2**53))
def test_what_is_noted_is_read_as_it_was(name: str, spent: int, requests: int) -> None:
    noted = Noted(name, spent, requests)
    assert Noted.read(noted.text) == noted


@pytest.mark.parametrize(
    "text", ["", "a 1", "a 1 b", "a -1 2", "a 1 2 3", f"a {'9' * 17} 1", "a ² 1"]
)
def test_what_was_never_noted_is_not_read(text: str) -> None:
    assert Noted.read(text) is None


def test_its_key_is_not_shown() -> None:
    assert KEY not in repr(lane())


@examples(30)
@given(seed=st.integers(0, 10**9), closes=st.booleans())
def test_a_verdict_is_what_the_node_charged(seed: int, closes: bool) -> None:
    """Requests on lanes of one key that end in every way, at any time, without a word; where lanes
    can be closed they arrive as late as they please."""
    dice, now = random.Random(seed), [10.0]
    bank = Bank(lambda: now[0], sweep=5.0)
    bank.deposit(KEY, 10**9)
    children = bank.children(KEY, 4)
    assert isinstance(children, tuple)
    open_ones: list[tuple[str, Lane, float, list[int]]] = []
    for child in children:
        used = Lane(Secret(child), state=State.FREE, can_close=closes)
        assert take([used]) is used
        charged: list[int] = []
        open_ones.append((child, used, 11.0, charged))
        # Where it cannot be closed, it arrives in time, if at all.
        late = dice.uniform(0, 19) if closes else 1.0 + FENCE_SECONDS - 0.01
        arrives = dice.choice((0.0, 0.5, late, None))
        if arrives is not None:
            bank.later(arrives, partial(_serve, bank, child, dice, charged))
    told: dict[str, int] = {}
    closed_at: dict[str, float] = {}
    restarts = dice.choice((None, None, dice.randrange(100)))
    foreign = bank.reserve(KEY, 77) if dice.random() < 0.3 else None
    for turn in range(200):
        now[0] += 0.1
        if turn == restarts:
            bank.restart()
        if turn == 120 and isinstance(foreign, Reservation):
            bank.charge(foreign, 50)
        for child, used, ended, _ in open_ones:
            if child in told or now[0] < ended:
                continue
            info = bank.info(child)
            assert isinstance(info, dict)
            account = parse_account(json.dumps(info).encode())
            assert isinstance(account, Account)
            if account.closed:
                closed_at.setdefault(child, now[0])
            since = now[0] - closed_at[child] if child in closed_at else None
            verdict = used.judge(account, since_end=now[0] - ended, since_closed=since)
            if verdict == AskAgain(counted=False) and closes and dice.random() < 0.5:
                bank.limit(child, CLOSED_DATE)
            if isinstance(verdict, Charged):
                told[child] = verdict.msats
    bank.finish()
    assert told == {child: sum(charged) for child, _, _, charged in open_ones}


def _serve(bank: Bank, child: str, dice: random.Random, charged: list[int]) -> None:
    held = bank.reserve(child, 300)
    if not isinstance(held, Reservation):
        return  # refused

    def end() -> None:
        how = dice.choice(("charge", "revert", "nothing"))
        if how == "charge":
            charged.append(bank.charge(held, dice.randint(1, 900)))
        elif how == "revert":
            bank.revert(held)

    bank.later(dice.uniform(0, 7), end)

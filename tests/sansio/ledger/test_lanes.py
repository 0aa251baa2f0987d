"""What a lane tells of the request on it: each race, and a node's money as a property."""

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.ledger.lanes import FENCE_SECONDS, AskAgain, Charged, Lane, Lost, State, take
from arbstr.sansio.ledger.reconcile import Account
from arbstr.sansio.secrets import Secret
from tests.bank import Bank, Reservation

KEY = "sk-" + "a" * 64


def lane(spent: int = 500, requests: int = 3) -> Lane:
    return Lane(Secret(KEY), spent, requests, State.BUSY)


def told(spent: int, requests: int, reserved: int = 0) -> Account:
    return Account(10**6, reserved, spent, requests)


@pytest.mark.parametrize(
    ("account", "since", "verdict"),
    [
        pytest.param(told(1005, 4), 0.0, Charged(505), id="charged-is-told-at-once"),
        pytest.param(told(1005, 4, 300), 0.0, Charged(505), id="whatever-others-have-reserved"),
        pytest.param(told(500, 3), 0.0, AskAgain(), id="not-counted-may-be-not-yet"),
        pytest.param(told(500, 3), FENCE_SECONDS, Charged(0), id="not-counted-behind-the-fence"),
        pytest.param(told(500, 4, 300), 400.0, AskAgain(), id="counted-and-reserved-may-run"),
        pytest.param(told(500, 4), 0.0, Charged(0), id="counted-and-released"),
        pytest.param(told(0, 4), 9.0, Lost(), id="a-counter-that-falls"),
        pytest.param(told(500, 2), 9.0, Lost(), id="requests-that-are-taken-back"),
    ],
)
def test_what_became_of_a_request(account: Account, since: float, verdict: object) -> None:
    assert lane().judge(account, since_end=since) == verdict


def test_a_lane_serves_one_request_at_a_time() -> None:
    lanes = [Lane(Secret(KEY), state=State.FREE), Lane(Secret(KEY), state=State.PARKED)]
    assert take(lanes) is lanes[0]
    assert take(lanes) is None
    lanes[0].answered(505)
    assert (lanes[0].spent, lanes[0].requests) == (505, 1)
    assert take(lanes) is lanes[0]


def test_what_is_not_busy_has_no_request_to_end() -> None:
    free = Lane(Secret(KEY), state=State.FREE)
    for end in (free.parked, free.doubted, lambda: free.answered(1)):
        with pytest.raises(LocalProtocolError):
            end()


def test_the_counters_of_a_lane_that_is_used_are_no_beginning() -> None:
    with pytest.raises(LocalProtocolError):
        lane().read(told(1, 1))


def test_its_key_is_not_shown() -> None:
    assert KEY not in repr(lane())


@settings(max_examples=60)
@given(seed=st.integers(0, 10**9))
def test_a_verdict_is_what_the_node_charged(seed: int) -> None:
    """Requests on lanes of one key that end in every way, at any time, without a word."""
    dice, now = random.Random(seed), [0.0]
    bank = Bank(lambda: now[0], sweep=5.0)
    bank.deposit(KEY, 10**9)
    children = bank.children(KEY, 4)
    assert isinstance(children, tuple)
    open_ones: list[tuple[str, Lane, float, list[int]]] = []
    for child in children:
        used = Lane(Secret(child), state=State.FREE)
        assert take([used]) is used
        charged: list[int] = []
        open_ones.append((child, used, 1.0, charged))
        # It arrives before the fence at the latest, if at all.
        arrives = dice.choice((0.0, 0.5, 1.0 + FENCE_SECONDS - 0.01, None))
        if arrives is not None:
            bank.later(arrives, partial(_serve, bank, child, dice, charged))
    told: dict[str, int] = {}
    for _ in range(200):
        now[0] += 0.1
        for child, used, ended, _ in open_ones:
            if child in told or now[0] < ended:
                continue
            info = bank.info(child)
            assert isinstance(info, dict)
            counters = ("balance", "reserved", "total_spent", "total_requests")
            verdict = used.judge(
                Account(*(info[each] for each in counters)), since_end=now[0] - ended
            )
            if isinstance(verdict, Charged):
                told[child] = verdict.msats
    assert told == {child: sum(charged) for child, _, _, charged in open_ones}


def _serve(bank: Bank, child: str, dice: random.Random, charged: list[int]) -> None:
    held = bank.reserve(child, 300)
    assert isinstance(held, Reservation)

    def end() -> None:
        how = dice.choice(("charge", "revert", "nothing"))
        if how == "charge":
            charged.append(bank.charge(held, dice.randint(1, 900)))
        elif how == "revert":
            bank.revert(held)

    bank.later(dice.uniform(0, 7), end)

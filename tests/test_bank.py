"""The fake node's money does what the recorded node's did."""

import json
from typing import Any

from tests.bank import Bank, Refused, Reservation
from tests.node import Model
from tests.sansio.routing.test_listing import CORPUS, recorded

KEY = "sk-" + "a" * 32
MOCK = Model(0.0020199999999999997, 0.00606)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def bank(**more: Any) -> tuple[Bank, Clock]:
    clock = Clock()
    made = Bank(clock, **more)
    made.deposit(KEY, 1_000_000)
    return made, clock


def reserved(bank: Bank, key: str, amount: int) -> Reservation:
    held = bank.reserve(key, amount)
    assert isinstance(held, Reservation), held
    return held


def only_child(bank: Bank, **more: Any) -> str:
    children = bank.children(KEY, 1, **more)
    assert isinstance(children, tuple)
    return children[0]


def shape(value: Any) -> Any:
    """A value with its texts and numbers left out, and its lists by their first element."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def test_the_model_is_listed_as_the_recorded_node_lists_it() -> None:
    listed = MOCK.listed("mock-model")
    (real,) = json.loads(recorded("01-models"))["data"]
    for name, value in listed["sats_pricing"].items():
        assert abs(real["sats_pricing"][name] - value) < 1e-12, name
    assert listed.keys() <= real.keys()


def test_a_fresh_key_tells_what_the_recorded_one_told() -> None:
    made, _ = bank()
    told, real = made.info(KEY), json.loads(recorded("04-balance-info"))
    assert isinstance(told, dict)
    assert {**told, "api_key": ""} == {**real, "api_key": ""}


def test_child_keys_tell_what_the_recorded_ones_told() -> None:
    made, _ = bank()
    children = made.children(KEY, 2)
    assert isinstance(children, tuple)
    real = json.loads(recorded("D0-child-key-create"))
    assert [len(key) for key in children] == [len(key) for key in real["api_keys"]]
    made.charge(reserved(made, children[0], 314), 505)
    told, real = made.info(children[0]), json.loads(recorded("D2-child-info-after"))
    assert isinstance(told, dict)
    assert shape(told) == shape(real)
    assert told["total_spent"] == real["total_spent"]
    parent, real = made.info(KEY), json.loads(recorded("D4-parent-info"))
    assert shape(parent) == shape(real)


def test_a_child_left_behind_tells_as_recorded_reserved_first_and_then_spent() -> None:
    made, clock = bank()
    child = only_child(made)
    asked = {"messages": [{"content": "Say hello MODE:slow5"}], "max_tokens": 50}
    held = reserved(made, child, MOCK.reservation(asked))
    made.later(5.0, lambda: made.charge(held, 505))
    told = []
    for clock.now in (1.5, 3.0, 4.5, 6.0):
        info = made.info(child)
        assert isinstance(info, dict)
        told.append((info["reserved"], info["total_spent"], info["total_requests"]))
    pieces = (CORPUS / "D3-child-timeout.txt").read_text().split("\n{")[1:]
    answers = [
        json.loads("{" + piece.partition("\n---")[0])
        for piece in pieces
        if "reserved" in piece[:200]
    ]
    real = [(a["reserved"], a["total_spent"], a["total_requests"]) for a in answers]
    assert set(told) == set(real) == {(316, 0, 1), (0, 505, 1)}


def test_a_key_that_cannot_pay_is_refused_in_the_recorded_words() -> None:
    made, _ = bank()
    refused = made.reserve("sk-" + "b" * 32, 12009)
    assert isinstance(refused, Refused)
    made.deposit("sk-" + "b" * 32, 100)
    refused = made.reserve("sk-" + "b" * 32, 12009)
    assert isinstance(refused, Refused)
    real = json.loads(recorded("25-insufficient-balance-402"))["error"]
    assert (refused.status, refused.type, refused.code) == (402, real["type"], real["code"])


def test_a_reverted_request_does_not_count_and_a_swept_one_does() -> None:
    made, clock = bank()
    made.revert(reserved(made, KEY, 300))
    assert made.accounts[KEY].total_requests == 0
    held = reserved(made, KEY, 300)
    clock.now = 300.0
    made.turn()
    assert (made.accounts[KEY].total_requests, made.accounts[KEY].reserved) == (1, 0)
    assert made.charge(held, 505) == 0, "what was swept is not charged"


def test_a_limit_lets_one_reservation_through_and_bounds_no_charge() -> None:
    made, _ = bank()
    child = only_child(made, limit=300)
    held = reserved(made, child, 300)
    refused = made.reserve(child, 300)
    assert isinstance(refused, Refused)
    assert "0 already spent (300 reserved)" in refused.message
    assert made.charge(held, 500) == 500
    refused = made.reserve(child, 300)
    assert isinstance(refused, Refused)
    assert "500 already spent" in refused.message


def test_a_key_past_its_date_takes_nothing_new_and_settles_what_had_begun() -> None:
    made, clock = bank()
    child = only_child(made, validity=10)
    held = reserved(made, child, 300)
    clock.now = 11.0
    refused = made.reserve(child, 300)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.code) == (403, "key_expired")
    assert made.charge(held, 500) == 500


def test_a_key_there_is_can_be_closed_and_takes_nothing_new_then() -> None:
    """By the call that makes keys of tokens, whose answer is as recorded."""
    made, clock = bank()
    child = only_child(made)
    clock.now = 11.0
    held = reserved(made, child, 300)
    answered = made.limit(child, 1)
    assert isinstance(answered, dict)
    assert answered.keys() == {"api_key", "balance"}
    refused = made.reserve(child, 300)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.code) == (403, "key_expired")
    told = made.info(child)
    assert isinstance(told, dict)
    assert told["validity_date"] == 1
    assert made.charge(held, 500) == 500
    assert isinstance(made.limit("sk-" + "b" * 32, 1), Refused)


def test_a_restart_gives_back_what_was_reserved() -> None:
    made, _ = bank()
    held = reserved(made, KEY, 300)
    made.restart()
    assert made.charge(held, 500) == 0
    assert made.accounts[KEY].reserved == 0


def test_what_ended_in_time_is_charged_however_late_the_bank_is_asked() -> None:
    now = 0.0
    bank = Bank(clock=lambda: now, sweep=5.0)
    bank.deposit("sk-a", 1000)
    in_time, late = bank.reserve("sk-a", 100), bank.reserve("sk-a", 100)
    bank.later(4.0, lambda: bank.charge(in_time, 100))  # type: ignore[arg-type]
    bank.later(6.0, lambda: bank.charge(late, 100))  # type: ignore[arg-type]
    now = 60.0
    info = bank.info("sk-a")
    assert isinstance(info, dict)
    assert (info["total_spent"], info["total_requests"], info["reserved"]) == (100, 2, 0)


def test_what_ends_in_time_is_not_swept_away_though_the_machine_stood_still() -> None:
    now = [0.0]
    bank = Bank(lambda: now[0], sweep=0.03)
    bank.deposit(KEY, 1000)
    held = bank.reserve(KEY, 300)
    assert isinstance(held, Reservation)
    now[0] = 1.0
    bank.later(0.0, lambda: bank.charge(held, 505), since=held.at)
    bank.turn()
    assert bank.accounts[KEY].total_spent == 505

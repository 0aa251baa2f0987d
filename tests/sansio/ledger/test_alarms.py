"""When a provider's charges are alarmed: in the mean of the last requests, and seldom."""

from decimal import Decimal
from typing import Final

import pytest

from arbstr.sansio.ledger.alarms import (
    AGAIN_SECONDS,
    MOST_PAIRS,
    WINDOW,
    ChargeAlarm,
    ChargeAlarms,
    PriceAlarm,
    PriceAlarms,
    Sums,
)

HOUR: Final = AGAIN_SECONDS


def told(
    alarms: PriceAlarms,
    stated: str,
    expected: str,
    *,
    times: int = WINDOW,
    now: float = 0.0,
    model: str = "m",
) -> list[PriceAlarm]:
    """So many requests alike at one moment, and what was said of them."""
    said = (
        alarms.note("alpha", model, Decimal(stated), Decimal(expected), now) for _ in range(times)
    )
    return [alarm for alarm in said if alarm is not None]


@pytest.mark.parametrize(
    ("stated", "expected", "alarmed"),
    [
        pytest.param("1", "1", False, id="alike"),
        pytest.param("1.05", "1", True, id="5 percent more"),
        pytest.param("1.0499", "1", False, id="not quite"),
        pytest.param("0.95", "1", True, id="5 percent less"),
        pytest.param("0.9501", "1", False, id="not quite less"),
        pytest.param("0.11", "0.1", True, id="10 msat"),
        pytest.param("0.1099", "0.1", False, id="9.9 msat, though 9.9 percent"),
        pytest.param("0.01", "0", True, id="for nothing by the rates"),
        pytest.param("0.0099", "0", False, id="rounding up what is free"),
        pytest.param("0", "0.01", True, id="for nothing by the provider"),
        pytest.param("20", "2", True, id="typed ten times too low"),
    ],
)
def test_what_is_a_difference(stated: str, expected: str, alarmed: bool) -> None:
    alarms = PriceAlarms()
    assert told(alarms, stated, expected, times=WINDOW - 1) == []
    assert bool(told(alarms, stated, expected, times=1)) == alarmed


def test_one_dear_request_among_twenty_is_none() -> None:
    alarms = PriceAlarms()
    told(alarms, "1", "1", times=WINDOW - 1)
    assert told(alarms, "1.9", "1", times=1) == []  # 4.5 percent in the mean
    # And it leaves the window: another as dear may come.
    assert told(alarms, "1", "1", times=WINDOW - 1) == []
    assert told(alarms, "1.9", "1", times=1) == []
    assert told(alarms, "1.9", "1", times=1) != []


def test_an_alarm_has_the_figures_and_comes_once_an_hour() -> None:
    alarms = PriceAlarms()
    told(alarms, "1", "1", times=4)
    (alarm,) = told(alarms, "20.5", "2", times=20, now=5.0)
    # It came with the first that made the mean differ, the 20th of all.
    assert alarm.in_all == Sums(20, Decimal(332), Decimal(36))
    assert told(alarms, "20.5", "2", times=100, now=4.9 + HOUR) == []
    (alarm,) = told(alarms, "20.5", "2", times=100, now=5.0 + HOUR)
    assert alarm == PriceAlarm(
        *("alpha", "m", Sums(20, Decimal(410), Decimal(40))),
        Sums(125, Decimal("2484.5"), Decimal(246)),
    )
    assert alarm.sentence() == (
        'provider "alpha" charges other prices for m than its configured rates: 410 sats for the '
        "last 20 requests, where they give 40 (since the start 2484 for 125, where they give 246)"
    )


def test_each_provider_and_model_has_its_own_sums() -> None:
    alarms = PriceAlarms()
    told(alarms, "20", "2", times=WINDOW - 1)
    assert told(alarms, "20", "2", times=1, model="other") == []
    assert alarms.note("beta", "m", Decimal(20), Decimal(2), 0.0) is None
    assert len(told(alarms, "20", "2", times=1)) == 1


def test_names_that_clients_make_up_are_forgotten_in_the_end() -> None:
    alarms = PriceAlarms()
    told(alarms, "20", "2", times=WINDOW - 1, model="kept")
    told(alarms, "20", "2", times=WINDOW - 1, model="lost")
    for n in range(MOST_PAIRS - 1):
        told(alarms, "1", "1", times=1, model=str(n))
        if not n:
            assert told(alarms, "20", "2", times=1, model="kept")
    assert told(alarms, "20", "2", times=1, model="lost") == []
    assert told(alarms, "20", "2", times=1, model="kept", now=HOUR) != []


def test_what_a_node_lists_is_called_so() -> None:
    alarm = PriceAlarm("alpha", "m", Sums(20, Decimal(2), Decimal(1)), Sums(), listed=True)
    assert "charges other prices for m than it lists: 2 sats" in alarm.sentence()
    assert alarm.dearer


def test_what_was_told_and_answered_is_forgiven() -> None:
    alarms = PriceAlarms()
    (alarm,) = told(alarms, "2", "1")
    alarms.forgive(alarm)
    assert told(alarms, "2", "1", times=WINDOW - 1, now=HOUR) == []
    assert len(told(alarms, "2", "1", times=1, now=HOUR)) == 1
    assert alarms.of("alpha")["m"].requests == 2 * WINDOW
    assert alarms.of("beta") == {}


def compared(alarms: ChargeAlarms, charged: str, known: str, requests: int) -> ChargeAlarm | None:
    return alarms.note("alpha", Sums(requests, Decimal(charged), Decimal(known)), 0.0)


def test_charges_are_compared_by_the_sums_of_whole_checkpoints() -> None:
    alarms = ChargeAlarms()
    assert compared(alarms, "5", "5", 15) is None
    assert compared(alarms, "1", "0.5", 4) is None, "of 19 nothing is said"
    assert compared(alarms, "6", "5", 8) is not None, "27, of which the first 15 are needed"
    assert compared(alarms, "0", "0", 0) is None
    assert alarms.of("alpha") == Sums(27, Decimal(12), Decimal("10.5"))


@pytest.mark.parametrize(
    ("charged", "alone", "ends"),
    [("6", False, ": does anybody else use the key?"), ("6", True, "5)"), ("4", False, "5)")],
)
def test_who_else_may_have_charged_the_key_is_asked_where_it_can_be(
    charged: str, alone: bool, ends: str
) -> None:
    alarm = ChargeAlarms().note("alpha", Sums(20, Decimal(charged), Decimal(5)), 0.0, alone=alone)
    assert alarm is not None
    assert alarm.dearer == (charged == "6")
    assert alarm.sentence().startswith(
        f'provider "alpha" charges something else than it states: {charged} sats for the last 20 '
    )
    assert alarm.sentence().endswith(ends)

"""What the answers of the routes mean, from one look to the next."""

import pytest

from arbstr.cli.watch.command import after
from arbstr.cli.watch.model import Model, Seen
from arbstr.sansio.moments import DAY_MS
from tests.cli.watch.seen import NOW, WHERE, busy, health, moment, page, row, running, stats, told

MINUTE = 60_000


def spent(sats: float) -> Seen:
    return Seen(health(), today=stats(sats, 0))


def test_the_last_minute_is_known_at_once_and_then_by_looking() -> None:
    model = told(Seen(health(), today=stats(10, 0), minute=stats(4, 0)))
    assert model.minute == 4
    model = model.told(spent(11), NOW + 30_000)
    assert model.minute == 5
    model = model.told(spent(11), NOW + MINUTE)
    assert model.minute == 1  # the four were before
    model = model.told(spent(11), NOW + 2 * MINUTE)
    assert model.minute == 0


def test_spendings_are_remembered_for_a_minute_and_no_longer() -> None:
    model = told(Seen(health(), today=stats(0, 0), minute=stats(0, 0)))
    for second in range(1, 300):
        model = model.told(spent(second), NOW + 1000 * second)
    assert model.minute == 60
    assert len(model.spendings) == 61


def test_a_new_day_begins_at_nothing() -> None:
    late = moment("2026-02-03T23:59:59Z")
    model = Model(WHERE, late).told(Seen(health(), stats(50, 0), stats(9, 0)), late)
    model = model.told(spent(0.5), late + 2000)
    assert model.minute == 0.5
    assert model.day is not None
    assert model.day.spent == 0.5


def test_a_correction_downwards_is_no_negative_spending() -> None:
    model = told(Seen(health(), today=stats(10, 0), minute=stats(1, 0)))
    assert model.told(spent(3), NOW + 1000).minute == 0


def test_with_a_budget_the_day_is_the_budgets() -> None:
    budget = {"limit": 50, "spent": 20.5, "set_aside": 1, "ends_at": "2026-02-04T00:00:00.000Z"}
    day = told(Seen(health(budget=budget), stats(12, 0.25))).day
    assert day is not None
    assert (day.spent, day.limit, day.set_aside) == (20.5, 50, 1)
    day = told(Seen(health(), stats(12, 0.25))).day
    assert day is not None
    assert (day.spent, day.limit, day.set_aside) == (12.25, None, None)


def test_what_was_not_asked_again_is_as_before() -> None:
    model = busy()
    again = model.told(Seen(health()), NOW + 1000)
    assert (again.rows, again.running, again.total) == (model.rows, model.running, model.total)
    assert again.day is not None
    assert again.day.requests == 412
    assert [each.name for each in again.providers] == ["alpha"]  # who is there, /health says
    assert again.providers[0].rates == model.providers[0].rates


def test_those_in_flight_are_of_the_page_or_of_a_question_of_their_own() -> None:
    model = told(Seen(health(), stats(), page=page(running(1), row(2))))
    assert [row.status for row in model.running] == ["in_flight"]
    old = Seen(health(), stats(), page=page(row(2)), running=page(running(500)))
    assert [row.at for row in model.told(old, NOW).running] == [NOW - 1_000_900]


@pytest.mark.parametrize(
    ("more", "unknown"),
    [
        ({}, False),
        ({"cost": {"cost_sats": None}}, True),
        ({"cost": {"cost_sats": None}, "status": "stream_incomplete"}, True),
        ({"cost": {"cost_sats": None}, "status": "failed"}, False),
        ({"cost": {"cost_sats": None}, "status": "failed", "possibly_spent": 1}, True),
        ({"cost": {"cost_sats": None}, "status": "in_flight", "possibly_spent": 1}, False),
        ({"cost": {"cost_sats": None}, "status": "rejected"}, False),
    ],
    ids=str,
)
def test_unknown_is_what_stats_count_as_unknown(more: dict[str, object], unknown: bool) -> None:
    (found,) = told(Seen(health(), stats(), page=page(row(1, **more)))).rows
    assert found.unknown is unknown


def test_a_node_whose_prices_cannot_be_read_is_told_and_trouble_goes_first() -> None:
    prices: dict[str, object] = {
        "fetched_at": None,
        "age": None,
        "trouble": "could not be reached",
        "models": {},
    }
    listed = {"providers": [{"name": "alpha", "rates": {"m": None}, "prices": prices}]}
    (alpha,) = told(Seen(health(), stats(), providers=listed)).providers
    assert (alpha.state, alpha.why, alpha.rates) == ("prices", "could not be reached", {})
    ill = {"alpha": {"state": "half_open", "failure_count": 3, "last_error": "is ill"}}
    (alpha,) = told(Seen(health(providers=ill), stats(), providers=listed)).providers
    assert (alpha.state, alpha.why) == ("half open", "is ill")


def test_since_when_arbstr_does_not_answer_is_kept_until_it_does() -> None:
    model = busy().missed("is gone", NOW + 1000).missed("is late", NOW + 2000)
    assert (model.trouble, model.since, model.now) == ("is late", NOW + 1000, NOW + 2000)
    assert model.rows == busy().rows
    again = model.told(Seen(health()), NOW + 3000)
    assert (again.trouble, again.since, again.restarted) == (None, None, None)
    new = Seen(health(started_at="2026-02-03T12:04:07.000Z"))
    assert model.told(new, NOW + 3000).restarted == NOW + 3000
    older = Seen(health(started_at="2026-02-03T08:52:01.000Z"))  # of another worker
    assert model.told(older, NOW + 3000).restarted is None


@pytest.mark.parametrize(
    "alien",
    [
        Seen({}),
        Seen({"status": "ok", "providers": [], "log": {"queued": 0}}),
        Seen(health(providers={"a": None})),
        Seen(health(), today={"counts": None, "costs": {}}),
        Seen(health(), page={"data": [None], "total": 1}),
        Seen(health(), page={"data": [{"cost": 1}], "total": "x"}),
        Seen(health(), providers={"providers": 7}),
        Seen(health(budget={"spent": "much"}), today=stats()),
    ],
    ids=lambda seen: str(seen)[:60],
)
def test_what_no_arbstr_says_is_no_answer(alien: Seen) -> None:
    model = after(busy(), alien, NOW + 1000)
    assert model.trouble == "answers as no arbstr of this version does"
    assert model.rows == busy().rows


def test_a_silence_is_told() -> None:
    assert after(busy(), "did not answer within 3 s", NOW).trouble == "did not answer within 3 s"


def test_a_clock_that_was_set_back_raises_nothing() -> None:
    model = busy().told(spent(1), NOW - DAY_MS)
    assert model.minute >= 0

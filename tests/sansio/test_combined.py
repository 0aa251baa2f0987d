"""What several workers say, as one answer."""

from typing import Any

from arbstr.sansio.combined import Said, combined_health, combined_providers
from arbstr.sansio.fates import State

CLOSED: dict[str, Any] = {"state": "closed", "failure_count": 0}
OPEN: dict[str, Any] = {"state": "open", "failure_count": 3, "retry_at": "2026-01-01T00:00:30Z"}
LOG = {"queued": 1, "written": 10, "dropped": 0}


def health(status: str = "ok", **providers: dict[str, Any]) -> dict[str, Any]:
    return {"status": status, "providers": providers, "log": LOG}


def said(*reports: dict[str, Any] | None, state: State = State.SERVING) -> list[Said]:
    return [Said(number, 100 + number, state, report) for number, report in enumerate(reports, 1)]


def shown(name: str, **members: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "name": name,
        "url": f"http://{name}",
        "kind": "openai",
        "circuit": "closed",
        "resting_until": None,
        "resting_for": None,
    }
    return {**usual, **members}


def test_all_are_well() -> None:
    one = health(alpha=CLOSED)
    assert combined_health(one, said(one, one)) == {
        "status": "ok",
        "settled": 0,
        "providers": {"alpha": CLOSED},
        "log": {"queued": 2, "written": 20, "dropped": 0},
        "workers": [
            {"worker": 1, "pid": 101, "status": "ok"},
            {"worker": 2, "pid": 102, "status": "ok"},
        ],
    }


def test_the_worst_circuit_counts_and_who_has_which_is_told() -> None:
    one, two = health("degraded", alpha=OPEN), health(alpha={**CLOSED, "failure_count": 2})
    found = combined_health(two, said(one, two))
    assert found["status"] == "degraded"
    assert found["providers"]["alpha"] == {**OPEN, "workers": {"1": "open", "2": "closed"}}


def test_a_rest_is_the_longest_and_what_was_settled_is_added_up() -> None:
    rest = {"resting_until": "2026-01-01T00:00:30Z", "resting_for": "balance"}
    longer = {"resting_until": "2026-01-01T00:01:30Z", "resting_for": "key"}
    one = {**health(alpha={**CLOSED, **rest}), "settled": 2, "started_at": "2026-01-01T00:00:07Z"}
    two = {**health(alpha={**CLOSED, **longer}), "settled": 1, "started_at": "2026-01-01T00:00:05Z"}
    found = combined_health(one, said(one, health(alpha=CLOSED), two))
    assert found["providers"]["alpha"] == {**CLOSED, **longer}
    assert (found["settled"], found["started_at"]) == (3, "2026-01-01T00:00:05Z")


def test_of_two_open_ones_the_later_and_the_most_failures() -> None:
    later = {**OPEN, "failure_count": 1, "retry_at": "2026-01-01T00:00:40Z", "last_error": "no"}
    one = health("unhealthy", alpha=OPEN)
    found = combined_health(one, said(one, health("unhealthy", alpha=later)))
    assert found["status"] == "unhealthy"  # nobody can serve
    assert found["providers"]["alpha"] == {**later, "failure_count": 3}


def test_one_that_can_serve_is_enough_not_to_be_unhealthy() -> None:
    one, two = health("unhealthy", alpha=OPEN), health("degraded", alpha=CLOSED)
    assert combined_health(one, said(one, two))["status"] == "degraded"


def test_a_worker_that_is_not_there_or_says_nothing_is_told_of() -> None:
    one = health(alpha=CLOSED)
    who = [
        Said(1, 101, State.SERVING, one),
        Said(2, 102, State.SERVING),
        Said(3, 103, State.STARTING),
        Said(4, None, State.RESTING),
    ]
    found = combined_health(one, who)
    assert found["status"] == "degraded"
    assert [each["status"] for each in found["workers"]] == [
        "ok",
        "silent",
        "starting",
        "to be started again",
    ]
    assert found["log"] == LOG


def test_models_and_balances_and_damage() -> None:
    sick = {"m": OPEN}
    old = {"free_sats": 1.0, "reserved_sats": 0.0, "asked_at": "2026-01-01T00:00:00Z"}
    new = {**old, "free_sats": 2.0, "asked_at": "2026-01-01T00:01:00Z"}
    one = health(alpha={**CLOSED, "balance": new})
    two = health("degraded", alpha={**CLOSED, "models": sick, "balance": old})
    two["log"] = {**LOG, "damaged": True}
    found = combined_health(one, said(one, two))
    assert found["providers"]["alpha"] == {**CLOSED, "models": sick, "balance": new}
    assert found["log"]["damaged"] is True


def test_a_worker_that_was_reloaded_a_moment_earlier() -> None:
    one, two = health(alpha=CLOSED), health(beta=OPEN)
    assert combined_health(one, said(one, two))["providers"] == {"alpha": CLOSED}
    first, second = ({"providers": [shown(name)]} for name in ("alpha", "beta"))
    assert combined_providers(first, said(first, second))["providers"] == [shown("alpha")]
    other = {"providers": [shown("alpha", url="http://elsewhere", circuit="open")]}
    assert combined_providers(first, said(first, other))["providers"] == [shown("alpha")]


def test_providers_are_one_list_of_the_worst_and_the_newest() -> None:
    soon, late = "2026-01-01T00:00:10Z", "2026-01-01T00:00:50Z"
    one = shown(
        "alpha",
        resting_until=soon,
        resting_for="rate limit",
        missing_endpoints={"messages": ["b"], "embeddings": None},
        prices={"fetched_at": None, "models": {}},
    )
    two = shown(
        "alpha",
        kind="routstr",
        circuit="open",
        resting_until=late,
        resting_for="no balance",
        circuits={"m": OPEN},
        missing_endpoints={"messages": ["a"], "embeddings": ["c"], "responses": None},
        prices={"fetched_at": soon, "models": {"m": 1}},
    )
    own = {"providers": [one]}
    found = combined_providers(own, said(own, {"providers": [two]}, None))
    assert found["providers"] == [
        {
            **two,
            "missing_endpoints": {"messages": ["a", "b"], "embeddings": None, "responses": None},
        }
    ]
    assert [each["status"] for each in found["workers"]] == ["serving", "serving", "silent"]
    turned = {"providers": [two]}
    assert combined_providers(turned, said(turned, own))["providers"][0]["kind"] == "routstr"


def test_what_was_stated_and_charged_is_of_all_workers() -> None:
    one = {"requests": 2, "stated_sats": 1.5, "expected_sats": 1.0}
    sums = {"requests": 2, "charged_sats": 1.5, "known_sats": 1.5}
    reports = [
        {"providers": [shown("alpha", stated={"m": one}, charged=sums)]},
        {"providers": [shown("alpha", stated={"m": one, "n": one})]},
        {"providers": [shown("alpha")]},
    ]
    (found,) = combined_providers(reports[2], said(*reports))["providers"]
    assert found["stated"] == {
        "m": {"requests": 4, "stated_sats": 3.0, "expected_sats": 2.0},
        "n": one,
    }
    assert found["charged"] == sums


def test_a_rest_without_end_is_the_longest() -> None:
    never = shown("alpha", resting_until="9999-12-31T23:59:59Z", resting_for="overcharge")
    soon = shown("alpha", resting_until="2026-01-01T00:00:30Z", resting_for="balance")
    reports = [{"providers": [each]} for each in (soon, never)]
    (found,) = combined_providers(reports[0], said(*reports))["providers"]
    assert found["resting_for"] == "overcharge"


def test_of_rows_that_wait_the_longest_wait_and_a_trouble_are_told() -> None:
    waits = {**LOG, "waiting_seconds": 2.5}
    full = {**LOG, "waiting_seconds": 42.0, "trouble": "disk full"}
    reports = [{**health(), "log": waits}, {**health("degraded"), "log": full}, health()]
    found = combined_health(reports[2], said(*reports))
    assert found["status"] == "degraded"
    assert found["log"] == {
        "queued": 3,
        "written": 30,
        "dropped": 0,
        "waiting_seconds": 42.0,
        "trouble": "disk full",
    }

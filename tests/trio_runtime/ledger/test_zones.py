"""Zones by their names, and the machine's own, which may have none."""

import time
from collections.abc import Iterator

import pytest

from arbstr.sansio.moments import EARLIEST, LATEST, UTC, parse_moment
from arbstr.trio_runtime.ledger.zones import find_zone


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("tz", "winter", "summer"),
    [
        ("CET-1CEST,M3.5.0,M10.5.0/3", 60, 120),
        ("<+0545>-5:45", 345, 345),  # no database knows it
        ("UTC0", 0, 0),
        ("<-03>3", -180, -180),
    ],
)
def test_the_machine_s_own_needs_no_name(
    tz: str, winter: int, summer: int, machine: pytest.MonkeyPatch
) -> None:
    machine.setenv("TZ", tz)
    time.tzset()
    zone = find_zone("local")
    assert zone is not None
    assert zone.name == "local"
    for day, minutes in (("2026-01-15", winter), ("2026-07-15", summer)):
        assert zone.ahead(parse_moment(day) or 0) == minutes * 60_000
    for far in (EARLIEST, LATEST, EARLIEST - 10**9, LATEST + 10**9):
        assert abs(zone.ahead(far)) < 86_400_000


@pytest.mark.parametrize(
    "name", ["Nowhere/Town", "", "../../etc/passwd", "/etc/localtime", "Europe", "x" * 1000, "\0"]
)
def test_a_name_that_is_no_zone_s_is_none(name: str) -> None:
    assert find_zone(name) is None


def test_a_zone_of_the_database_changes_its_clocks() -> None:
    assert find_zone("UTC") is UTC
    zone = find_zone("Europe/Berlin")
    if zone is None:
        pytest.skip("this machine has no database of zones")
    assert zone is find_zone("Europe/Berlin")
    assert zone.ahead(parse_moment("2026-03-29T00:59:59") or 0) == 3_600_000
    assert zone.ahead(parse_moment("2026-03-29T01:00:00") or 0) == 7_200_000
    for far in (EARLIEST, LATEST):
        assert abs(zone.ahead(far)) < 86_400_000

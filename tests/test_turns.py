"""Which file begins when: what takes long first, and those with a server together."""

import pytest

from tests.turns import LONG, ROOT, asks_for_postgres, in_turn, scatter, sort


def test_those_named_are_there_once() -> None:
    assert [file for file in LONG if not (ROOT / file).is_file()] == []
    assert len(set(LONG)) == len(LONG)


def test_whoever_asks_for_a_postgres_shares_one() -> None:
    assert asks_for_postgres("tests/trio_runtime/ledger/test_engines.py")
    assert asks_for_postgres("tests/trio_runtime/ledger/test_postgres.py")
    assert not asks_for_postgres("tests/trio_runtime/ledger/test_log_writer.py")


def test_what_takes_long_begins_first_and_then_the_files_of_many_tests() -> None:
    few, many, long = "tests/test_a.py", "tests/test_z.py", LONG[1]
    tests = [f"{few}::test_1", f"{many}::test_1[x::y]", f"{many}::test_2", f"{long}::test_1"]
    assert in_turn(tests) == {long: 0, many: 1, few: 2}


def test_processes_collect_in_different_orders_and_end_in_the_same(
    request: pytest.FixtureRequest,
) -> None:
    items = request.session.items
    collected: list[list[pytest.Item | pytest.Collector]] = [list(items), list(items)]
    for process, found in zip(("gw0", "gw1"), collected, strict=True):
        scatter(found, process)
    assert collected[0] != collected[1]
    orders = [[item for item in found if isinstance(item, pytest.Item)] for found in collected]
    for order in orders:
        sort(order)
    files = [[item.path for item in order] for order in orders]
    assert files[0] == files[1]
    assert sorted(item.nodeid for item in orders[0]) == sorted(item.nodeid for item in items)

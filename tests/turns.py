"""Which test file begins when, where several processes run them (pytest-xdist).

All processes should end together, so what takes long begins first: the files of `LONG`, then those
with many tests, and the small ones at the end fill what is left. `LONG` alternates what waits, for
processes and for real time, with what computes, so that a core has something to do meanwhile.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, final

import pytest
from xdist.scheduler import LoadFileScheduling

ROOT: Final = Path(__file__).parents[1]

LONG: Final = (
    "tests/test_operations.py",
    "tests/trio_runtime/ledger/test_engines.py",
    "tests/trio_runtime/test_attempts.py",
    "tests/test_load.py",
    "tests/trio_runtime/ledger/test_reports.py",
    "tests/test_kill.py",
    "tests/test_cases.py",
    "tests/test_budget.py",
    "tests/sansio/dialects/test_relay.py",
    "tests/trio_runtime/test_proxied.py",
    "tests/sansio/routing/test_lease.py",
    "tests/test_report_cli.py",
    "tests/trio_runtime/test_in_any_order.py",
    "tests/cli/test_config_file.py",
    "tests/trio_runtime/test_heavy.py",
    "tests/test_troubled_ledger.py",
    "tests/trio_runtime/test_hub.py",
    "tests/test_secrets.py",
    "tests/sansio/config/test_reader.py",
    "tests/test_books.py",
    "tests/sansio/dialects/chat/test_request.py",
    "tests/test_stderr.py",
    "tests/sansio/dialects/chat/test_answer.py",
    "tests/test_main.py",
    "tests/trio_runtime/mock/test_providers.py",
    "tests/test_bench.py",
    "tests/sansio/failover/test_board.py",
    "tests/test_workers.py",
    "tests/trio_runtime/server/test_connection.py",
    "tests/test_sdk.py",
    "tests/trio_runtime/ledger/test_log_writer.py",
    "tests/test_door.py",
    "tests/trio_runtime/test_chaos.py",
    "tests/test_soak.py",
    "tests/test_lane_fence.py",
    "tests/trio_runtime/test_repeating_sdk.py",
    "tests/test_lane_walks.py",
)
"""Files that take more than a hundredth of all processes' time: measured, and more of a habit than
a promise. A file of few slow tests belongs here."""

ASKS_FOR_POSTGRES: Final = re.compile(r"^from tests\.(engines|postgres) import", re.MULTILINE)

WITH_POSTGRES: Final = "postgres"
"""One name for all files that ask for a PostgreSQL server: in one process they share one."""


def file_of(nodeid: str) -> str:
    """The file of a test."""
    return nodeid.partition("::")[0]


def in_turn(nodeids: Iterable[str]) -> dict[str, int]:
    """The files, each with its place in the order in which they begin."""
    tests = Counter(map(file_of, nodeids))
    long = {file: place for place, file in enumerate(LONG)}
    order = sorted(tests, key=lambda file: (long.get(file, len(LONG)), -tests[file], file))
    return {file: place for place, file in enumerate(order)}


def sort(items: list[pytest.Item]) -> None:
    """By their files' turn; the tests of a file stay in their order."""
    turns = in_turn(item.nodeid for item in items)
    items.sort(key=lambda item: turns[file_of(item.nodeid)])


def scatter(found: list[pytest.Item | pytest.Collector], process: str) -> None:
    """What a directory holds, in an order of the process's own, of several that collect at once.

    pytest rewrites a test file's assertions where nobody did before, which is so for all of them
    in a new copy of the tree and takes twice as long as all else that is done to collect them. In
    one order the processes would do it file by file at the same time; so each does a part.
    """
    random.Random(process).shuffle(found)


@final
class Scheduling(LoadFileScheduling):
    """A file stays in one process, and those with a PostgreSQL server all in the same."""

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return WITH_POSTGRES if asks_for_postgres(file) else file


@cache
def asks_for_postgres(file: str) -> bool:
    """Whether a test file, named from the root, imports what starts a server."""
    return ASKS_FOR_POSTGRES.search((ROOT / file).read_text("utf-8")) is not None

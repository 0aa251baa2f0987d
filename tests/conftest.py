"""What all tests share with pytest."""

import gc
import os
import sys
from collections.abc import Generator, Iterator
from typing import Any, Final

import pytest

from tests import turns
from tests.fakes import FakeProcess, fake_process
from tests.postgres import PostgresServer, running_postgres
from tests.searching import register_profiles

# The commands that tests start, some hundred times, would each compile all of arbstr again where
# this is set, and so would every process of pytest-xdist.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

PROCESSES_PER_CORE: Final = 2
"""Tests wait a third of their time for a real server, disk or clock: a core has room for two."""

# The same examples in every run: what the check finds, it finds for everybody, and who broke it
# reads about it.
register_profiles()

# While thousands of tests are collected nothing is thrown away: the garbage collector finds none,
# and takes a quarter of the time.
gc.disable()


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means here (pytest-xdist)."""
    return PROCESSES_PER_CORE * len(os.sched_getaffinity(0))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> turns.Scheduling | None:
    """How files are given to processes, if they are given as files (pytest-xdist)."""
    return turns.Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In a process of several, a directory's files are imported in another order than elsewhere."""
    report = yield
    process = getattr(collector.config, "workerinput", {}).get("workerid")
    if process is not None and isinstance(collector, pytest.Directory) and report.passed:
        assert report.result is not None
        turns.scatter(report.result, process)
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of several, the files are in the order in which they are to begin."""
    if hasattr(config, "workerinput"):
        turns.sort(items)


def pytest_collection_finish() -> None:
    """Whatever is there by now stays: the collector need not look at it again and again."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def providers() -> Iterator[FakeProcess]:
    """A process of fake providers for the tests of a file, to configure an arbstr with."""
    with fake_process() as process:
        yield process


@pytest.fixture
def fake(providers: FakeProcess) -> FakeProcess:
    """The same, which has forgotten what other tests asked."""
    providers.reset()
    return providers


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of this process; turns.py keeps the files that ask for it together."""
    with running_postgres() as server:
        yield server

"""What all tests share with pytest."""

import gc
import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.fakes import FakeProcess, fake_process

PROCESSES_PER_CORE: Final = 2
"""Tests wait a third of their time for a real server, disk or clock: a core has room for two."""


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means here (pytest-xdist)."""
    return PROCESSES_PER_CORE * len(os.sched_getaffinity(0))


def pytest_collection_finish() -> None:
    """Whatever is there by now stays: the collector need not look at it again and again."""
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

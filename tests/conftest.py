"""What all tests share with pytest."""

import gc
from collections.abc import Iterator

import pytest

from tests.fakes import FakeProcess, fake_process


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

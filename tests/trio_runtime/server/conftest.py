"""What the tests of the server share."""

import pytest
from trio.testing import MockClock


@pytest.fixture
def clock() -> MockClock:
    """A clock that runs as it does on the wall, because kernels do, and jumps when told to."""
    return MockClock(rate=1.0)

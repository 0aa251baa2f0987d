"""The limit of open files, raised at the start."""

import logging
import resource

import pytest

from arbstr.trio_runtime.descriptors import raise_descriptor_limit

INFINITE = resource.RLIM_INFINITY


class Limits:
    """Stands in for the kernel: `most` is what setrlimit takes, whatever the hard limit says."""

    def __init__(self, soft: int, hard: int, most: float = float("inf")) -> None:
        self.now = (soft, hard)
        self._most = most

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        if limits[0] == INFINITE or limits[0] > self._most:
            raise ValueError("current limit exceeds maximum limit")
        self.now = limits


@pytest.mark.parametrize(
    ("limits", "soft", "level", "said"),
    [
        (Limits(1024, 4096), 4096, logging.INFO, "4096 files: about 2016 requests"),
        (Limits(40, 40), 40, logging.WARNING, "40 files: about 0 requests"),
        (Limits(100, 200), 200, logging.WARNING, "200 files: about 68 requests"),
        (Limits(256, INFINITE, 10_240), 10_240, logging.INFO, "about 5088 requests"),
        (Limits(20_000, INFINITE, 10_240), 20_000, logging.INFO, "about 9968 requests"),
        (Limits(256, 4096, 256), 256, logging.WARNING, "about 96 requests"),
        (Limits(INFINITE, INFINITE), INFINITE, logging.INFO, "any number"),
    ],
)
def test_the_soft_limit_becomes_the_hard_one_and_is_told(
    limits: Limits,
    soft: int,
    level: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limits.setrlimit)
    with caplog.at_level(logging.INFO, "arbstr"):
        raise_descriptor_limit()
    assert limits.now[0] == soft
    [record] = caplog.records
    assert record.levelno == level
    assert said in record.getMessage()

"""A process's clock, set by a test: `time.time` and `time.time_ns` are off by some seconds.

    clock = Clock(tmp_path)
    with arbstr_process(..., environ=clock.environ) as process:
        clock.offset = 40 * DAY         # from now on, for that process alone

Monotonic time goes on as it is, as it does where a real clock is put right.
"""

import os
from pathlib import Path
from typing import Final, final

DAY: Final = 86_400.0

_SITECUSTOMIZE: Final = """
import os
import time

_file = os.environ["TEST_CLOCK"]
_seconds, _nanoseconds = time.time, time.time_ns


def _offset():
    with open(_file) as file:
        return float(file.read())


time.time = lambda: _seconds() + _offset()
time.time_ns = lambda: _nanoseconds() + int(_offset() * 1e9)
"""


@final
class Clock:
    """`environ` is for the processes that go by it."""

    def __init__(self, directory: Path, offset: float = 0.0) -> None:
        place = directory / "clock"
        place.mkdir()
        (place / "sitecustomize.py").write_text(_SITECUSTOMIZE, "utf-8")
        self._file = place / "offset"
        self._offset = 0.0
        self.offset = offset
        self.environ: Final = {
            "PYTHONPATH": os.pathsep.join(
                (str(place), *filter(None, [os.environ.get("PYTHONPATH")]))
            ),
            "TEST_CLOCK": str(self._file),
        }

    @property
    def offset(self) -> float:
        """Seconds that it is ahead."""
        return self._offset

    @offset.setter
    def offset(self, seconds: float) -> None:
        self._offset = seconds
        new = self._file.with_suffix(".new")
        new.write_text(repr(seconds), "utf-8")
        new.replace(self._file)  # whole, whenever the process looks

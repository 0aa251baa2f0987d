"""Counts the turns of Trio's loop: between two of them comes whatever else there is to do."""

from typing import final

import trio


@final
class Passes(trio.abc.Instrument):
    """From now on, until the run ends."""

    def __init__(self) -> None:
        self.count = 0
        trio.lowlevel.add_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Another one has ended."""
        self.count += 1

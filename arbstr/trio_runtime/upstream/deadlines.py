"""Until when providers are waited for: one clock for all attempts that run.

    Deadlines.begin(pipe, seconds) --> Deadline; when it passes, who waits at the pipe gets TooLate
    Deadline.end()                 --> it does not pass any more
    Deadlines.run                  sleeps until the first of them

A scope of Trio's would do the same for each attempt, in 700 steps of the interpreter instead of
100; and where a deadline moves with each event of a stream, in 190 instead of 12. As a cancelled
wait, one that is too late has lost nothing: others may read on.
"""

from math import inf
from typing import final

import trio

from arbstr.sansio.errors import LocalProtocolError
from arbstr.trio_runtime.upstream.pipe import Pipe


@final
class Deadline:
    """That of one attempt."""

    __slots__ = ("_at", "_clock", "_pipe")

    def __init__(self, clock: "Deadlines", pipe: Pipe, at: float) -> None:
        self._clock = clock
        self._pipe = pipe
        self._at = at

    @property
    def deadline(self) -> float:
        """When it passes, by Trio's clock; may be moved, as that of a scope."""
        return self._at

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._at = at
        if at < self._clock.next:
            self._clock.sooner(at)

    def passes(self) -> None:
        """It is time."""
        self._pipe.interrupt()

    def end(self) -> None:
        """It was in time, or too late: nobody at the pipe is meant any more."""
        self._at = inf
        self._pipe.is_late = False
        self._clock.ended(self)


@final
class Deadlines:
    """Those of all attempts. `async with trio.open_nursery() as n: n.start_soon(deadlines.run)`.

    `next` is when it looks at them again. `now` is `trio.current_time`, in a third of the steps.
    """

    def __init__(self) -> None:
        self._open: set[Deadline] = set()
        self._runs = False
        # Most deadlines end long before they pass, so the clock is set to one that is gone, as a
        # rule, and looks for the next then: to set it anew for each would cost what a scope does.
        self.next = inf
        self._sleep = trio.CancelScope()
        self.now = trio.lowlevel.current_clock().current_time

    def begin(self, pipe: Pipe, seconds: float) -> Deadline:
        """From now on. Raises `LocalProtocolError` if nobody looks at the clock."""
        if not self._runs:
            raise LocalProtocolError("a deadline passes only while its clock runs")
        at = self.now() + seconds
        deadline = Deadline(self, pipe, at)
        self._open.add(deadline)
        if at < self.next:
            self.sooner(at)
        return deadline

    def sooner(self, at: float) -> None:
        """One of them passes before `next`."""
        self.next = self._sleep.deadline = at

    def ended(self, deadline: Deadline) -> None:
        """One of them does not pass any more."""
        self._open.discard(deadline)

    async def run(self) -> None:
        """Lets each pass at its time. Until cancelled."""
        self._runs = True
        while True:
            self.next = min((each.deadline for each in self._open), default=inf)
            with trio.CancelScope(deadline=self.next) as self._sleep:
                await trio.sleep_forever()
            now = self.now()
            for each in [each for each in self._open if each.deadline <= now]:
                self._open.discard(each)
                each.passes()

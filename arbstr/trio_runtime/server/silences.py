"""Comments for streams in which nothing is said: one clock for all that wait.

    Silences.begin(responder, period, headers) --> Silence; after each `period` seconds of it the
                                                   client gets a comment
    Silence.end()                              --> it gets no more
    Silences.run                               sleeps until the first of them

The first comment may have to send the head too, with `headers()`, while nobody knows yet who will
answer. A task for each stream would do the same, for 5 kB and 2,000 steps of the interpreter more.
"""

import logging
from collections.abc import Callable
from math import inf
from typing import final

import trio

from arbstr.sansio.dialects.dialect import Headers
from arbstr.sansio.errors import LocalProtocolError
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.server.responder import Responder

log = logging.getLogger(__name__)


@final
class Silence:
    """That of one stream."""

    __slots__ = ("_clock", "_headers", "_not_before", "_period", "_responder")

    def __init__(
        self,
        clock: "Silences",
        responder: Responder,
        period: float,
        headers: Callable[[], Headers],
    ) -> None:
        self._clock = clock
        self._responder = responder
        self._period = period
        self._headers = headers
        self._not_before = 0.0

    @property
    def due(self) -> float:
        """When its next comment is, by Trio's clock. A stream that has ended has none."""
        if self._responder.ended:
            return inf
        return max(self._responder.last_write + self._period, self._not_before)

    def takes_one(self, now: float) -> bool:
        """Whether the client gets its comment now, which is due."""
        if self._responder.is_writing:
            # It does not take what it has; it needs no comment to stay awake.
            self._not_before = now + self._period
            return False
        self._not_before = inf  # until it is written
        return True

    async def comment(self) -> None:
        """Says something, if it is still silent; waits as long as the client's socket is full."""
        try:
            if self._responder.last_write + self._period <= trio.current_time():
                await self._responder.comment(self._headers)
        except Exception as error:
            log_bug(log, "a comment broke", error)
        finally:
            self._not_before = 0.0
            self._clock.moved(self.due)

    def end(self) -> None:
        """Nothing more is said. A comment that is being written stays whole."""
        self._clock.ended(self)


@final
class Silences:
    """Those of all streams. `async with trio.open_nursery() as n: n.start_soon(silences.run)`."""

    def __init__(self) -> None:
        self._open: set[Silence] = set()
        self._runs = False
        # Most streams speak, so the clock is set to a moment that is gone, as a rule, and looks for
        # the next then: to set it anew at each event would cost more.
        self._next = inf
        self._sleep = trio.CancelScope()

    def begin(self, responder: Responder, period: float, headers: Callable[[], Headers]) -> Silence:
        """From now on. Raises `LocalProtocolError` if nobody looks at the clock."""
        if not self._runs:
            raise LocalProtocolError("a silence is noticed only while its clock runs")
        silence = Silence(self, responder, period, headers)
        self._open.add(silence)
        self.moved(silence.due)
        return silence

    def moved(self, due: float) -> None:
        """A comment is due at another time."""
        if due < self._next:
            self._next = self._sleep.deadline = due

    def ended(self, silence: Silence) -> None:
        """Nobody listens to it any more."""
        self._open.discard(silence)

    async def run(self) -> None:
        """Says something in each at its time. Until cancelled."""
        self._runs = True
        async with trio.open_nursery() as nursery:
            while True:
                self._next = min((each.due for each in self._open), default=inf)
                with trio.CancelScope(deadline=self._next) as self._sleep:
                    await trio.sleep_forever()
                now = trio.current_time()
                for each in list(self._open):
                    if each.due <= now and each.takes_one(now):
                        nursery.start_soon(each.comment)

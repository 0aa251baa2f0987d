"""Connections to providers: kept per origin, handed out for one exchange each, never leaked.

The owner of a `Connection` is who called `connect`; this pool holds the idle ones only, so there
is no slot to lose and nobody ever waits for one. What must not happen (httpcore #1093: a request
cancelled while the pool is full blocks a slot for good) has no place to happen in.
"""

import logging
import ssl
from collections import deque
from math import inf
from typing import Final, Self, final

import trio

from arbstr.sansio.frozen import dataclass
from arbstr.trio_runtime.upstream.connect import Origin, open_pipe, target_of
from arbstr.trio_runtime.upstream.deadlines import Deadlines
from arbstr.trio_runtime.upstream.http11 import Connection, Link, RequestHead, SendFailed
from arbstr.trio_runtime.upstream.pipe import ConnectFailed, TooLate
from arbstr.trio_runtime.upstream.readers import AnswerBroken, Head

log = logging.getLogger(__name__)

__all__ = [
    "AnswerBroken",
    "ConnectFailed",
    "Connection",
    "Head",
    "Origin",
    "RequestHead",
    "SendFailed",
    "TooLate",
    "Transport",
    "TransportStatistics",
    "target_of",
]


MARGIN: Final = 1.0
"""Seconds a connection is given up before its provider does: as with the 4 s below, what is written
must have arrived by then. Also by way of Tor, where a way takes half a second."""


TROUBLE_SECONDS: Final = 60.0
"""So long without trouble of our own, and the next one is told as a new one. Picked."""


@final
@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """Sockets now: `open` counts all of them, `idle` those that wait for a next request."""

    open: int
    idle: int


@final
class Transport:
    """One per process. `async with`, or `aclose`, closes the idle connections at the end.

    `idle_seconds` is how long an unused connection is kept: Routstr nodes close theirs after 5.0 s,
    and a request written to a connection that is just being closed may or may not have been read.
    A provider that says how long it waits (`Keep-Alive: timeout=3`) is left MARGIN before.

    `deadlines` are those of the attempts that run.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        idle_seconds: float = 4.0,
        max_idle_per_origin: int = 32,
    ) -> None:
        self._ssl_context = ssl_context
        self._idle_seconds = idle_seconds
        self._max_idle = max_idle_per_origin
        self._idle: dict[Origin, deque[Link]] = {}
        self._open = 0
        self._closed = False
        self._sleep = trio.CancelScope()
        self._wakes = inf
        self.deadlines = Deadlines()
        self._now = trio.lowlevel.current_clock().current_time
        self._trouble_told = -inf

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()

    async def connect(self, origin: Origin) -> Connection:
        """The connection of that origin that was used last, if it is healthy, or a new one.

        Raises ConnectFailed, or `trio.ClosedResourceError` after `aclose`. The caller owns the
        result and must `release` it; a cancelled call leaves nothing behind.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        kept = self.kept(origin)
        if kept is not None:
            return kept
        try:
            pipe = await open_pipe(origin, self._ssl_context)
        except ConnectFailed as error:
            if error.own:
                self._own_trouble(error.sentence)
            raise
        link = Link(origin, pipe)
        self._open += 1
        return Connection(link, self._take_back, reused=False)

    def kept(self, origin: Origin) -> Connection | None:
        """A healthy idle connection of that origin, if there is one. As `connect`, but at once."""
        if self._closed:
            raise trio.ClosedResourceError("the transport was closed")
        links, now = self._idle.get(origin), self._now()
        while links:
            link = links.pop()
            if link.expires > now and link.pipe.quiet():
                return Connection(link, self._take_back, reused=True)
            self._close(link)
        return None

    async def close_by_time(self) -> None:
        """Closes what has been idle for too long, when it has, until it is cancelled.

        Without it such a connection is not used again either, but open as long as nobody asks.
        """
        while True:
            idle = (link.expires for links in self._idle.values() for link in links)
            self._wakes = min(idle, default=inf)
            with trio.CancelScope(deadline=self._wakes) as self._sleep:
                await trio.sleep_forever()
            now = self._now()
            for links in self._idle.values():
                for link in [link for link in links if link.expires <= now]:
                    links.remove(link)
                    self._close(link)

    def statistics(self) -> TransportStatistics:
        """How many sockets there are."""
        return TransportStatistics(self._open, sum(map(len, self._idle.values())))

    async def aclose(self) -> None:
        """Closes the idle connections. Those in use are closed when their owners release them."""
        self._closed = True
        for links in self._idle.values():
            while links:
                self._close(links.pop())
        await trio.lowlevel.checkpoint()

    def _own_trouble(self, sentence: str) -> None:
        """Says once that no provider is to blame, not with each of its thousand requests."""
        now = self._now()
        began, self._trouble_told = self._trouble_told + TROUBLE_SECONDS <= now, now
        if began:
            log.warning("providers cannot be reached, and none is to blame: %s", sentence)

    def _take_back(self, link: Link, reusable: bool) -> None:
        seconds = min(self._idle_seconds, link.promised - MARGIN)
        if self._closed or not reusable or seconds <= 0:
            self._close(link)
            return
        link.expires = self._now() + seconds
        if link.expires < self._wakes:
            self._wakes = self._sleep.deadline = link.expires
        links = self._idle.get(link.origin)
        if links is None:
            links = self._idle[link.origin] = deque()
        links.append(link)
        if len(links) > self._max_idle:
            self._close(links.popleft())

    def _close(self, link: Link) -> None:
        self._open -= 1
        link.pipe.close()

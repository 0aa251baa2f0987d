"""Accepting connections: all that wait, in one turn of the scheduler.

Trio accepts one a turn. While five hundred streams keep the process busy a turn takes 50 ms, and
who came then waited seconds for nothing but to be let in: 5.4 s until the first event at p99, and
0.6 s with this (measured).
"""

import errno
import logging
import socket
from collections import deque
from math import inf
from typing import Final, final

import trio

log = logging.getLogger(__name__)

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What there is too little of here: whoever waits to be let in waits until there is more."""

PAUSE_SECONDS: Final = 0.1
"""Between two tries meanwhile (Trio's value)."""

QUIET_SECONDS: Final = 60.0
"""Between two lines about a shortage, which may come and go with each connection; picked."""

BACKLOG: Final = 0xFFFF
"""Connections that may wait to be accepted; the system has a limit of its own, and takes that."""

MOST: Final = 64
"""Connections accepted in one turn; picked."""

MOST_OF_SHARED: Final = 1
"""The same where several processes accept from one socket: the others wake as well."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen, for processes that are to share them; one an address of the host.

    As `trio.open_tcp_listeners`, before Trio runs. Blocks. Raises `OSError`.
    """
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            each = socket.socket(family, kind, protocol)
            bound.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
            each.listen(BACKLOG)
    except BaseException:
        for each in bound:
            each.close()
        raise
    return bound


@final
class EagerListener(trio.abc.Listener[trio.SocketStream]):
    """A `trio.SocketListener` whose `accept` has a checkpoint only if nobody waits, or `most` were
    taken.

    `trio.serve_listeners` starts a task for each, so they come to no harm in here.
    """

    def __init__(self, listener: trio.SocketListener, most: int = MOST) -> None:
        self._listener = listener
        self._most = most
        self.socket = listener.socket
        # The same socket once more: Trio's own has no `accept` that does not wait.
        self._now = socket.socket(
            self.socket.family, self.socket.type, self.socket.proto, self.socket.fileno()
        )
        self._now.setblocking(False)
        self._accepted: deque[trio.SocketStream] = deque()
        self._quiet_until = 0.0

    async def accept(self) -> trio.SocketStream:
        """The next connection. Raises as Trio's listener does, but for a shortage."""
        while not self._accepted:
            try:
                self._accepted.append(await self._listener.accept())
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                self._tell(error)
                await trio.sleep(PAUSE_SECONDS)
            else:
                self._accept_others(self._most)
        return self._accepted.popleft()

    def _tell(self, error: OSError) -> None:
        # Trio's own word for it is a traceback with each try.
        now = trio.current_time()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            log.warning(
                "new connections have to wait: %s (a limit of this machine or of this process, "
                "see `ulimit -n`)",
                error.strerror,
            )

    def take_waiting(self) -> list[trio.SocketStream]:
        """All who wait, now, though nobody will be accepted any more: they may have asked already.

        Without it, their connections are reset when the listener closes.
        """
        self._accept_others(inf)
        taken = list(self._accepted)
        self._accepted.clear()
        return taken

    def _accept_others(self, most: float) -> None:
        while len(self._accepted) < most:
            try:
                connected, _ = self._now.accept()
            except OSError:
                return  # nobody waits; or there is trouble, which the next `accept` runs into
            self._accepted.append(trio.SocketStream(trio.socket.from_stdlib_socket(connected)))

    async def aclose(self) -> None:
        """Stops listening, and closes what was accepted and not asked for."""
        self._now.detach()
        while self._accepted:
            await trio.aclose_forcefully(self._accepted.popleft())
        await self._listener.aclose()

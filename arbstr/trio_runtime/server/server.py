"""All client connections of the process: accepting them, their time, and how they end.

What differs from Hypercorn 0.18 for one connection stands in connection.py; for all of them it is
this, with its tests in test_server.py:

    a bug in one connection   ends that one, with a line in the log, and not the server.
    shutdown                  Idle connections are closed in a moment: a request that is on its way
                              is answered, and is the last. The others close when they have
                              answered, or when `close_all` says so.
    one clock                 looks after the time of all connections, and none has a task for it.
"""

import logging
import math
from collections.abc import Sequence
from typing import final

import trio

from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.server.client_socket import unread_bytes
from arbstr.trio_runtime.server.connection import ClientConnection, Connections
from arbstr.trio_runtime.server.http11 import Application
from arbstr.trio_runtime.server.listener import EagerListener

log = logging.getLogger(__name__)


@final
class Server(Connections):
    """Accepts connections and ends them.

    `async with trio.open_nursery() as nursery: nursery.start_soon(server.serve)`; `stop()` closes
    the listeners and idle connections, `close_all()` the rest. `serve` returns when the last
    connection is gone.
    """

    def __init__(
        self,
        app: Application,
        listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
        **times: float,
    ) -> None:
        super().__init__(app, **times)
        self._listeners = listeners
        self._accepting = trio.CancelScope()
        self._waiting: list[trio.SocketStream] = []

    async def serve(self) -> None:
        """Accepts until `stop()`, then waits for the connections that are left."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_stalled)
            nursery.start_soon(self._end_by_time)
            async with trio.open_nursery() as connections:
                with self._accepting:
                    await trio.serve_listeners(
                        self._accept, list(self._listeners), handler_nursery=connections
                    )
                for stream in self._waiting:
                    connections.start_soon(self._accept_last, stream)
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Stops accepting; connections end as soon as they have answered."""
        self.stopping = True
        for listener in self._listeners:
            if isinstance(listener, EagerListener):
                self._waiting += listener.take_waiting()
        self._accepting.cancel()
        for connection in list(self.connections):
            connection.close_if_idle()

    def close_all(self) -> None:
        """Closes every socket that is left: clients that take nothing, answers cut short."""
        for connection in list(self.connections):
            connection.close()

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            await ClientConnection(self, stream).run()
        except Exception as error:
            log_bug(log, "a connection broke", error)

    async def _accept_last(self, stream: trio.SocketStream) -> None:
        """The same for one that still waited at the door."""
        try:
            await self._accept(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def _end_by_time(self) -> None:
        while True:
            soonest = min((each.expires for each in self.connections), default=math.inf)
            with trio.CancelScope(deadline=soonest) as self.next_look:
                await trio.sleep_forever()
            now = trio.current_time()
            for connection in list(self.connections):
                if connection.expires <= now:
                    connection.expire()

    async def _cut_stalled(self) -> None:
        while True:
            await trio.sleep(self.stall_seconds / 12)
            if self.writing:
                now, unread = trio.current_time(), unread_bytes()
                for connection in list(self.writing):
                    connection.cut_if_stalled(now, unread)

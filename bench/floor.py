"""The floor: a bare relay on Trio and h11, as little as this stack can do for one request.

    python -m bench.floor http://127.0.0.1:PORT

No routing, no retry, no log, no deadline, no check of anything; headers are passed on as they are.
Every client connection has an upstream connection of its own, both are kept alive, and what one
read brings leaves in one write.
What arbstr costs is told as a multiple of this. It ends when its standard input does.
"""

import sys
from typing import Final, final
from urllib.parse import urlsplit

import h11
import trio

RECEIVE: Final = 64 * 1024


@final
class Relay:
    """One client connection and its upstream."""

    def __init__(self, client: trio.SocketStream, host: str, port: int) -> None:
        self._client = client
        self._address = host, port
        self._authority = f"{host}:{port}".encode()
        self._down = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        """Relays requests until the client leaves."""
        async with self._client, await trio.open_tcp_stream(*self._address) as upstream:
            up = h11.Connection(h11.CLIENT)
            while (asked := await self._request()) is not None:
                request, body = asked
                wire = up.send(self._to_upstream(request, len(body))) or b""
                wire += up.send(h11.Data(data=body)) or b""
                up.send(h11.EndOfMessage())
                await upstream.send_all(wire)
                await self._answer(upstream, up)
                up.start_next_cycle()
                self._down.start_next_cycle()

    async def _request(self) -> tuple[h11.Request, bytes] | None:
        request: h11.Request | None = None
        parts: list[bytes] = []
        while True:
            event = self._down.next_event()
            if event is h11.NEED_DATA:
                self._down.receive_data(await self._client.receive_some(RECEIVE))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                return request, b"".join(parts)
            else:
                return None

    def _to_upstream(self, request: h11.Request, length: int) -> h11.Request:
        headers = [
            (name, value)
            for name, value in request.headers
            if name not in (b"host", b"connection", b"content-length", b"transfer-encoding")
        ]
        headers += [(b"host", self._authority), (b"content-length", b"%d" % length)]
        return h11.Request(method=request.method, target=request.target, headers=headers)

    async def _answer(self, upstream: trio.SocketStream, up: h11.Connection) -> None:
        wire: list[bytes] = []
        while True:
            event = up.next_event()
            if event is h11.NEED_DATA:
                if wire:
                    await self._client.send_all(b"".join(wire))
                    wire.clear()
                up.receive_data(await upstream.receive_some(RECEIVE))
            elif isinstance(event, h11.Response):
                headers = [pair for pair in event.headers if pair[0] != b"connection"]
                head = h11.Response(status_code=event.status_code, headers=headers)
                wire.append(self._down.send(head) or b"")
            elif isinstance(event, (h11.Data, h11.EndOfMessage)):
                wire.append(self._down.send(event) or b"")
                if isinstance(event, h11.EndOfMessage):
                    await self._client.send_all(b"".join(wire))
                    return
            else:
                raise ConnectionError("the provider closed its connection")


async def main(upstream: str) -> None:
    """Serves on loopback until standard input ends."""
    url = urlsplit(upstream)
    host, port = url.hostname or "127.0.0.1", url.port or 80

    async def serve(client: trio.SocketStream) -> None:
        try:
            await Relay(client, host, port).run()
        except (OSError, trio.BrokenResourceError, h11.ProtocolError):
            return  # one connection less; the load generator counts what it missed

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        own = listeners[0].socket.getsockname()[1]
        print(f"floor listens on http://127.0.0.1:{own}", flush=True)
        while await trio.lowlevel.FdStream(sys.stdin.fileno()).receive_some(1):
            pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])

"""A Nostr relay in a test's own process: a real websocket on loopback, with what it has of events.

    async with open_relay([event(urls=["https://node.example"])]) as relay:
        ...  arbstr discover --relay relay.url
        relay.heard       the texts of its clients; relay.said: it has answered the first

`says` replaces what it answers to a REQ: texts, or bytes that go out as they are.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, final

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)


def event(
    *,
    urls: Sequence[str],
    key: str = "ab" * 32,
    which: str = "node",
    at: int = 1_700_000_000,
    name: str | None = "A node",
    mints: Sequence[str] = ("https://mint.example/Bitcoin",),
    **more: object,
) -> dict[str, Any]:
    """An announcement as nodes make it."""
    tags = [["d", which], *(["u", url] for url in urls), *(["mint", mint] for mint in mints)]
    return {
        "id": "00" * 32,
        "kind": 38421,
        "pubkey": key,
        "created_at": at,
        "tags": [*tags, ["version", "0.4.5"]],
        "content": json.dumps({"name": name, "about": "serves"}),
        "sig": "11" * 64,
        **more,
    }


@final
@dataclass(slots=True)
class Relay:
    """A relay that answers every REQ alike."""

    events: Sequence[object]
    says: Sequence[str | bytes] | None = None
    refuses: int | None = None
    ends: bool = True
    cuts: int = 1 << 20  # bytes it sends at once
    url: str = ""
    heard: list[str] = field(default_factory=list)
    said: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One client."""
        machine = WSConnection(ConnectionType.SERVER)
        try:
            while data := await stream.receive_some(65_536):
                machine.receive_data(data)
                for each in machine.events():
                    await self._answer(stream, machine, each)
        except trio.BrokenResourceError:
            pass  # the client has gone

    async def _answer(self, stream: trio.SocketStream, machine: WSConnection, what: object) -> None:
        if isinstance(what, Request):
            reply = AcceptConnection() if self.refuses is None else RejectConnection(self.refuses)
            await stream.send_all(machine.send(reply))
        elif isinstance(what, TextMessage):
            self.heard.append(what.data)
            said = json.loads(what.data)
            if said[0] == "REQ":
                await self._tell(stream, machine, said[1])
        elif isinstance(what, CloseConnection):
            await stream.send_all(machine.send(what.response()))

    async def _tell(self, stream: trio.SocketStream, machine: WSConnection, name: str) -> None:
        messages = [json.dumps(["EVENT", name, each]) for each in self.events]
        if self.ends:
            messages.append(json.dumps(["EOSE", name]))
        out = machine.send(Ping(b"there?"))
        for each in messages if self.says is None else self.says:
            out += each if isinstance(each, bytes) else machine.send(TextMessage(each))
        for start in range(0, len(out), self.cuts):
            await stream.send_all(out[start : start + self.cuts])
        self.said.set()


@asynccontextmanager
async def open_relay(events: Sequence[object] = (), **how: Any) -> AsyncIterator[Relay]:
    """Serves until the block ends."""
    relay = Relay(events, **how)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, relay.serve, 0)
        relay.url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield relay
        nursery.cancel_scope.cancel()

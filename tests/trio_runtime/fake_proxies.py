"""Proxies on loopback that a test can look into: SOCKS5 and CONNECT, written by hand.

    async with open_fake_proxy("socks5", {"provider.test": port}) as fake:
        ...  proxy = fake.url
        assert fake.asked == [Asked("provider.test", 80)]

Hosts are looked up in the given table alone; the port that was asked for is only written down.
"""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Final, final

import trio

LOGIN: Final = ("someone", "CANARY pass:word/%")
"""A user and password; they need escapes in a URL."""

_QUOTED: Final = "someone:CANARY%20pass%3Aword%2F%25"


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """To whom the proxy was asked to connect: a name or an address, as it was said."""

    host: str
    port: int
    is_name: bool = True


@final
class FakeProxy:
    """A running proxy. `tunnels` counts those that are open now."""

    def __init__(
        self,
        scheme: str,
        hosts: Mapping[str, int],
        port: int,
        *,
        login: tuple[str, str] | None,
        byte_by_byte: bool,
    ) -> None:
        self.shown = f"{scheme}://127.0.0.1:{port}"
        self.url = self.shown if login is None else self.shown.replace("://", f"://{_QUOTED}@")
        self.asked: list[Asked] = []
        self.heads: list[bytes] = []
        self.tunnels = 0
        self._scheme = scheme
        self._hosts = hosts
        self._login = login
        self._byte_by_byte = byte_by_byte
        self._cut = trio.Event()

    def cut(self) -> None:
        """Closes every tunnel there is now."""
        self._cut.set()
        self._cut = trio.Event()

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection."""
        async with client:
            try:
                shake_hands = self._connect if self._scheme == "http" else self._socks
                target = await shake_hands(client)
                if target is not None:
                    async with target:
                        await self._pass_on(client, target)
            except (_Gone, trio.BrokenResourceError):
                return

    async def _socks(self, client: trio.SocketStream) -> trio.SocketStream | None:
        version, count = await exactly(client, 2)
        methods = await exactly(client, count)
        assert version == 5
        wanted = 0 if self._login is None else 2
        if wanted not in methods:
            await self._say(client, b"\x05\xff")
            return None
        await self._say(client, bytes([5, wanted]))
        if self._login is not None:
            assert await exactly(client, 1) == b"\x01"
            given = tuple([(await prefixed(client)).decode() for _ in self._login])
            await self._say(client, b"\x01\x00" if given == self._login else b"\x01\x01")
            if given != self._login:
                return None
        assert await exactly(client, 3) == b"\x05\x01\x00"
        match (await exactly(client, 1))[0]:
            case 1:
                host, is_name = str(ip_address(await exactly(client, 4))), False
            case 4:
                host, is_name = str(ip_address(await exactly(client, 16))), False
            case _:
                host, is_name = (await prefixed(client)).decode(), True
        port = int.from_bytes(await exactly(client, 2))
        target = await self._reach(Asked(host, port, is_name))
        # An address of the other family, and a name, are as good as any.
        bound = b"\x03\x04here" if is_name else b"\x04" + bytes(16)
        code = b"\x04" if target is None else b"\x00"
        await self._say(client, b"\x05" + code + b"\x00" + bound + b"\x10\x20")
        return target

    async def _connect(self, client: trio.SocketStream) -> trio.SocketStream | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await exactly(client, 1)
        self.heads.append(head)
        method, authority, _ = head.decode().split(" ", 2)
        assert method == "CONNECT"
        assert f"\r\nhost: {authority}\r\n" in head.decode().lower()
        if self._login is not None:
            basic = base64.b64encode(":".join(self._login).encode()).decode()
            if f"\r\nproxy-authorization: basic {basic.lower()}\r\n" not in head.decode().lower():
                await self._say(client, b"HTTP/1.1 407 Who?\r\nContent-Length: 4\r\n\r\nwho?")
                return None
        host, _, port = authority.rpartition(":")
        bare = host.strip("[]")
        target = await self._reach(Asked(bare, int(port), is_name=not _is_address(bare)))
        if target is None:
            await self._say(client, b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return None
        await self._say(client, b"HTTP/1.0 200 Connection established\r\nVia: 1.0 fake\r\n\r\n")
        return target

    async def _reach(self, asked: Asked) -> trio.SocketStream | None:
        self.asked.append(asked)
        port = self._hosts.get(asked.host)
        return None if port is None else await trio.open_tcp_stream("127.0.0.1", port)

    async def _say(self, client: trio.SocketStream, data: bytes) -> None:
        for piece in (
            [data[at : at + 1] for at in range(len(data))] if self._byte_by_byte else [data]
        ):
            await client.send_all(piece)

    async def _pass_on(self, client: trio.SocketStream, target: trio.SocketStream) -> None:
        self.tunnels += 1
        cut = self._cut
        try:
            async with trio.open_nursery() as nursery:

                async def copy(one: trio.SocketStream, other: trio.SocketStream) -> None:
                    try:
                        while data := await one.receive_some():
                            await other.send_all(data)
                    except trio.BrokenResourceError:
                        pass
                    nursery.cancel_scope.cancel()

                nursery.start_soon(copy, client, target)
                nursery.start_soon(copy, target, client)
                await cut.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.tunnels -= 1


class _Gone(Exception):  # noqa: N818 - a fact about the wire
    """The client closed the connection."""


async def exactly(stream: trio.SocketStream, count: int) -> bytes:
    """So many bytes. Raises _Gone."""
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            raise _Gone
        data += more
    return data


async def prefixed(stream: trio.SocketStream) -> bytes:
    """A length in one byte, and so many bytes."""
    return await exactly(stream, (await exactly(stream, 1))[0])


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@asynccontextmanager
async def open_fake_proxy(
    scheme: str,
    hosts: Mapping[str, int],
    *,
    login: tuple[str, str] | None = None,
    byte_by_byte: bool = False,
    seconds: float = 20,
) -> AsyncIterator[FakeProxy]:
    """Serves until the block ends. `hosts`: the ports of loopback that names stand for."""
    with trio.fail_after(seconds):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        fake = FakeProxy(scheme, hosts, port, login=login, byte_by_byte=byte_by_byte)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, fake.serve, listeners))
            yield fake
            nursery.cancel_scope.cancel()

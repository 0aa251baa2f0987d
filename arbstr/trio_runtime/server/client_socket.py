"""A client's socket, beneath Trio: reading and writing without waiting, and what it still holds."""

import os
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import trio
from hypercorn.trio.tcp_server import MAX_RECV


def send_queue(sock: trio.socket.SocketType) -> int | None:
    """Bytes the kernel still holds for the peer, or `None` where that cannot be known."""
    if not sys.platform.startswith("linux"):
        return None
    import fcntl
    import termios

    buffer = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, buffer)
    except (OSError, ValueError):  # the socket is closed
        return None
    return int.from_bytes(buffer, sys.byteorder)


def write_now(sock: trio.socket.SocketType, data: bytes, behind: bytes = b"") -> int:
    """How much of both the kernel takes without waiting. What is wrong shows in the write that
    waits."""
    if os.name != "posix":
        return 0  # there a socket is no file
    try:
        # trio's own `send` has no form without a checkpoint.
        return os.writev(sock.fileno(), (data, behind)) if behind else os.write(sock.fileno(), data)
    except OSError:
        return 0


async def receive(sock: trio.socket.SocketType) -> bytes:
    """Waits, then reads. Raises `OSError`, or `trio.ClosedResourceError` if we close it."""
    if os.name != "posix":
        return await sock.recv(MAX_RECV)
    # trio's own `recv` asks the kernel first, and between two requests there is never anything.
    while True:
        if sock.fileno() < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(sock)
        try:
            return os.read(sock.fileno(), MAX_RECV)
        except BlockingIOError:
            continue


def receive_now(sock: trio.socket.SocketType, most: int) -> bytes | None:
    """What is there, up to `most` bytes; None if that is nothing, or broken: the read that waits
    tells which."""
    if os.name == "posix":
        with suppress(OSError):
            return os.read(sock.fileno(), most)
    return None


def unread_bytes() -> Mapping[tuple[str, str], str]:
    """What local sockets hold unread, by their own and their peer's address as `/proc` writes them.

    A client on this machine that reads a little now and then is not seen to do so from our side:
    its kernel tells of new room only when there is much of it (64 kB over loopback, measured).
    """
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table) as lines:
            for line in lines:
                _, own, peer, _, queues, *_ = line.split(maxsplit=5)
                found[own, peer] = queues
    return found


def proc_address(address: tuple[Any, ...]) -> str:
    """A socket's address as `/proc/net/tcp` writes it: words of 32 bits in the machine's order."""
    host, port = address[0].partition("%")[0], address[1]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"

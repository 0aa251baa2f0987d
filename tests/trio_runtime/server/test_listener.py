"""A listener that lets in everybody who waits."""

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import assert_checkpoints, assert_no_checkpoints

from arbstr.trio_runtime.server.listener import MOST, EagerListener


@asynccontextmanager
async def listening(clients: int) -> AsyncIterator[tuple[EagerListener, list[socket.socket]]]:
    """A listener, and clients that wait at its door."""
    async with AsyncExitStack() as stack:
        (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=200)
        listener = await stack.enter_async_context(EagerListener(plain))
        address = listener.socket.getsockname()
        # Without a checkpoint: the kernel completes the handshakes.
        yield (
            listener,
            [stack.enter_context(socket.create_connection(address)) for _ in range(clients)],
        )


async def accept(listener: EagerListener) -> str:
    """Lets the next one in, and says who it was."""
    async with await listener.accept() as stream:
        await stream.send_all(b"welcome")
        return str(stream.socket.getpeername())


async def test_all_who_wait_are_accepted_in_one_turn() -> None:
    async with listening(5) as (listener, clients):
        streams = []
        with assert_checkpoints():
            streams.append(await listener.accept())
        for _ in range(4):
            with assert_no_checkpoints():
                streams.append(await listener.accept())
        assert [stream.socket.getpeername() for stream in streams] == [
            client.getsockname() for client in clients
        ]
        for stream, client in zip(streams, clients, strict=True):
            await stream.send_all(b"welcome")
            assert client.recv(10) == b"welcome"
            await stream.aclose()
        with trio.move_on_after(0) as scope:
            await listener.accept()
        assert scope.cancelled_caught


async def test_others_get_a_turn_before_a_crowd_is_all_in() -> None:
    async with listening(MOST + 1) as (listener, _):
        for number in range(MOST + 1):
            if number % MOST == 0:
                with assert_checkpoints():
                    stream = await listener.accept()
            else:
                with assert_no_checkpoints():
                    stream = await listener.accept()
            await trio.aclose_forcefully(stream)


async def test_trouble_with_the_others_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(self: socket.socket) -> None:
        raise OSError(errno.EMFILE, "no more")

    monkeypatch.setattr(socket.socket, "accept", no_more)  # ours; Trio has taken its own before
    async with listening(3) as (listener, _):
        people = set()
        for _ in range(3):
            with assert_checkpoints():
                people.add(await accept(listener))
        assert len(people) == 3


async def test_a_shortage_of_descriptors_is_one_line_and_whoever_waits_is_let_in(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with listening(2) as (listener, _):
        accept_one, failures = listener._listener.accept, [errno.EMFILE] * 50 + [errno.ENFILE]

        async def short() -> trio.SocketStream:
            await trio.lowlevel.checkpoint()
            if failures:
                number = failures.pop()
                raise OSError(number, os.strerror(number))
            return await accept_one()

        monkeypatch.setattr(listener._listener, "accept", short)
        assert len({await accept(listener) for _ in range(2)}) == 2
        (line,) = caplog.records
        assert (line.levelname, line.exc_info) == ("WARNING", None)
        assert "open files" in line.getMessage()
        await trio.sleep(60)
        failures.append(errno.EMFILE)
        with trio.move_on_after(1):
            await listener.accept()
        assert len(caplog.records) == 2


async def test_other_trouble_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise OSError(errno.EINVAL, "no listener")

    async with listening(0) as (listener, _):
        monkeypatch.setattr(listener._listener, "accept", broken)
        with pytest.raises(OSError, match="no listener"):
            await listener.accept()


async def test_whoever_was_accepted_and_not_asked_for_is_closed_with_it() -> None:
    async with listening(3) as (listener, clients):
        first = await listener.accept()
        await listener.aclose()
        assert [client.recv(1) for client in clients[1:]] == [b"", b""]
        assert listener.socket.fileno() == -1
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
        await first.aclose()

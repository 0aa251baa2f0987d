"""The attempts' deadlines: who waits at a pipe is told when its time is over, and loses nothing."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.errors import LocalProtocolError
from arbstr.trio_runtime.upstream.deadlines import Deadlines
from arbstr.trio_runtime.upstream.pipe import Pipe, TooLate

Wait = Callable[[Pipe], Awaitable[None]]

WAITS: Final = (Pipe.wait_readable, Pipe.wait_either)


class Wire:
    """A pipe whose peer takes nothing and says what it is told to."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.pipe = Pipe(ours)
        with suppress(BlockingIOError):
            while True:
                self.pipe.send_nowait(memoryview(b"x" * 65536))


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    pair = Wire()
    yield pair
    pair.pipe.close()
    pair.peer.close()


@pytest.fixture
async def clock() -> AsyncIterator[Deadlines]:
    deadlines = Deadlines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await wait_all_tasks_blocked()
        yield deadlines
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wait", [*WAITS, Pipe.wait_writable])
async def test_who_waits_is_told_at_its_time(
    autojump_clock: MockClock, clock: Deadlines, wire: Wire, wait: Wait
) -> None:
    began = trio.current_time()
    deadline = clock.begin(wire.pipe, 3.0)
    with pytest.raises(TooLate):
        await wait(wire.pipe)
    assert trio.current_time() - began == pytest.approx(3.0)
    deadline.end()


@pytest.mark.parametrize("wait", WAITS)
async def test_whoever_waits_next_reads_what_came(
    autojump_clock: MockClock, clock: Deadlines, wire: Wire, wait: Wait
) -> None:
    deadline = clock.begin(wire.pipe, 3.0)
    with pytest.raises(TooLate):
        await wait(wire.pipe)
    deadline.end()
    wire.peer.send(b"late")
    await wait(wire.pipe)
    assert wire.pipe.receive_nowait() == b"late"


async def test_what_has_arrived_is_left_where_it_is_once_it_is_late(
    autojump_clock: MockClock, clock: Deadlines, wire: Wire
) -> None:
    deadline = clock.begin(wire.pipe, 3.0)
    await trio.sleep(4.0)
    wire.peer.send(b"late")
    for _ in range(2):
        with pytest.raises(TooLate):
            await wire.pipe.wait_readable()
    deadline.end()
    await wire.pipe.wait_readable()
    assert wire.pipe.receive_nowait() == b"late"


async def test_the_end_of_the_peer_is_no_news_either_once_it_is_late(
    autojump_clock: MockClock, clock: Deadlines, wire: Wire
) -> None:
    wire.peer.close()
    await wire.pipe.wait_readable()
    assert wire.pipe.receive_nowait() == b""
    deadline = clock.begin(wire.pipe, 3.0)
    await wire.pipe.wait_readable()
    await trio.sleep(4.0)
    with pytest.raises(TooLate):
        await wire.pipe.wait_readable()
    deadline.end()


async def test_what_was_in_time_bothers_nobody_afterwards(
    autojump_clock: MockClock, clock: Deadlines, wire: Wire
) -> None:
    began = trio.current_time()
    clock.begin(wire.pipe, 3.0).end()
    second = clock.begin(wire.pipe, 10.0)
    with pytest.raises(TooLate):
        await wire.pipe.wait_readable()
    assert trio.current_time() - began == pytest.approx(10.0)
    second.end()
    with trio.move_on_after(100) as waiting:
        await wire.pipe.wait_readable()
    assert waiting.cancelled_caught


async def test_each_passes_at_its_own_time(autojump_clock: MockClock, clock: Deadlines) -> None:
    began, told = trio.current_time(), list[tuple[float, float]]()

    async def wait(seconds: float) -> None:
        wire = Wire()
        deadline = clock.begin(wire.pipe, seconds)
        with pytest.raises(TooLate):
            await wire.pipe.wait_readable()
        told.append((seconds, trio.current_time() - began))
        deadline.end()
        wire.pipe.close()
        wire.peer.close()

    async with trio.open_nursery() as nursery:
        for seconds in (5.0, 1.0, 3.0, 3.0):
            nursery.start_soon(wait, seconds)
    assert [seconds for seconds, _ in told] == [1.0, 3.0, 3.0, 5.0]
    assert [after for _, after in told] == pytest.approx([1.0, 3.0, 3.0, 5.0])


async def test_one_that_moves_passes_when_it_says_then(
    autojump_clock: MockClock, clock: Deadlines, wire: Wire
) -> None:
    began = trio.current_time()
    deadline = clock.begin(wire.pipe, 3.0)
    deadline.deadline, was = trio.current_time() + 1000, deadline.deadline
    await trio.sleep(5)
    assert not wire.pipe.is_late
    deadline.deadline = was + 5
    with pytest.raises(TooLate):
        await wire.pipe.wait_readable()
    assert trio.current_time() - began == pytest.approx(8.0)
    deadline.end()


async def test_one_that_ended_does_not_come_back_by_being_moved(
    autojump_clock: MockClock, clock: Deadlines, wire: Wire
) -> None:
    deadline = clock.begin(wire.pipe, 3.0)
    deadline.end()
    deadline.deadline = trio.current_time() + 1
    await trio.sleep(5)
    assert not wire.pipe.is_late


async def test_a_closed_pipe_is_not_late(
    autojump_clock: MockClock, clock: Deadlines, wire: Wire
) -> None:
    deadline = clock.begin(wire.pipe, 3.0)

    async def close() -> None:
        await wait_all_tasks_blocked()
        wire.pipe.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(trio.ClosedResourceError):
            await wire.pipe.wait_readable()
    deadline.end()


async def test_a_clock_that_nobody_looks_at_takes_no_deadline(wire: Wire) -> None:
    with pytest.raises(LocalProtocolError):
        Deadlines().begin(wire.pipe, 3.0)

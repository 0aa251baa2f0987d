"""A worker's post: its orders, what it asks its siblings, and what it says if they say nothing."""

import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from arbstr.sansio.dialects.dialect import Stored
from arbstr.sansio.fates import BEAT_SECONDS
from arbstr.sansio.money import Usage
from arbstr.sansio.routing.budget import Reservation, day_of
from arbstr.sansio.routing.origins import Origin
from arbstr.trio_runtime import stopping
from arbstr.trio_runtime import worker as module
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.leases import Leases
from arbstr.trio_runtime.stopping import Stopping
from arbstr.trio_runtime.worker import Lines, Worker, line_of
from tests.proxy import Proxy, config, open_proxy, provider

LIMITED: Final = config(
    provider("alpha", "http://127.0.0.1:9/v1"), more="[budget]\nsats_per_day = 100\n"
)


@pytest.fixture(autouse=True)
def _no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would end the tests."""
    monkeypatch.setattr(stopping, "_start_watchdog", lambda seconds, code: None)


class Parent:
    """The other end of a worker's post."""

    def __init__(self, post: socket.socket) -> None:
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(post))
        self._lines = Lines()
        self._read: list[dict[str, Any]] = []

    async def say(self, **message: Any) -> None:
        await self.stream.send_all(line_of(message))

    async def next(self) -> dict[str, Any]:
        """What it says next, beside that it lives."""
        while True:
            said = await self.any()
            if "beat" not in said:
                return said

    async def any(self) -> dict[str, Any]:
        while not self._read:
            self._read += self._lines.feed(bytes(await self.stream.receive_some()))
        return self._read.pop(0)


async def nothing() -> AsyncIterator[int]:
    """No signal comes."""
    await trio.sleep_forever()
    yield 0


@asynccontextmanager
async def open_worker(number: int = 1) -> AsyncIterator[tuple[Worker, Parent, Stopping]]:
    ours, theirs = socket.socketpair()
    worker, parent, stops = Worker(number, (), theirs), Parent(ours), Stopping(30.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, stops, nothing())
        yield worker, parent, stops
        nursery.cancel_scope.cancel()
        await parent.stream.aclose()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_messages_come_whole_whatever_the_cutting(size: int) -> None:
    told = [{"ask": 1, "what": "health"}, {"told": 2, "report": {"text": "a\nb \u00e9"}}, {}]
    data = b"".join(map(line_of, told))
    lines, found = Lines(), []
    for at in range(0, len(data), size):
        found += lines.feed(data[at : at + size])
    assert found == told


async def test_it_stops_once_however_often_it_is_told_and_hurries_when_that_is_said() -> None:
    async with open_worker() as (_, parent, stops):
        await parent.say(word="stop", why="SIGTERM")
        await parent.say(word="stop", why="SIGTERM")
        await stops.asked.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not stops.hurried.is_set()
        await parent.say(word="hurry", why="SIGTERM")
        await stops.hurried.wait()
        assert stops.name == "SIGTERM"
    async with open_worker() as (_, parent, stops):
        await parent.say(word="hurry", why="SIGINT")
        await stops.hurried.wait()


async def test_a_signal_of_its_own_and_its_parents_word_are_one() -> None:
    async def twice() -> AsyncIterator[int]:
        yield signal.SIGTERM
        yield signal.SIGTERM
        await trio.sleep_forever()

    ours, theirs = socket.socketpair()
    worker, parent, stops = Worker(1, (), theirs), Parent(ours), Stopping(30.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, stops, twice())
        await stops.asked.wait()
        await parent.say(word="stop", why="SIGTERM")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not stops.hurried.is_set()
        await parent.say(word="hurry", why="SIGTERM")
        await stops.hurried.wait()
        nursery.cancel_scope.cancel()
    await parent.stream.aclose()


async def test_it_says_that_it_lives_and_no_more_while_nobody_reads_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_worker(3) as (worker, parent, _):
        began = trio.current_time()
        assert [await parent.any() for _ in range(4)] == [{"beat": 3}] * 4
        assert trio.current_time() - began == 3 * BEAT_SECONDS
        worker._put({"node": ["x" * 10_000_000, ""]})
        await trio.sleep(100 * BEAT_SECONDS)
        assert len(worker._outgoing) <= 1


async def test_a_parent_that_is_gone_is_as_good_as_its_word() -> None:
    async with open_worker() as (_, parent, stops):
        await parent.stream.aclose()
        await stops.asked.wait()


async def test_what_it_does_not_understand_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with open_worker() as (_, parent, stops):
        await parent.say(strange=1)
        await parent.say(ask=1, what="health")  # `from` is missing
        await parent.say(word="stop", why="SIGTERM")
        await stops.asked.wait()
    assert caplog.text.count("was not understood") == 2


def joined(worker: Worker, proxy: Proxy, boot_id: str = "mine") -> None:
    worker.join(proxy.hub, boot_id)
    worker.ready()


async def test_siblings_are_told_what_it_has_seen_and_it_believes_them() -> None:
    async with open_worker() as (worker, parent, _), open_proxy(LIMITED) as proxy:
        joined(worker, proxy)
        assert await parent.next() == {"ready": 1}
        (alpha,) = proxy.hub.snapshot.catalog.providers
        assert proxy.hub.kind_of(alpha) == "openai"
        await parent.say(node=["alpha", alpha.url])
        await parent.say(ask=7, what="providers", **{"from": 2})
        told = await parent.next()
        assert (told["told"], told["to"], told["by"]) == (7, 2, 1)
        assert told["report"]["providers"][0]["kind"] == "routstr"
        proxy.hub.showed_itself(alpha, "a request")
        proxy.hub.is_node("other", "http://other")
        assert proxy.hub.kind_of(alpha) == "routstr"


async def test_who_keeps_an_answer_is_known_to_all() -> None:
    """A client's next request may come to another worker, and can be answered by that one alone."""
    async with open_worker() as (worker, parent, _), open_proxy(LIMITED) as proxy:
        joined(worker, proxy)
        await parent.next()
        await parent.say(stored=[["resp_1"], ["item_1"], "alpha", "gpt-4o", [10, 5]])
        await parent.say(stored=[["resp_2"], [], "alpha", "gpt-4o", None])
        proxy.hub.learn_stored(Stored(("resp_3",), ("item_3",)), "alpha", "gpt-4o", Usage(1, 2))
        proxy.hub.learn_stored(Stored(("resp_4",)), "alpha", "gpt-4o", None)
        said = [await parent.next() for _ in range(2)]
        assert said == [
            {"stored": [["resp_3"], ["item_3"], "alpha", "gpt-4o", [1, 2]]},
            {"stored": [["resp_4"], [], "alpha", "gpt-4o", None]},
        ]
        await parent.say(ask=1, what="budget", **{"from": 2})
        await parent.next()  # so that what was said before is read
        origins = proxy.hub.origins
        assert origins.of("resp_1") == Origin("alpha", "gpt-4o", 15)
        assert origins.of("item_1") == Origin("alpha", "gpt-4o", 5)
        assert origins.of("resp_2") == Origin("alpha", "gpt-4o", 0)


async def test_one_that_is_started_later_knows_what_the_others_saw() -> None:
    ours, theirs = socket.socketpair()
    async with open_proxy(LIMITED) as proxy:
        (alpha,) = proxy.hub.snapshot.catalog.providers
        worker = Worker(2, (), theirs, [("alpha", alpha.url)])
        worker.join(proxy.hub, "mine")
        assert proxy.hub.kind_of(alpha) == "routstr"
    ours.close()
    theirs.close()


async def answered(parent: Parent, *siblings: dict[str, Any], silent: int = 0) -> None:
    """Plays the parent and the siblings 2, 3, ... to one question; `silent` more say nothing."""
    asked = await parent.next()
    number = asked["ask"]
    count = 1 + len(siblings) + silent
    who = [{"worker": each + 1, "pid": 100 + each, "state": "serving"} for each in range(count)]
    for by, report in enumerate(siblings, 2):
        await parent.say(told=number, by=by, report=report)
    await parent.say(who=number, workers=who)
    await parent.say(told=number + 1000, by=2, report={})  # to a question that nobody waits for


async def test_the_day_is_what_all_have_and_the_ledger_says_of_others(tmp_path: Path) -> None:
    async with (
        open_worker() as (worker, parent, _),
        open_database(str(tmp_path / "arbstr.db")) as mine,
        open_database(str(tmp_path / "arbstr.db")) as other,
        open_proxy(LIMITED) as proxy,
        trio.open_nursery() as nursery,
    ):
        hub = proxy.hub
        hub.today = leases = Leases(hub.budget, mine)
        joined(worker, proxy, mine.boot_id)
        await parent.next()
        # Another process of the day, which has spent 7 of it, and is none of the siblings.
        gone = Leases(hub.budget, other)
        hub.budget.correct(time.time(), Decimal(0), Decimal(7))
        await gone.read()
        await gone.close()
        hub.budget.correct(time.time(), Decimal(7), Decimal(2))
        await leases.read()
        sibling = {"day": ["another", "1.5", "0.25"]}
        nursery.start_soon(answered, parent, sibling)
        day = await worker.budget()
        assert day is not None
        assert (day["limit"], day["spent"], day["set_aside"]) == (100.0, 10.5, 0.25)
        hub.budget.correct(time.time(), Decimal(2), Decimal(0))
        hub.today = None


async def test_a_mark_of_the_day_is_told_once_all_have_spent_so_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others have in hand counts as spent in what a worker knows, and is not: it asks them."""
    monkeypatch.setattr(module, "MARK_SECONDS", 0.0)
    async with (
        open_worker() as (worker, parent, _),
        open_database(str(tmp_path / "arbstr.db")) as mine,
        open_proxy(LIMITED) as proxy,
    ):
        hub = proxy.hub
        hub.today = leases = Leases(hub.budget, mine)
        joined(worker, proxy, mine.boot_id)
        await parent.next()
        await leases.read()

        def paid(sats: int) -> None:
            reservation = hub.budget.reserve(Decimal(0), time.time())
            assert isinstance(reservation, Reservation)
            hub.book(reservation, Decimal(sats))

        paid(20)  # a fifth: nobody need be asked
        hub.budget.give(day_of(time.time()), Decimal(100), Decimal(70))
        paid(0)
        await answered(parent, {"day": ["another", "50", "0"]})
        paid(0)
        await answered(parent, {"day": ["another", "61.5", "0"]})
        told = await parent.next()
        assert told == {
            "mark": [day_of(time.time()), "100.0", "MOST"],
            "line": told["line"],
        }
        assert told["line"].startswith("budget: 80 % of the 100 sats of today are spent (81.5); ")
        hub.today = None


async def test_a_sibling_that_says_nothing_keeps_nobody_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bare = config(provider("alpha", "http://127.0.0.1:9/v1"))
    async with (
        open_worker() as (worker, parent, _),
        open_proxy(bare) as proxy,
        trio.open_nursery() as nursery,
    ):
        joined(worker, proxy)
        await parent.next()
        nursery.start_soon(lambda: answered(parent, silent=1))
        found = await worker.health()
        assert [each["status"] for each in found["workers"]] == ["ok", "silent"]
        assert "budget" not in found
        # Not even the parent does.
        found = await worker.providers()
        assert [each["worker"] for each in found["workers"]] == [1]

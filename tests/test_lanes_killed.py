"""What a killed arbstr had running on lanes is told by them after the start, each exactly.

A kill is a copy of all that lies on disk while requests are in flight: what a process that died
just then would have left. Another arbstr starts with it, at the same node.
"""

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from arbstr.sansio.ledger.lanes import State
from arbstr.trio_runtime.ledger.checkpoints import NotNow, Taken
from tests.fakes import Behaviour, Request, json_answer, open_fake_provider
from tests.node import Node
from tests.proxy import Proxy, config, open_proxy, provider, rows
from tests.test_prices import KEY
from tests.test_soak import QUICK

TOP: Final = (
    "[timeouts]\nfirst_output = 60\nanswer = 60\nidle = 60\n[breaker]\nfailures = 1000\n"
    "[retry]\nrepeat_guard = 0\nmax_retries = 0\nreconcile_seconds = 0\n"
)

PAID, FREE, LOST = "reset before the head", "dies, and takes nothing", "closed before the head"
"""What becomes of a request at the node: charged, given back, or held until it is restarted."""

COSTS: Final = {PAID: ("spent", 0.5), FREE: ("free", 0), LOST: ("free", 0)}


@pytest.fixture(autouse=True)
def _nothing_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


def quick(patch: pytest.MonkeyPatch) -> None:
    for name, seconds in QUICK.items():
        patch.setattr(name, seconds)


class Town:
    """A node that keeps its answers to itself, and an arbstr on it, which is killed."""

    def __init__(self, directory: Path, lanes: int) -> None:
        self.node = Node()
        self.directory = directory
        self.lanes = lanes
        self.never = trio.Event()
        self.text = ""
        self.lives = 0

    @property
    def ledger(self) -> Path:
        """That of the life there is now."""
        return self.directory / str(self.lives) / "arbstr.db"

    def serve(self, request: Request) -> Behaviour:
        """Chats are booked and not answered."""
        does = self.node.serve(request)
        if not request.path.endswith("/chat/completions"):
            return does
        return json_answer({}, before=[self.never])

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Proxy]:
        self.ledger.parent.mkdir(exist_ok=True)
        async with open_proxy(self.text, database=self.ledger, books=True) as proxy:
            yield proxy

    def kill(self) -> None:
        """From now on the disk is that of a process which died at this moment."""
        before = self.ledger.parent
        self.lives += 1
        shutil.copytree(before, self.ledger.parent)

    async def ask(self, proxy: Proxy, faults: Sequence[str], nursery: trio.Nursery) -> None:
        """A request for each, one after the other, none of which ends."""
        for fault in faults:
            self.node.only(fault)
            count = len(self.node.visits)
            nursery.start_soon(left_alone, proxy)
            await until(partial(self._has_read, count + 1))

    def _has_read(self, count: int) -> bool:
        return len(self.node.visits) >= count


async def left_alone(proxy: Proxy) -> None:
    async with proxy.asking():
        await trio.sleep_forever()


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(20):
        # Neither a node nor a lane has an event of its own.
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.005)


@asynccontextmanager
async def town_in(directory: Path, lanes: int = 3) -> AsyncIterator[Town]:
    town = Town(directory, lanes)
    async with open_fake_provider(town.serve) as fake:
        one = provider("node", fake.url, kind="routstr", key=KEY, more=f"lanes = {lanes}")
        town.text = config(one, more=TOP)
        yield town


def states(proxy: Proxy) -> list[State]:
    assert proxy.hub.lanes is not None
    return [way.lane.state for way in proxy.hub.lanes._ways["node"]]


async def checked(proxy: Proxy) -> Taken | NotNow:
    assert proxy.hub.accounts is not None
    (its,) = proxy.hub.snapshot.catalog.providers
    return await proxy.hub.accounts.check(its)


async def first_look(town: Town, proxy: Proxy) -> None:
    """All lanes are there, and what the key was charged is known."""
    await until(lambda: states(proxy).count(State.FREE) == town.lanes)
    with trio.fail_after(10):
        while not isinstance(await checked(proxy), Taken):  # noqa: ASYNC110
            await trio.sleep(0.005)


async def killed_while(town: Town, faults: Sequence[str]) -> None:
    async with town.life() as proxy, trio.open_nursery() as nursery:
        await first_look(town, proxy)
        await town.ask(proxy, faults, nursery)
        town.kill()
        nursery.cancel_scope.cancel()


def told(town: Town) -> list[dict[str, Any]]:
    return rows(town.ledger, "attempts")


async def test_each_of_several_gets_its_own_price_and_none_a_share(tmp_path: Path) -> None:
    async with town_in(tmp_path) as town:
        await killed_while(town, (PAID, FREE, LOST))
        async with town.life() as proxy:
            await until(lambda: states(proxy).count(State.PARKED) == 1)
            assert await checked(proxy) == NotNow("has lanes that are still to tell")
            town.node.bank.restart()
            await first_look(town, proxy)
    costs = [(row["money"], row["cost_sats"], row["settled"]) for row in told(town)]
    assert costs == [("spent", 0.5, "lane"), ("free", 0, "lane"), ("free", 0, "lane")]
    requests = rows(town.ledger)
    assert {row["status"] for row in requests} == {"abandoned"}
    assert [row["possibly_spent"] for row in requests] == [1, 0, 0]


async def test_no_request_is_on_a_lane_before_it_has_told(tmp_path: Path) -> None:
    async with town_in(tmp_path, lanes=1) as town:
        await killed_while(town, (LOST,))
        async with town.life() as proxy, trio.open_nursery() as nursery:
            await until(lambda: states(proxy) == [State.PARKED])
            await town.ask(proxy, (PAID,), nursery)
            assert states(proxy) == [State.PARKED]
            town.kill()
            nursery.cancel_scope.cancel()
        async with town.life() as proxy:
            town.node.bank.restart()
            await first_look(town, proxy)
    on_lane, on_key = told(town)
    assert (on_lane["cost_sats"], on_lane["settled"], on_lane["lane"] is None) == (0, "lane", False)
    assert (on_key["cost_sats"], on_key["settled"], on_key["lane"]) == (0.5, "checkpoint", None)


async def test_a_second_kill_before_a_lane_has_told_changes_nothing(tmp_path: Path) -> None:
    async with town_in(tmp_path, lanes=2) as town:
        await killed_while(town, (LOST, LOST))
        async with town.life() as proxy:
            await until(lambda: states(proxy) == [State.PARKED] * 2)
            town.kill()
        town.node.bank.restart()
        async with town.life() as proxy:
            await first_look(town, proxy)
    assert [(row["cost_sats"], row["settled"]) for row in told(town)] == [(0, "lane")] * 2


async def test_fewer_lanes_than_before_leave_nothing_open(tmp_path: Path) -> None:
    async with town_in(tmp_path) as town:
        await killed_while(town, (PAID, FREE, PAID))
        town.text = town.text.replace("lanes = 3", "lanes = 1")
        town.lanes = 1
        async with town.life() as proxy:
            await first_look(town, proxy)
            assert len(states(proxy)) == 1
    assert [(row["cost_sats"], row["settled"]) for row in told(town)] == [
        (0.5, "lane"),
        (0, "lane"),
        (0.5, "lane"),
    ]


async def test_what_a_lane_can_tell_no_more_is_asked_once_and_left_to_a_checkpoint(
    tmp_path: Path,
) -> None:
    async with town_in(tmp_path, lanes=1) as town:
        await killed_while(town, (PAID,))
        # Somebody else used the lane meanwhile.
        (child,) = town.node.bank.accounts[KEY].children
        town.node.bank.charge(town.node.bank.reserve(child, 1), 100)  # type: ignore[arg-type]
        async with town.life() as proxy:
            await first_look(town, proxy)
            await until(lambda: told(town)[0]["lane"] is None)
    (attempt,) = told(town)
    assert (attempt["cost_sats"], attempt["settled"]) == (0.6, "checkpoint"), "what the key paid"


async def test_what_never_arrived_is_watched_for_after_a_kill_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("lane_words", "ledger.on_lanes"):
        monkeypatch.setattr(f"arbstr.trio_runtime.{module}.LATE_SECONDS", 20.0)
    async with town_in(tmp_path, lanes=1) as town:
        town.node.closes = False
        await killed_while(town, (FREE,))
        async with town.life() as proxy:
            await until(lambda: told(town)[0]["settled"] == "lane")
            town.kill()
        (child,) = town.node.bank.accounts[KEY].children
        town.node.bank.charge(town.node.bank.reserve(child, 1), 700)  # type: ignore[arg-type]
        for module in ("lane_words", "ledger.on_lanes"):
            monkeypatch.setattr(f"arbstr.trio_runtime.{module}.LATE_SECONDS", 19.0)
        monkeypatch.setattr("arbstr.trio_runtime.lane_words.LATE_SECONDS", 0.0)
        async with town.life() as proxy:
            await first_look(town, proxy)
    (attempt,) = told(town)
    assert (attempt["money"], attempt["cost_sats"], attempt["settled"]) == ("spent", 0.7, "lane")
    assert "came after all and cost 0.7 sats" in caplog.text


async def test_while_something_may_come_late_it_is_nobody_elses_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lane_words", "ledger.on_lanes"):
        monkeypatch.setattr(f"arbstr.trio_runtime.{module}.LATE_SECONDS", 1000.0)
    async with town_in(tmp_path, lanes=1) as town:
        town.node.closes = False
        # The second finds no lane: what both were charged is on the key.
        await killed_while(town, (FREE, PAID))
        async with town.life() as proxy:
            await until(lambda: told(town)[0]["settled"] == "lane")
            assert await checked(proxy) == NotNow("has lanes that are still to tell")
            town.kill()
        # So it is after the next start, too.
        (child,) = town.node.bank.accounts[KEY].children
        town.node.bank.charge(town.node.bank.reserve(child, 1), 700)  # type: ignore[arg-type]
        async with town.life() as proxy:
            assert await checked(proxy) == NotNow("has lanes that are still to tell")
            town.kill()
        monkeypatch.setattr("arbstr.trio_runtime.lane_words.LATE_SECONDS", 0.0)
        async with town.life() as proxy:
            await first_look(town, proxy)
    costs = [(row["cost_sats"], row["settled"]) for row in told(town)]
    assert costs == [(0.7, "lane"), (0.5, "checkpoint")]


@given(st.lists(st.lists(st.sampled_from(sorted(COSTS)), max_size=4), min_size=1, max_size=3))
@settings(deadline=None, max_examples=5)
def test_however_often_it_is_killed_each_attempt_is_told_of_exactly(
    lives: list[list[str]],
) -> None:
    """Each life asks what it asks, and is killed; the node is started anew before the last."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as directory:
        quick(patch)
        trio.run(_lives, lives, Path(directory))


async def _lives(lives: Sequence[Sequence[str]], directory: Path) -> None:
    async with town_in(directory) as town:
        for faults in lives:
            async with town.life() as proxy, trio.open_nursery() as nursery:
                if not town.lives:
                    await first_look(town, proxy)
                await town.ask(proxy, faults, nursery)
                town.kill()
                nursery.cancel_scope.cancel()
        town.node.bank.restart()
        async with town.life() as proxy:
            await first_look(town, proxy)
    attempts, asked = told(town), [fault for faults in lives for fault in faults]
    for attempt, fault in zip(attempts, asked, strict=True):
        if attempt["settled"] == "lane":
            assert (attempt["money"], attempt["cost_sats"]) == COSTS[fault], attempt
        # Where all lanes were taken, the key itself was used.
        assert attempt["settled"] == "lane" or attempt["lane"] is None, attempt
        assert attempt["settled"] is not None, attempt
    assert sum(each["cost_sats"] for each in attempts) * 1000 == town.node.total_spent

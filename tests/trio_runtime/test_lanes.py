"""The lanes of a key, beside any request: made, kept, taken, asked, and what goes wrong with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.ledger.alarms import Sums
from arbstr.sansio.ledger.lanes import State
from arbstr.sansio.ledger.record import AttemptRow
from arbstr.sansio.routing.budget import Budget
from arbstr.sansio.routing.catalog import Provider
from arbstr.trio_runtime import lane_words as module
from arbstr.trio_runtime.accounts import Accounts
from arbstr.trio_runtime.lane_words import Way
from arbstr.trio_runtime.lanes import Lanes
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.transport import Transport
from tests.bank import Reservation
from tests.fakes import RESET_AFTER_REQUEST, Behaviour, Request, open_fake_provider
from tests.node import Node
from tests.proxy import config
from tests.records import ATTEMPT, RECORD
from tests.test_prices import KEY, node_provider
from tests.waiting import until

OTHER_KEY = "sk-" + "7e" * 32


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes late here, and nobody waits long to ask again."""
    monkeypatch.setattr("arbstr.sansio.ledger.lanes.FENCE_SECONDS", 0.0)
    for name in ("LATE_SECONDS", "LOOK_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(module, name, 0.0)


@dataclass
class Made:
    """What a test holds of the lanes of `node`. `compared` are the comparisons that were told."""

    lanes: Lanes
    provider: Provider
    node: Node
    compared: list[Sums]

    @property
    def ways(self) -> list[Way]:
        return self.lanes._ways.get("node", [])

    def states(self) -> list[State]:
        return [way.lane.state for way in self.ways]

    async def free(self, count: int) -> None:
        await until(lambda: self.states().count(State.FREE) >= count)

    def take(self) -> Way:
        way = self.lanes.take(self.provider)
        assert way is not None
        return way

    def ask(self, way: Way, charged: int | None) -> None:
        """A request on a lane that the node charges; `None`: it keeps the reservation."""
        held = self.node.bank.reserve(way.lane.key.reveal(), 300)
        assert isinstance(held, Reservation)
        if charged is not None:
            self.node.bank.charge(held, charged)

    def end(self, way: Way, **attempt: object) -> None:
        row = replace(ATTEMPT, provider="node", **attempt)  # type: ignore[arg-type]
        self.lanes.ended(replace(RECORD, attempts=(row,)), {1: way})


def snapshot_of(url: str, more: str = "", key: str = KEY) -> Snapshot:
    text = config(node_provider(url, more=more)).replace(KEY, key)
    return Snapshot.of(parse_config(text, {}))


@asynccontextmanager
async def lanes_of(
    node: Node, path: Path, more: str = "lanes = 2", *, serve: object = None
) -> AsyncIterator[tuple[Made, str]]:
    compared: list[Sums] = []
    async with (
        open_fake_provider(serve or node.serve) as fake,  # type: ignore[arg-type]
        open_database(str(path)) as database,
        open_log_writer(database) as log_writer,
        Transport() as transport,
        trio.open_nursery() as nursery,
    ):
        budget, snapshot = Budget(None), snapshot_of(fake.url, more)
        accounts = Accounts(transport, database, log_writer, budget)
        lanes = Lanes(
            *(transport, database, log_writer, budget, nursery),
            accounts=accounts,
            charged=lambda _, sums: compared.append(sums),
        )
        lanes.changed(snapshot)
        (provider,) = snapshot.catalog.providers
        yield Made(lanes, provider, node, compared), fake.url
        nursery.cancel_scope.cancel()


NO_WORD = {
    "failure": "no_answer",
    "money": "unknown",
    "cost_sats": None,
    "provider_cost_sats": None,
}


async def test_a_lane_is_taken_by_one_until_its_request_is_over(tmp_path: Path) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db") as (made, _):
        assert made.lanes.take(made.provider) is None, "they are still to be made"
        await made.free(2)
        first, second = made.take(), made.take()
        assert first.lane is not second.lane
        assert made.lanes.take(made.provider) is None
        made.ask(first, 505)
        made.end(first, provider_cost_sats=Decimal("0.505"))
        assert made.take() is first
        assert (first.lane.spent, first.lane.requests) == (505, 1)


@pytest.mark.parametrize(
    ("charged", "told"), [pytest.param(505, 505, id="paid"), pytest.param(0, 0, id="free")]
)
async def test_a_lane_settles_what_its_counters_tell(
    tmp_path: Path, charged: int, told: int
) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db") as (made, _):
        await made.free(2)
        way = made.take()
        made.ask(way, charged)
        assert await made.lanes.teller.settle(way, 10.0) == told


async def test_what_still_runs_is_waited_for_no_longer_than_a_client_waits(tmp_path: Path) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db") as (made, _):
        await made.free(2)
        way = made.take()
        made.ask(way, None)
        assert await made.lanes.teller.settle(way, 0.05) is None


async def test_a_counter_that_was_put_back_settles_nothing_at_once(tmp_path: Path) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db", "lanes = 1") as (made, _):
        await made.free(1)
        way = made.take()
        made.ask(way, 505)
        made.end(way, provider_cost_sats=Decimal("0.505"))
        way = made.take()
        made.node.bank.reset(way.lane.key.reveal())
        with trio.fail_after(10):
            assert await made.lanes.teller.settle(way, 1000.0) is None


async def test_counters_are_compared_when_a_lane_is_read_again(tmp_path: Path) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db", "lanes = 1") as (made, _):
        await made.free(1)
        way = made.take()
        made.ask(way, 505)
        made.end(way, provider_cost_sats=Decimal("0.4"))
        made.ask(made.take(), 0)
        made.end(way, failure="error_answer", money="free", provider_cost_sats=Decimal(0))
        await made.free(1)
    assert made.compared[-1] == Sums(1, Decimal("0.505"), Decimal("0.4"))


async def test_a_lane_that_is_parked_serves_nobody_until_it_tells(tmp_path: Path) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db", "lanes = 1") as (made, _):
        await made.free(1)
        way = made.take()
        made.ask(way, None)
        made.end(way, **NO_WORD)
        assert made.states() == [State.PARKED]
        assert made.lanes.take(made.provider) is None
        made.node.bank.restart()
        await made.free(1)


async def test_a_lane_that_never_tells_holds_checkpoints_up_no_longer_than_any_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELLING_SECONDS", 0.0)
    async with lanes_of(Node(), tmp_path / "arbstr.db") as (made, _):
        await made.free(2)
        way = made.take()
        made.ask(way, None)
        made.end(way, **NO_WORD)
        assert made.lanes._accounts.has_lanes_open("node")
        await until(lambda: not made.lanes._accounts.has_lanes_open("node"))
        assert way.lane.state is State.PARKED, "it is asked all the same"


async def test_after_a_reload_lanes_of_the_same_key_stay_and_those_of_another_are_made(
    tmp_path: Path,
) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db") as (made, url):
        await made.free(2)
        before = list(made.ways)
        made.lanes.changed(snapshot_of(url, "lanes = 3"))
        await made.free(3)
        assert made.ways[:2] == before
        made.lanes.changed(snapshot_of(url, "lanes = 1", OTHER_KEY))
        assert made.ways == []
        await made.free(1)
        assert made.ways[0].lane.key.reveal() in made.node.bank.accounts[OTHER_KEY].children
        made.lanes.changed(snapshot_of(url, "lanes = 3"))
        await made.free(3)
        kept = {way.lane.key.reveal() for way in made.ways}
        assert {way.lane.key.reveal() for way in before} < kept, "from the file"
        made.lanes.changed(snapshot_of(url, ""))
        assert made.ways == []
        assert len(made.node.bank.accounts[KEY].children) == 3


async def test_lanes_that_were_made_for_what_is_configured_no_more_are_not_used(
    tmp_path: Path,
) -> None:
    node = Node()
    asked = trio.Event()

    def slowly(request: Request) -> Behaviour:
        asked.set()
        return node.serve(request)

    async with lanes_of(node, tmp_path / "arbstr.db", serve=slowly) as (made, url):
        await asked.wait()
        made.lanes.changed(snapshot_of(url, "lanes = 1", OTHER_KEY))
        await made.free(1)
        await until(lambda: len(node.bank.accounts[KEY].children) == 2)
        assert [way.lane.key.reveal() for way in made.ways] == node.bank.accounts[
            OTHER_KEY
        ].children


async def test_a_node_that_breaks_off_is_no_reason_to_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db", serve=RESET_AFTER_REQUEST) as (made, _):
        await until(lambda: "gets no lanes: it broke off" in caplog.text)
        assert made.lanes.take(made.provider) is None


async def test_where_the_file_cannot_be_there_are_no_lanes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "arbstr.db.lanes").mkdir()
    node = Node()
    async with lanes_of(node, tmp_path / "arbstr.db") as (made, _):
        await until(lambda: "gets no lanes: Is a directory" in caplog.text)
        assert made.lanes.take(made.provider) is None
    assert node.asked == [], "none is made that could not be kept"


async def test_a_bug_of_ours_costs_a_lane_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with lanes_of(Node(), tmp_path / "arbstr.db", "lanes = 1") as (made, _):
        await made.free(1)
        way = made.take()

        def broken(*_: object) -> AttemptRow:
            raise ZeroDivisionError

        monkeypatch.setattr(module, "balance", broken)
        made.end(way, **NO_WORD)
        await until(lambda: "a lane was given up: ZeroDivisionError" in caplog.text)

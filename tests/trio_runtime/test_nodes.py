"""The prices of nodes: read, kept, shared through the ledger, and what goes wrong with it."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.moments import parse_moment
from arbstr.sansio.routing.prices import NodePrices
from arbstr.trio_runtime import nodes as module
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.port import Database, Trouble
from arbstr.trio_runtime.nodes import INTERVAL_SECONDS, Nodes
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.transport import Transport
from tests.fakes import Behaviour, json_answer, open_fake_provider
from tests.node import Model, Node
from tests.proxy import config, pass_time, rows
from tests.test_prices import CHEAP, node_provider
from tests.waiting import until

NOWHERE = "http://127.0.0.1:9/v1"


@dataclass
class Adopted:
    """What a catalog was told, last."""

    prices: Mapping[str, NodePrices] = field(default_factory=dict)

    def take(self, prices: Mapping[str, NodePrices], now: float) -> None:
        self.prices = prices

    def rate(self, model: str = "gpt-4o", provider: str = "node") -> float | None:
        known = self.prices.get(provider)
        if known is None or model not in known.prices:
            return None
        return round(float(known.prices[model].rates.output_rate), 6)


def snapshot_of(url: str, name: str = "node") -> Snapshot:
    return Snapshot.of(parse_config(config(node_provider(url, name)), {}))


@asynccontextmanager
async def watching(
    url: str, database: Database | None = None
) -> AsyncIterator[tuple[Nodes, Adopted]]:
    """The watch of one node, whose prices are adopted here."""
    adopted = Adopted()
    async with Transport() as transport, trio.open_nursery() as nursery:
        nodes = Nodes(transport, database, adopted.take)
        await nodes.restore(snapshot_of(url))
        nursery.start_soon(nodes.run)
        yield nodes, adopted
        nursery.cancel_scope.cancel()


async def test_what_the_last_run_knew_is_there_before_anybody_is_asked(tmp_path: Path) -> None:
    node = Node(models={"gpt-4o": CHEAP})
    async with (
        open_fake_provider(node.serve) as fake,
        open_database(str(tmp_path / "arbstr.db")) as database,
    ):
        async with watching(fake.url, database) as (nodes, adopted):
            await until(adopted.rate)
            await until(lambda: rows(tmp_path / "arbstr.db", "node_listings"))
        again = Adopted()
        async with Transport() as transport:
            nodes = Nodes(transport, database, again.take)
            await nodes.restore(snapshot_of(fake.url))
            assert again.rate() == 6
            assert nodes.silent == {}
            await nodes.restore(snapshot_of(fake.url, "renamed"))
            assert again.rate(provider="renamed") is None, "another provider's are not its own"
            assert nodes.silent == {"renamed": None}


async def test_a_price_is_a_row_if_somebody_paid_it_or_it_moved_by_a_hundredth(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    """The prices of all models move at every listing, with that of bitcoin."""
    node, database = Node(models={"gpt-4o": CHEAP}), tmp_path / "arbstr.db"
    async with open_fake_provider(node.serve) as fake, open_database(str(database)) as ledger:
        async with watching(fake.url, ledger) as (nodes, adopted):
            expected = 6.0
            for times, kept in ((1.0, 1), (1.005, 1), (1.02, 2), (1.003, 2)):
                node.move_bitcoin(times)
                expected = round(expected * times, 6)
                await pass_time(
                    mock_clock,
                    140,
                    step=2,
                    until=lambda: adopted.rate() == expected,  # noqa: B023
                )
                await wait_kept(database, adopted)
                assert len(rows(database, "node_prices")) == kept, times
            price = adopted.prices["node"].prices["gpt-4o"]
            (provider,) = snapshot_of(fake.url).catalog.providers
            nodes.use(price, provider)
            await nodes.keep_used()
        assert price.id in {row["id"] for row in rows(database, "node_prices")}


async def wait_kept(database: Path, adopted: Adopted) -> None:
    """Until the ledger has the listing that was adopted, and what goes with it."""
    fetched = adopted.prices["node"].fetched
    for _ in range(2000):
        found = rows(database, "node_listings")
        if found and abs((parse_moment(found[0]["fetched_at"]) or 0) / 1000 - fetched) < 0.002:
            return
        await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(lambda: None)
    raise AssertionError("it was not kept")


async def test_who_shares_the_ledger_takes_what_another_has_just_read(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(models={"gpt-4o": CHEAP})
    async with (
        open_fake_provider(node.serve) as fake,
        open_database(str(tmp_path / "arbstr.db")) as database,
        watching(fake.url, database) as (_, one),
    ):
        await pass_time(mock_clock, 5, until=lambda: one.rate() == 6)
        await wait_kept(tmp_path / "arbstr.db", one)
        mock_clock.jump(INTERVAL_SECONDS / 2)  # so that they are not due at the same time
        async with watching(fake.url, database) as (_, two):
            assert two.rate() == 6
            # What it knows from the ledger is of this moment; so it asks like anybody at a start.
            await pass_time(mock_clock, 5, until=lambda: node.listings == 2)
            node.move_bitcoin(1.4)
            # The first takes what the other has read, and so it is that one's turn.
            for adopted in (two, one):
                await pass_time(
                    mock_clock,
                    2 * INTERVAL_SECONDS,
                    step=2,
                    until=lambda: adopted.rate() == 8.4,  # noqa: B023
                )
                await wait_kept(tmp_path / "arbstr.db", adopted)
            assert node.listings == 3
            assert one.prices["node"].prices["gpt-4o"].id == two.prices["node"].prices["gpt-4o"].id


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (json_answer({"data": 7}), "answered"),
        (json_answer({"error": "no"}, 404), "answered status 404 at /models"),
    ],
)
async def test_a_node_that_lists_nothing_of_use_says_why(answer: Behaviour, why: str) -> None:
    async with open_fake_provider(answer) as fake, watching(fake.url) as (nodes, adopted):
        with trio.fail_after(10):
            await nodes.wait_first()
        (provider,) = snapshot_of(fake.url).catalog.providers
        trouble = nodes.trouble_of(provider)
        assert trouble == nodes.silent["node"]
        assert why in (trouble or "")
        assert adopted.rate() is None


async def test_a_bug_of_ours_ends_no_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "list_models", broken)
    async with watching(NOWHERE) as (nodes, _):
        with trio.fail_after(10):
            await nodes.wait_first()
        assert nodes.silent == {"node": "could not be understood"}
    assert "the prices of a node were not read: ZeroDivisionError" in caplog.text


async def test_after_a_reload_new_nodes_are_asked_and_old_ones_forgotten() -> None:
    first, second = (Node(models={name: CHEAP}) for name in ("one", "two"))
    async with (
        open_fake_provider(first.serve) as one,
        open_fake_provider(second.serve) as two,
        watching(one.url) as (nodes, adopted),
    ):
        await until(lambda: adopted.rate("one"))
        (before,) = snapshot_of(one.url).catalog.providers
        assert nodes.asks(before)
        nodes.changed(snapshot_of(two.url))
        assert adopted.rate("one") is None, "another URL is another node"
        assert not nodes.asks(before)
        assert nodes.prices_of(before) is None
        await until(lambda: adopted.rate("two"))
        nodes.changed(snapshot_of(two.url))
        assert adopted.rate("two") == 6, "what stayed is not asked anew"
        assert second.listings == 1


async def test_a_ledger_that_cannot_be_used_keeps_no_price_from_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(models={"gpt-4o": Model(0.002, 0.006)})

    async def trouble(*_: Any, **__: Any) -> Any:
        raise Trouble("database is locked")

    async with (
        open_fake_provider(node.serve) as fake,
        open_database(str(tmp_path / "arbstr.db")) as database,
    ):
        monkeypatch.setattr(database, "transaction", trouble)
        monkeypatch.setattr(database, "read", trouble)
        with caplog.at_level(logging.WARNING):
            async with watching(fake.url, database) as (_, adopted):
                await until(lambda: adopted.rate() == 6)
                await until(lambda: "cannot be kept (database is locked)" in caplog.text)
    assert "the last prices of nodes cannot be read (database is locked)" in caplog.text

"""What nodes state, should state and charge: compared, said, and answered as configured."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.cli import commands as cli
from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.config.reload import change
from arbstr.sansio.ledger.alarms import WINDOW
from arbstr.trio_runtime.ledger.checkpoints import Taken
from arbstr.trio_runtime.snapshot import Snapshot
from tests.fakes import FakeProvider, open_fake_provider
from tests.node import Node
from tests.proxy import Proxy, config, open_proxy, rows
from tests.test_prices import CHEAP, KEY, node_provider


def dear_node() -> Node:
    """Takes twice what it lists."""
    node = Node(models={"gpt-4o": CHEAP, "other": CHEAP})
    node.takes = 2
    return node


def text_of(url: str, more: str) -> str:
    return config(node_provider(url, more=more), more="[retry]\nrepeat_guard = 0\n")


@asynccontextmanager
async def serving(
    node: Node, database: Path, more: str = ""
) -> AsyncIterator[tuple[Proxy, FakeProvider, str]]:
    async with open_fake_provider(node.serve) as fake:
        text = text_of(fake.url, more)
        async with open_proxy(text, database=database, books=True) as proxy:
            await checkpoint(proxy)
            yield proxy, fake, text


async def ask(proxy: Proxy, times: int = WINDOW) -> None:
    for _ in range(times):
        assert (await proxy.chat()).status == 200


async def checkpoint(proxy: Proxy) -> Taken:
    assert proxy.hub.accounts is not None
    await proxy.wait_idle()
    (provider,) = proxy.hub.snapshot.catalog.providers
    found = await proxy.hub.accounts.compare(provider)
    assert isinstance(found, Taken), found
    return found


async def shown(proxy: Proxy) -> Any:
    (provider,) = (await proxy.get("/providers")).json["providers"]
    return provider


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(each.getMessage() for each in caplog.records if each.levelno > logging.INFO)


async def test_what_a_node_states_above_its_list_is_told_and_no_more_by_default(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(dear_node(), tmp_path / "arbstr.db") as (proxy, _, _text):
        await ask(proxy, WINDOW + 1)
        assert (await shown(proxy))["stated"] == {
            "gpt-4o": {"requests": 21, "stated_sats": 21.0, "expected_sats": 10.5}
        }
    assert "charges other prices for gpt-4o than it lists: 20 sats for the last" in warnings(caplog)
    assert "left alone" not in warnings(caplog)


@pytest.mark.parametrize("reaction", ["rest", "stop"])
async def test_a_model_that_costs_more_than_is_listed_is_left_alone_if_so_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reaction: str
) -> None:
    node = dear_node()
    async with serving(node, tmp_path / "arbstr.db", f'overcharge = "{reaction}"') as (
        proxy,
        _,
        text,
    ):
        await ask(proxy)
        reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (400, "no_price_allowed")
        again = {"rest": "in 3600 s, or after a reload", "stop": "after a reload (SIGHUP) alone"}
        assert "node charged more than it said" in reply.error["message"]
        assert again[reaction] in reply.error["message"]
        assert "retry-after" not in reply.headers
        assert len(node.visits) == WINDOW
        assert (await proxy.chat(model="other")).status == 200, "its other models are asked"
        changes = change(parse_config(text, {}), parse_config(text, {}))
        proxy.hub.adopt(Snapshot.of(changes.config), kept=changes.kept)
        node.takes = 1
        await ask(proxy, WINDOW)
    told = {"rest": "for an hour", "stop": "until a reload"}[reaction]
    assert f'"gpt-4o" of provider "node" is left alone {told} (overcharge)' in warnings(caplog)


async def test_a_node_that_charges_more_than_it_states_is_left_alone_if_so_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(models={"gpt-4o": CHEAP})
    node.unsaid = 100
    async with serving(node, tmp_path / "arbstr.db", 'overcharge = "stop"') as (proxy, _, _text):
        await ask(proxy, WINDOW // 2)
        await checkpoint(proxy)
        assert "charges something else" not in warnings(caplog), "ten are too few"
        await ask(proxy, WINDOW // 2)
        await checkpoint(proxy)
        provider = await shown(proxy)
        assert provider["resting_for"] == "overcharge"
        assert provider["resting_until"] == "9999-12-31T23:59:59Z"
        reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (400, "no_price_allowed")


async def test_stated_expected_and_charged_stand_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node, database = dear_node(), tmp_path / "arbstr.db"
    node.unsaid = 100
    async with serving(node, database) as (proxy, _, text):
        await ask(proxy, 4)
        await checkpoint(proxy)
        await ask(proxy, 1)
        await proxy.hub.log_writer.caught_up()
        stats = (await proxy.get("/v1/stats")).json
        until = rows(database, "checkpoints")[-1]["taken_at"]
        whole = {
            "provider": "node",
            "attempts": 5,
            "expected_sats": 2.5,
            "stated_sats": 5.0,
            "charged_sats": 4.4,
            "known_sats": 4.0,
            "compared_until": until,
        }
        assert stats["nodes"] == [whole]
        of_model = (await proxy.get("/v1/stats?model=gpt-4o")).json["nodes"]
        nothing = {"charged_sats": None, "known_sats": None, "compared_until": None}
        assert of_model == [{**whole, **nothing}]
        assert "nodes" not in (await proxy.get("/v1/stats?endpoint=chat")).json
        (tmp_path / "config.toml").write_text(text)
        (tmp_path / "config.toml").chmod(0o600)
        out = await printed(capsys, tmp_path, "stats")
        row = [line.split() for line in out.splitlines() if line.startswith("node  ")][-1]
        assert row[:6] == ["node", "5", "2.5", "5", "4", "4.4"]
        out = await printed(capsys, tmp_path, "providers")
        assert "key holds 999996 sats free" in out
        assert "in 7 days 5 sats stated, 2.5 expected; compared: 4.4 charged, 4 known" in out


async def printed(capsys: pytest.CaptureFixture[str], directory: Path, command: str) -> str:
    """What a command says; it has a trio of its own."""
    given = [command, "-c", str(directory / "config.toml")]
    if command == "stats":
        given += ["--group-by", "provider"]
    code: Any = await trio.to_thread.run_sync(cli.main, given)
    assert code == 0
    return capsys.readouterr().out


async def test_a_key_that_holds_what_a_day_costs_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(models={"gpt-4o": CHEAP})
    node.bank.deposit(KEY, 30_000)
    async with serving(node, tmp_path / "arbstr.db") as (proxy, _, _text):
        await ask(proxy, 4)
        await checkpoint(proxy)
        assert "top it up" not in warnings(caplog)
        node.bank.accounts[KEY].balance = 2_000
        for _ in range(2):
            await checkpoint(proxy)
    said = (
        'provider "node": its key holds 2 sats, and was charged 2 in the last 24 hours: top it up'
    )
    assert warnings(caplog).count(said) == 1

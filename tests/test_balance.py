"""A key that holds too little for a request is passed over, without a trip to its node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.trio_runtime import accounts
from tests.fakes import open_fake_provider
from tests.node import Node
from tests.proxy import Proxy, config, open_proxy
from tests.test_prices import CHEAP, DEAR, KEY, node_provider

TOO_LITTLE = 5_000
"""Millisats: enough for a request that limits its output, not for one that does not."""


@asynccontextmanager
async def serving(database: Path, *nodes: Node) -> AsyncIterator[Proxy]:
    """The first node is `poor`, the second `rich`; what their keys hold is known."""
    text = ""
    async with (
        open_fake_provider(nodes[0].serve) as first,
        open_fake_provider(nodes[-1].serve) as last,
    ):
        text = node_provider(first.url, "poor")
        if len(nodes) > 1:
            text += node_provider(last.url, "rich")
        async with open_proxy(config(text), database=database, books=True) as proxy:
            await known(proxy, TOO_LITTLE)
            yield proxy


async def known(proxy: Proxy, msats: int) -> None:
    """Until `poor` is known to hold so much."""
    assert proxy.hub.accounts is not None
    with trio.fail_after(10):
        while True:
            account = proxy.hub.accounts.account_of("poor")
            if account is not None and account[0].balance == msats:
                return
            await trio.sleep(0.01)


def poor_node() -> Node:
    node = Node(models={"gpt-4o": CHEAP}, only=("good",))
    node.bank.deposit(KEY, TOO_LITTLE)
    return node


async def test_a_key_that_holds_too_little_for_a_request_is_passed_over(tmp_path: Path) -> None:
    poor, rich = poor_node(), Node(models={"gpt-4o": DEAR}, only=("good",))
    async with serving(tmp_path / "arbstr.db", poor, rich) as proxy:
        reply = await proxy.chat()
        assert reply.headers["x-arbstr-provider"] == "rich"
        assert (len(poor.visits), proxy.hub.board.view("poor", trio.current_time()).why) == (
            0,
            None,
        )
        reply = await proxy.chat(max_tokens=10)
        assert reply.headers["x-arbstr-provider"] == "poor"


async def test_where_no_key_holds_enough_the_client_is_told_and_a_deposit_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "SOON_SECONDS", 0.0)
    poor = poor_node()
    async with serving(tmp_path / "arbstr.db", poor) as proxy:
        reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (402, "insufficient_balance")
        assert (
            "poor was not asked: its key holds 5 sats, and it wants 11.88 free "
            "(top up its key, or limit the output)" in reply.error["message"]
        )
        (shown,) = (await proxy.get("/providers")).json["providers"]
        assert (shown["balance"]["free_sats"], shown["balance"]["reserved_sats"]) == (5.0, 0.0)
        health = (await proxy.get("/health")).json
        assert health["providers"]["poor"]["balance"] == shown["balance"]
        poor.bank.deposit(KEY, 100_000)
        await proxy.chat()  # too early, and so the key is asked what it holds
        await known(proxy, 105_000)
        assert (await proxy.chat()).status == 200


async def test_after_a_402_the_key_is_asked_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "SOON_SECONDS", 0.0)
    poor = poor_node()
    async with serving(tmp_path / "arbstr.db", poor) as proxy:
        poor.bank.accounts[KEY].balance = 7  # somebody else has used it
        reply = await proxy.chat(max_tokens=10)
        assert (reply.status, reply.error["code"]) == (402, "insufficient_balance")
        await known(proxy, 7)


async def test_who_wants_to_know_while_a_key_is_asked_has_it_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "SOON_SECONDS", 0.0)
    poor, told, ask = poor_node(), 0, accounts.Accounts._ask

    async def and_meanwhile(self: accounts.Accounts, key: Any) -> object:
        nonlocal told
        found = await ask(self, key)
        told += 1
        if told == 1:
            poor.bank.accounts[KEY].balance = 7
            self.ask_soon("poor")
        return found

    async with serving(tmp_path / "arbstr.db", poor) as proxy:
        monkeypatch.setattr(accounts.Accounts, "_ask", and_meanwhile)
        assert proxy.hub.accounts is not None
        proxy.hub.accounts.ask_soon("poor")
        await known(proxy, 7)

"""Prices read from a node, through the whole proxy: with only a URL and a key."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from trio.testing import MockClock

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.money import Rates
from arbstr.sansio.routing.listing import Listed
from arbstr.sansio.routing.prices import Price
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.nodes import INTERVAL_SECONDS, Nodes
from arbstr.trio_runtime.snapshot import Snapshot
from tests.fakes import Behaviour, FakeProvider, Request, json_answer, open_fake_provider
from tests.node import Model, Node
from tests.proxy import Proxy, config, open_proxy, pass_time, rows

if TYPE_CHECKING:
    from arbstr.trio_runtime.upstream.transport import Transport

KEY = "sk-" + "5a" * 32

CHEAP = Model(0.002, 0.006)
DEAR = Model(0.004, 0.012)


def node_provider(url: str, name: str = "node", more: str = "") -> str:
    """The smallest there is."""
    lines = (f'name = "{name}"', f'url = "{url}"', 'kind = "routstr"', f'api_key = "{KEY}"', more)
    return "\n".join(("[[providers]]", *lines, ""))


@asynccontextmanager
async def serving(
    node: Node, more: str = "", *, top: str = "", database: Path | None = None
) -> AsyncIterator[tuple[Proxy, FakeProvider]]:
    async with (
        open_fake_provider(node.serve) as fake,
        open_proxy(
            config(node_provider(fake.url, more=more), more=top), database=database
        ) as proxy,
    ):
        yield proxy, fake


def priced(proxy: Proxy, model: str = "gpt-4o") -> Any:
    """The one offer of a model as the running catalog has it."""
    (offer,) = proxy.hub.snapshot.catalog.offers(model)
    return offer


async def test_a_url_and_a_key_are_enough() -> None:
    node = Node(models={"gpt-4o": CHEAP, "acme/claude": DEAR})
    async with serving(node) as (proxy, _):
        reply = await proxy.chat()
        assert reply.status == 200
        assert reply.headers["x-arbstr-cost-sats"] == "0.5"
        record = await proxy.record()
        assert record.expected_sats == record.cost_sats
        (attempt,) = record.attempts
        assert attempt.price_id == priced(proxy).price.id
        listed = (await proxy.get("/v1/models")).json["data"]
        assert [each["id"] for each in listed] == ["acme/claude", "gpt-4o"]
        assert [each["context_length"] for each in listed] == [10_000, 10_000]
        (shown,) = (await proxy.get("/providers")).json["providers"]
        assert shown["rates"]["gpt-4o"]["output_rate"] == 6
        assert shown["prices"]["age"] == "fresh"


async def test_the_node_gets_its_own_name_for_what_the_client_calls_otherwise() -> None:
    node = Node(models={"gpt-4o": CHEAP, "acme/claude": DEAR})
    async with serving(node) as (proxy, fake):
        for name, own in (("openai/GPT-4o", "gpt-4o"), ("claude", "acme/claude")):
            reply = await proxy.chat(model=name)
            assert reply.status == 200
            assert json.loads(fake.requests[-1].body)["model"] == own
        reply = await proxy.chat(model="nobody")
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")


async def test_several_models_of_one_name_are_not_guessed_between() -> None:
    node = Node(models={"a/m": CHEAP, "b/m": DEAR})
    async with serving(node) as (proxy, _):
        reply = await proxy.chat(model="m")
        assert (reply.status, reply.error["code"]) == (400, "no_price_allowed")
        assert "a/m, b/m" in reply.error["message"]


async def test_a_typed_rate_is_the_most_a_node_may_ask() -> None:
    node = Node(models={"gpt-4o": Model(0.002, 0.0125), "cheap": CHEAP})
    more = 'rates = "node"\ninput_rate = 5\noutput_rate = 10'
    async with serving(node, more) as (proxy, fake):
        reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (400, "no_price_allowed")
        assert "costs 12.5 sats per 1000 output tokens, you allowed 10" in reply.error["message"]
        assert not [request for request in fake.requests if request.method == "POST"]
        assert (await proxy.chat(model="cheap")).status == 200


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "cached_input_rate = 0.5",
            "costs 2 sats per 1000 tokens read from a cache, you allowed 0.5",
        ),
        (
            "cache_write_rate = 1",
            "costs 2.5 sats per 1000 tokens written to a cache, you allowed 1",
        ),
    ],
)
async def test_each_typed_rate_is_a_ceiling_of_its_own(typed: str, said: str) -> None:
    pricing = {**CHEAP.listed("m")["sats_pricing"], "input_cache_write": 0.0025}
    node = Node(models={"gpt-4o": Model(0.002, 0.006, more={"sats_pricing": pricing})})
    allowed = 'rates = "node"\ninput_rate = 5\noutput_rate = 10\n'
    async with serving(node, allowed + typed) as (proxy, fake):
        reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (400, "no_price_allowed")
        assert said in reply.error["message"]
        assert not [request for request in fake.requests if request.method == "POST"]
        (shown,) = (await proxy.get("/providers")).json["providers"]
        assert said in shown["prices"]["models"]["gpt-4o"]["refused"]


async def test_a_price_says_which_software_asks_it(tmp_path: Path) -> None:
    node, database = Node(models={"gpt-4o": CHEAP}), tmp_path / "arbstr.db"
    async with serving(node, database=database) as (proxy, _):
        assert (await proxy.chat()).status == 200
        with trio.fail_after(10):
            # The ledger has no event for what is kept beside requests.
            while not rows(database, "node_prices"):  # noqa: ASYNC110
                await trio.sleep(0.01)
        (shown,) = (await proxy.get("/providers")).json["providers"]
        assert shown["prices"]["version"] == "0.4.5"
    (price,), (listing,) = rows(database, "node_prices"), rows(database, "node_listings")
    assert (price["version"], listing["version"]) == ("0.4.5", "0.4.5")
    node.down = True
    async with serving(node, database=database) as (proxy, _):
        (again,) = (await proxy.get("/providers")).json["providers"]
    # Of another address it is another node's.
    assert again["prices"]["fetched_at"] is None


async def test_a_chat_waits_for_no_word_about_the_software() -> None:
    node, never = Node(models={"gpt-4o": CHEAP}), trio.Event()

    def silent(request: Request) -> Behaviour:
        if request.path.endswith("/info") and "balance" not in request.path:
            return json_answer({}, before=[never])
        return node.serve(request)

    async with (
        open_fake_provider(silent) as fake,
        open_proxy(config(node_provider(fake.url))) as proxy,
    ):
        with trio.fail_after(10):
            assert (await proxy.chat()).headers["x-arbstr-cost-sats"] == "0.5"
        never.set()


async def test_bitcoin_moves_and_the_next_request_is_estimated_anew(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(models={"gpt-4o": CHEAP})
    database = tmp_path / "arbstr.db"
    async with serving(node, database=database) as (proxy, _):
        await pass_time(mock_clock, 5, until=lambda: priced_at(proxy) == 6)
        first = priced(proxy).price.id
        assert (await proxy.chat()).status == 200
        node.move_bitcoin(1.4)
        await pass_time(mock_clock, 140, until=lambda: priced_at(proxy) == 8.4, step=1)
        assert node.listings == 2
        assert (await proxy.chat()).status == 200
    prices = {row["id"]: row for row in rows(database, "node_prices")}
    assert prices[first]["output"] == 6
    before, attempt = rows(database, "attempts")
    estimates = [each["estimated_cost_sats"] for each in (before, attempt)]
    assert estimates[1] == pytest.approx(estimates[0] * 1.4)
    assert before["price_id"] == first
    assert prices[attempt["price_id"]]["output"] == pytest.approx(8.4)
    assert attempt["expected_sats"] == pytest.approx(0.7)


def priced_at(proxy: Proxy, model: str = "gpt-4o") -> float | None:
    offers = proxy.hub.snapshot.catalog.offers(model)
    rates = offers[0].rates if offers else None
    return None if rates is None else round(float(rates.output_rate), 6)


async def test_a_jump_by_four_waits_for_its_confirmation(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(models={"gpt-4o": CHEAP})
    async with serving(node) as (proxy, _):
        await pass_time(mock_clock, 5, until=lambda: priced_at(proxy) == 6)
        node.move_bitcoin(4)
        await pass_time(mock_clock, 140, until=lambda: "24 out where it was" in caplog.text, step=1)
        assert (node.listings, priced_at(proxy)) == (2, 6)
        await pass_time(mock_clock, 140, until=lambda: priced_at(proxy) == 24, step=1)
        assert node.listings == 3


async def test_without_network_the_last_known_prices_serve_and_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(models={"gpt-4o": CHEAP})
    database = tmp_path / "arbstr.db"
    rule = '[[policies.rules]]\nname = "cap"\nmax_sats_per_1k_output = 6.5\n'
    async with open_fake_provider(node.serve) as fake:
        text = config(node_provider(fake.url), more=rule)
        async with open_proxy(text, database=database) as proxy:
            assert (await proxy.chat()).status == 200
        for hours, age, status in ((0.1, "fresh", 200), (1, "aged", 400), (30, "old", 400)):
            monkeypatch.setattr("arbstr.trio_runtime.nodes.time", Later(hours * 3600))
            monkeypatch.setattr("arbstr.trio_runtime.status.time", Later(hours * 3600))
            node.down = True
            async with open_proxy(text, database=database) as proxy:
                (shown,) = (await proxy.get("/providers")).json["providers"]
                assert shown["prices"]["age"] == age
                node.down = False
                # A tenth more than 6 is over the cap of 6.5, and without a price nothing is within.
                reply = await proxy.chat(headers={"x-arbstr-policy": "cap"})
                assert reply.status == status, reply.body


class Later:
    """The clock of the wall, so many seconds on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        return time.time() + self._seconds


async def test_a_chat_before_the_first_price_waits_for_it() -> None:
    node = Node(models={"gpt-4o": CHEAP})
    async with serving(node) as (proxy, _):
        # The listing is still under way: nobody has waited for it.
        assert (await proxy.chat()).headers["x-arbstr-cost-sats"] == "0.5"


async def test_a_chat_without_any_price_is_told_why(mock_clock: MockClock) -> None:
    node = Node(models={"gpt-4o": CHEAP})
    node.down = True
    async with serving(node) as (proxy, _):
        reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (503, "prices_unknown")
        assert "node broke off" in reply.error["message"]
        assert int(reply.headers["retry-after"]) == 10
        node.down = False
        await pass_time(mock_clock, 15, until=lambda: priced_at(proxy) == 6, step=0.5)
        assert (await proxy.chat()).status == 200


async def test_a_named_model_that_the_node_does_not_list_is_not_asked_for() -> None:
    node = Node(models={"gpt-4o": CHEAP})
    async with serving(node, 'models = ["gpt-4o", "gone"]') as (proxy, _):
        assert (await proxy.chat()).status == 200
        reply = await proxy.chat(model="gone")
        assert reply.status == 400
        assert "does not list it" in reply.error["message"]


async def test_of_those_who_share_a_ledger_one_asks_and_the_others_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    rate = 6

    async def list_models(*_: object) -> tuple[Listed, ...]:
        asked.append(rate)
        return (Listed("gpt-4o", (), Rates(Decimal(1), Decimal(rate))),)

    def later(seconds: float) -> None:
        monkeypatch.setattr("arbstr.trio_runtime.nodes.time", Later(seconds))

    monkeypatch.setattr("arbstr.trio_runtime.nodes.list_models", list_models)
    snapshot = Snapshot.of(parse_config(config(node_provider("https://node.example")), {}))
    (provider,) = snapshot.catalog.providers
    transport = cast("Transport", None)
    async with open_database(str(tmp_path / "arbstr.db")) as database:
        one, other = (Nodes(transport, database, lambda *_: None) for _ in range(2))

        async def ask(nodes: Nodes) -> Price:
            (node,) = nodes._nodes.values()
            await nodes._ask(node)
            prices = nodes.prices_of(provider)
            assert prices is not None
            return prices.prices["gpt-4o"]

        for nodes in (one, other):
            await nodes.restore(snapshot)
            await ask(nodes)
        assert asked == [6, 6]
        rate = 8
        later(200)
        price = await ask(one)
        later(210)
        assert await ask(other) == price
        assert asked == [6, 6, 8]
        # In time for the next listing of all.
        (node,) = other._nodes.values()
        assert node.due - trio.current_time() < INTERVAL_SECONDS * 1.1 - 10
        # Of what nobody was told lately each asks itself.
        later(400)
        await ask(other)
        assert asked == [6, 6, 8, 8]

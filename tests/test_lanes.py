"""Lanes through the whole proxy: a node that dies costs a moment and no consent."""

import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from arbstr.sansio.ledger.lanes import State
from arbstr.trio_runtime.ledger.checkpoints import Taken
from tests.fakes import (
    Behaviour,
    FakeProvider,
    Request,
    Script,
    completion,
    json_answer,
    open_fake_provider,
)
from tests.node import Node
from tests.proxy import Proxy, config, open_proxy, provider, rows
from tests.test_prices import KEY
from tests.waiting import until

TOP = (
    "[timeouts]\nfirst_output = 0.2\nanswer = 0.2\nidle = 0.2\n[breaker]\nfailures = 1000\n"
    "[retry]\nrepeat_guard = 0\nmax_retries = 0\nreconcile_seconds = {seconds}\n"
)


OTHER: Final = json_answer(completion("from the other"))


@pytest.fixture(autouse=True)
def _nothing_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the node has read what it reads before anybody asks it."""
    monkeypatch.setattr("arbstr.sansio.ledger.lanes.FENCE_SECONDS", 0.0)
    monkeypatch.setattr("arbstr.trio_runtime.lanes.GATHER_SECONDS", 0.0)
    monkeypatch.setattr("arbstr.trio_runtime.lane_words.LATE_SECONDS", 0.1)
    monkeypatch.setattr("arbstr.trio_runtime.lane_words.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("arbstr.trio_runtime.lane_words.AGAIN_SECONDS", 0.01)


@asynccontextmanager
async def serving(
    node: Node,
    database: Path,
    *,
    lanes: int = 2,
    seconds: float = 3.0,
    more: str = "",
    other: Script = OTHER,
    front: Script | None = None,
) -> AsyncIterator[tuple[Proxy, FakeProvider, FakeProvider]]:
    """The node, which is the cheapest, and another provider that answers. `front` stands before
    the node."""
    async with open_fake_provider(front or node.serve) as fake, open_fake_provider(other) as second:
        first = provider("node", fake.url, kind="routstr", key=KEY, more=f"lanes = {lanes}\n{more}")
        text = config(
            first, provider("other", second.url, rate=9), more=TOP.format(seconds=seconds)
        )
        async with open_proxy(text, database=database, books=True) as proxy:
            yield proxy, fake, second


async def wait_free(proxy: Proxy, count: int) -> None:
    """Until so many lanes are free."""
    lanes = proxy.hub.lanes
    assert lanes is not None
    await until(lambda: [way.lane.state for way in lanes._ways["node"]].count(State.FREE) >= count)


def text_beside(path: Path) -> str:
    """All of the ledger but this file."""
    files = (each for each in path.parent.glob("arbstr.db*") if each != path)
    return "".join(each.read_bytes().decode("latin-1") for each in files)


def keys_of(fake: FakeProvider, path: str = "/v1/chat/completions") -> list[str]:
    """The keys of the chats it got."""
    return [
        (request.header("authorization") or "").removeprefix("Bearer ")
        for request in fake.requests
        if request.path == path
    ]


async def test_chats_go_over_lanes_and_free_them_by_the_price_that_is_stated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node, database = Node(), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, fake, _):
        await wait_free(proxy, 2)
        for _ in range(3):
            assert (await proxy.chat()).headers["x-arbstr-provider"] == "node"
            await wait_free(proxy, 2)
        children = node.bank.accounts[KEY].children
        assert len(children) == 2
        assert set(keys_of(fake)) <= set(children)
        shown = (await proxy.get("/providers")).body.decode()
    path = tmp_path / "arbstr.db.lanes"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert kept == children
    said = shown + caplog.text + text_beside(path)
    assert not [key for key in (*children, KEY) if key in said], "a key came out"


async def test_lanes_of_the_last_run_are_used_again(tmp_path: Path) -> None:
    node, database = Node(), tmp_path / "arbstr.db"
    other = json_answer(completion())
    async with open_fake_provider(node.serve) as fake, open_fake_provider(other) as second:
        first = provider("node", fake.url, kind="routstr", key=KEY, more="lanes = 2")
        text = config(first, provider("other", second.url, rate=9))
        for _ in range(2):
            async with open_proxy(text, database=database, books=True) as proxy:
                await wait_free(proxy, 2)
    assert len(node.bank.accounts[KEY].children) == 2


async def test_lanes_of_the_last_run_serve_at_once_though_the_key_is_never_quiet(
    tmp_path: Path,
) -> None:
    """The ledger has nothing open on them."""
    node, database = Node(), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _, _second):
        await wait_free(proxy, 2)
        assert (await proxy.chat()).status == 200
    node.bank.reserve(KEY, 50)
    async with serving(node, database) as (proxy, fake, _second):
        await wait_free(proxy, 2)
        assert (await proxy.chat()).status == 200
        assert keys_of(fake)[0] in node.bank.accounts[KEY].children


async def lanes_of(proxy: Proxy, count: int) -> set[str]:
    """The keys of so many lanes, once they are free."""
    await wait_free(proxy, count)
    lanes = proxy.hub.lanes
    assert lanes is not None
    return {way.lane.key.reveal() for way in lanes._ways["node"]}


async def test_processes_that_share_a_key_have_lanes_of_their_own(tmp_path: Path) -> None:
    """Only one request at a time may be on a lane, and a process knows its own requests alone."""
    node, database = Node(), tmp_path / "arbstr.db"
    found: list[set[str]] = []
    async with open_fake_provider(node.serve) as fake:
        text = config(provider("node", fake.url, kind="routstr", key=KEY, more="lanes = 3"))
        for _ in range(2):
            async with open_proxy(text, database=database, books=True, part=(1, 2)) as one:
                found.append(await lanes_of(one, 2))
                async with open_proxy(text, database=database, books=True, part=(2, 2)) as two:
                    found.append(await lanes_of(two, 1))
    first, second, *again = found
    assert (len(first), len(second)) == (2, 1)
    assert again == [first, second], "those of the last run"
    assert not first & second
    assert len(node.bank.accounts[KEY].children) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_node_that_died_and_took_nothing_is_followed_without_consent(
    tmp_path: Path, stream: bool
) -> None:
    node, database = Node(only=("dies, and takes nothing",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _, second):
        await wait_free(proxy, 2)
        reply = await proxy.chat(stream=stream)
        assert (reply.status, reply.text) == (200, "from the other")
        assert second.hits == 1
        await proxy.wait_idle()
    first, last = rows(database, "attempts")
    assert (first["failure"], first["money"]) == ("no_answer", "free")
    assert (last["failure"], last["provider"]) == (None, "other")
    assert node.total_spent == 0


async def test_what_the_lane_tells_was_paid_is_not_paid_again(tmp_path: Path) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _, second):
        await wait_free(proxy, 2)
        reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
        assert second.hits == 0
        await proxy.wait_idle()
    (attempt,) = rows(database, "attempts")
    assert (attempt["money"], attempt["cost_sats"], attempt["settled"]) == ("spent", 0.5, "lane")
    assert attempt["provider_cost_sats"] is None, "nobody has stated it"


async def test_what_still_runs_is_told_the_client_and_settled_afterwards(tmp_path: Path) -> None:
    node, database = Node(only=("closed before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database, seconds=0.05) as (proxy, _, second):
        await wait_free(proxy, 2)
        reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
        assert second.hits == 0
        node.bank.restart()
        await wait_free(proxy, 2)
    (attempt,) = rows(database, "attempts")
    assert (attempt["money"], attempt["cost_sats"], attempt["settled"]) == ("free", 0, "lane")


async def test_an_answer_without_a_price_is_settled_by_its_lane(tmp_path: Path) -> None:
    node, database = Node(only=("cut after output, charged",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _, _second):
        await wait_free(proxy, 2)
        await proxy.chat(stream=True)
        await wait_free(proxy, 2)
    (attempt,) = rows(database, "attempts")
    assert (attempt["money"], attempt["cost_sats"], attempt["settled"]) == ("spent", 0.5, "lane")


@pytest.mark.parametrize("cost", [None, 10])
async def test_where_child_keys_are_not_free_the_key_itself_is_used(
    tmp_path: Path, cost: int | None
) -> None:
    node, database = Node(children=cost is not None), tmp_path / "arbstr.db"
    node.bank.child_key_cost = cost or 0
    async with serving(node, database) as (proxy, fake, _):
        assert (await proxy.chat()).status == 200
        assert keys_of(fake) == [KEY]
        await proxy.wait_idle()
    assert node.bank.accounts[KEY].children == []


async def test_when_all_lanes_are_parked_the_key_itself_is_used(tmp_path: Path) -> None:
    node, database = Node(only=("closed before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database, lanes=1, seconds=0.05) as (proxy, fake, _):
        await wait_free(proxy, 1)
        await proxy.chat()
        node.only("good")
        assert (await proxy.chat()).status == 200
        assert keys_of(fake)[-1] == KEY
        node.bank.restart()
        await wait_free(proxy, 1)


async def test_a_node_alone_that_took_nothing_is_asked_again_without_consent(
    tmp_path: Path,
) -> None:
    node, database = Node(only=("dies, and takes nothing",)), tmp_path / "arbstr.db"

    def mended(request: Request) -> Behaviour:
        """The first time it dies."""
        does = node.serve(request)
        if node.visits:
            node.only("good")
        return does

    async with open_fake_provider(mended) as fake:
        top = "[retry]\nbackoff = 0.01\nrepeat_guard = 0\n"
        text = config(
            provider("node", fake.url, kind="routstr", key=KEY, more="lanes = 2"), more=top
        )
        async with open_proxy(text, database=database, books=True) as proxy:
            await wait_free(proxy, 2)
            assert (await proxy.chat()).status == 200
    first, last = rows(database, "attempts")
    assert (first["failure"], first["money"], last["failure"]) == ("no_answer", "free", None)
    assert node.total_spent == 500


@pytest.mark.parametrize("stream", [False, True])
async def test_nobody_else_is_asked_before_the_connection_is_closed(
    tmp_path: Path, stream: bool
) -> None:
    """Who stands before the node holds the request, and would bring it as long as we wait."""
    node, database, never = Node(), tmp_path / "arbstr.db", trio.Event()
    reading: list[int] = []

    def holding(request: Request) -> Behaviour:
        if request.path.endswith("/chat/completions"):
            return json_answer({}, before=[never])
        return node.serve(request)

    def other(_: Request) -> Behaviour:
        reading.append(proxy.hub.draining)
        return json_answer(completion("from the other"))

    async with open_fake_provider(holding) as fake, open_fake_provider(other) as second:
        first = provider("node", fake.url, kind="routstr", key=KEY, more="lanes = 1")
        top = TOP.format(seconds=10) + "[budget]\nsats_per_day = 100\n"
        text = config(first, provider("other", second.url, rate=9), more=top)
        async with open_proxy(text, database=database, books=True) as proxy:
            await wait_free(proxy, 1)
            assert (await proxy.chat(stream=stream)).text == "from the other"
            assert reading == [0], "it was still read on"
            await wait_free(proxy, 1)
            spent = (await proxy.get("/health")).json["budget"]["spent"]
    held, answered = rows(database, "attempts")
    assert (held["money"], held["cost_sats"], held["settled"]) == ("free", 0, "lane")
    assert spent == pytest.approx(answered["cost_sats"]), "of the other alone"
    assert [row["possibly_spent"] for row in rows(database)] == [0]


async def test_what_never_arrived_and_does_after_all_is_booked_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(only=("dies, and takes nothing",), closes=False)
    database = tmp_path / "arbstr.db"

    def other(_: Request) -> Behaviour:
        (child,) = node.bank.accounts[KEY].children
        node.bank.charge(node.bank.reserve(child, 300), 700)  # type: ignore[arg-type]
        return json_answer(completion("from the other"))

    async with serving(node, database, lanes=1, other=other) as (proxy, _, _second):
        await wait_free(proxy, 1)
        assert (await proxy.chat()).text == "from the other"
        await wait_free(proxy, 1)
    first, last = rows(database, "attempts")
    assert (first["money"], first["cost_sats"], first["settled"]) == ("spent", 0.7, "lane")
    assert last["provider"] == "other"
    (request,) = rows(database)
    assert request["possibly_spent"] == 1
    assert "came after all and cost 0.7 sats" in caplog.text


async def test_a_counter_that_falls_leaves_the_row_unknown_and_frees_the_lane(
    tmp_path: Path,
) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"
    async with serving(node, database, lanes=1, seconds=0.0) as (proxy, fake, _):
        await wait_free(proxy, 1)
        await proxy.chat()
        node.only("closed before the head")
        await proxy.chat()
        node.bank.reset(keys_of(fake)[-1])
        node.bank.restart()
        await wait_free(proxy, 1)
    *_, attempt = rows(database, "attempts")
    assert (attempt["money"], attempt["cost_sats"], attempt["settled"]) == ("unknown", None, None)


async def test_what_others_have_reserved_of_the_key_delays_a_verdict_no_longer_than_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbstr.sansio.ledger.lanes.SWEPT_SECONDS", 0.2)
    node, database = Node(only=("closed before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database, lanes=1, seconds=0.0) as (proxy, _, _second):
        await wait_free(proxy, 1)
        node.bank.reserve(KEY, 50)
        await proxy.chat()
        await wait_free(proxy, 1)
    (attempt,) = rows(database, "attempts")
    assert (attempt["money"], attempt["settled"]) == ("free", "lane")


async def test_child_keys_that_cost_are_bought_where_that_is_allowed_and_the_books_agree(
    tmp_path: Path,
) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"
    node.bank.child_key_cost = 10
    async with serving(node, database, more="lane_sats = 0.01") as (proxy, fake, _):
        await wait_free(proxy, 2)
        assert len(node.bank.accounts[KEY].children) == 2
        assert (await proxy.chat()).status == 200
        assert keys_of(fake)[0] in node.bank.accounts[KEY].children
        accounts = proxy.hub.accounts
        assert accounts is not None
        await proxy.wait_idle()
        node_provider, _ = proxy.hub.snapshot.catalog.providers
        taken = await accounts.check(node_provider)
        assert isinstance(taken, Taken)
        assert taken.settlement.verdict in ("equal", "first")
    every = rows(database, "checkpoints")
    assert sum(row["charged_sats"] for row in every if row["verdict"] != "first") in (0.52, 0.5)
    assert node.bank.accounts[KEY].total_spent == 520


async def test_a_lost_lane_file_loses_no_money(tmp_path: Path) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"
    for _ in range(2):
        async with serving(node, database) as (proxy, _fake, _):
            await wait_free(proxy, 2)
            assert (await proxy.chat()).status == 200
            await wait_free(proxy, 2)
        (tmp_path / "arbstr.db.lanes").unlink()
    assert len(node.bank.accounts[KEY].children) == 4
    assert sum(row["cost_sats"] for row in rows(database, "attempts")) == 1.0
    assert node.total_spent == 1000


async def test_what_lanes_were_charged_beyond_what_was_stated_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"
    node.unsaid = 100
    async with serving(node, database, lanes=1) as (proxy, _, _second):
        for _ in range(20):
            await wait_free(proxy, 1)
            assert (await proxy.chat()).headers["x-arbstr-provider"] == "node"
        await wait_free(proxy, 1)
    assert "charges something else than it states: 12 sats for the last 20" in caplog.text
    assert "does anybody else use the key" not in caplog.text


async def test_what_a_node_says_of_a_lane_shows_its_key_to_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"

    def telling(request: Request) -> Behaviour:
        if request.method != "POST" or not request.path.endswith("/chat/completions"):
            return node.serve(request)
        key = (request.header("authorization") or "").removeprefix("Bearer ")
        said = f"the balance of {key} is too low"
        error = {"message": said, "type": "insufficient_quota", "code": "insufficient_balance"}
        return json_answer({"error": error}, 402)

    caplog.set_level("DEBUG")
    async with open_fake_provider(telling) as fake:
        text = config(provider("node", fake.url, kind="routstr", key=KEY, more="lanes = 1"))
        async with open_proxy(text, database=database, books=True) as proxy:
            await wait_free(proxy, 1)
            (child,) = node.bank.accounts[KEY].children
            reply = await proxy.chat()
            assert reply.status == 402
            assert "the balance of [REDACTED] is too low" in reply.error["message"]
            shown = [await proxy.get(path) for path in ("/providers", "/health", "/v1/requests")]
            await wait_free(proxy, 1)
            lanes = proxy.hub.lanes
            assert lanes is not None
            held = repr(lanes._ways) + repr(vars(lanes))
    said = reply.body.decode() + "".join(each.body.decode() for each in shown) + caplog.text + held
    assert child not in said + text_beside(tmp_path / "arbstr.db.lanes")
    assert child in (tmp_path / "arbstr.db.lanes").read_text()

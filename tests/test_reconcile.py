"""The ledger against a node's own counters: what ended without word gets its price, exactly."""

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.cli import commands as cli
from arbstr.sansio.ledger.lanes import Lane
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.accounts import key_id
from arbstr.trio_runtime.lane_words import Parked, Way
from arbstr.trio_runtime.ledger.checkpoints import NotNow, Taken
from tests.fakes import ROUTSTR_ID, FakeProvider, answer, open_fake_provider, refused_url
from tests.node import Node
from tests.proxy import Proxy, config, open_proxy, rows
from tests.test_prices import KEY

FAST = (
    "[timeouts]\nfirst_output = 0.2\nanswer = 0.2\nidle = 0.2\n[breaker]\nfailures = 1000\n"
    "[retry]\nrepeat_guard = 0\n"
)


def provider(url: str) -> str:
    money = ("input_rate = 2", "output_rate = 6", "drain_seconds = 0.2")
    who = ('name = "node"', f'url = "{url}"', f'api_key = "{KEY}"', 'kind = "routstr"')
    return "\n".join(("[[providers]]", *who, 'models = ["*"]', *money, ""))


@pytest.fixture(autouse=True)
def _nothing_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the node has read what it reads before anybody asks it."""
    monkeypatch.setattr("arbstr.trio_runtime.ledger.checkpoints.LATE_SECONDS", 0.0)


@asynccontextmanager
async def serving(
    node: Node, database: Path, more: str = ""
) -> AsyncIterator[tuple[Proxy, FakeProvider]]:
    async with (
        open_fake_provider(node.serve) as fake,
        open_proxy(
            config(provider(fake.url), more=FAST + more), database=database, books=True
        ) as proxy,
    ):
        await fake.wait_requests(1)
        await checkpoint(proxy)
        yield proxy, fake


async def checkpoint(proxy: Proxy) -> Taken:
    """One that can be taken now; waits for the rows of what has just ended."""
    found = await try_checkpoint(proxy)
    assert isinstance(found, Taken), found
    return found


async def try_checkpoint(proxy: Proxy) -> Taken | NotNow:
    assert proxy.hub.accounts is not None
    await proxy.wait_idle()
    (provider,) = proxy.hub.snapshot.catalog.providers
    return await proxy.hub.accounts.check(provider)


def spent(database: Path) -> int:
    """Millisats of all attempts in the ledger."""
    every = rows(database, "attempts")
    return round(sum((row["cost_sats"] or 0) * 1000 for row in every))


async def test_one_attempt_without_word_gets_its_price(tmp_path: Path) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database, "[budget]\nsats_per_day = 100\n") as (proxy, _):
        assert (await proxy.chat(max_tokens=100)).error["code"] == "possibly_spent"
        taken = await checkpoint(proxy)
        assert [sats for _, sats in taken.settlement.prices] == [0.5]
        account = (await proxy.get("/health")).json["budget"]
        assert account["spent"] == 0.5
    (attempt,), (request,) = rows(database, "attempts"), rows(database)
    assert (attempt["money"], attempt["cost_sats"], attempt["settled"]) == (
        "spent",
        0.5,
        "checkpoint",
    )
    assert (request["cost_sats"], request["possibly_spent"]) == (0.5, 1)
    assert spent(database) == node.total_spent


async def test_an_attempt_that_was_free_counts_for_nothing(tmp_path: Path) -> None:
    node, database = Node(only=("closed before the head",), sweep=0.0), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _):
        await proxy.chat()
        await checkpoint(proxy)
    (attempt,), (request,) = rows(database, "attempts"), rows(database)
    assert (attempt["money"], attempt["cost_sats"]) == ("free", 0)
    assert request["possibly_spent"] == 0


async def test_nothing_is_settled_while_the_node_holds_money_back(tmp_path: Path) -> None:
    node, database = Node(only=("closed before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _):
        await proxy.chat()
        found = await try_checkpoint(proxy)
        assert isinstance(found, NotNow)
        assert "holds money back" in found.why
        node.bank.restart()
        await checkpoint(proxy)
    assert [row["money"] for row in rows(database, "attempts")] == ["free"]


async def test_an_attempt_says_which_key_it_was_sent_with(tmp_path: Path) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"
    async with open_fake_provider(answer(503)) as first, open_fake_provider(node.serve) as fake:
        cheaper = provider(first.url).replace('"node"', '"first"').replace("5a5a", "6b6b")
        cheaper = cheaper.replace("input_rate = 2", "input_rate = 1")
        cheaper = cheaper.replace("drain_seconds = 0.2", "").replace("routstr", "openai")
        text = config(cheaper, provider(fake.url), more=FAST + "max_retries = 0\n")
        async with open_proxy(text, database=database, books=True) as proxy:
            await proxy.chat()
            await proxy.wait_idle()
            known = key_id(proxy.hub.snapshot.catalog.providers[1])
    said = [(row["provider"], row["key_id"]) for row in rows(database, "attempts")]
    assert said == [("first", None), ("node", known)], "only a node has books"
    assert known not in KEY


async def test_several_share_what_they_cost_together_and_are_marked(tmp_path: Path) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _):
        for _ in range(3):
            await proxy.chat(headers={"x-arbstr-respend": "allow"})
        await checkpoint(proxy)
    assert {row["settled"] for row in rows(database, "attempts")} == {"shared"}
    assert spent(database) == node.total_spent == 1500


async def test_who_has_the_smallest_share_is_not_known_to_have_been_free(tmp_path: Path) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    node.rates = (0, 0)
    async with serving(node, database) as (proxy, _):
        for _ in range(3):
            await proxy.chat(headers={"x-arbstr-respend": "allow"})
        held = node.bank.reserve(KEY, 1)
        node.bank.charge(held, 1)  # type: ignore[arg-type]
        await checkpoint(proxy)
    shares = sorted((row["money"], row["cost_sats"]) for row in rows(database, "attempts"))
    assert shares == [("spent", 0), ("spent", 0), ("spent", 0.001)]


async def test_a_request_that_got_to_the_node_after_a_checkpoint_is_in_the_next(
    tmp_path: Path,
) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"
    late = trio.Event()
    async with open_fake_provider(answer(503, headers=[ROUTSTR_ID], before=[late])) as first:
        cheaper = provider(first.url).replace('"node"', '"first"').replace("5a5a", "6b6b")
        cheaper = cheaper.replace("input_rate = 2", "input_rate = 1")
        patient = FAST.replace("0.2", "9")
        async with open_fake_provider(node.serve) as fake:
            text = config(cheaper, provider(fake.url), more=patient + "max_retries = 0\n")
            async with open_proxy(text, database=database, books=True) as proxy:
                accounts = proxy.hub.accounts
                assert accounts is not None
                its = proxy.hub.snapshot.catalog.providers[1]
                async with proxy.asking() as client:
                    await first.wait_hits(2)
                    with trio.fail_after(10):
                        while not isinstance(await accounts.check(its), Taken):  # noqa: ASYNC110
                            await trio.sleep(0.01)
                    late.set()
                    assert (await client.reply()).headers["x-arbstr-provider"] == "node"
                await proxy.wait_idle()
                found = await accounts.check(its)
                assert isinstance(found, Taken), found
                assert (found.stated, found.settlement.verdict) == (Decimal("0.5"), "equal")


async def test_what_was_stated_is_not_counted_twice(tmp_path: Path) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _):
        await proxy.chat()
        node.only("reset before the head")
        await proxy.chat()
        node.only("good")
        await proxy.chat(stream=True)
        await checkpoint(proxy)
    assert spent(database) == node.total_spent == 1500
    assert [row["settled"] for row in rows(database, "attempts")].count("checkpoint") == 1


async def test_another_user_of_the_key_is_said_and_settles_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _):
        await proxy.chat(max_tokens=10)
        held = node.bank.reserve(KEY, 1)
        node.bank.charge(held, 10**6)  # type: ignore[arg-type]
        taken = await checkpoint(proxy)
        assert taken.settlement.verdict == "foreign"
        assert "does anybody else use the key" in (taken.settlement.sentence() or "")
    (attempt,) = rows(database, "attempts")
    assert (attempt["money"], attempt["cost_sats"], attempt["settled"]) == ("unknown", None, None)


async def test_counters_that_fall_settle_nothing(tmp_path: Path) -> None:
    node, database = Node(only=("good",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _):
        await proxy.chat()
        await checkpoint(proxy)
        node.only("reset before the head")
        await proxy.chat()
        node.bank.accounts[KEY].total_spent = 0
        assert (await checkpoint(proxy)).settlement.verdict == "fell"
    settled = [row["settled"] for row in rows(database, "attempts")]
    assert settled == [None, None]
    assert spent(database) == 500, "of the one whose price was stated"


async def test_while_a_request_runs_no_checkpoint_is_taken(tmp_path: Path) -> None:
    node, database = Node(only=("slower than we wait",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, fake), proxy.asking() as client:
        await fake.wait_hits(3)
        assert proxy.hub.accounts is not None
        (provider,) = proxy.hub.snapshot.catalog.providers
        found = await proxy.hub.accounts.check(provider)
        assert found == NotNow("has requests in flight")
        await client.reply()


async def test_reconcile_settles_what_a_killed_arbstr_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with open_fake_provider(node.serve) as fake:
        text = config(provider(fake.url), more=FAST)
        (tmp_path / "config.toml").write_text(text)
        (tmp_path / "config.toml").chmod(0o600)
        async with open_proxy(text, database=database, books=True) as proxy:
            await checkpoint(proxy)
            await proxy.chat()
        with closing(sqlite3.connect(database)) as ledger, ledger:
            ledger.execute(
                "UPDATE requests SET status = 'in_flight', boot_id = 'dead', cost_sats = NULL"
            )
            ledger.execute("UPDATE attempts SET money = NULL, failure = NULL")
        code, printed = await reconcile(tmp_path, capsys)
        (found,) = json.loads(printed)
        assert (code, found["unknown"], found["charged_sats"]) == (0, 0, 0.5)
        assert [one["cost_sats"] for one in found["settled"]] == [0.5]
    (request,) = rows(database)
    assert (request["status"], request["cost_sats"]) == ("abandoned", 0.5)
    assert KEY not in printed


async def test_reconcile_says_what_stays_unknown_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with open_fake_provider(node.serve) as fake:
        text = config(provider(fake.url), more=FAST)
        (tmp_path / "config.toml").write_text(text)
        async with open_proxy(text, database=database) as proxy:
            await proxy.chat()
        code, printed = await reconcile(tmp_path, capsys)
        (found,) = json.loads(printed)
        assert (code, found["unknown"]) == (1, 1)
        first_look = "they are older than the first look at the key's counters"
        assert found["why"] == f"{first_look}, or were sent with another"


async def test_reconcile_waits_for_nobody_of_whom_nothing_is_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node(only=("good",))
    async with open_fake_provider(node.serve) as fake:
        with refused_url() as nobody:
            gone = provider(nobody).replace('"node"', '"gone"').replace("5a5a", "6b6b")
            (tmp_path / "config.toml").write_text(config(gone, provider(fake.url), more=FAST))
            code, printed = await reconcile(tmp_path, capsys, "--wait")
    gone_one, other = json.loads(printed)
    assert (code, gone_one["provider"], other["provider"]) == (0, "gone", "node")
    assert (gone_one["unknown"], gone_one["why"]) == (0, None)


async def reconcile(
    directory: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str]:
    """Runs the command as a person would; it has a trio of its own."""
    command = ["reconcile", "--json", "-c", str(directory / "config.toml"), *more]
    code: Any = await trio.to_thread.run_sync(cli.main, command)
    return code, capsys.readouterr().out


async def test_what_a_checkpoint_has_settled_a_lane_settles_no_more(tmp_path: Path) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database, "[budget]\nsats_per_day = 100\n") as (proxy, _):
        await proxy.chat(max_tokens=100)
        await checkpoint(proxy)
        (attempt,) = rows(database, "attempts")
        (provider,) = proxy.hub.snapshot.catalog.providers
        way = Way(Lane(Secret(KEY)), key_id(provider), provider)
        parked = Parked(
            way, attempt["correlation_id"], 1, time.time_ns() // 1_000_000, Decimal(3), 0.0
        )
        assert proxy.hub.lanes is not None
        await proxy.hub.lanes.teller.write(parked, Decimal("0.7"))
        assert (await proxy.get("/health")).json["budget"]["spent"] == 0.5
    assert rows(database, "attempts") == [attempt]


def keys_of(fake: FakeProvider, path: str) -> set[str]:
    """With which it was asked that."""
    asked = (each for each in fake.requests if each.path.endswith(path))
    return {(each.header("authorization") or "").removeprefix("Bearer ") for each in asked}


async def test_beside_a_running_arbstr_nothing_is_shared_out_that_its_lanes_will_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, database = Node(only=("reset before the head",), works=(60.0, 60.0)), tmp_path / "one.db"
    # Who has asked in vain does not ask again here.
    monkeypatch.setattr("arbstr.trio_runtime.lane_words.AGAIN_SECONDS", 1000.0)
    async with open_fake_provider(node.serve) as fake:
        text = config(provider(fake.url) + "lanes = 2\n", more=FAST + "reconcile_seconds = 0\n")
        (tmp_path / "config.toml").write_text(f'{text}[database]\npath = "{database}"\n')
        async with open_proxy(text, database=database, books=True) as proxy:
            lanes = proxy.hub.lanes
            assert lanes is not None
            with trio.fail_after(20):
                while len(lanes._ways["node"]) < 2:  # noqa: ASYNC110 - it has no event
                    await trio.sleep(0.002)
            await checkpoint(proxy)
            for _ in range(2):
                assert (await proxy.chat(max_tokens=100)).error["code"] == "possibly_spent"
            await proxy.wait_idle()
            children = set(node.bank.accounts[KEY].children)
            with trio.fail_after(20):
                while not children <= keys_of(fake, "/balance/info"):  # noqa: ASYNC110
                    await trio.sleep(0.002)
            await proxy.hub.log_writer.caught_up()
            node.bank.finish()
            code, out = await reconcile(tmp_path, capsys)
        (found,) = json.loads(out)
        assert (code, found["unknown"], found["settled"]) == (1, 2, [])
        assert found["why"] == "the provider has lanes that are still to tell"
        # Nobody is there any more who has the lanes.
        code, out = await reconcile(tmp_path, capsys)
    (found,) = json.loads(out)
    assert (code, found["unknown"]) == (0, 0)
    assert {row["settled"] for row in rows(database, "attempts")} == {"lane"}
    assert spent(database) == node.total_spent


async def test_checkpoints_may_be_taken_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _):
        await proxy.chat()
        monkeypatch.setattr("arbstr.trio_runtime.accounts.time", StoppedClock())
        for _ in range(2):
            await checkpoint(proxy)
    taken = rows(database, "checkpoints")[-2:]
    assert [row["verdict"] for row in taken] == ["settled", "equal"]
    assert taken[0]["taken_at"] == taken[1]["taken_at"]
    assert spent(database) == node.total_spent == 500


class StoppedClock:
    def __init__(self) -> None:
        self._now = time.time_ns()

    def time_ns(self) -> int:
        return self._now


async def test_a_ledger_that_cannot_be_used_is_why_no_checkpoint_is_taken(tmp_path: Path) -> None:
    node, database = Node(), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _):
        with closing(sqlite3.connect(database)) as other, other:
            other.execute("BEGIN IMMEDIATE")
            found = await try_checkpoint(proxy)
        assert isinstance(found, NotNow)
        assert found.why == "cannot be compared: the ledger cannot be used now (database is locked)"


async def test_reconcile_says_in_a_line_what_is_wrong_with_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node, database = Node(only=("reset before the head",)), tmp_path / "arbstr.db"
    async with open_fake_provider(node.serve) as fake:
        text = config(provider(fake.url), more=FAST)
        (tmp_path / "config.toml").write_text(text)
        async with open_proxy(text, database=database) as proxy:
            await proxy.chat()
        with closing(sqlite3.connect(database)) as ledger, ledger:
            ledger.execute("ALTER TABLE attempts DROP COLUMN settled")
        code = await trio.to_thread.run_sync(
            cli.main, ["reconcile", "-c", str(tmp_path / "config.toml")]
        )
    said = capsys.readouterr().err
    assert code == 1
    assert said.splitlines()[-1].startswith(f"arbstr: {database}: no such column")
    assert "Traceback" not in said

"""The ledger against the books of scripted Routstr nodes: whatever they do, and whatever we do.

Each request asks for a model of its own, so that every visit a node booked is found again as an
attempt in the ledger. What must hold, in the words of the promises:

    every request a node read has an attempt row for that node
    where a node stated a price and it was heard, the row says exactly that price
    what is booked as free was free
    without consent a request is paid once at most, with consent twice
"""

import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final, final

import pytest
import trio

from tests.fakes import FakeProvider, open_fake_provider
from tests.node import FAULTS, Node, Visit
from tests.process import CHAT_HEAD, ArbstrProcess, arbstr_process, chat_body

CLIENTS: Final = 16
KEY: Final = "sk-" + "5a" * 32

SETTINGS: Final = """
[retry]
max_retries = 1
backoff = 0.01
[timeouts]
first_output = 1
answer = 1
idle = 1
[breaker]
failures = 1000
"""

PROVIDER: Final = """
[[providers]]
name = "{name}"
url = "{url}"
api_key = "{key}"
kind = "routstr"
models = ["*"]
input_rate = {input_rate}
output_rate = {output_rate}
drain_seconds = 20
"""

STATED: Final = tuple(fault.name for fault in FAULTS if fault.stated)
"""Faults after which a node's own word tells what it took."""

UNREAD: Final = frozenset({"no_answer", "client_left", "shutdown"})
"""Failures after which a client of ours, or a kill, may have kept the node's word from us."""


@final
@dataclass(slots=True)
class Town:
    """Some nodes, arbstr in front of them, and who has asked for what."""

    nodes: Mapping[str, Node]
    fakes: Mapping[str, FakeProvider]
    config: str
    directory: Path
    arbstr: ArbstrProcess | None = None
    started: trio.Event = field(default_factory=trio.Event)
    consented: set[str] = field(default_factory=set)
    waited: set[str] = field(default_factory=set)
    _asked: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """arbstr runs, until the block ends or somebody kills it."""
        stack = ExitStack()
        start = arbstr_process(config_text=self.config, directory=self.directory)
        self.arbstr = await trio.to_thread.run_sync(stack.enter_context, start)
        self.started.set()
        try:
            yield
        finally:
            self.gone()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(stack.close)

    def gone(self) -> None:
        """Nobody can be asked before the next one serves."""
        self.arbstr = None
        if self.started.is_set():
            self.started = trio.Event()

    async def load(self, requests: int, *, seed: int, consent: float, leaving: float) -> None:
        """So many requests; `consent` and `leaving` are the shares of those that allow a second
        price, and of those whose client does not wait for its answer."""
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                share = requests // CLIENTS + (number < requests % CLIENTS)
                dice = random.Random(seed * 1000 + number)
                nursery.start_soon(self._client, share, dice, consent, leaving)

    async def _client(
        self, requests: int, dice: random.Random, consent: float, leaving: float
    ) -> None:
        for _ in range(requests):
            while self.arbstr is None:
                await self.started.wait()
            self._asked += 1
            who = f"m-{self._asked}"
            if allows := dice.random() < consent:
                self.consented.add(who)
            patience = dice.choice((0.0, 0.01, 0.3)) if dice.random() < leaving else 60.0
            with suppress(OSError, trio.BrokenResourceError):
                await self._ask(who, stream=dice.random() < 0.6, allows=allows, patience=patience)

    async def _ask(self, who: str, *, stream: bool, allows: bool, patience: float) -> None:
        assert self.arbstr is not None
        body = json.dumps(chat_body(who, more={"stream": stream, "user": who, "max_tokens": 60}))
        head = CHAT_HEAD % len(body)
        more = b"x-arbstr-respend: allow\r\n" if allows else b""
        head = head.removesuffix(b"\r\n") + more + b"connection: close\r\n\r\n"
        connection = await trio.open_tcp_stream("127.0.0.1", self.arbstr.port)
        async with connection:
            await connection.send_all(head + body.encode())
            answer = b""
            with trio.move_on_after(patience):
                async for data in connection:
                    answer += data
        if patience > 1:
            self.waited.add(who)

    async def settled(self) -> None:
        """Until every request has its final row: drains may take a while."""
        arbstr = self.arbstr
        assert arbstr is not None

        def open_rows() -> int:
            waiting: int = arbstr.ask("GET", "/health").json()["log"]["queued"]
            return waiting + len([row for row in arbstr.rows() if row["status"] == "in_flight"])

        with trio.fail_after(60):
            # The ledger of another process can only be looked at.
            while await trio.to_thread.run_sync(open_rows):  # noqa: ASYNC110
                await trio.sleep(0.1)


@asynccontextmanager
async def open_town(
    directory: Path,
    *,
    rates: Mapping[str, tuple[int, int]],
    seed: int,
    only: Sequence[str] = (),
    works: tuple[float, float] = (0.0, 0.0),
    sweep: float = 300.0,
    more: str = "",
) -> AsyncIterator[Town]:
    """Nodes with these prices, in millisats a token read and written; `more` in every table."""
    async with AsyncExitStack() as stack:
        nodes: dict[str, Node] = {}
        fakes: dict[str, FakeProvider] = {}
        tables = [SETTINGS]
        for number, (name, price) in enumerate(rates.items()):
            node = Node(seed=seed + number, rates=price, only=only, works=works, sweep=sweep)
            fake = await stack.enter_async_context(open_fake_provider(node.serve))
            nodes[name], fakes[name] = node, fake
            table = PROVIDER.format(
                name=name,
                url=fake.url,
                key=key_of(number),
                input_rate=price[0],
                output_rate=price[1],
            )
            tables.append(table + more)
        yield Town(nodes, fakes, "".join(tables), directory)


def key_of(number: int) -> str:
    """The key of the node with this number."""
    return f"{KEY[:-1]}{number}"


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """One attempt of the ledger and the visit it made; None where the node saw nothing."""

    attempt: Mapping[str, Any]
    visit: Visit | None


def paired(town: Town, rows: Sequence[Mapping[str, Any]], attempts: Sequence[Any]) -> list[Pair]:
    """Every attempt with its visit; asserts that no visit is left over."""
    asked = {row["correlation_id"]: row["requested_model"] for row in rows}
    made: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for attempt in attempts:
        made[asked[attempt["correlation_id"]], attempt["provider"]].append(attempt)
    pairs: list[Pair] = []
    for name, node in town.nodes.items():
        node.bank.finish()
        visits: dict[str, list[Visit]] = defaultdict(list)
        for visit in node.visits:
            visits[visit.who].append(visit)
        for who, seen in visits.items():
            rows_of_it = [a for a in made.pop((who, name), []) if a["failure"] != "not_sent"]
            assert len(rows_of_it) >= len(seen), f"{name} read {who}, which the ledger has not"
            pairs += [
                Pair(attempt, seen[at] if at < len(seen) else None)
                for at, attempt in enumerate(rows_of_it)
            ]
    pairs += [Pair(attempt, None) for rest in made.values() for attempt in rest]
    return pairs


def check(town: Town, rows: Sequence[Mapping[str, Any]], attempts: Sequence[Any]) -> list[Pair]:
    """The promises of the module's docstring."""
    pairs = paired(town, rows, attempts)
    for pair in pairs:
        attempt, visit = pair.attempt, pair.visit
        if visit is None:
            assert attempt["failure"] is not None, f"answered by nobody: {dict(attempt)}"
            continue
        told = f"{visit} is {dict(attempt)}"
        if attempt["provider_cost_sats"] is not None:
            assert msats(attempt["cost_sats"]) == visit.charged, told
            assert (attempt["money"] == "free") == (visit.charged == 0), told
        if attempt["money"] == "free":
            assert visit.charged == 0, told
        if attempt["settled"] == "lane":
            # Told before the node's own word was heard, and as exactly.
            assert msats(attempt["cost_sats"]) == visit.charged, told
        elif visit.stated and attempt["failure"] not in UNREAD:
            assert attempt["provider_cost_sats"] is not None, told
    paid: dict[str, int] = defaultdict(int)
    for node in town.nodes.values():
        for visit in node.visits:
            paid[visit.who] += visit.charged > 0
    twice = {who: n for who, n in paid.items() if n > 1 + (who in town.consented)}
    assert not twice, f"paid more often than allowed: {twice}"
    return pairs


def msats(sats: float | None) -> Decimal | None:
    """The digits of a column, as millisats."""
    return None if sats is None else Decimal(repr(sats)) * 1000


THREE: Final = {"alpha": (2, 6), "beta": (3, 7), "gamma": (3, 9)}


async def one_life(town: Town, requests: int, *, leaving: float) -> list[Pair]:
    async with town.serving():
        await town.load(requests, seed=1, consent=0.3, leaving=leaving)
        await town.settled()
        assert town.arbstr is not None
        rows, attempts = town.arbstr.rows(), town.arbstr.attempts()
        there = {row["requested_model"] for row in rows}
        assert town.waited <= there, "the client waited, and there is no row"
        return check(town, rows, attempts)


async def test_where_nodes_say_what_they_took_the_sum_is_theirs(tmp_path: Path) -> None:
    async with open_town(tmp_path, rates=THREE, seed=10, only=STATED) as town:
        pairs = await one_life(town, 120, leaving=0.1)
    costs = (msats(p.attempt["cost_sats"]) for p in pairs if p.attempt["money"] != "free")
    booked = sum(cost for cost in costs if cost is not None)
    assert booked == sum(node.total_spent for node in town.nodes.values())


async def test_whatever_nodes_do_nothing_is_paid_twice_without_a_word(tmp_path: Path) -> None:
    async with open_town(tmp_path, rates=THREE, seed=20) as town:
        await one_life(town, 120, leaving=0.15)


async def killed_again_and_again(town: Town, lives: int, requests: int) -> list[Pair]:
    """Kills under load; every life begins with what the one before left."""
    dice = random.Random(3)
    async with trio.open_nursery() as nursery:

        async def load() -> None:
            await town.load(requests, seed=2, consent=0.3, leaving=0.1)
            done.set()

        done = trio.Event()
        nursery.start_soon(load)
        for _ in range(lives):
            async with town.serving():
                with trio.move_on_after(dice.uniform(0.2, 0.8)):
                    await done.wait()
                assert town.arbstr is not None
                victim = town.arbstr
                town.gone()
                await trio.to_thread.run_sync(victim.stop, SIGKILL)
        async with town.serving():
            await done.wait()
            await town.settled()
            assert town.arbstr is not None
            return check(town, town.arbstr.rows(), town.arbstr.attempts())


async def test_kills_lose_no_request_a_node_has_read(tmp_path: Path) -> None:
    async with open_town(tmp_path, rates=THREE, seed=30) as town:
        await killed_again_and_again(town, 3, 120)


@pytest.mark.soak
async def test_two_thousand_requests_with_every_fault_and_kills(tmp_path: Path) -> None:
    async with open_town(tmp_path, rates=THREE, seed=40) as town:
        pairs = await killed_again_and_again(town, 20, 2000)
    seen = {pair.visit.fault for pair in pairs if pair.visit is not None}
    assert seen == {fault.name for fault in FAULTS if fault.weight}

"""With lanes no failure of a node needs consent, and no walk over nodes pays two answers.

A walk is a request over three nodes on lanes, each of which fails in a way of its own, or answers.
Whatever they do (`node.FAULTS`), and whatever the day allows:

    at most one of them took money for it, with consent one more
    the client is told `possibly_spent` if one of them did, and never because nobody knows
    who took nothing is followed by the next one, until one answers
    the ledger says of each attempt what the node took for it
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, final

import pytest
import trio
from hypothesis import Phase, given
from hypothesis import strategies as st

from arbstr.sansio.ledger.lanes import State
from tests.fakes import open_fake_provider
from tests.node import FAULTS, Node, Visit
from tests.proxy import Proxy, Reply, config, open_proxy, provider, rows
from tests.searching import examples
from tests.test_books import key_of
from tests.test_soak import QUICK

NAMES: Final = ("alpha", "beta", "gamma")
LANES: Final = 3
"""Of each node: more than one walk takes."""

TOP: Final = """
[timeouts]
first_output = 5
answer = 5
idle = 5
[breaker]
failures = 1000
[retry]
repeat_guard = 0
max_retries = 0
backoff = 0.001
reconcile_seconds = 10
"""

SLOW: Final = frozenset(
    {"slower than we wait", "stalls in the stream, then goes on", "a late trailer"}
)
"""Ways of nodes that take longer than a test may: they are the soak's."""

PLAIN: Final = [
    fault.name for fault in FAULTS if fault.weight and fault.plain and fault.name not in SLOW
]
STREAMED: Final = [
    fault.name for fault in FAULTS if fault.weight and fault.streamed and fault.name not in SLOW
]

BUDGETS: Final = st.sampled_from([None, 1000, 2])

REFUSED: Final = frozenset({"signed 400"})
"""After which nobody else is asked."""

AFTER_OUTPUT: Final = frozenset(
    fault.name
    for fault in FAULTS
    if fault.plain is None and not fault.name.startswith("cut before output")
)
"""Ways of streams whose client has a part of its answer: nobody else is asked."""

ANSWERED: Final = frozenset({"good", "no usage"})


@final
@dataclass(frozen=True, slots=True)
class Walk:
    """A request: what the three nodes do with it."""

    ways: tuple[str, str, str]
    stream: bool
    consent: bool


def walks(stream: bool) -> st.SearchStrategy[Walk]:
    """Of plain requests, or of streams."""
    way = st.sampled_from(STREAMED if stream else PLAIN)
    consent = st.sampled_from([False, False, True])
    return st.builds(Walk, st.tuples(way, way, way), st.just(stream), consent)


@given(
    st.lists(st.booleans().flatmap(walks), min_size=1, max_size=4), st.sampled_from([None, 1000, 2])
)
# To shrink a walk costs a second a step, and says no more than the walk does.
@examples(5, phases=(Phase.explicit, Phase.generate))
def test_no_walk_pays_two_answers_and_none_needs_consent_for_what_was_free(
    taken: list[Walk], budget: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as directory:
        for name, seconds in QUICK.items():
            patch.setattr(name, seconds)
        trio.run(_walk, taken, budget, Path(directory) / "arbstr.db")


async def _walk(taken: Sequence[Walk], budget: int | None, database: Path) -> None:
    nodes = [Node(works=(0.0, 0.01), sweep=0.03, seed=n) for n in range(len(NAMES))]
    async with AsyncExitStack() as stack:
        tables = []
        for number, (name, node) in enumerate(zip(NAMES, nodes, strict=True)):
            fake = await stack.enter_async_context(open_fake_provider(node.serve))
            tables.append(
                provider(
                    *(name, fake.url),
                    kind="routstr",
                    key=key_of(number),
                    models="*",
                    rate=number + 1,
                    more=f"lanes = {LANES}",
                )
            )
        more = TOP if budget is None else f"{TOP}[budget]\nsats_per_day = {budget}\n"
        proxy = await stack.enter_async_context(
            open_proxy(config(*tables, more=more), database=database, books=True)
        )
        for number, walk in enumerate(taken):
            await _lanes_are_free(proxy)
            for node, way in zip(nodes, walk.ways, strict=True):
                node.only(way)
            headers = {"x-arbstr-respend": "allow"} if walk.consent else None
            with trio.fail_after(20):
                reply = await proxy.chat(
                    model=f"m-{number}",
                    user=f"m-{number}",
                    stream=walk.stream,
                    max_tokens=60,
                    headers=headers,
                )
            await proxy.wait_idle()
            visits = [
                [visit for visit in node.visits if visit.who == f"m-{number}"] for node in nodes
            ]
            _check(walk, reply, [visit for seen in visits for visit in seen], budget)
        await _lanes_are_free(proxy)
    _equal(database, nodes)


def _check(walk: Walk, reply: Reply, visits: Sequence[Visit], budget: int | None) -> None:
    told = f"{walk}: {reply.status} {reply.body!r} {visits}"
    paid = [visit for visit in visits if visit.charged]
    assert len(paid) <= 1 + walk.consent, told
    if reply.status == 402 and budget is not None:
        return  # the day does not allow it
    if reply.status == 400 and reply.error["code"] == "possibly_spent":
        assert paid, told
    last = visits[-1]
    if last.fault in ANSWERED:
        assert reply.status == 200, told
    elif (
        not paid and last.fault not in REFUSED and not (walk.stream and last.fault in AFTER_OUTPUT)
    ):
        assert len(visits) >= len(NAMES), f"somebody was not asked: {told}"


async def _lanes_are_free(proxy: Proxy) -> None:
    lanes = proxy.hub.lanes
    assert lanes is not None
    with trio.fail_after(20):
        # A lane has no event of its own.
        while not all(  # noqa: ASYNC110
            len(lanes._ways[name]) == LANES
            and all(way.lane.state is State.FREE for way in lanes._ways[name])
            for name in NAMES
        ):
            await trio.sleep(0.002)


def _equal(database: Path, nodes: Sequence[Node]) -> None:
    ours: dict[str, Decimal] = dict.fromkeys(NAMES, Decimal(0))
    for attempt in rows(database, "attempts"):
        ours[attempt["provider"]] += Decimal(repr(attempt["cost_sats"] or 0)) * 1000
        known = attempt["provider_cost_sats"] is not None or attempt["settled"] is not None
        assert known or attempt["money"] == "free", attempt
    assert ours == {name: node.total_spent for name, node in zip(NAMES, nodes, strict=True)}

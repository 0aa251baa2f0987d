"""A request that reaches its node late, at any moment and at each door: one answer is paid at most.

Somebody in front of the node takes the request, and brings it when it pleases. Whoever fails over
by then has closed the lane at the node, which refuses what comes afterwards.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import pytest
import trio

from arbstr.sansio.ledger.lanes import State
from arbstr.trio_runtime.logs import TextFormatter
from tests.fakes import RESET_AFTER_REQUEST, Behaviour, Request, completion, json_answer
from tests.node import Node
from tests.proxy import Proxy, rows
from tests.test_lanes import keys_of, serving, text_beside, wait_free
from tests.test_messages import BODY, PLAIN
from tests.test_other_doors import COMPLETED, EMBEDDED
from tests.test_prices import KEY
from tests.test_responses import plain
from tests.test_soak import QUICK

SAID: Final = [{"role": "user", "content": "hello"}]

DOORS: Final[dict[str, tuple[dict[str, Any], Any]]] = {
    "/v1/chat/completions": ({"messages": SAID}, completion("Hello")),
    "/v1/responses": ({"input": "hello"}, plain()),
    "/v1/messages": (BODY, PLAIN),
    "/v1/embeddings": ({"input": "hello"}, EMBEDDED),
    "/v1/completions": ({"prompt": "hello"}, COMPLETED),
}
"""By path: what is asked, and the other provider's answer."""

ASKED: Final = [
    pytest.param(
        *(path, stream, silent),
        id=f"{path[4:]}-{'streamed' if stream else 'plain'}-{'silence' if silent else 'break'}",
    )
    for path in DOORS
    for stream in (False, True)
    for silent in (False, True)
    # The same behind every door, and a timeout each.
    if not (stream and path == "/v1/embeddings") and not (silent and "chat" not in path)
]

IN_TIME: Final = ("at once", "before it is closed")
TOO_LATE: Final = ("once it is closed", "when the other is asked", "afterwards", "never")
"""When the request arrives at the node."""


@final
@dataclass(slots=True)
class Front:
    """Brings requests to the node at `when`. `silent`: it says nothing, else it breaks off."""

    node: Node
    when: str = "never"
    silent: bool = False
    held: Request | None = None
    never: trio.Event = field(default_factory=trio.Event)
    brought: int = 0

    def serve(self, request: Request) -> Behaviour:
        path = request.path.removeprefix("/v1")
        if path == "/balance/create":
            self.bring("before it is closed")
            does = self.node.serve(request)
            self.bring("once it is closed")
            return does
        if request.method == "GET" or path.startswith("/balance"):
            return self.node.serve(request)
        self.held = request
        self.bring("at once")
        return json_answer({}, before=[self.never]) if self.silent else RESET_AFTER_REQUEST

    def bring(self, when: str) -> None:
        """It is that moment."""
        if when == self.when and self.held is not None:
            self.node.serve(self.held)
            self.held = None
            self.brought += 1


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in QUICK.items():
        monkeypatch.setattr(name, seconds)


@asynccontextmanager
async def late(
    directory: Path, answer: Any, *, silent: bool = False, closes: bool = True
) -> AsyncIterator[tuple[Proxy, Front, Any]]:
    node = Node(only=("reset before the head",), closes=closes, works=(0.0, 0.01))
    front = Front(node, silent=silent)

    def other(_: Request) -> Behaviour:
        front.bring("when the other is asked")
        return json_answer(answer)

    async with serving(node, directory / "arbstr.db", lanes=1, other=other, front=front.serve) as (
        proxy,
        fake,
        second,
    ):
        yield proxy, front, (fake, second)


@pytest.mark.parametrize(("path", "stream", "silent"), ASKED)
async def test_at_most_one_answer_is_paid_whenever_the_request_arrives(
    tmp_path: Path, path: str, stream: bool, silent: bool
) -> None:
    asked, answer = DOORS[path]
    async with late(tmp_path, answer, silent=silent) as (proxy, front, (fake, second)):
        for front.when in (*IN_TIME, *TOO_LATE):
            await wait_free(proxy, 1)
            visits, hits = len(front.node.visits), second.hits
            body = {**asked, "model": "gpt-4o", "stream": stream}
            if path == "/v1/embeddings":
                del body["stream"]
            reply = await proxy.chat(path=path, body=json.dumps(body).encode())
            front.never.set()
            await proxy.wait_idle()
            front.never = trio.Event()
            front.bring("afterwards")
            lane = keys_of(fake, path)[-1]
            assert lane != KEY, "it went over a lane"
            if front.when in IN_TIME:
                assert reply.status == 400, (front.when, reply)
                assert b"possibly_spent" in reply.body
            else:
                assert reply.status == 200, (front.when, reply)
            paid = second.hits - hits
            front.node.bank.finish()
            paid += len([visit for visit in front.node.visits[visits:] if visit.charged])
            assert paid == 1, front.when
        await wait_free(proxy, 1)
    assert front.brought == len(IN_TIME) + len(TOO_LATE) - 1
    firsts = [row for row in rows(tmp_path / "arbstr.db", "attempts") if row["provider"] == "node"]
    assert [row["settled"] for row in firsts] == ["lane"] * 6
    booked = sum(row["cost_sats"] for row in firsts)
    assert booked * 1000 == front.node.total_spent == 1000


async def test_a_closed_lane_is_used_by_nobody_again_and_another_takes_its_place(
    tmp_path: Path,
) -> None:
    file = tmp_path / "arbstr.db.lanes"
    _, answer = DOORS["/v1/chat/completions"]
    async with late(tmp_path, answer) as (proxy, front, (fake, _)):
        await wait_free(proxy, 1)
        assert (await proxy.chat()).status == 200
        await wait_free(proxy, 1)
        closed, new = front.node.bank.accounts[KEY].children
        lanes = proxy.hub.lanes
        assert lanes is not None
        assert [way.lane.key.reveal() for way in lanes._ways["node"]] == [new]
        assert keys_of(fake) == [closed]
        assert [json.loads(line).get("closed") for line in file.read_text().splitlines()] == [
            None,
            True,
            None,
        ]
    async with late(tmp_path, answer) as (proxy, front, _):
        # Another node, which knows neither: what counts is which is used again.
        front.node.bank.children(KEY, 2)
        await wait_free(proxy, 1)
        lanes = proxy.hub.lanes
        assert lanes is not None
        assert [way.lane.key.reveal() for way in lanes._ways["node"]] == [new]


async def test_what_was_closed_and_stands_in_the_file_still_is_told_by_its_account(
    tmp_path: Path,
) -> None:
    """The disk was full, or arbstr was killed just then."""
    _, answer = DOORS["/v1/chat/completions"]
    async with late(tmp_path, answer) as (proxy, front, _):
        await wait_free(proxy, 1)
        lanes = proxy.hub.lanes
        assert lanes is not None
        (way,) = lanes._ways["node"]
        closed = way.lane.key.reveal()
        front.node.bank.limit(closed, 1)
        way.lane.state = State.STALE
        lanes.teller.soon(lanes.teller.refresh, way)
        await wait_free(proxy, 1)
        (other,) = lanes._ways["node"]
        assert other.lane.key.reveal() != closed


async def test_what_cannot_be_closed_is_reckoned_and_its_lane_is_used_again(
    tmp_path: Path,
) -> None:
    _, answer = DOORS["/v1/chat/completions"]
    async with late(tmp_path, answer, closes=False) as (proxy, front, _):
        for _ in range(2):
            await wait_free(proxy, 1)
            assert (await proxy.chat()).status == 200
        await wait_free(proxy, 1)
        assert len(front.node.bank.accounts[KEY].children) == 1
        assert front.node.asked.count("/balance/create") == 1, "it is not asked for in vain again"


async def test_a_bug_or_a_refusal_while_a_lane_is_closed_shows_its_key_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, answer = DOORS["/v1/chat/completions"]
    caplog.set_level("DEBUG")
    async with late(tmp_path, answer) as (proxy, front, _):
        await wait_free(proxy, 1)
        assert (await proxy.chat()).status == 200, "and its lane is closed"
        await wait_free(proxy, 1)

        async def broken(_: object, provider: Any) -> bool:
            raise ValueError(f"cannot close {provider.key.reveal()} {provider!r}")

        monkeypatch.setattr("arbstr.trio_runtime.lane_words.close_key", broken)
        reply = await proxy.chat()
        shown = [await proxy.get(path) for path in ("/providers", "/health", "/v1/requests")]
        lanes = proxy.hub.lanes
        assert lanes is not None
        held = repr(lanes._ways) + repr(vars(lanes)) + repr(vars(lanes.teller))
    # As the log writes them; pytest's own does not redact.
    logged = "".join(TextFormatter(()).format(record) for record in caplog.records)
    assert "ValueError: cannot close [REDACTED]" in logged
    said = b"".join(each.body for each in (reply, *shown)).decode() + logged + held
    said += text_beside(tmp_path / "arbstr.db.lanes")
    keys = [KEY, *front.node.bank.accounts[KEY].children]
    assert len(keys) == 3
    assert not [key for key in keys if key in said or key.removeprefix("sk-") in said]

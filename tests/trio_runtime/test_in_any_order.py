"""Asking again in any order of requests, departures, endings, joins and moments, over the real run.

A scenario is drawn step by step: clients of two requests ask, leave, stop taking and take again;
their provider's answers go on, end, break or are refused; time passes. After each step everybody
has done what they can, and then must hold, whatever came before:

    an attempt was made    only where no earlier one of the same request was left unpaid-for:
                           `may_stand_beside`
    a repeat joined        wherever there was an answer to join: `can_be_joined`
    a client has           the beginning of what an undisturbed client has, byte for byte; in the
                           end all of it, or its beginning and the error
    what is kept           is what the books say, and within its bound
    nothing                outlives its time; no text is in a row or in the log

Nothing is a socket, so that a scenario is the same whenever it is run: a client is a function that
takes messages, a provider a connection that is told what comes. Everything between is real.
"""

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.dialect import Answer, Asked
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.whole import relayed
from arbstr.trio_runtime import repeats as kept_answers
from arbstr.trio_runtime.change import Change
from arbstr.trio_runtime.exchange import serve
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.packed import Packed
from arbstr.trio_runtime.repeats import Whole
from arbstr.trio_runtime.server.framing import Fields
from arbstr.trio_runtime.server.responder import Responder
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.deadlines import Deadline, Deadlines
from arbstr.trio_runtime.upstream.readers import AnswerBroken, Head
from arbstr.trio_runtime.upstream.transport import TooLate, Transport
from tests.fakes import DONE, ROUTSTR_ID, chunk, completion, sse, usage
from tests.proxy import STREAMED, RecordingLog, config, provider
from tests.searching import examples

WINDOW: Final = 60.0
PROMPT: Final = "quagga"
WORD: Final = "zebra"
ROLE: Final = sse(chunk("", role="assistant"))
END: Final = (sse(chunk(finish="stop")), sse(chunk(usage=usage())), DONE)

MORE: Final = """
[retry]
max_retries = 0
[breaker]
failures = 1000
[budget]
sats_per_day = 1000000
"""


class Call:
    """One attempt, as its provider sees it: the connection that arbstr has of it."""

    def __init__(self, client: "Client", number: int, kind: str) -> None:
        self.client = client
        self._signed = [(n.encode(), v.encode()) for n, v in [ROUTSTR_ID] if kind == "routstr"]
        self.number = number
        self.words = 0
        self.sent = self.free = self.whole = False
        self.said: list[bytes] = []
        self.released_at: float | None = None
        self.written = 0
        self.complete = False
        self._head: Head | None = None
        self._coming: list[bytes] = []
        self._ended = self._broken = self.is_late = False
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<call {self.number} of {self.client.id}>"

    # -- what arbstr does

    def within(self, seconds: float, clock: Deadlines) -> Deadline:
        pipe: Any = self
        return clock.begin(pipe, seconds)

    def interrupt(self) -> None:
        self.is_late = True
        self._changed.set()

    async def send(self, head: object, body: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.written, self.sent = len(body), True

    async def receive_head(self) -> Head:
        while self._head is None:
            await self._more()
        return self._head

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not (self._coming or self._ended or self._broken):
            await self._more()
        return self.receive_nowait()

    def receive_nowait(self) -> bytes:
        data, self._coming = b"".join(self._coming), []
        if not data and self._broken:
            raise AnswerBroken("the connection was reset")
        self.complete = self._ended
        return data

    def release(self, *, keep: bool = True) -> None:
        self.released_at = trio.current_time()

    async def _more(self) -> None:
        if self._broken:
            raise AnswerBroken("the connection was reset")
        if self.is_late:
            raise TooLate
        self._changed = trio.Event()
        await self._changed.wait()

    # -- what its provider does

    def head(self, status: int = 200, kind: str = "application/json") -> None:
        if self._head is None:
            self._head = Head(status, ((b"content-type", kind.encode()), *self._signed), b"")
        self._changed.set()

    def say(self, *pieces: bytes) -> None:
        self.said += pieces
        self._coming += pieces
        self._changed.set()

    def say_word(self, size: int) -> None:
        if not self.said:
            self.head(kind="text/event-stream")
            self.say(ROLE)
        self.words += 1
        self.say(sse(chunk(f"{WORD}{self.number}.{self.words}" + "x" * size)))

    def finish(self) -> None:
        if self.client.stream:
            if not self.said:
                self.say_word(0)
            self.say(*END)
        else:
            self.head()
            self.say(json.dumps(completion(f"{WORD}{self.number}", usage=usage())).encode())
        self.whole = self._ended = True

    def refuse(self) -> None:
        self.free = self._ended = True
        self.head(503)
        self.say(b'{"error": {"message": "no", "type": "x", "param": null, "code": null}}')

    def break_off(self) -> None:
        self._broken = True
        self._changed.set()

    @property
    def is_open(self) -> bool:
        over = self._ended or self._broken or self.released_at is not None
        return self.sent and not over


@dataclass(eq=False, repr=False)
class Client:
    """One request, and what its client has of the answer."""

    id: str
    which: int
    stream: bool
    consent: bool
    asked_at: float
    left: bool = False
    done_at: float | None = None
    takes: bool = True
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    _head: tuple[int, dict[str, str]] | None = None
    leave: Callable[[], None] | None = None
    call: Call | None = None
    _changed: trio.Event = field(default_factory=trio.Event)

    def __repr__(self) -> str:
        how = ("streamed" if self.stream else "plain") + (", allows" if self.consent else "")
        return f"<{self.id}: {self.which}, {how}; left {self.left}, {self.status}, {self.joined}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As hypothesis tells of a failure."""
        printer.text(repr(self))

    @property
    def waits(self) -> bool:
        return not (self.left or self.done_at is not None)

    @property
    def joined(self) -> str | None:
        return self.headers.get("x-arbstr-joined")

    @property
    def text(self) -> bytes:
        """All but what is its own."""
        body = self.body.replace(b": keep-alive\n\n", b"")
        return re.sub(rb'"arbstr": ?\{[^{}]*\}', b"", body)

    def head(self, status: int, lines: bytes, told: Fields) -> None:
        """As the server's: it leaves with the first bytes of the body."""
        named = (line.partition(": ") for line in lines.decode().split("\r\n")[:-1])
        self._head = status, {name: value for name, _, value in named}

    async def write(self, body: bytes, *, more: bool) -> None:
        """As the server's: a client that takes nothing is waited for, one that left is not."""
        await trio.lowlevel.checkpoint()
        while not (self.takes or self.left):
            await self._changed.wait()
        if self.left:
            return
        assert self._head is not None
        self.status, self.headers = self._head
        self.body += body
        self.whole = not more

    def go(self) -> None:
        self.left = True
        assert self.leave is not None
        self.leave()
        self._change()

    def turn(self) -> None:
        self.takes = not self.takes
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @property
    def asked(self) -> Asked:
        asked = CHAT.parse(self.sends, {}, b"")
        assert isinstance(asked, Asked)
        return asked

    @property
    def sends(self) -> bytes:
        how = {"stream": True} if self.stream else {}
        said = [{"role": "user", "content": f"{PROMPT} {self.which}"}]
        return json.dumps({"model": "gpt-4o", **how, "messages": said}).encode()


def undisturbed(call: Call, client: Client) -> bytes:
    """What `client` would have of this answer as far as it has come, had it asked first."""
    asked, said = client.asked, b"".join(call.said)
    if not client.stream:
        verdict = CHAT.judge(said, asked, "")
        return verdict.body if call.whole and isinstance(verdict, Answer) else b""
    if call.client.stream:
        relay = Relay(CHAT.reading(asked))
        out = relay.feed(said)
    elif call.whole:
        relay, out = relayed(said, asked)
    else:
        return b""
    if call.whole:
        out += re.sub(rb'"arbstr": ?\{[^{}]*\}', b"", relay.finish(b"{}"))
    return out


class World:
    """arbstr, one provider, and whoever asks."""

    def __init__(
        self, hub: Hub, log: RecordingLog, nursery: trio.Nursery, kind: str, limit: int
    ) -> None:
        self.hub = hub
        self.kind = kind
        self.log = log
        self.limit = limit
        self.clients: list[Client] = []
        self.calls: list[Call] = []
        self._nursery = nursery
        self._asking: dict[object, Client] = {}

    async def connect(self, origin: object) -> Call:
        """As the transport's. Whose task this is, its request is."""
        await trio.lowlevel.checkpoint()
        client = self._asking[trio.lowlevel.current_task()]
        assert client.call is None, "a second attempt was made for one request"
        client.call = call = Call(client, len(self.calls) + 1, self.kind)
        self.calls.append(call)
        return call

    async def ask(self, which: int, *, stream: bool, consent: bool) -> None:
        now = trio.current_time()
        same = [call for call in self.calls if call.client.which == which]
        beside = all(self.may_stand_beside(call, now) for call in same)
        joinable = [call for call in same if self.can_be_joined(call, now)]
        client = await self.begin(which, stream=stream, consent=consent)
        if consent:
            assert client.call is not None
            return
        assert client.call is None or beside, "one answer is paid for twice"
        if joinable and self.limit > 10_000:
            assert client.call is None, "an answer was there to join"
            assert client.waits or client.status == 200

    async def begin(self, which: int, *, stream: bool, consent: bool = False) -> Client:
        """Sends a request."""
        now = trio.current_time()
        client = Client(f"id-{len(self.clients)}", which, stream, consent, now)
        self.clients.append(client)
        self._nursery.start_soon(self._serve, client)
        await settled()
        return client

    async def _serve(self, client: Client) -> None:
        self._asking[trio.lowlevel.current_task()] = client
        headers = {"x-arbstr-respend": "allow"} if client.consent else {}
        responder = Responder(client, request_id=client.id, door=CHAT)

        def register(leave: Callable[[], None]) -> None:
            client.leave = leave

        with trio.CancelScope() as scope:
            await serve(
                self.hub,
                responder,
                CHAT,
                request_id=client.id,
                headers=headers,
                query=b"",
                body=client.sends,
                received=trio.current_time(),
                on_disconnect=register,
                scope=scope,
            )
        client.done_at = trio.current_time()

    def answered(self, call: Call) -> bool:
        """Whether somebody has all of it."""
        firsts = (c for c in self.clients if (c.joined or c.id) == call.client.id)
        return call.whole and any(c.whole and c.status == 200 for c in firsts)

    def may_stand_beside(self, call: Call, now: float) -> bool:
        """Whether the same may be paid for now, for what is known of this attempt."""
        client = call.client
        if call.free or not call.sent or client.waits or self.answered(call):
            return True
        ends = [at for at in (call.released_at, client.done_at) if at is not None]
        return bool(ends) and now >= min(ends) + WINDOW

    def can_be_joined(self, call: Call, now: float) -> bool:
        """Whether there is an answer in this attempt, or will be, that nobody has."""
        client = call.client
        if not client.left or call.free or self.answered(call) or not call.sent:
            return False
        if call.whole:
            assert client.done_at is not None
            return now < client.done_at + WINDOW
        # What was given up after its output is read on for its price alone.
        return call.is_open and (client.done_at is None or not call.words)

    # -- what must hold after each step

    def check(self) -> None:
        for client in self.clients:
            self._check(client)
        kept = self.hub.kept
        held = sum(
            size_of(source.kept, source.end)
            for source in kept._sources.values()
            if source.kept is not None
        )
        assert held <= kept.held <= self.limit
        now = trio.current_time()
        for answer in kept._repeats._answers.values():
            assert answer.readers or answer.until > now or not answer.size, "it outlives its time"

    def _check(self, client: Client) -> None:
        first = client.joined or client.id
        call = next((call for call in self.calls if call.client.id == first), None)
        if client.status is None:
            assert not client.body
        elif call is None or client.status != 200:
            # Refused, or there is no answer.
            assert client.status in (400, 502, 504), client
            assert client.waits or client.left or "error" in json.loads(client.body)
        elif b"error" not in client.text:
            due = undisturbed(call, client)
            assert due.startswith(client.text)
            assert not client.whole or due == client.text
            assert client.stream or client.waits or client.left or due == client.text
        else:
            assert client.stream
            assert not client.whole
            begun, _, error = client.text.rpartition(b"data: ")
            codes = ["stream_interrupted", "possibly_spent", *["upstream_error"] * call.free]
            assert json.loads(error)["error"]["code"] in codes
            assert undisturbed(call, client).startswith(begun)


def size_of(kept: Packed, end: object) -> int:
    """Bytes that are kept of a source."""
    size = kept.size
    if isinstance(end, Whole):
        size += len(end.rest) + (len(end.answer.body) if end.answer is not None else 0)
    return size


async def settled() -> None:
    await wait_all_tasks_blocked()


async def step(world: World, data: st.DataObject) -> None:
    """Something happens."""
    here = [client for client in world.clients if client.waits]
    open_calls = [call for call in world.calls if call.is_open]
    streams = [call for call in open_calls if call.client.stream]
    fresh = [call for call in open_calls if not call.said]
    what = ["ask", "ask", "wait"]
    what += ["leave", "leave", "turn"] if here else []
    what += ["finish", "break"] if open_calls else []
    what += ["say"] if streams else []
    what += ["refuse"] if fresh else []
    match data.draw(st.sampled_from(what)):
        case "ask":
            which, stream = data.draw(st.tuples(st.sampled_from([0, 0, 1]), st.booleans()))
            consent = data.draw(st.integers(0, 4)) == 4
            await world.ask(which, stream=stream, consent=consent)
        case "wait":
            await trio.sleep(data.draw(st.sampled_from([0.5, 1.9, 2.5, 20.0, 61.0])))
        case "leave":
            data.draw(st.sampled_from(here)).go()
        case "turn":
            data.draw(st.sampled_from(here)).turn()
        case "say":
            call = data.draw(st.sampled_from(streams))
            call.say_word(data.draw(st.sampled_from([0, 0, 2_000])))
        case "finish":
            data.draw(st.sampled_from(open_calls)).finish()
        case "break":
            data.draw(st.sampled_from(open_calls)).break_off()
        case "refuse":
            data.draw(st.sampled_from(fresh)).refuse()
        case _:
            raise AssertionError("nobody does this")
    await settled()
    world.check()


async def end(world: World) -> None:
    """Everybody takes, every answer ends, and nothing is left."""
    for client in world.clients:
        if not client.takes:
            client.turn()
    for call in world.calls:
        if call.is_open:
            call.finish()
    await trio.sleep(2 * WINDOW + 60)
    await settled()
    world.check()
    waiting = [client for client in world.clients if client.done_at is None]
    assert not waiting, waiting
    hub = world.hub
    assert (hub.running, hub.draining) == (set(), 0)
    left = (hub.kept.held, hub.kept._sources, hub.kept._repeats._answers)
    assert left == (0, {}, {}), left
    assert hub.kept._repeats.knows_nothing
    assert not hub.board._outstanding
    assert not hub.budget._outstanding
    assert all(call.released_at is not None for call in world.calls)
    rows = {row.correlation_id: row for row in world.log.final}
    assert rows.keys() == {client.id for client in world.clients}
    for client in world.clients:
        row = rows[client.id]
        assert (row.joined, len(row.attempts)) == (
            client.joined or row.joined,
            0 if client.call is None else 1,
        )
        assert row.joined is None or row.cost_sats == 0
        assert (row.status == "ok") <= (client.whole or client.left)


@asynccontextmanager
async def open_world(kind: str, limit: int = 10_000_000) -> AsyncIterator[World]:
    """At the end of the block everything is over."""
    settled_config = parse_config(config(provider("alpha", "http://h", kind=kind), more=MORE), {})
    log = RecordingLog()
    async with Transport() as transport, trio.open_nursery() as nursery:
        hub = Hub(
            Snapshot.of(settled_config),
            transport=transport,
            log_writer=cast("Any", log),
            change=Change(None),
            drains=nursery,
        )
        hub.kept._repeats._limit = limit
        world = World(hub, log, nursery, kind, limit)
        transport.connect = world.connect  # type: ignore[method-assign, assignment]
        nursery.start_soon(hub.kept.run)
        nursery.start_soon(transport.deadlines.run)
        nursery.start_soon(hub.silences.run)
        await trio.testing.wait_all_tasks_blocked()  # the clocks run
        yield world
        await end(world)
        nursery.cancel_scope.cancel()


async def scenario(data: st.DataObject, said: list[str]) -> None:
    kind = data.draw(st.sampled_from(["openai", "routstr"]))
    limit = data.draw(st.sampled_from([10_000_000, 10_000_000, 3_000]))
    async with open_world(kind, limit) as world:
        for _ in range(data.draw(st.integers(1, 25))):
            await step(world, data)
    told = " ".join(said) + repr(world.log.offered)
    assert WORD not in told
    assert PROMPT not in told


@examples(30)
@given(data=st.data())
def test_whatever_happens_nobody_pays_twice_without_a_word(data: st.DataObject) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(repr(record.__dict__) + record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("arbstr")
    log.addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_answers, "KEEP_STEP", 100)
        try:
            trio.run(scenario, data, said, clock=MockClock(autojump_threshold=0))
        finally:
            log.removeHandler(handler)


@STREAMED
@pytest.mark.parametrize("turn", range(4))
async def test_who_joins_as_the_answer_is_given_up_is_not_told_of_a_time_that_is_not_set(
    streaming: bool, turn: int, autojump_clock: MockClock
) -> None:
    async with open_world("openai") as world:
        (await world.begin(0, stream=streaming)).go()
        await settled()
        # Both are due in one turn of the scheduler, in either order.
        autojump_clock.jump(2.0)
        for _ in range(turn):
            await trio.lowlevel.checkpoint()
        client = await world.begin(0, stream=streaming)
        assert client.status == 400
        error = json.loads(client.body)["error"]
        assert error["code"] == "possibly_spent"
        assert "total" not in error["message"]
        assert len(world.calls) == 1

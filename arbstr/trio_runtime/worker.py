"""One of several processes that serve an address: its orders, and what it and its siblings say.

    parent --stop, hurry, reload--> worker          over a pair of sockets each, a line of JSON a
           <--ready, asks, answers--                message; the parent carries what siblings say
                                                    to each other, and reads none of it
    GET /health --asks--> the parent --to each that serves--> their reports --combined--> the answer

Who does not answer within `ANSWER_SECONDS` is said to be silent; the answer does not wait for it.
When the parent is gone, its end of the pair is: the worker then stops as it does when told to.
"""

import json
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import field
from decimal import Decimal
from typing import Any, Final, final

import trio

from arbstr.sansio.combined import Said, combined_health, combined_providers
from arbstr.sansio.dialects.dialect import Stored
from arbstr.sansio.fates import BEAT_SECONDS, State, Word
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Usage, add_sats
from arbstr.sansio.routing.budget import DAY_SECONDS, Account, day_of
from arbstr.sansio.routing.gauge import Gauge, budget_report, mark_line
from arbstr.trio_runtime import status
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.ledger.leases import Leases
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.server.listener import MOST_OF_SHARED, EagerListener
from arbstr.trio_runtime.stopping import Stopping

log = logging.getLogger("arbstr")

ANSWER_SECONDS: Final = 0.5
"""How long the reports of siblings are waited for, which take milliseconds; picked."""

READ_BYTES: Final = 64 * 1024
"""Read of a post at once."""

HEALTH: Final = "health"
PROVIDERS: Final = "providers"
BUDGET: Final = "budget"
"""What siblings are asked for."""

MARK_SECONDS: Final = 1.0
"""How often all are asked what they spent, while so much seems to be spent that its owner is to be
told."""


@final
class Lines:
    """Bytes of a post to messages, whatever the cutting."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are complete now."""
        self._rest += data
        if b"\n" not in data:
            return []
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        return [json.loads(line) for line in lines]


def line_of(message: Mapping[str, Any]) -> bytes:
    """A message as it goes over a post."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


@final
@dataclass(slots=True)
class _Question:
    """What was asked of siblings: who there is, once the parent has said so, and what they say."""

    who: list[Said] | None = None
    reports: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    complete: trio.Event = field(default_factory=trio.Event)

    def look(self) -> None:
        if self.who is not None and all(
            each.worker in self.reports for each in self.who if each.state is State.SERVING
        ):
            self.complete.set()


@final
class Worker:
    """The worker `number`. `post` leads to the parent; both are its own from now on.

    `nodes` are providers of which a sibling saw that they are Routstr nodes.
    """

    def __init__(
        self,
        number: int,
        listening: Sequence[socket.socket],
        post: socket.socket,
        nodes: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.number = number
        self._listening = listening
        self._post = post
        self._nodes = set(nodes)
        self._hub: Hub | None = None
        self._boot_id = ""
        self._questions: dict[int, _Question] = {}
        self._asked = 0
        self._outgoing: list[bytes] = []
        self._wanted = trio.Event()
        self._gauge = Gauge()
        self._marked = trio.Event()

    @property
    def sweeps(self) -> bool:
        """Whether it is its part to remove old rows: one of them is enough."""
        return self.number == 1

    def listeners(self) -> list[EagerListener]:
        """The sockets of all workers."""
        return [
            EagerListener(trio.SocketListener(trio.socket.from_stdlib_socket(each)), MOST_OF_SHARED)
            for each in self._listening
        ]

    def join(self, hub: Hub, boot_id: str) -> None:
        """What is asked about it is answered from here on, and it asks."""
        self._hub, self._boot_id = hub, boot_id
        hub.siblings = self
        for name, url in self._nodes:
            hub.is_node(name, url)

    def ready(self) -> None:
        """It serves."""
        self._put({"ready": self.number})

    # -- the post

    async def run(self, stopping: Stopping, signals: AsyncIterator[int]) -> None:
        """Reads and writes the post, until cancelled; and closes it."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._post))
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_by_signal, stopping, signals)
            nursery.start_soon(self._write, stream)
            nursery.start_soon(self._beat)
            nursery.start_soon(self._tell_marks)
            await self._read(stream, stopping)

    async def _stop_by_signal(self, stopping: Stopping, signals: AsyncIterator[int]) -> None:
        # A service manager tells all processes to stop, and the parent tells us, too: that is one
        # word, not two.
        async for number in signals:
            if not stopping.asked.is_set():
                stopping.told(signal.Signals(number).name)

    async def _beat(self) -> None:
        """Says again and again that this loop goes round."""
        while True:
            if not self._outgoing:
                self._put({"beat": self.number})
            await trio.sleep(BEAT_SECONDS)

    async def _write(self, stream: trio.SocketStream) -> None:
        while True:
            while self._outgoing:
                data, self._outgoing = b"".join(self._outgoing), []
                try:
                    await stream.send_all(data)
                except trio.BrokenResourceError:
                    return  # whoever reads notices
            self._wanted = trio.Event()
            await self._wanted.wait()

    async def _read(self, stream: trio.SocketStream, stopping: Stopping) -> None:
        lines = Lines()
        while data := await _some(stream):
            for message in lines.feed(data):
                try:
                    self._take(message, stopping)
                except Exception as error:
                    # A bug of ours in a report must not end the process.
                    log_bug(log, "a message of the parent was not understood", error)
        if not stopping.asked.is_set():
            log.warning("the parent process is gone: this worker stopping, too")
            stopping.told("its end")

    async def _tell_marks(self) -> None:
        """How far the day of all has come. The parent says each once, for all."""
        while True:
            await self._marked.wait()
            self._marked = trio.Event()
            day, now = await self.budget(), time.time()
            if day is not None:
                limit, spent, aside = (
                    Decimal(str(day[name])) for name in ("limit", "spent", "set_aside")
                )
                account = Account(limit, spent, aside, (day_of(now) + 1) * DAY_SECONDS - now)
                mark = self._gauge.news(account, now)
                if mark is not None:
                    which = [day_of(now), str(limit), mark.name]
                    self._put({"mark": which, "line": mark_line(mark, account)})
            await trio.sleep(MARK_SECONDS)

    def _put(self, message: Mapping[str, Any]) -> None:
        self._outgoing.append(line_of(message))
        self._wanted.set()

    def _take(self, message: Mapping[str, Any], stopping: Stopping) -> None:
        match message:
            case {"word": Word.STOP, "why": why}:
                if not stopping.asked.is_set():
                    stopping.told(why)
            case {"word": Word.HURRY, "why": why}:
                if not stopping.asked.is_set():
                    stopping.told(why)
                stopping.told(why)
            case {"word": Word.RELOAD}:
                signal.raise_signal(signal.SIGHUP)
            case {"ask": number, "from": sibling, "what": what}:
                report = self._report(what)
                if report is not None:
                    self._put({"told": number, "to": sibling, "by": self.number, "report": report})
            case {"who": number, "workers": workers}:
                question = self._questions.get(number)
                if question is not None:
                    question.who = [
                        Said(each["worker"], each["pid"], State(each["state"])) for each in workers
                    ]
                    question.look()
            case {"told": number, "by": sibling, "report": report}:
                question = self._questions.get(number)
                if question is not None:
                    question.reports[sibling] = report
                    question.look()
            case {"node": [name, url]}:
                self._nodes.add((name, url))
                if self._hub is not None:
                    self._hub.is_node(name, url)
            case {"stored": [wholes, parts, provider, model, tokens]}:
                if self._hub is not None:
                    usage = None if tokens is None else Usage(*tokens)
                    kept = Stored(tuple(wholes), tuple(parts))
                    self._hub.origins.answered(kept, provider, model, usage)
            case _:
                raise ValueError("no such message")

    # -- what it says, and what all say

    def _report(self, what: str) -> dict[str, Any] | None:
        hub = self._hub
        if hub is None:
            return None
        account = hub.budget.own(time.time())
        day = [self._boot_id, str(account.spent), str(account.reserved)]
        match what:
            case "health":
                return {"day": day, **status.health(hub)}
            case "providers":
                return status.providers(hub)
            case _:
                return {"day": day}

    async def _ask(self, what: str) -> list[Said]:
        """What each worker says, this one among them."""
        self._asked = number = self._asked + 1
        question = self._questions[number] = _Question()
        own = self._report(what)
        assert own is not None  # who is asked by a client has a hub
        question.reports[self.number] = own
        self._put({"ask": number, "what": what})
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                await question.complete.wait()
        finally:
            del self._questions[number]
        who = question.who or [Said(self.number, os.getpid(), State.SERVING)]
        return [
            Said(each.worker, each.pid, each.state, question.reports.get(each.worker))
            for each in who
        ]

    async def health(self) -> dict[str, Any]:
        """As `hub.Siblings`."""
        said = await self._ask(HEALTH)
        report = combined_health(self._own(said), said)
        day = await self._day(said)
        return report if day is None else {**report, "budget": day}

    async def providers(self) -> dict[str, Any]:
        """As `hub.Siblings`."""
        said = await self._ask(PROVIDERS)
        return combined_providers(self._own(said), said)

    async def budget(self) -> dict[str, Any] | None:
        """As `hub.Siblings`."""
        return await self._day(await self._ask(BUDGET))

    def booked(self, account: Account, now: float) -> None:
        """As `hub.Siblings`."""
        # What others have in hand counts as spent in what one knows, so it is looked at again.
        if self._gauge.due(account, now) is not None:
            self._marked.set()

    def showed_itself(self, provider: str, url: str) -> None:
        """As `hub.Siblings`."""
        self._nodes.add((provider, url))
        self._put({"node": [provider, url]})

    def stored(self, kept: Stored, provider: str, model: str, usage: Usage | None) -> None:
        """As `hub.Siblings`."""
        tokens = None if usage is None else [usage.input_tokens, usage.output_tokens]
        self._put({"stored": [kept.wholes, kept.parts, provider, model, tokens]})

    def _own(self, said: Sequence[Said]) -> Mapping[str, Any]:
        return next(each.report for each in said if each.worker == self.number and each.report)

    async def _day(self, said: Sequence[Said]) -> dict[str, Any] | None:
        """What the workers that answered have spent and set aside, and what the ledger says of all
        others: of those that are gone or silent, and of other machines."""
        hub, now = self._hub, time.time()
        assert hub is not None  # who is asked by a client has a hub
        if hub.budget.limit is None:
            return None
        days = [each.report["day"] for each in said if each.report is not None]
        assert isinstance(hub.today, Leases)  # or the day would be nobody's to share
        others = await hub.today.others({boot_id for boot_id, _, _ in days})
        return budget_report(
            hub.budget.limit,
            add_sats(others, *(Decimal(spent) for _, spent, _ in days)),
            add_sats(*(Decimal(reserved) for _, _, reserved in days)),
            now,
        )


async def _some(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some(READ_BYTES))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return b""

"""arbstr in a test's own process: the real application, server and transport on a loopback port.

    async with (
        open_fake_provider([answer(503), json_answer(completion())]) as fake,
        open_proxy(config(provider("alpha", fake.url), more="[retry]\\nbackoff = 0.001")) as proxy,
    ):
        reply = await proxy.chat()                      # or chat(stream=True, n=2, ...)
        assert reply.status == 200 and reply.headers["x-arbstr-retries"] == "1/alpha"
        record = await proxy.record()                   # the final row of the log, as a value

Mid-way: `async with proxy.asking(stream=True) as client: await client.until(b"Hello")`, and
leaving the block closes the client's socket. Rows go to a list, unless `database` names a file:
then the real log writer writes there, and rows are read from it.

At the end of `open_proxy` nothing may be left: no request, no drain, no ticket of the breaker, no
reservation in the budget, no socket. A test that leaves something behind fails there.
"""

import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, final

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.ledger.intents import Intent
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.accounts import Accounts
from arbstr.trio_runtime.app import ROUTES, App, Routes
from arbstr.trio_runtime.change import Change
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.lanes import Lanes
from arbstr.trio_runtime.ledger.database import IN_MEMORY, open_database
from arbstr.trio_runtime.ledger.log_writer import LogStatistics, LogWriter, open_log_writer
from arbstr.trio_runtime.ledger.port import Database
from arbstr.trio_runtime.ledger.reports import Reports
from arbstr.trio_runtime.ledger.sqlite import SqliteDatabase
from arbstr.trio_runtime.nodes import Nodes
from arbstr.trio_runtime.server.server import Server
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.transport import Transport
from tests.ledgers import lay_ledger
from tests.waiting import until

STEP: Final = 0.05
"""Seconds of a mock clock that pass at once."""

PATIENCE: Final = 20.0
"""Seconds a `wait_*` waits before it fails the test; only a broken test ever comes near."""

KEY: Final = "sk-test-0123456789abcdef"
"""The key of every provider that is not given another."""

ONE_TRY: Final = "[retry]\nmax_retries = 0\nbackoff = 0.001\n"
"""Tables for `more` of `config`: nobody is asked twice."""

STREAMED: Final = pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streamed"])
"""Both ways to ask."""

MESSAGES: Final = ({"role": "user", "content": "Say hello"},)


def provider(
    name: str,
    url: str,
    *,
    rate: int = 1,
    kind: str | None = "openai",
    key: str | None = KEY,
    models: str = "gpt-4o",
    more: str = "",
) -> str:
    """One [[providers]] table; `rate` is its price for input and output, so it sorts by it."""
    lines = [
        "[[providers]]",
        f'name = "{name}"',
        f'url = "{url}"',
        f'models = ["{models}"]',
        f"input_rate = {rate}",
        f"output_rate = {rate}",
    ]
    if kind is not None:
        lines.append(f'kind = "{kind}"')
    if key is not None:
        lines.append(f'api_key = "{key}"')
    return "\n".join([*lines, more, ""])


def config(*providers: str, more: str = "") -> str:
    """A configuration: top-level tables in `more`, then the providers."""
    return "\n".join([more, *providers])


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as the client got it; header names are in lower case. `whole`: it ended as HTTP
    says an answer ends, and not just with the connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The error object of the body, or of the last event."""
        if self.headers["content-type"] == "text/event-stream":
            return self.events[-1]["error"]
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The data of each event: JSON, or the text "[DONE]". Comments are left out."""
        found: list[Any] = []
        for block in self.body.split(b"\n\n")[:-1]:
            if block.startswith(b"data: "):
                data = block.removeprefix(b"data: ").decode()
                found.append(data if data == "[DONE]" else json.loads(data))
        return found

    @property
    def text(self) -> str:
        """What the model said, plain or streamed."""
        if self.headers["content-type"] != "text/event-stream":
            return "".join(choice["message"]["content"] for choice in self.json["choices"])
        return "".join(
            choice["delta"].get("content") or ""
            for event in self.events
            if event != "[DONE]"
            for choice in event.get("choices", [])
        )

    @property
    def trailer(self) -> Any:
        """The `arbstr` object of a complete stream: in the event after its one [DONE], the last."""
        assert self.body.count(b"[DONE]") == 1, self.body
        assert self.events[-2] == "[DONE]", self.body
        return self.events[-1]["arbstr"]


@final
class Client:
    """One connection to arbstr, and the requests on it, one after the other."""

    def __init__(self, stream: trio.SocketStream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._http = h11.Connection(h11.CLIENT)
        self._received = bytearray()

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Writes a request."""
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        self._received.clear()
        given = {"host": self._host, "content-length": str(len(body)), **(headers or {})}
        request = h11.Request(method=method, target=path, headers=list(given.items()))
        data = (self._http.send(request) or b"") + (self._http.send(h11.Data(data=body)) or b"")
        await self._stream.send_all(data + (self._http.send(h11.EndOfMessage()) or b""))

    async def head(self) -> tuple[int, dict[str, str]]:
        """The head of the answer. Fails if the connection ends before."""
        event = await self._event()
        assert isinstance(event, h11.Response), f"no answer but {event!r}"
        headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        return event.status_code, headers

    async def until(self, text: bytes) -> bytes:
        """Reads the body until it contains `text`, and returns it so far."""
        while text not in self._received:
            event = await self._event()
            assert isinstance(event, h11.Data), f"{event!r} after {bytes(self._received)!r}"
            self._received += event.data
        return bytes(self._received)

    async def rest(self) -> tuple[bytes, bool]:
        """The whole body, what was read before included, and whether it ended properly."""
        while True:
            try:
                event = await self._event()
            except (h11.RemoteProtocolError, trio.BrokenResourceError):
                return bytes(self._received), False
            if not isinstance(event, h11.Data):
                return bytes(self._received), isinstance(event, h11.EndOfMessage)
            self._received += event.data

    async def reply(self) -> Reply:
        """The whole answer."""
        status, headers = await self.head()
        body, whole = await self.rest()
        return Reply(status, headers, body, whole)

    def has_nothing_to_read(self) -> bool:
        """Whether not a byte has come that was not read yet."""
        assert self._http.trailing_data[0] == b""
        try:
            # The socket does not block: trio has it.
            self._stream.socket._sock.recv(1, socket.MSG_PEEK)  # type: ignore[attr-defined]
        except BlockingIOError:
            return True
        return False

    async def leave(self) -> None:
        """Closes the connection."""
        await self._stream.aclose()

    async def close_half(self) -> None:
        """Says that nothing more will be sent; the answer could still be read."""
        await self._stream.send_eof()

    async def _event(self) -> Any:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(bytes(await self._stream.receive_some(65_536)))


@final
class RecordingLog:
    """Stands in for the log writer: keeps what it is offered."""

    def __init__(self) -> None:
        self.offered: list[Record] = []
        self._changed = trio.Event()

    @property
    def final(self) -> list[Record]:
        """The rows of requests that are over, in the order of their end."""
        return [record for record in self.offered if record.status != "in_flight"]

    def offer(self, record: Record) -> None:
        """As LogWriter.offer; what may happen only once is checked here."""
        assert record.correlation_id not in {final.correlation_id for final in self.final}
        self.offered.append(record)
        self._changed.set()
        self._changed = trio.Event()

    def offer_in_flight(self, intent: Intent, row: Callable[[], Record]) -> None:
        record = row()
        assert record.correlation_id == intent.correlation_id
        assert [row.provider for row in record.attempts] == [
            row.provider for row in intent.attempts
        ]
        self.offer(record)

    def statistics(self) -> LogStatistics:
        """As LogWriter.statistics."""
        return LogStatistics(0, len(self.offered), 0)

    async def wait(self, count: int) -> None:
        """Until so many requests are over."""
        with trio.fail_after(PATIENCE):
            while len(self.final) < count:
                await self._changed.wait()


@final
class Proxy:
    """A running arbstr. `hub` and `server` are its own, to look at. `opened_at` is trio's time."""

    def __init__(self, hub: Hub, server: Server, port: int, log: RecordingLog) -> None:
        self.hub = hub
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}/v1"
        self.log = log
        self.opened_at = trio.current_time()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A connection, closed at the end of the block."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Client(stream, f"127.0.0.1:{self.port}")

    @asynccontextmanager
    async def asking(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        path: str = "/v1/chat/completions",
        **members: object,
    ) -> AsyncIterator[Client]:
        """A client that has sent a chat request; at the end of the block it leaves."""
        async with self.client() as client:
            data = chat_body(**members) if body is None else body
            await client.send("POST", path, data, headers)
            yield client

    async def chat(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        path: str = "/v1/chat/completions",
        **members: object,
    ) -> Reply:
        """Asks and reads the whole answer. `members` are added to the request's body."""
        async with self.asking(headers=headers, body=body, path=path, **members) as client:
            return await client.reply()

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Asks any other route."""
        async with self.client() as client:
            await client.send("GET", path, headers=headers)
            return await client.reply()

    async def record(self, count: int = 1) -> Record:
        """The last row, once `count` requests are over. Only without `database`."""
        await self.log.wait(count)
        assert len(self.log.final) == count, self.log.final
        return self.log.final[-1]

    async def wait_idle(self) -> None:
        """Until no request runs and no answer is drained."""
        await until(lambda: not self.hub.running and not self.hub.draining)


async def pass_time(
    clock: MockClock, seconds: float, *, until: Callable[[], bool], step: float = STEP
) -> None:
    """Lets a mock clock run, in steps, until something holds; at most `seconds`.

    Sockets are real, so before each step everybody gets the time to do what they can.
    """
    for _ in range(round(seconds / step)):
        await wait_all_tasks_blocked(0.005)
        if until():
            return
        clock.jump(step)
    await wait_all_tasks_blocked(0.005)
    assert until(), f"not within {seconds} s"


def chat_body(**members: object) -> bytes:
    """A chat request for gpt-4o; `members` replace or add to what it says."""
    return json.dumps({"model": "gpt-4o", "messages": MESSAGES, **members}).encode()


def rows(path: Path, table: str = "requests") -> list[dict[str, Any]]:
    """A table of a database file, in the order of its first two columns."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        # A table's name cannot be a parameter; it is the test's own.
        found: Sequence[sqlite3.Row] = connection.execute(
            f"SELECT * FROM {table} ORDER BY 1, 2"
        ).fetchall()
        return [dict(row) for row in found]


@asynccontextmanager
async def open_proxy(
    config_text: str,
    *,
    database: Path | None = None,
    change: Path | None = None,
    environ: Mapping[str, str] | None = None,
    routes: Routes = ROUTES,
    books: bool = False,
    part: tuple[int, int] = (1, 1),
) -> AsyncIterator[Proxy]:
    """Serves arbstr with this configuration until the block ends.

    `database`: the file the log is really written to. `change`: where stray ecash goes. `routes`:
    which doors there are.
    `books`: nodes are asked what their keys were charged, which needs a `database`. `part`: which
    of how many processes it is that share the lanes.
    """
    settled = parse_config(config_text, environ or {})
    failure: Exception | None = None
    recording = RecordingLog()
    where = IN_MEMORY if database is None else str(database)
    async with (
        _open_log(database, recording) as (ledger, log_writer),
        Transport() as transport,
        trio.open_nursery() as drains,
    ):
        hub = Hub(
            Snapshot.of(settled),
            transport=transport,
            log_writer=log_writer,
            change=Change(str(change) if change is not None else None),
            drains=drains,
        )
        hub.nodes = nodes = Nodes(transport, ledger, hub.reprice)
        await nodes.restore(hub.snapshot)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        # At once, because many a test's clock does not run by itself.
        server = Server(
            App(hub, Reports(SqliteDatabase(where, boot_id="")), routes),
            listeners,
            break_off_seconds=0,
        )
        proxy = Proxy(hub, server, listeners[0].socket.getsockname()[1], recording)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve)
            if any(provider.asks_node for provider in settled.providers):
                nursery.start_soon(nodes.run)
            if books:
                assert ledger is not None
                hub.accounts = Accounts(
                    transport, ledger, log_writer, hub.budget, charged=hub.charged
                )
                hub.accounts.changed(hub.snapshot)
                nursery.start_soon(hub.accounts.run)
                hub.lanes = Lanes(
                    *(transport, ledger, log_writer, hub.budget, nursery),
                    accounts=hub.accounts,
                    part=part,
                    charged=hub.charged_alone,
                )
                hub.lanes.changed(hub.snapshot)
            nursery.start_soon(hub.kept.run)
            nursery.start_soon(transport.deadlines.run)
            nursery.start_soon(hub.silences.run)
            try:
                yield proxy
            except Exception as error:
                failure = error
            await nodes.keep_used()
            nursery.cancel_scope.cancel()
        drains.cancel_scope.cancel()
    if failure is not None:
        # Raised out here, a test's failure reads as if there were no nursery around it.
        raise failure
    assert not hub.running
    assert not hub.draining
    assert not hub.board._outstanding, "a ticket of the breaker was never given back"
    assert not hub.budget._outstanding, "a reservation in the budget was never settled"
    assert transport.statistics().open == 0


@asynccontextmanager
async def _open_log(
    database: Path | None, recording: RecordingLog
) -> AsyncIterator[tuple[Database | None, LogWriter]]:
    if database is None:
        # It has the two methods of the final class that requests and /health use.
        yield None, cast("LogWriter", recording)
        return
    lay_ledger(database)
    async with open_database(str(database)) as opened, open_log_writer(opened) as log_writer:
        yield opened, log_writer

"""The load generator: one thread, one selector, raw sockets, so that it costs little itself.

    python -m bench.load

It reads one `Plan` as a line of JSON from standard input, carries it out, writes a `Result` as a
line of JSON, and waits for the next. It samples the CPU clock of the processes it is told of at
the very edges of what it counts.
"""

import json
import random
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Self, final

from bench.clock import cpu_seconds
from bench.wire import ENDS, STAMP, AnswerReader, Garbled, Order, body_of, http_request

SETTLE_SECONDS: Final = 0.15
"""Quiet time at either edge, so that what a gateway does afterwards (its log) is counted where it
belongs. arbstr writes its rows 50 ms after they were made."""

GRACE_SECONDS: Final = 20.0
"""How long answers may take beyond the planned time before a run is given up."""

MAX_SAMPLES: Final = 20_000
"""Samples of one run that are reported; of more, every n-th."""

PLAYED: Final = 1
"""The seed of an open loop's moments."""

WARM_UP: Final = 5
"""Requests of each connection before anything is counted."""


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """One run. With `ramp` it is one long stream per connection, with `rate` requests in an open
    loop, else in a closed one.

    `seconds`: how long is counted. `ramp`: over how many seconds the streams are started. `rate`:
    how many requests a second begin, whatever became of those before (as a Poisson process).
    `door`: whose request it is; `path` is where.
    `limit`: of a closed loop, the most requests. `pids`: whose CPU time is counted.
    """

    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...]
    model: str
    connections: int
    request_bytes: int
    order: Order
    seconds: float
    ramp: float | None = None
    rate: float | None = None
    limit: int = 100_000
    pids: tuple[int, ...] = ()
    door: str = "chat"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `json.dumps(asdict(plan))`."""
        values = json.loads(text)
        values["headers"] = tuple((name, value) for name, value in values["headers"])
        values["pids"] = tuple(values["pids"])
        values["order"] = Order(**values["order"])
        return cls(**values)


@final
@dataclass(slots=True)
class Result:
    """What a run measured. Times of single answers and events in microseconds."""

    latency: list[int] = field(default_factory=list)
    """Request to last byte (of an open loop: from when it was due), or to the first event
    (streams)."""
    delay: list[int] = field(default_factory=list)
    """Of single events, from the provider's write to our read."""
    count: int = 0
    """Requests (loops) or events (streams) between the two samples of the CPU clock."""
    cpu: float | None = None
    """Seconds of CPU used in between; None if the processes are not known."""
    seconds: float = 0.0
    own_cpu: float = 0.0
    errors: int = 0
    error: str = ""
    """The first error, in words."""


class Stuck(Exception):  # noqa: N818 - a fact about the gateway
    """Answers did not come in time."""


@final
class Loop:
    """A selector and a clock."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()

    def turn(self, until: float) -> None:
        """Serves what is ready, waiting for it until then at most."""
        for key, mask in self.selector.select(max(0.0, until - time.monotonic())):
            key.data(mask)

    def rest(self, seconds: float) -> None:
        """Serves what is ready for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.selector.get_map():
                self.turn(until)
            else:
                time.sleep(max(0.0, until - time.monotonic()))


@final
class Client:
    """One connection, one request at a time. `done` is called after each answer."""

    def __init__(
        self, loop: Loop, plan: Plan, request: bytes, result: Result, done: Callable[[Self], None]
    ) -> None:
        self._loop = loop
        self._plan = plan
        self._request = request
        self._result = result
        self._done = done
        self._sock: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._answer = AnswerReader()
        self._tail = b""
        self._size = 0
        self._whole = False
        self.sent_at = 0.0
        self.events = 0
        self.busy = False
        self.began = False

    def ask(self, due: float | None = None) -> None:
        """Sends the request, which was due now, or some time ago."""
        self.busy, self.began, self._whole = True, False, False
        self._answer, self._tail, self._size, self.events = AnswerReader(), b"", 0, 0
        self._unsent = memoryview(self._request)
        try:
            if self._sock is None:
                self._connect()
            self.sent_at = time.monotonic() if due is None else due
            self._send()
        except OSError as error:
            self._failed(f"cannot send: {error}")

    def _connect(self) -> None:
        self._sock = sock = socket.create_connection((self._plan.host, self._plan.port), 5.0)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.selector.register(sock, selectors.EVENT_READ, self._ready)

    def _send(self) -> None:
        assert self._sock is not None  # ask() connected it
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            sent = 0
        waited = len(self._unsent) < len(self._request)
        self._unsent = self._unsent[sent:]
        if self._unsent:
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._loop.selector.modify(self._sock, both, self._ready)
        elif waited:
            self._loop.selector.modify(self._sock, selectors.EVENT_READ, self._ready)

    def _ready(self, mask: int) -> None:
        assert self._sock is not None  # it is registered
        try:
            if mask & selectors.EVENT_WRITE and self._unsent:
                self._send()
            if mask & selectors.EVENT_READ:
                self._take(self._sock.recv(256 * 1024))
        except BlockingIOError:
            return
        except (OSError, Garbled) as error:
            self._failed(f"{type(error).__name__}: {error}")

    def _take(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if not self.busy:
            self.close()  # an idle connection was closed; the next request opens another
            return
        if not data:
            self._answer.end()
            if not self._answer.complete:
                self._failed("the connection was closed before the answer was complete")
                return
        body = self._answer.feed(data) if data else b""
        self._size += len(body)
        if self._answer.status != 200:
            self._tail += body[:200]
        elif self._plan.order.events:
            self._stamps(body, now)
        if self._answer.complete:
            self._finished()

    def _stamps(self, body: bytes, now: int) -> None:
        data = self._tail + body
        at = 0
        for match in STAMP.finditer(data):
            at = match.end()
            self.events += 1
            self.note((now - int(match[1])) // 1000)
        if self.events == self._plan.order.events and ENDS[self._plan.door] in data:
            self._whole = True
        self._tail = data[max(at, len(data) - 64) :]

    def note(self, delay: int) -> None:
        """An event came, so long after it was written."""
        if not self.began:
            self.began = True
            if self._plan.ramp is not None:
                self._result.latency.append(int((time.monotonic() - self.sent_at) * 1e6))
        self._result.delay.append(delay)

    def _finished(self) -> None:
        order = self._plan.order
        if self._answer.status != 200:
            self._failed(f"status {self._answer.status}: {self._tail[:200]!r}")
        elif self._size < order.answer:
            self._failed(f"{self._size} bytes instead of {order.answer}")
        elif self.events != order.events:
            self._failed(f"{self.events} events instead of {order.events}")
        elif order.events and not self._whole:
            self._failed("a stream without its end")
        else:
            if self._plan.ramp is None:
                self._result.latency.append(int((time.monotonic() - self.sent_at) * 1e6))
            self.busy = False
            if self._answer.closes:
                self.close()
            self._done(self)

    def _failed(self, why: str) -> None:
        self._result.errors += 1
        self._result.error = self._result.error or why
        self.busy = False
        self.close()
        self._done(self)

    def close(self) -> None:
        """Closes the connection."""
        if self._sock is not None:
            self._loop.selector.unregister(self._sock)
            self._sock.close()
            self._sock = None


def run(plan: Plan) -> Result:
    """Carries out a plan. Raises Stuck."""
    loop, result = Loop(), Result()
    request = http_request(
        f"{plan.host}:{plan.port}",
        plan.path,
        plan.headers,
        body_of(plan.door, plan.model, plan.order, plan.request_bytes),
    )
    clients: list[Client] = []
    work = _streams if plan.ramp is not None else _closed_loop if plan.rate is None else _open_loop
    try:
        work(loop, plan, result, clients, request)
    finally:
        for client in clients:
            client.close()
        loop.selector.close()
    result.latency, result.delay = _thinned(result.latency), _thinned(result.delay)
    return result


def _thinned(samples: list[int]) -> list[int]:
    return samples[:: len(samples) // MAX_SAMPLES + 1]


def _closed_loop(
    loop: Loop, plan: Plan, result: Result, clients: list[Client], request: bytes
) -> None:
    left, until = WARM_UP * plan.connections, float("inf")

    def next_request(client: Client) -> None:
        nonlocal left
        # A gateway that fails everything is not asked a hundred thousand times.
        if left > 0 and time.monotonic() < until and result.errors < 20:
            left -= 1
            client.ask()

    def drive(deadline: float) -> None:
        for client in clients:
            next_request(client)
        _until_answered(loop, clients, deadline)

    def count() -> None:
        nonlocal left, until
        until = time.monotonic() + plan.seconds
        left = plan.limit
        drive(until + GRACE_SECONDS)

    clients += [Client(loop, plan, request, result, next_request) for _ in range(plan.connections)]
    drive(time.monotonic() + GRACE_SECONDS)
    _counted(loop, plan, result, count)


def _open_loop(
    loop: Loop, plan: Plan, result: Result, clients: list[Client], request: bytes
) -> None:
    """Requests begin when they are due. One that finds no idle connection waits for one, and its
    wait counts: a gateway that stalls is not asked less for it (coordinated omission)."""
    warm, due, idle = WARM_UP * plan.connections, deque[float](), list[Client]()

    def next_request(client: Client) -> None:
        nonlocal warm
        if warm > 0 and result.errors < 20:
            warm -= 1
            client.ask()
        elif due:
            client.ask(due.popleft())
        else:
            idle.append(client)

    def count() -> None:
        # The same moments for every target of every round.
        gaps = random.Random(PLAYED)
        start = time.monotonic()
        at = gaps.expovariate(plan.rate or 1.0)
        while at < plan.seconds and result.errors < 20:
            while time.monotonic() < start + at:
                loop.turn(start + at)
            if idle:
                idle.pop().ask(start + at)
            else:
                due.append(start + at)
            at += gaps.expovariate(plan.rate or 1.0)
        _until_answered(loop, clients, time.monotonic() + GRACE_SECONDS)

    clients += [Client(loop, plan, request, result, next_request) for _ in range(plan.connections)]
    for client in clients:
        next_request(client)
    _until_answered(loop, clients, time.monotonic() + GRACE_SECONDS)
    _counted(loop, plan, result, count)


def _until_answered(loop: Loop, clients: Sequence[Client], deadline: float) -> None:
    while any(client.busy for client in clients):
        if time.monotonic() > deadline:
            raise Stuck("answers did not come in time")
        loop.turn(min(deadline, time.monotonic() + 1.0))


def _counted(loop: Loop, plan: Plan, result: Result, work: Callable[[], None]) -> None:
    """Of loops: what `work` does counts, and what came before does not."""
    loop.rest(SETTLE_SECONDS)
    result.latency.clear()
    result.delay.clear()
    before, own, start = cpu_seconds(plan.pids), time.process_time(), time.monotonic()
    work()
    result.seconds, result.own_cpu = time.monotonic() - start, time.process_time() - own
    result.count = len(result.latency)
    loop.rest(SETTLE_SECONDS)
    result.cpu = _used(before, cpu_seconds(plan.pids))


def _streams(loop: Loop, plan: Plan, result: Result, clients: list[Client], request: bytes) -> None:
    ramp = plan.ramp or 0.0
    start = time.monotonic()

    def until(when: float) -> None:
        while time.monotonic() < when:
            loop.turn(when)

    for n in range(plan.connections):
        until(start + ramp * n / plan.connections)
        client = Client(loop, plan, request, result, lambda _client: None)
        clients.append(client)
        client.ask()
    deadline = time.monotonic() + GRACE_SECONDS
    while any(client.busy and not client.began for client in clients):
        if time.monotonic() > deadline:
            raise Stuck("streams did not begin in time")
        loop.turn(time.monotonic() + 0.05)
    loop.rest(SETTLE_SECONDS)
    result.delay.clear()
    before, own, began = cpu_seconds(plan.pids), time.process_time(), time.monotonic()
    until(began + plan.seconds)
    result.cpu = _used(before, cpu_seconds(plan.pids))
    result.seconds, result.own_cpu = time.monotonic() - began, time.process_time() - own
    result.count = len(result.delay)
    counted = list(result.delay)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(client.busy for client in clients):
        if time.monotonic() > deadline:
            raise Stuck("streams did not end in time")
        loop.turn(time.monotonic() + 0.05)
    result.delay = counted


def _used(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def main() -> None:
    """Carries out plans until standard input ends."""
    print("load listens on standard input", flush=True)
    for line in sys.stdin:
        try:
            answer = asdict(run(Plan.from_json(line)))
        except (Stuck, OSError) as error:
            answer = asdict(Result(errors=1, error=str(error)))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""A scripted Routstr node: what it answers, and what its own books say it charged.

    node = Node(seed=1)
    async with open_fake_provider(node.serve) as fake:
        ...  one provider of kind "routstr" at fake.url, with a key
    node.visits         every request it read, what was charged for it, and whether it said so

A node is a proxy in front of an upstream that fails in every way. What live nodes do about it, and
what they charge, is the table `FAULTS`: one row a way, with the play for a plain request and for a
stream, the share of its chance, whether the node charges, and whether the answer tells so before
it ends (a `stated` charge). The node finishes and charges what its client has left behind: so a
visit is booked when it is read, whatever becomes of the connection.

Its account is that of one key, in millisatoshis, as `GET /v1/balance/info` tells it. Every visit is
settled as soon as it is booked, so nothing is ever `reserved`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

from tests.fakes import (
    DONE,
    RESET_AFTER_REQUEST,
    ROLE,
    ROUTSTR_ID,
    STOP,
    Behaviour,
    Play,
    Request,
    Step,
    answer,
    chunk,
    completion,
    half_answer,
    json_answer,
    routstr_error,
    sse,
    stream,
    usage,
)

PROMPT: Final = 100
ANSWER: Final = 50
"""Tokens of every answer, as its usage says."""

LATE: Final = 2.6
"""Seconds that a late trailer comes after the finish reason: more than a proxy waits for it."""

SLOW: Final = 1.6
"""Seconds before a slow answer: more than the timeouts of the tests allow."""


@final
@dataclass(frozen=True, slots=True)
class Bill:
    """What one request costs, and how an answer says so. `msats` is 0 where nothing is charged."""

    msats: int
    rates: tuple[int, int]

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens and price as a node states them; all zero in a trailer it makes up itself."""
        read, written = (PROMPT, ANSWER) if self.msats else (0, 0)
        parts = {"input_msats": read * self.rates[0], "output_msats": written * self.rates[1]}
        cost = {"base_msats": 0, **parts, "total_msats": self.msats}
        return usage(read, written, cost=cost, cost_sats=self.msats // 1000)

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [ROUTSTR_ID, ("x-routstr-cost-msats", str(self.msats))]

    @property
    def trailer(self) -> bytes:
        """The chunk with the price, which comes after the finish reason and before `[DONE]`."""
        return sse(chunk(usage=self.usage, cost=self.usage["cost"]))


Make: TypeAlias = Callable[[Bill], Play]


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """One way of a node and its upstream. `plain` and `streamed` make the play; None where the way
    has no such form. `charges`: the node takes the price. `stated`: the answer says what was taken,
    0 too, to whoever reads it to its end. `weight` is the share of its chance.
    """

    name: str
    plain: Make | None
    streamed: Make | None
    charges: bool
    stated: bool
    weight: int = 2


def _plain(bill: Bill, **more: object) -> Play:
    return json_answer(completion(usage=bill.usage, **more), headers=bill.headers)  # type: ignore[arg-type]


def _stream(*events: Step, ending: Any = "clean", before: Sequence[float] = ()) -> Play:
    return stream(events, ending=ending, headers=[ROUTSTR_ID], before=before)


WORDS: Final = (sse(chunk("Hello")), sse(chunk(" there")))
ERROR: Final = sse({"error": {"message": "the upstream exploded", "code": 502}, "provider": "base"})
DETAIL: Final = sse({"detail": {"error": {"message": "upstream failed", "code": "UPSTREAM_ERROR"}}})


def _error_object(bill: Bill) -> Play:
    error = {"message": "the upstream exploded", "type": "upstream_error", "code": 502}
    return json_answer({"error": error, "usage": bill.usage}, headers=bill.headers)


def _slow_json(bill: Bill) -> Play:
    return json_answer(completion(usage=bill.usage), headers=bill.headers, before=[SLOW])


def _cut_json(bill: Bill) -> Play:
    body = b'{"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": {"cont'
    return half_answer(body + b" " * 40, len(body), headers=bill.headers)


def _unsigned(status: int) -> Make:
    """An answer of something in front of the node."""
    return lambda _: answer(status, b"<html>A timeout occurred</html>", content_type="text/html")


def _signed(status: int) -> Make:
    return lambda _: routstr_error(status)


FAULTS: Final[tuple[Fault, ...]] = (
    Fault(
        "good",
        _plain,
        lambda bill: _stream(ROLE, *WORDS, STOP, bill.trailer, DONE),
        charges=True,
        stated=True,
        weight=20,
    ),
    # The node could not reach its upstream, and gives the reservation back before it says so.
    Fault("signed 500", _signed(500), _signed(500), charges=False, stated=False, weight=4),
    Fault("signed 502", _signed(502), _signed(502), charges=False, stated=False),
    Fault("signed 424", _signed(424), _signed(424), charges=False, stated=False),
    Fault("signed 504", _signed(504), _signed(504), charges=False, stated=False),
    # Whoever stands before the node gave up, and the node goes on.
    Fault("unsigned 502", _unsigned(502), _unsigned(502), charges=True, stated=False),
    Fault("unsigned 504", _unsigned(504), _unsigned(504), charges=True, stated=False),
    Fault("unsigned 524", _unsigned(524), _unsigned(524), charges=True, stated=False),
    Fault(
        "reset before the head",
        lambda _: RESET_AFTER_REQUEST,
        lambda _: RESET_AFTER_REQUEST,
        charges=True,
        stated=False,
    ),
    Fault(
        "closed before the head",
        lambda _: Play(ending="fin"),
        lambda _: Play(ending="fin"),
        charges=False,
        stated=False,
    ),
    # A 200 that says an error, and a price for it: the fault by which money was paid twice.
    Fault(
        "error with a price",
        _error_object,
        lambda bill: _stream(ROLE, ERROR, bill.trailer),
        charges=True,
        stated=True,
        weight=5,
    ),
    Fault(
        "detail with a price",
        lambda bill: json_answer(
            {"detail": {"error": {"message": "no"}}, "cost": bill.usage["cost"]},
            headers=[ROUTSTR_ID],
        ),
        lambda bill: _stream(DETAIL, bill.trailer, DONE),
        charges=True,
        stated=True,
    ),
    Fault(
        "error, and nothing taken",
        _error_object,
        lambda bill: _stream(ROLE, ERROR, bill.trailer),
        charges=False,
        stated=True,
        weight=4,
    ),
    Fault(
        "error after output, with a price",
        None,
        lambda bill: _stream(ROLE, *WORDS, ERROR, bill.trailer),
        charges=True,
        stated=True,
    ),
    Fault(
        "error after output, and nothing taken",
        None,
        lambda bill: _stream(ROLE, *WORDS, ERROR, bill.trailer),
        charges=False,
        stated=True,
    ),
    Fault(
        "no choices",
        lambda bill: json_answer(
            {**completion(usage=bill.usage), "choices": []}, headers=bill.headers
        ),
        None,
        charges=True,
        stated=True,
    ),
    Fault(
        "an empty choice",
        lambda bill: json_answer(
            {
                **completion(usage=bill.usage),
                "choices": [{"index": 0, "finish_reason": "stop"}],
            },
            headers=[ROUTSTR_ID],
        ),
        None,
        charges=True,
        stated=True,
    ),
    Fault("cut in the body", _cut_json, None, charges=True, stated=True),
    # The node tells a cut upstream as a clean end. Whether it charges depends on its version.
    Fault(
        "cut before output, charged",
        None,
        lambda _: _stream(ROLE),
        charges=True,
        stated=False,
    ),
    Fault("cut after output, charged", None, lambda _: _stream(ROLE, *WORDS), True, False),
    Fault("cut after output, free", None, lambda _: _stream(ROLE, *WORDS), False, False),
    Fault("reset in the stream", None, lambda _: _stream(ROLE, *WORDS, ending="rst"), True, False),
    Fault(
        "cut, then a trailer of zeros",
        None,
        lambda bill: _stream(ROLE, *WORDS, bill.trailer),
        charges=False,
        stated=True,
    ),
    Fault(
        "cut, then a price",
        None,
        lambda bill: _stream(ROLE, *WORDS, bill.trailer),
        charges=True,
        stated=True,
    ),
    Fault(
        "a late trailer",
        None,
        lambda bill: _stream(ROLE, *WORDS, STOP, LATE, bill.trailer, DONE),
        charges=True,
        stated=True,
        weight=1,
    ),
    Fault(
        "slower than we wait",
        _slow_json,
        lambda bill: _stream(ROLE, *WORDS, STOP, bill.trailer, DONE, before=[SLOW]),
        charges=True,
        stated=True,
        weight=1,
    ),
    Fault(
        "stalls in the stream, then goes on",
        None,
        lambda bill: _stream(ROLE, *WORDS, SLOW, STOP, bill.trailer, DONE),
        charges=True,
        stated=True,
        weight=1,
    ),
    Fault(
        "no usage",
        lambda _: json_answer(completion(usage=None), headers=[ROUTSTR_ID]),
        lambda _: _stream(ROLE, *WORDS, STOP, DONE),
        charges=False,
        stated=False,
    ),
    # Without it a key that ran dry would not be seen; nothing is reserved.
    Fault(
        "an empty key",
        lambda _: routstr_error(402, "insufficient_quota", "insufficient_balance"),
        lambda _: routstr_error(402, "insufficient_quota", "insufficient_balance"),
        charges=False,
        stated=False,
        weight=0,
    ),
)
"""What a node does, by what its upstream did. Taken from recordings of live nodes."""


@final
@dataclass(frozen=True, slots=True)
class Visit:
    """A request the node read. `who` is the `user` its client gave, `charged` in millisats."""

    who: str
    fault: str
    charged: int
    stated: bool


@final
class Node:
    """The node. `serve` is the script of a fake provider; the same seed makes the same faults.

    `rates` are millisats a token, read and written. `only`: the names of the faults it has, all of
    those with a weight if not given.
    """

    def __init__(
        self, *, seed: int, rates: tuple[int, int] = (2, 6), only: Sequence[str] = ()
    ) -> None:
        self.rates = rates
        self.visits: list[Visit] = []
        self.balance = 10**9
        self._dice = random.Random(seed)
        self._faults = [fault for fault in FAULTS if not only or fault.name in only]

    @property
    def price(self) -> int:
        """Millisats of an answer."""
        return PROMPT * self.rates[0] + ANSWER * self.rates[1]

    @property
    def total_spent(self) -> int:
        return sum(visit.charged for visit in self.visits)

    def account(self) -> Mapping[str, object]:
        """What `GET /v1/balance/info` says."""
        return {
            "balance": self.balance,
            "reserved": 0,
            "is_child": False,
            "total_requests": sum(1 for visit in self.visits if visit.charged),
            "total_spent": self.total_spent,
        }

    def serve(self, request: Request) -> Behaviour:
        """Books a request, and says how to answer it."""
        if request.method == "GET":
            return json_answer(self.account(), headers=[ROUTSTR_ID])
        fault, make = self._fault(stream=request.wants_stream)
        charged = self.price if fault.charges else 0
        self.balance -= charged
        self.visits.append(Visit(request.json["user"], fault.name, charged, fault.stated))
        return make(Bill(charged, self.rates))

    def _fault(self, *, stream: bool) -> tuple[Fault, Make]:
        fitting = [
            (fault, make)
            for fault in self._faults
            if (make := fault.streamed if stream else fault.plain) is not None
        ]
        weights = [fault.weight or len(self._faults) == 1 for fault, _ in fitting]
        return self._dice.choices(fitting, weights)[0]

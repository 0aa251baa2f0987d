"""A scripted Routstr node: what it answers, and what its own books say it charged.

    node = Node(seed=1)
    async with open_fake_provider(node.serve) as fake:
        ...  one provider of kind "routstr" at fake.url, with a key
    node.visits         every request it read, what was charged for it, and whether it said so
    node.restart()      as after kill -9: what ran is forgotten, and nothing of it is charged

A node is a proxy in front of an upstream that fails in every way. What live nodes do about it, and
what they charge, is the table `FAULTS`: one row a way, with the play for a plain request and for a
stream, the share of its chance, whether the node charges, and whether the answer tells so before
it ends (a `stated` charge). The node finishes and charges what its client has left behind: so a
visit is booked when it is read, whatever becomes of the connection.

Its money is a `Bank` (`bank.py`): a request is reserved for when it is read, and ends when its
answer tells the price, or some time of `works` seconds later where it does not, whatever becomes of
its connection: charged, given back, or lost until the sweep.
Keys that nobody deposited anything on have more than any test spends. `models` is what it lists, in
sats a token; a node that lists none serves any, at `rates`. `takes` times its price is what it
takes and says; `unsaid` millisats more it takes without a word.
"""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias, final

import trio

from tests.bank import Bank, Refused, Reservation
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
    # What becomes of a reservation that is not charged: settled at 0, "reverted", or "lost".
    otherwise: str = "settled"


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
    Fault(
        "signed 500",
        _signed(500),
        _signed(500),
        charges=False,
        stated=False,
        weight=4,
        otherwise="reverted",
    ),
    Fault("signed 502", _signed(502), _signed(502), False, False, otherwise="reverted"),
    Fault("signed 424", _signed(424), _signed(424), False, False, otherwise="reverted"),
    Fault("signed 504", _signed(504), _signed(504), False, False, otherwise="reverted"),
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
        otherwise="lost",
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
    Fault(
        "cut after output, free",
        None,
        lambda _: _stream(ROLE, *WORDS),
        charges=False,
        stated=False,
        otherwise="lost",
    ),
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
    # The upstream failed, and so did the word of it.
    Fault(
        "dies, and takes nothing",
        lambda _: RESET_AFTER_REQUEST,
        lambda _: RESET_AFTER_REQUEST,
        charges=False,
        stated=False,
        otherwise="reverted",
    ),
    # The upstream's own refusals, passed on.
    Fault("signed 400", _signed(400), _signed(400), False, False, 1, otherwise="reverted"),
    Fault(
        "signed 404",
        lambda _: routstr_error(404, "invalid_request_error", "model_not_found"),
        lambda _: routstr_error(404, "invalid_request_error", "model_not_found"),
        charges=False,
        stated=False,
        weight=1,
        otherwise="reverted",
    ),
    # Without it a key that ran dry would not be seen; nothing is reserved.
    Fault(
        "an empty key",
        lambda _: routstr_error(402, "insufficient_quota", "insufficient_balance"),
        lambda _: routstr_error(402, "insufficient_quota", "insufficient_balance"),
        charges=False,
        stated=False,
        weight=0,
        otherwise="reverted",
    ),
)
"""What a node does, by what its upstream did. Taken from recordings of live nodes."""


@final
@dataclass(slots=True, eq=False)
class Visit:
    """A request the node read. `who` is the `user` its client gave; `charged` is what was taken so
    far, in millisats; `told_at` is when the answer says so, if it does."""

    who: str
    fault: str
    stated: bool
    told_at: float
    charged: int = 0


@final
@dataclass(frozen=True, slots=True)
class Model:
    """A model as a node lists it: sats a token, and tokens."""

    prompt: float
    completion: float
    context: int = 10_000
    longest: int = 2_000
    more: Mapping[str, Any] = field(default_factory=dict)

    def listed(self, model: str) -> dict[str, Any]:
        """The model in `GET /v1/models`."""
        top, bottom = self.longest * self.completion, (self.context - self.longest) * self.prompt
        return {
            "id": model,
            "name": model,
            "created": 1_700_000_000,
            "context_length": self.context,
            "sats_pricing": {
                "prompt": self.prompt,
                "completion": self.completion,
                "request": 0.001,
                "input_cache_read": 0.0,
                "input_cache_write": 0.0,
                "max_prompt_cost": self.context * self.prompt,
                "max_completion_cost": top,
                "max_cost": top + bottom,
            },
            "top_provider": {
                "context_length": self.context,
                "max_completion_tokens": self.longest,
            },
            "enabled": True,
            "canonical_slug": None,
            "alias_ids": None,
            "forwarded_model_id": None,
            **self.more,
        }

    def reservation(self, body: Mapping[str, Any]) -> int:
        """What the node reserves for a request, in millisats, in floats as it does."""
        top, bottom = self.longest * self.completion, (self.context - self.longest) * self.prompt
        wanted = int((top + bottom) * 1000 * 0.99)
        characters = sum(len(each.get("content") or "") for each in body["messages"])
        prompt = bottom * 0.99 - characters // 3 * self.prompt
        wanted -= max(0, math.floor(prompt * 1000))
        if (limit := body.get("max_tokens")) is not None:
            wanted -= max(0, math.floor((top * 0.99 - limit * self.completion) * 1000))
        return max(1, wanted)


RICH: Final = 10**9
"""Millisats on every key of a node that nobody deposited anything on."""


@final
class Node:
    """The node. `serve` is the script of a fake provider; the same seed makes the same faults.

    `rates` are millisats a token, read and written. `only`: the names of the faults it has, all of
    those with a weight if not given. `works`: from how many seconds to how many a request takes.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        rates: tuple[int, int] = (2, 6),
        only: Sequence[str] = ("good",),
        models: Mapping[str, Model] | None = None,
        works: tuple[float, float] = (0.0, 0.0),
        sweep: float = 300.0,
        opens: int | None = RICH,
        children: bool = True,
        closes: bool = True,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.rates = rates
        self.visits: list[Visit] = []
        self.models = dict(models or {})
        self.works = works
        self.has_children = children
        self.closes = closes
        self.listings = 0
        self.asked: list[str] = []
        self.down = False
        self.takes = 1
        self.unsaid = 0
        self.bank = Bank(clock, sweep=sweep, opens=opens)
        self._dice = random.Random(seed)
        self._faults = [fault for fault in FAULTS if not only or fault.name in only]

    def only(self, *faults: str) -> None:
        """From now on it has these faults alone."""
        self._faults = [fault for fault in FAULTS if fault.name in faults]

    def move_bitcoin(self, times: float) -> None:
        """All prices in sats are so many times what they were."""
        self.models = {
            name: replace(each, prompt=each.prompt * times, completion=each.completion * times)
            for name, each in self.models.items()
        }

    @property
    def price(self) -> int:
        """Millisats of an answer at `rates`."""
        return PROMPT * self.rates[0] + ANSWER * self.rates[1]

    @property
    def total_spent(self) -> int:
        """What all keys were charged so far."""
        self.bank.turn()
        return sum(visit.charged for visit in self.visits)

    def restart(self) -> None:
        """It is killed, and there again at once. Whoever has its connections cuts them first."""
        self.bank.restart()
        for visit in self.visits:
            # What was written a moment ago may not have been read.
            visit.stated = visit.stated and visit.told_at < self.bank.clock() - 0.5

    def serve(self, request: Request) -> Behaviour:
        """Answers a question, or books a request and says how to answer it."""
        if self.down:
            return RESET_AFTER_REQUEST
        key = (request.header("authorization") or "").removeprefix("Bearer ")
        path = request.path.removeprefix("/v1")
        if request.method == "GET" or path.startswith("/balance"):
            self.asked.append(path)
            return self._told(path, key, request)
        return self._chat(key, request)

    def _told(self, path: str, key: str, request: Request) -> Behaviour:
        match path:
            case "/models":
                self.listings += 1
                data = [model.listed(name) for name, model in self.models.items()]
                return json_answer({"data": data}, headers=[ROUTSTR_ID])
            case "/info":
                info: dict[str, Any] = {"name": "fake", "version": "0.4.5", "mints": []}
                if self.has_children:
                    info["child_key_cost_msats"] = self.bank.child_key_cost
                return json_answer(info, headers=[ROUTSTR_ID])
            case "/balance/info":
                return self._answer(self.bank.info(key))
            case "/balance/child-key" if self.has_children:
                asked = request.json
                made = self.bank.children(
                    key,
                    asked.get("count", 1),
                    limit=asked.get("balance_limit"),
                    validity=asked.get("validity_date"),
                )
                if isinstance(made, Refused):
                    return self._answer(made)
                cost = self.bank.child_key_cost * len(made)
                return self._answer(
                    {"api_keys": list(made), "count": len(made), "cost_msats": cost}
                )
            case "/balance/create" if self.closes and request.method == "POST":
                asked = request.json
                return self._answer(
                    self.bank.limit(asked["initial_balance_token"], asked.get("validity_date"))
                )
        return self._answer(Refused(404, "not_found", "not_found", f"Path '{path}' not found"))

    def _answer(self, what: dict[str, Any] | Refused) -> Behaviour:
        if isinstance(what, Refused):
            body = {**what.body(), "request_id": ROUTSTR_ID[1]}
            return json_answer(body, what.status, [ROUTSTR_ID])
        return json_answer(what, headers=[ROUTSTR_ID])

    def _chat(self, key: str, request: Request) -> Behaviour:
        asked = json.loads(request.body)
        model = self.models.get(asked["model"])
        if model is None and self.models:
            return routstr_error(400, "invalid_model")
        held = self.bank.reserve(key, 300 if model is None else model.reservation(asked))
        if isinstance(held, Refused):
            return self._answer(held)
        fault, make = self._fault(stream=request.wants_stream)
        rates, price = self.rates, self.price
        if model is not None:
            # Rounded up, a request.
            price = math.ceil((PROMPT * model.prompt + ANSWER * model.completion) * 1000 - 1e-9)
        said = price * self.takes if fault.charges else 0
        charged = said + self.unsaid if fault.charges else 0
        play = make(Bill(said, rates))
        pauses = sum(step for step in play.steps if isinstance(step, float))
        told_at = self.bank.clock() + pauses
        visit = Visit(asked.get("user", ""), fault.name, fault.stated, told_at)
        self.visits.append(visit)
        # It books before it says what it took; of what it does not tell, sooner or later.
        tells = fault.stated or fault.otherwise == "reverted"
        seconds = pauses if tells else self._dice.uniform(*self.works)
        self.bank.later(seconds, lambda: self._end(fault, held, visit, charged), since=held.at)
        self.bank.turn()
        return play

    def _end(self, fault: Fault, held: Reservation, visit: Visit, charged: int) -> None:
        if fault.charges or fault.otherwise == "settled":
            visit.charged = self.bank.charge(held, charged)
        elif fault.otherwise == "reverted":
            self.bank.revert(held)

    def _fault(self, *, stream: bool) -> tuple[Fault, Make]:
        fitting = [
            (fault, make)
            for fault in self._faults
            if (make := fault.streamed if stream else fault.plain) is not None
        ]
        weights = [fault.weight or len(self._faults) == 1 for fault, _ in fitting]
        return self._dice.choices(fitting, weights)[0]

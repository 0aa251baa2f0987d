"""What is measured, as a table."""

import math
from dataclasses import dataclass, replace
from typing import Final, final

from bench.wire import ENDS, PATHS, Order

KB: Final = 1000

LASTS: Final = 2.0
"""How much longer than planned the start of the streams may take: the first must still run when
the last has begun. On a machine with other work 1.5 was too little for 500 streams."""


@final
@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table. With `ramp` it is one long stream per connection, with `rate` so many
    requests a second begin whatever became of those before.

    `seconds` are counted in each of `rounds`. `about` is for a person.
    """

    name: str
    about: str
    connections: int
    request_bytes: int
    order: Order
    seconds: float
    rounds: int
    ramp: float | None = None
    door: str = "chat"
    rate: float | None = None

    @property
    def unit(self) -> str:
        """What CPU time is divided by."""
        return "request" if self.ramp is None else "event"


def _events(ramp: float, seconds: float, pause: float, burst: int) -> int:
    """How many a stream must have to last until the others were started and counted."""
    return math.ceil((LASTS * (ramp + 1.0) + seconds) / pause) * burst


def _plain(
    connections: int,
    request: int,
    answer: int,
    *,
    name: str,
    about: str,
    rounds: int = 7,
    door: str = "chat",
) -> Scenario:
    plural = "s" if connections > 1 else ""
    return Scenario(
        f"{name}-c{connections}",
        f"{about}, {connections} connection{plural}",
        connections,
        request,
        Order(answer=answer),
        0.6,
        rounds,
        door=door,
    )


def _streams(
    connections: int,
    per_second: float,
    *,
    burst: int = 1,
    seconds: float = 2.0,
    rounds: int = 5,
    door: str = "chat",
) -> Scenario:
    """Long streams, so that what a request costs does not count: CPU is taken while all run."""
    ramp = connections * 0.004
    pause = burst / per_second
    kind = f"bursts of {burst}" if burst > 1 else "one event per write"
    plural = "s" if connections > 1 else ""
    name = "" if door == "chat" else f"{door}-"
    return Scenario(
        f"{name}{'burst' if burst > 1 else 'stream'}-{connections}",
        f"{connections} stream{plural} of {per_second:g} events a second, {kind}",
        connections,
        1 * KB,
        Order(0, _events(ramp, seconds, pause, burst), round(pause * 1e6), burst),
        seconds,
        rounds,
        ramp,
        door,
    )


SCENARIOS: Final = (
    *(_plain(c, KB, KB, name="plain-1k", about="1 kB asked, 1 kB answered") for c in (1, 8, 64)),
    *(
        _plain(c, 100 * KB, 1 * KB, name="ask-100k", about="100 kB asked, 1 kB answered", rounds=5)
        for c in (1, 8)
    ),
    *(
        _plain(c, 200 * KB, 1 * KB, name="ask-200k", about="200 kB asked, 1 kB answered", rounds=5)
        for c in (1, 8, 64)
    ),
    *(
        _plain(c, KB, 200 * KB, name="answer-200k", about="1 kB asked, 200 kB answered", rounds=5)
        for c in (1, 8, 64)
    ),
    Scenario(
        "open-300",
        "1 kB asked, 1 kB answered, 300 requests a second in an open loop",
        64,
        KB,
        Order(answer=KB),
        2.0,
        5,
        rate=300.0,
    ),
    Scenario(
        "short-stream-c8",
        "whole streams of 20 events, one after another, 8 connections",
        8,
        KB,
        Order(events=20, every_us=2000),
        0.6,
        5,
    ),
    _streams(1, 200),
    _streams(50, 40),
    _streams(500, 20, seconds=3.0, rounds=3),
    _streams(50, 200, burst=20),
    _streams(500, 40, burst=20, seconds=3.0, rounds=3),
    *(
        _plain(8, KB, KB, name=f"{door}-1k", about=f"{door}: 1 kB asked, 1 kB answered", door=door)
        for door in PATHS
        if door != "chat"
    ),
    *(_streams(50, 40, door=door) for door in ENDS if door != "chat"),
    _streams(50, 200, burst=20, door="responses"),
)


def chosen(wanted: list[str]) -> tuple[Scenario, ...]:
    """The scenarios of these names, or of names that begin so. Raises ValueError."""
    names = [scenario.name for scenario in SCENARIOS]
    found = set()
    for text in wanted or [""]:
        matches = [text] if text in names else [name for name in names if name.startswith(text)]
        if not matches:
            raise ValueError(f"there is no scenario {text!r}; there are {', '.join(names)}")
        found.update(matches)
    return tuple(scenario for scenario in SCENARIOS if scenario.name in found)


def shortened(scenario: Scenario, rounds: int, seconds: float) -> Scenario:
    """The same with other rounds; streams last as long as it takes."""
    order = scenario.order
    if scenario.ramp is not None:
        events = _events(scenario.ramp, seconds, order.every_us / 1e6, order.burst)
        order = replace(order, events=events)
    return replace(scenario, rounds=rounds, seconds=seconds, order=order)

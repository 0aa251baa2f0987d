"""A day's budget shared by a thousand processes, simulated with the machine that they run.

    python bench/leases.py [--seed N]

The exchanges are those of `sansio/routing/lease.py`, in a ledger of a dictionary; requests come at
random, cost up to what was set aside for them, and take some seconds. In trouble, processes are
killed and their answers lost: what an exchange gave is then not known to who asked. The demand goes
on far beyond the budget. Prints, and ends with 1 if a day was ever overdrawn.
"""

import argparse
import heapq
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arbstr.sansio.routing.lease import Ask, Lease, Row, exchanged

MEAN_MSATS: Final = 500
"""What is set aside for a request, in the mean."""

ANSWER_SECONDS: Final = 2.0
WANTED_SECONDS: Final = 3.0
REFUSED_SECONDS: Final = 1.0


@final
@dataclass(frozen=True, slots=True)
class Case:
    """Processes, requests a second together, seconds of demand that the budget is for, crashes an
    hour, and how many answers of an exchange are lost."""

    processes: int
    rate: float
    seconds: float
    crashes: float = 0.0
    lost: float = 0.0


CASES: Final = (
    Case(1, 20, 600),
    Case(8, 40, 600),
    Case(8, 40, 600, crashes=60, lost=0.02),
    Case(1000, 500, 900),
    Case(1000, 500, 900, crashes=120, lost=0.02),
)


@final
@dataclass(slots=True, eq=False)
class Process:
    """One of them; `number` is its row in the ledger, another after a crash."""

    number: int
    lease: Lease = field(default_factory=Lease)
    spent: int = 0
    reserved: int = 0
    demand: int = 0
    requests: int = 0
    refused: tuple[int, float] = (0, 0.0)

    @property
    def used(self) -> int:
        """Spent and set aside."""
        return self.spent + self.reserved


@final
class Day:
    """One run of a case."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.dice = random.Random(seed)
        self.limit = int(case.rate * case.seconds * MEAN_MSATS * 0.5)
        self.rows: dict[int, Row] = {}
        self.caps = 0
        self.wanted = 0.0
        self.exchanges = self.granted = self.local = 0
        self.dead = 0
        self.most = 0
        self.charged = 0
        self.total = 0
        self.first_refusal: int | None = None
        self.processes = [Process(n) for n in range(case.processes)]
        self.numbers = case.processes

    def ask(self, process: Process, ask: Ask, now: float) -> bool:
        """One exchange; whether there was room, as far as the process knows."""
        self.exchanges += 1
        row = self.rows.get(process.number, Row())
        after = exchanged(row, ask, limit=self.limit, caps=self.caps, living=len(self.processes))
        if after is None:
            self.wanted = now + WANTED_SECONDS
        else:
            self.rows[process.number] = after
            self.caps += after.cap - row.cap
        if self.dice.random() < self.case.lost:
            return False
        if after is not None:
            process.lease.answered(after)
        return after is not None

    def request(self, process: Process, now: float) -> int | None:
        """What was set aside for it, None if it found no room."""
        most = 1 + int(self.dice.expovariate(1 / MEAN_MSATS))
        if process.used + most > process.lease.cap:
            least, until = process.refused
            if now < until and most >= least:
                return None
            self.ask(process, process.lease.waits(process.used, (most,)), now)
            if process.used + most > process.lease.cap:
                process.refused = most, now + REFUSED_SECONDS
                if self.first_refusal is None:
                    self.first_refusal = self.charged
                return None
        else:
            self.local += 1
        self.granted += 1
        process.reserved += most
        process.demand += most
        process.requests += 1
        self.total += most
        self.most = max(self.most, self.total)
        return most

    def tick(self, process: Process, now: float) -> None:
        """A second has passed."""
        process.lease.seen(process.demand, process.requests, 1.0)
        process.demand = process.requests = 0
        ask = process.lease.tick(process.used, wanted=now < self.wanted)
        if ask is not None:
            self.ask(process, ask, now)

    def run(self) -> None:
        """Until the demand has been twice the budget."""
        case, dice = self.case, self.dice
        end = 2 * case.seconds
        turn = 0
        events: list[tuple[float, int, str, Process, int, int]] = []

        def at(when: float, what: str, process: Process, most: int = 0) -> None:
            nonlocal turn
            turn += 1
            heapq.heappush(events, (when, turn, what, process, most, process.number))

        anybody = self.processes[0]
        at(0.0, "request", anybody)
        if case.crashes:
            at(dice.expovariate(case.crashes / 3600), "crash", anybody)
        for process in self.processes:
            at(dice.random(), "tick", process)
        while events and events[0][0] < end:
            now, _, what, process, most, number = heapq.heappop(events)
            if what == "request":
                at(now + dice.expovariate(case.rate), "request", anybody)
                process = dice.choice(self.processes)
                reserved = self.request(process, now)
                if reserved is not None:
                    at(now + dice.expovariate(1 / ANSWER_SECONDS), "answer", process, reserved)
            elif what == "tick":
                self.tick(process, now)
                at(now + 1.0, "tick", process)
            elif what == "crash":
                at(now + dice.expovariate(case.crashes / 3600), "crash", anybody)
                self.crash(dice.choice(self.processes))
            elif process.number == number:  # an answer, and nobody was killed meanwhile
                price = dice.randint(0, most)
                process.reserved -= most
                process.spent += price
                self.charged += price
                self.total -= most - price

    def crash(self, process: Process) -> None:
        """What it had spent and set aside stays so; another begins in its place."""
        self.charged += process.reserved  # at the worst
        process.number = self.numbers
        self.numbers += 1
        process.lease = Lease()
        process.spent = process.reserved = process.demand = process.requests = 0
        process.refused = (0, 0.0)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Simulates a shared budget.")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(
        "processes  req/s  crashes/h  lost  used  highest  first refusal  local  exchanges/s each"
    )
    is_over = False
    for case in CASES:
        day = Day(case, options.seed)
        day.run()
        is_over |= day.most > day.limit or day.caps > day.limit
        first = day.charged if day.first_refusal is None else day.first_refusal
        print(
            f"{case.processes:>9} {case.rate:>6g} {case.crashes:>10g} {case.lost:>5.0%} "
            f"{day.charged / day.limit:>7.2%} {day.most / day.limit:>7.2%} "
            f"{first / day.limit:>13.1%} {day.local / day.granted:>8.1%} "
            f"{day.exchanges / case.processes / (2 * case.seconds):>8.2f}",
            flush=True,
        )
    print("overdrawn" if is_over else "never overdrawn")
    return 1 if is_over else 0


if __name__ == "__main__":
    sys.exit(main())

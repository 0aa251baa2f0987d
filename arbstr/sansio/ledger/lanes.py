"""Lanes: child keys of a node's key, one request at a time on each, whose counters tell its price.

    FREE --take--> BUSY --the price was stated--> FREE
                    |  --it failed, and is known to be free--> STALE --asked--> FREE
                    `--it ended without word--> PARKED --asked, until it tells--> FREE

    what the lane says, against what it said before     what became of the request
    `total_spent` has fallen, or `total_requests`       nobody knows: somebody put them back
    `total_spent` has grown                             charged: that is the price
    not counted, and `FENCE_SECONDS` after its end      nothing: it never arrived, or was reverted
    not counted, sooner                                 it may still arrive: ask again
    counted, nothing spent, nothing reserved            nothing: it was released
    counted, nothing spent, something reserved          it may still run: ask again

`reserved` is that of all lanes of a key together, so that only a quiet moment says "released". A
node that restarts releases all it held, others bill a part of what was cut off: only the counters
are believed. A parked lane costs nothing; where no lane is free, the key itself is used, and
checkpoints (`reconcile.py`) tell the price.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.ledger.reconcile import Account
from arbstr.sansio.secrets import Secret

FENCE_SECONDS: Final = 2.0
"""How long after its end a request may still arrive. Measured: a node counts what it read within
milliseconds; what was on its way through a proxy has come by then."""


@final
@dataclass(frozen=True, slots=True)
class Charged:
    """The request was answered and paid: so many millisats, 0 if it was free."""

    msats: int


@final
@dataclass(frozen=True, slots=True)
class AskAgain:
    """It may still run, or arrive."""


@final
@dataclass(frozen=True, slots=True)
class Lost:
    """The counters were put back: what it cost stays unknown."""


Told: TypeAlias = Charged | AskAgain | Lost


class State(Enum):
    """See the picture of the module."""

    FREE = auto()
    BUSY = auto()
    STALE = auto()
    PARKED = auto()


@final
@dataclass(slots=True, eq=False)
class Lane:
    """One child key, and its counters as of before the request on it."""

    key: Secret = field(repr=False)
    spent: int = 0
    requests: int = 0
    state: State = State.STALE

    def judge(self, now: Account, *, since_end: float) -> Told:
        """What became of the request, so many seconds after it ended."""
        if now.total_spent < self.spent or now.total_requests < self.requests:
            return Lost()
        if now.total_spent > self.spent:
            return Charged(now.total_spent - self.spent)
        if now.total_requests == self.requests:
            return Charged(0) if since_end >= FENCE_SECONDS else AskAgain()
        return AskAgain() if now.reserved else Charged(0)

    def answered(self, msats: int) -> None:
        """The request was answered and said its price."""
        self._leave(State.BUSY)
        self.spent += msats
        self.requests += 1
        self.state = State.FREE

    def doubted(self) -> None:
        """It ended, nothing is open, and its counters are to be read before it is used."""
        self._leave(State.BUSY)
        self.state = State.STALE

    def parked(self) -> None:
        """It ended without word."""
        self._leave(State.BUSY)
        self.state = State.PARKED

    def read(self, now: Account) -> None:
        """Its counters are these, and nothing runs on it."""
        if self.state is State.BUSY:
            raise LocalProtocolError("the counters of a lane that is used are no beginning")
        self.spent, self.requests = now.total_spent, now.total_requests
        self.state = State.FREE

    def _leave(self, state: State) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"a lane that is {self.state.name} has no request to end")


def take(lanes: Iterable[Lane]) -> Lane | None:
    """A free lane, now busy; `None` if there is none."""
    for lane in lanes:
        if lane.state is State.FREE:
            lane.state = State.BUSY
            return lane
    return None

"""Lanes: child keys of a node's key, one request at a time on each, whose counters tell its price.

    FREE --take--> BUSY --the price was stated--> FREE, or STALE after many or a long one
                    |  --it failed, and is known to be free--> STALE --asked--> FREE, or CLOSED
                    `--it ended without word--> PARKED --asked, until it tells--> STALE

    what the lane says, against what it said before     what became of the request
    `total_spent` has fallen, or `total_requests`       nobody knows: somebody put them back
    counted more than once                              nobody knows: somebody else used it
    `total_spent` has grown                             charged: that is the price
    not counted, closed for `FENCE_SECONDS`             nothing: never arrived, or was reverted
    not counted, sooner                                 it may still arrive: close it, ask again
    not counted, and nobody can close it:
      `FENCE_SECONDS` after its end                     nothing: that is reckoned
      sooner                                            it may still arrive: ask again
    counted, nothing spent, nothing reserved            nothing: it was released
    the same, something reserved, after `SWEPT_SECONDS` nothing: it was released
    the same, sooner                                    it may still run: ask again

`reserved` is that of all lanes of a key together, so that only a quiet moment says "released", or
the node's own sweep. A node that restarts releases all it held, others bill a part of what was cut
off: only the counters are believed. A parked lane costs nothing; where no lane is free, the key
itself is used, and checkpoints (`reconcile.py`) tell the price.

Which lane a request is on, and what that had counted before, is noted with the request before its
first byte goes out (`Noted`); after a kill the lane is parked again, as of that note, and tells.

**The fence.** What is not counted may be on its way still: in a proxy that holds it, or in a socket
whose packets are sent again. So its connection is closed, and its lane is *closed* at the node:
given an end of its validity that is long past (`CLOSED_DATE`). From then on the node refuses the
lane (403 `key_expired`) whenever the request arrives, and settles one that began before as ever.
What the node had begun to look at just then is counted within `FENCE_SECONDS`; what is not counted
then never will be, and the next node may be asked: at most one answer is paid. A closed lane is
never used again and another is made, so this costs a key for each request that nobody counted, not
one for each request.

That a lane is closed is not taken from the answer to that call but read in the lane's own account.
Where it is not there afterwards (a node without that call, lanes that cost, too many keys already),
the end is reckoned from the end of the connection; the lane stays parked for `LATE_SECONDS` more
and is asked once again, and what came after all is booked and said. Two answers may be paid then.
Other keys are no fence at a price worth paying: a `balance_limit` of this request's reservation, or
a `validity_date` from the beginning, makes it a key for each request; a limit for many requests
lets a second one in unless it is used up by a paid one.

A lane is read at once where its request is known to be over: the node said what it took, or the
lane did; and at the start one of the last run's that the ledger has nothing open on. Only where
nobody knows (counters that were put back) it waits for a quiet moment, which a key that is always
used may not have.

What was stated is believed, and compared when the counters are read: after `MOST_ANSWERS`, or after
an answer so slow (`SLOW_SECONDS`) that a node may have swept its reservation away and charged
nothing.
"""

from collections.abc import Iterable
from dataclasses import field
from enum import Enum, auto
from typing import Final, Self, TypeAlias, final

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.reconcile import Account
from arbstr.sansio.secrets import Secret

FENCE_SECONDS: Final = 2.0
"""How long after its lane was closed a request may still be counted; where nobody can close it, how
long after its end it may arrive. Measured: a node counts what it read within milliseconds."""

LATE_SECONDS: Final = 60.0
"""How long after its end something that was not counted may still come, against all reckoning."""

SWEPT_SECONDS: Final = 360.0
"""How long after its end a request holds a reservation at most. Measured: a node looks for those
older than 300 s once a minute."""

MOST_ANSWERS: Final = 20
"""Answers after which the counters of a lane are compared with what was stated; as many as an alarm
looks at."""

SLOW_SECONDS: Final = 240.0
"""From here on an answer may have outlived its reservation: then a node states a price and takes
nothing (measured). Below the 300 s of its sweep."""


@final
@dataclass(frozen=True, slots=True)
class Charged:
    """The request was answered and paid: so many millisats, 0 if it was free. `sure`: nothing can
    change that; if not, it may come after all."""

    msats: int
    sure: bool = True


@final
@dataclass(frozen=True, slots=True)
class AskAgain:
    """It may still run; or arrive, if it was not `counted` yet."""

    counted: bool = True


@final
@dataclass(frozen=True, slots=True)
class Lost:
    """The counters were put back, or somebody else's requests are in them: what it cost stays
    unknown."""


Told: TypeAlias = Charged | AskAgain | Lost


@final
@dataclass(frozen=True, slots=True)
class Noted:
    """A lane, by what tells its key from another, and its counters before a request on it.

    `text` is what stands in the ledger, one word after the other.
    """

    lane: str
    spent: int
    requests: int

    @property
    def text(self) -> str:
        """`<lane> <spent> <requests>`."""
        return f"{self.lane} {self.spent} {self.requests}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """What `text` made; `None` for what it cannot have made."""
        match text.split(" "):
            case [str(lane), spent, requests] if _is_count(spent) and _is_count(requests):
                return cls(lane, int(spent), int(requests))
            case _:
                return None


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 16


class State(Enum):
    """See the picture of the module."""

    FREE = auto()
    BUSY = auto()
    STALE = auto()
    PARKED = auto()
    CLOSED = auto()


@final
@dataclass(frozen=True, slots=True)
class Compared:
    """What was charged on a lane for so many answers since its counters were read before, and what
    is known of them, in millisats."""

    answers: int
    charged: int
    known: int


@final
@dataclass(slots=True, eq=False)
class Lane:
    """One child key, and its counters as of before the request on it, by what is known. `read_at`
    is `total_spent` as last read, `answers` came since. `over`: its last request has ended at the
    node, too. `can_close`: its node may be asked to refuse it, as far as is known."""

    key: Secret = field(repr=False)
    spent: int = 0
    requests: int = 0
    state: State = State.STALE
    answers: int = 0
    read_at: int | None = None
    over: bool = False
    can_close: bool = False

    @classmethod
    def new(cls, key: Secret, *, can_close: bool = False) -> Self:
        """One that was just made: nothing ever ran on it."""
        return cls(key, state=State.FREE, read_at=0, can_close=can_close)

    def resume(self, noted: Noted) -> None:
        """A process was killed, or stopped, before this lane had told of a request on it."""
        self._leave(State.STALE)
        self.spent, self.requests = noted.spent, noted.requests
        self.state = State.PARKED

    def judge(self, now: Account, *, since_end: float, since_closed: float | None = None) -> Told:
        """What became of the request, so many seconds after it ended, and after the lane was first
        seen to be closed."""
        if now.total_spent < self.spent or now.total_requests < self.requests:
            return Lost()
        if now.total_requests > self.requests + 1:
            return Lost()
        if now.total_spent > self.spent:
            return Charged(now.total_spent - self.spent)
        if now.total_requests == self.requests:
            if now.closed and since_closed is not None and since_closed >= FENCE_SECONDS:
                return Charged(0)
            reckoned = not (now.closed or self.can_close) and since_end >= FENCE_SECONDS
            return Charged(0, sure=False) if reckoned else AskAgain(counted=False)
        return AskAgain() if now.reserved and since_end < SWEPT_SECONDS else Charged(0)

    def answered(self, msats: int, *, seconds: float = 0.0) -> None:
        """The request was answered after so many seconds, and said its price."""
        self._leave(State.BUSY)
        self.spent += msats
        self.requests += 1
        self.answers += 1
        is_due = self.answers >= MOST_ANSWERS or seconds >= SLOW_SECONDS
        self.state, self.over = (State.STALE if is_due else State.FREE), True

    def doubted(self, msats: int = 0, *, over: bool = False) -> None:
        """It ended and cost so much: nothing is open, and its counters are to be read before it is
        used. `over`: the node said so."""
        self._leave(State.BUSY)
        self.spent += msats
        self.answers += bool(msats)
        self.state, self.over = State.STALE, over

    def parked(self) -> None:
        """It ended without word."""
        self._leave(State.BUSY)
        self.state = State.PARKED

    def settled(self, msats: int, *, over: bool = False) -> None:
        """What it was parked for is over, and was charged so much: it is to be read. `over`: it
        told so."""
        self._leave(State.PARKED)
        self.spent += msats
        self.answers += 1
        self.state, self.over = State.STALE, over

    def is_quiet(self, now: Account, *, since_end: float) -> bool:
        """Whether nothing runs on it, by what its counters say so long after its last request."""
        as_known = (now.total_spent, now.total_requests) == (self.spent, self.requests)
        known = as_known and self.read_at is not None
        return known or self.over or not now.reserved or since_end >= SWEPT_SECONDS

    def read(self, now: Account) -> Compared | None:
        """Its counters are these, and nothing runs on it. `None`: for the first time, or somebody
        put them back."""
        if self.state is State.BUSY:
            raise LocalProtocolError("the counters of a lane that is used are no beginning")
        before, known, answers = self.read_at, self.spent, self.answers
        self.spent = self.read_at = now.total_spent
        self.requests, self.answers = now.total_requests, 0
        self.state = State.CLOSED if now.closed else State.FREE
        if before is None or now.total_spent < before:
            return None
        return Compared(answers, now.total_spent - before, known - before)

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

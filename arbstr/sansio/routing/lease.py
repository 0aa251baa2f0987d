"""Budgets across processes and machines: how much of a day one of them may use, without asking.

    what is at hand --TICKS, each second--> asks for a target, gives back, or nothing
    something waits that does not fit         asks for used + all that waits + target, at least for
                                              used + the smallest that waits
    giving back                               `cap` shrinks here before it is sent; nothing but a
                                              confirmed answer raises it
    the answer is confirmed                   `cap` is what it says
    the answer is lost, cut or late           `cap` stays; the next exchange has the next `seq`, and
                                              says how much is wanted in all, so that there is
                                              nothing to undo

A process may have spent and set aside at most `cap` on its day. In the ledger there is a row for
each process and day, and each exchange (`exchanged`) is one transaction under the day's lock:

    its `seq` is not above the row's          an old one that comes late: nothing changes
    it wants no more than it has              that is its new cap
    there is room for all, or a fair part     it grows: by what is free, shared among who lives;
                                              for who is alone, by all of it
    not for the least it can do with          nothing changes, and the day is marked as wanted

Why no day is overdrawn: in the ledger the caps of a day never add up to more than the limit, for
exchanges are one after the other and grow by what is free. Here `cap` is never above the ledger's.
And spent + set aside is never above `cap`, but by what an answer took above what was set aside for
it, which is told with the next exchange, granted or not. No clock and nobody's opinion of who is
dead is in that: who is thought dead and lives spends what is still counted. What a killed process
held and had not used is lost for the day (seconds' worth), unless it is sure that it is gone, as it
is of a file whose processes hold locks: then its cap becomes what the ledger says it spent.

Who knows that nobody else uses the ledger holds all that is left of the day, and need not ask: it
gives that back when another comes, within a second.

`target` is what is kept at hand: RATE_SECONDS of what was asked for lately, and REQUESTS of the
usual size. All amounts are whole millisats.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.frozen import dataclass

RATE_SECONDS: Final = 5.0
"""So many seconds of demand are kept at hand; the database may be away that long unnoticed."""

REQUESTS: Final = 4
"""So many requests of the usual size, so that a slow trickle does not ask each time."""

SMOOTHING: Final = 0.3
"""Weight of the newest second, and of the newest requests, in the averages. Picked."""


class Hand(StrEnum):
    """What a process has at hand, at a tick; the first that is so. Said as the manual does."""

    ALONE = "nobody else uses the ledger, and some of the day is nobody's"
    WANTED = "anything idle, and another found no room"
    LITTLE = "less than half a target"
    MUCH = "more than twice a target"
    ENOUGH = "anything else"


class Move(StrEnum):
    """What it does then."""

    TAKE_ALL = "asks for all of that"
    GIVE_ALL = "gives back all that is idle"
    TO_TARGET = "asks for one target at hand"
    BACK_TO_TARGET = "gives back all above one target"
    NOTHING = "nothing"


TICKS: Final[Mapping[Hand, Move]] = MappingProxyType(
    {
        Hand.ALONE: Move.TAKE_ALL,
        Hand.WANTED: Move.GIVE_ALL,
        Hand.LITTLE: Move.TO_TARGET,
        Hand.MUCH: Move.BACK_TO_TARGET,
        Hand.ENOUGH: Move.NOTHING,
    }
)
"""Each second."""


def lease_table() -> str:
    """TICKS and what a request meets, as a Markdown table for the manual."""
    lines = ["| in hand of the day | what the process does |", "|---|---|"]
    lines += [f"| each second: {hand} | {move} |" for hand, move in TICKS.items()]
    lines += [
        "| a request fits | it goes, without asking |",
        "| a request does not fit | it waits (2.5 s at most) for one exchange: all that waits and "
        "one target, or as much as there is |",
        "| there is no room for it | 402; others give back what is idle for 3 s |",
    ]
    return "\n".join(lines) + "\n"


@final
@dataclass(frozen=True, slots=True)
class Ask:
    """One exchange: how much is wanted in all, how much is the least that helps, what is used, and
    whether nobody else is there to share with."""

    seq: int
    want: int
    least: int
    used: int
    alone: bool = False


ENDED: Final = 2**62
"""The `seq` of a process that is surely gone, and whose cap is what it spent. None is higher."""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """What the ledger has of one process on one day."""

    cap: int = 0
    seq: int = 0


def exchanged(row: Row, ask: Ask, *, limit: int | None, caps: int, living: int) -> Row | None:
    """The row after an exchange; `None`: there is no room for the least, and nothing changes.

    `caps` is the sum of all caps of the day, this one's with it; `living` how many processes share
    the day just now. Without a `limit` everything is granted.
    """
    if ask.seq <= row.seq:
        return row
    if limit is None or ask.want <= row.cap:
        return Row(max(ask.want, ask.used), ask.seq)
    free = max(0, limit - caps)
    fair = row.cap + (free if ask.alone else free // (2 * max(1, living)))
    cap = min(ask.want, row.cap + free, max(ask.least, fair))
    if cap >= ask.least:
        return Row(max(cap, ask.used), ask.seq)
    # What was used above it is used all the same.
    return Row(ask.used, ask.seq) if ask.used > row.cap else None


@final
class Lease:
    """One process's part of one day. `used` is always what it has spent and set aside there."""

    def __init__(self) -> None:
        self.cap = 0
        self._seq = 0
        self._rate = 0.0
        self._size = 0.0

    @property
    def target(self) -> int:
        """What is to be at hand."""
        return int(self._rate * RATE_SECONDS + self._size * REQUESTS)

    def seen(self, amount: int, requests: int, seconds: float) -> None:
        """So much was asked for lately, by so many requests, in so many seconds."""
        if seconds > 0:
            self._rate += SMOOTHING * (amount / seconds - self._rate)
        if requests:
            size = amount / requests
            self._size += (SMOOTHING if self._size else 1.0) * (size - self._size)

    def waits(self, used: int, amounts: tuple[int, ...]) -> Ask:
        """These do not fit."""
        usual = max(self.target, 0)
        return self._ask(used, used + sum(amounts) + usual, used + min(amounts))

    def begins(self, used: int, limit: int | None) -> Ask:
        """The first of a day: for who is alone all of it, up to a `limit`."""
        if limit is None:
            return self.ends(used)
        return self._ask(used, limit, used, alone=True)

    def tick(self, used: int, *, wanted: bool, room: int | None = None) -> Ask | None:
        """A second has passed. `room`: so much is nobody's; None: others are there, or may be."""
        match TICKS[self.at_hand(used, wanted=wanted, room=room)]:
            case Move.TAKE_ALL:
                return self._ask(used, self.cap + (room or 0), used, alone=True)
            case Move.GIVE_ALL:
                return self._ask(used, used, used)
            case Move.TO_TARGET | Move.BACK_TO_TARGET:
                return self._ask(used, used + self.target, used)
            case Move.NOTHING:
                return None

    def at_hand(self, used: int, *, wanted: bool, room: int | None = None) -> Hand:
        """`wanted`: another process found no room a moment ago; `room` as for `tick`."""
        left, target = self.cap - used, self.target
        if room is not None and left >= 0:
            return Hand.ALONE if room > 0 else Hand.ENOUGH
        if wanted and left > 0:
            return Hand.WANTED
        if left < 0 or (not wanted and 2 * left < target):
            return Hand.LITTLE
        return Hand.MUCH if left > 2 * target else Hand.ENOUGH

    def ends(self, used: int) -> Ask:
        """The process does: nothing is held any more."""
        return self._ask(used, used, used)

    def once_more(self, ask: Ask, used: int) -> Ask:
        """The same, after others left something; what is in hand has not shrunk since."""
        more = used - ask.used
        return self._ask(used, ask.want + more, ask.least + more, alone=ask.alone)

    def _ask(self, used: int, want: int, least: int, *, alone: bool = False) -> Ask:
        self._seq += 1
        self.cap = min(self.cap, max(want, used))
        return Ask(self._seq, want, least, used, alone)

    def answered(self, row: Row) -> None:
        """The exchange was confirmed, and this is the row now."""
        if row.seq == self._seq:
            self.cap = row.cap

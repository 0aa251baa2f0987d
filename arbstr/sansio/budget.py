"""How much may still be spent today? One account for the whole process, a new one each UTC day.

    told                            what happens to the account
    reserve(most)                   spent + reserved + most within the limit, or most is 0:
                                    `Reservation`, and `reserved` grows by `most`
                                    else: `OverBudget`, and nothing may be sent
                                    the most is unknown and there is a limit: `Unpriced`, likewise
    settle(reservation, charged)    `reserved` shrinks by what was set aside, and `spent` grows by
      a known price                   that price, whether it is less or more
      0: it was free                  nothing
      `None`: nobody knows            what was set aside
    midnight UTC                    nothing is spent and nothing reserved; what was reserved before
                                    stays with the day it was reserved on
    remember(amount)                `spent` grows by what the log knows of the day so far

Every attempt is reserved before a byte of it is sent, and settled exactly once, when all is known
that can be: at its end, or at the end of the drain that reads its answer on. So however many
requests come at once, what is set aside for them together stays within the limit; only what turns
out to cost more than was set aside for it (`holds.py` says how much that is) takes a day over it.

Without a limit every attempt is let through and booked all the same: a reload may set one.

What may not live here: clocks (`now` is in seconds since 1970, UTC, always an argument) and what
an attempt was charged (`sansio.exchange`).
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.money import add_sats
from arbstr.sansio.routing import Candidate

DAY_SECONDS: Final = 86_400
"""Of every UTC day: seconds since 1970 do not count leap seconds (POSIX)."""

_ZERO: Final = Decimal(0)


@final
@dataclass(frozen=True, slots=True)
class Reservation:
    """The right to send one attempt; `most` sats are set aside for it until it is settled."""

    number: int
    day: int
    most: Decimal


@final
@dataclass(frozen=True, slots=True)
class Account:
    """How the day stands, in sats. `limit` is `None` without a budget; `ends_in` is in seconds."""

    limit: Decimal | None
    spent: Decimal
    reserved: Decimal
    ends_in: float


@final
@dataclass(frozen=True, slots=True)
class OverBudget:
    """The attempt could cost `most` sats, more than the day has left; the rest as in `Account`.

    `candidate` is where it was to be made, if that was told.
    """

    most: Decimal
    limit: Decimal
    spent: Decimal
    reserved: Decimal
    ends_in: float
    candidate: Candidate | None = None


@final
@dataclass(frozen=True, slots=True)
class Unpriced:
    """The offer has no rates, so what it could cost is not known."""


NotWithinBudget: TypeAlias = OverBudget | Unpriced


def day_of(now: float) -> int:
    """The UTC day, counted from 1970."""
    return int(now // DAY_SECONDS)


@final
class Budget:
    """The account. `limit` is in sats a day, `None` for none. See the module's docstring."""

    def __init__(self, limit: Decimal | None) -> None:
        self._limit = limit
        self._day = 0
        self._spent = _ZERO
        self._reserved = _ZERO
        self._numbers = 0
        self._outstanding: set[int] = set()

    def reserve(
        self, most: Decimal | None, now: float, candidate: Candidate | None = None
    ) -> Reservation | NotWithinBudget:
        """Ask to send one attempt for which `most` sats are to be set aside."""
        self._turn_to(now)
        if most is None:
            if self._limit is not None:
                return Unpriced()
            most = _ZERO
        if most and self._limit is not None:
            wanted = add_sats(self._spent, self._reserved, most)
            if wanted > self._limit:
                ends_in = self.view(now).ends_in
                return OverBudget(
                    most, self._limit, self._spent, self._reserved, ends_in, candidate
                )
        self._reserved = add_sats(self._reserved, most)
        self._numbers += 1
        self._outstanding.add(self._numbers)
        return Reservation(self._numbers, self._day, most)

    def settle(self, reservation: Reservation, charged: Decimal | None) -> None:
        """Book what the attempt was charged, in sats: 0 for nothing, `None` if nobody knows.

        Raises `LocalProtocolError` if the reservation has been settled before.
        """
        if reservation.number not in self._outstanding:
            raise LocalProtocolError(f"reservation {reservation.number} was settled before")
        self._outstanding.remove(reservation.number)
        if reservation.day != self._day:
            return
        self._reserved = add_sats(self._reserved, reservation.most.copy_negate())
        self._spent = add_sats(self._spent, reservation.most if charged is None else charged)

    def remember(self, amount: Decimal, at: float) -> None:
        """Book what was spent on the day of `at` before this process, or beside it."""
        self._turn_to(at)
        if day_of(at) == self._day:
            self._spent = add_sats(self._spent, amount)

    def configure(self, limit: Decimal | None) -> None:
        """Use a new limit from the next reservation on."""
        self._limit = limit

    def view(self, now: float) -> Account:
        """How the day stands now."""
        # A clock that was set back does not give back what was spent: the day stays what it was.
        day = max(self._day, day_of(now))
        ends_in = (day + 1) * DAY_SECONDS - now
        if day != self._day:
            return Account(self._limit, _ZERO, _ZERO, ends_in)
        return Account(self._limit, self._spent, self._reserved, ends_in)

    def _turn_to(self, now: float) -> None:
        day = day_of(now)
        if day > self._day:
            self._day, self._spent, self._reserved = day, _ZERO, _ZERO

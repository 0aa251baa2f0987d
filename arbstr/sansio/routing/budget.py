"""How much may still be spent today? One account for the whole process, a book for each UTC day.

    told                            what happens to the account
    reserve(most)                   spent + reserved + most within the limit, or most is 0:
                                    `Reservation`, and `reserved` grows by `most`
                                    else: `OverBudget`, and nothing may be sent
                                    the most is unknown and there is a limit: `Unpriced`, likewise
                                    what others spent on the day was not read yet: `LedgerUnread`
    settle(reservation, charged)    `reserved` shrinks by what was set aside, and `spent` grows by
      a known price                   that price, whether it is less or more
      0: it was free                  nothing
      `None`: nobody knows            what was set aside
    another day, by the clock       its own book is opened, or opened again: a clock that was wrong,
                                    ahead or behind, leaves on a day what was attempted on it
    correct(counted, costs)         what was booked for an attempt was not what it had cost
    remember(amount)                the ledger says so of the day: what others spent on it
    give(cap)                       of a budget that is shared (`is_leased`): so much of the day may
                                    be used here; what does not fit is `LedgerUnread` until asked
    presume(now)                    the ledger cannot be read: with `is_open` the day begins at 0

Every attempt is reserved before a byte of it is sent, and settled exactly once, when all is known
that can be: at its end, or at the end of the drain that reads its answer on. So however many
requests come at once, what is set aside for them together stays within the limit; only what turns
out to cost more than was set aside for it (`holds.py` says how much that is) takes a day over it.

Without a limit every attempt is let through and booked all the same: a reload may set one.

What may not live here: clocks (`now` is in seconds since 1970, UTC, always an argument) and what
an attempt was charged (`sansio.exchange`).
"""

from decimal import Decimal
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import add_sats, minus, plus
from arbstr.sansio.routing.plan import Candidate

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
    """How the day stands, in sats. `limit` is `None` without a budget; `ends_in` is in seconds.

    `corrected` counts the attempts of the day that turned out to have cost another amount.
    """

    limit: Decimal | None
    spent: Decimal
    reserved: Decimal
    ends_in: float
    corrected: int = 0


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


@final
@dataclass(frozen=True, slots=True)
class LedgerUnread:
    """What was spent on the day before, or beside this process, is not known yet.

    Or of a budget that is shared: what this process has in hand is too little, and the ledger has
    to be asked. `most` is what was to be set aside.
    """

    most: Decimal | None = None


NotWithinBudget: TypeAlias = OverBudget | Unpriced | LedgerUnread


def day_of(now: float) -> int:
    """The UTC day, counted from 1970."""
    return int(now // DAY_SECONDS)


@final
@dataclass(slots=True)
class _Book:
    """One day's. `others`: what the ledger says was spent elsewhere; `None` until it was read.

    Of a budget that is shared `cap` is what may be used here without asking, `refused` as much as
    was asked for in vain, until then, and `demand` what was asked for since somebody looked.
    """

    spent: Decimal = _ZERO
    reserved: Decimal = _ZERO
    others: Decimal | None = None
    presumed: bool = False
    cap: Decimal = _ZERO
    refused: tuple[Decimal, float] | None = None
    demand: tuple[Decimal, int] = (_ZERO, 0)
    corrected: int = 0


@final
class Budget:
    """The account. `limit` is in sats a day, `None` for none. See the module's docstring.

    With `has_ledger` a day must be read (`remember`) before anything that costs is let through, or
    with `is_open` be presumed to begin at 0; without, each begins at 0. With `is_leased` it is
    shared, and with `is_alone` there is nobody just now to share it with.
    """

    def __init__(self, limit: Decimal | None, *, is_open: bool = False) -> None:
        self.has_ledger = False
        self.is_leased = False
        self.is_alone = False
        self._limit = limit
        self._is_open = is_open
        # A book a day, of 200 bytes: a process that runs for years has some hundred.
        self._books: dict[int, _Book] = {}
        self._numbers = 0
        self._outstanding: set[int] = set()

    @property
    def limit(self) -> Decimal | None:
        """In sats a day; `None` without a budget."""
        return self._limit

    def reserve(
        self, most: Decimal | None, now: float, candidate: Candidate | None = None
    ) -> Reservation | NotWithinBudget:
        """Ask to send one attempt for which `most` sats are to be set aside."""
        day = day_of(now)
        book = self._book(day)
        if most is None:
            if self._limit is not None:
                return Unpriced()
            most = _ZERO
        if most and self._limit is not None:
            if self._is_unread(book):
                return LedgerUnread(most)
            # Who shares the day with nobody knows without asking that it is spent.
            over = (self.is_alone or not self.is_leased) and self._is_over(book, most)
            if self.is_leased and not over and not self._fits(book, most):
                if not self._is_refused(book, most, now):
                    return LedgerUnread(most)
                over = True
            if over:
                account = self.view(now)
                return OverBudget(
                    most,
                    self._limit,
                    account.spent,
                    account.reserved,
                    account.ends_in,
                    candidate,
                )
        book.reserved = plus(book.reserved, most)
        if self.is_leased and not self.is_alone:
            book.demand = plus(book.demand[0], most), book.demand[1] + 1
        self._numbers += 1
        self._outstanding.add(self._numbers)
        return Reservation(self._numbers, day, most)

    def settle(self, reservation: Reservation, charged: Decimal | None) -> None:
        """Book what the attempt was charged, in sats: 0 for nothing, `None` if nobody knows.

        It counts for the day it was reserved on. Raises `LocalProtocolError` if the reservation
        has been settled before.
        """
        if reservation.number not in self._outstanding:
            raise LocalProtocolError(f"reservation {reservation.number} was settled before")
        self._outstanding.remove(reservation.number)
        book = self._book(reservation.day)
        book.reserved = minus(book.reserved, reservation.most)
        book.spent = plus(book.spent, reservation.most if charged is None else charged)

    def correct(self, at: float, counted: Decimal, costs: Decimal) -> None:
        """An attempt that began at `at` turned out to have cost another amount than was booked."""
        book = self._book(day_of(at))
        book.spent = minus(plus(book.spent, costs), counted)
        book.corrected += 1

    def pay(self, sats: Decimal, at: float) -> None:
        """So much was paid for something else than an attempt."""
        book = self._book(day_of(at))
        book.spent = plus(book.spent, sats)

    def remember(self, amount: Decimal, at: float) -> None:
        """The ledger says what was spent on the day of `at` before this process, and beside it."""
        self._book(day_of(at)).others = amount

    def presume(self, at: float) -> None:
        """The ledger of the day of `at` cannot be read, and was waited for."""
        self._book(day_of(at)).presumed = True

    def is_unread(self, now: float) -> bool:
        """Whether the ledger of the day of `now` is still to be read."""
        return self.has_ledger and self._book(day_of(now)).others is None

    # -- a budget that is shared (`lease.py`) ------------------------------------------------------

    def used(self, day: int) -> Decimal:
        """What is spent and set aside on a day by this process."""
        book = self._book(day)
        return plus(book.spent, book.reserved)

    def give(self, day: int, cap: Decimal, others: Decimal | None) -> None:
        """So much may be used here without asking; `others` is what all others hold, if told."""
        book = self._book(day)
        book.cap = cap
        if others is not None:
            book.others, book.presumed = others, False

    def refuse(self, day: int, most: Decimal, until: float) -> None:
        """There is no room for as much, and need not be asked for until then."""
        self._book(day).refused = most, until

    def take_demand(self, day: int) -> tuple[Decimal, int]:
        """Sats and requests that were set aside for since the last time."""
        book = self._book(day)
        demand, book.demand = book.demand, (_ZERO, 0)
        return demand

    def is_decided(self, most: Decimal | None, now: float) -> bool:
        """Whether it is known without asking if that fits into the day."""
        book = self._book(day_of(now))
        if self._is_unread(book):
            return False
        amount = most or _ZERO
        return (
            self._fits(book, amount)
            or self._is_refused(book, amount, now)
            or (self.is_alone and self._limit is not None and self._is_over(book, amount))
        )

    def _fits(self, book: _Book, most: Decimal) -> bool:
        open_anyway = self._is_open and book.presumed
        return open_anyway or add_sats(book.spent, book.reserved, most) <= book.cap

    def _is_refused(self, book: _Book, most: Decimal, now: float) -> bool:
        return book.refused is not None and most >= book.refused[0] and now < book.refused[1]

    def _is_over(self, book: _Book, most: Decimal) -> bool:
        assert self._limit is not None  # or nothing is over it
        others = _ZERO if book.others is None else book.others
        return add_sats(book.spent, others, book.reserved, most) > self._limit

    def configure(self, limit: Decimal | None, *, is_open: bool = False) -> None:
        """Use a new limit from the next reservation on."""
        self._limit = limit
        self._is_open = is_open

    def own(self, now: float) -> Account:
        """What this process alone has spent and set aside on the day."""
        day = day_of(now)
        book = self._books.get(day) or _Book()
        return Account(self._limit, book.spent, book.reserved, (day + 1) * DAY_SECONDS - now)

    def view(self, now: float) -> Account:
        """How the day stands now."""
        day = day_of(now)
        book = self._books.get(day) or _Book()
        spent = book.spent if book.others is None else plus(book.spent, book.others)
        ends_in = (day + 1) * DAY_SECONDS - now
        return Account(self._limit, spent, book.reserved, ends_in, book.corrected)

    def spent(self, now: float) -> Decimal | None:
        """What is spent of the day, by all that is known of; `None` if it is still to be read."""
        book = self._books.get(day_of(now))
        if book is None or (book.others is None and self.has_ledger):
            return None
        return book.spent if book.others is None else plus(book.spent, book.others)

    def _is_unread(self, book: _Book) -> bool:
        known = book.others is not None or (self._is_open and book.presumed)
        return self.has_ledger and not known

    def _book(self, day: int) -> _Book:
        book = self._books.get(day)
        if book is None:
            book = self._books[day] = _Book()
        return book

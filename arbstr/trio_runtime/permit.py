"""What an attempt needs to be sent, and gives back: money set aside, and the breaker's leave.

    take       what its key holds, the day's budget, the breaker: or why it may not be sent
    admit      leave again, for what comes behind the first output
    settle     the verdict: the ticket goes back
    book       the price: what was set aside goes back

At any moment at most one ticket and one reservation are held. A drain takes over the reservation.
"""

import time
from decimal import Decimal
from typing import final

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.board import Admitted, Refused, Resting, Ticket
from arbstr.sansio.failover.breaker import Outcome
from arbstr.sansio.routing.budget import NotWithinBudget, Reservation
from arbstr.sansio.routing.catalog import Offer, Provider
from arbstr.sansio.routing.listing import TooLow
from arbstr.sansio.routing.plan import Candidate
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.snapshot import Snapshot


@final
class Permit:
    """That of one request's attempts, one after the other.

    `verdict` and `last_error` are what the breaker will hear of the running one.
    """

    __slots__ = (
        "_exchange",
        "_guessed",
        "_hub",
        "_request",
        "_snapshot",
        "_ticket",
        "last_error",
        "reservation",
        "verdict",
    )

    def __init__(self, hub: Hub, snapshot: Snapshot, request: Asked, exchange: Exchange) -> None:
        self._hub = hub
        self._snapshot = snapshot
        self._request = request
        self._exchange = exchange
        self._ticket: Ticket | None = None
        self._guessed: dict[int, Decimal] = {}
        self.reservation: Reservation | None = None
        self.verdict = Outcome.NEUTRAL
        self.last_error: str | None = None

    @property
    def is_probe(self) -> bool:
        """Whether the running attempt is to show that its provider is well again."""
        return self._ticket is not None and self._ticket.probe

    def take(self, candidate: Candidate) -> Refused | NotWithinBudget | TooLow | None:
        """Asks what the key holds, sets aside what it may cost, takes the breaker's leave."""
        hub = self._hub
        if hub.accounts is not None:
            low = hub.accounts.too_low(candidate.offer, self._request)
            if low is not None:
                return low
        reserved = hub.budget.reserve(candidate.hold_cost, time.time(), candidate)
        if not isinstance(reserved, Reservation):
            return reserved
        refused: Refused | None = None
        try:
            refused = self.admit(candidate.offer)
            if refused is None:
                self.reservation = reserved
            return refused
        finally:
            if self.reservation is not reserved:
                hub.budget.settle(reserved, Decimal(0))

    def is_known(self, provider: Provider) -> bool:
        """Whether what is learnt of it may be kept: a reload may have given its name away."""
        return self._snapshot is self._hub.snapshot or self._hub.still_has(provider)

    def is_current(self) -> bool:
        """Whether no reload came since; it forgets what was learnt of requests like this one."""
        return self._snapshot.config is self._hub.snapshot.config

    def admit(self, offer: Offer) -> Refused | None:
        """Takes the breaker's leave, with the ticket there is or another."""
        hub, name, model = self._hub, offer.provider.name, offer.model
        board, now = hub.board, hub.now()
        if not self.is_known(offer.provider):
            self.settle()
            return None  # nobody keeps a circuit for it
        if self._ticket is not None:
            renewed = board.renew(self._ticket, name, model, now)
            if renewed is not None:
                return renewed if isinstance(renewed, Resting) else None
            self.settle()
        admission = board.admit(name, model, now)
        if not isinstance(admission, Admitted):
            return admission
        self._ticket, self.verdict, self.last_error = admission.ticket, Outcome.NEUTRAL, None
        return None

    def settle(self) -> None:
        """The running attempt is over, or as good as: the breaker hears the verdict."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._hub.settle(ticket, self.verdict, self.last_error)

    def book(self) -> None:
        """The attempt is over: what it was charged is spent, and the rest of what was set aside
        for it is free again."""
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            charged = self._exchange.charged(self._exchange.attempts_made)
            if charged is None:
                self._guessed[self._exchange.attempts_made] = reservation.most
            self._hub.book(reservation, charged)

    def correct(self, n: int, charged: Decimal, *, guess: Decimal | None = None) -> None:
        """It turned out later what attempt `n` was charged, in sats: until then it was a guess, of
        ours or of a drain's."""
        guess = self._guessed.pop(n, guess)
        if guess is not None:
            self._hub.budget.correct(time.time(), guess, charged)

"""The money of a scripted Routstr node: keys, reservations, charges, the sweep, child keys.

    bank = Bank(clock=lambda: 0.0)
    bank.deposit("sk-...", 1_000_000)             millisats, as everything here
    held = bank.reserve("sk-...", 300)            Reservation, or Refused: an answer of the node
    bank.charge(held, 505)                        more than was reserved is taken, too
    bank.revert(held)                             nothing, and the request does not count
    bank.info("sk-...")                           what GET /v1/balance/info says
    bank.children("sk-...", 50, limit=300)        keys on the same balance, own counters

Written from recordings of a live node (`tests/corpus/node/`), which `test_bank.py` compares it
with. A reservation that nobody ends is released `sweep` seconds later, and counts; what is charged
after that is not taken. `clock` is in seconds; it is read whenever the bank is asked.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, final

SWEEP: Final = 300.0
"""Seconds after which a live node gives back what a lost request had reserved."""


@final
@dataclass(slots=True)
class Account:
    """One key. Of a child, `balance` and `reserved` are its parent's."""

    key: str
    balance: int = 0
    reserved: int = 0
    total_spent: int = 0
    total_requests: int = 0
    limit: int | None = None
    validity: float | None = None
    parent: str | None = None
    children: list[str] = field(default_factory=list)


@final
@dataclass(slots=True, eq=False)
class Reservation:
    """What a request holds of its key until it ends."""

    key: str
    amount: int
    at: float
    open: bool = True


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """An answer of the node instead of serving."""

    status: int
    type: str
    code: str
    message: str

    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.type, "code": self.code}
        return {"detail": {"error": error}, "error": error}


@final
class Bank:
    """All accounts of a node."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        sweep: float = SWEEP,
        child_key_cost: int = 0,
        opens: int | None = None,
    ) -> None:
        self.clock = clock
        self.sweep = sweep
        self.child_key_cost = child_key_cost
        self.opens = opens  # with which balance a key begins that nobody deposited anything on
        self.accounts: dict[str, Account] = {}
        self._held: list[Reservation] = []
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._turning = False

    def deposit(self, key: str, msats: int) -> None:
        self.accounts.setdefault(key, Account(key)).balance += msats

    def later(
        self, seconds: float, work: Callable[[], object], *, since: float | None = None
    ) -> None:
        """Does it so many seconds from now, or since a moment, before anything that is asked then.

        Since its reservation: then what ends in time is not swept away, however long the machine
        stood still meanwhile.
        """
        self._later.append(((self.clock() if since is None else since) + seconds, work))

    def turn(self) -> None:
        """Does what is due, each at its time: what was put off, and the sweep."""
        self._until(self.clock())

    def finish(self) -> None:
        """Whatever still runs ends now, and not at its time; nothing of it is swept away."""
        self.turn()
        self._until(self.clock(), early=True)

    def _until(self, now: float, *, early: bool = False) -> None:
        if self._turning:
            return  # what is put off asks us itself
        self._turning = True
        try:
            while due := [each for each in self._later if early or each[0] <= now]:
                first = min(due, key=lambda each: each[0])
                self._later.remove(first)
                self._sweep(min(first[0], now))
                first[1]()
            self._sweep(now)
        finally:
            self._turning = False

    def _sweep(self, now: float) -> None:
        for held in [held for held in self._held if now - held.at >= self.sweep]:
            self._end(held)

    def restart(self) -> None:
        """The node is started anew: what was reserved is free, and nothing of it is charged."""
        self.turn()
        self._later.clear()
        for held in list(self._held):
            self._end(held)

    def reserve(self, key: str, amount: int) -> Reservation | Refused:
        self.turn()
        account = self._account(key)
        if account is None:
            return Refused(
                401, "invalid_request_error", "invalid_api_key", "Invalid API key format"
            )
        if account.validity is not None and self.clock() > account.validity:
            return Refused(403, "invalid_request_error", "key_expired", "API key has expired")
        if account.limit is not None and (
            account.total_spent + account.reserved + amount > account.limit
        ):
            return Refused(
                402,
                "insufficient_quota",
                "balance_limit_exceeded",
                f"Balance limit exceeded: {account.limit} mSats limit, {account.total_spent} "
                f"already spent ({account.reserved} reserved), {amount} minimum required.",
            )
        payer = self._payer(account)
        free = payer.balance - payer.reserved
        if amount > free:
            return Refused(
                402,
                "insufficient_quota",
                "insufficient_balance",
                f"Insufficient balance: {amount} mSats required. {free} available. "
                f"(reserved: {payer.reserved})",
            )
        for each in self._both(account):
            each.reserved += amount
            each.total_requests += 1
        held = Reservation(key, amount, self.clock())
        self._held.append(held)
        return held

    def charge(self, held: Reservation, msats: int) -> int:
        """The request ended; returns what was taken: at most the balance, nothing once swept."""
        self.turn()
        if not held.open:
            return 0
        self._end(held)
        account = self.accounts[held.key]
        taken = min(msats, self._payer(account).balance)
        self._payer(account).balance -= taken
        for each in self._both(account):
            each.total_spent += taken
        return taken

    def revert(self, held: Reservation) -> None:
        """The upstream failed: nothing is taken, and the request does not count."""
        self.turn()
        if held.open:
            self._end(held)
            for each in self._both(self.accounts[held.key]):
                each.total_requests -= 1

    def children(
        self, key: str, count: int, *, limit: int | None = None, validity: float | None = None
    ) -> tuple[str, ...] | Refused:
        self.turn()
        parent = self._account(key)
        if parent is None or parent.parent is not None or not 1 <= count <= 50:
            return Refused(400, "invalid_request_error", "invalid_request", "no child keys")
        cost = self.child_key_cost * count
        if cost > parent.balance - parent.reserved:
            return Refused(402, "insufficient_quota", "insufficient_balance", "Insufficient")
        parent.balance -= cost
        parent.total_spent += cost
        made = []
        for _ in range(count):
            seed = f"{key} {len(parent.children)}".encode()
            child = f"sk-{hashlib.sha256(seed).hexdigest()}"
            self.accounts[child] = Account(child, limit=limit, validity=validity, parent=key)
            parent.children.append(child)
            made.append(child)
        return tuple(made)

    def info(self, key: str) -> dict[str, Any] | Refused:
        self.turn()
        account = self._account(key)
        if account is None:
            return Refused(
                401, "invalid_request_error", "invalid_api_key", "Invalid API key format"
            )
        payer = self._payer(account)
        found: dict[str, Any] = {
            "api_key": key,
            "balance": payer.balance - payer.reserved,
            "reserved": payer.reserved,
            "is_child": account.parent is not None,
            **self._counters(account),
        }
        if account.parent is not None:
            found["parent_key_preview"] = account.parent[3:11] + "..."
        elif account.children:
            found["child_keys"] = [
                {"api_key": child, **self._counters(self.accounts[child])}
                for child in account.children
            ]
        return found

    def limit(self, key: str, validity: float | None) -> dict[str, Any] | Refused:
        """What POST /v1/balance/create makes of a key there is: it is limited."""
        self.turn()
        account = self.accounts.get(key)
        if account is None:
            return Refused(
                401, "invalid_request_error", "invalid_api_key", "Invalid API key format"
            )
        if validity is not None:
            account.validity = validity
        return {"api_key": key, "balance": account.balance}

    def reset(self, child: str) -> None:
        """The counters of a child go back."""
        self.accounts[child].total_spent = 0

    def _counters(self, account: Account) -> dict[str, Any]:
        return {
            "total_requests": account.total_requests,
            "total_spent": account.total_spent,
            "balance_limit": account.limit,
            "balance_limit_reset": None,
            "validity_date": account.validity,
        }

    def _account(self, key: str) -> Account | None:
        if key not in self.accounts and self.opens is not None:
            self.deposit(key, self.opens)
        return self.accounts.get(key)

    def _payer(self, account: Account) -> Account:
        return account if account.parent is None else self.accounts[account.parent]

    def _both(self, account: Account) -> tuple[Account, ...]:
        return (account,) if account.parent is None else (account, self.accounts[account.parent])

    def _end(self, held: Reservation) -> None:
        held.open = False
        self._held.remove(held)
        for each in self._both(self.accounts[held.key]):
            each.reserved -= held.amount

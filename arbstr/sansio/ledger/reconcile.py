"""What attempts turned out to have cost that ended without word: by the counters of their key.

    body of GET /balance/info --parse_account--> Account
    two accounts, what was stated between them, what is open --settle--> Settlement

Taken while nothing is in flight on a key and nothing is reserved, the difference of `total_spent`
between two such moments is what all attempts between them cost together:

    rest = grown - stated                what it tells
    no account before                    nothing: this is the first one
    `total_spent` has fallen             nothing: somebody put the counters back
    rest < 0                             nothing: less was charged than was stated
    rest = 0                             all that is open was free
    rest > 0, nothing is open            nothing: charged and never stated, or another user's
    rest above what all open could cost  nothing: another user of the key
    one is open                          the rest is its price
    several are open                     they share the rest, by what was set aside for each

So a difference that cannot be ours settles nothing and is said. All amounts are exact; those of
accounts are millisats.
"""

import json
from collections.abc import Sequence
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from typing import Any, Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import add_sats, format_eyes, multiply_sats, sats_from_msats

LATE_SECONDS: Final = 5.0
"""How long after its end an attempt may still arrive at the node: what was not counted by then
never was. Picked; what a cut connection had in flight is there in a second, also through Tor."""

MOST_TIMES: Final = 10
"""An attempt cannot have cost more than so many times what was set aside; as in `attempt`."""

UNSEEN_SATS: Final = Decimal(1000)
"""What an attempt can have cost for which nothing was set aside. Picked."""


@final
@dataclass(frozen=True, slots=True)
class Account:
    """What a node says of a key, in millisats. `balance` is what is free, net of `reserved`.
    `closed`: the node refuses requests with it, because its time is over."""

    balance: int
    reserved: int
    total_spent: int
    total_requests: int
    closed: bool = False


CLOSED_DATE: Final = 1
"""The moment until which a key that was closed was good, in seconds since 1970: long ago by every
clock. No 0, which nodes take for none."""


def parse_account(body: bytes) -> Account | str:
    """The account in an answer, or what is wrong with it: a predicate about the node."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "answered no JSON where it tells the balance"
    if not isinstance(value, dict):
        return "answered something else than a balance"
    counts = [_count(value.get(name)) for name in _COUNTS]
    found = [count for count in counts if count is not None]
    if len(found) < len(counts) or min(found[2:]) < 0:
        return "answered something else than a balance"
    balance, reserved, spent, requests = found
    return Account(balance, reserved, spent, requests, _is_over(value.get("validity_date")))


def _is_over(until: Any) -> bool:  # noqa: ANN401 - whatever JSON has
    if isinstance(until, bool) or not isinstance(until, int | float):
        return False
    return 0 < until <= CLOSED_DATE


_COUNTS: Final = ("balance", "reserved", "total_spent", "total_requests")

_MOST: Final = 2**53
"""Millisats that are believed: more than all there are, and what JSON's numbers hold exactly."""


def _count(value: Any) -> int | None:  # noqa: ANN401 - whatever JSON has
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST:
        return None
    return value


@final
@dataclass(frozen=True, slots=True)
class Open:
    """An attempt of which nobody knows what it cost. `most` is what was set aside for it, sats."""

    correlation_id: str
    n: int
    most: Decimal | None


class Verdict(StrEnum):
    """What a checkpoint told. The values stand in the ledger."""

    FIRST = "first"
    EQUAL = "equal"
    SETTLED = "settled"
    SHARED = "shared"
    FELL = "fell"
    LESS = "less"
    FOREIGN = "foreign"


@final
@dataclass(frozen=True, slots=True)
class Settlement:
    """What each open attempt cost, in sats; nothing where `prices` is empty. `rest` is what was
    charged beside what was stated, in sats."""

    verdict: Verdict
    prices: tuple[tuple[Open, Decimal], ...] = ()
    rest: Decimal = Decimal(0)

    def sentence(self) -> str | None:
        """What the log is warned of: a predicate about the provider; `None` if all is well."""
        match self.verdict:
            case Verdict.FELL:
                return "put the counters of its key back: what was open stays unknown"
            case Verdict.LESS:
                less = format_eyes(self.rest.copy_negate())
                return f"charged {less} sats less than it stated; what was open stays unknown"
            case Verdict.FOREIGN:
                return (
                    f"charged {format_eyes(self.rest)} sats that no attempt of this ledger "
                    "explains: does anybody else use the key?"
                )
            case Verdict.FIRST | Verdict.EQUAL | Verdict.SETTLED | Verdict.SHARED:
                return None


def settle(
    before: Account | None, now: Account, stated: Decimal, open_ones: Sequence[Open]
) -> Settlement:
    """See the table of the module. `stated` is in sats: what is known of all others."""
    if before is None:
        return Settlement(Verdict.FIRST)
    if now.total_spent < before.total_spent:
        return Settlement(Verdict.FELL)
    grown = sats_from_msats(Decimal(now.total_spent - before.total_spent))
    rest = add_sats(grown, stated.copy_negate())
    if rest < 0:
        return Settlement(Verdict.LESS, (), rest)
    if not rest:
        free = tuple((each, Decimal(0)) for each in open_ones)
        return Settlement(Verdict.SETTLED if free else Verdict.EQUAL, free)
    most = add_sats(*(_could_cost(each) for each in open_ones))
    if rest > most:
        return Settlement(Verdict.FOREIGN, (), rest)
    if len(open_ones) == 1:
        return Settlement(Verdict.SETTLED, ((open_ones[0], rest),), rest)
    return Settlement(Verdict.SHARED, _shares(rest, open_ones), rest)


def _could_cost(one: Open) -> Decimal:
    return UNSEEN_SATS if one.most is None else multiply_sats(one.most, MOST_TIMES)


def _shares(rest: Decimal, open_ones: Sequence[Open]) -> tuple[tuple[Open, Decimal], ...]:
    """Whole millisats, and together exactly the rest."""
    weights = [_could_cost(each) for each in open_ones]
    whole = add_sats(*weights)
    left = rest
    shares: list[Decimal] = []
    for weight in weights[1:]:
        part = rest * weight / whole if whole else rest / len(weights)
        shares.append(min(left, part.quantize(Decimal("0.001"), ROUND_DOWN)))
        left = add_sats(left, shares[-1].copy_negate())
    return tuple(zip(open_ones, (left, *shares), strict=True))

"""Does a provider charge what its configured rates give? Told of each price that was stated.

    stated and expected --PriceAlarms.note--> `PriceAlarm`, or nothing

A difference is looked at in the mean of the last `WINDOW` requests of a provider and model, because
nodes round up and a single request tells nothing: it is alarmed from `SHARE` and `SATS` on, at
most once in `AGAIN_SECONDS`, with the sums since the start beside it.
"""

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, final

from arbstr.sansio.money import add_sats, format_eyes, multiply_sats

WINDOW: Final = 20
"""Requests whose mean is looked at."""

SHARE: Final = 20
"""The difference must be at least one part in so many of what was expected (5 %) ..."""

SATS: Final = Decimal("0.01")
"""... and at least 10 msat a request: nodes round each request up to whole millisats."""

AGAIN_SECONDS: Final = 3600.0
"""How long a provider and model are not spoken of again: it goes on for days, as a rule."""

MOST_PAIRS: Final = 500
"""Pairs of a provider and a model that are remembered; where a provider serves any model, clients
make up the names."""


@final
@dataclass(frozen=True, slots=True)
class PriceAlarm:
    """A provider's charges are not what its rates give. Amounts in sats; `requests` have been
    compared since the start."""

    provider: str
    model: str
    stated: Decimal
    expected: Decimal
    requests: int
    stated_in_all: Decimal
    expected_in_all: Decimal

    def sentence(self) -> str:
        """What the log says, without a full stop."""
        return (
            f'provider "{self.provider}" charges other prices for {self.model} than its configured'
            f" rates: {format_eyes(self.stated)} sats for the last {WINDOW} requests, where they"
            f" give {format_eyes(self.expected)} (since the start"
            f" {format_eyes(self.stated_in_all)} for {self.requests}, where they give"
            f" {format_eyes(self.expected_in_all)})"
        )


@final
@dataclass(slots=True)
class _Pair:
    """A provider and a model: what was stated and what was expected, in sats."""

    last: deque[tuple[Decimal, Decimal]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    requests: int = 0
    stated: Decimal = Decimal(0)
    expected: Decimal = Decimal(0)
    alarmed: float | None = None


@final
class PriceAlarms:
    """The sums of one process. `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], _Pair] = {}

    def note(
        self, provider: str, model: str, stated: Decimal, expected: Decimal, now: float
    ) -> PriceAlarm | None:
        """Takes the price of one attempt in sats: what its provider said, what its rates give."""
        # Put back at the end, so that the first one is the one without prices for longest.
        pair = self._pairs.pop((provider, model), None) or _Pair()
        self._pairs[provider, model] = pair
        if len(self._pairs) > MOST_PAIRS:
            del self._pairs[next(iter(self._pairs))]
        pair.requests += 1
        pair.last.append((stated, expected))
        pair.stated = add_sats(pair.stated, stated)
        pair.expected = add_sats(pair.expected, expected)
        if len(pair.last) < WINDOW:
            return None
        if pair.alarmed is not None and now - pair.alarmed < AGAIN_SECONDS:
            return None
        all_stated = add_sats(*(amount for amount, _ in pair.last))
        all_expected = add_sats(*(amount for _, amount in pair.last))
        if not _differ(all_stated, all_expected):
            return None
        pair.alarmed = now
        return PriceAlarm(
            *(provider, model, all_stated, all_expected),
            *(pair.requests, pair.stated, pair.expected),
        )


def _differ(stated: Decimal, expected: Decimal) -> bool:
    """Of the sums over a whole window."""
    off = add_sats(stated, expected.copy_negate()).copy_abs()
    return off >= multiply_sats(SATS, WINDOW) and multiply_sats(off, SHARE) >= expected

"""Who is left alone for a while, until when, and why.

    a 429                       the model at that provider; where two rest at once, the provider
    a 503 with a wait           the provider
    401, 402, 403, no endpoint  the provider: 60 s, doubled each time to 10 min, until an answer
    charges more than it says   the model there, or the provider, if the configuration wants that:
                                as long as it says, or until a reload

A rest says nothing about health, so it is no state of a circuit (`breaker`). Times are seconds of
one monotonic clock, always an argument.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Final, final

LONGEST_REST: Final = 600.0
"""Seconds. A provider may ask for a day (`Retry-After: 86400`) and recover in a minute."""

FIRST_DOUBT: Final = 60.0
"""Seconds a key or a path is left alone after the first refusal. A person mends it, not time."""


class Reason(StrEnum):
    """Why it rests: what the client is told when all do follows from it."""

    RATE_LIMIT = "rate_limit"
    OVERLOAD = "overload"
    BALANCE = "balance"
    KEY = "key"
    PATH = "path"
    OVERCHARGE = "overcharge"


DOUBTED: Final = frozenset({Reason.BALANCE, Reason.KEY, Reason.PATH})
"""What an answer mends at once, and a reload forgets, because a person may have mended it."""

UNTIMED: Final = DOUBTED | {Reason.OVERCHARGE}
"""What waiting is no remedy for: no client is told to. A reload forgets all of it."""


@final
class Rests:
    """The rests of all providers and of their models. A name never heard of does not rest."""

    def __init__(self) -> None:
        self._until: dict[str, dict[tuple[str | None, Reason], float]] = {}
        self._doubts: dict[str, int] = {}

    def longest(self, name: str, model: str | None, now: float) -> tuple[float, Reason] | None:
        """The rest that a request for this model at this provider meets; without a model, the
        provider's own."""
        held = self._until.get(name)
        if held is None:
            return None
        met = ((until, why) for (at, why), until in held.items() if at is None or at == model)
        return max((rest for rest in met if rest[0] > now), default=None)

    def rest(self, name: str, model: str | None, until: float, now: float, why: Reason) -> None:
        """Leave it alone until then: extended, never shortened, at most `LONGEST_REST`."""
        until = min(until, now + LONGEST_REST)
        if until <= now:
            return
        held = self._until.setdefault(name, {})
        for key in [key for key, past in held.items() if past <= now]:
            del held[key]
        held[model, why] = until = max(held.get((model, why), now), until)
        others = [rest for (at, _), rest in held.items() if at not in (None, model)]
        if model is not None and others:
            # Two models at once: it is hardly theirs alone.
            shared = min(until, max(others))
            held[None, why] = max(held.get((None, why), now), shared)

    def doubt(self, name: str, now: float, why: Reason) -> None:
        """The key or the path was refused. Those who asked at the same time count once."""
        held = self._until.get(name, {})
        if any(held.get((None, doubted), now) > now for doubted in DOUBTED):
            return
        times = self._doubts.get(name, 0)
        self._doubts[name] = times + 1
        self.rest(name, None, now + FIRST_DOUBT * 2.0 ** min(times, 10), now, why)

    def overcharged(self, name: str, model: str | None, until: float) -> None:
        """It charges more than it should: nothing more is bought there until then, which may be
        never (`inf`)."""
        held = self._until.setdefault(name, {})
        key = model, Reason.OVERCHARGE
        held[key] = max(held.get(key, until), until)

    def answered(self, name: str) -> None:
        """An answer came: key and path are good."""
        if self._doubts.pop(name, None) is not None:
            self._drop(name, DOUBTED)

    def retain(self, names: Collection[str]) -> None:
        """After a reload: forget all providers but these, and of everybody what a person mends."""
        for name in [name for name in self._until if name not in names]:
            del self._until[name]
        self._doubts.clear()
        for name in self._until:
            self._drop(name, UNTIMED)

    def _drop(self, name: str, reasons: Collection[Reason]) -> None:
        held = self._until.get(name, {})
        for key in [key for key in held if key[1] in reasons]:
            del held[key]

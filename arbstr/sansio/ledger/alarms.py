"""Does a provider charge what it should? Told of prices that were stated, and of what was charged.

    stated and expected, of each attempt   --PriceAlarms.note--> `PriceAlarm`, or nothing
    charged and known, of each comparison  --ChargeAlarms.note--> `ChargeAlarm`, or nothing

A difference is looked at in the mean of the last `WINDOW` requests, because nodes round up and a
single request tells nothing: it is alarmed from `SHARE` and `SATS` on, at most once in
`AGAIN_SECONDS`, with the sums since the start beside it.
"""

from collections import deque
from collections.abc import Collection, Hashable, Mapping
from dataclasses import field
from decimal import Decimal
from typing import Final, Generic, TypeAlias, TypeVar, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import add_sats, format_eyes, multiply_sats

WINDOW: Final = 20
"""Requests whose mean is looked at."""

SHARE: Final = 20
"""The difference must be at least one part in so many of what was expected (5 %) ..."""

SATS: Final = Decimal("0.01")
"""... and at least 10 msat a request: nodes round each request up to whole millisats."""

AGAIN_SECONDS: Final = 3600.0
"""How long the same is not spoken of again: it goes on for days, as a rule."""

MOST_PAIRS: Final = 500
"""Pairs of a provider and a model that are remembered; where a provider serves any model, clients
make up the names."""

K = TypeVar("K", bound=Hashable)


@final
@dataclass(frozen=True, slots=True)
class Sums:
    """Of so many requests: what was asked for them, and what is right. Both in sats."""

    requests: int = 0
    asked: Decimal = Decimal(0)
    right: Decimal = Decimal(0)

    def __add__(self, other: "Sums") -> "Sums":
        """Of both."""
        return sums_of((self, other))

    @property
    def differ(self) -> bool:
        """Whether that is worth an alarm."""
        off = add_sats(self.asked, self.right.copy_negate()).copy_abs()
        enough = multiply_sats(SATS, self.requests)
        return off >= enough and multiply_sats(off, SHARE) >= self.right


def sums_of(every: Collection[Sums]) -> Sums:
    """Of them all."""
    return Sums(
        sum(each.requests for each in every),
        add_sats(*(each.asked for each in every)),
        add_sats(*(each.right for each in every)),
    )


@final
@dataclass(slots=True)
class _Watched:
    """`last` are those of the window, `requests` their number; `in_all` of all since the start."""

    last: deque[Sums] = field(default_factory=deque)
    requests: int = 0
    in_all: Sums = field(default_factory=Sums)
    alarmed: float | None = None


@final
class _Watch(Generic[K]):
    """The sums of one process, by what they are of. `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._watched: dict[K, _Watched] = {}

    def note(self, key: K, more: Sums, now: float) -> tuple[Sums, Sums] | None:
        """Takes these; the window and all since the start, if that is to be told."""
        # Put back at the end, so that the first one is the one without prices for longest.
        watched = self._watched.pop(key, None) or _Watched()
        self._watched[key] = watched
        if len(self._watched) > MOST_PAIRS:
            del self._watched[next(iter(self._watched))]
        watched.in_all += more
        last = watched.last
        last.append(more)
        watched.requests += more.requests
        while watched.requests - last[0].requests >= WINDOW:
            watched.requests -= last.popleft().requests
        if watched.requests < WINDOW:
            return None
        if watched.alarmed is not None and now - watched.alarmed < AGAIN_SECONDS:
            return None
        window = sums_of(last)
        if not window.differ:
            return None
        watched.alarmed = now
        return window, watched.in_all

    def forgive(self, key: K) -> None:
        """What was is told and answered: it begins anew with the next request."""
        watched = self._watched.get(key)
        if watched is not None:
            watched.last.clear()
            watched.requests = 0

    def view(self) -> Mapping[K, Sums]:
        """All since the start."""
        return {key: watched.in_all for key, watched in self._watched.items()}


@final
@dataclass(frozen=True, slots=True)
class PriceAlarm:
    """What a provider states is not what its rates give. `listed`: they are those its node lists.

    Of the last requests, and of all since the start: asked is what was stated.
    """

    provider: str
    model: str
    last: Sums
    in_all: Sums
    listed: bool = False

    @property
    def dearer(self) -> bool:
        """Whether it states more than it should."""
        return self.last.asked > self.last.right

    def sentence(self) -> str:
        """What the log says, without a full stop."""
        rates = "it lists" if self.listed else "its configured rates"
        return (
            f'provider "{self.provider}" charges other prices for {self.model} than {rates}: '
            f"{format_eyes(self.last.asked)} sats for the last {self.last.requests} requests, "
            f"where they give {format_eyes(self.last.right)} (since the start "
            f"{format_eyes(self.in_all.asked)} for {self.in_all.requests}, where they give "
            f"{format_eyes(self.in_all.right)})"
        )


@final
@dataclass(frozen=True, slots=True)
class ChargeAlarm:
    """By its counters a node charged something else than is known of the attempts: what it stated,
    and what those without word turned out to have cost. `alone`: nobody else can have used the key
    that was charged."""

    provider: str
    last: Sums
    in_all: Sums
    alone: bool = False

    @property
    def dearer(self) -> bool:
        """Whether it charged more than it should."""
        return self.last.asked > self.last.right

    def sentence(self) -> str:
        """What the log says, without a full stop."""
        who = "" if self.alone or not self.dearer else ": does anybody else use the key?"
        return (
            f'provider "{self.provider}" charges something else than it states: '
            f"{format_eyes(self.last.asked)} sats for the last {self.last.requests} requests, "
            f"where it stated {format_eyes(self.last.right)} (since the start "
            f"{format_eyes(self.in_all.asked)} for {self.in_all.requests}, where it stated "
            f"{format_eyes(self.in_all.right)}){who}"
        )


Alarm: TypeAlias = PriceAlarm | ChargeAlarm


@final
class PriceAlarms:
    """Stated against expected, by provider and model."""

    def __init__(self) -> None:
        self._watch: _Watch[tuple[str, str]] = _Watch()

    def note(
        self,
        provider: str,
        model: str,
        stated: Decimal,
        expected: Decimal,
        now: float,
        *,
        listed: bool = False,
    ) -> PriceAlarm | None:
        """Takes the price of one attempt in sats: what its provider said, what its rates give."""
        told = self._watch.note((provider, model), Sums(1, stated, expected), now)
        return None if told is None else PriceAlarm(provider, model, *told, listed=listed)

    def forgive(self, alarm: PriceAlarm) -> None:
        """Something was done about it: the next requests alone count."""
        self._watch.forgive((alarm.provider, alarm.model))

    def of(self, provider: str) -> Mapping[str, Sums]:
        """What was stated for each model of a provider since the start."""
        every = self._watch.view().items()
        return {model: sums for (name, model), sums in every if name == provider}


@final
class ChargeAlarms:
    """Charged against known, by provider: of its key, and of its lanes."""

    def __init__(self) -> None:
        self._watch: _Watch[tuple[str, bool]] = _Watch()

    def note(
        self, provider: str, more: Sums, now: float, *, alone: bool = False
    ) -> ChargeAlarm | None:
        """Takes one comparison: what was charged for so many attempts, and what is known of it."""
        if not more.requests:
            return None
        told = self._watch.note((provider, alone), more, now)
        return None if told is None else ChargeAlarm(provider, *told, alone=alone)

    def forgive(self, alarm: ChargeAlarm) -> None:
        """As `PriceAlarms.forgive`."""
        self._watch.forgive((alarm.provider, alarm.alone))

    def of(self, provider: str, *, alone: bool = False) -> Sums | None:
        """What was charged since the start."""
        return self._watch.view().get((provider, alone))

"""Which rows are too old, if the clock may be wrong. What is removed does not come back.

    told                                               what is too old
    the first look, rows of before younger than `days` all that is older than `days`
    the first look, no row of before is that young     nothing: the clock may be ahead (or
                                                       arbstr was not run for so long)
    a later look, as long after the last as it should  all that is older than `days`
    a later look, more than a day ahead of that        nothing: the clock was put ahead
    a day after the clock was first doubted            it is believed

So a clock that is ahead costs no row for a day, in which whoever sets clocks has set it right.
"""

from typing import Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.moments import DAY_MS

DOUBT_SECONDS: Final = 86_400.0
"""How long a clock that is doubted must run on before it is believed; picked."""


@final
@dataclass(frozen=True, slots=True)
class Doubted:
    """The clock says `now`, and by all that is known it should be about `expected`: moments."""

    now: int
    expected: int


@final
class Retention:
    """Keeps rows for `days`. `at` below is monotonic, in seconds; the rest are moments."""

    def __init__(self, days: int) -> None:
        self._keep = days * DAY_MS
        self._believed: tuple[int, float] | None = None
        self._doubted_at: float | None = None

    @property
    def wants_newest(self) -> bool:
        """Whether the next look needs to be told of the newest row."""
        return self._believed is None

    def before(self, now: int, at: float, newest: int | None = None) -> int | Doubted:
        """The moment before which rows are too old. `newest` is of the newest row that was there
        before this process; `None` if there is none."""
        if self._believed is None:
            expected = now if newest is None else newest
            ahead = now - expected >= self._keep
        else:
            moment, since = self._believed
            expected = moment + round((at - since) * 1000)
            ahead = now - expected > DAY_MS
        if ahead:
            if self._doubted_at is None:
                self._doubted_at = at
            if at - self._doubted_at < DOUBT_SECONDS:
                return Doubted(now, expected)
        self._believed, self._doubted_at = (now, at), None
        return now - self._keep

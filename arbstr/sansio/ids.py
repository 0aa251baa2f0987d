"""Ids of requests in the order of time: UUIDs of version 7 (RFC 9562 5.7).

    48 bits  milliseconds since 1970        4 bits  7
    12 bits  4096ths of the millisecond     2 bits  2, and 62 bits of chance

So an index of them grows at its end, where random ones touch a page of the disk each. What begins
an id says when it was made, to the minute in its first eight digits; what tells it from its
neighbours is its end.
"""

from typing import Final, final

PER_MS: Final = 4096
"""Ticks in a millisecond: what 12 bits hold (RFC 9562 6.2, method 3)."""

SET_BACK_MS: Final = 1000
"""A clock that is put back by less is waited out, tick by tick; by more, it is followed. Picked."""

RANDOM_BITS: Final = 62


@final
class RequestIds:
    """Makes them, each after the one before."""

    def __init__(self) -> None:
        self._last = 0

    def following(self, now_ns: int, chance: int) -> str:
        """The next id. `now_ns` is nanoseconds since 1970, `chance` has `RANDOM_BITS`."""
        tick = now_ns * PER_MS // 1_000_000
        if tick <= self._last < tick + SET_BACK_MS * PER_MS:
            tick = self._last + 1
        self._last = tick
        ms, part = divmod(tick, PER_MS)
        high, low = divmod(ms, 1 << 16)
        seen, rest = divmod(chance | 2 << 62, 1 << 48)
        return f"{high:08x}-{low:04x}-7{part:03x}-{seen:04x}-{rest:012x}"

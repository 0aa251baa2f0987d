"""Zones for tests, which need no database of the machine's."""

from arbstr.sansio.moments import Zone, parse_moment

MINUTE_MS = 60_000


def zone_of(minutes: int, after: int | None = None, *, at: str = "", name: str = "here") -> Zone:
    """One that is so many minutes ahead of UTC, and `after` from the moment `at` (UTC) on."""
    if after is None:
        return Zone(name, lambda moment: minutes * MINUTE_MS)
    change = parse_moment(at)
    assert change is not None
    return Zone(name, lambda moment: (minutes if moment < change else after) * MINUTE_MS)

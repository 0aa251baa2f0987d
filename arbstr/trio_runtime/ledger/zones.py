"""Zones by their names, as this machine knows them.

find_zone("Europe/Berlin")    by the machine's copy of the IANA's database
find_zone("local")            the machine's own, which $TZ sets, also where it has no name
"""

import time
from datetime import UTC as UTC_OF_DATETIME
from datetime import datetime, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from arbstr.sansio.moments import EARLIEST, LATEST, UTC, Zone

LOCAL: Final = "local"

LONGEST_NAME: Final = 64
"""Characters; the longest of the IANA has 32."""

_SECOND: Final = timedelta(seconds=1)


def find_zone(name: str) -> Zone | None:
    """The zone of that name, or `None` if this machine knows none."""
    if name == UTC.name:
        return UTC
    if name == LOCAL:
        return Zone(LOCAL, _local)  # not kept: $TZ may be another the next time
    return _named(name) if len(name) <= LONGEST_NAME else None


@cache
def _named(name: str) -> Zone | None:
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a path, a folder, a file that is no zone
        return None

    def ahead(moment: int) -> int:
        at = datetime.fromtimestamp(_within(moment), UTC_OF_DATETIME).astimezone(zone)
        return (at.utcoffset() or timedelta()) // _SECOND * 1000

    return Zone(name, ahead)


def _local(moment: int) -> int:
    return time.localtime(_within(moment)).tm_gmtoff * 1000


def _within(moment: int) -> int:
    """In seconds, at least two days from where the calendar ends, which a zone may be ahead of."""
    return min(max(moment, EARLIEST + 2 * 86_400_000), LATEST - 2 * 86_400_000) // 1000

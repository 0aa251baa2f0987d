"""`arbstr backup FILE`: a copy of the ledger, also of one that is in use."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Final

from arbstr.cli.config_file import absolute
from arbstr.cli.progress import Progress
from arbstr.sansio.errors import StartError
from arbstr.trio_runtime.ledger.database import IN_MEMORY, is_shared, shown
from arbstr.trio_runtime.ledger.sqlite_backup import back_up

BESIDE: Final = {
    "lanes": "child keys, with what is on them",
    "change": "ecash that came back",
}
"""Files of a ledger that are worth keeping and no part of it, by how their names end."""


def run(options: argparse.Namespace, place: str) -> int:
    """Prints what was written. Raises `StartError`."""
    target = absolute(Path(options.file))
    if is_shared(place):
        raise StartError(
            (
                f"the ledger is {shown(place)}, and backup copies SQLite's files alone; use its "
                f"own program: pg_dump --format=custom --schema=arbstr --file="
                f"{shlex.quote(str(target))} {shlex.quote(shown(place))}",
            )
        )
    if place == IN_MEMORY:
        raise StartError(("the ledger is kept in memory: there is nothing to copy",))
    progress = Progress()
    try:
        done = back_up(
            place,
            target,
            replace=options.force,
            progress=lambda copied, pages: progress.show(f"{100 * copied // pages} %"),
        )
    finally:
        progress.end()
    print(f"{target}: {done.size:,} bytes, looked through and complete")
    for name in ("requests", "attempts"):
        print(f"  {name}  {done.rows.get(name, 0):,} rows")
    for ending, what in BESIDE.items():
        if os.path.exists(f"{place}.{ending}"):
            print(f"not in it: {place}.{ending} ({what}); copy that, too")
    return 0

"""`arbstr migrate --to PLACE`: the ledger, moved to another engine or file."""

import argparse
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from arbstr.cli.config_file import absolute
from arbstr.cli.output import complain
from arbstr.cli.progress import Progress
from arbstr.sansio.errors import ConfigError, StartError
from arbstr.trio_runtime import groups
from arbstr.trio_runtime.ledger.database import (
    IN_MEMORY,
    beside,
    is_shared,
    named_place,
    shown,
)
from arbstr.trio_runtime.ledger.move import Moved, move
from arbstr.trio_runtime.ledger.port import Trouble


def run(options: argparse.Namespace, configured: str) -> int:
    """Prints what was moved; returns the exit code. Raises `StartError`."""
    source = _place(options, options.source, "--from") if options.source else configured
    target = _place(options, options.target, "--to")
    for place in (source, target):
        if place == IN_MEMORY:
            raise StartError(("a ledger in memory ends with its process: it cannot be moved",))
    if source == target:
        raise StartError((f"{shown(source)}: it is there already",))
    if not is_shared(source) and not os.path.exists(source):
        raise StartError((f"{source}: there is no such ledger",))
    progress = Progress()
    try:
        moved = groups.run(
            move,
            source,
            target,
            lambda table, rows, of: progress.show(f"{table}: {rows:,} of {of:,}"),
            expected=(StartError, Trouble),
        )
    except Trouble as error:
        progress.end()
        complain(f"{error}; run the same again, and it goes on where it ended")
        return 1
    except StartError as error:
        by = {target: "--to"} | ({source: "--from"} if options.source else {})
        raise StartError(tuple(_by_option(each, by) for each in error.problems)) from None
    finally:
        progress.end()
    _tell(moved, source, target)
    _lanes(source, target)
    print(
        f"arbstr uses it with [database] {_setting(target)}, or with $DATABASE_URL; "
        f"{shown(source)} stays as it is"
    )
    return 0


def _place(options: argparse.Namespace, text: str, name: str) -> str:
    try:
        place = named_place(text, name)
    except ConfigError as error:
        options.complain(error.problems[0])
        raise
    return place if is_shared(place) or place == IN_MEMORY else str(absolute(Path(place)))


def _by_option(problem: str, by: Mapping[str, str]) -> str:
    """What is wrong with a ledger, by the option that named it: `by` its place."""
    for place, option in by.items():
        if problem.startswith(f"database {shown(place)}:"):
            return re.sub(r"with \[database\] [^:]*\$DATABASE_URL$", f"with {option}", problem)
    return problem


def _setting(target: str) -> str:
    if is_shared(target):
        return f'url = "{shown(target)}" (and its password)'
    return f'path = "{target}"'


def _tell(moved: Moved, source: str, target: str) -> None:
    if moved.already:
        print(f"{shown(target)} has all of {shown(source)} already:")
    elif moved.anew:
        print(f"{shown(source)} had been used since the last try: all of it was moved again:")
    sums = moved.sums
    for name, days in (("requests", sums.requests), ("attempts", sums.attempts)):
        unknown = sum(int(each[1]) for each in days.values())
        sats = sum(each[2] for each in days.values())
        print(
            f"{name:<14} {sums.rows[name]:>12,} rows of {len(days)} days, {sats:,.6g} sats, "
            f"{unknown:,} without a price"
        )
    for table, rows in sums.rows.items():
        if table not in ("requests", "attempts") and rows:
            print(f"{table:<14} {rows:>12,} rows")
    print("both ledgers add up to the same, day by day")


def _lanes(source: str, target: str) -> None:
    """The child keys lie beside a ledger: what is on them would be out of sight."""
    mine, theirs = (f"{beside(place)}.lanes" for place in (source, target))
    if not os.path.exists(mine):
        return
    if os.path.exists(theirs):
        if Path(mine).read_bytes() != Path(theirs).read_bytes():
            print(f"child keys lie in {mine}, and others in {theirs}: neither is touched")
        return
    part = f"{theirs}.part"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
            with open(mine, "rb") as lanes:
                shutil.copyfileobj(lanes, copy)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(part, theirs)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
    print(f"child keys copied to {theirs}")

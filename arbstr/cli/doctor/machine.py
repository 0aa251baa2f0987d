"""This machine: the ledger, the disk, the port, limits and versions. Blocks."""

import os
import platform
import shlex
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import field
from decimal import Decimal
from glob import escape, glob
from pathlib import Path
from typing import Final, final

from arbstr import __version__
from arbstr.cli.doctor.findings import (
    Finding,
    Unknown,
    day_findings,
    disk_findings,
    fault,
    limit_findings,
    note,
    of_problem,
    ok,
)
from arbstr.sansio.config.credentials import lists_prices
from arbstr.sansio.config.reader import Config
from arbstr.sansio.errors import StartError
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.reports import Filters, Group
from arbstr.sansio.moments import DAY_MS, Span
from arbstr.trio_runtime.descriptors import OTHERS
from arbstr.trio_runtime.ledger.budget import read_spent
from arbstr.trio_runtime.ledger.checkpoints import unknown_attempts
from arbstr.trio_runtime.ledger.database import IN_MEMORY, is_shared, open_for_reading, shown
from arbstr.trio_runtime.ledger.port import Session, Trouble
from arbstr.trio_runtime.ledger.sqlite_readers import requests_in_wal
from arbstr.trio_runtime.ledger.stats import read_stats
from arbstr.trio_runtime.server.listener import bind

BESIDE: Final = ("-wal", "-shm", "-journal", ".lanes", ".change", ".intents-", ".lock-")
"""How the names of a ledger's files go on after its own."""


@final
@dataclass(frozen=True, slots=True)
class Books:
    """What was found of the ledger, and sats of the last day by provider."""

    findings: tuple[Finding, ...]
    spent: dict[str, Decimal] = field(default_factory=dict)


def books(place: str, config: Config) -> Books:
    """The ledger: whether it can be read and is sound, and what it says of today."""
    about = "ledger"
    if place == IN_MEMORY:
        return Books((note(about, "is kept in memory and gone at the end", "set [database] path"),))
    is_file = not is_shared(place)
    if is_file and not os.path.lexists(place):
        folder = os.path.dirname(place)
        if os.path.isdir(folder) and os.access(folder, os.W_OK):
            return Books((ok(about, f"none yet; arbstr run begins {place}"), *_disk(place)))
        says = f"{place} cannot be begun: {folder} is no directory that may be written to"
        return Books((fault(about, says, "make it, or set [database] path"),))
    try:
        with open_for_reading(place) as session:
            damage = _damage(session) if is_file else None
            if damage is not None:
                return Books((_damaged(place, damage),))
            now = time.time()
            (requests,) = session.execute("SELECT count(*) FROM requests").fetchone()
            spent = read_spent(session, now, but_by="")
            moment = int(now * 1000)
            day = Filters(Span(moment - DAY_MS, moment + 1))
            groups = read_stats(session, day, Group.PROVIDER)["groups"]
            nodes = {each.name for each in config.providers if lists_prices(each.kind)}
            unknown = [
                Unknown(each.provider, each.attempts, is_node=True)
                if each.provider in nodes
                else Unknown(each.provider, each.unpriced, is_node=False)
                for each in unknown_attempts(session)
            ]
    except StartError as error:
        otherwise = "give another with [database] path"
        return Books(tuple(of_problem(about, each, otherwise) for each in error.problems))
    except Trouble as error:
        if "malformed" in str(error) or "not a database" in str(error):
            return Books((_damaged(place, str(error)),))
        says = f"{shown(place)} cannot be read now: {error}"
        return Books((fault(about, says, "see who uses it, and whether it may be read"),))
    found = [ok(about, f"{shown(place)} can be read{' and is sound' if is_file else ''}")]
    if is_file:
        found += [*_modes(place), *_unfolded(place, requests), *_disk(place)]
    found += day_findings(spent, config.budget.sats_per_day, unknown)
    by_provider = {
        str(each["provider"]): Decimal(str(each["costs"]["total_cost_sats"])) for each in groups
    }
    return Books(tuple(found), by_provider)


def _damage(session: Session) -> str | None:
    """What SQLite finds wrong with the file, all of which it reads."""
    (found,) = session.execute("PRAGMA quick_check(1)").fetchone()
    return None if found == "ok" else str(found).partition("\n")[0]


def _damaged(place: str, how: str) -> Finding:
    return fault(
        "ledger",
        f"{place} is damaged: {how}",
        "stop arbstr, put a sound copy there (arbstr backup makes them), and see to the disk",
    )


def _modes(place: str) -> Iterator[Finding]:
    """Of the ledger and all that lies beside it."""
    if os.name != "posix":
        return
    open_ones = []
    for path in sorted(glob(f"{escape(place)}*")):
        with suppress(OSError):  # gone since a moment ago
            is_ours = path == place or path[len(place) :].startswith(BESIDE)
            if is_ours and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
                open_ones.append(path)
    if open_ones:
        yield note(
            "ledger",
            f"others can read {', '.join(os.path.basename(path) for path in open_ones)}",
            f"chmod 600 {shlex.join(open_ones)}, unless they are meant to",
        )
    if not os.access(place, os.W_OK) or not os.access(os.path.dirname(place), os.W_OK):
        yield fault(
            "ledger", "it may not be written to", "see who owns it and its directory (chown)"
        )


def _unfolded(place: str, requests: int) -> Iterator[Finding]:
    """What a copy of the file alone would lack."""
    lacking = requests_in_wal(place, requests)
    if lacking is not None:
        what = f"{lacking:,} of its {requests:,} requests" if lacking else "changes to its rows"
        yield ok(
            "ledger",
            f"{what} lie in {os.path.basename(place)}-wal alone, so cp of the ledger loses them: "
            "copy it by arbstr backup FILE",
        )


def _disk(place: str) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(os.path.dirname(place)).free
    except OSError:
        return
    size = sum(path.stat().st_size for path in map(Path, (place, f"{place}-wal")) if path.is_file())
    yield from disk_findings(free, size)


def in_the_way(config: Config) -> str | None:
    """Why arbstr could not listen where it is to, if nobody listens there; `None` if it could."""
    try:
        for listening in bind(config.server.listen_host, config.server.listen_port):
            listening.close()
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def limits() -> Iterator[Finding]:
    """How many files may be open."""
    try:
        import resource
    except ImportError:  # Windows, whose sockets have no such limit
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    yield from limit_findings(None if hard == resource.RLIM_INFINITY else hard, OTHERS)


def versions(sqlite: str) -> Finding:
    """Who this is."""
    return ok(
        "versions",
        f"arbstr {__version__}, Python {platform.python_version()}, SQLite {sqlite}, "
        f"{platform.system()} {platform.machine()}",
    )

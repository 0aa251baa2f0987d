"""The ledger of `arbstr run --mock`: a file nobody asked for, so one that is easily lost.

    run --mock --begin--> <temporary directory>/arbstr-mock-<uid>/<directory>-<moment>-<pid>.db
    stats, requests --latest--> the newest, of whoever was started in this directory or anywhere

Each process has one of its own, so that two do not count each other's requests. It is there until
the next `run --mock`, which removes those of processes that are gone.
"""

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from glob import escape, glob
from hashlib import sha256
from pathlib import Path
from typing import Final

from arbstr.trio_runtime.ledger.boot_lock import BootLock
from arbstr.trio_runtime.ledger.database import IN_MEMORY

YOUNG_SECONDS: Final = 60.0
"""A file that was written within so long is left alone: its process may not have locked it yet."""


def begin() -> str:
    """A place for a new one; in memory where there is no room for a file of ours."""
    directory = _directory()
    try:
        directory.mkdir(0o700)
    except FileExistsError:
        pass
    except OSError:
        return IN_MEMORY
    if not _is_ours(directory):
        return IN_MEMORY
    for path in _lying(directory):
        if not _is_in_use(path):
            for each in glob(f"{escape(str(path))}*"):
                with suppress(OSError):
                    os.unlink(each)
    return str(directory / f"{_here()}-{time.time_ns()}-{os.getpid()}.db")


def latest(*, anywhere: bool) -> str | None:
    """The newest there is, of a process that was started in the current directory or `anywhere`."""
    directory = _directory()
    if not _is_ours(directory):
        return None
    lying = [each for each in _lying(directory) if anywhere or each.name.startswith(_here())]
    return str(max(lying, key=_moment)) if lying else None


def _directory() -> Path:
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"arbstr-mock{user}")


def _is_ours(directory: Path) -> bool:
    """Anybody may make a directory of that name where temporary files are."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    return not hasattr(os, "getuid") or (
        found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
    )


def _here() -> str:
    try:
        return sha256(os.fsencode(os.getcwd())).hexdigest()[:16]
    except OSError:
        return "nowhere"  # it is gone, and so nobody asks there


def _lying(directory: Path) -> Iterator[Path]:
    return (each for each in directory.glob("*-*-*.db") if each.is_file())


def _moment(path: Path) -> int:
    moment = path.name.split("-")[1]
    return int(moment) if moment.isdigit() else 0


def _is_in_use(path: Path) -> bool:
    with suppress(OSError):
        if time.time() - path.stat().st_mtime < YOUNG_SECONDS:
            return True
    return bool(BootLock(str(path), "").others())

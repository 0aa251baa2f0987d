"""How one process shows others that it lives: a file it holds a lock on.

The kernel lets go of the lock however the process ends, also by kill -9, so nothing has to be
trusted that a dying process might not have done. Why it matters: see database.py.
"""

import logging
import os
import sys
from contextlib import suppress
from typing import final

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)


@final
class BootLock:
    """What tells other processes that this one lives. All methods block, for microseconds."""

    def __init__(self, database: str, boot_id: str) -> None:
        self._prefix = f"{database}.lock-"
        self._path = self._prefix + boot_id
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it; a file system that cannot lock costs a warning, not the start."""
        if self._descriptor is not None:
            return
        try:
            self._descriptor = _lock_file(self._path)
        except OSError as error:
            _log.warning(
                "cannot lock %s (%s): another arbstr that starts on this database "
                "will show requests in flight as abandoned until they end",
                self._path,
                error.strerror,
            )

    @property
    def is_held(self) -> bool:
        """Whether others see by it that this process lives, and it sees so of them."""
        return self._descriptor is not None

    def release(self) -> None:
        """Let go, and leave no file behind."""
        if self._descriptor is None:
            return
        # Unlinked first, while it is surely ours.
        with suppress(OSError):
            os.unlink(self._path)
        os.close(self._descriptor)
        self._descriptor = None

    def is_held_by(self, boot_id: str) -> bool:
        """Whether the process with that boot id lives."""
        path = self._prefix + boot_id
        return path == self._path or _is_locked(path)

    def sweep(self) -> None:
        """Remove the files of processes that were killed."""
        for path in self._of_others():
            _is_locked(path, remove=True)

    def others(self) -> int:
        """How many other processes live."""
        return sum(_is_locked(path) for path in self._of_others())

    def _of_others(self) -> list[str]:
        directory, prefix = os.path.split(self._prefix)
        try:
            names = os.listdir(directory)
        except OSError:
            return []
        paths = [os.path.join(directory, name) for name in names if name.startswith(prefix)]
        return [path for path in paths if path != self._path]


if sys.platform != "win32":

    def _lock_file(path: str) -> int | None:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # Another start may have swept the file away between the two lines above.
                if identity(path) == identity(descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _is_locked(path: str, *, remove: bool = False) -> bool:
        """`remove`: delete it if it is not, while nobody else can lock it."""
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # another user's: only a living process is to be assumed
        try:
            # Shared, so that two starts that look at once do not take each other for the owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if remove:
                os.unlink(path)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

else:
    # Without flock every other process counts as gone. The harm mends itself: the final record
    # of a request overwrites `abandoned`.
    def _lock_file(path: str) -> int | None:
        return None

    def _is_locked(path: str, *, remove: bool = False) -> bool:
        return False


def identity(file: str | int) -> tuple[int, int] | None:
    """Which file a path or descriptor leads to right now; `None` if to none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino

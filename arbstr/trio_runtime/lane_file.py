"""The file with the keys of lanes: `<ledger>.lanes`, for its owner alone (mode 0600).

    beside the ledger --open_lane_file--> LaneFile
    those nobody uses --open_left_files--> LaneFiles, of processes that are gone
    LaneFile.of(a key's id) --> its child keys      LaneFile.keep(...) before their first use
                                                    LaneFile.leave(...) after their last

Whoever uses a file holds a lock on it (`flock`), because a lane serves one request at a time, and
so one process: another on the same ledger takes `<ledger>.lanes-2`, and so on. The kernel lets go
of the lock however the process ends, and the next one has its lanes. A line is one JSON object;
what is none is passed over. A lost file loses no money: child keys own none.
"""

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, final

if sys.platform != "win32":
    import fcntl

MOST_FILES: Final = 64
"""Processes on one ledger that have lanes of their own; more than there are."""


@final
class LaneFile:
    """One that is ours; without a descriptor nothing is kept. All methods block."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    def of(self, parent: str) -> list[str]:
        """The child keys of the key with that id that are still of use."""
        found = dict[str, bool]()
        for its, key, is_closed in self._entries():
            if its == parent:
                found[key] = is_closed or found.get(key, False)
        return [key for key, is_closed in found.items() if not is_closed]

    def made(self, parent: str) -> int:
        """How many child keys of it there ever were."""
        return len({key for its, key, _ in self._entries() if its == parent})

    def keep(self, provider: str, parent: str, keys: Sequence[str]) -> None:
        """Before their first use, so that a crash loses none. Raises `OSError`."""
        self._append([{"provider": provider, "parent": parent, "key": key} for key in keys])

    def leave(self, provider: str, parent: str, key: str) -> None:
        """It was closed: nobody uses it again. Raises `OSError`."""
        entry = {"provider": provider, "parent": parent, "key": key, "closed": True}
        self._append([entry])

    def _append(self, entries: Sequence[Mapping[str, object]]) -> None:
        if self._descriptor is None:
            return
        text = "".join(f"{json.dumps(entry)}\n" for entry in entries)
        if self._content()[-1:] not in (b"\n", b""):
            text = f"\n{text}"  # a line was cut off by a crash
        with open(self._descriptor, "a", encoding="utf-8", closefd=False) as file:
            file.write(text)
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Lets go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _content(self) -> bytes:
        if self._descriptor is None:
            return b""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()

    def _entries(self) -> Iterator[tuple[str, str, bool]]:
        for line in self._content().decode("utf-8", "replace").splitlines():
            with suppress(ValueError, RecursionError):
                match entry := json.loads(line):
                    case {"parent": str(parent), "key": str(key)}:
                        yield parent, key, entry.get("closed") is True
                    case _:
                        pass


def open_lane_file(beside: str | None) -> LaneFile:
    """The first that no other process uses. `beside` is where, as `port.Database` says: None for
    none at all. Blocks. Raises `OSError`."""
    if beside is None:
        return LaneFile()
    for path in _paths(beside):
        descriptor = _own(path, os.O_CREAT)
        if descriptor is not None:
            return LaneFile(descriptor)
    raise OSError(errno.EBUSY, "other processes use all files of lanes", f"{beside}.lanes")


def open_left_files(beside: str | None) -> tuple[Sequence[LaneFile], Sequence[OSError]]:
    """Those that are there and that no other process uses, all ours now, and why others cannot be
    read. Blocks."""
    found: list[LaneFile] = []
    troubles: list[OSError] = []
    for path in () if beside is None else _paths(beside):
        try:
            descriptor = _own(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            troubles.append(error)
            continue
        if descriptor is not None:
            found.append(LaneFile(descriptor))
    return found, troubles


def _paths(beside: str) -> Iterator[str]:
    yield f"{beside}.lanes"
    for number in range(2, MOST_FILES + 1):
        yield f"{beside}.lanes-{number}"


def _own(path: str, more: int = 0) -> int | None:
    """A descriptor of it, with its lock; `None` if another process has that. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | more, 0o600)
    try:
        if sys.platform != "win32":
            os.fchmod(descriptor, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

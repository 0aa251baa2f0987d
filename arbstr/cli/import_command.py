"""`arbstr import FILE`: rows the ledger could not take, read back from the log that has them."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, Final

from arbstr.cli.output import complain
from arbstr.sansio.errors import StartError
from arbstr.sansio.ledger.dropped import MARK, Unreadable, read_dropped
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime import groups
from arbstr.trio_runtime.ledger.database import IN_MEMORY, shown
from arbstr.trio_runtime.ledger.put_back import put_back

STDIN: Final = "-"

_MARK: Final = MARK.encode()
_ID: Final = b'"correlation_id"'


def run(options: argparse.Namespace, place: str) -> int:
    """Prints what became of them; 1 if any could not be read or written. Raises `StartError`."""
    if place == IN_MEMORY:
        raise StartError(("the ledger is kept in memory: nothing can be put back there",))
    faults: list[str] = []
    with ExitStack() as stack:
        file = _opened(options.file, stack)
        done = groups.run(
            put_back, place, _records(options.file, file, faults), expected=(StartError,)
        )
    faults += [
        f"request {one.record.correlation_id}: the database refuses it ({one.error})"
        for one in done.refused
    ]
    for fault in faults:
        complain(fault)
    if done.written or done.there:
        rows = "1 row" if done.written == 1 else f"{done.written:,} rows"
        print(f"{rows} put into {shown(place)}; there already: {done.there:,}")
    elif not faults:
        print(f"no line `{MARK.strip()} {{...}}` in {options.file}: nothing to put back")
    return 1 if faults else 0


def _opened(name: str, stack: ExitStack) -> BinaryIO:
    if name == STDIN:
        if sys.stdin is None:
            raise StartError(("standard input is closed",))
        return sys.stdin.buffer
    try:
        return stack.enter_context(open(name, "rb"))
    except OSError as error:
        raise StartError((f"{name}: cannot be read: {error.strerror}",)) from None


def _records(name: str, file: BinaryIO, faults: list[str]) -> Iterator[Record]:
    """As they stand in the file; what cannot be read goes to `faults`."""
    try:
        for number, line in enumerate(file, 1):
            if _MARK not in line and _ID not in line:
                continue
            match read_dropped(line.decode("utf-8", "replace")):
                case Record() as record:
                    yield record
                case Unreadable(why):
                    faults.append(f"{name}: the row dropped in line {number} {why}")
                case None:
                    pass
    except OSError as error:
        raise StartError((f"{name}: cannot be read: {error.strerror}",)) from None

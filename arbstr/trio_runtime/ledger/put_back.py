"""Rows that were dropped, put into the ledger they belong to: each once, whoever has it already.

    Records --BATCH_ROWS, a transaction--> those that are missing, or have no end there

A row that is final stays as it is: it may have been settled since. The rows bear a boot id of their
own, so for a budget they are another process's, read with the day.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio.errors import StartError
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.ledger.database import open_database, shown
from arbstr.trio_runtime.ledger.log_writer import BATCH_ROWS
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble
from arbstr.trio_runtime.ledger.store import Refused, Store

PATIENCE_SECONDS: Final = 10.0
"""How long a ledger that is locked is tried again; a running arbstr has it for milliseconds."""

PAUSE_SECONDS: Final = 0.1


@final
@dataclass(frozen=True, slots=True)
class PutBack:
    """What became of rows: `written`, `there` already, or `refused` by the database."""

    written: int = 0
    there: int = 0
    refused: tuple[Refused, ...] = ()

    def __add__(self, other: "PutBack") -> "PutBack":
        return PutBack(
            self.written + other.written,
            self.there + other.there,
            (*self.refused, *other.refused),
        )


async def put_back(place: str, records: Iterable[Record]) -> PutBack:
    """Raises `StartError` for a ledger that cannot be used or written; what was written until then
    stays."""
    done = PutBack()
    async with open_database(place) as database:
        for batch in _batches(records):
            try:
                done += await _written(database, batch)
            except Trouble as error:
                raise StartError(
                    (
                        f"{shown(place)}: cannot be written ({error}); {done.written:,} rows are "
                        "put back. Mend that, and give the same again: none is written twice",
                    )
                ) from None
    return done


def _batches(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    """Each with no id twice, as `Store` wants it: the same line may stand in several files."""
    batch: dict[str, Record] = {}
    for record in records:
        batch.setdefault(record.correlation_id, record)
        if len(batch) == BATCH_ROWS:
            yield tuple(batch.values())
            batch.clear()
    if batch:
        yield tuple(batch.values())


async def _written(database: Database, batch: Sequence[Record]) -> PutBack:
    """Raises `Trouble` once that has lasted."""
    with trio.move_on_after(PATIENCE_SECONDS):
        while True:
            try:
                return await database.transaction(partial(_write, batch, database.boot_id))
            except Trouble as error:
                if error.is_lasting:
                    raise
                trouble = error
            await trio.sleep(PAUSE_SECONDS)
    raise trouble


def _write(batch: Sequence[Record], boot_id: str, session: Session) -> PutBack:
    missing = [record for record in batch if not _is_final(session, record.correlation_id)]
    refused = Store(boot_id).one_by_one(missing, session)
    return PutBack(len(missing) - len(refused), len(batch) - len(missing), refused)


def _is_final(session: Session, correlation_id: str) -> bool:
    row = session.execute(
        "SELECT status FROM requests WHERE correlation_id = ?", (correlation_id,)
    ).fetchone()
    return row is not None and row[0] not in ("in_flight", "abandoned")

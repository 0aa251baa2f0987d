"""Records on their way into the database: a bounded queue, batches, a drop counter, a drain.

    offer(record) --> pending, by correlation id --0.2 s or 200 rows--> one transaction
                        |     ^                                             |
          full: the least     +---- kept, tried again with backoff <-- locked, full, read-only, ...
          loss is dropped

`offer` is synchronous and never fails: the answer of a request never waits for its row. What is
offered is also noted in a file first (`intents.py`), so that kill -9 loses none of it: what a
process before this one left there is made into rows before anything else is written. A final
record that finds its in-flight row still pending takes its place, so most short requests cost
one insert; the row of a request in flight is made only when it is to be written. The row in the
database is finalised once; see `sql/upsert_request.sql`.

When the queue is full, what is dropped first is what is missed least: `Loss`. A record that may
have cost money is printed whole when it must be dropped, as one line of JSON in the log.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from enum import IntEnum
from functools import partial
from itertools import islice
from typing import Final, TypeAlias, final

import trio

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.dropped import dropped_text
from arbstr.sansio.ledger.intents import Intent
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.ledger.intents import Intents, Leftovers
from arbstr.trio_runtime.ledger.port import Database, Trouble
from arbstr.trio_runtime.ledger.store import NotTogether, Refused, Store
from arbstr.trio_runtime.logs import log_bug

CAPACITY: Final = 10_000
"""Records kept while nothing can be written: 100 s at 50 requests a second with two records
each, in about 20 MB; picked."""

BATCH_ROWS: Final = 200
"""Records a transaction: about 6 ms in the thread, of which the requests have the interpreter for 5
(measured). Four times as many saved 7 us a record in the thread and nothing to be seen in a
request; picked."""

LINGER_SECONDS: Final = 0.2
"""How long the first record of a batch waits for company. A hop to the thread costs about 0.7 ms
(measured), and while it works the requests share the interpreter with it; picked."""

SEEN_SECONDS: Final = 0.5
"""What another process has sent is in the ledger by then: `LINGER_SECONDS`, and the transaction."""

BACKOFF_SECONDS: Final = 0.1
"""The first wait after a failure of the database; doubled each time ..."""

BACKOFF_LIMIT_SECONDS: Final = 5.0
"""... up to this; picked."""

FLUSH_SECONDS: Final = 3.0
"""How long closing tries to write what is left; fits between the end of the last request and
the exit's hard limit."""

LOOK_SECONDS: Final = 0.1
"""How often `caught_up` looks."""

MakeRecord: TypeAlias = Callable[[], Record]

_log = logging.getLogger(__name__)


class Loss(IntEnum):
    """How much is lost with a record; the smallest is dropped first, the oldest among equals."""

    REJECTED = 0  # nothing was sent to anybody
    IN_FLIGHT = 1  # the final record comes later
    FREE = 2
    MONEY = 3  # printed before it is dropped


def loss_of(record: Record) -> Loss:
    """Which row of `Loss` a record is."""
    if record.status == "in_flight":
        return Loss.IN_FLIGHT
    if record.may_have_cost:
        return Loss.MONEY
    return Loss.REJECTED if record.status == "rejected" else Loss.FREE


@final
@dataclass(frozen=True, slots=True)
class LogStatistics:
    """Counts of records: an in-flight record and its final one are two, unless they met here.

    queued    offered, and neither written nor dropped yet
    written   stored, since the start
    dropped   lost, since the start: no room, refused by the database, or left over at the end
    waits     for how many seconds a row has waited to be written, at most
    damaged   whether the database was found to be
    trouble   why nothing can be written since the last try; None if it can
    lasting   whether that does not pass by itself, as a lock does
    """

    queued: int
    written: int
    dropped: int
    waits: float = field(default=0.0, compare=False)
    damaged: bool = False
    trouble: str | None = field(default=None, compare=False)
    lasting: bool = field(default=False, compare=False)


@final
class LogWriter:
    """The queue and its one consumer. Made by `open_log_writer`."""

    def __init__(
        self,
        database: Database,
        *,
        capacity: int,
        batch_rows: int,
        linger: float,
        backoff: float,
        backoff_limit: float,
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._batch_rows = batch_rows
        self._linger = linger
        self._backoff = backoff
        self._backoff_limit = backoff_limit
        self._store = Store(database.boot_id)
        self._intents = Intents(database.beside, database.boot_id)
        # Whether an arbstr that was killed may have left what is not in the database yet.
        self._owing = Leftovers(database.beside).exist()
        self._waits_since: float | None = None
        self._trouble: Exception | None = None
        # The same records twice: in the order of their arrival, and by what losing them means,
        # so that a full queue finds its victim without a search.
        self._pending = OrderedDict[str, tuple[Loss, Record | MakeRecord]]()
        self._by_loss = tuple(OrderedDict[str, None]() for _ in Loss)
        self._in_hand = 0
        self._written = 0
        self._dropped = 0
        self._wanted = 1  # so many pending records wake the consumer
        self._enough = trio.Event()
        self._closing = trio.Event()
        self._scope = trio.CancelScope(shield=True)

    def offer(self, record: Record) -> None:
        """Queue a record. Never blocks, never raises; microseconds. From trio's thread only."""
        self._intents.end(record)
        self._queue(record.correlation_id, loss_of(record), record)

    def offer_in_flight(self, intent: Intent, row: MakeRecord) -> None:
        """An attempt is about to be sent: note it, and queue the row of its request. `row` makes
        that, if it is ever to be written."""
        self._intents.begin(intent)
        self._queue(intent.correlation_id, Loss.IN_FLIGHT, row)

    def _queue(self, key: str, loss: Loss, record: Record | MakeRecord) -> None:
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        self._add(key, loss, record)
        waiting = len(self._pending)
        if waiting + self._in_hand > self._capacity:
            self._drop_oldest()
        if waiting >= self._wanted and not self._enough.is_set():
            self._enough.set()

    def statistics(self) -> LogStatistics:
        """The counters as of now."""
        since = self._waits_since
        return LogStatistics(
            len(self._pending) + self._in_hand,
            self._written,
            self._dropped,
            time.monotonic() - since if since is not None else 0.0,
            self._database.damaged,
            None if self._trouble is None else str(self._trouble),
            isinstance(self._trouble, Trouble) and self._trouble.is_lasting,
        )

    async def caught_up(self) -> None:
        """Until what was offered before is written or lost, and what killed ones left is there."""
        counted = self.statistics()
        all_of_it = counted.written + counted.dropped + counted.queued
        # Nobody tells, and nobody waits for it but those who ask nodes about money.
        while self._written + self._dropped < all_of_it or self._owing:  # noqa: ASYNC110
            await trio.sleep(LOOK_SECONDS)

    @property
    def recovered(self) -> bool:
        """Whether the database tells all that an arbstr that was killed had noted."""
        return not self._owing

    def _add(self, key: str, loss: Loss, record: Record | MakeRecord) -> None:
        earlier = self._pending.get(key)
        if earlier is not None:
            del self._by_loss[earlier[0]][key]
        self._pending[key] = (loss, record)
        self._by_loss[loss][key] = None

    def _drop_oldest(self) -> None:
        """Drop the record whose loss is least."""
        for keys in self._by_loss:
            if keys:
                key, _ = keys.popitem(last=False)
                loss, record = self._pending.pop(key)
                self._dropped += 1
                if loss is not Loss.REJECTED:
                    self._intents.keep()
                if loss is Loss.MONEY and isinstance(record, Record):
                    _print(record)
                return

    def _take(self) -> tuple[Record, ...]:
        taken = tuple(islice(self._pending.items(), self._batch_rows))
        for key, (loss, _) in taken:
            del self._pending[key]
            del self._by_loss[loss][key]
        batch: list[Record] = []
        for _, (_, record) in taken:
            try:
                batch.append(record if isinstance(record, Record) else record())
            except Exception as error:
                # A bug of ours in making one row must not end the writer of all others.
                log_bug(_log, "the row of a request in flight was lost", error)
                self._dropped += 1
        return tuple(batch)

    def _put_back(self, batch: Sequence[Record]) -> None:
        """Before all that came since; a final record among that takes its in-flight one's place.

        What came since is not touched: that may be thousands, while somebody is to be served.
        """
        self._in_hand = 0
        for record in reversed(batch):
            key = record.correlation_id
            if key not in self._pending:
                self._add(key, loss_of(record), record)
            self._pending.move_to_end(key, last=False)
            self._by_loss[self._pending[key][0]].move_to_end(key, last=False)

    async def run(self) -> None:
        """Write until closed and empty, or until the deadline that `close` set.

        Shielded, so that a cancelled process still writes; `close` ends it, and always comes.
        """
        with self._scope:
            pause = 0.0
            while self._owing and not self._closing.is_set():
                trouble = await self.recover()
                pause = 0.0 if trouble is None else await self._endure(trouble, pause)
            while True:
                await self._wait_for(1)
                if not self._pending:
                    return
                if not pause:
                    with trio.move_on_after(self._linger):
                        await self._wait_for(self._batch_rows)
                pause = await self._write_batch(pause)

    async def recover(self) -> Trouble | None:
        """Make rows of what killed processes left; an error if the database does not take them."""
        if not self._owing:
            return None
        leftovers = Leftovers(self._database.beside)
        try:
            found = await self._database.transaction(leftovers.write, written=leftovers.written)
            leftovers.remove()
        except Trouble as error:
            return error
        except Exception as error:
            # A bug of ours, or of the file's: it stays, and must not hold up the rows of today.
            log_bug(_log, "what a killed arbstr left cannot be read", error)
        else:
            if found.ended or found.abandoned:
                _log.info(
                    "requests noted by an arbstr that was killed, now in the log: "
                    "%d that were over, %d abandoned",
                    found.ended,
                    found.abandoned,
                )
        finally:
            leftovers.close()
        self._owing, self._trouble = False, None
        return None

    def close(self, *, seconds: float) -> None:
        """Begin the end: write what is pending for at most `seconds`, then let `run` return."""
        self._scope.deadline = trio.current_time() + seconds
        self._closing.set()
        self._enough.set()

    def drop_rest(self) -> None:
        """After `run`: account for what could not be written, and for what still comes."""
        self._capacity = 0
        rows = len(self._pending)
        while self._pending:
            self._drop_oldest()
        if rows:
            kept = ", ".join(self._intents.kept)
            _log.error(
                "%d rows of the request log could not be written%s",
                rows,
                f"; what is noted in {kept} the next start writes" if kept else "",
            )
        self._intents.close()

    async def _wait_for(self, rows: int) -> None:
        while len(self._pending) < rows and not self._closing.is_set():
            self._wanted, self._enough = rows, trio.Event()
            await self._enough.wait()

    async def _write_batch(self, pause: float) -> float:
        """Write one batch; after a failure wait. Returns the wait there was, 0 when all is well."""
        began = time.monotonic()
        batch = self._take()
        self._in_hand = len(batch)
        trouble: Exception | None = None
        try:
            refused = await self._store_batch(batch)
        except trio.Cancelled:
            # The deadline of `close`.
            self._put_back(batch)
            raise
        except Exception as error:
            # The log must never take the proxy down: whatever this is, the rows stay, and the
            # next try may find it gone.
            self._put_back(batch)
            refused, trouble = (), error
        if trouble is not None:
            return await self._endure(trouble, pause)
        self._in_hand = 0
        self._trouble = None
        self._waits_since = began if self._pending else None
        self._intents.settled((each.correlation_id for each in batch), self._pending)
        self._written += len(batch) - len(refused)
        self._dropped += len(refused)
        for one in refused:
            _log.error("a row was refused by the database (%s)", one.error)
            if loss_of(one.record) is Loss.MONEY:
                _print(one.record)
        if pause:
            _log.info("the request log is written again; %d rows dropped so far", self._dropped)
        return 0.0

    async def _store_batch(self, batch: Sequence[Record]) -> tuple[Refused, ...]:
        """Returns what the database will never take. Raises what `Database.transaction` raises."""
        try:
            ids = [record.correlation_id for record in batch]
            await self._database.transaction(
                partial(self._store.together, batch), written=lambda: ids
            )
        except NotTogether:
            return await self._database.transaction(partial(self._store.one_by_one, batch))
        return ()

    async def _endure(self, error: Exception, pause: float) -> float:
        self._trouble = error
        if not pause:
            _log.warning(
                "the request log cannot be written (%s); rows are kept and tried again", error
            )
        # At the end the deadline is near, and a long wait would be the last one.
        begin_anew = not pause or self._closing.is_set()
        pause = self._backoff if begin_anew else min(pause * 2, self._backoff_limit)
        with trio.move_on_after(pause):
            if self._closing.is_set():
                await trio.sleep_forever()
            await self._closing.wait()
        return pause


def _print(record: Record) -> None:
    _log.error("%s", dropped_text(record))


@asynccontextmanager
async def open_log_writer(
    database: Database,
    *,
    capacity: int = CAPACITY,
    batch_rows: int = BATCH_ROWS,
    linger: float = LINGER_SECONDS,
    backoff: float = BACKOFF_SECONDS,
    backoff_limit: float = BACKOFF_LIMIT_SECONDS,
    flush_seconds: float = FLUSH_SECONDS,
) -> AsyncIterator[LogWriter]:
    """A running `LogWriter`; at the end, and when cancelled, it is flushed for `flush_seconds`."""
    log = LogWriter(
        database,
        capacity=capacity,
        batch_rows=batch_rows,
        linger=linger,
        backoff=backoff,
        backoff_limit=backoff_limit,
    )
    try:
        await log.recover()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            try:
                yield log
            finally:
                log.close(seconds=flush_seconds)
    finally:
        log.drop_rest()

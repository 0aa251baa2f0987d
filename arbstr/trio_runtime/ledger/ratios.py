"""What was learnt of the policies' answers, kept between two runs.

    final record --learn, in the record's own transaction--> row of `token_ratios`
    row --read_ratios, at start--> Hub
    row --ratios_in--> arbstr cost
    the last rows of `requests` --read_lengths, lengths_in--> how long answers are: the same two

Whoever shares the file learns into the same rows; each process goes by its own samples since it
started, and what it found there.
"""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar, final

import trio

from arbstr.sansio.routing.holds import Lengths
from arbstr.sansio.routing.ratios import NOTHING_LEARNT, Ratio, restored
from arbstr.trio_runtime.ledger.database import Database
from arbstr.trio_runtime.ledger.statements import read_sql

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")

ROWS_READ: Final = 10_000
"""Rows that are looked at for the length of answers: 20 pairs of a policy and a model whole, in a
few milliseconds."""


@final
class RatioTable:
    """The table, as the writer uses it."""

    def __init__(self) -> None:
        self._select = read_sql("token_ratio")
        self._upsert = read_sql("upsert_token_ratio")

    def learn(self, connection: sqlite3.Connection, policy: str, samples: Sequence[float]) -> None:
        """Adds samples to a policy's row, in their order, inside the caller's transaction."""
        row = connection.execute(self._select, {"policy": policy}).fetchone()
        ratio = (None if row is None else restored(*row)) or NOTHING_LEARNT
        for sample in samples:
            ratio = ratio.after(sample)
        connection.execute(
            self._upsert,
            {"policy": policy, "avg_ratio": ratio.average, "sample_count": ratio.samples},
        )


def select_ratios(connection: sqlite3.Connection) -> dict[str, Ratio]:
    """Every ratio in the table, by policy; what cannot have been learnt is left out."""
    rows = connection.execute(read_sql("token_ratios"))
    found = {policy: restored(average, samples) for policy, average, samples in rows}
    return {policy: ratio for policy, ratio in found.items() if ratio is not None}


def select_lengths(connection: sqlite3.Connection) -> Lengths:
    """How long the latest answers were."""
    lengths = Lengths()
    for policy, model, tokens in connection.execute(read_sql("lengths"), {"rows": ROWS_READ}):
        if isinstance(model, str) and isinstance(tokens, int):
            lengths.learn(policy, model, tokens, 1)
    return lengths


def _in_file(path: str, select: Callable[[sqlite3.Connection], T], nothing: T) -> T:
    if not Path(path).is_file():
        return nothing
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as reader:
        return select(reader)


def ratios_in(path: str) -> dict[str, Ratio]:
    """What is in the file at `path`, nothing if there is none. Blocks; raises `sqlite3.Error`."""
    return _in_file(path, select_ratios, {})


def lengths_in(path: str) -> Lengths:
    """How long the answers in the file at `path` were, as `ratios_in`."""
    return _in_file(path, select_lengths, Lengths())


async def _in_database(
    database: Database, what: str, select: Callable[[sqlite3.Connection], T], nothing: T
) -> T:
    def read() -> T:
        with closing(database.connect_reader()) as reader:
            return select(reader)

    try:
        return await trio.to_thread.run_sync(read)
    except sqlite3.Error as error:
        _log.warning("%s cannot be read (%s): starting without them", what, error)
        return nothing


async def read_ratios(database: Database) -> dict[str, Ratio]:
    """What is in the database, to start with. Nothing, with a warning, if it cannot be read."""
    return await _in_database(database, "learnt token ratios", select_ratios, {})


async def read_lengths(database: Database) -> Lengths:
    """How long answers were, as `read_ratios`."""
    return await _in_database(database, "lengths of answers", select_lengths, Lengths())

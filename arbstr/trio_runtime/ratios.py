"""The table `token_ratios`: what was learnt of the policies' answers, kept between two runs.

    final record --learn, in the record's own transaction--> row
    row --read_ratios, at start--> Hub
    row --ratios_in--> arbstr cost

Whoever shares the file learns into the same rows; each process goes by its own samples since it
started, and what it found there.
"""

import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, final

import trio

from arbstr.sansio.ratios import NOTHING_LEARNT, Ratio, restored
from arbstr.trio_runtime.database import Database, read_sql

_log: Final = logging.getLogger(__name__)


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


def ratios_in(path: str) -> dict[str, Ratio]:
    """What is in the file at `path`, nothing if there is none. Blocks; raises `sqlite3.Error`."""
    if not Path(path).is_file():
        return {}
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as reader:
        return select_ratios(reader)


async def read_ratios(database: Database) -> dict[str, Ratio]:
    """What is in the database, to start with. Nothing, with a warning, if it cannot be read."""

    def read() -> dict[str, Ratio]:
        with closing(database.connect_reader()) as reader:
            return select_ratios(reader)

    try:
        return await trio.to_thread.run_sync(read)
    except sqlite3.Error as error:
        _log.warning("learnt token ratios cannot be read (%s): starting without them", error)
        return {}

"""The table `token_ratios`: learnt in the transaction of the row, kept for the next start."""

import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from arbstr.sansio.ledger.record import Record
from arbstr.sansio.routing.holds import NOTHING_KNOWN, Known, Lengths
from arbstr.sansio.routing.ratios import NOTHING_LEARNT, Ratio
from arbstr.trio_runtime.ledger import ratios as module
from arbstr.trio_runtime.ledger.database import IN_MEMORY, open_database
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble
from arbstr.trio_runtime.ledger.ratios import (
    ROWS_READ,
    learn,
    learnt_at,
    read_lengths,
    read_ratios,
)
from tests.engines import place
from tests.records import RECORD

__all__ = ["place"]


def row(correlation_id: str, ratio: float | None = 0.5, policy: str | None = None) -> Record:
    return replace(
        RECORD, correlation_id=correlation_id, token_ratio=ratio, policy=policy, attempts=()
    )


async def write(path: Path | str, *records: Record) -> None:
    """One run of arbstr, as far as the database sees it."""
    async with (
        open_database(str(path)) as database,
        # Thousands of rows take their time on a busy machine.
        open_log_writer(database, flush_seconds=60) as log,
    ):
        for record in records:
            log.offer(record)


def learnt(*samples: float) -> Ratio:
    ratio = NOTHING_LEARNT
    for sample in samples:
        ratio = ratio.after(sample)
    return ratio


async def test_what_others_learn_is_known_here_soon(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEARN_SECONDS", 0.01)
    told: list[tuple[dict[str, Ratio], Known]] = []
    seen = trio.Event()

    def adopt(ratios: dict[str, Ratio], lengths: Lengths) -> None:
        told.append((ratios, lengths.known("code", RECORD.model)))
        if ratios.get("code") == learnt(*[1.5] * 30):
            seen.set()

    async with open_database(place) as here, trio.open_nursery() as nursery:
        nursery.start_soon(module.learn_of_others, here, adopt)
        await write(place, *(row(f"id-{n}", 1.5, "code") for n in range(30)))
        with trio.fail_after(60):
            await seen.wait()
        nursery.cancel_scope.cancel()
    assert told[-1][1].answers == 30


async def test_a_ledger_that_cannot_be_read_leaves_what_is_known(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    class Away:
        tries = 0

        async def read(self, work: object) -> object:
            self.tries += 1
            raise Trouble("it is away")

    away = Away()
    with trio.move_on_after(5 * module.LEARN_SECONDS):
        await module.learn_of_others(cast("Database", away), lambda *_: pytest.fail("nothing was"))
    assert away.tries == 4


async def test_every_row_teaches_its_policy_and_the_next_start_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    coded = [row(f"code-{n}", 1.0 + n, "code") for n in range(30)]
    await write(path, row("1", 0.5), *coded[:15], row("2", None), row("3", 0.25))
    await write(path, *coded[15:])
    async with open_database(str(path)) as database:
        found = await read_ratios(database)
    assert found == {
        "": learnt(0.5, 0.25),
        "code": learnt(*(1.0 + n for n in range(30))),
    }
    assert learnt_at(str(path))[0] == found


async def test_a_row_teaches_once_however_often_it_is_offered(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    flying = replace(row("1", None), status="in_flight", success=False)
    await write(path, flying)
    await write(path, row("1", 0.5))
    await write(path, row("1", 0.9), replace(flying, correlation_id="2"))
    assert learnt_at(str(path))[0] == {"": learnt(0.5)}


async def test_a_row_that_is_refused_teaches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    await write(path, replace(row("1"), cost_sats=Decimal("sNaN")), row("2", 0.25))
    assert learnt_at(str(path))[0] == {"": learnt(0.25)}


@pytest.mark.parametrize("average", [-1.0, 1e300, float("inf"), "x"])
async def test_a_ratio_nobody_learnt_is_replaced(tmp_path: Path, average: object) -> None:
    path = tmp_path / "arbstr.db"
    await write(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO token_ratios VALUES ('', ?, 50)", (average,))
    assert learnt_at(str(path))[0] == {}
    await write(path, row("1", 0.5))
    assert learnt_at(str(path))[0] == {"": learnt(0.5)}


async def test_a_database_in_memory_has_them_too() -> None:
    async with open_database(IN_MEMORY) as database:
        assert await read_ratios(database) == {}
        await database.transaction(lambda connection: learn(connection, "", [0.5]))
        assert await read_ratios(database) == {"": learnt(0.5)}


async def test_what_cannot_be_read_is_learnt_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    await write(path, row("1"))
    async with open_database(str(path)) as database:
        await database.transaction(lambda connection: connection.execute("DROP TABLE token_ratios"))
        with caplog.at_level(logging.WARNING):
            assert await read_ratios(database) == {}
    assert "learnt token ratios cannot be read (no such table: token_ratios)" in caplog.text


def test_where_there_is_no_file_nothing_was_learnt_and_none_is_made(tmp_path: Path) -> None:
    assert learnt_at(str(tmp_path / "arbstr.db"))[0] == {}
    assert list(tmp_path.iterdir()) == []


# -- how long answers are --------------------------------------------------------------------------


def answered(n: int, tokens: int, **more: Any) -> Record:
    usual = {"policy": None, "model": "m", "attempts": (), "token_ratio": None}
    return replace(RECORD, correlation_id=f"{n}", output_tokens=tokens, **{**usual, **more})


async def test_the_next_start_knows_how_long_whole_answers_were(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    await write(
        path,
        *(answered(n, 100 + n) for n in range(20)),
        *(answered(100 + n, 7, policy="code", model="other") for n in range(3)),
        answered(200, 10**6, status="stream_incomplete", success=False),
        replace(answered(201, 1), output_tokens=None),
        answered(202, 0),
    )
    async with open_database(str(path)) as database:
        found = await read_lengths(database)
    assert found.known(None, "m") == Known(20, 118)
    assert found.known("code", "other") == Known(3, None)
    assert learnt_at(str(path))[1].known(None, "m") == Known(20, 118)


async def test_only_the_last_rows_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db"
    await write(path, *(answered(n, 9000) for n in range(20)))
    assert learnt_at(str(path))[1].known(None, "m") == Known(20, 9000)
    await write(
        path,
        *(answered(100 + n, 0, status="failed", success=False) for n in range(ROWS_READ - 5)),
    )
    assert learnt_at(str(path))[1].known(None, "m") == Known(5, None)


async def test_no_more_is_given_of_a_policy_and_a_model_than_is_remembered(place: str) -> None:
    def look(session: Session) -> list[tuple[object, ...]]:
        told = {"rows": ROWS_READ, "kept": 3}
        return [tuple(row) for row in session.execute(session.question("lengths"), told)]

    async with open_database(place) as database:
        await write(
            place,
            *(answered(n, 100 + n) for n in range(5)),
            *(answered(10 + n, 7 + n, policy="code") for n in range(4)),
            answered(20, 9, model="other"),
        )
        assert await database.read(look) == [
            *((None, "m", tokens) for tokens in (102, 103, 104)),
            *(("code", "m", tokens) for tokens in (8, 9, 10)),
            (None, "other", 9),
        ]


async def test_where_lengths_cannot_be_read_none_are_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "arbstr.db"
    await write(path)
    async with open_database(str(path)) as database:
        await database.transaction(lambda c: c.execute("ALTER TABLE requests RENAME TO gone"))
        with caplog.at_level(logging.WARNING):
            assert (await read_lengths(database)).known(None, "m") == NOTHING_KNOWN
    assert "lengths of answers cannot be read (no such table: requests)" in caplog.text
    assert learnt_at(str(tmp_path / "none.db"))[1].known(None, "m") == NOTHING_KNOWN

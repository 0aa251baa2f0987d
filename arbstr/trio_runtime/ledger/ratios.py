"""What was learnt of the policies' answers, kept between two runs.

    final record --learn, in the record's own transaction--> row of `token_ratios`
    row --read_ratios, at start--> Hub
    row --learnt_at--> arbstr cost
    the last rows of `requests` --read_lengths, learnt_at--> how long answers are: the same two
    both, each minute --learn_of_others--> Hub, where several processes share a ledger

Whoever shares a ledger learns into the same rows. Between two looks each process goes by what it
found there and its own samples since.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import trio

from arbstr.sansio.routing.holds import KEPT, Lengths
from arbstr.sansio.routing.ratios import NOTHING_LEARNT, Ratio, restored
from arbstr.trio_runtime.ledger.database import peek
from arbstr.trio_runtime.ledger.port import Database, Session, Trouble

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")

LEARN_SECONDS: Final = 60.0
"""How long it takes at most until a process goes by what others learnt; a look takes milliseconds
in a thread. Picked."""

ROWS_READ: Final = 10_000
"""Rows that are looked at for the length of answers: 20 pairs of a policy and a model whole, in a
few milliseconds."""


def learn(session: Session, policy: str, samples: Sequence[float]) -> None:
    """Adds samples to a policy's row, in their order, inside the caller's transaction."""
    row = session.execute(session.question("token_ratio"), {"policy": policy}).fetchone()
    ratio = (None if row is None else restored(*row)) or NOTHING_LEARNT
    for sample in samples:
        ratio = ratio.after(sample)
    session.execute(
        session.question("upsert_token_ratio"),
        {"policy": policy, "avg_ratio": ratio.average, "sample_count": ratio.samples},
    )


def select_ratios(session: Session) -> dict[str, Ratio]:
    """Every ratio in the table, by policy; what cannot have been learnt is left out."""
    rows = session.execute(session.question("token_ratios"))
    found = {policy: restored(average, samples) for policy, average, samples in rows}
    return {policy: ratio for policy, ratio in found.items() if ratio is not None}


def select_lengths(session: Session) -> Lengths:
    """How long the latest answers were."""
    lengths = Lengths()
    rows = session.execute(session.question("lengths"), {"rows": ROWS_READ, "kept": KEPT})
    for policy, model, tokens in rows:
        if isinstance(model, str) and isinstance(tokens, int):
            lengths.learn(policy, model, tokens, 1)
    return lengths


def learnt_at(place: str) -> tuple[dict[str, Ratio], Lengths]:
    """Ratios and lengths of the ledger at `place`, none if there is none. Blocks; raises
    `Trouble`."""
    with peek(place) as session:
        if session is None:
            return {}, Lengths()
        return select_ratios(session), select_lengths(session)


async def _in_database(
    database: Database, what: str, select: Callable[[Session], T], nothing: T
) -> T:
    try:
        return await database.read(select)
    except Trouble as error:
        _log.warning("%s cannot be read (%s): starting without them", what, error)
        return nothing


async def read_ratios(database: Database) -> dict[str, Ratio]:
    """What is in the database, to start with. Nothing, with a warning, if it cannot be read."""
    return await _in_database(database, "learnt token ratios", select_ratios, {})


async def read_lengths(database: Database) -> Lengths:
    """How long answers were, as `read_ratios`."""
    return await _in_database(database, "lengths of answers", select_lengths, Lengths())


async def learn_of_others(
    database: Database, adopt: Callable[[dict[str, Ratio], Lengths], None]
) -> None:
    """Tells `adopt` what all who share the ledger learnt, again and again, until cancelled."""
    while True:
        await trio.sleep(LEARN_SECONDS)
        try:
            ratios, lengths = await database.read(
                lambda session: (select_ratios(session), select_lengths(session))
            )
        except Trouble:
            continue  # the log writer says so, if it has something to write
        adopt(ratios, lengths)

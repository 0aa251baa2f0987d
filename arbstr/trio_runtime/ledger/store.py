"""Records made into rows, inside a transaction of the caller's.

    batch --together--> a few statements of many rows each
      |
      `- NotTogether: the transaction is undone, and in a new one
    batch --one_by_one--> a savepoint for each record; what is wrong with one is its own affair

The first way is the usual one. It saves what SQLite does for each statement with triggers and for a
savepoint (copies of the pages they change), and what Python does, which gives the interpreter away
around each statement and must win it back. Measured for batches of 200 records with an attempt
each, in a new file: 32 us of CPU a record in this thread; a statement a row in a savepoint took 64.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar, final, get_args

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.record import AttemptRow, Record
from arbstr.sansio.routing.ratios import NO_POLICY
from arbstr.trio_runtime.ledger.port import Row, Session
from arbstr.trio_runtime.ledger.ratios import learn

T = TypeVar("T", Record, AttemptRow)

_Place: TypeAlias = tuple[int, Callable[[Any], object]]


@final
class NotTogether(Exception):  # noqa: N818 - nothing has gone wrong with the database
    """A batch has a record that must be looked at alone."""


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """A record the database will never take, and why."""

    record: Record
    error: str


@final
class Store:
    """Writes batches of records, of which no two have the same id."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id

    def together(self, batch: Sequence[Record], session: Session) -> None:
        """Writes a batch.

        Raises `NotTogether`, after which the transaction must be undone, and the engine's exception
        when it is the database that fails and not a record.
        """
        try:
            written = self._write_requests(batch, session)
            if written == len(batch):
                self._write_rest(batch, session)
                return
        except Exception as error:
            if session.is_trouble(error):
                raise
            raise NotTogether from error
        # Some row is final already, and so are its attempts; which one, nobody has said.
        raise NotTogether

    def one_by_one(self, batch: Sequence[Record], session: Session) -> tuple[Refused, ...]:
        """The same with a savepoint for each.

        Returns what was left out, because something is wrong with it. Raises the engine's exception
        as `together` does.
        """
        refused: list[Refused] = []
        for record in batch:
            session.execute("SAVEPOINT record")
            try:
                written = _in_utf8(record)
                if self._write_requests((written,), session):
                    self._write_rest((written,), session)
            # Anything at all may be wrong with a record; it must not hold up the others.
            except Exception as error:
                if session.is_trouble(error):
                    raise
                session.execute("ROLLBACK TO record")
                refused.append(Refused(record, f"{type(error).__name__}: {error}"))
            session.execute("RELEASE record")
        return tuple(refused)

    def _write_requests(self, batch: Sequence[Record], session: Session) -> int:
        """Returns how many were written: a row that is final stays as it is."""
        return session.insert(
            "upsert_request",
            (*_REQUEST_COLUMNS, "attempts", "boot_id"),
            [
                (*_plain(_request(each), _REQUEST_PLACES), len(each.attempts), self._boot_id)
                for each in batch
            ],
        )

    def _write_rest(self, batch: Sequence[Record], session: Session) -> None:
        """What belongs to requests that were written: their attempts, and what they teach."""
        session.insert(
            "insert_attempt",
            ("correlation_id", *_ATTEMPT_COLUMNS),
            [
                (each.correlation_id, *_plain(_attempt(attempt), _ATTEMPT_PLACES))
                for each in batch
                for attempt in each.attempts
            ],
        )
        for record in batch:
            first = _left_to_another(record)
            if first is not None:
                for question in ("joined_attempt", "joined_request"):
                    session.execute(session.question(question), {"first": first})
        samples: dict[str, list[float]] = {}
        for record in batch:
            if record.token_ratio is not None:
                samples.setdefault(record.policy or NO_POLICY, []).append(record.token_ratio)
        for policy, learnt in samples.items():
            learn(session, policy, learnt)


def _left_to_another(record: Record) -> str | None:
    """Whose answer may have been left by one client and got by another, of which this row tells one
    half; either may be written first."""
    if record.joined is not None:
        return record.joined if record.success else None
    left = record.status == "client_disconnected" and record.possibly_spent
    return record.correlation_id if left else None


_REQUEST_COLUMNS: Final = tuple(
    f.name for f in fields(Record) if f.name not in ("attempts", "token_ratio")
)
_ATTEMPT_COLUMNS: Final = tuple(f.name for f in fields(AttemptRow))
_request: Final[Callable[[Record], tuple[Any, ...]]] = attrgetter(*_REQUEST_COLUMNS)
_attempt: Final[Callable[[AttemptRow], tuple[Any, ...]]] = attrgetter(*_ATTEMPT_COLUMNS)


def _places(kind: type[Record | AttemptRow], columns: Sequence[str]) -> tuple[_Place, ...]:
    """Where values stand that are not what an engine takes, and what makes it of them."""
    types = {f.name: (f.type, *get_args(f.type)) for f in fields(kind)}
    return tuple(
        (place, makes)
        for place, name in enumerate(columns)
        for exact, makes in ((Decimal, float), (bool, int))
        if exact in types[name]
    )


_REQUEST_PLACES: Final = _places(Record, _REQUEST_COLUMNS)
_ATTEMPT_PLACES: Final = _places(AttemptRow, _ATTEMPT_COLUMNS)


def _plain(values: Row, places: Iterable[_Place]) -> list[object]:
    """The values as an engine takes them. Exact numbers are floats, and what is true is 1: sqlite3
    takes True, too, but looks twice for somebody who can adapt it (1 us each, measured)."""
    row: list[Any] = [*values]
    for place, makes in places:
        value = row[place]
        if value is not None:
            row[place] = makes(value)
    return row


def _in_utf8(record: Record) -> Record:
    """The same in texts that an engine takes: a client may name a model with half a surrogate
    pair, which no UTF-8 can hold."""
    attempts = tuple(_with_texts(attempt) for attempt in record.attempts)
    return _with_texts(replace(record, attempts=attempts))


def _with_texts(row: T) -> T:
    changed: dict[str, Any] = {
        f.name: value.encode("utf-8", "replace").decode()
        for f in fields(row)
        if isinstance(value := getattr(row, f.name), str) and not value.isascii()
    }
    return replace(row, **changed) if changed else row

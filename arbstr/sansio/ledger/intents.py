"""What is on disk before a provider sees a request: the lines of `<database>.intents-...`.

    Intent --intent_line--> a line, appended before the first byte of an attempt goes out
    Record --end_line-----> a line, appended when the request is over
    the lines of a file --read_lines--> the last word on each request: Record, or Intent
    Intent --abandoned--> the row of a request whose process was killed

A line is one JSON array of values; `HEADER`, the first line of every file, names them, so that a
file can be read by an arbstr with more columns or fewer. What is no whole line (a process was
killed, a disk was full) is passed over. Amounts are written as text, to be read exactly.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias, TypeVar, final, get_args

from arbstr.sansio.endpoints import CHAT
from arbstr.sansio.failover.failure import FailureKind, Money
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.record import AttemptRow, Record

ABANDONED: Final = "arbstr ended before this request did"
"""The error message of a row that nobody finished; `sql/abandon.sql` has it as well."""


@final
@dataclass(frozen=True, slots=True)
class Begun:
    """What is known of an attempt that is about to be sent: an `AttemptRow` of little."""

    n: int
    provider: str
    model: str
    started_at: str
    estimated_cost_sats: Decimal | None
    set_aside_sats: Decimal | None
    price_id: int | None
    lane: str | None
    key_id: str | None

    duration_ms: ClassVar = 0
    failure: ClassVar = None
    http_status: ClassVar = None
    money: ClassVar = None
    input_tokens: ClassVar = None
    output_tokens: ClassVar = None
    cost_sats: ClassVar = None
    expected_sats: ClassVar = None
    provider_cost_sats: ClassVar = None
    upstream_request_id: ClassVar = None
    settled: ClassVar = None
    said: ClassVar = None


@final
@dataclass(frozen=True, slots=True)
class Intent:
    """A request one of whose attempts is about to be sent: the last of `attempts`. Of one that was
    read all are rows."""

    correlation_id: str
    timestamp: str
    requested_model: str
    policy: str | None
    streaming: bool
    attempts: tuple[AttemptRow | Begun, ...]
    endpoint: str = CHAT


Told: TypeAlias = Intent | Record
T = TypeVar("T", Intent, Record, AttemptRow)


def _values_of(kind: type[Told | AttemptRow]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind) if each.name != "attempts")


_INTENT: Final = _values_of(Intent)
_RECORD: Final = _values_of(Record)
_ATTEMPT: Final = _values_of(AttemptRow)
_intent: Final = attrgetter(*_INTENT)
_record: Final = attrgetter(*_RECORD)
_attempt: Final = attrgetter(*_ATTEMPT)

_AMOUNTS: Final[Mapping[type, frozenset[str]]] = MappingProxyType(
    {
        kind: frozenset(
            each.name
            for each in fields(kind)
            if each.type is Decimal or Decimal in get_args(each.type)
        )
        for kind in (Intent, Record, AttemptRow)
    }
)
"""The fields of each kind that are exact numbers."""


def _encoder() -> Callable[[object], str]:
    """json's own, made once: it makes the part of it that is in C for each text, which is a third
    of what a line costs (measured)."""
    made = json.JSONEncoder(default=str, check_circular=False, separators=(",", ":"))
    in_c: Any = getattr(json.encoder, "c_make_encoder", None)
    if in_c is None:
        return made.encode  # a Python without that part
    texts = json.encoder.encode_basestring_ascii
    pieces = in_c(None, str, texts, None, ":", ",", False, False, True)
    return lambda value: "".join(pieces(value, 0))


_encode: Final = _encoder()

HEADER: Final = (
    _encode({"intent": _INTENT, "record": _RECORD, "attempt": _ATTEMPT}) + "\n"
).encode()
"""The first line of a file: which values the lines below it hold, in their order."""


def intent_line(intent: Intent) -> bytes:
    """One line, with its end."""
    rows = [_attempt(row) for row in intent.attempts]
    return (_encode(("intent", _intent(intent), rows)) + "\n").encode()


def end_line(record: Record) -> bytes:
    """One line, with its end."""
    rows = [_attempt(row) for row in record.attempts]
    return (_encode(("record", _record(record), rows)) + "\n").encode()


def read_lines(lines: Iterable[bytes]) -> dict[str, Told]:
    """The last word on each request, by its id, in the order of their first lines.

    Whatever a line holds, nothing raises: what cannot be read is passed over.
    """
    found: dict[str, Told] = {}
    names: Mapping[str, Any] = {}
    for line in lines:
        try:
            value = json.loads(line)
            if isinstance(value, dict):
                names = value
                continue
            told = _told(value, names)
        except (ValueError, TypeError, KeyError, InvalidOperation, RecursionError):
            continue
        if isinstance(told, Record) or not isinstance(found.get(told.correlation_id), Record):
            found[told.correlation_id] = told
    return found


def _told(value: Sequence[Any], names: Mapping[str, Any]) -> Told:
    which, values, rows = value
    attempts = tuple(_made(AttemptRow, names["attempt"], row) for row in rows)
    told: Told
    match which:
        case "intent":
            told = _made(Intent, names[which], values, attempts=attempts)
        case "record":
            told = _made(Record, names[which], values, attempts=attempts)
        case _:
            raise ValueError
    if not isinstance(told.correlation_id, str):
        raise TypeError
    return told


def _made(kind: type[T], names: Sequence[str], values: Sequence[Any], **more: object) -> T:
    """One of `kind`; what the line does not have is its default, or unknown; what it has beyond
    that is left."""
    given = dict(zip(names, values, strict=True))
    amounts = _AMOUNTS[kind]
    read: dict[str, Any] = {
        each.name: Decimal(value) if value is not None and each.name in amounts else value
        for each in fields(kind)
        for value in (given.get(each.name, _default(each)),)
    }
    return kind(**{**read, **more})


def _default(field: Field[Any]) -> object:
    return None if field.default is MISSING else field.default


def _left(row: AttemptRow) -> Money:
    """Of an attempt that ran; as `sql/abandon_attempts.sql` has it."""
    return Money.SPENT if row.provider_cost_sats else Money.UNKNOWN


def abandoned(intent: Intent) -> Record:
    """The row of a request whose process was killed: what ran then may have cost its estimate."""
    attempts = tuple(
        row
        if row.money is not None
        else replace(row, failure=FailureKind.SHUTDOWN.value, money=_left(row).value)
        for row in intent.attempts
        if isinstance(row, AttemptRow)
    )
    last = attempts[-1] if attempts else None
    priced = last if last is not None and last.money != Money.UNKNOWN.value else None
    known: dict[str, object] = {
        "correlation_id": intent.correlation_id,
        "timestamp": intent.timestamp,
        "model": last.model if last is not None else intent.requested_model,
        "requested_model": intent.requested_model,
        "provider": last.provider if last is not None else None,
        "policy": intent.policy,
        "streaming": intent.streaming,
        "endpoint": intent.endpoint,
        "cost_sats": priced and priced.cost_sats,
        "provider_cost_sats": priced and priced.provider_cost_sats,
        "estimated_cost_sats": last.estimated_cost_sats if last is not None else None,
        "latency_ms": 0,
        "success": False,
        "answered": False,
        "status": "abandoned",
        "error_message": ABANDONED,
        "possibly_spent": sum(row.failure is not None and row.may_have_cost for row in attempts),
        "attempts": attempts,
    }
    # By name, so that a column more is unknown in such a row without a word here.
    made: Any = {each.name: known.get(each.name) for each in fields(Record)}
    return Record(**made)

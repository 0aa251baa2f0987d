"""A row that could not be kept: a line of the log, whole, and read back from there.

    Record --dropped_text--> `row dropped: {...}`, the sentence of a line of level ERROR
    a line of a log --read_dropped--> Record; Unreadable; None for every other line

The line may be of either format of the log, and stand in what a supervisor made of it (a prefix
before the text, an object around it). Names of models are chosen by clients and stand in other
lines: what they say is no row, whatever it looks like.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar, final, get_args

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.record import AttemptRow, Record

MARK: Final = "row dropped: "

_SENTENCES: Final = ("message", "MESSAGE", "log")
"""Members of an object a line that hold a sentence or a whole line: of arbstr's own JSON, of
`journalctl -o json`, of Docker's json-file."""

_BEFORE: Final = re.compile(r"(?:(?!\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b).)*ERROR\s+", re.S)
"""What stands before the mark in a line of text: whatever the supervisor put there, the time, and
the level, which is the first in the line. In any other line the mark is somebody's words."""

_STATUSES: Final = frozenset(
    {"ok", "failed", "rejected", "client_disconnected", "stream_incomplete", "abandoned"}
)

T = TypeVar("T", Record, AttemptRow)


@final
@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row was dropped here, and this is `why` it cannot be read back: the rest of a sentence."""

    why: str


def dropped_text(record: Record) -> str:
    """The sentence of its line in the log."""
    return MARK + json.dumps(asdict(record), default=str)


def read_dropped(line: str) -> Record | Unreadable | None:
    """What a line of a log holds. Never raises."""
    text = line.strip()
    if MARK not in text and '"correlation_id"' not in text:
        return None
    if text.startswith("{"):
        return _in_object(text)
    before, mark, told = text.partition(MARK)
    return _read(told) if mark and (not before or _BEFORE.fullmatch(before)) else None


def _in_object(text: str) -> Record | Unreadable | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None  # a line that was cut off, of which nobody knows what it was to say
    if "attempts" in value and "correlation_id" in value:
        return _record(value)
    if value.get("level", "error") != "error":
        return None
    for name in _SENTENCES:
        sentence = value.get(name)
        if isinstance(sentence, str) and not sentence.lstrip().startswith("{"):
            return read_dropped(sentence)
    return None


def _read(told: str) -> Record | Unreadable:
    try:
        value, _ = json.JSONDecoder().raw_decode(told)
    except (ValueError, RecursionError):
        return Unreadable("is cut off, or no JSON")
    return _record(value) if isinstance(value, dict) else Unreadable("is no JSON object")


def _record(told: Mapping[str, Any]) -> Record | Unreadable:
    attempts = told.get("attempts")
    try:
        if not isinstance(attempts, list):
            raise _Wrong("attempts")
        rows = []
        for each in attempts:
            if not isinstance(each, dict):
                raise _Wrong("attempts")
            rows.append(_made(AttemptRow, each))
        record = _made(Record, told, attempts=tuple(rows))
        if record.status not in _STATUSES:
            raise _Wrong("status")
        if not record.correlation_id:
            raise _Wrong("correlation_id")
    except _Wrong as wrong:
        return Unreadable(f"has no {wrong} that could be one")
    return record


class _Wrong(ValueError):  # noqa: N818 - a fact about a member
    """A member is not what it must be; its text is the name."""


def _made(kind: type[T], told: Mapping[str, Any], **more: object) -> T:
    """One of `kind`; what a newer arbstr said beyond that is left, what an older one did not say is
    its default. Raises `_Wrong`."""
    given: dict[str, Any] = {**more}
    for each in fields(kind):
        if each.name in given:
            continue
        if each.name in told:
            given[each.name] = _value(each.name, each.type, told[each.name])
        elif each.default is MISSING:
            raise _Wrong(each.name)
    return kind(**given)


def _value(name: str, of: Any, value: object) -> object:  # noqa: ANN401 - what a field says it is
    kinds = get_args(of) or (of,)
    if Decimal in kinds and isinstance(value, str):
        try:
            amount = Decimal(value)
        except InvalidOperation:
            raise _Wrong(name) from None
        if not amount.is_finite():
            raise _Wrong(name)
        return amount
    if type(value) not in kinds:
        raise _Wrong(name)
    return value

"""The events of a Responses stream: what each type is, and one attempt's stream of them, read.

    event --EVENTS--> Kind --Reading--> Facts, the last event with arbstr's object, the broken end

Clients go by `type` in the data; the `event:` line repeats it, and a Routstr node leaves it out of
its last event. Deltas are flat objects, so one search in C tells them from all else, whatever text
is in them, and they pass unparsed once output has gone out.

The stream ends with the protocol's own last event, so arbstr has none of its own: `finish` adds its
object to it, at the top and in `response`, where SDKs show it. (Run: an event after it kills the
helper of openai-node.) A `response.completed` is believed only if it says whose answer ended and
how: a Routstr node makes one of its own when its upstream ended without any, and from that `id`,
`status` and `output` are missing; its charge is read.

A broken stream ends with `response.failed` and then `error`, nested and flat at once: with the one
or the other alone the loops of both OpenAI SDKs take a part for the whole (run).
"""

import json
import re
from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Final, final

from arbstr.sansio.dialects.complaints import (
    AN_ERROR,
    NOTHING,
    PING_NAMES,
    complains,
    is_error,
    is_ping,
    read_data,
    read_stray,
    says,
)
from arbstr.sansio.dialects.dialect import Facts, Stored
from arbstr.sansio.dialects.flat import MEMBER
from arbstr.sansio.dialects.members import RefusedError, members_of
from arbstr.sansio.dialects.sse import Event, typed, written
from arbstr.sansio.dialects.usage import parse_finite, read_told
from arbstr.sansio.errors import ErrorReply


class Kind(Enum):
    """What an event is to arbstr."""

    HEAD = auto()
    """Not output yet: another provider can still answer."""
    STRUCTURE = auto()
    """An item or a part of one begins or ends; what is in it comes in events of its own."""
    OUTPUT = auto()
    """A piece of the answer."""
    END = auto()
    """The last event of a whole answer, if it says which."""
    FAILURE = auto()
    """The last event of an answer that is none."""


EVENTS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "response.created": Kind.HEAD,
        "response.queued": Kind.HEAD,
        "response.in_progress": Kind.HEAD,
        "response.output_item.added": Kind.STRUCTURE,
        "response.content_part.added": Kind.STRUCTURE,
        "response.content_part.done": Kind.STRUCTURE,
        "response.reasoning_summary_part.added": Kind.STRUCTURE,
        "response.reasoning_summary_part.done": Kind.STRUCTURE,
        "response.completed": Kind.END,
        "response.incomplete": Kind.END,
        "response.failed": Kind.FAILURE,
        "response.cancelled": Kind.FAILURE,
        "error": Kind.FAILURE,
    }
)
"""Every other type below `response.` is output: deltas, their `.done`, whole items, steps of server
tools. To take an unknown kind of output for nothing would hold it back; the other mistake only
commits early."""

ENDED: Final = frozenset({"completed", "incomplete"})
"""The statuses of an answer that is whole: it came to its end, or to its limit, or to a filter."""
FAILED: Final = frozenset({"failed", "cancelled"})

LONGEST_ID: Final = 256
"""Characters of an id that is worth to be remembered; OpenAI's have 55."""
MOST_ITEMS: Final = 128
"""Items of an answer whose ids are. An agent's has one or two."""

STOPS_CODEX: Final = "invalid_prompt"
"""The one code of the protocol's list that Codex neither repeats nor rewords (run): it would pay
again, six times in all. The `error` event behind it has arbstr's own code."""

_TYPE: Final = rb'"type" ?: ?"response\.[a-z_.]+\.delta"'
_DELTAS: Final = re.compile(
    rb"(?:(?:event: ?response\.[a-z_.]++\n)?+data: ?(?=\{(?:[^\n]*?, ?)??"
    + _TYPE
    + rb")\{"
    + MEMBER
    + rb"(?: ?, ?"
    + MEMBER
    + rb")*+ ?\}\n\n)++"
)
"""Deltas alone, each whole JSON: what was cut short or glued together does not match."""
_SEQUENCE: Final = re.compile(rb'"sequence_number" ?: ?([0-9]{1,15})')

_DELTA: Final = Facts(passes=True, output=True, said=True)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def is_whole(name: object, response: Mapping[str, object]) -> bool:
    """Whether the last event says itself that an answer came to its end. A fabricated one is always
    a `response.completed`, and has no id: `response.incomplete` needs no other proof."""
    status = response.get("status")
    if name == "response.incomplete":
        return status is None or status in ENDED
    return bool(response.get("id")) and status in ENDED


def stored_of(response: Mapping[str, object]) -> Stored | None:
    """What whoever gave a response keeps of it: the response, its conversation, its items."""
    if response.get("store") is False:
        return None
    output = response.get("output")
    items = output[:MOST_ITEMS] if isinstance(output, list) else []
    wholes = _ids(response, _object(response.get("conversation")))
    return Stored(wholes, _ids(*map(_object, items))) if wholes else None


def _ids(*things: Mapping[str, object]) -> tuple[str, ...]:
    ids = (thing.get("id") for thing in things)
    return tuple(id_ for id_ in ids if isinstance(id_, str) and 0 < len(id_) <= LONGEST_ID)


def error_of(value: Mapping[str, object]) -> bytes | None:
    """A failure's error as the body of an error; None if it says nothing but that it is one."""
    for error in (value.get("error"), _object(value.get("response")).get("error")):
        if says(error):
            return json.dumps({"error": error}).encode()
    flat = {name: value[name] for name in ("code", "message", "param") if value.get(name)}
    return json.dumps({"error": flat}).encode() if flat else None


def read_object(value: Mapping[str, object]) -> Facts:
    """What a parsed event says."""
    kind, name = None, value.get("type")
    if isinstance(name, str):
        kind = EVENTS.get(name, Kind.OUTPUT if name.startswith("response.") else None)
    counts, cost = read_told(value)
    response = _object(value.get("response"))
    if kind is Kind.END and response.get("status") in FAILED:
        kind = Kind.FAILURE
    match kind:
        case Kind.HEAD | Kind.STRUCTURE:
            return Facts(passes=True, counts=counts, provider_cost_msats=cost)
        case Kind.OUTPUT:
            return Facts(
                passes=True, output=True, said=True, counts=counts, provider_cost_msats=cost
            )
        case Kind.END if is_whole(name, response):
            return Facts(
                last=True,
                whole=True,
                output=True,
                said=bool(response.get("output")),
                counts=counts,
                provider_cost_msats=cost,
                stored=stored_of(response),
            )
        case Kind.FAILURE:
            # What it had said before it failed, if it came in this event alone.
            said = bool(response.get("output"))
            told = error_of(value)
            return Facts(error=True, told=told, said=said, counts=counts, provider_cost_msats=cost)
        case _:
            pass  # a fabricated end, or nothing of this protocol
    error = kind is None and is_error(value)
    prose = kind is None and not error and complains(value)
    silent = counts is None and cost is None and name not in PING_NAMES and any(value.values())
    return Facts(
        error=error, prose=prose, doubt=silent or prose, counts=counts, provider_cost_msats=cost
    )


@final
class Reading:
    """One attempt's stream, for `relay`; see the module."""

    __slots__ = ("_created_at", "_end", "_end_name", "_id", "_model", "_recent")

    began: Final = True
    """The last event proves itself, whatever came before it."""
    spoke: Final = True

    def __init__(self) -> None:
        self._id: str | None = None
        self._model: str | None = None
        self._created_at: object = None
        self._recent = b""
        self._end = b""
        self._end_name = b""

    def passes_whole(self, block: bytes) -> int:
        """How many events a block has, if all are deltas."""
        if _DELTAS.fullmatch(block) is None:
            return 0
        self._recent = block
        return block.count(b"\n\n")

    def read(self, event: Event, *, output_seen: bool) -> Facts:
        """What one event says."""
        data = event.data
        if not data:
            return AN_ERROR if event.name == b"error" else NOTHING
        if output_seen and _DELTAS.fullmatch(event.raw) is not None:
            self._recent = event.raw
            return _DELTA
        if is_ping(event.name) or data.lstrip().startswith(b"[DONE]"):
            return NOTHING  # not in the protocol, and no proof of anything

        def read(value: Mapping[str, object]) -> Facts:
            named = value
            if event.name and not isinstance(value.get("type"), str):
                named = {**value, "type": event.name.decode("utf-8", "replace")}
            facts = read_object(named)
            if facts.passes or facts.last:
                self._note(value)
            if facts.last:
                self._end_name = str(named["type"]).encode()
            return facts

        facts = read_data(data, read)
        if facts.passes:
            self._recent = event.raw
        elif facts.last:
            self._end = data
        return facts

    def read_stray(self, stray: bytes) -> Facts:
        """What lines without a field say."""
        return read_stray(stray, read_object)

    def _note(self, value: Mapping[str, object]) -> None:
        """What `interrupt` will repeat: the first of each counts."""
        response = value.get("response")
        if not isinstance(response, dict):
            return
        for name in ("id", "model"):
            given = response.get(name)
            if isinstance(given, str) and given and getattr(self, f"_{name}") is None:
                setattr(self, f"_{name}", given)
        if self._created_at is None:
            self._created_at = response.get("created_at")

    def whole(self) -> dict[str, Any]:
        """The response that the last event holds, as a plain answer has it.

        What a Routstr node put beside it goes into it: that is where it stands in plain answers.
        """
        event = _object(parse_finite(self._end))
        beside = {name: event[name] for name in ("cost", "metadata") if name in event}
        return {**beside, **_object(event.get("response"))}

    def finish(self, arbstr: bytes) -> bytes:
        """The last event, with arbstr's object in it. `arbstr` is the text of a JSON object."""
        # Line feeds come from several `data:` lines; in JSON that parsed they are white space.
        data = self._end.replace(b"\n", b" ").strip()
        member = b',"arbstr":' + arbstr
        pieces: list[bytes] = []
        done = 0
        for end in (*_end_of_response(data), len(data) - 1):
            pieces += (data[done:end], member)
            done = end
        whole = b"".join(pieces) + data[done:]
        return b"event: " + self._end_name + b"\ndata: " + whole + b"\n\n"

    def rest(self) -> bytes:
        """The last event, as it came."""
        return written(self._end, self._end_name)

    def interrupt(self, error: ErrorReply, request_id: str | None = None) -> bytes:
        """The end of an answer that is not complete."""
        numbers = _SEQUENCE.findall(self._recent)
        following = int(numbers[-1]) + 1 if numbers else 0
        return broken_end(
            error, following, id_=self._id, model=self._model, created_at=self._created_at
        )


def _end_of_response(data: bytes) -> tuple[int, ...]:
    """Where the brace stands that closes the member `response`; nothing if that is no object."""
    try:
        # Every byte is a character then, and no byte of another one looks like JSON's own.
        members, _ = members_of(data.decode("latin-1"), 0, once=frozenset())
        _, end, response = members["response"]
    except (ValueError, KeyError, RecursionError, RefusedError):
        return ()  # NaN is in it, which most clients read
    return (end - 1,) if isinstance(response, dict) and response else ()


def broken_end(
    error: ErrorReply,
    number: int,
    *,
    id_: str | None = None,
    model: str | None = None,
    created_at: object = None,
) -> bytes:
    """`response.failed`, and then the error; `number` is the first's in the sequence."""
    told = error.error_object()
    message = told.get("message") or error.message
    # Only what may be asked again for nothing is to be asked again.
    code = STOPS_CODEX if error.retry_after is None else "server_error"
    failed: dict[str, Any] = {
        "type": "response.failed",
        "sequence_number": number,
        "response": {
            "id": id_ or "resp_arbstr",
            "object": "response",
            "created_at": created_at if isinstance(created_at, int | float) else 0,
            "status": "failed",
            "model": model or "",
            "output": [],
            "usage": None,
            "error": {"code": code, "message": message},
        },
    }
    flat = {
        "type": "error",
        "sequence_number": number + 1,
        "code": told.get("code"),
        "message": message,
        "param": told.get("param"),
        "error": told,
    }
    return typed(failed) + typed(flat)

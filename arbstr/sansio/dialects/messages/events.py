"""The events of a Messages stream: what each type is, and one attempt's stream of them, read.

    event --EVENTS--> Kind --MessagesReading--> Facts, the last event with arbstr's object

Clients go by `type` in the data; the `event:` line repeats it. Deltas are small objects, so one
search in C tells them from all else, whatever text is in them, and they pass unparsed once output
has gone out.

The stream ends with `message_stop` alone: a Routstr node whose own upstream broke ends its stream
as if nothing had happened, and clients that do not look for that event take the part for the whole.
`finish` adds arbstr's object to it. A Routstr node says what it charged only behind it, in an
`event: cost` that has no type; the AI SDK raises for such an event, so nothing goes out after the
last one.

Counts are sums so far: those of `message_delta` replace those of `message_start`, each for itself.
The whole input is three counts together (`input_tokens`, `cache_read_input_tokens`,
`cache_creation_input_tokens`); in OpenAI's shapes the cached ones are inside.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.dialects.complaints import (
    AN_ERROR,
    NOTHING,
    PING_NAMES,
    complains,
    is_error,
    is_ping,
    names_failure,
    read_data,
    read_stray,
)
from arbstr.sansio.dialects.dialect import Facts
from arbstr.sansio.dialects.flat import OBJECT, SCALAR, STRING
from arbstr.sansio.dialects.messages.errors import error_event
from arbstr.sansio.dialects.sse import Event, written
from arbstr.sansio.dialects.usage import (
    MAX_TOKENS,
    Counts,
    parse_finite,
    read_counts,
    read_stated_cost,
)
from arbstr.sansio.errors import ErrorReply

PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'
"""What the protocol itself sends in silence; it may come anywhere."""


class Kind(Enum):
    """What an event is to arbstr."""

    HEAD = auto()
    """Not output yet: another provider can still answer."""
    BLOCK = auto()
    """A block of the answer begins: from here on it is this provider's."""
    OUTPUT = auto()
    """A piece of the answer."""
    STRUCTURE = auto()
    """What belongs to the answer and says nothing."""
    TURN = auto()
    """Why the answer ends, and the sums."""
    END = auto()
    """The last event of a whole answer."""


EVENTS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "message_start": Kind.HEAD,
        "content_block_start": Kind.BLOCK,
        "content_block_delta": Kind.OUTPUT,
        "content_block_stop": Kind.STRUCTURE,
        "message_delta": Kind.TURN,
        "message_stop": Kind.END,
    }
)
"""https://docs.claude.com/en/api/messages-streaming: beside these `ping` and `error`. Types of
their own may be added, so what has another one goes on, and says nothing."""

INPUT: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
COUNTS: Final = (*INPUT, "output_tokens")

_MEMBER: Final = STRING + rb" ?: ?(?:" + SCALAR + rb"|" + OBJECT + rb")"
_TYPE: Final = rb'"type" ?: ?"content_block_delta"'
_DELTAS: Final = re.compile(
    rb"(?:(?:event: ?content_block_delta\n)?+data: ?\{ ?(?:(?!"
    + _TYPE
    + rb")"
    + _MEMBER
    + rb" ?, ?)*+"
    + _TYPE
    + rb"(?: ?, ?"
    + _MEMBER
    + rb")*+ ?\}\n\n)++"
)
"""Deltas alone, each whole JSON: what was cut short or glued together does not match."""

_DELTA: Final = Facts(passes=True, output=True, said=True)


def object_of(value: object) -> Mapping[str, object]:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else {}


def read_usage(
    usage: Mapping[str, object], seen: dict[str, int], names: tuple[str, ...] = COUNTS
) -> None:
    """Takes the counts of one usage object into those `seen` so far, each for itself.

    A count that was seen is not undone by a later 0.
    """
    for name in names:
        count = usage.get(name)
        # `type`, not isinstance: true and false are integers to Python.
        if type(count) is int and 0 <= count <= MAX_TOKENS and (count or name not in seen):
            seen[name] = count


def counts_of(seen: Mapping[str, int]) -> Counts | None:
    """The counts seen so far, as everybody else knows them: the cached ones inside the prompt's."""
    if not seen:
        return None
    cached, written = seen.get("cache_read_input_tokens"), seen.get("cache_creation_input_tokens")
    prompt = seen.get("input_tokens")
    if prompt is not None or cached or written:
        prompt = (prompt or 0) + (cached or 0) + (written or 0)
    return Counts(prompt, seen.get("output_tokens"), cached, None, written)


def says(block: Mapping[str, object]) -> bool:
    """Whether a block has something in it; one of text or thinking begins without."""
    return any(value for name, value in block.items() if name not in ("type", "citations"))


@final
class MessagesReading:
    """One attempt's stream, for `relay`; see the module."""

    __slots__ = ("_ended", "_last", "_seen", "began", "spoke")

    def __init__(self) -> None:
        self.began = False
        self.spoke = True
        self._seen: dict[str, int] = {}
        self._ended = False
        self._last = b""

    def passes_whole(self, block: bytes) -> int:
        """How many events a block has, if all are deltas."""
        return block.count(b"\n\n") if _DELTAS.fullmatch(block) is not None else 0

    def read(self, event: Event, *, output_seen: bool) -> Facts:
        """What one event says."""
        data = event.data
        if not data:
            return AN_ERROR if event.name == b"error" else NOTHING
        if output_seen and _DELTAS.fullmatch(event.raw) is not None:
            return _DELTA
        if is_ping(event.name) or data.lstrip().startswith(b"[DONE]"):
            return NOTHING  # not in the protocol, and no proof of anything

        def read(value: Mapping[str, object]) -> Facts:
            named = value.get("type")
            if not isinstance(named, str) and event.name is not None:
                # The cost of a Routstr node has a name, and no type that a client could read.
                named = event.name.decode("utf-8", "replace")
                named = named if named in EVENTS or named == "error" else None
            return self._read(value, named)

        facts = read_data(data, read)
        if facts.last:
            # What bears only its name has no type, and clients go by that.
            typed = isinstance(object_of(parse_finite(data)).get("type"), str)
            self._last = data if typed else b'{"type":"message_stop"}'
        return facts

    def read_stray(self, stray: bytes) -> Facts:
        """What lines without a field say."""
        return read_stray(stray, lambda value: self._read(value, value.get("type")))

    def _read(self, value: Mapping[str, object], name: object) -> Facts:
        kind = EVENTS.get(name) if isinstance(name, str) else None
        # What the head counts of the output is no sum, and what fails behind it is not charged.
        head = kind is Kind.HEAD
        holders = (object_of(value.get("message")), value, object_of(value.get("error")))
        usages = [object_of(holder.get("usage")) for holder in holders]
        for usage in usages:
            read_usage(usage, self._seen, INPUT if head else COUNTS)
        counts = None
        if not head:
            own = any(name in usage for usage in usages for name in COUNTS)
            # In the names of another protocol, or deeper in an error, they are counts as well.
            counts = counts_of(self._seen) if own else read_counts(value)
        told = Facts(counts=counts, provider_cost_msats=read_stated_cost(value))
        self.began = self.began or kind in (Kind.BLOCK, Kind.OUTPUT)
        match kind:
            case Kind.HEAD | Kind.STRUCTURE:
                return replace(told, passes=True)
            case Kind.BLOCK:
                said = says(object_of(value.get("content_block")))
                return replace(told, passes=True, output=True, said=said)
            case Kind.OUTPUT:
                return replace(told, passes=True, output=True, said=True)
            case Kind.TURN:
                reason = object_of(value.get("delta")).get("stop_reason")
                if names_failure(reason):
                    return replace(told, error=True)
                self._ended = self._ended or bool(reason)
                self.began = self.began or bool(reason)
                # An answer may be empty: then this is its output.
                return replace(told, passes=True, output=bool(reason))
            case Kind.END:
                return replace(told, last=True, whole=self._ended)
            case None:
                return _unknown(value, name, told)

    def finish(self, arbstr: bytes) -> bytes:
        """The last event, with arbstr's object in it. `arbstr` is the text of a JSON object."""
        # Line feeds come from several `data:` lines; in JSON that parsed they are white space.
        body = self._last.replace(b"\n", b" ").strip().removesuffix(b"}")
        return b"event: message_stop\ndata: " + body + b',"arbstr":' + arbstr + b"}\n\n"

    def rest(self) -> bytes:
        """The last event, as it came."""
        return written(self._last, b"message_stop")

    def interrupt(self, error: ErrorReply, request_id: str | None = None) -> bytes:
        """The end of an answer that is not complete."""
        return error_event(error, request_id)


def _unknown(value: Mapping[str, object], name: object, told: Facts) -> Facts:
    """What an event says whose type the protocol does not have, or does not have yet."""
    if name == "error" or is_error(value):
        return replace(told, error=True)
    if name in PING_NAMES:
        return told
    if isinstance(name, str) and name and not name.startswith("response."):
        return replace(told, passes=True)
    prose = complains(value)
    silent = told.counts is None and told.provider_cost_msats is None and any(value.values())
    return replace(told, prose=prose, doubt=silent or prose)

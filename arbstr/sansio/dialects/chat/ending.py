"""The last bytes of a stream, and those of silence: all that arbstr itself says in one."""

import json
from typing import Final, final

from arbstr.sansio.dialects.chat.facts import ChatFacts
from arbstr.sansio.dialects.usage import parse_json
from arbstr.sansio.errors import ErrorReply, LocalProtocolError

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""What the runtime sends in silence. Not `: ping`: Continue takes that for the end of a batch."""
DONE: Final = b"data: [DONE]\n\n"


def error_event(error: ErrorReply) -> bytes:
    """An error as the last event of a stream."""
    return b"data: " + error.body() + b"\n\n"


CHUNK: Final = "chat.completion.chunk"
"""What a chunk calls itself."""


@final
class Head:
    """What a stream's chunks have in common: the first of each that was told counts."""

    __slots__ = ("_created", "_id", "_model", "_object")

    def __init__(self, object_name: str = CHUNK) -> None:
        self._object = object_name
        self._id: str | None = None
        self._created: int | None = None
        self._model: str | None = None

    def note(self, facts: ChatFacts) -> None:
        """Takes what one event tells of it."""
        self._id = self._id or facts.id
        self._created = self._created or facts.created
        self._model = self._model or facts.model

    def members(self, told: dict[str, object]) -> dict[str, object]:
        """Of a chunk without choices; what no event told is taken from arbstr's own object."""
        return {
            "id": self._id or f"chatcmpl-{told.get('request_id') or 'arbstr'}",
            "object": self._object,
            "created": self._created or 0,
            "model": self._model or told.get("model") or "",
            "choices": [],
        }


def last_events(head: Head, usage_chunk: bytes | None, arbstr: bytes) -> bytes:
    """The end of a complete answer: usage chunk if there is to be one, `[DONE]`, trailer.

    `arbstr` is the text of a JSON object, in one line; if it is none, LocalProtocolError.
    """
    told = parse_json(arbstr)
    if not isinstance(told, dict):
        raise LocalProtocolError("the end of a stream needs the text of a JSON object")
    members = head.members(told)
    parts: list[bytes] = []
    if usage_chunk is not None:
        chunk = _without_choices(usage_chunk, members)
        parts += (b"data: ", _with_member(chunk, arbstr), b"\n\n")
    trailer = json.dumps(members, separators=(",", ":")).encode()
    parts += (DONE, b"data: ", _with_member(trailer, arbstr), b"\n\n")
    return b"".join(parts)


def _without_choices(chunk: bytes, members: dict[str, object]) -> bytes:
    """A usage chunk as clients read it: with `choices: []`, where the provider wrote null."""
    value = parse_json(chunk)
    if not isinstance(value, dict) or value.get("choices") == []:
        return chunk
    return json.dumps({**members, **value, "choices": []}, separators=(",", ":")).encode()


def _with_member(chunk: bytes, arbstr: bytes) -> bytes:
    """A non-empty JSON object in one line, with the member `arbstr` added at its end.

    The object's other bytes are unchanged. Line feeds come from several `data:` lines; in JSON
    that parsed they can only be white space.
    """
    body = chunk.replace(b"\n", b" ").rstrip().removesuffix(b"}")
    return body + b',"arbstr":' + arbstr + b"}"

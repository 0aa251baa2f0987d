"""What the bodies of all requests have in common: how they are read, and cut where they are edited.

    body --read_body--> what a door makes of its members, or why it is refused
    body --edited--> a copy with some values replaced; every other byte stays

The body a client sent is what a provider gets, byte for byte, so nothing here ever dumps what it
parsed: where a value stands (`members.py`) is all an edit needs. `1e-7`, 20-digit integers,
escapes, key order and layout survive because nobody reads them.
"""

import json
import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final, TypeAlias, TypeVar

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.dialects.members import Members, RefusedError, malformed, top_level
from arbstr.sansio.errors import ErrorReply

T = TypeVar("T")

MAX_COUNT: Final = 2**31 - 1
"""Largest `n` and token limit taken as such: providers read them into 32 bits, SQLite into 64. What
is above it, or below 1, or no number at all means "no limit" to some of them and nothing to us."""

MAX_MODEL_CHARS: Final = 512
"""Longest model id in characters (picked, not measured): it goes into errors, log and database."""

BYTES_PER_TOKEN: Final = 4
"""English text averages about four bytes a token with the usual tokenisers."""

LONG_BEGINNING: Final = 100
"""Characters of a conversation's beginning that are kept as they are, for as long as it is
answered; an agent's has 20,000."""

DIGEST_BYTES: Final = 16
"""Of the hash of a longer one."""

HASHED_STEP: Final = 16 * 1024
"""Characters of it that are encoded at once, so that it is not there a second time."""

_UNSAYABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and lone surrogates, which have no UTF-8."""

Span: TypeAlias = tuple[int, int]
Edit: TypeAlias = tuple[int, int, str]
"""Start, end, replacement; an insertion has start == end."""


def read_body(
    body: bytes, once: frozenset[str], read: Callable[[str, Members, int], T]
) -> T | ErrorReply:
    """What `read` makes of the body's text, its members and the offset behind its first brace.

    `once`: the members that are read, so that none of them may occur twice. Never raises, whatever
    the bytes are. UTF-8 with or without a byte order mark is read; the other encodings of old JSON
    are malformed.
    """
    try:
        text = body.decode()
        return read(text, *top_level(text, once=once))
    except UnicodeDecodeError as error:
        return malformed(f"it is not UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        if not body.strip():
            return malformed("it is empty")
        return malformed(f"{error.msg} at line {error.lineno} column {error.colno}")
    except RecursionError:
        return malformed("it is too deeply nested")
    except RefusedError as refused:
        return refused.reply


def edited(body: bytes, edits: list[Edit]) -> bytes:
    """The body with its edits, whose places count bytes: the same object without any."""
    if not edits:
        return body
    # Two insertions at one place keep this order, as sorting is stable.
    edits.sort(key=lambda edit: edit[:2])
    pieces: list[bytes] = []
    done = 0
    for start, end, new in edits:
        pieces += (body[done:start], new.encode())
        done = end
    pieces.append(body[done:])
    return b"".join(pieces)


def with_model(asked: Asked, model: str) -> bytes:
    """The body for a provider that calls the model so, where that is all that is ever edited:
    `asked.own` is the place of the model's name. `asked.body` itself if it has the same."""
    if model == asked.model:
        return asked.body
    place: Span = asked.own
    return edited(asked.body, [(*place, json.dumps(model))])


def span_in_bytes(text: str, span: Span) -> Span:
    """A place in the text, in its bytes. Strict UTF-8 decodes and encodes one to one."""
    if text.isascii():
        return span
    start, end = span
    before = utf8_length(text[:start])
    return before, before + utf8_length(text[start:end])


def form_of(text: str, members: Members) -> tuple[Span, ...]:
    """Where the values stand, in bytes, that say in which form the answer is to come."""
    if "stream" not in members and "stream_options" not in members:
        return ()
    there = [members[name][:2] for name in ("stream", "stream_options") if name in members]
    return tuple([span_in_bytes(text, span) for span in there])


def value_of(members: Members, name: str) -> object:
    """A member's value; None also if there is none."""
    return members[name][2] if name in members else None


def read_model(members: Members) -> tuple[str, Span]:
    """The member `model`, which every request has, and where it stands. Raises `RefusedError`."""
    if "model" not in members:
        raise RefusedError("missing_member", "The request body has no `model`.", "model")
    start, end, model = members["model"]
    if not isinstance(model, str) or not _usable(model):
        raise RefusedError(
            "invalid_member",
            "`model` must be a non-empty string without control characters, "
            f"at most {MAX_MODEL_CHARS} long.",
            "model",
        )
    return model, (start, end)


def _usable(model: str) -> bool:
    """Whether the id can be said in headers, log and JSON."""
    return 0 < len(model) <= MAX_MODEL_CHARS and _UNSAYABLE.search(model) is None


def count_of(value: object) -> int | None:
    """A count of something, or None where it is none."""
    # `type is`, because True is an int to isinstance.
    return value if type(value) is int and 1 <= value <= MAX_COUNT else None


def limit_of(*values: object) -> int | None:
    """The largest of the limits that are given; None if that is none at all."""
    largest = 0
    for value in values:
        if value is not None:
            count = count_of(value)
            if count is None:
                return None
            largest = max(largest, count)
    return largest or None


def choices_of(value: object) -> int:
    """As many as the most generous reader of `n` would make: 3.0 is 3 to some."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return count_of(value) or 1


def tokens_in(size: int) -> int:
    """An estimate of the tokens in so many bytes of text; every request has at least one."""
    return max(1, -(-size // BYTES_PER_TOKEN))


def texts_of(content: object) -> list[str]:
    """What may be a string or a list of parts: the string itself, or all its text parts."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    parts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return [part for part in parts if isinstance(part, str)]


def said_by(item: object, *roles: str) -> list[str]:
    """The texts of a message, if one of these wrote it."""
    if not isinstance(item, dict) or item.get("role") not in roles:
        return []
    return texts_of(item.get("content"))


def conversation_of(members: Members, messages: object, system: object = "") -> str | None:
    """What tells a conversation from others: the client's own key for it, else how it begins.

    That is the first text of the system and the first of the user, or their hash, if they are long;
    None if the user says nothing.
    """
    if "prompt_cache_key" in members:
        key = members["prompt_cache_key"][2]
        if isinstance(key, str) and key:
            return key
    first = messages if isinstance(messages, str) else ""
    if not isinstance(system, str):
        system = "\n".join(texts_of(system))
    for item in messages if isinstance(messages, list) else ():
        role = item.get("role") if isinstance(item, dict) else None
        if role == "user":
            content = item.get("content")
            first = content if isinstance(content, str) else "\n".join(texts_of(content))
            if first:
                break
        elif not system and role in ("system", "developer"):
            system = "\n".join(texts_of(item.get("content")))
    if not first:
        return None
    if len(system) + len(first) <= LONG_BEGINNING:
        return f"{system}\n\0{first}"
    if len(system) + len(first) <= HASHED_STEP:
        beginning = f"{system}\n\0{first}".encode("utf-8", "surrogatepass")
        return blake2b(beginning, digest_size=DIGEST_BYTES).hexdigest()
    hashed = blake2b(digest_size=DIGEST_BYTES)
    for text in (system, "\n\0", first):
        for start in range(0, len(text), HASHED_STEP):
            # Half a surrogate pair may stand in a JSON string.
            part = text[start : start + HASHED_STEP]
            hashed.update(part.encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()


def size_of(texts: Iterable[str]) -> int:
    """Bytes of all these texts."""
    return sum(map(utf8_length, texts))


def utf8_length(text: str) -> int:
    """Bytes of a text."""
    # An escaped lone surrogate is legal JSON, and three bytes to whoever encodes it anyway.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

"""The request: the client's bytes -> Asked, and the copy of them that a provider gets.

    body --parse_chat--> Asked --outgoing_body--> the same bytes, or one member edited

The body a client sent is what a provider gets, byte for byte, so nothing here ever dumps what it
parsed. Where the values of its members stand (`members.py`) is all an edit needs: `outgoing_body`
cuts the original there. `1e-7`, 20-digit integers, escapes, key order and layout survive because
nobody reads them.

Read from the body: `model`, `messages` (text only), `stream`, `stream_options`, `n`,
`max_tokens`, `max_completion_tokens`. One of them twice is refused: JSON leaves open which one
counts, so arbstr and the provider could disagree about what is paid for. Refused is also what has
no usable `model` or `messages`. All else is the provider's to judge: a value arbstr cannot use is a
value it does not use.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from arbstr.sansio.dialects.dialect import Asked, Dialect
from arbstr.sansio.dialects.members import Members, RefusedError, malformed, members_of, top_level
from arbstr.sansio.errors import ErrorReply

MAX_COUNT: Final = 2**31 - 1
"""Largest `n` and token limit taken as such: providers read them into 32 bits, SQLite into 64. What
is above it, or below 1, or no number at all means "no limit" to some of them and nothing to us."""

MAX_MODEL_CHARS: Final = 512
"""Longest model id in characters (picked, not measured): it goes into errors, log and database."""

BYTES_PER_TOKEN: Final = 4
"""English text averages about four bytes a token with the usual tokenisers."""

_UNSAYABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and lone surrogates, which have no UTF-8."""

READ_ONCE: Final = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "n",
        "max_tokens",
        "max_completion_tokens",
    }
)
"""The top-level members that are read, so that none of them may occur twice."""

Span: TypeAlias = tuple[int, int]
Edit: TypeAlias = tuple[int, int, str]
"""Start, end, replacement; an insertion has start == end. While the body is scanned, offsets count
characters of its text; in `Places` its bytes."""


@final
@dataclass(frozen=True, slots=True)
class Places:
    """Where the body can be edited.

    `ask_usage` sets `stream_options.include_usage` to true and is None when it is true already, or
    cannot be because `stream_options` is no object;
    `mirror` gives `max_tokens` the value of `max_completion_tokens` and is None unless the
    latter is given alone.
    """

    model: Span
    ask_usage: Edit | None
    mirror: Edit | None


@final
@dataclass(frozen=True, slots=True)
class ChatMembers:
    """What only this door needs. `asks_usage`: the client itself set
    `stream_options.include_usage` to true."""

    asks_usage: bool
    places: Places


def parse_chat(body: bytes, dialect: Dialect) -> Asked | ErrorReply:
    """Reads a chat body; the ErrorReply says in its `param` which member is at fault.

    Never raises, whatever the bytes are. UTF-8 with or without a byte order mark is read;
    the other encodings of old JSON are malformed.
    """
    try:
        text = body.decode()
        members, inside = top_level(text, once=READ_ONCE)
        return _read(body, dialect, text, members, inside)
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


def outgoing_body(
    asked: Asked, *, model: str, include_usage: bool, mirror_max_tokens: bool
) -> bytes:
    """The body for one provider: `asked.body` itself when nothing has to change.

    `model` is the id the provider knows. `include_usage` makes a stream's
    `stream_options.include_usage` true and keeps the client's other keys; False leaves the
    client's `stream_options` alone. `mirror_max_tokens` adds `max_tokens` for providers that
    reserve by it alone, as Routstr nodes do. New members go first in their object; every byte
    outside the edited values stays.
    """
    places: Places = asked.own.places
    edits: list[Edit] = []
    if model != asked.model:
        edits.append((*places.model, json.dumps(model)))
    if include_usage and asked.stream and places.ask_usage is not None:
        edits.append(places.ask_usage)
    if mirror_max_tokens and places.mirror is not None:
        edits.append(places.mirror)
    if not edits:
        return asked.body
    # Two insertions at one place keep this order, as sorting is stable.
    edits.sort(key=lambda edit: edit[:2])
    body = asked.body
    pieces: list[bytes] = []
    done = 0
    for start, end, new in edits:
        pieces += (body[done:start], new.encode())
        done = end
    pieces.append(body[done:])
    return b"".join(pieces)


# --- what the members mean --------------------------------------------------------------------


def _read(body: bytes, dialect: Dialect, text: str, members: Members, inside: int) -> Asked:
    model_start, model_end, model = _required(members, "model")
    messages = _required(members, "messages")[2]
    if not isinstance(model, str) or not _usable_model(model):
        raise RefusedError(
            "invalid_member",
            "`model` must be a non-empty string without control characters, "
            f"at most {MAX_MODEL_CHARS} long.",
            "model",
        )
    if not isinstance(messages, list):
        raise RefusedError("invalid_member", "`messages` must be an array.", "messages")
    stream = _value(members, "stream")
    max_tokens = _value(members, "max_tokens")
    max_completion_tokens = _value(members, "max_completion_tokens")
    max_output = _limit(max_tokens, max_completion_tokens)
    mirror: Edit | None = None
    if max_tokens is None and max_output is not None:
        mirror = _put(members, "max_tokens", str(max_output), inside)
    asks_usage, ask_usage = _usage_edit(text, members, inside)

    size = sum(map(_text_bytes, messages))
    for name in ("tools", "functions"):
        if name in members:
            start, end, _ = members[name]
            size += _utf8_length(text[start:end])
    places = Places(model=(model_start, model_end), ask_usage=ask_usage, mirror=mirror)
    return Asked(
        dialect=dialect,
        body=body,
        model=model,
        stream=stream is True,
        choices=_choices(_value(members, "n")),
        max_output=max_output,
        input_tokens=max(1, -(-size // BYTES_PER_TOKEN)),
        last_user_text=_last_user_text(messages),
        # Leaving ours out must not leave the client's out.
        adds_option=stream is True and _value(members, "stream_options") is None,
        own=ChatMembers(asks_usage, _in_bytes(text, places)),
    )


def _in_bytes(text: str, places: Places) -> Places:
    """The same places in the body. Strict UTF-8 decodes and encodes one to one."""
    if text.isascii():
        return places

    def at(start: int, end: int) -> Span:
        before = _utf8_length(text[:start])
        return before, before + _utf8_length(text[start:end])

    def edit(place: Edit | None) -> Edit | None:
        return None if place is None else (*at(*place[:2]), place[2])

    return Places(at(*places.model), edit(places.ask_usage), edit(places.mirror))


def _required(members: Members, name: str) -> tuple[int, int, object]:
    if name in members:
        return members[name]
    message = f"The request body has no `{name}`."
    if name == "messages" and "input" in members:
        message = (
            "The request body has no `messages`. It has `input`, as requests to /v1/responses "
            "do; arbstr supports POST /v1/chat/completions only."
        )
    raise RefusedError("missing_member", message, name)


def _value(members: Members, name: str) -> object:
    return members[name][2] if name in members else None


def _usable_model(model: str) -> bool:
    """Whether the id can be said in headers, log and JSON."""
    return 0 < len(model) <= MAX_MODEL_CHARS and _UNSAYABLE.search(model) is None


def _count(value: object) -> int | None:
    """A count of something, or None where it is none."""
    # `type is`, because True is an int to isinstance.
    return value if type(value) is int and 1 <= value <= MAX_COUNT else None


def _limit(*values: object) -> int | None:
    """The largest of the limits that are given; None if that is none at all."""
    largest = 0
    for value in values:
        if value is not None:
            count = _count(value)
            if count is None:
                return None
            largest = max(largest, count)
    return largest or None


def _choices(value: object) -> int:
    """As many as the most generous reader of `n` would make: 3.0 is 3 to some."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return _count(value) or 1


def _put(members: Members, name: str, value: str, inside: int) -> Edit:
    """The edit that gives `name` a value: in the place of its old one, else as the first member."""
    if name in members:
        start, end, _ = members[name]
        return (start, end, value)
    return (inside, inside, f'"{name}":{value},' if members else f'"{name}":{value}')


def _usage_edit(text: str, members: Members, inside: int) -> tuple[bool, Edit | None]:
    """Whether `stream_options.include_usage` is true, and the edit that makes it so, if one can."""
    options = _value(members, "stream_options")
    if options is None:
        return False, _put(members, "stream_options", '{"include_usage":true}', inside)
    if not isinstance(options, dict):
        return False, None
    brace = members["stream_options"][0]
    once = frozenset({"include_usage"})
    within, _ = members_of(text, brace, once=once, prefix="stream_options.")
    if _value(within, "include_usage") is True:
        return True, None
    return False, _put(within, "include_usage", "true", brace + 1)


# --- the messages' text -----------------------------------------------------------------------


def _texts(content: object) -> list[str]:
    """A message's content: the string itself, or all its text parts."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    parts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return [part for part in parts if isinstance(part, str)]


def _last_user_text(messages: Sequence[object]) -> str:
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return "\n".join(_texts(message.get("content")))
    return ""


def _text_bytes(message: object) -> int:
    if not isinstance(message, dict):
        return 0
    content = message.get("content")
    # The branch is what almost every message takes; without it `_texts` makes a list for each.
    if isinstance(content, str):
        size = _utf8_length(content)
    else:
        size = sum(map(_utf8_length, _texts(content)))
    if calls := message.get("tool_calls"):
        size += sum(map(_call_bytes, calls)) if isinstance(calls, list) else 0
    return size


def _call_bytes(call: object) -> int:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return 0
    texts = (function.get("name"), function.get("arguments"))
    return sum(_utf8_length(text) for text in texts if isinstance(text, str))


def _utf8_length(text: str) -> int:
    # An escaped lone surrogate is legal JSON, and three bytes to whoever encodes it anyway.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

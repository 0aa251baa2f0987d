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
from collections.abc import Sequence
from typing import Final, final

from arbstr.sansio.dialects.dialect import Asked, Dialect
from arbstr.sansio.dialects.members import Members, RefusedError, members_of
from arbstr.sansio.dialects.request import (
    Edit,
    Span,
    choices_of,
    conversation_of,
    edited,
    form_of,
    limit_of,
    read_body,
    read_model,
    size_of,
    span_in_bytes,
    texts_of,
    tokens_in,
    utf8_length,
    value_of,
)
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.frozen import dataclass

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


@final
@dataclass(frozen=True, slots=True)
class Places:
    """Where the body can be edited.

    `ask_usage` sets `stream_options.include_usage` to true and is None when it is true already, or
    cannot be because `stream_options` is no object, or is not there and nothing is streamed;
    `mirror` gives `max_tokens` the value of `max_completion_tokens` and is None unless the
    latter is given alone.
    """

    model: Span
    ask_usage: Edit | None
    mirror: Edit | None = None

    def in_bytes(self, text: str) -> "Places":
        """The same places in the body, where these are in its text."""
        if text.isascii():
            return self

        def edit(place: Edit | None) -> Edit | None:
            return None if place is None else (*span_in_bytes(text, place[:2]), place[2])

        return Places(span_in_bytes(text, self.model), edit(self.ask_usage), edit(self.mirror))


@final
@dataclass(frozen=True, slots=True)
class ChatMembers:
    """What only this door needs. `asks_usage`: the client itself set
    `stream_options.include_usage` to true."""

    asks_usage: bool
    places: Places


def parse_chat(body: bytes, dialect: Dialect) -> Asked | ErrorReply:
    """Reads a chat body; the ErrorReply says in its `param` which member is at fault."""

    def read(text: str, members: Members, inside: int) -> Asked:
        return _read(body, dialect, text, members, inside)

    return read_body(body, READ_ONCE, read)


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
    return edited(asked.body, edits)


# --- what the members mean --------------------------------------------------------------------


def _read(body: bytes, dialect: Dialect, text: str, members: Members, inside: int) -> Asked:
    model, place = read_model(members)
    messages = _messages(members)
    stream = value_of(members, "stream")
    max_tokens = value_of(members, "max_tokens")
    max_completion_tokens = value_of(members, "max_completion_tokens")
    max_output = limit_of(max_tokens, max_completion_tokens)
    mirror: Edit | None = None
    if max_tokens is None and max_output is not None:
        mirror = _put(members, "max_tokens", str(max_output), inside)
    asks_usage, ask_usage = False, None
    if stream is True or "stream_options" in members:
        asks_usage, ask_usage = usage_edit(text, members, inside)

    size = _text_bytes(messages)
    for name in ("tools", "functions"):
        if name in members:
            start, end, _ = members[name]
            size += utf8_length(text[start:end])
    places = Places(place, ask_usage, mirror)
    return Asked(
        dialect=dialect,
        body=body,
        model=model,
        stream=stream is True,
        choices=choices_of(value_of(members, "n")),
        max_output=max_output,
        input_tokens=tokens_in(size),
        last_user_text=_last_user_text(messages),
        conversation=conversation_of(members, messages),
        # Leaving ours out must not leave the client's out.
        adds_option=stream is True and value_of(members, "stream_options") is None,
        form=form_of(text, members),
        own=ChatMembers(asks_usage, places.in_bytes(text)),
    )


def _messages(members: Members) -> list[object]:
    if "messages" not in members:
        message = "The request body has no `messages`."
        if "input" in members:
            message += (
                " It has `input`, as requests to /v1/responses do; this is one to "
                "/v1/chat/completions."
            )
        raise RefusedError("missing_member", message, "messages")
    messages = members["messages"][2]
    if not isinstance(messages, list):
        raise RefusedError("invalid_member", "`messages` must be an array.", "messages")
    return messages


def _put(members: Members, name: str, value: str, inside: int) -> Edit:
    """The edit that gives `name` a value: in the place of its old one, else as the first member."""
    if name in members:
        start, end, _ = members[name]
        return (start, end, value)
    return (inside, inside, f'"{name}":{value},' if members else f'"{name}":{value}')


def usage_edit(text: str, members: Members, inside: int) -> tuple[bool, Edit | None]:
    """Whether `stream_options.include_usage` is true, and the edit that makes it so, if one can."""
    options = value_of(members, "stream_options")
    if options is None:
        return False, _put(members, "stream_options", '{"include_usage":true}', inside)
    if not isinstance(options, dict):
        return False, None
    brace = members["stream_options"][0]
    once = frozenset({"include_usage"})
    within, _ = members_of(text, brace, once=once, prefix="stream_options.")
    if value_of(within, "include_usage") is True:
        return True, None
    return False, _put(within, "include_usage", "true", brace + 1)


# --- the messages' text -----------------------------------------------------------------------


def _last_user_text(messages: Sequence[object]) -> str:
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return "\n".join(texts_of(message.get("content")))
    return ""


def _text_bytes(messages: Sequence[object]) -> int:
    size = 0
    for message in messages:
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        # What almost every message takes: with calls for each this takes half as long again.
        if isinstance(content, str) and content.isascii():
            size += len(content)
        else:
            size += size_of(texts_of(content))
        if "tool_calls" in message and isinstance(calls := message["tool_calls"], list):
            size += sum(map(_call_bytes, calls))
    return size


def _call_bytes(call: object) -> int:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return 0
    texts = (function.get("name"), function.get("arguments"))
    return size_of(text for text in texts if isinstance(text, str))

"""The body of a POST /v1/messages -> `Asked`, and the copy of it that a provider gets.

Read are `model`, `messages`, `max_tokens`, `stream` and what refers to a thing that one provider
keeps; for the estimate and the keywords `system`, the blocks of the messages and `tools`. All else
is the provider's to judge, `max_tokens` too, which the protocol wants in every request. Only
`model` is ever edited. What a beta header allows in a body is refused without that header, so the
two headers of the protocol's versions go along, and the query does.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from arbstr.sansio.dialects.dialect import Asked, Dialect, Headers
from arbstr.sansio.dialects.members import Members, RefusedError
from arbstr.sansio.dialects.request import (
    conversation_of,
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

READ_ONCE: Final = frozenset({"model", "messages", "max_tokens", "stream", "container"})
"""The members by which it is decided where a request may go and what it may cost."""

FORWARDED: Final = ("anthropic-version", "anthropic-beta")
"""Headers that say how the body is to be read."""

_TEXTS: Final = frozenset({"text", "thinking", "data", "title", "context"})
"""Members of a block that are text themselves, where they are strings."""

_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def parse(
    dialect: Dialect, body: bytes, headers: Mapping[str, str], query: bytes
) -> Asked | ErrorReply:
    """Reads a request; the ErrorReply says in its `param` which member is at fault."""

    def read(text: str, members: Members, _inside: int) -> Asked:
        model, place = read_model(members)
        messages = _messages(members)
        _refuse_what_is_kept(members, messages)
        system = value_of(members, "system")
        size = size_of(texts_of(system)) + sum(map(_size, messages))
        if "tools" in members:
            start, end, _ = members["tools"]
            size += utf8_length(text[start:end])
        return Asked(
            dialect=dialect,
            body=body,
            model=model,
            stream=value_of(members, "stream") is True,
            choices=1,
            max_output=limit_of(value_of(members, "max_tokens")),
            input_tokens=tokens_in(size),
            last_user_text=_last_user_text(messages),
            conversation=conversation_of(members, messages, system),
            query=query,
            form=form_of(text, members),
            forwarded=forwarded(headers),
            own=span_in_bytes(text, place),
        )

    return read_body(body, READ_ONCE, read)


def forwarded(headers: Mapping[str, str]) -> Headers:
    """The headers that go along, of those the client sent."""
    return tuple(
        (name.encode(), headers[name].encode("latin-1")) for name in FORWARDED if name in headers
    )


def _messages(members: Members) -> list[object]:
    if "messages" not in members:
        message = "The request body has no `messages`."
        if "input" in members:
            message += " It has `input`, as requests to /v1/responses do."
        raise RefusedError("missing_member", message, "messages")
    messages = members["messages"][2]
    if not isinstance(messages, list):
        raise RefusedError("invalid_member", "`messages` must be an array.", "messages")
    return messages


def _refuse_what_is_kept(members: Members, messages: list[object]) -> None:
    container = value_of(members, "container")
    if isinstance(container, dict):
        container = container.get("id")
    if container is not None:
        raise RefusedError(
            "unsupported_parameter",
            "`container` names a thing that one provider keeps, and arbstr asks whichever is "
            "cheapest. Leave it out, or send the request to that provider itself.",
            "container",
        )
    for block in _blocks(messages):
        source = block.get("source")
        if isinstance(source, dict) and source.get("type") == "file":
            raise RefusedError(
                "unsupported_parameter",
                "A `source` of type `file` names a file that one provider keeps, and arbstr asks "
                "whichever is cheapest. Send what is in the file instead.",
                "messages",
            )


# --- the text in it ---------------------------------------------------------------------------


def _content(message: object) -> object:
    return message.get("content") if isinstance(message, dict) else None


def _blocks(messages: list[object]) -> Iterator[Mapping[str, object]]:
    for message in messages:
        content = _content(message)
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict):
                yield block


def _size(message: object) -> int:
    """Bytes of the text in a message; pictures and documents count nothing."""
    content = _content(message)
    if isinstance(content, str):
        return utf8_length(content)
    if not isinstance(content, list):
        return 0
    return sum([_block_size(block) for block in content if isinstance(block, dict)])


def _block_size(block: Mapping[str, object]) -> int:
    size = 0
    for name in _TEXTS.intersection(block):
        text = block[name]
        if isinstance(text, str):
            size += utf8_length(text)
    given, inside = block.get("input"), block.get("content")
    if isinstance(given, dict) and given:  # of a call; it goes into the prompt as JSON
        size += utf8_length(_COMPACT(given))
    if inside is not None:  # of a tool's result
        size += utf8_length(inside) if isinstance(inside, str) else size_of(texts_of(inside))
    return size


def _last_user_text(messages: list[object]) -> str:
    """The last text of the last message of the user that has any: agents put their own reminders
    before it, and their tools' results stand in messages of the user."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            for block in reversed(content if isinstance(content, list) else []):
                if isinstance(block, dict) and block.get("type") == "text":
                    text = block.get("text")
                    if isinstance(text, str):
                        return text
    return ""

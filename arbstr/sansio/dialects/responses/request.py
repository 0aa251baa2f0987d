"""The body of a POST /v1/responses -> `Asked`, and the copy of it that a provider gets.

Read are `model`, `stream`, `max_output_tokens` and what refers to something a provider keeps; for
the estimate and the keywords `instructions`, `input` and `tools`; for the conversation
`prompt_cache_key`. All else is the provider's to judge. Only `model` is ever edited: usage always
comes, and an unknown member would be a 400.

What one provider keeps (the response before, a conversation, an item that is only named) can be
asked of no other one: the request says so in `refers`. No client that sends the whole conversation
is met by that (run: Codex, the AI SDK, openai-agents, pydantic-ai, LangChain, opencode, Copilot
CLI). `background` is refused: such an answer is fetched later, and what it cost is said to nobody.
"""

from typing import Final

from arbstr.sansio.dialects.dialect import Asked, Dialect, Reference
from arbstr.sansio.dialects.members import Members, RefusedError
from arbstr.sansio.dialects.request import (
    conversation_of,
    form_of,
    limit_of,
    read_body,
    read_model,
    said_by,
    size_of,
    span_in_bytes,
    texts_of,
    tokens_in,
    utf8_length,
    value_of,
)
from arbstr.sansio.errors import ErrorReply

READ_ONCE: Final = frozenset(
    {
        *("model", "input", "stream", "max_output_tokens"),
        *("previous_response_id", "conversation", "background"),
    }
)
"""The members by which it is decided where a request may go and what it may cost."""

_TEXTS: Final = frozenset({"content", "arguments", "output", "input", "summary", "text"})
"""Members of an item of `input` with text in them: a string, or a list of parts. Messages, calls of
functions and of custom tools and what these gave, summaries of reasoning."""


def parse(dialect: Dialect, body: bytes) -> Asked | ErrorReply:
    """Reads a request; the ErrorReply says in its `param` which member is at fault."""

    def read(text: str, members: Members, _inside: int) -> Asked:
        model, place = read_model(members)
        _refuse_background(members)
        given = _input(members)
        size = _size(given)
        instructions = value_of(members, "instructions")
        if isinstance(instructions, str):
            size += utf8_length(instructions)
        if "tools" in members:
            start, end, _ = members["tools"]
            size += utf8_length(text[start:end])
        return Asked(
            dialect=dialect,
            body=body,
            model=model,
            stream=value_of(members, "stream") is True,
            choices=1,
            max_output=limit_of(value_of(members, "max_output_tokens")),
            input_tokens=tokens_in(size),
            last_user_text=_last_user_text(given),
            conversation=conversation_of(members, given, instructions),
            refers=_references(members, given),
            form=form_of(text, members),
            own=span_in_bytes(text, place),
        )

    return read_body(body, READ_ONCE, read)


def _input(members: Members) -> object:
    if "input" in members:
        given = members["input"][2]
        if not isinstance(given, str | list):
            raise RefusedError("invalid_member", "`input` must be a string or an array.", "input")
        return given
    if isinstance(value_of(members, "prompt"), dict):
        return None  # a template that the provider keeps and fills in
    message = "The request body has no `input`."
    if "messages" in members:
        message += " It has `messages`, as requests to /v1/chat/completions do."
    raise RefusedError("missing_member", message, "input")


def _refuse_background(members: Members) -> None:
    if value_of(members, "background") is True:
        raise RefusedError(
            "unsupported_parameter",
            "`background` leaves the answer with one provider, to be fetched there; arbstr relays "
            "answers only. Leave it out.",
            "background",
        )


def _references(members: Members, given: object) -> tuple[Reference, ...]:
    """What the request refers to, each once."""
    found: dict[str, Reference] = {}
    for name in ("previous_response_id", "conversation"):
        id_ = value_of(members, name)
        if name == "conversation" and isinstance(id_, dict):
            id_ = id_.get("id")
        if id_ is None:
            continue
        if not isinstance(id_, str) or not id_:
            raise RefusedError("invalid_member", f"`{name}` must be an id, a string.", name)
        found[id_] = Reference(id_, f"`{name}`", name, "input")
    for item in given if isinstance(given, list) else ():
        if isinstance(item, dict) and _is_reference(item):
            id_ = item.get("id")
            if not isinstance(id_, str) or not id_:
                message = "An `item_reference` in `input` must have an `id`, a string."
                raise RefusedError("invalid_member", message, "input")
            found[id_] = Reference(id_, "An `item_reference` in `input`", "input", "input")
    return tuple(found.values())


def _is_reference(item: dict[str, object]) -> bool:
    kind = item.get("type")
    # Its type may be left out, as that of a message, which says something.
    return kind == "item_reference" or (kind is None and "role" not in item and "id" in item)


# --- the text in it ---------------------------------------------------------------------------


def _size(given: object) -> int:
    """Bytes of the text in `input`."""
    if isinstance(given, str):
        return utf8_length(given)
    size = 0
    for item in given if isinstance(given, list) else ():
        if isinstance(item, str):
            size += utf8_length(item)
        elif isinstance(item, dict):
            for name in _TEXTS.intersection(item):
                said = item[name]
                size += utf8_length(said) if isinstance(said, str) else size_of(texts_of(said))
    return size


def _last_user_text(given: object) -> str:
    """The last text of the last message of the user: agents put their own reminders before it."""
    if isinstance(given, str):
        return given
    for item in reversed(given) if isinstance(given, list) else ():
        if texts := said_by(item, "user"):
            return texts[-1]
    return ""

"""All doors by name. Which path leads to which says the table of routes (`trio_runtime/app.py`).

a body that came by no path --recognised--> the door it is for, by its members
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from arbstr.sansio.dialects.chat.completions import COMPLETIONS
from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.dialect import Dialect
from arbstr.sansio.dialects.embeddings import EMBEDDINGS
from arbstr.sansio.dialects.members import RefusedError, top_level
from arbstr.sansio.dialects.messages.door import MESSAGES
from arbstr.sansio.dialects.request import value_of
from arbstr.sansio.dialects.responses.door import RESPONSES

DOORS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {door.name: door for door in (CHAT, RESPONSES, MESSAGES, EMBEDDINGS, COMPLETIONS)}
)

OF_MESSAGES: Final = frozenset(
    {"system", "stop_sequences", "top_k", "thinking", "context_management", "anthropic_version"}
)
"""Members of a request with `messages` that chat does not have: there the system is a message."""


def recognised(body: bytes) -> Dialect:
    """The door a request is for, by its members; chat, which then says so, for what is none.

    `input` is embedded or answered: what is put in the place of a text only there, or the model's
    name, tells which.
    """
    try:
        members, _ = top_level(body.decode(), once=frozenset())
    except (ValueError, RecursionError, RefusedError):
        return CHAT
    if "messages" in members:
        return MESSAGES if members.keys() & OF_MESSAGES else CHAT
    if "input" not in members:
        if isinstance(value_of(members, "prompt"), dict):
            return RESPONSES  # a template that a provider keeps
        return COMPLETIONS if "prompt" in members else CHAT
    given, model = value_of(members, "input"), value_of(members, "model")
    embeds = (
        bool(members.keys() & {"encoding_format", "dimensions"})
        or (isinstance(given, list) and any(not isinstance(item, dict) for item in given))
        or (isinstance(model, str) and "embed" in model.lower())
    )
    return EMBEDDINGS if embeds else RESPONSES

"""What the mock providers answer: at each door, whole or as a stream.

Made of the request alone: the same request is answered with the same words and the same usage.
"""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from arbstr.trio_runtime.mock.chat import chat
from arbstr.trio_runtime.mock.completions import completion
from arbstr.trio_runtime.mock.embeddings import embeddings
from arbstr.trio_runtime.mock.messages import count, message
from arbstr.trio_runtime.mock.responses import response
from arbstr.trio_runtime.mock.said import Read, Reply


def answered(read: Read, name: str, body: bytes, ids: Iterator[int]) -> Reply | str:
    """The answer of the provider `name` to a body at a door, or what is wrong with the body."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return "the body is not JSON"
    if not isinstance(asked, dict):
        return "the body is not a JSON object"
    if not isinstance(asked.get("model"), str):
        return "model must be a string"
    return read(asked, name, ids)


DOORS: Final[Mapping[bytes, Read]] = MappingProxyType(
    {
        b"/v1/chat/completions": chat,
        b"/v1/completions": completion,
        b"/v1/responses": response,
        b"/v1/messages": message,
        b"/v1/messages/count_tokens": count,
        b"/v1/embeddings": embeddings,
    }
)
"""Path -> how it is answered."""

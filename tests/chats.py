"""Chat requests as a machine gets them: parsed, and held to something."""

import json
from typing import Final

from arbstr.sansio.config.settings import LIKELY
from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.routing.holds import Hold

HOLD: Final = Hold(input_tokens=1, tokens=256, choices=1, allowed=None, answers=20, mode=LIKELY)
"""Of a request whose size does not matter."""


def parse(body: bytes) -> Asked | ErrorReply:
    """A chat's body as the door reads it."""
    return CHAT.parse(body, {}, b"")


def chat(model: str = "m", text: str = "hello", **members: object) -> Asked:
    """A chat of one message. `members` replace or add to what its body says."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **members}
    request = parse(json.dumps(body).encode())
    assert isinstance(request, Asked)
    return request

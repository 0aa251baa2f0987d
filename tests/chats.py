"""Chat requests as a machine gets them: parsed."""

import json

from arbstr.sansio.chat import ChatRequest, parse_chat


def chat(model: str = "m", text: str = "hello", **members: object) -> ChatRequest:
    """A chat of one message. `members` replace or add to what its body says."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **members}
    request = parse_chat(json.dumps(body).encode())
    assert isinstance(request, ChatRequest)
    return request

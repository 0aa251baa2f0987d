"""What the mock providers answer at /v1/completions."""

from collections.abc import Iterator
from typing import final

from arbstr.trio_runtime.mock.said import (
    CREATED,
    JSON,
    Asked,
    Reply,
    counts_usage,
    dump,
    limit_in,
    text_of,
    tokens_in,
    words,
)


@final
class _TextReply:
    """One text, of one choice."""

    def __init__(self, asked: Asked, limit: int | None, name: str, ident: str) -> None:
        given = asked.get("prompt")
        said = given if isinstance(given, str) else text_of(given)
        self.stream = asked.get("stream") is True
        self._counts = counts_usage(asked)
        parts = words(name, asked["model"], said)
        self._parts = parts[:limit]
        self._finish = "stop" if len(self._parts) == len(parts) else "length"
        self._head: JSON = {
            "id": ident,
            "object": "text_completion",
            "created": CREATED,
            "model": asked["model"],
        }
        prompt = tokens_in(said)
        self._usage: JSON = {
            "prompt_tokens": prompt,
            "completion_tokens": len(self._parts),
            "total_tokens": prompt + len(self._parts),
        }

    def _choice(self, text: str, finish: str | None = None) -> JSON:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice]}

    def whole(self) -> JSON:
        """A `text_completion` object."""
        return {**self._choice("".join(self._parts), self._finish), "usage": self._usage}

    def events(self) -> Iterator[bytes]:
        """The same a word at a time, then the usage if asked, and [DONE]."""
        for part in self._parts:
            yield b"data: %b\n\n" % dump(self._choice(part))
        yield b"data: %b\n\n" % dump(self._choice("", self._finish))
        if self._counts:
            yield b"data: %b\n\n" % dump({**self._head, "choices": [], "usage": self._usage})
        yield b"data: [DONE]\n\n"


def completion(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    """A text that goes on with the prompt."""
    if not isinstance(asked.get("prompt"), str | list):
        return "prompt must be a string or a list"
    limit = limit_in(asked, "max_tokens")
    if isinstance(limit, str):
        return limit
    return _TextReply(asked, limit, name, f"cmpl-{name}-{next(ids)}")

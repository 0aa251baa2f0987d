"""What the mock providers answer at /v1/messages, and below it to who counts tokens."""

import json
from collections.abc import Iterator
from typing import final

from arbstr.trio_runtime.mock.said import (
    JSON,
    Asked,
    Reply,
    call_of,
    dump,
    limit_in,
    pieces,
    text_of,
    tokens_in,
    words,
)


@final
class _Message:
    """One block: a text, or the call of a tool that is forced."""

    def __init__(
        self, asked: Asked, limit: int, tool: tuple[str, str] | None, name: str, ident: str
    ) -> None:
        contents = [m.get("content") for m in asked["messages"] if m.get("role") == "user"]
        said = text_of(contents[-1]) if contents else ""
        self.stream = asked.get("stream") is True
        self._tool = tool
        self._ident = ident
        self._model = asked["model"]
        # A limit cuts words, never a tool call: its arguments must remain JSON.
        text = words(name, self._model, said)
        self._parts = text[:limit] if tool is None else pieces(tool[1])
        cut = tool is None and len(self._parts) < len(text)
        self._reason = "tool_use" if tool is not None else "max_tokens" if cut else "end_turn"
        self._prompt = _prompt_tokens(asked)

    def _message(self, content: list[JSON], reason: str | None, count: int) -> JSON:
        usage = {
            "input_tokens": self._prompt,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": count,
        }
        return {
            "id": self._ident,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def _block(self, text: str) -> JSON:
        if self._tool is None:
            return {"type": "text", "text": text}
        call = {"id": f"toolu-{self._ident}", "name": self._tool[0]}
        return {"type": "tool_use", **call, "input": json.loads(text or "{}")}

    def whole(self) -> JSON:
        """A `message` object."""
        block = self._block("".join(self._parts))
        return self._message([block], self._reason, len(self._parts))

    def events(self) -> Iterator[bytes]:
        """The same as events, a word at a time."""
        for event in self._steps():
            yield b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), dump(event))

    def _steps(self) -> Iterator[JSON]:
        yield {"type": "message_start", "message": self._message([], None, 0)}
        yield {"type": "content_block_start", "index": 0, "content_block": self._block("")}
        kind, member = ("text_delta", "text")
        if self._tool is not None:
            kind, member = ("input_json_delta", "partial_json")
        for part in self._parts:
            delta = {"type": kind, member: part}
            yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield {"type": "content_block_stop", "index": 0}
        ended = {"stop_reason": self._reason, "stop_sequence": None}
        usage = {"output_tokens": len(self._parts)}
        yield {"type": "message_delta", "delta": ended, "usage": usage}
        yield {"type": "message_stop"}


@final
class _Count:
    """How many tokens a request would have."""

    stream = False

    def __init__(self, asked: Asked) -> None:
        self._prompt = _prompt_tokens(asked)

    def whole(self) -> JSON:
        """Its only member."""
        return {"input_tokens": self._prompt}

    def events(self) -> Iterator[bytes]:
        """There is no stream of it."""
        return iter(())


def _prompt_tokens(asked: Asked) -> int:
    texts = (text_of(message.get("content")) for message in asked["messages"])
    return tokens_in(text_of(asked.get("system")), *texts)


def _wrong(asked: Asked) -> str | None:
    messages = asked.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return "messages must be a list of objects"
    return None


def _forced(tools: object, choice: object) -> tuple[str, str] | str | None:
    """The call a `tool_choice` forces: the tool it names, the first one if `any`."""
    kind = choice.get("type") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or kind not in ("any", "tool"):
        return None
    return call_of(tools, choice.get("name") if kind == "tool" else None, "input_schema")


def message(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    """A Message."""
    limit = limit_in(asked, "max_tokens")
    wrong = "max_tokens is missing" if limit is None else _wrong(asked)
    if wrong is not None or not isinstance(limit, int):
        return wrong or str(limit)
    tool = _forced(asked.get("tools"), asked.get("tool_choice"))
    if isinstance(tool, str):
        return tool
    return _Message(asked, limit, tool, name, f"msg-{name}-{next(ids)}")


def count(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    """The count of a Message's tokens."""
    return _wrong(asked) or _Count(asked)

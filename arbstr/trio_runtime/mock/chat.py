"""What the mock providers answer at /v1/chat/completions."""

from collections.abc import Iterator
from typing import Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.trio_runtime.mock.said import (
    CREATED,
    JSON,
    Asked,
    Reply,
    call_of,
    counts_usage,
    dump,
    limit_in,
    pieces,
    text_of,
    tokens_in,
    words,
)

_MAX_CHOICES: Final = 128
"""The largest `n` the OpenAI API takes."""


@final
@dataclass(frozen=True, slots=True)
class _Chat:
    """What a mock reads of a request. `tool` is the call to make: a name and JSON arguments."""

    model: str
    stream: bool
    include_usage: bool
    choices: int
    max_tokens: int | None
    said: str
    prompt_tokens: int
    tool: tuple[str, str] | None


def _read_chat(asked: Asked) -> _Chat | str:
    """The chat in a body, or what is wrong with it in a sentence."""
    messages = asked.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return "messages must be a list of objects"
    texts = [(message.get("role"), text_of(message.get("content"))) for message in messages]
    choices = 1 if asked.get("n") is None else asked["n"]
    if type(choices) is not int or not 1 <= choices <= _MAX_CHOICES:
        return f"n must be a whole number from 1 to {_MAX_CHOICES}"
    limit = limit_in(asked, "max_completion_tokens", "max_tokens")
    if isinstance(limit, str):
        return limit
    tool = _forced(asked.get("tools"), asked.get("tool_choice"))
    if isinstance(tool, str):
        return tool
    return _Chat(
        model=asked["model"],
        stream=asked.get("stream") is True,
        include_usage=counts_usage(asked),
        choices=choices,
        max_tokens=limit,
        said=next((text for role, text in reversed(texts) if role == "user"), ""),
        prompt_tokens=tokens_in(*(text for _, text in texts)),
        tool=tool,
    )


def _forced(tools: object, choice: object) -> tuple[str, str] | str | None:
    """The call a `tool_choice` forces: the function it names, the first one if "required"."""
    wanted = None
    if isinstance(choice, dict):
        function = choice.get("function")
        wanted = function.get("name") if isinstance(function, dict) else None
    elif choice != "required":
        return None
    given = tools if isinstance(tools, list) else []
    functions = [tool.get("function") for tool in given if isinstance(tool, dict)]
    return call_of(functions, wanted, "parameters")


@final
class _ChatReply:
    """The answer to one chat, whole or as a stream, in OpenAI's shapes."""

    def __init__(self, ident: str, chat: _Chat, parts: tuple[str, ...]) -> None:
        self.stream = chat.stream
        self._ident = ident
        self._chat = chat
        # A limit cuts words, never a tool call: its arguments must remain JSON.
        cut = chat.tool is None and chat.max_tokens is not None and chat.max_tokens < len(parts)
        self._parts = parts[: chat.max_tokens] if cut else parts
        self._finish = "tool_calls" if chat.tool is not None else "length" if cut else "stop"

    def whole(self) -> JSON:
        """A `chat.completion` object."""
        text = "".join(self._parts)
        if self._chat.tool is None:
            message: JSON = {"role": "assistant", "content": text, "refusal": None}
        else:
            calls = [self._call(text)]
            message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": self._finish}
            for index in range(self._chat.choices)
        ]
        return {**self._envelope("chat.completion"), "choices": choices, "usage": self._usage()}

    def events(self) -> Iterator[bytes]:
        """The same as server-sent events: role, parts, finish reason, usage if asked, [DONE]."""
        yield self._step({"role": "assistant", "content": "" if self._chat.tool is None else None})
        if self._chat.tool is not None:
            yield self._step({"tool_calls": [{"index": 0, **self._call("")}]})
        for part in self._parts:
            if self._chat.tool is None:
                yield self._step({"content": part})
            else:
                yield self._step({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        yield self._step({}, self._finish)
        if self._chat.include_usage:
            yield self._event([], self._usage())
        yield b"data: [DONE]\n\n"

    def _step(self, delta: JSON, finish: str | None = None) -> bytes:
        """The same delta for every choice, an event each."""
        return b"".join(
            self._event(
                [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
            )
            for index in range(self._chat.choices)
        )

    def _event(self, choices: list[JSON], usage: JSON | None = None) -> bytes:
        chunk = {**self._envelope("chat.completion.chunk"), "choices": choices}
        if self._chat.include_usage:
            chunk["usage"] = usage  # null but in the last chunk, as OpenAI does when asked
        return b"data: %b\n\n" % dump(chunk)

    def _envelope(self, kind: str) -> dict[str, object]:
        return {"id": self._ident, "object": kind, "created": CREATED, "model": self._chat.model}

    def _call(self, arguments: str) -> JSON:
        name = self._chat.tool[0] if self._chat.tool is not None else ""
        function = {"name": name, "arguments": arguments}
        return {"id": f"call-{self._ident}", "type": "function", "function": function}

    def _usage(self) -> JSON:
        prompt, completion = self._chat.prompt_tokens, len(self._parts) * self._chat.choices
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def chat(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    """A chat completion."""
    given = _read_chat(asked)
    if isinstance(given, str):
        return given
    call = given.tool
    parts = words(name, given.model, given.said) if call is None else pieces(call[1])
    return _ChatReply(f"chatcmpl-{name}-{next(ids)}", given, parts)

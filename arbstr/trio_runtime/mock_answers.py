"""What the mock providers answer: at each door, whole or as a stream, in OpenAI's shapes.

Made of the request alone: the same request is answered with the same words and the same usage. A
word counts as one token of output, four bytes of text as one of input. A forced tool is called
with a specimen for every argument its schema requires.
"""

import base64
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias, final

JSON: TypeAlias = Mapping[str, object]
Asked: TypeAlias = Mapping[str, Any]

CREATED: Final = 1_767_225_600
"""Unix seconds, 2026-01-01: a fixed `created`, so that answers can be compared."""
_BYTES_A_TOKEN: Final = 4
"""What a token is taken for; English text in OpenAI's tokenizers comes near it."""
_QUOTED: Final = 400
"""Characters of the user's text that an answer repeats: enough to recognise it (picked)."""
_MAX_CHOICES: Final = 128
"""The largest `n` the OpenAI API takes."""
_DIMENSIONS: Final = 8
"""Numbers of an embedding that nobody asked for in another length (picked)."""


class Reply(Protocol):
    """One answer; `stream`: it is to be one."""

    @property
    def stream(self) -> bool: ...

    def whole(self) -> JSON:
        """As one object."""

    def events(self) -> Iterator[bytes]:
        """As server-sent events."""


Read: TypeAlias = Callable[[Asked, str, Iterator[int]], Reply | str]
"""A body, the provider's name, numbers for ids -> the answer, or what is wrong with the body."""


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


def dump(value: JSON) -> bytes:
    """JSON in one line of ASCII."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _tokens(*texts: str) -> int:
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return max(1, -(-size // _BYTES_A_TOKEN))


def _words(name: str, model: str, said: str) -> tuple[str, ...]:
    first, *rest = f"Hello from {name} ({model}). You said: {said[:_QUOTED]}".split(" ")
    return (first, *(f" {word}" for word in rest))


# -- chat


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
    texts = [(message.get("role"), _text(message.get("content"))) for message in messages]
    choices = 1 if asked.get("n") is None else asked["n"]
    if type(choices) is not int or not 1 <= choices <= _MAX_CHOICES:
        return f"n must be a whole number from 1 to {_MAX_CHOICES}"
    limits = (asked.get("max_completion_tokens"), asked.get("max_tokens"))
    limit = next((limit for limit in limits if limit is not None), None)
    if limit is not None and (type(limit) is not int or limit < 1):
        return "max_completion_tokens and max_tokens must be whole numbers above 0"
    tool = _tool_call(asked.get("tools"), asked.get("tool_choice"))
    if isinstance(tool, str):
        return tool
    options = asked.get("stream_options")
    return _Chat(
        model=asked["model"],
        stream=asked.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        choices=choices,
        max_tokens=limit,
        said=next((text for role, text in reversed(texts) if role == "user"), ""),
        prompt_tokens=_tokens(*(text for _, text in texts)),
        tool=tool,
    )


def _text(content: object) -> str:
    """The text of a message: a string, or all its text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return " ".join(part for part in parts if isinstance(part, str))


def _tool_call(tools: object, choice: object) -> tuple[str, str] | str | None:
    """The call a `tool_choice` forces: the function it names, the first one if "required".

    None: no call is forced. A string: why the choice cannot be met.
    """
    wanted = None
    if isinstance(choice, dict):
        function = choice.get("function")
        wanted = function.get("name") if isinstance(function, dict) else None
    elif choice != "required":
        return None
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(function, dict) and isinstance(name, str) and wanted in (None, name):
            return name, _arguments(function.get("parameters"))
    return "tool_choice names no function of tools"


_SPECIMENS: Final[JSON] = {
    "string": "mock",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "array": (),
    "object": {},
}
"""JSON Schema type -> what a mock passes for an argument of it; null for any other."""


def _arguments(schema: object) -> str:
    """JSON arguments with a specimen for every property a function's schema requires."""
    if not isinstance(schema, dict):
        return "{}"
    properties, required = schema.get("properties"), schema.get("required")
    arguments: dict[str, object] = {}
    for name in required if isinstance(required, list) else ():
        rule = properties.get(name) if isinstance(properties, dict) and type(name) is str else None
        kind = rule.get("type") if isinstance(rule, dict) else None
        arguments[str(name)] = _SPECIMENS.get(kind) if isinstance(kind, str) else None
    return json.dumps(arguments, separators=(",", ":"))


def _parts(name: str, chat: _Chat) -> tuple[str, ...]:
    """What the model says, a word or a piece of JSON at a time: each counts as one token."""
    if chat.tool is not None:
        arguments = chat.tool[1]
        return tuple(arguments[i : i + 8] for i in range(0, len(arguments), 8))
    return _words(name, chat.model, chat.said)


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


def _chat(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    chat = _read_chat(asked)
    if isinstance(chat, str):
        return chat
    return _ChatReply(f"chatcmpl-{name}-{next(ids)}", chat, _parts(name, chat))


# -- completions


@final
class _TextReply:
    """One text, of one choice."""

    def __init__(self, asked: Asked, name: str, ident: str) -> None:
        given = asked.get("prompt")
        said = given if isinstance(given, str) else _text(given)
        options = asked.get("stream_options")
        self.stream = asked.get("stream") is True
        self._counts = isinstance(options, dict) and options.get("include_usage") is True
        self._parts = _words(name, asked["model"], said)
        self._head: JSON = {
            "id": ident,
            "object": "text_completion",
            "created": CREATED,
            "model": asked["model"],
        }
        prompt = _tokens(said)
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
        return {**self._choice("".join(self._parts), "stop"), "usage": self._usage}

    def events(self) -> Iterator[bytes]:
        """The same a word at a time, then the usage if asked, and [DONE]."""
        for part in self._parts:
            yield b"data: %b\n\n" % dump(self._choice(part))
        yield b"data: %b\n\n" % dump(self._choice("", "stop"))
        if self._counts:
            yield b"data: %b\n\n" % dump({**self._head, "choices": [], "usage": self._usage})
        yield b"data: [DONE]\n\n"


def _completion(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    return _TextReply(asked, name, f"cmpl-{name}-{next(ids)}")


# -- responses


@final
class _Response:
    """One message, or the call of a tool that is forced."""

    def __init__(self, asked: Asked, name: str, ident: str) -> None:
        given = asked["input"]
        items = given if isinstance(given, list) else [{"role": "user", "content": given}]
        texts = [
            (item.get("role"), _text(item.get("content") or item.get("output")))
            for item in items
            if isinstance(item, dict)
        ]
        said = next((text for role, text in reversed(texts) if role == "user"), "")
        self.stream = asked.get("stream") is True
        self._tool = _tool_call(
            [{"function": tool} for tool in asked.get("tools") or ()], asked.get("tool_choice")
        )
        self._ident = ident
        self._model = asked["model"]
        words: tuple[str, ...] = _words(name, self._model, said)
        if isinstance(self._tool, tuple):
            arguments = self._tool[1]
            words = tuple(arguments[i : i + 8] for i in range(0, len(arguments), 8))
        limit = asked.get("max_output_tokens")
        self._cut = type(limit) is int and 0 < limit < len(words) and self._tool is None
        self._parts: tuple[str, ...] = words[:limit] if self._cut else words
        self._prompt = _tokens(*(text for _, text in texts))

    def _response(self, status: str, output: list[JSON], usage: JSON | None) -> JSON:
        why = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._ident,
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "error": None,
            "incomplete_details": why,
            "model": self._model,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage,
        }

    def _item(self, status: str, text: str | None) -> JSON:
        if isinstance(self._tool, tuple):
            call = {"call_id": f"call-{self._ident}", "name": self._tool[0]}
            ident = f"fc-{self._ident}"
            given = {"id": ident, "type": "function_call", "status": status, **call}
            return {**given, "arguments": text or ""}
        part: JSON = {"type": "output_text", "text": text, "annotations": []}
        return {
            "id": f"msg-{self._ident}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [] if text is None else [part],
        }

    def whole(self) -> JSON:
        """A `response` object."""
        count = len(self._parts)
        usage = {
            "input_tokens": self._prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": count,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._prompt + count,
        }
        status = "incomplete" if self._cut else "completed"
        return self._response(status, [self._item(status, "".join(self._parts))], usage)

    def events(self) -> Iterator[bytes]:
        """The same as events, a word at a time."""
        for number, event in enumerate(self._steps()):
            told = {"type": event["type"], "sequence_number": number, **event}
            yield b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), dump(told))

    def _steps(self) -> Iterator[JSON]:
        begun, whole = self._response("in_progress", [], None), self.whole()
        item = self._item("in_progress", None)
        place = {"item_id": item["id"], "output_index": 0}
        text, status = "".join(self._parts), str(whole["status"])
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        if isinstance(self._tool, tuple):
            kind = "response.function_call_arguments"
            for part in self._parts:
                yield {"type": f"{kind}.delta", **place, "delta": part}
            yield {"type": f"{kind}.done", **place, "arguments": text}
        else:
            place["content_index"] = 0
            part_of = {"type": "output_text", "annotations": []}
            part_added = {**part_of, "text": ""}
            yield {"type": "response.content_part.added", **place, "part": part_added}
            for part in self._parts:
                told = {**place, "delta": part, "logprobs": []}
                yield {"type": "response.output_text.delta", **told}
            yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
            yield {"type": "response.content_part.done", **place, "part": {**part_of, "text": text}}
        done = self._item(status, text)
        yield {"type": "response.output_item.done", "output_index": 0, "item": done}
        yield {"type": f"response.{status}", "response": whole}


def _responses(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    if not isinstance(asked.get("input"), str | list):
        return "input must be a string or a list"
    return _Response(asked, name, f"resp-{name}-{next(ids)}")


# -- embeddings


@final
class _Embeddings:
    """A vector of numbers between -1 and 1 for each text, always the same for the same one."""

    stream: Final = False

    def __init__(self, asked: Asked) -> None:
        given = asked.get("input")
        one = not isinstance(given, list) or (bool(given) and isinstance(given[0], int))
        self._texts = [given] if one else given
        self._model = asked["model"]
        length = asked.get("dimensions")
        self._length = length if type(length) is int and 0 < length <= 4096 else _DIMENSIONS
        self._packed = asked.get("encoding_format") == "base64"

    def _vector(self, given: object) -> object:
        seed = sum(json.dumps(given).encode())
        numbers = [((seed + 37 * at) % 201 - 100) / 100 for at in range(self._length)]
        if self._packed:
            return base64.b64encode(struct.pack(f"<{self._length}f", *numbers)).decode()
        return numbers

    def whole(self) -> JSON:
        """A list of embeddings."""
        data = [
            {"object": "embedding", "index": index, "embedding": self._vector(given)}
            for index, given in enumerate(self._texts or ())
        ]
        count = sum(
            len(given) if isinstance(given, list) else _tokens(str(given))
            for given in self._texts or ()
        )
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    def events(self) -> Iterator[bytes]:
        """There is no stream of them."""
        return iter(())


def _embeddings(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    if not isinstance(asked.get("input"), str | list):
        return "input must be a string or a list"
    return _Embeddings(asked)


DOORS: Final[Mapping[bytes, Read]] = MappingProxyType(
    {
        b"/v1/chat/completions": _chat,
        b"/v1/completions": _completion,
        b"/v1/responses": _responses,
        b"/v1/embeddings": _embeddings,
    }
)
"""Path -> how it is answered."""

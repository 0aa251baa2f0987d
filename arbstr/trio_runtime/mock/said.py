"""What all mock answers are made of: words, counts of tokens, and calls of tools.

A word counts as one token of output, four bytes of text as one of input. A forced tool is called
with a specimen for every argument its schema requires.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeAlias

JSON: TypeAlias = Mapping[str, object]
Asked: TypeAlias = Mapping[str, Any]

CREATED: Final = 1_767_225_600
"""Unix seconds, 2026-01-01: a fixed `created`, so that answers can be compared."""
_BYTES_A_TOKEN: Final = 4
"""What a token is taken for; English text in OpenAI's tokenizers comes near it."""
_QUOTED: Final = 400
"""Characters of the user's text that an answer repeats: enough to recognise it (picked)."""


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


def dump(value: JSON) -> bytes:
    """JSON in one line of ASCII."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def tokens_in(*texts: str) -> int:
    """Of input."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return max(1, -(-size // _BYTES_A_TOKEN))


def words(name: str, model: str, said: str) -> tuple[str, ...]:
    """What the model of a provider says to a text, a word at a time: each counts as one token."""
    first, *rest = f"Hello from {name} ({model}). You said: {said[:_QUOTED]}".split(" ")
    return (first, *(f" {word}" for word in rest))


def text_of(content: object) -> str:
    """The text of a message: a string, or all its text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return " ".join(part for part in parts if isinstance(part, str))


def counts_usage(asked: Asked) -> bool:
    """Whether a stream at OpenAI's older doors is to tell its usage."""
    options = asked.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def limit_in(asked: Asked, *names: str) -> int | str | None:
    """The most tokens of output: the first of these members that is there, or what is wrong."""
    for name in names:
        limit = asked.get(name)
        if type(limit) is int and limit > 0:
            return limit
        if limit is not None:
            return f"{name} must be a whole number above 0"
    return None


def call_of(tools: object, wanted: object, schema: str) -> tuple[str, str] | str:
    """The call of the tool `wanted`, None for the first: its name and JSON arguments.

    `schema` is the member that says which arguments it takes. One string: there is no such tool.
    """
    for tool in tools if isinstance(tools, list) else ():
        name = tool.get("name") if isinstance(tool, dict) else None
        if isinstance(name, str) and wanted in (None, name):
            return name, _arguments(tool.get(schema))
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


def pieces(arguments: str) -> tuple[str, ...]:
    """JSON in the pieces a stream has it in; each counts as one token."""
    return tuple(arguments[i : i + 8] for i in range(0, len(arguments), 8))

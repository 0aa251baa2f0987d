"""What the mock providers answer at /v1/responses."""

from collections.abc import Iterator
from typing import final

from arbstr.trio_runtime.mock.said import (
    CREATED,
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
class _Response:
    """One message, or the call of a tool that is forced."""

    def __init__(
        self,
        asked: Asked,
        limit: int | None,
        tool: tuple[str, str] | None,
        name: str,
        ident: str,
    ) -> None:
        given = asked["input"]
        items = given if isinstance(given, list) else [{"role": "user", "content": given}]
        texts = [
            (item.get("role"), text_of(item.get("content") or item.get("output")))
            for item in items
            if isinstance(item, dict)
        ]
        said = next((text for role, text in reversed(texts) if role == "user"), "")
        self.stream = asked.get("stream") is True
        self._tool = tool
        self._ident = ident
        self._model = asked["model"]
        # A limit cuts words, never a tool call: its arguments must remain JSON.
        parts = words(name, self._model, said) if tool is None else pieces(tool[1])
        self._parts = parts[:limit] if tool is None else parts
        self._cut = len(self._parts) < len(parts)
        self._prompt = tokens_in(*(text for _, text in texts))

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
        if self._tool is not None:
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
        if self._tool is not None:
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


def _forced(tools: object, choice: object) -> tuple[str, str] | str | None:
    """The call a `tool_choice` forces: the function it names, the first one if "required"."""
    wanted = choice.get("name") if isinstance(choice, dict) else None
    if wanted is None and choice != "required":
        return None
    return call_of(tools, wanted, "parameters")


def response(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    """A Response."""
    if not isinstance(asked.get("input"), str | list):
        return "input must be a string or a list"
    limit = limit_in(asked, "max_output_tokens")
    if isinstance(limit, str):
        return limit
    tool = _forced(asked.get("tools"), asked.get("tool_choice"))
    if isinstance(tool, str):
        return tool
    return _Response(asked, limit, tool, name, f"resp-{name}-{next(ids)}")

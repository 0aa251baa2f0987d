"""A plain Message: judged, put together from a stream, or turned into one.

    judge(body)     -> Answer       JSON object with an array `content`, ended; or a stream in spite
                                    of `stream: false`, put together
                       ErrorAnswer  an error in a 2xx: nothing was answered
                       BadAnswer    anything else, with a sentence of our own that says what
    as_stream(body) -> bytes        the events by which it would have come

An empty `content` with a `stop_reason` is an answer: a model may have nothing to add to what its
tools gave.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from arbstr.sansio.dialects.complaints import complains, is_error, names_failure, read_data
from arbstr.sansio.dialects.dialect import Answer, BadAnswer, ErrorAnswer, Facts, Verdict
from arbstr.sansio.dialects.messages.events import (
    MessagesReading,
    counts_of,
    object_of,
    read_usage,
)
from arbstr.sansio.dialects.sse import BOM, Event, is_stream, typed
from arbstr.sansio.dialects.usage import (
    Counts,
    parse_finite,
    parse_json,
    priced,
    read_counts,
    read_stated_cost,
)
from arbstr.sansio.dialects.whole import Streamed, read_through, what_else

_Plain: TypeAlias = "dict[str, Any]"

_PIECES: Final[Mapping[str, tuple[str, str]]] = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
}
"""Type of a block -> the type of its deltas, and the member in which its text stands in both."""
_CALLS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""Types of blocks whose `input` comes in pieces of JSON."""
_APPENDED: Final[Mapping[str, str]] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}
"""Type of a delta -> the member of the block that its own of that name continues."""


def judge(body: bytes, content_type: str) -> Verdict:
    """What the whole body of a 2xx answer is. Bytes decide, the type is only for sentences."""
    text = body.removeprefix(BOM).strip()
    if not text:
        return BadAnswer("answered with nothing at all")
    if is_stream(text):
        return _put_together(body)
    value = parse_json(text)
    if isinstance(value, list) and (facts := read_data(text, _facts)).error:
        return ErrorAnswer(text, *priced(facts.counts, facts.provider_cost_msats, said=False))
    if not isinstance(value, dict):
        return BadAnswer(what_else(text, content_type))
    content = value.get("content")
    said = isinstance(content, list) and bool(content)
    usage, cost, counted = priced(_counts(value), read_stated_cost(value), said=said)
    failed = names_failure(value.get("stop_reason"))
    if not said and (failed or is_error(value) or (content is None and complains(value))):
        return ErrorAnswer(text, usage, cost, counted)
    if failed:
        return BadAnswer("answered with a part, which ended with an error", usage, cost)
    if not isinstance(content, list):
        return BadAnswer("answered with JSON that has no content", usage, cost)
    if not content and value.get("stop_reason") is None:
        return BadAnswer("answered with a message without content", usage, cost)
    return Answer(body, usage, cost)


def _counts(value: Mapping[str, object]) -> Counts | None:
    seen: dict[str, int] = {}
    for holder in (value, object_of(value.get("error"))):
        read_usage(object_of(holder.get("usage")), seen)
    # In the names of another protocol, or deeper in an error, they are counts as well.
    return counts_of(seen) or read_counts(value)


def _facts(value: Mapping[str, object]) -> Facts:
    return Facts(
        error=is_error(value), counts=_counts(value), provider_cost_msats=read_stated_cost(value)
    )


def _put_together(body: bytes) -> Verdict:
    told = read_through(MessagesReading(), body, lacks="content")
    if not isinstance(told, Streamed):
        return told
    return Answer(json.dumps(_assembled(told.events)).encode(), told.usage, told.cost)


def _assembled(events: Iterable[Event]) -> _Plain:
    """The message that the events of a complete stream make."""
    message: _Plain = {"type": "message", "role": "assistant"}
    blocks: dict[int, _Plain] = {}
    calls: dict[int, str] = {}
    usage: _Plain = {}
    for event in events:
        value = parse_finite(event.data or b"")
        if not isinstance(value, dict):
            continue
        index, delta = value.get("index"), value.get("delta")
        index = index if type(index) is int else max(blocks, default=0)
        match value.get("type"):
            case "message_start":
                message |= object_of(value.get("message"))
                usage |= object_of(message.get("usage"))
            case "content_block_start":
                blocks[index] = dict(object_of(value.get("content_block")))
            case "content_block_delta" if isinstance(delta, dict):
                block = blocks.setdefault(index, {"type": "text"})
                if delta.get("type") == "input_json_delta":
                    calls[index] = calls.get(index, "") + str(delta.get("partial_json") or "")
                else:
                    _continue(block, delta)
            case "message_delta":
                message |= object_of(delta)
                usage |= {
                    name: given
                    for name, given in object_of(value.get("usage")).items()
                    if given or not usage.get(name)
                }
            case _:
                pass
    for index, text in calls.items():
        given = parse_finite(text.encode()) if text.strip() else {}
        blocks[index]["input"] = given if given is not None else text
    message["content"] = [blocks[index] for index in sorted(blocks)]
    if usage:
        message["usage"] = usage
    return message


def _continue(block: _Plain, delta: Mapping[str, object]) -> None:
    name = _APPENDED.get(str(delta.get("type")))
    if name is not None:
        block[name] = str(block.get(name) or "") + str(delta.get(name) or "")
    elif delta.get("type") == "citations_delta":
        block["citations"] = [*(block.get("citations") or []), delta.get("citation")]


def as_stream(answer_body: bytes) -> bytes:
    """A body that was judged an answer, as events for a fresh reading; b"" for no JSON object."""
    value = parse_finite(answer_body.removeprefix(BOM))
    if not isinstance(value, dict):
        return b""
    try:
        return b"".join(map(typed, _events(value)))
    except RecursionError:
        return b""


def _events(message: _Plain) -> Iterator[_Plain]:
    # What it cost is said at the end.
    apart = ("usage", "cost", "metadata", "content", "stop_reason", "stop_sequence")
    begun = {name: given for name, given in message.items() if name not in apart}
    usage = object_of(message.get("usage"))
    begun |= {"content": [], "stop_reason": None, "stop_sequence": None}
    begun["usage"] = {**usage, "output_tokens": 0} if usage else {}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(message["content"]):
        if isinstance(block, dict):
            yield from _block_events(block, index)
    ended = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    ended["stop_reason"] = ended["stop_reason"] or "end_turn"
    beside: _Plain = {name: message[name] for name in ("cost", "metadata") if name in message}
    yield {"type": "message_delta", "delta": ended, "usage": dict(usage), **beside}
    yield {"type": "message_stop"}


def _block_events(block: _Plain, index: int) -> Iterator[_Plain]:
    kind = str(block.get("type"))
    begun, deltas = dict(block), []
    piece = _PIECES.get(kind)
    if piece is not None and isinstance(text := block.get(piece[1]), str):
        begun[piece[1]] = ""
        deltas.append({"type": piece[0], piece[1]: text})
    if kind == "thinking" and isinstance(signature := block.get("signature"), str):
        begun["signature"] = ""
        deltas.append({"type": "signature_delta", "signature": signature})
    if kind in _CALLS and isinstance(given := block.get("input"), dict):
        begun["input"] = {}
        deltas.append({"type": "input_json_delta", "partial_json": json.dumps(given)})
    yield {"type": "content_block_start", "index": index, "content_block": begun}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}

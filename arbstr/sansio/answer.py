"""A plain (not streamed) answer: judged, put together from a stream, or turned into one.

    judge(body)     -> Answer        JSON object with a non-empty array `choices`; or a stream in
                                     spite of `stream: false`, put together into such an object
                       ErrorAnswer   an error object in a 2xx: nothing was answered
                       BadAnswer     anything else, with a sentence of our own that says what
    as_stream(body) -> bytes         an answer as the stream the client asked for

Bytes decide, the content type is only named in sentences. The rule is strict because a 200 with
a broken body is worse than an error: the OpenAI SDKs make objects with `choices=None` of it.

An answer that has choices is an answer, whatever else it holds: it was paid for. `content: ""`
is one, too.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias, final

from arbstr.sansio.money import Usage
from arbstr.sansio.sse import SSEReader
from arbstr.sansio.usage import parse_json, read_event, read_price

_BOM: Final = b"\xef\xbb\xbf"
_SSE_LINE: Final = re.compile(rb"(?:data|event|id|retry)?:")
"""How a stream begins: a field, or a comment."""
_DONE_AFTER_JSON: Final = re.compile(rb"\s+data: ?\[DONE\]\s*\Z")
"""Some gateways end every answer with it, JSON too."""

APPENDED: Final = frozenset(
    {
        "content",
        "reasoning",
        "reasoning_content",
        "thinking",
        "refusal",
        "text",  # of a part in a list, and of legacy completions
        "arguments",
        "data",  # of audio
        "transcript",
        "summary",  # of reasoning_details
    }
)
"""Members whose strings come in pieces. All others (`role`, `id`, `type`, `name`) come whole."""

_Plain: TypeAlias = "dict[str, object]"


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is what the client gets: the object that was judged if nothing had to change."""

    body: bytes
    usage: Usage | None
    provider_cost_msats: Decimal | None


@final
@dataclass(frozen=True, slots=True)
class BadAnswer:
    """No answer, but probably paid for. `sentence` begins in lower case and has no full stop."""

    sentence: str


@final
@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """`data` is the JSON of a provider's error, for `failure.from_error_body`."""

    data: bytes


def judge(body: bytes, *, content_type: str, choices: int) -> Answer | BadAnswer | ErrorAnswer:
    """What the whole body of a 2xx answer is. `choices` is the request's `n`.

    `content_type` is the header's value, "" if there is none; it decides nothing.
    """
    text = body.removeprefix(_BOM).strip()
    if not text:
        return BadAnswer("answered with nothing at all")
    if _SSE_LINE.match(text):
        return _put_together(body, choices)
    value = parse_json(text)
    if value is None and (tail := _DONE_AFTER_JSON.search(text)) is not None:
        body = text[: tail.start()]
        value = parse_json(body)
    if not isinstance(value, dict):
        return BadAnswer(_what_else(text, content_type))
    listed = value.get("choices")
    if isinstance(listed, list) and listed and all(isinstance(one, dict) for one in listed):
        return Answer(body, *read_price(value))
    detail = value.get("detail")  # FastAPI, so Routstr, wraps errors in it
    if (
        value.get("error")
        or value.get("object") == "error"
        or (isinstance(detail, dict) and detail.get("error"))
    ):
        return ErrorAnswer(text)
    return BadAnswer("answered with JSON that has no choices")


def as_stream(answer_body: bytes) -> bytes:
    """A body that was judged an `Answer`, as events for a fresh `Relay`.

    One chunk with everything, one with the usage if there is any, and `[DONE]`, because the whole
    answer is there even if a finish reason is not (the relay writes its own to the client).
    b"" for a body that is no JSON object or that JSON cannot carry (an overflowing float).
    """
    value = parse_json(answer_body.removeprefix(_BOM))
    if not isinstance(value, dict):
        return b""
    listed = value.get("choices")
    counted = isinstance(value.get("usage"), dict)
    usage_chunk = {**value, "object": "chat.completion.chunk", "choices": []}
    apart = ("usage", "cost") if counted else ("usage",)
    chunk = {
        **{member: given for member, given in value.items() if member not in apart},
        "object": "chat.completion.chunk",
        "choices": [_as_delta(one) for one in listed if isinstance(one, dict)]
        if isinstance(listed, list)
        else [],
    }
    events = [chunk, usage_chunk] if counted else [chunk]
    try:
        texts = [json.dumps(event, separators=(",", ":"), allow_nan=False) for event in events]
    except (ValueError, RecursionError):
        return b""
    return b"".join(b"data: " + text.encode() + b"\n\n" for text in [*texts, "[DONE]"])


def _what_else(text: bytes, content_type: str) -> str:
    if text.startswith(b"<"):
        return "answered with HTML or XML, not JSON"
    if text.startswith(b"{"):
        return "answered with JSON that is cut short or broken"
    named = content_type.partition(";")[0].strip().lower()
    if named == "text/event-stream":
        return "answered with neither JSON nor a stream of events, though labelled as one"
    return "answered with something that is not a JSON object"


def _as_delta(choice: _Plain) -> _Plain:
    message = choice.get("message")
    delta: _Plain = {"role": "assistant"}
    if isinstance(message, dict):
        delta |= {member: given for member, given in message.items() if given is not None}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": position, **call} if isinstance(call, dict) else call
            for position, call in enumerate(calls)
        ]
    rest = {member: given for member, given in choice.items() if member != "message"}
    return {"index": 0, "delta": delta, "finish_reason": None, **rest}


@final
class _Pieces:
    """A string that came in pieces: joined once, so that long answers stay linear."""

    __slots__ = ("pieces",)

    def __init__(self, first: str) -> None:
        self.pieces = [first]


def _put_together(body: bytes, choices: int) -> Answer | BadAnswer | ErrorAnswer:
    """The one object that a whole stream says, if the stream is complete as relay.py defines it."""
    reader = SSEReader()
    events = reader.feed(body)
    if reader.overflow:
        return BadAnswer("answered with a stream with an event that was too large")
    whole: _Plain = {}
    merged: dict[int, _Plain] = {}
    finished: set[int] = set()
    usage: Usage | None = None
    cost: Decimal | None = None
    output = done = False
    last = reader.finish()
    for event in (*events, *last):
        data = event.data
        if not data:
            continue
        if data.lstrip().startswith(b"[DONE]") and merged:
            done = True
            break
        facts = read_event(data, output_seen=False)
        complete = sum(index < choices for index in finished) >= choices
        if (facts.error or event.name == b"error") and not complete:
            if output:
                return BadAnswer("answered with a stream that broke off with an error")
            return ErrorAnswer(data)
        if facts.garbled and event not in last and not complete:
            return BadAnswer("answered with a stream with an event that was not JSON")
        usage = facts.usage or usage
        cost = facts.provider_cost_msats if facts.provider_cost_msats is not None else cost
        value = parse_json(data)
        if facts.error or not facts.is_chunk or not isinstance(value, dict):
            continue
        output = output or facts.output
        finished.update(index for index, _ in facts.finished)
        _merge_chunk(whole, merged, value, facts.indexes)
    if not merged:
        return BadAnswer("answered with a stream without choices")
    if not done and sum(index < choices for index in finished) < choices:
        return BadAnswer("answered with a stream that ended before it was complete")
    whole["object"] = "chat.completion"
    whole["choices"] = [_as_message(merged[index]) for index in sorted(merged)]
    if "usage" in whole:
        whole["usage"] = whole.pop("usage")  # at the end, where people look for it
    try:
        text = json.dumps(whole, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        return BadAnswer("answered with a stream that JSON cannot carry")
    return Answer(text.encode(), usage, cost)


def _merge_chunk(
    whole: _Plain, merged: dict[int, _Plain], chunk: _Plain, indexes: tuple[int, ...]
) -> None:
    for member, given in chunk.items():
        if member in ("usage", "cost"):
            # The last one counts: some providers send sums so far with every chunk.
            if given is not None:
                whole[member] = given
        elif member not in ("choices", "object") and whole.get(member) in (None, "", 0):
            # The first one counts: a node's own trailer has another id and model.
            whole[member] = given
    listed = chunk.get("choices")
    told = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    for index, choice in zip(indexes, told, strict=True):
        _merge(merged.setdefault(index, {"index": index}), choice)


def _merge(into: _Plain, new: _Plain) -> None:
    """Add a piece to what is there: strings of `APPENDED` and lists grow, the rest is replaced."""
    # A loop with its own stack: nesting is the provider's choice.
    waiting: list[tuple[_Plain, _Plain]] = [(into, new)]
    while waiting:
        target, source = waiting.pop()
        for member, given in source.items():
            old = target.get(member)
            if member == "index":
                continue
            if isinstance(given, str) and member in APPENDED:
                if isinstance(old, _Pieces):
                    old.pieces.append(given)
                else:
                    target[member] = _Pieces(given)
            elif isinstance(given, dict):
                if not isinstance(old, dict):
                    old = target[member] = {}
                waiting.append((old, given))
            elif isinstance(given, list):
                if not isinstance(old, list):
                    old = target[member] = []
                waiting += _merge_list(old, given)
            elif old is None or given not in (None, ""):
                target[member] = given


def _merge_list(old: list[object], given: list[object]) -> list[tuple[_Plain, _Plain]]:
    """Add the items of a list: those with an `index` belong together, the others follow."""
    pairs: list[tuple[_Plain, _Plain]] = []
    known: dict[int, _Plain] | None = None
    for item in given:
        index = item.get("index") if isinstance(item, dict) else None
        if not isinstance(item, dict) or type(index) is not int:
            old.append(item)
            continue
        if known is None:  # only for such lists: one of tokens grows with every chunk
            known = {_index_of(one): one for one in old if isinstance(one, dict)}
        target = known.get(index)
        if target is None:
            target = known[index] = {"index": index}
            old.append(target)
        pairs.append((target, item))
    return pairs


def _as_message(choice: _Plain) -> _Plain:
    """A merged choice in the shape of a plain answer."""
    finished = _joined(choice)
    delta = finished.pop("delta", None)
    given = finished.pop("message", None)
    message: _Plain = {"role": "assistant", "content": None}
    for told in (given, delta):
        if isinstance(told, dict):
            message |= told
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        # The index is how a stream numbers them; a plain answer has their order.
        ordered = sorted(
            (call for call in calls if isinstance(call, dict)), key=lambda call: _index_of(call)
        )
        message["tool_calls"] = [
            {member: part for member, part in call.items() if member != "index"} for call in ordered
        ]
    return {"index": finished.pop("index"), "message": message, "finish_reason": None, **finished}


def _index_of(call: _Plain) -> int:
    index = call.get("index")
    return index if type(index) is int else -1


def _joined(value: _Plain) -> _Plain:
    """The same object with every `_Pieces` joined, in place."""
    waiting: list[_Plain | list[object]] = [value]
    while waiting:
        container = waiting.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for place, item in list(items):
            if isinstance(item, _Pieces):
                container[place] = "".join(item.pieces)  # type: ignore[index, call-overload]  # place fits its container
            elif isinstance(item, dict | list):
                waiting.append(item)
    return value

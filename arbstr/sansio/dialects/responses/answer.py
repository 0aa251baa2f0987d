"""A plain Response: judged, or turned into the stream the client asked for.

    judge(body)     -> Answer       JSON object with an array `output`, ended; or a stream in spite
                                    of `stream: false`, whose last event has the whole object
                       ErrorAnswer  an error in a 2xx, or a response that has failed, also in the
                                    event that says so
                       BadAnswer    anything else, with a sentence of our own that says what
    as_stream(body) -> bytes        the events by which it would have come: `response.created`,
                                    each item with its parts and their texts whole, and
                                    `response.completed` or `response.incomplete`

An answer is whole if its `status` says so, or if it has none and says something: an `output` with
nothing in it is one only where the status tells why (`incomplete`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from arbstr.sansio.dialects.complaints import complains, is_error, read_data
from arbstr.sansio.dialects.dialect import Answer, BadAnswer, ErrorAnswer, Verdict
from arbstr.sansio.dialects.responses.events import (
    ENDED,
    FAILED,
    Reading,
    error_of,
    read_object,
    stored_of,
)
from arbstr.sansio.dialects.sse import BOM, Event, is_stream, typed
from arbstr.sansio.dialects.usage import (
    parse_finite,
    parse_json,
    priced,
    read_told,
)
from arbstr.sansio.dialects.whole import Streamed, read_through, what_else

_Plain: TypeAlias = "dict[str, Any]"

_TEXT_OF: Final[Mapping[str, tuple[str, str]]] = {
    "output_text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning_text", "text"),
}
"""Type of a part -> the name of its events, and the member its text is in."""

_CALLS: Final[Mapping[str, tuple[str, str]]] = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
    "mcp_call": ("mcp_call_arguments", "arguments"),
}
"""Type of an item -> the name of its events, and the member its text is in."""


def judge(body: bytes, content_type: str) -> Verdict:
    """What the whole body of a 2xx answer is. Bytes decide, the type is only for sentences."""
    text = body.removeprefix(BOM).strip()
    if not text:
        return BadAnswer("answered with nothing at all")
    if is_stream(text):
        return _put_together(body)
    value = parse_json(text)
    if isinstance(value, list) and (facts := read_data(text, read_object)).error:
        return ErrorAnswer(text, *priced(facts.counts, facts.provider_cost_msats, said=False))
    if not isinstance(value, dict):
        return BadAnswer(what_else(text, content_type))
    output = value.get("output")
    said = isinstance(output, list) and bool(output)
    counts, stated = read_told(value)
    usage, cost, counted = priced(counts, stated, said=said)
    # The event that says so may come as the body, as any other error may.
    inside = value.get("response")
    failed = inside if output is None and isinstance(inside, dict) else value
    if failed.get("status") in FAILED:
        if failed.get("output"):
            return BadAnswer("answered with a part, which ended with an error", usage, cost)
        return ErrorAnswer(error_of(value) or text, usage, cost, counted)
    if not said and (is_error(value) or (output is None and complains(value))):
        return ErrorAnswer(text, usage, cost, counted)
    wrong = _wrong_with(value)
    if wrong is not None:
        return BadAnswer(wrong, usage, cost)
    return Answer(body, usage, cost, stored_of(value))


def _wrong_with(value: Mapping[str, object]) -> str | None:
    """Why an object without an error is no answer, or None; the rest of a sentence."""
    output, status = value.get("output"), value.get("status")
    if not isinstance(output, list):
        return "answered with JSON that has no output"
    if status is not None and status not in ENDED:
        return "answered with a response that is not finished"
    if not output and status != "incomplete":
        return "answered with a response without output"
    return None


def _put_together(body: bytes) -> Verdict:
    """The response that the last event of a stream holds, judged as the stream would have been.

    What was not kept leaves `output` empty in some last events: then it is the items that came.
    """
    reading = Reading()
    told = read_through(reading, body, lacks="output")
    if not isinstance(told, Streamed):
        return told
    value = reading.whole()
    if not value.get("output"):
        value["output"] = _items(told.events)
    wrong = _wrong_with(value)
    if not value["output"] and _said_in(told.events):
        wrong = "answered with a stream whose end lacks what was said"
    if wrong is not None:
        return BadAnswer(wrong, told.usage, told.cost)
    return Answer(json.dumps(value).encode(), told.usage, told.cost, told.stored)


def _items(events: Iterable[Event]) -> list[object]:
    """The items that are done, in their order."""
    done: dict[int, object] = {}
    for event in events:
        value = parse_finite(event.data or b"")
        if isinstance(value, dict) and value.get("type") == "response.output_item.done":
            index = value.get("output_index")
            done[index if type(index) is int else len(done)] = value.get("item")
    return [done[index] for index in sorted(done) if isinstance(done[index], dict)]


def _said_in(events: Iterable[Event]) -> bool:
    values = (parse_finite(event.data or b"") for event in events)
    return any(read_object(value).said for value in values if isinstance(value, dict))


def as_stream(answer_body: bytes) -> bytes:
    """A body that was judged an answer, as events for a fresh `Reading`; b"" for no JSON object.

    What is unknown to arbstr comes as whole items: added, and done.
    """
    value = parse_finite(answer_body.removeprefix(BOM))
    if not isinstance(value, dict):
        return b""
    try:
        return b"".join(
            typed({"type": event["type"], "sequence_number": number, **event})
            for number, event in enumerate(_events(value))
        )
    except RecursionError:
        return b""


def _events(response: _Plain) -> Iterator[_Plain]:
    status = "incomplete" if response.get("status") == "incomplete" else "completed"
    ended = {"object": "response", **response, "status": status}
    ended.setdefault("id", "resp_arbstr")
    # What it cost is said at the end.
    apart = ("usage", "cost", "metadata", "output", "status", "incomplete_details", "completed_at")
    begun = {name: given for name, given in ended.items() if name not in apart}
    begun |= {"status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        if isinstance(item, dict):
            yield from _item_events(item, index)
    yield {"type": f"response.{status}", "response": ended}


def _item_events(item: _Plain, index: int) -> Iterator[_Plain]:
    at: _Plain = {"output_index": index}
    inside: _Plain = {"item_id": item.get("id") or f"item_{index}", **at}
    call = _CALLS.get(str(item.get("type")))
    empty = {
        **item,
        **{name: [] for name in ("content", "summary") if isinstance(item.get(name), list)},
        **({call[1]: ""} if call is not None else {}),
    }
    if "status" in item:
        empty["status"] = "in_progress"
    yield {"type": "response.output_item.added", **at, "item": empty}
    for number, part in _listed(item.get("summary")):
        place = {**inside, "summary_index": number}
        yield from _part_events(part, place, "reasoning_summary_part", "reasoning_summary_text")
    for number, part in _listed(item.get("content")):
        name = _TEXT_OF.get(str(part.get("type")), (None, "text"))[0]
        yield from _part_events(part, {**inside, "content_index": number}, "content_part", name)
    if call is not None and isinstance(text := item.get(call[1]), str):
        yield {"type": f"response.{call[0]}.delta", **inside, "delta": text}
        yield {"type": f"response.{call[0]}.done", **inside, call[1]: text}
    yield {"type": "response.output_item.done", **at, "item": item}


def _listed(parts: object) -> Iterator[tuple[int, _Plain]]:
    for number, part in enumerate(parts if isinstance(parts, list) else ()):
        if isinstance(part, dict):
            yield number, part


def _part_events(part: _Plain, place: _Plain, frame: str, name: str | None) -> Iterator[_Plain]:
    member = _TEXT_OF.get(str(part.get("type")), ("", "text"))[1]
    text = part.get(member)
    told = name is not None and isinstance(text, str)
    begun = {**part, member: ""} if told else part
    if told and isinstance(part.get("annotations"), list):
        begun = {**begun, "annotations": []}
    yield {"type": f"response.{frame}.added", **place, "part": begun}
    if told:
        more: _Plain = {"logprobs": []} if name == "output_text" else {}
        yield {"type": f"response.{name}.delta", **place, "delta": text, **more}
        yield {"type": f"response.{name}.done", **place, member: text, **more}
    yield {"type": f"response.{frame}.done", **place, "part": part}

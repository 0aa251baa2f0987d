"""A plain (not streamed) answer: judged, put together from a stream, or turned into one.

    judge(body)     -> Answer        JSON object with a non-empty array `choices`, each with a
                                     message; or a stream in spite of `stream: false`, put together
                       ErrorAnswer   an error in a 2xx (facts.py): nothing was answered
                       BadAnswer     anything else, with a sentence of our own that says what
    as_stream(body) -> bytes         an answer as the stream the client asked for

Bytes decide, the content type is only named in sentences. The rule is strict because a 200 with
a broken body is worse than an error: the OpenAI SDKs make objects with `choices=None` of it.

An answer that says something is an answer, whatever stands beside it: it was paid for. So is one
with `content: ""`, if no error stands beside it.
"""

import json
import re
from typing import Final, TypeAlias

from arbstr.sansio.dialects.chat.assembly import assembled
from arbstr.sansio.dialects.chat.ending import CHUNK
from arbstr.sansio.dialects.chat.facts import read_event, read_object
from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.dialect import Answer, BadAnswer, ErrorAnswer, Verdict
from arbstr.sansio.dialects.sse import BOM, is_stream
from arbstr.sansio.dialects.usage import parse_finite, parse_json
from arbstr.sansio.dialects.whole import Streamed, read_through, what_else

_DONE_AFTER_JSON: Final = re.compile(rb"\s+data: ?\[DONE\]\s*\Z")
"""Some gateways end every answer with it, JSON too."""

_Plain: TypeAlias = "dict[str, object]"


def judge(
    body: bytes, *, content_type: str, choices: int, object_name: str = "chat.completion"
) -> Verdict:
    """What the whole body of a 2xx answer is. `choices` is the request's `n`.

    `content_type` is the header's value, "" if there is none; it decides nothing. `object_name`
    is what an answer put together calls itself.
    """
    text = body.removeprefix(BOM).strip()
    if not text:
        return BadAnswer("answered with nothing at all")
    if is_stream(text):
        return _put_together(body, choices, object_name)
    value = parse_json(text)
    if value is None and (tail := _DONE_AFTER_JSON.search(text)) is not None:
        body = text = text[: tail.start()]
        value = parse_json(body)
    if isinstance(value, list) and (listed_facts := read_event(text, output_seen=False)).error:
        return ErrorAnswer(text, *listed_facts.price)
    if not isinstance(value, dict):
        return BadAnswer(what_else(text, content_type))
    facts = read_object(value)
    usage, cost, counted = facts.price
    if (facts.error or facts.prose) and not facts.said:
        return ErrorAnswer(text, usage, cost, counted)
    if facts.error:
        return BadAnswer("answered with a part, which ended with an error", usage, cost)
    listed = value.get("choices")
    if not isinstance(listed, list) or not listed:
        return BadAnswer("answered with JSON that has no choices", usage, cost)
    if not all(isinstance(one, dict) and _is_choice(one) for one in listed):
        return BadAnswer("answered with a choice that has no message", usage, cost)
    return Answer(body, usage, cost)


def _is_choice(choice: _Plain) -> bool:
    """Whether there is anything that a client can take for an answer; empty it may be."""
    return isinstance(choice.get("message"), dict) or isinstance(choice.get("text"), str)


def as_stream(answer_body: bytes) -> bytes:
    """A body that was judged an `Answer`, as events for a fresh `Relay`.

    One chunk with everything, one with the usage if there is any, and `[DONE]`, because the whole
    answer is there even if a finish reason is not (the relay writes its own to the client).
    An `error` beside an answer that says something is left out: clients of streams stop at it.
    b"" for a body that is no JSON object.
    """
    value = parse_finite(answer_body.removeprefix(BOM))
    if not isinstance(value, dict):
        return b""
    listed = value.get("choices")
    every = listed if isinstance(listed, list) else []
    deltas = [_as_delta(one) for one in every if isinstance(one, dict)]
    return chunks(value, CHUNK, deltas)


def chunks(value: _Plain, object_name: str, choices: object) -> bytes:
    """An answer as events: one chunk with these choices, one with the usage, `[DONE]`."""
    counted = isinstance(value.get("usage"), dict)
    usage_chunk = {**value, "object": object_name, "choices": []}
    usage_chunk.pop("error", None)
    apart = ("usage", "cost", "error") if counted else ("usage", "error")
    chunk = {
        **{member: given for member, given in value.items() if member not in apart},
        "object": object_name,
        "choices": choices,
    }
    events = [chunk, usage_chunk] if counted else [chunk]
    try:
        texts = [json.dumps(event, separators=(",", ":")) for event in events]
    except RecursionError:
        return b""
    return b"".join(b"data: " + text.encode() + b"\n\n" for text in [*texts, "[DONE]"])


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


def _put_together(body: bytes, choices: int, object_name: str) -> Verdict:
    """The one object that a whole stream says, judged as the stream would have been."""
    reading = ChatReading(choices=choices, asks_usage=False)
    told = read_through(reading, body, lacks="choices")
    if not isinstance(told, Streamed):
        return told
    data = (event.data for event in told.events if event.data)
    whole = assembled(data, reading.usage_chunk, object_name=object_name)
    if whole is None:
        return BadAnswer("answered with a stream without choices", told.usage, told.cost)
    return Answer(whole, told.usage, told.cost)

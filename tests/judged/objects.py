"""JSON as ours scan it, beside `json`.

members    a request's members and their places       takes and refuses what `json` does
value      what an answer is, as `parse_json` reads it  the same value, to the last digit
without    the body, some of its members cut out      is JSON of all the others
flat       an object in one expression                takes only JSON with nothing nested
glances    a block of events in one look              each event is JSON, and unremarkable
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any, Final, NoReturn

from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.flat import OBJECT
from arbstr.sansio.dialects.members import Members, RefusedError, top_level, without
from arbstr.sansio.dialects.messages.events import MessagesReading
from arbstr.sansio.dialects.request import span_in_bytes
from arbstr.sansio.dialects.responses.events import Reading as ResponsesReading
from arbstr.sansio.dialects.sse import SSEReader
from arbstr.sansio.dialects.usage import parse_json
from tests.judged.dice import edited, edits

BODIES: Final = (
    b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi \\"there\\" \\u00e9\\ud83d"}]}',
    b'{ "stream" : true , "stream_options":{"include_usage":false},"n":1, "model":"m"}',
    '{"messages":[],"model":"modèle 🚀","max_tokens":1e3,"top_p":-0.5E-7,"stream":true}'.encode(),
    b'{\n  "model": "a/b",\n  "tools": [{"type": "function", "x": {"y": [null, 1, {}]}}],\n'
    b'  "stream": false\n}',
    b'\xef\xbb\xbf{"a":{},"b":[],"c":"","stream":null,"d":12345678901234567890}\r\n',
)
EVENTS: Final = (
    b'data: {"choices":[{"index":0,"delta":{"content":" a"},"finish_reason":null}],'
    b'"usage":null}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
    b'"sequence_number":7,"delta":"\\u00e9 \\"x","logprobs":[]}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":" t"}}\n\n',
)
PIECES: Final = (
    *(b'"', b"\\", b'\\"', b"\\u0061", b"\\u12", b"\\ud800", b"\\x", b"{", b"}", b"[", b"]", b"{}"),
    *(b"[]", b",", b":", b", ", b": ", b" ", b"\n", b"\r\n", b"\t", b"\x00", b"\x1f", b"\x7f"),
    *(b"0", b"01", b"-", b"1", b"1.", b".5", b"1e5", b"1e", b"E+3", b"9" * 25, b"NaN", b"Infinity"),
    *(b"true", b"false", b"null", b"nul", b'"a":1', b'"a":1,', b',"stream":1', b'"usage":{},'),
    *(
        b'"error":1,',
        b'"cost" :2,',
        b'"usage": {},',
        b'"finish_reason":"stop"',
        b"/* */",
        b"\xef\xbb\xbf",
        b"\xc3",
        b"\xff",
    ),
    *(
        "é".encode(),
        "\u2028".encode(),
        b'"',
        b'"x\n"',
        b"data: ",
        b"\n\n",
        b"[[[[",
        b"}}",
        b"}\n\n",
    ),
)
WATCHED: Final = ("finish_reason", "usage", "error", "cost")
"""Members by which an event of a chat is remarkable."""

READINGS: Final = (
    partial(ChatReading, choices=1, asks_usage=False),
    ResponsesReading,
    MessagesReading,
)
"""Whose glances are compared, each with its event in `EVENTS`."""


def bounded(digits: str) -> int:
    """Integers as `members.py` reads them."""
    return int(digits) if len(digits) < 20 else 10**20


def refuse(name: str) -> NoReturn:
    """NaN and Infinity, which Python takes and JSON has not."""
    raise ValueError(name)


_JSON: Final = json.JSONDecoder(parse_int=bounded, parse_constant=refuse)


def judge(body: bytes) -> Any:
    """What `json` reads. Raises `ValueError`, of which that of UTF-8 is one."""
    return _JSON.decode(body.decode().removeprefix("\ufeff"))


def check_members(body: bytes) -> str:
    """Compares the scan of a body; returns what it is."""
    try:
        value = judge(body)
    except ValueError:
        value = None
        assert scanned(body) is None
        return "not JSON"
    found = scanned(body)
    if not isinstance(value, dict):
        assert found is None
        return "not objects"
    assert found is not None
    assert {name: value for name, (_, _, value) in found.items()} == value
    text = body.decode()
    for start, end, each in found.values():
        assert _JSON.decode(text[start:end]) == each
        assert text[start:end] == text[start:end].strip(" \t\r\n")
    check_without(body, text, found, value)
    return "objects"


def check_value(body: bytes) -> None:
    """Compares what an answer of these bytes would say: of every number its type and its digits."""
    try:
        value = json.loads(body.decode("utf-8", "replace"))
    except ValueError:
        value = None
    assert repr(parse_json(body)) == repr(value)


def scanned(body: bytes) -> Members | None:
    """What ours find, None if it is refused."""
    try:
        return top_level(body.decode(), once=frozenset())[0]
    except (ValueError, RefusedError):
        return None


def check_without(body: bytes, text: str, found: Members, value: dict[str, Any]) -> None:
    """Compares what is left without two of the members, if each is there once."""
    names = [name for name in ("stream", "stream_options") if name in found]
    pairs = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=len)
    if pairs != len(value):
        return  # some member is there twice: only who may not be is cut out
    places = [span_in_bytes(text, found[name][:2]) for name in names]
    left = b"".join(without(body, places))
    assert judge(left) == {name: each for name, each in value.items() if name not in names}


def check_flat(text: bytes) -> str:
    """Compares one object; returns what it is."""
    if re.fullmatch(OBJECT, text) is None:
        return "other objects"
    value = json.loads(text.decode("utf-8", "replace"), parse_constant=refuse)
    assert isinstance(value, dict)
    assert not any(value for value in value.values() if isinstance(value, dict | list))
    return "flat objects"


def check_glance(block: bytes, kind: int) -> str:
    """Compares a block of events; returns whether it passed at a glance."""
    count = READINGS[kind]().passes_whole(block)
    if not count:
        return "blocks looked into"
    events = SSEReader().feed(block)
    assert len(events) == count
    assert b"".join(event.raw for event in events) == block
    for event in events:
        assert event.clean
        try:
            value = json.loads(
                (event.data or b"").decode("utf-8", "replace"), parse_constant=refuse
            )
        except ValueError:
            # That of a chat counts braces: what they do not tell, nobody reads in it.
            assert kind == 0
            continue
        if kind == 0:
            # Nobody writes these names with escapes.
            assert b"\\u" in block or not any(remarkable(value))
        else:
            assert value["type"].endswith("delta")
    return "blocks that pass"


def remarkable(value: object) -> Iterator[object]:
    """What is in a watched member, wherever it stands, and is not null."""
    if isinstance(value, list):
        for each in value:
            yield from remarkable(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name in WATCHED and each is not None:
                yield each
            yield from remarkable(each)


def compare(roll: Random) -> str:
    """One edited body, or object, or block of events. Returns what it is."""
    which = roll.random()
    if which < 0.4:
        body = BODIES[int(roll.random() * len(BODIES))]
        body = edited(body, edits(roll, len(body), PIECES, 3))
        check_value(body)
        return check_members(body)
    kind = int(roll.random() * len(EVENTS))
    block = EVENTS[kind] * (1 + int(roll.random() * 3))
    block = edited(block, edits(roll, len(block), PIECES, 2))
    if which < 0.8:
        return check_glance(block, kind)
    return check_flat(block.partition(b"data: ")[2].rstrip(b"\n"))

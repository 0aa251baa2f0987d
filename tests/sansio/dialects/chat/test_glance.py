"""What bytes tell unparsed: who speaks, and which blocks pass without a look at their events.

That a glance says what a parse would, is tested in `test_facts.py` and `test_relay.py`.
"""

import json

import pytest

from arbstr.sansio.dialects.chat.glance import passes_whole, speaks


def chunk(delta: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"content": "a"}, True),
        ({"tool_calls": [{"index": 0}]}, True),
        ({"content": "", "reasoning_content": "a"}, False),
        ({"content": None, "reasoning": '"content":"x"'}, False),
        ({"content": [], "refusal": None}, False),
    ],
)
def test_reasoning_alone_does_not_speak(delta: object, expected: bool) -> None:
    assert speaks(chunk(delta)) is expected


ONE = b"data: " + chunk({"content": "a"}) + b"\n\n"


@pytest.mark.parametrize(
    ("block", "events"),
    [
        (ONE, 1),
        (ONE * 3, 3),
        (ONE.replace(b"data: ", b"data:") * 2, 2),
        (ONE + b": ping\n\n", 0),
        (ONE + b"data: [DONE]\n\n", 0),
        (ONE + ONE.replace(b"null", b'"stop"'), 0),
        (ONE + b'data: {"usage": {}, "choices": []}\n\n', 0),
        (ONE + ONE.replace(b'"a"', b'"{"'), 0),
        (ONE + b"data: {}\n\n", 0),
        (ONE.replace(b"\n", b"\r\n"), 0),
        (ONE[:-1], 0),
    ],
)
def test_a_block_passes_whole_only_if_none_of_its_events_is_remarkable(
    block: bytes, events: int
) -> None:
    assert passes_whole(block) == events

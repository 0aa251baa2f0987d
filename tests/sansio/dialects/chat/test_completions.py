"""The door /v1/completions: prompts instead of messages, texts instead of deltas."""

import json
from typing import Any

import pytest

from arbstr.sansio.dialects.chat.completions import COMPLETIONS
from arbstr.sansio.dialects.dialect import Answer, Asked, BadAnswer
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.sse import SSEReader
from arbstr.sansio.dialects.whole import relayed
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.money import Usage
from tests.cuttings import byte_by_byte

ARBSTR = b'{"cost_sats":1}'
COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
USAGE = Usage(3, 2)


def parse(**members: Any) -> Asked | ErrorReply:
    return COMPLETIONS.parse(json.dumps({"model": "m", **members}).encode(), {}, b"")


def asked(**members: Any) -> Asked:
    found = parse(**{"prompt": "x", **members})
    assert isinstance(found, Asked), found
    return found


def choice(text: str, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"text": text, "index": index, "finish_reason": reason, "logprobs": None}


def whole(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m"}
    return {**head, "choices": list(choices), **more}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def events(data: bytes) -> list[Any]:
    found = [each.data for each in SSEReader().feed(data) if each.data]
    return [data.decode() if data == b"[DONE]" else json.loads(data) for data in found]


STREAM = (
    event(whole(choice("Hel")))
    + event(whole(choice("lo")))
    + event(whole(choice("", "stop")))
    + event(whole(usage=COUNTS))
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize(
    ("members", "tokens", "choices", "text"),
    [
        ({"prompt": "x" * 40}, 10, 1, "x" * 40),
        ({"prompt": ["x" * 40, "y" * 40]}, 20, 2, "y" * 40),
        ({"prompt": [1, 2, 3]}, 3, 1, ""),
        ({"prompt": [[1, 2, 3], [4]]}, 4, 2, ""),
        ({"prompt": None}, 1, 1, ""),
        ({"prompt": []}, 1, 1, ""),
        ({"prompt": "x", "n": 3}, 1, 3, "x"),
        ({"prompt": ["x", "y"], "n": 3}, 1, 6, "y"),
        ({"prompt": "x", "n": 2, "best_of": 5}, 1, 5, "x"),
    ],
)
def test_each_prompt_is_gone_on_with(
    members: dict[str, Any], tokens: int, choices: int, text: str
) -> None:
    found = asked(**members)
    assert (found.input_tokens, found.choices, found.last_user_text) == (tokens, choices, text)


def test_what_is_missing_is_named() -> None:
    found = parse()
    assert isinstance(found, ErrorReply)
    assert (found.code, found.param) == ("missing_member", "prompt")
    found = parse(prompt={"id": "pmpt_1"})
    assert isinstance(found, ErrorReply)
    assert (found.code, found.param) == ("invalid_member", "prompt")


def test_a_stream_is_asked_to_count_and_the_model_is_edited() -> None:
    found = asked(stream=True, max_tokens=7)
    assert (found.stream, found.max_output, found.adds_option) == (True, 7, True)
    body = COMPLETIONS.outgoing(found, model="v/m", ask_usage=True, mirror_limit=True)
    assert json.loads(body) == {
        "stream_options": {"include_usage": True},
        "model": "v/m",
        "prompt": "x",
        "stream": True,
        "max_tokens": 7,
    }
    plain = asked()
    assert COMPLETIONS.outgoing(plain, model="m", ask_usage=True, mirror_limit=True) is plain.body


@pytest.mark.parametrize("pieces", [[STREAM], byte_by_byte(STREAM)], ids=["whole", "bytes"])
def test_a_stream_ends_with_one_done_and_a_trailer_of_its_kind(pieces: list[bytes]) -> None:
    relay = Relay(COMPLETIONS.reading(asked(stream=True)))
    out = b"".join(map(relay.feed, pieces)) + relay.end_input()
    assert relay.complete
    assert relay.usage == USAGE
    *said, done, trailer = events(out + relay.finish(ARBSTR))
    assert [one["choices"][0]["text"] for one in said] == ["Hel", "lo", ""]
    assert done == "[DONE]"
    assert trailer == {**whole(), "arbstr": {"cost_sats": 1}}


def test_a_cut_stream_ends_with_the_error_event() -> None:
    relay = Relay(COMPLETIONS.reading(asked(stream=True)))
    relay.feed(event(whole(choice("Hel"))))
    relay.end_input()
    assert not relay.complete
    assert events(relay.interrupt(ErrorReply("stream_interrupted", "cut")))[0]["error"]


def test_a_plain_answer_is_its_own_bytes() -> None:
    body = json.dumps(whole(choice("Hello", "stop"), usage=COUNTS)).encode()
    found = COMPLETIONS.judge(body, asked(), "")
    assert isinstance(found, Answer)
    assert found.body is body
    assert found.usage == USAGE
    assert isinstance(COMPLETIONS.judge(b'{"choices":[{}]}', asked(), ""), BadAnswer)


def test_a_stream_for_a_plain_answer_is_put_together() -> None:
    found = COMPLETIONS.judge(STREAM, asked(), "")
    assert isinstance(found, Answer)
    assert json.loads(found.body) == whole(choice("Hello", "stop"), usage=COUNTS)


def test_a_plain_answer_for_a_stream_is_one_chunk() -> None:
    body = json.dumps(whole(choice("Hello", "stop"), usage=COUNTS)).encode()
    relay, out = relayed(body, asked(stream=True))
    assert relay.complete
    assert relay.usage == USAGE
    first, *_ = events(out + relay.finish(ARBSTR))
    assert first == whole(choice("Hello", "stop"))

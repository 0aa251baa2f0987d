"""The door /v1/embeddings: what is asked, what an answer is, without looking at a vector."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.dialect import Answer, Asked, BadAnswer, ErrorAnswer
from arbstr.sansio.dialects.embeddings import EMBEDDINGS
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.money import Usage


def parse(**members: Any) -> Asked | ErrorReply:
    return EMBEDDINGS.parse(json.dumps({"model": "m", **members}).encode(), {}, b"")


def asked(given: Any = "text") -> Asked:
    found = parse(input=given)
    assert isinstance(found, Asked), found
    return found


def answer(**members: Any) -> bytes:
    vector = {"object": "embedding", "index": 0, "embedding": [0.1, -2e-3]}
    return json.dumps(
        {
            "object": "list",
            "data": [vector, {**vector, "embedding": "AAAA/+=="}],
            "model": "m",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
            **members,
        }
    ).encode()


def judge(body: bytes) -> object:
    return EMBEDDINGS.judge(body, asked(), "application/json")


@pytest.mark.parametrize(
    ("given_input", "tokens"),
    [
        ("x" * 40, 10),
        (["x" * 40, "y" * 40], 20),
        ([1, 2, 3], 3),
        ([[1, 2, 3], [4]], 4),
        (["x" * 40, [1, 2]], 12),
        ("", 1),
        ([], 1),
    ],
)
def test_texts_are_estimated_and_tokens_counted(given_input: Any, tokens: int) -> None:
    found = asked(given_input)
    assert found.input_tokens == tokens
    assert (found.max_output, found.choices, found.stream) == (0, 1, False)
    assert found.last_user_text == ""


def test_what_cannot_be_embedded_is_refused() -> None:
    for members, code in (({}, "missing_member"), ({"input": 3}, "invalid_member")):
        found = parse(**members)
        assert isinstance(found, ErrorReply)
        assert (found.status, found.code, found.param) == (400, code, "input")
    found = EMBEDDINGS.parse(b'{"model":"m","input":"x","input":"y"}', {}, b"")
    assert isinstance(found, ErrorReply)
    assert found.code == "duplicate_member"


def test_a_stream_that_is_asked_for_is_none() -> None:
    found = parse(input="x", stream=True)
    assert isinstance(found, Asked)
    assert not found.stream


def test_only_the_model_is_edited() -> None:
    found = asked("é")
    assert EMBEDDINGS.outgoing(found, model="m", ask_usage=True, mirror_limit=True) is found.body
    edited = EMBEDDINGS.outgoing(found, model="v/m", ask_usage=True, mirror_limit=True)
    assert edited == found.body.replace(b'"m"', b'"v/m"')


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"usage": {"total_tokens": 8}},
        {"usage": {"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8}},
        {"more": [1]},
        {"usage": {"prompt_tokens": 8, "details": [1, {"a": []}]}},
    ],
)
def test_an_answer_is_its_own_bytes_and_its_input(members: dict[str, Any]) -> None:
    body = answer(**members)
    found = judge(body)
    assert isinstance(found, Answer), found
    assert found.body is body
    assert found.usage == Usage(8, 0)


def test_no_vector_is_parsed() -> None:
    body = answer().replace(b"-0.002", b"not a number")
    assert isinstance(judge(body), Answer)


def test_what_a_node_says_it_charged_is_read() -> None:
    cost = {"total_msats": 17, "base_msats": 0}
    for found in (
        judge(answer(usage={"prompt_tokens": 8, "total_tokens": 8, "cost": cost})),
        judge(answer(cost=cost)),
    ):
        assert isinstance(found, Answer)
        assert found.provider_cost_msats == Decimal(17)


def test_without_usage_its_cost_is_unknown() -> None:
    found = judge(answer(usage=None))
    assert isinstance(found, Answer)
    assert found.usage is None


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "nothing at all"),
        (answer()[:-30], "cut short"),
        (answer()[:-1], "cut short"),
        (answer(data=[]), "no embeddings"),
        (answer(data=None), "no embeddings"),
        (b'{"choices":[]}', "no embeddings"),
        (b"<html>", "HTML"),
        (b'data: {"data":[1]}\n\n', "a stream"),
    ],
)
def test_what_is_no_answer_is_said(body: bytes, sentence: str) -> None:
    found = judge(body)
    assert isinstance(found, BadAnswer), found
    assert sentence in found.sentence


@pytest.mark.parametrize(
    "body",
    [b'{"error":{"message":"boom"}}', b'[{"error":{"message":"boom"}}]', b'{"detail":"boom"}'],
)
def test_an_error_in_a_200_is_one(body: bytes) -> None:
    assert isinstance(judge(body), ErrorAnswer)


@given(st.integers(0, 400))
def test_nothing_that_was_cut_is_an_answer(at: int) -> None:
    body = answer()
    assert isinstance(judge(body[:at]), Answer) == (at >= len(body))


@given(st.binary(max_size=40))
def test_nothing_raises(tail: bytes) -> None:
    judge(tail)
    judge(b'{"data":[' + tail)
    EMBEDDINGS.parse(b'{"model":"m","input":' + tail, {}, b"")

"""What is read of a request to /v1/responses, and what a provider gets of it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.dialects.responses.door import RESPONSES
from arbstr.sansio.errors import ErrorReply


def parse(body: Mapping[str, Any] | bytes) -> Asked | ErrorReply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RESPONSES.parse(raw, {}, b"")


def asked(**members: Any) -> Asked:
    found = parse({"model": "m", "input": "hello", **members})
    assert isinstance(found, Asked), found
    return found


def refused(**members: Any) -> ErrorReply:
    found = parse({"model": "m", "input": "hello", **members})
    assert isinstance(found, ErrorReply), found
    assert found.status == 400
    return found


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "input_text", "text": text} for text in texts]}


# -- what is asked


def test_the_plainest_request() -> None:
    found = asked()
    assert (found.model, found.stream, found.choices, found.max_output) == ("m", False, 1, None)
    assert found.last_user_text == "hello"
    assert found.input_tokens == 2
    assert not found.adds_option


def test_a_codex_round() -> None:
    found = asked(
        stream=True,
        store=False,
        prompt_cache_key="11111111-2222",
        include=["reasoning.encrypted_content"],
        input=[
            {"type": "message", "role": "developer", "content": [{"text": "d" * 400}]},
            {"type": "message", **user("<environment_context>", "x" * 40)},
            {"type": "message", **user("do it")},
            {"type": "reasoning", "summary": [], "encrypted_content": "g" * 4000},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "a" * 40},
            {"type": "function_call_output", "call_id": "c", "output": "o" * 80},
        ],
        tools=[{"type": "function", "name": "f"}],
    )
    assert found.stream
    assert found.last_user_text == "do it"
    assert found.conversation == "11111111-2222"
    text = 400 + len("<environment_context>") + 40 + len("do it") + 40 + 80
    assert found.input_tokens == -(-(text + len('[{"type": "function", "name": "f"}]')) // 4)


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ({"input": "x" * 40}, 40),
        ({"input": "é" * 20}, 40),
        ({"input": ["x" * 40]}, 40),
        ({"input": [{"role": "user", "content": "x" * 40}]}, 40),
        ({"input": [user("x" * 20, "x" * 20)]}, 40),
        ({"input": [{"type": "custom_tool_call", "input": "x" * 40}]}, 40),
        ({"input": [{"output": [{"type": "input_text", "text": "x" * 40}]}]}, 40),
        ({"input": [{"type": "reasoning", "summary": [{"text": "x" * 40}]}]}, 40),
        ({"input": "", "instructions": "x" * 40}, 40),
        ({"input": "", "tools": ["x" * 36]}, 40),
        ({"input": [{"type": "input_image", "image_url": "data:" + "x" * 400}]}, 0),
        ({"input": [7, None, {"content": [7, {"text": 7}, None]}]}, 0),
        ({"prompt": {"id": "pmpt_1"}, "input": None}, 0),
    ],
)
def test_input_is_estimated_by_all_text_in_it(members: dict[str, Any], size: int) -> None:
    if members.get("input", "") is None:
        members = {k: v for k, v in members.items() if k != "input"}
    found = parse({"model": "m", **members})
    assert isinstance(found, Asked), found
    assert found.input_tokens == max(1, size // 4)


@pytest.mark.parametrize(
    ("given_limit", "limit"),
    [(4096, 4096), (None, None), (0, None), (-1, None), (1.0, None), (2**31, None), ("9", None)],
)
def test_a_limit_that_is_none_counts_as_none(given_limit: object, limit: int | None) -> None:
    assert asked(max_output_tokens=given_limit).max_output == limit


@pytest.mark.parametrize(
    ("given_input", "text"),
    [
        ([user("first"), {"role": "assistant", "content": "no"}, user("a", "last")], "last"),
        ([user("asked"), {"type": "function_call_output", "output": "no"}], "asked"),
        ([{"type": "message", "role": "user", "content": "as a string"}], "as a string"),
        ([{"role": "assistant", "content": "no"}], ""),
        ([user()], ""),
        ([], ""),
    ],
)
def test_keywords_are_looked_for_in_the_last_text_of_the_user(
    given_input: list[Any], text: str
) -> None:
    assert asked(input=given_input).last_user_text == text


def test_a_conversation_is_told_by_how_it_begins() -> None:
    begin = [{"role": "system", "content": "be brief"}, user("hello")]
    first = asked(input=begin).conversation
    later = asked(input=[*begin, {"role": "assistant", "content": "hi"}, user("more")]).conversation
    assert first is not None
    assert first == later
    others = [
        asked(input=[user("hello")]),
        asked(input=[{"role": "developer", "content": "be long"}, user("hello")]),
        asked(input=[begin[0], user("bye")]),
    ]
    assert first not in [other.conversation for other in others]
    assert asked(input="hello", instructions="be brief").conversation == first
    assert asked(input=[], instructions="be brief").conversation is None


def test_what_a_person_says_is_in_no_repr() -> None:
    found = asked(input="my secret", instructions="my secret", prompt_cache_key="my secret")
    assert "secret" not in repr(found)


# -- what is refused


def test_what_is_missing_or_of_another_kind_is_named() -> None:
    for members, code, param in (
        ({"input": "x"}, "missing_member", "model"),
        ({"model": 3, "input": "x"}, "invalid_member", "model"),
        ({"model": "m"}, "missing_member", "input"),
        ({"model": "m", "prompt": "x"}, "missing_member", "input"),
        ({"model": "m", "input": {}}, "invalid_member", "input"),
        ({"model": "m", "input": None}, "invalid_member", "input"),
        ({"model": "m", "messages": []}, "missing_member", "input"),
    ):
        found = parse(members)
        assert isinstance(found, ErrorReply)
        assert (found.code, found.param) == (code, param)


def test_a_chat_is_told_where_it_is() -> None:
    found = parse({"model": "m", "messages": []})
    assert isinstance(found, ErrorReply)
    assert "/v1/chat/completions" in found.message


@pytest.mark.parametrize(
    "member", ["previous_response_id", "conversation", "background", "input", "model", "stream"]
)
def test_a_member_that_decides_is_there_once(member: str) -> None:
    twice = f'{{"model":"m","input":"x","{member}":null,"{member}":null}}'
    found = parse(twice.encode())
    assert isinstance(found, ErrorReply)
    assert (found.code, found.param) == ("duplicate_member", member)


@pytest.mark.parametrize(
    ("members", "param", "ids"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", ["resp_1"]),
        ({"conversation": "conv_1"}, "conversation", ["conv_1"]),
        ({"conversation": {"id": "conv_1"}}, "conversation", ["conv_1"]),
        ({"input": [user("x"), {"type": "item_reference", "id": "rs_1"}]}, "input", ["rs_1"]),
        ({"input": [{"id": "rs_1"}, {"id": "rs_2"}, {"id": "rs_1"}]}, "input", ["rs_1", "rs_2"]),
    ],
)
def test_what_one_provider_keeps_is_referred_to(
    members: dict[str, Any], param: str, ids: list[str]
) -> None:
    refers = asked(**members).refers
    assert [one.id for one in refers] == ids
    assert {one.param for one in refers} == {param}
    assert all(f"`{param}`" in one.name and one.instead == "input" for one in refers)
    assert not any(id_ in repr(refers) for id_ in ids)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"previous_response_id": 7}, "previous_response_id"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"conversation": {"id": ["conv_1"]}}, "conversation"),
        ({"input": [{"type": "item_reference"}]}, "input"),
        ({"input": [{"id": 7}]}, "input"),
    ],
)
def test_a_reference_is_an_id(members: dict[str, Any], param: str) -> None:
    found = refused(**members)
    assert (found.code, found.param) == ("invalid_member", param)


def test_what_is_to_be_fetched_later_is_refused_with_what_to_do() -> None:
    found = refused(background=True)
    assert (found.code, found.param) == ("unsupported_parameter", "background")
    assert "Leave it out." in found.message


def test_what_refers_to_nothing_is_no_reason_to_refuse() -> None:
    found = asked(previous_response_id=None, conversation=None, background=False)
    assert found.last_user_text == "hello"
    assert found.refers == ()
    items = [{"id": "msg_1", "role": "assistant", "content": "x"}, {"type": "reasoning", "id": "r"}]
    assert asked(input=items, conversation={}).refers == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"model":NaN}', b"[" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    found = parse(body)
    assert isinstance(found, ErrorReply)
    assert found.status == 400


@given(st.binary(max_size=60))
def test_nothing_raises(tail: bytes) -> None:
    parse(tail)
    parse(b'{"model":"m","input":[' + tail)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "type", "output", "summary"]), inner
        )
    ),
    max_leaves=12,
)


@given(_JSON, _JSON)
def test_whatever_is_in_it_it_is_read_or_refused(given_input: object, tools: object) -> None:
    found = parse({"model": "m", "input": given_input, "tools": tools, "instructions": tools})
    assert isinstance(found, Asked | ErrorReply)


# -- what a provider gets


def outgoing(found: Asked, model: str) -> bytes:
    return RESPONSES.outgoing(found, model=model, ask_usage=True, mirror_limit=True)


def test_nothing_is_added() -> None:
    found = asked(stream=True, max_output_tokens=5)
    assert outgoing(found, "m") is found.body


def test_only_the_model_is_edited() -> None:
    body = '{ "input": "é\\u00e9", "n": 1e-7, "model" : "m" ,"x":[1]}'.encode()
    found = parse(body)
    assert isinstance(found, Asked)
    assert outgoing(found, "vendor/m") == body.replace(b'"m"', b'"vendor/m"')

"""What is read of a request to /v1/messages, and what a provider gets of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.dialects.messages.door import MESSAGES
from arbstr.sansio.errors import ErrorReply

USER: dict[str, Any] = {"role": "user", "content": "hello"}


def parse(body: bytes, headers: dict[str, str] | None = None, query: bytes = b"") -> Any:
    return MESSAGES.parse(body, headers or {}, query)


def asked(**members: Any) -> Asked:
    body = {"model": "m", "max_tokens": 9, "messages": [USER], **members}
    found = parse(json.dumps(body).encode())
    assert isinstance(found, Asked), found
    return found


def refused(**members: Any) -> ErrorReply:
    found = parse(json.dumps({"model": "m", "messages": [USER], **members}).encode())
    assert isinstance(found, ErrorReply), found
    assert found.status == 400
    return found


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def test_the_plainest_request() -> None:
    found = asked()
    assert (found.model, found.stream, found.choices, found.max_output) == ("m", False, 1, 9)
    assert (found.last_user_text, found.input_tokens) == ("hello", 2)
    assert not found.adds_option


def test_a_round_of_claude_codes() -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"path": "a" * 29}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("r" * 80)]}
    tools = [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    found = asked(
        stream=True,
        max_tokens=32000,
        thinking={"type": "enabled", "budget_tokens": 31999},
        metadata={"user_id": "u"},
        system=[text("s" * 400, cache_control={"type": "ephemeral"})],
        messages=[
            {"role": "user", "content": [text("reminder" * 10), text("do it")]},
            {"role": "assistant", "content": [text("I do."), call]},
            {"role": "user", "content": [result]},
        ],
        tools=tools,
    )
    size = 400 + 80 + 5 + 5 + len('{"path":""}') + 29 + 80 + len(json.dumps(tools))
    assert found.input_tokens == -(-size // 4)
    assert (found.stream, found.max_output) == (True, 32000)
    assert found.last_user_text == "do it"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("as it is", "as it is"),
        ([text("<system-reminder>"), text("typed")], "typed"),
        ([{"type": "tool_result", "content": "code"}], "hello"),
        ([{"type": "image"}, 3, text("typed"), {"type": "text", "text": 7}], "typed"),
        ([], "hello"),
        (None, "hello"),
    ],
)
def test_keywords_are_looked_for_in_what_the_user_said_last(content: object, words: str) -> None:
    assert asked(messages=[USER, {"role": "user", "content": content}]).last_user_text == words


def test_a_conversation_is_told_by_how_it_begins() -> None:
    system = [text("You are an agent.")]
    first = asked(system=system)
    later = asked(system=system, messages=[USER, {"role": "assistant", "content": "x"}, USER])
    other = asked(system=system, messages=[{"role": "user", "content": "bye"}])
    assert first.conversation == later.conversation
    assert first.conversation != other.conversation
    assert first.conversation is not None


@pytest.mark.parametrize("limit", [None, 0, -1, 3.5, "9", 2**31, True])
def test_limits_that_mean_none_are_the_providers_to_judge(limit: object) -> None:
    assert asked(max_tokens=limit).max_output is None


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"model": 3}, "model"),
        ({"container": "container_1"}, "container"),
        ({"container": {"id": "container_1", "skills": []}}, "container"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "document", "source": {"type": "file", "file_id": "f"}}
                        ],
                    }
                ]
            },
            "messages",
        ),
    ],
)
def test_what_is_refused_and_which_member_is_at_fault(members: dict[str, Any], param: str) -> None:
    assert refused(**members).param == param


def test_a_request_of_another_door_is_told_so() -> None:
    found = parse(b'{"model":"m","input":"hello"}')
    assert isinstance(found, ErrorReply)
    assert "/v1/responses" in found.message
    assert parse(b'{"model":"m","max_tokens":1,"max_tokens":2,"messages":[]}').code == (
        "duplicate_member"
    )


@pytest.mark.parametrize("container", [None, {"skills": []}])
def test_a_container_that_is_to_be_made_is_the_providers(container: object) -> None:
    assert asked(container=container).model == "m"


def test_a_body_goes_on_to_the_byte_but_for_the_model() -> None:
    body = '{ "max_tokens":1e0,"messages":[], "x":"\u00e9","model" : "m","a":1.0}'.encode()
    found = parse(body)
    same = MESSAGES.outgoing(found, model="m", ask_usage=True, mirror_limit=True)
    assert same is body
    edited = MESSAGES.outgoing(found, model="vendor/m", ask_usage=True, mirror_limit=True)
    assert edited == body.replace(b'"m"', b'"vendor/m"')


def test_the_query_and_the_versions_go_along_and_nothing_else() -> None:
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "a,b",
        "x-api-key": "secret",
        "authorization": "Bearer secret",
        "anthropic-dangerous-direct-browser-access": "true",
    }
    found = parse(b'{"model":"m","messages":[]}', headers, b"beta=true")
    assert found.query == b"beta=true"
    assert dict(found.forwarded) == {
        b"anthropic-version": b"2023-06-01",
        b"anthropic-beta": b"a,b",
    }


@given(st.binary(max_size=60))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    assert isinstance(parse(body), Asked | ErrorReply)


@given(st.recursive(st.none() | st.text(max_size=3) | st.integers(), st.lists, max_leaves=8))
def test_no_members_make_it_raise(value: object) -> None:
    for name in ("messages", "system", "tools", "container", "max_tokens", "stream"):
        body = {"model": "m", "messages": [{"role": "user", "content": value}], name: value}
        assert isinstance(parse(json.dumps(body).encode()), Asked | ErrorReply)

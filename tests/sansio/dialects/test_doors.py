"""All doors by name, and which one a body is for."""

import json
from typing import Any

import pytest

from arbstr.sansio.dialects.doors import DOORS, recognised
from arbstr.sansio.dialects.members import without
from arbstr.sansio.dialects.responses.door import RESPONSES
from arbstr.sansio.endpoints import ENDPOINTS, PATHS


def test_the_doors_are_named_as_everywhere_else() -> None:
    assert tuple(DOORS) == ENDPOINTS
    assert {name: door.path for name, door in DOORS.items()} == PATHS
    assert all(name == door.name for name, door in DOORS.items())
    assert len({door.path for door in DOORS.values()}) == len(DOORS)


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({"messages": []}, "chat"),
        ({"input": "x"}, "responses"),
        ({"input": [{"role": "user", "content": "x"}]}, "responses"),
        ({"input": []}, "responses"),
        ({"prompt": {"id": "pmpt_1"}}, "responses"),
        ({"input": ["x"]}, "embeddings"),
        ({"input": [1, 2]}, "embeddings"),
        ({"input": "x", "dimensions": 3}, "embeddings"),
        ({"input": "x", "encoding_format": "base64"}, "embeddings"),
        ({"input": "x", "model": "text-embedding-3-small"}, "embeddings"),
        ({"prompt": "x"}, "completions"),
        ({"prompt": None}, "completions"),
        ({}, "chat"),
    ],
)
def test_a_body_is_for_the_door_whose_members_it_has(members: dict[str, Any], name: str) -> None:
    assert recognised(json.dumps({"model": "m", **members}).encode()).name == name


@pytest.mark.parametrize("body", [b"", b"text", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_for_no_door_is_refused_by_the_first(body: bytes) -> None:
    assert recognised(body).name == "chat"


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_text_is_a_request_at_every_door(door: Any) -> None:
    body = json.dumps({"model": "m", **door.saying("hello")}).encode()
    found = door.parse(body, {}, b"")
    assert found.input_tokens == 2
    assert found.dialect is door


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_door_goes_by_its_name_where_it_is_sent(door: Any) -> None:
    import pickle

    assert pickle.loads(pickle.dumps(door)) is door


def test_responses_is_one() -> None:
    assert DOORS["responses"] is RESPONSES


FORM = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_requests_that_differ_in_their_form_alone_are_the_same(door: Any) -> None:
    said = {"model": "m", **door.saying("h\u00e9llo"), "user": "\u00fc"}
    bodies = [said, {**FORM, **said}, {**said, **FORM}, {"stream": False, **said}]
    found = set()
    for members in bodies:
        body = json.dumps(members, ensure_ascii=False).encode()
        asked = door.parse(body, {}, b"")
        found.add(b"".join(without(body, asked.form)))
    # A door without streams knows no form.
    assert len(found) == (1 if door.silence else len(bodies))

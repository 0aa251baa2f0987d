"""The scan of an object: it reads what `json` reads, and names the places of the values.

What is malformed and what may not occur twice is told to a client, so that is in `test_chat.py`.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.members import RefusedError, members_of, top_level, without
from tests.searching import examples

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@examples(40)
@given(
    st.dictionaries(st.text(max_size=6), VALUES, max_size=5),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)
def test_every_value_is_what_json_reads_and_stands_at_its_place(
    object_: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(object_, indent=indent, ensure_ascii=ascii_only)
    members, inside = top_level(text, once=frozenset())
    assert inside == 1
    assert {name: value for name, (_, _, value) in members.items()} == object_
    for start, end, value in members.values():
        assert json.loads(text[start:end]) == value


def test_an_object_is_read_from_its_brace_to_its_end() -> None:
    text = '{"a": {"b" : 1 }, "c": 2}'
    brace = text.index("{", 1)
    members, end = members_of(text, brace, once=frozenset())
    assert text[brace:end] == '{"b" : 1 }'
    assert [text[start:stop] for start, stop, _ in members.values()] == ["1"]


def test_a_byte_order_mark_and_space_stand_before_the_brace() -> None:
    assert top_level("\ufeff \n{ } ", once=frozenset()) == ({}, 4)


def test_what_may_stand_once_is_refused_twice_and_of_the_others_the_last_counts() -> None:
    members, _ = top_level('{"a":1,"a":22}', once=frozenset({"b"}))
    assert members == {"a": (11, 13, 22)}
    with pytest.raises(RefusedError) as refused:
        members_of('{"a":1,"\\u0061":2}', 0, once=frozenset({"a"}), prefix="outer.")
    assert (refused.value.reply.code, refused.value.reply.param) == ("duplicate_member", "outer.a")


@pytest.mark.parametrize("digits", ["1" * 20, "-" + "9" * 5000])
def test_a_number_too_long_to_be_read_is_a_large_one(digits: str) -> None:
    members, _ = top_level(f'{{"n":{digits}}}', once=frozenset())
    assert members["n"] == (5, 5 + len(digits), 10**20)


def cut(body: bytes, *names: str) -> bytes:
    """The body without these members, as far as it has them."""
    text = body.decode()
    members, _ = top_level(text, once=frozenset())
    places = [members[name][:2] for name in names if name in members]
    spans = [(len(text[:start].encode()), len(text[:end].encode())) for start, end in places]
    return b"".join(without(body, spans))


@examples(40)
@given(
    st.dictionaries(st.text(max_size=6), VALUES, max_size=4),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)
def test_what_is_cut_out_leaves_the_bytes_that_would_have_been_sent_without_it(
    object_: dict[str, Any], first: int, second: int, indent: int | None, ascii_only: bool
) -> None:
    rest = {name: value for name, value in object_.items() if name not in ("stream", "options")}
    members = list(rest.items())
    members.insert(first, ("stream", True))
    members.insert(second, ("options", {"include_usage": [1, "}"]}))

    def dump(what: dict[str, Any]) -> bytes:
        return json.dumps(what, indent=indent, ensure_ascii=ascii_only).encode()

    left, plain = cut(dump(dict(members)), "stream", "options"), dump(rest)
    # An object of nothing else is laid out over two lines, an empty one is not.
    assert (left == plain) if rest else (left.split() == [b"{}"] or left.split() == [b"{", b"}"])
    assert cut(plain, "stream", "options") is plain or cut(plain) == plain


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b'{"stream":true}', b"{}"),
        (b'\xef\xbb\xbf { "stream" : true , "a":1}', b'\xef\xbb\xbf { "a":1}'),
        (b'{"a":"\\"stream\\":true","stream":true}', b'{"a":"\\"stream\\":true"}'),
        (b'{"a":{"stream":1}, "stream":true, "b":2}', b'{"a":{"stream":1}, "b":2}'),
        (b'{"\\u0073tream":false,"a":1}', b'{"a":1}'),
        (b'{"stream":true,"options":{},"a":1}', b'{"a":1}'),
        (b'{"stream":true,"a":1,"options":{}}', b'{"a":1}'),
    ],
)
def test_a_member_is_cut_out_whole_wherever_it_stands(body: bytes, left: bytes) -> None:
    assert cut(body, "stream", "options") == left


def test_nothing_is_copied() -> None:
    body = b'{"a":1}'
    assert without(body, ())[0] is body
    assert all(
        isinstance(piece, memoryview) and piece.obj is body for piece in without(body, ((5, 6),))
    )

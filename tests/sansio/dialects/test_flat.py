"""Flat objects as regular expressions: what matches is what JSON's own reader takes."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbstr.sansio.dialects.flat import NUMBER, OBJECT, STRING
from tests.searching import examples

VALUES: st.SearchStrategy[object] = (
    st.text()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([None, True, False, [], {}])
)


def parses(text: bytes) -> bool:
    try:
        json.loads(text.decode("utf-8", "replace"))
    except ValueError:
        return False
    return True


@given(st.dictionaries(st.text(), VALUES), st.booleans(), st.booleans())
def test_a_flat_object_matches_as_everybody_writes_it(
    value: dict[str, object], ascii_only: bool, tight: bool
) -> None:
    separators = (",", ":") if tight else (", ", ": ")
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
    assert re.fullmatch(OBJECT, text.encode("utf-8", "surrogatepass"))


@given(
    st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=3),
    st.data(),
    st.binary(max_size=2),
)
@examples(100)
def test_what_matches_is_json_however_it_was_broken(
    value: dict[str, object], data: st.DataObject, put: bytes
) -> None:
    text = json.dumps(value).encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 4)))
    broken = text[:start] + put + text[end:]
    if re.fullmatch(OBJECT, broken):
        assert parses(broken)


@pytest.mark.parametrize("shape", [rb'"\u12"', rb'"\u12G4"', rb'"\x"', b'"a\nb"', b'"a', rb'"\"'])
def test_a_string_that_is_none(shape: bytes) -> None:
    assert not parses(shape)
    assert not re.fullmatch(STRING, shape)


@given(st.from_regex(re.compile(rb"[-+0-9.eE]{1,8}"), fullmatch=True))
@example(b"1..2")
@example(b"01")
@example(b"-")
@example(b"1e5")
@example(b"-0.0E-0")
def test_a_number_is_one_of_json(text: bytes) -> None:
    assert bool(re.fullmatch(NUMBER, text)) == parses(text)

"""The request: what is read from it, what is refused, and that an edit touches nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects.chat.request import outgoing_body
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.dialects.request import (
    HASHED_STEP,
    LONG_BEGINNING,
    MAX_COUNT,
    MAX_MODEL_CHARS,
)
from arbstr.sansio.errors import ErrorReply
from tests.chats import parse
from tests.searching import examples

MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'


def read(body: bytes | str) -> Asked:
    request = parse(body.encode() if isinstance(body, str) else body)
    assert isinstance(request, Asked), request
    return request


def refused(body: bytes | str) -> tuple[str, str | None]:
    reply = parse(body.encode() if isinstance(body, str) else body)
    assert isinstance(reply, ErrorReply), reply
    assert reply.status == 400
    json.loads(reply.body())
    return reply.code, reply.param


def chat(**members: object) -> bytes:
    given_members = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
    return json.dumps(given_members, ensure_ascii=False).encode()


def sent(
    body: bytes | str,
    *,
    model: str | None = None,
    include_usage: bool = False,
    mirror_max_tokens: bool = False,
) -> bytes:
    request = read(body)
    return outgoing_body(
        request,
        model=request.model if model is None else model,
        include_usage=include_usage,
        mirror_max_tokens=mirror_max_tokens,
    )


# --- what is read -----------------------------------------------------------------------------


def test_a_plain_request_has_the_defaults() -> None:
    request = read(chat())
    assert request.model == "m"
    assert request.stream is False
    assert request.choices == 1
    assert request.max_output is None
    assert request.own.asks_usage is False
    assert request.adds_option is False, "a plain answer has its usage anyway"
    assert read(chat(stream=True)).adds_option is True
    assert request.last_user_text == "hi"
    assert request.input_tokens == 1


def test_null_means_absent() -> None:
    names = ("stream", "stream_options", "n", "max_tokens", "max_completion_tokens")
    request = read(chat(**dict.fromkeys(names)))
    assert (request.stream, request.choices, request.max_output) == (False, 1, None)
    streamed = read(chat(**dict.fromkeys(names[1:]), stream=True))
    assert streamed.adds_option is True


def test_the_larger_of_max_tokens_and_max_completion_tokens_counts() -> None:
    assert read(chat(max_tokens=5)).max_output == 5
    assert read(chat(max_completion_tokens=7)).max_output == 7
    assert read(chat(max_tokens=5, max_completion_tokens=7)).max_output == 7
    assert read(chat(max_tokens=5000, max_completion_tokens=10)).max_output == 5000
    assert read(chat(max_tokens=MAX_COUNT)).max_output == MAX_COUNT


NO_LIMIT = ("-1", "0", "1000.0", "1e3", "0.5", str(MAX_COUNT + 1), "9" * 5000, "-" + "9" * 5000)
NO_COUNT = ("true", "false", '"50"', "[]", "{}", '""')


def with_member(name: str, value: str) -> bytes:
    return f'{{"model":"m","messages":[],"{name}":{value}}}'.encode()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [*NO_LIMIT, *NO_COUNT])
def test_a_maximum_that_is_none_is_forwarded_and_no_limit(name: str, value: str) -> None:
    body = with_member(name, value)
    assert read(body).max_output is None
    assert sent(body, mirror_max_tokens=True) == body
    other = "max_tokens" if name == "max_completion_tokens" else "max_completion_tokens"
    both = body[:-1] + f',"{other}":10}}'.encode()
    assert read(both).max_output is None, "a provider may go by the one that is no limit"
    assert sent(both, mirror_max_tokens=True) == both


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        *(
            (value, 1)
            for value in (*NO_COUNT, "0", "-1", "0.5", "1.0", str(MAX_COUNT + 1), "1e300")
        ),
        ("3.0", 3),
        ("2e1", 20),
        (str(MAX_COUNT), MAX_COUNT),
    ],
)
def test_an_n_that_is_no_count_is_forwarded_and_one(value: str, choices: int) -> None:
    body = with_member("n", value)
    assert read(body).choices == choices
    assert sent(body) == body


@pytest.mark.parametrize("value", ["1", '"true"', '"yes"', "[]", "0.5"])
def test_a_stream_that_is_neither_is_forwarded_and_no_stream(value: str) -> None:
    body = with_member("stream", value)
    assert read(body).stream is False
    assert sent(body, include_usage=True) == body


@pytest.mark.parametrize("value", ["true", "[]", '"include_usage"', "1"])
def test_stream_options_that_are_no_object_are_forwarded(value: str) -> None:
    body = with_member("stream_options", value)[:-1] + b',"stream":true}'
    request = read(body)
    assert (request.own.asks_usage, request.adds_option) == (False, False)
    assert sent(body, include_usage=True) == body


@pytest.mark.parametrize(
    ("options", "asks", "gives"),
    [
        ({"include_usage": True}, True, True),
        ({"include_usage": False}, False, True),
        ({"include_usage": None}, False, True),
        ({"include_usage": 1}, False, True),
        ({}, False, True),
        (None, False, False),
    ],
)
def test_usage_is_asked_for_with_true_only(
    options: dict[str, object] | None, asks: bool, gives: bool
) -> None:
    request = read(chat(stream=True, stream_options=options))
    assert request.own.asks_usage is asks
    assert request.adds_option is not gives


def test_the_last_user_message_counts_not_the_last_message() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "result"},
    ]
    assert read(chat(messages=messages)).last_user_text == "second"


def test_text_parts_are_joined_and_other_parts_ignored() -> None:
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "here"},
    ]
    request = read(chat(messages=[{"role": "user", "content": content}]))
    assert request.last_user_text == "look\nhere"
    assert request.input_tokens == 2


@pytest.mark.parametrize("content", [None, 7, {}, [None, 3, {"text": 4}], {"text": "x"}])
def test_content_without_text_is_no_text(content: object) -> None:
    request = read(chat(messages=[{"role": "user", "content": content}]))
    assert request.last_user_text == ""
    assert request.input_tokens == 1


@pytest.mark.parametrize(
    "messages", [[], [None], ["hi"], [[]], [{"role": 3}], [{"tool_calls": [None, {"function": 1}]}]]
)
def test_what_is_wrong_inside_messages_is_for_the_provider_to_say(messages: object) -> None:
    request = read(chat(messages=messages))
    assert request.last_user_text == ""
    assert sent(request.body) is request.body


@pytest.mark.parametrize(
    ("content", "tokens"),
    [("", 1), ("abcd", 1), ("abcde", 2), ("x" * 400, 100), ("é" * 4, 2), ("😀" * 3, 3)],
)
def test_input_is_estimated_from_bytes_of_text(content: str, tokens: int) -> None:
    assert read(chat(messages=[{"role": "user", "content": content}])).input_tokens == tokens


def test_tool_calls_and_tool_definitions_are_input_too() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "name", "arguments": "{'a': 1}"}}
    history = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert read(chat(messages=history)).input_tokens == 3
    plain = b'{"model":"m","messages":[],"tools":%b}'
    assert read(plain % (b"[" + b" " * 38 + b"]")).input_tokens == 10
    assert read(plain % '["éé"]'.encode()).input_tokens == 2


def test_an_escaped_model_is_read_as_what_it_says() -> None:
    assert read(b'{"mod\\u0065l":"gpt\\u002d4o",' + MESSAGES + b"}").model == "gpt-4o"


def test_what_a_person_wrote_is_not_in_the_repr() -> None:
    shown = repr(read(chat(messages=[{"role": "user", "content": "a private matter"}])))
    assert "private" not in shown
    assert "'m'" in shown


def test_500_levels_of_nesting_are_read() -> None:
    deep = b"[" * 500 + b"]" * 500
    body = b'{"model":"m","metadata":' + deep + b',"messages":[' + deep + b"]}"
    assert sent(body) == body
    assert sent(body, model="x") == body.replace(b'"m"', b'"x"')


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n",
        b"{",
        b"{]",
        b'{"model"}',
        b'{"model":}',
        b'{"model":"m" "n":1}',
        b'{"model":"m",}',
        b'{model:"m"}',
        b"{'model':'m'}",
        b'{"model":"m","messages":[]',
        b'{"model":"m","messages":[]}}',
        b'{"model":"m","messages":[]} x',
        b'{"model":"m","messages":[01]}',
        b'{"model":"line\nend","messages":[]}',
        b'{"model":"m\\x","messages":[]}',
        b"[1,",
        b"nul",
        b"\xff\xfe{\x00}\x00",
        '{"model":"m","messages":[]}'.encode("utf-16-le"),
        '{"model":"m","messages":[]}'.encode("utf-32"),
        b'{"model":"m\xff","messages":[]}',
        b'{"model":"m","messages":["\xed\xa0\x80"]}',
        b'{"model":NaN,"messages":[]}',
        b'{"model":"m","messages":[],"temperature":NaN}',
        b'{"model":"m","messages":[],"logit_bias":{"1":-Infinity}}',
        b'{"model":"m","messages":[{"content":[Infinity]}]}',
        b"NaN",
    ],
)
def test_malformed_json_is_said_to_be_so(body: bytes) -> None:
    assert refused(body) == ("malformed_json", None)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"stream_options":' + b'{"a":' * 100_000,
    ],
    ids=["array", "messages", "stream_options"],
)
def test_nesting_too_deep_to_read_is_malformed_not_a_crash(body: bytes) -> None:
    reply = parse(body)
    assert isinstance(reply, ErrorReply)
    assert reply.code == "malformed_json"
    assert "too deeply nested" in reply.message


def test_a_malformed_body_is_not_quoted_and_its_place_is_named() -> None:
    reply = parse(b'{"model":"m",\n"secret words" 1}')
    assert isinstance(reply, ErrorReply)
    assert "line 2 column 16" in reply.message
    assert "secret" not in reply.message


@pytest.mark.parametrize("body", [b"[]", b'"model"', b"3", b"null", b"true", b" [{}] "])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    assert refused(body) == ("not_an_object", None)


def test_a_missing_member_is_named() -> None:
    assert refused(b"{}") == ("missing_member", "model")
    assert refused(b"{" + MESSAGES + b"}") == ("missing_member", "model")
    assert refused(b'{"model":"m"}') == ("missing_member", "messages")


def test_a_request_of_the_responses_api_is_told_where_it_is() -> None:
    reply = parse(b'{"model":"m","input":"hi"}')
    assert isinstance(reply, ErrorReply)
    assert (reply.code, reply.param) == ("missing_member", "messages")
    assert "/v1/responses" in reply.message
    assert "/v1/chat/completions" in reply.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", '""'),
        ("model", "null"),
        ("model", "3"),
        ("model", "1.5"),
        ("model", '["m"]'),
        ("model", '"\\ud800"'),
        ("model", '"a\\nb"'),
        ("model", '"a\\u0000"'),
        ("model", '"' + "m" * (MAX_MODEL_CHARS + 1) + '"'),
        ("messages", "null"),
        ("messages", '"hi"'),
        ("messages", "{}"),
    ],
)
def test_a_model_or_messages_of_the_wrong_type_are_named(name: str, value: str) -> None:
    members = {"model": '"m"', "messages": "[]", name: value}
    body = "{" + ",".join(f'"{key}":{text}' for key, text in members.items()) + "}"
    assert refused(body) == ("invalid_member", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", '"m"'),
        ("messages", "[]"),
        ("stream", "true"),
        ("stream_options", "{}"),
        ("n", "1"),
        ("max_tokens", "1"),
        ("max_completion_tokens", "1"),
    ],
)
def test_a_member_that_is_read_may_not_occur_twice(name: str, value: str) -> None:
    once = f'{{"model":"m","messages":[],"{name}":{value}'
    if name not in ("model", "messages"):
        read(once + "}")
        once += f', "{name}":{value}'
    assert refused(once + "}") == ("duplicate_member", name)


def test_a_member_twice_is_found_behind_escapes() -> None:
    assert refused(b'{"model":"a","mod\\u0065l":"b",' + MESSAGES + b"}") == (
        "duplicate_member",
        "model",
    )


def test_include_usage_may_not_occur_twice() -> None:
    options = b'"stream_options":{"include_usage":false,"include_usage":true}'
    assert refused(b'{"model":"m",' + MESSAGES + b"," + options + b"}") == (
        "duplicate_member",
        "stream_options.include_usage",
    )


def test_other_members_may_occur_twice() -> None:
    body = b'{"seed":1,"model":"m","seed":2,' + MESSAGES + b',"tools":[],"tools":[]}'
    assert sent(body) == body
    assert sent(body, model="x") == body.replace(b'"m"', b'"x"')


# --- what a provider gets ---------------------------------------------------------------------

STRANGE = (
    '\ufeff \r\n{ "temperature" :1e-7,"seed":12345678901234567890,\t"top_p" : 1.10,'
    '"big":1e999,"huge":' + "7" * 5000 + ","
    '"messages" : [ {"content":"{\\"model\\":\\"x\\",\\"stream_options\\":{}} \\ud83d\\ude00 😀",'
    '"role":"user"}, {"role":"assistant","content":null,"tool_calls":[{"function":'
    '{"name":"f","arguments":"{\\"max_tokens\\":1}"}}]}, {"role":"user","content":"\\ud800 \\/"}],'
    '"\\u006dodel":"m\\u0061x","seed":0.10, "metadata":{"model":"y","a":{"a":1,"a":2}},'
    '"stream":true, "max_completion_tokens" : 64 }\n\n'
).encode()


def test_nothing_to_change_gives_the_very_same_bytes() -> None:
    request = read(STRANGE)
    body = outgoing_body(request, model="max", include_usage=False, mirror_max_tokens=False)
    assert body is request.body


def test_a_plain_request_needs_no_stream_options() -> None:
    request = read(chat())
    body = outgoing_body(request, model="m", include_usage=True, mirror_max_tokens=True)
    assert body is request.body


def test_numbers_escapes_order_and_layout_survive_an_edit() -> None:
    edited = sent(STRANGE, model="openai/max é", include_usage=True, mirror_max_tokens=True)
    expected = STRANGE.replace(
        b'{ "temperature"',
        b'{"stream_options":{"include_usage":true},"max_tokens":64, "temperature"',
    ).replace(b'"m\\u0061x"', b'"openai/max \\u00e9"')
    assert edited == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{}", b'{"include_usage":true}'),
        (b"{ }", b'{"include_usage":true }'),
        (b"null", b'{"include_usage":true}'),
        (b'{"include_usage":false}', b'{"include_usage":true}'),
        (b'{"include_usage" : null , "x":1.0}', b'{"include_usage" : true , "x":1.0}'),
        (b'{"x":1.0,"include_us\\u0061ge":0}', b'{"x":1.0,"include_us\\u0061ge":true}'),
        (b'{ "x" : 1.0 }', b'{"include_usage":true, "x" : 1.0 }'),
        (b'{"x":1,"x":2}', b'{"include_usage":true,"x":1,"x":2}'),
        (b'{"x":{"include_usage":true}}', b'{"include_usage":true,"x":{"include_usage":true}}'),
    ],
)
@pytest.mark.parametrize("text", [b"hi", "hé 😀".encode()])
def test_usage_is_asked_for_inside_the_clients_own_options(
    before: bytes, after: bytes, text: bytes
) -> None:
    body = b'{"messages":["%b"],"stream_options": %b ,"stream":true,"model":"m"}'
    assert sent(body % (text, before), include_usage=True) == body % (text, after)
    assert sent(body % (text, before), include_usage=False) == body % (text, before)


def test_max_tokens_is_mirrored_only_when_it_is_not_given() -> None:
    both = chat(max_tokens=3, max_completion_tokens=4)
    assert sent(both, mirror_max_tokens=True) == both
    null = chat(max_tokens=None, max_completion_tokens=4)
    assert sent(null, mirror_max_tokens=True) == chat(max_tokens=4, max_completion_tokens=4)
    alone = chat(max_completion_tokens=4)
    assert sent(alone, mirror_max_tokens=True) == b'{"max_tokens":4,' + alone[1:]
    assert sent(alone) == alone
    neither = chat(max_completion_tokens=None)
    assert sent(neither, mirror_max_tokens=True) == neither


# --- properties -------------------------------------------------------------------------------

MODERATE = examples(40)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
SPACE = st.sampled_from(["", "", " ", "\n", "\t ", "\r\n  "])
LIMIT = st.none() | st.integers(0, MAX_COUNT)
OPTIONS = st.none() | st.dictionaries(
    st.sampled_from(["include_usage", "x", "é"]), st.booleans() | st.none(), max_size=3
)
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "stream": st.none() | st.booleans(),
    "stream_options": OPTIONS,
    "n": st.none() | st.integers(1, 128),
    "max_tokens": LIMIT,
    "max_completion_tokens": LIMIT,
}


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[tuple[str, str]], bytes]:
    """A valid chat body in a random order and layout: its (key, raw value) pairs and its bytes."""

    def raw(value: object) -> str:
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    unknown = st.text(max_size=6).filter(
        lambda key: key not in OPTIONAL and key not in ("model", "messages")
    )
    members: list[tuple[str, object]] = [
        ("model", draw(st.sampled_from(["m", "gpt-4o", "modèle", "a/b"])))
    ]
    members += [("messages", draw(st.lists(JSON, max_size=3)))]
    for name, values in OPTIONAL.items():
        if draw(st.booleans()):
            members.append((name, draw(values)))
    members += draw(st.lists(st.tuples(unknown, JSON), max_size=4))
    pairs = [(raw(key), raw(value)) for key, value in draw(st.permutations(members))]
    inner = ",".join(
        f"{draw(SPACE)}{key}{draw(SPACE)}:{draw(SPACE)}{value}{draw(SPACE)}" for key, value in pairs
    )
    text = f"{draw(SPACE)}{{{inner}}}{draw(SPACE)}"
    return pairs, text.encode()


def expected_object(body: bytes, model: str, usage: bool, mirror: bool) -> dict[str, object]:
    found: dict[str, Any] = json.loads(body)
    found["model"] = model
    if usage and found.get("stream"):
        found["stream_options"] = {**(found.get("stream_options") or {}), "include_usage": True}
    if mirror and found.get("max_tokens") is None and found.get("max_completion_tokens"):
        found["max_tokens"] = found["max_completion_tokens"]
    return found


@MODERATE
@given(bodies(), st.sampled_from(["m", "b/c", 'q"\\', "modèle"]), st.booleans(), st.booleans())
def test_an_edited_body_says_the_same_but_for_the_edits(
    made: tuple[list[tuple[str, str]], bytes], model: str, usage: bool, mirror: bool
) -> None:
    _, body = made
    edited = sent(body, model=model, include_usage=usage, mirror_max_tokens=mirror)
    assert json.loads(edited) == expected_object(body, model, usage, mirror)
    again = read(edited)
    twice = outgoing_body(again, model=model, include_usage=usage, mirror_max_tokens=mirror)
    assert twice is again.body
    if json.loads(edited) == json.loads(body):
        assert edited == body


@MODERATE
@given(bodies(), st.booleans(), st.booleans())
def test_every_byte_outside_the_edited_values_stays(
    made: tuple[list[tuple[str, str]], bytes], usage: bool, mirror: bool
) -> None:
    pairs, body = made
    edited = sent(body, model="other", include_usage=usage, mirror_max_tokens=mirror)
    told = {json.loads(key): json.loads(value) for key, value in pairs}
    added = ""
    if usage and told.get("stream") and "stream_options" not in told:
        added += '"stream_options":{"include_usage":true},'
    limit = told.get("max_completion_tokens")
    if mirror and limit and "max_tokens" not in told:
        added += f'"max_tokens":{limit},'
    left, right = edited.decode(), body.decode()
    inside = right.index("{") + 1
    assert left[:inside] == right[:inside]
    assert left[inside:].startswith(added)
    left, right = left[inside + len(added) :], right[inside:]
    # What is left differs only inside the values of the three members.
    for key, value in pairs:
        at_left, at_right = left.index(key) + len(key), right.index(key) + len(key)
        assert left[:at_left] == right[:at_right]
        left, right = left[at_left:], right[at_right:]
        colon = right.index(value)
        assert left[:colon] == right[:colon]
        left, right = left[colon:], right[colon:]
        if json.loads(key) in ("model", "stream_options", "max_tokens"):
            decoder = json.JSONDecoder()
            left = left[decoder.raw_decode(left)[1] :]
        else:
            assert left.startswith(value)
            left = left[len(value) :]
        right = right[len(value) :]
    assert left == right


@MODERATE
@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    parse(body)


@MODERATE
@given(bodies(), st.data())
def test_no_cut_or_damaged_body_makes_it_raise(
    made: tuple[list[tuple[str, str]], bytes], data: st.DataObject
) -> None:
    _, body = made
    at = data.draw(st.integers(0, len(body) - 1))
    damage = data.draw(st.binary(max_size=3))
    for damaged in (body[:at], body[:at] + damage + body[at + 1 :]):
        request = parse(damaged)
        if isinstance(request, Asked):
            out = outgoing_body(request, model="z", include_usage=True, mirror_max_tokens=True)
            assert isinstance(parse(out), Asked)


@MODERATE
@given(bodies())
def test_the_scan_agrees_with_json(made: tuple[list[tuple[str, str]], bytes]) -> None:
    _, body = made
    request, plain = read(body), json.loads(body)
    assert request.model == plain["model"]
    assert request.stream is bool(plain.get("stream"))
    assert request.choices == (plain.get("n") or 1)
    assert request.own.asks_usage is (
        (plain.get("stream_options") or {}).get("include_usage") is True
    )


def long_chat(system: str, first: str, *more: str) -> str | None:
    messages = [
        {"role": role, "content": content}
        for role, content in zip(
            ("system", "user", "assistant", "user"), (system, first, *more), strict=False
        )
    ]
    return read(json.dumps({"model": "m", "messages": messages}).encode()).conversation


@pytest.mark.parametrize(
    "size", [LONG_BEGINNING - 2, LONG_BEGINNING, HASHED_STEP, HASHED_STEP + 1, 3 * HASHED_STEP + 1]
)
def test_a_conversation_is_told_by_its_whole_beginning_and_a_long_one_is_not_kept(
    size: int,
) -> None:
    system, first = "s" * (size // 2), "é\ud800" + "f" * (size - size // 2 - 3) + "\U0001f680"
    begun = long_chat(system, first)
    assert begun is not None
    assert len(begun) <= LONG_BEGINNING + 2
    assert begun == long_chat(system, first, "more", "and more")
    others = {
        long_chat(system[:-1], first),
        long_chat(system, first[:-1]),
        long_chat(system, first[1:]),
        long_chat(system[:-1], "s" + first),
        long_chat("", system + first),
    }
    assert begun not in others
    assert len(others) == 5

"""assembly.py: the events of a stream as the one object of a plain answer."""

import json
from typing import Any

import pytest

from arbstr.sansio.dialects.chat.assembly import assembled

COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def message(*deltas: dict[str, Any]) -> Any:
    """The message that these deltas make."""
    events = [json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() for delta in deltas]
    whole = assembled(events, None)
    assert whole is not None
    return json.loads(whole)["choices"][0]["message"]


def calls(*pieces: list[dict[str, Any]]) -> list[Any]:
    """The calls that these pieces make, as (id, name, arguments)."""
    found = message(*({"tool_calls": piece} for piece in pieces))["tool_calls"]
    assert all("index" not in call for call in found)
    return [
        (call.get("id"), call["function"].get("name"), call["function"].get("arguments"))
        for call in found
    ]


def call(
    ident: str | None = None, name: str | None = None, arguments: str = "", **more: Any
) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {**({} if ident is None else {"id": ident}), "function": function, **more}


F, G = ("a", "f", "12"), ("b", "g", "34")

CALLS = {
    "by their index": [
        [call("a", "f", "1", index=0)],
        [call("b", "g", "3", index=1)],
        [call(None, None, "2", index=0), call(None, None, "4", index=1)],
    ],
    "all at index 0": [
        [call("a", "f", "1", index=0)],
        [call(None, None, "2", index=0)],
        [call("b", "g", "3", index=0)],
        [call(None, None, "4", index=0)],
    ],
    "an id with every piece": [
        [call("a", "f", "1", index=0)],
        [call("a", None, "2", index=0)],
        [call("b", "g", "3", index=0), call("b", None, "4", index=0)],
    ],
    "all at index 0, in one chunk": [
        [call("a", "f", "1", index=0), call("b", "g", "3", index=0)],
        [call("a", None, "2", index=0), call("b", None, "4", index=0)],
    ],
    "back to the first at index 0": [
        [call("a", "f", "1", index=0)],
        [call("b", "g", "3", index=0)],
        [call("a", None, "2", index=0)],
        [call("b", None, "4", index=0)],
    ],
    "empty ids with the later pieces": [
        [call("a", "f", "1", index=0)],
        [call("", None, "2", index=0)],
        [call("b", "g", "3", index=1)],
        [call("", None, "4", index=1)],
    ],
    "no index at all": [
        [call("a", "f", "1")],
        [call(None, None, "2")],
        [call("b", "g", "3")],
        [call(None, None, "4")],
    ],
    "no index, but ids": [
        [call("a", "f", "1"), call("b", "g", "3")],
        [call("a", None, "2"), call("b", None, "4")],
    ],
    "an index in the first piece only": [
        [call("a", "f", "1", index=0)],
        [call(None, None, "2")],
        [call("b", "g", "3", index=1)],
        [call(None, None, "4")],
    ],
    "in another order": [
        [call("b", "g", "34", index=1)],
        [call("a", "f", "12", index=0)],
    ],
}


@pytest.mark.parametrize("pieces", CALLS.values(), ids=CALLS.keys())
def test_calls_are_put_together(pieces: list[list[dict[str, Any]]]) -> None:
    assert calls(*pieces) == [F, G]


def thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


@pytest.mark.parametrize("index", [{}, {"index": 0}], ids=["no index", "index 0"])
def test_another_function_is_another_call_where_no_id_tells(index: dict[str, int]) -> None:
    f, g = call(None, "f", "1", **index), call(None, "g", "2", **index)
    more = call(None, None, "3", **index)
    for pieces in ([[f, g, more]], [[f], [g], [more]], [[f, g], [more]]):
        assert calls(*pieces) == [(None, "f", "1"), (None, "g", "23")]
    assert calls([f], [f], [more]) == [(None, "f", "113")]
    assert calls([call("a", "f", "1", **index)], [call("a", "F", "2", **index)]) == [
        ("a", "F", "12")
    ]


def test_a_call_among_the_parts_of_a_text_does_no_harm() -> None:
    found = message({"content": "a"}, {"content": [call(None, "f", "1")]})
    assert found["content"] == [
        {"type": "text", "text": "a"},
        {"function": {"arguments": "1", "name": "f"}},
    ]


def test_parts_of_a_content_go_on_while_their_type_stays() -> None:
    said = message(
        {"role": "assistant", "content": ""},
        {"content": [thinking("let ")]},
        {"content": [thinking("me see")]},
        {"content": [{"type": "text", "text": "4"}]},
        {"content": [{"type": "text", "text": "2"}]},
    )
    assert said["content"] == [thinking("let me see"), {"type": "text", "text": "42"}]


def test_text_after_parts_and_before_them_becomes_a_part() -> None:
    assert message({"content": [thinking("hm")]}, {"content": "4"}, {"content": "2"})[
        "content"
    ] == [thinking("hm"), {"type": "text", "text": "42"}]
    assert message({"content": "4"}, {"content": "2"}, {"content": [thinking("hm")]})[
        "content"
    ] == [{"type": "text", "text": "42"}, thinking("hm")]


def test_details_of_reasoning_are_put_together() -> None:
    def detail(text: str, **more: Any) -> dict[str, Any]:
        return {"reasoning_details": [{"type": "reasoning.text", "text": text, **more}]}

    numbered = message(detail("let ", index=0), detail("me", index=0), detail("so", index=1))
    assert [one["text"] for one in numbered["reasoning_details"]] == ["let me", "so"]
    (whole,) = message(detail("let "), detail("me"))["reasoning_details"]
    assert whole == {"type": "reasoning.text", "text": "let me"}
    sealed = {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 0}]}
    both = message(detail("let me", index=0), sealed)["reasoning_details"]
    assert [one["type"] for one in both] == ["reasoning.text", "reasoning.encrypted"]


def test_what_comes_whole_is_not_put_together() -> None:
    cited = {"type": "url_citation", "url_citation": {"url": "x"}}
    image = {"type": "image_url", "image_url": {"url": "x"}}
    said = message(
        *({"annotations": [cited], "images": [image]} for _ in range(2)),
    )
    assert said["annotations"] == [cited, cited]
    assert said["images"] == [image, image]


def test_a_long_list_of_calls_and_of_tokens() -> None:
    """Each piece costs the same, however many there were: else this takes minutes."""
    many = 20_000
    events = [
        json.dumps(
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {"tool_calls": [call(f"c{at}", "f", "{}", index=at)]},
                        "logprobs": {"content": [{"token": "a"}]},
                    }
                ]
            }
        ).encode()
        for at in range(many)
    ]
    whole = assembled(events, None)
    assert whole is not None
    (choice,) = json.loads(whole)["choices"]
    assert len(choice["message"]["tool_calls"]) == len(choice["logprobs"]["content"]) == many


def test_the_usage_is_put_together_from_its_halves() -> None:
    halves = [
        {"prompt_tokens": 1000, "completion_tokens": 0, "total_tokens": 1000},
        {"prompt_tokens": 0, "completion_tokens": 50, "total_tokens": 50},
    ]
    chunks = [{"choices": [{"index": 0, "delta": {}}], "usage": usage} for usage in halves]
    whole = assembled([json.dumps(chunk).encode() for chunk in chunks], None)
    assert whole is not None
    assert json.loads(whole)["usage"] == {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "total_tokens": 1050,
    }


def test_the_chunk_with_the_usage_and_no_choice_is_part_of_it() -> None:
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "a"}}]}).encode()
    whole = assembled([chunk], json.dumps({"choices": None, "usage": COUNTS}).encode())
    assert whole is not None
    assert json.loads(whole)["usage"] == COUNTS
    assert assembled([], None) is None


def test_an_error_that_output_outlived_is_not_repeated() -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "a"}}], "error": {"message": "no"}}
    whole = assembled([json.dumps(said).encode()], None)
    assert whole is not None
    assert "error" not in json.loads(whole)

"""The events of a whole stream -> the one object of a plain answer.

For clients that asked for no stream and were sent one. A stream numbers what belongs together by
`index`, and some providers badly:

    tool calls at the same index with other ids      each id is a call, also in one chunk
    a piece that names another function              a new call, where no id says otherwise
    a piece without index and id                     continues the last call
    a piece without index, but with an id            that call, or a new one
    parts of a content (thinking, text) without one  continue the last part if it is of that type
    a content that is text now and parts then        parts, the text as one of them

Nothing here raises, whatever the bytes.
"""

import json
from collections.abc import Iterable
from typing import Final, TypeAlias, final

from arbstr.sansio.dialects.chat.facts import read_object
from arbstr.sansio.dialects.usage import parse_finite

APPENDED: Final = frozenset(
    {
        "content",
        "reasoning",
        "reasoning_content",
        "thinking",
        "refusal",
        "text",  # of a part in a list, and of legacy completions
        "arguments",
        "data",  # of audio
        "transcript",
        "summary",  # of reasoning_details
    }
)
"""Members whose strings come in pieces. All others (`role`, `id`, `type`, `name`) come whole."""

_Plain: TypeAlias = dict[str, object]


def assembled(
    events: Iterable[bytes], usage_chunk: bytes | None, *, object_name: str = "chat.completion"
) -> bytes | None:
    """The answer that chunks with these data make; None if there is no choice in them.

    `usage_chunk` is the data of the event that had the usage and no choice, if there was one.
    `object_name`: what the answer calls itself; another than a chat has its text in its choices.
    """
    as_choice = _as_message if object_name == "chat.completion" else _as_text
    whole: _Plain = {}
    merged: dict[int, _Plain] = {}
    for data in events:
        value = parse_finite(data)
        if isinstance(value, dict):
            _merge_chunk(whole, merged, value)
    if not merged:
        return None
    counted = parse_finite(usage_chunk) if usage_chunk is not None else None
    if isinstance(counted, dict):
        _merge_chunk(whole, merged, counted)
    whole["object"] = object_name
    whole["choices"] = [as_choice(merged[index]) for index in sorted(merged)]
    if "usage" in whole:
        whole["usage"] = whole.pop("usage")  # at the end, where people look for it
    try:
        return json.dumps(whole, separators=(",", ":")).encode()
    except RecursionError:
        return None


def _merge_chunk(whole: _Plain, merged: dict[int, _Plain], chunk: _Plain) -> None:
    for member, given in chunk.items():
        if member == "usage" and isinstance(given, dict):
            whole[member] = _merged_usage(whole.get(member), given)
        elif member in ("usage", "cost"):
            # The last one counts: some providers send sums so far with every chunk.
            if given is not None:
                whole[member] = given
        elif member not in ("choices", "object", "error") and whole.get(member) in (None, "", 0):
            # The first one counts: a node's own trailer has another id and model. An error is not
            # repeated: beside output it was outlived, and alone it would be all there is.
            whole[member] = given
    listed = chunk.get("choices")
    told = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    for index, choice in zip(read_object(chunk).indexes, told, strict=True):
        _merge(merged.setdefault(index, {"index": index}), choice)


def _merged_usage(old: object, new: _Plain) -> _Plain:
    """A count that was seen is not undone by a later 0 or null of the same count."""
    if not isinstance(old, dict):
        return new
    kept = {name: count for name, count in old.items() if count and not new.get(name)}
    usage = {**old, **new, **kept}
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if kept.keys() & {"prompt_tokens", "completion_tokens"} and (
        isinstance(prompt, int) and isinstance(completion, int)
    ):
        usage["total_tokens"] = prompt + completion
    return usage


@final
class _Pieces:
    """A string that came in pieces: joined once, so that long answers stay linear."""

    __slots__ = ("pieces",)

    def __init__(self, first: str) -> None:
        self.pieces = [first]


@final
class _Items(list[object]):
    """A list that grew by pieces, where in it the item of an index or an id is, and what each
    item, by its identity, has said it is: the pieces themselves are put together later."""

    __slots__ = ("known", "said")

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[object, _Plain] = {}
        self.said: dict[int, dict[str, str]] = {}


def _merge(into: _Plain, new: _Plain) -> None:
    """Add a piece to what is there: strings of `APPENDED` and lists grow, the rest is replaced."""
    # A loop with its own stack: nesting is the provider's choice.
    waiting: list[tuple[_Plain, _Plain]] = [(into, new)]
    while waiting:
        target, source = waiting.pop()
        for member, given in source.items():
            old = target.get(member)
            if member == "index":
                continue
            if isinstance(given, str) and member in APPENDED:
                if isinstance(old, _Pieces):
                    old.pieces.append(given)
                elif isinstance(old, _Items):
                    if given:
                        waiting += _merge_list(old, [{"type": "text", "text": given}])
                else:
                    target[member] = _Pieces(given)
            elif isinstance(given, dict):
                if not isinstance(old, dict):
                    old = target[member] = {}
                waiting.append((old, given))
            elif isinstance(given, list):
                # The last is taken first: pieces of one item stay in their order.
                waiting += reversed(_merge_list(_items_of(target, member, old), given))
            elif old is None or given not in (None, ""):
                target[member] = given


def _items_of(target: _Plain, member: str, old: object) -> _Items:
    """The list at a place; text that stood there becomes its first part."""
    if isinstance(old, _Items):
        return old
    items = target[member] = _Items()
    if isinstance(old, _Pieces) and any(old.pieces):
        items.append({"type": "text", "text": old})
    return items


def _merge_list(old: _Items, given: list[object]) -> list[tuple[_Plain, _Plain]]:
    """Add the items of a list: those that belong together, see the module; the others follow."""
    pairs: list[tuple[_Plain, _Plain]] = []
    for item in given:
        if not isinstance(item, dict):
            old.append(item)
            continue
        target = _continued(old, item)
        if target is None:
            target = {}
            old.append(target)
        for name in _names_of(item):
            old.known[name] = target
            if isinstance(name, int):
                target["index"] = name
        old.said[id(target)] = {**old.said.get(id(target), {}), **_said_of(item)}
        pairs.append((target, item))
    return pairs


def _names_of(item: _Plain) -> list[int | str]:
    """What an item of a list is known by: its index and its id."""
    index, ident = item.get("index"), item.get("id")
    return [
        *([index] if type(index) is int else []),
        *([ident] if isinstance(ident, str) and ident else []),
    ]


def _said_of(item: _Plain) -> dict[str, str]:
    """What an item says it is: its id, its type, and the function it calls."""
    function = item.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    said = {"id": item.get("id"), "type": item.get("type"), "name": name}
    return {key: value for key, value in said.items() if isinstance(value, str) and value}


def _is_same(before: dict[str, str], now: dict[str, str]) -> bool:
    """Whether two pieces at one place may be of one item."""
    asked = ("id", "type") if "id" in before and "id" in now else ("type", "name")
    return all(key not in before or key not in now or before[key] == now[key] for key in asked)


def _continued(old: _Items, item: _Plain) -> _Plain | None:
    """Which of the items so far this is a piece of; None: it is a new one."""
    index, ident, kind = item.get("index"), item.get("id"), item.get("type")
    last, said = old[-1] if old else None, _said_of(item)
    if type(index) is int:
        known = old.known.get(index)
        if known is None or _is_same(old.said.get(id(known), {}), said):
            return known
    if isinstance(ident, str) and ident:
        return old.known.get(ident)
    if not isinstance(last, dict) or type(index) is int:
        return None
    if isinstance(item.get("function"), dict):
        before = old.said.get(id(last), {})
        called = isinstance(last.get("function"), dict) or "name" in before
        return last if called and _is_same(before, said) else None
    # Parts of a text: what they have beside their type comes in pieces.
    grows = kind is not None and all(
        name == "type" or name in APPENDED or isinstance(part, list) for name, part in item.items()
    )
    return last if grows and last.get("type") == kind else None


def _as_message(choice: _Plain) -> _Plain:
    """A merged choice in the shape of a plain answer."""
    finished = _joined(choice)
    delta = finished.pop("delta", None)
    given = finished.pop("message", None)
    message: _Plain = {"role": "assistant", "content": None}
    for told in (given, delta):
        if isinstance(told, dict):
            message |= told
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        # The index is how a stream numbers them; a plain answer has their order.
        numbered = [call for call in calls if isinstance(call, dict)]
        if all(type(call.get("index")) is int for call in numbered):
            numbered.sort(key=lambda call: call["index"])
        message["tool_calls"] = [
            {member: part for member, part in call.items() if member != "index"}
            for call in numbered
        ]
    return {"index": finished.pop("index"), "message": message, "finish_reason": None, **finished}


def _as_text(choice: _Plain) -> _Plain:
    """A merged choice of a completion, as it is in a plain answer."""
    return {"text": "", "finish_reason": None, "logprobs": None, **_joined(choice)}


def _joined(value: _Plain) -> _Plain:
    """The same object with every `_Pieces` joined, in place."""
    waiting: list[_Plain | list[object]] = [value]
    while waiting:
        container = waiting.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for place, item in list(items):
            if isinstance(item, _Pieces):
                container[place] = "".join(item.pieces)  # type: ignore[index, call-overload]  # place fits its container
            elif isinstance(item, dict | list):
                waiting.append(item)
    return value

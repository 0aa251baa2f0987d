"""The members of a request's JSON object, and where in the text their values stand.

    text --top_level--> each member's value and its place
    body, places --without--> the body in pieces, those members cut out

The object is scanned in Python, member by member; every value is skipped by json's C scanner, which
also tells where it ends. What the members mean is `chat.py`'s to say.

What is no JSON raises `json.JSONDecodeError`, or `RecursionError` where it is too deeply nested;
what arbstr refuses all the same raises `RefusedError`. None of them leaves `chat.parse_chat`.
"""

import json
import re
from collections.abc import Iterable
from typing import Final, NoReturn, TypeAlias, final

from arbstr.sansio.errors import ErrorReply

Members: TypeAlias = dict[str, tuple[int, int, object]]
"""Key -> start and end of its value, and the value."""


@final
class RefusedError(Exception):
    """Ends a parse, with what the client is told."""

    def __init__(self, code: str, message: str, param: str | None) -> None:
        super().__init__(code)
        self.reply = ErrorReply(code, message, param)


def malformed(why: str) -> ErrorReply:
    """What the client is told of a body that is no JSON."""
    return ErrorReply("malformed_json", f"The request body is not valid JSON: {why}.")


def _bounded_int(digits: str) -> int:
    # int() refuses more than 4300 digits with a ValueError, and takes quadratic time below.
    # No integer that is read here may be this large, so its value does not matter.
    return int(digits) if len(digits) < 20 else 10**20


def _refuse_constant(text: str) -> NoReturn:
    # Python reads NaN and Infinity; JSON has neither, and most providers' parsers refuse them.
    raise RefusedError("malformed_json", malformed(f"{text} is not JSON").message, None)


_DECODER: Final = json.JSONDecoder(parse_int=_bounded_int, parse_constant=_refuse_constant)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NAME: Final = re.compile(r'[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
"""A member's name without escapes, up to its value: what nearly all are."""
_AFTER: Final = re.compile(r"[ \t\n\r]*([,}])")


def _skip(text: str, pos: int) -> int:
    found = _SPACE.match(text, pos)
    return found.end() if found is not None else pos


def members_of(
    text: str, brace: int, *, once: frozenset[str], prefix: str = ""
) -> tuple[Members, int]:
    """The members of the object that opens at `brace`, and where it ends.

    One of `once` that occurs twice is refused, under its name behind `prefix`. Of any other member
    that does the last one counts, as in `json`.
    """
    members: Members = {}
    decode = _DECODER.raw_decode
    pos = brace + 1
    while True:
        name = _NAME.match(text, pos)
        if name is not None:
            key, pos = name[1], name.end()
        elif not members and text[(pos := _skip(text, pos)) : pos + 1] == "}":
            return members, pos + 1
        else:
            key, pos = _name(text, pos)
        value: object
        value, end = decode(text, pos)
        if key in once and key in members:
            raise RefusedError(
                "duplicate_member", f"The member `{prefix}{key}` occurs twice.", prefix + key
            )
        members[key] = (pos, end, value)
        after = _AFTER.match(text, end)
        if after is None:
            raise json.JSONDecodeError("Expecting ',' or '}'", text, _skip(text, end))
        pos = after.end()
        if after[1] == "}":
            return members, pos


def _name(text: str, pos: int) -> tuple[str, int]:
    """A member's name that begins there, after blanks, and where its value begins."""
    pos = _skip(text, pos)
    if text[pos : pos + 1] != '"':
        raise json.JSONDecodeError("Expecting a member name in double quotes", text, pos)
    key: str
    key, pos = _DECODER.raw_decode(text, pos)
    pos = _skip(text, pos)
    if text[pos : pos + 1] != ":":
        raise json.JSONDecodeError("Expecting ':'", text, pos)
    return key, _skip(text, pos + 1)


def top_level(text: str, *, once: frozenset[str]) -> tuple[Members, int]:
    """The body's members and the offset just behind its opening brace; `once` as `members_of`."""
    brace = 0 if text.startswith("{") else _skip(text, 1 if text.startswith("\ufeff") else 0)
    members: Members = {}
    if is_object := text[brace : brace + 1] == "{":
        members, end = members_of(text, brace, once=once)
    else:
        _, end = _DECODER.raw_decode(text, brace)
    if end != len(text) and (rest := _skip(text, end)) != len(text):
        raise json.JSONDecodeError("Extra data", text, rest)
    if not is_object:
        raise RefusedError("not_an_object", "The request body must be a JSON object.", None)
    return members, brace + 1


_BLANK: Final = b" \t\n\r"


def without(body: bytes, values: Iterable[tuple[int, int]]) -> tuple[bytes | memoryview, ...]:
    """The body, cut where members stand: what is left of it reads as if they had not been sent.

    `values` are the places in bytes of these members' values, at the top level. Nothing is copied;
    where nothing is cut, the one piece is `body` itself.
    """
    whole = memoryview(body)
    pieces: list[memoryview] = []
    done, lead = 0, -1
    for start, end in sorted(values):
        # No quotation mark stands in a name that is read; it may be written with escapes.
        name = body.rfind(b'"', done, body.rindex(b'"', done, start))
        before = _back(body, name) - 1
        if name == lead or body[before] == ord("{"):
            # The first member goes with the comma behind it, any other with the one before it.
            begin, end = name, _comma(body, end)
            lead = end
        else:
            begin = _back(body, before)
        pieces.append(whole[done:begin])
        done = end
    if not pieces:
        return (body,)
    return (*pieces, whole[done:])


def _back(body: bytes, end: int) -> int:
    """Where the blanks before `end` begin."""
    while body[end - 1] in _BLANK:
        end -= 1
    return end


def _comma(body: bytes, end: int) -> int:
    """Behind the comma that follows, and the blanks behind that; `end` if none follows."""
    comma = end
    while body[comma] in _BLANK:
        comma += 1
    if body[comma] != ord(","):
        return end
    comma += 1
    while body[comma] in _BLANK:
        comma += 1
    return comma

"""HTTP/1.1 heads as nearly everybody writes them, read in one pass; whatever else comes is h11's.

    read_request(data)  -> RequestHead | None
    like(head, data)    -> its length and size | None: the same head again, told at a glance
    read_answer(data)   -> AnswerHead | None

`None` means: give the bytes to h11, which knows the rest of RFC 9112 and what is wrong with a head.
What is read here reads the same there (tests/sansio/test_heads.py lets h11 check it), only in a
fifth of the time or less, and a plain request has two heads to read. A head qualifies if

    it is whole, and in the first bytes that came
    it is HTTP/1.1, each line ends in CRLF and none is folded
    the body has one Content-Length, and neither Transfer-Encoding nor Upgrade nor Expect is there;
      an answer may have `Transfer-Encoding: chunked` in its place (`chunks.py` reads that body)
    Connection is absent, or one of `keep-alive` and `close`
    a request is a POST with one Host; an answer is final and has a body (not 1xx, 204, 304)
"""

import re
from collections.abc import Iterable
from math import inf
from typing import Final, TypeAlias, final

from arbstr.sansio.frozen import dataclass

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in their order: names in lower case, values without the white space around them."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_SEEN: Final = rb"[\x21-\x7e\x80-\xff]++"  # RFC 9110 5.5: field-vchar
_FIELD: Final = re.compile(
    # Possessive, so that it is linear: no white space is looked at twice.
    rb"^(%b):[ \t]*+((?:%b(?:[ \t]++%b)*+)?+)[ \t]*+\r\n" % (_TOKEN, _SEEN, _SEEN),
    re.MULTILINE,
)
_REQUEST_LINE: Final = re.compile(rb"POST ([\x21-\x7e]++) HTTP/1\.1\r\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ([ \t\x21-\x7e\x80-\xff]*+)\r\n")
BODILESS: Final = frozenset({204, 304})
"""Final statuses whose answers end with their head (RFC 9112 6.3)."""

_MOST_DIGITS: Final = 18
"""Of a Content-Length. h11 takes 20, Python any number: above it, it is not a length."""

_LENGTH: Final = re.compile(rb"\r\n(?i:content-length):[ \t]*+([0-9]++)")
_TIMEOUT: Final = re.compile(rb"(?i:timeout)[ \t]*=[ \t]*\"?([0-9]{1,9})")

_FRAMES: Final = frozenset(
    {b"content-length", b"connection", b"transfer-encoding", b"upgrade", b"expect"}
)
"""Fields that say where a head's message ends, or what follows; all others are only passed on."""


@final
@dataclass(frozen=True, slots=True)
class RequestHead:
    """A POST. Its body, of `length` bytes, begins at `size`. `closes`: it is the client's last.

    `before` and `behind` are its bytes around the digits of the length.
    """

    target: bytes
    headers: Fields
    length: int
    closes: bool
    size: int
    before: bytes
    behind: bytes


@final
@dataclass(frozen=True, slots=True)
class AnswerHead:
    """A final answer. Its body, of `length` bytes, or in chunks if that is None, begins at `size`.
    `closes`: the last one."""

    status: int
    reason: bytes
    headers: Fields
    length: int | None
    closes: bool
    size: int


def promised_seconds(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """How long a server says that it keeps an idle connection (`Keep-Alive: timeout=5`); `inf` if
    it does not say. Names are in lower case."""
    for name, value in headers:
        if name == b"keep-alive" and (found := _TIMEOUT.search(value)):
            return float(found[1])
    return inf


def read_request(data: bytes) -> RequestHead | None:
    """The head that `data` begins with, or None."""
    line = _REQUEST_LINE.match(data)
    if line is None:
        return None
    found = _fields(data, line.end())
    if found is None:
        return None
    headers, length, closes, size = found
    if length is None:
        return None
    if [name for name, _ in headers].count(b"host") != 1:
        return None
    digits = _LENGTH.search(data, line.end() - 2, size)
    assert digits is not None  # there is one such field, and its value is digits
    before, behind = data[: digits.start(1)], data[digits.end(1) : size]
    return RequestHead(line[1], headers, length, closes, size, before, behind)


def like(head: RequestHead, data: bytes) -> tuple[int, int] | None:
    """The length and the size of the head that `data` begins with, if it differs from `head` in its
    length alone: that is how a client writes all its requests. None if it may be another."""
    if not data.startswith(head.before):
        return None
    start = len(head.before)
    end = data.find(b"\r", start, start + _MOST_DIGITS + 1)
    digits = data[start:end]
    if end < 0 or not digits.isdigit() or not data.startswith(head.behind, end):
        return None
    return int(digits), end + len(head.behind)


def read_answer(data: bytes) -> AnswerHead | None:
    """The head that `data` begins with, or None."""
    line = _STATUS_LINE.match(data)
    if line is None:
        return None
    status = int(line[1])
    if status in BODILESS:
        return None
    found = _fields(data, line.end())
    if found is None:
        return None
    headers, length, closes, size = found
    return AnswerHead(status, line[2], headers, length, closes, size)


def _fields(data: bytes, start: int) -> tuple[Fields, int | None, bool, int] | None:
    """The fields from `start` to the empty line: (fields, length, closes, size of the head).

    Without a length the body is in chunks.
    """
    end = data.find(b"\r\n\r\n", start) + 2
    if end < 2:
        return None  # not whole yet, or without any field
    pairs = _FIELD.findall(data, start, end)
    # Each match begins a line and ends it: as many of them as line feeds means that all is read.
    if len(pairs) != data.count(b"\n", start, end):
        return None
    headers = [(name.lower(), value) for name, value in pairs]
    length: int | None = None
    chunked = closes = False
    for name, value in headers:
        if name not in _FRAMES:
            continue
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _MOST_DIGITS:
                return None
            length = int(value)
        elif name == b"connection":
            word = value.lower()
            if closes or word not in (b"keep-alive", b"close"):
                return None
            closes = word == b"close"
        elif name == b"transfer-encoding":
            if chunked or value != b"chunked":
                return None
            chunked = True
        else:
            return None  # something else is asked for, or another protocol
    return (headers, length, closes, end + 2) if chunked is (length is None) else None

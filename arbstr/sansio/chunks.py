"""A body in chunks (RFC 9112 7.1) as nearly everybody writes it; whatever else comes is h11's.

    size in hex, CRLF, so many bytes, CRLF; at the end "0", CRLF, CRLF

Extensions, trailers, a size of more digits than any has: `Standing.STRANGE`, and `rest` begins with
the line in question, between two chunks, where h11 can go on. It says what is wrong there, or reads
what is right. What is read here reads the same there (tests/trio_runtime/upstream/test_readers.py
lets h11 check it), in a fifth of the time, and a stream's event is a chunk.
"""

import re
from enum import Enum, auto
from typing import Final, final

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_SIZE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{0,15}\r?")
_CRLF: Final = b"\r\n"


class Standing(Enum):
    """Where a body stands."""

    OPEN = auto()  # more is to come
    ENDED = auto()  # that was all of it; `rest` is behind it
    STRANGE = auto()  # `rest` is for h11
    BROKEN = auto()  # a chunk is longer than its size says


@final
class Chunks:
    """`feed` what comes until `standing` is not open; `rest` is what no chunk has taken yet."""

    __slots__ = ("_left", "rest", "standing")

    def __init__(self) -> None:
        self.standing = Standing.OPEN
        self.rest = b""
        # Bytes of the running chunk that are to come; 0: its CRLF is; None: a size is.
        self._left: int | None = None

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body among these."""
        if self.rest:
            data = self.rest + data
        if self.standing is not Standing.OPEN:
            self.rest = data
            return b""
        parts: list[bytes] = []
        at = 0
        if self._left is None:
            # Whole chunks, as nearly always in a stream: each in half the steps below.
            while size := _SIZE.match(data, at):
                start = size.end()
                end = start + int(size[1], 16)
                if start == end or not data.startswith(_CRLF, end):
                    break
                parts.append(data[start:end])
                at = end + 2
                if at == len(data):
                    self.rest = b""
                    return parts[0] if len(parts) == 1 else b"".join(parts)
        while True:
            if self._left is None:
                size = _SIZE.match(data, at)
                if size is None:
                    if _SIZE_BEGUN.fullmatch(data, at) is None:
                        self.standing = Standing.STRANGE
                    break
                self._left = int(size[1], 16)
                if not self._left:
                    self._left = None
                    at = self._last(data, at, size.end())
                    break
                at = size.end()
            if self._left:
                part = data[at : at + self._left]
                if not part:
                    break
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left:
                    break
            if data[at : at + 2] != _CRLF:
                if data[at:] not in (b"", b"\r"):
                    self.standing = Standing.BROKEN
                break
            at += 2
            self._left = None
        self.rest = data[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _last(self, data: bytes, start: int, end: int) -> int:
        """The last chunk, whose size stands from `start` to `end`: where it ends if it is whole."""
        if data.startswith(_CRLF, end):
            self.standing = Standing.ENDED
            return end + 2
        if data[end:] not in (b"", b"\r"):
            self.standing = Standing.STRANGE
        return start

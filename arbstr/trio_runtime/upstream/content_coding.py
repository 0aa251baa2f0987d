"""Undoing a compression nobody asked for: arbstr sends `accept-encoding: identity`.

The header says that there is something to undo, and the first bytes say what: labels are often
wrong (`none`, `utf-8`, `deflate` without its wrapper, `gzip` for what a proxy has already undone),
and an answer that was paid for is not thrown away because of one.

    begins like JSON, an event stream or HTML     it is readable: nothing to undo
    gzip's or zstd's magic number                 that one, of any number of members
    zlib's header                                 zlib (RFC 1950: what `deflate` is to mean)
    anything else under `deflate`                 raw deflate (RFC 1951)
    anything else                                 a broken answer
"""

import zlib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Final, Protocol, final

from arbstr.trio_runtime.upstream.readers import AnswerBroken

DECODE_STEP: Final = 1024 * 1024
"""Bytes that come out at once: a small body may hold a thousand times its size, and whoever reads
it must be able to stop in time."""

TAKEN_STEP: Final = 16 * 1024
"""Compressed bytes given to a decompressor at once: at the end of each member it copies the rest
of them, and a body may be made of members of 20 bytes."""

MAX_CODINGS: Final = 4
"""Codings undone one after the other. Picked: two have been seen."""

ZSTD_WINDOW_LOG: Final = 23
"""The largest window zstd may ask for is 8 MB (RFC 8878, 3.1.1.1.2); the library allows 128."""

NO_CODINGS: Final = frozenset({"", "identity", "none", "utf-8", "utf8", "binary"})
"""What stands where a coding should, and means that nothing was done."""

LONGEST_WHITE: Final = 4096
"""Bytes of white space after which nothing compressed is expected any more."""

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
READABLE: Final = (b"{", b"[", b"<", b":", b"data:", b"event:", b"id:", b"retry:")
"""How JSON, HTML and event streams begin, after white space. Together with what is looked for
before them nothing compressed begins so, but for one raw deflate body in millions."""

_WHITE: Final = b" \t\r\n\xef\xbb\xbf"  # the last three are a byte order mark
_BROKEN: Final = "the answer was compressed, and broken"


class _Member(Protocol):
    """One compressed member, as zlib and zstd hand them out."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes of what is inside."""


class _Undo(Protocol):
    """`feed` bytes, then `read` until it gives nothing. Raises `AnswerBroken`."""

    def feed(self, data: bytes) -> None: ...
    def read(self) -> bytes: ...


@final
class Decoder:
    """`feed` what arrives, then take from `read` until it gives nothing. Raises `AnswerBroken`."""

    def __init__(self, codings: list[str]) -> None:
        self._layers = [_Layer(coding) for coding in reversed(codings)]  # the outermost first

    @classmethod
    def of(cls, coding: str) -> "Decoder | None":
        """For the value of a `content-encoding` header; `None` if there is nothing to undo."""
        names = [name.strip().lower() for name in coding.split(",", 64)]
        codings = [name for name in names if name not in NO_CODINGS]
        if len(codings) > MAX_CODINGS:
            raise AnswerBroken("the answer was compressed in more ways than anybody needs")
        return cls(codings) if codings else None

    def feed(self, data: bytes) -> None:
        """Takes compressed bytes."""
        self._layers[0].feed(data)

    def read(self) -> bytes:
        """Some bytes as they were before; b"" if that takes more of the compressed ones."""
        return self._read(len(self._layers) - 1)

    def _read(self, n: int) -> bytes:
        layer = self._layers[n]
        while not (data := layer.read()):
            if n == 0 or not (more := self._read(n - 1)):
                return b""
            layer.feed(more)
        return data


@final
class _Layer:
    """One coding. Until its first bytes are there nobody knows what it is."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._start = b""
        self._undo: _Undo | None = None

    def feed(self, data: bytes) -> None:
        if self._undo is None:
            self._start += data
            self._undo = self._told_by(self._start)
            if self._undo is None:
                return
            data, self._start = self._start, b""
        self._undo.feed(data)

    def read(self) -> bytes:
        return b"" if self._undo is None else self._undo.read()

    def _told_by(self, start: bytes) -> _Undo | None:
        """See the module. `None`: not enough bytes yet."""
        text = start.lstrip(_WHITE)
        if text.startswith(READABLE):
            return _AsItIs()
        if not text and len(start) > LONGEST_WHITE:
            return _AsItIs()
        if len(start) < 4 or any(word.startswith(text) for word in READABLE):
            return None
        if start.startswith(GZIP_MAGIC):
            return _Members(_new_gzip, GZIP_MAGIC)
        if start.startswith(ZSTD_MAGIC):
            new = _new_zstd()
            if new is None:
                raise AnswerBroken(
                    "the answer was compressed with zstd, which nobody asked for; arbstr[zstd] "
                    "reads it"
                )
            return _Members(new, ZSTD_MAGIC)
        if start[0] & 0x8F == zlib.DEFLATED and not int.from_bytes(start[:2], "big") % 31:
            return _Members(zlib.decompressobj, None)
        if self._coding == "deflate":
            return _Members(_new_raw, None)
        known = self._coding in ("gzip", "x-gzip", "zstd")
        raise AnswerBroken(
            _BROKEN if known else "the answer was compressed in a way nobody asked for"
        )


@final
class _AsItIs:
    """What was not compressed at all."""

    def __init__(self) -> None:
        self._waiting = b""

    def feed(self, data: bytes) -> None:
        self._waiting += data

    def read(self) -> bytes:
        data, self._waiting = self._waiting, b""
        return data


@final
class _Members:
    """Compressed members, one behind the other if they begin with `magic`; what follows the last
    is dropped."""

    def __init__(self, new: Callable[[], _Member], magic: bytes | None) -> None:
        self._new = new
        self._magic = magic
        self._member: _Member | None = new()
        self._waiting = b""
        self._at = 0  # where in it the bytes begin that nobody has taken
        self._full = False

    def feed(self, data: bytes) -> None:
        self._waiting = self._waiting[self._at :] + data
        self._at = 0

    def read(self) -> bytes:
        while self._member is not None:
            if self._member.eof and not self._next_member():
                return b""
            taken = self._waiting[self._at : self._at + TAKEN_STEP]
            if not taken and not self._full:
                return b""
            data = self._taken(self._member, taken)
            self._full = len(data) == DECODE_STEP
            if data:
                return data
        return b""

    def _taken(self, member: _Member, taken: bytes) -> bytes:
        try:
            data = member.decompress(taken, DECODE_STEP)
        except Exception as error:
            # zlib.error, or that of a zstd library which may not even be there.
            raise AnswerBroken(_BROKEN) from error
        left = member.unused_data if member.eof else getattr(member, "unconsumed_tail", b"")
        self._at += len(taken) - len(left)
        if self._at < 0:
            # zstd keeps what it cannot use yet, and may give back more than it was just given.
            self._waiting, self._at = left + self._waiting[len(taken) :], 0
        return data

    def _next_member(self) -> bool:
        """Whether another one begins; `False` also as long as nobody can tell."""
        if self._magic is None:
            self._member = None
            return False
        begin = self._waiting[self._at : self._at + len(self._magic)]
        if begin == self._magic:
            self._member, self._full = self._new(), False
            return True
        if not self._magic.startswith(begin):
            self._member, self._waiting, self._at = None, b"", 0
        return False


def _new_gzip() -> _Member:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _new_raw() -> _Member:
    return zlib.decompressobj(-zlib.MAX_WBITS)


@cache
def _new_zstd() -> Callable[[], _Member] | None:
    """Makes decompressors, with the standard library's zstd (3.14) or its backport; `None` without
    either. Loaded when it is needed, which is hardly ever."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            module = import_module(name)
        except ImportError:
            continue
        options = {module.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        return lambda: module.ZstdDecompressor(options=options)
    return None

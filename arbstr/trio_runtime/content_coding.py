"""Undoing a compression nobody asked for: arbstr sends `accept-encoding: identity`."""

import zlib
from typing import Final, final

from arbstr.trio_runtime.readers import AnswerBroken

DECODE_STEP: Final = 1024 * 1024
"""Bytes that come out at once: a small body may hold a thousand times its size, and whoever reads
it must be able to stop in time."""

UNDERSTOOD: Final = frozenset({"gzip", "x-gzip", "deflate"})


@final
class Decoder:
    """`feed` what arrives, then take from `read` until it gives nothing. Raises `AnswerBroken`."""

    def __init__(self) -> None:
        # 32: gzip or zlib, told by the first bytes (zlib's manual, inflateInit2).
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._waiting = b""

    @classmethod
    def of(cls, coding: str) -> "Decoder | None":
        """For the value of a `content-encoding` header; `None` if there is nothing to undo."""
        name = coding.strip().lower()
        if name in ("", "identity"):
            return None
        if name in UNDERSTOOD:
            return cls()
        raise AnswerBroken("the answer was compressed in a way nobody asked for")

    def feed(self, data: bytes) -> None:
        """Takes compressed bytes."""
        self._waiting += data

    def read(self) -> bytes:
        """Some bytes as they were before; b"" if that takes more of the compressed ones."""
        try:
            data = self._inflate.decompress(self._waiting, DECODE_STEP)
        except zlib.error:
            raise AnswerBroken("the answer was compressed, and broken") from None
        self._waiting = self._inflate.unconsumed_tail
        return data

"""The bytes of one answer -> its head and its body. No I/O.

    H11Reader      whatever HTTP/1.1 allows
    LengthReader   an answer whose head `sansio/heads.py` could read: its body is so and so long
    ChunksReader   the same, and its body is in chunks; what is unusual in them goes on to h11

`reader_of` chooses by the first bytes that came. Both are fed what arrives and told how the peer's
half of the connection ended, which is how some bodies end.
"""

from collections.abc import Callable
from typing import Final, Protocol, final

import h11

from arbstr.sansio.chunks import Chunks, Standing
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.heads import AnswerHead, read_answer
from arbstr.trio_runtime.upstream.pipe import CLOSED, DRAIN_SIZE

_END: Final = h11.EndOfMessage()


class AnswerBroken(Exception):  # noqa: N818 - a fact about the wire, told in the past tense
    """The answer ended too early or is not HTTP. `sentence` says what was seen, in our words."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


@final
@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer. Header names are lower-case; the values are as they came."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    reason: bytes


class Reader(Protocol):
    """One answer. Feed it, ask for its head until there is one, then pull its body."""

    complete: bool
    """Whether the last byte of the answer has been given out."""
    dry: bool
    """Whether only more bytes can bring more."""

    def feed(self, data: bytes) -> None:
        """Takes bytes; none are the end of the peer's half."""

    def head(self) -> Head | None:
        """The final head, None as long as it is not whole. Raises AnswerBroken."""

    def forget_head(self) -> None:
        """Whoever asks has its head."""

    def pull(self, ended: str | None) -> bytes:
        """Bytes of the body, in one object; may set `complete`. Raises AnswerBroken.

        `ended` is how the peer's half ended, or None.
        """

    def renew(self) -> bool:
        """After the last byte: whether the connection can serve another request."""


def reader_of(
    http: Callable[[], h11.Connection], request: h11.Request, data: bytes, *, plain: bool
) -> Reader:
    """The reader for an answer that begins with these bytes; it is not fed with them yet.

    `http` gives the connection's h11, between two requests, and `request` what it would have to
    know of this one. `plain`: a POST that leaves the connection as it is.
    """
    head = read_answer(data) if plain else None
    if head is None:
        return H11Reader(http(), request)
    if head.length is None:
        return ChunksReader(head, lambda: H11Reader(http(), request))
    return LengthReader(head, head.length)


@final
class H11Reader:
    """What h11 reads. See `Reader`."""

    __slots__ = ("_ambiguous", "_head", "_http", "complete", "dry")

    def __init__(self, http: h11.Connection, request: h11.Request) -> None:
        http.send(request)
        http.send(_END)
        self._http = http
        self._head: Head | None = None
        self._ambiguous = False
        self.complete = False
        self.dry = False

    def feed(self, data: bytes) -> None:
        """See `Reader`."""
        self._http.receive_data(data)

    def head(self) -> Head | None:
        """See `Reader`. 1xx answers are passed over."""
        if self._head is not None:
            return self._head
        try:
            event = self._http.next_event()
            while type(event) is h11.InformationalResponse:
                event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            # The hint h11 gives for a head that is too long, and for nothing else here.
            too_long = error.error_status_hint == 431
            raise AnswerBroken(
                "the head of the answer is over 64 kB"
                if too_long
                else "the answer is not valid HTTP/1.1"
            ) from error
        if type(event) is h11.Response:
            headers = tuple((name.lower(), value) for name, value in event.headers.raw_items())
            self._head = Head(event.status_code, headers, event.reason)
            # Whoever is between us may have believed the other one (RFC 9112 6.3).
            names = {name for name, _ in headers}
            self._ambiguous = names >= {b"content-length", b"transfer-encoding"}
        return self._head

    def forget_head(self) -> None:
        """See `Reader`. It has to know that there was one."""

    def pull(self, ended: str | None) -> bytes:
        """See `Reader`."""
        parts: list[bytes] = []
        size = 0
        self.dry = False
        cut: str | None = None
        try:
            while size < DRAIN_SIZE:
                event = self._http.next_event()
                if type(event) is h11.Data:
                    parts.append(event.data)
                    size += len(event.data)
                elif type(event) is h11.EndOfMessage:
                    self.complete = True
                    break
                elif ended in (None, CLOSED):
                    self.dry = True
                    break
                else:
                    cut = f"{ended} before the body was complete"
                    break
        except h11.RemoteProtocolError:
            cut = (
                "the body is not valid HTTP/1.1"
                if ended is None
                else f"{ended} before the body was complete"
            )
        if not parts and cut is not None:
            raise AnswerBroken(cut)
        return b"".join(parts)

    def renew(self) -> bool:
        """See `Reader`."""
        http = self._http
        if (
            http.our_state is not h11.DONE
            or http.their_state is not h11.DONE
            or http.trailing_data != (b"", False)
            or self._ambiguous
        ):
            return False
        http.start_next_cycle()
        return True


@final
class LengthReader:
    """An answer with a Content-Length, counted. See `Reader`."""

    __slots__ = ("_awaited", "_closes", "_head", "_size", "_waiting", "complete", "dry")

    def __init__(self, head: AnswerHead, length: int) -> None:
        self._head: Head | None = Head(head.status, tuple(head.headers), head.reason)
        self._size = head.size
        self._awaited = length
        self._closes = head.closes
        self._waiting = b""
        self.complete = False
        self.dry = False

    def feed(self, data: bytes) -> None:
        """See `Reader`."""
        if self._size:
            data, self._size = data[self._size :], 0
        self._waiting = self._waiting + data if self._waiting else data

    def head(self) -> Head | None:
        """See `Reader`."""
        return self._head

    def forget_head(self) -> None:
        """See `Reader`."""
        self._head = None

    def pull(self, ended: str | None) -> bytes:
        """See `Reader`."""
        data, self._waiting = self._waiting, b""
        if len(data) > self._awaited:
            data, self._waiting = data[: self._awaited], data[self._awaited :]
        self._awaited -= len(data)
        self.complete = not self._awaited
        self.dry = not self.complete
        if not data and ended is not None and not self.complete:
            raise AnswerBroken(f"{ended} before the body was complete")
        return data

    def renew(self) -> bool:
        """See `Reader`."""
        return self.complete and not self._closes and not self._waiting


_CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
"""What tells h11 that chunks follow."""


@final
class ChunksReader:
    """An answer in chunks. See `Reader`. `others` makes the reader of what is unusual in them."""

    __slots__ = (
        "_chunks",
        "_closes",
        "_head",
        "_other",
        "_others",
        "_ready",
        "_size",
        "complete",
        "dry",
    )

    def __init__(self, head: AnswerHead, others: Callable[[], H11Reader]) -> None:
        self._head: Head | None = Head(head.status, tuple(head.headers), head.reason)
        self._size = head.size
        self._closes = head.closes
        self._chunks = Chunks()
        self._ready = b""
        self._others = others
        self._other: H11Reader | None = None
        self.complete = False
        self.dry = False

    def feed(self, data: bytes) -> None:
        """See `Reader`."""
        if self._size:
            data, self._size = data[self._size :], 0
        if self._other is not None:
            self._other.feed(data)
            return
        ready = self._chunks.feed(data)
        self._ready = self._ready + ready if self._ready else ready
        if self._chunks.standing is Standing.STRANGE:
            self._other = self._others()
            self._other.feed(_CHUNKED)
            self._other.head()
            self._other.feed(self._chunks.rest)

    def head(self) -> Head | None:
        """See `Reader`."""
        return self._head

    def forget_head(self) -> None:
        """See `Reader`."""
        self._head = None

    def pull(self, ended: str | None) -> bytes:
        """See `Reader`."""
        data, self._ready = self._ready, b""
        if self._other is not None:
            self.dry = False
            if not data:
                data = self._other.pull(ended)
                self.complete, self.dry = self._other.complete, self._other.dry
            return data
        standing = self._chunks.standing
        self.complete, self.dry = standing is Standing.ENDED, standing is Standing.OPEN
        if not data and ended is not None and not self.complete:
            raise AnswerBroken(f"{ended} before the body was complete")
        if not data and standing is Standing.BROKEN:
            raise AnswerBroken("the body is not valid HTTP/1.1")
        return data

    def renew(self) -> bool:
        """See `Reader`."""
        if self._closes:
            return False
        if self._other is not None:
            return self._other.renew()
        return self.complete and not self._chunks.rest

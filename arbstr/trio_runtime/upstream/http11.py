"""One HTTP/1.1 request and its answer on a pipe, knowing at every moment what has happened.

The request is written from a head that was checked and rendered once per provider. Who reads the
answer is known with its first bytes (readers.py); if that is h11, it is told of the request then,
by a small event that says the same to its state machine: this method, this Connection header, no
body left to send.

A `Connection` is one exchange; the `Link` below it lives on to serve the next one.
"""

from dataclasses import field
from math import inf
from typing import TYPE_CHECKING, Final, Self, final

import h11
import trio

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.heads import promised_seconds
from arbstr.trio_runtime.upstream.connect import Origin
from arbstr.trio_runtime.upstream.deadlines import Deadline, Deadlines
from arbstr.trio_runtime.upstream.pipe import CLOSED, DRAIN_SIZE, RECEIVE_SIZE, Pipe
from arbstr.trio_runtime.upstream.readers import AnswerBroken, Head, Reader, reader_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_HEAD: Final = 65_536
"""Bytes of an unfinished head (or chunk header) held before giving up (h11's default: 16 kB)."""

PIECE_SIZE: Final = 1_048_576
"""Bytes of a request encrypted and written before other tasks get a turn (picked)."""

APART_SIZE: Final = 16_384
"""Bytes of a body from which on it is not copied behind its head: to hand the kernel two pieces
takes as long as it takes to copy so many (measured)."""

_BEFORE: Final = "before the answer began"

_GIVEN: Final = Head(0, (), b"")
"""In place of a head that `receive_head` has returned."""


class SendFailed(Exception):  # noqa: N818 - a fact about the wire, told in the past tense
    """The peer closed before a single byte of the request was written: nothing can have cost."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


@final
@dataclass(frozen=True, slots=True, eq=False)
class RequestHead:
    """A request's head, checked and rendered once, good for any number of bodies.

    Its repr shows nothing, for it holds the provider's key.
    """

    rendered: bytes = field(repr=False)
    """Everything but Content-Length and the empty line."""
    counts: bool = field(repr=False)
    """Whether an empty body is announced with a Content-Length, too."""
    told: h11.Request = field(repr=False)
    """What h11's state machine is told, if it is asked to read the answer."""
    plain: bool = field(repr=False)
    """Whether it is a POST that says nothing about the connection."""

    @classmethod
    def prepare(
        cls, method: bytes, target: bytes, headers: "Sequence[tuple[bytes, bytes]]"
    ) -> Self:
        """Builds a head. `headers` needs Host and must not frame the body: `render` does that.

        Raises ValueError if it cannot be sent. The message does not repeat it: it may be a key.
        """
        names = {name.lower() for name, _ in headers}
        if not names.isdisjoint((b"content-length", b"transfer-encoding")):
            raise ValueError("the body's framing is not the caller's to choose")
        try:
            request = h11.Request(method=method, target=target, headers=list(headers))
            rendered = h11.Connection(h11.CLIENT).send(request)
        except h11.LocalProtocolError:
            raise ValueError("the request's method, target or a header is not valid") from None
        told = h11.Request(
            method=method,
            target=b"/",
            headers=[pair for pair in headers if pair[0].lower() in (b"host", b"connection")],
        )
        counts = method not in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")
        plain = method == b"POST" and b"connection" not in names
        return cls(rendered[: -len(b"\r\n")], counts, told, plain)

    def render(self, length: int) -> bytes:
        """The head as it is written before a body of `length` bytes."""
        if length or self.counts:
            return b"%bContent-Length: %d\r\n\r\n" % (self.rendered, length)
        return self.rendered + b"\r\n"


@final
class Link:
    """A pipe and the state of the HTTP conversation on it."""

    __slots__ = ("_http", "expires", "origin", "pipe", "promised")

    def __init__(self, origin: Origin, pipe: Pipe) -> None:
        self.origin = origin
        self.pipe = pipe
        self._http: h11.Connection | None = None
        self.promised = inf
        """Seconds the peer says that it keeps the connection after the last exchange."""
        self.expires = 0.0
        """`trio.current_time()` from which on it does not serve another exchange."""

    def http(self) -> h11.Connection:
        """h11's half of it, between two requests. Few answers need it, and it takes 1.5 kB."""
        if self._http is None:
            self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        return self._http


@final
class Connection:
    """One exchange: `send`, `receive_head`, `receive_some` until `complete`, `release`.

    A cancelled `receive_*` has lost nothing, and any other task may read on from there (one at a
    time); so has one that is `TooLate`. After such a `send` only `release` makes sense. Everything
    raises
    `trio.ClosedResourceError` after `release`.
    """

    __slots__ = (
        "_asked",
        "_cut",
        "_give_back",
        "_head",
        "_link",
        "_reader",
        "_sent_whole",
        "bytes_received",
        "reused",
        "written",
    )

    def __init__(
        self, link: Link, give_back: "Callable[[Link, bool], None]", *, reused: bool
    ) -> None:
        self._link: Link | None = link
        self._give_back = give_back
        self._asked: RequestHead | None = None
        self._reader: Reader | None = None
        self._head: Head | None = None
        self._cut: str | None = None
        self._sent_whole = False
        self.reused = reused
        """Whether an earlier exchange has used this socket."""
        self.written = 0
        """Bytes of the request the kernel has taken (encrypted ones with TLS). 0: not a byte."""
        self.bytes_received = 0
        """Bytes of the answer so far, head and framing included."""

    @property
    def complete(self) -> bool:
        """True once the last byte of the answer has been given out."""
        return self._reader is not None and self._reader.complete

    def within(self, seconds: float, clock: Deadlines) -> Deadline:
        """What is waited for here from now on is waited for so long: then `TooLate`."""
        return clock.begin(self._claimed().pipe, seconds)

    async def send(self, head: RequestHead, body: bytes) -> None:
        """Writes the request, head and body in one piece.

        Raises SendFailed if not a byte could be written. If the peer stops listening later, or
        answers with an error before it has read everything, this just returns: what the peer said
        is `receive_head`'s to tell.
        """
        link = self._claimed()
        if self._asked is not None:
            raise LocalProtocolError("an exchange has one request")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._asked = head
        rendered = head.render(len(body))
        if len(body) < APART_SIZE:
            self._sent_whole = await self._send_piece(link, memoryview(rendered + body))
            return
        whole = memoryview(body)
        if not await self._send_piece(link, memoryview(rendered), whole[:PIECE_SIZE]):
            return
        for start in range(PIECE_SIZE, len(body), PIECE_SIZE):
            await trio.lowlevel.checkpoint()
            if not await self._send_piece(link, whole[start : start + PIECE_SIZE]):
                return
        self._sent_whole = True

    async def _send_piece(self, link: Link, *parts: memoryview) -> bool:
        try:
            wire = link.pipe.protect(*parts)
            while wire:
                try:
                    sent = link.pipe.send_nowait(*wire)
                except BlockingIOError:
                    if not await self._room(link):
                        return False
                else:
                    self.written += sent
                    wire = _behind(wire, sent)
        except OSError as error:
            if self.written == 0:
                raise SendFailed(f"{CLOSED} before anything was sent") from error
            return False
        return True

    async def _room(self, link: Link) -> bool:
        """Waits until more can be written. False if an error's head, or the end, came first."""
        if self._head is not None:
            await link.pipe.wait_writable()
            return True
        await link.pipe.wait_either()
        self._take_in(link, RECEIVE_SIZE)
        try:
            head = self._next_head(link)
        except AnswerBroken:
            return False
        # A server may say 200 as soon as it has seen the head, and want the body all the same.
        return head is None or head.status < 300

    async def receive_head(self) -> Head:
        """Waits for the final head, once; 1xx answers are passed over. Raises AnswerBroken."""
        link = self._claimed()
        if self._head is not None or self._cut is not None:
            await trio.lowlevel.checkpoint()
            head = self._next_head(link)
        else:
            while True:
                await link.pipe.wait_readable()
                self._take_in(link, RECEIVE_SIZE)
                head = self._next_head(link)
                if head is not None:
                    break
        assert head is not None
        if self._reader is not None:
            # Whoever asked has it; a stream would keep it, 4 kB of many small pieces.
            self._reader.forget_head()
            self._head = _GIVEN
        return head

    async def receive_some(self) -> bytes:
        """The next bytes of the body: all that is already there, up to about 256 kB.

        b"" is the end of a complete answer. Raises AnswerBroken when it was cut short.
        """
        link = self._claimed()
        if self._reader is None or self._reader.complete or not self._reader.dry:
            await trio.lowlevel.checkpoint()
            data = self._pull(link)
            if data or self.complete:
                return data
        while True:
            await link.pipe.wait_readable()
            self._take_in(link, DRAIN_SIZE)
            data = self._pull(link)
            if data or self.complete:
                return data

    def receive_nowait(self) -> bytes:
        """What came in with the head or before: as `receive_some`, but b"" may also mean "wait".

        `complete` tells the two apart. Raises AnswerBroken. Nothing is read from the socket.
        """
        return self._pull(self._claimed())

    def release(self, *, keep: bool = True) -> None:
        """Ends the exchange: the socket serves another one if it can, else it is closed at once.

        Without `keep` it is closed: HTTP cannot know that the answer was broken. Never blocks, and
        may be called again.
        """
        link, self._link = self._link, None
        if link is not None:
            self._give_back(link, keep and self._reusable(link))

    async def aclose(self) -> None:
        """`release` for `async with` and exit stacks; in a cancelled scope, too, it releases."""
        self.release()
        await trio.lowlevel.checkpoint()

    def _claimed(self) -> Link:
        if self._link is None:
            raise trio.ClosedResourceError("this exchange was released")
        return self._link

    def _take_in(self, link: Link, limit: int) -> None:
        """Feeds the reader with what has arrived."""
        data = link.pipe.receive_nowait(limit)
        if not data and (link.pipe.ended != CLOSED or self._head is None):
            return
        # No bytes are how a body without framing ends.
        self.bytes_received += len(data)
        if self._reader is None:
            if self._asked is None:
                raise LocalProtocolError("the request comes before the answer")
            self._reader = reader_of(link.http, self._asked.told, data, plain=self._asked.plain)
        self._reader.feed(data)

    def _next_head(self, link: Link) -> Head | None:
        """The final head, None as long as it is not complete."""
        if self._head is not None:
            return self._head
        if self._cut is not None:
            raise AnswerBroken(self._cut)
        try:
            self._head = self._reader.head() if self._reader is not None else None
        except AnswerBroken as error:
            self._cut = error.sentence
            raise
        if self._head is None and link.pipe.ended is not None:
            where = "within the head of the answer" if self.bytes_received else _BEFORE
            self._cut = f"{link.pipe.ended} {where}"
            raise AnswerBroken(self._cut)
        if self._head is not None:
            link.promised = promised_seconds(self._head.headers)
        return self._head

    def _pull(self, link: Link) -> bytes:
        """The body bytes there are, in one object; may set `complete`."""
        if self._reader is None or self._head is None:
            raise LocalProtocolError("the head comes before the body")
        return b"" if self._reader.complete else self._reader.pull(link.pipe.ended)

    def _reusable(self, link: Link) -> bool:
        if not self._sent_whole or self._reader is None or self._head is None:
            return False
        try:
            if not self._reader.complete:
                # The end of a chunked body often arrives just after its last bytes.
                self._take_in(link, RECEIVE_SIZE)
                self._pull(link)
        except AnswerBroken:
            return False
        return self._reader.complete and link.pipe.ended is None and self._reader.renew()


def _behind(parts: tuple[memoryview, ...], sent: int) -> tuple[memoryview, ...]:
    """What is left of them without the first `sent` bytes."""
    while parts and sent >= len(parts[0]):
        sent -= len(parts[0])
        parts = parts[1:]
    return (parts[0][sent:], *parts[1:]) if sent else parts

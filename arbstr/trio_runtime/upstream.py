"""One request to one provider, and what was seen of its answer.

This is the seam where exceptions become facts: whatever happens on the wire comes out as a
`Failure`, named by what was seen (`Seen`), never by an exception. Deadlines are the caller's cancel
scopes; when one fires, `UpstreamCall.cut_short` says what that means. A cancelled read loses
nothing, so a call can be handed to `learn_the_rest`, which reads a departed client's answer to its
end to learn what it cost.
"""

import re
import zlib
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import IntEnum
from typing import TYPE_CHECKING, Final, final

import httpx

from arbstr import __version__
from arbstr.sansio.answer import Answer, BadAnswer, ErrorAnswer, as_stream, judge
from arbstr.sansio.callers import fold_headers
from arbstr.sansio.catalog import Provider
from arbstr.sansio.config import Kind
from arbstr.sansio.failure import (
    Failure,
    FailureKind,
    from_error_body,
    from_status,
    is_answer,
    request_id_of,
    seen,
)
from arbstr.sansio.money import Usage
from arbstr.sansio.relay import Relay
from arbstr.sansio.secrets import Secret
from arbstr.sansio.usage import read_cost_header
from arbstr.trio_runtime.transport import (
    AnswerBroken,
    ConnectFailed,
    Connection,
    Origin,
    RequestHead,
    SendFailed,
    Transport,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an error's body is read: what a person may need is in its first lines."""

DECODE_STEP: Final = 1024 * 1024
"""Decompressed bytes handled at once, so that a small body cannot become a large one unseen."""

REFUND_TOKEN: Final = re.compile(rb'"refund_token"\s*:\s*"([^"\\]+)"')
"""Where a node puts ecash it gives back (a member of the error object)."""

USER_AGENT: Final = f"arbstr/{__version__}".encode()


class Seen(IntEnum):
    """How far a call has come, by what was seen on the wire."""

    NOTHING_SENT = 0
    SENT = 1
    GOOD_HEAD = 2
    OUTPUT = 3


@final
@dataclass(frozen=True, slots=True)
class Target:
    """What every request to a provider has in common, prepared once."""

    origin: Origin
    plain: RequestHead
    stream: RequestHead

    @classmethod
    def of(cls, provider: Provider) -> "Target":
        """Prepares the heads of the requests to one provider. Only these headers are ever sent."""
        url = httpx.URL(provider.url)
        origin = Origin.of(url)
        common = [
            (b"host", origin.authority),
            (b"user-agent", USER_AGENT),
            (b"accept-encoding", b"identity"),
            (b"content-type", b"application/json"),
        ]
        if provider.authorization is not None:
            common.append((b"authorization", provider.authorization.reveal().encode()))

        def head(accept: bytes) -> RequestHead:
            return RequestHead.prepare(b"POST", url.raw_path, [*common, (b"accept", accept)])

        return cls(origin, head(b"application/json"), head(b"text/event-stream"))


@final
@dataclass(frozen=True, slots=True)
class Clock:
    """The hub's reading of the wall clock (epoch seconds) and what must be redacted."""

    epoch: float
    secrets: tuple[Secret, ...]


@final
class UpstreamCall:
    """One request to one provider. Owned by whoever made it; `close` ends it.

    `await connect(transport)`, then one of `await plain(body)` and `await stream(body)`. After
    `stream` returned bytes, `await more()` brings the rest, until `b""`.
    """

    def __init__(
        self,
        provider: Provider,
        target: Target,
        *,
        kind: Kind,
        choices: int,
        asks_usage: bool,
        max_answer_bytes: int,
        added_stream_options: bool,
        clock: Clock,
    ) -> None:
        self.provider = provider
        self.kind = kind
        self.seen = Seen.NOTHING_SENT
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.relay = Relay(choices=choices, asks_usage=asks_usage, max_body_bytes=max_answer_bytes)
        self.answer: Answer | None = None
        self.ended = False
        self._target = target
        self._choices = choices
        self._asks_usage = asks_usage
        self._max_answer_bytes = max_answer_bytes
        self._added_stream_options = added_stream_options
        self._clock = clock
        self._connection: Connection | None = None
        self._decoder: _Decoder | None = None
        self._body = bytearray()
        self._streams = False

    @property
    def upstream_request_id(self) -> str | None:
        """The provider's own id of this request, for asking its operator."""
        return request_id_of(self.headers, self._clock.secrets)

    @property
    def usage(self) -> Usage | None:
        """Tokens seen so far."""
        return self.answer.usage if self.answer is not None else self.relay.usage

    @property
    def provider_cost_msats(self) -> Decimal | None:
        """What the provider says it charged, in millisats."""
        if self.answer is not None and self.answer.provider_cost_msats is not None:
            return self.answer.provider_cost_msats
        if self.relay.provider_cost_msats is not None:
            return self.relay.provider_cost_msats
        return read_cost_header(self.headers.get("x-routstr-cost-msats", ""))

    @property
    def can_be_read_on(self) -> bool:
        """Whether the request is wholly out and its answer still to come."""
        return self._connection is not None and self.seen >= Seen.SENT and not self.ended

    # -- one attempt ---------------------------------------------------------------------------

    async def connect(self, transport: Transport) -> Failure | None:
        """A connection to the provider, new or kept."""
        try:
            self._connection = await transport.connect(self._target.origin)
        except ConnectFailed as error:
            return self._failure(FailureKind.NOT_SENT, f"could not be reached: {error.sentence}")
        return None

    async def plain(self, body: bytes) -> Answer | Failure:
        """Sends the request and reads the whole answer."""
        failure = await self._send(body, self._target.plain)
        if failure is not None:
            return failure
        return await self._whole()

    async def stream(self, body: bytes) -> bytes | Failure:
        """Sends the request and reads until output begins; returns the first bytes to relay."""
        failure = await self._send(body, self._target.stream)
        if failure is not None:
            return failure
        while True:
            try:
                data = await self._receive()
            except AnswerBroken as error:
                return self.cut_short(_broke(error))
            out = self.relay.feed(data) if data else self.relay.end_input()
            if self.relay.not_sse:
                return await self._from_plain(self.relay.held, ended=not data)
            failure = self.stream_failure()
            if failure is not None:
                return failure
            if self.relay.committed:
                self.seen = Seen.OUTPUT
                return out
            if not data:
                return self._ended_without_output()

    async def more(self) -> bytes:
        """Bytes to relay after output began; `b""` when nothing more will come.

        Raises `AnswerBroken` when the connection breaks.
        """
        data = await self._receive()
        return self.relay.feed(data) if data else self.relay.end_input()

    def stream_failure(self) -> Failure | None:
        """What a stream's own bytes say went wrong: an error event, an event without end."""
        relay = self.relay
        if relay.complete:
            return None
        if relay.error is not None:
            if self.seen is Seen.OUTPUT:
                return self._failure(FailureKind.STREAM_CUT, "broke its stream off with an error")
            return self._error_answer(relay.error)
        if relay.garbled:
            return self.cut_short("sent an event that is not whole JSON")
        if relay.overflow:
            return self.cut_short("sent an event of over 16 MiB")
        return None

    def cut_short(self, sentence: str) -> Failure:
        """What it means that the answer ended here, by what had been seen. Our own timers, too."""
        if self._connection is None or (
            self.seen is Seen.NOTHING_SENT and self._connection.written == 0
        ):
            return self._failure(FailureKind.NOT_SENT, sentence)
        if self.seen < Seen.GOOD_HEAD:
            return self._failure(FailureKind.NO_ANSWER, sentence)
        if self.seen is Seen.OUTPUT:
            return self._failure(FailureKind.STREAM_CUT, sentence)
        if self._streams:
            return self._failure(FailureKind.STREAM_DIED, sentence)
        return self._failure(FailureKind.BAD_ANSWER, sentence)

    def connect_timed_out(self, seconds: float) -> Failure:
        """Our own deadline for the connection passed."""
        return replace(
            self._failure(FailureKind.NOT_SENT, f"did not connect within {seconds:g} s"),
            timed_out_connecting=True,
        )

    def stray_change(self) -> tuple[str, ...]:
        """Ecash in the answer that belongs to the user: `X-Cashu`, or a `refund_token`."""
        tokens = [match.decode() for match in REFUND_TOKEN.findall(self._body)]
        if "x-cashu" in self.headers:
            tokens.insert(0, self.headers["x-cashu"])
        return tuple(dict.fromkeys(tokens))

    def given_up(self, kind: FailureKind, sentence: str) -> Failure:
        """The attempt is stopped for a reason that is not the provider's."""
        failure = self._failure(kind, sentence)
        if self._connection is None or self._connection.written == 0:
            return self._failure(FailureKind.NOT_SENT, sentence)
        return failure

    # -- afterwards ----------------------------------------------------------------------------

    async def learn_the_rest(self) -> None:
        """Reads an answer nobody waits for to its end, for its usage and price. Never raises."""
        try:
            if self.seen is Seen.SENT and await self._head() is not None:
                return
            if self._streams:
                while not self.relay.done and self.relay.error is None:
                    data = await self._receive()
                    if not data:
                        self.relay.end_input()
                        return
                    self.relay.feed(data)
            else:
                await self._whole_body()
        except AnswerBroken:
            return

    def close(self) -> None:
        """Gives the connection back if its answer was read to the end, or closes it."""
        self.ended = True
        if self._connection is not None:
            self._connection.release()
            self._connection = None

    async def finish(self) -> None:
        """Reads what follows `[DONE]`, normally nothing, so that the connection can be kept."""
        try:
            while await self._receive():
                pass
        except AnswerBroken:
            return

    # -- inside --------------------------------------------------------------------------------

    async def _send(self, body: bytes, head: RequestHead) -> Failure | None:
        assert self._connection is not None  # connect() came first
        self._streams = head is self._target.stream
        try:
            await self._connection.send(head, body)
        except SendFailed as error:
            return self.cut_short(_broke(error))
        self.seen = Seen.SENT
        try:
            return await self._head()
        except AnswerBroken as error:
            return self.cut_short(_broke(error))

    async def _head(self) -> Failure | None:
        assert self._connection is not None  # the request was sent on it
        head = await self._connection.receive_head()
        self.status, self.headers = head.status, fold_headers(head.headers)
        if self.kind is Kind.OPENAI and "x-routstr-request-id" in self.headers:
            self.kind = Kind.ROUTSTR
        self._decoder = _Decoder.of(self.headers.get("content-encoding", ""))
        if is_answer(head.status):
            self.seen = Seen.GOOD_HEAD
            return None
        await self._error_body()
        self.ended = True
        return from_status(
            head.status,
            self.headers,
            bytes(self._body),
            kind=self.kind,
            added_stream_options=self._added_stream_options,
            now_utc=self._clock.epoch,
            secrets=self._clock.secrets,
        )

    async def _error_body(self) -> None:
        """As much of an error's body as comes; the status stands whatever becomes of the rest."""
        try:
            while len(self._body) < MAX_ERROR_BYTES:
                data = await self._receive()
                if not data:
                    return
                self._body += data[:MAX_ERROR_BYTES]
        except AnswerBroken:
            return

    async def _receive(self) -> bytes:
        assert self._connection is not None  # the request was sent on it
        data = await self._connection.receive_some()
        if self._decoder is None:
            return data
        while data:
            decoded = self._decoder.feed(data)
            if decoded:
                return decoded
            data = await self._connection.receive_some()
        return b""

    async def _whole_body(self) -> Failure | None:
        while True:
            try:
                data = await self._receive()
            except AnswerBroken as error:
                return self.cut_short(_broke(error))
            if not data:
                self.ended = True
                return None
            self._body += data
            if len(self._body) > self._max_answer_bytes:
                return self.cut_short("answered with more than [server] max_answer_mb")

    async def _whole(self) -> Answer | Failure:
        return await self._whole_body() or self._judged()

    def _judged(self) -> Answer | Failure:
        verdict = judge(
            bytes(self._body),
            content_type=self.headers.get("content-type", ""),
            choices=self._choices,
        )
        match verdict:
            case Answer():
                self.answer = verdict
                return verdict
            case BadAnswer(sentence):
                return self._failure(FailureKind.BAD_ANSWER, sentence)
            case ErrorAnswer(data):
                return self._error_answer(data)

    def _error_answer(self, data: bytes) -> Failure:
        return from_error_body(
            data,
            status=self.status or 200,
            kind=self.kind,
            upstream_request_id=self.upstream_request_id,
        )

    async def _from_plain(self, held: bytes, *, ended: bool) -> bytes | Failure:
        """A stream was asked for and something else came: an answer is made into a stream."""
        self._body += held
        self.ended = ended
        answer = self._judged() if ended else await self._whole()
        if isinstance(answer, Failure):
            return answer
        self.relay = Relay(choices=self._choices, asks_usage=self._asks_usage)
        out = self.relay.feed(as_stream(answer.body))
        self.seen = Seen.OUTPUT
        return out

    def _ended_without_output(self) -> Failure:
        if self._connection is not None and self._connection.bytes_received == 0:
            return self._failure(FailureKind.BAD_ANSWER, "answered with nothing at all")
        return self._failure(FailureKind.STREAM_DIED, "ended its stream before any output")

    def _failure(self, kind: FailureKind, sentence: str) -> Failure:
        return seen(
            kind,
            self.kind,
            sentence,
            status=self.status,
            upstream_request_id=self.upstream_request_id,
        )


def _broke(error: AnswerBroken | SendFailed) -> str:
    return f"broke off: {error.sentence}"


@final
class _Decoder:
    """Undoes a compression nobody asked for (we send `accept-encoding: identity`)."""

    def __init__(self) -> None:
        # 32: gzip or zlib, told by the first bytes (zlib's manual, inflateInit2).
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)

    @classmethod
    def of(cls, coding: str) -> "_Decoder | None":
        name = coding.strip().lower()
        if name in ("", "identity"):
            return None
        if name in ("gzip", "x-gzip", "deflate"):
            return cls()
        raise AnswerBroken(f"the answer was compressed in a way nobody asked for ({name[:20]!r})")

    def feed(self, data: bytes) -> bytes:
        parts = []
        try:
            while data:
                parts.append(self._inflate.decompress(data, DECODE_STEP))
                data = self._inflate.unconsumed_tail
        except zlib.error:
            raise AnswerBroken("the answer was compressed, and broken") from None
        return b"".join(parts)

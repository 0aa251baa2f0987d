"""One provider's answer, read to a verdict: what was seen of it, and what that means.

    a plain answer     _whole          the body, then what its door makes of it
    a stream           _first_output   until output begins, then event by event
    either in place of the other       put together, or taken apart, as it was asked for

Whatever happens on the wire comes out as a `Failure`, named by what was seen (`failover/watch.py`),
never by an exception. `call.py` is what is sent, and what becomes of the connection.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import trio

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.dialects.dialect import Answer, Asked, BadAnswer, ErrorAnswer, Stored, Verdict
from arbstr.sansio.dialects.relay import Relay, fed
from arbstr.sansio.dialects.sse import begins_as_stream
from arbstr.sansio.dialects.usage import is_heavy, read_cost_header
from arbstr.sansio.dialects.whole import relayed
from arbstr.sansio.failover.classify import from_error_body, from_status, request_id_of
from arbstr.sansio.failover.failure import (
    Failure,
    FailureKind,
    as_stated,
    seen,
)
from arbstr.sansio.failover.kinds import TRAITS, stated_in
from arbstr.sansio.failover.watch import ENDINGS, End, Stage
from arbstr.sansio.money import Usage
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.change import without_tokens
from arbstr.trio_runtime.heavy import apart
from arbstr.trio_runtime.upstream.content_coding import GZIP_MAGIC, Decoder
from arbstr.trio_runtime.upstream.target import Target
from arbstr.trio_runtime.upstream.transport import (
    AnswerBroken,
    Connection,
    Head,
    SendFailed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

P = ParamSpec("P")
T = TypeVar("T")

MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an error's body is read: what a person may need is in its first lines."""

ERROR_BODY_SECONDS: Final = 5.0
"""How long the rest of an error's body is waited for: the status says most of it. Picked."""

LAST_WORD_SECONDS: Final = 2.0
"""How long the rest of a stream is waited for after its error event: a charge may stand in it, and
whoever is asked next is paid again. As long as for the usage of a complete one."""

TAIL_SECONDS: Final = 0.05
"""How long the end of a message may take after the last event for its connection to be kept. The
client has its answer by then. Picked, not measured."""


class Seen(IntEnum):
    """How far a call has come, by what was seen on the wire."""

    NOTHING_SENT = 0
    SENT = 1
    REFUSED = 2  # a complete head that is no answer; whatever follows, it stands
    GOOD_HEAD = 3
    OUTPUT = 4


class Answering:
    """What `UpstreamCall` knows of its answer. The request is on `_connection` once it was sent.

    `secrets` are taken out of what the client may read of an error.
    """

    def __init__(
        self,
        provider: Provider,
        target: Target,
        *,
        kind: Kind,
        asked: Asked,
        max_answer_bytes: int,
        added_stream_options: bool,
        path_served: bool = False,
        secrets: tuple[Secret, ...],
    ) -> None:
        self.provider = provider
        self.kind = kind
        self.seen = Seen.NOTHING_SENT
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.relay = Relay(asked.dialect.reading(asked), max_body_bytes=max_answer_bytes)
        self.answer: Answer | None = None
        self._told: Verdict | None = None
        self.ended = False
        self.heard: Callable[[bytes], None] | None = None
        self._target = target
        self._asked = asked
        self._max_answer_bytes = max_answer_bytes
        self._added_stream_options = added_stream_options
        self._path_served = path_served
        self._secrets = secrets
        self._connection: Connection | None = None
        self._decoder: Decoder | None = None
        self._body = bytearray()
        self._body_began = False
        self._streams = False
        self._change_told: set[str] = set()
        # So long was the body when it was last looked through for ecash and had none: to look
        # through 200 kB takes 60 us.
        self._without_change = 0
        self._limits: list[trio.CancelScope] = []

    def limit(self, scope: trio.CancelScope) -> None:
        """What is to be seen of the provider is waited for within `scope`, which was entered.

        Its deadline moves on by the time arbstr itself takes to read something large.
        """
        self._limits.append(scope)

    @property
    def upstream_request_id(self) -> str | None:
        """The provider's own id of this request, for asking its operator."""
        return request_id_of(self.headers, self._secrets)

    @property
    def usage(self) -> Usage | None:
        """Tokens seen so far."""
        return self._told.usage if self._told is not None else self.relay.usage

    @property
    def provider_cost_msats(self) -> Decimal | None:
        """What the provider says it charged, in millisats."""
        if self._told is not None and self._told.provider_cost_msats is not None:
            return self._told.provider_cost_msats
        if self.relay.provider_cost_msats is not None:
            return self.relay.provider_cost_msats
        return read_cost_header(stated_in(self.headers))

    @property
    def stored(self) -> Stored | None:
        """What the provider keeps of an answer that has come whole."""
        return self.relay.stored if self.answer is None else self.answer.stored

    @property
    def can_be_read_on(self) -> bool:
        """Whether the request is wholly out and its answer still to come."""
        awaited = self.seen in (Seen.SENT, Seen.GOOD_HEAD, Seen.OUTPUT)
        return self._connection is not None and awaited and not self.ended

    @property
    def price_is_open(self) -> bool:
        """Whether the rest of a stream, complete or not, may still tell what it cost."""
        readable = self.can_be_read_on and not self.relay.overflow
        return readable and self._misses_price(self.usage, self.provider_cost_msats)

    @property
    def has_said_all(self) -> bool:
        """Whether behind the last event of a stream there is nothing to wait for.

        Behind that of an error a charge may stand. At some doors a node says only there what a
        whole answer cost, and the client is to read it.
        """
        if self.relay.error is not None:
            return False
        follows = self._asked.dialect.price_follows and TRAITS[self.kind].states
        return not follows or self.provider_cost_msats is not None

    def stream_failure(self) -> Failure | None:
        """What a stream's own bytes say went wrong: an error event, an event without end.

        After an error event the provider's last word may still come, with what it charged.
        """
        relay = self.relay
        if relay.complete:
            return None
        if relay.error is not None:
            return self._ended(End.ERROR, "broke its stream off with an error")
        if relay.overflow:
            return self._ended(End.BROKE, "sent an event of over 16 MiB", own_limit=True)
        return None

    def ended_early(self) -> Failure:
        """What it means that a stream ended by itself, and is not complete."""
        if self.relay.missing and self.seen is Seen.OUTPUT:
            return self._ended(End.ENDED, "sent an event that is no JSON, so a part is missing")
        return self._ended(End.ENDED, "ended its stream before the answer was complete")

    def cut_short(self, sentence: str, *, own_limit: bool = False) -> Failure:
        """What it means that the answer ended here, by what had been seen. Our own timers, too.

        `own_limit`: it was longer than arbstr takes, which says nothing about the provider.
        """
        if self.relay.error is not None and (failure := self.stream_failure()) is not None:
            return failure
        return self._ended(End.BROKE, sentence, own_limit=own_limit)

    def given_up(self, kind: FailureKind, sentence: str) -> Failure:
        """The attempt is stopped for a reason that is not the provider's."""
        return self._ended(End.STOPPED, sentence, why=kind)

    def _misses_price(self, usage: Usage | None, stated: Decimal | None) -> bool:
        """Whether this does not tell what the answer cost."""
        return usage is None or (TRAITS[self.kind].states and stated is None)

    def _refused(self) -> Failure:
        assert self.status is not None  # its head was seen
        failure = from_status(
            self.status,
            self.headers,
            bytes(self._body),
            kind=self.kind,
            added_stream_options=self._added_stream_options,
            path_served=self._path_served,
            now_utc=time.time(),
            secrets=self._secrets,
        )
        return self._as_stated(failure)

    def _as_stated(self, failure: Failure, *, counted: bool = False) -> Failure:
        return as_stated(
            failure,
            stated_msats=self.provider_cost_msats,
            counted=counted,
            last_word=self.ended or self.relay.done,
        )

    def _decoder_of(self, head: Head) -> Decoder | None:
        if "content-encoding" not in self.headers:
            return None
        codings = (value for name, value in head.headers if name == b"content-encoding")
        return Decoder.of(b",".join(codings).decode("latin-1"))

    async def _error_body(self, head: Head) -> None:
        """As much of an error's body as comes; the status stands whatever becomes of the rest."""
        try:
            self._decoder = self._decoder_of(head)
            while len(self._body) < MAX_ERROR_BYTES:
                data = await self._receive()
                if not data:
                    self.ended = True
                    return
                self._body += data[:MAX_ERROR_BYTES]
        except AnswerBroken:
            return

    async def _first_output(self) -> bytes | Failure:
        idle, events, failed = self.provider.timeouts.idle, 0, False
        with trio.CancelScope() as silence:
            self.limit(silence)
            while True:
                try:
                    data = await self._receive()
                except AnswerBroken as error:
                    return self.cut_short(broke_off(error))
                heavy = self.relay.is_heavy(data)
                out = await self._fed_apart(data) if heavy else self._fed(data)
                if self.relay.not_sse:
                    break
                # Output first: what came after it in the same piece is `_relay`'s to judge.
                if self.relay.committed:
                    return out
                failure = self.stream_failure()
                # Behind an error's last event its last word may stand, too.
                done = self.relay.done and failure is None
                if self.ended or done or self.relay.overflow:
                    return failure or self._ended_without_output()
                # From the first event on, the time between two of them is limited, too; and after
                # an error the time for its last word.
                if self.relay.events != events and not failed:
                    events = self.relay.events
                    silence.deadline = trio.current_time() + idle
                if failure is not None and not failed:
                    failed = True
                    silence.deadline = trio.current_time() + min(idle, LAST_WORD_SECONDS)
        if silence.cancelled_caught:
            return self.cut_short(f"sent nothing for {idle:g} s")
        return await self._from_plain()

    def _fed(self, data: bytes) -> bytes:
        """What the client gets of these bytes, or of the end that `b""` is."""
        self.ended = not data
        out = self.relay.feed(data) if data else self.relay.end_input()
        if self.relay.committed:
            self.seen = Seen.OUTPUT
        return out

    async def _fed_apart(self, data: bytes) -> bytes:
        """The same for the last piece of a large event."""
        relay, out = await self._apart(fed, self.relay, data)
        self.relay.become(relay)
        self.ended = not data
        if self.relay.committed:
            self.seen = Seen.OUTPUT
        return out

    async def _apart(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`heavy.apart`, whose time is ours: it is nobody's silence."""
        began, deadlines = trio.current_time(), [scope.deadline for scope in self._limits]
        for scope in self._limits:
            scope.deadline = inf
        try:
            return await apart(function, *args, **kwargs)
        finally:
            took = trio.current_time() - began
            for scope, deadline in zip(self._limits, deadlines, strict=True):
                scope.deadline = deadline + took

    async def _receive(self) -> bytes:
        assert self._connection is not None  # the request was sent on it
        while True:
            if self._decoder is not None and (data := self._decoder.read()):
                return data
            data = await self._connection.receive_some()
            if not self._body_began:
                self._began(data)
            if self._decoder is None or not data:
                return data
            self._decoder.feed(data)

    def _began(self, data: bytes) -> None:
        """The body's first bytes, or b"" for its end. They tell gzip where no header does."""
        self._body_began = bool(data)
        if self._decoder is None and data.startswith(GZIP_MAGIC):
            self._decoder = Decoder.of("gzip")

    async def _whole_body(self) -> Failure | None:
        """Reads to the end of the body, or of the stream that came in its place.

        Such a stream is over when it would be over for a client that had asked for it: whatever
        its socket does afterwards. `judge` reads it as it reads any other body.
        """
        assert self._connection is not None  # its head came on it
        here = self._came_with_head()
        if self.ended:
            self._body += here
            return self._too_large() if len(here) > self._max_answer_bytes else None
        watch: Relay | None = None
        over = events = 0
        with trio.CancelScope() as silence:
            self.limit(silence)
            while True:
                try:
                    data, here = here or await self._receive(), b""
                except AnswerBroken as error:
                    if watch is not None:
                        watch.broke()
                        if watch.complete or watch.error is not None:
                            return None
                    elif self._body.rstrip().endswith(b"}"):
                        # It may be whole, whatever was promised: `judge` tells.
                        self.ended = True
                        return None
                    return self.cut_short(broke_off(error))
                if not data:
                    self.ended = True
                    return None
                self._body += data
                if len(self._body) > self._max_answer_bytes:
                    return self._too_large()
                if self._decoder is None and self._connection.complete:
                    self.ended = True
                    return None
                if watch is not None and watch.is_heavy(data):
                    watch, _ = await self._apart(fed, watch, data)
                elif watch is not None:
                    watch.feed(data)
                elif begins_as_stream(self._body):
                    watch = Relay(self._asked.dialect.reading(self._asked))
                    watch.feed(bytes(self._body))
                if watch is None:
                    continue
                if (
                    watch.done
                    and watch.complete
                    and not self._misses_price(
                        watch.usage,
                        self.provider_cost_msats
                        if watch.provider_cost_msats is None
                        else watch.provider_cost_msats,
                    )
                ):
                    # All is said, whatever its socket does.
                    silence.deadline = trio.current_time() + TAIL_SECONDS
                elif watch.ending or watch.done or watch.error is not None:
                    # As in a stream: only its last word can follow.
                    if not over or watch.after_finish >= over:
                        over = watch.after_finish + 1
                        wait = min(self.provider.timeouts.idle, LAST_WORD_SECONDS)
                        silence.deadline = trio.current_time() + wait
                elif watch.events != events:
                    events = watch.events
                    silence.deadline = trio.current_time() + self.provider.timeouts.idle
        if watch is None or watch.complete or watch.error is not None:
            return None
        return self.cut_short(f"sent nothing for {self.provider.timeouts.idle:g} s")

    def _came_with_head(self) -> bytes:
        """The part of the body that is here; `ended` says whether it is all of it.

        Most answers come in one piece: to wait for what is here, and to be told that nothing
        follows, are a turn of Trio's each, and a scope around them costs as much.
        """
        if self._decoder is not None or self._body:
            return b""
        assert self._connection is not None  # its head came on it
        try:
            data = self._connection.receive_nowait()
        except AnswerBroken:
            return b""  # the next wait says so again
        self._began(data)
        if self._decoder is not None:
            self._decoder.feed(data)
            return b""
        self.ended = self._connection.complete
        return data

    async def _whole(self) -> Answer | Failure:
        return await self._whole_body() or await self._judged()

    async def _judged(self) -> Answer | Failure:
        whole = body = bytes(self._body)
        named = self.headers.get("content-type", "")
        judge = self._asked.dialect.judge
        self._told = verdict = (
            await self._apart(judge, body, self._asked.without_texts(), named)
            if is_heavy(body)
            else judge(body, self._asked, named)
        )
        match verdict:
            case Answer(body=body):
                clean = without_tokens(body)
                if clean is whole:
                    self._without_change = len(whole)
                self.answer = verdict if clean is body else replace(verdict, body=clean)
                return self.answer
            case BadAnswer(sentence):
                return self._failure(FailureKind.BAD_ANSWER, sentence)
            case ErrorAnswer(data, counted=counted):
                return self._error_answer(data, counted=counted)

    def _error_answer(self, data: bytes, *, counted: bool = False) -> Failure:
        failure = from_error_body(
            data,
            status=self.status or 200,
            kind=self.kind,
            upstream_request_id=self.upstream_request_id,
            secrets=self._secrets,
        )
        return self._as_stated(failure, counted=counted or self.relay.tally.counted)

    async def _from_plain(self) -> bytes | Failure:
        """A stream was asked for and something else came: an answer is made into a stream."""
        self._streams = False
        if self.relay.overflow:
            return self._too_large()
        self._body += self.relay.held
        answer = await (self._judged() if self.ended else self._whole())
        if isinstance(answer, Failure):
            return answer
        body = answer.body
        self.relay, out = (
            await self._apart(relayed, body, self._asked.without_texts())
            if is_heavy(body)
            else relayed(body, self._asked)
        )
        if not self.relay.complete:
            return self._failure(FailureKind.BAD_ANSWER, "sent JSON that makes no stream")
        self.seen = Seen.OUTPUT
        return out

    def _too_large(self) -> Failure:
        return self.cut_short("answered with more than [server] max_answer_mb", own_limit=True)

    def _ended_without_output(self) -> Failure:
        nothing = "answered with nothing at all"
        some = "ended its stream before any output"
        return self._ended(End.ENDED, some if self._body_began else nothing)

    @property
    def _stage(self) -> Stage:
        """How far this has come, in the words of the table."""
        match self.seen:
            case Seen.NOTHING_SENT:
                written = self._connection is not None and self._connection.written > 0
                return Stage.WRITTEN if written else Stage.UNWRITTEN
            case Seen.SENT:
                return Stage.WRITTEN
            case Seen.REFUSED:
                return Stage.REFUSED
            case Seen.GOOD_HEAD if not self._streams:
                return Stage.PLAIN
            case Seen.GOOD_HEAD:
                return Stage.STREAM if self._body_began else Stage.SILENT
            case Seen.OUTPUT:
                return Stage.OUTPUT

    def _ended(
        self, end: End, sentence: str, *, own_limit: bool = False, why: FailureKind | None = None
    ) -> Failure:
        """What it is called that the attempt ended so, here. `why`: arbstr stopped it."""
        if self.seen is Seen.REFUSED:
            return self._refused()
        kind = ENDINGS[self._stage][end] or why
        if kind is None:
            return self._error_answer(self.relay.error or b"")
        return self._failure(kind, sentence, own_limit=own_limit)

    def _failure(self, kind: FailureKind, sentence: str, *, own_limit: bool = False) -> Failure:
        failure = seen(
            kind,
            self.kind,
            sentence,
            status=self.status,
            own_limit=own_limit,
            upstream_request_id=self.upstream_request_id,
        )
        return self._as_stated(failure)


def broke_off(error: AnswerBroken | SendFailed) -> str:
    return f"broke off: {error.sentence}"

"""One provider's answer, read to a verdict.

    a plain answer     _whole          the body, then what its door makes of it
    a stream           _first_output   until output begins, then event by event
    either in place of the other       put together, or taken apart, as it was asked for

Whatever happens on the wire comes out as a `Failure`, named by what was seen (`witness.py`), never
by an exception. `call.py` is what is sent, and what becomes of the connection.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Final, ParamSpec, TypeVar

import trio

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.dialects.dialect import Answer, Asked, BadAnswer, ErrorAnswer
from arbstr.sansio.dialects.relay import Relay, fed
from arbstr.sansio.dialects.sse import begins_as_stream
from arbstr.sansio.dialects.usage import is_heavy
from arbstr.sansio.dialects.whole import relayed
from arbstr.sansio.failover.failure import Failure, FailureKind
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.secrets import Secret, without_refund_tokens
from arbstr.trio_runtime.heavy import apart
from arbstr.trio_runtime.upstream.content_coding import GZIP_MAGIC, Decoder
from arbstr.trio_runtime.upstream.deadlines import Deadline
from arbstr.trio_runtime.upstream.target import Target
from arbstr.trio_runtime.upstream.transport import (
    AnswerBroken,
    Head,
    SendFailed,
)
from arbstr.trio_runtime.upstream.witness import Seen, Witness

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


class Answering(Witness):
    """Reads the answer to a request that is on `_connection`, and sees what there is to see."""

    heard: Callable[[bytes], None] | None = None
    _decoder: Decoder | None = None
    # Whether the body so far was looked through for ecash and has none: to do so with 200 kB takes
    # 60 us.
    _looked_through = True

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
        super().__init__(
            provider,
            kind=kind,
            asked=asked,
            max_answer_bytes=max_answer_bytes,
            added_stream_options=added_stream_options,
            path_served=path_served,
            secrets=secrets,
        )
        self._target = target
        self._change_told: set[str] = set()
        self._limits: list[trio.CancelScope | Deadline] = []

    def limit(self, scope: trio.CancelScope | Deadline) -> None:
        """What is to be seen of the provider is waited for within `scope`, which was entered.

        Its deadline moves on by the time arbstr itself takes to read something large.
        """
        self._limits.append(scope)

    def _decoder_of(self, head: Head) -> Decoder | None:
        if "content-encoding" not in self.headers:
            return None
        codings = (value for name, value in head.headers if name == b"content-encoding")
        return Decoder.of(b",".join(codings).decode("latin-1"))

    async def _error_body(self, head: Head) -> None:
        """As much of an error's body as comes; the status stands whatever becomes of the rest."""
        try:
            self._decoder = self._decoder_of(head)
            while self._body.size < MAX_ERROR_BYTES:
                data = await self._receive()
                if not data:
                    self.ended = True
                    return
                self._add(data[:MAX_ERROR_BYTES])
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
                    self.relay.broke()
                    self.broke = True
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
        if self._decoder is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            if data := self._decoder.read():
                # Nothing was waited for, and a small piece may hold a thousand times its size.
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
        while True:
            data = await self._connection.receive_some()
            if not self._body_began:
                self._began(data)
            if self._decoder is None or not data:
                return data
            self._decoder.feed(data)
            if data := self._decoder.read():
                return data

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
            self._add(here)
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
                        self.broke = not watch.done
                        if watch.complete or watch.error is not None:
                            return None
                    elif self._body.whole().rstrip().endswith(b"}"):
                        # It may be whole, whatever was promised: `judge` tells.
                        self.ended = True
                        return None
                    return self.cut_short(broke_off(error))
                if not data:
                    self.ended = True
                    return None
                self._add(data)
                if self._body.size > self._max_answer_bytes:
                    return self._too_large()
                if self._decoder is None and self._connection.complete:
                    self.ended = True
                    return None
                if watch is not None and watch.is_heavy(data):
                    read, _ = await self._apart(fed, watch, data)
                    watch.become(read)
                elif watch is not None:
                    watch.feed(data)
                elif begins_as_stream(self._body.beginning()):
                    self._watch = watch = Relay(self._asked.dialect.reading(self._asked))
                    watch.feed(self._body.whole())
                if watch is None:
                    continue
                if (
                    watch.done
                    and watch.complete
                    and not self._misses_price(self.usage, self.provider_cost_msats)
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

    def _add(self, data: bytes) -> None:
        self._body.add(data)
        self._looked_through = False

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
        whole = body = self._body.whole()
        named = self.headers.get("content-type", "")
        judge = self._asked.dialect.judge
        self._told = verdict = (
            await self._apart(judge, body, self._asked.without_texts(), named)
            if is_heavy(body)
            else judge(body, self._asked, named)
        )
        match verdict:
            case Answer(body=body):
                clean = without_refund_tokens(body)
                if clean is whole:
                    self._looked_through = True
                self.answer = verdict if clean is body else replace(verdict, body=clean)
                return self.answer
            case BadAnswer(sentence):
                return self._failure(FailureKind.BAD_ANSWER, sentence)
            case ErrorAnswer(data, counted=counted):
                return self._error_answer(data, counted=counted)

    async def _from_plain(self) -> bytes | Failure:
        """A stream was asked for and something else came: an answer is made into a stream."""
        self._streams = False
        if self.relay.overflow:
            return self._too_large()
        self._add(self.relay.held)
        answer = await (self._judged() if self.ended else self._whole())
        if isinstance(answer, Failure):
            return answer
        body = answer.body
        self.relay, out = (
            await self._apart(relayed, body, self._asked.without_texts())
            if is_heavy(body)
            else relayed(body, self._asked)
        )
        self._relayed = self.relay
        if not self.relay.complete:
            return self._failure(FailureKind.BAD_ANSWER, "sent JSON that makes no stream")
        self.seen = Seen.OUTPUT
        return out


def broke_off(error: AnswerBroken | SendFailed) -> str:
    return f"broke off: {error.sentence}"

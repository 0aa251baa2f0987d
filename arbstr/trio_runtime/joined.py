"""A request that was asked before: it gets the answer of the first, or is told why not.

    Source.kept --its own relay--> what this client would have got as the first
    Source.end  --its own form---> plain from a stream, a stream from a plain answer

Nothing is sent to any provider. Each client that has joined reads at its own speed, in a task of
its own; what it is told beside the answer (keep-alive, headers, the object at the end, its row) is
its own, too.
"""

import logging
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio import life
from arbstr.sansio.dialects.dialect import Answer, Asked
from arbstr.sansio.dialects.relay import Relay, fed
from arbstr.sansio.dialects.usage import is_heavy
from arbstr.sansio.dialects.whole import relayed
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.money import Usage
from arbstr.trio_runtime import books
from arbstr.trio_runtime.delivery import Delivery
from arbstr.trio_runtime.heavy import apart
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.logs import log_request
from arbstr.trio_runtime.repeats import Broken, End, Source, Whole
from arbstr.trio_runtime.server.responder import Responder

log = logging.getLogger(__name__)

SSE: Final = "text/event-stream"

NOT_KEPT: Final = Broken(
    ErrorReply(
        "stream_interrupted",
        "The answer is not complete: it is that of the same request before, and there was no room "
        "to keep all of it.",
    )
)


@final
class Joined:
    """One such request. `found` is whose answer it gets, or why it gets none."""

    def __init__(
        self,
        hub: Hub,
        responder: Responder,
        request: Asked,
        exchange: Exchange,
        found: Source | ErrorReply,
        *,
        policy: str | None,
    ) -> None:
        self._hub = hub
        self._config = hub.snapshot.config
        self._request = request
        self._exchange = exchange
        self._source = found if isinstance(found, Source) else None
        self._refusal = found if isinstance(found, ErrorReply) else None
        self._policy = policy
        self._delivery = Delivery(responder, request, exchange)
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Delivers the answer as it comes, or says why there is none."""
        with self._scope:
            source = self._source
            if source is None:
                assert self._refusal is not None  # one of both was found
                await self._delivery.error(self._refusal, asked=False, policy=self._policy)
                return
            self._note(life.Joined(source.id, policy=source.policy))
            seconds = self._config.stream.keepalive
            if not self._request.stream:
                await self._deliver_plain(source)
            elif seconds:
                silence = self._delivery.keep_alive(self._hub.silences, seconds)
                try:
                    await self._deliver_stream(source)
                finally:
                    silence.end()
            else:
                await self._deliver_stream(source)

    async def _deliver_stream(self, source: Source) -> None:
        relay, at = Relay(self._request.dialect.reading(self._request)), 0
        end: End | None = None
        while end is None:
            kept = source.kept
            if kept is not None and at < kept.size:
                data, at = kept.read(at)
                relay, out = await _fed(relay, data)
                if out:
                    await self._start(source)
                    await self._delivery.write(out)
                if at < kept.size:
                    await trio.lowlevel.checkpoint()  # there is more: others come in between
                continue
            end = _end_of(source)
            if end is None:
                await source.wait()
        out = b""
        if isinstance(end, Whole) and end.answer is not None:
            body, request = end.answer.body, self._request
            if is_heavy(body):
                relay, out = await apart(relayed, body, request.without_texts())
            else:
                relay, out = relayed(body, request)
        elif isinstance(end, Whole):
            relay, out = await _fed(relay, end.rest)
        if isinstance(end, Whole) and relay.complete:
            await self._start(source, end.usage)
            await self._delivery.end(out + relay.finish(self._delivery.summary()))
        elif relay.committed:
            error = end.error if isinstance(end, Broken) else NOT_KEPT.error
            await self._delivery.break_off(
                error, relay.interrupt(error, self._exchange.correlation_id)
            )
        else:
            await self._fail(end)

    async def _deliver_plain(self, source: Source) -> None:
        while (end := _end_of(source)) is None:
            await source.wait()
        answer = end.answer if isinstance(end, Whole) else None
        if isinstance(end, Whole) and answer is None:
            body, request = (source.kept.whole() if source.kept else b"") + end.rest, self._request
            if is_heavy(body):
                verdict = await apart(request.dialect.judge, body, request.without_texts(), SSE)
            else:
                verdict = request.dialect.judge(body, request, SSE)
            answer = verdict if isinstance(verdict, Answer) else None
        if answer is None or source.head is None:
            await self._fail(end)
            return
        self._tell(source)
        await self._delivery.plain(answer.body, source.head, trio.current_time())

    async def _start(self, source: Source, usage: Usage | None = None) -> None:
        """Says who answers, and the head of a stream, if that has not gone out yet."""
        assert source.head is not None  # it is there with the first piece, and with the end
        self._tell(source, usage)
        if not self._exchange.output_began:
            self._note(life.OutputBegan())
            await self._delivery.start(source.head)

    async def _fail(self, end: End) -> None:
        """The answer broke, and this client has nothing of it."""
        error = end.error if isinstance(end, Broken) else NOT_KEPT.error
        if error.code == "stream_interrupted":
            error = ErrorReply("possibly_spent", error.message, should_retry=False)
        await self._delivery.error(error, asked=True)

    def _tell(self, source: Source, usage: Usage | None = None) -> None:
        head = source.head
        if head is not None:
            joined = life.Joined(source.id, head.provider, head.model, source.policy, usage)
            self._note(joined)

    # -- the end -------------------------------------------------------------------------------

    def client_left(self) -> None:
        """This client is gone; the answer goes on without it."""
        self._scope.cancel()

    def is_deserted(self) -> bool:
        """Never: it ends when its client leaves."""
        return False

    def stop(self) -> None:
        """What it waits for is stopped, and so it ends, too: a run is by itself."""
        if self._source is not None and self._source.stop is not None:
            self._source.stop()

    def broke(self) -> None:
        """A bug of ours ended the request; the client gets the 500 of every route."""
        error = ErrorReply("internal_error", "arbstr failed; its log says how.")
        if self._exchange.phase is life.Phase.ROUTING:
            self._note(life.Refused(error))
        elif self._exchange.phase is not life.Phase.ENDED:
            self._note(life.Unanswered(error))

    def end(self) -> None:
        """Whatever happened: one record. Has no checkpoint to be cancelled at."""
        if self._source is not None:
            self._hub.kept.parted(self._source, whole=self._exchange.delivered)
        record = self._exchange.close(trio.current_time())
        books.enter(self._hub, record, self._exchange)
        day = self._hub.spent_today()
        members = partial(record.members, day)
        log_request(log, record.line(day), record.correlation_id, members)

    def _note(self, event: life.Event) -> None:
        self._exchange.note(event, trio.current_time())


def _end_of(source: Source) -> End | None:
    """What became of it, if that is known; what was let go cannot be read to its end."""
    return NOT_KEPT if source.kept is None else source.end


async def _fed(relay: Relay, data: bytes) -> tuple[Relay, bytes]:
    return await apart(fed, relay, data) if is_heavy(data) else fed(relay, data)

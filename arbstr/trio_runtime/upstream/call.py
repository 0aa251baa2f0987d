"""One request to one provider: sent, its answer read, its connection given back.

This is the seam where exceptions become facts: how its answer is read is `answering.py`, what that
means `witness.py`. Deadlines are the caller's (`within`, cancel scopes); when one passes,
`cut_short` says what that means. A cancelled read loses nothing, so a call can be handed to
`learn_the_rest`, which reads a departed client's answer to its end to learn what it cost.
"""

from dataclasses import replace
from typing import final

import trio

from arbstr.sansio.callers import fold_headers
from arbstr.sansio.dialects.dialect import Answer
from arbstr.sansio.failover.failure import (
    Failure,
    Money,
    is_answer,
    is_refusal,
)
from arbstr.sansio.failover.kinds import signed_by
from arbstr.sansio.failover.watch import End
from arbstr.trio_runtime.change import tokens_in
from arbstr.trio_runtime.upstream.answering import (
    ERROR_BODY_SECONDS,
    TAIL_SECONDS,
    Answering,
    broke_off,
)
from arbstr.trio_runtime.upstream.deadlines import Deadline, Deadlines
from arbstr.trio_runtime.upstream.transport import (
    AnswerBroken,
    ConnectFailed,
    SendFailed,
    Transport,
)
from arbstr.trio_runtime.upstream.witness import Seen


@final
class UpstreamCall(Answering):
    """One request to one provider. Owned by whoever made it; `close` ends it.

    `take_kept(transport)` or `await connect(transport)`, then one of `await plain(body)` and
    `await stream(body)`. After `stream` returned bytes, `await more()` brings the rest, until
    `ended`.
    """

    def take_kept(self, transport: Transport) -> bool:
        """Takes an idle connection to the provider, if there is one."""
        self._connection = transport.kept(self._target.origin)
        return self._connection is not None

    async def connect(self, transport: Transport) -> Failure | None:
        """A connection to the provider, new or kept."""
        try:
            self._connection = await transport.connect(self._target.origin)
        except ConnectFailed as error:
            sentence = f"could not be reached: {error.sentence}"
            return self._ended(End.BROKE, sentence, own_limit=error.own)
        return None

    def within(self, seconds: float, clock: Deadlines) -> Deadline:
        """What is to be seen of the provider is waited for so long: then `TooLate`."""
        assert self._connection is not None  # connect() came first
        deadline = self._connection.within(seconds, clock)
        self.limit(deadline)
        return deadline

    async def plain(self, body: bytes) -> Answer | Failure:
        """Sends the request and reads the whole answer."""
        return (
            await self._send(body, streams=False)
            or await self._whole_body()
            or await self._judged()
        )

    async def stream(self, body: bytes) -> bytes | Failure:
        """Sends the request and reads until output begins; returns the first bytes to relay."""
        return await self._send(body, streams=True) or await self._first_output()

    async def more(self) -> bytes:
        """Bytes to relay after output began, perhaps none; look at `ended` for the end.

        Raises `AnswerBroken` when the connection breaks.
        """
        data = await self._receive()
        return await self._fed_apart(data) if self.relay.is_heavy(data) else self._fed(data)

    def connect_timed_out(self, seconds: float) -> Failure:
        """Our own deadline for the connection passed."""
        way = " through its proxy" if self._target.origin.proxy is not None else ""
        return replace(
            self._ended(End.BROKE, f"did not connect{way} within {seconds:g} s"),
            timed_out_connecting=True,
        )

    def stray_change(self) -> tuple[str, ...]:
        """Ecash in the answer that belongs to the user: `X-Cashu`, or a `refund_token`.

        Each token is told once, so that it is written once.
        """
        relay = self._relayed
        if self._looked_through and relay is None and "x-cashu" not in self.headers:
            return ()  # as nearly always
        texts = () if self._looked_through else (self._body.whole(),)
        found = tokens_in(self.headers, *texts) + (() if relay is None else relay.refunds)
        if not found:
            self._looked_through = True
            return ()
        new = tuple(token for token in found if token not in self._change_told)
        self._change_told.update(new)
        return new

    async def learn_the_rest(self) -> Money:
        """Reads an answer nobody waits for to its end, for its usage and price. Never raises.

        Returns what it turned out to have cost, as far as its end tells. An error event is not the
        end: a node says what it charged behind it. What would have gone on of a stream, `heard` is
        told.
        """
        failure = await self._read_on()
        try:
            while self.seen >= Seen.GOOD_HEAD and self._streams and self.price_is_open:
                await self.more()
        except AnswerBroken:
            self.ended = self.broke = True
        return self.money if failure is None else self._as_stated(failure).money

    def close(self) -> None:
        """Gives the connection back if its answer was good and read to the end, or closes it."""
        self.ended = True
        if self._connection is not None:
            self._connection.release(keep=self._went_well())
            self._connection = None

    async def finish(self) -> None:
        """Reads what follows the last event, if anything, so that the connection can be kept."""
        if self.status is None:
            return  # not even a head came
        with trio.move_on_after(TAIL_SECONDS):
            try:
                while await self._receive():
                    pass
            except AnswerBroken:
                return

    def _went_well(self) -> bool:
        """Whether whoever answered will serve another request on this connection.

        A server that broke an answer off often closes a moment after it: the next request would be
        reset, and nobody could say whether it was paid for.
        """
        if self.status is None:
            return False
        if self.seen is Seen.REFUSED:
            return is_refusal(self.status)
        relay = self._relayed
        if self.answer is not None and not (relay is not None and relay.events):
            return True  # a whole one, of which no stream was made
        return self.relay.complete and self.relay.error is None and self.stream_failure() is None

    async def _send(self, body: bytes, *, streams: bool) -> Failure | None:
        assert self._connection is not None  # connect() came first
        self._streams = streams
        try:
            head = self._target.head(self._asked, stream=streams)
            await self._connection.send(head, body)
        except SendFailed as error:
            return self.cut_short(broke_off(error))
        self.seen = Seen.SENT
        try:
            return await self._head()
        except AnswerBroken as error:
            return self.cut_short(broke_off(error))

    async def _head(self) -> Failure | None:
        assert self._connection is not None  # the request was sent on it
        head = await self._connection.receive_head()
        self.status, self.headers = head.status, fold_headers(head.headers)
        if self.provider.authorization is not None:
            self.kind = signed_by(self.headers) or self.kind
        if is_answer(head.status):
            self.seen = Seen.GOOD_HEAD
            self._decoder = self._decoder_of(head)
            return None
        self.seen = Seen.REFUSED
        with trio.move_on_after(ERROR_BODY_SECONDS):
            await self._error_body(head)
        # Whatever the status says: a charge may be stated in there, too.
        self._told = self._asked.dialect.judge(self._body.whole(), self._asked, "")
        return self._refused()

    async def _read_on(self) -> Failure | None:
        """The same as before the client left, from wherever that was, to the end of the body."""
        relay = self.relay
        try:
            if self.seen is Seen.SENT:
                failure = await self._head()
                if failure is not None:
                    return failure
            if not self._streams and self.seen is not Seen.OUTPUT:
                answer = await self._whole()
                return answer if isinstance(answer, Failure) else None
            while not (relay.done or self.ended or relay.overflow):
                data = await self.more()
                if relay.not_sse:
                    found = await self._from_plain()
                    if isinstance(found, Failure):
                        return found
                    data = found
                if data and self.heard is not None:
                    self.heard(data)
                if relay.not_sse:
                    return None
        except AnswerBroken as error:
            relay.broke()
            self.broke = True
            return None if relay.complete else self.cut_short(broke_off(error))
        return None if relay.complete else self.stream_failure() or self.ended_early()

"""What one client gets of an answer, and that it got it: headers, the end of a stream, errors.

Whose answer it is makes no difference here: that of a run of its own (`run.py`), or that of an
earlier request of the same (`joined.py`).
"""

from functools import lru_cache
from typing import TYPE_CHECKING, final

import trio

from arbstr.sansio import life
from arbstr.sansio.config.reader import AUTO
from arbstr.sansio.dialects.dialect import Asked, Headers
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.money import format_sats
from arbstr.trio_runtime.repeats import Head
from arbstr.trio_runtime.server.framing import lines_of
from arbstr.trio_runtime.server.responder import Responder, header, policy_header
from arbstr.trio_runtime.server.silences import Silence, Silences

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from arbstr.sansio.failover.retry import Retry


@final
class Delivery:
    """One client's. `retry` made the attempts, if any are made for it."""

    __slots__ = ("_exchange", "_request", "_responder", "retry")

    def __init__(self, responder: Responder, request: Asked, exchange: Exchange) -> None:
        self._responder = responder
        self._request = request
        self._exchange = exchange
        self.retry: Retry | None = None

    def leave(self) -> None:
        """The client is gone: nothing is written any more."""
        self._responder.leave()

    def keep_alive(self, silences: Silences, period: float) -> Silence:
        """From now on says something after each `period` seconds of silence, until that ends."""
        return silences.begin(self._responder, period, self.early_headers)

    async def start(self, head: Head) -> None:
        """The head of a stream."""
        await self._responder.start(self._headers(head))

    def write(self, data: bytes) -> "Awaitable[None]":
        """Some whole events."""
        return self._responder.body(data, more=True)  # a call less for each of them

    def summary(self) -> bytes:
        """The `arbstr` object of a complete stream."""
        return self._exchange.summary(trio.current_time(), retries=self._retries())

    async def end(self, data: bytes) -> None:
        """The last bytes of a complete stream."""
        await self._responder.end(data)
        self._note(life.Delivered())

    async def plain(self, body: bytes, head: Head, now: float) -> None:
        """A whole answer, which came just now."""
        exchange = self._exchange
        model = exchange.model if self._request.model == AUTO else None
        lines = _lines(head.content_type, head.provider, model, exchange.policy)
        if head.passed or exchange.joined is not None or self._retries():
            lines += lines_of((*self._joined_header(), *self._retry_headers(), *head.passed))
        lines += b"x-arbstr-latency-ms: %d\r\n" % exchange.latency_ms(now)
        cost = exchange.cost
        if cost is not None:
            lines += b"x-arbstr-cost-sats: %b\r\n" % format_sats(cost).encode()
        await self._responder.plain(body, lines=lines)
        self._note(life.Delivered())

    async def break_off(self, error: ErrorReply, data: bytes) -> None:
        """The last bytes of a stream that is not complete."""
        self._note(life.Interrupted(error))
        await self._responder.break_off(data)

    async def error(self, error: ErrorReply, *, asked: bool, policy: str | None = None) -> None:
        """There is no answer. `asked`: somebody was asked for one."""
        self._note(life.Unanswered(error) if asked else life.Refused(error, policy))
        await self._responder.error(error, self.early_headers() + self._retry_headers())

    def early_headers(self) -> Headers:
        """What is known while nobody has answered yet."""
        return policy_header(self._exchange.policy) + self._joined_header()

    def _headers(self, head: Head) -> Headers:
        # Which model answered, if the client left that to arbstr.
        model = self._exchange.model if self._request.model == AUTO else None
        return (
            *_constant(head.provider, model, self._exchange.policy),
            *self._joined_header(),
            *self._retry_headers(),
            *head.passed,
        )

    def _retries(self) -> str:
        return self.retry.failures_header() if self.retry is not None else ""

    def _joined_header(self) -> Headers:
        first = self._exchange.joined
        return () if first is None else (header("x-arbstr-joined", first),)

    def _retry_headers(self) -> Headers:
        retries = self._retries()
        if not retries:
            return ()  # and nothing is spent without a failure
        spent = self._exchange.possibly_spent
        told = (header("x-arbstr-possibly-spent", str(spent)),) if spent else ()
        return (header("x-arbstr-retries", retries), *told)

    def _note(self, event: life.Event) -> None:
        self._exchange.note(event, trio.current_time())


def _constant(provider: str, model: str | None, policy: str | None) -> Headers:
    named = () if model is None else (header("x-arbstr-model", model),)
    return (header("x-arbstr-provider", provider), *named, *policy_header(policy))


@lru_cache(maxsize=1000)
def _lines(content_type: str, provider: str, model: str | None, policy: str | None) -> bytes:
    """Cached, because an arbstr gives few different answers to all of these."""
    return lines_of((header("content-type", content_type), *_constant(provider, model, policy)))

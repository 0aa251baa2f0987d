"""What others may get of the answer of one request: its source, from its client's leave to its end.

    begin       a stream starts: what goes on of it is kept beside
    leave       its client left, and the answer goes on: whoever asks the same again joins it
    hand_over   it was given up before its output, and is read on: so it may still come, late
    remember    the request is over: what became of it, and what the same again gets
    was_free    it turned out later that nothing was paid

One source is kept of each request. Who gets it `repeats` decides; how long a request goes on
without its client is `run`'s.
"""

from typing import TYPE_CHECKING, Final, final

from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.repeats import Became, Fingerprint
from arbstr.trio_runtime.attempts import NOBODY_WAITS, Attempts
from arbstr.trio_runtime.drains import Drains
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.repeats import Broken, End, Head, Source, head_of, whole_of
from arbstr.trio_runtime.upstream.call import UpstreamCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbstr.sansio.secrets import Secret

GONE: Final = ErrorReply("upstream_error", "The answer was given up.", should_retry=False)
"""What nobody reads: an answer that nobody waited for was given up."""


@final
class Shared:
    """That of one request. `which` is its fingerprint, if that is made already; else it is made
    with `named`, the policy its caller named.

    `source` is there from the first bytes of a stream on, or once its client has left.
    """

    __slots__ = ("_exchange", "_handed_over", "_hub", "_named", "_request", "_which", "source")

    def __init__(
        self,
        hub: Hub,
        request: Asked,
        exchange: Exchange,
        named: str | None,
        which: Fingerprint | None,
    ) -> None:
        self._hub = hub
        self._request = request
        self._exchange = exchange
        self._named = named
        self._which = which
        self._handed_over = False
        self.source: Source | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody has joined who can get it."""
        return self.source is not None and self.source.is_wanted

    @property
    def is_lost(self) -> bool:
        """Whether nobody can get it any more: there was no room to keep it."""
        return self.source is not None and self.source.kept is None

    def begin(self, head: Head, drains: Drains | None) -> None:
        """A stream goes to its client, or to whoever has joined."""
        if self.source is None and self._hub.kept.is_on:
            self.source = self._new(drains)
        if self.source is not None:
            self.source.head = head

    def leave(self, attempts: Attempts, wanted: "Callable[[], None]") -> None:
        """Its client left. `wanted` is called when it may have changed whether anybody waits."""
        source = self.source = self.source or self._new(attempts.drains)
        source.wanted = wanted
        provider = attempts.call.provider.name if attempts.call is not None else "-"
        saw = f'its client left while provider "{provider}" was answering'
        self._hub.kept.left(source, self._fingerprint(), saw)

    def hand_over(self, drains: Drains) -> None:
        """It was given up before its output: whoever has joined, and who will, may get it late."""
        if self.source is not None and drains.adopt(self.source):
            self.source, self._handed_over = None, True

    def remember(
        self,
        drains: Drains | None,
        whole: UpstreamCall | None,
        error: ErrorReply | None,
        secrets: "tuple[Secret, ...]",
    ) -> None:
        """Tells whoever asks the same again what became of it: it came `whole`, or its client got
        the `error`. Once is enough."""
        kept, source, exchange = self._hub.kept, self.source, self._exchange
        if self._handed_over or (source is not None and source.end is not None):
            return  # that is known already, or will be
        awaited = source is not None and source.readers > 0
        if exchange.delivered or not (kept.is_on or awaited):
            if drains is not None:
                drains.forget_source()
            if source is not None:
                source.wanted = None
                if source.is_booked:
                    kept.forget(source.id)
            return
        if drains is not None and drains.keeps_source and source is None:
            drains.leave_source(self._fingerprint())
            return
        # An answer that a bug of ours kept from its client was paid for, too.
        spent = exchange.answered or exchange.possibly_spent > 0
        if whole is None and not spent and source is None:
            return
        source = self.source = source or self._new(drains)
        end: End | None = None if whole is None else whole_of(whole)
        became, saw = (Became.SPENT if spent else Became.FREE), exchange.saw
        if end is not None and whole is not None:
            became, name = Became.WHOLE, whole.provider.name
            saw = f'provider "{name}" answered it after its client had left, and that was not kept'
            source.head = head_of(whole, exchange.model, secrets)
        elif spent and error in (None, NOBODY_WAITS):
            # Somebody may have joined it in the last moment.
            end = Broken(ErrorReply("possibly_spent", f"The answer did not come: {saw}."))
        else:
            end = Broken(error or GONE)
        kept.ended(source, self._fingerprint(), became, end, saw)

    def was_free(self) -> None:
        """So it stands in nobody's way."""
        if self.source is not None:
            self._hub.kept.forget(self.source.id)

    def _new(self, drains: Drains | None) -> Source:
        if drains is not None:
            # An answer that was given up before gives way to this one.
            drains.forget_source()
        return Source(self._hub.kept, self._exchange.correlation_id, self._exchange.policy)

    def _fingerprint(self) -> Fingerprint:
        if self._which is None:
            self._which = self._hub.kept.fingerprint(self._request, self._named)
        return self._which

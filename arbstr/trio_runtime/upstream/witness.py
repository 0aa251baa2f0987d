"""What was seen of one call to a provider, and what it means; nothing here reads or writes.

    how far it has come (`Seen`), its head, what its relay or its verdict tells
                                  --> its usage and its price; whether more of it is to be expected
    how it ended, by the table of `failover/watch.py` --> a Failure

Who reads the answer (`answering.py`) notes what it sees here, and asks here what an end means.
"""

import time
from collections.abc import Mapping
from decimal import Decimal
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, final

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.dialects.dialect import Answer, Asked, Stored, Verdict
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.usage import read_cost_header
from arbstr.sansio.failover.classify import from_error_body, from_status, request_id_of
from arbstr.sansio.failover.failure import Failure, FailureKind, Money, as_stated, seen
from arbstr.sansio.failover.kinds import TRAITS, stated_in
from arbstr.sansio.failover.watch import ENDINGS, End, Stage
from arbstr.sansio.money import Usage
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.upstream.pieces import Pieces

if TYPE_CHECKING:
    from arbstr.trio_runtime.upstream.transport import Connection


NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Seen(IntEnum):
    """How far a call has come, by what was seen on the wire."""

    NOTHING_SENT = 0
    SENT = 1
    REFUSED = 2  # a complete head that is no answer; whatever follows, it stands
    GOOD_HEAD = 3
    OUTPUT = 4


@final
class _WhenAsked:
    """The relay of a call, made when it is first asked for, and an attribute from then on: a plain
    answer goes without. To `functools.cached_property` a call would have a dictionary, which takes
    as much as the relay."""

    def __get__(self, call: "Witness", _: type) -> Relay:
        reading = call._asked.dialect.reading(call._asked)
        call.relay = call._relayed = Relay(reading, max_body_bytes=call._max_answer_bytes)
        return call._relayed

    if TYPE_CHECKING:  # else it would stand before the attribute

        def __set__(self, call: "Witness", relay: Relay) -> None: ...


class Witness:
    """What is known of a call, for whoever made it. The request is on `_connection` once it was
    sent.

    `secrets` are taken out of what the client may read of an error.
    """

    # As of the beginning; what most calls never set costs them nothing.
    seen = Seen.NOTHING_SENT
    status: int | None = None
    headers: Mapping[str, str] = NO_HEADERS
    answer: Answer | None = None
    ended = False
    broke = False
    _told: Verdict | None = None
    _connection: "Connection | None" = None
    _body_began = False
    _streams = False
    # Of a stream that came where none was asked for: what it tells of its tokens and its price
    # stands, however it ends.
    _watch: Relay | None = None
    # Reads it as a stream; `_relayed` is the same, if it was made.
    relay = _WhenAsked()
    _relayed: Relay | None = None

    def __init__(
        self,
        provider: Provider,
        *,
        kind: Kind,
        asked: Asked,
        max_answer_bytes: int,
        added_stream_options: bool,
        path_served: bool,
        secrets: tuple[Secret, ...],
    ) -> None:
        self.provider = provider
        self.kind = kind
        self._asked = asked
        self._max_answer_bytes = max_answer_bytes
        self._added_stream_options = added_stream_options
        self._path_served = path_served
        self._secrets = secrets
        self._body = Pieces()

    @property
    def upstream_request_id(self) -> str | None:
        """The provider's own id of this request, for asking its operator."""
        return request_id_of(self.headers, self._secrets)

    @property
    def usage(self) -> Usage | None:
        """Tokens seen so far."""
        return (self._told or self._watch or self.relay).usage

    @property
    def provider_cost_msats(self) -> Decimal | None:
        """What the provider says it charged, in millisats."""
        if self._told is not None and self._told.provider_cost_msats is not None:
            return self._told.provider_cost_msats
        relay = self._watch or self._relayed
        if relay is not None and relay.provider_cost_msats is not None:
            return relay.provider_cost_msats
        stated = stated_in(self.headers)
        return read_cost_header(stated) if stated else None

    @property
    def money(self) -> Money:
        """What an answer took that came whole, and not to its own client."""
        return Money.FREE if self.provider_cost_msats == 0 else Money.SPENT

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
            self._body.whole(),
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
            last_word=self._has_last_word,
            unheard=self.broke and not self.relay.done and TRAITS[self.kind].states,
        )

    @property
    def _has_last_word(self) -> bool:
        """Whether nothing more can come. Of what broke off before its last event, more was due."""
        return (self.ended and not self.broke) or (self._watch or self.relay).done

    def _error_answer(self, data: bytes, *, counted: bool = False) -> Failure:
        failure = from_error_body(
            data,
            status=self.status or 200,
            kind=self.kind,
            headers=self.headers,
            now_utc=time.time(),
            upstream_request_id=self.upstream_request_id,
            secrets=self._secrets,
        )
        return self._as_stated(failure, counted=counted or self.relay.tally.has_worked)

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

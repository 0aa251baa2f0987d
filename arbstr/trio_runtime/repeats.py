"""What is kept of answers for those who ask for the same again. What they get, `sansio` decides.

    Run --Source.keep--> the bytes of its stream (packed.py)
    a client leaves --left--> the source goes on without it
    a request --of--> None: an ordinary one; a Source: its answer; an ErrorReply: why not
    Run --ended--> what became of it, and what a repeat needs of it

A request that nothing disturbs pays for it with a microsecond for each event of its stream, and one
look at a table that is empty. Bodies are hashed only once their length is one that is remembered,
or their own request goes wrong; a large one in a thread, where hashing keeps no lock.
"""

from functools import partial
from math import inf
from secrets import token_bytes
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from arbstr.sansio.dialects.dialect import Answer, Asked, Headers
from arbstr.sansio.dialects.members import without
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.repeats import (
    Became,
    Fingerprint,
    Join,
    Refuse,
    Repeats,
    Send,
    fingerprint,
)
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Usage
from arbstr.trio_runtime.packed import Packed
from arbstr.trio_runtime.server.responder import passed_on

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from arbstr.sansio.secrets import Secret
    from arbstr.trio_runtime.upstream.call import UpstreamCall

HASHED_AT_ONCE: Final = 1_000_000
"""Bytes of a body that is hashed where it is, in a millisecond or two; picked."""

KEEP_STEP: Final = 16 * 1024
"""Bytes by which what a source keeps grows in the books, so that not every piece is told. The books
count what the answers have, packed or not."""


@final
@dataclass(frozen=True, slots=True)
class Head:
    """Who answers. `passed` are those headers of the provider's that clients may see, and
    `content_type` is what a plain answer is."""

    provider: str
    model: str
    passed: Headers
    content_type: str = "application/json"


@final
@dataclass(frozen=True, slots=True)
class Whole:
    """It came whole: a plain `answer`, or what was kept, behind which `rest` makes it so."""

    usage: Usage | None
    answer: Answer | None = None
    rest: bytes = b""


@final
@dataclass(frozen=True, slots=True)
class Broken:
    """There is no answer, or only the beginning of one."""

    error: ErrorReply


End: TypeAlias = Whole | Broken


def head_of(call: "UpstreamCall", model: str, secrets: "Collection[Secret]") -> Head:
    """Of an answer whose head has come."""
    given = call.headers.get("content-type", "")
    # What a stream was put together to is plain JSON.
    kind = given if "json" in given.lower() else "application/json"
    return Head(call.provider.name, model, passed_on(call.headers, secrets), kind)


def whole_of(call: "UpstreamCall") -> Whole | None:
    """What an answer comes to, if it has come whole."""
    if call.relay.complete:
        return Whole(call.usage, rest=call.relay.rest())
    return None if call.answer is None else Whole(call.usage, call.answer)


@final
class Source:
    """The answer of one request, for as long as somebody may want it.

    `id` is that of its request, `policy` the one that was matched.
    `which` is its fingerprint once others may ask for it.
    `kept`: what went on of a stream; None once it was let go. `head` is there with the first of it,
    or with the end. `wanted` is called when it may have changed whether anybody
    waits for it, until the end. `stop` ends what reads it, where that is not its own request.
    """

    __slots__ = (
        "_booked",
        "_changed",
        "_others",
        "_unheeded",
        "end",
        "head",
        "id",
        "kept",
        "policy",
        "readers",
        "stop",
        "wanted",
        "which",
    )

    def __init__(self, others: "KeptAnswers", first: str, policy: str | None) -> None:
        self._others = others
        self._booked = 0
        # Up to so many bytes another piece is nobody's business: most are not.
        self._unheeded = 0
        self._changed: trio.Event | None = None
        self.id = first
        self.policy = policy
        self.which: Fingerprint | None = None
        self.kept: Packed | None = Packed()
        self.head: Head | None = None
        self.end: End | None = None
        self.readers = 0
        self.wanted: Callable[[], None] | None = None
        self.stop: Callable[[], None] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for it who can get it."""
        return self.readers > 0 and self.kept is not None

    def keep(self, piece: bytes) -> None:
        """Keeps another piece, unless those before were let go."""
        kept = self.kept
        if kept is not None and kept.add(piece) > self._unheeded:
            self._heed(kept.size)

    def _heed(self, size: int) -> None:
        """There is something to book, or somebody to wake."""
        if size > self._booked:
            self.book(size + KEEP_STEP)
        self._unheeded = self._booked
        self.changed()

    def book(self, size: int) -> None:
        """So many bytes are kept, at most."""
        self._booked = self._unheeded = size
        self._others.grown(self, size)

    @property
    def is_booked(self) -> bool:
        """Whether the books know of it."""
        return self._booked > 0

    def let_go(self) -> None:
        """Others need the room, or its time is over."""
        self.kept = None
        self.changed()
        if self.wanted is not None:
            self.wanted()

    def changed(self) -> None:
        """Wakes whoever waits for more."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait(self) -> None:
        """Until there is more, or an end, or it was let go."""
        if self._changed is None:
            self._changed = trio.Event()
            self._unheeded = 0
        await self._changed.wait()


@final
class KeptAnswers:
    """Those of all requests. `async with trio.open_nursery() as n: n.start_soon(kept.run)`."""

    def __init__(self, window: float, key: bytes | None = None) -> None:
        self._repeats = Repeats(window=window)
        self._key = token_bytes(32) if key is None else key
        self._sources: dict[str, Source] = {}
        self._sooner = trio.Event()  # something may have to go before what was next

    @property
    def is_on(self) -> bool:
        """Whether anything is kept (`[retry] repeat_guard`)."""
        return self._repeats.is_on

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return self._repeats.held

    def configure(self, window: float) -> None:
        """After a reload."""
        self._let_go(self._repeats.configure(window))
        self._sooner.set()

    async def run(self) -> None:
        """Lets each go at its time. Until cancelled."""
        while True:
            self._sooner = trio.Event()
            end = self._repeats.next_end
            with trio.CancelScope(deadline=inf if end is None else end):
                await self._sooner.wait()
            self._let_go(self._repeats.expire(trio.current_time()))

    def is_hashed_apart(self, asked: Asked) -> bool:
        """Whether it is large: the fingerprint of any other is made once it is needed."""
        return len(asked.body) > HASHED_AT_ONCE and self.is_on

    async def hashed_apart(self, asked: Asked, policy: str | None) -> Fingerprint:
        """The fingerprint of a large request."""
        return await trio.to_thread.run_sync(partial(self.fingerprint, asked, policy))

    def fingerprint(self, asked: Asked, policy: str | None) -> Fingerprint:
        """Of a request, and the policy its caller named."""
        return self._fingerprint(asked, policy, without(asked.body, asked.form))

    def _fingerprint(
        self, asked: Asked, policy: str | None, pieces: tuple[bytes | memoryview, ...]
    ) -> Fingerprint:
        more = [asked.query, *(part for pair in asked.forwarded for part in pair)]
        return fingerprint(self._key, asked.dialect.name, policy, more, pieces)

    def of(
        self, asked: Asked, policy: str | None, which: Fingerprint | None
    ) -> Source | ErrorReply | None:
        """What a request gets that does not bear the consent to pay again."""
        if self._repeats.knows_nothing:
            return None
        if which is None:
            pieces = without(asked.body, asked.form)
            if not self._repeats.may_know(sum(map(len, pieces))):
                return None
            which = self._fingerprint(asked, policy, pieces)
        verdict, gone = self._repeats.asked(which, trio.current_time())
        self._let_go(gone)
        match verdict:
            case Send():
                return None
            case Refuse(reply):
                return reply
            case Join(first):
                source = self._sources[first]
                source.readers += 1
                if source.wanted is not None:
                    source.wanted()
                return source

    def grown(self, source: Source, size: int) -> None:
        """A source keeps so many bytes, at most."""
        self._sources[source.id] = source
        self._let_go(self._repeats.kept(source.id, size))

    def left(self, source: Source, which: Fingerprint, saw: str) -> None:
        """Its client left, and it goes on."""
        source.which = which
        self._hold(source)
        self._repeats.left(source.id, which, saw, trio.current_time())

    def ended(self, source: Source, which: Fingerprint, became: Became, end: End, saw: str) -> None:
        """It is over, and its own client has not got all of it."""
        source.end, source.wanted = end, None
        self._hold(source)
        now = trio.current_time()
        self._let_go(self._repeats.ended(source.id, which, became, saw, now))
        if became is Became.WHOLE and isinstance(end, Whole) and source.kept is not None:
            size = len(end.rest) + (len(end.answer.body) if end.answer is not None else 0)
            source.book(source.kept.size + size)
        self._sooner.set()
        source.changed()

    def forget(self, first: str) -> None:
        """Its client has all of it, or it turned out to have been free."""
        self._let_go(self._repeats.forget(first))

    def parted(self, source: Source, *, whole: bool) -> None:
        """A client that had joined is gone; `whole`: with all of the answer."""
        source.readers -= 1
        self._let_go(self._repeats.parted(source.id, whole=whole))
        if source.wanted is not None:
            source.wanted()

    def _hold(self, source: Source) -> None:
        """Unless it was let go: that is told once, and whoever asks is refused."""
        if source.kept is not None:
            self._sources[source.id] = source

    def _let_go(self, ids: tuple[str, ...]) -> None:
        for first in ids:
            source = self._sources.pop(first, None)
            if source is not None:
                source.let_go()

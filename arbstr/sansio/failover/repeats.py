"""The same request again: no answer is paid twice, and none is paid for nothing.

Clients repeat by themselves: after a timeout of their own, after a stream that broke, after an
error they do not know. `Repeats` is told what became of each answer, and says what the same request
again gets. `ANSWERS` is the table:

    an answer is    and its bytes   the same again gets
    ATTENDED        -               its own answer: it is an ordinary request
    RUNNING_ON      kept            the answer it is an answer to, from the first byte: Join
                    let go          a refusal
    WHOLE           kept            Join
                    let go          a refusal
    SPENT           -               a refusal
    HAD             -               its own answer

Told what, an answer is what:

    kept      ATTENDED: its own client takes it, and its bytes are kept beside
    left      RUNNING_ON: that client left, and the answer is read on
    ended     WHOLE, if no client has had all of it; SPENT, if it broke off or nobody knows what it
              cost; forgotten, if it was free or its client has it
    parted    HAD: a client that had joined has all of it. It is never given again: no cache
    expire    forgotten: `repeat_guard` seconds after its end. An answer that some client is just
              taking is not given to others any more, and forgotten when the last of them has parted

ATTENDED is no repeat, though the bytes are the same: whoever asks twice at once and waits for both
wants two answers (samples of a model, a benchmark), and gets what he would get without arbstr. Only
a client that did not get its answer asks *again*. Of several answers to the same request, each
repeat joins one that the fewest have joined, the oldest first: seven that were asked at once and
left are seven answers for seven repeats. A refusal speaks only where there is none to join.

What is kept is bounded, all answers together: beyond `limit` the oldest that nobody takes is let
go, then the oldest. The machine counts the bytes, its driver has them: what a call returns are the
ids whose bytes, if there are any, are to be let go at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from enum import Enum, auto
from hashlib import blake2b
from math import ceil, inf
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.frozen import dataclass

MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Bytes of answers that are kept in all: as much as one answer may have (`max_answer_mb`)."""

MOST_ENDED: Final = 10_000
"""Answers that are remembered after their end; beyond it the oldest is forgotten. Half a kilobyte
each; picked: 160 a second may end badly for a minute."""

DIGEST_BYTES: Final = 16
"""2**-64 is the chance that any two of 2**32 requests get one fingerprint."""


@final
@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which request it is, and no word of it. `size` is the bytes that were hashed: requests of
    another size are others, so their bytes need not be hashed to know it."""

    size: int
    digest: bytes = field(repr=False)


def fingerprint(
    key: bytes,
    endpoint: str,
    policy: str | None,
    more: Iterable[bytes],
    pieces: Sequence[bytes | memoryview],
) -> Fingerprint:
    """Of a request: its door, the policy its caller named, `more` that goes to the provider, and
    its body in pieces, one behind the other, without what only says in which form the answer is to
    come.

    `key` is drawn anew in every process, at most 64 bytes.
    """
    hashed = blake2b(key=key, digest_size=DIGEST_BYTES)
    for name in (endpoint.encode(), b"" if policy is None else b"=" + policy.encode(), *more, b""):
        hashed.update(b"%d:" % len(name))
        hashed.update(name)
    for piece in pieces:
        hashed.update(piece)
    return Fingerprint(sum(map(len, pieces)), hashed.digest())


class Became(Enum):
    """How an answer ended."""

    WHOLE = auto()
    SPENT = auto()
    FREE = auto()
    DELIVERED = auto()


class State(Enum):
    """What an answer is. See the module."""

    ATTENDED = auto()
    RUNNING_ON = auto()
    WHOLE = auto()
    SPENT = auto()
    HAD = auto()


class Gets(Enum):
    """What the same request again gets of one answer."""

    NOTHING = auto()
    THE_ANSWER = auto()
    A_REFUSAL = auto()


ANSWERS: Final[Mapping[tuple[State, bool], Gets]] = MappingProxyType(
    {
        (State.ATTENDED, True): Gets.NOTHING,
        (State.ATTENDED, False): Gets.NOTHING,
        (State.RUNNING_ON, True): Gets.THE_ANSWER,
        (State.RUNNING_ON, False): Gets.A_REFUSAL,
        (State.WHOLE, True): Gets.THE_ANSWER,
        (State.WHOLE, False): Gets.A_REFUSAL,
        (State.SPENT, True): Gets.A_REFUSAL,
        (State.SPENT, False): Gets.A_REFUSAL,
        (State.HAD, True): Gets.NOTHING,
        (State.HAD, False): Gets.NOTHING,
    }
)
"""By what an answer is, and whether its bytes are kept."""


@final
@dataclass(frozen=True, slots=True)
class Send:
    """It is an ordinary request."""


@final
@dataclass(frozen=True, slots=True)
class Join:
    """It gets the answer of the request with this id, which counts it until it has `parted`."""

    first: str


@final
@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing is sent."""

    reply: ErrorReply


Verdict: TypeAlias = Send | Join | Refuse

SEND: Final = Send()


@final
@dataclass(slots=True)
class _Answer:
    """One, as far as it is known. `at` is when its client left it or it ended, `until` when that
    is forgotten; `saw` is a sentence about it without a full stop."""

    id: str
    state: State = State.ATTENDED
    fingerprint: Fingerprint | None = None
    size: int = 0
    let_go: bool = False
    readers: int = 0
    saw: str = ""
    at: float = 0.0
    until: float = inf

    @property
    def gives(self) -> Gets:
        return ANSWERS[self.state, not self.let_go]


@final
class Repeats:
    """See the module. Times are monotonic seconds; `window` is `repeat_guard`, 0 is off."""

    def __init__(self, *, window: float, limit: int = MAX_KEPT_BYTES) -> None:
        self._window = window
        self._limit = limit
        self._held = 0
        self._answers: dict[str, _Answer] = {}
        self._keeping: dict[str, _Answer] = {}
        self._ended: dict[str, _Answer] = {}
        self._same: dict[Fingerprint, dict[str, _Answer]] = {}
        self._sizes: dict[int, int] = {}

    @property
    def is_on(self) -> bool:
        """Whether anything is watched for."""
        return self._window > 0

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return self._held

    @property
    def next_end(self) -> float | None:
        """When the next answer is to be forgotten."""
        return next((answer.until for answer in self._ended.values()), None)

    @property
    def knows_nothing(self) -> bool:
        """Whether no request is remembered."""
        return not self._sizes

    def may_know(self, size: int) -> bool:
        """Whether a request of which `size` bytes are hashed may be one of those remembered."""
        return size in self._sizes

    def configure(self, window: float) -> tuple[str, ...]:
        """After a reload: what has ended is remembered for as long as it says now. Turned off,
        nothing is, but whoever has joined an answer gets the rest of it."""
        self._window = window
        for answer in self._ended.values():
            answer.until = min(answer.until, answer.at + window)
        if self.is_on:
            return ()
        return tuple(gone for answer in tuple(self._answers.values()) for gone in self._let(answer))

    def asked(self, which: Fingerprint, now: float) -> tuple[Verdict, tuple[str, ...]]:
        """What a request gets that does not bear the consent to pay again."""
        gone = self.expire(now)
        found = self._same.get(which, {}).values()
        joinable = [answer for answer in found if answer.gives is Gets.THE_ANSWER]
        if joinable:
            first = min(joinable, key=lambda answer: answer.readers)  # the first of the least
            first.readers += 1
            return Join(first.id), gone
        refusing = [answer for answer in found if answer.gives is Gets.A_REFUSAL]
        if refusing:
            return Refuse(_refusal(refusing[-1], now, self._window)), gone
        return SEND, gone

    def kept(self, first: str, size: int) -> tuple[str, ...]:
        """The answer of this request has so many bytes that are kept, in all."""
        answer = self._answers.get(first)
        if not (self.is_on or (answer is not None and answer.readers)):
            return (first,)
        if answer is None:
            answer = self._answers[first] = _Answer(first)
        if answer.let_go:
            return (first,)
        self._held += size - answer.size
        answer.size = size
        self._keeping[first] = answer
        gone: list[str] = []
        while self._held > self._limit:
            oldest = next(self._oldest())
            self._forget_bytes(oldest)
            gone.append(oldest.id)
        return tuple(gone)

    def left(self, first: str, which: Fingerprint, saw: str, now: float) -> None:
        """The client of this request left; its answer is read on all the same."""
        answer = self._answers.setdefault(first, _Answer(first))
        if answer.state is not State.ATTENDED:
            raise LocalProtocolError(f"the client of {first} has left already")
        answer.state, answer.saw, answer.at = State.RUNNING_ON, saw, now
        self._register(answer, which)

    def ended(
        self, first: str, which: Fingerprint, became: Became, saw: str, now: float
    ) -> tuple[str, ...]:
        """The answer of this request is over; its own client has all of it only if `DELIVERED`."""
        answer = self._answers.setdefault(first, _Answer(first))
        if first in self._ended:
            raise LocalProtocolError(f"the answer of {first} has ended already")
        if not self.is_on or became in (Became.FREE, Became.DELIVERED):
            return self._let(answer)
        answer.state = State.WHOLE if became is Became.WHOLE else State.SPENT
        answer.saw, answer.at, answer.until = saw, now, now + self._window
        self._register(answer, which)
        self._ended[first] = answer
        gone = self._free(answer)
        if len(self._ended) > MOST_ENDED:
            gone += self._let(next(iter(self._ended.values())))
        return gone

    def parted(self, first: str, *, whole: bool) -> tuple[str, ...]:
        """A client that had joined is gone; `whole`: with all of the answer."""
        answer = self._answers.get(first)
        if answer is None or not answer.readers:
            raise LocalProtocolError(f"nobody has joined {first}")
        answer.readers -= 1
        if whole and answer.state is State.WHOLE:
            answer.state = State.HAD
        return self._free(answer)

    def forget(self, first: str) -> tuple[str, ...]:
        """Its own client has all of the answer, or it was free after all."""
        answer = self._answers.get(first)
        return () if answer is None else self._let(answer)

    def expire(self, now: float) -> tuple[str, ...]:
        """Forgets what has been remembered for long enough."""
        gone: tuple[str, ...] = ()
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if oldest.until > now:
                break
            gone += self._let(oldest)
        return gone

    def _register(self, answer: _Answer, which: Fingerprint) -> None:
        if answer.fingerprint is None:
            answer.fingerprint = which
            self._same.setdefault(which, {})[answer.id] = answer
            self._sizes[which.size] = self._sizes.get(which.size, 0) + 1

    def _oldest(self) -> Iterator[_Answer]:
        """Of those that are kept: first the oldest that nobody takes."""
        for answer in self._keeping.values():
            if not answer.readers:
                yield answer
        yield from self._keeping.values()

    def _forget_bytes(self, answer: _Answer) -> None:
        answer.let_go = True
        self._held -= answer.size
        answer.size = 0
        self._keeping.pop(answer.id, None)

    def _free(self, answer: _Answer) -> tuple[str, ...]:
        """Lets the bytes go of an answer that is given to nobody any more."""
        if answer.readers or answer.state in (State.ATTENDED, State.RUNNING_ON, State.WHOLE):
            return ()
        if answer.state is State.HAD:
            return self._let(answer)
        return self._forgotten(answer)

    def _forgotten(self, answer: _Answer) -> tuple[str, ...]:
        if answer.let_go:
            return ()
        self._forget_bytes(answer)
        return (answer.id,)

    def _let(self, answer: _Answer) -> tuple[str, ...]:
        """Forgets an answer; if clients are just taking it, that waits for the last of them."""
        self._ended.pop(answer.id, None)
        if answer.fingerprint is not None:
            same = self._same[answer.fingerprint]
            del same[answer.id]
            if not same:
                del self._same[answer.fingerprint]
            size = answer.fingerprint.size
            self._sizes[size] -= 1
            if not self._sizes[size]:
                del self._sizes[size]
            answer.fingerprint = None
        if answer.readers:
            answer.state = State.HAD
            return ()
        self._answers.pop(answer.id, None)
        return self._forgotten(answer)


def _refusal(answer: _Answer, now: float, window: float) -> ErrorReply:
    ago = max(0, round(now - answer.at))
    if answer.until == inf:
        still = f"until that is over, and for {window:g} s more"
    else:
        still = f"for {max(1, ceil(answer.until - now))} s more"
    return ErrorReply(
        "possibly_spent",
        f"The same request was sent before, as {answer.id}, and may have been paid for: "
        f"{ago} s ago {answer.saw}. So it is not sent again {still} ([retry] repeat_guard). "
        "To send it all the same, which may pay twice, repeat it with the header "
        "`X-Arbstr-Respend: allow`.",
        should_retry=False,
    )

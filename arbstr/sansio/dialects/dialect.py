"""What is asked of a door: the one interface between those who know a protocol and all others.

    the client's bytes --Dialect.parse--> Asked --Dialect.outgoing--> a provider's bytes
    a stream's events --Reading.read--> Facts --relay--> the client's bytes --Reading.finish-->
    a whole answer --Dialect.judge--> Answer, BadAnswer or ErrorAnswer --Dialect.as_stream-->

A dialect is stateless, one instance a door; `Reading` is one attempt's stream. Routing, failover,
ledger, exchange and the runtime know `Asked`, `Facts` and the verdicts, and no door; which path is
which door's is the table of routes (`trio_runtime/app.py`).

What is asked of a `Dialect`, and what for:

    name               "chat": what rows, configuration and commands call the door
    path               "/chat/completions": behind a provider's base URL
    limit_member       "max_tokens": where a client limits the output, for advice; None if nowhere
    id_header          b"request-id": where its clients look for the id of a request, beside the
                       headers all answers have; None if nowhere else
    silence            what is written while nobody answers yet: clients must pass it over
    price_follows      a Routstr node says what it charged only behind the last event, so that is
                       waited for (2 s at most) before the end is written
    ends_when_broken   the body of a broken stream ends as HTTP says an answer ends. False: the
                       connection is cut behind `interrupt`, for clients that miss its event
    saying             a text -> the members of a request that says just this, without `model`
    parse              the body, headers and query of a request -> Asked, or why not
    outgoing           the body for one provider: the client's own bytes, or edited in place
    reading            a fresh Reading for one attempt's stream
    judge              a whole 2xx body -> a verdict; also of a stream that came in its place
    as_stream          a body that was judged an Answer, as events for a fresh Reading; b"" if it
                       makes none
    error              the shape of an error. Also of those before `parse`: of what the door's own
                       path is refused for
    error_event        an error that ends a stream in which no event has gone out: the head is
                       gone, with `silence`, and no provider has answered

and of a `Reading`, event by event, in order:

    passes_whole       the cheap test, once output has gone out: how many events a block of whole
                       events has, if each is unremarkable (goes on, says something, nothing else);
                       else 0, and each is read. No JSON, no object per event
    read               what one event says, and whether it may go on
    read_stray         what lines say that are no fields of an event; only there if there are any
    began, spoke       what `relay` asks between events, see there
    finish             all that follows the last event that went on, with arbstr's own object in it
    interrupt          the error that ends a stream whose events have gone out
    rest               of a complete answer: what did not go on, as events for another Reading.
                       Behind all that went on they make the same answer, whoever asks

A reading may keep what it likes of what it read: the ids and the running number that `interrupt`
repeats, the protocol's last event, which `finish` completes. It is pickled with its relay where an
event is heavy (`usage.is_heavy`), and a dialect with `Asked`: as its own name (`__reduce__`).

Nothing here raises, whatever the bytes.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from decimal import Decimal
from typing import Any, Protocol, TypeAlias, final

from arbstr.sansio.dialects.sse import Event
from arbstr.sansio.dialects.usage import Counts, priced
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Usage

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """What a request refers to and one provider keeps, by the `id` that it gave it.

    `name` is what to call it at the beginning of a sentence, `param` the member it stands in.
    `instead` is the member that may hold the thing itself.
    """

    id: str = field(repr=False)
    name: str
    param: str
    instead: str


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """What a provider keeps of an answer, by the ids of later requests' `Reference`s.

    `wholes` stand for all that was said up to and with it, `parts` each for a part of it alone.
    """

    wholes: tuple[str, ...]
    parts: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What everybody but its door needs to know of one request.

    `choices`: how many answers it asks for, 1 where the protocol knows no such thing. `max_output`
    is the client's limit in tokens a choice; None if there is none, 0 where nothing is put out.
    `input_tokens` is an estimate. `last_user_text` is where keywords of policies are looked for.
    `adds_option`: `outgoing` adds a member that the client has not sent and that a provider may
    refuse; it can be left out (`ask_usage`). `conversation` tells which others this one continues,
    None if nothing does. `query` (without "?") goes on behind the path, `forwarded` headers go on
    with it, names in lower case. `refers`: what it refers to, and can be asked of nobody but who
    keeps that. `form` is where in the body the values of those members stand, in
    bytes, that only say in which form the answer is to come: requests that differ in them alone ask
    for the same. `own` is the door's own.

    What holds a person's words is kept out of `repr`.
    """

    dialect: "Dialect" = field(repr=False)
    body: bytes = field(repr=False)
    model: str
    stream: bool
    choices: int
    max_output: int | None
    input_tokens: int
    last_user_text: str = field(repr=False)
    adds_option: bool = False
    conversation: str | None = field(default=None, repr=False)
    query: bytes = field(default=b"", repr=False)
    forwarded: Headers = field(default=(), repr=False)
    refers: tuple[Reference, ...] = ()
    form: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    own: Any = field(default=None, repr=False)

    def without_texts(self) -> "Asked":
        """The same without the body and what was said in it, to be sent where that costs."""
        return replace(self, body=b"", last_user_text="")


@dataclass(frozen=True, slots=True)
class Facts:
    """What one event says, for any door. A door may know more (a subclass).

    What becomes of it, the first that fits: `last`: the protocol says that nothing follows. `kept`:
    it belongs to the end, the reading keeps it for `finish`. `passes`: clients can read it, so it
    goes on. Else it is dropped.

    `output`: the commit point, from which on there is no other provider. `said`: a part of an
    answer stands in it, which somebody pays for. Neither is looked for in what passes whole.
    `whole`: with it nothing of the answer is outstanding any more (the last of several choices has
    ended; a last event that proves itself).
    `error`: it is an error, `told` its data where that is not the event's; with `said`, what failed
    had begun to answer.
    `garbled`: a part of the answer is lost in it, so that cannot become complete. `prose`: text for
    people, which is the error if no answer follows. `doubt`: it is nothing that is known, so
    something may be missing: a `last` that is not `whole` proves nothing after it. `stored`: with a
    `last`, what the provider keeps of the answer.
    """

    passes: bool = False
    kept: bool = False
    last: bool = False
    output: bool = False
    said: bool = False
    whole: bool = False
    error: bool = False
    told: bytes | None = None
    garbled: bool = False
    prose: bool = False
    doubt: bool = False
    counts: Counts | None = None
    provider_cost_msats: Decimal | None = None
    stored: Stored | None = None

    @property
    def price(self) -> tuple[Usage | None, Decimal | None, bool]:
        """`usage.priced` of a plain body."""
        return priced(self.counts, self.provider_cost_msats, said=self.said)


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is what the client gets: the object that was judged if nothing had to change.
    `stored` is what the provider keeps of it."""

    body: bytes
    usage: Usage | None
    provider_cost_msats: Decimal | None
    stored: Stored | None = None


@final
@dataclass(frozen=True, slots=True)
class BadAnswer:
    """No answer, but probably paid for. `sentence` begins in lower case and has no full stop."""

    sentence: str
    usage: Usage | None = None
    provider_cost_msats: Decimal | None = None


@final
@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """`data` is the JSON of a provider's error, for `classify.from_error_body`.

    `counted`: tokens were counted beside it, so it may have been charged.
    """

    data: bytes
    usage: Usage | None = None
    provider_cost_msats: Decimal | None = None
    counted: bool = False


Verdict: TypeAlias = Answer | BadAnswer | ErrorAnswer


class Reading(Protocol):
    """One attempt's stream, read. See the module; `relay` drives it.

    `began`: something of an answer came; a last event before that says nothing. `spoke`: something
    was said that is no thinking; until then an end may be that of the thinking only, and more is
    waited for as long as for any event.
    """

    @property
    def began(self) -> bool: ...

    @property
    def spoke(self) -> bool: ...

    def passes_whole(self, block: bytes) -> int:
        """How many unremarkable events a block has, 0 if there is any other in it."""

    def read(self, event: Event, *, output_seen: bool) -> Facts:
        """What one event says; it has data or a name.

        `output_seen`: output has gone out and nothing was counted yet, so what `passes_whole`
        would let pass need not be parsed.
        """

    def read_stray(self, stray: bytes) -> Facts:
        """What lines without a field say; `told` is the data of an error there."""

    def finish(self, arbstr: bytes) -> bytes:
        """The end of a complete answer. `arbstr` is the text of a JSON object, in one line."""

    def interrupt(self, error: ErrorReply, request_id: str | None = None) -> bytes:
        """The end of an answer that is not complete, with the request's id where errors have it."""

    def rest(self) -> bytes:
        """What a complete answer has beyond the events that went on."""


class Dialect(Protocol):
    """A door. See the module."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def limit_member(self) -> str | None: ...

    @property
    def id_header(self) -> bytes | None: ...

    @property
    def silence(self) -> bytes: ...

    @property
    def price_follows(self) -> bool: ...

    @property
    def ends_when_broken(self) -> bool: ...

    def saying(self, text: str) -> dict[str, object]:
        """The members of a request that says just this; `model` is to be added."""

    def parse(self, body: bytes, headers: Mapping[str, str], query: bytes) -> Asked | ErrorReply:
        """Reads a request. Header names are in lower case; `query` is without its "?".

        The ErrorReply says in its `param` which member is at fault.
        """

    def outgoing(self, asked: Asked, *, model: str, ask_usage: bool, mirror_limit: bool) -> bytes:
        """The body for one provider: `asked.body` itself when nothing has to change.

        `model` is the id the provider knows. `ask_usage`: it takes an option that makes it count.
        `mirror_limit`: it reserves by the usual name of the output's limit alone, as Routstr nodes
        do, so another name for it does not do.
        """

    def reading(self, asked: Asked) -> Reading:
        """For one attempt's stream."""

    def judge(self, body: bytes, asked: Asked, content_type: str) -> Verdict:
        """What the whole body of a 2xx answer is. Bytes decide; the type is only for sentences."""

    def as_stream(self, answer_body: bytes) -> bytes:
        """A body that was judged an `Answer`, as the stream the client asked for."""

    def error(self, error: ErrorReply, request_id: str) -> bytes:
        """The body of an error."""

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """An error as the only event of a stream."""

r"""A door of the tests' own, in a protocol that nobody else speaks: whatever serves it knows none.

    POST /v1/toys  {"toy": model, "say": text, "most": words?, "aloud": stream?}
    whole          {"words": [...], "used": [in, out]}
    streamed       data: {"word": "a"}        ...  then  event: end \n data: {"used": [in, out]}
    an error       {"oops": what}, streamed as  event: oops
    a node's bill  event: bill \n data: {"msats": n}   behind the end

The last event is held back and bears arbstr's object, as Responses' and Messages' do. Its header
`toy-age` and its query go along.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, final

from arbstr.sansio.dialects.complaints import NOTHING, read_data, read_stray
from arbstr.sansio.dialects.dialect import (
    Answer,
    Asked,
    BadAnswer,
    Dialect,
    ErrorAnswer,
    Facts,
    Verdict,
)
from arbstr.sansio.dialects.sse import Event, is_stream
from arbstr.sansio.dialects.usage import Counts, parse_json
from arbstr.sansio.dialects.whole import Streamed, read_through
from arbstr.sansio.errors import ErrorReply

WORD: Final = b'data: {"word": '


def facts_of(value: Mapping[str, Any]) -> Facts:
    """What an object of this protocol says, whole or an event."""
    used = value.get("used")
    counts = Counts(*used) if used else None
    said = bool(value.get("word") or value.get("words"))
    error = "oops" in value
    bill = None if "msats" not in value else Decimal(value["msats"])
    return Facts(
        passes=not error and bill is None,
        output=said,
        said=said,
        error=error,
        counts=counts,
        provider_cost_msats=bill,
    )


@final
class ToyReading:
    """Keeps the last event."""

    def __init__(self) -> None:
        self.began = False
        self.spoke = True
        self.last: Mapping[str, Any] = {}

    def passes_whole(self, block: bytes) -> int:
        """Words and nothing else."""
        lines = block.split(b"\n\n")[:-1]
        return len(lines) if all(line.startswith(WORD) for line in lines) else 0

    def read(self, event: Event, *, output_seen: bool) -> Facts:
        """A word, the end, or an error."""
        facts = read_data(event.data, facts_of) if event.data else NOTHING
        self.began = self.began or facts.said
        if event.name == b"end" and event.data:
            self.began, self.last = True, json.loads(event.data)
            return Facts(last=True, whole=True, counts=facts.counts)
        return facts

    def read_stray(self, stray: bytes) -> Facts:
        """As any door."""
        return read_stray(stray, facts_of)

    def finish(self, arbstr: bytes) -> bytes:
        """The last event, and how it went."""
        last = {**self.last, "arbstr": json.loads(arbstr)}
        return b"event: end\ndata: " + json.dumps(last).encode() + b"\n\n"

    def rest(self) -> bytes:
        """The last event, as it came."""
        return b"event: end\ndata: " + json.dumps(self.last).encode() + b"\n\n"

    def interrupt(self, error: ErrorReply, request_id: str | None = None) -> bytes:
        """The error, and that words are missing."""
        return b"event: oops\ndata: " + json.dumps({"oops": error.code}).encode() + b"\n\n"


@final
class Toy:
    """POST /v1/toys."""

    name: Final = "toy"
    path: Final = "/toys"
    limit_member: Final = "most"
    id_header: Final = b"toy-id"
    silence: Final = b"event: hum\ndata: {}\n\n"
    price_follows: Final = True
    ends_when_broken: Final = True

    def __reduce__(self) -> str:
        return "TOY"

    def saying(self, text: str) -> dict[str, object]:
        """A text to say."""
        return {"say": text}

    def parse(self, body: bytes, headers: Mapping[str, str], query: bytes) -> Asked | ErrorReply:
        """The toy that is meant may be named in a header, too."""
        told = parse_json(body)
        if not isinstance(told, dict):
            return ErrorReply("malformed_json", "That is no toy's talk.")
        age = headers.get("toy-age")
        return Asked(
            dialect=self,
            body=body,
            model=str(told.get("toy")),
            stream=told.get("aloud") is True,
            choices=1,
            max_output=told.get("most"),
            input_tokens=len(str(told.get("say")).split()),
            last_user_text=str(told.get("say")),
            query=query,
            forwarded=((b"toy-age", age.encode()),) if age is not None else (),
        )

    def outgoing(self, asked: Asked, *, model: str, ask_usage: bool, mirror_limit: bool) -> bytes:
        """The same bytes unless the provider knows the toy by another name."""
        if model == asked.model:
            return asked.body
        return json.dumps({**json.loads(asked.body), "toy": model}).encode()

    def reading(self, asked: Asked) -> ToyReading:
        """For one stream."""
        return ToyReading()

    def judge(self, body: bytes, asked: Asked, content_type: str) -> Verdict:
        """Words, or a stream of them."""
        if is_stream(body):
            told = read_through(reading := ToyReading(), body, lacks="words")
            if not isinstance(told, Streamed):
                return told
            words = [json.loads(event.data or b"")["word"] for event in told.events]
            whole = json.dumps({"words": words, **reading.last}).encode()
            return Answer(whole, told.usage, told.cost)
        value = parse_json(body)
        facts = facts_of(value) if isinstance(value, dict) else NOTHING
        usage, cost, counted = facts.price
        if facts.error:
            return ErrorAnswer(body, usage, cost, counted)
        return Answer(body, usage, cost) if facts.said else BadAnswer("answered without words")

    def as_stream(self, answer_body: bytes) -> bytes:
        """A word an event."""
        whole = json.loads(answer_body)
        words = [WORD + json.dumps(word).encode() + b"}\n\n" for word in whole.pop("words")]
        return b"".join([*words, b"event: end\ndata: " + json.dumps(whole).encode() + b"\n\n"])

    def error(self, error: ErrorReply, request_id: str) -> bytes:
        """What went wrong, and where to look it up."""
        return json.dumps({"oops": error.code}).encode()

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """As in the middle of a stream."""
        return ToyReading().interrupt(error)


TOY: Final[Dialect] = Toy()

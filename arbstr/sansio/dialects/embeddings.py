"""The door /v1/embeddings: one plain answer, priced by its input alone.

What is embedded is a text, a list of texts, or of tokens, whose number is known; nothing is put
out. The vectors of an answer are megabytes of digits that say nothing to arbstr, so they are left
out when it is read: what is parsed is the rest (`_without_vectors`), the usage with it.

There are no streams here: what looks like one is no answer.
"""

import re
from collections.abc import Mapping
from typing import Final, final

from arbstr.sansio.dialects.complaints import complains, is_error, read_data, read_stray
from arbstr.sansio.dialects.dialect import (
    Answer,
    Asked,
    BadAnswer,
    Dialect,
    ErrorAnswer,
    Facts,
    Verdict,
)
from arbstr.sansio.dialects.members import Members, RefusedError
from arbstr.sansio.dialects.request import (
    read_body,
    read_model,
    size_of,
    span_in_bytes,
    tokens_in,
    utf8_length,
    with_model,
)
from arbstr.sansio.dialects.sse import BOM, Event, is_stream
from arbstr.sansio.dialects.usage import (
    Counts,
    parse_json,
    priced,
    read_counts,
    read_stated_cost,
)
from arbstr.sansio.dialects.whole import what_else
from arbstr.sansio.errors import ErrorReply

READ_ONCE: Final = frozenset({"model", "input"})
"""The members that are read, so that none of them may occur twice."""

_VECTORS: Final = re.compile(rb'"data"\s*+:\s*+\[')
"""Where the answer's vectors begin."""


def tokens_of(given: object) -> int:
    """An estimate of the tokens of an `input`, or of a `prompt`: texts and tokens, or lists of
    them."""
    if isinstance(given, str):
        return tokens_in(utf8_length(given))
    if not isinstance(given, list):
        return 1
    texts = [item for item in given if isinstance(item, str)]
    lists = [item for item in given if isinstance(item, list)]
    tokens = len(given) - len(texts) - len(lists) + sum(map(len, lists))
    return max(1, tokens + (tokens_in(size_of(texts)) if texts else 0))


@final
class NoStream:
    """Of events where none can be: errors are errors, all else is lost."""

    __slots__ = ()

    began: Final = False
    spoke: Final = True

    def passes_whole(self, block: bytes) -> int:
        """None is unremarkable."""
        return 0

    def read(self, event: Event, *, output_seen: bool) -> Facts:
        """Whether it is an error, and what it cost."""
        if not event.data:
            return Facts(error=event.name == b"error")
        return read_data(event.data, _read_object)

    def read_stray(self, stray: bytes) -> Facts:
        """The same of lines without a field."""
        return read_stray(stray, _read_object)

    def finish(self, arbstr: bytes) -> bytes:
        """Nothing can be finished that never began."""
        return b""

    def interrupt(self, error: ErrorReply, request_id: str | None = None) -> bytes:
        """Nor interrupted."""
        return b""

    def rest(self) -> bytes:
        """Nor told again."""
        return b""


def _read_object(value: Mapping[str, object]) -> Facts:
    error = is_error(value)
    return Facts(
        error=error,
        prose=not error and complains(value),
        garbled=not error,
        counts=read_counts(value),
        provider_cost_msats=read_stated_cost(value),
    )


@final
class Embeddings:
    """POST /v1/embeddings."""

    __slots__ = ()

    name: Final = "embeddings"
    path: Final = "/embeddings"
    limit_member: Final = None
    id_header: Final = None
    silence: Final = b""
    price_follows: Final = False
    ends_when_broken: Final = False

    def __reduce__(self) -> str:
        return "EMBEDDINGS"

    def saying(self, text: str) -> dict[str, object]:
        """A text to embed."""
        return {"input": text}

    def parse(self, body: bytes, headers: Mapping[str, str], query: bytes) -> Asked | ErrorReply:
        """Reads a request; headers and query decide nothing."""

        def read(text: str, members: Members, _inside: int) -> Asked:
            model, place = read_model(members)
            if "input" not in members:
                raise RefusedError("missing_member", "The request body has no `input`.", "input")
            given = members["input"][2]
            if not isinstance(given, str | list):
                raise RefusedError(
                    "invalid_member", "`input` must be a string or an array.", "input"
                )
            return Asked(
                dialect=self,
                body=body,
                model=model,
                stream=False,
                choices=1,
                max_output=0,
                input_tokens=tokens_of(given),
                last_user_text="",
                own=span_in_bytes(text, place),
            )

        return read_body(body, READ_ONCE, read)

    def outgoing(self, asked: Asked, *, model: str, ask_usage: bool, mirror_limit: bool) -> bytes:
        """The same bytes, or the model edited in place."""
        return with_model(asked, model)

    def reading(self, asked: Asked) -> NoStream:
        """For what should not come."""
        return NoStream()

    def judge(self, body: bytes, asked: Asked, content_type: str) -> Verdict:
        """What the whole body of a 2xx answer is."""
        text = body.removeprefix(BOM).strip()
        if not text:
            return BadAnswer("answered with nothing at all")
        if is_stream(text):
            return BadAnswer("answered with a stream, which embeddings never are")
        rest = _without_vectors(text)
        value = parse_json(text) if rest is None else parse_json(rest)
        if isinstance(value, list) and (facts := read_data(text, _read_object)).error:
            return ErrorAnswer(text, *facts.price)
        if not isinstance(value, dict):
            return BadAnswer(what_else(text, content_type))
        listed = value.get("data")
        said = rest is not None or (isinstance(listed, list) and bool(listed))
        usage, cost, counted = priced(_counts(value), read_stated_cost(value), said=False)
        if not said and (is_error(value) or complains(value)):
            return ErrorAnswer(text, usage, cost, counted)
        if not said:
            return BadAnswer("answered with JSON that has no embeddings", usage, cost)
        return Answer(body, usage, cost)

    def as_stream(self, answer_body: bytes) -> bytes:
        """It makes none."""
        return b""

    def error(self, error: ErrorReply, request_id: str) -> bytes:
        """OpenAI's shape, which is the one errors have here anyway."""
        return error.body()

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """No stream is ever begun here."""
        return b""


def _without_vectors(text: bytes) -> bytes | None:
    """The answer with its array `data` empty; None if it is not plainly one that has some.

    The array is taken to end at the last bracket there is. What is cut short opens more braces or
    brackets than it closes: no vector has any in it, whether digits or base64.
    """
    found = _VECTORS.search(text)
    if found is None or not text.startswith(b"{") or not text.endswith(b"}"):
        return None
    end = text.rfind(b"]")
    vectors = text[found.end() : end].strip()
    rest = text[: found.end()] + text[end:]
    whole = text.count(b"{") == text.count(b"}") and text.count(b"[") == text.count(b"]")
    is_vectors = vectors.startswith((b"{", b"[")) and vectors.endswith((b"}", b"]"))
    return rest if whole and is_vectors and isinstance(parse_json(rest), dict) else None


def _counts(value: Mapping[str, object]) -> Counts | None:
    """Input alone is counted; some only say the total, which is the same here."""
    usage = value.get("usage")
    if isinstance(usage, dict) and usage.get("prompt_tokens") is None:
        value = {**value, "usage": {**usage, "prompt_tokens": usage.get("total_tokens")}}
    counts = read_counts(value)
    return counts and Counts(counts.prompt, 0, counts.cached)


EMBEDDINGS: Final[Dialect] = Embeddings()

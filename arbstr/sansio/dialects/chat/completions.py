"""The door /v1/completions: as chat, with `prompt` in the place of `messages`.

Its chunks and answers have choices, too, whose text is in `text`; all that chat knows of ends,
usage and errors holds. A list of prompts asks for each of them, so it multiplies the choices, as
`best_of` does, of which all are made and paid for, whatever comes back.
"""

from collections.abc import Mapping
from typing import Any, Final, final

from arbstr.sansio.dialects.chat import answer
from arbstr.sansio.dialects.chat.ending import KEEP_ALIVE, error_event
from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.chat.request import ChatMembers, Places, outgoing_body, usage_edit
from arbstr.sansio.dialects.dialect import Asked, Dialect, Verdict
from arbstr.sansio.dialects.members import Members, RefusedError
from arbstr.sansio.dialects.request import (
    choices_of,
    form_of,
    limit_of,
    read_body,
    read_model,
    size_of,
    tokens_in,
    value_of,
)
from arbstr.sansio.dialects.sse import BOM
from arbstr.sansio.dialects.usage import parse_finite
from arbstr.sansio.errors import ErrorReply

OBJECT: Final = "text_completion"
"""What its chunks and its answers call themselves."""

READ_ONCE: Final = frozenset(
    {"model", "prompt", "stream", "stream_options", "n", "best_of", "max_tokens"}
)
"""The top-level members that are read, so that none of them may occur twice."""


@final
class Completions:
    """POST /v1/completions."""

    __slots__ = ()

    name: Final = "completions"
    path: Final = "/completions"
    limit_member: Final = "max_tokens"
    id_header: Final = None
    silence: Final = KEEP_ALIVE
    price_follows: Final = False
    ends_when_broken: Final = False

    def __reduce__(self) -> str:
        return "COMPLETIONS"

    def saying(self, text: str) -> dict[str, object]:
        """A text to go on with."""
        return {"prompt": text}

    def parse(self, body: bytes, headers: Mapping[str, str], query: bytes) -> Asked | ErrorReply:
        """Reads a request; headers and query decide nothing."""

        def read(text: str, members: Members, inside: int) -> Asked:
            model, place = read_model(members)
            prompts = _prompts(members)
            stream = value_of(members, "stream") is True
            asks_usage, ask_usage = usage_edit(text, members, inside)
            made = max(choices_of(value_of(members, "n")), choices_of(value_of(members, "best_of")))
            texts = [prompt for prompt in prompts if isinstance(prompt, str)]
            tokens = sum(len(prompt) for prompt in prompts if isinstance(prompt, list))
            return Asked(
                dialect=self,
                body=body,
                model=model,
                stream=stream,
                choices=made * len(prompts),
                max_output=limit_of(value_of(members, "max_tokens")),
                input_tokens=max(1, tokens + (tokens_in(size_of(texts)) if texts else 0)),
                last_user_text=texts[-1] if texts else "",
                adds_option=stream and value_of(members, "stream_options") is None,
                form=form_of(text, members),
                own=ChatMembers(asks_usage, Places(place, ask_usage).in_bytes(text)),
            )

        return read_body(body, READ_ONCE, read)

    def outgoing(self, asked: Asked, *, model: str, ask_usage: bool, mirror_limit: bool) -> bytes:
        """The same bytes, or edited in place; the limit has no other name here."""
        return outgoing_body(
            asked, model=model, include_usage=ask_usage, mirror_max_tokens=mirror_limit
        )

    def reading(self, asked: Asked) -> ChatReading:
        """For one attempt's stream."""
        members: ChatMembers = asked.own
        return ChatReading(choices=asked.choices, asks_usage=members.asks_usage, object_name=OBJECT)

    def judge(self, body: bytes, asked: Asked, content_type: str) -> Verdict:
        """What the whole body of a 2xx answer is."""
        return answer.judge(
            body, content_type=content_type, choices=asked.choices, object_name=OBJECT
        )

    def as_stream(self, answer_body: bytes) -> bytes:
        """One chunk with everything, the usage, `[DONE]`."""
        value = parse_finite(answer_body.removeprefix(BOM))
        if not isinstance(value, dict):
            return b""
        return answer.chunks(value, OBJECT, value.get("choices"))

    def error(self, error: ErrorReply, request_id: str) -> bytes:
        """OpenAI's shape, which is the one errors have here anyway."""
        return error.body()

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """An event without a choice, as in chat."""
        return error_event(error)


def _prompts(members: Members) -> list[Any]:
    """Each text or list of tokens that is to be gone on with; at least one."""
    if "prompt" not in members:
        raise RefusedError("missing_member", "The request body has no `prompt`.", "prompt")
    given = members["prompt"][2]
    if not isinstance(given, str | list) and given is not None:
        raise RefusedError("invalid_member", "`prompt` must be a string or an array.", "prompt")
    if isinstance(given, list) and given and isinstance(given[0], str | list):
        return given
    return [given or ""]


COMPLETIONS: Final[Dialect] = Completions()

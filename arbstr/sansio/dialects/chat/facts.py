"""One event of a chat stream, or one plain body -> what it says: output, an end, an error, a price.

After output JSON is parsed only if a look at the bytes says that it may matter (`glance.py`).

What is an error whatever the door, `complaints.py` says; of a chat are besides:

    choices[].error                       OpenRouter
    choices[].finish_reason               one that names a failure; SGLang's object gives it as
                                          its `type`

An `error` member beside a choice that says something decides nothing: that was an answer.

Nothing here raises, whatever the bytes.
"""

from collections.abc import Mapping
from typing import Final, final

from arbstr.sansio.dialects.chat.glance import has_choices, open_braces, says_nothing
from arbstr.sansio.dialects.complaints import (
    PING_NAMES,
    complains,
    is_error,
    names_failure,
    read_data,
    says,
)
from arbstr.sansio.dialects.dialect import Facts
from arbstr.sansio.dialects.usage import read_told
from arbstr.sansio.frozen import dataclass

NOT_OUTPUT: Final = frozenset({"role", "name"})
"""Members of a delta that are not output. Everything else that is not empty is (content,
reasoning in its many names, refusal, audio, function and tool calls, images, ...): to take an
unknown kind of output for nothing would hold it back, the other mistake only commits early."""


@final
@dataclass(frozen=True, slots=True)
class ChatFacts(Facts):
    """What one chunk says. `passes`: it is an object with an array `choices`, which is what clients
    can read. `kept`: there is usage and no choice. `output`: a choice says something or has a
    finish reason.

    `indexes`: the choices it is about. `finished`: (choice, finish reason) for those that end well;
    an empty string is no reason (some providers write it where OpenAI writes null).
    `id`, `created`, `model` are the chunk's own, None if absent or empty.
    """

    indexes: tuple[int, ...] = ()
    finished: tuple[tuple[int, str], ...] = ()
    id: str | None = None
    created: int | None = None
    model: str | None = None


UNREMARKABLE: Final = ChatFacts(passes=True, said=True)


def read_event(data: bytes, *, output_seen: bool) -> Facts:
    """What an event with this data says. After output JSON is parsed only if it may matter."""
    if (
        output_seen
        and data.startswith(b"{")
        and data.endswith(b"}")
        # An event glued to one that was cut must not pass as one.
        and b"data:" not in data
        and b"\n" not in data
        and has_choices(data)
        and says_nothing(data)
        and not open_braces(data)
    ):
        return UNREMARKABLE
    return read_data(data, read_object)


def read_object(value: Mapping[str, object]) -> ChatFacts:
    """What a parsed chunk, or a plain body, says."""
    choices = value.get("choices")
    said = failed = beside = False
    indexes: list[int] = []
    finished: list[tuple[int, str]] = []
    listed = choices if isinstance(choices, list) else []
    for position, choice in enumerate(listed):
        if not isinstance(choice, dict):
            continue
        given = choice.get("index")
        index = given if type(given) is int and given >= 0 else position
        indexes.append(index)
        said_here = _has_output(choice)
        said = said or said_here
        reason = choice.get("finish_reason")
        if isinstance(reason, dict):
            reason = reason.get("type") or "other"
        if names_failure(reason):
            failed = True
        elif reason:
            finished.append((index, reason if isinstance(reason, str) else "other"))
        if says(choice.get("error")):
            failed, beside = failed or not said_here, beside or said_here
    counts, cost = read_told(value)
    created = value.get("created")
    error = failed or (not said and is_error(value))
    is_chunk = isinstance(choices, list)
    prose = not error and not listed and complains(value)
    silent = counts is None and cost is None
    return ChatFacts(
        passes=is_chunk and not prose,
        output=said or bool(finished),
        said=said,
        indexes=tuple(indexes),
        finished=tuple(finished),
        error=error,
        # Words of a failure say what they count in vain: nobody has got it.
        kept=not prose
        and ((choices == [] and _gives_usage(value)) or (choices is None and counts is not None)),
        prose=prose,
        doubt=not error and (beside or prose or (silent and _is_doubtful(value, is_chunk))),
        counts=counts,
        provider_cost_msats=cost,
        id=_text(value.get("id")),
        created=created if type(created) is int and created > 0 else None,
        model=_text(value.get("model")),
    )


def _gives_usage(value: Mapping[str, object]) -> bool:
    """Whether there is a usage object, believable or not."""
    groq = value.get("x_groq")
    return isinstance(value.get("usage"), dict) or (
        isinstance(groq, dict) and isinstance(groq.get("usage"), dict)
    )


def _is_doubtful(value: Mapping[str, object], is_chunk: bool) -> bool:
    """Whether an event that says nothing else may have been meant to say something."""
    if is_chunk:
        # A chunk with an error beside it that decided nothing.
        return is_error(value)
    kind = value.get("type")
    return any(value.values()) and not (isinstance(kind, str) and kind in PING_NAMES)


def _has_output(choice: Mapping[str, object]) -> bool:
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        delta = choice.get("message")  # some providers call it so in streams as well
    if isinstance(delta, dict) and any(
        value and member not in NOT_OUTPUT for member, value in delta.items()
    ):
        return True
    return bool(choice.get("text"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None

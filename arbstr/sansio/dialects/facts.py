"""One event of a chat stream, or one plain body -> what it says: output, an end, an error, a price.

After output JSON is parsed only if a look at the bytes says that it may matter (`glance.py`).

What is an error is asked here, once for plain answers, streams, and either in place of the other:

    {"error": ...} that says something    OpenAI and nearly everybody; an object in which nothing
                                          but null, 0, "" and false stands says nothing
    {"object": "error", ...}              vLLM; also under `type` or `status`
    {"errors": [...]}                     Cloudflare
    {"detail": {"error": ...}}            FastAPI, so a Routstr node
    [{"error": ...}]                      Gemini
    choices[].error                       OpenRouter
    choices[].finish_reason               one that names a failure, see `FAILURES`; SGLang's object
                                          gives it as its `type`
    {"detail": "text"}, {"code", "message"}  FastAPI, DashScope, Zhipu, Baidu, MiniMax: words, and a
                                          mark of failure (`_complains`). No answer may follow: then
                                          it was the error, as with text for people
    error: ...                            llama.cpp's field of a stream (`read_stray`)
    { "error": ... } between events       a body passed on as it came (`read_stray`)

An `error` member beside a choice that says something decides nothing: that was an answer.

Nothing here raises, whatever the bytes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, final

from arbstr.sansio.dialects.glance import has_choices, open_braces, says_nothing
from arbstr.sansio.dialects.usage import Counts, parse_json, priced, read_counts, read_stated_cost
from arbstr.sansio.money import Usage

_PING: Final = re.compile(
    rb'["\s:]*(?:ping|pong|keep[-_ ]?alive|heart[-_ ]?beat|null|\[\]|\{\}|"")?["\s]*', re.I
)
"""Data that is no part of an answer and does not pretend to be one."""
_EMPTY: Final = re.compile(rb"null|false|\{\s*\}|\"\"|")
_BARE_TEXT: Final = re.compile(rb"(?!<)[^\s:]+\s")
"""A line of a stream that no field begins, nor HTML: words."""
_NO_TEXT: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Bytes that stand in no text for people (terminals' colours do)."""
_PING_NAMES: Final = frozenset({"ping", "pong", "keepalive", "keep-alive", "heartbeat"})

FAILURES: Final = re.compile(
    r"error|abort|cancel|fail|time[d_ ]*out|interrupt|insufficient|unavailable|overload"
    r"|disconnect|rate[_ -]?limit|quota|killed|crash|exception|unreachable",
    re.I,
)
"""Finish reasons that name a failure: `error` (OpenRouter, Mistral, vLLM), `abort` (vLLM, SGLang),
`network_error` (Zhipu), `insufficient_system_resource` (DeepSeek), `cancelled`. What the model or
a filter ended is whole, however useless: `content_filter`, `sensitive` (Zhipu), `recitation`,
`function_call_filter: MALFORMED_FUNCTION_CALL` (Gemini)."""

WORDS: Final = (
    "message",
    "msg",
    "error_message",
    "error_msg",
    "errorMessage",
    "status_msg",
)
"""Where an object that is its own error says what went wrong."""

_CODES: Final = ("code", "status", "status_code", "statusCode")
_ERROR_CODES: Final = ("error_code", "errcode", "errorCode", "errno")
"""Those of errors alone: any but 0 is one. Baidu's begin at 1."""
_WELL: Final = re.compile(
    r"|[0-3]?[0-9]{1,2}|ok|success(?:ful)?|true|queued|pending|processing", re.I
)
"""Codes of what goes well: none, "0", HTTP's below 400, words."""

NOT_OUTPUT: Final = frozenset({"role", "name"})
"""Members of a delta that are not output. Everything else that is not empty is (content,
reasoning in its many names, refusal, audio, function and tool calls, images, ...): to take an
unknown kind of output for nothing would hold it back, the other mistake only commits early."""


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """What one event says.

    `is_chunk`: an object with an array `choices`, which is what clients can read. `said`: a choice
    says something. `output`: the commit point, `said` or a finish reason; neither is looked for
    once output was seen. `indexes`: the choices it is about. `finished`: (choice, finish reason)
    for those that end well; an empty string is no reason (some providers write it where OpenAI
    writes null). `error`: it is an error, see the module; with `said` what failed had begun to
    answer. `usage_only`: there is usage and no choice. `garbled`: it is no JSON. `prose`: it is
    text for people, which is the error if no answer follows. `doubt`: it is nothing that is known,
    so something may be missing.
    `id`, `created`, `model` are the chunk's own, None if absent or empty.
    """

    is_chunk: bool
    output: bool = False
    said: bool = False
    indexes: tuple[int, ...] = ()
    finished: tuple[tuple[int, str], ...] = ()
    error: bool = False
    usage_only: bool = False
    garbled: bool = False
    prose: bool = False
    doubt: bool = False
    counts: Counts | None = None
    provider_cost_msats: Decimal | None = None
    id: str | None = None
    created: int | None = None
    model: str | None = None

    @property
    def price(self) -> tuple[Usage | None, Decimal | None, bool]:
        """`usage.priced` of a plain body."""
        return priced(self.counts, self.provider_cost_msats, said=self.said)


UNREMARKABLE: Final = Facts(is_chunk=True, said=True)
NO_CHUNK: Final = Facts(is_chunk=False)
DOUBTFUL: Final = Facts(is_chunk=False, doubt=True)
GARBLED: Final = Facts(is_chunk=False, garbled=True, doubt=True)
PROSE: Final = Facts(is_chunk=False, garbled=True, prose=True, doubt=True)
QUOTED_PROSE: Final = Facts(is_chunk=False, prose=True, doubt=True)
AN_ERROR: Final = Facts(is_chunk=False, error=True)


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
    value = parse_json(data)
    if isinstance(value, dict):
        return read_object(value)
    if _PING.fullmatch(data):
        return NO_CHUNK
    if isinstance(value, list):
        return _of_list(value)
    if value is not None:
        return QUOTED_PROSE if isinstance(value, str) else DOUBTFUL
    broken = data.lstrip().startswith((b"{", b"[", b'"')) or _NO_TEXT.search(data) is not None
    return GARBLED if broken else PROSE


def read_stray(stray: bytes) -> tuple[Facts, bytes]:
    """What lines of a stream that are no fields of an event say, and the data of an error there."""
    field, _, told = stray.partition(b":")
    if field.strip() == b"error":
        told = told.strip()
        value = parse_json(told)
        if isinstance(value, dict) and _says(value):
            return _as_error(read_object(value)), b'{"error":' + told + b"}"
        return (DOUBTFUL if _EMPTY.fullmatch(told) else AN_ERROR), told
    value = parse_json(stray)
    if isinstance(value, list):
        return _of_list(value), stray
    if value is None and _BARE_TEXT.match(stray) and not _NO_TEXT.search(stray):
        return QUOTED_PROSE, stray
    if not isinstance(value, dict):
        return DOUBTFUL, stray
    facts = read_object(value)
    if facts.error:
        return facts, stray
    # No client reads a chunk that no field carries; what it said is lost.
    return Facts(
        is_chunk=False,
        doubt=True,
        garbled=facts.said,
        prose=facts.prose,
        counts=facts.counts,
        provider_cost_msats=facts.provider_cost_msats,
    ), stray


def read_object(value: Mapping[str, object]) -> Facts:
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
        if isinstance(reason, str) and FAILURES.search(reason):
            failed = True
        elif reason:
            finished.append((index, reason if isinstance(reason, str) else "other"))
        if _says(choice.get("error")):
            failed, beside = failed or not said_here, beside or said_here
    counts, cost, created = read_counts(value), read_stated_cost(value), value.get("created")
    error = failed or (not said and _is_error(value))
    is_chunk = isinstance(choices, list)
    prose = not error and not listed and _complains(value)
    silent = counts is None and cost is None
    return Facts(
        is_chunk=is_chunk,
        output=said or bool(finished),
        said=said,
        indexes=tuple(indexes),
        finished=tuple(finished),
        error=error,
        usage_only=(choices == [] and _gives_usage(value))
        or (choices is None and counts is not None),
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


def _as_error(facts: Facts) -> Facts:
    return Facts(
        is_chunk=False,
        error=True,
        counts=facts.counts,
        provider_cost_msats=facts.provider_cost_msats,
    )


def _is_error(value: Mapping[str, object]) -> bool:
    detail = value.get("detail")
    if _says(value.get("error")) or (isinstance(detail, dict) and _says(detail.get("error"))):
        return True
    if isinstance(value.get("choices"), list):
        return False
    return bool(value.get("errors")) or "error" in (
        value.get("object"),
        value.get("type"),
        value.get("status"),
    )


def _complains(value: Mapping[str, object]) -> bool:
    """Whether an object without choices has words for people, and a mark that it is a failure."""
    detail = value.get("detail")
    if isinstance(detail, str | list) and detail:
        return True
    base = value.get("base_resp")
    if isinstance(base, dict) and _complains(base):
        return True
    if not any(isinstance(value.get(name), str) and value.get(name) for name in WORDS):
        return False
    return (
        value.get("success") is False
        or value.get("ok") is False
        or any(_is_error_code(value.get(name)) for name in _CODES)
        or any(_is_error_code(value.get(name), least=1) for name in _ERROR_CODES)
    )


def _is_error_code(code: object, least: int = 400) -> bool:
    if isinstance(code, str):
        number = re.fullmatch(r"[0-9]{1,3}", code.strip())
        return int(code) >= least if number else _WELL.fullmatch(code.strip()) is None
    return type(code) is int and (code < 0 or code >= least)


def _of_list(values: list[object]) -> Facts:
    errors = [value for value in values if isinstance(value, dict) and _is_error(value)]
    return _as_error(read_object(errors[0])) if errors else DOUBTFUL


def _says(error: object) -> bool:
    """Whether an error says anything: some gateways send an empty one with every event."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


def _is_doubtful(value: Mapping[str, object], is_chunk: bool) -> bool:
    """Whether an event that says nothing else may have been meant to say something."""
    if is_chunk:
        # A chunk with an error beside it that decided nothing.
        return _is_error(value)
    kind = value.get("type")
    return any(value.values()) and not (isinstance(kind, str) and kind in _PING_NAMES)


def is_ping(name: bytes | None) -> bool:
    """Whether an event of this name is only a sign of life."""
    return name is not None and name.decode("utf-8", "replace").strip().lower() in _PING_NAMES


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

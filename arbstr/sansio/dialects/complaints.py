"""What comes where an event or an answer should: errors, words, signs of life, whatever the door.

What is an error is asked here, once for plain answers, for streams, and for either in place of the
other:

    {"error": ...} that says something    OpenAI and nearly everybody; an object in which nothing
                                          but null, 0, "" and false stands says nothing
    {"object": "error", ...}              vLLM; also under `type` (Anthropic) or `status`
    {"errors": [...]}                     Cloudflare
    {"detail": {"error": ...}}            FastAPI, so a Routstr node
    [{"error": ...}]                      Gemini
    {"detail": "text"}, {"code", "message"}  FastAPI, DashScope, Zhipu, Baidu, MiniMax: words, and a
                                          mark of failure (`complains`). No answer may follow: then
                                          it was the error, as with text for people
    error: ...                            llama.cpp's field of a stream (`read_stray`)
    { "error": ... } between events       a body passed on as it came (`read_stray`)

`Reads` is how a door reads an object of its protocol. Nothing here raises, whatever the bytes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from arbstr.sansio.dialects.dialect import Facts
from arbstr.sansio.dialects.usage import parse_json

Reads: TypeAlias = Callable[[Mapping[str, object]], Facts]

_PING: Final = re.compile(
    rb'["\s:]*(?:ping|pong|keep[-_ ]?alive|heart[-_ ]?beat|null|\[\]|\{\}|""|\[?done\]?)?["\s]*',
    re.I,
)
"""Data that is no part of an answer and does not pretend to be one. `[DONE]` is the chat door's;
written otherwise it proves nothing, and nothing is lost."""
_EMPTY: Final = re.compile(rb"null|false|\{\s*\}|\"\"|")
_BARE_TEXT: Final = re.compile(rb"(?!<)[^\s:]+\s")
"""A line of a stream that no field begins, nor HTML: words."""
_NO_TEXT: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Bytes that stand in no text for people (terminals' colours do)."""
PING_NAMES: Final = frozenset({"ping", "pong", "keepalive", "keep-alive", "heartbeat"})

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

_FAILURES: Final = re.compile(
    r"error|abort|cancel|fail|time[d_ ]*out|interrupt|insufficient|unavailable|overload"
    r"|disconnect|rate[_ -]?limit|quota|killed|crash|exception|unreachable",
    re.I,
)
"""Reasons for an end that name a failure: `error` (OpenRouter, Mistral, vLLM), `abort` (vLLM,
SGLang), `network_error` (Zhipu), `insufficient_system_resource` (DeepSeek), `cancelled`. What the
model or a filter ended is whole, however useless: `content_filter`, `sensitive` (Zhipu),
`recitation`, `function_call_filter: MALFORMED_FUNCTION_CALL` (Gemini)."""

NOTHING: Final = Facts()
DOUBTFUL: Final = Facts(doubt=True)
GARBLED: Final = Facts(garbled=True, doubt=True)
PROSE: Final = Facts(garbled=True, prose=True, doubt=True)
QUOTED_PROSE: Final = Facts(prose=True, doubt=True)
AN_ERROR: Final = Facts(error=True)


def read_data(data: bytes, read_object: Reads) -> Facts:
    """What an event with this data says, if only parsing tells."""
    value = parse_json(data)
    if isinstance(value, dict):
        return read_object(value)
    if _PING.fullmatch(data):
        return NOTHING
    if isinstance(value, list):
        return read_list(value, read_object)
    if value is not None:
        return QUOTED_PROSE if isinstance(value, str) else DOUBTFUL
    broken = data.lstrip().startswith((b"{", b"[", b'"')) or _NO_TEXT.search(data) is not None
    return GARBLED if broken else PROSE


def read_stray(stray: bytes, read_object: Reads) -> Facts:
    """What lines of a stream that are no fields of an event say; `told` is the data of an error."""
    field, _, told = stray.partition(b":")
    if field.strip() == b"error":
        told = told.strip()
        value = parse_json(told)
        if isinstance(value, dict) and says(value):
            return _as_error(read_object(value), b'{"error":' + told + b"}")
        return DOUBTFUL if _EMPTY.fullmatch(told) else Facts(error=True, told=told)
    value = parse_json(stray)
    if isinstance(value, list):
        return read_list(value, read_object, stray)
    if value is None and _BARE_TEXT.match(stray) and not _NO_TEXT.search(stray):
        return replace(QUOTED_PROSE, told=stray)
    if not isinstance(value, dict):
        return DOUBTFUL
    facts = read_object(value)
    if facts.error:
        return replace(facts, told=stray)
    # No client reads an event that no field carries; what it said is lost.
    return Facts(
        doubt=True,
        garbled=facts.said,
        prose=facts.prose,
        told=stray if facts.prose else None,
        counts=facts.counts,
        provider_cost_msats=facts.provider_cost_msats,
    )


def read_list(values: list[object], read_object: Reads, told: bytes | None = None) -> Facts:
    """What a list says, of which no protocol makes an event or an answer; `told` are its bytes."""
    errors = [value for value in values if isinstance(value, dict) and is_error(value)]
    return _as_error(read_object(errors[0]), told) if errors else DOUBTFUL


def _as_error(facts: Facts, told: bytes | None = None) -> Facts:
    return Facts(
        error=True,
        told=told,
        counts=facts.counts,
        provider_cost_msats=facts.provider_cost_msats,
    )


def is_error(value: Mapping[str, object]) -> bool:
    """Whether an object is an error, by itself or beside what says nothing."""
    detail = value.get("detail")
    if says(value.get("error")) or (isinstance(detail, dict) and says(detail.get("error"))):
        return True
    if isinstance(value.get("choices"), list):
        return False
    return bool(value.get("errors")) or "error" in (
        value.get("object"),
        value.get("type"),
        value.get("status"),
    )


def complains(value: Mapping[str, object]) -> bool:
    """Whether an object without choices has words for people, and a mark that it is a failure."""
    detail = value.get("detail")
    if isinstance(detail, str | list) and detail:
        return True
    base = value.get("base_resp")
    if isinstance(base, dict) and complains(base):
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


def says(error: object) -> bool:
    """Whether an error says anything: some gateways send an empty one with every event."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


def is_ping(name: bytes | None) -> bool:
    """Whether an event of this name is only a sign of life."""
    return name is not None and name.decode("utf-8", "replace").strip().lower() in PING_NAMES


def names_failure(reason: object) -> bool:
    """Whether the reason that an answer gives for its end says that it failed."""
    return isinstance(reason, str) and _FAILURES.search(reason) is not None

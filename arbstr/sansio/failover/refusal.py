"""What a provider's error answer says: its codes, how long to wait, and what the client may read.

    headers, body --read_refusal--> Refusal
    Refusal --words_of--> its texts
    Refusal --names_stream_options--> whether it is about that member of the request
    Refusal --client_error_object--> an OpenAI-shaped error object without secrets

Providers put an error in many places; tests/corpus/error-*.http are recordings of a Routstr
node's. Here may not live: what a refusal means, that is `classify.py`, or costs,
`failure.py`. Nothing a provider sends raises.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from email.utils import mktime_tz, parsedate_tz
from types import MappingProxyType
from typing import Final, TypeAlias, final

from arbstr.sansio.dialects.complaints import WORDS
from arbstr.sansio.errors import type_of
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.routing.catalog import redact
from arbstr.sansio.secrets import Secret

MAX_TEXT_BYTES: Final = 2048
"""Longest text, in bytes of UTF-8, that is passed on from a provider (picked: half a page)."""

MAX_DEPTH: Final = 16
"""Deepest nesting kept of an error object; what lies deeper becomes null (picked, not measured)."""

MAX_REST_SECONDS: Final = 600.0
"""Longest wait a provider may ask for (picked: ten minutes)."""

NAMED_STATUS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "authentication_error": 401,
        "invalid_api_key": 401,
        "billing_error": 402,
        "insufficient_balance": 402,
        "insufficient_quota": 429,
        "permission_error": 403,
        "model_not_found": 404,
        "not_found_error": 404,
        "rate_limit_error": 429,
        "rate_limit_exceeded": 429,
        "request_too_large": 413,
        "invalid_request_error": 400,
    }
)
"""What stands in `type` or `code`, in lower case, where OpenAI and Anthropic give this status, the
most telling first. Refusals only: a fault of the server's is counted by its number."""

ErrorObject: TypeAlias = Mapping[str, object]


@final
@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer, read.

    `errors` are its error objects, the most telling first, perhaps none. `codes` are their
    `type` and `code` in lower case. `retry_after` is in seconds from now, above 0 and at most
    MAX_REST_SECONDS; None if nothing sensible was said. `status` is the HTTP status an error gives
    itself, 400 to 599, by number or by name, None if it gives none.
    """

    body: bytes
    parsed: object
    errors: tuple[ErrorObject, ...]
    codes: frozenset[str]
    retry_after: float | None
    status: int | None


def read_refusal(headers: Mapping[str, str], body: bytes, *, now_utc: float) -> Refusal:
    """Reads an error answer, or a lone error object with the headers it came under.

    `headers` have lower-case names; `now_utc` is in seconds since 1970. The body may be cut.
    """
    parsed = _parse(body)
    errors = tuple(place for place in _places(parsed) if isinstance(place, dict))
    said = (error.get(name) for error in errors for name in ("type", "code"))
    codes = frozenset(code.lower() for code in said if isinstance(code, str))
    given = (status for status in map(_own_status, errors) if status)
    named = (status for name, status in NAMED_STATUS.items() if name in codes)
    return Refusal(
        body=body,
        parsed=parsed,
        errors=errors,
        codes=codes,
        retry_after=_retry_after(headers, now_utc) or _wait_within((*errors, parsed)),
        status=next(given, None) or next(named, None),
    )


def _parse(body: bytes) -> object:
    try:
        parsed: object = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        # ValueError is also int()'s, for more than 4300 digits.
        return None
    # Gemini's OpenAI endpoint wraps its error object in an array.
    if isinstance(parsed, list):
        return next((each for each in parsed if isinstance(each, dict)), parsed)
    return parsed


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _places(parsed: object) -> tuple[object, ...]:
    """Where providers put an error, object or text.

    A Routstr node says the same under `error` and `detail.error`, or one of them, or only
    `detail`; Cloudflare has a list, `errors`; MiniMax `base_resp`. vLLM and many others spread it
    over the top level.
    """
    detail, errors = _member(parsed, "detail"), _member(parsed, "errors")
    several = errors if isinstance(errors, list) else []
    first = next((each for each in several if isinstance(each, dict)), None)
    inside = (_member(parsed, "error"), _member(detail, "error"), detail, first)
    base = _member(parsed, "base_resp")
    itself = isinstance(_member(parsed, "message"), str) and any(
        _member(parsed, name) is not None for name in ("object", "type", "code", "status")
    )
    top = itself and not any(isinstance(place, dict) for place in inside)
    return (*inside, base, parsed if top else None)


_ERROR_STATUS: Final = re.compile(r"[45][0-9][0-9]")


def _own_status(error: ErrorObject) -> int | None:
    said = (error.get(name) for name in ("code", "status", "status_code"))
    texts = (_code_text(code) for code in said if isinstance(code, str | int))
    return next((int(text) for text in texts if _ERROR_STATUS.fullmatch(text)), None)


def _code_text(code: str | int) -> str:
    # str() of an int stops at 4300 digits with a ValueError; JSON reading stopped there before.
    return code if isinstance(code, str) else str(code)


# --- how long to wait -------------------------------------------------------------------------

_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]*)?")


def _retry_after(headers: Mapping[str, str], now_utc: float) -> float | None:
    """`retry-after-ms` is finer and wins over `retry-after`, as in the OpenAI SDK."""
    if (wait := _seconds(headers.get("retry-after-ms", ""), 0.001)) is not None:
        return wait
    value = headers.get("retry-after", "")
    if (wait := _seconds(value, 1.0)) is not None:
        return wait
    date = _moment(value)
    if date is None:
        return None
    # Both by the provider's clock, if it says what that shows: ours may be wrong.
    sent = _moment(headers.get("date", ""))
    return _wait(date - (now_utc if sent is None else sent))


def _moment(text: str) -> float | None:
    """Of an HTTP date, in seconds since 1970."""
    try:
        date = parsedate_tz(text)
        # HTTP dates are UTC, also asctime's, which does not say so (RFC 9110 5.6.7).
        return None if date is None else mktime_tz((*date[:9], date[9] or 0))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


_WAITS: Final = ("retry_after_seconds", "retryDelay", "retry_after")


def _wait_within(places: tuple[object, ...]) -> float | None:
    """The wait that stands in an error, beside it or in its details.

    A Routstr node adds `details.retry_after_seconds` to a 429; Gemini's `details` are a list, in
    which a `google.rpc.RetryInfo` has `retryDelay: "36.5s"`; gateways write `retry_after`.
    """
    for place in places:
        details = _member(place, "details")
        for detail in [*(details if isinstance(details, list) else [details]), place]:
            for said in (_member(detail, name) for name in _WAITS):
                if isinstance(said, str | int | float):
                    wait = _seconds(str(said).strip().removesuffix("s"), 1.0)
                    if wait is not None:
                        return wait
    return None


def _seconds(text: str, unit: float) -> float | None:
    # float() alone would also take "inf", "1e9" and "1_0".
    text = text.strip()
    return _wait(float(text) * unit) if _NUMBER.fullmatch(text) else None


def _wait(seconds: float) -> float | None:
    return min(seconds, MAX_REST_SECONDS) if seconds > 0 else None


# --- what the client may read -----------------------------------------------------------------

_SHAPE: Final = frozenset({"message", "type", "param", "code"})
_DROPPED: Final = frozenset({"refund_token"})
"""Change from a one-shot token is money, not a word for the client."""

_NO_PROSE: Final = re.compile(r"\s*([<{\[]|null\s*$)")
"""Markup, null, or JSON that is cut or broken: nothing to show as a sentence, and escapes in it
could hide a secret from redaction."""
_UNREADABLE: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufffd]")


def client_error_object(
    status: int, refusal: Refusal, secrets: Collection[Secret]
) -> Mapping[str, object]:
    """The error object a client gets for a refusal that is about its own request.

    The provider's own if it is shaped as OpenAI's, with its further members; else its words, or
    ours if it has none a person can read, in that shape. Every text is redacted and at most
    MAX_TEXT_BYTES long; `code` is a string as in every error of arbstr.
    """
    own = (error for error in refusal.errors if isinstance(error.get("message"), str))
    source = next(own, next(iter(refusal.errors), {}))
    words = next((text for text in map(_said, _texts(refusal)) if text), None)
    if words is None and refusal.parsed and not refusal.errors:
        words = json.dumps(_clean(refusal.parsed, secrets, MAX_DEPTH), ensure_ascii=False)
    if words is None:
        words = f"The provider answered {status} and did not say why in words."
    kind, param, code = source.get("type"), source.get("param"), source.get("code")
    shaped: dict[str, object] = {
        "message": _clean_text(words, secrets),
        "type": _clean_text(kind, secrets) if isinstance(kind, str) else type_of(status),
        "param": _clean_text(param, secrets) if isinstance(param, str) else None,
        "code": "client_error",
    }
    if isinstance(code, str | int) and not isinstance(code, bool):
        shaped["code"] = _clean_text(_code_text(code), secrets)
    elif isinstance(source.get("message"), str):
        shaped["code"] = None
    further = {name: value for name, value in source.items() if name not in _SHAPE | _DROPPED}
    cleaned = _clean(further, secrets, MAX_DEPTH)
    return {**cleaned, **shaped} if isinstance(cleaned, dict) else shaped


def words_of(refusal: Refusal) -> Iterator[str]:
    """Every text of a refusal that a person was to read, as it came, best first.

    Also that of the provider behind a gateway, which OpenRouter quotes under `metadata.raw`.
    """
    for error in refusal.errors:
        raw = _member(error.get("metadata"), "raw")
        if isinstance(raw, str):
            yield raw
    for text in _texts(refusal):
        if isinstance(text, str):
            yield text


_ECHOES: Final = frozenset({"input", "body"})
"""Members under which FastAPI and its users repeat the request they refuse."""


_STREAM_OPTIONS_ECHO: Final = re.compile(
    r"""stream_options\\*["']?\s*[:=].{0,8}?include_usage\\*["']?\s*[:=]\s*true""",
    re.IGNORECASE | re.DOTALL,
)


def names_stream_options(refusal: Refusal) -> bool:
    """Whether a refusal is about the member `stream_options`, and does not merely repeat it.

    The member with the value arbstr gave it is an echo of the request; where it is named alone, in
    a message, a place, or a `param`, it is meant.
    """
    if refusal.parsed is None:
        texts = refusal.body.decode("utf-8", "replace")
    else:
        texts = json.dumps(_without_echo(refusal.parsed, MAX_DEPTH), ensure_ascii=False)
    return "stream_options" in _STREAM_OPTIONS_ECHO.sub("", texts)


def _without_echo(value: object, depth: int) -> object:
    match value:
        case list() if depth:
            return [_without_echo(item, depth - 1) for item in value]
        case dict() if depth:
            return {
                name: _without_echo(item, depth - 1)
                for name, item in value.items()
                if name not in _ECHOES
            }
        case list() | dict():
            return None
        case _:
            return value


MOST_OWN_WORDS: Final = 300
"""Characters of a provider's words that stand in a line of ours."""


def own_words(refusal: Refusal, secrets: Collection[Secret]) -> str | None:
    """What a provider said, on one line: its code or type, and its message. `None`: nothing."""
    said = (error.get(name) for error in refusal.errors for name in ("code", "type"))
    code = next((text for text in said if _said(text)), None)
    text = next((text for text in map(_said, _texts(refusal)) if text), None)
    words = ": ".join(part for part in (code, text) if isinstance(part, str))
    line = " ".join(_clean_text(words, secrets).split())
    cut = line if len(line) <= MOST_OWN_WORDS else line[: MOST_OWN_WORDS - 3] + "..."
    return cut or None


def _said(text: object) -> str | None:
    """The text if it has something to read in it."""
    return text if isinstance(text, str) and text.strip() else None


def _texts(refusal: Refusal) -> Iterator[object]:
    """The provider's words, best first."""
    for error in refusal.errors:
        yield error.get("message")
    yield from _places(refusal.parsed)
    for error in refusal.errors:
        for name in ("reason", *WORDS):
            yield error.get(name)
    for name in WORDS:
        yield _member(refusal.parsed, name)
    yield refusal.parsed
    yield _validation_text(_member(refusal.parsed, "detail"))
    if refusal.parsed is None:
        yield _plain_text(refusal.body)


def _validation_text(detail: object) -> str | None:
    """FastAPI's 422: a list of what is wrong where, without the input it repeats."""
    if not isinstance(detail, list):
        return None
    lines: list[str] = []
    for each in detail:
        message, where = _member(each, "msg"), _member(each, "loc")
        if isinstance(message, str):
            place = ".".join(map(_place_text, where)) if isinstance(where, list) else ""
            lines.append(f"{place}: {message}" if place else message)
    return "; ".join(lines)


def _place_text(part: object) -> str:
    return _code_text(part) if isinstance(part, str | int) else "?"


def _plain_text(body: bytes) -> str | None:
    # A body cut by the caller in the middle of a character only looks broken at its end.
    text = body.decode("utf-8-sig", "replace").rstrip("\ufffd")
    if _NO_PROSE.match(text) or _UNREADABLE.search(text):
        return None
    return " ".join(text.split())


def _clean_text(text: str, secrets: Collection[Secret]) -> str:
    """Without secrets and lone surrogates, and cut; in this order, as a cut secret hides."""
    raw = redact(text, secrets).encode("utf-8", "replace")
    if len(raw) <= MAX_TEXT_BYTES:
        return raw.decode()
    return raw[: MAX_TEXT_BYTES - 3].decode("utf-8", "ignore") + "..."


def _clean(value: object, secrets: Collection[Secret], depth: int) -> object:
    """A JSON value that can be written again: no secrets, no NaN, not too deep."""
    match value:
        case str():
            return _clean_text(value, secrets)
        case float() if not math.isfinite(value):
            return None
        case list() if depth:
            return tuple(_clean(item, secrets, depth - 1) for item in value)
        case dict() if depth:
            return {
                _clean_text(name, secrets): _clean(item, secrets, depth - 1)
                for name, item in value.items()
                if name not in _DROPPED
            }
        case None | bool() | int() | float():
            return value
        case _:
            return None

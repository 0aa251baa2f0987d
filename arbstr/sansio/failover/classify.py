"""What a provider's complete answer says went wrong: status, headers and body in, a `Failure` out.

    a complete answer that is none      from_status      status, headers, body
    a 2xx that holds an error object    from_error_body  the body, or the event's data

The rules for a status are `_classify`. A provider's words leave this module in two places,
`Failure.error` and `Failure.words`, without secrets; every `sentence` is ours. Nothing a provider
sends raises.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.capable import cannot
from arbstr.sansio.failover.failure import NEXT_STEPS, SENTENCES, Failure, FailureKind, money_of
from arbstr.sansio.failover.refusal import (
    Refusal,
    client_error_object,
    names_stream_options,
    own_words,
    read_refusal,
    words_of,
)
from arbstr.sansio.routing.catalog import redact
from arbstr.sansio.secrets import Secret

ACCOUNT_CODES: Final = frozenset(
    {"token_already_spent", "invalid_token", "cashu_error", "mint_error"}
)
NO_MODEL_CODES: Final = frozenset({"invalid_model", "model_not_found"})
RATE_LIMIT_CODE: Final = "upstream_rate_limit"

GATEWAY_STATUSES: Final = frozenset({499, 504, 524})
"""nginx's, everybody's and Cloudflare's word for: delivered, but no answer came in time.
502 and 520 to 523 mean that it did not arrive, or that what came was no HTTP."""

_PASSING: Final = frozenset({401, 402, 403, 429})
"""What an error under a 2xx gives itself for the key or the moment, whatever its text is about."""

_OF_SERVERS: Final = frozenset({FailureKind.SERVER_ERROR, FailureKind.GAVE_UP})


def from_status(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    kind: Kind,
    added_stream_options: bool,
    path_served: bool = False,
    now_utc: float,
    secrets: Collection[Secret],
) -> Failure:
    """The failure of a complete answer whose status `is_answer` denies.

    `headers` have lower-case names; `body` may be cut (64 kB is plenty). `added_stream_options`:
    the attempt carried a `stream_options` that the client had not sent. `path_served`: the provider
    has answered at this path before. `now_utc` is in seconds since 1970, to read dates. `secrets`
    are taken out of what the client may read.
    """
    refusal = read_refusal(headers, body, now_utc=now_utc)
    failure = _classify(
        status,
        refusal,
        kind,
        names_option=added_stream_options and names_stream_options(refusal),
        path_served=path_served,
    )
    error: Mapping[str, object] | None = None
    if failure in (FailureKind.CLIENT_ERROR, FailureKind.NOT_CAPABLE):
        error = client_error_object(status, refusal, secrets)
    may_rest = failure is FailureKind.RATE_LIMITED or status == 503
    return Failure(
        failure,
        money_of(failure, kind, signed="x-routstr-request-id" in headers),
        SENTENCES[failure].format(status=status),
        status=status,
        retry_after=refusal.retry_after if may_rest else None,
        error=error,
        words=own_words(refusal, secrets) if failure in NEXT_STEPS else None,
        # Newer Routstr nodes say 424 where older ones passed on an upstream's 5xx.
        trips=failure in _OF_SERVERS and (status == 424 or status >= 500),
        upstream_request_id=request_id_of(headers, secrets),
    )


def from_error_body(
    data: bytes,
    *,
    status: int,
    kind: Kind,
    upstream_request_id: str | None = None,
    secrets: Collection[Secret] = (),
) -> Failure:
    """The failure of a 2xx whose body, or an event of it before output, is an error object."""
    refusal = read_refusal({}, data, now_utc=0)
    own, failure = refusal.status, FailureKind.ERROR_ANSWER
    if RATE_LIMIT_CODE in refusal.codes:
        failure = FailureKind.RATE_LIMITED
    elif own not in _PASSING and cannot(refusal):
        failure = FailureKind.NOT_CAPABLE
    limited = failure is FailureKind.RATE_LIMITED or own == 429
    refused = failure is FailureKind.ERROR_ANSWER and own is not None and own < 500
    shown = refused or failure is FailureKind.NOT_CAPABLE
    return Failure(
        failure,
        money_of(failure, kind, signed=False),
        SENTENCES[failure].format(status=status),
        status=status,
        own_status=own if refused else None,
        retry_after=refusal.retry_after if limited else None,
        error=client_error_object(own or 400, refusal, secrets) if shown else None,
        trips=failure is FailureKind.ERROR_ANSWER and own is not None and own >= 500,
        upstream_request_id=upstream_request_id,
    )


def request_id_of(headers: Mapping[str, str], secrets: Collection[Secret]) -> str | None:
    """The provider's own id of a request, to quote to its operator.

    None if there is none or if it looks like anything else: it goes into the database.
    """
    for name in ("x-routstr-request-id", "x-request-id"):
        value = headers.get(name, "")
        if _REQUEST_ID.fullmatch(value) and redact(value, secrets) == value:
            return value
    return None


_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


_OF_A_MODEL: Final = re.compile(r"(?<![/\w])models?\b|model_|deployment|no endpoints found", re.I)
"""How a 404 that is not about the path speaks: of a model, Azure of a deployment, OpenRouter of
endpoints for it. Not the `/models` of a path."""


def _speaks_of_the_model(refusal: Refusal) -> bool:
    return any(map(_OF_A_MODEL.search, (*refusal.codes, *words_of(refusal))))


def _classify(
    status: int, refusal: Refusal, kind: Kind, *, names_option: bool, path_served: bool
) -> FailureKind:
    """Top to bottom, the first that fits."""
    codes = refusal.codes
    if status == 429 or RATE_LIMIT_CODE in codes:
        return FailureKind.RATE_LIMITED
    if status in (401, 402, 403) or (status in (400, 422) and codes & ACCOUNT_CODES):
        return FailureKind.ACCOUNT
    if status in (400, 404) and codes & NO_MODEL_CODES:
        return FailureKind.NO_MODEL
    if status in (400, 422) and names_option:
        return FailureKind.NO_STREAM_OPTIONS
    if status in (400, 404, 413, 422) and cannot(refusal):
        return FailureKind.NOT_CAPABLE
    if status in (404, 405, 501) and not (path_served or _speaks_of_the_model(refusal)):
        return FailureKind.NO_ENDPOINT
    if status == 404:
        return FailureKind.NO_MODEL
    if status in GATEWAY_STATUSES:
        return FailureKind.GAVE_UP
    if status in (408, 409, 425) or 500 <= status <= 599:
        return FailureKind.SERVER_ERROR
    if status == 424 and kind is Kind.ROUTSTR:
        return FailureKind.SERVER_ERROR
    if 400 <= status <= 499:
        return FailureKind.CLIENT_ERROR
    return FailureKind.BAD_STATUS

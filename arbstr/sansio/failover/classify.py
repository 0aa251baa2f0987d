"""What a provider's complete answer says went wrong: status, headers and body in, a `Failure` out.

    a complete answer that is none      from_status      status, headers, body
    a 2xx that holds an error object    from_error_body  the body, or the event's data

The rules are those of `statuses`. A provider's words leave this module in two places,
`Failure.error` and `Failure.words`, without secrets; every `sentence` is ours. Nothing a provider
sends raises.
"""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.failure import NEXT_STEPS, SENTENCES, Failure, FailureKind, money_of
from arbstr.sansio.failover.kinds import SIGNATURES, TRAITS
from arbstr.sansio.failover.refusal import (
    client_error_object,
    names_stream_options,
    own_words,
    read_refusal,
)
from arbstr.sansio.failover.statuses import ERRORS, REFUSALS, Complete, called
from arbstr.sansio.routing.catalog import redact
from arbstr.sansio.secrets import Secret

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
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
    names_option = added_stream_options and names_stream_options(refusal)
    failure = called(REFUSALS, Complete(status, refusal, kind, names_option, path_served))
    error: Mapping[str, object] | None = None
    if failure in (FailureKind.CLIENT_ERROR, FailureKind.NOT_CAPABLE):
        error = client_error_object(status, refusal, secrets)
    may_wait = failure in (FailureKind.RATE_LIMITED, FailureKind.SERVER_ERROR)
    return Failure(
        failure,
        money_of(failure, kind, signed=TRAITS[kind].signature in headers),
        SENTENCES[failure].format(status=status),
        status=status,
        retry_after=refusal.retry_after if may_wait else None,
        error=error,
        words=own_words(refusal, secrets) if failure in NEXT_STEPS else None,
        trips=failure in _OF_SERVERS and (status >= 500 or status in TRAITS[kind].failing),
        upstream_request_id=request_id_of(headers, secrets),
    )


def from_error_body(
    data: bytes,
    *,
    status: int,
    kind: Kind,
    headers: Mapping[str, str] = _NO_HEADERS,
    now_utc: float = 0.0,
    upstream_request_id: str | None = None,
    secrets: Collection[Secret] = (),
) -> Failure:
    """The failure of a 2xx whose body, or an event of it before output, is an error object.

    `headers` are those it came under, of which `now_utc` reads the dates.
    """
    refusal = read_refusal(headers, data, now_utc=now_utc)
    own, failure = refusal.status, called(ERRORS, Complete(status, refusal, kind))
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
    for name in _ID_HEADERS:
        value = headers.get(name)
        if value and _REQUEST_ID.fullmatch(value) and redact(value, secrets) == value:
            return value
    return None


_ID_HEADERS: Final = (*SIGNATURES, "x-request-id")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

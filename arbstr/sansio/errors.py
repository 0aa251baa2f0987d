"""What a client reads instead of a chat, and the one exception of the machines.

    LocalProtocolError            our own driver broke a machine's rules: a bug of arbstr, raised
    StartError                    arbstr cannot start: raised by what opens files and listens
      ConfigError                 it is the configuration: raised by sansio.config.reader
    ErrorReply                    data: what the client gets instead of a chat
      malformed_json 400          not_an_object 400         missing_member 400
      invalid_member 400          duplicate_member 400      bad_request 400
      unknown_policy 400          model_not_allowed 400     no_provider_within_policy 400
      no_price_allowed 400
      invalid_parameter 400       provider_not_found 404    request_not_found 404
      auto_needs_policy 400       over_request_budget 400   unsupported_endpoint 400
      unsupported_parameter 400
      invalid_token 401           insufficient_balance 402  budget_exceeded 402
      forbidden_origin 403        model_not_found 404       not_found 404
      method_not_allowed 405      body_too_large 413        unsupported_media_type 415
      possibly_spent 400          rate_limited 429          internal_error 500
      upstream_error 502          provider_auth 502         circuit_open 503
      shutting_down 503           log_unavailable 503       budget_unavailable 503
      overloaded 503              prices_unknown 503        connect_timeout 504
      stream_interrupted (in a stream)
      client_error                the provider's own status and, if it is one, its own error object

The codes and their statuses are the table `STATUS`; the shape is that of OpenAI's errors
(https://platform.openai.com/docs/guides/error-codes): always an object with `message`, `type`,
`param` and `code`, because the typed exceptions of the SDKs read all four.
"""

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.frozen import dataclass


class LocalProtocolError(Exception):
    """The runtime drove a machine in a way its docstring forbids. Always a bug of arbstr."""


class StartError(Exception):
    """A command that cannot be done here and now: an address in use, a file that is not ours.

    `problems` holds one sentence per fault, each naming what it is about and the remedy, never a
    value that could be a secret.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@final
class ConfigError(StartError):
    """A configuration that cannot be used. Trying again does not help, so a supervisor must not."""


STATUS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "malformed_json": 400,
        "not_an_object": 400,
        "missing_member": 400,
        "invalid_member": 400,
        "duplicate_member": 400,
        "bad_request": 400,
        "unknown_policy": 400,
        "model_not_allowed": 400,
        "no_provider_within_policy": 400,
        "no_price_allowed": 400,
        "auto_needs_policy": 400,
        "over_request_budget": 400,
        "invalid_parameter": 400,
        "unsupported_endpoint": 400,
        "unsupported_parameter": 400,
        "invalid_token": 401,
        "insufficient_balance": 402,
        "budget_exceeded": 402,
        "forbidden_origin": 403,
        "model_not_found": 404,
        "provider_not_found": 404,
        "request_not_found": 404,
        "not_found": 404,
        "method_not_allowed": 405,
        "body_too_large": 413,
        "unsupported_media_type": 415,
        # 400 because no client repeats it by itself, and repeating could pay twice. (aider repeats
        # a 424 eight times, Codex six.)
        "possibly_spent": 400,
        "rate_limited": 429,
        "internal_error": 500,
        "upstream_error": 502,
        "stream_interrupted": 502,
        "provider_auth": 502,
        "circuit_open": 503,
        "shutting_down": 503,
        "log_unavailable": 503,
        "overloaded": 503,
        "prices_unknown": 503,
        "budget_unavailable": 503,
        "connect_timeout": 504,
    }
)
"""Every code arbstr says in its own words, and its HTTP status."""

UPSTREAM_CODES: Final = frozenset(
    {
        "insufficient_balance",
        "possibly_spent",
        "upstream_error",
        "stream_interrupted",
        "provider_auth",
        "circuit_open",
        "connect_timeout",
    }
)
"""Codes whose `type` is `upstream_error`: the request was fine and so is arbstr."""


def type_of(status: int, code: str = "") -> str:
    """The `type` of an error object with this HTTP status and code of ours."""
    if code in UPSTREAM_CODES:
        return "upstream_error"
    if status in (401, 403):
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    if status < 500:
        return "invalid_request_error"
    return "server_error"


@final
@dataclass(frozen=True, slots=True)
class ErrorReply:
    """One error answer.

    `status` is looked up by `code` unless given (only `client_error` gives it: the provider's).
    `retry_after` is in seconds from now. `should_retry` becomes `x-should-retry`, which the
    OpenAI and Anthropic SDKs obey: `False` once arbstr has done the trying itself.
    `logged` is the message for the database where it differs: without a provider's words.
    `passthrough` is a provider's own OpenAI-shaped error object, sent as it came.
    """

    code: str
    message: str
    param: str | None = None
    status: int = 0
    retry_after: float | None = None
    should_retry: bool | None = None
    passthrough: Mapping[str, object] | None = None
    logged: str | None = None

    def __post_init__(self) -> None:
        if self.status == 0:
            object.__setattr__(self, "status", STATUS[self.code])

    @property
    def type(self) -> str:
        """OpenAI's coarse class of the error."""
        return type_of(self.status, self.code)

    def error_object(self) -> Mapping[str, object]:
        """The value of the `error` member, in a body or in a stream's error event."""
        if self.passthrough is not None:
            return self.passthrough
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }

    def body(self) -> bytes:
        """The JSON body, in one line."""
        # ASCII escapes: a provider's error object may hold lone surrogates.
        return json.dumps({"error": self.error_object()}, separators=(",", ":")).encode()

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Headers that belong to this error and to no other answer."""
        found: list[tuple[bytes, bytes]] = []
        if self.retry_after is not None:
            # Whole seconds, rounded up: RFC 9110 10.2.3 knows no fractions, and a client that
            # comes back too early is refused again.
            found.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after))))
        if self.code == "invalid_token":
            found.append((b"www-authenticate", b"Bearer"))  # a 401 has one (RFC 9110 15.5.2)
        if self.should_retry is not None:
            found.append((b"x-should-retry", b"true" if self.should_retry else b"false"))
        return tuple(found)

"""Anthropic's shape of an error, and its types.

https://docs.claude.com/en/api/errors: always an object of type `error` with an object `error` of a
`type` and a `message`, and the id of the request. `code` and `param` are arbstr's own beside them;
the SDKs pass them on.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from arbstr.sansio.errors import ErrorReply

TYPES: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        405: "invalid_request_error",
        413: "request_too_large",
        415: "invalid_request_error",
        422: "invalid_request_error",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)
"""HTTP status -> the type of the error; whatever else there is, is an `api_error`."""


def error_object(error: ErrorReply, type_: str) -> dict[str, object]:
    """The member `error`."""
    told = error.error_object()
    found: dict[str, object] = {"type": type_, "message": told.get("message") or error.message}
    found |= {name: told[name] for name in ("code", "param") if told.get(name) is not None}
    return found


def error_body(error: ErrorReply, request_id: str) -> bytes:
    """An error as an answer."""
    type_ = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    told = {"type": "error", "error": error_object(error, type_), "request_id": request_id}
    return json.dumps(told, separators=(",", ":")).encode()


def error_event(error: ErrorReply, request_id: str | None = None) -> bytes:
    """An error that ends a stream.

    Its type is `api_error` whatever it is: Claude Code asks again after every type there is (run),
    and no other client looks at it.
    """
    told: dict[str, object] = {"type": "error", "error": error_object(error, "api_error")}
    if request_id is not None:
        told["request_id"] = request_id
    return b"event: error\ndata: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n"

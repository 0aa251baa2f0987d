"""The shape of errors at /v1/messages."""

import json

import pytest

from arbstr.sansio.dialects.messages.door import MESSAGES
from arbstr.sansio.dialects.messages.errors import TYPES
from arbstr.sansio.errors import ErrorReply


@pytest.mark.parametrize(
    ("code", "type_"),
    [
        ("invalid_token", "authentication_error"),
        ("forbidden_origin", "permission_error"),
        ("insufficient_balance", "billing_error"),
        ("model_not_found", "not_found_error"),
        ("body_too_large", "request_too_large"),
        ("rate_limited", "rate_limit_error"),
        ("method_not_allowed", "invalid_request_error"),
        ("possibly_spent", "invalid_request_error"),
        ("upstream_error", "api_error"),
        ("circuit_open", "overloaded_error"),
        ("internal_error", "api_error"),
    ],
)
def test_an_error_is_anthropics(code: str, type_: str) -> None:
    told = json.loads(MESSAGES.error(ErrorReply(code, "No."), "r1"))
    error = {"type": type_, "message": "No.", "code": code}
    assert told == {"type": "error", "error": error, "request_id": "r1"}


def test_it_says_which_member_is_at_fault() -> None:
    told = json.loads(MESSAGES.error(ErrorReply("missing_member", "No.", "messages"), "r1"))
    assert told["error"]["param"] == "messages"


def test_a_providers_own_words_stay() -> None:
    own = {"message": "max_tokens: too many", "type": "invalid_request_error", "code": None}
    told = json.loads(
        MESSAGES.error(ErrorReply("client_error", "x", status=400, passthrough=own), "r1")
    )
    assert told["error"] == {"type": "invalid_request_error", "message": "max_tokens: too many"}


def test_every_status_of_the_protocol_has_its_type() -> None:
    assert set(TYPES.values()) == {
        *("invalid_request_error", "authentication_error", "billing_error", "permission_error"),
        *("not_found_error", "request_too_large", "rate_limit_error", "timeout_error"),
        "overloaded_error",
    }

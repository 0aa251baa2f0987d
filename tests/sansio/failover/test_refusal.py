"""What a provider's error answer says, wherever it says it, and what the client may read of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.refusal import (
    MAX_REST_SECONDS,
    MAX_TEXT_BYTES,
    Refusal,
    client_error_object,
    read_refusal,
)
from arbstr.sansio.secrets import Secret
from tests.searching import examples

KEY = "sk-canary-0123456789abcdef"
TOKEN = "cashuBo2F0gaJhaUgB2KYwd9ClH2FwgaNhYRhAYXN4QDY2YjgyNDkz"
SECRETS = (Secret(KEY),)
NOW = 1_795_187_302.0  # Fri, 20 Nov 2026 15:08:22 GMT


def refusal(body: object, headers: dict[str, str] | None = None) -> Refusal:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_refusal(headers or {}, raw, now_utc=NOW)


def client_error(body: object, status: int = 400) -> dict[str, Any]:
    made = client_error_object(status, refusal(body), SECRETS)
    reply = ErrorReply("client_error", "", status=status, passthrough=made)
    error = json.loads(reply.body(), parse_constant=pytest.fail)["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert isinstance(error["message"], str)
    assert error["message"]
    assert len(error["message"].encode()) <= MAX_TEXT_BYTES
    assert isinstance(error["type"], str)
    for name in ("param", "code"):
        assert error[name] is None or isinstance(error[name], str)
    return dict(error)


# --- where errors stand -----------------------------------------------------------------------

ERROR = {"message": "no", "type": "Invalid_Model", "code": "X"}


@pytest.mark.parametrize(
    "body",
    [
        {"error": ERROR},
        {"error": ERROR, "detail": {"error": ERROR}, "request_id": "r"},
        {"detail": {"error": ERROR}},
        {"detail": ERROR},
        {"error": "a sentence", "detail": {"error": ERROR}},
        {"object": "error", **ERROR},
        [{"error": ERROR}],
        {"errors": ["a sentence", ERROR], "success": False},
        ERROR,
    ],
)
def test_an_error_object_is_found_wherever_providers_put_it(body: object) -> None:
    assert refusal(body).codes == {"invalid_model", "x"}
    assert client_error(body)["message"] == "no"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"<html>", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"null", b"[]", b'{"code":1}'],
)
def test_a_body_without_an_error_object_has_no_codes(body: bytes) -> None:
    read = refusal(body)
    assert read.errors == ()
    assert read.codes == frozenset()
    assert read.retry_after is None
    assert read.status is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 502}, 502),
        ({"code": "503"}, 503),
        ({"status": 500}, 500),
        ({"status_code": 529}, 529),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, 429),
        ({"code": "rate_limit_exceeded", "status": 429}, 429),
        ({"code": 399}, None),
        ({"code": 600}, None),
        ({"code": 5020}, None),
        ({"code": "server_error"}, None),
        ({"type": "invalid_request_error", "code": None}, 400),
        ({"type": "invalid_request_error", "code": "invalid_api_key"}, 401),
        ({"type": "invalid_request_error", "code": 503}, 503),
        ({"type": "Rate_Limit_Error"}, 429),
        ({"code": "insufficient_quota", "type": "insufficient_quota"}, 429),
        ({"type": "overloaded_error"}, None),
        ({"code": None}, None),
        ({"code": 5e2}, None),
        ({"message": "500"}, None),
    ],
)
def test_an_error_may_give_itself_a_status(error: dict[str, object], status: int | None) -> None:
    assert refusal({"error": error}).status == status


# --- how long to wait -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "86400"}, MAX_REST_SECONDS),
        ({"retry-after": "9" * 5000}, MAX_REST_SECONDS),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after": "Fri, 20 Nov 2026 15:08:32 GMT"}, 10.0),
        ({"retry-after": "Friday, 20-Nov-26 15:08:32 GMT"}, 10.0),
        ({"retry-after": "Fri Nov 20 15:08:32 2026"}, 10.0),
        ({"retry-after": "Fri, 20 Nov 2026 17:08:32 +0200"}, 10.0),
        ({"retry-after": "Sat, 21 Nov 2026 15:08:22 GMT"}, MAX_REST_SECONDS),
        # Our clock may be wrong: the provider's own counts, if it is told and can be read.
        (
            {
                "retry-after": "Wed, 01 Jan 2031 00:00:09 GMT",
                "date": "Wed, 01 Jan 2031 00:00:00 GMT",
            },
            9.0,
        ),
        (
            {
                "retry-after": "Thu, 01 Jan 2015 00:00:09 GMT",
                "date": "Thu, 01 Jan 2015 00:00:00 GMT",
            },
            9.0,
        ),
        ({"retry-after": "Fri, 20 Nov 2026 15:08:32 GMT", "date": "today"}, 10.0),
    ],
)
def test_a_wait_is_read_in_every_form_and_capped(headers: dict[str, str], seconds: float) -> None:
    assert refusal(b"", headers).retry_after == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "0.0",
        "-5",
        "garbage",
        "inf",
        "nan",
        "1e9",
        "1_0",
        "0x10",
        "2, 2",
        "٣",
        "Fri, 20 Nov 2026 15:08:22 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Fri, 99 Nov 99999 99:99:99 GMT",
        "Fri, 20 Nov 0000 15:08:32 GMT",
        "Fri, 20 Nov " + "9" * 5000 + " 15:08:32 GMT",
    ],
)
def test_garbage_zero_and_the_past_are_no_wait(value: str) -> None:
    assert refusal(b"", {"retry-after": value}).retry_after is None
    assert refusal(b"", {"retry-after-ms": value}).retry_after is None


def test_a_routstr_nodes_details_tell_the_wait_when_no_header_does() -> None:
    body = {"error": {"message": "slow", "details": {"retry_after_seconds": 1.5}}}
    assert refusal(body).retry_after == 1.5
    assert refusal(body, {"retry-after": "garbage"}).retry_after == 1.5
    assert refusal(body, {"retry-after": "2"}).retry_after == 2.0


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36.5s"}


@pytest.mark.parametrize("details", [[RETRY_INFO], [{"@type": "x"}, "y", RETRY_INFO], RETRY_INFO])
@pytest.mark.parametrize("wrap", [lambda body: body, lambda body: [body], lambda b: ["x", b, {}]])
def test_geminis_retry_info_tells_the_wait(details: object, wrap: Any) -> None:
    body = wrap({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}})
    assert refusal(body).retry_after == 36.5
    assert refusal(body, {"retry-after": "2"}).retry_after == 2.0


@pytest.mark.parametrize("said", [36, "36", "36s", 36.0])
def test_a_gateway_tells_the_wait_in_its_error_or_beside_it(said: object) -> None:
    for body in ({"error": {"retry_after": said}}, {"error": "slow", "retry_after": said}):
        assert refusal(body).retry_after == 36.0
        assert refusal(body, {"retry-after": "2"}).retry_after == 2.0


@pytest.mark.parametrize("said", [-1, 0, None, "soon", "s", [], {}, True, 1e30, float("nan")])
def test_odd_details_do_no_harm(said: object) -> None:
    for details in ({"retry_after_seconds": said}, [{"retryDelay": said}], said, [said]):
        wait = refusal({"error": {"details": details}}).retry_after
        assert wait is None or 0 < wait <= MAX_REST_SECONDS


@examples(75)
@given(st.text(max_size=40), st.text(max_size=10), st.text(max_size=40))
def test_no_header_makes_it_raise(value: str, milliseconds: str, date: str) -> None:
    headers = {"retry-after": value, "retry-after-ms": milliseconds, "date": date}
    wait = refusal(b"", headers).retry_after
    assert wait is None or 0 < wait <= MAX_REST_SECONDS


# --- what the client may read -----------------------------------------------------------------


def test_the_providers_own_error_object_passes_with_its_further_members() -> None:
    error = {
        "message": "too long",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
        "metadata": {"raw": [1, 2.5, None, True, "x"]},
    }
    assert client_error({"error": error}) == error


def test_a_code_that_is_a_number_becomes_text_and_missing_members_are_filled_in() -> None:
    assert client_error({"error": {"message": "no", "code": 400}}) == {
        "message": "no",
        "type": "invalid_request_error",
        "param": None,
        "code": "400",
    }
    assert client_error({"error": {"message": "no"}})["code"] is None
    odd = {"message": "no", "type": 3, "param": 4, "code": True}
    assert client_error({"error": odd}) == {
        "message": "no",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "max_tokens must be an integer"}, "max_tokens must be an integer"),
        ({"detail": "Not allowed"}, "Not allowed"),
        ({"detail": {"error": "inner"}}, "inner"),
        ({"detail": {"reason": "because"}}, "because"),
        ({"message": "at the top"}, "at the top"),
        ({"msg": "at the top"}, "at the top"),
        ({"error_code": 336501, "error_msg": "at the top"}, "at the top"),
        ({"base_resp": {"status_code": 1008, "status_msg": "x"}}, "x"),
        (b'"a string"', "a string"),
        (b"upstream says\r\n  no", "upstream says no"),
        ("not today é".encode()[:-1], "not today"),
        (b"\xef\xbb\xbfmarked", "marked"),
        (
            {"detail": [{"loc": ["body", "n", 0], "msg": "too small", "input": "private"}]},
            "body.n.0: too small",
        ),
        ({"detail": [{"msg": "a"}, {"loc": None, "msg": "b"}, {"msg": 3}, 4]}, "a; b"),
        ({"errors": ["x"]}, '{"errors": ["x"]}'),
    ],
)
def test_other_shapes_are_wrapped_with_the_words_they_have(body: object, message: str) -> None:
    error = client_error(body)
    assert error["message"] == message
    assert error["code"] == "client_error"
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"<!DOCTYPE html><h1>Bad Request</h1>",
        b"\n <html>no</html>",
        b"\x00\x01\x02",
        b"\x1f\x8b\x08\x00gzip",
        b"caf\xe9 latin",
        b'{"error": {"message": "cut he',
        b"[" * 100_000,
        b"null",
        b"{}",
        b"0",
    ],
)
def test_what_no_person_can_read_is_replaced_by_our_own_words(body: bytes) -> None:
    message = client_error(body, 418)["message"]
    assert message == "The provider answered 418 and did not say why in words."


def test_an_error_object_without_words_keeps_its_code() -> None:
    error = client_error({"error": {"type": "invalid_request_error", "code": "invalid_json"}})
    assert error["code"] == "invalid_json"
    assert error["message"] == "The provider answered 400 and did not say why in words."


def test_long_words_are_cut_to_2_kb_between_characters() -> None:
    error = client_error({"error": {"message": "é" * 3000, "hint": "x" * 3000}})
    assert error["message"].endswith("é...")
    assert len(error["hint"]) == MAX_TEXT_BYTES


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": f"bad key {KEY}", "type": KEY, "param": KEY, "code": KEY}},
        {"error": {"message": "no", "metadata": {"a": [{KEY: [TOKEN]}]}}},
        {"error": {"message": f"{TOKEN} is spent"}},
        {"error": f"bad key {KEY}"},
        {"detail": [{"loc": [KEY], "msg": TOKEN}]},
        {"headers": {"authorization": KEY}},
        f"your key {KEY} and {TOKEN}".encode(),
        {"error": {"message": "x" * (MAX_TEXT_BYTES - 10) + KEY}},
        {"error": {"message": "no", "refund_token": "anything"}},
        {"error": {"message": "no", "deep": {"refund_token": "anything"}}},
    ],
)
def test_secrets_never_reach_the_client(body: object) -> None:
    shown = json.dumps(client_error(body))
    assert KEY[:10] not in shown
    assert TOKEN[:12] not in shown
    assert "anything" not in shown


def test_values_that_json_cannot_carry_become_null() -> None:
    deep: object = "bottom"
    for _ in range(400):
        deep = [deep]
    body = b'{"error":{"message":"\\ud800 no","nan":NaN,"inf":[-Infinity],"deep":%b}}'
    error = client_error(body % json.dumps(deep).encode())
    assert error["message"] == "? no"
    assert error["nan"] is None
    assert error["inf"] == [None]
    assert "bottom" not in json.dumps(error["deep"])


NAMES = ["error", "detail", "message", "type", "param", "code", "details", "object"]
NAMES += ["loc", "msg", "reason", "status", "retry_after_seconds", "retryDelay", "metadata", "raw"]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@examples(75)
@given(ANY | st.binary(max_size=60))
def test_no_body_makes_it_raise_and_the_shape_always_holds(body: object) -> None:
    client_error(body)

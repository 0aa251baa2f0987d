"""What a provider's complete answer says went wrong, and what is passed on of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.classify import from_error_body, from_status, request_id_of
from arbstr.sansio.failover.failure import (
    DEFAULT_REST,
    Failure,
    FailureKind,
    Money,
    money_of,
    rest_seconds,
    told,
)
from arbstr.sansio.secrets import Secret
from tests.searching import examples

CORPUS = Path(__file__).parents[2] / "corpus"
KEY = "sk-canary-0123456789abcdef"
SECRETS = (Secret(KEY),)
SIGNED = {"x-routstr-request-id": "53f61fc3-15a8-4af5-acc7-b03b7e5df29a"}
NOW = 1_795_187_302.0  # Fri, 20 Nov 2026 15:08:22 GMT
BOTH = pytest.mark.parametrize("kind", list(Kind))


def failed(
    status: int,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    kind: Kind = Kind.OPENAI,
    added_stream_options: bool = False,
    path_served: bool = False,
) -> Failure:
    return from_status(
        status,
        headers or {},
        body,
        kind=kind,
        added_stream_options=added_stream_options,
        path_served=path_served,
        now_utc=NOW,
        secrets=SECRETS,
    )


def recorded(name: str, *, kind: Kind = Kind.ROUTSTR) -> Failure:
    """The failure of a recorded answer: status line, headers, body, as they came."""
    head, _, body = (CORPUS / f"error-{name}.http").read_bytes().partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return failed(int(status_line.split()[1]), body, headers, kind=kind)


# --- by status --------------------------------------------------------------------------------

BY_STATUS = {
    FailureKind.ACCOUNT: (401, 402, 403),
    FailureKind.NO_ENDPOINT: (404, 405, 501),
    FailureKind.RATE_LIMITED: (429,),
    FailureKind.SERVER_ERROR: (408, 409, 425, 500, 502, 503, 520, 521, 522, 523, 529, 599),
    FailureKind.GAVE_UP: (499, 504, 524),
    FailureKind.CLIENT_ERROR: (400, 406, 410, 413, 415, 418, 422, 431, 451, 498),
    FailureKind.BAD_STATUS: (100, 103, 204, 205, 300, 301, 302, 304, 307, 308, 600, 999, 0),
}
STATUSES = [(status, kind) for kind, statuses in BY_STATUS.items() for status in statuses]


@BOTH
@pytest.mark.parametrize(("status", "expected"), STATUSES)
@pytest.mark.parametrize("signed", [True, False])
def test_a_status_alone_names_the_failure(
    status: int, expected: FailureKind, kind: Kind, signed: bool
) -> None:
    failure = failed(status, headers=SIGNED if signed else {}, kind=kind)
    assert failure.kind is expected
    assert failure.status == status
    assert failure.money is money_of(expected, kind, signed=signed)
    assert failure.trips is (500 <= status <= 599 and expected is not FailureKind.NO_ENDPOINT)
    assert str(status) in failure.sentence
    assert (failure.error is not None) is (expected is FailureKind.CLIENT_ERROR)
    assert failure.upstream_request_id == (SIGNED["x-routstr-request-id"] if signed else None)


@BOTH
@pytest.mark.parametrize(
    ("status", "served"),
    [
        (404, FailureKind.NO_MODEL),
        (405, FailureKind.CLIENT_ERROR),
        (501, FailureKind.SERVER_ERROR),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"404 page not found",
        b'{"detail":"Not Found"}',
        b"<html><h1>Not Found</h1> our business model",
        b'{"error":{"message":"Invalid URL (POST /v1/models/chat/completions)"}}',
        b'{"error":{"message":"Method Not Allowed","code":405}}',
    ],
)
def test_a_path_that_was_served_before_is_there(
    status: int, served: FailureKind, body: bytes, kind: Kind
) -> None:
    assert failed(status, body, kind=kind).kind is FailureKind.NO_ENDPOINT
    assert failed(status, body, kind=kind, path_served=True).kind is served


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}',
        b'{"error":{"message":"m","code":"model_not_found"}}',
        b'{"error":"model \'m\' not found, try pulling it first"}',
        b'{"error":{"message":"model: claude-9","type":"not_found_error"}}',
        b'[{"error":{"message":"models/gemini-9 is not found for API version v1beta"}}]',
        b'{"error":{"code":"DeploymentNotFound","message":"The API deployment does not exist."}}',
        b'{"error":{"message":"No endpoints found for a/b:free.","code":404}}',
    ],
)
def test_a_404_that_speaks_of_the_model_is_about_the_model(body: bytes) -> None:
    assert failed(404, body).kind is FailureKind.NO_MODEL


def test_a_model_that_cannot_is_told_from_a_request_that_is_wrong() -> None:
    body = b'{"error":{"message":"key %b: prompt is too long","type":"t","code":"c"}}'
    for status in (400, 404, 413, 422):
        failure = failed(status, body % KEY.encode())
        assert (failure.kind, failure.money) == (FailureKind.NOT_CAPABLE, Money.FREE)
        assert failure.error is not None
        assert failure.error["message"] == "key [REDACTED]: prompt is too long"
        assert failure.trips is False
    assert failed(406, body).kind is FailureKind.CLIENT_ERROR
    assert failed(500, body).kind is FailureKind.SERVER_ERROR
    assert failed(429, body).kind is FailureKind.RATE_LIMITED
    assert failed(413, b"Request Entity Too Large").kind is FailureKind.CLIENT_ERROR
    unsupported = (
        b'{"error":{"message":"Unsupported parameter: \'stream_options\' is not supported'
        b' with this model.","code":"unsupported_parameter"}}'
    )
    assert failed(400, unsupported).kind is FailureKind.NOT_CAPABLE
    added = failed(400, unsupported, added_stream_options=True)
    assert added.kind is FailureKind.NO_STREAM_OPTIONS


def test_424_is_a_routstr_nodes_failed_upstream_and_a_client_error_elsewhere() -> None:
    assert failed(424).kind is FailureKind.CLIENT_ERROR
    assert failed(424).trips is False
    signed = failed(424, headers=SIGNED, kind=Kind.ROUTSTR)
    assert (signed.kind, signed.money) == (FailureKind.SERVER_ERROR, Money.FREE)
    assert signed.trips is True
    assert failed(424, kind=Kind.ROUTSTR).money is Money.UNKNOWN


# --- by what the body says --------------------------------------------------------------------

PLACES = pytest.mark.parametrize(
    "shape",
    [
        b'{"error":{"message":"m","type":"%b"}}',
        b'{"error":{"message":"m","code":"%b"}}',
        b'{"detail":{"error":{"message":"m","type":"%b"}}}',
        b'{"detail":{"error":{"message":"m","code":"%b"}},"error":"m"}',
    ],
)


@PLACES
@BOTH
@pytest.mark.parametrize(
    "code", [b"token_already_spent", b"invalid_token", b"cashu_error", b"mint_error"]
)
def test_a_refused_token_is_an_account_failure(code: bytes, shape: bytes, kind: Kind) -> None:
    assert failed(400, shape % code, kind=kind).kind is FailureKind.ACCOUNT
    assert failed(422, shape % code, kind=kind).kind is FailureKind.ACCOUNT
    assert failed(413, shape % code, kind=kind).kind is FailureKind.CLIENT_ERROR


@PLACES
@pytest.mark.parametrize("code", [b"invalid_model", b"model_not_found"])
def test_a_400_may_say_that_the_model_is_unknown(code: bytes, shape: bytes) -> None:
    assert failed(400, shape % code).kind is FailureKind.NO_MODEL
    assert failed(422, shape % code).kind is FailureKind.CLIENT_ERROR


@PLACES
@pytest.mark.parametrize("status", [400, 424, 500, 503])
def test_an_upstreams_rate_limit_is_one_whatever_the_status(shape: bytes, status: int) -> None:
    failure = failed(status, shape % b"UPSTREAM_RATE_LIMIT", {"retry-after": "3"})
    assert failure.kind is FailureKind.RATE_LIMITED
    assert failure.retry_after == 3.0
    assert failure.trips is False


def test_a_code_in_the_message_is_no_code() -> None:
    body = b'{"error":{"message":"invalid_model mint_error UPSTREAM_RATE_LIMIT"}}'
    assert failed(400, body).kind is FailureKind.CLIENT_ERROR


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"Unrecognized request argument: stream_options","code":null}}',
        b'{"detail":[{"loc":["body","stream_options"],"msg":"extra"}]}',
        b"unknown field stream_options",
        b"<html>stream_options",
    ],
)
def test_refused_stream_options_are_told_apart_only_if_arbstr_added_them(body: bytes) -> None:
    for status in (400, 422):
        failure = failed(status, body, added_stream_options=True)
        assert (failure.kind, failure.error) == (FailureKind.NO_STREAM_OPTIONS, None)
        assert failed(status, body).kind is FailureKind.CLIENT_ERROR
    assert failed(415, body, added_stream_options=True).kind is FailureKind.CLIENT_ERROR
    assert failed(500, body, added_stream_options=True).kind is FailureKind.SERVER_ERROR
    assert failed(400, b"no", added_stream_options=True).kind is FailureKind.CLIENT_ERROR


@pytest.mark.parametrize(
    "body",
    [
        b'{"detail":[{"loc":["body","n"],"msg":"not an integer","input":{"stream_options":1}}]}',
        b'{"detail":"n","body":{"n":"x","stream_options":{"include_usage":true}}}',
        b'{"error":{"message":"bad {\\"stream_options\\":{\\"include_usage\\":true}}"}}',
        b"bad n in {'n': 1, 'stream_options': {'include_usage': True}}",
        b'bad n in {"n": 1, "stream_options": {"include_usage": true}}',
    ],
)
def test_stream_options_in_an_echo_of_the_request_are_not_refused(body: bytes) -> None:
    for status in (400, 422):
        assert failed(status, body, added_stream_options=True).kind is FailureKind.CLIENT_ERROR


def test_a_wait_counts_where_it_may_be_waited_out_and_is_a_rest_on_429_and_503_only() -> None:
    found = {status: failed(status, b"", {"retry-after": "7"}) for status in range(300, 600)}
    waiting = {FailureKind.RATE_LIMITED, FailureKind.SERVER_ERROR}
    assert all((it.retry_after is not None) == (it.kind in waiting) for it in found.values())
    assert {500, 502, 503, 529} < {status for status, it in found.items() if it.retry_after}
    assert {status for status, it in found.items() if rest_seconds(it)} == {429, 503}
    assert failed(429).retry_after is None
    assert failed(503, headers={"retry-after": "garbage"}).retry_after is None


def test_the_sentence_is_ours_and_the_error_has_no_secrets() -> None:
    body = b'{"error":{"message":"key %b is bad","type":"t","code":"c"}}' % KEY.encode()
    failure = failed(400, body)
    assert failure.error is not None
    assert failure.error["message"] == "key [REDACTED] is bad"
    assert failure.sentence == "refused the request with status 400"
    for status in (401, 404, 429, 500, 302):
        failure = failed(status, body)
        assert "bad" not in failure.sentence
        assert failure.error is None


def test_what_a_provider_says_of_key_and_model_is_kept_on_one_line_with_the_next_step() -> None:
    body = b'{"error":{"message":"12 msats available,\\n30000 required, %b","code":"low"}}'
    failure = failed(402, body % KEY.encode())
    assert failure.words == "low: 12 msats available, 30000 required, [REDACTED]"
    assert told(failure, "alpha") == (
        "refused the key or its balance with status 402 and said"
        ' "low: 12 msats available, 30000 required, [REDACTED]": top up the key of provider "alpha"'
    )
    assert 'check the key of provider "a"' in told(failed(401), "a")
    missing = failed(404, b'{"error":{"message":"no such model","type":"t"}}')
    assert missing.words == "t: no such model"
    assert "`models`" in told(missing, "a")
    assert failed(402, b"x" * 900).words == "x" * 297 + "..."
    for status in (400, 429, 500):
        failure = failed(status, body)
        assert failure.words is None
        assert told(failure, "a") == failure.sentence


# --- what a real node says --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("no-auth", FailureKind.ACCOUNT, 401),
        ("unknown-key", FailureKind.ACCOUNT, 401),
        ("garbage-token", FailureKind.ACCOUNT, 401),
        ("insufficient-balance", FailureKind.ACCOUNT, 402),
        ("xcashu-insufficient", FailureKind.ACCOUNT, 402),
        ("token-already-spent", FailureKind.ACCOUNT, 400),
        ("bearer-token-already-spent", FailureKind.ACCOUNT, 400),
        ("upstream-401", FailureKind.ACCOUNT, 401),
        ("upstream-402", FailureKind.ACCOUNT, 402),
        ("bad-model", FailureKind.NO_MODEL, 400),
        ("upstream-404", FailureKind.NO_MODEL, 404),
        ("bad-json", FailureKind.CLIENT_ERROR, 400),
        ("max-tokens-not-int", FailureKind.CLIENT_ERROR, 400),
        ("upstream-400", FailureKind.NOT_CAPABLE, 400),
        ("upstream-429", FailureKind.RATE_LIMITED, 429),
        ("xcashu-upstream-429", FailureKind.RATE_LIMITED, 429),
        ("upstream-500", FailureKind.SERVER_ERROR, 500),
        ("upstream-503", FailureKind.SERVER_ERROR, 503),
        ("upstream-reset", FailureKind.SERVER_ERROR, 502),
        ("upstream-not-json", FailureKind.SERVER_ERROR, 500),
        ("xcashu-upstream-500", FailureKind.SERVER_ERROR, 500),
        ("xcashu-token-lost", FailureKind.SERVER_ERROR, 500),
        ("mint-down", FailureKind.SERVER_ERROR, 503),
    ],
)
def test_a_recorded_answer_of_a_node_is_free_and_named(
    name: str, kind: FailureKind, status: int
) -> None:
    failure = recorded(name)
    assert (failure.kind, failure.status, failure.money) == (kind, status, Money.FREE)
    assert failure.trips is (status >= 500)
    assert failure.upstream_request_id is not None
    assert len(failure.upstream_request_id) == 36
    assert recorded(name, kind=Kind.OPENAI).kind is kind


def test_every_recorded_error_is_tested() -> None:
    assert len(list(CORPUS.glob("error-*.http"))) == 23


def test_a_nodes_rate_limit_tells_the_wait() -> None:
    assert recorded("upstream-429").retry_after == 2.0
    assert recorded("xcashu-upstream-429").retry_after is None


def test_a_nodes_client_errors_reach_the_client_in_openais_shape() -> None:
    assert recorded("upstream-400").error == {
        "message": "context length exceeded",
        "type": "invalid_request_error",
        "param": None,
        "code": "context_length_exceeded",
    }
    error = recorded("max-tokens-not-int").error
    assert error is not None
    assert error["message"] == "max_tokens must be an integer"
    error = recorded("bad-json").error
    assert error is not None
    assert error["code"] == "invalid_json"


# --- errors under a 200, and what was watched -------------------------------------------------


@BOTH
def test_an_error_object_under_a_200_is_free(kind: Kind) -> None:
    failure = from_error_body(
        b'{"error":{"message":"overloaded","code":502}}',
        status=200,
        kind=kind,
        upstream_request_id="r-1",
    )
    assert (failure.kind, failure.money) == (FailureKind.ERROR_ANSWER, Money.FREE)
    assert failure.trips is True
    assert failure.status == 200
    assert failure.error is None
    assert failure.upstream_request_id == "r-1"
    assert "overloaded" not in failure.sentence


@pytest.mark.parametrize("code", [b"429", b'"server_error"', b"null", b"400"])
def test_an_error_under_a_200_trips_the_breaker_with_a_5xx_code_only(code: bytes) -> None:
    data = b'{"error":{"message":"no","code":%b}}' % code
    assert from_error_body(data, status=200, kind=Kind.OPENAI).trips is False


@pytest.mark.parametrize(
    ("code", "trips", "own"), [(499, False, 499), (500, True, None), (501, True, None)]
)
def test_where_an_errors_own_status_turns_from_a_refusal_into_a_fault(
    code: int, trips: bool, own: int | None
) -> None:
    failure = from_error_body(
        b'{"error":{"message":"x","code":%d}}' % code, status=200, kind=Kind.OPENAI
    )
    assert (failure.trips, failure.own_status) == (trips, own)


def test_a_rate_limit_under_a_200_is_a_rate_limit() -> None:
    data = (
        b'{"error":{"code":"UPSTREAM_RATE_LIMIT","status":503,'
        b'"details":{"retry_after_seconds":1.5}}}'
    )
    failure = from_error_body(data, status=200, kind=Kind.ROUTSTR)
    assert (failure.kind, failure.money) == (FailureKind.RATE_LIMITED, Money.FREE)
    assert failure.retry_after == 1.5
    assert failure.trips is False


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:10 GMT"}, 10.0),
        ({}, None),
    ],
)
def test_an_error_under_a_200_waits_as_its_head_says(
    headers: dict[str, str], wait: float | None
) -> None:
    failure = from_error_body(
        b'{"error":{"message":"slow down","code":429}}',
        status=200,
        kind=Kind.OPENAI,
        headers=headers,
        now_utc=60.0,
    )
    assert (failure.own_status, failure.retry_after) == (429, wait)


@pytest.mark.parametrize(
    ("code", "type_"),
    [
        (429, "rate_limit_error"),
        (401, "authentication_error"),
        (402, "invalid_request_error"),
        (400, "invalid_request_error"),
    ],
)
def test_an_error_without_a_type_has_that_of_its_status(code: int, type_: str) -> None:
    error = under_200(b'{"message":"no","code":%d}' % code).error
    assert error is not None
    assert error["type"] == type_


def under_200(error: bytes) -> Failure:
    return from_error_body(b'{"error":%b}' % error, status=200, kind=Kind.ROUTSTR, secrets=SECRETS)


@pytest.mark.parametrize("status", [400, 402, 404, 413, 422, 429])
def test_an_error_under_a_200_may_give_itself_a_refusals_status(status: int) -> None:
    failure = under_200(b'{"message":"no, %b","code":%d}' % (KEY.encode(), status))
    assert (failure.kind, failure.status) == (FailureKind.ERROR_ANSWER, 200)
    assert failure.own_status == status
    assert failure.error is not None
    assert failure.error["message"] == "no, [REDACTED]"
    assert failure.trips is False


def test_a_refusal_under_a_200_may_give_its_status_by_name() -> None:
    failure = under_200(b'{"message":"no images, please","type":"invalid_request_error"}')
    assert (failure.kind, failure.own_status) == (FailureKind.ERROR_ANSWER, 400)
    assert failure.error is not None
    assert failure.error["message"] == "no images, please"


def test_what_a_model_cannot_is_also_told_under_a_200() -> None:
    for code in (b"400", b"500", b"null"):
        failure = under_200(b'{"message":"longer than the context of 8192","code":%b}' % code)
        assert (failure.kind, failure.money) == (FailureKind.NOT_CAPABLE, Money.FREE)
        assert (failure.status, failure.own_status, failure.trips) == (200, None, False)
        assert failure.error is not None
    for code in (b"402", b"429"):
        failure = under_200(b'{"message":"prompt is too long","code":%b}' % code)
        assert failure.kind is FailureKind.ERROR_ANSWER


def test_a_429_under_a_200_tells_its_wait() -> None:
    failure = under_200(b'{"code":429,"details":[{"retryDelay":"36.5s"}]}')
    assert failure.retry_after == 36.5
    assert rest_seconds(failure) == 36.5
    assert rest_seconds(under_200(b'{"code":429}')) == DEFAULT_REST
    assert under_200(b'{"code":400,"details":[{"retryDelay":"36.5s"}]}').retry_after is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-routstr-request-id": "a", "x-request-id": "b"}, "a"),
        ({"x-request-id": "req_1.2:3-4"}, "req_1.2:3-4"),
        ({"x-routstr-request-id": "", "x-request-id": "b"}, "b"),
        ({"x-request-id": "two words"}, None),
        ({"x-request-id": "a\n"}, None),
        ({"x-request-id": "x" * 129}, None),
        ({"x-request-id": KEY}, None),
        ({}, None),
    ],
)
def test_a_request_id_is_kept_if_it_looks_like_one(
    headers: dict[str, str], expected: str | None
) -> None:
    assert request_id_of(headers, SECRETS) == expected


@examples(50)
@given(
    st.integers(0, 999),
    st.dictionaries(
        st.sampled_from(["retry-after", "x-routstr-request-id", "x-request-id"]), st.text()
    ),
    st.binary(max_size=80) | st.sampled_from([b"[" * 70_000, b'{"error":{"code":' + b"9" * 6000]),
    st.sampled_from(Kind),
    st.booleans(),
)
def test_nothing_a_provider_sends_makes_it_raise(
    status: int, headers: dict[str, str], body: bytes, kind: Kind, added: bool
) -> None:
    failure = failed(status, body, headers, kind=kind, added_stream_options=added)
    signed = "x-routstr-request-id" in headers
    assert failure.money is money_of(failure.kind, kind, signed=signed)
    from_error_body(body, status=status, kind=kind)

"""Who may call, and what those get who may not or who ask for nonsense: a whole `arbstr run`.

Every answer of every route bears a request id; every refusal has the one error shape; none reaches
a provider.
"""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import httpx
import pytest

from tests.fakes import FakeProcess
from tests.process import ArbstrProcess, arbstr_process, chat_body, wait_until

PROVIDERS: Final = """
[[providers]]
name = "alpha"
url = "{url}"
models = ["gpt-4o", "vendor/model-1"]
input_rate = 2
output_rate = 2

[[providers]]
name = "beta"
url = "{url}"
models = ["gpt-4o"]
input_rate = 1
output_rate = 1
"""

GUARDED: Final = """
[server]
auth_token = "open-sesame"
allowed_hosts = ["llm.lan"]
allowed_origins = ["http://app.example"]
"""

TOKEN: Final = MappingProxyType({"authorization": "Bearer open-sesame"})

TYPES: Final = {
    "invalid_request_error",
    "authentication_error",
    "rate_limit_error",
    "upstream_error",
    "server_error",
}

CHAT: Final = "/v1/chat/completions"
GOOD: Final = json.dumps(chat_body()).encode()
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

FOREIGN: Final = {
    "a page of another origin": {"origin": "https://evil.example"},
    "a page of another port": {"origin": "http://127.0.0.1:3000"},
    "a sandboxed page": {"origin": "null"},
    "a form on another page": {"sec-fetch-site": "cross-site"},
    "a name that was rebound to 127.0.0.1": {"host": "evil.example"},
    "a name that only begins like ours": {"host": "127.0.0.1.evil.example"},
    "a name that only ends like ours": {"host": "evil.localhost.example:8080"},
}

NONSENSE: Final = {
    "empty": (b"", "malformed_json", None),
    "malformed": (b'{"model":"gpt-4o","messages":[}', "malformed_json", None),
    "not UTF-8": (b'{"model":"gpt-4o","messages":["\xff"]}', "malformed_json", None),
    "too deep": (b'{"a":' + b"[" * 100_000, "malformed_json", None),
    "an array": (b"[" + GOOD + b"]", "not_an_object", None),
    "no model": (b'{"messages":[]}', "missing_member", "model"),
    "no messages": (b'{"model":"gpt-4o"}', "missing_member", "messages"),
    "input instead": (b'{"model":"gpt-4o","input":"Hi"}', "missing_member", "messages"),
    "a model that is none": (b'{"model":7,"messages":[]}', "invalid_member", "model"),
    "two models": (
        b'{"model":"gpt-4o","messages":[],"model":"gpt-4o"}',
        "duplicate_member",
        "model",
    ),
    "two models, one in disguise": (
        b'{"model":"gpt-4o","messages":[],"mod\\u0065l":"gpt-4o"}',
        "duplicate_member",
        "model",
    ),
}

WRONG: Final = {
    "an unknown path": ("GET", "/v1/nonesuch", 404, "not_found"),
    "chat by GET": ("GET", CHAT, 405, "method_not_allowed"),
    "chat by PUT": ("PUT", "/chat/completions", 405, "method_not_allowed"),
    "models by POST": ("POST", "/v1/models", 405, "method_not_allowed"),
    "health by DELETE": ("DELETE", "/health", 405, "method_not_allowed"),
    "a model nobody serves": ("GET", "/v1/models/vendor/nonesuch", 404, "model_not_found"),
}


@pytest.fixture(scope="module")
def arbstr(providers: FakeProcess) -> Iterator[ArbstrProcess]:
    with arbstr_process(config_text=PROVIDERS.format(url=providers.url)) as process:
        yield process


@pytest.fixture(scope="module")
def guarded(providers: FakeProcess) -> Iterator[ArbstrProcess]:
    """With a token, a name of its own and a web page that may call."""
    text = GUARDED + PROVIDERS.format(url=providers.url)
    with arbstr_process(config_text=text) as process:
        yield process


def post(process: ArbstrProcess, headers: Mapping[str, str], body: bytes = GOOD) -> httpx.Response:
    return process.ask("POST", CHAT, headers=headers, content=body)


def assert_refused(reply: httpx.Response, status: int, code: str) -> dict[str, str | None]:
    """The one shape of errors, with the request's id; returns the error object."""
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"] == reply.headers["x-arbstr-request-id"]
    assert len(reply.headers["x-request-id"]) == 36
    body = reply.json()
    assert set(body) == {"error"}
    error: dict[str, str | None] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] in TYPES
    assert error["code"] == code
    return error


# ---- who may call


@pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_web_page_that_is_not_allowed_spends_nothing(
    headers: Mapping[str, str], path: str, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    # As a page sends it without asking first: a simple request (Fetch 2.2.2).
    simple = {"content-type": "text/plain", **headers}
    reply = arbstr.ask("POST", path, headers=simple, content=GOOD)
    error = assert_refused(reply, 403, "forbidden_origin")
    assert error["type"] == "authentication_error"
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert fake.connections()["hits"] == 0


@pytest.mark.parametrize("path", ["/v1/models", "/providers", "/health", "/livez", "/", "/no"])
@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_web_page_that_is_not_allowed_reads_nothing(
    headers: Mapping[str, str], path: str, arbstr: ArbstrProcess
) -> None:
    assert_refused(arbstr.ask("GET", path, headers=headers), 403, "forbidden_origin")


def test_a_refused_page_leaves_no_row(arbstr: ArbstrProcess, fake: FakeProcess) -> None:
    refused = post(arbstr, {"host": "evil.example"}).headers["x-request-id"]
    malformed = post(arbstr, NO_HEADERS, b"{").headers["x-request-id"]
    served = post(arbstr, NO_HEADERS).headers["x-request-id"]

    def ids() -> set[str]:
        return {row["correlation_id"] for row in arbstr.rows()}

    wait_until(lambda: served in ids(), "the row of the request that was served")
    # Rows are written in order: those of the refused would be there by now.
    assert ids().isdisjoint({refused, malformed})


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9", "127.0.0.1:1", "[::1]:8080", "LOCALHOST"]
)
def test_every_name_of_loopback_may_be_used(
    host: str, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    assert post(arbstr, {"host": host}).status_code == 200


def test_a_preflight_of_a_page_that_is_not_allowed_is_refused(arbstr: ArbstrProcess) -> None:
    asks = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    reply = arbstr.ask("OPTIONS", CHAT, headers=asks)
    assert_refused(reply, 403, "forbidden_origin")
    assert "access-control-allow-origin" not in reply.headers


def test_a_page_that_is_allowed_is_told_so_and_may_read_the_answer(
    guarded: ArbstrProcess, fake: FakeProcess
) -> None:
    page = {"origin": "http://app.example"}
    asks = {**page, "access-control-request-method": "POST"}
    # A preflight bears no token (Fetch 4.8).
    allowed = guarded.ask("OPTIONS", CHAT, headers=asks)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "http://app.example"
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert fake.connections()["hits"] == 0

    reply = post(guarded, {**page, **TOKEN, "sec-fetch-site": "cross-site"})
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "http://app.example"
    assert "x-arbstr-cost-sats" in reply.headers["access-control-expose-headers"]
    assert reply.headers["vary"] == "origin"
    # An error may be read as well.
    refused = post(guarded, page)
    assert_refused(refused, 401, "invalid_token")
    assert refused.headers["access-control-allow-origin"] == "http://app.example"


def test_a_name_that_is_allowed_may_be_used(guarded: ArbstrProcess, fake: FakeProcess) -> None:
    assert post(guarded, {**TOKEN, "host": "llm.lan:8080"}).status_code == 200
    assert_refused(post(guarded, {**TOKEN, "host": "other.lan"}), 403, "forbidden_origin")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer open-sesam"},
        {"authorization": "Bearer open-sesame2"},
        {"authorization": "Basic open-sesame"},
        {"authorization": "open-sesame"},
        {"authorization": "Bearer"},
        {"x-api-key": "open-sesame"},
    ],
    ids=str,
)
def test_without_the_token_nothing_but_livez_is_answered(
    headers: Mapping[str, str], guarded: ArbstrProcess, fake: FakeProcess
) -> None:
    error = assert_refused(post(guarded, headers), 401, "invalid_token")
    assert error["type"] == "authentication_error"
    assert "open-sesame" not in (error["message"] or "")
    for path in ("/v1/models", "/providers", "/health", "/", "/nonesuch"):
        assert_refused(guarded.ask("GET", path, headers=headers), 401, "invalid_token")
    assert guarded.ask("GET", "/livez", headers=headers).status_code == 200
    assert fake.connections()["hits"] == 0


def test_with_the_token_everything_is(guarded: ArbstrProcess, fake: FakeProcess) -> None:
    assert post(guarded, TOKEN).status_code == 200
    assert post(guarded, {"authorization": "bearer  open-sesame"}).status_code == 200
    for path in ("/v1/models", "/providers", "/health", "/"):
        assert guarded.ask("GET", path, headers=TOKEN).status_code == 200


# ---- nonsense


@pytest.mark.parametrize(("body", "code", "param"), NONSENSE.values(), ids=NONSENSE)
def test_a_body_that_is_no_chat_is_refused_and_says_why(
    body: bytes, code: str, param: str | None, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    error = assert_refused(post(arbstr, NO_HEADERS, body), 400, code)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert fake.connections()["hits"] == 0


def test_a_responses_body_is_told_what_there_is_instead(arbstr: ArbstrProcess) -> None:
    reply = post(arbstr, NO_HEADERS, b'{"model":"gpt-4o","input":"Hi"}')
    message = reply.json()["error"]["message"]
    assert "messages" in message
    assert "/v1/chat/completions" in message


@pytest.mark.parametrize("how", ["declared", "chunked"])
def test_a_body_of_65_mb_is_refused(how: str, arbstr: ArbstrProcess, fake: FakeProcess) -> None:
    megabyte = b" " * 1_000_000
    pieces = (megabyte for _ in range(65))
    with httpx.Client(trust_env=False, timeout=30) as client:
        content = megabyte * 65 if how == "declared" else pieces
        reply = client.post(arbstr.url + CHAT, content=content)
    error = assert_refused(reply, 413, "body_too_large")
    assert "max_body_mb" in (error["message"] or "")
    assert fake.connections()["hits"] == 0
    assert post(arbstr, NO_HEADERS).status_code == 200


def test_a_body_just_below_the_limit_is_taken(arbstr: ArbstrProcess, fake: FakeProcess) -> None:
    assert post(arbstr, NO_HEADERS, GOOD + b" " * (64_000_000 - len(GOOD))).status_code == 200


@pytest.mark.parametrize(("method", "path", "status", "code"), WRONG.values(), ids=WRONG)
def test_a_wrong_path_or_method_is_refused_in_the_one_shape(
    method: str, path: str, status: int, code: str, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    body = GOOD if method in ("POST", "PUT") else None
    error = assert_refused(arbstr.ask(method, path, content=body), status, code)
    assert error["type"] == "invalid_request_error"
    if code == "not_found":
        assert "/v1/chat/completions" in (error["message"] or "")
    assert fake.connections()["hits"] == 0


def test_a_wrong_content_type_with_good_json_is_accepted(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    assert post(arbstr, {"content-type": "text/plain"}).status_code == 200
    assert post(arbstr, NO_HEADERS).status_code == 200


def test_a_body_in_an_encoding_is_refused(arbstr: ArbstrProcess, fake: FakeProcess) -> None:
    reply = post(arbstr, {"content-encoding": "gzip"}, b"\x1f\x8b\x08")
    assert_refused(reply, 415, "unsupported_media_type")
    assert fake.connections()["hits"] == 0


# ---- the routes


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_the_models_are_listed_as_openai_lists_them(prefix: str, arbstr: ArbstrProcess) -> None:
    reply = arbstr.ask("GET", f"{prefix}/models")
    assert reply.json()["object"] == "list"
    listed = {model["id"]: model for model in reply.json()["data"]}
    assert set(listed) == {"gpt-4o", "vendor/model-1"}
    for model in listed.values():
        assert set(model) >= {"id", "object", "created", "owned_by"}
        assert model["object"] == model["type"] == "model"
        assert model["display_name"] == model["id"]
        assert isinstance(model["created"], int)
    assert listed["gpt-4o"]["owned_by"] == "beta"  # the cheaper of the two
    assert listed["vendor/model-1"]["owned_by"] == "alpha"
    for name, model in listed.items():
        assert arbstr.ask("GET", f"{prefix}/models/{name}").json() == model
        quoted = name.replace("/", "%2F")
        assert arbstr.ask("GET", f"{prefix}/models/{quoted}").json() == model


@pytest.mark.parametrize("path", ["/", "/v1/models", "/models/gpt-4o", "/health", "/v1/livez"])
def test_head_answers_where_get_does_without_a_body(path: str, arbstr: ArbstrProcess) -> None:
    # /health counts rows that earlier tests left to write.
    wait_until(
        lambda: arbstr.ask("GET", "/health").json()["log"]["queued"] == 0, "rows are written"
    )
    got, headed = arbstr.ask("GET", path), arbstr.ask("HEAD", path)
    assert (got.status_code, headed.status_code) == (200, 200)
    assert headed.content == b""
    assert headed.headers["content-length"] == got.headers["content-length"]
    assert headed.headers["x-request-id"] == headed.headers["x-arbstr-request-id"]
    assert headed.headers["x-request-id"] != got.headers["x-request-id"]


def test_options_without_a_preflight_names_the_methods(arbstr: ArbstrProcess) -> None:
    reply = arbstr.ask("OPTIONS", "/v1/models")
    assert reply.status_code == 200
    assert "GET" in reply.headers["allow"]
    refused = arbstr.ask("OPTIONS", CHAT)
    assert_refused(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "POST"


@pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
def test_an_answer_has_both_ids_and_no_cors_unless_configured(
    path: str, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    reply = arbstr.ask("POST", path, content=GOOD)
    assert reply.status_code == 200
    assert reply.headers["x-request-id"] == reply.headers["x-arbstr-request-id"]
    assert not [name for name in reply.headers if name.startswith("access-control")]

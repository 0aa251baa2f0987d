"""The door and the routes in a test's own process: what every answer has, whatever was asked.

What only a whole process shows, or a real browser's headers against a real configuration, is in
tests/test_door.py.
"""

import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.dialects.chat import door
from arbstr.trio_runtime import app, attempts, repeats, run, status, whom
from arbstr.trio_runtime.ledger.log_writer import LogStatistics
from arbstr.trio_runtime.snapshot import Snapshot
from tests.fakes import (
    completion,
    error_answer,
    hello,
    json_answer,
    open_fake_provider,
    refused_url,
    stream,
)
from tests.proxy import Proxy, chat_body, config, open_proxy, provider
from tests.site import Answer, Peer, quiet

CHAT: Final = "/v1/chat/completions"
NOWHERE: Final = "http://127.0.0.1:9/v1"
"""A provider that is never asked."""

PROVIDERS: Final = config(
    provider("alpha", NOWHERE, models='gpt-4o", "vendor/model 1", "a//b", "ünï'),
)


async def ask(
    proxy: Proxy, method: str, target: str, body: bytes = b"", **headers: str
) -> tuple[Answer, Any]:
    """Any request, whatever an HTTP library would think of it; the answer, and its JSON."""
    named = {"host": f"127.0.0.1:{proxy.port}", "content-length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as tcp:
        peer = Peer(tcp)
        await peer.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
        answer = await peer.answer(method)
    assert answer.whole
    return answer, json.loads(answer.body) if answer.body else None


def assert_ours(answer: Answer) -> None:
    """What every answer has."""
    ours, usual = answer.headers["x-arbstr-request-id"], answer.headers["x-request-id"]
    assert ours == usual
    assert str(UUID(ours)) == ours
    assert UUID(ours).version == 7  # in the order of time
    assert "html" not in answer.headers.get("content-type", "")
    assert not re.search(b"<(!doctype|html|p|h1)", answer.body)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def assert_error(answer: Answer, status: int, code: str, route: str = CHAT) -> None:
    """OpenAI's shape; at Messages Anthropic's, where `param` stands only if a member is named."""
    assert_ours(answer)
    told = json.loads(answer.body)
    error = told["error"]
    if route in ("/v1/messages", "/messages"):
        assert (told["type"], told["request_id"]) == ("error", answer.headers["request-id"])
        error = {"param": None, **error}
    assert (answer.status, error["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The sentences about requests that were refused."""
    return [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]


# ---- every answer of every route

ROUTES: Final = [
    "/",
    *(f"{prefix}/{name}" for prefix in ("", "/v1") for name in ("livez", "health", "providers")),
    *(f"{prefix}/{name}" for prefix in ("", "/v1") for name in ("models", "models/gpt-4o", "cost")),
    *(f"{prefix}/{name}" for prefix in ("", "/v1") for name in ("stats", "requests", "requests/x")),
    *(CHAT, "/chat/completions", "/nonesuch", "/v1", "/v1/models/nonesuch", "/v1/responses"),
    *("/v1/messages", "/v1/embeddings", "/v1/completions", "/v1/models/", "/static/x"),
]
METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]


@pytest.mark.parametrize("method", METHODS)
async def test_every_answer_has_the_ids_and_none_is_html(method: str) -> None:
    seen = set()
    async with open_proxy(PROVIDERS) as proxy:
        for route in ROUTES:
            body = b'{"a": 1}' if method in ("POST", "PUT", "PATCH", "BREW") else b""
            answer, _ = await ask(proxy, method, route, body)
            assert_ours(answer)
            seen.add(answer.headers["x-request-id"])
            if method == "HEAD":
                assert answer.body == b""
            elif answer.status >= 400:
                code = json.loads(answer.body)["error"]["code"]
                assert_error(answer, answer.status, code, route)
            if answer.status == 405:
                assert answer.headers["allow"]
                assert method not in answer.headers["allow"].split(", ")
        assert len(seen) == len(ROUTES)
        assert not proxy.log.offered


@pytest.mark.parametrize(
    ("method", "route", "status", "code"),
    [
        ("PATCH", CHAT, 405, "method_not_allowed"),
        ("TRACE", CHAT, 405, "method_not_allowed"),
        ("GET", "/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/", 405, "method_not_allowed"),
        ("GET", "/v1/cost", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions/", 404, "not_found"),
        ("POST", "//v1/chat/completions", 404, "not_found"),
        ("POST", "/v1//chat/completions", 404, "not_found"),
        ("GET", "/v1/../health", 404, "not_found"),
        ("GET", "/..", 404, "not_found"),
        ("GET", "/%2e%2e/etc/passwd", 404, "not_found"),
        ("GET", "/health%00", 404, "not_found"),
        ("GET", "/%ff%fe", 404, "not_found"),
        ("GET", "/<script>", 404, "not_found"),
        ("GET", "/" + "x" * 60_000, 404, "not_found"),
        ("GET", "/" + "x/" * 5_000, 404, "not_found"),
        ("GET", "?", 404, "not_found"),
        ("GET", "x", 404, "not_found"),
        ("OPTIONS", "*", 404, "not_found"),
        ("GET", "http://[", 404, "not_found"),
        ("GET", "http://127.0.0.1", 404, "not_found"),
        ("CONNECT", "example.com:443", 404, "not_found"),
        ("GET", "/v1/models/", 404, "not_found"),
        ("GET", "/v1/models/nonesuch", 404, "model_not_found"),
        ("GET", "/v1/models/%3Cscript%3E", 404, "model_not_found"),
        ("GET", "/v1/models/..", 404, "model_not_found"),
    ],
)
async def test_what_there_is_not_is_refused_in_the_one_shape(
    method: str, route: str, status: int, code: str
) -> None:
    async with open_proxy(PROVIDERS) as proxy:
        answer, _ = await ask(proxy, method, route)
        assert_error(answer, status, code)


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/cancel"),
        ("POST", "/v1/responses/compact"),
        ("POST", "/responses/compact"),
        ("GET", "/v1/messages/batches?beta=true"),
        ("POST", "/v1/messages/batches?beta=true"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/api/chat"),
        ("GET", "/api/tags"),
        ("POST", "/v1beta/models/gemini-3:streamGenerateContent?alt=sse&key=geheim"),
        ("HEAD", "/v1/moderations"),
    ],
)
async def test_another_api_is_refused_once_and_for_all_in_both_shapes(
    method: str, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_proxy(PROVIDERS) as proxy:
        answer, said = await ask(proxy, method, route, b"{}" if method == "POST" else b"")
    assert_ours(answer)
    request_id = answer.headers["x-request-id"]
    assert answer.status == 400
    assert answer.headers["request-id"] == request_id
    assert answer.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert set(said) == {"type", "error", "request_id"}
        assert (said["type"], said["request_id"]) == ("error", request_id)
        assert set(said["error"]) == {"message", "type", "param", "code"}
        assert said["error"]["code"] == "unsupported_endpoint"
        assert said["error"]["type"] == "invalid_request_error"
        assert "/v1/chat/completions" in said["error"]["message"]
    path = route.partition("?")[0]
    assert refusals(caplog) == [f"refused: unsupported_endpoint for {method} {path}"]
    assert not proxy.log.offered


@pytest.mark.parametrize(
    ("method", "route", "code"),
    [
        ("GET", "/nonesuch?key=geheim", "not_found"),
        ("GET", "?", "not_found"),
        ("POST", "/v1/models", "method_not_allowed"),
        ("GET", "/" + "x" * 60_000, "not_found"),
    ],
)
async def test_a_request_that_no_route_takes_leaves_one_line(
    method: str, route: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_proxy(PROVIDERS) as proxy:
        answer, _ = await ask(proxy, method, route)
    (line,) = refusals(caplog)
    assert line.startswith(f"refused: {code} for {method} ")
    assert "geheim" not in line
    assert len(line) < 300
    (record,) = [record for record in caplog.records if record.getMessage() == line]
    assert record.__dict__["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "route", [CHAT, "/v1/chat%2Fcompletions", "/%63hat/completions", CHAT + "?x=1"]
)
async def test_a_path_may_be_quoted(route: str) -> None:
    async with open_proxy(PROVIDERS) as proxy:
        answer, _ = await ask(proxy, "POST", route, b"{}")
        assert_error(answer, 400, "missing_member")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", ["evil.example", "me@localhost", "localhost@evil.example"])
async def test_the_host_of_a_url_as_target_outranks_the_header(method: str, host: str) -> None:
    async with open_proxy(PROVIDERS) as proxy:
        path = CHAT if method == "POST" else "/v1/models"
        answer, _ = await ask(proxy, method, f"http://{host}{path}")
        assert_error(answer, 403, "forbidden_origin")
        answer, _ = await ask(proxy, "GET", "http://localhost/v1/models", host="evil.example")
        assert answer.status == 200


async def test_two_hosts_are_not_http() -> None:
    hosts = b"host: 127.0.0.1\r\nhost: 127.0.0.1\r\n"
    async with (
        open_proxy(PROVIDERS) as proxy,
        await trio.open_tcp_stream("127.0.0.1", proxy.port) as tcp,
    ):
        peer = Peer(tcp)
        await peer.send(b"POST %b HTTP/1.1\r\n%b\r\n" % (CHAT.encode(), hosts))
        assert (await peer.answer()).status == 400


async def test_a_client_that_takes_us_for_its_proxy_is_answered() -> None:
    async with open_proxy(PROVIDERS) as proxy:
        base = f"http://127.0.0.1:{proxy.port}"
        answer, listed = await ask(proxy, "GET", f"{base}/v1/models?x=1")
        assert (answer.status, listed["object"]) == (200, "list")
        answer, _ = await ask(proxy, "POST", base + CHAT, b"{}")
        assert_error(answer, 400, "missing_member")


async def test_a_url_as_target_does_not_open_the_door() -> None:
    """Without a token `/livez` alone is open, and it is the path that is compared."""
    guarded = PROVIDERS + '\n[server]\nauth_token = "open-sesame"\n'
    async with open_proxy(guarded) as proxy:
        answer, _ = await ask(proxy, "GET", "http://localhost/livez")
        assert answer.status == 200
        for target in ("http://localhost/health", "/health?/livez", "/livez/../health", "*"):
            answer, _ = await ask(proxy, "GET", target)
            assert_error(answer, 401, "invalid_token")


async def test_a_head_is_judged_anew_by_another_configuration() -> None:
    """It is looked at once for all requests of a connection with the same."""
    guarded = PROVIDERS + '\n[server]\nauth_token = "open-sesame"\n'
    async with open_proxy(PROVIDERS) as proxy, proxy.client() as client:
        statuses = []
        for text in (PROVIDERS, PROVIDERS, guarded, guarded, PROVIDERS):
            proxy.hub.adopt(Snapshot.of(parse_config(text, {})), kept=("alpha",))
            await client.send("POST", CHAT, b"{}")
            statuses.append((await client.reply()).status)
    assert statuses == [400, 400, 401, 401, 400]


@pytest.mark.parametrize(
    ("quoted", "model"),
    [
        ("gpt-4o", "gpt-4o"),
        ("vendor/model%201", "vendor/model 1"),
        ("vendor%2Fmodel%201", "vendor/model 1"),
        ("a//b", "a//b"),
        ("%C3%BCn%C3%AF", "ünï"),
    ],
)
async def test_a_models_id_may_hold_anything(quoted: str, model: str) -> None:
    async with open_proxy(PROVIDERS) as proxy:
        for prefix in ("", "/v1"):
            answer, found = await ask(proxy, "GET", f"{prefix}/models/{quoted}")
            assert answer.status == 200
            assert (found["id"], found["owned_by"]) == (model, "alpha")


async def test_a_star_provider_has_every_model_and_lists_none() -> None:
    async with open_proxy(config(provider("any", NOWHERE, models="*"))) as proxy:
        assert (await proxy.get("/v1/models")).json["data"] == []
        assert (await proxy.get("/v1/models/whatever/1")).json["owned_by"] == "any"


async def test_root_says_what_this_is() -> None:
    async with open_proxy(PROVIDERS) as proxy:
        answer, found = await ask(proxy, "GET", "/")
        assert (answer.status, found["name"], found["chat"]) == (200, "arbstr", CHAT)
        headed, _ = await ask(proxy, "HEAD", "/")
        assert (headed.status, headed.body) == (200, b"")
        assert headed.headers["content-length"] == str(len(answer.body))


async def test_http_1_0_without_a_host_is_answered() -> None:
    async with open_proxy(PROVIDERS) as proxy:
        for path in (b"/health", b"/nonesuch"):
            async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as tcp:
                peer = Peer(tcp)
                await peer.send(b"GET " + path + b" HTTP/1.0\r\n\r\n")
                text = await peer.rest()
                assert b"x-request-id: " in text
                assert text.rstrip().endswith(b"}")


# ---- pages that may call

ALLOWED: Final = (
    PROVIDERS
    + """
[server]
auth_token = "open-sesame"
allowed_origins = ["https://app.example"]
"""
)
PAGE: Final = {"origin": "https://app.example", "authorization": "Bearer open-sesame"}


async def test_a_page_that_may_call_may_read_every_answer_also_an_error() -> None:
    async with open_proxy(ALLOWED) as proxy:
        for method, route, body, code in (
            ("GET", "/v1/models", b"", 200),
            ("GET", "/nonesuch", b"", 404),
            ("POST", CHAT, b"{", 400),
            ("GET", CHAT, b"", 405),
        ):
            answer, _ = await ask(proxy, method, route, body, **PAGE)
            assert answer.status == code
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert answer.headers["vary"] == "origin"
            assert "x-arbstr-cost-sats" in answer.headers["access-control-expose-headers"]
        answer, _ = await ask(proxy, "GET", "/v1/models", origin="https://app.example")
        assert answer.status == 401
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize("route", [CHAT, "/v1/models", "/nonesuch"])
async def test_a_preflight_is_answered_without_the_token_and_without_a_body(route: str) -> None:
    async with open_proxy(ALLOWED) as proxy:
        answer, _ = await ask(
            proxy,
            "OPTIONS",
            route,
            origin="https://app.example",
            access_control_request_method="POST",
            access_control_request_headers="authorization,content-type,x-stainless-lang",
        )
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers  # RFC 9110 8.6
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "POST" in answer.headers["access-control-allow-methods"]
        allowed = answer.headers["access-control-allow-headers"].split(", ")
        assert {"*", "authorization"} <= set(allowed)  # the star does not cover authorization
        assert_ids(answer)


def assert_ids(answer: Answer) -> None:
    assert answer.headers["x-request-id"] == answer.headers["x-arbstr-request-id"]


async def test_a_preflight_of_any_other_page_is_refused() -> None:
    async with open_proxy(ALLOWED) as proxy:
        answer, _ = await ask(
            proxy,
            "OPTIONS",
            CHAT,
            origin="https://evil.example",
            access_control_request_method="POST",
        )
        assert_error(answer, 403, "forbidden_origin")


async def test_options_that_is_no_preflight_needs_the_token() -> None:
    async with open_proxy(ALLOWED) as proxy:
        answer, _ = await ask(proxy, "OPTIONS", "/v1/models")
        assert_error(answer, 401, "invalid_token")


# ---- bodies

SMALL: Final = PROVIDERS + "\n[server]\nmax_body_mb = 1\n"
MB: Final = 1_000_000


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Peer]:
    async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as tcp:
        yield Peer(tcp)


def head(proxy: Proxy, *lines: str, path: str = CHAT) -> bytes:
    host = f"host: 127.0.0.1:{proxy.port}"
    return "\r\n".join([f"POST {path} HTTP/1.1", host, *lines, "\r\n"]).encode()


async def test_a_length_over_the_limit_is_refused_before_a_byte_of_the_body() -> None:
    async with open_proxy(SMALL) as proxy, connected(proxy) as peer:
        await peer.send(head(proxy, f"content-length: {MB + 1}", "expect: 100-continue"))
        answer = await peer.answer("POST")
        assert_error(answer, 413, "body_too_large")
        assert b"1 MB" in answer.body
        assert not proxy.log.offered


async def test_an_upload_over_the_limit_gets_its_answer_while_it_goes_on() -> None:
    async with open_proxy(SMALL) as proxy, connected(proxy) as peer:
        await peer.send(head(proxy, "transfer-encoding: chunked"))
        for _ in range(30):
            await peer.send(b"%x\r\n" % 100_000 + b" " * 100_000 + b"\r\n")
        await peer.send(b"0\r\n\r\n")
        assert_error(await peer.answer("POST"), 413, "body_too_large")


async def test_a_body_of_just_the_limit_is_read() -> None:
    async with open_proxy(SMALL) as proxy:
        body = b"{" + b" " * (MB - 2) + b"}"
        assert_error((await ask(proxy, "POST", CHAT, body))[0], 400, "missing_member")
        assert_error((await ask(proxy, "POST", CHAT, body + b" "))[0], 413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/models", "/nonesuch", "/v1/responses"])
async def test_a_large_body_that_no_route_wants_does_not_hold_the_answer_up(path: str) -> None:
    async with open_proxy(SMALL) as proxy, connected(proxy) as peer:
        await peer.send(head(proxy, f"content-length: {30 * MB}", path=path))
        for _ in range(30):
            await peer.send(b" " * MB)
        answer = await peer.answer("POST")
        assert_error(answer, answer.status, json.loads(answer.body)["error"]["code"])


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity"])
async def test_a_body_in_a_coding_is_refused(coding: str) -> None:
    async with open_proxy(PROVIDERS) as proxy:
        answer, _ = await ask(proxy, "POST", CHAT, b"\x1f\x8b", content_encoding=coding)
        assert_error(answer, 415, "unsupported_media_type")
        answer, _ = await ask(proxy, "POST", CHAT, b"{}", content_encoding="Identity")
        assert_error(answer, 400, "missing_member")


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_no_row() -> None:
    async with open_proxy(PROVIDERS) as proxy:
        async with connected(proxy) as peer:
            await peer.send(head(proxy, "content-length: 1000") + b"{")
            await quiet()
        await quiet()
        assert not proxy.server.connections
        assert not proxy.log.offered


# ---- bugs of ours


def broken(*_: object, **__: object) -> Any:
    raise RuntimeError("a prompt nobody may read")


def the_bug(caplog: pytest.LogCaptureFixture) -> str:
    """The one line of the log, which bears the request's id. Returns that id."""
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert re.search(r"internal error: RuntimeError at .*test_app\.py:\d+", record.getMessage())
    assert "prompt" not in caplog.text
    request_id: str = record.__dict__["request_id"]
    return request_id


async def test_a_bug_in_a_route_is_a_500_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(status, "health", broken)
    async with open_proxy(PROVIDERS) as proxy:
        answer, found = await ask(proxy, "GET", "/health")
        assert_error(answer, 500, "internal_error")
        assert found["error"]["type"] == "server_error"
        assert the_bug(caplog) == answer.headers["x-request-id"]
        assert answer.headers["x-request-id"] in found["error"]["message"]
        assert (await proxy.get("/livez")).status == 200


async def test_a_bug_in_a_chat_is_a_500_and_one_line_and_the_connection_lives(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
        proxy.client() as client,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(whom, "plan", broken)
            await client.send("POST", CHAT, chat_body())
            reply = await client.reply()
        assert (reply.status, reply.error["code"]) == (500, "internal_error")
        assert the_bug(caplog) == reply.headers["x-request-id"]
        assert (await proxy.record()).status == "rejected"
        await client.send("POST", CHAT, chat_body())
        assert (await client.reply()).status == 200


@pytest.mark.parametrize(
    ("where", "name", "failure"),
    [
        pytest.param(attempts, "UpstreamCall", "not_sent", id="before there is a call"),
        pytest.param(door, "outgoing_body", "not_sent", id="before it is sent"),
        pytest.param(repeats, "passed_on", None, id="when the answer is there"),
    ],
)
async def test_a_bug_in_any_phase_of_a_chat_is_one_row_that_says_so(
    where: object, name: str, failure: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, broken)
            reply = await proxy.chat()
        assert (reply.status, reply.error["code"]) == (500, "internal_error")
        record = await proxy.record()
        assert (record.status, record.error_status) == ("failed", 500)
        assert [row.failure for row in record.attempts] == [failure]
        assert not proxy.hub.running
        # The same again would get what became of this one.
        assert (await proxy.chat(user="another")).status == 200


async def test_a_bug_before_an_attempt_gives_back_what_was_set_aside_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(proxy.hub.board, "admit", broken)
            assert (await proxy.chat()).status == 500
        assert not proxy.hub.budget.view(time.time()).reserved
        assert (await proxy.chat()).status == 200


async def test_a_bug_in_a_stream_after_its_head_is_the_error_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = trio.Event()
    first, second, *rest = hello()
    async with (
        open_fake_provider(stream([first, second, gate, *rest])) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
        proxy.asking(stream=True) as client,
    ):
        assert (await client.head())[0] == 200
        await client.until(b"Hello")
        monkeypatch.setattr(run.Run, "_finish_stream", broken)
        gate.set()
        body, whole = await client.rest()
        assert not whole
        last = json.loads(body.split(b"data: ")[-1])
        assert last["error"]["code"] == "internal_error"
        assert b"[DONE]" not in body
        the_bug(caplog)
        assert (await proxy.record()).status != "ok"


async def test_a_bug_after_a_whole_answer_touches_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer_then_break(hub: object, responder: Any, *_: object, **__: object) -> None:
        await responder.plain(b"{}", ())
        broken()

    monkeypatch.setattr(app, "serve", answer_then_break)
    async with open_proxy(PROVIDERS) as proxy, proxy.client() as client:
        for _ in range(2):
            await client.send("POST", CHAT, b"{}")
            reply = await client.reply()
            assert (reply.status, reply.body) == (200, b"{}")
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 2


# ---- health, providers

ONE_FAILURE: Final = "[retry]\nmax_retries = 0\n[breaker]\nfailures = 1\nopen_seconds = 30\n"


@pytest.fixture
def clock() -> MockClock:
    return MockClock(rate=1.0)


async def test_health_is_as_of_now_and_asks_nobody(clock: MockClock) -> None:
    with refused_url() as dead:
        async with (
            open_fake_provider([error_answer(500), json_answer(completion())]) as fake,
            open_proxy(
                config(
                    provider("alpha", dead, rate=1),
                    provider("beta", fake.url, rate=2),
                    more=ONE_FAILURE,
                )
            ) as proxy,
        ):
            reply = await proxy.get("/health")
            assert (reply.status, reply.json["status"]) == (200, "ok")
            closed = {"state": "closed", "failure_count": 0}
            assert reply.json["providers"] == {"alpha": closed, "beta": closed}
            assert reply.json["log"] == {"queued": 0, "written": 0, "dropped": 0}

            assert (await proxy.chat()).status == 502
            reply = await proxy.get("/health")
            assert (reply.status, reply.json["status"]) == (503, "unhealthy")
            alpha = reply.json["providers"]["alpha"]
            assert alpha["state"] == "open"
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", alpha["retry_at"])
            assert alpha["last_error"].startswith("could not be reached")
            hits = fake.hits
            assert (await proxy.chat()).json["error"]["code"] == "circuit_open"

            clock.jump(31)
            reply = await proxy.get("/health")
            assert (reply.status, reply.json["status"]) == (200, "degraded")
            assert reply.json["providers"]["beta"]["state"] == "half_open"
            assert fake.hits == hits

            assert (await proxy.chat()).status == 200
            reply = await proxy.get("/health")
            assert reply.json["status"] == "degraded"
            assert reply.json["providers"]["beta"]["state"] == "closed"


async def test_livez_lives_while_every_provider_is_dead() -> None:
    with refused_url() as dead:
        async with open_proxy(config(provider("alpha", dead), more=ONE_FAILURE)) as proxy:
            await proxy.chat()
            assert (await proxy.get("/health")).status == 503
            assert (await proxy.get("/livez")).status == 200


async def test_providers_shows_rates_circuit_rest_and_a_masked_key() -> None:
    async with (
        open_fake_provider(error_answer(429, headers=[("retry-after", "60")])) as fake,
        open_proxy(
            config(
                provider(
                    "alpha",
                    fake.url.replace("127.0.0.1", "user:password@127.0.0.1") + "?key=canary-1234",
                    rate=2,
                    key="sk-canary-0123456789abcdef",
                    more='[providers.model_rates."gpt-4o"]\ninput_rate = 0.1\noutput_rate = 0.25',
                )
            )
        ) as proxy,
    ):
        await proxy.chat()
        reply = await proxy.get("/providers")
    (alpha,) = reply.json["providers"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", alpha.pop("resting_until"))
    rates = alpha.pop("rates")["gpt-4o"]
    assert (rates["input_rate"], rates["output_rate"]) == (0.1, 0.25)
    assert alpha == {
        "name": "alpha",
        "url": fake.url,
        "kind": "openai",
        "models": ["gpt-4o"],
        "key": "sk-can...***",
        "circuit": "closed",
        "resting_for": "rate_limit",
    }
    assert b"canary" not in reply.body
    assert b"password" not in reply.body


# ---- the socket


async def test_a_plain_chat_is_one_write_and_a_stream_one_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes: list[bytes] = []

    def keep(write: Callable[..., int]) -> Callable[..., int]:
        def kept(sock: object, data: bytes, behind: bytes) -> int:
            writes.append(data + behind)
            return write(sock, data, behind)

        return kept

    gates = [trio.Event() for _ in range(5)]
    events = hello("Hello there")
    steps = [step for pair in zip(events, gates, strict=False) for step in pair]
    async with (
        open_fake_provider([json_answer(completion()), stream([*steps, *events[5:]])]) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        monkeypatch.setattr(proxy.server, "write_now", keep(proxy.server.write_now))
        assert (await proxy.chat()).status == 200
        assert len(writes) == 1
        writes.clear()
        async with proxy.asking(stream=True) as client:
            for gate in gates:
                await quiet()
                gate.set()
            assert (await client.reply()).whole
    # The role waits for the first word; the usage nobody asked for is withheld; the end is one.
    told = [write.count(b"data: ") for write in writes]
    assert told == [2, 1, 1, 2]
    assert writes[0].startswith(b"HTTP/1.1 200")
    assert b"[DONE]" in writes[-1]


@pytest.mark.parametrize(
    ("statistics", "status"),
    [
        (LogStatistics(3, 0, 0, waits=10.0), "ok"),
        (LogStatistics(3, 0, 0, waits=10.1), "degraded"),
        (LogStatistics(0, 3, 0, damaged=True), "degraded"),
    ],
)
async def test_rows_that_wait_for_long_and_a_damaged_ledger_degrade_the_health(
    statistics: LogStatistics, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_proxy(config(provider("alpha", "http://127.0.0.1:9"))) as proxy:
        monkeypatch.setattr(proxy.log, "statistics", lambda: statistics)
        reply = await proxy.get("/health")
    assert (reply.status, reply.json["status"]) == (200, status)
    assert reply.json["log"].get("damaged", False) == statistics.damaged

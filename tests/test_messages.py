"""/v1/messages through the whole proxy: bytes, rows, headers, and errors in Anthropic's shape."""

import json
from decimal import Decimal
from typing import Any, Final

import pytest
from trio.testing import MockClock

from tests.cuttings import recorded
from tests.fakes import (
    SILENCE,
    FakeProvider,
    Play,
    error_answer,
    json_answer,
    open_fake_provider,
    stream,
)
from tests.proxy import KEY, Proxy, Reply, config, open_proxy, provider

RATES: Final = "cached_input_rate = 0.5\ncache_write_rate = 1.25"
"""Beside 1 sat for 1000 tokens of any other kind."""

COST: Final = Decimal("0.167")
"""Of 25 tokens of input, 12 read from a cache, 100 written to one, and 11 of output."""

ONE_TRY: Final = "[retry]\nmax_retries = 0"
BODY: Final[dict[str, Any]] = {
    "model": "gpt-4o",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}
PLAIN: Final[dict[str, Any]] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-3.5-sonnet",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 25,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 12,
        "output_tokens": 11,
    },
}
COUNT: Final = "/v1/messages/count_tokens?beta=true"
COUNTED: Final = json_answer({"input_tokens": 2095})
OVERLOADED: Final = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
}


def pieces(name: str) -> list[bytes]:
    """The events of a stream of the corpus, the last of them perhaps in part."""
    found = recorded(f"messages-{name}.sse").split(b"\n\n")
    return [piece + b"\n\n" for piece in found[:-1]] + [found[-1]] * bool(found[-1])


def streamed(name: str) -> Play:
    return stream(pieces(name))


def went_on(name: str) -> bytes:
    """What of it goes on before its end."""
    dropped = (b"event: ping", b"event: error", b"event: message_stop", b"event: cost")
    return b"".join(p for p in pieces(name) if p.endswith(b"\n\n") and not p.startswith(dropped))


def one(fake: FakeProvider, **settings: Any) -> str:
    return config(provider("alpha", fake.url, **{"more": RATES, **settings}), more=ONE_TRY)


def two(first: FakeProvider, second: FakeProvider, **settings: Any) -> str:
    return config(
        provider("alpha", first.url, rate=1, **settings),
        provider("beta", second.url, rate=2, **settings),
        more=ONE_TRY,
    )


async def ask(
    proxy: Proxy,
    *,
    path: str = "/v1/messages",
    method: str = "POST",
    headers: dict[str, str] | None = None,
    raw: bytes | None = None,
    **members: Any,
) -> Reply:
    body = json.dumps({**BODY, **members}).encode() if raw is None else raw
    async with proxy.client() as client:
        await client.send(method, path, body, headers)
        return await client.reply()


def last_data(reply: Reply) -> Any:
    return json.loads(reply.body.rpartition(b"data: ")[2])


# -- answers


async def test_a_plain_answer_and_its_row() -> None:
    async with (
        open_fake_provider(json_answer(PLAIN)) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        reply = await ask(proxy)
        record = await proxy.record()
    assert reply.status == 200
    assert reply.json == PLAIN
    assert reply.headers["x-arbstr-cost-sats"] == str(COST)
    assert reply.headers["request-id"] == reply.headers["x-arbstr-request-id"]
    assert (record.endpoint, record.status, record.cost_sats) == ("messages", "ok", COST)
    assert (record.input_tokens, record.cached_tokens, record.output_tokens) == (137, 12, 11)
    assert fake.requests[0].target == "/v1/messages"
    assert fake.requests[0].body == json.dumps(BODY).encode()


@pytest.mark.parametrize("name", ["text", "tools", "restated", "at-its-limit", "type-last"])
async def test_a_stream_to_the_byte_and_its_row(name: str) -> None:
    async with (
        open_fake_provider(streamed(name)) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        reply = await ask(proxy, stream=True)
        record = await proxy.record()
    came = went_on(name)
    assert reply.whole
    assert reply.body.startswith(came)
    end = reply.body[len(came) :]
    assert end.startswith(b"event: message_stop\ndata: ")
    assert end.count(b"\n\n") == 1
    last = last_data(reply)
    arbstr = last.pop("arbstr")
    assert last == {"type": "message_stop"}
    assert (arbstr["provider"], arbstr["cost_sats"]) == ("alpha", float(COST))
    assert (arbstr["input_tokens"], arbstr["output_tokens"]) == (137, 11)
    assert (record.endpoint, record.status, record.cost_sats) == ("messages", "ok", COST)
    assert reply.headers["request-id"] == reply.headers["x-request-id"]


async def test_what_a_node_charged_behind_the_end_is_the_cost() -> None:
    async with (
        open_fake_provider(streamed("routstr-whole")) as fake,
        open_proxy(one(fake, kind="routstr")) as proxy,
    ):
        reply = await ask(proxy, stream=True)
        record = await proxy.record()
    assert last_data(reply)["arbstr"]["cost_sats"] == 0.107
    assert (record.cost_sats, record.expected_sats) == (Decimal("0.107"), COST)
    assert b"event: cost" not in reply.body


async def test_an_answer_with_nothing_to_add_is_one() -> None:
    async with (
        open_fake_provider(
            [streamed("nothing-to-add"), json_answer({**PLAIN, "content": []})]
        ) as f,
        open_proxy(one(f)) as proxy,
    ):
        events = await ask(proxy, stream=True)
        plain = await ask(proxy)
        record = await proxy.record(2)
    assert events.body.startswith(went_on("nothing-to-add"))
    assert last_data(events)["type"] == "message_stop"
    assert plain.json["content"] == []
    assert record.status == "ok"


async def test_json_for_a_stream_becomes_one_and_a_stream_for_json_the_answer() -> None:
    async with (
        open_fake_provider([json_answer(PLAIN), streamed("text")]) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        events = await ask(proxy, stream=True)
        whole = await ask(proxy)
        record = await proxy.record(2)
    assert events.headers["content-type"] == "text/event-stream"
    assert b"event: content_block_delta\n" in events.body
    assert last_data(events)["arbstr"]["cost_sats"] == float(COST)
    assert whole.headers["content-type"] == "application/json"
    assert whole.json["usage"] == PLAIN["usage"]
    assert whole.json["content"][0]["text"].startswith("Caf\u00e9")
    assert record.cost_sats == COST


async def test_query_and_versions_go_along_and_no_key_of_the_callers() -> None:
    headers = {
        "x-api-key": "canary",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "context-management-2025-06-27",
        "x-stainless-lang": "js",
        "x-claude-code-session-id": "canary",
    }
    async with (
        open_fake_provider(json_answer(PLAIN)) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        await ask(proxy, path="/messages?beta=true", headers=headers)
    (request,) = fake.requests
    assert request.target == "/v1/messages?beta=true"
    assert request.header("anthropic-beta") == "context-management-2025-06-27"
    assert request.header("anthropic-version") == "2023-06-01"
    assert request.header("authorization") == "Bearer sk-test-0123456789abcdef"
    assert not {"x-api-key", "x-stainless-lang"} & {name.lower() for name, _ in request.headers}
    assert "canary" not in repr(request.headers)


async def test_a_key_may_go_out_as_anthropic_itself_wants_it() -> None:
    async with (
        open_fake_provider([json_answer(PLAIN), COUNTED]) as fake,
        open_proxy(one(fake, more='key_header = "x-api-key"')) as proxy,
    ):
        await ask(proxy)
        await ask(proxy, path=COUNT, headers={"x-api-key": "canary"})
    for request in fake.requests:
        assert request.header("x-api-key") == KEY
        assert request.header("authorization") is None


async def test_32_thousand_tokens_fit_the_budget_of_a_day() -> None:
    dear = config(
        provider("alpha", "{}", rate=30), more="[budget]\nsats_per_day = 1000\n" + ONE_TRY
    )
    async with (
        open_fake_provider(json_answer(PLAIN)) as fake,
        open_proxy(dear.replace("{}", fake.url)) as proxy,
    ):
        reply = await ask(proxy, max_tokens=32000)
    assert reply.status == 200


# -- failing over, and not


@pytest.mark.parametrize(
    "play",
    [
        streamed("error-at-once"),
        json_answer(OVERLOADED, 529),
        json_answer(OVERLOADED),
        error_answer(500),
    ],
)
async def test_before_output_another_provider_answers(play: Play) -> None:
    async with (
        open_fake_provider(play) as first,
        open_fake_provider(streamed("text")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        reply = await ask(proxy, stream=True)
        record = await proxy.record()
    assert reply.headers["x-arbstr-retries"] == "1/alpha"
    assert reply.body.startswith(went_on("text"))
    assert b"event: error" not in reply.body
    assert (record.status, record.provider, record.possibly_spent) == ("ok", "beta", 0)


@pytest.mark.parametrize(
    ("name", "broken", "charged"),
    [
        ("error", "broke its stream off with an error", None),
        ("cut", "ended its stream before the answer was complete", None),
        ("clean-end", "ended its stream before the answer was complete", None),
        ("routstr-cut", "ended its stream before the answer was complete", Decimal("0.041")),
    ],
)
async def test_after_output_it_ends_with_the_error_and_nobody_else_is_asked(
    name: str, broken: str, charged: Decimal | None
) -> None:
    async with (
        open_fake_provider(streamed(name)) as first,
        open_fake_provider(streamed("text")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        reply = await ask(proxy, stream=True)
        record = await proxy.record()
    end = reply.body.removeprefix(went_on(name))
    assert reply.whole
    error = last_data(reply)["error"]
    told = {"type": "error", "error": error, "request_id": reply.headers["request-id"]}
    assert end == b"event: error\ndata: %b\n\n" % json.dumps(told, separators=(",", ":")).encode()
    assert (error["type"], error["code"]) == ("api_error", "stream_interrupted")
    assert error["message"].startswith(f'The answer is not complete: provider "alpha" {broken}')
    assert record.status == "stream_incomplete"
    assert record.attempts[0].provider_cost_sats == charged
    assert second.hits == 0


# -- errors


async def test_every_refusal_is_in_anthropics_shape_with_its_id() -> None:
    locked = '[server]\nauth_token = "t-0123456789abcdef0123"\nmax_body_mb = 1\n'
    right = {"x-api-key": "t-0123456789abcdef0123"}
    asking: list[tuple[int, str, dict[str, Any]]] = [
        (403, "permission_error", {"headers": {**right, "origin": "https://evil.example"}}),
        (401, "authentication_error", {}),
        (401, "authentication_error", {"headers": {"x-api-key": "wrong"}}),
        (405, "invalid_request_error", {"headers": right, "method": "PUT"}),
        (413, "request_too_large", {"headers": right, "raw": b" " * 1_100_000}),
        (415, "invalid_request_error", {"headers": {**right, "content-encoding": "zstd"}}),
        (400, "invalid_request_error", {"headers": right, "raw": b"{"}),
        (400, "invalid_request_error", {"headers": right, "container": "c"}),
        (404, "not_found_error", {"headers": right, "model": "nonesuch"}),
    ]
    async with (
        open_fake_provider(json_answer(PLAIN)) as fake,
        open_proxy(config(provider("alpha", fake.url), more=locked)) as proxy,
    ):
        for status, type_, call in asking:
            reply = await ask(proxy, **call)
            assert (reply.status, reply.json["type"]) == (status, "error")
            assert reply.json["error"]["type"] == type_
            request_id = reply.headers["request-id"]
            assert reply.json["request_id"] == request_id == reply.headers["x-request-id"]
        assert fake.hits == 0
        assert (await ask(proxy, headers=right)).status == 200
        bearer = {"authorization": "Bearer t-0123456789abcdef0123"}
        assert (await ask(proxy, headers=bearer)).status == 200


async def test_a_providers_refusal_comes_in_anthropics_shape() -> None:
    refusal = {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens: too many"},
        "request_id": "theirs",
    }
    async with (
        open_fake_provider(json_answer(refusal, 400)) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        reply = await ask(proxy)
    assert (reply.status, reply.json["type"]) == (400, "error")
    assert reply.json["error"] == refusal["error"]
    assert reply.json["request_id"] == reply.headers["request-id"] != "theirs"
    assert reply.headers["x-should-retry"] == "false"


async def test_a_possibly_spent_one_says_so() -> None:
    async with (
        open_fake_provider(json_answer({})) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        reply = await ask(proxy)
        record = await proxy.record()
    assert (reply.status, reply.json["error"]["code"]) == (400, "possibly_spent")
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert record.possibly_spent == 1


# -- how many tokens it would have

REFUSED: Final = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "No"},
}


async def test_the_first_that_counts_is_asked_and_nothing_is_set_aside_or_written() -> None:
    renamed = '[providers.model_ids]\n"gpt-4o" = "v/g"'
    async with (
        open_fake_provider(error_answer(404)) as first,
        open_fake_provider(COUNTED) as second,
        open_proxy(
            config(
                provider("alpha", first.url, rate=1),
                provider("beta", second.url, rate=2, more=renamed),
                more="[budget]\nsats_per_day = 0\n",
            )
        ) as proxy,
    ):
        headers = {"anthropic-version": "2023-06-01", "x-api-key": "canary"}
        replies = [await ask(proxy, path=COUNT, headers=headers) for _ in range(2)]
        shown = {p["name"]: p for p in (await proxy.get("/providers")).json["providers"]}
        assert not proxy.log.offered
    for reply in replies:
        assert (reply.status, reply.json) == (200, {"input_tokens": 2095})
        assert reply.headers["x-arbstr-provider"] == "beta"
        assert reply.headers["request-id"] == reply.headers["x-request-id"]
    assert (first.hits, second.hits) == (1, 2), "that the path is not there is remembered"
    assert shown["alpha"]["missing_endpoints"] == {"count_tokens": None}
    assert shown["alpha"]["circuit"] == "closed"
    request = second.requests[0]
    assert request.target == COUNT
    assert request.json == {**BODY, "model": "v/g"}
    assert request.header("anthropic-version") == "2023-06-01"
    assert "canary" not in repr(request.headers)


async def test_where_nobody_counts_it_is_a_404_and_messages_are_served_all_the_same() -> None:
    def by_path(request: Any) -> Play:
        return error_answer(404) if "count" in request.path else json_answer(PLAIN)

    async with (
        open_fake_provider(by_path) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        for _ in range(2):
            reply = await ask(proxy, path=COUNT)
            assert (reply.status, reply.json["error"]["type"]) == (404, "not_found_error")
            assert "alpha does not serve it" in reply.json["error"]["message"]
        assert (await ask(proxy)).status == 200
    assert fake.hits == 2


@pytest.mark.parametrize(
    "charging",
    [
        json_answer({"input_tokens": 2095}, headers=[("x-routstr-cost-msats", "1500")]),
        json_answer({"input_tokens": 2095, "cost": {"total_msats": 1500}}),
        json_answer({"no": "count"}, headers=[("x-routstr-cost-msats", "1500")]),
    ],
    ids=["in a header", "in the answer", "without a count"],
)
async def test_who_charges_for_counting_is_asked_once_and_said_to(
    charging: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_fake_provider(charging) as first,
        open_fake_provider(COUNTED) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        replies = [await ask(proxy, path=COUNT) for _ in range(3)]
    assert [reply.json["input_tokens"] for reply in replies] == [2095] * 3
    assert (first.hits, replies[-1].headers["x-arbstr-provider"]) == (1, "beta")
    [said] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert 'provider "alpha" charges for counting tokens, 1.5 sats just now' in said.getMessage()


async def test_who_does_not_serve_messages_is_not_asked_to_count() -> None:
    async with (
        open_fake_provider(COUNTED) as fake,
        open_proxy(one(fake, more='endpoints = ["chat"]')) as proxy,
    ):
        reply = await ask(proxy, path=COUNT)
        at_the_door = await ask(proxy)
    assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
    assert (reply.json["error"]["type"], fake.hits) == ("not_found_error", 0)
    assert "alpha does not serve /v1/messages" in reply.json["error"]["message"]
    assert at_the_door.status == 400


async def test_what_fails_is_passed_over_and_a_refusal_is_the_clients() -> None:
    script = [
        error_answer(500),
        json_answer({"input_tokens": "many"}),
        json_answer(REFUSED, 400),
    ]
    async with (
        open_fake_provider(script) as first,
        open_fake_provider(COUNTED) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        replies = [await ask(proxy, path=COUNT) for _ in range(3)]
        assert not proxy.log.offered
    assert [reply.status for reply in replies] == [200, 200, 400]
    assert replies[2].json["error"] == REFUSED["error"]
    assert second.hits == 2


async def test_a_failure_of_all_is_not_to_be_asked_again() -> None:
    async with (
        open_fake_provider(error_answer(500)) as fake,
        open_proxy(one(fake)) as proxy,
    ):
        reply = await ask(proxy, path=COUNT)
    assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_error")
    assert reply.headers["x-should-retry"] == "false"


async def test_a_count_is_over_with_the_total(autojump_clock: MockClock) -> None:
    async with (
        open_fake_provider(SILENCE) as first,
        open_fake_provider(COUNTED) as second,
        open_proxy("[timeouts]\ntotal = 7\n" + two(first, second)) as proxy,
    ):
        reply = await ask(proxy, path=COUNT)
    assert (reply.status, second.hits) == (502, 0)
    assert "within 7 s" in reply.json["error"]["message"]


async def test_who_leaves_is_not_counted_for() -> None:
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(one(fake)) as proxy,
        proxy.asking(path=COUNT, body=json.dumps(BODY).encode()),
    ):
        await fake.wait_hits(1)


async def test_a_count_is_asked_for_as_a_message_is() -> None:
    rule = '[[policies.rules]]\nname = "other"\nallowed_models = ["gpt-9"]\n'
    locked = '[server]\nauth_token = "t-0123456789abcdef0123"\n' + rule
    right = {"x-api-key": "t-0123456789abcdef0123"}
    asking: list[tuple[int, str, dict[str, Any]]] = [
        (401, "invalid_token", {}),
        (405, "method_not_allowed", {"headers": right, "method": "GET"}),
        (400, "malformed_json", {"headers": right, "raw": b"{"}),
        (404, "model_not_found", {"headers": right, "model": "nonesuch"}),
        (400, "model_not_allowed", {"headers": {**right, "x-arbstr-policy": "other"}}),
    ]
    async with (
        open_fake_provider(COUNTED) as fake,
        open_proxy(config(provider("alpha", fake.url), more=locked)) as proxy,
    ):
        for status, code, call in asking:
            reply = await ask(proxy, path=COUNT, **call)
            assert (reply.status, reply.json["error"]["code"]) == (status, code)
            assert reply.json["type"] == "error"
        assert fake.hits == 0
        assert not proxy.log.offered
        plain = await ask(proxy, path="/messages/count_tokens", headers=right)
    assert plain.json == {"input_tokens": 2095}

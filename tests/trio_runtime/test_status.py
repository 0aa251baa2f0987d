"""What a chat would cost, and the model that is left to arbstr: POST /v1/cost beside real chats."""

import json
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.dialects.doors import DOORS
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.moments import parse_moment
from tests.fakes import (
    CLOSE_AFTER_REQUEST,
    FakeProvider,
    Play,
    by_name,
    completion,
    error_answer,
    hello,
    json_answer,
    open_fake_provider,
    stream,
    usage,
)
from tests.proxy import (
    ONE_TRY,
    STREAMED,
    Proxy,
    Reply,
    chat_body,
    config,
    open_proxy,
    pass_time,
    provider,
)

POLICIES: Final = """
[[policies.rules]]
name = "any"

[[policies.rules]]
name = "code"
allowed_models = ["gpt-4o"]
keywords = ["code"]

[[policies.rules]]
name = "thrifty"
max_sats_per_request = 0.5
"""


async def ask_cost(
    proxy: Proxy, *, path: str = "/v1/cost", policy: str | None = None, **members: object
) -> Reply:
    headers = {} if policy is None else {"x-arbstr-policy": policy}
    async with proxy.client() as client:
        await client.send("POST", path, chat_body(**members), headers)
        return await client.reply()


async def cost(proxy: Proxy, **members: Any) -> Any:
    reply = await ask_cost(proxy, **members)
    assert reply.status == 200, reply.body
    return reply.json


# -- POST /v1/cost -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/cost", "/cost"])
async def test_the_cost_of_a_chat_is_told_without_sending_it(path: str) -> None:
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(
            config(
                provider("dear", fake.url, rate=20),
                provider("cheap", fake.url, rate=10),
                '[[providers]]\nname = "unpriced"\nurl = "http://127.0.0.1:9"\nmodels = ["*"]\n',
                more='[[policies.rules]]\nname = "capped"\nmax_sats_per_1k_output = 15',
            )
        ) as proxy,
    ):
        reply = await ask_cost(proxy, path=path, max_tokens=97, n=2)
        assert reply.json == {
            "policy": None,
            "model": "gpt-4o",
            "strategy": "cheapest",
            "candidates": [
                candidate("cheap", 1.97),
                candidate("dear", 3.94),
                candidate("unpriced", None),
            ],
            "passed_over": [],
            "token_ratio": {
                "avg_ratio": None,
                "sample_count": 0,
                "used": False,
                "used_from": 20,
            },
        }
        assert reply.headers["content-type"] == "application/json"
        assert "x-arbstr-policy" not in reply.headers
        assert reply.headers["x-arbstr-request-id"]
        capped = await ask_cost(proxy, path=path, policy="capped", max_tokens=97, n=2)
        assert capped.headers["x-arbstr-policy"] == capped.json["policy"] == "capped"
        assert capped.json["candidates"] == [candidate("cheap", 1.97)]
        assert capped.json["passed_over"] == [
            {
                "provider": "dear",
                "model": "gpt-4o",
                "why": "asks 20 sats per 1000 output tokens, over 15",
            },
            {
                "provider": "unpriced",
                "model": "gpt-4o",
                "why": "has no rates, so it cannot be held to a cap",
            },
        ]
        assert fake.requests == []
        assert proxy.log.offered == []


def candidate(name: str, sats: float | None) -> dict[str, object]:
    return {
        "provider": name,
        "model": "gpt-4o",
        "estimated": {"input_tokens": 3, "output_tokens": 194},
        "estimated_cost_sats": sats,
        "set_aside": {
            "output_tokens": 194,
            "cost_sats": sats,
            "hold": "likely",
            "answers": 0,
            "because": "the request allows 97 tokens of output in each of 2 choices",
        },
        "first_output_ms": None,
        "circuit": "closed",
        "resting_until": None,
    }


@pytest.mark.parametrize(
    ("body", "policy", "rows"),
    [
        pytest.param(b"", None, 0, id="no body"),
        pytest.param(b"[]", None, 0, id="not an object"),
        pytest.param(b'{"model": "gpt-4o"}', None, 0, id="no messages"),
        pytest.param(
            b'{"model": "m", "model": "m", "messages": []}', None, 0, id="a double member"
        ),
        pytest.param(chat_body(model="gpt-5"), None, 1, id="a model nobody serves"),
        pytest.param(chat_body(), "no such", 1, id="a policy that is not there"),
        pytest.param(chat_body(model="other"), "code", 1, id="a model the policy does not allow"),
        pytest.param(chat_body(model="auto"), None, 1, id="auto without a policy"),
        pytest.param(chat_body(max_tokens=498), "thrifty", 1, id="over the cap on a request"),
    ],
)
async def test_what_is_refused_as_a_chat_is_refused_alike(
    body: bytes, policy: str | None, rows: int
) -> None:
    headers = {} if policy is None else {"x-arbstr-policy": policy}
    url = "http://127.0.0.1:9"
    tables = provider("first", url), provider("second", url, models="other")
    async with open_proxy(config(*tables, more=POLICIES)) as proxy, proxy.client() as client:
        told = []
        for path in ("/v1/chat/completions", "/v1/cost"):
            await client.send("POST", path, body, headers)
            reply = await client.reply()
            told.append((reply.status, reply.json, reply.headers.get("x-arbstr-policy")))
        assert told[0] == told[1]
        assert 400 <= told[0][0] < 500
        assert len(proxy.log.offered) == rows, "of the chat alone"


async def test_the_cost_is_asked_for_with_post() -> None:
    async with open_proxy(config(provider("first", "http://127.0.0.1:9"))) as proxy:
        reply = await proxy.get("/v1/cost")
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


async def test_circuits_and_rests_are_shown_beside_the_price() -> None:
    async with (
        open_fake_provider([CLOSE_AFTER_REQUEST, error_answer(429)]) as fake,
        open_proxy(
            config(provider("first", fake.url), more=ONE_TRY + "[breaker]\nfailures = 1")
        ) as proxy,
    ):
        await proxy.chat()
        (shown,) = (await cost(proxy))["candidates"]
        assert (shown["circuit"], shown["resting_until"]) == ("open", None)
    async with (
        open_fake_provider(error_answer(429)) as fake,
        open_proxy(config(provider("first", fake.url))) as proxy,
    ):
        await proxy.chat()
        (shown,) = (await cost(proxy))["candidates"]
        assert shown["circuit"] == "closed"
        assert shown["resting_until"].endswith("Z")


# -- what was learnt -----------------------------------------------------------------------------


async def test_from_twenty_answers_on_the_estimate_is_what_was_learnt() -> None:
    answers = json_answer(completion(usage=usage(10, 40)))
    async with (
        open_fake_provider(answers) as fake,
        open_proxy(config(provider("first", fake.url), more=POLICIES)) as proxy,
    ):
        for n in range(19):
            await proxy.chat(messages=[{"role": "user", "content": "code"}], n=2)
            await proxy.record(n + 1)
        said: dict[str, Any] = {"messages": [{"role": "user", "content": "code " * 80}]}
        before = await cost(proxy, **said)
        assert before["candidates"][0]["estimated"]["output_tokens"] == 256
        assert before["token_ratio"]["sample_count"] == 19
        await proxy.chat(messages=[{"role": "user", "content": "code"}], n=2)
        await proxy.record(20)
        after = await cost(proxy, **said)
        # Two tokens a choice for each token of input: 40 by 10 by 2.
        assert after["candidates"][0]["estimated"] == {"input_tokens": 100, "output_tokens": 200}
        assert after["candidates"][0]["estimated_cost_sats"] == 0.3
        assert after["token_ratio"] == {
            "avg_ratio": 2.0,
            "sample_count": 20,
            "used": True,
            "used_from": 20,
        }
        limited = await cost(proxy, **said, max_tokens=30, n=3)
        assert limited["candidates"][0]["estimated"]["output_tokens"] == 90
        assert (await cost(proxy))["token_ratio"]["sample_count"] == 0, "without a policy"


@pytest.mark.parametrize(
    "play",
    [
        pytest.param(json_answer(completion(usage=None)), id="no usage"),
        pytest.param(json_answer(completion(usage=usage(1, 10**6))), id="absurd"),
        pytest.param(json_answer(completion(usage=usage(0, 0))), id="nothing"),
        pytest.param(error_answer(400), id="no answer"),
        pytest.param(stream(hello()[:-2], ending="fin"), id="half an answer"),
    ],
)
async def test_what_is_no_whole_and_counted_answer_teaches_nothing(play: Play) -> None:
    async with (
        open_fake_provider(play) as fake,
        open_proxy(config(provider("first", fake.url))) as proxy,
    ):
        await proxy.chat(stream=True)
        record = await proxy.record()
        assert record.token_ratio is None
        assert (await cost(proxy))["token_ratio"]["sample_count"] == 0


# -- lowest_latency ------------------------------------------------------------------------------

FASTEST: Final = '[policies]\ndefault_strategy = "lowest_latency"\n'


async def answered_by(proxy: Proxy, clock: MockClock, *, streaming: bool) -> str:
    """Who answers, while time passes only for as long as somebody waits."""
    found: list[Reply] = []

    async def ask() -> None:
        found.append(await proxy.chat(stream=streaming))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await pass_time(clock, 10, until=lambda: bool(found))
    return found[0].headers["x-arbstr-provider"]


@pytest.mark.parametrize("streaming", [True, False], ids=["streams", "plain answers"])
async def test_who_answers_soonest_is_asked_once_all_were_measured(
    mock_clock: MockClock, streaming: bool
) -> None:
    late, soon = (
        stream(hello(), before=[seconds])
        if streaming
        else json_answer(completion(), before=[seconds])
        for seconds in (2.0, 1.0)
    )
    async with (
        open_fake_provider(late) as slow,
        open_fake_provider(soon) as fast,
        open_proxy(
            config(provider("slow", slow.url), provider("fast", fast.url, rate=9), more=FASTEST)
        ) as proxy,
    ):
        order = [await answered_by(proxy, mock_clock, streaming=streaming) for _ in range(4)]
        assert order == ["slow", "fast", "fast", "fast"], "the unmeasured first, by cost"
        quoted = await cost(proxy)
        assert quoted["strategy"] == "lowest_latency"
        times = {one["provider"]: one["first_output_ms"] for one in quoted["candidates"]}
        assert list(times) == ["fast", "slow"]
        assert 1000 <= times["fast"] < 1200
        assert 2000 <= times["slow"] < 2200


async def test_a_provider_that_a_reload_replaces_is_measured_anew() -> None:
    tables = provider("kept", "http://127.0.0.1:9"), provider("other", "http://127.0.0.1:9")
    async with open_proxy(config(*tables)) as proxy:
        for name in ("kept", "other"):
            proxy.hub.learn_latency(name, 1.5, stream=True)
        proxy.hub.adopt(proxy.hub.snapshot, kept=["kept"])
        quoted = await cost(proxy)
        times = {one["provider"]: one["first_output_ms"] for one in quoted["candidates"]}
        assert times == {"kept": 1500, "other": None}


# -- auto ----------------------------------------------------------------------------------------


def market(fake: FakeProvider, *, more: str = POLICIES) -> str:
    """One endpoint with three models at three prices."""
    models = "".join(
        f'[providers.model_rates."{model}"]\ninput_rate = {rate}\noutput_rate = {rate}\n'
        for model, rate in (("fake-ok", 5), ("fake-503", 1), ("fake-404", 2))
    )
    ids = '[providers.model_ids]\n"fake-ok" = "fake-usage-7-3"\n'
    return config(
        provider(
            "market", fake.url, rate=99, models='fake-ok", "fake-503", "fake-404', more=models + ids
        ),
        more=more + ONE_TRY,
    )


@STREAMED
async def test_auto_goes_to_the_cheapest_model_that_answers(streaming: bool) -> None:
    async with open_fake_provider(by_name) as fake, open_proxy(market(fake)) as proxy:
        reply = await proxy.chat(
            model="auto", stream=streaming, headers={"x-arbstr-policy": "any"}, temperature=0.5
        )
        assert reply.text == "Hello there"
        assert reply.headers["x-arbstr-model"] == "fake-ok"
        assert reply.headers["x-arbstr-policy"] == "any"
        assert reply.headers["x-arbstr-retries"] == "2/market"
        asked = [json.loads(request.body)["model"] for request in fake.requests]
        assert asked == ["fake-503", "fake-404", "fake-usage-7-3"]
        body = chat_body(model="fake-usage-7-3", stream=False, temperature=0.5)
        if not streaming:
            assert fake.requests[-1].body == body, "only that member is edited"
            assert float(reply.headers["x-arbstr-cost-sats"]) == 0.05
        else:
            assert reply.trailer["model"] == "fake-ok"
        record = await proxy.record()
        assert (record.model, record.requested_model) == ("fake-ok", "auto")
        assert [attempt.model for attempt in record.attempts] == [
            "fake-503",
            "fake-404",
            "fake-ok",
        ]


async def test_only_who_leaves_the_model_to_arbstr_is_told_which_it_was() -> None:
    async with open_fake_provider(by_name) as fake, open_proxy(market(fake)) as proxy:
        reply = await proxy.chat(model="fake-ok")
        assert reply.status == 200
        assert "x-arbstr-model" not in reply.headers


async def test_auto_without_a_policy_has_a_row_and_no_upstream() -> None:
    async with open_fake_provider(by_name) as fake, open_proxy(market(fake)) as proxy:
        reply = await proxy.chat(model="auto")
        assert (reply.status, reply.error["code"]) == (400, "auto_needs_policy")
        record = await proxy.record()
        assert (record.status, record.model, record.requested_model) == ("rejected", "auto", "auto")
        assert fake.requests == []


async def test_auto_is_a_model_once_there_is_a_policy() -> None:
    table = provider("first", "http://127.0.0.1:9", models="*")
    async with open_proxy(config(table, more=POLICIES)) as proxy:
        listed = (await proxy.get("/v1/models")).json["data"]
        assert [(model["id"], model["owned_by"]) for model in listed] == [("auto", "arbstr")]
        assert (await proxy.get("/v1/models/auto")).json == listed[0]
    async with open_proxy(config(table)) as proxy:
        assert (await proxy.get("/v1/models")).json["data"] == []
        assert (await proxy.get("/v1/models/auto")).status == 404


RULE: Final = '[[policies.rules]]\nname = "r"\n'


@pytest.mark.parametrize(
    ("rules", "works"),
    [
        (RULE, True),
        (RULE + 'allowed_models = ["gpt-4o"]\n', True),
        (RULE + 'allowed_models = ["gpt-4o"]\nmax_sats_per_1k_output = 1\n', True),
        (RULE + 'allowed_models = ["nobody-s"]\n', False),
        (RULE + "max_sats_per_1k_output = 0.5\n", False),
        (RULE + 'allowed_models = ["nobody-s"]\n' + RULE.replace('"r"', '"s"'), True),
        (RULE + 'allowed_models = ["unpriced"]\nmax_sats_per_request = 5\n', False),
        (RULE + 'allowed_models = ["unpriced"]\n', True),
    ],
)
async def test_auto_is_listed_where_somebody_would_be_asked(rules: str, works: bool) -> None:
    names = ["r", "s"][: rules.count("[[")]
    tables = (
        provider("priced", "http://127.0.0.1:9", models="gpt-4o"),
        '[[providers]]\nname = "other"\nurl = "http://127.0.0.1:9"\nmodels = ["unpriced"]\n',
    )
    async with open_proxy(config(*tables, more=rules)) as proxy:
        listed = [model["id"] for model in (await proxy.get("/v1/models")).json["data"]]
        assert ("auto" in listed) is works
        assert (await proxy.get("/v1/models/auto")).status == (200 if works else 404)
        quoted = [(await ask_cost(proxy, policy=name, model="auto")).status for name in names]
        assert (200 in quoted) is works


# -- max_sats_per_request ------------------------------------------------------------------------

CAPPED: Final = ONE_TRY + '[[policies.rules]]\nname = "capped"\nmax_sats_per_request = {cap}\n'


async def test_who_could_cost_more_than_the_cap_is_not_asked_when_the_others_fail() -> None:
    async with (
        open_fake_provider(error_answer(503)) as failing,
        open_fake_provider(json_answer(completion())) as dear,
        open_proxy(
            config(
                provider("failing", failing.url),
                provider("dear", dear.url, rate=2),
                more=CAPPED.format(cap=0.3),
            )
        ) as proxy,
    ):
        reply = await proxy.chat(headers={"x-arbstr-policy": "capped"}, max_tokens=256)
        assert (reply.status, reply.error["code"]) == (502, "upstream_error")
        assert len(failing.requests) == 1
        assert dear.requests == []


@pytest.mark.parametrize(("cap", "answers"), [(0.8, True), (0.7, False)])
async def test_with_consent_the_cap_holds_for_all_attempts_that_may_cost(
    cap: float, answers: bool
) -> None:
    headers = {"x-arbstr-policy": "capped", "x-arbstr-respend": "allow"}
    async with (
        open_fake_provider(CLOSE_AFTER_REQUEST) as cheap,
        open_fake_provider(json_answer(completion())) as dear,
        open_proxy(
            config(
                provider("cheap", cheap.url),  # 0.259 sats
                provider("dear", dear.url, rate=2),  # 0.518 sats
                more=CAPPED.format(cap=cap),
            )
        ) as proxy,
    ):
        reply = await proxy.chat(headers=headers, max_tokens=256)
        assert len(dear.requests) == answers
        if answers:
            assert reply.status == 200
        else:
            assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
            assert (
                "dear was not asked: all in all it could cost 0.777 sats, over 0.7"
                in (reply.error["message"])
            )


async def test_models_serve_the_clients_of_both_lists_and_tell_prices_and_apis() -> None:
    only_chat = 'endpoints = ["chat"]'
    text = config(
        provider("dear", "http://127.0.0.1:9", rate=20),
        provider("cheap", "http://127.0.0.1:9", rate=10, more=only_chat),
        provider("alone", "http://127.0.0.1:9", models="gpt-5", more=only_chat),
    )
    async with open_proxy(text) as proxy:
        listed = (await proxy.get("/v1/models")).json
        shown = {each["name"]: each for each in (await proxy.get("/providers")).json["providers"]}
    four, five = listed["data"]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "gpt-4o", "gpt-5")
    assert (four["owned_by"], four["rates"]["input_rate"]) == ("cheap", 10)
    assert four["endpoints"] == list(ENDPOINTS)
    assert five["endpoints"] == ["chat"]
    assert parse_moment(four["created_at"]) == four["created"] * 1000
    assert shown["cheap"]["endpoints"] == ["chat"]
    assert "endpoints" not in shown["dear"]


async def test_the_price_of_any_model_is_told_beside_those_of_their_own() -> None:
    own = '[providers.model_rates."gpt-5"]\noutput_rate = 2'
    text = config(provider("any", "http://127.0.0.1:9", rate=7, models="*", more=own))
    async with open_proxy(text) as proxy:
        (shown,) = (await proxy.get("/providers")).json["providers"]
        listed = (await proxy.get("/v1/models")).json["data"]
    assert {model: rates["output_rate"] for model, rates in shown["rates"].items()} == {
        "*": 7,
        "gpt-5": 2,
    }
    assert [model["id"] for model in listed] == ["gpt-5"]


@pytest.mark.parametrize(
    ("query", "members", "door"),
    [
        ("", {"input": "x" * 40}, "responses"),
        ("", {"input": ["x" * 40]}, "embeddings"),
        ("", {"prompt": "x" * 40}, "completions"),
        ("?endpoint=embeddings", {"input": "x" * 40}, "embeddings"),
        ("?endpoint=responses", {"input": []}, "responses"),
    ],
)
async def test_the_cost_of_a_request_of_any_door_is_told(
    query: str, members: dict[str, Any], door: str
) -> None:
    body = json.dumps({"model": "gpt-4o", **members}).encode()
    text = config(
        provider("alpha", "http://127.0.0.1:9", rate=10),
        provider("beta", "http://127.0.0.1:9", rate=1, more='endpoints = ["chat"]'),
    )
    async with open_proxy(text) as proxy, proxy.client() as client:
        await client.send("POST", f"/v1/cost{query}", body)
        told = (await client.reply()).json
    assert told["endpoint"] == door
    assert [each["provider"] for each in told["candidates"]] == ["alpha"]
    path = DOORS[door].path
    assert told["passed_over"] == [
        {"provider": "beta", "model": "gpt-4o", "why": f"does not serve /v1{path}"}
    ]
    tokens = told["candidates"][0]["estimated"]
    assert tokens["input_tokens"] == (10 if members != {"input": []} else 1)
    assert (tokens["output_tokens"] == 0) == (door == "embeddings")

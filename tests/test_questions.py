"""The routes of the ledger, as a client asks them over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from arbstr.sansio.ledger.reports import REQUESTS_PARAMETERS, STATS_PARAMETERS
from tests.fakes import completion, json_answer, open_fake_provider
from tests.ledgers import attempt, request, write_ledger
from tests.process import arbstr_process
from tests.proxy import Proxy, config, open_proxy, provider

RULE = '[[policies.rules]]\nname = "code"\nkeywords = ["code"]\n'
NOTHING_ELSE = config(provider("alpha", "http://127.0.0.1:9"), more=RULE)

SPAN = "since=2026-02-03&until=2026-02-04"

LOST = attempt(provider="beta", failure="no_answer", money="unknown", http_status=None)
ROWS = [
    request("one", policy="code", tries=[attempt()]),
    request("two", streaming=1, ttft_ms=300, cost_sats=0.25, tries=[LOST, attempt(cost_sats=0.25)]),
    request("three", status="rejected", provider=None, cost_sats=None, latency_ms=1),
]


@asynccontextmanager
async def asked(tmp_path: Path) -> AsyncIterator[Proxy]:
    """A proxy whose ledger has three rows."""
    path = write_ledger(tmp_path / "arbstr.db", ROWS)
    async with open_proxy(NOTHING_ELSE, database=path) as proxy:
        yield proxy


async def test_what_was_spent_is_one_request_away(tmp_path: Path) -> None:
    async with asked(tmp_path) as proxy:
        reply = await proxy.get(f"/v1/stats?{SPAN}&policy=code&group_by=provider")
        without_prefix = await proxy.get(f"/stats?{SPAN}&policy=code&group_by=provider")
        everything = (await proxy.get(f"/v1/stats?{SPAN}")).json
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-arbstr-request-id"] == reply.headers["x-request-id"]
    assert reply.json == without_prefix.json
    assert reply.json["costs"]["total_cost_sats"] == 0.125
    assert [group["provider"] for group in reply.json["groups"]] == ["alpha"]
    assert list(everything) == ["since", "until", "counts", "costs", "performance"]
    assert everything["since"] == "2026-02-03T00:00:00.000Z"
    assert everything["until"] == "2026-02-04T00:00:00.000Z"
    assert everything["counts"] == {
        "total": 3,
        "success": 2,
        "error": 0,
        "rejected": 1,
        "client_disconnected": 0,
        "in_flight": 0,
        "streaming": 1,
        "unknown_cost": 0,
        "joined": 0,
        "possibly_spent_attempts": 1,
    }
    assert everything["costs"] == {
        "total_cost_sats": 0.375,
        "possibly_spent_sats": 0.5,
        "total_input_tokens": 30,
        "total_output_tokens": 15,
    }
    assert everything["performance"] == {
        "avg_latency_ms": 1200,
        "p50_latency_ms": 1200,
        "p95_latency_ms": 1200,
        "avg_ttft_ms": 300,
    }


async def test_rows_come_in_pages_and_one_by_its_id(tmp_path: Path) -> None:
    async with asked(tmp_path) as proxy:
        reply = await proxy.get(f"/v1/requests?{SPAN}&per_page=2&order=asc")
        one = await proxy.get("/v1/requests/two")
        same = await proxy.get("/requests/two")
        beyond = await proxy.get(f"/v1/requests?{SPAN}&page={10**30}")
        unknown = await proxy.get("/v1/requests/four")
    page = reply.json
    assert [row["correlation_id"] for row in page.pop("data")] == ["one", "two"]
    assert page == {
        "page": 1,
        "per_page": 2,
        "total": 3,
        "total_pages": 2,
        "since": "2026-02-03T00:00:00.000Z",
        "until": "2026-02-04T00:00:00.000Z",
    }
    assert [(row["provider"], row["money"]) for row in one.json["attempts"]] == [
        ("beta", "unknown"),
        ("alpha", "spent"),
    ]
    assert same.json == one.json
    assert (beyond.status, beyond.json["data"], beyond.json["total"]) == (200, [], 3)
    assert (unknown.status, unknown.error["code"]) == (404, "request_not_found")


async def test_a_chat_is_in_the_figures_a_moment_later(tmp_path: Path) -> None:
    async with (
        open_fake_provider([json_answer(completion())]) as fake,
        open_proxy(config(provider("alpha", fake.url)), database=tmp_path / "arbstr.db") as proxy,
    ):
        reply = await proxy.chat()
        path = f"/v1/requests/{reply.headers['x-arbstr-request-id']}"
        row = await proxy.get(path)
        while row.status == 404 or row.json["status"] == "in_flight":
            row = await proxy.get(path)
        stats = await proxy.get("/v1/stats?range=last_1h")
    assert row.json["status"] == "ok"
    assert stats.json["counts"]["total"] == stats.json["counts"]["success"] == 1
    cost = float(reply.headers["x-arbstr-cost-sats"])
    assert row.json["cost"]["cost_sats"] == stats.json["costs"]["total_cost_sats"] == cost


def escaped(**parameters: str) -> str:
    return urlencode({"since": "2026-02-03", "until": "2026-02-04", **parameters})


WRONG = {
    "an unknown parameter": ("stats", escaped(modell="m"), 400, STATS_PARAMETERS),
    "an unknown parameter of requests": ("requests", escaped(x=""), 400, REQUESTS_PARAMETERS),
    "a parameter of the other route": ("stats", escaped(page="1"), 400, STATS_PARAMETERS),
    "an empty value": ("stats", escaped(model=""), 400, ("model",)),
    "a second value": ("stats", "model=a&model=b", 400, ("model", "more than once")),
    "a range": ("stats", "range=week", 400, ("last_1h", "last_24h", "last_7d", "last_30d")),
    "a time": ("stats", "since=tuesday", 400, ("2026-02-03T04:05:06Z",)),
    "a group": ("stats", escaped(group_by="year"), 400, ("model", "provider", "day", "hour")),
    "a sort": ("requests", escaped(sort="id"), 400, ("timestamp", "cost_sats", "latency_ms")),
    "an order": ("requests", escaped(order="up"), 400, ("asc", "desc")),
    "a status": ("requests", escaped(status="done"), 400, ("ok", "abandoned", "in_flight")),
    "a truth": ("requests", escaped(success="1"), 400, ("true", "false")),
    "a page": ("requests", escaped(page="0"), 400, ("from 1",)),
    "a page's length": ("requests", escaped(per_page="101"), 400, ("from 1 to 100",)),
    "a model": ("stats", escaped(model="m"), 404, ('"gpt-4o"',)),
    "a model of requests": ("requests", escaped(model="m"), 404, ('"gpt-4o"',)),
    "a provider": ("stats", escaped(provider="p"), 404, ('"alpha"', '"beta"')),
    "a policy": ("stats", escaped(policy="p"), 400, ('"code"',)),
}


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_every_bad_parameter_is_refused_with_what_would_do(
    prefix: str, tmp_path: Path
) -> None:
    async with asked(tmp_path) as proxy:
        for what, (route, query, status, valid) in WRONG.items():
            reply = await proxy.get(f"{prefix}/{route}?{query}")
            assert reply.status == status, what
            assert reply.error["type"] == "invalid_request_error"
            assert all(word in reply.error["message"] for word in valid), reply.error


INJECTIONS = (
    "1; DROP TABLE requests; --",
    "' OR '1'='1",
    '" OR "1"="1',
    "model) UNION SELECT sql FROM sqlite_master --",
    "{key}",
    ":since",
    "\x00",
    "%' OR 1 --",
    "(SELECT 1)",
    "\N{FULLWIDTH APOSTROPHE} OR 1=1",
)


async def test_no_value_reaches_the_statement_it_is_for(tmp_path: Path) -> None:
    async with asked(tmp_path) as proxy:
        before = await everything(proxy)
        for injection in INJECTIONS:
            for route, names in (("stats", STATS_PARAMETERS), ("requests", REQUESTS_PARAMETERS)):
                for name in names:
                    reply = await proxy.get(f"/v1/{route}?{name}={quote(injection)}")
                    assert reply.status in (400, 404), (name, injection)
            reply = await proxy.get(f"/v1/requests/{quote(injection, safe='')}")
            assert reply.status == 404
        assert await everything(proxy) == before


async def everything(proxy: Proxy) -> tuple[Any, Any]:
    stats = await proxy.get(f"/v1/stats?{SPAN}&group_by=model")
    requests = await proxy.get(f"/v1/requests?{SPAN}")
    return stats.json, requests.json


async def test_only_get_and_head_ask(tmp_path: Path) -> None:
    async with asked(tmp_path) as proxy, proxy.client() as client:
        for path in ("/v1/stats", "/v1/requests", "/v1/requests/one"):
            await client.send("HEAD", path)
            assert (await client.head())[0] == 200
            assert await client.rest() == (b"", True)
            await client.send("POST", path)
            reply = await client.reply()
            assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")


async def test_the_token_is_asked_for_here_too(tmp_path: Path) -> None:
    text = config(provider("alpha", "http://127.0.0.1:9"), more='[server]\nauth_token = "let-me"\n')
    async with open_proxy(text, database=tmp_path / "arbstr.db") as proxy:
        for path in ("/v1/stats", "/stats", "/v1/requests", "/v1/requests/one"):
            assert (await proxy.get(path)).status == 401
        reply = await proxy.get("/v1/stats", {"authorization": "Bearer let-me"})
        assert reply.status == 200


def test_the_database_of_the_mock_answers_over_http() -> None:
    with arbstr_process(arguments=["--mock"]) as process:
        request_id = process.chat("gpt-4o").headers["x-arbstr-request-id"]
        while (row := process.ask("GET", f"/v1/requests/{request_id}")).status_code == 404:
            pass
        assert row.json()["provider"] == "mock-cheap"
        stats = process.ask("GET", "/v1/stats?model=gpt-4o&group_by=day").json()
        assert stats["counts"]["total"] == len(stats["groups"]) == 1
        assert process.stop() == 0

"""A door of the tests' own through the whole proxy: nothing in it knows what a chat is."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from arbstr.trio_runtime.app import ROUTES
from tests.fakes import FakeProvider, Play, Script, answer, json_answer, open_fake_provider, stream
from tests.proxy import Proxy, Reply, config, open_proxy, pass_time, provider
from tests.toy import TOY, WORD

DOORS: Final = {**ROUTES, "/v1/toys": TOY}

WORDS: Final = (WORD + b'"Hello"}\n\n', WORD + b'" you"}\n\n', WORD + b'"."}\n\n')
END: Final = b'event: end\ndata: {"used": [3, 2]}\n\n'
WHOLE: Final[Mapping[str, object]] = {"words": ["Hello", " you", "."], "used": [3, 2]}
OOPS: Final = b'event: oops\ndata: {"oops": "stream_interrupted"}\n\n'
ASLEEP: Final = json_answer({"oops": "asleep"})

QUICK: Final = "[retry]\nbackoff = 0.001\n"
LOCKED: Final = '[server]\nauth_token = "token-0123456789abcdef0123"\nmax_body_mb = 1\n'


@asynccontextmanager
async def played(
    *scripts: Script, more: str = QUICK, kind: str = "openai"
) -> AsyncIterator[tuple[Proxy, list[FakeProvider]]]:
    """arbstr with a toy's door, and a provider for each script, the cheapest first."""
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(open_fake_provider(one)) for one in scripts]
        providers = [
            provider(
                f"p{n}",
                fake.url,
                rate=1000 * n,
                kind=kind,
                models="bear",
                more=f'model_ids = {{bear = "ted{n}"}}',
            )
            for n, fake in enumerate(fakes, start=1)
        ]
        proxy = await stack.enter_async_context(
            open_proxy(config(*providers, more=more), routes=DOORS)
        )
        yield proxy, fakes


def talk(**members: object) -> bytes:
    return json.dumps({"toy": "bear", "say": "well well well", **members}).encode()


async def asked(
    proxy: Proxy,
    *,
    method: str = "POST",
    path: str = "/v1/toys",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    **members: object,
) -> Reply:
    async with proxy.client() as client:
        await client.send(method, path, talk(**members) if body is None else body, headers)
        return await client.reply()


def ended(reply: Reply) -> Any:
    """The data of the last event, which is the protocol's own."""
    name, _, data = reply.body.split(b"\n\n")[-2].partition(b"\n")
    assert name == b"event: end"
    return json.loads(data.removeprefix(b"data: "))


PLAYS: Final = {"as asked": json_answer(WHOLE), "the other way": stream([*WORDS, END])}


@pytest.mark.parametrize("script", PLAYS.values(), ids=PLAYS)
async def test_a_whole_answer(script: Play) -> None:
    async with played(script) as (proxy, [fake]):
        reply = await asked(proxy, path="/v1/toys?sort=soft", headers={"toy-age": "7"})
        record = await proxy.record()
    assert (reply.status, reply.json) == (200, WHOLE)
    assert reply.headers["x-arbstr-cost-sats"] == "5"
    request = fake.requests[0]
    assert (request.target, request.header("toy-age")) == ("/v1/toys?sort=soft", "7")
    assert request.json == {"toy": "ted1", "say": "well well well"}
    assert (record.status, record.input_tokens, record.output_tokens) == ("ok", 3, 2)


@pytest.mark.parametrize("script", [*PLAYS.values()][::-1], ids=PLAYS)
async def test_a_stream_ends_with_its_own_last_event_and_ours_in_it(script: Play) -> None:
    async with played(script) as (proxy, [fake]):
        reply = await asked(proxy, aloud=True)
        record = await proxy.record()
    assert reply.whole
    assert reply.body.startswith(b"".join(WORDS) + b"event: end\n")
    last = ended(reply)
    assert (last["used"], last["arbstr"]["cost_sats"]) == ([3, 2], 5)
    assert fake.requests[0].header("accept") == "text/event-stream"
    assert (record.status, record.input_tokens, record.output_tokens) == ("ok", 3, 2)


BILL: Final = b'event: bill\ndata: {"msats": 4321}\n\n'


async def test_what_a_node_says_behind_the_end_is_waited_for_and_told() -> None:
    gate = trio.Event()
    async with (
        played(stream([*WORDS, END, gate, BILL], ending="hang"), kind="routstr") as (proxy, _),
        proxy.client() as client,
    ):
        await client.send("POST", "/v1/toys", talk(aloud=True))
        await client.head()
        body = await client.until(b'"."')
        assert b"event: end" not in body
        gate.set()
        body, whole = await client.rest()
        record = await proxy.record()
    assert whole
    assert b"bill" not in body
    assert json.loads(body.rpartition(b"data: ")[2])["arbstr"]["cost_sats"] == 4.321
    assert record.cost_sats == Decimal("4.321")


async def test_it_is_waited_for_two_seconds_and_no_longer(mock_clock: MockClock) -> None:
    read: list[tuple[bytes, float]] = []
    async with (
        played(stream([*WORDS, END], ending="hang"), kind="routstr") as (proxy, _),
        proxy.asking(path="/v1/toys", body=talk(aloud=True)) as client,
        trio.open_nursery() as nursery,
    ):

        async def rest() -> None:
            await client.head()
            body, _ = await client.rest()
            read.append((body, trio.current_time()))

        began = trio.current_time()
        nursery.start_soon(rest)
        await pass_time(mock_clock, 5, until=lambda: bool(read), step=0.25)
        # The ledger waits on: a node is read for as long as a client that left would be.
        await pass_time(mock_clock, 90, until=lambda: proxy.log.final != [], step=0.5)
    ((body, ended_at),) = read
    assert 1.5 < ended_at - began < 3
    assert b"event: end" in body
    assert proxy.log.final[0].cost_sats == 5


async def test_a_broken_stream_ends_as_the_door_says() -> None:
    async with played(stream(WORDS[:2], ending="rst")) as (proxy, _):
        reply = await asked(proxy, aloud=True)
        record = await proxy.record()
    assert reply.body == b"".join(WORDS[:2]) + OOPS
    assert reply.whole, "this door's clients know the event"
    assert record.status == "stream_incomplete"


@pytest.mark.parametrize("aloud", [False, True])
async def test_another_provider_is_asked_where_one_fails(aloud: bool) -> None:
    said = stream([*WORDS, END]) if aloud else json_answer(WHOLE)
    async with played(ASLEEP, said) as (proxy, fakes):
        reply = await asked(proxy, aloud=aloud)
    assert (reply.status, reply.headers["x-arbstr-retries"]) == (200, "1/p1")
    assert [fake.requests[0].json["toy"] for fake in fakes] == ["ted1", "ted2"]


async def test_an_error_before_any_output_has_the_dress_of_the_door() -> None:
    async with played(answer(500)) as (proxy, _):
        reply = await asked(proxy, aloud=True)
    assert reply.json == {"oops": "upstream_error"}
    assert reply.headers["toy-id"] == reply.headers["x-request-id"]


async def test_silence_is_kept_as_the_door_says_and_an_error_after_it_is_an_event(
    mock_clock: MockClock,
) -> None:
    more = QUICK + "[stream]\nkeepalive = 1\n"
    async with (
        played(stream([3.5, *WORDS, END]), more=more) as (proxy, _),
        proxy.client() as client,
    ):
        await client.send("POST", "/v1/toys", talk(aloud=True))
        await pass_time(mock_clock, 30, until=lambda: proxy.log.final != [], step=0.25)
        body = (await client.reply()).body
    hummed = body.count(TOY.silence)
    assert hummed >= 2
    assert body.startswith(TOY.silence * hummed + b"".join(WORDS) + b"event: end\n")
    async with played(answer(500, before=[3.5]), more=more) as (proxy, _), proxy.client() as client:
        await client.send("POST", "/v1/toys", talk(aloud=True))
        await pass_time(mock_clock, 30, until=lambda: proxy.log.final != [], step=0.25)
        body = (await client.reply()).body
    hummed = body.count(TOY.silence)
    assert hummed >= 2
    assert body == TOY.silence * hummed + OOPS.replace(b"stream_interrupted", b"upstream_error")


REFUSED: Final[Mapping[str, tuple[int, str, dict[str, Any]]]] = {
    "a page": (403, "forbidden_origin", {"headers": {"origin": "https://evil.example"}}),
    "no token": (401, "invalid_token", {"headers": {}}),
    "another method": (405, "method_not_allowed", {"method": "PUT"}),
    "a large body": (413, "body_too_large", {"body": b" " * 1_100_000}),
    "a coded body": (415, "unsupported_media_type", {"coding": "zstd"}),
    "no JSON": (400, "malformed_json", {"body": b"bear!"}),
    "no such toy": (404, "model_not_found", {"toy": "cat"}),
}


@pytest.mark.parametrize(("status", "code", "asking"), REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_before_anybody_is_asked_is_so_in_the_dress_of_the_door(
    status: int, code: str, asking: dict[str, Any]
) -> None:
    headers = {"authorization": "Bearer token-0123456789abcdef0123"}
    if "coding" in asking:
        headers["content-encoding"] = asking["coding"]
        asking = {}
    async with played(json_answer(WHOLE), more=LOCKED) as (proxy, [fake]):
        reply = await asked(proxy, **{"headers": headers, **asking})
    assert (reply.status, reply.json) == (status, {"oops": code})
    assert reply.headers["toy-id"] == reply.headers["x-request-id"]
    assert not fake.requests


async def test_what_it_would_cost_is_asked_by_the_name_of_the_door() -> None:
    async with played(json_answer(WHOLE)) as (proxy, [fake]):
        reply = await asked(proxy, path="/v1/cost?endpoint=toy", most=7)
        unknown = await asked(proxy, path="/v1/cost?endpoint=doll")
    (candidate,) = reply.json["candidates"]
    assert candidate["estimated"] == {"input_tokens": 3, "output_tokens": 7}
    assert candidate["set_aside"]["output_tokens"] == 7
    assert unknown.error["code"] == "invalid_parameter"
    assert not fake.requests


async def test_a_chat_is_served_beside_it() -> None:
    async with played(json_answer(WHOLE)) as (proxy, _):
        reply = await proxy.chat(model="bear")
    assert reply.error["code"] == "possibly_spent", "what a toy says is no chat"

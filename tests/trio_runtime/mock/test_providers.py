"""The mock providers, over real sockets."""

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import httpx
import pytest
import trio
import trio.testing

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.dialects.dialect import Answer, Asked, Dialect
from arbstr.sansio.dialects.doors import DOORS
from arbstr.sansio.dialects.relay import Relay
from arbstr.trio_runtime.mock.providers import MOCK_CONFIG, open_mock_providers

HI: Mapping[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi there"}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


def events_of(body: bytes) -> list[Any]:
    """The JSON of every event before the final [DONE]."""
    *events, done, rest = body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


async def chat(url: str, **members: object) -> httpx.Response:
    body = json.dumps({**HI, **members})
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{url}/chat/completions", content=body)


async def test_a_plain_answer_names_provider_and_model_and_counts_its_tokens() -> None:
    async with open_mock_providers(["mock-cheap", "mock-expensive"]) as urls:
        assert list(urls) == ["mock-cheap", "mock-expensive"]
        reply = await chat(urls["mock-cheap"])
    assert reply.status_code == 200
    assert reply.json() == {
        "id": "chatcmpl-mock-cheap-1",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello from mock-cheap (gpt-4o). You said: Hi there",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 8, "total_tokens": 10},
    }


async def test_a_stream_says_the_same_words_and_usage_only_when_asked() -> None:
    async with open_mock_providers(["alpha"]) as urls:
        plain = await chat(urls["alpha"])
        bare = await chat(urls["alpha"], stream=True)
        full = await chat(urls["alpha"], stream=True, stream_options={"include_usage": True})
    assert bare.headers["content-type"] == "text/event-stream"
    events = events_of(bare.content)
    assert all("usage" not in event for event in events)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert said == plain.json()["choices"][0]["message"]["content"]
    *others, last = events_of(full.content)
    assert [event["usage"] for event in others] == [None] * len(events)
    assert (last["choices"], last["usage"]) == ([], plain.json()["usage"])


async def test_several_choices_are_each_said_and_each_counted() -> None:
    async with open_mock_providers(["alpha"]) as urls:
        plain = (await chat(urls["alpha"], n=3)).json()
        events = events_of((await chat(urls["alpha"], n=3, stream=True)).content)
    assert [choice["index"] for choice in plain["choices"]] == [0, 1, 2]
    assert plain["usage"]["completion_tokens"] == 24
    ended = [e["choices"][0]["index"] for e in events if e["choices"][0]["finish_reason"]]
    assert ended == [0, 1, 2]


@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_ends_at_the_token_limit_and_says_so(member: str) -> None:
    async with open_mock_providers(["alpha"]) as urls:
        reply = (await chat(urls["alpha"], **{member: 2})).json()
    assert reply["choices"][0]["message"]["content"] == "Hello from"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
async def test_a_forced_tool_is_called_with_the_arguments_it_requires(choice: object) -> None:
    tools = {"tools": [WEATHER], "tool_choice": choice}
    async with open_mock_providers(["alpha"]) as urls:
        plain = (await chat(urls["alpha"], **tools)).json()["choices"][0]
        events = events_of((await chat(urls["alpha"], stream=True, **tools)).content)
    assert plain["finish_reason"] == "tool_calls"
    assert plain["message"]["content"] is None
    function = plain["message"]["tool_calls"][0]["function"]
    assert function["name"] == "weather"
    assert json.loads(function["arguments"]) == {"city": "mock", "days": 1}
    deltas = [event["choices"][0]["delta"].get("tool_calls", [None])[0] for event in events]
    pieces = [delta["function"]["arguments"] for delta in deltas if delta]
    assert "".join(pieces) == function["arguments"]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_tools_that_are_not_forced_are_not_called() -> None:
    async with open_mock_providers(["alpha"]) as urls:
        reply = (await chat(urls["alpha"], tools=[WEATHER], tool_choice="auto")).json()
    assert reply["choices"][0]["finish_reason"] == "stop"


async def test_a_failing_provider_answers_503_and_the_others_answer() -> None:
    async with open_mock_providers(["alpha", "beta"], failing=frozenset({"alpha"})) as urls:
        failed, fine = await chat(urls["alpha"]), await chat(urls["beta"])
    assert (failed.status_code, fine.status_code) == (503, 200)
    assert failed.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"n":' + b"9" * 10_000 + b"}",
        b'{"messages":[]}',
        b'{"model":1,"messages":[]}',
        b'{"model":"m"}',
        b'{"model":"m","messages":[1]}',
        b'{"model":"m","messages":[],"n":0}',
        b'{"model":"m","messages":[],"n":true}',
        b'{"model":"m","messages":[],"n":1000000}',
        b'{"model":"m","messages":[],"max_tokens":0}',
        b'{"model":"m","messages":[],"max_tokens":"5"}',
        b'{"model":"m","messages":[],"tool_choice":"required"}',
        b'{"model":"m","messages":[],"tools":[1],"tool_choice":{"function":{"name":"f"}}}',
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_a_malformed_body_is_a_400_with_a_reason(body: bytes) -> None:
    async with open_mock_providers(["alpha"]) as urls, httpx.AsyncClient(trust_env=False) as client:
        reply = await client.post(f"{urls['alpha']}/chat/completions", content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


async def test_odd_but_legal_messages_are_answered() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "\ud800"},
    ]
    async with open_mock_providers(["alpha"]) as urls:
        reply = await chat(urls["alpha"], messages=messages)
        empty = await chat(urls["alpha"], messages=[])
    assert reply.json()["choices"][0]["message"]["content"].endswith("You said: one")
    assert empty.json()["usage"]["prompt_tokens"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/models", 200),
        ("GET", "/chat/completions", 405),
        ("POST", "/models", 405),
        ("HEAD", "/models", 405),
        ("POST", "/moderations", 404),
    ],
)
async def test_other_routes_answer_on_the_same_kept_connection(
    method: str, path: str, status: int
) -> None:
    async with open_mock_providers(["alpha"]) as urls, httpx.AsyncClient(trust_env=False) as client:
        first = await client.request(method, urls["alpha"] + path)
        ports = {first.extensions["network_stream"].get_extra_info("client_addr")}
        second = await client.post(f"{urls['alpha']}/chat/completions", json=dict(HI))
        ports.add(second.extensions["network_stream"].get_extra_info("client_addr"))
    assert (first.status_code, second.status_code, len(ports)) == (status, 200, 1)


async def test_the_model_list_has_the_openai_shape() -> None:
    async with open_mock_providers(["alpha"]) as urls, httpx.AsyncClient(trust_env=False) as client:
        listed = (await client.get(f"{urls['alpha']}/models")).json()
    assert [model["id"] for model in listed["data"]] == [
        "claude-3.5-sonnet",
        "gpt-4o",
        "gpt-4o-mini",
    ]


async def connect(url: str) -> trio.SocketStream:
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    return await trio.open_tcp_stream(place.hostname, place.port)


async def test_bytes_that_are_not_http_are_answered_400_and_closed() -> None:
    async with open_mock_providers(["alpha"]) as urls, await connect(urls["alpha"]) as stream:
        await stream.send_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        reply = b"".join([data async for data in stream])
    assert reply.startswith(b"HTTP/1.1 400 ")


async def test_a_client_that_leaves_disturbs_nobody() -> None:
    asked = json.dumps({**HI, "stream": True}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
    async with open_mock_providers(["alpha"], delay=0.01) as urls:
        for sent in (b"", request[:20], request % (len(asked), asked)):
            async with await connect(urls["alpha"]) as stream:
                await stream.send_all(sent or b"\r\n")
        async with await connect(urls["alpha"]) as stream:
            await stream.send_all(request % (len(asked), asked))
            assert (await stream.receive_some(1)) == b"H"
        assert (await chat(urls["alpha"])).status_code == 200


async def test_a_delayed_stream_arrives_event_by_event() -> None:
    async with (
        open_mock_providers(["alpha"], delay=0.01) as urls,
        httpx.AsyncClient(trust_env=False) as client,
        client.stream(
            "POST", f"{urls['alpha']}/chat/completions", json={**HI, "stream": True}
        ) as reply,
    ):
        pieces = [piece async for piece in reply.aiter_raw()]
    # Two events may arrive together when the reader is slow, all of them never do.
    assert len(pieces) > 1
    assert len(events_of(b"".join(pieces))) == 10


async def test_a_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    body = json.dumps(dict(HI)).encode()
    machine = h11.Connection(h11.CLIENT)
    headers = [("host", "x"), ("expect", "100-continue"), ("content-length", str(len(body)))]
    request = h11.Request(method="POST", target="/v1/chat/completions", headers=headers)
    async with open_mock_providers(["alpha"]) as urls, await connect(urls["alpha"]) as stream:
        await stream.send_all(machine.send(request))
        machine.receive_data(await stream.receive_some(1000))
        assert isinstance(machine.next_event(), h11.InformationalResponse)
        await stream.send_all(body)
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200 ")


def test_the_mock_configuration_is_one_that_arbstr_accepts() -> None:
    config = parse_config(MOCK_CONFIG, {})
    assert [provider.name for provider in config.providers] == ["mock-cheap", "mock-expensive"]
    cheap, expensive = (provider.rates_for("gpt-4o") for provider in config.providers)
    assert cheap is not None
    assert expensive is not None
    assert cheap.output_rate < expensive.output_rate
    assert [rule.name for rule in config.policies.rules] == ["code_generation"]


# -- the other doors


async def ask_door(url: str, door: Dialect, **members: object) -> tuple[Asked, httpx.Response]:
    body = json.dumps({"model": "gpt-4o", **door.saying("Hi there"), **members}).encode()
    asked = door.parse(body, {}, b"")
    assert isinstance(asked, Asked)
    async with httpx.AsyncClient(trust_env=False) as client:
        return asked, await client.post(url + door.path, content=body)


@pytest.mark.parametrize("name", DOORS)
async def test_every_door_is_answered_with_words_and_counts(name: str) -> None:
    async with open_mock_providers(["alpha"]) as urls:
        asked, reply = await ask_door(urls["alpha"], DOORS[name])
        verdict = DOORS[name].judge(reply.content, asked, "")
    assert isinstance(verdict, Answer), verdict
    assert verdict.usage is not None
    assert verdict.usage.input_tokens == asked.input_tokens
    if name != "embeddings":
        assert "Hello from alpha (gpt-4o). You said: Hi there" in reply.text
        assert verdict.usage.output_tokens == 8


@pytest.mark.parametrize("name", sorted(DOORS.keys() - {"embeddings"}))
async def test_every_stream_is_whole_and_says_the_same(name: str) -> None:
    async with open_mock_providers(["alpha"]) as urls:
        asked, reply = await ask_door(
            urls["alpha"], DOORS[name], stream=True, stream_options={"include_usage": True}
        )
    relay = Relay(DOORS[name].reading(asked))
    relay.feed(reply.content)
    assert relay.complete
    assert relay.usage is not None
    assert relay.usage.output_tokens == 8


TAKES: Final = {"required": ["city"], "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("name", "schema", "choice", "member"),
    [
        ("responses", "parameters", {"type": "function", "name": "second"}, "output"),
        ("messages", "input_schema", {"type": "tool", "name": "second"}, "content"),
    ],
)
async def test_the_tool_that_is_named_is_called_at_every_door(
    name: str, schema: str, choice: object, member: str
) -> None:
    tools = [{"type": "function", "name": tool, schema: TAKES} for tool in ("first", "second")]
    async with open_mock_providers(["alpha"]) as urls:
        _, whole = await ask_door(urls["alpha"], DOORS[name], tools=tools, tool_choice=choice)
        asked, stream = await ask_door(
            urls["alpha"], DOORS[name], tools=tools, tool_choice=choice, stream=True
        )
        _, refused = await ask_door(urls["alpha"], DOORS[name], tools=5, tool_choice=choice)
    together = DOORS[name].judge(stream.content, asked, "")
    assert isinstance(together, Answer)
    for body in (whole.content, together.body):
        (call,) = json.loads(body)[member]
        given = call["input"] if name == "messages" else json.loads(call["arguments"])
        assert (call["name"], given) == ("second", {"city": "mock"})
    assert refused.status_code == 400


@pytest.mark.parametrize(
    ("name", "ended"),
    [
        ("chat", b'"finish_reason":"length"'),
        ("completions", b'"finish_reason":"length"'),
        ("responses", b"event: response.incomplete\n"),
        ("messages", b'"stop_reason":"max_tokens"'),
    ],
)
async def test_a_limit_is_kept_at_every_door(name: str, ended: bytes) -> None:
    limit = {str(DOORS[name].limit_member): 3}
    async with open_mock_providers(["alpha"]) as urls:
        asked, reply = await ask_door(urls["alpha"], DOORS[name], stream=True, **limit)
    relay = Relay(DOORS[name].reading(asked))
    relay.feed(reply.content)
    assert relay.complete
    assert ended in reply.content
    assert b"Hello" in reply.content
    assert b"You" not in reply.content


async def test_the_tokens_of_a_message_are_counted_as_they_are_charged() -> None:
    said = {"model": "gpt-4o", "system": "Be brief", **DOORS["messages"].saying("Hi there")}
    async with open_mock_providers(["alpha"]) as urls, httpx.AsyncClient(trust_env=False) as client:
        counted = await client.post(f"{urls['alpha']}/messages/count_tokens?beta=true", json=said)
        answered = await client.post(f"{urls['alpha']}/messages?beta=true", json=said)
    assert counted.json() == {"input_tokens": 4}
    assert answered.json()["usage"]["input_tokens"] == 4


TWO: Final = ["Hi there", "and here"]


async def test_embeddings_have_the_length_and_the_form_that_were_asked_for() -> None:
    async with open_mock_providers(["alpha"]) as urls:
        _, plain = await ask_door(urls["alpha"], DOORS["embeddings"], input=TWO, dimensions=3)
        _, packed = await ask_door(
            urls["alpha"],
            DOORS["embeddings"],
            input=TWO,
            dimensions=3,
            encoding_format="base64",
        )
    numbers = [entry["embedding"] for entry in plain.json()["data"]]
    assert [len(vector) for vector in numbers] == [3, 3]
    (first, _) = (base64.b64decode(entry["embedding"]) for entry in packed.json()["data"])
    assert struct.unpack("<3f", first) == pytest.approx(numbers[0])


@pytest.mark.parametrize("name", DOORS)
async def test_a_body_that_asks_nothing_is_refused(name: str) -> None:
    async with open_mock_providers(["alpha"]) as urls, httpx.AsyncClient(trust_env=False) as client:
        url = urls["alpha"] + DOORS[name].path
        assert (await client.post(url, json={"model": "m"})).status_code == 400

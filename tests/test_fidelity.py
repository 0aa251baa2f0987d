"""What a provider gets of a client's request, through a whole `arbstr run`: body and headers.

The body is the client's, byte for byte, but for the one member that had to change; of the headers
nothing is the client's.
"""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.fakes import FakeProcess, Request
from tests.process import ArbstrProcess, arbstr_process

CONFIG: Final = """
[server]
auth_token = "the-proxys-own-token"

[[providers]]
name = "alpha"
url = "{url}?project=7"
api_key = "sk-of-the-provider"
models = ["gpt-4o", "renamed"]
input_rate = 1
output_rate = 2
[providers.model_ids]
"renamed" = "vendor/gpt-4o-2024-08-06"

[[providers]]
name = "keyless"
url = "{url}"
models = ["no-key"]
"""

MESSAGES: Final = b'"messages":[{"role":"user","content":"Hi"}]'

BODIES: Final = {
    "as an SDK writes it": b'{"model":"gpt-4o",' + MESSAGES + b"}",
    "spread out, in an odd order": b'\r\n{\t"messages" : [ {"content" :"Hi","role":"user"} ] ,\n'
    b'  "model"\n:\n"gpt-4o"  }\n\n',
    "numbers no float can hold": b'{"temperature":1e-7,"seed":12345678901234567890,"top_p":1.0,'
    b'"x":0.1000000000000000055511,"y":-0.0,"z":1E+400,"model":"gpt-4o",' + MESSAGES + b"}",
    "keys inside strings": b'{"a":"\\"model\\":\\"x\\",\\"messages\\":[]","b":"}{",'
    b'"model":"gpt-4o","messages":[{"role":"user","content":"{\\"model\\":1,\\"stream\\":true}"}],'
    b'"metadata":{"model":"inner","messages":1,"stream":"no"}}',
    "an unknown member twice": b'{"x":1,"model":"gpt-4o","x":2,' + MESSAGES + b"}",
    "emoji, raw and escaped": '{"model":"gpt-4o","messages":[{"role":"user","content":'
    '"\U0001f680 \\ud83d\\ude80 é \\u00e9 \u2028 \\/ \\ud800"}]}'.encode(),
    "deep nesting": b'{"deep":' + b"[" * 400 + b"]" * 400 + b',"model":"gpt-4o",' + MESSAGES + b"}",
    "a key that is escaped": b'{"\\u006dodel":"gpt-4o",' + MESSAGES + b"}",
    "null content and tools": b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"},'
    b'{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":'
    b'{"name":"f","arguments":"{\\"a\\": 1.0}"}}]},{"role":"tool","tool_call_id":"c",'
    b'"content":""}],"tools":[],"response_format":null}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"gpt-4o",' + MESSAGES + b"}",
}

NOT_CHANGED: Final = {
    **BODIES,
    "a stream that asks for its usage": b'{"stream":true,"stream_options":{"include_usage" : true,'
    b'"include_obfuscation":false},"model":"gpt-4o",' + MESSAGES + b"}",
    "no stream, but options": b'{"model":"gpt-4o","stream":false,"stream_options":null,'
    + MESSAGES
    + b"}",
}

CHANGED: Final = {
    "no options": (
        b'{"seed":12345678901234567890,"stream":true,"model":"gpt-4o",' + MESSAGES + b"}",
        b'{"stream_options":{"include_usage":true},'
        b'"seed":12345678901234567890,"stream":true,"model":"gpt-4o",' + MESSAGES + b"}",
    ),
    "options without usage": (
        b'{"stream":true,"stream_options":{ "x": 1e-7 },"model":"gpt-4o",' + MESSAGES + b"}",
        b'{"stream":true,"stream_options":{"include_usage":true, "x": 1e-7 },"model":"gpt-4o",'
        + MESSAGES
        + b"}",
    ),
    "usage unwanted": (
        b'{"stream_options":{"x":1, "include_usage" : false },"stream":true,"model":"gpt-4o",'
        + MESSAGES
        + b"}",
        b'{"stream_options":{"x":1, "include_usage" : true },"stream":true,"model":"gpt-4o",'
        + MESSAGES
        + b"}",
    ),
    "options null": (
        b'{"model":"gpt-4o","stream_options" : null , "stream":true,' + MESSAGES + b"}",
        b'{"model":"gpt-4o","stream_options" : {"include_usage":true} , "stream":true,'
        + MESSAGES
        + b"}",
    ),
    "another id": (
        b'{"temperature":1e-7, "model" : "renamed" ,' + MESSAGES + b"}",
        b'{"temperature":1e-7, "model" : "vendor/gpt-4o-2024-08-06" ,' + MESSAGES + b"}",
    ),
}

TOKEN: Final = {"authorization": "Bearer the-proxys-own-token"}

CANARIES: Final = {
    **TOKEN,
    "cookie": "session=canary-1",
    "x-api-key": "canary-2",
    "x-stainless-os": "canary-3",
    "x-forwarded-for": "canary-4",
    "x-arbstr-respend": "canary-5",
    "openai-organization": "canary-6",
    "user-agent": "canary-7",
    "referer": "http://127.0.0.1/canary-8",
    "proxy-authorization": "Basic canary-9",
    "x-cashu": "cashuAcanary",
    "accept-encoding": "gzip, br;q=0.1",
    "accept": "text/canary",
    "content-type": "text/plain; canary",
    "traceparent": "canary-10",
}

ALLOWED: Final = {"host", "content-type", "accept", "user-agent", "authorization"} | {
    "accept-encoding",
    "content-length",
}


@pytest.fixture(scope="module")
def arbstr(providers: FakeProcess) -> Iterator[ArbstrProcess]:
    with arbstr_process(config_text=CONFIG.format(url=providers.url)) as process:
        yield process


def forwarded(arbstr: ArbstrProcess, fake: FakeProcess, body: bytes) -> bytes:
    """What the provider got when arbstr was sent this body."""
    reply = arbstr.ask("POST", "/v1/chat/completions", headers=TOKEN, content=body)
    assert reply.status_code == 200, reply.text
    assert "Hello" in reply.text
    return fake.requests()[0].body


@pytest.mark.parametrize("body", NOT_CHANGED.values(), ids=NOT_CHANGED)
def test_a_body_that_needs_no_change_arrives_byte_for_byte(
    body: bytes, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    assert forwarded(arbstr, fake, body) == body


@pytest.mark.parametrize(("body", "expected"), CHANGED.values(), ids=CHANGED)
def test_only_the_member_that_must_change_does(
    body: bytes, expected: bytes, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    assert forwarded(arbstr, fake, body) == expected


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_made_into_a_stream_any_body_differs_inside_stream_options_alone(
    body: bytes, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    streamed = body.replace(b"{", b'{"stream":true,', 1)
    got = forwarded(arbstr, fake, streamed)
    assert got == streamed.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_no_header_of_the_client_reaches_the_provider(
    stream: bool, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    body = json.dumps({"model": "gpt-4o", "messages": [], "stream": stream}).encode()
    reply = arbstr.ask("POST", "/v1/chat/completions", headers=CANARIES, content=body)
    assert reply.status_code == 200
    (got,) = fake.requests()
    names = [name.lower() for name, _ in got.headers]
    assert set(names) == ALLOWED
    assert len(names) == len(ALLOWED)
    assert said(got) == {
        "authorization": "Bearer sk-of-the-provider",
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "accept-encoding": "identity",
    }
    everything = f"{got.target} {got.headers}"
    assert "canary" not in everything
    assert "the-proxys-own-token" not in everything
    assert (got.header("user-agent") or "").startswith("arbstr/")


def said(got: Request) -> dict[str, str | None]:
    names = ("authorization", "content-type", "accept", "accept-encoding")
    return {name: got.header(name) for name in names}


def test_a_provider_without_a_key_gets_no_authorization(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    assert arbstr.chat("no-key", headers=TOKEN).status_code == 200
    (got,) = fake.requests()
    assert got.header("authorization") is None

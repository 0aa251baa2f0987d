"""The OpenAI Python SDK against a real `arbstr run`, with providers that are another process.

Three processes take part: this one with the SDK, arbstr, and the fake providers. What the SDK makes
of an answer, or of a failure, is compared with what the provider got and with the ledger's row.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import httpx
import openai
import pytest

from tests.fakes import FakeProcess
from tests.process import ArbstrProcess, arbstr_process
from tests.sdk import ASK, Ask, ask_sync, chat, provider

SETTINGS: Final = """
[retry]
backoff = 0.01
repeat_guard = 0        # many a test asks the same

[breaker]
failures = 1000         # every test finds every provider ready
"""


def config(fake: FakeProcess) -> str:
    tables = [
        provider("plain", fake.url, "fake-ok", "fake-tools", "fake-cut"),
        provider("down-1", fake.url_of("fake-503"), "all-down", rates=(1, 1)),
        provider("down-2", fake.url_of("fake-500"), "all-down", rates=(2, 2)),
        provider("flaky", fake.url_of("fake-503"), "one-down", rates=(1, 1)),
        provider("steady", fake.url, "one-down", rates=(2, 2)),
        provider("busy", fake.url, "fake-429-1"),
        provider("hung-up", fake.url_of("fake-close"), "hung-up"),
    ]
    return SETTINGS + "".join(tables)


both = pytest.mark.parametrize("ask", ASK.values(), ids=ASK)


@pytest.fixture(scope="module")
def arbstr(providers: FakeProcess) -> Iterator[ArbstrProcess]:
    with arbstr_process(config_text=config(providers)) as process:
        yield process


# ---- chats


@both
def test_a_plain_chat(ask: Ask, arbstr: ArbstrProcess, fake: FakeProcess) -> None:
    reply = ask(arbstr.base_url, chat("fake-ok"))
    assert reply.answer.choices[0].message.content == "Hello there"
    assert reply.answer.usage.total_tokens == 15
    assert reply.answer._request_id == reply.headers["x-arbstr-request-id"]
    assert reply.headers["x-arbstr-provider"] == "plain"
    assert reply.headers["x-arbstr-cost-sats"] == "0.25"  # (10 * 10 + 5 * 30) / 1000
    assert reply.headers["x-arbstr-latency-ms"].isdigit()
    row = arbstr.wait_final(reply.request_id)
    assert (row["status"], row["cost_sats"], row["streaming"]) == ("ok", 0.25, 0)
    assert (row["input_tokens"], row["output_tokens"], row["attempts"]) == (10, 5, 1)
    assert len(fake.requests()) == 1


@both
def test_a_stream_whose_every_chunk_has_a_choice(
    ask: Ask, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    reply = ask(arbstr.base_url, chat("fake-ok", stream=True))
    assert reply.text == "Hello there"
    assert reply.chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in reply.chunks)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert fake.requests()[0].json["stream_options"] == {"include_usage": True}
    row = arbstr.wait_final(reply.request_id)
    assert (row["status"], row["cost_sats"], row["streaming"]) == ("ok", 0.25, 1)
    assert row["ttft_ms"] is not None


@both
def test_a_stream_with_the_usage_that_was_asked_for_and_the_price_in_it(
    ask: Ask, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    options = {"include_usage": True}
    reply = ask(arbstr.base_url, chat("fake-ok", stream=True, stream_options=options))
    *said, last = reply.chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == "Hello there"
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (10, 5)
    told = last.model_extra["arbstr"]
    assert told["cost_sats"] == 0.25
    assert told["request_id"] == reply.headers["x-request-id"]
    assert (told["provider"], told["model"]) == ("plain", "fake-ok")
    assert (told["input_tokens"], told["output_tokens"], told["retries"]) == (10, 5, None)


@both
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_tools_with_a_null_content_in_the_history(
    ask: Ask, stream: bool, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "sunny"},
    ]
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    asked = {"model": "fake-tools", "messages": messages, "tools": [tool], "stream": stream}
    reply = ask(arbstr.base_url, asked)
    if stream:
        called = next(c for c in reply.chunks if c.choices[0].delta.tool_calls).choices[0].delta
        finish = reply.chunks[-1].choices[0].finish_reason
    else:
        called, finish = reply.answer.choices[0].message, reply.answer.choices[0].finish_reason
        assert called.content is None
    assert called.tool_calls[0].function.arguments == '{"city":"Oslo"}'
    assert finish == "tool_calls"
    got = fake.requests()[0].json
    assert (got["messages"], got["tools"]) == (messages, [tool])


def test_the_sdks_stream_helper_puts_the_answer_together(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    with (
        openai.OpenAI(base_url=arbstr.base_url, api_key="k") as client,
        client.chat.completions.stream(
            model="fake-ok",
            messages=[{"role": "user", "content": "Hi"}],
            stream_options={"include_usage": True},
        ) as events,
    ):
        final = events.get_final_completion()
    assert final.choices[0].message.content == "Hello there"
    assert final.usage is not None
    assert final.usage.total_tokens == 15


# ---- failures


def test_a_provider_that_is_down_costs_a_moment_and_not_the_answer(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    reply = ask_sync(arbstr.base_url, chat("one-down"))
    assert reply.headers["x-arbstr-provider"] == "steady"
    assert reply.headers["x-arbstr-retries"] == "3/flaky"
    assert len(fake.requests()) == 4


@both
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_the_sdk_does_not_multiply_the_attempts_when_every_provider_fails(
    ask: Ask, stream: bool, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(arbstr.base_url, chat("all-down", stream=stream))
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert caught.value.response.headers["x-arbstr-retries"] == "3/down-1, 3/down-2"
    assert "down-1" in caught.value.message
    assert "down-2" in caught.value.message
    assert len(fake.requests()) == 6
    row = arbstr.wait_final(caught.value.response.headers["x-request-id"])
    assert (row["status"], row["attempts"], row["possibly_spent"]) == ("failed", 6, 0)


@both
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_provider_that_reads_the_request_and_hangs_up_is_asked_exactly_once(
    ask: Ask, stream: bool, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(arbstr.base_url, chat("hung-up", stream=stream))
    assert (caught.value.status_code, caught.value.code) == (400, "possibly_spent")
    assert "X-Arbstr-Respend: allow" in caught.value.message
    assert "hung-up" in caught.value.message
    headers = caught.value.response.headers
    assert headers["x-arbstr-possibly-spent"] == "1"
    assert "retry-after" not in headers
    assert len(fake.requests()) == 1
    row = arbstr.wait_final(headers["x-request-id"])
    assert (row["status"], row["possibly_spent"]) == ("failed", 1)


def test_a_rate_limit_says_when_to_come_back_and_the_sdk_does(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    with (
        openai.OpenAI(base_url=arbstr.base_url, api_key="k", max_retries=1) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        client.chat.completions.create(**chat("fake-429-1"))
    assert caught.value.code == "rate_limited"
    assert caught.value.response.headers["retry-after"] == "1"
    # Both tries of the SDK reached the provider: the second came when its rest was over.
    first, second = fake.requests()
    assert second.at - first.at >= 1


@both
def test_a_stream_that_breaks_off_is_an_error_and_not_an_end(
    ask: Ask, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    with pytest.raises(openai.APIError) as caught:
        ask(arbstr.base_url, chat("fake-cut", stream=True))
    assert type(caught.value) is openai.APIError
    assert caught.value.code == "stream_interrupted"
    assert caught.value.type == "upstream_error"
    assert len(fake.requests()) == 1


def test_a_stream_that_breaks_off_has_no_done_on_the_wire(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    content = b""
    with arbstr.open_chat("fake-cut") as reply, suppress(httpx.RemoteProtocolError):
        for part in reply.iter_raw():
            content += part
    *_, last, nothing = content.split(b"\n\n")
    assert nothing == b""
    assert set(json.loads(last.removeprefix(b"data: "))) == {"error"}
    assert b"Hello" in content
    assert b"[DONE]" not in content
    row = arbstr.wait_final(reply.headers["x-request-id"])
    assert (row["status"], row["success"], row["possibly_spent"]) == ("stream_incomplete", 0, 1)

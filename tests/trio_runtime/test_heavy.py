"""Large bodies: worked on in another process, with the same results, while others are served."""

import json
import os
import pickle
from dataclasses import replace
from typing import Any, Final, NoReturn

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from arbstr.sansio.dialects.chat.answer import judge
from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.dialect import Answer, Asked, BadAnswer, ErrorAnswer
from arbstr.sansio.dialects.relay import Relay, fed
from arbstr.sansio.dialects.sse import MAX_EVENT_BYTES
from arbstr.sansio.dialects.usage import HEAVY_COMMAS, is_heavy
from arbstr.sansio.dialects.whole import relayed
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.routing.policy import parse_and_choose
from arbstr.trio_runtime import heavy
from arbstr.trio_runtime.exchange import TEXT_BYTES
from arbstr.trio_runtime.heavy import apart
from arbstr.trio_runtime.upstream import answering as upstream
from tests.chats import chat, parse
from tests.fakes import (
    DONE,
    STOP,
    USAGE,
    WORD,
    Play,
    chunk,
    completion,
    error_object,
    json_answer,
    open_fake_provider,
    sse,
    stream,
)
from tests.proxy import Reply, chat_body, config, open_proxy, provider

MANY: Final = [10**12] * (2 * HEAVY_COMMAS)
"""As JSON heavy: 600 kB of numbers."""
PLAIN: Final = completion("Hello", message={"numbers": MANY})
STREAM: Final = sse(chunk("Hello", numbers=MANY)) + STOP


def held(body: object) -> bytes:
    data = json.dumps(body).encode()
    assert is_heavy(data)
    return data


@pytest.fixture
def sent_apart(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions that went to another process."""
    names: list[str] = []
    run = trio.run_process

    async def noted(command: Any, **options: Any) -> Any:
        names.append(pickle.loads(options["stdin"]).func.__name__)
        return await run(command, **options)

    monkeypatch.setattr(trio, "run_process", noted)
    return names


def play_stream() -> Play:
    return stream([STREAM, DONE])


def said(reply: Reply) -> Any:
    return reply.json["choices"][0]["message"]["content"]


async def test_it_is_another_process() -> None:
    assert await apart(os.getpid) != os.getpid()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (held(PLAIN), Answer),
        (held({"choices": [], "numbers": MANY}), BadAnswer),
        (held({"error": error_object("no"), "numbers": MANY}), ErrorAnswer),
        (STREAM + DONE, Answer),
        (held(PLAIN)[:-1], BadAnswer),
    ],
    ids=["answer", "no choices", "error", "stream", "cut"],
)
async def test_an_answer_is_judged_as_it_is_here(body: bytes, expected: type) -> None:
    found = await apart(judge, body, content_type="", choices=1)
    assert type(found) is expected
    assert found == judge(body, content_type="", choices=1)


async def test_what_was_given_comes_back_as_itself() -> None:
    body = held(PLAIN)
    found = await apart(judge, body, content_type="", choices=1)
    assert isinstance(found, Answer)
    assert found.body is body


@pytest.mark.parametrize("end", [b"", b"}"], ids=["whole", "broken"])
async def test_a_request_is_read_as_it_is_here(end: bytes) -> None:
    body = chat(text="hällo", numbers=MANY).body + end
    found, _ = await apart(parse_and_choose, CHAT, body, {}, b"", ())
    expected = parse(body)
    if isinstance(expected, Asked):
        assert isinstance(found, Asked)
        assert found.body is body
        assert found.dialect is CHAT
        expected = replace(expected, last_user_text="")
    assert isinstance(found, ErrorReply if end else Asked)
    assert found == expected


POLICY: Final = """
[[policies.rules]]
name = "code"
keywords = ["decode"]
"""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/cost"])
@pytest.mark.parametrize(
    "more",
    [{}, {"user": "u" * TEXT_BYTES}, {"numbers": MANY}],
    ids=["small", "long", "large"],
)
async def test_keywords_find_their_policy_in_a_large_request(
    path: str, more: dict[str, object]
) -> None:
    body = chat_body(messages=[{"role": "user", "content": "Decode this"}], **more)
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url), more=POLICY)) as proxy,
        proxy.client() as client,
    ):
        await client.send("POST", path, body)
        reply = await client.reply()
    assert (reply.status, reply.headers["x-arbstr-policy"]) == (200, "code")


async def test_an_answer_becomes_the_same_stream() -> None:
    body = held(PLAIN)
    asked = chat(stream=True, stream_options={"include_usage": True})
    relay, out = await apart(relayed, body, asked)
    here, expected = relayed(body, asked)
    assert out == expected
    assert relay.finish(b"{}") == here.finish(b"{}")


def test_a_stream_goes_on_in_a_copy() -> None:
    data, size = STREAM + DONE, 65_536
    here, relay = (Relay(ChatReading(choices=1, asks_usage=False)) for _ in range(2))
    heavy_at = []
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        if relay.is_heavy(piece):
            heavy_at.append(at)
        copy, out = fed(pickle.loads(pickle.dumps(relay)), piece)
        relay.become(copy)
        assert out == here.feed(piece)
        assert relay.held == here.held
    assert heavy_at == [len(data) // size * size], "the piece that ends the event, and no other"
    assert relay.complete
    assert relay.finish(b"{}") == here.finish(b"{}")


async def test_where_no_process_can_be_it_is_done_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(*_: object, **__: object) -> NoReturn:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(trio, "run_process", refused)
    assert await apart(os.getpid) == os.getpid()
    assert "Resource temporarily unavailable" in caplog.text


async def test_what_a_dead_process_did_not_do_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heavy, "_CHILD", "raise SystemExit(1)")
    assert await apart(os.getpid) == os.getpid()


# --- through the whole proxy ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "streaming", "names"),
    [
        (json_answer(PLAIN), False, ["judge"]),
        (json_answer(PLAIN), True, ["judge", "relayed"]),
        (play_stream(), False, ["judge"]),
        (play_stream(), True, ["fed"]),
        (json_answer(completion("Hello")), False, []),
        (json_answer(completion("Hello")), True, []),
    ],
    ids=["plain", "plain for a stream", "stream for plain", "stream", "small", "small stream"],
)
async def test_only_what_is_heavy_goes_apart(
    play: Play, streaming: bool, names: list[str], sent_apart: list[str]
) -> None:
    async with (
        open_fake_provider(play) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        reply = await proxy.chat(stream=streaming)
        record = await proxy.record()
    assert (reply.text if streaming else said(reply)) == "Hello"
    assert record.status == "ok"
    # How much of a stream for a plain request is looked at before it is whole, the network says.
    assert [name for name in sent_apart if streaming or name != "fed"] == names


async def test_a_large_request_arrives_as_it_is(sent_apart: list[str]) -> None:
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        reply = await proxy.chat(numbers=MANY)
    assert reply.status == 200
    assert fake.requests[0].json["numbers"] == MANY
    assert sent_apart == ["parse_and_choose"]


async def _until_one_waits() -> None:
    with trio.fail_after(20):
        while not heavy._limiter.statistics().tasks_waiting:
            await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> trio.CapacityLimiter:
    """What lets one process be at a time, for the test to take."""
    limiter = trio.CapacityLimiter(1)
    monkeypatch.setattr(heavy, "_limiter", limiter)
    return limiter


async def test_others_are_served_and_a_client_that_leaves_loses_no_price(
    busy: trio.CapacityLimiter,
) -> None:
    plays = [json_answer(PLAIN), json_answer(completion("small"))]
    async with (
        open_fake_provider(plays) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        async with busy:
            async with proxy.asking():
                await _until_one_waits()
                assert said(await proxy.chat()) == "small"
            # It has left; the limiter's line is where it still stands.
            assert (await proxy.get("/livez")).status == 200
            assert busy.statistics().tasks_waiting == 1
        record = await proxy.record(2)
    assert (record.status, record.input_tokens, record.output_tokens) == (
        "client_disconnected",
        10,
        5,
    )
    assert record.cost_sats is not None


async def test_a_client_that_leaves_while_its_request_is_read_is_asked_for_nowhere(
    busy: trio.CapacityLimiter,
) -> None:
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        async with busy:
            async with proxy.asking(numbers=MANY):
                await _until_one_waits()
            assert (await proxy.get("/livez")).status == 200
        record = await proxy.record()
    assert record.status == "client_disconnected"
    assert not fake.requests


NUMBERS: Final = sse(chunk("", numbers=MANY))


@pytest.mark.parametrize(
    ("before", "after", "streaming"),
    [
        ([], [WORD, STOP, USAGE, DONE], False),
        ([], [WORD, STOP, USAGE, DONE], True),
        ([WORD], [STOP, USAGE, DONE], True),
        ([WORD, STOP], [USAGE, DONE], True),
    ],
    ids=["stream for plain", "before output", "after output", "at the end"],
)
async def test_our_own_time_is_not_the_providers_silence(
    before: list[bytes],
    after: list[bytes],
    streaming: bool,
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: MockClock,
) -> None:
    read = trio.Event()

    async def slow(function: Any, *args: Any, **named: Any) -> Any:
        with trio.CancelScope(shield=True):
            mock_clock.jump(100)
            await trio.lowlevel.checkpoint()
        read.set()
        return function(*args, **named)

    monkeypatch.setattr(upstream, "apart", slow)
    limits = "[timeouts]\nidle = 10\nfirst_output = 20\nanswer = 20"
    async with (
        open_fake_provider(stream([*before, NUMBERS, read, *after])) as fake,
        open_proxy(config(provider("alpha", fake.url), more=limits)) as proxy,
    ):
        reply = await proxy.chat(stream=streaming)
        record = await proxy.record()
    assert (reply.text if streaming else said(reply)) == "Hello"
    assert (record.status, record.output_tokens) == ("ok", 5)
    if streaming:
        assert reply.trailer["cost_sats"] is not None, "its usage came before the client was done"


async def test_json_over_an_events_limit_is_an_answer_to_a_stream_too() -> None:
    text = "x" * (MAX_EVENT_BYTES + 1_000_000)
    async with (
        open_fake_provider(json_answer(completion(text))) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        reply = await proxy.chat(stream=True)
        record = await proxy.record()
    assert reply.text == text
    assert (record.status, [row.failure for row in record.attempts]) == ("ok", [None])

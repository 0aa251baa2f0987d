"""Cases from the field (tests/corpus/cases/streams), each replayed through the whole proxy.

Two providers serve the model: the first costs 10 in, 30 out and 2.5 cached in (sats per 1,000
tokens) and sends the case, the second costs twice as much and answers well. Each case is one row
per way of asking (plain, streamed) that makes sense: what the client gets, what the log keeps, who
was asked, and whether the breaker heard of it. Pauses are played on a mock clock; for the SDK,
which has a clock of its own, they are left out.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, final

import openai
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.ledger.record import Record
from tests.cuttings import CORPUS, recorded
from tests.fakes import Script, Step, answer, by_name, head, open_fake_provider, raw, stream
from tests.proxy import KEY, STEP, Proxy, Reply, open_proxy, pass_time
from tests.sdk import ask_sync, chat

CONFIG: Final = """
[retry]
backoff = 0.001
[[providers]]
name = "first"
url = "{first}"
api_key = "{key}"
kind = "openai"
models = ["gpt-4o", "m"]
input_rate = 10
output_rate = 30
cached_input_rate = 2.5
[[providers]]
name = "second"
url = "{second}"
api_key = "{key}"
kind = "openai"
models = ["gpt-4o", "m"]
input_rate = 20
output_rate = 60
cached_input_rate = 5
"""

PAUSE: Final = re.compile(rb": PAUSE (\d+)\n")

HALF: Final = "half an ans"
SECOND: Final = "Hello there"
"""What the second provider says, for 10 and 5 tokens: 0.5 sats."""


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One case asked one way. `file` is below tests/corpus/cases/streams; `edit` changes it.

    `text` is what the client has read, whatever the end; `code` the error it got, as a body with
    `status` or as the last event of a stream (`cut`). `attempts` are provider, failure and money.
    `tokens` and `cost` are the row's: prompt, completion, cached. `struck`: the breaker counted
    a failure of the first. `both`: the second sends the case, too.
    """

    name: str
    file: str
    streaming: bool
    request: Mapping[str, Any] = field(default_factory=dict)
    edit: Callable[[bytes], bytes] = bytes
    both: bool = False
    status: int = 200
    text: str | None = None
    code: object = None
    cut: bool = False
    row: str = "ok"
    tokens: tuple[int | None, int | None, int | None] = (None, None, None)
    cost: str | None = None
    attempts: tuple[tuple[str, str | None, str], ...] = (("first", None, "spent"),)
    struck: bool = False
    check: Callable[[Reply, bytes], None] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> tuple[int, int]:
        """How often each provider is asked."""
        names = [name for name, _, _ in self.attempts]
        return names.count("first"), names.count("second")


def answered(name: str, file: str, streaming: bool, text: str, **more: Any) -> Case:
    return Case(name, file, streaming, text=text, **more)


def cut(name: str, file: str, streaming: bool, **more: Any) -> Case:
    """Half an answer: streamed the error event ends it, plain it is none; it may be charged."""
    if streaming:
        return Case(
            name,
            file,
            streaming,
            text=HALF,
            code="stream_interrupted",
            cut=True,
            row="stream_incomplete",
            attempts=(("first", "stream_cut", "spent"),),
            struck=True,
            **more,
        )
    return Case(
        name,
        file,
        streaming,
        status=400,
        code="possibly_spent",
        row="failed",
        attempts=(("first", "bad_answer", "spent"),),
        struck=True,
        **more,
    )


def failed_over(name: str, file: str, streaming: bool, failure: str, **more: Any) -> Case:
    """The first said no, for nothing, and the second answered."""
    return Case(
        name,
        file,
        streaming,
        text=SECOND,
        tokens=(10, 5, None),
        cost="0.5",
        attempts=(("first", failure, "free"), ("second", None, "spent")),
        **more,
    )


# --- what single cases look at besides --------------------------------------------------------


def has_two_calls(reply: Reply, sent: bytes) -> None:
    calls = reply.json["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]["name"]) for call in calls] == [("a", "f"), ("b", "g")]
    arguments = [call["function"]["arguments"] for call in calls]
    assert arguments == ['{"c":"B"}', '{"c":"S"}']


def events_are_unchanged(reply: Reply, sent: bytes) -> None:
    said = b"".join(event + b"\n\n" for event in sent.split(b"\n\n")[:3])
    assert reply.body.startswith(said)


def body_is_unchanged(reply: Reply, sent: bytes) -> None:
    assert reply.body == sent


def has_the_constant(reply: Reply, sent: bytes) -> None:
    assert reply.body.count(b"-Infinity") == 1


def usage_chunks(reply: Reply) -> list[Any]:
    return [event for event in reply.events if event != "[DONE]" and "usage" in event]


def has_one_usage_chunk(reply: Reply, sent: bytes) -> None:
    (chunk,) = usage_chunks(reply)
    assert reply.events[-3] is not None
    assert reply.events[-3] == chunk
    assert chunk["choices"] == []
    assert chunk["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert chunk["arbstr"] == reply.trailer


def has_no_usage_chunk(reply: Reply, sent: bytes) -> None:
    assert usage_chunks(reply) == []


def is_told_its_length(reply: Reply, sent: bytes) -> None:
    assert (
        "The prompt of 12345 tokens is longer than the context of 8192." in (reply.error["message"])
    )


# --- the same fault at another place ----------------------------------------------------------

ROLE: Final = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
)


def before_output(sent: bytes) -> bytes:
    """The same stream, but what came before the fault was only the role."""
    return ROLE + sent[sent.index(b"\n\n") :]


def in_other_words(sent: bytes) -> bytes:
    """A body of another dialect in place of the node's."""
    return b'data: {"code":500,"message":"no GPU"}\n\ndata: [DONE]\n\n'


def charged_behind_done(sent: bytes) -> bytes:
    """An error, the end, and only then what the node took for it."""
    said = before_output(sent)
    assert b"[DONE]" in said
    return said + b': PAUSE 1\ndata: {"choices":[],"cost":{"total_msats":505}}\n\n'


def only_the_early_usage(sent: bytes) -> bytes:
    late = b',"usage":{"prompt_tokens":0,"completion_tokens":50,"total_tokens":50}'
    assert late in sent
    return sent.replace(late, b"")


def deflated(sent: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(sent.replace(b"-Infinity", b"-9")) + packer.flush()
    return (
        head(
            200,
            [
                ("Content-Type", "application/json"),
                ("Content-Encoding", "deflate"),
                ("Content-Length", str(len(body))),
            ],
        )
        + body
    )


CACHED: Final = "cached-tokens-top-level.sse"
ENCODING: Final = "content-encoding-none.http"
CONTEXT: Final = "context-length-in-200.sse"
BESIDE: Final = "error-beside-choices.json"
FIELD_FIRST: Final = "error-field-first.sse"
FIELD: Final = "error-field-then-done.sse"
FINISH: Final = "finish-then-more.sse"
FOREIGN: Final = "foreign-error-then-done.sse"
TIMEOUT: Final = "gateway-timeout-524.http"
MINUS_ONE: Final = "max-tokens-minus-one.request.json"
NAN_PLAIN: Final = "minus-infinity-logprob.json"
NAN: Final = "minus-infinity-logprob.sse"
CALLS: Final = "parallel-calls-index-0.sse"
RETRY_INFO: Final = "retryinfo-429.http"
UNFRAMED: Final = "unframed-error-then-done.sse"
NULL_CHOICES: Final = "usage-chunk-choices-null.sse"
HALVES: Final = "usage-in-two-halves.sse"


def cases() -> Iterator[tuple[Case, str]]:
    """Each with the points of the work that it waits for, "" for none."""
    for streaming in (True, False):
        # Moonshot says beside `prompt_tokens` how many of them came from its cache.
        yield (
            answered("cached", CACHED, streaming, "x", tokens=(1000, 100, 800), cost="7"),
            "",
        )
        # A coding that is none: nothing is to be undone.
        yield (
            answered("no-coding", ENCODING, streaming, "hello", tokens=(10, 5, None), cost="0.25"),
            "",
        )
        # A refusal of the request under a 200: nobody can serve it, and the client learns why.
        yield (
            Case(
                "context",
                CONTEXT,
                streaming,
                both=True,
                status=400,
                row="failed",
                code="400",
                attempts=(("first", "not_capable", "free"), ("second", "not_capable", "free")),
                check=is_told_its_length,
            ),
            "",
        )
        # A choice that says nothing, and an error beside it.
        yield failed_over("error-beside-choices", BESIDE, streaming, "error_answer"), ""
        # llama.cpp writes `error:` where others write `data:`.
        yield failed_over("error-field-first", FIELD_FIRST, streaming, "not_capable"), ""
        yield (
            failed_over(
                "error-field", FIELD, streaming, "error_answer", edit=before_output, struck=True
            ),
            "",
        )
        yield cut("error-field", FIELD, streaming), ""
        # A Routstr node's second envelope, as an event.
        yield (
            failed_over("foreign-error", FOREIGN, streaming, "error_answer", edit=before_output),
            "",
        )
        yield cut("foreign-error", FOREIGN, streaming), ""
        yield (
            failed_over(
                "foreign-error",
                FOREIGN,
                streaming,
                "error_answer",
                edit=in_other_words,
                struck=True,
            ),
            "",
        )
        # What is charged behind the end is charged: nobody else is asked, and paid again.
        yield (
            Case(
                "foreign-error",
                FOREIGN,
                streaming,
                edit=charged_behind_done,
                status=400,
                row="failed",
                code="possibly_spent",
                cost="0.505",
                attempts=(("first", "error_answer", "spent"),),
            ),
            "",
        )
        # A gateway that passes its provider's error on as it came, without `data:`.
        yield (
            failed_over("unframed-error", UNFRAMED, streaming, "error_answer", edit=before_output),
            "",
        )
        yield cut("unframed-error", UNFRAMED, streaming), ""
        # Reasoning, a finish reason, a pause, and only then the text.
        yield (
            answered(
                "finish-then-more",
                FINISH,
                streaming,
                "the answer",
                tokens=(10, 8, None),
                cost="0.34",
            ),
            "",
        )
        # The server in front gave up; the one behind it may not have.
        yield (
            Case(
                "gateway-timeout",
                TIMEOUT,
                streaming,
                status=400,
                row="failed",
                code="possibly_spent",
                attempts=(("first", "gave_up", "unknown"),),
                struck=True,
            ),
            "",
        )
        # "No limit", as LM Studio and llama.cpp take it: the provider's to judge.
        yield (
            answered("max-tokens", MINUS_ONE, streaming, SECOND, tokens=(10, 5, None), cost="0.25"),
            "",
        )
        # Python's JSON has -Infinity; the OpenAI SDK reads it.
        yield (
            answered(
                "minus-infinity",
                NAN_PLAIN,
                streaming,
                "No",
                tokens=(10, 1, None),
                cost="0.13",
                check=has_the_constant if streaming else body_is_unchanged,
            ),
            "",
        )
        yield (
            answered(
                "minus-infinity-event",
                NAN,
                streaming,
                "aNo",
                tokens=(10, 1, None),
                cost="0.13",
                check=has_the_constant,
            ),
            "",
        )
        # Two calls at the same index: an id of its own begins a new one.
        yield (
            answered(
                "calls",
                CALLS,
                streaming,
                "",
                tokens=(10, 5, None),
                cost="0.25",
                check=events_are_unchanged if streaming else has_two_calls,
            ),
            "",
        )
        # Gemini says in the body how long to wait.
        yield (
            Case(
                "retry-info",
                RETRY_INFO,
                streaming,
                both=True,
                status=429,
                row="failed",
                code="rate_limited",
                attempts=(("first", "rate_limited", "free"), ("second", "rate_limited", "free")),
                headers={"retry-after": "37"},
            ),
            "",
        )
        # The prompt's tokens with the first chunk, the answer's with the last.
        yield (
            answered("usage-halves", HALVES, streaming, "x", tokens=(1000, 50, None), cost="11.5"),
            "",
        )
        yield (
            answered("usage-early", HALVES, streaming, "x", edit=only_the_early_usage),
            "",
        )
        # A usage chunk with null where OpenAI writes [].
        yield (
            answered(
                "usage-null-choices",
                NULL_CHOICES,
                streaming,
                "x",
                tokens=(10, 5, None),
                cost="0.25",
                check=has_no_usage_chunk if streaming else None,
            ),
            "",
        )
    yield (
        answered(
            "usage-null-choices-asked",
            NULL_CHOICES,
            True,
            "x",
            request={"stream_options": {"include_usage": True}},
            tokens=(10, 5, None),
            cost="0.25",
            check=has_one_usage_chunk,
        ),
        "",
    )
    # Raw deflate, as many servers mean it.
    yield (
        answered(
            "deflate", NAN_PLAIN, False, "No", edit=deflated, tokens=(10, 1, None), cost="0.13"
        ),
        "",
    )


def parameters() -> Iterator[Any]:
    for case, points in cases():
        edited = f"-{case.edit.__name__}" if case.edit is not bytes else ""
        ident = f"{case.name}{edited}-{'streamed' if case.streaming else 'plain'}"
        marks = [pytest.mark.xfail(strict=True, reason=f"point {points}")] if points else []
        yield pytest.param(case, id=ident, marks=marks)


EACH_CASE: Final = pytest.mark.parametrize("case", list(parameters()))


def test_each_recorded_case_is_replayed() -> None:
    replayed = {case.file for case, _ in cases()}
    assert replayed == {
        path.name for path in (CORPUS / "cases/streams").iterdir() if path.name != "README"
    }


def script(case: Case, *, pauses: bool = True) -> tuple[Script, bytes]:
    """What the providers do, and the bytes of the case."""
    sent = case.edit(recorded(f"cases/streams/{case.file}"))
    if sent.startswith(b"HTTP/"):
        return raw(sent), sent
    if case.file.endswith(".request.json"):
        return by_name, sent
    if case.file.endswith(".json"):
        return answer(200, sent), sent
    steps: list[Step] = []
    for place, part in enumerate(PAUSE.split(sent)):
        if place % 2 == 0:
            steps.append(part)
        elif pauses:
            steps.append(float(part))
    return stream(steps), PAUSE.sub(b"", sent)


def request_of(case: Case) -> dict[str, Any]:
    asked: dict[str, Any] = {"stream": case.streaming, **case.request}
    if case.file.endswith(".request.json"):
        asked |= json.loads(recorded(f"cases/streams/{case.file}"))
    return asked


def config(first: str, second: str) -> str:
    return CONFIG.format(first=first, second=second, key=KEY)


async def struck(proxy: Proxy) -> bool:
    """Whether a circuit of the first provider counts a failure."""
    health = (await proxy.get("/health")).json["providers"]["first"]
    return any(map(int, re.findall(r'"failure_count": (\d+)', json.dumps(health))))


def check_row(case: Case, row: Record) -> None:
    assert row.status == case.row
    assert [(one.provider, one.failure, one.money) for one in row.attempts] == list(case.attempts)
    assert (row.input_tokens, row.output_tokens, row.cached_tokens) == case.tokens
    assert row.cost_sats == (None if case.cost is None else Decimal(case.cost))
    paid = sum(failure is not None and money != "free" for _, failure, money in case.attempts)
    assert row.possibly_spent == paid


@EACH_CASE
async def test_the_client_gets_what_is_right_and_the_log_tells_it(
    case: Case, mock_clock: MockClock
) -> None:
    play, sent = script(case)
    found: list[Reply] = []

    async def ask() -> None:
        found.append(await proxy.chat(**request_of(case)))

    async with (
        open_fake_provider(play) as first,
        open_fake_provider(play if case.both else by_name) as second,
        open_proxy(config(first.url, second.url)) as proxy,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask)
        await pass_time(mock_clock, 10, until=lambda: bool(found and proxy.log.final))
        reply, row, counted = found[0], await proxy.record(), await struck(proxy)
    assert (first.hits, second.hits) == case.asked
    assert reply.status == case.status, reply.body
    check_row(case, row)
    assert counted == case.struck
    if case.code is not None:
        assert reply.error["code"] == case.code
        assert b"[DONE]" not in reply.body
    if case.text is not None:
        assert text_of(reply) == case.text
    if case.code is None and case.streaming:
        assert reply.trailer["cost_sats"] == (None if case.cost is None else float(case.cost))
    elif case.code is None:
        assert reply.headers.get("x-arbstr-cost-sats") == case.cost
    assert case.headers.items() <= reply.headers.items()
    if case.check is not None:
        case.check(reply, sent)
    if case.status == 429:
        return  # the SDK waits as long as it is told
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_time_pass, mock_clock)
        await check_the_sdk(case)
        nursery.cancel_scope.cancel()


async def let_time_pass(clock: MockClock) -> None:
    """For the SDK's sake, whose thread has a clock of its own: about as fast as that one."""
    while True:
        await wait_all_tasks_blocked(STEP)
        clock.jump(STEP)


def text_of(reply: Reply) -> str:
    """What the model said; nothing where it only called functions."""
    if reply.headers["content-type"] == "text/event-stream":
        return reply.text
    return "".join(choice["message"]["content"] or "" for choice in reply.json["choices"])


async def check_the_sdk(case: Case) -> None:
    """The OpenAI SDK makes the same of it. Pauses are left out."""
    play, _ = script(case, pauses=False)
    asked = request_of(case)
    wanted = {**chat(asked.pop("model", "gpt-4o")), **asked}
    async with (
        open_fake_provider(play) as first,
        open_fake_provider(play if case.both else by_name) as second,
        open_proxy(config(first.url, second.url)) as proxy,
    ):
        if case.code is None:
            reply = await trio.to_thread.run_sync(ask_sync, proxy.url, wanted)
            if case.streaming:
                said = [choice.delta.content for chunk in reply.chunks for choice in chunk.choices]
            else:
                said = [choice.message.content for choice in reply.answer.choices]
            assert "".join(text or "" for text in said) == case.text
        elif case.cut:
            with pytest.raises(openai.APIError) as broken:
                await trio.to_thread.run_sync(ask_sync, proxy.url, wanted)
            assert broken.value.code == case.code
        else:
            with pytest.raises(openai.APIStatusError) as refused:
                await trio.to_thread.run_sync(ask_sync, proxy.url, wanted)
            assert refused.value.status_code == case.status
        await proxy.wait_idle()
        assert (first.hits, second.hits) == case.asked

"""Failing over, over real sockets: what is seen on the first provider's wire, and what follows."""

import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.trio_runtime.upstream import call as upstream
from tests.fakes import (
    ACCEPT_AND_CLOSE,
    CLOSE_AFTER_REQUEST,
    RESET_AFTER_REQUEST,
    ROLE,
    ROUTSTR_ID,
    SILENCE,
    WORD,
    Behaviour,
    FakeProvider,
    Headers,
    Script,
    answer,
    by_name,
    chunk,
    completion,
    error_answer,
    error_object,
    half_answer,
    hello,
    json_answer,
    open_fake_provider,
    raw,
    refused_url,
    silent_url,
    sse,
    stream,
)
from tests.proxy import KEY, STEP, STREAMED, Proxy, Reply, config, open_proxy, pass_time, provider

# --- the table --------------------------------------------------------------------------------
#
# Written by hand from the specification's tables of failures and of what may follow them. A cell
# is the failure's name in the log and what follows it:
#
#   again     free: three tries at the first provider, then the second one answers
#   next      free: one try, then the second one answers
#   refuse    free: one try, and the client gets the provider's own status and error object
#   unknown   perhaps paid: one try, then 400; with consent the second provider answers
#   spent     paid for nothing: the same
#   cut       paid for in part, a node's perhaps not at all: the client has a part, so an error
#             event and no second provider
#
# The columns are the key's kind; a Routstr node's answer bears its request id ("node") or not
# ("routstr": something in front of the node gave up). An answer without a head cannot bear it.

TABLE: Final = """
seen                          | request | openai                | node                  | routstr
400                           | any     | client_error  refuse  | client_error  refuse  | client_error  refuse
401                           | any     | account       next    | account       next    | account       next
402                           | any     | account       next    | account       next    | account       next
403                           | any     | account       next    | account       next    | account       next
404                           | any     | no_endpoint   next    | no_endpoint   next    | no_endpoint   next
404 of the model              | any     | no_model      next    | no_model      next    | no_model      next
405                           | any     | no_endpoint   next    | no_endpoint   next    | no_endpoint   next
408                           | any     | server_error  again   | server_error  again   | server_error  unknown
409                           | any     | server_error  again   | server_error  again   | server_error  unknown
413                           | any     | client_error  refuse  | client_error  refuse  | client_error  refuse
413 of the context            | any     | not_capable   next    | not_capable   next    | not_capable   next
415                           | any     | client_error  refuse  | client_error  refuse  | client_error  refuse
422                           | any     | client_error  refuse  | client_error  refuse  | client_error  refuse
424                           | any     | client_error  refuse  | server_error  again   | server_error  unknown
425                           | any     | server_error  again   | server_error  again   | server_error  unknown
429                           | any     | rate_limited  next    | rate_limited  next    | rate_limited  next
500                           | any     | server_error  again   | server_error  again   | server_error  unknown
501                           | any     | no_endpoint   next    | no_endpoint   next    | no_endpoint   next
502                           | any     | server_error  again   | server_error  again   | server_error  unknown
503                           | any     | server_error  again   | server_error  again   | server_error  unknown
499                           | any     | gave_up       unknown | gave_up       next    | gave_up       unknown
504                           | any     | gave_up       unknown | gave_up       next    | gave_up       unknown
524                           | any     | gave_up       unknown | gave_up       next    | gave_up       unknown
529                           | any     | server_error  again   | server_error  again   | server_error  unknown
204                           | any     | bad_status    next    | bad_status    unknown | bad_status    unknown
307                           | any     | bad_status    next    | bad_status    unknown | bad_status    unknown
connection refused            | any     | not_sent      next    |                       | not_sent      next
accept and close              | any     | no_answer     unknown |                       | no_answer     unknown
close after the request       | any     | no_answer     unknown |                       | no_answer     unknown
reset after the request       | any     | no_answer     unknown |                       | no_answer     unknown
half of a head                | any     | no_answer     unknown |                       | no_answer     unknown
not HTTP                      | any     | no_answer     unknown |                       | no_answer     unknown
silence                       | any     | no_answer     unknown |                       | no_answer     unknown
head, then reset              | plain   | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
head, then reset              | stream  | stream_died   unknown | stream_died   unknown | stream_died   unknown
reset after half a response   | any     | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
nothing at all                | any     | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
HTML                          | any     | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
truncated JSON                | any     | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
no choices                    | any     | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
an error object               | any     | error_answer  next    | error_answer  next    | error_answer  next
a context length in a 200     | any     | not_capable   next    | not_capable   next    | not_capable   next
UPSTREAM_RATE_LIMIT in a 200  | any     | rate_limited  next    | rate_limited  next    | rate_limited  next
a context length as an event  | any     | not_capable   next    | not_capable   next    | not_capable   next
first event an error          | any     | error_answer  next    | error_answer  next    | error_answer  next
role, then an error           | any     | error_answer  next    | error_answer  next    | error_answer  next
role, then the end            | plain   | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
role, then the end            | stream  | stream_died   unknown | stream_died   unknown | stream_died   unknown
role, then a reset            | plain   | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
role, then a reset            | stream  | stream_died   unknown | stream_died   unknown | stream_died   unknown
role, then nothing            | plain   | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
role, then nothing            | stream  | stream_died   unknown | stream_died   unknown | stream_died   unknown
comments for ever             | stream  | stream_died   unknown | stream_died   unknown | stream_died   unknown
content, then the end         | plain   | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
content, then the end         | stream  | stream_cut    cut     | stream_cut    cut     | stream_cut    cut
content, then a reset         | plain   | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
content, then a reset         | stream  | stream_cut    cut     | stream_cut    cut     | stream_cut    cut
content, then nothing         | stream  | stream_cut    cut     | stream_cut    cut     | stream_cut    cut
content, then an error        | plain   | bad_answer    spent   | bad_answer    spent   | bad_answer    spent
content, then an error        | stream  | stream_cut    cut     | stream_cut    cut     | stream_cut    cut
content and an error at once  | stream  | stream_cut    cut     | stream_cut    cut     | stream_cut    cut
"""  # noqa: E501 - a table

TIMED: Final = ("silence", "role, then nothing", "comments for ever", "content, then nothing")
"""What only a timer ends."""


@dataclass(frozen=True)
class Case:
    seen: str
    streaming: bool
    column: str
    consent: str
    failure: str
    follows: str

    def __str__(self) -> str:
        way = "streamed" if self.streaming else "plain"
        return f"{self.seen}, {way}, {self.column}, {self.consent}"

    @property
    def timed(self) -> bool:
        return self.seen in TIMED

    @property
    def tries(self) -> int:
        return 3 if self.follows == "again" else 1

    @property
    def money(self) -> str:
        free = self.follows in ("again", "next", "refuse")
        if self.follows == "cut":
            return "spent" if self.column == "openai" else "unknown"
        return "free" if free else self.follows

    @property
    def second_answers(self) -> bool:
        stopped = self.follows in ("unknown", "spent") and self.consent == "stop"
        return not stopped and self.follows not in ("refuse", "cut")


def consents(cell: str) -> tuple[str, ...]:
    """Where nothing may have cost, consent changes nothing, and one way to say so is enough."""
    return (
        ("stop", "header", "config") if cell.endswith(("unknown", "spent")) else ("stop", "header")
    )


def cases() -> list[Case]:
    header, *lines = [
        [cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()
    ]
    return [
        Case(seen, streaming, column, consent, *cell.split())
        for seen, request, *cells in lines
        for column, cell in zip(header[2:], cells, strict=True)
        for streaming in (False, True)
        for consent in consents(cell)
        if cell and request in ("any", "stream" if streaming else "plain")
    ]


ERROR: Final = {"error": error_object("the fake broke", "server_error", 500)}
TOO_LONG: Final = {"error": error_object("longer than the context of 8192", "BadRequest", 400)}
LIMITED: Final = {"error": error_object("slow down", "x", "UPSTREAM_RATE_LIMIT")}
BODY: Final = json.dumps(completion("Hello there")).encode()
COMMENTS: Final = [step for _ in range(40) for step in (b": still here\n\n", 1.0)]


def behaviour(seen: str, headers: Headers) -> Behaviour:
    """How the first provider does what a row says; `headers` are in the answer's head."""
    if seen.isdigit():
        return error_answer(int(seen), headers=headers)
    plays: dict[str, Behaviour] = {
        "connection refused": ACCEPT_AND_CLOSE,  # not there: nobody listens at all
        "accept and close": ACCEPT_AND_CLOSE,
        "close after the request": CLOSE_AFTER_REQUEST,
        "reset after the request": RESET_AFTER_REQUEST,
        "half of a head": raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
        "not HTTP": raw(b"220 mail.example ESMTP\r\n"),
        "silence": SILENCE,
        "head, then reset": half_answer(BODY, 0, headers=headers),
        "reset after half a response": half_answer(BODY, headers=headers),
        "nothing at all": answer(200, b"", headers),
        "HTML": answer(200, b"<!doctype html><p>Hi", headers, content_type="text/html"),
        "truncated JSON": answer(200, BODY[:60], headers),
        "no choices": json_answer({"id": "x", "choices": []}, headers=headers),
        "an error object": json_answer(ERROR, headers=headers),
        "404 of the model": error_answer(404, "no model of that name", headers=headers),
        "413 of the context": error_answer(413, "prompt is too long", headers=headers),
        "a context length in a 200": json_answer(TOO_LONG, headers=headers),
        "a context length as an event": stream([sse(TOO_LONG)], headers=headers),
        "UPSTREAM_RATE_LIMIT in a 200": json_answer(LIMITED, headers=headers),
        "first event an error": stream([sse(ERROR)], headers=headers),
        "role, then an error": stream([ROLE, sse(ERROR)], headers=headers),
        "role, then the end": stream([ROLE], headers=headers),
        "role, then a reset": stream([ROLE], ending="rst", headers=headers),
        "role, then nothing": stream([ROLE], ending="hang", headers=headers),
        "comments for ever": stream([ROLE, *COMMENTS], ending="hang", headers=headers),
        "content, then the end": stream([ROLE, WORD], headers=headers),
        "content, then a reset": stream([ROLE, WORD], ending="rst", headers=headers),
        "content, then nothing": stream([ROLE, WORD], ending="hang", headers=headers),
        "content, then an error": stream([ROLE, WORD, sse(ERROR)], headers=headers),
        "content and an error at once": stream([ROLE + WORD + sse(ERROR)], headers=headers),
    }
    return plays[seen]


async def ask(proxy: Proxy, case: Case) -> Reply:
    headers = {"x-arbstr-respend": "allow"} if case.consent == "header" else {}
    return await proxy.chat(headers=headers, stream=case.streaming)


@pytest.mark.parametrize("case", [case for case in cases() if not case.timed], ids=str)
async def test_what_was_seen_decides_what_follows_and_what_it_cost(case: Case) -> None:
    await play(case, lambda proxy: ask(proxy, case))


@pytest.mark.parametrize("case", [case for case in cases() if case.timed], ids=str)
async def test_the_same_where_only_a_timer_ends_it(case: Case, mock_clock: MockClock) -> None:
    async def asking(proxy: Proxy) -> Reply:
        replies: list[Reply] = []

        async def ask_now() -> None:
            replies.append(await ask(proxy, case))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_now)
            await pass_time(mock_clock, 30, until=lambda: bool(proxy.log.final), step=1)
        return replies[0]

    await play(case, asking)


async def play(case: Case, asking: Callable[[Proxy], Awaitable[Reply]]) -> None:
    """Two providers, the first of which does what the row says, and one request."""
    kind = "openai" if case.column == "openai" else "routstr"
    more = "drain_seconds = 1\ntimeouts = { answer = 10, first_output = 10, idle = 10 }"
    retry = '[retry]\nbackoff = 0.001\npossibly_spent = "{}"\n'
    script = behaviour(case.seen, [ROUTSTR_ID] if case.column == "node" else [])
    with ExitStack() as stack:
        nobody = stack.enter_context(refused_url()) if case.seen == "connection refused" else None
        async with (
            open_fake_provider(script) as first,
            open_fake_provider(by_name) as second,
            open_proxy(
                config(
                    provider("first", nobody or first.url, kind=kind, more=more),
                    provider("second", second.url, rate=2),
                    more=retry.format("next" if case.consent == "config" else "stop"),
                )
            ) as proxy,
        ):
            reply = await asking(proxy)
            record = await proxy.record()
            await proxy.wait_idle()
            state = proxy.hub.board.view("first", trio.current_time()).state

    assert (first.hits, second.hits) == (0 if nobody else case.tries, int(case.second_answers))
    tried = [(attempt.provider, attempt.failure, attempt.money) for attempt in record.attempts]
    assert (
        tried
        == [("first", case.failure, case.money)] * case.tries
        + [("second", None, "spent")] * case.second_answers
    )
    may_have_cost = int(case.money != "free")
    assert record.possibly_spent == may_have_cost
    assert state == "closed"
    check_reply(case, reply, may_have_cost)
    expected = ("ok", None) if case.second_answers else ("failed", reply.status)
    if case.follows == "cut":
        expected = ("stream_incomplete", 502)
    assert (record.status, record.error_status) == expected
    assert record.provider == ("second" if case.second_answers else "first")
    # Each attempt is offered when it starts, so that none is forgotten if arbstr is killed.
    in_flight = ["in_flight"] * (case.tries + case.second_answers)
    assert [row.status for row in proxy.log.offered] == [*in_flight, record.status]
    for n, row in enumerate(proxy.log.offered[:-1], start=1):
        assert [attempt.money for attempt in row.attempts[n - 1 :]] == [None]
        assert row.attempts[: n - 1] == record.attempts[: n - 1]


def check_reply(case: Case, reply: Reply, may_have_cost: int) -> None:
    assert reply.whole == (case.follows != "cut")
    if case.follows == "cut":
        assert reply.status == 200
        assert reply.text == "Hello"
        assert reply.error["code"] == "stream_interrupted"
        assert b"[DONE]" not in reply.body
        assert len(reply.events) == 3
        return
    assert reply.headers["x-arbstr-retries"] == f"{case.tries}/first"
    spent = reply.headers.get("x-arbstr-possibly-spent")
    assert spent == (str(may_have_cost) if may_have_cost else None)
    if case.second_answers:
        assert (reply.status, reply.text) == (200, "Hello there")
        assert reply.headers["x-arbstr-provider"] == "second"
        if case.streaming:
            assert reply.trailer["provider"] == "second"
            assert reply.trailer["retries"] == f"{case.tries}/first"
        return
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers
    if case.follows == "refuse":
        assert reply.status == int(case.seen)
        assert reply.json == {"error": error_object("the fake says no")}
    else:
        assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
        assert reply.error["type"] == "upstream_error"
        assert "first" in reply.error["message"]
        assert "X-Arbstr-Respend: allow" in reply.error["message"]


# --- the same provider again ------------------------------------------------------------------

DEFAULTS: Final = ""
QUICK: Final = "[retry]\nbackoff = 0.001"


def two(
    first: FakeProvider, second: FakeProvider, *, more: str = QUICK, kind: str = "openai"
) -> str:
    return config(
        provider("first", first.url, kind=kind),
        provider("second", second.url, rate=2, kind=kind),
        more=more,
    )


async def test_a_503_twice_then_recovery_is_answered_by_the_same_provider_after_a_backoff(
    mock_clock: MockClock,
) -> None:
    async with (
        open_fake_provider([error_answer(503), error_answer(503), by_name]) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=DEFAULTS)) as proxy,
        proxy.asking() as client,
    ):
        await first.wait_requests(1)
        await pass_time(mock_clock, 5.0, until=lambda: len(first.requests) == 3)
        reply = await client.reply()
    assert (reply.status, reply.headers["x-arbstr-provider"]) == (200, "first")
    assert reply.headers["x-arbstr-retries"] == "2/first"
    assert second.hits == 0
    times = [request.at for request in first.requests]
    assert 0.375 <= times[1] - times[0] <= 0.625 + STEP
    assert 0.75 <= times[2] - times[1] <= 1.25 + STEP
    assert (await proxy.record()).provider == "first"


async def test_max_retries_0_tries_each_provider_once() -> None:
    async with (
        open_fake_provider(error_answer(500)) as first,
        open_fake_provider(error_answer(500)) as second,
        open_proxy(two(first, second, more="[retry]\nmax_retries = 0")) as proxy,
    ):
        reply = await proxy.chat()
    assert (reply.status, reply.error["code"]) == (502, "upstream_error")
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["x-arbstr-retries"] == "1/first, 1/second"
    assert (first.hits, second.hits) == (1, 1)


async def test_a_provider_that_refuses_stream_options_is_asked_without_them_and_remembered() -> (
    None
):
    refusal = error_answer(400, "Unknown field: stream_options")
    async with (
        open_fake_provider([refusal, by_name]) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more="[retry]\nmax_retries = 0")) as proxy,
    ):
        reply = await proxy.chat(stream=True)
        again = await proxy.chat(stream=True)
    record = proxy.log.final[0]
    assert (reply.text, again.text) == ("Hello there", "Hello there")
    assert reply.headers["x-arbstr-retries"] == "1/first"
    assert "x-arbstr-retries" not in again.headers
    asked = [request.json.get("stream_options") for request in first.requests]
    assert asked == [{"include_usage": True}, None, None]
    assert [row.failure for row in record.attempts] == ["no_stream_options", None]
    assert second.hits == 0


ECHO: Final = error_answer(422, 'invalid request: {"stream_options": ..., "tools": 7}')
"""One bad request, quoted by the provider that refuses it: it names what arbstr had added."""


async def test_that_stream_options_are_refused_is_believed_once_it_answered_without_them() -> None:
    async with (
        open_fake_provider([ECHO, ECHO, by_name]) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        bad = await proxy.chat(stream=True)
        good = await proxy.chat(stream=True)
    assert (bad.status, good.status) == (422, 200)
    asked = ["stream_options" in request.json for request in fake.requests]
    assert asked == [True, False, True]
    assert good.trailer["cost_sats"] is not None


async def test_that_stream_options_are_refused_is_not_believed_for_anothers_answer() -> None:
    async with (
        open_fake_provider([ECHO, error_answer(429), by_name]) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second)) as proxy,
    ):
        assert (await proxy.chat(stream=True)).headers["x-arbstr-provider"] == "second"
        assert proxy.hub.refuse_stream_options == set()


async def test_that_stream_options_are_refused_is_believed_after_a_further_failure_too() -> None:
    async with (
        open_fake_provider([ECHO, answer(503), by_name]) as fake,
        open_proxy(config(provider("alpha", fake.url), more="[retry]\nbackoff = 0.001")) as proxy,
    ):
        for _ in range(2):
            assert (await proxy.chat(stream=True)).status == 200
    asked = ["stream_options" in request.json for request in fake.requests]
    assert asked == [True, False, False, False]


async def test_stream_options_of_the_client_that_are_refused_are_the_clients_error() -> None:
    async with (
        open_fake_provider(error_answer(400, "Unknown field: stream_options")) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second)) as proxy,
    ):
        reply = await proxy.chat(stream=True, stream_options={"include_usage": True})
    assert (reply.status, first.hits, second.hits) == (400, 1, 0)


# --- Retry-After ------------------------------------------------------------------------------


async def test_a_429_with_retry_after_7_is_left_alone_for_7_seconds(mock_clock: MockClock) -> None:
    async with (
        open_fake_provider([error_answer(429, headers=[("retry-after", "7")]), by_name]) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=DEFAULTS)) as proxy,
    ):
        reply = await proxy.chat()
        assert reply.headers["x-arbstr-provider"] == "second"
        assert reply.headers["x-arbstr-retries"] == "1/first"
        assert trio.current_time() == proxy.opened_at
        mock_clock.jump(6.9)
        reply = await proxy.chat()
        assert reply.headers["x-arbstr-provider"] == "second"
        # Not tried is no attempt.
        assert "x-arbstr-retries" not in reply.headers
        assert [row.provider for row in (await proxy.record(2)).attempts] == ["second"]
        assert first.hits == 1
        mock_clock.jump(0.2)
        reply = await proxy.chat()
        assert reply.headers["x-arbstr-provider"] == "first"
    assert (first.hits, second.hits) == (2, 2)


YESTERDAY: Final = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("said", "after_429", "after_503"),
    [
        ("7", 7.0, 7.0),
        ("0.25", 0.25, 0.25),
        ("86400", 600.0, 600.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 600.0, 600.0),
        ("garbage", 1.0, None),
        ("-5", 1.0, None),
        ("0", 1.0, None),
        ("1e999", 1.0, None),
        (YESTERDAY, 1.0, None),
        ("99999999999999999999", 600.0, 600.0),
    ],
)
async def test_whatever_retry_after_says_does_no_harm(
    said: str, after_429: float, after_503: float | None, mock_clock: MockClock
) -> None:
    headers = [("retry-after", said)]
    async with (
        open_fake_provider(error_answer(429, headers=headers)) as first,
        open_fake_provider([error_answer(503, headers=headers), by_name]) as second,
        open_fake_provider() as third,
        open_proxy(
            config(
                provider("first", first.url),
                provider("second", second.url, rate=2),
                provider("third", third.url, rate=3),
                more="[retry]\nmax_retries = 0\npatience = 0",
            )
        ) as proxy,
    ):
        assert (await proxy.chat()).headers["x-arbstr-provider"] == "third"
        now = trio.current_time()
        rests = [proxy.hub.board.view(name, now).resting_until for name in ("first", "second")]
        shown = [one["resting_until"] for one in (await proxy.get("/providers")).json["providers"]]
    expected = [now + after_429, None if after_503 is None else now + after_503]
    assert rests == [None if at is None else pytest.approx(at) for at in expected]
    assert [one is None for one in shown] == [at is None for at in (*expected, None)]


async def test_a_wait_longer_than_the_backoff_sends_the_request_to_the_next_provider() -> None:
    async with (
        open_fake_provider(error_answer(503, headers=[("retry-after", "4")])) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=DEFAULTS)) as proxy,
    ):
        reply = await proxy.chat()
    assert (reply.headers["x-arbstr-provider"], first.hits) == ("second", 1)


async def test_when_all_providers_rest_the_client_is_told_the_soonest_and_nobody_is_asked(
    mock_clock: MockClock,
) -> None:
    async with (
        open_fake_provider(error_answer(429, headers=[("retry-after", "30")])) as first,
        open_fake_provider(error_answer(429, headers=[("retry-after", "7")])) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        for retries in ("1/first, 1/second", None):
            reply = await proxy.chat()
            assert (reply.status, reply.error["code"]) == (429, "rate_limited")
            assert reply.error["type"] == "rate_limit_error"
            assert reply.headers["retry-after"] == "7"
            assert reply.headers.get("x-arbstr-retries") == retries
        assert (first.connections, second.connections) == (1, 1)
        mock_clock.jump(2.5)
        assert (await proxy.chat()).headers["retry-after"] == "5"
    tried, refused, _ = proxy.log.final
    assert (tried.status, len(tried.attempts)) == ("failed", 2)
    assert (refused.status, refused.error_status, refused.attempts) == ("rejected", 429, ())


# --- consent ----------------------------------------------------------------------------------

TAKEN: Final = CLOSE_AFTER_REQUEST


@pytest.mark.parametrize(
    ("scripts", "consent", "status", "hits", "retries", "spent"),
    [
        pytest.param((TAKEN, by_name, by_name), False, 400, (1, 0, 0), "1/1", "1", id="no consent"),
        pytest.param(
            (error_answer(503), TAKEN, by_name),
            False,
            400,
            (3, 1, 0),
            "3/1, 1/2",
            "1",
            id="free failures come first",
        ),
        pytest.param(
            (TAKEN, error_answer(503), by_name),
            True,
            200,
            (1, 3, 1),
            "1/1, 3/2",
            "1",
            id="free failures between do not count",
        ),
        pytest.param(
            (TAKEN, TAKEN, by_name),
            True,
            400,
            (1, 1, 0),
            "1/1, 1/2",
            "2",
            id="one further attempt may cost",
        ),
        pytest.param(
            (TAKEN, error_answer(402), error_answer(500)),
            True,
            400,
            (1, 1, 3),
            "1/1, 1/2, 3/3",
            "1",
            id="what may have been paid is the last word",
        ),
        pytest.param(
            (TAKEN, error_answer(422), by_name),
            True,
            422,
            (1, 1, 0),
            "1/1, 1/2",
            "1",
            id="but the client's own error goes before it",
        ),
    ],
)
@STREAMED
async def test_with_consent_one_further_attempt_may_cost(
    scripts: tuple[Script, Script, Script],
    consent: bool,
    status: int,
    hits: tuple[int, int, int],
    retries: str,
    spent: str,
    streaming: bool,
) -> None:
    async with (
        open_fake_provider(scripts[0]) as one,
        open_fake_provider(scripts[1]) as two_,
        open_fake_provider(scripts[2]) as three,
        open_proxy(
            config(
                *(
                    provider(str(n), fake.url, rate=n)
                    for n, fake in enumerate((one, two_, three), 1)
                ),
                more=QUICK,
            )
        ) as proxy,
    ):
        headers = {"x-arbstr-respend": "Allow"} if consent else {"x-arbstr-respend": "yes"}
        reply = await proxy.chat(headers=headers, stream=streaming)
        record = await proxy.record()
    assert (reply.status, (one.hits, two_.hits, three.hits)) == (status, hits)
    assert reply.headers["x-arbstr-retries"] == retries
    assert reply.headers["x-arbstr-possibly-spent"] == spent
    assert record.possibly_spent == int(spent)
    assert sum(row.money != "free" and row.failure is not None for row in record.attempts) == int(
        spent
    )


async def test_every_key_goes_to_its_own_provider_only() -> None:
    async with (
        open_fake_provider(error_answer(500)) as first,
        open_fake_provider(error_answer(401)) as second,
        open_fake_provider() as third,
        open_proxy(
            config(
                provider("first", first.url, key="sk-first"),
                provider("second", second.url, rate=2, key="sk-second"),
                provider("third", third.url, rate=3, key=None),
                more=QUICK,
            )
        ) as proxy,
    ):
        await proxy.chat(headers={"authorization": "Bearer sk-client", "cookie": "a=b"})
    assert {request.header("authorization") for request in first.requests} == {"Bearer sk-first"}
    assert [request.header("authorization") for request in second.requests] == ["Bearer sk-second"]
    assert [request.header("authorization") for request in third.requests] == [None]
    for request in (*first.requests, *second.requests, *third.requests):
        names = {name.lower() for name, _ in request.headers}
        assert names <= {
            "host",
            "user-agent",
            "accept",
            "accept-encoding",
            "content-type",
            "content-length",
            "authorization",
        }


@pytest.mark.parametrize(
    ("statuses", "status", "code"),
    [
        ((402, 402), 402, "insufficient_balance"),
        ((401, 401), 502, "provider_auth"),
        ((403, 402), 402, "insufficient_balance"),
        ((404, 404), 404, "model_not_found"),
        ((404, 401), 502, "provider_auth"),
        ((500, 404), 404, "model_not_found"),
        ((500, 402), 402, "insufficient_balance"),
        ((500, 429), 429, "rate_limited"),
        ((402, 429), 429, "rate_limited"),
        ((307, 500), 502, "upstream_error"),
    ],
)
async def test_the_most_useful_failure_is_the_clients_last_word(
    statuses: tuple[int, int], status: int, code: str
) -> None:
    async with (
        open_fake_provider(error_answer(statuses[0], "sk-test-0123456789abcdef")) as first,
        open_fake_provider(error_answer(statuses[1], "her own words")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        reply = await proxy.chat()
        record = await proxy.record()
    assert (reply.status, reply.error["code"]) == (status, code)
    assert set(reply.error) == {"message", "type", "param", "code"}
    for name in ("first", "second"):
        assert name in reply.error["message"]
    assert b"0123456789abcdef" not in reply.body
    # A person mends a key by what the provider says of it; the database keeps none of it.
    words = statuses[1] in (401, 402, 403)
    assert (b"her own words" in reply.body) is words
    assert record.error_message is not None
    assert "her own words" not in record.error_message
    assert record.error_message.startswith(reply.error["message"][:40])


# --- deadlines --------------------------------------------------------------------------------


async def test_connecting_that_takes_too_long_is_free_and_tried_elsewhere() -> None:
    with silent_url() as nowhere:
        slow = provider("first", nowhere, more="timeouts = { connect = 0.03 }")
        async with (
            open_fake_provider() as second,
            open_proxy(config(slow, provider("second", second.url, rate=2), more=QUICK)) as proxy,
        ):
            reply = await proxy.chat()
            assert reply.headers["x-arbstr-retries"] == "1/first"
            record = await proxy.record()
            assert [row.money for row in record.attempts] == ["free", "spent"]
        async with open_proxy(config(slow, more=QUICK)) as proxy:
            reply = await proxy.chat()
    assert (reply.status, reply.error["code"]) == (504, "connect_timeout")
    assert reply.headers["x-should-retry"] == "false"
    assert "0.03 s" in reply.error["message"]


async def test_comments_do_not_keep_a_stream_alive_after_output_either(
    mock_clock: MockClock,
) -> None:
    script = stream([ROLE, WORD, *COMMENTS], ending="hang")
    async with (
        open_fake_provider(script) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more="[timeouts]\nidle = 10")) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await pass_time(mock_clock, 15, until=lambda: bool(proxy.log.final), step=1)
        reply = await client.reply()
        await first.wait_left()
    assert reply.error["code"] == "stream_interrupted"
    assert "sent nothing for 10 s" in reply.error["message"]


async def test_comments_do_not_keep_a_stream_alive_that_has_begun_without_output(
    mock_clock: MockClock,
) -> None:
    script = stream([ROLE, *COMMENTS], ending="hang")
    limits = "[timeouts]\nidle = 10\nfirst_output = 1000"
    async with (
        open_fake_provider(script) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=limits)) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await pass_time(mock_clock, 15, until=lambda: bool(proxy.log.final), step=1)
        reply = await client.reply()
        await first.wait_left()
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
    assert "sent nothing for 10 s" in reply.error["message"]


async def test_a_deadline_of_one_provider_is_not_the_others() -> None:
    async with (
        open_fake_provider(SILENCE) as first,
        open_fake_provider(stream([0.1, *hello()])) as second,
        open_proxy(
            config(
                provider("first", first.url, more="timeouts = { first_output = 0.02 }"),
                provider("second", second.url, rate=2),
                more='[retry]\npossibly_spent = "next"',
            )
        ) as proxy,
    ):
        reply = await proxy.chat(stream=True)
    assert (reply.text, reply.trailer["retries"]) == ("Hello there", "1/first")


async def test_a_client_that_is_slow_to_read_is_not_the_providers_silence(
    mock_clock: MockClock,
) -> None:
    words = [sse(chunk("x" * 100_000)) for _ in range(300)]
    async with (
        open_fake_provider(stream([ROLE, *words, *hello()])) as fake,
        open_proxy(config(provider("only", fake.url), more="[timeouts]\nidle = 10")) as proxy,
        proxy.asking(stream=True) as client,
    ):
        status, headers = await client.head()
        await wait_all_tasks_blocked(0.05)
        mock_clock.jump(50)
        await wait_all_tasks_blocked(0.05)
        body, whole = await client.rest()
        assert Reply(status, headers, body, whole).trailer["provider"] == "only"
        assert (await proxy.record()).status == "ok"


TOTAL: Final = "[timeouts]\ntotal = 10\n[retry]\nbackoff = 1000\n"


async def past_total(proxy: Proxy, clock: MockClock, last: FakeProvider, **how: Any) -> Reply:
    """The answer to a request whose time is over while it deals with `last`."""
    async with proxy.asking(**how) as client:
        await last.wait_requests()
        await wait_all_tasks_blocked(0.01)
        clock.jump(10.01)
        return await client.reply()


@STREAMED
async def test_total_ends_a_wait_between_attempts(streaming: bool, mock_clock: MockClock) -> None:
    async with (
        open_fake_provider(error_answer(500)) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=TOTAL)) as proxy,
    ):
        reply = await past_total(proxy, mock_clock, first, stream=streaming)
        record = await proxy.record()
    assert (reply.status, reply.error["code"]) == (502, "upstream_error")
    assert "total = 10 s" in reply.error["message"]
    assert (first.hits, second.hits) == (1, 0)
    assert (record.status, record.possibly_spent) == ("failed", 0)


async def test_total_in_a_wait_does_not_forget_what_may_have_cost_before(
    mock_clock: MockClock,
) -> None:
    async with (
        open_fake_provider(TAKEN) as first,
        open_fake_provider(error_answer(500)) as second,
        open_proxy(two(first, second, more=TOTAL)) as proxy,
    ):
        consent = {"x-arbstr-respend": "allow"}
        reply = await past_total(proxy, mock_clock, second, headers=consent)
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
    assert reply.headers["x-arbstr-possibly-spent"] == "1"
    assert reply.headers["x-should-retry"] == "false"
    assert (first.hits, second.hits) == (1, 1)


@STREAMED
@pytest.mark.parametrize("consent", [False, True], ids=["stop", "consent"])
async def test_total_ends_an_attempt_as_what_was_seen_of_it(
    streaming: bool, consent: bool, mock_clock: MockClock
) -> None:
    async with (
        open_fake_provider(SILENCE) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=TOTAL)) as proxy,
    ):
        headers = {"x-arbstr-respend": "allow"} if consent else {}
        reply = await past_total(proxy, mock_clock, first, headers=headers, stream=streaming)
        record = await proxy.record()
        await first.wait_left()
        health = (await proxy.get("/health")).json
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
    assert reply.headers["x-arbstr-possibly-spent"] == "1"
    assert [(row.failure, row.money) for row in record.attempts] == [("no_answer", "unknown")]
    assert second.hits == 0
    # A limit of ours says nothing about the provider.
    assert health["providers"]["first"]["failure_count"] == 0


async def test_total_cuts_a_stream_with_the_error_event(mock_clock: MockClock) -> None:
    async with (
        open_fake_provider(stream([ROLE, WORD], ending="hang")) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=TOTAL)) as proxy,
    ):
        reply = await past_total(proxy, mock_clock, first, stream=True)
        record = await proxy.record()
        await first.wait_left()
    assert not reply.whole
    assert reply.error["code"] == "stream_interrupted"
    assert b"[DONE]" not in reply.body
    assert (record.status, record.attempts[0].failure) == ("stream_incomplete", "stream_cut")


async def test_total_after_the_answer_was_whole_is_a_success(mock_clock: MockClock) -> None:
    script = stream([ROLE, WORD, sse(chunk(finish="stop"))], ending="hang")
    async with (
        open_fake_provider(script) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more="[timeouts]\ntotal = 1")) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await first.wait_requests()
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(1.01)  # and not the 2 s a whole answer is waited on
        reply = await client.reply()
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(6)  # it is read on for its usage, which never comes
        record = await proxy.record()
    assert (reply.text, reply.trailer["cost_sats"]) == ("Hello", None)
    assert (record.status, record.cost_sats) == ("ok", None)


async def test_a_status_stands_even_if_its_body_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "ERROR_BODY_SECONDS", 0.02)
    endless_error = raw(b"HTTP/1.1 400 No\r\ncontent-length: 500\r\n\r\n{", "hang")
    async with (
        open_fake_provider(endless_error) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second)) as proxy,
    ):
        reply = await proxy.chat()
    assert (reply.status, second.hits) == (400, 0)


async def test_a_status_stands_even_if_a_deadline_comes_before_its_bodys_end(
    mock_clock: MockClock,
) -> None:
    endless_error = raw(b"HTTP/1.1 500 No\r\ncontent-length: 500\r\n\r\n{", "hang")
    async with (
        open_fake_provider(endless_error) as first,
        open_fake_provider() as second,
        open_proxy(two(first, second, more=QUICK + "\n[timeouts]\nanswer = 3")) as proxy,
        proxy.asking() as client,
    ):
        await pass_time(mock_clock, 20, until=lambda: second.hits > 0, step=1)
        reply = await client.reply()
    assert (reply.headers["x-arbstr-provider"], first.hits) == ("second", 3)


async def test_what_a_provider_says_of_key_or_model_stays_with_its_attempt() -> None:
    spent = error_answer(402, f"12 msats available, key {KEY}", error_type="low")
    unknown = error_answer(404, "no such model here")
    for refused, said in (
        (spent, "low: 12 msats available, key [REDACTED]"),
        (unknown, "fake_error: no such model here"),
        (error_answer(500, "of nothing else"), None),
    ):
        async with (
            open_fake_provider(refused) as first,
            open_fake_provider(by_name) as second,
            open_proxy(
                config(
                    provider("alpha", first.url),
                    provider("beta", second.url, rate=2),
                    more="[retry]\nmax_retries = 0\n",
                )
            ) as proxy,
        ):
            await proxy.chat()
            record = await proxy.record()
        assert [row.said for row in record.attempts] == [said, None]
        assert record.error_message is None

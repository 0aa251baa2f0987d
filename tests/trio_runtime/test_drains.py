"""Answers nobody waits for any more: read on where they are charged anyway, else cut at once."""

import json
import logging
import time
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from arbstr.trio_runtime import drains, relaying
from arbstr.trio_runtime.upstream.call import UpstreamCall
from tests.fakes import (
    ROLE,
    ROUTSTR_ID,
    ROUTSTR_USAGE,
    SILENCE,
    WORD,
    FakeProvider,
    Play,
    answer,
    chunk,
    completion,
    endless,
    hello,
    json_answer,
    open_fake_provider,
    raw,
    routstr_error,
    sse,
    stream,
    usage,
)
from tests.proxy import STREAMED, Proxy, config, open_proxy, provider, rows

REST: Final = [sse(chunk(finish="stop")), sse(chunk(usage=ROUTSTR_USAGE)), b"data: [DONE]\n\n"]
WHOLE: Final = completion("Hello there", usage=ROUTSTR_USAGE)
BODY: Final = json.dumps(WHOLE).encode()
HEAD: Final = b"HTTP/1.1 200 OK\r\nx-routstr-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
    ROUTSTR_ID[1].encode(),
    len(BODY),
)


def node(url: str, *, more: str = "", rate: int = 1, name: str = "node") -> str:
    return provider(name, url, kind="routstr", rate=rate, more=more)


IMPATIENT: Final = "timeouts = { answer = 0.03, first_output = 0.03 }"


def node_first(first: FakeProvider, second: FakeProvider, more: str) -> str:
    return config(node(first.url, more=more), provider("second", second.url, rate=2))


def gated(when: str, gate: trio.Event) -> Play:
    """An answer of a node that stops at `when` until the gate opens."""
    match when:
        case "before the head":
            return json_answer(WHOLE, headers=[ROUTSTR_ID], before=[gate])
        case "after the head":
            return Play((HEAD, gate, BODY))
        case "in the body":
            return Play((HEAD + BODY[:50], gate, BODY[50:]))
        case "before the stream":
            return stream([ROLE, WORD, *REST], headers=[ROUTSTR_ID], before=[gate])
        case "after the stream's head":
            return stream([gate, ROLE, WORD, *REST], headers=[ROUTSTR_ID])
        case "after the role":
            return stream([ROLE, gate, WORD, *REST], headers=[ROUTSTR_ID])
        case "after some output":
            return stream([ROLE, WORD, gate, *REST], headers=[ROUTSTR_ID])
        case _:
            return stream([ROLE, WORD, REST[0], gate, *REST[1:]], headers=[ROUTSTR_ID])


BUDGET: Final = "[budget]\nsats_per_day = 1000000"
PLAIN: Final = ("before the head", "after the head", "in the body")
FOR_STREAMS: Final = (
    *PLAIN,  # a node may answer a request for a stream with JSON
    "before the stream",
    "after the stream's head",
    "after the role",
    "after some output",
    "after the finish reason",
)
WHEN: Final = pytest.mark.parametrize(
    ("when", "streaming"),
    [(when, False) for when in (*PLAIN, *FOR_STREAMS[3:])] + [(when, True) for when in FOR_STREAMS],
)


async def settled() -> None:
    """Until everybody has taken in all that is in their sockets."""
    await wait_all_tasks_blocked(0.01)


async def ask_and_leave(proxy: Proxy, fake: FakeProvider, when: str, streaming: bool) -> None:
    """The client leaves when the provider has come to the gate, and has read what came before."""
    async with proxy.asking(stream=streaming) as client:
        await fake.wait_requests()
        if streaming and when in FOR_STREAMS[-2:]:
            await client.head()
            await client.until(b"Hello")
        await settled()


@WHEN
async def test_a_node_is_read_on_to_the_end_when_the_client_leaves(
    when: str, streaming: bool
) -> None:
    gate = trio.Event()
    async with (
        open_fake_provider(gated(when, gate)) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        await ask_and_leave(proxy, fake, when, streaming)
        await settled()
        assert proxy.hub.draining == 1
        assert proxy.log.final == []
        gate.set()
        record = await proxy.record()
        await fake.wait_open(1)
        assert (fake.hits, fake.left, fake.closed) == (1, 0, 0)
        assert proxy.hub.transport.statistics().idle == 1
    assert (record.status, record.success) == ("client_disconnected", False)
    assert (record.input_tokens, record.output_tokens) == (100, 50)
    assert str(record.provider_cost_sats) == "0.505"
    [row] = record.attempts
    assert (row.failure, row.money, row.http_status) == ("client_left", "spent", 200)
    assert (row.input_tokens, row.output_tokens) == (100, 50)
    assert str(row.provider_cost_sats) == "0.505"
    assert row.upstream_request_id == ROUTSTR_ID[1]
    assert record.possibly_spent == 1


@WHEN
async def test_another_provider_is_cut_within_a_second(when: str, streaming: bool) -> None:
    gate = trio.Event()
    unsigned = gated(when, gate)
    steps = tuple(
        step.replace(b"x-routstr-request-id", b"x-fake-request-id")
        if isinstance(step, bytes)
        else step
        for step in unsigned.steps
    )
    async with (
        open_fake_provider(Play(steps)) as fake,
        open_proxy(config(provider("plain", fake.url), more="[retry]\nlinger = 0")) as proxy,
    ):
        await ask_and_leave(proxy, fake, when, streaming)
        with trio.fail_after(1):
            await fake.wait_left()
        record = await proxy.record()
    [row] = record.attempts
    assert (row.failure, row.money) == ("client_left", "unknown")
    assert (record.status, record.possibly_spent) == ("client_disconnected", 1)


async def test_what_was_counted_before_the_client_left_is_kept() -> None:
    counted = sse(chunk("Hello", usage=usage(100, 50)))
    async with (
        open_fake_provider(stream([ROLE, counted], ending="hang")) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        async with proxy.asking(stream=True) as client:
            await client.head()
            await client.until(b"Hello")
        record = await proxy.record()
    assert (record.status, record.input_tokens) == ("client_disconnected", 100)


async def test_a_client_that_only_closes_its_half_counts_as_gone() -> None:
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(config(provider("plain", fake.url))) as proxy,
        proxy.asking() as client,
    ):
        await fake.wait_requests()
        await client.close_half()
        await fake.wait_left()
        assert (await proxy.record()).status == "client_disconnected"


async def test_a_client_that_leaves_before_anything_was_sent_costs_nothing() -> None:
    async with (
        open_fake_provider(routstr_error(503)) as fake,
        open_proxy(config(node(fake.url), more="[retry]\nbackoff = 1000")) as proxy,
    ):
        async with proxy.asking():
            await fake.wait_requests()
            await settled()
        record = await proxy.record()
    assert (record.status, record.possibly_spent) == ("client_disconnected", 0)
    assert [(row.failure, row.money) for row in record.attempts] == [("server_error", "free")]
    assert fake.hits == 1


async def test_a_drain_books_what_it_learnt_and_not_what_was_set_aside() -> None:
    gate = trio.Event()
    async with (
        open_fake_provider(gated("before the head", gate)) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        async with proxy.asking():
            await fake.wait_requests()
        await settled()
        before = proxy.hub.budget.view(time.time())
        gate.set()
        (row,) = (await proxy.record()).attempts
        account = proxy.hub.budget.view(time.time())
    assert not before.spent
    assert before.reserved == row.set_aside_sats
    assert account.spent == row.cost_sats
    assert not account.reserved
    assert row.cost_sats != row.set_aside_sats


@STREAMED
async def test_a_drain_lasts_at_most_drain_seconds(streaming: bool) -> None:
    script = endless([ROLE, WORD], WORD) if streaming else SILENCE
    async with (
        open_fake_provider(script) as fake,
        open_proxy(config(node(fake.url, more="drain_seconds = 0.05"))) as proxy,
    ):
        async with proxy.asking(stream=streaming):
            await fake.wait_requests()
        await fake.wait_left()
        record = await proxy.record()
    [row] = record.attempts
    assert (row.failure, row.money, row.provider_cost_sats) == ("client_left", "unknown", None)
    assert record.possibly_spent == 1


async def test_drain_seconds_0_reads_nothing_on() -> None:
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(config(node(fake.url, more="drain_seconds = 0"))) as proxy,
    ):
        async with proxy.asking():
            await fake.wait_requests()
        await fake.wait_left()
        assert (await proxy.record()).attempts[0].money == "unknown"


@pytest.mark.parametrize(
    ("late", "money", "spent"),
    [
        pytest.param(routstr_error(500), "free", 0, id="an error of the node's own"),
        pytest.param(answer(502), "unknown", 1, id="an error of something before it"),
        pytest.param(json_answer({"error": {"message": "x"}}), "free", 0, id="an error object"),
        pytest.param(json_answer(completion()), "spent", 1, id="an answer without a price"),
        pytest.param(answer(200, b"<p>"), "spent", 1, id="HTML"),
        pytest.param(raw(b"HT"), "unknown", 1, id="half a head"),
        pytest.param(
            json_answer(completion(usage={**ROUTSTR_USAGE, "cost": {"total_msats": 0}})),
            "free",
            0,
            id="an answer for nothing",
        ),
        pytest.param(stream([ROLE]), "unknown", 1, id="a stream without output"),
        pytest.param(stream([ROLE, WORD]), "unknown", 1, id="a stream cut after output"),
        pytest.param(
            stream([ROLE, sse(chunk(usage={**ROUTSTR_USAGE, "cost": {"total_msats": 0}}))]),
            "free",
            0,
            id="a stream cut before output, for nothing",
        ),
        pytest.param(stream([sse({"error": {"message": "x"}})]), "free", 0, id="an error event"),
    ],
)
async def test_what_a_drain_sees_turns_a_guess_into_knowledge(
    late: Play, money: str, spent: int
) -> None:
    gate = trio.Event()
    async with (
        open_fake_provider(Play((gate, *late.steps), late.ending)) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        async with proxy.asking(stream=True):
            await fake.wait_requests()
        await settled()
        gate.set()
        record = await proxy.record()
    assert [(row.failure, row.money) for row in record.attempts] == [("client_left", money)]
    assert record.possibly_spent == spent


@STREAMED
async def test_a_node_that_states_0_and_breaks_off_had_more_to_say(streaming: bool) -> None:
    nothing = sse(chunk(usage={**ROUTSTR_USAGE, "cost": {"total_msats": 0}}))
    async with (
        open_fake_provider(stream([ROLE, nothing], ending="rst", headers=[ROUTSTR_ID])) as first,
        open_fake_provider(json_answer(WHOLE)) as second,
        open_proxy(node_first(first, second, "")) as proxy,
    ):
        reply = await proxy.chat(stream=streaming)
        record = await proxy.record()
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
    # What is known later agrees with what its client was told: nobody has heard anything since.
    [row] = record.attempts
    assert (row.money, second.hits) == ("unknown" if streaming else "spent", 0)
    assert reply.headers["x-arbstr-possibly-spent"] == str(record.possibly_spent) == "1"


@STREAMED
async def test_what_a_broken_stream_states_stands_whatever_was_asked_for(streaming: bool) -> None:
    charged = sse(chunk(usage=ROUTSTR_USAGE))
    play = stream([ROLE, WORD, charged], ending="rst", headers=[ROUTSTR_ID])
    async with (
        open_fake_provider(play) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        await proxy.chat(stream=streaming)
        record = await proxy.record()
    [row] = record.attempts
    assert (row.money, row.cost_sats) == ("spent", Decimal("0.505"))
    assert (row.input_tokens, row.output_tokens) == (100, 50)


@STREAMED
async def test_our_own_timeout_leaves_a_drain_behind_while_the_next_provider_answers(
    streaming: bool,
) -> None:
    gate = trio.Event()
    streamed = stream([ROLE, WORD, *REST], before=[gate])
    late = streamed if streaming else json_answer(WHOLE, before=[gate])
    async with (
        open_fake_provider(late) as first,
        open_fake_provider() as second,
        open_proxy(node_first(first, second, more=IMPATIENT)) as proxy,
    ):
        reply = await proxy.chat(stream=streaming, headers={"x-arbstr-respend": "allow"})
        assert reply.text == "Hello there"
        assert reply.headers["x-arbstr-possibly-spent"] == "1"
        assert proxy.log.final == []
        gate.set()
        record = await proxy.record()
    assert (record.status, record.provider, record.input_tokens) == ("ok", "second", 10)
    late_row, good_row = record.attempts
    assert (late_row.money, late_row.input_tokens, good_row.money) == ("spent", 100, "spent")
    assert str(late_row.provider_cost_sats) == "0.505"
    assert late_row.failure == "no_answer"


async def test_a_drain_that_is_over_first_does_not_end_the_request() -> None:
    async with (
        open_fake_provider(SILENCE) as first,
        open_fake_provider(stream([0.1, *hello()])) as second,
        open_proxy(node_first(first, second, more="drain_seconds = 0.01\n" + IMPATIENT)) as proxy,
    ):
        reply = await proxy.chat(stream=True, headers={"x-arbstr-respend": "allow"})
        record = await proxy.record()
    assert reply.trailer["retries"] == "1/node"
    assert [row.money for row in record.attempts] == ["unknown", "spent"]


async def test_the_shutdown_ends_drains_and_their_rows_are_written(tmp_path: Path) -> None:
    database = tmp_path / "arbstr.db"
    async with open_fake_provider(SILENCE) as fake:
        async with open_proxy(config(node(fake.url)), database=database) as proxy:
            for streaming in (False, True):
                async with proxy.asking(stream=streaming, user=str(streaming)):
                    await fake.wait_requests(1 + streaming)
            await settled()
            assert proxy.hub.draining == 2
        await fake.wait_left(2)
    assert [row["status"] for row in rows(database)] == ["client_disconnected"] * 2
    assert [row["money"] for row in rows(database, "attempts")] == ["unknown"] * 2
    assert [row["possibly_spent"] for row in rows(database)] == [1, 1]


async def test_no_drain_begins_once_the_shutdown_has() -> None:
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(config(node(fake.url))) as proxy,
        proxy.asking() as client,
    ):
        await fake.wait_requests()
        proxy.hub.stop_all()
        reply = await client.reply()
        await fake.wait_left()
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")


async def test_drains_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "MAX_DRAINS", 1)
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        for count in (1, 2):
            async with proxy.asking(user=str(count)):
                await fake.wait_requests(count)
        await fake.wait_left(1)
        await proxy.log.wait(1)
        assert proxy.hub.draining == 1


@pytest.mark.parametrize("name", ["learn_the_rest", "stray_change"], ids=["reading", "its end"])
async def test_a_bug_in_a_drain_ends_nothing_but_that_drain(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a prompt nobody may read")

    monkeypatch.setattr(UpstreamCall, name, broken)
    async with (
        open_fake_provider(SILENCE) as fake,
        open_proxy(
            config(node(fake.url, more="drain_seconds = 0.1"), more="[retry]\nrepeat_guard = 0")
        ) as proxy,
    ):
        async with proxy.asking():
            await fake.wait_requests()
        assert (await proxy.record()).attempts[0].money == "unknown"
        assert (await proxy.get("/livez")).status == 200
    assert [r.levelno for r in caplog.records if "drain" in r.getMessage()] == [logging.ERROR]
    assert "prompt" not in caplog.text


# ---- an answer that is whole before it says what it took


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete stream is not waited on for its usage."""
    monkeypatch.setattr(relaying, "AFTER_COMPLETE_SECONDS", 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["openai", "routstr"])
async def test_a_usage_that_is_late_holds_up_the_ledger_and_not_the_client(kind: str) -> None:
    gate = trio.Event()
    late = stream([ROLE, WORD, REST[0], gate, *REST[1:]], headers=[ROUTSTR_ID])
    kept = stream([ROLE, WORD, REST[0], gate, *REST[1:]])
    async with (
        open_fake_provider(late if kind == "routstr" else kept) as fake,
        open_proxy(config(provider("node", fake.url, kind=kind), more=BUDGET)) as proxy,
    ):
        reply = await proxy.chat(stream=True)
        assert (reply.text, reply.trailer["cost_sats"]) == ("Hello", None)
        assert proxy.log.final == []
        assert proxy.hub.draining == 1
        assert proxy.hub.budget.view(time.time()).reserved > 0
        gate.set()
        record = await proxy.record()
        assert (record.status, record.input_tokens, record.output_tokens) == ("ok", 100, 50)
        [row] = record.attempts
        assert (row.failure, row.money, row.input_tokens) == (None, "spent", 100)
        assert row.cost_sats is not None
        assert row.cost_sats == record.cost_sats
        await fake.wait_open(1)
        assert (fake.left, fake.closed) == (0, 0)  # the connection serves the next request
        assert proxy.hub.budget.view(time.time()).reserved == 0


@pytest.mark.usefixtures("impatient")
async def test_tokens_are_waited_for_although_the_price_is_in_the_head() -> None:
    gate = trio.Event()
    priced = [ROUTSTR_ID, ("x-routstr-cost-msats", "505")]
    late = stream([ROLE, WORD, REST[0], gate, *REST[1:]], headers=priced)
    async with (
        open_fake_provider(late) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        assert (await proxy.chat(stream=True)).text == "Hello"
        assert proxy.hub.draining == 1
        gate.set()
        assert (await proxy.record()).input_tokens == 100


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["openai", "routstr"])
async def test_a_usage_that_never_comes_is_not_waited_for_without_end(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains, "LATE_SECONDS", 0.02)
    silent = stream([ROLE, WORD, REST[0]], ending="hang")
    more = "drain_seconds = 0.02" if kind == "routstr" else ""
    async with (
        open_fake_provider(silent) as fake,
        open_proxy(config(provider("node", fake.url, kind=kind, more=more))) as proxy,
    ):
        assert (await proxy.chat(stream=True)).trailer["cost_sats"] is None
        await fake.wait_left()
        record = await proxy.record()
    assert (record.status, record.cost_sats, record.possibly_spent) == ("ok", None, 0)
    assert [row.money for row in record.attempts] == ["spent"]


@pytest.mark.usefixtures("impatient")
async def test_the_shutdown_ends_the_wait_for_a_usage_with_what_is_known(tmp_path: Path) -> None:
    database = tmp_path / "arbstr.db"
    silent = stream([ROLE, WORD, REST[0]], ending="hang")
    async with open_fake_provider(silent) as fake:
        async with open_proxy(config(node(fake.url)), database=database) as proxy:
            assert (await proxy.chat(stream=True)).text == "Hello"
        await fake.wait_left()
    assert [(row["status"], row["cost_sats"]) for row in rows(database)] == [("ok", None)]


@pytest.mark.usefixtures("impatient")
async def test_too_many_drains_and_a_late_usage_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "MAX_DRAINS", 0)
    silent = stream([ROLE, WORD, REST[0]], ending="hang")
    async with (
        open_fake_provider(silent) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        assert (await proxy.chat(stream=True)).text == "Hello"
        await fake.wait_left()
        assert (await proxy.record()).status == "ok"


async def test_a_price_behind_done_is_found() -> None:
    late = stream([ROLE, WORD, REST[0], REST[2], REST[1]], headers=[ROUTSTR_ID])
    async with (
        open_fake_provider(late) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        assert (await proxy.chat(stream=True)).text == "Hello"
        assert str((await proxy.record()).provider_cost_sats) == "0.505"


@pytest.mark.parametrize("kind", ["openai", "routstr"])
async def test_a_usage_behind_done_holds_up_the_ledger_and_not_the_client(kind: str) -> None:
    gate = trio.Event()
    late = stream([ROLE, WORD, REST[0], REST[2], gate, sse(chunk(usage=usage(100, 50)))])
    async with (
        open_fake_provider(late) as fake,
        open_proxy(config(provider("node", fake.url, kind=kind))) as proxy,
    ):
        reply = await proxy.chat(stream=True)
        assert (reply.text, reply.trailer["cost_sats"]) == ("Hello", None)
        assert proxy.log.final == []
        gate.set()
        record = await proxy.record()
        await fake.wait_open(1)
        assert (fake.left, fake.closed) == (0, 0)
    assert (record.status, record.cost_sats) == ("ok", Decimal("0.15"))
    assert (record.input_tokens, record.output_tokens) == (100, 50)


async def test_where_no_usage_comes_behind_done_it_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drains, "LATE_SECONDS", 0.02)
    silent = stream([ROLE, WORD, REST[0], REST[2]], ending="hang")
    async with (
        open_fake_provider(silent) as fake,
        open_proxy(config(provider("plain", fake.url))) as proxy,
    ):
        assert (await proxy.chat(stream=True)).trailer["cost_sats"] is None
        await fake.wait_left()
        record = await proxy.record()
    assert (record.status, record.cost_sats) == ("ok", None)


async def test_a_provider_that_counts_nothing_keeps_its_connection() -> None:
    async with (
        open_fake_provider(stream([ROLE, WORD, REST[0], REST[2]])) as fake,
        open_proxy(config(provider("plain", fake.url))) as proxy,
    ):
        for count in (1, 2):
            assert (await proxy.chat(stream=True)).text == "Hello"
            assert (await proxy.record(count)).cost_sats is None
        assert fake.connections == 1


# ---- an answer that failed and goes on


ERROR: Final = sse({"error": {"message": "x", "code": 500}})
BEHIND_AN_ERROR: Final = {
    "an error event": [ROLE, WORD, ERROR],
    "an error in two": [ROLE, WORD, ERROR, ERROR],
    "an error, and [DONE]": [ROLE, WORD, ERROR, REST[2]],
    "an error, and more of the answer": [ROLE, WORD, ERROR, WORD, REST[0]],
}


@pytest.mark.parametrize("before", BEHIND_AN_ERROR.values(), ids=BEHIND_AN_ERROR)
async def test_a_drain_ends_with_the_body_and_not_with_an_error(
    before: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long the client waits, for a price that comes in time; here it does not.
    monkeypatch.setattr(relaying, "AFTER_COMPLETE_SECONDS", 0.01)
    gate = trio.Event()
    async with (
        open_fake_provider(stream([*before, gate, REST[1]], headers=[ROUTSTR_ID])) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        async with proxy.asking(stream=True) as client:
            await client.head()
            await client.until(b"stream_interrupted")
        gate.set()
        record = await proxy.record()
    [row] = record.attempts
    assert (row.money, str(row.provider_cost_sats)) == ("spent", "0.505")
    assert row.input_tokens == 100


async def test_a_drain_does_not_end_with_an_error_before_output_either() -> None:
    gates = [trio.Event(), trio.Event()]
    play = stream([gates[0], ROLE, ERROR, gates[1], REST[1]], headers=[ROUTSTR_ID])
    async with (
        open_fake_provider(play) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        async with proxy.asking(stream=True):
            await fake.wait_requests()
        for gate in gates:
            await settled()
            gate.set()
        [row] = (await proxy.record()).attempts
    assert (row.failure, row.money, str(row.provider_cost_sats)) == (
        "client_left",
        "spent",
        "0.505",
    )


@pytest.mark.parametrize("ending", ["clean", "fin", "hang"])
@STREAMED
async def test_an_answer_that_was_delivered_leaves_nothing_to_drain(
    ending: str, streaming: bool
) -> None:
    play = stream([ROLE, WORD, *REST], headers=[ROUTSTR_ID], ending=ending)  # type: ignore[arg-type]  # parametrised
    script = play if streaming else json_answer(WHOLE, headers=[ROUTSTR_ID])
    async with (
        open_fake_provider(script) as fake,
        open_proxy(config(node(fake.url))) as proxy,
    ):
        for count in (1, 2):
            reply = await proxy.chat(stream=streaming)
            assert reply.status == 200
            record = await proxy.record(count)
            assert (record.status, str(record.provider_cost_sats)) == ("ok", "0.505")
            assert proxy.hub.draining == 0
        assert fake.hits == 2

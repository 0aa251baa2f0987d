"""`[budget] sats_per_day`: what is sent and what is not, over real sockets."""

import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any, Final

import pytest
import trio

from arbstr.sansio.money import format_sats
from tests.clock import DAY, Clock
from tests.fakes import (
    CLOSE_AFTER_REQUEST,
    DONE,
    ROUTSTR_ID,
    ROUTSTR_USAGE,
    FakeProcess,
    Script,
    answer,
    chunk,
    completion,
    hello,
    json_answer,
    open_fake_provider,
    sse,
    stream,
    usage,
)
from tests.process import ArbstrProcess, arbstr_process, run_arbstr, wait_until
from tests.proxy import Proxy, Reply, config, open_proxy, provider
from tests.waiting import until

GOOD: Final = json_answer(completion("Hello"))
ONE_SAT: Final = "base_fee = 1"
"""Of a provider whose rates are 0: every request costs a sat, whatever is said."""

REFUSED: Final = "sats_per_day does not allow it"


def budget(sats: str, more: str = "") -> str:
    return f"[budget]\nsats_per_day = {sats}\n[retry]\nbackoff = 0.001\n{more}"


def one(url: str, sats: str = "5", *, rate: int = 0, more: str = ONE_SAT) -> str:
    """The provider alpha, a sat a request, under a budget of 5 sats."""
    return config(provider("alpha", url, rate=rate, more=more), more=budget(sats))


def account(proxy: Proxy) -> tuple[str, str]:
    """What is spent and what is reserved now."""
    found = proxy.hub.budget.view(time.time())
    return format_sats(found.spent), format_sats(found.reserved)


def assert_refused(reply: Reply) -> None:
    assert (reply.status, reply.error["code"]) == (402, "budget_exceeded")
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers


@pytest.mark.parametrize("streaming", [False, True])
async def test_of_twenty_at_once_only_those_are_sent_that_the_budget_holds(
    streaming: bool,
) -> None:
    gate = trio.Event()
    held = stream(hello(), before=[gate]) if streaming else json_answer(completion(), before=[gate])
    replies: list[Reply] = []
    async with open_fake_provider(held) as fake, open_proxy(one(fake.url, "8")) as proxy:
        fake.set_script(GOOD)
        for _ in range(3):
            assert (await proxy.chat()).status == 200
        fake.set_script(held)

        async def ask() -> None:
            replies.append(await proxy.chat(stream=streaming))
            if len(replies) == 15:
                gate.set()  # all that are refused are answered: now the others

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
            await proxy.log.wait(3 + 15)
            assert account(proxy) == ("3", "5")
        assert fake.hits == 3 + 5
        for reply in replies[:15]:
            assert_refused(reply)
        assert [reply.status for reply in replies[15:]] == [200] * 5
        await proxy.log.wait(3 + 20)
        assert account(proxy) == ("8", "0")
        rejected = [record for record in proxy.log.final if record.status == "rejected"]
        assert len(rejected) == 15
        assert all(not row.attempts and row.error_status == 402 for row in rejected)
        assert all(REFUSED in (row.error_message or "") for row in rejected)


async def test_the_refusal_says_what_is_spent_and_that_nothing_was_sent() -> None:
    async with open_fake_provider(GOOD) as fake, open_proxy(one(fake.url, "1.5")) as proxy:
        await proxy.chat()
        reply = await proxy.chat()
        assert_refused(reply)
        assert fake.hits == 1
    assert "alpha could cost 1 sats, more than the budget has left." in reply.error["message"]
    assert "Of the 1.5 sats of today, 1 are spent and 0 reserved" in reply.error["message"]
    assert "the day ends at 00:00 UTC, in " in reply.error["message"]
    assert not {"x-arbstr-retries", "x-arbstr-provider"} & set(reply.headers)


async def test_the_clients_maximum_is_set_aside_and_the_true_price_is_spent() -> None:
    # 5 tokens of output at 1000 sats per 1000 come; 40 in each of 2 choices were allowed.
    text = 'output_rate = 1000\nmodels = ["gpt-4o"]\nname = "alpha"\ninput_rate = 0\n'
    gate = trio.Event()
    held = json_answer(completion(usage=usage(10, 5)), before=[gate])
    async with open_fake_provider(held) as fake:
        table = f'[[providers]]\nurl = "{fake.url}"\n{text}'
        async with open_proxy(config(table, more=budget("100"))) as proxy:
            async with proxy.asking(max_tokens=40, n=2) as client:
                await fake.wait_requests()
                assert account(proxy) == ("0", "80")
                assert_refused(await proxy.chat(max_tokens=21))
                gate.set()
                assert (await client.reply()).headers["x-arbstr-cost-sats"] == "5"
                assert account(proxy) == ("5", "0")
            assert (await proxy.chat(max_tokens=95)).status == 200


async def test_a_streams_price_is_booked_before_its_last_byte() -> None:
    async with open_fake_provider(stream(hello())) as fake, open_proxy(one(fake.url)) as proxy:
        for spent in range(1, 6):
            async with proxy.asking(stream=True) as client:
                await client.head()
                await client.until(b"[DONE]")
                assert account(proxy) == (str(spent), "0")
        assert_refused(await proxy.chat(stream=True))


# -- what is set aside ---------------------------------------------------------------------------

HI: Final = [{"role": "user", "content": "hi"}]


def priced(url: str, sats: str, more: str = "") -> str:
    """The provider alpha at 20 sats for 1000 tokens of output, and no more."""
    table = (
        f'[[providers]]\nname = "alpha"\nurl = "{url}"\nmodels = ["gpt-4o"]\n'
        "input_rate = 0\noutput_rate = 20\n"
    )
    return config(table, more=f"[budget]\nsats_per_day = {sats}\n{more}")


async def learn(proxy: Proxy, answers: int = 20) -> None:
    for _ in range(answers):
        assert (await proxy.chat(messages=HI, max_tokens=100)).status == 200


@pytest.mark.parametrize("known", [0, 20])
async def test_forty_short_chats_at_once_keep_the_day_however_little_was_learnt_of_them(
    known: int,
) -> None:
    # Each takes 261 tokens, which is 5.22 sats. What was learnt first says that "hi" takes one.
    gate = trio.Event()
    held = json_answer(completion(usage=usage(1, 261)), before=[gate])
    replies: list[Reply] = []
    async with (
        open_fake_provider(json_answer(completion(usage=usage(1000, 888)))) as fake,
        open_proxy(priced(fake.url, "100000")) as proxy,
    ):
        if known:
            for tokens in (1, 40, 255):
                fake.set_script(json_answer(completion(usage=usage(1000, tokens))))
                await learn(proxy, known)
            assert proxy.hub.learnt.ratios[""].is_trusted
        before = Decimal(account(proxy)[0])
        proxy.hub.budget.configure(before + 20)
        fake.set_script(held)
        asked = fake.hits

        async def ask() -> None:
            members: dict[str, Any] = {} if known else {"max_tokens": 261}
            replies.append(await proxy.chat(messages=HI, **members))

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask)
            await until(lambda: fake.hits + len(replies) >= asked + 40)
            aside = Decimal(account(proxy)[1])
            assert 0 < aside <= 20
            gate.set()
        assert fake.hits == asked + 3
        assert sorted(reply.status for reply in replies) == [200] * 3 + [402] * 37
        assert Decimal(account(proxy)[0]) - before == 3 * Decimal("5.22")


async def test_an_agents_max_tokens_fits_a_days_budget() -> None:
    async with (
        open_fake_provider(GOOD) as fake,
        open_proxy(priced(fake.url, "100")) as proxy,
    ):
        assert (await proxy.chat(max_tokens=32_000)).status == 200
    async with (
        open_fake_provider(GOOD) as fake,
        open_proxy(priced(fake.url, "100", 'hold = "most"\n')) as proxy,
    ):
        refused = await proxy.chat(max_tokens=32_000)
        assert_refused(refused)
        assert fake.hits == 0
        assert (await proxy.chat(max_tokens=5_000)).status == 200
    message = refused.error["message"]
    assert "alpha could cost 640 sats, more than the budget has left." in message
    assert message.endswith(
        "So much, because the request allows 32000 tokens of output "
        '([budget] hold = "most"); lower its max_tokens, raise [budget] sats_per_day or set '
        'hold = "likely".'
    )


async def test_a_refusal_by_the_likely_length_says_so() -> None:
    async with (
        open_fake_provider(json_answer(completion(usage=usage(1, 300)))) as fake,
        open_proxy(priced(fake.url, "10000")) as proxy,
    ):
        proxy.hub.budget.configure(Decimal(81))
        first = await proxy.chat(max_tokens=32_000)
        proxy.hub.budget.configure(Decimal(10_000))
        for _ in range(20):
            assert (await proxy.chat(max_tokens=400)).status == 200
        spent = Decimal(account(proxy)[0])
        proxy.hub.budget.configure(spent + Decimal("5.99"))
        second = await proxy.chat(max_tokens=32_000)
        proxy.hub.budget.configure(spent + Decimal(6))
        assert (await proxy.chat(max_tokens=32_000)).status == 200
    assert_refused(first)
    assert first.error["message"].endswith(
        "So much, because the request allows 32000 tokens of output, and 4096 are reckoned with "
        'until 20 answers are known ([budget] hold = "likely"); lower its max_tokens or raise '
        "[budget] sats_per_day."
    )
    assert_refused(second)
    assert "could cost 6 sats, more" in second.error["message"]
    assert (
        "32000 tokens of output, and 300 is what 19 of 20 such answers take at most "
        in second.error["message"]
    )


async def test_a_cap_on_the_request_says_why_it_refuses() -> None:
    rule = '[[policies.rules]]\nname = "r"\nmax_sats_per_request = 20\n'
    headers = {"x-arbstr-policy": "r"}
    async with (
        open_fake_provider(GOOD) as fake,
        open_proxy(priced(fake.url, "1000", rule)) as proxy,
    ):
        reply = await proxy.chat(max_tokens=1001, headers=headers)
        assert (await proxy.chat(max_tokens=1000, headers=headers)).status == 200
    assert (reply.status, reply.error["code"]) == (400, "over_request_budget")
    assert reply.error["message"] == (
        'No provider of this model is within the policy "r": alpha could cost 20.02 sats, over 20 '
        "a request. So much, because the request allows 1001 tokens of output "
        '([budget] hold = "likely"); lower its max_tokens or raise max_sats_per_request.'
    )


async def test_the_larger_of_two_maxima_is_set_aside_and_neither_is_changed() -> None:
    gate = trio.Event()
    async with (
        open_fake_provider(json_answer(completion(), before=[gate])) as fake,
        open_proxy(priced(fake.url, "1000", 'hold = "most"\n')) as proxy,
    ):
        both: dict[str, Any] = {"max_tokens": 5000, "max_completion_tokens": 10}
        async with proxy.asking(**both) as client:
            await fake.wait_requests()
            assert account(proxy) == ("0", "100")
            gate.set()
            assert (await client.reply()).status == 200
        assert fake.requests[0].json.items() >= both.items()


@pytest.mark.parametrize("value", [-1, 0, 1000.0, 2**31])
async def test_a_maximum_that_is_none_is_forwarded_and_held_to_what_is_likely(
    value: object,
) -> None:
    gate = trio.Event()
    async with (
        open_fake_provider(json_answer(completion(), before=[gate])) as fake,
        open_proxy(priced(fake.url, "1000")) as proxy,
    ):
        async with proxy.asking(max_tokens=value, n=0, stream="no") as client:
            await fake.wait_requests()
            assert account(proxy) == ("0", "81.92")
            gate.set()
            assert (await client.reply()).status == 200
        sent = fake.requests[0].json
        assert (sent["max_tokens"], sent["n"], sent["stream"]) == (value, 0, "no")


# -- what an attempt that failed leaves in the books ---------------------------------------------


async def test_a_failure_that_was_free_gives_back_what_was_set_aside() -> None:
    script = [answer(503), answer(503), GOOD]
    async with open_fake_provider(script) as fake, open_proxy(one(fake.url, "1")) as proxy:
        reply = await proxy.chat()
        assert reply.headers["x-arbstr-retries"] == "2/alpha"
        assert account(proxy) == ("1", "0")


async def test_what_may_have_cost_is_booked_as_what_was_set_aside() -> None:
    script = [CLOSE_AFTER_REQUEST, GOOD]
    async with open_fake_provider(script) as fake, open_proxy(one(fake.url, "1")) as proxy:
        assert (await proxy.chat()).error["code"] == "possibly_spent"
        assert account(proxy) == ("1", "0")
        assert_refused(await proxy.chat(user="another"))
        assert fake.hits == 1


async def test_the_budget_may_end_a_failover() -> None:
    async with open_fake_provider(answer(401)) as alpha, open_fake_provider(GOOD) as beta:
        text = config(
            provider("alpha", alpha.url, rate=0, more=ONE_SAT),
            provider("beta", beta.url, rate=0, more="base_fee = 2"),
            more=budget("1.5"),
        )
        async with open_proxy(text) as proxy:
            reply = await proxy.chat()
            record = await proxy.record()
            assert account(proxy) == ("0", "0")
    assert_refused(reply)
    assert beta.hits == 0
    assert reply.headers["x-arbstr-retries"] == "1/alpha"
    assert (
        'alpha refused the key or its balance with status 401: check the key of provider "alpha"; '
        "beta could cost 2 sats" in reply.error["message"]
    )
    assert (record.status, record.error_status, len(record.attempts)) == ("failed", 402, 1)


async def test_a_failover_that_may_have_cost_is_told_although_the_budget_ended_it() -> None:
    async with open_fake_provider(CLOSE_AFTER_REQUEST) as alpha, open_fake_provider(GOOD) as beta:
        text = config(
            provider("alpha", alpha.url, rate=0, more=ONE_SAT),
            provider("beta", beta.url, rate=0, more="base_fee = 2"),
            more=budget("2.5"),
        )
        async with open_proxy(text) as proxy:
            reply = await proxy.chat(headers={"x-arbstr-respend": "allow"})
            assert account(proxy) == ("1", "0")
    assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
    assert "beta could cost 2 sats, more than the budget has left" in reply.error["message"]
    assert beta.hits == 0


async def test_a_refused_attempt_takes_no_probe_and_leaves_the_circuit_as_it_is() -> None:
    text = "[breaker]\nfailures = 1\nopen_seconds = 0\n"
    async with open_fake_provider([answer(500), GOOD]) as fake:
        settings = config(
            provider("alpha", fake.url, rate=0, more=ONE_SAT),
            more=budget("1", "max_retries = 0\n" + text),
        )
        async with open_proxy(settings) as proxy:
            assert (await proxy.chat()).status == 502
            proxy.hub.budget.configure(Decimal("0.5"))
            assert_refused(await proxy.chat())
            proxy.hub.budget.configure(Decimal(1))
            assert (await proxy.chat()).status == 200


async def test_an_open_circuit_sets_nothing_aside() -> None:
    async with open_fake_provider(answer(500)) as fake:
        settings = config(
            provider("alpha", fake.url, rate=0, more=ONE_SAT),
            more=budget("1", "max_retries = 0\n[breaker]\nfailures = 1\n"),
        )
        async with open_proxy(settings) as proxy:
            await proxy.chat()
            assert (await proxy.chat()).error["code"] == "circuit_open"
            assert account(proxy) == ("0", "0")


async def test_a_provider_without_rates_is_not_asked_under_a_budget() -> None:
    async with open_fake_provider(GOOD) as fake:
        table = f'[[providers]]\nname = "alpha"\nurl = "{fake.url}"\nmodels = ["gpt-4o"]\n'
        async with open_proxy(config(table, more=budget("5"))) as proxy:
            reply = await proxy.chat()
            assert fake.hits == 0
        async with open_proxy(config(table)) as proxy:
            assert (await proxy.chat()).status == 200
    assert_refused(reply)
    assert "alpha has no rates, so it cannot be held to the budget." in reply.error["message"]
    assert "are spent" not in reply.error["message"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_rates_typed_ten_times_too_low_do_not_let_the_budget_be_spent_tenfold(
    streaming: bool,
) -> None:
    """0.2 sats a request by the rates, 2 by the node: what it states is what is spent."""
    charged = {**ROUTSTR_USAGE, "cost": {"total_msats": 2000}}
    answers = stream(hello(usage=charged)) if streaming else json_answer(completion(usage=charged))
    async with open_fake_provider(answers) as fake:
        node = provider("node", fake.url, rate=0, kind="routstr", more="base_fee = 0.2")
        async with open_proxy(config(node, more=budget("2"))) as proxy:
            replies = [await proxy.chat(stream=streaming) for _ in range(10)]
            assert account(proxy) == ("2", "0")
            record = proxy.log.final[0]
        assert fake.hits == 1
    for reply in replies[1:]:
        assert_refused(reply)
    assert "2 are spent" in replies[1].error["message"]
    told = (
        str(replies[0].trailer["cost_sats"])
        if streaming
        else replies[0].headers["x-arbstr-cost-sats"]
    )
    assert told == "2"
    assert (record.cost_sats, record.expected_sats) == (Decimal(2), Decimal("0.2"))


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_million_tokens_nobody_can_have_used_do_not_close_the_day(
    streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    counts = usage(10, 1_000_000)
    answers = stream(hello(usage=counts)) if streaming else json_answer(completion(usage=counts))
    async with open_fake_provider(answers) as fake:
        text = config(provider("alpha", fake.url, rate=1000), more=budget("100"))
        async with open_proxy(text) as proxy:
            reply = await proxy.chat(stream=streaming, max_tokens=5)
            record = await proxy.record()
            spent, reserved = account(proxy)
            assert (await proxy.chat(max_tokens=5)).status == 200
    assert reserved == "0"
    assert 5 <= float(spent) < 20  # what was set aside
    assert "x-arbstr-cost-sats" not in reply.headers
    assert (record.output_tokens, record.cost_sats, record.expected_sats) == (None, None, None)
    if streaming:
        assert (reply.trailer["cost_sats"], reply.trailer["output_tokens"]) == (None, None)
    said = (
        "counted 1000000 tokens of output where the request allows 5 (model gpt-4o): not believed"
    )
    assert f"{said}, what was set aside is booked, {spent} sats" in caplog.text


async def test_what_a_failed_attempt_was_charged_is_spent() -> None:
    """An answer without choices, and yet with a price: less than what was set aside for it."""
    empty = json_answer({"choices": []}, headers=[ROUTSTR_ID, ("x-routstr-cost-msats", "750")])
    async with open_fake_provider(empty) as fake:
        node = provider("node", fake.url, rate=0, kind="routstr", more="base_fee = 2")
        async with open_proxy(config(node, more=budget("5"))) as proxy:
            assert (await proxy.chat()).error["code"] == "possibly_spent"
            record = await proxy.record()
            assert account(proxy) == ("0.75", "0")
    assert (record.cost_sats, record.attempts[0].money) == (Decimal("0.75"), "spent")


# -- answers that are read on --------------------------------------------------------------------


@asynccontextmanager
async def left_alone(script: Script, seconds: str = "60") -> AsyncIterator[Proxy]:
    """A client of a Routstr node has left after some output; its request reserved 5 sats."""
    async with open_fake_provider(script) as fake:
        node = provider(
            "node",
            fake.url,
            rate=0,
            kind="routstr",
            more=f"base_fee = 5\ndrain_seconds = {seconds}",
        )
        async with open_proxy(config(node, more=budget("5"))) as proxy:
            async with proxy.asking(stream=True) as client:
                await client.head()
                await client.until(b"Hello")
            yield proxy


def told(gate: trio.Event) -> Script:
    """A stream of a node; what it says it charged comes once the gate is open."""
    rest = [sse(chunk(finish="stop")), sse(chunk(usage=ROUTSTR_USAGE)), DONE]
    return stream([sse(chunk("Hello")), gate, *rest], headers=[ROUTSTR_ID])


async def test_what_is_read_on_stays_set_aside_until_its_price_is_known() -> None:
    gate = trio.Event()
    async with left_alone(told(gate)) as proxy:
        await until(lambda: proxy.hub.draining)
        assert account(proxy) == ("0", "5")
        assert_refused(await proxy.chat(user="another"))
        gate.set()
        await proxy.log.wait(2)
        assert account(proxy) == ("0.505", "0")  # what it says, and not its base fee


async def test_a_drain_that_learns_nothing_books_what_was_set_aside() -> None:
    async with left_alone(told(trio.Event()), "0.01") as proxy:
        record = await proxy.record()
        assert account(proxy) == ("5", "0")
        assert [row.cost_sats for row in record.attempts] == [None]


# -- what is told of it --------------------------------------------------------------------------


async def test_health_and_stats_show_the_running_day(tmp_path: Path) -> None:
    gate = trio.Event()
    async with open_fake_provider(GOOD) as fake:
        async with open_proxy(one(fake.url, "5.5"), database=tmp_path / "arbstr.db") as proxy:
            await proxy.chat()
            fake.set_script(json_answer(completion(), before=[gate]))
            async with proxy.asking() as client:
                await fake.wait_requests(2)
                shown = [
                    (await proxy.get(path)).json["budget"]
                    for path in ("/health", "/v1/stats?range=last_1h", "/stats")
                ]
                gate.set()
                await client.reply()
        async with open_proxy(config(provider("alpha", fake.url))) as proxy:
            assert "budget" not in (await proxy.get("/health")).json
            assert "budget" not in (await proxy.get("/v1/stats")).json
    ends_at = shown[0]["ends_at"]
    assert shown == [{"limit": 5.5, "spent": 1.0, "set_aside": 1.0, "ends_at": ends_at}] * 3
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT00:00:00.000Z", ends_at)


async def test_four_fifths_and_the_end_of_a_day_are_a_line_in_the_log_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_fake_provider(GOOD) as fake, open_proxy(one(fake.url, "5")) as proxy:
        lines = []
        for _ in range(6):
            caplog.clear()
            await proxy.chat()
            lines.append([m for m in caplog.messages if m.startswith("budget: ")])
    assert [len(line) for line in lines] == [0, 0, 0, 1, 1, 0]
    assert lines[3][0].startswith("budget: 80 % of the 5 sats of today are spent (4); ")
    assert lines[4][0].startswith("budget: all of the 5 sats of today are spent (5); ")


@pytest.mark.parametrize("limited", [True, False])
async def test_the_line_of_a_request_says_what_the_day_has_come_to(
    limited: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_fake_provider(GOOD) as fake:
        alpha = config(provider("alpha", fake.url, rate=0, more=ONE_SAT))
        async with open_proxy(one(fake.url, "5") if limited else alpha) as proxy:
            for _ in range(2):
                await proxy.chat()
    said = [each for each in caplog.records if " sats=1" in each.getMessage()]
    assert [each.getMessage().partition(" sats=1 ")[2] for each in said] == ["day=1", "day=2"]
    assert [vars(each)["day_sats"] for each in said] == [1, 2]


# -- the log remembers ---------------------------------------------------------------------------

PROCESS: Final = """
[budget]
sats_per_day = 3
[[providers]]
name = "alpha"
url = "{url}"
api_key = "sk-test"
models = ["*"]
input_rate = 0
output_rate = 0
base_fee = 1
"""


def test_a_restart_knows_what_was_spent_today_and_what_may_have_been(
    fake: FakeProcess, tmp_path: Path
) -> None:
    text = PROCESS.format(url=fake.url)
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        process.wait_stderr("budget: 0 of 3 sats of today (UTC) are spent")
        assert process.chat("fake-ok").status_code == 200
        with process.send_chat("fake-hang"):
            process.wait_rows(1, status="in_flight")
            assert process.chat("fake-401").status_code == 502
            process.wait_rows(1, status="ok")
            process.wait_rows(1, status="failed")
            process.stop(SIGKILL)
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        process.wait_stderr("budget: 2 of 3 sats of today (UTC) are spent")
        assert process.chat("fake-ok").status_code == 200
        assert process.chat("fake-ok").json()["error"]["code"] == "budget_exceeded"
        assert process.stop() == 0


def test_two_on_one_file_share_the_day_and_have_what_a_killed_one_leaves(
    fake: FakeProcess, tmp_path: Path
) -> None:
    text = PROCESS.format(url=fake.url).replace("= 3", '= 30\nhold = "most"')
    spent = 0

    def spend(process: ArbstrProcess, most: int) -> int:
        """Asks until it is refused, or has had so many answers; how many those were."""
        nonlocal spent
        for done in range(most):
            reply = process.chat("fake-ok")
            if reply.status_code != 200:
                assert reply.json()["error"]["code"] == "budget_exceeded"
                return done
            spent += 1
        return most

    start = partial(arbstr_process, config_text=text, directory=tmp_path)
    with start() as first:
        assert spend(first, 4) == 4
        with start() as second:
            second.wait_stderr("they share the day's budget")
            # Not refused, although the first held all of it.
            assert spend(second, 3) == 3
            first.wait_stderr("they share the day's budget")
            os.kill(second.pid, SIGSTOP)
            # The suspended one has some in hand, which nobody else may spend, and wakes up to it.
            spend(first, 40)
            os.kill(second.pid, SIGCONT)
            spend(second, 40)
            assert spent <= 30
            assert second.stop(SIGKILL) == -SIGKILL

        def is_spent() -> bool:
            spend(first, 40)
            return spent >= 30

        wait_until(is_spent, "what the killed one held is spent as well")
        assert spend(first, 2) == 0
        assert spent == 30
        assert first.ask("GET", "/health").json()["budget"]["spent"] == 30
        assert first.stop() == 0
    assert sum(row["cost_sats"] or 0 for row in first.rows()) == 30


def test_after_kill_9_what_was_in_flight_counts_as_what_was_set_aside_and_not_as_estimated(
    fake: FakeProcess, tmp_path: Path
) -> None:
    text = (
        PROCESS.format(url=fake.url)
        .replace("base_fee = 1", "")
        .replace("output_rate = 0", "output_rate = 1")
    )
    with (
        arbstr_process(config_text=text.replace("= 3", "= 100"), directory=tmp_path) as process,
        process.send_chat("fake-hang", max_tokens=32_000),
    ):
        process.wait_rows(1, status="in_flight")
        assert process.ask("GET", "/health").json()["budget"]["set_aside"] == 4.096
        process.stop(SIGKILL)
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        process.wait_stderr("sats of today (UTC) are spent")
        assert process.ask("GET", "/health").json()["budget"]["spent"] == 4.096
        assert process.stop() == 0
    (row,) = process.attempts()
    assert (row["estimated_cost_sats"], row["set_aside_sats"]) == (32.0, 4.096)


def with_the_day_spent(
    clock: Clock, fake: FakeProcess, directory: Path
) -> Callable[[], AbstractContextManager[ArbstrProcess]]:
    """One process has spent its day by this clock; what starts the next on its ledger."""
    text = PROCESS.format(url=fake.url)
    start = partial(arbstr_process, config_text=text, directory=directory, environ=clock.environ)
    with start() as process:
        assert [process.chat("fake-ok").status_code for _ in range(4)] == [200, 200, 200, 402]
        assert process.stop() == 0
    return start


def test_rows_a_clock_that_was_ahead_left_are_not_spent_today(
    fake: FakeProcess, tmp_path: Path
) -> None:
    clock = Clock(tmp_path, 200 * DAY)
    start = with_the_day_spent(clock, fake, tmp_path)
    clock.offset = 0.0
    with start() as process:
        process.wait_stderr("budget: 0 of 3 sats of today (UTC) are spent")
        assert process.chat("fake-ok").status_code == 200
        assert process.stop() == 0


def test_a_clock_that_is_put_right_does_not_give_the_day_a_second_budget(
    fake: FakeProcess, tmp_path: Path
) -> None:
    """It is a month behind at the start, as after a flat battery; then it jumps ahead, and back."""
    clock = Clock(tmp_path)
    start = with_the_day_spent(clock, fake, tmp_path)
    clock.offset = -30 * DAY
    with start() as process:
        process.wait_stderr("budget: 0 of 3 sats of today (UTC) are spent")
        assert process.chat("fake-ok").status_code == 200
        for offset, status in ((0.0, 402), (30 * DAY, 200), (0.0, 402), (-30 * DAY, 200)):
            clock.offset = offset
            assert process.chat("fake-ok").status_code == status
        assert process.stop() == 0


def test_a_ledger_that_cannot_be_read_at_the_start_lets_nothing_through_that_costs(
    fake: FakeProcess, tmp_path: Path
) -> None:
    text = PROCESS.format(url=fake.url) + FREE_TOO.format(url=fake.url)
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        assert [process.chat("fake-ok").status_code for _ in range(4)] == [200, 200, 200, 402]
        assert process.stop() == 0
    with closing(sqlite3.connect(process.database, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with arbstr_process(config_text=text, directory=tmp_path) as process:
            process.wait_stderr("what was spent today cannot be read yet (")
            refused, free = process.chat("fake-ok"), process.chat("fake-no-usage")
            other.execute("COMMIT")
            other.close()
            process.wait_stderr("budget: 3 of 3 sats of today (UTC) are spent")
            assert process.chat("fake-ok").json()["error"]["code"] == "budget_exceeded"
            assert process.stop() == 0
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "budget_unavailable")
    assert refused.headers["retry-after"] == "2"
    assert free.status_code == 200


FREE_TOO: Final = """
[[providers]]
name = "beta"
url = "{url}"
models = ["fake-no-usage"]
input_rate = 0
output_rate = 0
"""


async def test_a_day_whose_ledger_was_not_read_is_a_503_with_a_wait() -> None:
    async with open_fake_provider(GOOD) as fake, open_proxy(one(fake.url)) as proxy:
        proxy.hub.budget.has_ledger = True
        reply = await proxy.chat()
        assert fake.hits == 0
        assert (reply.status, reply.error["code"]) == (503, "budget_unavailable")
        assert (reply.error["type"], reply.headers["retry-after"]) == ("server_error", "2")
        assert "x-should-retry" not in reply.headers
        assert "What was spent today cannot be read" in reply.error["message"]
        assert "[budget] open = true" in reply.error["message"]
        assert (await proxy.record()).status == "rejected"
        proxy.hub.budget.remember(Decimal(4), time.time())
        assert (await proxy.chat()).status == 200
        assert_refused(await proxy.chat())


def test_arbstr_stats_shows_the_running_day_by_the_log(fake: FakeProcess, tmp_path: Path) -> None:
    text = PROCESS.format(url=fake.url)
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        assert process.chat("fake-ok").status_code == 200
        assert process.stop() == 0
    written = run_arbstr("stats", directory=tmp_path)
    assert "\n1 of 3 sats of today's budget are spent\n" in written.stdout
    told = json.loads(run_arbstr("stats", "--json", directory=tmp_path).stdout)["budget"]
    assert (told["limit"], told["spent"], told["set_aside"]) == (3.0, 1.0, None)
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        assert process.chat("fake-no-usage").status_code == 200
        assert process.stop() == 0
    written = run_arbstr("stats", directory=tmp_path)
    assert (
        "\n2 of 3 sats of today's budget are spent; what has no known price counts as what was "
        "set aside for it\n"
    ) in written.stdout
    free = text.replace("sats_per_day = 3", "")
    without = run_arbstr("stats", config_text=free, directory=tmp_path)
    assert "budget" not in without.stdout


def test_check_shows_the_budget() -> None:
    done = run_arbstr("check", config_text=PROCESS.format(url="https://alpha.example"))
    assert "\nbudget     3 sats a day (UTC)\n" in done.stdout
    wrong = run_arbstr("check", config_text="[budget]\nsats_per_day = -1\n")
    assert wrong.returncode == 1
    assert "budget.sats_per_day must be a number of sats, 0 or more" in wrong.stderr

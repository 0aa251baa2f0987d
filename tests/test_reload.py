"""SIGHUP: the file is read again; what runs does not notice, what comes next does."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGTERM
from typing import Any, Final

import httpx
import pytest
import trio

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.config.reload import change
from arbstr.trio_runtime.reload import Reading, Reloader
from arbstr.trio_runtime.snapshot import Snapshot
from tests.fakes import (
    ROUTSTR_ID,
    answer,
    completion,
    error_answer,
    hello,
    json_answer,
    open_fake_provider,
    stream,
)
from tests.process import PATIENCE, ArbstrProcess, arbstr_process, write_config
from tests.proxy import Proxy, config, open_proxy, provider

AGAIN: Final = "SIGHUP: the configuration was read again"
AS_IT_WAS: Final = "SIGHUP: the configuration stays as it was"
GOOD: Final = json_answer(completion())


def reload(process: ArbstrProcess, text: str, said: str = AGAIN, *, count: int = 1) -> None:
    """Gives it another file, and waits until it has said so for the `count`-th time."""
    write_config(process.directory, text)
    process.send_signal(SIGHUP)
    process.wait_stderr(said, count=count)


def provider_of(reply: httpx.Response) -> str:
    return str(reply.headers["x-arbstr-provider"])


# -- the whole process ---------------------------------------------------------------------------


async def test_with_a_new_provider_the_next_request_sees_it_and_a_running_stream_does_not() -> None:
    gate = trio.Event()
    words = hello("Hello there")
    held = stream([*words[:2], gate, *words[2:]])
    async with (
        open_fake_provider(held) as alpha,
        open_fake_provider(GOOD) as beta,
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client,
    ):
        before = config(provider("alpha", alpha.url, rate=1000))
        after = config(provider("beta", beta.url, rate=2))
        with arbstr_process(config_text=before) as process:
            body = json.dumps({"model": "gpt-4o", "stream": True, "messages": []})
            async with client.stream(
                "POST", f"{process.base_url}/chat/completions", content=body
            ) as running:
                received = aiter(running.aiter_bytes())
                text = await anext(received)
                await trio.to_thread.run_sync(partial(reload, process, after))
                reply = await trio.to_thread.run_sync(process.chat)
                gate.set()
                async for piece in received:
                    text += piece
            assert await trio.to_thread.run_sync(process.stop) == 0
        lines = process.stderr()
    assert (reply.status_code, provider_of(reply)) == (200, "beta")
    assert provider_of(running) == "alpha"
    assert text.count(b"data: [DONE]") == 1
    events = [line for line in text.decode().split("\n\n") if line.startswith("data: {")]
    trailer = json.loads(events[-1].removeprefix("data: "))["arbstr"]
    assert (trailer["provider"], trailer["cost_sats"]) == ("alpha", 15)
    assert f"{AGAIN}: providers 1 (new: beta; gone: alpha), rules 0" in lines
    assert [row["status"] for row in process.rows()] == ["ok", "ok"]


async def test_a_broken_file_changes_nothing_and_each_fault_is_a_line() -> None:
    broken = '[retry]\nmax_retrys = 1\n[[providers]]\nname = "beta"\napi_key = "hunter2"\n'
    async with open_fake_provider(GOOD) as alpha:
        whole = config(provider("alpha", alpha.url))
        with arbstr_process(config_text=whole) as process:

            def walk() -> list[httpx.Response]:
                reload(process, broken, AS_IT_WAS)
                replies = [process.chat()]
                (process.directory / "config.toml").unlink()
                process.send_signal(SIGHUP)
                process.wait_stderr(AS_IT_WAS, count=2)
                reload(process, "[[providers", AS_IT_WAS, count=3)
                reload(process, "", AS_IT_WAS, count=4)
                replies.append(process.chat())
                reload(process, whole)
                return [*replies, process.chat()]

            replies = await trio.to_thread.run_sync(walk)
            assert await trio.to_thread.run_sync(process.stop) == 0
    assert [(reply.status_code, provider_of(reply)) for reply in replies] == [(200, "alpha")] * 3
    lines = [line for line in process.stderr().splitlines() if "SIGHUP: " in line]
    said = [line.split("SIGHUP: ")[1] for line in lines]
    assert said[:4] == [
        'config.toml: providers."beta".url is missing; add it',
        'config.toml: providers."beta".models is missing; add it',
        'config.toml: retry.max_retrys is not a known key; did you mean "max_retries"?',
        "the configuration stays as it was",
    ]
    assert "there is no such file" in said[4]
    assert "providers 1 (as before), rules 0" in said[-1]
    assert "hunter2" not in process.stderr()
    assert all(" ERROR " in line for line in lines[:-1])


OLD_KEY, NEW_KEY = "sk-the-old-key-of-alpha", "sk-the-new-key-of-alpha"


async def test_what_a_reload_applies_and_what_waits_for_a_restart(tmp_path: Path) -> None:
    async with open_fake_provider(GOOD) as alpha:
        before = config(provider("alpha", alpha.url, rate=0, key=OLD_KEY, more="base_fee = 1"))
        after = config(
            provider("alpha", alpha.url, rate=0, key=NEW_KEY, more="base_fee = 1"),
            more="[server]\nmax_body_mb = 0.0001\n[database]\npath = 'other.db'\n"
            "[logging]\nformat = 'json'\nlevel = 'debug'\n[budget]\nsats_per_day = 2\n",
        )
        with arbstr_process(config_text=before, directory=tmp_path) as process:

            def walk() -> list[httpx.Response]:
                replies = [process.chat()]
                reload(process, after)
                replies += [process.chat(said="x" * 200), process.chat()]
                # Asked for a model called like a key, arbstr logs that name.
                replies += [process.chat(OLD_KEY), process.chat(NEW_KEY)]
                return replies

            replies = await trio.to_thread.run_sync(walk)
            assert await trio.to_thread.run_sync(process.stop) == 0
        keys = [request.header("authorization") for request in alpha.requests]
    assert [reply.status_code for reply in replies] == [200, 200, 402, 404, 404]
    assert keys == [f"Bearer {OLD_KEY}", f"Bearer {NEW_KEY}"]
    lines = process.stderr()
    assert OLD_KEY not in lines
    assert NEW_KEY not in lines
    at = next(n for n, line in enumerate(lines.splitlines()) if AGAIN in line)
    logged: list[Any] = [json.loads(line) for line in lines.splitlines()[at:]]
    messages = [line["message"] for line in logged]
    assert messages[0] == f"{AGAIN}: providers 1 (changed: alpha), rules 0"
    for key in ("server.max_body_mb", "database.path"):
        waits = f"SIGHUP: {key} has changed, which needs a restart; the old value stays"
        assert {"level": "warning", "message": waits}.items() <= logged[
            messages.index(waits)
        ].items()
    assert any("api_key is written into the file" in message for message in messages)
    assert sum("model=[REDACTED]" in message for message in messages) == 2
    assert not (tmp_path / "other.db").exists()
    assert len(process.rows()) == 5


async def test_a_reader_that_breaks_does_not_stop_arbstr(caplog: pytest.LogCaptureFixture) -> None:
    def read() -> Reading:
        raise FileNotFoundError("config.toml")

    async def one_hangup() -> AsyncIterator[int]:
        yield SIGHUP

    async with (
        open_fake_provider(GOOD) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        before = proxy.hub.snapshot
        await Reloader(proxy.hub, read).run(one_hangup())
        assert proxy.hub.snapshot is before
        assert (await proxy.chat()).status == 200
    assert any("SIGHUP: the configuration stays as it was" in said for said in caplog.messages)


def test_mock_mode_is_not_reloaded() -> None:
    with arbstr_process(arguments=["--mock"]) as process:
        process.send_signal(SIGHUP)
        process.wait_stderr("SIGHUP: run --mock is not reloaded; restart it")
        assert process.chat().status_code == 200
        assert process.stop() == 0


async def test_a_hangup_while_it_stops_changes_nothing() -> None:
    gate = trio.Event()
    async with open_fake_provider(json_answer(completion(), before=[gate])) as alpha:
        with arbstr_process(config_text=config(provider("alpha", alpha.url))) as process:
            with process.send_chat() as connection:
                await alpha.wait_requests()
                process.send_signal(SIGTERM)
                await trio.to_thread.run_sync(process.wait_stderr, "SIGTERM: no new requests")
                process.send_signal(SIGHUP)
                await trio.to_thread.run_sync(process.wait_stderr, AGAIN)
                gate.set()
                assert b"200" in await trio.to_thread.run_sync(connection.recv, 65_536)
                process.send_signal(SIGHUP)
            assert await trio.to_thread.run_sync(process.wait) == 0


# -- what was learnt of a provider ---------------------------------------------------------------


def adopt(proxy: Proxy, text: str) -> None:
    """As a reload does, after the file is read."""
    changes = change(proxy.hub.snapshot.config, parse_config(text, {}))
    proxy.hub.adopt(Snapshot.of(changes.config), kept=changes.kept)


async def health_of(proxy: Proxy) -> Any:
    return (await proxy.get("/health")).json["providers"]["alpha"]


async def test_a_circuit_stays_open_with_the_same_url_and_key_and_begins_anew_with_others() -> None:
    more = "[retry]\nmax_retries = 0\n[breaker]\nfailures = 2\n"
    async with open_fake_provider(answer(500)) as fake:
        text = config(provider("alpha", fake.url), more=more)
        async with open_proxy(text) as proxy:
            await proxy.chat()
            adopt(proxy, config(provider("alpha", fake.url, rate=7), more=more))
            assert (await health_of(proxy))["failure_count"] == 1
            await proxy.chat()
            adopt(proxy, text)
            assert (await health_of(proxy))["state"] == "open"
            adopt(proxy, config(provider("alpha", fake.url, key="sk-another"), more=more))
            assert (await health_of(proxy)) == {"state": "closed", "failure_count": 0}


async def test_a_request_of_before_says_nothing_of_the_provider_of_that_name_now() -> None:
    gate = trio.Event()
    more = "[retry]\nmax_retries = 0\n[breaker]\nfailures = 1\n"
    async with (
        open_fake_provider(answer(500, before=[gate])) as old,
        open_proxy(config(provider("alpha", old.url), more=more)) as proxy,
    ):
        async with proxy.asking() as client:
            await old.wait_requests()
            adopt(proxy, config(provider("alpha", "http://127.0.0.1:9/v1"), more=more))
            gate.set()
            assert (await client.reply()).status == 502
        assert (await health_of(proxy)) == {"state": "closed", "failure_count": 0}


async def test_nor_do_its_further_tries() -> None:
    gate = trio.Event()
    more = "[retry]\nmax_retries = 1\nbackoff = 0.001\n[breaker]\nfailures = 1\n"
    limited = answer(429, headers=[("retry-after", "600")])
    async with (
        open_fake_provider([answer(500, before=[gate]), limited]) as old,
        open_fake_provider() as new,
        open_proxy(config(provider("alpha", old.url), more=more)) as proxy,
    ):
        async with proxy.asking() as client:
            await old.wait_requests()
            adopt(proxy, config(provider("alpha", new.url, key="sk-another"), more=more))
            gate.set()
            assert (await client.reply()).headers["x-arbstr-retries"] == "2/alpha"
        assert (await proxy.chat()).status == 200
        assert (old.hits, new.hits) == (2, 1)


async def test_what_a_request_of_before_learns_of_a_provider_that_stayed_is_kept() -> None:
    gate = trio.Event()
    limited = answer(429, headers=[("retry-after", "600")], before=[gate])
    async with open_fake_provider(limited) as fake:
        text = config(provider("alpha", fake.url))
        async with open_proxy(text) as proxy:
            async with proxy.asking() as client:
                await fake.wait_requests()
                adopt(proxy, config(provider("alpha", fake.url, rate=7)))
                gate.set()
                assert (await client.reply()).status == 429
            assert (await proxy.chat()).status == 429
    assert fake.hits == 1


async def test_new_limits_of_the_breaker_count_from_the_next_verdict_on() -> None:
    async with open_fake_provider(answer(500)) as fake:
        table = provider("alpha", fake.url)
        async with open_proxy(config(table, more="[retry]\nmax_retries = 0\n")) as proxy:
            await proxy.chat()
            adopt(proxy, config(table, more="[retry]\nmax_retries = 0\n[breaker]\nfailures = 2\n"))
            await proxy.chat()
            assert (await health_of(proxy))["state"] == "open"


async def test_that_a_provider_refuses_stream_options_is_forgotten() -> None:
    refusal = error_answer(400, "stream_options is not supported")
    script = [refusal, stream(hello()), stream(hello())]
    async with open_fake_provider(script) as fake:
        text = config(provider("alpha", fake.url))
        async with open_proxy(text) as proxy:
            await proxy.chat(stream=True)
            adopt(proxy, text)
            await proxy.chat(stream=True)
    assert ["stream_options" in request.json for request in fake.requests] == [True, False, True]


async def test_a_refusal_of_stream_options_that_comes_after_the_reload_is_not_kept() -> None:
    gate = trio.Event()
    body = b'{"error":{"message":"stream_options?","type":"x","param":null,"code":null}}'
    script = [answer(400, body, before=[gate]), stream(hello()), stream(hello())]
    async with open_fake_provider(script) as fake:
        text = config(provider("alpha", fake.url))
        async with open_proxy(text) as proxy:
            async with proxy.asking(stream=True) as client:
                await fake.wait_requests()
                adopt(proxy, text)
                gate.set()
                assert (await client.reply()).status == 200
            await proxy.chat(stream=True)
    assert ["stream_options" in request.json for request in fake.requests] == [True, False, True]


async def test_a_provider_that_showed_itself_a_node_is_one_as_long_as_its_url_stays() -> None:
    showing = json_answer(completion(), headers=[ROUTSTR_ID])
    async with (
        open_fake_provider(showing) as fake,
        open_proxy(config(provider("alpha", fake.url))) as proxy,
    ):
        await proxy.chat()
        kinds = []
        for url in (fake.url, "http://127.0.0.1:9/v1", fake.url):
            adopt(proxy, config(provider("alpha", url)))
            kinds.append((await proxy.get("/providers")).json["providers"][0]["kind"])
    assert kinds == ["routstr", "openai", "routstr"]

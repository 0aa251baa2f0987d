"""Ecash that comes back unasked: on disk before the answer is used, and nowhere else."""

import json
import logging
import os
import re
import stat
import threading
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.secrets import without_refund_tokens
from arbstr.trio_runtime.change import KEEP_SECONDS, Change, tokens_in
from tests.fakes import (
    DONE,
    ROLE,
    ROUTSTR_ID,
    STOP,
    USAGE,
    WORD,
    Headers,
    Play,
    Script,
    answer,
    by_name,
    chunk,
    completion,
    hello,
    json_answer,
    open_fake_provider,
    sse,
    stream,
)
from tests.proxy import STREAMED, config, open_proxy, provider, rows

TOKEN: Final = "cashuBo2F0gqJhaUgAtest_token-1"
OTHER: Final = "cashuAeyJ0b2tlbiI6W3-2"
REFUND: Final = {"error": {"message": "upstream failed", "refund_token": OTHER}}
LINE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 (\S+) (\S+)")


def kept(path: Path) -> list[tuple[str, str]]:
    """(provider, token) of each line."""
    if not path.exists():
        return []
    matches = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    return [(match[1], match[2]) for match in matches if match is not None]


# --- the file ---------------------------------------------------------------------------------


async def test_tokens_are_appended_one_line_each_and_for_the_owners_eyes_only(
    tmp_path: Path,
) -> None:
    path = tmp_path / "arbstr.db.change"
    change = Change(str(path))
    await change.keep((), "alpha")
    assert not path.exists()
    await change.keep((TOKEN, OTHER), "alpha")
    path.chmod(0o644)  # as a copy of it may be
    await change.keep((f"{TOKEN[:6]}\r\n {TOKEN[6:]}",), "beta")
    assert kept(path) == [("alpha", TOKEN), ("alpha", OTHER), ("beta", TOKEN)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("path", [None, "missing/arbstr.db.change"])
async def test_a_token_that_cannot_be_written_is_printed_once(
    path: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await Change(path and str(tmp_path / path)).keep((TOKEN,), "alpha")
    printed = capfd.readouterr()
    assert printed.err.count(TOKEN) == 1
    assert "It is yours" in printed.err
    assert printed.out == ""


async def test_tokens_are_synced_after_they_are_written_and_before_keeping_them_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arbstr.db.change"
    synced: list[tuple[bool, bytes]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        # Read by its name: what lies in the process's own buffer is not there yet.
        same = os.path.samestat(os.fstat(descriptor), path.stat())
        synced.append((same, path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    await Change(str(path)).keep((TOKEN, OTHER), "alpha")
    assert synced == [(True, path.read_bytes())]
    assert kept(path) == [("alpha", TOKEN), ("alpha", OTHER)]


async def test_a_cancelled_request_keeps_its_change_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db.change"
    with trio.CancelScope() as scope:
        scope.cancel()
        await Change(str(path)).keep((TOKEN,), "alpha")
    assert kept(path) == [("alpha", TOKEN)]


async def test_a_disk_that_hangs_is_not_waited_for_and_the_token_is_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mock_clock: MockClock,
) -> None:
    synced = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: synced.wait())
    try:
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.cancel()  # as at the shutdown
            nursery.start_soon(Change(str(tmp_path / "change")).keep, (TOKEN,), "alpha")
            await wait_shielded()
            mock_clock.jump(KEEP_SECONDS + 0.01)
    finally:
        synced.set()
    assert capfd.readouterr().err.count(TOKEN) == 1


async def test_a_token_is_printed_where_no_thread_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def start(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", start)
    await Change(str(tmp_path / "change")).keep((TOKEN,), "alpha")
    assert capfd.readouterr().err.count(TOKEN) == 1


@pytest.mark.parametrize("kind", ["openai", "routstr"])
async def test_a_bug_in_keeping_change_ends_nothing_and_is_told_without_the_token(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError(TOKEN)

    monkeypatch.setattr(Change, "keep", broken)
    slow = stream([], headers=[("x-cashu", TOKEN)], ending="hang")
    async with (
        open_fake_provider(slow) as fake,
        open_proxy(
            config(provider("node", fake.url, kind=kind, more="drain_seconds = 0.05"))
        ) as proxy,
    ):
        async with proxy.asking(stream=True):
            await fake.wait_requests()
            await wait_all_tasks_blocked(0.01)
        assert (await proxy.record()).status == "client_disconnected"
        assert (await proxy.get("/livez")).status == 200
    told = [r for r in caplog.records if "ecash" in r.getMessage()]
    assert [(r.levelname, hasattr(r, "request_id")) for r in told] == [("ERROR", True)]
    assert TOKEN not in caplog.text


async def wait_shielded() -> None:
    """Until all others are blocked, although cancelled."""
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()


# --- from an answer to the file ---------------------------------------------------------------

HEADERS: Final[Headers] = [("X-Cashu", TOKEN), ROUTSTR_ID]


@STREAMED
@pytest.mark.parametrize(
    ("script", "tokens", "status"),
    [
        pytest.param(json_answer(completion(), headers=HEADERS), [TOKEN], 200, id="JSON"),
        pytest.param(stream(hello(), headers=HEADERS), [TOKEN], 200, id="a stream"),
        pytest.param(json_answer(REFUND, 400, HEADERS), [TOKEN, OTHER], 400, id="an error"),
        pytest.param(json_answer(REFUND, 502), [OTHER], 502, id="an error's body"),
        pytest.param(json_answer(REFUND), [OTHER], 502, id="an error object in a 200"),
        pytest.param(stream([sse(REFUND)]), [OTHER], 502, id="an error event"),
        pytest.param(
            json_answer(completion(refund_token=OTHER)), [OTHER], 200, id="a member of the answer"
        ),
        pytest.param(answer(200, b"<p>", HEADERS), [TOKEN], 400, id="HTML"),
        pytest.param(answer(204, headers=HEADERS), [TOKEN], 400, id="a bad status"),
    ],
)
async def test_change_goes_to_the_file_and_nowhere_else(
    script: Script,
    tokens: list[str],
    status: int,
    streaming: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    database, path = tmp_path / "arbstr.db", tmp_path / "change"
    async with (
        open_fake_provider(script) as fake,
        open_proxy(
            config(provider("node", fake.url), more="[retry]\nmax_retries = 0"),
            database=database,
            change=path,
        ) as proxy,
    ):
        reply = await proxy.chat(stream=streaming)
        assert kept(path) == [("node", token) for token in tokens]
    assert reply.status == status
    everywhere = [
        repr(reply),
        caplog.text,
        repr(rows(database)),
        repr(rows(database, "attempts")),
    ]
    assert not [text for text in everywhere if "cashu" in text]
    assert reply.whole
    if status == 200:
        assert reply.text.startswith("Hello")


def with_refund(event: bytes) -> bytes:
    """A chunk's event with ecash in it."""
    return sse({**json.loads(event.removeprefix(b"data: ")), "refund_token": OTHER})


WITH_ONE: Final = with_refund(WORD)
STREAMS: Final = {
    "beside output": [ROLE, WITH_ONE, STOP, USAGE, DONE],
    "cut anywhere": [ROLE, WORD, WITH_ONE[:-40], WITH_ONE[-40:], STOP, USAGE, DONE],
    "in a usage nobody asked for": [ROLE, WORD, STOP, with_refund(USAGE), DONE],
    "in a last event without its end": [ROLE, WORD, with_refund(STOP)[:-2]],
    "in an error after output": [ROLE, WORD, sse(REFUND)],
}


@pytest.mark.parametrize("events", STREAMS.values(), ids=STREAMS.keys())
async def test_change_in_a_stream_is_kept_and_does_not_go_on(
    events: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "change"
    async with (
        open_fake_provider(stream(events)) as fake,
        open_proxy(config(provider("node", fake.url)), change=path) as proxy,
    ):
        reply = await proxy.chat(stream=True)
        assert reply.text.startswith("Hello")
        await proxy.wait_idle()
        assert kept(path) == [("node", OTHER)]
    assert b"cashu" not in reply.body


async def test_change_in_a_stream_is_kept_before_what_stands_beside_it_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "change"
    gate = trio.Event()
    async with (
        open_fake_provider(stream([ROLE, WORD, gate, WITH_ONE], ending="hang")) as fake,
        open_proxy(config(provider("node", fake.url)), change=path) as proxy,
        proxy.asking(stream=True) as client,
    ):
        await client.head()
        await client.until(b"Hello")
        gate.set()
        await client.until(b'"refund_token":null')
        assert kept(path) == [("node", OTHER)]


async def test_each_retry_keeps_its_own_change(tmp_path: Path) -> None:
    path = tmp_path / "change"
    refunds = [json_answer({"error": {"refund_token": f"cashuA{n}"}}, 503) for n in (1, 2)]
    async with (
        open_fake_provider([*refunds, by_name]) as fake,
        open_proxy(
            config(provider("node", fake.url), more="[retry]\nbackoff = 0"), change=path
        ) as proxy,
    ):
        await proxy.chat()
    assert kept(path) == [("node", "cashuA1"), ("node", "cashuA2")]


@pytest.mark.parametrize("kind", ["openai", "routstr"])
@STREAMED
async def test_change_of_a_client_that_left_is_kept_too(
    kind: str, streaming: bool, tmp_path: Path
) -> None:
    path = tmp_path / "change"
    gate = trio.Event()
    word = sse(chunk("Hello"))
    slow = stream([gate, word], headers=[("x-cashu", TOKEN)], ending="fin")
    async with (
        open_fake_provider(slow) as fake,
        open_proxy(config(provider("node", fake.url, kind=kind)), change=path) as proxy,
    ):
        async with proxy.asking(stream=streaming):
            await fake.wait_requests()
            await wait_all_tasks_blocked(0.01)
        await wait_all_tasks_blocked(0.01)
        gate.set()
        await proxy.record()
        await proxy.wait_idle()
    assert kept(path) == [("node", TOKEN)]


async def test_change_of_an_answer_that_came_after_the_client_left(tmp_path: Path) -> None:
    path = tmp_path / "change"
    gate = trio.Event()
    refund = json_answer(REFUND, 502, HEADERS)
    async with (
        open_fake_provider(Play((gate, *refund.steps))) as fake,
        open_proxy(config(provider("node", fake.url, kind="routstr")), change=path) as proxy,
    ):
        async with proxy.asking():
            await fake.wait_requests()
        await wait_all_tasks_blocked(0.01)
        gate.set()
        record = await proxy.record()
    assert kept(path) == [("node", TOKEN), ("node", OTHER)]
    assert [row.money for row in record.attempts] == ["free"]


async def test_change_of_an_answer_that_the_shutdown_ends_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "change"
    async with open_fake_provider(stream([], headers=HEADERS, ending="hang")) as fake:
        node = config(provider("node", fake.url, kind="routstr"))
        async with open_proxy(node, change=path) as proxy:
            async with proxy.asking(stream=True):
                await fake.wait_requests()
                await wait_all_tasks_blocked(0.01)
            await wait_all_tasks_blocked(0.01)
            assert proxy.hub.draining == 1
            assert not path.exists()
        await fake.wait_left()
    assert kept(path) == [("node", TOKEN)]


# --- where it can stand -----------------------------------------------------------------------


def test_words_about_a_refund_token_are_no_token() -> None:
    said = json.dumps(completion('She wrote: "refund_token": "cashuA1"')).encode()
    assert tokens_in({}, said) == ()
    assert without_refund_tokens(said) is said


def test_a_token_is_found_once_and_taken_out() -> None:
    body = b'{"a": {"refund_token" : "cashuA1"}, "refund_token":"cashuA1", "b": 1}'
    assert tokens_in({"x-cashu": "cashuA1"}, body, b"") == ("cashuA1",)
    assert json.loads(without_refund_tokens(body)) == {
        "a": {"refund_token": None},
        "refund_token": None,
        "b": 1,
    }

"""Every way a stream can end: the exact bytes the client gets of it, and the exact row."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes import (
    DONE,
    ROLE,
    STOP,
    USAGE,
    WORD,
    chunk,
    error_object,
    open_fake_provider,
    sse,
    stream,
)
from tests.proxy import config, open_proxy, provider, rows

IDLE: Final = 3
OTHER: Final = sse(chunk("Goodbye", index=1))
ERROR: Final = sse({"error": error_object("the fake broke", "server_error", 500)})

SAID: Final = ROLE + WORD
COUNTED: Final = {"input_tokens": 10, "output_tokens": 5, "cost_sats": 0.015}
NOT_COUNTED: Final = dict.fromkeys(COUNTED)


@final
@dataclass(frozen=True)
class Ending:
    """What the provider does, and what is to come of it. `sentence` is None for a whole answer:
    else what the client is told of the provider."""

    steps: tuple[bytes, ...]
    how: Literal["clean", "fin", "rst", "hang"]
    passed_on: bytes
    sentence: str | None
    counts: dict[str, Any]
    choices: int = 1

    @property
    def told(self) -> str | None:
        """The message of the error, and of the row."""
        if self.sentence is None:
            return None
        return (
            f'The answer is not complete: provider "first" {self.sentence}. '
            "It may have been charged."
        )

    @property
    def tail(self) -> bytes:
        """What arbstr writes behind the provider's events."""
        if self.told is None:
            said: dict[str, Any] = {
                "request_id": "ID",
                "provider": "first",
                "model": "gpt-4o",
                "cost_sats": self.counts["cost_sats"],
                "latency_ms": 0,
                "input_tokens": self.counts["input_tokens"],
                "output_tokens": self.counts["output_tokens"],
                "retries": None,
            }
            head = b'data: {"id":"chatcmpl-fake","object":"chat.completion.chunk",'
            head += b'"created":1700000000,"model":"gpt-4o","choices":[],"arbstr":'
            return DONE + head + json.dumps(said).encode() + b"}\n\n"
        message = json.dumps(self.told).encode()
        more = b'"type":"upstream_error","param":null,"code":"stream_interrupted"'
        return b'data: {"error":{"message":%b,%b}}\n\n' % (message, more)


EARLY: Final = "ended its stream before the answer was complete"
CLOSED: Final = "broke off: the connection was closed before the body was complete"
RESET: Final = "broke off: the connection was reset before the body was complete"
BROKE: Final = "broke its stream off with an error"
SILENT: Final = f"sent nothing for {IDLE} s"

WHOLE: Final = SAID + STOP
BOTH: Final = (ROLE, WORD, OTHER, STOP)

ENDINGS: Final = {
    "a finish reason, no [DONE]": Ending((WHOLE,), "clean", WHOLE, None, NOT_COUNTED),
    "usage, no [DONE]": Ending((WHOLE, USAGE), "clean", WHOLE, None, COUNTED),
    "[DONE], no finish reason": Ending((SAID, DONE), "clean", SAID, None, NOT_COUNTED),
    "a finish reason, FIN": Ending((WHOLE,), "fin", WHOLE, None, NOT_COUNTED),
    "a finish reason, RST": Ending((WHOLE,), "rst", WHOLE, None, NOT_COUNTED),
    "usage, RST": Ending((WHOLE, USAGE), "rst", WHOLE, None, COUNTED),
    "no finish reason": Ending((SAID,), "clean", SAID, EARLY, NOT_COUNTED),
    "half an event": Ending((SAID, WORD[:50]), "clean", SAID, EARLY, NOT_COUNTED),
    "FIN": Ending((SAID,), "fin", SAID, CLOSED, NOT_COUNTED),
    "RST": Ending((SAID,), "rst", SAID, RESET, NOT_COUNTED),
    "an error event": Ending((SAID, ERROR), "clean", SAID, BROKE, NOT_COUNTED),
    "an error event, then [DONE]": Ending((SAID, ERROR, DONE), "clean", SAID, BROKE, NOT_COUNTED),
    "silence": Ending((SAID,), "hang", SAID, SILENT, NOT_COUNTED),
    "usage, no finish reason": Ending((SAID, USAGE), "clean", SAID, EARLY, COUNTED),
    "usage, RST, no finish reason": Ending((SAID, USAGE), "rst", SAID, RESET, COUNTED),
    "one of two choices": Ending(BOTH, "clean", b"".join(BOTH), EARLY, NOT_COUNTED, 2),
    "one of two choices, usage": Ending((*BOTH, USAGE), "clean", b"".join(BOTH), EARLY, COUNTED, 2),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
async def test_what_client_and_ledger_have_of_a_stream_that_ends_so(
    ending: Ending, mock_clock: MockClock, tmp_path: Path
) -> None:
    database, may_end = tmp_path / "arbstr.db", trio.Event()
    play = stream([*ending.steps, may_end], ending=ending.how)
    idle = f"[timeouts]\nidle = {IDLE}\n"
    async with open_fake_provider(play) as fake:
        text = config(provider("first", fake.url), more=idle)
        async with open_proxy(text, database=database) as proxy:
            async with proxy.asking(stream=True, n=ending.choices) as client:
                status, headers = await client.head()
                # What was sent is read before the connection goes: a reset may destroy it.
                await client.until(ending.passed_on)
                await wait_all_tasks_blocked(0.01)
                may_end.set()
                if ending.how == "hang":
                    await wait_all_tasks_blocked(0.01)
                    mock_clock.jump(IDLE)
                body, ended_well = await client.rest()
            await proxy.wait_idle()
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert ended_well == (ending.told is None)
    shown = re.sub(rb'"latency_ms": \d+', b'"latency_ms": 0', body)
    shown = shown.replace(headers["x-arbstr-request-id"].encode(), b"ID")
    assert shown == ending.passed_on + ending.tail
    failed = ending.told is not None
    [row] = rows(database)
    expected = {
        **ending.counts,
        "correlation_id": headers["x-arbstr-request-id"],
        "provider": "first",
        "streaming": 1,
        "status": "stream_incomplete" if failed else "ok",
        "success": int(not failed),
        "error_status": 502 if failed else None,
        "error_message": ending.told,
        "attempts": 1,
        "possibly_spent": int(failed),
    }
    assert {name: row[name] for name in expected} == expected
    [attempt] = rows(database, "attempts")
    expected = {
        **ending.counts,
        "provider": "first",
        "failure": "stream_cut" if failed else None,
        "http_status": 200,
        "money": "spent",
    }
    assert {name: attempt[name] for name in expected} == expected

"""The client's side of a chat, told as what it sends and when it sends that."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest
import trio
import trio.testing

from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.chat.ending import KEEP_ALIVE
from arbstr.sansio.dialects.dialect import Headers
from arbstr.sansio.errors import ErrorReply, LocalProtocolError
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.server.asgi import send_to
from arbstr.trio_runtime.server.framing import Fields, lines_of
from arbstr.trio_runtime.server.responder import (
    Responder,
    header,
    passed_on,
    policy_header,
)
from arbstr.trio_runtime.server.silences import Silences

IDS: Final = (header("x-request-id", "7"),)
ERROR: Final = ErrorReply("upstream_error", "It broke.", should_retry=False)
STREAM: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Client:
    """Keeps what is sent, with the time it was sent at. Can be slow, or refuse."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        self.sent: list[tuple[float, bytes, bool]] = []
        self.takes = trio.Event()
        self.takes.set()
        self.refuses_heads = 0
        self.active = 0

    def head(self, status: int, lines: bytes, told: Fields) -> None:
        # As the real one: the head waits for the body, so there is nothing to wait for.
        assert self.active == 0, "two messages at once"
        if self.refuses_heads:
            self.refuses_heads -= 1
            raise ValueError("no such header")
        fields = [(name, value) for name, _, value in (x.partition(b": ") for x in lines_in(lines))]
        self.heads.append((status, [*fields, *told]))

    async def write(self, body: bytes, *, more: bool) -> None:
        assert self.active == 0, "two messages at once"
        self.active += 1
        try:
            with trio.CancelScope(shield=True):
                await self.takes.wait()
                await trio.lowlevel.checkpoint()
        finally:
            self.active -= 1
        self.sent.append((trio.current_time(), body, more))

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body, _ in self.sent]

    @property
    def ended(self) -> bool:
        return bool(self.sent) and not self.sent[-1][2]

    def times(self, start: float) -> list[float]:
        """When each comment was written, seconds from `start`."""
        return [at - start for at, body, _ in self.sent if body == KEEP_ALIVE]


def lines_in(lines: bytes) -> list[bytes]:
    assert lines == b"" or lines.endswith(b"\r\n")
    return lines.split(b"\r\n")[:-1]


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
async def responder(client: Client) -> Responder:
    return Responder(client, lines_of(IDS), door=CHAT)


def early() -> Headers:
    return (header("x-arbstr-policy", "cheap"),)


# ---- whole answers


async def test_a_plain_answer_has_a_length_and_the_common_headers(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    await responder.plain(b"{}", (header("x-a", "1"),))
    assert client.heads == [(200, [(b"x-a", b"1"), *IDS, (b"content-length", b"2")])]
    assert client.bodies == [b"{}"]
    assert client.ended


async def test_no_content_has_no_length_and_an_empty_answer_has_one(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    await responder.plain(b"", (), status=204)
    await Responder(client).plain(b"", ())
    assert client.heads == [(204, [*IDS]), (200, [(b"content-length", b"0")])]


async def test_an_error_before_the_head_has_its_status_and_headers(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    await responder.error(ERROR, (header("x-arbstr-retries", "1/alpha"),))
    ((status, headers),) = client.heads
    assert status == 502
    assert headers == [
        (b"content-type", b"application/json"),
        (b"x-should-retry", b"false"),
        (b"x-arbstr-retries", b"1/alpha"),
        *IDS,
        (b"content-length", b"%d" % len(ERROR.body())),
    ]
    assert client.bodies == [ERROR.body()]


async def test_an_error_in_a_stream_is_its_last_event(client: Client, responder: Responder) -> None:
    await responder.start(())
    await responder.body(b"data: 1\n\n", more=True)
    await responder.error(ERROR, (header("x-arbstr-retries", "1/alpha"),))
    assert client.heads == [(200, [*STREAM, *IDS])]
    assert client.bodies == [b"data: 1\n\n", b"data: " + ERROR.body() + b"\n\n"]
    assert not client.ended


async def test_an_error_after_the_end_is_nothing(client: Client, responder: Responder) -> None:
    await responder.plain(b"{}", ())
    before = len(client.sent)
    await responder.error(ERROR)
    assert len(client.sent) == before


async def test_an_error_after_the_end_of_a_stream_is_nothing(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    await responder.start(())
    await responder.end(b"data: [DONE]\n\n")
    before = len(client.sent)
    await responder.error(ERROR)
    assert len(client.sent) == before


async def test_an_error_in_the_middle_of_another_applications_answer_is_nothing(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    forward = send_to(responder.head, responder.body)
    await forward({"type": "http.response.start", "status": 200, "headers": []})
    await forward({"type": "http.response.body", "body": b"[1,", "more_body": True})
    await responder.error(ERROR)
    assert client.heads == [(200, [*IDS])]
    assert client.bodies == [b"[1,"]
    assert not client.ended


@pytest.mark.parametrize("how", ["plain", "stream"])
async def test_a_head_that_was_refused_leaves_room_for_the_error(
    how: str, client: Client, responder: Responder
) -> None:
    client.refuses_heads = 1
    with pytest.raises(ValueError, match="header"):
        await (responder.plain(b"{}", ()) if how == "plain" else responder.start(()))
    assert not responder.head_sent
    await responder.error(ERROR)
    assert client.heads[0][0] == 502
    assert client.bodies == [ERROR.body()]


# ---- keep-alives


async def run_beside(
    responder: Responder, period: float, main: Callable[[], Any], headers: Any = early
) -> None:
    """The clock of the comments beside `main`, as a chat has it."""
    async with trio.open_nursery() as nursery:
        silences = Silences()
        nursery.start_soon(silences.run)
        await trio.testing.wait_all_tasks_blocked()
        silence = silences.begin(responder, period, headers)
        await main()
        silence.end()
        await trio.sleep(3 * period)
        nursery.cancel_scope.cancel()


async def test_a_comment_is_written_after_each_period_of_silence(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()

    async def main() -> None:
        await responder.start(())
        await responder.body(b"data: 1\n\n", more=True)
        await trio.sleep(3.5)
        await responder.body(b"data: 2\n\n", more=True)
        await trio.sleep(1.5)
        await responder.end(b"data: 3\n\n")

    await run_beside(responder, 1.0, main)
    assert client.times(start) == pytest.approx([1, 2, 3, 4.5])
    assert client.bodies[0] == b"data: 1\n\n"
    assert client.bodies[-1] == b"data: 3\n\n"
    assert client.ended


async def test_steady_events_need_no_comment(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    async def main() -> None:
        await responder.start(())
        for _ in range(10):
            await responder.body(b"data: 1\n\n", more=True)
            await trio.sleep(0.9)

    await run_beside(responder, 1.0, main)
    assert client.bodies == [b"data: 1\n\n"] * 10


async def test_the_first_comment_brings_the_head_and_the_answer_its_own_no_more(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    async def main() -> None:
        await trio.sleep(2.5)
        await responder.start((header("x-arbstr-provider", "alpha"),))
        await responder.end(b"data: 1\n\n")

    await run_beside(responder, 1.0, main)
    assert client.heads == [(200, [*STREAM, (b"x-arbstr-policy", b"cheap"), *IDS])]
    assert client.bodies == [KEEP_ALIVE, KEEP_ALIVE, b"data: 1\n\n"]


async def test_a_total_failure_after_the_early_head_is_the_error_event(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    async def main() -> None:
        await trio.sleep(1.5)
        await responder.error(ERROR)

    await run_beside(responder, 1.0, main)
    assert client.heads[0][0] == 200
    assert client.bodies == [KEEP_ALIVE, b"data: " + ERROR.body() + b"\n\n"]
    assert not client.ended  # the connection ends instead


async def test_a_comment_that_waits_for_the_client_goes_before_the_answer(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    """`Client` fails the test if the two were written at once."""
    client.takes = trio.Event()

    async def main() -> None:
        await trio.sleep(1.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await trio.testing.wait_all_tasks_blocked()
            assert client.bodies == []
            client.takes.set()

    async def answer() -> None:
        await responder.start((header("x-arbstr-provider", "alpha"),))
        await responder.body(b"data: 1\n\n", more=True)

    await run_beside(responder, 1.0, main)
    assert client.bodies == [KEEP_ALIVE, b"data: 1\n\n"]
    assert len(client.heads) == 1


async def test_a_client_that_takes_nothing_gets_no_comments(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    client.takes = trio.Event()

    async def main() -> None:
        await responder.start(())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(responder.body, b"data: 1\n\n", more=True))
            await trio.sleep(10)
            client.takes.set()
        await trio.sleep(0.5)

    await run_beside(responder, 1.0, main)
    assert client.bodies == [b"data: 1\n\n"]


async def test_no_comment_follows_the_end(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    async def main() -> None:
        await responder.start(())
        await responder.end(b"data: [DONE]\n\n")
        await trio.sleep(10)

    await run_beside(responder, 1.0, main)
    assert client.bodies == [b"data: [DONE]\n\n"]


async def test_a_cancelled_comment_frees_who_waits_for_it(
    client: Client, responder: Responder, autojump_clock: trio.testing.MockClock
) -> None:
    client.takes = trio.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            silences = Silences()
            nursery.start_soon(silences.run)
            await trio.testing.wait_all_tasks_blocked()
            silences.begin(responder, 1.0, early)
            await trio.sleep(1.5)
            nursery.start_soon(partial(responder.body, b"data: 1\n\n", more=True))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            client.takes.set()
    await responder.end(b"data: 2\n\n")
    assert client.bodies[-1] == b"data: 2\n\n"
    assert client.bodies[0] == KEEP_ALIVE


async def test_a_comment_that_breaks_breaks_no_other(
    client: Client,
    responder: Responder,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One clock says something in all streams."""

    def bug() -> Any:
        raise RuntimeError

    broken = Responder(Client(), b"", door=responder.door)
    async with trio.open_nursery() as nursery:
        silences = Silences()
        nursery.start_soon(silences.run)
        await trio.testing.wait_all_tasks_blocked()
        silences.begin(broken, 1.0, bug)
        silences.begin(responder, 1.0, early)
        await trio.sleep(2.5)
        nursery.cancel_scope.cancel()
    assert client.bodies == [KEEP_ALIVE, KEEP_ALIVE]
    assert {"RuntimeError at" in record.getMessage() for record in caplog.records} == {True}


async def test_without_its_clock_no_silence_is_noticed(responder: Responder) -> None:
    with pytest.raises(LocalProtocolError):
        Silences().begin(responder, 1.0, early)


# ---- headers


def test_a_header_never_raises() -> None:
    assert header("x-arbstr-policy", "größe €") == (b"x-arbstr-policy", b"gr\xf6\xdfe ?")
    assert policy_header(None) == ()
    assert policy_header("cheap") == ((b"x-arbstr-policy", b"cheap"),)


def test_only_the_headers_of_the_list_pass_and_without_secrets() -> None:
    seen = {
        "content-type": "text/html",
        "set-cookie": "a=b",
        "x-cashu": "cashuAtoken",
        "server": "nginx",
        "authorization": "Bearer key-12345678",
        "openai-version": "2020-10-01",
        "openai-organization": "org key-12345678",
        "x-routstr-request-id": "r1",
        "x-ratelimit-remaining-tokens": "5",
        "retry-after": "3",
        "x-request-id": "theirs",
    }
    assert passed_on(seen, (Secret("key-12345678"),)) == (
        (b"openai-version", b"2020-10-01"),
        (b"openai-organization", b"org [REDACTED]"),
        (b"x-routstr-request-id", b"r1"),
        (b"x-ratelimit-remaining-tokens", b"5"),
        (b"retry-after", b"3"),
    )
    assert passed_on({}, ()) == ()

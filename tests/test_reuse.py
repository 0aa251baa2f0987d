"""Which connections to a provider serve another request, and which never do.

A server that breaks an answer off often closes its connection a moment later: the next request on
it is reset, and may have been paid for. So here a provider resets whoever asks on a connection that
has served an answer before, and the second client must not notice.
"""

from typing import Final

import pytest

from tests.fakes import (
    DONE,
    RESET_AFTER_REQUEST,
    ROLE,
    ROUTSTR_ID,
    WORD,
    Behaviour,
    Play,
    Request,
    answer,
    chunk,
    completion,
    error_answer,
    error_object,
    hello,
    html200,
    json_answer,
    open_fake_provider,
    routstr_error,
    sse,
    stream,
    truncated_json,
)
from tests.proxy import STREAMED, config, open_proxy, provider

ERROR: Final = {"error": error_object("the fake broke", "server_error", 500)}
KINDS: Final = pytest.mark.parametrize("kind", ["openai", "routstr"])

BROKEN: Final = {
    "half JSON": truncated_json(),
    "HTML": html200(),
    "nothing": answer(200),
    "no choices": json_answer({**completion(), "choices": []}),
    "an error in a 200": json_answer(ERROR),
    "500": error_answer(500),
    "502": error_answer(502),
    "503": error_answer(503),
    "504": error_answer(504),
    "408": error_answer(408),
    "413": error_answer(413),
    "499": error_answer(499),
    "a node's own 500": routstr_error(500),
    "204": Play((b"HTTP/1.1 204 No Content\r\n\r\n",)),
    "302": answer(302),
}
"""Whole messages, in HTTP's eyes, of a provider for which something went wrong."""

BROKEN_STREAMS: Final = {
    "no event": stream([]),
    "comments": stream([b": hello\n\n"]),
    "no output": stream([ROLE]),
    "half of it": stream([ROLE, WORD]),
    "an error first": stream([sse(ERROR)]),
    "an error late": stream([ROLE, WORD, sse(ERROR)]),
    "an error late, and [DONE]": stream([ROLE, WORD, sse(ERROR), DONE]),
    "half an event": stream([ROLE, WORD, b'data: {"id"\n\n', DONE]),
    "an unfinished event": stream([ROLE, WORD, b'data: {"id"']),
    "[DONE] at once": stream([DONE]),
    "finish reason error": stream([ROLE, WORD, sse(chunk(finish="error")), DONE]),
}

KEPT: Final = {
    "an answer": json_answer(completion("Hello there")),
    "400": error_answer(400),
    "401": error_answer(401),
    "402": error_answer(402),
    "404": error_answer(404),
    "422": error_answer(422),
    "429": error_answer(429, headers=[("retry-after", "0")]),
}


async def reused(play: Play, kind: str, *, streaming: bool) -> bool:
    """Whether the connection that `play` was said on has served a second request."""
    used: set[int] = set()

    def script(request: Request) -> Behaviour:
        first, known = not used, request.connection in used
        used.add(request.connection)
        if first:
            return play
        return RESET_AFTER_REQUEST if known else json_answer(completion("Hello there"))

    # The same is asked twice; what a repeat gets is another matter.
    more = "[retry]\nmax_retries = 0\nrepeat_guard = 0"
    async with (
        open_fake_provider(script) as fake,
        open_proxy(config(provider("alpha", fake.url, kind=kind), more=more)) as proxy,
    ):
        await proxy.chat(stream=streaming)
        await proxy.wait_idle()
        proxy.hub.board.retain(())  # a key that rests is another matter
        proxy.hub.board.retain(["alpha"])
        reply = await proxy.chat(stream=streaming)
        assert fake.hits == 2
        assert (reply.status == 200) == (len(used) == 2), reply.body
        return len(used) == 1


@KINDS
@STREAMED
@pytest.mark.parametrize("play", BROKEN.values(), ids=BROKEN)
async def test_a_connection_whose_answer_failed_serves_nobody_else(
    play: Play, kind: str, streaming: bool
) -> None:
    assert not await reused(play, kind, streaming=streaming)


@KINDS
@STREAMED
@pytest.mark.parametrize("play", BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
async def test_a_connection_whose_stream_broke_serves_nobody_else(
    play: Play, kind: str, streaming: bool
) -> None:
    assert not await reused(play, kind, streaming=streaming)


@KINDS
@STREAMED
@pytest.mark.parametrize("play", KEPT.values(), ids=KEPT)
async def test_a_good_answer_and_a_refusal_keep_their_connection(
    play: Play, kind: str, streaming: bool
) -> None:
    assert await reused(play, kind, streaming=streaming)


async def test_a_good_stream_keeps_its_connection() -> None:
    assert await reused(stream(hello()), "openai", streaming=True)
    assert await reused(stream(hello(), headers=[ROUTSTR_ID]), "routstr", streaming=True)


async def test_json_that_makes_no_stream_is_a_broken_answer() -> None:
    assert not await reused(json_answer(completion("x", finish="error")), "openai", streaming=True)

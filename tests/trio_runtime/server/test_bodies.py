"""How many bytes of requests' bodies are held at once, and that all of it is given back."""

from typing import Final

import pytest

from arbstr.sansio.errors import ErrorReply
from arbstr.trio_runtime.server.bodies import BODIES_HELD, NO_ROOM, SMALL_BYTES, Bodies, Body
from tests.fakes import completion, json_answer, open_fake_provider
from tests.proxy import chat_body, config, open_proxy, provider

LIMIT: Final = 2 * SMALL_BYTES
FULL: Final = BODIES_HELD * LIMIT


class Sent:
    """These pieces are received; without a last one the client leaves."""

    def __init__(self, *pieces: bytes, ends: bool = True) -> None:
        last = len(pieces) - 1 if ends else -1
        self._pieces = [(piece, n != last) for n, piece in enumerate(pieces)]
        self.taken = 0

    async def __call__(self) -> tuple[bytes, bool] | None:
        if self.taken == len(self._pieces):
            return None
        self.taken += 1
        return self._pieces[self.taken - 1]


async def read(bodies: Bodies, sent: Sent, length: int | None = None) -> bytes | ErrorReply | None:
    with Body(bodies) as body:
        return await body.read(sent, {}, length, LIMIT)


async def test_a_body_is_held_until_its_request_ends() -> None:
    bodies = Bodies()
    with Body(bodies) as body:
        assert await body.read(Sent(b"one", b"two"), {}, None, LIMIT) == b"onetwo"
        assert bodies.held == 6
    assert bodies.held == 0


@pytest.mark.parametrize("held", [FULL - LIMIT + 1, FULL])
async def test_a_large_body_without_room_is_refused_before_it_is_read(held: int) -> None:
    bodies, sent = Bodies(), Sent(b"x" * LIMIT)
    bodies.held = held
    assert await read(bodies, sent, LIMIT) == NO_ROOM
    assert (sent.taken, bodies.held) == (0, held)


async def test_one_that_does_not_say_its_length_is_refused_once_there_is_no_room() -> None:
    bodies, sent = Bodies(), Sent(*[b"x" * SMALL_BYTES] * 2)
    bodies.held = FULL - SMALL_BYTES
    assert await read(bodies, sent) == NO_ROOM
    assert (sent.taken, bodies.held) == (2, FULL - SMALL_BYTES)


async def test_a_small_body_is_taken_however_much_is_held() -> None:
    bodies = Bodies()
    bodies.held = FULL
    small = b"x" * SMALL_BYTES
    assert await read(bodies, Sent(small), SMALL_BYTES) == small
    assert bodies.held == FULL


async def test_what_fits_exactly_is_taken() -> None:
    bodies = Bodies()
    bodies.held = FULL - LIMIT
    large = b"x" * LIMIT
    assert await read(bodies, Sent(large), LIMIT) == large


@pytest.mark.parametrize(
    ("sent", "ends_as"),
    [(Sent(b"x" * LIMIT, b"x"), "body_too_large"), (Sent(b"x", ends=False), None)],
    ids=["too large", "left"],
)
async def test_what_is_not_served_is_given_back_too(sent: Sent, ends_as: str | None) -> None:
    bodies = Bodies()
    found = await read(bodies, sent)
    assert (found.code if isinstance(found, ErrorReply) else found) == ends_as
    assert bodies.held == 0


async def test_a_client_is_told_to_come_back_and_is_served_then() -> None:
    large = chat_body(messages=[{"role": "user", "content": "x" * SMALL_BYTES}])
    async with (
        open_fake_provider(json_answer(completion())) as fake,
        open_proxy(config(provider("alpha", fake.url), more="[server]\nmax_body_mb = 2")) as proxy,
    ):
        bodies = proxy.server.serve_request._bodies  # type: ignore[attr-defined]  # it is the app
        bodies.held = FULL
        async with proxy.client() as client:
            await client.send("POST", "/v1/chat/completions", large)
            refused = await client.reply()
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        assert (await proxy.chat()).status == 200
        assert bodies.held == FULL
        bodies.held = 0
        async with proxy.client() as client:
            await client.send("POST", "/v1/chat/completions", large)
            assert (await client.reply()).status == 200
        assert bodies.held == 0
    assert fake.hits == 2

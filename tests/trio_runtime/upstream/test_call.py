"""One call to one provider: what is sent, and what is made of what was seen."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.config.reader import Kind, parse_config
from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.dialect import Answer
from arbstr.sansio.failover.failure import Failure, FailureKind, Money
from arbstr.sansio.failover.kinds import TRAITS
from arbstr.sansio.routing.catalog import Provider, build_catalog
from arbstr.trio_runtime.drains import LATE_SECONDS, seconds_to_read_on
from arbstr.trio_runtime.upstream.answering import LAST_WORD_SECONDS, TAIL_SECONDS
from arbstr.trio_runtime.upstream.ask import USER_AGENT
from arbstr.trio_runtime.upstream.call import UpstreamCall
from arbstr.trio_runtime.upstream.target import Target
from arbstr.trio_runtime.upstream.transport import Transport
from arbstr.trio_runtime.upstream.witness import Seen
from tests.chats import chat
from tests.fakes import (
    CLOSE_AFTER_REQUEST,
    DONE,
    ROLE,
    ROUTSTR_ID,
    ROUTSTR_USAGE,
    SILENCE,
    STOP,
    WORD,
    FakeProvider,
    Play,
    Script,
    Step,
    Unread,
    answer,
    by_name,
    chunk,
    completion,
    error_answer,
    half_answer,
    head,
    hello,
    json_answer,
    open_fake_provider,
    raw,
    refused_url,
    sse,
    stream,
    usage,
)
from tests.passes import Passes
from tests.proxy import KEY, STREAMED, config, provider

K: Final = FailureKind
BODY: Final = b'{"model":"gpt-4o"}'


def provider_at(
    url: str, *, kind: str = "openai", key: str | None = KEY, more: str = ""
) -> Provider:
    settled = parse_config(config(provider("first", url, kind=kind, key=key, more=more)), {})
    return build_catalog(settled).providers[0]


def call_of(
    url: str,
    *,
    kind: Kind = Kind.OPENAI,
    key: str | None = KEY,
    max_answer_bytes: int = 1_000_000,
    added_stream_options: bool = False,
    more: str = "",
) -> UpstreamCall:
    where = provider_at(url, kind=kind.value, key=key, more=more)
    return UpstreamCall(
        where,
        Target(where, CHAT.path),
        kind=kind,
        asked=chat(),
        max_answer_bytes=max_answer_bytes,
        added_stream_options=added_stream_options,
        secrets=(),
    )


@asynccontextmanager
async def calling(script: Script) -> AsyncIterator[tuple[FakeProvider, Transport]]:
    async with open_fake_provider(script) as fake, Transport() as transport:
        yield fake, transport
        # Whatever happened, a closed call holds no socket that is not ready for the next one.
        statistics = transport.statistics()
        assert statistics.open == statistics.idle


async def asked(
    call: UpstreamCall, transport: Transport, *, streaming: bool, body: bytes = BODY
) -> bytes | Answer | Failure:
    """The call, as `attempts.py` makes it; closed afterwards."""
    try:
        failure = await call.connect(transport)
        return failure or await (call.stream(body) if streaming else call.plain(body))
    finally:
        call.close()


def kind_of(found: object) -> FailureKind:
    assert isinstance(found, Failure), found
    return found.kind


# --- what is sent -----------------------------------------------------------------------------


@STREAMED
async def test_a_request_has_our_headers_and_no_others(streaming: bool) -> None:
    async with calling(by_name) as (fake, transport):
        await asked(call_of(fake.url), transport, streaming=streaming)
    [request] = fake.requests
    assert (request.method, request.target, request.body) == ("POST", "/v1/chat/completions", BODY)
    host = fake.url.removeprefix("http://").removesuffix("/v1")
    assert sorted((name.lower(), value) for name, value in request.headers) == [
        ("accept", "text/event-stream" if streaming else "application/json"),
        ("accept-encoding", "identity"),
        ("authorization", f"Bearer {KEY}"),
        ("content-length", str(len(BODY))),
        ("content-type", "application/json"),
        ("host", host),
        ("user-agent", USER_AGENT.decode()),
    ]


async def test_without_a_key_no_authorization_is_sent() -> None:
    async with calling(by_name) as (fake, transport):
        await asked(call_of(fake.url, key=None), transport, streaming=False)
    assert fake.requests[0].header("authorization") is None


def test_a_target_shows_no_key() -> None:
    assert KEY not in repr(Target(provider_at("https://h.example/v1"), CHAT.path))


# --- before an answer -------------------------------------------------------------------------


async def test_a_refused_connection_is_not_sent() -> None:
    with refused_url() as nowhere:
        async with Transport() as transport:
            found = await asked(call_of(nowhere), transport, streaming=False)
    assert isinstance(found, Failure)
    assert (found.kind, found.money, found.trips) == (K.NOT_SENT, Money.FREE, True)
    assert found.sentence == "could not be reached: connection refused"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("", "did not connect within 10 s"),
        ('proxy = "socks5://127.0.0.1:9050"', "did not connect through its proxy within 10 s"),
    ],
)
def test_a_connection_that_takes_too_long_is_not_sent_and_says_which_way(
    more: str, sentence: str
) -> None:
    found = call_of("http://provider.test/v1", more=more).connect_timed_out(10.0)
    assert (found.kind, found.sentence) == (FailureKind.NOT_SENT, sentence)


@pytest.mark.parametrize("ending", ["fin", "rst"])
async def test_a_request_that_was_written_in_part_may_have_been_read(ending: str) -> None:
    large = b"x" * 30_000_000
    unread = Unread(1000, ending)  # type: ignore[arg-type]  # parametrised
    async with calling(unread) as (fake, transport):
        found = await asked(call_of(fake.url), transport, streaming=False, body=large)
    assert kind_of(found) is K.NO_ANSWER


async def test_an_error_that_comes_before_all_was_sent_is_read() -> None:
    refusal = head(413, [("content-length", "0"), ("connection", "close")])
    async with open_fake_413(refusal) as url, Transport() as transport:
        found = await asked(call_of(url), transport, streaming=False, body=b"x" * 30_000_000)
        assert transport.statistics().open == 0
    assert kind_of(found) is K.CLIENT_ERROR


@asynccontextmanager
async def open_fake_413(refusal: bytes) -> AsyncIterator[str]:
    """A provider that answers as soon as it has seen a head, and reads no body."""

    async def serve(connection: trio.SocketStream) -> None:
        await connection.receive_some(1000)
        await connection.send_all(refusal)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1"
        nursery.cancel_scope.cancel()


async def test_a_deadline_means_what_had_been_seen_until_then() -> None:
    """Silence at each stage of a call, and what cutting it short there means."""
    stages: list[tuple[bool, Play, Seen, FailureKind]] = [
        (False, SILENCE, Seen.SENT, K.NO_ANSWER),
        (False, raw(b"HTTP/1.1 200 O", "hang"), Seen.SENT, K.NO_ANSWER),
        (False, half_answer(b"{}", 0, ending="hang"), Seen.GOOD_HEAD, K.BAD_ANSWER),
        (False, half_answer(b"{ }", ending="hang"), Seen.GOOD_HEAD, K.BAD_ANSWER),
        (True, SILENCE, Seen.SENT, K.NO_ANSWER),
        (True, half_answer(b"{}", 0, ending="hang"), Seen.GOOD_HEAD, K.STREAM_DIED),
        (True, half_answer(b"{ }", ending="hang"), Seen.GOOD_HEAD, K.BAD_ANSWER),
        (True, stream([ROLE], ending="hang"), Seen.GOOD_HEAD, K.STREAM_DIED),
        (True, raw(head(500, [("content-length", "9")]), "hang"), Seen.REFUSED, K.SERVER_ERROR),
        (False, raw(head(418, [("content-length", "9")]), "hang"), Seen.REFUSED, K.CLIENT_ERROR),
    ]
    for streaming, play, seen, kind in stages:
        async with calling(play) as (fake, transport):
            call = call_of(fake.url)
            assert call.cut_short("x").kind is K.NOT_SENT
            assert await call.connect(transport) is None
            assert call.cut_short("x").kind is K.NOT_SENT
            await cancelled_in_silence(call, fake, streaming=streaming)
            assert (call.seen, call.cut_short("x").kind) == (seen, kind)
            given_up = call.given_up(K.CLIENT_LEFT, "x").kind
            assert given_up is (kind if seen is Seen.REFUSED else K.CLIENT_LEFT)
            call.close()


async def cancelled_in_silence(call: UpstreamCall, fake: FakeProvider, *, streaming: bool) -> None:
    """Asks, waits until nothing happens any more, and cancels."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.stream if streaming else call.plain, BODY)
        await fake.wait_requests()
        await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


async def test_a_limit_of_ours_is_no_fault_of_the_provider() -> None:
    async with calling(json_answer(completion("x" * 5000))) as (fake, transport):
        for streaming in (False, True):
            call = call_of(fake.url, max_answer_bytes=1000)
            found = await asked(call, transport, streaming=streaming)
            assert isinstance(found, Failure)
            assert (found.kind, found.money, found.trips) == (K.BAD_ANSWER, Money.SPENT, False)
            assert "max_answer_mb" in found.sentence


# --- compressed -------------------------------------------------------------------------------

GZIP: Final = [("content-encoding", "gzip")]
BROTLI: Final = b"\x0b\x02\x80{}\x03"
"""An empty object, as brotli writes it."""


async def test_an_answer_that_is_compressed_all_the_same_is_read() -> None:
    whole = completion("Hello there")
    plain = answer(200, gzip.compress(json.dumps(whole).encode()), GZIP)
    streamed = stream([gzip.compress(b"".join(hello()))], headers=GZIP)
    refusal = answer(422, gzip.compress(b'{"error":{"message":"too much"}}'), GZIP)
    async with calling([plain, streamed, refusal]) as (fake, transport):
        found = await asked(call_of(fake.url), transport, streaming=False)
        assert isinstance(found, Answer)
        assert json.loads(found.body) == whole
        first = await asked(call_of(fake.url), transport, streaming=True)
        assert first == b"".join(hello(usage=None)[:-1])
        found = await asked(call_of(fake.url), transport, streaming=False)
        assert isinstance(found, Failure)
        assert found.error is not None
        assert found.error["message"] == "too much"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("packed", "labels"),
    [
        (bytes, ["none"]),
        (bytes, ["utf-8"]),
        (bytes, ["identity, identity"]),
        (bytes, ["gzip"]),  # somebody on the way has undone it already
        (bytes, ["br"]),
        (gzip.compress, ["none"]),
        (gzip.compress, []),  # and nobody said so
        (gzip.compress, ["gzip, identity"]),
        (gzip.compress, ["gzip", "identity"]),  # two lines are one list
        (gzip.compress, ["deflate"]),
        (raw_deflate, ["deflate"]),
    ],
)
async def test_a_label_does_not_cost_an_answer_nor_the_words_of_an_error(
    packed: Callable[[bytes], bytes], labels: list[str]
) -> None:
    whole, said = json.dumps(completion("Hello there")).encode(), [*hello()]
    headers = [("content-encoding", label) for label in labels]
    refusal = answer(422, packed(b'{"error":{"message":"too much"}}'), headers)
    # One message a piece, as a framework that compresses each event by itself sends them.
    pieces = [packed(b"".join(said))] if packed is raw_deflate else [packed(each) for each in said]
    script = [answer(200, packed(whole), headers), stream(pieces, headers=headers), refusal]
    async with calling(script) as (fake, transport):
        found = await asked(call_of(fake.url), transport, streaming=False)
        assert isinstance(found, Answer)
        assert found.body == whole
        call = call_of(fake.url)
        assert await call.connect(transport) is None
        out = await call.stream(b"{}")
        assert isinstance(out, bytes)
        while not (call.ended or call.relay.done):
            out += await call.more()
        assert out == b"".join(hello(usage=None)[:-1])
        assert call.relay.complete
        call.close()
        found = await asked(call_of(fake.url), transport, streaming=False)
        assert isinstance(found, Failure)
        assert found.error is not None
        assert found.error["message"] == "too much"


async def test_a_small_body_that_becomes_a_large_one_is_stopped() -> None:
    bomb = gzip.compress(b'{"choices":"' + bytes(30_000_000))
    async with calling(answer(200, bomb, GZIP)) as (fake, transport):
        call = call_of(fake.url, max_answer_bytes=5_000_000)
        found = await asked(call, transport, streaming=False)
        assert kind_of(found) is K.BAD_ANSWER
        assert call._body.size < 7_000_000


@pytest.mark.parametrize(
    ("play", "streaming", "kind"),
    [
        (answer(200, b"not gzip", GZIP), False, K.BAD_ANSWER),
        (answer(200, b"not gzip", GZIP), True, K.STREAM_DIED),
        (answer(200, BROTLI, [("content-encoding", "br")]), False, K.BAD_ANSWER),
        (answer(200, BROTLI, [("content-encoding", "br")]), True, K.STREAM_DIED),
        (answer(500, BROTLI, [("content-encoding", "br")]), True, K.SERVER_ERROR),
        (answer(422, b"not gzip", GZIP), False, K.CLIENT_ERROR),
    ],
)
async def test_what_cannot_be_decompressed_is_judged_by_its_head(
    play: Play, streaming: bool, kind: FailureKind
) -> None:
    async with calling(play) as (fake, transport):
        found = await asked(call_of(fake.url), transport, streaming=streaming)
    assert kind_of(found) is kind


# --- streams ----------------------------------------------------------------------------------


async def test_a_small_piece_that_becomes_many_leaves_others_their_turns() -> None:
    """A stream of 5 MB comes in some 20 kB: to wait for nothing is no reason to hold others up."""
    passes, said = Passes(), WORD * (5_000_000 // len(WORD))
    packed = gzip.compress(ROLE + said + STOP + DONE)
    async with calling(stream([packed], headers=GZIP)) as (fake, transport):
        call = call_of(fake.url)
        assert await call.connect(transport) is None
        first = await call.stream(BODY)
        assert isinstance(first, bytes)
        parts = [first]
        while not call.relay.done:
            with trio.CancelScope() as scope:
                scope.cancel()
                await call.more()
            assert scope.cancelled_caught
            before = passes.count
            parts.append(await call.more())
            assert passes.count > before
        assert len(parts) > 3
        assert b"".join(parts) == ROLE + said + STOP
        assert call.relay.complete
        call.close()


async def test_what_was_held_comes_out_with_the_first_output() -> None:
    gate = trio.Event()
    async with calling(stream([ROLE, WORD, gate, STOP, DONE])) as (fake, transport):
        call = call_of(fake.url)
        assert await call.connect(transport) is None
        assert await call.stream(BODY) == ROLE + WORD
        assert call.seen is Seen.OUTPUT
        gate.set()
        out = b""
        while not (call.relay.done or call.ended):
            out += await call.more()
        assert (out, call.relay.complete, call.stream_failure()) == (STOP, True, None)
        await call.finish()
        call.close()
        assert transport.statistics().idle == 1


async def test_the_end_of_a_stream_is_told_once() -> None:
    async with calling(stream([ROLE, WORD])) as (fake, transport):
        call = call_of(fake.url)
        assert await call.connect(transport) is None
        assert await call.stream(BODY)
        while not call.ended:
            assert await call.more() == b""
        assert not call.relay.complete
        assert call.cut_short("x").kind is K.STREAM_CUT
        call.close()
        call.close()


async def test_json_for_a_stream_is_judged_as_json() -> None:
    for finish, said, kind, money in (
        ("error", "x", K.BAD_ANSWER, Money.SPENT),
        ("abort", "x", K.BAD_ANSWER, Money.SPENT),
        ("error", None, K.ERROR_ANSWER, Money.FREE),
    ):
        counted = usage() if money is Money.SPENT else None
        for streaming in (True, False):
            play = json_answer(completion(said, finish=finish, usage=counted))
            async with calling(play) as (fake, transport):
                found = await asked(call_of(fake.url), transport, streaming=streaming)
            assert isinstance(found, Failure)
            assert (found.kind, found.money) == (kind, money)


@pytest.mark.parametrize("streaming", [False, True])
async def test_what_is_said_to_be_charged_outranks_the_class(streaming: bool) -> None:
    told = {"error": {"message": "x"}}
    charged, nothing = dict(ROUTSTR_USAGE), usage(0, 0, cost={"total_msats": 0})
    bad = completion(usage=charged) | {"choices": []}
    for body, kind, money in (
        (told | {"usage": charged}, K.ERROR_ANSWER, Money.SPENT),
        (told | {"usage": usage()}, K.ERROR_ANSWER, Money.SPENT),
        (told | {"usage": nothing}, K.ERROR_ANSWER, Money.FREE),
        (told | {"cost": {"total_msats": 1}}, K.ERROR_ANSWER, Money.SPENT),
        (told, K.ERROR_ANSWER, Money.FREE),
        (bad, K.BAD_ANSWER, Money.SPENT),
        (bad | {"usage": nothing}, K.BAD_ANSWER, Money.FREE),
    ):
        for provider_kind in Kind:
            async with calling(json_answer(body)) as (fake, transport):
                call = call_of(fake.url, kind=provider_kind)
                found = await asked(call, transport, streaming=streaming)
            assert isinstance(found, Failure)
            assert (found.kind, found.money) == (kind, money), body


async def test_a_charge_stated_with_a_refusal_is_one() -> None:
    body = {"error": {"message": "x"}, "usage": dict(ROUTSTR_USAGE)}
    async with calling(json_answer(body, 500)) as (fake, transport):
        call = call_of(fake.url)
        found = await asked(call, transport, streaming=False)
    assert isinstance(found, Failure)
    assert (found.kind, found.money) == (K.SERVER_ERROR, Money.SPENT)
    assert call.provider_cost_msats == 505


CHARGE: Final = {"cost": {"total_msats": 505}}
CHARGED: Final = {
    "in an error": {"error": {"message": "x", **CHARGE}},
    "in its usage": {"error": {"message": "x", "usage": CHARGE}},
    "in FastAPI's error": {"detail": {"error": {"message": "x"}, **CHARGE}},
    "in FastAPI's error's usage": {"detail": {"error": {"message": "x", "usage": CHARGE}}},
    "in Gemini's list": [{"error": {"message": "x", "usage": CHARGE}}],
    "beside the error of a list": [{"error": {"message": "x"}, "usage": CHARGE}],
    "in words": {"detail": "it broke", "usage": CHARGE},
    "in a choice": {"choices": [{"error": {"message": "x"}, "usage": CHARGE}]},
}
SHAPES: Final[dict[str, Callable[[bytes], Play]]] = {
    "an answer": lambda data: answer(200, data),
    "a refusal": lambda data: answer(500, data),
    "a refusal, as an event": lambda data: answer(500, b"data: " + data + b"\n\n"),
    "an event": lambda data: stream([b"data: " + data + b"\n\n"]),
    "between events": lambda data: stream([b": x\n\n", data + b"\n\n"]),
    "after a role": lambda data: stream([ROLE, b"data: " + data + b"\n\n", DONE]),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("told", CHARGED.values(), ids=CHARGED)
@STREAMED
async def test_a_charge_is_one_wherever_in_an_error_it_stands(
    told: object, shape: Callable[[bytes], Play], streaming: bool
) -> None:
    async with calling(shape(json.dumps(told).encode())) as (fake, transport):
        call = call_of(fake.url, kind=Kind.ROUTSTR)
        found = await asked(call, transport, streaming=streaming)
    assert isinstance(found, Failure)
    assert found.kind in (K.ERROR_ANSWER, K.SERVER_ERROR)
    assert (found.money, call.provider_cost_msats) == (Money.SPENT, Decimal(505))


async def test_a_charge_in_the_error_field_of_a_stream_is_one() -> None:
    told = b'error: {"message":"x","usage":{"cost":{"total_msats":505}}}\n\n'
    for events in ([told], [ROLE, told, DONE]):
        async with calling(stream(events)) as (fake, transport):
            call = call_of(fake.url)
            found = await asked(call, transport, streaming=True)
        assert isinstance(found, Failure)
        assert (found.kind, found.money) == (K.ERROR_ANSWER, Money.SPENT)


NOTHING_YET: Final = sse({"cost": {"total_msats": 0}})
TROUBLE: Final = sse({"error": {"message": "x"}})


@pytest.mark.parametrize(
    ("events", "ending", "money"),
    [
        ([ROLE, TROUBLE, sse(chunk(usage=ROUTSTR_USAGE))], "clean", Money.SPENT),
        ([ROLE, TROUBLE, 1.0, sse(chunk(usage=ROUTSTR_USAGE)), DONE], "hang", Money.SPENT),
        ([ROLE, TROUBLE, 1.0, sse(chunk(usage=usage()))], "rst", Money.SPENT),
        ([ROLE, TROUBLE, DONE, 1.0, sse(chunk(usage=ROUTSTR_USAGE))], "clean", Money.SPENT),
        ([ROLE, TROUBLE, DONE, 0.5, sse({"cost": {"total_msats": 0}})], "clean", Money.FREE),
        ([ROLE, TROUBLE, DONE], "hang", Money.FREE),
        ([ROLE, TROUBLE, sse({"cost": {"total_msats": 0}})], "clean", Money.FREE),
        ([ROLE, TROUBLE], "clean", Money.FREE),
        ([ROLE, TROUBLE, DONE], "rst", Money.FREE),
        # Who says last what it took has not said it, and may have taken it.
        ([ROLE, TROUBLE], "rst", None),
        ([ROLE, TROUBLE], "fin", None),
        ([ROLE, TROUBLE], "hang", Money.FREE),
        ([ROLE, TROUBLE, 2.5, sse(chunk(usage=ROUTSTR_USAGE))], "clean", Money.FREE),
    ],
)
@STREAMED
async def test_an_error_before_output_is_judged_by_the_last_word_after_it(
    events: list[Step], ending: str, money: Money | None, streaming: bool, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.02  # sockets are real, and are given this long
    play = stream(events, ending=ending)  # type: ignore[arg-type]  # parametrised
    for kind in Kind:
        unheard = Money.UNKNOWN if TRAITS[kind].states else Money.FREE
        async with calling(play) as (fake, transport):
            call = call_of(fake.url, kind=kind)
            began = trio.current_time()
            found = await asked(call, transport, streaming=streaming)
            took = trio.current_time() - began
        assert isinstance(found, Failure)
        assert (found.kind, found.money) == (K.ERROR_ANSWER, money or unheard)
        assert took <= 2.1


@pytest.mark.parametrize(
    ("events", "failure"),
    [
        ((*hello(), 1.0, b": bye\n\n"), None),
        ((ROLE, WORD, STOP, sse(chunk(usage=usage()))), None),
        ((ROLE, WORD, STOP, 1.5, WORD, 1.5, WORD, STOP, DONE), None),
        ((ROLE, WORD, TROUBLE), K.BAD_ANSWER),
        ((ROLE, WORD), K.BAD_ANSWER),
    ],
)
async def test_a_stream_for_a_plain_request_is_over_when_a_stream_is_over(
    events: tuple[Step, ...], failure: FailureKind | None, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.02  # sockets are real, and are given this long
    async with calling(stream(events, ending="hang")) as (fake, transport):
        call = call_of(fake.url, more="timeouts = { idle = 5 }")
        began = trio.current_time()
        found = await asked(call, transport, streaming=False)
        took = trio.current_time() - began
    assert isinstance(found, Answer) if failure is None else kind_of(found) is failure
    assert took <= 5.5


@pytest.mark.parametrize("ending", ["fin", "rst"])
@pytest.mark.parametrize("framing", ["content-length: 9999", "transfer-encoding: chunked"])
@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (json.dumps(completion()).encode(), None),
        (b'{"error":{"message":"x"}}', K.ERROR_ANSWER),
        (b'{"choices":[{"message":{"content":"}', K.BAD_ANSWER),
    ],
    ids=["an answer", "an error", "half"],
)
@STREAMED
async def test_an_answer_that_is_whole_is_one_although_more_was_promised(
    body: bytes, failure: FailureKind | None, framing: str, ending: str, streaming: bool
) -> None:
    size = b"%x\r\n" % len(body) if "chunked" in framing else b""
    begun = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode()
    gate = trio.Event()
    play = Play((begun + size + body, gate), ending)  # type: ignore[arg-type]  # parametrised
    found: list[bytes | Answer | Failure] = []
    async with calling(play) as (fake, transport), trio.open_nursery() as nursery:

        async def ask() -> None:
            found.append(await asked(call_of(fake.url), transport, streaming=streaming))

        nursery.start_soon(ask)
        await fake.wait_requests()
        await wait_all_tasks_blocked(0.01)  # a reset may destroy what was not read
        gate.set()
    assert kind_of(found[0]) is failure if failure else not isinstance(found[0], Failure)


@pytest.mark.parametrize(
    ("kind", "events", "most"),
    [
        (Kind.OPENAI, hello(), TAIL_SECONDS),
        (Kind.ROUTSTR, hello(usage=ROUTSTR_USAGE), TAIL_SECONDS),
        (Kind.ROUTSTR, hello(), LAST_WORD_SECONDS),
        (Kind.OPENAI, hello(usage=None), LAST_WORD_SECONDS),
    ],
    ids=["counted", "priced", "not priced", "not counted"],
)
async def test_a_stream_for_a_plain_request_is_waited_on_for_what_it_has_not_told(
    kind: Kind, events: tuple[Step, ...], most: float, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.02  # sockets are real, and are given this long
    async with calling(stream(events, ending="hang")) as (fake, transport):
        began = trio.current_time()
        found = await asked(call_of(fake.url, kind=kind), transport, streaming=False)
        took = trio.current_time() - began
    assert isinstance(found, Answer)
    assert took == pytest.approx(most, abs=0.01)


# --- money ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "in_usage", "expected"),
    [
        (None, ROUTSTR_USAGE, "505"),
        ("700", None, "700"),
        ("700", ROUTSTR_USAGE, "505"),
        ("-1", None, None),
        ("1e3", None, None),
        ("9" * 40, None, None),
    ],
)
async def test_what_the_provider_says_it_charged(
    header: str | None, in_usage: dict[str, object] | None, expected: str | None
) -> None:
    headers = [] if header is None else [("x-routstr-cost-msats", header)]
    plain = json_answer(completion(usage=in_usage), headers=headers)
    streamed = stream(hello(usage=in_usage), headers=headers)
    async with calling([plain, streamed]) as (fake, transport):
        for streaming in (False, True):
            call = call_of(fake.url)
            assert await call.connect(transport) is None
            await (call.stream(BODY) if streaming else call.plain(BODY))
            while not call.ended:
                await call.more()
            assert call.provider_cost_msats == (None if expected is None else Decimal(expected))
            call.close()


@pytest.mark.parametrize(
    ("key", "kind", "expected"),
    [
        (KEY, Kind.OPENAI, Kind.ROUTSTR),
        (KEY, Kind.ROUTSTR, Kind.ROUTSTR),
        (None, Kind.OPENAI, Kind.OPENAI),
    ],
)
async def test_a_routstr_request_id_tells_a_node_if_there_is_a_key(
    key: str | None, kind: Kind, expected: Kind
) -> None:
    play = json_answer(completion(), headers=[ROUTSTR_ID])
    async with calling(play) as (fake, transport):
        call = call_of(fake.url, key=key, kind=kind)
        await asked(call, transport, streaming=False)
    assert call.kind is expected
    assert call.upstream_request_id == ROUTSTR_ID[1]


async def test_stream_options_are_only_to_blame_if_we_added_them() -> None:
    refusal = error_answer(422, "extra fields: stream_options")
    for added, kind in ((True, K.NO_STREAM_OPTIONS), (False, K.CLIENT_ERROR)):
        async with calling(refusal) as (fake, transport):
            call = call_of(fake.url, added_stream_options=added)
            assert kind_of(await asked(call, transport, streaming=True)) is kind


@pytest.mark.parametrize(
    ("status", "kept"), [(400, 1), (404, 1), (500, 0), (503, 0)], ids=lambda value: str(value)
)
async def test_a_connection_is_kept_after_a_refusal_and_not_after_a_breakdown(
    status: int, kept: int
) -> None:
    async with calling(error_answer(status)) as (fake, transport):
        await asked(call_of(fake.url), transport, streaming=False)
        assert transport.statistics().idle == kept


# --- reading on -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "streaming", "money"),
    [
        (CLOSE_AFTER_REQUEST, False, Money.UNKNOWN),
        (raw(b"garbage\r\n\r\n"), True, Money.UNKNOWN),
        (json_answer(completion()), False, Money.SPENT),
        (json_answer(completion()), True, Money.SPENT),
        (stream(hello()), True, Money.SPENT),
        (stream(hello()), False, Money.SPENT),
        (stream([ROLE, WORD], ending="rst"), True, Money.UNKNOWN),
        (stream([ROLE], ending="rst"), True, Money.UNKNOWN),
        (stream([ROLE, WORD, STOP], ending="rst"), True, Money.SPENT),
        (stream([ROLE, WORD, NOTHING_YET], ending="rst"), True, Money.UNKNOWN),
        (stream([ROLE, WORD, NOTHING_YET]), True, Money.FREE),
        (error_answer(500, headers=[ROUTSTR_ID]), True, Money.FREE),
        (error_answer(500), True, Money.UNKNOWN),
        (error_answer(200), True, Money.FREE),
        (half_answer(b"{}", headers=GZIP), True, Money.SPENT),
    ],
)
async def test_reading_on_says_what_the_answer_came_to_and_never_raises(
    script: Script, streaming: bool, money: Money
) -> None:
    gate = trio.Event()
    assert isinstance(script, Play)
    late = Play((gate, *script.steps), script.ending)
    async with calling(late) as (fake, transport):
        call = call_of(fake.url, kind=Kind.ROUTSTR)
        assert await call.connect(transport) is None
        await cancelled_in_silence(call, fake, streaming=streaming)
        assert call.can_be_read_on
        gate.set()
        assert await call.learn_the_rest() is money
        await call.finish()
        call.close()
        assert not call.can_be_read_on


@pytest.mark.parametrize(
    ("events", "drain_seconds", "seconds"),
    [
        ([ROLE, WORD, STOP], 60, 60),
        ([ROLE, WORD, STOP, DONE], 60, LATE_SECONDS),
        ([ROLE, WORD, STOP, DONE], 1, 1),
        ([ROLE, WORD, STOP, sse(chunk(usage=ROUTSTR_USAGE))], 60, 0),
        ([ROLE, WORD, STOP, sse(chunk(usage=ROUTSTR_USAGE)), DONE], 60, 0),
    ],
    ids=["open", "after [DONE]", "after [DONE], min", "priced", "priced, after [DONE]"],
)
async def test_a_node_is_read_on_for_as_long_as_its_price_may_come(
    events: list[Step], drain_seconds: int, seconds: float
) -> None:
    async with calling(stream(events, ending="hang")) as (fake, transport):
        more = f"drain_seconds = {drain_seconds}"
        call = call_of(fake.url, kind=Kind.ROUTSTR, more=more)
        assert await call.connect(transport) is None
        await call.stream(BODY)
        with trio.move_on_after(0.05):
            while True:
                await call.more()
        assert call.price_is_open is (seconds > 0)
        assert seconds_to_read_on(call, failed=False) == seconds
        call.close()


async def test_ecash_in_what_came_after_the_last_look_is_told_and_told_once() -> None:
    body = b'{"error":{"message":"x","refund_token":"cashuAnew"}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    rest = trio.Event()
    async with calling(Play((head + body[:30], rest, body[30:]))) as (fake, transport):
        call = call_of(fake.url)
        assert await call.connect(transport) is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.plain, BODY)
            await wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        assert call.stray_change() == ()
        rest.set()
        await call.learn_the_rest()
        assert call.stray_change() == ("cashuAnew",)
        assert call.stray_change() == ()
        call.close()

"""Providers behind a proxy: the same answers and the same money, over real sockets."""

import errno
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote

import httpx
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from arbstr.sansio.config.addresses import Proxy, parse_proxy
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.upstream.connect import Origin, open_pipe
from arbstr.trio_runtime.upstream.pipe import ConnectFailed
from arbstr.trio_runtime.upstream.transport import RequestHead, Transport
from tests.fakes import (
    CLOSE_AFTER_REQUEST,
    RESET_AFTER_REQUEST,
    SILENCE,
    FakeProvider,
    Script,
    by_name,
    chunk,
    open_fake_provider,
    refused_url,
    sse,
    stream,
)
from tests.process import arbstr_process, run_arbstr, write_config
from tests.proxy import KEY, ONE_TRY, STREAMED, config, open_proxy, provider
from tests.proxy import Proxy as Arbstr
from tests.trio_runtime import raw_provider
from tests.trio_runtime.fake_proxies import LOGIN, Asked, FakeProxy, open_fake_proxy
from tests.trio_runtime.raw_provider import OK, Peer, answering, ask, open_sockets

SCHEMES: Final = ("socks5", "socks5h", "http")
EVERY_PROXY: Final = pytest.mark.parametrize("scheme", SCHEMES)
NAME: Final = "provider.test"
HEAD: Final = RequestHead.prepare(b"POST", b"/", [(b"Host", b"h")])
AUTHORITY: Final = trustme.CA()


class NoNames(trio.abc.HostnameResolver):
    """A resolver that knows nothing, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes | None] = []

    async def getaddrinfo(self, host: bytes | None, *_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "from the test")

    async def getnameinfo(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
async def lookups() -> AsyncIterator[list[bytes | None]]:
    """What is looked up on this machine; nothing, at the end of the test."""
    names = NoNames()
    trio.socket.set_custom_hostname_resolver(names)
    yield names.asked
    assert names.asked == []


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def server_context(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    return context


async def failure(origin: Origin) -> str:
    with trio.fail_after(20), pytest.raises(ConnectFailed) as caught:
        await open_pipe(origin, client_context())
    return caught.value.sentence


# -- connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("byte_by_byte", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "login"])
@EVERY_PROXY
async def test_a_tunnel_is_a_connection_like_any_other(
    scheme: str, login: tuple[str, str] | None, byte_by_byte: bool, lookups: list[bytes | None]
) -> None:
    async with (
        raw_provider.provider(answering(OK)) as there,
        open_fake_proxy(scheme, {NAME: there.port}, login=login, byte_by_byte=byte_by_byte) as fake,
        Transport() as transport,
    ):
        origin = Origin.of(f"http://{NAME}:8080", parse_proxy(fake.url))
        for turn in range(3):
            connection = await transport.connect(origin)
            assert connection.reused == (turn > 0)
            await connection.send(HEAD, b"{}")
            assert connection.written == len(HEAD.render(2)) + 2
            assert (await connection.receive_head()).status == 200
            assert connection.receive_nowait() == b"ok"
            connection.release()
        assert fake.asked == [Asked(NAME, 8080)]
        assert fake.tunnels == 1


@EVERY_PROXY
async def test_tls_is_spoken_with_the_provider_and_by_its_name(
    scheme: str, lookups: list[bytes | None]
) -> None:
    asked_for: list[str | None] = []

    def remember(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        asked_for.append(name)

    context = server_context(NAME)
    context.sni_callback = remember
    async with (
        raw_provider.provider(answering(OK), tls=context) as there,
        open_fake_proxy(scheme, {NAME: there.port}, byte_by_byte=True) as fake,
        Transport(ssl_context=client_context()) as transport,
    ):
        origin = Origin.of(f"https://{NAME}", parse_proxy(fake.url))
        assert [await ask(transport, origin, HEAD) for _ in range(2)] == [b"ok"] * 2
        assert fake.asked == [Asked(NAME, 443)]
        assert asked_for == [NAME]


@EVERY_PROXY
async def test_a_proxy_that_answers_for_the_provider_is_found_out(
    scheme: str, lookups: list[bytes | None]
) -> None:
    async def swallow(peer: Peer) -> None:
        assert await peer.request() is None

    async with (
        raw_provider.provider(swallow, tls=server_context("other.test")) as there,
        open_fake_proxy(scheme, {NAME: there.port}) as fake,
    ):
        told = await failure(Origin.of(f"https://{NAME}", parse_proxy(fake.url)))
    assert told == "through the proxy: its certificate is for another host"


@EVERY_PROXY
async def test_a_connection_that_ends_in_the_tls_handshake_is_told(
    scheme: str, lookups: list[bytes | None]
) -> None:
    async with (
        raw_provider.provider(lambda peer: peer.stream.aclose()) as there,
        open_fake_proxy(scheme, {NAME: there.port}) as fake,
    ):
        told = await failure(Origin.of(f"https://{NAME}", parse_proxy(fake.url)))
    assert told.startswith("through the proxy: the connection was ")
    assert told.endswith(" during the TLS handshake")


@EVERY_PROXY
@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", Asked("127.0.0.1", 80, is_name=False)),
        ("[::1]", Asked("::1", 80, is_name=False)),
        ("PROVIDER.test", Asked(NAME, 80)),
        ("localhost", Asked("localhost", 80)),
        (f"{'a' * 56}.onion", Asked(f"{'a' * 56}.onion", 80)),
    ],
)
async def test_the_host_reaches_the_proxy_as_it_is_written(
    scheme: str, host: str, asked: Asked, lookups: list[bytes | None]
) -> None:
    async with (
        raw_provider.provider(answering(OK)) as there,
        open_fake_proxy(scheme, {asked.host: there.port}) as fake,
        Transport() as transport,
    ):
        origin = Origin.of(f"http://{host}", parse_proxy(fake.url))
        assert await ask(transport, origin, HEAD) == b"ok"
        assert fake.asked == [asked]


async def test_the_proxys_own_name_is_looked_up() -> None:
    names = NoNames()
    trio.socket.set_custom_hostname_resolver(names)
    told = await failure(Origin("http", NAME, 80, parse_proxy("socks5://tor.test:9050")))
    assert told == "no connection to the proxy (name not found)"
    assert names.asked == [b"tor.test"]


async def test_an_onion_service_without_a_proxy_is_not_even_looked_up(
    lookups: list[bytes | None],
) -> None:
    for host in ("abc.onion", "abc.ONION", "abc.onion."):
        told = await failure(Origin.of(f"http://{host}"))
        assert told == "an onion service can be reached through Tor alone; set proxy"


async def test_ways_share_no_connection(lookups: list[bytes | None]) -> None:
    hosts = {"127.0.0.1": 0}
    async with (
        raw_provider.provider(answering(OK)) as there,
        open_fake_proxy("http", hosts) as one,
        open_fake_proxy("socks5", hosts) as other,
        Transport() as transport,
    ):
        hosts["127.0.0.1"] = there.port
        ways = [
            None,
            parse_proxy(one.url),
            parse_proxy(other.url),
            # An open proxy takes whatever login it is given.
            parse_proxy(one.url.replace("://", "://user:first@")),
            parse_proxy(one.url.replace("://", "://user:other@")),
        ]
        for turn in range(2):
            for way in ways:
                connection = await transport.connect(replace(there, proxy=way))
                assert connection.reused == (turn > 0)
                await connection.send(HEAD, b"")
                await connection.receive_head()
                connection.receive_nowait()
                connection.release()
        assert transport.statistics().idle == len(ways)
        assert (len(one.asked), len(other.asked)) == (3, 1)


async def test_the_fakes_are_proxies_to_others_as_well(lookups: list[bytes | None]) -> None:
    """httpx's own client gets through them, so what arbstr passes here is no private dialect."""
    async with raw_provider.provider(answering(OK), tls=server_context(NAME)) as there:
        for scheme in SCHEMES:
            async with open_fake_proxy(scheme, {NAME: there.port}, login=LOGIN) as fake:
                known = {"verify": client_context(), "proxy": fake.url, "trust_env": False}
                async with httpx.AsyncClient(**known) as client:  # type: ignore[arg-type]
                    assert (await client.get(f"https://{NAME}/")).content == b"ok"
                assert fake.asked == [Asked(NAME, 443)]


# -- proxies that fail ---------------------------------------------------------------------------


async def test_a_proxy_nobody_runs_is_told(lookups: list[bytes | None]) -> None:
    with refused_url() as url:
        way = parse_proxy(url.removesuffix("/v1"))
        told = await failure(Origin("http", NAME, 80, way))
    assert told == "no connection to the proxy (connection refused)"


@EVERY_PROXY
async def test_a_host_the_proxy_cannot_reach_is_told(
    scheme: str, lookups: list[bytes | None]
) -> None:
    async with open_fake_proxy(scheme, {}) as fake:
        told = await failure(Origin("http", NAME, 80, parse_proxy(fake.url)))
    assert told.removesuffix(" (502)") == "through the proxy: host unreachable"


@EVERY_PROXY
async def test_a_login_that_is_missing_or_wrong_is_told(
    scheme: str, lookups: list[bytes | None]
) -> None:
    async with open_fake_proxy(scheme, {}, login=LOGIN) as fake:
        told = await failure(Origin("http", NAME, 80, parse_proxy(fake.shown)))
        assert told == "the proxy wants a user and password"
        wrong = parse_proxy(fake.shown.replace("://", "://someone:else@"))
        told = await failure(Origin("http", NAME, 80, wrong))
        assert told == "the proxy refused the user and password"


async def test_a_login_the_proxy_has_no_use_for_is_told(lookups: list[bytes | None]) -> None:
    async with open_fake_proxy("socks5", {}) as fake:
        needless = parse_proxy(fake.url.replace("://", "://some:one@"))
        told = await failure(Origin("http", NAME, 80, needless))
        assert told == "the proxy takes no user and password"


# What each kind of proxy has said when it falls silent, closes, or resets: nothing, a part, ...
BEGUN: Final = [
    pytest.param("socks5", [], id="socks5, nothing"),
    pytest.param("socks5", [b"\x05"], id="socks5, a part of the method"),
    pytest.param("socks5", [b"\x05\x00"], id="socks5, the method"),
    pytest.param("socks5", [b"\x05\x00", b"\x05\x00\x00\x01"], id="socks5, a part of the reply"),
    pytest.param("http", [], id="http, nothing"),
    pytest.param("http", [b"HTTP/1.1 200 OK\r\n"], id="http, a part of the head"),
]


def saying(answers: list[bytes], end: Callable[[Peer], Awaitable[None]]) -> raw_provider.Handler:
    """A proxy that says these, each after something was said to it, and then ends."""

    async def handler(peer: Peer) -> None:
        await peer.stream.receive_some()
        for answer in answers:
            await peer.say(answer)
            if answer == b"\x05\x00":
                await peer.stream.receive_some()
        await end(peer)

    return handler


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize(("scheme", "answers"), BEGUN)
async def test_a_proxy_that_hangs_up_in_the_handshake_is_told(
    scheme: str, answers: list[bytes], how: str, lookups: list[bytes | None]
) -> None:
    async def end(peer: Peer) -> None:
        await trio.lowlevel.checkpoint()
        if how == "reset":
            peer.reset()

    before = open_sockets()
    async with raw_provider.provider(saying(answers, end)) as there:
        told = await failure(Origin("http", NAME, 80, Proxy(scheme, there.host, there.port)))
    assert told == f"the connection was {how} during the handshake with the proxy"
    assert open_sockets() == before


@pytest.mark.parametrize(("scheme", "answers"), BEGUN)
async def test_a_cancelled_handshake_leaves_no_socket(
    scheme: str, answers: list[bytes], lookups: list[bytes | None]
) -> None:
    left = trio.Event()

    async def end(peer: Peer) -> None:
        await peer.gone()
        left.set()

    before = open_sockets()
    async with raw_provider.provider(saying(answers, end)) as there, Transport() as transport:
        origin = Origin("http", NAME, 80, Proxy(scheme, there.host, there.port))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.connect, origin)
                await wait_all_tasks_blocked()
                scope.cancel()
        await left.wait()
        assert transport.statistics().open == 0
    assert open_sockets() == before


async def test_a_handshake_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_pipe: object, _data: memoryview) -> int:
        raise OSError(errno.EPIPE, "")

    monkeypatch.setattr("arbstr.trio_runtime.upstream.connect.Pipe.send_nowait", broken)
    before = open_sockets()
    async with raw_provider.provider(answering(OK)) as there:
        told = await failure(Origin("http", NAME, 80, Proxy("http", there.host, there.port)))
    assert told == "the connection was reset during the handshake with the proxy"
    assert open_sockets() == before


# -- arbstr through them -------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Scene:
    """`first` can be reached through the proxy alone, `second` is dearer and needs none."""

    way: FakeProxy
    first: FakeProvider
    second: FakeProvider
    arbstr: Arbstr


@asynccontextmanager
async def proxied(
    scheme: str, script: Script = by_name, *, more: str = ONE_TRY, reachable: bool = True
) -> AsyncIterator[Scene]:
    async with open_fake_provider(script) as first, open_fake_provider() as second:
        hosts = {NAME: port_of(first)} if reachable else {}
        async with open_fake_proxy(scheme, hosts, login=LOGIN) as way:
            behind = provider("first", f"http://{NAME}:8080/v1", more=f'proxy = "{way.url}"')
            text = config(behind, provider("second", second.url, rate=2), more=more)
            async with open_proxy(text) as arbstr:
                yield Scene(way, first, second, arbstr)


def port_of(fake: FakeProvider) -> int:
    return int(fake.url.removesuffix("/v1").rpartition(":")[2])


def attempts(record: Record) -> list[tuple[str, str | None, str | None]]:
    """Who was asked, what went wrong, and what became of the money."""
    return [(one.provider, one.failure, one.money) for one in record.attempts]


@STREAMED
@EVERY_PROXY
async def test_chats_go_through_a_proxy_as_they_go_without(
    scheme: str, streaming: bool, lookups: list[bytes | None]
) -> None:
    async with proxied(scheme) as scene:
        for _ in range(2):
            reply = await scene.arbstr.chat(stream=streaming)
            assert (reply.status, reply.text, reply.whole) == (200, "Hello there", True)
            assert reply.headers["x-arbstr-provider"] == "first"
        for request in scene.first.requests:
            assert request.header("host") == f"{NAME}:8080"
            assert request.header("authorization") == f"Bearer {KEY}"
            assert request.header("proxy-authorization") is None
        assert len(scene.first.requests) == 2
        assert scene.way.asked == [Asked(NAME, 8080)]
        assert not any(b"Bearer" in head for head in scene.way.heads)


@STREAMED
@EVERY_PROXY
async def test_a_proxy_that_cannot_connect_was_free_and_the_next_provider_answers(
    scheme: str, streaming: bool, lookups: list[bytes | None]
) -> None:
    async with proxied(scheme, reachable=False) as scene:
        reply = await scene.arbstr.chat(stream=streaming)
        assert (reply.status, reply.text) == (200, "Hello there")
        assert attempts(await scene.arbstr.record()) == [
            ("first", "not_sent", "free"),
            ("second", None, "spent"),
        ]
        assert scene.first.connections == 0
        shown = (await scene.arbstr.get("/health")).json["providers"]["first"]
        sentence = "could not be reached: through the proxy: host unreachable"
        assert shown["last_error"].removesuffix(" (502)") == sentence


@STREAMED
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(CLOSE_AFTER_REQUEST, id="closes"),
        pytest.param(RESET_AFTER_REQUEST, id="resets"),
    ],
)
@EVERY_PROXY
async def test_a_provider_that_hangs_up_on_a_request_may_have_been_paid_behind_a_proxy_too(
    scheme: str, script: Script, streaming: bool, lookups: list[bytes | None]
) -> None:
    async with proxied(scheme, script) as scene:
        reply = await scene.arbstr.chat(stream=streaming)
        assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
        record = await scene.arbstr.record()
        assert attempts(record) == [("first", "no_answer", "unknown")]
        assert scene.second.hits == 0


@STREAMED
@EVERY_PROXY
async def test_a_proxy_that_dies_while_the_provider_thinks_leaves_the_money_unknown(
    scheme: str, streaming: bool, lookups: list[bytes | None]
) -> None:
    async with proxied(scheme, SILENCE) as scene, trio.open_nursery() as nursery:

        async def cut() -> None:
            await scene.first.wait_requests(1)
            scene.way.cut()

        nursery.start_soon(cut)
        reply = await scene.arbstr.chat(stream=streaming)
        assert (reply.status, reply.error["code"]) == (400, "possibly_spent")
        assert attempts(await scene.arbstr.record()) == [("first", "no_answer", "unknown")]


@EVERY_PROXY
async def test_a_proxy_that_dies_in_a_stream_leaves_it_honest(
    scheme: str, lookups: list[bytes | None]
) -> None:
    held = stream([sse(chunk("Hello"))], ending="hang")
    async with proxied(scheme, held) as scene:
        async with scene.arbstr.asking(stream=True) as client:
            assert (await client.head())[0] == 200
            await client.until(b"Hello")
            scene.way.cut()
            body, whole = await client.rest()
        assert not whole
        assert b"stream_interrupted" in body
        assert b"[DONE]" not in body
        assert attempts(await scene.arbstr.record()) == [("first", "stream_cut", "spent")]


@EVERY_PROXY
async def test_a_client_that_leaves_closes_the_tunnel(
    scheme: str, lookups: list[bytes | None]
) -> None:
    async with proxied(scheme, SILENCE) as scene:
        async with scene.arbstr.asking():
            await scene.first.wait_requests(1)
            assert scene.way.tunnels == 1
        await scene.first.wait_left(1)
        await scene.arbstr.wait_idle()
        assert attempts(await scene.arbstr.record()) == [("first", "client_left", "unknown")]


@pytest.mark.parametrize(("scheme", "answers"), BEGUN)
async def test_a_proxy_that_falls_silent_is_a_connect_timeout(
    scheme: str, answers: list[bytes], lookups: list[bytes | None]
) -> None:
    before = open_sockets()
    async with raw_provider.provider(saying(answers, Peer.gone)) as there:
        more = f'proxy = "{scheme}://{there.host}:{there.port}"\ntimeouts = {{ connect = 0.01 }}'
        text = config(provider("first", f"http://{NAME}/v1", more=more), more=ONE_TRY)
        async with open_proxy(text) as arbstr:
            reply = await arbstr.chat()
            assert (reply.status, reply.error["code"]) == (504, "connect_timeout")
            assert attempts(await arbstr.record()) == [("first", "not_sent", "free")]
    assert open_sockets() == before


async def test_the_environments_proxies_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_url() as url:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.lower(), url)
        async with proxied("http") as scene:
            assert (await scene.arbstr.chat()).headers["x-arbstr-provider"] == "first"
            assert scene.way.asked == [Asked(NAME, 8080)]
            text = config(provider("direct", scene.second.url))
            async with open_proxy(text) as direct:
                assert (await direct.chat()).status == 200


async def test_a_provider_behind_another_proxy_is_another_one() -> None:
    async with proxied("socks5") as scene:
        hub = scene.arbstr.hub
        first, second = hub.snapshot.catalog.providers
        assert hub.still_has(first)
        assert hub.still_has(second)
        assert not hub.still_has(replace(first, proxy=None))
        assert not hub.still_has(replace(second, proxy=first.proxy))


# -- what is shown -------------------------------------------------------------------------------


async def test_what_is_shown_of_a_proxy_is_its_address_alone() -> None:
    async with proxied("socks5") as scene:
        reply = await scene.arbstr.get("/providers")
        first, second = reply.json["providers"]
        assert first["proxy"] == scene.way.shown
        assert "proxy" not in second
        snapshot = scene.arbstr.hub.snapshot
        shown = f"{snapshot!r} {snapshot.config.providers} {snapshot.targets}"
        assert scene.way.shown.rpartition(":")[2] in shown
        assert "CANARY" not in shown + reply.body.decode()


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_a_proxys_password_comes_out_nowhere(scheme: str, tmp_path: Path) -> None:
    """Also where the proxy refuses it, and where a client asks for a model that is called so."""
    user, password = LOGIN
    basic = b64encode(f"{user}:{password}".encode()).decode()
    async with (
        open_fake_provider() as fake,
        open_fake_proxy(scheme, {NAME: port_of(fake)}, login=LOGIN) as way,
    ):
        wrong = way.url.replace("someone", "somebody")
        text = config(
            provider("right", f"http://{NAME}/v1", more=f'proxy = "{way.url}"'),
            provider("wrong", f"http://{NAME}/v1", more=f'proxy = "{wrong}"', models="other"),
            more=f'{ONE_TRY}[logging]\nlevel = "debug"\n',
        )
        write_config(tmp_path, text)

        def walk() -> list[str]:
            said = []
            for command in ("check", "providers"):
                done = run_arbstr(command, directory=tmp_path)
                assert done.returncode == 0, done.stderr
                assert f"  through {way.shown}\n" in done.stdout
                said.append(done.stdout + done.stderr)
            with arbstr_process(config_text=text, directory=tmp_path) as process:
                for model in ("gpt-4o", "other", password, quote(password, safe=""), basic):
                    reply = process.chat(model)
                    said += [str(reply.headers)]
                    if model in ("gpt-4o", "other"):  # the others are answered with what was asked
                        said += [f"{reply.status_code} {reply.text}"]
                for path in ("/providers", "/health", "/v1/stats?group_by=provider"):
                    said.append(process.ask("GET", path).text)
                rows = process.wait_rows(5)
                for row in rows[:2]:
                    path = f"/v1/requests/{row['correlation_id']}"
                    said.append(process.ask("GET", path).text)
                process.stop()
            return [*said, process.stderr()]

        said = await trio.to_thread.run_sync(walk)
    assert [text for text in said if "CANARY" in text or basic in text] == []
    assert any(text.startswith("200 ") for text in said)
    assert any("the proxy refused the user and password" in text for text in said)
    assert said[-1].count("model=[REDACTED]") == 3
    assert len(fake.requests) == 1

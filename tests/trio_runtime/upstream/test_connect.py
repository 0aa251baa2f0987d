"""From an origin to a pipe: names, addresses, certificates, and what is said when there is none."""

import datetime
import errno
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from arbstr.sansio.config.addresses import parse_proxy
from arbstr.trio_runtime.upstream import connect
from arbstr.trio_runtime.upstream.connect import Origin, default_ssl_context, open_pipe, target_of
from arbstr.trio_runtime.upstream.pipe import ConnectFailed
from arbstr.trio_runtime.upstream.transport import AnswerBroken, RequestHead, Transport
from tests.trio_runtime.raw_provider import (
    OK,
    Peer,
    answering,
    open_sockets,
    provider,
    read_until_broken,
)

HEAD = RequestHead.prepare(b"POST", b"/", [(b"Host", b"h")])
AUTHORITY = trustme.CA()


def server_context(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    AUTHORITY.configure_trust(context)
    return context


class Names(trio.abc.HostnameResolver):
    """A resolver with two names: `dual.test` is ::1 and then 127.0.0.1, `busy.test` fails."""

    async def getaddrinfo(self, host: bytes | None, port: Any, *_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if host == b"dual.test":
            stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [
                (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
                (socket.AF_INET, *stream, ("127.0.0.1", port)),
            ]
        number = socket.EAI_AGAIN if host == b"busy.test" else socket.EAI_NONAME
        raise socket.gaierror(number, "from the test")

    async def getnameinfo(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
async def names() -> None:
    trio.socket.set_custom_hostname_resolver(Names())


@pytest.fixture
def closed_port() -> Iterator[int]:
    # Bound and never listening: nobody else can take it, and connecting is refused.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("https://api.test/v1", Origin("https", "api.test", 443), b"api.test"),
        ("http://api.test:8080", Origin("http", "api.test", 8080), b"api.test:8080"),
        ("http://user:pw@h:80/?q", Origin("http", "h", 80), b"h"),
        ("http://h:443", Origin("http", "h", 443), b"h:443"),
        ("http://[::1]:9/", Origin("http", "::1", 9), b"[::1]:9"),
        ("https://bücher.test", Origin("https", "xn--bcher-kva.test", 443), b"xn--bcher-kva.test"),
    ],
)
def test_the_origin_of_a_url(url: str, origin: Origin, authority: bytes) -> None:
    assert Origin.of(url) == origin
    assert origin.authority == authority


@given(
    st.sampled_from(["http://", "https://", "HTTP://", "http:/"]),
    st.text("ab-.xn:1[]@A%", max_size=8)
    | st.sampled_from(["api.test", "a.b-c.onion", "127.0.0.1"]),
    st.sampled_from(["", ":0", ":1", ":080", ":443", ":65535", ":65536", ":x"]),
    st.text("/a.b~-_%? &=#+A\\", max_size=8),
    st.text("?&=a1%#/", max_size=4),
)
def test_a_plain_url_is_taken_apart_as_httpx_does(
    scheme: str, host: str, port: str, path: str, query: str
) -> None:
    url = scheme + host + port + path + query
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connect, "_PLAIN_URL", re.compile("(?!)"))
            by_httpx = Origin.of(url), target_of(url)
    except ValueError:
        with pytest.raises(ValueError, match="URL"):
            Origin.of(url)
        return
    assert (Origin.of(url), target_of(url)) == by_httpx


def test_urls_as_people_write_them_do_not_need_httpx() -> None:
    for url in (
        "https://openrouter.ai/api/v1/chat/completions",
        "http://127.0.0.1:8000/v1/chat/completions?key=a-b_c",
        "http://abcdef.onion/v1/chat/completions",
    ):
        assert connect._PLAIN_URL.fullmatch(url)


@pytest.mark.parametrize("url", ["ftp://h", "h", "", "http://", "http://[::1", "http://h:port"])
def test_what_is_not_an_http_url_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Origin.of(url)


async def failure(origin: Origin, context: ssl.SSLContext | None = None) -> str:
    with trio.fail_after(20), pytest.raises(ConnectFailed) as caught:
        await open_pipe(origin, context)
    return caught.value.sentence


async def test_a_refused_connection_is_told_once(names: None, closed_port: int) -> None:
    assert await failure(Origin("http", "127.0.0.1", closed_port)) == "connection refused"
    # Two addresses, one sentence, unless this machine has no IPv6 at all.
    told = await failure(Origin("http", "dual.test", closed_port))
    assert told.endswith("connection refused")


async def test_a_name_nobody_knows_is_told_from_a_lookup_that_failed(names: None) -> None:
    assert await failure(Origin("http", "nobody.test", 80)) == "name not found"
    assert await failure(Origin("http", "busy.test", 80)) == "name lookup failed"
    assert await failure(Origin("http", "x" * 80 + ".test", 80)) == "name not found"


async def test_other_errors_are_told_by_their_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(host: str, port: int) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise OSError("all failed") from ExceptionGroup(
            "all", [OSError(errno.ENETUNREACH, ""), OSError(errno.EPERM, ""), OSError("odd")]
        )

    monkeypatch.setattr(trio, "open_tcp_stream", unreachable)
    told = await failure(Origin("http", "h", 80))
    assert told == (
        "arbstr's machine has no way to that network, "
        "arbstr's machine does not allow it (a firewall?), connect failed (unknown error)"
    )


OWN: Final = (
    *("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EADDRNOTAVAIL", "EACCES", "EPERM"),
    *("ENETDOWN", "ENETUNREACH", "EAFNOSUPPORT", "EPROTONOSUPPORT", "EINVAL", "EIO"),
)
THEIRS: Final = ("ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "EPIPE")


@pytest.mark.parametrize(
    ("seen", "own"),
    [
        *(((name,), True) for name in OWN),
        *(((name,), False) for name in THEIRS),
        (("ENETUNREACH", "EMFILE"), True),
        (("ENETUNREACH", "ECONNREFUSED"), False),
        ((None,), False),
    ],
)
@pytest.mark.parametrize("proxied", [False, True])
async def test_what_this_machine_says_is_no_fault_of_the_other(
    seen: tuple[str | None, ...], own: bool, proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    causes = [OSError(getattr(errno, name), "") if name else OSError("odd") for name in seen]

    async def fail(host: str, port: int) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise OSError("all failed") from ExceptionGroup("all", causes)

    monkeypatch.setattr(trio, "open_tcp_stream", fail)
    proxy = parse_proxy("socks5://127.0.0.1:9") if proxied else None
    with pytest.raises(ConnectFailed) as caught:
        await open_pipe(Origin("http", "h", 80, proxy))
    assert caught.value.own is own
    assert ("arbstr" in caught.value.sentence) is own or len(seen) > 1


async def test_a_lookup_without_descriptors_is_our_own_failure(
    names: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("busy.test", "nobody.test"):
        with pytest.raises(ConnectFailed) as caught:
            await open_pipe(Origin("http", name, 80))
        assert not caught.value.own

    def full() -> socket.socket:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(socket, "socket", full)
    for name in ("busy.test", "nobody.test"):
        with pytest.raises(ConnectFailed) as caught:
            await open_pipe(Origin("http", name, 80))
        assert caught.value.own
        assert "too many open files" in caught.value.sentence


async def test_threads_that_cannot_be_started_are_our_own_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(host: str, port: int) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise RuntimeError(words)

    monkeypatch.setattr(trio, "open_tcp_stream", fail)
    words = "can't start new thread"
    with pytest.raises(ConnectFailed, match="no more threads") as caught:
        await open_pipe(Origin("http", "h", 80))
    assert caught.value.own
    words = "a bug"
    with pytest.raises(RuntimeError, match="a bug"):
        await open_pipe(Origin("http", "h", 80))


async def test_a_tls_context_that_cannot_be_made_is_our_own_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> ssl.SSLContext:
        raise OSError(errno.EMFILE, "Too many open files", "/secret/place")

    monkeypatch.setattr(connect, "default_ssl_context", fail)
    before = open_sockets()
    async with provider(answering(OK)) as there:
        with pytest.raises(ConnectFailed) as caught:
            await open_pipe(Origin("https", "127.0.0.1", there.port))
        assert caught.value.own
        told = "arbstr's own TLS settings cannot be made (Too many open files)"
        assert caught.value.sentence == told
    assert open_sockets() == before


async def test_the_second_address_serves_when_the_first_refuses(names: None) -> None:
    async with provider(answering(OK)) as there, Transport() as transport:
        connection = await transport.connect(Origin("http", "dual.test", there.port))
        await connection.send(HEAD, b"")
        assert (await connection.receive_head()).status == 200
        connection.release()


async def test_an_ipv6_literal_is_an_address() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with provider(answering(OK), host="::1") as origin, Transport() as transport:
        connection = await transport.connect(origin)
        await connection.send(HEAD, b"")
        assert (await connection.receive_head()).status == 200
        connection.release()


async def test_small_writes_are_not_held_back_by_nagle() -> None:
    async with provider(answering(OK)) as origin:
        pipe = await open_pipe(origin)
        assert pipe._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        pipe.close()
        pipe.close()


# TLS


async def test_a_verified_connection_carries_large_bodies_both_ways_and_is_reused() -> None:
    body = bytes(range(256)) * 12_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    asked_for: list[str | None] = []
    got = []

    def remember(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        asked_for.append(name)

    async def handler(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            got.append(request)
            await peer.say(answer)

    context = server_context("localhost")
    context.sni_callback = remember
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with (
        provider(handler, tls=context) as there,
        Transport(ssl_context=client_context()) as transport,
    ):
        for turn in range(3):
            connection = await transport.connect(Origin("https", "localhost", there.port))
            assert connection.reused == (turn > 0)
            await connection.send(HEAD, body)
            assert connection.written > len(body)
            assert (await connection.receive_head()).status == 200
            read = connection.receive_nowait()
            while not connection.complete:
                read += await connection.receive_some()
            assert read == body
            connection.release()
    assert got == [HEAD.render(len(body)) + body] * 3
    assert asked_for == ["localhost"]


async def test_an_address_can_have_a_certificate() -> None:
    async with provider(answering(OK), tls=server_context("127.0.0.1")) as origin:
        pipe = await open_pipe(origin, client_context())
        pipe.close()


async def test_a_certificate_from_nobody_we_trust_is_refused() -> None:
    async with provider(swallow_tls_errors, tls=server_context("127.0.0.1")) as origin:
        told = await failure(origin, ssl.create_default_context())
        assert told.startswith("its certificate is self-signed or of an unknown CA; ")
        assert "SSL_CERT_FILE" in told
        # The default context verifies as well.
        assert await failure(origin) == told


async def test_a_certificate_for_another_name_is_refused() -> None:
    async with provider(swallow_tls_errors, tls=server_context("other.test")) as origin:
        told = await failure(origin, client_context())
        assert told == "its certificate is for another address"


@pytest.mark.parametrize(
    ("name", "days", "said"),
    [
        ("127.0.0.1", (-9, -1), "its certificate has expired, or this machine's clock is fast"),
        ("127.0.0.1", (1, 9), "its certificate is not valid yet, or this machine's clock is slow"),
        ("other.test", (-9, 9), "its certificate is for another host"),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_told_in_words(
    name: str, days: tuple[int, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now + datetime.timedelta(days=day) for day in days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name, not_before=begin, not_after=end).configure_cert(context)
    opener = trio.open_tcp_stream
    async with provider(swallow_tls_errors, tls=context) as origin:
        if name == "other.test":
            monkeypatch.setattr(trio, "open_tcp_stream", lambda _, port: opener("127.0.0.1", port))
            origin = Origin("https", "this.test", origin.port)
        assert await failure(origin, client_context()) == said


async def swallow_tls_errors(peer: Peer) -> None:
    # `Peer` takes a broken handshake for a client that has gone.
    assert await peer.request() is None


async def test_a_plain_server_on_a_tls_port_is_told() -> None:
    async def handler(peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    async with provider(handler) as there:
        told = await failure(Origin("https", "127.0.0.1", there.port), client_context())
    assert told.startswith("the TLS handshake failed (")


async def test_a_connection_closed_or_reset_during_the_handshake_is_told() -> None:
    async def close(peer: Peer) -> None:
        await peer.stream.receive_some()

    async def reset(peer: Peer) -> None:
        await peer.stream.receive_some()
        peer.reset()

    for handler, what in ((close, "closed"), (reset, "reset")):
        async with provider(handler) as there:
            told = await failure(Origin("https", "127.0.0.1", there.port), client_context())
        assert told == f"the connection was {what} during the TLS handshake"


async def test_a_name_tls_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = trio.open_tcp_stream
    async with provider(answering(OK)) as there:
        monkeypatch.setattr(trio, "open_tcp_stream", lambda _, port: opener("127.0.0.1", port))
        told = await failure(Origin("https", ".test", there.port), client_context())
    assert told == "the host name cannot be used with TLS"


async def test_a_cancelled_handshake_leaves_no_socket() -> None:
    left = trio.Event()

    async def silence(peer: Peer) -> None:
        await peer.gone()
        left.set()

    before = open_sockets()
    async with provider(silence) as there:
        origin = Origin("https", "127.0.0.1", there.port)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_pipe, origin, client_context())
                await wait_all_tasks_blocked()
                scope.cancel()
        await left.wait()
    assert open_sockets() == before


async def test_a_tls_connection_cut_without_goodbye_is_a_plain_end() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")

    async with (
        provider(handler, tls=server_context("127.0.0.1")) as origin,
        Transport(ssl_context=client_context()) as transport,
    ):
        connection = await transport.connect(origin)
        await connection.send(HEAD, b"")
        await connection.receive_head()
        assert await read_until_broken(connection) == (
            b"hello",
            "the connection was closed before the body was complete",
        )
        connection.release()


async def test_garbage_instead_of_a_record_is_told() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        assert isinstance(peer.stream, trio.SSLStream)
        await peer.stream.transport_stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await trio.sleep_forever()

    async with (
        provider(handler, tls=server_context("127.0.0.1")) as origin,
        Transport(ssl_context=client_context()) as transport,
    ):
        connection = await transport.connect(origin)
        await connection.send(HEAD, b"")
        with pytest.raises(AnswerBroken, match=r"TLS failed \(.*\) before the answer began"):
            await connection.receive_head()
        connection.release()


def test_the_default_context_verifies_and_is_made_once() -> None:
    context = default_ssl_context()
    assert context is default_ssl_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_without_certificates_of_the_system_certifi_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    paths = ssl.get_default_verify_paths()._replace(capath=str(tmp_path))
    bundled = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(ssl, "create_default_context", lambda: empty)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(httpx, "create_ssl_context", lambda *, trust_env: bundled)
    assert default_ssl_context.__wrapped__() is bundled

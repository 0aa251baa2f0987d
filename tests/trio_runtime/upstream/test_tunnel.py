"""What is said to a proxy, what it may answer, and what becomes of it; without a socket."""

from collections.abc import Callable, Iterable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.config.addresses import parse_proxy
from arbstr.trio_runtime.upstream.tunnel import (
    CONNECT_SENTENCES,
    LONGEST_ANSWER,
    SOCKS_SENTENCES,
    Handshake,
    handshake_with,
)

Cut = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterable[bytes]:
    return [data]


def bytewise(data: bytes) -> Iterable[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


EVERY_CUT: Final = pytest.mark.parametrize("cut", [whole, bytewise])

SOCKS: Final = "socks5://127.0.0.1:9050"
SOCKS_LOGIN: Final = "socks5h://us%3Aer:pass%C3%A9@127.0.0.1:9050"
HTTP: Final = "http://127.0.0.1:3128"
HTTP_LOGIN: Final = "http://user:pass@127.0.0.1:3128"

HELLO: Final = b"\x05\x01\x00"
HELLO_LOGIN: Final = b"\x05\x01\x02"
LOGIN: Final = b"\x01\x05us:er\x06pass\xc3\xa9"
CONNECT: Final = b"\x05\x01\x00\x03\x0dprovider.test\x01\xbb"
NONE: Final = b"\x05\x00"
WITH_LOGIN: Final = b"\x05\x02"
LOGGED_IN: Final = b"\x01\x00"
CONNECTED: Final = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x10\x20"

TALKATIVE: Final = "the proxy said more than it was asked"
NO_SOCKS: Final = "the proxy does not speak SOCKS5"
NO_HTTP: Final = "the proxy does not speak HTTP"


def begin(url: str, host: str = "provider.test", port: int = 443) -> Handshake:
    return handshake_with(parse_proxy(url), host, port)


def play(handshake: Handshake, *answers: bytes, cut: Cut = whole) -> list[bytes]:
    """What was said: at first, and after each answer."""
    said = [handshake.data_to_send()]
    for answer in answers:
        for piece in cut(answer):
            handshake.feed(piece)
        said.append(handshake.data_to_send())
    return said


def outcome(url: str, *answers: bytes, cut: Cut = whole) -> str | None:
    """The sentence, None for a tunnel that is ready."""
    handshake = begin(url)
    play(handshake, *answers, cut=cut)
    assert handshake.ready is (handshake.refused is None), "neither open nor refused"
    return handshake.refused


# -- SOCKS5 --------------------------------------------------------------------------------------


@EVERY_CUT
def test_socks5_names_the_host_and_never_an_address_of_it(cut: Cut) -> None:
    handshake = begin(SOCKS)
    assert play(handshake, NONE, CONNECTED, cut=cut) == [HELLO, CONNECT, b""]
    assert handshake.ready


@EVERY_CUT
def test_socks5_logs_in_with_what_the_url_says_decoded(cut: Cut) -> None:
    handshake = begin(SOCKS_LOGIN)
    said = play(handshake, WITH_LOGIN, LOGGED_IN, CONNECTED, cut=cut)
    assert said == [HELLO_LOGIN, LOGIN, CONNECT, b""]
    assert handshake.ready


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1", b"\x01\x7f\x00\x00\x01"),
        ("::1", b"\x04" + bytes(15) + b"\x01"),
        ("a" * 56 + ".onion", b"\x03\x3e" + b"a" * 56 + b".onion"),
        ("x" * 255, b"\x03\xff" + b"x" * 255),
    ],
)
def test_socks5_gives_an_address_as_one_and_a_name_as_one(host: str, said: bytes) -> None:
    handshake = begin(SOCKS, host, 8080)
    assert play(handshake, NONE)[1] == b"\x05\x01\x00" + said + b"\x1f\x90"


def test_a_name_that_is_too_long_for_socks5_is_refused_before_a_byte_is_said() -> None:
    handshake = begin(SOCKS, "x" * 256)
    assert play(handshake) == [b""]
    assert handshake.refused == "the host name is longer than the 255 bytes SOCKS5 can carry"


@EVERY_CUT
@pytest.mark.parametrize(
    "bound", [b"\x01" + bytes(4), b"\x03\x00", b"\x03\x02hi", b"\x04" + bytes(16)]
)
def test_the_proxys_own_address_may_be_of_any_kind(bound: bytes, cut: Cut) -> None:
    assert outcome(SOCKS, NONE, b"\x05\x00\x00" + bound + b"\x00\x00", cut=cut) is None


@EVERY_CUT
@pytest.mark.parametrize("code", SOCKS_SENTENCES)
def test_a_reply_code_is_told_as_a_sentence(code: int, cut: Cut) -> None:
    reply = bytes([5, code, 0, 1]) + bytes(6)
    assert outcome(SOCKS, NONE, reply, cut=cut) == SOCKS_SENTENCES[code]


def test_a_refusal_may_be_cut_short_and_have_a_code_nobody_knows() -> None:
    assert outcome(SOCKS, NONE, b"\x05\x05") == "through the proxy: connection refused"
    assert outcome(SOCKS, NONE, b"\x05\x63\x00\x01") == "through the proxy: SOCKS5 reply 99"


@EVERY_CUT
@pytest.mark.parametrize(
    ("url", "answers", "sentence"),
    [
        (SOCKS, [b"\x05\xff"], "the proxy wants a user and password"),
        (SOCKS_LOGIN, [b"\x05\xff"], "the proxy takes no user and password"),
        (SOCKS_LOGIN, [WITH_LOGIN, b"\x01\x01"], "the proxy refused the user and password"),
        (SOCKS_LOGIN, [WITH_LOGIN, b"\x05\xff"], "the proxy refused the user and password"),
        (SOCKS_LOGIN, [WITH_LOGIN, b"\x05\x00", CONNECTED], None),
        (SOCKS, [b"HTTP/1.1 400 Bad Request\r\n\r\n"], NO_SOCKS),
        (SOCKS, [b"\x04\x5a"], NO_SOCKS),
        (SOCKS, [b"\x05\x02"], NO_SOCKS),  # not offered
        (SOCKS_LOGIN, [b"\x05\x00"], NO_SOCKS),
        (SOCKS, [b"\x05\x01"], NO_SOCKS),
        (SOCKS, [b"\x05\x80"], NO_SOCKS),
        (SOCKS, [NONE, b"HTTP/1.1 400 Bad"], NO_SOCKS),
        (SOCKS, [NONE, b"\x05\x00\x00\x07" + bytes(6)], NO_SOCKS),
        (SOCKS, [NONE, b"\x05\x00\x00\x03\x02\xff\xff\x00\x00"], NO_SOCKS),
    ],
)
def test_what_else_a_socks5_proxy_may_answer(
    url: str, answers: list[bytes], sentence: str | None, cut: Cut
) -> None:
    assert outcome(url, *answers, cut=cut) == sentence


@pytest.mark.parametrize("answers", [[NONE + b"\x05"], [NONE, CONNECTED + b"HTTP/1.1 200 OK\r\n"]])
def test_what_comes_unasked_is_no_part_of_an_answer(answers: list[bytes]) -> None:
    """The provider was not asked yet, and bytes behind the handshake would pass for its answer."""
    assert outcome(SOCKS, *answers) == TALKATIVE


# -- CONNECT -------------------------------------------------------------------------------------


@EVERY_CUT
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 204 \r\nVia: x\r\n\r\n",
        # Neither counts here (RFC 9110, 9.3.6).
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_any_2xx_opens_the_tunnel(answer: bytes, cut: Cut) -> None:
    handshake = begin(HTTP)
    authority = b"provider.test:443"
    said = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (authority, authority)
    assert play(handshake, answer, cut=cut) == [said, b""]
    assert handshake.ready


def test_connect_always_names_the_port_and_brackets_an_ipv6_address() -> None:
    [said] = play(begin(HTTP, "::1", 80))
    assert said == b"CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"


def test_connect_logs_in_with_basic() -> None:
    [said] = play(begin(HTTP_LOGIN))
    assert said.endswith(b"\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n")


@EVERY_CUT
@pytest.mark.parametrize(
    ("url", "status", "sentence"),
    [
        (HTTP, 407, "the proxy wants a user and password"),
        (HTTP_LOGIN, 407, "the proxy refused the user and password"),
        (HTTP, 301, "the proxy refused to connect (301)"),
        (HTTP, 400, "the proxy refused to connect (400)"),
        (HTTP, 501, "the proxy refused to connect (501)"),
        *((HTTP, status, f"{what} ({status})") for status, what in CONNECT_SENTENCES.items()),
    ],
)
def test_another_status_is_told_without_a_word_of_the_proxys(
    url: str, status: int, sentence: str, cut: Cut
) -> None:
    page = b"<html>CANARY" + b"x" * LONGEST_ANSWER
    answer = b"HTTP/1.1 %d CANARY\r\nContent-Length: %d\r\n\r\n%b" % (status, len(page), page)
    assert outcome(url, answer, cut=cut) == sentence


@pytest.mark.parametrize(
    "answer",
    [
        b"\x05\xff",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * (LONGEST_ANSWER + 1),
    ],
)
def test_what_is_not_http_is_said_to_be_none(answer: bytes) -> None:
    assert outcome(HTTP, answer) == NO_HTTP


def test_interim_answers_without_end_are_too_many() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    handshake = begin(HTTP)
    turns = LONGEST_ANSWER // len(interim)
    play(handshake, *[interim] * turns)
    assert handshake.refused is None
    handshake.feed(interim)
    assert handshake.refused == TALKATIVE


def test_what_follows_the_head_of_a_2xx_at_once_is_not_the_providers() -> None:
    assert outcome(HTTP, b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n") == TALKATIVE


# -- whatever it says ----------------------------------------------------------------------------

ANSWERS: Final = [
    *(
        NONE,
        WITH_LOGIN,
        LOGGED_IN,
        CONNECTED,
        b"\x05\x04\x00\x01",
        b"\x05\x00\x00\x03\x04here\x10\x20",
    ),
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 407 No\r\n",
        b"Content-Length: 3\r\n",
        b"\r\n",
        b"\x05",
        b"",
    ),
]


@given(
    st.sampled_from([SOCKS, SOCKS_LOGIN, HTTP, HTTP_LOGIN]),
    st.lists(st.sampled_from(ANSWERS) | st.binary(max_size=8), max_size=8),
)
def test_nothing_a_proxy_sends_may_raise_and_a_verdict_stands(
    url: str, pieces: list[bytes]
) -> None:
    handshake = begin(url)
    handshake.data_to_send()
    for piece in pieces:
        if handshake.ready:
            break  # from here on it is not asked any more
        before = handshake.refused
        handshake.feed(piece)
        handshake.data_to_send()
        assert not (handshake.ready and handshake.refused)
        assert before is None or handshake.refused == before


@given(
    st.sampled_from(
        [
            (SOCKS, (NONE, CONNECTED)),
            (SOCKS_LOGIN, (WITH_LOGIN, LOGGED_IN, b"\x05\x00\x00\x03\x04here\x10\x20")),
            (SOCKS, (NONE, b"\x05\x04\x00\x01" + bytes(6))),
            (HTTP, (b"HTTP/1.1 100 Wait\r\n\r\nHTTP/1.1 200 OK\r\nVia: x\r\n\r\n",)),
            (HTTP, (b"HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\nno!",)),
        ]
    ),
    st.data(),
)
def test_the_cutting_never_matters(
    case: tuple[str, tuple[bytes, ...]], data: st.DataObject
) -> None:
    url, answers = case

    def cut(answer: bytes) -> Iterable[bytes]:
        places = data.draw(st.lists(st.integers(0, len(answer))).map(sorted))
        return [answer[a:b] for a, b in zip([0, *places], [*places, len(answer)], strict=True)]

    one, other = begin(url), begin(url)
    assert play(one, *answers, cut=cut) == play(other, *answers)
    assert (one.ready, one.refused) == (other.ready, other.refused)

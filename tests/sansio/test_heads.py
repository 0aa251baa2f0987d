"""h11 is the judge: what is read here reads the same there, whatever was done to the head."""

from typing import Any, Final

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbstr.sansio.heads import AnswerHead, RequestHead, read_answer, read_request

CURL: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.5.0\r\n"
    b"Accept: */*\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n"
)
OPENAI: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8080\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n"
    b"Content-Type: application/json\r\nUser-Agent: OpenAI/Python 3.0.0\r\n"
    b"X-Stainless-Retry-Count: 0\r\nAuthorization: Bearer sk-x\r\nContent-Length: 1234\r\n\r\n"
)
UNDICI: Final = (
    b"POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: localhost:8080\r\nconnection: close\r\n"
    b"content-type: application/json\r\naccept-language: *\r\nsec-fetch-mode: cors\r\n"
    b"user-agent: node\r\ncontent-length: 0\r\n\r\n"
)
UVICORN: Final = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-length: 17\r\ncontent-type: application/json\r\n\r\n"
)
NGINX: Final = (
    b"HTTP/1.1 502 Bad Gateway\r\nServer: nginx/1.24\r\nContent-Type: text/html\r\n"
    b"Content-Length: 157\r\nConnection: keep-alive\r\n\r\n"
)
PLAIN: Final = b"HTTP/1.1 404 \r\nConnection: Close\r\nContent-Length:  3 \r\nx-empty:\r\n\r\n"

PIECES: Final = (
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"\x00", b"\x0b", b"\x7f", b"\x80", b"\xff"),
    *(b"\r\n ", b"\r\n\r\n", b"x: y\r\n", b"x : y\r\n", b": y\r\n", b"Host: b\r\n"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 5, 5\r\n", b"Content-Length: +5\r\n"),
    *(b"Content-Length: \xb2\r\n", b"Content-Length: 0005\r\n", b"Content-Length: " + b"9" * 20),
    *(b"Transfer-Encoding: chunked\r\n", b"transfer-encoding: identity\r\n"),
    *(b"Connection: close\r\n", b"connection: Keep-Alive, close\r\n", b"Connection: upgrade\r\n"),
    *(b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.0", b"HTTP/1.1 ", b"204", b"101"),
)


def conversation(role: Any, data: bytes) -> h11.Connection:
    """h11 with these bytes, in the situation in which arbstr would ask it."""
    connection = h11.Connection(role, max_incomplete_event_size=len(data) + 1)
    if role is h11.CLIENT:
        connection.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    return connection


def ends_alike(role: Any, found: RequestHead | AnswerHead, data: bytes) -> bool:
    """Whether h11 finds the same body behind the head, and the same in what may follow."""
    if found.length is None:
        return True  # tests/trio_runtime/upstream/test_readers.py compares bodies in chunks
    length = min(found.length, 3000)  # who says more than that does not end here
    connection = conversation(role, data[: found.size] + b"x" * length)
    connection.next_event()
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    if found.length > length:
        return body == b"x" * length and event is h11.NEED_DATA
    kept = connection.their_state is h11.DONE
    return body == b"x" * length and isinstance(event, h11.EndOfMessage) and kept != found.closes


def check_request(data: bytes) -> RequestHead | None:
    found = read_request(data)
    if found is not None:
        event = conversation(h11.SERVER, data).next_event()
        assert isinstance(event, h11.Request)
        assert (event.method, event.http_version) == (b"POST", b"1.1")
        assert (event.target, list(event.headers)) == (found.target, found.headers)
        assert ends_alike(h11.SERVER, found, data)
    return found


def check_answer(data: bytes) -> AnswerHead | None:
    found = read_answer(data)
    if found is not None:
        event = conversation(h11.CLIENT, data).next_event()
        assert isinstance(event, h11.Response)
        assert (event.status_code, event.reason) == (found.status, found.reason)
        assert list(event.headers) == found.headers
        assert ends_alike(h11.CLIENT, found, data)
    return found


@pytest.mark.parametrize(
    ("head", "length", "closes"), [(CURL, 4, False), (OPENAI, 1234, False), (UNDICI, 0, True)]
)
def test_requests_of_real_clients_are_read(head: bytes, length: int, closes: bool) -> None:
    found = check_request(head + b"{}")
    assert found is not None
    assert (found.length, found.closes, found.size) == (length, closes, len(head))


@pytest.mark.parametrize(
    ("head", "status", "length", "closes"),
    [(UVICORN, 200, 17, False), (NGINX, 502, 157, False), (PLAIN, 404, 3, True)],
)
def test_answers_of_real_servers_are_read(
    head: bytes, status: int, length: int, closes: bool
) -> None:
    found = check_answer(head + b"{}")
    assert found is not None
    assert (found.status, found.length) == (status, length)
    assert (found.closes, found.size) == (closes, len(head))


@pytest.mark.parametrize("head", [CURL, OPENAI, UNDICI])
def test_a_request_that_is_not_whole_is_left_to_h11(head: bytes) -> None:
    assert all(read_request(head[:cut]) is None for cut in range(len(head)))


@pytest.mark.parametrize("head", [UVICORN, NGINX, PLAIN])
def test_an_answer_that_is_not_whole_is_left_to_h11(head: bytes) -> None:
    assert all(read_answer(head[:cut]) is None for cut in range(len(head)))


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Upgrade: websocket",
        b"Connection: upgrade",
        b"Connection: keep-alive, close",
        b"Content-Length: 4",
        b" folded",
        b"no colon",
        b"space : before",
        b"control: \x01",
    ],
)
def test_what_is_not_ordinary_is_left_to_h11(line: bytes) -> None:
    for head in (CURL, UVICORN):
        odd = head.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")
        assert read_request(odd) is None
        assert read_answer(odd) is None


def test_an_answer_may_be_in_chunks_and_a_request_may_not() -> None:
    chunked = b"Transfer-Encoding: chunked"
    answer = check_answer(UVICORN.replace(b"content-length: 17", chunked))
    assert answer is not None
    assert answer.length is None
    assert read_request(CURL.replace(b"Content-Length: 4", chunked)) is None
    for coding in (
        b"Chunked",
        b"gzip, chunked",
        b"chunked, chunked",
        b"identity",
        b"",
        b"chunked\r\nTE: x",
    ):
        head = UVICORN.replace(b"content-length: 17", b"Transfer-Encoding: " + coding)
        assert (read_answer(head) is None) is (b"TE" not in head)
    twice = chunked + b"\r\n" + chunked
    assert read_answer(UVICORN.replace(b"content-length: 17", twice)) is None


def test_a_request_with_no_host_or_two_is_left_to_h11() -> None:
    assert read_request(CURL.replace(b"Host: 127.0.0.1:8080\r\n", b"")) is None
    assert read_request(CURL.replace(b"Accept:", b"Host: x\r\nAccept:")) is None


@pytest.mark.parametrize("status", [b"101", b"103", b"204", b"304", b"600", b"099"])
def test_an_answer_that_is_not_final_or_has_no_body_is_left_to_h11(status: bytes) -> None:
    assert read_answer(UVICORN.replace(b"200", status)) is None


def test_a_line_of_spaces_takes_no_longer_than_it_is_long() -> None:
    # Were it quadratic, this would take minutes, and the suite's own limit would end it.
    spaces = b"x: a" + b" " * 500_000 + b"\x01\r\n"
    assert read_request(CURL.replace(b"Accept:", spaces + b"Accept:")) is None


@given(
    st.sampled_from([CURL, OPENAI, UNDICI, UVICORN, NGINX, PLAIN]),
    st.lists(
        st.tuples(
            st.integers(0, 400), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=3)
        ),
        max_size=4,
    ),
)
@example(CURL, [(36, 0, b"\r\nfoo: x\r\n")])
@example(CURL, [(34, 0, b"\r\n")])
def test_whatever_is_read_reads_the_same_in_h11(
    head: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    """Each edit is (place, bytes taken out, bytes put in)."""
    for place, taken, put in edits:
        head = head[:place] + put + head[place + taken :]
    check_request(head)
    check_answer(head)


@given(
    st.lists(
        st.tuples(
            st.text("aAz-_~9", min_size=1, max_size=5).map(str.encode),
            st.binary(max_size=8),
        ),
        max_size=4,
    )
)
def test_any_value_reads_the_same_in_h11(fields: list[tuple[bytes, bytes]]) -> None:
    lines = b"".join(b"%b: %b\r\n" % pair for pair in fields)
    check_request(CURL.replace(b"Accept:", lines + b"Accept:"))
    check_answer(UVICORN.replace(b"server:", lines + b"server:"))

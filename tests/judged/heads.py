"""Heads as ours read them, beside h11."""

from random import Random
from typing import Any, Final

import h11

from arbstr.sansio.heads import AnswerHead, RequestHead, like, read_answer, read_request
from tests.judged.dice import edited, edits

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

HEADS: Final = (CURL, OPENAI, UNDICI, UVICORN, NGINX, PLAIN)

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


def check_like(first: bytes, data: bytes) -> None:
    """Whatever is taken for the same again reads the same, but for its length."""
    known = read_request(first)
    found = like(known, data) if known is not None else None
    if known is None or found is None:
        return
    again = read_request(data)
    assert again is not None
    assert (again.length, again.size) == found
    assert (again.target, again.closes) == (known.target, known.closes)
    assert [pair for pair in again.headers if pair[0] != b"content-length"] == [
        pair for pair in known.headers if pair[0] != b"content-length"
    ]


def compare(roll: Random) -> str:
    """One edited head, read as a request and as an answer. Returns which of them it is to us."""
    first = HEADS[int(roll.random() * len(HEADS))]
    head = edited(first, edits(roll, len(first), PIECES))
    check_like(first, head)
    request, answer = check_request(head), check_answer(head)
    return "requests" if request is not None else "answers" if answer is not None else "left to h11"

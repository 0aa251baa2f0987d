"""h11 is the judge: what is read here reads the same there, whatever was done to the head."""

from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbstr.sansio.heads import like, read_answer, read_request
from tests.judged.dice import edited
from tests.judged.heads import (
    CURL,
    HEADS,
    NGINX,
    OPENAI,
    PIECES,
    PLAIN,
    UNDICI,
    UVICORN,
    check_answer,
    check_like,
    check_request,
)


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


EDITS: Final = st.lists(
    st.tuples(
        st.integers(0, 400), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=3)
    ),
    max_size=4,
)


@given(st.sampled_from(HEADS), EDITS)
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


REQUESTS: Final = tuple(head for head in HEADS if read_request(head) is not None)


@pytest.mark.parametrize("head", REQUESTS)
@pytest.mark.parametrize("digits", [b"0", b"17", b"9" * 18])
def test_a_head_that_differs_in_its_length_alone_is_told_at_a_glance(
    head: bytes, digits: bytes
) -> None:
    first = read_request(head)
    assert first is not None
    data = first.before + digits + first.behind + b'{"body": "\r\n"}'
    again = read_request(data)
    assert again is not None
    assert like(first, data) == (int(digits), again.size) == (again.length, again.size)


@given(st.sampled_from(REQUESTS), EDITS, EDITS)
def test_whatever_is_taken_for_the_same_again_reads_the_same(
    head: bytes, edits: list[tuple[int, int, bytes]], more: list[tuple[int, int, bytes]]
) -> None:
    first = edited(head, edits)
    check_like(first, edited(first, more))


@given(st.sampled_from(REQUESTS), st.binary(max_size=4) | st.sampled_from(PIECES), st.booleans())
@example(CURL, b"1" * 19, False)
@example(CURL, b"", False)
@example(CURL, b"\xb2", False)
@example(CURL, b"4\r\nContent-Length: 4", False)
def test_a_length_that_is_none_is_not_taken_for_one(head: bytes, put: bytes, beside: bool) -> None:
    first = read_request(head)
    assert first is not None
    check_like(head, first.before + (b"5" if beside else b"") + put + first.behind)


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

"""What is sent beside a body: our own headers, the key, and what a door lets through."""

from dataclasses import replace
from typing import Final

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.routing.catalog import Provider, build_catalog
from arbstr.trio_runtime.upstream.target import MOST_HEADS, Target, Targets
from tests.chats import chat
from tests.proxy import KEY, config, provider

ASKED: Final = chat()


def at(url: str) -> Provider:
    return build_catalog(parse_config(config(provider("alpha", url)), {})).providers[0]


def sent(target: Target, asked: Asked = ASKED, *, stream: bool = False) -> list[bytes]:
    """The lines of a head, without its length and the empty line."""
    return target.head(asked, stream=stream).rendered.split(b"\r\n")[:-1]


def test_a_path_is_put_behind_the_base_and_a_query_behind_both() -> None:
    asked = replace(ASKED, query=b"beta=true")
    for url, path, line in (
        ("https://h.example", "/messages", b"POST /v1/messages?beta=true HTTP/1.1"),
        ("https://h.example/api?v=1", "/messages", b"POST /api/messages?v=1&beta=true HTTP/1.1"),
        ("https://h.example/v1/chat/completions", "/toys", b"POST /v1/toys?beta=true HTTP/1.1"),
    ):
        assert sent(Target(at(url), path), asked)[0] == line


def test_only_what_is_ours_and_what_the_door_forwards_is_sent() -> None:
    target = Target(at("https://h.example"), "/toys")
    asked = replace(ASKED, forwarded=((b"toy-version", b"7"),))
    ours = {b"host", b"user-agent", b"accept-encoding", b"content-type", b"authorization"}
    names = {line.partition(b":")[0].lower() for line in sent(target, asked)[1:]}
    assert names == {*ours, b"accept", b"toy-version"}
    assert b"toy-version: 7" in sent(target, asked)
    assert b"toy-version: 7" not in sent(target)


def test_what_is_accepted_is_what_was_asked_for() -> None:
    target = Target(at("https://h.example"), "/toys")
    assert b"accept: application/json" in sent(target)
    assert b"accept: text/event-stream" in sent(target, stream=True)


def test_a_head_is_prepared_once_and_a_target_once_for_each_path() -> None:
    targets, alpha = Targets(), at("https://h.example")
    target = targets.of(alpha, "/toys")
    assert targets.of(alpha, "/toys") is target
    assert targets.of(alpha, "/bricks") is not target
    assert target.head(ASKED, stream=True) is target.head(ASKED, stream=True)
    assert target.origin == targets.of(alpha, "/bricks").origin


def test_clients_that_choose_ever_other_queries_fill_nothing() -> None:
    target = Target(at("https://h.example"), "/toys")
    for number in range(3 * MOST_HEADS):
        target.head(replace(ASKED, query=b"n=%d" % number), stream=False)
    assert len(target._heads) <= MOST_HEADS


def test_a_target_does_not_show_the_key() -> None:
    target = Target(at("https://h.example"), "/toys")
    assert KEY not in f"{target!r} {target.head(ASKED, stream=False)!r}"

"""A conversation over a websocket: to its end, within its bounds, and with whoever is none."""

import json

import pytest
import trio

from arbstr.trio_runtime.upstream import websocket
from arbstr.trio_runtime.upstream.websocket import converse, http_url
from tests.fakes import SILENCE, answer, open_fake_provider, raw, refused_url
from tests.nostr import open_relay


async def talk(url: str, last: str = '["EOSE"') -> tuple[str | None, list[str]]:
    """Until a text begins so; the texts that came."""
    texts: list[str] = []

    def hear(text: str) -> str | None:
        texts.append(text)
        return '["CLOSE", "x"]' if text.startswith(last) else None

    with trio.fail_after(20):
        return await converse(url, json.dumps(["REQ", "x", {}]), hear), texts


@pytest.mark.parametrize("cuts", [1, 7, 1 << 20])
async def test_texts_are_heard_until_the_last_however_they_are_cut(cuts: int) -> None:
    async with open_relay([{"n": 1}, {"n": 2}], cuts=cuts) as relay:
        trouble, texts = await talk(relay.url)
    assert trouble is None
    assert [json.loads(text)[0] for text in texts] == ["EVENT", "EVENT", "EOSE"]
    assert relay.heard[0] == '["REQ", "x", {}]'


async def test_a_text_in_several_frames_is_one() -> None:
    frames = b'\x01\x03["E' + b'\x80\x05OSE"]'
    async with open_relay(says=[frames]) as relay:
        assert await talk(relay.url) == (None, ['["EOSE"]'])


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        ([b"\x88\x02\x03\xe8"], "ended the conversation (code 1000)"),
        ([b"\xff\xff\xff"], "ended the conversation (code 1002)"),
        ([b"\x81\x02\xff\xfe"], "ended the conversation (code 1007)"),
        (["x" * 2000], "sent a message of more than 1000 characters"),
        ([b"\x01\x02ab", *[b"\x00\x7e\x02\x00" + b"c" * 512] * 3], "of more than 1000 characters"),
        (["[]"] * 2000, "sent more than 4000 bytes"),
        ([b"\x82\x7e\x10\x00" + b"d" * 4096], "sent more than 4000 bytes"),
    ],
)
async def test_what_is_too_much_or_wrong_ends_it(
    says: list[str | bytes], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "MOST_TEXT", 1000)
    monkeypatch.setattr(websocket, "MOST_BYTES", 4000)
    async with open_relay(says=says) as relay:
        trouble, _ = await talk(relay.url)
    assert sentence in (trouble or "")


async def test_who_refuses_says_with_which_status() -> None:
    async with open_relay(refuses=403) as relay:
        trouble, _ = await talk(relay.url)
    assert trouble == "answered status 403 where a websocket was asked for"


@pytest.mark.parametrize(
    "play",
    [
        *(answer(200, b"<html>"), raw(b"220 smtp ready\r\n"), raw(b"\x00" * 100_000), raw(b"")),
        raw(b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
        raw(b"HTTP/1.1 101 S\r\nsec-websocket-protocol: \xff\r\nupgrade: \xff\r\n\r\n"),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
async def test_who_speaks_no_websocket_is_told(play: object) -> None:
    async with open_fake_provider(play) as fake:  # type: ignore[arg-type]
        trouble, texts = await talk(fake.url.replace("http", "ws", 1))
    assert trouble
    assert texts == []


async def test_who_is_silent_is_left_with_nothing_open() -> None:
    async with open_fake_provider(SILENCE) as fake:
        with trio.move_on_after(0.01) as limit:
            await converse(fake.url.replace("http", "ws", 1), "hello", lambda _: None)
        assert limit.cancelled_caught
        await fake.wait_open(0)


async def test_who_cannot_be_reached_is_told() -> None:
    with refused_url() as url:
        trouble, _ = await talk(url.replace("http", "ws", 1))
    assert trouble == "could not be reached: connection refused"


@pytest.mark.parametrize("url", ["http://a.example", "a.example", "", "://x"])
def test_what_is_no_websockets_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="ws:// or wss://"):
        http_url(url)

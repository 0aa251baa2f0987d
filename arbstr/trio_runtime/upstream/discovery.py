"""Where Routstr nodes are, and which of them are there: directories, relays and nodes, asked.

    from_directory, from_relay    what a source announces, and what went wrong there
    look_at                       one node: what it lists and says of itself, or why it does not

No key is sent. Everything that comes back is a stranger's: how long it may take is bounded here,
how much of it by whoever reads it.
"""

from collections.abc import Sequence
from typing import Final, final
from urllib.parse import urljoin, urlsplit

import trio

from arbstr.sansio.config.addresses import Proxy, parse_url
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.routing.announced import (
    About,
    Announced,
    Node,
    Subscription,
    Way,
    parse_directory,
    parse_info,
)
from arbstr.sansio.routing.listing import Listed, parse_models
from arbstr.trio_runtime.upstream.ask import Replied, ask
from arbstr.trio_runtime.upstream.node import INFO_PATH, MODELS_PATH, MOST_LISTING_BYTES
from arbstr.trio_runtime.upstream.transport import Transport
from arbstr.trio_runtime.upstream.websocket import converse

DIRECTORY_PATH: Final = "/v1/providers/"
"""Where a node has its directory, if it has one."""

SOURCE_SECONDS: Final = 20.0
"""How long a directory or a relay may take; what a relay sent until then counts. Picked."""

NODE_SECONDS: Final = 10.0
"""How long a node may take for each of two answers; the prices of a running arbstr wait as long."""

MOST_DIRECTORY_BYTES: Final = 4_000_000
MOST_INFO_BYTES: Final = 1_000_000

TRIED: Final = 2
"""Addresses of a node that are tried."""


@final
@dataclass(frozen=True, slots=True)
class Told:
    """What a source announced, and what went wrong there: a predicate about it."""

    found: tuple[Announced, ...]
    trouble: str | None = None


NOTHING_SAID: Final = About()


@final
@dataclass(frozen=True, slots=True)
class Looked:
    """One node at the address that answered, or at the first one that did not: then `trouble` says
    why, as a predicate about the node."""

    node: Node
    url: str
    listed: tuple[Listed, ...] = ()
    about: About = NOTHING_SAID
    trouble: str | None = None


def directory_url(text: str) -> str:
    """Where a directory is asked: the address of a node stands for the one it has. Raises
    ValueError."""
    if urlsplit(parse_url(text).shown_url).path.strip("/") not in ("", "v1"):
        return text
    return urljoin(text, DIRECTORY_PATH)


async def from_directory(transport: Transport, url: str, proxy: Proxy | None) -> Told:
    """What an HTTP directory announces."""
    answer = None
    with trio.move_on_after(SOURCE_SECONDS):
        answer = await ask(transport, url, proxy=proxy, most_bytes=MOST_DIRECTORY_BYTES)
    if answer is None:
        return Told((), f"did not answer within {SOURCE_SECONDS:g} s")
    if not isinstance(answer, Replied):
        return Told((), answer.sentence)
    if answer.status != 200:
        off = " (its operator keeps no directory)" if answer.status == 404 else ""
        return Told((), f"answered status {answer.status}{off}")
    found = parse_directory(answer.body)
    return Told((), found) if isinstance(found, str) else Told(found)


async def from_relay(url: str, proxy: Proxy | None) -> Told:
    """What a Nostr relay has of announcements."""
    asked = Subscription()

    def hear(text: str) -> str | None:
        asked.feed(text)
        return asked.farewell if asked.over else None

    trouble: str | None = f"did not come to an end within {SOURCE_SECONDS:g} s"
    with trio.move_on_after(SOURCE_SECONDS):
        trouble = await converse(url, asked.request, hear, proxy=proxy)
    if asked.trouble is not None:
        trouble = f"refused: {asked.trouble}"
    return Told(tuple(asked.found), trouble)


async def look_at(
    transport: Transport, node: Node, ways: Sequence[Way], proxy: Proxy | None
) -> Looked:
    """A node at its first address of these ways that answers."""
    urls = [url for way in ways for url in node.urls.get(way, ())]
    failed: Looked | None = None
    for url in urls[:TRIED]:
        listed = await _models(transport, url, proxy)
        if not isinstance(listed, str):
            return Looked(node, url, listed, await _about(transport, url, proxy))
        failed = failed or Looked(node, url, trouble=listed)
    assert failed is not None  # whoever asks has an address
    return failed


async def _models(transport: Transport, url: str, proxy: Proxy | None) -> tuple[Listed, ...] | str:
    answer = None
    with trio.move_on_after(NODE_SECONDS):
        where = url + MODELS_PATH
        answer = await ask(transport, where, proxy=proxy, most_bytes=MOST_LISTING_BYTES)
    if answer is None:
        return f"did not list its models within {NODE_SECONDS:g} s"
    if not isinstance(answer, Replied):
        return answer.sentence
    if answer.status != 200:
        return f"answered status {answer.status} at {MODELS_PATH}"
    found = parse_models(answer.body)
    return found or "lists no models"


async def _about(transport: Transport, url: str, proxy: Proxy | None) -> About:
    answer = None
    with trio.move_on_after(NODE_SECONDS):
        answer = await ask(transport, url + INFO_PATH, proxy=proxy, most_bytes=MOST_INFO_BYTES)
    if not isinstance(answer, Replied) or answer.status != 200:
        return NOTHING_SAID
    return parse_info(answer.body)

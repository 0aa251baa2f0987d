"""Sources and nodes that hang are left, and what they said until then counts."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.sansio.routing.announced import Node, Way
from arbstr.trio_runtime.upstream.discovery import (
    Told,
    directory_url,
    from_directory,
    from_relay,
    look_at,
)
from arbstr.trio_runtime.upstream.transport import Transport
from tests.fakes import SILENCE, open_fake_provider
from tests.nostr import event, open_relay


async def test_a_directory_that_hangs_is_left(autojump_clock: MockClock) -> None:
    async with open_fake_provider(SILENCE) as hangs, Transport() as transport:
        told = await from_directory(transport, hangs.url, None)
        assert told == Told((), "did not answer within 20 s")
        await hangs.wait_open(0)


async def test_a_relay_that_hangs_is_left(autojump_clock: MockClock) -> None:
    async with open_fake_provider(SILENCE) as hangs:
        told = await from_relay(hangs.url.replace("http", "ws", 1), None)
        assert told == Told((), "did not come to an end within 20 s")
        await hangs.wait_open(0)


async def test_what_a_relay_said_until_then_counts(mock_clock: MockClock) -> None:
    async with (
        open_relay([event(urls=["https://a.example"])], ends=False) as relay,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_jump_once_said, relay.said, mock_clock)
        told = await from_relay(relay.url, None)
    assert [each.urls for each in told.found] == [("https://a.example/v1",)]
    assert told.trouble == "did not come to an end within 20 s"


async def _jump_once_said(said: trio.Event, clock: MockClock) -> None:
    await said.wait()
    await wait_all_tasks_blocked(0.05)
    clock.jump(21)


async def test_a_node_that_hangs_is_left_at_each_of_its_addresses(
    autojump_clock: MockClock,
) -> None:
    async with open_fake_provider(SILENCE) as one, open_fake_provider(SILENCE) as two:
        node = Node({Way.LOCAL: (one.url, two.url)}, None, None, ())
        async with Transport() as transport:
            looked = await look_at(transport, node, [Way.LOCAL], None)
    assert (looked.url, looked.trouble) == (one.url, "did not list its models within 10 s")
    assert (one.hits, two.hits) == (1, 1)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://a.example", "https://a.example/v1/providers/"),
        ("https://a.example:8443/v1", "https://a.example:8443/v1/providers/"),
        ("https://a.example/list.json", "https://a.example/list.json"),
    ],
)
def test_a_node_stands_for_the_directory_it_has(text: str, url: str) -> None:
    assert directory_url(text) == url

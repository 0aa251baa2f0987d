"""What a node is asked beside chats: child keys where they are cheap enough, and nothing else."""

from typing import Any

import pytest

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.routing.catalog import Provider
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.node import Made, balance, child_keys, list_models, software
from arbstr.trio_runtime.upstream.transport import Transport
from tests.fakes import Behaviour, Request, json_answer, open_fake_provider
from tests.node import Node
from tests.proxy import config
from tests.test_prices import CHEAP, KEY, node_provider

CHILD = "sk-" + "0c" * 32


def provider_at(url: str) -> Provider:
    (provider,) = Snapshot.of(parse_config(config(node_provider(url)), {})).catalog.providers
    return provider


@pytest.mark.parametrize(
    ("info", "most", "why"),
    [
        (
            {"child_key_cost_msats": 10},
            0,
            "asks 10 millisats for a child key, and lane_sats allows 0",
        ),
        ({"child_key_cost_msats": 11}, 10, "asks 11 millisats"),
        ({"child_key_cost_msats": -1}, 10, "knows no child keys"),
        ({"child_key_cost_msats": True}, 10, "knows no child keys"),
        ({"child_key_cost_msats": "0"}, 10, "knows no child keys"),
        ({"child_key_cost_msats": 0.0}, 10, "knows no child keys"),
        ({}, 10, "knows no child keys"),
        ([], 10, "knows no child keys"),
    ],
)
async def test_nothing_is_posted_where_child_keys_are_unknown_or_too_dear(
    info: Any, most: int, why: str
) -> None:
    async with open_fake_provider(json_answer(info)) as fake, Transport() as transport:
        found = await child_keys(transport, provider_at(fake.url), 2, most=most)
        assert isinstance(found, str)
        assert why in found
        assert [request.method for request in fake.requests] == ["GET"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (json_answer({"api_keys": ["sk-short"]}), "answered status 200 where child keys are made"),
        (json_answer({"api_keys": [7]}), "answered status 200"),
        (json_answer({"keys": []}), "answered status 200"),
        (json_answer({"api_keys": [CHILD]}, 500), "answered status 500"),
    ],
)
async def test_what_are_no_child_keys_is_said(answer: Behaviour, why: str) -> None:
    def node(request: Request) -> Behaviour:
        return json_answer({"child_key_cost_msats": 0}) if request.method == "GET" else answer

    async with open_fake_provider(node) as fake, Transport() as transport:
        found = await child_keys(transport, provider_at(fake.url), 1)
        assert isinstance(found, str)
        assert why in found
        assert CHILD not in found


async def test_child_keys_are_made_at_their_price_and_not_shown() -> None:
    node = Node(models={"gpt-4o": CHEAP})
    node.bank.child_key_cost = 10
    async with open_fake_provider(node.serve) as fake, Transport() as transport:
        provider = provider_at(fake.url)
        made = await child_keys(transport, provider, 3, most=10)
        assert isinstance(made, Made)
        assert (len(made.keys), made.cost) == (3, 30)
        assert not [key for key in made.keys if key in repr(made)]
        account = await balance(transport, provider)
        assert not isinstance(account, str)
        assert account.total_spent == 30
        listed = await list_models(transport, provider)
        assert not isinstance(listed, str)
        asked = {request.path: request.header("authorization") for request in fake.requests}
        assert asked["/v1/models"] is None, "the list is for everybody"
        assert asked["/v1/info"] is None
        assert asked["/v1/balance/info"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"version": "0.4.5+g8bd7d7e"}, "0.4.5+g8bd7d7e"),
        ({"version": "1\n2"}, None),
        ({"version": "x" * 65}, None),
        ({"version": ""}, None),
        ({"version": 4}, None),
        ({}, None),
        ([], None),
    ],
)
async def test_a_version_is_kept_that_looks_like_one(info: Any, version: str | None) -> None:
    async with open_fake_provider(json_answer(info)) as fake, Transport() as transport:
        assert await software(transport, provider_at(fake.url)) == version

"""What providers answer to questions that cost nothing: /models, and what a node's key holds."""

import json
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import trio

from arbstr.cli.doctor.findings import Finding, Holding, Listing, provider_findings
from arbstr.sansio.config.reader import Config
from arbstr.sansio.money import sats_from_msats
from arbstr.sansio.routing.catalog import Provider, build_catalog
from arbstr.trio_runtime.accounts import asked_for_balance
from arbstr.trio_runtime.upstream.ask import Replied, ask
from arbstr.trio_runtime.upstream.node import MODELS_PATH, MOST_LISTING_BYTES, balance
from arbstr.trio_runtime.upstream.transport import Transport

ASK_SECONDS: Final = 10.0
"""How long a provider may take for each question."""

ANTHROPIC_VERSION: Final = (b"anthropic-version", b"2023-06-01")
"""Anthropic answers nothing without one; others ignore it."""


async def ask_providers(
    config: Config, spent: Mapping[str, Decimal]
) -> dict[str, tuple[Finding, ...]]:
    """What is found of each, all asked at once. `spent` are sats of a day by provider."""
    found: dict[str, tuple[Finding, ...]] = {}
    providers = build_catalog(config).providers
    nodes = {provider.name for provider in asked_for_balance(providers)}

    async def one(provider: Provider) -> None:
        settings = next(each for each in config.providers if each.name == provider.name)
        is_node = provider.name in nodes
        listing = await _listing(transport, provider, with_key=not is_node)
        holding = None
        if is_node and listing.silence is None:
            day = spent.get(provider.name, Decimal(0))
            holding = await _holding(transport, provider, day)
        found[provider.name] = tuple(provider_findings(settings, listing, holding))

    async with Transport() as transport, trio.open_nursery() as nursery:
        for provider in providers:
            nursery.start_soon(one, provider)
    return found


async def _listing(transport: Transport, provider: Provider, *, with_key: bool) -> Listing:
    """A node's list needs no key; elsewhere the answer tells whether it is taken."""
    with trio.move_on_after(ASK_SECONDS):
        answer = await ask(
            transport,
            provider.url_of(MODELS_PATH),
            proxy=provider.proxy,
            headers=(*provider.credentials, ANTHROPIC_VERSION) if with_key else (),
            most_bytes=MOST_LISTING_BYTES,
        )
        if not isinstance(answer, Replied):
            return Listing(answer.sentence, answer.own)
        return Listing(
            status=answer.status,
            models=_ids(answer.body),
            date=answer.headers.get("date"),
            now=time.time(),
        )
    return Listing(f"did not answer within {ASK_SECONDS:g} s")


def _ids(body: bytes) -> frozenset[str] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    data: Sequence[object] | object = value.get("data") if isinstance(value, dict) else value
    if not isinstance(data, list):
        return None
    return frozenset(str(each["id"]) for each in data if isinstance(each, dict) and "id" in each)


async def _holding(transport: Transport, provider: Provider, spent: Decimal) -> Holding:
    account: object = f"did not tell within {ASK_SECONDS:g} s"
    with trio.move_on_after(ASK_SECONDS):
        account = await balance(transport, provider)
        if not isinstance(account, str):
            return Holding(sats_from_msats(Decimal(account.balance)), spent)
    return Holding(trouble=str(account))

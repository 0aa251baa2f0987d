"""What a Routstr node is asked beside chats: its models, what it is, what a key holds.

    list_models     GET /models: no key
    balance         GET /balance/info with a key

None of it costs anything. What comes back is read by `sansio.routing.listing` and
`sansio.ledger.reconcile`; what did not come is a sentence about the node. How long an answer may
take is the caller's scope.
"""

from typing import Final

from arbstr.sansio.ledger.reconcile import Account, parse_account
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.routing.listing import Listed, parse_models
from arbstr.trio_runtime.upstream.ask import Replied, ask
from arbstr.trio_runtime.upstream.transport import Transport

MODELS_PATH: Final = "/models"

BALANCE_PATH: Final = "/balance/info"

MOST_BALANCE_BYTES: Final = 4_000_000
"""Of an account: a parent's tells each of its child keys in 230 bytes."""

MOST_LISTING_BYTES: Final = 16_000_000
"""Of a listing: some 4,000 bytes a model, and thousands of models."""


async def list_models(transport: Transport, provider: Provider) -> tuple[Listed, ...] | str:
    """What the node lists, or why that is not known."""
    answer = await _get(transport, provider, MODELS_PATH, MOST_LISTING_BYTES)
    return answer if isinstance(answer, str) else parse_models(answer)


async def balance(transport: Transport, provider: Provider) -> Account | str:
    """What is on the provider's key, or why that is not known."""
    assert provider.authorization is not None  # whoever asks has a key
    answer = await _get(
        transport, provider, BALANCE_PATH, MOST_BALANCE_BYTES, *provider.credentials
    )
    return answer if isinstance(answer, str) else parse_account(answer)


async def _get(
    transport: Transport, provider: Provider, path: str, most: int, *headers: tuple[bytes, bytes]
) -> bytes | str:
    url = provider.url_of(path)
    answer = await ask(transport, url, proxy=provider.proxy, headers=headers, most_bytes=most)
    if not isinstance(answer, Replied):
        return answer.sentence
    if answer.status != 200:
        return f"answered status {answer.status} at {path}"
    return answer.body

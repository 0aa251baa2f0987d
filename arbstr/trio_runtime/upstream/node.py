"""What a Routstr node is asked beside chats: its models, what it is, what a key holds.

    list_models     GET /models: no key
    software        GET /info: no key
    balance         GET /balance/info with a key
    child_keys      GET /info, and if they are cheap enough, POST /balance/child-key
    close_key       POST /balance/create with a child key: the node refuses it from then on

None of it costs anything but the latter, where the configuration allows that. What comes back is
read by `sansio.routing.listing` and `sansio.ledger.reconcile`; what did not come is a sentence
about the node. How long an answer may take is the caller's scope.
"""

import json
import re
from dataclasses import field
from typing import Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.reconcile import CLOSED_DATE, Account, parse_account
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.routing.listing import Listed, parse_models
from arbstr.trio_runtime.upstream.ask import Replied, ask
from arbstr.trio_runtime.upstream.transport import Transport

MODELS_PATH: Final = "/models"

INFO_PATH: Final = "/info"
CHILD_KEY_PATH: Final = "/balance/child-key"

_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
"""What is kept of a node's own word for its software."""

_KEY: Final = re.compile(r"sk-[0-9a-f]{64}")

BALANCE_PATH: Final = "/balance/info"

CREATE_PATH: Final = "/balance/create"
"""Which makes a key of a token, or takes one there is, and limits it."""

MOST_BALANCE_BYTES: Final = 4_000_000
"""Of an account: a parent's tells each of its child keys in 230 bytes."""

MOST_LISTING_BYTES: Final = 16_000_000
"""Of a listing: some 4,000 bytes a model, and thousands of models."""


async def list_models(transport: Transport, provider: Provider) -> tuple[Listed, ...] | str:
    """What the node lists, or why that is not known."""
    answer = await _get(transport, provider, MODELS_PATH, MOST_LISTING_BYTES)
    return answer if isinstance(answer, str) else parse_models(answer)


async def software(transport: Transport, provider: Provider) -> str | None:
    """The version of the node's software, if it says so."""
    answer = await _get(transport, provider, INFO_PATH, MOST_BALANCE_BYTES)
    match None if isinstance(answer, str) else _json(answer):
        case {"version": str(version)} if _VERSION.fullmatch(version):
            return version
        case _:
            return None


async def balance(transport: Transport, provider: Provider) -> Account | str:
    """What is on the provider's key, or why that is not known."""
    assert provider.authorization is not None  # whoever asks has a key
    answer = await _get(
        transport, provider, BALANCE_PATH, MOST_BALANCE_BYTES, *provider.credentials
    )
    return answer if isinstance(answer, str) else parse_account(answer)


@final
@dataclass(frozen=True, slots=True)
class Made:
    """New child keys, and what they cost together, in millisats."""

    keys: tuple[str, ...] = field(repr=False)
    cost: int


async def child_keys(
    transport: Transport, provider: Provider, count: int, *, most: int = 0
) -> Made | str:
    """So many new child keys of the provider's key, or why there are none.

    Only where the node says what they cost, and that this is at most so many millisats each: of
    others a POST might be passed on, and paid.
    """
    described = await _get(transport, provider, INFO_PATH, MOST_BALANCE_BYTES)
    if isinstance(described, str):
        return described
    match _json(described):
        case {"child_key_cost_msats": int(each)} if not isinstance(each, bool) and each >= 0:
            if each > most:
                return f"asks {each} millisats for a child key, and lane_sats allows {most}"
        case _:
            return "knows no child keys"
    assert provider.authorization is not None  # whoever asks has a key
    answer = await ask(
        transport,
        provider.url_of(CHILD_KEY_PATH),
        proxy=provider.proxy,
        headers=[(b"authorization", provider.authorization.reveal().encode())],
        most_bytes=MOST_BALANCE_BYTES,
        posted=b'{"count": %d}' % count,
    )
    if not isinstance(answer, Replied):
        return answer.sentence
    match _json(answer.body) if answer.status == 200 else None:
        case {"api_keys": [_, *_] as keys} if all(_KEY.fullmatch(str(key)) for key in keys):
            # A lane serves one request at a time, and is closed: neither may be the key itself.
            new = dict.fromkeys(str(key) for key in keys)
            itself = provider.authorization.reveal().removeprefix("Bearer ")
            if len(new) == len(keys) <= count and itself not in new:
                return Made(tuple(new), each * len(keys))
        case _:
            pass
    return f"answered status {answer.status} where child keys are made"


async def close_key(transport: Transport, provider: Provider) -> bool | None:
    """Asks that the provider's key, a child key, is refused from now on; its account tells whether
    it is. False: the node has no such call. None: it was perhaps not reached."""
    assert provider.key is not None  # a lane's
    asked = {"initial_balance_token": provider.key.reveal(), "validity_date": CLOSED_DATE}
    answer = await ask(
        transport,
        provider.url_of(CREATE_PATH),
        proxy=provider.proxy,
        most_bytes=MOST_BALANCE_BYTES,
        posted=json.dumps(asked).encode(),
    )
    if not isinstance(answer, Replied) or answer.status in _PASSING or answer.status >= 500:
        return None
    return answer.status == 200


_PASSING: Final = frozenset({408, 425, 429})


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


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

"""Whose key it is, where it is found, and what kind of money stands behind it.

A key comes from the file, else from `ARBSTR_<NAME>_API_KEY`, else there is none and no
Authorization header is sent. The kind decides what a failure may have cost (`failover/failure.py`).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, Literal, TypeAlias, final

from arbstr.sansio.secrets import Secret

KeySource: TypeAlias = Literal["config", "environment", "none"]

_ROUTSTR_KEY: Final = re.compile(r"cashu.*|sk-[0-9a-fA-F]{64}")
"""A Cashu token, or the session key a Routstr node makes of one (`sk-` and a SHA-256)."""


@final
class Kind(StrEnum):
    """What a provider's failures may have cost: the money semantics of its key."""

    OPENAI = "openai"
    ROUTSTR = "routstr"


def key_variable(name: str) -> str:
    """The environment variable that may hold the key of the provider of that name."""
    return f"ARBSTR_{re.sub('[^A-Z0-9]', '_', name.upper())}_API_KEY"


def find_key(
    name: str, configured: Secret | None, environ: Mapping[str, str]
) -> tuple[Secret | None, KeySource]:
    """The provider's key and where it was found. An empty variable counts as none.

    The key may be one that cannot be sent: see `Secret.fits_a_header`.
    """
    if configured is not None:
        return configured, "config"
    if found := environ.get(key_variable(name)):
        return Secret(found), "environment"
    return None, "none"


def infer_kind(host: str, key: Secret | None) -> Kind:
    """The kind of a provider that does not state it, from its host (lower case) and its key."""
    if host == "routstr.com" or host.endswith((".routstr.com", ".onion")):
        return Kind.ROUTSTR
    if key is not None and _ROUTSTR_KEY.fullmatch(key.reveal()):
        return Kind.ROUTSTR
    return Kind.OPENAI


def lists_prices(kind: Kind) -> bool:
    """Whether such a provider lists what it asks for its models, in satoshis."""
    return kind is Kind.ROUTSTR


def key_id_of(authorization: Secret) -> str:
    """What tells a key from another, and does not tell the key."""
    return hashlib.sha256(authorization.reveal().encode()).hexdigest()[:16]


def sharing_a_variable(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Different names whose key would be looked up in one variable: the first, and each other."""
    return _sharing((key_variable(name), name) for name in dict.fromkeys(names))


def sharing_a_token(keys: Mapping[str, Secret | None]) -> tuple[tuple[str, str], ...]:
    """Providers with one Cashu token: who redeems it first takes the money of all of them.

    `keys` maps a provider's name to its key. Pairs: the first with a token, and each other.
    """
    return _sharing(
        (key.reveal(), name) for name, key in keys.items() if key is not None and is_cashu(key)
    )


def _sharing(named: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Of (thing, name): the first name with a thing, beside each other one with the same thing."""
    first: dict[str, str] = {}
    found = ((first.setdefault(thing, name), name) for thing, name in named)
    return tuple((one, other) for one, other in found if one != other)


def is_cashu(key: Secret) -> bool:
    """Whether the key is a Cashu token: money itself, not a right to spend some."""
    return key.reveal().startswith("cashu")

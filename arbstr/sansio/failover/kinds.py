"""What a provider of a kind does otherwise than others: one row of traits a kind.

`MONEY` (failure) is what its failures cost; this is the rest. Nobody tests for a kind: who needs to
know asks for a trait, so that a new kind is a row here and a column there.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.frozen import dataclass


@final
@dataclass(frozen=True, slots=True)
class Traits:
    """Header names are in lower case.

    finishes      it finishes an answer and charges it, whoever is listening: what a client left is
                  read on for its price, where others stop when they are left
    states        it says what it charged, behind the last event of a stream
    mirrors       it reserves by the usual name of the output's limit alone
    signature     the header its own answers bear, and those of what stands in front of it do not:
                  a failure that bears it was given after the reservation had been reverted
    cost_header   where it says what it charged, in millisats
    prefix        how the names of its headers begin that a client may see
    relays        it passes a model's requests on to an upstream of that model's: there a path is
                  missing for the model, elsewhere altogether
    failing       statuses of its own for what others say with a 5xx
    """

    finishes: bool = False
    states: bool = False
    mirrors: bool = False
    relays: bool = False
    signature: str | None = None
    cost_header: str | None = None
    prefix: str | None = None
    failing: frozenset[int] = frozenset()


TRAITS: Final[Mapping[Kind, Traits]] = MappingProxyType(
    {
        Kind.OPENAI: Traits(),
        Kind.ROUTSTR: Traits(
            finishes=True,
            states=True,
            mirrors=True,
            relays=True,
            signature="x-routstr-request-id",
            cost_header="x-routstr-cost-msats",
            prefix="x-routstr-",
            # Newer nodes say so where older ones passed on an upstream's 5xx.
            failing=frozenset({424}),
        ),
    }
)
"""Every kind's row. A provider without a key counts as openai (`Hub.kind_of`)."""

_SIGNED: Final = tuple(
    (row.signature, kind) for kind, row in TRAITS.items() if row.signature is not None
)
_COST_HEADERS: Final = tuple(
    row.cost_header for row in TRAITS.values() if row.cost_header is not None
)
SIGNATURES: Final = tuple(signature for signature, _ in _SIGNED)
PREFIXES: Final = tuple(row.prefix for row in TRAITS.values() if row.prefix is not None)


def signed_by(headers: Mapping[str, str]) -> Kind | None:
    """Whose signature an answer bears: a provider of that kind, whatever it was taken for."""
    for signature, kind in _SIGNED:
        if signature in headers:
            return kind
    return None


def stated_in(headers: Mapping[str, str]) -> str:
    """The value of the header that states a charge, of whatever kind; "" if there is none."""
    for name in _COST_HEADERS:
        if name in headers:
            return headers[name]
    return ""

"""What nodes stated, what they should have, and what they charged: side by side, for a span.

    filters --read_charges--> Charges, of each provider that stated a price or was compared
    --read_balances--> what each key held when it was compared

`stated` and `expected` are of all attempts in the span whose provider stated a price. `charged` is
by the counters of its key, from checkpoint to checkpoint; `known` is what those same attempts
cost as far as the ledger knows: where the node is honest and the key is used by this ledger
alone, the two are equal. Nothing here waits for more than the disk.
"""

from typing import Any, Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.reports import Filters
from arbstr.trio_runtime.ledger.port import Session
from arbstr.trio_runtime.ledger.sums import Where, nanosats, sats_of

_COLUMNS: Final = {"provider": "provider", "model": "model"}


@final
@dataclass(frozen=True, slots=True)
class Charges:
    """Of one provider, in sats. `charged` and `known` are `None` where nothing was compared,
    `until` is the moment of the last comparison."""

    provider: str
    attempts: int = 0
    stated: float = 0.0
    expected: float = 0.0
    charged: float | None = None
    known: float | None = None
    until: str | None = None

    def as_json(self) -> dict[str, Any]:
        """An entry of `nodes` in /v1/stats."""
        return {
            "provider": self.provider,
            "attempts": self.attempts,
            "expected_sats": self.expected,
            "stated_sats": self.stated,
            "charged_sats": self.charged,
            "known_sats": self.known,
            "compared_until": self.until,
        }


def read_balances(session: Session) -> dict[str, tuple[int, str]]:
    """What the key of each provider held free at its last checkpoint, in millisats, and when."""
    rows = session.execute(session.question("last_balances"))
    return {name: (int(balance), moment) for name, balance, moment in rows}


def read_charges(session: Session, filters: Filters) -> tuple[Charges, ...]:
    """By the provider's name. What a policy or an API cost is not told apart here: nothing then;
    and counters of keys know no models."""
    if filters.policy is not None or filters.endpoint is not None:
        return ()
    where = Where(filters, _COLUMNS)
    sql = session.question("stated_charges").format(
        stated=nanosats(session, "provider_cost_sats"),
        expected=nanosats(session, "expected_sats"),
        filters=where.sql,
    )
    stated = {name: row for name, *row in session.execute(sql, where.values)}
    compared: dict[str, Any] = {}
    if filters.model is None:
        sql = session.question("compared_charges").format(
            charged=nanosats(session, "charged_sats"),
            stated=nanosats(session, "stated_sats"),
            filters=where.sql,
        )
        compared = {name: row for name, *row in session.execute(sql, where.values)}
    found = []
    for name in filter(None, sorted({*stated, *compared})):
        attempts, *sums = stated.get(name, (0, 0, 0))
        *counted, until = compared.get(name, (None,))
        told, expected = map(sats_of, sums)
        charged, known = (
            None if each is None else sats_of(each) for each in counted or (None, None)
        )
        found.append(Charges(name, attempts, told, expected, charged, known, until))
    return tuple(found)

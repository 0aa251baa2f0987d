"""`arbstr reconcile`: what attempts cost that ended without word, by the nodes' own books."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final, final

import trio

from arbstr.cli.cells import filled, terminal_width
from arbstr.cli.figures import in_sats
from arbstr.cli.output import complain
from arbstr.sansio.config.reader import Config
from arbstr.sansio.errors import StartError
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.reconcile import Verdict
from arbstr.sansio.money import format_eyes
from arbstr.sansio.routing.budget import Budget
from arbstr.sansio.routing.catalog import Provider
from arbstr.trio_runtime import groups
from arbstr.trio_runtime.accounts import Accounts, asked_for_balance
from arbstr.trio_runtime.ledger.checkpoints import (
    TELLING_SECONDS,
    NotNow,
    Taken,
    Unknown,
    unknown_attempts,
)
from arbstr.trio_runtime.ledger.database import open_database, shown
from arbstr.trio_runtime.ledger.log_writer import SEEN_SECONDS, open_log_writer
from arbstr.trio_runtime.ledger.port import Database, Trouble
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.transport import Transport

AGAIN_SECONDS: Final = 2.0
"""Between two tries with --wait."""

LONGEST_SECONDS: Final = TELLING_SECONDS + 20.0
"""How long --wait waits: a node gives back what was lost within six minutes, and by then the lanes
of an arbstr beside have told, or never will. The rest is margin."""


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one provider. `open`: what is still unknown, and `why` it is."""

    provider: str
    taken: tuple[Taken, ...]
    open: Unknown | None
    why: str | None

    def as_json(self) -> dict[str, Any]:
        """For machines. Amounts are numbers of sats."""
        return {
            "provider": self.provider,
            "settled": [
                {
                    "attempt": [one.correlation_id, one.n],
                    "cost_sats": float(sats),
                    "shared": taken.settlement.verdict is Verdict.SHARED,
                }
                for taken in self.taken
                for one, sats in taken.settlement.prices
            ],
            "stated_sats": float(sum((each.stated for each in self.taken), Decimal(0))),
            "charged_sats": float(sum((each.charged for each in self.taken), Decimal(0))),
            "unknown": 0 if self.open is None else self.open.attempts,
            "unknown_sats": 0.0 if self.open is None else self.open.sats,
            "why": self.why,
        }

    def lines(self) -> Sequence[str]:
        """For a person."""
        stated = sum((each.stated for each in self.taken), Decimal(0))
        charged = sum((each.charged for each in self.taken), Decimal(0))
        said = [
            f"{self.provider}: {format_eyes(charged)} sats charged, {format_eyes(stated)} stated"
        ]
        for taken in self.taken:
            shared = " (together; shared by what was set aside)"
            for one, sats in taken.settlement.prices:
                note = shared if taken.settlement.verdict is Verdict.SHARED else ""
                said.append(f"  {one.correlation_id} #{one.n}  {format_eyes(sats)} sats{note}")
            if (warning := taken.settlement.sentence()) is not None:
                said.append(f"  it {warning}")
        if self.open is not None:
            said.append(
                f"  still unknown: {self.open.attempts} attempts since {self.open.since}, "
                f"{in_sats(self.open.sats)} sats were set aside: {self.why}"
            )
        return said


def run(options: argparse.Namespace, config: Config, place: str) -> int:
    """Prints what was settled; 1 if something is still unknown. Raises `StartError`."""
    providers = tuple(asked_for_balance(Snapshot.of(config).catalog.providers))
    if not providers:
        raise StartError(("no provider is a Routstr node with a key: nothing to reconcile",))
    outcomes = groups.run(_all, config, place, providers, options.wait, expected=(StartError,))
    if isinstance(outcomes, Trouble):
        complain(f"{shown(place)}: {outcomes}")
        return 1
    if options.json:
        json.dump([each.as_json() for each in outcomes], sys.stdout, indent=2)
        print()
    else:
        for outcome in outcomes:
            for line in outcome.lines():
                indent = " " * (len(line) - len(line.lstrip()))
                print(*filled(indent, line.lstrip(), terminal_width(), hang=2), sep="\n")
    return 1 if any(outcome.open is not None for outcome in outcomes) else 0


async def _all(
    config: Config, place: str, providers: Sequence[Provider], wait: bool
) -> list[Outcome] | Trouble:
    """What became of each, asked at the same time; or why the ledger could not be read."""
    found: dict[str, Taken | NotNow] = {}
    async with (
        open_database(place) as database,
        open_log_writer(database) as log_writer,
        Transport() as transport,
    ):
        accounts = Accounts(
            transport, database, log_writer, Budget(None), others_seconds=SEEN_SECONDS
        )
        deadline = trio.current_time() + (LONGEST_SECONDS if wait else 0)

        async def settle(provider: Provider) -> None:
            while True:
                told = found[provider.name] = await accounts.check(provider)
                if isinstance(told, Taken) or trio.current_time() >= deadline:
                    return
                with suppress(Trouble):
                    if provider.name not in await _open(database):
                        return  # who cannot be reached is waited for only where it matters
                await trio.sleep(AGAIN_SECONDS)

        async with trio.open_nursery() as nursery:
            for provider in providers:
                nursery.start_soon(settle, provider)
        try:
            rest = await _open(database)
        except Trouble as error:
            return error
    return [_outcome(each.name, found[each.name], rest.get(each.name)) for each in providers]


async def _open(database: Database) -> dict[str, Unknown]:
    return {each.provider: each for each in await database.read(unknown_attempts)}


def _outcome(name: str, told: Taken | NotNow, still: Unknown | None) -> Outcome:
    taken = (told,) if isinstance(told, Taken) else ()
    return Outcome(name, taken, still, _why(still, told))


def _why(still: Unknown | None, found: Taken | NotNow) -> str | None:
    if still is None:
        return None
    if isinstance(found, NotNow):
        return f"the provider {found.why}"
    warning = found.settlement.sentence()
    if warning is not None:
        return f"the provider {warning}"
    return "they are older than the first look at the key's counters"

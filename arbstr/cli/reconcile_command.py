"""`arbstr reconcile`: what attempts cost that ended without word, by the nodes' own books."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
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
from arbstr.sansio.ledger.reconcile import Open, Verdict
from arbstr.sansio.money import format_eyes
from arbstr.sansio.routing.budget import Budget
from arbstr.sansio.routing.catalog import Provider
from arbstr.trio_runtime import groups
from arbstr.trio_runtime.accounts import Accounts, asked_for_balance
from arbstr.trio_runtime.lane_words import Parked, Teller
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
from arbstr.trio_runtime.left_lanes import open_left_lanes
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.upstream.transport import Transport

AGAIN_SECONDS: Final = 2.0
"""Between two tries with --wait."""

LANES_SECONDS: Final = 8.0
"""How long the lanes of a killed arbstr are asked without --wait: what was counted they tell at
once, and what was not when it can come no more. The rest is margin."""

LOOK_SECONDS: Final = 0.1
"""Between two looks whether they have told."""

LONGEST_SECONDS: Final = TELLING_SECONDS + 20.0
"""How long --wait waits: a node gives back what was lost within six minutes, and by then the lanes
of an arbstr beside have told, or never will. The rest is margin."""


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one provider. `told`: the attempts whose lanes told what they cost, in sats;
    `open`: what is still unknown, and `why` it is."""

    provider: str
    told: tuple[tuple[Parked, Decimal], ...]
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
                    "shared": is_shared,
                }
                for one, sats, is_shared in self._settled()
            ],
            "stated_sats": float(sum((each.stated for each in self.taken), Decimal(0))),
            "charged_sats": float(sum((each.charged for each in self.taken), Decimal(0))),
            "unknown": 0 if self.open is None else self.open.attempts,
            "unknown_sats": 0.0 if self.open is None else self.open.sats,
            "why": self.why,
        }

    def _settled(self) -> Iterator[tuple[Parked | Open, Decimal, bool]]:
        for one, sats in self.told:
            yield one, sats, False
        for taken in self.taken:
            for each, sats in taken.settlement.prices:
                yield each, sats, taken.settlement.verdict is Verdict.SHARED

    def lines(self) -> Sequence[str]:
        """For a person."""
        stated = sum((each.stated for each in self.taken), Decimal(0))
        charged = sum((each.charged for each in self.taken), Decimal(0))
        said = [
            f"{self.provider}: {format_eyes(charged)} sats charged, {format_eyes(stated)} stated"
        ]
        shared = " (together; shared by what was set aside)"
        for one, sats, is_shared in self._settled():
            note = shared if is_shared else ""
            said.append(f"  {one.correlation_id} #{one.n}  {format_eyes(sats)} sats{note}")
        warnings = (taken.settlement.sentence() for taken in self.taken)
        said += [f"  it {warning}" for warning in warnings if warning is not None]
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
    told: list[tuple[Parked, Decimal]] = []
    async with (
        open_database(place) as database,
        open_log_writer(database) as log_writer,
        Transport() as transport,
    ):
        accounts = Accounts(
            transport, database, log_writer, Budget(None), others_seconds=SEEN_SECONDS
        )
        deadline = trio.current_time() + (LONGEST_SECONDS if wait else 0)
        by_lanes = trio.current_time() + (TELLING_SECONDS if wait else LANES_SECONDS)

        async def settle(provider: Provider) -> None:
            await _lanes_told(accounts, provider, by_lanes)
            while True:
                one = found[provider.name] = await accounts.check(provider)
                if isinstance(one, Taken) or trio.current_time() >= deadline:
                    return
                with suppress(Trouble):
                    if provider.name not in await _open(database):
                        return  # who cannot be reached is waited for only where it matters
                await trio.sleep(AGAIN_SECONDS)

        async with (
            open_left_lanes(database.beside, accounts) as left,
            trio.open_nursery() as background,
        ):
            # What no lane has told by then is left to a checkpoint; without --wait it stays open.
            asking = await background.start(_nursery, TELLING_SECONDS)
            teller = Teller(
                *(transport, database, log_writer, Budget(None), asking, accounts),
                closed=left.leave,
                booked=lambda parked, sats: told.append((parked, sats)),
            )
            free = {each.name: not each.lane_sats for each in config.providers}
            for provider in providers:
                left.begin(provider, teller, cost_nothing=free[provider.name])
            async with trio.open_nursery() as nursery:
                for provider in providers:
                    nursery.start_soon(settle, provider)
            background.cancel_scope.cancel()
        try:
            rest = await _open(database)
        except Trouble as error:
            return error
    return [
        _outcome(
            each.name,
            tuple(one for one in told if one[0].way.provider.name == each.name),
            found[each.name],
            rest.get(each.name),
        )
        for each in providers
    ]


async def _nursery(seconds: float, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """One of which nobody waits for the end, which is after so long."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


async def _lanes_told(accounts: Accounts, provider: Provider, until: float) -> None:
    # Those that tell have no event for all of them.
    while accounts.has_lanes_open(provider.name) and trio.current_time() < until:  # noqa: ASYNC110
        await trio.sleep(LOOK_SECONDS)


async def _open(database: Database) -> dict[str, Unknown]:
    return {each.provider: each for each in await database.read(unknown_attempts)}


def _outcome(
    name: str,
    told: tuple[tuple[Parked, Decimal], ...],
    found: Taken | NotNow,
    still: Unknown | None,
) -> Outcome:
    taken = (found,) if isinstance(found, Taken) else ()
    return Outcome(name, told, taken, still, _why(still, found))


def _why(still: Unknown | None, found: Taken | NotNow) -> str | None:
    if still is None:
        return None
    if isinstance(found, NotNow):
        return f"the provider {found.why}"
    warning = found.settlement.sentence()
    if warning is not None:
        return f"the provider {warning}"
    return "they are older than the first look at the key's counters, or were sent with another"

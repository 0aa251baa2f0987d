"""Lanes that nobody uses: what a killed arbstr had running on them, asked without another start.

    the files of lanes that no process holds --open_left_lanes--> LeftLanes
    LeftLanes.begin --> each attempt without word gets what its lane tells, in the background

The files are held meanwhile, so that an arbstr that starts beside has another. No lane is made, and
none is used.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import final

import trio

from arbstr.sansio.ledger.lanes import Lane
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.accounts import Accounts, key_id
from arbstr.trio_runtime.lane_file import LaneFile, open_left_files
from arbstr.trio_runtime.lane_words import Teller, Way
from arbstr.trio_runtime.lanes import MOST_KEYS, way_on

log = logging.getLogger(__name__)


@final
class LeftLanes:
    """Those of all files that are ours now."""

    def __init__(self, files: Sequence[LaneFile], accounts: Accounts) -> None:
        self._files = files
        self._accounts = accounts

    def begin(self, provider: Provider, teller: Teller, *, cost_nothing: bool) -> None:
        """Asks the lanes of a provider's key; no checkpoint of it is taken before they have told.
        `cost_nothing`: they may be closed, because others are to be had."""
        parent = key_id(provider)
        ways: dict[str, Way] = {}
        for file in self._files:
            can_close = cost_nothing and file.made(parent) < MOST_KEYS
            for key in file.of(parent):
                way = way_on(provider, Lane(Secret(key), can_close=can_close))
                ways[way.noted.lane] = way
        if ways:
            self._accounts.lane_opens(provider.name)
            teller.soon(teller.begin, provider.name, {}, ways)

    def leave(self, way: Way) -> None:
        """Its node refuses it: nobody uses it any more."""
        key = way.lane.key.reveal()
        for file in self._files:
            if key in file.of(way.parent):
                try:
                    file.leave(way.provider.name, way.parent, key)
                except OSError as error:
                    # The next start sees what became of it in its account.
                    log.warning("a closed lane stands in its file still: %s", error.strerror)


@asynccontextmanager
async def open_left_lanes(beside: str | None, accounts: Accounts) -> AsyncIterator[LeftLanes]:
    """Those whose files cannot be read are not among them, which is said. `beside` is where, as
    `port.Database` says."""
    files, troubles = await trio.to_thread.run_sync(open_left_files, beside)
    for error in troubles:
        log.warning("the lanes in %s cannot be asked: %s", error.filename, error.strerror)
    try:
        yield LeftLanes(files, accounts)
    finally:
        for file in files:
            file.close()

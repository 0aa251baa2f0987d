"""What a configuration that was read again changes.

    part of the file            a change of it
    [server], [database]        waits for a restart: the old values stay, and a sentence says so
    everything else             counts for every request from now on
    a provider whose name, URL, keeps its circuit breaker
      key and proxy stayed
    any other provider          begins with a closed one

Requests in flight are not asked: they keep the configuration they started with.
"""

from dataclasses import fields, replace
from typing import Final, final

from arbstr.sansio.config.reader import Config, ProviderConfig
from arbstr.sansio.frozen import dataclass

NEED_RESTART: Final = ("server", "database")
"""Tables whose values are in use from the start to the end: a listening socket, an open file."""


@final
@dataclass(frozen=True, slots=True)
class Change:
    """The configuration to use from now on, and what is different about it.

    `waiting` has the keys whose new values need a restart, like `server.listen`. The others are
    names of providers: `kept` those whose circuit stays, whatever else of them changed.
    """

    config: Config
    waiting: tuple[str, ...]
    kept: frozenset[str]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[str, ...]


def change(old: Config, read: Config) -> Change:
    """From the configuration in use to the one just read."""
    before = {provider.name: provider for provider in old.providers}
    after = {provider.name: provider for provider in read.providers}
    both = [name for name in after if name in before]
    return Change(
        config=replace(read, server=old.server, database=old.database),
        waiting=_waiting(old, read),
        kept=frozenset(name for name in both if _is_same(before[name], after[name])),
        new=tuple(name for name in after if name not in before),
        gone=tuple(name for name in before if name not in after),
        changed=tuple(name for name in both if before[name] != after[name]),
    )


def _waiting(old: Config, read: Config) -> tuple[str, ...]:
    return tuple(
        f"{table}.{key.name}"
        for table in NEED_RESTART
        for key in fields(getattr(old, table))
        if getattr(getattr(old, table), key.name) != getattr(getattr(read, table), key.name)
    )


def _is_same(before: ProviderConfig, after: ProviderConfig) -> bool:
    """Whether what was learnt of one says anything of the other."""
    return (before.url, before.api_key, before.proxy) == (after.url, after.api_key, after.proxy)

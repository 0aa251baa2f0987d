"""The process as nested `async with`: the order of opening is the order of closing, backwards.

database > log writer > retention > transport > drains > mock providers > server

hangup     SIGHUP: the configuration is read again (reload.py)
its end    `stopping`
"""

import errno
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, final

import trio

from arbstr.sansio.config.reader import Config
from arbstr.sansio.errors import StartError
from arbstr.sansio.frozen import dataclass
from arbstr.trio_runtime import groups
from arbstr.trio_runtime.accounts import Accounts
from arbstr.trio_runtime.app import App
from arbstr.trio_runtime.change import Change
from arbstr.trio_runtime.descriptors import raise_descriptor_limit
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.lanes import Lanes
from arbstr.trio_runtime.ledger.budget import Today
from arbstr.trio_runtime.ledger.database import beside, is_shared, open_database
from arbstr.trio_runtime.ledger.leases import Leases
from arbstr.trio_runtime.ledger.log_writer import SEEN_SECONDS, open_log_writer
from arbstr.trio_runtime.ledger.port import Database
from arbstr.trio_runtime.ledger.ratios import learn_of_others, read_lengths, read_ratios
from arbstr.trio_runtime.ledger.reports import Reports
from arbstr.trio_runtime.ledger.retention import open_retention
from arbstr.trio_runtime.nodes import Nodes
from arbstr.trio_runtime.reload import Reader, Reloader, open_hangups
from arbstr.trio_runtime.server.listener import EagerListener
from arbstr.trio_runtime.server.server import Server
from arbstr.trio_runtime.snapshot import Snapshot
from arbstr.trio_runtime.stopping import Stopping, until_stopped
from arbstr.trio_runtime.upstream.transport import Transport

if TYPE_CHECKING:
    from arbstr.trio_runtime.worker import Worker

log = logging.getLogger("arbstr")

LAST_PRICES_SECONDS: Final = 0.5
"""How long prices that were paid may take to reach the ledger at the end. Picked."""


@final
@dataclass(frozen=True, slots=True)
class Mock:
    """`run --mock`: every provider is one of ours. `delay` in seconds; `failing` answer 503."""

    delay: float
    failing: frozenset[str]


@final
@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides beyond the configuration.

    `database` is a path, or a URL that may hold a password. `read` reads the configuration again;
    `None`: it is in no file. `worker`: which of several processes this is.
    """

    database: str
    mock: Mock | None = None
    read: Reader | None = None
    worker: "Worker | None" = None


def run(config: Config, options: Options, announce: Callable[[str], None]) -> int:
    """Runs arbstr until a signal ends it; returns the exit code.

    `announce` is called once with the base URL when requests are being accepted. Raises
    `StartError` if it cannot start.
    """
    return groups.run(_main, config, options, announce, expected=(StartError,))


async def _main(config: Config, options: Options, announce: Callable[[str], None]) -> int:
    # The signals are watched from the very start: a Ctrl-C while the database opens is not lost.
    worker = options.worker
    # Ctrl-C reaches every process of a terminal; workers leave it to their parent.
    numbers = (signal.SIGTERM,) if worker is not None else (signal.SIGINT, signal.SIGTERM)
    with (
        trio.open_signal_receiver(*numbers) as signals,
        open_hangups() as hangups,
    ):
        kept = beside(options.database)
        change = None if kept is None else f"{kept}.change"
        stopping = Stopping(config.server.shutdown_seconds)
        async with (
            _open_watch(stopping, signals, worker),
            open_database(options.database, wait=config.database.wait) as database,
            open_log_writer(database) as log_writer,
            open_retention(
                database,
                None
                if worker is not None and not worker.sweeps
                else config.database.retention_days,
            ),
            Transport() as transport,
            _open_drains() as drains,
            _open_mock(config, options.mock) as settled,
        ):
            hub = Hub(
                Snapshot.of(settled),
                transport=transport,
                log_writer=log_writer,
                change=Change(change),
                drains=drains,
                ratios=await read_ratios(database),
                lengths=await read_lengths(database),
            )
            if worker is not None:
                worker.join(hub, database.boot_id)
                listeners = worker.listeners()
            else:
                listeners = await _listen(config.server.listen_host, config.server.listen_port)
            server = Server(App(hub, Reports(database)), listeners)
            async with trio.open_nursery() as nursery:
                hub.nodes = nodes = Nodes(transport, database, hub.reprice)
                await nodes.restore(hub.snapshot)
                shared = worker is not None or database.is_shared
                hub.accounts = accounts = Accounts(
                    transport,
                    database,
                    log_writer,
                    hub.budget,
                    charged=hub.charged,
                    others_seconds=SEEN_SECONDS,
                )
                accounts.changed(hub.snapshot)
                today = _open_day(hub, database, shared=shared, lone=worker is None)
                hub.today = today
                await today.read()
                nursery.start_soon(today.run)
                nursery.start_soon(nodes.run)
                nursery.start_soon(accounts.run)
                if worker is not None or is_shared(options.database):
                    nursery.start_soon(learn_of_others, database, hub.learn_of_others)
                part = (1, 1) if worker is None else (worker.number, config.server.workers)
                hub.lanes = Lanes(
                    *(transport, database, log_writer, hub.budget, nursery),
                    accounts=accounts,
                    part=part,
                    charged=hub.charged_alone,
                )
                hub.lanes.changed(hub.snapshot)
                nursery.start_soon(transport.close_by_time)
                nursery.start_soon(transport.deadlines.run)
                nursery.start_soon(hub.silences.run)
                nursery.start_soon(hub.kept.run)
                _calm_the_collector()
                sys.setswitchinterval(TURN_SECONDS)
                keep_freed_memory()
                announce(base_url(listeners[0].socket.getsockname()))
                # Not before: what it may open is no part of why it cannot start.
                raise_descriptor_limit()
                if hangups is not None:
                    nursery.start_soon(Reloader(hub, options.read).run, hangups)
                finished = trio.Event()
                nursery.start_soon(_serve, server, finished)
                await until_stopped(stopping, server, hub, finished)
                with trio.move_on_after(LAST_PRICES_SECONDS):
                    await nodes.keep_used()
                    await today.close()
                nursery.cancel_scope.cancel()
    log.info("stopped")
    return 130 if stopping.hurried.is_set() else 0


NEW_OBJECTS: Final = 10_000
"""How many more objects there must be before the collector looks at the new ones; Python's 700 made
a look of 0.15 ms every 15 requests, 2 % of all CPU (measured). Should there be cycles all the same,
so many objects hold a few MB."""


def _open_day(hub: Hub, database: Database, *, shared: bool, lone: bool) -> Today | Leases:
    """Who tells the budget of today."""
    writer = hub.log_writer
    if shared:
        return Leases(hub.budget, database, lambda: writer.recovered, lone=lone)
    return Today(hub.budget, database, lambda: writer.recovered)


TURN_SECONDS: Final = 0.0005
"""How long a thread that works in Python keeps the interpreter while another wants it. With the
usual 5 ms a request that met a batch being written waited so long after each of its system calls:
5 in a hundred were 3 ms slower, with a ledger in PostgreSQL (measured)."""


def _calm_the_collector() -> None:
    """Keeps the garbage collector off what lives as long as the process.

    A look through all of that takes 19 ms (measured), in which nobody is served. What a request
    leaves is another matter: nothing (test_exchange.py). So there is little to find, and what is
    looked through in vain are requests in flight and rows that wait to be written.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


KEPT_FREE_BYTES: Final = 2_000_000
"""Blocks up to this size are taken from memory that was used before, and twice as much of that is
kept for the next; a long conversation is one, and its text is another. Picked."""


def keep_freed_memory() -> None:
    """Lets the C library keep the memory of large bodies for the next, instead of giving it back.

    Each page that was given back costs a fault and is cleared: 200 of them for an answer of 200 kB,
    an eighth of what it takes (measured). glibc follows the largest block that it was given back so
    far (mallopt(3), "dynamic mmap threshold"); this one is never touched, so it takes no memory.
    """
    bytes(KEPT_FREE_BYTES)


@asynccontextmanager
async def _open_watch(
    stopping: Stopping, signals: AsyncIterator[int], worker: "Worker | None"
) -> AsyncIterator[None]:
    """Watches for signals, and for a parent's word, until everything within is closed."""
    async with trio.open_nursery() as nursery:
        if worker is None:
            nursery.start_soon(stopping.watch, signals)
        else:
            nursery.start_soon(worker.run, stopping, signals)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_drains() -> AsyncIterator[trio.Nursery]:
    """The nursery of answers whose clients left; what still runs at the end is cancelled."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_mock(config: Config, mock: Mock | None) -> AsyncIterator[Config]:
    """The configuration, with every provider replaced by a mock of its name if so wished."""
    if mock is None:
        yield config
        return
    # Only who asks for mocks pays for them: half a megabyte.
    from arbstr.trio_runtime.mock.providers import MOCK_RATES, open_mock_providers

    names = [provider.name for provider in config.providers]
    async with open_mock_providers(names, delay=mock.delay, failing=mock.failing) as urls:
        providers = (
            # On loopback, where no proxy leads.
            replace(
                provider,
                url=urls[provider.name],
                proxy=None,
                asks_node=False,
                rates=provider.rates or (MOCK_RATES if provider.asks_node else None),
            )
            for provider in config.providers
        )
        yield replace(config, providers=tuple(providers))


async def _listen(host: str, port: int) -> list[EagerListener]:
    try:
        return [EagerListener(each) for each in await trio.open_tcp_listeners(port, host=host)]
    except OSError as error:
        raise cannot_listen(host, port, error) from None


def cannot_listen(host: str, port: int, error: OSError) -> StartError:
    """Why nobody can be served there, and what to do."""
    # Not os.strerror(errno): the numbers of a failed name lookup are not those of errno.
    reason = error.strerror or str(error)
    free_it = "stop the program that uses it, or " if error.errno == errno.EADDRINUSE else ""
    return StartError(
        (
            f"cannot listen on {host}:{port}: {reason}; {free_it}choose another address "
            "with [server] listen or -l HOST:PORT",
        )
    )


def base_url(address: tuple[Any, ...]) -> str:
    """Where a client reaches the socket of this address."""
    host, port = address[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(server: Server, finished: trio.Event) -> None:
    await server.serve()
    finished.set()

"""The `arbstr` command: what a person types and reads.

0    done
1    arbstr cannot start, or do what was asked: one clear line each on stderr; for `check` also what
     is wrong with the configuration
2    the command line is wrong (argparse)
78   the configuration cannot be used (EX_CONFIG of sysexits.h): a supervisor must not try again
130  stopped by a second Ctrl-C
"""

import argparse
import errno
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arbstr import __version__
from arbstr.cli.config_file import (
    DIRECTORY_GONE,
    HERE,
    LEVELS,
    config_path,
    described_budget,
    is_open,
    ledger_path,
    read_config,
    warnings_of,
)
from arbstr.cli.ledger_options import add_ledger_arguments, without_keys
from arbstr.cli.output import OutputError, complain, open_output
from arbstr.sansio.errors import ConfigError, StartError

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Config, ProviderConfig
    from arbstr.sansio.money import Rates

# The commands import what they need when they run: `arbstr --help` waits for no library.

CONFIGURATION: Final = 78

REMEDIES: Final = {
    errno.EMFILE: "raise the limit with `ulimit -n`",
    errno.ENFILE: "end programs that hold many files open",
    errno.ENOSPC: "free some space",
    errno.EACCES: "see who may use it",
    errno.EPERM: "see who may use it",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code. Raises SystemExit(2) for a wrong command line."""
    try:
        with open_output():
            return _obey(arguments)
    except OutputError as error:
        if error.is_left:
            return 0
        complain(f"cannot print: {error.strerror}")
        return 1


def _obey(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    command = {
        "run": _run,
        "serve": _run,
        "check": _check,
        "providers": _providers,
        "cost": _cost,
        "stats": _stats,
        "requests": _requests,
        "init": _init,
        "connect": _connect,
        "status": _status,
        "reconcile": _reconcile,
    }[options.command]
    try:
        return command(options, os.environ)
    except StartError as error:
        for problem in error.problems:
            complain(problem)
        # `check` has one answer to whatever is wrong, for scripts that ask it.
        is_config = isinstance(error, ConfigError) and command is not _check
        return CONFIGURATION if is_config else 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        complain(f"{options.command}: {_unexpected(error)}")
        return 1


def _unexpected(error: OSError) -> str:
    """What the system refused, to a command that did not reckon with it, and what to do."""
    try:
        os.getcwd()
    except OSError:
        return DIRECTORY_GONE
    what = f"{error.filename}: " if error.filename else ""
    remedy = REMEDIES.get(error.errno or 0, "see what the system says of it")
    return f"{what}{error.strerror or type(error).__name__}; {remedy}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arbstr",
        description="A local proxy: each LLM request goes to the cheapest provider that qualifies.",
    )
    parser.add_argument("--version", action="version", version=f"arbstr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", aliases=["serve"], help="start the proxy")
    check = commands.add_parser("check", help="check the configuration, without network")
    providers = commands.add_parser("providers", help="list the configured providers")
    cost = commands.add_parser("cost", help="what a chat would cost, and where; sends nothing")
    stats = commands.add_parser("stats", help="what was spent, on what, with whom")
    requests = commands.add_parser("requests", help="the last requests, or all about one of them")
    reconcile = commands.add_parser(
        "reconcile", help="ask the nodes what attempts cost that ended without word"
    )
    reconcile.add_argument(
        "--wait", action="store_true", help="until the nodes can say, seven minutes at most"
    )
    reconcile.add_argument("--json", action="store_true", help="for machines")
    init = commands.add_parser("init", help="write a first configuration")
    status = commands.add_parser("status", help="one line about the running arbstr")
    status.add_argument("--json", action="store_true", help="for machines")
    connect = commands.add_parser("connect", help="what to set in a client; writes nothing")
    check.add_argument(
        "--network", action="store_true", help="also ask nodes what they list and charge"
    )
    for command in (run, check, providers, cost, stats, requests, reconcile, init, connect, status):
        command.add_argument(
            "-c",
            "--config",
            metavar="PATH",
            help="the configuration (default: $ARBSTR_CONFIG, else ./config.toml, else "
            "arbstr/config.toml in your configuration directory)",
        )
    run.add_argument(
        "-l", "--listen", type=_address, metavar="HOST:PORT", help="overrides [server] listen"
    )
    run.add_argument("--log-level", choices=LEVELS, help="overrides $ARBSTR_LOG and [logging]")
    run.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="listen on more than loopback without [server] auth_token",
    )
    mock = run.add_argument_group("trying it out without network and money")
    mock.add_argument("--mock", action="store_true", help="replace every provider by a mock")
    mock.add_argument(
        "--mock-delay", type=_seconds, metavar="SECONDS", help="how long a mock thinks"
    )
    mock.add_argument(
        "--mock-fail",
        action="append",
        metavar="NAME",
        help="this mock answers 503 (repeatable)",
    )
    run.set_defaults(complain=run.error)
    _add_cost_arguments(cost)
    _add_connect_arguments(connect)
    add_ledger_arguments(stats, requests)
    return parser


def _address(text: str) -> str:
    from arbstr.sansio.config.addresses import parse_listen

    try:
        parse_listen(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 3600:
        raise ValueError  # argparse names the option and the text
    return seconds


_seconds.__name__ = "number of seconds from 0 to 3600"  # what argparse calls it in its error


# -- check and providers -------------------------------------------------------------------------


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.run_command import run

    return run(options, environ)


def _check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.node_prices import asked, described, known, problems

    path = config_path(options, environ)
    config = read_config(path, environ)
    from arbstr.trio_runtime.ledger.database import shown

    database = ledger_path(path, config, environ)
    print(f"{path}: ok")
    print(f"listen     {config.server.listen}")
    print(f"database   {shown(database)}")
    print(f"policies   {len(config.policies.rules)}")
    print(f"budget     {described_budget(config)}")
    print(f"providers  {len(config.providers)}")
    now, found = time.time(), known(database, config)
    faults: tuple[str, ...] = ()
    if options.network:
        found = asked(config, found)
        faults = tuple(problems(config, found, now))
    for provider in config.providers:
        print(
            f"  {provider.name}  {provider.endpoint.shown_endpoint}  "
            f"kind {provider.kind}  {_access(provider)}"
        )
        if options.network and provider.asks_node:
            print(
                *(f"    {line}" for line in described(config, found, provider.name, now)), sep="\n"
            )
    for warning in warnings_of(config, path):
        print(f"warning: {warning}")
    if is_open(config):
        print(
            f"warning: {config.server.listen} is open to other machines and there is no [server] "
            "auth_token; `arbstr run` refuses that without --allow-unauthenticated"
        )
    for fault in faults:
        complain(fault)
    return 1 if faults else 0


def _access(provider: "ProviderConfig") -> str:
    """With which key, through which proxy, and by which APIs if not by all."""
    proxy = "" if provider.proxy is None else f"  through {provider.proxy.shown}"
    return _key_status(provider) + proxy + _served_by(provider.endpoints)


def _served_by(endpoints: Sequence[str]) -> str:
    from arbstr.sansio.endpoints import ENDPOINTS

    return "" if tuple(endpoints) == ENDPOINTS else f"  serves {', '.join(endpoints)} only"


def _key_status(provider: "ProviderConfig") -> str:
    from arbstr.sansio.config.credentials import key_variable
    from arbstr.sansio.config.settings import BEARER

    if provider.api_key is None:
        return f"no key ({key_variable(provider.name)} is not set)"
    how = "" if provider.key_header == BEARER else f", sent as {provider.key_header}"
    return f"key {provider.api_key.masked()} (from {provider.key_source}{how})"


def _add_cost_arguments(cost: argparse.ArgumentParser) -> None:
    cost.add_argument("-m", "--model", help='the model, or "auto"; overrides the one in FILE')
    cost.add_argument("--policy", metavar="NAME", help="as in the header X-Arbstr-Policy")
    cost.add_argument("--json", action="store_true", help="print what POST /v1/cost answers")
    cost.add_argument(
        "--endpoint", metavar="NAME", help="whose request it is (default: told by its members)"
    )
    what = cost.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "file", nargs="?", metavar="FILE", help="the body of a request, or a text; - is stdin"
    )
    what.add_argument("--text", help="what the user says")
    cost.set_defaults(complain=cost.error)


def _add_connect_arguments(connect: argparse.ArgumentParser) -> None:
    connect.add_argument("name", nargs="?", metavar="NAME", help="of the client; without: a list")
    connect.add_argument("-m", "--model", help="the model it is to ask for")
    connect.add_argument(
        "--show-token", action="store_true", help="print the value of [server] auth_token, too"
    )
    connect.set_defaults(complain=connect.error)


def _connect(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.connect_command import run
    from arbstr.cli.node_prices import catalog_at

    config, database = _config_and_database(options, environ)
    return run(options, config, catalog_at(database, config), config_path(options, environ))


def _status(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.status_command import run

    config, _ = _config_and_database(options, environ)
    return run(options, config)


def _stats(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.ledger_commands import run_stats

    return run_stats(options, *_config_and_database(options, environ))


def _requests(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.ledger_commands import run_requests

    return run_requests(options, *_config_and_database(options, environ))


def _reconcile(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.reconcile_command import run

    path = config_path(options, environ)
    config = read_config(path, environ)
    return run(options, config, ledger_path(path, config, environ))


def _config_and_database(
    options: argparse.Namespace, environ: Mapping[str, str]
) -> "tuple[Config, str]":
    """Without a configuration the database is enough, and so is one whose keys are not set here."""
    from arbstr.sansio.config.reader import Config

    path = config_path(options, environ)
    named = options.config or environ.get("ARBSTR_CONFIG")
    if named or os.path.lexists(path):
        config = without_keys(partial(read_config, path), environ)
    else:
        config = Config()
    return config, ledger_path(path, config, environ)


def _init(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.first_config import run

    return run(Path(options.config or environ.get("ARBSTR_CONFIG") or HERE))


def _cost(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.cost_command import run

    path = config_path(options, environ)
    config = without_keys(partial(read_config, path), environ)  # it sends nothing
    return run(options, config, ledger_path(path, config, environ))


def _providers(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.node_prices import described, known

    path = config_path(options, environ)
    config = read_config(path, environ)
    now, found = time.time(), known(ledger_path(path, config, environ), config)
    for provider in config.providers:
        print(f"{provider.name}  {provider.endpoint.shown_url}  {_access(provider)}")
        if provider.asks_node:
            print(*(f"  {line}" for line in described(config, found, provider.name, now)), sep="\n")
            continue
        for model in provider.models:
            known_as = provider.model_ids.get(model)
            name = f"{model} (as {known_as})" if known_as else model
            own = provider.endpoints_for(model)
            served = "" if own == provider.endpoints else _served_by(own)
            print(f"  {name}  {_prices(provider.rates_for(model))}{served}")
    return 0


def _prices(rates: "Rates | None") -> str:
    from arbstr.sansio.money import format_eyes

    if rates is None:
        return "no rates: never the cheapest, refused under any cap or budget"
    cached, written = rates.cached_input_rate, rates.cache_write_rate
    parts = [
        f"in {format_eyes(rates.input_rate)}",
        f"out {format_eyes(rates.output_rate)}",
        *([f"cached in {format_eyes(cached)}"] if cached is not None else []),
        *([f"cache writes {format_eyes(written)}"] if written is not None else []),
    ]
    return f"{', '.join(parts)} sats per 1000 tokens; {format_eyes(rates.base_fee)} a request"

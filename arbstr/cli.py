"""The `arbstr` command: what a person types and reads.

0    done
1    the configuration cannot be used, or arbstr cannot start: one clear line each on stderr
2    the command line is wrong (argparse)
130  stopped by a second Ctrl-C
"""

import argparse
import logging
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arbstr import __version__
from arbstr.ledger_options import add_ledger_arguments, without_keys
from arbstr.sansio.errors import ConfigError

if TYPE_CHECKING:
    from arbstr.sansio.config import Config, ProviderConfig
    from arbstr.sansio.money import Rates
    from arbstr.trio_runtime.reload import Reading

# The commands import what they need when they run: `arbstr --help` waits for no library.

log = logging.getLogger("arbstr")

LEVELS: Final = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code. Raises SystemExit(2) for a wrong command line."""
    options = _parser().parse_args(arguments)
    try:
        command = {
            "run": _run,
            "serve": _run,
            "check": _check,
            "providers": _providers,
            "cost": _cost,
            "stats": _stats,
            "requests": _requests,
            "init": _init,
        }
        code = command[options.command](options, os.environ)
        print(end="", flush=True)  # here, where its failing can still be answered
    except ConfigError as error:
        for problem in error.problems:
            print(f"arbstr: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`arbstr providers | head -1`); nothing is wrong.
        _forget_output()
        return 0
    except OSError as error:
        print(f"arbstr: cannot print: {error.strerror}", file=sys.stderr)
        _forget_output()
        return 1
    return code


def _forget_output() -> None:
    """What could not be printed would be tried again, and complained of, when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    init = commands.add_parser("init", help="write a first configuration")
    for command in (run, check, providers, cost, stats, requests, init):
        command.add_argument(
            "-c",
            "--config",
            metavar="PATH",
            help="the configuration (default: $ARBSTR_CONFIG, else ./config.toml)",
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
    add_ledger_arguments(stats, requests)
    return parser


def _address(text: str) -> str:
    from arbstr.sansio.addresses import parse_listen

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


# -- the configuration -------------------------------------------------------------------------


def _config_path(options: argparse.Namespace, environ: Mapping[str, str]) -> Path:
    return Path(options.config or environ.get("ARBSTR_CONFIG") or "config.toml")


def _read_config(path: Path, environ: Mapping[str, str]) -> "Config":
    from arbstr.sansio.config import parse_config

    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            (
                f"{path.absolute()}: there is no such file; let `arbstr init` write a first one, "
                "name another with -c or $ARBSTR_CONFIG, or try `arbstr run --mock`, which needs "
                "none",
            )
        ) from None
    except UnicodeDecodeError:
        raise ConfigError((f"{path}: is not UTF-8; save it as UTF-8",)) from None
    except OSError as error:
        raise ConfigError(
            (f"{path}: cannot be read: {error.strerror}; mend that, or name another with -c",)
        ) from None
    config = parse_config(text, environ, name=str(path))
    if not config.providers:
        raise ConfigError(
            (
                f"{path}: providers: there are none; add a [[providers]] table "
                "(config.example.toml shows one)",
            )
        )
    return config


def _file_warning(path: Path) -> str | None:
    """A configuration holds keys; others on this machine should not read it."""
    if os.name != "posix":
        return None
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return f"{path}: others can read it (mode {mode:04o}); run `chmod 600 {path}`"
    return None


# -- run -----------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.sansio.catalog import build_catalog
    from arbstr.trio_runtime.database import IN_MEMORY, database_path
    from arbstr.trio_runtime.logs import configure_logging, flush_logging
    from arbstr.trio_runtime.main import Mock, Options, run

    if not options.mock and (options.mock_delay is not None or options.mock_fail):
        options.complain("--mock-delay and --mock-fail need --mock")
    read = partial(_reading_to_run, options, environ)
    reading = read()
    config = reading.config
    mock = None
    if options.mock:
        mock = Mock(options.mock_delay or 0.0, frozenset(options.mock_fail or ()))
    database = IN_MEMORY if mock else database_path(environ, config.database.path)
    configure_logging(reading.level, config.logging.format, build_catalog(config).secrets)

    def announce(url: str) -> None:
        for warning in reading.warnings:
            log.warning("%s", warning)
        flush_logging()  # a terminal shows both, and that it listens is the last word
        try:
            print(f"arbstr {__version__} listens on {url}")
            if mock:
                print("Mock providers answer: no network, no money, nothing is kept.")
            print(f"Point an OpenAI client at it: OPENAI_BASE_URL={url}/v1", flush=True)
        except OSError as error:
            log.warning("listens on %s, but cannot print so: %s", url, error.strerror)
            _forget_output()

    try:
        return run(config, Options(database, mock, None if mock else read), announce)
    finally:
        flush_logging()


def _reading_to_run(options: argparse.Namespace, environ: Mapping[str, str]) -> "Reading":
    """What is to be served, now or after a reload. Raises `ConfigError`."""
    from arbstr.trio_runtime.reload import Reading

    config, warnings = _config_to_run(options, environ)
    level = options.log_level or environ.get("ARBSTR_LOG") or config.logging.level
    if level not in LEVELS:
        raise ConfigError((f"ARBSTR_LOG must be one of {', '.join(LEVELS)}",))
    _check_runnable(config, options)
    return Reading(config, level, warnings)


def _config_to_run(
    options: argparse.Namespace, environ: Mapping[str, str]
) -> "tuple[Config, tuple[str, ...]]":
    from arbstr.sansio.config import parse_config

    if options.mock and not (options.config or environ.get("ARBSTR_CONFIG")):
        from arbstr.trio_runtime.mock import MOCK_CONFIG

        config = parse_config(MOCK_CONFIG, {}, name="the mock configuration")
        warnings: tuple[str, ...] = ()
    else:
        path = _config_path(options, environ)
        config = _read_config(path, environ)
        warnings = _warnings(config, path)
    if options.listen:
        config = replace(config, server=replace(config.server, listen=options.listen))
    if _is_open(config):
        warnings = (*warnings, f"anyone who can reach {config.server.listen} can spend your money")
    return config, warnings


def _is_open(config: "Config") -> bool:
    """Whether requests of other machines would be served, and without a token."""
    return not config.server.is_loopback and config.server.auth_token is None


def _check_runnable(config: "Config", options: argparse.Namespace) -> None:
    """What only matters when arbstr is to serve. Raises `ConfigError`."""
    names = {provider.name for provider in config.providers}
    unknown = sorted(set(options.mock_fail or ()) - names)
    if unknown:
        raise ConfigError(
            (
                f"--mock-fail {unknown[0]}: there is no such provider; "
                f"there are {', '.join(sorted(names))}",
            )
        )
    if options.allow_unauthenticated or not _is_open(config):
        return
    raise ConfigError(
        (
            f"listening on {config.server.listen} would let anyone who can reach this machine "
            "spend your money; set [server] auth_token, listen on 127.0.0.1, or say "
            "--allow-unauthenticated",
        )
    )


def _warnings(config: "Config", path: Path) -> tuple[str, ...]:
    about_file = _file_warning(path)
    return (*config.warnings, about_file) if about_file else config.warnings


# -- check and providers -------------------------------------------------------------------------


def _check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.trio_runtime.database import database_path

    path = _config_path(options, environ)
    config = _read_config(path, environ)
    database = database_path(environ, config.database.path)
    print(f"{path}: ok")
    print(f"listen     {config.server.listen}")
    print(f"database   {database}")
    print(f"policies   {len(config.policies.rules)} rules")
    print(f"budget     {_budget(config)}")
    print(f"providers  {len(config.providers)}")
    for provider in config.providers:
        print(
            f"  {provider.name}  {provider.endpoint.shown_endpoint}  "
            f"kind {provider.kind}  {_access(provider)}"
        )
    for warning in _warnings(config, path):
        print(f"warning: {warning}")
    if _is_open(config):
        print(
            f"warning: {config.server.listen} is open to other machines and there is no [server] "
            "auth_token; `arbstr run` refuses that without --allow-unauthenticated"
        )
    return 0


def _budget(config: "Config") -> str:
    from arbstr.sansio.money import format_sats

    limit = config.budget.sats_per_day
    return "none" if limit is None else f"{format_sats(limit)} sats a day (UTC)"


def _access(provider: "ProviderConfig") -> str:
    """With which key, and through which proxy."""
    proxy = "" if provider.proxy is None else f"  through {provider.proxy.shown}"
    return _key_status(provider) + proxy


def _key_status(provider: "ProviderConfig") -> str:
    from arbstr.sansio.credentials import key_variable

    if provider.api_key is None:
        return f"no key ({key_variable(provider.name)} is not set)"
    return f"key {provider.api_key.masked()} (from {provider.key_source})"


def _add_cost_arguments(cost: argparse.ArgumentParser) -> None:
    cost.add_argument("-m", "--model", help='the model, or "auto"; overrides the one in FILE')
    cost.add_argument("--policy", metavar="NAME", help="as in the header X-Arbstr-Policy")
    cost.add_argument("--json", action="store_true", help="print what POST /v1/cost answers")
    what = cost.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "file", nargs="?", metavar="FILE", help="the body of a chat, or the text of one; - is stdin"
    )
    what.add_argument("--text", help="what the user says")
    cost.set_defaults(complain=cost.error)


def _stats(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.ledger_commands import run_stats

    return run_stats(options, *_config_and_database(options, environ))


def _requests(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.ledger_commands import run_requests

    return run_requests(options, *_config_and_database(options, environ))


def _config_and_database(
    options: argparse.Namespace, environ: Mapping[str, str]
) -> "tuple[Config, str]":
    """Without a configuration the database is enough, and so is one whose keys are not set here."""
    from arbstr.sansio.config import Config
    from arbstr.trio_runtime.database import database_path

    path = _config_path(options, environ)
    named = options.config or environ.get("ARBSTR_CONFIG")
    if named or path.exists():
        config = without_keys(partial(_read_config, path), environ)
    else:
        config = Config()
    return config, database_path(environ, config.database.path)


def _init(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.first_config import run

    return run(_config_path(options, environ))


def _cost(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cost_command import run
    from arbstr.trio_runtime.database import database_path

    config = _read_config(_config_path(options, environ), environ)
    return run(options, config, database_path(environ, config.database.path))


def _providers(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    path = _config_path(options, environ)
    config = _read_config(path, environ)
    for provider in config.providers:
        print(f"{provider.name}  {provider.endpoint.shown_url}  {_access(provider)}")
        for model in provider.models:
            known_as = provider.model_ids.get(model)
            name = f"{model} (as {known_as})" if known_as else model
            print(f"  {name}  {_prices(provider.rates_for(model))}")
    return 0


def _prices(rates: "Rates | None") -> str:
    from arbstr.sansio.money import format_sats

    if rates is None:
        return "no rates: never the cheapest, refused under any cap or budget"
    cached = rates.cached_input_rate
    parts = [
        f"in {format_sats(rates.input_rate)}",
        f"out {format_sats(rates.output_rate)}",
        *([f"cached in {format_sats(cached)}"] if cached is not None else []),
    ]
    return f"{', '.join(parts)} sats per 1000 tokens; {format_sats(rates.base_fee)} a request"

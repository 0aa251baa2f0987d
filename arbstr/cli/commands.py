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
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arbstr.cli.command_line import parser
from arbstr.cli.config_file import (
    DIRECTORY_GONE,
    HERE,
    config_path,
    ledger_path,
    read_config,
    without_keys,
)
from arbstr.cli.output import OutputError, complain, open_output
from arbstr.sansio.errors import ConfigError, StartError

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Config

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
    if not (sys.argv[1:] if arguments is None else arguments):
        print(_next_steps(os.environ))
        return 0
    options = parser().parse_args(arguments)
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
        "watch": _watch,
        "doctor": _doctor,
        "reconcile": _reconcile,
        "discover": _discover,
        "backup": _backup,
        "import": _import,
        "migrate": _migrate,
        "help": _help,
        "completion": _completion,
        "service": _service,
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


def _next_steps(environ: Mapping[str, str]) -> str:
    """What to do next, for who typed nothing but the name."""
    path = config_path(argparse.Namespace(config=None), environ)
    if os.path.lexists(path):
        steps = {
            "arbstr run": f"start it, by {path}",
            "arbstr connect": "what to set in your client",
            "arbstr watch": "see what it does, live",
            "arbstr stats": "see what was spent, and on what",
            "arbstr doctor": "see what is wrong",
        }
    else:
        steps = {
            "arbstr run --mock": "try it: no configuration, no network, no money",
            "arbstr init": f"write a first configuration, {HERE}",
            "arbstr doctor": "see what is wrong with it",
            "arbstr run": "start it",
        }
    steps |= {"arbstr help": "the manual", "arbstr --help": "all commands"}
    lines = [f"  {command:<18}{does}" for command, does in steps.items()]
    what = "arbstr sends each LLM request to the cheapest provider that qualifies. Next:"
    return "\n".join([what, *lines])


def _unexpected(error: OSError) -> str:
    """What the system refused, to a command that did not reckon with it, and what to do."""
    try:
        os.getcwd()
    except OSError:
        return DIRECTORY_GONE
    what = f"{error.filename}: " if error.filename else ""
    remedy = REMEDIES.get(error.errno or 0, "see what the system says of it")
    return f"{what}{error.strerror or type(error).__name__}; {remedy}"


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.run_command import run

    return run(options, environ)


def _check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.check_command import run

    return run(options, environ)


def _connect(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.connect_command import run
    from arbstr.cli.node_prices import catalog_at

    config, database = _config_and_database(options, environ)
    return run(options, config, catalog_at(database, config))


def _status(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.status_command import run

    config, _ = _config_and_database(options, environ)
    return run(options, config)


def _doctor(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.doctor.command import run

    return run(options, environ)


def _watch(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.watch.command import run

    config, _ = _config_and_database(options, environ)
    return run(options, config)


def _stats(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.ledger_commands import run_stats

    return run_stats(options, *_config_and_requests(options, environ))


def _requests(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.ledger_commands import run_requests

    return run_requests(options, *_config_and_requests(options, environ))


def _service(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.service_command import run

    path = config_path(options, environ)
    return run(options, without_keys(partial(read_config, path), environ), path)


def _completion(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.completion_command import run

    return run(options)


def _help(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.help_command import run

    return run(options, environ)


def _reconcile(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.reconcile_command import run

    path = config_path(options, environ)
    config = read_config(path, environ)
    return run(options, config, ledger_path(path, config, environ))


def _discover(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.discover_command import run

    return run(options)


def _backup(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.backup_command import run

    _, database = _config_and_database(options, environ)
    return run(options, database)


def _import(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.import_command import run

    _, database = _config_and_database(options, environ)
    return run(options, database)


def _migrate(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.migrate_command import run

    _, database = _config_and_database(options, environ)
    return run(options, database)


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


def _config_and_requests(
    options: argparse.Namespace, environ: Mapping[str, str]
) -> "tuple[Config, str]":
    """The same, but for who has asked mocks alone until now: what that would have cost."""
    from arbstr.cli import mock_ledger
    from arbstr.trio_runtime.ledger.database import IN_MEMORY, is_shared

    config, place = _config_and_database(options, environ)
    if options.mock:
        found = mock_ledger.latest(anywhere=True)
        if found is None:
            raise StartError(("no `arbstr run --mock` was here: start one, and ask it something",))
        return config, found
    if not is_shared(place) and place != IN_MEMORY and _is_missing(place):
        found = mock_ledger.latest(anywhere=False)
        if found is not None:
            complain(f"there is no {place} yet; these are the requests of `arbstr run --mock`")
            return config, found
    return config, place


def _is_missing(path: str) -> bool:
    """Whether it is known not to be there: what may not be looked at may well be."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _init(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    path = Path(options.config or environ.get("ARBSTR_CONFIG") or HERE)
    if any(each is not None for each in (options.url, options.key_env, options.proxy)):
        if options.url is None or options.key_env is None:
            options.complain("--url and --key-env belong together, and --proxy to both")
        from arbstr.cli.init_asked import run as ask
        from arbstr.cli.init_asked import what_is_wrong

        if wrong := what_is_wrong(options.url, options.key_env, options.proxy):
            options.complain(wrong)
        return ask(path, options.url, options.key_env, environ, proxy=options.proxy)
    from arbstr.cli.first_config import run

    return run(path)


def _cost(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.cost_command import run

    path = config_path(options, environ)
    config = without_keys(partial(read_config, path), environ)  # it sends nothing
    return run(options, config, ledger_path(path, config, environ))


def _providers(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from arbstr.cli.providers_command import run

    return run(options, environ)

"""The command line: which commands there are, and what each takes.

Every command needs this and none waits here for a library: what a value must look like beyond its
type is checked where it is used.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Final, NoReturn

from arbstr import __version__
from arbstr.cli.config_file import LEVELS
from arbstr.cli.ledger_options import requests_arguments, stats_arguments


class Parser(argparse.ArgumentParser):
    """argparse's, which lists what would do, and does not tell what is near."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with 2."""
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong is not None:
            names = [name.strip("' ") for name in wrong[2].split(",")]
            for near in get_close_matches(wrong[1], names, 1):
                message += f'; did you mean "{near}"?'
        super().error(message)


def parser() -> Parser:
    """Of all commands. What it leaves has `command`, and `complain` where more can be wrong."""
    whole = Parser(
        prog="arbstr",
        description="A local proxy: each LLM request goes to the cheapest provider that qualifies.",
    )
    whole.add_argument("--version", action="version", version=f"arbstr {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (does, add_arguments) in COMMANDS.items():
        command = commands.add_parser(name, aliases=ALIASES.get(name, ()), help=does)
        if name not in WITHOUT_CONFIGURATION:
            command.add_argument(
                "-c",
                "--config",
                metavar="PATH",
                help="the configuration (default: $ARBSTR_CONFIG, else ./config.toml, else "
                "arbstr/config.toml in your configuration directory)",
            )
        command.set_defaults(complain=command.error)
        add_arguments(command)
    return whole


def _run(run: Parser) -> None:
    run.add_argument(
        "-l", "--listen", type=_address, metavar="HOST:PORT", help="overrides [server] listen"
    )
    run.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="so many processes serve the address (default: [server] workers, else 1)",
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


def _address(text: str) -> str:
    from arbstr.sansio.config.addresses import parse_listen

    try:
        parse_listen(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _workers(text: str) -> int:
    from arbstr.sansio.config.settings import MOST_WORKERS

    # int() takes "1_0" and digits of other scripts, too.
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_WORKERS:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MOST_WORKERS}")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError("must be a number of seconds from 0 to 3600")


def _check(check: Parser) -> None:
    check.add_argument(
        "--network", action="store_true", help="also ask nodes what they list and charge"
    )


def _cost(cost: Parser) -> None:
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


def _connect(connect: Parser) -> None:
    connect.add_argument("name", nargs="?", metavar="NAME", help="of the client; without: a list")
    connect.add_argument("-m", "--model", help="the model it is to ask for")
    connect.add_argument(
        "--show-token", action="store_true", help="print the value of [server] auth_token, too"
    )


def _reconcile(reconcile: Parser) -> None:
    reconcile.add_argument(
        "--wait", action="store_true", help="until the nodes can say, seven minutes at most"
    )
    _json(reconcile)


def _discover(discover: Parser) -> None:
    source = discover.add_mutually_exclusive_group()
    source.add_argument(
        "--directory",
        metavar="URL",
        help="an HTTP directory, or a node that keeps one at /v1/providers/",
    )
    source.add_argument(
        "--relay",
        action="append",
        metavar="URL",
        help="a Nostr relay, wss://... (repeatable; default: three that nodes announce at)",
    )
    discover.add_argument(
        "-m",
        "--model",
        action="append",
        default=[],
        help="show what it costs, and only who serves it (repeatable)",
    )
    discover.add_argument(
        "--proxy", metavar="URL", help="ask through it: socks5://127.0.0.1:9050 is Tor"
    )


def _backup(backup: Parser) -> None:
    backup.add_argument("file", metavar="FILE", help="where the copy is to be")
    backup.add_argument("--force", action="store_true", help="replace FILE if it is there")


def _import(import_: Parser) -> None:
    import_.add_argument(
        "file", metavar="FILE", help="a log with lines `row dropped: {...}`; - is stdin"
    )


def _completion(completion: Parser) -> None:
    completion.add_argument("shell", choices=SHELLS, help="whose script it is to be")


def _init(init: Parser) -> None:
    init.add_argument("--url", help="of a node or endpoint that is asked what it lists")
    init.add_argument("--key-env", metavar="VARIABLE", help="that has the key for it")
    init.add_argument("--proxy", metavar="URL", help="by which it is reached, now and later")


def _service(service: Parser) -> None:
    service.add_argument(
        "--supervisor", choices=("systemd", "launchd"), help="default: launchd on macOS"
    )


def _help(help_: Parser) -> None:
    help_.add_argument("topic", nargs="?", metavar="TOPIC", help="of the page; without: a list")


def _migrate(migrate: Parser) -> None:
    migrate.add_argument(
        "--from", dest="source", metavar="PLACE", help="a file or postgresql://... (default: yours)"
    )
    migrate.add_argument(
        "--to", dest="target", metavar="PLACE", required=True, help="where it is to be"
    )


def _json(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="for machines")


def _none(command: Parser) -> None:
    """Takes nothing but a configuration."""


SHELLS: Final = ("bash", "zsh", "fish")

WITHOUT_CONFIGURATION: Final = frozenset({"completion", "help", "discover"})
"""Those that need to know nothing of it."""

ALIASES: Final = {"run": ("serve",)}

COMMANDS: Final[Mapping[str, tuple[str, Callable[[Parser], None]]]] = {
    "run": ("start the proxy", _run),
    "check": ("check the configuration, without network", _check),
    "providers": ("list the configured providers", _none),
    "cost": ("what a chat would cost, and where; sends nothing", _cost),
    "stats": ("what was spent, on what, with whom", stats_arguments),
    "requests": ("the last requests, or all about one of them", requests_arguments),
    "reconcile": ("ask the nodes what attempts cost that ended without word", _reconcile),
    "discover": ("which Routstr nodes there are, as TOML to paste; adds nothing", _discover),
    "backup": ("copy the ledger, also while it is in use", _backup),
    "import": ("put rows into the ledger that it could not take, from the log", _import),
    "migrate": ("move the ledger to PostgreSQL, or to another file", _migrate),
    "init": ("write a first configuration", _init),
    "status": ("one line about the running arbstr", _json),
    "doctor": ("what is wrong, and what to do about it; costs nothing", _json),
    "watch": ("the running arbstr, live: requests, spending, providers", _none),
    "connect": ("what to set in a client; writes nothing", _connect),
    "service": ("a unit for systemd or launchd that runs this arbstr", _service),
    "completion": ("a script that completes what one types to arbstr", _completion),
    "help": ("the manual: what arbstr does and why, a page a question", _help),
}
"""What each does, and what it takes beside `-c`."""

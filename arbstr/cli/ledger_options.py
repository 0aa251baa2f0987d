"""What `arbstr stats` and `arbstr requests` take from the command line.

Apart from `ledger_commands.py`, because every command needs the parser and none needs to wait for
the libraries that only these two use.
"""

import argparse


def stats_arguments(stats: argparse.ArgumentParser) -> None:
    """The parameters of /v1/stats; their values are checked where theirs are."""
    _which(stats)
    stats.add_argument(
        "--group-by",
        metavar="model|provider|policy|endpoint|hour|day|week|month|...",
        help="or two of them: day,model",
    )
    stats.add_argument(
        "--before", metavar="true|false", help="with --json: compare with the span before"
    )
    stats.add_argument("--csv", action="store_true", help="the groups, or the sums, as CSV")


def requests_arguments(requests: argparse.ArgumentParser) -> None:
    """Those of /v1/requests."""
    _which(requests)
    requests.add_argument("id", nargs="?", metavar="ID", help="its beginning or end will do")
    for option, values in (
        ("--success", "true|false"),
        ("--streaming", "true|false"),
        ("--status", "ok|failed|..."),
        ("--unknown-cost", "true|false"),
        ("--sort", "timestamp|cost_sats|latency_ms"),
        ("--order", "asc|desc"),
        ("--page", "N"),
        ("--per-page", "N"),
    ):
        requests.add_argument(option, metavar=values)


def _which(command: argparse.ArgumentParser) -> None:
    which = command.add_argument_group("which requests (default: of the last 7 days)")
    which.add_argument(
        "--range",
        metavar="today|yesterday|this_week|last_week|this_month|last_month|last_7d|...",
        help="or any number of hours, days or weeks: 12h, 90d, 2w",
    )
    which.add_argument("--since", metavar="TIME", help="like 2026-02-03 or 2026-02-03T04:05Z")
    which.add_argument("--until", metavar="TIME", help="and of before that time")
    which.add_argument(
        "--zone", metavar="NAME", help="whose days these are, like Europe/Berlin (default: UTC)"
    )
    which.add_argument(
        "--local", dest="zone", action="store_const", const="local", help="days of this machine's"
    )
    which.add_argument("--model", metavar="ID")
    which.add_argument("--provider", metavar="NAME")
    which.add_argument("--policy", metavar="NAME")
    which.add_argument("--endpoint", metavar="chat|responses|...")
    command.add_argument("--json", action="store_true", help="print what the route answers")
    command.add_argument(
        "--mock", action="store_true", help="the requests of the last `arbstr run --mock`"
    )

"""`arbstr check`: the configuration, without network unless it is asked for; 1 for any fault."""

import argparse
import time
from collections.abc import Mapping

from arbstr.cli.cells import filled, terminal_width
from arbstr.cli.config_file import (
    check_workers,
    config_path,
    described_budget,
    is_open,
    ledger_path,
    log_level,
    read_config,
    warnings_of,
)
from arbstr.cli.node_prices import accounts_of, asked, described, known, problems
from arbstr.cli.output import complain
from arbstr.cli.provider_text import access
from arbstr.sansio.endpoints import PATHS
from arbstr.trio_runtime.ledger.database import shown


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Prints what arbstr would do with it. Raises `StartError`."""
    path = config_path(options, environ)
    config = read_config(path, environ)
    database = ledger_path(path, config, environ)
    check_workers(config, database)
    log_level(config, environ)
    print(f"{path}: ok")
    print(f"listen     {config.server.listen}")
    print(f"database   {shown(database)}")
    print(f"policies   {len(config.policies.rules)}")
    print(f"budget     {described_budget(config)}")
    if config.server.workers > 1:
        print(f"workers    {config.server.workers}")
    print(f"providers  {len(config.providers)}")
    now, found = time.time(), known(database, config)
    faults: tuple[str, ...] = ()
    if options.network:
        found = asked(config, found)
        faults = tuple(problems(config, found, now))
    width = terminal_width()

    def say(text: str, indent: str = "") -> None:
        print(*filled(indent, text, width, hang=2), sep="\n")

    for provider in config.providers:
        url = f"{provider.endpoint.shown_base}{PATHS[provider.endpoints[0]]}"
        say(f"{provider.name}  {url}  kind {provider.kind}  {access(provider)}", "  ")
        if options.network and provider.asks_node:
            for line in accounts_of(found, provider.name):
                say(line, "    ")
            for line in described(config, found, provider.name, now):
                say(line, "    ")
    for warning in warnings_of(config, path):
        say(f"warning: {warning}")
    if is_open(config):
        say(
            f"warning: {config.server.listen} is open to other machines and there is no [server] "
            "auth_token; `arbstr run` refuses that without --allow-unauthenticated"
        )
    for fault in faults:
        complain(fault)
    return 1 if faults else 0

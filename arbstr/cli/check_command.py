"""`arbstr check`: the configuration, without network unless it is asked for; 1 for any fault."""

import argparse
import time
from collections.abc import Mapping

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
    for provider in config.providers:
        print(
            f"  {provider.name}  {provider.endpoint.shown_base}{PATHS[provider.endpoints[0]]}  "
            f"kind {provider.kind}  {access(provider)}"
        )
        if options.network and provider.asks_node:
            for line in accounts_of(found, provider.name):
                print(f"    {line}")
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

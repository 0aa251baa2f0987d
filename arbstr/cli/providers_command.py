"""`arbstr providers`: who is configured, with which models and prices."""

import argparse
import time
from collections.abc import Mapping
from functools import partial

from arbstr.cli.cells import filled, terminal_width
from arbstr.cli.config_file import config_path, ledger_path, read_config, without_keys
from arbstr.cli.node_prices import accounts_of, described, known
from arbstr.cli.provider_text import access, served_by
from arbstr.sansio.money import Rates, format_eyes


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Prints it. Raises `StartError`."""
    path = config_path(options, environ)
    config = without_keys(partial(read_config, path), environ)  # it sends nothing
    now, found = time.time(), known(ledger_path(path, config, environ), config)
    width = terminal_width()

    def say(text: str, indent: str = "  ") -> None:
        print(*filled(indent, text, width, hang=2), sep="\n")

    for provider in config.providers:
        say(f"{provider.name}  {provider.endpoint.shown_url}  {access(provider)}", "")
        for line in accounts_of(found, provider.name):
            say(line)
        if provider.asks_node:
            for line in described(config, found, provider.name, now):
                say(line)
            continue
        for model in provider.named:
            known_as = provider.model_ids.get(model)
            name = f"{model} (as {known_as})" if known_as else model
            own = provider.endpoints_for(model)
            served = "" if own == provider.endpoints else served_by(own)
            say(f"{name}  {_prices(provider.rates_for(model))}{served}")
    return 0


def _prices(rates: Rates | None) -> str:
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

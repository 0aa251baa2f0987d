"""`arbstr doctor`: what is wrong, and what to do about it; 1 if anything is. Costs nothing."""

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence

import trio

from arbstr.cli.cells import filled, terminal_width
from arbstr.cli.config_file import (
    absolute,
    config_path,
    described_budget,
    is_open,
    ledger_path,
    read_config,
    warnings_of,
)
from arbstr.cli.doctor import machine
from arbstr.cli.doctor.findings import Finding, Grade, fault, note, of_problem, ok, server_findings
from arbstr.cli.doctor.providers import ask_providers
from arbstr.cli.node_prices import asked, known, problems
from arbstr.cli.routes import LATE, PATIENCE_SECONDS, Report, Routes
from arbstr.sansio.config.reader import Config
from arbstr.sansio.errors import StartError
from arbstr.trio_runtime.ledger.sqlite import SQLITE_VERSION
from arbstr.trio_runtime.upstream.transport import Transport


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Prints what is found; returns the exit code."""
    found = list(examined(options, environ))
    faults = sum(each.grade is Grade.FAULT for each in found)
    notes = sum(each.grade is Grade.NOTE for each in found)
    if options.json:
        report = {"ok": not faults, "findings": [each.as_json() for each in found]}
        print(json.dumps(report, indent=2))
        return 1 if faults else 0
    width = terminal_width()
    for each in found:
        print(*_lines(each, width), sep="\n")
    print(f"{faults} {'fault' if faults == 1 else 'faults'}, {notes} to look at")
    return 1 if faults else 0


def examined(options: argparse.Namespace, environ: Mapping[str, str]) -> Iterable[Finding]:
    """All that can be found; without a configuration, what is wrong with that."""
    yield machine.versions(SQLITE_VERSION)
    path = config_path(options, environ)
    try:
        config = read_config(path, environ)
        place = ledger_path(path, config, environ)
    except StartError as error:
        for problem in error.problems:
            yield of_problem("configuration", problem, "correct it; arbstr check tells when it is")
        return
    yield ok(
        "configuration",
        f"{absolute(path)}: {len(config.providers)} providers, budget {described_budget(config)}",
    )
    for warning in warnings_of(config, path):
        yield note("configuration", warning, "mend it, or leave it if it is meant so")
    if is_open(config):
        yield fault(
            "configuration",
            f"{config.server.listen} is open to other machines, without [server] auth_token",
            "set one, or listen on 127.0.0.1",
        )
    yield from machine.limits()
    books = machine.books(place, config)
    yield from books.findings
    yield from _server(config)
    by_provider = trio.run(ask_providers, config, books.spent)
    for provider in config.providers:
        yield from by_provider[provider.name]
    if any(provider.asks_node for provider in config.providers):
        for problem in problems(config, asked(config, known(place, config)), time.time()):
            about, _, says = problem.partition(": ")
            yield fault(about, says, "correct models, typed rates (they are ceilings), or the url")


def _server(config: Config) -> Iterable[Finding]:
    where = config.server.listen
    if config.server.listen_port == 0:
        yield note("arbstr", f"{where} leaves the port open", "set one in [server] listen")
        return
    health = trio.run(_health, config)
    gone = isinstance(health, str) and health.startswith("could not be reached")
    yield from server_findings(where, health, machine.in_the_way(config) if gone else None)


async def _health(config: Config) -> Report | str:
    with trio.move_on_after(PATIENCE_SECONDS):
        async with Transport() as transport:
            return await Routes(transport, config).get("/health")
    return LATE


def _lines(finding: Finding, width: int) -> Sequence[str]:
    """One finding. `width` is that of the terminal, 0 without one: then nothing is broken."""
    grade = f"{finding.grade.value:<6} "
    lines = filled(grade, f"{finding.about}: {finding.says}", width)
    if finding.remedy is not None:
        lines += filled(" " * len(grade), f"-> {finding.remedy}", width)
    return lines

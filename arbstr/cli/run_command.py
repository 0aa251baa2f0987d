"""`arbstr run`: from the command line and the configuration to a proxy that serves."""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Final

from arbstr import __version__
from arbstr.cli import mock_ledger
from arbstr.cli.config_file import (
    NOT_SET,
    absolute,
    check_workers,
    config_path,
    described_budget,
    file_warning,
    is_open,
    ledger_path,
    log_level,
    read_config,
    warnings_of,
    without_keys,
)
from arbstr.cli.output import OutputError, no_such
from arbstr.sansio.config.reader import ANY_MODEL, Config, parse_config
from arbstr.sansio.errors import ConfigError
from arbstr.sansio.routing.catalog import build_catalog
from arbstr.trio_runtime.ledger.database import IN_MEMORY, shown
from arbstr.trio_runtime.logs import configure_logging, flush_logging
from arbstr.trio_runtime.main import Mock, Options
from arbstr.trio_runtime.main import run as serve
from arbstr.trio_runtime.reload import Reading
from arbstr.trio_runtime.stopping import leave_when_told_again

log = logging.getLogger("arbstr")

MOCK: Final = "Mock providers answer: no network, no money, nothing is kept."

MOCK_KEPT: Final = (
    "Mock providers answer: no network, no money. What it would have cost: arbstr stats --mock"
)

SHOWN_NAMES: Final = 10
"""Names that a line shows of a list; there may be hundreds."""


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serves until it is stopped; returns the exit code. Raises `StartError`."""
    if options.mock and options.workers is not None:
        options.complain("--workers needs a ledger on disk, and --mock keeps none")
    if not options.mock and (options.mock_delay is not None or options.mock_fail):
        options.complain("--mock-delay and --mock-fail need --mock")
    path = None if _is_without_file(options, environ) else config_path(options, environ)
    read = partial(_reading_to_run, path, options, environ)
    reading = read()
    config = reading.config
    mock = None
    if options.mock:
        mock = Mock(options.mock_delay or 0.0, frozenset(options.mock_fail or ()))
    database = mock_ledger.begin() if mock or path is None else ledger_path(path, config, environ)
    check_workers(config, database)
    configure_logging(reading.level, config.logging.format, build_catalog(config).secrets)

    described = tuple(_described(path, config, None if mock else database))
    about_ledger = None if database == IN_MEMORY else file_warning(Path(database))

    def announce(url: str) -> None:
        for warning in (*reading.warnings, *([about_ledger] if about_ledger else ())):
            log.warning("%s", warning)
        flush_logging()  # a terminal shows both, and that it listens is the last word
        try:
            print(f"arbstr {__version__} listens on {url}")
            if mock:
                print(MOCK if database == IN_MEMORY else MOCK_KEPT)
            print(*described, sep="\n")
            print(f"Point an OpenAI client at it: OPENAI_BASE_URL={url}/v1")
            print(
                f"an Anthropic client: ANTHROPIC_BASE_URL={url}; any other: arbstr connect",
                flush=True,
            )
        except OutputError as error:
            log.warning("listens on %s, but cannot print so: %s", url, error.strerror)

    what = Options(database, mock, None if mock else read)
    try:
        leave_when_told_again()
        if config.server.workers == 1:
            return serve(config, what, announce)
        from arbstr.trio_runtime.workers import run as serve_with_others

        return serve_with_others(config, what, announce)
    finally:
        flush_logging()


def _is_without_file(options: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    """Whether the mocks are those of arbstr itself: their configuration is in no file."""
    return bool(options.mock and not (options.config or environ.get("ARBSTR_CONFIG")))


def _described(path: Path | None, config: Config, database: str | None) -> Iterator[str]:
    """What is served, and where it is kept: each question somebody has asked of a running one."""
    if path is not None:
        yield f"configuration  {absolute(path)}"
    if database is not None:
        yield f"ledger         {'in memory' if database == IN_MEMORY else shown(database)}"
    models = list(build_catalog(config).models())
    if any(ANY_MODEL in provider.models for provider in config.providers):
        models.append("any other")
    yield f"providers      {_listed([provider.name for provider in config.providers])}"
    yield f"models         {_listed(models)}"
    yield f"budget         {described_budget(config)}"
    if config.server.workers > 1:
        yield f"workers        {config.server.workers}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_NAMES])
    return f"{len(names)}: {shown}{', ...' if len(names) > SHOWN_NAMES else ''}"


def _reading_to_run(
    path: Path | None, options: argparse.Namespace, environ: Mapping[str, str]
) -> Reading:
    """What is to be served, now or after a reload. Raises `StartError`."""
    config, warnings = _config_to_run(path, options, environ)
    level = log_level(config, environ, options.log_level)
    _check_runnable(config, options)
    return Reading(config, level, warnings)


def _config_to_run(
    path: Path | None, options: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[Config, tuple[str, ...]]:
    if path is None:
        from arbstr.trio_runtime.mock.providers import MOCK_CONFIG  # half a megabyte

        config = parse_config(MOCK_CONFIG, {}, name="the mock configuration")
        warnings: tuple[str, ...] = ()
    else:
        read = partial(read_config, path)
        # Mocks are sent no key; a token is asked of whoever calls, so it must be one.
        config = without_keys(read, environ) if options.mock else read(environ)
        token = config.server.auth_token
        if token is not None and NOT_SET in token.reveal():
            config = read(environ)
        warnings = warnings_of(config, path)
    if options.listen:
        config = replace(config, server=replace(config.server, listen=options.listen))
    # The mocks, and the ledger in memory beside them, are one process's.
    workers = 1 if options.mock else options.workers
    if workers is not None:
        config = replace(config, server=replace(config.server, workers=workers))
    if is_open(config):
        warnings = (*warnings, f"anyone who can reach {config.server.listen} can spend your money")
    return config, warnings


def _check_runnable(config: Config, options: argparse.Namespace) -> None:
    """What only matters when arbstr is to serve. Raises `ConfigError`."""
    names = {provider.name for provider in config.providers}
    unknown = sorted(set(options.mock_fail or ()) - names)
    if unknown:
        near = get_close_matches(unknown[0][:100], sorted(names), n=1)
        options.complain(f"--mock-fail: {no_such('provider', unknown[0], near, sorted(names))}")
    if options.allow_unauthenticated or not is_open(config):
        return
    raise ConfigError(
        (
            f"listening on {config.server.listen} would let anyone who can reach this machine "
            "spend your money; set [server] auth_token, listen on 127.0.0.1, or say "
            "--allow-unauthenticated",
        )
    )

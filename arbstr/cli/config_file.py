"""The configuration as a file: which one, what it says, and who else may read it."""

import argparse
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final, overload

from arbstr.sansio.errors import ConfigError, StartError

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Config

# What parses is imported when it is needed: `arbstr --help` waits for no library.

LEVELS: Final = ("debug", "info", "warning", "error")
"""Of the log, by the command line, $ARBSTR_LOG and [logging] level."""

HERE: Final = Path("config.toml")

MOST_CHARACTERS: Final = 64 * 1024 * 1024
"""Of a configuration: a hundred times what all models there are take. /dev/zero never ends."""

NOT_SET: Final = "A-VARIABLE-THAT-IS-NOT-SET"
"""Stands for the value of a variable that only a running proxy needs."""

T = TypeVar("T")

DIRECTORY_GONE: Final = (
    "the current directory does not exist any more; change to another one, or give absolute paths"
)


def config_path(options: argparse.Namespace, environ: Mapping[str, str]) -> Path:
    """Which file: `-c`, else `$ARBSTR_CONFIG`, else `./config.toml`, else the user's own."""
    if named := options.config or environ.get("ARBSTR_CONFIG"):
        return Path(named)
    own = user_config(environ)
    # A dangling link is no reason to look elsewhere.
    return own if own and os.path.lexists(own) and not os.path.lexists(HERE) else HERE


def user_config(environ: Mapping[str, str]) -> Path | None:
    """`arbstr/config.toml` in the user's configuration directory, if there is one to be told.

    That is `%APPDATA%` on Windows; elsewhere, macOS too, `$XDG_CONFIG_HOME`, or `~/.config` where
    it is not set or, against its specification, relative.
    """
    if os.name == "nt":
        base = environ.get("APPDATA", "")
    else:
        base = environ.get("XDG_CONFIG_HOME", "")
        if not os.path.isabs(base):
            base = os.path.join(environ.get("HOME", ""), ".config")
    return Path(base, "arbstr", "config.toml") if os.path.isabs(base) else None


def absolute(path: Path) -> Path:
    """The path from the root. Raises `StartError` if that cannot be told."""
    try:
        return path.absolute()
    except OSError:
        raise StartError((DIRECTORY_GONE,)) from None


def ledger_path(path: Path, config: "Config", environ: Mapping[str, str]) -> str:
    """Where the ledger is, absolute, or its URL; `path` is that of the configuration.

    `[database] path` is relative to the configuration, whatever directory arbstr is started in;
    `$DATABASE_URL`, which is said there, to that directory. Raises `StartError`.
    """
    from arbstr.sansio.config.ledger_url import is_ledger_url
    from arbstr.trio_runtime.ledger.database import IN_MEMORY, database_path

    configured = config.database.path
    if config.database.url is not None:
        beside = config.database.url.reveal()
    else:
        beside = configured if configured == IN_MEMORY else str(path.parent / configured)
    found = database_path(environ, beside)
    return found if found == IN_MEMORY or is_ledger_url(found) else str(absolute(Path(found)))


def read_config(path: Path, environ: Mapping[str, str]) -> "Config":
    """What it says, with a provider at least. Raises `StartError`."""
    from arbstr.sansio.config.reader import parse_config

    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        own = user_config(environ)
        nor = f", nor {own}" if own and path == HERE and not os.path.lexists(own) else ""
        there = "" if path == HERE else f" -c {shlex.quote(str(path))}"
        raise ConfigError(
            (
                f"{absolute(path)}: there is no such file{nor}; let `arbstr init{there}` write a "
                "first one, name another with -c or $ARBSTR_CONFIG, or try `arbstr run --mock`, "
                "which needs none",
            )
        ) from None
    except UnicodeDecodeError:
        raise ConfigError((f"{path}: is not UTF-8; save it as UTF-8",)) from None
    except OSError as error:
        raise ConfigError(
            (f"{path}: cannot be read: {error.strerror}; mend that, or name another with -c",)
        ) from None
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            (f"{path}: is no configuration, but something far larger; name another with -c",)
        )
    config = parse_config(text, environ, name=str(path))
    if not config.providers:
        raise ConfigError(
            (
                f"{path}: providers: there are none; add a [[providers]] table "
                "(`arbstr init -c PATH` writes examples)",
            )
        )
    return config


def without_keys(
    read: "Callable[[Mapping[str, str]], Config]", environ: Mapping[str, str]
) -> "Config":
    """The configuration, though the variables of its keys may not be set.

    Who asks what was spent is often not in the shell that arbstr was started from. `read` takes an
    environment; what it raises with all variables that are set is raised.
    """
    try:
        config = read(_AnyVariable(environ))
    except ConfigError:
        return read(environ)
    url = config.database.url
    where = config.database.path if url is None else url.reveal()
    return read(environ) if NOT_SET in where else config


@final
class _AnyVariable(Mapping[str, str]):
    """An environment in which every variable is set that somebody wants; who only looks whether
    there is one (`get`) finds those that are."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        return self._environ.get(name, NOT_SET)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)

    @overload
    def get(self, key: str, /) -> str | None: ...
    @overload
    def get(self, key: str, default: str | T, /) -> str | T: ...
    def get(self, key: str, default: T | str | None = None, /) -> str | T | None:
        """As it is."""
        return self._environ.get(key, default)


def file_warning(path: Path) -> str | None:
    """A configuration holds keys, a ledger what was asked when and of whom: others on this machine
    should not read them."""
    if os.name != "posix":
        return None
    try:
        found = path.stat().st_mode
    except OSError:
        return None  # there is none, or it is about to say so itself
    mode = stat.S_IMODE(found)
    if stat.S_ISREG(found) and mode & 0o077:  # a pipe of the shell or a device is nobody's to lock
        return f"{path}: others can read it (mode {mode:04o}); run `chmod 600 {path}`"
    return None


def warnings_of(config: "Config", path: Path) -> tuple[str, ...]:
    """What may not be meant, in it and about it."""
    about_file = file_warning(path)
    return (*config.warnings, about_file) if about_file else config.warnings


def check_workers(config: "Config", database: str) -> None:
    """What several processes need, if there are to be any. Raises `StartError`."""
    from arbstr.trio_runtime.ledger.database import IN_MEMORY

    if config.server.workers == 1:
        return
    if not hasattr(os, "fork"):
        raise ConfigError(("several workers need a system that forks; run one: --workers 1",))
    if database == IN_MEMORY:
        raise ConfigError(
            (
                "a ledger in memory belongs to one process: give [database] path, or run one "
                "worker: --workers 1",
            )
        )


def log_level(config: "Config", environ: Mapping[str, str], given: str | None = None) -> str:
    """Of the log; `given` on the command line. Raises `StartError`."""
    level = given or environ.get("ARBSTR_LOG") or config.logging.level
    if level not in LEVELS:
        raise ConfigError((f"ARBSTR_LOG must be one of {', '.join(LEVELS)}",))
    return level


def is_open(config: "Config") -> bool:
    """Whether requests of other machines would be served, and without a token."""
    return not config.server.is_loopback and config.server.auth_token is None


def described_budget(config: "Config") -> str:
    """What may be spent, for a person."""
    from arbstr.sansio.money import format_sats

    limit = config.budget.sats_per_day
    return "none" if limit is None else f"{format_sats(limit)} sats a day (UTC)"

"""The configuration as a file: which one, what it says, and who else may read it."""

import argparse
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arbstr.sansio.errors import ConfigError

if TYPE_CHECKING:
    from arbstr.sansio.config import Config

# What parses is imported when it is needed: `arbstr --help` waits for no library.

LEVELS: Final = ("debug", "info", "warning", "error")
"""Of the log, by the command line, $ARBSTR_LOG and [logging] level."""


def config_path(options: argparse.Namespace, environ: Mapping[str, str]) -> Path:
    """Which file: `-c`, else `$ARBSTR_CONFIG`, else `./config.toml`."""
    return Path(options.config or environ.get("ARBSTR_CONFIG") or "config.toml")


def read_config(path: Path, environ: Mapping[str, str]) -> "Config":
    """What it says, with a provider at least. Raises `ConfigError`."""
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


def warnings_of(config: "Config", path: Path) -> tuple[str, ...]:
    """What may not be meant, in it and about it."""
    about_file = _file_warning(path)
    return (*config.warnings, about_file) if about_file else config.warnings


def is_open(config: "Config") -> bool:
    """Whether requests of other machines would be served, and without a token."""
    return not config.server.is_loopback and config.server.auth_token is None

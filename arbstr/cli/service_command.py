"""`arbstr service`: what a supervisor is told to run this arbstr with this configuration.

It prints a unit for systemd's user manager, or a property list for launchd; it writes no files.
"""

import argparse
import plistlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arbstr.sansio.config.credentials import key_variable
from arbstr.sansio.errors import StartError

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Config

ENVIRONMENT: Final = ".config/arbstr/environment"
"""Below the home directory: NAME=VALUE, a line each, with the keys."""

LABEL: Final = "arbstr"

STOP_MARGIN: Final = 15
"""Seconds a stop may take beyond `shutdown_seconds`, in which the ledger is written."""


def run(options: argparse.Namespace, config: "Config", path: Path) -> int:
    """Prints it; returns the exit code. Raises `StartError` for what a service cannot read."""
    if not path.is_file():
        raise StartError((f"{path}: is no file that a service could read; name one with -c",))
    kind = options.supervisor or ("launchd" if sys.platform == "darwin" else "systemd")
    command = [sys.executable, "-m", "arbstr", "run", "-c", str(path.absolute())]
    names = _names(config)
    seconds = round(config.server.shutdown_seconds) + STOP_MARGIN
    if kind == "systemd":
        print(unit(command, path.absolute().parent, names, seconds), end="")
    else:
        print(property_list(command, path.absolute().parent, names, seconds), end="")
    return 0


def _names(config: "Config") -> list[str]:
    """The variables that arbstr is to find: what the file takes values from, and the keys that are
    in this shell's environment."""
    found = (each.name for each in config.providers if each.key_source == "environment")
    return list(dict.fromkeys((*config.variables, *map(key_variable, found))))


def unit(command: list[str], directory: Path, names: list[str], seconds: int) -> str:
    """For `~/.config/systemd/user/arbstr.service`."""
    keys = f" {', '.join(names)} belong there, a line NAME=VALUE each;" if names else ""
    return f"""\
# ~/.config/systemd/user/arbstr.service; then: systemctl --user enable --now arbstr
# To have it run while nobody is logged in: loginctl enable-linger
[Unit]
Description=arbstr, a local proxy to LLM providers

[Service]
ExecStart={" ".join(map(_quoted, command))}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={str(directory).replace("%", "%%")}
#{keys} chmod 600
EnvironmentFile=-%h/{ENVIRONMENT}
Restart=on-failure
# 78: the configuration cannot be used, and trying again does not help.
RestartPreventExitStatus=78
# The first process hears the signal; it ends the others when requests in flight are done.
KillMode=mixed
TimeoutStopSec={seconds}
UMask=0077

[Install]
WantedBy=default.target
"""


def _quoted(word: str) -> str:
    """One word of systemd's command lines, in which $, % and backslashes mean something."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def property_list(command: list[str], directory: Path, names: list[str], seconds: int) -> str:
    """For `~/Library/LaunchAgents/arbstr.plist`; launchd itself reads no file of variables."""
    if names:
        file = f'"$HOME/{ENVIRONMENT}"'
        command = ["/bin/sh", "-c", f"set -a; . {file}; exec {shlex.join(command)}"]
    told = {
        "Label": LABEL,
        "ProgramArguments": command,
        "WorkingDirectory": str(directory),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": seconds,
        "Umask": 0o077,
        "StandardErrorPath": str(Path.home() / "Library" / "Logs" / "arbstr.log"),
    }
    return plistlib.dumps(told, sort_keys=False).decode()

"""`arbstr service`: what it prints is what systemd and launchd take."""

import os
import plistlib
import re
import shlex
import subprocess
import sys
import threading
from configparser import ConfigParser
from pathlib import Path
from shutil import which

import pytest

from arbstr.cli.commands import main
from tests.process import PATIENCE, write_config

KEYED = """
[server]
shutdown_seconds = 40
[[providers]]
name = "alpha"
url = "http://127.0.0.1:9/v1"
api_key = "${ALPHA_KEY}"
models = ["m"]
"""


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["service", *words]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_a_unit_names_this_installation_and_this_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALPHA_KEY", raising=False)  # it needs none
    path = write_config(tmp_path, KEYED)
    unit = printed(capsys, "-c", str(path), "--supervisor", "systemd")
    assert f'ExecStart="{sys.executable}" "-m" "arbstr" "run" "-c" "{path}"\n' in unit
    assert "# ALPHA_KEY belong there" in unit
    assert "RestartPreventExitStatus=78\n" in unit
    assert "TimeoutStopSec=55\n" in unit
    assert f"WorkingDirectory={tmp_path}\n" in unit


def test_a_unit_names_the_variables_that_are_used_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = KEYED.replace("ALPHA", "BETA").partition("[[")[2].replace('"alpha"', '"gamma"')
    keyless = "[[" + "\n".join(line for line in more.splitlines() if "api_key" not in line)
    path = write_config(tmp_path, f'{KEYED}# auth_token = "${{IN_A_COMMENT}}"\n{keyless}\n')
    monkeypatch.setenv("ARBSTR_GAMMA_API_KEY", "a-key")
    unit = printed(capsys, "-c", str(path), "--supervisor", "systemd")
    assert "# ALPHA_KEY, ARBSTR_GAMMA_API_KEY belong there" in unit
    assert "IN_A_COMMENT" not in unit


def test_a_unit_is_one_where_systemd_is_not_there_to_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, KEYED)
    unit = ConfigParser(strict=True, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(printed(capsys, "-c", str(path), "--supervisor", "systemd"))
    assert unit.sections() == ["Unit", "Service", "Install"]
    service = unit["Service"]
    command = shlex.split(service["ExecStart"])
    assert command == [sys.executable, "-m", "arbstr", "run", "-c", str(path)]
    assert {*service} == {
        *("ExecStart", "ExecReload", "WorkingDirectory", "EnvironmentFile", "Restart"),
        *("RestartPreventExitStatus", "KillMode", "TimeoutStopSec", "UMask"),
    }
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["UMask"] == "0077"
    assert unit["Install"]["WantedBy"] == "default.target"


@pytest.mark.skipif(which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit_whatever_the_path_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / 'a $HOME of 100% "quotes"'
    odd.mkdir()
    path = write_config(odd, KEYED)
    file = tmp_path / "arbstr.service"
    file.write_text(printed(capsys, "-c", str(path), "--supervisor", "systemd"), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(file)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert not re.search(r"arbstr\.service", done.stderr), done.stderr


def test_launchd_gets_a_property_list_that_reads_the_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, KEYED)
    told = plistlib.loads(printed(capsys, "-c", str(path), "--supervisor", "launchd").encode())
    assert told["Label"] == "arbstr"
    assert told["KeepAlive"] == {"SuccessfulExit": False}
    shell, option, line = told["ProgramArguments"]
    assert (shell, option) == ("/bin/sh", "-c")
    home = tmp_path / "home"
    (home / ".config" / "arbstr").mkdir(parents=True)
    (home / ".config" / "arbstr" / "environment").write_text("ALPHA_KEY='a-key'\n", "utf-8")
    check = line.replace(" run -c ", " check -c ")
    assert check != line
    done = subprocess.run([shell, option, check], capture_output=True, env={"HOME": str(home)})
    assert done.returncode == 0, done.stderr


def test_a_broken_configuration_is_no_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, "[server]\nlisten = 1\n")
    assert main(["service", "-c", str(path)]) == 78
    assert capsys.readouterr().out == ""


def test_what_is_gone_with_this_shell_is_no_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "as of <(...)"
    os.mkfifo(pipe)
    thread = threading.Thread(target=pipe.write_text, args=(KEYED,))
    thread.start()
    assert main(["service", "-c", str(pipe)]) == 1
    thread.join()
    printed = capsys.readouterr()
    assert (printed.out, "is no file that a service could read" in printed.err) == ("", True)

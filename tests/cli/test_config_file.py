"""Which configuration and which ledger, wherever one stands; and how a command ends without."""

import json
import os
from pathlib import Path
from typing import Final

import pytest

from arbstr.cli import commands as cli
from arbstr.cli.config_file import user_config
from tests.ledgers import request, write_ledger
from tests.process import ONE, arbstr_process, run_arbstr, write_config

POSIX: Final = pytest.mark.skipif(os.name != "posix", reason="the rules of POSIX")


def named(place: Path, name: str) -> Path:
    """A configuration whose provider has this name."""
    place.mkdir(parents=True, exist_ok=True)
    return write_config(place, ONE.replace("alpha", name))


def provider_of(*arguments: str, directory: Path, **environ: str) -> str:
    done = run_arbstr("providers", *arguments, directory=directory, environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()[0]


@POSIX
def test_the_configuration_is_searched_in_four_places(tmp_path: Path) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    named(home / ".config" / "arbstr", "of-home")
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": ""}
    assert provider_of(directory=here, **environ) == "of-home"
    named(tmp_path / "xdg" / "arbstr", "of-xdg")
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert provider_of(directory=here, **environ) == "of-xdg"
    named(here, "of-here")
    assert provider_of(directory=here, **environ) == "of-here"
    environ["ARBSTR_CONFIG"] = str(named(tmp_path / "named", "of-variable"))
    assert provider_of(directory=here, **environ) == "of-variable"
    path = named(tmp_path / "option", "of-option")
    assert provider_of("-c", str(path), directory=here, **environ) == "of-option"


@POSIX
def test_a_relative_directory_of_the_user_is_none(tmp_path: Path) -> None:
    assert user_config({"XDG_CONFIG_HOME": "x", "HOME": "/h"}) == Path(
        "/h/.config/arbstr/config.toml"
    )
    assert user_config({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/arbstr/config.toml")
    assert user_config({}) is None


@POSIX
def test_a_dangling_link_is_no_reason_to_look_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(tmp_path / "arbstr", "of-user")
    monkeypatch.chdir(tmp_path)
    Path("config.toml").symlink_to("nothing")
    done = run_arbstr("check", directory=tmp_path, environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert f"{tmp_path}/config.toml: there is no such file; let" in done.stderr


def test_a_relative_ledger_lies_beside_its_configuration(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for path, ledger in (("", "arbstr.db"), ('path = "deep/a.db"', "deep/a.db")):
        config = write_config(there, f"[database]\n{path}\n{ONE}")
        for name in (str(config), "../there/config.toml"):
            done = run_arbstr("check", "-c", name, directory=here)
            (line,) = [line for line in done.stdout.splitlines() if line.startswith("database")]
            place = there if name == str(config) else here / ".." / "there"
            assert line.split() == ["database", str(place / ledger)]


def test_what_a_variable_names_is_relative_to_where_one_stands(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    config = write_config(tmp_path, ONE)
    done = run_arbstr(
        "check", "-c", str(config), directory=here, environ={"DATABASE_URL": "sqlite:///a.db"}
    )
    assert f"database   {here}/a.db\n" in done.stdout


def test_an_absolute_ledger_is_where_it_says(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    config = write_config(tmp_path, f"[database]\npath = '{here}/a.db'\n{ONE}")
    assert f"database   {here}/a.db\n" in run_arbstr("check", "-c", str(config)).stdout


def test_run_and_the_questions_mean_one_ledger_wherever_they_are_asked(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    config = write_config(there, ONE)
    with arbstr_process(directory=here, arguments=["-c", str(config)]) as process:
        process.database = there / "arbstr.db"
        process.chat("m")
        process.wait_rows(1)
        assert process.stop() == 0
    assert not any(here.iterdir())
    for arguments in (("stats",), ("requests",)):
        done = run_arbstr(*arguments, "--json", "-c", str(config))
        report = json.loads(done.stdout)
        assert report["data" if arguments == ("requests",) else "counts"]


def test_without_a_configuration_the_ledger_of_the_directory_is_asked(tmp_path: Path) -> None:
    write_ledger(tmp_path / "arbstr.db", [request("0a1b2c3d")])
    done = run_arbstr("requests", "--json", "--since", "2020-01-01", directory=tmp_path)
    assert len(json.loads(done.stdout)["data"]) == 1


def test_run_says_what_it_was_told_and_where_it_writes(tmp_path: Path) -> None:
    text = f"[budget]\nsats_per_day = 50\n{ONE}" + "".join(
        ONE.replace("alpha", f"p{n}").replace('"m"', f'"m{n}", "*"') for n in range(10)
    )
    config = write_config(tmp_path, text)
    with arbstr_process(arguments=["-c", str(config)]) as process:
        process.database = tmp_path / "arbstr.db"
        assert process.stop() == 0
        lines = process.stdout().splitlines()
    assert lines[0].endswith(f"listens on {process.url}")
    assert lines[1:-2] == [
        f"configuration  {config}",
        f"ledger         {tmp_path}/arbstr.db",
        "providers      11: alpha, p0, p1, p2, p3, p4, p5, p6, p7, p8, ...",
        "models         12: m, m0, m1, m2, m3, m4, m5, m6, m7, m8, ...",
        "budget         50 sats a day (UTC)",
    ]
    assert lines[-2] == f"Point an OpenAI client at it: OPENAI_BASE_URL={process.base_url}"
    assert lines[-1] == (
        f"an Anthropic client: ANTHROPIC_BASE_URL={process.url}; any other: arbstr connect"
    )


@pytest.mark.parametrize("kept", [True, False])
def test_the_mocks_say_what_there_is_and_what_is_kept(kept: bool, tmp_path: Path) -> None:
    # A file in its way: there is no room for the ledger of the mocks.
    name = f"arbstr-mock-{os.getuid()}" if hasattr(os, "getuid") else "arbstr-mock"
    if not kept:
        (tmp_path / name).touch()
    with arbstr_process(arguments=["--mock"], environ={"TMPDIR": str(tmp_path)}) as process:
        assert process.stop() == 0
        lines = process.stdout().splitlines()
    assert lines[1] == (
        "Mock providers answer: no network, no money. What it would have cost: arbstr stats --mock"
        if kept
        else "Mock providers answer: no network, no money, nothing is kept."
    )
    assert (tmp_path / name).is_dir() is kept
    assert lines[2] == "providers      2: mock-cheap, mock-expensive"
    assert not any(line.startswith(("configuration", "ledger")) for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run",), 78),
        (("serve",), 78),
        (("providers",), 78),
        (("cost", "-m", "m", "--text", "x"), 78),
        (("stats",), 78),
        (("requests",), 78),
        (("check",), 1),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_configuration_that_cannot_be_used_ends_with_78_and_check_with_1(
    arguments: tuple[str, ...], code: int
) -> None:
    done = run_arbstr(*arguments, config_text="[sever]\n")
    assert (done.returncode, done.stdout) == (code, "")
    assert 'sever is not a known key; did you mean "server"?' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("environ", "code"),
    [
        ({"ARBSTR_CONFIG": "nowhere.toml"}, 78),
        ({"DATABASE_URL": "mysql://x/y"}, 78),
        ({"ARBSTR_LOG": "loud"}, 78),
        ({"DATABASE_URL": "/nowhere/at/all.db"}, 1),
    ],
)
def test_what_a_variable_says_is_configuration_and_what_lies_there_is_not(
    environ: dict[str, str], code: int
) -> None:
    done = run_arbstr("run", "-l", "127.0.0.1:0", config_text=ONE, environ=environ)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1


def test_what_sends_nothing_needs_no_key() -> None:
    text = f'{ONE}api_key = "${{A_KEY_THAT_IS_NOT_SET_HERE}}"\n'
    done = run_arbstr("cost", "-m", "m", "--text", "x", config_text=text)
    assert (done.returncode, done.stderr) == (0, "")
    assert "alpha" in done.stdout


def test_init_writes_here_though_the_user_has_a_configuration_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(tmp_path / "arbstr", "of-user")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ARBSTR_CONFIG", raising=False)
    assert cli.main(["init"]) == 0
    assert Path("config.toml").is_file()

"""The README's tables are the tables of the code.

To renew them after a change: `ARBSTR_WRITE_README=1 python -m pytest tests/test_readme.py`.
"""

import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from arbstr.cli.clients import CLIENTS
from arbstr.cli.commands import main
from arbstr.cli.connect_command import client_table, told
from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.failover.evidence import failure_table
from arbstr.sansio.failover.last_word import last_word_table
from arbstr.sansio.failover.verdicts import verdict_table
from arbstr.sansio.routing.lease import lease_table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

TABLES = {
    "leases": lease_table,
    "failures": failure_table,
    "verdicts": verdict_table,
    "last words": last_word_table,
    "clients": client_table,
}


def with_table(text: str, name: str, table: str) -> str:
    """The README with one generated table in its place."""
    pattern = re.compile(rf"(<!-- generated: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    renewed, places = pattern.subn(lambda match: f"{match[1]}{table.strip()}\n{match[2]}", text)
    assert places == 1, f"README.md has {places} places for the table of {name}"
    return renewed


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_shows_the_table_the_code_obeys(name: str) -> None:
    text = README.read_text("utf-8")
    renewed = with_table(text, name, TABLES[name]())
    if os.environ.get("ARBSTR_WRITE_README"):
        README.write_text(renewed, "utf-8")
    else:
        assert text == renewed


def test_the_configuration_of_the_readme_is_one() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        assert tomllib.loads(block)
        parse_config(block, {"ALPHA_KEY": "a-key-of-a-test"})


def test_every_command_of_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"run", "serve", "check", "providers", "cost", "stats", "requests", "init"}
    names |= {"connect", "status"}
    commands = set(re.findall(rf"arbstr ({'|'.join(names)})\b", README.read_text("utf-8")))
    assert commands == names
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        capsys.readouterr()


def test_what_arbstr_cost_prints_is_what_the_readme_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = re.search(r"```\n\$ arbstr (cost .*)\n([^`]*)```", README.read_text("utf-8"))
    assert shown is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHA_KEY", "a-key-of-a-test")
    monkeypatch.setenv("ARBSTR_CONFIG", str(ROOT / "config.example.toml"))
    assert main(shlex.split(shown[1])) == 0
    assert capsys.readouterr().out == shown[2]


@pytest.mark.parametrize("name", ["claude-code", "codex"])
def test_a_client_is_connected_as_the_readme_shows(name: str) -> None:
    (client,) = (each for each in CLIENTS if each.name == name)
    text = README.read_text("utf-8")
    section = text.partition(f"### With {client.title}\n")[2]
    block = re.search(r"```\n(.*?)\n```", section, re.DOTALL)
    assert block is not None
    assert block[1] == told(client, "http://127.0.0.1:8080", None, ["gpt-4o"])
    prose = " ".join(section[block.end() :].split())
    assert prose.startswith(" ".join(client.notes))

"""`arbstr completion`: what real shells make of it."""

import subprocess
from shutil import which

import pytest

from arbstr.cli.clients import CLIENTS
from arbstr.cli.completion_command import bash, fish, zsh
from arbstr.cli.grammar import commands
from arbstr.cli.help_command import TOPICS
from tests.process import PATIENCE, clean_environ

ASKED = {
    "arbstr ": {command.name for command in commands()} | {"serve", "--version", "--help"},
    "arbstr st": {"stats", "status"},
    "arbstr check --n": {"--network"},
    "arbstr stats --range t": {"today", "this_week", "this_month"},
    "arbstr stats --group-by m": {"model", "month"},
    "arbstr run --log-level ": {"debug", "info", "warning", "error"},
    "arbstr serve --log-level w": {"warning"},
    "arbstr help fail": {"failing-over"},
    "arbstr connect claude": {"claude-code"},
    "arbstr completion ": {"bash", "zsh", "fish", "-h", "--help"},
    "arbstr stats --provider ": set(),
    "arbstr nonsense ": set(),
}
"""What is offered for a line that is being typed."""

FIRST = """
COMP_WORDS=(%s) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_arbstr
printf '%%s\\n' "${COMPREPLY[@]}"
"""


def run(*command: str, script: str) -> str:
    done = subprocess.run(
        command,
        input=script,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=clean_environ({"TERM": "dumb"}),
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def in_bash(line: str) -> set[str]:
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    quoted = " ".join(f"'{word}'" for word in words)
    printed = run("bash", "--norc", "-s", script=bash() + FIRST % quoted)
    return {word for word in printed.splitlines() if word}


@pytest.mark.parametrize("line", ASKED)
def test_bash_offers_what_may_follow(line: str) -> None:
    assert in_bash(line) == ASKED[line]


@pytest.mark.skipif(which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize("line", ASKED)
def test_fish_offers_what_may_follow(line: str) -> None:
    printed = run("fish", "--no-config", script=f'{fish()}\ncomplete -C "{line}"\n')
    offered = {row.split("\t")[0] for row in printed.splitlines()}
    # It shows options once a dash is typed, and those of every command together with its own.
    wanted = {word for word in ASKED[line] if not word.startswith("-") or "-" in line.split()[-1]}
    assert offered == wanted


@pytest.mark.skipif(which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize("line", ASKED)
def test_zsh_offers_what_may_follow(line: str) -> None:
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    quoted = " ".join(f"'{word}'" for word in words)
    # Its completion needs a terminal; what it would be told is caught here.
    caught = (
        "compdef() { }; _files() { }\n"
        "compadd() { shift; print -l -- ${(M)@:#$words[CURRENT]*} }\n"
        f"{zsh()}\nwords=({quoted}) CURRENT={len(words)}\n_arbstr\n"
    )
    printed = run("zsh", "-f", "-s", script=caught)
    assert {word for word in printed.splitlines() if word} == ASKED[line]


@pytest.mark.parametrize("script", [bash, zsh, fish])
def test_nothing_of_the_command_line_is_left_out(script: object) -> None:
    assert callable(script)
    text = script()
    for command in commands():
        assert command.name in text
        for argument in command.arguments:
            assert all(flag.lstrip("-") in text for flag in argument.flags)
    for name in (*TOPICS, *(client.name for client in CLIENTS)):
        assert name in text

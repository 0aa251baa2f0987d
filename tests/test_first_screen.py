"""What the README and the pages let a person type is run here, beside `arbstr run --mock`.

From a bare machine, the installation and the port included, .ci/first_screen.py follows the README.
"""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile, which
from typing import Final

import pytest

from arbstr.cli.command_line import parser
from arbstr.cli.commands import main
from tests.ledgers import write_ledger
from tests.pages import README, ROOT, Block, blocks, named
from tests.process import PATIENCE, ArbstrProcess, arbstr_process, clean_environ
from tests.weeks import a_week

SHOWN: Final = "http://127.0.0.1:8080"
"""Where the pages find arbstr; here it has a port of its own."""

INSTALLS: Final = "python3 -m venv .venv && "
"""How the lines begin that .ci/run executes as they are."""

STAYS: Final = "arbstr run"
"""What goes on until it is stopped."""


@pytest.fixture(scope="module")
def mock() -> Iterator[ArbstrProcess]:
    with arbstr_process(arguments=["--mock"]) as process:
        yield process
        assert process.stop() == 0


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with the example as configuration, and a ledger."""
    monkeypatch.chdir(tmp_path)
    for name in {*os.environ} - {*clean_environ()}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALPHA_KEY", "a-key-of-a-test")
    copyfile(ROOT / "config.example.toml", "config.toml")
    write_ledger(Path("arbstr.db"), a_week())


def lines(block: Block) -> list[str]:
    """Those that are typed, whole."""
    return [line for line in block.text.replace("\\\n", "").splitlines() if line.strip()]


@pytest.mark.parametrize("block", [*blocks("sh")], ids=str)
def test_every_line_can_be_typed(block: Block, mock: ArbstrProcess) -> None:
    for line in lines(block):
        words = shlex.split(line, comments=True)
        if line.startswith(INSTALLS):
            continue  # the test below says which
        if line.startswith(STAYS):
            assert parser().parse_args(words[1:]).command == "run"
        elif words[0] == "arbstr":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                assert main(words[1:]) == 0, line
            assert printed.getvalue()
        elif which(words[0]) is not None or words[0] == "eval":
            done = run("bash", "-ec", line.replace(SHOWN, mock.url), PATH=path())
            assert done.stdout or words[0] == "eval"
            answered(line, done.stdout)


def path() -> str:
    """Where the shell finds this arbstr first."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def run(*command: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """To its end, which is a good one."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=clean_environ(more)
    )
    assert done.returncode == 0, done.stderr
    return done


def answered(line: str, printed: str) -> None:
    """That the answer is one: curl ends with 0 after an error, too."""
    if line.startswith("curl"):
        assert '"error": {' not in printed
        body = printed.replace("\r\n", "\n").rpartition("\n\n")[2] if "-i" in line else printed
        assert json.loads(body)


@pytest.mark.parametrize("block", [*blocks("python")], ids=str)
def test_a_program_runs(block: Block, mock: ArbstrProcess) -> None:
    done = run(sys.executable, "-c", block.text.replace(SHOWN, mock.url))
    assert re.search(r"\nmock-cheap [0-9.]+ sats\n$", done.stdout)


def test_the_lines_to_start_with_are_the_first_screen() -> None:
    """.ci/run executes both as they are, and finds the second by how it ends."""
    shown = [line for block in blocks("sh") if block.page == README for line in lines(block)]
    first, tests = (line for line in shown if line.startswith(INSTALLS))
    assert first.endswith("&& .venv/bin/arbstr run --mock")
    assert tests.endswith(" -m pytest")
    assert README.read_text("utf-8").count("\n") < 100


def test_a_stream_tells_its_cost_as_the_page_shows(mock: ArbstrProcess) -> None:
    (shown,) = (block for block in blocks("text") if block.page == named("answers"))
    streamed = mock.chat("gpt-4o", stream=True).text
    tail = json.loads(streamed.partition("data: [DONE]")[2].partition("data: ")[2])
    said = json.loads(shown.text.removeprefix("data: ").replace("...", "null"))
    assert {*said} == {*tail}
    assert {*said["arbstr"]} == {*tail["arbstr"]}


def test_no_text_block_is_held_by_nobody() -> None:
    """The other is the picture of the house, in test_readme.py."""
    assert {block.page.stem for block in blocks("text")} == {"answers", "house"}

"""What the README and the pages say is what the code does.

To renew tables and outputs after a change: `ARBSTR_WRITE_README=1 python -m pytest
tests/test_readme.py`, and read what has become of them.
"""

import os
import re
import shlex
import sqlite3
import tomllib
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from shutil import copyfile
from typing import Final

import pytest

from arbstr.cli.commands import main
from arbstr.cli.connect_command import client_table
from arbstr.cli.grammar import command_table, commands
from arbstr.cli.help_command import TOPICS, page_table, question
from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.failover.evidence import failure_table
from arbstr.sansio.failover.last_word import last_word_table
from arbstr.sansio.failover.verdicts import verdict_table
from arbstr.sansio.fates import silence_table, workers_table
from arbstr.sansio.routing.lease import lease_table
from tests.ledgers import write_ledger
from tests.pages import DOCS, PAGES, README, ROOT, Block, anchors, blocks, links, named
from tests.process import clean_environ
from tests.weeks import a_week

IS_WRITING: Final = "ARBSTR_WRITE_README" in os.environ  # before a test takes it away

TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "pages": page_table,
    "clients": client_table,
    "commands": command_table,
    "failures": failure_table,
    "verdicts": verdict_table,
    "last words": last_word_table,
    "leases": lease_table,
    "workers": workers_table,
    "silences": silence_table,
}

KEYS: Final = {"ALPHA_KEY": "a-key-of-a-test", "BETA_KEY": "another-one"}

HELD_ELSEWHERE: Final = {"sh", "python", "text"}
"""Blocks that other tests hold, each of which counts them: test_first_screen.py, and below."""


@pytest.mark.parametrize("name", TABLES)
def test_a_page_shows_the_table_the_code_obeys(name: str) -> None:
    pattern = re.compile(rf"(<!-- generated: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    places = [page for page in PAGES if pattern.search(page.read_text("utf-8"))]
    assert len(places) == 1, f"the table of {name} belongs onto one page, not {len(places)}"
    text = places[0].read_text("utf-8")
    table = TABLES[name]().strip()
    renewed = pattern.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)
    if IS_WRITING:
        places[0].write_text(renewed, "utf-8")
    else:
        assert text == renewed


def test_no_table_is_repeated() -> None:
    """Nor a line of one: what two pages say the same way, one of them will say wrongly."""
    rows = [
        line
        for page in PAGES
        for line in page.read_text("utf-8").splitlines()
        if line.startswith("| ") and line.count("|") > 2 and line not in ("| command | |",)
    ]
    assert len(rows) == len(set(rows))


def test_every_page_is_a_topic_with_a_title_and_a_question() -> None:
    assert {path.stem for path in PAGES if path != README} == set(TOPICS)
    for topic in TOPICS:
        title, empty, asked, below = named(topic).read_text("utf-8").splitlines()[:4]
        assert title.startswith("# ")
        assert (empty, below) == ("", "")
        assert asked == question(topic)
        assert asked.endswith("?")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        if path.startswith("https://"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), path
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_every_block_is_held_by_a_test() -> None:
    held = {"toml", "console", *HELD_ELSEWHERE}
    assert {block.how.partition(" ")[0] for block in blocks()} <= held
    # An indented block would be one that nobody holds.
    for page in PAGES:
        assert not re.search(r"\n\n    [^ ]", page.read_text("utf-8")), page


@pytest.mark.parametrize("block", [*blocks("toml")], ids=str)
def test_a_configuration_is_one(block: Block) -> None:
    assert tomllib.loads(block.text)
    parse_config(block.text, KEYS)


# -- what commands print


def _in_example() -> None:
    """A directory with the example as configuration."""
    copyfile(ROOT / "config.example.toml", "config.toml")


def _in_week() -> None:
    """One with the ledger of a week."""
    write_ledger(Path("arbstr.db"), a_week())
    with closing(sqlite3.connect("arbstr.db")) as connection, connection:
        connection.execute("INSERT INTO token_ratios VALUES ('code_generation', 0.418, 26)")
        connection.execute("INSERT INTO token_ratios VALUES ('', 0.37, 12)")


PLACES: Final = {"example": _in_example, "week": _in_week}


@pytest.mark.parametrize("block", [*blocks("console")], ids=str)
def test_a_command_prints_what_the_page_shows(
    block: Block,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in {*os.environ} - {*clean_environ()} | {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    PLACES[block.how.partition(" ")[2]]()
    shown = ""
    for line in re.findall(r"^\$ (.*)$", block.text, re.MULTILINE):
        words = shlex.split(line)
        assert words.pop(0) == "arbstr"
        assert main(words) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        lines = "".join(f"{each.rstrip()}\n" for each in printed.out.splitlines())
        shown += f"$ {line}\n{lines}"
    assert shown
    if IS_WRITING:
        text = block.page.read_text("utf-8")
        before = f"```{block.how}\n{block.text}```"
        assert text.count(before) == 1
        block.page.write_text(text.replace(before, f"```{block.how}\n{shown}```"), "utf-8")
    else:
        assert block.text == shown


def test_every_command_named_exists() -> None:
    names = {name for command in commands() for name in (command.name, *command.aliases)}
    said = {
        name
        for page in PAGES
        for name in re.findall(r"`arbstr ([a-z]+)", page.read_text("utf-8"))
        if "COMMAND" not in name
    }
    assert said <= names
    assert {command.name for command in commands()} <= said


def test_the_help_of_every_command_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands():
        with pytest.raises(SystemExit) as ended:
            main([command.name, "--help"])
        assert ended.value.code == 0
        assert command.name in capsys.readouterr().out


# -- what no command prints


def test_the_picture_of_the_house_names_its_rooms() -> None:
    (picture,) = (block for block in blocks("text") if block.page == named("house"))
    upper, _, lower = picture.text.partition("without I/O")
    rooms = re.findall(r"^   \|        ([a-z]+)  ", lower, re.MULTILINE)
    assert rooms
    for room in rooms:
        assert [*(ROOT / "arbstr" / "sansio").glob(f"{room}*")], room
    for room in re.findall(r"\b([a-z]+)/  ", picture.text):
        assert (ROOT / "arbstr" / "trio_runtime" / room).is_dir(), room
    for module in ("app", "exchange", "attempts", "status"):
        assert module in upper
        assert (ROOT / "arbstr" / "trio_runtime" / f"{module}.py").is_file()


def test_a_page_says_nothing_of_the_readme_it_came_from() -> None:
    """One reads a page alone."""
    for page in DOCS.glob("*.md"):
        assert not re.search(r"\b(see|as) (above|below)\b|\]\(#the-", page.read_text("utf-8")), page

"""`arbstr help`: the pages, in a terminal and in a pipe."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from arbstr.cli import help_command
from arbstr.cli.commands import main
from arbstr.cli.help_command import TOPICS, listed, page, question, set_for_terminal
from tests.pages import named
from tests.process import PATIENCE, clean_environ


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(["help", *words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_without_a_topic_there_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ask(capsys)
    assert (code, err) == (0, "")
    assert out == f"{listed()}\n"
    for topic in TOPICS:
        assert re.search(rf"^{topic} +{re.escape(question(topic))}$", out, re.MULTILINE)


@pytest.mark.parametrize("topic", TOPICS)
def test_into_a_pipe_goes_the_page(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ask(capsys, topic)
    assert (code, err) == (0, "")
    kept = [line for line in named(topic).read_text("utf-8").splitlines() if "<!--" not in line]
    assert out.splitlines() == kept


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("chosing", "choosing"),
        ("failover", "failing-over"),
        ("lanes", "money"),  # a section of it
        ("SIGTERM", "configuration"),  # a word of its text
        ("retention_days", "operating"),
    ],
)
def test_an_unknown_topic_names_the_nearest(
    typed: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ask(capsys, typed)
    assert (code, out) == (2, "")
    assert f"; did you mean {nearest}? There are: {', '.join(TOPICS)}" in err


def test_what_is_like_nothing_gets_the_list_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ask(capsys, "\x1b]0;owned\x07")
    assert code == 2
    assert "did you mean" not in err
    assert "\x1b" not in err
    assert f"; there are: {', '.join(TOPICS)}" in err


@pytest.mark.parametrize("typed", ["Choosing", "choosing.md", "CHOOSING.MD"])
def test_a_topic_may_be_typed_as_it_is_read(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, typed)[1] == page("choosing")


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_page_fits_the_terminal(topic: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = set_for_terminal(page(topic), width)
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= width
    # What a terminal cannot follow is said as what one can type.
    assert not re.search(r"\]\(|\.md#", plain)


def test_a_link_to_a_page_is_what_one_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    text = " ".join(set_for_terminal(page("clients"), 80).split())
    assert "one of the doors (arbstr help doors)" in text
    assert "\x1b" not in text


def in_terminal(pager: str, directory: Path) -> tuple[bytes, int]:
    """What a terminal shows of `arbstr help tor`, and the exit code."""
    ours, theirs = pty.openpty()
    environ = clean_environ({"PAGER": pager, "TERM": "xterm"})
    process = subprocess.Popen(
        [sys.executable, "-m", "arbstr", "help", "tor"],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        env=environ,
        cwd=directory,
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux says so that the other end is closed
                break
            if not data:
                break
            shown += data
        return shown, process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_terminal_gets_it_through_the_pager(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "paged with $LESS and $1"\nexec cat\n', "utf-8")
    pager.chmod(0o755)
    shown, code = in_terminal(f"{pager} -x", tmp_path)
    assert code == 0
    assert shown.startswith(b"paged with FRX and -x\r\n")
    assert b"Through a proxy, or Tor\x1b[0m" in shown


def test_a_pager_that_is_closed_early_or_not_there_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "x" * 10_000_000  # more than a pipe holds
    help_command._show(text, {"PAGER": "true", "PATH": os.environ["PATH"]})
    for pager in ("", "no-such-pager"):
        help_command._show("the page\n", {"PAGER": pager})
        assert capfd.readouterr().out == "the page\n"

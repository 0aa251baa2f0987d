"""`arbstr help`: the pages of arbstr/docs in the terminal, or which there are.

page --Markdown--> rich --> a pager, if a terminal reads; the page as it is, if none does
"""

import argparse
import difflib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Final

from rich.console import Console
from rich.markdown import Markdown
from rich.theme import Theme

from arbstr.cli.output import no_such

TOPICS: Final = (
    *("clients", "commands", "configuration", "choosing", "failing-over", "asking-again"),
    *("questions", "money", "budget", "doors", "answers", "ledger", "operating", "tor", "house"),
)
"""The pages, in the order in which one would read them."""

WIDTH: Final = 124
"""Columns that a page is set to at most: what is shown of other commands has 120, and a margin."""

LESS: Final = "FRX"
"""How less is to read, unless `$LESS` says so: short pages without waiting, colours as they are."""

_COMMENT: Final = re.compile(r"<!-- [^>]* -->\n")
_PAGE: Final = re.compile(r"\[([^]]+)\]\(([a-z-]+)\.md(?:#[^)]*)?\)")
_FILE: Final = re.compile(r"\[([^]]+)\]\((?:\.\./|#)[^)]*\)")


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Shows the page, or the list of them; returns the exit code."""
    if options.topic is None:
        print(listed())
        return 0
    topic = options.topic.lower().removesuffix(".md")
    if topic not in TOPICS:
        options.complain(_unknown(options.topic))
        return 2
    text = page(topic)
    if sys.stdout.isatty():
        _show(set_for_terminal(text, min(shutil.get_terminal_size().columns, WIDTH)), environ)
    else:
        print(text, end="")
    return 0


def page(topic: str) -> str:
    """Its Markdown, without the marks of its generated tables."""
    text = files("arbstr").joinpath("docs", f"{topic}.md").read_text("utf-8")
    return _COMMENT.sub("", text)


def question(topic: str) -> str:
    """The one it answers, which stands below its title."""
    return page(topic).splitlines()[2]


def listed() -> str:
    """A line a page."""
    width = max(map(len, TOPICS))
    lines = (f"{topic:{width}}  {question(topic)}" for topic in TOPICS)
    return "\n".join((*lines, "", "arbstr help TOPIC shows one, arbstr COMMAND --help a command."))


def page_table() -> str:
    """The same as a Markdown table, for the README."""
    rows = (f"| [{topic}](arbstr/docs/{topic}.md) | {question(topic)} |" for topic in TOPICS)
    return "\n".join(("| page | |", "|---|---|", *rows))


def _unknown(topic: str) -> str:
    word = topic.lower()[:100]
    near = difflib.get_close_matches(word, TOPICS, n=1) or list(_about(word))
    return no_such("page", topic, near, TOPICS)


def _about(word: str) -> Iterator[str]:
    """The pages with a heading of that word, then those that say it most often."""
    asked = re.compile(rf"\b{re.escape(word)}", re.IGNORECASE)
    said = {topic: page(topic) for topic in TOPICS}
    for topic, text in said.items():
        if any(asked.search(line) for line in text.splitlines() if line.startswith("#")):
            yield topic
    often = {topic: len(asked.findall(text)) for topic, text in said.items()}
    yield from sorted((topic for topic in TOPICS if often[topic]), key=lambda topic: -often[topic])


def set_for_terminal(text: str, width: int) -> str:
    """Markdown as a person reads it, with a terminal's codes. A link says which page to ask for."""
    text = _PAGE.sub(r"\1 (`arbstr help \2`)", text)
    text = _FILE.sub(r"\1", text)
    out = io.StringIO()
    # No backgrounds: nobody knows here whether the terminal's own is dark.
    theme = Theme({"markdown.code": "cyan"})
    console = Console(file=out, force_terminal=True, width=width, theme=theme)
    console.print(Markdown(text, hyperlinks=False, code_theme="ansi_dark"))
    return out.getvalue()


def _show(text: str, environ: Mapping[str, str]) -> None:
    """Through `$PAGER`, else less, else as it is."""
    pager = shlex.split(environ.get("PAGER", "less"))
    program = shutil.which(pager[0]) if pager else None
    if program is None:
        print(text, end="")
        return
    sys.stdout.flush()
    environ = {"LESS": LESS, **environ}
    with (
        subprocess.Popen(
            [program, *pager[1:]], stdin=subprocess.PIPE, env=environ, encoding="utf-8"
        ) as process,
        suppress(BrokenPipeError),  # whoever has read enough closes it, with q
    ):
        process.communicate(text)

"""The README and the pages of arbstr/docs, for the tests that hold what they say.

A code block says by its first words how it is held (`tests/test_readme.py` knows no others):

    ```toml               a configuration, or a part of one, that is accepted
    ```console PLACE      commands after `$ `, run in that place, and all they print
    ```sh                 lines that are run
    ```python             run, too
    ```text               compared by a test of its own
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "arbstr" / "docs"
PAGES: Final = (README, *sorted(DOCS.glob("*.md")))

_BLOCK: Final = re.compile(r"^```(?P<how>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@final
@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page; `how` is what stands behind its first marks."""

    page: Path
    how: str
    text: str

    def __str__(self) -> str:
        """For the name of a test."""
        return f"{self.page.stem}: {self.text.splitlines()[0][:50]}"


def blocks(how: str | None = None) -> Iterator[Block]:
    """All of them, or those that begin with a word."""
    for page in PAGES:
        for found in _BLOCK.finditer(page.read_text("utf-8")):
            if how is None or found["how"].split()[:1] == [how]:
                yield Block(page, found["how"], found["text"])


def named(name: str) -> Path:
    """A page of arbstr/docs."""
    return DOCS / f"{name}.md"


def anchors(page: Path) -> set[str]:
    """What a link into the page may end with, as GitHub names its headings."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Where it leads: a path relative to the page, or an address, and an anchor."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        yield path, anchor

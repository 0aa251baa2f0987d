"""Texts in the cells of a terminal: how wide they are, cut to fit, and harmless.

    fit("gpt-4o", 10)          "gpt-4o    "
    fit("gpt-4o", 4)           "gpt~"
    fit("a\x1b[2Jb", 10)       "a\\x1b[2Jb "     what would move the cursor is written out

`filled` breaks a sentence as the terminal wants it. `Line` is what a screen is made of; `painted`
makes bytes' worth of text of one, with colours or without. Names come from clients and providers,
who may write what they like.
"""

import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import Final, TypeAlias

from arbstr.cli.figures import BAD, DIM, DOUBTFUL, GOOD
from arbstr.sansio.visible import escaped

Span: TypeAlias = tuple[str, str]
"""A text, and the name of its style; "" is the terminal's own."""

Line: TypeAlias = tuple[Span, ...]

BOLD: Final = "bold"
CHOSEN: Final = "chosen"

NARROWEST: Final = 40
"""Cells that sentences are broken for at least."""

CUT: Final = "~"
"""Stands where something was cut off. ASCII, as all of the frame: a terminal may know no more."""

_SGR: Final = {GOOD: "32", BAD: "31", DOUBTFUL: "33", DIM: "2", BOLD: "1", CHOSEN: "7"}
"""Parameters of ECMA-48's Select Graphic Rendition. The eight old colours, so that a terminal's own
theme decides what can be read on its background."""


def width_of(text: str) -> int:
    """Cells that it takes. Nothing in it is unprintable."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly so many cells."""
    text = escaped(text)
    taken = width_of(text)
    if taken > width:
        text, taken = _cut(text, width)
    space = " " * (width - taken)
    return space + text if right else text + space


def _cut(text: str, width: int) -> tuple[str, int]:
    if width <= 0:
        return "", 0
    taken, kept = 0, []
    for character in text:
        more = _width(character)
        if taken + more > width - len(CUT):
            break
        kept.append(character)
        taken += more
    return "".join(kept) + CUT, taken + len(CUT)


def fit_line(line: Line, width: int) -> Line:
    """The line in at most so many cells; its texts made harmless."""
    found: list[Span] = []
    for text, style in line:
        text = escaped(text)
        taken = width_of(text)
        if taken > width:
            found.append((_cut(text, width)[0], style))
            break
        found.append((text, style))
        width -= taken
    return tuple(span for span in found if span[0])


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most so many cells, broken at spaces where there are any."""
    lines: list[str] = []
    line = ""
    for word in escaped(text).split(" "):
        joined = f"{line} {word}" if line else word
        if width_of(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while width_of(word) > width:
            head, _ = _cut(word, width + len(CUT))
            head = head.removesuffix(CUT) or word[0]
            lines.append(head)
            word = word[len(head) :]
        line = word
    return [*lines, line]


def terminal_width() -> int:
    """Cells of a line of the terminal that reads standard output; 0 if none does."""
    try:
        is_read = sys.stdout.isatty()
    except ValueError:
        return 0  # it is closed
    return shutil.get_terminal_size().columns if is_read else 0


def filled(first: str, text: str, width: int, *, hang: int = 0) -> list[str]:
    """The text behind `first`, in lines of at most `width` cells; the others stand below the text,
    `hang` cells further. In one line, whatever its length, if `width` is 0."""
    if not width:
        return [first + escaped(text)]
    indent = " " * (len(first) + hang)
    lines = wrapped(text, max(width, NARROWEST) - len(indent))
    return [(indent if at else first) + line.rstrip() for at, line in enumerate(lines)]


def painted(line: Line, *, colour: bool) -> str:
    """As a terminal takes it; the styles end with the line."""
    if not colour:
        return "".join(text for text, _ in line).rstrip()
    return "".join(f"\x1b[{_SGR[style]}m{text}\x1b[0m" if style else text for text, style in line)


def plain(lines: Sequence[Line]) -> str:
    """All of them as text."""
    return "\n".join(painted(line, colour=False) for line in lines)

"""Tables and lines on standard output, as wide as it is.

    columns --fit--> those there is room for, and how wide each is --lines--> rich

In less than a table wants, its headings become short; then what is said `below` goes into lines of
its own, and the columns that may be missed are left out, which the last line says; then names are
broken. A number never loses a digit. A pipe has no width: it gets every column, in `WIDTH` cells.

Colours are rich's affair: none of them unless a terminal reads. Names come from clients and
providers, so nothing of them but printable characters goes out, and none of it is taken for markup.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, final

from rich.console import Console
from rich.text import Text

from arbstr.cli.cells import terminal_width
from arbstr.cli.figures import DIM
from arbstr.sansio.frozen import dataclass

WIDTH: Final = 120
"""Cells of a line where nobody says how many there are: what the pages have room for."""

GAP: Final = 2
"""Cells between two columns."""

NAMES: Final = (16, 8)
"""Cells that a column of names keeps: so many while there is another to leave out, and at last."""


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One of a table. `short` is its heading where there is little room, `brief` are its texts then
    if they are others.

    whole   its texts are never broken, as those that are set to the right
    spare   how well it can be missed: who has most is left out first; 0: never
    below   is no column where there is little room, but a line below its row
    """

    name: str
    cells: Sequence[Text]
    short: str = ""
    brief: Sequence[Text] = ()
    right: bool = False
    whole: bool = False
    spare: int = 0
    below: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether it is as wide as its widest text."""
        return self.right or self.whole

    @property
    def width(self) -> int:
        """Cells of it, if there is room."""
        return max(Text(self.name).cell_len, *(cell.cell_len for cell in self.cells))

    def least(self, cells: int | None) -> int:
        """Those it cannot do without, if names keep so many (None: all of them)."""
        if self.is_fixed or cells is None:
            return self.width
        return min(self.width, max(cells, Text(self.name).cell_len))

    def narrow(self) -> "Column":
        """Itself with little room."""
        return replace(self, name=self.short or self.name, cells=self.brief or self.cells)


@final
@dataclass(frozen=True, slots=True)
class Fitted:
    """The columns that are shown, each with its width; those below; and the names of those that are
    not there."""

    shown: tuple[tuple[Column, int], ...]
    below: tuple[Column, ...] = ()
    left_out: tuple[str, ...] = ()


def console() -> Console:
    """Standard output, which breaks nothing: what is too wide is broken before."""
    # Without a height rich takes a terminal that is TERM=dumb to be 80 wide, whatever it is told.
    return Console(
        width=terminal_width() or WIDTH,
        height=25,
        highlight=False,
        emoji=False,
        markup=False,
        soft_wrap=True,
    )


def fit(columns: Sequence[Column], width: int, *, drop: bool) -> Fitted:
    """How they fit into so many cells. With `drop`, what can be missed may be left out.

    A column without any text is none.
    """
    there = [each for each in columns if any(cell.cell_len for cell in each.cells)]
    if (found := _widths(there, width, None)) is not None:
        return Fitted(found)
    below = tuple(each for each in there if each.below)
    there = [each for each in there if not each.below]
    if (found := _widths(there, width, None)) is not None:
        return Fitted(found, below)
    left_out: list[str] = []
    for least in NAMES:
        while (found := _widths(_narrow(there), width, least)) is None:
            spare = max(there, key=lambda each: each.spare)
            if not (drop and spare.spare):
                break
            there.remove(spare)
            left_out.append(spare.name)
        else:
            return Fitted(found, below, tuple(left_out))
    narrow = tuple((each, each.least(NAMES[-1])) for each in _narrow(there))
    return Fitted(narrow, below, tuple(left_out))


def _narrow(columns: Sequence[Column]) -> list[Column]:
    return [each.narrow() for each in columns]


def _widths(
    columns: Sequence[Column], width: int, least: int | None
) -> tuple[tuple[Column, int], ...] | None:
    """Each with its width, or that they do not fit. Names keep `least` cells; None: all of them."""
    wide = [each.width for each in columns]
    narrow = [each.least(least) for each in columns]
    room = width - GAP * (len(columns) - 1)
    if sum(narrow) > room:
        return None
    while sum(wide) > room:  # what has most to give gives a cell
        most = max(range(len(wide)), key=lambda at: wide[at] - narrow[at])
        wide[most] -= 1
    return tuple(zip(columns, wide, strict=True))


def print_table(out: Console, columns: Sequence[Column], *, rule: bool = True) -> tuple[str, ...]:
    """Prints it; the names of what there was no room for."""
    fitted = fit(columns, out.width, drop=bool(terminal_width()))
    for line in _lines(out, fitted, rule):
        out.print(line)
    return fitted.left_out


def _lines(out: Console, fitted: Fitted, rule: bool) -> Iterator[Text]:
    columns = [column for column, _ in fitted.shown]
    yield _row(fitted, [Text(column.name, "bold") for column in columns])
    if rule:
        yield Text(rule_character() * (sum(w for _, w in fitted.shown) + GAP * (len(columns) - 1)))
    for at in range(len(columns[0].cells)):
        folded = [
            [column.cells[at]]
            if column.is_fixed
            else column.cells[at].wrap(out, width, overflow="fold")
            for column, width in fitted.shown
        ]
        for line in range(max(map(len, folded))):
            yield _row(fitted, [each[line] if line < len(each) else Text() for each in folded])
        for column in fitted.below:
            if column.cells[at].cell_len:
                yield from _indented(out, text(f"{column.name}: ", DIM) + column.cells[at])


def _row(fitted: Fitted, cells: Sequence[Text]) -> Text:
    line = Text()
    for n, ((column, width), cell) in enumerate(zip(fitted.shown, cells, strict=True)):
        space = " " * (width - cell.cell_len)
        line.append(" " * GAP if n else "")
        line.append(space if column.right else "")
        line.append_text(cell)
        line.append("" if column.right else space)
    line.rstrip()
    return line


def _indented(out: Console, said: Text) -> Iterator[Text]:
    for line in said.wrap(out, max(out.width - GAP, NAMES[-1]), overflow="fold"):
        line.rstrip()
        yield Text(" " * GAP) + line


def print_left_out(out: Console, names: Sequence[str], elsewhere: str) -> None:
    """What there was no room for, if anything, and where it is to be seen."""
    if names:
        out.print()
        every = ", ".join(dict.fromkeys(names))
        say(out, Text(f"no room here for {every}: {elsewhere}", DIM))


def say(out: Console, sentence: Text, dim: str = "") -> None:
    """A sentence, broken between words where a terminal is too narrow, and behind it what matters
    less, in a line of its own if there is no room beside it."""
    parts = [sentence, text(dim, DIM)] if dim else [sentence]
    if not terminal_width() or sum(part.cell_len for part in parts) + GAP <= out.width:
        out.print(Text("  ").join(parts))
        return
    for part in parts:
        for line in part.wrap(out, out.width, overflow="fold"):
            line.rstrip()
            out.print(line)


def print_facts(out: Console, facts: Sequence[tuple[str, Text]]) -> None:
    """What each is called, and what it is."""
    indent = max(len(name) for name, _ in facts) + GAP
    for name, said in facts:
        lines = said.wrap(out, max(out.width - indent, NAMES[-1]), overflow="fold")
        for at, line in enumerate(lines if terminal_width() else [said]):
            line.rstrip()
            out.print(text(f"{'' if at else name:{indent}}", DIM) + line)


def text(words: str, style: str = "") -> Text:
    """What the terminal can show of it."""
    printable = "".join(c if c.isprintable() else "?" for c in words)
    encoding = sys.stdout.encoding or "utf-8"
    return Text(printable.encode(encoding, "replace").decode(encoding), style=style)


def texts(words: Sequence[str], style: str = "") -> list[Text]:
    """The same of each."""
    return [text(each, style) for each in words]


def bar_character() -> str:
    """What a bar is made of."""
    return "\N{FULL BLOCK}" if _is_unicode() else "#"


def rule_character() -> str:
    """What the line below the headings is made of."""
    return "\N{BOX DRAWINGS LIGHT HORIZONTAL}" if _is_unicode() else "-"


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")

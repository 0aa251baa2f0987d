"""Tables and lines on standard output, as rich sets them.

Colours are rich's affair: none of them unless a terminal reads. Names come from clients and
providers, so nothing of them but printable characters goes out, and none of it is taken for markup.
"""

import sys
from typing import Final, Literal, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arbstr.cli.figures import DIM

WIDTH: Final = 120
"""Columns that are used at least. In less a number would lose digits; a narrow terminal breaks the
line instead, and a pipe has no width."""

Justify: TypeAlias = Literal["left", "right"]


def console() -> Console:
    """Standard output, as wide as it is, and never narrower than `WIDTH`."""
    width = max(Console().width, WIDTH)
    return Console(width=width, highlight=False, emoji=False, markup=False, soft_wrap=True)


def table(*columns: tuple[str, Justify]) -> Table:
    """An empty one with these columns."""
    empty = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for name, justify in columns:
        # Numbers are never folded; names may be long.
        whole = justify == "right" or name in ("id", "status") or name.startswith("time (")
        empty.add_column(name, justify=justify, overflow="fold", no_wrap=whole)
    return empty


def text(words: str, style: str = "") -> Text:
    """What the terminal can show of it."""
    printable = "".join(c if c.isprintable() else "?" for c in words)
    encoding = sys.stdout.encoding or "utf-8"
    return Text(printable.encode(encoding, "replace").decode(encoding), style=style)


def line(words: str, dim: str) -> Text:
    """What matters, and behind it what does less."""
    return text(words, "bold") + text(f"  {dim}", DIM)


def bar_character() -> str:
    """What a bar is made of."""
    return "\N{FULL BLOCK}" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"

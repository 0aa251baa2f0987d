"""What a text has that nobody can see: what ends a line, moves a cursor, turns the order round.

Names of models are chosen by clients and configurations are copied from web pages and chats. What
is only printed is escaped; what is configured is refused.
"""

import unicodedata
from typing import Final

_JOINERS: Final = "\u200c\u200d"
"""Without a width, and yet letters' business: Persian and Indic words and many emoji need them."""

_UNSEEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Categories of Unicode: control, format (bidirectional, zero width, byte order mark), separators
of lines and paragraphs."""


def escaped(text: str) -> str:
    """The text with whatever is not printable as an escape of Python's: `\\n`, `\\x1b`, `\\u2028`.

    It has one line, and takes the room it seems to.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_unseen(text: str) -> str | None:
    """The first character that cannot be meant in a setting, as `U+0009`; `None` if all can."""
    if text.isprintable():
        return None
    for character in text:
        if unicodedata.category(character) in _UNSEEN and character not in _JOINERS:
            return f"U+{ord(character):04X}"
    return None

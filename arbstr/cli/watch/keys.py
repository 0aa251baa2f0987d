"""What a terminal sends when somebody types: bytes -> keys.

    keys = Keys()
    keys.feed(b"j\x1b[B")       (Key("j"), DOWN)
    keys.feed(b"\x1b")          ()  it may begin an arrow, the rest of which is on its way over ssh
    keys.finish()               (ESCAPE,)  after a moment in which nothing came

How the bytes are cut changes nothing but that. What nobody bound is a key as well, and harmless.
"""

from typing import Final, TypeAlias, final

Key: TypeAlias = str
"""A character, or one of the names below."""

UP: Final = "up"
DOWN: Final = "down"
PAGE_UP: Final = "page up"
PAGE_DOWN: Final = "page down"
HOME: Final = "home"
END: Final = "end"
ENTER: Final = "enter"
ESCAPE: Final = "escape"
REDRAW: Final = "redraw"
LEAVE: Final = "leave"

_SEQUENCES: Final = {
    "A": UP,
    "B": DOWN,
    "H": HOME,
    "F": END,
    "1~": HOME,
    "4~": END,
    "5~": PAGE_UP,
    "6~": PAGE_DOWN,
    "7~": HOME,
    "8~": END,
}
"""What follows ESC [ or ESC O (xterm's control sequences; rxvt's and the Linux console's are among
them)."""

_CONTROLS: Final = {
    "\r": ENTER,
    "\n": ENTER,
    "\x0c": REDRAW,
    "\x03": LEAVE,
    "\x04": LEAVE,  # from a terminal that does not make signals of them
    "\x10": UP,
    "\x0e": DOWN,
    "\x02": PAGE_UP,
    "\x06": PAGE_DOWN,
}

_LONGEST: Final = 16
"""Characters of a sequence; what goes on for longer is none."""


@final
class Keys:
    """Puts together what was cut."""

    def __init__(self) -> None:
        self._held = ""

    @property
    def waits(self) -> bool:
        """Whether it holds the beginning of a key."""
        return bool(self._held)

    def feed(self, data: bytes) -> tuple[Key, ...]:
        """The keys that are whole now."""
        # A letter that is cut in the middle of UTF-8 is bound to nothing.
        text = self._held + data.decode("utf-8", "replace")
        found: list[Key] = []
        self._held = ""
        while text:
            if text[0] != "\x1b":
                found.append(_CONTROLS.get(text[0], text[0]))
                text = text[1:]
                continue
            if len(text) == 1 or (text[1] in "[O" and len(text) == 2):
                self._held = text
                break
            if text[1] not in "[O":
                found.append(ESCAPE)
                text = text[1:]
                continue
            end = next((at for at, c in enumerate(text[2:], 2) if "@" <= c <= "~"), None)
            if end is None:
                if len(text) < _LONGEST:
                    self._held = text
                break
            sequence = text[2 : end + 1]
            if sequence in _SEQUENCES:
                found.append(_SEQUENCES[sequence])
            text = text[end + 1 :]
        return tuple(found)

    def finish(self) -> tuple[Key, ...]:
        """The key that a lone beginning is, when nothing follows it."""
        held, self._held = self._held, ""
        return (ESCAPE,) if held else ()

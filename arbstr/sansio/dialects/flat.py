"""JSON objects with nothing nested in them, as parts of regular expressions.

Deltas are such objects. One search in C tells whole ones from all else, whatever text is in them:
what matches is JSON by RFC 8259 to the last escape, so what was cut short, glued together or is
broken in itself does not match. At most one blank stands between its parts, as everybody writes it.
"""

from typing import Final

_ESCAPE: Final = rb'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})'
STRING: Final = rb'"[^"\\\x00-\x1f]*+(?:' + _ESCAPE + rb'[^"\\\x00-\x1f]*+)*+"'
NUMBER: Final = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+"
SCALAR: Final = rb"(?:" + STRING + rb"|" + NUMBER + rb"|null|true|false|\[ ?\]|\{ ?\})"
"""Also an array or an object with nothing in it."""
MEMBER: Final = STRING + rb" ?: ?" + SCALAR
OBJECT: Final = rb"\{ ?(?:" + MEMBER + rb"(?: ?, ?" + MEMBER + rb")*+)?+ ?\}"

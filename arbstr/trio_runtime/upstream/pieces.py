"""A body that comes in pieces and is wanted in one: copied once, or not at all if it came whole.

Most answers are one piece. A bytearray would copy each, large ones more than once as it grows, and
all of it again for whoever wants bytes.
"""

import re
from typing import Final, final

LARGE_BYTES: Final = 16 * 1024
"""From here on a piece is kept as it came; smaller ones are put together, or a body that comes byte
by byte would be a list of millions."""

_TELLS: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*+\S.{15}", re.DOTALL)
"""The beginning of a body that tells what it is: a byte order mark, blanks, and enough behind."""


@final
class Pieces(list[bytes | bytearray]):
    """The pieces that have come; none is empty. A list, because a plain answer has one of them."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(map(len, self))

    def add(self, data: bytes) -> None:
        """Takes the next, which may be empty."""
        if not data:
            return
        if not self or len(data) >= LARGE_BYTES:
            self.append(data)
        elif type(last := self[-1]) is bytearray:
            last += data
        else:
            self.append(bytearray(data))

    def whole(self) -> bytes:
        """All of it so far in one object, the same until more comes."""
        if len(self) == 1 and type(self[0]) is bytes:
            return self[0]
        whole = b"".join(self)
        if self:
            self[:] = [whole]
        return whole

    def beginning(self) -> bytes:
        """As much of it as tells what it is, if so much has come."""
        first = self[0] if self else b""
        return first if type(first) is bytes and _TELLS.match(first) else self.whole()

"""Ecash that a provider handed back although nobody asked: the user's money, kept in a file.

A Routstr node answers a one-shot payment with change in `X-Cashu`. arbstr never pays that way, but
should change come all the same, it is on disk before the answer is used, and nowhere else.
"""

import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, final

import trio

from arbstr.sansio.secrets import refund_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

KEEP_SECONDS: Final = 2.0
"""How long stray ecash may take to reach the disk before it is printed instead. Picked: a sync
takes milliseconds, on a busy disk a second."""


def tokens_in(headers: "Mapping[str, str]", *texts: bytes | bytearray) -> tuple[str, ...]:
    """The ecash in an answer, each token once; header names are in lower case."""
    found = [headers["x-cashu"]] if "x-cashu" in headers else []
    for text in texts:
        found += refund_tokens(text)
    return tuple(dict.fromkeys(found)) if found else ()


@final
class Change:
    """Keeps stray ecash in `path` (mode 0600), one line a token: time, provider, token.

    With `path` `None` (a database in memory) or a file that cannot be written, each token is
    printed once to standard error: lost is worse than seen.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path

    async def keep(self, tokens: tuple[str, ...], provider: str) -> None:
        """Writes and syncs the tokens. Returns when they are safe, or printed; never raises.

        Its shield has a deadline: it is money, and a cancelled request cannot come back for it, but
        a disk that hangs holds up no answer and no shutdown for longer.
        """
        if not tokens:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lines = "".join(f"{now} {provider} {_one_line(token)}\n" for token in tokens)
        try:
            with trio.move_on_after(KEEP_SECONDS, shield=True) as keeping:
                await trio.to_thread.run_sync(self._append, lines, abandon_on_cancel=True)
        except Exception as error:
            # No thread was to be had, or a bug of ours: the tokens are worth more than either.
            _print(type(error).__name__, lines)
            return
        if keeping.cancelled_caught:
            # The thread goes on, and may write them yet: seen twice is better than not at all.
            _print(f"the disk took more than {KEEP_SECONDS:g} s", lines)

    def _append(self, lines: str) -> None:
        try:
            if self.path is None:
                raise OSError("there is no file to keep it in")
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                if sys.platform != "win32":
                    os.fchmod(descriptor, 0o600)  # ecash is whose who reads it
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            _print(str(error), lines)


def _print(why: str, lines: str) -> None:
    with suppress(OSError, ValueError):  # nobody may be there to read it
        print(
            f"arbstr: ecash came back and could not be written to disk ({why}). "
            f"It is yours, keep it:\n{lines}",
            end="",
            file=sys.stderr,
            flush=True,
        )


def _one_line(token: str) -> str:
    return "".join(token.split())

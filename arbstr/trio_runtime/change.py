"""Ecash that a provider handed back although nobody asked: the user's money, kept in a file.

A Routstr node answers a one-shot payment with change in `X-Cashu`. arbstr never pays that way, but
should change come all the same, it is on disk before the answer is used, and nowhere else.
"""

import os
import sys
from datetime import UTC, datetime
from typing import final

import trio


@final
class Change:
    """Keeps stray ecash in `path` (mode 0600), one line a token: time, provider, token.

    With `path` `None` (a database in memory) or a file that cannot be written, each token is
    printed once to standard error: lost is worse than seen.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path

    async def keep(self, tokens: tuple[str, ...], provider: str) -> None:
        """Writes and syncs the tokens. Returns when they are safe, or printed."""
        if tokens:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            lines = "".join(f"{now} {provider} {_one_line(token)}\n" for token in tokens)
            await trio.to_thread.run_sync(self._append, lines)

    def _append(self, lines: str) -> None:
        try:
            if self.path is None:
                raise OSError("there is no file to keep it in")
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            print(
                f"arbstr: ecash came back and could not be written to disk ({error}). "
                f"It is yours, keep it:\n{lines}",
                end="",
                file=sys.stderr,
                flush=True,
            )


def _one_line(token: str) -> str:
    return "".join(token.split())

"""Standard output, which may be closed, full, or a pipe whose reader went away."""

import os
import sys


def forget_output() -> None:
    """What could not be printed would be tried again, and complained of, when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

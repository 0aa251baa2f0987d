"""How many files and sockets the process may have open, and so how many requests at once."""

import logging
from typing import Final

log = logging.getLogger("arbstr")

OTHERS: Final = 64
"""Descriptors that serve no request: database, log, listeners, trio, idle connections. Picked."""

FEW: Final = 128
"""Requests at once below which the limit is worth a warning: one agent may send 20. Picked."""


def raise_descriptor_limit() -> None:
    """Raises the soft limit to the hard one, and says what that allows.

    The usual 1024 is there for programs that use select(), which can count no further.
    """
    try:
        import resource
    except ImportError:  # Windows, whose sockets have no such limit
        return
    which = resource.RLIMIT_NOFILE
    before, hard = resource.getrlimit(which)
    if before != hard:
        try:
            resource.setrlimit(which, (hard, hard))
        except (ValueError, OSError):
            # macOS calls the hard limit infinite, and takes no more than this.
            _settle_for(10_240)
    now = resource.getrlimit(which)[0]
    if now == resource.RLIM_INFINITY:
        log.info("may open any number of files")
        return
    requests = max(0, now - OTHERS) // 2  # a client's socket and a provider's
    if requests < FEW:
        log.warning(
            "may open %d files: about %d requests at once; raise it (ulimit -Hn)", now, requests
        )
    else:
        log.info("may open %d files: about %d requests at once", now, requests)


def _settle_for(most: int) -> None:
    import resource

    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, most), hard))
    except (ValueError, OSError):
        log.debug("the limit of open files stays at %d", before)

"""Work on a large body, where it holds nobody up: in a process of its own.

A body is judged in one step, and while it is, no other request is served: 7 s for an answer of
47 MB with 500,000 choices (measured). A thread does not help: JSON is read in one call of C that
keeps the interpreter's lock, and so are millions of objects freed. So the step, a pure function of
`arbstr.sansio`, goes with its arguments to a fresh interpreter (0.2 s of another core) that ends
with it, and what that took of memory is given back.

Only what is heavy takes this way (`usage.is_heavy`); all else is done at once, here. So is what is
heavy where no process can do it: slow is better than not at all.
"""

import io
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Final, ParamSpec, TypeVar, final

import trio

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""How many such processes there are at once; the others wait. Picked: each may take 1 GB for an
answer of 64 MB in small pieces."""

_limiter: Final = trio.CapacityLimiter(AT_ONCE)

_CHILD: Final = """
import gc, os, pickle, sys
gc.disable()
work = pickle.load(sys.stdin.buffer)
class Pickler(pickle.Pickler):
    def persistent_id(self, it):
        if type(it) is bytes:
            return next((n for n, given in enumerate(work.args) if it is given), None)
Pickler(sys.stdout.buffer, 5).dump(work())
sys.stdout.buffer.flush()
os._exit(0)
"""
"""It ends without freeing what it made. `sys.path` comes with PYTHONPATH. Bytes it was given and
returns, as the body that was judged, are not sent back but named by their place."""


@final
class _Unpickler(pickle.Unpickler):
    """Reads what the child returned; bytes it was given are the same object here."""

    def __init__(self, data: bytes, given: tuple[object, ...]) -> None:
        super().__init__(io.BytesIO(data))
        self._given = given

    def persistent_load(self, pid: int) -> object:
        """The argument at this place."""
        return self._given[pid]


async def apart(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns, from a process of its own; it must be pure, and both be picklable.

    Nothing ends it but its own end: an answer that was read is judged whoever waits for it,
    because its price may stand in it. It takes seconds at most.
    """
    work = partial(function, *args, **kwargs)
    with trio.CancelScope(shield=True):
        async with _limiter:
            try:
                done = await trio.run_process(
                    [sys.executable, "-P", "-c", _CHILD],
                    stdin=pickle.dumps(work, 5),
                    capture_stdout=True,
                    stderr=subprocess.DEVNULL,  # a traceback might repeat what somebody wrote
                    check=False,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,  # Ctrl-C is for us
                )
                if done.returncode == 0:
                    result: T = _Unpickler(done.stdout, args).load()
                    return result
                why = f"it ended with {done.returncode}"
            except OSError as error:
                why = error.strerror or type(error).__name__
    log.warning("a large body holds other requests up: no process could take it (%s)", why)
    return work()

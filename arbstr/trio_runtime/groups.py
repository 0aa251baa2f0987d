"""What is in the groups that nurseries make of exceptions."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def is_cancellation(error: BaseException) -> bool:
    """Whether it is nothing but that a scope was ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_cancellation, error.exceptions))
    return isinstance(error, trio.Cancelled)


def run(
    work: Callable[[*Ts], Awaitable[T]], *arguments: *Ts, expected: tuple[type[Exception], ...]
) -> T:
    """What `work` returns: trio.run for whoever wants what went wrong, and not the group of it.

    Raises the first of what it raised if all of that is `expected`, nurseries around it or not.
    """
    try:
        return trio.run(work, *arguments, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        matched, rest = group.split(expected)
        if matched is None or rest is not None:
            raise
        raise _first(matched) from None


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found

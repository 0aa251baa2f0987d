"""Bodies of requests: read whole, and no more of them at once than memory bears.

A body is held until its request ends, and costs about twice its size (the bytes and the text they
are parsed from). Twenty of 62 MB at once took 2.6 GB (measured).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Self, TypeAlias, final

from arbstr.sansio.errors import ErrorReply

Receive: TypeAlias = Callable[[], Awaitable[tuple[bytes, bool] | None]]
"""`ClientRequest.receive`."""

BODIES_HELD: Final = 4
"""How many bodies of the largest size are held at once, all requests together. Picked: 256 MB by
default; more than that is no chat but an accident, and it is asked again by every SDK."""

SMALL_BYTES: Final = 1_000_000
"""Up to this a body is taken, however much is held: a long chat is below, and what so many of them
may hold is bounded by the connections there can be."""

RETRY_SECONDS: Final = 2.0
"""What a client is told to wait whose body has no room; picked."""


@final
class Bodies:
    """What the bodies of all requests hold, in bytes."""

    def __init__(self) -> None:
        self.held = 0


@final
class Body:
    """One request's share: `with Body(bodies) as body`. What it holds is given back at the end."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bodies.held -= self._size

    def _has_room(self, more: int, limit: int) -> bool:
        return self._bodies.held + more <= limit * BODIES_HELD

    async def read(
        self, receive: Receive, headers: Mapping[str, str], length: int | None, limit: int
    ) -> bytes | ErrorReply | None:
        """The whole body; an error if there may be none such; `None` if the client left meanwhile.

        `length` in bytes is what was announced, if that was; `limit` is of one body.
        """
        coding = headers.get("content-encoding")
        if coding is not None and coding.strip().lower() not in ("", "identity"):
            return ErrorReply(
                "unsupported_media_type", "Send the body as it is, without Content-Encoding."
            )
        if length is not None:
            if length > limit:
                return _too_large(limit)
            if length > SMALL_BYTES and not self._has_room(length, limit):
                return NO_ROOM
        parts: list[bytes] = []
        while (piece := await receive()) is not None:
            part, more = piece
            size = len(part)
            if self._size + size > SMALL_BYTES and not self._has_room(size, limit):
                return NO_ROOM
            parts.append(part)
            self._size += size
            self._bodies.held += size
            if self._size > limit:
                return _too_large(limit)
            if not more:
                return part if len(parts) == 1 else b"".join(parts)
        return None


def _too_large(limit: int) -> ErrorReply:
    return ErrorReply(
        "body_too_large",
        f"The body is over the limit of {limit / 1e6:g} MB ([server] max_body_mb).",
    )


NO_ROOM: Final = ErrorReply(
    "overloaded",
    "Other requests with large bodies are under way, and there is no memory for this one yet. "
    "Nothing was sent; ask again.",
    retry_after=RETRY_SECONDS,
)

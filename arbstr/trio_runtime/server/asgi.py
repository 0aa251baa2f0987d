"""A request for an application that speaks ASGI: Quart's routes.

as_asgi(app)          serves such an application to a connection
scope, receive, send  its three arguments, of one request
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeAlias

from arbstr.trio_runtime.server.framing import Fields, split_fields
from arbstr.trio_runtime.server.request import LENGTH, ClientRequest

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
Application: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]
Head: TypeAlias = Callable[[int, bytes, Fields], None]
"""`ClientRequest.head`, or a responder's."""


class Write(Protocol):
    """`ClientRequest.write`, or a responder's."""

    async def __call__(self, body: bytes, *, more: bool) -> None: ...


DISCONNECT_KEY: Final = "arbstr.on_disconnect"
"""Key in the ASGI scope's `state`: a function that takes a callback (`on_disconnect`)."""


def as_asgi(app: Application) -> Callable[[ClientRequest], Awaitable[None]]:
    """Serves such an application."""

    async def serve(request: ClientRequest) -> None:
        await app(scope_of(request), receive_of(request), send_to(request.head, request.write))

    return serve


def scope_of(request: ClientRequest, path: str | None = None) -> dict[str, Any]:
    """The scope. `path`: in place of that in the request's target, which may be a whole URL."""
    heading, length = request.heading, request.length
    client, server = request.ends
    fields = list(heading.fields)
    if length is not None:
        fields.append((LENGTH, b"%d" % length))
    return {
        "type": "http",
        "http_version": heading.version,
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": heading.method,
        "scheme": "http",
        "path": heading.path if path is None else path,
        "raw_path": heading.raw_path,
        "query_string": heading.query,
        "root_path": "",
        "headers": fields,
        "client": client,
        "server": server,
        "state": {DISCONNECT_KEY: request.on_disconnect},
        "extensions": {},
    }


def receive_of(request: ClientRequest) -> Receive:
    """What it awaits for the next message."""

    async def receive() -> dict[str, Any]:
        piece = await request.receive()
        if piece is None:
            return {"type": "http.disconnect"}
        body, more = piece
        return {"type": "http.request", "body": body, "more_body": more}

    return receive


def send_to(head: Head, write: Write) -> Send:
    """What it gives its messages to, which are told as a head and a body."""

    async def send(message: Any) -> None:  # noqa: ANN401 - ASGI's messages are untyped
        if message["type"] == "http.response.start":
            head(message["status"], *split_fields(message["headers"]))
        elif message["type"] == "http.response.body":
            await write(message.get("body", b""), more=message.get("more_body", False))

    return send

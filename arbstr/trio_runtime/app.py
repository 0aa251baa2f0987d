"""The routes: HTTP to calls and back, and the one door all requests come through.

    App (ASGI)      ids on every answer, who may call, CORS if configured, errors of our own
      chat          POST /v1/chat/completions, served here: the hot path, cancelled in one step
      Quart         every other route and every error a route can make

All routes work with and without the `/v1` prefix.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, final
from uuid import uuid4

import trio
from quart import Response, jsonify
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from arbstr import __version__
from arbstr.sansio.callers import Doorkeeper, fold_headers
from arbstr.sansio.errors import ErrorReply
from arbstr.trio_runtime import status
from arbstr.trio_runtime.connection import DISCONNECT_KEY
from arbstr.trio_runtime.exchange import serve_chat
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.responder import Headers, Responder, header

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

log = logging.getLogger("arbstr.app")

CHAT_PATHS: Final = frozenset({"/v1/chat/completions", "/chat/completions"})
DISCARD_SECONDS: Final = 5.0
"""How long an upload that was refused is still read, so that its sender can read why."""

UNSUPPORTED: Final = ("responses", "messages", "embeddings", "completions")
"""Routes of other APIs that clients try; their 404 says what there is instead."""

EXPOSED: Final = (
    "x-request-id, x-arbstr-request-id, x-arbstr-provider, x-arbstr-policy, x-arbstr-model, "
    "x-arbstr-retries, x-arbstr-possibly-spent, x-arbstr-latency-ms, x-arbstr-cost-sats"
)


@final
class App:
    """The ASGI application."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._quart = make_quart(hub)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401
        """Serves one request."""
        received = trio.current_time()
        request_id = str(uuid4())
        headers = fold_headers(scope["headers"])
        doorkeeper = self._hub.snapshot.doorkeeper
        extra = (
            header("x-arbstr-request-id", request_id),
            header("x-request-id", request_id),
            *_cors(doorkeeper, headers.get("origin")),
        )

        async def answer(message: Any) -> None:  # noqa: ANN401 - ASGI's messages are untyped
            if message["type"] == "http.response.start":
                message = {**message, "headers": (*message["headers"], *extra)}
            await send(message)

        responder = Responder(answer)
        try:
            await self._route(scope, headers, receive, answer, responder, request_id, received)
        except Exception as error:
            _log_bug(error, request_id)
            await responder.error(
                ErrorReply("internal_error", f"arbstr failed; its log says how ({request_id}).")
            )

    async def _route(
        self,
        scope: Any,  # noqa: ANN401 - ASGI's scopes are untyped
        headers: dict[str, str],
        receive: Receive,
        answer: Send,
        responder: Responder,
        request_id: str,
        received: float,
    ) -> None:
        path, method = scope["path"], scope["method"]
        preflight = method == "OPTIONS" and "access-control-request-method" in headers
        refusal = self._hub.snapshot.doorkeeper.refuse(
            "/livez" if preflight else path,  # a preflight cannot carry a token (Fetch 3.2.2)
            headers,
        )
        if refusal is not None:
            log.info("refused: %s", refusal.code, extra={"request_id": request_id})
            await _discard(receive)
            await responder.error(refusal)
        elif preflight:
            await responder.plain(b"", PREFLIGHT, status=204)
        elif path not in CHAT_PATHS:
            await self._quart(scope, receive, answer)
        elif method != "POST":
            await _discard(receive)
            await responder.error(
                ErrorReply("method_not_allowed", f"Send chat requests with POST, not {method}."),
                ((b"allow", b"POST"),),
            )
        else:
            body = await _read_body(
                receive, headers, self._hub.snapshot.config.server.max_body_bytes
            )
            if isinstance(body, ErrorReply):
                await responder.error(body)
            elif body is not None:
                await serve_chat(
                    self._hub,
                    responder,
                    request_id=request_id,
                    headers=headers,
                    body=body,
                    received=received,
                    on_disconnect=scope["state"][DISCONNECT_KEY],
                )


PREFLIGHT: Final[Headers] = (
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"*, authorization, content-type"),
    (b"access-control-max-age", b"600"),
)


def _cors(doorkeeper: Doorkeeper, origin: str | None) -> Headers:
    if origin is None or not doorkeeper.allows_origin(origin):
        return ()
    return (
        header("access-control-allow-origin", origin),
        header("access-control-expose-headers", EXPOSED),
        header("vary", "origin"),
    )


async def _read_body(
    receive: Receive, headers: dict[str, str], limit: int
) -> bytes | ErrorReply | None:
    """The whole body; an error if there may be none such; `None` if the client left meanwhile."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        await _discard(receive)
        return ErrorReply(
            "unsupported_media_type", "Send the body as it is, without Content-Encoding."
        )
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message["body"])
        size += len(message["body"])
        if size > limit:
            if message["more_body"]:
                await _discard(receive)
            return ErrorReply(
                "body_too_large",
                f"The body is over the limit of {limit / 1e6:g} MB ([server] max_body_mb).",
            )
        if not message["more_body"]:
            return b"".join(parts)


async def _discard(receive: Receive) -> None:
    """Reads an upload nobody wants: a sender that is cut off does not read its answer."""
    with trio.move_on_after(DISCARD_SECONDS):
        while True:
            message = await receive()
            if message["type"] != "http.request" or not message["more_body"]:
                return


def _log_bug(error: BaseException, request_id: str) -> None:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
    log.error(
        "internal error: %s at %s",
        type(error).__name__,
        place,
        extra={"request_id": request_id},
        exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
    )


def make_quart(hub: Hub) -> QuartTrio:
    """The routes that are not chat."""
    quart = QuartTrio("arbstr", static_folder=None)
    quart.config["RESPONSE_TIMEOUT"] = None  # 60 s by default, and it would cut an answer
    quart.config["BODY_TIMEOUT"] = None
    quart.config["MAX_CONTENT_LENGTH"] = hub.snapshot.config.server.max_body_bytes
    quart.json.sort_keys = False  # type: ignore[attr-defined]  # DefaultJSONProvider has it

    async def root() -> Response:
        return jsonify({"name": "arbstr", "version": __version__, "chat": "/v1/chat/completions"})

    async def livez() -> Response:
        return jsonify({"status": "ok"})

    async def health() -> tuple[Response, int]:
        report = status.health(hub)
        return jsonify(report), 503 if report["status"] == "unhealthy" else 200

    async def providers() -> Response:
        return jsonify(status.providers(hub))

    async def models() -> Response:
        return jsonify(status.models(hub))

    async def model(model_id: str) -> Response:
        found = status.model(hub, model_id)
        return _error(found) if isinstance(found, ErrorReply) else jsonify(found)

    async def failed(error: HTTPException) -> Response:
        return _error(_http_error(error))

    quart.add_url_rule("/", "root", root)
    for prefix in ("", "/v1"):
        for rule, view in (
            ("/livez", livez),
            ("/health", health),
            ("/providers", providers),
            ("/models", models),
            ("/models/<path:model_id>", model),
        ):
            quart.add_url_rule(prefix + rule, prefix + rule, view)
    quart.register_error_handler(HTTPException, failed)
    quart.register_error_handler(Exception, _bug)
    return quart


async def _bug(error: Exception) -> Response:
    _log_bug(error, "-")
    return _error(ErrorReply("internal_error", "arbstr failed; its log says how."))


def _error(error: ErrorReply) -> Response:
    response = Response(error.body(), status=error.status, content_type="application/json")
    for name, value in error.headers():
        response.headers[name.decode()] = value.decode()
    return response


def _http_error(error: HTTPException) -> ErrorReply:
    """An error Quart makes itself, in the one shape."""
    code = error.code or 500
    match code:
        case 404:
            return ErrorReply(
                "not_found",
                "There is no such route here. Chat is POST /v1/chat/completions; "
                f"{', '.join('/v1/' + name for name in UNSUPPORTED)} are not supported. "
                "The others are GET /v1/models, /providers, /health and /livez.",
            )
        case 405:
            return ErrorReply("method_not_allowed", "This route does not answer that method.")
        case 413:
            return ErrorReply("body_too_large", "The body is over [server] max_body_mb.")
        case 415:
            return ErrorReply("unsupported_media_type", "Send the body as application/json.")
        case _ if code < 500:
            return ErrorReply(
                "bad_request", f"The request is not valid: {error.name}.", status=code
            )
        case _:
            return ErrorReply("internal_error", "arbstr failed; its log says how.", status=code)

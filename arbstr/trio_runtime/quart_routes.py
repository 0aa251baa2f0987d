"""The routes that are no doors, by Quart: what is told of this arbstr and of its ledger."""

from typing import final

from quart import Response, jsonify, request
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from arbstr import __version__
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.ledger.reports import Names, configured_names
from arbstr.trio_runtime import status
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.ledger.reports import Report, Reports
from arbstr.trio_runtime.unrouted import NO_ROUTE, REQUEST_ID_KEY, log_refusal


@final
class JsonResponse(TrioResponse):
    """A response without a type of its own, such as Quart's answer to OPTIONS, is not HTML here."""

    default_mimetype = "application/json"


def make_quart(hub: Hub, reports: Reports) -> QuartTrio:
    """The routes that are not chat. `reports` answers questions to the log."""
    quart = QuartTrio("arbstr", static_folder=None)
    quart.response_class = JsonResponse
    quart.config["RESPONSE_TIMEOUT"] = None  # 60 s by default, and it would cut an answer
    quart.config["BODY_TIMEOUT"] = None
    quart.config["MAX_CONTENT_LENGTH"] = hub.snapshot.config.server.max_body_bytes
    quart.config["PROPAGATE_EXCEPTIONS"] = True  # to the door, which knows the request's id
    quart.url_map.merge_slashes = False  # it would redirect, with a page of HTML
    quart.json.sort_keys = False  # type: ignore[attr-defined]  # DefaultJSONProvider has it

    async def root() -> Response:
        return jsonify({"name": "arbstr", "version": __version__, "chat": "/v1/chat/completions"})

    async def livez() -> Response:
        return jsonify({"status": "ok"})

    async def health() -> tuple[Response, int]:
        report = status.health(hub) if hub.siblings is None else await hub.siblings.health()
        return jsonify(report), 503 if report["status"] == "unhealthy" else 200

    async def providers() -> Response:
        if hub.siblings is not None:
            return jsonify(await hub.siblings.providers())
        return jsonify(status.providers(hub))

    async def models() -> Response:
        return jsonify(status.models(hub))

    async def model(model_id: str) -> Response:
        found = status.model(hub, model_id)
        return _error(found) if isinstance(found, ErrorReply) else jsonify(found)

    def names() -> Names:
        return configured_names(hub.snapshot.config, hub.snapshot.catalog)

    def parameters() -> tuple[tuple[str, str], ...]:
        return tuple(request.args.items(multi=True))

    async def stats() -> Response:
        found = await reports.stats(parameters(), names())
        day = status.budget(hub) if hub.siblings is None else await hub.siblings.budget()
        if day is not None and not isinstance(found, ErrorReply):
            found["budget"] = day
        return _report(found)

    async def requests() -> Response:
        return _report(await reports.requests(parameters(), names()))

    async def one_request(correlation_id: str) -> Response:
        return _report(await reports.request(correlation_id))

    async def failed(error: HTTPException) -> Response:
        refusal = _http_error(error)
        log_refusal(request.scope["state"][REQUEST_ID_KEY], request.method, request.path, refusal)
        response = _error(refusal)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["allow"] = ", ".join(sorted(error.valid_methods))
        return response

    quart.add_url_rule("/", "root", root)
    for prefix in ("", "/v1"):
        for rule, view in (
            ("/livez", livez),
            ("/health", health),
            ("/providers", providers),
            ("/models", models),
            ("/models/<path:model_id>", model),
            ("/stats", stats),
            ("/requests", requests),
            ("/requests/<correlation_id>", one_request),
        ):
            quart.add_url_rule(prefix + rule, prefix + rule, view)
    quart.register_error_handler(HTTPException, failed)
    return quart


def _report(found: Report | ErrorReply) -> Response:
    return _error(found) if isinstance(found, ErrorReply) else jsonify(found)


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
            return NO_ROUTE
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

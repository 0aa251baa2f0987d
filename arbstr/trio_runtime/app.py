"""The routes: HTTP to calls and back, and the one gate all requests come through.

    App             ids on every answer, who may call, CORS if configured, errors of our own
      a door        POST /v1/chat/completions, served here: the hot path, cancelled in one step
      count_tokens  of a door that has it, passed on (counting.py)
      kept answers  of Responses, looked up at who keeps them (kept.py)
      Quart         every other route and every error a route can make

All routes work with and without the `/v1` prefix.
"""

import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final
from urllib.parse import parse_qsl, unquote

import trio

from arbstr.sansio.callers import Doorkeeper, split_target
from arbstr.sansio.dialects.dialect import Dialect, Headers
from arbstr.sansio.dialects.doors import DOORS, recognised
from arbstr.sansio.dialects.messages.door import MESSAGES
from arbstr.sansio.dialects.usage import is_heavy
from arbstr.sansio.endpoints import is_foreign
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ids import RANDOM_BITS, RequestIds
from arbstr.sansio.routing.catalog import Provider
from arbstr.sansio.routing.policy import POLICY_HEADER, listed, parse_and_choose
from arbstr.sansio.routing.refusals import NoRoute
from arbstr.trio_runtime import counting, status
from arbstr.trio_runtime.exchange import serve
from arbstr.trio_runtime.heavy import apart
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.kept import keeper, look_up
from arbstr.trio_runtime.logs import log_bug
from arbstr.trio_runtime.server.asgi import Receive, Send, receive_of, scope_of, send_to
from arbstr.trio_runtime.server.bodies import Bodies, Body
from arbstr.trio_runtime.server.framing import lines_of
from arbstr.trio_runtime.server.request import ClientRequest, Heading
from arbstr.trio_runtime.server.responder import (
    NO_CONTENT,
    Responder,
    header,
    policy_header,
)
from arbstr.trio_runtime.unrouted import (
    NO_ROUTE,
    REQUEST_ID_KEY,
    UNSUPPORTED,
    in_both_shapes,
    log_refusal,
)

if TYPE_CHECKING:
    from quart_trio import QuartTrio

    from arbstr.trio_runtime.ledger.reports import Reports

log = logging.getLogger("arbstr.app")

Routes: TypeAlias = Mapping[str, Dialect]

ROUTES: Final[Routes] = MappingProxyType(
    {prefix + door.path: door for door in DOORS.values() for prefix in ("/v1", "")}
)
"""Which door is behind which path: the only place in the runtime that names any."""
COUNTS: Final[Routes] = MappingProxyType(
    {prefix + MESSAGES.path + counting.PATH: MESSAGES for prefix in ("/v1", "")}
)
"""Where the tokens of a request to which door are counted."""
COST_PATHS: Final = frozenset({"/v1/cost", "/cost"})
"""Their body is that of a door (`?endpoint=`, else told by its members), so it is read as one."""
EXPOSED: Final = (
    "x-request-id, x-arbstr-request-id, x-arbstr-provider, x-arbstr-policy, x-arbstr-model, "
    "x-arbstr-retries, x-arbstr-possibly-spent, x-arbstr-latency-ms, x-arbstr-cost-sats, "
    "x-arbstr-joined"
)


@final
@dataclass(frozen=True, slots=True)
class Called:
    """What a head asks for, by the configuration of this `doorkeeper`.

    `path` is decoded, and without the host that a target may name; `headers` are with it. `served`:
    it is a POST to this door, and nothing is in its way; `door` is whose errors it gets. `common`
    are the header lines of its answers.
    """

    doorkeeper: Doorkeeper
    path: str
    headers: dict[str, str]
    door: Dialect | None
    served: Dialect | None
    refusal: ErrorReply | None
    common: bytes


@final
class App:
    """What is served. `reports` answers questions to the ledger."""

    def __init__(self, hub: Hub, reports: "Reports", routes: Routes = ROUTES) -> None:
        self._hub = hub
        self._routes = routes
        self._bodies = Bodies()
        self._ids = RequestIds()
        self._quart = Later(hub, reports)

    async def __call__(self, request: ClientRequest) -> None:
        """Serves one request."""
        now = self._hub.now
        received = now()
        request_id = self._ids.following(time.time_ns(), random.getrandbits(RANDOM_BITS))
        called = self._called(request.heading)
        ids = f"x-arbstr-request-id: {request_id}\r\nx-request-id: {request_id}\r\n"
        responder = Responder(
            request,
            ids.encode() + called.common,
            request_id=request_id,
            door=called.door,
            received=received,
            now=now,
        )
        try:
            if called.served is not None:
                await self._serve(called.served, request, called, responder, request_id, received)
            else:
                await self._route(request, called, responder, request_id)
        except Exception as error:
            log_bug(log, "internal error", error, request_id=request_id)
            await responder.error(
                ErrorReply("internal_error", f"arbstr failed; its log says how ({request_id}).")
            )

    def _called(self, heading: Heading) -> Called:
        """What its head asks for, found out once for all requests of a client with the same."""
        known, doorkeeper = heading.known, self._hub.snapshot.doorkeeper
        if isinstance(known, Called) and known.doorkeeper is doorkeeper:
            return known
        path, headers = heading.path, heading.headers
        if not path.startswith("/"):
            host, path = split_target(heading.raw_path.decode("ascii"))
            path = unquote(path)
            if host is not None:
                headers = {**headers, "host": host}
        counted = COUNTS.get(path)
        door = counted or self._routes.get(path)
        refusal = doorkeeper.refuse(
            # A preflight cannot carry a token (Fetch 3.2.2).
            "/livez" if _is_preflight(heading) else path,
            headers,
        )
        served = door if refusal is None and counted is None and heading.method == "POST" else None
        common = lines_of(_cors(doorkeeper, headers.get("origin")))
        called = Called(doorkeeper, path, headers, door, served, refusal, common)
        heading.known = called
        return called

    async def _serve(
        self,
        door: Dialect,
        request: ClientRequest,
        called: Called,
        responder: Responder,
        request_id: str,
        received: float,
    ) -> None:
        # What the body holds is given back when the request is over.
        with Body(self._bodies) as room:
            body = await self._read(room, request, called, responder, request_id)
            if body is not None:
                await serve(
                    self._hub,
                    responder,
                    door,
                    request_id=request_id,
                    headers=called.headers,
                    query=request.heading.query,
                    body=body,
                    received=received,
                    on_disconnect=request.on_disconnect,
                    scope=request.scope,
                )

    async def _read(
        self,
        room: Body,
        request: ClientRequest,
        called: Called,
        responder: Responder,
        request_id: str,
    ) -> bytes | None:
        """The body; None if there is none to be served, of which the client was told."""
        limit = self._hub.snapshot.config.server.max_body_bytes
        body = await room.read(request.receive, called.headers, request.length, limit)
        if not isinstance(body, ErrorReply):
            return body
        log.info("refused: %s", body.code, extra={"request_id": request_id, "code": body.code})
        await responder.error(body)
        return None

    async def _route(
        self, request: ClientRequest, called: Called, responder: Responder, request_id: str
    ) -> None:
        """Whatever is no request for an answer of a model's."""
        heading, path, door = request.heading, called.path, called.door
        method, refusal = heading.method, called.refusal
        posted = door is not None or path in COST_PATHS
        # A refused body is not read here: the connection takes care of it (server/connection.py).
        if refusal is not None:
            extra = {"request_id": request_id, "code": refusal.code}
            log.info("refused: %s", refusal.code, extra=extra)
            await responder.error(refusal)
        elif _is_preflight(heading):
            await responder.plain(b"", PREFLIGHT, status=NO_CONTENT)
        elif not path.startswith("/"):
            log_refusal(request_id, method, path, NO_ROUTE)
            await responder.error(NO_ROUTE)
        elif not posted and isinstance(kept := keeper(self._hub, method, path), Provider):
            await look_up(
                self._hub,
                responder,
                kept,
                method=method,
                path=path,
                query=heading.query,
                request_id=request_id,
                on_disconnect=request.on_disconnect,
            )
        elif not posted and is_foreign(method, path):
            why = kept if isinstance(kept, ErrorReply) else UNSUPPORTED
            log_refusal(request_id, method, path, why)
            await responder.plain(
                in_both_shapes(why, request_id),
                (
                    (b"content-type", b"application/json"),
                    header("request-id", request_id),
                    *why.headers(),
                ),
                status=why.status,
            )
        elif not posted:
            scope = scope_of(request, path)
            scope["state"][REQUEST_ID_KEY] = request_id
            await self._quart(scope, receive_of(request), send_to(responder.head, responder.body))
        elif method != "POST":
            await responder.error(
                ErrorReply("method_not_allowed", f"This route is asked with POST, not {method}."),
                ((b"allow", b"POST"),),
            )
        else:
            with Body(self._bodies) as room:
                body = await self._read(room, request, called, responder, request_id)
                if body is not None and door is None:
                    await self._tell_cost(responder, heading.query, called.headers, body)
                elif body is not None and door is not None:
                    await counting.count(
                        self._hub,
                        responder,
                        door,
                        request_id=request_id,
                        headers=called.headers,
                        query=heading.query,
                        body=body,
                        on_disconnect=request.on_disconnect,
                    )

    async def _tell_cost(
        self, responder: Responder, query: bytes, headers: dict[str, str], body: bytes
    ) -> None:
        """What the request in the body would cost, and where. Nothing is sent, there is no row."""
        policy = headers.get(POLICY_HEADER)
        door = await self._door_of(query, body)
        if isinstance(door, ErrorReply):
            await responder.error(door)
            return
        if is_heavy(body):
            rules = self._hub.snapshot.config.policies.rules
            request, policy = await apart(parse_and_choose, door, body, headers, b"", rules)
        else:
            request = door.parse(body, headers, b"")
        if isinstance(request, ErrorReply):
            await responder.error(request)
            return
        quoted = status.cost(self._hub, request, policy)
        if isinstance(quoted, NoRoute):
            await responder.error(quoted.error, policy_header(quoted.policy))
            return
        await responder.plain(
            json.dumps(quoted).encode(),
            ((b"content-type", b"application/json"), *policy_header(quoted["policy"])),
        )

    async def _door_of(self, query: bytes, body: bytes) -> Dialect | ErrorReply:
        """The door that the last `endpoint=` of a query names, else the one the body is for."""
        name = dict(parse_qsl(query.decode("latin-1"))).get("endpoint")
        if name is None:
            return await apart(recognised, body) if is_heavy(body) else recognised(body)
        doors = {door.name: door for door in self._routes.values()}
        if name in doors:
            return doors[name]
        return ErrorReply("invalid_parameter", f"endpoint is one of: {listed(doors)}.", "endpoint")


PREFLIGHT: Final[Headers] = (
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"*, authorization, content-type"),
    (b"access-control-max-age", b"600"),
)


def _is_preflight(heading: Heading) -> bool:
    return heading.method == "OPTIONS" and "access-control-request-method" in heading.headers


def _cors(doorkeeper: Doorkeeper, origin: str | None) -> Headers:
    if origin is None or not doorkeeper.allows_origin(origin):
        return ()
    return (
        header("access-control-allow-origin", origin),
        header("access-control-expose-headers", EXPOSED),
        header("vary", "origin"),
    )


@final
class Later:
    """Quart's routes (`quart_routes`), imported when one of them is asked for the first time.

    Without them an idle arbstr holds 10 MB less and starts a third of a second sooner. A thread
    imports them: who streams just then goes on.
    """

    def __init__(self, hub: Hub, reports: "Reports") -> None:
        self._hub = hub
        self._reports = reports
        self._importing = trio.Lock()
        self._quart: Callable[[Any, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401
        """Serves one request."""
        if self._quart is None:
            async with self._importing:
                if self._quart is None:
                    make = await trio.to_thread.run_sync(_import_quart)
                    self._quart = make(self._hub, self._reports)
        await self._quart(scope, receive, send)


def _import_quart() -> "Callable[[Hub, Reports], QuartTrio]":
    from arbstr.trio_runtime.quart_routes import make_quart

    return make_quart

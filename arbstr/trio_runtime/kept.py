"""What a provider keeps of its answers, looked up or deleted there: free, and passed on.

    GET, DELETE /v1/responses/{id}, GET /v1/responses/{id}/input_items
        --> the provider that gave the last answer with that id, and no other

As in a request that continues an answer, the ids known are those of the answers since the start
(`sansio/routing/origins`). Of any other nobody knows whom to ask, and it is refused. Nothing is
paid and there is no row. `cancel` ends what was begun in the `background`, which arbstr relays none
of, and `compact` asks a model, so both are refused as the routes of any other API are.
"""

import logging
import time
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import trio

from arbstr.sansio.dialects.responses.door import RESPONSES
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.refusal import client_error_object, read_refusal
from arbstr.sansio.routing.catalog import Provider
from arbstr.trio_runtime.free import OnDisconnect, answered, charged, warn
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.server.responder import Responder, header
from arbstr.trio_runtime.upstream.ask import Replied, Unanswered, ask

log = logging.getLogger(__name__)

_TAILS: Final = {"GET": ("", "input_items"), "DELETE": ("",)}
"""What may stand behind an id and a slash, by method."""

_AT_FAULT: Final = {401: "provider_auth", 402: "insufficient_balance", 403: "provider_auth"}
"""Statuses that speak of arbstr's key and not of the client's request, and what that is called."""


def _kept_id(method: str, path: str) -> str | None:
    before, below, rest = path.removeprefix("/v1").partition(f"{RESPONSES.path}/")
    id_, _, tail = rest.partition("/")
    return id_ if below and not before and id_ and tail in _TAILS.get(method, ()) else None


def keeper(hub: Hub, method: str, path: str) -> Provider | ErrorReply | None:
    """Who keeps the response that such a request is about, or why nobody can be asked for it; None
    for every other request."""
    id_ = _kept_id(method, path)
    if id_ is None:
        return None
    origin = hub.origins.of(id_)
    for provider in hub.snapshot.catalog.providers:
        if origin is not None and provider.name == origin.provider:
            return provider
    return ErrorReply(
        "unsupported_endpoint",
        "This response is kept by one provider, and arbstr does not know which: it remembers only "
        "who gave the last answers since it was started.",
        should_retry=False,
    )


async def look_up(
    hub: Hub,
    responder: Responder,
    provider: Provider,
    *,
    method: str,
    path: str,
    query: bytes,
    request_id: str,
    on_disconnect: OnDisconnect,
) -> None:
    """Answers such a request as its provider does."""
    target = provider.url_of(quote(path.removeprefix("/v1")))
    if query:
        target += ("&" if "?" in target else "?") + query.decode("latin-1")
    run = partial(_pass_on, hub, responder, provider, method, target, request_id)
    await answered(hub, responder, on_disconnect, run)


async def _pass_on(
    hub: Hub, responder: Responder, provider: Provider, method: str, target: str, request_id: str
) -> None:
    name, limits = provider.name, provider.timeouts
    seconds = limits.connect + min(limits.first_output, limits.answer)
    reply = None
    with trio.move_on_after(seconds):
        reply = await ask(
            hub.transport,
            target,
            proxy=provider.proxy,
            headers=provider.credentials,
            most_bytes=hub.snapshot.config.server.max_answer_bytes,
            method=method.encode(),
        )
    shown = (header("x-arbstr-provider", name),)
    extra = {"request_id": request_id, "provider": name}
    if isinstance(reply, Replied) and (cost := charged(reply)) is not None:
        warn(name, cost, f"{method} {RESPONSES.path}/...", "there is no way to hold it", request_id)
    if isinstance(reply, Replied) and 200 <= reply.status <= 299:
        log.info('kept answer: %s at provider "%s"', method, name, extra=extra)
        kind = header("content-type", reply.headers.get("content-type", "application/json"))
        await responder.plain(reply.body, (kind, *shown), status=reply.status)
        return
    error = _error(hub, name, reply or Unanswered(f"did not answer within {seconds:g} s"))
    log.info('kept answer: %s for %s at provider "%s"', error.code, method, name, extra=extra)
    await responder.error(error, shown)


def _error(hub: Hub, name: str, reply: Replied | Unanswered) -> ErrorReply:
    if isinstance(reply, Unanswered):
        return ErrorReply("upstream_error", f"{name} {reply.sentence}.", should_retry=False)
    status = reply.status
    refusal = read_refusal(reply.headers, reply.body, now_utc=time.time())
    if status in _AT_FAULT:
        said = f"{name} refused the key or its balance with status {status}."
        return ErrorReply(_AT_FAULT[status], said, should_retry=False)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        said = f"{name} is limiting our rate (status {status})."
        return ErrorReply("rate_limited", said, retry_after=refusal.retry_after or 1.0)
    if 400 <= status < 500:
        return ErrorReply(
            "client_error",
            f"{name} refused the request with status {status}.",
            status=status,
            passthrough=client_error_object(status, refusal, hub.snapshot.catalog.secrets),
            should_retry=False,
        )
    return ErrorReply("upstream_error", f"{name} failed with status {status}.", should_retry=False)

"""How many tokens a request would have: a free question, passed to the first provider that knows.

    POST /v1/messages/count_tokens --> the candidates of the request itself, in their order, as far
                                       as they are well --> the first answer that counts

Nothing is paid, so nothing is set aside, there is no row, and what a provider answers or fails to
answer says nothing of how it is: no circuit, no rest, no latency. Only that it lacks the path is
remembered, as for any door, or that it charged for it. Who may call, what may be sent and which
models a policy allows is as for the door.
"""

import logging
from dataclasses import replace
from functools import partial
from typing import Final, final

import trio

from arbstr.sansio.dialects.dialect import Asked, Dialect
from arbstr.sansio.dialects.usage import is_heavy, parse_json
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.failover.classify import from_status
from arbstr.sansio.failover.failure import Failure, FailureKind
from arbstr.sansio.failover.kinds import TRAITS
from arbstr.sansio.routing.catalog import Offer
from arbstr.sansio.routing.plan import plan
from arbstr.sansio.routing.policy import POLICY_HEADER, parse_and_choose
from arbstr.sansio.routing.refusals import NOBODY_SERVES, NoRoute
from arbstr.trio_runtime.free import OnDisconnect, answered, charged, warn
from arbstr.trio_runtime.heavy import apart
from arbstr.trio_runtime.hub import Hub
from arbstr.trio_runtime.server.responder import Responder, header, policy_header
from arbstr.trio_runtime.upstream.ask import Replied, told

log = logging.getLogger(__name__)

PATH: Final = "/count_tokens"
"""Behind the door's own."""
COUNT_TOKENS: Final = "count_tokens"
"""What the path is called where it turned out to be missing."""
MOST_BYTES: Final = 64 * 1024
"""Of an answer, which is one number. Picked."""


async def count(
    hub: Hub,
    responder: Responder,
    dialect: Dialect,
    *,
    request_id: str,
    headers: dict[str, str],
    query: bytes,
    body: bytes,
    on_disconnect: OnDisconnect,
) -> None:
    """Answers one such question. `on_disconnect` as for `exchange.serve`."""
    policy = headers.get(POLICY_HEADER)
    snapshot = hub.snapshot
    if is_heavy(body):
        rules = snapshot.config.policies.rules
        request, policy = await apart(parse_and_choose, dialect, body, headers, query, rules)
    else:
        request = dialect.parse(body, headers, query)
    extra = {"request_id": request_id}
    if isinstance(request, ErrorReply):
        log.info("rejected: %s", request.code, extra=extra)
        await responder.error(request)
        return
    route = plan(
        replace(request, max_output=0, stream=False),
        policy_header=policy,
        catalog=snapshot.catalog,
        policies=snapshot.config.policies,
        hold=snapshot.config.budget.hold,
        learnt=hub.learnt,
    )
    if isinstance(route, NoRoute):
        error = route.error
        if error.code == NOBODY_SERVES:
            error = replace(error, code="not_found", status=0)  # on which clients estimate
        log.info("rejected: %s", error.code, extra=extra)
        await responder.error(error, policy_header(route.policy))
        return
    counting = _Counting(hub, responder, request, request_id)
    offers = [one.offer for one in route.candidates]
    run = partial(counting.run, offers, policy_header(route.policy))
    await answered(hub, responder, on_disconnect, run)


@final
class _Counting:
    """One question."""

    def __init__(self, hub: Hub, responder: Responder, request: Asked, request_id: str) -> None:
        self._hub = hub
        self._snapshot = hub.snapshot
        self._responder = responder
        self._request = request
        self._request_id = request_id
        self._extra = {"request_id": request_id}

    async def run(self, offers: list[Offer], headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Asks one after the other, and answers."""
        why: list[str] = []
        error: ErrorReply | None = None
        lacking = True
        for offer in offers:
            name = offer.provider.name
            if self._hub.paths.lacks(offer, COUNT_TOKENS):
                why.append(f"{name} does not serve it for free")
                continue
            found = await self._ask(offer)
            if isinstance(found, Replied):
                shown = (header("x-arbstr-provider", name), *headers)
                log.info('counted by provider "%s"', name, extra=self._extra)
                json = (b"content-type", b"application/json")
                await self._responder.plain(found.body, (json, *shown))
                return
            if isinstance(found, Failure) and found.kind is FailureKind.CLIENT_ERROR:
                error = ErrorReply(
                    "client_error",
                    f"The provider refused the request with {found.status}.",
                    status=found.status or 400,
                    passthrough=found.error,
                    should_retry=False,
                )
                break
            missing = isinstance(found, Failure) and found.kind is FailureKind.NO_ENDPOINT
            lacking = lacking and missing
            sentence = found.sentence if isinstance(found, Failure) else found
            why.append(f"{name} {'does not serve it' if missing else sentence}")
        if error is None:
            path = f"/v1{self._request.dialect.path}{PATH}"
            error = ErrorReply(
                "not_found" if lacking else "upstream_error",
                f"No provider of this model counts its tokens at {path}: {'; '.join(why)}.",
                should_retry=False,
            )
        log.info("not counted: %s", error.code, extra=self._extra)
        await self._responder.error(error, headers)

    async def _ask(self, offer: Offer) -> Replied | Failure | str:
        """The answer if it counts, else what was wrong; as text it is the rest of a sentence that
        begins with the provider."""
        hub, provider, request = self._hub, offer.provider, self._request
        circuit = hub.board.circuit(provider.name, offer.model, trio.current_time())
        if circuit.state == "open" or circuit.resting_until is not None:
            return "is not asked just now, after what failed before"
        kind, limits = hub.kind_of(provider), provider.timeouts
        target = self._snapshot.targets.of(provider, request.dialect.path + PATH)
        body = request.dialect.outgoing(
            request, model=offer.upstream_model, ask_usage=False, mirror_limit=TRAITS[kind].mirrors
        )
        # It is a look-up: what would be too long for the first word of an answer is so here.
        seconds = limits.connect + min(limits.first_output, limits.answer)
        with trio.move_on_after(seconds):
            head = target.head(request, stream=False)
            answer = await told(hub.transport, target.origin, head, body, MOST_BYTES)
            if not isinstance(answer, Replied):
                return answer.sentence
            return self._judged(answer, offer)
        return f"did not answer within {seconds:g} s"

    def _judged(self, answer: Replied, offer: Offer) -> Replied | Failure | str:
        hub, name = self._hub, offer.provider.name
        value = parse_json(answer.body)
        self._beware(answer, offer)
        if answer.status == 200:
            if not isinstance(value, dict) or type(value.get("input_tokens")) is not int:
                return "answered without a count"
            hub.paths.serve(name, COUNT_TOKENS)
            return answer
        kind = hub.kind_of(offer.provider)
        failure = from_status(
            answer.status,
            answer.headers,
            answer.body,
            kind=kind,
            added_stream_options=False,
            path_served=hub.paths.serves(name, COUNT_TOKENS),
            now_utc=0.0,
            secrets=self._snapshot.catalog.secrets,
        )
        if failure.kind is FailureKind.NO_ENDPOINT:
            hub.paths.miss(offer, COUNT_TOKENS, for_the_model=TRAITS[kind].relays)
        return failure

    def _beware(self, answer: Replied, offer: Offer) -> None:
        """Whoever says that it charged for this is not asked again: there is no row that could tell
        of it, and no budget that could hold it."""
        cost = charged(answer)
        if cost is None:
            return
        self._hub.paths.miss(offer, COUNT_TOKENS, for_the_model=False)
        then = "passed over there until a reload"
        warn(offer.provider.name, cost, "counting tokens", then, self._request_id)

"""`arbstr status`: one line about the running arbstr, for a status bar; 1 if it does not serve.

It is asked over its own routes, at the address and with the token of the configuration. All three
answer without a provider being asked.
"""

import argparse
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import trio

from arbstr.cli.connect_command import base_url
from arbstr.cli.ledger_options import NOT_SET
from arbstr.cli.output import complain
from arbstr.sansio.moments import format_moment
from arbstr.sansio.money import format_eyes
from arbstr.sansio.visible import escaped
from arbstr.trio_runtime.upstream.ask import Replied, ask
from arbstr.trio_runtime.upstream.transport import Transport

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Config

PATIENCE_SECONDS: Final = 3.0
"""How long arbstr may take for all of it: a status bar asks every few seconds."""

MOST_BYTES: Final = 16_000_000
"""Of an answer: /providers lists every price of every node."""

SHOWN_PROVIDERS: Final = 3
"""That the line names; of more, how many."""

Report = Mapping[str, Any]


def run(options: argparse.Namespace, config: "Config") -> int:
    """Prints it; returns the exit code."""
    if config.server.listen_port == 0:
        complain("[server] listen leaves the port open, so nobody knows where arbstr listens")
        return 1
    found = trio.run(_asked, config)
    if isinstance(found, str):
        print(json.dumps({"status": "down", "why": found}) if options.json else "arbstr down")
        complain(f"{base_url(config.server.listen)} {found}")
        return 1
    health, stats, providers = found
    report = reported(health, stats, providers)
    print(json.dumps(report, indent=2) if options.json else line(report))
    return 1 if report["status"] == "unhealthy" else 0


async def _asked(config: "Config") -> tuple[Report, Report, Report] | str:
    """What the routes say, or why nobody knows."""
    today = format_moment(int(time.time() * 1000))[:10]
    answers: list[Report] = []
    with trio.move_on_after(PATIENCE_SECONDS):
        async with Transport() as transport:
            for path in ("/health", f"/stats?since={today}", "/providers"):
                answer = await _one(transport, config, path)
                if isinstance(answer, str):
                    return answer
                answers.append(answer)
        health, stats, providers = answers
        return health, stats, providers
    return f"did not answer within {PATIENCE_SECONDS:g} s"


async def _one(transport: Transport, config: "Config", path: str) -> Report | str:
    token, headers = config.server.auth_token, []
    if token is not None and token.fits_a_header() and NOT_SET not in token.reveal():
        headers.append((b"authorization", f"Bearer {token.reveal()}".encode()))
    url = base_url(config.server.listen) + path
    answer = await ask(transport, url, headers=headers, most_bytes=MOST_BYTES)
    if not isinstance(answer, Replied):
        return answer.sentence
    if answer.status == 401:
        return "wants [server] auth_token; set its variable here, too"
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    # An arbstr that is unhealthy says so with a 503.
    is_report = answer.status == 200 or (answer.status == 503 and path == "/health")
    if not (is_report and isinstance(found, dict) and "error" not in found):
        return f"answered status {answer.status} at {path.partition('?')[0]}"
    if not _ROUTES[path.partition("?")[0]] <= found.keys():
        return "is something else than arbstr"
    return found


_ROUTES: Final = {
    "/health": {"status", "providers", "log"},
    "/stats": {"counts", "costs"},
    "/providers": {"providers"},
}
"""What stands in every answer of that route."""


def reported(health: Report, stats: Report, providers: Report) -> dict[str, Any]:
    """What `--json` prints. Sats are of the running day (UTC), `limit` and `set_aside` null without
    a budget; a provider is in trouble with a circuit that is not closed, or while it rests."""
    counts, costs = stats["counts"], stats["costs"]
    day = health.get("budget") or {}
    spent = (costs["total_cost_sats"] or 0) + (costs["possibly_spent_sats"] or 0)
    return {
        "status": health["status"],
        "in_flight": counts["in_flight"],
        "requests": counts["total"],
        "spent": day.get("spent", spent),
        "set_aside": day.get("set_aside"),
        "limit": day.get("limit"),
        "unknown_cost": counts["unknown_cost"],
        "queued": health["log"]["queued"],
        "trouble": {
            one["name"]: _trouble(one)
            for one in providers["providers"]
            if _trouble(one) is not None
        },
    }


def _trouble(provider: Report) -> str | None:
    if provider["circuit"] != "closed":
        return str(provider["circuit"])
    if provider["resting_until"] is not None:
        return "resting"
    sick = provider.get("circuits")
    return f"{len(sick)} {'model' if len(sick) == 1 else 'models'}" if sick else None


def line(report: Report) -> str:
    """The same, for a glance: what is as it should be is not told."""
    limit, trouble = report["limit"], report["trouble"]
    of = "" if limit is None else f" of {_sats(limit)}"
    parts = [
        f"arbstr {report['status']}",
        f"{report['in_flight']} in flight",
        f"{_sats(report['spent'])}{of} sats today",
    ]
    if len(trouble) > SHOWN_PROVIDERS:
        parts.append(f"{len(trouble)} providers in trouble")
    else:
        parts += [f"{escaped(name)} {what}" for name, what in trouble.items()]
    if report["unknown_cost"]:
        parts.append(f"{report['unknown_cost']} of unknown cost")
    if report["status"] == "degraded" and report["queued"]:
        parts.append(f"{report['queued']} rows wait to be written")
    return " | ".join(parts)


def _sats(amount: float) -> str:
    return format_eyes(Decimal(str(amount)))

"""`arbstr status`: one line about the running arbstr, for a status bar; 1 if it does not serve.

What its own routes say (`routes`), and of that what is not as it should be.
"""

import argparse
import json
import time
from typing import TYPE_CHECKING, Any, Final

import trio

from arbstr.cli.connect_command import base_url
from arbstr.cli.figures import sats
from arbstr.cli.output import complain
from arbstr.cli.routes import LATE, PATIENCE_SECONDS, PORT_IS_OPEN, Report, Routes, waiting_rows
from arbstr.sansio.moments import format_moment
from arbstr.sansio.visible import escaped
from arbstr.trio_runtime.upstream.transport import Transport

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Config

SHOWN_PROVIDERS: Final = 3
"""That the line names; of more, how many."""


def run(options: argparse.Namespace, config: "Config") -> int:
    """Prints it; returns the exit code."""
    if config.server.listen_port == 0:
        complain(PORT_IS_OPEN)
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
            routes = Routes(transport, config)
            for path in ("/health", f"/stats?since={today}", "/providers"):
                answer = await routes.get(path)
                if isinstance(answer, str):
                    return answer
                answers.append(answer)
        health, stats, providers = answers
        return health, stats, providers
    return LATE


def reported(health: Report, stats: Report, providers: Report) -> dict[str, Any]:
    """What `--json` prints. Sats are of the running day (UTC), `limit` and `set_aside` null without
    a budget; `waiting` says what cannot be written, if anything; a provider is in trouble with a
    circuit that is not closed, or while it rests."""
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
        "waiting": waiting_rows(health["log"]),
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
    of = "" if limit is None else f" of {sats(limit)}"
    parts = [
        f"arbstr {report['status']}",
        f"{report['in_flight']} in flight",
        f"{sats(report['spent'])}{of} sats today",
    ]
    if len(trouble) > SHOWN_PROVIDERS:
        parts.append(f"{len(trouble)} providers in trouble")
    else:
        parts += [f"{escaped(name)} {what}" for name, what in trouble.items()]
    if report["unknown_cost"]:
        parts.append(f"{report['unknown_cost']} of unknown cost")
    if report["waiting"] is not None:
        parts.append(escaped(report["waiting"]))
    return " | ".join(parts)

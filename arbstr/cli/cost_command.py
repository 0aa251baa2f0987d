"""`arbstr cost`: what a request would cost, and where, without sending it or asking a proxy.

The answer is that of POST /v1/cost, by the configuration and, if there is one, what the database
has of earlier answers. What only a running process knows (circuits, rests, latencies) is not in it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbstr.cli.figures import in_sats
from arbstr.cli.node_prices import catalog_at
from arbstr.cli.output import complain
from arbstr.cli.tables import Column, console, print_left_out, print_table, texts
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.dialects.doors import DOORS, recognised
from arbstr.sansio.errors import ErrorReply, StartError
from arbstr.sansio.routing.plan import NOTHING_LEARNT, Candidate, Learnt, plan
from arbstr.sansio.routing.quote import quote
from arbstr.sansio.routing.refusals import NoRoute
from arbstr.sansio.visible import escaped
from arbstr.trio_runtime.ledger.database import shown
from arbstr.trio_runtime.ledger.port import Trouble
from arbstr.trio_runtime.ledger.ratios import learnt_at

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Config


def run(options: argparse.Namespace, config: "Config", database: str) -> int:
    """Prints the candidates in the order they would be asked; returns the exit code."""
    request = _request(options)
    if isinstance(request, ErrorReply):
        return _refuse(request)
    learnt = _learnt(database)
    route = plan(
        request,
        policy_header=options.policy,
        catalog=catalog_at(database, config),
        policies=config.policies,
        hold=config.budget.hold,
        learnt=learnt,
    )
    if isinstance(route, NoRoute):
        return _refuse(route.error)
    quoted = quote(request, route, learnt)
    if options.json:
        print(json.dumps(quoted, indent=2))
    else:
        _print(quoted, route.candidates)
    return 0


def _refuse(error: ErrorReply) -> int:
    """Says what a client would be told, by what is typed here."""
    complain(error.message.replace("in the header X-Arbstr-Policy", "with --policy"))
    return 1


def _request(options: argparse.Namespace) -> Asked | ErrorReply:
    if options.endpoint is not None and options.endpoint not in DOORS:
        options.complain(f"--endpoint is one of: {', '.join(DOORS)}")
    raw = _read(options.file) if options.text is None else b""
    door = recognised(raw) if options.endpoint is None else DOORS[options.endpoint]
    asked: Any = None
    if raw.lstrip().startswith(b"{"):
        if options.model is None:
            return door.parse(raw, {}, b"")
        try:
            asked = json.loads(raw)
        except (ValueError, RecursionError):
            return door.parse(raw, {}, b"")  # which says what is wrong with it
    else:
        if options.model is None:
            options.complain("a text needs -m MODEL")
        text = raw.decode("utf-8", "replace") if options.text is None else options.text
        asked = door.saying(text)
    return door.parse(json.dumps({**asked, "model": options.model}).encode(), {}, b"")


def _read(file: str) -> bytes:
    try:
        if file != "-":
            return Path(file).read_bytes()
        return b"" if sys.stdin is None else sys.stdin.buffer.read()
    except OSError as error:
        raise StartError((f"{file}: cannot be read: {error.strerror}",)) from None


def _learnt(database: str) -> Learnt:
    try:
        ratios, lengths = learnt_at(database)
    except Trouble as error:
        complain(f"{shown(database)}: nothing learnt ({error})")
        return NOTHING_LEARNT
    return Learnt(ratios, {}, lengths)


def _print(quoted: dict[str, Any], candidates: Sequence[Candidate]) -> None:
    ratio = quoted["token_ratio"]
    learnt = f"{ratio['sample_count']} samples, used from {ratio['used_from']}"
    if ratio["avg_ratio"] is not None:
        learnt = f"{ratio['avg_ratio']:.3g} out for 1 in ({learnt})"
    print(f"model     {escaped(quoted['model'])}")
    if "endpoint" in quoted:
        print(f"endpoint  {quoted['endpoint']}")
    print(f"policy    {quoted['policy'] or 'none'}")
    print(f"strategy  {quoted['strategy']}")
    print(f"learnt    {learnt}")
    print()
    out = console()
    left_out = print_table(out, _candidates(quoted["candidates"], candidates), rule=False)
    for one in quoted["passed_over"]:
        print(f"not {one['provider']} for {escaped(one['model'])}: it {one['why']}")
    print_left_out(out, left_out, "a wider terminal has it, and --json")


def _candidates(quoted: Sequence[dict[str, Any]], candidates: Sequence[Candidate]) -> list[Column]:
    # Costs from the candidate itself: JSON has no exact decimals.
    def sats(name: str, amounts: Sequence[Decimal | None]) -> Column:
        return Column(name, texts([in_sats(each) or "unknown" for each in amounts]), right=True)

    def tokens(name: str, counts: Sequence[int], *, short: str = "", spare: int = 0) -> Column:
        return Column(name, texts(list(map(str, counts))), short=short, right=True, spare=spare)

    estimated = [each["estimated"] for each in quoted]
    held = [each["set_aside"]["output_tokens"] for each in quoted]
    return [
        tokens("", range(1, len(quoted) + 1)),
        Column("provider", texts([each["provider"] for each in quoted])),
        Column("model", texts([each["model"] for each in quoted])),
        tokens("tokens in", [each["input_tokens"] for each in estimated], short="in", spare=2),
        tokens("tokens out", [each["output_tokens"] for each in estimated], short="out", spare=2),
        sats("sats", [each.estimated_cost for each in candidates]),
        tokens("held tokens", held, spare=1),
        sats("held sats", [each.hold_cost for each in candidates]),
    ]

"""What is found, and what to do about it: facts in, `Finding`s out.

    provider_findings(facts about one provider)     reached, key, models, clock, balance
    server_findings(what the route said)            whether arbstr runs, and how it is
    day_findings, disk_findings, limit_findings     money and room that are left

Pure: what must be asked, read or measured is done by `machine` and `providers`.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from email.utils import parsedate_to_datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final, final

from arbstr.cli.routes import waiting_rows
from arbstr.sansio.config.credentials import key_variable
from arbstr.sansio.config.reader import ANY_MODEL
from arbstr.sansio.config.settings import ProviderConfig
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import format_eyes

FARTHEST_CLOCK: Final = 300.0
"""Seconds a clock may be off a provider's: beyond, certificates, the budget's days and the ledger's
order are in doubt."""

LEAST_FREE: Final = 100 * 10**6
"""Bytes of disk below which a ledger may be full within the day; picked."""

SMALL_FREE: Final = 10**9

FEW_REQUESTS: Final = 128
"""At once, as the log warns of (`descriptors`)."""


class Grade(StrEnum):
    """How bad it is: a fault keeps something from working, a note may be meant so."""

    OK = "ok"
    NOTE = "note"
    FAULT = "fault"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """`about` what, what `says` so, and the `remedy`, which all but `OK` have."""

    grade: Grade
    about: str
    says: str
    remedy: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """For machines."""
        return {
            "grade": self.grade.value,
            "about": self.about,
            "says": self.says,
            "remedy": self.remedy,
        }


def ok(about: str, says: str) -> Finding:
    """As it should be."""
    return Finding(Grade.OK, about, says)


def note(about: str, says: str, remedy: str) -> Finding:
    """May be meant so."""
    return Finding(Grade.NOTE, about, says, remedy)


def fault(about: str, says: str, remedy: str) -> Finding:
    """Something does not work for it."""
    return Finding(Grade.FAULT, about, says, remedy)


def of_problem(about: str, problem: str, otherwise: str) -> Finding:
    """A sentence of arbstr's own, most of which end with what to do; else `otherwise`."""
    says, _, remedy = problem.rpartition("; ")
    return fault(about, says, remedy) if says else fault(about, problem, otherwise)


# -- a provider ------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Listing:
    """What a provider answered at /models.

    `silence` is why nothing: the rest of a sentence; `own` if this machine was in the way. `models`
    are the ids it lists, `None` if it was no list. `date` is its header, `now` when it came
    (seconds since 1970).
    """

    silence: str | None = None
    own: bool = False
    status: int = 0
    models: frozenset[str] | None = None
    date: str | None = None
    now: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class Holding:
    """What is on the key of a node, in sats, `spent` there by this ledger in a day; or why that is
    not known."""

    free: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    trouble: str | None = None


def provider_findings(
    config: ProviderConfig, listing: Listing, holding: Holding | None
) -> Iterator[Finding]:
    """Of one provider. `holding` is that of a node that was asked for it."""
    about = f"provider {config.name}"
    if listing.silence is not None:
        yield fault(about, f"it {listing.silence}", _way_remedy(config, listing))
        return
    yield from _clock(about, listing)
    has_key = config.api_key is not None
    key_works = listing.status not in _KEY_REFUSED
    if not key_works:
        yield _refused(config, about, f"it answered status {listing.status} at /models")
    elif 300 <= listing.status < 400:
        yield fault(
            about,
            f"it answered status {listing.status}: what is asked there moved elsewhere",
            "set its url to the address it moved to; redirects are never followed with a key",
        )
    elif listing.status in (404, 405, 501) and _repeats(config.endpoint.shown_base):
        yield fault(
            about,
            f"it answered status {listing.status}, and its url says the same twice: "
            f"{config.endpoint.shown_base}",
            "say it once: the paths of the APIs are put behind it",
        )
    elif listing.status in (404, 405, 501):
        yield note(
            about,
            f"it lists no models (status {listing.status} at /models)",
            "see that its url ends as its documentation says (often in /v1); if it lists none, "
            "this is no fault",
        )
    elif listing.status == 429 or listing.status >= 500:
        yield fault(
            about,
            f"it is there and answered status {listing.status}",
            "try again later; arbstr uses others meanwhile, if there are any",
        )
    elif listing.status != 200 or listing.models is None:
        yield fault(
            about,
            f"it answered status {listing.status} and no list of models",
            "see that its url is that of an API, not of a web page",
        )
    else:
        yield from _models(config, about, listing.models)
    if holding is not None:
        yield from _holding(config, about, holding)
    elif has_key and key_works and listing.status == 200 and not config.asks_node:
        yield ok(about, "it is there and took the key")
    elif not has_key and listing.status == 200:
        yield note(
            about,
            "it is there, and is asked without a key",
            f"set {key_variable(config.name)} if it wants one",
        )


def _repeats(url: str) -> bool:
    """Whether a part of its path follows on itself, as in /v1/v1."""
    parts = url.partition("://")[2].split("/")[1:]
    return any(one and one == other for one, other in pairwise(parts))


_KEY_REFUSED: Final = frozenset({401, 403})


def _refused(config: ProviderConfig, about: str, says: str) -> Finding:
    where = {
        "config": f"correct {' and '.join(config.key_variables) or 'api_key in the configuration'}",
        "environment": f"correct {key_variable(config.name)}",
    }.get(config.key_source, f"set {key_variable(config.name)}")
    what = "refuses the key" if config.api_key is not None else "wants a key"
    return fault(about, f"it {what}: {says}", where)


def _way_remedy(config: ProviderConfig, listing: Listing) -> str:
    said = listing.silence or ""
    if listing.own:
        return "mend what this machine lacks for it"
    if config.proxy is not None and "proxy" in said:
        return f"see that the proxy {config.proxy.shown} runs, or leave out `proxy`"
    if "name" in said and ("not found" in said or "lookup" in said):
        return "correct the host in its url, or see that this machine's DNS works"
    if "certificate" in said or "TLS" in said:
        return "see that its url is right and this machine's clock and certificates are"
    if "within" in said:
        return "see that nothing between here and there swallows it (a firewall, a VPN)"
    return "see that its url and port are right, and that it runs"


def _clock(about: str, listing: Listing) -> Iterator[Finding]:
    if listing.date is None:
        return
    try:
        off = listing.now - parsedate_to_datetime(listing.date).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return  # a date that is none says nothing of this machine
    if abs(off) > FARTHEST_CLOCK:
        which = "fast" if off > 0 else "slow"
        yield fault(
            "clock",
            f"this machine's is {abs(off) / 60:,.0f} min {which} of that of {about}",
            "set it (timedatectl set-ntp true): days of the budget and certificates go by it",
        )


def _models(config: ProviderConfig, about: str, listed: frozenset[str]) -> Iterator[Finding]:
    asked = {model: config.model_ids.get(model, model) for model in config.models}
    asked.pop(ANY_MODEL, None)
    # A node knows a model by other names as well, and what it lacks is told with its prices.
    missing = [] if config.asks_node else sorted({m for m, i in asked.items() if i not in listed})
    if missing:
        near = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        yield fault(
            about,
            f"it does not list {near}",
            "correct its models, or say in [providers.model_ids] by which id it knows them",
        )
    elif asked:
        yield ok(about, f"it lists what is configured of it ({len(asked)} of {len(listed)})")
    else:
        yield ok(about, f"it lists {len(listed)} models")


def _holding(config: ProviderConfig, about: str, holding: Holding) -> Iterator[Finding]:
    if holding.trouble is not None:
        if "status 401" in holding.trouble or "status 403" in holding.trouble:
            yield _refused(config, about, f"it {holding.trouble}")
        else:
            yield note(
                about,
                f"what its key holds is not known: it {holding.trouble}",
                "see that it is a Routstr node (kind)",
            )
        return
    free = f"{format_eyes(holding.free)} sats are free on its key"
    if holding.free <= 0:
        yield fault(
            about, f"nothing is left on its key ({free})", f"top up the key of {config.name}"
        )
    elif holding.free < holding.spent:
        yield note(
            about,
            f"{free}, and {format_eyes(holding.spent)} were spent there in a day",
            f"top up the key of {config.name}",
        )
    else:
        yield ok(about, free)


# -- arbstr itself ---------------------------------------------------------------------------------


def server_findings(
    where: str, health: Mapping[str, Any] | str, in_the_way: str | None
) -> Iterator[Finding]:
    """Of the address in the configuration. `in_the_way`: why arbstr could not listen there."""
    if isinstance(health, str):
        if "wants [server] auth_token" in health:
            yield note(
                "arbstr", f"{where} {health}", "set it here, too, to be told how arbstr is doing"
            )
        elif "could not be reached" in health and in_the_way is None:
            yield note("arbstr", f"does not run at {where}", "start it: arbstr run")
        elif in_the_way is not None:
            yield fault(
                "arbstr",
                f"cannot listen on {where}: {in_the_way}",
                "set [server] listen to an address and port of this machine that are free",
            )
        else:
            yield fault(
                "arbstr",
                f"{where} {health}",
                "if it is another program, stop it or set [server] listen to another port",
            )
        return
    log, sick = health["log"], _sick(health)
    if log.get("damaged"):
        yield fault(
            "arbstr",
            "its ledger is damaged under it",
            "stop it, and start it with a copy that is sound (arbstr backup makes them)",
        )
    waiting = waiting_rows(log)
    if waiting is not None:
        yield fault(
            "arbstr",
            f"runs, and {waiting}",
            "free room on the ledger's disk, or end what locks it; what is written on standard "
            "error as `row dropped` meanwhile, arbstr import reads back",
        )
    if log.get("dropped"):
        yield note(
            "arbstr",
            f"{log['dropped']:,} rows are missing in its ledger since it started",
            "arbstr import FILE puts those that may have cost there, from the lines `row dropped` "
            "of its log",
        )
    if sick:
        yield note(
            "arbstr",
            f"runs, and leaves alone {'; '.join(sick)}",
            "arbstr watch shows until when; arbstr requests --success false, what failed there",
        )
    if not sick and waiting is None and not log.get("damaged"):
        yield ok("arbstr", f"runs at {where}, and is {health['status']}")


def _sick(health: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} ({circuit['state'] if circuit['state'] != 'closed' else circuit['resting_for']})"
        for name, circuit in health["providers"].items()
        if circuit["state"] != "closed" or circuit.get("resting_until") is not None
    ]


@final
@dataclass(frozen=True, slots=True)
class Unknown:
    """How many attempts at a provider nobody knows the cost of. A node has them in its books."""

    provider: str
    attempts: int
    is_node: bool


def day_findings(
    spent: Decimal, limit: Decimal | None, unknown: Sequence[Unknown]
) -> Iterator[Finding]:
    """Of today's money, and of attempts of which nobody knows what they cost, by provider."""
    if limit is not None and spent >= limit:
        yield fault(
            "budget",
            f"{format_eyes(spent)} of {format_eyes(limit)} sats of today are spent: what costs is "
            "refused until 00:00 UTC",
            "wait, or raise [budget] sats_per_day and send arbstr a SIGHUP",
        )
    elif limit is not None:
        yield ok("budget", f"{format_eyes(spent)} of {format_eyes(limit)} sats of today are spent")
    else:
        yield ok("budget", f"none; {format_eyes(spent)} sats are spent today")
    which = "arbstr requests --unknown-cost true shows which they are"
    for each in unknown:
        if each.attempts:
            yield note(
                f"provider {each.provider}",
                f"of {each.attempts} attempts there nobody knows what they cost",
                f"arbstr reconcile asks the node; {which}" if each.is_node else which,
            )


def disk_findings(free: int, size: int) -> Iterator[Finding]:
    """Of the room beside a ledger of that size, in bytes."""
    left = f"{free / 1e9:,.1f} GB are free, the ledger takes {size / 1e6:,.1f} MB"
    if free < LEAST_FREE:
        yield fault("disk", left, "free some space; when it is full, rows wait in memory")
    elif free < SMALL_FREE:
        yield note("disk", left, "free some space, or set [database] retention_days")
    else:
        yield ok("disk", left)


def limit_findings(files: int | None, others: int) -> Iterator[Finding]:
    """Of how many files arbstr may open, of which `others` serve no request; `None`: any number."""
    requests = None if files is None else max(0, files - others) // 2
    if requests is not None and requests < FEW_REQUESTS:
        yield note(
            "limits",
            f"{files} open files allow about {requests} requests at once",
            "raise the limit (ulimit -Hn, LimitNOFILE= for systemd)",
        )
    else:
        yield ok("limits", "any number of files" if files is None else f"{files} open files")

"""What may follow a failed attempt: anything at all, and where.

    FailureKind x Money --VERDICTS--> Verdict

`retry.py` obeys it, within what one request may try and spend. What a failure was and cost is
judged before, in `failure.py`. An attempt without word of which its lane tells that it took nothing
is followed like one that was not sent (`verdict_of`): nobody has served it, and nobody will.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.failure import Failure, FailureKind, Money, money_of


class Verdict(Enum):
    """What may follow a failed attempt. The value is the wording of `verdict_table`."""

    NEXT_THEN_AGAIN = (
        "the next candidate at once; when none is left, those that were not reached again after a "
        "backoff, up to `max_retries`"
    )
    AGAIN_THEN_NEXT = "the same provider after a backoff, up to `max_retries`; then the next"
    NEXT = "the next provider at once"
    WITHOUT_STREAM_OPTIONS = "the same provider once more without `stream_options`"
    DELIVER_ERROR = "nothing: the client gets the provider's error"
    STOP_UNLESS_CONSENT = (
        "nothing: `possibly_spent`; with consent other providers, "
        "until one further attempt may have cost"
    )
    END = "nothing"


def _row(free: Verdict, otherwise: Verdict) -> Mapping[Money, Verdict]:
    return MappingProxyType({m: free if m is Money.FREE else otherwise for m in Money})


_AGAIN: Final = _row(Verdict.AGAIN_THEN_NEXT, Verdict.STOP_UNLESS_CONSENT)
_NEXT: Final = _row(Verdict.NEXT, Verdict.STOP_UNLESS_CONSENT)
_END: Final = _row(Verdict.END, Verdict.END)

VERDICTS: Final[Mapping[FailureKind, Mapping[Money, Verdict]]] = MappingProxyType(
    {
        # Nobody has seen the request, and finding that out may have taken all of `connect`.
        FailureKind.NOT_SENT: _row(Verdict.NEXT_THEN_AGAIN, Verdict.STOP_UNLESS_CONSENT),
        # These pass by themselves more often than not: a restart, a full queue.
        FailureKind.SERVER_ERROR: _AGAIN,
        # These do not within seconds: the same request would meet the same answer.
        FailureKind.ACCOUNT: _NEXT,
        FailureKind.NO_MODEL: _NEXT,
        FailureKind.NOT_CAPABLE: _NEXT,
        FailureKind.NO_ENDPOINT: _NEXT,
        FailureKind.RATE_LIMITED: _NEXT,
        FailureKind.ERROR_ANSWER: _NEXT,
        FailureKind.BAD_STATUS: _NEXT,
        FailureKind.NO_ANSWER: _NEXT,
        FailureKind.GAVE_UP: _NEXT,
        FailureKind.BAD_ANSWER: _NEXT,
        FailureKind.STREAM_DIED: _NEXT,
        FailureKind.NO_STREAM_OPTIONS: _row(
            Verdict.WITHOUT_STREAM_OPTIONS, Verdict.STOP_UNLESS_CONSENT
        ),
        # The request itself is at fault: every provider would refuse it.
        FailureKind.CLIENT_ERROR: _row(Verdict.DELIVER_ERROR, Verdict.DELIVER_ERROR),
        # The client has part of an answer, or nobody is there to read one.
        FailureKind.STREAM_CUT: _END,
        FailureKind.CLIENT_LEFT: _END,
        FailureKind.SHUTDOWN: _END,
    }
)
"""What may follow, by what was seen and what it may have cost. Total, also where a kind never
has such money: a table without holes needs no judgement when `sansio.failover.failure` changes."""


def verdict_of(failure: Failure) -> Verdict:
    """What may follow it."""
    found = VERDICTS[failure.kind][failure.money]
    if failure.settled and found is Verdict.NEXT:
        return Verdict.NEXT_THEN_AGAIN
    return found


def verdict_table() -> str:
    """`VERDICTS` as a Markdown table, one row a verdict, of what can occur."""
    rows: dict[Verdict, dict[Money, list[str]]] = {verdict: {} for verdict in Verdict}
    for kind, verdicts in VERDICTS.items():
        costs = {money_of(kind, key, signed=signed) for key in Kind for signed in (True, False)}
        for money, verdict in verdicts.items():
            if money in costs:
                rows[verdict].setdefault(money, []).append(f"`{kind}`")
    lines = ["| money and kind | what may follow |", "|---|---|"]
    for verdict, kinds in rows.items():
        seen = "; ".join(f"{', '.join(names)}, when {money}" for money, names in kinds.items())
        lines.append(f"| {seen} | {verdict.value} |")
    return "\n".join(lines) + "\n"

"""How each failure looks from here, and what it costs: the manual's table, said by the rules.

    REFUSALS, ERRORS (statuses), ENDINGS (watch) --> the column "seen"
    MONEY (failure) --> a column for each kind of provider

What a rule decides by is printed from the rule. Only what a door's own judgement finds wrong with a
body, and why a row is as it is, stands here as text.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.failure import MONEY, BySignature, Cost, FailureKind, Money
from arbstr.sansio.failover.kinds import TRAITS
from arbstr.sansio.failover.statuses import ALL_4XX, ALL_5XX, ERRORS, REFUSALS, Rule, Says
from arbstr.sansio.failover.watch import ENDINGS, End

NOTES: Final[Mapping[FailureKind, str]] = MappingProxyType(
    {
        FailureKind.GAVE_UP: "something in front of the provider stopped waiting, the provider may"
        " not have",
        FailureKind.BAD_STATUS: "3xx, 204, any other",
        FailureKind.BAD_ANSWER: "a whole 2xx body that is no answer: not JSON, `choices` absent or"
        " empty, a choice without a message, over `max_answer_mb`",
        FailureKind.ERROR_ANSWER: "as or beside the answer, in a choice, or before any output;"
        " spent if a charge or counted tokens stand with it, of a node unknown if the connection"
        " breaks behind it, before it says what it took",
        FailureKind.STREAM_CUT: "of a node it is unknown until the price is learnt",
        FailureKind.CLIENT_LEFT: "the client went away; arbstr stopped it",
        FailureKind.SHUTDOWN: "arbstr was told to stop",
    }
)
"""What no rule says."""


def seen_text(failure: FailureKind) -> str:
    """How a failure looks, by the rules that name it."""
    subjects: dict[str, list[str]] = {}
    for rule in REFUSALS:
        if rule.failure is failure and rule != Rule(failure):  # that fits everything; see NOTES
            subjects.setdefault(_condition(rule), []).append(_statuses(rule))
    for rule in ERRORS:
        if rule.failure is failure and (rule == Rule(failure) or Rule(failure) not in ERRORS):
            subjects.setdefault(_condition(rule), []).append("an error object in a 2xx")
    parts = [" or ".join(those) + condition for condition, those in subjects.items()]
    for stage, row in ENDINGS.items():
        ends = [end for end in (End.BROKE, End.ENDED, End.ERROR) if row[end] is failure]
        if len(ends) == 3:
            parts.append(stage.value)
        elif ends:
            parts.append(f"{stage}: {', '.join(ends)}")
    if failure in NOTES:
        parts.append(NOTES[failure])
    return "; ".join(parts)


def _statuses(rule: Rule) -> str:
    if rule.says is Says.OF_ITS_KIND:
        own = ((kind, row.failing) for kind, row in TRAITS.items() if row.failing)
        return ", ".join(f"of {kind} {_numbers(statuses)}" for kind, statuses in own)
    if not rule.statuses:
        return "any complete answer"
    if rule.statuses in (ALL_4XX, ALL_5XX):
        return f"complete {min(rule.statuses) // 100}xx of no other row"
    return f"complete {_numbers(rule.statuses)}"


def _condition(rule: Rule) -> str:
    if rule.codes:
        return f" whose `type` or `code` is {', '.join(f'`{code}`' for code in sorted(rule.codes))}"
    return f" {rule.says}" if rule.says not in (None, Says.OF_ITS_KIND) else ""


def _numbers(statuses: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(statuses)))


def failure_table() -> str:
    """As a Markdown table, one row a failure, for the manual."""
    heads = "".join(f" {kind} key |" for kind in Kind)
    lines = [f"| failure | seen |{heads}", "|---|---|" + "---|" * len(Kind)]
    for failure, row in MONEY.items():
        costs = " | ".join(_cost_text(row[kind], kind) for kind in Kind)
        lines.append(f"| {failure} | {seen_text(failure)} | {costs} |")
    return "\n".join(lines) + "\n"


def _cost_text(cost: Cost, kind: Kind) -> str:
    match cost:
        case BySignature(signed, unsigned):
            return f"{signed} with `{TRAITS[kind].signature}`, else {unsigned}"
        case Money():
            return cost.value

"""What the manual says a failure looks like is what the rules decide by."""

import pytest

from arbstr.sansio.failover.evidence import NOTES, failure_table, seen_text
from arbstr.sansio.failover.failure import FailureKind
from arbstr.sansio.failover.statuses import REFUSALS, Rule


def test_the_table_prints_as_markdown() -> None:
    lines = failure_table().splitlines()
    assert lines[0] == "| failure | seen | openai key | routstr key |"
    assert len(lines) == 2 + len(FailureKind)
    assert all(line.count(" | ") == 3 for line in lines if not line.startswith("|---"))
    assert (
        "| server_error | complete 408, 409, 425 or complete 5xx of no other row or of routstr 424"
        " | free | free with `x-routstr-request-id`, else unknown |"
    ) in lines


@pytest.mark.parametrize("failure", FailureKind)
def test_every_failure_is_said(failure: FailureKind) -> None:
    text = seen_text(failure)
    assert text
    assert "|" not in text
    assert "; ;" not in text


@pytest.mark.parametrize("rule", [rule for rule in REFUSALS if len(rule.statuses) < 100])
def test_the_statuses_and_codes_of_a_rule_stand_in_its_row(rule: Rule) -> None:
    text = seen_text(rule.failure)
    assert all(str(status) in text for status in rule.statuses)
    assert all(f"`{code}`" in text for code in rule.codes)


def test_a_note_says_what_no_rule_does() -> None:
    assert seen_text(FailureKind.CLIENT_LEFT) == NOTES[FailureKind.CLIENT_LEFT]
    assert seen_text(FailureKind.SERVER_ERROR) == (
        "complete 408, 409, 425 or complete 5xx of no other row or of routstr 424"
    )

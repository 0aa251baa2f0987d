"""What follows where arbstr itself ends the work for a request."""

import pytest

from arbstr.sansio.failover.cut_off import CUTS, FOLLOWS, Follows, Standing, Why
from arbstr.sansio.failover.failure import FailureKind


def test_every_reason_and_every_standing_has_its_row() -> None:
    assert list(CUTS) == list(Why)
    assert list(FOLLOWS) == list(Standing)
    assert sorted(row.name for row in FOLLOWS.values()) == sorted(row.name for row in Follows)


@pytest.mark.parametrize(
    ("why", "code", "status", "should_retry", "kind"),
    [
        (Why.SHUTDOWN, "shutting_down", 503, None, FailureKind.SHUTDOWN),
        (Why.TOTAL, "upstream_error", 502, False, None),
        (Why.LEFT, "upstream_error", 502, None, FailureKind.CLIENT_LEFT),
    ],
)
def test_what_is_said(
    why: Why, code: str, status: int, should_retry: bool | None, kind: FailureKind | None
) -> None:
    cut = CUTS[why]
    reply = cut.reply(2.5)
    assert (reply.code, reply.status, reply.should_retry) == (code, status, should_retry)
    assert cut.kind is kind
    for text in (reply.message, cut.said(2.5)):
        assert ("[timeouts] total = 2.5 s" in text) is (why is Why.TOTAL)
        assert "{" not in text
    assert reply.message.endswith(".")
    assert not cut.said(2.5).endswith(".")

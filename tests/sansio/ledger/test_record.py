"""What the log says of a finished request: one vocabulary, as members and as a line."""

from dataclasses import replace
from decimal import Decimal

import pytest

from arbstr.sansio.ledger.record import Record
from tests.records import ATTEMPT, RECORD

FAILED = replace(ATTEMPT, failure="no_answer", money="unknown", cost_sats=None)
FREE = replace(FAILED, failure="server_error", money="free")


def test_why_there_was_no_answer_is_told_where_no_line_of_an_attempt_tells_it() -> None:
    refused = replace(RECORD, status="rejected", error_message="It is too dear.", attempts=())
    assert refused.members()["error"] == "It is too dear."
    assert replace(refused, status="failed", attempts=(FREE,)).members()["error"] is None


def test_the_members_are_those_of_the_ledger() -> None:
    record = replace(RECORD, policy="code", streaming=True, attempts=(FREE, FREE, ATTEMPT))
    assert record.members() == {
        "model": "gpt-4o",
        "provider": "alpha",
        "status": "ok",
        "http": 200,
        "policy": "code",
        "endpoint": "chat",
        "stream": True,
        "ms": 15,
        "input_tokens": 10,
        "output_tokens": 20,
        "retries": 2,
        "possibly_spent": 0,
        "sats": Decimal("0.13"),
        "moved": None,
        "joined": None,
        "error": None,
    }


@pytest.mark.parametrize(
    ("record", "line"),
    [
        pytest.param(
            replace(
                RECORD,
                provider=None,
                status="rejected",
                success=False,
                error_status=404,
                error_message='No provider serves the model "x".',
                input_tokens=None,
                output_tokens=None,
                cost_sats=None,
                attempts=(),
            ),
            "plain model=gpt-4o provider=- status=rejected http=404 policy=- ms=15 sats=0 "
            r'error="No provider serves the model \"x\"."',
            id="why nobody was asked",
        ),
        pytest.param(
            replace(RECORD, cost_sats=Decimal("1E-4")),
            "plain model=gpt-4o provider=alpha status=ok policy=- ms=15 tokens=10/20 sats=0.0001",
            id="an answer",
        ),
        pytest.param(
            replace(RECORD, endpoint="responses", moved=True),
            "plain endpoint=responses model=gpt-4o provider=alpha status=ok policy=- ms=15"
            " tokens=10/20 moved sats=0.13",
            id="an answer behind another door, of a conversation that went elsewhere before",
        ),
        pytest.param(
            replace(RECORD, joined="first", cost_sats=Decimal(0), attempts=(), input_tokens=None),
            "plain model=gpt-4o provider=alpha status=ok policy=- ms=15 joined=first sats=0",
            id="an answer that another request had paid for",
        ),
        pytest.param(
            replace(RECORD, endpoint="messages", moved=False),
            "plain endpoint=messages model=gpt-4o provider=alpha status=ok policy=- ms=15"
            " tokens=10/20 sats=0.13",
            id="a conversation that stayed where it was",
        ),
        pytest.param(
            replace(RECORD, cost_sats=Decimal("20.670123456789012345")),
            "plain model=gpt-4o provider=alpha status=ok policy=- ms=15 tokens=10/20 sats=20.67",
            id="a price of 20 digits",
        ),
        pytest.param(
            replace(RECORD, input_tokens=0, output_tokens=0, latency_ms=0, cost_sats=Decimal(0)),
            "plain model=gpt-4o provider=alpha status=ok policy=- ms=0 tokens=0/0 sats=0",
            id="zeros that were counted",
        ),
        pytest.param(
            replace(
                RECORD,
                status="stream_incomplete",
                success=False,
                streaming=True,
                error_status=502,
                input_tokens=None,
                output_tokens=None,
                cost_sats=None,
                possibly_spent=1,
                attempts=(FREE, FAILED),
            ),
            "stream model=gpt-4o provider=alpha status=stream_incomplete http=502 policy=- ms=15"
            " retries=2 possibly_spent=1 sats=unknown",
            id="a broken stream",
        ),
        pytest.param(
            replace(
                RECORD,
                status="rejected",
                success=False,
                provider=None,
                error_status=402,
                input_tokens=None,
                cost_sats=None,
                attempts=(),
            ),
            "plain model=gpt-4o provider=- status=rejected http=402 policy=- ms=15 sats=0",
            id="nothing was sent",
        ),
        pytest.param(
            replace(
                RECORD,
                status="client_disconnected",
                success=False,
                input_tokens=None,
                cost_sats=None,
                attempts=(FREE,),
            ),
            "plain model=gpt-4o provider=alpha status=client_disconnected policy=- ms=15 retries=1"
            " sats=0",
            id="nobody was told a status",
        ),
    ],
)
def test_the_line_says_the_members_that_say_something(record: Record, line: str) -> None:
    assert record.line() == line
    assert record.line(Decimal("531.84")).replace(" day=531.8", "") == line

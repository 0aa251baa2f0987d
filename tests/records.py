"""One finished request as an exchange records it; tests `replace` what they are about.

`INTENT` is what stands on disk before its attempt is sent.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Final

from arbstr.sansio.ledger.intents import Intent
from arbstr.sansio.ledger.record import AttemptRow, Record

ATTEMPT: Final = AttemptRow(
    n=1,
    provider="alpha",
    model="gpt-4o",
    started_at="2026-02-03T04:05:06.790Z",
    duration_ms=12,
    failure=None,
    http_status=200,
    money="spent",
    input_tokens=10,
    output_tokens=20,
    cost_sats=Decimal("0.13"),
    expected_sats=Decimal("0.125"),
    estimated_cost_sats=Decimal("0.5"),
    provider_cost_sats=Decimal("0.13"),
    upstream_request_id="up-1",
)

RECORD: Final = Record(
    correlation_id="",
    timestamp="2026-02-03T04:05:06.789Z",
    model="gpt-4o",
    requested_model="gpt-4o",
    provider="alpha",
    policy=None,
    streaming=False,
    input_tokens=10,
    output_tokens=20,
    cached_tokens=None,
    reasoning_tokens=None,
    cost_sats=Decimal("0.13"),
    expected_sats=Decimal("0.125"),
    estimated_cost_sats=Decimal("0.5"),
    provider_cost_sats=Decimal("0.13"),
    latency_ms=15,
    ttft_ms=None,
    stream_duration_ms=None,
    success=True,
    answered=True,
    status="ok",
    error_status=None,
    error_message=None,
    possibly_spent=0,
    attempts=(ATTEMPT,),
)

RUNNING: Final = replace(
    ATTEMPT,
    duration_ms=0,
    http_status=None,
    money=None,
    input_tokens=None,
    output_tokens=None,
    cost_sats=None,
    provider_cost_sats=None,
    upstream_request_id=None,
)
"""An attempt that is under way."""

INTENT: Final = Intent(
    correlation_id="one",
    timestamp=RECORD.timestamp,
    requested_model="gpt-4o",
    policy="code",
    streaming=True,
    attempts=(RUNNING,),
)

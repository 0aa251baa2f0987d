"""What the log keeps of a request: one `Record`, with one `AttemptRow` for each attempt.

The fields are the columns of `sql/0001_requests.sql` and the migrations after it, and what the row
teaches (`token_ratio`, one sample for `ratios.py`). `answered` is whether the last attempt brought
a whole answer: then it was not paid for nothing, whatever became of the request. Nobody changes a
record; `exchange.py` makes them. No text of a prompt or an answer, and none a provider wrote, has a
place here.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, final

from arbstr.sansio.failure import Money
from arbstr.sansio.money import format_sats

PRICE_TOLERANCE: Final = Decimal("0.05")
"""A provider may charge this fraction beside the formula before it is worth a warning ..."""
PRICE_TOLERANCE_SATS: Final = Decimal(1)
"""... and by at least this much: nodes round up to whole millisats and some to whole sats."""


@final
@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One row of the `attempts` table. Times in ms, money in sats."""

    n: int
    provider: str
    model: str
    started_at: str
    duration_ms: int
    failure: str | None
    http_status: int | None
    money: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_sats: Decimal | None
    expected_sats: Decimal | None
    estimated_cost_sats: Decimal | None
    provider_cost_sats: Decimal | None
    upstream_request_id: str | None

    @property
    def may_have_cost(self) -> bool:
        """Whether money may have left for this attempt."""
        return self.money != Money.FREE.value

    @property
    def price_differs(self) -> bool:
        """Whether the provider's own figure is more than 5 % and 1 sat off the formula."""
        if self.expected_sats is None or self.provider_cost_sats is None:
            return False
        off = abs(self.provider_cost_sats - self.expected_sats)
        return off > PRICE_TOLERANCE_SATS and off > PRICE_TOLERANCE * self.expected_sats


@final
@dataclass(frozen=True, slots=True)
class Record:
    """One row of the `requests` table, with its attempts. Times in ms, money in sats."""

    correlation_id: str
    timestamp: str
    model: str
    requested_model: str
    provider: str | None
    policy: str | None
    streaming: bool
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    cost_sats: Decimal | None
    expected_sats: Decimal | None
    estimated_cost_sats: Decimal | None
    provider_cost_sats: Decimal | None
    latency_ms: int
    ttft_ms: int | None
    stream_duration_ms: int | None
    success: bool
    answered: bool
    status: str
    error_status: int | None
    error_message: str | None
    possibly_spent: int
    attempts: tuple[AttemptRow, ...]
    token_ratio: float | None = None

    @property
    def may_have_cost(self) -> bool:
        """Whether losing this row could lose track of money. Rows in flight will come again."""
        return self.status != "in_flight" and any(a.may_have_cost for a in self.attempts)

    def line(self) -> str:
        """What the log says of a finished request."""
        return (
            f"{'stream' if self.streaming else 'plain'} model={self.model} "
            f"provider={self.provider or '-'} status={self.error_status or self.status} "
            f"policy={self.policy or '-'} ms={self.latency_ms} sats={self._spent()}"
        )

    def _spent(self) -> str:
        if self.cost_sats is not None:
            return format_sats(self.cost_sats)
        return "unknown" if self.may_have_cost else "0"

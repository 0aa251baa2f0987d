"""One attempt of a request, as far as it is known: its money, and its row in the log.

`exchange.py` has one for each request it made to a provider. Its times are monotonic seconds.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import final

from arbstr.sansio.failure import Failure, Money
from arbstr.sansio.money import Usage, cost_sats, sats_from_msats
from arbstr.sansio.record import AttemptRow
from arbstr.sansio.routing import Candidate


def milliseconds(seconds: float) -> int:
    """Of a span in seconds, never below zero."""
    return max(0, round(seconds * 1000))


@final
@dataclass(slots=True)
class AttemptState:
    """What is known of one attempt so far."""

    candidate: Candidate
    started_at: str
    began: float
    ended: float | None = None
    status: int | None = None
    upstream_request_id: str | None = None
    failure: Failure | None = None
    usage: Usage | None = None
    provider_cost_msats: Decimal | None = None
    cost: Decimal | None = None
    answered: bool = False
    drained: Money = Money.UNKNOWN

    @property
    def provider_cost(self) -> Decimal | None:
        """What the provider says it charged, in sats."""
        if self.provider_cost_msats is None:
            return None
        return sats_from_msats(self.provider_cost_msats)

    @property
    def money(self) -> Money | None:
        """`None` while it runs: nobody knows yet."""
        if self.answered:
            return Money.SPENT
        if self.failure is None:
            return None
        # What the provider itself said it took turns a guess into knowledge, and so does a drain.
        # That it took nothing counts only at the very end: the client was told a guess before.
        if self.failure.money is not Money.UNKNOWN:
            return self.failure.money
        return Money.SPENT if self.provider_cost_msats else self.drained

    @property
    def charged(self) -> Decimal | None:
        """What it took, in sats: nothing if it was free, `None` if nobody knows."""
        if self.money is Money.FREE:
            return Decimal(0)
        return self.cost if self.cost is not None else self.provider_cost

    @property
    def paid_for_nothing(self) -> bool:
        """Whether this attempt may have cost without bringing an answer."""
        return self.failure is not None and self.money is not Money.FREE

    def learn(self, usage: Usage | None, provider_cost_msats: Decimal | None) -> None:
        """Takes tokens and a stated price; `None` says nothing new."""
        if usage is not None and usage is not self.usage:
            self.usage = usage
            rates = self.candidate.offer.rates
            self.cost = None if rates is None else cost_sats(usage, rates)
        if provider_cost_msats is not None:
            self.provider_cost_msats = provider_cost_msats

    def learn_from_drain(
        self,
        status: int | None,
        upstream_request_id: str | None,
        usage: Usage | None,
        provider_cost_msats: Decimal | None,
        money: Money,
    ) -> None:
        """Takes what a background drain learnt after the attempt had failed."""
        if status is not None:
            self.status = status
            self.upstream_request_id = upstream_request_id
        self.learn(usage, provider_cost_msats)
        # A node that says it took nothing took nothing, however its answer ended.
        self.drained = Money.FREE if self.provider_cost_msats == 0 else money

    def row(self, n: int, now: float) -> AttemptRow:
        """What the log keeps of it as attempt `n`; one that still runs lasts until now."""
        ended = self.ended if self.ended is not None else now
        return AttemptRow(
            n=n,
            provider=self.candidate.offer.provider.name,
            model=self.candidate.offer.model,
            started_at=self.started_at,
            duration_ms=milliseconds(ended - self.began),
            failure=self.failure.kind.value if self.failure is not None else None,
            http_status=self.status,
            money=self.money.value if self.money is not None else None,
            input_tokens=self.usage.input_tokens if self.usage is not None else None,
            output_tokens=self.usage.output_tokens if self.usage is not None else None,
            cost_sats=self.cost,
            estimated_cost_sats=self.candidate.estimated_cost,
            provider_cost_sats=self.provider_cost,
            upstream_request_id=self.upstream_request_id,
        )

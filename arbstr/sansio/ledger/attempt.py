"""One attempt of a request, as far as it is known: its money, and its row in the log.

An exchange has one for each request it made to a provider. Its times are monotonic seconds.

    what is known                                      money       cost
    the provider states a charge above 0               spent       the charge
    it states exactly 0, and that was its last word    free        0; of a whole answer: spent, 0
    it states nothing, or 0 before its last word       the class   the formula, nothing if free

"The class" is what the failure says (`failover/failure.py`), and then what a drain tells; an answer
is spent. `expected` is the formula's figure whatever was stated. Unknown is not zero: without
tokens (or rates) and without a statement there is no cost. Counts of tokens that cannot be are as
if there were none (`doubt`): a typing error of a provider's must not close the day for everybody.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Final, final

from arbstr.sansio.failover.failure import Failure, Money
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.ledger.intents import Begun
from arbstr.sansio.ledger.record import AttemptRow
from arbstr.sansio.money import Usage, cost_sats, format_eyes, multiply_sats, sats_from_msats
from arbstr.sansio.routing.plan import Candidate

MOST_TIMES_HELD: Final = 10
"""An attempt cannot have cost more than so many times what was set aside for it: a hold goes by
likely lengths, and input is estimated, but not that badly. Picked."""

UNSEEN_INPUT: Final = 32_768
"""Tokens of input that are believed all the same: an estimate is made of the text alone, and the
images or the file beside it, some thirty pages, are not in it. Picked."""


BY_LANE: Final = "lane"
"""What stands in the column `settled` of an attempt whose lane told its price."""


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
    expected: Decimal | None = None
    answered: bool = False
    drained: Money | None = None
    doubt: str | None = None
    by_lane: bool = False
    lane: str | None = None
    _told: Usage | None = None

    @property
    def provider_cost(self) -> Decimal | None:
        """What the provider says it charged, in sats; or its counters, without a word of it."""
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
        # A statement outranks a class. That it took nothing counts only when nothing more can come:
        # the failure heeded it then, and so does a drain.
        if self.provider_cost_msats:
            return Money.SPENT
        if self.drained is Money.FREE and self.provider_cost_msats == 0:
            return Money.FREE
        known = self.failure.money is not Money.UNKNOWN
        return self.failure.money if known or self.drained is None else self.drained

    @property
    def cost(self) -> Decimal | None:
        """What it cost, in sats: what was stated, else by the formula; `None` is not known."""
        return self._cost(self.money, self.provider_cost)

    def _cost(self, money: Money | None, stated: Decimal | None) -> Decimal | None:
        free = money is Money.FREE
        if free or (stated is not None and (stated or self.answered)):
            return stated
        return self.expected

    @property
    def is_over(self) -> bool:
        """Whether it failed or brought a whole answer; a drain may still add to what is known."""
        return self.answered or self.failure is not None

    @property
    def charged(self) -> Decimal | None:
        """What it took, in sats: nothing if it was free, `None` if nobody knows."""
        return Decimal(0) if self.money is Money.FREE else self.cost

    @property
    def paid_for_nothing(self) -> bool:
        """Whether this attempt may have cost without bringing an answer."""
        return self.failure is not None and self.money is not Money.FREE

    def learn(self, usage: Usage | None, provider_cost_msats: Decimal | None) -> None:
        """Takes tokens and a stated price; `None` says nothing new."""
        if usage is not None and usage is not self._told:
            self._told = usage
            rates = self.candidate.offer.rates
            expected = None if rates is None else cost_sats(usage, rates)
            self.doubt = doubt_about(usage, expected, self.candidate)
            believed = self.doubt is None
            self.usage, self.expected = (usage, expected) if believed else (None, None)
        if provider_cost_msats is not None:
            self.provider_cost_msats = provider_cost_msats

    def learn_from_drain(
        self,
        status: int | None,
        upstream_request_id: str | None,
        usage: Usage | None,
        provider_cost_msats: Decimal | None,
        money: Money | None,
        *,
        by_lane: bool = False,
    ) -> None:
        """Takes what a background drain learnt after the attempt had failed, or its lane told.

        `money` is what the end of the answer tells; `None` if it never came.
        """
        if provider_cost_msats is not None:
            self.by_lane = by_lane
        if status is not None:
            self.status = status
            self.upstream_request_id = upstream_request_id
        self.learn(usage, provider_cost_msats)
        # A lane may have told before its drain ended: without a word that changes nothing.
        if money is not None or not self.by_lane:
            self.drained = money

    def begun(self, n: int) -> Begun:
        """The same as attempt `n` that is about to be sent."""
        candidate, price = self.candidate, self.candidate.offer.price
        return Begun(
            n,
            candidate.offer.provider.name,
            candidate.offer.model,
            self.started_at,
            candidate.estimated_cost,
            candidate.hold_cost,
            None if price is None else price.id,
            self.lane,
            candidate.offer.provider.key_id,
        )

    def row(self, n: int, now: float) -> AttemptRow:
        """What the log keeps of it as attempt `n`; one that still runs lasts until now."""
        ended = self.ended if self.ended is not None else now
        candidate, usage, failure, money, stated = (
            self.candidate,
            self.usage,
            self.failure,
            self.money,
            self.provider_cost,
        )
        offer = candidate.offer
        if not stated and money in (None, Money.UNKNOWN):
            stated = None  # no last word: a lane or a checkpoint may still tell
        return AttemptRow(
            n=n,
            provider=offer.provider.name,
            model=offer.model,
            started_at=self.started_at,
            duration_ms=milliseconds(ended - self.began),
            failure=failure and failure.kind.value,
            http_status=self.status,
            money=money and money.value,
            input_tokens=usage and usage.input_tokens,
            output_tokens=usage and usage.output_tokens,
            cost_sats=self._cost(money, stated),
            expected_sats=self.expected,
            estimated_cost_sats=candidate.estimated_cost,
            provider_cost_sats=None if self.by_lane else stated,
            upstream_request_id=self.upstream_request_id,
            set_aside_sats=candidate.hold_cost,
            price_id=offer.price and offer.price.id,
            settled=BY_LANE if self.by_lane else None,
            lane=self.lane,
            said=failure and failure.words,
            key_id=offer.provider.key_id,
        )

    def disbelief(self) -> str | None:
        """What the log is told of counts that were not believed: a sentence without a full stop."""
        if self.doubt is None:
            return None
        name, model = self.candidate.offer.provider.name, self.candidate.offer.model
        if self.charged is not None:
            what = f"{format_eyes(self.charged)} sats are booked, which it states"
        else:
            set_aside = self.candidate.hold_cost
            what = f"what was set aside is booked, {format_eyes(set_aside or Decimal(0))} sats"
        return f'provider "{name}" {self.doubt} (model {model}): not believed, {what}'


def doubt_about(usage: Usage, cost: Decimal | None, candidate: Candidate) -> str | None:
    """Why a provider's counts cannot be, or `None`: a predicate whose subject is the provider.

    `cost` is theirs by the formula, in sats.
    """
    hold, set_aside = candidate.hold, candidate.hold_cost
    # Some providers' limit is not on the thinking (xAI, DeepSeek): they charge it all the same.
    answer = usage.output_tokens - (usage.reasoning_tokens or 0)
    if hold.allowed is not None and answer > hold.allowed * hold.choices:
        each = f" in each of {hold.choices} choices" if hold.choices > 1 else ""
        return (
            f"counted {usage.output_tokens} tokens of output"
            f" where the request allows {hold.allowed}{each}"
        )
    if cost is None or set_aside is None:
        return None
    rates = candidate.offer.rates
    most = multiply_sats(set_aside, MOST_TIMES_HELD)
    # The first look is enough for nearly all.
    if cost <= most or rates is None:
        return None
    seen = replace(usage, input_tokens=max(0, usage.input_tokens - UNSEEN_INPUT))
    if cost_sats(seen, rates) <= most:
        return None
    return (
        f"counted {usage.input_tokens} tokens of input and {usage.output_tokens} of output,"
        f" {format_eyes(cost)} sats by its rates where {format_eyes(set_aside)} were set aside"
    )

"""What the log keeps of a request: one `Record`, with one `AttemptRow` for each attempt.

The fields are the columns of `sql/0001_requests.sql` and the migrations after it, and what the row
teaches (`token_ratio`, one sample for `routing/ratios.py`). `answered` is whether the last attempt
brought a whole answer: then it was not paid for nothing, whatever became of the request. Nobody
changes a record; the exchange makes them. No text of a prompt or an answer, and none a provider
wrote, has a place here.
"""

import json
from decimal import Decimal
from typing import Final, TypeAlias, final

from arbstr.sansio.endpoints import CHAT
from arbstr.sansio.failover.failure import Money
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import format_eyes

Member: TypeAlias = str | int | Decimal | None
"""What a member of the log's line may be; `bool` is an `int`."""

_ZERO: Final = Decimal(0)


@final
@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One row of the `attempts` table. Times in ms, money in sats.

    `set_aside_sats` is what the budget held for it, and books if nobody learns the price; rows of
    an older arbstr have none. `price_id` is the price a node listed by which it was routed.
    `settled`: how its price was learnt that nobody stated. `lane`: what it ran on, and what that
    had counted before (`lanes.Noted`). `said`: the provider's own words of a refused key or an
    unknown model, on one short line without secrets. `key_id` tells which key of a node it was sent
    with.
    """

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
    set_aside_sats: Decimal | None = None
    price_id: int | None = None
    settled: str | None = None
    lane: str | None = None
    said: str | None = None
    key_id: str | None = None

    @property
    def may_have_cost(self) -> bool:
        """Whether money may have left for this attempt."""
        return self.money != Money.FREE.value


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
    endpoint: str = CHAT
    moved: bool | None = None
    joined: str | None = None

    @property
    def may_have_cost(self) -> bool:
        """Whether losing this row could lose track of money. Rows in flight will come again."""
        return self.status != "in_flight" and any(a.may_have_cost for a in self.attempts)

    @property
    def retries(self) -> int:
        """How many attempts failed."""
        return sum([attempt.failure is not None for attempt in self.attempts])

    @property
    def sats(self) -> Decimal | None:
        """What it cost: 0 if it was free, `None` if nobody knows."""
        unknown = self.cost_sats is None and self.may_have_cost
        return None if unknown else self.cost_sats or _ZERO

    def members(self, day: Decimal | None = None) -> dict[str, Member]:
        """What the log says of a finished request, by name, for people and for machines alike.

        `status` is the column's word; `http` is the status the client got, where one is known.
        `sats` is what it cost: 0 if it was free, `None` if nobody knows. `error` is why nobody was
        asked. `moved` is None where no answer of the same conversation was known. `joined` is the
        id of the request whose answer this one got, too. `day_sats` is `day`, what was spent on the
        running day with this one, if that is known.
        """
        said: dict[str, Member] = {
            "model": self.model,
            "provider": self.provider,
            "status": self.status,
            "http": 200 if self.success else self.error_status,
            "policy": self.policy,
            "endpoint": self.endpoint,
            "stream": self.streaming,
            "ms": self.latency_ms,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "retries": self.retries,
            "possibly_spent": self.possibly_spent,
            "sats": self.sats,
            "moved": self.moved,
            "joined": self.joined,
            # Where somebody was asked, each attempt that failed has had a line of its own.
            "error": None if self.attempts else self.error_message,
        }
        if day is not None:
            said["day_sats"] = day
        return said

    def line(self, day: Decimal | None = None) -> str:
        """`members` as the text of the log's line; what did not happen is left out."""
        # Written out: to go through `members` by their names takes twice as long (measured).
        provider = "-" if self.provider is None else self.provider
        policy = "-" if self.policy is None else self.policy
        http, retries, sats = self.error_status, self.retries, self.sats
        said = "stream" if self.streaming else "plain"
        if self.endpoint != CHAT:
            said += f" endpoint={self.endpoint}"
        said += f" model={self.model} provider={provider} status={self.status}"
        if http and not self.success:
            said += f" http={http}"
        said += f" policy={policy} ms={self.latency_ms}"
        if self.input_tokens is not None:
            said += f" tokens={self.input_tokens}/{self.output_tokens}"
        if retries:
            said += f" retries={retries}"
        if self.possibly_spent:
            said += f" possibly_spent={self.possibly_spent}"
        if self.moved:
            said += " moved"
        if self.joined is not None:
            said += f" joined={self.joined}"
        said += f" sats={'unknown' if sats is None else format_eyes(sats)}"
        if day is not None:
            said += f" day={format_eyes(day)}"
        if self.error_message and not self.attempts:
            said += f" error={json.dumps(self.error_message, ensure_ascii=False)}"
        return said

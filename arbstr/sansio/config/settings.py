"""What arbstr is told to do, as frozen dataclasses: the tables of the configuration, resolved.

A field annotated with a check (`values.py`) is a key of the file, and the dataclass is its table;
`reader.py` reads one into the other. Defaults are stated here alone. Reading is not done here.
"""

from collections.abc import Collection, Mapping
from dataclasses import field
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, Final, final

from arbstr.sansio.config import addresses, values
from arbstr.sansio.config.credentials import KeySource, Kind
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Rates
from arbstr.sansio.secrets import Secret

ANY_MODEL: Final = values.ANY_MODEL

AUTO: Final = "auto"
"""The model a client names to let arbstr choose one; no provider can serve one so called."""

STRATEGY_NAMES: Final = ("cheapest", "lowest_cost", "lowest_latency")
"""Each is a row of `routing.plan.STRATEGIES`."""
STRATEGY: Final = values.one_of(*STRATEGY_NAMES)

LIKELY: Final = "likely"
MOST: Final = "most"
"""What a request is held to: what answers like it take, or all that the client allows."""

FROM_NODE: Final = "node"
"""Rates that are read from a Routstr node; those of the file are the most it may ask, then."""

BEARER: Final = "bearer"
X_API_KEY: Final = "x-api-key"
"""How a provider takes its key: as `Authorization: Bearer`, or bare under a name of Anthropic's."""

MOST_WORKERS: Final = 64
"""Processes that serve one address: more than cores of a machine gain nothing. Picked."""

MEGABYTE: Final = 1_000_000

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


@final
@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`[server]`: where arbstr listens, who may call, how much it takes in.

    `workers`: how many processes serve the address.
    """

    listen: Annotated[str, values.listen] = "127.0.0.1:8080"
    auth_token: Annotated[Secret | None, values.secret] = None
    allowed_hosts: Annotated[tuple[str, ...], values.each(addresses.parse_host)] = ()
    allowed_origins: Annotated[tuple[str, ...], values.each(addresses.parse_origin)] = ()
    max_body_mb: Annotated[Decimal, values.megabytes] = Decimal(64)
    max_answer_mb: Annotated[Decimal, values.megabytes] = Decimal(64)
    shutdown_seconds: Annotated[float, values.seconds] = 30.0
    workers: Annotated[int, values.whole_number(1, MOST_WORKERS)] = 1

    @property
    def listen_host(self) -> str:
        """The host to bind, IPv6 without brackets."""
        return addresses.parse_listen(self.listen)[0]

    @property
    def listen_port(self) -> int:
        """The port to bind; 0 lets the system pick."""
        return addresses.parse_listen(self.listen)[1]

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect, so that no `auth_token` is needed."""
        return addresses.is_loopback(self.listen_host)

    @property
    def max_body_bytes(self) -> int:
        """The longest request body that is taken."""
        return int(self.max_body_mb * MEGABYTE)

    @property
    def max_answer_bytes(self) -> int:
        """The longest plain answer that is taken."""
        return int(self.max_answer_mb * MEGABYTE)


@final
@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """`[database]`. Without `retention_days` every row is kept. A `url` outranks the `path`.

    `wait`: a server that is not there at the start is waited for; requests are served meanwhile.
    """

    path: Annotated[str, values.text] = "./arbstr.db"
    url: Annotated[Secret | None, values.ledger_url] = None
    wait: Annotated[bool, values.switch] = False
    retention_days: Annotated[int | None, values.whole_number(1, 36_500)] = None


@final
@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """`[logging]`."""

    level: Annotated[str, values.one_of("debug", "info", "warning", "error")] = "info"
    format: Annotated[str, values.one_of("text", "json")] = "text"


@final
@dataclass(frozen=True, slots=True)
class Timeouts:
    """`[timeouts]`, in seconds from the moment the connection is ready unless said otherwise."""

    connect: Annotated[float, values.seconds_above_0] = 10.0
    """Until the connection is ready."""
    first_output: Annotated[float, values.seconds_above_0] = 60.0
    """Streams: until the first event with output."""
    answer: Annotated[float, values.seconds_above_0] = 600.0
    """Plain answers: until the whole body is there."""
    idle: Annotated[float, values.seconds_above_0] = 120.0
    """Streams: between two events."""
    total: Annotated[float, values.seconds] = 0.0
    """Everything, all attempts together; 0 is no limit."""


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """One `[[policies.rules]]`. No `allowed_models` allows all, no `strategy` means the default."""

    name: Annotated[str, values.rule_name]
    allowed_models: Annotated[tuple[str, ...], values.allowed_models] = ()
    strategy: Annotated[str | None, STRATEGY] = None
    max_sats_per_1k_output: Annotated[Decimal | None, values.rate] = None
    max_sats_per_request: Annotated[Decimal | None, values.rate] = None
    keywords: Annotated[tuple[str, ...], values.texts] = ()

    def allows(self, model: str) -> bool:
        """Whether a request under this rule may use the model."""
        return not self.allowed_models or model in self.allowed_models


@final
@dataclass(frozen=True, slots=True)
class Policies:
    """`[policies]`, with the rules in the file's order.

    `affinity`: a conversation stays where it was answered while that is no dearer.
    """

    default_strategy: Annotated[str, STRATEGY] = "cheapest"
    affinity: Annotated[bool, values.switch] = True
    rules: tuple[Rule, ...] = ()

    def strategy_of(self, rule: Rule | None) -> str:
        """The strategy of a request under this rule, or under none."""
        return (rule.strategy if rule is not None else None) or self.default_strategy


@final
@dataclass(frozen=True, slots=True)
class RetryConfig:
    """`[retry]`: `backoff` in seconds, doubled each time; `patience` in seconds, 0 is none.

    `repeat_guard`: seconds for which a request is remembered whose client did not get its answer, 0
    is off; `linger`: seconds for which an answer goes on whose client has left, 0 is none.
    """

    max_retries: Annotated[int, values.whole_number(0)] = 2
    backoff: Annotated[float, values.seconds] = 0.5
    possibly_spent: Annotated[str, values.one_of("stop", "next")] = "stop"
    patience: Annotated[float, values.seconds] = 3.0
    repeat_guard: Annotated[float, values.seconds] = 60.0
    linger: Annotated[float, values.seconds] = 2.0
    reconcile_seconds: Annotated[float, values.seconds] = 3.0


@final
@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """`[breaker]`."""

    failures: Annotated[int, values.whole_number(1)] = 3
    open_seconds: Annotated[float, values.seconds] = 30.0


@final
@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """`[budget]`: what may be spent on one UTC day, in satoshis; `None` is no limit.

    `hold` is what budget and caps hold a request to before it is sent (`routing/holds.py`).
    `open`: a day whose ledger cannot be read begins at 0.
    """

    sats_per_day: Annotated[Decimal | None, values.rate] = None
    hold: Annotated[str, values.one_of(LIKELY, MOST)] = LIKELY
    open: Annotated[bool, values.switch] = False


@final
@dataclass(frozen=True, slots=True)
class StreamConfig:
    """`[stream]`: `keepalive` is the silence in seconds before a comment is sent; 0 is never."""

    keepalive: Annotated[float, values.seconds] = 15.0


OVERCHARGE: Final = ("warn", "rest", "stop")
"""What may follow if a node charges more than it should: a line in the log, which the others have
as well; it is left alone for an hour; it is left alone until a reload."""


@final
@dataclass(frozen=True, slots=True)
class ProviderTable:
    """The keys of one `[[providers]]` that are no rates and no tables of their own."""

    name: Annotated[str, values.provider_name]
    url: Annotated[str, values.url] = field(repr=False)
    models: Annotated[tuple[str, ...] | None, values.models] = None
    api_key: Annotated[Secret | None, values.secret] = None
    rates: Annotated[str | None, values.one_of(FROM_NODE)] = None
    kind: Annotated[Kind | None, values.kind] = None
    key_header: Annotated[str, values.one_of(BEARER, X_API_KEY)] = BEARER
    drain_seconds: Annotated[float, values.seconds] = 60.0
    lanes: Annotated[int, values.whole_number(0, 500)] = 0
    lane_sats: Annotated[Decimal, values.rate] = Decimal(0)
    overcharge: Annotated[str, values.one_of(*OVERCHARGE)] = OVERCHARGE[0]
    proxy: Annotated[addresses.Proxy | None, values.proxy] = None
    model_ids: Annotated[Mapping[str, str], values.model_ids] = field(
        default_factory=lambda: _EMPTY
    )
    endpoints: Annotated[tuple[str, ...], values.endpoints] = ENDPOINTS
    model_endpoints: Annotated[Mapping[str, tuple[str, ...]], values.model_endpoints] = field(
        default_factory=lambda: _EMPTY
    )


@final
@dataclass(frozen=True, slots=True)
class RatesTable:
    """The rates in one `[[providers]]`, and in one table of its `model_rates`."""

    input_rate: Annotated[Decimal | None, values.rate] = None
    output_rate: Annotated[Decimal | None, values.rate] = None
    cached_input_rate: Annotated[Decimal | None, values.rate] = None
    cache_write_rate: Annotated[Decimal | None, values.rate] = None
    base_fee: Annotated[Decimal | None, values.rate] = None


@final
@dataclass(frozen=True, slots=True)
class TimeoutsTable:
    """What the `timeouts` of one provider override."""

    connect: Annotated[float | None, values.seconds_above_0] = None
    first_output: Annotated[float | None, values.seconds_above_0] = None
    answer: Annotated[float | None, values.seconds_above_0] = None
    idle: Annotated[float | None, values.seconds_above_0] = None


@final
@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One `[[providers]]`, resolved: its key found, its kind known, its timeouts complete.

    `rates` are the provider's own; `model_rates` holds, for a model that has some of its own, the
    two together. `None` is unknown. `url` is as configured and may carry userinfo or a query.
    `key_variables` are those that a key in the file is made of. `key_header` is how it takes its
    key. `endpoints` are the APIs it serves, `model_endpoints`
    those for a model where they are others.
    `asks_node`: the rates are the node's own, and those here the most it may ask (`None`: any).
    `lanes`: so many child keys, each for `lane_sats` at most; `overcharge`: what follows if it
    charges more than it should, one of `OVERCHARGE`.
    """

    name: str
    url: str = field(repr=False)
    models: tuple[str, ...]
    api_key: Secret | None = None
    key_source: KeySource = "none"
    key_variables: tuple[str, ...] = ()
    key_header: str = BEARER
    kind: Kind = Kind.OPENAI
    rates: Rates | None = None
    asks_node: bool = False
    model_rates: Mapping[str, Rates] = field(default_factory=lambda: _EMPTY)
    model_ids: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    drain_seconds: float = 60.0
    lanes: int = 0
    lane_sats: Decimal = Decimal(0)
    overcharge: str = OVERCHARGE[0]
    timeouts: Timeouts = field(default_factory=Timeouts)
    proxy: addresses.Proxy | None = None
    endpoints: tuple[str, ...] = ENDPOINTS
    model_endpoints: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _EMPTY)

    @property
    def endpoint(self) -> addresses.Endpoint:
        """The URL, taken apart."""
        return addresses.parse_url(self.url)

    @property
    def named(self) -> tuple[str, ...]:
        """The models in the file, each once: `models`, `"*"` among them, then those beside `"*"`
        that have an entry of their own."""
        return tuple(dict.fromkeys(model for table in self._tables for model in table))

    def names(self, model: str) -> bool:
        """Whether the file speaks of this very model."""
        return any(model in table for table in self._tables)

    @property
    def _tables(self) -> tuple[Collection[str], ...]:
        return self.models, self.model_rates, self.model_ids, self.model_endpoints

    def rates_for(self, model: str) -> Rates | None:
        """What this provider asks for the model (the client's id), `None` if unknown; with
        `asks_node` the most it may ask."""
        return self.model_rates.get(model, self.rates)

    def endpoints_for(self, model: str) -> tuple[str, ...]:
        """The APIs by which this provider serves the model (the client's id)."""
        return self.model_endpoints.get(model, self.endpoints)


@final
@dataclass(frozen=True, slots=True)
class Config:
    """All of the file. `providers` may be empty: whether that will do is the command's affair.

    `warnings` are sentences about what works but may not be meant; `variables` are those that it
    takes values from, and `token_variable` the one that is `auth_token`, if it is one alone.
    """

    server: ServerConfig = field(default_factory=ServerConfig)
    database: DatabaseConfig = field(default_factory=DatabaseConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    providers: tuple[ProviderConfig, ...] = ()
    policies: Policies = field(default_factory=Policies)
    retry: RetryConfig = field(default_factory=RetryConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    timeouts: Timeouts = field(default_factory=Timeouts)
    stream: StreamConfig = field(default_factory=StreamConfig)
    warnings: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    token_variable: str | None = None

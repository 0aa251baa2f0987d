"""TOML text and an environment -> `Config`: frozen, strict, every fault reported at once.

    text --tomllib--> tables --expand ${VAR}--> tables --pydantic--> dataclasses --resolve--> Config

A table is read (`tables.py`) into the dataclass of its subject (`settings.py`); its fields are the
keys that are accepted. A key is accepted only once it does what it says. What needs more than one
table (whose key, which kind, the rates of a model) is resolved afterwards.

Faults are sentences (`faults.py`), raised together as one `ConfigError`. No sentence repeats a
value. Nothing here reads a file; who needs settings imports them from here.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias, final

from arbstr.sansio.config.addresses import parse_url
from arbstr.sansio.config.cautions import as_milliseconds, cautions
from arbstr.sansio.config.credentials import (
    Kind,
    find_key,
    infer_kind,
    key_variable,
    lists_prices,
    sharing_a_token,
    sharing_a_variable,
)
from arbstr.sansio.config.faults import NO_BACKSLASH, Faults, Path, broken_toml, quoted, quoted_list
from arbstr.sansio.config.models import (
    RATE_KEYS,
    check_ids,
    has_cut_ids,
    rates_by_model,
    resolve_rates,
)
from arbstr.sansio.config.settings import (
    ANY_MODEL,
    AUTO,
    BEARER,
    FROM_NODE,
    OVERCHARGE,
    STRATEGY_NAMES,
    BreakerConfig,
    BudgetConfig,
    Config,
    DatabaseConfig,
    LoggingConfig,
    Policies,
    ProviderConfig,
    ProviderTable,
    RatesTable,
    RetryConfig,
    Rule,
    ServerConfig,
    StreamConfig,
    Timeouts,
    TimeoutsTable,
)
from arbstr.sansio.config.tables import Table, given, named_tables, read_table
from arbstr.sansio.errors import ConfigError
from arbstr.sansio.secrets import NO_KEY, ExpansionError, Secret, expand, variables
from arbstr.sansio.visible import first_unseen

__all__ = [
    "ANY_MODEL",
    "AUTO",
    "STRATEGY_NAMES",
    "BreakerConfig",
    "BudgetConfig",
    "Config",
    "DatabaseConfig",
    "Kind",
    "LoggingConfig",
    "Policies",
    "ProviderConfig",
    "RetryConfig",
    "Rule",
    "Secret",
    "ServerConfig",
    "StreamConfig",
    "Timeouts",
    "parse_config",
]

_Toml: TypeAlias = Any
"""What tomllib makes of a value: nothing is known of it until it is checked."""

SECTIONS: Final = (
    "server",
    "database",
    "logging",
    "providers",
    "policies",
    "budget",
    "retry",
    "breaker",
    "timeouts",
    "stream",
)
"""The top of the file."""

CARRIAGE_RETURN: Final = "U+000D"
WINDOWS: Final = "set it again: the file it was read from has Windows line ends"

_PROVIDER_TABLES: Final = ("timeouts", "model_rates")


def parse_config(text: str, environ: Mapping[str, str], *, name: str = "config.toml") -> Config:
    """Read a configuration. `name` is how the sentences call the file.

    Raises `ConfigError` with every fault that could be found at once.
    """
    try:
        reader = _Reader(_document(text, name), environ, Faults(name))
        config = reader.config()
    except RecursionError:
        raise ConfigError((f"{name}: is nested too deeply; make it flatter",)) from None
    reader.faults.raise_if_any()
    return config


def _document(text: str, name: str) -> dict[str, Any]:
    try:
        # Windows editors begin a file with a byte order mark.
        return tomllib.loads(text.removeprefix("\ufeff"), parse_float=_decimal)
    except ValueError as error:
        raise broken_toml(name, text, error) from None


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        # An exponent beyond what a Decimal holds: refused later, where the key path is known.
        return Decimal("inf")


@final
class _Reader:
    """Reads the tables of one document, and keeps the faults and warnings it meets."""

    def __init__(
        self, document: Mapping[str, Any], environ: Mapping[str, str], faults: Faults
    ) -> None:
        self._document = document
        self._environ = environ
        self.faults = faults
        self._warnings: list[str] = []
        self._variables: dict[str, None] = {}  # in the order they were met

    def config(self) -> Config:
        """All of the document. Of use only if `faults` stays empty."""
        for key in self._document:
            if key not in SECTIONS:
                self.faults.unknown_key((key,), SECTIONS)
        timeouts = self._section(Timeouts, "timeouts")
        server = self._section(ServerConfig, "server")
        token = "" if server.auth_token is None else self._document["server"]["auth_token"]
        if token and "${" not in token:
            self._warn(("server", "auth_token"), "is written into the file; write ${VARIABLE}")
        providers = tuple(self._providers(timeouts))
        policies = self._section(Policies, "policies", aside=("rules",))
        database = self._section(DatabaseConfig, "database")
        if database.url is not None and "path" in self._document["database"]:
            self._warn(("database", "path"), "is not used beside url; remove one of them")
        return Config(
            server=server,
            database=database,
            logging=self._section(LoggingConfig, "logging"),
            providers=providers,
            policies=replace(policies, rules=tuple(self._rules(providers))),
            budget=self._section(BudgetConfig, "budget"),
            retry=self._section(RetryConfig, "retry"),
            breaker=self._section(BreakerConfig, "breaker"),
            timeouts=timeouts,
            stream=self._section(StreamConfig, "stream"),
            warnings=tuple(self._warnings),
            variables=tuple(self._variables),
            token_variable=next((n for n in variables(token) if token == f"${{{n}}}"), None),
        )

    # Tables

    def _expand(self, value: _Toml, path: Path) -> _Toml:
        match value:
            case str():
                return self._expand_text(value, path)
            case dict():
                return {key: self._expand(item, (*path, key)) for key, item in value.items()}
            case list():
                return [self._expand(item, (*path, at)) for at, item in enumerate(value)]
            case _:
                return value

    def _expand_text(self, written: str, path: Path) -> str:
        if unseen := first_unseen(written):
            what = f"has a character that cannot be seen ({unseen}), as \\t is in double quotes"
            self.faults.unreadable(path, f"{what}; {NO_BACKSLASH}")
            return written
        try:
            text = expand(written, self._environ)
        except ExpansionError as error:
            self.faults.unreadable(path, str(error))
            return written
        self._variables |= dict.fromkeys(variables(written))
        if unseen := first_unseen(text):
            names = [name for name in variables(written) if first_unseen(self._environ[name])]
            how = WINDOWS if unseen == CARRIAGE_RETURN else "set that again"
            self.faults.unreadable(
                path,
                f"gets a character that cannot be seen, like a line end, from {', '.join(names)} "
                f"({unseen}); {how}",
            )
        elif not text.strip() and (names := list(variables(written))):
            self.faults.unreadable(
                path, f"gets nothing from {', '.join(names)}, which is set and empty; set it"
            )
        return text

    def _section(self, table: type[Table], key: str, *, aside: tuple[str, ...] = ()) -> Table:
        """A table at the top of the file; its defaults if there is none, or none that is right."""
        raw = self._document.get(key, {})
        if isinstance(raw, dict):
            raw = {name: value for name, value in raw.items() if name not in aside}
        value = self._expand(raw, (key,))
        found = read_table(table, value, (key,), self.faults, also_known=aside) or table()
        for name, sentence in as_milliseconds(found):
            self._warn((key, name), sentence)
        return found

    # Policies

    def _rules(self, providers: tuple[ProviderConfig, ...]) -> Iterator[Rule]:
        policies = self._document.get("policies", {})
        rules = policies.get("rules", []) if isinstance(policies, dict) else []
        served = {model for provider in providers for model in provider.models}
        for path, raw in named_tables(rules, ("policies", "rules"), self.faults):
            rule = read_table(Rule, self._expand(raw, path), path, self.faults)
            if rule is None:
                continue
            strange = [model for model in rule.allowed_models if model not in served]
            if AUTO in strange:
                self.faults.add(
                    (*path, "allowed_models"),
                    f"must not name {quoted(AUTO)}, which stands for all the others; remove it",
                )
            elif providers and strange and ANY_MODEL not in served:
                self._warn(
                    (*path, "allowed_models"), f"names {quoted_list(strange)}, served by nobody"
                )
            yield rule

    # Providers

    def _providers(self, timeouts: Timeouts) -> Iterator[ProviderConfig]:
        keys: dict[str, Secret | None] = {}
        tables = self._document.get("providers", [])
        for path, raw in named_tables(tables, ("providers",), self.faults):
            provider = self._provider(self._expand(raw, path), path, timeouts)
            if provider is not None:
                if provider.key_source == "config":
                    provider = replace(provider, key_variables=variables(raw["api_key"]))
                for key, sentence in cautions(provider, raw):
                    self._warn((*path, key) if key else path, sentence)
                own = raw.get("timeouts", {})
                for key, sentence in as_milliseconds(provider.timeouts):
                    if key in own:
                        self._warn((*path, "timeouts", key), sentence)
                keys[provider.name] = provider.api_key
                yield provider
        for one, other in sharing_a_variable(tuple(keys)):
            self.faults.add(
                ("providers", one),
                f"and {quoted(other)} would both find their key in {key_variable(one)}; rename one",
            )
        for one, other in sharing_a_token(keys):
            self.faults.add(
                ("providers", one, "api_key"),
                f"is the same Cashu token as that of {quoted(other)}, and can be spent only once; "
                "give each its own",
            )

    def _provider(
        self, value: dict[str, Any], path: Path, timeouts: Timeouts
    ) -> ProviderConfig | None:
        by_id = {name: value.get(name) for name in ("model_ids", "model_endpoints")}
        cut = [
            has_cut_ids(ids, (*path, name), self.faults)
            for name, ids in by_id.items()
            if isinstance(ids, dict)
        ]
        if any(cut):
            return None
        apart = (*RATE_KEYS, *_PROVIDER_TABLES)
        plain = {key: item for key, item in value.items() if key not in apart}
        table = read_table(ProviderTable, plain, path, self.faults, also_known=apart)
        own_rates = {key: value[key] for key in RATE_KEYS if key in value}
        prices = read_table(RatesTable, own_rates, path, self.faults)
        own = read_table(TimeoutsTable, value.get("timeouts", {}), (*path, "timeouts"), self.faults)
        by_model = rates_by_model(value.get("model_rates", {}), (*path, "model_rates"), self.faults)
        if table is None and "models" not in plain and not _may_be_node(plain):
            self.faults.add((*path, "models"), "is missing; add it")
        if table is None or prices is None or own is None or by_model is None:
            return None
        key, source = find_key(table.name, table.api_key, self._environ)
        kind = table.kind or infer_kind(parse_url(table.url).host, key)
        asks_node = self._asks_node(table, kind, typed=bool(own_rates or by_model), path=path)
        if not lists_prices(kind):
            self._no_node(table, path)
        models = table.models
        if models is None:
            if not asks_node:
                self.faults.add((*path, "models"), "is missing; add it")
                return None
            models = (ANY_MODEL,)
        if AUTO in models:
            self.faults.add(
                (*path, "models"),
                f"must not name {quoted(AUTO)}, by which clients let arbstr choose; give that "
                "model another name here, and its own one in model_ids",
            )
        for name, named in (
            ("model_rates", by_model),
            ("model_ids", table.model_ids),
            ("model_endpoints", table.model_endpoints),
        ):
            check_ids(named, models, (*path, name), self.faults)
        rates, model_rates = resolve_rates(models, given(prices), by_model, path, self.faults)
        if table.key_header != BEARER and lists_prices(kind):
            self.faults.add(
                (*path, "key_header"),
                f"must be {quoted(BEARER)} for a Routstr node, which takes a key no other way",
            )
        if key is not None and not key.fits_a_header():
            self.faults.add(
                (*path, "api_key"),
                f"comes from {key_variable(table.name)}, which {NO_KEY}; "
                + (WINDOWS if "\r" in key.reveal() else "set it again"),
            )
        return ProviderConfig(
            name=table.name,
            url=table.url,
            models=models,
            api_key=key,
            key_source=source,
            key_header=table.key_header,
            kind=kind,
            rates=rates,
            asks_node=asks_node,
            model_rates=model_rates,
            model_ids=table.model_ids,
            drain_seconds=table.drain_seconds,
            lanes=table.lanes,
            lane_sats=table.lane_sats,
            overcharge=table.overcharge,
            timeouts=replace(timeouts, **given(own)),
            proxy=table.proxy,
            endpoints=table.endpoints,
            model_endpoints=table.model_endpoints,
        )

    def _no_node(self, table: ProviderTable, path: Path) -> None:
        """What can only be said of Routstr nodes."""
        for key, is_said, what in (
            ("lanes", table.lanes, "are child keys of a Routstr node; remove them"),
            ("lane_sats", table.lane_sats, "is what such a node may ask for a lane; remove it"),
            (
                "overcharge",
                table.overcharge != OVERCHARGE[0],
                "needs a Routstr node, which states what it charges; remove it",
            ),
        ):
            if is_said:
                self.faults.add((*path, key), f'{what}, or add kind = "routstr"')

    def _asks_node(self, table: ProviderTable, kind: Kind, *, typed: bool, path: Path) -> bool:
        """Whether the provider's prices are read from it: as asked for, or for want of others."""
        if table.rates == FROM_NODE and not lists_prices(kind):
            self.faults.add(
                (*path, "rates"),
                'can only be read from a Routstr node; add kind = "routstr" if it is one, or '
                "give input_rate and output_rate",
            )
            return False
        return table.rates == FROM_NODE or (lists_prices(kind) and not typed)

    def _warn(self, path: Path, sentence: str) -> None:
        self._warnings.append(self.faults.sentence(path, sentence))


def _may_be_node(plain: Mapping[str, object]) -> bool:
    """Whether a provider that cannot be read may be one that lists its models."""
    return plain.get("kind") == "routstr" or plain.get("rates") == FROM_NODE

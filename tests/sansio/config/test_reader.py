"""Text and environment -> Config: what is accepted, and every sentence about what is not."""

import pickle
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.config.reader import Config, Kind, ProviderConfig, Secret, parse_config
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.errors import ConfigError
from arbstr.sansio.money import Rates
from arbstr.sansio.routing.catalog import build_catalog
from tests.searching import examples

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"
CASHU = "cashuAeyJ0b2tlbiI6W3sicHJvb2ZzIjpbXX1dfQ"


def read(text: str) -> Config | tuple[str, ...]:
    try:
        return parse_config(text, {"A": "a"})
    except ConfigError as error:
        return error.problems


def problems(text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, environ)
    return caught.value.problems


def problem(text: str, **environ: str) -> str:
    (only,) = problems(text, **environ)
    return only


def provider(lines: str = "", *, name: str = "alpha", models: str = '["m"]') -> str:
    return (
        f'[[providers]]\nname = "{name}"\nurl = "https://h.example"\nmodels = {models}\n{lines}\n'
    )


def first(text: str, **environ: str) -> ProviderConfig:
    return parse_config(text, environ).providers[0]


# What is accepted


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        ("", ((b"authorization", b"Bearer sk-1"),)),
        ("key_header = 'bearer'", ((b"authorization", b"Bearer sk-1"),)),
        ("key_header = 'x-api-key'", ((b"x-api-key", b"sk-1"),)),
    ],
)
def test_a_key_is_sent_as_its_provider_takes_it(lines: str, sent: object) -> None:
    keyed = parse_config(provider(lines + "\napi_key = 'sk-1'"), {})
    assert build_catalog(keyed).providers[0].credentials == sent
    assert build_catalog(parse_config(provider(lines), {})).providers[0].credentials == ()


def test_a_provider_serves_every_api_unless_it_says_which() -> None:
    assert first(provider()).endpoints_for("m") == ENDPOINTS
    some = first(
        provider(
            "endpoints = ['responses', 'chat', 'chat']\n"
            "[providers.model_endpoints]\nn = ['embeddings']",
            models='["m", "n"]',
        )
    )
    assert some.endpoints_for("m") == ("chat", "responses")
    assert some.endpoints_for("n") == ("embeddings",)


def test_a_model_with_apis_of_its_own_is_known_to_be_served() -> None:
    lines = "[providers.model_endpoints]\nn = ['embeddings']"
    catalog = build_catalog(parse_config(provider(lines, models='["*"]'), {}))
    assert catalog.models() == ("n",)
    assert [offer.endpoints for offer in catalog.offers("n")] == [("embeddings",)]
    assert [offer.endpoints for offer in catalog.offers("m")] == [ENDPOINTS]


def test_the_example_parses_without_a_warning_and_says_the_defaults() -> None:
    config = parse_config(EXAMPLE.read_text(), {"ALPHA_KEY": "sk-" + "a" * 64})
    alpha, beta = config.providers
    assert config.warnings == ()
    assert alpha.rates_for("gpt-4o") == Rates(Decimal(5), Decimal(15), Decimal("2.5"), Decimal(1))
    assert alpha.rates_for("claude-3.5-sonnet") == alpha.rates
    assert alpha.model_ids["gpt-4o"] == "openai/gpt-4o-2024-08-06"
    assert (alpha.timeouts.first_output, alpha.timeouts.idle) == (90.0, 120.0)
    assert beta.timeouts.first_output == 60.0
    assert (beta.kind, beta.key_source) == (Kind.OPENAI, "none")
    plain = Config()
    for section in (
        *("server", "database", "logging"),
        *("budget", "retry", "breaker", "timeouts", "stream"),
    ):
        assert getattr(config, section) == getattr(plain, section), section


def test_the_commented_keys_of_the_example_are_accepted_too() -> None:
    lines = EXAMPLE.read_text().splitlines()
    commented = [
        line[2:] if line.startswith("# ") and " = " in line and line[2].islower() else line
        for line in lines
    ]
    parse_config("\n".join(commented), {"ALPHA_KEY": "k", "ARBSTR_TOKEN": "t", "PGPASSWORD": "p"})


def test_an_empty_file_is_all_defaults_and_no_providers() -> None:
    config = parse_config("", {})
    assert config == Config()
    assert config.providers == ()
    assert (config.server.listen_host, config.server.listen_port) == ("127.0.0.1", 8080)
    assert config.server.max_body_bytes == 64_000_000


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    assert parse_config('\ufeff[database]\r\npath = "x"\r\n', {}).database.path == "x"


def test_rates_are_the_digits_of_the_file() -> None:
    text = provider("input_rate = 0.1\noutput_rate = 1_000.000_3\nbase_fee = 1e-7")
    assert first(text).rates == Rates(
        Decimal("0.1"), Decimal("1000.0003"), None, Decimal("0.0000001")
    )


def test_a_budget_is_the_digits_of_the_file_and_may_be_0() -> None:
    assert parse_config("[budget]\nsats_per_day = 0.30", {}).budget.sats_per_day == Decimal("0.3")
    assert parse_config("[budget]\nsats_per_day = 0", {}).budget.sats_per_day == 0
    assert parse_config("[budget]\n", {}).budget.sats_per_day is None


def test_a_size_may_be_a_fraction_of_a_megabyte() -> None:
    assert parse_config("[server]\nmax_body_mb = 0.001", {}).server.max_body_bytes == 1000


@pytest.mark.parametrize(
    ("listen", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.1.2.3:0", "127.1.2.3", 0, True),
        ("[::1]:8080", "::1", 8080, True),
        ("localhost:8080", "localhost", 8080, True),
        ("0.0.0.0:65535", "0.0.0.0", 65535, False),
        ("[::]:80", "::", 80, False),
        ("my-host.lan:80", "my-host.lan", 80, False),
    ],
)
def test_a_listen_address_is_taken_apart(listen: str, host: str, port: int, loopback: bool) -> None:
    server = parse_config(f'[server]\nlisten = "{listen}"', {}).server
    assert (server.listen_host, server.listen_port, server.is_loopback) == (host, port, loopback)


def test_hosts_and_origins_are_in_lower_case() -> None:
    server = parse_config(
        '[server]\nallowed_hosts = ["Box.LAN", "[FE80::1]"]\nallowed_origins = ["HTTP://A.b:80"]',
        {},
    ).server
    assert server.allowed_hosts == ("box.lan", "fe80::1")
    assert server.allowed_origins == ("http://a.b:80",)


# What is not


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nlisten = 8080", "server.listen must be a string"),
        ('[server]\nlisten = ":8080"', "server.listen must be host:port"),
        ('[server]\nlisten = "::1:8080"', "server.listen must be host:port"),
        ('[server]\nlisten = "127.0.0.1:65536"', "server.listen must be host:port"),
        ('[server]\nlisten = "127.0.0.300:80"', "server.listen must be host:port"),
        ('[server]\nlisten = "localhost"', "server.listen must be host:port"),
        ('[server]\nlisten = "http://h:80"', "server.listen must be host:port"),
        ('[server]\nauth_token = ""', "server.auth_token must be a string that is not empty"),
        ('[server]\nauth_token = "a b"', "server.auth_token must be visible ASCII"),
        ('[server]\nallowed_hosts = "h"', "server.allowed_hosts must be a list"),
        ('[server]\nallowed_hosts = ["*"]', "server.allowed_hosts must hold host names"),
        ('[server]\nallowed_hosts = ["h:80"]', "server.allowed_hosts must hold host names"),
        ('[server]\nallowed_origins = ["*"]', "server.allowed_origins must hold web origins"),
        ('[server]\nallowed_origins = ["http://a/"]', "server.allowed_origins must hold"),
        ("[server]\nmax_body_mb = 0", "server.max_body_mb must be a number of megabytes above 0"),
        ("[server]\nmax_body_mb = true", "server.max_body_mb must be a number of megabytes"),
        ("[server]\nshutdown_seconds = -1", "server.shutdown_seconds must be a number of seconds"),
        ("[server]\nshutdown_seconds = inf", "server.shutdown_seconds must be a number of seconds"),
        ("[server]\nshutdown_seconds = nan", "server.shutdown_seconds must be a number of seconds"),
        ("[timeouts]\ntotal = 1e400", "timeouts.total must be a number of seconds"),
        ("[timeouts]\ntotal = 1e99999999999999999999", "timeouts.total must be a number"),
        ("[timeouts]\nidle = 0", "timeouts.idle must be a number of seconds above 0"),
        ("server = 1", "server must be a table"),
        ("[[server]]", "server must be a table"),
        ("[database]\npath = ''", "database.path must be a string that is not empty"),
        ('[logging]\nlevel = "loud"', 'logging.level must be "debug" or "info" or "warning"'),
        ('[logging]\nformat = "xml"', 'logging.format must be "text" or "json"'),
        ("[budget]\nsats_per_day = -1", "budget.sats_per_day must be a number of sats, 0 or more"),
        ("[budget]\nsats_per_day = inf", "budget.sats_per_day must be a number of sats, 0 or more"),
        ("[retry]\nmax_retries = 1.0", "retry.max_retries must be a whole number"),
        ("[retry]\nmax_retries = -1", "retry.max_retries must be a whole number"),
        ('[retry]\npossibly_spent = "pay"', 'retry.possibly_spent must be "stop" or "next"'),
        ("[breaker]\nfailures = 0", "breaker.failures must be a whole number from 1"),
        ("[breaker]\nfailures = false", "breaker.failures must be a whole number from 1"),
        ("[database]\nretention_days = 0", "database.retention_days must be a whole number from 1"),
        ("[database]\nretention_days = 36_501", "must be a whole number from 1 to 36500"),
        ('[policies]\ndefault_strategy = "fastest"', 'default_strategy must be "cheapest" or'),
        (
            "[policies]\nrules = 3",
            "policies.rules must be a list of tables; write [[policies.rules]]",
        ),
        ("[[policies.rules]]\nkeywords = []", "policies.rules[#1].name is missing; add it"),
        (
            '[[policies.rules]]\nname = "r"\nkeywords = [""]',
            'policies.rules."r".keywords must be a list of strings that are not empty',
        ),
        (
            '[[policies.rules]]\nname = "r"\nmax_sats_per_1k_output = -5',
            'policies.rules."r".max_sats_per_1k_output must be a number of sats',
        ),
        (
            '[[policies.rules]]\nname = "r"\n[[policies.rules]]\nname = "r"',
            'policies.rules."r" is there more than once (#1 and #2); rename one',
        ),
        ("[providers]\nname = 'a'", "providers must be a list of tables; write [[providers]]"),
        ("providers = [3]", "providers[#1] must be a table"),
        (provider(models="[]"), 'providers."alpha".models must be a list of model ids'),
        (provider(models='"m"'), 'providers."alpha".models must be a list of model ids'),
        (provider(models="[1]"), 'providers."alpha".models must be a list of strings'),
        (provider(name="a b"), 'providers."a b".name must be 1 to 64'),
        (provider(name="ä"), "providers[#1].name must be 1 to 64"),
        (provider("kind = 'azure'"), '"alpha".kind must be "openai" or "routstr"'),
        (provider("key_header = 'cookie'"), '"alpha".key_header must be "bearer" or "x-api-key"'),
        (
            provider("lanes = 2"),
            '"alpha".lanes are child keys of a Routstr node',
        ),
        (
            provider("overcharge = 'rest'"),
            '"alpha".overcharge needs a Routstr node, which states what it charges; remove it, or '
            'add kind = "routstr"',
        ),
        (provider("lane_sats = 1"), '"alpha".lane_sats is what such a node may ask for a lane'),
        (
            provider("overcharge = 'refund'"),
            '"alpha".overcharge must be "warn" or "rest" or "stop"',
        ),
        (
            provider("kind = 'routstr'\nkey_header = 'x-api-key'"),
            '"alpha".key_header must be "bearer" for a Routstr node',
        ),
        (provider("drain_seconds = '9'"), '"alpha".drain_seconds must be a number of seconds'),
        (provider("api_key = 3"), '"alpha".api_key must be a string'),
        (provider("timeouts = 3"), '"alpha".timeouts must be a table'),
        (provider("timeouts = { connect = 0 }"), '"alpha".timeouts.connect must be'),
        (provider("model_rates = 3"), '"alpha".model_rates must hold one table for each'),
        (provider("model_rates = { m = 3 }"), '"alpha".model_rates."m" must be a table'),
        (provider("endpoints = []"), '"alpha".endpoints must be a list of "chat", "responses"'),
        (provider("endpoints = ['chats']"), '"alpha".endpoints must be a list of "chat"'),
        (provider("endpoints = 'chat'"), '"alpha".endpoints must be a list of "chat"'),
        (provider("model_endpoints = 3"), '"alpha".model_endpoints must be a table of lists'),
        (provider("model_endpoints = { m = 'chat' }"), '"alpha".model_endpoints must be a list'),
        (provider("model_endpoints = { x = ['chat'] }"), '"alpha".model_endpoints."x" is not in'),
        (provider("model_ids = { m = 3 }"), '"alpha".model_ids must be a table of model ids'),
        (provider("model_ids = { x = 'y' }"), '"alpha".model_ids."x" is not in models'),
        (
            provider("[providers.model_rates.x]\ninput_rate = 1\noutput_rate = 1"),
            '"alpha".model_rates."x" is not in models; add it there or remove it here',
        ),
        (
            provider("[providers.model_ids]\n'*' = 'y'", models='["*"]'),
            '"alpha".model_ids."*" is no model',
        ),
        (provider() + provider(), 'providers."alpha" is there more than once (#1 and #2)'),
        (
            provider(name="a-b") + provider(name="a.B"),
            'providers."a-b" and "a.B" would both find their key in ARBSTR_A_B_API_KEY; rename one',
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_key_path(text: str, says: str) -> None:
    sentence = problem(text)
    assert sentence.startswith("config.toml: ")
    assert says in sentence


@pytest.mark.parametrize(
    "rate", ["-1", "inf", "-inf", "nan", "true", '"10"', "1e15", "1e-31", "[]"]
)
@pytest.mark.parametrize(
    "key", ["input_rate", "output_rate", "cached_input_rate", "cache_write_rate", "base_fee"]
)
def test_a_rate_that_is_no_number_is_refused(key: str, rate: str) -> None:
    assert f'providers."alpha".{key} must be' in problem(provider(f"{key} = {rate}"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must be a string that is not empty"),
        ("h.example", "must be an http:// or https:// URL"),
        ("ftp://h", "must be an http:// or https:// URL"),
        ("https://", "must be an http:// or https:// URL"),
        ("https://h:port", "must be an http:// or https:// URL"),
        ("https://h:99999", "must be an http:// or https:// URL"),
        ("https://[::1", "must be an http:// or https:// URL"),
        ("https://10.0.0.300/v1", "must be an http:// or https:// URL"),
        ("https://[v1.x]", "must be an http:// or https:// URL"),
        ("https://h%20x", "must be an http:// or https:// URL"),
        ("https://h/" + "x" * 4096, "must have at most 4096 characters"),
        ("https://h/#top", "must not have a fragment"),
        ("https://h/a b", "must be written in ASCII without blanks"),
        ("https://hä.example", "must be written in ASCII without blanks"),
    ],
)
def test_a_bad_url_is_refused(url: str, says: str) -> None:
    text = f'[[providers]]\nname = "alpha"\nurl = "{url}"\nmodels = ["m"]'
    assert f'providers."alpha".url {says}' in problem(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sever]", 'sever is not a known key; did you mean "server"?'),
        ("[server]\nlissen = 'x'", 'server.lissen is not a known key; did you mean "listen"?'),
        (provider("imput_rate = 1"), '"alpha".imput_rate is not a known key; did you mean "input_'),
        (provider("timeouts = { conect = 1 }"), "timeouts.conect is not a known key; did you mean"),
        (provider("timeouts = { total = 1 }"), "timeouts.total is not a known key"),
        (
            "[database]\nretention = 1",
            'retention is not a known key; did you mean "retention_days"?',
        ),
        ("[budget]\nsats_a_day = 1", 'sats_a_day is not a known key; did you mean "sats_per_day"?'),
        (
            provider('prox = "socks5://x:1"'),
            '"alpha".prox is not a known key; did you mean "proxy"',
        ),
        ('[[policies.rules]]\nname = "r"\nmax_sats_per_day = 1', "day is not a known key"),
        ('"we ird\\n" = 1', '"we ird?" is not a known key'),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(text: str, says: str) -> None:
    assert says in problem(text)


RATES = "input_rate = 1\noutput_rate = 1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (provider(models='["m", "openai/*"]'), '"alpha".models (#2) must not be a pattern'),
        (provider(models='["gpt-*"]'), 'list the ids, or write ["*"] for any'),
        (provider(models='["gpt-4?"]'), '"alpha".models (#1) must not be a pattern with * ? or ['),
        (provider(models='["gpt-[45]"]'), '"alpha".models (#1) must not be a pattern'),
        (provider(models='["**"]'), '"alpha".models (#1) must not be a pattern'),
        (provider(models='["m "]'), '"alpha".models (#1) must not begin or end with a blank'),
        (
            provider(f"[providers.model_rates.'gpt-*']\n{RATES}", models='["*"]'),
            '"alpha".model_rates."gpt-*" must not be a pattern with * ? or [, which arbstr does '
            "not know; write one id",
        ),
        (
            provider("[providers.model_ids]\n'openai/*' = 'x'", models='["*"]'),
            '"alpha".model_ids."openai/*" must not be a pattern',
        ),
        (
            provider("[providers.model_ids]\nm = 'openai/*'"),
            '"alpha".model_ids holds an id that must not be a pattern with * ? or [, which arbstr '
            "does not know; write the one id the provider knows",
        ),
        (
            '[[policies.rules]]\nname = "r"\nallowed_models = ["gpt-*"]',
            '"r".allowed_models (#1) must not be a pattern with * ? or [, which arbstr does not '
            "know; list the ids, or remove the key to allow all",
        ),
    ],
)
def test_a_pattern_where_an_id_must_stand_is_refused(text: str, says: str) -> None:
    assert says in problem(text)


def test_a_star_alone_allows_all_models_of_a_rule_as_of_a_provider() -> None:
    text = provider(RATES) + '[[policies.rules]]\nname = "r"\nallowed_models = ["*"]'
    config = parse_config(text, {})
    assert config.policies.rules[0].allows("m")
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (r"[database]" "\n" r'path = "C:\temp\new.db"', "database.path"),
        (provider(models=r'["\mistral"]').replace(r"\m", r"\b"), 'providers."alpha".models[#1]'),
        (r"[[policies.rules]]" "\n" r'name = "r"' "\n" r'keywords = ["a\tb"]', "keywords[#1]"),
        (r"[[policies.rules]]" "\n" r'name = "r\n"', "policies.rules[#1].name"),
        (r"[server]" "\n" r'allowed_hosts = ["a\r"]', "server.allowed_hosts[#1]"),
        (provider(r'api_key = "sk\n"'), '"alpha".api_key'),
        (provider(r'model_ids = { m = "a\u0000b" }'), '"alpha".model_ids."m"'),
        (provider(models='["gpt\u200b-4o"]'), '"alpha".models[#1]'),
        (provider(models='["gpt\u202e-4o"]'), '"alpha".models[#1]'),
    ],
)
def test_a_character_that_cannot_be_seen_is_a_slip_of_the_pen(text: str, path: str) -> None:
    sentence = problem(text)
    assert f"{path} has a character that cannot be seen (U+" in sentence
    assert r"single quotes, like 'C:\temp\new.db', or a path with / instead" in sentence


def test_a_key_with_a_character_that_cannot_be_seen_is_refused() -> None:
    text = provider(f'[providers.model_rates."a\\tb"]\n{RATES}', models='["*"]')
    assert '"alpha".model_rates."a?b" must not have a character that' in problem(text)


def test_a_variable_with_a_line_end_is_named_as_where_it_comes_from() -> None:
    sentence = problem('[database]\npath = "${D}/${P}"', D="/tmp", P="a.db\n")
    assert sentence.endswith(
        "database.path gets a character that cannot be seen, like a line end, from P (U+000A); "
        "set that again"
    )


@pytest.mark.parametrize("text", ['api_key = "${ARBSTR_ALPHA_API_KEY}"', ""])
def test_a_file_of_variables_with_windows_line_ends_is_named_as_such(text: str) -> None:
    sentence = problem(provider(text), ARBSTR_ALPHA_API_KEY="sk-secret-1\r")
    assert " from ARBSTR_ALPHA_API_KEY" in sentence
    assert sentence.endswith("; set it again: the file it was read from has Windows line ends")


@pytest.mark.parametrize("written", ["${K}", "${K}${L}"])
def test_a_variable_that_is_set_and_empty_is_named(written: str) -> None:
    sentence = problem(provider(f'api_key = "{written}"'), K="", L="")
    names = "K, L" if "L" in written else "K"
    assert f'"alpha".api_key gets nothing from {names}, which is set and empty; set' in sentence
    assert "api_key must be a string that is not empty" in problem(provider('api_key = ""'))


@pytest.mark.parametrize("quote", ['"', "'"])
def test_a_key_in_quotes_is_warned_of_wherever_it_was_found(quote: str) -> None:
    key = f"{quote}sk-1{quote}"
    by_variable = provider(f'api_key = "${{K}}"\n{RATES}')
    for config in (
        parse_config(provider(RATES), {"ARBSTR_ALPHA_API_KEY": key}),
        parse_config(by_variable, {"K": key}),
    ):
        (warning,) = config.warnings
        assert '"alpha".api_key has quotes around it, which are sent' in warning
    assert parse_config(by_variable, {"K": '"sk-1'}).warnings == ()


def test_times_that_were_typed_in_milliseconds_are_warned_of() -> None:
    text = f"""
    [timeouts]
    connect = 10000
    total = 3600000
    [retry]
    backoff = 250
    patience = 900
    {provider(f"drain_seconds = 60000{chr(10)}timeouts = {{ idle = 120_000 }}{chr(10)}{RATES}")}
    """
    said = [warning.partition(": ")[2] for warning in parse_config(text, {}).warnings]
    milliseconds = "as if it were milliseconds; times are in seconds"
    assert said == [
        f"timeouts.connect is 10,000, {milliseconds}",
        f'providers."alpha".drain_seconds is 60,000, {milliseconds}',
        f'providers."alpha".timeouts.idle is 120,000, {milliseconds}',
        f"retry.backoff is 250, {milliseconds}",
    ]


def test_letters_that_need_joiners_are_words() -> None:
    keywords = r'keywords = ["\u0645\u06cc\u200c\u062e", "\U0001f469\u200d\U0001f4bb"]'
    text = f'[[policies.rules]]\nname = "r"\n{keywords}'
    assert len(parse_config(text, {}).policies.rules[0].keywords) == 2


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            f"[providers.model_rates.claude-3.5-sonnet]\n{RATES}",
            '"alpha".model_rates."claude-3" is cut at a dot that is not in quotes; write '
            '[providers.model_rates."claude-3.5-sonnet"]',
        ),
        (
            f"[providers.model_rates.a.b.c]\n{RATES}",
            '"alpha".model_rates."a" is cut at a dot that is not in quotes; write '
            '[providers.model_rates."a.b.c"]',
        ),
        (
            f"[providers.model_rates.m]\n{RATES}\n[providers.model_rates.m.1]\n{RATES}",
            '[providers.model_rates."m.1"]',
        ),
        (f"model_rates.a.b.input_rate = 1\n{RATES}", '[providers.model_rates."a.b"]'),
        (
            "[providers.model_ids]\nclaude-3.5-sonnet = 'x'",
            '"alpha".model_ids."claude-3" is cut at a dot that is not in quotes; write '
            '"claude-3.5-sonnet" = ...',
        ),
        (
            "[providers.model_endpoints]\nclaude-3.5-sonnet = ['chat']",
            '"alpha".model_endpoints."claude-3" is cut at a dot that is not in quotes; write '
            '"claude-3.5-sonnet" = ...',
        ),
    ],
)
def test_an_id_that_was_cut_at_its_dot_is_shown_in_quotes(lines: str, says: str) -> None:
    assert says in problem(provider(lines, models='["m", "claude-3.5-sonnet"]'))


def test_a_provider_named_in_the_head_of_its_table_is_told_where_names_stand() -> None:
    sentence = problem('[providers.alpha]\nurl = "https://h"')
    assert (
        "providers must be a list of tables; write [[providers]] and in it name = ..." in sentence
    )


def test_every_fault_is_reported_at_once() -> None:
    text = (
        "[server]\nlisten = 1\nmax_body_mb = 0\n[budgets]\n"
        + provider("input_rate = 1\nkind = 'x'\nzzz = 1")
        + provider(name="beta", models="[]")
        + "[[policies.rules]]\nkeywords = 3\n[retry]\nbackoff = '${UNSET_ONE}'"
    )
    found = problems(text)
    for path in (
        "budgets",
        "server.listen",
        "server.max_body_mb",
        'providers."alpha".kind',
        'providers."alpha".zzz',
        'providers."beta".models',
        "policies.rules[#1].name",
        "policies.rules[#1].keywords",
        "retry.backoff",
    ):
        assert sum(path + " " in sentence for sentence in found) == 1, path
    assert len(found) == 9


# TOML


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[server]\nlisten = sk-secret-1\n", "line 2, column 10: not TOML: Invalid value"),
        ("[server]\nsk-secret-1\n", "line 2, column 12: not TOML: Expected '='"),
        ('[server]\nlisten = "sk-secret-1', "line 2, column 22: not TOML: Unterminated string"),
        ("[server]\n[server]", "not TOML: Cannot declare it twice"),
        ("a = 1\na = 2 # sk-secret-1", "line 2, column 6: not TOML: Cannot overwrite a value"),
        ("a = " + "9" * 5000, "a number has too many digits"),
        ("a = " + "[" * 5000, "is nested too deeply"),
        ("server." + ".".join("a" * 5000) + " = 1", "is nested too deeply"),
    ],
)
def test_broken_toml_is_said_with_its_place_but_not_its_text(text: str, place: str) -> None:
    sentence = problem(text)
    assert sentence.startswith("config.toml: ")
    assert place in sentence
    assert "sk-secret" not in sentence


@pytest.mark.parametrize(
    "text",
    [
        r'path = "C:\Users\me\a.db"',
        r'path = "C:\my.db"',
        'path = "C:\\dir\\"\n[server]',
        'path = "C:\\dir\\"',
        r'models = ["a", "D:\q"]',
    ],
)
def test_a_backslash_that_breaks_a_string_is_named_with_the_remedy(text: str) -> None:
    sentence = problem(f"\n{text}")
    assert "a backslash in double quotes begins an escape" in sentence
    assert r"'C:\temp\new.db', or a path with / instead" in sentence


@pytest.mark.parametrize(
    "text",
    [
        "[providers.model_rates.openai/gpt-4o]",
        "[providers.model_rates.deepseek:free]",
        "openai/gpt-4o = 'x'",
    ],
)
def test_a_key_that_needs_quotes_is_told_so(text: str) -> None:
    assert "a key with other characters than A-Z a-z 0-9 _ - needs quotes" in problem(text)


def test_what_is_wrong_for_other_reasons_is_not_blamed_on_quotes() -> None:
    for text in ("path = C:\\a.db", "[server", 'a = "b" c', "'a/b' = ", '["a/b"', "a = /b"):
        assert problem(text).endswith("; correct it")


def test_the_file_has_the_name_it_was_given() -> None:
    with pytest.raises(ConfigError, match=r"^/etc/a\.toml: line 1"):
        parse_config("=", {}, name="/etc/a.toml")


# Variables


def test_a_variable_expands_in_every_string_also_in_lists_and_tables() -> None:
    text = """
    [server]
    listen = "${HOST}:${PORT}"
    allowed_hosts = ["${HOST}", "b"]
    [[providers]]
    name = "${NAME}"
    url = "https://${HOST}/$PATH-is-not-expanded"
    models = ["${MODEL}"]
    model_ids = { "gpt" = "vendor/${MODEL}" }
    """
    config = parse_config(
        text, {"HOST": "h", "PORT": "1", "NAME": "n", "MODEL": "gpt", "PATH": "no"}
    )
    assert config.server.listen == "h:1"
    assert config.server.allowed_hosts == ("h", "b")
    assert config.providers[0].name == "n"
    assert config.providers[0].url == "https://h/$PATH-is-not-expanded"
    assert config.providers[0].model_ids == {"gpt": "vendor/gpt"}


def test_what_a_variable_holds_is_not_expanded_again() -> None:
    config = parse_config('[database]\npath = "${A}$"', {"A": "${B}", "B": "no"})
    assert config.database.path == "${B}$"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("${NOT_THERE}", "needs the environment variable NOT_THERE, which is not set; set it"),
        ("sk-secret-1${", 'has a "${" without its "}"'),
        ("${A", 'has a "${" without its "}"'),
        ("sk-secret-1${}", 'has an empty "${}"'),
        ("${sk secret-1}", 'has a "${...}" whose name is not that of a variable'),
        ("${A:-sk-secret-1}", 'has a "${...}" whose name is not that of a variable'),
    ],
)
def test_a_variable_that_cannot_be_expanded_is_one_fault_without_the_value(
    value: str, says: str
) -> None:
    sentence = problem(provider(f'api_key = "{value}"'), A="sk-secret-2")
    assert f'config.toml: providers."alpha".api_key {says}' in sentence
    assert "secret-" not in sentence


def test_an_unset_variable_in_a_list_is_one_fault_at_its_place() -> None:
    sentence = problem('[server]\nallowed_hosts = ["a", "${B}"]')
    assert "server.allowed_hosts[#2] needs the environment variable B" in sentence


# Keys and kinds


def test_a_key_comes_from_the_file_else_from_the_environment_else_from_nowhere() -> None:
    environ = {"ARBSTR_A_B_1_API_KEY": "from-environment", "K": "from-config"}
    named = provider(name="a-b.1")
    assert first(named, **environ).api_key == Secret("from-environment")
    assert first(named, **environ).key_source == "environment"
    configured = first(provider('api_key = "${K}"', name="a-b.1"), **environ)
    assert (configured.api_key, configured.key_source) == (Secret("from-config"), "config")
    assert first(named).api_key is None
    assert first(named).key_source == "none"
    assert first(named, ARBSTR_A_B_1_API_KEY="").key_source == "none"


def test_a_key_with_a_line_end_is_refused_where_it_comes_from() -> None:
    sentence = problem(provider(), ARBSTR_ALPHA_API_KEY="sk-secret-1\n")
    assert 'providers."alpha".api_key comes from ARBSTR_ALPHA_API_KEY' in sentence
    assert "secret-1" not in sentence
    sentence = problem(provider('api_key = "${K}"'), K="sk-secret-1\r\n")
    assert '"alpha".api_key gets a character that cannot be seen, like a line end, from' in sentence
    assert "secret-1" not in sentence


def test_two_providers_must_not_share_a_cashu_token() -> None:
    text = provider('api_key = "${K}"') + provider(name="beta")
    sentence = problem(text, K=CASHU, ARBSTR_BETA_API_KEY=CASHU)
    assert 'providers."alpha".api_key is the same Cashu token as that of "beta"' in sentence
    assert CASHU not in sentence
    same = "sk-ordinary"
    assert len(parse_config(text, {"K": same, "ARBSTR_BETA_API_KEY": same}).providers) == 2


@pytest.mark.parametrize(
    ("url", "key", "kind"),
    [
        ("https://api.openai.com/v1", "sk-" + "a" * 48, Kind.OPENAI),
        ("https://routstr.com/v1", None, Kind.ROUTSTR),
        ("https://API.Routstr.com/v1", None, Kind.ROUTSTR),
        ("https://api.routstr.com./v1", None, Kind.ROUTSTR),
        ("https://notroutstr.com/v1", None, Kind.OPENAI),
        ("https://routstr.com.evil.example", None, Kind.OPENAI),
        ("http://abcdef.onion", None, Kind.ROUTSTR),
        ("https://h.example", CASHU, Kind.ROUTSTR),
        ("https://h.example", "sk-" + "0123456789abcdef" * 4, Kind.ROUTSTR),
        ("https://h.example", "sk-" + "0123456789abcdef" * 4 + "0", Kind.OPENAI),
    ],
)
def test_the_kind_follows_from_host_and_key(url: str, key: str | None, kind: Kind) -> None:
    text = f'[[providers]]\nname = "a"\nurl = "{url}"\nmodels = ["m"]'
    environ = {} if key is None else {"ARBSTR_A_API_KEY": key}
    assert first(text, **environ).kind is kind


def test_a_stated_kind_goes_before_the_inferred_one() -> None:
    assert first(provider('kind = "openai"'), ARBSTR_ALPHA_API_KEY=CASHU).kind is Kind.OPENAI


# Proxies


@pytest.mark.parametrize(
    ("url", "shown", "login"),
    [
        ("socks5://127.0.0.1:9050", "socks5://127.0.0.1:9050", None),
        ("SOCKS5H://Tor.lan:9050/", "socks5h://tor.lan:9050", None),
        ("http://[::1]:3128", "http://[::1]:3128", None),
        ("socks5://u:p@h:1080", "socks5://h:1080", ("u", "p")),
        ("socks5://u%40x:p%3A%2F%C3%A9@h:1080", "socks5://h:1080", ("u@x", "p:/é")),
        ("http://token@h:80", "http://h:80", ("token", "")),
    ],
)
def test_a_proxy_is_taken_apart(url: str, shown: str, login: tuple[str, str] | None) -> None:
    found = first(provider('proxy = "${P}"'), P=url).proxy
    assert found is not None
    assert found.shown == shown
    assert (found.login and tuple(part.reveal() for part in found.login)) == login


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "gets nothing from P, which is set and empty"),
        ("127.0.0.1:9050", "must be socks5://host:port (Tor: socks5://127.0.0.1:9050) or http://"),
        ("socks5://", "must be socks5://host:port"),
        ("socks5://127.0.0.1", "must be socks5://host:port"),
        ("socks5://127.0.0.1:0", "must be socks5://host:port"),
        ("socks5://127.0.0.1:port", "must be socks5://host:port"),
        ("socks5://127.0.0.300:1", "must be socks5://host:port"),
        ("socks5://u:p?secret-1@h:1", "must be socks5://host:port"),
        ("socks4://h:1", "must be socks5://host:port"),
        ("ftp://u:secret-1@h:1", "must be socks5://host:port"),
        ("https://u:secret-1@h:1", "must not be https://, for arbstr speaks no TLS with a proxy"),
        ("socks5://h:1/path", "must end with the port; remove what follows it"),
        ("socks5://h:1?x=secret-1", "must end with the port"),
        ("http://h:1#", "must end with the port"),
        ("socks5://hä:1", "must be written in ASCII"),
        ("socks5://u:secret 1@h:1", "must be written in ASCII"),
        ("socks5://secret-1@h:1", "must have both a user and a password, of at most 255 bytes"),
        ("socks5://:secret-1@h:1", "must have both a user and a password"),
        (f"socks5h://u:{'%C3%A9' * 128}@h:1", "must have both a user and a password"),
    ],
)
def test_a_bad_proxy_is_refused_without_its_text(url: str, says: str) -> None:
    sentence = problem(provider('proxy = "${P}"'), P=url)
    assert f'config.toml: providers."alpha".proxy {says}' in sentence
    assert "secret" not in sentence


def test_a_proxy_is_a_string() -> None:
    assert '"alpha".proxy must be a string' in problem(provider("proxy = 9050"))


def on(url: str, more: str = "") -> str:
    rates = "input_rate = 1\noutput_rate = 1"
    return f'[[providers]]\nname = "a"\nurl = "{url}"\nmodels = ["m"]\n{rates}\n{more}'


TOR = 'proxy = "socks5://127.0.0.1:9050"'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (on("http://abc.onion"), '"a".url is an onion service, which can be reached through Tor'),
        (on("https://ABC.ONION./v1"), '"a".url is an onion service'),
        (on("http://h.example", TOR), '"a".url is not encrypted, so whoever runs the proxy'),
        (on("HTTP://h.example", TOR), '"a".url is not encrypted'),
        (
            on("https://h", 'proxy = "socks5://u:secret-1@h:1"'),
            '"a".proxy has a password that is written into the file; write ${VARIABLE}',
        ),
        (on("https://h", 'proxy = "socks5://${A}:secret-1@h:1"'), '"a".proxy has a password that'),
        (on("https://u:secret-1@h"), '"a".url has a password that is written into the file; wri'),
        (on("https://secret-1@h/v1"), '"a".url has a password that is written into the file'),
        (on("https://${A}:secret-1@h"), '"a".url has a password that is written into the file'),
        (on("https://u:secret-1@${A}/v1"), '"a".url has a password that is written into the file'),
        (
            on("https://h/v1?v=1&key=secret-12345"),
            '"a".url has a value in its query, perhaps a key, that is written into the file; write',
        ),
        (on("https://h/v1?u=${A}&key=secret-12345"), '"a".url has a value in its query, perhaps'),
    ],
)
def test_a_way_that_may_not_be_meant_is_warned_of(text: str, says: str) -> None:
    (warning,) = parse_config(text, {"A": "a.example"}).warnings
    assert says in warning
    assert "secret" not in warning


@pytest.mark.parametrize(
    "text",
    [
        on("http://abc.onion", TOR),
        on("https://h.example", TOR),
        on("http://h.example"),
        # With `ssh -D` the loopback is that of the other end.
        on("http://127.0.0.1:8000", TOR),
        on("https://h.example", 'proxy = "socks5://u:${A}@h:1"'),
        on("https://u:${A}@h.example"),
        on("https://${A}@h.example"),
        on("https://${A}:@h.example"),
        on("https://h.example/v1?v=1&key=${A}"),
        on("https://h.example/a@b:c?to=x:y@z"),
    ],
)
def test_other_ways_are_not_warned_of(text: str) -> None:
    assert parse_config(text, {"A": "secret"}).warnings == ()


def test_a_path_beside_the_url_of_a_server_is_warned_of() -> None:
    server = '[database]\nurl = "postgresql://h/x"\n'
    assert parse_config(server, {}).warnings == ()
    (warning,) = parse_config(f'{server}path = "here.db"\n', {}).warnings
    assert warning == ("config.toml: database.path is not used beside url; remove one of them")


# Rates


def test_one_rate_without_the_other_is_refused() -> None:
    sentence = problem(provider("input_rate = 1"))
    assert '"alpha".output_rate is missing although input_rate is given' in sentence
    sentence = problem(provider("model_rates = { m = { output_rate = 1 } }"))
    assert '"alpha".model_rates."m".input_rate is missing although output_rate' in sentence


@pytest.mark.parametrize("rate", ["cached_input_rate", "cache_write_rate", "base_fee"])
def test_what_would_be_no_price_and_no_ceiling_alone_is_refused(rate: str) -> None:
    for more in ("", '\nkind = "routstr"\nrates = "node"'):
        sentence = problem(provider(f"{rate} = 1{more}"))
        assert f'"alpha".input_rate is missing although {rate} is given' in sentence


def test_what_all_models_complete_may_stand_alone() -> None:
    rates = "model_rates = { m = { input_rate = 2, output_rate = 3 } }"
    found = first(provider(f"cached_input_rate = 1\n{rates}"))
    assert found.rates_for("m") == Rates(Decimal(2), Decimal(3), Decimal(1))
    assert found.rates is None


def test_the_two_halves_may_stand_apart() -> None:
    text = provider("input_rate = 1\nmodel_rates = { m = { output_rate = 2 } }")
    found = first(text)
    assert found.rates_for("m") == Rates(Decimal(1), Decimal(2))
    assert found.rates is None
    both = provider(
        "input_rate = 1\nmodel_rates = { m = { output_rate = 2 } }", models='["m", "n"]'
    )
    assert '"alpha".output_rate is missing' in problem(both)


def test_rates_of_a_model_override_key_by_key() -> None:
    text = provider(
        "input_rate = 1\noutput_rate = 2\nbase_fee = 3\n"
        "cache_write_rate = 4\n"
        "model_rates = { m = { output_rate = 0, cached_input_rate = 0.5 } }",
        models='["m", "n"]',
    )
    found = first(text)
    fee, write = Decimal(3), Decimal(4)
    assert found.rates_for("m") == Rates(Decimal(1), Decimal(0), Decimal("0.5"), fee, write)
    assert found.rates_for("n") == Rates(Decimal(1), Decimal(2), None, fee, write)


def test_a_provider_of_any_model_may_price_some() -> None:
    text = provider("model_rates = { m = { input_rate = 1, output_rate = 2 } }", models='["*"]')
    assert first(text).rates_for("m") == Rates(Decimal(1), Decimal(2))
    assert first(text).rates_for("other") is None


# Warnings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            provider(models='["m", "auto"]'),
            'providers."alpha".models must not name "auto", by which',
        ),
        (
            provider("[providers.model_ids]\nauto = 'x'", models='["*"]'),
            'providers."alpha".model_ids."auto" is no model, but how clients let arbstr',
        ),
        (
            provider(
                "[providers.model_rates.auto]\ninput_rate = 1\noutput_rate = 1", models='["*"]'
            ),
            'providers."alpha".model_rates."auto" is no model, but how clients',
        ),
        (
            f'{provider()}[[policies.rules]]\nname = "r"\nallowed_models = ["m", "auto"]',
            'policies.rules."r".allowed_models must not name "auto", which stands for all',
        ),
    ],
)
def test_no_model_may_be_called_as_the_choice_of_one_is(text: str, says: str) -> None:
    assert says in problem(text)


def test_a_provider_may_know_its_own_model_by_that_name() -> None:
    table = provider("[providers.model_ids]\nm = 'auto'")
    assert first(table).model_ids == {"m": "auto"}


def test_a_rule_without_a_strategy_has_the_default_one() -> None:
    policies = parse_config(
        '[policies]\ndefault_strategy = "lowest_latency"\n[[policies.rules]]\nname = "a"\n'
        '[[policies.rules]]\nname = "b"\nstrategy = "lowest_cost"\nmax_sats_per_request = 0.5',
        {},
    ).policies
    one, two = policies.rules
    assert [policies.strategy_of(rule) for rule in (None, one, two)] == [
        "lowest_latency",
        "lowest_latency",
        "lowest_cost",
    ]
    assert (one.max_sats_per_request, two.max_sats_per_request) == (None, Decimal("0.5"))


@pytest.mark.parametrize(
    ("lines", "warned"),
    [
        ("input_rate = 0.01\noutput_rate = 0.03", "output_rate is 0.03, as if it were a price per"),
        ("input_rate = 0\noutput_rate = 0.000015", "per token, or in dollars; rates are satoshis "),
        ("input_rate = 10000\noutput_rate = 30000", "output_rate is 30000, as if it were a price"),
        ("input_rate = 501\noutput_rate = 900", "input_rate is 501, as if it were a price per mi"),
        (
            "input_rate = 1\noutput_rate = 1\n[providers.model_rates.m]\noutput_rate = 3000000",
            '.model_rates for "m": output_rate is 3000000',
        ),
        ("input_rate = 0.000002\noutput_rate = 0", None),  # embeddings
        ("input_rate = 0\noutput_rate = 0", None),
        ("input_rate = 0.02\noutput_rate = 0.05", None),
        ("input_rate = 500\noutput_rate = 1000", None),
    ],
)
def test_a_rate_of_another_unit_is_warned_of(lines: str, warned: str | None) -> None:
    found = parse_config(provider(lines), {}).warnings
    if warned is None:
        assert found == ()
    else:
        (warning,) = found
        assert warned in warning
        assert warning.endswith("rates are satoshis per 1000 tokens")


def test_what_may_not_be_meant_is_warned_of() -> None:
    text = (
        "[server]\n"
        + provider(
            'api_key = "sk-literal"\nmodel_rates = { m = { input_rate = 1, output_rate = 1 } }',
            models='["m", "n"]',
        )
        + provider(name="beta")
        + '[[policies.rules]]\nname = "r"\nallowed_models = ["m", "mm"]'
    )
    key, some, none, rule = parse_config(text, {}).warnings
    assert key.startswith('config.toml: providers."alpha".api_key is written into the file')
    assert "sk-literal" not in key
    assert "ARBSTR_ALPHA_API_KEY" in key
    assert 'providers."alpha" has no rates for "n": ' in some
    assert 'providers."beta" has no rates: ' in none
    assert 'policies.rules."r".allowed_models names "mm", served by nobody' in rule


def test_a_literal_token_is_warned_of_and_an_expanded_one_is_not() -> None:
    (warning,) = parse_config('[server]\nauth_token = "sk-literal"', {}).warnings
    assert warning.startswith("config.toml: server.auth_token is written into the file")
    assert parse_config('[server]\nauth_token = "${T}"', {"T": "sk-x"}).warnings == ()


def test_userinfo_beside_a_key_is_warned_of() -> None:
    text = (
        '[[providers]]\nname = "a"\nurl = "https://u:p@h"\nmodels = ["m"]\n'
        "input_rate = 0\noutput_rate = 0"
    )
    (warning,) = parse_config(text, {"ARBSTR_A_API_KEY": "k"}).warnings
    assert '"a".url has a user and password that are not sent' in warning
    (warning,) = parse_config(text, {}).warnings
    assert '"a".url has a password that is written into the file; write ${VARIABLE}' in warning


# Secrets


def test_a_secret_shows_itself_nowhere() -> None:
    secret = Secret("sk-canary-0123456789")
    assert f"{secret} {secret!r} {secret:>12} {[secret]}".count("[REDACTED]") == 4
    assert "canary" not in f"{secret} {secret!r} {secret:>12} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)
    assert secret.reveal() == "sk-canary-0123456789"


@pytest.mark.parametrize(
    ("value", "masked"),
    [("x" * 19, "[REDACTED]"), ("abcdefghijklmnopqrst", "abcdef...***"), ("", "[REDACTED]")],
)
def test_a_secret_is_masked_by_its_length(value: str, masked: str) -> None:
    assert Secret(value).masked() == masked


def test_secrets_are_compared_by_value_even_if_they_are_no_text() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("\udc80") == Secret("\udc80")
    assert Secret("a") != "a"


def test_no_secret_is_in_the_repr_of_a_config() -> None:
    text = """
    [server]
    auth_token = "canary-token"
    [[providers]]
    name = "a"
    url = "https://canary-user:canary-password@h/v1?key=canary-query"
    api_key = "canary-key"
    models = ["m"]
    proxy = "http://canary-user:canary-password@h:3128"
    """
    config = parse_config(text, {"ARBSTR_B_API_KEY": "canary-environment"})
    assert "canary" not in repr(config)
    assert "canary" not in repr(config.providers[0].endpoint)
    assert "canary" not in "".join(config.warnings)


@pytest.mark.parametrize("section", ["server", "database", "logging", "timeouts", "retry"])
def test_no_sentence_echoes_a_value_that_stands_in_the_wrong_place(section: str) -> None:
    keys = ["listen", "auth_token", "path", "level", "connect", "backoff", "possibly_spent"]
    for value in ('"canary value"', '["canary value"]', '{ a = "canary value" }'):
        text = f"[{section}]\n" + "".join(f"{key} = {value}\n" for key in keys)
        assert "canary" not in "".join(problems(text))


# Whatever the file


VALUES = st.recursive(
    st.text(max_size=8).map(
        lambda text: "'" + "".join(c for c in text if c >= " " and c != "'") + "'"
    )
    | st.sampled_from(["1", "-1", "0.5", "inf", "nan", "true", "1979-05-27", "'${A}'", "'${'"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(["name", "m", "connect"]), inner, max_size=2).map(
            lambda table: "{ " + ", ".join(f"{k} = {v}" for k, v in table.items()) + " }"
        )
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(
    [
        *("name", "url", "models", "api_key", "proxy", "input_rate"),
        *("timeouts", "model_rates", "model_ids", "endpoints", "model_endpoints", "x"),
    ]
)
TOPS = st.sampled_from(["server", "providers", "policies", "timeouts", "stream", "x"])


@given(st.dictionaries(TOPS, VALUES), st.dictionaries(KEYS, VALUES), st.booleans())
@examples(75)
def test_whatever_the_file_says_there_is_a_config_or_there_are_sentences(
    tops: dict[str, str], keys: dict[str, str], many: bool
) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in tops.items())
    if "providers" not in tops:
        text += "[[providers]]\n" * (1 + many) + "".join(f"{k} = {v}\n" for k, v in keys.items())
    outcome = read(text)
    assert outcome
    if isinstance(outcome, tuple):
        assert all(sentence.startswith("config.toml: ") for sentence in outcome)


@given(st.text(max_size=60))
@examples(75)
def test_whatever_the_text_it_is_a_config_or_a_fault(text: str) -> None:
    assert read(text)


# Its size


def opcodes(run: Callable[[], object]) -> int:
    """How many steps of Python it takes: a measure of work that is the same in every run."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def of_many_providers(count: int) -> str:
    return "".join(
        provider(f'api_key = "cashuA{n}"\n{RATES}', name=f"p{n}", models=f'["m", "m{n}"]')
        for n in range(count)
    )


def of_many_models(count: int) -> str:
    names = [f"m{n}" for n in range(count)]
    rates = "".join(f"[providers.model_rates.{name}]\n{RATES}\n" for name in names)
    return provider(rates, models=str(names))


def of_many_faults(count: int) -> str:
    return "".join(
        provider('api_key = "${UNSET}"\ndrain_seconds = -1', name=f"p{n}") for n in range(count)
    )


@pytest.mark.parametrize("of_many", [of_many_providers, of_many_models, of_many_faults])
def test_twice_the_file_is_twice_the_work(of_many: Callable[[int], str]) -> None:
    def work(count: int) -> int:
        text = of_many(count)

        def run() -> None:
            config = read(text)
            if isinstance(config, Config):
                build_catalog(config)

        run()  # what is made once, is
        return opcodes(run)

    assert work(160) < 2.1 * work(80)

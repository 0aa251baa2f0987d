"""Who offers what, at which URL, and what is redacted."""

from decimal import Decimal

import pytest

from arbstr.sansio.config.reader import Kind, Secret, parse_config
from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.money import Rates
from arbstr.sansio.routing.catalog import Catalog, Offer, build_catalog, redact


def catalog(text: str, **environ: str) -> Catalog:
    return build_catalog(parse_config(text, environ))


TWO = """
[server]
auth_token = "front-door-token-1234567890"
[[providers]]
name = "beta"
url = "https://user:pass-word@beta.example/api/v1?api-key=query-secret-99"
models = ["gpt-4o", "small"]
input_rate = 1
output_rate = 2
[providers.model_ids]
"gpt-4o" = "openai/gpt-4o"
[providers.model_rates.small]
output_rate = 0.5
[[providers]]
name = "any"
url = "https://any.example"
api_key = "sk-any-000000000000000000"
models = ["*"]
model_ids = { "known" = "vendor/known" }
"""


def offered(offers: tuple[Offer, ...]) -> list[tuple[str, str]]:
    return [(offer.provider.name, offer.upstream_model) for offer in offers]


def test_offers_come_from_those_who_list_the_model_and_those_who_serve_any() -> None:
    found = catalog(TWO)
    assert offered(found.offers("gpt-4o")) == [("beta", "openai/gpt-4o"), ("any", "gpt-4o")]
    assert offered(found.offers("known")) == [("any", "vendor/known")]
    assert offered(found.offers("never-heard-of")) == [("any", "never-heard-of")]
    assert found.offers("*") == ()


def test_an_offer_has_the_rates_of_its_model() -> None:
    found = catalog(TWO)
    small, any_small = found.offers("small")
    assert small.rates == Rates(Decimal(1), Decimal("0.5"))
    assert any_small.rates is None


def test_offers_share_the_provider_of_the_snapshot() -> None:
    found = catalog(TWO)
    assert found.offers("gpt-4o")[0].provider is found.providers[0]


def test_the_models_are_sorted_and_without_the_wildcard() -> None:
    assert catalog(TWO).models() == ("gpt-4o", "known", "small")


def test_nobody_serves_a_model_that_nobody_lists() -> None:
    assert catalog("").offers("gpt-4o") == ()
    assert catalog("").models() == ()


def test_the_owner_is_the_cheapest_then_the_first_by_name_and_priced_before_unpriced() -> None:
    found = catalog(TWO)
    assert found.cheapest_owner("gpt-4o") == "beta"
    assert found.cheapest_owner("known") == "any"
    with pytest.raises(LocalProtocolError):
        catalog("").cheapest_owner("gpt-4o")
    tied = '[[providers]]\nname="{}"\nurl="http://h"\nmodels=["m"]\ninput_rate=1\noutput_rate=1\n'
    assert catalog(tied.format("z") + tied.format("a")).cheapest_owner("m") == "a"


@pytest.mark.parametrize(
    ("base", "posted"),
    [
        ("https://h", "https://h/v1/chat/completions"),
        ("https://h/", "https://h/v1/chat/completions"),
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/api/v1", "https://h/api/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/v1/messages", "https://h/v1/chat/completions"),
        ("https://h/api/v1/responses/", "https://h/api/v1/chat/completions"),
        ("https://h/v1/completions", "https://h/v1/chat/completions"),
        ("https://h/embeddings", "https://h/v1/chat/completions"),
        ("http://[::1]:8000", "http://[::1]:8000/v1/chat/completions"),
        ("https://h/v1?version=2", "https://h/v1/chat/completions?version=2"),
    ],
)
def test_every_way_to_write_a_base_url_reaches_the_chat_route(base: str, posted: str) -> None:
    found = catalog(f'[[providers]]\nname="a"\nurl="{base}"\nmodels=["m"]')
    assert found.providers[0].url_of("/chat/completions") == posted


def test_what_is_shown_of_a_url_has_neither_userinfo_nor_query() -> None:
    beta = catalog(TWO).providers[0]
    assert beta.shown_url == "https://beta.example/api/v1"
    base = "https://beta.example/api/v1"
    assert parse_config(TWO, {}).providers[0].endpoint.shown_base == base
    assert beta.url_of("/chat/completions") == f"{base}/chat/completions?api-key=query-secret-99"


def test_a_key_is_sent_as_bearer_and_userinfo_as_basic() -> None:
    beta, any_model = catalog(TWO).providers
    assert any_model.authorization == Secret("Bearer sk-any-000000000000000000")
    assert beta.authorization == Secret("Basic dXNlcjpwYXNzLXdvcmQ=")
    bare = catalog('[[providers]]\nname="a"\nurl="http://h"\nmodels=["m"]').providers[0]
    assert bare.authorization is None
    assert bare.kind is Kind.OPENAI


def test_no_secret_is_in_the_repr_of_a_catalog() -> None:
    shown = repr(catalog(TWO)) + repr(catalog(TWO).offers("gpt-4o"))
    for canary in ("front-door", "pass-word", "query-secret", "sk-any", "dXNlc"):
        assert canary not in shown


def test_everything_secret_is_redacted_by_value() -> None:
    found = catalog(TWO)
    said = (
        "front-door-token-1234567890 pass-word query-secret-99 sk-any-000000000000000000 "
        "dXNlcjpwYXNzLXdvcmQ= cashuAeyJ0b2tlbiI6_x-y= cashuBo2F0 and the rest"
    )
    assert redact(said, found.secrets) == "[REDACTED] " * 7 + "and the rest"


def test_what_a_proxy_is_given_is_redacted_unless_it_is_too_short_to_be_a_secret() -> None:
    table = '[[providers]]\nname="{}"\nurl="https://h"\nmodels=["m"]\nproxy="{}"\n'
    long, short = "socks5://someone:p%40ss@h:1", "socks5://a:b@h:1"
    found = catalog(table.format("long", long) + table.format("short", short))
    said = "p%40ss p@ss c29tZW9uZTpwQHNz someone a b"
    assert redact(said, found.secrets) == "[REDACTED] " * 3 + "someone a b"
    assert [provider.proxy and provider.proxy.shown for provider in found.providers] == [
        "socks5://h:1",
        "socks5://h:1",
    ]


def test_redaction_takes_the_longest_secret_and_does_not_touch_its_own_mark() -> None:
    secrets = (Secret("abc"), Secret("abcdef"), Secret("RED"), Secret(""))
    assert redact("abcdef abc x", secrets) == "[REDACTED] [REDACTED] x"
    assert redact("see github.com/cashubtc", ()) == "see github.com/cashubtc"

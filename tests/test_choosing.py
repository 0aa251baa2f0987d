"""Which provider is chosen, under which policy, and what it costs: a whole `arbstr run`.

The price is told three times, in a header or the chunk behind `[DONE]`, in the row, and by the
formula, and must be the same to the last digit.
"""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, cast

import openai
import pytest

from tests.fakes import FakeProcess
from tests.process import ArbstrProcess, arbstr_process
from tests.sdk import ask_sync, chat, provider

RATES: Final = (("0.1", "0.0003", "12.5"), ("0.0003", "12.5", "0.1"), ("12.5", "0.1", "0.0003"))
"""Awkward ones: none but 12.5 is a binary fraction."""

CONFIG: Final = """
[[policies.rules]]
name = "small-only"
allowed_models = ["small"]
keywords = ["zebra"]

[[policies.rules]]
name = "thrifty"
max_sats_per_1k_output = 50
keywords = ["econom", "zebra"]

[[policies.rules]]
name = "penniless"
max_sats_per_1k_output = 0.5

[[providers]]
name = "market"
url = "{url}"
api_key = "sk-market-canary"
models = ["small", "medium", "large"]
input_rate = 1000       # what nobody pays: each model has its own
output_rate = 1000
[providers.model_ids]
"small" = "fake-usage-12345-6789"
"medium" = "fake-usage-7-3"
"large" = "fake-tools"
[providers.model_rates."small"]
input_rate = 1
output_rate = 4
[providers.model_rates."medium"]
input_rate = 2
output_rate = 8
base_fee = 0.25
[providers.model_rates."large"]
input_rate = 15
output_rate = 75
"""


def config(fake: FakeProcess) -> str:
    at = fake.url_of("fake-usage-12345-6789")
    tables = [
        provider(f"awkward-{n}", at, f"awkward-{n}", rates=rates, base_fee=fee)
        for n, (*rates, fee) in enumerate(RATES)
    ]
    tables += [
        provider("plain", fake.url, "fake-no-usage"),
        provider("in-cheap", fake.url, "two-offers", rates=(1, 100)),
        provider("out-cheap", fake.url, "two-offers", rates=(100, 1)),
    ]
    return CONFIG.format(url=fake.url) + "".join(tables)


@pytest.fixture(scope="module")
def arbstr(providers: FakeProcess) -> Iterator[ArbstrProcess]:
    with arbstr_process(config_text=config(providers)) as process:
        yield process


def trailing(body: bytes) -> dict[str, Any]:
    """The `arbstr` object of the chunk behind `[DONE]`, its numbers exact."""
    stream, done, after = body.partition(b"data: [DONE]\n\n")
    assert done
    assert b"[DONE]" not in after
    assert b"arbstr" not in stream
    data, end, nothing = after.removeprefix(b"data: ").partition(b"\n\n")
    assert (end, nothing) == (b"\n\n", b"")
    chunk = json.loads(data, parse_float=Decimal, parse_int=Decimal)
    assert (chunk["object"], chunk["choices"]) == ("chat.completion.chunk", [])
    return cast("dict[str, Any]", chunk["arbstr"])


# ---- money


@pytest.mark.parametrize("number", range(len(RATES)), ids=map(" ".join, RATES))
def test_the_price_is_the_formula_to_the_last_digit(
    number: int, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    input_rate, output_rate, base_fee = map(Decimal, RATES[number])
    expected = (12345 * input_rate + 6789 * output_rate) / 1000 + base_fee
    reply = ask_sync(arbstr.base_url, chat(f"awkward-{number}"))
    assert reply.cost == expected
    assert reply.headers["x-arbstr-cost-sats"] == format(expected.normalize(), "f")
    assert arbstr.wait_final(reply.request_id)["cost_sats"] == float(expected)

    streamed = arbstr.chat(f"awkward-{number}", stream=True)
    assert trailing(streamed.content)["cost_sats"] == expected
    assert arbstr.wait_final(streamed.headers["x-request-id"])["cost_sats"] == float(expected)


@pytest.mark.parametrize(
    ("model", "upstream", "expected"),
    [
        ("small", "fake-usage-12345-6789", Decimal("39.501")),  # (12345 * 1 + 6789 * 4) / 1000
        ("medium", "fake-usage-7-3", Decimal("0.288")),  # (7 * 2 + 3 * 8) / 1000 + 0.25
        ("large", "fake-tools", Decimal("0.525")),  # (10 * 15 + 5 * 75) / 1000
    ],
)
def test_one_endpoint_sells_each_model_at_its_own_price_under_its_own_id(
    model: str, upstream: str, expected: Decimal, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    reply = ask_sync(arbstr.base_url, chat(model))
    assert fake.requests()[0].json["model"] == upstream
    assert fake.requests()[0].header("authorization") == "Bearer sk-market-canary"
    assert reply.cost == expected
    assert reply.answer is not None
    assert reply.answer.model == "gpt-4o"  # as the provider calls itself, whatever was asked for
    row = arbstr.wait_final(reply.request_id)
    assert (row["provider"], row["model"], row["requested_model"]) == ("market", model, model)
    assert row["cost_sats"] == float(expected)


@pytest.mark.parametrize(
    ("said", "max_tokens", "cheaper"),
    [("word " * 2000, 1, "in-cheap"), ("Write a book.", 4000, "out-cheap")],
    ids=["input-heavy", "output-heavy"],
)
def test_the_provider_that_is_cheaper_for_this_request_is_chosen(
    said: str, max_tokens: int, cheaper: str, arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    reply = ask_sync(arbstr.base_url, chat("two-offers", said, max_tokens=max_tokens))
    assert reply.headers["x-arbstr-provider"] == cheaper
    row = arbstr.wait_final(reply.request_id)
    assert row["provider"] == cheaper
    tokens = len(said) / 4
    if cheaper == "in-cheap":
        assert row["estimated_cost_sats"] == pytest.approx((tokens * 1 + 1 * 100) / 1000, rel=0.01)


# ---- policies


def test_a_policy_named_in_the_header_caps_the_price(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    asked = chat("two-offers", "word " * 2000, max_tokens=1)
    asked["extra_headers"] = {"X-Arbstr-Policy": "thrifty"}
    reply = ask_sync(arbstr.base_url, asked)
    assert reply.headers["x-arbstr-policy"] == "thrifty"
    assert reply.headers["x-arbstr-provider"] == "out-cheap"  # in-cheap asks 100 for the output
    assert arbstr.wait_final(reply.request_id)["policy"] == "thrifty"


def test_a_keyword_finds_the_first_policy_that_allows_the_model(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    reply = ask_sync(arbstr.base_url, chat("small", "Draw a ZEBRA, economically"))
    assert reply.headers["x-arbstr-policy"] == "small-only"
    # The same word; but that rule does not allow this model, and did not ask to be matched.
    reply = ask_sync(arbstr.base_url, chat("medium", "Draw zebras"))
    assert reply.headers["x-arbstr-policy"] == "thrifty"
    reply = ask_sync(arbstr.base_url, chat("small", "Draw a horse uneconomically"))
    assert "x-arbstr-policy" not in reply.headers
    assert arbstr.wait_final(reply.request_id)["policy"] is None


@pytest.mark.parametrize(
    ("model", "policy", "code", "named"),
    [
        ("small", "nonesuch", "unknown_policy", ("nonesuch", "small-only", "thrifty")),
        ("medium", "small-only", "model_not_allowed", ("medium", "small")),
        ("small", "penniless", "no_provider_within_policy", ("market", "0.5")),
    ],
)
def test_a_policy_that_cannot_be_met_is_refused_and_nobody_is_asked(
    model: str,
    policy: str,
    code: str,
    named: tuple[str, ...],
    arbstr: ArbstrProcess,
    fake: FakeProcess,
) -> None:
    asked = chat(model, extra_headers={"X-Arbstr-Policy": policy})
    with pytest.raises(openai.BadRequestError) as caught:
        ask_sync(arbstr.base_url, asked)
    assert caught.value.code == code
    assert all(name in caught.value.message for name in named)
    assert caught.value.request_id
    row = arbstr.wait_final(caught.value.response.headers["x-request-id"])
    assert (row["status"], row["error_status"], row["attempts"]) == ("rejected", 400, 0)
    assert fake.requests() == []


def test_a_model_nobody_serves_is_not_found_and_the_served_ones_are_named(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask_sync(arbstr.base_url, chat("smal"))
    assert caught.value.code == "model_not_found"
    assert '"small"' in caught.value.message
    assert fake.requests() == []


def test_an_answer_without_usage_has_no_price_and_that_is_not_zero(
    arbstr: ArbstrProcess, fake: FakeProcess
) -> None:
    reply = ask_sync(arbstr.base_url, chat("fake-no-usage"))
    assert "x-arbstr-cost-sats" not in reply.headers
    assert arbstr.wait_final(reply.request_id)["cost_sats"] is None
    streamed = arbstr.chat("fake-no-usage", stream=True)
    assert trailing(streamed.content)["cost_sats"] is None

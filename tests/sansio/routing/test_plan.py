"""Policy, candidates, order: who gets a request, and what is said if nobody can."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.config.reader import STRATEGY_NAMES, Policies, parse_config
from arbstr.sansio.dialects.dialect import Asked
from arbstr.sansio.dialects.doors import DOORS
from arbstr.sansio.routing.affinity import Home
from arbstr.sansio.routing.catalog import build_catalog
from arbstr.sansio.routing.holds import LEAST_HELD, UNTIL_KNOWN, Lengths
from arbstr.sansio.routing.latency import Latency
from arbstr.sansio.routing.plan import (
    ASSUMED_OUTPUT,
    NOTHING_LEARNT,
    STRATEGIES,
    Learnt,
    RoutePlan,
    plan,
)
from arbstr.sansio.routing.ratios import Ratio
from arbstr.sansio.routing.refusals import NoRoute, PassedOver
from tests.chats import chat, parse
from tests.searching import examples


def provider(name: str, inp: str | None, out: str | None, fee: str = "0", models: str = "m") -> str:
    ids = json.dumps(models.split())
    text = f'[[providers]]\nname = "{name}"\nurl = "https://{name}.example"\nmodels = {ids}\n'
    if inp is not None:
        text += f"input_rate = {inp}\noutput_rate = {out}\nbase_fee = {fee}\n"
    return text


def rule(name: str, **members: object) -> str:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in members.items())
    return f'[[policies.rules]]\nname = "{name}"\n{lines}'


def route(
    text: str, request: Asked, header: str | None = None, learnt: Learnt = NOTHING_LEARNT
) -> RoutePlan | NoRoute:
    config = parse_config(text, {})
    catalog = build_catalog(config)
    return plan(
        request,
        policy_header=header,
        catalog=catalog,
        policies=config.policies,
        hold=config.budget.hold,
        learnt=learnt,
    )


def planned(
    text: str, request: Asked, header: str | None = None, learnt: Learnt = NOTHING_LEARNT
) -> RoutePlan:
    found = route(text, request, header, learnt)
    assert isinstance(found, RoutePlan), found
    return found


def refused(text: str, request: Asked, header: str | None = None) -> NoRoute:
    found = route(text, request, header)
    assert isinstance(found, NoRoute), found
    return found


def names(found: RoutePlan) -> list[str]:
    return [candidate.offer.provider.name for candidate in found.candidates]


# Policy


def test_the_name_of_the_rule_is_in_the_plan_and_in_the_refusal() -> None:
    text = provider("a", "1", "1") + rule("code", keywords=["code"])
    assert planned(text, chat(text="code")).policy == "code"
    assert planned(text, chat()).policy is None
    assert refused(text, chat(model="zzz", text="code")).policy == "code"
    assert refused(text, chat(), "no-such").policy is None


# Candidates


def test_a_model_nobody_serves_is_not_found_and_the_near_one_is_suggested() -> None:
    found = refused(provider("a", "1", "1", models="gpt-4o claude"), chat(model="openai/gpt-4o"))
    assert (found.error.status, found.error.code) == (404, "model_not_found")
    assert found.error.param == "model"
    assert found.error.message == (
        'No provider serves the model "openai/gpt-4o". Did you mean "gpt-4o"? '
        'Served models: "claude", "gpt-4o".'
    )


def test_a_long_list_of_models_is_cut_short() -> None:
    models = " ".join(f"model-{n:03}" for n in range(55))
    message = refused(provider("a", "1", "1", models=models), chat(model="zzz")).error.message
    assert '"model-019" and 35 more.' in message
    assert "model-020" not in message


def test_without_any_model_the_refusal_says_so() -> None:
    assert refused("", chat()).error.message.endswith("No models are configured.")


def test_a_policy_that_was_asked_for_must_allow_the_model() -> None:
    text = provider("a", "1", "1", models="m x") + rule("r", allowed_models=["x"])
    found = refused(text, chat(), "r")
    assert (found.error.status, found.error.code) == (400, "model_not_allowed")
    assert found.error.message == 'The policy "r" does not allow the model "m". It allows: "x".'
    assert found.policy == "r"
    assert names(planned(text, chat(model="x"), "r")) == ["a"]


def test_a_cap_excludes_the_dear_and_the_unpriced_and_says_why() -> None:
    text = (
        provider("dear", "1", "50.001")
        + provider("fits", "9", "50")
        + provider("unknown", None, None)
        + rule("r", max_sats_per_1k_output=50)
    )
    found = planned(text, chat(), "r")
    assert names(found) == ["fits"]
    assert found.passed_over == (
        PassedOver("dear", "m", "asks 50.001 sats per 1000 output tokens, over 50"),
        PassedOver("unknown", "m", "has no rates, so it cannot be held to a cap"),
    )


@pytest.mark.parametrize("header", ["r", None])
def test_a_cap_that_leaves_nobody_says_why_for_each(header: str | None) -> None:
    text = (
        provider("dear", "1", "60")
        + provider("unknown", None, None)
        + rule("r", max_sats_per_1k_output=50, keywords=["code"])
    )
    found = refused(text, chat(text="code"), header)
    assert (found.error.status, found.error.code) == (400, "no_provider_within_policy")
    assert found.policy == "r"
    assert found.error.message == (
        'No provider of this model is within the policy "r": '
        "dear asks 60 sats per 1000 output tokens, over 50; "
        "unknown has no rates, so it cannot be held to a cap."
    )


def test_a_cap_looks_at_the_rates_of_the_model() -> None:
    text = (
        provider("a", "1", "60")
        + "[providers.model_rates.m]\noutput_rate = 40\n"
        + rule("r", max_sats_per_1k_output=50)
    )
    assert names(planned(text, chat(), "r")) == ["a"]


# Order


TWO = provider("cheap-in", "1", "40") + provider("cheap-out", "20", "2")


def test_the_cheaper_one_depends_on_the_request() -> None:
    assert names(planned(TWO, chat(text="x" * 40_000, max_tokens=10))) == ["cheap-in", "cheap-out"]
    assert names(planned(TWO, chat(text="x", max_tokens=4000))) == ["cheap-out", "cheap-in"]


def test_the_estimate_is_the_full_formula() -> None:
    request = chat(text="x" * 4000, max_completion_tokens=100, n=3)
    (candidate,) = planned(provider("a", "0.1", "0.0003", "2"), request).candidates
    expected = (request.input_tokens * Decimal("0.1") + 300 * Decimal("0.0003")) / 1000 + 2
    assert candidate.estimated_cost == expected
    assert candidate.estimated_output == 300


def test_without_a_maximum_256_output_tokens_a_choice_are_assumed() -> None:
    (candidate,) = planned(provider("a", "1", "1"), chat(n=2)).candidates
    assert candidate.estimated_output == 2 * ASSUMED_OUTPUT == 512


def test_the_unpriced_come_last_and_ties_go_by_name() -> None:
    text = (
        provider("b-unknown", None, None)
        + provider("a-unknown", None, None)
        + provider("z-free", "0", "0")
        + provider("y", "1", "1")
        + provider("x", "1.0", "1.00")
    )
    found = planned(text, chat())
    assert names(found) == ["z-free", "x", "y", "a-unknown", "b-unknown"]
    assert [c.estimated_cost is None for c in found.candidates] == [False] * 3 + [True] * 2


def test_a_base_fee_counts() -> None:
    text = provider("fee", "1", "1", "5") + provider("rates", "2", "2")
    assert names(planned(text, chat(max_tokens=10))) == ["rates", "fee"]
    assert names(planned(text, chat(text="x" * 40_000, max_tokens=10))) == ["fee", "rates"]


def ratios(**averages: float) -> Learnt:
    """Trusted ratios by policy; `none` stands for no policy."""
    found = {name: Ratio(average, 20) for name, average in averages.items()}
    return Learnt(
        {"" if name == "none" else name: ratio for name, ratio in found.items()}, {}, Lengths()
    )


@pytest.mark.parametrize(
    ("members", "learnt", "output"),
    [
        pytest.param({}, ratios(none=2.0), 2000, id="the ratio times the input"),
        pytest.param({"max_tokens": 300}, ratios(none=2.0), 300, id="at most the maximum"),
        pytest.param({"max_tokens": 9000}, ratios(none=2.0), 2000, id="not the maximum itself"),
        pytest.param({"n": 3}, ratios(none=2.0), 6000, id="for each choice"),
        pytest.param({"n": 3, "max_tokens": 300}, ratios(none=2.0), 900, id="at most, for each"),
        pytest.param({"max_tokens": 0}, ratios(none=2.0), 2000, id="a maximum that is none"),
        pytest.param({}, ratios(other=2.0), 256, id="the ratio of another policy"),
        pytest.param({}, Learnt({"": Ratio(2.0, 19)}, {}, Lengths()), 256, id="too few samples"),
    ],
)
def test_the_output_expected_is_what_was_learnt(
    members: dict[str, Any], learnt: Learnt, output: int
) -> None:
    request = chat(text="x" * 4000, **members)
    assert request.input_tokens == 1000
    (candidate,) = planned(provider("a", "1", "1"), request, learnt=learnt).candidates
    assert candidate.estimated_output == output
    assert candidate.estimated_cost == Decimal(1000 + output) / 1000


def test_each_policy_goes_by_its_own_answers() -> None:
    text = TWO + rule("long", keywords=["write"]) + rule("short", keywords=["sum"])
    learnt = ratios(long=10.0, short=0.01)
    assert names(planned(text, chat(text="write " + "x" * 4000), learnt=learnt))[0] == "cheap-out"
    assert names(planned(text, chat(text="sum up " + "x" * 4000), learnt=learnt))[0] == "cheap-in"


# Latency

FAST = '[policies]\ndefault_strategy = "lowest_latency"\n'
THREE = provider("a", "1", "1") + provider("b", "2", "2") + provider("c", "3", "3")


def latencies(**seconds: float) -> Learnt:
    found = {name: Latency(value, True) for name, value in seconds.items()}
    return Learnt({}, found, Lengths())


@pytest.mark.parametrize(
    ("learnt", "order"),
    [
        pytest.param(latencies(a=3, b=2, c=1), "c b a", id="the soonest first"),
        pytest.param(latencies(a=1, b=1, c=0.5), "c a b", id="ties by cost"),
        pytest.param(latencies(a=0.1), "b c a", id="the unmeasured first, by cost"),
        pytest.param(NOTHING_LEARNT, "a b c", id="nobody measured"),
    ],
)
def test_lowest_latency_goes_by_the_time_to_first_output(learnt: Learnt, order: str) -> None:
    found = planned(FAST + THREE, chat(), learnt=learnt)
    assert names(found) == order.split()
    assert found.strategy == "lowest_latency"


def test_a_rule_has_its_own_strategy() -> None:
    learnt = latencies(a=3, b=2, c=1)
    cheap = THREE + rule("fast", strategy="lowest_latency")
    assert names(planned(cheap, chat(), learnt=learnt)) == ["a", "b", "c"]
    assert names(planned(cheap, chat(), "fast", learnt)) == ["c", "b", "a"]
    fast = FAST + THREE + rule("cheap", strategy="cheapest") + rule("as the others")
    assert names(planned(fast, chat(), "cheap", learnt)) == ["a", "b", "c"]
    assert names(planned(fast, chat(), "as the others", learnt)) == ["c", "b", "a"]


# Auto

MARKET = (
    provider("a", "1", "8", models="small large")
    + '[providers.model_rates."large"]\noutput_rate = 90\n'
    + provider("b", "1", "9", models="small medium")
    + provider("c", None, None, models="medium")
)


def pairs(found: RoutePlan) -> list[str]:
    return [f"{one.offer.provider.name}/{one.offer.model}" for one in found.candidates]


def test_auto_is_every_pair_the_policy_allows_the_cheapest_first() -> None:
    text = MARKET + rule("all") + rule("some", allowed_models=["large", "medium"])
    auto = chat(model="auto")
    every = ["a/small", "b/medium", "b/small", "a/large", "c/medium"]
    assert pairs(planned(text, auto, "all")) == every
    assert pairs(planned(text, auto, "some")) == ["b/medium", "a/large", "c/medium"]


def test_auto_asks_a_provider_of_any_model_for_the_models_that_are_named() -> None:
    text = provider("any", "1", "1", models="*") + provider("a", "2", "2", models="small")
    text += rule("all") + rule("some", allowed_models=["small", "tiny"])
    assert pairs(planned(text, chat(model="auto"), "all")) == ["any/small", "a/small"]
    named = ["any/small", "any/tiny", "a/small"]
    assert pairs(planned(text, chat(model="auto"), "some")) == named


def test_auto_needs_a_policy() -> None:
    text = provider("any", "1", "1", models="*") + rule("r", keywords=["code"])
    found = refused(text, chat(model="auto"))
    assert (found.error.status, found.error.code) == (400, "auto_needs_policy")
    assert (found.policy, found.error.param) == (None, "model")
    assert planned(provider("a", "1", "1") + text, chat(model="auto", text="code")).policy == "r"


def test_for_auto_no_rule_is_passed_over() -> None:
    text = provider("a", "1", "1", models="x") + rule("r", allowed_models=["x"], keywords=["code"])
    assert planned(text, chat(model="auto", text="code")).policy == "r"


def test_auto_under_a_cap_says_of_each_pair_why_not() -> None:
    text = MARKET + rule("r", max_sats_per_1k_output=8.5)
    found = planned(text, chat(model="auto"), "r")
    assert pairs(found) == ["a/small"]
    assert [(one.provider, one.model) for one in found.passed_over] == [
        ("a", "large"),
        ("b", "medium"),
        ("c", "medium"),
        ("b", "small"),
    ]
    message = refused(MARKET + rule("r", max_sats_per_1k_output=1), chat(model="auto"), "r").error
    assert "a for large asks 90 sats per 1000 output tokens, over 1; " in message.message


def test_auto_with_hundreds_of_pairs_names_the_first_ones() -> None:
    models = " ".join(f"model-{n:03}" for n in range(300))
    text = provider("a", "1", "9", models=models) + rule("r", max_sats_per_1k_output=1)
    message = refused(text, chat(model="auto"), "r").error.message
    assert message.endswith("; and 280 more.")
    assert len(message) < 3000


def test_auto_where_nobody_serves_what_is_allowed_is_refused() -> None:
    text = provider("a", "1", "1") + rule("r", allowed_models=["gone"])
    error = refused(text, chat(model="auto"), "r").error
    assert (error.status, error.code) == (400, "no_provider_within_policy")
    assert error.message.endswith('that the policy "r" allows: "gone".')


def test_auto_by_latency_asks_the_soonest_for_its_cheapest_model() -> None:
    text = FAST + MARKET + rule("all")
    found = planned(text, chat(model="auto"), "all", latencies(a=3, b=1, c=2))
    assert pairs(found) == ["b/medium", "b/small", "c/medium", "a/small", "a/large"]


# The cap on a request


def test_a_cap_on_the_request_excludes_who_could_cost_more() -> None:
    text = THREE + provider("d", None, None) + rule("r", max_sats_per_request=0.6)
    request = chat(text="hi", max_tokens=199)  # 1 token in, so 200 in all
    found = planned(text, request, "r")
    assert names(found) == ["a", "b", "c"], "exactly the cap is within it"
    assert found.max_sats == Decimal("0.6")
    assert found.passed_over == (
        PassedOver("d", "m", "has no rates, so it cannot be held to a cap"),
    )
    found = planned(text, chat(text="hi", max_tokens=200), "r")
    assert names(found) == ["a", "b"]
    assert found.passed_over[0] == PassedOver(
        "c",
        "m",
        "could cost 0.603 sats, over 0.6 a request",
    )


def test_a_cap_on_the_request_that_leaves_nobody_says_why_for_each() -> None:
    text = THREE + rule("r", max_sats_per_request=0.1, max_sats_per_1k_output=2)
    found = refused(text, chat(text="hi", max_tokens=199), "r")
    assert (found.error.status, found.error.code) == (400, "over_request_budget")
    assert found.error.message == (
        'No provider of this model is within the policy "r": '
        "a could cost 0.2 sats, over 0.1 a request; "
        "b could cost 0.4 sats, over 0.1 a request; "
        "c asks 3 sats per 1000 output tokens, over 2. "
        "So much, because the request allows 199 tokens of output "
        '([budget] hold = "likely"); lower its max_tokens or raise max_sats_per_request.'
    )


def lengths(*tokens: int, policy: str = "r", model: str = "m") -> Learnt:
    """What answers took, and a ratio that says they take next to nothing."""
    found = Lengths()
    for each in tokens:
        found.learn(policy, model, each, 1)
    return Learnt({policy: Ratio(0.001, 20)}, {}, found)


@pytest.mark.parametrize(
    ("members", "learnt", "held"),
    [
        pytest.param({}, NOTHING_LEARNT, UNTIL_KNOWN, id="nothing known"),
        pytest.param({"max_tokens": 32_000}, NOTHING_LEARNT, UNTIL_KNOWN, id="more is allowed"),
        pytest.param({"max_tokens": 100, "n": 3}, NOTHING_LEARNT, 300, id="for each choice"),
        pytest.param({}, lengths(*[900] * 19), UNTIL_KNOWN, id="too few answers"),
        pytest.param({}, lengths(*[900] * 20), 900, id="what answers took"),
        pytest.param({"n": 2}, lengths(*[900] * 20), 1800, id="what they took, for each choice"),
        pytest.param({}, lengths(*[1] * 20), LEAST_HELD, id="never next to nothing"),
        pytest.param({}, lengths(*[900] * 20, policy="s"), UNTIL_KNOWN, id="under another policy"),
        pytest.param({}, lengths(*[900] * 20, model="x"), UNTIL_KNOWN, id="of another model"),
        pytest.param({"max_tokens": 9, "max_completion_tokens": 5}, NOTHING_LEARNT, 9, id="larger"),
    ],
)
def test_the_hold_goes_by_what_answers_took_and_not_by_the_ratio(
    members: dict[str, Any], learnt: Learnt, held: int
) -> None:
    text = provider("a", "0", "1000", "0.25") + rule("r")
    (candidate,) = planned(text, chat(text="hi", **members), "r", learnt).candidates
    assert candidate.hold.tokens * candidate.hold.choices == held
    assert candidate.hold_cost == Decimal(held) + Decimal("0.25")


def test_the_order_goes_by_the_estimate_and_not_by_the_hold() -> None:
    # By the hold the one with cheap output would be first.
    found = planned(TWO, chat(text="x" * 4000), learnt=ratios(none=0.01))
    assert names(found) == ["cheap-in", "cheap-out"]
    assert [one.hold_cost for one in found.candidates] == [Decimal("164.84"), Decimal("28.192")]


def test_hold_most_is_all_that_the_client_allows() -> None:
    text = '[budget]\nhold = "most"\n' + provider("a", "0", "1")
    (candidate,) = planned(text, chat(max_tokens=32_000), learnt=lengths(*[9] * 20)).candidates
    assert candidate.hold_cost == 32


def test_without_rates_there_is_no_hold() -> None:
    (candidate,) = planned(provider("a", None, None), chat()).candidates
    assert candidate.hold_cost is None
    assert not candidate.output_decides


@pytest.mark.parametrize(("fee", "decides"), [("0.1", True), ("0.101", False)])
def test_output_decides_where_it_is_half_of_the_hold(fee: str, decides: bool) -> None:
    (candidate,) = planned(provider("a", "0", "1", fee), chat(max_tokens=100)).candidates
    assert candidate.output_decides is decides


def test_a_cap_on_the_request_goes_by_the_hold() -> None:
    text = provider("a", "1", "1") + rule("r", max_sats_per_request=1)
    assert refused_with(text, chat(text="hi"), NOTHING_LEARNT) == "over_request_budget"
    assert names(planned(text, chat(text="hi"), "r", lengths(*[999] * 20))) == ["a"]
    assert refused_with(text, chat(text="hi"), lengths(*[1000] * 20)) == "over_request_budget"


def test_a_cap_that_the_input_alone_exceeds_blames_no_output() -> None:
    text = provider("a", "1", "1") + rule("r", max_sats_per_request=1)
    found = refused(text, chat(text="x" * 40_000, max_tokens=10), "r")
    assert found.error.message.endswith(": a could cost 10.01 sats, over 1 a request.")


def refused_with(text: str, request: Asked, learnt: Learnt) -> str:
    found = route(text, request, "r", learnt)
    assert isinstance(found, NoRoute)
    return found.error.code


PRICE = st.decimals(min_value=0, max_value=1000, places=4).map(str)


@given(
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3),
        st.none() | st.tuples(PRICE, PRICE, PRICE),
        min_size=1,
    ),
    st.integers(0, 5000),
    st.integers(1, 5),
    st.none() | st.integers(0, 500),
)
@examples(30)
def test_every_provider_is_a_candidate_or_passed_over_and_the_order_is_by_cost(
    prices: dict[str, tuple[str, str, str] | None], limit: int, n: int, cap: int | None
) -> None:
    text = "".join(provider(name, *(price or (None, None))) for name, price in prices.items())
    text += rule("r", **({} if cap is None else {"max_sats_per_1k_output": cap}))
    found = route(text, chat(max_tokens=limit, n=n), "r")
    if isinstance(found, NoRoute):
        assert found.error.code == "no_provider_within_policy"
        assert all(name in found.error.message for name in prices)
        return
    assert sorted([*names(found), *(one.provider for one in found.passed_over)]) == sorted(prices)
    keys = [
        (c.estimated_cost is None, c.estimated_cost or 0, c.offer.provider.name)
        for c in found.candidates
    ]
    assert keys == sorted(keys)


@given(st.text(max_size=300), st.text(max_size=300))
@examples(50)
def test_whatever_names_a_client_sends_the_refusal_can_be_sent(model: str, policy: str) -> None:
    text = provider("a", "1", "1", models="gpt-4o")
    found = route(text + rule("r"), chat(model="gpt-4o"), policy)
    if isinstance(found, NoRoute):
        assert found.error.body()
    odd = parse(json.dumps({"model": model, "messages": []}).encode())
    if isinstance(odd, Asked) and model != "gpt-4o":
        assert refused(text, odd).error.body()


def test_every_strategy_that_can_be_named_is_a_row() -> None:
    assert set(STRATEGIES) == set(STRATEGY_NAMES)
    assert Policies().default_strategy in STRATEGIES


# Who serves the path


def restricted(name: str, price: str, *endpoints: str) -> str:
    return provider(name, price, price) + f"endpoints = {json.dumps(endpoints)}\n"


def responses(**members: Any) -> Asked:
    body = {"model": "m", "input": "x" * 4000, **members}
    found = DOORS["responses"].parse(json.dumps(body).encode(), {}, b"")
    assert isinstance(found, Asked)
    return found


def test_who_does_not_serve_the_path_is_passed_over_with_that_reason() -> None:
    text = restricted("a", "1", "chat") + restricted("b", "2", "chat", "responses")
    found = planned(text, responses())
    assert names(found) == ["b"]
    assert found.passed_over == (PassedOver("a", "m", "does not serve /v1/responses"),)
    assert names(planned(text, chat())) == ["a", "b"]


def test_a_path_that_nobody_serves_is_refused_with_everybodys_name() -> None:
    text = restricted("a", "1", "chat") + restricted("b", "2", "embeddings")
    error = refused(text, responses()).error
    assert (error.code, error.status, error.should_retry) == ("unsupported_endpoint", 400, False)
    assert 'No provider of "m" is there to be asked: ' in error.message
    assert "a does not serve /v1/responses; b does not serve /v1/responses." in error.message


def test_for_auto_the_pairs_are_named() -> None:
    text = rule("any") + restricted("a", "1", "chat")
    error = refused(text, responses(model="auto"), "any").error
    assert error.code == "unsupported_endpoint"
    assert "a for m does not serve /v1/responses" in error.message


def test_a_cap_is_the_reason_where_somebody_serves_the_path() -> None:
    text = rule("low", max_sats_per_1k_output=1) + restricted("a", "1", "chat")
    error = refused(text + restricted("b", "2", "responses"), responses(), "low").error
    assert error.code == "no_provider_within_policy"
    assert "a does not serve /v1/responses; b asks 2 sats" in error.message


# Where the conversation is


def at_home(text: str, home: Home, **members: Any) -> RoutePlan:
    config = parse_config(text, {})
    found = plan(
        responses(max_output_tokens=100, **members),
        policy_header=None,
        catalog=build_catalog(config),
        policies=config.policies,
        hold="likely",
        home=home,
    )
    assert isinstance(found, RoutePlan), found
    return found


CACHED = "cached_input_rate = 1\n"


@pytest.mark.parametrize(
    ("price", "seen", "first"),
    [
        ("12", 900, "b"),  # 2.1 sats of 13.2 are left
        ("12", 90, "a"),
        ("12", 10**6, "b"),  # no more is cached than is asked
        ("10", 0, "b"),  # of equals where it is
        ("200", 900, "a"),
    ],
)
def test_home_is_first_while_its_cache_makes_it_no_dearer(
    price: str, seen: int, first: str
) -> None:
    text = provider("a", "10", "10") + provider("b", price, price) + CACHED
    found = at_home(text, Home("b", "m", seen))
    assert names(found)[0] == first


def test_the_estimate_says_what_is_cached_and_the_hold_does_not_count_on_it() -> None:
    text = provider("a", "10", "10") + CACHED
    (there,) = at_home(text, Home("a", "m", 400)).candidates
    (elsewhere,) = at_home(text, Home("b", "m", 400)).candidates
    assert (there.cached, elsewhere.cached) == (400, None)
    assert there.estimated_cost == Decimal("7.4")  # 600 at 10, 400 at 1, 100 at 10
    assert elsewhere.estimated_cost == Decimal("11")
    assert there.hold_cost == elsewhere.hold_cost


def test_a_home_of_another_model_is_none() -> None:
    text = provider("a", "10", "10") + provider("b", "10", "10") + CACHED
    assert names(at_home(text, Home("b", "n", 900))) == ["a", "b"]


def test_who_goes_by_time_is_not_kept_by_a_cache() -> None:
    text = '[policies]\ndefault_strategy = "lowest_latency"\n'
    text += provider("a", "10", "10") + provider("b", "10", "10") + CACHED
    config = parse_config(text, {})
    found = plan(
        responses(),
        policy_header=None,
        catalog=build_catalog(config),
        policies=config.policies,
        hold="likely",
        learnt=Learnt({}, {"a": Latency(0.1, True), "b": Latency(0.2, True)}, Lengths()),
        home=Home("b", "m", 900),
    )
    assert isinstance(found, RoutePlan)
    assert names(found) == ["a", "b"]
